/* A shard set or checkpoint -> an HF directory, while other things go on. */
#ifndef FM_CKPT_EXPORT_SET_H
#define FM_CKPT_EXPORT_SET_H

#include "ckpt/export.h"

typedef struct fm_set_export fm_set_export;

/* Begins to write OUT_DIR from the finished set SET_DIR (masters where there are some), rows of every tensor dealt out over the
 * ranks: nothing is read twice, and no rank holds the model. A thread of each rank does it, from the files; `layout` (whatever
 * its mesh) tells the tensors and the dtypes that are written, and its arrays are borrowed until the end. MODEL_DIR has
 * configuration and tokenizer. The error is agreed. Collective on world (NULL: one rank). */
int fm_set_export_begin(fm_set_export **out, const char *out_dir, const char *set_dir, const fm_layout *layout,
                        const char *model_dir, fm_comm *world);

/* Whether fm_set_export_end would not wait here; NULL is allowed: it would not. Local. */
bool fm_set_export_is_written(const fm_set_export *export);

/* Waits; then OUT_DIR is complete. Frees, after an error too. NULL (on all ranks) is allowed. Collective on world. */
int fm_set_export_end(fm_set_export *export, fm_comm *world);

/* Stops, removes what was written and frees; NULL is allowed. The kept error message stays. Local. */
void fm_set_export_abandon(fm_set_export *export);

#endif
