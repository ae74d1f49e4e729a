#include "fuzz_shard_set.h"

#include <hdf5.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "base/text.h"
#include "ckpt/shard_scan.h"
#include "ckpt/source.h"

enum { READ_LIMIT_BYTES = 1 << 20 };

static void write_manifest(const char *dir, int n_files)
{
    fm_text text = { 0 };
    char path[FM_PATH_BYTES];
    fm_text_add(&text, "{\"format_version\": 1, \"files\": [");
    for (int i = 0; i < n_files; i++) {
        char name[32];
        fm_file_identity identity;
        snprintf(name, sizeof name, "rank-%05d.h5", i);
        FUZZ_CHECK(fm_path_join(path, dir, name) == FM_OK && fm_file_stat(&identity, path) == FM_OK);
        fm_text_add(&text, "%s{\"name\": \"%s\", \"size\": %lld, \"crc32\": 0}", i > 0 ? ", " : "", name,
                    (long long)identity.size_bytes);
    }
    fm_text_add(&text, "]}\n");
    FUZZ_CHECK(fm_path_join(path, dir, "manifest.json") == FM_OK);
    FUZZ_CHECK(fm_file_replace(path, fm_text_get(&text), text.size_bytes) == FM_OK);
    fm_text_clear(&text);
}

static void check_slices(const fm_index *index)
{
    for (int64_t s = 0; s < index->slices.n; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(index, s);
        const int64_t file_bytes = fm_index_get_file(index, slice->file)->size_bytes;
        FUZZ_CHECK(slice->size_bytes >= 0 && (slice->size_bytes == 0 || (slice->offset_bytes >= 0 &&
                   slice->offset_bytes <= file_bytes && slice->size_bytes <= file_bytes - slice->offset_bytes)));
    }
}

/* The whole of a small tensor. */
static void read_tensor(fm_source *source, int t)
{
    const fm_source_tensor *const tensor = fm_source_get(source, t);
    int64_t size_bytes = tensor->dtype == FM_DTYPES ? 0 : (int64_t)fm_dtype_bytes(tensor->dtype);
    for (int d = 0; d < tensor->ndim; d++) {
        if (__builtin_mul_overflow(size_bytes, tensor->shape[d], &size_bytes)) {
            return;
        }
    }
    if (size_bytes == 0 || size_bytes > READ_LIMIT_BYTES || tensor->ndim < 1 || tensor->ndim > FM_MAX_DIMS) {
        return;
    }
    const int64_t start[FM_MAX_DIMS] = { 0 };
    char *const out = fm_alloc((size_t)size_bytes, FM_MEMORY_HOST);
    FUZZ_CHECK(out != NULL);
    fuzz_result(fm_source_read(source, out, t, start, tensor->shape));
    fm_free(out);
}

/* What finemesh holds of HDF5: no leak checker sees a handle that was not closed. */
static int64_t open_handles(void)
{
    static const H5I_type_t types[] = { H5I_FILE, H5I_GROUP, H5I_DATATYPE, H5I_DATASPACE, H5I_DATASET, H5I_ATTR, H5I_GENPROP_LST };
    int64_t n = 0;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        hsize_t count = 0;
        n += H5Inmembers(types[i], &count) >= 0 ? (int64_t)count : 0;      /* else: no such thing was ever made */
    }
    return n;
}

static void read_set(const char *dir, int n_files)
{
    fm_source *source;
    char path[FM_PATH_BYTES];
    write_manifest(dir, n_files);
    if (fuzz_result(fm_source_open_shards(&source, dir, NULL)) == FM_OK) {
        check_slices(fm_source_index(source));
        for (int t = 0; t < fm_source_count(source); t++) {
            read_tensor(source, t);
        }
        fuzz_result(fm_source_verify(source, NULL));
        fm_source_close(source);
    }
    fm_index index = { .pool = { 0 } };
    FUZZ_CHECK(fm_path_join(path, dir, "rank-00000.h5") == FM_OK);
    if (fuzz_result(fm_shards_scan_file(&index, path)) == FM_OK && fuzz_result(fm_index_seal(&index, false, path)) == FM_OK) {
        check_slices(&index);
    }
    fm_index_clear(&index);
}

void fuzz_read_set(const char *dir, int n_files)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    const int64_t before = open_handles();
    read_set(dir, n_files);
    FUZZ_CHECK(open_handles() == before);
}
