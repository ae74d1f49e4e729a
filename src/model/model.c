#include "model/model.h"

#include <math.h>
#include <string.h>

#include "model/ends.h"
#include "ops/rows.h"

static int64_t local_extent(const fm_model *m, enum fm_role role)
{
    for (int t = 0; t < m->n_tensors; t++) {
        if ((int)role == m->tensors[t].role) {
            fm_slice slice;
            fm_coord coord = m->coord;
            if (m->tensors[t].place == FM_PLACE_LAYER && m->stage_of_layer != NULL) {
                coord.at[FM_PP] = m->stage_of_layer[m->tensors[t].layer];
            }
            fm_layout_slice(&slice, &m->layout, t, &coord);
            return slice.tp_shape[0];
        }
    }
    return 0;
}

/* Whether tp leaves the tensors of a role whole. */
static bool is_whole(const fm_model *m, enum fm_role role)
{
    for (int t = 0; t < m->n_tensors; t++) {
        if ((int)role == m->tensors[t].role) {
            return m->tensors[t].cut_axis < 0;
        }
    }
    return false;
}

static void find_dims(fm_model *m)
{
    const fm_config *const c = &m->config;
    const int tp = m->layout.mesh.size[FM_TP];
    fm_range query, kv;
    const bool attention_is_whole = is_whole(m, FM_ROLE_Q);
    fm_split_heads(&query, &kv, &m->layout.heads, attention_is_whole ? 1 : tp, attention_is_whole ? 0 : m->coord.at[FM_TP]);
    m->vocabulary = fm_split_even(c->V, tp, m->coord.at[FM_TP]);
    fm_block_dims *const d = &m->block.dims;
    *d = (fm_block_dims){
        .C = c->C, .F = local_extent(m, FM_ROLE_GATE), .H = (int)query.count, .K = (int)kv.count, .D = c->D,
        .rotary_dim = c->rope.rotary_dim, .qk_norm = c->qk_norm, .qkv_bias = c->qkv_bias, .o_bias = c->o_bias,
        .attention_is_whole = attention_is_whole, .mlp_is_whole = is_whole(m, FM_ROLE_GATE),
        .mlp_bias = c->mlp_bias, .norm_eps = c->norm_eps, .scale = (float)(1.0 / sqrt((double)c->D)),
    };
    d->Q = (int64_t)(d->H + 2 * d->K) * d->D;
}

static enum fm_param_sum sum_of(const fm_model *m, const fm_tensor_spec *t)
{
    switch ((enum fm_role)t->role) {
    case FM_ROLE_Q_NORM:
    case FM_ROLE_K_NORM:
        return m->block.dims.attention_is_whole ? FM_SUM_NONE : FM_SUM_TP;
    case FM_ROLE_INPUT_NORM:
    case FM_ROLE_POST_NORM:
    case FM_ROLE_FINAL_NORM:
    case FM_ROLE_O_BIAS:
    case FM_ROLE_DOWN_BIAS:
        return m->setup.sequence_parallel ? FM_SUM_TP : FM_SUM_NONE;
    case FM_ROLE_K:
    case FM_ROLE_V:
    case FM_ROLE_K_BIAS:
    case FM_ROLE_V_BIAS:
        return m->layout.mesh.size[FM_TP] > m->config.K && !m->block.dims.attention_is_whole ? FM_SUM_KV_REPLICAS : FM_SUM_NONE;
    default:
        return t->place == FM_PLACE_TIED && m->layout.mesh.size[FM_PP] > 1 ? FM_SUM_ENDS : FM_SUM_NONE;
    }
}

/* The unit that a tensor belongs to, made on first sight; -1 where there is no memory. */
static int unit_for(fm_model *m, const fm_tensor_spec *t)
{
    int *place = NULL;
    switch ((enum fm_role)t->role) {
    case FM_ROLE_EMBEDDING: place = &m->embedding_unit; break;
    case FM_ROLE_FINAL_NORM: place = &m->norm_unit; break;
    case FM_ROLE_HEAD: place = &m->head_unit; break;
    default: place = &m->unit_of_layer[t->layer]; break;
    }
    if (*place < 0) {
        *place = m->n_units++;
        m->units[*place].by_chunks = t->role == FM_ROLE_EMBEDDING || t->role == FM_ROLE_HEAD;
    }
    return *place;
}

enum { UNIT_TENSORS = FM_ROLES };

static int add_params(fm_model *m)
{
    m->params = fm_alloc_array(m->n_tensors, sizeof *m->params, FM_MEMORY_HOST);
    m->units = fm_alloc_array(m->config.L + 3, sizeof *m->units, FM_MEMORY_HOST);
    m->states = fm_alloc_array(m->config.L + 3, sizeof *m->states, FM_MEMORY_HOST);
    m->unit_of_layer = fm_alloc_array(m->config.L, sizeof *m->unit_of_layer, FM_MEMORY_HOST);
    if (m->params == NULL || m->units == NULL || m->states == NULL || m->unit_of_layer == NULL) {
        return FM_ERR_MEMORY;
    }
    for (int l = 0; l < m->config.L; l++) {
        m->unit_of_layer[l] = -1;
    }
    for (int t = 0; t < m->n_tensors; t++) {
        fm_slice slice;
        fm_layout_slice(&slice, &m->layout, t, &m->coord);
        if (!slice.held) {
            continue;
        }
        const int u = unit_for(m, &m->tensors[t]);
        fm_fsdp_unit *const unit = &m->units[u];
        if (unit->tensors == NULL) {
            unit->tensors = fm_alloc_array(UNIT_TENSORS, sizeof *unit->tensors, FM_MEMORY_HOST);
            if (unit->tensors == NULL) {
                return FM_ERR_MEMORY;
            }
        }
        m->params[m->n_params++] = (fm_param){ t, (enum fm_role)m->tensors[t].role, u, unit->n_tensors, sum_of(m, &m->tensors[t]), slice };
        unit->tensors[unit->n_tensors++] = (fm_fsdp_tensor){
            .rows = slice.tp_shape[0], .columns = slice.ndim > 1 ? slice.tp_shape[1] : 1,
        };
    }
    /* a tied head is the embedding, used twice */
    if (m->config.tied) {
        m->head_unit = m->embedding_unit;
    }
    return FM_OK;
}

/* Bytes of a unit's arrays by what they are for; 0: it has none. */
typedef struct {
    size_t weight, gradient, state, master;
} unit_bytes;

static unit_bytes bytes_of_unit(const fm_model *m, const fm_fsdp_unit *unit)
{
    const size_t n = (size_t)unit->shard_elements;
    const fm_model_setup *const s = &m->setup;
    return (unit_bytes){
        .weight = n * fm_dtype_bytes(s->dtype), .gradient = s->trains ? n * sizeof(float) : 0,
        .state = s->trains && !s->without_states ? n * fm_dtype_bytes(s->state_dtype) : 0,
        .master = s->trains && !s->without_states && s->master_dtype != s->dtype ? n * fm_dtype_bytes(s->master_dtype) : 0,
    };
}

/* *out = memory of so many bytes; NULL, without error, where they are 0. */
static int alloc_array(void **out, fm_model *m, size_t size_bytes, enum fm_memory kind)
{
    *out = size_bytes == 0 ? NULL : fm_device_alloc(m->compute->device, size_bytes, kind);
    return size_bytes > 0 && *out == NULL ? FM_ERR_MEMORY : FM_OK;
}

static int alloc_unit(fm_model *m, int u)
{
    fm_fsdp_unit *const unit = &m->units[u];
    fm_unit_states *const states = &m->states[u];
    const unit_bytes bytes = bytes_of_unit(m, unit);
    void *gradient;
    unit->frozen = !m->setup.trains;
    FM_TRY(alloc_array(&unit->weight, m, bytes.weight, FM_MEMORY_PARAMETERS));
    FM_TRY(alloc_array(&gradient, m, bytes.gradient, FM_MEMORY_GRADIENTS));
    unit->gradient = gradient;
    FM_TRY(alloc_array(&states->exp_avg, m, bytes.state, FM_MEMORY_STATES));
    FM_TRY(alloc_array(&states->exp_avg_sq, m, bytes.state, FM_MEMORY_STATES));
    return alloc_array(&states->master, m, bytes.master, FM_MEMORY_STATES);
}

static int build(fm_model *m, const fm_chunk *chunks)
{
    const int ranks = fm_mesh_fsdp_size(&m->layout.mesh);
    m->chunks = fm_alloc_array(m->n_chunks, sizeof *m->chunks, FM_MEMORY_HOST);
    if (m->chunks == NULL) {
        return FM_ERR_MEMORY;
    }
    memcpy(m->chunks, chunks, (size_t)m->n_chunks * sizeof *m->chunks);
    find_dims(m);
    FM_TRY(add_params(m));
    for (int u = 0; u < m->n_units; u++) {
        fm_fsdp_unit_plan(&m->units[u], ranks, fm_mesh_fsdp_index(&m->layout.mesh, &m->coord));
    }
    m->block.compute = m->compute;
    m->block.dtype = m->setup.dtype;
    m->block.region = (fm_region){ .tp = fm_groups_device(m->groups, FM_GROUP_TP), .sequence_parallel = m->setup.sequence_parallel };
    fm_region_plan(&m->block.region, 1);
    m->setup.sequence_parallel = m->block.region.sequence_parallel;
    return FM_OK;
}

int fm_model_new(fm_model **out, fm_config *config, fm_tensor_spec *tensors, int n_tensors, int *stage_of_layer, const fm_chunk *chunks,
                 int n_chunks, fm_groups *groups, fm_compute *compute, const fm_model_setup *setup)
{
    fm_model *const m = fm_alloc(sizeof *m, FM_MEMORY_HOST);
    *out = m;
    if (m == NULL) {
        fm_config_clear(config);
        fm_free(tensors);
        fm_free(stage_of_layer);
        return FM_ERR_MEMORY;
    }
    m->config = *config;
    *config = (fm_config){ .family = NULL };
    m->setup = *setup;
    m->tensors = tensors;
    m->n_tensors = n_tensors;
    m->stage_of_layer = stage_of_layer;
    m->groups = groups;
    m->coord = fm_groups_coord(groups);
    m->compute = compute;
    m->layout = (fm_layout){
        .mesh = *fm_groups_mesh(groups), .heads = { m->config.H, m->config.K, m->config.D }, .n_layers = m->config.L,
        .n_tensors = n_tensors, .tensors = tensors, .stage_of_layer = stage_of_layer,
    };
    m->n_chunks = n_chunks;
    m->embedding_unit = m->norm_unit = m->head_unit = -1;
    const int rc = build(m, chunks);
    if (rc < 0) {
        fm_model_destroy(m);
        *out = NULL;
    }
    return rc;
}

static void free_slot_lists(fm_slot *slot)
{
    fm_free(slot->blocks);
    fm_free(slot->grads);
    fm_free(slot->dx);
}

static void free_passes(fm_model *m)
{
    fm_device *const device = m->compute->device;
    for (int s = 0; s < m->n_slots; s++) {
        fm_slot *const slot = &m->slots[s];
        fm_device_free(device, slot->memory);
        fm_device_free(device, slot->ids);
        free_slot_lists(slot);
    }
    fm_free(m->slots);
    m->slots = NULL;
    m->n_slots = 0;
    fm_device_free(device, m->workspace);
    m->workspace = NULL;
    fm_device_free(device, m->cos);
    m->cos = NULL;
}

void fm_model_destroy(fm_model *m)
{
    if (m == NULL) {
        return;
    }
    fm_device *const device = m->compute->device;
    free_passes(m);
    fm_device_free(device, m->loss);
    fm_fsdp_destroy(m->fsdp);
    fm_context_destroy(m->block.context);
    for (int u = 0; u < m->n_units; u++) {
        fm_free(m->units[u].tensors);
        fm_device_free(device, m->units[u].weight);
        fm_device_free(device, m->units[u].gradient);
        fm_device_free(device, m->states[u].master);
        fm_device_free(device, m->states[u].exp_avg);
        fm_device_free(device, m->states[u].exp_avg_sq);
    }
    fm_free(m->units);
    fm_free(m->states);
    fm_free(m->params);
    fm_free(m->unit_of_layer);
    fm_free(m->chunks);
    fm_free(m->tensors);
    fm_free(m->stage_of_layer);
    fm_config_clear(&m->config);
    fm_free(m);
}

static size_t bind_workspace(fm_model *m, char *base, int64_t N)
{
    /* the region is planned for N rows */
    const fm_block_dims *const d = &m->block.dims;
    const fm_region *const r = &m->block.region;
    const size_t size = fm_dtype_bytes(m->setup.dtype);
    const int64_t wide = d->F > (int64_t)d->H * d->D ? d->F : (int64_t)d->H * d->D;
    size_t used = 0, kept, shared;
    m->block.h_local = fm_carve(base, &used, r->rows_local * d->C, size);
    m->block.h = r->sequence_parallel ? fm_carve(base, &used, r->rows_padded * d->C, size) : m->block.h_local;
    m->block.wide = fm_carve(base, &used, N * wide, size);
    m->block.delta = fm_carve(base, &used, N * d->H, sizeof(float));
    for (int i = 0; i < 2; i++) {
        m->flow[i] = fm_carve(base, &used, r->rows_local * d->C, size);
    }
    fm_block_saved unused;
    fm_block_saved_bind(&unused, &kept, &shared, d, m->setup.dtype, N, r->rows_local, m->setup.keep, NULL, NULL);
    m->shared_saved = fm_carve(base, &used, (int64_t)shared, 1);
    if (m->norm_unit >= 0) {
        used += fm_head_workspace_bind(&m->head, m, N, r->rows_padded, r->rows_local, base == NULL ? NULL : base + used);
    }
    return used;
}

/* Sets the pointers of a slot for N rows; returns the bytes that it needs. */
static size_t bind_slot(fm_model *m, fm_slot *slot, int n_layers, char *base, int64_t N)
{
    const fm_block_dims *const d = &m->block.dims;
    const fm_region *const r = &m->block.region;
    const size_t size = fm_dtype_bytes(m->setup.dtype);
    size_t used = 0;
    for (int i = 0; i < n_layers; i++) {
        size_t kept, shared;
        fm_block_saved_bind(&slot->blocks[i], &kept, &shared, d, m->setup.dtype, N, r->rows_local, m->setup.keep,
                            base == NULL ? NULL : base + used, m->shared_saved);
        used += m->setup.trains || i == 0 ? kept : 0;
        if (!m->setup.trains && i > 0) {   /* without a backward pass one block's activations serve all, the inputs two in turn */
            slot->blocks[i] = slot->blocks[0];
            slot->blocks[i].x = m->flow[i % 2];
        }
    }
    slot->out = fm_carve(base, &used, r->rows_local * d->C, size);
    slot->rstd_out = fm_carve(base, &used, r->rows_local, sizeof(float));
    if (!m->setup.trains) {
        return used;
    }
    slot->dx[n_layers] = fm_carve(base, &used, r->rows_local * d->C, size);
    for (int i = n_layers - 1; i >= 0; i--) {
        /* kept where a weight part comes later, and while the first is on its way to the stage before */
        const bool own = m->split_backward || (i == 0 && m->layout.mesh.size[FM_PP] > 1);
        slot->dx[i] = own ? fm_carve(base, &used, r->rows_local * d->C, size) : m->flow[i % 2];
        if (m->split_backward || i == n_layers - 1) {
            size_t bytes;
            fm_block_grads_bind(&slot->grads[i], &bytes, d, m->setup.dtype, N, r->rows_local,
                                r->sequence_parallel ? r->rows_padded : 0, base == NULL ? NULL : base + used);
            used += bytes;
        } else {
            slot->grads[i] = slot->grads[i + 1];
        }
    }
    return used;
}

static int most_layers(const fm_model *m)
{
    int most = 0;
    for (int c = 0; c < m->n_chunks; c++) {
        most = m->chunks[c].n_layers > most ? m->chunks[c].n_layers : most;
    }
    return most;
}

/* Integers of a slot: ids, labels, position, document, labelled rows and their labels of N tokens; under cp the positions and documents of
 * whole rows. */
static int64_t slot_ints(const fm_model *m, int64_t N)
{
    const int64_t cp = m->layout.mesh.size[FM_CP];
    return 6 * N + (cp > 1 ? 2 * cp * N : 0);
}

static int alloc_slot_lists(fm_slot *slot, int n_layers)
{
    slot->blocks = fm_alloc_array(n_layers, sizeof *slot->blocks, FM_MEMORY_HOST);
    slot->grads = fm_alloc_array(n_layers, sizeof *slot->grads, FM_MEMORY_HOST);
    slot->dx = fm_alloc_array(n_layers + 1, sizeof *slot->dx, FM_MEMORY_HOST);
    return slot->blocks == NULL || slot->grads == NULL || slot->dx == NULL ? FM_ERR_MEMORY : FM_OK;
}

static int alloc_slot(fm_model *m, fm_slot *slot, int64_t N)
{
    fm_device *const device = m->compute->device;
    const int n_layers = most_layers(m);
    FM_TRY(alloc_slot_lists(slot, n_layers));
    slot->memory = fm_device_alloc(device, bind_slot(m, slot, n_layers, NULL, N), FM_MEMORY_ACTIVATIONS);
    slot->ids = fm_device_alloc(device, (size_t)slot_ints(m, N) * sizeof *slot->ids, FM_MEMORY_ACTIVATIONS);
    if (slot->memory == NULL || slot->ids == NULL) {
        return FM_ERR_MEMORY;
    }
    slot->labels = slot->ids + N;
    slot->position = slot->labels + N;
    slot->document = slot->position + N;
    slot->labelled = slot->document + N;
    slot->labelled_ids = slot->labelled + N;
    const int64_t cp = m->layout.mesh.size[FM_CP];
    slot->row_position = cp > 1 ? slot->labelled_ids + N : slot->position;
    slot->row_document = cp > 1 ? slot->row_position + cp * N : slot->document;
    return FM_OK;
}

static size_t rope_bytes(const fm_model *m, int64_t positions)
{
    return 2 * (size_t)(positions * (m->config.rope.rotary_dim / 2)) * sizeof(float);
}

int fm_model_allocate(fm_model *m)
{
    for (int u = 0; u < m->n_units; u++) {
        FM_TRY(alloc_unit(m, u));
    }
    m->loss = fm_device_alloc(m->compute->device, (size_t)(1 + m->n_params) * sizeof *m->loss, FM_MEMORY_WORKSPACE);
    if (m->loss == NULL) {
        return FM_ERR_MEMORY;
    }
    m->squares = m->loss + 1;
    fm_comm *const group = fm_groups_device(m->groups, FM_GROUP_FSDP);
    FM_TRY(fm_fsdp_new(&m->fsdp, m->units, m->n_units, group, m->compute->device, m->setup.dtype,
                       m->setup.reduce_dtype));
    m->block.fsdp = m->fsdp;
    return fm_context_new(&m->block.context, fm_groups_device(m->groups, FM_GROUP_CP), m->compute->device, FM_CONTEXT_AUTO);
}

/* The largest call of attention that the passes will make. */
static fm_attention_args largest_attention(const fm_model *m, const fm_model_reserve_spec *spec)
{
    fm_block block = m->block;
    block.batch = (fm_block_batch){ .B = spec->B, .T = spec->T };
    return fm_block_attention_args(&block, 0);
}

void fm_model_estimate(size_t bytes[FM_MEMORY_KINDS], const fm_model *model, const fm_model_reserve_spec *spec)
{
    fm_model planned = *model;         /* the plan is made as for a reservation, and forgotten */
    fm_model *const m = &planned;
    const int64_t N = spec->B * spec->T;
    memset(bytes, 0, FM_MEMORY_KINDS * sizeof *bytes);
    for (int u = 0; u < m->n_units; u++) {
        const unit_bytes b = bytes_of_unit(m, &m->units[u]);
        bytes[FM_MEMORY_PARAMETERS] += b.weight;
        bytes[FM_MEMORY_GRADIENTS] += b.gradient;
        bytes[FM_MEMORY_STATES] += 2 * b.state + b.master;
    }
    bytes[FM_MEMORY_GATHERED] = fm_fsdp_slot_bytes(m->units, m->n_units, fm_mesh_fsdp_size(&m->layout.mesh), m->setup.dtype,
                                                      m->setup.reduce_dtype);
    fm_region_plan(&m->block.region, N);
    m->split_backward = spec->split_backward;
    const fm_compute_sizes sizes = {
        .dtype = m->setup.dtype, .N = N, .C = m->block.dims.C, .F = m->block.dims.F,
        .chunk_rows = m->norm_unit < 0 ? 0 : m->head.chunk_rows, .words = m->head.chunk_words,
        .H = m->block.dims.H, .K = m->block.dims.K, .D = m->block.dims.D,
    };
    bytes[FM_MEMORY_WORKSPACE] = bind_workspace(m, NULL, N) + rope_bytes(m, spec->padded_T)
                               + fm_compute_workspace_bytes(m->compute, &sizes);
    const fm_attention_args attention = largest_attention(m, spec);
    bytes[FM_MEMORY_WORKSPACE] += fm_context_bytes(FM_CONTEXT_AUTO, m->layout.mesh.size[FM_CP], &attention);
    fm_slot slot = { .B = spec->B };
    if (alloc_slot_lists(&slot, most_layers(m)) == FM_OK) {
        bytes[FM_MEMORY_ACTIVATIONS] = (size_t)spec->n_slots * (bind_slot(m, &slot, most_layers(m), NULL, N)
                                                                + (size_t)slot_ints(m, N) * sizeof(int32_t));
    }
    free_slot_lists(&slot);
}

/* cos and sin of every position below padded_T. They depend on T for dynamic rope only. */
static int fill_rope(fm_model *m, int64_t padded_T)
{
    const int half = m->config.rope.rotary_dim / 2;
    const bool depends_on_T = m->config.rope.type == FM_ROPE_DYNAMIC;
    if (m->rope_T == padded_T || (m->rope_T > 0 && !depends_on_T)) {
        return FM_OK;
    }
    double *const inv_freq = fm_alloc_array(half, sizeof *inv_freq, FM_MEMORY_HOST);
    float *const table = fm_alloc_array(2 * m->rope_positions * half, sizeof *table, FM_MEMORY_HOST);
    if (inv_freq == NULL || table == NULL) {
        fm_free(inv_freq);
        fm_free(table);
        return FM_ERR_MEMORY;
    }
    double scale;
    fm_rope_frequencies(inv_freq, &scale, &m->config, padded_T);
    for (int64_t p = 0; p < m->rope_positions; p++) {
        for (int i = 0; i < half; i++) {
            /* torch multiplies in fp32: so does the angle here */
            const float angle = (float)p * (float)inv_freq[i];
            table[p * half + i] = (float)(cos((double)angle) * scale);
            table[(m->rope_positions + p) * half + i] = (float)(sin((double)angle) * scale);
        }
    }
    const int rc = fm_device_copy_in(m->compute->device, m->cos, table, 2 * (size_t)(m->rope_positions * half) * sizeof *table);
    fm_free(inv_freq);
    fm_free(table);
    m->rope_T = padded_T;
    return rc;
}

int fm_model_reserve(fm_model *m, const fm_model_reserve_spec *spec)
{
    free_passes(m);
    fm_device *const device = m->compute->device;
    const int64_t N = spec->B * spec->T;
    m->max_B = spec->B;
    m->max_T = spec->T;
    m->split_backward = spec->split_backward;
    m->rope_positions = spec->padded_T;
    m->rope_T = 0;
    fm_region_plan(&m->block.region, N);
    m->workspace = fm_device_alloc(device, bind_workspace(m, NULL, N), FM_MEMORY_WORKSPACE);
    m->cos = fm_device_alloc(device, rope_bytes(m, spec->padded_T), FM_MEMORY_WORKSPACE);
    m->slots = fm_alloc_array(spec->n_slots, sizeof *m->slots, FM_MEMORY_HOST);
    if (m->workspace == NULL || m->cos == NULL || m->slots == NULL) {
        return FM_ERR_MEMORY;
    }
    m->sin = m->cos + spec->padded_T * (m->config.rope.rotary_dim / 2);
    bind_workspace(m, m->workspace, N);
    for (m->n_slots = 0; m->n_slots < spec->n_slots; m->n_slots++) {
        FM_TRY(alloc_slot(m, &m->slots[m->n_slots], N));
    }
    const fm_attention_args attention = largest_attention(m, spec);
    return fm_context_reserve(m->block.context, &attention);
}

int fm_model_select(fm_model *m, const fm_slot *slot)
{
    FM_TRY(fill_rope(m, slot->padded_T));
    fm_region_plan(&m->block.region, slot->B * slot->T);
    m->block.batch = (fm_block_batch){
        .B = slot->B, .T = slot->T, .position = slot->position, .document = slot->document, .plain = slot->plain, .row_T = slot->row_T,
        .row_position = slot->row_position, .row_document = slot->row_document, .cos = m->cos, .sin = m->sin,
    };
    return FM_OK;
}

/* Whether every row is one document whose positions rise by 1, on this rank alone. */
static bool is_plain(const fm_model *m, const fm_microbatch *batch)
{
    if (m->block.context != NULL) {
        return false;                  /* cut by cp */
    }
    for (int64_t i = 0; i < batch->B * batch->T; i++) {
        const bool first = i % batch->T == 0;
        if (batch->document[i] < 0 || (!first && (batch->document[i] != batch->document[i - 1]
                                                  || batch->position[i] != batch->position[i - 1] + 1))) {
            return false;
        }
    }
    return true;
}

int fm_model_begin(fm_model *m, fm_slot *slot, const fm_chunk *chunk, const fm_microbatch *batch)
{
    fm_device *const device = m->compute->device;
    const int64_t N = batch->B * batch->T;
    FM_ASSERT(N <= m->max_B * m->max_T && batch->padded_T <= m->rope_positions);
    slot->B = batch->B;
    slot->T = batch->T;
    slot->padded_T = batch->padded_T;
    slot->row_T = batch->row_T;
    slot->plain = is_plain(m, batch);
    slot->with_gradients = m->setup.trains && !batch->only_loss;
    int32_t *const rows = fm_alloc_array(2 * N, sizeof *rows, FM_MEMORY_HOST);
    if (rows == NULL) {
        return FM_ERR_MEMORY;
    }
    int64_t n = 0;
    for (int64_t i = 0; i < N; i++) {
        if (batch->labels[i] >= 0) {
            rows[n] = (int32_t)i;
            rows[N + n++] = batch->labels[i];
        }
    }
    slot->n_labelled = n;
    const size_t bytes = (size_t)N * sizeof *rows;
    int rc = fm_device_copy_in(device, slot->labelled, rows, (size_t)n * sizeof *rows);
    rc = rc < 0 ? rc : fm_device_copy_in(device, slot->labelled_ids, rows + N, (size_t)n * sizeof *rows);
    rc = rc < 0 ? rc : fm_device_copy_in(device, slot->ids, batch->ids, bytes);
    rc = rc < 0 ? rc : fm_device_copy_in(device, slot->labels, batch->labels, bytes);
    rc = rc < 0 ? rc : fm_device_copy_in(device, slot->position, batch->position, bytes);
    rc = rc < 0 ? rc : fm_device_copy_in(device, slot->document, batch->document, bytes);
    fm_free(rows);
    if (rc == FM_OK && slot->row_position != slot->position) {
        const size_t row_bytes = (size_t)(batch->B * batch->row_T) * sizeof *rows;
        rc = fm_device_copy_in(device, slot->row_position, batch->row_position, row_bytes);
        rc = rc < 0 ? rc : fm_device_copy_in(device, slot->row_document, batch->row_document, row_bytes);
    }
    FM_TRY(rc);
    FM_TRY(fm_model_select(m, slot));
    bind_slot(m, slot, chunk->n_layers, slot->memory, N);
    return FM_OK;
}

int64_t fm_model_boundary_rows(const fm_model *m, const fm_slot *slot)
{
    fm_region region = m->block.region;
    fm_region_plan(&region, slot->B * slot->T);
    return region.rows_local;
}

fm_param_view fm_model_param(const fm_model *m, int param)
{
    const fm_param *const p = &m->params[param];
    const fm_fsdp_unit *const unit = &m->units[p->unit];
    const fm_unit_states *const states = &m->states[p->unit];
    const int64_t at = unit->tensors[p->index].shard_at;
    return (fm_param_view){
        .weight = fm_at(unit->weight, m->setup.dtype, at),
        .master = states->master == NULL ? NULL : fm_at(states->master, m->setup.master_dtype, at),
        .exp_avg = states->exp_avg == NULL ? NULL : fm_at(states->exp_avg, m->setup.state_dtype, at),
        .exp_avg_sq = states->exp_avg_sq == NULL ? NULL : fm_at(states->exp_avg_sq, m->setup.state_dtype, at),
        .gradient = unit->gradient == NULL ? NULL : unit->gradient + at,
        .elements = unit->tensors[p->index].local_rows * unit->tensors[p->index].columns,
    };
}

int fm_model_find_param(const fm_model *m, const char *name)
{
    for (int p = 0; p < m->n_params; p++) {
        if (strcmp(m->tensors[m->params[p].tensor].name, name) == 0) {
            return p;
        }
    }
    return -1;
}

static int set_array(const fm_model *m, void *to, enum fm_dtype to_dtype, const void *data, enum fm_dtype dtype, int64_t n)
{
    if (to == NULL || n == 0) {
        return FM_OK;
    }
    if (to_dtype == dtype) {
        return fm_device_copy_in(m->compute->device, to, data, (size_t)n * fm_dtype_bytes(dtype));
    }
    void *const converted = fm_alloc_array(n, fm_dtype_bytes(to_dtype), FM_MEMORY_HOST);
    if (converted == NULL) {
        return FM_ERR_MEMORY;
    }
    fm_dtype_convert(converted, to_dtype, data, dtype, n);
    const int rc = fm_device_copy_in(m->compute->device, to, converted, (size_t)n * fm_dtype_bytes(to_dtype));
    fm_free(converted);
    return rc;
}

int fm_model_set_param(fm_model *m, int param, const void *data, enum fm_dtype dtype)
{
    const fm_param_view view = fm_model_param(m, param);
    fm_device *const device = m->compute->device;
    const enum fm_dtype own = m->setup.dtype, master = m->setup.master_dtype;
    if (view.master == NULL || (dtype != own && dtype != master)) {
        FM_TRY(set_array(m, view.weight, own, data, dtype, view.elements));
        return set_array(m, view.master, master, data, dtype, view.elements);
    }
    /* one of the two holds the numbers as they came: the device makes the other one of it */
    const bool into_weight = dtype == own;
    FM_TRY(set_array(m, into_weight ? view.weight : view.master, dtype, data, dtype, view.elements));
    return into_weight ? device->table->convert(device, view.master, master, view.weight, own, view.elements)
                       : device->table->convert(device, view.weight, own, view.master, master, view.elements);
}
