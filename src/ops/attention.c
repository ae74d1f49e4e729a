/* Attention in tiles: a tile is the queries of QUERIES tokens in all query heads of one key/value head; keys come in chunks. No
 * matrix of T x T exists. Forward: the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). */
#include "ops/cpu.h"
#include "ops/gemm.h"
#include "ops/rows.h"

#include <omp.h>

enum { KEYS = 256 };

/* Tokens of a tile: about 96 rows of queries over the heads that share keys. */
static int64_t tile_tokens(const fm_attention_args *args)
{
    const int group = args->H / args->K;
    const int tokens = 96 / group;
    return tokens < 8 ? 8 : tokens;
}

/* One thread's place in the work, and its memory. */
typedef struct {
    const fm_attention_args *args;
    int batch, kv_head;
    int64_t token;                     /* first token of the tile */
    int64_t tokens;
    int group;                         /* query heads of the key/value head */
    int64_t rows;                      /* tokens * group; row i * group + g */
    int32_t *low, *high;               /* [tokens] visible keys of each token: [low, high) */
    int64_t first_key, end_key;        /* of the whole tile */
    float *q, *s, *o;                  /* [rows, D], [rows, KEYS], [rows, D] */
    float *max, *sum;                  /* [rows] */
    float *k, *v;                      /* [KEYS, D] widened chunks */
    float *dp, *dout, *dq;             /* backward: [rows, KEYS], [rows, D], [rows, D] */
} tile;

static size_t tile_bytes(const fm_attention_args *args, bool backward)
{
    const int64_t tokens = tile_tokens(args), rows = tokens * (args->H / args->K), D = args->D;
    int64_t floats = 2 * tokens + 2 * rows * D + rows * KEYS + 2 * rows + 2 * KEYS * D;
    if (backward) {
        floats += rows * KEYS + 2 * rows * D;
    }
    return ((size_t)floats + 16 * 16) * sizeof(float);
}

static float *take(float **at, int64_t n)
{
    float *const block = *at;
    *at += (n + 15) / 16 * 16;         /* rows start on cache lines */
    return block;
}

static void tile_bind(tile *t, const fm_compute *compute, const fm_attention_args *args, bool backward)
{
    const int64_t tokens = tile_tokens(args), rows = tokens * (args->H / args->K), D = args->D;
    float *at = fm_compute_scratch(compute);
    *t = (tile){ .args = args, .group = args->H / args->K };
    t->low = (int32_t *)(void *)take(&at, tokens);
    t->high = (int32_t *)(void *)take(&at, tokens);
    t->q = take(&at, rows * D);
    t->o = take(&at, rows * D);
    t->s = take(&at, rows * KEYS);
    t->max = take(&at, rows);
    t->sum = take(&at, rows);
    t->k = take(&at, KEYS * D);
    t->v = take(&at, KEYS * D);
    if (backward) {
        t->dp = take(&at, rows * KEYS);
        t->dout = take(&at, rows * D);
        t->dq = take(&at, rows * D);
    }
}

/* Sets the interval of keys that each token of the tile sees. */
static void tile_find_keys(tile *t)
{
    const fm_attention_args *const a = t->args;
    const int32_t *const k_document = a->k_document + t->batch * a->k_row;
    const int32_t *const k_position = a->k_position + t->batch * a->k_row;
    int64_t start = 0, end = 0;        /* keys of the document of the token before */
    int32_t document = -1;
    t->first_key = a->Tk;
    t->end_key = 0;
    for (int64_t i = 0; i < t->tokens; i++) {
        const int64_t at = t->batch * a->q_row + t->token + i;
        const int32_t position = a->q_position[at];
        if (a->q_document[at] != document) {
            document = a->q_document[at];
            for (start = 0; start < a->Tk && k_document[start] != document; start++) {
            }
            for (end = start; end < a->Tk && k_document[end] == document; end++) {
            }
        }
        int64_t low = start, high = start;
        if (document >= 0 && end > start) {
            const int64_t behind = position - k_position[start];   /* keys of the document before this query */
            high = behind < 0 ? start : start + behind + 1 < end ? start + behind + 1 : end;
            if (a->window > 0 && behind - a->window + 1 > 0) {
                low = start + behind - a->window + 1 < high ? start + behind - a->window + 1 : high;
            }
        }
        t->low[i] = (int32_t)low;
        t->high[i] = (int32_t)high;
        if (high > low) {
            t->first_key = low < t->first_key ? low : t->first_key;
            t->end_key = high > t->end_key ? high : t->end_key;
        }
    }
}

/* Element index of token i of the tile, query head g of the group, in an array with heads of width D and ld elements a token. */
static int64_t query_at(const tile *t, int64_t i, int g, int64_t ld)
{
    return (t->batch * t->args->q_row + t->token + i) * ld + (int64_t)(t->kv_head * t->group + g) * t->args->D;
}

static int64_t row_at(const tile *t, int64_t i, int g)
{
    return (t->batch * t->args->q_row + t->token + i) * t->args->H + t->kv_head * t->group + g;
}

FM_ROW_KERNEL
static void scale_row(float *x, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

static void tile_load(const tile *t, float *out, const void *in, int64_t ld, float factor)
{
    const int64_t D = t->args->D;
    for (int64_t i = 0; i < t->tokens; i++) {
        for (int g = 0; g < t->group; g++) {
            float *const row = out + (i * t->group + g) * D;
            fm_row_load(row, fm_at(in, t->args->dtype, query_at(t, i, g, ld)), t->args->dtype, D);
            if (factor != 1.0f) {
                scale_row(row, factor, D);
            }
        }
    }
}

/* A chunk of keys or values as fp32 rows: in place where they are fp32. */
static const float *load_keys(const tile *t, float *scratch, const void *in, int64_t first, int64_t n, int64_t *ld)
{
    const fm_attention_args *const a = t->args;
    const int64_t at = (t->batch * a->k_row + first) * a->ldk + (int64_t)t->kv_head * a->D;
    if (a->dtype == FM_F32) {
        *ld = a->ldk;
        return (const float *)in + at;
    }
    for (int64_t j = 0; j < n; j++) {
        fm_row_load(scratch + j * a->D, fm_at(in, a->dtype, at + j * a->ldk), a->dtype, a->D);
    }
    *ld = a->D;
    return scratch;
}

/* The part of a row's interval that lies in the chunk of n keys from `first`. */
static void clip(int64_t *low, int64_t *high, const tile *t, int64_t i, int64_t first, int64_t n)
{
    *low = t->low[i] - first < 0 ? 0 : t->low[i] - first;
    *high = t->high[i] - first > n ? n : t->high[i] - first;
    if (*high < *low) {
        *low = *high = 0;
    }
}

/* s becomes exp(s - max) on [low, high) and 0 elsewhere; max and sum are updated. Returns the factor for what was summed before. */
FM_ROW_KERNEL
static float softmax_row(float *restrict s, int64_t low, int64_t high, int64_t n, float *max, float *sum)
{
    float largest = *max;
    for (int64_t j = low; j < high; j++) {
        largest = s[j] > largest ? s[j] : largest;
    }
    for (int64_t j = 0; j < low; j++) {
        s[j] = 0.0f;
    }
    for (int64_t j = high; j < n; j++) {
        s[j] = 0.0f;
    }
    float lanes[16] = { 0 };
    int64_t j = low;
    for (; j + 16 <= high; j += 16) {
        for (int k = 0; k < 16; k++) {
            s[j + k] = fm_exp(s[j + k] - largest);
            lanes[k] += s[j + k];
        }
    }
    float total = 0.0f;
    for (; j < high; j++) {
        s[j] = fm_exp(s[j] - largest);
        total += s[j];
    }
    for (int k = 0; k < 16; k++) {
        total += lanes[k];
    }
    const float factor = *max == -INFINITY ? 0.0f : fm_exp(*max - largest);
    *sum = *sum * factor + total;
    *max = largest;
    return factor;
}

static void forward_tile(tile *t, const void *q, const void *k, const void *v)
{
    const fm_attention_args *const a = t->args;
    const int64_t D = a->D;
    tile_load(t, t->q, q, a->ldq, a->scale);
    memset(t->o, 0, (size_t)(t->rows * D) * sizeof(float));
    for (int64_t r = 0; r < t->rows; r++) {
        t->max[r] = -INFINITY;
        t->sum[r] = 0.0f;
    }
    for (int64_t first = t->first_key; first < t->end_key; first += KEYS) {
        const int64_t n = t->end_key - first < KEYS ? t->end_key - first : KEYS;
        int64_t ldk, ldv;
        const float *const keys = load_keys(t, t->k, k, first, n, &ldk);
        const float *const values = load_keys(t, t->v, v, first, n, &ldv);
        fm_gemm_small(false, true, t->rows, n, D, t->q, D, keys, ldk, 0.0f, t->s, KEYS);
        for (int64_t r = 0; r < t->rows; r++) {
            int64_t low, high;
            clip(&low, &high, t, r / t->group, first, n);
            if (high > low) {
                const float factor = softmax_row(t->s + r * KEYS, low, high, n, &t->max[r], &t->sum[r]);
                if (factor != 1.0f) {
                    scale_row(t->o + r * D, factor, D);
                }
            } else {
                memset(t->s + r * KEYS, 0, (size_t)n * sizeof(float));
            }
        }
        fm_gemm_small(false, false, t->rows, D, n, t->s, KEYS, values, ldv, 1.0f, t->o, D);
    }
}

/* Writes a finished tile, or combines it with what other keys gave:
 * with w = exp(lse - log(exp(lse) + exp(old))), out = w o + (1 - w) old. */
static void store_tile(const tile *t, void *out, enum fm_dtype out_dtype, float *lse, bool merge)
{
    const int64_t D = t->args->D;
    for (int64_t i = 0; i < t->tokens; i++) {
        for (int g = 0; g < t->group; g++) {
            const int64_t r = i * t->group + g, at = row_at(t, i, g);
            void *const to = fm_at(out, out_dtype, query_at(t, i, g, t->args->ldo));
            float *const row = t->o + r * D;
            const bool seen = t->sum[r] > 0.0f;
            const float here = seen ? t->max[r] + logf(t->sum[r]) : -INFINITY;
            if (!merge) {
                scale_row(row, seen ? 1.0f / t->sum[r] : 0.0f, D);
                fm_row_store(to, out_dtype, row, D);
                lse[at] = here;
            } else if (seen) {
                const float old = lse[at], larger = old > here ? old : here;
                const float all = larger + logf(expf(old - larger) + expf(here - larger));
                scale_row(row, expf(here - all) / t->sum[r], D);
                scale_row(to, expf(old - all), D);
                fm_row_add(to, FM_F32, row, NULL, D);
                lse[at] = all;
            }
        }
    }
}

/* Sets a tile to work item `index` of batch rows x key/value heads x tiles. */
static void tile_place(tile *t, int64_t index, int64_t tiles)
{
    const fm_attention_args *const a = t->args;
    const int64_t tokens = tile_tokens(a);
    t->batch = (int)(index / (tiles * a->K));
    t->kv_head = (int)(index / tiles % a->K);
    t->token = index % tiles * tokens;
    t->tokens = a->Tq - t->token < tokens ? a->Tq - t->token : tokens;
    t->rows = t->tokens * t->group;
    tile_find_keys(t);
}

int fm_cpu_attention(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v,
                     const fm_attention_args *args, bool merge)
{
    FM_ASSERT(!merge || out_dtype == FM_F32);
    FM_TRY(fm_compute_reserve(compute, tile_bytes(args, false)));
    const int64_t tiles = (args->Tq + tile_tokens(args) - 1) / tile_tokens(args);
    const int64_t work = tiles * args->B * args->K;
#pragma omp parallel
    {
        tile t;
        tile_bind(&t, compute, args, false);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < work; i++) {
            tile_place(&t, work - 1 - i, tiles);   /* the last tokens see most keys: begin with them */
            forward_tile(&t, q, k, v);
            store_tile(&t, out, out_dtype, lse, merge);
        }
    }
    return FM_OK;
}

int fm_cpu_attention_delta(fm_compute *compute, float *delta, const void *dout, const void *out, const fm_attention_args *args)
{
    FM_TRY(fm_compute_reserve(compute, 2 * (size_t)args->D * sizeof(float)));
#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < args->B * args->Tq; i++) {
        const int64_t row = i / args->Tq * args->q_row + i % args->Tq;
        float *const scratch = fm_compute_scratch(compute);
        for (int h = 0; h < args->H; h++) {
            const int64_t at = row * args->ldo + (int64_t)h * args->D;
            delta[row * args->H + h] = fm_row_dot(fm_row_view(scratch, fm_at(dout, args->dtype, at), args->dtype, args->D),
                                           fm_row_view(scratch + args->D, fm_at(out, args->dtype, at), args->dtype, args->D), args->D);
        }
    }
    return FM_OK;
}

/* s becomes p = exp(s - lse) and dp becomes ds = p (dp - delta) on [low, high); both 0 elsewhere. */
FM_ROW_KERNEL
static void backward_row(float *restrict s, float *restrict dp, float lse, float delta, int64_t low, int64_t high, int64_t n)
{
    for (int64_t j = 0; j < low; j++) {
        s[j] = dp[j] = 0.0f;
    }
    for (int64_t j = low; j < high; j++) {
        s[j] = fm_exp(s[j] - lse);
        dp[j] = s[j] * (dp[j] - delta);
    }
    for (int64_t j = high; j < n; j++) {
        s[j] = dp[j] = 0.0f;
    }
}

/* Gradients of one tile: dk and dv [Tk, D] of the thread's part are added to, the tile's dq is complete. */
static void backward_tile(tile *t, float *dk, float *dv, const void *dout, const float *lse, const float *delta, const void *q,
                          const void *k, const void *v)
{
    const fm_attention_args *const a = t->args;
    const int64_t D = a->D;
    tile_load(t, t->q, q, a->ldq, a->scale);
    tile_load(t, t->dout, dout, a->ldo, 1.0f);
    memset(t->dq, 0, (size_t)(t->rows * D) * sizeof(float));
    for (int64_t first = t->first_key; first < t->end_key; first += KEYS) {
        const int64_t n = t->end_key - first < KEYS ? t->end_key - first : KEYS;
        int64_t ldk, ldv;
        const float *const keys = load_keys(t, t->k, k, first, n, &ldk);
        const float *const values = load_keys(t, t->v, v, first, n, &ldv);
        fm_gemm_small(false, true, t->rows, n, D, t->q, D, keys, ldk, 0.0f, t->s, KEYS);
        fm_gemm_small(false, true, t->rows, n, D, t->dout, D, values, ldv, 0.0f, t->dp, KEYS);
        for (int64_t i = 0; i < t->tokens; i++) {
            int64_t low, high;
            clip(&low, &high, t, i, first, n);
            for (int g = 0; g < t->group; g++) {
                const int64_t r = i * t->group + g, at = row_at(t, i, g);
                backward_row(t->s + r * KEYS, t->dp + r * KEYS, lse[at], delta[at], low, high, n);
            }
        }
        fm_gemm_small(false, false, t->rows, D, n, t->dp, KEYS, keys, ldk, 1.0f, t->dq, D);
        fm_gemm_small(true, false, n, D, t->rows, t->dp, KEYS, t->q, D, 1.0f, dk + first * D, D);
        fm_gemm_small(true, false, n, D, t->rows, t->s, KEYS, t->dout, D, 1.0f, dv + first * D, D);
    }
}

static void store_gradient(void *out, enum fm_dtype dtype, const float *row, int64_t n, bool add)
{
    if (add) {
        fm_row_add(out, FM_F32, row, NULL, n);
    } else {
        fm_row_store(out, dtype, row, n);
    }
}

/* In how many parts the tiles of one key/value head are divided, so that all threads have work. Depends on shapes and threads only. */
static int choose_parts(const fm_attention_args *args, int64_t tiles)
{
    const int threads = omp_get_max_threads(), heads = args->B * args->K;
    int parts = 1;
    while (parts < 8 && parts < tiles && heads * parts < 4 * threads && heads * parts % threads != 0) {
        parts++;
    }
    while (parts < 8 && parts < tiles && heads * parts < threads) {
        parts++;
    }
    return parts;
}

/* Sums the parts of dk or dv of one key/value head in order and writes them. */
static void store_key_gradients(void *out, enum fm_dtype dtype, float *parts, int n_parts, int64_t part_stride, int batch, int kv_head,
                                const fm_attention_args *a, bool add)
{
    for (int p = 1; p < n_parts; p++) {
        fm_row_add(parts, FM_F32, parts + p * part_stride, NULL, a->Tk * a->D);
    }
    for (int64_t j = 0; j < a->Tk; j++) {
        const int64_t at = (batch * a->k_row + j) * a->ldk + (int64_t)kv_head * a->D;
        store_gradient(fm_at(out, dtype, at), dtype, parts + j * a->D, a->D, add);
    }
}

int fm_cpu_attention_backward(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                              const float *lse, const float *delta, const void *q, const void *k, const void *v,
                              const fm_attention_args *args, bool add)
{
    FM_ASSERT(!add || grad_dtype == FM_F32);
    FM_TRY(fm_compute_reserve(compute, tile_bytes(args, true)));
    const int64_t tiles = (args->Tq + tile_tokens(args) - 1) / tile_tokens(args);
    const int parts = choose_parts(args, tiles), heads = args->B * args->K;
    const int64_t stride = args->Tk * args->D;
    float *const sums = fm_alloc_array((int64_t)heads * parts * 2 * stride, sizeof(float), FM_MEMORY_WORKSPACE);
    if (sums == NULL) {
        return FM_ERR_MEMORY;
    }
#pragma omp parallel
    {
        tile t;
        tile_bind(&t, compute, args, true);
#pragma omp for schedule(dynamic, 1)
        for (int w = 0; w < heads * parts; w++) {
            float *const dk_part = sums + w * 2 * stride, *const dv_part = dk_part + stride;
            for (int64_t i = w % parts; i < tiles; i += parts) {
                tile_place(&t, w / parts * tiles + i, tiles);
                backward_tile(&t, dk_part, dv_part, dout, lse, delta, q, k, v);
                for (int64_t r = 0; r < t.rows; r++) {
                    float *const row = t.dq + r * args->D;
                    scale_row(row, args->scale, args->D);
                    store_gradient(fm_at(dq, grad_dtype, query_at(&t, r / t.group, (int)(r % t.group), args->ldq)), grad_dtype, row,
                                   args->D, add);
                }
            }
        }
#pragma omp for schedule(static)
        for (int w = 0; w < heads; w++) {
            float *const first = sums + (int64_t)w * parts * 2 * stride;
            store_key_gradients(dk, grad_dtype, first, parts, 2 * stride, w / args->K, w % args->K, args, add);
            store_key_gradients(dv, grad_dtype, first + stride, parts, 2 * stride, w / args->K, w % args->K, args, add);
        }
    }
    fm_free(sums);
    return FM_OK;
}
