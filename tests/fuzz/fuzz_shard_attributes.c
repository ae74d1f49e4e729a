/* Sound HDF5 files whose attributes say anything at all: two shard files from lines of numbers.
 *   FILE DTYPE NDIM PIECES, then local shape, global shape, and start and count of each piece, NDIM numbers each */
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "ckpt/h5.h"
#include "fuzz_shard_set.h"

enum { MOST_DATASETS = 8, FILES = 2, MOST_BYTES = 1 << 16 };

static char dir[FM_PATH_BYTES];

void fuzz_begin(void)
{
    fuzz_path(dir, "set");
    FUZZ_CHECK(fm_dir_make(dir) == FM_OK);
}

static int64_t number(char **at)
{
    char *end;
    const long long value = strtoll(*at, &end, 10);
    *at = end;
    return value;
}

static int64_t within(int64_t value, int64_t low, int64_t high)
{
    return value < low ? low : value > high ? high : value;
}

static void numbers(int64_t *out, int n, char **at)
{
    for (int i = 0; i < n; i++) {
        out[i] = number(at);
    }
}

/* Extents of which HDF5 makes a dataset that lies in a small file: any, as long as the product is small. */
static bool is_small(const fm_h5_dataset *dataset)
{
    int64_t size_bytes = (int64_t)fm_dtype_bytes((enum fm_dtype)dataset->dtype);
    for (int d = 0; d < dataset->ndim; d++) {
        if (dataset->shape[d] < 0 || __builtin_mul_overflow(size_bytes, dataset->shape[d], &size_bytes)) {
            return false;
        }
    }
    return size_bytes <= MOST_BYTES;
}

static bool parse_dataset(fm_h5_dataset *out, int *file, char *text)
{
    char *at = text;
    *out = (fm_h5_dataset){ .n_pieces = 0 };
    *file = (int)(number(&at) & 1);
    out->dtype = (int)within(number(&at), 0, FM_DTYPES - 1);
    out->ndim = (int)within(number(&at), 1, FM_MAX_DIMS);
    out->n_pieces = (int)within(number(&at), 1, FM_MAX_PIECES);
    numbers(out->shape, out->ndim, &at);
    numbers(out->global_shape, out->ndim, &at);
    for (int p = 0; p < out->n_pieces; p++) {
        numbers(out->start[p], out->ndim, &at);
        numbers(out->count[p], out->ndim, &at);
    }
    memcpy(out->path, "master/x", sizeof "master/x");
    out->path[7] = (char)('a' + (out->ndim + out->n_pieces + *file) % 2);
    return is_small(out);
}

/* The lines for one file; of two of the same name the first counts. False: HDF5 makes no such file. */
static bool make_file(int wanted, fuzz_part text)
{
    fm_h5_dataset datasets[MOST_DATASETS];
    const fm_h5_header header = { FM_SHARD_FORMAT_VERSION, { 1, 1, 1, 1, FILES }, { 0, 0, 0, 0, wanted } };
    fuzz_part line;
    int n = 0;
    while (n < MOST_DATASETS && fuzz_line(&line, &text)) {
        int file;
        char *const copy = fuzz_copy(line);
        bool fresh = parse_dataset(&datasets[n], &file, copy) && file == wanted;
        fm_free(copy);
        for (int i = 0; i < n; i++) {
            fresh = fresh && strcmp(datasets[i].path, datasets[n].path) != 0;
        }
        n += fresh;
    }
    char path[FM_PATH_BYTES];
    fuzz_path(path, wanted == 0 ? "set/rank-00000.h5" : "set/rank-00001.h5");
    return fm_h5_create(path, &header, datasets, n) == FM_OK;
}

void fuzz_one(const char *data, size_t size_bytes)
{
    const fuzz_part text = { data, size_bytes };
    if (make_file(0, text) && make_file(1, text)) {
        fuzz_read_set(dir, FILES);
    }
}
