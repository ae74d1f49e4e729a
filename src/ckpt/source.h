/* One source of tensors: an HF directory, a shard set and a checkpoint are read through the same functions. Opening makes a
 * table (ckpt/index.h) of which bytes are what; reading goes by it with plain preads: no HDF5 call is made after the opening. */
#ifndef FM_CKPT_SOURCE_H
#define FM_CKPT_SOURCE_H

#include "ckpt/index.h"
#include "mesh/comm.h"
#include "parallel/layout.h"

typedef struct fm_source fm_source;

/* What a source says of a tensor. */
typedef struct {
    const char *name;                  /* borrowed from the source; optimizer states are "exp_avg/NAME" ... */
    enum fm_dtype dtype;               /* FM_DTYPES: one that finemesh cannot compute with; dtype_name says which */
    const char *dtype_name;            /* as the file says it */
    int ndim;
    int64_t shape[FM_INDEX_DIMS];
} fm_source_tensor;

/* Opens an HF directory: model.safetensors or the files of model.safetensors.index.json. Rank 0 of `world` reads and checks the
 * headers and broadcasts them. Hostile files are refused: lengths, offsets, overlaps, dtypes, shapes, duplicates, path traversal.
 * Collective on world (NULL: one rank). */
int fm_source_open_hf(fm_source **out, const char *dir, fm_comm *world);

/* Opens a shard set (rank-NNNNN.h5 of any mesh, by their attributes); the ranks of `world` read the files' tables in turns and
 * exchange them. Missing, truncated or lying files are errors. Collective on world (NULL: one rank). */
int fm_source_open_shards(fm_source **out, const char *dir, fm_comm *world);

/* A shard set where there is a manifest.json, else an HF directory. Collective on world. */
int fm_source_open(fm_source **out, const char *dir, fm_comm *world);

void fm_source_close(fm_source *source);

int fm_source_count(const fm_source *source);
const fm_source_tensor *fm_source_get(const fm_source *source, int index);
int fm_source_find(const fm_source *source, const char *name);   /* -1: not there */

/* The table behind it, for listings. Borrowed. */
const fm_index *fm_source_index(const fm_source *source);

/* Reads a hyperslab (ndim 1 or 2, row-major, dense) of the tensor's own dtype into out. Where it covers a whole slice that has a
 * CRC, that is checked. Columns of a wider file are picked from whole rows, read in bands of a few MiB. Local. */
int fm_source_read(fm_source *source, void *out, int tensor, const int64_t *start, const int64_t *count);

/* Bytes read from files so far, and the number of requests. Local. */
int64_t fm_source_bytes_read(const fm_source *source);
int64_t fm_source_requests(const fm_source *source);

/* A rank's slice of one tensor, whole, in the source's dtype: out is the local array (local_shape of the slice, dense). Where tp
 * cuts columns, the tp peers read rows and exchange columns (so it is collective on tp); else local. `tp` NULL: reads alone.
 * Errors: the tensor's shape is not the layout's; a dtype that is no float. */
int fm_source_read_slice(fm_source *source, void *out, int tensor, const fm_layout *layout, int layout_tensor,
                         const fm_coord *coord, fm_comm *tp);

/* The same for rows [first_row, first_row + n_rows) of the local array, for callers that stream; the tp peers give the same
 * rows. */
int fm_source_read_rows(fm_source *source, void *out, int tensor, const fm_layout *layout, int layout_tensor,
                        const fm_coord *coord, fm_comm *tp, int64_t first_row, int64_t n_rows);

/* Says that the rank's slice of a tensor will be read soon: the system may fetch it meanwhile. Local; nothing waits, nothing
 * fails. */
void fm_source_expect(fm_source *source, int tensor, const fm_layout *layout, int layout_tensor, const fm_coord *coord);

/* Reads everything that has a CRC and compares; the ranks of `world` share the work. The error names file and tensor.
 * Collective on world (NULL: one rank). */
int fm_source_verify(fm_source *source, fm_comm *world);

#endif
