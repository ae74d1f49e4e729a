/* What the fuzz targets share. A target is one file fuzz_X.c with fuzz_begin and fuzz_one; linked with clang's libFuzzer it
 * searches for inputs, linked with replay.c (any compiler) it is given files. */
#ifndef FM_TESTS_FUZZ_H
#define FM_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/file.h"

/* The target's: what stays the same for all inputs, and one input. Whatever fuzz_one allocates it frees: counted memory is
 * compared before and after. */
void fuzz_begin(void);
void fuzz_one(const char *data, size_t size_bytes);

/* What must hold whatever the input: aborts, with the place. */
#define FUZZ_CHECK(condition) FM_ASSERT(condition)

/* A stretch of an input. */
typedef struct {
    const char *data;
    size_t size_bytes;
} fuzz_part;

/* The next part of an input that consists of several, which a line "%%" separates; empty where there is none left. */
fuzz_part fuzz_next(fuzz_part *rest);

/* The next line of a part, without its newline; false at its end. */
bool fuzz_line(fuzz_part *line, fuzz_part *rest);

/* A copy with a 0 byte behind it, freed with fm_free. */
char *fuzz_copy(fuzz_part part);

/* Passes a result on. A failure must have a sentence for the person, and be about the input: never "internal error", and never
 * "out of memory" by something small that says that it is large. */
int fuzz_result(int rc);

/* A directory of this process's own, removed at the end. */
const char *fuzz_dir(void);

/* DIR/NAME of it, and a file there. */
void fuzz_path(char path[FM_PATH_BYTES], const char *name);
void fuzz_write(const char *name, const void *data, size_t size_bytes);

#endif
