#include "parallel/context.h"

#include "ops/rows.h"

/* The two chunks of a rank: LOWER r, which travels to the next rank, and UPPER 2P-1-r, which travels to the rank before. */
enum { LOWER, UPPER, LANES };

/* Queries of one call in a ring step on the host: between calls, pending transfers move. */
enum { SEGMENT = 1024 };

enum { TAG_KEYS, TAG_GRADIENTS = TAG_KEYS + LANES, TAG_HOME = TAG_GRADIENTS + LANES };

struct fm_context {
    fm_comm *comm;
    fm_device *device;
    enum fm_context_exchange exchange;
    int ranks, rank;
    void *memory;
    size_t memory_bytes;
};

/* Both exchanges' buffers, in one block of memory. A row of keys and values is k [K D] and v [K D]. */
typedef struct {
    void *gathered;                    /* all-gather: [P, B, T/P, 2 K D] in dtype; then gradients in fp32 */
    void *ordered;                     /* [B, T, 2 K D] in dtype */
    float *gradients;                  /* [B, T, 2 K D] */
    void *keys[LANES][2];              /* ring: [B, c, 2 K D] in dtype: one is computed with and sent while the other arrives */
    float *partial[LANES][2];          /* gradients of a chunk: one is computed while the other is sent */
    float *arriving[LANES], *home[LANES];
    float *wide;                       /* [B T/P, max(ldq, ldo)] in fp32: out, then dq */
} buffers;

/* One call of attention. */
typedef struct {
    const fm_context *context;
    fm_compute *compute;
    const fm_attention_args *args;
    int64_t chunk, row;                /* tokens of a chunk; of a whole batch row */
    int64_t width;                     /* 2 K D */
    buffers at;
} call;

/* Where the results of a call go and what they need. */
typedef struct {
    const void *q, *dout;
    void *out;                         /* forward: fp32 */
    float *lse;
    const float *backward_lse, *delta;
} operands;

int64_t fm_context_token(int64_t t, int64_t T, int ranks, int rank)
{
    const int64_t chunk = T / (2 * ranks);
    return t < chunk ? rank * chunk + t : (2 * ranks - 1 - rank) * chunk + (t - chunk);
}

enum fm_context_exchange fm_context_choose(enum fm_context_exchange exchange, int64_t T)
{
    return exchange != FM_CONTEXT_AUTO ? exchange : T >= FM_CONTEXT_RING_TOKENS ? FM_CONTEXT_RING : FM_CONTEXT_ALL_GATHER;
}

int fm_context_new(fm_context **out, fm_comm *cp, fm_device *device, enum fm_context_exchange exchange)
{
    *out = NULL;
    if (fm_comm_size(cp) == 1) {
        return FM_OK;
    }
    fm_context *const context = fm_alloc(sizeof *context, FM_MEMORY_HOST);
    if (context == NULL) {
        return FM_ERR_MEMORY;
    }
    *context = (fm_context){ .comm = cp, .device = device, .exchange = exchange, .ranks = fm_comm_size(cp),
                             .rank = fm_comm_rank(cp) };
    *out = context;
    return FM_OK;
}

void fm_context_destroy(fm_context *context)
{
    if (context != NULL) {
        fm_device_free(context->device, context->memory);
        fm_free(context);
    }
}

static size_t bind_all_gather(buffers *at, void *memory, int ranks, const fm_attention_args *args)
{
    const int64_t elements = args->B * args->Tq * ranks * 2 * args->K * args->D;
    size_t used_bytes = 0;
    at->gathered = fm_carve(memory, &used_bytes, elements, sizeof(float));
    at->ordered = fm_carve(memory, &used_bytes, elements, fm_dtype_bytes(args->dtype));
    at->gradients = fm_carve(memory, &used_bytes, elements, sizeof(float));
    at->wide = args->dtype == FM_F32 ? NULL : fm_carve(memory, &used_bytes, args->B * args->Tq * args->ldq, sizeof(float));
    return used_bytes;
}

static size_t bind_ring(buffers *at, void *memory, const fm_attention_args *args)
{
    const int64_t elements = args->B * args->Tq / 2 * 2 * args->K * args->D;
    size_t used_bytes = 0;
    for (int lane = 0; lane < LANES; lane++) {
        for (int i = 0; i < 2; i++) {
            at->keys[lane][i] = fm_carve(memory, &used_bytes, elements, fm_dtype_bytes(args->dtype));
            at->partial[lane][i] = fm_carve(memory, &used_bytes, elements, sizeof(float));
        }
        at->arriving[lane] = fm_carve(memory, &used_bytes, elements, sizeof(float));
        at->home[lane] = fm_carve(memory, &used_bytes, elements, sizeof(float));
    }
    at->wide = fm_carve(memory, &used_bytes, args->B * args->Tq * (args->ldq > args->ldo ? args->ldq : args->ldo), sizeof(float));
    return used_bytes;
}

static size_t bind(buffers *at, void *memory, enum fm_context_exchange exchange, int ranks, const fm_attention_args *args)
{
    *at = (buffers){ 0 };
    if (ranks == 1) {
        return 0;
    }
    return fm_context_choose(exchange, args->Tq * ranks) == FM_CONTEXT_RING ? bind_ring(at, memory, args)
                                                                            : bind_all_gather(at, memory, ranks, args);
}

size_t fm_context_bytes(enum fm_context_exchange exchange, int ranks, const fm_attention_args *args)
{
    buffers none;
    return bind(&none, NULL, exchange, ranks, args);
}

int fm_context_reserve(fm_context *context, const fm_attention_args *args)
{
    const size_t bytes = context == NULL ? 0 : fm_context_bytes(context->exchange, context->ranks, args);
    if (context == NULL || bytes <= context->memory_bytes) {
        return FM_OK;
    }
    fm_device_free(context->device, context->memory);
    context->memory_bytes = 0;
    context->memory = fm_device_alloc(context->device, bytes, FM_MEMORY_WORKSPACE);
    if (context->memory == NULL) {
        return fm_fail_in(FM_ERR_MEMORY, "context parallelism over %d ranks", context->ranks);
    }
    context->memory_bytes = bytes;
    return FM_OK;
}

static int begin_call(call *c, fm_context *context, fm_compute *compute, const fm_attention_args *args)
{
    FM_ASSERT(args->Tq == args->Tk && args->q_row == args->Tq && args->k_row == args->Tk && args->Tq % 2 == 0 && !args->plain);
    FM_TRY(fm_context_reserve(context, args));
    *c = (call){ .context = context, .compute = compute, .args = args, .chunk = args->Tq / 2, .row = args->Tq * context->ranks,
                 .width = 2 * (int64_t)args->K * args->D };
    bind(&c->at, context->memory, context->exchange, context->ranks, args);
    return FM_OK;
}

/* Rows from one place to another. */
static int copy(const call *c, void *to, int64_t ld_to, enum fm_dtype to_dtype, const void *from, int64_t ld_from,
                enum fm_dtype from_dtype, int64_t rows, int64_t n)
{
    return c->compute->ops->copy_rows(c->compute, to, ld_to, to_dtype, from, ld_from, from_dtype, rows, n);
}

/* ---- all-gather ---- */

/* Between the order of ranks [P, B, 2, c] and the order of the row [B, 2P, c]: chunk by chunk. */
static int reorder(const call *c, void *ordered, void *gathered, enum fm_dtype dtype, bool to_row)
{
    const int ranks = c->context->ranks, B = c->args->B;
    for (int r = 0; r < ranks; r++) {
        for (int b = 0; b < B; b++) {
            for (int lane = 0; lane < LANES; lane++) {
                const int64_t chunk = lane == LOWER ? r : 2 * ranks - 1 - r;
                void *const in_row = fm_at(ordered, dtype, (b * c->row + chunk * c->chunk) * c->width);
                void *const in_rank = fm_at(gathered, dtype, (((int64_t)r * B + b) * LANES + lane) * c->chunk * c->width);
                FM_TRY(copy(c, to_row ? in_row : in_rank, c->width, dtype, to_row ? in_rank : in_row, c->width, dtype, c->chunk,
                            c->width));
            }
        }
    }
    return FM_OK;
}

/* Fills `ordered` with the keys and values of all ranks, and *all with the arguments of attention over them. */
static int gather_keys(const call *c, fm_attention_args *all, const void *k, const void *v)
{
    const fm_attention_args *const a = c->args;
    const int64_t rows = a->B * a->Tk, count = rows * c->width;
    void *const mine = fm_at(c->at.gathered, a->dtype, c->context->rank * count);
    FM_TRY(copy(c, mine, c->width, a->dtype, k, a->ldk, a->dtype, rows, c->width / 2));
    FM_TRY(copy(c, fm_at(mine, a->dtype, c->width / 2), c->width, a->dtype, v, a->ldk, a->dtype, rows, c->width / 2));
    FM_TRY(fm_comm_all_gather(c->context->comm, c->at.gathered, mine, count, a->dtype));
    FM_TRY(reorder(c, c->at.ordered, c->at.gathered, a->dtype, true));
    *all = *a;
    all->Tk = (2 * c->context->ranks - c->context->rank) * c->chunk;   /* up to the last query of this rank */
    all->k_row = c->row;
    all->ldk = c->width;
    return FM_OK;
}

static int all_gather_forward(const call *c, void *out, float *lse, const void *q, const void *k, const void *v)
{
    fm_attention_args all;
    FM_TRY(gather_keys(c, &all, k, v));
    return c->compute->ops->attention(c->compute, out, all.dtype, lse, q, c->at.ordered,
                                      fm_at(c->at.ordered, all.dtype, c->width / 2), &all, false);
}

static int all_gather_backward(const call *c, void *dq, void *dk, void *dv, const operands *in, const void *k, const void *v)
{
    const fm_attention_args *const a = c->args;
    const int64_t rows = a->B * a->Tk, half = c->width / 2;
    fm_attention_args all;
    FM_TRY(gather_keys(c, &all, k, v));
    FM_TRY(fm_device_zero(c->context->device, c->at.gradients, (size_t)(a->B * c->row * c->width) * sizeof(float)));
    void *const dq_f32 = a->dtype == FM_F32 ? dq : c->at.wide;
    FM_TRY(c->compute->ops->attention_backward(c->compute, dq_f32, c->at.gradients, c->at.gradients + half, FM_F32, in->dout,
                                               in->backward_lse, in->delta, in->q, c->at.ordered,
                                               fm_at(c->at.ordered, a->dtype, half), &all, false));
    if (dq_f32 != dq) {
        FM_TRY(copy(c, dq, a->ldq, a->dtype, dq_f32, a->ldq, FM_F32, rows, (int64_t)a->H * a->D));
    }
    FM_TRY(reorder(c, c->at.gradients, c->at.gathered, FM_F32, false));
    FM_TRY(fm_comm_reduce_scatter(c->context->comm, c->at.gradients, c->at.gathered, rows * c->width, FM_F32));
    FM_TRY(copy(c, dk, a->ldk, a->dtype, c->at.gradients, c->width, FM_F32, rows, half));
    return copy(c, dv, a->ldk, a->dtype, c->at.gradients + half, c->width, FM_F32, rows, half);
}

/* ---- ring ---- */

static int chunk_of(const call *c, int lane, int rank)
{
    return lane == LOWER ? rank : 2 * c->context->ranks - 1 - rank;
}

/* Some query of chunk i sees some key of chunk j: the nearest are (i - j - 1) c + 1 apart. */
static bool sees(const call *c, int i, int j)
{
    return j <= i && (c->args->window <= 0 || (i - j - 1) * c->chunk + 1 < c->args->window);
}

/* How many ranks on a chunk's way it must be handed on to: as far as the last that sees it. */
static int hops(const call *c, int lane, int origin)
{
    const int ranks = c->context->ranks;
    int most = 0;
    for (int i = 0; i < 2 * ranks; i++) {
        if (sees(c, i, chunk_of(c, lane, origin))) {
            const int rank = i < ranks ? i : 2 * ranks - 1 - i;
            const int distance = lane == LOWER ? (rank - origin + ranks) % ranks : origin - rank;
            most = distance > most ? distance : most;
        }
    }
    return most;
}

/* The rank `steps` ahead (behind, where negative) of this one on a lane's way. */
static int neighbour(const call *c, int lane, int steps)
{
    const int ranks = c->context->ranks, ahead = lane == LOWER ? steps : -steps;
    return ((c->context->rank + ahead) % ranks + ranks) % ranks;
}

/* Whether this rank has a chunk of the lane in a step, and whether it hands that on. */
static bool holds(const call *c, int lane, int step)
{
    return step < c->context->ranks && step <= hops(c, lane, neighbour(c, lane, -step));
}

static bool hands_on(const call *c, int lane, int step)
{
    return step < hops(c, lane, neighbour(c, lane, -step));
}

static int64_t chunk_elements(const call *c)
{
    return c->args->B * c->chunk * c->width;
}

/* This rank's keys and values, chunk by chunk, to where step 0 has them; or gradients back. */
static int pack(const call *c, const void *k, const void *v)
{
    const fm_attention_args *const a = c->args;
    for (int lane = 0; lane < LANES; lane++) {
        for (int b = 0; b < a->B; b++) {
            void *const to = fm_at(c->at.keys[lane][0], a->dtype, b * c->chunk * c->width);
            const int64_t from = (b * a->Tk + lane * c->chunk) * a->ldk;
            FM_TRY(copy(c, to, c->width, a->dtype, fm_at(k, a->dtype, from), a->ldk, a->dtype, c->chunk, c->width / 2));
            FM_TRY(copy(c, fm_at(to, a->dtype, c->width / 2), c->width, a->dtype, fm_at(v, a->dtype, from), a->ldk, a->dtype,
                        c->chunk, c->width / 2));
        }
    }
    return FM_OK;
}

static int unpack(const call *c, void *dk, void *dv)
{
    const fm_attention_args *const a = c->args;
    for (int lane = 0; lane < LANES; lane++) {
        for (int b = 0; b < a->B; b++) {
            const float *const from = c->at.home[lane] + b * c->chunk * c->width;
            const int64_t to = (b * a->Tk + lane * c->chunk) * a->ldk;
            FM_TRY(copy(c, fm_at(dk, a->dtype, to), a->ldk, a->dtype, from, c->width, FM_F32, c->chunk, c->width / 2));
            FM_TRY(copy(c, fm_at(dv, a->dtype, to), a->ldk, a->dtype, from + c->width / 2, c->width, FM_F32, c->chunk,
                        c->width / 2));
        }
    }
    return FM_OK;
}

/* Sends and receives of all ranks that belong together: no rank waits for the turn of one of them. */
static int end_group(const call *c, int rc)
{
    const int ended = fm_comm_group_end(c->context->comm);
    return rc < 0 ? rc : ended;
}

static int post_keys(const call *c, fm_request *requests, int step)
{
    const int64_t n = chunk_elements(c);
    for (int lane = 0; lane < LANES; lane++) {
        if (holds(c, lane, step + 1)) {
            FM_TRY(fm_comm_begin_receive(c->context->comm, requests++, c->at.keys[lane][(step + 1) % 2], n, c->args->dtype,
                                         neighbour(c, lane, -1), TAG_KEYS + lane));
        }
        if (hands_on(c, lane, step)) {
            FM_TRY(fm_comm_begin_send(c->context->comm, requests++, c->at.keys[lane][step % 2], n, c->args->dtype,
                                      neighbour(c, lane, 1), TAG_KEYS + lane));
        }
    }
    return FM_OK;
}

/* Sends the step's keys on and receives those of the next step. requests [2 LANES]. */
static int begin_keys(const call *c, fm_request *requests, int step)
{
    FM_TRY(fm_comm_group_begin(c->context->comm));
    return end_group(c, post_keys(c, requests, step));
}

static int wait_all(fm_request *requests, int n)
{
    int rc = FM_OK;
    for (int i = 0; i < n; i++) {
        const int one = fm_comm_wait(&requests[i]);
        rc = rc < 0 ? rc : one;
    }
    return rc;
}

/* Local tokens [first, first + n) of batch row b against the chunk that a lane has in a step: forward, or with `partial`
 * backward. */
static int compute_segment(const call *c, const operands *with, int lane, int step, int b, int64_t first, int64_t n, bool merge)
{
    const fm_attention_args *const a = c->args;
    const int64_t token = b * a->Tq + first, key = b * c->row + chunk_of(c, lane, neighbour(c, lane, -step)) * c->chunk;
    const int64_t at = b * c->chunk * c->width;
    fm_attention_args piece = *a;
    piece.B = 1;
    piece.Tq = n;
    piece.Tk = c->chunk;
    piece.ldk = c->width;
    piece.q_position += token;
    piece.q_document += token;
    piece.k_position += key;
    piece.k_document += key;
    const void *const q = fm_at(with->q, a->dtype, token * a->ldq), *const k = fm_at(c->at.keys[lane][step % 2], a->dtype, at);
    const void *const v = fm_at(k, a->dtype, c->width / 2);
    if (with->out != NULL) {
        return c->compute->ops->attention(c->compute, (float *)with->out + token * a->ldo, FM_F32, with->lse + token * a->H, q, k,
                                          v, &piece, merge);
    }
    float *const dk = c->at.partial[lane][step % 2] + at;
    return c->compute->ops->attention_backward(c->compute, c->at.wide + token * a->ldq, dk, dk + c->width / 2, FM_F32,
                                               fm_at(with->dout, a->dtype, token * a->ldo), with->backward_lse + token * a->H,
                                               with->delta + token * a->H, q, k, v, &piece, true);
}

/* The same for the queries of chunks [from, to] of this rank's two (0 and 1), with progress of the transfers between. */
static int compute_chunks(const call *c, const operands *with, int lane, int step, int from, int to, bool merge)
{
    const int64_t end = (to + 1) * c->chunk, segment = c->context->device->table->is_host ? SEGMENT : end;
    for (int b = 0; b < c->args->B; b++) {
        for (int64_t first = from * c->chunk; first < end; first += segment) {
            FM_TRY(compute_segment(c, with, lane, step, b, first, end - first < segment ? end - first : segment, merge));
            fm_comm_progress(c->context->comm);
        }
    }
    return FM_OK;
}

/* All that this rank computes in a step. Step 0 begins with each chunk's queries on its own keys: these results are written, all
 * others merged. */
static int compute_step(const call *c, const operands *with, int step)
{
    const int rank = c->context->rank, mine[LANES] = { rank, chunk_of(c, UPPER, rank) };
    if (step == 0) {
        FM_TRY(compute_chunks(c, with, LOWER, 0, 0, 0, false));
        FM_TRY(compute_chunks(c, with, UPPER, 0, 1, 1, false));
        return sees(c, mine[UPPER], mine[LOWER]) ? compute_chunks(c, with, LOWER, 0, 1, 1, true) : FM_OK;
    }
    for (int lane = 0; lane < LANES; lane++) {
        const int key_chunk = chunk_of(c, lane, neighbour(c, lane, -step));
        const bool first = sees(c, mine[LOWER], key_chunk), second = sees(c, mine[UPPER], key_chunk);
        if (holds(c, lane, step) && (first || second)) {
            FM_TRY(compute_chunks(c, with, lane, step, first ? 0 : 1, second ? 1 : 0, true));
        }
    }
    return FM_OK;
}

static int ring_forward(const call *c, void *out, float *lse, const void *q, const void *k, const void *v)
{
    const fm_attention_args *const a = c->args;
    const operands with = { .q = q, .out = a->dtype == FM_F32 ? out : c->at.wide, .lse = lse };
    FM_TRY(pack(c, k, v));
    for (int step = 0; step < c->context->ranks; step++) {
        fm_request requests[2 * LANES] = { { { NULL, NULL } } };
        FM_TRY(begin_keys(c, requests, step));
        FM_TRY(compute_step(c, &with, step));
        FM_TRY(wait_all(requests, 2 * LANES));
    }
    return with.out == out ? FM_OK : copy(c, out, a->ldo, a->dtype, with.out, a->ldo, FM_F32, a->B * a->Tq, (int64_t)a->H * a->D);
}

/* Gradients on their way: of the chunk before, arriving; of the last two chunks, being sent; of this rank's own, coming home. */
typedef struct {
    fm_request arriving[LANES], sent[LANES][2], home[LANES];
} gradient_requests;

static int begin_gradients(const call *c, gradient_requests *requests, int step)
{
    const int64_t n = chunk_elements(c);
    for (int lane = 0; lane < LANES; lane++) {
        FM_TRY(fm_comm_wait(&requests->sent[lane][step % 2]));
        FM_TRY(fm_device_zero(c->context->device, c->at.partial[lane][step % 2], (size_t)n * sizeof(float)));
    }
    return FM_OK;
}

/* Sends a lane's sum on, or home from the last rank of the chunk's way; receives what the rank before has sent at the end of the same
 * step, and this rank's own in the step in which it comes home. Of one lane no rank gets two messages of another in a step. */
static int post_gradients(const call *c, gradient_requests *requests, int lane, int step)
{
    const int64_t n = chunk_elements(c);
    const int far = hops(c, lane, c->context->rank);
    const bool on = hands_on(c, lane, step);
    if (holds(c, lane, step) && (on || step > 0)) {
        FM_TRY(fm_comm_begin_send(c->context->comm, &requests->sent[lane][step % 2], c->at.partial[lane][step % 2], n, FM_F32,
                                  neighbour(c, lane, on ? 1 : -step), (on ? TAG_GRADIENTS : TAG_HOME) + lane));
    }
    if (holds(c, lane, step + 1)) {
        FM_TRY(fm_comm_begin_receive(c->context->comm, &requests->arriving[lane], c->at.arriving[lane], n, FM_F32,
                                     neighbour(c, lane, -1), TAG_GRADIENTS + lane));
    }
    if (far > 0 && step == far) {
        FM_TRY(fm_comm_begin_receive(c->context->comm, &requests->home[lane], c->at.home[lane], n, FM_F32, neighbour(c, lane, far),
                                     TAG_HOME + lane));
    }
    return FM_OK;
}

/* Adds what arrived to the step's own part, and exchanges the sums. */
static int end_gradients(const call *c, gradient_requests *requests, int step)
{
    const int64_t n = chunk_elements(c);
    fm_device *const device = c->context->device;
    for (int lane = 0; lane < LANES; lane++) {
        float *const sum = c->at.partial[lane][step % 2];
        if (holds(c, lane, step) && step > 0) {
            FM_TRY(fm_comm_wait(&requests->arriving[lane]));
            FM_TRY(device->table->add_f32(device, sum, c->at.arriving[lane], n));
        } else if (step == 0 && !hands_on(c, lane, 0)) {
            FM_TRY(fm_device_copy(device, c->at.home[lane], sum, (size_t)n * sizeof(float)));
        }
    }
    FM_TRY(fm_comm_group_begin(c->context->comm));
    const int rc = post_gradients(c, requests, LOWER, step);
    return end_group(c, rc < 0 ? rc : post_gradients(c, requests, UPPER, step));
}

static int ring_backward(const call *c, void *dq, void *dk, void *dv, const operands *with, const void *k, const void *v)
{
    const fm_attention_args *const a = c->args;
    gradient_requests gradients = { 0 };
    FM_TRY(pack(c, k, v));
    FM_TRY(fm_device_zero(c->context->device, c->at.wide, (size_t)(a->B * a->Tq * a->ldq) * sizeof(float)));
    for (int step = 0; step < c->context->ranks; step++) {
        fm_request requests[2 * LANES] = { { { NULL, NULL } } };
        FM_TRY(begin_keys(c, requests, step));
        FM_TRY(begin_gradients(c, &gradients, step));
        FM_TRY(compute_step(c, with, step));
        FM_TRY(end_gradients(c, &gradients, step));
        FM_TRY(wait_all(requests, 2 * LANES));
    }
    FM_TRY(wait_all(gradients.sent[0], 2 * LANES));
    FM_TRY(wait_all(gradients.home, LANES));
    FM_TRY(unpack(c, dk, dv));
    return copy(c, dq, a->ldq, a->dtype, c->at.wide, a->ldq, FM_F32, a->B * a->Tq, (int64_t)a->H * a->D);
}

/* ---- both ---- */

static bool is_ring(const call *c)
{
    return fm_context_choose(c->context->exchange, c->row) == FM_CONTEXT_RING;
}

int fm_context_attention(fm_context *context, fm_compute *compute, void *out, float *lse, const void *q, const void *k,
                         const void *v, const fm_attention_args *args)
{
    if (context == NULL) {
        return compute->ops->attention(compute, out, args->dtype, lse, q, k, v, args, false);
    }
    call c;
    FM_TRY(begin_call(&c, context, compute, args));
    return is_ring(&c) ? ring_forward(&c, out, lse, q, k, v) : all_gather_forward(&c, out, lse, q, k, v);
}

int fm_context_attention_backward(fm_context *context, fm_compute *compute, void *dq, void *dk, void *dv, const void *dout,
                                  const void *out, const float *lse, float *delta, const void *q, const void *k, const void *v,
                                  const fm_attention_args *args)
{
    FM_TRY(compute->ops->attention_delta(compute, delta, dout, out, args));
    if (context == NULL) {
        fm_attention_args with_out = *args;
        with_out.out = out;
        return compute->ops->attention_backward(compute, dq, dk, dv, args->dtype, dout, lse, delta, q, k, v, &with_out, false);
    }
    const operands in = { .q = q, .dout = dout, .backward_lse = lse, .delta = delta };
    call c;
    FM_TRY(begin_call(&c, context, compute, args));
    return is_ring(&c) ? ring_backward(&c, dq, dk, dv, &in, k, v) : all_gather_backward(&c, dq, dk, dv, &in, k, v);
}
