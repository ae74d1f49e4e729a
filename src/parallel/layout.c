#include "parallel/layout.h"

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

fm_range fm_split_even(int64_t n, int parts, int index)
{
    const int64_t each = n / parts, longer = n % parts;
    return (fm_range){.start = index * each + min64(index, longer), .count = each + (index < longer ? 1 : 0)};
}

/* The key/value head of tp rank `rank` where there are more ranks than heads. */
static int head_of_rank(const fm_head_counts *heads, int size, int rank)
{
    int head = 0;
    while (head + 1 < heads->n_kv_heads && fm_split_even(size, heads->n_kv_heads, head + 1).start <= rank) {
        head++;
    }
    return head;
}

void fm_split_heads(fm_range *query, fm_range *kv, const fm_head_counts *heads, int size, int rank)
{
    const int group = heads->n_heads / heads->n_kv_heads;
    if (size <= heads->n_kv_heads) {
        *kv = fm_split_even(heads->n_kv_heads, size, rank);
        *query = (fm_range){.start = kv->start * group, .count = kv->count * group};
        return;
    }
    const int head = head_of_rank(heads, size, rank);
    const fm_range run = fm_split_even(size, heads->n_kv_heads, head);
    const fm_range part = fm_split_even(group, (int)run.count, (int)(rank - run.start));
    *kv = (fm_range){.start = head, .count = 1};
    *query = (fm_range){.start = (int64_t)head * group + part.start, .count = part.count};
}

fm_range fm_kv_replicas(const fm_head_counts *heads, int size, int rank)
{
    if (size <= heads->n_kv_heads) {
        return (fm_range){.start = rank, .count = 1};
    }
    return fm_split_even(size, heads->n_kv_heads, head_of_rank(heads, size, rank));
}

/* What one tp rank holds of a piece, relative to the piece's start, and the run of tp ranks that hold the same. */
static void split_piece(fm_range *part, fm_range *replicas, const fm_piece *piece, const fm_head_counts *heads, int tp, int rank)
{
    fm_range query, kv;
    switch (piece->split) {
    case FM_SPLIT_EVEN:
        *part = fm_split_even(piece->count, tp, rank);
        *replicas = (fm_range){.start = rank, .count = 1};
        return;
    case FM_SPLIT_QUERY:
        fm_split_heads(&query, &kv, heads, tp, rank);
        *part = (fm_range){.start = query.start * heads->head_dim, .count = query.count * heads->head_dim};
        *replicas = (fm_range){.start = rank, .count = 1};
        return;
    case FM_SPLIT_KV:
        fm_split_heads(&query, &kv, heads, tp, rank);
        *part = (fm_range){.start = kv.start * heads->head_dim, .count = kv.count * heads->head_dim};
        *replicas = fm_kv_replicas(heads, tp, rank);
        return;
    case FM_SPLIT_NONE:
        break;
    }
    *part = (fm_range){.start = 0, .count = piece->count};
    *replicas = (fm_range){.start = 0, .count = tp};
}

/* The stages that hold a tensor: first, and last where that is another one (a tied tensor), else the same. */
static void stages_of(int *first, int *last, const fm_layout *layout, const fm_tensor_spec *tensor)
{
    const int end = layout->mesh.size[FM_PP] - 1;
    *first = 0;
    switch (tensor->place) {
    case FM_PLACE_LAYER:
        *first = layout->stage_of_layer != NULL ? layout->stage_of_layer[tensor->layer] : 0;
        break;
    case FM_PLACE_HEAD:
        *first = end;
        break;
    case FM_PLACE_EMBEDDING:
    case FM_PLACE_TIED:
        break;
    }
    *last = tensor->place == FM_PLACE_TIED ? end : *first;
}

/* A part of the cut axis as one tp rank holds it: [start, start + count) of the tensor lies at `local` of the rank's tp array. */
typedef struct {
    int64_t start, count, local;
    fm_range replicas;
} tp_part;

/* All parts of one tp rank. Sets the extent of the cut axis in tp_shape. */
static int split_over_tp(tp_part *parts, int64_t *tp_shape, const fm_layout *layout, const fm_tensor_spec *tensor, int rank)
{
    const int tp = layout->mesh.size[FM_TP];
    for (int d = 0; d < tensor->ndim; d++) {
        tp_shape[d] = tensor->shape[d];
    }
    if (tensor->cut_axis < 0) {
        parts[0] = (tp_part){.start = 0, .count = tensor->shape[0], .local = 0, .replicas = {.start = 0, .count = tp}};
        return 1;
    }
    int64_t extent = 0;
    for (int i = 0; i < tensor->n_pieces; i++) {
        fm_range part;
        split_piece(&part, &parts[i].replicas, &tensor->pieces[i], &layout->heads, tp, rank);
        parts[i].start = tensor->pieces[i].start + part.start;
        parts[i].count = part.count;
        parts[i].local = extent;
        extent += part.count;
    }
    tp_shape[tensor->cut_axis] = extent;
    return tensor->n_pieces;
}

/* The slab of one part within the FSDP chunk `rows` of the tp array. */
static fm_slab cut_rows(const fm_tensor_spec *tensor, const tp_part *part, const fm_range *rows)
{
    fm_slab slab = {.owned = false};
    const int axis = tensor->cut_axis;
    if (axis == 1) {
        slab.start[0] = rows->start;
        slab.count[0] = rows->count;
        slab.start[1] = part->start;
        slab.count[1] = part->count;
        slab.local_start[1] = part->local;
        return slab;
    }
    const int64_t from = max64(part->local, rows->start);
    const int64_t to = min64(part->local + part->count, rows->start + rows->count);
    slab.start[0] = part->start + from - part->local;
    slab.count[0] = max64(to - from, 0);
    slab.local_start[0] = from - rows->start;
    if (tensor->ndim == 2) {
        slab.count[1] = tensor->shape[1];
    }
    return slab;
}

void fm_layout_slice(fm_slice *out, const fm_layout *layout, int index, const fm_coord *coord)
{
    const fm_mesh_shape *const mesh = &layout->mesh;
    const fm_tensor_spec *const tensor = &layout->tensors[index];
    int first, last;
    stages_of(&first, &last, layout, tensor);
    *out = (fm_slice){.held = coord->at[FM_PP] == first || coord->at[FM_PP] == last, .ndim = tensor->ndim};
    if (!out->held) {
        return;
    }
    tp_part parts[FM_MAX_PIECES];
    const int n_parts = split_over_tp(parts, out->tp_shape, layout, tensor, coord->at[FM_TP]);

    const int fsdp = fm_mesh_fsdp_size(mesh);
    const int64_t n_rows = out->tp_shape[0];
    out->chunk_rows = (n_rows + fsdp - 1) / fsdp;
    const int64_t start = min64(fm_mesh_fsdp_index(mesh, coord) * out->chunk_rows, n_rows);
    const fm_range rows = {.start = start, .count = min64(out->chunk_rows, n_rows - start)};
    for (int d = 0; d < tensor->ndim; d++) {
        out->local_shape[d] = d == 0 ? rows.count : out->tp_shape[d];
    }

    const bool first_copy = coord->at[FM_DP_REPLICATE] == 0 && coord->at[FM_PP] == first;
    const int copies = mesh->size[FM_DP_REPLICATE] * (first == last ? 1 : 2);
    for (int i = 0; i < n_parts; i++) {
        fm_slab slab = cut_rows(tensor, &parts[i], &rows);
        const int replicas = (int)parts[i].replicas.count * copies;
        out->n_replicas = i == 0 || replicas < out->n_replicas ? replicas : out->n_replicas;
        if (fm_slab_elements(&slab, tensor->ndim) == 0) {
            continue;
        }
        slab.owned = first_copy && parts[i].replicas.start == coord->at[FM_TP];
        out->owner = out->owner || slab.owned;
        out->slabs[out->n_slabs++] = slab;
    }
}

int fm_layout_find(const fm_layout *layout, const char *name)
{
    for (int i = 0; i < layout->n_tensors; i++) {
        if (strcmp(layout->tensors[i].name, name) == 0) {
            return i;
        }
    }
    return -1;
}

int64_t fm_tensor_elements(const fm_tensor_spec *tensor)
{
    int64_t n = 1;
    for (int d = 0; d < tensor->ndim; d++) {
        n *= tensor->shape[d];
    }
    return n;
}

int64_t fm_slab_elements(const fm_slab *slab, int ndim)
{
    int64_t n = 1;
    for (int d = 0; d < ndim; d++) {
        n *= slab->count[d];
    }
    return n;
}

/* What must be true of a piece before it can be cut: every rank gets something, and heads are counted as the tensor counts them. */
static int check_piece(const fm_layout *layout, const fm_tensor_spec *tensor, const fm_piece *piece)
{
    const int tp = layout->mesh.size[FM_TP];
    const fm_head_counts *const heads = &layout->heads;
    if (piece->split == FM_SPLIT_EVEN && piece->count < tp) {
        return fm_fail(FM_ERR_JOB, "tp_size is %d, but %s has only %lld rows or columns to cut: tp_size at most %lld fits", tp,
                       tensor->name, (long long)piece->count, (long long)piece->count);
    }
    const int n_heads = piece->split == FM_SPLIT_QUERY ? heads->n_heads : piece->split == FM_SPLIT_KV ? heads->n_kv_heads : 0;
    if (n_heads > 0 && piece->count != (int64_t)n_heads * heads->head_dim) {
        return fm_fail(FM_ERR_INTERNAL, "%s: %lld elements were to be cut by heads, but %d heads of %d are %lld", tensor->name,
                       (long long)piece->count, n_heads, heads->head_dim, (long long)n_heads * heads->head_dim);
    }
    return FM_OK;
}

static int check_stages(const fm_layout *layout)
{
    const int pp = layout->mesh.size[FM_PP];
    if (pp > layout->n_layers) {
        return fm_fail(FM_ERR_JOB, "pp_size is %d, but the model has %d layers: pp_size at most %d fits", pp, layout->n_layers,
                       layout->n_layers);
    }
    if (pp > 1 && layout->stage_of_layer == NULL) {
        return fm_fail(FM_ERR_INTERNAL, "a mesh of %d pipeline stages without a stage for each layer", pp);
    }
    for (int i = 0; layout->stage_of_layer != NULL && i < layout->n_layers; i++) {
        if (layout->stage_of_layer[i] < 0 || layout->stage_of_layer[i] >= pp) {
            return fm_fail(FM_ERR_INTERNAL, "layer %d is on stage %d of %d", i, layout->stage_of_layer[i], pp);
        }
    }
    return FM_OK;
}

int fm_layout_check(const fm_layout *layout)
{
    const int tp = layout->mesh.size[FM_TP];
    FM_TRY(check_stages(layout));
    if (tp > layout->heads.n_heads) {
        return fm_fail(FM_ERR_JOB, "tp_size is %d, but the model has %d query heads: tp_size at most %d fits", tp,
                       layout->heads.n_heads, layout->heads.n_heads);
    }
    for (int i = 0; i < layout->n_tensors; i++) {
        for (int j = 0; j < layout->tensors[i].n_pieces; j++) {
            FM_TRY(check_piece(layout, &layout->tensors[i], &layout->tensors[i].pieces[j]));
        }
    }
    return FM_OK;
}
