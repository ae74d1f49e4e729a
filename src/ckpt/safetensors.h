/* The safetensors format: 8 bytes with the length N of the header (little-endian), N bytes of JSON, then the tensors' bytes
 * without holes. Source: the format's description in the README of huggingface/safetensors. Files are hostile: every number is
 * checked before it is used. All functions are local. */
#ifndef FM_CKPT_SAFETENSORS_H
#define FM_CKPT_SAFETENSORS_H

#include "ckpt/index.h"

/* The format's own limit of a header, and what stands before it. */
enum { FM_SAFETENSORS_HEADER_LIMIT_BYTES = 100000000, FM_SAFETENSORS_PREFIX_BYTES = 8 };

/* A header in memory (header[header_bytes], without the prefix) of a file of file_bytes: adds the file and its tensors to the
 * index. A tensor that is in the index already is an error. `path` is kept as the file's name and stands in errors. */
int fm_safetensors_parse(fm_index *index, const char *header, size_t header_bytes, int64_t file_bytes, const char *path);

/* Opens a file, reads its header and parses it. *header_crc32 (NULL: not wanted) is that of prefix and header. */
int fm_safetensors_scan(fm_index *index, uint32_t *header_crc32, const char *path);

/* A tensor for a header to be written. */
typedef struct {
    const char *name;
    enum fm_dtype dtype;
    int ndim;
    const int64_t *shape;
} fm_safetensors_entry;

/* The prefix and header of a file that holds n entries in this order, padded with spaces to 8 bytes, with the metadata
 * {"format": "pt"} that transformers demands. The data of entry i begins at byte offsets[i] of the file; *file_bytes is its whole
 * size. The caller frees *out [*out_bytes] with fm_free. */
int fm_safetensors_header(char **out, size_t *out_bytes, int64_t *offsets, int64_t *file_bytes,
                          const fm_safetensors_entry *entries, int n);

#endif
