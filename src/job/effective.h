/* The job as a person reads it again: the effective job file and the settings table. All functions are local. */
#ifndef FM_JOB_EFFECTIVE_H
#define FM_JOB_EFFECTIVE_H

#include "job/job.h"

/* Keeps a remark on a key, e.g. what 0 or auto became, or the checksum of a source: a comment above the key in the effective job
 * and a column of the settings table. Several remarks on one key are kept in order. Section and key must be in the table. */
int fm_job_note(fm_job *job, const char *section, const char *key, const char *format, ...) FM_PRINTF(4, 5);

/* The effective job as the text of a job file for the same run: every key in table order, remarks as comments. *text is freed
 * with fm_free. */
int fm_job_write(char **text, size_t *size_bytes, const fm_job *job);

/* The settings table on stdout, from the speaker: every key away from its default or with a remark. */
void fm_job_print(const fm_job *job);

#endif
