/* The table of a checkpoint: what it says of directories, sets and files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "base/memory.h"
#include "ckpt/convert.h"
#include "ckpt/inspect.h"
#include "ckpt_model.h"

/* What fm_inspect prints; the code it returns. */
static int printed(char text[16384], const char *dir, const char *path)
{
    char capture[FM_PATH_BYTES], *found;
    assert_int_equal(fm_path_join(capture, dir, "stdout"), FM_OK);
    fflush(stdout);
    const int saved = dup(STDOUT_FILENO);
    assert_non_null(freopen(capture, "w", stdout));
    const int rc = fm_inspect(path);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    assert_int_equal(fm_file_read(&found, NULL, capture, 16383), FM_OK);
    strcpy(text, found);
    fm_free(found);
    return rc;
}

/* The line that begins with `start`. */
static const char *line_of(const char *text, const char *start)
{
    static char line[512];
    const char *const place = strstr(text, start);
    assert_non_null(place);
    snprintf(line, sizeof line, "%.*s", (int)strcspn(place, "\n"), place);
    return line;
}

static void everything_can_be_listed(void **state)
{
    char dir[FM_PATH_BYTES], hf[FM_PATH_BYTES], shards[FM_PATH_BYTES], path[FM_PATH_BYTES], text[16384];
    ckpt_model model;
    fm_convert_report report;
    int *stages;
    ckpt_scratch(dir);
    assert_int_equal(fm_path_join(hf, dir, "hf"), FM_OK);
    assert_int_equal(fm_path_join(shards, dir, "shards"), FM_OK);
    ckpt_model_make(&model, 1, 1);
    ckpt_model_write(hf, &model, 2);
    const fm_layout layout = ckpt_model_layout(&model, &(fm_mesh_shape){ { 1, 1, 3, 1, 2 } }, &stages);
    assert_int_equal(fm_convert(&report, shards, hf, &layout, model.tensors, false, NULL, NULL), FM_OK);
    int64_t total_bytes = 0;
    for (int t = 0; t < model.n; t++) {
        total_bytes += fm_tensor_elements(&model.tensors[t]) * (int64_t)fm_dtype_bytes(model.tensors[t].dtype);
    }
    char total[64];
    snprintf(total, sizeof total, "%lld bytes in 2 files", (long long)total_bytes);

    assert_int_equal(printed(text, dir, hf), FM_OK);
    assert_non_null(strstr(text, "Hugging Face directory"));
    assert_non_null(strstr(text, total));
    assert_non_null(strstr(line_of(text, "model.embed_tokens.weight"), "BF16"));
    assert_non_null(strstr(line_of(text, "model.embed_tokens.weight"), "460  [23, 10]             1"));

    snprintf(total, sizeof total, "%lld bytes in 6 files", (long long)total_bytes);
    assert_int_equal(printed(text, dir, shards), FM_OK);
    assert_non_null(strstr(text, "shard set"));
    assert_non_null(strstr(text, total));
    assert_non_null(strstr(line_of(text, "model.embed_tokens.weight"), "460  [23, 10]             6"));

    assert_int_equal(fm_path_join(path, shards, "rank-00000.h5"), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_OK);
    assert_non_null(strstr(text, "HDF5 file"));
    assert_non_null(strstr(line_of(text, "model.embed_tokens.weight"), "1: [0:4, 0:10]"));
    assert_non_null(strstr(line_of(text, "model.layers.0.self_attn.q_proj.bias"), "1: [0:4]"));

    assert_int_equal(fm_path_join(path, shards, "model.h5"), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_OK);
    assert_non_null(strstr(line_of(text, "model.embed_tokens.weight"), " 460  [23, 10]             0"));
    snprintf(total, sizeof total, " 0 bytes in 1 file, %lld that lie in others", (long long)total_bytes);
    assert_non_null(strstr(text, total));

    assert_int_equal(fm_path_join(path, hf, "model-00001-of-00002.safetensors"), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_OK);
    assert_non_null(strstr(text, "safetensors file"));
    ckpt_model_clear(&model);
    fm_dir_remove(dir);
}

static void what_is_no_checkpoint_is_an_error(void **state)
{
    char dir[FM_PATH_BYTES], path[FM_PATH_BYTES], text[16384];
    ckpt_scratch(dir);
    assert_int_equal(printed(text, dir, dir), FM_ERR_IO);
    assert_int_equal(fm_path_join(path, dir, "absent"), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_ERR_IO);
    assert_int_equal(fm_file_replace(path, "nothing", 7), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_ERR_FORMAT);
    assert_int_equal(fm_file_replace(path, "\211HDF\r\n\032\n and no more", 20), FM_OK);
    assert_int_equal(printed(text, dir, path), FM_ERR_IO);
    assert_string_equal(text, "");
    fm_dir_remove(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_can_be_listed),
        cmocka_unit_test(what_is_no_checkpoint_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
