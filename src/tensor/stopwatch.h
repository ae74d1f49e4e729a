/* How long pieces of a device's work take, added up by rows. What the rows are is the caller's matter: operations (ops/timed.h) and
 * transfers (mesh/timed.h) share one stopwatch, so that their sums can be held against a step's time.
 *
 * Where work is done when a call returns, a clock tells; where calls only queue work, moments in the device's queue do, and nothing
 * waits until fm_stopwatch_settle. A piece within another is part of the outer one. All functions are local. */
#ifndef FM_TENSOR_STOPWATCH_H
#define FM_TENSOR_STOPWATCH_H

#include "tensor/device.h"

enum { FM_STOPWATCH_ROWS = 128 };

typedef struct fm_stopwatch fm_stopwatch;

typedef struct {
    int64_t calls;
    double seconds;
} fm_lap;

/* Borrows the device. Free with fm_stopwatch_destroy. */
int fm_stopwatch_new(fm_stopwatch **out, fm_device *device);
void fm_stopwatch_destroy(fm_stopwatch *w);

/* A piece of work begins. */
void fm_stopwatch_begin(fm_stopwatch *w);

/* It ends and belongs to `row`. Errors are the device's. */
int fm_stopwatch_end(fm_stopwatch *w, int row);

/* Waits for the device and adds what was still on its way. */
int fm_stopwatch_settle(fm_stopwatch *w);

/* Calls and seconds of a row since the last fm_stopwatch_clear, up to the last fm_stopwatch_settle. */
fm_lap fm_stopwatch_get(const fm_stopwatch *w, int row);
void fm_stopwatch_clear(fm_stopwatch *w);

#endif
