#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/memory.h"

int fm_path_join(char *out, const char *dir, const char *name)
{
    const bool alone = name[0] == '/' || dir == NULL || dir[0] == '\0';
    const int length = alone ? snprintf(out, FM_PATH_BYTES, "%s", name) : snprintf(out, FM_PATH_BYTES, "%s/%s", dir, name);
    if (length < 0 || length >= FM_PATH_BYTES) {
        return fm_fail(FM_ERR_IO, "%.60s...: the path is longer than %d bytes", alone ? name : dir, FM_PATH_BYTES - 1);
    }
    return FM_OK;
}

bool fm_path_is_plain(const char *name, size_t name_bytes)
{
    bool plain = name_bytes > 0 && name[0] != '.';
    for (size_t i = 0; i < name_bytes; i++) {
        plain = plain && name[i] != '/' && (unsigned char)name[i] >= ' ' && name[i] != 0x7f;
    }
    return plain;
}

bool fm_path_exists(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0;
}

bool fm_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

static int io_error(const char *path, const char *what)
{
    return fm_fail(FM_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

int fm_file_stat(fm_file_identity *out, const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) {
        return io_error(path, "open");
    }
    if (!S_ISREG(st.st_mode)) {
        return fm_fail(FM_ERR_IO, "%s: not a regular file", path);
    }
    *out = (fm_file_identity){ st.st_size, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec };
    return FM_OK;
}

int fm_file_identify(fm_file_identity *out, int fd, const char *path)
{
    struct stat st;
    if (fstat(fd, &st) != 0) {
        return io_error(path, "look at");
    }
    *out = (fm_file_identity){ st.st_size, (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec };
    return FM_OK;
}

int fm_file_open(int *fd, int64_t *size_bytes, const char *path)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);    /* a pipe would be waited for */
    if (*fd < 0) {
        return io_error(path, "open");
    }
    struct stat st;
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        *fd = -1;
        return fm_fail(FM_ERR_IO, "%s: not a regular file", path);
    }
    *size_bytes = st.st_size;
    return FM_OK;
}

int fm_file_pread(int fd, void *out, size_t size_bytes, int64_t offset, const char *path)
{
    for (size_t done = 0; done < size_bytes;) {
        const ssize_t n = pread(fd, (char *)out + done, size_bytes - done, offset + (int64_t)done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return io_error(path, "read");
        }
        if (n == 0) {
            return fm_fail(FM_ERR_IO, "%s: ends at byte %lld, %zu more were expected: the file is truncated", path,
                           (long long)(offset + (int64_t)done), size_bytes - done);
        }
        done += (size_t)n;
    }
    return FM_OK;
}

int fm_file_pwrite(int fd, const void *data, size_t size_bytes, int64_t offset, const char *path)
{
    for (size_t done = 0; done < size_bytes;) {
        const ssize_t n = pwrite(fd, (const char *)data + done, size_bytes - done, offset + (int64_t)done);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return io_error(path, "write");
        }
        done += (size_t)n;
    }
    return FM_OK;
}

int fm_file_read(char **out, size_t *size_bytes, const char *path, size_t limit_bytes)
{
    *out = NULL;
    int fd;
    int64_t length;
    FM_TRY(fm_file_open(&fd, &length, path));
    int rc = FM_OK;
    if ((uint64_t)length > limit_bytes) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: %lld bytes, more than the limit of %zu for such a file", path, (long long)length, limit_bytes);
        goto done;
    }
    *out = fm_alloc((size_t)length + 1, FM_MEMORY_HOST);
    if (*out == NULL) {
        rc = FM_ERR_MEMORY;
        goto done;
    }
    FM_TRY_TO(done, rc, fm_file_pread(fd, *out, (size_t)length, 0, path));
    if (size_bytes != NULL) {
        *size_bytes = (size_t)length;
    }
done:
    close(fd);
    if (rc < 0) {
        fm_free(*out);
        *out = NULL;
    }
    return rc;
}

int fm_path_sync(const char *path)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return io_error(path, "open");
    }
    int rc = FM_OK;
    if (fsync(fd) != 0) {
        rc = io_error(path, "sync");
    }
    close(fd);
    return rc;
}

int fm_path_sync_parent(const char *path)
{
    char dir[FM_PATH_BYTES];
    FM_TRY(fm_path_join(dir, "", path));
    char *slash = strrchr(dir, '/');
    if (slash == NULL) {
        return fm_path_sync(".");
    }
    slash[slash == dir ? 1 : 0] = '\0';
    return fm_path_sync(dir);
}

int fm_path_rename(const char *from, const char *to)
{
    if (rename(from, to) != 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot rename to %s: %s", from, to, strerror(errno));
    }
    return fm_path_sync_parent(to);
}

int fm_file_replace(const char *path, const void *data, size_t size_bytes)
{
    char temporary[FM_PATH_BYTES + 8];
    snprintf(temporary, sizeof temporary, "%s.tmp", path);
    const int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) {
        return io_error(temporary, "create");
    }
    int rc = fm_file_pwrite(fd, data, size_bytes, 0, temporary);
    if (rc == FM_OK && fsync(fd) != 0) {
        rc = io_error(temporary, "sync");
    }
    if (close(fd) != 0 && rc == FM_OK) {
        rc = io_error(temporary, "close");
    }
    if (rc == FM_OK) {
        rc = fm_path_rename(temporary, path);
    }
    if (rc < 0) {
        unlink(temporary);
    }
    return rc;
}

int fm_dir_make(const char *path)
{
    char part[FM_PATH_BYTES];
    FM_TRY(fm_path_join(part, "", path));
    for (char *slash = part + 1; ; slash++) {
        if (*slash != '/' && *slash != '\0') {
            continue;
        }
        const char end = *slash;
        *slash = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST) {
            return io_error(part, "create the directory");
        }
        if (end == '\0') {
            break;
        }
        *slash = end;
    }
    return fm_path_is_dir(path) ? FM_OK : fm_fail(FM_ERR_IO, "%s: not a directory", path);
}

int fm_dir_remove(const char *path)
{
    struct stat st;
    if (lstat(path, &st) != 0) {
        return errno == ENOENT ? FM_OK : io_error(path, "remove");
    }
    if (!S_ISDIR(st.st_mode)) {
        return unlink(path) == 0 ? FM_OK : io_error(path, "remove");
    }
    DIR *dir = opendir(path);
    if (dir == NULL) {
        return io_error(path, "remove");
    }
    int rc = FM_OK;
    for (struct dirent *entry; rc == FM_OK && (entry = readdir(dir)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            char child[FM_PATH_BYTES];
            rc = fm_path_join(child, path, entry->d_name);
            if (rc == FM_OK) {
                rc = fm_dir_remove(child);
            }
        }
    }
    closedir(dir);
    if (rc == FM_OK && rmdir(path) != 0) {
        rc = io_error(path, "remove");
    }
    return rc;
}
