#include "ckpt/load.h"

#include <stdio.h>

#include "base/memory.h"
#include "base/random.h"

static int64_t local_elements(const fm_slice *slice)
{
    return slice->local_shape[0] * (slice->ndim > 1 ? slice->local_shape[1] : 1);
}

/* Host memory that one tensor after the other is read into: a new block each would be made of new pages each time. */
typedef struct {
    void *data;
    size_t size_bytes;
} room;

static int make_room(room *r, int64_t elements, size_t element_bytes)
{
    const size_t size_bytes = (size_t)elements * element_bytes;
    if (r->data != NULL && size_bytes <= r->size_bytes) {
        return FM_OK;
    }
    fm_free(r->data);
    r->data = fm_alloc_array(elements, element_bytes, FM_MEMORY_HOST);
    r->size_bytes = size_bytes;
    return r->data == NULL ? FM_ERR_MEMORY : FM_OK;
}

/* The source's tensor of a parameter; negative: an error. */
static int find_tensor(const fm_model *model, int p, const fm_source *source, const char *group)
{
    char name[FM_NAME_BYTES + 16];
    snprintf(name, sizeof name, "%s%s", group, model->tensors[model->params[p].tensor].name);
    const int tensor = fm_source_find(source, name);
    return tensor >= 0 ? tensor : fm_fail(FM_ERR_FORMAT, "tensor %s is not there: this is no checkpoint of this model", name);
}

static fm_comm *tp_of(const fm_model *model)
{
    return fm_groups_get(model->groups, FM_GROUP_TP);
}

/* This rank's slice of a tensor of the source, in the source's dtype: straight into `to` where that is host memory of the same dtype,
 * else into the room. *data: where. Collective on tp, as ranks may read for each other: they agree before and after. */
static int read_param(void **data, const fm_model *model, int p, fm_source *source, int tensor, void *to, enum fm_dtype to_dtype,
                      room *r)
{
    const fm_param *const param = &model->params[p];
    const enum fm_dtype dtype = fm_source_get(source, tensor)->dtype;
    const bool straight = to != NULL && dtype == to_dtype && model->compute->device->table->is_host;
    FM_TRY(fm_comm_agree(tp_of(model), straight ? FM_OK : make_room(r, local_elements(&param->slice), fm_dtype_bytes(dtype))));
    *data = straight ? to : r->data;
    return fm_comm_agree(tp_of(model), fm_source_read_slice(source, *data, tensor, &model->layout, param->tensor, &model->coord,
                                                            tp_of(model)));
}

static int load_weight(fm_model *model, int p, fm_source *source, const char *group, room *r)
{
    const fm_param_view view = fm_model_param(model, p);
    const int tensor = find_tensor(model, p, source, group);
    FM_TRY(tensor);
    const enum fm_dtype dtype = fm_source_get(source, tensor)->dtype;
    const bool is_own = dtype == model->setup.dtype;
    void *data;
    FM_TRY(read_param(&data, model, p, source, tensor, is_own ? view.weight : view.master,
                      is_own ? model->setup.dtype : model->setup.master_dtype, r));
    return fm_model_set_param(model, p, data, dtype);
}

int fm_load_model(fm_model *model, fm_source *source)
{
    room r = { .data = NULL };
    int rc = FM_OK;
    for (int p = 0; p < model->n_params && rc == FM_OK; p++) {
        rc = fm_comm_agree(tp_of(model), load_weight(model, p, source, "", &r));
    }
    fm_free(r.data);
    return rc;
}

static int load_moment(fm_model *model, int p, void *to, int64_t elements, fm_source *source, const char *group, room *r)
{
    const int tensor = find_tensor(model, p, source, group);
    FM_TRY(tensor);
    const enum fm_dtype dtype = fm_source_get(source, tensor)->dtype, wanted = model->setup.state_dtype;
    void *data, *converted = NULL;
    FM_TRY(read_param(&data, model, p, source, tensor, to, wanted, r));
    if (dtype != wanted) {
        converted = fm_alloc_array(elements, fm_dtype_bytes(wanted), FM_MEMORY_HOST);
        if (converted == NULL) {
            return FM_ERR_MEMORY;
        }
        fm_dtype_convert(converted, wanted, data, dtype, elements);
    }
    const int rc = fm_device_copy_in(model->compute->device, to, converted != NULL ? converted : data,
                                     (size_t)elements * fm_dtype_bytes(wanted));
    fm_free(converted);
    return rc;
}

/* What is read of a parameter, in this order. */
static const char *const state_groups[] = { "", "exp_avg/", "exp_avg_sq/" };
enum { N_STATE_GROUPS = sizeof state_groups / sizeof state_groups[0] };

/* Weights are the masters rounded, so that the masters say it all where there are some. */
static const char *weight_group(const fm_model *model, int p, const fm_source *source)
{
    char master[FM_NAME_BYTES + 16];
    snprintf(master, sizeof master, "master/%s", model->tensors[model->params[p].tensor].name);
    return fm_source_find(source, master) >= 0 ? "master/" : "";
}

/* Lets the disk go ahead with the next parameter while this one is worked on. */
static void expect_param(const fm_model *model, int p, fm_source *source)
{
    for (int g = 0; p < model->n_params && g < N_STATE_GROUPS; g++) {
        const int tensor = find_tensor(model, p, source, g == 0 ? weight_group(model, p, source) : state_groups[g]);
        if (tensor >= 0) {
            fm_source_expect(source, tensor, &model->layout, model->params[p].tensor, &model->coord);
        }
    }
}

static int load_all(fm_model *model, int p, fm_source *source, room *r)
{
    const fm_param_view view = fm_model_param(model, p);
    expect_param(model, p + 1, source);
    FM_TRY(fm_comm_agree(tp_of(model), load_weight(model, p, source, weight_group(model, p, source), r)));
    FM_TRY(fm_comm_agree(tp_of(model), load_moment(model, p, view.exp_avg, view.elements, source, state_groups[1], r)));
    return fm_comm_agree(tp_of(model), load_moment(model, p, view.exp_avg_sq, view.elements, source, state_groups[2], r));
}

int fm_load_states(fm_model *model, fm_source *source)
{
    room r = { .data = NULL };
    int rc = FM_OK;
    for (int p = 0; p < model->n_params && rc == FM_OK; p++) {
        rc = load_all(model, p, source, &r);
    }
    fm_free(r.data);
    return rc;
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
        if (!is_vector && !is_padding) {
            fm_random_normals(to, model->config.initializer_range, seed, stream, (uint64_t)(row * columns + first_column), width);
        }
        for (int64_t c = 0; c < width && (is_vector || is_padding); c++) {
            to[c] = is_vector && !is_bias ? 1.0f : 0.0f;
        }
    }
}

int fm_load_random(fm_model *model, uint64_t seed)
{
    room r = { .data = NULL };
    int rc = FM_OK;
    for (int p = 0; p < model->n_params && rc == FM_OK; p++) {
        const fm_slice *const slice = &model->params[p].slice;
        rc = make_room(&r, local_elements(slice), sizeof(float));
        for (int s = 0; s < slice->n_slabs && rc == FM_OK; s++) {
            fill_slab(r.data, slice, &slice->slabs[s], model, &model->tensors[model->params[p].tensor], seed);
        }
        if (rc == FM_OK) {
            rc = fm_model_set_param(model, p, r.data, FM_F32);
        }
    }
    fm_free(r.data);
    return rc;
}
