/* Reading tokenizer.json: its vocabulary and merges, which are nearly all of it, straight into a BPE model; the rest as JSON. */
#ifndef FM_DATA_TOKENIZER_FILE_H
#define FM_DATA_TOKENIZER_FILE_H

#include <stddef.h>

#include "base/json.h"
#include "data/bpe.h"

/* Fills `bpe` with the tokens and merges of model.vocab and model.merges and gives the rest of the file, in which those two are
 * empty. The caller releases *rest with json_decref. Local. Errors: not UTF-8, not JSON, a vocabulary or merges that are none. */
int fm_tokenizer_file_parse(json_t **rest, fm_bpe *bpe, const char *text, size_t size_bytes, const char *name);

#endif
