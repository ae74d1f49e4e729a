/* What one training step sends, to the byte, against formulas: nobody sends twice what is needed.
 *
 *     test_traffic DATA SCRATCH MODEL [section.key=value ...]
 *
 * M microbatches of one row of T tokens, N rows of activations; s bytes a number; L layers and the ends of this rank's stage.
 *   tp                  all-reduce    forward and backward each 2 a layer and 1 an end, [N, C]; maximum, sum and label logit of each
 *                                     labelled token
 *   tp with sp          the same as reduce-scatters; all-gathers: 2 a layer forward, 2 backward, 2 for the weights' gradients (norm
 *                       outputs are gathered again, not kept), 1 an end; gradients of the norms once a step
 *   fsdp                all-gather    the layers and the final norm, forward and backward; reduce-scatter of their gradients;
 *                       broadcast     the vocabulary: look-up once, head twice (statistics, then gradients); reduce of its gradients
 *   dp_replicate        all-reduce    every gradient of this rank once a step
 *   pp                  send, receive [N, C] to and from each neighbour
 *   ends                all-reduce    a tied embedding's gradient once a step */
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "train/traffic.h"
#include "trial.h"

enum { T = 10, MAX_WORDS = 24 };

/* Bytes by group and kind; what is not expected is 0. */
typedef struct {
    int64_t bytes[FM_GROUPS][FM_TRAFFIC_KINDS];
} expected_table;

/* Elements of the tensors of this rank's stage, padded to what FSDP's contributions are. */
typedef struct {
    int64_t gathered;                  /* of layers and final norm */
    int64_t shards;                    /* of all tensors */
    int64_t norms;                     /* local rows of the layers' and the final norm */
    int64_t tied;                      /* local elements of a tied embedding */
} extents;

static extents count_extents(const fm_model *m, int fsdp)
{
    extents e = { 0 };
    for (int t = 0; t < m->n_tensors; t++) {
        const fm_tensor_spec *const spec = &m->tensors[t];
        fm_slice slice;
        fm_layout_slice(&slice, &m->layout, t, &m->coord);
        const int64_t columns = spec->ndim > 1 ? slice.tp_shape[1] : 1, rows = slice.tp_shape[0];
        if (!slice.held) {
            continue;
        }
        const bool is_vocabulary = spec->place != FM_PLACE_LAYER && spec->ndim > 1;
        const int64_t shard = (rows + fsdp - 1) / fsdp * columns;
        e.shards += shard;
        e.gathered += is_vocabulary ? 0 : fsdp * shard;
        e.norms += spec->ndim == 1 ? slice.local_shape[0] : 0;
        e.tied += spec->place == FM_PLACE_TIED ? slice.local_shape[0] * columns : 0;
    }
    return e;
}

static void expect_tp(expected_table *out, const fm_model *m, const extents *e, int64_t M)
{
    const int64_t s = 4, tp = m->layout.mesh.size[FM_TP], C = m->config.C, L = m->chunks[0].n_layers;
    const int64_t first = m->chunks[0].has_embedding, last = m->chunks[0].has_head;
    const int64_t rows = M * ((T + tp - 1) / tp * tp) * C * s, labels = M * last * 3 * (T - 1) * s;
    int64_t *const to = out->bytes[FM_GROUP_TP];
    if (tp == 1) {
        return;
    }
    if (m->setup.sequence_parallel) {
        to[FM_TRAFFIC_REDUCE_SCATTER] = (4 * L + first + last) * rows;
        to[FM_TRAFFIC_ALL_GATHER] = (6 * L + first + last) * rows;
        to[FM_TRAFFIC_ALL_REDUCE] = labels + e->norms * s;
    } else {
        to[FM_TRAFFIC_ALL_REDUCE] = labels + (4 * L + first + last) * M * T * C * s;
    }
}

static void expect_fsdp(expected_table *out, const fm_model *m, const extents *e, int64_t M, int fsdp)
{
    const int64_t s = 4, C = m->config.C, V = m->vocabulary.count;
    const int64_t first = m->chunks[0].has_embedding, last = m->chunks[0].has_head;
    int64_t *const to = out->bytes[FM_GROUP_FSDP];
    if (fsdp == 1) {
        return;
    }
    to[FM_TRAFFIC_ALL_GATHER] = M * 2 * e->gathered * s;
    to[FM_TRAFFIC_REDUCE_SCATTER] = M * e->gathered * s;
    to[FM_TRAFFIC_BROADCAST] = M * (first + 2 * last) * V * C * s;
    to[FM_TRAFFIC_REDUCE] = M * (first + last) * ((V + fsdp - 1) / fsdp * fsdp) * C * s;
}

static void expect_the_rest(expected_table *out, const fm_model *m, const extents *e, int64_t M)
{
    const int64_t s = 4, C = m->config.C;
    const int *const size = m->layout.mesh.size;
    const bool first = m->chunks[0].has_embedding, last = m->chunks[0].has_head;
    const int64_t rows = m->setup.sequence_parallel ? (T + size[FM_TP] - 1) / size[FM_TP] : T;
    if (size[FM_DP_REPLICATE] > 1) {
        out->bytes[FM_GROUP_DP_REPLICATE][FM_TRAFFIC_ALL_REDUCE] = e->shards * s;
    }
    if (size[FM_PP] > 1) {
        out->bytes[FM_GROUP_PP][FM_TRAFFIC_SEND] = M * (2 - first - last) * rows * C * s;
        out->bytes[FM_GROUP_PP][FM_TRAFFIC_RECEIVE] = out->bytes[FM_GROUP_PP][FM_TRAFFIC_SEND];
        out->bytes[FM_GROUP_ENDS][FM_TRAFFIC_ALL_REDUCE] = first || last ? e->tied * s : 0;
    }
}

/* Numbers of differences on this rank; the world's own small sums (loss, norm) are not looked at. */
static int compare(const expected_table *expected, const fm_traffic_table *found, int rank)
{
    static const char *const kinds[] = {
#define KIND_TEXT(name, text) text,
        FM_TRAFFIC_LIST(KIND_TEXT)
#undef KIND_TEXT
    };
    int wrong = 0;
    for (int g = 0; g < FM_GROUPS; g++) {
        for (int k = 0; g != FM_GROUP_WORLD && k < FM_TRAFFIC_KINDS; k++) {
            const int64_t e = expected->bytes[g][k], f = found->group[g].bytes[k];
            if (e != 0 || f != 0) {
                printf("%-5s rank %d %-12s %-14s %9lld bytes in %lld calls, %lld expected\n", e == f ? "ok" : "WRONG", rank,
                       fm_group_name((enum fm_group)g), kinds[k], (long long)f, (long long)found->group[g].calls[k], (long long)e);
                wrong += e != f;
            }
        }
    }
    return wrong;
}

static int write_rows(const char *path, int n)
{
    char text[4096] = "";
    for (int r = 0; r < n; r++) {
        size_t at = strlen(text);
        at += (size_t)sprintf(text + at, "{\"input_ids\": [1");
        for (int t = 1; t < T; t++) {
            at += (size_t)sprintf(text + at, ", %d", (3 * r + 5 * t) % 97);
        }
        sprintf(text + at, "]}\n");
    }
    return fm_file_replace(path, text, strlen(text));
}

static int run_step(int *wrong, trial *t, int rank)
{
    const fm_model *const m = t->a.model;
    const int fsdp = fm_mesh_fsdp_size(&m->layout.mesh);
    const int64_t M = t->a.job.batch.global_batch_size / fm_mesh_dp_size(&m->layout.mesh);
    expected_table expected = { { { 0 } } };
    fm_traffic_table before, found;
    fm_step_metrics metrics;
    fm_traffic_read(&before, t->a.groups, NULL);
    FM_TRY(fm_loop_step(t->loop, 1, &metrics));
    fm_traffic_read(&found, t->a.groups, &before);
    const extents e = count_extents(m, fsdp);
    expect_tp(&expected, m, &e, M);
    expect_fsdp(&expected, m, &e, M, fsdp);
    expect_the_rest(&expected, m, &e, M);
    *wrong = compare(&expected, &found, rank);
    return FM_OK;
}

static int run(int *wrong, const fm_launch *launch, int argc, char **argv)
{
    char job[FM_PATH_BYTES], rows[FM_PATH_BYTES], index[FM_PATH_BYTES], model[FM_PATH_BYTES + 16], data[FM_PATH_BYTES + 16];
    char local[] = "batch.local_batch_size=1", global[] = "batch.global_batch_size=4";
    char *words[MAX_WORDS] = { job, model, data, local, global };
    int n = 5;
    FM_TRY(fm_path_join(job, argv[1], "../../mesh/mesh_model.ini"));
    FM_TRY(fm_path_join(rows, argv[2], "rows.jsonl"));
    FM_TRY(fm_path_join(index, argv[2], "rows.index"));
    snprintf(model, sizeof model, "model.path=%s/%s", argv[1], argv[3]);
    snprintf(data, sizeof data, "data.train=%s", rows);
    for (int i = 4; i < argc && n < MAX_WORDS; i++) {
        words[n++] = argv[i];
    }
    FM_TRY(fm_comm_agree(launch->world, launch->rank == 0 ? write_rows(rows, 12) : FM_OK));
    const trial_spec spec = { .launch = launch, .index = index, .n_words = n, .words = words };
    trial t = { .loop = NULL };
    int rc = trial_begin(&t, &spec);
    rc = rc < 0 ? rc : run_step(wrong, &t, launch->rank);
    trial_end(&t);
    return rc;
}

int main(int argc, char **argv)
{
    MPI_Comm world = MPI_COMM_WORLD;
    fm_launch launch;
    int wrong = 0;
    if (argc < 4 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    int rc = fm_launch_begin(&launch, &world);
    rc = rc < 0 ? rc : run(&wrong, &launch, argc, argv);
    if (rc < 0) {
        printf("rank %d: %s\n", launch.rank, fm_error_message());
        MPI_Abort(world, 1);
    }
    fm_launch_end(&launch);
    MPI_Finalize();
    return wrong > 0;
}
