#include "train/events.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/memory.h"

struct fm_events {
    FILE *file;
    char path[FM_PATH_BYTES];
};

enum { EVENT_BYTES = 2048, TAG_BYTES = 63 };

/* A protocol buffer under construction. */
typedef struct {
    unsigned char data[EVENT_BYTES];
    size_t size_bytes;
} message;

/* Field numbers of event.proto and summary.proto. */
enum {
    EVENT_WALL_TIME = 1, EVENT_STEP = 2, EVENT_FILE_VERSION = 3, EVENT_SUMMARY = 5, EVENT_SESSION_LOG = 7,
    SUMMARY_VALUE = 1, VALUE_TAG = 1, VALUE_SIMPLE = 2, SESSION_STATUS = 1, SESSION_START = 1
};

enum wire_type { WIRE_VARINT = 0, WIRE_64_BIT = 1, WIRE_BYTES = 2, WIRE_32_BIT = 5 };

static void put_bytes(message *out, const void *data, size_t size_bytes)
{
    FM_ASSERT(out->size_bytes + size_bytes <= EVENT_BYTES);
    memcpy(out->data + out->size_bytes, data, size_bytes);
    out->size_bytes += size_bytes;
}

/* Seven bits a byte, lowest first; the top bit says that more follow. */
static void put_varint(message *out, uint64_t value)
{
    do {
        const unsigned char byte = (unsigned char)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        put_bytes(out, &byte, 1);
        value >>= 7;
    } while (value > 0);
}

static void put_key(message *out, int field, enum wire_type type)
{
    put_varint(out, (uint64_t)field << 3 | type);
}

static void put_integer(message *out, int field, int64_t value)
{
    put_key(out, field, WIRE_VARINT);
    put_varint(out, (uint64_t)value);
}

static void put_nested(message *out, int field, const void *data, size_t size_bytes)
{
    put_key(out, field, WIRE_BYTES);
    put_varint(out, size_bytes);
    put_bytes(out, data, size_bytes);
}

static void begin_event(message *out, int64_t step)
{
    const double wall_time = fm_clock_of_day_s();
    out->size_bytes = 0;
    put_key(out, EVENT_WALL_TIME, WIRE_64_BIT);
    put_bytes(out, &wall_time, sizeof wall_time);
    put_integer(out, EVENT_STEP, step);
}

uint32_t fm_crc32c(const void *data, size_t size_bytes)
{
    const unsigned char *const bytes = data;
    uint32_t crc = 0xffffffffu;
    for (size_t i = 0; i < size_bytes; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = (crc & 1u) != 0 ? crc >> 1 ^ 0x82f63b78u : crc >> 1;
        }
    }
    return ~crc;
}

/* TFRecord rotates and shifts checksums, so that a record inside a record is no harm (tensorflow/core/lib/hash/crc32c.h). */
static uint32_t masked_crc(const void *data, size_t size_bytes)
{
    const uint32_t crc = fm_crc32c(data, size_bytes);
    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

/* A frame: length, its checksum, the message, its checksum; little-endian. */
static int write_event(fm_events *events, const message *event)
{
    const uint64_t length = event->size_bytes;
    const uint32_t length_crc = masked_crc(&length, sizeof length);
    const uint32_t data_crc = masked_crc(event->data, event->size_bytes);
    unsigned char frame[EVENT_BYTES + 16];
    memcpy(frame, &length, 8);
    memcpy(frame + 8, &length_crc, 4);
    memcpy(frame + 12, event->data, event->size_bytes);
    memcpy(frame + 12 + event->size_bytes, &data_crc, 4);
    const size_t size_bytes = event->size_bytes + 16;
    if (fwrite(frame, 1, size_bytes, events->file) != size_bytes || fflush(events->file) != 0) {
        return fm_fail(FM_ERR_IO, "%s: cannot write: %s", events->path, strerror(errno));
    }
    return FM_OK;
}

static int write_beginning(fm_events *events, int64_t first_step)
{
    static const char version[] = "brain.Event:2";
    message event;
    begin_event(&event, 0);
    put_nested(&event, EVENT_FILE_VERSION, version, sizeof version - 1);
    FM_TRY(write_event(events, &event));
    message session = { .size_bytes = 0 };
    put_integer(&session, SESSION_STATUS, SESSION_START);
    begin_event(&event, first_step);
    put_nested(&event, EVENT_SESSION_LOG, session.data, session.size_bytes);
    return write_event(events, &event);
}

int fm_events_open(fm_events **out, const char *dir, int64_t first_step)
{
    *out = NULL;
    fm_events *events = fm_alloc(sizeof *events, FM_MEMORY_HOST);
    if (events == NULL) {
        return FM_ERR_MEMORY;
    }
    char host[65] = "localhost", name[160];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "events.out.tfevents.%lld.%s.%ld", (long long)time(NULL), host, (long)getpid());
    int rc = fm_path_join(events->path, dir, name);
    if (rc == FM_OK) {
        events->file = fopen(events->path, "ae");
        rc = events->file != NULL ? write_beginning(events, first_step)
                                  : fm_fail(FM_ERR_IO, "%s: cannot create: %s", events->path, strerror(errno));
    }
    if (rc < 0) {
        fm_events_close(events);
        return rc;
    }
    *out = events;
    return FM_OK;
}

int fm_events_write(fm_events *events, int64_t step, const fm_scalar *scalars, int n)
{
    message summary = { .size_bytes = 0 };
    for (int i = 0; i < n; i++) {
        message value = { .size_bytes = 0 };
        const float number = (float)scalars[i].value;
        put_nested(&value, VALUE_TAG, scalars[i].tag, strnlen(scalars[i].tag, TAG_BYTES));
        put_key(&value, VALUE_SIMPLE, WIRE_32_BIT);
        put_bytes(&value, &number, sizeof number);
        put_nested(&summary, SUMMARY_VALUE, value.data, value.size_bytes);
    }
    message event;
    begin_event(&event, step);
    put_nested(&event, EVENT_SUMMARY, summary.data, summary.size_bytes);
    return write_event(events, &event);
}

int fm_events_close(fm_events *events)
{
    if (events == NULL) {
        return FM_OK;
    }
    int rc = FM_OK;
    if (events->file != NULL && fclose(events->file) != 0) {
        rc = fm_fail(FM_ERR_IO, "%s: cannot close: %s", events->path, strerror(errno));
    }
    fm_free(events);
    return rc;
}
