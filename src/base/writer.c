#include "base/writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/task.h"

/* Shorter extents are not worth a way of their own to the disk; long ones go in several pieces at once. */
enum {
    LEAST_STAGES_BYTES = 128 << 10, LEAST_DIRECT_BYTES = 256 << 10, PIECE_BYTES = 2 << 20, MOST_EXTENTS = 64, MOST_PIECES = 256,
    IN_FLIGHT = 4, ALIGN = FM_WRITER_ALIGN_BYTES
};

/* Bytes that lie one behind another in the stage and in the file, there at the same place of a page. */
typedef struct {
    char *data;
    size_t size_bytes;
    int64_t offset_bytes;
} extent;

/* Whole pages, and how many of their bytes the disk has. */
typedef struct {
    const char *data;
    size_t size_bytes, done_bytes;
    int64_t offset_bytes;
} piece;

/* What is put gathers in one of two stages, while threads bring the other's pages to the disk. */
struct fm_writer {
    int fd, direct_fd;                 /* direct_fd -1: everything by way of the page cache */
    char path[FM_PATH_BYTES];
    int64_t offset_bytes;              /* where the next byte goes */
    char *block, *stage, *other;       /* as allocated; aligned [stage_bytes], the other one perhaps on its way */
    size_t stage_bytes, used_bytes;
    extent extents[MOST_EXTENTS];      /* of the stage */
    int n_extents;
    piece pieces[MOST_PIECES];         /* on their way */
    int n_pieces;
    atomic_int next_piece;             /* that no thread has taken */
    fm_task *tasks[IN_FLIGHT];
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

/* Asks for the blocks of a file that has its length already: holes get theirs one request after the other. Where the file system
 * cannot, the writing itself will say so. */
static void claim_room(int fd)
{
    struct stat st;
    if (fstat(fd, &st) == 0 && st.st_size > 0) {
        (void)!fallocate(fd, 0, 0, st.st_size);
    }
}

static int make_stages(fm_writer *w, size_t bytes)
{
    w->stage_bytes = (bytes < LEAST_STAGES_BYTES ? LEAST_STAGES_BYTES : bytes) / 2 / ALIGN * ALIGN;
    w->block = fm_alloc(2 * w->stage_bytes + ALIGN, FM_MEMORY_CHECKPOINT);
    if (w->block == NULL) {
        return FM_ERR_MEMORY;
    }
    w->stage = w->block + (ALIGN - (uintptr_t)w->block % ALIGN) % ALIGN;
    w->other = w->stage + w->stage_bytes;
    return FM_OK;
}

int fm_writer_open(fm_writer **out, const char *path, size_t stages_bytes)
{
    fm_writer *const w = fm_alloc(sizeof *w, FM_MEMORY_HOST);
    *out = NULL;
    if (w == NULL) {
        return FM_ERR_MEMORY;
    }
    w->fd = w->direct_fd = -1;
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
        claim_room(w->fd);
        rc = make_stages(w, stages_bytes);
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
    for (int i = 0; i < IN_FLIGHT; i++) {
        fm_task_abandon(w->tasks[i]);
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

/* Ends early, without an error, where the file system refuses after all or takes a part that is not aligned. */
static int write_piece(piece *p, int direct_fd, const char *path)
{
    while (p->done_bytes < p->size_bytes && p->done_bytes % ALIGN == 0) {
        const ssize_t n = pwrite(direct_fd, p->data + p->done_bytes, p->size_bytes - p->done_bytes,
                                 p->offset_bytes + (int64_t)p->done_bytes);
        if (n < 0 && errno != EINVAL && errno != EINTR) {
            return fm_fail(FM_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
        }
        if (n == 0 || (n < 0 && errno == EINVAL)) {
            break;
        }
        p->done_bytes += n > 0 ? (size_t)n : 0;
    }
    return FM_OK;
}

/* A thread's work: one piece after the other that no other one has. */
static int write_pieces(void *user)
{
    fm_writer *const w = user;
    for (int i = atomic_fetch_add(&w->next_piece, 1); i < w->n_pieces; i = atomic_fetch_add(&w->next_piece, 1)) {
        FM_TRY(write_piece(&w->pieces[i], w->direct_fd, w->path));
    }
    return FM_OK;
}

static void add_pieces(fm_writer *w, const char *data, size_t size_bytes, int64_t offset_bytes)
{
    const size_t share = size_bytes / (MOST_PIECES / 2) / ALIGN * ALIGN + ALIGN;       /* of very many bytes, few pieces */
    const size_t most = share > PIECE_BYTES ? share : PIECE_BYTES;
    for (size_t at = 0; at < size_bytes; at += most) {
        FM_ASSERT(w->n_pieces < MOST_PIECES);
        w->pieces[w->n_pieces++] = (piece){ .data = data + at, .size_bytes = size_bytes - at < most ? size_bytes - at : most,
                                            .offset_bytes = offset_bytes + (int64_t)at };
    }
}

static int send_pieces(fm_writer *w)
{
    atomic_store(&w->next_piece, 0);
    for (int i = 0; i < IN_FLIGHT && i < w->n_pieces; i++) {
        FM_TRY(fm_task_begin(&w->tasks[i], write_pieces, w));
    }
    return FM_OK;
}

/* Waits for what is on its way. What the way to the disk did not take the page cache has, now and later. */
static int end_pieces(fm_writer *w)
{
    int rc = FM_OK;
    bool refused = false;
    for (int i = 0; i < IN_FLIGHT; i++) {
        if (rc < 0) {                  /* the first failure is told */
            fm_task_abandon(w->tasks[i]);
        } else {
            rc = fm_task_end(w->tasks[i]);
        }
        w->tasks[i] = NULL;
    }
    for (int i = 0; i < w->n_pieces && rc == FM_OK; i++) {
        const piece *const p = &w->pieces[i];
        refused = refused || p->done_bytes < p->size_bytes;
        rc = fm_file_pwrite(w->fd, p->data + p->done_bytes, p->size_bytes - p->done_bytes, p->offset_bytes + (int64_t)p->done_bytes,
                            w->path);
    }
    w->n_pieces = 0;
    if (refused && w->direct_fd >= 0) {
        close(w->direct_fd);
        w->direct_fd = -1;
    }
    return rc;
}

/* Whole pages become pieces; what is short, and the ends, goes by way of the page cache. */
static int divide(fm_writer *w, const extent *e)
{
    size_t head = (size_t)(ALIGN - e->offset_bytes % ALIGN) % ALIGN;
    head = head < e->size_bytes ? head : e->size_bytes;
    size_t pages = (e->size_bytes - head) / ALIGN * ALIGN;
    if (pages < LEAST_DIRECT_BYTES) {
        head = e->size_bytes;
        pages = 0;
    }
    add_pieces(w, e->data + head, pages, e->offset_bytes + (int64_t)head);
    FM_TRY(fm_file_pwrite(w->fd, e->data, head, e->offset_bytes, w->path));
    return fm_file_pwrite(w->fd, e->data + head + pages, e->size_bytes - head - pages, e->offset_bytes + (int64_t)(head + pages),
                          w->path);
}

/* Sends the stage on its way and takes the other one. The page cache has its part while nothing else is written to the file: it
 * would have to wait for that. */
static int flush(fm_writer *w)
{
    char *const full = w->stage;
    FM_TRY(end_pieces(w));
    for (int i = 0; i < w->n_extents; i++) {
        FM_TRY(divide(w, &w->extents[i]));
    }
    w->stage = w->other;
    w->other = full;
    w->used_bytes = 0;
    w->n_extents = 0;
    return w->direct_fd < 0 ? end_pieces(w) : send_pieces(w);
}

void fm_writer_seek(fm_writer *w, int64_t offset_bytes)
{
    w->offset_bytes = offset_bytes;
}

/* The extent of the stage that the next byte belongs to, with room for it. */
static int find_extent(extent **out, fm_writer *w)
{
    extent *const last = w->n_extents == 0 ? NULL : &w->extents[w->n_extents - 1];
    const size_t in_page = (size_t)(w->offset_bytes % ALIGN);
    if (last != NULL && last->offset_bytes + (int64_t)last->size_bytes == w->offset_bytes && w->used_bytes < w->stage_bytes) {
        *out = last;
        return FM_OK;
    }
    size_t start = (w->used_bytes + ALIGN - 1) / ALIGN * ALIGN + in_page;
    if (start >= w->stage_bytes || w->n_extents == MOST_EXTENTS) {
        FM_TRY(flush(w));
        start = in_page;
    }
    *out = &w->extents[w->n_extents++];
    **out = (extent){ .data = w->stage + start, .offset_bytes = w->offset_bytes };
    w->used_bytes = start;
    return FM_OK;
}

/* The next bytes into the stage, as many as there is room for. */
static int put_staged(size_t *n_bytes, fm_writer *w, const char *from, size_t size_bytes)
{
    extent *e;
    FM_TRY(find_extent(&e, w));
    const size_t room_bytes = w->stage_bytes - w->used_bytes;
    *n_bytes = size_bytes < room_bytes ? size_bytes : room_bytes;
    memcpy(e->data + e->size_bytes, from, *n_bytes);
    e->size_bytes += *n_bytes;
    w->used_bytes += *n_bytes;
    return w->used_bytes == w->stage_bytes ? flush(w) : FM_OK;
}

/* Whole pages that lie well already. */
static int put_directly(fm_writer *w, const char *from, size_t size_bytes)
{
    FM_TRY(end_pieces(w));
    add_pieces(w, from, size_bytes, w->offset_bytes);
    if (w->direct_fd >= 0) {
        FM_TRY(send_pieces(w));
    }
    return end_pieces(w);
}

int fm_writer_put(fm_writer *w, const void *data, size_t size_bytes)
{
    const char *from = data;
    while (size_bytes > 0) {
        size_t n = size_bytes;
        if (w->direct_fd < 0 && w->n_extents == 0) {
            FM_TRY(fm_file_pwrite(w->fd, from, n, w->offset_bytes, w->path));
        } else if (size_bytes >= LEAST_DIRECT_BYTES && (uintptr_t)from % ALIGN == 0 && w->offset_bytes % ALIGN == 0) {
            n = size_bytes / ALIGN * ALIGN;
            FM_TRY(put_directly(w, from, n));
        } else {
            FM_TRY(put_staged(&n, w, from, size_bytes));
        }
        w->offset_bytes += (int64_t)n;
        from += n;
        size_bytes -= n;
    }
    return FM_OK;
}

int fm_writer_sync(fm_writer *w)
{
    FM_TRY(flush(w));
    FM_TRY(end_pieces(w));
    return fsync(w->fd) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot sync: %s", w->path, strerror(errno));
}
