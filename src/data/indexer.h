/* One rank's work on an index: reads its share of the lines and writes its part of the store. */
#ifndef FM_DATA_INDEXER_H
#define FM_DATA_INDEXER_H

#include "data/sample.h"
#include "data/store.h"

/* What a rank found, for the head. Zeros: nothing. */
typedef struct {
    fm_store_part totals;
    int64_t *stretches;           /* [n_files][2], the caller's: bytes and CRC of what was read of each file */
} fm_indexer_found;

/* Indexes part `part` of head->n_parts, even shares of the bytes of all files as if they were one, into the open store `fd`,
 * which `path` names in errors. Local. Errors: those of the files; of a line, with file and number; the store
 * cannot be written. */
int fm_indexer_run(fm_indexer_found *found, int fd, const char *path, const fm_store_head *head, int64_t part,
                   fm_sample_parser *parser);

#endif
