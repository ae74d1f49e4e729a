/* The normalizer, the pre-tokenizer and the decoder of tokenizer.json, each as a list of simple steps over words in a buffer.
 *
 * tokenizer.json's components are combinations of few things: Metaspace is replace, prefix, split; ByteLevel is prefix, split,
 * bytes. They are taken apart when the file is read; what runs is a list of steps. All functions are local; a finished pipeline
 * is constant and may be used by many threads. */
#ifndef FM_DATA_TOKENIZER_PIPELINE_H
#define FM_DATA_TOKENIZER_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "data/tokenizer_regex.h"
#include "data/tokenizer_bytes.h"

/* A stretch of a buffer. */
typedef struct {
    size_t begin, end;
    bool at_start;                  /* begins where the whole text begins */
} fm_word;

/* Words in a buffer, with what the steps need besides. A struct of zeros is empty. */
typedef struct {
    fm_bytes text;
    fm_bytes words;                  /* fm_word */
    fm_bytes other_text, other_words;        /* where the next step writes before the two pairs are swapped */
    fm_bytes stack;                  /* of the regular expressions */
} fm_words;

typedef struct fm_pipeline fm_pipeline;

void fm_words_free(fm_words *words);

/* Starts again with one word, a copy of this. Error: memory. */
int fm_words_start(fm_words *words, const char *text, size_t size_bytes, bool at_start);

/* Adds a word behind the others. Error: memory. */
int fm_words_add(fm_words *words, const char *text, size_t size_bytes);

static inline size_t fm_words_count(const fm_words *words)
{
    return words->words.size_bytes / sizeof(fm_word);
}

static inline const fm_word *fm_words_list(const fm_words *words)
{
    return (const fm_word *)(const void *)words->words.bytes;
}

/* Which of tokenizer.json's three lists of components a value belongs to. */
enum fm_pipeline_kind { FM_PIPELINE_NORMALIZER, FM_PIPELINE_PRE_TOKENIZER, FM_PIPELINE_DECODER, FM_PIPELINE_KINDS };

/* Compiles a component (NULL or null: no step). The caller destroys it. `name` stands in errors. Errors: FM_ERR_UNSUPPORTED
 * naming an unknown component and the known ones, FM_ERR_FORMAT for one that is not as it should be. */
int fm_pipeline_new(fm_pipeline **out, const json_t *component, enum fm_pipeline_kind kind, const char *name);
void fm_pipeline_destroy(fm_pipeline *pipeline);

/* Applies all steps. Error: memory. */
int fm_pipeline_run(const fm_pipeline *pipeline, fm_words *words);

/* Whether there is no step at all. */
bool fm_pipeline_is_empty(const fm_pipeline *pipeline);

#endif
