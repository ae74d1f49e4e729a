/* Conversion to shards on imagined meshes, and the way back out of them: byte for byte, on any other mesh; damage is seen. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/convert.h"
#include "ckpt/h5.h"
#include "ckpt/hf.h"
#include "ckpt/publish.h"
#include "ckpt/shard_scan.h"
#include "ckpt/source.h"
#include "ckpt/verify.h"
#include "ckpt_model.h"

/* Meshes over pp, dp_replicate, dp_shard, cp, tp. */
static const fm_mesh_shape meshes[] = {
    { { 1, 1, 1, 1, 1 } }, { { 1, 1, 3, 1, 2 } }, { { 1, 2, 1, 1, 3 } }, { { 2, 1, 2, 2, 1 } }, { { 1, 1, 2, 1, 9 } },
    { { 1, 1, 17, 1, 1 } },
};
enum { N_MESHES = sizeof meshes / sizeof meshes[0] };

/* A scratch folder with the model as an HF directory. */
typedef struct {
    char dir[FM_PATH_BYTES], hf[FM_PATH_BYTES], shards[FM_PATH_BYTES];
    ckpt_model model;
} fixture;

static void set_up(fixture *f, int n_layers, int scale)
{
    ckpt_scratch(f->dir);
    assert_int_equal(fm_path_join(f->hf, f->dir, "hf"), FM_OK);
    assert_int_equal(fm_path_join(f->shards, f->dir, "out/shards"), FM_OK);
    ckpt_model_make(&f->model, n_layers, scale);
    ckpt_model_write(f->hf, &f->model, 2);
}

static void tear_down(fixture *f)
{
    ckpt_model_clear(&f->model);
    assert_int_equal(fm_dir_remove(f->dir), FM_OK);
}

static void convert(fm_convert_report *report, fixture *f, const fm_mesh_shape *mesh, bool reuse)
{
    int *stages;
    const fm_layout layout = ckpt_model_layout(&f->model, mesh, &stages);
    if (fm_convert(report, f->shards, f->hf, &layout, f->model.tensors, reuse, NULL, NULL) != FM_OK) {
        fail_msg("%s", fm_error_message());
    }
    fm_free(stages);
}

/* Every slice of every coordinate of a mesh, as the source gives it. */
static void check_slices(fm_source *source, const fixture *f, const fm_mesh_shape *mesh)
{
    int *stages;
    const fm_layout layout = ckpt_model_layout(&f->model, mesh, &stages);
    for (int rank = 0; rank < fm_mesh_ranks(mesh); rank++) {
        const fm_coord coord = fm_mesh_coord(mesh, rank);
        for (int t = 0; t < f->model.n; t++) {
            size_t size_bytes;
            char *const expected = ckpt_model_slice(&size_bytes, &layout, t, &coord), *const found = fm_alloc(size_bytes,
                                                                                                              FM_MEMORY_HOST);
            const int tensor = fm_source_find(source, f->model.tensors[t].name);
            assert_true(tensor >= 0);
            assert_int_equal(fm_source_read_slice(source, found, tensor, &layout, t, &coord, NULL), FM_OK);
            assert_true(size_bytes == 0 || memcmp(found, expected, size_bytes) == 0);
            fm_free(expected);
            fm_free(found);
        }
    }
    fm_free(stages);
}

static void any_mesh_reads_any_mesh(void **state)
{
    fixture f;
    set_up(&f, 2, 1);
    for (int from = 0; from < N_MESHES; from++) {
        fm_convert_report report;
        fm_source *source;
        convert(&report, &f, &meshes[from], false);
        assert_false(report.reused);
        if (fm_source_open(&source, f.shards, NULL) != FM_OK) {
            fail_msg("%s", fm_error_message());
        }
        assert_int_equal(fm_source_count(source), f.model.n);
        assert_int_equal(fm_source_verify(source, NULL), FM_OK);
        for (int to = 0; to < N_MESHES; to++) {
            check_slices(source, &f, &meshes[to]);
        }
        fm_source_close(source);
    }
    tear_down(&f);
}

static void a_shard_set_converts_too(void **state)
{
    fixture f;
    fm_convert_report report;
    fm_source *source;
    char again[FM_PATH_BYTES];
    int *stages;
    set_up(&f, 1, 1);
    convert(&report, &f, &meshes[1], false);
    assert_int_equal(fm_path_join(again, f.dir, "again"), FM_OK);
    const fm_layout layout = ckpt_model_layout(&f.model, &meshes[2], &stages);
    assert_int_equal(fm_convert(&report, again, f.shards, &layout, f.model.tensors, true, NULL, NULL), FM_OK);
    assert_int_equal(fm_source_open_shards(&source, again, NULL), FM_OK);
    check_slices(source, &f, &meshes[0]);
    fm_source_close(source);
    tear_down(&f);
}

static void an_unchanged_source_is_not_converted_again(void **state)
{
    fixture f;
    fm_convert_report report;
    char path[FM_PATH_BYTES];
    set_up(&f, 1, 1);
    convert(&report, &f, &meshes[1], true);
    assert_false(report.reused);
    assert_memory_equal(&report.mesh, &meshes[1], sizeof report.mesh);
    convert(&report, &f, &meshes[2], true);
    assert_true(report.reused);
    assert_memory_equal(&report.mesh, &meshes[1], sizeof report.mesh);
    assert_int_equal(fm_path_join(path, f.shards, "rank-00000.h5"), FM_OK);
    assert_int_equal(truncate(path, 100), 0);
    convert(&report, &f, &meshes[1], true);
    assert_false(report.reused);
    ckpt_model_write(f.hf, &f.model, 2);          /* the same bytes, later */
    convert(&report, &f, &meshes[1], true);
    assert_false(report.reused);
    tear_down(&f);
}

/* The memory that conversion takes besides the tables of names depends neither on layers nor on the size of a tensor. This test
 * comes first: a peak never falls. */
static void memory_does_not_grow_with_the_model(void **state)
{
    static const struct {
        int n_layers, scale;
    } sizes[] = { { 1, 150 }, { 3, 150 }, { 1, 300 } };
    size_t peaks[3];
    assert_int_equal(fm_memory_peak_bytes(FM_MEMORY_CHECKPOINT), 0);
    for (int i = 0; i < 3; i++) {
        fixture f;
        fm_convert_report report;
        set_up(&f, sizes[i].n_layers, sizes[i].scale);
        convert(&report, &f, &meshes[1], false);
        assert_int_equal(report.bytes_read, report.bytes_written);
        assert_true(report.requests <= 6 * f.model.n + (report.bytes_read >> 20));   /* one a slice, or 1 MiB and more */
        peaks[i] = fm_memory_peak_bytes(FM_MEMORY_CHECKPOINT);
        tear_down(&f);
    }
    assert_true(peaks[0] > 0 && peaks[0] <= 64 << 20);
    assert_int_equal(peaks[1], peaks[0]);
    assert_int_equal(peaks[2], peaks[0]);
}

/* Overwrites or cuts a file of the set. */
static void flip_byte(const char *dir, const char *name, int64_t offset)
{
    char path[FM_PATH_BYTES];
    unsigned char byte;
    assert_int_equal(fm_path_join(path, dir, name), FM_OK);
    FILE *const file = fopen(path, "r+b");
    assert_non_null(file);
    fseek(file, offset, SEEK_SET);
    assert_int_equal(fread(&byte, 1, 1, file), 1);
    byte ^= 0x10;
    fseek(file, offset, SEEK_SET);
    assert_int_equal(fwrite(&byte, 1, 1, file), 1);
    fclose(file);
}

static void damage_is_seen(void **state)
{
    fixture f;
    fm_convert_report report;
    fm_source *source;
    fm_h5_header header;
    fm_h5_dataset *datasets;
    bool has_header;
    int n;
    char path[FM_PATH_BYTES], *const buffer = fm_alloc(1 << 20, FM_MEMORY_HOST);
    set_up(&f, 1, 1);
    convert(&report, &f, &meshes[1], false);
    assert_int_equal(fm_path_join(path, f.shards, "rank-00003.h5"), FM_OK);
    assert_int_equal(fm_h5_read(&header, &has_header, &datasets, &n, path), FM_OK);
    assert_true(has_header);
    assert_int_equal(header.mesh_shape[FM_DP_SHARD], 3);
    assert_int_equal(header.coordinate[FM_DP_SHARD], 1);
    assert_int_equal(header.coordinate[FM_TP], 1);

    /* a flipped bit of data: found where the slice is read whole, and by fm_source_verify */
    flip_byte(f.shards, "rank-00003.h5", datasets[0].offset_bytes);
    assert_int_equal(fm_source_open_shards(&source, f.shards, NULL), FM_OK);
    assert_int_equal(fm_source_verify(source, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "rank-00003.h5"));
    assert_non_null(strstr(fm_error_message(), datasets[0].path));
    int *stages;
    const fm_layout layout = ckpt_model_layout(&f.model, &meshes[1], &stages);
    const fm_coord coord = fm_mesh_coord(&layout.mesh, 3);
    const int tensor = fm_source_find(source, datasets[0].path), spec = fm_layout_find(&layout, datasets[0].path);
    assert_int_equal(fm_source_read_slice(source, buffer, tensor, &layout, spec, &coord, NULL), FM_ERR_FORMAT);
    fm_source_close(source);
    flip_byte(f.shards, "rank-00003.h5", datasets[0].offset_bytes);
    assert_int_equal(fm_source_open_shards(&source, f.shards, NULL), FM_OK);
    assert_int_equal(fm_source_verify(source, NULL), FM_OK);
    fm_source_close(source);

    /* a file too short, then none */
    assert_int_equal(truncate(path, 5000), 0);
    assert_int_equal(fm_source_open_shards(&source, f.shards, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "rank-00003.h5"));
    unlink(path);
    assert_int_equal(fm_source_open_shards(&source, f.shards, NULL), FM_ERR_IO);
    assert_non_null(strstr(fm_error_message(), "rank-00003.h5"));
    fm_free(datasets);
    fm_free(buffer);
    tear_down(&f);
}

/* manifest.json with one word changed. */
static void manifests_are_checked(void **state)
{
    static const struct {
        const char *from, *to, *complaint;
    } lies[] = {
        { "\"format_version\": 1", "\"format_version\": 2", "format_version" },
        { "\"name\": \"rank-00001.h5\"", "\"name\": \"../rank-1.h5\"", "no name of a file" },
        { "\"name\": \"rank-00001.h5\"", "\"name\": \"rank-00001.h5\\u0000\"", "no name of a file" },
        { "\"name\": \"rank-00001.h5\"", "\"name\": \"/rank-00001.h5\"", "no name of a file" },
        { "\"name\": \"rank-00001.h5\"", "\"name\": \"rank-00000.h5\"", "" },
        { "\"name\": \"rank-00001.h5\"", "\"nome\": \"rank-00001.h5\"", "no name of a file" },
        { "\"size\": ", "\"size\": 1", "" },
        { "\"files\": ", "\"fools\": ", "files" },
    };
    fixture f;
    fm_convert_report report;
    fm_source *source;
    char path[FM_PATH_BYTES], *text, made[65536];
    size_t size_bytes;
    set_up(&f, 1, 1);
    convert(&report, &f, &meshes[2], false);
    assert_int_equal(fm_path_join(path, f.shards, "manifest.json"), FM_OK);
    assert_int_equal(fm_file_read(&text, &size_bytes, path, 60000), FM_OK);
    for (size_t i = 0; i < sizeof lies / sizeof lies[0]; i++) {
        const char *const entries = strstr(text, "\"rank-00000.h5\""), *place = strstr(text, lies[i].from);
        if (strstr(lies[i].from, "size") != NULL) {
            place = strstr(entries, lies[i].from);
        }
        assert_non_null(place);
        const int length = snprintf(made, sizeof made, "%.*s%s%s", (int)(place - text), text, lies[i].to,
                                    place + strlen(lies[i].from));
        assert_int_equal(fm_file_replace(path, made, (size_t)length), FM_OK);
        assert_int_equal(fm_source_open_shards(&source, f.shards, NULL), FM_ERR_FORMAT);
        assert_non_null(strstr(fm_error_message(), lies[i].complaint));
    }
    fm_free(text);
    tear_down(&f);
}

/* One bit of any byte of any file of a set, and a byte less: fm_verify notices. */
static void every_flip_is_noticed(void **state)
{
    static const struct {
        const char *name;
        size_t stride;
    } files[] = { { "manifest.json", 1 }, { "model.h5", 997 }, { "rank-00000.h5", 499 }, { "rank-00001.h5", 499 } };
    fixture f;
    fm_convert_report report;
    int64_t bytes;
    set_up(&f, 1, 1);
    convert(&report, &f, &meshes[2], false);
    assert_int_equal(fm_verify(&bytes, f.shards, NULL), FM_OK);
    assert_true(bytes > 0);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char path[FM_PATH_BYTES], *text;
        size_t size_bytes;
        assert_int_equal(fm_path_join(path, f.shards, files[i].name), FM_OK);
        assert_int_equal(fm_file_read(&text, &size_bytes, path, 1 << 26), FM_OK);
        const int fd = open(path, O_WRONLY);
        assert_true(fd >= 0);
        for (size_t at = 0; at < size_bytes; at += files[i].stride) {
            const char flipped = (char)(text[at] ^ (1 << at % 7));
            assert_int_equal(fm_file_pwrite(fd, &flipped, 1, (int64_t)at, path), FM_OK);
            assert_true(fm_verify(NULL, f.shards, NULL) < 0);
            assert_non_null(strstr(fm_error_message(), files[i].name));
            assert_int_equal(fm_file_pwrite(fd, &text[at], 1, (int64_t)at, path), FM_OK);
        }
        assert_int_equal(fm_verify(NULL, f.shards, NULL), FM_OK);
        assert_int_equal(ftruncate(fd, (off_t)size_bytes - 1), 0);
        assert_true(fm_verify(NULL, f.shards, NULL) < 0);
        assert_int_equal(fm_file_pwrite(fd, text, size_bytes, 0, path), FM_OK);
        close(fd);
        fm_free(text);
    }
    tear_down(&f);
}

/* Attributes that lie: the index over all files says so. */
static void lying_attributes_are_refused(void **state)
{
    enum { SHIFT, OVERLAP, OUTSIDE, NEGATIVE, SUM, LIES };
    for (int lie = 0; lie < LIES; lie++) {
        char dir[FM_PATH_BYTES], path[FM_PATH_BYTES], manifest[300];
        fm_source *source;
        ckpt_scratch(dir);
        for (int rank = 0; rank < 2; rank++) {
            char name[32];
            fm_h5_dataset dataset = {
                .path = "w", .dtype = FM_F32, .ndim = 2, .shape = { 4, 3 }, .global_shape = { 8, 3 }, .n_pieces = 1,
                .start = { { 4 * rank, 0 } }, .count = { { 4, 3 } },
            };
            if (rank == 1 && lie == SHIFT) {
                dataset.shape[0] = dataset.count[0][0] = 3;
                dataset.start[0][0] = 5;
            } else if (rank == 1 && lie == OVERLAP) {
                dataset.start[0][0] = 3;
            } else if (rank == 1 && lie == OUTSIDE) {
                dataset.start[0][0] = 5;
            } else if (rank == 1 && lie == NEGATIVE) {
                dataset.start[0][0] = INT64_MIN;
            } else if (rank == 1 && lie == SUM) {
                dataset.count[0][0] = 3;
            }
            const fm_h5_header header = { .format_version = 1, .mesh_shape = { 1, 1, 2, 1, 1 },
                                          .coordinate = { 0, 0, rank, 0, 0 } };
            snprintf(name, sizeof name, "rank-%05d.h5", rank);
            assert_int_equal(fm_path_join(path, dir, name), FM_OK);
            assert_int_equal(fm_h5_create(path, &header, &dataset, 1), FM_OK);
        }
        fm_file_identity sizes[2];
        assert_int_equal(fm_path_join(path, dir, "rank-00000.h5"), FM_OK);
        assert_int_equal(fm_file_stat(&sizes[0], path), FM_OK);
        assert_int_equal(fm_path_join(path, dir, "rank-00001.h5"), FM_OK);
        assert_int_equal(fm_file_stat(&sizes[1], path), FM_OK);
        snprintf(manifest, sizeof manifest, "{\"format_version\": 1, \"files\": [{\"name\": \"rank-00000.h5\", \"size\": %lld}, "
                 "{\"name\": \"rank-00001.h5\", \"size\": %lld}]}", (long long)sizes[0].size_bytes,
                 (long long)sizes[1].size_bytes);
        assert_int_equal(fm_path_join(path, dir, "manifest.json"), FM_OK);
        assert_int_equal(fm_file_replace(path, manifest, strlen(manifest)), FM_OK);
        assert_int_equal(fm_source_open_shards(&source, dir, NULL), FM_ERR_FORMAT);
        assert_non_null(strstr(fm_error_message(), "tensor w"));
        fm_dir_remove(dir);
    }
}

static void names_are_matched(void **state)
{
    fixture f;
    fm_convert_report report;
    int *stages;
    set_up(&f, 2, 1);
    fm_tensor_spec *const tensors = f.model.tensors;
    fm_layout layout = ckpt_model_layout(&f.model, &meshes[0], &stages);
    fm_log_set_speaker(false);

    snprintf(tensors[3].name, sizeof tensors[3].name, "no.such.weight");
    assert_int_equal(fm_convert(&report, f.shards, f.hf, &layout, tensors, false, NULL, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "no.such.weight"));
    layout.n_tensors = 3;                          /* the rest is unexpected, which is only a warning */
    assert_int_equal(fm_convert(&report, f.shards, f.hf, &layout, tensors, false, NULL, NULL), FM_OK);
    tensors[1].shape[0]++;
    assert_int_equal(fm_convert(&report, f.shards, f.hf, &layout, tensors, false, NULL, NULL), FM_ERR_FORMAT);
    assert_non_null(strstr(fm_error_message(), "[11]"));
    assert_non_null(strstr(fm_error_message(), "[10]"));
    fm_log_set_speaker(true);
    tear_down(&f);
}

static void nothing_is_half_written_or_overwritten(void **state)
{
    fixture f;
    fm_convert_report report;
    int *stages;
    char path[FM_PATH_BYTES], temporary[FM_PATH_BYTES];
    set_up(&f, 1, 1);
    const fm_layout layout = ckpt_model_layout(&f.model, &meshes[0], &stages);
    assert_int_equal(fm_dir_make(f.shards), FM_OK);
    assert_int_equal(fm_path_join(path, f.shards, "precious"), FM_OK);
    assert_int_equal(fm_file_replace(path, "mine", 4), FM_OK);
    assert_int_equal(fm_convert(&report, f.shards, f.hf, &layout, f.model.tensors, false, NULL, NULL), FM_ERR_IO);
    assert_true(fm_path_exists(path));
    assert_int_equal(unlink(path), 0);

    assert_int_equal(fm_publish_name(temporary, f.shards), FM_OK);
    for (int64_t n = 1, rc = -1; rc < 0; n += 7) {  /* out of memory anywhere leaves nothing */
        const size_t before = fm_memory_used_bytes(FM_MEMORY_KINDS);
        fm_memory_fail_at(n);
        rc = fm_convert(&report, f.shards, f.hf, &layout, f.model.tensors, false, NULL, NULL);
        fm_memory_fail_at(0);
        assert_int_equal(fm_memory_used_bytes(FM_MEMORY_KINDS), before);
        assert_false(fm_path_exists(temporary));
        assert_true(rc == FM_ERR_MEMORY || rc == FM_OK);
        assert_int_equal(fm_shards_is_set(f.shards), rc == FM_OK);
    }
    tear_down(&f);
}

/* With a folder as argument: leaves FOLDER/hf and FOLDER/shards there, for tests/oracle/shards.sh. */
static int leave_shards(const char *dir)
{
    fixture f;
    fm_convert_report report;
    int *stages;
    if (fm_path_join(f.hf, dir, "hf") < 0 || fm_path_join(f.shards, dir, "shards") < 0) {
        return 99;
    }
    ckpt_model_make(&f.model, 2, 3);
    ckpt_model_write(f.hf, &f.model, 2);
    const fm_layout layout = ckpt_model_layout(&f.model, &(fm_mesh_shape){ { 1, 1, 2, 1, 9 } }, &stages);
    const int rc = fm_convert(&report, f.shards, f.hf, &layout, f.model.tensors, false, NULL, NULL);
    ckpt_model_clear(&f.model);
    return rc < 0;
}

int main(int argc, char **argv)
{
    if (argc > 1) {
        return leave_shards(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_does_not_grow_with_the_model),
        cmocka_unit_test(any_mesh_reads_any_mesh),
        cmocka_unit_test(a_shard_set_converts_too),
        cmocka_unit_test(an_unchanged_source_is_not_converted_again),
        cmocka_unit_test(damage_is_seen),
        cmocka_unit_test(manifests_are_checked),
        cmocka_unit_test(every_flip_is_noticed),
        cmocka_unit_test(lying_attributes_are_refused),
        cmocka_unit_test(names_are_matched),
        cmocka_unit_test(nothing_is_half_written_or_overwritten),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
