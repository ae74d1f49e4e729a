#include "parallel/fsdp.h"

#include <string.h>

#include "base/clock.h"

enum { SLOTS = 2, MAX_TENSORS = 24 };

/* A gathered unit or vocabulary chunk on its way or in use. */
typedef struct {
    int unit;                          /* -1: free */
    int chunk;                         /* -1: the whole unit */
    bool in_use;
    int n_requests;
    fm_request requests[MAX_TENSORS];
    void *data;
} weight_slot;

/* A gathered gradient that is being written (requests 0) or sent. */
typedef struct {
    int unit, chunk;
    int n_requests;
    fm_request requests[MAX_TENSORS];
    float *data;                       /* gathered */
    void *sent;                        /* the same in the dtype of the sum; data itself where that is fp32 */
    void *received;                    /* this rank's part of the sum */
    float *wide;                       /* the same in fp32; received itself where the sum is fp32 */
} gradient_slot;

struct fm_fsdp {
    fm_fsdp_unit *units;
    int n_units;
    fm_comm *group;
    int ranks, rank;
    fm_device *device;
    enum fm_dtype dtype, reduce_dtype;
    weight_slot weights[SLOTS];
    gradient_slot gradients[SLOTS];
    int next_gradient;
    double waited_s;
};

void fm_fsdp_unit_plan(fm_fsdp_unit *unit, int ranks, int rank)
{
    unit->shard_elements = 0;
    unit->gathered_elements = 0;
    for (int i = 0; i < unit->n_tensors; i++) {
        fm_fsdp_tensor *const t = &unit->tensors[i];
        t->chunk_rows = (t->rows + ranks - 1) / ranks;
        const int64_t left = t->rows - t->chunk_rows * rank;
        t->local_rows = left < 0 ? 0 : left < t->chunk_rows ? left : t->chunk_rows;
        t->shard_at = unit->shard_elements;
        t->gathered_at = unit->gathered_elements;
        unit->shard_elements += t->chunk_rows * t->columns;
        unit->gathered_elements += t->chunk_rows * t->columns * ranks;
    }
}

static int64_t slot_elements(const fm_fsdp_unit *unit)
{
    return unit->by_chunks ? unit->shard_elements : unit->gathered_elements;
}

static int64_t largest_slot(const fm_fsdp_unit *units, int n_units)
{
    int64_t most = 0;
    for (int u = 0; u < n_units; u++) {
        most = slot_elements(&units[u]) > most ? slot_elements(&units[u]) : most;
    }
    return most;
}

static int64_t largest_shard(const fm_fsdp_unit *units, int n_units)
{
    int64_t most = 0;
    for (int u = 0; u < n_units; u++) {
        most = units[u].shard_elements > most ? units[u].shard_elements : most;
    }
    return most;
}

size_t fm_fsdp_slot_bytes(const fm_fsdp_unit *units, int n_units, int ranks, enum fm_dtype dtype, enum fm_dtype reduce_dtype)
{
    if (ranks == 1) {
        return 0;
    }
    const size_t gathered = (size_t)largest_slot(units, n_units), shard = (size_t)largest_shard(units, n_units);
    const size_t narrow = reduce_dtype == FM_F32 ? 0 : (gathered + shard) * fm_dtype_bytes(reduce_dtype);
    return SLOTS * (gathered * fm_dtype_bytes(dtype) + gathered * sizeof(float) + shard * sizeof(float) + narrow);
}

static int alloc_slots(fm_fsdp *fsdp, int s)
{
    fm_device *const device = fsdp->device;
    gradient_slot *const slot = &fsdp->gradients[s];
    const size_t gathered = (size_t)largest_slot(fsdp->units, fsdp->n_units), shard = (size_t)largest_shard(fsdp->units, fsdp->n_units);
    const size_t sum_bytes = fm_dtype_bytes(fsdp->reduce_dtype);
    fsdp->weights[s].data = fm_device_alloc(device, gathered * fm_dtype_bytes(fsdp->dtype), FM_MEMORY_GATHERED);
    slot->data = fm_device_alloc(device, gathered * sizeof(float), FM_MEMORY_GATHERED);
    slot->wide = fm_device_alloc(device, shard * sizeof(float), FM_MEMORY_GATHERED);
    slot->sent = slot->data;
    slot->received = slot->wide;
    if (fsdp->reduce_dtype != FM_F32) {
        slot->sent = fm_device_alloc(device, gathered * sum_bytes, FM_MEMORY_GATHERED);
        slot->received = fm_device_alloc(device, shard * sum_bytes, FM_MEMORY_GATHERED);
    }
    const bool all = fsdp->weights[s].data != NULL && slot->data != NULL && slot->wide != NULL && slot->sent != NULL;
    return all && slot->received != NULL ? FM_OK : FM_ERR_MEMORY;
}

int fm_fsdp_new(fm_fsdp **out, fm_fsdp_unit *units, int n_units, fm_comm *group, fm_device *device, enum fm_dtype dtype,
                enum fm_dtype reduce_dtype)
{
    fm_fsdp *fsdp = fm_alloc(sizeof *fsdp, FM_MEMORY_HOST);
    *out = fsdp;
    if (fsdp == NULL) {
        return FM_ERR_MEMORY;
    }
    *fsdp = (fm_fsdp){ .units = units, .n_units = n_units, .group = group, .ranks = fm_comm_size(group), .rank = fm_comm_rank(group),
                       .device = device, .dtype = dtype, .reduce_dtype = reduce_dtype };
    int rc = FM_OK;
    for (int s = 0; s < SLOTS; s++) {
        fsdp->weights[s].unit = fsdp->gradients[s].unit = -1;
        if (fsdp->ranks > 1 && rc == FM_OK) {
            rc = alloc_slots(fsdp, s);
        }
    }
    if (rc < 0) {
        fm_fsdp_destroy(fsdp);
        *out = NULL;
    }
    return rc;
}

void fm_fsdp_destroy(fm_fsdp *fsdp)
{
    if (fsdp == NULL) {
        return;
    }
    for (int s = 0; s < SLOTS; s++) {
        fm_device_free(fsdp->device, fsdp->weights[s].data);
        gradient_slot *const slot = &fsdp->gradients[s];
        if (slot->sent != (void *)slot->data) {
            fm_device_free(fsdp->device, slot->sent);
            fm_device_free(fsdp->device, slot->received);
        }
        fm_device_free(fsdp->device, slot->data);
        fm_device_free(fsdp->device, slot->wide);
    }
    fm_free(fsdp);
}

static int wait_requests(fm_fsdp *fsdp, fm_request *requests, int *n)
{
    if (*n == 0) {
        return FM_OK;
    }
    const double start = fm_clock_s();
    int rc = FM_OK;
    for (int i = 0; i < *n; i++) {
        const int one = fm_comm_wait(&requests[i]);
        rc = rc < 0 ? rc : one;
    }
    *n = 0;
    fsdp->waited_s += fm_clock_s() - start;
    return rc;
}

static weight_slot *find_slot(fm_fsdp *fsdp, int u, int chunk)
{
    for (int s = 0; s < SLOTS; s++) {
        if (fsdp->weights[s].unit == u && fsdp->weights[s].chunk == chunk) {
            return &fsdp->weights[s];
        }
    }
    return NULL;
}

/* A slot that nobody uses; one that was prefetched and never used is given up only where `must`. */
static weight_slot *free_slot(fm_fsdp *fsdp, bool must)
{
    for (int s = 0; s < SLOTS; s++) {
        if (fsdp->weights[s].unit < 0) {
            return &fsdp->weights[s];
        }
    }
    for (int s = 0; s < SLOTS && must; s++) {
        if (!fsdp->weights[s].in_use) {
            return &fsdp->weights[s];
        }
    }
    return NULL;
}

static int start_gather(fm_fsdp *fsdp, weight_slot *slot, int u, int chunk)
{
    const fm_fsdp_unit *const unit = &fsdp->units[u];
    const size_t size = fm_dtype_bytes(fsdp->dtype);
    FM_TRY(wait_requests(fsdp, slot->requests, &slot->n_requests));
    slot->unit = u;
    slot->chunk = chunk;
    if (chunk >= 0) {
        const fm_fsdp_tensor *const t = &unit->tensors[0];
        int64_t start, count;
        fm_fsdp_chunk_rows(fsdp, u, chunk, &start, &count);
        if (chunk == fsdp->rank) {
            FM_TRY(fm_device_copy(fsdp->device, slot->data, unit->weight, (size_t)(count * t->columns) * size));
        }
        slot->n_requests = 1;
        return fm_comm_begin_broadcast(fsdp->group, &slot->requests[0], slot->data, count * t->columns, fsdp->dtype, chunk);
    }
    FM_ASSERT(unit->n_tensors <= MAX_TENSORS);
    FM_TRY(fm_comm_group_begin(fsdp->group));
    int rc = FM_OK;
    for (int i = 0; i < unit->n_tensors && rc == FM_OK; i++) {
        const fm_fsdp_tensor *const t = &unit->tensors[i];
        rc = fm_comm_begin_all_gather(fsdp->group, &slot->requests[i], (char *)slot->data + (size_t)t->gathered_at * size,
                                      (const char *)unit->weight + (size_t)t->shard_at * size, t->chunk_rows * t->columns, fsdp->dtype);
        slot->n_requests += rc == FM_OK;
    }
    const int ended = fm_comm_group_end(fsdp->group);
    return rc < 0 ? rc : ended;
}

static int prefetch(fm_fsdp *fsdp, int u, int chunk)
{
    if (fsdp->ranks == 1 || u < 0 || u >= fsdp->n_units || find_slot(fsdp, u, chunk) != NULL) {
        return FM_OK;
    }
    weight_slot *const slot = free_slot(fsdp, false);
    return slot == NULL ? FM_OK : start_gather(fsdp, slot, u, chunk);
}

static int acquire(fm_fsdp *fsdp, int u, int chunk, void **weights)
{
    if (fsdp->ranks == 1) {
        *weights = fsdp->units[u].weight;
        return FM_OK;
    }
    weight_slot *slot = find_slot(fsdp, u, chunk);
    if (slot == NULL) {
        slot = free_slot(fsdp, true);
        FM_ASSERT(slot != NULL);
        FM_TRY(start_gather(fsdp, slot, u, chunk));
    }
    slot->in_use = true;
    *weights = slot->data;
    return wait_requests(fsdp, slot->requests, &slot->n_requests);
}

static void release(fm_fsdp *fsdp, int u, int chunk)
{
    weight_slot *const slot = fsdp->ranks == 1 ? NULL : find_slot(fsdp, u, chunk);
    if (slot != NULL) {
        slot->unit = -1;
        slot->in_use = false;
    }
}

int fm_fsdp_prefetch(fm_fsdp *fsdp, int u)
{
    return prefetch(fsdp, u, -1);
}

int fm_fsdp_acquire(fm_fsdp *fsdp, int u, void **weights)
{
    return acquire(fsdp, u, -1, weights);
}

void fm_fsdp_release(fm_fsdp *fsdp, int u)
{
    release(fsdp, u, -1);
}

/* Adds to the shard what has arrived in a slot, and frees the slot. */
static int take_in(fm_fsdp *fsdp, gradient_slot *slot)
{
    if (slot->unit < 0) {
        return FM_OK;
    }
    FM_TRY(wait_requests(fsdp, slot->requests, &slot->n_requests));
    fm_fsdp_unit *const unit = &fsdp->units[slot->unit];
    if (slot->chunk < 0 || slot->chunk == fsdp->rank) {
        const int64_t n = unit->shard_elements;
        float *const to = unit->gradient;
        const float *const from = slot->wide;
        if (fsdp->reduce_dtype != FM_F32) {
            FM_TRY(fsdp->device->table->convert(fsdp->device, slot->wide, FM_F32, slot->received, fsdp->reduce_dtype, n));
        }
        if (unit->gradient_is_fresh) {
            FM_TRY(fm_device_copy(fsdp->device, to, from, (size_t)n * sizeof *to));
            unit->gradient_is_fresh = false;
        } else {
            FM_TRY(fsdp->device->table->add_f32(fsdp->device, to, from, n));
        }
    }
    slot->unit = -1;
    return FM_OK;
}

static int next_gradient_slot(fm_fsdp *fsdp, gradient_slot **slot, int u, int chunk)
{
    *slot = &fsdp->gradients[fsdp->next_gradient];
    fsdp->next_gradient = (fsdp->next_gradient + 1) % SLOTS;
    FM_TRY(take_in(fsdp, *slot));
    (*slot)->unit = u;
    (*slot)->chunk = chunk;
    return FM_OK;
}

static gradient_slot *find_gradient(fm_fsdp *fsdp, int u, int chunk)
{
    for (int s = 0; s < SLOTS; s++) {
        if (fsdp->gradients[s].unit == u && fsdp->gradients[s].chunk == chunk && fsdp->gradients[s].n_requests == 0) {
            return &fsdp->gradients[s];
        }
    }
    FM_ASSERT(!"a gradient was ended that had not begun");
    return NULL;
}

int fm_fsdp_gradient_begin(fm_fsdp *fsdp, int u, float **gradient, bool *fresh)
{
    fm_fsdp_unit *const unit = &fsdp->units[u];
    if (fsdp->ranks == 1) {
        *gradient = unit->gradient;
        *fresh = unit->gradient_is_fresh;
        return FM_OK;
    }
    gradient_slot *slot;
    FM_TRY(next_gradient_slot(fsdp, &slot, u, -1));
    *gradient = slot->data;
    *fresh = true;
    /* rows that only pad the last chunks are summed too */
    return fm_device_zero(fsdp->device, slot->data, (size_t)unit->gathered_elements * sizeof(float));
}

/* Brings n gathered numbers of a slot into the dtype of the sum. */
static int narrow(fm_fsdp *fsdp, gradient_slot *slot, int64_t n)
{
    return fsdp->reduce_dtype == FM_F32
        ? FM_OK : fsdp->device->table->convert(fsdp->device, slot->sent, fsdp->reduce_dtype, slot->data, FM_F32, n);
}

int fm_fsdp_gradient_end(fm_fsdp *fsdp, int u)
{
    fm_fsdp_unit *const unit = &fsdp->units[u];
    if (fsdp->ranks == 1) {
        unit->gradient_is_fresh = false;
        return FM_OK;
    }
    gradient_slot *const slot = find_gradient(fsdp, u, -1);
    FM_TRY(narrow(fsdp, slot, unit->gathered_elements));
    FM_TRY(fm_comm_group_begin(fsdp->group));
    int rc = FM_OK;
    for (int i = 0; i < unit->n_tensors && rc == FM_OK; i++) {
        const fm_fsdp_tensor *const t = &unit->tensors[i];
        const int64_t size = (int64_t)fm_dtype_bytes(fsdp->reduce_dtype);
        rc = fm_comm_begin_reduce_scatter(fsdp->group, &slot->requests[i], (char *)slot->received + t->shard_at * size,
                                          (const char *)slot->sent + t->gathered_at * size, t->chunk_rows * t->columns,
                                          fsdp->reduce_dtype);
        slot->n_requests += rc == FM_OK;
    }
    const int ended = fm_comm_group_end(fsdp->group);
    return rc < 0 ? rc : ended;
}

int fm_fsdp_gradient_finish(fm_fsdp *fsdp)
{
    for (int s = 0; s < SLOTS; s++) {
        FM_TRY(take_in(fsdp, &fsdp->gradients[(fsdp->next_gradient + s) % SLOTS]));
    }
    return FM_OK;
}

int fm_fsdp_chunks(const fm_fsdp *fsdp)
{
    return fsdp->ranks;
}

void fm_fsdp_chunk_rows(const fm_fsdp *fsdp, int u, int j, int64_t *start, int64_t *count)
{
    const fm_fsdp_tensor *const t = &fsdp->units[u].tensors[0];
    *start = t->chunk_rows * j < t->rows ? t->chunk_rows * j : t->rows;
    *count = t->rows - *start < t->chunk_rows ? t->rows - *start : t->chunk_rows;
}

int fm_fsdp_chunk_prefetch(fm_fsdp *fsdp, int u, int j)
{
    return j < fsdp->ranks ? prefetch(fsdp, u, j) : FM_OK;
}

int fm_fsdp_chunk_acquire(fm_fsdp *fsdp, int u, int j, void **weights)
{
    return acquire(fsdp, u, j, weights);
}

void fm_fsdp_chunk_release(fm_fsdp *fsdp, int u, int j)
{
    release(fsdp, u, j);
}

int fm_fsdp_chunk_gradient_begin(fm_fsdp *fsdp, int u, int j, float **gradient)
{
    fm_fsdp_unit *const unit = &fsdp->units[u];
    if (fsdp->ranks == 1) {
        if (unit->gradient_is_fresh) {
            FM_TRY(fm_device_zero(fsdp->device, unit->gradient, (size_t)unit->shard_elements * sizeof(float)));
            unit->gradient_is_fresh = false;
        }
        *gradient = unit->gradient;
        return FM_OK;
    }
    gradient_slot *slot;
    FM_TRY(next_gradient_slot(fsdp, &slot, u, j));
    *gradient = slot->data;
    return fm_device_zero(fsdp->device, slot->data, (size_t)unit->shard_elements * sizeof(float));
}

int fm_fsdp_chunk_gradient_end(fm_fsdp *fsdp, int u, int j)
{
    if (fsdp->ranks == 1) {
        return FM_OK;
    }
    gradient_slot *const slot = find_gradient(fsdp, u, j);
    const int64_t n = fsdp->units[u].shard_elements;
    FM_TRY(narrow(fsdp, slot, n));
    slot->n_requests = 1;
    return fm_comm_begin_reduce(fsdp->group, &slot->requests[0], slot->received, slot->sent, n, fsdp->reduce_dtype, j);
}

void fm_fsdp_progress(fm_fsdp *fsdp)
{
    int pending = 0;
    for (int s = 0; s < SLOTS; s++) {
        pending += fsdp->weights[s].n_requests + fsdp->gradients[s].n_requests;
    }
    if (pending > 0) {
        fm_comm_progress(fsdp->group);
    }
}

double fm_fsdp_take_waited_s(fm_fsdp *fsdp)
{
    const double waited_s = fsdp->waited_s;
    fsdp->waited_s = 0.0;
    return waited_s;
}
