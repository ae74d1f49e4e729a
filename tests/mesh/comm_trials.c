#include "comm_trials.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/pipeline.h"

enum { MAX_COUNT = 1000, MAX_RANKS = 8, MICROBATCHES = 5, CHUNKS = 2 };

static int me(void)
{
    int rank;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

void check(int rc, const char *what)
{
    if (rc < 0) {
        printf("rank %d: %s: %s\n", me(), what, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

void expect(bool holds, const char *what)
{
    if (!holds) {
        printf("rank %d: WRONG: %s\n", me(), what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

/* ---- collectives ---- */

/* Small whole numbers, so that every order of summing gives the same bits. */
static void fill(void *to, enum fm_dtype dtype, int64_t n, int seed)
{
    for (int64_t i = 0; i < n; i++) {
        const int value = (int)((i * 7 + seed * 13 + me() * 5) % 11) - 3;
        switch (dtype) {
        case FM_F32: ((float *)to)[i] = (float)value; break;
        case FM_F64: ((double *)to)[i] = value; break;
        case FM_I32: ((int32_t *)to)[i] = value; break;
        case FM_I64: ((int64_t *)to)[i] = value; break;
        case FM_BF16: ((uint16_t *)to)[i] = fm_f32_to_bf16((float)value); break;
        case FM_F16: ((uint16_t *)to)[i] = fm_f32_to_f16((float)value); break;
        default: ((uint8_t *)to)[i] = (uint8_t)(value + 3);
        }
    }
}

enum collective { ALL_REDUCE, ALL_GATHER, REDUCE_SCATTER, BROADCAST, REDUCE, COLLECTIVES };

/* One operation; `in_place` in the way of comm.h. Buffers hold size * n elements each. */
typedef struct {
    enum collective what;
    enum fm_dtype dtype;
    enum fm_reduce op;
    int64_t n;
    int root;
    bool in_place;
} trial_op;

static int begin(fm_comm *comm, fm_request *request, char *out, char *in, const trial_op *t)
{
    const size_t own = (size_t)fm_comm_rank(comm) * (size_t)t->n * fm_dtype_bytes(t->dtype);
    switch (t->what) {
    case ALL_REDUCE: return fm_comm_begin_all_reduce(comm, request, in, t->n, t->dtype, t->op);
    case ALL_GATHER: return fm_comm_begin_all_gather(comm, request, out, t->in_place ? out + own : in, t->n, t->dtype);
    case REDUCE_SCATTER: return fm_comm_begin_reduce_scatter(comm, request, t->in_place ? in + own : out, in, t->n, t->dtype);
    case BROADCAST: return fm_comm_begin_broadcast(comm, request, in, t->n, t->dtype, t->root);
    default: return fm_comm_begin_reduce(comm, request, t->in_place ? in : out, in, t->n, t->dtype, t->root);
    }
}

/* Where the result lies, and how much of it. */
static char *result(const fm_comm *comm, char *out, char *in, const trial_op *t, size_t *bytes)
{
    const size_t part = (size_t)t->n * fm_dtype_bytes(t->dtype), own = (size_t)fm_comm_rank(comm) * part;
    *bytes = t->what == ALL_GATHER ? part * (size_t)fm_comm_size(comm) : t->what == REDUCE && fm_comm_rank(comm) != t->root ? 0 : part;
    switch (t->what) {
    case ALL_GATHER: return out;
    case REDUCE_SCATTER: return t->in_place ? in + own : out;
    case REDUCE: return t->in_place ? in : out;
    default: return in;
    }
}

/* The same through both communicators: bit for bit. */
static void compare(fm_device *device, fm_comm *host, fm_comm *tried, const trial_op *t)
{
    static double in[MAX_COUNT * MAX_RANKS], out[MAX_COUNT * MAX_RANKS], found[MAX_COUNT * MAX_RANKS];
    const size_t bytes = (size_t)t->n * (size_t)fm_comm_size(host) * fm_dtype_bytes(t->dtype);
    trial_op apart = *t;
    apart.in_place = false;
    char *const in_device = fm_device_alloc(device, bytes, FM_MEMORY_WORKSPACE);
    char *const out_device = fm_device_alloc(device, bytes, FM_MEMORY_WORKSPACE);
    fill(in, t->dtype, t->n * fm_comm_size(host), (int)t->what);
    check(fm_device_copy_in(device, t->in_place && t->what == ALL_GATHER ? out_device + (size_t)fm_comm_rank(host) * bytes /
                            (size_t)fm_comm_size(host) : in_device, in, t->what == ALL_GATHER ? bytes / (size_t)fm_comm_size(host) : bytes),
          "copying in");
    fm_request request;
    check(begin(tried, &request, out_device, in_device, t), "beginning what is tried");
    check(fm_comm_wait(&request), "waiting for what is tried");
    size_t result_bytes;
    const char *const at = result(tried, out_device, in_device, t, &result_bytes);
    check(fm_device_copy_out(device, found, at, result_bytes), "copying out");
    check(begin(host, &request, (char *)out, (char *)in, &apart), "beginning over MPI");
    check(fm_comm_wait(&request), "waiting for MPI");
    const char *const expected = result(host, (char *)out, (char *)in, &apart, &result_bytes);
    if (memcmp(found, expected, result_bytes) != 0) {
        printf("rank %d: WRONG: operation %d in the group %s, %lld elements of %s, root %d%s\n", me(), (int)t->what,
               fm_comm_name(tried), (long long)t->n, fm_dtype_name(t->dtype), t->root, t->in_place ? ", in place" : "");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    fm_device_free(device, in_device);
    fm_device_free(device, out_device);
}

static void compare_all(fm_device *device, fm_comm *host, fm_comm *tried)
{
    static const enum fm_dtype dtypes[] = { FM_F32, FM_BF16, FM_F16, FM_F64, FM_I32, FM_I64, FM_U8 };
    static const int64_t counts[] = { 1, 5, MAX_COUNT };
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        for (int i = 0; i < COLLECTIVES * 3 * 2; i++) {
            const bool is_16 = dtypes[d] == FM_BF16 || dtypes[d] == FM_F16;
            const trial_op t = { .what = (enum collective)(i % COLLECTIVES), .dtype = dtypes[d], .op = is_16 ? FM_SUM : (enum fm_reduce)(i % 3),
                                 .n = counts[i / COLLECTIVES % 3], .root = i % fm_comm_size(host), .in_place = i / COLLECTIVES / 3 != 0 };
            if (dtypes[d] != FM_U8 || t.what == ALL_GATHER || t.what == BROADCAST) {   /* bytes are not summed */
                compare(device, host, tried, &t);
            }
        }
    }
}

/* Several at once, and in a group; waited for last first. What is queued after a wait sees the results, what was queued before the
 * beginning is seen by them: no copy waits on the host in between. */
static void overlap(fm_device *device, fm_comm *comm, bool grouped)
{
    enum { N = 64, OPERATIONS = 4 };
    const int size = fm_comm_size(comm), rank = fm_comm_rank(comm);
    float host[OPERATIONS][N], *at[OPERATIONS], *copies[OPERATIONS], *const zeros = fm_device_alloc(device, sizeof host[0], FM_MEMORY_WORKSPACE);
    fm_request requests[OPERATIONS];
    check(grouped ? fm_comm_group_begin(comm) : FM_OK, "beginning a group");
    for (int i = 0; i < OPERATIONS; i++) {
        for (int j = 0; j < N; j++) {
            host[i][j] = (float)(i + j + rank);
        }
        at[i] = fm_device_alloc(device, sizeof host[i], FM_MEMORY_WORKSPACE);
        copies[i] = fm_device_alloc(device, sizeof host[i], FM_MEMORY_WORKSPACE);
        check(fm_device_copy_in(device, at[i], host[i], sizeof host[i]), "copying in");
    }
    for (int i = 0; i < OPERATIONS; i++) {
        check(fm_comm_begin_all_reduce(comm, &requests[i], at[i], N, FM_F32, FM_SUM), "an all-reduce");
    }
    check(grouped ? fm_comm_group_end(comm) : FM_OK, "ending a group");
    for (int i = OPERATIONS - 1; i >= 0; i--) {
        check(fm_comm_wait(&requests[i]), "waiting");
        check(fm_device_copy(device, copies[i], at[i], sizeof host[i]), "copying");
        check(fm_device_copy(device, at[i], zeros, sizeof host[i]), "overwriting");
    }
    for (int i = 0; i < OPERATIONS; i++) {
        check(fm_device_copy_out(device, host[i], copies[i], sizeof host[i]), "copying out");
        for (int j = 0; j < N; j++) {
            expect(host[i][j] == (float)(size * (i + j) + size * (size - 1) / 2), "a sum among several");
        }
        fm_device_free(device, at[i]);
        fm_device_free(device, copies[i]);
    }
    fm_device_free(device, zeros);
}

/* A large message to each neighbour and from each, all posted in one group, sends first. */
static void ring(fm_device *device, fm_comm *comm)
{
    enum { N = 50000 };
    const int size = fm_comm_size(comm), rank = fm_comm_rank(comm);
    static float host[N];
    fm_request requests[4];
    float *at[4];
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < N; j++) {
            host[j] = (float)(i < 2 ? 1000 * rank + 10 * i + j % 7 : -1);
        }
        at[i] = fm_device_alloc(device, sizeof host, FM_MEMORY_WORKSPACE);
        check(fm_device_copy_in(device, at[i], host, sizeof host), "copying in");
    }
    const int next = (rank + 1) % size, before = (rank + size - 1) % size;
    check(fm_comm_group_begin(comm), "beginning a ring");
    check(fm_comm_begin_send(comm, &requests[0], at[0], N, FM_F32, next, 0), "sending on");
    check(fm_comm_begin_send(comm, &requests[1], at[1], N, FM_F32, before, 1), "sending back");
    check(fm_comm_begin_receive(comm, &requests[2], at[2], N, FM_F32, before, 0), "receiving from before");
    check(fm_comm_begin_receive(comm, &requests[3], at[3], N, FM_F32, next, 1), "receiving from the next");
    check(fm_comm_group_end(comm), "ending a ring");
    for (int i = 0; i < 4; i++) {
        check(fm_comm_wait(&requests[i]), "waiting for a ring");
    }
    for (int i = 2; i < 4; i++) {
        check(fm_device_copy_out(device, host, at[i], sizeof host), "copying out");
        for (int j = 0; j < N; j++) {
            expect(host[j] == (float)(1000 * (i == 2 ? before : next) + 10 * (i - 2) + j % 7), "a message of a ring");
        }
    }
    for (int i = 0; i < 4; i++) {
        fm_device_free(device, at[i]);
    }
}

/* ---- a pipeline ---- */

enum { MESSAGE = 3000, MAX_ROWS = 64 };

/* What a stage's output is for a microbatch, as train/step.c would send it. */
static float content(int microbatch, int receiver, bool forward)
{
    return (float)(100 * microbatch + 2 * receiver + forward);
}

static void put_message(fm_device *device, fm_comm *comm, fm_request *request, float *at, const fm_pipeline *p, int microbatch, int stage,
                        enum fm_lane lane)
{
    float host[MESSAGE];
    for (int j = 0; j < MESSAGE; j++) {
        host[j] = content(microbatch, stage, lane == FM_LANE_FORWARD) + (float)(j % 3) * 0.25f;
    }
    check(fm_device_copy_in(device, at, host, sizeof host), "copying in");
    const int number = microbatch * p->ranks * p->chunks + stage;
    check(fm_comm_begin_send(comm, request, at, MESSAGE, FM_F32, stage % p->ranks, fm_tag(lane, number)), "sending along the pipeline");
}

static void take_message(fm_device *device, fm_comm *comm, float *at, const fm_pipeline *p, int microbatch, int from, int stage,
                         enum fm_lane lane)
{
    fm_request request;
    const int number = microbatch * p->ranks * p->chunks + stage;
    check(fm_comm_begin_receive(comm, &request, at, MESSAGE, FM_F32, from % p->ranks, fm_tag(lane, number)), "receiving along the pipeline");
    check(fm_comm_wait(&request), "waiting for the pipeline");
}

/* A table's rows with its messages; every received one is kept on the device and looked at afterwards. */
static void run_table(fm_device *device, fm_comm *comm, const fm_pipeline *p)
{
    const int rank = fm_comm_rank(comm), stages = p->ranks * p->chunks;
    float *const kept = fm_device_alloc(device, (size_t)MAX_ROWS * MESSAGE * sizeof(float), FM_MEMORY_WORKSPACE);
    float *const sent = fm_device_alloc(device, (size_t)MAX_ROWS * MESSAGE * sizeof(float), FM_MEMORY_WORKSPACE);
    fm_request requests[MAX_ROWS];
    float expected[MAX_ROWS];
    int n_kept = 0, n_sent = 0;
    for (int i = p->first[rank]; i < p->first[rank + 1]; i++) {
        const fm_pipeline_row *const row = &p->rows[i];
        if (row->action == FM_ACTION_BACKWARD_WEIGHT) {
            continue;
        }
        const bool forward = row->action == FM_ACTION_FORWARD;
        const int stage = row->chunk * p->ranks + rank, before = forward ? stage - 1 : stage + 1, after = forward ? stage + 1 : stage - 1;
        const enum fm_lane lane = forward ? FM_LANE_FORWARD : FM_LANE_BACKWARD;
        if (before >= 0 && before < stages) {
            take_message(device, comm, kept + n_kept * MESSAGE, p, row->microbatch, before, stage, lane);
            expected[n_kept++] = content(row->microbatch, stage, forward);
        }
        if (after >= 0 && after < stages) {
            put_message(device, comm, &requests[n_sent], sent + n_sent * MESSAGE, p, row->microbatch, after, lane);
            n_sent++;
        }
    }
    for (int i = 0; i < n_sent; i++) {
        check(fm_comm_wait(&requests[i]), "waiting for a delivery");
    }
    for (int i = 0; i < n_kept; i++) {
        float host[MESSAGE];
        check(fm_device_copy_out(device, host, kept + i * MESSAGE, sizeof host), "copying out");
        for (int j = 0; j < MESSAGE; j++) {
            expect(host[j] == expected[i] + (float)(j % 3) * 0.25f, "a message of the pipeline");
        }
    }
    fm_device_free(device, kept);
    fm_device_free(device, sent);
}

static void pipeline(fm_device *device, fm_comm *comm)
{
    for (int schedule = FM_PIPELINE_GPIPE; schedule <= FM_PIPELINE_ZB; schedule++) {
        for (int chunks = 1; chunks <= CHUNKS; chunks++) {
            fm_pipeline p;
            if (fm_pipeline_check_chunks((enum fm_pipeline_schedule)schedule, chunks) < 0) {
                continue;
            }
            check(fm_pipeline_emit(&p, (enum fm_pipeline_schedule)schedule, fm_comm_size(comm), chunks, MICROBATCHES), "a table");
            run_table(device, comm, &p);
            fm_pipeline_clear(&p);
        }
    }
}

/* ---- all of it ---- */

fm_groups *trials_groups(char **sizes)
{
    const MPI_Comm mpi = MPI_COMM_WORLD;
    fm_mesh_shape shape;
    fm_groups *groups;
    int n_ranks, kv_run[MAX_RANKS];
    for (int d = 0; d < FM_DIMS; d++) {
        shape.size[d] = atoi(sizes[d]);
    }
    for (int t = 0; t < shape.size[FM_TP]; t++) {
        kv_run[t] = t / 2 * 2;
    }
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    check(fm_mesh_check(&shape, n_ranks), "the mesh");
    check(fm_groups_new(&groups, &shape, kv_run, &mpi), "the groups");
    return groups;
}

void trials_run(const fm_groups *groups, fm_device *device)
{
    for (int g = 0; g < FM_GROUPS; g++) {
        fm_comm *const host = fm_groups_get(groups, (enum fm_group)g), *const tried = fm_groups_device(groups, (enum fm_group)g);
        if (tried == host) {
            expect(g == FM_GROUP_WORLD || g == FM_GROUP_DP_SHARD || g == FM_GROUP_LOSS || host == NULL, "a group of its own");
            continue;
        }
        expect((host == NULL) == (tried == NULL) && fm_comm_size(host) == fm_comm_size(tried), "a group's size");
        if (g == FM_GROUP_PP) {
            pipeline(device, tried);
            continue;
        }
        compare_all(device, host, tried);
        overlap(device, tried, false);
        overlap(device, tried, true);
        ring(device, tried);
        expect(fm_comm_get_traffic(tried)->calls[FM_TRAFFIC_SEND] == 2, "the traffic of a ring");
        expect(fm_comm_get_traffic(host)->calls[FM_TRAFFIC_SEND] == 0, "traffic that is counted twice");
    }
}
