/* The element types of tensors, one table. */
#ifndef FINEMESH_DTYPE_H
#define FINEMESH_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, bytes, torch's name, safetensors' name) */
#define FM_DTYPE_LIST(X) \
    X(FM_F32, 4, "float32", "F32") \
    X(FM_BF16, 2, "bfloat16", "BF16") \
    X(FM_F16, 2, "float16", "F16") \
    X(FM_F64, 8, "float64", "F64") \
    X(FM_I32, 4, "int32", "I32") \
    X(FM_I64, 8, "int64", "I64") \
    X(FM_U8, 1, "uint8", "U8")

enum fm_dtype {
#define FM_DTYPE_ENUM(name, bytes, torch, safetensors) name,
    FM_DTYPE_LIST(FM_DTYPE_ENUM)
#undef FM_DTYPE_ENUM
    FM_DTYPES
};

/* Bytes of an element; torch's and safetensors' names; static storage. Local. */
size_t fm_dtype_bytes(enum fm_dtype dtype);
const char *fm_dtype_name(enum fm_dtype dtype);
const char *fm_dtype_safetensors_name(enum fm_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
