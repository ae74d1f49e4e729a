/* CUDA C++ on the host: what the kernels of src/ops/X_cuda.cu need of CUDA, in plain C++, so that the same source runs under g++,
 * AddressSanitizer and a debugger, on machines without a GPU or a toolkit. Compile with -x c++ -DFM_CUDA_ON_HOST and link
 * cuda_on_host.cpp. C sees the types of the runtime API only.
 *
 * A launch runs at once, or in its stream's turn where the double of the CUDA runtime is linked (double/). Blocks run one after
 * another; the threads of a block are fibers of one operating-system thread, each runs until it has to wait (a barrier, an exchange
 * within a warp). The order of threads and blocks is chosen by fm_host_set_order: a kernel that lacks a barrier gives other numbers in
 * one of the orders. Shared memory is poisoned for every block (NaN, -1) and
 * stands between red zones where ASan is on. Broken rules end the program with a sentence: a barrier or an exchange that some of its
 * threads never reach, barriers in different lines, misaligned vector loads, lanes outside a mask.
 * tests/cuda/README.md says what is not modelled. */
#ifndef TESTS_CUDA_ON_HOST_H
#define TESTS_CUDA_ON_HOST_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "double/cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

enum fm_host_order { FM_HOST_UP, FM_HOST_DOWN, FM_HOST_SEEDED };

/* The order in which threads of a block, and blocks, run from now on. SEEDED: another permutation for every block. */
void fm_host_set_order(enum fm_host_order order, uint64_t seed);

/* Kernels launched so far: a test can see that an op launches nothing, or no more than it says. */
int64_t fm_host_launches(void);

#ifdef __cplusplus
}

/* ---- the language ---- */

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) int4 {
    int x, y, z, w;
};

static inline float2 make_float2(float x, float y) { return float2{ x, y }; }
static inline float4 make_float4(float x, float y, float z, float w) { return float4{ x, y, z, w }; }
static inline uint2 make_uint2(unsigned x, unsigned y) { return uint2{ x, y }; }
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4{ x, y, z, w }; }
static inline int4 make_int4(int x, int y, int z, int w) { return int4{ x, y, z, w }; }

/* ---- a thread ---- */

struct fm_host_thread {
    uint3 index;
    int linear, lane, warp;
    int state;                         /* of the scheduler, as is what follows */
    void *context;
};

extern fm_host_thread *fm_host_now;    /* the thread that runs */
extern uint3 fm_host_block;
extern dim3 fm_host_block_dim, fm_host_grid_dim;

#define threadIdx (fm_host_now->index)
#define blockIdx fm_host_block
#define blockDim fm_host_block_dim
#define gridDim fm_host_grid_dim
enum { warpSize = 32 };

/* Ends the program with a sentence about the running kernel, block and thread. */
void fm_host_fail(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));

/* Runs kernel body(context) in every thread of a grid; the errors of cudaLaunchKernel for what no device takes. */
cudaError_t fm_host_launch(const char *what, dim3 grid, dim3 block, size_t shared_bytes, void (*body)(void *), void *context);

/* The double's: a function that runs in the stream's turn, once, and frees its arguments. */
extern "C" cudaError_t cuda_double_enqueue(cudaStream_t stream, void (*run)(void *), void *arguments) __attribute__((weak));

/* A launch of `body`, a function of nothing that holds what it needs by value: queued where there are queues, else at once. */
template <class F>
cudaError_t fm_host_queue(const char *what, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, const F &body)
{
    auto launch = [=] {
        return fm_host_launch(what, grid, block, shared_bytes, [](void *at) { (*static_cast<const F *>(at))(); },
                              const_cast<void *>(static_cast<const void *>(&body)));
    };
    if (cuda_double_enqueue == nullptr) {
        return launch();
    }
    typedef decltype(launch) launch_t;
    const auto run = [](void *at) {
        launch_t *const queued = static_cast<launch_t *>(at);
        if ((*queued)() != cudaSuccess) {
            fm_host_fail("no device takes this launch");
        }
        delete queued;
    };
    return cuda_double_enqueue(stream, run, new launch_t(launch));
}

/* ---- shared memory ---- */

/* Bytes of this block's shared memory for a place in the source, the same for all threads; poisoned when a block first asks. */
void *fm_host_shared(const void *place, size_t size_bytes);
void *fm_host_shared_dynamic(void);

/* A static shared array; the same of a size that the launch gives. */
#define FM_SHARED(type, name, count) \
    static char name##_place; \
    type *const name = static_cast<type *>(fm_host_shared(&name##_place, sizeof(type) * (count)))
#define FM_SHARED_DYNAMIC(type, name) type *const name = static_cast<type *>(fm_host_shared_dynamic())

/* ---- barriers ---- */

/* All threads of the block, also those that have ended on a device: a kernel whose threads return early must not have one. */
void fm_host_barrier(int line);
#define __syncthreads() fm_host_barrier(__LINE__)

/* ---- exchanges within a warp ----
 * Every warp-wide operation is a meeting: each lane of `mask` brings a value of up to FM_HOST_MEETING_BYTES, waits for the others,
 * and then may read what any of them brought, until the meeting goes out of scope. Meetings of one warp may overlap as lanes run
 * ahead. For operations of one's own (mma, ldmatrix) choose a `kind` of one's own, so that lanes that meet in different ones are
 * found:
 *     struct operands { uint32_t a[4], b[2]; };
 *     const fm_host_meeting<operands> all(0xffffffffu, mine, FM_HOST_KIND_OTHERS);
 *     ... all[lane].a[0] ...
 * or fm_host_gather below. */
enum { FM_HOST_MEETING_BYTES = 64 };
enum fm_host_kind { FM_HOST_KIND_SYNC, FM_HOST_KIND_SHUFFLE, FM_HOST_KIND_BALLOT, FM_HOST_KIND_OTHERS };

struct fm_host_record {
    unsigned mask, arrived, left;
    int kind;
    size_t size_bytes;
    alignas(16) unsigned char value[32][FM_HOST_MEETING_BYTES];
};

fm_host_record *fm_host_meet(unsigned mask, const void *mine, size_t size_bytes, int kind);
void fm_host_leave(fm_host_record *record);

template <class T> class fm_host_meeting {
    fm_host_record *const record;
    static_assert(sizeof(T) <= FM_HOST_MEETING_BYTES, "a lane brings at most FM_HOST_MEETING_BYTES");

public:
    fm_host_meeting(unsigned mask, const T &mine, int kind) : record(fm_host_meet(mask, &mine, sizeof mine, kind)) {}
    fm_host_meeting(const fm_host_meeting &) = delete;
    ~fm_host_meeting() { fm_host_leave(record); }
    T operator[](int lane) const
    {
        if (lane < 0 || lane > 31 || (record->mask >> lane & 1u) == 0) {
            fm_host_fail("reads the value of lane %d, which mask %#x does not name", lane, record->mask);
        }
        T value;
        memcpy(&value, record->value[lane], sizeof value);
        return value;
    }
};

/* The short form: what every lane of the warp brought. */
template <class T> void fm_host_gather(T (&out)[32], const T &mine, int kind = FM_HOST_KIND_OTHERS)
{
    const fm_host_meeting<T> all(0xffffffffu, mine, kind);
    for (int lane = 0; lane < 32; lane++) {
        out[lane] = all[lane];
    }
}

static inline int fm_host_lane(void) { return fm_host_now->lane; }

static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    fm_host_leave(fm_host_meet(mask, "", 0, FM_HOST_KIND_SYNC));
}

/* The lane itself where the source lies outside its group of `width`, as CUDA has it. */
template <class T> T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    const fm_host_meeting<T> all(mask, value, FM_HOST_KIND_SHUFFLE);
    return all[fm_host_now->lane / width * width + (source & (width - 1))];
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32)
{
    const fm_host_meeting<T> all(mask, value, FM_HOST_KIND_SHUFFLE);
    const int lane = fm_host_now->lane, source = lane ^ bits;
    return all[source < lane / width * width + width ? source : lane];
}

template <class T> T __shfl_down_sync(unsigned mask, T value, int delta, int width = 32)
{
    const fm_host_meeting<T> all(mask, value, FM_HOST_KIND_SHUFFLE);
    const int lane = fm_host_now->lane;
    return all[lane % width + delta < width ? lane + delta : lane];
}

template <class T> T __shfl_up_sync(unsigned mask, T value, int delta, int width = 32)
{
    const fm_host_meeting<T> all(mask, value, FM_HOST_KIND_SHUFFLE);
    const int lane = fm_host_now->lane;
    return all[lane % width >= delta ? lane - delta : lane];
}

static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    const fm_host_meeting<int> all(mask, predicate, FM_HOST_KIND_BALLOT);
    unsigned bits = 0;
    for (int lane = 0; lane < 32; lane++) {
        bits |= mask >> lane & 1u && all[lane] != 0 ? 1u << lane : 0u;
    }
    return bits;
}

static inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) == mask; }

/* ---- arithmetic ---- */

static inline float rsqrtf(float x) { return (float)(1.0 / sqrt((double)x)); }
static inline float __fdividef(float x, float y) { return x / y; }
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz((unsigned)x); }
static inline unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, sizeof bits); return bits; }
static inline float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
static inline int min(int a, int b) { return a < b ? a : b; }
static inline int max(int a, int b) { return a > b ? a : b; }
static inline int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max(int64_t a, int64_t b) { return a > b ? a : b; }

/* ---- memory ---- */

/* Blocks and threads take turns, so nothing comes between. Whole numbers only: sums of floats would depend on the order. */
static inline int atomicAdd(int *at, int value) { const int old = *at; *at += value; return old; }
static inline int atomicMin(int *at, int value) { const int old = *at; *at = value < old ? value : old; return old; }
static inline int atomicMax(int *at, int value) { const int old = *at; *at = value > old ? value : old; return old; }
static inline void __threadfence(void) {}
template <class T> T __ldg(const T *at) { return *at; }

#endif
#endif
