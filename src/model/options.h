/* Options of [model] and [peft]. Filled in by the job; strings are borrowed from it. */
#ifndef FM_MODEL_OPTIONS_H
#define FM_MODEL_OPTIONS_H

#include "tensor/options.h"

enum fm_init { FM_INIT_PRETRAINED, FM_INIT_RANDOM };

/* [model] */
typedef struct {
    char *path;                        /* HF directory, absolute */
    enum fm_dtype_choice dtype;        /* of compute; FM_DTYPE_AUTO or a type */
    enum fm_init init;
} fm_model_options;

enum fm_peft_type { FM_PEFT_NONE, FM_PEFT_LORA, FM_PEFT_DORA };

/* [peft]: W + alpha / dim * B A */
typedef struct {
    enum fm_peft_type type;
    int dim;
    double alpha;
    double dropout;                    /* 0 <= dropout < 1 */
    char *target_modules;              /* patterns of module names, comma separated */
} fm_peft_options;

#endif
