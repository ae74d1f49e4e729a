/* What a checkpoint holds, as a table for people. */
#ifndef FM_CKPT_INSPECT_H
#define FM_CKPT_INSPECT_H

#include "base/error.h"

/* Prints the tensors of an HF directory, a shard set, or one file (.h5, .safetensors) with dtype, shape, bytes and slices, and
 * the totals. A set or directory is checked as when it is opened for reading; one rank's file shows which rows and columns it has.
 * Local; errors: what is wrong with the files, or that the path is none of these. */
int fm_inspect(const char *path);

#endif
