/* Collectives on a device's memory through the host's, with a device whose pointers the host cannot follow.
 *
 *     test_staged PP DP_REPLICATE DP_SHARD CP TP */
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

#include "comm_trials.h"
#include "mesh/comm_staged.h"

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

int main(int argc, char **argv)
{
    fm_device device = { .table = &table, .threads = 1 };
    if (argc != 1 + FM_DIMS || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    const size_t before_bytes = fm_memory_used_bytes(FM_MEMORY_KINDS);
    fm_groups *const groups = trials_groups(argv + 1);
    check(fm_groups_open_device(groups, make_staged, &device), "the groups of the device");
    trials_run(groups, &device);
    fm_groups_destroy(groups);
    expect(fm_memory_used_bytes(FM_MEMORY_KINDS) == before_bytes, "all memory is given back");
    MPI_Finalize();
    return 0;
}
