#include "ckpt/verify.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/crc.h"
#include "base/file.h"
#include "base/memory.h"
#include "ckpt/shard_scan.h"

enum { CHUNK_BYTES = 8 << 20, MANIFEST_LIMIT_BYTES = 100000000 };

/* The bytes [from, from + size_bytes) of an open file, read in pieces; *crc goes on over them. */
static int sum_range(uint32_t *crc, int fd, char *chunk, int64_t from, int64_t size_bytes, const char *path)
{
    for (int64_t done = 0; done < size_bytes;) {
        const size_t part_bytes = size_bytes - done < CHUNK_BYTES ? (size_t)(size_bytes - done) : CHUNK_BYTES;
        FM_TRY(fm_file_pread(fd, chunk, part_bytes, from + done, path));
        *crc = fm_crc32(*crc, chunk, part_bytes);
        done += (int64_t)part_bytes;
    }
    return FM_OK;
}

/* A file whose CRC is wrong: the tensor that is hit, else the file alone (its metadata, or no tensors are in it). */
static int blame(const char *path, int fd, char *chunk)
{
    fm_index index = { .pool = { 0 } };
    char tensor[256] = "";
    const int scanned = fm_shards_scan_file(&index, path);
    for (int64_t s = 0; scanned == FM_OK && tensor[0] == '\0' && s < index.slices.n; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(&index, s);
        uint32_t crc = 0;
        if (!slice->has_crc || sum_range(&crc, fd, chunk, slice->offset_bytes, slice->size_bytes, path) < 0) {
            continue;
        }
        if (crc != slice->crc32) {
            snprintf(tensor, sizeof tensor, ", in tensor %.200s",
                     fm_index_string(&index, fm_index_get_tensor(&index, slice->tensor)->name));
        }
    }
    fm_index_clear(&index);
    return fm_fail(FM_ERR_FORMAT, "%s: its CRC is not the one that was written: the file is damaged%s", path, tensor);
}

static int verify_file(const json_t *entry, const char *dir, char *chunk, int64_t *bytes)
{
    char path[FM_PATH_BYTES];
    int fd;
    int64_t size_bytes;
    uint32_t crc = 0;
    const int64_t expected_bytes = json_integer_value(json_object_get(entry, "size"));
    FM_TRY(fm_path_join(path, dir, json_string_value(json_object_get(entry, "name"))));
    FM_TRY(fm_file_open(&fd, &size_bytes, path));
    int rc = FM_OK;
    if (size_bytes != expected_bytes) {
        rc = fm_fail(FM_ERR_FORMAT, "%s: it has %lld bytes, %lld were written: the file is truncated or damaged", path,
                     (long long)size_bytes, (long long)expected_bytes);
    }
    if (rc == FM_OK) {
        rc = sum_range(&crc, fd, chunk, 0, size_bytes, path);
    }
    if (rc == FM_OK && (int64_t)crc != json_integer_value(json_object_get(entry, "crc32"))) {
        rc = blame(path, fd, chunk);
    }
    close(fd);
    *bytes += size_bytes;
    return rc;
}

/* The seal at the end of manifest.json. */
static int verify_manifest(const char *dir)
{
    char path[FM_PATH_BYTES], seal[64];
    char *text;
    size_t size_bytes;
    FM_TRY(fm_path_join(path, dir, "manifest.json"));
    FM_TRY(fm_file_read(&text, &size_bytes, path, MANIFEST_LIMIT_BYTES));
    size_t sealed_bytes = size_bytes;
    for (int newlines = 0; sealed_bytes > 0 && newlines < 3; sealed_bytes--) {       /* the seal has three lines' ends */
        newlines += text[sealed_bytes - 1] == '\n';
    }
    sealed_bytes -= sealed_bytes > 0;                                               /* and a comma before them */
    snprintf(seal, sizeof seal, FM_MANIFEST_SEAL, fm_crc32(0, text, sealed_bytes));
    const bool right = size_bytes - sealed_bytes == strlen(seal) && memcmp(text + sealed_bytes, seal, strlen(seal)) == 0;
    fm_free(text);
    return right ? FM_OK : fm_fail(FM_ERR_FORMAT, "%s: its CRC is not the one that was written: the file is damaged", path);
}

int fm_verify(int64_t *bytes, const char *dir, fm_comm *world)
{
    json_t *manifest = NULL;
    int64_t read_bytes = 0;
    char *const chunk = fm_alloc(CHUNK_BYTES, FM_MEMORY_HOST);
    int rc = chunk == NULL ? FM_ERR_MEMORY : FM_OK;
    if (rc == FM_OK && fm_comm_rank(world) == 0) {
        rc = verify_manifest(dir);
    }
    rc = fm_comm_agree(world, rc);
    if (rc == FM_OK) {
        rc = fm_shards_read_manifest(&manifest, dir);
    }
    const json_t *const files = rc == FM_OK ? json_object_get(manifest, "files") : NULL;
    for (size_t i = (size_t)fm_comm_rank(world); rc == FM_OK && i < json_array_size(files); i += (size_t)fm_comm_size(world)) {
        rc = verify_file(json_array_get(files, i), dir, chunk, &read_bytes);
    }
    json_decref(manifest);
    fm_free(chunk);
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, &read_bytes, 1, FM_I64, FM_SUM));
    if (bytes != NULL) {
        *bytes = read_bytes;
    }
    return FM_OK;
}
