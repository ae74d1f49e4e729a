/* Sources of tensors: any hyperslab and every coordinate's slice, byte for byte, and what was read for it. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "ckpt/source.h"
#include "ckpt_model.h"

/* Meshes over pp, dp_replicate, dp_shard, cp, tp. */
static const fm_mesh_shape meshes[] = {
    { { 1, 1, 1, 1, 1 } }, { { 1, 1, 3, 1, 2 } }, { { 1, 2, 1, 1, 3 } }, { { 2, 1, 2, 2, 1 } }, { { 1, 1, 2, 1, 9 } },
    { { 1, 1, 17, 1, 1 } },
};

static void every_slice_is_right(void **state)
{
    char dir[FM_PATH_BYTES];
    ckpt_model model;
    ckpt_scratch(dir);
    ckpt_model_make(&model, 2, 1);
    ckpt_model_write(dir, &model, 3);
    fm_source *source;
    assert_int_equal(fm_source_open(&source, dir, NULL), FM_OK);
    for (size_t m = 0; m < sizeof meshes / sizeof meshes[0]; m++) {
        int *stages;
        const fm_layout layout = ckpt_model_layout(&model, &meshes[m], &stages);
        for (int rank = 0; rank < fm_mesh_ranks(&layout.mesh); rank++) {
            const fm_coord coord = fm_mesh_coord(&layout.mesh, rank);
            for (int t = 0; t < model.n; t++) {
                size_t size_bytes;
                char *const expected = ckpt_model_slice(&size_bytes, &layout, t, &coord);
                char *const found = fm_alloc(size_bytes, FM_MEMORY_HOST);
                const int tensor = fm_source_find(source, model.tensors[t].name);
                assert_true(tensor >= 0);
                assert_int_equal(fm_source_read_slice(source, found, tensor, &layout, t, &coord, NULL), FM_OK);
                assert_true(size_bytes == 0 || memcmp(found, expected, size_bytes) == 0);
                fm_free(expected);
                fm_free(found);
            }
        }
        fm_free(stages);
    }
    fm_source_close(source);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

/* Large enough for several requests a tensor: bands, long rows, dense runs. */
static void large_hyperslabs_are_right(void **state)
{
    static const int64_t cuts[][4] = {   /* first row, rows, first column, columns */
        { 0, 10, 0, 14 }, { 3, 5, 0, 14 }, { 0, 10, 3, 7 }, { 9, 1, 13, 1 }, { 2, 7, 1, 13 },
    };
    enum { SCALE = 300 };
    char dir[FM_PATH_BYTES];
    ckpt_model model;
    ckpt_scratch(dir);
    ckpt_model_make(&model, 1, SCALE);
    ckpt_model_write(dir, &model, 1);
    fm_source *source;
    assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_OK);
    const int tensor = fm_source_find(source, "model.layers.0.mlp.down_proj.weight");   /* [10, 14] * SCALE, 25 MB */
    const int64_t columns = MODEL_F * SCALE;
    fm_tensor_spec *spec = model.tensors;
    while (strcmp(spec->name, fm_source_get(source, tensor)->name) != 0) {
        spec++;
    }
    char *const whole = ckpt_model_bytes(spec);
    for (size_t i = 0; i < sizeof cuts / sizeof cuts[0]; i++) {
        const int64_t start[2] = { cuts[i][0] * SCALE, cuts[i][2] * SCALE }, count[2] = { cuts[i][1] * SCALE,
                                                                                          cuts[i][3] * SCALE };
        uint16_t *const out = fm_alloc_array(count[0] * count[1], 2, FM_MEMORY_HOST);
        const int64_t before_bytes = fm_source_bytes_read(source), before = fm_source_requests(source);
        assert_int_equal(fm_source_read(source, out, tensor, start, count), FM_OK);
        for (int64_t r = 0; r < count[0]; r++) {
            assert_memory_equal(out + r * count[1], whole + ((start[0] + r) * columns + start[1]) * 2, (size_t)count[1] * 2);
        }
        const int64_t read_bytes = fm_source_bytes_read(source) - before_bytes, requests = fm_source_requests(source) - before;
        assert_true(read_bytes <= count[0] * columns * 2);
        assert_true(read_bytes / requests >= 1 << 20);
        fm_free(out);
    }
    fm_free(whole);
    fm_source_close(source);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

static void what_does_not_fit_is_refused(void **state)
{
    char dir[FM_PATH_BYTES], path[FM_PATH_BYTES];
    ckpt_model model;
    int *stages;
    fm_source *source;
    char buffer[4096];
    ckpt_scratch(dir);
    ckpt_model_make(&model, 1, 1);
    model.tensors[1].dtype = FM_I32;
    ckpt_model_write(dir, &model, 1);
    assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_OK);
    const fm_layout layout = ckpt_model_layout(&model, &meshes[0], &stages);
    const fm_coord coord = { { 0 } };
    const int tensor = fm_source_find(source, model.tensors[1].name);
    assert_int_equal(fm_source_read_slice(source, buffer, tensor, &layout, 1, &coord, NULL), FM_ERR_UNSUPPORTED);
    assert_non_null(strstr(fm_error_message(), "I32"));
    model.tensors[0].shape[0]++;
    assert_int_equal(fm_source_read_slice(source, buffer, 0, &layout, 0, &coord, NULL), FM_ERR_FORMAT);
    fm_source_close(source);

    assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_OK);
    assert_int_equal(fm_path_join(path, dir, "model.safetensors"), FM_OK);
    assert_int_equal(fm_file_replace(path, "short", 5), FM_OK);      /* after the opening */
    assert_int_equal(fm_source_read(source, buffer, 0, (int64_t[2]){ 0, 0 }, (int64_t[2]){ 1, 1 }), FM_ERR_IO);
    fm_source_close(source);
    assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_ERR_FORMAT);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
    assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_ERR_IO);
}

/* Between the reading of the headers and that of the data somebody writes: other bytes of the same number, into the same file. */
static void a_file_that_changes_is_noticed(void **state)
{
    static const struct timespec times[][2] = { { { 0, UTIME_OMIT }, { 1000000000, 0 } }, { { 0, UTIME_OMIT }, { 0, UTIME_NOW } } };
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        char dir[FM_PATH_BYTES], path[FM_PATH_BYTES], buffer[64];
        ckpt_model model;
        fm_source *source;
        ckpt_scratch(dir);
        ckpt_model_make(&model, 1, 1);
        ckpt_model_write(dir, &model, 1);
        assert_int_equal(fm_path_join(path, dir, "model.safetensors"), FM_OK);
        assert_int_equal(fm_source_open_hf(&source, dir, NULL), FM_OK);
        const int64_t start[2] = { 0, 0 }, count[2] = { 1, 1 };
        assert_int_equal(fm_source_read(source, buffer, 0, start, count), FM_OK);
        assert_int_equal(utimensat(AT_FDCWD, path, times[i], 0), 0);
        assert_int_equal(fm_source_read(source, buffer, 0, start, count), FM_ERR_IO);
        assert_non_null(strstr(fm_error_message(), "changed while it was being read"));
        assert_non_null(strstr(fm_error_message(), path));
        fm_source_close(source);
        ckpt_model_clear(&model);
        fm_dir_remove(dir);
    }
}

static void out_of_memory_is_an_error(void **state)
{
    char dir[FM_PATH_BYTES];
    ckpt_model model;
    ckpt_scratch(dir);
    ckpt_model_make(&model, 2, 1);
    ckpt_model_write(dir, &model, 2);
    const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
    int failures = 0;
    for (int64_t n = 1; ; n++) {
        fm_source *source;
        fm_memory_fail_at(n);
        const int rc = fm_source_open_hf(&source, dir, NULL);
        fm_memory_fail_at(0);
        fm_source_close(source);
        assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
        if (rc == FM_OK) {
            break;
        }
        assert_int_equal(rc, FM_ERR_MEMORY);
        failures++;
    }
    assert_true(failures > 10);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_slice_is_right),
        cmocka_unit_test(large_hyperslabs_are_right),
        cmocka_unit_test(what_does_not_fit_is_refused),
        cmocka_unit_test(a_file_that_changes_is_noticed),
        cmocka_unit_test(out_of_memory_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
