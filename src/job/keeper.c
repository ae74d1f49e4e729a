#include "job/keeper.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/task.h"
#include "ckpt/checkpoint.h"
#include "ckpt/export_set.h"
#include "ckpt/publish.h"
#include "ckpt/save.h"
#include "ckpt/shard_scan.h"
#include "ckpt/shards.h"
#include "job/effective.h"
#include "job/memory.h"
#include "job/stop.h"

enum { MOST_ITEMS = 4, CONFIG_LIMIT_BYTES = 16 << 20 };

struct fm_keeper {
    fm_keeper_spec spec;
    fm_comm *world;
    fm_save_item items[MOST_ITEMS];
    int n_items;
    size_t copy_bytes;
    void *copy;                        /* NULL: training waits for the disk */
    fm_task *preparing;                /* gets the copy's pages, before the first checkpoint needs them */
    char folder[FM_PATH_BYTES];
    char *config;                      /* rank 0's text of config.json, for every checkpoint: read once, it may go away */
    size_t config_bytes;
    double checkpoint_s, step_s, validation_s;     /* the longest so far */
    double step_end_s;                 /* when the last call ended, that of a step before; 0: there was none */
    double val_loss;                   /* the last that was measured, after step val_step; NAN: none */
    int64_t val_step;
    /* the one that is being written */
    fm_saving *saving;
    int64_t step;
    char temporary[FM_PATH_BYTES], final[FM_PATH_BYTES];
    json_t *extra;                     /* rank 0's */
    double waited_s;
    /* the one that is being exported */
    fm_set_export *exporting;
    char exported[FM_PATH_BYTES];
    double export_s;                   /* when it began; what training has waited for it */
    double export_waited_s;
};

static void list_items(fm_keeper *k)
{
    const fm_model_setup *const setup = &k->spec.a->model->setup;
    k->items[k->n_items++] = (fm_save_item){ FM_ARRAY_WEIGHT, "" };
    if (setup->master_dtype != setup->dtype) {
        k->items[k->n_items++] = (fm_save_item){ FM_ARRAY_MASTER, "master" };
    }
    k->items[k->n_items++] = (fm_save_item){ FM_ARRAY_EXP_AVG, "exp_avg" };
    k->items[k->n_items++] = (fm_save_item){ FM_ARRAY_EXP_AVG_SQ, "exp_avg_sq" };
}

/* Room for the copies of all ranks of this machine beside everything that they have asked for of its memory, touched yet or not. */
static bool has_room(const fm_keeper *k)
{
    const int64_t available_bytes = fm_memory_available_bytes();
    const bool is_host = k->spec.a->device->table->is_host;
    const size_t used_bytes = is_host ? fm_memory_used_bytes(FM_MEMORY_KINDS)
                                      : fm_memory_used_bytes(FM_MEMORY_HOST) + fm_memory_used_bytes(FM_MEMORY_CHECKPOINT);
    const int64_t needed_bytes = (int64_t)(k->copy_bytes + used_bytes) * k->spec.a->ranks_of_node;
    return available_bytes == 0 || needed_bytes <= available_bytes;
}

static int populate_copy(void *user)
{
    const fm_keeper *const k = user;
    fm_memory_populate(k->copy, k->copy_bytes);
    return FM_OK;
}

static int choose_way(fm_keeper *k)
{
    int64_t short_of_memory = !has_room(k);
    FM_TRY(fm_comm_all_reduce(k->world, &short_of_memory, 1, FM_I64, FM_MAX));
    if (!short_of_memory) {
        k->copy = fm_alloc(k->copy_bytes, FM_MEMORY_CHECKPOINT);
        short_of_memory = k->copy == NULL;
        if (k->copy != NULL) {
            fm_memory_expect_use(k->copy, k->copy_bytes);
        }
        FM_TRY(fm_comm_all_reduce(k->world, &short_of_memory, 1, FM_I64, FM_MAX));
    }
    const double mib = (double)k->copy_bytes / (1 << 20);
    if (short_of_memory) {
        fm_free(k->copy);
        k->copy = NULL;
        fm_log_warning("memory is short: there is no room for a copy of %.1f MiB a rank, so that training will wait while "
                       "checkpoints are written", mib);
        return FM_OK;
    }
    fm_log_print("# checkpoints: every %lld steps, written in the background from a copy of %.1f MiB a rank\n",
                 (long long)k->spec.a->job.checkpoint.every, mib);
    if (fm_task_begin(&k->preparing, populate_copy, k) < 0) {
        k->preparing = NULL;           /* then the pages come with the first copy */
    }
    return FM_OK;
}

/* Names, and what rank 0 reads once. */
static int open_inputs(fm_keeper *k)
{
    const fm_job *const job = &k->spec.a->job;
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(k->folder, job->output_dir, "checkpoints"));
    FM_TRY(fm_path_join(path, job->model.path, "config.json"));
    return fm_comm_rank(k->world) == 0 ? fm_file_read(&k->config, &k->config_bytes, path, CONFIG_LIMIT_BYTES) : FM_OK;
}

int fm_keeper_new(fm_keeper **out, const fm_keeper_spec *spec)
{
    const double slow_disk = 50e6;     /* bytes a second: a first guess, on the safe side */
    fm_comm *const world = spec->a->launch->world;
    fm_keeper *const k = fm_alloc(sizeof *k, FM_MEMORY_HOST);
    *out = NULL;
    FM_TRY(fm_comm_agree(world, k == NULL ? FM_ERR_MEMORY : FM_OK));
    k->spec = *spec;
    k->world = world;
    k->val_loss = spec->resume->val_loss;
    k->val_step = spec->resume->val_step;
    list_items(k);
    k->copy_bytes = fm_saving_bytes(spec->a->model, k->items, k->n_items);
    k->checkpoint_s = spec->resume->checkpoint_s;
    if (!(k->checkpoint_s > 0.0)) {
        k->checkpoint_s = (double)k->copy_bytes * spec->a->ranks_of_node / slow_disk;
    }
    int rc = fm_comm_agree(world, open_inputs(k));
    if (rc == FM_OK && spec->a->job.checkpoint.every > 0) {
        rc = choose_way(k);
    }
    if (rc < 0) {
        fm_keeper_destroy(k);
        return rc;
    }
    *out = k;
    return FM_OK;
}

void fm_keeper_destroy(fm_keeper *k)
{
    if (k != NULL) {
        fm_saving_abandon(k->saving);
        fm_set_export_abandon(k->exporting);
        fm_task_abandon(k->preparing);
        json_decref(k->extra);
        fm_free(k->copy);
        fm_free(k->config);
        fm_free(k);
    }
}

/* The state for the manifest. */
static int make_extra(fm_keeper *k)
{
    const fm_loop_state loop = fm_loop_get_state(k->spec.loop);
    k->extra = json_pack("{s:{s:I, s:I, s:f, s:O}}", "checkpoint", "step", (json_int_t)k->step, "updates",
                         (json_int_t)loop.updates, "seconds", k->checkpoint_s, "identity", k->spec.identity);
    json_t *const state = json_object_get(k->extra, "checkpoint");
    bool whole = state != NULL;
    if (whole && k->spec.a->model->setup.dtype == FM_F16) {
        json_t *const scale = json_pack("{s:f, s:I, s:I}", "factor", loop.scale.factor, "good_steps",
                                        (json_int_t)loop.scale.good_steps, "skipped", (json_int_t)loop.scale.skipped);
        whole = json_object_set_new(state, "loss_scale", scale) == 0;
    }
    if (whole && isfinite(k->val_loss)) {
        whole = json_object_set_new(state, "val_loss", json_real(k->val_loss)) == 0 &&
                json_object_set_new(state, "val_step", json_integer((json_int_t)k->val_step)) == 0;
    }
    return whole ? FM_OK : fm_fail(FM_ERR_MEMORY, "out of memory: the state of step %lld", (long long)k->step);
}

/* Rank 0's part before the data: the folder, the effective job and the model's configuration in it, and the state. */
static int open_folder(fm_keeper *k)
{
    char *text;
    size_t size_bytes;
    FM_TRY(fm_dir_make(k->folder));
    FM_TRY(fm_publish_begin(k->temporary, k->final, fm_shards_is_set));
    FM_TRY(make_extra(k));
    FM_TRY(fm_shards_add_file(k->extra, k->temporary, "config.json", k->config, k->config_bytes));
    FM_TRY(fm_job_write(&text, &size_bytes, &k->spec.a->job));
    const int rc = fm_shards_add_file(k->extra, k->temporary, "job.ini", text, size_bytes);
    fm_free(text);
    return rc;
}

/* After an agreed failure: once no rank writes there any more, the folder goes; the failure stays what it was. Collective. */
static int give_up(fm_keeper *k, int rc)
{
    json_decref(k->extra);
    k->extra = NULL;
    rc = fm_comm_agree(k->world, rc);
    if (fm_comm_rank(k->world) == 0) {
        fm_publish_abandon(k->temporary);
    }
    return fm_comm_agree(k->world, rc);
}

static int begin(fm_keeper *k, int64_t step, bool in_background)
{
    const double begin_s = fm_clock_s();
    k->step = step;
    int rc = fm_checkpoint_temporary(k->temporary, k->folder, step);
    rc = rc < 0 ? rc : fm_checkpoint_path(k->final, k->folder, step);
    if (rc == FM_OK && fm_comm_rank(k->world) == 0) {
        rc = open_folder(k);
    }
    rc = fm_comm_agree(k->world, rc);
    if (rc == FM_OK) {
        rc = fm_saving_begin(&k->saving, k->temporary, k->spec.a->model, k->items, k->n_items, in_background ? k->copy : NULL);
        rc = fm_comm_agree(k->world, rc);
    }
    if (rc < 0) {
        fm_saving_abandon(k->saving);
        k->saving = NULL;
        rc = give_up(k, rc);
    }
    k->waited_s = fm_clock_s() - begin_s;
    return rc;
}

/* Waits for an export, which then has its name; nothing where there is none. */
static int end_export(fm_keeper *k)
{
    if (k->exporting == NULL) {
        return FM_OK;
    }
    const double begin_s = fm_clock_s();
    const int rc = fm_set_export_end(k->exporting, k->world);
    k->exporting = NULL;
    FM_TRY(rc);
    const double now_s = fm_clock_s();
    fm_log_print("# export: %s, %.1f s, of which training waited %.1f ms\n", k->exported, now_s - k->export_s,
                 1e3 * (k->export_waited_s + now_s - begin_s));
    return FM_OK;
}

static int begin_export(fm_keeper *k)
{
    const fm_assembly *const a = k->spec.a;
    k->export_s = fm_clock_s();
    FM_TRY(fm_comm_agree(k->world, fm_checkpoint_export_path(k->exported, k->final)));
    FM_TRY(fm_set_export_begin(&k->exporting, k->exported, k->final, &a->model->layout, a->job.model.path, k->world));
    k->export_waited_s = fm_clock_s() - k->export_s;
    return FM_OK;
}

/* Checksums, manifest, name, links. Rank 0's metrics are on the disk before the name is there. */
static int finish(fm_keeper *k, fm_metrics *metrics)
{
    const bool leads = fm_comm_rank(k->world) == 0;
    const double begin_s = fm_clock_s();
    double written_s = 0.0;
    int rc = fm_saving_end(k->saving, &written_s, FM_OK, k->spec.a->model, k->extra);
    k->saving = NULL;
    if (rc == FM_OK && leads) {
        rc = metrics == NULL ? FM_OK : fm_metrics_sync(metrics);
        rc = rc < 0 ? rc : fm_publish_end(k->temporary, k->final);
        rc = rc < 0 ? rc : fm_checkpoints_settle(k->folder, k->spec.a->job.checkpoint.keep);
    }
    rc = fm_comm_agree(k->world, rc);
    if (rc < 0) {
        return give_up(k, rc);
    }
    json_decref(k->extra);
    k->extra = NULL;
    const double end_s = fm_clock_s() - begin_s;
    const double whole_s = fmax(written_s, k->waited_s) + end_s;
    k->checkpoint_s = fmax(k->checkpoint_s, whole_s);
    fm_log_print("# checkpoint: %s, %.1f s, of which training waited %.1f ms\n", k->final, whole_s, 1e3 * (k->waited_s + end_s));
    return FM_OK;
}

/* What the ranks tell each other after every step. */
enum { SIGNAL, TIME, WRITING, EXPORTING, N_FLAGS };

static int agree_flags(int64_t flags[N_FLAGS], fm_keeper *k, int64_t step)
{
    const double next_s = k->step_s + (fm_loop_must_validate(k->spec.loop, step + 1) ? k->validation_s : 0.0);
    const int checkpoints = k->saving != NULL ? 2 : 1;     /* the one that is being written is completed first */
    flags[SIGNAL] = fm_stop_signal();
    flags[TIME] = fm_stop_is_near(k->spec.deadline_s, fm_clock_of_day_s(), next_s, checkpoints * k->checkpoint_s);
    flags[WRITING] = k->saving != NULL && !fm_saving_is_written(k->saving);
    flags[EXPORTING] = !fm_set_export_is_written(k->exporting);
    return fm_comm_all_reduce(k->world, flags, N_FLAGS, FM_I64, FM_MAX);
}

/* A finished checkpoint and, if asked, its export. The one before may go away now, so that its own export ends first. */
static int finish_and_export(fm_keeper *k, fm_metrics *metrics, bool exports)
{
    FM_TRY(end_export(k));
    FM_TRY(finish(k, metrics));
    return exports && k->spec.a->job.checkpoint.export_when == FM_EXPORT_EVERY ? begin_export(k) : FM_OK;
}

static void note_times(fm_keeper *k, const fm_step_metrics *step)
{
    const double step_s = 1e-3 * step->step_ms;
    k->step_s = fmax(k->step_s, step_s);
    if (k->step_end_s > 0.0 && fm_loop_must_validate(k->spec.loop, step->step)) {
        k->validation_s = fmax(k->validation_s, fm_clock_s() - k->step_end_s - step_s);
    }
}

int fm_keeper_step(bool *stop, fm_keeper *k, const fm_step_metrics *step, double val_loss, fm_metrics *metrics)
{
    int64_t flags[N_FLAGS];
    const int64_t every = k->spec.a->job.checkpoint.every;
    const bool is_last = step->step == fm_loop_steps(k->spec.loop);
    note_times(k, step);
    if (isfinite(val_loss)) {
        k->val_loss = val_loss;
        k->val_step = step->step;
    }
    FM_TRY(agree_flags(flags, k, step->step));
    const bool asked = flags[SIGNAL] != 0 || flags[TIME] != 0;
    const bool due = asked || (every > 0 && (is_last || step->step % every == 0));
    *stop = asked && !is_last;         /* after the last step an export may take longer than there is time */
    if (*stop) {                       /* there is no time for it */
        fm_set_export_abandon(k->exporting);
        k->exporting = NULL;
    } else if (!flags[EXPORTING]) {
        FM_TRY(end_export(k));
    }
    if (k->saving != NULL && (due || !flags[WRITING])) {
        FM_TRY(finish_and_export(k, metrics, !*stop));
    }
    if (due) {
        const bool in_background = k->copy != NULL && !is_last && !*stop;
        FM_TRY(begin(k, step->step, in_background));
        FM_TRY(in_background ? FM_OK : finish_and_export(k, metrics, !*stop));
    }
    if (is_last) {
        FM_TRY(end_export(k));
    }
    k->step_end_s = fm_clock_s();
    if (*stop) {
        fm_log_print("# stopped after step %lld by %s: %s is complete, the same command goes on from it\n", (long long)step->step,
                     flags[SIGNAL] != 0 ? strsignal((int)flags[SIGNAL]) : "the time limit", k->final);
    }
    return FM_OK;
}
