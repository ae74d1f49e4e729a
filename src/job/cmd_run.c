#include "job/cmd_run.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/hf_files.h"
#include "ckpt/save.h"
#include "job/device.h"
#include "job/effective.h"
#include "job/identity.h"
#include "job/inputs.h"
#include "job/keeper.h"
#include "job/keys.h"
#include "job/lock.h"
#include "job/resume.h"
#include "job/slurm.h"
#include "job/stop.h"
#include "train/loop.h"
#include "train/traffic.h"

/* A run: what stands between the assembly and the steps. */
typedef struct {
    fm_assembly a;
    fm_source *source;
    fm_inputs inputs;
    fm_dataset *train, *validation;
    fm_loop *loop;
    fm_metrics *metrics;               /* rank 0's */
    fm_lock lock;                      /* rank 0's, on the output directory */
    json_t *identity;                  /* rank 0's: what the run depends on */
    fm_resume resume;
    fm_keeper *keeper;
    fm_stop stop;
    double begin_s;                    /* the system's clock */
    bool is_complete;                  /* an earlier start has done it all */
    bool others_complete;              /* the directory holds a complete run of another job (rank 0 knows) */
} run;

/* The output directory, with room for this run, and what its end will copy. Metrics of an earlier run stay, but where resume = no may
 * overwrite them. */
static int make_output_dir(run *r)
{
    const fm_job *const job = &r->a.job;
    char metrics[FM_PATH_BYTES], hf[FM_PATH_BYTES];
    if (job->checkpoint.export_when != FM_EXPORT_NO) {
        FM_TRY(fm_hf_files_check(job->model.path));
    }
    FM_TRY(fm_dir_make(job->output_dir));
    FM_TRY(fm_lock_take(&r->lock, job->output_dir));
    FM_TRY(fm_path_join(metrics, job->output_dir, "metrics.jsonl"));
    if (strcmp(job->checkpoint.resume, "no") == 0 && !job->overwrite && fm_path_exists(metrics)) {
        return fm_fail(FM_ERR_JOB, "%s holds another run. Choose another job.output_dir, or job.overwrite=yes to start anew in it.",
                       job->output_dir);
    }
    FM_TRY(fm_path_join(hf, job->output_dir, "hf"));
    if (fm_path_exists(hf) && !fm_path_is_dir(hf)) {
        return fm_fail(FM_ERR_JOB, "%s is no directory: the fine-tuned model could not be written there", hf);
    }
    return FM_OK;
}

/* job.ini beside the results: the same run again. */
static int save_job(const run *r)
{
    char path[FM_PATH_BYTES], *text;
    size_t size_bytes;
    FM_TRY(fm_path_join(path, r->a.job.output_dir, "job.ini"));
    FM_TRY(fm_job_write(&text, &size_bytes, &r->a.job));
    const int rc = fm_file_replace(path, text, size_bytes);
    fm_free(text);
    return rc;
}

static int open_data(run *r)
{
    const fm_data_options *const data = &r->a.job.data;
    FM_TRY(fm_inputs_begin(&r->inputs, &r->a));
    FM_TRY(fm_inputs_open(&r->train, &r->inputs, &r->a, data->train, "train.index"));
    if (data->validation[0] != '\0') {
        FM_TRY(fm_inputs_open(&r->validation, &r->inputs, &r->a, data->validation, "validation.index"));
    }
    return FM_OK;
}

/* What a complete run leaves: the fingerprint of all that decides what comes out. */
static int print_mark(fm_text *text, char path[FM_PATH_BYTES], const run *r)
{
    uint32_t fingerprint;
    FM_TRY(fm_path_join(path, r->a.job.output_dir, "complete.json"));
    FM_TRY(fm_identity_fingerprint(&fingerprint, r->identity, &r->a.job));
    fm_text_add(text, "{\"fingerprint\": \"%08x\"}\n", fingerprint);
    return text->failed ? FM_ERR_MEMORY : FM_OK;
}

static int mark_complete(const run *r)
{
    char path[FM_PATH_BYTES];
    fm_text text = { 0 };
    int rc = print_mark(&text, path, r);
    if (rc == FM_OK) {
        rc = fm_file_replace(path, fm_text_get(&text), text.size_bytes);
    }
    fm_text_clear(&text);
    return rc;
}

/* Rank 0's look at that mark: whether it is this run's, or another's. */
static int find_mark(bool *found, bool *others, const run *r)
{
    enum { LIMIT_BYTES = 4096 };
    char path[FM_PATH_BYTES], *old = NULL;
    fm_text text = { 0 };
    *found = *others = false;
    int rc = print_mark(&text, path, r);
    if (rc == FM_OK && fm_path_exists(path)) {
        rc = fm_file_read(&old, NULL, path, LIMIT_BYTES);
        *found = rc == FM_OK && strcmp(old, fm_text_get(&text)) == 0 && strcmp(r->a.job.checkpoint.resume, "auto") == 0;
        *others = rc == FM_OK && !*found;
    }
    fm_free(old);
    fm_text_clear(&text);
    return rc;
}

/* Where this start begins: at the end of a complete run, at a checkpoint, or at step 1. */
static int find_beginning(run *r)
{
    fm_comm *const world = r->a.launch->world;
    const bool leads = r->a.launch->rank == 0;
    uint8_t complete = 0;
    int rc = leads ? fm_identity_make(&r->identity, &r->a, &r->inputs, r->train) : FM_OK;
    if (rc == FM_OK && leads) {
        rc = find_mark(&r->is_complete, &r->others_complete, r);
        complete = r->is_complete;
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_broadcast(world, &complete, 1, FM_U8, 0));
    r->is_complete = complete != 0;
    if (r->is_complete) {
        fm_log_print("# the run is complete: all steps are done, %s has the results\n", r->a.job.output_dir);
        return FM_OK;
    }
    return fm_resume_choose(&r->resume, &r->a, r->identity);
}

/* Gradients of the first step, for whoever compares them. */
static int save_gradients(void *context, fm_model *model, int64_t step)
{
    const fm_job *const job = context;
    const fm_save_item what = { FM_ARRAY_GRADIENT, "" };
    return step == 1 ? fm_save(job->log.gradients, model, &what, 1, NULL) : FM_OK;
}

static int open_loop(run *r)
{
    fm_job *const job = &r->a.job;
    const fm_loop_spec spec = {
        .model = r->a.model, .train = r->train, .validation = r->validation, .seed = (uint64_t)job->seed, .data = &job->data,
        .batch = &job->batch, .train_options = &job->train, .optimizer = &job->optimizer, .schedule = &job->schedule,
        .validate = &job->validation, .pipeline = &job->pipeline, .report_ranks = job->log.ranks,
        .on_gradients = job->log.gradients[0] != '\0' ? save_gradients : NULL, .context = job,
    };
    return fm_comm_agree(r->a.launch->world, fm_loop_new(&r->loop, &spec));
}

/* What 0 and auto became: comments of the effective job and a column of the table. */
static int note_choices(run *r)
{
    char mesh[128];
    fm_job *const job = &r->a.job;
    fm_mesh_print(mesh, sizeof mesh, &r->a.mesh);
    FM_TRY(fm_job_note(job, "distributed", "dp_size", "%d ranks: %s", r->a.launch->n_ranks, mesh));
    FM_TRY(fm_job_note(job, "model", "dtype", "%s", fm_dtype_name(fm_assembly_dtype(&r->a))));
    return fm_job_note(job, "device", "threads", "%d", r->a.device->threads);
}

static void print_data(const char *what, const fm_dataset *dataset, double padding)
{
    fm_dataset_summary d;
    fm_dataset_summarize(&d, dataset);
    fm_log_print("# %s: %lld samples, %lld cut at seq_length, longest %lld tokens; %lld tokens, %lld label tokens", what,
                 (long long)d.samples, (long long)d.cut_samples, (long long)d.longest, (long long)d.tokens, (long long)d.label_tokens);
    if (padding >= 0.0) {
        fm_log_print(", %.1f%% of a microbatch is padding", 100.0 * padding);
    }
    fm_log_print("\n");
}

/* Rank 0: whether the steps of this job may follow what is in the directory. A complete run of another job is not written over
 * unasked; with more steps than it had, its last checkpoint is a beginning like any other. */
static int check_beginning(const run *r)
{
    const fm_job *const job = &r->a.job;
    const int64_t n_steps = fm_loop_steps(r->loop);
    if (r->resume.step > n_steps) {
        return fm_fail(FM_ERR_JOB, "%s is after step %lld, the job has %lld steps. Choose more train.steps, or another job.output_dir.",
                       r->resume.dir, (long long)r->resume.step, (long long)n_steps);
    }
    if (r->others_complete && !job->overwrite && (r->resume.dir[0] == '\0' || r->resume.step == n_steps)) {
        return fm_fail(FM_ERR_JOB, "%s holds a complete run of a job with other settings (its job.ini). Choose another job.output_dir, or "
                       "job.overwrite=yes to replace it.", job->output_dir);
    }
    return FM_OK;
}

/* Another run's mark goes: from here on this run is not complete. */
static int remove_mark(const run *r)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, r->a.job.output_dir, "complete.json"));
    return r->others_complete && unlink(path) != 0 ? fm_fail(FM_ERR_IO, "%s: cannot remove it", path) : FM_OK;
}

/* Everything that a person wants to know before the first step. */
static int introduce(run *r)
{
    fm_assembly *const a = &r->a;
    double padding;
    fm_job_print(&a->job);
    fm_log_print("# model: %s, %lld parameters, %s\n", a->model->config.model_type, (long long)fm_config_parameters(&a->model->config),
                 fm_dtype_name(a->model->setup.dtype));
    FM_TRY(fm_loop_padding(&padding, r->loop));
    print_data("training", r->train, padding);
    if (r->validation != NULL) {
        print_data("validation", r->validation, -1.0);
    }
    if (r->resume.dir[0] != '\0') {
        fm_log_print("# resume: after step %lld of %lld, from %s\n", (long long)r->resume.step, (long long)fm_loop_steps(r->loop),
                     r->resume.dir);
    }
    FM_TRY(remove_mark(r));
    FM_TRY(save_job(r));
    return fm_metrics_open(&r->metrics, a->job.output_dir, r->resume.step, fm_loop_steps(r->loop), a->job.log.every);
}

/* The tensors' dtypes are the source's, whatever the weights come from: a resume reads only its headers. */
static int open_source(run *r)
{
    if (r->a.job.model.init != FM_INIT_PRETRAINED) {
        return FM_OK;
    }
    return r->resume.dir[0] != '\0' ? fm_source_open(&r->source, r->a.job.model.path, r->a.launch->world)
                                    : fm_assemble_shards(&r->a, &r->source);
}

static int load(run *r)
{
    if (r->resume.dir[0] == '\0') {
        return fm_assemble_weights(&r->a, r->source);
    }
    fm_loop_resume(r->loop, &r->resume.loop);
    return fm_resume_load(&r->resume, &r->a);
}

static int open_keeper(run *r)
{
    const fm_keeper_spec spec = {
        .a = &r->a, .loop = r->loop, .identity = r->identity, .resume = &r->resume,
        .deadline_s = fm_stop_deadline(r->a.job.max_time, r->begin_s, fm_slurm_end_time()),
    };
    return fm_keeper_new(&r->keeper, &spec);
}

/* A signal that has come before the next step: everything that this run has is on the disk already. Collective. */
static int heed_signal(run *r)
{
    int64_t signal_number = fm_stop_signal();
    FM_TRY(fm_comm_all_reduce(r->a.launch->world, &signal_number, 1, FM_I64, FM_MAX));
    if (signal_number == 0) {
        return FM_OK;
    }
    fm_log_print("# stopped before step %lld by %s: the same command %s%s\n", (long long)r->resume.step + 1, strsignal((int)signal_number),
                 r->resume.dir[0] != '\0' ? "goes on from " : "begins again", r->resume.dir);
    return fm_fail(FM_ERR_STOPPED, "stopped before step %lld", (long long)r->resume.step + 1);
}

static int prepare(run *r, const fm_launch *launch, int argc, char **argv)
{
    FM_TRY(fm_slurm_check_ranks(launch->n_ranks, true));
    FM_TRY(fm_assemble_job(&r->a, launch, argc, argv, true));
    FM_TRY(fm_assemble_shape(&r->a, false));
    FM_TRY(fm_assemble_config(&r->a));
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? make_output_dir(r) : FM_OK));
    FM_TRY(fm_assemble_mesh(&r->a));
    r->a.tells = FM_TELL_ALL;
    FM_TRY(fm_assemble_device(&r->a));
    FM_TRY(open_data(r));
    FM_TRY(heed_signal(r));
    FM_TRY(find_beginning(r));
    if (r->is_complete) {
        return FM_OK;
    }
    FM_TRY(open_source(r));
    FM_TRY(heed_signal(r));
    FM_TRY(fm_assemble_model(&r->a, r->source, true));
    FM_TRY(open_loop(r));
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? check_beginning(r) : FM_OK));
    FM_TRY(fm_comm_agree(launch->world, note_choices(r)));
    const fm_model_reserve_spec needs = fm_loop_needs(r->loop);
    FM_TRY(fm_assemble_memory(&r->a, &needs));
    FM_TRY(load(r));
    fm_source_close(r->source);
    r->source = NULL;
    FM_TRY(fm_resume_settle(&r->resume, &r->a));
    FM_TRY(open_keeper(r));
    return fm_comm_agree(launch->world, launch->rank == 0 ? introduce(r) : FM_OK);
}

static int validate(double *val_loss, run *r, int64_t step)
{
    int64_t val_tokens;
    FM_TRY(fm_loop_validate(r->loop, val_loss, &val_tokens));
    return r->metrics == NULL ? FM_OK : fm_metrics_validation(r->metrics, step, *val_loss, val_tokens);
}

static int train(run *r)
{
    fm_traffic_table before, carried;
    fm_stop_spare_threads();
    fm_traffic_read(&before, r->a.groups, NULL);
    fm_memory_forget_peaks();
    FM_TRY(r->resume.step < fm_loop_steps(r->loop) ? heed_signal(r) : FM_OK);
    for (int64_t step = r->resume.step + 1; step <= fm_loop_steps(r->loop); step++) {
        fm_step_metrics metrics;
        fm_watch_step(r->a.watch, step);
        double val_loss = NAN;
        bool stop;
        FM_TRY(fm_loop_step(r->loop, step, &metrics));
        if (r->metrics != NULL) {
            FM_TRY(fm_metrics_step(r->metrics, &metrics));
        }
        if (fm_loop_must_validate(r->loop, step)) {
            FM_TRY(validate(&val_loss, r, step));
        }
        FM_TRY(fm_keeper_step(&stop, r->keeper, &metrics, val_loss, r->metrics));
        if (stop) {
            return fm_fail(FM_ERR_STOPPED, "stopped after step %lld", (long long)step);
        }
    }
    fm_traffic_read(&carried, r->a.groups, &before);
    return r->a.job.log.traffic ? fm_traffic_print(&carried, r->a.groups) : FM_OK;
}

/* The HF directory at the end of a run. */
static int export(const run *r)
{
    char dir[FM_PATH_BYTES];
    if (r->a.job.checkpoint.export_when == FM_EXPORT_NO) {
        return FM_OK;
    }
    FM_TRY(fm_path_join(dir, r->a.job.output_dir, "hf"));
    FM_TRY(fm_assembly_export(&r->a, dir));
    fm_log_print("# model: %s\n", dir);
    return FM_OK;
}

static void clear(run *r)
{
    fm_keeper_destroy(r->keeper);
    fm_metrics_close(r->metrics);
    fm_loop_destroy(r->loop);
    fm_dataset_close(r->train);
    fm_dataset_close(r->validation);
    fm_inputs_end(&r->inputs);
    fm_source_close(r->source);
    fm_assembly_clear(&r->a);
    json_decref(r->identity);
    fm_lock_release(&r->lock);
}

int fm_cmd_run(const fm_launch *launch, int argc, char **argv, bool *started)
{
    run r;
    memset(&r, 0, sizeof r);
    r.begin_s = fm_clock_of_day_s();
    int rc = fm_stop_begin(&r.stop);
    if (rc == FM_OK) {
        rc = prepare(&r, launch, argc, argv);
    }
    if (rc == FM_OK && !r.is_complete) {
        *started = true;
        rc = train(&r);
        if (rc == FM_OK) {
            rc = export(&r);
        }
        if (rc == FM_OK) {
            rc = fm_comm_agree(launch->world, launch->rank == 0 ? mark_complete(&r) : FM_OK);
        }
    }
    fm_stop_end(&r.stop);
    if (rc < 0 && launch->world != NULL && !fm_error_is_agreed()) {
        return rc;                     /* others may still send into this rank's memory: it stays until the program's end, as the lock */
    }
    clear(&r);
    return rc;
}
