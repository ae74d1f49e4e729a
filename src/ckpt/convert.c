#include "ckpt/convert.h"

#include "base/memory.h"
#include "ckpt/exchange.h"
#include "ckpt/hf.h"
#include "ckpt/match.h"
#include "ckpt/publish.h"
#include "ckpt/shard_scan.h"
#include "ckpt/shards.h"
#include "ckpt/source.h"

/* What a rank holds at a time of the slices that it writes. */
enum { BAND_BYTES = 16 << 20 };

/* One conversion on one rank. A group is tp neighbours that one rank plays: all of a tp group, or (each rank its own) one. */
typedef struct {
    const fm_layout *layout;
    const int *tensor_of;              /* [n_tensors] of the source */
    fm_shard_item *items;              /* [n_tensors] */
    fm_source *source;
    fm_shard_summary *summaries;       /* [mesh ranks] */
    fm_comm *tp;                       /* NULL: this rank plays whole tp groups */
    int n_members;
    fm_shard_file **files;             /* [n_members] of the group that is being written */
    char *band, *rows;                 /* [BAND_BYTES], and as much for whole rows where a group plays all of tp */
    const char *dir;
    int64_t bytes_written;
} conversion;

static int64_t rows_a_band(int64_t row_bytes)
{
    return row_bytes >= BAND_BYTES ? 1 : BAND_BYTES / (row_bytes < 1 ? 1 : row_bytes);
}

static int64_t width_of(const fm_slice *slice)
{
    return slice->ndim == 2 ? slice->local_shape[1] : 1;
}

static int write_rows(conversion *c, int member, int tensor, const void *data, int64_t size_bytes)
{
    c->bytes_written += size_bytes;
    return fm_shard_file_write(c->files[member], tensor, data, (size_t)size_bytes);
}

/* One coordinate's slice, band by band; with tp peers also for those who only take part in the exchange. */
static int stream_slice(conversion *c, int member, int tensor, const fm_coord *coord)
{
    fm_slice slice;
    fm_layout_slice(&slice, c->layout, tensor, coord);
    const bool writes = slice.held && slice.owner && slice.n_slabs > 0;
    const int64_t row_bytes = width_of(&slice) * (int64_t)fm_dtype_bytes(c->layout->tensors[tensor].dtype);
    const int64_t n_rows = slice.held ? slice.local_shape[0] : 0, band = rows_a_band(row_bytes);
    for (int64_t row = 0; row < n_rows; row += band) {
        const int64_t rows = n_rows - row < band ? n_rows - row : band;
        FM_TRY(fm_source_read_rows(c->source, c->band, c->tensor_of[tensor], c->layout, tensor, coord, c->tp, row, rows));
        if (writes) {
            FM_TRY(write_rows(c, member, tensor, c->band, rows * row_bytes));
        }
    }
    return FM_OK;
}

/* Columns cut by tp, all of whose coordinates this rank plays: whole rows are read once and dealt out. */
static int deal_columns(conversion *c, int tensor, const fm_coord *first)
{
    const fm_tensor_spec *const spec = &c->layout->tensors[tensor];
    const size_t element_bytes = fm_dtype_bytes(spec->dtype);
    fm_slice slice;
    fm_layout_slice(&slice, c->layout, tensor, first);
    if (!slice.held || slice.n_slabs == 0) {
        return FM_OK;
    }
    const int64_t n_rows = slice.local_shape[0], band = rows_a_band(spec->shape[1] * (int64_t)element_bytes);
    for (int64_t row = 0; row < n_rows; row += band) {
        const int64_t rows = n_rows - row < band ? n_rows - row : band;
        FM_TRY(fm_source_read(c->source, c->rows, c->tensor_of[tensor], (int64_t[2]){ slice.slabs[0].start[0] + row, 0 },
                              (int64_t[2]){ rows, spec->shape[1] }));
        for (int member = 0; member < c->n_members; member++) {
            fm_coord coord = *first;
            fm_slice mine;
            coord.at[FM_TP] += member;
            fm_layout_slice(&mine, c->layout, tensor, &coord);
            if (mine.owner && mine.n_slabs > 0) {
                fm_exchange_pick(c->band, c->rows, &mine, rows, spec->shape[1], element_bytes);
                FM_TRY(write_rows(c, member, tensor, c->band, rows * mine.local_shape[1] * (int64_t)element_bytes));
            }
        }
    }
    return FM_OK;
}

static int stream_tensor(conversion *c, int tensor, const fm_coord *first)
{
    if (c->n_members > 1 && c->layout->tensors[tensor].cut_axis == 1) {
        return deal_columns(c, tensor, first);
    }
    for (int member = 0; member < c->n_members; member++) {
        fm_coord coord = *first;
        fm_slice slice;
        coord.at[FM_TP] += member;
        fm_layout_slice(&slice, c->layout, tensor, &coord);
        if (slice.owner || fm_exchange_applies(c->layout, tensor, c->tp)) {
            FM_TRY(stream_slice(c, member, tensor, &coord));
        }
    }
    return FM_OK;
}

/* The files of one group. Peers in an exchange leave together: whoever has failed says so before the next one. */
static int convert_group(conversion *c, const fm_coord *first)
{
    int rc = FM_OK;
    for (int member = 0; rc == FM_OK && member < c->n_members; member++) {
        fm_coord coord = *first;
        coord.at[FM_TP] += member;
        rc = fm_shard_file_begin(&c->files[member], c->dir, c->layout, &coord, c->items, c->layout->n_tensors);
    }
    for (int t = 0; t < c->layout->n_tensors; t++) {
        if (fm_exchange_applies(c->layout, t, c->tp)) {
            rc = fm_comm_agree(c->tp, rc);
            if (rc < 0) {
                break;
            }
        }
        if (rc == FM_OK) {
            rc = stream_tensor(c, t, first);
        }
    }
    for (int member = 0; member < c->n_members; member++) {
        fm_coord coord = *first;
        coord.at[FM_TP] += member;
        if (rc == FM_OK) {
            rc = fm_shard_file_end(c->files[member], &c->summaries[fm_mesh_rank(&c->layout->mesh, &coord)]);
        } else {
            fm_shard_file_abandon(c->files[member]);
        }
        c->files[member] = NULL;
    }
    return rc;
}

/* All groups of this rank. dp_replicate only repeats: its first coordinate owns everything. */
static int convert_groups(conversion *c, fm_comm *world)
{
    const fm_mesh_shape *const mesh = &c->layout->mesh;
    const int me = fm_comm_rank(world), size = fm_comm_size(world), tp_size = mesh->size[FM_TP];
    if (size == fm_mesh_ranks(mesh) && size > 1) {
        const fm_coord coord = fm_mesh_coord(mesh, me);
        return coord.at[FM_DP_REPLICATE] > 0 ? FM_OK : convert_group(c, &coord);
    }
    for (int group = me; group < fm_mesh_ranks(mesh) / tp_size; group += size) {
        const fm_coord coord = fm_mesh_coord(mesh, group * tp_size);
        if (coord.at[FM_DP_REPLICATE] == 0) {
            FM_TRY(convert_group(c, &coord));
        }
    }
    return FM_OK;
}

/* Buffers and lists; the widest row decides where it is larger than a band. */
static int prepare(conversion *c, fm_comm *world, fm_comm *tp)
{
    const fm_layout *const layout = c->layout;
    const bool each_its_own = fm_comm_size(world) > 1 && fm_comm_size(world) == fm_mesh_ranks(&layout->mesh);
    int64_t widest_bytes = 0;
    for (int t = 0; t < layout->n_tensors; t++) {
        const fm_tensor_spec *const spec = &layout->tensors[t];
        const int64_t row_bytes = (spec->ndim == 2 ? spec->shape[1] : 1) * (int64_t)fm_dtype_bytes(spec->dtype);
        widest_bytes = row_bytes > widest_bytes ? row_bytes : widest_bytes;
    }
    c->tp = each_its_own ? tp : NULL;
    c->n_members = each_its_own ? 1 : layout->mesh.size[FM_TP];
    const size_t buffer_bytes = widest_bytes > BAND_BYTES ? (size_t)widest_bytes : BAND_BYTES;
    c->files = fm_alloc_array(c->n_members, sizeof *c->files, FM_MEMORY_HOST);
    c->summaries = fm_alloc_array(fm_mesh_ranks(&layout->mesh), sizeof *c->summaries, FM_MEMORY_HOST);
    c->items = fm_alloc_array(layout->n_tensors, sizeof *c->items, FM_MEMORY_HOST);
    c->band = fm_alloc(buffer_bytes, FM_MEMORY_WORKSPACE);
    c->rows = c->n_members == 1 ? NULL : fm_alloc(buffer_bytes, FM_MEMORY_WORKSPACE);
    if (c->files == NULL || c->summaries == NULL || c->items == NULL || c->band == NULL ||
        (c->n_members > 1 && c->rows == NULL)) {
        return FM_ERR_MEMORY;
    }
    for (int t = 0; t < layout->n_tensors; t++) {
        c->items[t] = (fm_shard_item){ .group = "", .tensor = t, .dtype = layout->tensors[t].dtype };
    }
    return FM_OK;
}

static void release(conversion *c)
{
    fm_free(c->files);
    fm_free(c->summaries);
    fm_free(c->items);
    fm_free(c->band);
    fm_free(c->rows);
}

/* Everything after the source is open and known to fit: into the temporary folder, then under its name. */
static int write_set(fm_convert_report *report, const char *shards_dir, conversion *c, json_t *identity, fm_comm *world,
                     fm_comm *tp)
{
    char temporary[FM_PATH_BYTES] = "";
    const bool leads = fm_comm_rank(world) == 0;
    int rc = prepare(c, world, tp);
    if (rc == FM_OK) {
        rc = fm_publish_name(temporary, shards_dir);
    }
    if (rc == FM_OK && leads) {
        rc = fm_publish_begin(temporary, shards_dir, fm_shards_is_set);
    }
    FM_TRY(fm_comm_agree(world, rc));
    c->dir = temporary;
    rc = fm_comm_agree(world, convert_groups(c, world));
    if (rc == FM_OK) {
        json_t *const extra = leads && identity != NULL ? json_pack("{s:O}", "source", identity) : NULL;
        rc = fm_shards_finish(temporary, c->layout, c->items, c->layout->n_tensors, c->summaries, extra, world);
        json_decref(extra);
    }
    if (leads) {
        rc = rc < 0 ? rc : fm_publish_end(temporary, shards_dir);
        if (rc < 0) {
            fm_publish_abandon(temporary);
        }
    }
    FM_TRY(fm_comm_agree(world, rc));
    int64_t sums[3] = { fm_source_bytes_read(c->source), fm_source_requests(c->source), c->bytes_written };
    FM_TRY(fm_comm_all_reduce(world, sums, 3, FM_I64, FM_SUM));
    *report = (fm_convert_report){ .bytes_read = sums[0], .requests = sums[1], .bytes_written = sums[2] };
    return FM_OK;
}

/* Rank 0 alone looks: the source's identity (not of shard sets), and whether the shards there have it. */
static int look(json_t **identity, bool *current, const char *shards_dir, const char *source_dir, bool reuse, fm_comm *world)
{
    int rc = FM_OK;
    uint8_t answer = 0;
    *identity = NULL;
    if (fm_comm_rank(world) == 0 && !fm_shards_is_set(source_dir)) {
        rc = fm_hf_identity(identity, source_dir);
        answer = rc == FM_OK && reuse && fm_shards_are_current(shards_dir, *identity);
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_broadcast(world, &answer, 1, FM_U8, 0));
    *current = answer != 0;
    return FM_OK;
}

int fm_convert(fm_convert_report *report, const char *shards_dir, const char *source_dir, const fm_layout *layout,
               fm_tensor_spec *tensors, bool reuse, fm_comm *world, fm_comm *tp)
{
    json_t *identity;
    bool current;
    conversion c = { .layout = layout };
    *report = (fm_convert_report){ 0 };
    FM_TRY(look(&identity, &current, shards_dir, source_dir, reuse, world));
    int *const tensor_of = fm_alloc_array(layout->n_tensors, sizeof *tensor_of, FM_MEMORY_HOST);
    int rc;
    FM_TRY_TO(done, rc, fm_comm_agree(world, tensor_of == NULL ? FM_ERR_MEMORY : FM_OK));
    if (current) {
        report->reused = true;
        FM_TRY_TO(done, rc, fm_source_open_shards(&c.source, shards_dir, world));
        rc = fm_comm_agree(world, fm_match_tensors(tensor_of, tensors, layout->n_tensors, c.source, shards_dir));
        goto done;
    }
    FM_TRY_TO(done, rc, fm_source_open(&c.source, source_dir, world));
    FM_TRY_TO(done, rc, fm_comm_agree(world, fm_match_tensors(tensor_of, tensors, layout->n_tensors, c.source, source_dir)));
    c.tensor_of = tensor_of;
    rc = write_set(report, shards_dir, &c, identity, world, tp);
done:
    fm_source_close(c.source);
    release(&c);
    fm_free(tensor_of);
    json_decref(identity);
    return rc;
}
