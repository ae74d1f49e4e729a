/* The files of an HF directory that are no tensors: config.json, tokenizer, chat template. All functions are local. */
#ifndef FM_CKPT_HF_FILES_H
#define FM_CKPT_HF_FILES_H

#include <stdbool.h>

#include "base/error.h"

/* Copies the tokenizer, chat template and generation files that are there, byte for byte (links are followed), and config.json
 * without its "transformers_version"; each is synced. */
int fm_hf_files_copy(const char *to_dir, const char *from_dir);

/* Whether the files that would be copied can be opened: asked before a run whose end will want them. */
int fm_hf_files_check(const char *dir);

/* Whether a directory holds a config.json and is no shard set, which has one too. */
bool fm_hf_files_is_model(const char *dir);

#endif
