#include "tensor/device.h"

#include <omp.h>
#include <string.h>

static void *cpu_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    (void)device;
    return fm_alloc(size_bytes, kind);
}

static void cpu_free(fm_device *device, void *pointer)
{
    (void)device;
    fm_free(pointer);
}

/* What is larger than a few parts is shared among the threads: one core does not reach the memory's bandwidth, and pages that are new are
 * made by whoever touches them first. */
enum { PART_BYTES = 1 << 20, ALONE_BYTES = 4 << 20 };

static size_t part_bytes(size_t at, size_t size_bytes)
{
    return size_bytes - at < PART_BYTES ? size_bytes - at : PART_BYTES;
}

static int cpu_copy(fm_device *device, void *to, const void *from, size_t size_bytes)
{
    (void)device;
    if (to == from || size_bytes == 0) {
        return FM_OK;
    }
#pragma omp parallel for schedule(static) if (size_bytes > ALONE_BYTES)
    for (size_t at = 0; at < size_bytes; at += PART_BYTES) {
        memcpy((char *)to + at, (const char *)from + at, part_bytes(at, size_bytes));
    }
    return FM_OK;
}

static int cpu_zero(fm_device *device, void *to, size_t size_bytes)
{
    (void)device;
#pragma omp parallel for schedule(static) if (size_bytes > ALONE_BYTES)
    for (size_t at = 0; at < size_bytes; at += PART_BYTES) {
        memset((char *)to + at, 0, part_bytes(at, size_bytes));
    }
    return FM_OK;
}

static int cpu_add_f32(fm_device *device, float *to, const float *from, int64_t n)
{
    (void)device;
#pragma omp parallel for simd schedule(static)
    for (int64_t i = 0; i < n; i++) {
        to[i] += from[i];
    }
    return FM_OK;
}

static int cpu_convert(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n)
{
    enum { BLOCK = 1 << 14 };
    (void)device;
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i += BLOCK) {
        fm_dtype_convert((char *)to + (size_t)i * fm_dtype_bytes(to_dtype), to_dtype,
                         (const char *)from + (size_t)i * fm_dtype_bytes(from_dtype), from_dtype, n - i < BLOCK ? n - i : BLOCK);
    }
    return FM_OK;
}

static int cpu_synchronize(fm_device *device)
{
    (void)device;
    return FM_OK;
}

static size_t cpu_free_bytes(fm_device *device)
{
    (void)device;
    return 0;
}

static void cpu_close(fm_device *device)
{
    (void)device;
}

static const fm_device_table cpu_table = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .free = cpu_free,
    .copy_in = cpu_copy,
    .copy_out = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .add_f32 = cpu_add_f32,
    .convert = cpu_convert,
    .synchronize = cpu_synchronize,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .free_bytes = cpu_free_bytes,
    .is_host = true,
    .logits_bytes = 48u << 20,
    .close = cpu_close,
};

int fm_device_open_cpu(fm_device **out, int threads)
{
    fm_device *device = fm_alloc(sizeof *device, FM_MEMORY_HOST);
    if (device == NULL) {
        return FM_ERR_MEMORY;
    }
    if (threads > 0) {
        omp_set_num_threads(threads);
    }
    device->table = &cpu_table;
    device->threads = omp_get_max_threads();
    *out = device;
    return FM_OK;
}

void fm_device_close(fm_device *device)
{
    if (device != NULL) {
        device->table->close(device);
        fm_free(device);
    }
}

void *fm_device_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    return device->table->alloc(device, size_bytes, kind);
}

void fm_device_free(fm_device *device, void *pointer)
{
    device->table->free(device, pointer);
}

int fm_device_zero(fm_device *device, void *to, size_t size_bytes)
{
    return device->table->zero(device, to, size_bytes);
}

int fm_device_copy(fm_device *device, void *to, const void *from, size_t size_bytes)
{
    return device->table->copy(device, to, from, size_bytes);
}

int fm_device_copy_in(fm_device *device, void *to, const void *host, size_t size_bytes)
{
    return device->table->copy_in(device, to, host, size_bytes);
}

int fm_device_synchronize(fm_device *device)
{
    return device->table->synchronize(device);
}

int fm_device_copy_out(fm_device *device, void *host, const void *from, size_t size_bytes)
{
    return device->table->copy_out(device, host, from, size_bytes);
}
