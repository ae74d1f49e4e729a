#include "trial.h"

#include "job/device.h"

/* The loop, and room for the model and its passes. Local. */
static int open_loop(trial *t, const trial_spec *spec)
{
    const fm_job *const job = &t->a.job;
    const fm_loop_spec loop = {
        .model = t->a.model, .train = t->data, .seed = (uint64_t)job->seed, .data = &job->data, .batch = &job->batch,
        .train_options = &job->train, .optimizer = &job->optimizer, .schedule = &job->schedule, .validate = &job->validation,
        .pipeline = &job->pipeline, .on_gradients = spec->on_gradients, .context = spec->context,
    };
    FM_TRY(fm_loop_new(&t->loop, &loop));
    const fm_model_reserve_spec needs = fm_loop_needs(t->loop);
    FM_TRY(fm_model_allocate(t->a.model));
    return fm_model_reserve(t->a.model, &needs);
}

int trial_begin(trial *t, const trial_spec *spec)
{
    fm_comm *const world = spec->launch->world;
    FM_TRY(fm_assemble_job(&t->a, spec->launch, spec->n_words, spec->words, true));
    FM_TRY(fm_assemble_shape(&t->a, false));
    FM_TRY(fm_assemble_config(&t->a));
    FM_TRY(fm_assemble_mesh(&t->a));
    FM_TRY(fm_assemble_device(&t->a));
    if (t->a.job.model.init == FM_INIT_PRETRAINED) {
        FM_TRY(fm_source_open(&t->source, t->a.job.model.path, world));
    }
    const fm_dataset_spec data = {
        .files = t->a.job.data.train, .options = &t->a.job.data, .vocab_size = t->a.config.V, .cache_path = spec->index,
    };
    FM_TRY(fm_dataset_open(&t->data, &data, world));
    FM_TRY(fm_assemble_model(&t->a, t->source, true));
    FM_TRY(fm_comm_agree(world, open_loop(t, spec)));
    return fm_assemble_weights(&t->a, t->source);
}

void trial_end(trial *t)
{
    fm_loop_destroy(t->loop);
    fm_dataset_close(t->data);
    fm_source_close(t->source);
    fm_assembly_clear(&t->a);
    *t = (trial){ .loop = NULL };
}
