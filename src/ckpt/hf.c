#include "ckpt/hf.h"

#include <string.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "ckpt/safetensors.h"

static const char single_name[] = "model.safetensors";
static const char index_name[] = "model.safetensors.index.json";

enum { SMALL_FILE_LIMIT_BYTES = 100000000 };

/* Called for each safetensors file of a directory. */
typedef int visit_file(void *user, const char *path);

/* Reads the index and gives its weight_map (borrowed from *out). */
static int read_weight_map(json_t **out, const json_t **weight_map, const char *path)
{
    FM_TRY(fm_json_read(out, path, SMALL_FILE_LIMIT_BYTES));
    *weight_map = json_object_get(*out, "weight_map");
    if (!json_is_object(*weight_map) || json_object_size(*weight_map) == 0) {
        json_decref(*out);
        *out = NULL;
        return fm_fail(FM_ERR_FORMAT, "%s: it has no \"weight_map\" of tensor names to file names", path);
    }
    return FM_OK;
}

/* Visits each file of the weight_map once, in the order of the map. */
static int visit_mapped(visit_file *visit, void *user, const json_t *weight_map, const char *dir, const char *index_path)
{
    json_t *const seen = json_object();
    const char *name;
    json_t *value;
    int rc = FM_OK;
    json_object_foreach((json_t *)weight_map, name, value) {
        char path[FM_PATH_BYTES];
        if (!json_is_string(value) || !fm_path_is_plain(json_string_value(value), json_string_length(value))) {
            const char *const text = json_string_value(value);
            rc = fm_fail(FM_ERR_FORMAT, "%s: \"weight_map\" sends %s to \"%.200s\", which is no name of a file in this directory",
                         index_path, name, text != NULL ? text : "");
            break;
        }
        if (json_object_get(seen, json_string_value(value)) != NULL) {
            continue;
        }
        json_object_set_new(seen, json_string_value(value), json_true());
        rc = fm_path_join(path, dir, json_string_value(value));
        if (rc == FM_OK) {
            rc = visit(user, path);
        }
        if (rc < 0) {
            break;
        }
    }
    json_decref(seen);
    return rc;
}

/* The file that a tensor was found in, without its directory. Before the seal: slices were appended tensor by tensor, so that
 * slice i is tensor i's. */
static const char *file_of(const fm_index *index, int tensor)
{
    const fm_index_slice *const slice = fm_index_get_slice(index, tensor);
    const char *const path = fm_index_string(index, fm_index_get_file(index, slice->file)->name);
    const char *const slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* Index and files must say the same. */
static int check_map(const fm_index *index, const json_t *weight_map, const char *index_path)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)weight_map, name, value) {
        const int tensor = fm_index_find(index, name);
        if (tensor < 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: it lists tensor %s in %s, but that file does not hold it", index_path, name,
                           json_string_value(value));
        }
        if (strcmp(file_of(index, tensor), json_string_value(value)) != 0) {
            return fm_fail(FM_ERR_FORMAT, "%s: it lists tensor %s in %s, but it lies in %s", index_path, name,
                           json_string_value(value), file_of(index, tensor));
        }
    }
    for (int64_t t = 0; t < index->tensors.n; t++) {
        const char *const tensor_name = fm_index_string(index, fm_index_get_tensor(index, t)->name);
        if (json_object_get(weight_map, tensor_name) == NULL) {
            return fm_fail(FM_ERR_FORMAT, "%s: tensor %s lies in %s, but the index does not list it", index_path, tensor_name,
                           file_of(index, (int)t));
        }
    }
    return FM_OK;
}

static int scan_file(void *user, const char *path)
{
    return fm_safetensors_scan(user, NULL, path);
}

/* Whether the directory has one file (true) or an index of many. Error: neither. */
static int find_layout(bool *single, char path[FM_PATH_BYTES], const char *dir)
{
    FM_TRY(fm_path_join(path, dir, single_name));
    *single = fm_path_exists(path);
    if (*single) {
        return FM_OK;
    }
    FM_TRY(fm_path_join(path, dir, index_name));
    if (!fm_path_exists(path)) {
        return fm_fail(FM_ERR_IO,
                       "%s: it holds neither %s nor %s: a Hugging Face model directory with safetensors files was expected "
                       "(other weight files, such as pytorch_model.bin, are not read)", dir, single_name, index_name);
    }
    return FM_OK;
}

int fm_hf_scan(fm_index *index, const char *dir)
{
    char path[FM_PATH_BYTES];
    bool single;
    FM_TRY(find_layout(&single, path, dir));
    if (single) {
        return fm_safetensors_scan(index, NULL, path);
    }
    json_t *object;
    const json_t *weight_map;
    FM_TRY(read_weight_map(&object, &weight_map, path));
    int rc = visit_mapped(scan_file, index, weight_map, dir, path);
    if (rc == FM_OK) {
        rc = check_map(index, weight_map, path);
    }
    json_decref(object);
    return rc;
}

static int add_identity(json_t *array, const char *path, uint32_t crc32)
{
    fm_file_identity identity;
    FM_TRY(fm_file_stat(&identity, path));
    const char *const slash = strrchr(path, '/');
    json_t *const entry = json_pack("{s:s, s:I, s:I, s:I}", "name", slash == NULL ? path : slash + 1,
                                    "size", (json_int_t)identity.size_bytes, "mtime_ns", (json_int_t)identity.mtime_ns,
                                    "crc32", (json_int_t)crc32);
    return json_array_append_new(array, entry) == 0 ? FM_OK : fm_fail(FM_ERR_MEMORY, "out of memory: the identity of %s", path);
}

/* For files that are read whole. */
static int identify_small(json_t *array, const char *path)
{
    char *text;
    size_t size_bytes;
    FM_TRY(fm_file_read(&text, &size_bytes, path, SMALL_FILE_LIMIT_BYTES));
    const uint32_t crc32 = fm_crc32(0, text, size_bytes);
    fm_free(text);
    return add_identity(array, path, crc32);
}

static int identify_safetensors(void *user, const char *path)
{
    fm_index index = { .pool = { 0 } };
    uint32_t crc32 = 0;
    const int rc = fm_safetensors_scan(&index, &crc32, path);
    fm_index_clear(&index);
    return rc < 0 ? rc : add_identity(user, path, crc32);
}

int fm_hf_identity(json_t **out, const char *dir)
{
    char path[FM_PATH_BYTES], config[FM_PATH_BYTES];
    bool single;
    json_t *object = NULL;
    FM_TRY(fm_path_join(config, dir, "config.json"));
    FM_TRY(find_layout(&single, path, dir));
    *out = json_array();
    int rc;
    FM_TRY_TO(done, rc, identify_small(*out, config));
    if (single) {
        rc = identify_safetensors(*out, path);
        goto done;
    }
    const json_t *weight_map;
    FM_TRY_TO(done, rc, identify_small(*out, path));
    FM_TRY_TO(done, rc, read_weight_map(&object, &weight_map, path));
    rc = visit_mapped(identify_safetensors, *out, weight_map, dir, path);
done:
    json_decref(object);
    if (rc < 0) {
        json_decref(*out);
        *out = NULL;
    }
    return rc;
}
