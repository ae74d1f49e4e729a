/* An HF directory (or a shard set of another mesh) -> shards of a mesh. */
#ifndef FM_CKPT_CONVERT_H
#define FM_CKPT_CONVERT_H

#include "mesh/comm.h"
#include "parallel/layout.h"

/* What was done, on all ranks together. */
typedef struct {
    bool reused;                       /* the shards of an unchanged source were there */
    int64_t bytes_read, requests;      /* of the source's files */
    int64_t bytes_written;             /* of tensors */
} fm_convert_report;

/* Writes the layout's tensors into SHARDS_DIR (complete or not at all), each in the source's dtype, which is also set in
 * `tensors` (layout->tensors without the const). With `reuse`, shards that were made from the same state of the source, by whatever mesh,
 * are left as they are.
 *
 * Any number of ranks does it: where `world` is as large as the mesh each rank writes its own file, and its tp peers (`tp`) share
 * what is read; else whole groups of tp coordinates are dealt out to the ranks, and `tp` is ignored. A rank streams what it
 * keeps, in bands: its memory does not grow with the model. Errors: fm_match_tensors', files'; then nothing is left behind.
 * Collective on world (NULL: one rank). */
int fm_convert(fm_convert_report *report, const char *shards_dir, const char *source_dir, const fm_layout *layout,
               fm_tensor_spec *tensors, bool reuse, fm_comm *world, fm_comm *tp);

#endif
