#include "ckpt/inspect.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "ckpt/hf.h"
#include "ckpt/safetensors.h"
#include "ckpt/shard_scan.h"

enum { SHAPE_BYTES = FM_INDEX_DIMS * 24, SLICES_BYTES = 4 * 64 };

static int scan_set(fm_index *index, const char *path)
{
    return fm_shards_scan(index, path, 0, 1);
}

static int scan_safetensors(fm_index *index, const char *path)
{
    return fm_safetensors_scan(index, NULL, path);
}

static bool is_hdf5(const char *path)
{
    char signature[8] = "";
    fm_file_identity identity;
    FILE *const file = fm_file_stat(&identity, path) < 0 ? NULL : fopen(path, "rb");
    const bool read = file != NULL && fread(signature, 1, sizeof signature, file) == sizeof signature;
    if (file != NULL) {
        fclose(file);
    }
    return read && memcmp(signature, "\211HDF\r\n\032\n", 8) == 0;
}

static bool is_file(const char *path)
{
    return fm_path_exists(path) && !fm_path_is_dir(path);
}

/* The kinds of things there are; the first that a path is. */
static const struct {
    const char *name;
    bool (*is)(const char *path);
    int (*scan)(fm_index *index, const char *path);
    bool whole;                        /* every element of every tensor must be there */
} kinds[] = {
    { "shard set", fm_shards_is_set, scan_set, true },
    { "Hugging Face directory", fm_path_is_dir, fm_hf_scan, true },
    { "HDF5 file", is_hdf5, fm_shards_scan_file, false },
    { "safetensors file", is_file, scan_safetensors, true },
};

static void print_shape(char out[SHAPE_BYTES], const fm_index_tensor *tensor)
{
    int length = snprintf(out, SHAPE_BYTES, "[");
    for (int d = 0; d < tensor->ndim; d++) {
        length += snprintf(out + length, SHAPE_BYTES - (size_t)length, "%s%lld", d == 0 ? "" : ", ", (long long)tensor->shape[d]);
    }
    snprintf(out + length, SHAPE_BYTES - (size_t)length, "]");
}

/* How many slices, or, where they are not the whole tensor, which rows and columns the first few hold. */
static void print_slices(char out[SLICES_BYTES], const fm_index *index, const fm_index_tensor *tensor)
{
    int64_t elements = 0;
    size_t length = (size_t)snprintf(out, SLICES_BYTES, "%lld", (long long)tensor->n_slices);
    for (int64_t s = tensor->first_slice; s < tensor->first_slice + tensor->n_slices; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(index, s);
        for (int p = 0; p < slice->n_pieces; p++) {
            const fm_index_piece *const piece = fm_index_get_piece(index, slice->first_piece + p);
            elements += piece->count[0] * piece->count[1];
        }
    }
    if (tensor->n_slices == 0 || elements == tensor->rows * tensor->columns) {
        return;
    }
    const fm_index_slice *const first = fm_index_get_slice(index, tensor->first_slice);
    for (int p = 0; p < first->n_pieces && p < 4; p++) {
        const fm_index_piece *const piece = fm_index_get_piece(index, first->first_piece + p);
        const long long row = piece->start[0], column = piece->start[1];
        length += (size_t)snprintf(out + length, SLICES_BYTES - length, "%s[%lld:%lld", p == 0 ? ": " : " + ", row,
                                   row + (long long)piece->count[0]);
        if (tensor->ndim > 1) {
            length += (size_t)snprintf(out + length, SLICES_BYTES - length, ", %lld:%lld", column,
                                       column + (long long)piece->count[1]);
        }
        length += (size_t)snprintf(out + length, SLICES_BYTES - length, "]");
    }
}

/* The size of a tensor whose bytes lie elsewhere (a virtual dataset, a compressed one); 0 where its elements have no known size. */
static int64_t logical_bytes(const fm_index_tensor *tensor)
{
    return tensor->dtype == FM_DTYPES ? 0 : tensor->rows * tensor->columns * (int64_t)fm_dtype_bytes((enum fm_dtype)tensor->dtype);
}

static int64_t stored_bytes(const fm_index *index, const fm_index_tensor *tensor)
{
    int64_t total = 0;
    for (int64_t s = tensor->first_slice; s < tensor->first_slice + tensor->n_slices; s++) {
        total += fm_index_get_slice(index, s)->size_bytes;
    }
    return total;
}

static void print_table(const fm_index *index)
{
    int widest = 6;
    int64_t total_bytes = 0, total_elements = 0, elsewhere_bytes = 0;
    for (int64_t t = 0; t < index->tensors.n; t++) {
        const int length = (int)strlen(fm_index_string(index, fm_index_get_tensor(index, t)->name));
        widest = length > widest && length <= 80 ? length : widest;
    }
    fm_log_print("%-*s  %-8s %16s  %-20s %s\n", widest, "tensor", "dtype", "bytes", "shape", "slices");
    for (int64_t t = 0; t < index->tensors.n; t++) {
        const fm_index_tensor *const tensor = fm_index_get_tensor(index, t);
        const int64_t stored = stored_bytes(index, tensor), elsewhere = tensor->n_slices == 0 ? logical_bytes(tensor) : 0;
        char shape[SHAPE_BYTES], slices[SLICES_BYTES];
        print_shape(shape, tensor);
        print_slices(slices, index, tensor);
        fm_log_print("%-*s  %-8s %16lld  %-20s %s\n", widest, fm_index_string(index, tensor->name),
                     fm_index_string(index, tensor->dtype_name), (long long)(stored + elsewhere), shape, slices);
        total_bytes += stored;
        elsewhere_bytes += elsewhere;
        total_elements += tensor->rows * tensor->columns;
    }
    fm_log_print("%lld tensors of %lld elements, %lld bytes in %lld file%s", (long long)index->tensors.n,
                 (long long)total_elements, (long long)total_bytes, (long long)index->files.n, index->files.n == 1 ? "" : "s");
    if (elsewhere_bytes > 0) {
        fm_log_print(", %lld that lie in others or are not contiguous", (long long)elsewhere_bytes);
    }
    fm_log_print("\n");
}

int fm_inspect(const char *path)
{
    fm_index index = { .pool = { 0 } };
    if (!fm_path_exists(path)) {
        return fm_fail(FM_ERR_IO, "%s: not there; a Hugging Face directory, a shard set, a .h5 or .safetensors file was expected",
                       path);
    }
    size_t k = 0;
    while (!kinds[k].is(path)) {       /* the kinds of directories and of files each end with any */
        k++;
    }
    int rc = kinds[k].scan(&index, path);
    if (rc == FM_OK) {
        rc = fm_index_seal(&index, kinds[k].whole, path);
    }
    if (rc == FM_OK) {
        fm_log_print("%s: %s\n", path, kinds[k].name);
        print_table(&index);
    }
    fm_index_clear(&index);
    return rc;
}
