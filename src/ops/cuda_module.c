#include "ops/cuda_module.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const fm_cuda_build build = FM_CUDA_BUILD;
static const char module_name[] = "finemesh_cuda.so";

/* Where the module may be, seen from the program's folder; the last is absolute. */
static const char *const places[] = { "", ".libs", "../lib/finemesh", FM_PKGLIBDIR };

bool fm_cuda_module_is_built(char *path)
{
    char program[FM_PATH_BYTES], found[FM_PATH_BYTES];
    const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0) {
        return false;
    }
    program[length] = '\0';
    *strrchr(program, '/') = '\0';
    for (size_t i = 0; i < sizeof places / sizeof places[0]; i++) {
        const int n = places[i][0] == '/' ? snprintf(found, sizeof found, "%s/%s", places[i], module_name)
                                          : snprintf(found, sizeof found, "%s/%s/%s", program, places[i], module_name);
        if (n < (int)sizeof found && access(found, R_OK) == 0) {
            if (path != NULL) {
                memcpy(path, found, sizeof found);
            }
            return true;
        }
    }
    return false;
}

bool fm_cuda_module_has_driver(void)
{
    return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL) != NULL;
}

int fm_cuda_module_open(const fm_cuda_module **out)
{
    char path[FM_PATH_BYTES];
    *out = NULL;
    if (!fm_cuda_module_is_built(path)) {
        return fm_fail(FM_ERR_DEVICE, "this finemesh was built without CUDA (no %s beside it): configure --with-cuda, or choose "
                       "device.type=cpu", module_name);
    }
    if (!fm_cuda_module_has_driver()) {
        return fm_fail(FM_ERR_DEVICE, "there is no NVIDIA driver on this machine (%s): choose device.type=cpu, or a machine with "
                       "a GPU", dlerror());
    }
    void *const module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module == NULL) {
        return fm_fail(FM_ERR_DEVICE, "the CUDA module cannot be opened: %s. The libraries of the CUDA version that it was built with "
                       "must be where the loader finds them", dlerror());
    }
    fm_cuda_entry_fn *entry;
    void *const symbol = dlsym(module, FM_CUDA_ENTRY);
    memcpy(&entry, &symbol, sizeof entry);
    *out = symbol == NULL ? NULL : entry(&build);
    if (*out == NULL) {
        return fm_fail(FM_ERR_DEVICE, "%s was built with another finemesh: install both from one build", path);
    }
    return FM_OK;
}
