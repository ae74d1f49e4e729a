#include "job/cmd_export.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"
#include "ckpt/export_set.h"
#include "ckpt/match.h"
#include "ckpt/shard_scan.h"
#include "ckpt/verify.h"
#include "job/resume.h"

/* From what to what; the same on every rank. "": not said. */
typedef struct {
    char job[FM_PATH_BYTES];           /* the job file */
    char set[FM_PATH_BYTES];           /* the checkpoint, where one was named */
    char out[FM_PATH_BYTES];
} places;

/* checkpoint.resume is where the run began, and says nothing about what is to be exported. */
static int refuse_resume(const char *argument)
{
    static const char key[] = "checkpoint.resume=";
    const char *const value = argument + sizeof key - 1;
    if (strncmp(argument, key, sizeof key - 1) != 0 || strcmp(value, "auto") == 0) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_JOB, "finemesh export: %s chooses no checkpoint here: name it instead of the job, as in finemesh export %s",
                   argument, value);
}

/* Takes "-o DIR" out of the arguments. */
static int take_out(places *p, int *argc, char **argv)
{
    int n = 0;
    for (int i = 0; i < *argc; i++) {
        FM_TRY(refuse_resume(argv[i]));
        if (strcmp(argv[i], "-o") != 0) {
            argv[n++] = argv[i];
        } else if (++i == *argc) {
            return fm_fail(FM_ERR_JOB, "finemesh export: a directory was expected after -o");
        } else {
            FM_TRY(fm_path_join(p->out, "", argv[i]));
        }
    }
    *argc = n;
    return n > 0 ? FM_OK : fm_fail(FM_ERR_JOB, "finemesh export: a job file or a checkpoint was expected");
}

/* Rank 0: a checkpoint brings its own job. Its place is found through links (`latest`, `best`): the export stands beside it. */
static int find_job(places *p, const char *path)
{
    if (!fm_path_is_dir(path)) {
        return fm_path_join(p->job, "", path);
    }
    if (!fm_shards_is_set(path)) {
        return fm_fail(FM_ERR_JOB, "%s: it has no manifest.json: a job file or a checkpoint was expected", path);
    }
    char whole[PATH_MAX];
    if (realpath(path, whole) == NULL) {
        return fm_fail(FM_ERR_IO, "%s: cannot tell where it is: %s", path, strerror(errno));
    }
    FM_TRY(fm_path_join(p->set, "", whole));
    FM_TRY(fm_path_join(p->job, whole, "job.ini"));
    if (!fm_path_exists(p->job)) {
        return fm_fail(FM_ERR_JOB, "%s: it has no job.ini, so that it is no checkpoint: finemesh export JOB.ini makes a Hugging "
                       "Face directory from the shards of a job", path);
    }
    return p->out[0] != '\0' ? FM_OK : fm_checkpoint_export_path(p->out, whole);
}

/* The set: the one that was named, intact; else the newest checkpoint; else the shards. Collective. */
static int find_set(places *p, bool *is_checkpoint, const fm_assembly *a)
{
    *is_checkpoint = true;
    if (p->set[0] != '\0') {
        return fm_verify(NULL, p->set, a->launch->world);
    }
    fm_resume newest;
    FM_TRY(fm_resume_newest(&newest, a));
    *is_checkpoint = newest.dir[0] != '\0';
    FM_TRY(fm_path_join(p->set, a->job.output_dir, *is_checkpoint ? newest.dir : "shards"));
    return p->out[0] != '\0' ? FM_OK : fm_path_join(p->out, a->job.output_dir, "hf");
}

/* The dtypes of the model that the run began with (its headers are read), or what they are where it began with none.
 * Collective. */
static int find_dtypes(fm_assembly *a, const places *p, bool is_checkpoint)
{
    fm_source *original;
    fm_comm *const world = a->launch->world;
    if (is_checkpoint && a->job.model.init != FM_INIT_PRETRAINED) {
        return FM_OK;
    }
    const char *const dir = is_checkpoint ? a->job.model.path : p->set;
    FM_TRY(fm_source_open(&original, dir, world));
    int *const unused = fm_alloc_array(a->n_tensors, sizeof *unused, FM_MEMORY_HOST);
    const int rc = unused == NULL ? FM_ERR_MEMORY : fm_match_tensors(unused, a->tensors, a->n_tensors, original, dir);
    fm_free(unused);
    fm_source_close(original);
    return fm_comm_agree(world, rc);
}

static int export(fm_assembly *a, const fm_launch *launch, int argc, char **argv)
{
    places p = { .out = "" };
    bool is_checkpoint;
    fm_set_export *writing;
    int rc = take_out(&p, &argc, argv);
    if (rc == FM_OK && launch->rank == 0) {
        rc = find_job(&p, argv[0]);
    }
    FM_TRY(fm_comm_agree(launch->world, rc));
    FM_TRY(fm_comm_broadcast(launch->world, &p, sizeof p, FM_U8, 0));
    argv[0] = p.job;
    FM_TRY(fm_assemble_job(a, launch, argc, argv, false));
    a->mesh = (fm_mesh_shape){ { 1, 1, 1, 1, 1 } };       /* no mesh at all: every model fits on it */
    FM_TRY(fm_assemble_config(a));
    FM_TRY(find_set(&p, &is_checkpoint, a));
    FM_TRY(find_dtypes(a, &p, is_checkpoint));
    const fm_layout layout = fm_assembly_layout(a);
    FM_TRY(fm_set_export_begin(&writing, p.out, p.set, &layout, a->job.model.path, launch->world));
    FM_TRY(fm_set_export_end(writing, launch->world));
    fm_log_print("# model: %s, from %s\n", p.out, p.set);
    return FM_OK;
}

int fm_cmd_export(const fm_launch *launch, int argc, char **argv, bool *started)
{
    (void)started;
    fm_assembly a = { .launch = NULL };
    const int rc = export(&a, launch, argc, argv);
    fm_assembly_clear(&a);
    return rc;
}
