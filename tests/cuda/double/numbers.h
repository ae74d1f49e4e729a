/* Arithmetic on 16-bit floating-point numbers, for the doubles of the libraries that know them. */
#ifndef TESTS_CUDA_DOUBLE_NUMBERS_H
#define TESTS_CUDA_DOUBLE_NUMBERS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float bits_to_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t float_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float from_bf16(uint16_t x)
{
    return bits_to_float((uint32_t)x << 16);
}

/* To nearest, ties to even. */
static inline uint16_t to_bf16(float value)
{
    const uint32_t bits = float_to_bits(value);
    return isnan(value) ? 0x7fff : (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float from_f16(uint16_t x)
{
    const int exponent = x >> 10 & 31, mantissa = x & 1023;
    const float size = exponent == 31 ? (mantissa != 0 ? NAN : INFINITY)
                     : exponent == 0 ? ldexpf((float)mantissa, -24) : ldexpf((float)(mantissa + 1024), exponent - 25);
    return x >> 15 ? -size : size;
}

static inline uint16_t to_f16(float value)
{
    const uint16_t sign = (uint16_t)(float_to_bits(value) >> 16 & 0x8000);
    const float size = fabsf(value);
    if (isnan(value)) {
        return 0x7fff;
    }
    if (size >= 65520.0f) {
        return sign | 0x7c00;
    }
    int exponent;
    frexpf(size, &exponent);           /* size = [0.5, 1) 2^exponent */
    exponent = size == 0.0f || exponent < -13 ? -13 : exponent;
    const int units = (int)rintf(ldexpf(size, 11 - exponent));         /* of 2^(exponent - 11): at most 2048 */
    return (uint16_t)(sign + ((exponent + 13) << 10) + units);        /* a normal number's hidden bit carries the exponent up */
}

#endif
