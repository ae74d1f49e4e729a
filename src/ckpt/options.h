/* Options of [checkpoint]. Filled in by the job; strings are borrowed from it. */
#ifndef FM_CKPT_OPTIONS_H
#define FM_CKPT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum fm_export { FM_EXPORT_NO, FM_EXPORT_FINAL, FM_EXPORT_EVERY };

/* [checkpoint] */
typedef struct {
    int64_t every;                     /* steps; 0: none but on a signal */
    int64_t keep;                      /* complete checkpoints kept */
    char *resume;                      /* "auto", "no" or an absolute directory */
    enum fm_export export_when;        /* HF directory */
    bool allow_changes;                /* resume although the inputs are others */
} fm_checkpoint_options;

#endif
