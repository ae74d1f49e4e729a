#include "base/crc.h"

#include <zlib.h>

static uint32_t by_table(uint32_t crc, const unsigned char *bytes, size_t size_bytes)
{
    while (size_bytes > 0) {
        const uInt part = size_bytes > (1u << 30) ? (1u << 30) : (uInt)size_bytes;
        crc = (uint32_t)crc32(crc, bytes, part);
        bytes += part;
        size_bytes -= part;
    }
    return crc;
}

#if defined(__x86_64__)
#include <immintrin.h>

enum { LANE_BYTES = 16, BLOCK_BYTES = 4 * LANE_BYTES };

/* A lane of 128 bits, as a polynomial, moved on by as many bits as a pair of constants says, and the data that is there added.
 * The constants of a distance of D bits are x^(D+32) and x^(D-32) modulo the polynomial, bits reversed and shifted by one. Source:
 * Gopal et al., "Fast CRC computation for generic polynomials using PCLMULQDQ", Intel, 2009. */
__attribute__((target("pclmul,sse4.1")))
static inline __m128i fold(__m128i lane, __m128i constants, __m128i data)
{
    const __m128i low = _mm_clmulepi64_si128(lane, constants, 0x00), high = _mm_clmulepi64_si128(lane, constants, 0x11);
    return _mm_xor_si128(_mm_xor_si128(low, high), data);
}

/* The CRC of whole blocks, at least one: four lanes side by side, then one, whose CRC the table takes. */
__attribute__((target("pclmul,sse4.1")))
static uint32_t by_multiplying(uint32_t crc, const unsigned char *bytes, size_t size_bytes)
{
    const __m128i four = _mm_set_epi64x(0x1c6e41596, 0x154442bd4), one = _mm_set_epi64x(0xccaa009e, 0x1751997d0);
    const __m128i *at = (const __m128i *)bytes, *const end = at + size_bytes / LANE_BYTES;
    __m128i lanes[4];
    unsigned char rest[LANE_BYTES];
    for (int i = 0; i < 4; i++) {
        lanes[i] = _mm_loadu_si128(at++);
    }
    lanes[0] = _mm_xor_si128(lanes[0], _mm_cvtsi32_si128((int)~crc));
    while (at < end) {
        for (int i = 0; i < 4; i++) {
            lanes[i] = fold(lanes[i], four, _mm_loadu_si128(at++));
        }
    }
    for (int i = 1; i < 4; i++) {
        lanes[i] = fold(lanes[i - 1], one, lanes[i]);
    }
    _mm_storeu_si128((__m128i *)rest, lanes[3]);
    return by_table(UINT32_MAX, rest, LANE_BYTES);       /* its register begins with zeros */
}

uint32_t fm_crc32(uint32_t crc, const void *data, size_t size_bytes)
{
    const unsigned char *const bytes = data;
    const size_t in_blocks = size_bytes / BLOCK_BYTES * BLOCK_BYTES;
    if (in_blocks == 0 || !__builtin_cpu_supports("pclmul") || !__builtin_cpu_supports("sse4.1")) {
        return by_table(crc, bytes, size_bytes);
    }
    return by_table(by_multiplying(crc, bytes, in_blocks), bytes + in_blocks, size_bytes - in_blocks);
}
#else
uint32_t fm_crc32(uint32_t crc, const void *data, size_t size_bytes)
{
    return by_table(crc, data, size_bytes);
}
#endif

uint32_t fm_crc32_join(uint32_t first, uint32_t second, int64_t second_bytes)
{
    return (uint32_t)crc32_combine(first, second, second_bytes);
}
