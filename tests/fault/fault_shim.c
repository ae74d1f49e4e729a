/* Stands between a program and the system, and between finemesh and its allocator, and lets one chosen call fail. For tests only.
 *
 *     FAULT_RANK=1         the rank (PMI_RANK; 0 where no launcher gave one) in which anything happens at all; all: in each, by its own count
 *     FAULT_DIR=/absolute  files below it count: open, write, sync, rename, mkdir, link, unlink, truncate, and read where asked
 *     FAULT_READS=1        reads count too; 2: nothing else does
 *     FAULT_AT=17          the 17th such call fails; 0: none
 *     FAULT_ERROR=EIO      with this: EIO ENOSPC EROFS; EINTR and SHORT (half of a write or read) must be carried
 *                          on; KILL and TERM: that signal, before the call, which is made; CUT: the file is cut in half before the
 *                          call, which is made (of reads pread alone counts then); NOLOCK: flock fails, and nothing else
 *     FAULT_STAYS=1        and all that write after it, as on a full disk
 *     FAULT_ALLOC=17       the 17th call of fm_alloc fails
 *     FAULT_LOG=FILE       gets "failed N CALL PATH" when it happens; at the end "calls N", "allocations N", "kept BYTES" (of fm_alloc) */
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SHORT = -1, KILL = -2, TERM = -3, NOLOCK = -4, CUT = -5 };

enum way { READS, WRITES };

static const struct {
    const char *name;
    int error;
} errors[] = { { "EIO", EIO }, { "ENOSPC", ENOSPC }, { "EROFS", EROFS }, { "EINTR", EINTR }, { "SHORT", SHORT }, { "KILL", KILL }, { "TERM", TERM },
             { "NOLOCK", NOLOCK }, { "CUT", CUT } };

static struct {
    bool on, counts[2], stays;        /* counts: by way */
    const char *dir;
    size_t dir_length;
    int64_t at, alloc_at;
    int error;
    int log;
} plan;

static atomic_int_fast64_t calls, allocations;

static void say(const char *format, ...)
{
    char line[PATH_MAX + 100];
    va_list args;
    va_start(args, format);
    const int length = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (plan.log >= 0) {
        syscall(SYS_write, plan.log, line, (size_t)length);
    }
}

static int64_t number(const char *name)
{
    const char *const text = getenv(name);
    return text == NULL ? 0 : strtoll(text, NULL, 10);
}

static __attribute__((constructor)) void begin(void)
{
    const char *const error = getenv("FAULT_ERROR"), *const log = getenv("FAULT_LOG"), *const rank = getenv("FAULT_RANK");
    const char *const name = strrchr(program_invocation_name, '/');
    const bool is_wanted = (rank != NULL && strcmp(rank, "all") == 0) || number("PMI_RANK") == number("FAULT_RANK");
    plan.log = -1;
    /* the launcher and the shells on the way inherit the environment: they are left alone */
    if (strstr(name == NULL ? program_invocation_name : name, "finemesh") == NULL || !is_wanted) {
        return;
    }
    plan.dir = getenv("FAULT_DIR");
    plan.dir_length = plan.dir == NULL ? 0 : strlen(plan.dir);
    plan.at = number("FAULT_AT");
    plan.alloc_at = number("FAULT_ALLOC");
    plan.counts[READS] = number("FAULT_READS") != 0;
    plan.counts[WRITES] = number("FAULT_READS") != 2;
    plan.stays = number("FAULT_STAYS") != 0;
    plan.error = EIO;
    for (size_t i = 0; error != NULL && i < sizeof errors / sizeof errors[0]; i++) {
        plan.error = strcmp(error, errors[i].name) == 0 ? errors[i].error : plan.error;
    }
    if (log != NULL) {
        plan.log = (int)syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    }
    plan.on = true;
}

static __attribute__((destructor)) void end(void)
{
    size_t (*used_bytes)(int);
    int kinds = 0;
    const char *(*kind_name)(int);
    if (!plan.on) {
        return;
    }
    say("calls %lld\nallocations %lld\n", (long long)calls, (long long)allocations);
    *(void **)&used_bytes = dlsym(RTLD_DEFAULT, "fm_memory_used_bytes");
    *(void **)&kind_name = dlsym(RTLD_DEFAULT, "fm_memory_name");
    while (kind_name != NULL && strcmp(kind_name(kinds), "all") != 0) {
        kinds++;
    }
    say("kept %zu\n", used_bytes == NULL ? 0 : used_bytes(kinds));
}

static bool is_below(const char *path)
{
    return path != NULL && plan.dir_length > 0 && strncmp(path, plan.dir, plan.dir_length) == 0 &&
           (path[plan.dir_length] == '/' || path[plan.dir_length] == '\0');
}

/* Counts a call; 0: it goes on. Otherwise errno (or SHORT) that it gets. */
static int fault_of(enum way way, const char *path, const char *call)
{
    struct stat about;
    if (!plan.on || !plan.counts[way] || !is_below(path) || (plan.error == CUT && way == READS && strcmp(call, "pread") != 0)) {
        return 0;
    }
    const int64_t n = atomic_fetch_add(&calls, 1) + 1;
    if (plan.at == 0 || n < plan.at || (n > plan.at && !plan.stays)) {
        return 0;
    }
    say("failed %lld %s %s\n", (long long)n, call, path);
    if (plan.error == KILL || plan.error == TERM) {
        raise(plan.error == KILL ? SIGKILL : SIGTERM);
        return 0;
    }
    if (plan.error == CUT) {
        if (stat(path, &about) == 0 && S_ISREG(about.st_mode)) {
            syscall(SYS_truncate, path, about.st_size / 2);
        }
        return 0;
    }
    return plan.error;
}

static int fault_of_fd(enum way way, int fd, const char *call)
{
    char link[64], path[PATH_MAX];
    if (!plan.on || !plan.counts[way]) {
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = '\0';
    return fault_of(way, path, call);
}

/* Calls without a size: EINTR and SHORT are not for them. */
static int fails(int fault)
{
    if (fault > 0 && fault != EINTR) {
        errno = fault;
        return 1;
    }
    return 0;
}

#define NEXT(name, type) static type *next; if (next == NULL) { *(void **)&next = dlsym(RTLD_NEXT, name); }

typedef int path_call(const char *path);
typedef int paths_call(const char *from, const char *to);
typedef int fd_call(int fd);
typedef int stream_call(FILE *stream);

int open(const char *path, int flags, ...)
{
    typedef int open_call(const char *path, int flags, ...);
    NEXT("open", open_call)
    va_list args;
    va_start(args, flags);
    const mode_t mode = (flags & O_CREAT) != 0 ? va_arg(args, mode_t) : 0;
    va_end(args);
    return fails(fault_of((flags & O_ACCMODE) == O_RDONLY ? READS : WRITES, path, "open")) ? -1 : next(path, flags, mode);
}

DIR *opendir(const char *path)
{
    typedef DIR *opendir_call(const char *path);
    NEXT("opendir", opendir_call)
    return fails(fault_of(READS, path, "opendir")) ? NULL : next(path);
}

FILE *fopen(const char *path, const char *mode)
{
    typedef FILE *fopen_call(const char *path, const char *mode);
    NEXT("fopen", fopen_call)
    return fails(fault_of(mode[0] == 'r' ? READS : WRITES, path, "fopen")) ? NULL : next(path, mode);
}

/* A stream's writes are made inside of libc: they fail where the program asks for them. */
int fflush(FILE *stream)
{
    NEXT("fflush", stream_call)
    return stream != NULL && fails(fault_of_fd(WRITES, fileno(stream), "fflush")) ? EOF : next(stream);
}

ssize_t write(int fd, const void *data, size_t size)
{
    typedef ssize_t write_call(int fd, const void *data, size_t size);
    NEXT("write", write_call)
    const int fault = fault_of_fd(WRITES, fd, "write");
    if (fault > 0) {
        errno = fault;
        return -1;
    }
    return next(fd, data, fault == SHORT ? (size + 1) / 2 : size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset)
{
    typedef ssize_t pwrite_call(int fd, const void *data, size_t size, off_t offset);
    NEXT("pwrite", pwrite_call)
    const int fault = fault_of_fd(WRITES, fd, "pwrite");
    if (fault > 0) {
        errno = fault;
        return -1;
    }
    return next(fd, data, fault == SHORT ? (size + 1) / 2 : size, offset);
}

ssize_t pread(int fd, void *data, size_t size, off_t offset)
{
    typedef ssize_t pread_call(int fd, void *data, size_t size, off_t offset);
    NEXT("pread", pread_call)
    const int fault = fault_of_fd(READS, fd, "pread");
    if (fault > 0) {
        errno = fault;
        return -1;
    }
    return next(fd, data, fault == SHORT ? (size + 1) / 2 : size, offset);
}

int fsync(int fd)
{
    NEXT("fsync", fd_call)
    return fails(fault_of_fd(WRITES, fd, "fsync")) ? -1 : next(fd);
}

int flock(int fd, int operation)
{
    typedef int flock_call(int fd, int operation);
    NEXT("flock", flock_call)
    if (plan.on && plan.error == NOLOCK) {
        errno = ENOLCK;
        return -1;
    }
    return next(fd, operation);
}

int ftruncate(int fd, off_t size)
{
    typedef int truncate_call(int fd, off_t size);
    NEXT("ftruncate", truncate_call)
    return fails(fault_of_fd(WRITES, fd, "ftruncate")) ? -1 : next(fd, size);
}

int rename(const char *from, const char *to)
{
    NEXT("rename", paths_call)
    return fails(fault_of(WRITES, to, "rename")) ? -1 : next(from, to);
}

int renameat2(int from_dir, const char *from, int to_dir, const char *to, unsigned flags)
{
    typedef int renameat2_call(int from_dir, const char *from, int to_dir, const char *to, unsigned flags);
    NEXT("renameat2", renameat2_call)
    return fails(fault_of(WRITES, to, "renameat2")) ? -1 : next(from_dir, from, to_dir, to, flags);
}

int mkdir(const char *path, mode_t mode)
{
    typedef int mkdir_call(const char *path, mode_t mode);
    NEXT("mkdir", mkdir_call)
    return fails(fault_of(WRITES, path, "mkdir")) ? -1 : next(path, mode);
}

int symlink(const char *target, const char *path)
{
    NEXT("symlink", paths_call)
    return fails(fault_of(WRITES, path, "symlink")) ? -1 : next(target, path);
}

int link(const char *from, const char *to)
{
    NEXT("link", paths_call)
    return fails(fault_of(WRITES, to, "link")) ? -1 : next(from, to);
}

int unlink(const char *path)
{
    NEXT("unlink", path_call)
    return fails(fault_of(WRITES, path, "unlink")) ? -1 : next(path);
}

int rmdir(const char *path)
{
    NEXT("rmdir", path_call)
    return fails(fault_of(WRITES, path, "rmdir")) ? -1 : next(path);
}

static void say_callers(void)
{
    void *callers[12];
    const int n = backtrace(callers, 12);
    char **const names = backtrace_symbols(callers, n);
    for (int i = 2; names != NULL && i < n; i++) {
        say("  from %s\n", names[i]);
    }
    free(names);
}

void *fm_alloc(size_t size_bytes, int kind);

/* finemesh's own allocator, made to fail in its own way: it is a function of a shared library, so that this one stands before it. */
void *fm_alloc(size_t size_bytes, int kind)
{
    typedef void *alloc_call(size_t size_bytes, int kind);
    typedef void fail_at_call(int64_t n);
    static fail_at_call *fail_at;
    NEXT("fm_alloc", alloc_call)
    if (plan.on && atomic_fetch_add(&allocations, 1) + 1 == plan.alloc_at) {
        *(void **)&fail_at = dlsym(RTLD_DEFAULT, "fm_memory_fail_at");
        say("failed %lld fm_alloc %zu\n", (long long)plan.alloc_at, size_bytes);
        say_callers();
        fail_at(1);
    }
    return next(size_bytes, kind);
}
