#include "job/check.h"

#include <stdio.h>
#include <string.h>

#include "job/keys.h"
#include "job/stop.h"
#include "parallel/pipeline.h"
#include "train/schedule.h"

static const fm_key_state *state(const fm_job *job, const char *section, const char *key)
{
    const int index = fm_key_find(section, key);
    FM_ASSERT(index >= 0);
    return &job->states[index];
}

static bool is_given(const fm_job *job, const char *section, const char *key)
{
    return state(job, section, key)->origin != FM_FROM_DEFAULT;
}

/* Whether nothing was said against it yet: what follows from a wrong value need not be told too. */
static bool is_sound(const fm_job *job, const char *section, const char *key)
{
    return !state(job, section, key)->faulty;
}

void fm_job_complain(fm_complaints *complaints, const fm_job *job, const char *section, const char *key, const char *format, ...)
{
    char why[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(why, sizeof why, format, args);
    va_end(args);
    const fm_key_state *const of = state(job, section, key);
    fm_text value = { 0 };
    fm_key_print(&value, job, fm_key_get(fm_key_find(section, key)));
    const char *const written = fm_text_get(&value);
    if (of->origin == FM_FROM_FILE) {
        fm_complain(complaints, "%s:%d: [%s] %s = %.200s: %s", job->file_name, of->line, section, key, written, why);
    } else if (of->origin == FM_FROM_OVERRIDE) {
        fm_complain(complaints, "command line: [%s] %s = %.200s: %s", section, key, written, why);
    } else if (written[0] != '\0') {
        fm_complain(complaints, "%s: [%s] %s = %.200s (the default): %s", job->file_name, section, key, written, why);
    } else {
        fm_complain(complaints, "%s: [%s] %s: %s", job->file_name, section, key, why);
    }
    fm_text_clear(&value);
}

static void check_mesh_written(fm_complaints *complaints, const fm_job *job)
{
    if (!job->distributed.has_mesh) {
        return;
    }
    static const char *const sizes[] = { "tp_size", "cp_size", "pp_size", "dp_replicate_size", "dp_size" };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (is_given(job, "distributed", sizes[i])) {
            fm_job_complain(complaints, job, "distributed", sizes[i],
                            "[device_mesh] is written too: give the sizes or the mesh, not both");
        }
    }
}

static void check_pipeline_written(fm_complaints *complaints, const fm_job *job)
{
    if (is_sound(job, "pipeline", "virtual_stages") && is_sound(job, "pipeline", "schedule")
        && fm_pipeline_check_chunks(job->pipeline.schedule, job->pipeline.virtual_stages) < 0) {
        fm_job_complain(complaints, job, "pipeline", "virtual_stages", "%s", fm_error_message());
    }
}

void fm_job_check_written(fm_complaints *complaints, const fm_job *job)
{
    check_mesh_written(complaints, job);
    check_pipeline_written(complaints, job);
    if (job->train.steps > 0 && job->train.epochs > 0) {
        fm_job_complain(complaints, job, "train", "epochs", "[train] steps = %lld is given too: give one of the two",
                        (long long)job->train.steps);
    }
    const fm_optimizer_options *const optimizer = &job->optimizer;
    if (job->schedule.min_lr > optimizer->lr && is_sound(job, "optimizer", "lr") && is_sound(job, "schedule", "min_lr")) {
        fm_job_complain(complaints, job, "schedule", "min_lr", "at most [optimizer] lr = %g was expected", optimizer->lr);
    }
    int64_t seconds;
    if (job->max_time[0] != '\0' && fm_time_parse(&seconds, job->max_time) < 0) {
        fm_job_complain(complaints, job, "job", "max_time", "%s", fm_error_message());
    }
    if (strchr(job->name, '/') != NULL || strcmp(job->name, ".") == 0 || strcmp(job->name, "..") == 0) {
        fm_job_complain(complaints, job, "job", "name", "a name that can be a directory's was expected");
    }
}

static void check_model(fm_complaints *complaints, const fm_job *job)
{
    if (job->model.path[0] == '\0') {
        fm_job_complain(complaints, job, "model", "path",
                        "required: a directory with config.json and *.safetensors was expected");
    }
}

static void check_required(fm_complaints *complaints, const fm_job *job)
{
    check_model(complaints, job);
    if (job->data.train[0] == '\0') {
        fm_job_complain(complaints, job, "data", "train", "required: JSONL files, comma separated, were expected");
    }
    const bool neither = job->train.steps == 0 && job->train.epochs == 0;
    if (neither && is_sound(job, "train", "steps") && is_sound(job, "train", "epochs")) {
        fm_job_complain(complaints, job, "train", "steps", "required: steps or epochs was expected");
    }
}

static void check_schedule(fm_complaints *complaints, const fm_job *job)
{
    if (job->train.steps > 0 && is_sound(job, "schedule", "warmup_steps") && is_sound(job, "schedule", "decay_steps")
        && fm_schedule_check(&job->schedule, job->train.steps) < 0) {
        const bool warmup = job->schedule.warmup_steps >= job->train.steps;
        fm_job_complain(complaints, job, "schedule", warmup ? "warmup_steps" : "decay_steps", "%s", fm_error_message());
    }
}

/* G against what one pass of all data-parallel ranks takes. */
static void check_batch(fm_complaints *complaints, const fm_job *job, const fm_mesh_shape *mesh)
{
    if (!is_sound(job, "batch", "global_batch_size") || !is_sound(job, "batch", "local_batch_size")) {
        return;
    }
    const int dp = fm_mesh_dp_size(mesh);
    const int64_t local = job->batch.local_batch_size;
    const int64_t unit = dp * local;
    const int64_t global = job->batch.global_batch_size;
    if (global % unit == 0) {
        return;
    }
    const int64_t below = global - global % unit;
    char nearest[96];
    if (below > 0) {
        snprintf(nearest, sizeof nearest, "%lld or %lld", (long long)below, (long long)(below + unit));
    } else {
        snprintf(nearest, sizeof nearest, "%lld", (long long)unit);
    }
    fm_job_complain(complaints, job, "batch", "global_batch_size",
                    "a multiple of dp x local_batch_size = %d x %lld = %lld was expected; the nearest: %s", dp, (long long)local,
                    (long long)unit, nearest);
}

static bool sizes_are_sound(const fm_job *job)
{
    for (int i = 0; i < fm_key_count(); i++) {
        const char *const section = fm_key_get(i)->section;
        if (job->states[i].faulty && (strcmp(section, "distributed") == 0 || strcmp(section, "device_mesh") == 0)) {
            return false;
        }
    }
    return true;
}

static void check_sizes(fm_complaints *complaints, const fm_job *job, int n_ranks)
{
    if (n_ranks == 0 || !sizes_are_sound(job)) {
        return;
    }
    fm_mesh_shape mesh;
    if (fm_job_mesh(&mesh, job, n_ranks) < 0) {
        fm_complain(complaints, "%s: [%s]: %s", job->file_name, job->distributed.has_mesh ? "device_mesh" : "distributed",
                    fm_error_message());
        return;
    }
    check_batch(complaints, job, &mesh);
}

void fm_job_check_run(fm_complaints *complaints, const fm_job *job, int n_ranks)
{
    check_required(complaints, job);
    check_schedule(complaints, job);
    check_sizes(complaints, job, n_ranks);
}

void fm_job_check_steps(fm_complaints *complaints, const fm_job *job, int n_ranks)
{
    check_model(complaints, job);
    check_sizes(complaints, job, n_ranks);
}
