/* Export: what comes out is what went in, in one file or many; numbers are rounded; the other files are carried along. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "ckpt/export.h"
#include "ckpt/hf_files.h"
#include "ckpt/match.h"
#include "ckpt_model.h"

static const fm_mesh_shape one_rank = { { 1, 1, 1, 1, 1 } };

/* Everything in the directory is the model, byte for byte. */
static void check_directory(const char *dir, const ckpt_model *model)
{
    fm_source *source;
    if (fm_source_open_hf(&source, dir, NULL) != FM_OK) {
        fail_msg("%s", fm_error_message());
    }
    assert_int_equal(fm_source_count(source), model->n);
    for (int t = 0; t < model->n; t++) {
        const fm_tensor_spec *const spec = &model->tensors[t];
        const int tensor = fm_source_find(source, spec->name);
        assert_true(tensor >= 0);
        assert_int_equal(fm_source_get(source, tensor)->dtype, spec->dtype);
        const size_t size_bytes = (size_t)fm_tensor_elements(spec) * fm_dtype_bytes(spec->dtype);
        char *const expected = ckpt_model_bytes(spec), *const found = fm_alloc(size_bytes, FM_MEMORY_HOST);
        assert_int_equal(fm_source_read(source, found, tensor, (int64_t[2]){ 0, 0 }, spec->shape), FM_OK);
        assert_memory_equal(found, expected, size_bytes);
        fm_free(expected);
        fm_free(found);
    }
    fm_source_close(source);
}

/* Exports the directory `from` again into `to`. */
static int export_again(const char *to, const char *from, ckpt_model *model, int64_t max_file_bytes)
{
    int *stages, *const tensor_of = fm_alloc_array(model->n, sizeof *tensor_of, FM_MEMORY_HOST);
    const fm_layout layout = ckpt_model_layout(model, &one_rank, &stages);
    fm_source *source;
    assert_int_equal(fm_source_open(&source, from, NULL), FM_OK);
    assert_int_equal(fm_match_tensors(tensor_of, model->tensors, model->n, source, from), FM_OK);
    fm_source_feed rows = { .source = source, .tensor_of = tensor_of, .layout = &layout };
    const fm_tensor_feed feed = fm_feed_source(&rows);
    const int rc = fm_export(to, &layout, &feed, &(fm_export_options){ from, max_file_bytes }, NULL, NULL);
    fm_source_close(source);
    fm_free(tensor_of);
    return rc;
}

static void text_of(char out[4096], const char *dir, const char *name)
{
    char path[FM_PATH_BYTES], *text;
    assert_int_equal(fm_path_join(path, dir, name), FM_OK);
    assert_int_equal(fm_file_read(&text, NULL, path, 4095), FM_OK);
    strcpy(out, text);
    fm_free(text);
}

static void what_goes_in_comes_out(void **state)
{
    char dir[FM_PATH_BYTES], hf[FM_PATH_BYTES], out[FM_PATH_BYTES], path[FM_PATH_BYTES], before[4096], after[4096];
    ckpt_model model;
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(hf, dir, "hf"), FM_OK);
    assert_int_equal(fm_path_join(out, dir, "run/hf"), FM_OK);
    ckpt_model_make(&model, 2, 1);
    ckpt_model_write(hf, &model, 1);

    assert_int_equal(export_again(out, hf, &model, 0), FM_OK);
    check_directory(out, &model);
    assert_int_equal(fm_path_join(path, out, "model.safetensors"), FM_OK);
    assert_true(fm_path_exists(path));
    text_of(before, hf, "tokenizer.json");
    text_of(after, out, "tokenizer.json");
    assert_string_equal(before, after);
    text_of(after, out, "config.json");
    assert_string_equal(after, "{\n  \"model_type\": \"made_up\",\n  \"rms_norm_eps\": 1e-05,\n  \"big\": 0.1\n}\n");

    assert_int_equal(export_again(out, hf, &model, 1500), FM_OK);   /* over the first one, in several files */
    assert_false(fm_path_exists(path));
    check_directory(out, &model);
    text_of(after, out, "model.safetensors.index.json");
    int64_t total_bytes = 0;
    for (int t = 0; t < model.n; t++) {
        total_bytes += fm_tensor_elements(&model.tensors[t]) * (int64_t)fm_dtype_bytes(model.tensors[t].dtype);
    }
    char expected[64];
    snprintf(expected, sizeof expected, "\"total_size\": %lld", (long long)total_bytes);
    assert_non_null(strstr(after, expected));
    assert_non_null(strstr(after, "model-00001-of-0000"));
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

static void what_is_not_ours_stays(void **state)
{
    char dir[FM_PATH_BYTES], hf[FM_PATH_BYTES], out[FM_PATH_BYTES], path[FM_PATH_BYTES], temporary[FM_PATH_BYTES];
    ckpt_model model;
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(hf, dir, "hf"), FM_OK);
    assert_int_equal(fm_path_join(out, dir, "out"), FM_OK);
    assert_int_equal(fm_path_join(temporary, dir, "out.tmp"), FM_OK);
    ckpt_model_make(&model, 1, 1);
    ckpt_model_write(hf, &model, 1);
    assert_int_equal(export_again(hf, hf, &model, 0), FM_ERR_JOB);
    check_directory(hf, &model);
    assert_int_equal(fm_dir_make(out), FM_OK);
    assert_int_equal(fm_path_join(path, out, "precious"), FM_OK);
    assert_int_equal(fm_file_replace(path, "mine", 4), FM_OK);
    assert_int_equal(export_again(out, hf, &model, 0), FM_ERR_IO);
    assert_true(fm_path_exists(path));
    assert_int_equal(unlink(path), 0);
    assert_int_equal(fm_path_join(path, hf, "config.json"), FM_OK);
    assert_int_equal(fm_file_replace(path, "{\"a\": 1", 7), FM_OK);
    assert_int_equal(export_again(out, hf, &model, 0), FM_ERR_FORMAT);   /* found last: nothing is left behind */
    assert_non_null(strstr(fm_error_message(), "config.json"));
    assert_false(fm_path_exists(temporary));
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

/* The member is cut wherever it stands; everything else stays as it was written. */
static void one_key_of_the_configuration_is_cut(void **state)
{
    static const struct {
        const char *before, *after;
    } texts[] = {
        { "{\"a\": 1e-05, \"transformers_version\": \"5.0\"}", "{\"a\": 1e-05}" },
        { "{\"transformers_version\": \"5.0\", \"a\": 1.50}", "{ \"a\": 1.50}" },
        { "{\"transformers_version\": \"5.0\"}", "{}" },
        { "{\n  \"a\": [1, {\"b\": 2}],\n  \"transformers_version\": \"5.0\"\n}\n", "{\n  \"a\": [1, {\"b\": 2}]\n}\n" },
        { "{\"a\": {\"transformers_version\": 1}, \"b\": [{\"transformers_version\": 2}]}",
          "{\"a\": {\"transformers_version\": 1}, \"b\": [{\"transformers_version\": 2}]}" },
        { "{\"a\": \"transformers_version\", \"b\": \"\\\"},{\", \"transformers_version\": {\"x\": [1, 2]}, \"c\": []}",
          "{\"a\": \"transformers_version\", \"b\": \"\\\"},{\", \"c\": []}" },
        { "{}", "{}" },
    };
    char dir[FM_PATH_BYTES], from[FM_PATH_BYTES], to[FM_PATH_BYTES], path[FM_PATH_BYTES], found[4096];
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(from, dir, "from"), FM_OK);
    assert_int_equal(fm_path_join(to, dir, "to"), FM_OK);
    assert_int_equal(fm_path_join(path, from, "config.json"), FM_OK);
    assert_int_equal(fm_dir_make(from), FM_OK);
    assert_int_equal(fm_dir_make(to), FM_OK);
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        assert_int_equal(fm_file_replace(path, texts[i].before, strlen(texts[i].before)), FM_OK);
        assert_int_equal(fm_hf_files_copy(to, from), FM_OK);
        text_of(found, to, "config.json");
        assert_string_equal(found, texts[i].after);
    }
    fm_dir_remove(dir);
}

static void numbers_are_rounded_to_nearest_even(void **state)
{
    static const float masters[] = { 1.0f, 1.00390625f, 1.01171875f, 1.00390637f, -3.4e38f };   /* two ties, one above a tie */
    static const uint16_t expected[] = { 0x3f80, 0x3f80, 0x3f82, 0x3f81, 0xff80 };
    char dir[FM_PATH_BYTES], out[FM_PATH_BYTES];
    fm_tensor_spec tensor = { .name = "w", .dtype = FM_BF16, .ndim = 1, .shape = { 5 }, .cut_axis = -1, .layer = -1,
                              .place = FM_PLACE_HEAD };
    ckpt_model model = { .tensors = &tensor, .n = 1 };
    int *stages;
    const fm_layout layout = ckpt_model_layout(&model, &one_rank, &stages);
    ckpt_scratch(dir);
    ckpt_model_write(dir, &model, 1);
    assert_int_equal(fm_path_join(out, dir, "out"), FM_OK);
    fm_array_feed arrays = {
        .layout = &layout, .data = (const void *const[]){ masters }, .dtypes = (const enum fm_dtype[]){ FM_F32 },
    };
    const fm_tensor_feed feed = fm_feed_arrays(&arrays);
    assert_int_equal(fm_export(out, &layout, &feed, &(fm_export_options){ .source_dir = dir }, NULL, NULL), FM_OK);
    fm_source *source;
    uint16_t found[5];
    assert_int_equal(fm_source_open_hf(&source, out, NULL), FM_OK);
    assert_int_equal(fm_source_read(source, found, 0, (int64_t[1]){ 0 }, (int64_t[1]){ 5 }), FM_OK);
    assert_memory_equal(found, expected, sizeof expected);
    fm_source_close(source);
    fm_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(what_is_not_ours_stays),
        cmocka_unit_test(one_key_of_the_configuration_is_cut),
        cmocka_unit_test(numbers_are_rounded_to_nearest_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
