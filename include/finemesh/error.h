/* Errors of the public library.
 *
 * Every fallible function returns 0 (FM_OK) or one of the negative codes below and leaves a sentence for the person who
 * reads it; fm_error_message() gives that sentence. The library never exits and never prints an error by itself. */
#ifndef FINEMESH_ERROR_H
#define FINEMESH_ERROR_H

#ifdef __cplusplus
extern "C" {
#endif

/* X(name, value, what it says when no more is known) */
#define FM_ERROR_LIST(X) \
    X(FM_OK, 0, "no error") \
    X(FM_ERR_MEMORY, -1, "out of memory") \
    X(FM_ERR_IO, -2, "a file could not be read or written") \
    X(FM_ERR_FORMAT, -3, "a file does not say what its format demands") \
    X(FM_ERR_JOB, -4, "the job is wrong") \
    X(FM_ERR_UNSUPPORTED, -5, "not supported") \
    X(FM_ERR_COMM, -6, "communication failed") \
    X(FM_ERR_NUMERIC, -7, "a number became infinite or NaN") \
    X(FM_ERR_DEVICE, -8, "the device failed") \
    X(FM_ERR_STOPPED, -9, "stopped on request") \
    X(FM_ERR_INTERNAL, -10, "internal error: please report it")

enum fm_error {
#define FM_ERROR_ENUM(name, value, text) name = value,
    FM_ERROR_LIST(FM_ERROR_ENUM)
#undef FM_ERROR_ENUM
};

/* The standing text of a code. Local; never NULL; static storage. */
const char *fm_error_text(int code);

/* The sentence that the last failing call on this thread left. Local; valid until the next failing call. */
const char *fm_error_message(void);

#ifdef __cplusplus
}
#endif
#endif
