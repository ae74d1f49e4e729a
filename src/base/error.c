#include "base/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE_BYTES = 16384 };

/* One sentence a thread, and whether all ranks have it: the only state that an error has besides its code. */
static _Thread_local char message[MESSAGE_BYTES];
static _Thread_local bool is_agreed;

const char *fm_error_text(int code)
{
    switch (code) {
#define ERROR_CASE(name, value, text) case value: return text;
        FM_ERROR_LIST(ERROR_CASE)
#undef ERROR_CASE
    }
    return "unknown error";
}

const char *fm_error_message(void)
{
    return message;
}

int fm_fail(int code, const char *format, ...)
{
    char text[MESSAGE_BYTES];          /* the arguments may point into the old message */
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    return fm_fail_with(code, text);
}

int fm_fail_in(int code, const char *format, ...)
{
    char context[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);
    const bool was_agreed = is_agreed;
    fm_fail(code, "%s: %s", context, message);
    is_agreed = was_agreed;
    return code;
}

int fm_fail_with(int code, const char *text)
{
    snprintf(message, sizeof message, "%s", text[0] != '\0' ? text : fm_error_text(code));
    is_agreed = false;
    return code;
}

void fm_error_set_agreed(void)
{
    is_agreed = true;
}

bool fm_error_is_agreed(void)
{
    return is_agreed;
}

void fm_assert_failed(const char *condition, const char *file, int line)
{
    fprintf(stderr, "finemesh: error: %s:%d: internal check failed: %s\n", file, line, condition);
    abort();
}
