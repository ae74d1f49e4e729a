/* One decoder block: the hand-written forward and backward pass that every family uses; the family's options choose what is there.
 *
 * Backward is two functions: the input part (dx, what the block before waits for) and the weight part (gradients of parameters),
 * so that a pipeline schedule may put time between them. Both work on an explicit struct of saved activations. */
#ifndef FM_MODEL_BLOCK_H
#define FM_MODEL_BLOCK_H

#include "model/config.h"
#include "ops/compute.h"
#include "parallel/context.h"
#include "parallel/fsdp.h"
#include "parallel/region.h"

/* Local extents of a block on this rank. */
typedef struct {
    int64_t C, F;                      /* model width; feed-forward width after tp */
    int H, K, D;                       /* query and key/value heads after tp; head width */
    int64_t Q;                         /* (H + 2 K) D: a row of q, k and v */
    int rotary_dim;
    bool qk_norm, qkv_bias, o_bias, mlp_bias;
    bool attention_is_whole, mlp_is_whole;   /* this half is not cut over tp: every rank computes all of it, and nothing is summed */
    double norm_eps;
    float scale;                       /* of attention scores */
} fm_block_dims;

/* Gathered weights and gradients of a block by role; NULL where the family has none. */
typedef struct {
    const void *weight[FM_ROLES];
    float *gradient[FM_ROLES];
    bool fresh;                        /* gradients must be written, not added to */
} fm_block_weights;

/* What is saved from the forward pass for the backward pass, of one block and microbatch. N rows = rows of the region; S = rows_local. */
typedef struct {
    void *x;                           /* [S, C] the block's input */
    float *rstd1;                      /* [S] */
    void *qk_raw;                      /* [N, (H + K) D] before the q and k norms; NULL without */
    float *rstd_q, *rstd_k;            /* [N, H], [N, K] */
    void *qkv;                         /* [N, Q] after rope */
    void *o;                           /* [N, H D] */
    float *lse;                        /* [N, H] */
    void *x2;                          /* [S, C] after attention */
    float *rstd2;                      /* [S] */
    void *gu;                          /* [N, 2 F] gate and up; the backward pass replaces it by its gradient */
} fm_block_saved;

/* Which activations are kept from forward to backward (activation_checkpointing). */
enum fm_keep {
    FM_KEEP_ALL,                       /* no: everything */
    FM_KEEP_ATTENTION,                 /* selective: all but gate and up, which cost one product to make again */
    FM_KEEP_INPUT                      /* full: the block's input alone */
};

/* Gradients inside a block: written by the input part, read by the weight part. */
typedef struct {
    void *dz;                          /* [S, C] of the block's output: the incoming gradient (borrowed) */
    void *dz_all;                      /* [N, C] the same on all rows: dz itself without sequence parallelism */
    void *a;                           /* [N, F] silu(gate) up, made again */
    void *dh2;                         /* [S, C] of the second norm's output */
    void *dy;                          /* [S, C] of x2 */
    void *dy_all;                      /* [N, C] */
    void *dqkv;                        /* [N, Q]; after the input part: before rope, before the q and k norms */
    void *dqk_normed;                  /* [N, (H + K) D] of the q and k norms' outputs; NULL without */
    void *dh1;                         /* [S, C] of the first norm's output */
} fm_block_grads;

/* A microbatch as a block sees it. */
typedef struct {
    int B;                             /* batch rows */
    int64_t T;                         /* tokens of a batch row on this rank */
    const int32_t *position, *document;    /* [B, T] */
    bool plain;                        /* every row is one document without padding, all of it on this rank */
    int64_t row_T;
    const int32_t *row_position, *row_document;   /* [B, row_T] of the whole row: the keys under cp */
    const float *cos, *sin;            /* [positions, rotary_dim / 2] */
} fm_block_batch;

/* Everything a block needs besides its weights and activations. */
typedef struct {
    fm_compute *compute;
    enum fm_dtype dtype;
    fm_block_dims dims;
    fm_region region;
    fm_context *context;               /* context parallelism; NULL: one rank */
    fm_fsdp *fsdp;                     /* progressed between operations; may be NULL */
    fm_block_batch batch;
    void *h;                           /* workspace [rows_padded, C]: a norm's output */
    void *h_local;                     /* workspace [S, C] under sequence parallelism, else the same as h */
    void *wide;                        /* workspace [N, max(F, H D)] */
    float *delta;                      /* workspace [N, H] */
} fm_block;

/* Bytes of one block's saved activations that are kept, and that can be shared by all blocks, for N rows and S local rows; sets the
 * pointers of *saved into the two blocks of memory where they are not NULL. Local. */
void fm_block_saved_bind(fm_block_saved *saved, size_t *kept_bytes, size_t *shared_bytes, const fm_block_dims *dims,
                         enum fm_dtype dtype, int64_t N, int64_t S, enum fm_keep keep, void *kept, void *shared);

/* The same for the gradients of a block; rows_padded: of the region under sequence parallelism, where dz_all and dy_all need room of
 * their own, else 0. Local. */
void fm_block_grads_bind(fm_block_grads *grads, size_t *bytes, const fm_block_dims *dims, enum fm_dtype dtype, int64_t N, int64_t S,
                         int64_t rows_padded, void *memory);

/* How attention is called for the block's batch. Local. */
fm_attention_args fm_block_attention_args(const fm_block *block, int64_t window);

/* x_out [S, C] from saved->x; fills in the rest of saved. window: of this layer. Collective on tp and cp. */
int fm_block_forward(fm_block *block, void *x_out, fm_block_saved *saved, const fm_block_weights *weights, int64_t window);

/* Makes again what `keep` dropped. Collective on tp and cp. */
int fm_block_restore(fm_block *block, fm_block_saved *saved, const fm_block_weights *weights, int64_t window, enum fm_keep keep);

/* dx [S, C] from grads->dz. Collective on tp and cp. */
int fm_block_backward_input(fm_block *block, void *dx, fm_block_grads *grads, fm_block_saved *saved, const fm_block_weights *weights,
                            int64_t window);

/* Gradients of the block's parameters, = or += as weights->fresh says. Collective on tp (under sequence parallelism). */
int fm_block_backward_weight(fm_block *block, const fm_block_grads *grads, const fm_block_saved *saved,
                             const fm_block_weights *weights);

#endif
