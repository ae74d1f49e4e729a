#include "ckpt/shards.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/text.h"
#include "base/writer.h"
#include "ckpt/h5.h"
#include "ckpt/shard_scan.h"

/* Data is written and summed in pieces that stay in the cache. */
enum { CHUNK_BYTES = 8 << 20, NAME_BYTES = 32 };

/* How far the caller has come with one local array, and which of its bytes are written. */
typedef struct {
    const void *data;
    int64_t local_bytes, given_bytes, written_bytes;
    fm_range runs[FM_MAX_PIECES];      /* of the local array, in bytes; a count of 0 ends them */
} progress;

struct fm_shard_file {
    char path[FM_PATH_BYTES];
    fm_writer *writer;
    int n_items, n_datasets;
    int *dataset_of;                   /* [n_items] -1: not this coordinate's */
    progress *progress;                /* [n_datasets] */
    fm_h5_dataset *datasets;           /* [n_datasets] */
};

static void rank_file_name(char out[NAME_BYTES], int rank)
{
    snprintf(out, NAME_BYTES, "rank-%05d.h5", rank);
}

static void dataset_path(char out[FM_H5_PATH_BYTES], const fm_shard_item *item, const fm_layout *layout)
{
    const char *const name = layout->tensors[item->tensor].name;
    const bool grouped = item->group != NULL && item->group[0] != '\0';
    const int length = snprintf(out, FM_H5_PATH_BYTES, "%s%s%s", grouped ? item->group : "", grouped ? "/" : "", name);
    FM_ASSERT(length < FM_H5_PATH_BYTES);
}

/* What this coordinate writes of a tensor: its slice without the slabs that another one owns (a fused qkv whose key/value heads
 * are replicated). `runs` (NULL: not wanted) are the byte ranges of the local array that stay. False: nothing. */
static bool owned_slice(fm_slice *slice, fm_range runs[FM_MAX_PIECES], const fm_layout *layout, int tensor, size_t element_bytes,
                        const fm_coord *coord)
{
    fm_slice whole;
    fm_layout_slice(&whole, layout, tensor, coord);
    *slice = whole;
    slice->n_slabs = 0;
    if (!whole.held || !whole.owner) {
        return false;
    }
    const int64_t row_bytes = (whole.ndim == 2 ? whole.local_shape[1] : 1) * (int64_t)element_bytes;
    bool all = true;
    int64_t rows = 0;
    for (int s = 0; s < whole.n_slabs; s++) {
        const fm_slab *const slab = &whole.slabs[s];
        all = all && slab->owned;
        if (slab->owned) {
            if (runs != NULL) {
                runs[slice->n_slabs] = (fm_range){ slab->local_start[0] * row_bytes, slab->count[0] * row_bytes };
            }
            slice->slabs[slice->n_slabs] = *slab;
            slice->slabs[slice->n_slabs++].local_start[0] = rows;
            rows += slab->count[0];
        }
    }
    if (all) {
        *slice = whole;
        if (runs != NULL) {
            runs[0] = (fm_range){ 0, (whole.n_slabs == 0 ? 0 : whole.local_shape[0]) * row_bytes };
            runs[1].count = 0;
        }
        return whole.n_slabs > 0;
    }
    FM_ASSERT(layout->tensors[tensor].cut_axis == 0);
    slice->local_shape[0] = rows;
    if (runs != NULL) {
        runs[slice->n_slabs].count = 0;
    }
    return slice->n_slabs > 0;
}

/* The pieces must lie one after another on one axis: readers go by that. */
static void describe(fm_h5_dataset *out, const fm_shard_item *item, const fm_layout *layout, const fm_slice *slice)
{
    *out = (fm_h5_dataset){ .dtype = (int)item->dtype, .ndim = slice->ndim, .n_pieces = slice->n_slabs };
    dataset_path(out->path, item, layout);
    for (int d = 0; d < slice->ndim; d++) {
        out->shape[d] = slice->local_shape[d];
        out->global_shape[d] = layout->tensors[item->tensor].shape[d];
    }
    for (int s = 0; s < slice->n_slabs; s++) {
        int axes_apart = 0;
        for (int d = 0; d < slice->ndim; d++) {
            const fm_slab *const slab = &slice->slabs[s], *const before = s == 0 ? NULL : slab - 1;
            out->start[s][d] = slab->start[d];
            out->count[s][d] = slab->count[d];
            if (slab->local_start[d] != 0) {
                FM_ASSERT(before != NULL && slab->local_start[d] == before->local_start[d] + before->count[d]);
                axes_apart++;
            }
        }
        FM_ASSERT(axes_apart == (s == 0 ? 0 : 1));
    }
}

int fm_shard_file_begin(fm_shard_file **out, const char *dir, const fm_layout *layout, const fm_coord *coord,
                        const fm_shard_item *items, int n_items, size_t stage_bytes)
{
    fm_shard_file *const file = fm_alloc(sizeof *file, FM_MEMORY_HOST);
    *out = NULL;
    if (file == NULL) {
        return FM_ERR_MEMORY;
    }
    file->n_items = n_items;
    file->dataset_of = fm_alloc_array(n_items, sizeof *file->dataset_of, FM_MEMORY_HOST);
    file->progress = fm_alloc_array(n_items, sizeof *file->progress, FM_MEMORY_HOST);
    file->datasets = fm_alloc_array(n_items, sizeof *file->datasets, FM_MEMORY_HOST);
    const bool made = file->dataset_of != NULL && file->progress != NULL && file->datasets != NULL;
    int rc = made ? FM_OK : FM_ERR_MEMORY;
    fm_h5_header header = { .format_version = FM_SHARD_FORMAT_VERSION };
    for (int d = 0; d < FM_DIMS; d++) {
        header.mesh_shape[d] = layout->mesh.size[d];
        header.coordinate[d] = coord->at[d];
    }
    for (int i = 0; rc == FM_OK && i < n_items; i++) {
        fm_slice slice, whole;
        progress *const p = &file->progress[file->n_datasets];
        const size_t element_bytes = fm_dtype_bytes(items[i].dtype);
        file->dataset_of[i] = -1;
        if (owned_slice(&slice, p->runs, layout, items[i].tensor, element_bytes, coord)) {
            fm_layout_slice(&whole, layout, items[i].tensor, coord);
            p->data = items[i].data;
            p->local_bytes = whole.local_shape[0] * (whole.ndim == 2 ? whole.local_shape[1] : 1) * (int64_t)element_bytes;
            describe(&file->datasets[file->n_datasets], &items[i], layout, &slice);
            file->dataset_of[i] = file->n_datasets++;
        }
    }
    char name[NAME_BYTES];
    rank_file_name(name, fm_mesh_rank(&layout->mesh, coord));
    if (rc < 0 || file->n_datasets == 0) {
        goto done;
    }
    FM_TRY_TO(done, rc, fm_path_join(file->path, dir, name));
    FM_TRY_TO(done, rc, fm_h5_create(file->path, &header, file->datasets, file->n_datasets));
    FM_TRY_TO(done, rc, fm_writer_open(&file->writer, file->path, stage_bytes));
done:
    if (rc < 0 || file->n_datasets == 0) {
        fm_shard_file_abandon(file);
        return rc;
    }
    *out = file;
    return FM_OK;
}

void fm_shard_file_abandon(fm_shard_file *file)
{
    if (file == NULL) {
        return;
    }
    fm_writer_close(file->writer);
    fm_free(file->dataset_of);
    fm_free(file->progress);
    fm_free(file->datasets);
    fm_free(file);
}

int64_t fm_shard_file_item_bytes(const fm_shard_file *file, int item)
{
    const int dataset = file == NULL ? -1 : file->dataset_of[item];
    return dataset < 0 ? 0 : file->progress[dataset].local_bytes;
}

/* The next bytes of a dataset. */
static int append(fm_shard_file *file, int dataset, const char *data, int64_t size_bytes)
{
    fm_h5_dataset *const to = &file->datasets[dataset];
    int64_t *const written = &file->progress[dataset].written_bytes;
    FM_ASSERT(*written + size_bytes <= to->size_bytes);
    fm_writer_seek(file->writer, to->offset_bytes + *written);
    for (int64_t done = 0; done < size_bytes;) {
        const int64_t part_bytes = size_bytes - done < CHUNK_BYTES ? size_bytes - done : CHUNK_BYTES;
        to->crc32 = fm_crc32(to->crc32, data + done, (size_t)part_bytes);
        FM_TRY(fm_writer_put(file->writer, data + done, (size_t)part_bytes));
        *written += part_bytes;
        done += part_bytes;
    }
    return FM_OK;
}

int fm_shard_file_write(fm_shard_file *file, int item, const void *data, size_t size_bytes)
{
    FM_ASSERT(file->dataset_of[item] >= 0);
    progress *const p = &file->progress[file->dataset_of[item]];
    const int64_t from = p->given_bytes, to = from + (int64_t)size_bytes;
    for (int r = 0; r < FM_MAX_PIECES && p->runs[r].count > 0; r++) {
        const int64_t run_end = p->runs[r].start + p->runs[r].count;
        const int64_t first = p->runs[r].start > from ? p->runs[r].start : from, last = run_end < to ? run_end : to;
        if (first < last) {
            FM_TRY(append(file, file->dataset_of[item], (const char *)data + (first - from), last - first));
        }
    }
    p->given_bytes = to;
    return FM_OK;
}

int fm_shard_file_write_all(fm_shard_file *file)
{
    for (int i = 0; file != NULL && i < file->n_items; i++) {
        const int dataset = file->dataset_of[i];
        if (dataset >= 0 && file->progress[dataset].data != NULL) {
            FM_TRY(fm_shard_file_write(file, i, file->progress[dataset].data, (size_t)file->progress[dataset].local_bytes));
        }
    }
    return FM_OK;
}

int fm_shard_file_sync(fm_shard_file *file)
{
    return file == NULL ? FM_OK : fm_writer_sync(file->writer);
}

static int by_offset(const void *left, const void *right)
{
    const fm_h5_dataset *const a = left, *const b = right;
    return (a->offset_bytes > b->offset_bytes) - (a->offset_bytes < b->offset_bytes);
}

/* The CRC of a range of the finished file, appended to *crc. */
static int add_range_crc(uint32_t *crc, int fd, int64_t from, int64_t to, const char *path)
{
    char buffer[65536];
    while (from < to) {
        const size_t part_bytes = to - from < (int64_t)sizeof buffer ? (size_t)(to - from) : sizeof buffer;
        FM_TRY(fm_file_pread(fd, buffer, part_bytes, from, path));
        *crc = fm_crc32(*crc, buffer, part_bytes);
        from += (int64_t)part_bytes;
    }
    return FM_OK;
}

/* The CRC of the whole file without reading the data again: theirs are known and CRCs combine. */
static int file_crc(fm_shard_summary *out, const fm_shard_file *file)
{
    int fd;
    *out = (fm_shard_summary){ 0 };
    FM_TRY(fm_file_open(&fd, &out->size_bytes, file->path));
    qsort(file->datasets, (size_t)file->n_datasets, sizeof *file->datasets, by_offset);
    int64_t at = 0;
    int rc = FM_OK;
    for (int i = 0; rc == FM_OK && i < file->n_datasets; i++) {
        const fm_h5_dataset *const dataset = &file->datasets[i];
        rc = add_range_crc(&out->crc32, fd, at, dataset->offset_bytes, file->path);
        out->crc32 = fm_crc32_join(out->crc32, dataset->crc32, dataset->size_bytes);
        at = dataset->offset_bytes + dataset->size_bytes;
    }
    if (rc == FM_OK) {
        rc = add_range_crc(&out->crc32, fd, at, out->size_bytes, file->path);
    }
    close(fd);
    return rc;
}

int fm_shard_file_end(fm_shard_file *file, fm_shard_summary *summary)
{
    *summary = (fm_shard_summary){ 0 };
    if (file == NULL) {
        return FM_OK;
    }
    int rc = FM_OK;
    for (int i = 0; rc == FM_OK && i < file->n_datasets; i++) {
        if (file->progress[i].written_bytes != file->datasets[i].size_bytes) {
            rc = fm_fail(FM_ERR_INTERNAL, "%s: tensor %s was written half", file->path, file->datasets[i].path);
        }
    }
    if (rc == FM_OK) {
        rc = fm_writer_sync(file->writer);
    }
    if (rc == FM_OK) {
        rc = fm_h5_set_crcs(file->path, file->datasets, file->n_datasets);
    }
    if (rc == FM_OK) {
        rc = fm_path_sync(file->path);
    }
    if (rc == FM_OK) {
        rc = file_crc(summary, file);
    }
    fm_shard_file_abandon(file);
    return rc;
}

/* One virtual dataset over the slices of all coordinates. */
static int write_virtual(fm_h5_virtual *file, const fm_layout *layout, const fm_shard_item *item)
{
    const fm_tensor_spec *const tensor = &layout->tensors[item->tensor];
    char path[FM_H5_PATH_BYTES];
    dataset_path(path, item, layout);
    FM_TRY(fm_h5_virtual_begin(file, tensor->ndim, tensor->shape));
    for (int rank = 0; rank < fm_mesh_ranks(&layout->mesh); rank++) {
        const fm_coord coord = fm_mesh_coord(&layout->mesh, rank);
        fm_slice slice;
        char name[NAME_BYTES];
        if (!owned_slice(&slice, NULL, layout, item->tensor, fm_dtype_bytes(item->dtype), &coord)) {
            continue;
        }
        rank_file_name(name, rank);
        for (int s = 0; s < slice.n_slabs; s++) {
            FM_TRY(fm_h5_virtual_map(file, &slice.slabs[s], slice.local_shape, name, path));
        }
    }
    return fm_h5_virtual_end(file, path, item->dtype);
}

static int write_model_file(fm_shard_summary *summary, const char *dir, const fm_layout *layout, const fm_shard_item *items,
                            int n_items)
{
    char path[FM_PATH_BYTES];
    fm_h5_virtual *file;
    FM_TRY(fm_path_join(path, dir, "model.h5"));
    FM_TRY(fm_h5_virtual_open(&file, path, FM_SHARD_FORMAT_VERSION));
    int rc = FM_OK;
    for (int i = 0; rc == FM_OK && i < n_items; i++) {
        rc = write_virtual(file, layout, &items[i]);
    }
    const int closed = fm_h5_virtual_close(file);
    FM_TRY(rc < 0 ? rc : closed);
    FM_TRY(fm_path_sync(path));
    int fd;
    FM_TRY(fm_file_open(&fd, &summary->size_bytes, path));
    summary->crc32 = 0;
    rc = add_range_crc(&summary->crc32, fd, 0, summary->size_bytes, path);
    close(fd);
    return rc;
}

static json_t *file_entry(const char *name, int64_t size_bytes, uint32_t crc32)
{
    return json_pack("{s:s, s:I, s:I}", "name", name, "size", (json_int_t)size_bytes, "crc32", (json_int_t)crc32);
}

int fm_shards_add_file(json_t *extra, const char *dir, const char *name, const void *data, size_t size_bytes)
{
    char path[FM_PATH_BYTES];
    FM_TRY(fm_path_join(path, dir, name));
    FM_TRY(fm_file_replace(path, data, size_bytes));
    if (json_object_get(extra, "files") == NULL) {
        json_object_set_new(extra, "files", json_array());
    }
    json_t *const files = json_object_get(extra, "files");
    return json_array_append_new(files, file_entry(name, (int64_t)size_bytes, fm_crc32(0, data, size_bytes))) == 0 ? FM_OK
        : fm_fail(FM_ERR_MEMORY, "out of memory: the entry of %s in a manifest", path);
}

/* pairs [mesh ranks][2]: size and CRC of every rank file. */
static int write_manifest(const char *dir, const fm_layout *layout, const int64_t *pairs, const fm_shard_summary *model,
                          const json_t *extra)
{
    json_t *const manifest = json_pack("{s:i}", "format_version", FM_SHARD_FORMAT_VERSION), *const mesh = json_object();
    json_t *const files = json_array();
    char path[FM_PATH_BYTES];
    for (int d = 0; d < FM_DIMS; d++) {
        json_object_set_new(mesh, fm_dim_name((enum fm_dim)d), json_integer(layout->mesh.size[d]));
    }
    json_object_set_new(manifest, "mesh", mesh);
    json_array_append_new(files, file_entry("model.h5", model->size_bytes, model->crc32));
    for (int rank = 0; rank < fm_mesh_ranks(&layout->mesh); rank++) {
        char name[NAME_BYTES];
        rank_file_name(name, rank);
        if (pairs[2 * rank] > 0) {
            json_array_append_new(files, file_entry(name, pairs[2 * rank], (uint32_t)pairs[2 * rank + 1]));
        }
    }
    json_array_extend(files, json_object_get(extra, "files"));
    json_object_set_new(manifest, "files", files);
    if (extra != NULL) {
        json_object_update_missing(manifest, (json_t *)extra);
    }
    char *text;
    size_t text_bytes = 0;
    int rc = fm_json_print(&text, &text_bytes, manifest, 1);
    json_decref(manifest);
    FM_TRY(rc);
    rc = fm_path_join(path, dir, "manifest.json");
    fm_text sealed = { 0 };
    if (rc == FM_OK) {                 /* its own checksum is the last member: "\n}" gives way to it */
        FM_ASSERT(text_bytes > 2 && strcmp(text + text_bytes - 2, "\n}") == 0);
        fm_text_add(&sealed, "%.*s", (int)(text_bytes - 2), text);
        fm_text_add(&sealed, FM_MANIFEST_SEAL, fm_crc32(0, text, text_bytes - 2));
        rc = sealed.failed ? FM_ERR_MEMORY : fm_file_replace(path, sealed.data, sealed.size_bytes);
    }
    fm_text_clear(&sealed);
    fm_free(text);
    return rc < 0 ? rc : fm_path_sync(dir);
}

int fm_shards_finish(const char *dir, const fm_layout *layout, const fm_shard_item *items, int n_items,
                     const fm_shard_summary *summaries, const json_t *extra, fm_comm *world)
{
    const int n_ranks = fm_mesh_ranks(&layout->mesh);
    int64_t *const pairs = fm_alloc_array(2 * n_ranks, sizeof *pairs, FM_MEMORY_HOST);
    int rc = fm_comm_agree(world, pairs == NULL ? FM_ERR_MEMORY : FM_OK);
    for (int rank = 0; rc == FM_OK && rank < n_ranks; rank++) {
        pairs[2 * rank] = summaries[rank].size_bytes;
        pairs[2 * rank + 1] = summaries[rank].crc32;
    }
    if (rc == FM_OK) {
        rc = fm_comm_all_reduce(world, pairs, 2 * n_ranks, FM_I64, FM_MAX);
    }
    if (rc == FM_OK && fm_comm_rank(world) == 0) {
        fm_shard_summary model = { 0 };
        rc = write_model_file(&model, dir, layout, items, n_items);
        if (rc == FM_OK) {
            rc = write_manifest(dir, layout, pairs, &model, extra);
        }
    }
    fm_free(pairs);
    return fm_comm_agree(world, rc);
}
