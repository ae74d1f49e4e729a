/* What is wrong with a file or a command line, collected so that a person hears of all of it at once. All functions are local. */
#ifndef FM_BASE_COMPLAINTS_H
#define FM_BASE_COMPLAINTS_H

#include "base/text.h"

/* Start from a struct of zeros. */
typedef struct {
    fm_text lines;                     /* a line each, every one ends with a newline */
    int count;
} fm_complaints;

/* Adds one line; the format carries no newline. */
void fm_complain(fm_complaints *list, const char *format, ...) FM_PRINTF(2, 3);

/* FM_OK where there are none, else `code` with one message: the only line, or "WHAT: N errors" and the lines below it. Empties
 * the list. FM_ERR_MEMORY where a line could not be kept. */
int fm_complaints_end(fm_complaints *list, int code, const char *what);

#endif
