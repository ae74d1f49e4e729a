/* The steps of a run on the screen: a table on stdout, a progress bar on stderr where that is a terminal. All functions are
 * local; only the speaker prints. */
#ifndef FM_TRAIN_CONSOLE_H
#define FM_TRAIN_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "train/metrics.h"

/* Plain. */
typedef struct {
    int64_t first_step;                /* steps done before this run */
    int64_t n_steps;
    int64_t every;
    bool has_bar;
    double begin_s;                    /* monotonic clock */
} fm_console;

/* Prints the header. */
void fm_console_begin(fm_console *console, int64_t first_step, int64_t n_steps, int64_t every);

/* The step's line, if it is one of the `every`-th, the first or the last, and the bar. */
void fm_console_step(fm_console *console, const fm_step_metrics *step);

void fm_console_validation(fm_console *console, int64_t step, double val_loss, int64_t val_tokens);

/* Takes the bar away. */
void fm_console_end(fm_console *console);

enum { FM_BAR_BYTES = 128 };

/* "[#####...............] 5/20, 1:30 left" for `step` of n_steps, where each step from now on takes step_s seconds. */
void fm_console_print_bar(char out[FM_BAR_BYTES], int64_t step, int64_t n_steps, double step_s);

#endif
