/* A safetensors header and, in a second part, the number of bytes of data behind it; and the input as a whole file. */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ckpt/safetensors.h"
#include "fuzz.h"

/* What an index says after its seal: every slice in its file, every piece in its slice's. */
static void check_index(const fm_index *index)
{
    for (int64_t s = 0; s < index->slices.n; s++) {
        const fm_index_slice *const slice = fm_index_get_slice(index, s);
        const int64_t file_bytes = fm_index_get_file(index, slice->file)->size_bytes;
        FUZZ_CHECK(slice->offset_bytes >= FM_SAFETENSORS_PREFIX_BYTES && slice->size_bytes >= 0);
        FUZZ_CHECK(slice->offset_bytes <= file_bytes && slice->size_bytes <= file_bytes - slice->offset_bytes);
    }
    for (int64_t t = 0; t < index->tensors.n; t++) {
        const fm_index_tensor *const tensor = fm_index_get_tensor(index, t);
        FUZZ_CHECK(fm_index_find(index, fm_index_string(index, tensor->name)) == t);
        FUZZ_CHECK(tensor->n_slices == 1 && tensor->rows >= 0 && tensor->columns >= 0);
    }
}

/* An index that travelled to another rank is the same. */
static void check_travel(const fm_index *index)
{
    char *packed, *again;
    size_t packed_bytes, again_bytes;
    fm_index other = { .pool = { 0 } };
    FUZZ_CHECK(fm_index_pack(&packed, &packed_bytes, index) == FM_OK);
    FUZZ_CHECK(fm_index_merge(&other, packed, packed_bytes) == FM_OK);
    FUZZ_CHECK(fm_index_seal(&other, true, "FILE") == FM_OK);
    FUZZ_CHECK(fm_index_pack(&again, &again_bytes, &other) == FM_OK);
    FUZZ_CHECK(again_bytes == packed_bytes && other.tensors.n == index->tensors.n);
    fm_index_clear(&other);
    fm_free(packed);
    fm_free(again);
}

void fuzz_begin(void)
{
}

void fuzz_one(const char *data, size_t size_bytes)
{
    fuzz_part rest = { data, size_bytes };
    const fuzz_part header = fuzz_next(&rest);
    char *const number = fuzz_copy(fuzz_next(&rest)), path[FM_PATH_BYTES];
    const int64_t data_bytes = strtoll(number, NULL, 10) & INT64_C(0xffffffffffffff);
    fm_free(number);

    fm_index index = { .pool = { 0 } };
    const int64_t file_bytes = FM_SAFETENSORS_PREFIX_BYTES + (int64_t)header.size_bytes + data_bytes;
    if (fuzz_result(fm_safetensors_parse(&index, header.data, header.size_bytes, file_bytes, "FILE")) == FM_OK) {
        FUZZ_CHECK(fm_index_seal(&index, true, "FILE") == FM_OK);
        check_index(&index);
        check_travel(&index);
    }
    fm_index_clear(&index);

    fuzz_write("model.safetensors", data, size_bytes);
    fuzz_path(path, "model.safetensors");
    if (fuzz_result(fm_safetensors_scan(&index, NULL, path)) == FM_OK) {
        FUZZ_CHECK(fm_index_seal(&index, true, path) == FM_OK);
        check_index(&index);
    }
    fm_index_clear(&index);
}
