/* A dataset: the samples of a list of JSONL files, checked and indexed as a whole before the first step.
 *
 * The ranks of a communicator share the lines, and write what they found - token ids, labels, counts - into one index file,
 * from which every rank reads the samples of its batches. The index serves later runs while files and options stay the same. */
#ifndef FM_DATA_DATASET_H
#define FM_DATA_DATASET_H

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "data/options.h"
#include "mesh/comm.h"

struct fm_tokenizer;

typedef struct fm_dataset fm_dataset;

/* What is to be opened. Everything is borrowed for the call only. */
typedef struct {
    const char *files;                    /* options->train or options->validation */
    const fm_data_options *options;
    int64_t vocab_size;                   /* V of the model: ids are 0 .. V - 1 */
    const struct fm_tokenizer *tokenizer; /* NULL: only the tokens format can be read */
    const char *tokenizer_identity;       /* differs where the tokenizer does (a CRC of its files, say); NULL: "" */
    int64_t eos_token;                    /* config.json's, for a tokenizer that names none; -1: none */
    const char *cache_path;               /* of the index; NULL: it is kept in memory, for one rank only */
} fm_dataset_spec;

typedef struct {
    enum fm_data_format format;
    int64_t n_files, source_bytes;
    int64_t samples, cut_samples;         /* cut: longer than seq_length */
    int64_t tokens, label_tokens;         /* after cut and shift */
    int64_t longest;                      /* tokens of the longest sample */
    bool from_cache;                      /* nothing was read but the index */
} fm_dataset_summary;

/* A sample's size without its tokens. */
typedef struct {
    int64_t tokens;
    int64_t label_tokens;                 /* after the shift */
    int64_t file, line_at;                /* where it stands: file of the list, byte of its line */
} fm_sample_info;

/* Finds the files, takes the index if it is theirs and whole, else reads all lines and writes it. Collective on comm (NULL: one
 * rank). Errors, on all ranks alike: those of the files (IO), of a line, with file and number (FORMAT), no sample at all; the
 * index cannot be written. A damaged index is made anew. Close with fm_dataset_close. */
int fm_dataset_open(fm_dataset **out, const fm_dataset_spec *spec, fm_comm *comm);

/* Local; NULL is allowed. */
void fm_dataset_close(fm_dataset *dataset);

/* Local. */
int64_t fm_dataset_samples(const fm_dataset *dataset);
void fm_dataset_summarize(fm_dataset_summary *out, const fm_dataset *dataset);

/* A source file: its name (owned by the dataset), size, time and CRC as they were when it was indexed. Local. */
int64_t fm_dataset_files(const fm_dataset *dataset);
const char *fm_dataset_file(int64_t *size_bytes, int64_t *mtime_ns, uint32_t *crc, const fm_dataset *dataset, int64_t file);

/* Counts of sample 0 <= sample < fm_dataset_samples. Local. Error: the index cannot be read. */
int fm_dataset_info(fm_sample_info *out, const fm_dataset *dataset, int64_t sample);

/* ids and labels, each [fm_sample_info.tokens]; labels stand beside their ids, not shifted, -100 is ignored. Local. Error: the
 * index cannot be read, or was damaged since it was opened. */
int fm_dataset_read(int32_t *ids, int32_t *labels, const fm_dataset *dataset, int64_t sample);

#endif
