#include "job/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/log.h"

/* Who holds it, from the file's own text. */
static int refuse(int fd, const char *path, const char *dir)
{
    char holder[128] = "";
    const ssize_t n = pread(fd, holder, sizeof holder - 1, 0);
    holder[n > 0 ? strcspn(holder, "\n") : 0] = '\0';
    close(fd);
    return fm_fail(FM_ERR_JOB, "%s: another run (%s) writes there now and holds %s. Wait for its end, or choose another "
                   "job.output_dir.", dir, holder[0] != '\0' ? holder : "unknown", path);
}

static int say_who(int fd, const char *path)
{
    char host[64] = "", holder[128];
    gethostname(host, sizeof host - 1);
    const int length = snprintf(holder, sizeof holder, "process %ld on %s\n", (long)getpid(), host);
    FM_TRY(fm_file_pwrite(fd, holder, (size_t)length, 0, path));
    return ftruncate(fd, length) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

/* Whether the open file is still the one of that name: who had it may have removed it meanwhile. */
static bool is_named(int fd, const char *path)
{
    struct stat of_fd, of_path;
    return fstat(fd, &of_fd) == 0 && stat(path, &of_path) == 0 && of_fd.st_ino == of_path.st_ino && of_fd.st_dev == of_path.st_dev;
}

/* 0, or why not. */
static int lock_file(int fd)
{
    while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EINTR) {
            return errno;
        }
    }
    return 0;
}

int fm_lock_take(fm_lock *lock, const char *dir)
{
    FM_TRY(fm_path_join(lock->path, dir, ".lock"));
    for (;;) {
        lock->fd = open(lock->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (lock->fd < 0) {
            return fm_fail(FM_ERR_IO, "%s: cannot create: %s", lock->path, strerror(errno));
        }
        const int reason = lock_file(lock->fd);
        if (reason == EWOULDBLOCK) {
            return refuse(lock->fd, lock->path, dir);
        }
        if (reason != 0) {             /* the file may be another run's: it stays */
            fm_log_warning("%s cannot be locked (%s): nothing keeps a second run out of this directory", lock->path, strerror(reason));
            close(lock->fd);
            return FM_OK;
        }
        if (is_named(lock->fd, lock->path)) {
            lock->held = true;
            return say_who(lock->fd, lock->path);
        }
        close(lock->fd);
    }
}

void fm_lock_release(fm_lock *lock)
{
    if (lock->held) {
        unlink(lock->path);
        close(lock->fd);
        lock->held = false;
    }
}
