/* The NCCL backend over the doubles of CUDA and NCCL (tests/cuda/double), a device in the host's memory a rank.
 *
 *     test_nccl groups PP DP_REPLICATE DP_SHARD CP TP ORDER   every group of a mesh: collectives give what MPI's give; rings; a
 *                                                         pipeline. ORDER: of streams (cuda_double.h)
 *     test_nccl one-gpu                                   all ranks on one GPU are refused
 *     test_nccl peer-fails CALL@N=CODE WORDS              on rank 1 a call fails so: every rank says so, with WORDS on rank 1
 *     test_nccl late                                      a rank that does not come ends the others' wait */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "mesh/comm_nccl.h"
#include "parallel/pipeline.h"
#include "tensor/device_cuda.h"

enum { MAX_COUNT = 1000, MAX_RANKS = 8, MICROBATCHES = 5, CHUNKS = 2 };

static int world_rank, world_size;

/* Kernels of the device's table that are not wanted here. */
int fm_cuda_add_f32(fm_device *device, float *to, const float *from, int64_t n)
{
    return fm_fail(FM_ERR_INTERNAL, "no kernels here");
}

int fm_cuda_convert(fm_device *device, void *to, enum fm_dtype to_dtype, const void *from, enum fm_dtype from_dtype, int64_t n)
{
    return fm_fail(FM_ERR_INTERNAL, "no kernels here");
}

typedef struct {
    fm_comm *world;
    fm_device *device;
    fm_nccl *nccl;
    fm_groups *groups;
} setup;

static void check(int rc, const char *what)
{
    if (rc < 0) {
        printf("rank %d: %s: %s\n", world_rank, what, fm_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void expect(bool holds, const char *what)
{
    if (!holds) {
        printf("rank %d: WRONG: %s\n", world_rank, what);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static void open_device(setup *s, int ordinal)
{
    const MPI_Comm mpi = MPI_COMM_WORLD;
    const fm_cuda_options options = { .ordinal = ordinal, .threads = 1 };
    check(fm_comm_new_world(&s->world, &mpi), "the world");
    check(fm_cuda_open(&s->device, &options), "the device");
}

static void close_all(setup *s)
{
    fm_groups_destroy(s->groups);
    fm_nccl_close(s->nccl);
    fm_device_close(s->device);
    fm_comm_destroy(s->world);
}

/* ---- collectives ---- */

/* Small whole numbers, so that every order of summing gives the same bits. */
static void fill(void *to, enum fm_dtype dtype, int64_t n, int seed)
{
    for (int64_t i = 0; i < n; i++) {
        const int value = (int)((i * 7 + seed * 13 + world_rank * 5) % 11) - 3;
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
static void compare(const setup *s, fm_comm *host, fm_comm *device, const trial_op *t)
{
    static double in[MAX_COUNT * MAX_RANKS], out[MAX_COUNT * MAX_RANKS], found[MAX_COUNT * MAX_RANKS];
    const size_t bytes = (size_t)t->n * (size_t)fm_comm_size(host) * fm_dtype_bytes(t->dtype);
    trial_op apart = *t;
    apart.in_place = false;
    char *const device_in = fm_device_alloc(s->device, bytes, FM_MEMORY_WORKSPACE);
    char *const device_out = fm_device_alloc(s->device, bytes, FM_MEMORY_WORKSPACE);
    fill(in, t->dtype, t->n * fm_comm_size(host), (int)t->what);
    check(fm_device_copy_in(s->device, t->in_place && t->what == ALL_GATHER ? device_out + (size_t)fm_comm_rank(host) * bytes /
                            (size_t)fm_comm_size(host) : device_in, in, t->what == ALL_GATHER ? bytes / (size_t)fm_comm_size(host) : bytes),
          "copying in");
    fm_request request;
    check(begin(device, &request, device_out, device_in, t), "beginning over NCCL");
    check(fm_comm_wait(&request), "waiting for NCCL");
    size_t result_bytes;
    const char *const at = result(device, device_out, device_in, t, &result_bytes);
    check(fm_device_copy_out(s->device, found, at, result_bytes), "copying out");
    check(begin(host, &request, (char *)out, (char *)in, &apart), "beginning over MPI");
    check(fm_comm_wait(&request), "waiting for MPI");
    const char *const expected = result(host, (char *)out, (char *)in, &apart, &result_bytes);
    if (memcmp(found, expected, result_bytes) != 0) {
        printf("rank %d: WRONG: operation %d in the group %s, %lld elements of %s, root %d%s\n", world_rank, (int)t->what,
               fm_comm_name(device), (long long)t->n, fm_dtype_name(t->dtype), t->root, t->in_place ? ", in place" : "");
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    fm_device_free(s->device, device_in);
    fm_device_free(s->device, device_out);
}

static void compare_all(const setup *s, fm_comm *host, fm_comm *device)
{
    static const enum fm_dtype dtypes[] = { FM_F32, FM_BF16, FM_F16, FM_F64, FM_I32, FM_I64, FM_U8 };
    static const int64_t counts[] = { 1, 5, MAX_COUNT };
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        for (int i = 0; i < COLLECTIVES * 3 * 2; i++) {
            const bool is_16 = dtypes[d] == FM_BF16 || dtypes[d] == FM_F16;
            const trial_op t = { .what = (enum collective)(i % COLLECTIVES), .dtype = dtypes[d], .op = is_16 ? FM_SUM : (enum fm_reduce)(i % 3),
                                 .n = counts[i / COLLECTIVES % 3], .root = i % fm_comm_size(host), .in_place = i / COLLECTIVES / 3 != 0 };
            if (dtypes[d] != FM_U8 || t.what == ALL_GATHER || t.what == BROADCAST) {   /* bytes are not summed */
                compare(s, host, device, &t);
            }
        }
    }
}

/* Several at once, and in a group; waited for last first. What is queued after a wait sees the results, what was queued before the
 * beginning is seen by them: no copy waits on the host in between. */
static void overlap(const setup *s, fm_comm *comm, bool grouped)
{
    enum { N = 64, OPERATIONS = 4 };
    const int size = fm_comm_size(comm), rank = fm_comm_rank(comm);
    float host[OPERATIONS][N], *at[OPERATIONS], *copies[OPERATIONS], *const zeros = fm_device_alloc(s->device, sizeof host[0], FM_MEMORY_WORKSPACE);
    fm_request requests[OPERATIONS];
    check(grouped ? fm_comm_group_begin(comm) : FM_OK, "beginning a group");
    for (int i = 0; i < OPERATIONS; i++) {
        for (int j = 0; j < N; j++) {
            host[i][j] = (float)(i + j + rank);
        }
        at[i] = fm_device_alloc(s->device, sizeof host[i], FM_MEMORY_WORKSPACE);
        copies[i] = fm_device_alloc(s->device, sizeof host[i], FM_MEMORY_WORKSPACE);
        check(fm_device_copy_in(s->device, at[i], host[i], sizeof host[i]), "copying in");
    }
    for (int i = 0; i < OPERATIONS; i++) {
        check(fm_comm_begin_all_reduce(comm, &requests[i], at[i], N, FM_F32, FM_SUM), "an all-reduce");
    }
    check(grouped ? fm_comm_group_end(comm) : FM_OK, "ending a group");
    for (int i = OPERATIONS - 1; i >= 0; i--) {
        check(fm_comm_wait(&requests[i]), "waiting");
        check(fm_device_copy(s->device, copies[i], at[i], sizeof host[i]), "copying");
        check(fm_device_copy(s->device, at[i], zeros, sizeof host[i]), "overwriting");
    }
    for (int i = 0; i < OPERATIONS; i++) {
        check(fm_device_copy_out(s->device, host[i], copies[i], sizeof host[i]), "copying out");
        for (int j = 0; j < N; j++) {
            expect(host[i][j] == (float)(size * (i + j) + size * (size - 1) / 2), "a sum among several");
        }
        fm_device_free(s->device, at[i]);
        fm_device_free(s->device, copies[i]);
    }
    fm_device_free(s->device, zeros);
}

/* A large message to each neighbour and from each, all posted in one group, sends first. */
static void ring(const setup *s, fm_comm *comm)
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
        at[i] = fm_device_alloc(s->device, sizeof host, FM_MEMORY_WORKSPACE);
        check(fm_device_copy_in(s->device, at[i], host, sizeof host), "copying in");
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
        check(fm_device_copy_out(s->device, host, at[i], sizeof host), "copying out");
        for (int j = 0; j < N; j++) {
            expect(host[j] == (float)(1000 * (i == 2 ? before : next) + 10 * (i - 2) + j % 7), "a message of a ring");
        }
    }
    for (int i = 0; i < 4; i++) {
        fm_device_free(s->device, at[i]);
    }
}

/* ---- a pipeline ---- */

enum { MESSAGE = 3000, MAX_ROWS = 64 };

/* What a stage's output is for a microbatch, as train/step.c would send it. */
static float content(int microbatch, int receiver, bool forward)
{
    return (float)(100 * microbatch + 2 * receiver + forward);
}

static void put_message(const setup *s, fm_comm *comm, fm_request *request, float *at, const fm_pipeline *p, int microbatch, int stage,
                        enum fm_lane lane)
{
    float host[MESSAGE];
    for (int j = 0; j < MESSAGE; j++) {
        host[j] = content(microbatch, stage, lane == FM_LANE_FORWARD) + (float)(j % 3) * 0.25f;
    }
    check(fm_device_copy_in(s->device, at, host, sizeof host), "copying in");
    const int number = microbatch * p->ranks * p->chunks + stage;
    check(fm_comm_begin_send(comm, request, at, MESSAGE, FM_F32, stage % p->ranks, fm_tag(lane, number)), "sending along the pipeline");
}

static void take_message(const setup *s, fm_comm *comm, float *at, const fm_pipeline *p, int microbatch, int from, int stage,
                         enum fm_lane lane)
{
    fm_request request;
    const int number = microbatch * p->ranks * p->chunks + stage;
    check(fm_comm_begin_receive(comm, &request, at, MESSAGE, FM_F32, from % p->ranks, fm_tag(lane, number)), "receiving along the pipeline");
    check(fm_comm_wait(&request), "waiting for the pipeline");
}

/* A table's rows with its messages; every received one is kept on the device and looked at afterwards. */
static void run_table(const setup *s, fm_comm *comm, const fm_pipeline *p)
{
    const int rank = fm_comm_rank(comm), stages = p->ranks * p->chunks;
    float *const kept = fm_device_alloc(s->device, (size_t)MAX_ROWS * MESSAGE * sizeof(float), FM_MEMORY_WORKSPACE);
    float *const sent = fm_device_alloc(s->device, (size_t)MAX_ROWS * MESSAGE * sizeof(float), FM_MEMORY_WORKSPACE);
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
            take_message(s, comm, kept + n_kept * MESSAGE, p, row->microbatch, before, stage, lane);
            expected[n_kept++] = content(row->microbatch, stage, forward);
        }
        if (after >= 0 && after < stages) {
            put_message(s, comm, &requests[n_sent], sent + n_sent * MESSAGE, p, row->microbatch, after, lane);
            n_sent++;
        }
    }
    for (int i = 0; i < n_sent; i++) {
        check(fm_comm_wait(&requests[i]), "waiting for a delivery");
    }
    for (int i = 0; i < n_kept; i++) {
        float host[MESSAGE];
        check(fm_device_copy_out(s->device, host, kept + i * MESSAGE, sizeof host), "copying out");
        for (int j = 0; j < MESSAGE; j++) {
            expect(host[j] == expected[i] + (float)(j % 3) * 0.25f, "a message of the pipeline");
        }
    }
    fm_device_free(s->device, kept);
    fm_device_free(s->device, sent);
}

static void pipeline(const setup *s, fm_comm *comm)
{
    for (int schedule = FM_PIPELINE_GPIPE; schedule <= FM_PIPELINE_ZB; schedule++) {
        for (int chunks = 1; chunks <= CHUNKS; chunks++) {
            fm_pipeline p;
            if (fm_pipeline_check_chunks((enum fm_pipeline_schedule)schedule, chunks) < 0) {
                continue;
            }
            check(fm_pipeline_emit(&p, (enum fm_pipeline_schedule)schedule, fm_comm_size(comm), chunks, MICROBATCHES), "a table");
            run_table(s, comm, &p);
            fm_pipeline_clear(&p);
        }
    }
}

/* ---- the cases ---- */

static int make_groups(setup *s, char **sizes)
{
    const MPI_Comm mpi = MPI_COMM_WORLD;
    fm_mesh_shape shape;
    for (int d = 0; d < FM_DIMS; d++) {
        shape.size[d] = atoi(sizes[d]);
    }
    int kv_run[MAX_RANKS];
    for (int t = 0; t < shape.size[FM_TP]; t++) {
        kv_run[t] = t / 2 * 2;
    }
    check(fm_mesh_check(&shape, world_size), "the mesh");
    check(fm_groups_new(&s->groups, &shape, kv_run, &mpi), "the groups");
    return fm_groups_open_device(s->groups, fm_nccl_make, s->nccl);
}

static void run_groups(setup *s, char **sizes)
{
    int built, found;
    check(fm_nccl_version(&built, &found), "NCCL's version");
    expect(built == found, "NCCL's version");
    open_device(s, world_rank);
    check(fm_nccl_open(&s->nccl, s->world, s->device, 60.0), "NCCL");
    check(make_groups(s, sizes), "the groups over NCCL");
    for (int g = 0; g < FM_GROUPS; g++) {
        fm_comm *const host = fm_groups_get(s->groups, (enum fm_group)g), *const device = fm_groups_device(s->groups, (enum fm_group)g);
        if (device == host) {
            expect(g == FM_GROUP_WORLD || g == FM_GROUP_DP_SHARD || g == FM_GROUP_LOSS || host == NULL, "a group of its own");
            continue;
        }
        expect((host == NULL) == (device == NULL) && fm_comm_size(host) == fm_comm_size(device), "a group's size");
        if (device != NULL && g == FM_GROUP_PP) {
            pipeline(s, device);
        } else if (device != NULL) {
            compare_all(s, host, device);
            overlap(s, device, false);
            overlap(s, device, true);
            ring(s, device);
            expect(fm_comm_get_traffic(device)->calls[FM_TRAFFIC_SEND] == 2, "the traffic of a ring");
        }
    }
    close_all(s);
}

static void run_one_gpu(setup *s)
{
    open_device(s, 0);
    const int rc = fm_nccl_open(&s->nccl, s->world, s->device, 60.0);
    expect(rc == FM_ERR_JOB && strstr(fm_error_message(), "ranks 0 and 1 have the same GPU, 0000:01:00.0 of ") != NULL &&
           strstr(fm_error_message(), "distributed.backend = mpi") != NULL, fm_error_message());
    close_all(s);
}

/* All-reduces over fsdp until one fails, or 20 are done; the host waits for the device after each. */
static int reduce_on(const setup *s)
{
    float *const at = fm_device_alloc(s->device, sizeof(float), FM_MEMORY_WORKSPACE);
    for (int i = 0; i < 20; i++) {
        FM_TRY(fm_comm_all_reduce(fm_groups_device(s->groups, FM_GROUP_FSDP), at, 1, FM_F32, FM_SUM));
        FM_TRY(fm_device_synchronize(s->device));
    }
    return FM_OK;
}

/* Everybody must say what has happened; nobody may hang. The failure stays: no more is tried. */
static void run_failure(setup *s, const char *words, double timeout_s)
{
    char sizes[FM_DIMS][12] = { "1", "1", "", "1", "1" }, *all[FM_DIMS];
    snprintf(sizes[FM_DP_SHARD], sizeof sizes[0], "%d", world_size);
    for (int d = 0; d < FM_DIMS; d++) {
        all[d] = sizes[d];
    }
    open_device(s, world_rank);
    int rc = fm_nccl_open(&s->nccl, s->world, s->device, timeout_s);
    rc = rc < 0 ? rc : make_groups(s, all);
    const bool began = rc == FM_OK, is_late = strcmp(words, "late") == 0;
    if (began && is_late && world_rank == 1) {
        sleep(4);
    }
    rc = rc < 0 ? rc : reduce_on(s);
    printf("rank %d: %s\n", world_rank, rc < 0 ? fm_error_message() : "nothing has failed");
    expect(rc == FM_ERR_COMM || rc == FM_ERR_DEVICE, "a failure of communication");
    expect((began && world_rank != 1) || is_late || strstr(fm_error_message(), words) != NULL, words);
    expect(s->groups == NULL || strstr(fm_error_message(), "in the group fsdp, rank ") != NULL, "the group and the rank are named");
    expect(!began || reduce_on(s) == FM_ERR_COMM, "the failure is said again");
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static setup s;
    char count[12];
    if (argc < 2 || MPI_Init(&argc, &argv) != MPI_SUCCESS) {
        return 99;
    }
    MPI_Comm_rank(MPI_COMM_WORLD, &world_rank);
    MPI_Comm_size(MPI_COMM_WORLD, &world_size);
    snprintf(count, sizeof count, "%d", world_size);
    setenv("FM_DOUBLE_DEVICES", count, 1);
    if (strcmp(argv[1], "groups") == 0 && argc == 3 + FM_DIMS) {
        setenv("FM_DOUBLE_STREAMS", argv[2 + FM_DIMS], 1);
        setenv("FM_DOUBLE_PROTECT", "1", 1);
        run_groups(&s, argv + 2);
    } else if (strcmp(argv[1], "one-gpu") == 0) {
        run_one_gpu(&s);
    } else if (strcmp(argv[1], "peer-fails") == 0 && argc == 4) {
        setenv("FM_DOUBLE_FAIL", argv[2], 1);
        setenv("FM_DOUBLE_RANK", "1", 1);
        run_failure(&s, argv[3], 3.0);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);                      /* operations hang: MPI_Finalize would wait for them */
    } else if (strcmp(argv[1], "late") == 0) {
        run_failure(&s, "late", 1.0);
        MPI_Barrier(MPI_COMM_WORLD);
        _exit(0);
    } else {
        return 99;
    }
    MPI_Finalize();
    return 0;
}
