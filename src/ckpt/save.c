#include "ckpt/save.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/task.h"
#include "base/writer.h"
#include "ckpt/publish.h"
#include "ckpt/shard_scan.h"
#include "ckpt/shards.h"

/* Copies begin at whole pages, so that they go to the disk as they are. */
enum { STAGE_BYTES = 8 << 20, ALIGN = FM_WRITER_ALIGN_BYTES };

/* Everything of one set on one rank. */
struct fm_saving {
    char dir[FM_PATH_BYTES];
    fm_shard_item *items;              /* [n_items]: every tensor of the layout, whether this rank holds it or not */
    const void **from;                 /* [n_items]: this rank's arrays, or their copies */
    fm_device *device;                 /* of the arrays; NULL: they are copies in the host's memory */
    int n_items;
    fm_shard_summary *summaries;       /* [mesh ranks] */
    fm_shard_file *file;               /* NULL: this rank owns nothing */
    fm_task *writing;                  /* NULL: written already */
    double written_s;                  /* that it took */
};

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

static size_t array_bytes(const fm_model *model, int param, enum fm_array array)
{
    return (size_t)fm_model_param(model, param).elements * fm_dtype_bytes(dtype_of(model, array));
}

static size_t whole_pages(size_t size_bytes)
{
    return (size_bytes + ALIGN - 1) / ALIGN * ALIGN;
}

size_t fm_saving_bytes(const fm_model *model, const fm_save_item *what, int n_what)
{
    size_t sum = ALIGN;
    for (int w = 0; w < n_what; w++) {
        for (int p = 0; p < model->n_params; p++) {
            sum += model->params[p].slice.owner ? whole_pages(array_bytes(model, p, what[w].array)) : 0;
        }
    }
    return sum;
}

static int fill_items(fm_saving *s, const fm_model *model, const fm_save_item *what, int n_what)
{
    s->n_items = n_what * model->n_tensors;
    s->items = fm_alloc_array(s->n_items, sizeof *s->items, FM_MEMORY_CHECKPOINT);
    s->from = fm_alloc_array(s->n_items, sizeof *s->from, FM_MEMORY_CHECKPOINT);
    s->summaries = fm_alloc_array(fm_mesh_ranks(&model->layout.mesh), sizeof *s->summaries, FM_MEMORY_CHECKPOINT);
    if (s->items == NULL || s->from == NULL || s->summaries == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int w = 0; w < n_what; w++) {
        for (int t = 0; t < model->n_tensors; t++) {
            s->items[w * model->n_tensors + t] = (fm_shard_item){ what[w].group, t, dtype_of(model, what[w].array), NULL };
        }
        for (int p = 0; p < model->n_params; p++) {
            const fm_param_view view = fm_model_param(model, p);
            s->from[w * model->n_tensors + model->params[p].tensor] = array_of(&view, what[w].array);
        }
    }
    return FM_OK;
}

/* The arrays that the file takes, one behind another. */
static int copy_arrays(fm_saving *s, const fm_model *model, char *copy, size_t copy_bytes)
{
    size_t at = (ALIGN - (uintptr_t)copy % ALIGN) % ALIGN;
    for (int i = 0; i < s->n_items; i++) {
        const size_t bytes = (size_t)fm_shard_file_item_bytes(s->file, i);
        if (bytes > 0) {
            FM_ASSERT(bytes <= copy_bytes - at);
            FM_TRY(fm_device_copy_out(model->compute->device, copy + at, s->from[i], bytes));
            s->from[i] = copy + at;
            at += whole_pages(bytes);
        }
    }
    return FM_OK;
}

/* An array that lies in the device's memory, by way of the host's. */
static int write_from_device(fm_saving *s, int i, size_t size_bytes)
{
    void *const here = fm_alloc(size_bytes, FM_MEMORY_CHECKPOINT);
    int rc = here == NULL ? FM_ERR_MEMORY : fm_device_copy_out(s->device, here, s->from[i], size_bytes);
    if (rc == FM_OK) {
        rc = fm_shard_file_write(s->file, i, here, size_bytes);
    }
    fm_free(here);
    return rc;
}

/* Any thread; with copies. */
static int write_arrays(void *user)
{
    fm_saving *const s = user;
    const bool is_host = s->device == NULL || s->device->table->is_host;
    const double begin_s = fm_clock_s();
    for (int i = 0; i < s->n_items; i++) {
        const int64_t bytes = fm_shard_file_item_bytes(s->file, i);
        if (bytes > 0) {
            FM_TRY(is_host ? fm_shard_file_write(s->file, i, s->from[i], (size_t)bytes) : write_from_device(s, i, (size_t)bytes));
        }
    }
    FM_TRY(fm_shard_file_sync(s->file));
    s->written_s = fm_clock_s() - begin_s;
    return FM_OK;
}

static int start(fm_saving *s, const fm_model *model, void *copy, size_t copy_bytes)
{
    if (copy == NULL) {
        s->device = model->compute->device;
        return write_arrays(s);
    }
    FM_TRY(copy_arrays(s, model, copy, copy_bytes));
    return fm_task_begin(&s->writing, write_arrays, s);
}

int fm_saving_begin(fm_saving **out, const char *temporary, const fm_model *model, const fm_save_item *what, int n_what,
                    void *copy)
{
    fm_saving *const s = fm_alloc(sizeof *s, FM_MEMORY_CHECKPOINT);
    *out = NULL;
    if (s == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = fm_path_join(s->dir, "", temporary);
    if (rc == FM_OK) {
        rc = fill_items(s, model, what, n_what);
    }
    if (rc == FM_OK) {
        rc = fm_shard_file_begin(&s->file, temporary, &model->layout, &model->coord, s->items, s->n_items, STAGE_BYTES);
    }
    if (rc == FM_OK && s->file != NULL) {
        rc = start(s, model, copy, fm_saving_bytes(model, what, n_what));
    }
    if (rc < 0) {
        fm_saving_abandon(s);
        return rc;
    }
    *out = s;
    return FM_OK;
}

bool fm_saving_is_written(const fm_saving *saving)
{
    return fm_task_is_done(saving->writing);
}

void fm_saving_abandon(fm_saving *s)
{
    if (s == NULL) {
        return;
    }
    fm_task_abandon(s->writing);
    fm_shard_file_abandon(s->file);
    fm_free(s->items);
    fm_free(s->from);
    fm_free(s->summaries);
    fm_free(s);
}

int fm_saving_end(fm_saving *s, double *written_s, int rc, const fm_model *model, const json_t *extra)
{
    fm_comm *const world = fm_groups_get(model->groups, FM_GROUP_WORLD);
    if (rc == FM_OK) {
        rc = fm_task_end(s->writing);
        s->writing = NULL;
        if (written_s != NULL) {
            *written_s = s->written_s;
        }
    }
    if (rc == FM_OK) {
        rc = fm_shard_file_end(s->file, &s->summaries[fm_comm_rank(world)]);
        s->file = NULL;
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = fm_shards_finish(s->dir, &model->layout, s->items, s->n_items, s->summaries, extra, world);
    }
    fm_saving_abandon(s);
    return rc;
}

int fm_save(const char *dir, const fm_model *model, const fm_save_item *what, int n_what, const json_t *extra)
{
    fm_comm *const world = fm_groups_get(model->groups, FM_GROUP_WORLD);
    const int rank = fm_comm_rank(world);
    char temporary[FM_PATH_BYTES];
    fm_saving *saving = NULL;
    int rc = fm_publish_name(temporary, dir);
    if (rc == FM_OK && rank == 0) {
        rc = fm_publish_begin(temporary, dir, fm_shards_is_set);
    }
    FM_TRY(fm_comm_agree(world, rc));
    rc = fm_saving_begin(&saving, temporary, model, what, n_what, NULL);
    FM_TRY(fm_saving_end(saving, NULL, rc, model, extra));
    return fm_comm_agree(world, rank == 0 ? fm_publish_end(temporary, dir) : FM_OK);
}
