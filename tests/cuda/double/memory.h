/* Memory of the double's device: one range of addresses, so that it is known what lies in it and it can be closed to the host. */
#ifndef TESTS_CUDA_DOUBLE_MEMORY_H
#define TESTS_CUDA_DOUBLE_MEMORY_H

#include "cuda_double.h"

/* Fresh memory holds 0xff bytes (NaN in every floating type); a few bytes behind it tell at free whether they were written. */
cudaError_t memory_alloc(void **out, size_t size);
cudaError_t memory_free(void *pointer);
void memory_info(size_t *free_bytes, size_t *total_bytes);

/* Pinned memory of the host. */
cudaError_t memory_pin(void **out, size_t size);
cudaError_t memory_unpin(void *pointer);
bool memory_is_pinned(const void *pointer);

/* With FM_DOUBLE_PROTECT only what runs in between may touch device memory, which stays open while any of it is on loan (n = 1: one loan
 * more, -1: one less): what is on its way is read and written by other processes, and by every call of MPI. */
void memory_open(void);
void memory_close(void);
void memory_lend(int n);

#endif
