/* The NCCL backend over the doubles of CUDA and NCCL (tests/cuda/double), a device in the host's memory a rank.
 *
 *     test_nccl groups PP DP_REPLICATE DP_SHARD CP TP ORDER   every group of a mesh: collectives give what MPI's give; rings; a
 *                                                         pipeline. ORDER: of streams (cuda_double.h)
 *     test_nccl one-gpu                                   all ranks on one GPU are refused
 *     test_nccl peer-fails CALL@N=CODE WORDS [silent]     on rank 1 a call fails so: every rank says so, with WORDS on rank 1; silent: NCCL
 *                                                         does not tell the others
 *     test_nccl late                                      a rank that is later than the watchdog's limit is named, and the run ended
 *     test_nccl slow                                      one that is not is waited for */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "comm_trials.h"
#include "mesh/comm_nccl.h"
#include "mesh/own_gpu.h"
#include "mesh/watch.h"
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
    fm_watch *watch;
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
    fm_watch_destroy(s->watch);
    fm_comm_destroy(s->world);
}

/* The watchdog's end of a run: rank 1 did not come. */
static void end_of_watch(void *context)
{
    (void)context;
    printf("rank %d: %s\n", world_rank, fm_error_message());
    expect(strstr(fm_error_message(), "rank 1 on ") != NULL &&
           strstr(fm_error_message(), " does not come to all-reduce 1 of the group fsdp: rank 0 on ") != NULL, "the watchdog's words");
    fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    _exit(0);
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
    int sharing;
    check(fm_own_gpu_ranks(&sharing, s->world, world_rank), "the ranks of a GPU");
    expect(sharing == 1, "a GPU of its own");
    check(fm_nccl_open(&s->nccl, s->world, s->device), "NCCL");
    check(make_groups(s, sizes), "the groups over NCCL");
    trials_run(s->groups, s->device);
    close_all(s);
}

static void run_one_gpu(setup *s)
{
    open_device(s, 0);
    int sharing;
    check(fm_own_gpu_ranks(&sharing, s->world, 0), "the ranks of a GPU");
    expect(sharing == world_size, "all ranks on one GPU");
    const int rc = fm_nccl_open(&s->nccl, s->world, s->device);
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
    fm_device_free(s->device, at);
    return FM_OK;
}

/* A mesh of data parallelism over all ranks, under a watchdog. */
static int connect_watched(setup *s, double limit_s)
{
    char sizes[FM_DIMS][12] = { "1", "1", "", "1", "1" }, *all[FM_DIMS];
    const MPI_Comm mpi = MPI_COMM_WORLD;
    snprintf(sizes[FM_DP_SHARD], sizeof sizes[0], "%d", world_size);
    for (int d = 0; d < FM_DIMS; d++) {
        all[d] = sizes[d];
    }
    open_device(s, world_rank);
    check(fm_watch_new(&s->watch, limit_s, &mpi, end_of_watch, NULL), "the watchdog");
    fm_comm_set_watch(s->world, s->watch);
    FM_TRY(fm_nccl_open(&s->nccl, s->world, s->device));
    return make_groups(s, all);
}

/* Everybody must say what has happened; nobody may hang. The failure stays: no more is tried. */
static void run_failure(setup *s, const char *words)
{
    int rc = connect_watched(s, 60.0);
    const bool began = rc == FM_OK;
    rc = began ? reduce_on(s) : rc;
    printf("rank %d: %s\n", world_rank, rc < 0 ? fm_error_message() : "nothing has failed");
    expect(rc == (world_rank == 1 || !began ? FM_ERR_DEVICE : FM_ERR_COMM) || strcmp(words, "remote") == 0, "whose failure it was");
    expect(rc < 0, "a failure of communication");
    expect((began && world_rank != 1) || strstr(fm_error_message(), words) != NULL, words);
    expect(s->groups == NULL || strstr(fm_error_message(), "in the group fsdp, rank ") != NULL, "the group and the rank are named");
    expect(!began || reduce_on(s) == rc, "the failure is said again");
    fflush(stdout);
}

/* Rank 1 comes 5 s late. */
static void run_late(setup *s, double limit_s)
{
    check(connect_watched(s, limit_s), "the groups over NCCL");
    if (world_rank == 1) {
        sleep(5);
    }
    if (limit_s < 5.0 && world_rank == 1) {
        return;
    }
    check(reduce_on(s), "reductions");
    expect(limit_s > 5.0, "the watchdog ends it");
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
    } else if (strcmp(argv[1], "peer-fails") == 0 && (argc == 4 || argc == 5)) {
        setenv("FM_DOUBLE_FAIL", argv[2], 1);
        setenv("FM_DOUBLE_RANK", "1", 1);
        setenv("FM_DOUBLE_SILENT", argc == 5 ? "1" : "0", 1);
        run_failure(&s, argv[3]);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);                      /* operations hang: MPI_Finalize would wait for them */
    } else if (strcmp(argv[1], "late") == 0) {
        run_late(&s, 2.0);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);
    } else if (strcmp(argv[1], "slow") == 0) {
        run_late(&s, 60.0);
        close_all(&s);
    } else {
        return 99;
    }
    MPI_Finalize();
    return 0;
}
