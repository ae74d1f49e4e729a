#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/memory.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static char scratch[FM_PATH_BYTES];

static void remove_scratch(void)
{
    fm_dir_remove(scratch);
}

const char *fuzz_dir(void)
{
    if (scratch[0] == '\0') {
        const char *const parent = getenv("TMPDIR");
        snprintf(scratch, sizeof scratch, "%s/finemesh-fuzz.XXXXXX", parent != NULL ? parent : "/tmp");
        FUZZ_CHECK(mkdtemp(scratch) != NULL);
        atexit(remove_scratch);
    }
    return scratch;
}

void fuzz_path(char path[FM_PATH_BYTES], const char *name)
{
    FUZZ_CHECK(fm_path_join(path, fuzz_dir(), name) == FM_OK);
}

void fuzz_write(const char *name, const void *data, size_t size_bytes)
{
    char path[FM_PATH_BYTES];
    fuzz_path(path, name);
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    FUZZ_CHECK(fd >= 0 && fm_file_pwrite(fd, data, size_bytes, 0, path) == FM_OK);
    close(fd);
}

fuzz_part fuzz_next(fuzz_part *rest)
{
    static const char mark[] = "\n%%\n";
    fuzz_part part = *rest;
    const char *const found = part.size_bytes > 0 ? memmem(part.data, part.size_bytes, mark, sizeof mark - 1) : NULL;
    if (found != NULL) {
        part.size_bytes = (size_t)(found - part.data);
    }
    const size_t used_bytes = found != NULL ? part.size_bytes + sizeof mark - 1 : part.size_bytes;
    *rest = (fuzz_part){ rest->data + used_bytes, rest->size_bytes - used_bytes };
    return part;
}

bool fuzz_line(fuzz_part *line, fuzz_part *rest)
{
    if (rest->size_bytes == 0) {
        return false;
    }
    const char *const newline = memchr(rest->data, '\n', rest->size_bytes);
    const size_t length = newline != NULL ? (size_t)(newline - rest->data) : rest->size_bytes;
    *line = (fuzz_part){ rest->data, length };
    const size_t used_bytes = length + (newline != NULL);
    *rest = (fuzz_part){ rest->data + used_bytes, rest->size_bytes - used_bytes };
    return true;
}

char *fuzz_copy(fuzz_part part)
{
    char *const copy = fm_alloc(part.size_bytes + 1, FM_MEMORY_HOST);
    FUZZ_CHECK(copy != NULL);
    if (part.size_bytes > 0) {
        memcpy(copy, part.data, part.size_bytes);
    }
    return copy;
}

int fuzz_result(int rc)
{
    if (rc < 0) {
        const char *const message = fm_error_message();
        FUZZ_CHECK(message[0] != '\0' && strcmp(message, fm_error_text(rc)) != 0);
        FUZZ_CHECK(rc != FM_ERR_INTERNAL && rc != FM_ERR_MEMORY);
    }
    return rc;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    fm_log_set_speaker(false);
    fuzz_begin();
    return 0;
}

/* The bytes are copied, so that reading one too many is seen whoever calls. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes)
{
    const size_t used_bytes = fm_memory_used_bytes(FM_MEMORY_KINDS);
    char *const copy = malloc(size_bytes > 0 ? size_bytes : 1);
    FUZZ_CHECK(copy != NULL);
    if (size_bytes > 0) {
        memcpy(copy, data, size_bytes);
    }
    fuzz_one(copy, size_bytes);
    free(copy);
    FUZZ_CHECK(fm_memory_used_bytes(FM_MEMORY_KINDS) == used_bytes);
    return 0;
}
