#include "data/batch.h"

#include <string.h>

#include "base/memory.h"
#include "data/sample.h"

/* Sets the shape; what the arrays held is lost. */
static int reshape(fm_batch *batch, int64_t B, int64_t T)
{
    if (B * T > batch->capacity) {
        fm_batch_clear(batch);
        int32_t *block = fm_alloc_array(4 * B * T, sizeof *block, FM_MEMORY_HOST);
        if (block == NULL) {
            return FM_ERR_MEMORY;
        }
        *batch = (fm_batch){ .ids = block, .labels = block + B * T, .positions = block + 2 * B * T,
                             .documents = block + 3 * B * T, .capacity = B * T };
    }
    batch->B = B;
    batch->T = T;
    batch->tokens = 0;
    batch->label_tokens = 0;
    return FM_OK;
}

void fm_batch_clear(fm_batch *batch)
{
    fm_free(batch->ids); /* all four are one block */
    *batch = (fm_batch){ 0 };
}

/* Tokens of a sample; none of sample -1. */
static int sample_info(fm_sample_info *out, const fm_dataset *dataset, int64_t sample)
{
    *out = (fm_sample_info){ 0 };
    return sample < 0 ? FM_OK : fm_dataset_info(out, dataset, sample);
}

/* Positions and document of row b, and its padding behind n tokens whose labels are shifted already. */
static void finish_row(fm_batch *batch, int64_t b, int64_t n)
{
    const int64_t T = batch->T;
    for (int64_t t = n; t < T; t++) {
        batch->ids[b * T + t] = 0;
    }
    for (int64_t t = n > 0 ? n - 1 : 0; t < T; t++) {
        batch->labels[b * T + t] = FM_LABEL_IGNORED;
    }
    for (int64_t t = 0; t < T; t++) {
        batch->positions[b * T + t] = (int32_t)t;
        batch->documents[b * T + t] = t < n ? 0 : -1;
    }
}

/* Row b: the sample's tokens, its labels one place to the left, then padding. */
static int fill_row(fm_batch *batch, int64_t b, const fm_dataset *dataset, int64_t sample)
{
    const int64_t T = batch->T;
    int32_t *ids = batch->ids + b * T;
    int32_t *labels = batch->labels + b * T;
    fm_sample_info info;
    FM_TRY(sample_info(&info, dataset, sample));
    if (sample >= 0) {
        FM_TRY(fm_dataset_read(ids, labels, dataset, sample));
        memmove(labels, labels + 1, (size_t)(info.tokens - 1) * sizeof *labels);
    }
    finish_row(batch, b, info.tokens);
    batch->tokens += info.tokens;
    batch->label_tokens += info.label_tokens;
    return FM_OK;
}

int fm_batch_fill(fm_batch *batch, const fm_dataset *dataset, const int64_t *samples, int64_t B, int64_t t_multiple)
{
    FM_ASSERT(B >= 1 && t_multiple >= 1);
    int64_t longest = 0;
    for (int64_t b = 0; b < B; b++) {
        fm_sample_info info;
        FM_TRY(sample_info(&info, dataset, samples[b]));
        longest = info.tokens > longest ? info.tokens : longest;
    }
    const int64_t used = longest > 0 ? longest : 1;
    FM_TRY(reshape(batch, B, (used + t_multiple - 1) / t_multiple * t_multiple));
    batch->longest = longest;
    for (int64_t b = 0; b < B; b++) {
        FM_TRY(fill_row(batch, b, dataset, samples[b]));
    }
    return FM_OK;
}

int fm_batch_set(fm_batch *batch, const int32_t *ids, const int32_t *labels, int64_t B, int64_t n, int64_t t_multiple)
{
    FM_ASSERT(B >= 1 && n >= 1 && t_multiple >= 1);
    FM_TRY(reshape(batch, B, (n + t_multiple - 1) / t_multiple * t_multiple));
    batch->longest = n;
    batch->tokens = B * n;
    for (int64_t b = 0; b < B; b++) {
        memcpy(batch->ids + b * batch->T, ids + b * n, (size_t)n * sizeof *ids);
        memcpy(batch->labels + b * batch->T, labels + b * n + 1, (size_t)(n - 1) * sizeof *labels);
        for (int64_t t = 0; t + 1 < n; t++) {
            batch->label_tokens += labels[b * n + t + 1] != FM_LABEL_IGNORED;
        }
        finish_row(batch, b, n);
    }
    return FM_OK;
}

int fm_batch_cut(fm_batch *out, const fm_batch *in, int cp_size, int cp_rank)
{
    const int64_t chunk = in->T / (2 * cp_size);
    FM_ASSERT(chunk * 2 * cp_size == in->T && cp_rank >= 0 && cp_rank < cp_size && out != in);
    FM_TRY(reshape(out, in->B, 2 * chunk));
    out->longest = in->longest;
    const int64_t first_at[2] = { cp_rank * chunk, (2 * cp_size - 1 - cp_rank) * chunk };
    int32_t *const to[] = { out->ids, out->labels, out->positions, out->documents };
    const int32_t *const from[] = { in->ids, in->labels, in->positions, in->documents };
    for (int array = 0; array < 4; array++) {
        for (int64_t b = 0; b < in->B; b++) {
            for (int half = 0; half < 2; half++) {
                memcpy(to[array] + b * out->T + half * chunk, from[array] + b * in->T + first_at[half],
                       (size_t)chunk * sizeof(int32_t));
            }
        }
    }
    for (int64_t i = 0; i < out->B * out->T; i++) {
        out->tokens += out->documents[i] >= 0;
        out->label_tokens += out->labels[i] != FM_LABEL_IGNORED;
    }
    return FM_OK;
}

int fm_batch_count(int64_t *label_tokens, int64_t *tokens, const fm_order *order, const fm_dataset *dataset, int64_t step)
{
    *label_tokens = *tokens = 0;
    for (int64_t i = 0; i < order->global_batch_size; i++) {
        fm_sample_info info;
        FM_TRY(sample_info(&info, dataset, fm_order_sample(order, step, i)));
        *label_tokens += info.label_tokens;
        *tokens += info.tokens;
    }
    return FM_OK;
}

int fm_batch_padding(double *share, const fm_order *order, const fm_dataset *dataset, int64_t local_batch_size,
                     int64_t most_samples)
{
    const int64_t G = order->global_batch_size;
    int64_t tokens = 0, places = 0;
    for (int64_t step = 1; step <= order->steps_per_epoch && (step == 1 || step * G <= most_samples); step++) {
        for (int64_t i = 0; i < G; i += local_batch_size) {
            int64_t longest = 0;
            for (int64_t b = i; b < i + local_batch_size && b < G; b++) {
                fm_sample_info info;
                FM_TRY(sample_info(&info, dataset, fm_order_sample(order, step, b)));
                tokens += info.tokens;
                longest = info.tokens > longest ? info.tokens : longest;
            }
            places += longest * local_batch_size;
        }
    }
    *share = places > 0 ? 1.0 - (double)tokens / (double)places : 0;
    return FM_OK;
}
