#include "parallel/pipeline.h"

#include "base/memory.h"

int fm_pipeline_emit(fm_pipeline *out, enum fm_pipeline_schedule schedule, int ranks, int chunks, int microbatches)
{
    *out = (fm_pipeline){ .schedule = schedule, .ranks = ranks, .chunks = chunks, .microbatches = microbatches };
    if (ranks > 1 || chunks > 1) {
        return fm_fail(FM_ERR_UNSUPPORTED, "a pipeline of %d ranks: only pp_size = 1 is there", ranks);
    }
    out->rows = fm_alloc_array(2 * microbatches, sizeof *out->rows, FM_MEMORY_HOST);
    out->first = fm_alloc_array(2, sizeof *out->first, FM_MEMORY_HOST);
    if (out->rows == NULL || out->first == NULL) {
        fm_pipeline_clear(out);
        return FM_ERR_MEMORY;
    }
    for (int m = 0; m < microbatches; m++) {
        out->rows[out->n_rows++] = (fm_pipeline_row){ 0, 3 * m, FM_ACTION_FORWARD, m, 0 };
        out->rows[out->n_rows++] = (fm_pipeline_row){ 0, 3 * m + 1, FM_ACTION_BACKWARD, m, 0 };
    }
    out->first[1] = out->n_rows;
    return FM_OK;
}

void fm_pipeline_clear(fm_pipeline *pipeline)
{
    fm_free(pipeline->rows);
    fm_free(pipeline->first);
    *pipeline = (fm_pipeline){ .rows = NULL };
}

int fm_pipeline_peak(const fm_pipeline *pipeline, int rank)
{
    (void)pipeline;
    (void)rank;
    return 1;
}

void fm_pipeline_divide(int *out, int n_layers, int n_stages, double first_cost, double last_cost)
{
    (void)first_cost;
    (void)last_cost;
    for (int s = 0; s <= n_stages; s++) {
        out[s] = (int)((int64_t)n_layers * s / n_stages);
    }
}
