/* A CUDA module of another build of finemesh: it has nothing for this one. */
#include <stddef.h>

const void *fm_cuda_entry(int abi);

const void *fm_cuda_entry(int abi)
{
    (void)abi;
    return NULL;
}
