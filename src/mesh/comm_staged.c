#include "mesh/comm_staged.h"

#include <stdio.h>

#include "base/memory.h"
#include "mesh/comm_backend.h"

/* An operation on its way, with its place in the host's memory; afterwards kept for the next one. */
typedef struct passage {
    fm_request inner;
    char *host;
    size_t capacity_bytes;
    bool in_use;
    void *to;                          /* device: where the result goes; NULL: nowhere */
    size_t from_bytes, to_bytes;       /* of the result: where it lies in `host`, and how much it is */
    struct passage *next;
} passage;

typedef struct {
    fm_comm *inner;
    fm_device *device;
    passage *passages;
} staged_state;

/* The smallest unused place that is large enough; else one that is unused grows, or a new one is made. */
static passage *find_passage(const staged_state *state, size_t size_bytes)
{
    passage *fitting = NULL, *unused = NULL;
    for (passage *p = state->passages; p != NULL; p = p->next) {
        if (!p->in_use) {
            unused = p;
            if (p->capacity_bytes >= size_bytes && (fitting == NULL || p->capacity_bytes < fitting->capacity_bytes)) {
                fitting = p;
            }
        }
    }
    return fitting != NULL ? fitting : unused;
}

static int take_passage(passage **out, staged_state *state, size_t size_bytes)
{
    const fm_device_table *const table = state->device->table;
    passage *p = find_passage(state, size_bytes);
    if (p == NULL) {
        p = fm_alloc(sizeof *p, FM_MEMORY_HOST);
        if (p == NULL) {
            return FM_ERR_MEMORY;
        }
        p->next = state->passages;
        state->passages = p;
    }
    if (p->capacity_bytes < size_bytes) {
        table->host_free(state->device, p->host);
        p->capacity_bytes = 0;
        p->host = table->host_alloc(state->device, size_bytes, FM_MEMORY_HOST);
        if (p->host == NULL) {
            return FM_ERR_MEMORY;
        }
        p->capacity_bytes = size_bytes;
    }
    p->in_use = true;
    p->to = NULL;
    *out = p;
    return FM_OK;
}

/* What an operation needs: room in the host's memory, what is copied there, and what comes back. */
typedef struct {
    size_t room_bytes;
    const void *in;                    /* device; NULL: nothing is read */
    size_t in_at_bytes, in_bytes;      /* its place in the room */
    void *out;                         /* device; NULL: nothing is written */
    size_t out_at_bytes, out_bytes;
} plan;

static int begin(fm_comm *comm, fm_request *request, passage **out, const plan *what)
{
    staged_state *const state = comm->state;
    FM_TRY(take_passage(out, state, what->room_bytes));
    passage *const p = *out;
    p->to = what->out;
    p->from_bytes = what->out_at_bytes;
    p->to_bytes = what->out_bytes;
    if (what->in != NULL) {
        const int rc = fm_device_copy_out(state->device, p->host + what->in_at_bytes, what->in, what->in_bytes);
        if (rc < 0) {
            p->in_use = false;
            return rc;
        }
    }
    request->handle[0] = comm;
    request->handle[1] = p;
    return FM_OK;
}

/* After the inner operation was begun. */
static int begun(passage *p, fm_request *request, int rc)
{
    if (rc < 0) {
        p->in_use = false;
        *request = (fm_request){ { NULL, NULL } };
    }
    return rc;
}

static int wait_request(fm_request *request)
{
    const fm_comm *const comm = request->handle[0];
    const staged_state *const state = comm->state;
    passage *const p = request->handle[1];
    *request = (fm_request){ { NULL, NULL } };
    int rc = fm_comm_wait(&p->inner);
    if (rc == FM_OK && p->to != NULL) {
        rc = fm_device_copy_in(state->device, p->to, p->host + p->from_bytes, p->to_bytes);
    }
    p->in_use = false;
    return rc;
}

static fm_comm *inner_of(const fm_comm *comm)
{
    return ((const staged_state *)comm->state)->inner;
}

static size_t bytes_of(int64_t n, enum fm_dtype dtype)
{
    return (size_t)n * fm_dtype_bytes(dtype);
}

/* The inner backend is called directly: comm.c has counted the operation. */

static int all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    fm_comm *const inner = inner_of(comm);
    const size_t bytes = bytes_of(n, dtype);
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = bytes, .in = data, .in_bytes = bytes, .out = data, .out_bytes = bytes }));
    return begun(p, request, inner->backend->all_reduce(inner, &p->inner, p->host, n, dtype, op));
}

static int all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    fm_comm *const inner = inner_of(comm);
    const size_t part = bytes_of(n, dtype), all = part * (size_t)comm->size, own = part * (size_t)comm->rank;
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = all, .in = in, .in_at_bytes = own, .in_bytes = part, .out = out,
                                             .out_bytes = all }));
    return begun(p, request, inner->backend->all_gather(inner, &p->inner, p->host, p->host + own, n, dtype));
}

static int reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    fm_comm *const inner = inner_of(comm);
    const size_t part = bytes_of(n, dtype), all = part * (size_t)comm->size;
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = all + part, .in = in, .in_bytes = all, .out = out, .out_at_bytes = all,
                                             .out_bytes = part }));
    return begun(p, request, inner->backend->reduce_scatter(inner, &p->inner, p->host + all, p->host, n, dtype));
}

static int broadcast(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    fm_comm *const inner = inner_of(comm);
    const size_t bytes = bytes_of(n, dtype);
    const bool is_root = comm->rank == root;
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = bytes, .in = is_root ? data : NULL, .in_bytes = bytes,
                                             .out = is_root ? NULL : data, .out_bytes = bytes }));
    return begun(p, request, inner->backend->broadcast(inner, &p->inner, p->host, n, dtype, root));
}

static int reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int root)
{
    fm_comm *const inner = inner_of(comm);
    const size_t bytes = bytes_of(n, dtype);
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = bytes, .in = in, .in_bytes = bytes, .out = comm->rank == root ? out : NULL,
                                             .out_bytes = bytes }));
    return begun(p, request, inner->backend->reduce(inner, &p->inner, p->host, p->host, n, dtype, root));
}

static int send(fm_comm *comm, fm_request *request, const void *data, int64_t n, enum fm_dtype dtype, int to, int tag)
{
    fm_comm *const inner = inner_of(comm);
    const size_t bytes = bytes_of(n, dtype);
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = bytes, .in = data, .in_bytes = bytes }));
    return begun(p, request, inner->backend->send(inner, &p->inner, p->host, n, dtype, to, tag));
}

static int receive(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int from, int tag)
{
    fm_comm *const inner = inner_of(comm);
    const size_t bytes = bytes_of(n, dtype);
    passage *p;
    FM_TRY(begin(comm, request, &p, &(plan){ .room_bytes = bytes, .out = data, .out_bytes = bytes }));
    return begun(p, request, inner->backend->receive(inner, &p->inner, p->host, n, dtype, from, tag));
}

static void progress(fm_comm *comm)
{
    fm_comm_progress(inner_of(comm));
}

static void close_comm(fm_comm *comm)
{
    staged_state *const state = comm->state;
    while (state->passages != NULL) {
        passage *const p = state->passages;
        state->passages = p->next;
        state->device->table->host_free(state->device, p->host);
        fm_free(p);
    }
    fm_free(state);
}

static const fm_comm_backend staged_backend = {
    .name = "mpi, through the host",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .broadcast = broadcast,
    .reduce = reduce,
    .send = send,
    .receive = receive,
    .wait = wait_request,
    .progress = progress,
    .close = close_comm,
};

int fm_comm_new_staged(fm_comm **out, fm_comm *inner, fm_device *device)
{
    *out = NULL;
    if (inner == NULL) {
        return FM_OK;
    }
    fm_comm *const comm = fm_alloc(sizeof *comm, FM_MEMORY_HOST);
    staged_state *const state = fm_alloc(sizeof *state, FM_MEMORY_HOST);
    if (comm == NULL || state == NULL) {
        fm_free(comm);
        fm_free(state);
        return FM_ERR_MEMORY;
    }
    *state = (staged_state){ .inner = inner, .device = device };
    *comm = (fm_comm){ .backend = &staged_backend, .size = inner->size, .rank = inner->rank, .state = state };
    snprintf(comm->name, sizeof comm->name, "%s", inner->name);
    *out = comm;
    return FM_OK;
}
