#include "model/ends.h"

#include "ops/rows.h"

enum { LEAST_ROWS = 16 };

size_t fm_head_workspace_bind(fm_head_workspace *w, const fm_model *m, int64_t N, int64_t N_padded, int64_t S, void *memory)
{
    char *const base = memory;
    const int64_t C = m->config.C;
    const size_t size = fm_dtype_bytes(m->setup.dtype);
    size_t used = 0;
    w->rows = N;
    w->chunk_words = m->units[m->head_unit].tensors[0].chunk_rows;
    w->chunk_rows = (int64_t)m->compute->device->table->logits_bytes / (w->chunk_words * (int64_t)sizeof(float));
    w->chunk_rows = w->chunk_rows < LEAST_ROWS ? LEAST_ROWS : w->chunk_rows;
    w->chunk_rows = w->chunk_rows > N ? N : w->chunk_rows;
    const int64_t n_logits = w->chunk_rows * w->chunk_words;
    w->h_local = fm_carve(base, &used, S * C, size);
    w->h = m->setup.sequence_parallel ? fm_carve(base, &used, N_padded * C, size) : w->h_local;
    w->x = fm_carve(base, &used, N * C, size);
    w->logits = fm_carve(base, &used, n_logits, sizeof(float));
    w->max = fm_carve(base, &used, N, sizeof(float));
    w->global_max = fm_carve(base, &used, N, sizeof(float));
    w->sum_label = fm_carve(base, &used, 2 * N, sizeof(float));
    if (m->setup.trains) {
        w->dx = fm_carve(base, &used, N * C, sizeof(float));
        w->dh_all = fm_carve(base, &used, N_padded * C, sizeof(float));
        w->dh = fm_carve(base, &used, N_padded * C, size);
        w->dlogits = m->setup.dtype == FM_F32 ? w->logits : fm_carve(base, &used, n_logits, size);
    }
    return used;
}

int fm_embedding_forward(fm_model *m, fm_slot *slot)
{
    const fm_region *const r = &m->block.region;
    const fm_ops *const ops = m->compute->ops;
    const int64_t C = m->config.C;
    void *const x = slot->blocks[0].x;
    void *const partial = fm_region_partial(r, x, m->block.h);
    FM_TRY(fm_device_zero(m->compute->device, fm_at(partial, m->setup.dtype, r->rows * C),
                          (size_t)((r->rows_padded - r->rows) * C) * fm_dtype_bytes(m->setup.dtype)));
    for (int j = 0; j < fm_fsdp_chunks(m->fsdp); j++) {
        void *w;
        int64_t start, count;
        fm_fsdp_chunk_rows(m->fsdp, m->embedding_unit, j, &start, &count);
        FM_TRY(fm_fsdp_chunk_acquire(m->fsdp, m->embedding_unit, j, &w));
        FM_TRY(fm_fsdp_chunk_prefetch(m->fsdp, m->embedding_unit, j + 1));
        FM_TRY(ops->embedding(m->compute, partial, slot->ids, w, m->vocabulary.start + start, count, j > 0, m->setup.dtype, r->rows, C));
        fm_fsdp_chunk_release(m->fsdp, m->embedding_unit, j);
    }
    return fm_region_sum(r, x, partial, C, m->setup.dtype);
}

int fm_embedding_backward(fm_model *m, fm_slot *slot)
{
    const fm_region *const r = &m->block.region;
    const int64_t C = m->config.C;
    const void *dx;
    FM_TRY(fm_region_enter(r, &dx, m->block.h, slot->dx[0], C, m->setup.dtype));
    for (int j = 0; j < fm_fsdp_chunks(m->fsdp); j++) {
        float *dw;
        int64_t start, count;
        fm_fsdp_chunk_rows(m->fsdp, m->embedding_unit, j, &start, &count);
        FM_TRY(fm_fsdp_chunk_gradient_begin(m->fsdp, m->embedding_unit, j, &dw));
        FM_TRY(m->compute->ops->embedding_backward(m->compute, dw, slot->ids, dx, m->vocabulary.start + start, count,
                                                   m->config.pad_token, m->setup.dtype, r->rows, C));
        FM_TRY(fm_fsdp_chunk_gradient_end(m->fsdp, m->embedding_unit, j));
    }
    return FM_OK;
}

/* A run of labelled rows against one vocabulary chunk. */
typedef struct {
    int64_t row, rows;
    int64_t word, words;               /* first word, in the whole vocabulary */
    const void *weight;                /* [words, C] */
} logits_part;

static int make_logits(fm_model *m, const logits_part *p)
{
    const fm_head_workspace *const w = &m->head;
    const int64_t C = m->config.C;
    fm_gemm_args g = { .in = m->setup.dtype, .out = FM_F32, .trans_b = true, .m = p->rows, .n = p->words, .k = C };
    g.a = fm_at(w->x, m->setup.dtype, p->row * C), g.lda = C, g.b = p->weight, g.ldb = C, g.c = w->logits, g.ldc = p->words;
    return m->compute->ops->gemm(m->compute, &g);
}

static int add_statistics(fm_model *m, const fm_slot *slot, const logits_part *p)
{
    fm_head_workspace *const w = &m->head;
    return m->compute->ops->cross_entropy_chunk(m->compute, w->max + p->row, w->sum_label + p->row, w->sum_label + w->rows + p->row,
                                                w->logits, slot->labelled_ids + p->row, p->word, p->rows, p->words);
}

/* Statistics of rows [row, row + n) over the whole vocabulary: combined over tp; the loss is added to the model's. */
static int finish_statistics(fm_model *m, fm_slot *slot, int64_t row, int64_t n)
{
    fm_head_workspace *const w = &m->head;
    fm_comm *const tp = fm_groups_device(m->groups, FM_GROUP_TP);
    const fm_ops *const ops = m->compute->ops;
    float *const max = w->max + row, *const all = w->global_max + row, *const sum = w->sum_label + row, *const label = sum + w->rows;
    if (tp != NULL) {
        FM_TRY(fm_device_copy(m->compute->device, all, max, (size_t)n * sizeof *max));
        FM_TRY(fm_comm_all_reduce(tp, all, n, FM_F32, FM_MAX));
        FM_TRY(ops->cross_entropy_rescale(m->compute, sum, max, all, n));
        FM_TRY(fm_comm_all_reduce(tp, sum, n, FM_F32, FM_SUM));
        FM_TRY(fm_comm_all_reduce(tp, label, n, FM_F32, FM_SUM));
        FM_TRY(fm_device_copy(m->compute->device, max, all, (size_t)n * sizeof *max));
    }
    return ops->cross_entropy_finish(m->compute, m->loss, max, sum, label, n);
}

/* dx of the rows += dlogits W; dW += dlogits^T x. The logits are in the buffer. */
static int add_gradients(fm_model *m, const fm_slot *slot, const logits_part *p, float *dw, bool first_chunk, float scale)
{
    const fm_head_workspace *const w = &m->head;
    const enum fm_dtype dtype = m->setup.dtype;
    const int64_t C = m->config.C;
    FM_TRY(m->compute->ops->cross_entropy_backward(m->compute, w->dlogits, dtype, w->logits, w->max + p->row, w->sum_label + p->row,
                                                   slot->labelled_ids + p->row, p->word, scale, p->rows, p->words));
    fm_gemm_args g = { .in = dtype, .out = FM_F32, .m = p->rows, .n = C, .k = p->words, .accumulate = !first_chunk };
    g.a = w->dlogits, g.lda = p->words, g.b = p->weight, g.ldb = C, g.c = w->dx + p->row * C, g.ldc = C;
    FM_TRY(m->compute->ops->gemm(m->compute, &g));
    fm_gemm_args d = { .in = dtype, .out = FM_F32, .trans_a = true, .m = p->words, .n = C, .k = p->rows, .accumulate = true };
    d.a = w->dlogits, d.lda = p->words, d.b = fm_at(w->x, dtype, p->row * C), d.ldb = C, d.c = dw, d.ldc = C;
    return m->compute->ops->gemm(m->compute, &d);
}

static void next_rows(logits_part *p, const fm_model *m, const fm_slot *slot, int64_t row)
{
    p->row = row;
    p->rows = slot->n_labelled - row < m->head.chunk_rows ? slot->n_labelled - row : m->head.chunk_rows;
}

/* One vocabulary chunk on this rank: the logits of a run of rows serve for the loss and, at once, for the gradients. */
static int loss_of_whole_vocabulary(fm_model *m, fm_slot *slot, float scale)
{
    void *weight;
    float *dw = NULL;
    FM_TRY(fm_fsdp_chunk_acquire(m->fsdp, m->head_unit, 0, &weight));
    if (slot->with_gradients) {
        FM_TRY(fm_fsdp_chunk_gradient_begin(m->fsdp, m->head_unit, 0, &dw));
    }
    logits_part p = { .word = m->vocabulary.start, .words = m->vocabulary.count, .weight = weight };
    for (int64_t row = 0; row < slot->n_labelled; row += m->head.chunk_rows) {
        next_rows(&p, m, slot, row);
        FM_TRY(make_logits(m, &p));
        FM_TRY(add_statistics(m, slot, &p));
        FM_TRY(finish_statistics(m, slot, p.row, p.rows));
        if (slot->with_gradients) {
            FM_TRY(add_gradients(m, slot, &p, dw, true, scale));
        }
    }
    fm_fsdp_chunk_release(m->fsdp, m->head_unit, 0);
    return slot->with_gradients ? fm_fsdp_chunk_gradient_end(m->fsdp, m->head_unit, 0) : FM_OK;
}

/* Several chunks: one pass over them for the statistics, and another, making the logits again, for the gradients. */
static int pass_over_chunks(fm_model *m, fm_slot *slot, bool for_gradients, float scale)
{
    for (int j = 0; j < fm_fsdp_chunks(m->fsdp); j++) {
        void *weight;
        float *dw = NULL;
        logits_part p = { .row = 0 };
        fm_fsdp_chunk_rows(m->fsdp, m->head_unit, j, &p.word, &p.words);
        p.word += m->vocabulary.start;
        FM_TRY(fm_fsdp_chunk_acquire(m->fsdp, m->head_unit, j, &weight));
        FM_TRY(fm_fsdp_chunk_prefetch(m->fsdp, m->head_unit, j + 1));
        if (for_gradients) {
            FM_TRY(fm_fsdp_chunk_gradient_begin(m->fsdp, m->head_unit, j, &dw));
        }
        p.weight = weight;
        for (int64_t row = 0; row < slot->n_labelled && p.words > 0; row += m->head.chunk_rows) {
            next_rows(&p, m, slot, row);
            FM_TRY(make_logits(m, &p));
            FM_TRY(for_gradients ? add_gradients(m, slot, &p, dw, j == 0, scale) : add_statistics(m, slot, &p));
            fm_fsdp_progress(m->fsdp);
        }
        fm_fsdp_chunk_release(m->fsdp, m->head_unit, j);
        if (for_gradients) {
            FM_TRY(fm_fsdp_chunk_gradient_end(m->fsdp, m->head_unit, j));
        }
    }
    return FM_OK;
}

static int loss_of_chunks(fm_model *m, fm_slot *slot, float scale)
{
    FM_TRY(pass_over_chunks(m, slot, false, scale));
    FM_TRY(finish_statistics(m, slot, 0, slot->n_labelled));
    return slot->with_gradients ? pass_over_chunks(m, slot, true, scale) : FM_OK;
}

/* h = final norm of slot->out, on all rows. The norm is released at once: the vocabulary's chunks want both slots. */
static int final_norm(fm_model *m, fm_slot *slot, const void **h)
{
    const fm_region *const r = &m->block.region;
    const int64_t C = m->config.C;
    void *norm_weight;
    FM_TRY(fm_fsdp_acquire(m->fsdp, m->norm_unit, &norm_weight));
    FM_TRY(m->compute->ops->rmsnorm(m->compute, m->head.h_local, C, slot->rstd_out, slot->out, C, norm_weight, m->setup.dtype,
                                    r->rows_local, 1, C, m->config.norm_eps));
    fm_fsdp_release(m->fsdp, m->norm_unit);
    return fm_region_enter(r, h, m->head.h, m->head.h_local, C, m->setup.dtype);
}

/* dx[n_layers] and the final norm's gradient from the labelled rows' gradient. */
static int backward_through_final_norm(fm_model *m, fm_slot *slot, int n_layers)
{
    const fm_region *const r = &m->block.region;
    const fm_ops *const ops = m->compute->ops;
    fm_head_workspace *const w = &m->head;
    const enum fm_dtype dtype = m->setup.dtype;
    const int64_t C = m->config.C;
    FM_TRY(fm_device_zero(m->compute->device, w->dh_all, (size_t)(r->rows_padded * C) * sizeof(float)));
    FM_TRY(ops->embedding_backward(m->compute, w->dh_all, slot->labelled, w->dx, 0, r->rows, -1, FM_F32, slot->n_labelled, C));
    FM_TRY(ops->copy_rows(m->compute, w->dh, C, dtype, w->dh_all, C, FM_F32, r->rows_padded, C));
    void *const dh = m->setup.sequence_parallel ? w->h_local : w->dh;
    FM_TRY(fm_region_sum(r, dh, w->dh, C, dtype));
    void *norm_weight;
    FM_TRY(fm_fsdp_acquire(m->fsdp, m->norm_unit, &norm_weight));
    FM_TRY(ops->rmsnorm_backward(m->compute, slot->dx[n_layers], C, false, dh, C, slot->out, C, norm_weight, slot->rstd_out, dtype,
                                 r->rows_local, 1, C));
    fm_fsdp_release(m->fsdp, m->norm_unit);
    float *dw;
    bool fresh;
    FM_TRY(fm_fsdp_gradient_begin(m->fsdp, m->norm_unit, &dw, &fresh));
    if (fresh) {
        FM_TRY(fm_device_zero(m->compute->device, dw, (size_t)C * sizeof(float)));
    }
    FM_TRY(ops->rmsnorm_backward_weight(m->compute, dw, dh, C, slot->out, C, slot->rstd_out, dtype, r->rows_local, 1, C));
    return fm_fsdp_gradient_end(m->fsdp, m->norm_unit);
}

int fm_head_forward(fm_model *m, fm_slot *slot, int n_layers, float scale)
{
    const void *h;
    FM_TRY(final_norm(m, slot, &h));
    /* only rows with a label take part: they are brought together */
    FM_TRY(m->compute->ops->embedding(m->compute, m->head.x, slot->labelled, h, 0, m->block.region.rows, false, m->setup.dtype,
                                      slot->n_labelled, m->config.C));
    FM_TRY(m->compute->ops->cross_entropy_begin(m->compute, m->head.max, m->head.sum_label, m->head.rows));
    if (fm_fsdp_chunks(m->fsdp) == 1) {
        FM_TRY(loss_of_whole_vocabulary(m, slot, scale));
    } else {
        FM_TRY(loss_of_chunks(m, slot, scale));
    }
    return slot->with_gradients ? backward_through_final_norm(m, slot, n_layers) : FM_OK;
}

int fm_head_logits(fm_model *m, fm_slot *slot, float *logits)
{
    const int64_t N = m->block.region.rows, C = m->config.C, words = m->vocabulary.count;
    const void *h;
    FM_TRY(final_norm(m, slot, &h));
    FM_TRY(fm_device_copy(m->compute->device, m->head.x, h, (size_t)(N * C) * fm_dtype_bytes(m->setup.dtype)));
    for (int j = 0; j < fm_fsdp_chunks(m->fsdp); j++) {
        void *weight;
        logits_part p = { .row = 0 };
        fm_fsdp_chunk_rows(m->fsdp, m->head_unit, j, &p.word, &p.words);
        FM_TRY(fm_fsdp_chunk_acquire(m->fsdp, m->head_unit, j, &weight));
        FM_TRY(fm_fsdp_chunk_prefetch(m->fsdp, m->head_unit, j + 1));
        p.weight = weight;
        for (int64_t row = 0; row < N && p.words > 0; row += m->head.chunk_rows) {
            p.row = row;
            p.rows = N - row < m->head.chunk_rows ? N - row : m->head.chunk_rows;
            FM_TRY(make_logits(m, &p));
            for (int64_t r = 0; r < p.rows; r++) {
                FM_TRY(fm_device_copy_out(m->compute->device, logits + (row + r) * words + p.word, m->head.logits + r * p.words,
                                          (size_t)p.words * sizeof *logits));
            }
        }
        fm_fsdp_chunk_release(m->fsdp, m->head_unit, j);
    }
    return FM_OK;
}
