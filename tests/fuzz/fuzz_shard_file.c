/* The bytes of a shard file: what HDF5 and the reading of attributes make of them. */
#include "fuzz_shard_set.h"

static char dir[FM_PATH_BYTES];

void fuzz_begin(void)
{
    fuzz_path(dir, "set");
    FUZZ_CHECK(fm_dir_make(dir) == FM_OK);
}

void fuzz_one(const char *data, size_t size_bytes)
{
    fuzz_write("set/rank-00000.h5", data, size_bytes);
    fuzz_read_set(dir, 1);
}
