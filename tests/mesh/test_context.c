/* Context parallelism against one rank: both exchanges give the output, log-sum-exp and gradients of the plain operation over the
 * whole row, and send what the formulas say. Every rank makes the whole input by itself and keeps its part. */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "parallel/context.h"

enum { D = 16 };

/* One row of the table: heads, batch rows, tokens before padding, window, length of packed documents (0: one document). */
typedef struct {
    const char *name;
    enum fm_dtype dtype;
    int H, K, B;
    int64_t T, window;
    int document;
    double limit;                      /* of the relative L2 distance */
} setting;

static const setting settings[] = {
    { "plain", FM_F32, 4, 4, 1, 96, 0, 0, 1e-6 },
    { "9 heads on 3", FM_F32, 9, 3, 2, 192, 0, 0, 1e-6 },
    { "3 heads on 1", FM_F32, 3, 1, 2, 96, 0, 0, 1e-6 },
    { "long", FM_F32, 3, 1, 1, 5000, 0, 0, 1e-6 },              /* several segments of queries */
    { "window 1", FM_F32, 3, 1, 1, 96, 1, 0, 1e-6 },
    { "window 2", FM_F32, 3, 1, 2, 96, 2, 0, 1e-6 },
    { "window 13", FM_F32, 9, 3, 2, 192, 13, 0, 1e-6 },
    { "window 60", FM_F32, 3, 1, 1, 192, 60, 0, 1e-6 },
    { "window over the row", FM_F32, 3, 3, 1, 96, 500, 0, 1e-6 },
    { "documents", FM_F32, 9, 3, 2, 192, 0, 23, 1e-6 },
    { "documents and window", FM_F32, 3, 1, 2, 192, 9, 37, 1e-6 },
    { "padding", FM_F32, 3, 1, 2, 77, 0, 0, 1e-6 },
    { "all of it", FM_F32, 9, 3, 2, 101, 31, 23, 1e-6 },
    { "bfloat16", FM_BF16, 9, 3, 2, 192, 0, 23, 2e-3 },
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

/* A number in (-1, 1) that depends on where it stands alone. */
static float number(uint64_t stream, uint64_t at)
{
    uint64_t x = (stream << 40) + at + 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return (float)(int64_t)(x ^ x >> 31) / 9.3e18f;
}

static void *make(size_t elements, size_t size)
{
    void *const memory = calloc(elements + 1, size);
    if (memory == NULL) {
        MPI_Abort(MPI_COMM_WORLD, 99);
    }
    return memory;
}

/* One side of the comparison: all rows whole, or what one rank holds of them. */
typedef struct {
    int64_t T;                         /* tokens of a row here */
    void *qkv, *out, *dout, *dqkv;     /* [B T, (H + 2 K) D], [B T, H D] in dtype */
    float *lse, *delta;                /* [B T, H] */
    int32_t *position, *document;      /* [B, T] */
    fm_attention_args args;
} side;

static int64_t qkv_width(const setting *s)
{
    return (s->H + 2 * s->K) * D;
}

static void store(void *to, enum fm_dtype dtype, int64_t at, float value)
{
    if (dtype == FM_F32) {
        ((float *)to)[at] = value;
    } else {
        ((uint16_t *)to)[at] = fm_f32_to_bf16(value);
    }
}

static float load(const void *from, enum fm_dtype dtype, int64_t at)
{
    return dtype == FM_F32 ? ((const float *)from)[at] : fm_bf16_to_f32(((const uint16_t *)from)[at]);
}

/* Fills token t of batch row b of a side with what stands at `token` of the row. */
static void fill_token(side *x, const setting *s, int b, int64_t t, int64_t token, int64_t T)
{
    const int64_t at = b * x->T + t, source = b * T + token, q = (int64_t)s->H * D;
    for (int64_t i = 0; i < qkv_width(s); i++) {
        store(x->qkv, s->dtype, at * qkv_width(s) + i, 2 * number(1, (uint64_t)(source * qkv_width(s) + i)));
    }
    for (int64_t i = 0; i < q; i++) {
        store(x->dout, s->dtype, at * q + i, number(2, (uint64_t)(source * q + i)));
    }
    const int64_t length = s->document == 0 ? T : s->document + b;     /* the rows of a batch differ */
    x->document[at] = token < s->T ? (int32_t)(token / length) : -1;
    x->position[at] = (int32_t)(token % length);
}

static side make_side(const setting *s, int64_t T, int ranks, int rank)
{
    side x = { .T = ranks == 0 ? T : T / ranks };
    const size_t N = (size_t)(s->B * x.T), size = fm_dtype_bytes(s->dtype), q = (size_t)s->H * D;
    x.qkv = make(N * (size_t)qkv_width(s), size);
    x.dqkv = make(N * (size_t)qkv_width(s), size);
    x.out = make(N * q, size);
    x.dout = make(N * q, size);
    x.lse = make(N * (size_t)s->H, sizeof(float));
    x.delta = make(N * (size_t)s->H, sizeof(float));
    x.position = make(N, sizeof(int32_t));
    x.document = make(N, sizeof(int32_t));
    for (int b = 0; b < s->B; b++) {
        for (int64_t t = 0; t < x.T; t++) {
            fill_token(&x, s, b, t, ranks == 0 ? t : fm_context_token(t, T, ranks, rank), T);
        }
    }
    x.args = (fm_attention_args){
        .dtype = s->dtype, .B = s->B, .Tq = x.T, .Tk = x.T, .q_row = x.T, .k_row = x.T, .H = s->H, .K = s->K, .D = D,
        .ldq = qkv_width(s), .ldk = qkv_width(s), .ldo = (int64_t)q, .scale = 0.25f, .window = s->window,
        .q_position = x.position, .q_document = x.document, .k_position = x.position, .k_document = x.document,
    };
    return x;
}

static void free_side(side *x)
{
    void *const all[] = { x->qkv, x->dqkv, x->out, x->dout, x->lse, x->delta, x->position, x->document };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        free(all[i]);
    }
}

static const void *part(const void *qkv, enum fm_dtype dtype, int64_t columns)
{
    return (const char *)qkv + columns * (int64_t)fm_dtype_bytes(dtype);
}

static int forward(fm_context *context, fm_compute *compute, side *x, const setting *s)
{
    const int64_t q = s->H * D, k = s->K * D;
    return fm_context_attention(context, compute, x->out, x->lse, x->qkv, part(x->qkv, s->dtype, q),
                                part(x->qkv, s->dtype, q + k), &x->args);
}

static int backward(fm_context *context, fm_compute *compute, side *x, const setting *s)
{
    const int64_t q = s->H * D, k = s->K * D;
    return fm_context_attention_backward(context, compute, x->dqkv, (void *)(uintptr_t)part(x->dqkv, s->dtype, q),
                                         (void *)(uintptr_t)part(x->dqkv, s->dtype, q + k), x->dout, x->out, x->lse, x->delta,
                                         x->qkv, part(x->qkv, s->dtype, q), part(x->qkv, s->dtype, q + k), &x->args);
}

/* The relative L2 distance over all ranks between columns [first, first + n) of rows of `width` here and in the whole. Where a
 * number is not finite, both must be the same. */
static double distance(fm_comm *world, const side *here, const void *mine, const side *whole, const void *all,
                       enum fm_dtype dtype, int B, int64_t width, int64_t first, int64_t n)
{
    double sums[2] = { 0, 0 };
    for (int64_t at = 0; at < B * here->T; at++) {
        const int64_t token = fm_context_token(at % here->T, whole->T, fm_comm_size(world), fm_comm_rank(world));
        const int64_t there = (at / here->T * whole->T + token) * width;
        for (int64_t i = first; i < first + n; i++) {
            const double a = load(mine, dtype, at * width + i), b = load(all, dtype, there + i);
            if (a != b || isfinite(b)) {
                sums[0] += (a - b) * (a - b);
                sums[1] += b * b;
            }
        }
    }
    if (fm_comm_all_reduce(world, sums, 2, FM_F64, FM_SUM) < 0) {
        return NAN;
    }
    return sums[1] > 0 ? sqrt(sums[0] / sums[1]) : sqrt(sums[0]);
}

static int compare(fm_comm *world, const side *here, const side *whole, const setting *s, const char *exchange)
{
    const int64_t q = s->H * D, k = s->K * D, w = qkv_width(s);
    const struct {
        const char *name;
        const void *mine, *all;
        enum fm_dtype dtype;
        int64_t width, first, n;
    } tensors[] = {
        { "out", here->out, whole->out, s->dtype, q, 0, q },
        { "lse", here->lse, whole->lse, FM_F32, s->H, 0, s->H },
        { "dq", here->dqkv, whole->dqkv, s->dtype, w, 0, q },
        { "dk", here->dqkv, whole->dqkv, s->dtype, w, q, k },
        { "dv", here->dqkv, whole->dqkv, s->dtype, w, q + k, k },
    };
    int failed = 0;
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++) {
        const double gap = distance(world, here, tensors[i].mine, whole, tensors[i].all, tensors[i].dtype, s->B, tensors[i].width,
                                    tensors[i].first, tensors[i].n);
        if (!(gap <= s->limit)) {
            failed = 1;
            if (fm_comm_rank(world) == 0) {
                printf("%s, %s: %s is off by %.3g, allowed %.3g\n", s->name, exchange, tensors[i].name, gap, s->limit);
            }
        }
    }
    return failed;
}

/* ---- traffic ---- */

/* Hand-overs of all chunks, found by asking for every pair of tokens: chunk r moves up from rank to rank, chunk 2P-1-r down, as
 * far as the last rank with a query that sees one of its keys. *homes counts the chunks that moved at all. */
static int64_t count_hops(int64_t *homes, int64_t T, int64_t window, int ranks)
{
    const int64_t chunk = T / (2 * ranks);
    int64_t hops = 0;
    *homes = 0;
    for (int j = 0; j < 2 * ranks; j++) {
        const int origin = j < ranks ? j : 2 * ranks - 1 - j;
        int last = 0;
        for (int distance_up = 1; distance_up < ranks; distance_up++) {
            const int rank = j < ranks ? (origin + distance_up) % ranks : (origin - distance_up + ranks) % ranks;
            for (int64_t t = 0; t < T / ranks; t++) {
                const int64_t query = fm_context_token(t, T, ranks, rank);
                for (int64_t key = j * chunk; key < (j + 1) * chunk; key++) {
                    if (key <= query && (window == 0 || query - key < window)) {
                        last = distance_up;
                    }
                }
            }
        }
        hops += last;
        *homes += last > 0;
    }
    return hops;
}

/* Bytes of all ranks of one kind since `before`. */
static int64_t bytes_since(fm_comm *world, const fm_comm_traffic *before, enum fm_traffic kind)
{
    int64_t bytes = fm_comm_get_traffic(world)->bytes[kind] - before->bytes[kind];
    return fm_comm_all_reduce(world, &bytes, 1, FM_I64, FM_SUM) < 0 ? -1 : bytes;
}

static int expect(fm_comm *world, const fm_comm_traffic *before, enum fm_traffic kind, int64_t expected, const char *what)
{
    const int64_t bytes = bytes_since(world, before, kind);
    if (bytes != expected && fm_comm_rank(world) == 0) {
        printf("%s: %lld bytes, the formula says %lld\n", what, (long long)bytes, (long long)expected);
    }
    return bytes != expected;
}

static int check_traffic(fm_comm *world, const fm_comm_traffic *before, const setting *s, int64_t T, bool ring, bool is_backward)
{
    const int ranks = fm_comm_size(world);
    const int64_t size = (int64_t)fm_dtype_bytes(s->dtype), row = s->B * T * 2 * s->K * D, chunk = row / (2 * ranks);
    int64_t homes, hops = count_hops(&homes, T, s->window, ranks);
    if (s->window == 0 && hops != 3 * ranks * (ranks - 1) / 2) {
        return 1;
    }
    int failed = 0;
    failed |= expect(world, before, FM_TRAFFIC_ALL_GATHER, ring ? 0 : ranks * row * size, "all-gather");
    failed |= expect(world, before, FM_TRAFFIC_REDUCE_SCATTER, ring || !is_backward ? 0 : ranks * row * 4, "reduce-scatter");
    const int64_t sent = ring ? chunk * (hops * size + (is_backward ? (hops + homes) * 4 : 0)) : 0;
    failed |= expect(world, before, FM_TRAFFIC_SEND, sent, "sends");
    failed |= expect(world, before, FM_TRAFFIC_RECEIVE, sent, "receives");
    return failed;
}

/* ---- the table ---- */

static int run(fm_comm *world, fm_compute *compute, const setting *s, enum fm_context_exchange exchange)
{
    const int ranks = fm_comm_size(world), rank = fm_comm_rank(world);
    const bool ring = exchange == FM_CONTEXT_RING;
    const int64_t chunks = 2 * ranks, T = (s->T + chunks - 1) / chunks * chunks;
    side whole = make_side(s, T, 0, 0), here = make_side(s, T, ranks, rank);
    here.args.k_position = whole.position;
    here.args.k_document = whole.document;
    fm_context *context = NULL;
    int rc = forward(NULL, compute, &whole, s);
    rc = rc < 0 ? rc : backward(NULL, compute, &whole, s);
    rc = rc < 0 ? rc : fm_context_new(&context, world, compute->device, exchange);
    const size_t used_bytes = fm_memory_used_bytes(FM_MEMORY_WORKSPACE);
    rc = rc < 0 ? rc : fm_context_reserve(context, &here.args);
    int failed = fm_memory_used_bytes(FM_MEMORY_WORKSPACE) - used_bytes != fm_context_bytes(exchange, ranks, &here.args);
    if (failed) {
        printf("%s: the estimate of memory is wrong\n", s->name);
    }
    fm_comm_traffic before = *fm_comm_get_traffic(world);
    rc = rc < 0 ? rc : forward(context, compute, &here, s);
    failed |= ranks > 1 && check_traffic(world, &before, s, T, ring, false);
    before = *fm_comm_get_traffic(world);
    rc = rc < 0 ? rc : backward(context, compute, &here, s);
    failed |= ranks > 1 && check_traffic(world, &before, s, T, ring, true);
    rc = rc < 0 ? rc : forward(context, compute, &here, s);         /* again: what the buffers held must not matter */
    rc = rc < 0 ? rc : backward(context, compute, &here, s);
    failed |= compare(world, &here, &whole, s, ring ? "ring" : "all-gather");
    if (rc < 0 || failed) {
        printf("rank %d: %s, %s: failed %s\n", rank, s->name, ring ? "ring" : "all-gather", rc < 0 ? fm_error_message() : "");
    }
    fm_context_destroy(context);
    free_side(&whole);
    free_side(&here);
    return rc < 0 || failed;
}

int main(int argc, char **argv)
{
    MPI_Init(&argc, &argv);
    const MPI_Comm all = MPI_COMM_WORLD;
    fm_comm *world = NULL;
    fm_device *device = NULL;
    fm_compute *compute = NULL;
    if (fm_comm_new_world(&world, &all) < 0 || fm_device_open_cpu(&device, 1) < 0 || fm_compute_new(&compute, device, NULL) < 0) {
        MPI_Abort(MPI_COMM_WORLD, 99);
    }
    int failed = 0;
    for (int i = 0; i < SETTINGS; i++) {
        for (int exchange = FM_CONTEXT_ALL_GATHER; exchange <= FM_CONTEXT_RING; exchange++) {
            failed |= run(world, compute, &settings[i], (enum fm_context_exchange)exchange);
        }
    }
    fm_compute_destroy(compute);
    fm_device_close(device);
    fm_comm_destroy(world);
    MPI_Finalize();
    return failed;
}
