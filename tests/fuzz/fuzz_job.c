/* A job file, and overrides, one a line. What is accepted is written as the effective job, which must be the same job. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fuzz.h"
#include "job/effective.h"
#include "job/job.h"

enum { MOST_OVERRIDES = 8, RANKS = 8 };

void fuzz_begin(void)
{
}

/* The effective job of `job`, read again and written again, is the same text. */
static void check_effective(const fm_job *job)
{
    char *text, *again;
    size_t text_bytes, again_bytes;
    fm_job reread;
    FUZZ_CHECK(fm_job_write(&text, &text_bytes, job) == FM_OK);
    FUZZ_CHECK(fm_job_parse(&reread, text, text_bytes, "effective.ini", NULL, 0) == FM_OK);
    FUZZ_CHECK(fm_job_write(&again, &again_bytes, &reread) == FM_OK);
    FUZZ_CHECK(text_bytes == again_bytes && memcmp(text, again, text_bytes) == 0);
    fm_job_clear(&reread);
    fm_free(text);
    fm_free(again);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    fuzz_part rest = { data, size_bytes }, line;
    const fuzz_part text = fuzz_next(&rest);
    fuzz_part lines = fuzz_next(&rest);
    char *overrides[MOST_OVERRIDES];
    int n = 0;
    while (n < MOST_OVERRIDES && fuzz_line(&line, &lines)) {
        overrides[n++] = fuzz_copy(line);
    }
    fm_job job;
    if (fuzz_result(fm_job_parse(&job, text.data, text.size_bytes, "job.ini", (const char *const *)overrides, n)) == FM_OK) {
        check_effective(&job);
        fuzz_result(fm_job_validate(&job, 0));
        if (fuzz_result(fm_job_validate(&job, RANKS)) == FM_OK) {
            fm_mesh_shape mesh;
            FUZZ_CHECK(fm_job_mesh(&mesh, &job, RANKS) == FM_OK);
        }
        fm_job_clear(&job);
    }
    for (int i = 0; i < n; i++) {
        fm_free(overrides[i]);
    }
}
