#include "ckpt/load.h"

#include "base/memory.h"
#include "base/random.h"

static int64_t local_elements(const fm_slice *slice)
{
    return slice->local_shape[0] * (slice->ndim > 1 ? slice->local_shape[1] : 1);
}

int fm_load_model(fm_model *model, fm_source *source)
{
    fm_comm *const tp = fm_groups_get(model->groups, FM_GROUP_TP);
    for (int p = 0; p < model->n_params; p++) {
        const fm_param *const param = &model->params[p];
        const fm_tensor_spec *const spec = &model->tensors[param->tensor];
        void *const local = fm_alloc_array(local_elements(&param->slice), fm_dtype_bytes(spec->dtype), FM_MEMORY_HOST);
        int rc = local == NULL ? FM_ERR_MEMORY : FM_OK;
        if (rc == FM_OK) {
            rc = fm_source_read_slice(source, local, fm_source_find(source, spec->name), &model->layout, param->tensor, &model->coord, tp);
        }
        if (rc == FM_OK) {
            rc = fm_model_set_param(model, p, local, spec->dtype);
        }
        fm_free(local);
        FM_TRY(rc);
    }
    return FM_OK;
}

/* Numbers of a hyperslab, in the local array. */
static void fill_slab(float *local, const fm_slice *slice, const fm_slab *slab, const fm_model *model, const fm_tensor_spec *spec,
                      uint64_t seed)
{
    const uint64_t stream = fm_random_stream(spec->name);
    const int64_t columns = spec->ndim > 1 ? spec->shape[1] : 1, local_columns = spec->ndim > 1 ? slice->local_shape[1] : 1;
    const int64_t width = spec->ndim > 1 ? slab->count[1] : 1, first_column = spec->ndim > 1 ? slab->start[1] : 0;
    const int64_t local_first = spec->ndim > 1 ? slab->local_start[1] : 0;
    const bool is_vector = spec->ndim == 1;
    const bool is_bias = is_vector && (spec->role == FM_ROLE_Q_BIAS || spec->role == FM_ROLE_K_BIAS || spec->role == FM_ROLE_V_BIAS
                         || spec->role == FM_ROLE_O_BIAS || spec->role == FM_ROLE_GATE_BIAS || spec->role == FM_ROLE_UP_BIAS
                         || spec->role == FM_ROLE_DOWN_BIAS);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < slab->count[0]; r++) {
        const int64_t row = slab->start[0] + r;
        const bool is_padding = spec->role == FM_ROLE_EMBEDDING && row == model->config.pad_token;
        float *const to = local + (slab->local_start[0] + r) * local_columns + local_first;
        for (int64_t c = 0; c < width; c++) {
            const uint64_t element = (uint64_t)(row * columns + first_column + c);
            to[c] = is_vector ? (is_bias ? 0.0f : 1.0f)
                  : is_padding ? 0.0f : (float)(model->config.initializer_range * fm_random_normal(seed, stream, element));
        }
    }
}

int fm_load_random(fm_model *model, uint64_t seed)
{
    for (int p = 0; p < model->n_params; p++) {
        const fm_slice *const slice = &model->params[p].slice;
        float *const local = fm_alloc_array(local_elements(slice), sizeof *local, FM_MEMORY_HOST);
        if (local == NULL) {
            return FM_ERR_MEMORY;
        }
        for (int s = 0; s < slice->n_slabs; s++) {
            fill_slab(local, slice, &slice->slabs[s], model, &model->tensors[model->params[p].tensor], seed);
        }
        const int rc = fm_model_set_param(model, p, local, FM_F32);
        fm_free(local);
        FM_TRY(rc);
    }
    return FM_OK;
}
