/* The MPI backend: every MPI call of the library is in this file, but the watchdog's (watch.c). */
#include <limits.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

#include "base/memory.h"
#include "mesh/comm_backend.h"

/* MPI counts are int: a larger operation is cut into pieces of this many elements, all in flight at once. */
enum { PIECE = 1 << 30, MAX_PIECES = 64 };

/* One operation: its MPI requests. Kept in fm_request.handle[1]. */
typedef struct mpi_pending mpi_pending;
struct mpi_pending {
    mpi_pending *next;                 /* spare one */
    const char *what;
    int64_t number;                    /* the group's n-th */
    int n;
    MPI_Request requests[MAX_PIECES];
};

/* Operations find their place here, so that none fails on one rank alone for want of memory, which would put it out of step; only who
 * has more than so many in flight takes more. */
enum { PLACES = 32 };

typedef struct {
    MPI_Comm comm;
    int64_t n_begun;                   /* operations: also those that comm.c did not count on this communicator (comm_staged.c) */
    MPI_Op sum_16[2];                  /* MPI has no bf16 and no f16: sums of our own, [0] bf16, [1] f16 */
    mpi_pending *spare;
    mpi_pending places[PLACES];
} mpi_state;

static MPI_Datatype type_of(enum fm_dtype dtype)
{
    switch (dtype) {
    case FM_F32: return MPI_FLOAT;
    case FM_F64: return MPI_DOUBLE;
    case FM_I32: return MPI_INT32_T;
    case FM_I64: return MPI_INT64_T;
    case FM_BF16:
    case FM_F16: return MPI_UINT16_T;
    default: return MPI_BYTE;
    }
}

static void sum_bf16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    const uint16_t *a = in;
    uint16_t *b = inout;
    for (int i = 0; i < *n; i++) {
        b[i] = fm_f32_to_bf16(fm_bf16_to_f32(a[i]) + fm_bf16_to_f32(b[i]));
    }
}

static void sum_f16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    const uint16_t *a = in;
    uint16_t *b = inout;
    for (int i = 0; i < *n; i++) {
        b[i] = fm_f32_to_f16(fm_f16_to_f32(a[i]) + fm_f16_to_f32(b[i]));
    }
}

static MPI_Op op_of(const mpi_state *state, enum fm_dtype dtype, enum fm_reduce op)
{
    if (dtype == FM_BF16 || dtype == FM_F16) {
        FM_ASSERT(op == FM_SUM);
        return state->sum_16[dtype == FM_F16];
    }
    return op == FM_SUM ? MPI_SUM : op == FM_MAX ? MPI_MAX : MPI_MIN;
}

static int check(int mpi_rc, const fm_comm *comm, const char *what)
{
    if (mpi_rc == MPI_SUCCESS) {
        return FM_OK;
    }
    char text[MPI_MAX_ERROR_STRING] = "";
    int length;
    MPI_Error_string(mpi_rc, text, &length);
    return fm_fail(FM_ERR_COMM, "%s over the group %s failed: %s", what, comm->name, text);
}

/* The operation is over, or was never begun: its place is free. */
static void end(const fm_comm *comm, fm_request *request)
{
    mpi_state *const state = comm->state;
    mpi_pending *const pending = request->handle[1];
    pending->next = state->spare;
    state->spare = pending;
    *request = (fm_request){ { NULL, NULL } };
}

static int begin(fm_comm *comm, fm_request *request, mpi_pending **pending, const char *what)
{
    mpi_state *const state = comm->state;
    *pending = state->spare != NULL ? state->spare : fm_alloc(sizeof **pending, FM_MEMORY_HOST);
    if (*pending == NULL) {
        return FM_ERR_MEMORY;
    }
    state->spare = (*pending)->next;
    (*pending)->what = what;
    (*pending)->number = ++state->n_begun;
    (*pending)->n = 0;
    request->handle[0] = comm;
    request->handle[1] = *pending;
    return FM_OK;
}

/* As MPI_Waitall, with a look at the clock now and then. */
static int wait_watched(const fm_comm *comm, mpi_pending *pending, MPI_Status *statuses)
{
    enum { POLLS_BETWEEN_LOOKS = 256 };
    int done = 0, rc = MPI_SUCCESS;
    double since_s = 0.0;
    for (int polls = 1; !done && rc == MPI_SUCCESS; polls = polls % POLLS_BETWEEN_LOOKS + 1) {
        rc = MPI_Testall(pending->n, pending->requests, &done, statuses);
        if (!done && polls == POLLS_BETWEEN_LOOKS) {
            fm_watch_place place = { .number = pending->number };
            snprintf(place.operation, sizeof place.operation, "%s", pending->what);
            snprintf(place.group, sizeof place.group, "%s", comm->name);
            fm_watch_look(comm->watch, &since_s, &place);
        }
    }
    return rc;
}

/* Of several requests MPI only says that one has failed; which and why stands in its status. */
static int reason_of(int mpi_rc, const MPI_Status *statuses, int n)
{
    int class = MPI_SUCCESS;
    MPI_Error_class(mpi_rc, &class);
    for (int i = 0; i < n && class == MPI_ERR_IN_STATUS; i++) {
        if (statuses[i].MPI_ERROR != MPI_SUCCESS && statuses[i].MPI_ERROR != MPI_ERR_PENDING) {
            return statuses[i].MPI_ERROR;
        }
    }
    return mpi_rc;
}

static int wait_all(fm_request *request)
{
    const fm_comm *comm = request->handle[0];
    mpi_pending *pending = request->handle[1];
    MPI_Status statuses[MAX_PIECES];
    const int mpi_rc = comm->watch != NULL ? wait_watched(comm, pending, statuses)
                                           : MPI_Waitall(pending->n, pending->requests, statuses);
    const int rc = check(mpi_rc == MPI_SUCCESS ? mpi_rc : reason_of(mpi_rc, statuses, pending->n), comm, pending->what);
    end(comm, request);
    return rc;
}

/* After MPI was asked to begin (a part of) the operation. */
static int started(int mpi_rc, const fm_comm *comm, fm_request *request)
{
    const mpi_pending *const pending = request->handle[1];
    const int rc = check(mpi_rc, comm, pending->what);
    if (rc < 0) {
        end(comm, request);
    }
    return rc;
}

/* Cuts [0, count) into pieces and calls `start` for each. */
typedef int piece_fn(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int argument, MPI_Request *request);

static int in_pieces(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int argument,
                     piece_fn *start, const char *what)
{
    if (n > (int64_t)PIECE * MAX_PIECES) {
        return fm_fail(FM_ERR_COMM, "%s of %lld elements: too large", what, (long long)n);
    }
    mpi_pending *pending;
    FM_TRY(begin(comm, request, &pending, what));
    const size_t size = fm_dtype_bytes(dtype);
    for (int64_t at = 0; at < n; at += PIECE) {
        const int part = (int)(n - at < PIECE ? n - at : PIECE);
        char *const to = out == NULL ? NULL : (char *)out + (size_t)at * size;
        const char *const from = in == NULL ? NULL : (const char *)in + (size_t)at * size;
        FM_TRY(started(start(comm, to, from, part, dtype, argument, &pending->requests[pending->n++]), comm, request));
    }
    return FM_OK;
}

static const mpi_state *state_of(const fm_comm *comm)
{
    return comm->state;
}

static int start_all_reduce(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int op, MPI_Request *request)
{
    (void)in;
    return MPI_Iallreduce(MPI_IN_PLACE, out, n, type_of(dtype), op_of(state_of(comm), dtype, (enum fm_reduce)op),
                          state_of(comm)->comm, request);
}

static int all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    return in_pieces(comm, request, data, data, n, dtype, (int)op, start_all_reduce, "all-reduce");
}

static int start_broadcast(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int root, MPI_Request *request)
{
    (void)in;
    return MPI_Ibcast(out, n, type_of(dtype), root, state_of(comm)->comm, request);
}

static int broadcast(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    return in_pieces(comm, request, data, data, n, dtype, root, start_broadcast, "broadcast");
}

static int start_reduce(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int root, MPI_Request *request)
{
    const bool in_place = comm->rank == root && out == in;
    return MPI_Ireduce(in_place ? MPI_IN_PLACE : in, comm->rank == root ? out : NULL, n, type_of(dtype),
                       op_of(state_of(comm), dtype, FM_SUM), root, state_of(comm)->comm, request);
}

static int reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int root)
{
    return in_pieces(comm, request, out, in, n, dtype, root, start_reduce, "reduce");
}

static int start_send(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int packed, MPI_Request *request)
{
    (void)out;
    return MPI_Isend(in, n, type_of(dtype), packed & 0xffff, packed >> 16, state_of(comm)->comm, request);
}

static int start_receive(const fm_comm *comm, char *out, const char *in, int n, enum fm_dtype dtype, int packed, MPI_Request *request)
{
    (void)in;
    return MPI_Irecv(out, n, type_of(dtype), packed & 0xffff, packed >> 16, state_of(comm)->comm, request);
}

static int send(fm_comm *comm, fm_request *request, const void *data, int64_t n, enum fm_dtype dtype, int to, int tag)
{
    return in_pieces(comm, request, NULL, data, n, dtype, to | tag << 16, start_send, "send");
}

static int receive(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int from, int tag)
{
    return in_pieces(comm, request, data, NULL, n, dtype, from | tag << 16, start_receive, "receive");
}

/* A gather or scatter is not cut into pieces: its contributions lie apart. */
static int check_count(int *n, int64_t count)
{
    *n = (int)count;
    return count <= INT_MAX ? FM_OK : fm_fail(FM_ERR_COMM, "a contribution of %lld elements to one collective is too large",
                                              (long long)count);
}

static int all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype)
{
    int n;
    FM_TRY(check_count(&n, count));
    mpi_pending *pending;
    FM_TRY(begin(comm, request, &pending, "all-gather"));
    const bool in_place = in == (char *)out + (size_t)comm->rank * (size_t)count * fm_dtype_bytes(dtype);
    pending->n = 1;
    return started(MPI_Iallgather(in_place ? MPI_IN_PLACE : in, n, type_of(dtype), out, n, type_of(dtype), state_of(comm)->comm,
                                  &pending->requests[0]), comm, request);
}

static int reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t count, enum fm_dtype dtype)
{
    int n;
    FM_TRY(check_count(&n, count));
    mpi_pending *pending;
    FM_TRY(begin(comm, request, &pending, "reduce-scatter"));
    pending->n = 1;
    return started(MPI_Ireduce_scatter_block(in, out, n, type_of(dtype), op_of(state_of(comm), dtype, FM_SUM), state_of(comm)->comm,
                                             &pending->requests[0]), comm, request);
}

static void progress(fm_comm *comm)
{
    int flag;
    MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, state_of(comm)->comm, &flag, MPI_STATUS_IGNORE);
}

static void close_comm(fm_comm *comm)
{
    mpi_state *state = comm->state;
    for (int i = 0; i < 2; i++) {
        MPI_Op_free(&state->sum_16[i]);
    }
    MPI_Comm_free(&state->comm);
    while (state->spare != NULL) {
        mpi_pending *const spare = state->spare;
        state->spare = spare->next;
        if (spare < state->places || spare >= state->places + PLACES) {
            fm_free(spare);
        }
    }
    fm_free(state);
}

const fm_comm_backend fm_comm_backend_mpi = {
    .name = "mpi",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .broadcast = broadcast,
    .reduce = reduce,
    .send = send,
    .receive = receive,
    .wait = wait_all,
    .progress = progress,
    .close = close_comm,
};

int fm_comm_mpi_split(fm_comm **out, const char *name, const void *mpi_comm, int color, int key)
{
    *out = NULL;
    MPI_Comm made;
    if (MPI_Comm_split(*(const MPI_Comm *)mpi_comm, color < 0 ? MPI_UNDEFINED : color, key, &made) != MPI_SUCCESS) {
        return fm_fail(FM_ERR_COMM, "the group %s could not be made", name);
    }
    if (made == MPI_COMM_NULL) {
        return FM_OK;
    }
    int size;
    MPI_Comm_size(made, &size);
    if (size == 1) {
        MPI_Comm_free(&made);
        return FM_OK;
    }
    MPI_Comm_set_errhandler(made, MPI_ERRORS_RETURN);
    fm_comm *comm = fm_alloc(sizeof *comm, FM_MEMORY_HOST);
    mpi_state *state = fm_alloc(sizeof *state, FM_MEMORY_HOST);
    if (comm == NULL || state == NULL) {
        fm_free(comm);
        fm_free(state);
        MPI_Comm_free(&made);
        return FM_ERR_MEMORY;
    }
    for (int p = 0; p < PLACES; p++) {
        state->places[p].next = state->spare;
        state->spare = &state->places[p];
    }
    state->comm = made;
    MPI_Op_create(sum_bf16, 1, &state->sum_16[0]);
    MPI_Op_create(sum_f16, 1, &state->sum_16[1]);
    comm->backend = &fm_comm_backend_mpi;
    snprintf(comm->name, sizeof comm->name, "%s", name);
    comm->size = size;
    MPI_Comm_rank(made, &comm->rank);
    comm->state = state;
    *out = comm;
    return FM_OK;
}

int fm_comm_new_world(fm_comm **out, const void *mpi_comm)
{
    int rank;
    MPI_Comm_rank(*(const MPI_Comm *)mpi_comm, &rank);
    return fm_comm_mpi_split(out, "world", mpi_comm, 0, rank);
}

int fm_comm_ranks(int *out, const void *mpi_comm)
{
    int started;
    if (MPI_Initialized(&started) != MPI_SUCCESS || !started) {
        return fm_fail(FM_ERR_COMM, "a communicator was given, but MPI was not started: call MPI_Init first, or give NULL for one rank");
    }
    MPI_Comm_size(*(const MPI_Comm *)mpi_comm, out);
    return FM_OK;
}

int fm_comm_ranks_of_node(int *size, int *rank, const void *mpi_comm)
{
    MPI_Comm node;
    if (MPI_Comm_split_type(*(const MPI_Comm *)mpi_comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &node) != MPI_SUCCESS) {
        return fm_fail(FM_ERR_COMM, "the ranks of this machine could not be counted");
    }
    MPI_Comm_size(node, size);
    MPI_Comm_rank(node, rank);
    MPI_Comm_free(&node);
    return FM_OK;
}

const char *fm_comm_mpi_version(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(text, &length);
    text[strcspn(text, "\n")] = '\0';
    return text;
}
