/* AdamW and sums of squares over many tensors. The list of tensors goes along as a kernel's argument, LISTED at a time: no copy, no
 * memory to free, nothing to wait for. Blocks take tiles of the tensors in turn. Deterministic. */
#include "ops/cuda_kernel.h"

enum { THREADS = 256, V = 8, ADAMW_TILE = THREADS * V, LISTED = 48 };

/* Which tensor a tile belongs to: the last one whose first tile is not above it. */
static __device__ __forceinline__ int find_tensor(const int *first, int count, int tile)
{
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (first[middle] <= tile) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* ---- AdamW ---- */

struct adamw_item {
    void *master, *weight, *m, *v;
    const float *gradient;
    int64_t n;
    float keep;                        /* 1 - lr weight_decay */
    bool wide;                         /* all of its arrays lie on 16 bytes */
};

struct adamw_list {
    adamw_item item[LISTED];
    int first[LISTED];                 /* tile */
    int count;
    enum fm_dtype weight_dtype;
    float step, root, new1, new2, beta2, eps, scale;
};

template <int W> static __device__ __forceinline__ void store_weight(void *weight, enum fm_dtype dtype, int64_t i, const float (&w)[W])
{
    if (dtype == FM_BF16) {
        fm_store(static_cast<fm_bf16 *>(weight) + i, w);
    } else if (dtype == FM_F16) {
        fm_store(static_cast<fm_f16 *>(weight) + i, w);
    } else {
        fm_store(static_cast<float *>(weight) + i, w);
    }
}

/* torch.optim.AdamW on W neighbours; the formula stands in adamw.c. */
template <class M, class S, int W>
static __device__ __forceinline__ void update(const adamw_list &list, const adamw_item &item, int64_t i)
{
    M *const master = static_cast<M *>(item.master) + i;
    S *const first = static_cast<S *>(item.m) + i, *const second = static_cast<S *>(item.v) + i;
    float w[W], m[W], v[W], g[W];
    fm_load(g, item.gradient + i);
    fm_load(w, master);
    fm_load(m, first);
    fm_load(v, second);
    FM_UNROLL
    for (int k = 0; k < W; k++) {
        const float scaled = g[k] * list.scale;
        m[k] += list.new1 * (scaled - m[k]);
        v[k] = list.beta2 * v[k] + list.new2 * scaled * scaled;
        w[k] = w[k] * item.keep - list.step * m[k] / (sqrtf(v[k]) * list.root + list.eps);
    }
    fm_store(master, w);
    fm_store(first, m);
    fm_store(second, v);
    if (item.weight != nullptr) {
        store_weight(item.weight, list.weight_dtype, i, w);
    }
}

template <class M, class S> static __global__ void __launch_bounds__(THREADS) adamw_kernel(const __grid_constant__ adamw_list list)
{
    const int t = find_tensor(list.first, list.count, static_cast<int>(blockIdx.x));
    const adamw_item &item = list.item[t];
    const int64_t start = static_cast<int64_t>(static_cast<int>(blockIdx.x) - list.first[t]) * ADAMW_TILE;
    const int64_t mine = start + static_cast<int64_t>(threadIdx.x) * V;
    if (item.wide && mine + V <= item.n) {
        update<M, S, V>(list, item, mine);
    } else if (item.wide) {
        for (int64_t i = mine; i < item.n; i++) {
            update<M, S, 1>(list, item, i);
        }
    } else {
        for (int64_t i = start + threadIdx.x; i < start + ADAMW_TILE && i < item.n; i += THREADS) {
            update<M, S, 1>(list, item, i);
        }
    }
}

static bool on_16_bytes(const void *at)
{
    return reinterpret_cast<uintptr_t>(at) % 16 == 0;
}

static adamw_item item_of(const fm_adamw_part *part, const fm_adamw_args *args)
{
    const bool wide = on_16_bytes(part->master) && on_16_bytes(part->weight) && on_16_bytes(part->m) && on_16_bytes(part->v) &&
                      on_16_bytes(part->gradient);
    return adamw_item{ part->master, part->weight, part->m, part->v, part->gradient, part->n,
                       static_cast<float>(1.0 - args->lr * part->weight_decay), wide };
}

static int launch_adamw(fm_compute *compute, const adamw_list &list, int tiles, enum fm_dtype master_dtype, enum fm_dtype state_dtype)
{
    return fm_with_dtype(master_dtype, [&](auto m_zero) {
        using M = decltype(m_zero);
        return fm_with_dtype(state_dtype, [&](auto s_zero) {
            using S = decltype(s_zero);
            return fm_launch("adamw", adamw_kernel<M, S>, static_cast<unsigned>(tiles), THREADS, 0, fm_stream(compute), list);
        });
    });
}

int fm_cuda_adamw(fm_compute *compute, const fm_adamw_part *parts, int n_parts, enum fm_dtype master_dtype, enum fm_dtype dtype,
                  enum fm_dtype state_dtype, const fm_adamw_args *args)
{
    adamw_list list = {};
    list.weight_dtype = dtype;
    list.step = static_cast<float>(args->lr / args->correction1);
    list.root = static_cast<float>(1.0 / sqrt(args->correction2));
    list.new1 = static_cast<float>(1.0 - args->beta1);
    list.new2 = static_cast<float>(1.0 - args->beta2);
    list.beta2 = static_cast<float>(args->beta2);
    list.eps = static_cast<float>(args->eps);
    list.scale = static_cast<float>(args->gradient_scale);
    int tiles = 0;
    for (int p = 0; p < n_parts; p++) {
        if (parts[p].n > 0) {
            list.item[list.count] = item_of(&parts[p], args);
            list.first[list.count++] = tiles;
            tiles += static_cast<int>(fm_ceil_div(parts[p].n, ADAMW_TILE));
        }
        if (list.count == LISTED || (p == n_parts - 1 && list.count > 0)) {
            FM_TRY(launch_adamw(compute, list, tiles, master_dtype, state_dtype));
            list.count = tiles = 0;
        }
    }
    return FM_OK;
}

/* ---- sums of squares ---- */

enum { SPANS = 128, PACKS = 16, SQUARES_TILE = THREADS * 4 * PACKS };

struct span_list {
    fm_span span[SPANS];
    int first[SPANS + 1];              /* tile; the last is their number */
    int count;
};

/* partial [tiles] =; each thread's numbers in order, then the block's tree. */
static __global__ void __launch_bounds__(THREADS) squares_kernel(double *partial, const __grid_constant__ span_list list)
{
    const int tile = static_cast<int>(blockIdx.x), s = find_tensor(list.first, list.count, tile);
    const float *const x = list.span[s].x;
    const int64_t start = static_cast<int64_t>(tile - list.first[s]) * SQUARES_TILE, end = min(start + SQUARES_TILE, list.span[s].n);
    double sum = 0.0;
    if (reinterpret_cast<uintptr_t>(x) % 16 == 0 && end - start == SQUARES_TILE) {
        FM_UNROLL8
        for (int p = 0; p < PACKS; p++) {
            float v[4];
            fm_load(v, x + start + (p * THREADS + static_cast<int>(threadIdx.x)) * 4);
            FM_UNROLL
            for (int k = 0; k < 4; k++) {
                sum += static_cast<double>(v[k]) * static_cast<double>(v[k]);
            }
        }
    } else {
        for (int64_t i = start + threadIdx.x; i < end; i += THREADS) {
            sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
        }
    }
    sum = fm_block_sum<THREADS>(sum);
    if (threadIdx.x == 0) {
        partial[tile] = sum;
    }
}

/* A block a span: out = the sum of its tiles. */
static __global__ void __launch_bounds__(THREADS) merge_kernel(double *out, const double *partial, const __grid_constant__ span_list list)
{
    const int s = static_cast<int>(blockIdx.x);
    double sum = 0.0;
    for (int t = list.first[s] + static_cast<int>(threadIdx.x); t < list.first[s + 1]; t += THREADS) {
        sum += partial[t];
    }
    sum = fm_block_sum<THREADS>(sum);
    if (threadIdx.x == 0) {
        out[s] = sum;
    }
}

static int64_t span_tiles(const fm_span *span)
{
    return fm_ceil_div(span->n, SQUARES_TILE);
}

int fm_cuda_sum_squares(fm_compute *compute, double *out, const fm_span *spans, int n_spans)
{
    int64_t most = 1;
    for (int s = 0; s < n_spans; s += SPANS) {
        int64_t tiles = 0;
        for (int k = s; k < s + SPANS && k < n_spans; k++) {
            tiles += span_tiles(&spans[k]);
        }
        most = tiles > most ? tiles : most;
    }
    FM_TRY(fm_compute_reserve_shared(compute, static_cast<size_t>(most) * sizeof(double)));
    double *const partial = static_cast<double *>(compute->shared);
    for (int s = 0; s < n_spans; s += SPANS) {
        span_list list = {};
        for (int k = s; k < s + SPANS && k < n_spans; k++) {
            list.span[list.count] = spans[k];
            list.first[list.count + 1] = list.first[list.count] + static_cast<int>(span_tiles(&spans[k]));
            list.count++;
        }
        if (list.first[list.count] > 0) {
            FM_TRY(fm_launch("squares", squares_kernel, static_cast<unsigned>(list.first[list.count]), THREADS, 0, fm_stream(compute),
                             partial, list));
        }
        const unsigned blocks = static_cast<unsigned>(list.count);
        FM_TRY(fm_launch("sum of squares", merge_kernel, blocks, THREADS, 0, fm_stream(compute), out + s, partial, list));
    }
    return FM_OK;
}
