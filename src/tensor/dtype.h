/* Element types: look-up and conversion. The table itself is public. */
#ifndef FM_TENSOR_DTYPE_H
#define FM_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/error.h"
#include "finemesh/dtype.h"

/* Look-up by either name. Error FM_ERR_UNSUPPORTED names the ones there are. Local. */
int fm_dtype_parse(enum fm_dtype *out, const char *name);

/* Conversion of one number; rounding is to nearest even, NaN stays NaN. Local. */
static inline float fm_bf16_to_f32(uint16_t bits)
{
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

static inline uint16_t fm_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    const uint32_t quiet = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

float fm_f16_to_f32(uint16_t bits);
uint16_t fm_f32_to_f16(float value);

/* n numbers of one floating type to another (F32, BF16, F16, F64); the arrays do not overlap. Local; not threaded. */
void fm_dtype_convert(void *out, enum fm_dtype out_dtype, const void *in, enum fm_dtype in_dtype, int64_t n);

#endif
