#include "ckpt/hf_files.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/shard_scan.h"

enum { FILE_LIMIT_BYTES = 1 << 30 };

/* What transformers' tokenizers, processors and generation configurations are called. */
static const char *const patterns[] = {
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "*.model",
    "*.tiktoken", "chat_template*", "generation_config.json", "preprocessor_config.json", "processor_config.json",
};
static const char templates_dir[] = "additional_chat_templates";

bool fm_hf_files_is_model(const char *dir)
{
    char path[FM_PATH_BYTES];
    return fm_path_join(path, dir, "config.json") == FM_OK && fm_path_exists(path) && !fm_shards_is_set(dir);
}

static int copy_file(const char *to_dir, const char *from_dir, const char *name)
{
    char from[FM_PATH_BYTES], to[FM_PATH_BYTES], *data;
    size_t size_bytes;
    FM_TRY(fm_path_join(from, from_dir, name));
    FM_TRY(fm_path_join(to, to_dir, name));
    if (fm_path_is_dir(from)) {
        return FM_OK;
    }
    FM_TRY(fm_file_read(&data, &size_bytes, from, FILE_LIMIT_BYTES));
    const int rc = fm_file_replace(to, data, size_bytes);
    fm_free(data);
    return rc;
}

static int look_at_file(const char *unused, const char *dir, const char *name)
{
    char path[FM_PATH_BYTES];
    int64_t size_bytes;
    int fd;
    (void)unused;
    FM_TRY(fm_path_join(path, dir, name));
    if (fm_path_is_dir(path)) {
        return FM_OK;
    }
    FM_TRY(fm_file_open(&fd, &size_bytes, path));
    close(fd);
    return FM_OK;
}

typedef int visit_fn(const char *to_dir, const char *from_dir, const char *name);

static int visit_matching(visit_fn *visit, const char *to_dir, const char *from_dir, const char *const *names, size_t n)
{
    DIR *const dir = opendir(from_dir);
    if (dir == NULL) {
        return fm_fail(FM_ERR_IO, "%s: cannot list the directory: %s", from_dir, strerror(errno));
    }
    int rc = FM_OK;
    for (struct dirent *entry; rc == FM_OK && (entry = readdir(dir)) != NULL;) {
        bool wanted = false;
        for (size_t i = 0; i < n; i++) {
            wanted = wanted || fnmatch(names[i], entry->d_name, FNM_PERIOD) == 0;
        }
        rc = wanted ? visit(to_dir, from_dir, entry->d_name) : FM_OK;
    }
    closedir(dir);
    return rc;
}

/* Where the member "transformers_version" of the outermost object stands in a valid JSON text, with one of its commas; false: it
 * has none. The text is cut instead of printed anew, so that every other number stays as somebody wrote it. */
static bool find_member(size_t *from, size_t *to, const char *text, size_t size_bytes)
{
    static const char key[] = "\"transformers_version\"";
    int depth = 0;
    size_t member = 0, comma = 0;      /* where the member began, and the comma before it (0: none) */
    bool found = false;
    for (size_t i = 0; i < size_bytes; i++) {
        if (text[i] == '"') {
            size_t end = i + 1;
            while (end < size_bytes && text[end] != '"') {
                end += text[end] == '\\' ? 2 : 1;
            }
            const bool is_key = depth == 1 && i == member + strspn(text + member, " \t\r\n");
            if (is_key && end + 1 - i == sizeof key - 1 && memcmp(text + i, key, sizeof key - 1) == 0) {
                found = true;
            }
            i = end;
        } else if (text[i] == '{' || text[i] == '[') {
            member = depth++ == 0 ? i + 1 : member;
        } else if (depth == 1 && found && (text[i] == ',' || text[i] == '}')) {
            *from = comma > 0 ? comma : member;
            *to = comma == 0 && text[i] == ',' ? i + 1 : i;
            while (text[i] == '}' && strchr(" \t\r\n", text[*to - 1]) != NULL) {
                (*to)--;               /* the blanks before the closing brace stay */
            }
            return true;
        } else if (depth == 1 && text[i] == ',') {
            comma = i;
            member = i + 1;
        } else if (text[i] == '}' || text[i] == ']') {
            depth--;
        }
    }
    return false;
}

static int copy_config(const char *to_dir, const char *from_dir)
{
    char from[FM_PATH_BYTES], to[FM_PATH_BYTES], *text;
    size_t size_bytes, cut_from, cut_to;
    json_t *before = NULL, *after = NULL;
    FM_TRY(fm_path_join(from, from_dir, "config.json"));
    FM_TRY(fm_path_join(to, to_dir, "config.json"));
    FM_TRY(fm_file_read(&text, &size_bytes, from, FILE_LIMIT_BYTES));
    int rc;
    FM_TRY_TO(done, rc, fm_json_parse(&before, text, size_bytes, from));
    if (!json_is_object(before)) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: no JSON object", from);
        goto done;
    }
    if (find_member(&cut_from, &cut_to, text, size_bytes)) {
        memmove(text + cut_from, text + cut_to, size_bytes - cut_to);
        size_bytes -= cut_to - cut_from;
    }
    json_object_del(before, "transformers_version");
    FM_TRY_TO(done, rc, fm_json_parse(&after, text, size_bytes, from));
    rc = json_equal(before, after) ? fm_file_replace(to, text, size_bytes) :
         fm_fail(FM_ERR_INTERNAL, "%s: cutting transformers_version went wrong", from);
done:
    json_decref(before);
    json_decref(after);
    fm_free(text);
    return rc;
}

int fm_hf_files_copy(const char *to_dir, const char *from_dir)
{
    static const char *const templates[] = { "*.jinja" };
    char from[FM_PATH_BYTES], to[FM_PATH_BYTES];
    FM_TRY(copy_config(to_dir, from_dir));
    FM_TRY(visit_matching(copy_file, to_dir, from_dir, patterns, sizeof patterns / sizeof patterns[0]));
    FM_TRY(fm_path_join(from, from_dir, templates_dir));
    FM_TRY(fm_path_join(to, to_dir, templates_dir));
    if (!fm_path_is_dir(from)) {
        return FM_OK;
    }
    FM_TRY(fm_dir_make(to));
    return visit_matching(copy_file, to, from, templates, 1);
}

int fm_hf_files_check(const char *dir)
{
    return visit_matching(look_at_file, NULL, dir, patterns, sizeof patterns / sizeof patterns[0]);
}
