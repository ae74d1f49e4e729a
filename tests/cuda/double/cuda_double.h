/* What stands behind the double of the CUDA runtime: for the other doubles, the kernels' shim and the tests.
 *
 * A stream is a queue. Nothing in it runs before somebody waits for it (cudaStreamSynchronize, a query, an event): so a forgotten
 * wait gives wrong numbers, as it may on a GPU. FM_DOUBLE_STREAMS says in which order streams that do not wait for each other run:
 *     late    only what the one that is waited for needs, the others when nothing else can go on      [default]
 *     early   the others as far as they come, before each operation of the one that is waited for
 *     SEED    a number: in random order
 * Other settings, from the environment of the program:
 *     FM_DOUBLE_DEVICES   how many devices there are [1]; 0: no device
 *     FM_DOUBLE_DRIVER    the driver's version [13000]; 0: there is none
 *     FM_DOUBLE_MEMORY_MIB   of each device [4096]
 *     FM_DOUBLE_FAIL      CALL@N=CODE: the N-th call of a function fails so; `run@N=700`: the N-th queued operation does
 *     FM_DOUBLE_RANK      the only rank that fails so
 *     FM_DOUBLE_CUDNN     the version of cuDNN that is found, 92600 for 9.26.0 [0: none]; more settings in cudnn.c
    FM_DOUBLE_PROTECT   1: device memory faults when the host touches it outside the queues */
#ifndef TESTS_CUDA_DOUBLE_CUDA_DOUBLE_H
#define TESTS_CUDA_DOUBLE_CUDA_DOUBLE_H

#include <stdbool.h>

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void cuda_double_run(void *arguments);
typedef bool cuda_double_poll(void *arguments);

/* Queues a function: it runs once, in its turn, and frees its arguments. */
cudaError_t cuda_double_enqueue(cudaStream_t stream, cuda_double_run *run, void *arguments);

/* Queues a function that is called, in its turn, until it says that it is done. While it is not, device memory stays open. */
cudaError_t cuda_double_enqueue_poll(cudaStream_t stream, cuda_double_poll *poll, void *arguments);

/* All of it lies in one allocation of device memory. */
bool cuda_double_is_device(const void *pointer, size_t size);

#ifdef __cplusplus
}
#endif
#endif
