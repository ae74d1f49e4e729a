/* Post-processors: the ids that stand before and after every text. All functions are local. */
#ifndef FM_DATA_TOKENIZER_TEMPLATE_H
#define FM_DATA_TOKENIZER_TEMPLATE_H

#include "base/json.h"
#include "data/tokenizer_bytes.h"

/* A struct of zeros adds nothing. */
typedef struct {
    fm_bytes before, after;      /* int32_t */
    int32_t id_limit;            /* one more than the largest of them */
} fm_template;

/* Reads a post_processor (NULL or null: nothing). Errors: FM_ERR_UNSUPPORTED naming an unknown one, FM_ERR_FORMAT. */
int fm_template_read(fm_template *out, const json_t *post_processor, const char *name);
void fm_template_free(fm_template *template);

#endif
