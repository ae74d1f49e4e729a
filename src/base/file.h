/* Files, the POSIX way, with errors for the person. Nothing here knows what is in them. All functions are local. */
#ifndef FM_BASE_FILE_H
#define FM_BASE_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/error.h"

enum { FM_PATH_BYTES = 4096 };

/* What tells one state of a file from another without reading it. */
typedef struct {
    int64_t size_bytes;
    int64_t mtime_ns;
} fm_file_identity;

/* "DIR/NAME" into out[FM_PATH_BYTES]; an absolute NAME stays itself. Error: too long. */
int fm_path_join(char *out, const char *dir, const char *name);

/* Whether a name of name_bytes, which came from a file, can only be a file in the directory itself: no '/', no '.' in front, no
 * control characters (0 bytes and newlines are some). */
bool fm_path_is_plain(const char *name, size_t name_bytes);

bool fm_path_exists(const char *path);
bool fm_path_is_dir(const char *path);

/* Size and modification time. Error: not there, or not a regular file. */
int fm_file_stat(fm_file_identity *out, const char *path);

/* The whole file, with a 0 byte after it that is not counted; the caller frees *out with fm_free.
 * Error: larger than limit_bytes, or unreadable. */
int fm_file_read(char **out, size_t *size_bytes, const char *path, size_t limit_bytes);

/* Opens for reading. *fd is closed with close(). */
int fm_file_open(int *fd, int64_t *size_bytes, const char *path);

/* Of an open file. */
int fm_file_identify(fm_file_identity *out, int fd, const char *path);

/* Exactly size_bytes at offset, or an error that names `path` (a short file too). */
int fm_file_pread(int fd, void *out, size_t size_bytes, int64_t offset, const char *path);
int fm_file_pwrite(int fd, const void *data, size_t size_bytes, int64_t offset, const char *path);

/* Writes PATH.tmp, syncs it, renames it to PATH and syncs the directory: the file is old or new, never half. */
int fm_file_replace(const char *path, const void *data, size_t size_bytes);

/* fsync of a file or directory by name. */
int fm_path_sync(const char *path);
/* The same of the directory that a file or directory lies in: what holds its name. */
int fm_path_sync_parent(const char *path);

/* rename(2), then a sync of the directory that holds `to`. */
int fm_path_rename(const char *from, const char *to);

/* mkdir -p. */
int fm_dir_make(const char *path);

/* rm -r of a tree that finemesh itself wrote; never follows links. Not there is no error. */
int fm_dir_remove(const char *path);

#endif
