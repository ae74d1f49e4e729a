/* The folder of checkpoints: names, listing, links, what is kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"

static int set_up(void **state)
{
    char *const dir = test_calloc(1, 64);
    strcpy(dir, "/tmp/fm-checkpoint-XXXXXX");
    *state = dir;
    return mkdtemp(dir) != NULL ? 0 : -1;
}

static int tear_down(void **state)
{
    const int rc = fm_dir_remove(*state);
    test_free(*state);
    return rc;
}

/* A checkpoint of a step; loss < 0: none was measured. */
static void make(const char *dir, int64_t step, double loss)
{
    char folder[FM_PATH_BYTES], path[FM_PATH_BYTES], text[256], member[64] = "";
    assert_int_equal(fm_checkpoint_path(folder, dir, step), FM_OK);
    assert_int_equal(fm_dir_make(folder), FM_OK);
    assert_int_equal(fm_path_join(path, folder, "manifest.json"), FM_OK);
    if (loss >= 0.0) {
        snprintf(member, sizeof member, ", \"val_loss\": %g", loss);
    }
    const int length = snprintf(text, sizeof text, "{\"format_version\": 1, \"files\": [], \"checkpoint\": {\"step\": %lld%s}}",
                                (long long)step, member);
    assert_int_equal(fm_file_replace(path, text, (size_t)length), FM_OK);
}

/* The steps there are, newest first, as "9 6 3". */
static const char *listed(const char *dir)
{
    static char text[256];
    int64_t *steps;
    int n;
    text[0] = '\0';
    assert_int_equal(fm_checkpoints_list(&steps, &n, dir), FM_OK);
    for (int i = 0; i < n; i++) {
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%lld", i == 0 ? "" : " ", (long long)steps[i]);
    }
    fm_free(steps);
    return text;
}

static const char *target(const char *dir, const char *name)
{
    static char text[64];
    char path[FM_PATH_BYTES];
    assert_int_equal(fm_path_join(path, dir, name), FM_OK);
    const ssize_t length = readlink(path, text, sizeof text - 1);
    text[length < 0 ? 0 : length] = '\0';
    return text;
}

static bool is_there(const char *dir, const char *name)
{
    char path[FM_PATH_BYTES];
    struct stat st;
    return fm_path_join(path, dir, name) == FM_OK && lstat(path, &st) == 0;
}

static void make_folder(const char *dir, const char *name)
{
    char path[FM_PATH_BYTES];
    assert_int_equal(fm_path_join(path, dir, name), FM_OK);
    assert_int_equal(fm_dir_make(path), FM_OK);
}

static void newest_come_first(void **state)
{
    const char *const dir = *state;
    assert_string_equal(listed("/nowhere/at/all"), "");
    make(dir, 9, -1);
    make(dir, 1000000, -1);
    make(dir, 10, -1);
    make_folder(dir, "step-000011");               /* no manifest: not complete */
    make_folder(dir, ".step-000012.tmp");
    make_folder(dir, "step-13");
    make_folder(dir, "step-000014x");
    assert_string_equal(listed(dir), "1000000 10 9");
}

static void the_best_is_kept(void **state)
{
    const char *const dir = *state;
    static const double losses[] = { 3.0, 1.5, -1, 1.5, 2.0 };
    make_folder(dir, "my-own");
    make_folder(dir, "step-000002");               /* somebody's, with a name like ours and no manifest */
    for (int i = 0; i < 5; i++) {
        make(dir, 10 * (i + 1), losses[i]);
        assert_int_equal(fm_checkpoints_settle(dir, 2), FM_OK);
    }
    assert_string_equal(listed(dir), "50 40 20");  /* of equal losses the earlier */
    assert_string_equal(target(dir, "latest"), "step-000050");
    assert_string_equal(target(dir, "best"), "step-000020");
    assert_true(is_there(dir, "my-own") && is_there(dir, "step-000002"));
    assert_false(is_there(dir, ".latest.tmp"));
    make(dir, 60, 1.0);
    assert_int_equal(fm_checkpoints_settle(dir, 2), FM_OK);
    assert_string_equal(listed(dir), "60 50");
    assert_string_equal(target(dir, "best"), "step-000060");
}

static void without_losses_there_is_no_best(void **state)
{
    const char *const dir = *state;
    make(dir, 1, -1);
    assert_int_equal(fm_checkpoints_settle(dir, 1), FM_OK);
    assert_string_equal(target(dir, "latest"), "step-000001");
    assert_false(is_there(dir, "best"));
}

static void going_back_sets_aside(void **state)
{
    const char *const dir = *state;
    int n;
    for (int step = 1; step <= 4; step++) {
        make(dir, step, step);
    }
    assert_int_equal(fm_checkpoints_settle(dir, 9), FM_OK);
    assert_int_equal(fm_checkpoints_set_aside(&n, dir, 2), FM_OK);
    assert_int_equal(n, 2);
    assert_string_equal(listed(dir), "2 1");
    assert_true(is_there(dir, "set-aside/step-000003") && is_there(dir, "set-aside/step-000004"));
    make(dir, 3, -1);                              /* a second time over the first */
    assert_int_equal(fm_checkpoints_set_aside(&n, dir, 0), FM_OK);
    assert_int_equal(n, 3);
    assert_int_equal(fm_checkpoints_settle(dir, 9), FM_OK);
    assert_false(is_there(dir, "latest") || is_there(dir, "best"));
}

static void remains_are_removed(void **state)
{
    const char *const dir = *state;
    make_folder(dir, ".step-000007.tmp/inner");
    make_folder(dir, ".step-7.tmp");
    make_folder(dir, ".other.tmp");
    make(dir, 7, -1);
    assert_int_equal(fm_checkpoints_clean(dir), FM_OK);
    assert_false(is_there(dir, ".step-000007.tmp"));
    assert_true(is_there(dir, ".step-7.tmp") && is_there(dir, ".other.tmp") && is_there(dir, "step-000007"));
}

static void a_set_without_a_state_is_no_checkpoint(void **state)
{
    char folder[FM_PATH_BYTES], path[FM_PATH_BYTES];
    json_t *object;
    static const char text[] = "{\"format_version\": 1, \"files\": []}";
    make(*state, 5, 0.25);
    assert_int_equal(fm_checkpoint_path(folder, *state, 5), FM_OK);
    assert_int_equal(fm_checkpoint_state(&object, folder), FM_OK);
    assert_int_equal(json_integer_value(json_object_get(object, "step")), 5);
    json_decref(object);
    assert_int_equal(fm_path_join(path, folder, "manifest.json"), FM_OK);
    assert_int_equal(fm_file_replace(path, text, sizeof text - 1), FM_OK);
    assert_int_equal(fm_checkpoint_state(&object, folder), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "no checkpoint"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(newest_come_first, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_best_is_kept, set_up, tear_down),
        cmocka_unit_test_setup_teardown(without_losses_there_is_no_best, set_up, tear_down),
        cmocka_unit_test_setup_teardown(going_back_sets_aside, set_up, tear_down),
        cmocka_unit_test_setup_teardown(remains_are_removed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_set_without_a_state_is_no_checkpoint, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
