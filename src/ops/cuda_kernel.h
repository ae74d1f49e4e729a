/* What the kernels (src/ops/X_cuda.cu) are written with: element types, wide loads and stores, sums over warps and blocks, launches.
 * C++ only. With FM_CUDA_ON_HOST the same sources are plain C++ over tests/cuda/cuda_on_host.h (see tests/cuda/README.md).
 *
 * Rules of a kernel here: every result is a function of its inputs alone: no atomics on floats, every sum in a fixed order.
 * Arithmetic is fp32, rounding happens where the CPU's reference rounds. Threads do not return before a barrier. 64-bit indices
 * wherever rows times columns can pass 2^31. */
#ifndef FM_OPS_CUDA_KERNEL_H
#define FM_OPS_CUDA_KERNEL_H
#ifdef __cplusplus

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef FM_CUDA_ON_HOST
#include "cuda_on_host.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

#include "ops/cuda.h"
#include "tensor/cuda.h"

#ifndef FM_CUDA_ON_HOST
/* A static shared array, 16-byte aligned; the same of the size that the launch gives (one a kernel). */
#define FM_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define FM_SHARED_DYNAMIC(type, name) \
    extern __shared__ __align__(128) unsigned char fm_shared_dynamic_[]; \
    type *const name = reinterpret_cast<type *>(fm_shared_dynamic_)
#define FM_UNROLL _Pragma("unroll")
#define FM_UNROLL4 _Pragma("unroll 4")
#define FM_UNROLL8 _Pragma("unroll 8")
#else
#define FM_UNROLL
#define FM_UNROLL4
#define FM_UNROLL8
#endif

/* ---- launches ---- */

/* kernel<<<grid, threads, shared_bytes, stream>>>(args...): FM_OK, or the error that names `what`. A kernel that asks for more than
 * 48 KB of dynamic shared memory gets the attribute it needs. Launch nothing for nothing: a grid of 0 is an error. Local. */
template <class... P, class... A>
int fm_launch(const char *what, void (*kernel)(P...), dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t stream, A... args)
{
#ifdef FM_CUDA_ON_HOST
    return fm_cuda_check(fm_host_queue(what, grid, threads, shared_bytes, stream, [=] { kernel(static_cast<P>(args)...); }), what);
#else
    if (shared_bytes > 48 * 1024) {
        FM_TRY(fm_cuda_check(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                  static_cast<int>(shared_bytes)), what));
    }
    kernel<<<grid, threads, shared_bytes, stream>>>(static_cast<P>(args)...);
    return fm_cuda_check(cudaGetLastError(), what);
#endif
}

static inline int64_t fm_ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Blocks for `items` of which each takes per_block. */
static inline unsigned fm_blocks(int64_t items, int64_t per_block)
{
    return static_cast<unsigned>(fm_ceil_div(items, per_block));
}

static inline cudaStream_t fm_stream(const fm_compute *compute)
{
    return fm_cuda_of(compute->device)->stream;
}

/* The least power of 2 that is not below n, but `most` (a power of 2) at most. */
static inline int fm_power_of_2(int64_t n, int most)
{
    int power = 1;
    while (power < n && power < most) {
        power *= 2;
    }
    return power;
}

/* N rows of `packs` packs, a thread each: a block of FM_TILE_THREADS takes some rows of some columns, so narrow rows leave no thread
 * idle, and only blocks divide. The launcher's part and the kernel's. */
enum { FM_TILE_THREADS = 256 };

static inline dim3 fm_tile_block(int64_t packs)
{
    const int across = fm_power_of_2(packs, FM_TILE_THREADS);
    return dim3(static_cast<unsigned>(across), static_cast<unsigned>(FM_TILE_THREADS / across));
}

static inline dim3 fm_tile_grid(int64_t N, int64_t packs)
{
    const dim3 block = fm_tile_block(packs);
    return dim3(static_cast<unsigned>(fm_ceil_div(N, block.y) * fm_ceil_div(packs, block.x)));
}

struct fm_place {
    int64_t row, pack;
};

/* Divides in 32 bits, which takes a fifth of the time: a row has less than 2^31 packs. */
static __device__ __forceinline__ fm_place fm_tile_place(int64_t packs)
{
    const unsigned columns = (static_cast<unsigned>(packs) + blockDim.x - 1) / blockDim.x, row = blockIdx.x / columns;
    return fm_place{ static_cast<int64_t>(row) * blockDim.y + threadIdx.y,
                     static_cast<int64_t>(blockIdx.x - row * columns) * blockDim.x + threadIdx.x };
}

/* ---- element types ---- */

struct fm_bf16 {
    uint16_t bits;
};
struct fm_f16 {
    uint16_t bits;
};

/* Calls with(T()) for the C++ type of a dtype: fm_with_dtype(dtype, [&](auto zero) { using T = decltype(zero); ... }). */
template <class F> int fm_with_dtype(enum fm_dtype dtype, const F &with)
{
    switch (dtype) {
    case FM_F32: return with(float());
    case FM_BF16: return with(fm_bf16());
    case FM_F16: return with(fm_f16());
    default: return fm_fail(FM_ERR_INTERNAL, "a kernel was asked for elements of type %s", fm_dtype_name(dtype));
    }
}

__device__ __forceinline__ float fm_widen(float x) { return x; }
__device__ __forceinline__ float fm_widen(fm_bf16 x) { return __uint_as_float(static_cast<unsigned>(x.bits) << 16); }

template <class T> __device__ __forceinline__ T fm_narrow(float x);
template <> __device__ __forceinline__ float fm_narrow<float>(float x) { return x; }

#ifdef FM_CUDA_ON_HOST
__device__ __forceinline__ float fm_widen(fm_f16 x) { return fm_f16_to_f32(x.bits); }
template <> __device__ __forceinline__ fm_bf16 fm_narrow<fm_bf16>(float x) { return fm_bf16{ fm_f32_to_bf16(x) }; }
template <> __device__ __forceinline__ fm_f16 fm_narrow<fm_f16>(float x) { return fm_f16{ fm_f32_to_f16(x) }; }
#else
__device__ __forceinline__ float fm_widen(fm_f16 x) { return __half2float(__ushort_as_half(x.bits)); }
template <> __device__ __forceinline__ fm_bf16 fm_narrow<fm_bf16>(float x)
{
    return fm_bf16{ __bfloat16_as_ushort(__float2bfloat16_rn(x)) };
}
template <> __device__ __forceinline__ fm_f16 fm_narrow<fm_f16>(float x) { return fm_f16{ __half_as_ushort(__float2half_rn(x)) }; }
#endif

/* Two numbers in one word, the first in the low half. */
template <class T> __device__ __forceinline__ unsigned fm_narrow2(float low, float high)
{
    return fm_narrow<T>(low).bits | static_cast<unsigned>(fm_narrow<T>(high).bits) << 16;
}
#ifndef FM_CUDA_ON_HOST
template <> __device__ __forceinline__ unsigned fm_narrow2<fm_bf16>(float low, float high)
{
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);   /* one instruction */
    return *reinterpret_cast<const unsigned *>(&both);
}
template <> __device__ __forceinline__ unsigned fm_narrow2<fm_f16>(float low, float high)
{
    const __half2 both = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned *>(&both);
}
#endif

/* ---- memory ---- */

/* One access of a type of up to 16 bytes at an address that is a multiple of its size. */
template <class W> __device__ __forceinline__ W fm_read(const void *from)
{
#ifdef FM_CUDA_ON_HOST
    if (reinterpret_cast<uintptr_t>(from) % sizeof(W) != 0) {
        fm_host_fail("reads %zu bytes at a misaligned address", sizeof(W));
    }
    W value;
    memcpy(&value, from, sizeof value);
    return value;
#else
    return *static_cast<const W *>(from);
#endif
}

template <class W> __device__ __forceinline__ void fm_write(void *to, W value)
{
#ifdef FM_CUDA_ON_HOST
    if (reinterpret_cast<uintptr_t>(to) % sizeof(W) != 0) {
        fm_host_fail("writes %zu bytes at a misaligned address", sizeof(W));
    }
    memcpy(to, &value, sizeof value);
#else
    *static_cast<W *>(to) = value;
#endif
}

/* The number in the low or the high half of a word. */
__device__ __forceinline__ float fm_unpack(float, unsigned word, int) { return __uint_as_float(word); }
__device__ __forceinline__ float fm_unpack(fm_bf16, unsigned word, int high)
{
    return __uint_as_float(high ? word & 0xffff0000u : word << 16);
}
__device__ __forceinline__ float fm_unpack(fm_f16, unsigned word, int high)
{
    return fm_widen(fm_f16{ static_cast<uint16_t>(high ? word >> 16 : word) });
}

/* V (1 or even) neighbours of type T as they lie in memory, so in half as many registers as floats where T is short. Loaded and
 * stored by as few and as wide accesses as can be: 16 bytes where V * sizeof(T) is a multiple of 16, then the address must be, too;
 * else its own 2, 4 or 8. */
template <class T, int V> struct fm_pack {
    static constexpr int BYTES = V * static_cast<int>(sizeof(T)), PER_WORD = 4 / static_cast<int>(sizeof(T));
    static constexpr int WORDS = (BYTES + 3) / 4;
    unsigned word[WORDS];

    __device__ __forceinline__ void load(const T *from)
    {
        if constexpr (BYTES == 2) {
            word[0] = fm_read<uint16_t>(from);
        } else if constexpr (BYTES == 4) {
            word[0] = fm_read<unsigned>(from);
        } else if constexpr (BYTES == 8) {
            const uint2 pair = fm_read<uint2>(from);
            word[0] = pair.x, word[1] = pair.y;
        } else {
            static_assert(BYTES % 16 == 0, "no access of this size");
            FM_UNROLL
            for (int i = 0; i < WORDS; i += 4) {
                const uint4 four = fm_read<uint4>(reinterpret_cast<const char *>(from) + 4 * i);
                word[i] = four.x, word[i + 1] = four.y, word[i + 2] = four.z, word[i + 3] = four.w;
            }
        }
    }

    __device__ __forceinline__ void store(T *to) const
    {
        if constexpr (BYTES == 2) {
            fm_write<uint16_t>(to, static_cast<uint16_t>(word[0]));
        } else if constexpr (BYTES == 4) {
            fm_write<unsigned>(to, word[0]);
        } else if constexpr (BYTES == 8) {
            fm_write<uint2>(to, make_uint2(word[0], word[1]));
        } else {
            FM_UNROLL
            for (int i = 0; i < WORDS; i += 4) {
                fm_write<uint4>(reinterpret_cast<char *>(to) + 4 * i, make_uint4(word[i], word[i + 1], word[i + 2], word[i + 3]));
            }
        }
    }

    __device__ __forceinline__ void clear()
    {
        FM_UNROLL
        for (int i = 0; i < WORDS; i++) {
            word[i] = 0;
        }
    }

    /* Element i; i must be known when the kernel is compiled (unrolled loops). */
    __device__ __forceinline__ float get(int i) const { return fm_unpack(T(), word[i / PER_WORD], i % PER_WORD); }

    __device__ __forceinline__ void set(const float (&value)[V])
    {
        if constexpr (sizeof(T) == 4) {
            FM_UNROLL
            for (int i = 0; i < V; i++) {
                word[i] = __float_as_uint(value[i]);
            }
        } else if constexpr (V == 1) {
            word[0] = fm_narrow<T>(value[0]).bits;
        } else {
            FM_UNROLL
            for (int i = 0; i < V; i += 2) {
                word[i / 2] = fm_narrow2<T>(value[i], value[i + 1]);
            }
        }
    }
};

/* The widest packs: 16 bytes. */
template <class T> constexpr int fm_wide = 16 / static_cast<int>(sizeof(T));

/* V floats from and to memory of type T. */
template <class T, int V> __device__ __forceinline__ void fm_load(float (&to)[V], const T *from)
{
    fm_pack<T, V> pack;
    pack.load(from);
    FM_UNROLL
    for (int i = 0; i < V; i++) {
        to[i] = pack.get(i);
    }
}

template <class T, int V> __device__ __forceinline__ void fm_store(T *to, const float (&from)[V])
{
    fm_pack<T, V> pack;
    pack.set(from);
    pack.store(to);
}

/* Whether an address and a distance between rows (in elements) allow 16-byte accesses. For launchers. */
template <class T> bool fm_is_wide(const void *at, int64_t ld)
{
    return reinterpret_cast<uintptr_t>(at) % 16 == 0 && ld % fm_wide<T> == 0;
}

/* ---- sums and maxima: the same tree every time, the result in every lane or thread ---- */

/* Over groups of LANES (a power of 2) neighbours of a warp; all 32 lanes take part. */
template <int LANES = 32, class T> __device__ __forceinline__ T fm_warp_sum(T value)
{
    FM_UNROLL
    for (int bits = LANES / 2; bits > 0; bits /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, bits);
    }
    return value;
}

template <int LANES = 32> __device__ __forceinline__ float fm_warp_max(float value)
{
    FM_UNROLL
    for (int bits = LANES / 2; bits > 0; bits /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, bits));
    }
    return value;
}

/* Over a block of THREADS (a multiple of 32, one dimension). Can be called again and again. */
struct fm_sum_of {
    template <class T> __device__ __forceinline__ T operator()(T a, T b) const { return a + b; }
};
struct fm_max_of {
    __device__ __forceinline__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

template <int THREADS, class T, class Op> __device__ __forceinline__ T fm_block_merge(T value, const Op op)
{
    FM_SHARED(T, of_warp, THREADS / 32);
    FM_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) {
        value = op(value, __shfl_xor_sync(0xffffffffu, value, bits));
    }
    if (threadIdx.x % 32 == 0) {
        of_warp[threadIdx.x / 32] = value;
    }
    __syncthreads();
    value = of_warp[0];
    FM_UNROLL
    for (int i = 1; i < THREADS / 32; i++) {
        value = op(value, of_warp[i]);
    }
    __syncthreads();                   /* before the next call writes */
    return value;
}

template <int THREADS, class T> __device__ __forceinline__ T fm_block_sum(T value)
{
    return fm_block_merge<THREADS>(value, fm_sum_of());
}

template <int THREADS> __device__ __forceinline__ float fm_block_max(float value)
{
    return fm_block_merge<THREADS>(value, fm_max_of());
}

#endif
#endif
