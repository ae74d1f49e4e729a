#include "ckpt/save.h"

#include "base/memory.h"
#include "ckpt/publish.h"
#include "ckpt/shard_scan.h"
#include "ckpt/shards.h"

/* Everything of one set on one rank. */
typedef struct {
    fm_shard_item *items;              /* [n_items]: every tensor of the layout, whether this rank holds it or not */
    int n_items;
    fm_shard_summary *summaries;       /* [mesh ranks] */
} set;

static const void *array_of(const fm_param_view *view, enum fm_array array)
{
    switch (array) {
    case FM_ARRAY_WEIGHT: return view->weight;
    case FM_ARRAY_MASTER: return view->master;
    case FM_ARRAY_EXP_AVG: return view->exp_avg;
    case FM_ARRAY_EXP_AVG_SQ: return view->exp_avg_sq;
    default: return view->gradient;
    }
}

static enum fm_dtype dtype_of(const fm_model *model, enum fm_array array)
{
    switch (array) {
    case FM_ARRAY_WEIGHT: return model->setup.dtype;
    case FM_ARRAY_MASTER: return model->setup.master_dtype;
    case FM_ARRAY_GRADIENT: return FM_F32;
    default: return model->setup.state_dtype;
    }
}

static int fill_items(set *s, const fm_model *model, const fm_save_item *what, int n_what)
{
    s->n_items = n_what * model->n_tensors;
    s->items = fm_alloc_array(s->n_items, sizeof *s->items, FM_MEMORY_HOST);
    s->summaries = fm_alloc_array(fm_mesh_ranks(&model->layout.mesh), sizeof *s->summaries, FM_MEMORY_HOST);
    if (s->items == NULL || s->summaries == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int w = 0; w < n_what; w++) {
        fm_shard_item *const items = s->items + w * model->n_tensors;
        for (int t = 0; t < model->n_tensors; t++) {
            items[t] = (fm_shard_item){ what[w].group, t, dtype_of(model, what[w].array), NULL };
        }
        for (int p = 0; p < model->n_params; p++) {
            const fm_param_view view = fm_model_param(model, p);
            items[model->params[p].tensor].data = array_of(&view, what[w].array);
        }
    }
    return FM_OK;
}

static int write_file(set *s, const char *dir, const fm_model *model, int rank)
{
    fm_shard_file *file;
    FM_TRY(fm_shard_file_begin(&file, dir, &model->layout, &model->coord, s->items, s->n_items));
    int rc = file == NULL ? FM_OK : fm_shard_file_write_all(file);
    if (rc < 0) {
        fm_shard_file_abandon(file);
        return rc;
    }
    return fm_shard_file_end(file, &s->summaries[rank]);
}

int fm_save(const char *dir, const fm_model *model, const fm_save_item *what, int n_what, const json_t *extra)
{
    fm_comm *const world = fm_groups_get(model->groups, FM_GROUP_WORLD);
    const int rank = fm_comm_rank(world);
    char temporary[FM_PATH_BYTES];
    set s = { .items = NULL };
    int rc = fill_items(&s, model, what, n_what);
    if (rc == FM_OK) {
        rc = fm_publish_name(temporary, dir);
    }
    if (rc == FM_OK && rank == 0) {
        rc = fm_publish_begin(temporary, dir, fm_shards_is_set);
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, write_file(&s, temporary, model, rank));
    }
    if (rc == FM_OK) {
        rc = fm_shards_finish(temporary, &model->layout, s.items, s.n_items, s.summaries, extra, world);
    }
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, rank == 0 ? fm_publish_end(temporary, dir) : FM_OK);
    }
    fm_free(s.items);
    fm_free(s.summaries);
    return rc;
}
