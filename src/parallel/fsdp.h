/* Fully sharded data parallelism: every rank of a group keeps a chunk of rows of each tensor; a unit (a transformer block, the
 * final norm) is gathered when it is needed and its gradients are reduce-scattered when they are complete. The vocabulary matrices
 * are never gathered whole: chunk j is the shard of rank j, broadcast by it, and its gradient is reduced to it.
 *
 * Nothing here knows what a tensor is for. Where the group is one rank, shard and gathered tensor are one and the same memory and
 * nothing is sent. At most two units are gathered at a time. */
#ifndef FM_PARALLEL_FSDP_H
#define FM_PARALLEL_FSDP_H

#include "mesh/comm.h"
#include "tensor/device.h"

/* A tensor of a unit, after tp: [rows, columns], rows cut into chunks of chunk_rows. */
typedef struct {
    int64_t rows, columns;
    int64_t chunk_rows;                /* ceil(rows / ranks) */
    int64_t local_rows;                /* of this rank: chunk_rows, fewer or 0 */
    int64_t shard_at;                  /* element offset in the unit's shard; chunk_rows * columns elements are there */
    int64_t gathered_at;               /* element offset in the gathered unit; ranks * chunk_rows * columns elements */
} fm_fsdp_tensor;

/* A unit: tensors that are gathered together. The shard arrays have shard_elements elements each. */
typedef struct {
    int n_tensors;
    fm_fsdp_tensor *tensors;
    bool by_chunks;                    /* vocabulary: one tensor, never gathered whole */
    bool frozen;                       /* no gradient */
    int64_t shard_elements, gathered_elements;
    void *weight;                      /* shard, compute dtype */
    float *gradient;                   /* shard, fp32; NULL where frozen */
    bool gradient_is_fresh;            /* nothing has been added to it in this step */
} fm_fsdp_unit;

typedef struct fm_fsdp fm_fsdp;

/* Fills in the offsets and sizes of a unit from rows and columns of its tensors. Local. */
void fm_fsdp_unit_plan(fm_fsdp_unit *unit, int ranks, int rank);

/* Bytes of the slots that fm_fsdp_new will allocate. Local. */
size_t fm_fsdp_slot_bytes(const fm_fsdp_unit *units, int n_units, int ranks, enum fm_dtype dtype, enum fm_dtype reduce_dtype);

/* Makes the slots for units[n_units] (borrowed, planned, allocated) over a group. Gradients are summed between ranks in reduce_dtype and
 * added up over microbatches in fp32. Local. */
int fm_fsdp_new(fm_fsdp **out, fm_fsdp_unit *units, int n_units, fm_comm *group, fm_device *device, enum fm_dtype dtype,
                enum fm_dtype reduce_dtype);
void fm_fsdp_destroy(fm_fsdp *fsdp);

/* Starts gathering a unit, if a slot is free and it is not there. A hint; u outside [0, n_units) is ignored. Collective on the group
 * in the sense that all of its ranks must make the same calls in the same order. */
int fm_fsdp_prefetch(fm_fsdp *fsdp, int u);

/* The gathered unit, waited for; tensor i lies at gathered_at. Valid until the release. */
int fm_fsdp_acquire(fm_fsdp *fsdp, int u, void **weights);
void fm_fsdp_release(fm_fsdp *fsdp, int u);

/* Where the gradient of a gathered unit goes: fp32, tensor i at gathered_at. *fresh: nothing is there yet, all of it must be written. */
int fm_fsdp_gradient_begin(fm_fsdp *fsdp, int u, float **gradient, bool *fresh);

/* The gradient is complete for this microbatch: begins its reduce-scatter into the shard. */
int fm_fsdp_gradient_end(fm_fsdp *fsdp, int u);

/* Waits until all gradients have arrived in the shards. */
int fm_fsdp_gradient_finish(fm_fsdp *fsdp);

/* Vocabulary units: the number of chunks (ranks of the group; 1 alone), and rows of chunk j. Local. */
int fm_fsdp_chunks(const fm_fsdp *fsdp);
void fm_fsdp_chunk_rows(const fm_fsdp *fsdp, int u, int j, int64_t *start, int64_t *count);

/* As prefetch, acquire and release, of chunk j: [count, columns]. */
int fm_fsdp_chunk_prefetch(fm_fsdp *fsdp, int u, int j);
int fm_fsdp_chunk_acquire(fm_fsdp *fsdp, int u, int j, void **weights);
void fm_fsdp_chunk_release(fm_fsdp *fsdp, int u, int j);

/* Where the gradient of chunk j goes, zeroed or (alone) the shard's own: always add. End: begins its reduction to rank j. */
int fm_fsdp_chunk_gradient_begin(fm_fsdp *fsdp, int u, int j, float **gradient);
int fm_fsdp_chunk_gradient_end(fm_fsdp *fsdp, int u, int j);

/* Lets pending transfers move; nothing where none are pending. */
void fm_fsdp_progress(fm_fsdp *fsdp);

/* Seconds spent waiting for transfers since the last call. Local. */
double fm_fsdp_take_waited_s(fm_fsdp *fsdp);

#endif
