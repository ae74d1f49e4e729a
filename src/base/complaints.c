#include "base/complaints.h"

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* A message has room for about this much; a file that is wrong all over need not be listed to its end. */
enum { LINES_BYTES = 12000 };

void fm_complain(fm_complaints *list, const char *format, ...)
{
    char line[2048];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    fm_text_add(&list->lines, "%s\n", line);
    list->count++;
}

/* Cuts the text after the last line that fits. */
static void cut(fm_complaints *list)
{
    if (list->lines.size_bytes <= LINES_BYTES) {
        return;
    }
    char *end = list->lines.data + LINES_BYTES;
    while (end > list->lines.data && end[-1] != '\n') {
        end--;
    }
    *end = '\0';
    list->lines.size_bytes = (size_t)(end - list->lines.data);
    fm_text_add(&list->lines, "(more errors follow these)\n");
}

int fm_complaints_end(fm_complaints *list, int code, const char *what)
{
    int rc = FM_OK;
    if (list->lines.failed) {
        rc = FM_ERR_MEMORY;
    } else if (list->count > 0) {
        cut(list);
        list->lines.data[list->lines.size_bytes - 1] = '\0';
        rc = list->count == 1 ? fm_fail(code, "%s", list->lines.data)
                              : fm_fail(code, "%s: %d errors\n%s", what, list->count, list->lines.data);
    }
    fm_text_clear(&list->lines);
    list->count = 0;
    return rc;
}
