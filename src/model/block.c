#include "model/block.h"

#include "ops/rows.h"

/* A product whose weight is several matrices [out_i, in], one below the other in y; neighbours in memory are multiplied at once. */
enum { MAX_PARTS = 3 };

typedef struct {
    int n;
    const void *weight[MAX_PARTS], *bias[MAX_PARTS];   /* bias NULL: none, or it is added elsewhere */
    float *gradient[MAX_PARTS];
    int64_t out[MAX_PARTS];
} linear_parts;

static fm_gemm_args product(const fm_block *b, int64_t m, int64_t n, int64_t k)
{
    return (fm_gemm_args){ .in = b->dtype, .out = b->dtype, .m = m, .n = n, .k = k };
}

static int run(fm_block *b, const fm_gemm_args *args)
{
    FM_TRY(b->compute->ops->gemm(b->compute, args));
    if (b->fsdp != NULL) {
        fm_fsdp_progress(b->fsdp);
    }
    return FM_OK;
}

/* Merges parts that follow each other in memory: weights and (where there are any) biases and gradients. */
static void merge_parts(linear_parts *p, enum fm_dtype dtype, int64_t in)
{
    int n = 0;
    for (int i = 1; i < p->n; i++) {
        const bool follows = fm_at(p->weight[n], dtype, p->out[n] * in) == p->weight[i]
                          && (p->bias[i] == NULL || fm_at(p->bias[n], dtype, p->out[n]) == p->bias[i])
                          && (p->gradient[i] == NULL || p->gradient[n] + p->out[n] * in == p->gradient[i]);
        if (follows) {
            p->out[n] += p->out[i];
        } else {
            n++;
            p->weight[n] = p->weight[i];
            p->bias[n] = p->bias[i];
            p->gradient[n] = p->gradient[i];
            p->out[n] = p->out[i];
        }
    }
    p->n = n + 1;
}

/* A matrix, its bias (where `has_bias`) and its rows. */
typedef struct {
    enum fm_role weight, bias;
    int64_t out;
} part_spec;

static linear_parts parts_of(const fm_block *b, const fm_block_weights *w, const part_spec *parts, int n, int64_t in, bool has_bias)
{
    linear_parts p = { .n = n };
    for (int i = 0; i < n; i++) {
        p.weight[i] = w->weight[parts[i].weight];
        p.bias[i] = has_bias ? w->weight[parts[i].bias] : NULL;
        p.gradient[i] = w->gradient[parts[i].weight];
        p.out[i] = parts[i].out;
    }
    merge_parts(&p, b->dtype, in);
    return p;
}

static linear_parts qkv_parts(const fm_block *b, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t q = (int64_t)d->H * d->D, k = (int64_t)d->K * d->D;
    const part_spec parts[] = { { FM_ROLE_Q, FM_ROLE_Q_BIAS, q }, { FM_ROLE_K, FM_ROLE_K_BIAS, k }, { FM_ROLE_V, FM_ROLE_V_BIAS, k } };
    return parts_of(b, w, parts, 3, d->C, d->qkv_bias);
}

static linear_parts gate_up_parts(const fm_block *b, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const part_spec parts[] = { { FM_ROLE_GATE, FM_ROLE_GATE_BIAS, d->F }, { FM_ROLE_UP, FM_ROLE_UP_BIAS, d->F } };
    return parts_of(b, w, parts, 2, d->C, d->mlp_bias);
}

static linear_parts one_part(const fm_block *b, const fm_block_weights *w, enum fm_role role, int64_t out, int64_t in)
{
    return parts_of(b, w, &(part_spec){ .weight = role, .out = out }, 1, in, false);
}

/* y [N, ldy] = x [N, in] W^T + bias + addend (like y; NULL: none) */
static int linear(fm_block *b, void *y, int64_t ldy, const void *x, const linear_parts *p, int64_t N, int64_t in, const void *addend)
{
    int64_t at = 0;
    for (int i = 0; i < p->n; i++) {
        fm_gemm_args g = product(b, N, p->out[i], in);
        g.a = x, g.lda = in, g.b = p->weight[i], g.ldb = in, g.trans_b = true;
        g.c = fm_at(y, b->dtype, at), g.ldc = ldy, g.bias = p->bias[i];
        g.addend = addend == NULL ? NULL : fm_at(addend, b->dtype, at);
        FM_TRY(run(b, &g));
        at += p->out[i];
    }
    return FM_OK;
}

/* dx [N, in] = dy [N, lddy] W */
static int linear_backward_input(fm_block *b, void *dx, const void *dy, int64_t lddy, const linear_parts *p, int64_t N, int64_t in)
{
    int64_t at = 0;
    for (int i = 0; i < p->n; i++) {
        fm_gemm_args g = product(b, N, in, p->out[i]);
        g.a = fm_at(dy, b->dtype, at), g.lda = lddy, g.b = p->weight[i], g.ldb = in;
        g.c = dx, g.ldc = in, g.accumulate = i > 0;
        FM_TRY(run(b, &g));
        at += p->out[i];
    }
    return FM_OK;
}

/* dW [out, in] = or += dy^T x, fp32 */
static int linear_backward_weight(fm_block *b, const void *dy, int64_t lddy, const void *x, const linear_parts *p, int64_t N, int64_t in,
                                  bool fresh)
{
    int64_t at = 0;
    for (int i = 0; i < p->n; i++) {
        fm_gemm_args g = product(b, p->out[i], in, N);
        g.out = FM_F32;
        g.a = fm_at(dy, b->dtype, at), g.lda = lddy, g.trans_a = true, g.b = x, g.ldb = in;
        g.c = p->gradient[i], g.ldc = in, g.accumulate = !fresh;
        FM_TRY(run(b, &g));
        at += p->out[i];
    }
    return FM_OK;
}

/* One biased part of a row. */
typedef struct {
    enum fm_role role;
    int64_t at, width;
} bias_part;

static int qkv_biases(bias_part *out, const fm_block_dims *d)
{
    const int64_t q = (int64_t)d->H * d->D, k = (int64_t)d->K * d->D;
    out[0] = (bias_part){ FM_ROLE_Q_BIAS, 0, q };
    out[1] = (bias_part){ FM_ROLE_K_BIAS, q, k };
    out[2] = (bias_part){ FM_ROLE_V_BIAS, q + k, k };
    return d->qkv_bias ? 3 : 0;
}

static int gate_up_biases(bias_part *out, const fm_block_dims *d)
{
    out[0] = (bias_part){ FM_ROLE_GATE_BIAS, 0, d->F };
    out[1] = (bias_part){ FM_ROLE_UP_BIAS, d->F, d->F };
    return d->mlp_bias ? 2 : 0;
}

/* Small gradients (norms, biases) are always added to: a fresh one is zeroed first. */
static int zero_if_fresh(fm_block *b, const fm_block_weights *w, enum fm_role role, int64_t n)
{
    return w->fresh ? fm_device_zero(b->compute->device, w->gradient[role], (size_t)n * sizeof(float)) : FM_OK;
}

static int bias_gradients(fm_block *b, const void *dy, int64_t ld, const bias_part *parts, int n, const fm_block_weights *w, int64_t N)
{
    for (int i = 0; i < n; i++) {
        FM_TRY(zero_if_fresh(b, w, parts[i].role, parts[i].width));
        FM_TRY(b->compute->ops->bias_backward(b->compute, w->gradient[parts[i].role], fm_at(dy, b->dtype, parts[i].at), b->dtype, N,
                                              parts[i].width, ld));
    }
    return FM_OK;
}

/* h = norm(x) on all rows of the region: [N, C]. */
static int norm_and_enter(fm_block *b, const void **h, float *rstd, const void *x, const void *weight)
{
    const fm_region *const r = &b->region;
    FM_TRY(b->compute->ops->rmsnorm(b->compute, b->h_local, b->dims.C, rstd, x, b->dims.C, weight, b->dtype, r->rows_local, 1, b->dims.C,
                                    b->dims.norm_eps));
    return fm_region_enter(r, h, b->h, b->h_local, b->dims.C, b->dtype);
}

/* Rows that only pad a reduce-scatter hold zeros. */
static int clear_padding(fm_block *b, void *partial)
{
    const int64_t C = b->dims.C, rows = b->region.rows_padded - b->region.rows;
    return fm_device_zero(b->compute->device, fm_at(partial, b->dtype, b->region.rows * C),
                          (size_t)(rows * C) * fm_dtype_bytes(b->dtype));
}

/* The end of a half block: partial results [N, C] are summed over tp into out [S, C]; of whole ones every rank keeps its rows. */
static int sum_half(fm_block *b, void *out, void *partial, bool is_whole)
{
    const fm_region *const r = &b->region;
    const int64_t C = b->dims.C, n = r->rows_local * C;
    if (!is_whole) {
        return fm_region_sum(r, out, partial, C, b->dtype);
    }
    return !r->sequence_parallel ? FM_OK : fm_device_copy(b->compute->device, out, fm_at(partial, b->dtype, fm_comm_rank(r->tp) * n),
                                                          (size_t)n * fm_dtype_bytes(b->dtype));
}

/* out [S, C] = residual + sum over tp of x W^T + bias: one product where there is nothing to sum. */
static int leave(fm_block *b, void *out, const void *residual, const void *x, linear_parts *p, int64_t in, const void *bias,
                 bool is_whole)
{
    const int64_t C = b->dims.C, S = b->region.rows_local;
    if (!b->region.sequence_parallel && (is_whole || fm_comm_size(b->region.tp) == 1)) {
        p->bias[0] = bias;
        return linear(b, out, C, x, p, b->region.rows, in, residual);
    }
    void *const partial = fm_region_partial(&b->region, out, b->h);
    FM_TRY(clear_padding(b, partial));
    FM_TRY(linear(b, partial, C, x, p, b->region.rows, in, NULL));
    FM_TRY(sum_half(b, out, partial, is_whole));
    if (bias != NULL) {
        FM_TRY(b->compute->ops->bias_add(b->compute, out, bias, b->dtype, S, C, C));
    }
    return b->compute->ops->add(b->compute, out, residual, b->dtype, S * C);
}

fm_attention_args fm_block_attention_args(const fm_block *b, int64_t window)
{
    const fm_block_dims *const d = &b->dims;
    return (fm_attention_args){
        .dtype = b->dtype, .B = b->batch.B, .Tq = b->batch.T, .Tk = b->batch.T, .q_row = b->batch.T, .k_row = b->batch.T,
        .H = d->H, .K = d->K, .D = d->D, .ldq = d->Q, .ldk = d->Q, .ldo = (int64_t)d->H * d->D, .scale = d->scale, .window = window,
        .q_position = b->batch.position, .q_document = b->batch.document,
        .k_position = b->batch.row_position, .k_document = b->batch.row_document, .plain = b->batch.plain,
    };
}

/* The q and k norms (where the family has them), then rope, on [N, Q] in place. */
static int finish_queries_and_keys(fm_block *b, fm_block_saved *s, const fm_block_weights *w)
{
    const fm_ops *const ops = b->compute->ops;
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D, qk = (int64_t)(d->H + d->K) * d->D;
    if (d->qk_norm) {
        FM_TRY(ops->copy_rows(b->compute, s->qk_raw, qk, b->dtype, s->qkv, d->Q, b->dtype, N, qk));
        FM_TRY(ops->rmsnorm(b->compute, s->qkv, d->Q, s->rstd_q, s->qk_raw, qk, w->weight[FM_ROLE_Q_NORM], b->dtype, N, d->H, d->D,
                            d->norm_eps));
        FM_TRY(ops->rmsnorm(b->compute, fm_at(s->qkv, b->dtype, q), d->Q, s->rstd_k, fm_at(s->qk_raw, b->dtype, q), qk,
                            w->weight[FM_ROLE_K_NORM], b->dtype, N, d->K, d->D, d->norm_eps));
    }
    return ops->rope(b->compute, s->qkv, d->Q, b->batch.cos, b->batch.sin, b->batch.position, false, b->dtype, N, d->H + d->K, d->D,
                     d->rotary_dim);
}

static int forward_attention(fm_block *b, fm_block_saved *s, const fm_block_weights *w, int64_t window)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D, k = (int64_t)d->K * d->D;
    const void *h;
    FM_TRY(norm_and_enter(b, &h, s->rstd1, s->x, w->weight[FM_ROLE_INPUT_NORM]));
    const linear_parts qkv = qkv_parts(b, w);
    FM_TRY(linear(b, s->qkv, d->Q, h, &qkv, N, d->C, NULL));
    FM_TRY(finish_queries_and_keys(b, s, w));
    const fm_attention_args args = fm_block_attention_args(b, window);
    FM_TRY(fm_context_attention(b->context, b->compute, s->o, s->lse, s->qkv, fm_at(s->qkv, b->dtype, q),
                                fm_at(s->qkv, b->dtype, q + k), &args));
    linear_parts o = one_part(b, w, FM_ROLE_O, d->C, q);
    return leave(b, s->x2, s->x, s->o, &o, q, d->o_bias ? w->weight[FM_ROLE_O_BIAS] : NULL, d->attention_is_whole);
}

/* gate and up [N, 2 F] from x2 */
static int forward_gate_up(fm_block *b, fm_block_saved *s, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const void *h;
    FM_TRY(norm_and_enter(b, &h, s->rstd2, s->x2, w->weight[FM_ROLE_POST_NORM]));
    const linear_parts gate_up = gate_up_parts(b, w);
    return linear(b, s->gu, 2 * d->F, h, &gate_up, b->region.rows, d->C, NULL);
}

int fm_block_forward(fm_block *b, void *x_out, fm_block_saved *s, const fm_block_weights *w, int64_t window)
{
    const fm_block_dims *const d = &b->dims;
    FM_TRY(forward_attention(b, s, w, window));
    FM_TRY(forward_gate_up(b, s, w));
    FM_TRY(b->compute->ops->swiglu(b->compute, b->wide, s->gu, b->dtype, b->region.rows, d->F));
    linear_parts down = one_part(b, w, FM_ROLE_DOWN, d->C, d->F);
    return leave(b, x_out, s->x2, b->wide, &down, d->F, d->mlp_bias ? w->weight[FM_ROLE_DOWN_BIAS] : NULL,
                 d->mlp_is_whole);
}

int fm_block_restore(fm_block *b, fm_block_saved *s, const fm_block_weights *w, int64_t window, enum fm_keep keep)
{
    if (keep == FM_KEEP_INPUT) {
        FM_TRY(forward_attention(b, s, w, window));
    }
    return keep == FM_KEEP_ALL ? FM_OK : forward_gate_up(b, s, w);
}

/* dx [S, C] = dy + norm's backward of (sum over tp of dpart W); dh [S, C] keeps the gradient of the norm's output. */
static int backward_through_norm(fm_block *b, void *dx, void *dh, const void *dy, const void *dpart, int64_t ld, const linear_parts *p,
                                 const void *x, const void *weight, const float *rstd, bool is_whole)
{
    const int64_t C = b->dims.C, S = b->region.rows_local;
    void *const partial = fm_region_partial(&b->region, dh, b->h);
    FM_TRY(clear_padding(b, partial));
    FM_TRY(linear_backward_input(b, partial, dpart, ld, p, b->region.rows, C));
    FM_TRY(sum_half(b, dh, partial, is_whole));
    FM_TRY(fm_device_copy(b->compute->device, dx, dy, (size_t)(S * C) * fm_dtype_bytes(b->dtype)));
    return b->compute->ops->rmsnorm_backward(b->compute, dx, C, true, dh, C, x, C, weight, rstd, b->dtype, S, 1, C);
}

/* Gradient of q and k through rope and the q and k norms, in place in dqkv. */
static int backward_queries_and_keys(fm_block *b, fm_block_grads *g, const fm_block_saved *s, const fm_block_weights *w)
{
    const fm_ops *const ops = b->compute->ops;
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D, qk = (int64_t)(d->H + d->K) * d->D;
    FM_TRY(ops->rope(b->compute, g->dqkv, d->Q, b->batch.cos, b->batch.sin, b->batch.position, true, b->dtype, N, d->H + d->K, d->D,
                     d->rotary_dim));
    if (!d->qk_norm) {
        return FM_OK;
    }
    FM_TRY(ops->copy_rows(b->compute, g->dqk_normed, qk, b->dtype, g->dqkv, d->Q, b->dtype, N, qk));
    FM_TRY(ops->rmsnorm_backward(b->compute, g->dqkv, d->Q, false, g->dqk_normed, qk, s->qk_raw, qk, w->weight[FM_ROLE_Q_NORM],
                                 s->rstd_q, b->dtype, N, d->H, d->D));
    return ops->rmsnorm_backward(b->compute, fm_at(g->dqkv, b->dtype, q), d->Q, false, fm_at(g->dqk_normed, b->dtype, q), qk,
                                 fm_at(s->qk_raw, b->dtype, q), qk, w->weight[FM_ROLE_K_NORM], s->rstd_k, b->dtype, N, d->K, d->D);
}

static int backward_mlp(fm_block *b, fm_block_grads *g, fm_block_saved *s, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows;
    const void *dz;
    FM_TRY(fm_region_enter(&b->region, &dz, g->dz_all, g->dz, d->C, b->dtype));
    const linear_parts down = one_part(b, w, FM_ROLE_DOWN, d->C, d->F);
    FM_TRY(linear_backward_input(b, b->wide, dz, d->C, &down, N, d->F));
    FM_TRY(b->compute->ops->swiglu(b->compute, g->a, s->gu, b->dtype, N, d->F));
    FM_TRY(b->compute->ops->swiglu_backward(b->compute, s->gu, b->wide, s->gu, b->dtype, N, d->F));
    const linear_parts gate_up = gate_up_parts(b, w);
    return backward_through_norm(b, g->dy, g->dh2, g->dz, s->gu, 2 * d->F, &gate_up, s->x2, w->weight[FM_ROLE_POST_NORM], s->rstd2,
                                 d->mlp_is_whole);
}

int fm_block_backward_input(fm_block *b, void *dx, fm_block_grads *g, fm_block_saved *s, const fm_block_weights *w, int64_t window)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D, k = (int64_t)d->K * d->D;
    FM_TRY(backward_mlp(b, g, s, w));
    const void *dy;
    FM_TRY(fm_region_enter(&b->region, &dy, g->dy_all, g->dy, d->C, b->dtype));
    const linear_parts o = one_part(b, w, FM_ROLE_O, d->C, q);
    FM_TRY(linear_backward_input(b, b->wide, dy, d->C, &o, N, q));
    const fm_attention_args args = fm_block_attention_args(b, window);
    FM_TRY(fm_context_attention_backward(b->context, b->compute, g->dqkv, fm_at(g->dqkv, b->dtype, q), fm_at(g->dqkv, b->dtype, q + k),
                                         b->wide, s->o, s->lse, b->delta, s->qkv, fm_at(s->qkv, b->dtype, q),
                                         fm_at(s->qkv, b->dtype, q + k), &args));
    FM_TRY(backward_queries_and_keys(b, g, s, w));
    const linear_parts qkv = qkv_parts(b, w);
    return backward_through_norm(b, dx, g->dh1, g->dy, g->dqkv, d->Q, &qkv, s->x, w->weight[FM_ROLE_INPUT_NORM], s->rstd1,
                                 d->attention_is_whole);
}

static int norm_gradient(fm_block *b, const fm_block_weights *w, enum fm_role role, const void *dh, const void *x, const float *rstd)
{
    const int64_t C = b->dims.C;
    FM_TRY(zero_if_fresh(b, w, role, C));
    return b->compute->ops->rmsnorm_backward_weight(b->compute, w->gradient[role], dh, C, x, C, rstd, b->dtype, b->region.rows_local, 1,
                                                    C);
}

static int head_norm_gradients(fm_block *b, const fm_block_grads *g, const fm_block_saved *s, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D, qk = (int64_t)(d->H + d->K) * d->D;
    FM_TRY(zero_if_fresh(b, w, FM_ROLE_Q_NORM, d->D));
    FM_TRY(zero_if_fresh(b, w, FM_ROLE_K_NORM, d->D));
    FM_TRY(b->compute->ops->rmsnorm_backward_weight(b->compute, w->gradient[FM_ROLE_Q_NORM], g->dqk_normed, qk, s->qk_raw, qk, s->rstd_q,
                                                    b->dtype, N, d->H, d->D));
    return b->compute->ops->rmsnorm_backward_weight(b->compute, w->gradient[FM_ROLE_K_NORM], fm_at(g->dqk_normed, b->dtype, q), qk,
                                                    fm_at(s->qk_raw, b->dtype, q), qk, s->rstd_k, b->dtype, N, d->K, d->D);
}

int fm_block_backward_weight(fm_block *b, const fm_block_grads *g, const fm_block_saved *s, const fm_block_weights *w)
{
    const fm_block_dims *const d = &b->dims;
    const int64_t N = b->region.rows, q = (int64_t)d->H * d->D;
    const void *const dz = b->region.sequence_parallel ? g->dz_all : g->dz;
    const void *const dy = b->region.sequence_parallel ? g->dy_all : g->dy;
    const linear_parts down = one_part(b, w, FM_ROLE_DOWN, d->C, d->F), o = one_part(b, w, FM_ROLE_O, d->C, q);
    const linear_parts gate_up = gate_up_parts(b, w), qkv = qkv_parts(b, w);
    bias_part biases[3];
    const void *h;
    FM_TRY(linear_backward_weight(b, dz, d->C, g->a, &down, N, d->F, w->fresh));
    FM_TRY(norm_and_enter(b, &h, s->rstd2, s->x2, w->weight[FM_ROLE_POST_NORM]));
    FM_TRY(linear_backward_weight(b, s->gu, 2 * d->F, h, &gate_up, N, d->C, w->fresh));
    FM_TRY(bias_gradients(b, s->gu, 2 * d->F, biases, gate_up_biases(biases, d), w, N));
    FM_TRY(norm_gradient(b, w, FM_ROLE_POST_NORM, g->dh2, s->x2, s->rstd2));
    FM_TRY(linear_backward_weight(b, dy, d->C, s->o, &o, N, q, w->fresh));
    FM_TRY(norm_and_enter(b, &h, s->rstd1, s->x, w->weight[FM_ROLE_INPUT_NORM]));
    FM_TRY(linear_backward_weight(b, g->dqkv, d->Q, h, &qkv, N, d->C, w->fresh));
    FM_TRY(bias_gradients(b, g->dqkv, d->Q, biases, qkv_biases(biases, d), w, N));
    FM_TRY(norm_gradient(b, w, FM_ROLE_INPUT_NORM, g->dh1, s->x, s->rstd1));
    if (d->qk_norm) {
        FM_TRY(head_norm_gradients(b, g, s, w));
    }
    /* biases after the sum over tp: every tp rank has the whole gradient of its rows */
    const bias_part o_bias = { FM_ROLE_O_BIAS, 0, d->C }, down_bias = { FM_ROLE_DOWN_BIAS, 0, d->C };
    FM_TRY(bias_gradients(b, g->dy, d->C, &o_bias, d->o_bias ? 1 : 0, w, b->region.rows_local));
    return bias_gradients(b, g->dz, d->C, &down_bias, d->mlp_bias ? 1 : 0, w, b->region.rows_local);
}

/* Hands out parts of a block of memory, on cache lines; counts only where there is none. */
typedef struct {
    char *base;
    size_t used_bytes;
} bump;

static void *carve(bump *from, int64_t elements, size_t size_bytes)
{
    return fm_carve(from->base, &from->used_bytes, elements, size_bytes);
}

void fm_block_saved_bind(fm_block_saved *saved, size_t *kept_bytes, size_t *shared_bytes, const fm_block_dims *d, enum fm_dtype dtype,
                         int64_t N, int64_t S, enum fm_keep keep, void *kept, void *shared)
{
    bump own = { kept, 0 }, common = { shared, 0 };
    bump *const attention = keep == FM_KEEP_INPUT ? &common : &own;    /* where attention's activations live */
    bump *const mlp = keep == FM_KEEP_ALL ? &own : &common;
    const size_t size = fm_dtype_bytes(dtype);
    saved->x = carve(&own, S * d->C, size);
    saved->rstd1 = carve(attention, S, sizeof(float));
    saved->qk_raw = d->qk_norm ? carve(attention, N * (d->H + d->K) * d->D, size) : NULL;
    saved->rstd_q = d->qk_norm ? carve(attention, N * d->H, sizeof(float)) : NULL;
    saved->rstd_k = d->qk_norm ? carve(attention, N * d->K, sizeof(float)) : NULL;
    saved->qkv = carve(attention, N * d->Q, size);
    saved->o = carve(attention, N * d->H * d->D, size);
    saved->lse = carve(attention, N * d->H, sizeof(float));
    saved->x2 = carve(attention, S * d->C, size);
    saved->rstd2 = carve(mlp, S, sizeof(float));
    saved->gu = carve(mlp, N * 2 * d->F, size);
    *kept_bytes = own.used_bytes;
    *shared_bytes = common.used_bytes;
}

void fm_block_grads_bind(fm_block_grads *grads, size_t *bytes, const fm_block_dims *d, enum fm_dtype dtype, int64_t N, int64_t S,
                         int64_t rows_padded, void *memory)
{
    bump at = { memory, 0 };
    const size_t size = fm_dtype_bytes(dtype);
    grads->dz = NULL;
    grads->dz_all = rows_padded > 0 ? carve(&at, rows_padded * d->C, size) : NULL;
    grads->a = carve(&at, N * d->F, size);
    grads->dh2 = carve(&at, S * d->C, size);
    grads->dy = carve(&at, S * d->C, size);
    grads->dy_all = rows_padded > 0 ? carve(&at, rows_padded * d->C, size) : NULL;
    grads->dqkv = carve(&at, N * d->Q, size);
    grads->dqk_normed = d->qk_norm ? carve(&at, N * (d->H + d->K) * d->D, size) : NULL;
    grads->dh1 = carve(&at, S * d->C, size);
    *bytes = at.used_bytes;
}
