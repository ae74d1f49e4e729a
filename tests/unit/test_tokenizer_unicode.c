/* Every code point against what the tokenizers library said of it (tests/oracle/tokenizer_unicode.py), and NFC against itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/crc.h"
#include "base/file.h"
#include "data/unicode.h"
#include "data/unicode_tables.h"

static bool is_surrogate(uint32_t code)
{
    return code >= 0xd800 && code < 0xe000;
}

/* CRC-32 of lines, one a text. */
static uint32_t add_line(uint32_t crc, const char *text, size_t size_bytes)
{
    return fm_crc32(fm_crc32(crc, text, size_bytes), "\n", 1);
}

static uint32_t class_crc(uint64_t cells, int *n_members)
{
    uint32_t crc = 0;
    for (uint32_t code = 0; code < FM_UNICODE_LIMIT; code++) {
        if (!is_surrogate(code) && fm_unicode_in(code, cells)) {
            char bytes[FM_UNICODE_UTF8_BYTES];
            crc = add_line(crc, bytes, fm_unicode_put(bytes, code));
            *n_members += 1;
        }
    }
    return crc;
}

typedef int normal_form(fm_bytes *out, const char *text, size_t size_bytes);

static uint32_t form_crc(normal_form *form)
{
    uint32_t crc = 0;
    fm_bytes out = { 0 };
    for (uint32_t code = 0; code < FM_UNICODE_LIMIT; code++) {
        if (is_surrogate(code)) {
            continue;
        }
        char bytes[FM_UNICODE_UTF8_BYTES];
        out.size_bytes = 0;
        assert_int_equal(form(&out, bytes, fm_unicode_put(bytes, code)), FM_OK);
        crc = add_line(crc, out.bytes, out.size_bytes);
    }
    fm_bytes_free(&out);
    return crc;
}

static bool is_interesting(uint32_t code)
{
    static const uint32_t more[] = { 0x41, 0x61, 0x6f, 0xac00, 0xac1c };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
        if (code == more[i]) {
            return true;
        }
    }
    if ((code >= 0x1100 && code < 0x1113) || (code >= 0x1161 && code < 0x1176) || (code >= 0x11a8 && code < 0x11c3)) {
        return true;
    }
    for (int i = 0; i < fm_unicode_n_pairs; i++) {
        if (fm_unicode_pairs[i].code == code) {
            return true;
        }
    }
    int run = 0;
    while (run + 1 < fm_unicode_n_ccc_runs && fm_unicode_ccc_runs[run + 1] >> 8 <= code) {
        run++;
    }
    return (fm_unicode_ccc_runs[run] & 0xff) != 0;
}

/* The same sequences as mark_sequences() of the script. */
static uint32_t marks_crc(void)
{
    static uint32_t pool[1 << 14];
    uint32_t n_pool = 0;
    for (uint32_t code = 0; code < 0x30000; code++) {
        if (is_interesting(code)) {
            pool[n_pool++] = code;
        }
    }
    uint32_t crc = 0;
    uint64_t random = 12345;
    fm_bytes piece = { 0 }, out = { 0 };
    for (int i = 0; i < 20000; i++) {
        piece.size_bytes = out.size_bytes = 0;
        for (int j = 0; j < 8; j++) {
            random = (random * 1103515245 + 12345) & 0x7fffffff;
            assert_int_equal(fm_unicode_append(&piece, pool[(random >> 8) % n_pool]), FM_OK);
        }
        assert_int_equal(fm_unicode_nfc(&out, piece.bytes, piece.size_bytes), FM_OK);
        crc = add_line(crc, out.bytes, out.size_bytes);
    }
    fm_bytes_free(&piece);
    fm_bytes_free(&out);
    return crc;
}

static void every_code_point_is_what_the_library_says(void **state)
{
    char path[FM_PATH_BYTES], line[256], what[32], name[32];
    const char *const srcdir = getenv("srcdir");
    snprintf(path, sizeof path, "%s/tests/unit/data/tokenizer/unicode.txt", srcdir != NULL ? srcdir : ".");
    FILE *const expected = fopen(path, "r");
    assert_non_null(expected);
    int n_checked = 0;
    while (fgets(line, sizeof line, expected) != NULL) {
        int members = 0, seen = 0;
        unsigned crc;
        if (sscanf(line, "class %31s %d %x", name, &members, &crc) == 3) {
            const uint32_t found = class_crc(fm_unicode_class_cells(name, strlen(name)), &seen);
            if (seen != members || found != crc) {
                fail_msg("class %s: %d members, crc %08x; %d, %08x expected", name, seen, found, members, crc);
            }
        } else if (sscanf(line, "%31s %x", what, &crc) == 2 && what[0] != '#') {
            const uint32_t found = strcmp(what, "nfd") == 0 ? form_crc(fm_unicode_nfd)
                                   : strcmp(what, "nfc") == 0 ? form_crc(fm_unicode_nfc) : marks_crc();
            if (found != crc) {
                fail_msg("%s: crc %08x; %08x expected", what, found, crc);
            }
        } else {
            continue;
        }
        n_checked++;
    }
    fclose(expected);
    assert_true(n_checked > 40);
}

static void check(const char *text, size_t size_bytes, size_t valid)
{
    assert_int_equal(fm_unicode_check(text, size_bytes), valid);
}

static void utf8_is_checked_to_the_byte(void **state)
{
    check("", 0, 0);
    check("0123456789abcdef\0ghijk", 22, 22);
    check("01234567\xc3", 9, 8);
    check("\xc3\xa9\xe4\xb8\xad\xf0\x9f\x98\x80", 9, 9);
    check("\xc1\xbf", 2, 0);
    check("a\xe0\x9f\xbf", 4, 1);
    check("a\xed\xa0\x80", 4, 1);
    check("\xf0\x8f\xbf\xbf", 4, 0);
    check("\xf4\x8f\xbf\xbf\xf4\x90\x80\x80", 8, 4);
    check("\xf5\x80\x80\x80", 4, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_is_what_the_library_says),
        cmocka_unit_test(utf8_is_checked_to_the_byte),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
