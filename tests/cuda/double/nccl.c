/* libnccl.so.2's part that finemesh uses, over MPI. As strict as NCCL, and stricter where NCCL would hang or give wrong numbers:
 * communicators that are not ready are refused, and so is the first operation's stream order (it is queued when its communicator has
 * been asked for its state); ranks that call different things end the program; buffers must lie in device memory; a send is not
 * delivered before it is received. The doubles' settings are in cuda_double.h; here also
 *     FM_DOUBLE_FAIL      operation@N=CODE: the N-th operation never ends, its communicator has the error CODE
 *     FM_DOUBLE_SILENT    1: peers do not hear of an abort, as between GPUs of one machine */
#include "nccl.h"

#include <mpi.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cuda_double.h"
#include "numbers.h"
#include "settings.h"

enum { TAG_DATA, TAG_ABORT, MAX_GROUP = 256 };

enum what { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, REDUCE, SEND, RECEIVE };

static const char *const names[] = { "an all-reduce", "an all-gather", "a reduce-scatter", "a broadcast", "a reduce", "a send", "a receive" };

typedef struct {
    enum what what;
    const void *in;
    void *out;
    size_t count;
    ncclDataType_t type;
    ncclRedOp_t op;
    int peer;                          /* or root */
    ncclComm_t comm;
    cudaStream_t stream;
    int64_t mark[2];                   /* of a collective: what is called, and its negative; their maxima must be equal */
    MPI_Request requests[2];
} operation;

/* Operations of one communicator and stream that were called together. */
typedef struct {
    ncclComm_t comm;
    cudaStream_t stream;
    bool started, fails;
    int n;
    operation operations[];
} batch;

struct ncclComm {
    MPI_Comm mpi;
    int size, rank;
    enum { COMM_NEW, COMM_SPLITTING, COMM_READY, COMM_FINALIZED } state;
    ncclResult_t error;
    bool aborted, connected;
    batch *held;                       /* the first: queued when the state is asked for */
    int polls_left;                    /* before something that is in progress is done */
    bool is_meeting;                   /* all ranks come to a barrier before they block in a split of MPI's */
    MPI_Request meeting;
    ncclUniqueId id;
    int color, key;                    /* of a split in progress */
    ncclComm_t made, *made_at;
    char message[128];
};

static struct {
    MPI_Op sum_16[2];                  /* [0] bf16, [1] f16 */
    bool has_ops;
    int depth, n;
    operation group[MAX_GROUP];
    long n_init, n_split, n_operations;
} state;

static void fault(const char *text, const operation *o)
{
    fprintf(stderr, "nccl double: %s: %s of %zu elements (type %d) on rank %d of %d\n", text, names[o->what], o->count, (int)o->type,
            o->comm->rank, o->comm->size);
    abort();
}

/* ---- communicators ---- */

ncclResult_t ncclGetVersion(int *version)
{
    *version = (int)setting("FM_DOUBLE_NCCL", NCCL_VERSION_CODE);
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result)
{
    static const char *const texts[] = { "no error", "unhandled cuda error", "unhandled system error", "internal error",
                                         "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                         "NCCL operation in progress" };
    return (unsigned)result < sizeof texts / sizeof texts[0] ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm)
{
    return comm == NULL ? "" : comm->message;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%p of %d", (void *)id, (int)setting("PMI_RANK", 0));
    return ncclSuccess;
}

static ncclResult_t fail(ncclComm_t comm, ncclResult_t error, const char *message)
{
    comm->error = error;
    snprintf(comm->message, sizeof comm->message, "%s", message);
    return error;
}

static ncclComm_t new_comm(int size, int rank)
{
    const ncclComm_t comm = calloc(1, sizeof *comm);
    if (comm != NULL) {
        comm->size = size;
        comm->rank = rank;
        comm->mpi = MPI_COMM_NULL;
        comm->polls_left = 2;
    }
    return comm;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int size, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    const int failure = setting_failure("FM_DOUBLE_FAIL", "ncclCommInitRankConfig", &state.n_init);
    int ranks;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (failure != 0 || size != ranks || config == NULL || config->blocking != 0 || config->magic != 0xcafebeef) {
        return failure != 0 ? (ncclResult_t)failure : ncclInvalidUsage;
    }
    *comm = new_comm(size, rank);
    if (*comm == NULL) {
        return ncclSystemError;
    }
    (*comm)->id = id;
    return ncclInProgress;
}

static bool has_met(ncclComm_t comm, MPI_Comm mpi)
{
    int done = 0;
    if (!comm->is_meeting) {
        MPI_Ibarrier(mpi, &comm->meeting);
        comm->is_meeting = true;
    }
    MPI_Test(&comm->meeting, &done, MPI_STATUS_IGNORE);
    comm->is_meeting = !done;
    return done;
}

static ncclResult_t begin(ncclComm_t comm)
{
    if (!has_met(comm, MPI_COMM_WORLD)) {
        return ncclInProgress;
    }
    MPI_Comm_split(MPI_COMM_WORLD, 0, comm->rank, &comm->mpi);
    ncclUniqueId id = comm->id;
    MPI_Bcast(&id, sizeof id, MPI_BYTE, 0, comm->mpi);
    comm->state = COMM_READY;
    return memcmp(&id, &comm->id, sizeof id) == 0 ? ncclSuccess : fail(comm, ncclInvalidUsage, "ranks came with different ids");
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *made, ncclConfig_t *config)
{
    const int failure = setting_failure("FM_DOUBLE_FAIL", "ncclCommSplit", &state.n_split);
    if (failure != 0 || comm->state != COMM_READY || config == NULL || config->blocking != 0) {
        return failure != 0 ? (ncclResult_t)failure : ncclInvalidUsage;
    }
    comm->state = COMM_SPLITTING;
    comm->polls_left = 2;
    comm->color = color;
    comm->key = key;
    comm->made_at = made;
    return ncclInProgress;
}

static ncclResult_t split(ncclComm_t comm)
{
    MPI_Comm mpi;
    if (!has_met(comm, comm->mpi)) {
        return ncclInProgress;
    }
    MPI_Comm_split(comm->mpi, comm->color < 0 ? MPI_UNDEFINED : comm->color, comm->key, &mpi);
    *comm->made_at = NULL;
    if (mpi != MPI_COMM_NULL) {
        int size, rank;
        MPI_Comm_size(mpi, &size);
        MPI_Comm_rank(mpi, &rank);
        *comm->made_at = new_comm(size, rank);
        (*comm->made_at)->mpi = mpi;
        (*comm->made_at)->state = COMM_READY;
    }
    comm->state = COMM_READY;
    return ncclSuccess;
}

static void look_for_aborts(ncclComm_t comm)
{
    int there = 0;
    MPI_Status status;
    MPI_Iprobe(MPI_ANY_SOURCE, TAG_ABORT, comm->mpi, &there, &status);
    if (there && comm->error == ncclSuccess) {
        char text[64];
        snprintf(text, sizeof text, "rank %d of the communicator went away", status.MPI_SOURCE);
        fail(comm, ncclRemoteError, text);
    }
}

static void queue(batch *b);

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    if (comm->mpi != MPI_COMM_NULL && comm->state != COMM_FINALIZED) {
        look_for_aborts(comm);
    }
    *error = comm->error;
    if (comm->error != ncclSuccess) {
        return ncclSuccess;
    }
    if (comm->polls_left > 0 && --comm->polls_left > 0) {
        *error = ncclInProgress;
        return ncclSuccess;
    }
    *error = comm->state == COMM_NEW ? begin(comm) : comm->state == COMM_SPLITTING ? split(comm) : ncclSuccess;
    if (comm->held != NULL) {
        batch *const first = comm->held;
        comm->held = NULL;
        comm->connected = true;
        queue(first);
    }
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *size)
{
    *size = comm->size;
    return ncclSuccess;
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank)
{
    *rank = comm->rank;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    comm->state = COMM_FINALIZED;
    comm->polls_left = 2;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    if (comm->state != COMM_FINALIZED || comm->polls_left > 0) {
        return ncclInvalidUsage;
    }
    MPI_Comm_free(&comm->mpi);
    free(comm);
    return ncclSuccess;
}

/* Operations that hang come to an end, peers hear of it. The communicator stays: queued operations look at it. */
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    comm->aborted = true;
    const bool is_silent = setting("FM_DOUBLE_SILENT", 0) != 0;
    for (int r = 0; comm->mpi != MPI_COMM_NULL && !is_silent && r < comm->size; r++) {
        MPI_Request request;
        if (r != comm->rank && MPI_Isend(NULL, 0, MPI_BYTE, r, TAG_ABORT, comm->mpi, &request) == MPI_SUCCESS) {
            MPI_Request_free(&request);
        }
    }
    return ncclSuccess;
}

/* ---- operations ---- */

static size_t type_bytes(ncclDataType_t type)
{
    return type <= ncclUint8 ? 1 : type <= ncclUint32 || type == ncclFloat32 ? 4 : type == ncclFloat16 || type == ncclBfloat16 ? 2 : 8;
}

static MPI_Datatype mpi_type(ncclDataType_t type)
{
    switch (type) {
    case ncclInt32: return MPI_INT32_T;
    case ncclInt64: return MPI_INT64_T;
    case ncclFloat32: return MPI_FLOAT;
    case ncclFloat64: return MPI_DOUBLE;
    case ncclFloat16:
    case ncclBfloat16: return MPI_UINT16_T;
    default: return MPI_UINT8_T;
    }
}

static void sum_bf16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *n; i++) {
        ((uint16_t *)inout)[i] = to_bf16(from_bf16(((const uint16_t *)in)[i]) + from_bf16(((uint16_t *)inout)[i]));
    }
}

static void sum_f16(void *in, void *inout, int *n, MPI_Datatype *type)
{
    (void)type;
    for (int i = 0; i < *n; i++) {
        ((uint16_t *)inout)[i] = to_f16(from_f16(((const uint16_t *)in)[i]) + from_f16(((uint16_t *)inout)[i]));
    }
}

static MPI_Op mpi_op(const operation *o)
{
    if (!state.has_ops) {
        MPI_Op_create(sum_bf16, 1, &state.sum_16[0]);
        MPI_Op_create(sum_f16, 1, &state.sum_16[1]);
        state.has_ops = true;
    }
    if (type_bytes(o->type) == 2) {
        if (o->op != ncclSum) {
            fault("only sums of 16-bit numbers are known", o);
        }
        return state.sum_16[o->type == ncclFloat16];
    }
    return o->op == ncclSum ? MPI_SUM : o->op == ncclMax ? MPI_MAX : MPI_MIN;
}

/* Ranks must call the same thing in the same order: their marks are compared. */
static void start_mark(operation *o)
{
    o->mark[0] = (((int64_t)o->what * 16 + o->type) * 8 + o->op) * 1024 + o->peer;
    o->mark[0] = o->mark[0] * 1000003 + (int64_t)o->count;
    o->mark[1] = -o->mark[0];
    MPI_Iallreduce(MPI_IN_PLACE, o->mark, 2, MPI_INT64_T, MPI_MAX, o->comm->mpi, &o->requests[1]);
}

static void start(operation *o)
{
    const MPI_Datatype type = mpi_type(o->type);
    const MPI_Comm mpi = o->comm->mpi;
    const int n = (int)o->count;
    const size_t bytes = o->count * type_bytes(o->type), own = (size_t)o->comm->rank * bytes;
    MPI_Request *const request = &o->requests[0];
    o->requests[1] = MPI_REQUEST_NULL;
    if (o->what != SEND && o->what != RECEIVE) {
        start_mark(o);
    }
    switch (o->what) {
    case ALL_REDUCE: MPI_Iallreduce(o->in == o->out ? MPI_IN_PLACE : o->in, o->out, n, type, mpi_op(o), mpi, request); break;
    case ALL_GATHER:
        MPI_Iallgather(o->in == (char *)o->out + own ? MPI_IN_PLACE : o->in, n, type, o->out, n, type, mpi, request);
        break;
    case REDUCE_SCATTER: {
        /* in place as NCCL has it is nothing that MPI knows: from a copy */
        void *const copy = malloc(bytes * (size_t)o->comm->size + 1);
        memcpy(copy, o->in, bytes * (size_t)o->comm->size);
        o->in = copy;
        MPI_Ireduce_scatter_block(o->in, o->out, n, type, mpi_op(o), mpi, request);
        break;
    }
    case BROADCAST:
        if (o->comm->rank == o->peer && o->in != o->out) {
            memmove(o->out, o->in, bytes);
        }
        MPI_Ibcast(o->out, n, type, o->peer, mpi, request);
        break;
    case REDUCE: {
        const bool is_root = o->comm->rank == o->peer;
        MPI_Ireduce(is_root && o->in == o->out ? MPI_IN_PLACE : o->in, is_root ? o->out : NULL, n, type, mpi_op(o), o->peer, mpi, request);
        break;
    }
    case SEND: MPI_Issend(o->in, n, type, o->peer, TAG_DATA, mpi, request); break;
    case RECEIVE: MPI_Irecv(o->out, n, type, o->peer, TAG_DATA, mpi, request); break;
    }
}

static bool is_done(operation *o)
{
    int done;
    MPI_Status statuses[2];
    PMPI_Testall(2, o->requests, &done, statuses);   /* not mpi_wait.c's, which would run the queues that this runs in */
    if (!done) {
        return false;
    }
    if (o->what == RECEIVE) {
        int n;
        MPI_Get_count(&statuses[0], mpi_type(o->type), &n);
        if (n != (int)o->count) {
            fault("another number of elements was sent", o);
        }
    } else if (o->what != SEND && o->mark[0] != -o->mark[1]) {
        fault("the ranks called different things", o);
    }
    if (o->what == REDUCE_SCATTER) {
        free((void *)(uintptr_t)o->in);
    }
    return true;
}

static bool run_batch(void *arguments)
{
    batch *const b = arguments;
    if (b->comm->aborted) {
        free(b);
        return true;
    }
    for (int i = 0; i < b->n && !b->started && !b->fails; i++) {
        start(&b->operations[i]);
    }
    b->started = true;
    while (b->n > 0 && !b->fails && is_done(&b->operations[b->n - 1])) {
        b->n--;
    }
    if (b->n > 0) {
        return false;
    }
    free(b);
    return true;
}

static void queue(batch *b)
{
    const int failure = setting_failure("FM_DOUBLE_FAIL", "operation", &state.n_operations);
    if (failure != 0) {
        b->fails = true;
        fail(b->comm, (ncclResult_t)failure, "as the test wishes");
    }
    cuda_double_enqueue_poll(b->stream, run_batch, b);
}

/* Operations [0, n) of the group that have one communicator and stream become one batch. */
static ncclResult_t end_group(void)
{
    ncclResult_t result = ncclSuccess;
    for (int i = 0; i < state.n; i++) {
        const ncclComm_t comm = state.group[i].comm;
        if (comm == NULL) {
            continue;
        }
        batch *const b = calloc(1, sizeof *b + (size_t)(state.n - i) * sizeof(operation));
        b->comm = comm;
        b->stream = state.group[i].stream;
        for (int j = i; j < state.n; j++) {
            if (state.group[j].comm == comm && state.group[j].stream == b->stream) {
                b->operations[b->n++] = state.group[j];
                state.group[j].comm = NULL;
            }
        }
        if (comm->connected) {
            queue(b);
        } else {
            comm->held = b;
            comm->polls_left = 2;
            result = ncclInProgress;
        }
    }
    state.n = 0;
    return result;
}

ncclResult_t ncclGroupStart(void)
{
    state.depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    return state.depth == 0 ? ncclInvalidUsage : --state.depth > 0 ? ncclSuccess : end_group();
}

static ncclResult_t call(const operation *o, size_t in_count, size_t out_count)
{
    const size_t size = type_bytes(o->type);
    if (o->comm == NULL || o->comm->state != COMM_READY || o->comm->held != NULL || o->comm->aborted || o->peer < 0 ||
        o->peer >= o->comm->size || state.n == MAX_GROUP || o->count > INT_MAX) {
        return ncclInvalidArgument;
    }
    if (o->comm->error != ncclSuccess) {
        return o->comm->error;
    }
    if ((in_count > 0 && !cuda_double_is_device(o->in, in_count * size)) ||
        (out_count > 0 && !cuda_double_is_device(o->out, out_count * size))) {
        fault("a buffer does not lie in device memory", o);
    }
    state.group[state.n++] = *o;
    return state.depth > 0 ? ncclSuccess : end_group();
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                           cudaStream_t stream)
{
    return call(&(operation){ .what = ALL_REDUCE, .in = in, .out = out, .count = count, .type = type, .op = op, .comm = comm,
                              .stream = stream }, count, count);
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type, ncclComm_t comm, cudaStream_t stream)
{
    return call(&(operation){ .what = ALL_GATHER, .in = in, .out = out, .count = count, .type = type, .comm = comm,
                              .stream = stream }, count, count * (size_t)comm->size);
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type, ncclRedOp_t op, ncclComm_t comm,
                               cudaStream_t stream)
{
    return call(&(operation){ .what = REDUCE_SCATTER, .in = in, .out = out, .count = count, .type = type, .op = op, .comm = comm,
                              .stream = stream }, count * (size_t)comm->size, count);
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream)
{
    return call(&(operation){ .what = BROADCAST, .in = in, .out = out, .count = count, .type = type, .peer = root, .comm = comm,
                              .stream = stream }, comm->rank == root ? count : 0, count);
}

ncclResult_t ncclReduce(const void *in, void *out, size_t count, ncclDataType_t type, ncclRedOp_t op, int root, ncclComm_t comm,
                        cudaStream_t stream)
{
    return call(&(operation){ .what = REDUCE, .in = in, .out = out, .count = count, .type = type, .op = op, .peer = root, .comm = comm,
                              .stream = stream }, count, comm->rank == root ? count : 0);
}

ncclResult_t ncclSend(const void *in, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return call(&(operation){ .what = SEND, .in = in, .count = count, .type = type, .peer = peer, .comm = comm, .stream = stream },
                count, 0);
}

ncclResult_t ncclRecv(void *out, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)
{
    return call(&(operation){ .what = RECEIVE, .out = out, .count = count, .type = type, .peer = peer, .comm = comm, .stream = stream },
                0, count);
}
