#include "ckpt/safetensors.h"

#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

/* Every element type of the format. Those that finemesh can compute with are found by name in fm_dtype's table. */
static const struct {
    const char *name;
    int bits;
} element_types[] = {
    { "BOOL", 8 }, { "F4", 4 }, { "F6_E2M3", 6 }, { "F6_E3M2", 6 }, { "U8", 8 }, { "I8", 8 }, { "F8_E5M2", 8 }, { "F8_E4M3", 8 },
    { "F8_E8M0", 8 }, { "F8_E4M3FNUZ", 8 }, { "F8_E5M2FNUZ", 8 }, { "I16", 16 }, { "U16", 16 }, { "F16", 16 }, { "BF16", 16 },
    { "I32", 32 }, { "U32", 32 }, { "F32", 32 }, { "C64", 64 }, { "F64", 64 }, { "I64", 64 }, { "U64", 64 },
};

/* Where a tensor's bytes lie, for the check of holes and overlaps. */
typedef struct {
    int64_t begin, end;
    const char *name;
} span;

static int element_bits(const char *dtype_name)
{
    for (size_t i = 0; i < sizeof element_types / sizeof element_types[0]; i++) {
        if (strcmp(element_types[i].name, dtype_name) == 0) {
            return element_types[i].bits;
        }
    }
    return 0;
}

/* The finemesh dtype of a safetensors name; FM_DTYPES where there is none. */
static int dtype_of(const char *dtype_name)
{
    for (int d = 0; d < FM_DTYPES; d++) {
        if (strcmp(fm_dtype_safetensors_name(d), dtype_name) == 0) {
            return d;
        }
    }
    return FM_DTYPES;
}

/* {"dtype": ..., "shape": [...]} -> dtype name, extents. */
static int parse_type(const char **dtype_name, int *ndim, int64_t shape[FM_INDEX_DIMS], const json_t *value, const char *where)
{
    const json_t *const dtype = json_object_get(value, "dtype"), *const dims = json_object_get(value, "shape");
    if (!json_is_string(dtype) || !json_is_array(dims)) {
        return fm_fail(FM_ERR_FORMAT, "%s: a \"dtype\" string and a \"shape\" array were expected", where);
    }
    *dtype_name = json_string_value(dtype);
    if (element_bits(*dtype_name) == 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"%.40s\" is no dtype of the safetensors format", where, *dtype_name);
    }
    *ndim = (int)json_array_size(dims);
    if (json_array_size(dims) > FM_INDEX_DIMS) {
        return fm_fail(FM_ERR_FORMAT, "%s: %zu dimensions, at most %d were expected", where, json_array_size(dims),
                       FM_INDEX_DIMS);
    }
    for (int d = 0; d < *ndim; d++) {
        const json_t *const extent = json_array_get(dims, (size_t)d);
        if (!json_is_integer(extent) || json_integer_value(extent) < 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: its shape holds something that is no integer from 0", where);
        }
        shape[d] = json_integer_value(extent);
    }
    return FM_OK;
}

/* {"data_offsets": [begin, end]}, relative to the end of the header, inside data_bytes. */
static int parse_offsets(span *out, const json_t *value, int64_t data_bytes, const char *where)
{
    const json_t *const offsets = json_object_get(value, "data_offsets");
    const json_t *const begin = json_array_get(offsets, 0), *const end = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(begin) || !json_is_integer(end)) {
        return fm_fail(FM_ERR_FORMAT, "%s: \"data_offsets\" must be two integers", where);
    }
    out->begin = json_integer_value(begin);
    out->end = json_integer_value(end);
    if (out->begin < 0 || out->end < out->begin || out->end > data_bytes) {
        return fm_fail(FM_ERR_FORMAT,
                       "%s: its data_offsets [%lld, %lld] leave the file's %lld bytes of data: the file is truncated or lies",
                       where, (long long)out->begin, (long long)out->end, (long long)data_bytes);
    }
    return FM_OK;
}

/* One entry of the header: a tensor, its slice, its one piece. */
static int parse_tensor(fm_index *index, span *out, const char *name, const json_t *value, int file, int64_t data_start,
                        int64_t data_bytes, const char *path)
{
    char where[FM_PATH_BYTES + 256];
    snprintf(where, sizeof where, "%s: tensor %.200s", path, name);
    const char *dtype_name = NULL;
    int ndim = 0;
    int64_t shape[FM_INDEX_DIMS];
    if (!json_is_object(value)) {
        return fm_fail(FM_ERR_FORMAT, "%s: an object was expected", where);
    }
    FM_TRY(parse_type(&dtype_name, &ndim, shape, value, where));
    FM_TRY(parse_offsets(out, value, data_bytes, where));
    out->name = name;
    if (fm_index_find(index, name) >= 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: the tensor is there twice, in this file or another of the set", where);
    }
    const int tensor = fm_index_add_tensor(index, name, dtype_name, dtype_of(dtype_name), ndim, shape);
    if (tensor < 0) {
        return fm_fail_in(tensor, "%s", path);
    }
    const fm_index_tensor *const made = fm_index_get_tensor(index, tensor);
    const int64_t rows = made->rows, columns = made->columns, bits = rows * columns * element_bits(dtype_name);
    if (bits % 8 != 0 || bits / 8 != out->end - out->begin) {
        return fm_fail(FM_ERR_FORMAT, "%s: %lld bytes of data, %lld were expected from its shape and dtype %s", where,
                       (long long)(out->end - out->begin), (long long)((bits + 7) / 8), dtype_name);
    }
    const fm_index_slice slice = {
        .tensor = tensor, .file = file, .offset_bytes = data_start + out->begin, .size_bytes = out->end - out->begin,
    };
    const int made_slice = fm_index_add_slice(index, &slice);
    FM_TRY(made_slice);
    return fm_index_add_piece(index, &(fm_index_piece){ slice.offset_bytes, columns, { 0, 0 }, { rows, columns } });
}

static int compare_spans(const void *left, const void *right)
{
    const span *const a = left, *const b = right;
    if (a->begin != b->begin) {
        return a->begin < b->begin ? -1 : 1;
    }
    return (a->end > b->end) - (a->end < b->end);
}

/* The format demands that the tensors tile the data. */
static int check_spans(span *spans, size_t n, int64_t data_bytes, const char *path)
{
    int64_t at = 0;
    if (n > 0) {
        qsort(spans, n, sizeof *spans, compare_spans);
    }
    for (size_t i = 0; i < n; i++) {
        if (spans[i].begin != at) {
            return fm_fail(FM_ERR_FORMAT,
                           "%s: tensor %s begins at byte %lld of the data, %lld was expected: tensors overlap or leave a hole",
                           path, spans[i].name, (long long)spans[i].begin, (long long)at);
        }
        at = spans[i].end;
    }
    if (at != data_bytes) {
        return fm_fail(FM_ERR_FORMAT, "%s: the header speaks of %lld bytes of data, the file has %lld", path, (long long)at,
                       (long long)data_bytes);
    }
    return FM_OK;
}

int fm_safetensors_parse(fm_index *index, const char *header, size_t header_bytes, int64_t file_bytes, const char *path)
{
    const int64_t data_start = FM_SAFETENSORS_PREFIX_BYTES + (int64_t)header_bytes;
    const int64_t data_bytes = file_bytes - data_start;
    if (data_bytes < 0) {
        return fm_fail(FM_ERR_FORMAT, "%s: a header of %zu bytes in a file of %lld: the file is truncated or no safetensors file",
                       path, header_bytes, (long long)file_bytes);
    }
    json_t *object;
    span *spans = NULL;
    FM_TRY(fm_json_parse(&object, header, header_bytes, path));
    int rc = FM_OK;
    if (!json_is_object(object)) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: the header is no JSON object", path);
        goto done;
    }
    const int file = fm_index_add_file(index, path, file_bytes);
    FM_TRY_TO(done, rc, file);
    spans = fm_alloc_array((int64_t)json_object_size(object), sizeof *spans, FM_MEMORY_HOST);
    if (spans == NULL) {
        rc = FM_ERR_MEMORY;
        goto done;
    }
    const char *name;
    json_t *value;
    size_t n = 0;
    json_object_foreach(object, name, value) {
        if (strcmp(name, "__metadata__") != 0) {
            FM_TRY_TO(done, rc, parse_tensor(index, &spans[n++], name, value, file, data_start, data_bytes, path));
        }
    }
    rc = check_spans(spans, n, data_bytes, path);
done:
    fm_free(spans);
    json_decref(object);
    return rc < 0 ? rc : FM_OK;
}

/* Prefix and header of an open file into *out (fm_free), with the prefix. */
static int read_header(char **out, size_t *header_bytes, int fd, int64_t file_bytes, const char *path)
{
    uint64_t length;
    if (file_bytes < FM_SAFETENSORS_PREFIX_BYTES) {
        return fm_fail(FM_ERR_FORMAT, "%s: %lld bytes are too few for a safetensors file", path, (long long)file_bytes);
    }
    FM_TRY(fm_file_pread(fd, &length, sizeof length, 0, path));
    length = le64toh(length);
    if (length > FM_SAFETENSORS_HEADER_LIMIT_BYTES || (int64_t)length > file_bytes - FM_SAFETENSORS_PREFIX_BYTES) {
        return fm_fail(FM_ERR_FORMAT,
                       "%s: it says that its header has %llu bytes; the file has %lld, and a header at most %d: truncated, "
                       "or no safetensors file", path, (unsigned long long)length, (long long)file_bytes,
                       FM_SAFETENSORS_HEADER_LIMIT_BYTES);
    }
    *out = fm_alloc(FM_SAFETENSORS_PREFIX_BYTES + (size_t)length, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    *header_bytes = (size_t)length;
    return fm_file_pread(fd, *out, FM_SAFETENSORS_PREFIX_BYTES + (size_t)length, 0, path);
}

int fm_safetensors_scan(fm_index *index, uint32_t *header_crc32, const char *path)
{
    int fd;
    int64_t file_bytes;
    size_t header_bytes = 0;
    char *text = NULL;
    fm_file_identity identity;
    FM_TRY(fm_file_stat(&identity, path));
    FM_TRY(fm_file_open(&fd, &file_bytes, path));
    int rc = read_header(&text, &header_bytes, fd, file_bytes, path);
    close(fd);
    if (rc == FM_OK) {
        rc = fm_safetensors_parse(index, text + FM_SAFETENSORS_PREFIX_BYTES, header_bytes, file_bytes, path);
    }
    if (rc == FM_OK) {
        fm_index_set_mtime(index, (int)index->files.n - 1, identity.mtime_ns);
    }
    if (rc == FM_OK && header_crc32 != NULL) {
        *header_crc32 = fm_crc32(0, text, FM_SAFETENSORS_PREFIX_BYTES + header_bytes);
    }
    fm_free(text);
    return rc;
}

/* The header's JSON with data offsets from 0; *data_bytes is where the data ends. */
static json_t *header_object(int64_t *offsets, int64_t *data_bytes, const fm_safetensors_entry *entries, int n)
{
    json_t *const object = json_pack("{s:{s:s}}", "__metadata__", "format", "pt");
    int64_t at = 0;
    for (int i = 0; object != NULL && i < n; i++) {
        json_t *const shape = json_array();
        int64_t elements = 1;
        for (int d = 0; d < entries[i].ndim; d++) {
            json_array_append_new(shape, json_integer(entries[i].shape[d]));
            elements *= entries[i].shape[d];
        }
        offsets[i] = at;
        at += elements * (int64_t)fm_dtype_bytes(entries[i].dtype);
        json_t *const value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", fm_dtype_safetensors_name(entries[i].dtype), "shape",
                                        shape, "data_offsets", (json_int_t)offsets[i], (json_int_t)at);
        if (value == NULL || json_object_set_new(object, entries[i].name, value) != 0) {
            json_decref(object);
            return NULL;
        }
    }
    *data_bytes = at;
    return object;
}

int fm_safetensors_header(char **out, size_t *out_bytes, int64_t *offsets, int64_t *file_bytes,
                          const fm_safetensors_entry *entries, int n)
{
    int64_t data_bytes = 0;
    char *text = NULL;
    size_t text_bytes = 0;
    json_t *const object = header_object(offsets, &data_bytes, entries, n);
    *out = NULL;
    if (object == NULL) {
        return fm_fail(FM_ERR_MEMORY, "out of memory: the header of a safetensors file of %d tensors", n);
    }
    const int rc = fm_json_print(&text, &text_bytes, object, 0);
    json_decref(object);
    FM_TRY(rc);
    const size_t padded_bytes = (text_bytes + 7) / 8 * 8;
    *out_bytes = FM_SAFETENSORS_PREFIX_BYTES + padded_bytes;
    *out = fm_alloc(*out_bytes, FM_MEMORY_HOST);
    if (*out == NULL) {
        fm_free(text);
        return FM_ERR_MEMORY;
    }
    const uint64_t prefix = htole64(padded_bytes);
    memcpy(*out, &prefix, sizeof prefix);
    memset(*out + FM_SAFETENSORS_PREFIX_BYTES, ' ', padded_bytes);
    memcpy(*out + FM_SAFETENSORS_PREFIX_BYTES, text, text_bytes);
    fm_free(text);
    for (int i = 0; i < n; i++) {
        offsets[i] += (int64_t)*out_bytes;
    }
    *file_bytes = (int64_t)*out_bytes + data_bytes;
    return FM_OK;
}
