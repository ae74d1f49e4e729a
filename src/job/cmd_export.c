#include "job/cmd_export.h"

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/export.h"
#include "ckpt/match.h"

/* Rows of every tensor are dealt out over the ranks: nothing is read twice, and no rank holds the model. */
static int write_directory(fm_assembly *a, fm_source *source, const char *dir)
{
    fm_layout layout = fm_assembly_layout(a);
    fm_source_feed from = { .source = source, .layout = &layout, .coord = fm_mesh_coord(&a->mesh, a->launch->rank) };
    int *const tensor_of = fm_alloc_array(a->n_tensors, sizeof *tensor_of, FM_MEMORY_HOST);
    int rc = tensor_of == NULL ? FM_ERR_MEMORY : fm_match_tensors(tensor_of, a->tensors, a->n_tensors, source, a->job.output_dir);
    rc = fm_comm_agree(a->launch->world, rc);
    if (rc == FM_OK) {
        from.tensor_of = tensor_of;
        const fm_tensor_feed feed = fm_feed_source(&from);
        const fm_export_options options = { .source_dir = a->job.model.path };
        rc = fm_export(dir, &layout, &feed, &options, a->launch->world, NULL);
    }
    fm_free(tensor_of);
    return rc;
}

static int export(fm_assembly *a, fm_source **source, const fm_launch *launch, int argc, char **argv)
{
    char shards[FM_PATH_BYTES], dir[FM_PATH_BYTES];
    FM_TRY(fm_assemble_job(a, launch, argc, argv, false));
    a->mesh = (fm_mesh_shape){ { [FM_PP] = 1, [FM_DP_REPLICATE] = 1, [FM_DP_SHARD] = launch->n_ranks, [FM_CP] = 1, [FM_TP] = 1 } };
    FM_TRY(fm_assemble_config(a));
    FM_TRY(fm_path_join(shards, a->job.output_dir, "shards"));
    FM_TRY(fm_path_join(dir, a->job.output_dir, "hf"));
    FM_TRY(fm_source_open_shards(source, shards, launch->world));
    FM_TRY(write_directory(a, *source, dir));
    fm_log_print("# model: %s\n", dir);
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
