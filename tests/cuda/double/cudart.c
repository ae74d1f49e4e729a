/* libcudart's part that finemesh uses, over a device in the host's memory. */
#include "cuda_runtime_api.h"

#include <stdio.h>

#include "memory.h"
#include "queue.h"
#include "settings.h"

#define CALLS(X) \
    X(cudaGetDeviceCount) X(cudaGetDevice) X(cudaSetDevice) X(cudaGetDeviceProperties) X(cudaDeviceGetAttribute) \
    X(cudaDeviceGetPCIBusId) X(cudaDeviceGetStreamPriorityRange) X(cudaDeviceSynchronize) X(cudaMalloc) X(cudaFree) \
    X(cudaMallocAsync) X(cudaFreeAsync) X(cudaMallocHost) X(cudaFreeHost) X(cudaMemGetInfo) X(cudaMemcpy) X(cudaMemset) \
    X(cudaMemcpyAsync) X(cudaMemcpy2DAsync) X(cudaMemsetAsync) X(cudaStreamCreate) X(cudaStreamDestroy) X(cudaStreamSynchronize) \
    X(cudaStreamQuery) X(cudaStreamWaitEvent) X(cudaEventCreate) X(cudaEventDestroy) X(cudaEventRecord) X(cudaEventSynchronize) \
    X(cudaEventQuery) X(cudaEventElapsedTime) X(cudaLaunchHostFunc) X(cudaFuncSetAttribute)

enum call {
#define CALL_NUMBER(name) CALL_##name,
    CALLS(CALL_NUMBER)
#undef CALL_NUMBER
    N_CALLS
};

static const char *const call_names[N_CALLS] = {
#define CALL_NAME(name) #name,
    CALLS(CALL_NAME)
#undef CALL_NAME
};

static struct {
    long n_calls[N_CALLS];
    cudaError_t last;
    int device;
} state;

/* Keeps an error for cudaGetLastError. cudaErrorNotReady is kept too, as the true runtime does. */
static cudaError_t say(cudaError_t error)
{
    if (error != cudaSuccess) {
        state.last = error;
    }
    return error;
}

static int n_devices(void)
{
    return (int)setting("FM_DOUBLE_DEVICES", 1);
}

static cudaError_t enter(enum call call)
{
    const int failure = setting_failure("FM_DOUBLE_FAIL", call_names[call], &state.n_calls[call]);
    if (setting("FM_DOUBLE_DRIVER", 13000) < CUDART_VERSION) {
        return cudaErrorInsufficientDriver;
    }
    return failure != 0 ? (cudaError_t)failure : n_devices() == 0 ? cudaErrorNoDevice : queue_error();
}

#define ENTER(name) \
    do { \
        const cudaError_t entered = enter(CALL_##name); \
        if (entered != cudaSuccess) { \
            return say(entered); \
        } \
    } while (0)

/* ---- versions, devices, errors ---- */

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = (int)setting("FM_DOUBLE_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    ENTER(cudaGetDeviceCount);
    *count = n_devices();
    return cudaSuccess;
}

cudaError_t cudaGetDevice(int *device)
{
    ENTER(cudaGetDevice);
    *device = state.device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    ENTER(cudaSetDevice);
    if (device < 0 || device >= n_devices()) {
        return say(cudaErrorInvalidDevice);
    }
    state.device = device;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    ENTER(cudaGetDeviceProperties);
    if (device < 0 || device >= n_devices()) {
        return say(cudaErrorInvalidDevice);
    }
    size_t free_bytes;
    *properties = (struct cudaDeviceProp){
        .name = "a device in the host's memory", .sharedMemPerBlock = 48 << 10, .sharedMemPerBlockOptin = 227 << 10,
        .sharedMemPerMultiprocessor = 228 << 10, .warpSize = 32, .maxThreadsPerBlock = 1024, .major = 9, .minor = 0,
        .multiProcessorCount = 4, .l2CacheSize = 1 << 20, .pciBusID = device + 1,
    };
    memory_info(&free_bytes, &properties->totalGlobalMem);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    ENTER(cudaDeviceGetAttribute);
    struct cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceProperties(&p, device);
    if (error != cudaSuccess) {
        return error;
    }
    switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = p.maxThreadsPerBlock; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = (int)p.sharedMemPerBlock; break;
    case cudaDevAttrWarpSize: *value = p.warpSize; break;
    case cudaDevAttrMultiProcessorCount: *value = p.multiProcessorCount; break;
    case cudaDevAttrL2CacheSize: *value = p.l2CacheSize; break;
    case cudaDevAttrComputeCapabilityMajor: *value = p.major; break;
    case cudaDevAttrComputeCapabilityMinor: *value = p.minor; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = (int)p.sharedMemPerMultiprocessor; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = (int)p.sharedMemPerBlockOptin; break;
    default: return say(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *id, int length, int device)
{
    ENTER(cudaDeviceGetPCIBusId);
    if (device < 0 || device >= n_devices() || length < 13) {
        return say(cudaErrorInvalidValue);
    }
    snprintf(id, (size_t)length, "0000:%02X:00.0", (unsigned)(device + 1) & 0xff);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER(cudaDeviceGetStreamPriorityRange);
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    ENTER(cudaDeviceSynchronize);
    queue_finish_all();
    return say(queue_error());
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    { cudaSuccess, "cudaSuccess", "no error" },
    { cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument" },
    { cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory" },
    { cudaErrorInvalidDevicePointer, "cudaErrorInvalidDevicePointer", "invalid device pointer" },
    { cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version" },
    { cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected" },
    { cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal" },
    { cudaErrorECCUncorrectable, "cudaErrorECCUncorrectable", "uncorrectable ECC error encountered" },
    { cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle" },
    { cudaErrorNotReady, "cudaErrorNotReady", "device not ready" },
    { cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered" },
    { cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure" },
    { cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported" },
};

const char *cudaGetErrorName(cudaError_t error)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].error == error) {
            return errors[i].name;
        }
    }
    return "unrecognized error code";
}

const char *cudaGetErrorString(cudaError_t error)
{
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (errors[i].error == error) {
            return errors[i].text;
        }
    }
    return "unrecognized error code";
}

cudaError_t cudaPeekAtLastError(void)
{
    return queue_error() != cudaSuccess ? queue_error() : state.last;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t last = cudaPeekAtLastError();
    state.last = cudaSuccess;
    return last;
}

/* ---- memory ---- */

cudaError_t cudaMalloc(void **pointer, size_t size)
{
    ENTER(cudaMalloc);
    return say(memory_alloc(pointer, size));
}

cudaError_t cudaFree(void *pointer)
{
    ENTER(cudaFree);
    if (pointer != NULL) {
        queue_finish_all();            /* the true one waits for the device too */
    }
    return say(memory_free(pointer));
}

static void free_in_turn(void *pointer)
{
    memory_free(pointer);
}

cudaError_t cudaMallocAsync(void **pointer, size_t size, cudaStream_t stream)
{
    (void)stream;
    ENTER(cudaMallocAsync);
    return say(memory_alloc(pointer, size));
}

cudaError_t cudaFreeAsync(void *pointer, cudaStream_t stream)
{
    ENTER(cudaFreeAsync);
    return say(pointer == NULL ? cudaSuccess : cuda_double_is_device(pointer, 1) ? cuda_double_enqueue(stream, free_in_turn, pointer)
                                                                               : cudaErrorInvalidValue);
}

cudaError_t cudaHostAlloc(void **pointer, size_t size, unsigned int flags)
{
    (void)flags;
    return cudaMallocHost(pointer, size);
}

cudaError_t cudaMallocHost(void **pointer, size_t size)
{
    ENTER(cudaMallocHost);
    return say(memory_pin(pointer, size));
}

cudaError_t cudaFreeHost(void *pointer)
{
    ENTER(cudaFreeHost);
    if (pointer != NULL) {
        queue_finish_all();
    }
    return say(memory_unpin(pointer));
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    ENTER(cudaMemGetInfo);
    memory_info(free_bytes, total_bytes);
    return cudaSuccess;
}

/* A queued copy or fill of `height` rows. */
typedef struct {
    char *to;
    const char *from;                  /* NULL: fill */
    size_t to_pitch, from_pitch, width, height;
    int value;
} transfer;

typedef struct {
    transfer what;
    char held[];                       /* what pageable memory held when the copy was queued */
} queued_transfer;

static void run_transfer(void *arguments)
{
    const transfer *const t = &((queued_transfer *)arguments)->what;
    for (size_t r = 0; r < t->height; r++) {
        if (t->from == NULL) {
            memset(t->to + r * t->to_pitch, t->value, t->width);
        } else {
            memmove(t->to + r * t->to_pitch, t->from + r * t->from_pitch, t->width);
        }
    }
    free(arguments);
}

static size_t extent(const transfer *t, size_t pitch)
{
    return t->height == 0 || t->width == 0 ? 0 : (t->height - 1) * pitch + t->width;
}

static bool refuse(const char *what, const void *pointer, size_t size)
{
    fprintf(stderr, "cuda double: %s: %zu bytes at %p are not of that memory\n", what, size, pointer);
    return false;
}

/* Whether both ends lie where the kind says. A copy of host memory with a device's pointer is the fault that a GPU punishes late. */
static bool is_right(const transfer *t, enum cudaMemcpyKind kind)
{
    const size_t to_bytes = extent(t, t->to_pitch), from_bytes = extent(t, t->from_pitch);
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    if (kind == cudaMemcpyDefault || to_bytes == 0) {
        return true;
    }
    if (cuda_double_is_device(t->to, to_device ? to_bytes : 1) != to_device) {
        return refuse(to_device ? "a copy to the device" : "a copy to the host", t->to, to_bytes);
    }
    if (t->from != NULL && cuda_double_is_device(t->from, from_device ? from_bytes : 1) != from_device) {
        return refuse(from_device ? "a copy from the device" : "a copy from the host", t->from, from_bytes);
    }
    return true;
}

/* From pageable memory: what it holds now. To pageable memory: done before this returns. Pinned memory is read and written in the
 * stream's turn. */
static cudaError_t put_transfer(const transfer *what, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    if (!is_right(what, kind)) {
        return cudaErrorInvalidValue;
    }
    const size_t from_bytes = extent(what, what->from_pitch);
    if (what->width == 0 || what->height == 0) {
        return cudaSuccess;
    }
    const bool holds = what->from != NULL && !cuda_double_is_device(what->from, 1) && !memory_is_pinned(what->from);
    queued_transfer *const t = malloc(sizeof *t + (holds ? from_bytes : 0));
    if (t == NULL) {
        return cudaErrorMemoryAllocation;
    }
    t->what = *what;
    if (holds) {
        memcpy(t->held, what->from, from_bytes);
        t->what.from = t->held;
    }
    const bool waits = !cuda_double_is_device(what->to, 1) && !memory_is_pinned(what->to);
    const cudaError_t error = cuda_double_enqueue(stream, run_transfer, t);
    if (waits) {
        queue_finish_stream(stream);
    }
    return error != cudaSuccess ? error : queue_error();
}

static transfer one_row(void *to, const void *from, size_t size, int value)
{
    return (transfer){ .to = to, .from = from, .to_pitch = size, .from_pitch = size, .width = size, .height = 1, .value = value };
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t size, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER(cudaMemcpyAsync);
    const transfer t = one_row(to, from, size, 0);
    return say(put_transfer(&t, kind, stream));
}

cudaError_t cudaMemcpy2DAsync(void *to, size_t to_pitch, const void *from, size_t from_pitch, size_t width, size_t height,
                              enum cudaMemcpyKind kind, cudaStream_t stream)
{
    ENTER(cudaMemcpy2DAsync);
    if (width > to_pitch || width > from_pitch) {
        return say(cudaErrorInvalidValue);
    }
    const transfer t = { .to = to, .from = from, .to_pitch = to_pitch, .from_pitch = from_pitch, .width = width, .height = height };
    return say(put_transfer(&t, kind, stream));
}

cudaError_t cudaMemsetAsync(void *to, int value, size_t size, cudaStream_t stream)
{
    ENTER(cudaMemsetAsync);
    const transfer t = one_row(to, NULL, size, value);
    return say(put_transfer(&t, cudaMemcpyHostToDevice, stream));
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t size, enum cudaMemcpyKind kind)
{
    ENTER(cudaMemcpy);
    queue_finish_all();
    const transfer t = one_row(to, from, size, 0);
    const cudaError_t error = put_transfer(&t, kind, NULL);
    queue_finish_all();
    return say(error);
}

cudaError_t cudaMemset(void *to, int value, size_t size)
{
    ENTER(cudaMemset);
    const transfer t = one_row(to, NULL, size, value);
    return say(put_transfer(&t, cudaMemcpyHostToDevice, NULL));
}

/* ---- streams and events ---- */

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned int flags, int priority)
{
    (void)flags;
    (void)priority;
    ENTER(cudaStreamCreate);
    *stream = queue_new_stream();
    return say(*stream == NULL ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags)
{
    return cudaStreamCreateWithPriority(stream, flags, 0);
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    return cudaStreamCreateWithPriority(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    ENTER(cudaStreamDestroy);
    queue_destroy_stream(stream);
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    ENTER(cudaStreamSynchronize);
    queue_finish_stream(stream);
    return say(queue_error());
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    ENTER(cudaStreamQuery);
    const bool done = queue_query_stream(stream);
    return say(queue_error() != cudaSuccess ? queue_error() : done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int flags)
{
    (void)flags;
    ENTER(cudaStreamWaitEvent);
    queue_wait(stream, event);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags)
{
    ENTER(cudaEventCreate);
    *event = queue_new_event((flags & cudaEventDisableTiming) == 0);
    return say(*event == NULL ? cudaErrorMemoryAllocation : cudaSuccess);
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    ENTER(cudaEventDestroy);
    queue_destroy_event(event);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    ENTER(cudaEventRecord);
    queue_record(stream, event);
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    ENTER(cudaEventSynchronize);
    queue_finish_event(event);
    return say(queue_error());
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    ENTER(cudaEventQuery);
    const bool done = queue_query_event(event);
    return say(queue_error() != cudaSuccess ? queue_error() : done ? cudaSuccess : cudaErrorNotReady);
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    ENTER(cudaEventElapsedTime);
    return say(queue_elapsed_ms(milliseconds, from, to) ? cudaSuccess : cudaErrorNotReady);
}

typedef struct {
    cudaHostFn_t function;
    void *data;
} host_call;

static void run_host_call(void *arguments)
{
    host_call *const c = arguments;
    c->function(c->data);
    free(c);
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void *data)
{
    ENTER(cudaLaunchHostFunc);
    host_call *const c = malloc(sizeof *c);
    if (c == NULL) {
        return say(cudaErrorMemoryAllocation);
    }
    *c = (host_call){ .function = function, .data = data };
    return say(cuda_double_enqueue(stream, run_host_call, c));
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    ENTER(cudaFuncSetAttribute);
    const bool fits = attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || (value >= 0 && value <= 227 << 10);
    return say(function != NULL && fits ? cudaSuccess : cudaErrorInvalidValue);
}
