/* Text to token ids and back, as transformers' AutoTokenizer does it for the same directory.
 *
 * Read from tokenizer.json (model BPE, byte-level or SentencePiece-like), tokenizer_config.json and, for the rules by which
 * transformers chooses a tokenizer class, config.json. A tokenizer is constant once open: any number of threads may use one. */
#ifndef FINEMESH_TOKENIZER_H
#define FINEMESH_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finemesh/error.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_tokenizer fm_tokenizer;

enum fm_tokenizer_file { FM_TOKENIZER_JSON, FM_TOKENIZER_CONFIG, FM_TOKENIZER_MODEL_CONFIG, FM_TOKENIZER_FILES };

/* The texts that make a tokenizer, so that one rank can read them and others be sent them. text[i] is NULL where a file is
 * absent; only FM_TOKENIZER_JSON must be there. */
typedef struct {
    char *text[FM_TOKENIZER_FILES];
    size_t size_bytes[FM_TOKENIZER_FILES];
} fm_tokenizer_texts;

/* Reads the files of an HF directory. The caller frees the texts with fm_tokenizer_texts_free. Local.
 * Errors: no tokenizer.json, a file unreadable or too large. */
int fm_tokenizer_texts_read(fm_tokenizer_texts *out, const char *model_dir);
void fm_tokenizer_texts_free(fm_tokenizer_texts *texts);

/* Makes a tokenizer of texts, which are not needed afterwards; `name` (a directory) stands in errors. The caller destroys it.
 * Local. Errors: FM_ERR_FORMAT with what was found and expected; FM_ERR_UNSUPPORTED naming the component or the class. */
int fm_tokenizer_new(fm_tokenizer **out, const fm_tokenizer_texts *texts, const char *name);

/* fm_tokenizer_texts_read and fm_tokenizer_new. Local. */
int fm_tokenizer_open(fm_tokenizer **out, const char *model_dir);

/* NULL is allowed. */
void fm_tokenizer_destroy(fm_tokenizer *tokenizer);

/* What transformers' tokenizer(text)["input_ids"] gives; without the added beginning or end where add_special is false (special
 * tokens written out in the text become tokens either way). *ids[*n_ids] is the caller's, freed with fm_tokenizer_free. The text
 * may hold 0 bytes. Local, thread-safe. Errors: FM_ERR_FORMAT with the offset of the byte that is not UTF-8; memory. */
int fm_tokenizer_encode(int32_t **ids, int64_t *n_ids, const fm_tokenizer *tokenizer, const char *text, size_t size_bytes,
                        bool add_special);

/* What transformers' tokenizer.decode(ids) gives: ids without a token are left out, and special ones where skip_special is true.
 * *text is the caller's, freed with fm_tokenizer_free; a 0 byte that is not counted follows. Local, thread-safe.
 * Errors: FM_ERR_FORMAT for a negative id; memory. */
int fm_tokenizer_decode(char **text, size_t *size_bytes, const fm_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids,
                        bool skip_special);

/* Frees what encode and decode gave; NULL is allowed. */
void fm_tokenizer_free(void *pointer);

/* The ids of tokenizer_config.json's eos_token and bos_token, or -1 where it names none or none that has an id. Local. */
int32_t fm_tokenizer_eos_id(const fm_tokenizer *tokenizer);
int32_t fm_tokenizer_bos_id(const fm_tokenizer *tokenizer);

/* One more than the largest id. A model may have more rows than that. Local. */
int32_t fm_tokenizer_vocab_size(const fm_tokenizer *tokenizer);

/* The id of one token by its spelling in tokenizer.json, or -1. Local. */
int32_t fm_tokenizer_token_id(const fm_tokenizer *tokenizer, const char *token);

#ifdef __cplusplus
}
#endif
#endif
