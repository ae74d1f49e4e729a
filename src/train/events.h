/* TensorBoard event files: TFRecord frames around protocol buffers (tensorflow/core/util/event.proto), written by hand. All
 * functions are local. */
#ifndef FM_TRAIN_EVENTS_H
#define FM_TRAIN_EVENTS_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef struct {
    const char *tag;                   /* at most 63 bytes */
    double value;                      /* kept as a float */
} fm_scalar;

typedef struct fm_events fm_events;

/* Creates DIR/events.out.tfevents.SECONDS.HOST.PID and says in it that a session begins with first_step: readers forget what
 * older files of the directory say of this step and later ones. */
int fm_events_open(fm_events **out, const char *dir, int64_t first_step);

/* One event with n scalars. NaN and infinity are left to the reader, which shows them as such. */
int fm_events_write(fm_events *events, int64_t step, const fm_scalar *scalars, int n);

/* Frees; NULL is allowed. */
int fm_events_close(fm_events *events);

/* CRC-32C (Castagnoli), reflected polynomial 0x82f63b78, as in RFC 3720. */
uint32_t fm_crc32c(const void *data, size_t size_bytes);

#endif
