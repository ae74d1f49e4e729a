/* Two sets of tensors, number by number. */
#ifndef FM_CKPT_COMPARE_H
#define FM_CKPT_COMPARE_H

#include "base/error.h"

/* Prints a line for every tensor that is not the same, bit by bit, in A and B (each an HF directory, a shard set or a
 * checkpoint of any mesh): where it is missing, which dtypes or shapes it has, or how many numbers differ and by how much at
 * most. FM_ERR_FORMAT where anything differs. Memory: bands of a few MiB. Local. */
int fm_compare(const char *a, const char *b);

#endif
