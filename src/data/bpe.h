/* Byte-pair encoding: a vocabulary, the ranks of its merges, and the encoding of one word.
 *
 * It is Hugging Face's model BPE: a word starts as one symbol a character; of all neighbouring pairs that merge, the one of the
 * lowest rank, leftmost first, is merged until none is left. Characters outside the vocabulary become their bytes' <0xHH> tokens
 * (byte_fallback), or the unknown token, or nothing. All functions are local; a finished model is constant and may be used by
 * many threads. */
#ifndef FM_DATA_BPE_H
#define FM_DATA_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer_bytes.h"

/* Ids are below this; a larger one can only be a mistake, and the table of tokens is as long as the largest. */
enum { FM_BPE_MAX_ID = 1 << 24 };

typedef struct fm_bpe fm_bpe;

typedef struct {
    const char *unk_token;       /* borrowed during finish only; NULL: characters without a token vanish */
    bool fuse_unk;               /* neighbouring unknown characters become one token */
    bool byte_fallback;
    bool ignore_merges;          /* a word that is itself in the vocabulary is that token */
} fm_bpe_options;

/* An empty model; `name` stands in errors and must outlive the building. The caller destroys it. */
int fm_bpe_new(fm_bpe **out, const char *name);
void fm_bpe_destroy(fm_bpe *bpe);

/* Adds a token (copied). Errors: its id is taken or out of bounds, or it is there already. */
int fm_bpe_add_token(fm_bpe *bpe, const char *token, size_t size_bytes, int64_t id);

/* Adds the next merge, after all tokens; a repeated pair keeps its last rank. Errors: a part or the whole is no token. */
int fm_bpe_add_merge(fm_bpe *bpe, const char *left, size_t left_bytes, const char *right, size_t right_bytes);

/* Ends the building. Error: unk_token is no token. */
int fm_bpe_finish(fm_bpe *bpe, const fm_bpe_options *options);

/* The id of a token, or -1; the token of an id (not 0-terminated, owned by the model), or NULL. */
int32_t fm_bpe_find(const fm_bpe *bpe, const char *token, size_t size_bytes);
const char *fm_bpe_token(const fm_bpe *bpe, int32_t id, size_t *size_bytes);

/* One more than the largest id; number of tokens. */
int32_t fm_bpe_id_limit(const fm_bpe *bpe);
int32_t fm_bpe_n_tokens(const fm_bpe *bpe);

/* What encoding needs beside the model: one for each thread, zeroed at first, kept between words. */
typedef struct {
    fm_bytes ids, symbols, queue;
} fm_bpe_scratch;

void fm_bpe_scratch_free(fm_bpe_scratch *scratch);

/* Appends the ids (int32_t) of one word of valid UTF-8, in time proportional to its length. Error: memory. */
int fm_bpe_encode(fm_bytes *ids, const fm_bpe *bpe, const char *word, size_t size_bytes, fm_bpe_scratch *scratch);

#endif
