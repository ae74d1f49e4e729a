/* Devices: where tensors live. A device is one const table (device.c has the CPU's; a GPU's is a module of its own); nothing above this
 * header dereferences tensor memory but the ops of that device. */
#ifndef FM_TENSOR_DEVICE_H
#define FM_TENSOR_DEVICE_H

#include <stdbool.h>

#include "base/memory.h"
#include "tensor/dtype.h"

typedef struct fm_device fm_device;

/* What a device provides. Copies and fills are ordered after the work that was queued before them. copy_in may be given host
 * memory that changes after it returns; copy_out has finished when it returns, and so has all that was queued before. */
typedef struct {
    const char *name;
    void *(*alloc)(fm_device *device, size_t size_bytes, enum fm_memory kind);   /* zeroed; NULL with a message */
    void (*free)(fm_device *device, void *pointer);
    int (*copy_in)(fm_device *device, void *to, const void *host, size_t size_bytes);
    int (*copy_out)(fm_device *device, void *host, const void *from, size_t size_bytes);
    int (*copy)(fm_device *device, void *to, const void *from, size_t size_bytes);
    int (*zero)(fm_device *device, void *to, size_t size_bytes);
    int (*add_f32)(fm_device *device, float *to, const float *from, int64_t n);   /* to += from: sums that arrive */
    int (*convert)(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n);
    int (*synchronize)(fm_device *device);       /* waits for all that was queued; what failed there is said here */
    void *(*host_alloc)(fm_device *device, size_t size_bytes, enum fm_memory kind);   /* host memory that copies fast; as fm_alloc */
    void (*host_free)(fm_device *device, void *pointer);
    size_t (*free_bytes)(fm_device *device);     /* that it could still give; 0: nobody knows */
    bool is_host;                      /* its memory is the host's */
    size_t logits_bytes;               /* how much memory logits may take at a time for a good speed */
    /* For who measures, where work is only queued (else NULL): `mark` queues moment number `index`, from 0 up, numbers may be used again;
     * `between` gives the time between two moments that have passed. */
    int (*mark)(fm_device *device, int index);
    int (*between)(double *seconds, fm_device *device, int from, int to);
    void (*close)(fm_device *device);
} fm_device_table;

struct fm_device {
    const fm_device_table *table;
    int threads;                       /* OpenMP threads of this rank */
    void *state;                       /* the table's own */
};

/* Opens the CPU with a number of OpenMP threads (0: as many as OpenMP gives). Local. */
int fm_device_open_cpu(fm_device **out, int threads);
void fm_device_close(fm_device *device);

/* Short forms. Local. */
void *fm_device_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind);
void fm_device_free(fm_device *device, void *pointer);
int fm_device_zero(fm_device *device, void *to, size_t size_bytes);
int fm_device_copy(fm_device *device, void *to, const void *from, size_t size_bytes);
int fm_device_copy_in(fm_device *device, void *to, const void *host, size_t size_bytes);
int fm_device_synchronize(fm_device *device);
int fm_device_copy_out(fm_device *device, void *host, const void *from, size_t size_bytes);

#endif
