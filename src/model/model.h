/* A model on its mesh: parameters of this rank, the workspaces of its passes, and the functions that run one stage of it. Below the
 * public header: everything that trains, loads or saves a model works on this struct. */
#ifndef FM_MODEL_MODEL_H
#define FM_MODEL_MODEL_H

#include "mesh/comm.h"
#include "model/block.h"
#include "model/config.h"
#include "parallel/fsdp.h"
#include "parallel/layout.h"

/* A sum that a parameter's gradient still needs when all microbatches are done (dp_replicate's comes after it). */
enum fm_param_sum {
    FM_SUM_NONE,
    FM_SUM_TP,                         /* replicated under tp, but every rank saw only its heads or its tokens */
    FM_SUM_KV_REPLICAS,                /* a key/value head that several tp ranks hold */
    FM_SUM_ENDS                        /* tied embedding of a pipeline: both ends hold it */
};

/* A parameter of this rank. Its shard is tensor `index` of unit `unit`. */
typedef struct {
    int tensor;                        /* in the layout */
    enum fm_role role;
    int unit, index;
    enum fm_param_sum sum;
    fm_slice slice;
} fm_param;

/* Optimizer states of a unit's shard; NULL where there are none. */
typedef struct {
    void *master;                      /* NULL: the weights are updated themselves */
    void *exp_avg, *exp_avg_sq;
} fm_unit_states;

/* How a model is to be held. */
typedef struct {
    enum fm_dtype dtype;               /* of compute */
    bool trains;                       /* gradients are needed */
    enum fm_dtype master_dtype;        /* what the optimizer updates; equal to dtype: no copy */
    enum fm_dtype state_dtype;
    bool without_states;               /* gradients, but no optimizer's arrays: the caller updates the weights */
    enum fm_dtype reduce_dtype;        /* of gradient sums between ranks */
    bool sequence_parallel;
    enum fm_keep keep;
} fm_model_setup;

/* A microbatch of this rank: B rows of T tokens (after the cut by cp). Arrays are on the host, [B, T]. */
typedef struct {
    int B;
    int64_t T;
    int64_t padded_T;                  /* of the whole row, before cp: what dynamic rope looks at */
    const int32_t *ids, *labels;       /* labels are shifted; -100 is ignored */
    const int32_t *position, *document;
    int64_t row_T;                     /* tokens of the whole row, padded for cp */
    const int32_t *row_position, *row_document;   /* [B, row_T] of the whole row: which keys there are; without cp the same arrays */
    bool only_loss;                    /* validation: no backward pass will follow */
} fm_microbatch;

/* Activations of one (microbatch, chunk), from its forward to the end of its backward pass. */
typedef struct {
    int B;
    int64_t T, padded_T, row_T;
    bool plain;                        /* every row is one document without padding, all of it on this rank */
    bool with_gradients;               /* the model trains, and this is no validation */
    int32_t *ids, *labels, *position, *document;   /* on the device */
    int32_t *row_position, *row_document;
    int64_t n_labelled;                /* tokens with a label */
    int32_t *labelled, *labelled_ids;  /* their rows, and their labels */
    fm_block_saved *blocks;            /* [layers of the chunk] */
    fm_block_grads *grads;             /* [layers]; one shared by all where the weight part follows at once */
    void **dx;                         /* [layers + 1] gradient of each block's input; the last: of `out` */
    void *out;                         /* [S, C] of the last block: what the head or the next stage gets */
    float *rstd_out;                   /* [S] of the final norm */
    void *memory;
} fm_slot;

/* A model chunk: a run of layers, with or without the ends. */
typedef struct {
    int first_layer, n_layers;
    bool has_embedding, has_head;
} fm_chunk;

/* Buffers of the head, for so many labelled rows at most. */
typedef struct {
    int64_t rows;                      /* capacity in labelled rows */
    int64_t chunk_rows;                /* rows whose logits exist at a time */
    int64_t chunk_words;               /* words of the largest vocabulary chunk */
    void *h;                           /* [N padded, C] final norm's output, all rows */
    void *h_local;                     /* [S, C] */
    void *x;                           /* [rows, C] labelled rows of it */
    float *dx;                         /* [rows, C] gradient of them */
    float *dh_all;                     /* [N padded, C] scattered back */
    void *dh;                          /* [N padded, C] in the compute dtype */
    float *logits;                     /* [chunk_rows, chunk_words] */
    void *dlogits;                     /* the same in the compute dtype; logits itself where that is fp32 */
    float *max, *global_max, *sum_label;   /* [rows], [rows], [2 rows]: sums, then label logits */
} fm_head_workspace;

typedef struct fm_model {
    fm_config config;
    fm_model_setup setup;
    int n_tensors;
    fm_tensor_spec *tensors;
    int *stage_of_layer;
    fm_layout layout;
    fm_groups *groups;                 /* borrowed */
    fm_coord coord;
    fm_compute *compute;               /* borrowed */

    int n_params;
    fm_param *params;
    int n_units;
    fm_fsdp_unit *units;
    fm_unit_states *states;            /* [n_units] */
    fm_fsdp *fsdp;
    int *unit_of_layer;                /* [L] -1: not on this stage */
    int embedding_unit, norm_unit, head_unit;   /* -1: not on this stage; tied on one stage: the same unit */
    fm_range vocabulary;               /* rows of embedding and head on this tp rank */

    int n_chunks;
    fm_chunk *chunks;

    /* for at most max_B rows of max_T tokens */
    fm_block block;
    double *loss;                      /* on the device: sum over the labelled tokens of a pass; the last stage's */
    double *squares;                   /* [n_params] on the device: of gradients */
    int max_B;
    int64_t max_T;
    int n_slots;
    fm_slot *slots;
    bool split_backward;               /* weight parts may come later: every layer keeps its gradients */
    void *workspace;                   /* of the block, the head, and shared activations */
    void *flow[2];                     /* [S, C] gradients between blocks, where they need not be kept */
    void *shared_saved;                /* activations that are made again */
    float *cos, *sin;                  /* [positions, rotary_dim / 2] */
    int64_t rope_positions, rope_T;    /* what the tables hold */
    fm_head_workspace head;            /* where the final norm is */
} fm_model;

/* Puts the model of `config` (copied; its windows are taken over) on the mesh of `groups`: decides units and parameters, but allocates
 * none of them. tensors: from fm_config_tensors, dtypes set to the checkpoint's; taken over. stage_of_layer [L]: taken over; chunks
 * [n_chunks] of this rank: copied. Local. Free with fm_model_destroy. */
int fm_model_new(fm_model **out, fm_config *config, fm_tensor_spec *tensors, int n_tensors, int *stage_of_layer, const fm_chunk *chunks,
                 int n_chunks, fm_groups *groups, fm_compute *compute, const fm_model_setup *setup);
void fm_model_destroy(fm_model *model);

/* What the passes must be prepared for: microbatches of at most B rows of T tokens on this rank, of rows of at most padded_T tokens;
 * n_slots (microbatch, chunk) pairs at a time; split_backward: input and weight parts come apart. */
typedef struct {
    int B;
    int64_t T, padded_T;               /* padded_T: of the whole row, rounded up for cp */
    int n_slots;
    bool split_backward;
} fm_model_reserve_spec;

/* Bytes by kind that this rank will allocate for parameters, gradients, states and passes. The same arithmetic as the allocation's own;
 * only the GEMM library's scratchpads are estimated. Local. */
void fm_model_estimate(size_t bytes[FM_MEMORY_KINDS], const fm_model *model, const fm_model_reserve_spec *spec);

/* Allocates parameters, gradients and states, zeroed, and FSDP's slots. Local. */
int fm_model_allocate(fm_model *model);

/* Allocates activations and workspaces. Local. */
int fm_model_reserve(fm_model *model, const fm_model_reserve_spec *spec);

/* Shard of a parameter: element pointers into the unit's arrays, and the number of elements. */
typedef struct {
    void *weight;                      /* setup.dtype */
    void *master, *exp_avg, *exp_avg_sq;   /* NULL where there are none */
    float *gradient;
    int64_t elements;                  /* of the local slice */
} fm_param_view;
fm_param_view fm_model_param(const fm_model *model, int param);

/* Parameter by HF name; -1 where this rank does not hold it. Local. */
int fm_model_find_param(const fm_model *model, const char *name);

/* Sets one local slice from numbers of another dtype (dense, local_shape), in weights and masters. Local. */
int fm_model_set_param(fm_model *model, int param, const void *data, enum fm_dtype dtype);

/* Copies a microbatch into a slot and prepares the block for its shape. Local. */
int fm_model_begin(fm_model *model, fm_slot *slot, const fm_chunk *chunk, const fm_microbatch *batch);

/* Prepares the block for the shape of a slot (several slots may be in flight). Local. */
int fm_model_select(fm_model *model, const fm_slot *slot);

/* Rows of activations that travel between stages: [rows, C] of setup.dtype. Local. */
int64_t fm_model_boundary_rows(const fm_model *model, const fm_slot *slot);

/* Forward of a chunk. Without the embedding, slot->blocks[0].x holds what came from the stage before. With the head: *model->loss +=,
 * and (where the model trains) dx[n_layers] and the head's gradients, each token weighing `scale`. Collective on tp, fsdp, cp of the
 * stage. */
int fm_stage_forward(fm_model *model, const fm_chunk *chunk, fm_slot *slot, float scale);

/* Backward of a chunk from dx[n_layers] to dx[0] (and the embedding). with_weights: also the weight part, block by block. */
int fm_stage_backward_input(fm_model *model, const fm_chunk *chunk, fm_slot *slot, bool with_weights);

/* The weight part alone, after the input part. Where activations are made again (keep), the input part has done it already. */
int fm_stage_backward_weight(fm_model *model, const fm_chunk *chunk, fm_slot *slot);

#endif
