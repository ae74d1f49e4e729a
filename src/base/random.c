#include "base/random.h"

#include <math.h>

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
