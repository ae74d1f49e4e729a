/* Attention forward on tensor cores (FlashAttention-2: Dao 2023), for bf16 and fp16. A block has a tile of queries of one head; keys and
 * values pass through shared memory, while scores, probabilities and the result stay in registers. No sum's order depends on anything
 * but shapes and documents: deterministic.
 *
 * A warp has 16 MT queries. MT = 2 halves what products read from shared memory: a fragment of keys or values serves two of queries. */
#include "ops/attention_mma_cuda.h"

namespace {

struct forward_args {
    fm_attention_call call;
    fm_attention_out to;
    const fm_bf16 *q, *k, *v;           /* or fp16: copied only */
};

/* Sizes of one kernel. */
template <class T_, int W_, int WARPS_, int MT_, int KEYS_, int BLOCKS_>
struct shape {
    using T = T_;
    static constexpr int W = W_;               /* D rounded up */
    static constexpr int THREADS = 32 * WARPS_, BLOCKS = BLOCKS_;   /* blocks of a multiprocessor: bounds registers */
    static constexpr int MT = MT_, QUERIES = 16 * MT_ * WARPS_, KEYS = KEYS_;
    static constexpr int PITCH = W_ + 8;       /* of rows in shared memory: see fm_lane_of_rows */
    static constexpr int SHARED_BYTES = (QUERIES + 2 * KEYS) * PITCH * 2;
};

/* The online softmax of a warp's rows: s becomes exp(scale (s - max)); max and sum (a lane's part of it) are updated, what was summed
 * before is brought to the new maximum. `most` is that of s without the scale. */
template <int MT, int NT, int NO>
__device__ __forceinline__ void softmax(float (&s)[MT][NT][4], float (&o)[MT][NO][4], float (&most)[MT][2], float (&sum)[MT][2],
                                        float scale_log2)
{
    FM_UNROLL
    for (int m = 0; m < MT; m++) {
        float factor[2];
        FM_UNROLL
        for (int half = 0; half < 2; half++) {
            float here = most[m][half];
            FM_UNROLL
            for (int n = 0; n < NT; n++) {
                here = fmaxf(here, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            }
            here = fmaxf(here, __shfl_xor_sync(0xffffffffu, here, 1));
            here = fmaxf(here, __shfl_xor_sync(0xffffffffu, here, 2));
            const float base = here == -INFINITY ? 0.0f : here * scale_log2;   /* -inf - -inf would be NaN */
            factor[half] = fm_exp2(most[m][half] * scale_log2 - base);
            most[m][half] = here;
            float total = 0.0f;
            FM_UNROLL
            for (int n = 0; n < NT; n++) {
                FM_UNROLL
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[m][n][i] = fm_exp2(s[m][n][i] * scale_log2 - base);
                    total += s[m][n][i];
                }
            }
            sum[m][half] = sum[m][half] * factor[half] + total;
        }
        if (__any_sync(0xffffffffu, factor[0] != 1.0f || factor[1] != 1.0f)) {   /* seldom, after the first keys */
            FM_UNROLL
            for (int n = 0; n < NO; n++) {
                FM_UNROLL
                for (int i = 0; i < 4; i++) {
                    o[m][n][i] *= factor[i / 2];
                }
            }
        }
    }
}

/* Writes the results of a warp's rows from query `first` on, or combines them with what other keys gave: with
 * w = exp(lse - log(exp(lse) + exp(old))), out = w o + (1 - w) old. By whole warps. */
template <class S, int NO>
__device__ __forceinline__ void store(const forward_args &a, const fm_query_place &at, const float (&o)[S::MT][NO][4],
                                      const float (&most)[S::MT][2], const float (&sum)[S::MT][2], const fm_key_range *range, int64_t first)
{
    const fm_attention_args &args = a.call.args;
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    FM_UNROLL
    for (int i = 0; i < 2 * S::MT; i++) {
        const int64_t query = first + i * 8 + g, row = at.batch * args.q_row + query;
        const fm_key_range mine = range[i * 8 + g];
        const bool seen = mine.first < mine.end, writes = query < args.Tq && (seen || !a.to.merge);
        float total = sum[i / 2][i % 2];
        total += __shfl_xor_sync(0xffffffffu, total, 1);
        total += __shfl_xor_sync(0xffffffffu, total, 2);
        float lse = seen ? most[i / 2][i % 2] * args.scale + logf(total) : -INFINITY, factor = seen ? 1.0f / total : 0.0f, keep = 0.0f;
        float *const to_lse = a.to.lse + row * args.H + at.head;
        if (a.to.merge && writes) {
            const float old = *to_lse, larger = fmaxf(old, lse), all = larger + logf(expf(old - larger) + expf(lse - larger));
            factor *= expf(lse - all);
            keep = expf(old - all);
            lse = all;
        }
        __syncwarp();                  /* four lanes read the old lse, one writes the new */
        if (writes && t == 0) {
            *to_lse = lse;
        }
        FM_UNROLL
        for (int n = 0; n < NO; n++) {
            if (writes && n * 8 < args.D) {
                fm_pair_store<typename S::T>(a.to.out, row * args.ldo + (int64_t)at.head * args.D + n * 8 + 2 * t,
                                     o[i / 2][n][i % 2 * 2] * factor, o[i / 2][n][i % 2 * 2 + 1] * factor, a.to.wide, keep);
            }
        }
    }
}

/* Each key tile takes two barriers: values arrive while scores are computed, the next keys during the
 * product with values (begun behind the softmax, when fewer registers are taken). */
template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) forward(const __grid_constant__ forward_args a)
{
    constexpr int ROW_BYTES = S::PITCH * 2, NT = S::KEYS / 8, NO = S::W / 8;
    FM_SHARED_DYNAMIC(uint16_t, shared);
    const fm_attention_args &args = a.call.args;
    const fm_query_place at = fm_query_place_of(blockIdx.x, args, S::QUERIES);
    const int64_t first_range = at.batch * a.call.rows + at.query, row = (int64_t)(threadIdx.x / 32) * 16 * S::MT;
    const fm_key_range *const range = a.call.ranges + first_range + row;
    const fm_key_span span = fm_key_span_union(a.call.span + first_range / FM_SPAN, S::QUERIES / FM_SPAN);
    const fm_shared_at to_q = fm_shared_address(shared), to_k = to_q + S::QUERIES * ROW_BYTES, to_v = to_k + S::KEYS * ROW_BYTES;
    const fm_shared_at from_q = fm_lane_of_rows<S::PITCH>(to_q) + (unsigned)row * ROW_BYTES;
    const fm_shared_at from_k = fm_lane_of_columns<S::PITCH>(to_k), from_v = fm_lane_of_rows<S::PITCH>(to_v);
    const int64_t head_of_keys = at.batch * args.k_row * args.ldk + (int64_t)(at.head / (args.H / args.K)) * args.D;
    const fm_bf16 *const k = a.k + head_of_keys, *const v = a.v + head_of_keys;
    float o[S::MT][NO][4], most[S::MT][2], sum[S::MT][2];
    fm_accumulators_zero(o);
    FM_UNROLL
    for (int i = 0; i < 2 * S::MT; i++) {
        most[i / 2][i % 2] = -INFINITY;
        sum[i / 2][i % 2] = 0.0f;
    }
    fm_copies copies;
    if (span.first < span.end) {
        const int64_t token = at.batch * args.q_row + at.query;
        fm_tile_begin<S::QUERIES, S::W, S::PITCH, S::THREADS>(copies, to_q, a.q + token * args.ldq + (int64_t)at.head * args.D, args.ldq,
                                                              (int)(args.Tq - at.query), args.D);
        fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to_k, k + span.first * args.ldk, args.ldk, (int)args.Tk - span.first,
                                                           args.D);
        fm_copy_commit(copies);
    }
    for (int key = span.first; key < span.end; key += S::KEYS) {
        fm_copy_wait<0>(copies);
        __syncthreads();               /* keys are there; values of the last tile are used */
        fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to_v, v + key * args.ldk, args.ldk, (int)args.Tk - key, args.D);
        fm_copy_commit(copies);
        float s[S::MT][NT][4];
        fm_accumulators_zero(s);
        fm_multiply_rows<typename S::T, S::W / 16, S::PITCH>(s, from_q, from_k);
        if (key < span.full_first || key + S::KEYS > span.full_end) {
            fm_hide_keys(s, range, key);
        }
        fm_copy_wait<0>(copies);
        __syncthreads();               /* values are there; keys are used */
        softmax(s, o, most, sum, a.call.scale_log2);
        unsigned p[S::MT][NT / 2][4];
        fm_round_left<typename S::T>(p, s);
        const int next = key + S::KEYS;
        if (next < span.end) {
            fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to_k, k + next * args.ldk, args.ldk, (int)args.Tk - next, args.D);
            fm_copy_commit(copies);
        }
        fm_multiply_columns<typename S::T, S::PITCH>(o, p, from_v);
    }
    store<S>(a, at, o, most, sum, range, at.query + row);
}

template <class S>
int launch(fm_compute *compute, const forward_args &a)
{
    const int64_t blocks = a.call.args.B * fm_ceil_div(a.call.args.Tq, S::QUERIES) * a.call.args.H;
    return blocks == 0 ? FM_OK : fm_launch("attention on tensor cores", forward<S>, dim3((unsigned)blocks), dim3(S::THREADS),
                                           S::SHARED_BYTES, fm_cuda_of(compute->device)->stream, a);
}

/* Widths of heads and the shapes that serve them: registers hold 16 MT x W results and 16 MT x KEYS scores a warp. */
#define FM_FORWARD_SHAPES(X) \
    X(64, 4, 2, 64, 2) \
    X(96, 4, 2, 64, 2) \
    X(128, 4, 2, 64, 2) \
    X(256, 8, 1, 64, 1)

template <class T>
int choose(fm_compute *compute, const forward_args &a)
{
#define FM_TRY_SHAPE(W, warps, mt, keys, blocks) \
    if (a.call.args.D <= W) { \
        return launch<shape<T, W, warps, mt, keys, blocks>>(compute, a); \
    }
    FM_FORWARD_SHAPES(FM_TRY_SHAPE)
#undef FM_TRY_SHAPE
    return FM_ERR_UNSUPPORTED;
}

}

bool fm_attention_mma_forward_takes(const fm_compute *compute, const fm_attention_args *args)
{
    const fm_cuda *const cuda = fm_cuda_of(compute->device);
#define FM_TRY_SHAPE(W, warps, mt, keys, blocks) \
    if (args->D <= W) { \
        return cuda->capability >= FM_CAPABILITY_MMA && cuda->shared_bytes >= shape<fm_bf16, W, warps, mt, keys, blocks>::SHARED_BYTES; \
    }
    FM_FORWARD_SHAPES(FM_TRY_SHAPE)
#undef FM_TRY_SHAPE
    return false;
}

int fm_attention_mma_forward(fm_compute *compute, const fm_attention_call *call, const fm_attention_out *to, const void *q, const void *k,
                             const void *v)
{
    const forward_args a = { *call, *to, (const fm_bf16 *)q, (const fm_bf16 *)k, (const fm_bf16 *)v };
    return call->args.dtype == FM_BF16 ? choose<fm_bf16>(compute, a) : choose<fm_f16>(compute, a);
}
