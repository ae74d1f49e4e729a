/* The files that a job's list of names and globs means, and the lines of a stretch of one of them. All functions are local. */
#ifndef FM_DATA_FILES_H
#define FM_DATA_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/file.h"

enum { FM_LINE_LIMIT_BYTES = 16 << 20 };

/* Names owned here; zeros are an empty list. */
typedef struct {
    int64_t n_files;
    char **path;
    fm_file_identity *identity;
} fm_files;

/* Finds the files of a comma separated list: a name that exists is itself, else it is a glob, whose matches are sorted bytewise.
 * Errors: nothing given, a name or glob without a file, a file that cannot be read. Free with fm_files_free, after errors too. */
int fm_files_find(fm_files *out, const char *list);
void fm_files_free(fm_files *files);

/* Reads the lines that start in [begin, end) of a file, to the end of the last of them: ranges that tile the file give every
 * line to exactly one reader. */
typedef struct fm_lines fm_lines;

/* Error: not there, or not of the size and time expected. Close with fm_lines_close (NULL is allowed). */
int fm_lines_open(fm_lines **out, const char *path, const fm_file_identity *expected, int64_t begin, int64_t end);
void fm_lines_close(fm_lines *lines);

/* The next line without its newline; valid until the next call. Returns 1, or 0 after the last one; blank lines are skipped.
 * Errors: unreadable; longer than FM_LINE_LIMIT_BYTES, naming the line; at the end: the file changed meanwhile. */
int fm_lines_next(fm_lines *lines, const char **line, size_t *size_bytes, int64_t *at);

/* Length and CRC of the lines so far, blank ones and newlines too: those of neighbouring ranges are the file's. */
void fm_lines_crc(const fm_lines *lines, int64_t *size_bytes, uint32_t *crc);

/* The number of the line, from 1, that starts at byte `at`: reads the file up to there. Error: unreadable. */
int fm_lines_number(int64_t *out, const char *path, int64_t at);

#endif
