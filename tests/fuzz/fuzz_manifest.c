/* manifest.json of a directory: as a shard set's, as a checkpoint's, as what `verify` reads; and the same text with a right seal. */
#include <stdio.h>
#include <string.h>

#include <jansson.h>

#include "base/crc.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/checkpoint.h"
#include "ckpt/index.h"
#include "ckpt/shard_scan.h"
#include "ckpt/verify.h"
#include "fuzz.h"

static char set[FM_PATH_BYTES], folder[FM_PATH_BYTES];

void fuzz_begin(void)
{
    fuzz_path(folder, "checkpoints");
    fuzz_path(set, "checkpoints/step-000001");
    FUZZ_CHECK(fm_dir_make(set) == FM_OK);
    fuzz_write("checkpoints/step-000001/rank-00000.h5", "no HDF5", 7);
    fuzz_write("checkpoints/step-000001/small", "12345", 5);
    fuzz_write("checkpoints/outside", "12345", 5);
}

static void check_names(const json_t *manifest)
{
    const json_t *const files = json_object_get(manifest, "files");
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *const name = json_object_get(json_array_get(files, i), "name");
        const char *const text = json_string_value(name);
        FUZZ_CHECK(text != NULL && strlen(text) == json_string_length(name) && strchr(text, '/') == NULL && text[0] != '.');
    }
}

static void check_set(void)
{
    json_t *manifest, *state, *identity = json_array();
    fm_index index = { .pool = { 0 } };
    fm_mesh_shape mesh;
    int64_t bytes;
    if (fuzz_result(fm_shards_read_manifest(&manifest, set)) == FM_OK) {
        check_names(manifest);
        json_decref(manifest);
    }
    if (fuzz_result(fm_checkpoint_state(&state, set)) == FM_OK) {
        FUZZ_CHECK(json_is_object(state));
        json_decref(state);
    }
    fuzz_result(fm_shards_scan(&index, set, 0, 1));
    fm_index_clear(&index);
    fuzz_result(fm_verify(&bytes, set, NULL));
    fm_shards_are_current(&mesh, set, identity);
    fuzz_result(fm_checkpoints_settle(folder, 1));
    json_decref(identity);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    static const char name[] = "checkpoints/step-000001/manifest.json";
    fuzz_write(name, data, size_bytes);
    check_set();
    char *const sealed = fm_alloc(size_bytes + 64, FM_MEMORY_HOST);
    FUZZ_CHECK(sealed != NULL);
    if (size_bytes > 0) {
        memcpy(sealed, data, size_bytes);
    }
    const int length = snprintf(sealed + size_bytes, 64, FM_MANIFEST_SEAL, fm_crc32(0, data, size_bytes));
    fuzz_write(name, sealed, size_bytes + (size_t)length);
    fm_free(sealed);
    check_set();
}
