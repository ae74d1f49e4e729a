#include "mesh/nccl_library.h"

#include <dlfcn.h>

#include "mesh/comm_nccl.h"

/* 2.18 came with ncclCommSplit. */
enum { OLDEST_VERSION = 21800 };

static int open_library(fm_nccl_library *out)
{
    void *const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return fm_fail(FM_ERR_COMM, "NCCL is not there: %s. Install it (libnccl2), or set distributed.backend = mpi, which goes through "
                       "the host and is slower", dlerror());
    }
#define LOOK_UP(name) \
    *(void **)&out->name = dlsym(handle, "nccl" #name); \
    if (out->name == NULL) { \
        return fm_fail(FM_ERR_COMM, "libnccl.so.2 has no nccl" #name ": version 2.18 or later is needed"); \
    }
    FM_NCCL_FUNCTIONS(LOOK_UP)
#undef LOOK_UP
    return FM_OK;
}

int fm_nccl_library_open(fm_nccl_library *out)
{
    int version;
    FM_TRY(open_library(out));
    if (out->GetVersion(&version) != ncclSuccess || version < OLDEST_VERSION) {
        return fm_fail(FM_ERR_COMM, "libnccl.so.2 is version %d.%d: 2.18 or later is needed", version / 10000, version / 100 % 100);
    }
    return FM_OK;
}

int fm_nccl_version(int *built, int *found)
{
    fm_nccl_library library;
    *built = NCCL_VERSION_CODE;
    if (open_library(&library) < 0 || library.GetVersion(found) != ncclSuccess) {
        *found = 0;
    }
    return FM_OK;
}
