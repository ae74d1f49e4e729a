/* The table of a source: which bytes of which files are which parts of which tensors. A safetensors header and the attributes of
 * a shard set both become one of these; everything that reads data goes by it alone. All functions are local. */
#ifndef FM_CKPT_INDEX_H
#define FM_CKPT_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "tensor/dtype.h"

enum { FM_INDEX_DIMS = 8, FM_INDEX_TENSORS = 1 << 20 };

/* A file. `name` is an offset into the pool of strings, here and below. */
typedef struct {
    int64_t name;                      /* its path */
    int64_t size_bytes;
    int64_t mtime_ns;                  /* when its table was read; 0: not known */
} fm_index_file;

/* A tensor. For reading it is folded to rows x columns: shape[0] x the product of the rest (a vector has one column). */
typedef struct {
    int64_t name;
    int64_t dtype_name;                /* as the file says it */
    int dtype;                         /* enum fm_dtype; FM_DTYPES: one that finemesh cannot compute with */
    int ndim;
    int64_t shape[FM_INDEX_DIMS];
    int64_t rows, columns;
    int64_t first_slice, n_slices;     /* set by fm_index_seal */
} fm_index_tensor;

/* A dense run of bytes of one file: the part of a tensor that one dataset, or one safetensors entry, holds. */
typedef struct {
    int tensor, file;
    int64_t offset_bytes, size_bytes;
    uint32_t crc32;
    bool has_crc;
    int n_pieces;
    int64_t first_piece;
} fm_index_slice;

/* A hyperslab of the (folded) tensor inside a slice. */
typedef struct {
    int64_t offset_bytes;              /* of its first element in the file */
    int64_t pitch;                     /* elements from one of its rows to the next in the file */
    int64_t start[2], count[2];
} fm_index_piece;

/* A growing array. */
typedef struct {
    void *data;
    int64_t n, capacity;
} fm_index_array;

/* Begins as zeros; ends with fm_index_clear. */
typedef struct {
    fm_index_array pool;               /* char: the strings, each with its 0 byte */
    fm_index_array files, tensors, slices, pieces;
    fm_index_array table;              /* int32_t: open addressing by name, index + 1 of a tensor; a power of two */
} fm_index;

void fm_index_clear(fm_index *index);

/* Element i of each array; no check. */
const fm_index_file *fm_index_get_file(const fm_index *index, int64_t i);
const fm_index_tensor *fm_index_get_tensor(const fm_index *index, int64_t i);
const fm_index_slice *fm_index_get_slice(const fm_index *index, int64_t i);
const fm_index_piece *fm_index_get_piece(const fm_index *index, int64_t i);
const char *fm_index_string(const fm_index *index, int64_t offset);

/* A tensor by name; -1: not there. */
int fm_index_find(const fm_index *index, const char *name);

/* Appends. The new index is returned; negative: FM_ERR_MEMORY, or FM_ERR_FORMAT for more than FM_INDEX_TENSORS tensors or a shape
 * whose elements overflow. fm_index_add_slice appends a slice that begins with no pieces; pieces belong to the last slice. */
int fm_index_add_file(fm_index *index, const char *path, int64_t size_bytes);
void fm_index_set_mtime(fm_index *index, int file, int64_t mtime_ns);
int fm_index_add_tensor(fm_index *index, const char *name, const char *dtype_name, int dtype, int ndim, const int64_t *shape);
int fm_index_add_slice(fm_index *index, const fm_index_slice *slice);
int fm_index_add_piece(fm_index *index, const fm_index_piece *piece);

/* One block of bytes that holds it all, and its way back into an index (that may already hold something: tensors of the same name
 * become one; where they differ in dtype or shape that is an error). The caller frees *out with fm_free. */
int fm_index_pack(char **out, size_t *size_bytes, const fm_index *index);
int fm_index_merge(fm_index *index, const char *packed, size_t size_bytes);

/* Groups the slices by tensor. Pieces that leave their tensor or overlap are errors; with `whole` holes are too. `name` says in
 * errors where it all was. */
int fm_index_seal(fm_index *index, bool whole, const char *name);

#endif
