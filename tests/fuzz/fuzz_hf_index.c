/* model.safetensors.index.json of a directory with two small files, a link and a neighbour that must not be read. */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "ckpt/hf.h"
#include "ckpt/safetensors.h"
#include "fuzz.h"

static char model[FM_PATH_BYTES];

/* A file of one tensor of four bytes. */
static void write_model(const char *file, const char *tensor)
{
    char bytes[256];
    const int length = snprintf(bytes + FM_SAFETENSORS_PREFIX_BYTES, sizeof bytes - FM_SAFETENSORS_PREFIX_BYTES,
                                "{\"%s\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}data", tensor);
    const uint64_t header_bytes = (uint64_t)length - 4;
    memcpy(bytes, &header_bytes, sizeof header_bytes);
    fuzz_write(file, bytes, FM_SAFETENSORS_PREFIX_BYTES + (size_t)length);
}

void fuzz_begin(void)
{
    char blob[FM_PATH_BYTES], link[FM_PATH_BYTES];
    fuzz_path(model, "model");
    FUZZ_CHECK(fm_dir_make(model) == FM_OK);
    write_model("model/a.safetensors", "a");
    write_model("model/b.safetensors", "b");
    write_model("blob", "c");
    write_model("outside.safetensors", "outside");
    fuzz_path(blob, "blob");
    fuzz_path(link, "model/c.safetensors");
    FUZZ_CHECK(symlink(blob, link) == 0);
    fuzz_write("model/config.json", "{}", 2);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    fm_index index = { .pool = { 0 } };
    json_t *identity;
    fuzz_write("model/model.safetensors.index.json", data, size_bytes);
    const int rc = fuzz_result(fm_hf_scan(&index, model));
    FUZZ_CHECK(fm_index_find(&index, "outside") < 0);
    for (int64_t f = 0; f < index.files.n; f++) {
        const char *const path = fm_index_string(&index, fm_index_get_file(&index, f)->name);
        FUZZ_CHECK(strncmp(path, model, strlen(model)) == 0 && strchr(path + strlen(model) + 1, '/') == NULL);
    }
    if (rc == FM_OK) {
        FUZZ_CHECK(fm_index_seal(&index, true, model) == FM_OK);
    }
    fm_index_clear(&index);
    if (fuzz_result(fm_hf_identity(&identity, model)) == FM_OK) {
        json_decref(identity);
    } else {
        FUZZ_CHECK(rc < 0);
    }
}
