/* One source of tensors: an HF directory, a shard set and a checkpoint are read through the same functions. */
#ifndef FM_CKPT_SOURCE_H
#define FM_CKPT_SOURCE_H

#include "mesh/comm.h"
#include "parallel/layout.h"

typedef struct fm_source fm_source;

/* What a source says of a tensor. */
typedef struct {
    const char *name;                  /* borrowed from the source */
    enum fm_dtype dtype;
    int ndim;
    int64_t shape[8];
} fm_source_tensor;

/* Opens an HF directory: model.safetensors or the files of model.safetensors.index.json. Rank 0 of `world` reads and checks the
 * headers and broadcasts them. Hostile files are refused: lengths, offsets, overlaps, dtypes, shapes, duplicates, path traversal.
 * Collective on world (NULL: one rank). */
int fm_source_open_hf(fm_source **out, const char *dir, fm_comm *world);

/* Opens a shard set (rank-NNNNN.h5 of any mesh, by their attributes). Collective on world. */
int fm_source_open_shards(fm_source **out, const char *dir, fm_comm *world);

void fm_source_close(fm_source *source);

int fm_source_count(const fm_source *source);
const fm_source_tensor *fm_source_get(const fm_source *source, int index);
int fm_source_find(const fm_source *source, const char *name);   /* -1: not there */

/* Reads a hyperslab (ndim 1 or 2, row-major, dense) of the tensor's own dtype into out. Local. */
int fm_source_read(fm_source *source, void *out, int tensor, const int64_t *start, const int64_t *count);

/* Bytes read from files so far, and the number of requests. Local. */
int64_t fm_source_bytes_read(const fm_source *source);
int64_t fm_source_requests(const fm_source *source);

/* A rank's slice of one tensor, whole, in the source's dtype: out is the local array (local_shape of the slice, dense). Where tp cuts
 * columns, the tp peers read rows and exchange columns (so it is collective on tp); else local. `tp` NULL: reads alone. */
int fm_source_read_slice(fm_source *source, void *out, int tensor, const fm_layout *layout, int layout_tensor,
                         const fm_coord *coord, fm_comm *tp);

#endif
