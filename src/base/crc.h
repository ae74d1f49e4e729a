/* CRC-32: the polynomial and the bit order of zlib, gzip and PNG. All functions are local. */
#ifndef FM_BASE_CRC_H
#define FM_BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* The CRC of more bytes: start with 0. About the speed of memory where the processor multiplies without carries, else zlib's. */
uint32_t fm_crc32(uint32_t crc, const void *data, size_t size_bytes);

/* The CRC of two runs of bytes one after the other, from those of each. */
uint32_t fm_crc32_join(uint32_t first, uint32_t second, int64_t second_bytes);

#endif
