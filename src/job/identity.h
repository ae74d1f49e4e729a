/* What a run depends on beside its settings: model, tokenizer, data, batch. A checkpoint carries it, so that a resume notices
 * what has changed. */
#ifndef FM_JOB_IDENTITY_H
#define FM_JOB_IDENTITY_H

#include <jansson.h>

#include "job/inputs.h"

/* An object of texts, one a thing that can change, keyed as the job file's keys are. Checksums, no times: a copy of the same
 * files is the same. It reads the headers of the model's files. The caller releases *out with json_decref. Local. */
int fm_identity_make(json_t **out, const fm_assembly *a, const fm_inputs *inputs, const fm_dataset *train);

/* FM_ERR_JOB where the two differ, with everything that does and the override that allows it; `allowed`: only a warning.
 * `where`: the checkpoint. Local. */
int fm_identity_compare(const json_t *was, const json_t *is, bool allowed, const char *where);

/* A number that differs where a run of the job would give other numbers or write other results. Local. */
int fm_identity_fingerprint(uint32_t *out, const json_t *identity, const fm_job *job);

#endif
