/* The NCCL backend over the doubles of CUDA and NCCL (tests/cuda/double), a device in the host's memory a rank.
 *
 *     test_nccl groups PP DP_REPLICATE DP_SHARD CP TP ORDER   every group of a mesh: collectives give what MPI's give; rings; a
 *                                                         pipeline. ORDER: of streams (cuda_double.h)
 *     test_nccl one-gpu                                   all ranks on one GPU are refused
 *     test_nccl peer-fails CALL@N=CODE WORDS              on rank 1 a call fails so: every rank says so, with WORDS on rank 1
 *     test_nccl late                                      a rank that does not come ends the others' wait */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm_trials.h"
#include "mesh/comm_nccl.h"
#include "tensor/device_cuda.h"

static int world_rank, world_size;

/* Kernels of the device's table that are not wanted here. */
int fm_cuda_add_f32(fm_device *device, float *to, const float *from, int64_t n)
{
    return fm_fail(FM_ERR_INTERNAL, "no kernels here");
}

int fm_cuda_convert(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n)
{
    return fm_fail(FM_ERR_INTERNAL, "no kernels here");
}

typedef struct {
    fm_comm *world;
    fm_device *device;
    fm_nccl *nccl;
    fm_groups *groups;
} setup;

static void open_device(setup *s, int ordinal)
{
    const MPI_Comm mpi = MPI_COMM_WORLD;
    const fm_cuda_options options = { .ordinal = ordinal, .threads = 1 };
    check(fm_comm_new_world(&s->world, &mpi), "the world");
    check(fm_cuda_open(&s->device, &options), "the device");
}

static void close_all(setup *s)
{
    fm_groups_destroy(s->groups);
    fm_nccl_close(s->nccl);
    fm_device_close(s->device);
    fm_comm_destroy(s->world);
}

/* ---- the cases ---- */

static int make_groups(setup *s, char **sizes)
{
    s->groups = trials_groups(sizes);
    return fm_groups_open_device(s->groups, fm_nccl_make, s->nccl);
}

static void run_groups(setup *s, char **sizes)
{
    int built, found;
    check(fm_nccl_version(&built, &found), "NCCL's version");
    expect(built == found, "NCCL's version");
    open_device(s, world_rank);
    check(fm_nccl_open(&s->nccl, s->world, s->device, 60.0), "NCCL");
    check(make_groups(s, sizes), "the groups over NCCL");
    trials_run(s->groups, s->device);
    close_all(s);
}

static void run_one_gpu(setup *s)
{
    open_device(s, 0);
    const int rc = fm_nccl_open(&s->nccl, s->world, s->device, 60.0);
    expect(rc == FM_ERR_JOB && strstr(fm_error_message(), "ranks 0 and 1 have the same GPU, 0000:01:00.0 of ") != NULL &&
           strstr(fm_error_message(), "distributed.backend = mpi") != NULL, fm_error_message());
    close_all(s);
}

/* All-reduces over fsdp until one fails, or 20 are done; the host waits for the device after each. */
static int reduce_on(const setup *s)
{
    float *const at = fm_device_alloc(s->device, sizeof(float), FM_MEMORY_WORKSPACE);
    for (int i = 0; i < 20; i++) {
        FM_TRY(fm_comm_all_reduce(fm_groups_device(s->groups, FM_GROUP_FSDP), at, 1, FM_F32, FM_SUM));
        FM_TRY(fm_device_synchronize(s->device));
    }
    return FM_OK;
}

/* Everybody must say what has happened; nobody may hang. The failure stays: no more is tried. */
static void run_failure(setup *s, const char *words, double timeout_s)
{
    char sizes[FM_DIMS][12] = { "1", "1", "", "1", "1" }, *all[FM_DIMS];
    snprintf(sizes[FM_DP_SHARD], sizeof sizes[0], "%d", world_size);
    for (int d = 0; d < FM_DIMS; d++) {
        all[d] = sizes[d];
    }
    open_device(s, world_rank);
    int rc = fm_nccl_open(&s->nccl, s->world, s->device, timeout_s);
    rc = rc < 0 ? rc : make_groups(s, all);
    const bool began = rc == FM_OK, is_late = strcmp(words, "late") == 0;
    if (began && is_late && world_rank == 1) {
        sleep(4);
    }
    rc = rc < 0 ? rc : reduce_on(s);
    printf("rank %d: %s\n", world_rank, rc < 0 ? fm_error_message() : "nothing has failed");
    expect(rc == FM_ERR_COMM || rc == FM_ERR_DEVICE, "a failure of communication");
    expect((began && world_rank != 1) || is_late || strstr(fm_error_message(), words) != NULL, words);
    expect(s->groups == NULL || strstr(fm_error_message(), "in the group fsdp, rank ") != NULL, "the group and the rank are named");
    expect(!began || reduce_on(s) == rc, "the failure is said again");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static setup s;
    char count[12];
    if (argc < 2 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    snprintf(count, sizeof count, "%d", world_size);
    setenv("FM_DOUBLE_DEVICES", count, 1);
    if (strcmp(argv[1], "groups") == 0 && argc == 3 + FM_DIMS) {
        setenv("FM_DOUBLE_STREAMS", argv[2 + FM_DIMS], 1);
        setenv("FM_DOUBLE_PROTECT", "1", 1);
        run_groups(&s, argv + 2);
    } else if (strcmp(argv[1], "one-gpu") == 0) {
        run_one_gpu(&s);
    } else if (strcmp(argv[1], "peer-fails") == 0 && argc == 4) {
        setenv("FM_DOUBLE_FAIL", argv[2], 1);
        setenv("FM_DOUBLE_RANK", "1", 1);
        run_failure(&s, argv[3], 3.0);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);                      /* operations hang: MPI_Finalize would wait for them */
    } else if (strcmp(argv[1], "late") == 0) {
        run_failure(&s, "late", 1.0);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);
    } else {
        return 99;
    }
    MPI_Finalize();
    return 0;
}
