#include "ckpt/checkpoint.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/json.h"
#include "base/memory.h"
#include "ckpt/shard_scan.h"

enum { NAME_BYTES = 40 };

static const char aside_name[] = "set-aside";

static int step_path(char *out, const char *dir, const char *format, int64_t step)
{
    char name[NAME_BYTES];
    snprintf(name, sizeof name, format, (long long)step);
    return fm_path_join(out, dir, name);
}

int fm_checkpoint_path(char *out, const char *dir, int64_t step)
{
    return step_path(out, dir, "step-%06lld", step);
}

int fm_checkpoint_temporary(char *out, const char *dir, int64_t step)
{
    return step_path(out, dir, ".step-%06lld.tmp", step);
}

int fm_checkpoint_export_path(char *out, const char *path)
{
    static const char suffix[] = "-hf";
    FM_TRY(fm_path_join(out, "", path));
    size_t length = strlen(out);
    while (length > 1 && out[length - 1] == '/') {
        length--;
    }
    if (length + sizeof suffix > FM_PATH_BYTES) {
        return fm_fail(FM_ERR_IO, "%.60s...: the path is too long", path);
    }
    strcpy(out + length, suffix);
    return FM_OK;
}

/* The step of a name that this module's own format gives back; -1: another name. */
static int64_t step_of(const char *name, const char *format)
{
    char again[NAME_BYTES];
    const char *const digits = name + strcspn(name, "0123456789");
    errno = 0;
    const long long step = strtoll(digits, NULL, 10);
    snprintf(again, sizeof again, format, step);
    return errno == 0 && strcmp(name, again) == 0 ? step : -1;
}

static int newest_first(const void *left, const void *right)
{
    const int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a < b) - (a > b);
}

/* A folder of its own, no link. */
static bool is_folder(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static bool is_complete(const char *path)
{
    return is_folder(path) && fm_shards_is_set(path);
}

/* The steps of those that have a checkpoint's name and are wanted, newest first. */
static int list_steps(int64_t **steps, int *n, const char *dir, bool (*wanted)(const char *path))
{
    *steps = NULL;
    *n = 0;
    DIR *const folder = opendir(dir);
    if (folder == NULL) {
        return errno == ENOENT ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot read the directory: %s", dir, strerror(errno));
    }
    int rc = FM_OK;
    for (struct dirent *entry; rc == FM_OK && (entry = readdir(folder)) != NULL;) {
        char path[FM_PATH_BYTES];
        const int64_t step = step_of(entry->d_name, "step-%06lld");
        rc = fm_path_join(path, dir, entry->d_name);
        if (rc < 0 || step < 0 || !wanted(path)) {
            continue;
        }
        int64_t *const grown = fm_grow(*steps, (size_t)(*n + 1) * sizeof **steps, FM_MEMORY_HOST);
        rc = grown == NULL ? FM_ERR_MEMORY : FM_OK;
        if (rc == FM_OK) {
            *steps = grown;
            grown[(*n)++] = step;
        }
    }
    closedir(folder);
    if (rc < 0) {
        fm_free(*steps);
        *steps = NULL;
        *n = 0;
        return rc;
    }
    if (*n > 1) {
        qsort(*steps, (size_t)*n, sizeof **steps, newest_first);
    }
    return FM_OK;
}

int fm_checkpoints_list(int64_t **steps, int *n, const char *dir)
{
    return list_steps(steps, n, dir, is_complete);
}

int fm_checkpoint_state(json_t **out, const char *path)
{
    json_t *manifest;
    *out = NULL;
    FM_TRY(fm_shards_read_manifest(&manifest, path));
    json_t *const state = json_object_get(manifest, "checkpoint");
    if (json_is_object(state)) {
        *out = json_incref(state);
    }
    json_decref(manifest);
    return *out != NULL ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: no checkpoint: its manifest.json carries no state of a run", path);
}

/* The validation loss that a checkpoint was saved with; NaN: none. */
static double val_loss_of(const char *dir, int64_t step)
{
    char path[FM_PATH_BYTES];
    json_t *state = NULL;
    double loss = NAN;
    if (fm_checkpoint_path(path, dir, step) == FM_OK && fm_checkpoint_state(&state, path) == FM_OK) {
        fm_json_get_double(&loss, state, "val_loss", path);
    }
    json_decref(state);
    return loss;
}

/* The earliest with the lowest loss; -1: no loss was measured. */
static int64_t best_of(const char *dir, const int64_t *steps, int n)
{
    int64_t best = -1;
    double lowest = INFINITY;
    for (int i = n - 1; i >= 0; i--) {
        const double loss = val_loss_of(dir, steps[i]);
        if (loss < lowest) {
            lowest = loss;
            best = steps[i];
        }
    }
    return best;
}

/* A relative link, put in its place in one step; step -1: there is nothing that it could point to. */
static int set_link(const char *dir, const char *name, int64_t step)
{
    char path[FM_PATH_BYTES], temporary[FM_PATH_BYTES], target[NAME_BYTES], next_name[NAME_BYTES];
    struct stat st;
    snprintf(target, sizeof target, "step-%06lld", (long long)step);
    snprintf(next_name, sizeof next_name, ".%s.tmp", name);
    FM_TRY(fm_path_join(path, dir, name));
    FM_TRY(fm_path_join(temporary, dir, next_name));
    if (step < 0) {
        return lstat(path, &st) == 0 && S_ISLNK(st.st_mode) && unlink(path) != 0
            ? fm_fail(FM_ERR_IO, "%s: cannot remove the link: %s", path, strerror(errno)) : FM_OK;
    }
    unlink(temporary);
    if (symlink(target, temporary) != 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot make the link: %s", temporary, strerror(errno));
    }
    return fm_path_rename(temporary, path);
}

/* Renamed first: what is half removed is no checkpoint. */
static int remove_one(const char *dir, int64_t step)
{
    char path[FM_PATH_BYTES], temporary[FM_PATH_BYTES];
    FM_TRY(fm_checkpoint_path(path, dir, step));
    FM_TRY(fm_checkpoint_temporary(temporary, dir, step));
    FM_TRY(fm_dir_remove(temporary));
    FM_TRY(fm_path_rename(path, temporary));
    return fm_dir_remove(temporary);
}

int fm_checkpoints_settle(const char *dir, int64_t keep)
{
    int64_t *steps;
    int n;
    FM_TRY(fm_checkpoints_list(&steps, &n, dir));
    const int64_t best = best_of(dir, steps, n);
    int rc = set_link(dir, "latest", n > 0 ? steps[0] : -1);
    if (rc == FM_OK) {
        rc = set_link(dir, "best", best);
    }
    for (int i = (int)(keep < n ? keep : n); rc == FM_OK && i < n; i++) {
        rc = steps[i] == best ? FM_OK : remove_one(dir, steps[i]);
    }
    fm_free(steps);
    return rc;
}

int fm_checkpoints_clean(const char *dir)
{
    DIR *const folder = opendir(dir);
    int rc = FM_OK;
    for (struct dirent *entry; folder != NULL && rc == FM_OK && (entry = readdir(folder)) != NULL;) {
        char path[FM_PATH_BYTES];
        if (step_of(entry->d_name, ".step-%06lld.tmp") >= 0 || step_of(entry->d_name, "step-%06lld-hf.tmp") >= 0) {
            rc = fm_path_join(path, dir, entry->d_name);
            rc = rc < 0 ? rc : fm_dir_remove(path);
        }
    }
    if (folder != NULL) {
        closedir(folder);
    }
    return rc;
}

/* step-000012, or step-000012.1 and so on where an earlier going back has left that name. */
static int free_name(char *out, const char *dir, int64_t step)
{
    char name[FM_PATH_BYTES];
    FM_TRY(fm_checkpoint_path(name, dir, step));
    FM_TRY(fm_path_join(out, "", name));
    for (int i = 1; fm_path_exists(out); i++) {
        if (snprintf(out, FM_PATH_BYTES, "%s.%d", name, i) >= FM_PATH_BYTES) {
            return fm_fail(FM_ERR_IO, "%.60s...: the path is too long", name);
        }
    }
    return FM_OK;
}

int fm_checkpoints_set_aside(int *n, const char *dir, int64_t step)
{
    int64_t *steps;
    int n_steps, rc = FM_OK;
    char aside[FM_PATH_BYTES];
    *n = 0;
    FM_TRY(fm_path_join(aside, dir, aside_name));
    FM_TRY(list_steps(&steps, &n_steps, dir, is_folder));      /* without a manifest too: the next one of that step needs the name */
    for (int i = 0; rc == FM_OK && i < n_steps && steps[i] > step; i++) {
        char from[FM_PATH_BYTES], to[FM_PATH_BYTES];
        rc = fm_dir_make(aside);
        rc = rc < 0 ? rc : fm_checkpoint_path(from, dir, steps[i]);
        rc = rc < 0 ? rc : free_name(to, aside, steps[i]);
        rc = rc < 0 ? rc : fm_path_rename(from, to);
        *n += rc == FM_OK;
    }
    fm_free(steps);
    return rc;
}
