#include "mesh/nccl_library.h"

#include <dlfcn.h>

#include "mesh/comm_nccl.h"

/* 2.18 came with ncclCommSplit. */
enum { OLDEST_VERSION = 21800 };

static int open_library(fm_nccl_library *out)
{
    void *const handle = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return fm_fail(FM_ERR_COMM, "libnccl.so.2 was not found: %s", dlerror());
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

static int check_version(int *version, const fm_nccl_library *library)
{
    const ncclResult_t result = library->GetVersion(version);
    if (result != ncclSuccess) {
        return fm_fail(FM_ERR_COMM, "libnccl.so.2 does not tell its version: %s", library->GetErrorString(result));
    }
    return *version >= OLDEST_VERSION ? FM_OK : fm_fail(FM_ERR_COMM, "libnccl.so.2 is version %d.%d: 2.18 or later is needed",
                                                        *version / 10000, *version / 100 % 100);
}

int fm_nccl_library_open(fm_nccl_library *out)
{
    int version;
    FM_TRY(open_library(out));
    return check_version(&version, out);
}

int fm_nccl_version(int *built, int *found)
{
    fm_nccl_library library;
    int version;
    *built = NCCL_VERSION_CODE;
    *found = 0;
    FM_TRY(open_library(&library));
    FM_TRY(check_version(&version, &library));
    *found = version;
    return FM_OK;
}
