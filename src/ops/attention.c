/* Attention in tiles: a tile is the queries of a few tokens in all query heads of one key/value head; keys come in chunks. No
 * matrix of T x T exists. Forward: the online softmax (Milakov and Gimelshein 2018; Dao et al. 2022). Keys and values are brought
 * into the order in which the products read them once a batch row (tile.h: units, panels); softmax and sums are fp32. */
#include "ops/cpu.h"
#include "ops/rows.h"
#include "ops/tile.h"

#include <omp.h>

/* Keys of a chunk; floats between rows of scores (not a power of two: a column of them must not fall on one set of the cache). */
enum { KEYS = 256, SCORES = KEYS + 16 };

/* A call's sizes, and the packed keys and values of one batch row, one after another for each key/value head. */
typedef struct {
    const fm_attention_args *args;
    enum fm_dtype kind;                /* of the products */
    int64_t per;                       /* numbers in a unit */
    int64_t tokens, rows;              /* of a whole tile: rows = tokens * query heads of a key/value head */
    int64_t tiles;
    int64_t width;                     /* D rounded up to 16; what is added is 0 */
    int64_t units;                     /* of such a row */
    int64_t keys;                      /* Tk rounded up to panels */
    int64_t head_units;                /* of one key/value head in each of these: */
    uint32_t *k_panels, *v_panels;     /* [keys / FM_TILE_PANEL, units, FM_TILE_PANEL] */
    uint32_t *k_rows, *v_rows;         /* [keys / per, width] */
    int parts;                         /* backward: of the tiles of a head */
    float *sums;                       /* [K, parts, dk and dv, keys, width] */
} plan;

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* In how many parts the tiles of one key/value head are divided, so that all threads have work. Depends on shapes and threads only. */
static int choose_parts(const plan *p)
{
    const int threads = omp_get_max_threads(), heads = p->args->K;
    int parts = 1;
    while (parts < 8 && parts < p->tiles && heads * parts < 4 * threads && heads * parts % threads != 0) {
        parts++;
    }
    while (parts < 8 && parts < p->tiles && heads * parts < threads) {
        parts++;
    }
    return parts;
}

/* Tiles of about 96 rows. Forward needs K transposed and V; backward K both ways and V transposed. */
static int plan_make(plan *p, fm_compute *compute, const fm_attention_args *args, bool backward)
{
    const int group = args->H / args->K;
    *p = (plan){ .args = args, .kind = fm_tile_kind(args->dtype) };
    p->per = p->kind == FM_BF16 ? 2 : 1;
    p->tokens = 96 / group < 8 ? 8 : 96 / group;
    p->rows = p->tokens * group;
    p->tiles = (args->Tq + p->tokens - 1) / p->tokens;
    p->width = round_up(args->D, 16);
    p->units = p->width / p->per;
    p->keys = round_up(args->Tk, FM_TILE_PANEL);
    p->head_units = p->keys * p->units;
    const int64_t all = p->head_units * args->K;
    p->parts = choose_parts(p);
    const int64_t sums = backward ? args->K * p->parts * 2 * p->keys * p->width : 0;
    FM_TRY(fm_compute_reserve_shared(compute, (size_t)(all * (backward ? 3 : 2) + sums) * sizeof(uint32_t)));
    p->k_panels = compute->shared;
    if (backward) {
        p->k_rows = p->k_panels + all;
        p->v_panels = p->k_rows + all;
        p->sums = (float *)(void *)(p->v_panels + all);
    } else {
        p->v_rows = p->k_panels + all;
    }
    return FM_OK;
}

/* A row of D numbers as units, padded with zeros. */
static void copy_units(uint32_t *out, const plan *p, const void *in)
{
    const int64_t D = p->args->D;
    memset(out + D / p->per, 0, (size_t)(p->units - D / p->per) * sizeof *out);
    if (p->kind == FM_BF16) {
        memcpy(out, in, (size_t)D * sizeof(uint16_t));
    } else {
        fm_row_load((float *)(void *)out, in, p->args->dtype, D);
    }
}

/* Panel `index` of one head of keys or values; `in` is its first row. panel or rows may be NULL. */
static void pack_panel(const plan *p, uint32_t *panel, uint32_t *rows, const void *in, int64_t n, uint32_t *scratch)
{
    const fm_attention_args *const a = p->args;
    for (int64_t j = 0; j < n; j++) {
        copy_units(scratch + j * p->units, p, fm_at(in, a->dtype, j * a->ldk));
    }
    if (panel != NULL) {
        fm_tile_transpose(panel, scratch, p->units, n, p->units);
    }
    if (rows == NULL) {
        return;
    }
    memset(rows, 0, (size_t)(FM_TILE_PANEL * p->units) * sizeof *rows);
    if (p->kind == FM_F32) {
        memcpy(rows, scratch, (size_t)(n * p->units) * sizeof *rows);
        return;
    }
    for (int64_t j = 0; j < n; j += 2) {
        fm_tile_interleave(rows + j / 2 * p->width, fm_at(in, a->dtype, j * a->ldk),
                           j + 1 < n ? fm_at(in, a->dtype, (j + 1) * a->ldk) : NULL, a->D, p->width);
    }
}

/* Packs one batch row of keys or values. Inside a parallel region, by all its threads; ends with a barrier. */
static void pack(const plan *p, const fm_compute *compute, uint32_t *panels, uint32_t *rows, const void *in, int batch)
{
    const fm_attention_args *const a = p->args;
    const int64_t n_panels = p->keys / FM_TILE_PANEL, panel_units = FM_TILE_PANEL * p->units;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < a->K * n_panels; i++) {
        const int64_t first = i % n_panels * FM_TILE_PANEL, left = a->Tk - first;
        const int64_t at = (batch * a->k_row + first) * a->ldk + i / n_panels * a->D;
        pack_panel(p, panels == NULL ? NULL : panels + i * panel_units, rows == NULL ? NULL : rows + i * panel_units,
                   fm_at(in, a->dtype, at), left < FM_TILE_PANEL ? left : FM_TILE_PANEL, fm_compute_scratch(compute));
    }
}

/* One thread's place in the work, and its memory. */
typedef struct {
    const plan *p;
    const fm_attention_args *args;
    int batch, kv_head;
    int64_t token;                     /* first token of the tile */
    int64_t tokens;
    int group;                         /* query heads of the key/value head */
    int64_t rows;                      /* tokens * group; row i * group + g */
    int32_t *low, *high;               /* [tokens] visible keys of each token: [low, high) */
    int64_t first_key, end_key;        /* of the whole tile */
    float *max, *sum;                  /* [rows] */
    uint32_t *q;                       /* [rows, units] */
    float *s, *o;                      /* [rows, SCORES], [rows, width]; s becomes units in place */
    uint32_t *dout;                    /* backward: [rows, units] */
    float *dp, *dq;                    /* [rows, SCORES], [rows, width] */
    uint32_t *q_pairs, *dout_pairs;    /* kind BF16: [rows / 2, width], pairs of rows */
    uint32_t *p_pairs, *ds_pairs;      /* [rows / 2, SCORES] */
} tile;

static void *take(uintptr_t *at, int64_t n)
{
    void *const block = (void *)*at;
    *at += (uintptr_t)round_up(n * 4, 64);   /* rows start on cache lines */
    return block;
}

/* Divides a block among the arrays of a tile; returns its size. With `block` NULL only the size means something. */
static size_t tile_bind(tile *t, const plan *p, void *block, bool backward)
{
    uintptr_t at = (uintptr_t)block;   /* an integer: there may be no block */
    *t = (tile){ .p = p, .args = p->args, .group = p->args->H / p->args->K };
    t->low = take(&at, p->tokens);
    t->high = take(&at, p->tokens);
    t->max = take(&at, p->rows);
    t->sum = take(&at, p->rows);
    t->q = take(&at, p->rows * p->units);
    t->s = take(&at, p->rows * SCORES);
    t->o = take(&at, p->rows * p->width);
    if (backward) {
        t->dout = take(&at, p->rows * p->units);
        t->dp = take(&at, p->rows * SCORES);
        t->dq = take(&at, p->rows * p->width);
    }
    if (backward && p->kind == FM_BF16) {
        t->q_pairs = take(&at, (p->rows + 1) / 2 * p->width);
        t->dout_pairs = take(&at, (p->rows + 1) / 2 * p->width);
        t->p_pairs = take(&at, (p->rows + 1) / 2 * SCORES);
        t->ds_pairs = take(&at, (p->rows + 1) / 2 * SCORES);
    }
    return (size_t)(at - (uintptr_t)block);
}

/* Scratch of a thread: a tile, or the rows of a panel while packing. */
static int reserve_tiles(fm_compute *compute, const plan *p, bool backward)
{
    tile t;
    const size_t of_tile = tile_bind(&t, p, NULL, backward), of_panel = (size_t)(FM_TILE_PANEL * p->units) * sizeof(uint32_t);
    return fm_compute_reserve(compute, of_tile > of_panel ? of_tile : of_panel);
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

/* Sets a tile to work item `index` of tiles x key/value heads. */
static void tile_place(tile *t, int batch, int64_t token_tile, int kv_head)
{
    const plan *const p = t->p;
    t->batch = batch;
    t->kv_head = kv_head;
    t->token = token_tile * p->tokens;
    t->tokens = t->args->Tq - t->token < p->tokens ? t->args->Tq - t->token : p->tokens;
    t->rows = t->tokens * t->group;
    tile_find_keys(t);
    t->first_key = t->first_key / FM_TILE_PANEL * FM_TILE_PANEL;
}

FM_ROW_KERNEL
static void scale_row(float *x, float factor, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        x[i] *= factor;
    }
}

/* The tile's rows of q or dout as units [rows, units] and (pairs not NULL) as pairs of rows [rows / 2, width]. */
static void tile_load(const tile *t, uint32_t *out, uint32_t *pairs, const void *in, int64_t ld)
{
    const plan *const p = t->p;
    for (int64_t r = 0; r < t->rows; r++) {
        copy_units(out + r * p->units, p, fm_at(in, t->args->dtype, query_at(t, r / t->group, (int)(r % t->group), ld)));
    }
    for (int64_t r = 0; pairs != NULL && r < t->rows; r += 2) {
        const uint16_t *const even = (const uint16_t *)(const void *)(out + r * p->units);
        fm_tile_interleave(pairs + r / 2 * p->width, even, r + 1 < t->rows ? even + 2 * p->units : NULL, p->width, p->width);
    }
}

/* s [rows, n] = rows of units times panels of one head, from key `first`. n is a multiple of 16. */
static void multiply_panels(const tile *t, float *s, const uint32_t *rows, const uint32_t *panels, int64_t first, int64_t n)
{
    const plan *const p = t->p;
    for (int64_t j = 0; j < n; j += FM_TILE_PANEL) {
        fm_tile_multiply(p->kind, s + j, SCORES, rows, p->units, 1, panels + t->kv_head * p->head_units + (first + j) * p->units,
                         FM_TILE_PANEL, t->rows, n - j < FM_TILE_PANEL ? n - j : FM_TILE_PANEL, p->units, false);
    }
}

/* out [rows, width] += s [rows, n], made units of keys in place, times the rows of one head of k or v from key `first`. */
static void multiply_rows(const tile *t, float *out, float *s, const uint32_t *rows, int64_t first, int64_t n)
{
    const plan *const p = t->p;
    for (int64_t r = 0; p->kind == FM_BF16 && r < t->rows; r++) {
        fm_tile_narrow((uint16_t *)(void *)(s + r * SCORES), s + r * SCORES, n);
    }
    fm_tile_multiply(p->kind, out, p->width, (const uint32_t *)(const void *)s, SCORES, 1,
                     rows + t->kv_head * p->head_units + first * p->units, p->width, t->rows, p->width, n / p->per, true);
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

/* With x = scale s: s becomes exp(x - max) on [low, high) and 0 elsewhere; max (of x) and sum are updated. Returns the factor for
 * what was summed before. */
FM_ROW_KERNEL
static float softmax_row(float *restrict s, float scale, int64_t low, int64_t high, int64_t n, float *max, float *sum)
{
    const float here = scale * fm_row_max(s + low, high - low), largest = here > *max ? here : *max;
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
            s[j + k] = fm_exp(s[j + k] * scale - largest);
            lanes[k] += s[j + k];
        }
    }
    float total = 0.0f;
    for (; j < high; j++) {
        s[j] = fm_exp(s[j] * scale - largest);
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

static void forward_tile(tile *t, const void *q)
{
    const fm_attention_args *const a = t->args;
    const plan *const p = t->p;
    tile_load(t, t->q, NULL, q, a->ldq);
    memset(t->o, 0, (size_t)(t->rows * p->width) * sizeof(float));
    for (int64_t r = 0; r < t->rows; r++) {
        t->max[r] = -INFINITY;
        t->sum[r] = 0.0f;
    }
    for (int64_t first = t->first_key; first < t->end_key; first += KEYS) {
        const int64_t n = round_up(t->end_key - first < KEYS ? t->end_key - first : KEYS, 16);
        multiply_panels(t, t->s, t->q, p->k_panels, first, n);
        for (int64_t r = 0; r < t->rows; r++) {
            int64_t low, high;
            clip(&low, &high, t, r / t->group, first, n);
            if (high > low) {
                const float factor = softmax_row(t->s + r * SCORES, a->scale, low, high, n, &t->max[r], &t->sum[r]);
                if (factor != 1.0f) {
                    scale_row(t->o + r * p->width, factor, p->width);
                }
            } else {
                memset(t->s + r * SCORES, 0, (size_t)n * sizeof(float));
            }
        }
        multiply_rows(t, t->o, t->s, p->v_rows, first, n);
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
            float *const row = t->o + r * t->p->width;
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

int fm_cpu_attention(fm_compute *compute, void *out, enum fm_dtype out_dtype, float *lse, const void *q, const void *k, const void *v,
                     const fm_attention_args *args, bool merge)
{
    FM_ASSERT(!merge || out_dtype == FM_F32);
    plan p;
    FM_TRY(plan_make(&p, compute, args, false));
    FM_TRY(reserve_tiles(compute, &p, false));
#pragma omp parallel
    for (int b = 0; b < args->B; b++) {
        tile t;
        tile_bind(&t, &p, fm_compute_scratch(compute), false);
        pack(&p, compute, p.k_panels, NULL, k, b);
        pack(&p, compute, NULL, p.v_rows, v, b);
#pragma omp for schedule(dynamic, 1)
        for (int64_t i = 0; i < p.tiles * args->K; i++) {
            tile_place(&t, b, p.tiles - 1 - i / args->K, (int)(i % args->K));   /* the last tokens see most keys: begin with them */
            forward_tile(&t, q);
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

/* s becomes p = exp(scale s - lse) and dp becomes ds = scale p (dp - delta) on [low, high); both 0 elsewhere. */
FM_ROW_KERNEL
static void backward_row(float *restrict s, float *restrict dp, float scale, float lse, float delta, int64_t low, int64_t high, int64_t n)
{
    for (int64_t j = 0; j < low; j++) {
        s[j] = dp[j] = 0.0f;
    }
    for (int64_t j = low; j < high; j++) {
        s[j] = fm_exp(s[j] * scale - lse);
        dp[j] = s[j] * (dp[j] - delta) * scale;
    }
    for (int64_t j = high; j < n; j++) {
        s[j] = dp[j] = 0.0f;
    }
}

/* out [n, width] += s^T [n, rows] times the tile's rows of q or dout. */
static void multiply_transposed(const tile *t, float *out, const float *s, uint32_t *s_pairs, const uint32_t *rows, const uint32_t *pairs,
                                int64_t n)
{
    const plan *const p = t->p;
    if (p->kind == FM_F32) {
        fm_tile_multiply(FM_F32, out, p->width, (const uint32_t *)(const void *)s, 1, SCORES, rows, p->width, n, p->width, t->rows, true);
        return;
    }
    for (int64_t r = 0; r < t->rows; r += 2) {
        fm_tile_interleave_wide(s_pairs + r / 2 * SCORES, s + r * SCORES, r + 1 < t->rows ? s + (r + 1) * SCORES : NULL, n);
    }
    fm_tile_multiply(FM_BF16, out, p->width, s_pairs, 1, SCORES, pairs, p->width, n, p->width, (t->rows + 1) / 2, true);
}

/* Gradients of one tile: dk and dv [keys, width] of the thread's part are added to, the tile's dq is complete. */
static void backward_tile(tile *t, float *dk, float *dv, const void *dout, const float *lse, const float *delta, const void *q)
{
    const fm_attention_args *const a = t->args;
    const plan *const p = t->p;
    tile_load(t, t->q, t->q_pairs, q, a->ldq);
    tile_load(t, t->dout, t->dout_pairs, dout, a->ldo);
    memset(t->dq, 0, (size_t)(t->rows * p->width) * sizeof(float));
    for (int64_t first = t->first_key; first < t->end_key; first += KEYS) {
        const int64_t n = round_up(t->end_key - first < KEYS ? t->end_key - first : KEYS, 16);
        multiply_panels(t, t->s, t->q, p->k_panels, first, n);
        multiply_panels(t, t->dp, t->dout, p->v_panels, first, n);
        for (int64_t i = 0; i < t->tokens; i++) {
            int64_t low, high;
            clip(&low, &high, t, i, first, n);
            for (int g = 0; g < t->group; g++) {
                const int64_t r = i * t->group + g, at = row_at(t, i, g);
                backward_row(t->s + r * SCORES, t->dp + r * SCORES, a->scale, lse[at], delta[at], low, high, n);
            }
        }
        multiply_transposed(t, dv + first * p->width, t->s, t->p_pairs, t->dout, t->dout_pairs, n);
        multiply_transposed(t, dk + first * p->width, t->dp, t->ds_pairs, t->q, t->q_pairs, n);
        multiply_rows(t, t->dq, t->dp, p->k_rows, first, n);
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

/* Work item w of key/value heads x parts: every parts-th tile of the head, with the keys' sums of this part and its rows of dq. */
static void backward_part(tile *t, int batch, int w, void *dq, enum fm_dtype grad_dtype, const void *dout,
                          const float *lse, const float *delta, const void *q, bool add)
{
    const plan *const p = t->p;
    const int64_t stride = p->keys * p->width;
    float *const dk = p->sums + w * 2 * stride, *const dv = dk + stride;
    memset(dk, 0, (size_t)(2 * stride) * sizeof *dk);
    for (int64_t i = w % p->parts; i < p->tiles; i += p->parts) {
        tile_place(t, batch, i, w / p->parts);
        backward_tile(t, dk, dv, dout, lse, delta, q);
        for (int64_t r = 0; r < t->rows; r++) {
            store_gradient(fm_at(dq, grad_dtype, query_at(t, r / t->group, (int)(r % t->group), t->args->ldq)), grad_dtype,
                           t->dq + r * p->width, t->args->D, add);
        }
    }
}

/* Sums the parts of dk or dv of one key/value head in order and writes them. */
static void store_key_gradients(void *out, enum fm_dtype dtype, float *sums, const plan *p, int batch, int kv_head, bool add)
{
    const fm_attention_args *const a = p->args;
    const int64_t stride = p->keys * p->width;
    for (int64_t j = 0; j < a->Tk; j++) {
        float *const row = sums + j * p->width;
        for (int i = 1; i < p->parts; i++) {
            fm_row_add(row, FM_F32, row + i * 2 * stride, NULL, a->D);
        }
        const int64_t at = (batch * a->k_row + j) * a->ldk + (int64_t)kv_head * a->D;
        store_gradient(fm_at(out, dtype, at), dtype, row, a->D, add);
    }
}

int fm_cpu_attention_backward(fm_compute *compute, void *dq, void *dk, void *dv, enum fm_dtype grad_dtype, const void *dout,
                              const float *lse, const float *delta, const void *q, const void *k, const void *v,
                              const fm_attention_args *args, bool add)
{
    FM_ASSERT(!add || grad_dtype == FM_F32);
    plan p;
    FM_TRY(plan_make(&p, compute, args, true));
    FM_TRY(reserve_tiles(compute, &p, true));
    const int64_t stride = p.keys * p.width;
#pragma omp parallel
    for (int b = 0; b < args->B; b++) {
        tile t;
        tile_bind(&t, &p, fm_compute_scratch(compute), true);
        pack(&p, compute, p.k_panels, p.k_rows, k, b);
        pack(&p, compute, p.v_panels, NULL, v, b);
#pragma omp for schedule(dynamic, 1)
        for (int w = 0; w < args->K * p.parts; w++) {
            backward_part(&t, b, w, dq, grad_dtype, dout, lse, delta, q, add);
        }
#pragma omp for schedule(static)
        for (int w = 0; w < 2 * args->K; w++) {
            float *const first = p.sums + ((int64_t)(w / 2) * p.parts * 2 + w % 2) * stride;
            store_key_gradients(w % 2 ? dv : dk, grad_dtype, first, &p, b, w / 2, add);
        }
    }
    return FM_OK;
}
