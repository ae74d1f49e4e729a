#include "job/cmd_verify.h"

#include "base/log.h"
#include "ckpt/source.h"
#include "ckpt/verify.h"

/* The bytes, and that the slices make whole tensors. */
static int verify(const char *dir, fm_comm *world)
{
    int64_t bytes;
    fm_source *source;
    FM_TRY(fm_verify(&bytes, dir, world));
    FM_TRY(fm_source_open_shards(&source, dir, world));
    fm_log_print("%s: intact, %d tensors, %lld bytes\n", dir, fm_source_count(source), (long long)bytes);
    fm_source_close(source);
    return FM_OK;
}

int fm_cmd_verify(const fm_launch *launch, int argc, char **argv, bool *started)
{
    (void)started;
    for (int i = 0; i < argc; i++) {
        FM_TRY(verify(argv[i], launch->world));
    }
    return FM_OK;
}
