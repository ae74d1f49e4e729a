#include "job/cmd_export.h"

#include <stdio.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/export.h"
#include "ckpt/match.h"
#include "job/resume.h"

/* Which of a checkpoint's tensors are the model's: the masters where there are some. The dtypes are those of the model that the
 * run began with (its headers are read), or what they are where it began with none. Collective. */
static int match_checkpoint(int *tensor_of, fm_assembly *a, const fm_source *checkpoint)
{
    fm_source *original = NULL;
    if (a->job.model.init == FM_INIT_PRETRAINED) {
        FM_TRY(fm_source_open(&original, a->job.model.path, a->launch->world));
    }
    int rc = original == NULL ? FM_OK : fm_match_tensors(tensor_of, a->tensors, a->n_tensors, original, a->job.model.path);
    for (int t = 0; rc == FM_OK && t < a->n_tensors; t++) {
        char master[FM_NAME_BYTES + 16];
        snprintf(master, sizeof master, "master/%s", a->tensors[t].name);
        tensor_of[t] = fm_source_find(checkpoint, master);
        tensor_of[t] = tensor_of[t] >= 0 ? tensor_of[t] : fm_source_find(checkpoint, a->tensors[t].name);
        if (tensor_of[t] < 0) {
            rc = fm_fail(FM_ERR_FORMAT, "the checkpoint has no tensor %s: another model wrote it", a->tensors[t].name);
        }
    }
    fm_source_close(original);
    return rc;
}

/* Rows of every tensor are dealt out over the ranks: nothing is read twice, and no rank holds the model. */
static int write_directory(fm_assembly *a, fm_source *source, bool is_checkpoint, const char *dir)
{
    int *const tensor_of = fm_alloc_array(a->n_tensors, sizeof *tensor_of, FM_MEMORY_HOST);
    int rc = fm_comm_agree(a->launch->world, tensor_of == NULL ? FM_ERR_MEMORY : FM_OK);
    if (rc == FM_OK) {
        rc = is_checkpoint ? match_checkpoint(tensor_of, a, source)
                           : fm_match_tensors(tensor_of, a->tensors, a->n_tensors, source, a->job.output_dir);
        rc = fm_comm_agree(a->launch->world, rc);
    }
    if (rc == FM_OK) {
        fm_layout layout = fm_assembly_layout(a);
        fm_source_feed from = {
            .source = source, .tensor_of = tensor_of, .layout = &layout, .coord = fm_mesh_coord(&a->mesh, a->launch->rank),
        };
        const fm_tensor_feed feed = fm_feed_source(&from);
        const fm_export_options options = { .source_dir = a->job.model.path };
        rc = fm_export(dir, &layout, &feed, &options, a->launch->world, NULL);
    }
    fm_free(tensor_of);
    return rc;
}

static int export(fm_assembly *a, fm_source **source, const fm_launch *launch, int argc, char **argv)
{
    char from[FM_PATH_BYTES], dir[FM_PATH_BYTES];
    fm_resume newest;
    FM_TRY(fm_assemble_job(a, launch, argc, argv, false));
    a->mesh = (fm_mesh_shape){ { [FM_PP] = 1, [FM_DP_REPLICATE] = 1, [FM_DP_SHARD] = launch->n_ranks, [FM_CP] = 1, [FM_TP] = 1 } };
    FM_TRY(fm_assemble_config(a));
    FM_TRY(fm_resume_newest(&newest, a));
    const bool is_checkpoint = newest.dir[0] != '\0';
    FM_TRY(fm_path_join(from, a->job.output_dir, is_checkpoint ? newest.dir : "shards"));
    FM_TRY(fm_path_join(dir, a->job.output_dir, "hf"));
    FM_TRY(fm_source_open_shards(source, from, launch->world));
    FM_TRY(write_directory(a, *source, is_checkpoint, dir));
    fm_log_print("# model: %s, from %s\n", dir, from);
    return FM_OK;
}

int fm_cmd_export(const fm_launch *launch, int argc, char **argv, bool *started)
{
    (void)started;
    fm_assembly a = { .launch = NULL };
    fm_source *source = NULL;
    const int rc = export(&a, &source, launch, argc, argv);
    fm_source_close(source);
    fm_assembly_clear(&a);
    return rc;
}
