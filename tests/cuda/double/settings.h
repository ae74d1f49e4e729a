/* What the environment says to the doubles. */
#ifndef TESTS_CUDA_DOUBLE_SETTINGS_H
#define TESTS_CUDA_DOUBLE_SETTINGS_H

#include <stdlib.h>
#include <string.h>

static inline long setting(const char *name, long otherwise)
{
    const char *const text = getenv(name);
    return text == NULL || *text == '\0' ? otherwise : strtol(text, NULL, 10);
}

/* CODE where this is the N-th call of `call` and VARIABLE is CALL@N=CODE; else 0. With FM_DOUBLE_RANK only on that rank of a launcher
 * that says PMI_RANK. */
static inline int setting_failure(const char *variable, const char *call, long *n_calls)
{
    const char *const text = getenv(variable);
    const size_t length = strlen(call);
    const long only = setting("FM_DOUBLE_RANK", -1);
    if (text == NULL || strncmp(text, call, length) != 0 || text[length] != '@' || (only >= 0 && only != setting("PMI_RANK", 0))) {
        return 0;
    }
    char *end;
    const long n = strtol(text + length + 1, &end, 10);
    return ++*n_calls == n && *end == '=' ? (int)strtol(end + 1, NULL, 10) : 0;
}

#endif
