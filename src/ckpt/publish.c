#include "ckpt/publish.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int fm_publish_name(char *temporary, const char *dir)
{
    char name[FM_PATH_BYTES];
    FM_TRY(fm_path_join(name, "", dir));
    for (size_t length = strlen(name); length > 1 && name[length - 1] == '/'; length--) {
        name[length - 1] = '\0';
    }
    if (strlen(name) + sizeof ".tmp" > FM_PATH_BYTES) {
        return fm_fail(FM_ERR_IO, "%.60s...: the path is too long", name);
    }
    strcat(strcpy(temporary, name), ".tmp");
    return FM_OK;
}

static bool is_empty(const char *path)
{
    DIR *const dir = opendir(path);
    bool empty = dir != NULL;
    for (struct dirent *entry; empty && (entry = readdir(dir)) != NULL;) {
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    }
    if (dir != NULL) {
        closedir(dir);
    }
    return empty;
}

/* Where the old folder waits while a new one takes its name. */
static int old_name(char old[FM_PATH_BYTES], const char *dir)
{
    return snprintf(old, FM_PATH_BYTES, "%s.old", dir) < FM_PATH_BYTES ? FM_OK
                                                                       : fm_fail(FM_ERR_IO, "%.60s...: the path is too long", dir);
}

int fm_publish_begin(const char *temporary, const char *dir, bool (*ours)(const char *dir))
{
    char old[FM_PATH_BYTES];
    FM_TRY(old_name(old, dir));
    if (!fm_path_exists(dir) && fm_path_is_dir(old) && ours(old)) {
        FM_TRY(fm_path_rename(old, dir));      /* somebody was killed between the two renames of replace_slowly */
    }
    if (fm_path_exists(dir) && !ours(dir) && !is_empty(dir)) {
        return fm_fail(FM_ERR_IO,
                       "%s: it is there already and is not of the kind that would be written: remove it or choose another "
                       "name", dir);
    }
    FM_TRY(fm_dir_remove(temporary));
    return fm_dir_make(temporary);
}

/* On a file system that cannot exchange: the old folder goes out of the way, and is removed last. Between the two renames neither has
 * the name: after a death there fm_publish_begin gives it back. */
static int replace_slowly(const char *temporary, const char *dir)
{
    char old[FM_PATH_BYTES];
    FM_TRY(old_name(old, dir));
    FM_TRY(fm_dir_remove(old));
    FM_TRY(fm_path_rename(dir, old));
    FM_TRY(fm_path_rename(temporary, dir));
    return fm_dir_remove(old);
}

int fm_publish_end(const char *temporary, const char *dir)
{
    FM_TRY(fm_path_sync(temporary));
    if (!fm_path_exists(dir)) {
        return fm_path_rename(temporary, dir);
    }
    if (renameat2(AT_FDCWD, temporary, AT_FDCWD, dir, RENAME_EXCHANGE) == 0) {
        FM_TRY(fm_path_sync_parent(dir));
        return fm_dir_remove(temporary);
    }
    if (errno != EINVAL && errno != ENOSYS) {
        return fm_fail(FM_ERR_IO, "%s: cannot exchange it with %s: %s", temporary, dir, strerror(errno));
    }
    return replace_slowly(temporary, dir);
}

void fm_publish_abandon(const char *temporary)
{
    char reason[1024];
    snprintf(reason, sizeof reason, "%s", fm_error_message());
    fm_dir_remove(temporary);
    fm_fail_with(FM_ERR_IO, reason);   /* the sentence alone: the code is the caller's */
}
