#include "parallel/context.h"

int fm_context_attention(fm_context *context, fm_compute *compute, void *out, float *lse, const void *q, const void *k, const void *v,
                         const fm_attention_args *args)
{
    (void)context;
    return compute->ops->attention(compute, out, args->dtype, lse, q, k, v, args, false);
}

int fm_context_attention_backward(fm_context *context, fm_compute *compute, void *dq, void *dk, void *dv, const void *dout,
                                  const void *out, const float *lse, float *delta, const void *q, const void *k, const void *v,
                                  const fm_attention_args *args)
{
    (void)context;
    FM_TRY(compute->ops->attention_delta(compute, delta, dout, out, args));
    return compute->ops->attention_backward(compute, dq, dk, dv, args->dtype, dout, lse, delta, q, k, v, args, false);
}
