#include "tensor/stopwatch.h"

#include <string.h>

#include "base/clock.h"

struct fm_stopwatch {
    fm_device *device;
    fm_lap laps[FM_STOPWATCH_ROWS];
    int depth;                         /* pieces under way, one within the other */
    double begin_s;                    /* of the outer one */
    int rc;                            /* of its beginning */
    /* pieces that are queued: piece i lies between the moments 2 i and 2 i + 1 */
    int *rows;
    int n_pieces, capacity;
};

int fm_stopwatch_new(fm_stopwatch **out, fm_device *device)
{
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    if (*out == NULL) {
        return FM_ERR_MEMORY;
    }
    (*out)->device = device;
    return FM_OK;
}

void fm_stopwatch_destroy(fm_stopwatch *w)
{
    if (w != NULL) {
        fm_free(w->rows);
        fm_free(w);
    }
}

static int grow(fm_stopwatch *w)
{
    if (w->n_pieces < w->capacity) {
        return FM_OK;
    }
    const int capacity = w->capacity == 0 ? 1024 : 2 * w->capacity;
    int *const rows = fm_grow(w->rows, (size_t)capacity * sizeof *rows, FM_MEMORY_HOST);
    if (rows == NULL) {
        return FM_ERR_MEMORY;
    }
    w->rows = rows;
    w->capacity = capacity;
    return FM_OK;
}

void fm_stopwatch_begin(fm_stopwatch *w)
{
    if (w->depth++ > 0) {
        return;
    }
    if (w->device->table->mark == NULL) {
        w->begin_s = fm_clock_s();
        return;
    }
    w->rc = grow(w);
    if (w->rc == FM_OK) {
        w->rc = w->device->table->mark(w->device, 2 * w->n_pieces);
    }
}

int fm_stopwatch_end(fm_stopwatch *w, int row)
{
    FM_ASSERT(row >= 0 && row < FM_STOPWATCH_ROWS && w->depth > 0);
    if (--w->depth > 0) {
        return FM_OK;
    }
    w->laps[row].calls++;
    if (w->device->table->mark == NULL) {
        w->laps[row].seconds += fm_clock_s() - w->begin_s;
        return FM_OK;
    }
    FM_TRY(w->rc);
    FM_TRY(w->device->table->mark(w->device, 2 * w->n_pieces + 1));
    w->rows[w->n_pieces++] = row;
    return FM_OK;
}

int fm_stopwatch_settle(fm_stopwatch *w)
{
    FM_TRY(w->device->table->synchronize(w->device));
    for (int i = 0; i < w->n_pieces; i++) {
        double seconds;
        FM_TRY(w->device->table->between(&seconds, w->device, 2 * i, 2 * i + 1));
        w->laps[w->rows[i]].seconds += seconds;
    }
    w->n_pieces = 0;
    return FM_OK;
}

fm_lap fm_stopwatch_get(const fm_stopwatch *w, int row)
{
    return w->laps[row];
}

void fm_stopwatch_clear(fm_stopwatch *w)
{
    memset(w->laps, 0, sizeof w->laps);
    w->n_pieces = 0;
}
