#include "job/cmd_eval.h"

#include <math.h>
#include <string.h>

#include "base/log.h"
#include "job/device.h"
#include "job/inputs.h"
#include "train/evaluate.h"

typedef struct {
    fm_assembly a;
    fm_source *source;
    fm_inputs inputs;
    fm_dataset *dataset;
    fm_evaluation evaluation;
} evaluation;

static int prepare(evaluation *e, const fm_launch *launch, int argc, char **argv)
{
    FM_TRY(fm_assemble_job(&e->a, launch, argc, argv, false));
    FM_TRY(fm_assemble_shape(&e->a, false));
    FM_TRY(fm_assemble_config(&e->a));
    FM_TRY(fm_assemble_mesh(&e->a));
    FM_TRY(fm_assemble_device(&e->a));
    const fm_data_options *const data = &e->a.job.data;
    FM_TRY(fm_inputs_begin(&e->inputs, &e->a));
    FM_TRY(fm_inputs_open(&e->dataset, &e->inputs, &e->a, data->validation[0] != '\0' ? data->validation : data->train, "eval.index"));
    FM_TRY(fm_source_open(&e->source, e->a.job.model.path, launch->world));
    FM_TRY(fm_assemble_model(&e->a, e->source, false));
    const int64_t T = fm_longest_row(e->a.model, e->dataset);
    const fm_model_reserve_spec needs = {
        .B = (int)e->a.job.batch.local_batch_size, .T = T / e->a.mesh.size[FM_CP], .padded_T = T, .n_slots = 1,
    };
    FM_TRY(fm_assemble_memory(&e->a, &needs));
    FM_TRY(fm_assemble_weights(&e->a, e->source));
    return fm_comm_agree(launch->world, fm_evaluation_begin(&e->evaluation, e->a.model, e->dataset, &e->a.job.batch, &e->a.job.pipeline));
}

int fm_cmd_eval(const fm_launch *launch, int argc, char **argv, bool *started)
{
    evaluation e;
    memset(&e, 0, sizeof e);
    int rc = prepare(&e, launch, argc, argv);
    if (rc == FM_OK) {
        double loss;
        int64_t label_tokens;
        *started = true;
        rc = fm_evaluation_run(&loss, &label_tokens, &e.evaluation);
        if (rc == FM_OK) {
            fm_log_print("loss %.6f  perplexity %.4f  label_tokens %lld\n", loss, exp(loss), (long long)label_tokens);
        }
    }
    fm_evaluation_end(&e.evaluation);
    fm_dataset_close(e.dataset);
    fm_inputs_end(&e.inputs);
    fm_source_close(e.source);
    fm_assembly_clear(&e.a);
    return rc;
}
