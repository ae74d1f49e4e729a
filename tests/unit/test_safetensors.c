/* safetensors headers and HF directories: what is well made is read, every kind of lie is refused with words for it. */
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
#include "ckpt/hf.h"
#include "ckpt/safetensors.h"
#include "ckpt_model.h"

/* A header, the bytes of data behind it, and a word of the complaint (NULL: it is good). */
static const struct {
    const char *header;
    int64_t data_bytes;
    const char *complaint;
} headers[] = {
    { "{}", 0, NULL },
    { "{\"__metadata__\":{\"format\":\"pt\"},\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}}   ", 24, NULL },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", 4, NULL },
    { "{\"a\":{\"dtype\":\"F8_E4M3\",\"shape\":[3],\"data_offsets\":[0,3]}}", 3, NULL },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[0,0]}}", 0, NULL },
    { "{\"b\":{\"dtype\":\"U8\",\"shape\":[4],\"data_offsets\":[2,6]},\"a\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[0,2]}}", 6, NULL },
    { "[]", 0, "no JSON object" },
    { "{\"a\":", 0, "JSON" },
    { "{\"a\":7}", 0, "object" },
    { "{\"a\":{\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype" },
    { "{\"a\":{\"dtype\":\"F33\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "F33" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,4]}}", 4, "8 were expected" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[-1],\"data_offsets\":[0,4]}}", 4, "shape" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1.0],\"data_offsets\":[0,4]}}", 4, "shape" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,0]}}", 0, "overflow" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1152921504606846976],\"data_offsets\":[0,0]}}", 0, "overflow" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,4611686018427387905],\"data_offsets\":[0,8]}}", 8, "overflow" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,4]}}", 4, "dimensions" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,4]}}", 4, "no integer from 0" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,8]}}", 4, "truncated" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[-4,0]}}", 4, "data_offsets" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "two integers" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4.0]}}", 4, "two integers" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 8, "the file has 8" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8, "hole" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[2,6]}}", 6,
      "overlap" },
    { "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}", 8,
      "duplicate" },
    { "{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, "2 were expected" },
};

static void headers_are_checked(void **state)
{
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        fm_index index = { .pool = { 0 } };
        const size_t bytes = strlen(headers[i].header);
        const int rc = fm_safetensors_parse(&index, headers[i].header, bytes, (int64_t)bytes + 8 + headers[i].data_bytes, "FILE");
        if (headers[i].complaint == NULL) {
            assert_int_equal(rc, FM_OK);
            assert_int_equal(fm_index_seal(&index, true, "FILE"), FM_OK);
        } else {
            if (rc != FM_ERR_FORMAT || strstr(fm_error_message(), headers[i].complaint) == NULL) {
                fail_msg("%s: %s", headers[i].header, rc < 0 ? fm_error_message() : "was accepted");
            }
            assert_non_null(strstr(fm_error_message(), "FILE"));
        }
        fm_index_clear(&index);
    }
}

/* The file's first 8 bytes against its size. */
static void header_lengths_are_checked(void **state)
{
    static const struct {
        uint64_t length;
        size_t file_bytes;
    } files[] = { { 0, 3 }, { 1000, 100 }, { UINT64_MAX, 100 }, { 100000001, 100 }, { (uint64_t)INT64_MAX - 2, 100 },
                  { 93, 100 } };
    char dir[FM_PATH_BYTES], path[FM_PATH_BYTES];
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(path, dir, "a.safetensors"), FM_OK);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        char file[100] = { 0 };
        fm_index index = { .pool = { 0 } };
        memcpy(file, &files[i].length, 8);
        assert_int_equal(fm_file_replace(path, file, files[i].file_bytes), FM_OK);
        assert_int_equal(fm_safetensors_scan(&index, NULL, path), FM_ERR_FORMAT);
        assert_non_null(strstr(fm_error_message(), path));
        fm_index_clear(&index);
    }
    fm_dir_remove(dir);
}

static void a_made_header_is_read_back(void **state)
{
    const int64_t shapes[2][2] = { { 3, 5 }, { 7, 0 } };
    const fm_safetensors_entry entries[2] = { { "x", FM_BF16, 2, shapes[0] }, { "y \"quoted\"", FM_F32, 1, shapes[1] } };
    char *header;
    size_t header_bytes;
    int64_t offsets[2], file_bytes;
    assert_int_equal(fm_safetensors_header(&header, &header_bytes, offsets, &file_bytes, entries, 2), FM_OK);
    assert_int_equal(header_bytes % 8, 0);
    assert_int_equal(offsets[0], header_bytes);
    assert_int_equal(offsets[1], header_bytes + 30);
    assert_int_equal(file_bytes, header_bytes + 30 + 28);
    fm_index index = { .pool = { 0 } };
    assert_int_equal(fm_safetensors_parse(&index, header + 8, header_bytes - 8, file_bytes, "FILE"), FM_OK);
    const fm_index_tensor *const y = fm_index_get_tensor(&index, fm_index_find(&index, "y \"quoted\""));
    assert_int_equal(y->dtype, FM_F32);
    assert_int_equal(y->ndim, 1);
    assert_int_equal(y->shape[0], 7);
    assert_int_equal(fm_index_find(&index, "z"), -1);
    fm_index_clear(&index);
    fm_free(header);
}

/* Replaces one word of a text file. */
static void edit(const char *dir, const char *name, const char *from, const char *to)
{
    char path[FM_PATH_BYTES], *text, *made;
    size_t size_bytes;
    assert_int_equal(fm_path_join(path, dir, name), FM_OK);
    assert_int_equal(fm_file_read(&text, &size_bytes, path, 1 << 20), FM_OK);
    const char *const place = strstr(text, from);
    assert_non_null(place);
    made = fm_alloc(size_bytes + strlen(to) + 1, FM_MEMORY_HOST);
    sprintf(made, "%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
    assert_int_equal(fm_file_replace(path, made, strlen(made)), FM_OK);
    fm_free(text);
    fm_free(made);
}

static const struct {
    const char *from, *to, *complaint;
} index_lies[] = {
    { "\"model-00001-of-00003.safetensors\"", "\"../model-00001-of-00003.safetensors\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"/etc/passwd\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"..\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "7", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"model-00001-of-00003.safetensors\\u0000x\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"model-00001-of-00003.safetensors\\n\"", "no name of a file" },
    { "\"model-00001-of-00003.safetensors\"", "\"absent.safetensors\"", "absent.safetensors" },
    { "\"model-00001-of-00003.safetensors\"", "\"model-00002-of-00003.safetensors\"", "it lies in" },
    { "\"lm_head.weight\"", "\"lm_head.bias\"", "does not hold it" },
    { ",\n\"model.norm.weight\": \"model-00001-of-00003.safetensors\"", "", "does not list it" },
    { "weight_map", "weight_mop", "weight_map" },
};

static void indexes_are_checked(void **state)
{
    char dir[FM_PATH_BYTES], hf[FM_PATH_BYTES];
    ckpt_model model;
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(hf, dir, "hf"), FM_OK);
    ckpt_model_make(&model, 2, 1);
    for (size_t i = 0; i < sizeof index_lies / sizeof index_lies[0]; i++) {
        fm_index index = { .pool = { 0 } };
        ckpt_model_write(hf, &model, 3);
        assert_int_equal(fm_hf_scan(&index, hf), FM_OK);
        assert_int_equal(fm_index_seal(&index, true, hf), FM_OK);
        assert_int_equal(index.tensors.n, model.n);
        fm_index_clear(&index);
        edit(hf, "model.safetensors.index.json", index_lies[i].from, index_lies[i].to);
        const int rc = fm_hf_scan(&index, hf);
        if (rc >= 0 || strstr(fm_error_message(), index_lies[i].complaint) == NULL) {
            fail_msg("%s: %s", index_lies[i].to, rc < 0 ? fm_error_message() : "was accepted");
        }
        fm_index_clear(&index);
        assert_int_equal(fm_dir_remove(hf), FM_OK);
    }
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

/* A directory as the hub's cache has it: every file is a link to ../../blobs/HASH. */
static void links_are_followed(void **state)
{
    static const char *const names[] = { "config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                                         "model.safetensors.index.json" };
    char dir[FM_PATH_BYTES], blobs[FM_PATH_BYTES], snapshot[FM_PATH_BYTES];
    ckpt_model model;
    json_t *identity;
    fm_index index = { .pool = { 0 } };
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(blobs, dir, "blobs"), FM_OK);
    assert_int_equal(fm_path_join(snapshot, dir, "snapshots/0123abcd"), FM_OK);
    assert_int_equal(fm_dir_make(snapshot), FM_OK);
    ckpt_model_make(&model, 2, 1);
    ckpt_model_write(blobs, &model, 2);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char from[FM_PATH_BYTES], hash[FM_PATH_BYTES], link[FM_PATH_BYTES], target[64];
        snprintf(target, sizeof target, "../../blobs/%08zx", 0xfeed0000 + i);
        assert_int_equal(fm_path_join(from, blobs, names[i]), FM_OK);
        assert_int_equal(fm_path_join(hash, snapshot, target), FM_OK);
        assert_int_equal(fm_path_join(link, snapshot, names[i]), FM_OK);
        assert_int_equal(rename(from, hash), 0);
        assert_int_equal(symlink(target, link), 0);
    }
    assert_int_equal(fm_hf_scan(&index, snapshot), FM_OK);
    assert_int_equal(fm_index_seal(&index, true, snapshot), FM_OK);
    assert_int_equal(index.tensors.n, model.n);
    assert_int_equal(fm_hf_identity(&identity, snapshot), FM_OK);
    assert_int_equal(json_array_size(identity), 4);
    json_decref(identity);
    fm_index_clear(&index);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

static void identity_sees_changes(void **state)
{
    char dir[FM_PATH_BYTES];
    ckpt_model model;
    json_t *before, *same, *after;
    ckpt_scratch(dir);
    ckpt_model_make(&model, 1, 1);
    ckpt_model_write(dir, &model, 2);
    assert_int_equal(fm_hf_identity(&before, dir), FM_OK);
    assert_int_equal(fm_hf_identity(&same, dir), FM_OK);
    assert_int_equal(json_array_size(before), 4);
    assert_true(json_equal(before, same));
    edit(dir, "config.json", "made_up", "mode_up");
    assert_int_equal(fm_hf_identity(&after, dir), FM_OK);
    assert_false(json_equal(before, after));
    json_decref(before);
    json_decref(same);
    json_decref(after);
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
    assert_int_equal(fm_hf_identity(&after, dir), FM_ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_checked),
        cmocka_unit_test(header_lengths_are_checked),
        cmocka_unit_test(a_made_header_is_read_back),
        cmocka_unit_test(indexes_are_checked),
        cmocka_unit_test(links_are_followed),
        cmocka_unit_test(identity_sees_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
