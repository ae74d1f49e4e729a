/* Tiled attention against the definition: documents, padding, windows, pieces of keys that are combined, forward and backward. */
#include "numeric.h"

enum { MAX_PIECES = 8 };

/* How the tokens of a batch row are divided into documents. */
enum documents { ONE, MANY, PADDED, ALL_PADDING };

typedef struct {
    const char *name;
    int B, H, K, D;
    int64_t T;                         /* keys of a batch row */
    enum documents documents;
    int64_t window;
    int64_t q_start, q_end;            /* the queries are tokens [q_start, q_end) ... */
    int64_t q_start2, q_end2;          /* ... and these, behind them */
    int64_t q_pad;                     /* tokens of the query arrays behind those of the call */
    int64_t cuts[MAX_PIECES];          /* ends of the pieces of keys but the last */
    int64_t ld_pad;
} attention_case;

static const attention_case cases[] = {
    { "one document", 1, 3, 3, 8, 37, ONE, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "groups of 2", 2, 6, 3, 24, 37, MANY, 0, 0, 37, 0, 0, 0, { 0 }, 3 },
    { "groups of 3", 1, 9, 3, 64, 131, PADDED, 0, 0, 131, 0, 0, 0, { 0 }, 8 },
    { "one token", 1, 2, 1, 8, 1, ONE, 0, 0, 1, 0, 0, 0, { 0 }, 1 },
    { "a window", 1, 3, 1, 8, 131, MANY, 5, 0, 131, 0, 0, 0, { 0 }, 0 },
    { "a window of itself", 1, 2, 2, 8, 37, ONE, 1, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "padding only", 2, 3, 3, 8, 37, ALL_PADDING, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "fewer queries than keys", 2, 6, 3, 24, 67, PADDED, 0, 30, 51, 0, 0, 0, { 0 }, 5 },
    { "queries in longer arrays", 3, 3, 1, 8, 37, MANY, 0, 10, 29, 0, 0, 7, { 0 }, 2 },
    { "pieces", 2, 6, 3, 24, 67, MANY, 0, 0, 67, 0, 0, 3, { 13, 20, 51 }, 5 },
    { "pieces with a window", 1, 3, 3, 8, 67, PADDED, 9, 0, 67, 0, 0, 0, { 13, 20, 51 }, 0 },
    { "first and last of four chunks", 2, 9, 3, 8, 148, MANY, 0, 0, 37, 111, 148, 1, { 37, 74, 111 }, 0 },
    { "the middle of four chunks", 1, 3, 3, 24, 148, ONE, 0, 37, 74, 74, 111, 0, { 37, 74, 111 }, 0 },
    { "many tiles and chunks of keys", 1, 6, 3, 8, 700, ONE, 0, 0, 700, 0, 0, 0, { 0 }, 0 },
    { "many tiles, documents, pieces", 2, 3, 1, 24, 700, PADDED, 0, 0, 700, 0, 0, 0, { 300 }, 4 },
    { "many tiles, a window", 1, 3, 3, 8, 700, ONE, 290, 0, 700, 0, 0, 0, { 0 }, 0 },
};

/* A case with its numbers. Query arrays have q_row tokens a batch row, of which the first Tq are in the call. */
typedef struct {
    const attention_case *c;
    fm_attention_args args;            /* of all keys at once */
    int32_t *q_position, *q_document, *k_position, *k_document;
    array q, k, v, dout;
    double *out, *lse, *delta;         /* the definition's */
    double *dq, *dk, *dv, *out_size, *dq_size, *dk_size, *dv_size;
    double rounding;                   /* in units of fp32: of probabilities and their gradients before products */
    double score_size;                 /* largest |score| */
} problem;

/* Document and position of token t of a row of T. */
static void token_of(int32_t *document, int32_t *position, enum documents kind, int batch, int64_t t, int64_t T)
{
    static const int64_t lengths[] = { 13, 1, 20, 3, 97, 160, 31 };
    const int64_t used = kind == PADDED ? T - 5 - batch : T;
    int64_t start = 0;
    int32_t index = 3 * batch;
    for (int i = batch; kind == MANY || kind == PADDED; i = (i + 1) % COUNT(lengths)) {
        const int64_t end = start + lengths[i];
        if (t < end) {
            break;
        }
        start = end;
        index++;
    }
    *document = t >= used || kind == ALL_PADDING ? -1 : index;
    *position = (int32_t)(t - start + (kind == ONE ? 5 : 0));
}

static int64_t query_token(const attention_case *c, int64_t i)
{
    const int64_t first = c->q_end - c->q_start;
    return i < first ? c->q_start + i : c->q_start2 + i - first;
}

static problem problem_new(lab *l, const attention_case *c, enum fm_dtype dtype)
{
    problem p = { .c = c };
    fm_attention_args *const a = &p.args;
    a->dtype = dtype, a->B = c->B, a->H = c->H, a->K = c->K, a->D = c->D, a->window = c->window;
    a->Tq = c->q_end - c->q_start + c->q_end2 - c->q_start2, a->Tk = c->T;
    a->q_row = a->Tq + c->q_pad, a->k_row = c->T;
    a->ldq = c->H * c->D + c->ld_pad, a->ldk = c->K * c->D + 2 * c->ld_pad, a->ldo = c->H * c->D + 3 * c->ld_pad;
    a->scale = 1.0f / sqrtf((float)c->D);
    p.q_position = lab_alloc(l, c->B * a->q_row, 4), p.q_document = lab_alloc(l, c->B * a->q_row, 4);
    p.k_position = lab_alloc(l, c->B * a->k_row, 4), p.k_document = lab_alloc(l, c->B * a->k_row, 4);
    for (int b = 0; b < c->B; b++) {
        for (int64_t i = 0; i < a->q_row; i++) {
            const int64_t t = i < a->Tq ? query_token(c, i) : 0, at = b * a->q_row + i;
            token_of(&p.q_document[at], &p.q_position[at], c->documents, b, t, c->T);
        }
        for (int64_t j = 0; j < c->T; j++) {
            token_of(&p.k_document[b * c->T + j], &p.k_position[b * c->T + j], c->documents, b, j, c->T);
        }
    }
    a->q_position = p.q_position, a->q_document = p.q_document, a->k_position = p.k_position, a->k_document = p.k_document;
    p.q = array_random(l, dtype, c->B * a->q_row * a->ldq, 1, 1.5);
    p.k = array_random(l, dtype, c->B * a->k_row * a->ldk, 2, 1.0);
    p.v = array_random(l, dtype, c->B * a->k_row * a->ldk, 3, 1.0);
    p.dout = array_random(l, dtype, c->B * a->q_row * a->ldo, 4, 1.0);
    p.out = lab_doubles(l, p.dout.n), p.lse = lab_doubles(l, c->B * a->q_row * c->H), p.delta = lab_doubles(l, c->B * a->q_row * c->H);
    p.dq = lab_doubles(l, p.q.n), p.dk = lab_doubles(l, p.k.n), p.dv = lab_doubles(l, p.k.n);
    p.rounding = dtype == FM_BF16 ? unit_roundoff(FM_BF16) / unit_roundoff(FM_F32) : 0.0;
    p.out_size = lab_doubles(l, p.dout.n);
    p.dq_size = lab_doubles(l, p.q.n), p.dk_size = lab_doubles(l, p.k.n), p.dv_size = lab_doubles(l, p.k.n);
    return p;
}

static bool visible(const fm_attention_args *a, int64_t query, int64_t key)
{
    const int64_t behind = (int64_t)a->q_position[query] - a->k_position[key];
    return a->q_document[query] >= 0 && a->q_document[query] == a->k_document[key] && behind >= 0 &&
           (a->window == 0 || behind < a->window);
}

static double dot(const double *x, const double *y, int n)
{
    double sum = 0.0;
    for (int d = 0; d < n; d++) {
        sum += x[d] * y[d];
    }
    return sum;
}

/* Row i of batch row b, head h: scores, probabilities, out and lse by the definition. `p` [Tk]. */
static void define_row(problem *s, double *p, int b, int64_t i, int h)
{
    const fm_attention_args *const a = &s->args;
    const int64_t query = b * a->q_row + i, head = (int64_t)(h / (a->H / a->K)) * a->D;
    double most = -INFINITY, sum = 0.0, *const out = s->out + query * a->ldo + (int64_t)h * a->D;
    for (int64_t j = 0; j < a->Tk; j++) {
        const int64_t key = b * a->k_row + j;
        p[j] = -INFINITY;
        if (visible(a, query, key)) {
            p[j] = (double)a->scale * dot(s->q.value + query * a->ldq + (int64_t)h * a->D, s->k.value + key * a->ldk + head, a->D);
            most = fmax(most, p[j]);
            s->score_size = fmax(s->score_size, fabs(p[j]));
        }
    }
    for (int64_t j = 0; j < a->Tk; j++) {
        p[j] = most == -INFINITY ? 0.0 : exp(p[j] - most);
        sum += p[j];
    }
    double *const size = s->out_size + query * a->ldo + (int64_t)h * a->D;
    memset(out, 0, (size_t)a->D * sizeof *out);
    memset(size, 0, (size_t)a->D * sizeof *size);
    for (int64_t j = 0; j < a->Tk && sum > 0.0; j++) {
        p[j] /= sum;
        for (int d = 0; d < a->D && p[j] != 0.0; d++) {
            out[d] += p[j] * s->v.value[(b * a->k_row + j) * a->ldk + head + d];
            size[d] += p[j] * fabs(s->v.value[(b * a->k_row + j) * a->ldk + head + d]);
        }
    }
    s->lse[query * a->H + h] = most + log(sum);
}

/* Roundings in fp32 of a gradient. */
static double terms_of(const problem *s)
{
    return 32.0 + s->args.D + 4.0 * sqrt((double)s->args.Tq * s->args.H) + 8.0 * s->score_size;
}

/* dq, dk, dv of one row from its probabilities, and the sums of absolute values that bound their errors. */
static void define_gradients(problem *s, const double *p, int b, int64_t i, int h)
{
    const fm_attention_args *const a = &s->args;
    const int64_t query = b * a->q_row + i, head = (int64_t)(h / (a->H / a->K)) * a->D, at_q = query * a->ldq + (int64_t)h * a->D;
    const double *const dout = s->dout.value + query * a->ldo + (int64_t)h * a->D;
    const double delta = dot(dout, s->out + query * a->ldo + (int64_t)h * a->D, a->D), scale = (double)a->scale;
    s->delta[query * a->H + h] = delta;
    for (int64_t j = 0; j < a->Tk; j++) {
        const int64_t at_k = (b * a->k_row + j) * a->ldk + head;
        if (p[j] == 0.0) {
            continue;
        }
        const double dp = dot(dout, s->v.value + at_k, a->D), ds = p[j] * (dp - delta) * scale;
        const double size = p[j] * (a->D + fabs(dp) + fabs(delta)) * scale + fabs(ds) * s->rounding / terms_of(s);
        for (int d = 0; d < a->D; d++) {
            s->dq[at_q + d] += ds * s->k.value[at_k + d];
            s->dk[at_k + d] += ds * s->q.value[at_q + d];
            s->dv[at_k + d] += p[j] * dout[d];
            s->dq_size[at_q + d] += size * fabs(s->k.value[at_k + d]);
            s->dk_size[at_k + d] += size * fabs(s->q.value[at_q + d]);
            s->dv_size[at_k + d] += p[j] * fabs(dout[d]) * (1.0 + s->rounding / terms_of(s));
        }
    }
}

static void define(lab *l, problem *s)
{
    double *const p = lab_doubles(l, s->args.Tk);
    for (int64_t i = 0; i < s->args.B * s->args.q_row * s->args.H; i++) {
        s->lse[i] = -INFINITY;
    }
    for (int b = 0; b < s->args.B; b++) {
        for (int64_t i = 0; i < s->args.Tq; i++) {
            for (int h = 0; h < s->args.H; h++) {
                define_row(s, p, b, i, h);
                define_gradients(s, p, b, i, h);
            }
        }
    }
}

/* The arguments for keys [first, end), and their address in k, v, dk or dv. */
static fm_attention_args piece_args(const problem *s, int64_t first, int64_t end)
{
    fm_attention_args a = s->args;
    a.Tk = end - first;
    a.k_position += first;
    a.k_document += first;
    return a;
}

static int piece(const attention_case *c, int64_t *first, int64_t *end, int index)
{
    *first = index == 0 ? 0 : c->cuts[index - 1];
    *end = c->cuts[index] > 0 ? c->cuts[index] : c->T;
    return index == 0 || *first > 0;
}

/* Copies the rows of the call from `values` into `into`, which keeps what lies between and behind them. */
static double *expected(lab *l, const problem *s, const array *before, const double *values, int64_t rows, int64_t tokens, int64_t ld,
                        int64_t width)
{
    double *const want = array_values(l, before);
    for (int64_t r = 0; r < s->args.B * rows; r++) {
        for (int64_t i = 0; i < width && r % rows < tokens; i++) {
            want[r * ld + i] = values[r * ld + i];
        }
    }
    return want;
}

/* Forward over all pieces. Results in out and lse, which held random numbers. */
static void run_forward(lab *l, const problem *s, array *out, array *lse)
{
    int64_t first, end;
    for (int i = 0; i < MAX_PIECES && piece(s->c, &first, &end, i); i++) {
        const fm_attention_args a = piece_args(s, first, end);
        RUN(l, attention, out->data, out->dtype, lse->data, s->q.data, array_at(&s->k, first * a.ldk), array_at(&s->v, first * a.ldk), &a,
            i > 0);
    }
}

static uint64_t check_forward(lab *l, problem *s)
{
    const fm_attention_args *const a = &s->args;
    uint64_t hash = 0;
    for (int wide = 0; wide < 2; wide++) {
        const enum fm_dtype out_dtype = wide ? FM_F32 : a->dtype;
        if (!wide && s->c->cuts[0] > 0) {
            continue;                  /* pieces are combined in fp32 only */
        }
        array out = array_random(l, out_dtype, a->B * a->q_row * a->ldo, 5, 1.0);
        array lse = array_random(l, FM_F32, a->B * a->q_row * a->H, 6, 1.0);
        double *const want = expected(l, s, &out, s->out, a->q_row, a->Tq, a->ldo, a->H * a->D);
        double *const want_lse = expected(l, s, &lse, s->lse, a->q_row, a->Tq, a->H, a->H);
        run_forward(l, s, &out, &lse);
        const double terms = (a->D + 16.0) * (1.0 + s->score_size), most = largest(s->v.value, s->v.n);
        double *const size = lab_doubles(l, out.n);
        for (int64_t i = 0; i < out.n; i++) {
            size[i] = most + s->out_size[i] * s->rounding / terms;
        }
        array_check(s->c->name, &out, want, size, terms);
        array_check("log of the sum of exponentials", &lse, want_lse, NULL, terms);
        hash = array_hash(array_hash(hash, &out), &lse);
    }
    return hash;
}

/* Backward over all pieces from the definition's lse and delta. grad_dtype F32 with add, or the dtype of the case without. */
static uint64_t check_backward(lab *l, problem *s, bool add)
{
    const fm_attention_args *const a = &s->args;
    const enum fm_dtype grad_dtype = add ? FM_F32 : a->dtype;
    const array lse = array_of(l, FM_F32, s->lse, a->B * a->q_row * a->H), delta = array_of(l, FM_F32, s->delta, lse.n);
    array dq = array_random(l, grad_dtype, s->q.n, 7, 1.0), dk = array_random(l, grad_dtype, s->k.n, 8, 1.0);
    array dv = array_random(l, grad_dtype, s->v.n, 9, 1.0);
    double *const old[] = { array_values(l, &dq), array_values(l, &dk), array_values(l, &dv) };
    double *want[] = { expected(l, s, &dq, s->dq, a->q_row, a->Tq, a->ldq, a->H * a->D),
                       expected(l, s, &dk, s->dk, a->k_row, a->Tk, a->ldk, a->K * a->D),
                       expected(l, s, &dv, s->dv, a->k_row, a->Tk, a->ldk, a->K * a->D) };
    array *const got[] = { &dq, &dk, &dv };
    double *const sizes[] = { s->dq_size, s->dk_size, s->dv_size };
    for (int g = 0; g < 3; g++) {
        for (int64_t i = 0; i < got[g]->n; i++) {
            if (add && want[g][i] != old[g][i]) {   /* elements of the rows, not the gaps between them */
                want[g][i] += old[g][i];
                sizes[g][i] += fabs(old[g][i]);
            }
        }
    }
    int64_t first, end;
    for (int i = 0; i < MAX_PIECES && piece(s->c, &first, &end, i); i++) {
        const fm_attention_args part = piece_args(s, first, end);
        RUN(l, attention_backward, dq.data, array_at(&dk, first * a->ldk), array_at(&dv, first * a->ldk), grad_dtype, s->dout.data,
            lse.data, delta.data, s->q.data, array_at(&s->k, first * a->ldk), array_at(&s->v, first * a->ldk), &part, add);
    }
    static const char *const names[] = { "dq", "dk", "dv" };
    uint64_t hash = 0;
    for (int g = 0; g < 3; g++) {
        char what[100];
        snprintf(what, sizeof what, "%s of %s%s", names[g], s->c->name, add ? ", added" : "");
        array_check(what, got[g], want[g], sizes[g], terms_of(s));
        hash = array_hash(hash, got[g]);
    }
    return hash;
}

static void forward_agrees_with_the_definition(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            problem s = problem_new(l, &cases[i], dtypes[t]);
            define(l, &s);
            check_forward(l, &s);
            lab_clear(l);
        }
    }
}

static void backward_agrees_with_the_definition(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            for (int add = cases[i].cuts[0] > 0; add < 2; add++) {
                problem s = problem_new(l, &cases[i], dtypes[t]);
                define(l, &s);
                check_backward(l, &s, add);
                lab_clear(l);
            }
        }
    }
}

/* sum of dout * out by the definition, as a function of q, k and v. */
static double loss(void *context)
{
    problem *const s = context;
    double p[256], sum = 0.0;
    for (int b = 0; b < s->args.B; b++) {
        for (int64_t i = 0; i < s->args.Tq; i++) {
            for (int h = 0; h < s->args.H; h++) {
                define_row(s, p, b, i, h);
                const int64_t at = (b * s->args.q_row + i) * s->args.ldo + (int64_t)h * s->args.D;
                sum += dot(s->out + at, s->dout.value + at, s->args.D);
            }
        }
    }
    return sum;
}

/* The definition's own gradients, by differences: what the tests above compare with. */
static void gradients_are_slopes(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        if (cases[i].T > 150) {
            continue;
        }
        problem s = problem_new(l, &cases[i], FM_F32);
        define(l, &s);
        double *const values[] = { s.q.value, s.k.value, s.v.value }, *const slopes[] = { s.dq, s.dk, s.dv };
        const int64_t counts[] = { s.q.n, s.k.n, s.v.n };
        for (int sample = 0; sample < 30; sample++) {
            const int which = sample % 3;
            const int64_t at = (int64_t)(fabs(random_number(77, sample)) * 1e6) % counts[which];
            const double slope = difference(loss, &s, values[which] + at, 1e-4);
            if (!(fabs(slope - slopes[which][at]) <= 1e-6 * (1.0 + fabs(slope)))) {
                fail_msg("%s: the slope of element %d of %c is %.9g, the gradient %.9g", cases[i].name, (int)at, "qkv"[which], slope,
                         slopes[which][at]);
            }
        }
        lab_clear(l);
    }
}

/* forward, delta and backward one after the other, as a model calls them. */
static void the_chain_agrees(void **state)
{
    lab *const l = *state;
    for (int i = 0; i < COUNT(cases); i++) {
        problem s = problem_new(l, &cases[i], FM_F32);
        const fm_attention_args *const a = &s.args;
        define(l, &s);
        array out = array_random(l, FM_F32, s.dout.n, 5, 1.0), lse = array_random(l, FM_F32, a->B * a->q_row * a->H, 6, 1.0);
        array delta = array_random(l, FM_F32, lse.n, 7, 1.0);
        double *const want = expected(l, &s, &delta, s.delta, a->q_row, a->Tq, a->H, a->H);
        run_forward(l, &s, &out, &lse);
        RUN(l, attention_delta, delta.data, s.dout.data, out.data, a);
        array_check("delta", &delta, want, NULL, 4.0 * a->D * (1.0 + s.score_size));
        for (int64_t r = 0; r < lse.n; r++) {   /* the backward test takes them for the definition's */
            s.lse[r] = r / a->H % a->q_row < a->Tq ? (double)((float *)lse.data)[r] : s.lse[r];
            s.delta[r] = (double)((float *)delta.data)[r];
        }
        for (int64_t j = 0; j < s.q.n; j++) {
            s.dq_size[j] *= 4.0 + s.score_size;
        }
        for (int64_t j = 0; j < s.k.n; j++) {
            s.dk_size[j] *= 4.0 + s.score_size;
            s.dv_size[j] *= 4.0 + s.score_size;
        }
        check_backward(l, &s, true);
        lab_clear(l);
    }
}

static void delta_in_every_dtype(void **state)
{
    lab *const l = *state;
    for (int t = 0; t < COUNT(dtypes); t++) {
        problem s = problem_new(l, &cases[8], dtypes[t]);
        const fm_attention_args *const a = &s.args;
        const array out = array_random(l, dtypes[t], s.dout.n, 5, 1.0);
        array delta = array_random(l, FM_F32, a->B * a->q_row * a->H, 7, 1.0);
        double *const want = array_values(l, &delta);
        for (int64_t r = 0; r < a->B * a->q_row; r++) {
            for (int h = 0; h < a->H && r % a->q_row < a->Tq; h++) {
                want[r * a->H + h] = dot(s.dout.value + r * a->ldo + (int64_t)h * a->D, out.value + r * a->ldo + (int64_t)h * a->D, a->D);
            }
        }
        RUN(l, attention_delta, delta.data, s.dout.data, out.data, a);
        array_check("delta", &delta, want, NULL, a->D + 2.0);
    }
}

static uint64_t forward_body(lab *l)
{
    uint64_t hash = 0;
    for (int i = 1; i < COUNT(cases); i += 3) {
        problem s = problem_new(l, &cases[i], dtypes[i % COUNT(dtypes)]);
        array out = array_random(l, FM_F32, s.dout.n, 5, 1.0), lse = array_random(l, FM_F32, s.args.B * s.args.q_row * s.args.H, 6, 1.0);
        run_forward(l, &s, &out, &lse);
        hash = array_hash(array_hash(hash, &out), &lse);
    }
    return hash;
}

static void forward_does_not_depend_on_threads(void **state)
{
    same_on_all_threads(*state, forward_body);
}

static void backward_repeats(void **state)
{
    lab *const l = *state;
    for (int threads = 1; threads <= 4; threads++) {
        lab_use_threads(l, threads);
        for (int i = 1; i < COUNT(cases); i += 3) {
            uint64_t hashes[3];
            for (int again = 0; again < 3; again++) {
                problem s = problem_new(l, &cases[i], dtypes[i % COUNT(dtypes)]);
                define(l, &s);
                hashes[again] = check_backward(l, &s, true);
                lab_clear(l);
            }
            assert_true(hashes[0] == hashes[1] && hashes[1] == hashes[2]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(gradients_are_slopes, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(forward_agrees_with_the_definition, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(backward_agrees_with_the_definition, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(the_chain_agrees, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(delta_in_every_dtype, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(forward_does_not_depend_on_threads, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(backward_repeats, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
