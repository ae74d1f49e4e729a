/* Options of [device], and the dtypes that a person can choose. Filled in by the job. */
#ifndef FM_TENSOR_OPTIONS_H
#define FM_TENSOR_OPTIONS_H

#include "tensor/dtype.h"

/* What a dtype key says: a type itself (equal to its enum fm_dtype), or a word that is resolved later. */
enum fm_dtype_choice {
    FM_DTYPE_AUTO = -2,                /* the checkpoint's on a GPU, float32 on a CPU */
    FM_DTYPE_SAME = -1,                /* the compute dtype */
    FM_DTYPE_FLOAT32 = FM_F32,
    FM_DTYPE_BFLOAT16 = FM_BF16,
    FM_DTYPE_FLOAT16 = FM_F16
};

enum fm_device_type { FM_DEVICE_TYPE_AUTO, FM_DEVICE_TYPE_CPU, FM_DEVICE_TYPE_CUDA };

/* [device] */
typedef struct {
    enum fm_device_type type;
    int threads;                       /* OpenMP threads a rank; 0: cores / ranks of the node */
    bool own_attention;                /* no key: `finemesh bench --own-attention` */
} fm_device_options;

#endif
