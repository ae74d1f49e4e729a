/* The launcher and this build are of one MPI: `test_launch N` sees N ranks that can talk. With a foreign launcher every rank
 * would believe that it is alone, and every other row here would test nothing. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 2 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    const int expected = atoi(argv[1]);
    int size = 0, rank = -1, sum = 0;
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD);
    const int failed = size != expected || sum != expected * (expected - 1) / 2;
    if (failed && rank == 0) {
        printf("world of %d ranks, sum of ranks %d; launched with %d\n", size, sum, expected);
    }
    MPI_Finalize();
    return failed;
}
