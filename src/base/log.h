/* What finemesh says to its person. One rank speaks; who it is, is kept here. */
#ifndef FM_BASE_LOG_H
#define FM_BASE_LOG_H

#include <stdbool.h>

#include "base/error.h"

/* Makes this process the speaker or silences it. Before the first call every process speaks. Local. */
void fm_log_set_speaker(bool speaks);
bool fm_log_is_speaker(void);

/* "finemesh: error: ..." and "finemesh: warning: ..." on stderr, from the speaker. Local. */
void fm_log_error(const char *format, ...) FM_PRINTF(1, 2);
void fm_log_warning(const char *format, ...) FM_PRINTF(1, 2);

/* A line on stdout, from the speaker; the format carries its own newline. Local. */
void fm_log_print(const char *format, ...) FM_PRINTF(1, 2);

#endif
