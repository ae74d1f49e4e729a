/* TensorBoard events from lines "STEP TAG VALUE TAG VALUE ...": what was written is read back, frame by frame, field by field. */
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "fuzz.h"
#include "train/events.h"

enum { MOST_SCALARS = 8, MOST_EVENTS = 64, TAG_BYTES = 63 };

/* What one line asks for. */
typedef struct {
    int64_t step;
    int n;
    char *tags[MOST_SCALARS];
    float values[MOST_SCALARS];
} event;

/* A stretch of a file that is eaten from the front. */
typedef struct {
    const unsigned char *at, *end;
} reader;

static uint64_t take_fixed(reader *r, int bytes)
{
    uint64_t value = 0;
    FUZZ_CHECK(r->end - r->at >= bytes);
    for (int i = bytes - 1; i >= 0; i--) {
        value = value << 8 | r->at[i];
    }
    r->at += bytes;
    return value;
}

static uint64_t take_varint(reader *r)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
        const uint64_t byte = take_fixed(r, 1);
        value |= (byte & 0x7f) << shift;
        if (byte < 0x80) {
            return value;
        }
    }
    FUZZ_CHECK(!"a varint of at most ten bytes");
    return 0;
}

static reader take_bytes(reader *r, uint64_t size_bytes)
{
    FUZZ_CHECK((uint64_t)(r->end - r->at) >= size_bytes);
    const reader inside = { r->at, r->at + size_bytes };
    r->at += size_bytes;
    return inside;
}

static uint64_t unmasked(uint64_t crc)
{
    const uint32_t rotated = (uint32_t)crc - 0xa282ead8u;
    return rotated >> 17 | (uint32_t)(rotated << 15);
}

/* The message of the next frame, both checksums right. */
static reader take_frame(reader *file)
{
    const unsigned char *const begin = file->at;
    const uint64_t length = take_fixed(file, 8);
    FUZZ_CHECK(unmasked(take_fixed(file, 4)) == fm_crc32c(begin, 8));
    const reader message = take_bytes(file, length);
    FUZZ_CHECK(unmasked(take_fixed(file, 4)) == fm_crc32c(message.at, length));
    return message;
}

/* Field numbers with wire types, of event.proto and summary.proto. */
enum { WALL_TIME = 1 << 3 | 1, STEP = 2 << 3, VERSION = 3 << 3 | 2, SUMMARY = 5 << 3 | 2, SESSION = 7 << 3 | 2, VALUE = 1 << 3 | 2,
       TAG = 1 << 3 | 2, SIMPLE = 2 << 3 | 5 };

static reader take_head(reader *message, int64_t step, uint64_t field)
{
    FUZZ_CHECK(take_varint(message) == WALL_TIME);
    take_fixed(message, 8);
    FUZZ_CHECK(take_varint(message) == STEP && (int64_t)take_varint(message) == step);
    FUZZ_CHECK(take_varint(message) == field);
    const reader inside = take_bytes(message, take_varint(message));
    FUZZ_CHECK(message->at == message->end);
    return inside;
}

static void check_event(reader *file, const event *expected)
{
    reader message = take_frame(file), summary = take_head(&message, expected->step, SUMMARY);
    for (int i = 0; i < expected->n; i++) {
        FUZZ_CHECK(take_varint(&summary) == VALUE);
        reader value = take_bytes(&summary, take_varint(&summary));
        FUZZ_CHECK(take_varint(&value) == TAG);
        const reader tag = take_bytes(&value, take_varint(&value));
        const size_t length = strnlen(expected->tags[i], TAG_BYTES);
        FUZZ_CHECK((size_t)(tag.end - tag.at) == length && memcmp(tag.at, expected->tags[i], length) == 0);
        FUZZ_CHECK(take_varint(&value) == SIMPLE);
        const uint32_t bits = (uint32_t)take_fixed(&value, 4);
        float number;
        memcpy(&number, &bits, sizeof number);
        FUZZ_CHECK(value.at == value.end && (number == expected->values[i] || (isnan(number) && isnan(expected->values[i]))));
    }
    FUZZ_CHECK(summary.at == summary.end);
}

static event parse_event(char *line)
{
    event e = { .step = 0 };
    char *rest = NULL;
    const char *const step = strtok_r(line, " ", &rest);
    e.step = step != NULL ? strtoll(step, NULL, 10) : 0;
    for (char *tag; e.n < MOST_SCALARS && (tag = strtok_r(NULL, " ", &rest)) != NULL; e.n++) {
        const char *const value = strtok_r(NULL, " ", &rest);
        e.tags[e.n] = tag;
        e.values[e.n] = value != NULL ? strtof(value, NULL) : NAN;
    }
    return e;
}

static void check_file(const char *dir, int64_t first_step, const event *events, int n)
{
    char pattern[FM_PATH_BYTES], *bytes;
    size_t size_bytes;
    glob_t found;
    FUZZ_CHECK(fm_path_join(pattern, dir, "events.out.tfevents.*") == FM_OK);
    FUZZ_CHECK(glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc == 1);
    FUZZ_CHECK(fm_file_read(&bytes, &size_bytes, found.gl_pathv[0], SIZE_MAX) == FM_OK);
    globfree(&found);
    reader file = { (const unsigned char *)bytes, (const unsigned char *)bytes + size_bytes };
    reader version = take_frame(&file), session = take_frame(&file);
    take_head(&version, 0, VERSION);
    take_head(&session, first_step, SESSION);
    for (int i = 0; i < n; i++) {
        check_event(&file, &events[i]);
    }
    FUZZ_CHECK(file.at == file.end);
    fm_free(bytes);
}

void fuzz_begin(void)
{
}

void fuzz_one(const char *data, size_t size_bytes)
{
    char dir[FM_PATH_BYTES], *lines[MOST_EVENTS];
    event events[MOST_EVENTS];
    fuzz_part rest = { data, size_bytes }, line;
    fm_events *file;
    int n = 0;
    fuzz_path(dir, "events");
    FUZZ_CHECK(fm_dir_make(dir) == FM_OK);
    while (n < MOST_EVENTS && fuzz_line(&line, &rest)) {
        lines[n] = fuzz_copy(line);
        events[n] = parse_event(lines[n]);
        n++;
    }
    const int64_t first_step = n > 0 ? events[0].step : 1;
    FUZZ_CHECK(fm_events_open(&file, dir, first_step) == FM_OK);
    for (int i = 0; i < n; i++) {
        fm_scalar scalars[MOST_SCALARS];
        for (int s = 0; s < events[i].n; s++) {
            scalars[s] = (fm_scalar){ events[i].tags[s], events[i].values[s] };
        }
        FUZZ_CHECK(fm_events_write(file, events[i].step, scalars, events[i].n) == FM_OK);
    }
    FUZZ_CHECK(fm_events_close(file) == FM_OK);
    check_file(dir, first_step, events, n);
    for (int i = 0; i < n; i++) {
        fm_free(lines[i]);
    }
    FUZZ_CHECK(fm_dir_remove(dir) == FM_OK);
}
