#include "mesh/comm.h"

#include <string.h>

#include "base/memory.h"
#include "mesh/comm_backend.h"

int fm_comm_size(const fm_comm *comm)
{
    return comm == NULL ? 1 : comm->size;
}

int fm_comm_rank(const fm_comm *comm)
{
    return comm == NULL ? 0 : comm->rank;
}

const char *fm_comm_name(const fm_comm *comm)
{
    return comm == NULL ? "alone" : comm->name;
}

const fm_comm_traffic *fm_comm_get_traffic(const fm_comm *comm)
{
    static const fm_comm_traffic none;
    return comm == NULL ? &none : &comm->traffic;
}

static void count(fm_comm *comm, enum fm_traffic kind, int64_t elements, enum fm_dtype dtype)
{
    comm->traffic.calls[kind]++;
    comm->traffic.bytes[kind] += elements * (int64_t)fm_dtype_bytes(dtype);
}

/* What a collective over one rank does: nothing, or a copy. */
static int copy_alone(fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    *request = (fm_request){ { NULL, NULL } };
    if (out != in && n > 0) {
        memcpy(out, in, (size_t)n * fm_dtype_bytes(dtype));
    }
    return FM_OK;
}

int fm_comm_begin_all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    if (comm == NULL || n == 0) {
        return copy_alone(request, data, data, n, dtype);
    }
    count(comm, FM_TRAFFIC_ALL_REDUCE, n, dtype);
    return comm->backend->all_reduce(comm, request, data, n, dtype, op);
}

int fm_comm_begin_all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    if (comm == NULL || n == 0) {
        return copy_alone(request, out, in, n, dtype);
    }
    count(comm, FM_TRAFFIC_ALL_GATHER, n * comm->size, dtype);
    return comm->backend->all_gather(comm, request, out, in, n, dtype);
}

int fm_comm_begin_reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    if (comm == NULL || n == 0) {
        return copy_alone(request, out, in, n, dtype);
    }
    count(comm, FM_TRAFFIC_REDUCE_SCATTER, n * comm->size, dtype);
    return comm->backend->reduce_scatter(comm, request, out, in, n, dtype);
}

int fm_comm_begin_broadcast(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    if (comm == NULL || n == 0) {
        return copy_alone(request, data, data, n, dtype);
    }
    count(comm, FM_TRAFFIC_BROADCAST, n, dtype);
    return comm->backend->broadcast(comm, request, data, n, dtype, root);
}

int fm_comm_begin_reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int root)
{
    if (comm == NULL || n == 0) {
        return copy_alone(request, out, in, n, dtype);
    }
    count(comm, FM_TRAFFIC_REDUCE, n, dtype);
    return comm->backend->reduce(comm, request, out, in, n, dtype, root);
}

int fm_comm_begin_send(fm_comm *comm, fm_request *request, const void *data, int64_t n, enum fm_dtype dtype, int to, int tag)
{
    FM_ASSERT(comm != NULL);
    count(comm, FM_TRAFFIC_SEND, n, dtype);
    return comm->backend->send(comm, request, data, n, dtype, to, tag);
}

int fm_comm_begin_receive(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int from, int tag)
{
    FM_ASSERT(comm != NULL);
    count(comm, FM_TRAFFIC_RECEIVE, n, dtype);
    return comm->backend->receive(comm, request, data, n, dtype, from, tag);
}

int fm_comm_group_begin(fm_comm *comm)
{
    return comm == NULL || comm->backend->group_begin == NULL ? FM_OK : comm->backend->group_begin(comm);
}

int fm_comm_group_end(fm_comm *comm)
{
    return comm == NULL || comm->backend->group_end == NULL ? FM_OK : comm->backend->group_end(comm);
}

int fm_comm_wait(fm_request *request)
{
    if (request->handle[0] == NULL) {
        return FM_OK;
    }
    const fm_comm *comm = request->handle[0];
    return comm->backend->wait(request);
}

void fm_comm_progress(fm_comm *comm)
{
    if (comm != NULL) {
        comm->backend->progress(comm);
    }
}

int fm_comm_all_reduce(fm_comm *comm, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    fm_request request;
    FM_TRY(fm_comm_begin_all_reduce(comm, &request, data, n, dtype, op));
    return fm_comm_wait(&request);
}

int fm_comm_all_gather(fm_comm *comm, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    fm_request request;
    FM_TRY(fm_comm_begin_all_gather(comm, &request, out, in, n, dtype));
    return fm_comm_wait(&request);
}

int fm_comm_reduce_scatter(fm_comm *comm, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    fm_request request;
    FM_TRY(fm_comm_begin_reduce_scatter(comm, &request, out, in, n, dtype));
    return fm_comm_wait(&request);
}

int fm_comm_broadcast(fm_comm *comm, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    fm_request request;
    FM_TRY(fm_comm_begin_broadcast(comm, &request, data, n, dtype, root));
    return fm_comm_wait(&request);
}

int fm_comm_barrier(fm_comm *comm)
{
    int32_t nothing = 0;
    return fm_comm_all_reduce(comm, &nothing, 1, FM_I32, FM_SUM);
}

int fm_comm_agree(fm_comm *comm, int code)
{
    if (comm == NULL) {
        return code;
    }
    int64_t worst = code;
    FM_TRY(fm_comm_all_reduce(comm, &worst, 1, FM_I64, FM_MIN));
    if (worst >= 0) {
        return code;
    }
    int64_t speaker = code == worst ? comm->rank : comm->size;
    FM_TRY(fm_comm_all_reduce(comm, &speaker, 1, FM_I64, FM_MIN));
    char *text = speaker == comm->rank ? fm_strdup(fm_error_message()) : NULL;
    size_t size_bytes = text == NULL ? 0 : strlen(text);
    const int told = fm_comm_broadcast_text(comm, &text, &size_bytes, (int)speaker);
    if (text != NULL) {
        fm_fail_with((int)worst, text);
    } else if (told == FM_OK || told == FM_ERR_MEMORY) {
        fm_fail((int)worst, "rank %lld of the group %s has failed, and there was no memory for what it said", (long long)speaker,
                comm->name);
    }                                  /* else the sentence of the broadcast that failed */
    fm_free(text);
    if (told == FM_OK && strcmp(comm->name, "world") == 0) {
        fm_error_set_agreed();
    }
    return (int)worst;
}

int fm_comm_broadcast_text(fm_comm *comm, char **data, size_t *size_bytes, int root)
{
    if (comm == NULL) {
        return FM_OK;
    }
    int64_t length = (int64_t)*size_bytes;
    FM_TRY(fm_comm_broadcast(comm, &length, 1, FM_I64, root));
    int rc = FM_OK;
    if (comm->rank != root) {
        *data = fm_alloc((size_t)length + 1, FM_MEMORY_HOST);
        *size_bytes = (size_t)length;
        rc = *data == NULL ? FM_ERR_MEMORY : FM_OK;
    }
    int32_t failed = rc < 0;           /* not fm_comm_agree: that sends a text itself */
    FM_TRY(fm_comm_all_reduce(comm, &failed, 1, FM_I32, FM_MAX));
    if (failed) {
        if (comm->rank != root) {
            fm_free(*data);
            *data = NULL;
        }
        return rc < 0 ? rc : fm_fail(FM_ERR_MEMORY, "out of memory on another rank: %lld bytes", (long long)length);
    }
    return fm_comm_broadcast(comm, *data, length, FM_U8, root);
}

void fm_comm_destroy(fm_comm *comm)
{
    if (comm != NULL) {
        comm->backend->close(comm);
        fm_free(comm);
    }
}
