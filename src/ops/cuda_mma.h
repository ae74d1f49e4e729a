/* Tensor cores and asynchronous copies, for kernels: each PTX instruction is a function with a second form in plain C++, so that the
 * kernels that use them run on the host too. C++ only.
 *
 * Fragments of mma.m16n8k16, held by a warp; lane = 4 g + t (PTX ISA, "Matrix Fragments for mma.m16n8k16"); a register of 16-bit numbers
 * holds two columns (of a) or rows (of b), the lower first:
 *   a [16, 16]   a[0]: row g, columns 2t, 2t+1;  a[1]: row g+8;  a[2], a[3]: the same rows, columns + 8
 *   b [16, 8]    b0: rows 2t, 2t+1 of column g;  b1: rows + 8
 *   c [16, 8]    c[0], c[1]: row g, columns 2t, 2t+1;  c[2], c[3]: row g+8
 * So the accumulators of two products side by side are, rounded, the `a` of the next product. */
#ifndef FM_OPS_CUDA_MMA_H
#define FM_OPS_CUDA_MMA_H
#ifdef __cplusplus

#include "ops/cuda_kernel.h"

#ifdef FM_CUDA_ON_HOST
#define FM_ROLLED

/* An address in shared memory. */
typedef uintptr_t fm_shared_at;

static inline fm_shared_at fm_shared_address(const void *pointer)
{
    return (uintptr_t)pointer;
}

/* Copies that were begun arrive when they are waited for, not before: a kernel that forgets to wait reads what was there. */
struct fm_copies {
    enum { MOST = 256 };
    struct { fm_shared_at to; const void *from; int bytes, group; } pending[MOST];
    int n = 0, group = 0;
};

static inline void fm_copy_begin(fm_copies &copies, fm_shared_at to, const void *from, bool there)
{
    FM_ASSERT(copies.n < fm_copies::MOST && to % 16 == 0 && (uintptr_t)from % 16 == 0);
    copies.pending[copies.n++] = { to, from, there ? 16 : 0, copies.group };
}

static inline void fm_copy_commit(fm_copies &copies)
{
    copies.group++;
}

template <int LEFT>
static inline void fm_copy_wait(fm_copies &copies)
{
    int kept = 0;
    for (int i = 0; i < copies.n; i++) {
        const auto one = copies.pending[i];
        if (one.group >= copies.group - LEFT) {
            copies.pending[kept++] = one;
            continue;
        }
        memset((void *)one.to, 0, 16);
        memcpy((void *)one.to, one.from, (size_t)one.bytes);
    }
    copies.n = kept;
}

enum { FM_HOST_KIND_MATRICES = FM_HOST_KIND_OTHERS, FM_HOST_KIND_MMA };

/* The 8 x 8 matrices whose rows' addresses lanes 8 i .. 8 i + 7 hold. */
template <bool TRANSPOSED>
static inline void fm_matrices_load(unsigned (&out)[4], fm_shared_at at)
{
    const fm_host_meeting<fm_shared_at> rows(0xffffffffu, at, FM_HOST_KIND_MATRICES);
    const int g = fm_host_now->lane / 4, t = fm_host_now->lane % 4;
    for (int i = 0; i < 4; i++) {
        uint16_t pair[2];
        for (int j = 0; j < 2; j++) {
            const uint16_t *const row = (const uint16_t *)rows[8 * i + (TRANSPOSED ? 2 * t + j : g)];
            FM_ASSERT((uintptr_t)row % 16 == 0);
            pair[j] = row[TRANSPOSED ? g : 2 * t + j];
        }
        out[i] = pair[0] | (unsigned)pair[1] << 16;
    }
}

/* c += a b. Every lane brings its numbers widened. */
template <class T>
static inline void fm_mma(T, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1)
{
    struct operands { float a[4][2], b[2][2]; } mine;
    for (int i = 0; i < 8; i++) {
        mine.a[i / 2][i % 2] = fm_unpack(T(), a[i / 2], i % 2);
    }
    for (int i = 0; i < 4; i++) {
        mine.b[i / 2][i % 2] = fm_unpack(T(), i / 2 ? b1 : b0, i % 2);
    }
    const fm_host_meeting<operands> all(0xffffffffu, mine, FM_HOST_KIND_MMA);
    const int g = fm_host_now->lane / 4, t = fm_host_now->lane % 4;
    float sum[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
    for (int k = 0; k < 4; k++) {      /* the lanes that hold columns 2k, 2k+1, 2k+8, 2k+9 of a and these rows of b */
        const operands left = all[4 * g + k], right[2] = { all[8 * t + k], all[8 * t + 4 + k] };
        for (int i = 0; i < 4; i++) {
            for (int j = 0; j < 4; j++) {
                sum[i] += left.a[i / 2 + j / 2 * 2][j % 2] * right[i % 2].b[j / 2][j % 2];
            }
        }
    }
    for (int i = 0; i < 4; i++) {
        c[i] += sum[i];
    }
}

/* 2^x, to 2 ulp; 0 for -inf. */
static inline float fm_exp2(float x)
{
    return exp2f(x);
}

#else
#define FM_ROLLED _Pragma("unroll 1")

typedef unsigned fm_shared_at;

static __device__ __forceinline__ fm_shared_at fm_shared_address(const void *pointer)
{
    return (unsigned)__cvta_generic_to_shared(pointer);
}

struct fm_copies {};

static __device__ __forceinline__ void fm_copy_begin(fm_copies &, fm_shared_at to, const void *from, bool there)
{
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" : : "r"(to), "l"(from), "r"(there ? 16 : 0) : "memory");
}

static __device__ __forceinline__ void fm_copy_commit(fm_copies &)
{
    asm volatile("cp.async.commit_group;" : : : "memory");
}

template <int LEFT>
static __device__ __forceinline__ void fm_copy_wait(fm_copies &)
{
    asm volatile("cp.async.wait_group %0;" : : "n"(LEFT) : "memory");
}

template <bool TRANSPOSED>
static __device__ __forceinline__ void fm_matrices_load(unsigned (&out)[4], fm_shared_at at)
{
    if (TRANSPOSED) {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
    } else {
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3]) : "r"(at) : "memory");
    }
}

#define FM_MMA(type, ptx_type) \
    static __device__ __forceinline__ void fm_mma(type, float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) \
    { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." ptx_type "." ptx_type ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, " \
            "{%0, %1, %2, %3};" \
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]) \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1)); \
    }
FM_MMA(fm_bf16, "bf16")
FM_MMA(fm_f16, "f16")
#undef FM_MMA

static __device__ __forceinline__ float fm_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#endif

/* A lane's address of the 16 x 16 block at `block` (row-major 16-bit numbers, rows of PITCH), for fm_matrices_load: left operands and
 * transposed right ones in the order of rows, right operands that stand as rows in the order of columns. PITCH = a multiple of 16,
 * plus 8: eight rows of a matrix then lie in different banks. */
template <int PITCH>
static __device__ __forceinline__ fm_shared_at fm_lane_of_rows(fm_shared_at block)
{
    const int lane = threadIdx.x % 32;
    return block + (unsigned)(lane % 16 * PITCH + lane / 16 * 8) * 2;
}

template <int PITCH>
static __device__ __forceinline__ fm_shared_at fm_lane_of_columns(fm_shared_at block)
{
    const int lane = threadIdx.x % 32;
    return block + (unsigned)((lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8) * 2;
}

/* c [16 MT, 8 NT] += A B^T with A [16 MT, 16 KT] and B [8 NT, 16 KT] in shared memory: a from fm_lane_of_rows, b from
 * fm_lane_of_columns. */
template <class T, int KT, int PITCH, int MT, int NT>
static __device__ __forceinline__ void fm_multiply_rows(float (&c)[MT][NT][4], fm_shared_at a, fm_shared_at b)
{
    FM_UNROLL
    for (int k = 0; k < KT; k++) {
        unsigned left[MT][4];
        FM_UNROLL
        for (int m = 0; m < MT; m++) {
            fm_matrices_load<false>(left[m], a + (unsigned)(m * 16 * PITCH + k * 16) * 2);
        }
        FM_UNROLL
        for (int n = 0; n < NT; n += 2) {
            unsigned right[4];
            fm_matrices_load<false>(right, b + (unsigned)(n * 8 * PITCH + k * 16) * 2);
            FM_UNROLL
            for (int m = 0; m < MT; m++) {
                fm_mma(T(), c[m][n], left[m], right[0], right[1]);
                fm_mma(T(), c[m][n + 1], left[m], right[2], right[3]);
            }
        }
    }
}

/* c [16 MT, 8 NT] += P B with P [16 MT, 16 KT] in registers and B [16 KT, 8 NT] in shared memory: b from fm_lane_of_rows. */
template <class T, int PITCH, int KT, int MT, int NT>
static __device__ __forceinline__ void fm_multiply_columns(float (&c)[MT][NT][4], const unsigned (&p)[MT][KT][4], fm_shared_at b)
{
    FM_UNROLL
    for (int k = 0; k < KT; k++) {
        FM_UNROLL
        for (int n = 0; n < NT; n += 2) {
            unsigned right[4];
            fm_matrices_load<true>(right, b + (unsigned)(k * 16 * PITCH + n * 8) * 2);
            FM_UNROLL
            for (int m = 0; m < MT; m++) {
                fm_mma(T(), c[m][n], p[m][k], right[0], right[1]);
                fm_mma(T(), c[m][n + 1], p[m][k], right[2], right[3]);
            }
        }
    }
}

/* The accumulators of a product, rounded, as the left operand of the next. */
template <class T, int MT, int NT>
static __device__ __forceinline__ void fm_round_left(unsigned (&p)[MT][NT / 2][4], const float (&c)[MT][NT][4])
{
    FM_UNROLL
    for (int m = 0; m < MT; m++) {
        FM_UNROLL
        for (int n = 0; n < NT; n++) {
            p[m][n / 2][n % 2 * 2] = fm_narrow2<T>(c[m][n][0], c[m][n][1]);
            p[m][n / 2][n % 2 * 2 + 1] = fm_narrow2<T>(c[m][n][2], c[m][n][3]);
        }
    }
}

template <int MT, int NT>
static __device__ __forceinline__ void fm_accumulators_zero(float (&c)[MT][NT][4])
{
    FM_UNROLL
    for (int i = 0; i < MT * NT * 4; i++) {
        c[i / 4 / NT][i / 4 % NT][i % 4] = 0.0f;
    }
}

/* Begins to copy ROWS rows of W 16-bit numbers from global memory (ld numbers from row to row, 16-byte aligned) into shared memory
 * (PITCH). Rows from `rows_there` on and numbers from D (a multiple of 8) on become 0. By THREADS threads; not unrolled, as registers
 * are dearer here than instructions. */
template <int ROWS, int W, int PITCH, int THREADS>
static __device__ __forceinline__ void fm_tile_begin(fm_copies &copies, fm_shared_at to, const void *from, int64_t ld,
                                                     int rows_there, int D)
{
    constexpr int CHUNKS = W / 8, EVERY = THREADS / CHUNKS;        /* rows at a time; threads may be left over */
    const int chunk = (int)threadIdx.x % CHUNKS, first = (int)threadIdx.x / CHUNKS;
    const int there = chunk * 8 < D ? min(rows_there, ROWS) : 0;
    const uint16_t *at = (const uint16_t *)from + first * ld + chunk * 8;
    FM_ROLLED
    for (int row = THREADS % CHUNKS == 0 || first < EVERY ? first : ROWS; row < ROWS; row += EVERY) {
        fm_copy_begin(copies, to + (unsigned)(row * PITCH + chunk * 8) * 2, row < there ? at : (const uint16_t *)from, row < there);
        at += EVERY * ld;
    }
}

#endif
#endif
