/* The tokenizer classes of transformers: some build their own normalizer, pre-tokenizer and decoder and take only vocabulary,
 * merges and post-processor from tokenizer.json. */
#ifndef FM_DATA_TOKENIZER_CLASS_H
#define FM_DATA_TOKENIZER_CLASS_H

#include <stdbool.h>

#include "base/json.h"

/* What a class puts in the file's place; the named tokens are those that it has where tokenizer_config.json is silent. */
typedef struct {
    const char *name;                       /* without Fast */
    bool is_plain;                          /* takes tokenizer.json as it is */
    const char *bos, *eos, *unk, *pad;
} fm_tokenizer_class;

/* The class that transformers' AutoTokenizer would take. `config` (tokenizer_config.json) and `model_config` (config.json) may be
 * NULL; `byte_level`: tokenizer.json names a ByteLevel. *out has static storage. Local.
 * Error: FM_ERR_UNSUPPORTED for a class that transformers builds by rules unknown here. */
int fm_tokenizer_class_choose(const fm_tokenizer_class **out, const json_t *config, const json_t *model_config, bool byte_level,
                              const char *name);

/* Puts the class's components into tokenizer.json's value `file` in place of those it has. Nothing for a plain class.
 * Error: memory; a value of the wrong type in `config`. */
int fm_tokenizer_class_apply(json_t *file, const fm_tokenizer_class *chosen, const json_t *config, const char *name);

#endif
