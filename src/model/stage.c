/* Running one stage: its blocks in order, with the next unit gathered while one is at work. */
#include "model/ends.h"
#include "model/model.h"
#include "ops/rows.h"

/* Points a block's weights and gradients by role into the gathered unit. gradient NULL: none. */
static void bind_weights(fm_block_weights *out, const fm_model *m, int u, void *weights, float *gradient, bool fresh)
{
    *out = (fm_block_weights){ .fresh = fresh };
    for (int p = 0; p < m->n_params; p++) {
        const fm_param *const param = &m->params[p];
        if (param->unit != u) {
            continue;
        }
        const int64_t at = m->units[u].tensors[param->index].gathered_at;
        out->weight[param->role] = fm_at(weights, m->setup.dtype, at);
        out->gradient[param->role] = gradient == NULL ? NULL : gradient + at;
    }
}

static int unit_of(const fm_model *m, const fm_chunk *chunk, int i)
{
    return i >= 0 && i < chunk->n_layers ? m->unit_of_layer[chunk->first_layer + i] : -1;
}

int fm_stage_forward(fm_model *m, const fm_chunk *chunk, fm_slot *slot, float scale)
{
    FM_TRY(fm_model_select(m, slot));
    if (chunk->has_embedding) {
        FM_TRY(fm_embedding_forward(m, slot));
    }
    for (int i = 0; i < chunk->n_layers; i++) {
        const int u = unit_of(m, chunk, i);
        void *weights;
        fm_block_weights w;
        FM_TRY(fm_fsdp_acquire(m->fsdp, u, &weights));
        FM_TRY(fm_fsdp_prefetch(m->fsdp, unit_of(m, chunk, i + 1)));
        bind_weights(&w, m, u, weights, NULL, false);
        void *const x_out = i + 1 < chunk->n_layers ? slot->blocks[i + 1].x : slot->out;
        FM_TRY(fm_block_forward(&m->block, x_out, &slot->blocks[i], &w, m->config.window[chunk->first_layer + i]));
        fm_fsdp_release(m->fsdp, u);
    }
    return chunk->has_head ? fm_head_forward(m, slot, chunk->n_layers, scale) : FM_OK;
}

/* The weight part of one block; its gradients leave for their shards. */
static int weight_part(fm_model *m, fm_slot *slot, int i, int u, void *weights)
{
    fm_block_weights w;
    float *gradient;
    bool fresh;
    FM_TRY(fm_fsdp_gradient_begin(m->fsdp, u, &gradient, &fresh));
    bind_weights(&w, m, u, weights, gradient, fresh);
    FM_TRY(fm_block_backward_weight(&m->block, &slot->grads[i], &slot->blocks[i], &w));
    return fm_fsdp_gradient_end(m->fsdp, u);
}

/* Activations that are made again share their memory between blocks: the weight part cannot wait. */
static bool weights_follow_at_once(const fm_model *m)
{
    return m->setup.keep != FM_KEEP_ALL;
}

int fm_stage_backward_input(fm_model *m, const fm_chunk *chunk, fm_slot *slot, bool with_weights)
{
    FM_TRY(fm_model_select(m, slot));
    for (int i = chunk->n_layers - 1; i >= 0; i--) {
        const int u = unit_of(m, chunk, i);
        const int64_t window = m->config.window[chunk->first_layer + i];
        void *weights;
        fm_block_weights w;
        FM_TRY(fm_fsdp_acquire(m->fsdp, u, &weights));
        FM_TRY(fm_fsdp_prefetch(m->fsdp, unit_of(m, chunk, i - 1)));
        bind_weights(&w, m, u, weights, NULL, false);
        FM_TRY(fm_block_restore(&m->block, &slot->blocks[i], &w, window, m->setup.keep));
        slot->grads[i].dz = slot->dx[i + 1];
        FM_TRY(fm_block_backward_input(&m->block, slot->dx[i], &slot->grads[i], &slot->blocks[i], &w, window));
        if (with_weights || weights_follow_at_once(m)) {
            FM_TRY(weight_part(m, slot, i, u, weights));
        }
        fm_fsdp_release(m->fsdp, u);
    }
    return chunk->has_embedding ? fm_embedding_backward(m, slot) : FM_OK;
}

int fm_stage_backward_weight(fm_model *m, const fm_chunk *chunk, fm_slot *slot)
{
    if (weights_follow_at_once(m)) {
        return FM_OK;
    }
    FM_TRY(fm_model_select(m, slot));
    for (int i = chunk->n_layers - 1; i >= 0; i--) {
        const int u = unit_of(m, chunk, i);
        void *weights;
        FM_TRY(fm_fsdp_acquire(m->fsdp, u, &weights));
        FM_TRY(weight_part(m, slot, i, u, weights));
        fm_fsdp_release(m->fsdp, u);
    }
    return FM_OK;
}
