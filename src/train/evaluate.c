#include "train/evaluate.h"

int fm_evaluation_begin(fm_evaluation *e, fm_model *model, const fm_dataset *dataset, const fm_batch_options *batch,
                        const fm_pipeline_options *pipeline)
{
    const int dp = fm_mesh_dp_size(&model->layout.mesh), pp = model->layout.mesh.size[FM_PP];
    /* the loss does not depend on the batches: as many microbatches at a time as the job has, but no more than there are samples for */
    const int64_t at_once = batch->local_batch_size * dp, needed = (fm_dataset_samples(dataset) + at_once - 1) / at_once;
    const int64_t wished = batch->global_batch_size / at_once;
    const int64_t microbatches = wished < 1 ? 1 : wished < needed ? wished : needed;
    e->order = fm_order_pass(fm_dataset_samples(dataset), microbatches * at_once);
    e->pass = (fm_pass){
        .model = model, .dataset = dataset, .order = &e->order, .pipeline = &e->pipeline, .local_batch_size = batch->local_batch_size,
    };
    return fm_pipeline_emit(&e->pipeline, pipeline->schedule, pp, model->n_chunks, (int)microbatches);
}

int fm_evaluation_run(double *loss, int64_t *label_tokens, fm_evaluation *e)
{
    double total = 0.0;
    *label_tokens = 0;
    for (int64_t batch = 1; batch <= e->order.steps_per_epoch; batch++) {
        double sum;
        int64_t labels, tokens;
        FM_TRY(fm_batch_count(&labels, &tokens, &e->order, e->pass.dataset, batch));
        FM_TRY(fm_pass_run(&sum, &e->pass, batch, false, 0.0f));
        total += sum;
        *label_tokens += labels;
    }
    *loss = *label_tokens > 0 ? total / (double)*label_tokens : 0.0;
    return FM_OK;
}

void fm_evaluation_end(fm_evaluation *e)
{
    fm_pass_clear(&e->pass);
    fm_pipeline_clear(&e->pipeline);
}

int64_t fm_longest_row(const fm_model *model, const fm_dataset *dataset)
{
    fm_dataset_summary summary;
    fm_dataset_summarize(&summary, dataset);
    return fm_pass_padded(model, summary.longest > 0 ? summary.longest : 1);
}
