/* INI files: what is read, what is refused, and that every line number is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/ini.h"
#include "base/memory.h"

static void values_are_those_of_iniparser(void **state)
{
    static const char text[] =
        "# comment\n"
        "[ Job ]\r\n"
        "  Name =  a name with blanks   ; comment\n"
        "seed=42\n"
        "\n"
        "[data]\n"
        "train = \"a#b;c\" # comment\n"
        "format = 'it is \"quoted\"'\n"
        "validation =\n"
        "empty = \"\"\n"
        "commented = # nothing\n"
        "equals = a=b\n"
        "last = no newline";
    static const struct {
        const char *section, *key, *value;
        int line;
    } expected[] = {
        { "job", NULL, NULL, 2 }, { "job", "name", "a name with blanks", 3 }, { "job", "seed", "42", 4 },
        { "data", NULL, NULL, 6 }, { "data", "train", "a#b;c", 7 }, { "data", "format", "it is \"quoted\"", 8 },
        { "data", "validation", "", 9 }, { "data", "empty", "", 10 }, { "data", "commented", "", 11 },
        { "data", "equals", "a=b", 12 }, { "data", "last", "no newline", 13 },
    };
    fm_complaints complaints = { 0 };
    fm_ini ini;
    assert_int_equal(fm_ini_parse(&ini, &complaints, text, sizeof text - 1, "t.ini"), FM_OK);
    assert_string_equal(fm_text_get(&complaints.lines), "");
    assert_int_equal(ini.n, sizeof expected / sizeof expected[0]);
    for (int i = 0; i < ini.n; i++) {
        assert_string_equal(ini.entries[i].section, expected[i].section);
        assert_int_equal(ini.entries[i].line, expected[i].line);
        if (expected[i].key == NULL) {
            assert_null(ini.entries[i].key);
            continue;
        }
        assert_string_equal(ini.entries[i].key, expected[i].key);
        assert_string_equal(ini.entries[i].value, expected[i].value);
    }
    fm_ini_clear(&ini);
}

/* A bad line between two good ones: the complaint names line 3, and both others are read. */
static void check_refused(const char *bad, size_t size_bytes, const char *complaint)
{
    static const char before[] = "[s]\na = 1\n", after[] = "\nb = 2\n";
    char *text = test_malloc(sizeof before + size_bytes + sizeof after);
    memcpy(text, before, sizeof before - 1);
    memcpy(text + sizeof before - 1, bad, size_bytes);
    memcpy(text + sizeof before - 1 + size_bytes, after, sizeof after - 1);
    fm_complaints complaints = { 0 };
    fm_ini ini;
    assert_int_equal(fm_ini_parse(&ini, &complaints, text, sizeof before + size_bytes + sizeof after - 2, "t.ini"), FM_OK);
    test_free(text);
    assert_int_equal(complaints.count, 1);
    assert_int_equal(ini.n, 3);
    assert_string_equal(ini.entries[1].value, "1");
    assert_string_equal(ini.entries[2].value, "2");
    assert_int_equal(ini.entries[2].line, 4);
    fm_ini_clear(&ini);
    assert_int_equal(fm_complaints_end(&complaints, FM_ERR_JOB, "t.ini"), FM_ERR_JOB);
    const char *const message = fm_error_message();
    assert_memory_equal(message, "t.ini:3: ", 9);
    if (strstr(message, complaint) == NULL) {
        fail_msg("'%s' is not in: %s", complaint, message);
    }
}

static void what_iniparser_swallows_is_refused(void **state)
{
    static const struct {
        const char *line, *complaint;
    } bad[] = {
        { "a = 2", "stands in line 2" },
        { "A=2", "stands in line 2" },
        { "no_equals", "without '='" },
        { "x", "without '='" },
        { "lr # x = 3", "without '='" },
        { "= 3", "without a key" },
        { "c = 1 \\", "continuation" },
        { "# a comment \\", "continuation" },
        { "c = \"open", "not closed" },
        { "c = 'open", "not closed" },
        { "c = \"a\" b", "after the closing quote" },
        { "c = \"\"x", "after the closing quote" },
        { "[]", "without a name" },
        { "[ ]", "without a name" },
        { "[open", "without its ']'" },
        { "[s] # comment", "']'" },
        { "[s]x]", "']'" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        check_refused(bad[i].line, strlen(bad[i].line), bad[i].complaint);
    }
    check_refused("c = a\0b", 7, "0 byte");
}

static void lines_end_at_1023_bytes(void **state)
{
    char line[4 + FM_INI_LINE_BYTES];
    memset(line, 'v', sizeof line);
    memcpy(line, "c = ", 4);
    check_refused(line, FM_INI_LINE_BYTES, "a line of 1024 bytes");       /* its newline comes on top */
    line[0] = '#';
    check_refused(line, FM_INI_LINE_BYTES, "a line of 1024 bytes");
    memcpy(line, "[s]\nc = ", 8);
    fm_complaints complaints = { 0 };
    fm_ini ini;
    assert_int_equal(fm_ini_parse(&ini, &complaints, line, 4 + FM_INI_LINE_BYTES - 1, "t.ini"), FM_OK);
    assert_int_equal(complaints.count, 0);
    assert_int_equal(strlen(ini.entries[1].value), FM_INI_LINE_BYTES - 1 - 4);
    fm_ini_clear(&ini);
}

static void a_key_needs_a_section_and_a_mark_is_refused(void **state)
{
    static const char text[] = "\xef\xbb\xbf[s]\na = 1\n[t]\nb = 2\n";
    fm_complaints complaints = { 0 };
    fm_ini ini;
    assert_int_equal(fm_ini_parse(&ini, &complaints, text, sizeof text - 1, "t.ini"), FM_OK);
    fm_ini_clear(&ini);
    assert_int_equal(fm_complaints_end(&complaints, FM_ERR_JOB, "t.ini"), FM_ERR_JOB);
    assert_string_equal(fm_error_message(), "t.ini: 2 errors\n"
                        "t.ini:1: a byte order mark: plain UTF-8 was expected; save the file without it\n"
                        "t.ini:2: a key before the first [section]");
}

static void empty_texts_are_empty(void **state)
{
    fm_complaints complaints = { 0 };
    fm_ini ini;
    assert_int_equal(fm_ini_parse(&ini, &complaints, "", 0, "t.ini"), FM_OK);
    assert_int_equal(ini.n, 0);
    assert_int_equal(complaints.count, 0);
    fm_ini_clear(&ini);
}

static void values_are_written_as_they_are_read(void **state)
{
    static const char *const values[] = { "plain", "", "a # b", "a;b", " blanks ", "\"quoted\"", "'single'", "ends in \\", "a=b",
                                          "\"#'x" };
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        fm_text text = { 0 };
        fm_text_add(&text, "[s]\nkey = ");
        const bool written = fm_ini_write_value(&text, "key", values[i]);
        assert_int_equal(written, i + 1 < sizeof values / sizeof values[0]);      /* the last cannot be written */
        if (written) {
            fm_complaints complaints = { 0 };
            fm_ini ini;
            fm_text_add(&text, "\n");
            assert_int_equal(fm_ini_parse(&ini, &complaints, text.data, text.size_bytes, "t.ini"), FM_OK);
            assert_int_equal(complaints.count, 0);
            assert_string_equal(ini.entries[1].value, values[i]);
            fm_ini_clear(&ini);
        }
        fm_text_clear(&text);
    }
    fm_text text = { 0 };
    assert_false(fm_ini_write_value(&text, "key", "two\nlines"));
}

static void random_bytes_do_no_harm(void **state)
{
    static const char alphabet[] = "[]=#;\"'\\\n\n\r ab\t\0\xff";
    uint32_t seed = 1;
    for (int i = 0; i < 2000; i++) {
        char text[64];
        for (size_t j = 0; j < sizeof text; j++) {
            seed = seed * 1664525u + 1013904223u;
            text[j] = alphabet[(seed >> 16) % (sizeof alphabet - 1)];
        }
        fm_complaints complaints = { 0 };
        fm_ini ini;
        assert_int_equal(fm_ini_parse(&ini, &complaints, text, sizeof text, "t.ini"), FM_OK);
        for (int e = 0; e < ini.n; e++) {
            assert_true(ini.entries[e].key == NULL || ini.entries[e].value != NULL);
        }
        fm_ini_clear(&ini);
        fm_complaints_end(&complaints, FM_ERR_JOB, "t.ini");
    }
    assert_int_equal(fm_memory_used_bytes(FM_MEMORY_HOST), 0);
}

static void distances_count_edits(void **state)
{
    assert_int_equal(fm_edit_distance("steps", "steps"), 0);
    assert_int_equal(fm_edit_distance("stesp", "Steps"), 1);
    assert_int_equal(fm_edit_distance("step", "steps"), 1);
    assert_int_equal(fm_edit_distance("", "lr"), 2);
    assert_int_equal(fm_edit_distance("kitten", "sitting"), 3);
}

static void doubles_round_trip_and_are_short(void **state)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = { { 1e-5, "1e-05" }, { 0.1, "0.1" }, { 1.0, "1" }, { 0.1 + 0.2, "0.30000000000000004" }, { 2.5, "2.5" } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[FM_DOUBLE_BYTES];
        fm_double_print(out, cases[i].value);
        assert_string_equal(out, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_those_of_iniparser),
        cmocka_unit_test(what_iniparser_swallows_is_refused),
        cmocka_unit_test(lines_end_at_1023_bytes),
        cmocka_unit_test(a_key_needs_a_section_and_a_mark_is_refused),
        cmocka_unit_test(empty_texts_are_empty),
        cmocka_unit_test(values_are_written_as_they_are_read),
        cmocka_unit_test(random_bytes_do_no_harm),
        cmocka_unit_test(distances_count_edits),
        cmocka_unit_test(doubles_round_trip_and_are_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
