/* The mesh: five dimensions laid over the ranks of a run, outermost first. Everything here is pure arithmetic; no function
 * communicates, so that any mesh can be imagined on one rank. */
#ifndef FINEMESH_MESH_H
#define FINEMESH_MESH_H

#include <stdbool.h>

#include "finemesh/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/* tp is fastest, so that tensor-parallel peers are neighbours. */
enum fm_dim { FM_PP, FM_DP_REPLICATE, FM_DP_SHARD, FM_CP, FM_TP, FM_DIMS };

/* Extents of a mesh; each >= 1. */
typedef struct {
    int size[FM_DIMS];
} fm_mesh_shape;

/* Where one rank stands: 0 <= at[d] < size[d]. */
typedef struct {
    int at[FM_DIMS];
} fm_coord;

/* The sizes that people give, as in NeMo AutoModel. 0 in dp_size: what is left of the ranks. A struct of zeros means: dp only.
 * (0 in any other size counts as 1.) */
typedef struct {
    int pp_size, dp_size, dp_replicate_size, cp_size, tp_size, ep_size;
} fm_mesh_sizes;

/* "pp", "dp_replicate", ... Local; static storage. */
const char *fm_dim_name(enum fm_dim dim);

/* Sizes -> shape for n_ranks. Local. Error FM_ERR_JOB, with the arithmetic in it and the nearest legal sizes, where they do
 * not fit. */
int fm_mesh_from_sizes(fm_mesh_shape *out, const fm_mesh_sizes *sizes, int n_ranks);

/* Checks an explicit mesh: every extent >= 1, product = n_ranks. Local. */
int fm_mesh_check(const fm_mesh_shape *shape, int n_ranks);

/* Number of ranks of the mesh, and of its FSDP group (dp_shard x cp), data-parallel group (dp_replicate x dp_shard). Local. */
int fm_mesh_ranks(const fm_mesh_shape *shape);
int fm_mesh_fsdp_size(const fm_mesh_shape *shape);
int fm_mesh_dp_size(const fm_mesh_shape *shape);

/* World rank <-> coordinate. Local. */
fm_coord fm_mesh_coord(const fm_mesh_shape *shape, int rank);
int fm_mesh_rank(const fm_mesh_shape *shape, const fm_coord *coord);

/* Index in the FSDP group: dp_shard * cp_size + cp. Index in the data-parallel group: dp_replicate * dp_shard_size + dp_shard. */
int fm_mesh_fsdp_index(const fm_mesh_shape *shape, const fm_coord *coord);
int fm_mesh_dp_index(const fm_mesh_shape *shape, const fm_coord *coord);

/* "pp 1 x dp_replicate 1 x dp_shard 2 x cp 1 x tp 2" into out[out_bytes]. Local. */
void fm_mesh_print(char *out, int out_bytes, const fm_mesh_shape *shape);

#ifdef __cplusplus
}
#endif
#endif
