#include "ckpt/export_set.h"

#include "base/memory.h"
#include "ckpt/match.h"

struct fm_set_export {
    fm_source *source;
    int *tensor_of;                    /* [n_tensors] */
    fm_layout layout;                  /* rows over all ranks */
    fm_source_feed from;
    fm_tensor_feed feed;
    fm_exporting *exporting;
};

static void release(fm_set_export *export)
{
    fm_source_close(export->source);
    fm_free(export->tensor_of);
    fm_free(export);
}

static int open_set(fm_set_export *export, const char *set_dir, const fm_layout *layout, fm_comm *world)
{
    export->layout = *layout;
    export->layout.stage_of_layer = NULL;
    for (int d = 0; d < FM_DIMS; d++) {
        export->layout.mesh.size[d] = d == FM_DP_SHARD ? fm_comm_size(world) : 1;
    }
    export->tensor_of = fm_alloc_array(layout->n_tensors, sizeof *export->tensor_of, FM_MEMORY_HOST);
    FM_TRY(fm_comm_agree(world, export->tensor_of == NULL ? FM_ERR_MEMORY : FM_OK));
    FM_TRY(fm_source_open_shards(&export->source, set_dir, world));
    return fm_comm_agree(world, fm_match_trained(export->tensor_of, layout->tensors, layout->n_tensors, export->source, set_dir));
}

int fm_set_export_begin(fm_set_export **out, const char *out_dir, const char *set_dir, const fm_layout *layout,
                        const char *model_dir, fm_comm *world)
{
    fm_set_export *const export = fm_alloc(sizeof *export, FM_MEMORY_HOST);
    *out = NULL;
    int rc = fm_comm_agree(world, export == NULL ? FM_ERR_MEMORY : FM_OK);
    if (rc == FM_OK) {
        rc = open_set(export, set_dir, layout, world);
    }
    if (rc == FM_OK) {
        const fm_export_options options = { .source_dir = model_dir };
        export->from = (fm_source_feed){
            .source = export->source, .tensor_of = export->tensor_of, .layout = &export->layout,
            .coord = fm_mesh_coord(&export->layout.mesh, fm_comm_rank(world)),
        };
        export->feed = fm_feed_source(&export->from);
        rc = fm_exporting_begin(&export->exporting, out_dir, &export->layout, &export->feed, &options, world);
    }
    if (rc < 0) {
        fm_set_export_abandon(export);
        return rc;
    }
    *out = export;
    return FM_OK;
}

bool fm_set_export_is_written(const fm_set_export *export)
{
    return export == NULL || fm_exporting_is_written(export->exporting);
}

int fm_set_export_end(fm_set_export *export, fm_comm *world)
{
    if (export == NULL) {
        return FM_OK;
    }
    const int rc = fm_exporting_end(export->exporting, world);
    release(export);
    return rc;
}

void fm_set_export_abandon(fm_set_export *export)
{
    if (export != NULL) {
        fm_exporting_abandon(export->exporting);
        release(export);
    }
}
