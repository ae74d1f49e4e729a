/* metrics.jsonl of an earlier run behind a line with the number of steps that stay: it is cut back to whole lines of those steps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fuzz.h"
#include "train/metrics.h"

static const char name[] = "run/metrics.jsonl";

void fuzz_begin(void)
{
    FUZZ_CHECK(freopen("/dev/null", "w", stdout) != NULL);      /* the table of steps */
}

/* Every line of `text` is a line of `before`, in its order. */
static void check_lines(fuzz_part text, fuzz_part before)
{
    fuzz_part line, old;
    FUZZ_CHECK(text.size_bytes == 0 || text.data[text.size_bytes - 1] == '\n');
    while (fuzz_line(&line, &text)) {
        bool found = false;
        while (!found && fuzz_line(&old, &before)) {
            found = old.size_bytes == line.size_bytes && memcmp(old.data, line.data, line.size_bytes) == 0;
        }
        FUZZ_CHECK(found);
    }
}

static void cut_back(const char *dir, int64_t kept)
{
    fm_metrics *metrics;
    if (fuzz_result(fm_metrics_open(&metrics, dir, kept, INT64_MAX, 1)) == FM_OK) {
        FUZZ_CHECK(fm_metrics_close(metrics) == FM_OK);
    }
}

void fuzz_one(const char *data, size_t size_bytes)
{
    char dir[FM_PATH_BYTES], path[FM_PATH_BYTES], *after, *again;
    size_t after_bytes, again_bytes;
    fuzz_part text = { data, size_bytes }, first;
    if (!fuzz_line(&first, &text)) {
        return;
    }
    char *const number = fuzz_copy(first);
    const int64_t kept = 1 + (strtoll(number, NULL, 10) & 0xfff);
    fm_free(number);
    fuzz_path(dir, "run");
    fuzz_path(path, name);
    FUZZ_CHECK(fm_dir_make(dir) == FM_OK);
    fuzz_write(name, text.data, text.size_bytes);
    cut_back(dir, kept);
    FUZZ_CHECK(fm_file_read(&after, &after_bytes, path, SIZE_MAX) == FM_OK);
    check_lines((fuzz_part){ after, after_bytes }, text);
    cut_back(dir, kept);
    FUZZ_CHECK(fm_file_read(&again, &again_bytes, path, SIZE_MAX) == FM_OK);
    FUZZ_CHECK(again_bytes == after_bytes && memcmp(again, after, after_bytes) == 0);
    fm_free(after);
    fm_free(again);
    FUZZ_CHECK(fm_dir_remove(dir) == FM_OK);
}
