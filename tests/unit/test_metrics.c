/* What a run writes about its steps. `test_metrics DIR` writes a run that was resumed into DIR, for a TensorBoard to read. */
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "train/console.h"
#include "train/events.h"
#include "train/metrics.h"

static fm_step_metrics sample(int64_t step, double loss)
{
    return (fm_step_metrics){ .step = step, .loss = loss, .grad_norm = 1.0 / 3, .lr = 1e-5, .tokens = 100, .label_tokens = 90,
                              .tokens_per_s = 1234.5, .step_ms = 81.0, .memory_bytes = 3 << 20 };
}

/* Steps `first` .. `last` after kept_steps of an earlier run; the loss of step s is `scale` s. */
static int write_run(const char *dir, int64_t kept_steps, int64_t last, double scale)
{
    fm_metrics *metrics;
    FM_TRY(fm_metrics_open(&metrics, dir, kept_steps, last, 1));
    int rc = FM_OK;
    for (int64_t s = kept_steps + 1; rc == FM_OK && s <= last; s++) {
        const fm_step_metrics step = sample(s, scale * (double)s);
        rc = fm_metrics_step(metrics, &step);
        if (rc == FM_OK && s % 2 == 0) {
            rc = fm_metrics_validation(metrics, s, 10 * scale * (double)s, 77);
        }
    }
    const int close_rc = fm_metrics_close(metrics);
    return rc < 0 ? rc : close_rc;
}

typedef struct {
    char dir[64];
    char path[FM_PATH_BYTES];          /* of metrics.jsonl */
} fixture;

static int set_up(void **state)
{
    fixture *f = test_calloc(1, sizeof *f);
    strcpy(f->dir, "/tmp/fm-metrics-XXXXXX");
    *state = f;
    return mkdtemp(f->dir) != NULL ? fm_path_join(f->path, f->dir, "metrics.jsonl") : -1;
}

static int tear_down(void **state)
{
    const fixture *const f = *state;
    const int rc = fm_dir_remove(f->dir);
    test_free(*state);
    return rc;
}

/* The lines of metrics.jsonl, parsed. */
static int read_lines(json_t **lines, int most, const char *path)
{
    char *text;
    size_t size_bytes;
    assert_int_equal(fm_file_read(&text, &size_bytes, path, 1 << 20), FM_OK);
    int n = 0;
    for (char *start = text; *start != '\0'; n++) {
        char *const end = strchr(start, '\n');
        assert_non_null(end);
        assert_true(n < most);
        assert_int_equal(fm_json_parse(&lines[n], start, (size_t)(end - start), path), FM_OK);
        start = end + 1;
    }
    fm_free(text);
    return n;
}

static double number(const json_t *line, const char *key)
{
    const json_t *const value = json_object_get(line, key);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void numbers_round_trip_and_nan_is_null(void **state)
{
    const fixture *const f = *state;
    fm_metrics *metrics;
    assert_int_equal(fm_metrics_open(&metrics, f->dir, 0, 3, 1), FM_OK);
    fm_step_metrics step = sample(1, 2.0 / 3);
    assert_int_equal(fm_metrics_step(metrics, &step), FM_OK);
    step = sample(2, NAN);
    step.grad_norm = INFINITY;
    step.slowest_rank = 3;
    step.slowest_ms = 9.5;
    assert_int_equal(fm_metrics_step(metrics, &step), FM_OK);
    assert_int_equal(fm_metrics_validation(metrics, 2, 0.1, 55), FM_OK);
    assert_int_equal(fm_metrics_close(metrics), FM_OK);
    json_t *lines[4];
    assert_int_equal(read_lines(lines, 4, f->path), 3);
    assert_int_equal(json_integer_value(json_object_get(lines[0], "step")), 1);
    assert_true(number(lines[0], "loss") == 2.0 / 3);
    assert_true(number(lines[0], "grad_norm") == 1.0 / 3);
    assert_true(number(lines[0], "lr") == 1e-5);
    assert_int_equal(json_integer_value(json_object_get(lines[0], "tokens")), 100);
    assert_int_equal(json_integer_value(json_object_get(lines[0], "label_tokens")), 90);
    assert_true(number(lines[0], "tokens_per_s") == 1234.5);
    assert_true(number(lines[0], "step_ms") == 81);
    assert_null(json_object_get(lines[0], "slowest_rank"));
    assert_true(json_is_null(json_object_get(lines[1], "loss")));
    assert_true(json_is_null(json_object_get(lines[1], "grad_norm")));
    assert_int_equal(json_integer_value(json_object_get(lines[1], "slowest_rank")), 3);
    assert_true(number(lines[1], "slowest_ms") == 9.5);
    assert_true(number(lines[2], "val_loss") == 0.1);
    assert_int_equal(json_integer_value(json_object_get(lines[2], "val_tokens")), 55);
    for (int i = 0; i < 3; i++) {
        json_decref(lines[i]);
    }
}

static void a_resumed_run_has_each_step_once(void **state)
{
    const fixture *const f = *state;
    assert_int_equal(write_run(f->dir, 0, 6, 1.0), FM_OK);
    FILE *file = fopen(f->path, "a");
    assert_non_null(file);
    fputs("{\"step\": 3, \"lo", file);               /* a run that died while it wrote; the step is one that is kept */
    fclose(file);
    assert_int_equal(write_run(f->dir, 4, 7, 100.0), FM_OK);
    static const struct {
        int step;
        const char *key;
        double value;
    } expected[] = { { 1, "loss", 1 }, { 2, "loss", 2 }, { 2, "val_loss", 20 }, { 3, "loss", 3 }, { 4, "loss", 4 },
                     { 4, "val_loss", 40 }, { 5, "loss", 500 }, { 6, "loss", 600 }, { 6, "val_loss", 6000 }, { 7, "loss", 700 } };
    json_t *lines[16];
    assert_int_equal(read_lines(lines, 16, f->path), 10);
    for (int i = 0; i < 10; i++) {
        assert_int_equal(json_integer_value(json_object_get(lines[i], "step")), expected[i].step);
        assert_true(number(lines[i], expected[i].key) == expected[i].value);
        json_decref(lines[i]);
    }
    assert_int_equal(write_run(f->dir, 0, 1, 1.0), FM_OK);        /* from the beginning: nothing stays */
    assert_int_equal(read_lines(lines, 16, f->path), 1);
    json_decref(lines[0]);
}

/* CRC-32C by long division of the reversed bits: slow, and no relation of the one that is tested. */
static uint32_t plain_crc32c(const unsigned char *data, size_t size_bytes)
{
    uint32_t remainder = 0xffffffffu;                /* normal polynomial 0x1edc6f41, most significant bit first */
    for (size_t i = 0; i < 8 * size_bytes; i++) {
        const uint32_t bit = data[i / 8] >> i % 8 & 1u;
        remainder = (remainder >> 31 ^ bit) != 0 ? remainder << 1 ^ 0x1edc6f41u : remainder << 1;
    }
    uint32_t reversed = 0;
    for (int bit = 0; bit < 32; bit++) {
        reversed |= (remainder >> bit & 1u) << (31 - bit);
    }
    return ~reversed;
}

static void check_crc(const unsigned char *data, size_t size_bytes, const unsigned char *stored)
{
    const uint32_t crc = plain_crc32c(data, size_bytes);
    const uint32_t masked = (crc >> 15 | crc << 17) + 0xa282ead8u;
    assert_memory_equal(stored, &masked, 4);
}

/* A field of a protocol buffer at *at; varints, and 64-bit, counted and 32-bit fields as bytes. */
typedef struct {
    int field;
    uint64_t value;
    const unsigned char *bytes;
} field;

static uint64_t take_varint(const unsigned char **at)
{
    uint64_t value = 0;
    int shift = 0;
    do {
        value |= (uint64_t)(**at & 0x7f) << shift;
        shift += 7;
    } while ((*(*at)++ & 0x80) != 0);
    return value;
}

static field take_field(const unsigned char **at)
{
    const uint64_t key = take_varint(at);
    field out = { .field = (int)(key >> 3) };
    switch (key & 7) {
    case 0:
        out.value = take_varint(at);
        return out;
    case 1:
        out.value = 8;
        break;
    case 2:
        out.value = take_varint(at);
        break;
    case 5:
        out.value = 4;
        break;
    default:
        fail_msg("wire type %d", (int)(key & 7));
    }
    out.bytes = *at;
    *at += out.value;
    return out;
}

static void check_scalar(const field *value, const char *tag, float expected)
{
    const unsigned char *at = value->bytes;
    const field name = take_field(&at);
    assert_int_equal(name.field, 1);
    assert_int_equal(name.value, strlen(tag));
    assert_memory_equal(name.bytes, tag, strlen(tag));
    const field simple = take_field(&at);
    assert_int_equal(simple.field, 2);
    assert_memory_equal(simple.bytes, &expected, 4);
    assert_ptr_equal(at, value->bytes + value->value);
}

/* The payload of event `index` of a file, its frames checked. */
static const unsigned char *find_event(const unsigned char *file, size_t size_bytes, int index, size_t *length)
{
    const unsigned char *at = file;
    for (;;) {
        assert_true(at + 16 <= file + size_bytes);
        uint64_t n;
        memcpy(&n, at, 8);
        assert_true(n <= size_bytes - 16);
        check_crc(at, 8, at + 8);
        check_crc(at + 12, n, at + 12 + n);
        if (index-- == 0) {
            *length = n;
            return at + 12;
        }
        at += 16 + n;
    }
}

static void events_are_framed_protocol_buffers(void **state)
{
    const fixture *const f = *state;
    assert_int_equal(fm_crc32c("123456789", 9), 0xe3069283u);          /* RFC 3720's check value */
    assert_int_equal(write_run(f->dir, 299, 300, 0.01), FM_OK);
    char pattern[128];
    snprintf(pattern, sizeof pattern, "%s/events.out.tfevents.*", f->dir);
    glob_t found;
    assert_int_equal(glob(pattern, 0, NULL, &found), 0);
    assert_int_equal(found.gl_pathc, 1);
    char *file;
    size_t size_bytes, length;
    assert_int_equal(fm_file_read(&file, &size_bytes, found.gl_pathv[0], 1 << 20), FM_OK);
    globfree(&found);
    const unsigned char *at = find_event((unsigned char *)file, size_bytes, 0, &length);
    assert_int_equal(take_field(&at).field, 1);
    assert_int_equal(take_field(&at).field, 2);
    const field version = take_field(&at);
    assert_int_equal(version.field, 3);
    assert_memory_equal(version.bytes, "brain.Event:2", 13);
    at = find_event((unsigned char *)file, size_bytes, 1, &length);
    take_field(&at);
    assert_int_equal(take_field(&at).value, 300);                      /* the session begins with step 300 */
    const field session = take_field(&at);
    assert_int_equal(session.field, 7);
    assert_memory_equal(session.bytes, "\x08\x01", 2);
    at = find_event((unsigned char *)file, size_bytes, 2, &length);
    const unsigned char *const end = at + length;
    take_field(&at);
    assert_int_equal(take_field(&at).value, 300);
    const field summary = take_field(&at);
    assert_int_equal(summary.field, 5);
    assert_ptr_equal(at, end);
    at = summary.bytes;
    static const char *const tags[] = { "loss", "grad_norm", "lr", "tokens_per_s" };
    const float values[] = { (float)(0.01 * 300), (float)(1.0 / 3), 1e-5f, 1234.5f };
    for (int i = 0; i < 4; i++) {
        const field value = take_field(&at);
        assert_int_equal(value.field, 1);
        check_scalar(&value, tags[i], values[i]);
    }
    assert_ptr_equal(at, end);
    at = find_event((unsigned char *)file, size_bytes, 3, &length);
    take_field(&at);
    take_field(&at);
    at = take_field(&at).bytes;
    const field validation = take_field(&at);
    check_scalar(&validation, "val_loss", 30.0f);
    fm_free(file);
}

static void bars_show_share_and_time(void **state)
{
    char bar[FM_BAR_BYTES];
    fm_console_print_bar(bar, 0, 20, 60);
    assert_string_equal(bar, "[..............................] 0/20, 20:00 left");
    fm_console_print_bar(bar, 10, 20, 6.5);
    assert_string_equal(bar, "[###############...............] 10/20, 1:05 left");
    fm_console_print_bar(bar, 20, 20, 3600);
    assert_string_equal(bar, "[##############################] 20/20, 0:00 left");
    fm_console_print_bar(bar, 1, 11, 3661);
    assert_string_equal(bar, "[##............................] 1/11, 10:10:10 left");
}

/* Runs three steps with stderr on `fd`. */
static void run_with_stderr(const char *dir, int fd)
{
    const int kept = dup(STDERR_FILENO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    const int rc = write_run(dir, 0, 3, 1.0);
    assert_true(dup2(kept, STDERR_FILENO) >= 0);
    close(kept);
    assert_int_equal(rc, FM_OK);
}

static void bars_are_for_terminals_only(void **state)
{
    const fixture *const f = *state;
    char seen[4096];
    int pipe_ends[2];
    assert_int_equal(pipe(pipe_ends), 0);
    run_with_stderr(f->dir, pipe_ends[1]);
    close(pipe_ends[1]);
    assert_int_equal(read(pipe_ends[0], seen, sizeof seen), 0);
    close(pipe_ends[0]);
    const int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) != 0 || unlockpt(terminal) != 0) {
        print_message("no pseudo terminal here: the bar itself is not seen\n");
        skip();
    }
    const int user_end = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    assert_true(user_end >= 0);
    run_with_stderr(f->dir, user_end);
    const ssize_t n = read(terminal, seen, sizeof seen - 1);
    assert_true(n > 0);
    seen[n] = '\0';
    assert_non_null(strstr(seen, "] 3/3, 0:00 left"));
    close(user_end);
    close(terminal);
}

static void a_directory_that_is_not_there_is_told(void **state)
{
    fm_metrics *metrics;
    assert_int_equal(fm_metrics_open(&metrics, "/nonexistent", 0, 1, 1), FM_ERR_IO);
    assert_non_null(strstr(fm_error_message(), "/nonexistent/metrics.jsonl: cannot create"));
    assert_null(metrics);
}

static void a_full_disk_is_told(void **state)
{
    const fixture *const f = *state;
    if (symlink("/dev/full", f->path) != 0 || access("/dev/full", W_OK) != 0) {
        skip();
    }
    fm_metrics *metrics;
    assert_int_equal(fm_metrics_open(&metrics, f->dir, 0, 1, 1), FM_OK);
    const fm_step_metrics step = sample(1, 1.0);
    assert_int_equal(fm_metrics_step(metrics, &step), FM_ERR_IO);
    assert_non_null(strstr(fm_error_message(), "cannot write"));
    assert_int_equal(fm_metrics_close(metrics), FM_ERR_IO);
}

int main(int argc, char **argv)
{
    if (argc == 2) {
        return write_run(argv[1], 0, 6, 1.0) < 0 || write_run(argv[1], 4, 7, 100.0) < 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(numbers_round_trip_and_nan_is_null, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_resumed_run_has_each_step_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(events_are_framed_protocol_buffers, set_up, tear_down),
        cmocka_unit_test(bars_show_share_and_time),
        cmocka_unit_test_setup_teardown(bars_are_for_terminals_only, set_up, tear_down),
        cmocka_unit_test(a_directory_that_is_not_there_is_told),
        cmocka_unit_test_setup_teardown(a_full_disk_is_told, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
