/* What a job demands beyond single keys. All functions are local; complaints name where each value came from. */
#ifndef FM_JOB_CHECK_H
#define FM_JOB_CHECK_H

#include "job/job.h"

/* Contradictions within what was written, whatever the job is used for. */
void fm_job_check_written(fm_complaints *complaints, const fm_job *job);

/* What a training run on n_ranks (0: not known) needs on top of that. */
void fm_job_check_run(fm_complaints *complaints, const fm_job *job, int n_ranks);

/* What steps on made-up data need: a model, a mesh of n_ranks, and batches that fit it. */
void fm_job_check_steps(fm_complaints *complaints, const fm_job *job, int n_ranks);

/* "job.ini:12: [optimizer] lr = -1: " and the reason: one complaint about a key's value as it stands in the job. */
void fm_job_complain(fm_complaints *complaints, const fm_job *job, const char *section, const char *key, const char *format, ...)
    FM_PRINTF(5, 6);

#endif
