/* Sizes -> mesh -> coordinates, and what a person is told when the sizes do not fit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "finemesh/mesh.h"

static void sizes_become_shapes(void **state)
{
    const struct {
        fm_mesh_sizes sizes;
        int n_ranks;
        fm_mesh_shape shape;
    } rows[] = {
        {{.dp_size = 0}, 1, {{1, 1, 1, 1, 1}}},
        {{.dp_size = 0}, 6, {{1, 1, 6, 1, 1}}},
        {{.tp_size = 2}, 8, {{1, 1, 4, 1, 2}}},
        {{.tp_size = 3, .cp_size = 2, .pp_size = 2}, 24, {{2, 1, 2, 2, 3}}},
        {{.dp_size = 4, .dp_replicate_size = 2, .tp_size = 2}, 8, {{1, 2, 2, 1, 2}}},
        {{.dp_replicate_size = 6, .cp_size = 1, .ep_size = 1}, 6, {{1, 6, 1, 1, 1}}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_mesh_shape shape;
        assert_int_equal(fm_mesh_from_sizes(&shape, &rows[i].sizes, rows[i].n_ranks), FM_OK);
        assert_memory_equal(&shape, &rows[i].shape, sizeof shape);
        assert_int_equal(fm_mesh_check(&shape, rows[i].n_ranks), FM_OK);
        assert_int_equal(fm_mesh_ranks(&shape), rows[i].n_ranks);
    }
}

static void what_does_not_fit_is_explained(void **state)
{
    const struct {
        fm_mesh_sizes sizes;
        int n_ranks, code;
        const char *message;
    } rows[] = {
        {{.cp_size = 2, .tp_size = 3}, 8, FM_ERR_JOB,
         "8 ranks = pp 1 x dp ? x cp 2 x tp 3: 6 does not divide 8. The nearest that do: tp_size 2 or 4; ranks 6 or 12"},
        {{.tp_size = 16}, 8, FM_ERR_JOB,
         "8 ranks = pp 1 x dp ? x cp 1 x tp 16: 16 does not divide 8. The nearest that do: tp_size 8; ranks 16"},
        {{.tp_size = 3, .cp_size = 3}, 8, FM_ERR_JOB,
         "8 ranks = pp 1 x dp ? x cp 3 x tp 3: 9 does not divide 8. The nearest that do: ranks 9"},
        {{.dp_size = 3, .cp_size = 2}, 8, FM_ERR_JOB,
         "8 ranks = pp 1 x dp 3 x cp 2 x tp 1: the product is 6. What fits: dp_size 4 (or 0: what is left of the ranks); ranks 6"},
        {{.dp_size = 4, .dp_replicate_size = 3, .tp_size = 2}, 8, FM_ERR_JOB,
         "8 ranks = pp 1 x dp 4 x cp 1 x tp 2: dp_replicate_size 3 does not divide dp 4. "
         "The nearest that do: dp_replicate_size 2 or 4"},
        {{.tp_size = -2}, 8, FM_ERR_JOB, "tp_size is -2: a number from 1 to 8 ranks was expected"},
        {{.tp_size = 1}, 0, FM_ERR_JOB, "a mesh of 0 ranks: at least 1 is needed"},
        {{.ep_size = 2}, 8, FM_ERR_UNSUPPORTED, "ep_size is 2: expert parallelism is not there; 1 is the only size"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_mesh_shape shape;
        assert_int_equal(fm_mesh_from_sizes(&shape, &rows[i].sizes, rows[i].n_ranks), rows[i].code);
        assert_string_equal(fm_error_message(), rows[i].message);
    }
    const int huge = 2147483647;
    const fm_mesh_sizes overflow = {.tp_size = huge, .cp_size = huge, .pp_size = huge, .dp_size = huge};
    fm_mesh_shape shape;
    assert_int_equal(fm_mesh_from_sizes(&shape, &overflow, 8), FM_ERR_JOB);
    assert_int_equal(fm_mesh_from_sizes(&shape, &(fm_mesh_sizes){.tp_size = huge, .cp_size = huge, .pp_size = huge}, 8), FM_ERR_JOB);
}

static void explicit_meshes_are_checked(void **state)
{
    assert_int_equal(fm_mesh_check(&(fm_mesh_shape){{1, 2, 2, 1, 2}}, 8), FM_OK);
    assert_int_equal(fm_mesh_check(&(fm_mesh_shape){{1, 2, 2, 1, 2}}, 6), FM_ERR_JOB);
    assert_non_null(strstr(fm_error_message(), "pp 1 x dp_replicate 2 x dp_shard 2 x cp 1 x tp 2 has 8 ranks, but there are 6"));
    assert_int_equal(fm_mesh_check(&(fm_mesh_shape){{1, 2, 2, 0, 2}}, 8), FM_ERR_JOB);
    assert_string_equal(fm_error_message(), "mesh dimension cp is 0: at least 1 was expected");
    const int huge = 2147483647;
    assert_int_equal(fm_mesh_check(&(fm_mesh_shape){{huge, huge, huge, huge, huge}}, 8), FM_ERR_JOB);
}

static void coordinates_are_row_major(void **state)
{
    const fm_mesh_shape shape = {{2, 3, 2, 4, 5}};
    fm_coord walk = {{0}};
    for (int rank = 0; rank < fm_mesh_ranks(&shape); rank++) {
        const fm_coord coord = fm_mesh_coord(&shape, rank);
        assert_memory_equal(&coord, &walk, sizeof coord);
        assert_int_equal(fm_mesh_rank(&shape, &coord), rank);
        assert_int_equal(fm_mesh_fsdp_index(&shape, &coord), coord.at[FM_DP_SHARD] * 4 + coord.at[FM_CP]);
        assert_int_equal(fm_mesh_dp_index(&shape, &coord), coord.at[FM_DP_REPLICATE] * 2 + coord.at[FM_DP_SHARD]);
        for (int d = FM_DIMS - 1; d >= 0 && ++walk.at[d] == shape.size[d]; d--) {
            walk.at[d] = 0;
        }
    }
    assert_int_equal(fm_mesh_fsdp_size(&shape), 8);
    assert_int_equal(fm_mesh_dp_size(&shape), 6);
    assert_string_equal(fm_dim_name(FM_DP_REPLICATE), "dp_replicate");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_become_shapes),
        cmocka_unit_test(what_does_not_fit_is_explained),
        cmocka_unit_test(explicit_meshes_are_checked),
        cmocka_unit_test(coordinates_are_row_major),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
