/* Gives files, and all files of directories, to a fuzz target. One that takes longer than SECONDS_A_FILE ends the program, as a crash
 * does; the last line says which it was. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "fuzz.h"

enum { SECONDS_A_FILE = 20, FILE_LIMIT_BYTES = 64 << 20 };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size_bytes);

static int replay_file(const char *path)
{
    char *data;
    size_t size_bytes;
    if (fm_file_read(&data, &size_bytes, path, FILE_LIMIT_BYTES) < 0) {
        fprintf(stderr, "%s\n", fm_error_message());
        return -1;
    }
    fprintf(stderr, "%s\n", path);
    alarm(SECONDS_A_FILE);
    LLVMFuzzerTestOneInput((const uint8_t *)data, size_bytes);
    alarm(0);
    fm_free(data);
    return 1;
}

static int replay(const char *path)
{
    if (!fm_path_is_dir(path)) {
        return replay_file(path);
    }
    DIR *const dir = opendir(path);
    int n = dir == NULL ? -1 : 0;
    for (struct dirent *entry; n >= 0 && (entry = readdir(dir)) != NULL;) {
        char child[FM_PATH_BYTES];
        if (entry->d_name[0] == '.' || fm_path_join(child, path, entry->d_name) < 0) {
            continue;
        }
        const int more = replay(child);
        n = more < 0 ? -1 : n + more;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++) {
        const int more = replay(argv[i]);
        if (more < 0) {
            return 1;
        }
        n += more;
    }
    fprintf(stderr, "%d inputs\n", n);
    return n > 0 ? 0 : 1;
}
