/* What the tests of attention share, whatever the device: problems with documents, padding, windows and pieces of keys; the results by
 * the definition in double; an operation's results against them. */
#ifndef TESTS_UNIT_ATTENTION_H
#define TESTS_UNIT_ATTENTION_H

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
static inline void token_of(int32_t *document, int32_t *position, enum documents kind, int batch, int64_t t, int64_t T)
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

static inline int64_t query_token(const attention_case *c, int64_t i)
{
    const int64_t first = c->q_end - c->q_start;
    return i < first ? c->q_start + i : c->q_start2 + i - first;
}

/* `rounding`: of probabilities before products, in units of fp32's. */
static inline problem problem_new(lab *l, const attention_case *c, enum fm_dtype dtype, double rounding)
{
    problem p = { .c = c, .rounding = rounding };
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
    p.out_size = lab_doubles(l, p.dout.n);
    p.dq_size = lab_doubles(l, p.q.n), p.dk_size = lab_doubles(l, p.k.n), p.dv_size = lab_doubles(l, p.k.n);
    return p;
}

static inline bool visible(const fm_attention_args *a, int64_t query, int64_t key)
{
    const int64_t behind = (int64_t)a->q_position[query] - a->k_position[key];
    return a->q_document[query] >= 0 && a->q_document[query] == a->k_document[key] && behind >= 0 &&
           (a->window == 0 || behind < a->window);
}

static inline double dot(const double *x, const double *y, int n)
{
    double sum = 0.0;
    for (int d = 0; d < n; d++) {
        sum += x[d] * y[d];
    }
    return sum;
}

/* Row i of batch row b, head h: scores, probabilities, out and lse by the definition. `p` [Tk]. */
static inline void define_row(problem *s, double *p, int b, int64_t i, int h)
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
static inline double terms_of(const problem *s)
{
    return 32.0 + s->args.D + 4.0 * sqrt((double)s->args.Tq * s->args.H) + 8.0 * s->score_size;
}

/* dq, dk, dv of one row from its probabilities, and the sums of absolute values that bound their errors. */
static inline void define_gradients(problem *s, const double *p, int b, int64_t i, int h)
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

static inline void define(lab *l, problem *s)
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
static inline fm_attention_args piece_args(const problem *s, int64_t first, int64_t end)
{
    fm_attention_args a = s->args;
    a.Tk = end - first;
    a.k_position += first;
    a.k_document += first;
    return a;
}

static inline int piece(const attention_case *c, int64_t *first, int64_t *end, int index)
{
    *first = index == 0 ? 0 : c->cuts[index - 1];
    *end = c->cuts[index] > 0 ? c->cuts[index] : c->T;
    return index == 0 || *first > 0;
}

/* Copies the rows of the call from `values` into `into`, which keeps what lies between and behind them. */
static inline double *expected(lab *l, const problem *s, const array *before, const double *values, int64_t rows, int64_t tokens,
                               int64_t ld, int64_t width)
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
static inline void run_forward(lab *l, const problem *s, array *out, array *lse)
{
    int64_t first, end;
    for (int i = 0; i < MAX_PIECES && piece(s->c, &first, &end, i); i++) {
        const fm_attention_args a = piece_args(s, first, end);
        RUN(l, attention, out->data, out->dtype, lse->data, s->q.data, array_at(&s->k, first * a.ldk), array_at(&s->v, first * a.ldk), &a,
            i > 0);
    }
}

static inline uint64_t check_forward(lab *l, problem *s)
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
static inline uint64_t check_backward(lab *l, problem *s, bool add)
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

#endif
