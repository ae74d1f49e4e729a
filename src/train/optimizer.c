#include "train/optimizer.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "ops/rows.h"

void fm_optimizer_begin(fm_model *model)
{
    for (int u = 0; u < model->n_units; u++) {
        model->units[u].gradient_is_fresh = true;
    }
}

static fm_comm *group_of(const fm_model *model, enum fm_param_sum sum)
{
    switch (sum) {
    case FM_SUM_TP: return fm_groups_device(model->groups, FM_GROUP_TP);
    case FM_SUM_KV_REPLICAS: return fm_groups_device(model->groups, FM_GROUP_KV_REPLICAS);
    case FM_SUM_ENDS: return fm_groups_device(model->groups, FM_GROUP_ENDS);
    default: return NULL;
    }
}

/* A unit's gradient summed over dp_replicate, in the dtype of sums between ranks. */
static int sum_over_replicas(fm_model *model, fm_fsdp_unit *unit)
{
    fm_comm *const replicas = fm_groups_device(model->groups, FM_GROUP_DP_REPLICATE);
    fm_device *const device = model->compute->device;
    const enum fm_dtype dtype = model->setup.reduce_dtype;
    const int64_t n = unit->shard_elements;
    if (replicas == NULL || dtype == FM_F32) {
        return fm_comm_all_reduce(replicas, unit->gradient, n, FM_F32, FM_SUM);
    }
    void *const narrow = fm_device_alloc(device, (size_t)n * fm_dtype_bytes(dtype), FM_MEMORY_WORKSPACE);
    int rc = narrow == NULL ? FM_ERR_MEMORY : device->table->convert(device, narrow, dtype, unit->gradient, FM_F32, n);
    if (rc == FM_OK) {
        rc = fm_comm_all_reduce(replicas, narrow, n, dtype, FM_SUM);
    }
    if (rc == FM_OK) {
        rc = device->table->convert(device, unit->gradient, FM_F32, narrow, dtype, n);
    }
    fm_device_free(device, narrow);
    return rc;
}

int fm_optimizer_finish_gradients(fm_model *model, double loss_scale)
{
    FM_TRY(fm_fsdp_gradient_finish(model->fsdp));
    for (int p = 0; p < model->n_params; p++) {
        fm_comm *const group = group_of(model, model->params[p].sum);
        const fm_param_view view = fm_model_param(model, p);
        FM_TRY(fm_comm_all_reduce(group, view.gradient, view.elements, FM_F32, FM_SUM));
    }
    for (int u = 0; u < model->n_units; u++) {
        fm_fsdp_unit *const unit = &model->units[u];
        FM_TRY(sum_over_replicas(model, unit));
        if (loss_scale != 1.0) {
            FM_TRY(model->compute->ops->scale(model->compute, unit->gradient, (float)(1.0 / loss_scale), unit->shard_elements));
        }
    }
    return FM_OK;
}

/* squares [n_params] = each gradient's sum of squares on this rank. */
static int squares_of_all(double *squares, fm_model *model)
{
    fm_span *const spans = fm_alloc_array(model->n_params, sizeof *spans, FM_MEMORY_HOST);
    if (spans == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int p = 0; p < model->n_params; p++) {
        const fm_param_view view = fm_model_param(model, p);
        spans[p] = (fm_span){ view.gradient, view.elements };
    }
    int rc = model->compute->ops->sum_squares(model->compute, model->squares, spans, model->n_params);
    if (rc == FM_OK) {
        rc = fm_device_copy_out(model->compute->device, squares, model->squares, (size_t)model->n_params * sizeof *squares);
    }
    fm_free(spans);
    return rc;
}

int fm_optimizer_norm(double *norm, fm_model *model)
{
    double sum = 0.0;
    double *const squares = fm_alloc_array(model->n_params, sizeof *squares, FM_MEMORY_HOST);
    int rc = squares == NULL ? FM_ERR_MEMORY : squares_of_all(squares, model);
    for (int p = 0; p < model->n_params && rc == FM_OK; p++) {
        if (!isfinite(squares[p])) {
            rc = fm_fail(FM_ERR_NUMERIC, "the gradient of %s is infinite or NaN", model->tensors[model->params[p].tensor].name);
        }
        sum += model->params[p].slice.owner ? squares[p] : 0.0;
    }
    fm_free(squares);
    fm_comm *const world = fm_groups_get(model->groups, FM_GROUP_WORLD);
    FM_TRY(fm_comm_agree(world, rc));
    FM_TRY(fm_comm_all_reduce(world, &sum, 1, FM_F64, FM_SUM));
    *norm = sqrt(sum);
    return FM_OK;
}

bool fm_optimizer_decays(const fm_optimizer_options *options, const char *name)
{
    const char *at = options->no_decay == NULL ? "" : options->no_decay;
    while (*at != '\0') {
        const size_t length = strcspn(at, ",");
        char pattern[256];
        snprintf(pattern, sizeof pattern, "%.*s", (int)length, at);
        if (fnmatch(pattern, name, 0) == 0) {
            return false;
        }
        at += length + (at[length] == ',');
    }
    return true;
}

int fm_optimizer_update(fm_optimizer *optimizer, fm_model *model, double lr, double norm)
{
    const fm_optimizer_options *const o = optimizer->options;
    const double t = (double)++optimizer->updates;
    const double scale = o->clip_grad_norm > 0 && o->clip_grad_norm < norm + 1e-6 ? o->clip_grad_norm / (norm + 1e-6) : 1.0;
    const fm_adamw_args args = {
        .lr = (float)lr, .beta1 = (float)o->beta1, .beta2 = (float)o->beta2, .eps = (float)o->eps, .gradient_scale = (float)scale,
        .correction1 = 1.0 - pow(o->beta1, t), .correction2 = 1.0 - pow(o->beta2, t),
    };
    fm_adamw_part *const parts = fm_alloc_array(model->n_params, sizeof *parts, FM_MEMORY_HOST);
    if (parts == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int p = 0; p < model->n_params; p++) {
        const fm_param_view v = fm_model_param(model, p);
        const bool copies = v.master != NULL, decays = fm_optimizer_decays(o, model->tensors[model->params[p].tensor].name);
        parts[p] = (fm_adamw_part){
            .master = copies ? v.master : v.weight, .weight = copies ? v.weight : NULL, .m = v.exp_avg, .v = v.exp_avg_sq,
            .gradient = v.gradient, .n = v.elements, .weight_decay = decays ? (float)o->weight_decay : 0.0f,
        };
    }
    const int rc = model->compute->ops->adamw(model->compute, parts, model->n_params, model->setup.master_dtype, model->setup.dtype,
                                              model->setup.state_dtype, &args);
    fm_free(parts);
    return rc;
}
