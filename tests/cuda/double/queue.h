/* The streams of the double: queues of operations that somebody else's wait makes run. See cuda_double.h. */
#ifndef TESTS_CUDA_DOUBLE_QUEUE_H
#define TESTS_CUDA_DOUBLE_QUEUE_H

#include "cuda_double.h"

/* The stream behind a handle; NULL is a stream like any other. */
cudaStream_t queue_of(cudaStream_t stream);

cudaStream_t queue_new_stream(void);
void queue_destroy_stream(cudaStream_t stream);
cudaEvent_t queue_new_event(bool timed);
void queue_destroy_event(cudaEvent_t event);

void queue_record(cudaStream_t stream, cudaEvent_t event);
void queue_wait(cudaStream_t stream, cudaEvent_t event);

/* Until all of a stream has run, or an event has come to pass. */
void queue_finish_stream(cudaStream_t stream);
void queue_finish_event(cudaEvent_t event);
void queue_finish_all(void);

/* Runs what can be run and tells whether that was all. */
bool queue_query_stream(cudaStream_t stream);
bool queue_query_event(cudaEvent_t event);

/* Runs something of every queue that can be run. */
void queue_progress(void);

/* False where one of the two has not come to pass, or is not timed. */
bool queue_elapsed_ms(float *out, cudaEvent_t from, cudaEvent_t to);

/* cudaSuccess, or what a queued operation has failed with: it stays. */
cudaError_t queue_error(void);

#endif
