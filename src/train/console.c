#include "train/console.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"

/* "\033[K" clears to the end of the line: what follows on this line stands alone. */
static void erase_bar(const fm_console *console)
{
    if (console->has_bar) {
        fputs("\r\033[K", stderr);
        fflush(stderr);
    }
}

void fm_console_begin(fm_console *console, int64_t first_step, int64_t n_steps, int64_t every)
{
    *console = (fm_console){ first_step, n_steps, every, fm_log_is_speaker() && isatty(STDERR_FILENO), fm_clock_s() };
    fm_log_print("# %8s %12s %12s %12s %12s %12s\n", "step", "loss", "grad norm", "lr", "tokens/s", "memory MiB");
}

void fm_console_print_bar(char out[FM_BAR_BYTES], int64_t step, int64_t n_steps, double step_s)
{
    enum { CELLS = 30 };
    char cells[CELLS + 1];
    const int64_t full = n_steps > 0 ? (int64_t)((double)step / (double)n_steps * CELLS) : CELLS;
    for (int i = 0; i < CELLS; i++) {
        cells[i] = i < full ? '#' : '.';
    }
    cells[CELLS] = '\0';
    const double left = (double)(n_steps - step) * step_s;
    const long long seconds = isfinite(left) && left < 1e9 ? llround(left) : 0;
    char time[40];
    if (seconds >= 3600) {
        snprintf(time, sizeof time, "%lld:%02lld:%02lld", seconds / 3600, seconds / 60 % 60, seconds % 60);
    } else {
        snprintf(time, sizeof time, "%lld:%02lld", seconds / 60, seconds % 60);
    }
    snprintf(out, FM_BAR_BYTES, "[%s] %lld/%lld, %s left", cells, (long long)step, (long long)n_steps, time);
}

static void draw_bar(const fm_console *console, int64_t step)
{
    if (console->has_bar) {
        char bar[FM_BAR_BYTES];
        const int64_t done = step - console->first_step;
        fm_console_print_bar(bar, step, console->n_steps, (fm_clock_s() - console->begin_s) / (double)(done > 0 ? done : 1));
        fprintf(stderr, "\r\033[K%s", bar);
        fflush(stderr);
    }
}

static void print_line(const fm_step_metrics *step)
{
    char memory[32] = "-";
    if (step->memory_bytes > 0) {
        snprintf(memory, sizeof memory, "%.1f", (double)step->memory_bytes / 1048576);
    }
    char ranks[96] = "";
    if (step->slowest_rank != step->fastest_rank) {
        snprintf(ranks, sizeof ranks, "   slowest rank %d: %.1f ms, fastest %d: %.1f ms", step->slowest_rank, step->slowest_ms,
                 step->fastest_rank, step->fastest_ms);
    }
    fm_log_print("  %8lld %12.6f %12.5g %12.5g %12.1f %12s%s\n", (long long)step->step, step->loss, step->grad_norm, step->lr,
                 step->tokens_per_s, memory, ranks);
}

void fm_console_step(fm_console *console, const fm_step_metrics *step)
{
    const bool is_first = step->step == console->first_step + 1;
    if (is_first || step->step == console->n_steps || step->step % console->every == 0) {
        erase_bar(console);
        print_line(step);
    }
    draw_bar(console, step->step);
}

void fm_console_validation(fm_console *console, int64_t step, double val_loss, int64_t val_tokens)
{
    erase_bar(console);
    fm_log_print("  %8lld %12.6f   validation loss over %lld label tokens\n", (long long)step, val_loss, (long long)val_tokens);
    draw_bar(console, step);
}

void fm_console_end(fm_console *console)
{
    erase_bar(console);
    console->has_bar = false;
}
