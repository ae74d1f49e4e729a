/* The CUDA device; for the module. All functions are local. */
#ifndef FM_TENSOR_DEVICE_CUDA_H
#define FM_TENSOR_DEVICE_CUDA_H

#include "tensor/device.h"

/* How a device is opened. */
typedef struct {
    int ordinal;                       /* which of the devices that this process sees */
    bool deterministic;                /* job.deterministic */
    bool own_attention;                /* no library's attention: for tests and benchmarks that compare */
    int threads;                       /* OpenMP threads of the rank's own work on the host */
    void (*tell)(const char *line);    /* what a person may want to know of how the device computes; NULL: nobody asks */
} fm_cuda_options;

/* Devices that this process sees; FM_ERR_UNSUPPORTED where there is no driver, FM_ERR_DEVICE where it is too old or fails. */
int fm_cuda_count(int *out);

/* Opens a device of compute capability 8.0 or above. Close with fm_device_close; what it gave out must have been freed. */
int fm_cuda_open(fm_device **out, const fm_cuda_options *options);

/* Entries of the table whose work is a kernel: elementwise_cuda.cu. */
int fm_cuda_add_f32(fm_device *device, float *to, const float *from, int64_t n);
int fm_cuda_convert(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n);

#endif
