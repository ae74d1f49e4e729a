#include "train/metrics.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/text.h"
#include "train/console.h"
#include "train/events.h"

struct fm_metrics {
    FILE *file;
    char path[FM_PATH_BYTES];
    fm_events *events;
    fm_console console;
};

static int io_error(const char *path, const char *what)
{
    return fm_fail(FM_ERR_IO, "%s: cannot %s: %s", path, what, strerror(errno));
}

/* The step of a line of metrics.jsonl; -1 where it is none. */
static int64_t step_of(const char *line, size_t size_bytes, const char *path)
{
    json_t *object;
    int64_t step = -1;
    if (fm_json_parse(&object, line, size_bytes, path) < 0) {
        return -1;
    }
    if (fm_json_get_int(&step, object, "step", 0, INT64_MAX, path) < 0) {
        step = -1;
    }
    json_decref(object);
    return step;
}

/* Keeps the lines of steps 1 .. kept_steps. A run that died may have left half a line at the end. */
static int cut_back(const char *path, int64_t kept_steps)
{
    char *text;
    size_t size_bytes;
    FM_TRY(fm_file_read(&text, &size_bytes, path, (size_t)1 << 40));
    char *kept = text;                 /* what stays moves to the front */
    for (const char *start = text; start < text + size_bytes; ) {
        const char *const end = memchr(start, '\n', (size_t)(text + size_bytes - start));
        if (end == NULL) {
            break;
        }
        const int64_t step = step_of(start, (size_t)(end - start), path);
        if (step >= 0 && step <= kept_steps) {
            memmove(kept, start, (size_t)(end + 1 - start));
            kept += end + 1 - start;
        }
        start = end + 1;
    }
    const int rc = fm_file_replace(path, text, (size_t)(kept - text));
    fm_free(text);
    return rc;
}

int fm_metrics_open(fm_metrics **out, const char *dir, int64_t kept_steps, int64_t n_steps, int64_t every)
{
    *out = NULL;
    fm_metrics *metrics = fm_alloc(sizeof *metrics, FM_MEMORY_HOST);
    if (metrics == NULL) {
        return FM_ERR_MEMORY;
    }
    int rc;
    FM_TRY_TO(failed, rc, fm_path_join(metrics->path, dir, "metrics.jsonl"));
    if (kept_steps > 0 && fm_path_exists(metrics->path)) {
        FM_TRY_TO(failed, rc, cut_back(metrics->path, kept_steps));
    }
    metrics->file = fopen(metrics->path, kept_steps > 0 ? "ae" : "we");
    if (metrics->file == NULL) {
        rc = io_error(metrics->path, "create");
        goto failed;
    }
    FM_TRY_TO(failed, rc, fm_events_open(&metrics->events, dir, kept_steps + 1));
    fm_console_begin(&metrics->console, kept_steps, n_steps, every);
    *out = metrics;
    return FM_OK;
failed:
    if (metrics->file != NULL) {
        fclose(metrics->file);
    }
    fm_free(metrics);
    return rc;
}

static void add_number(fm_text *line, const char *key, double value)
{
    char number[FM_DOUBLE_BYTES] = "null";               /* JSON has no NaN */
    if (isfinite(value)) {
        fm_double_print(number, value);
    }
    fm_text_add(line, ", \"%s\": %s", key, number);
}

static void add_integer(fm_text *line, const char *key, int64_t value)
{
    fm_text_add(line, "%s\"%s\": %lld", line->size_bytes == 0 ? "{" : ", ", key, (long long)value);
}

/* One line in one piece, handed to the system at once: whoever follows the file sees whole lines. */
static int write_line(fm_metrics *metrics, fm_text *line)
{
    fm_text_add(line, "}\n");
    int rc = FM_OK;
    if (line->failed) {
        rc = FM_ERR_MEMORY;
    } else if (fwrite(line->data, 1, line->size_bytes, metrics->file) != line->size_bytes || fflush(metrics->file) != 0) {
        rc = io_error(metrics->path, "write");
    }
    fm_text_clear(line);
    return rc;
}

int fm_metrics_step(fm_metrics *metrics, const fm_step_metrics *step)
{
    fm_text line = { 0 };
    add_integer(&line, "step", step->step);
    add_number(&line, "loss", step->loss);
    add_number(&line, "grad_norm", step->grad_norm);
    add_number(&line, "lr", step->lr);
    add_integer(&line, "tokens", step->tokens);
    add_integer(&line, "label_tokens", step->label_tokens);
    add_number(&line, "tokens_per_s", step->tokens_per_s);
    add_number(&line, "step_ms", step->step_ms);
    if (step->memory_bytes > 0) {
        add_integer(&line, "memory_bytes", step->memory_bytes);
    }
    if (step->slowest_rank != step->fastest_rank) {
        add_integer(&line, "slowest_rank", step->slowest_rank);
        add_number(&line, "slowest_ms", step->slowest_ms);
        add_integer(&line, "fastest_rank", step->fastest_rank);
        add_number(&line, "fastest_ms", step->fastest_ms);
    }
    FM_TRY(write_line(metrics, &line));
    const fm_scalar scalars[] = { { "loss", step->loss }, { "grad_norm", step->grad_norm }, { "lr", step->lr },
                                  { "tokens_per_s", step->tokens_per_s } };
    FM_TRY(fm_events_write(metrics->events, step->step, scalars, sizeof scalars / sizeof scalars[0]));
    fm_console_step(&metrics->console, step);
    return FM_OK;
}

int fm_metrics_validation(fm_metrics *metrics, int64_t step, double val_loss, int64_t val_tokens)
{
    fm_text line = { 0 };
    add_integer(&line, "step", step);
    add_number(&line, "val_loss", val_loss);
    add_integer(&line, "val_tokens", val_tokens);
    FM_TRY(write_line(metrics, &line));
    const fm_scalar scalar = { "val_loss", val_loss };
    FM_TRY(fm_events_write(metrics->events, step, &scalar, 1));
    fm_console_validation(&metrics->console, step, val_loss, val_tokens);
    return FM_OK;
}

int fm_metrics_sync(fm_metrics *metrics)
{
    if (fsync(fileno(metrics->file)) != 0) {
        return io_error(metrics->path, "sync");
    }
    return FM_OK;
}

int fm_metrics_close(fm_metrics *metrics)
{
    if (metrics == NULL) {
        return FM_OK;
    }
    fm_console_end(&metrics->console);
    int rc = fm_metrics_sync(metrics);
    if (fclose(metrics->file) != 0 && rc == FM_OK) {
        rc = io_error(metrics->path, "close");
    }
    const int events_rc = fm_events_close(metrics->events);
    fm_free(metrics);
    return rc < 0 ? rc : events_rc;
}
