#include "tensor/dtype.h"

#include <math.h>
#include <strings.h>

typedef struct {
    size_t bytes;
    const char *torch, *safetensors;
} dtype_row;

static const dtype_row rows[FM_DTYPES] = {
#define DTYPE_ROW(name, bytes, torch, safetensors) [name] = {bytes, torch, safetensors},
    FM_DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

size_t fm_dtype_bytes(enum fm_dtype dtype)
{
    return rows[dtype].bytes;
}

const char *fm_dtype_name(enum fm_dtype dtype)
{
    return rows[dtype].torch;
}

const char *fm_dtype_safetensors_name(enum fm_dtype dtype)
{
    return rows[dtype].safetensors;
}

int fm_dtype_parse(enum fm_dtype *out, const char *name)
{
    for (int i = 0; i < FM_DTYPES; i++) {
        if (strcasecmp(name, rows[i].torch) == 0 || strcmp(name, rows[i].safetensors) == 0) {
            *out = (enum fm_dtype)i;
            return FM_OK;
        }
    }
#define DTYPE_NAME(name, bytes, torch, safetensors) " " torch
    return fm_fail(FM_ERR_UNSUPPORTED, "dtype \"%.100s\" is not known; there are:" FM_DTYPE_LIST(DTYPE_NAME), name);
#undef DTYPE_NAME
}

static float f32_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static uint32_t bits_of_f32(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

float fm_f16_to_f32(uint16_t bits)
{
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    const uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) {
        return f32_of_bits(sign | 0x7f800000u | magnitude << 13);
    }
    if (magnitude < 0x0400u) {         /* subnormal: a multiple of 2^-24, exact in fp32 */
        const float value = (float)magnitude * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    return f32_of_bits(sign | ((magnitude << 13) + (112u << 23)));
}

uint16_t fm_f32_to_f16(float value)
{
    const uint32_t bits = bits_of_f32(value);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x01ffu));
    }
    if (magnitude >= 0x477ff000u) {    /* 65520 and more round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    }
    if (magnitude < 0x38800000u) {     /* below 2^-14; 0.5 has the unit 2^-24 of fp16's subnormals, so the addition rounds for us */
        return (uint16_t)(sign | (bits_of_f32(f32_of_bits(magnitude) + 0.5f) - bits_of_f32(0.5f)));
    }
    return (uint16_t)(sign | (magnitude - (112u << 23) + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

/* fp64 -> fp32 rounded to odd: a second rounding to a narrower type then gives what a single one would. */
static float f64_to_f32_odd(double value)
{
    const float near = (float)value;
    if (isnan(value) || (double)near == value) {
        return near;
    }
    uint32_t bits = bits_of_f32(near);
    if (fabs((double)near) > fabs(value)) {
        bits--;
    }
    return f32_of_bits(bits | 1u);
}

typedef void (*convert_fn)(void *out, const void *in, int64_t n);

#define CONVERT(name, out_type, in_type, expression) \
    static void name(void *out, const void *in, int64_t n) \
    { \
        out_type *const restrict to = out; \
        const in_type *const restrict from = in; \
        for (int64_t i = 0; i < n; i++) { \
            const in_type x = from[i]; \
            to[i] = (expression); \
        } \
    }

CONVERT(bf16_from_f32, uint16_t, float, fm_f32_to_bf16(x))
CONVERT(f16_from_f32, uint16_t, float, fm_f32_to_f16(x))
CONVERT(f64_from_f32, double, float, (double)x)
CONVERT(f32_from_bf16, float, uint16_t, fm_bf16_to_f32(x))
CONVERT(f16_from_bf16, uint16_t, uint16_t, fm_f32_to_f16(fm_bf16_to_f32(x)))
CONVERT(f64_from_bf16, double, uint16_t, (double)fm_bf16_to_f32(x))
CONVERT(f32_from_f16, float, uint16_t, fm_f16_to_f32(x))
CONVERT(bf16_from_f16, uint16_t, uint16_t, fm_f32_to_bf16(fm_f16_to_f32(x)))
CONVERT(f64_from_f16, double, uint16_t, (double)fm_f16_to_f32(x))
CONVERT(f32_from_f64, float, double, (float)x)
CONVERT(bf16_from_f64, uint16_t, double, fm_f32_to_bf16(f64_to_f32_odd(x)))
CONVERT(f16_from_f64, uint16_t, double, fm_f32_to_f16(f64_to_f32_odd(x)))

/* [out][in]; NULL where the types are the same or not floating. */
static const convert_fn converters[FM_DTYPES][FM_DTYPES] = {
    [FM_F32] = {[FM_BF16] = f32_from_bf16, [FM_F16] = f32_from_f16, [FM_F64] = f32_from_f64},
    [FM_BF16] = {[FM_F32] = bf16_from_f32, [FM_F16] = bf16_from_f16, [FM_F64] = bf16_from_f64},
    [FM_F16] = {[FM_F32] = f16_from_f32, [FM_BF16] = f16_from_bf16, [FM_F64] = f16_from_f64},
    [FM_F64] = {[FM_F32] = f64_from_f32, [FM_BF16] = f64_from_bf16, [FM_F16] = f64_from_f16},
};

void fm_dtype_convert(void *out, enum fm_dtype out_dtype, const void *in, enum fm_dtype in_dtype, int64_t n)
{
    if (out_dtype == in_dtype) {
        if (n > 0) {
            memcpy(out, in, (size_t)n * rows[in_dtype].bytes);
        }
        return;
    }
    const convert_fn convert = converters[out_dtype][in_dtype];
    FM_ASSERT(convert != NULL);
    convert(out, in, n);
}
