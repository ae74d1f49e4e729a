/* The layout: which slice of tensor t does mesh coordinate c hold?
 *
 * One pure function answers (fm_layout_slice). Conversion, resharding, export, allocation, FSDP and the planner ask it; none of
 * them computes a slice itself. Nothing here communicates or allocates tensors.
 *
 * Order of cuts: the pipeline chooses whole tensors; tensor parallelism cuts one axis; FSDP cuts axis 0 of what is left into
 * chunks of ceil(rows / parts) over dp_shard x cp (torch.chunk; the last ones shorter or empty). dp_replicate cuts nothing. */
#ifndef FM_PARALLEL_LAYOUT_H
#define FM_PARALLEL_LAYOUT_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "finemesh/mesh.h"
#include "tensor/dtype.h"

enum { FM_MAX_DIMS = 2, FM_MAX_PIECES = 4, FM_NAME_BYTES = 192 };

/* How tp divides an extent. All are measured in elements of the axis. */
enum fm_split {
    FM_SPLIT_NONE,     /* every tp rank holds all of it */
    FM_SPLIT_EVEN,     /* numpy.array_split: F and V */
    FM_SPLIT_QUERY,    /* query heads, D elements a head: with their key/value groups */
    FM_SPLIT_KV        /* key/value heads, D elements a head: several ranks may hold one */
};

/* Half-open interval of elements or heads. */
typedef struct {
    int64_t start, count;
} fm_range;

/* A part of a tensor's cut axis. Ordinary tensors have one; a fused qkv has three, a fused gate_up two. */
typedef struct {
    int64_t start, count;
    enum fm_split split;
} fm_piece;

/* Pipeline place of a tensor. */
enum fm_place { FM_PLACE_LAYER, FM_PLACE_EMBEDDING, FM_PLACE_HEAD, FM_PLACE_TIED };

/* A tensor of the model as the checkpoint names it, whatever the mesh. */
typedef struct {
    char name[FM_NAME_BYTES];
    enum fm_dtype dtype;               /* of the checkpoint */
    int ndim;
    int64_t shape[FM_MAX_DIMS];
    int cut_axis;                      /* the axis that tp cuts; -1: none */
    int n_pieces;                      /* of the cut axis; 0 where cut_axis is -1 */
    fm_piece pieces[FM_MAX_PIECES];
    enum fm_place place;
    int layer;                         /* FM_PLACE_LAYER: 0 .. L-1, else -1 */
    int role;                          /* what the model uses it for: enum fm_role of model/config.h */
} fm_tensor_spec;

/* The heads of a model: what FM_SPLIT_QUERY and FM_SPLIT_KV count. */
typedef struct {
    int n_heads, n_kv_heads, head_dim;
} fm_head_counts;

/* All that a layout depends on. Plain; the arrays are borrowed. */
typedef struct {
    fm_mesh_shape mesh;
    fm_head_counts heads;
    int n_layers;
    int n_tensors;
    const fm_tensor_spec *tensors;
    const int *stage_of_layer;         /* [n_layers] pp coordinate of each layer; NULL: all on stage 0 (pp = 1) */
} fm_layout;

/* A hyperslab of the global tensor, and where its first element lies in the holder's local array (after the FSDP cut). */
typedef struct {
    int64_t start[FM_MAX_DIMS];
    int64_t count[FM_MAX_DIMS];
    int64_t local_start[FM_MAX_DIMS];
    bool owned;                        /* pieces differ: a fused qkv has query rows of its own beside replicated key/value rows */
} fm_slab;

/* What one coordinate holds of one tensor. The local array has shape local_shape (row-major) and is the union of the slabs. */
typedef struct {
    bool held;                         /* false: the tensor lives on other pipeline stages */
    bool owner;                        /* the lowest coordinate in every dimension that replicates it: only owners write. False where
                                          the local array is empty; with several pieces, whether any slab is owned: write those */
    int n_replicas;                    /* coordinates that hold the same slice, this one too; of several pieces, the least */
    int ndim;
    int n_slabs;                       /* 0 where the local array is empty */
    fm_slab slabs[FM_MAX_PIECES];
    int64_t local_shape[FM_MAX_DIMS];  /* after tp and FSDP */
    int64_t tp_shape[FM_MAX_DIMS];     /* after tp, before FSDP: what a gathered tensor is */
    int64_t chunk_rows;                /* ceil(tp_shape[0] / fsdp ranks): rows that every FSDP contribution is padded to */
} fm_slice;

/* Part `index` of n elements in `parts` as numpy.array_split divides them: the first n % parts are one longer. Local. */
fm_range fm_split_even(int64_t n, int parts, int index);

/* Query and key/value heads of tp rank `rank` of `size`. With size <= n_kv_heads: array_split of the key/value heads with their
 * query heads. With more ranks than key/value heads: head k goes to a run of consecutive ranks (array_split of the ranks over the
 * heads), its query heads are array_split over the run; every rank has one key/value head. size > n_heads is the caller's error. Local. */
void fm_split_heads(fm_range *query, fm_range *kv, const fm_head_counts *heads, int size, int rank);

/* The run of tp ranks that hold the same key/value head as `rank`: [start, start + count). Local. */
fm_range fm_kv_replicas(const fm_head_counts *heads, int size, int rank);

/* The one question. Local, pure. */
void fm_layout_slice(fm_slice *out, const fm_layout *layout, int tensor, const fm_coord *coord);

/* Finds a tensor by name; -1 where there is none. Local, linear. */
int fm_layout_find(const fm_layout *layout, const char *name);

/* Elements of a tensor, of a slab. Local. */
int64_t fm_tensor_elements(const fm_tensor_spec *tensor);
int64_t fm_slab_elements(const fm_slab *slab, int ndim);

/* Whether the model can be laid on the mesh: tp <= query heads, F >= tp, V >= tp; pp <= layers. Error FM_ERR_JOB, in words. Local. */
int fm_layout_check(const fm_layout *layout);

#endif
