/* Errors, memory, files and JSON. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"

static void errors_keep_a_sentence(void **state)
{
    assert_int_equal(fm_fail(FM_ERR_IO, "no %s", "file"), FM_ERR_IO);
    assert_string_equal(fm_error_message(), "no file");
    assert_int_equal(fm_fail_in(FM_ERR_IO, "reading %d", 7), FM_ERR_IO);
    assert_string_equal(fm_error_message(), "reading 7: no file");
}

static void memory_is_counted_and_aligned(void **state)
{
    const size_t before = fm_memory_used_bytes(FM_MEMORY_STATES);
    char *block = fm_alloc(1000, FM_MEMORY_STATES);
    assert_non_null(block);
    assert_int_equal((uintptr_t)block % 64, 0);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(block[i], 0);
    }
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_STATES), before + 1000);
    block[999] = 5;
    block = fm_grow(block, 2000, FM_MEMORY_STATES);
    assert_int_equal(block[999], 5);
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_STATES), before + 2000);
    fm_free(block);
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_STATES), before);
    assert_true(fm_memory_peak_bytes(FM_MEMORY_STATES) >= before + 2000);
    assert_null(fm_alloc_array(INT64_MAX, 16, FM_MEMORY_HOST));
    fm_memory_fail_at(2);
    block = fm_alloc(1, FM_MEMORY_HOST);
    assert_non_null(block);
    assert_null(fm_alloc(1, FM_MEMORY_HOST));
    fm_free(block);
}

/* The definition, bit by bit. */
static uint32_t plain_crc(uint32_t crc, const unsigned char *bytes, size_t size_bytes)
{
    crc = ~crc;
    for (size_t i = 0; i < size_bytes; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++) {
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
        }
    }
    return ~crc;
}

static void crcs_are_those_of_the_definition(void **state)
{
    unsigned char bytes[600];
    uint32_t x = 1;
    for (size_t i = 0; i < sizeof bytes; i++) {
        x = x * 1664525 + 1013904223;
        bytes[i] = (unsigned char)(x >> 24);
    }
    for (size_t size_bytes = 0; size_bytes <= 580; size_bytes++) {
        const unsigned char *const from = bytes + size_bytes % 19;
        assert_int_equal(fm_crc32(0, from, size_bytes), plain_crc(0, from, size_bytes));
        assert_int_equal(fm_crc32(x, from, size_bytes), plain_crc(x, from, size_bytes));
        const size_t half = size_bytes / 3;
        assert_int_equal(fm_crc32(fm_crc32(0, from, half), from + half, size_bytes - half), plain_crc(0, from, size_bytes));
        assert_int_equal(fm_crc32_join(fm_crc32(0, from, half), fm_crc32(0, from + half, size_bytes - half),
                                       (int64_t)(size_bytes - half)), plain_crc(0, from, size_bytes));
    }
}

static void files_are_old_or_new(void **state)
{
    char dir[] = "/tmp/fm-base-XXXXXX";
    assert_non_null(mkdtemp(dir));
    char path[FM_PATH_BYTES], deep[FM_PATH_BYTES];
    assert_int_equal(fm_path_join(deep, dir, "a/b/c"), FM_OK);
    assert_int_equal(fm_dir_make(deep), FM_OK);
    assert_int_equal(fm_path_join(path, deep, "file"), FM_OK);
    assert_int_equal(fm_file_replace(path, "hello", 5), FM_OK);
    char *text;
    size_t size_bytes;
    assert_int_equal(fm_file_read(&text, &size_bytes, path, 5), FM_OK);
    assert_int_equal(size_bytes, 5);
    assert_string_equal(text, "hello");
    fm_free(text);
    assert_int_equal(fm_file_read(&text, &size_bytes, path, 4), FM_ERR_FORMAT);
    assert_int_equal(fm_dir_remove(dir), FM_OK);
    assert_false(fm_path_exists(dir));
    assert_int_equal(fm_crc32(0, "123456789", 9), 0xcbf43926u);
}

static void names_in_files_stay_in_their_directory(void **state)
{
    static const struct {
        const char *name;
        size_t size_bytes;
        bool plain;
    } names[] = { { "model-00001.safetensors", 23, true }, { "a b\xc3\xa9", 5, true }, { "", 0, false }, { ".", 1, false },
                  { "..", 2, false }, { ".hidden", 7, false }, { "../x", 4, false }, { "/x", 2, false }, { "a/b", 3, false },
                  { "a\nb", 3, false }, { "a\0b", 3, false }, { "a\x7f", 2, false } };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_int_equal(fm_path_is_plain(names[i].name, names[i].size_bytes), names[i].plain);
    }
}

static void json_refuses_what_is_hostile(void **state)
{
    json_t *value;
    char deep[4000];
    memset(deep, '[', sizeof deep);
    assert_int_equal(fm_json_parse(&value, deep, sizeof deep, "deep"), FM_ERR_FORMAT);
    char *const wide = fm_alloc(2 * (size_t)FM_JSON_CONTAINERS + 4, FM_MEMORY_HOST);
    assert_non_null(wide);
    wide[0] = '"';                                  /* in a string they are no lists */
    memset(wide + 1, '[', FM_JSON_CONTAINERS + 1);
    wide[FM_JSON_CONTAINERS + 2] = '"';
    assert_int_equal(fm_json_parse(&value, wide, FM_JSON_CONTAINERS + 3, "wide"), FM_OK);
    json_decref(value);
    for (size_t i = 0; i <= FM_JSON_CONTAINERS; i++) {
        memcpy(wide + 2 * i, "[]", 2);
    }
    assert_int_equal(fm_json_parse(&value, wide, 2 * (size_t)FM_JSON_CONTAINERS + 2, "wide"), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "arrays and objects"));
    fm_free(wide);
    const char *const twice = "{\"a\": 1, \"a\": 2}";
    assert_int_equal(fm_json_parse(&value, twice, strlen(twice), "twice"), FM_ERR_FORMAT);
    static const char zero[] = "{\"a\": 1\0}";
    assert_int_equal(fm_json_parse(&value, zero, sizeof zero - 1, "zero"), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "byte 7 is 0"));
    const char *const good = "{\"n\": 3, \"x\": 1e-5, \"none\": null}";
    assert_int_equal(fm_json_parse(&value, good, strlen(good), "good"), FM_OK);
    int64_t n = 0;
    assert_int_equal(fm_json_get_int(&n, value, "n", 0, 10, "good"), FM_OK);
    assert_int_equal(n, 3);
    assert_int_equal(fm_json_get_int(&n, value, "n", 4, 10, "good"), FM_ERR_FORMAT);
    assert_int_equal(fm_json_get_int(&n, value, "x", 0, 10, "good"), FM_ERR_FORMAT);
    n = 9;
    assert_int_equal(fm_json_get_int(&n, value, "none", 0, 10, "good"), FM_OK);
    assert_int_equal(n, 9);
    char *text;
    size_t size_bytes;
    assert_int_equal(fm_json_print(&text, &size_bytes, value, 0), FM_OK);
    assert_string_equal(text, "{\"n\":3,\"x\":1.0000000000000001e-5,\"none\":null}");
    assert_int_equal(size_bytes, strlen(text));
    fm_free(text);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crcs_are_those_of_the_definition),
        cmocka_unit_test(errors_keep_a_sentence),
        cmocka_unit_test(memory_is_counted_and_aligned),
        cmocka_unit_test(files_are_old_or_new),
        cmocka_unit_test(names_in_files_stay_in_their_directory),
        cmocka_unit_test(json_refuses_what_is_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
