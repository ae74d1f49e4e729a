/* The CUDA device: memory from a pool that keeps what is freed, one stream, copies through pinned staging. */
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "tensor/cuda.h"
#include "tensor/device_cuda.h"

/* Staging: two halves, each used again when the copies that began in it are done. */
enum { HALVES = 2, HALF_BYTES = 8 << 20, ROUND_BYTES = 512 };

/* While it waits, the host asks the device often, and others (fm_cuda.health) every so often. */
static const double health_every_s = 0.05;

/* A block of device memory: handed out, or kept for the next one that asks. */
typedef struct {
    void *pointer;
    size_t size_bytes;                 /* of the block */
    size_t asked_bytes;                /* what is counted while it is handed out */
    enum fm_memory kind;
    bool in_use;
} pool_block;

struct fm_cuda_pool {
    pool_block *blocks;
    int n, capacity;
};

typedef struct {
    char *half[HALVES];
    cudaEvent_t done[HALVES];
    int at;                            /* the half that is being filled */
    size_t used_bytes;
} staging;

int fm_cuda_check(cudaError_t error, const char *what)
{
    return error == cudaSuccess ? FM_OK : fm_fail(FM_ERR_DEVICE, "%s failed on the GPU: %s", what, cudaGetErrorString(error));
}

/* ---- the pool ---- */

/* The smallest free block that is not more than a quarter too large. */
static pool_block *find_free(fm_cuda_pool *pool, size_t size_bytes)
{
    pool_block *best = NULL;
    for (int i = 0; i < pool->n; i++) {
        pool_block *const b = &pool->blocks[i];
        if (!b->in_use && b->size_bytes >= size_bytes && b->size_bytes <= size_bytes + size_bytes / 4
            && (best == NULL || b->size_bytes < best->size_bytes)) {
            best = b;
        }
    }
    return best;
}

/* Gives the blocks that nobody uses back to the driver. */
static void trim(fm_cuda_pool *pool)
{
    int kept = 0;
    for (int i = 0; i < pool->n; i++) {
        if (pool->blocks[i].in_use) {
            pool->blocks[kept++] = pool->blocks[i];
        } else {
            cudaFree(pool->blocks[i].pointer);
        }
    }
    pool->n = kept;
}

static pool_block *add_block(fm_cuda_pool *pool, size_t size_bytes)
{
    if (pool->n == pool->capacity) {
        const int capacity = pool->capacity == 0 ? 256 : 2 * pool->capacity;
        pool_block *const grown = fm_grow(pool->blocks, (size_t)capacity * sizeof *grown, FM_MEMORY_HOST);
        if (grown == NULL) {
            return NULL;
        }
        pool->blocks = grown;
        pool->capacity = capacity;
    }
    void *pointer = NULL;
    if (cudaMalloc(&pointer, size_bytes) != cudaSuccess) {
        cudaGetLastError();            /* the error would be found by the next kernel's check */
        trim(pool);
        if (cudaMalloc(&pointer, size_bytes) != cudaSuccess) {
            cudaGetLastError();
            return NULL;
        }
    }
    pool->blocks[pool->n] = (pool_block){ .pointer = pointer, .size_bytes = size_bytes };
    return &pool->blocks[pool->n++];
}

/* What the pool holds of the device, handed out or kept. */
static size_t pool_bytes(const fm_cuda_pool *pool)
{
    size_t sum = 0;
    for (int i = 0; i < pool->n; i++) {
        sum += pool->blocks[i].size_bytes;
    }
    return sum;
}

static void *no_memory(const fm_cuda *cuda, size_t size_bytes, enum fm_memory kind)
{
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    fm_fail(FM_ERR_MEMORY, "out of memory on GPU %d (%s): %.1f MiB asked for %s; %.1f of %.1f MiB are free, %.1f MiB are this rank's. "
            "Take a smaller batch.local_batch_size or data.seq_length, distributed.activation_checkpointing=full, "
            "optimizer.master_dtype=same or state_dtype=same, or more GPUs", cuda->ordinal, cuda->name, (double)size_bytes / (1 << 20),
            fm_memory_name(kind), (double)free_bytes / (1 << 20), (double)total_bytes / (1 << 20),
            (double)pool_bytes(cuda->pool) / (1 << 20));
    return NULL;
}

static void *cuda_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    fm_cuda *const cuda = fm_cuda_of(device);
    const size_t rounded = size_bytes == 0 ? ROUND_BYTES : (size_bytes + ROUND_BYTES - 1) / ROUND_BYTES * ROUND_BYTES;
    if (rounded < size_bytes) {
        return no_memory(cuda, size_bytes, kind);
    }
    pool_block *b = find_free(cuda->pool, rounded);
    if (b == NULL) {
        b = add_block(cuda->pool, rounded);
    }
    if (b == NULL) {
        return no_memory(cuda, size_bytes, kind);
    }
    if (fm_cuda_check(cudaMemsetAsync(b->pointer, 0, size_bytes, cuda->stream), "clearing new memory") < 0) {
        return NULL;
    }
    b->in_use = true;
    b->asked_bytes = size_bytes;
    b->kind = kind;
    fm_memory_note(kind, (int64_t)size_bytes);
    return b->pointer;
}

/* The block stays with the pool. Whoever gets it next queues its work behind what is queued now. */
static void cuda_free(fm_device *device, void *pointer)
{
    fm_cuda_pool *const pool = fm_cuda_of(device)->pool;
    for (int i = 0; pointer != NULL && i < pool->n; i++) {
        pool_block *const b = &pool->blocks[i];
        if (b->in_use && b->pointer == pointer) {
            b->in_use = false;
            fm_memory_note(b->kind, -(int64_t)b->asked_bytes);
            return;
        }
    }
    FM_ASSERT(pointer == NULL);
}

/* ---- waiting ---- */

int fm_cuda_wait_event(const fm_cuda *cuda, cudaEvent_t event, const char *what)
{
    double asked_s = fm_clock_s();
    cudaError_t state;
    while ((state = cudaEventQuery(event)) == cudaErrorNotReady) {
        if (cuda->health != NULL && fm_clock_s() - asked_s > health_every_s) {
            FM_TRY(cuda->health(cuda->health_context));
            asked_s = fm_clock_s();
        }
        sched_yield();
    }
    return fm_cuda_check(state, what);
}

static int cuda_synchronize(fm_device *device)
{
    fm_cuda *const cuda = fm_cuda_of(device);
    staging *const s = cuda->staging;
    FM_TRY(fm_cuda_check(cudaEventRecord(s->done[s->at], cuda->stream), "an event"));
    FM_TRY(fm_cuda_wait_event(cuda, s->done[s->at], "the work that was queued"));
    s->used_bytes = 0;
    return FM_OK;
}

/* ---- copies ---- */

/* Room for up to size_bytes in the staging: as much as the half has left, or the other half once its copies are done. */
static int take_room(const fm_cuda *cuda, char **room, size_t *got_bytes, size_t size_bytes)
{
    staging *const s = cuda->staging;
    if (s->used_bytes == HALF_BYTES) {
        FM_TRY(fm_cuda_check(cudaEventRecord(s->done[s->at], cuda->stream), "an event"));
        s->at = 1 - s->at;
        FM_TRY(fm_cuda_wait_event(cuda, s->done[s->at], "a copy to the GPU"));
        s->used_bytes = 0;
    }
    const size_t left_bytes = HALF_BYTES - s->used_bytes;
    *room = s->half[s->at] + s->used_bytes;
    *got_bytes = size_bytes < left_bytes ? size_bytes : left_bytes;
    const size_t rounded = (*got_bytes + 63) / 64 * 64;
    s->used_bytes += rounded;
    return FM_OK;
}

static int cuda_copy_in(fm_device *device, void *to, const void *host, size_t size_bytes)
{
    fm_cuda *const cuda = fm_cuda_of(device);
    for (size_t at = 0; at < size_bytes;) {
        char *room;
        size_t part;
        FM_TRY(take_room(cuda, &room, &part, size_bytes - at));
        memcpy(room, (const char *)host + at, part);
        FM_TRY(fm_cuda_check(cudaMemcpyAsync((char *)to + at, room, part, cudaMemcpyHostToDevice, cuda->stream), "a copy to the GPU"));
        at += part;
    }
    return FM_OK;
}

/* Of part p of a copy that goes through the staging half by half. */
static size_t part_bytes(size_t size_bytes, size_t p)
{
    const size_t left_bytes = size_bytes - p * HALF_BYTES;
    return left_bytes < HALF_BYTES ? left_bytes : HALF_BYTES;
}

/* Part p of a copy from the device on its way into half p % 2. */
static int begin_part(const fm_cuda *cuda, const char *from, size_t size_bytes, size_t p)
{
    staging *const s = cuda->staging;
    FM_TRY(fm_cuda_check(cudaMemcpyAsync(s->half[p % HALVES], from + p * HALF_BYTES, part_bytes(size_bytes, p), cudaMemcpyDeviceToHost,
                                         cuda->stream), "a copy from the GPU"));
    return fm_cuda_check(cudaEventRecord(s->done[p % HALVES], cuda->stream), "an event");
}

static int cuda_copy_out(fm_device *device, void *host, const void *from, size_t size_bytes)
{
    fm_cuda *const cuda = fm_cuda_of(device);
    staging *const s = cuda->staging;
    const size_t parts = (size_bytes + HALF_BYTES - 1) / HALF_BYTES;
    if (parts > 0) {
        FM_TRY(begin_part(cuda, from, size_bytes, 0));
    }
    for (size_t p = 0; p < parts; p++) {
        if (p + 1 < parts) {
            FM_TRY(begin_part(cuda, from, size_bytes, p + 1));
        }
        FM_TRY(fm_cuda_wait_event(cuda, s->done[p % HALVES], "a copy from the GPU, or what was queued before it,"));
        memcpy((char *)host + p * HALF_BYTES, s->half[p % HALVES], part_bytes(size_bytes, p));
    }
    if (parts > 0) {
        s->used_bytes = 0;             /* all that was queued is done, copies to the GPU too */
    }
    return FM_OK;
}

static int cuda_copy(fm_device *device, void *to, const void *from, size_t size_bytes)
{
    if (to == from || size_bytes == 0) {
        return FM_OK;
    }
    return fm_cuda_check(cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToDevice, fm_cuda_of(device)->stream), "a copy");
}

static int cuda_zero(fm_device *device, void *to, size_t size_bytes)
{
    return size_bytes == 0 ? FM_OK : fm_cuda_check(cudaMemsetAsync(to, 0, size_bytes, fm_cuda_of(device)->stream), "clearing memory");
}

/* Stands in front of pinned memory, so that what is freed can be counted; as large as fm_alloc's alignment. */
typedef struct {
    size_t size_bytes;
    enum fm_memory kind;
    char padding[52];
} host_front;

_Static_assert(sizeof(host_front) == 64, "the front must keep the alignment of the block");

static void *cuda_host_alloc(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    char *block = NULL;
    (void)device;
    if (cudaMallocHost((void **)&block, size_bytes + sizeof(host_front)) != cudaSuccess) {
        cudaGetLastError();
        fm_fail(FM_ERR_MEMORY, "%.1f MiB of pinned host memory were asked for %s and could not be had (ulimit -l?)",
                (double)size_bytes / (1 << 20), fm_memory_name(kind));
        return NULL;
    }
    memset(block, 0, size_bytes + sizeof(host_front));
    *(host_front *)(void *)block = (host_front){ .size_bytes = size_bytes, .kind = kind };
    fm_memory_note(kind, (int64_t)size_bytes);
    return block + sizeof(host_front);
}

static void cuda_host_free(fm_device *device, void *pointer)
{
    (void)device;
    if (pointer != NULL) {
        host_front *const front = (host_front *)pointer - 1;
        fm_memory_note(front->kind, -(int64_t)front->size_bytes);
        cudaFreeHost(front);
    }
}

static size_t cuda_free_bytes(fm_device *device)
{
    size_t free_bytes = 0, total_bytes = 0;
    (void)device;
    return cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess ? free_bytes : 0;
}

/* ---- opening and closing ---- */

static void cuda_close(fm_device *device)
{
    fm_cuda *const cuda = fm_cuda_of(device);
    if (cuda == NULL) {
        return;
    }
    staging *const s = cuda->staging;
    if (cuda->stream != NULL) {
        cudaStreamSynchronize(cuda->stream);
    }
    for (int i = 0; s != NULL && i < HALVES; i++) {
        cudaFreeHost(s->half[i]);
        if (s->done[i] != NULL) {
            cudaEventDestroy(s->done[i]);
        }
    }
    for (int i = 0; i < cuda->n_marks; i++) {
        cudaEventDestroy(cuda->marks[i]);
    }
    fm_free(cuda->marks);
    if (cuda->pool != NULL) {
        trim(cuda->pool);
        FM_ASSERT(cuda->pool->n == 0);
        fm_free(cuda->pool->blocks);
    }
    if (cuda->stream != NULL) {
        cudaStreamDestroy(cuda->stream);
    }
    fm_free(s);
    fm_free(cuda->pool);
    fm_free(cuda);
    device->state = NULL;
}

/* ---- moments ---- */

static int make_marks(fm_cuda *cuda, int n)
{
    cudaEvent_t *const grown = fm_grow(cuda->marks, (size_t)n * sizeof *grown, FM_MEMORY_HOST);
    if (grown == NULL) {
        return FM_ERR_MEMORY;
    }
    cuda->marks = grown;
    for (; cuda->n_marks < n; cuda->n_marks++) {
        FM_TRY(fm_cuda_check(cudaEventCreateWithFlags(&cuda->marks[cuda->n_marks], cudaEventDefault), "making an event"));
    }
    return FM_OK;
}

static int cuda_mark(fm_device *device, int index)
{
    enum { AT_ONCE = 1024 };
    fm_cuda *const cuda = fm_cuda_of(device);
    if (index >= cuda->n_marks) {
        FM_TRY(make_marks(cuda, index + AT_ONCE));
    }
    return fm_cuda_check(cudaEventRecord(cuda->marks[index], cuda->stream), "an event");
}

static int cuda_between(double *seconds, fm_device *device, int from, int to)
{
    const fm_cuda *const cuda = fm_cuda_of(device);
    float ms = 0.0f;
    FM_TRY(fm_cuda_check(cudaEventElapsedTime(&ms, cuda->marks[from], cuda->marks[to]), "the time between two events"));
    *seconds = 1e-3 * (double)ms;
    return FM_OK;
}

static const fm_device_table cuda_table = {
    .name = "cuda",
    .alloc = cuda_alloc,
    .free = cuda_free,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .add_f32 = fm_cuda_add_f32,
    .convert = fm_cuda_convert,
    .synchronize = cuda_synchronize,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .free_bytes = cuda_free_bytes,
    .mark = cuda_mark,
    .between = cuda_between,
    .close = cuda_close,
    .logits_bytes = (size_t)1 << 30,
};

int fm_cuda_count(int *out)
{
    int n = 0;                         /* not written where there is no driver */
    const cudaError_t error = cudaGetDeviceCount(&n);
    *out = 0;
    if (error == cudaErrorInsufficientDriver) {
        int driver = 0;
        cudaDriverGetVersion(&driver);
        if (driver == 0) {
            return fm_fail(FM_ERR_UNSUPPORTED, "there is no NVIDIA driver at work on this machine, only its library: choose "
                           "device.type=cpu, or a machine with a GPU");
        }
        return fm_fail(FM_ERR_DEVICE, "the NVIDIA driver serves CUDA %d.%d at most and finemesh was built for CUDA %d.%d: "
                       "a newer driver, or a build with an older toolkit, is needed", driver / 1000, driver % 1000 / 10,
                       CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    }
    if (error != cudaSuccess && error != cudaErrorNoDevice) {
        return fm_cuda_check(error, "counting devices");
    }
    *out = n;
    return FM_OK;
}

static int read_properties(fm_cuda *cuda)
{
    struct cudaDeviceProp p;
    FM_TRY(fm_cuda_check(cudaGetDeviceProperties(&p, cuda->ordinal), "reading the device's properties"));
    cuda->multiprocessors = p.multiProcessorCount;
    cuda->capability = 10 * p.major + p.minor;
    cuda->shared_bytes = p.sharedMemPerBlockOptin;
    snprintf(cuda->name, sizeof cuda->name, "%s", p.name);
    if (cuda->capability < 80) {
        return fm_fail(FM_ERR_DEVICE, "GPU %d is a %s of capability %d.%d: 8.0 (A100) is the least", cuda->ordinal, cuda->name, p.major,
                       p.minor);
    }
    return FM_OK;
}

static int open_state(fm_cuda *cuda)
{
    FM_TRY(fm_cuda_check(cudaSetDevice(cuda->ordinal), "choosing the device"));
    FM_TRY(read_properties(cuda));
    FM_TRY(fm_cuda_check(cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking), "making a stream"));
    cuda->pool = fm_alloc(sizeof *cuda->pool, FM_MEMORY_HOST);
    staging *const s = cuda->staging = fm_alloc(sizeof *s, FM_MEMORY_HOST);
    if (cuda->pool == NULL || s == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int i = 0; i < HALVES; i++) {
        FM_TRY(fm_cuda_check(cudaMallocHost((void **)&s->half[i], HALF_BYTES), "pinned memory for copies"));
        FM_TRY(fm_cuda_check(cudaEventCreateWithFlags(&s->done[i], cudaEventDisableTiming), "making an event"));
        FM_TRY(fm_cuda_check(cudaEventRecord(s->done[i], cuda->stream), "an event"));
    }
    return FM_OK;
}

int fm_cuda_open(fm_device **out, const fm_cuda_options *options)
{
    *out = NULL;
    fm_device *const device = fm_alloc(sizeof *device, FM_MEMORY_HOST);
    fm_cuda *const cuda = fm_alloc(sizeof *cuda, FM_MEMORY_HOST);
    if (device == NULL || cuda == NULL) {
        fm_free(device);
        fm_free(cuda);
        return FM_ERR_MEMORY;
    }
    cuda->ordinal = options->ordinal;
    cuda->deterministic = options->deterministic;
    cuda->own_attention = options->own_attention;
    cuda->tell = options->tell;
    *device = (fm_device){ .table = &cuda_table, .threads = options->threads, .state = cuda };
    const int rc = open_state(cuda);
    if (rc < 0) {
        fm_device_close(device);
        return rc;
    }
    *out = device;
    return FM_OK;
}
