#include "ckpt/index.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

/* Makes room for n more and returns where they begin; NULL: out of memory. */
static void *append(fm_index_array *array, int64_t n, size_t element_bytes)
{
    if (array->n + n > array->capacity) {
        int64_t capacity = array->capacity < 16 ? 16 : array->capacity * 2;
        if (capacity < array->n + n) {
            capacity = array->n + n;
        }
        void *grown = fm_grow(array->data, (size_t)capacity * element_bytes, FM_MEMORY_HOST);
        if (grown == NULL) {
            return NULL;
        }
        array->data = grown;
        array->capacity = capacity;
    }
    void *place = (char *)array->data + (size_t)array->n * element_bytes;
    array->n += n;
    return place;
}

void fm_index_clear(fm_index *index)
{
    fm_index_array *const arrays[] = { &index->pool, &index->files, &index->tensors, &index->slices, &index->pieces,
                                       &index->table };
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        fm_free(arrays[i]->data);
    }
    *index = (fm_index){ .pool = { 0 } };
}

const fm_index_file *fm_index_get_file(const fm_index *index, int64_t i)
{
    return (const fm_index_file *)index->files.data + i;
}

const fm_index_tensor *fm_index_get_tensor(const fm_index *index, int64_t i)
{
    return (const fm_index_tensor *)index->tensors.data + i;
}

const fm_index_slice *fm_index_get_slice(const fm_index *index, int64_t i)
{
    return (const fm_index_slice *)index->slices.data + i;
}

const fm_index_piece *fm_index_get_piece(const fm_index *index, int64_t i)
{
    return (const fm_index_piece *)index->pieces.data + i;
}

const char *fm_index_string(const fm_index *index, int64_t offset)
{
    return (const char *)index->pool.data + offset;
}

static int64_t add_string(fm_index *index, const char *text)
{
    const int64_t offset = index->pool.n;
    const size_t size_bytes = strlen(text) + 1;
    char *place = append(&index->pool, (int64_t)size_bytes, 1);
    if (place == NULL) {
        return FM_ERR_MEMORY;
    }
    memcpy(place, text, size_bytes);
    return offset;
}

/* FNV-1a. */
static uint64_t hash(const char *text)
{
    uint64_t value = 0xcbf29ce484222325u;
    for (; *text != '\0'; text++) {
        value = (value ^ (unsigned char)*text) * 0x100000001b3u;
    }
    return value;
}

/* The slot of `name`, or the empty one where it would go. The table is never full. */
static int32_t *slot_of(const fm_index *index, const char *name)
{
    int32_t *const table = index->table.data;
    const uint64_t mask = (uint64_t)index->table.n - 1;
    uint64_t at = hash(name) & mask;
    while (table[at] != 0 && strcmp(fm_index_string(index, fm_index_get_tensor(index, table[at] - 1)->name), name) != 0) {
        at = (at + 1) & mask;
    }
    return &table[at];
}

int fm_index_find(const fm_index *index, const char *name)
{
    return index->table.n == 0 ? -1 : *slot_of(index, name) - 1;
}

/* At most half of the table is used. */
static int grow_table(fm_index *index)
{
    if ((index->tensors.n + 1) * 2 <= index->table.n) {
        return FM_OK;
    }
    const int64_t size = index->table.n == 0 ? 64 : index->table.n * 2;
    int32_t *const table = fm_alloc_array(size, sizeof *table, FM_MEMORY_HOST);
    if (table == NULL) {
        return FM_ERR_MEMORY;
    }
    fm_free(index->table.data);
    index->table = (fm_index_array){ table, size, size };
    for (int64_t i = 0; i < index->tensors.n; i++) {
        *slot_of(index, fm_index_string(index, fm_index_get_tensor(index, i)->name)) = (int32_t)i + 1;
    }
    return FM_OK;
}

int fm_index_add_file(fm_index *index, const char *path, int64_t size_bytes)
{
    const int64_t name = add_string(index, path);
    fm_index_file *file = name < 0 ? NULL : append(&index->files, 1, sizeof *file);
    if (file == NULL) {
        return FM_ERR_MEMORY;
    }
    *file = (fm_index_file){ name, size_bytes, 0 };
    return (int)index->files.n - 1;
}

void fm_index_set_mtime(fm_index *index, int file, int64_t mtime_ns)
{
    ((fm_index_file *)index->files.data)[file].mtime_ns = mtime_ns;
}

int fm_index_add_tensor(fm_index *index, const char *name, const char *dtype_name, int dtype, int ndim, const int64_t *shape)
{
    if (index->tensors.n >= FM_INDEX_TENSORS) {
        return fm_fail(FM_ERR_FORMAT, "more than %d tensors", FM_INDEX_TENSORS);
    }
    FM_ASSERT(ndim >= 0 && ndim <= FM_INDEX_DIMS);
    fm_index_tensor made = { .dtype = dtype, .ndim = ndim, .rows = 1, .columns = 1 };
    for (int d = 0; d < ndim; d++) {
        made.shape[d] = shape[d];
        int64_t *const side = d == 0 ? &made.rows : &made.columns;
        if (shape[d] < 0 || __builtin_mul_overflow(*side, shape[d], side)) {
            return fm_fail(FM_ERR_FORMAT, "tensor %s: its shape overflows", name);
        }
    }
    int64_t elements, bits;
    if (__builtin_mul_overflow(made.rows, made.columns, &elements) || __builtin_mul_overflow(elements, (int64_t)64, &bits)) {
        return fm_fail(FM_ERR_FORMAT, "tensor %s: its shape overflows", name);
    }
    FM_TRY(grow_table(index));
    made.name = add_string(index, name);
    made.dtype_name = made.name < 0 ? FM_ERR_MEMORY : add_string(index, dtype_name);
    fm_index_tensor *place = made.dtype_name < 0 ? NULL : append(&index->tensors, 1, sizeof *place);
    if (place == NULL) {
        return FM_ERR_MEMORY;
    }
    *place = made;
    *slot_of(index, name) = (int32_t)index->tensors.n;
    return (int)index->tensors.n - 1;
}

int fm_index_add_slice(fm_index *index, const fm_index_slice *slice)
{
    fm_index_slice *place = append(&index->slices, 1, sizeof *place);
    if (place == NULL) {
        return FM_ERR_MEMORY;
    }
    *place = *slice;
    place->first_piece = index->pieces.n;
    place->n_pieces = 0;
    return (int)index->slices.n - 1;
}

int fm_index_add_piece(fm_index *index, const fm_index_piece *piece)
{
    fm_index_piece *place = append(&index->pieces, 1, sizeof *place);
    if (place == NULL) {
        return FM_ERR_MEMORY;
    }
    *place = *piece;
    ((fm_index_slice *)index->slices.data)[index->slices.n - 1].n_pieces++;
    return (int)index->pieces.n - 1;
}

/* The arrays that travel, in the order of the packed block: their counts first. */
enum { PACKED = 5 };

static void packed_arrays(const fm_index_array *out[PACKED], const fm_index *index)
{
    out[0] = &index->pool;
    out[1] = &index->files;
    out[2] = &index->tensors;
    out[3] = &index->slices;
    out[4] = &index->pieces;
}

static const size_t packed_bytes[PACKED] = {
    1, sizeof(fm_index_file), sizeof(fm_index_tensor), sizeof(fm_index_slice), sizeof(fm_index_piece),
};

int fm_index_pack(char **out, size_t *size_bytes, const fm_index *index)
{
    const fm_index_array *arrays[PACKED];
    packed_arrays(arrays, index);
    size_t total = PACKED * sizeof(int64_t);
    for (int i = 0; i < PACKED; i++) {
        total += ((size_t)arrays[i]->n * packed_bytes[i] + 7) / 8 * 8;
    }
    *out = fm_alloc(total, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    char *place = *out + PACKED * sizeof(int64_t);
    for (int i = 0; i < PACKED; i++) {
        const size_t bytes = (size_t)arrays[i]->n * packed_bytes[i];
        memcpy(*out + (size_t)i * sizeof(int64_t), &arrays[i]->n, sizeof(int64_t));
        if (bytes > 0) {
            memcpy(place, arrays[i]->data, bytes);
        }
        place += (bytes + 7) / 8 * 8;
    }
    *size_bytes = total;
    return FM_OK;
}

/* The tensor of `index` that `tensor` (whose strings lie in `pool`) is: there already, or added. */
static int merge_tensor(fm_index *index, const fm_index_tensor *tensor, const char *pool)
{
    const char *const name = pool + tensor->name;
    const int there = fm_index_find(index, name);
    if (there < 0) {
        return fm_index_add_tensor(index, name, pool + tensor->dtype_name, tensor->dtype, tensor->ndim, tensor->shape);
    }
    const fm_index_tensor *const other = fm_index_get_tensor(index, there);
    if (other->ndim != tensor->ndim || memcmp(other->shape, tensor->shape, sizeof other->shape) != 0 ||
        strcmp(fm_index_string(index, other->dtype_name), pool + tensor->dtype_name) != 0) {
        return fm_fail(FM_ERR_FORMAT, "tensor %s has one shape or dtype in one file and another in the next", name);
    }
    return there;
}

int fm_index_merge(fm_index *index, const char *packed, size_t size_bytes)
{
    int64_t n[PACKED];
    const char *data[PACKED];
    memcpy(n, packed, sizeof n);
    const char *place = packed + sizeof n;
    for (int i = 0; i < PACKED; i++) {
        data[i] = place;
        place += ((size_t)n[i] * packed_bytes[i] + 7) / 8 * 8;
    }
    FM_ASSERT(place == packed + size_bytes);
    const int64_t first_file = index->files.n;
    for (int64_t i = 0; i < n[1]; i++) {
        const fm_index_file *const file = (const fm_index_file *)(const void *)data[1] + i;
        const int made = fm_index_add_file(index, data[0] + file->name, file->size_bytes);
        FM_TRY(made);
        fm_index_set_mtime(index, made, file->mtime_ns);
    }
    int *const tensor_of = fm_alloc_array(n[2], sizeof *tensor_of, FM_MEMORY_HOST);
    int rc = tensor_of == NULL ? FM_ERR_MEMORY : FM_OK;
    for (int64_t i = 0; rc >= 0 && i < n[2]; i++) {
        rc = tensor_of[i] = merge_tensor(index, (const fm_index_tensor *)(const void *)data[2] + i, data[0]);
    }
    for (int64_t i = 0; rc >= 0 && i < n[3]; i++) {
        fm_index_slice slice = ((const fm_index_slice *)(const void *)data[3])[i];
        const fm_index_piece *const pieces = (const fm_index_piece *)(const void *)data[4] + slice.first_piece;
        const int n_pieces = slice.n_pieces;
        slice.tensor = tensor_of[slice.tensor];
        slice.file += (int)first_file;
        rc = fm_index_add_slice(index, &slice);
        for (int p = 0; rc >= 0 && p < n_pieces; p++) {
            rc = fm_index_add_piece(index, &pieces[p]);
        }
    }
    fm_free(tensor_of);
    return rc < 0 ? rc : FM_OK;
}

/* By tensor, then by place in the file. */
static int compare_slices(const void *left, const void *right)
{
    const fm_index_slice *const a = left, *const b = right;
    if (a->tensor != b->tensor) {
        return a->tensor < b->tensor ? -1 : 1;
    }
    if (a->file != b->file) {
        return a->file < b->file ? -1 : 1;
    }
    return (a->offset_bytes > b->offset_bytes) - (a->offset_bytes < b->offset_bytes);
}

static int compare_pieces(const void *left, const void *right)
{
    const fm_index_piece *const a = left, *const b = right;
    if (a->start[0] != b->start[0]) {
        return a->start[0] < b->start[0] ? -1 : 1;
    }
    return (a->start[1] > b->start[1]) - (a->start[1] < b->start[1]);
}

/* The pieces of one tensor, sorted by their rows: inside, disjoint and (with `whole`) all of it. */
static int check_cover(const fm_index *index, const fm_index_tensor *tensor, fm_index_piece *pieces, int64_t n, bool whole,
                       const char *name)
{
    const char *const tensor_name = fm_index_string(index, tensor->name);
    int64_t covered = 0;
    qsort(pieces, (size_t)n, sizeof *pieces, compare_pieces);
    for (int64_t i = 0; i < n; i++) {
        const fm_index_piece *const a = &pieces[i];
        const int64_t limit[2] = { tensor->rows, tensor->columns };
        for (int d = 0; d < 2; d++) {
            if (a->start[d] < 0 || a->count[d] < 0 || a->start[d] > limit[d] || a->count[d] > limit[d] - a->start[d]) {
                return fm_fail(FM_ERR_FORMAT, "%s: tensor %s: a slice of %lld from %lld leaves its extent of %lld", name,
                               tensor_name,
                               (long long)a->count[d], (long long)a->start[d], (long long)limit[d]);
            }
        }
        covered += a->count[0] * a->count[1];
        for (int64_t j = i + 1; j < n && pieces[j].start[0] < a->start[0] + a->count[0]; j++) {
            const fm_index_piece *const b = &pieces[j];
            const bool empty = b->count[0] == 0 || b->count[1] == 0 || a->count[1] == 0;
            if (!empty && b->start[1] < a->start[1] + a->count[1] && a->start[1] < b->start[1] + b->count[1]) {
                return fm_fail(FM_ERR_FORMAT, "%s: tensor %s: two slices both hold its row %lld", name, tensor_name,
                               (long long)b->start[0]);
            }
        }
    }
    if (whole && covered != tensor->rows * tensor->columns) {
        return fm_fail(FM_ERR_FORMAT, "%s: tensor %s: %lld of its %lld elements are there: a file is missing or was cut", name,
                       tensor_name, (long long)covered, (long long)(tensor->rows * tensor->columns));
    }
    return FM_OK;
}

int fm_index_seal(fm_index *index, bool whole, const char *name)
{
    fm_index_slice *const slices = index->slices.data;
    if (index->slices.n > 0) {
        qsort(slices, (size_t)index->slices.n, sizeof *slices, compare_slices);
    }
    fm_index_piece *const sorted = fm_alloc_array(index->pieces.n, sizeof *sorted, FM_MEMORY_HOST);
    int rc = sorted == NULL ? FM_ERR_MEMORY : FM_OK;
    int64_t next = 0;
    for (int64_t t = 0; rc == FM_OK && t < index->tensors.n; t++) {
        fm_index_tensor *const tensor = (fm_index_tensor *)index->tensors.data + t;
        tensor->first_slice = next;
        int64_t n_pieces = 0;
        for (; next < index->slices.n && slices[next].tensor == t; next++) {
            for (int p = 0; p < slices[next].n_pieces; p++) {
                sorted[n_pieces++] = *fm_index_get_piece(index, slices[next].first_piece + p);
            }
        }
        tensor->n_slices = next - tensor->first_slice;
        rc = check_cover(index, tensor, sorted, n_pieces, whole, name);
    }
    fm_free(sorted);
    return rc;
}
