/* Reading a shard set of one or two files as `run` and `inspect` do. */
#ifndef FM_TESTS_FUZZ_SHARD_SET_H
#define FM_TESTS_FUZZ_SHARD_SET_H

#include "fuzz.h"

/* Writes manifest.json of a directory in which rank-00000.h5 and so on lie, opens the set and reads what is small enough; then reads
 * the first file alone. Whatever the index says must lie inside the files. */
void fuzz_read_set(const char *dir, int n_files);

#endif
