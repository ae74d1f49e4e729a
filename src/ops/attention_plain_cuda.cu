/* Attention on the GPU in fp32 arithmetic, without tensor cores: for fp32 itself, and for whatever the kernels on tensor cores do not
 * take (odd widths, rows that are not aligned). Tiles of TILE queries and TILE keys in shared memory; 16 x 16 threads, of which each
 * has every 16th row and column of what is computed. Deterministic. */
#include "ops/attention_cuda.h"

namespace {

/* Sizes of the kernels for heads of up to W. */
template <int W_, int TILE_>
struct shape {
    static constexpr int W = W_, TILE = TILE_, SIDE = 16, THREADS = SIDE * SIDE;
    static constexpr int PER = TILE / SIDE, COLUMNS = W / SIDE;    /* of a thread: rows (or columns) of a tile, numbers of a head */
    static constexpr int PITCH = W + 1, SCORES = TILE + 1;         /* odd: a column's numbers lie in different banks */
    static constexpr size_t ROWS_BYTES = TILE * PITCH * sizeof(float), SCORES_BYTES = TILE * SCORES * sizeof(float);
};

__device__ __forceinline__ float element(const void *from, enum fm_dtype dtype, int64_t i)
{
    return dtype == FM_F32    ? ((const float *)from)[i]
           : dtype == FM_BF16 ? fm_widen(((const fm_bf16 *)from)[i])
                              : fm_widen(((const fm_f16 *)from)[i]);
}

/* to[i] = keep * what was there + x; keep is not 0 in fp32 only. */
__device__ __forceinline__ void put(void *to, enum fm_dtype dtype, int64_t i, float x, float keep)
{
    if (dtype == FM_F32) {
        float *const at = (float *)to + i;
        *at = keep != 0.0f ? *at * keep + x : x;
    } else if (dtype == FM_BF16) {
        ((fm_bf16 *)to)[i] = fm_narrow<fm_bf16>(x);
    } else {
        ((fm_f16 *)to)[i] = fm_narrow<fm_f16>(x);
    }
}

/* A tile of rows, widened; what lies behind the last row or D is 0. */
template <class S>
__device__ __forceinline__ void load_rows(float *to, const void *from, int64_t at, int64_t ld, int64_t rows_there,
                                          const fm_attention_args &args)
{
    for (int i = (int)threadIdx.x; i < S::TILE * S::W; i += S::THREADS) {
        const int row = i / S::W, column = i % S::W;
        to[row * S::PITCH + column] = row < rows_there && column < args.D ? element(from, args.dtype, at + row * ld + column) : 0.0f;
    }
}

/* s[i][j] = the product of this thread's rows of a and of b. */
template <class S>
__device__ __forceinline__ void multiply_rows(float (&s)[S::PER][S::PER], const float *a, const float *b, int D)
{
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    FM_UNROLL
    for (int i = 0; i < S::PER * S::PER; i++) {
        s[i / S::PER][i % S::PER] = 0.0f;
    }
    for (int d = 0; d < D; d++) {
        FM_UNROLL
        for (int i = 0; i < S::PER; i++) {
            FM_UNROLL
            for (int j = 0; j < S::PER; j++) {
                s[i][j] += a[(ty + i * S::SIDE) * S::PITCH + d] * b[(tx + j * S::SIDE) * S::PITCH + d];
            }
        }
    }
}

/* c[i] += sum over n of weight(row i, n) * rows[n]: this thread's numbers of its rows. */
template <class S, class F>
__device__ __forceinline__ void add_rows(float (&c)[S::PER][S::COLUMNS], const float *rows, const F &weight)
{
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    for (int n = 0; n < S::TILE; n++) {
        FM_UNROLL
        for (int i = 0; i < S::PER; i++) {
            const float w = weight(ty + i * S::SIDE, n);
            FM_UNROLL
            for (int j = 0; j < S::COLUMNS; j++) {
                c[i][j] += w * rows[n * S::PITCH + tx + j * S::SIDE];
            }
        }
    }
}

template <class S>
__device__ __forceinline__ void zero(float (&c)[S::PER][S::COLUMNS])
{
    FM_UNROLL
    for (int i = 0; i < S::PER * S::COLUMNS; i++) {
        c[i / S::COLUMNS][i % S::COLUMNS] = 0.0f;
    }
}

template <class S>
__device__ __forceinline__ void store_gradients(void *to, int64_t at, int64_t ld, const float (&c)[S::PER][S::COLUMNS], float factor,
                                                int64_t rows_there, const fm_attention_args &args, const fm_attention_gradients &how)
{
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    FM_UNROLL
    for (int i = 0; i < S::PER; i++) {
        FM_UNROLL
        for (int j = 0; j < S::COLUMNS; j++) {
            const int row = ty + i * S::SIDE, column = tx + j * S::SIDE;
            if (row < rows_there && column < args.D) {
                put(to, how.wide ? FM_F32 : args.dtype, at + row * ld + column, c[i][j] * factor, how.add ? 1.0f : 0.0f);
            }
        }
    }
}

/* ---- forward ---- */

struct forward_args {
    fm_attention_call call;
    fm_attention_out to;
    const void *q, *k, *v;
};

/* A thread's rows of results. */
template <class S>
struct forward_rows {
    float o[S::PER][S::COLUMNS];
    float most[S::PER], sum[S::PER];
};

/* The online softmax: a half warp has a row. p [TILE, SCORES] = exp(s - max), 0 where a key is not seen. */
template <class S>
__device__ __forceinline__ void softmax(forward_rows<S> &rows, float *p, const float (&s)[S::PER][S::PER], const fm_key_range *range,
                                        int key, float scale)
{
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    FM_UNROLL
    for (int i = 0; i < S::PER; i++) {
        const int row = ty + i * S::SIDE;
        const fm_key_range mine = range[row];
        float score[S::PER], most = rows.most[i], total = 0.0f;
        FM_UNROLL
        for (int j = 0; j < S::PER; j++) {
            score[j] = fm_key_range_has(mine, key + tx + j * S::SIDE) ? s[i][j] * scale : -INFINITY;
            most = fmaxf(most, score[j]);
        }
        most = fm_warp_max<S::SIDE>(most);
        const float base = most == -INFINITY ? 0.0f : most, factor = expf(rows.most[i] - base);
        FM_UNROLL
        for (int j = 0; j < S::PER; j++) {
            const float x = expf(score[j] - base);
            p[row * S::SCORES + tx + j * S::SIDE] = x;
            total += x;
        }
        rows.sum[i] = rows.sum[i] * factor + fm_warp_sum<S::SIDE>(total);
        rows.most[i] = most;
        FM_UNROLL
        for (int j = 0; j < S::COLUMNS; j++) {
            rows.o[i][j] *= factor;
        }
    }
}

/* Writes a tile's results, or combines them with what other keys gave: with w = exp(lse - log(exp(lse) + exp(old))),
 * out = w o + (1 - w) old. */
template <class S>
__device__ __forceinline__ void store_rows(const forward_args &a, const fm_query_place &at, const forward_rows<S> &rows,
                                           const fm_key_range *range)
{
    const fm_attention_args &args = a.call.args;
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    FM_UNROLL
    for (int i = 0; i < S::PER; i++) {
        const int64_t query = at.query + ty + i * S::SIDE, row = at.batch * args.q_row + query;
        const fm_key_range mine = range[ty + i * S::SIDE];
        const bool seen = mine.first < mine.end, writes = query < args.Tq && (seen || !a.to.merge);
        float lse = seen ? rows.most[i] + logf(rows.sum[i]) : -INFINITY, factor = seen ? 1.0f / rows.sum[i] : 0.0f, keep = 0.0f;
        float *const to_lse = a.to.lse + row * args.H + at.head;
        if (a.to.merge && writes) {
            const float old = *to_lse, larger = fmaxf(old, lse), all = larger + logf(expf(old - larger) + expf(lse - larger));
            factor *= expf(lse - all);
            keep = expf(old - all);
            lse = all;
        }
        __syncwarp();                  /* all read the old lse, one writes the new */
        if (writes && tx == 0) {
            *to_lse = lse;
        }
        for (int j = 0; j < S::COLUMNS; j++) {
            const int column = tx + j * S::SIDE;
            if (writes && column < args.D) {
                put(a.to.out, a.to.wide ? FM_F32 : args.dtype, row * args.ldo + (int64_t)at.head * args.D + column, rows.o[i][j] * factor,
                    keep);
            }
        }
    }
}

template <class S>
__global__ void __launch_bounds__(S::THREADS) forward(const __grid_constant__ forward_args a)
{
    FM_SHARED_DYNAMIC(float, shared);
    float *const q = shared, *const k = q + S::TILE * S::PITCH, *const v = k + S::TILE * S::PITCH, *const p = v + S::TILE * S::PITCH;
    const fm_attention_args &args = a.call.args;
    const fm_query_place at = fm_query_place_of(blockIdx.x, args, S::TILE);
    const int64_t range_at = at.batch * a.call.rows + at.query;
    const fm_key_span span = a.call.span[range_at / FM_SPAN];
    const int64_t head_of_keys = at.batch * args.k_row * args.ldk + (int64_t)(at.head / (args.H / args.K)) * args.D;
    forward_rows<S> rows;
    zero<S>(rows.o);
    FM_UNROLL
    for (int i = 0; i < S::PER; i++) {
        rows.most[i] = -INFINITY;
        rows.sum[i] = 0.0f;
    }
    load_rows<S>(q, a.q, (at.batch * args.q_row + at.query) * args.ldq + (int64_t)at.head * args.D, args.ldq, args.Tq - at.query, args);
    for (int key = span.first; key < span.end; key += S::TILE) {
        __syncthreads();               /* the last tile of keys is used */
        load_rows<S>(k, a.k, head_of_keys + key * args.ldk, args.ldk, args.Tk - key, args);
        load_rows<S>(v, a.v, head_of_keys + key * args.ldk, args.ldk, args.Tk - key, args);
        __syncthreads();
        float s[S::PER][S::PER];
        multiply_rows<S>(s, q, k, args.D);
        softmax<S>(rows, p, s, a.call.ranges + range_at, key, args.scale);
        __syncwarp();                  /* a row of p is its half warp's own */
        add_rows<S>(rows.o, v, [&](int row, int n) { return p[row * S::SCORES + n]; });
    }
    store_rows<S>(a, at, rows, a.call.ranges + range_at);
}

/* ---- backward: see attention_mma_backward_cuda.cu ---- */

struct backward_args {
    fm_attention_call call;
    fm_attention_gradients to;
    const void *q, *k, *v;
};

/* Tiles of a block in shared memory. */
template <class S>
struct backward_tiles {
    float *q, *dout, *k, *v, *p, *ds;

    __device__ __forceinline__ explicit backward_tiles(float *shared)
    {
        q = shared, dout = q + S::TILE * S::PITCH, k = dout + S::TILE * S::PITCH, v = k + S::TILE * S::PITCH;
        p = v + S::TILE * S::PITCH, ds = p + S::TILE * S::SCORES;
    }
};

/* p and ds [TILE, SCORES] of a tile of queries and one of keys, queries in rows. `first_row`: of stats and ranges. */
template <class S>
__device__ __forceinline__ void find_scores(const backward_tiles<S> &t, const backward_args &a, const fm_query_stats *stats,
                                            const fm_key_range *range, int key)
{
    const int tx = (int)threadIdx.x % S::SIDE, ty = (int)threadIdx.x / S::SIDE;
    float s[S::PER][S::PER], dp[S::PER][S::PER];
    multiply_rows<S>(s, t.q, t.k, a.call.args.D);
    multiply_rows<S>(dp, t.dout, t.v, a.call.args.D);
    FM_UNROLL
    for (int i = 0; i < S::PER; i++) {
        const int row = ty + i * S::SIDE;
        const fm_query_stats stat = stats[row];
        const fm_key_range mine = range[row];
        FM_UNROLL
        for (int j = 0; j < S::PER; j++) {
            const int column = tx + j * S::SIDE;
            const float p = fm_key_range_has(mine, key + column) ? exp2f(s[i][j] * a.call.scale_log2 - stat.lse2) : 0.0f;
            t.p[row * S::SCORES + column] = p;
            t.ds[row * S::SCORES + column] = p * (dp[i][j] - stat.delta) * a.call.args.scale;
        }
    }
}

/* Loads a tile of queries and of dout. */
template <class S>
__device__ __forceinline__ void load_queries(const backward_tiles<S> &t, const backward_args &a, int batch, int64_t query, int head)
{
    const fm_attention_args &args = a.call.args;
    const int64_t token = batch * args.q_row + query, at_head = (int64_t)head * args.D;
    load_rows<S>(t.q, a.q, token * args.ldq + at_head, args.ldq, args.Tq - query, args);
    load_rows<S>(t.dout, a.to.dout, token * args.ldo + at_head, args.ldo, args.Tq - query, args);
}

template <class S>
__device__ __forceinline__ void load_keys(const backward_tiles<S> &t, const backward_args &a, int64_t at, int key)
{
    const fm_attention_args &args = a.call.args;
    load_rows<S>(t.k, a.k, at, args.ldk, args.Tk - key, args);
    load_rows<S>(t.v, a.v, at, args.ldk, args.Tk - key, args);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS) queries(const __grid_constant__ backward_args a)
{
    FM_SHARED_DYNAMIC(float, shared);
    const backward_tiles<S> t(shared);
    const fm_attention_args &args = a.call.args;
    const fm_query_place at = fm_query_place_of(blockIdx.x, args, S::TILE);
    const int64_t range_at = at.batch * a.call.rows + at.query;
    const fm_key_span span = a.call.span[range_at / FM_SPAN];
    const fm_query_stats *const stats = a.call.stats + ((int64_t)at.batch * args.H + at.head) * a.call.rows + at.query;
    const int64_t head_of_keys = at.batch * args.k_row * args.ldk + (int64_t)(at.head / (args.H / args.K)) * args.D;
    float dq[S::PER][S::COLUMNS];
    zero<S>(dq);
    load_queries<S>(t, a, at.batch, at.query, at.head);
    for (int key = span.first; key < span.end; key += S::TILE) {
        __syncthreads();
        load_keys<S>(t, a, head_of_keys + key * args.ldk, key);
        __syncthreads();
        find_scores<S>(t, a, stats, a.call.ranges + range_at, key);
        __syncwarp();
        add_rows<S>(dq, t.k, [&](int row, int n) { return t.ds[row * S::SCORES + n]; });
    }
    store_gradients<S>(a.to.dq, (at.batch * args.q_row + at.query) * args.ldq + (int64_t)at.head * args.D, args.ldq, dq, 1.0f,
                       args.Tq - at.query, args, a.to);
}

template <class S>
__global__ void __launch_bounds__(S::THREADS) keys(const __grid_constant__ backward_args a)
{
    FM_SHARED_DYNAMIC(float, shared);
    const backward_tiles<S> t(shared);
    const fm_attention_args &args = a.call.args;
    const unsigned tiles = (unsigned)((args.Tk + S::TILE - 1) / S::TILE), rest = blockIdx.x / (unsigned)args.K;
    const int kv_head = (int)(blockIdx.x % (unsigned)args.K), batch = (int)(rest / tiles), key = (int)(rest % tiles) * S::TILE;
    const int64_t at = ((int64_t)batch * args.k_row + key) * args.ldk + (int64_t)kv_head * args.D;
    const int group = args.H / args.K;
    float dk[S::PER][S::COLUMNS], dv[S::PER][S::COLUMNS];
    zero<S>(dk);
    zero<S>(dv);
    load_keys<S>(t, a, at, key);
    for (int head = kv_head * group; head < (kv_head + 1) * group; head++) {
        for (int64_t query = 0; query < args.Tq; query += S::TILE) {
            const int64_t range_at = batch * a.call.rows + query;
            const fm_key_span span = a.call.span[range_at / FM_SPAN];
            if (span.first >= key + S::TILE || span.end <= key) {
                continue;
            }
            __syncthreads();
            load_queries<S>(t, a, batch, query, head);
            __syncthreads();
            find_scores<S>(t, a, a.call.stats + ((int64_t)batch * args.H + head) * a.call.rows + query, a.call.ranges + range_at, key);
            __syncthreads();
            add_rows<S>(dv, t.dout, [&](int row, int n) { return t.p[n * S::SCORES + row]; });
            add_rows<S>(dk, t.q, [&](int row, int n) { return t.ds[n * S::SCORES + row]; });
        }
    }
    store_gradients<S>(a.to.dk, at, args.ldk, dk, 1.0f, args.Tk - key, args, a.to);
    store_gradients<S>(a.to.dv, at, args.ldk, dv, 1.0f, args.Tk - key, args, a.to);
}

/* ---- launches ---- */

template <class S, class A>
int launch(fm_compute *compute, const char *what, void (*kernel)(A), int64_t tokens, int heads, size_t shared_bytes, const A &a)
{
    const int64_t blocks = a.call.args.B * fm_ceil_div(tokens, S::TILE) * heads;
    return blocks == 0 ? FM_OK : fm_launch(what, kernel, dim3((unsigned)blocks), dim3(S::THREADS), shared_bytes,
                                           fm_cuda_of(compute->device)->stream, a);
}

template <class F>
int with_shape(int D, const F &use)
{
    return D <= 64 ? use(shape<64, 32>()) : D <= 128 ? use(shape<128, 32>()) : use(shape<256, 16>());
}

}

int fm_attention_plain_forward(fm_compute *compute, const fm_attention_call *call, const fm_attention_out *to, const void *q,
                               const void *k, const void *v)
{
    const forward_args a = { *call, *to, q, k, v };
    return with_shape(call->args.D, [&](auto of) {
        using S = decltype(of);
        return launch<S>(compute, "attention", forward<S>, call->args.Tq, call->args.H, 3 * S::ROWS_BYTES + S::SCORES_BYTES, a);
    });
}

int fm_attention_plain_backward(fm_compute *compute, const fm_attention_call *call, const fm_attention_gradients *to, const void *q,
                                const void *k, const void *v)
{
    const backward_args a = { *call, *to, q, k, v };
    return with_shape(call->args.D, [&](auto of) {
        using S = decltype(of);
        const size_t shared_bytes = 4 * S::ROWS_BYTES + 2 * S::SCORES_BYTES;
        FM_TRY(launch<S>(compute, "attention's dq", queries<S>, call->args.Tq, call->args.H, shared_bytes, a));
        return launch<S>(compute, "attention's dk and dv", keys<S>, call->args.Tk, call->args.K, shared_bytes, a);
    });
}
