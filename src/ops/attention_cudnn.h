/* A library's fused attention as the CUDA module knows it: one table. cuDNN's is in attention_cudnn.cpp, the only file that includes
 * NVIDIA's headers for it; the tests have a double of it (tests/cuda/double/cudnn.c). Who chooses between it and the kernels of
 * attention_cuda.cu: attention_fused_cuda.c.
 *
 * What it computes: B batch rows of T queries and the same T keys, in which query t sees the keys max(0, t - window + 1) .. t.
 * Scores are scale * (q . k), in fp32; probabilities and their gradients are rounded to the dtype for the products.
 *
 * What passes between the two passes is the same as in ops/compute.h, so that either pass may be another library's: stats is lse, the
 * natural logarithm of the sum of the exponentials of the scaled scores, fp32, but in the order [B, H, T] without gaps (cuDNN before
 * 9.26 reads no other). delta, the sum over D of dout * out, is made anew from `out`. */
#ifndef FM_OPS_ATTENTION_CUDNN_H
#define FM_OPS_ATTENTION_CUDNN_H

#ifdef __cplusplus
extern "C" {
#endif

#include "tensor/device.h"

/* What a plan is made for; strides as in fm_attention_args. Compared as bytes: filled with 0 first. */
typedef struct {
    int dtype;                         /* FM_BF16 or FM_F16: of all but stats */
    int backward;
    int B, H, K, D;
    int64_t T, q_row, k_row, ldq, ldk, ldo;
    int64_t window;                    /* 0: none */
    float scale;
    int unused;                        /* no gap at the end */
} fm_fused_shape;

/* Addresses are multiples of 16. */
typedef struct {
    const void *q, *k, *v;
    void *out;                         /* forward: =; backward: the forward pass's */
    float *stats;                      /* forward: =; backward: of all keys */
    const void *dout;
    void *dq, *dk, *dv;                /* backward: = */
} fm_fused_arrays;

typedef struct {
    const char *name;
    /* The version of the headers and of the library that is found (0: none), as 92600 for 9.26.0. */
    int (*version)(int *built, int *found);
    /* Opens the library for a device's stream; an error says what is missing. */
    int (*open)(void **library, fm_device *device);
    void (*close)(void *library);
    /* A plan, and the bytes of device memory that each run of it needs. An error where the library cannot do it, with its reason.
     * Nothing is queued. */
    int (*plan_new)(void **plan, size_t *workspace_bytes, void *library, const fm_fused_shape *shape);
    void (*plan_destroy)(void *plan);
    /* Queues the call. workspace: as many bytes as plan_new said, a multiple of 256. */
    int (*run)(void *library, void *plan, const fm_fused_arrays *arrays, void *workspace);
} fm_fused_library;

/* Reproducible but for the backward pass, whose sums are atomic. */
extern const fm_fused_library fm_cudnn;

#ifdef __cplusplus
}
#endif
#endif
