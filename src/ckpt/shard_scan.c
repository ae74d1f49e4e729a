#include "ckpt/shard_scan.h"

#include <limits.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/h5.h"

static const char manifest_name[] = "manifest.json";

enum { MANIFEST_LIMIT_BYTES = 100000000 };

bool fm_shards_is_set(const char *dir)
{
    char path[FM_PATH_BYTES];
    return fm_path_join(path, dir, manifest_name) == FM_OK && fm_path_exists(path);
}

/* One entry of "files": a plain name and a size. */
static int check_entry(const json_t *entry, const char *path)
{
    int64_t size_bytes = -1;
    if (!json_is_object(entry)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"files\" holds something that is no object", path);
    }
    const json_t *const name = json_object_get(entry, "name");
    FM_TRY(fm_json_get_int(&size_bytes, entry, "size", 0, INT64_MAX, path));
    if (!json_is_string(name) || !fm_path_is_plain(json_string_value(name), json_string_length(name)) || size_bytes < 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: an entry of \"files\" has no size, or no name of a file in this directory", path);
    }
    return FM_OK;
}

int fm_shards_read_manifest(json_t **out, const char *dir)
{
    char path[FM_PATH_BYTES];
    int64_t version = -1;
    FM_TRY(fm_path_join(path, dir, manifest_name));
    FM_TRY(fm_json_read(out, path, MANIFEST_LIMIT_BYTES));
    int rc = json_is_object(*out) ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: no JSON object", path);
    if (rc == FM_OK) {
        rc = fm_json_get_int(&version, *out, "format_version", 0, INT64_MAX, path);
    }
    if (rc == FM_OK && version != FM_SHARD_FORMAT_VERSION) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: \"format_version\" is %lld, %d was expected: another version of finemesh wrote it", path,
                     (long long)version, FM_SHARD_FORMAT_VERSION);
    }
    const json_t *const files = rc == FM_OK ? json_object_get(*out, "files") : NULL;
    if (rc == FM_OK && !json_is_array(files)) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: it has no array \"files\"", path);
    }
    for (size_t i = 0; rc == FM_OK && i < json_array_size(files); i++) {
        rc = check_entry(json_array_get(files, i), path);
    }
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}

/* The axis on which the pieces of a local array lie one after another: there their counts add up to its extent and on the other
 * each has the whole of it. -1: they do not. */
static int piece_axis(const fm_h5_dataset *dataset)
{
    for (int axis = 0; axis < dataset->ndim; axis++) {
        int64_t sum = 0;
        bool fits = true;
        for (int p = 0; p < dataset->n_pieces; p++) {
            for (int d = 0; d < dataset->ndim; d++) {
                fits = fits && dataset->count[p][d] >= 0 && dataset->count[p][d] <= dataset->shape[d] &&
                       (d == axis || dataset->count[p][d] == dataset->shape[d]);
            }
            fits = fits && !__builtin_add_overflow(sum, dataset->count[p][axis], &sum);
        }
        if (fits && sum == dataset->shape[axis]) {
            return axis;
        }
    }
    return -1;
}

/* The pieces of a dataset as those of the last slice of the index. */
static int add_pieces(fm_index *index, const fm_h5_dataset *dataset, const char *where)
{
    const int axis = piece_axis(dataset);
    if (axis < 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: its slice_count does not add up to its extents", where);
    }
    const int64_t element_bytes = (int64_t)fm_dtype_bytes((enum fm_dtype)dataset->dtype);
    const int64_t pitch = dataset->ndim == 2 ? dataset->shape[1] : 1;
    int64_t at = 0;
    for (int p = 0; p < dataset->n_pieces; p++) {
        const fm_index_piece piece = {
            .offset_bytes = dataset->offset_bytes + at * (axis == 0 ? pitch : 1) * element_bytes,
            .pitch = pitch,
            .start = { dataset->start[p][0], dataset->ndim == 2 ? dataset->start[p][1] : 0 },
            .count = { dataset->count[p][0], dataset->ndim == 2 ? dataset->count[p][1] : 1 },
        };
        at += dataset->count[p][axis];
        const int rc = fm_index_add_piece(index, &piece);
        FM_TRY(rc);
    }
    return FM_OK;
}

/* A dataset as a slice of a tensor. A dataset without slice attributes is a whole tensor of its own; one that is not contiguous
 * is listed and has no bytes. */
static int add_dataset(fm_index *index, const fm_h5_dataset *dataset, int file, const char *path)
{
    char where[FM_PATH_BYTES + FM_H5_PATH_BYTES + 16];
    snprintf(where, sizeof where, "%s: tensor %s", path, dataset->path);
    const bool sliced = dataset->n_pieces > 0;
    const int64_t *const shape = sliced ? dataset->global_shape : dataset->shape;
    const char *const dtype_name =
        dataset->dtype == FM_DTYPES ? "other" : fm_dtype_safetensors_name((enum fm_dtype)dataset->dtype);
    int tensor = fm_index_find(index, dataset->path);
    if (tensor < 0) {
        tensor = fm_index_add_tensor(index, dataset->path, dtype_name, dataset->dtype, dataset->ndim, shape);
        if (tensor < 0) {
            return fm_fail_in(tensor, "%s", path);
        }
    }
    const fm_index_tensor *const entry = fm_index_get_tensor(index, tensor);
    bool same = entry->ndim == dataset->ndim && entry->dtype == dataset->dtype;
    for (int d = 0; same && d < entry->ndim; d++) {
        same = entry->shape[d] == shape[d];
    }
    if (!same) {
        return fm_fail(FM_ERR_FORMAT, "%s: another file of the set gives it another shape or dtype", where);
    }
    if (dataset->storage != FM_H5_CONTIGUOUS) {
        return sliced ? fm_fail(FM_ERR_FORMAT, "%s: its data is not contiguous, so finemesh did not write it", where) : FM_OK;
    }
    const fm_index_slice slice = {
        .tensor = tensor, .file = file, .offset_bytes = dataset->offset_bytes, .size_bytes = dataset->size_bytes,
        .crc32 = dataset->crc32, .has_crc = sliced,
    };
    const int64_t rows = entry->rows, columns = entry->columns;
    const int made = fm_index_add_slice(index, &slice);
    FM_TRY(made);
    if (sliced) {
        return add_pieces(index, dataset, where);
    }
    return fm_index_add_piece(index, &(fm_index_piece){ dataset->offset_bytes, columns, { 0, 0 }, { rows, columns } });
}

/* A file; of a set (`sliced`) all its datasets must say which slices they are. */
static int scan_file(fm_index *index, const char *path, bool sliced)
{
    fm_h5_header header = { 0 };
    bool has_header;
    fm_h5_dataset *datasets;
    int n;
    fm_file_identity identity;
    FM_TRY(fm_file_stat(&identity, path));
    FM_TRY(fm_h5_read(&header, &has_header, &datasets, &n, path));
    int rc = FM_OK;
    if (sliced && (!has_header || header.format_version != FM_SHARD_FORMAT_VERSION)) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: format_version is %lld, %d was expected, with mesh_shape and coordinate beside it", path,
                     (long long)header.format_version, FM_SHARD_FORMAT_VERSION);
    }
    const int file = rc < 0 ? rc : fm_index_add_file(index, path, identity.size_bytes);
    rc = file < 0 ? file : FM_OK;
    if (rc == FM_OK) {
        fm_index_set_mtime(index, file, identity.mtime_ns);
    }
    for (int i = 0; rc >= 0 && i < n; i++) {
        rc = sliced && datasets[i].n_pieces == 0 ?
             fm_fail(FM_ERR_FORMAT, "%s: dataset %s says not which slice it is", path, datasets[i].path) :
             add_dataset(index, &datasets[i], file, path);
    }
    fm_free(datasets);
    return rc < 0 ? rc : FM_OK;
}

int fm_shards_scan_file(fm_index *index, const char *path)
{
    return scan_file(index, path, false);
}

/* Path and size of an entry, and the check that the file is still so. */
static int check_file(char path[FM_PATH_BYTES], const json_t *entry, const char *dir)
{
    fm_file_identity identity;
    const int64_t expected = json_integer_value(json_object_get(entry, "size"));
    FM_TRY(fm_path_join(path, dir, json_string_value(json_object_get(entry, "name"))));
    FM_TRY(fm_file_stat(&identity, path));
    if (identity.size_bytes != expected) {
        return fm_fail(FM_ERR_FORMAT, "%s: it has %lld bytes, %lld were written: the file is truncated or damaged", path,
                       (long long)identity.size_bytes, (long long)expected);
    }
    return FM_OK;
}

static bool is_rank_file(const char *name)
{
    const size_t length = strlen(name);
    return strncmp(name, "rank-", 5) == 0 && length > 3 && strcmp(name + length - 3, ".h5") == 0;
}

bool fm_shards_holds_tensors(const char *name)
{
    return is_rank_file(name) || strcmp(name, "model.h5") == 0;
}

int fm_shards_scan(fm_index *index, const char *dir, int part, int n_parts)
{
    json_t *manifest;
    FM_TRY(fm_shards_read_manifest(&manifest, dir));
    const json_t *const files = json_object_get(manifest, "files");
    int rc = FM_OK, n_rank_files = 0;
    for (size_t i = 0; rc == FM_OK && i < json_array_size(files); i++) {
        const json_t *const entry = json_array_get(files, i);
        char path[FM_PATH_BYTES];
        const char *const name = json_string_value(json_object_get(entry, "name"));
        if (is_rank_file(name) && n_rank_files++ % n_parts == part) {
            rc = check_file(path, entry, dir);
            if (rc == FM_OK) {
                rc = scan_file(index, path, true);
            }
        }
    }
    json_decref(manifest);
    return rc;
}

/* The mesh that a set was made for, which every manifest says. */
static int read_mesh(fm_mesh_shape *mesh, const json_t *manifest, const char *dir)
{
    const json_t *const sizes = json_object_get(manifest, "mesh");
    int64_t least = INT_MAX;
    for (int d = 0; d < FM_DIMS; d++) {
        int64_t size = 0;
        FM_TRY(fm_json_get_int(&size, sizes, fm_dim_name((enum fm_dim)d), 1, INT_MAX, dir));
        mesh->size[d] = (int)size;
        least = size < least ? size : least;
    }
    return least > 0 ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: its manifest has no \"mesh\" of %d sizes", dir, FM_DIMS);
}

bool fm_shards_are_current(fm_mesh_shape *mesh, const char *dir, const json_t *identity)
{
    json_t *manifest;
    if (!fm_shards_is_set(dir) || fm_shards_read_manifest(&manifest, dir) < 0) {
        return false;
    }
    bool current = json_equal(json_object_get(manifest, "source"), identity) != 0 && read_mesh(mesh, manifest, dir) == FM_OK;
    const json_t *const files = json_object_get(manifest, "files");
    for (size_t i = 0; current && i < json_array_size(files); i++) {
        char path[FM_PATH_BYTES];
        current = check_file(path, json_array_get(files, i), dir) == FM_OK;
    }
    json_decref(manifest);
    return current;
}
