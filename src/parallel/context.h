/* Context parallelism: the tokens of a batch row are cut over cp ranks; attention needs the keys and values of all. Rank r of P owns
 * chunks r and 2P-1-r of 2P equal chunks, so that a causal mask gives every rank the same work. */
#ifndef FM_PARALLEL_CONTEXT_H
#define FM_PARALLEL_CONTEXT_H

#include "mesh/comm.h"
#include "ops/compute.h"

typedef struct fm_context fm_context;

/* Attention over all tokens of the cp group. `args` describes the local queries and keys (Tq = Tk = T local); without a context it is
 * the operation itself. out [B T, ldo] in args->dtype. Collective on cp. */
int fm_context_attention(fm_context *context, fm_compute *compute, void *out, float *lse, const void *q, const void *k, const void *v,
                         const fm_attention_args *args);

/* dq, dk, dv in args->dtype, strides as q, k, v. `delta` is workspace [B T, H]. Collective on cp. */
int fm_context_attention_backward(fm_context *context, fm_compute *compute, void *dq, void *dk, void *dv, const void *dout,
                                  const void *out, const float *lse, float *delta, const void *q, const void *k, const void *v,
                                  const fm_attention_args *args);

#endif
