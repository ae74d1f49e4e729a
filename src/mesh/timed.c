#include "mesh/timed.h"

#include "mesh/comm_backend.h"

static int finish(const fm_comm *comm, int rc)
{
    const int timed = fm_stopwatch_end(comm->stopwatch, comm->stopwatch_row);
    return rc < 0 ? rc : timed;
}

/* X(entry, parameters, arguments): the entries that return a code and take the communicator first */
#define FM_TIMED_LIST(X) \
    X(all_reduce, (fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, enum fm_reduce op), \
      (comm, request, data, count, dtype, op)) \
    X(all_gather, (fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype), \
      (comm, request, out, in, count, dtype)) \
    X(reduce_scatter, (fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype), \
      (comm, request, out, in, count, dtype)) \
    X(broadcast, (fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int root), \
      (comm, request, data, count, dtype, root)) \
    X(reduce, (fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype, int root), \
      (comm, request, out, in, count, dtype, root)) \
    X(send, (fm_comm *comm, fm_request *request, const void *data, int64_t count, enum fm_dtype dtype, int to, int tag), \
      (comm, request, data, count, dtype, to, tag)) \
    X(receive, (fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, int from, int tag), \
      (comm, request, data, count, dtype, from, tag))

#define FM_TIMED(entry, parameters, arguments) \
static int timed_##entry parameters \
{ \
    fm_stopwatch_begin(comm->stopwatch); \
    return finish(comm, comm->plain->entry arguments); \
}
FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED

static int timed_wait(fm_request *request)
{
    const fm_comm *const comm = request->handle[0];
    fm_stopwatch_begin(comm->stopwatch);
    return finish(comm, comm->plain->wait(request));
}

static int timed_group_begin(fm_comm *comm)
{
    return comm->plain->group_begin == NULL ? FM_OK : comm->plain->group_begin(comm);
}

static int timed_group_end(fm_comm *comm)
{
    fm_stopwatch_begin(comm->stopwatch);
    return finish(comm, comm->plain->group_end == NULL ? FM_OK : comm->plain->group_end(comm));
}

static void timed_progress(fm_comm *comm)
{
    fm_stopwatch_begin(comm->stopwatch);
    comm->plain->progress(comm);
    finish(comm, FM_OK);
}

static void close_plain(fm_comm *comm)
{
    comm->plain->close(comm);
}

static const fm_comm_backend timed_backend = {
    .name = "timed",
#define FM_TIMED(entry, parameters, arguments) .entry = timed_##entry,
    FM_TIMED_LIST(FM_TIMED)
#undef FM_TIMED
    .group_begin = timed_group_begin,
    .group_end = timed_group_end,
    .wait = timed_wait,
    .progress = timed_progress,
    .close = close_plain,
};

void fm_comm_time_begin(fm_comm *comm, fm_stopwatch *stopwatch, int row)
{
    if (comm != NULL) {
        FM_ASSERT(comm->stopwatch == NULL);
        comm->plain = comm->backend;
        comm->backend = &timed_backend;
        comm->stopwatch = stopwatch;
        comm->stopwatch_row = row;
    }
}

void fm_comm_time_end(fm_comm *comm)
{
    if (comm != NULL && comm->stopwatch != NULL) {
        comm->backend = comm->plain;
        comm->stopwatch = NULL;
    }
}
