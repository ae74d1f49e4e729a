/* Attention backward on tensor cores, for bf16 and fp16, in two kernels, so that each gradient is summed by one block in a fixed order,
 * in registers, without atomics: `queries` gives dq (a block has a tile of queries of one head and meets the keys), `keys` gives dk and
 * dv (a block has a tile of keys and meets the queries of all heads of its group). Both compute the probabilities and their gradients
 * anew: 7 products where one kernel with atomics has 5.
 *
 *   P = exp(scale Q K^T - lse)    dP = dO V^T    dS = P (dP - delta)    dV = P^T dO    dQ = scale dS K    dK = scale dS^T Q
 *
 * `keys` computes P^T and dS^T, keys in rows: as accumulators they are the left operands of its next products, as in the forward pass. */
#include "ops/attention_mma_cuda.h"

namespace {

struct backward_args {
    fm_attention_call call;
    fm_attention_gradients to;
    const fm_bf16 *q, *k, *v, *dout;   /* or fp16: copied only */
};

/* ---- dq ---- */

template <class T_, int W_, int WARPS_, int MT_, int KEYS_, int BLOCKS_>
struct query_shape {
    using T = T_;
    static constexpr int W = W_, THREADS = 32 * WARPS_, BLOCKS = BLOCKS_;
    static constexpr int MT = MT_, QUERIES = 16 * MT_ * WARPS_, KEYS = KEYS_, PITCH = W_ + 8;
    static constexpr int STAGE_BYTES = 2 * KEYS * PITCH * 2;       /* keys, values */
    static constexpr int SHARED_BYTES = 2 * QUERIES * PITCH * 2 + 2 * STAGE_BYTES;
};

/* Begins to copy keys and values of a tile. */
template <class S>
__device__ __forceinline__ void begin_keys(fm_copies &copies, fm_shared_at to, const fm_bf16 *k, const fm_bf16 *v, int key,
                                           const fm_attention_args &args)
{
    fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to, k + key * args.ldk, args.ldk, (int)args.Tk - key, args.D);
    fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to + S::STAGE_BYTES / 2, v + key * args.ldk, args.ldk, (int)args.Tk - key,
                                                       args.D);
    fm_copy_commit(copies);
}

/* s = P (dP - delta) from s = Q K^T and dp, for rows of queries. */
template <int MT, int NT>
__device__ __forceinline__ void score_gradients(float (&s)[MT][NT][4], const float (&dp)[MT][NT][4], const fm_query_stats (&stats)[2 * MT],
                                                float scale_log2)
{
    FM_UNROLL
    for (int m = 0; m < MT; m++) {
        FM_UNROLL
        for (int n = 0; n < NT; n++) {
            FM_UNROLL
            for (int i = 0; i < 4; i++) {
                const fm_query_stats row = stats[2 * m + i / 2];
                s[m][n][i] = fm_exp2(s[m][n][i] * scale_log2 - row.lse2) * (dp[m][n][i] - row.delta);
            }
        }
    }
}

/* While a tile of keys is used, the next one arrives: two stages, one barrier a tile. */
template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) queries(const __grid_constant__ backward_args a)
{
    constexpr int ROW_BYTES = S::PITCH * 2, NT = S::KEYS / 8, NO = S::W / 8, KT = S::W / 16;
    FM_SHARED_DYNAMIC(uint16_t, shared);
    const fm_attention_args &args = a.call.args;
    const fm_query_place at = fm_query_place_of(blockIdx.x, args, S::QUERIES);
    const int row = (int)(threadIdx.x / 32) * 16 * S::MT;
    const int64_t first_range = at.batch * a.call.rows + at.query;
    const fm_key_range *const range = a.call.ranges + first_range + row;
    const fm_key_span span = fm_key_span_union(a.call.span + first_range / FM_SPAN, S::QUERIES / FM_SPAN);
    const fm_shared_at to_q = fm_shared_address(shared), to_dout = to_q + S::QUERIES * ROW_BYTES;
    const fm_shared_at stages = to_dout + S::QUERIES * ROW_BYTES;
    const fm_shared_at from_q = fm_lane_of_rows<S::PITCH>(to_q) + (unsigned)row * ROW_BYTES;
    const fm_shared_at from_dout = from_q + S::QUERIES * ROW_BYTES;
    const int64_t head_of_keys = at.batch * args.k_row * args.ldk + (int64_t)(at.head / (args.H / args.K)) * args.D;
    const int64_t token = at.batch * args.q_row + at.query, head = (int64_t)at.head * args.D;
    const fm_bf16 *const k = a.k + head_of_keys, *const v = a.v + head_of_keys;
    float dq[S::MT][NO][4];
    fm_accumulators_zero(dq);
    fm_query_stats stats[2 * S::MT];
    FM_UNROLL
    for (int i = 0; i < 2 * S::MT; i++) {
        stats[i] = a.call.stats[((int64_t)at.batch * args.H + at.head) * a.call.rows + at.query + row + i * 8 + threadIdx.x % 32 / 4];
    }
    fm_copies copies;
    if (span.first < span.end) {
        fm_tile_begin<S::QUERIES, S::W, S::PITCH, S::THREADS>(copies, to_q, a.q + token * args.ldq + head, args.ldq,
                                                              (int)(args.Tq - at.query), args.D);
        fm_tile_begin<S::QUERIES, S::W, S::PITCH, S::THREADS>(copies, to_dout, a.dout + token * args.ldo + head, args.ldo,
                                                              (int)(args.Tq - at.query), args.D);
        begin_keys<S>(copies, stages, k, v, span.first, args);
    }
    unsigned stage = 0;
    for (int key = span.first; key < span.end; key += S::KEYS, stage ^= 1) {
        fm_copy_wait<0>(copies);
        __syncthreads();               /* this stage is there; the other is used */
        if (key + S::KEYS < span.end) {
            begin_keys<S>(copies, stages + (stage ^ 1) * S::STAGE_BYTES, k, v, key + S::KEYS, args);
        }
        const fm_shared_at at_k = stages + stage * S::STAGE_BYTES;
        float s[S::MT][NT][4], dp[S::MT][NT][4];
        fm_accumulators_zero(s);
        fm_multiply_rows<typename S::T, KT, S::PITCH>(s, from_q, fm_lane_of_columns<S::PITCH>(at_k));
        if (key < span.full_first || key + S::KEYS > span.full_end) {
            fm_hide_keys(s, range, key);
        }
        fm_accumulators_zero(dp);
        fm_multiply_rows<typename S::T, KT, S::PITCH>(dp, from_dout, fm_lane_of_columns<S::PITCH>(at_k + S::STAGE_BYTES / 2));
        score_gradients(s, dp, stats, a.call.scale_log2);
        unsigned ds[S::MT][NT / 2][4];
        fm_round_left<typename S::T>(ds, s);
        fm_multiply_columns<typename S::T, S::PITCH>(dq, ds, fm_lane_of_rows<S::PITCH>(at_k));
    }
    fm_gradients_store<typename S::T>(a.to.dq, token * args.ldq + head, args.ldq, dq, args.scale, row, (int)(args.Tq - at.query), args.D,
                                      a.to.wide, a.to.add);
}

/* ---- dk and dv ---- */

/* WITH_K, WITH_V: which of both a kernel computes; registers do not hold both of the widest heads. */
template <class T_, int W_, int WARPS_, int MT_, int QUERIES_, int BLOCKS_, bool WITH_K_, bool WITH_V_>
struct key_shape {
    using T = T_;
    static constexpr bool WITH_K = WITH_K_, WITH_V = WITH_V_;
    static constexpr int W = W_, THREADS = 32 * WARPS_, BLOCKS = BLOCKS_;
    static constexpr int MT = MT_, KEYS = 16 * MT_ * WARPS_, QUERIES = QUERIES_, PITCH = W_ + 8;
    static constexpr int TILE_BYTES = QUERIES * PITCH * 2;
    static constexpr int STATS_BYTES = QUERIES * (int)sizeof(fm_query_stats), RANGES_BYTES = QUERIES * (int)sizeof(fm_key_range);
    static constexpr int STAGE_BYTES = 2 * TILE_BYTES + STATS_BYTES + RANGES_BYTES;     /* q, dout, stats, ranges */
    static constexpr int SHARED_BYTES = 2 * KEYS * PITCH * 2 + 2 * STAGE_BYTES;
};

/* A walk over the tiles of queries that see a tile of keys, one head of the group after the other. */
struct walk {
    const fm_key_span *span;           /* of the batch row */
    int key, keys;                     /* the tile of keys */
    int head, heads;                   /* of the group */
    int tile, first_tile, end_tile;
};

template <int QUERIES>
__device__ __forceinline__ bool tile_sees(const walk &w, int tile)
{
    const fm_key_span one = w.span[tile * QUERIES / FM_SPAN];
    return one.first < w.key + w.keys && one.end > w.key;
}

template <int QUERIES>
__device__ __forceinline__ void walk_on(walk &w)
{
    do {
        if (++w.tile == w.end_tile) {
            w.tile = w.first_tile;
            w.head++;
        }
    } while (w.head < w.heads && !tile_sees<QUERIES>(w, w.tile));
}

/* Every warp finds the first and the last tile for itself. */
template <int QUERIES>
__device__ __forceinline__ void walk_begin(walk &w, int64_t Tq)
{
    const int tiles = (int)((Tq + QUERIES - 1) / QUERIES);
    w.first_tile = tiles;
    w.end_tile = 0;
    for (int tile = (int)threadIdx.x % 32; tile < tiles; tile += 32) {
        if (tile_sees<QUERIES>(w, tile)) {
            w.first_tile = min(w.first_tile, tile);
            w.end_tile = tile + 1;
        }
    }
    FM_UNROLL
    for (int bits = 16; bits > 0; bits /= 2) {
        w.first_tile = min(w.first_tile, __shfl_xor_sync(0xffffffffu, w.first_tile, bits));
        w.end_tile = max(w.end_tile, __shfl_xor_sync(0xffffffffu, w.end_tile, bits));
    }
    w.tile = w.first_tile;
    w.head = w.first_tile < w.end_tile ? 0 : w.heads;
}

/* Begins to copy a tile of queries with all that belongs to it. `head`: of all heads. */
template <class S>
__device__ __forceinline__ void begin_queries(fm_copies &copies, fm_shared_at to, const backward_args &a, int batch, int head, int tile)
{
    const fm_attention_args &args = a.call.args;
    const int64_t query = (int64_t)tile * S::QUERIES, token = batch * args.q_row + query, at_head = (int64_t)head * args.D;
    fm_tile_begin<S::QUERIES, S::W, S::PITCH, S::THREADS>(copies, to, a.q + token * args.ldq + at_head, args.ldq,
                                                          (int)(args.Tq - query), args.D);
    fm_tile_begin<S::QUERIES, S::W, S::PITCH, S::THREADS>(copies, to + S::TILE_BYTES, a.dout + token * args.ldo + at_head, args.ldo,
                                                          (int)(args.Tq - query), args.D);
    const int i = (int)threadIdx.x;
    if (i < S::STATS_BYTES / 16) {
        const char *const stats = (const char *)(a.call.stats + ((int64_t)batch * args.H + head) * a.call.rows + query);
        fm_copy_begin(copies, to + 2 * S::TILE_BYTES + i * 16, stats + i * 16, true);
    } else if (i < (S::STATS_BYTES + S::RANGES_BYTES) / 16) {
        const char *const ranges = (const char *)(a.call.ranges + batch * a.call.rows + query) - S::STATS_BYTES;
        fm_copy_begin(copies, to + 2 * S::TILE_BYTES + i * 16, ranges + i * 16, true);
    }
    fm_copy_commit(copies);
}

/* s = P^T from s = K Q^T, for rows of keys from `key` on; `whole`: every query sees all of them, or none. */
template <int MT, int NT>
__device__ __forceinline__ void probabilities(float (&s)[MT][NT][4], const fm_query_stats *stats, const fm_key_range *ranges, int key,
                                              float scale_log2, bool whole)
{
    const int g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    FM_UNROLL
    for (int n = 0; n < NT; n++) {
        const float4 two = fm_read<float4>(stats + n * 8 + 2 * t);     /* lse2, delta, lse2, delta */
        FM_UNROLL
        for (int m = 0; m < MT; m++) {
            FM_UNROLL
            for (int i = 0; i < 4; i++) {
                s[m][n][i] = fm_exp2(s[m][n][i] * scale_log2 - (i % 2 ? two.z : two.x));
            }
        }
    }
    if (whole) {
        return;
    }
    FM_UNROLL
    for (int n = 0; n < NT; n++) {
        const int4 two = fm_read<int4>(ranges + n * 8 + 2 * t);        /* first, end, first, end */
        FM_UNROLL
        for (int m = 0; m < MT; m++) {
            FM_UNROLL
            for (int i = 0; i < 4; i++) {
                const fm_key_range range = { i % 2 ? two.z : two.x, i % 2 ? two.w : two.y };
                s[m][n][i] = fm_key_range_has(range, key + m * 16 + i / 2 * 8 + g) ? s[m][n][i] : 0.0f;
            }
        }
    }
}

/* s = dS^T from s = P^T and dp = dP^T. */
template <int MT, int NT>
__device__ __forceinline__ void score_gradients_of_keys(float (&s)[MT][NT][4], const float (&dp)[MT][NT][4], const fm_query_stats *stats)
{
    const int t = (int)threadIdx.x % 4;
    FM_UNROLL
    for (int n = 0; n < NT; n++) {
        const float4 two = fm_read<float4>(stats + n * 8 + 2 * t);
        FM_UNROLL
        for (int m = 0; m < MT; m++) {
            FM_UNROLL
            for (int i = 0; i < 4; i++) {
                s[m][n][i] *= dp[m][n][i] - (i % 2 ? two.w : two.y);
            }
        }
    }
}

/* Blocks: heads of keys first, then tiles from the first on: under a causal order most queries see the first keys. */
template <class S>
__global__ void __launch_bounds__(S::THREADS, S::BLOCKS) keys(const __grid_constant__ backward_args a)
{
    constexpr int ROW_BYTES = S::PITCH * 2, NT = S::QUERIES / 8, NO = S::W / 8, KT = S::W / 16;
    using T = typename S::T;
    FM_SHARED_DYNAMIC(unsigned char, shared);
    const fm_attention_args &args = a.call.args;
    const unsigned tiles = (unsigned)((args.Tk + S::KEYS - 1) / S::KEYS), rest = blockIdx.x / (unsigned)args.K;
    const int kv_head = (int)(blockIdx.x % (unsigned)args.K), batch = (int)(rest / tiles), key = (int)(rest % tiles) * S::KEYS;
    const int row = (int)(threadIdx.x / 32) * 16 * S::MT, group = args.H / args.K;
    walk at = { a.call.span + batch * a.call.spans, key, S::KEYS, 0, group, 0, 0, 0 };
    walk_begin<S::QUERIES>(at, args.Tq);
    const fm_shared_at to_k = fm_shared_address(shared), to_v = to_k + S::KEYS * ROW_BYTES, stages = to_v + S::KEYS * ROW_BYTES;
    const fm_shared_at from_k = fm_lane_of_rows<S::PITCH>(to_k) + (unsigned)row * ROW_BYTES, from_v = from_k + S::KEYS * ROW_BYTES;
    const int64_t at_keys = ((int64_t)batch * args.k_row + key) * args.ldk + (int64_t)kv_head * args.D;
    float dk[S::MT][S::WITH_K ? NO : 1][4], dv[S::MT][S::WITH_V ? NO : 1][4];
    fm_accumulators_zero(dk);
    fm_accumulators_zero(dv);
    fm_copies copies;
    if (at.head < at.heads) {
        fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to_k, a.k + at_keys, args.ldk, (int)args.Tk - key, args.D);
        fm_tile_begin<S::KEYS, S::W, S::PITCH, S::THREADS>(copies, to_v, a.v + at_keys, args.ldk, (int)args.Tk - key, args.D);
        begin_queries<S>(copies, stages, a, batch, kv_head * group, at.tile);
    }
    unsigned stage = 0;
    for (; at.head < at.heads; stage ^= 1) {
        const fm_key_span span = at.span[at.tile * S::QUERIES / FM_SPAN];
        fm_copy_wait<0>(copies);
        __syncthreads();               /* this stage is there; the other is used */
        walk_on<S::QUERIES>(at);
        if (at.head < at.heads) {
            begin_queries<S>(copies, stages + (stage ^ 1) * S::STAGE_BYTES, a, batch, kv_head * group + at.head, at.tile);
        }
        const fm_shared_at at_q = stages + stage * S::STAGE_BYTES, at_dout = at_q + S::TILE_BYTES;
        const unsigned char *const behind = shared + 2 * S::KEYS * ROW_BYTES + stage * S::STAGE_BYTES + 2 * S::TILE_BYTES;
        const fm_query_stats *const stats = (const fm_query_stats *)behind;
        float s[S::MT][NT][4];
        unsigned p[S::MT][NT / 2][4];
        fm_accumulators_zero(s);
        fm_multiply_rows<T, KT, S::PITCH>(s, from_k, fm_lane_of_columns<S::PITCH>(at_q));
        probabilities(s, stats, (const fm_key_range *)(behind + S::STATS_BYTES), key + row, a.call.scale_log2,
                      key >= span.full_first && key + S::KEYS <= span.full_end);
        if constexpr (S::WITH_V) {
            fm_round_left<T>(p, s);
            fm_multiply_columns<T, S::PITCH>(dv, p, fm_lane_of_rows<S::PITCH>(at_dout));
        }
        if constexpr (S::WITH_K) {
            float dp[S::MT][NT][4];
            fm_accumulators_zero(dp);
            fm_multiply_rows<T, KT, S::PITCH>(dp, from_v, fm_lane_of_columns<S::PITCH>(at_dout));
            score_gradients_of_keys(s, dp, stats);
            fm_round_left<T>(p, s);
            fm_multiply_columns<T, S::PITCH>(dk, p, fm_lane_of_rows<S::PITCH>(at_q));
        }
    }
    if constexpr (S::WITH_K) {
        fm_gradients_store<T>(a.to.dk, at_keys, args.ldk, dk, args.scale, row, args.Tk - key, args.D, a.to.wide, a.to.add);
    }
    if constexpr (S::WITH_V) {
        fm_gradients_store<T>(a.to.dv, at_keys, args.ldk, dv, 1.0f, row, args.Tk - key, args.D, a.to.wide, a.to.add);
    }
}

/* ---- launches ---- */

template <class S>
int launch_queries(fm_compute *compute, const backward_args &a)
{
    const int64_t blocks = a.call.args.B * fm_ceil_div(a.call.args.Tq, S::QUERIES) * a.call.args.H;
    return blocks == 0 ? FM_OK : fm_launch("dq on tensor cores", queries<S>, dim3((unsigned)blocks), dim3(S::THREADS),
                                           S::SHARED_BYTES, fm_cuda_of(compute->device)->stream, a);
}

template <class S>
int launch_keys(fm_compute *compute, const backward_args &a)
{
    const int64_t blocks = a.call.args.B * fm_ceil_div(a.call.args.Tk, S::KEYS) * a.call.args.K;
    return blocks == 0 ? FM_OK : fm_launch("dk and dv on tensor cores", keys<S>, dim3((unsigned)blocks), dim3(S::THREADS),
                                           S::SHARED_BYTES, fm_cuda_of(compute->device)->stream, a);
}

/* Both kernels for heads of up to W: dq's warps, MT, keys of a stage and blocks of a multiprocessor; the same for dk and dv with queries
 * of a stage; whether dk and dv take a kernel each. Registers hold 16 MT x W of every gradient and two products a warp. */
template <class T_, int W, int Q_WARPS, int Q_MT, int Q_KEYS, int Q_BLOCKS, int K_WARPS, int K_MT, int K_QUERIES, int K_BLOCKS, bool SPLIT>
struct shape {
    using of_queries = query_shape<T_, W, Q_WARPS, Q_MT, Q_KEYS, Q_BLOCKS>;
    using of_keys = key_shape<T_, W, K_WARPS, K_MT, K_QUERIES, K_BLOCKS, !SPLIT, true>;
    using of_keys_alone = key_shape<T_, W, K_WARPS, K_MT, K_QUERIES, K_BLOCKS, true, !SPLIT>;

    static constexpr size_t shared_bytes()
    {
        return of_queries::SHARED_BYTES > of_keys::SHARED_BYTES ? of_queries::SHARED_BYTES : of_keys::SHARED_BYTES;
    }

    static int launch(fm_compute *compute, const backward_args &a)
    {
        FM_TRY(launch_queries<of_queries>(compute, a));
        FM_TRY(launch_keys<of_keys>(compute, a));
        if constexpr (SPLIT) {
            FM_TRY(launch_keys<of_keys_alone>(compute, a));
        }
        return FM_OK;
    }
};

template <class T> using shape_64 = shape<T, 64, 4, 2, 32, 2, 4, 2, 32, 2, false>;
template <class T> using shape_96 = shape<T, 96, 4, 2, 32, 2, 8, 1, 64, 1, false>;
template <class T> using shape_128 = shape<T, 128, 4, 2, 32, 2, 8, 1, 64, 1, false>;
template <class T> using shape_256 = shape<T, 256, 4, 1, 32, 1, 4, 1, 32, 1, true>;

/* What use(shape) gives for the narrowest shape that holds heads of D, -1 for none. */
template <class T, class F>
int with_shape(int D, const F &use)
{
    return D <= 64 ? use(shape_64<T>()) : D <= 96 ? use(shape_96<T>()) : D <= 128 ? use(shape_128<T>()) : use(shape_256<T>());
}

}

bool fm_attention_mma_backward_takes(const fm_compute *compute, const fm_attention_args *args)
{
    const fm_cuda *const cuda = fm_cuda_of(compute->device);
    const auto shared_bytes = [](auto of) { return (int)decltype(of)::shared_bytes(); };
    return cuda->capability >= FM_CAPABILITY_MMA &&
           cuda->shared_bytes >= (size_t)with_shape<fm_bf16>(args->D, shared_bytes);
}

int fm_attention_mma_backward(fm_compute *compute, const fm_attention_call *call, const fm_attention_gradients *to, const void *q,
                              const void *k, const void *v)
{
    const backward_args a = { *call, *to, (const fm_bf16 *)q, (const fm_bf16 *)k, (const fm_bf16 *)v, (const fm_bf16 *)to->dout };
    const auto launch = [&](auto of) { return decltype(of)::launch(compute, a); };
    return call->args.dtype == FM_BF16 ? with_shape<fm_bf16>(call->args.D, launch) : with_shape<fm_f16>(call->args.D, launch);
}
