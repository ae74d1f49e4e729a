#include "base/random.h"

#include <math.h>
#include <string.h>

#include "base/clones.h"

enum { ROUNDS = 10 };

/* The paper's multipliers and Weyl increments for four 32-bit words. */
static const uint32_t multiplier[2] = { 0xD2511F53u, 0xCD9E8D57u };
static const uint32_t key_step[2] = { 0x9E3779B9u, 0xBB67AE85u };

void fm_random_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t a = (uint64_t)multiplier[0] * x0;
        const uint64_t b = (uint64_t)multiplier[1] * x2;
        x0 = (uint32_t)(b >> 32) ^ x1 ^ k0;
        x1 = (uint32_t)b;
        x2 = (uint32_t)(a >> 32) ^ x3 ^ k1;
        x3 = (uint32_t)a;
        k0 += key_step[0];
        k1 += key_step[1];
    }
    out[0] = x0;
    out[1] = x1;
    out[2] = x2;
    out[3] = x3;
}

void fm_random_bits(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t words[4] = { (uint32_t)counter, (uint32_t)(counter >> 32), (uint32_t)stream, (uint32_t)(stream >> 32) };
    fm_random_philox(out, words, key);
}

uint64_t fm_random_stream(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (const unsigned char *c = (const unsigned char *)name; *c != '\0'; c++) {
        hash = (hash ^ *c) * 0x100000001b3u;
    }
    return hash;
}

/* 53 of 64 bits, scaled to [0, 1). */
static double unit_interval(uint32_t low, uint32_t high)
{
    return (double)(((uint64_t)high << 32 | low) >> 11) * 0x1p-53;
}

double fm_random_uniform(uint64_t seed, uint64_t stream, uint64_t element)
{
    uint32_t bits[4];
    fm_random_bits(bits, seed, stream, element);
    return unit_interval(bits[0], bits[1]);
}

double fm_random_normal(uint64_t seed, uint64_t stream, uint64_t element)
{
    uint32_t bits[4];
    fm_random_bits(bits, seed, stream, element / 2);
    /* 1 - u lies in (0, 1]: the logarithm is finite. */
    const double radius = sqrt(-2.0 * log(1.0 - unit_interval(bits[0], bits[1])));
    const double angle = 2.0 * M_PI * unit_interval(bits[2], bits[3]);
    return radius * (element % 2 == 0 ? cos(angle) : sin(angle));
}

/* ---- many normal numbers at once ----
 *
 * Blocks are worked on in groups, each a loop over arrays that a compiler turns into vector instructions: no branches, no calls, no
 * conversions but those that a bit pattern gives. */
enum { GROUP = 64 };                   /* blocks, of two numbers each */

#define INLINE static inline __attribute__((always_inline))

INLINE double double_of(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

INLINE uint64_t bits_of(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* A whole number below 2^52 as a double: the mantissa of 2^52 + n. */
INLINE double whole(uint64_t n)
{
    return double_of(n | 0x4330000000000000u) - 0x1p52;
}

/* unit_interval, by whole numbers of 27 and 26 bits. */
INLINE double unit_interval_of(uint32_t low, uint32_t high)
{
    const uint64_t k = ((uint64_t)high << 32 | low) >> 11;
    return whole(k >> 26) * 0x1p-27 + whole(k & 0x3ffffff) * 0x1p-53;
}

/* ln x of a positive normal number: x = 2^e m with m in [1/sqrt 2, sqrt 2), ln m = 2 artanh(s), s = (m - 1) / (m + 1), |s| < 0.1716;
 * the series up to s^21 is within 2e-18 of it. */
INLINE double logarithm(double x)
{
    const uint64_t half_root = 0x3fe6a09e667f3bcdu;      /* of sqrt(1/2) */
    const uint64_t shifted = bits_of(x) - half_root + ((uint64_t)1024 << 52);   /* the exponent stays positive */
    const double e = whole(shifted >> 52) - 1024.0;
    const double m = double_of((shifted & 0xfffffffffffffu) + half_root);
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 21;
    p = p * z + 1.0 / 19;
    p = p * z + 1.0 / 17;
    p = p * z + 1.0 / 15;
    p = p * z + 1.0 / 13;
    p = p * z + 1.0 / 11;
    p = p * z + 1.0 / 9;
    p = p * z + 1.0 / 7;
    p = p * z + 1.0 / 5;
    p = p * z + 1.0 / 3;
    p = p * z + 1.0;
    return e * M_LN2 + 2.0 * s * p;
}

/* cos and sin of 2 pi v, v in [0, 1): 4 v = q + r with |r| <= 1/2; Taylor's series of pi/2 r up to its 17th power, then the quadrant. */
INLINE void turn(double *cosine, double *sine, double v)
{
    const double shifted = 4.0 * v + 0x1.8p52;           /* rounds to a whole number, which its last bits hold */
    const uint64_t q = bits_of(shifted);
    const double x = (4.0 * v - (shifted - 0x1.8p52)) * M_PI_2, z = x * x;
    double s = 1.0 / 355687428096000.0, c = 1.0 / 20922789888000.0;
    s = s * z - 1.0 / 1307674368000.0;
    s = s * z + 1.0 / 6227020800.0;
    s = s * z - 1.0 / 39916800.0;
    s = s * z + 1.0 / 362880.0;
    s = s * z - 1.0 / 5040.0;
    s = s * z + 1.0 / 120.0;
    s = s * z - 1.0 / 6.0;
    s = s * z * x + x;
    c = c * z - 1.0 / 87178291200.0;
    c = c * z + 1.0 / 479001600.0;
    c = c * z - 1.0 / 3628800.0;
    c = c * z + 1.0 / 40320.0;
    c = c * z - 1.0 / 720.0;
    c = c * z + 1.0 / 24.0;
    c = c * z - 1.0 / 2.0;
    c = c * z + 1.0;
    /* odd quadrants change places; 1 and 2 turn the cosine round, 2 and 3 the sine */
    const uint64_t odd = (uint64_t)0 - (q & 1), cos_bits = bits_of(c), sin_bits = bits_of(s);
    const uint64_t swap = (cos_bits ^ sin_bits) & odd;
    *cosine = double_of((cos_bits ^ swap) ^ ((q + 1) >> 1 & 1) << 63);
    *sine = double_of((sin_bits ^ swap) ^ (q >> 1 & 1) << 63);
}

/* fm_random_bits of GROUP blocks from `first` on, word by word. */
INLINE void group_bits(uint32_t word[4][GROUP], uint64_t seed, uint64_t stream, uint64_t first)
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int i = 0; i < GROUP; i++) {
        const uint64_t counter = first + (uint64_t)i;
        word[0][i] = (uint32_t)counter;
        word[1][i] = (uint32_t)(counter >> 32);
        word[2][i] = (uint32_t)stream;
        word[3][i] = (uint32_t)(stream >> 32);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < GROUP; i++) {
            const uint64_t a = (uint64_t)multiplier[0] * word[0][i], b = (uint64_t)multiplier[1] * word[2][i];
            word[0][i] = (uint32_t)(b >> 32) ^ word[1][i] ^ k0;
            word[2][i] = (uint32_t)(a >> 32) ^ word[3][i] ^ k1;
            word[1][i] = (uint32_t)b;
            word[3][i] = (uint32_t)a;
        }
        k0 += key_step[0];
        k1 += key_step[1];
    }
}

/* out [2 GROUP] = scaled numbers of the blocks first .. first + GROUP - 1. */
FM_CLONES
static void normal_group(float *restrict out, double scale, uint64_t seed, uint64_t stream, uint64_t first)
{
    uint32_t word[4][GROUP];
    double radius[GROUP], angle[GROUP];
    group_bits(word, seed, stream, first);
    for (int i = 0; i < GROUP; i++) {
        radius[i] = scale * sqrt(-2.0 * logarithm(1.0 - unit_interval_of(word[0][i], word[1][i])));
        angle[i] = unit_interval_of(word[2][i], word[3][i]);
    }
    for (int i = 0; i < GROUP; i++) {
        double cosine, sine;
        turn(&cosine, &sine, angle[i]);
        out[2 * i] = (float)(radius[i] * cosine);
        out[2 * i + 1] = (float)(radius[i] * sine);
    }
}

void fm_random_normals(float *out, double scale, uint64_t seed, uint64_t stream, uint64_t first, int64_t n)
{
    enum { NUMBERS = 2 * GROUP };
    float group[NUMBERS];
    for (int64_t done = 0; done < n;) {
        /* groups begin at multiples of their size, so that an element is always worked on in the same place */
        const uint64_t at = (first + (uint64_t)done) % NUMBERS, begin = first + (uint64_t)done - at;
        const int64_t part = NUMBERS - (int64_t)at < n - done ? NUMBERS - (int64_t)at : n - done;
        if (part == NUMBERS) {
            normal_group(out + done, scale, seed, stream, begin / 2);
        } else {
            normal_group(group, scale, seed, stream, begin / 2);
            memcpy(out + done, group + at, (size_t)part * sizeof *out);
        }
        done += part;
    }
}
