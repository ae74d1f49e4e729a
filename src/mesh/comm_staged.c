#include "mesh/comm_staged.h"

#include <string.h>

#include "base/memory.h"
#include "mesh/comm_backend.h"

typedef struct {
    fm_comm *inner;
    fm_device *device;
} staged_state;

/* One operation on its way. Kept in fm_request.handle[1]. */
typedef struct {
    fm_request inner;
    char *host;                        /* staging: what is sent, then what is received */
    char *received;                    /* in it; NULL: nothing comes back */
    void *to;                          /* on the device */
    size_t to_bytes;
} staged_pending;

static const staged_state *state_of(const fm_comm *comm)
{
    return comm->state;
}

static void drop(const fm_comm *comm, staged_pending *p)
{
    if (p != NULL) {
        fm_device *const device = state_of(comm)->device;
        device->table->host_free(device, p->host);
        fm_free(p);
    }
}

/* An operation that sends sent_bytes of `from` and receives to_bytes into `to` (NULL: none). In staging what is received stands behind what
 * is sent, or (in_place) over it. */
static int begin(staged_pending **out, fm_comm *comm, const void *from, size_t sent_bytes, void *to, size_t to_bytes, bool in_place)
{
    fm_device *const device = state_of(comm)->device;
    staged_pending *const p = fm_alloc(sizeof *p, FM_MEMORY_HOST);
    *out = NULL;
    if (p == NULL) {
        return FM_ERR_MEMORY;
    }
    const size_t most = sent_bytes > to_bytes ? sent_bytes : to_bytes;
    p->host = device->table->host_alloc(device, in_place ? most : sent_bytes + to_bytes, FM_MEMORY_HOST);
    if (p->host == NULL) {
        fm_free(p);
        return FM_ERR_MEMORY;
    }
    p->received = to == NULL ? NULL : in_place ? p->host : p->host + sent_bytes;
    p->to = to;
    p->to_bytes = to_bytes;
    const int rc = sent_bytes == 0 ? FM_OK : fm_device_copy_out(device, p->host, from, sent_bytes);
    if (rc < 0) {
        drop(comm, p);
        return rc;
    }
    *out = p;
    return FM_OK;
}

/* The request of an operation whose inner part began with `rc`. */
static int began(fm_comm *comm, fm_request *request, staged_pending *p, int rc)
{
    if (rc < 0) {
        drop(comm, p);
        return rc;
    }
    *request = (fm_request){ { comm, p } };
    return FM_OK;
}

static int all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    staged_pending *p;
    FM_TRY(begin(&p, comm, data, bytes, data, bytes, true));
    return began(comm, request, p, fm_comm_begin_all_reduce(state_of(comm)->inner, &p->inner, p->host, n, dtype, op));
}

static int all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    staged_pending *p;
    FM_TRY(begin(&p, comm, in, bytes, out, bytes * (size_t)comm->size, false));
    return began(comm, request, p, fm_comm_begin_all_gather(state_of(comm)->inner, &p->inner, p->received, p->host, n, dtype));
}

static int reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    staged_pending *p;
    FM_TRY(begin(&p, comm, in, bytes * (size_t)comm->size, out, bytes, false));
    return began(comm, request, p, fm_comm_begin_reduce_scatter(state_of(comm)->inner, &p->inner, p->received, p->host, n, dtype));
}

static int broadcast(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    const bool is_root = comm->rank == root;
    staged_pending *p;
    FM_TRY(begin(&p, comm, data, is_root ? bytes : 0, is_root ? NULL : data, bytes, true));
    return began(comm, request, p, fm_comm_begin_broadcast(state_of(comm)->inner, &p->inner, p->host, n, dtype, root));
}

static int reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int root)
{
    const size_t bytes = (size_t)n * fm_dtype_bytes(dtype);
    staged_pending *p;
    FM_TRY(begin(&p, comm, in, bytes, comm->rank == root ? out : NULL, comm->rank == root ? bytes : 0, false));
    return began(comm, request, p, fm_comm_begin_reduce(state_of(comm)->inner, &p->inner, p->received, p->host, n, dtype, root));
}

static int send(fm_comm *comm, fm_request *request, const void *data, int64_t n, enum fm_dtype dtype, int to, int tag)
{
    staged_pending *p;
    FM_TRY(begin(&p, comm, data, (size_t)n * fm_dtype_bytes(dtype), NULL, 0, false));
    return began(comm, request, p, fm_comm_begin_send(state_of(comm)->inner, &p->inner, p->host, n, dtype, to, tag));
}

static int receive(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int from, int tag)
{
    staged_pending *p;
    FM_TRY(begin(&p, comm, NULL, 0, data, (size_t)n * fm_dtype_bytes(dtype), false));
    return began(comm, request, p, fm_comm_begin_receive(state_of(comm)->inner, &p->inner, p->received, n, dtype, from, tag));
}

static int wait_one(fm_request *request)
{
    const fm_comm *const comm = request->handle[0];
    staged_pending *const p = request->handle[1];
    int rc = fm_comm_wait(&p->inner);
    if (rc == FM_OK && p->received != NULL) {
        rc = fm_device_copy_in(state_of(comm)->device, p->to, p->received, p->to_bytes);
    }
    drop(comm, p);
    *request = (fm_request){ { NULL, NULL } };
    return rc;
}

static void progress(fm_comm *comm)
{
    fm_comm_progress(state_of(comm)->inner);
}

static void close_comm(fm_comm *comm)
{
    fm_free(comm->state);
}

static const fm_comm_backend staged = {
    .name = "mpi, through the host",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .broadcast = broadcast,
    .reduce = reduce,
    .send = send,
    .receive = receive,
    .wait = wait_one,
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
    *state = (staged_state){ inner, device };
    comm->backend = &staged;
    memcpy(comm->name, inner->name, sizeof comm->name);
    comm->size = inner->size;
    comm->rank = inner->rank;
    comm->state = state;
    *out = comm;
    return FM_OK;
}
