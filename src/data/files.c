#include "data/files.h"

#include <glob.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/memory.h"

enum { READ_BYTES = 1 << 20 };

struct fm_lines {
    const char *path;
    fm_file_identity expected;
    int fd;
    int64_t end;              /* lines that start at or after this byte are another reader's */
    char *buffer;
    size_t capacity_bytes;
    size_t from, to;          /* what is in the buffer and not yet given */
    int64_t from_at;          /* the file's byte that buffer[from] is */
    int64_t crc_bytes;
    uint32_t crc;
};

static int add_file(fm_files *files, const char *path)
{
    const size_t n = (size_t)files->n_files + 1;
    char **paths = fm_grow(files->path, n * sizeof *paths, FM_MEMORY_HOST);
    if (paths == NULL) {
        return FM_ERR_MEMORY;
    }
    files->path = paths;
    fm_file_identity *identities = fm_grow(files->identity, n * sizeof *identities, FM_MEMORY_HOST);
    if (identities == NULL) {
        return FM_ERR_MEMORY;
    }
    files->identity = identities;
    FM_TRY(fm_file_stat(&identities[n - 1], path));
    paths[n - 1] = fm_strdup(path);
    if (paths[n - 1] == NULL) {
        return FM_ERR_MEMORY;
    }
    files->n_files++;
    return FM_OK;
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int add_matches(fm_files *files, const char *pattern)
{
    if (fm_path_exists(pattern)) {
        return add_file(files, pattern);
    }
    glob_t found;
    const int status = glob(pattern, GLOB_NOSORT | GLOB_ERR, NULL, &found);
    if (status == GLOB_NOMATCH) {
        return fm_fail(FM_ERR_IO, "%s: %s", pattern,
                       strpbrk(pattern, "*?[") != NULL ? "no file matches" : "there is no such file");
    }
    if (status != 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot look for files: %s", pattern,
                       status == GLOB_NOSPACE ? "out of memory" : "a directory cannot be read");
    }
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, by_bytes);
    int rc = FM_OK;
    for (size_t i = 0; i < found.gl_pathc && rc == FM_OK; i++) {
        rc = add_file(files, found.gl_pathv[i]);
    }
    globfree(&found);
    return rc;
}

int fm_files_find(fm_files *out, const char *list)
{
    *out = (fm_files){ 0 };
    char *names = fm_strdup(list);
    if (names == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc = FM_OK;
    char *rest = NULL;
    for (char *name = strtok_r(names, ",", &rest); name != NULL && rc == FM_OK; name = strtok_r(NULL, ",", &rest)) {
        rc = add_matches(out, name);
    }
    fm_free(names);
    if (rc == FM_OK && out->n_files == 0) {
        rc = fm_fail(FM_ERR_JOB, "\"%s\" names no file", list);
    }
    return rc;
}

void fm_files_free(fm_files *files)
{
    for (int64_t i = 0; i < files->n_files; i++) {
        fm_free(files->path[i]);
    }
    fm_free(files->path);
    fm_free(files->identity);
    *files = (fm_files){ 0 };
}

static int check_unchanged(const char *path, const fm_file_identity *expected)
{
    fm_file_identity now;
    FM_TRY(fm_file_stat(&now, path));
    if (now.size_bytes != expected->size_bytes || now.mtime_ns != expected->mtime_ns) {
        return fm_fail(FM_ERR_IO, "%s: changed while it was being read; start again when nothing writes to it", path);
    }
    return FM_OK;
}

/* More of the file behind what is in the buffer. Returns 0 at the end of the file, else 1. */
static int read_more(fm_lines *lines)
{
    const int64_t next_at = lines->from_at + (int64_t)(lines->to - lines->from);
    const int64_t left = lines->expected.size_bytes - next_at;
    const size_t wanted = left < READ_BYTES ? (size_t)left : READ_BYTES;
    if (wanted == 0) {
        return 0;
    }
    if (lines->from > 0) {
        memmove(lines->buffer, lines->buffer + lines->from, lines->to - lines->from);
        lines->to -= lines->from;
        lines->from = 0;
    }
    if (lines->to + wanted > lines->capacity_bytes) {
        const size_t capacity_bytes = 2 * lines->capacity_bytes;
        char *buffer = fm_grow(lines->buffer, capacity_bytes, FM_MEMORY_HOST);
        if (buffer == NULL) {
            return FM_ERR_MEMORY;
        }
        lines->buffer = buffer;
        lines->capacity_bytes = capacity_bytes;
    }
    FM_TRY(fm_file_pread(lines->fd, lines->buffer + lines->to, wanted, next_at, lines->path));
    lines->to += wanted;
    return 1;
}

/* The line at the front of the buffer, with its newline where it has one; 0 bytes at the end of the file. */
static int front_line(fm_lines *lines, size_t *size_bytes)
{
    size_t searched = 0;
    for (;;) {
        const size_t held = lines->to - lines->from;
        const char *front = lines->buffer + lines->from;
        const char *newline = held > searched ? memchr(front + searched, '\n', held - searched) : NULL;
        if (newline != NULL) {
            *size_bytes = (size_t)(newline - front) + 1;
            return FM_OK;
        }
        if (held > FM_LINE_LIMIT_BYTES) {
            int64_t number;
            FM_TRY(fm_lines_number(&number, lines->path, lines->from_at));
            return fm_fail(FM_ERR_FORMAT, "%s:%lld: the line is longer than %d MiB", lines->path, (long long)number,
                           FM_LINE_LIMIT_BYTES >> 20);
        }
        searched = held;
        const int more = read_more(lines);
        FM_TRY(more);
        if (more == 0) {
            *size_bytes = held;
            return FM_OK;
        }
    }
}

/* Moves past `size_bytes` of the front. */
static void drop_front(fm_lines *lines, size_t size_bytes)
{
    lines->from += size_bytes;
    lines->from_at += (int64_t)size_bytes;
}

/* From the byte before the range to the first line start in it: that byte may be the newline that ends another's line. */
static int skip_to_line_start(fm_lines *lines)
{
    for (;;) {
        const size_t held = lines->to - lines->from;
        const char *front = lines->buffer + lines->from;
        const char *newline = held > 0 ? memchr(front, '\n', held) : NULL;
        if (newline != NULL) {
            drop_front(lines, (size_t)(newline - front) + 1);
            return FM_OK;
        }
        drop_front(lines, held);
        if (lines->from_at >= lines->end) {
            return FM_OK;
        }
        const int more = read_more(lines);
        FM_TRY(more);
        if (more == 0) {
            return FM_OK;
        }
    }
}

int fm_lines_open(fm_lines **out, const char *path, const fm_file_identity *expected, int64_t begin, int64_t end)
{
    *out = NULL;
    fm_lines *lines = fm_alloc(sizeof *lines, FM_MEMORY_HOST);
    if (lines == NULL) {
        return FM_ERR_MEMORY;
    }
    *lines = (fm_lines){ .path = path, .expected = *expected, .fd = -1, .end = end, .from_at = begin > 0 ? begin - 1 : 0 };
    int rc = FM_OK;
    int64_t size_bytes;
    FM_TRY_TO(failed, rc, fm_file_open(&lines->fd, &size_bytes, path));
    FM_TRY_TO(failed, rc, check_unchanged(path, expected));
    lines->capacity_bytes = 2 * READ_BYTES;
    lines->buffer = fm_alloc(lines->capacity_bytes, FM_MEMORY_HOST);
    if (lines->buffer == NULL) {
        rc = FM_ERR_MEMORY;
        goto failed;
    }
    if (begin > 0) {
        FM_TRY_TO(failed, rc, skip_to_line_start(lines));
    }
    *out = lines;
    return FM_OK;
failed:
    fm_lines_close(lines);
    return rc;
}

void fm_lines_close(fm_lines *lines)
{
    if (lines == NULL) {
        return;
    }
    if (lines->fd >= 0) {
        close(lines->fd);
    }
    fm_free(lines->buffer);
    fm_free(lines);
}

/* JSON's white space. */
static bool is_blank(const char *line, size_t size_bytes)
{
    size_t i = 0;
    while (i < size_bytes && (line[i] == ' ' || line[i] == '\t' || line[i] == '\r' || line[i] == '\n')) {
        i++;
    }
    return i == size_bytes;
}

int fm_lines_next(fm_lines *lines, const char **line, size_t *size_bytes, int64_t *at)
{
    while (lines->from_at < lines->end) {
        size_t whole_bytes = 0;
        FM_TRY(front_line(lines, &whole_bytes));
        if (whole_bytes == 0) {
            break;
        }
        *line = lines->buffer + lines->from;
        *at = lines->from_at;
        lines->crc = fm_crc32(lines->crc, *line, whole_bytes);
        lines->crc_bytes += (int64_t)whole_bytes;
        drop_front(lines, whole_bytes);
        if (!is_blank(*line, whole_bytes)) {
            *size_bytes = whole_bytes - ((*line)[whole_bytes - 1] == '\n');
            return 1;
        }
    }
    FM_TRY(check_unchanged(lines->path, &lines->expected));
    return 0;
}

void fm_lines_crc(const fm_lines *lines, int64_t *size_bytes, uint32_t *crc)
{
    *size_bytes = lines->crc_bytes;
    *crc = lines->crc;
}

int fm_lines_number(int64_t *out, const char *path, int64_t at)
{
    int fd;
    int64_t size_bytes;
    FM_TRY(fm_file_open(&fd, &size_bytes, path));
    char *buffer = fm_alloc(READ_BYTES, FM_MEMORY_HOST);
    int rc = buffer == NULL ? FM_ERR_MEMORY : FM_OK;
    int64_t number = 1;
    for (int64_t done = 0; rc == FM_OK && done < at;) {
        const size_t part = at - done < READ_BYTES ? (size_t)(at - done) : READ_BYTES;
        rc = fm_file_pread(fd, buffer, part, done, path);
        for (const char *c = buffer; rc == FM_OK && (c = memchr(c, '\n', part - (size_t)(c - buffer))) != NULL; c++) {
            number++;
        }
        done += (int64_t)part;
    }
    close(fd);
    fm_free(buffer);
    *out = number;
    return rc;
}
