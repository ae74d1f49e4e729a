/* Checkpoints and conversion against dd, on the same disk in the same run: `checkpoint_bench FOLDER MODEL ROUNDS`, on any number of
 * ranks (the mesh is dp_shard). MODEL is a directory with a config.json; the weights are random. Each round writes and reads the
 * same bytes four ways, one after the other; the medians are printed, and their ratios.
 *
 *   write     fm_save of weights and moments, complete under its name         dd conv=fsync of as many bytes, one a rank
 *   read      fm_source_open_shards and fm_load_states                         dd of the files that dd wrote
 *   convert   fm_convert of an HF directory of the same weights                dd conv=fsync from its file, one a rank
 *
 * What is read was dropped from the page cache before. */
#include <fcntl.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "ckpt/convert.h"
#include "ckpt/load.h"
#include "ckpt/save.h"
#include "job/assemble.h"
#include "job/device.h"

#define REQUIRE(call) \
    do { \
        if ((call) < 0) { \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, fm_error_message()); \
            MPI_Abort(MPI_COMM_WORLD, 1); \
        } \
    } while (0)

enum { MOST_ROUNDS = 101, COMMAND_BYTES = 3 * FM_PATH_BYTES };
enum way { WRITE, DD_WRITE, READ, DD_READ, CONVERT, DD_CONVERT, WAYS };

typedef struct {
    fm_launch launch;
    fm_assembly a;
    char set[FM_PATH_BYTES], dd[FM_PATH_BYTES], dd_converted[FM_PATH_BYTES], hf[FM_PATH_BYTES], hf_file[FM_PATH_BYTES];
    char converted[FM_PATH_BYTES];
    int64_t checkpoint_bytes, model_bytes;
} bench;

static const fm_save_item items[] = {
    { FM_ARRAY_WEIGHT, "" }, { FM_ARRAY_EXP_AVG, "exp_avg" }, { FM_ARRAY_EXP_AVG_SQ, "exp_avg_sq" },
};
enum { N_ITEMS = sizeof items / sizeof items[0] };

static void drop(const char *path)
{
    const int fd = open(path, O_RDONLY);
    if (fd >= 0) {
        posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        close(fd);
    }
}

static void set_up(bench *b, const char *folder, const char *model)
{
    char text[COMMAND_BYTES], own[64];
    const char *const overrides[] = { text, "model.init=random", "model.dtype=float32", "device.threads=1" };
    snprintf(text, sizeof text, "model.path=%s", model);
    REQUIRE(fm_assemble_text(&b->a, &b->launch, "", "checkpoint_bench", overrides, 4, false));
    REQUIRE(fm_assemble_shape(&b->a, false));
    REQUIRE(fm_assemble_config(&b->a));
    REQUIRE(fm_assemble_mesh(&b->a));
    REQUIRE(fm_assemble_device(&b->a));
    REQUIRE(fm_assemble_model(&b->a, NULL, true));
    REQUIRE(fm_model_allocate(b->a.model));
    REQUIRE(fm_assemble_weights(&b->a, NULL));
    for (int t = 0; t < b->a.model->n_tensors; t++) {
        const fm_tensor_spec *const spec = &b->a.model->tensors[t];
        b->model_bytes += fm_tensor_elements(spec) * (int64_t)fm_dtype_bytes(spec->dtype);
    }
    b->checkpoint_bytes = (int64_t)fm_saving_bytes(b->a.model, items, N_ITEMS);
    REQUIRE(fm_path_join(b->set, folder, "set"));
    REQUIRE(fm_path_join(b->hf, folder, "hf"));
    REQUIRE(fm_path_join(b->hf_file, b->hf, "model.safetensors"));
    REQUIRE(fm_path_join(b->converted, folder, "converted"));
    snprintf(own, sizeof own, "dd.%d", b->launch.rank);
    REQUIRE(fm_path_join(b->dd, folder, own));
    snprintf(own, sizeof own, "dd.%d.converted", b->launch.rank);
    REQUIRE(fm_path_join(b->dd_converted, folder, own));
    REQUIRE(fm_assembly_export(&b->a, b->hf));
}

static int run(const char *command)
{
    return system(command) == 0 ? FM_OK : fm_fail(FM_ERR_IO, "%s: it failed", command);
}

/* dd, one a rank, each with its part of the bytes. */
static int dd(const char *from, const char *to, int64_t bytes, int part, const char *more)
{
    char command[COMMAND_BYTES];
    snprintf(command, sizeof command, "dd if='%s' of='%s' bs=8M skip=%lld count=%lldB iflag=skip_bytes %s 2>/dev/null", from, to,
             (long long)(part * bytes), (long long)bytes, more);
    return run(command);
}

static int load(bench *b)
{
    fm_source *source;
    FM_TRY(fm_source_open_shards(&source, b->set, b->launch.world));
    const int rc = fm_load_states(b->a.model, source);
    fm_source_close(source);
    return rc;
}

static int convert(bench *b)
{
    fm_convert_report report;
    return fm_convert(&report, b->converted, b->hf, &b->a.model->layout, b->a.model->tensors, false, b->launch.world,
                      fm_groups_get(b->a.groups, FM_GROUP_TP));
}

static int go(bench *b, enum way way)
{
    const int n = b->launch.n_ranks, rank = b->launch.rank;
    switch (way) {
    case WRITE: return fm_save(b->set, b->a.model, items, N_ITEMS, NULL);
    case DD_WRITE: return dd("/dev/zero", b->dd, b->checkpoint_bytes, 0, "conv=fsync");
    case READ: return load(b);
    case DD_READ: return dd(b->dd, "/dev/null", b->checkpoint_bytes, 0, "");
    case CONVERT: return convert(b);
    case DD_CONVERT: return dd(b->hf_file, b->dd_converted, b->model_bytes / n, rank, "conv=fsync");
    case WAYS: break;
    }
    return FM_OK;
}

/* Nothing is left to write or cached; nothing is there to be replaced. */
static void prepare(bench *b, enum way way)
{
    char path[FM_PATH_BYTES], name[64];
    if (b->launch.rank == 0 && (way == WRITE || way == CONVERT)) {
        REQUIRE(fm_dir_remove(way == WRITE ? b->set : b->converted));
    }
    if (way == DD_WRITE || way == DD_CONVERT) {
        unlink(way == DD_WRITE ? b->dd : b->dd_converted);
    }
    sync();
    snprintf(name, sizeof name, "rank-%05d.h5", b->launch.rank);
    REQUIRE(fm_path_join(path, b->set, name));
    drop(path);
    drop(b->dd);
    drop(b->hf_file);
    REQUIRE(fm_comm_barrier(b->launch.world));
}

static int ascending(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    static const char *const names[] = { "write a checkpoint", "read a checkpoint", "convert" };
    static double seconds[WAYS][MOST_ROUNDS];
    const int rounds = argc == 4 ? atoi(argv[3]) : 0;
    const MPI_Comm world = MPI_COMM_WORLD;
    bench b = { .checkpoint_bytes = 0 };
    int n_ranks;
    if (rounds < 1 || rounds > MOST_ROUNDS || MPI_Init(NULL, NULL) != MPI_SUCCESS) {
        fprintf(stderr, "checkpoint_bench FOLDER MODEL ROUNDS\n");
        return 2;
    }
    MPI_Comm_size(world, &n_ranks);
    REQUIRE(fm_launch_begin(&b.launch, n_ranks > 1 ? &world : NULL));
    set_up(&b, argv[1], argv[2]);
    for (int round = 0; round < rounds; round++) {
        for (int way = 0; way < WAYS; way++) {
            prepare(&b, (enum way)way);
            const double begin_s = fm_clock_s();
            REQUIRE(go(&b, (enum way)way));
            REQUIRE(fm_comm_barrier(b.launch.world));
            seconds[way][round] = fm_clock_s() - begin_s;
        }
    }
    for (int way = 0; way < WAYS; way++) {
        qsort(seconds[way], (size_t)rounds, sizeof(double), ascending);
    }
    for (int way = 0; way < WAYS; way += 2) {
        const double bytes = way == CONVERT ? (double)b.model_bytes : (double)b.checkpoint_bytes * b.launch.n_ranks;
        const double ours = bytes / seconds[way][rounds / 2] / 1e6, theirs = bytes / seconds[way + 1][rounds / 2] / 1e6;
        fm_log_print("%-22s %6d %10.0f %12.0f %12.0f %8.0f%%\n", names[way / 2], b.launch.n_ranks, bytes / 1e6, ours, theirs,
                     100.0 * ours / theirs);
    }
    fm_assembly_clear(&b.a);
    fm_launch_end(&b.launch);
    MPI_Finalize();
    return 0;
}
