#include "job/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/file.h"

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

int fm_lock_take(int *lock, const char *dir)
{
    char path[FM_PATH_BYTES], host[64] = "", holder[128];
    *lock = -1;
    FM_TRY(fm_path_join(path, dir, ".lock"));
    const int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot create: %s", path, strerror(errno));
    }
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno == EWOULDBLOCK) {
            return refuse(fd, path, dir);
        }
        close(fd);                     /* a file system without locks: nothing can be said */
        return FM_OK;
    }
    gethostname(host, sizeof host - 1);
    const int length = snprintf(holder, sizeof holder, "process %ld on %s\n", (long)getpid(), host);
    *lock = fd;
    FM_TRY(fm_file_pwrite(fd, holder, (size_t)length, 0, path));
    return ftruncate(fd, length) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

void fm_lock_release(int lock)
{
    if (lock >= 0) {
        close(lock);
    }
}
