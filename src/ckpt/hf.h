/* A Hugging Face model directory: its safetensors files, one or many, and what tells one state of it from another.
 * All functions are local. */
#ifndef FM_CKPT_HF_H
#define FM_CKPT_HF_H

#include <jansson.h>

#include "ckpt/index.h"

/* Reads and checks the headers of DIR/model.safetensors, or of the files that DIR/model.safetensors.index.json names (the
 * former where both are there, as transformers does), into an empty index, which the caller seals. Refused: names of files that
 * leave the directory, tensors that the index lists and its file does not hold, and the other way round. */
int fm_hf_scan(fm_index *index, const char *dir);

/* The identity of a source: an array of {"name", "size", "mtime_ns", "crc32"} of config.json, the index and the safetensors files
 * (for those the CRC of their headers alone). Two directories with equal identities hold the same model. The caller releases
 * *out with json_decref. */
int fm_hf_identity(json_t **out, const char *dir);

#endif
