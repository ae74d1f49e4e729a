/* Random numbers without state: every number is a pure function of (seed, stream, counter), so that it is the same on every
 * mesh and in any order of asking. All functions are local.
 *
 * Source: J. Salmon, M. Moraes, R. Dror, D. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11: Philox4x32-10. */
#ifndef FM_BASE_RANDOM_H
#define FM_BASE_RANDOM_H

#include <stdint.h>

/* Philox4x32-10: 128 bits of counter under 64 bits of key -> 128 bits. */
void fm_random_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);

/* The same with the job's words: key = seed, counter = (counter, stream), each low word first. */
void fm_random_bits(uint32_t out[4], uint64_t seed, uint64_t stream, uint64_t counter);

/* A stream's number from its name (FNV-1a, 64 bits): a tensor's Hugging Face name, "order", ... */
uint64_t fm_random_stream(const char *name);

/* Uniform in [0, 1), a multiple of 2^-53: words 0 and 1 of block `element`. */
double fm_random_uniform(uint64_t seed, uint64_t stream, uint64_t element);

/* Mean 0, variance 1 (Box and Muller): elements 2k and 2k + 1 are the cosine and the sine of block k. */
double fm_random_normal(uint64_t seed, uint64_t stream, uint64_t element);

/* out [n] = scale times the normal numbers of the elements first .. first + n - 1, many times faster than one by one: the logarithm, sine
 * and cosine are polynomials, within 1e-15 of the formula's before they are rounded to fp32. The same numbers wherever a run begins. */
void fm_random_normals(float *out, double scale, uint64_t seed, uint64_t stream, uint64_t first, int64_t n);

#endif
