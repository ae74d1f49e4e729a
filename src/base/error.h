/* How finemesh's own functions fail: a code is returned, a sentence for the person is kept for this thread. */
#ifndef FM_BASE_ERROR_H
#define FM_BASE_ERROR_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "finemesh/error.h"

#define FM_PRINTF(at, first) __attribute__((format(printf, at, first)))

/* Keeps the sentence and returns `code`, so that a function can say `return fm_fail(FM_ERR_IO, "%s: ...", path)`. Local. */
int fm_fail(int code, const char *format, ...) FM_PRINTF(2, 3);

/* Puts "CONTEXT: " before the kept sentence and returns `code` unchanged. Local. */
int fm_fail_in(int code, const char *format, ...) FM_PRINTF(2, 3);

/* Replaces the kept sentence: for errors that came from another rank. Local. */
int fm_fail_with(int code, const char *message);

/* Whether all ranks of the run have failed with the kept sentence: it need be said once, and nobody waits for anybody. Said by
 * fm_comm_agree over the world; any later failure of this thread's own makes it false. Local. */
void fm_error_set_agreed(void);
bool fm_error_is_agreed(void);

/* Leaves the function with the code of a failing call. */
#define FM_TRY(call) \
    do { \
        const int fm_try_rc_ = (call); \
        if (fm_try_rc_ < 0) { \
            return fm_try_rc_; \
        } \
    } while (0)

/* The same where there is something to clean up: sets `rc` and goes to the label. */
#define FM_TRY_TO(label, rc, call) \
    do { \
        (rc) = (call); \
        if ((rc) < 0) { \
            goto label; \
        } \
    } while (0)

/* Our own bugs: prints the place and aborts. Never used on anything that comes from outside. */
#define FM_ASSERT(condition) ((condition) ? (void)0 : fm_assert_failed(#condition, __FILE__, __LINE__))
void fm_assert_failed(const char *condition, const char *file, int line) __attribute__((noreturn));

#endif
