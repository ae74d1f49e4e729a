#include "base/log.h"

#include <stdio.h>

static bool is_speaker = true;

void fm_log_set_speaker(bool speaks)
{
    is_speaker = speaks;
}

bool fm_log_is_speaker(void)
{
    return is_speaker;
}

static void say(const char *prefix, const char *format, va_list args) FM_PRINTF(2, 0);

static void say(const char *prefix, const char *format, va_list args)
{
    fflush(stdout);                    /* so that a person reads both streams in the order of events */
    flockfile(stderr);
    fputs(prefix, stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    funlockfile(stderr);
}

void fm_log_error(const char *format, ...)
{
    if (!is_speaker) {
        return;
    }
    va_list args;
    va_start(args, format);
    say("finemesh: error: ", format, args);
    va_end(args);
}

void fm_log_warning(const char *format, ...)
{
    if (!is_speaker) {
        return;
    }
    va_list args;
    va_start(args, format);
    say("finemesh: warning: ", format, args);
    va_end(args);
}

void fm_log_print(const char *format, ...)
{
    if (!is_speaker) {
        return;
    }
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}
