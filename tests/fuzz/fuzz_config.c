/* config.json: dimensions, rope, windows, tensor names, the plan for tp, and slices of every tensor on a few meshes. */
#include <math.h>
#include <string.h>

#include <jansson.h>

#include "base/json.h"
#include "base/memory.h"
#include "fuzz.h"
#include "model/config.h"
#include "model/tp_plan.h"

/* The frequencies of rows of these lengths: numbers, whatever they are. */
static void check_rope(const fm_config *config)
{
    const int64_t lengths[] = { 1, 17, config->max_positions, 2 * config->max_positions };
    double *const frequencies = fm_alloc_array(config->rope.rotary_dim, sizeof *frequencies, FM_MEMORY_HOST), scale;
    FUZZ_CHECK(frequencies != NULL && config->rope.rotary_dim <= config->D);
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        fm_rope_frequencies(frequencies, &scale, config, lengths[i]);
        FUZZ_CHECK(isfinite(scale));
        for (int j = 0; j < config->rope.rotary_dim / 2; j++) {
            FUZZ_CHECK(isfinite(frequencies[j]));
        }
    }
    fm_free(frequencies);
}

/* The ranks of a mesh hold each element of each tensor at least once. A few tensors tell: layers are alike. */
static void check_slices(const fm_layout *layout)
{
    enum { FEW = 16 };
    for (int t = 0; t < layout->n_tensors && t < FEW; t++) {
        int64_t held = 0;
        for (int tp = 0; tp < layout->mesh.size[FM_TP]; tp++) {
            for (int shard = 0; shard < layout->mesh.size[FM_DP_SHARD]; shard++) {
                fm_coord coord = { { 0 } };
                fm_slice slice;
                coord.at[FM_TP] = tp;
                coord.at[FM_DP_SHARD] = shard;
                fm_layout_slice(&slice, layout, t, &coord);
                for (int s = 0; s < slice.n_slabs; s++) {
                    held += slice.slabs[s].owned ? fm_slab_elements(&slice.slabs[s], slice.ndim) : 0;
                }
            }
        }
        FUZZ_CHECK(held == fm_tensor_elements(&layout->tensors[t]));
    }
}

static void check_tensors(const fm_config *config, const json_t *object)
{
    fm_tensor_spec *tensors;
    fm_tp_plan plan;
    int n;
    FUZZ_CHECK(fm_config_tensors(&tensors, &n, config) == FM_OK);
    FUZZ_CHECK(fm_config_parameters(config) > 0);
    const fm_mesh_shape meshes[] = { { { 1, 1, 1, 1, 1 } }, { { 1, 1, 3, 1, 2 } }, { { 1, 1, 2, 1, 7 } } };
    fm_layout layout = { .heads = { config->H, config->K, config->D }, .n_layers = config->L, .n_tensors = n, .tensors = tensors };
    for (size_t m = 0; m < sizeof meshes / sizeof meshes[0]; m++) {
        layout.mesh = meshes[m];
        if (fuzz_result(fm_layout_check(&layout)) == FM_OK) {
            check_slices(&layout);
        }
    }
    if (fuzz_result(fm_tp_plan_resolve(&plan, config, object, "FILE")) == FM_OK) {
        fm_tp_plan_apply(tensors, n, &plan);
    }
    fm_free(tensors);
}

void fuzz_begin(void)
{
}

void fuzz_one(const char *data, size_t size_bytes)
{
    json_t *object;
    fm_config config;
    if (fuzz_result(fm_json_parse(&object, data, size_bytes, "FILE")) < 0) {
        return;
    }
    if (fuzz_result(fm_config_parse(&config, object, "FILE")) == FM_OK) {
        FUZZ_CHECK(config.C > 0 && config.F > 0 && config.V > 0 && config.L > 0 && config.H > 0 && config.K > 0 && config.D > 0);
        FUZZ_CHECK(config.pad_token < config.V && config.eos_token < config.V && config.bos_token < config.V);
        check_rope(&config);
        check_tensors(&config, object);
        fm_config_clear(&config);
    }
    json_decref(object);
}
