/* Cross entropy by chunks, embedding, AdamW. */
#include "numeric.h"

/* ---- cross entropy ---- */

enum { V = 131 };

/* Ends of the chunks that the vocabulary comes in. */
static const int64_t chunkings[][4] = { { V }, { 37, V }, { 1, 64, 128, V } };

/* log sum exp of a row of V. */
static double define_lse(const double *logits)
{
    double most = -INFINITY, sum = 0.0;
    for (int i = 0; i < V; i++) {
        most = fmax(most, logits[i]);
    }
    for (int i = 0; i < V; i++) {
        sum += exp(logits[i] - most);
    }
    return most + log(sum);
}

/* A row's loss as a function of its logits; rows without a label have none. */
typedef struct {
    const double *logits;
    int32_t label;
} loss_at;

static double row_loss(void *context)
{
    const loss_at *const at = context;
    return at->label < 0 ? 0.0 : define_lse(at->logits) - at->logits[at->label];
}

/* Columns [start, end) of the logits as an array of their own. */
static array chunk_of(lab *l, const array *logits, int64_t N, int64_t start, int64_t end)
{
    double *const part = lab_doubles(l, N * (end - start));
    for (int64_t i = 0; i < N * (end - start); i++) {
        part[i] = logits->value[i / (end - start) * V + start + i % (end - start)];
    }
    return array_of(l, FM_F32, part, N * (end - start));
}

static uint64_t check_statistics(lab *l, const array *logits, const int32_t *labels, int64_t N, const int64_t *ends)
{
    array max = array_random(l, FM_F32, N, 5, 1.0), sum = array_random(l, FM_F32, N, 6, 1.0), at = array_random(l, FM_F32, N, 7, 1.0);
    double *const lse = lab_doubles(l, N), *const want = lab_doubles(l, N), *const want_at = lab_doubles(l, N);
    for (int64_t r = 0; r < N; r++) {
        ((float *)max.data)[r] = -INFINITY;
        ((float *)sum.data)[r] = ((float *)at.data)[r] = 0.0f;
        want[r] = define_lse(logits->value + r * V);
        want_at[r] = labels[r] < 0 ? 0.0 : logits->value[r * V + labels[r]];
    }
    int64_t start = 0;
    for (int c = 0; start < V; start = ends[c++]) {
        const array part = chunk_of(l, logits, N, start, ends[c]);
        RUN(l, cross_entropy_chunk, max.data, sum.data, at.data, part.data, labels, start, N, ends[c] - start);
    }
    array_check("logit of the label", &at, want_at, NULL, 0.0);
    for (int64_t r = 0; r < N; r++) {
        lse[r] = (double)((float *)max.data)[r] + log((double)((float *)sum.data)[r]);
        assert_true(fabs(lse[r] - want[r]) <= 16.0 * 0x1p-24 * fmax(1.0, fabs(want[r])));
    }
    return array_hash(array_hash(array_hash(0, &max), &sum), &at);
}

static uint64_t check_loss_backward(lab *l, const array *logits, const int32_t *labels, int64_t N, const int64_t *ends,
                                    enum fm_dtype dtype)
{
    const double scale = 0.25;
    double *const lse = lab_doubles(l, N);
    for (int64_t r = 0; r < N; r++) {
        lse[r] = define_lse(logits->value + r * V);
    }
    double *const top = lab_doubles(l, N), *const total = lab_doubles(l, N);
    for (int64_t r = 0; r < N; r++) {
        top[r] = logits->value[r * V];
        for (int64_t i = 1; i < V; i++) {
            top[r] = fmax(top[r], logits->value[r * V + i]);
        }
        total[r] = exp(lse[r] - top[r]);
    }
    const array max = array_of(l, FM_F32, top, N), sum = array_of(l, FM_F32, total, N);
    uint64_t hash = 0;
    int64_t start = 0;
    for (int c = 0; start < V; start = ends[c++]) {
        const int64_t n = ends[c] - start;
        const array part = chunk_of(l, logits, N, start, ends[c]);
        array d = dtype == FM_F32 ? part : array_random(l, dtype, N * n, 8, 1.0);
        double *const want = lab_doubles(l, N * n), *const size = lab_doubles(l, N * n);
        for (int64_t i = 0; i < N * n; i++) {
            loss_at at = { logits->value + i / n * V, labels[i / n] };
            want[i] = scale * difference(row_loss, &at, logits->value + i / n * V + start + i % n, 1e-4);
            size[i] = fabs(want[i]) + (labels[i / n] == start + i % n ? scale : 0.0) + 1e-5;   /* differences are no better */
        }
        RUN(l, cross_entropy_backward, d.data, dtype, part.data, max.data, sum.data, labels, start, (float)scale, N, n);
        array_check("dlogits", &d, want, size, 16.0 + 60.0);   /* logits - max rounds to 2^-24 of up to 60 */
        hash = array_hash(hash, &d);
    }
    return hash;
}

static uint64_t loss_body(lab *l)
{
    uint64_t hash = 0;
    static const int64_t rows[] = { 1, 37 };
    static const double sizes[] = { 1.0, 30.0 };
    for (int i = 0; i < COUNT(rows) * COUNT(sizes); i++) {
        const int64_t N = rows[i / COUNT(sizes)];
        const array logits = array_random(l, FM_F32, N * V, 1, sizes[i % COUNT(sizes)]);
        int32_t *const labels = lab_alloc(l, N, sizeof *labels);
        for (int64_t r = 0; r < N; r++) {
            labels[r] = r % 5 == 3 ? -100 : (int32_t)(r * 17 % V);
        }
        for (int c = 0; c < COUNT(chunkings); c++) {
            hash = hash * 31 + check_statistics(l, &logits, labels, N, chunkings[c]);
            for (int t = 0; t < COUNT(dtypes); t++) {
                hash = hash * 31 + check_loss_backward(l, &logits, labels, N, chunkings[c], dtypes[t]);
            }
        }
    }
    return hash;
}

static void cross_entropy(void **state)
{
    same_on_all_threads(*state, loss_body);
}

/* ---- embedding ---- */

static uint64_t check_embedding(lab *l, int64_t N, int64_t C, int64_t start, int64_t count, bool keep, enum fm_dtype dtype)
{
    const array w = array_random(l, dtype, count * C, 1, 1.0), dx = array_random(l, dtype, N * C, 2, 1.0);
    array x = array_random(l, dtype, N * C, 3, 1.0), dw = array_random(l, FM_F32, count * C, 4, 1.0);
    int32_t *const ids = lab_alloc(l, N, sizeof *ids);
    double *const want = array_values(l, &x), *const want_dw = array_values(l, &dw), *const size = array_values(l, &dw);
    const int32_t padding = 13;
    for (int64_t r = 0; r < N; r++) {
        ids[r] = (int32_t)(r * r % 23);
        const int64_t id = ids[r] - start;
        const bool here = id >= 0 && id < count;
        for (int64_t i = 0; i < C; i++) {
            want[r * C + i] = here ? w.value[id * C + i] : keep ? want[r * C + i] : 0.0;
            if (here && ids[r] != padding) {
                want_dw[id * C + i] += dx.value[r * C + i];
                size[id * C + i] = fabs(size[id * C + i]) + fabs(dx.value[r * C + i]);
            }
        }
    }
    RUN(l, embedding, x.data, ids, w.data, start, count, keep, dtype, N, C);
    RUN(l, embedding_backward, dw.data, ids, dx.data, start, count, padding, dtype, N, C);
    array_check("embedding", &x, want, NULL, 0.0);
    array_check("embedding backward", &dw, want_dw, size, (double)N);
    return array_hash(array_hash(0, &x), &dw);
}

static uint64_t embedding_body(lab *l)
{
    static const struct {
        int64_t N, C, start, count;
    } shapes[] = { { 1, 1, 0, 23 }, { 37, 131, 0, 23 }, { 37, 24, 7, 9 }, { 131, 300, 7, 16 }, { 37, 8, 100, 5 } };
    uint64_t hash = 0;
    for (int s = 0; s < COUNT(shapes); s++) {
        for (int form = 0; form < 2 * COUNT(dtypes); form++) {
            hash = hash * 31 + check_embedding(l, shapes[s].N, shapes[s].C, shapes[s].start, shapes[s].count, form % 2, dtypes[form / 2]);
        }
    }
    return hash;
}

static void embedding(void **state)
{
    same_on_all_threads(*state, embedding_body);
}

/* ---- AdamW ---- */

static const struct {
    const char *name;
    enum fm_dtype master, state, weight;
    bool has_weight;
} adamw_forms[] = {
    { "fp32", FM_F32, FM_F32, FM_F32, false },
    { "fp32 masters of bf16 weights", FM_F32, FM_F32, FM_BF16, true },
    { "fp32 masters of fp16 weights", FM_F32, FM_F32, FM_F16, true },
    { "fp32 masters, bf16 states", FM_F32, FM_BF16, FM_BF16, true },
    { "all bf16", FM_BF16, FM_BF16, FM_BF16, false },
};

static uint64_t check_adamw(lab *l, int form, int64_t n)
{
    const enum fm_dtype state = adamw_forms[form].state, master = adamw_forms[form].master;
    array w = array_random(l, master, n, 1, 1.0), m = array_random(l, state, n, 0, 0.0), v = array_random(l, state, n, 0, 0.0);
    array weight = array_random(l, adamw_forms[form].weight, n, 2, 1.0);
    const double lr = 3e-3, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, decay = 0.1, factor = 0.5;
    uint64_t hash = 0;
    for (int step = 1; step <= 5; step++) {
        const array gradient = array_random(l, FM_F32, n, 10 + (uint64_t)step, 0.1);
        const fm_adamw_args args = {
            .lr = lr, .beta1 = beta1, .beta2 = beta2, .eps = eps, .gradient_scale = factor,
            .correction1 = 1.0 - pow(beta1, step), .correction2 = 1.0 - pow(beta2, step),
        };
        double *const want = array_values(l, &w), *const want_m = array_values(l, &m), *const want_v = array_values(l, &v);
        double *const change = lab_doubles(l, n);
        for (int64_t i = 0; i < n; i++) {
            const double g = factor * gradient.value[i];
            want_m[i] = beta1 * want_m[i] + (1.0 - beta1) * g;
            want_v[i] = beta2 * want_v[i] + (1.0 - beta2) * g * g;
            change[i] = lr / args.correction1 * want_m[i] / (sqrt(want_v[i] / args.correction2) + eps);
            want[i] = want[i] * (1.0 - lr * decay) - change[i];
            change[i] = fabs(change[i]) + lr + fabs(want[i]) / 4.0;   /* 8 terms below: two are the decay's */
        }
        const fm_adamw_part part = { .master = w.data, .weight = adamw_forms[form].has_weight ? weight.data : NULL, .m = m.data,
                                     .v = v.data, .gradient = gradient.data, .n = n, .weight_decay = decay };
        RUN(l, adamw, &part, 1, master, weight.dtype, state, &args);
        array_check(adamw_forms[form].name, &w, want, change, 8.0);
        array_check("first moment", &m, want_m, NULL, 3.0);
        array_check("second moment", &v, want_v, want_v, 5.0);
        if (adamw_forms[form].has_weight) {
            array_check("weight", &weight, w.value, NULL, 0.0);
        }
        hash = array_hash(array_hash(array_hash(array_hash(hash, &w), &m), &v), &weight);
    }
    return hash;
}

static uint64_t adamw_body(lab *l)
{
    static const int64_t lengths[] = { 0, 1, 131, 1024, 5001 };
    uint64_t hash = 0;
    for (int form = 0; form < COUNT(adamw_forms); form++) {
        for (int i = 0; i < COUNT(lengths); i++) {
            hash = hash * 31 + check_adamw(l, form, lengths[i]);
        }
    }
    return hash;
}

static void adamw(void **state)
{
    same_on_all_threads(*state, adamw_body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(cross_entropy, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(embedding, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(adamw, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
