/* Collectives on a device's memory through the host's, with a device whose pointers the host cannot follow.
 *
 *     test_staged PP DP_REPLICATE DP_SHARD CP TP
 *     test_staged PP DP_REPLICATE DP_SHARD CP TP late     rank 1 is late for the second all-reduce of fsdp: the watchdog says which it was */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm_trials.h"
#include "mesh/comm_staged.h"
#include "mesh/watch.h"

/* The device's addresses are the host's, shifted to where no memory can be. */
static const size_t shift_bytes = (size_t)1 << 47;

static char *to_host(const void *pointer)
{
    return pointer == NULL ? NULL : (char *)(uintptr_t)((uintptr_t)pointer - shift_bytes);
}

static void *shifted_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    char *const pointer = fm_alloc(size_bytes, kind);
    return pointer == NULL ? NULL : (void *)((uintptr_t)pointer + shift_bytes);
}

static void shifted_free(fm_device *device, void *pointer)
{
    fm_free(to_host(pointer));
}

static int shifted_copy_in(fm_device *device, void *to, const void *host, size_t size_bytes)
{
    memcpy(to_host(to), host, size_bytes);
    return FM_OK;
}

static int shifted_copy_out(fm_device *device, void *host, const void *from, size_t size_bytes)
{
    memcpy(host, to_host(from), size_bytes);
    return FM_OK;
}

static int shifted_copy(fm_device *device, void *to, const void *from, size_t size_bytes)
{
    memmove(to_host(to), to_host(from), size_bytes);
    return FM_OK;
}

static void *host_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    return fm_alloc(size_bytes, kind);
}

static void host_free(fm_device *device, void *pointer)
{
    fm_free(pointer);
}

static const fm_device_table table = {
    .name = "shifted",
    .alloc = shifted_alloc,
    .free = shifted_free,
    .copy_in = shifted_copy_in,
    .copy_out = shifted_copy_out,
    .copy = shifted_copy,
    .host_alloc = host_alloc,
    .host_free = host_free,
};

static int make_staged(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key)
{
    return fm_comm_new_staged(out, host, context);
}

static void end_of_watch(void *context)
{
    (void)context;
    printf("%s\n", fm_error_message());
    expect(strstr(fm_error_message(), " does not come to all-reduce 2 of the group fsdp: ") != NULL, "the watchdog's words");
    fflush(stdout);
    MPI_Barrier(MPI_COMM_WORLD);
    _exit(0);
}

static void run_late(fm_groups *groups, fm_device *device)
{
    enum { LIMIT_S = 1, LATE_S = 5 };
    const MPI_Comm mpi = MPI_COMM_WORLD;
    fm_watch *watch;
    int rank;
    MPI_Comm_rank(mpi, &rank);
    check(fm_watch_new(&watch, LIMIT_S, &mpi, end_of_watch, NULL), "the watchdog");
    fm_groups_set_watch(groups, watch);
    fm_comm *const comm = fm_groups_device(groups, FM_GROUP_FSDP);
    float *const at = fm_device_alloc(device, sizeof *at, FM_MEMORY_WORKSPACE);
    check(fm_comm_all_reduce(comm, at, 1, FM_F32, FM_SUM), "an all-reduce in time");
    if (rank == 1) {
        sleep(LATE_S);
        MPI_Barrier(mpi);              /* end_of_watch's */
        _exit(0);
    }
    check(fm_comm_all_reduce(comm, at, 1, FM_F32, FM_SUM), "an all-reduce to which rank 1 does not come");
    expect(false, "the watchdog ends it");
}

int main(int argc, char **argv)
{
    fm_device device = { .table = &table, .threads = 1 };
    const bool is_late = argc == 2 + FM_DIMS && strcmp(argv[1 + FM_DIMS], "late") == 0;
    if (argc != 1 + FM_DIMS + is_late || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    const size_t before_bytes = fm_memory_used_bytes(FM_MEMORY_KINDS);
    fm_groups *const groups = trials_groups(argv + 1);
    check(fm_groups_open_device(groups, make_staged, &device), "the groups of the device");
    if (is_late) {
        run_late(groups, &device);
    }
    trials_run(groups, &device);
    fm_groups_destroy(groups);
    expect(fm_memory_used_bytes(FM_MEMORY_KINDS) == before_bytes, "all memory is given back");
    MPI_Finalize();
    return 0;
}
