#include "job/cmd_run.h"

#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "job/effective.h"
#include "job/keys.h"
#include "train/loop.h"

/* A run: what stands between the assembly and the steps. */
typedef struct {
    fm_assembly a;
    fm_source *source;
    fm_dataset *train, *validation;
    fm_loop *loop;
    fm_metrics *metrics;               /* rank 0's */
} run;

static int open_dataset(fm_dataset **out, const run *r, const char *files, const char *index_name)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, r->a.job.output_dir, index_name));
    const fm_dataset_spec spec = {
        .files = files, .options = &r->a.job.data, .vocab_size = r->a.config.V, .cache_path = path,
    };
    return fm_dataset_open(out, &spec, r->a.launch->world);
}

static int make_output_dir(const run *r)
{
    return fm_comm_agree(r->a.launch->world, r->a.launch->rank == 0 ? fm_dir_make(r->a.job.output_dir) : FM_OK);
}

static int open_data(run *r)
{
    FM_TRY(open_dataset(&r->train, r, r->a.job.data.train, "train.index"));
    if (r->a.job.data.validation[0] != '\0') {
        FM_TRY(open_dataset(&r->validation, r, r->a.job.data.validation, "validation.index"));
    }
    return FM_OK;
}

static int open_loop(run *r)
{
    const fm_job *const job = &r->a.job;
    const fm_loop_spec spec = {
        .model = r->a.model, .train = r->train, .validation = r->validation, .seed = (uint64_t)job->seed, .data = &job->data,
        .batch = &job->batch, .train_options = &job->train, .optimizer = &job->optimizer, .schedule = &job->schedule,
        .validate = &job->validation, .pipeline = &job->pipeline, .report_ranks = job->log.ranks,
    };
    return fm_comm_agree(r->a.launch->world, fm_loop_new(&r->loop, &spec));
}

static int prepare(run *r, const fm_launch *launch, int argc, char **argv)
{
    FM_TRY(fm_assemble_job(&r->a, launch, argv[0], (const char *const *)argv + 1, argc - 1));
    FM_TRY(fm_assemble_config(&r->a));
    FM_TRY(make_output_dir(r));
    FM_TRY(fm_assemble_mesh(&r->a));
    if (r->a.job.model.init == FM_INIT_PRETRAINED) {
        FM_TRY(fm_source_open(&r->source, r->a.job.model.path, launch->world));
    }
    FM_TRY(open_data(r));
    FM_TRY(fm_assemble_model(&r->a, r->source, true));
    FM_TRY(fm_assemble_weights(&r->a, r->source));
    fm_source_close(r->source);
    r->source = NULL;
    FM_TRY(open_loop(r));
    int rc = FM_OK;
    if (launch->rank == 0) {
        rc = fm_metrics_open(&r->metrics, r->a.job.output_dir, 0, fm_loop_steps(r->loop), r->a.job.log.every);
    }
    return fm_comm_agree(launch->world, rc);
}

static int validate(run *r, int64_t step)
{
    double val_loss;
    int64_t val_tokens;
    FM_TRY(fm_loop_validate(r->loop, &val_loss, &val_tokens));
    return r->metrics == NULL ? FM_OK : fm_metrics_validation(r->metrics, step, val_loss, val_tokens);
}

static int train(run *r)
{
    for (int64_t step = 1; step <= fm_loop_steps(r->loop); step++) {
        fm_step_metrics metrics;
        FM_TRY(fm_loop_step(r->loop, step, &metrics));
        if (r->metrics != NULL) {
            FM_TRY(fm_metrics_step(r->metrics, &metrics));
        }
        if (fm_loop_must_validate(r->loop, step)) {
            FM_TRY(validate(r, step));
        }
    }
    return FM_OK;
}

static void clear(run *r)
{
    fm_metrics_close(r->metrics);
    fm_loop_destroy(r->loop);
    fm_dataset_close(r->train);
    fm_dataset_close(r->validation);
    fm_source_close(r->source);
    fm_assembly_clear(&r->a);
}

int fm_cmd_run(const fm_launch *launch, int argc, char **argv, bool *started)
{
    run r;
    memset(&r, 0, sizeof r);
    int rc = prepare(&r, launch, argc, argv);
    if (rc == FM_OK) {
        *started = true;
        rc = train(&r);
    }
    clear(&r);
    return rc;
}
