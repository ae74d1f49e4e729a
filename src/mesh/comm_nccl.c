#include "mesh/comm_nccl.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "mesh/comm_backend.h"
#include "mesh/nccl_library.h"
#include "mesh/own_gpu.h"
#include "tensor/cuda.h"

enum { WARM_BYTES = 256, CLOSE_SECONDS = 10 };

/* An operation, or the operations of a group, until it has ended. */
typedef struct ticket {
    cudaEvent_t begun, ended;
    int64_t number;                    /* the how-manieth of its queue */
    int requests;                      /* that have not been waited for */
    bool is_queued;
    const char *what;
    double running_since_s;            /* 0: not seen running yet */
    struct ticket *next;               /* in its queue, or among the unused */
} ticket;

/* A communicator of NCCL and its stream. comm NULL: closed, or never there. */
typedef struct {
    ncclComm_t comm;
    cudaStream_t stream;
    int64_t n_operations;
    ticket *first, **last;             /* operations that are not known to have ended, in order */
} queue;

enum { SENDING, RECEIVING, ENDS };

typedef struct nccl_group {
    fm_nccl *nccl;
    fm_comm *comm;
    int *ranks;                        /* [comm->size]: in the world */
    bool has_lanes;
    queue all;                         /* collectives, and messages where there are no lanes */
    queue lanes[ENDS][FM_LANES];
    ticket *open;                      /* of fm_comm_group_begin */
    bool is_open;
    struct nccl_group *next;
} nccl_group;

struct fm_nccl {
    fm_nccl_library library;
    fm_comm *world;
    fm_device *device;
    fm_cuda *cuda;
    fm_watch *watch;                   /* the world's; NULL: none */
    int64_t n_communicators;           /* joins and splits so far: the same on all ranks */
    queue all;                         /* the communicator that the others are split from; its stream is not used */
    ncclComm_t made;                   /* where ncclCommSplit writes, later */
    nccl_group *groups;
    ticket *unused;
    cudaEvent_t computed;              /* of the device's stream, when an operation was begun */
    void *warm;                        /* device memory for the first message of each lane */
    bool failed;
    int failure_code;
    char *failure;
};

/* ---- failures ---- */

static void abort_queue(const fm_nccl *nccl, queue *q)
{
    if (q->comm != NULL) {
        nccl->library.CommAbort(q->comm);
        q->comm = NULL;
    }
}

/* Ends what would never end. Peers are told by NCCL where it can. */
static void abort_all(fm_nccl *nccl)
{
    for (nccl_group *g = nccl->groups; g != NULL; g = g->next) {
        abort_queue(nccl, &g->all);
        for (int i = 0; i < ENDS * FM_LANES; i++) {
            abort_queue(nccl, &g->lanes[i / FM_LANES][i % FM_LANES]);
        }
    }
    abort_queue(nccl, &nccl->all);
}

/* Takes up the failure that was just said (fm_fail): every later call says it again. NCCL tells peers on other machines, not those whose
 * kernels wait on this one: they are told here. */
static int give_up(fm_nccl *nccl, int code)
{
    if (!nccl->failed) {
        nccl->failed = true;
        nccl->failure_code = code;
        nccl->failure = fm_strdup(fm_error_message());
        if (!fm_error_is_agreed()) {
            fm_watch_tell_failure(nccl->watch);
        }
        abort_all(nccl);
    }
    return code;
}

static int fail_again(const fm_nccl *nccl)
{
    return fm_fail_with(nccl->failure_code, nccl->failure != NULL ? nccl->failure : "NCCL has failed before");
}

/* "the group fsdp, rank 1 of 2 (ranks 0, 4 of the run)", or the world's. */
static void describe(char *out, size_t out_bytes, const fm_nccl *nccl, const nccl_group *group)
{
    if (group == NULL) {
        snprintf(out, out_bytes, "the world, rank %d of %d", fm_comm_rank(nccl->world), fm_comm_size(nccl->world));
        return;
    }
    size_t length = (size_t)snprintf(out, out_bytes, "the group %s, rank %d of %d (ranks ", group->comm->name, group->comm->rank,
                                     group->comm->size);
    int i = 0;
    for (; i < group->comm->size && length + 40 < out_bytes; i++) {
        length += (size_t)snprintf(out + length, out_bytes - length, "%s%d", i > 0 ? ", " : "", group->ranks[i]);
    }
    snprintf(out + length, out_bytes - length, "%s of the run)", i < group->comm->size ? ", ..." : "");
}

static int fail_by(fm_nccl *nccl, const nccl_group *group, ncclComm_t comm, ncclResult_t result, const char *what)
{
    char where[256];
    describe(where, sizeof where, nccl, group);
    const char *const more = nccl->library.GetLastError(comm);
    const char *const peers = result == ncclRemoteError ? ". Another rank of it has failed or died: look for what it says" : "";
    /* where ranks agree on an error, the one who failed speaks before those who only noticed */
    const int code = result == ncclRemoteError ? FM_ERR_COMM : FM_ERR_DEVICE;
    return give_up(nccl, fm_fail(code, "NCCL: the %s in %s: %s%s%s%s", what, where, nccl->library.GetErrorString(result),
                                 more != NULL && *more != '\0' ? ": " : "", more != NULL ? more : "", peers));
}

/* What a rank does now and then while it waits for others in an operation of a group (the group's n-th): the watchdog looks at the clock,
 * and at who has failed. *since_s: 0 at first. */
static int look_around(fm_nccl *nccl, const nccl_group *group, double *since_s, const char *what, int64_t number)
{
    fm_watch_place place = { .number = number };
    if (nccl->watch == NULL) {
        return FM_OK;
    }
    snprintf(place.operation, sizeof place.operation, "%s", what);
    snprintf(place.group, sizeof place.group, "%s", group == NULL ? "world" : group->comm->name);
    fm_watch_look(nccl->watch, since_s, &place);
    const int failed = fm_watch_failed(nccl->watch);
    if (failed < 0) {
        return FM_OK;
    }
    char where[256];
    describe(where, sizeof where, nccl, group);
    return give_up(nccl, fm_fail(FM_ERR_COMM, "NCCL: the %s in %s: rank %d of the run has failed: look for what it says", what, where,
                                 failed));
}

/* Until what a call began is done: communicators do not block. The stream order of an operation is settled only then. */
static int settle(fm_nccl *nccl, const nccl_group *group, ncclComm_t comm, ncclResult_t result, const char *what, int64_t number)
{
    for (double since_s = 0.0; result == ncclInProgress;) {
        const ncclResult_t asked = nccl->library.CommGetAsyncError(comm, &result);
        if (asked != ncclSuccess) {
            return fail_by(nccl, group, comm, asked, what);
        }
        if (result == ncclInProgress) {
            FM_TRY(look_around(nccl, group, &since_s, what, number));
            nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        }
    }
    return result == ncclSuccess ? FM_OK : fail_by(nccl, group, comm, result, what);
}

/* ---- operations ---- */

static int new_ticket(fm_nccl *nccl, ticket **out)
{
    ticket *t = nccl->unused;
    if (t != NULL) {
        nccl->unused = t->next;
    } else {
        t = fm_alloc(sizeof *t, FM_MEMORY_HOST);
        if (t == NULL) {
            return FM_ERR_MEMORY;
        }
        FM_TRY(fm_cuda_check(cudaEventCreateWithFlags(&t->begun, cudaEventDisableTiming), "an event could not be made"));
        FM_TRY(fm_cuda_check(cudaEventCreateWithFlags(&t->ended, cudaEventDisableTiming), "an event could not be made"));
    }
    *t = (ticket){ .begun = t->begun, .ended = t->ended };
    *out = t;
    return FM_OK;
}

static void leave_ticket(fm_nccl *nccl, ticket *t)
{
    if (t->requests == 0 && !t->is_queued) {
        t->next = nccl->unused;
        nccl->unused = t;
    }
}

/* Takes out the operations that have ended. */
static void look_at_queue(fm_nccl *nccl, queue *q)
{
    while (q->first != NULL && cudaEventQuery(q->first->ended) == cudaSuccess) {
        ticket *const t = q->first;
        q->first = t->next;
        if (q->first == NULL) {
            q->last = &q->first;
        }
        t->is_queued = false;
        leave_ticket(nccl, t);
    }
    (void)cudaGetLastError();          /* "not ready" is kept as an error */
}

/* The queue's stream goes on from where the device's stream now is. */
static int begin_ticket(fm_nccl *nccl, queue *q, ticket **out, const char *what)
{
    enum { LOOK_EVERY = 64 };
    if (++q->n_operations % LOOK_EVERY == 0) {
        look_at_queue(nccl, q);
    }
    FM_TRY(new_ticket(nccl, out));
    (*out)->what = what;
    (*out)->number = q->n_operations;
    FM_TRY(fm_cuda_check(cudaEventRecord(nccl->computed, nccl->cuda->stream), "an event could not be recorded"));
    FM_TRY(fm_cuda_check(cudaStreamWaitEvent(q->stream, nccl->computed, 0), "a stream could not wait"));
    return fm_cuda_check(cudaEventRecord((*out)->begun, q->stream), "an event could not be recorded");
}

static int end_ticket(queue *q, ticket *t)
{
    FM_TRY(fm_cuda_check(cudaEventRecord(t->ended, q->stream), "an event could not be recorded"));
    t->is_queued = true;
    t->next = NULL;
    *q->last = t;
    q->last = &t->next;
    return FM_OK;
}

/* One operation on its way: between begin_operation and end_operation NCCL is called. */
typedef struct {
    nccl_group *group;
    queue *queue;
    ticket *ticket;
    const char *what;
} operation;

static int begin_operation(operation *o, fm_comm *comm, queue *q, const char *what)
{
    nccl_group *const group = comm->state;
    *o = (operation){ .group = group, .queue = q, .ticket = group->open, .what = what };
    if (group->nccl->failed) {
        return fail_again(group->nccl);
    }
    if (o->ticket != NULL) {
        return FM_OK;
    }
    FM_TRY(begin_ticket(group->nccl, q, &o->ticket, what));
    if (group->is_open) {
        group->open = o->ticket;
    }
    return FM_OK;
}

static int end_operation(const operation *o, fm_request *request, ncclResult_t result)
{
    nccl_group *const group = o->group;
    if (result != ncclSuccess && (result != ncclInProgress || group->is_open)) {
        return fail_by(group->nccl, group, o->queue->comm, result, o->what);
    }
    if (!group->is_open) {
        FM_TRY(settle(group->nccl, group, o->queue->comm, result, o->what, o->ticket->number));
        FM_TRY(end_ticket(o->queue, o->ticket));
    }
    o->ticket->requests++;
    request->handle[0] = group->comm;
    request->handle[1] = o->ticket;
    return FM_OK;
}

static int group_begin(fm_comm *comm)
{
    nccl_group *const group = comm->state;
    if (group->nccl->failed) {
        return fail_again(group->nccl);
    }
    if (group->has_lanes) {
        return FM_OK;                  /* lanes never wait for each other */
    }
    FM_ASSERT(!group->is_open);
    group->is_open = true;
    group->open = NULL;
    const ncclResult_t result = group->nccl->library.GroupStart();
    return result == ncclSuccess ? FM_OK : fail_by(group->nccl, group, group->all.comm, result, "group of messages");
}

static int group_end(fm_comm *comm)
{
    nccl_group *const group = comm->state;
    if (group->has_lanes) {
        return FM_OK;
    }
    FM_ASSERT(group->is_open);
    ticket *const t = group->open;
    group->is_open = false;
    group->open = NULL;
    const ncclResult_t result = group->nccl->library.GroupEnd();
    if (group->nccl->failed) {
        return fail_again(group->nccl);
    }
    if (t == NULL) {
        return FM_OK;
    }
    FM_TRY(settle(group->nccl, group, group->all.comm, result, t->what, t->number));
    return end_ticket(&group->all, t);
}

static int wait_request(fm_request *request)
{
    const fm_comm *const comm = request->handle[0];
    const nccl_group *const group = comm->state;
    fm_nccl *const nccl = group->nccl;
    ticket *const t = request->handle[1];
    FM_ASSERT(t != group->open);
    *request = (fm_request){ { NULL, NULL } };
    if (nccl->failed) {
        return fail_again(nccl);
    }
    const int rc = fm_cuda_check(cudaStreamWaitEvent(nccl->cuda->stream, t->ended, 0), "a stream could not wait");
    t->requests--;
    leave_ticket(nccl, t);
    return rc;
}

static void progress(fm_comm *comm)
{
    (void)comm;                        /* the device needs no help */
}

static ncclDataType_t type_of(enum fm_dtype dtype)
{
    switch (dtype) {
    case FM_F32: return ncclFloat32;
    case FM_F64: return ncclFloat64;
    case FM_BF16: return ncclBfloat16;
    case FM_F16: return ncclFloat16;
    case FM_I32: return ncclInt32;
    case FM_I64: return ncclInt64;
    default: return ncclUint8;
    }
}

static ncclRedOp_t op_of(enum fm_reduce op)
{
    return op == FM_SUM ? ncclSum : op == FM_MAX ? ncclMax : ncclMin;
}

/* begin_operation, the call (which sees `library` and `on`, the queue) and end_operation. */
#define OPERATION(queue_of_it, what, call) \
    do { \
        operation o_; \
        queue *const on = (queue_of_it); \
        FM_TRY(begin_operation(&o_, comm, on, what)); \
        const fm_nccl_library *const library = &o_.group->nccl->library; \
        return end_operation(&o_, request, library->call); \
    } while (0)

static queue *all_of(fm_comm *comm)
{
    nccl_group *const group = comm->state;
    FM_ASSERT(!group->has_lanes);
    return &group->all;
}

static int all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, enum fm_reduce op)
{
    OPERATION(all_of(comm), "all-reduce", AllReduce(data, data, (size_t)n, type_of(dtype), op_of(op), on->comm, on->stream));
}

static int all_gather(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    OPERATION(all_of(comm), "all-gather", AllGather(in, out, (size_t)n, type_of(dtype), on->comm, on->stream));
}

static int reduce_scatter(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype)
{
    OPERATION(all_of(comm), "reduce-scatter", ReduceScatter(in, out, (size_t)n, type_of(dtype), ncclSum, on->comm, on->stream));
}

static int broadcast(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int root)
{
    OPERATION(all_of(comm), "broadcast", Broadcast(data, data, (size_t)n, type_of(dtype), root, on->comm, on->stream));
}

static int reduce(fm_comm *comm, fm_request *request, void *out, const void *in, int64_t n, enum fm_dtype dtype, int root)
{
    OPERATION(all_of(comm), "reduce", Reduce(in, out, (size_t)n, type_of(dtype), ncclSum, root, on->comm, on->stream));
}

/* The rank that this one sends to in a lane, or receives from. */
static int lane_peer(const fm_comm *comm, int end, int lane)
{
    return (comm->rank + ((lane == FM_LANE_FORWARD) == (end == SENDING) ? 1 : comm->size - 1)) % comm->size;
}

/* Where a message goes, and the other end's rank there: a lane has two ranks, the sender and the receiver. */
static queue *message_queue(fm_comm *comm, int end, int tag, int *peer)
{
    nccl_group *const group = comm->state;
    if (!group->has_lanes) {
        return &group->all;
    }
    const int lane = (int)fm_tag_lane(tag);
    FM_ASSERT(*peer == lane_peer(comm, end, lane));
    *peer = end == SENDING ? 1 : 0;
    return &group->lanes[end][lane];
}

static int send(fm_comm *comm, fm_request *request, const void *data, int64_t n, enum fm_dtype dtype, int to, int tag)
{
    queue *const q = message_queue(comm, SENDING, tag, &to);
    OPERATION(q, "send", Send(data, (size_t)n, type_of(dtype), to, on->comm, on->stream));
}

static int receive(fm_comm *comm, fm_request *request, void *data, int64_t n, enum fm_dtype dtype, int from, int tag)
{
    queue *const q = message_queue(comm, RECEIVING, tag, &from);
    OPERATION(q, "receive", Recv(data, (size_t)n, type_of(dtype), from, on->comm, on->stream));
}

/* ---- health ---- */

/* A queue's communicator has not failed. */
static int check_queue(fm_nccl *nccl, const nccl_group *group, queue *q)
{
    if (q->comm == NULL) {
        return FM_OK;
    }
    ncclResult_t state;
    const ncclResult_t asked = nccl->library.CommGetAsyncError(q->comm, &state);
    if (asked != ncclSuccess || (state != ncclSuccess && state != ncclInProgress)) {
        const char *const what = q->first == NULL ? "state between operations" : q->first->what;
        return fail_by(nccl, group, q->comm, asked != ncclSuccess ? asked : state, what);
    }
    look_at_queue(nccl, q);
    return FM_OK;
}

/* The queue's operation that its GPU is in; NULL: none. It waits for other ranks, or has begun just now. */
static ticket *running(const queue *q)
{
    ticket *const t = q->comm == NULL ? NULL : q->first;
    const bool is_running = t != NULL && cudaEventQuery(t->begun) == cudaSuccess;
    (void)cudaGetLastError();
    return is_running ? t : NULL;
}

static queue *queue_at(nccl_group *g, int i)
{
    return i < 0 ? &g->all : &g->lanes[i / FM_LANES][i % FM_LANES];
}

/* What this rank has been in for the longest time is where it waits. */
static int check_waiting(fm_nccl *nccl)
{
    ticket *oldest = NULL;
    const nccl_group *group = NULL;
    const double now_s = fm_clock_s();
    for (nccl_group *g = nccl->groups; g != NULL; g = g->next) {
        for (int i = -1; i < ENDS * FM_LANES; i++) {
            ticket *const t = running(queue_at(g, i));
            if (t != NULL) {
                t->running_since_s = t->running_since_s == 0.0 ? now_s : t->running_since_s;
            }
            if (t != NULL && (oldest == NULL || t->running_since_s < oldest->running_since_s)) {
                oldest = t;
                group = g;
            }
        }
    }
    return oldest == NULL ? FM_OK : look_around(nccl, group, &oldest->running_since_s, oldest->what, oldest->number);
}

static int check_health(void *context)
{
    fm_nccl *const nccl = context;
    if (nccl->failed) {
        return fail_again(nccl);
    }
    for (int busy = 1; busy >= 0; busy--) {            /* what is waited for is said before what failed beside it */
        for (nccl_group *g = nccl->groups; g != NULL; g = g->next) {
            for (int i = -1; i < ENDS * FM_LANES; i++) {
                queue *const q = queue_at(g, i);
                FM_TRY((q->first != NULL) == (busy != 0) ? check_queue(nccl, g, q) : FM_OK);
            }
        }
    }
    return check_waiting(nccl);
}

/* ---- communicators ---- */

static void free_tickets(ticket *t)
{
    while (t != NULL) {
        ticket *const next = t->next;
        cudaEventDestroy(t->begun);
        cudaEventDestroy(t->ended);
        fm_free(t);
        t = next;
    }
}

/* All ranks of the queue come here together, unless they have failed. */
static void close_queue(fm_nccl *nccl, queue *q)
{
    ncclResult_t result = q->comm == NULL ? ncclSuccess : nccl->library.CommFinalize(q->comm);
    for (const double begin_s = fm_clock_s(); q->comm != NULL && result == ncclInProgress && fm_clock_s() - begin_s < CLOSE_SECONDS;) {
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
        if (nccl->library.CommGetAsyncError(q->comm, &result) != ncclSuccess) {
            result = ncclInternalError;
        }
    }
    if (q->comm != NULL && result == ncclSuccess) {
        nccl->library.CommDestroy(q->comm);
        q->comm = NULL;
    }
    abort_queue(nccl, q);
    if (q->stream != NULL) {
        cudaStreamSynchronize(q->stream);
        cudaStreamDestroy(q->stream);
        free_tickets(q->first);
    }
    *q = (queue){ .comm = NULL };
}

static void close_group(fm_comm *comm)
{
    nccl_group *const group = comm->state;
    fm_nccl *const nccl = group->nccl;
    close_queue(nccl, &group->all);
    for (int i = 0; i < ENDS * FM_LANES; i++) {
        close_queue(nccl, &group->lanes[i / FM_LANES][i % FM_LANES]);
    }
    for (nccl_group **at = &nccl->groups; *at != NULL; at = &(*at)->next) {
        if (*at == group) {
            *at = group->next;
            break;
        }
    }
    fm_free(group->ranks);
    fm_free(group);
}

static const fm_comm_backend nccl_backend = {
    .name = "nccl",
    .all_reduce = all_reduce,
    .all_gather = all_gather,
    .reduce_scatter = reduce_scatter,
    .broadcast = broadcast,
    .reduce = reduce,
    .send = send,
    .receive = receive,
    .group_begin = group_begin,
    .group_end = group_end,
    .wait = wait_request,
    .progress = progress,
    .close = close_group,
};

static int open_stream(queue *q)
{
    int least, greatest;
    q->last = &q->first;
    FM_TRY(fm_cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities could not be asked for"));
    return fm_cuda_check(cudaStreamCreateWithPriority(&q->stream, cudaStreamNonBlocking, greatest), "a stream could not be made");
}

/* A part of the world's communicator. Collective on the world; not agreed on. */
static int split(fm_nccl *nccl, nccl_group *group, queue *q, int color, int key)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    nccl->made = NULL;
    const ncclResult_t result = nccl->library.CommSplit(nccl->all.comm, color < 0 ? NCCL_SPLIT_NOCOLOR : color, key, &nccl->made, &config);
    nccl->n_communicators++;
    FM_TRY(settle(nccl, group, nccl->all.comm, result, "split", nccl->n_communicators));
    if (color < 0) {
        return FM_OK;
    }
    q->comm = nccl->made;
    FM_TRY(settle(nccl, group, q->comm, ncclInProgress, "new communicator", nccl->n_communicators));
    return open_stream(q);
}

/* A lane's first message, of nothing: it makes the connection, for which the host waits for the other end. */
static int warm_lane(fm_comm *comm, int end, int lane)
{
    fm_request request;
    const int peer = lane_peer(comm, end, lane), tag = fm_tag((enum fm_lane)lane, 0);
    FM_TRY(end == SENDING ? send(comm, &request, ((nccl_group *)comm->state)->nccl->warm, 1, FM_U8, peer, tag)
                          : receive(comm, &request, (char *)((nccl_group *)comm->state)->nccl->warm + 1 + lane, 1, FM_U8, peer, tag));
    return wait_request(&request);
}

/* The lanes that begin at every second rank of a group, then the others; where the number of ranks is odd, those of the last rank, which
 * is its first neighbour's neighbour too, come third. In one round no rank is in two lanes. */
static int round_of(const fm_comm *comm, int sender)
{
    return comm->size % 2 == 1 && sender == comm->size - 1 ? 2 : sender % 2;
}

static int split_round(fm_nccl *nccl, nccl_group *group, int lane, int round, int color)
{
    enum { ROUNDS = 3 };
    fm_comm *const comm = group == NULL ? NULL : group->comm;
    int mine = -1, end = SENDING, sender = 0;
    for (int e = 0; comm != NULL && e < ENDS; e++) {
        const int from = e == SENDING ? comm->rank : lane_peer(comm, RECEIVING, lane);
        if (round_of(comm, from) == round) {
            end = e;
            sender = from;
            mine = color;
        }
    }
    const int world_size = fm_comm_size(nccl->world);
    const int number = mine < 0 ? -1 : (mine * world_size + sender) * ROUNDS + round;
    queue nothing = { .comm = NULL };
    FM_TRY(split(nccl, group, mine < 0 ? &nothing : &group->lanes[end][lane], number, end));
    return mine < 0 ? FM_OK : warm_lane(comm, end, lane);
}

static int new_group(nccl_group **out, fm_nccl *nccl, fm_comm *host, enum fm_group which)
{
    fm_comm *const comm = fm_alloc(sizeof *comm, FM_MEMORY_HOST);
    nccl_group *const group = fm_alloc(sizeof *group, FM_MEMORY_HOST);
    int *const ranks = fm_alloc_array(fm_comm_size(host), sizeof *ranks, FM_MEMORY_HOST);
    *out = group;
    if (comm == NULL || group == NULL || ranks == NULL) {
        fm_free(comm);
        fm_free(group);
        fm_free(ranks);
        *out = NULL;
        return FM_ERR_MEMORY;
    }
    *comm = (fm_comm){ .backend = &nccl_backend, .size = fm_comm_size(host), .rank = fm_comm_rank(host), .state = group };
    snprintf(comm->name, sizeof comm->name, "%s", fm_group_name(which));
    *group = (nccl_group){ .nccl = nccl, .comm = comm, .ranks = ranks, .has_lanes = which == FM_GROUP_PP, .next = nccl->groups };
    nccl->groups = group;
    return FM_OK;
}

static int open_group(fm_nccl *nccl, nccl_group *group, fm_comm *host, int color, int key, bool lanes)
{
    if (group != NULL) {
        const int32_t mine = fm_comm_rank(nccl->world);
        FM_TRY(fm_comm_all_gather(host, group->ranks, &mine, 1, FM_I32));
    }
    if (!lanes) {
        queue nothing = { .comm = NULL };
        return split(nccl, group, group == NULL ? &nothing : &group->all, group == NULL ? -1 : color, key);
    }
    for (int lane = 0; lane < FM_LANES; lane++) {
        for (int round = 0; round < 3; round++) {
            FM_TRY(split_round(nccl, group, lane, round, color));
        }
    }
    return FM_OK;
}

int fm_nccl_make(fm_comm **out, void *context, fm_comm *host, enum fm_group which, int color, int key)
{
    fm_nccl *const nccl = context;
    *out = NULL;
    int64_t most = fm_comm_size(host);
    FM_TRY(fm_comm_all_reduce(nccl->world, &most, 1, FM_I64, FM_MAX));
    if (most < 2) {
        return FM_OK;
    }
    nccl_group *group = NULL;
    int rc = nccl->failed ? fail_again(nccl) : host == NULL ? FM_OK : new_group(&group, nccl, host, which);
    rc = fm_comm_agree(nccl->world, rc);
    if (rc == FM_OK) {
        rc = fm_comm_agree(nccl->world, open_group(nccl, group, host, color, key, which == FM_GROUP_PP));
    }
    if (rc < 0) {
        give_up(nccl, rc);
        fm_comm_destroy(group == NULL ? NULL : group->comm);
        return rc;
    }
    *out = group == NULL ? NULL : group->comm;
    return FM_OK;
}

/* ---- all ranks ---- */

/* The communicator of all. Between ranks nothing is agreed on here: who fails tells the others. */
static int join(fm_nccl *nccl, const ncclUniqueId *id)
{
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    const ncclResult_t result = nccl->library.CommInitRankConfig(&nccl->all.comm, fm_comm_size(nccl->world), *id,
                                                                 fm_comm_rank(nccl->world), &config);
    nccl->n_communicators++;
    FM_TRY(settle(nccl, NULL, nccl->all.comm, result, "join", nccl->n_communicators));
    FM_TRY(fm_cuda_check(cudaEventCreateWithFlags(&nccl->computed, cudaEventDisableTiming), "an event could not be made"));
    nccl->warm = fm_device_alloc(nccl->device, WARM_BYTES, FM_MEMORY_WORKSPACE);
    return nccl->warm == NULL ? FM_ERR_MEMORY : FM_OK;
}

static int start(fm_nccl *nccl)
{
    FM_TRY(fm_comm_agree(nccl->world, fm_nccl_library_open(&nccl->library)));
    FM_TRY(fm_own_gpu_check(nccl->world, nccl->cuda->ordinal));
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    int rc = FM_OK;
    if (fm_comm_rank(nccl->world) == 0) {
        const ncclResult_t result = nccl->library.GetUniqueId(&id);
        rc = result == ncclSuccess ? FM_OK : fail_by(nccl, NULL, NULL, result, "id of the ranks");
    }
    FM_TRY(fm_comm_agree(nccl->world, rc));
    FM_TRY(fm_comm_broadcast(nccl->world, &id, sizeof id, FM_U8, 0));
    return fm_comm_agree(nccl->world, join(nccl, &id));
}

int fm_nccl_open(fm_nccl **out, fm_comm *world, fm_device *device)
{
    fm_nccl *const nccl = fm_alloc(sizeof *nccl, FM_MEMORY_HOST);
    *out = NULL;
    FM_TRY(fm_comm_agree(world, nccl == NULL ? FM_ERR_MEMORY : FM_OK));
    *nccl = (fm_nccl){ .world = world, .device = device, .cuda = fm_cuda_of(device), .watch = world->watch };
    const int rc = start(nccl);
    if (rc < 0) {
        give_up(nccl, rc);
        fm_nccl_close(nccl);
        return rc;
    }
    nccl->cuda->health = check_health;
    nccl->cuda->health_context = nccl;
    *out = nccl;
    return FM_OK;
}

void fm_nccl_close(fm_nccl *nccl)
{
    if (nccl == NULL) {
        return;
    }
    if (nccl->cuda->health_context == nccl) {
        nccl->cuda->health = NULL;
        nccl->cuda->health_context = NULL;
    }
    close_queue(nccl, &nccl->all);
    free_tickets(nccl->unused);
    if (nccl->computed != NULL) {
        cudaEventDestroy(nccl->computed);
    }
    if (nccl->warm != NULL) {
        fm_device_free(nccl->device, nccl->warm);
    }
    fm_free(nccl->failure);
    fm_free(nccl);
}
