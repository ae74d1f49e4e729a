/* The index of a dataset on disk: every sample's tokens, cut and checked, and a record for each, in one file.
 *
 * Ranks write it together, each its own part: a stream of bytes in stripes of FM_STORE_STRIPE_BYTES that lie round robin in
 * the file, so that nobody needs to know how much the others write, and no two ranks write to one page. A part is the payload
 * of its samples in order, then their records. The head stands first and is written last. */
#ifndef FM_DATA_STORE_H
#define FM_DATA_STORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "data/files.h"
#include "data/options.h"

enum { FM_STORE_STRIPE_BYTES = 1 << 18 };

/* A source file. */
typedef struct {
    int64_t size_bytes, mtime_ns;
    int64_t crc;
    int64_t path_at;              /* where its name stands in the head's text */
} fm_store_file;

/* What one rank wrote; int64_t throughout, so that it travels as an array of them. */
typedef struct {
    int64_t samples, tokens, label_tokens;
    int64_t cut_samples;          /* that were longer than seq_length */
    int64_t longest;              /* tokens of the longest sample, after the cut */
    int64_t payload_bytes;        /* the records follow */
    int64_t payload_crc, records_crc;
} fm_store_part;

enum { FM_STORE_PART_FIELDS = sizeof(fm_store_part) / sizeof(int64_t) };

/* A sample. Payload: int32 ids [tokens], then, with has_labels, int32 labels [tokens]. */
typedef struct {
    int64_t payload_at;           /* in the stream of its part */
    int64_t line_at;              /* byte of the source file where its line starts */
    int32_t file;
    int32_t tokens;               /* after the cut */
    int32_t label_tokens;         /* after cut and shift: labels 1 .. tokens - 1 that are not -100 */
    int32_t masked;               /* without has_labels: labels are the ids, the first `masked` are -100 */
    uint32_t has_labels;
    uint32_t crc;                 /* of the payload */
} fm_store_record;

/* The head, a view into one block of bytes that is what the file begins with and what ranks send each other. */
typedef struct {
    char *blob;                   /* owned */
    size_t blob_bytes;
    enum fm_data_format format;   /* never FM_FORMAT_AUTO in a written one */
    const char *key;              /* the options that decided what is in the file */
    const char *text;
    int64_t n_files, n_parts;
    fm_store_file *files;
    fm_store_part *parts;
} fm_store_head;

/* Makes the head of an index that is yet to be written: files' CRCs and all parts are zero. Local. */
int fm_store_head_new(fm_store_head *out, enum fm_data_format format, const char *key, const fm_files *files, int64_t n_parts);

/* Takes the blob (also where it fails) and checks that what it says lies within it. Local. */
int fm_store_head_view(fm_store_head *out, char *blob, size_t blob_bytes);
void fm_store_head_free(fm_store_head *head);
const char *fm_store_head_path(const fm_store_head *head, int64_t file);

/* Bytes of all files. Local. */
int64_t fm_store_head_source_bytes(const fm_store_head *head);

/* Whether both were made from the same files (name, size, time) by the same options. Local. */
bool fm_store_head_same(const fm_store_head *a, const fm_store_head *b);

/* Writing. Local; the order of calls over the ranks is the dataset's business. */
typedef struct {
    const char *path;
    int fd;
    int64_t part, n_parts;
    int64_t data_at;
    char *stripe;
    int64_t stream_bytes;
} fm_store_writer;

/* Begins part `part` in an open file; `head` gives the place of the data. Free with fm_store_writer_end. */
int fm_store_writer_begin(fm_store_writer *out, int fd, const char *path, const fm_store_head *head, int64_t part);
int fm_store_append(fm_store_writer *writer, const void *data, size_t size_bytes);
int fm_store_flush(fm_store_writer *writer);
void fm_store_writer_end(fm_store_writer *writer);

/* Seals the head with its CRC and writes it. */
int fm_store_head_write(fm_store_head *head, int fd, const char *path);

/* Reads the head of a file. Error: not an index, of another version, damaged. */
int fm_store_head_read(fm_store_head *out, int fd, const char *path);

/* Bytes [at, at + size_bytes) of a part's stream. */
int fm_store_read(void *out, int fd, const char *path, const fm_store_head *head, int64_t part, int64_t at, size_t size_bytes);

/* Checks a part's records, and its payload too where it is at most payload_limit_bytes. Error: damaged. */
int fm_store_verify(int fd, const char *path, const fm_store_head *head, int64_t part, int64_t payload_limit_bytes);

#endif
