/* Counted memory: every byte that finemesh allocates for itself is counted under what it is for, so that a peak can be
 * printed and compared with the estimate. */
#ifndef FM_BASE_MEMORY_H
#define FM_BASE_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* X(name, what it is called in tables) */
#define FM_MEMORY_LIST(X) \
    X(FM_MEMORY_PARAMETERS, "parameters") \
    X(FM_MEMORY_GRADIENTS, "gradients") \
    X(FM_MEMORY_STATES, "optimizer states") \
    X(FM_MEMORY_GATHERED, "gathered units") \
    X(FM_MEMORY_ACTIVATIONS, "activations") \
    X(FM_MEMORY_WORKSPACE, "workspace") \
    X(FM_MEMORY_CHECKPOINT, "checkpoint copy") \
    X(FM_MEMORY_HOST, "host data")

enum fm_memory {
#define FM_MEMORY_ENUM(name, text) name,
    FM_MEMORY_LIST(FM_MEMORY_ENUM)
#undef FM_MEMORY_ENUM
    FM_MEMORY_KINDS
};

/* Table name of a kind. Local; static storage. */
const char *fm_memory_name(enum fm_memory kind);

/* Zeroed memory of at least one byte, aligned to 64 bytes, or NULL with a message that says how much was asked for what.
 * The caller frees it with fm_free. Local, thread-safe. Pages are touched only when used. */
void *fm_alloc(size_t size_bytes, enum fm_memory kind);

/* fm_alloc of count * size with the overflow checked. */
void *fm_alloc_array(int64_t count, size_t size_bytes, enum fm_memory kind);

/* Grows (or makes, where `old` is NULL) an array; the added part is zeroed. On failure NULL and `old` is still valid. */
void *fm_grow(void *old, size_t size_bytes, enum fm_memory kind);

/* Says that a large block will be used from end to end: the system may give it large pages, which cost less to get. Local. */
void fm_memory_expect_use(void *block, size_t size_bytes);

/* Has the system give the block's pages now rather than at their first use, where it can. What is in the block stays, and others may use it
 * meanwhile. Local, thread-safe. */
void fm_memory_populate(void *block, size_t size_bytes);

/* A copy of a string under FM_MEMORY_HOST; NULL as in fm_alloc. */
char *fm_strdup(const char *text);

/* Frees what fm_alloc gave; NULL is allowed. Local, thread-safe. */
void fm_free(void *pointer);

/* Hands out the next part of a block of memory, `elements` of size_bytes from *used_bytes on, which moves to the next cache
 * line. base NULL: only counts, and gives NULL; so one function tells how much is needed and takes it. Local. */
void *fm_carve(void *base, size_t *used_bytes, int64_t elements, size_t size_bytes);

/* Counts memory that is not fm_alloc's own (a device's): change_bytes more, or less where negative. Local, thread-safe. */
void fm_memory_note(enum fm_memory kind, int64_t change_bytes);

/* Bytes in use now, and the most since the start, of one kind or (FM_MEMORY_KINDS) of all together. Local. */
size_t fm_memory_used_bytes(enum fm_memory kind);
size_t fm_memory_peak_bytes(enum fm_memory kind);

/* Peaks count from now on: what was needed before the first step is forgotten. Local. */
void fm_memory_forget_peaks(void);

/* Fails the n-th allocation from now on (0: none), for tests of what happens then. Local. */
void fm_memory_fail_at(int64_t n);

#endif
