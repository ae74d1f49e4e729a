#include "ckpt/convert.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/exchange.h"
#include "ckpt/hf.h"
#include "ckpt/match.h"
#include "ckpt/publish.h"
#include "ckpt/shard_scan.h"
#include "ckpt/shards.h"
#include "ckpt/source.h"
#include "ckpt/verify.h"

/* What a rank holds at a time of the slices that it writes, and of what is on its way to the disk; what the disk is asked for before it
 * is read. */
enum { BAND_BYTES = 16 << 20, STAGES_BYTES = 16 << 20, AHEAD_BYTES = 8 << 20, SMALL_FILE_LIMIT_BYTES = 100000000 };

/* One conversion on one rank. A group is tp neighbours that one rank plays: all of a tp group, or (each rank its own) one. */
typedef struct {
    const fm_layout *layout;
    fm_shard_item *items;              /* [n_items] what the set will hold */
    int *from;                         /* [n_items] the source's tensor of each */
    int n_items;
    fm_source *source;
    fm_shard_summary *summaries;       /* [mesh ranks] */
    fm_comm *tp;                       /* NULL: this rank plays whole tp groups */
    int n_members;
    fm_shard_file **files;             /* [n_members] of the group that is being written */
    char *band, *rows;                 /* [BAND_BYTES], and as much for whole rows where a group plays all of tp */
    const char *dir;
    int expected;                      /* items that the disk was asked for, */
    int64_t expected_bytes;            /* and what of them is not read yet */
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

static int write_rows(conversion *c, int member, int item, const void *data, int64_t size_bytes)
{
    c->bytes_written += size_bytes;
    return fm_shard_file_write(c->files[member], item, data, (size_t)size_bytes);
}

/* One coordinate's slice, band by band; with tp peers also for those who only take part in the exchange. Who has failed still takes
 * part in the item's other bands: its peers wait for it there. */
static int stream_slice(conversion *c, int member, int item, const fm_coord *coord)
{
    fm_slice slice;
    const int tensor = c->items[item].tensor;
    fm_layout_slice(&slice, c->layout, tensor, coord);
    const bool writes = slice.held && slice.owner && slice.n_slabs > 0;
    const bool exchanges = fm_exchange_applies(c->layout, tensor, c->tp);
    const int64_t row_bytes = width_of(&slice) * (int64_t)fm_dtype_bytes(c->items[item].dtype);
    const int64_t n_rows = slice.held ? slice.local_shape[0] : 0, band = rows_a_band(row_bytes);
    int rc = FM_OK;
    for (int64_t row = 0; row < n_rows && (rc == FM_OK || exchanges); row += band) {
        const int64_t rows = n_rows - row < band ? n_rows - row : band;
        const int read = fm_source_read_rows(c->source, c->band, c->from[item], c->layout, tensor, coord, c->tp, row, rows);
        rc = rc < 0 ? rc : read;
        if (rc == FM_OK && writes) {
            rc = write_rows(c, member, item, c->band, rows * row_bytes);
        }
    }
    return rc;
}

/* Columns cut by tp, all of whose coordinates this rank plays: whole rows are read once and dealt out. */
static int deal_columns(conversion *c, int item, const fm_coord *first)
{
    const int tensor = c->items[item].tensor;
    const fm_tensor_spec *const spec = &c->layout->tensors[tensor];
    const size_t element_bytes = fm_dtype_bytes(c->items[item].dtype);
    fm_slice slice;
    fm_layout_slice(&slice, c->layout, tensor, first);
    if (!slice.held || slice.n_slabs == 0) {
        return FM_OK;
    }
    const int64_t n_rows = slice.local_shape[0], band = rows_a_band(spec->shape[1] * (int64_t)element_bytes);
    for (int64_t row = 0; row < n_rows; row += band) {
        const int64_t rows = n_rows - row < band ? n_rows - row : band;
        FM_TRY(fm_source_read(c->source, c->rows, c->from[item], (int64_t[2]){ slice.slabs[0].start[0] + row, 0 },
                              (int64_t[2]){ rows, spec->shape[1] }));
        for (int member = 0; member < c->n_members; member++) {
            fm_coord coord = *first;
            fm_slice mine;
            coord.at[FM_TP] += member;
            fm_layout_slice(&mine, c->layout, tensor, &coord);
            if (mine.owner && mine.n_slabs > 0) {
                fm_exchange_pick(c->band, c->rows, &mine, rows, spec->shape[1], element_bytes);
                FM_TRY(write_rows(c, member, item, c->band, rows * mine.local_shape[1] * (int64_t)element_bytes));
            }
        }
    }
    return FM_OK;
}

static int stream_item(conversion *c, int item, const fm_coord *first)
{
    const int tensor = c->items[item].tensor;
    if (c->n_members > 1 && c->layout->tensors[tensor].cut_axis == 1) {
        return deal_columns(c, item, first);
    }
    for (int member = 0; member < c->n_members; member++) {
        fm_coord coord = *first;
        fm_slice slice;
        coord.at[FM_TP] += member;
        fm_layout_slice(&slice, c->layout, tensor, &coord);
        if (slice.owner || fm_exchange_applies(c->layout, tensor, c->tp)) {
            FM_TRY(stream_slice(c, member, item, &coord));
        }
    }
    return FM_OK;
}

static int64_t item_bytes(const conversion *c, int item)
{
    int64_t bytes = 0;
    for (int member = 0; member < c->n_members; member++) {
        bytes += fm_shard_file_item_bytes(c->files[member], item);
    }
    return bytes;
}

/* The disk goes ahead with the next items while this one is read. */
static void expect_ahead(conversion *c, int item, const fm_coord *first)
{
    for (; c->expected < c->n_items && (c->expected <= item + 1 || c->expected_bytes < AHEAD_BYTES); c->expected++) {
        for (int member = 0; member < c->n_members; member++) {
            fm_coord coord = *first;
            coord.at[FM_TP] += member;
            fm_source_expect(c->source, c->from[c->expected], c->layout, c->items[c->expected].tensor, &coord);
        }
        c->expected_bytes += item_bytes(c, c->expected);
    }
}

/* The files of one group. Peers in an exchange leave together: whoever has failed says so before the next one. */
static int convert_group(conversion *c, const fm_coord *first)
{
    int rc = FM_OK;
    for (int member = 0; rc == FM_OK && member < c->n_members; member++) {
        fm_coord coord = *first;
        coord.at[FM_TP] += member;
        rc = fm_shard_file_begin(&c->files[member], c->dir, c->layout, &coord, c->items, c->n_items,
                                 STAGES_BYTES / (size_t)c->n_members);
    }
    c->expected = 0;
    c->expected_bytes = 0;
    for (int i = 0; i < c->n_items; i++) {
        if (fm_exchange_applies(c->layout, c->items[i].tensor, c->tp)) {
            rc = fm_comm_agree(c->tp, rc);
            if (rc < 0) {
                break;
            }
        }
        if (rc == FM_OK) {
            expect_ahead(c, i, first);
            rc = stream_item(c, i, first);
            c->expected_bytes -= item_bytes(c, i);
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
    for (int i = 0; i < c->n_items; i++) {
        const fm_tensor_spec *const spec = &layout->tensors[c->items[i].tensor];
        const int64_t row_bytes = (spec->ndim == 2 ? spec->shape[1] : 1) * (int64_t)fm_dtype_bytes(c->items[i].dtype);
        widest_bytes = row_bytes > widest_bytes ? row_bytes : widest_bytes;
    }
    c->tp = each_its_own ? tp : NULL;
    c->n_members = each_its_own ? 1 : layout->mesh.size[FM_TP];
    const size_t buffer_bytes = widest_bytes > BAND_BYTES ? (size_t)widest_bytes : BAND_BYTES;
    c->files = fm_alloc_array(c->n_members, sizeof *c->files, FM_MEMORY_HOST);
    c->summaries = fm_alloc_array(fm_mesh_ranks(&layout->mesh), sizeof *c->summaries, FM_MEMORY_HOST);
    c->band = fm_alloc(buffer_bytes, FM_MEMORY_CHECKPOINT);
    c->rows = c->n_members == 1 ? NULL : fm_alloc(buffer_bytes, FM_MEMORY_CHECKPOINT);
    return c->files == NULL || c->summaries == NULL || c->band == NULL || (c->n_members > 1 && c->rows == NULL) ? FM_ERR_MEMORY
                                                                                                               : FM_OK;
}

static void release(conversion *c)
{
    fm_free(c->files);
    fm_free(c->summaries);
    fm_free(c->items);
    fm_free(c->from);
    fm_free(c->band);
    fm_free(c->rows);
}

/* The files beside the tensors, on rank 0. */
typedef struct {
    const char *from_dir;
    const json_t *manifest;            /* of a set whose other files come along; NULL: config.json alone does */
    const fm_small_file *instead;      /* [n_instead] these beside them, or instead of those of the same name */
    int n_instead;
} small_files;

static int copy_small_file(json_t *extra, const char *to_dir, const char *name, const small_files *small)
{
    char path[FM_PATH_BYTES], *data;
    size_t size_bytes;
    for (int i = 0; i < small->n_instead; i++) {
        if (strcmp(small->instead[i].name, name) == 0) {
            return FM_OK;
        }
    }
    FM_TRY(fm_path_join(path, small->from_dir, name));
    if (small->manifest == NULL && !fm_path_exists(path)) {
        return FM_OK;
    }
    FM_TRY(fm_file_read(&data, &size_bytes, path, SMALL_FILE_LIMIT_BYTES));
    const int rc = fm_shards_add_file(extra, to_dir, name, data, size_bytes);
    fm_free(data);
    return rc;
}

static int add_small_files(json_t *extra, const char *to_dir, const small_files *small)
{
    const json_t *const files = json_object_get(small->manifest, "files");
    int rc = small->manifest == NULL ? copy_small_file(extra, to_dir, "config.json", small) : FM_OK;
    for (size_t i = 0; rc == FM_OK && i < json_array_size(files); i++) {
        const char *const name = json_string_value(json_object_get(json_array_get(files, i), "name"));
        rc = fm_shards_holds_tensors(name) ? FM_OK : copy_small_file(extra, to_dir, name, small);
    }
    for (int i = 0; rc == FM_OK && i < small->n_instead; i++) {
        rc = fm_shards_add_file(extra, to_dir, small->instead[i].name, small->instead[i].data, small->instead[i].size_bytes);
    }
    return rc;
}

/* Everything after the source is open and the items are known: into the temporary folder, then under its name. `small` and
 * `extra`, what the manifest says beside the files, are rank 0's. */
static int write_set(fm_convert_report *report, const char *shards_dir, conversion *c, const small_files *small, json_t *extra,
                     fm_comm *world, fm_comm *tp)
{
    char temporary[FM_PATH_BYTES] = "";
    const bool leads = fm_comm_rank(world) == 0;
    int rc = prepare(c, world, tp);
    if (rc == FM_OK) {
        rc = fm_publish_name(temporary, shards_dir);
    }
    if (rc == FM_OK && leads) {
        rc = fm_publish_begin(temporary, shards_dir, fm_shards_is_set);
        rc = rc < 0 ? rc : add_small_files(extra, temporary, small);
    }
    FM_TRY(fm_comm_agree(world, rc));
    c->dir = temporary;
    rc = fm_comm_agree(world, convert_groups(c, world));
    if (rc == FM_OK) {
        rc = fm_shards_finish(temporary, c->layout, c->items, c->n_items, c->summaries, extra, world);
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

/* Rank 0 alone looks: the source's identity (not of shard sets), and whether the shards there have it: then *mesh is theirs. */
static int look(json_t **extra, bool *current, fm_mesh_shape *mesh, const char *shards_dir, const char *source_dir, bool reuse,
                fm_comm *world)
{
    int rc = FM_OK;
    uint8_t answer = 0;
    *extra = json_object();
    if (fm_comm_rank(world) == 0 && !fm_shards_is_set(source_dir)) {
        json_t *identity = NULL;
        rc = fm_hf_identity(&identity, source_dir);
        answer = rc == FM_OK && reuse && fm_shards_are_current(mesh, shards_dir, identity);
        json_object_set_new(*extra, "source", identity);
    }
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_broadcast(world, &answer, 1, FM_U8, 0));
    FM_TRY(fm_comm_broadcast(world, mesh, sizeof *mesh, FM_U8, 0));
    *current = answer != 0;
    return FM_OK;
}

static int make_room(conversion *c, int n_items)
{
    fm_shard_item *const items = fm_grow(c->items, (size_t)n_items * sizeof *items, FM_MEMORY_HOST);
    c->items = items != NULL ? items : c->items;
    int *const from = items == NULL ? NULL : fm_grow(c->from, (size_t)n_items * sizeof *from, FM_MEMORY_HOST);
    c->from = from != NULL ? from : c->from;
    return from == NULL ? FM_ERR_MEMORY : FM_OK;
}

/* The items of a model alone: its weights. */
static int list_weights(conversion *c, fm_tensor_spec *tensors, const char *name)
{
    const int n = c->layout->n_tensors;
    FM_TRY(make_room(c, n));
    FM_TRY(fm_match_tensors(c->from, tensors, n, c->source, name));
    for (int t = 0; t < n; t++) {
        c->items[c->n_items++] = (fm_shard_item){ .group = "", .tensor = t, .dtype = tensors[t].dtype };
    }
    return FM_OK;
}

int fm_convert(fm_convert_report *report, const char *shards_dir, const char *source_dir, const fm_layout *layout,
               fm_tensor_spec *tensors, bool reuse, fm_comm *world, fm_comm *tp)
{
    json_t *extra;
    bool current = false;
    conversion c = { .layout = layout };
    const small_files small = { .from_dir = source_dir };
    fm_mesh_shape mesh = layout->mesh;
    *report = (fm_convert_report){ 0 };
    int rc = look(&extra, &current, &mesh, shards_dir, source_dir, reuse, world);
    const char *const from_dir = current ? shards_dir : source_dir;
    if (rc == FM_OK) {
        rc = fm_source_open(&c.source, from_dir, world);
    }
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, list_weights(&c, tensors, from_dir));
    }
    if (rc == FM_OK && !current) {
        rc = write_set(report, shards_dir, &c, &small, extra, world, tp);
    }
    report->reused = current;
    report->mesh = current ? mesh : layout->mesh;
    fm_source_close(c.source);
    release(&c);
    json_decref(extra);
    return rc;
}

/* ---- a set of one mesh to another ---- */

/* The groups of arrays that a set may hold, in the order in which checkpoints have them. */
static const char *const groups[] = { "", "master", "exp_avg", "exp_avg_sq", "gradient" };

/* One tensor of a group: whether it is there, and fits the model. */
static int add_item(conversion *c, const char *group, int tensor, const char *set)
{
    char name[FM_NAME_BYTES + 32];
    const fm_tensor_spec *const spec = &c->layout->tensors[tensor];
    snprintf(name, sizeof name, "%s%s%s", group, group[0] != '\0' ? "/" : "", spec->name);
    const int found = fm_source_find(c->source, name);
    if (found < 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: tensor %s is not there: config.json describes another model", set, name);
    }
    const fm_source_tensor *const entry = fm_source_get(c->source, found);
    bool same = entry->ndim == spec->ndim && entry->dtype != FM_DTYPES;
    for (int d = 0; same && d < spec->ndim; d++) {
        same = entry->shape[d] == spec->shape[d];
    }
    if (!same) {
        return fm_fail(FM_ERR_FORMAT, "%s: tensor %s has another shape: config.json describes another model", set, name);
    }
    c->items[c->n_items] = (fm_shard_item){ .group = group, .tensor = tensor, .dtype = entry->dtype };
    c->from[c->n_items++] = found;
    return FM_OK;
}

static bool has_group(const fm_source *source, const char *group)
{
    const size_t length = strlen(group);
    bool has = length == 0;
    for (int t = 0; !has && t < fm_source_count(source); t++) {
        const char *const name = fm_source_get(source, t)->name;
        has = strncmp(name, group, length) == 0 && name[length] == '/';
    }
    return has;
}

/* Everything that the set holds, and nothing else. */
static int list_all(conversion *c, const char *set)
{
    const int n = fm_source_count(c->source);
    FM_TRY(make_room(c, n + c->layout->n_tensors));
    for (size_t g = 0; g < sizeof groups / sizeof groups[0] && c->n_items < n; g++) {
        for (int t = 0; has_group(c->source, groups[g]) && t < c->layout->n_tensors; t++) {
            FM_TRY(add_item(c, groups[g], t, set));
        }
    }
    return c->n_items == n ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: %d tensors, %d of them are the model's: config.json describes "
                                             "another model", set, n, c->n_items);
}

/* Rank 0: the manifest without what is the mesh's own. */
static int read_state(json_t **extra, json_t **manifest, const char *set)
{
    static const char *const own[] = { "format_version", "mesh", "files", "crc32" };
    FM_TRY(fm_shards_read_manifest(manifest, set));
    *extra = json_copy(*manifest);
    for (size_t i = 0; i < sizeof own / sizeof own[0]; i++) {
        json_object_del(*extra, own[i]);
    }
    return FM_OK;
}

int fm_reshard(fm_convert_report *report, const char *out_dir, const char *set_dir, const fm_layout *layout,
               const fm_small_file *instead, int n_instead, fm_comm *world, fm_comm *tp)
{
    json_t *extra = NULL, *manifest = NULL;
    conversion c = { .layout = layout };
    small_files small = { .from_dir = set_dir, .instead = instead, .n_instead = n_instead };
    *report = (fm_convert_report){ 0 };
    int rc = fm_verify(NULL, set_dir, world);
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, fm_comm_rank(world) == 0 ? read_state(&extra, &manifest, set_dir) : FM_OK);
        small.manifest = manifest;
    }
    if (rc == FM_OK) {
        rc = fm_source_open_shards(&c.source, set_dir, world);
    }
    if (rc == FM_OK) {
        rc = fm_comm_agree(world, list_all(&c, set_dir));
    }
    if (rc == FM_OK) {
        rc = write_set(report, out_dir, &c, &small, extra, world, tp);
    }
    fm_source_close(c.source);
    release(&c);
    json_decref(extra);
    json_decref(manifest);
    return rc;
}
