/* The layout on imagined meshes: every factorization of 1 .. 16 and of 24 ranks over the five dimensions, models with odd sizes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "parallel/layout.h"

enum { MAX_RANKS = 24, MAX_TENSORS = 32, MAX_ELEMENTS = 131 * 7, N_LAYERS = 3, C = 7, F = 83, V = 131 };

typedef struct {
    fm_head_counts heads;
    int n_tensors;
    fm_tensor_spec tensors[MAX_TENSORS];
} model;

static fm_tensor_spec *add(model *m, const char *name, int64_t rows, int64_t columns, int cut_axis, enum fm_place place, int layer)
{
    fm_tensor_spec *const tensor = &m->tensors[m->n_tensors++];
    *tensor = (fm_tensor_spec){.ndim = columns > 0 ? 2 : 1, .shape = {rows, columns}, .cut_axis = cut_axis, .place = place, .layer = layer};
    snprintf(tensor->name, sizeof tensor->name, "%s", name);
    return tensor;
}

static void add_piece(fm_tensor_spec *tensor, int64_t count, enum fm_split split)
{
    int64_t start = 0;
    for (int i = 0; i < tensor->n_pieces; i++) {
        start += tensor->pieces[i].count;
    }
    tensor->pieces[tensor->n_pieces++] = (fm_piece){.start = start, .count = count, .split = split};
}

static void add_cut(model *m, const char *name, int64_t rows, int64_t columns, int axis, enum fm_split split, enum fm_place place)
{
    fm_tensor_spec *const tensor = add(m, name, rows, columns, axis, place, place == FM_PLACE_LAYER ? 1 : -1);
    add_piece(tensor, tensor->shape[axis], split);
}

/* One tensor of every kind that a family could have; several more than any real one has. */
static void make_model(model *m, int H, int K, int D)
{
    *m = (model){.heads = {.n_heads = H, .n_kv_heads = K, .head_dim = D}};
    add_cut(m, "embedding", V, C, 0, FM_SPLIT_EVEN, FM_PLACE_EMBEDDING);
    add_cut(m, "head", V, C, 0, FM_SPLIT_EVEN, FM_PLACE_HEAD);
    add_cut(m, "tied", V, C, 0, FM_SPLIT_EVEN, FM_PLACE_TIED);
    add(m, "final_norm", C, 0, -1, FM_PLACE_HEAD, -1);
    add(m, "norm.0", C, 0, -1, FM_PLACE_LAYER, 0);
    add(m, "norm.2", C, 0, -1, FM_PLACE_LAYER, 2);
    add(m, "router", 2, C, -1, FM_PLACE_LAYER, 0);
    add_cut(m, "q", (int64_t)H * D, C, 0, FM_SPLIT_QUERY, FM_PLACE_LAYER);
    add_cut(m, "k", (int64_t)K * D, C, 0, FM_SPLIT_KV, FM_PLACE_LAYER);
    add_cut(m, "q_bias", (int64_t)H * D, 0, 0, FM_SPLIT_QUERY, FM_PLACE_LAYER);
    add_cut(m, "k_bias", (int64_t)K * D, 0, 0, FM_SPLIT_KV, FM_PLACE_LAYER);
    add_cut(m, "o", C, (int64_t)H * D, 1, FM_SPLIT_QUERY, FM_PLACE_LAYER);
    add_cut(m, "gate", F, C, 0, FM_SPLIT_EVEN, FM_PLACE_LAYER);
    add_cut(m, "down", C, F, 1, FM_SPLIT_EVEN, FM_PLACE_LAYER);
    for (int axis = 0; axis < 2; axis++) {
        const int64_t rows = (int64_t)(H + 2 * K) * D;
        fm_tensor_spec *const qkv = add(m, axis == 0 ? "qkv" : "qkv_transposed", axis == 0 ? rows : 3, axis == 0 ? 3 : rows, axis,
                                        FM_PLACE_LAYER, 1);
        add_piece(qkv, (int64_t)H * D, FM_SPLIT_QUERY);
        add_piece(qkv, (int64_t)K * D, FM_SPLIT_KV);
        add_piece(qkv, (int64_t)K * D, FM_SPLIT_KV);
    }
    fm_tensor_spec *const gate_up = add(m, "gate_up", 2 * F, 3, 0, FM_PLACE_LAYER, 1);
    add_piece(gate_up, F, FM_SPLIT_EVEN);
    add_piece(gate_up, F, FM_SPLIT_EVEN);
    fm_tensor_spec *const mixed = add(m, "mixed", F + 5, 2, 0, FM_PLACE_LAYER, 2);
    add_piece(mixed, F, FM_SPLIT_EVEN);
    add_piece(mixed, 5, FM_SPLIT_NONE);
}

/* Calls visit for every mesh of n ranks that the model can be laid on. Returns their number. */
static int for_each_mesh(int n, const model *m, void (*visit)(const fm_layout *layout))
{
    int visited = 0;
    for (int code = 0; code < n * n * n * n; code++) {
        int left = n, rest = code;
        fm_layout layout = {.heads = m->heads, .n_layers = N_LAYERS, .n_tensors = m->n_tensors, .tensors = m->tensors};
        for (int d = 0; d < FM_DIMS - 1 && left > 0; d++, rest /= n) {
            layout.mesh.size[d] = rest % n + 1;
            left = left % layout.mesh.size[d] == 0 ? left / layout.mesh.size[d] : 0;
        }
        layout.mesh.size[FM_TP] = left;
        int stage_of_layer[N_LAYERS];
        for (int i = 0; left > 0 && i < N_LAYERS; i++) {
            stage_of_layer[i] = i * layout.mesh.size[FM_PP] / N_LAYERS;
        }
        layout.stage_of_layer = stage_of_layer;
        if (left == 0 || fm_layout_check(&layout) != FM_OK) {
            continue;
        }
        visit(&layout);
        visited++;
    }
    return visited;
}

static void visit_all(void (*visit)(const fm_layout *layout))
{
    const fm_head_counts heads[] = {{9, 3, 2}, {12, 2, 1}, {24, 1, 3}, {7, 7, 2}, {15, 5, 1}};
    int meshes = 0;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        model m;
        make_model(&m, heads[i].n_heads, heads[i].n_kv_heads, heads[i].head_dim);
        for (int n = 1; n <= 16; n++) {
            meshes += for_each_mesh(n, &m, visit);
        }
        meshes += for_each_mesh(24, &m, visit);
    }
    assert_true(meshes > 1000);
}

/* Adds 1 to every element of a box in a row-major array of the given shape. */
static void mark(int *array, const int64_t *shape, const int64_t *start, const int64_t *count, int ndim)
{
    const int64_t columns = ndim == 2 ? shape[1] : 1, first = ndim == 2 ? start[1] : 0, n = ndim == 2 ? count[1] : 1;
    for (int64_t i = 0; i < count[0]; i++) {
        for (int64_t j = 0; j < n; j++) {
            assert_in_range(start[0] + i, 0, shape[0] - 1);
            assert_in_range(first + j, 0, columns - 1);
            array[(start[0] + i) * columns + first + j]++;
        }
    }
}

static void assert_all_ones(const int *array, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (array[i] != 1) {
            fail_msg("element %lld is there %d times", (long long)i, array[i]);
        }
    }
}

static void check_tiles(const fm_layout *layout)
{
    static int global[MAX_ELEMENTS * 4], local[MAX_ELEMENTS * 4];
    for (int t = 0; t < layout->n_tensors; t++) {
        const fm_tensor_spec *const tensor = &layout->tensors[t];
        const int64_t n = fm_tensor_elements(tensor);
        assert_true(n <= (int64_t)(sizeof global / sizeof *global));
        memset(global, 0, sizeof global);
        for (int rank = 0; rank < fm_mesh_ranks(&layout->mesh); rank++) {
            const fm_coord coord = fm_mesh_coord(&layout->mesh, rank);
            fm_slice slice;
            fm_layout_slice(&slice, layout, t, &coord);
            assert_true(slice.held || (slice.n_slabs == 0 && !slice.owner));
            const int64_t n_local = slice.local_shape[0] * (tensor->ndim == 2 ? slice.local_shape[1] : 1);
            memset(local, 0, sizeof local);
            bool any_owned = false;
            for (int i = 0; i < slice.n_slabs; i++) {
                const fm_slab *const slab = &slice.slabs[i];
                assert_true(fm_slab_elements(slab, tensor->ndim) > 0);
                mark(local, slice.local_shape, slab->local_start, slab->count, tensor->ndim);
                if (slab->owned) {
                    any_owned = true;
                    mark(global, tensor->shape, slab->start, slab->count, tensor->ndim);
                }
            }
            assert_all_ones(local, n_local);
            assert_int_equal(slice.owner, any_owned);
        }
        assert_all_ones(global, n);
    }
}

static void owned_slices_tile_every_tensor_once(void **state)
{
    visit_all(check_tiles);
}

static bool same_slabs(const fm_slice *a, const fm_slice *b)
{
    if (!a->held || !b->held || a->n_slabs != b->n_slabs) {
        return false;
    }
    for (int i = 0; i < a->n_slabs; i++) {
        if (memcmp(a->slabs[i].start, b->slabs[i].start, sizeof a->slabs[i].start) != 0 ||
            memcmp(a->slabs[i].count, b->slabs[i].count, sizeof a->slabs[i].count) != 0 ||
            memcmp(a->slabs[i].local_start, b->slabs[i].local_start, sizeof a->slabs[i].local_start) != 0) {
            return false;
        }
    }
    return true;
}

/* The replicas of a slice are as many as it says, and the one with the lowest rank owns it. (The lowest coordinate in every
 * replicating dimension is the lowest rank: ranks are row-major.) */
static void check_replicas(const fm_layout *layout)
{
    static fm_slice slices[MAX_RANKS];
    const int n_ranks = fm_mesh_ranks(&layout->mesh);
    for (int t = 0; t < layout->n_tensors; t++) {
        if (layout->tensors[t].n_pieces > 1) {
            continue;
        }
        for (int rank = 0; rank < n_ranks; rank++) {
            const fm_coord coord = fm_mesh_coord(&layout->mesh, rank);
            fm_layout_slice(&slices[rank], layout, t, &coord);
        }
        for (int rank = 0; rank < n_ranks; rank++) {
            int replicas = 0, lowest = -1;
            for (int other = n_ranks - 1; other >= 0; other--) {
                if (same_slabs(&slices[rank], &slices[other])) {
                    replicas++;
                    lowest = other;
                }
            }
            if (slices[rank].n_slabs > 0) {
                assert_int_equal(slices[rank].n_replicas, replicas);
                assert_int_equal(slices[rank].owner, lowest == rank);
            }
        }
    }
}

static void replicas_are_counted_and_the_lowest_owns(void **state)
{
    visit_all(check_replicas);
}

/* The FSDP chunks of a tp rank are torch.chunk of its gathered rows: full chunks of ceil(n / parts), then the rest, then nothing. */
static void check_chunks(const fm_layout *layout)
{
    const int parts = fm_mesh_fsdp_size(&layout->mesh);
    for (int t = 0; t < layout->n_tensors; t++) {
        for (int rank = 0; rank < fm_mesh_ranks(&layout->mesh); rank++) {
            const fm_coord coord = fm_mesh_coord(&layout->mesh, rank);
            fm_slice slice;
            fm_layout_slice(&slice, layout, t, &coord);
            if (!slice.held) {
                continue;
            }
            int64_t left = slice.tp_shape[0], chunk = 0;
            while (chunk * parts < left) {
                chunk++;
            }
            assert_int_equal(slice.chunk_rows, chunk);
            for (int i = 0; i < fm_mesh_fsdp_index(&layout->mesh, &coord); i++) {
                left -= left < chunk ? left : chunk;
            }
            assert_int_equal(slice.local_shape[0], left < chunk ? left : chunk);
            if (layout->tensors[t].ndim == 2) {
                assert_int_equal(slice.local_shape[1], slice.tp_shape[1]);
            }
        }
    }
}

static void fsdp_rows_are_torch_chunks(void **state)
{
    visit_all(check_chunks);
}

static void places_are_stages(void **state)
{
    model m;
    make_model(&m, 9, 3, 2);
    const int stage_of_layer[N_LAYERS] = {0, 1, 1};
    const fm_layout layout = {.mesh = {{3, 1, 1, 1, 1}}, .heads = m.heads, .n_layers = N_LAYERS, .n_tensors = m.n_tensors,
                              .tensors = m.tensors, .stage_of_layer = stage_of_layer};
    const struct {
        const char *name;
        const char *held, *owned;      /* by stages 0, 1, 2 */
    } rows[] = {
        {"embedding", "100", "100"}, {"head", "001", "001"}, {"final_norm", "001", "001"}, {"tied", "101", "100"},
        {"norm.0", "100", "100"}, {"q", "010", "010"}, {"norm.2", "010", "010"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (int stage = 0; stage < 3; stage++) {
            fm_slice slice;
            fm_layout_slice(&slice, &layout, fm_layout_find(&layout, rows[i].name), &(fm_coord){{stage}});
            assert_int_equal(slice.held, rows[i].held[stage] == '1');
            assert_int_equal(slice.owner, rows[i].owned[stage] == '1');
        }
    }
    assert_int_equal(fm_layout_find(&layout, "nothing"), -1);
}

/* Every rank has query heads, exactly one rank has each of them, and their key/value heads are there. */
static void heads_stay_with_their_groups(void **state)
{
    const fm_head_counts models[] = {{9, 3, 8}, {12, 2, 8}, {24, 1, 8}, {7, 7, 8}, {15, 5, 8}, {1, 1, 8}, {64, 8, 8}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        const fm_head_counts *const heads = &models[i];
        for (int size = 1; size <= heads->n_heads; size++) {
            int64_t next = 0;
            for (int rank = 0; rank < size; rank++) {
                fm_range query, kv;
                fm_split_heads(&query, &kv, heads, size, rank);
                assert_true(query.start == next && query.count > 0 && kv.count > 0);
                next += query.count;
                const int group = heads->n_heads / heads->n_kv_heads;
                assert_int_equal(kv.start, query.start / group);
                assert_int_equal(kv.start + kv.count - 1, (next - 1) / group);
                assert_true(size <= heads->n_kv_heads || kv.count == 1);
                for (int other = 0; other < size; other++) {
                    fm_range other_query, other_kv;
                    fm_split_heads(&other_query, &other_kv, heads, size, other);
                    const fm_range run = fm_kv_replicas(heads, size, rank);
                    const bool in_run = other >= run.start && other < run.start + run.count;
                    assert_int_equal(in_run, other_kv.start == kv.start);
                }
            }
            assert_int_equal(next, heads->n_heads);
        }
    }
}

/* numpy.array_split(range(n), parts), written down. */
static void even_splits_are_array_split(void **state)
{
    const int64_t sizes[3][5] = {{3, 3, 2, 2, 2}, {1, 1, 0, 0, 0}, {27, 26, 26, 26, 26}};
    const int64_t n[3] = {12, 2, 131};
    for (int i = 0; i < 3; i++) {
        int64_t start = 0;
        for (int part = 0; part < 5; part++) {
            const fm_range range = fm_split_even(n[i], 5, part);
            assert_int_equal(range.start, start);
            assert_int_equal(range.count, sizes[i][part]);
            start += range.count;
        }
    }
    /* 5 ranks over 3 key/value heads of 3 queries: runs of 2, 2 and 1 ranks */
    const int64_t queries[5] = {2, 1, 2, 1, 3}, kv_heads[5] = {0, 0, 1, 1, 2};
    for (int rank = 0; rank < 5; rank++) {
        fm_range query, kv;
        fm_split_heads(&query, &kv, &(fm_head_counts){9, 3, 8}, 5, rank);
        assert_int_equal(query.count, queries[rank]);
        assert_int_equal(kv.start, kv_heads[rank]);
    }
}

static void what_cannot_be_laid_out_is_refused(void **state)
{
    model m;
    make_model(&m, 9, 3, 2);
    fm_layout layout = {.mesh = {{1, 1, 1, 1, 10}}, .heads = m.heads, .n_layers = N_LAYERS, .n_tensors = m.n_tensors, .tensors = m.tensors};
    assert_int_equal(fm_layout_check(&layout), FM_ERR_JOB);
    assert_string_equal(fm_error_message(), "tp_size is 10, but the model has 9 query heads: tp_size at most 9 fits");
    layout.mesh = (fm_mesh_shape){{4, 1, 1, 1, 1}};
    assert_int_equal(fm_layout_check(&layout), FM_ERR_JOB);
    assert_string_equal(fm_error_message(), "pp_size is 4, but the model has 3 layers: pp_size at most 3 fits");
    layout.mesh = (fm_mesh_shape){{1, 1, 1, 1, 9}};
    assert_int_equal(fm_layout_check(&layout), FM_OK);
    fm_tensor_spec *const gate = &m.tensors[fm_layout_find(&layout, "gate")];
    gate->shape[0] = gate->pieces[0].count = 8;
    assert_int_equal(fm_layout_check(&layout), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "tp_size is 9, but gate has only 8"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owned_slices_tile_every_tensor_once),
        cmocka_unit_test(replicas_are_counted_and_the_lowest_owns),
        cmocka_unit_test(fsdp_rows_are_torch_chunks),
        cmocka_unit_test(places_are_stages),
        cmocka_unit_test(heads_stay_with_their_groups),
        cmocka_unit_test(even_splits_are_array_split),
        cmocka_unit_test(what_cannot_be_laid_out_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
