#include "job/resume.h"

#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"
#include "ckpt/load.h"
#include "ckpt/source.h"
#include "ckpt/verify.h"
#include "job/identity.h"

/* The loss scale of a float16 run; factor 0: the state has none. */
static int read_scale(fm_loss_scale *out, const json_t *state, const char *dir)
{
    const json_t *const scale = json_object_get(state, "loss_scale");
    *out = (fm_loss_scale){ .factor = 0.0 };
    if (scale == NULL) {
        return FM_OK;
    }
    FM_TRY(fm_json_get_double(&out->factor, scale, "factor", dir));
    FM_TRY(fm_json_get_int(&out->good_steps, scale, "good_steps", 0, INT64_MAX, dir));
    FM_TRY(fm_json_get_int(&out->skipped, scale, "skipped", 0, INT64_MAX, dir));
    return fm_loss_scale_is_legal(out->factor) ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: its state has the loss scale %g", dir,
                                                                 out->factor);
}

/* Rank 0's reading of a verified checkpoint; `identity` NULL: of whatever run. */
static int read_state(fm_resume *out, const char *dir, const json_t *identity, bool allowed)
{
    json_t *state;
    FM_TRY(fm_checkpoint_state(&state, dir));
    const json_t *const was = json_object_get(state, "identity");
    int rc = json_is_object(was) ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: its state has no \"identity\"", dir);
    out->step = -1;
    out->val_loss = NAN;
    rc = rc < 0 ? rc : fm_json_get_int(&out->step, state, "step", 0, INT64_MAX, dir);
    rc = rc < 0 ? rc : fm_json_get_int(&out->loop.updates, state, "updates", 0, INT64_MAX, dir);
    rc = rc < 0 ? rc : read_scale(&out->loop.scale, state, dir);
    rc = rc < 0 ? rc : fm_json_get_double(&out->val_loss, state, "val_loss", dir);
    rc = rc < 0 ? rc : fm_json_get_int(&out->val_step, state, "val_step", 0, INT64_MAX, dir);
    rc = rc < 0 ? rc : fm_json_get_double(&out->checkpoint_s, state, "seconds", dir);
    if (rc == FM_OK && out->step < 0) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: its state has no \"step\"", dir);
    }
    if (rc == FM_OK && identity != NULL) {
        rc = fm_identity_compare(was, identity, allowed, dir);
    }
    json_decref(state);
    return rc < 0 ? rc : fm_path_join(out->dir, "", dir);
}

/* One candidate, named by rank 0, which knows of what step it should be (-1: any). Collective. */
static int try_one(fm_resume *out, char *dir, int64_t step, const fm_assembly *a, const json_t *identity)
{
    fm_comm *const world = a->launch->world;
    FM_TRY(fm_comm_broadcast(world, dir, FM_PATH_BYTES, FM_U8, 0));
    FM_TRY(fm_verify(NULL, dir, world));
    *out = (fm_resume){ .val_loss = NAN };
    int rc = a->launch->rank == 0 ? read_state(out, dir, identity, a->job.checkpoint.allow_changes) : FM_OK;
    if (rc == FM_OK && a->launch->rank == 0 && step >= 0 && out->step != step) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: it holds step %lld", dir, (long long)out->step);
    }
    FM_TRY(fm_comm_agree(world, rc));
    return fm_comm_broadcast(world, out, sizeof *out, FM_U8, 0);
}

static bool is_damage(int rc)
{
    return rc == FM_ERR_FORMAT || rc == FM_ERR_IO;
}

static int newest(fm_resume *out, const fm_assembly *a, const char *folder, const json_t *identity)
{
    fm_comm *const world = a->launch->world;
    int64_t *steps = NULL, count = 0;
    int n = 0, rc = FM_OK;
    if (a->launch->rank == 0) {
        rc = fm_checkpoints_list(&steps, &n, folder);
        count = n;
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = fm_comm_broadcast(world, &count, 1, FM_I64, 0);
    }
    *out = (fm_resume){ .val_loss = NAN };
    for (int64_t i = 0; rc == FM_OK && i < count && out->dir[0] == '\0'; i++) {
        char dir[FM_PATH_BYTES] = "";
        if (a->launch->rank == 0) {
            fm_checkpoint_path(dir, folder, steps[i]);      /* as long as what was listed */
        }
        rc = try_one(out, dir, a->launch->rank == 0 ? steps[i] : -1, a, identity);
        if (is_damage(rc)) {
            fm_log_warning("%s", fm_error_message());
            fm_log_warning("%s is passed over", dir);
            *out = (fm_resume){ .val_loss = NAN };
            rc = FM_OK;
        }
    }
    fm_free(steps);
    if (rc == FM_OK && count > 0 && out->dir[0] == '\0') {
        rc = fm_fail(FM_ERR_FORMAT, "%s: none of its %lld checkpoints is intact. Repair one, or start anew with checkpoint.resume=no "
                     "job.overwrite=yes.", folder, (long long)count);
    }
    return rc;
}

int fm_resume_newest(fm_resume *out, const fm_assembly *a)
{
    char folder[FM_PATH_BYTES];
    FM_TRY(fm_path_join(folder, a->job.output_dir, "checkpoints"));
    return newest(out, a, folder, NULL);
}

/* Rank 0. */
static int clear_ahead(const fm_resume *resume, const char *folder, int64_t keep)
{
    int n = 0;
    if (!fm_path_is_dir(folder)) {
        return FM_OK;
    }
    FM_TRY(fm_checkpoints_clean(folder));
    FM_TRY(fm_checkpoints_set_aside(&n, folder, resume->step));
    if (n > 0) {
        fm_log_warning("%d checkpoint%s of later steps moved to %s/set-aside", n, n == 1 ? "" : "s", folder);
    }
    return fm_checkpoints_settle(folder, keep);
}

int fm_resume_choose(fm_resume *out, const fm_assembly *a, const json_t *identity)
{
    char folder[FM_PATH_BYTES], dir[FM_PATH_BYTES] = "";
    const fm_checkpoint_options *const options = &a->job.checkpoint;
    *out = (fm_resume){ .val_loss = NAN };
    FM_TRY(fm_path_join(folder, a->job.output_dir, "checkpoints"));
    if (strcmp(options->resume, "auto") == 0) {
        FM_TRY(newest(out, a, folder, identity));
    } else if (strcmp(options->resume, "no") != 0) {
        FM_TRY(fm_path_join(dir, "", options->resume));
        FM_TRY(try_one(out, dir, -1, a, identity));
    }
    return FM_OK;
}

int fm_resume_settle(const fm_resume *resume, const fm_assembly *a)
{
    char folder[FM_PATH_BYTES];
    FM_TRY(fm_path_join(folder, a->job.output_dir, "checkpoints"));
    return fm_comm_agree(a->launch->world, a->launch->rank == 0 ? clear_ahead(resume, folder, a->job.checkpoint.keep) : FM_OK);
}

int fm_resume_load(const fm_resume *resume, fm_assembly *a)
{
    fm_source *source;
    FM_TRY(fm_source_open_shards(&source, resume->dir, a->launch->world));
    const int rc = fm_load_states(a->model, source);
    fm_source_close(source);
    return fm_comm_agree(a->launch->world, rc);
}
