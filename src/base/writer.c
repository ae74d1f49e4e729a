#include "base/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"

/* Shorter runs are not worth a way of their own to the disk; longer ones go in requests of this size. */
enum { LEAST_STAGE_BYTES = 64 << 10, LEAST_DIRECT_BYTES = 256 << 10, REQUEST_BYTES = 8 << 20, ALIGN = FM_WRITER_ALIGN_BYTES };

struct fm_writer {
    int fd, direct_fd;                 /* direct_fd -1: everything by way of the page cache */
    char path[FM_PATH_BYTES];
    char *block, *stage;               /* as allocated; aligned [stage_bytes] */
    size_t stage_bytes, staged_bytes;
    int64_t stage_offset;              /* of the stage's first byte in the file: aligned where the stage goes straight to the disk */
};

/* File systems on a disk of this machine, by the numbers of statfs(2). Elsewhere (memory, networks) nothing is known about what
 * going past the cache would cost. */
static bool is_on_a_disk(int fd)
{
    static const long kinds[] = { 0xef53 /* ext4 */, 0x58465342 /* xfs */ };
    struct statfs fs;
    for (size_t i = 0; fstatfs(fd, &fs) == 0 && i < sizeof kinds / sizeof kinds[0]; i++) {
        if ((long)fs.f_type == kinds[i]) {
            return true;
        }
    }
    return false;
}

int fm_writer_open(fm_writer **out, const char *path, size_t stage_bytes)
{
    fm_writer *const w = fm_alloc(sizeof *w, FM_MEMORY_HOST);
    *out = NULL;
    if (w == NULL) {
        return FM_ERR_MEMORY;
    }
    w->fd = w->direct_fd = -1;
    w->stage_bytes = (stage_bytes < LEAST_STAGE_BYTES ? LEAST_STAGE_BYTES : stage_bytes) / ALIGN * ALIGN;
    int rc = fm_path_join(w->path, "", path);
    if (rc == FM_OK) {
        w->fd = open(path, O_WRONLY | O_CLOEXEC);
        rc = w->fd >= 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot open it for writing: %s", path, strerror(errno));
    }
    if (rc == FM_OK && is_on_a_disk(w->fd)) {
        w->direct_fd = open(path, O_WRONLY | O_CLOEXEC | O_DIRECT);
        if (w->direct_fd < 0 && errno != EINVAL) {     /* EINVAL: it cannot after all */
            rc = fm_fail(FM_ERR_IO, "%s: cannot open it for writing: %s", path, strerror(errno));
        }
    }
    if (rc == FM_OK && w->direct_fd >= 0) {
        w->block = fm_alloc(w->stage_bytes + ALIGN, FM_MEMORY_CHECKPOINT);
        rc = w->block == NULL ? FM_ERR_MEMORY : FM_OK;
        w->stage = w->block == NULL ? NULL : w->block + (ALIGN - (uintptr_t)w->block % ALIGN) % ALIGN;
    }
    if (rc < 0) {
        fm_writer_close(w);
        return rc;
    }
    *out = w;
    return FM_OK;
}

void fm_writer_close(fm_writer *w)
{
    if (w == NULL) {
        return;
    }
    if (w->fd >= 0) {
        close(w->fd);
    }
    if (w->direct_fd >= 0) {
        close(w->direct_fd);
    }
    fm_free(w->block);
    fm_free(w);
}

/* Aligned bytes to an aligned offset. Where the file system refuses after all, or takes a part that is not aligned, the page cache has
 * the rest, now and later. */
static int write_direct(fm_writer *w, const char *data, size_t size_bytes, int64_t offset_bytes)
{
    size_t done = 0;
    while (w->direct_fd >= 0 && done < size_bytes) {
        const size_t part_bytes = size_bytes - done < REQUEST_BYTES ? size_bytes - done : REQUEST_BYTES;
        const ssize_t n = pwrite(w->direct_fd, data + done, part_bytes, offset_bytes + (int64_t)done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0 && errno != EINVAL) {
            return fm_fail(FM_ERR_IO, "%s: cannot write: %s", w->path, strerror(errno));
        }
        done += n > 0 ? (size_t)n : 0;
        if (n <= 0 || n % ALIGN != 0) {
            close(w->direct_fd);
            w->direct_fd = -1;
        }
    }
    return fm_file_pwrite(w->fd, data + done, size_bytes - done, offset_bytes + (int64_t)done, w->path);
}

/* Empties the stage: whole pages to the disk, what is left to the page cache. */
static int flush(fm_writer *w)
{
    const size_t pages_bytes = w->staged_bytes < LEAST_DIRECT_BYTES ? 0 : w->staged_bytes / ALIGN * ALIGN;
    FM_TRY(write_direct(w, w->stage, pages_bytes, w->stage_offset));
    FM_TRY(fm_file_pwrite(w->fd, w->stage + pages_bytes, w->staged_bytes - pages_bytes, w->stage_offset + (int64_t)pages_bytes,
                          w->path));
    w->stage_offset += (int64_t)w->staged_bytes;
    w->staged_bytes = 0;
    return FM_OK;
}

int fm_writer_seek(fm_writer *w, int64_t offset_bytes)
{
    if (w->stage_offset + (int64_t)w->staged_bytes == offset_bytes) {
        return FM_OK;
    }
    FM_TRY(flush(w));
    w->stage_offset = offset_bytes;
    return FM_OK;
}

/* Bytes that the page cache takes from here on: all of them without a way to the disk; else up to the next whole page. */
static size_t cached_bytes(const fm_writer *w, size_t size_bytes)
{
    const size_t to_page = (size_t)(ALIGN - w->stage_offset % ALIGN) % ALIGN;
    return w->direct_fd < 0 || size_bytes < to_page ? size_bytes : to_page;
}

int fm_writer_put(fm_writer *w, const void *data, size_t size_bytes)
{
    const char *from = data;
    while (size_bytes > 0) {
        size_t n = w->staged_bytes == 0 ? cached_bytes(w, size_bytes) : 0;
        if (n > 0) {
            FM_TRY(fm_file_pwrite(w->fd, from, n, w->stage_offset, w->path));
            w->stage_offset += (int64_t)n;
        } else if (w->staged_bytes == 0 && (uintptr_t)from % ALIGN == 0 && size_bytes >= LEAST_DIRECT_BYTES) {
            n = size_bytes / ALIGN * ALIGN;
            FM_TRY(write_direct(w, from, n, w->stage_offset));
            w->stage_offset += (int64_t)n;
        } else {
            n = size_bytes < w->stage_bytes - w->staged_bytes ? size_bytes : w->stage_bytes - w->staged_bytes;
            memcpy(w->stage + w->staged_bytes, from, n);
            w->staged_bytes += n;
            FM_TRY(w->staged_bytes == w->stage_bytes ? flush(w) : FM_OK);
        }
        from += n;
        size_bytes -= n;
    }
    return FM_OK;
}

int fm_writer_sync(fm_writer *w)
{
    FM_TRY(flush(w));
    return fsync(w->fd) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot sync: %s", w->path, strerror(errno));
}
