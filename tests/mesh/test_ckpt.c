/* Conversion, reading and export by many ranks: `test_ckpt FOLDER SCALE PP DP_REPLICATE DP_SHARD CP TP`. The ranks are those of
 * the mesh, or (any other number) they share the work of converting for it. Everything is compared byte for byte, and no rank
 * group reads more than 1.1 of what it keeps. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/ckpt_model.h"
#include "base/file.h"
#include "base/memory.h"
#include "ckpt/convert.h"
#include "ckpt/export.h"
#include "ckpt/match.h"
#include "ckpt/source.h"

#define REQUIRE(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #condition, fm_error_message()); \
            MPI_Abort(MPI_COMM_WORLD, 1); \
        } \
    } while (0)

typedef struct {
    char hf[FM_PATH_BYTES], shards[FM_PATH_BYTES], out[FM_PATH_BYTES];
    ckpt_model model;
    fm_layout layout;
    fm_comm *world, *tp;
} context;

/* All slices of one coordinate; where `tp` is given with its peers. */
static void check_slices(const context *c, fm_source *source, const fm_coord *coord, fm_comm *tp)
{
    for (int t = 0; t < c->model.n; t++) {
        size_t size_bytes;
        char *const expected = ckpt_model_slice(&size_bytes, &c->layout, t, coord), *const found = fm_alloc(size_bytes,
                                                                                                            FM_MEMORY_HOST);
        const int tensor = fm_source_find(source, c->model.tensors[t].name);
        REQUIRE(tensor >= 0);
        REQUIRE(fm_source_read_slice(source, found, tensor, &c->layout, t, coord, tp) == FM_OK);
        REQUIRE(size_bytes == 0 || memcmp(found, expected, size_bytes) == 0);
        fm_free(expected);
        fm_free(found);
    }
}

/* Bytes that all coordinates hold. */
static int64_t held_bytes(const context *c)
{
    int64_t total = 0;
    for (int rank = 0; rank < fm_mesh_ranks(&c->layout.mesh); rank++) {
        const fm_coord coord = fm_mesh_coord(&c->layout.mesh, rank);
        for (int t = 0; t < c->model.n; t++) {
            fm_slice slice;
            fm_layout_slice(&slice, &c->layout, t, &coord);
            for (int s = 0; slice.held && s < slice.n_slabs; s++) {
                total += fm_slab_elements(&slice.slabs[s], slice.ndim) * (int64_t)fm_dtype_bytes(c->model.tensors[t].dtype);
            }
        }
    }
    return total;
}

/* As `load` does it: straight from the HF directory, each rank what it holds. */
static void check_loading(const context *c, const fm_coord *coord)
{
    fm_source *source;
    REQUIRE(fm_source_open(&source, c->hf, c->world) == FM_OK);
    check_slices(c, source, coord, c->tp);
    int64_t read_bytes = fm_source_bytes_read(source);
    REQUIRE(fm_comm_all_reduce(c->world, &read_bytes, 1, FM_I64, FM_SUM) == FM_OK);
    REQUIRE(read_bytes * 10 <= held_bytes(c) * 11);
    fm_source_close(source);
}

static void check_export(const context *c, const fm_coord *coord)
{
    fm_source *source;
    int *const tensor_of = fm_alloc_array(c->model.n, sizeof *tensor_of, FM_MEMORY_HOST);
    REQUIRE(fm_source_open(&source, c->shards, c->world) == FM_OK);
    REQUIRE(fm_match_tensors(tensor_of, c->model.tensors, c->model.n, source, c->shards) == FM_OK);
    fm_source_feed rows = { .source = source, .tensor_of = tensor_of, .layout = &c->layout, .coord = *coord };
    const fm_tensor_feed feed = fm_feed_source(&rows);
    const fm_export_options options = { .source_dir = c->hf, .max_file_bytes = 20000 };
    REQUIRE(fm_export(c->out, &c->layout, &feed, &options, c->world, c->tp) == FM_OK);
    fm_source_close(source);
    fm_free(tensor_of);
    REQUIRE(fm_source_open_hf(&source, c->out, c->world) == FM_OK);
    REQUIRE(fm_source_count(source) == c->model.n);
    check_slices(c, source, coord, NULL);
    fm_source_close(source);
}

/* A source that one rank cannot read is an error on all of them. */
static void check_failure(context *c)
{
    char path[FM_PATH_BYTES];
    fm_convert_report report;
    REQUIRE(fm_path_join(path, c->shards, "rank-00000.h5") == FM_OK);
    if (fm_comm_rank(c->world) == 0) {
        remove(path);
    }
    fm_comm_barrier(c->world);
    REQUIRE(fm_convert(&report, c->out, c->shards, &c->layout, c->model.tensors, false, c->world, c->tp) == FM_ERR_IO);
    REQUIRE(strstr(fm_error_message(), "rank-00000.h5") != NULL);
}

static void check_all(context *c)
{
    fm_convert_report report;
    fm_source *source;
    const int me = fm_comm_rank(c->world), n = fm_comm_size(c->world), n_mesh = fm_mesh_ranks(&c->layout.mesh);
    int64_t whole_bytes = 0;
    for (int t = 0; t < c->model.n; t++) {
        whole_bytes += fm_tensor_elements(&c->model.tensors[t]) * (int64_t)fm_dtype_bytes(c->model.tensors[t].dtype);
    }
    if (me == 0) {
        ckpt_model_write(c->hf, &c->model, 2);
    }
    fm_comm_barrier(c->world);
    REQUIRE(fm_convert(&report, c->shards, c->hf, &c->layout, c->model.tensors, true, c->world, c->tp) == FM_OK);
    REQUIRE(!report.reused && report.bytes_written == whole_bytes);
    REQUIRE(report.bytes_read * 10 <= whole_bytes * 11);
    REQUIRE(fm_convert(&report, c->shards, c->hf, &c->layout, c->model.tensors, true, c->world, c->tp) == FM_OK);
    REQUIRE(report.reused);
    REQUIRE(fm_source_open(&source, c->shards, c->world) == FM_OK);
    REQUIRE(fm_source_verify(source, c->world) == FM_OK);
    for (int rank = me; rank < n_mesh; rank += n) {
        const fm_coord coord = fm_mesh_coord(&c->layout.mesh, rank);
        check_slices(c, source, &coord, NULL);
    }
    fm_source_close(source);
    if (n == n_mesh) {
        const fm_coord coord = fm_mesh_coord(&c->layout.mesh, me);
        check_loading(c, &coord);
        check_export(c, &coord);
    }
    check_failure(c);
}

int main(int argc, char **argv)
{
    if (argc != 8 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    MPI_Comm mpi_world = MPI_COMM_WORLD;
    fm_mesh_shape mesh;
    fm_groups *groups = NULL;
    context c = { .tp = NULL };
    int *stages, n = 0;
    for (int d = 0; d < FM_DIMS; d++) {
        mesh.size[d] = atoi(argv[3 + d]);
    }
    MPI_Comm_size(mpi_world, &n);
    REQUIRE(fm_path_join(c.hf, argv[1], "hf") == FM_OK && fm_path_join(c.shards, argv[1], "shards") == FM_OK);
    REQUIRE(fm_path_join(c.out, argv[1], "out") == FM_OK);
    ckpt_model_make(&c.model, 2, atoi(argv[2]));
    c.layout = ckpt_model_layout(&c.model, &mesh, &stages);
    if (n == fm_mesh_ranks(&mesh)) {
        REQUIRE(fm_groups_new(&groups, &mesh, NULL, &mpi_world) == FM_OK);
        c.world = fm_groups_get(groups, FM_GROUP_WORLD);
        c.tp = fm_groups_get(groups, FM_GROUP_TP);
    } else {
        REQUIRE(fm_comm_new_world(&c.world, &mpi_world) == FM_OK);
    }
    check_all(&c);
    if (groups != NULL) {
        fm_groups_destroy(groups);
    } else {
        fm_comm_destroy(c.world);
    }
    fm_free(stages);
    ckpt_model_clear(&c.model);
    MPI_Finalize();
    return 0;
}
