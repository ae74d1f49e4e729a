/* Context parallelism: the tokens of a batch row are cut over the P ranks of the cp group; attention needs the keys and values
 * of all. A row of T tokens is 2P equal chunks; rank r owns chunks r and 2P-1-r, in this order, so that a causal mask gives
 * every rank the same work. T is a multiple of 2P: shorter rows are padded on the right with tokens of document -1.
 *
 * Two exchanges give the same numbers (up to the order of sums):
 *   all-gather  Every rank gathers all keys and values, puts them in the order of the row and makes one call of attention.
 *               Backward: they are gathered again; gradients of all keys are computed in fp32 and reduce-scattered. Nothing is
 *               hidden; a rank holds the keys and values of the whole row.
 *   ring        Chunks travel: the lower one of each rank to the next rank, the upper one to the rank before. Each step's
 *               transfer goes on while the chunks that came last are computed; results are merged by their log-sum-exp in fp32.
 *               Backward: gradients travel with their chunk in fp32, each rank adds its part, and the last one sends the sum
 *               home. Source of the zigzag: Llama 3 (2024), section 3.3.2; of the ring: Liu, Zaharia and Abbeel 2023.
 *
 * What is left out. Both: keys after the last query of a rank, and tiles that see nothing (other documents, keys behind a
 * window) are not computed. Ring: a chunk goes no farther than the last rank on its way with a query that can see it, which all
 * ranks know alike from (P, T, window): without a window that is P-1 hops for chunk r and r hops for chunk 2P-1-r (three
 * quarters of a plain ring); with one, as many as the window reaches. Documents do not change what is sent. The all-gather
 * always sends all.
 *
 * Keys, values go over the wire in their own dtype, their gradients in fp32. */
#ifndef FM_PARALLEL_CONTEXT_H
#define FM_PARALLEL_CONTEXT_H

#include "mesh/comm.h"
#include "ops/compute.h"

typedef struct fm_context fm_context;

enum fm_context_exchange {
    FM_CONTEXT_AUTO,                   /* the ring for rows of FM_CONTEXT_RING_TOKENS tokens or more, else the all-gather */
    FM_CONTEXT_ALL_GATHER,
    FM_CONTEXT_RING
};

/* Below this a step of the ring computes too little to hide a transfer, and the whole row's keys are small. */
enum { FM_CONTEXT_RING_TOKENS = 8192 };

/* Where local token t of `rank` stands in its row of T tokens (T a multiple of 2 ranks): all that is needed to cut ids, labels,
 * positions and documents. t and t + 1 are neighbours in the row but at the border of the two chunks. Local, pure. */
int64_t fm_context_token(int64_t t, int64_t T, int ranks, int rank);

/* A context over the cp group; *out is NULL, which is the plain operation, where the group is one rank. No memory is taken before
 * the first fm_context_reserve. Local. Free with fm_context_destroy. */
int fm_context_new(fm_context **out, fm_comm *cp, fm_device *device, enum fm_context_exchange exchange);
void fm_context_destroy(fm_context *context);

/* What AUTO is for rows of T tokens (of all ranks together). Local, pure. */
enum fm_context_exchange fm_context_choose(enum fm_context_exchange exchange, int64_t T);

/* Bytes of the buffers for calls with `args` over `ranks` ranks; dtype, B, Tq, H, K, D, ldq and ldo count. Local, pure. */
size_t fm_context_bytes(enum fm_context_exchange exchange, int ranks, const fm_attention_args *args);

/* Takes the memory for calls up to the size of `args`; a larger call would take more by itself, but where that failed, it would
 * fail on one rank in the middle of an exchange. Local. */
int fm_context_reserve(fm_context *context, const fm_attention_args *args);

/* Attention over all tokens of the cp group. `args` describes the local queries and keys: Tq = Tk = q_row = k_row = T / P; but
 * k_position and k_document are those of the whole row, [B, T] in its order: every rank has read the row, so they need no
 * message. window and everything else are the same on all ranks. out [B T/P, ldo] in args->dtype, lse [B T/P, H]. Without a
 * context it is the operation itself (and T = Tk). Collective on cp. */
int fm_context_attention(fm_context *context, fm_compute *compute, void *out, float *lse, const void *q, const void *k,
                         const void *v, const fm_attention_args *args);

/* dq, dk, dv = in args->dtype, strides as q, k, v. `delta` is workspace [B T/P, H]. Collective on cp. */
int fm_context_attention_backward(fm_context *context, fm_compute *compute, void *dq, void *dk, void *dv, const void *dout,
                                  const void *out, const float *lse, float *delta, const void *q, const void *k, const void *v,
                                  const fm_attention_args *args);

#endif
