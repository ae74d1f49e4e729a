/* Kernels of the vocabulary and of the update: embedding, cross entropy, AdamW, sums of squares; against the CPU's operations. */
#include "kernel_lab.h"

/* ---- embedding ---- */

/* Ids with long runs of one word, words that occur once, and ones outside of the table's part. */
static int32_t *make_ids(lab *l, int64_t N)
{
    int32_t *const ids = lab_alloc(l, (size_t)N * sizeof *ids);
    for (int64_t r = 0; r < N; r++) {
        ids[r] = r % 3 == 0 ? 11 : (int32_t)(r * r % 23);
    }
    return ids;
}

static void embedding_body(lab *l)
{
    static const struct {
        int64_t N, C, start, count;
        int offset;
    } shapes[] = { { 0, 8, 0, 23, 0 }, { 1, 1, 0, 23, 0 }, { 37, 131, 0, 23, 0 }, { 37, 24, 7, 9, 0 }, { 300, 1000, 7, 16, 0 },
                   { 37, 8, 100, 5, 0 }, { 700, 64, 0, 23, 0 }, { 33, 16, 0, 23, 1 } };
    for (int i = 0; i < COUNT(shapes) * COUNT(dtypes) * 2; i++) {
        const int s = i / 6;
        const int64_t N = shapes[s].N, C = shapes[s].C, start = shapes[s].start, count = shapes[s].count;
        const enum fm_dtype dtype = dtypes[i % 3];
        const int32_t *const ids = make_ids(l, N);
        const numbers w = numbers_random(l, dtype, count * C, 1, 1.0, shapes[s].offset), dx = numbers_random(l, dtype, N * C, 2, 1.0, 0);
        const numbers want = numbers_random(l, dtype, N * C, 3, 1.0, 0), got = numbers_copy(l, &want, 0);
        CPU(l, embedding, want.data, ids, w.data, start, count, i / 3 % 2, dtype, N, C);
        GPU(l, embedding, got.data, ids, w.data, start, count, i / 3 % 2, dtype, N, C);
        numbers_compare("embedding", &got, &want, 0.0, 0.0);
        const numbers want_dw = numbers_random(l, FM_F32, count * C, 4, 1.0, 0), got_dw = numbers_copy(l, &want_dw, shapes[s].offset);
        CPU(l, embedding_backward, want_dw.data, ids, dx.data, start, count, i / 3 % 2 ? 13 : -1, dtype, N, C);
        GPU(l, embedding_backward, got_dw.data, ids, dx.data, start, count, i / 3 % 2 ? 13 : -1, dtype, N, C);
        numbers_compare("embedding backward", &got_dw, &want_dw, 0.0, 0.0);   /* the same order: the same bits */
        lab_clear(l);
    }
}

static void embedding(void **state)
{
    (void)state;
    in_all_orders(embedding_body);
}

/* ---- cross entropy ---- */

static void fill_labels(int32_t *labels, int64_t N, int64_t V)
{
    for (int64_t r = 0; r < N; r++) {
        labels[r] = r % 5 == 3 ? -100 : (int32_t)(r * 17 % V);
    }
}

/* Columns [start, end) of logits [N, V]. */
static numbers chunk_of(lab *l, const numbers *logits, int64_t N, int64_t V, int64_t start, int64_t end)
{
    const numbers part = numbers_random(l, FM_F32, N * (end - start), 1, 0.0, 0);
    for (int64_t i = 0; i < part.n; i++) {
        ((float *)part.data)[i] = ((const float *)logits->data)[i / (end - start) * V + start + i % (end - start)];
    }
    return part;
}

typedef struct {
    numbers max, sums, loss;
} statistics;

static statistics statistics_new(lab *l, int64_t N)
{
    return (statistics){ numbers_random(l, FM_F32, N, 5, 1.0, 0), numbers_random(l, FM_F32, 2 * N, 6, 1.0, 0),
                         numbers_random(l, FM_F64, 1, 7, 1.0, 0) };
}

static void check_loss(lab *l, int64_t N, int64_t V, const int64_t *ends, double size)
{
    const numbers logits = numbers_random(l, FM_F32, N * V, 1, size, 0);
    int32_t *const labels = lab_alloc(l, (size_t)N * sizeof *labels);
    fill_labels(labels, N, V);
    const statistics want = statistics_new(l, N), got = statistics_new(l, N);
    float *const want_sum = want.sums.data, *const got_sum = got.sums.data;
    CPU(l, cross_entropy_begin, want.max.data, want_sum, N);
    GPU(l, cross_entropy_begin, got.max.data, got_sum, N);
    int64_t start = 0;
    for (int c = 0; start < V; start = ends[c++]) {
        const numbers part = chunk_of(l, &logits, N, V, start, ends[c]);
        CPU(l, cross_entropy_chunk, want.max.data, want_sum, want_sum + N, part.data, labels, start, N, ends[c] - start);
        GPU(l, cross_entropy_chunk, got.max.data, got_sum, got_sum + N, part.data, labels, start, N, ends[c] - start);
    }
    numbers_compare("maximum", &got.max, &want.max, 0.0, 0.0);
    numbers_compare("sum and label's logit", &got.sums, &want.sums, 8.0, 0.0);
    const numbers new_max = numbers_copy(l, &want.max, 0);
    for (int64_t r = 0; r < N; r++) {
        ((float *)new_max.data)[r] += 0.5f;
    }
    CPU(l, cross_entropy_rescale, want_sum, want.max.data, new_max.data, N);
    GPU(l, cross_entropy_rescale, got_sum, got.max.data, new_max.data, N);
    numbers_compare("rescaled sum", &got.sums, &want.sums, 8.0, 0.0);
    CPU(l, cross_entropy_finish, want.loss.data, new_max.data, want_sum, want_sum + N, N);
    GPU(l, cross_entropy_finish, got.loss.data, new_max.data, want_sum, want_sum + N, N);
    const double a = numbers_get(&got.loss, 0), b = numbers_get(&want.loss, 0);
    assert_true(fabs(a - b) <= 1e-12 * fabs(b));
    start = 0;
    for (int c = 0; start < V; start = ends[c++]) {
        const int64_t n = ends[c] - start;
        for (int t = 0; t < COUNT(dtypes); t++) {
            const numbers part = chunk_of(l, &logits, N, V, start, ends[c]), same = numbers_copy(l, &part, 0);
            const numbers want_d = dtypes[t] == FM_F32 ? part : numbers_random(l, dtypes[t], N * n, 8, 1.0, 0);
            const numbers got_d = dtypes[t] == FM_F32 ? same : numbers_copy(l, &want_d, 0);
            CPU(l, cross_entropy_backward, want_d.data, dtypes[t], part.data, new_max.data, want_sum, labels, start, 0.25f, N, n);
            GPU(l, cross_entropy_backward, got_d.data, dtypes[t], same.data, new_max.data, want_sum, labels, start, 0.25f, N, n);
            numbers_compare("dlogits", &got_d, &want_d, dtypes[t] == FM_F32 ? 8.0 : 1.0, 2.0);
        }
    }
    lab_clear(l);
}

static void loss_body(lab *l)
{
    static const int64_t small[][4] = { { 131 }, { 37, 131 }, { 1, 64, 128, 131 } }, wide[][2] = { { 9000 }, { 8200, 9000 } };
    static const double sizes[] = { 1.0, 30.0 };
    for (int i = 0; i < COUNT(sizes); i++) {
        for (int c = 0; c < COUNT(small); c++) {
            check_loss(l, 1, 131, small[c], sizes[i]);
            check_loss(l, 37, 131, small[c], sizes[i]);
        }
        for (int c = 0; c < COUNT(wide); c++) {
            check_loss(l, 3, 9000, wide[c], sizes[i]);
        }
    }
}

static void cross_entropy(void **state)
{
    (void)state;
    in_all_orders(loss_body);
}

static void finish_body(lab *l)
{
    enum { N = 2500 };
    const numbers max = numbers_random(l, FM_F32, N, 1, 5.0, 0), at = numbers_random(l, FM_F32, N, 2, 5.0, 0);
    const numbers sum = numbers_random(l, FM_F32, N, 3, 1.0, 0);
    for (int i = 0; i < N; i++) {
        ((float *)sum.data)[i] = 1.0f + fabsf(((float *)sum.data)[i]);
    }
    double want = 3.0, *const got = lab_alloc(l, sizeof *got);
    *got = 3.0;
    CPU(l, cross_entropy_finish, &want, max.data, sum.data, at.data, N);
    GPU(l, cross_entropy_finish, got, max.data, sum.data, at.data, N);
    assert_true(fabs(*got - want) <= 1e-12 * fabs(want));
}

static void losses_of_many_rows_are_added(void **state)
{
    (void)state;
    in_all_orders(finish_body);
}

/* Words that are masked by -inf count as 0, wherever they stand. */
static void masked_words_do_not_count(void **state)
{
    (void)state;
    lab *const l = lab_new();
    enum { V = 3000 };
    float *const logits = lab_alloc(l, V * sizeof *logits), *const max = lab_alloc(l, sizeof *max);
    float *const sums = lab_alloc(l, 2 * sizeof *sums);
    int32_t *const label = lab_alloc(l, sizeof *label);
    for (int i = 0; i < V; i++) {
        logits[i] = i < 2100 ? -INFINITY : 1.0f;
    }
    *label = 2500;
    GPU(l, cross_entropy_begin, max, sums, 1);
    GPU(l, cross_entropy_chunk, max, sums, sums + 1, logits, label, 0, 1, 1000);
    GPU(l, cross_entropy_chunk, max, sums, sums + 1, logits + 1000, label, 1000, 1, 2000);
    assert_true(*max == 1.0f && sums[0] == 900.0f && sums[1] == 1.0f);
    lab_destroy(l);
}

/* ---- AdamW and sums of squares ---- */

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
    { "bf16, fp32 states", FM_BF16, FM_F32, FM_BF16, false },
    { "fp16, fp32 states", FM_F16, FM_F32, FM_F16, false },
};

enum { PARTS = 60 };                   /* more than a launch takes */

typedef struct {
    numbers master[PARTS], weight[PARTS], m[PARTS], v[PARTS];
    fm_adamw_part part[PARTS];
} tensors;

static tensors *tensors_new(lab *l, int form, int offset)
{
    static const int64_t lengths[] = { 0, 1, 131, 2048, 33, 5001, 16 };
    tensors *const t = lab_alloc(l, sizeof *t);
    for (int p = 0; p < PARTS; p++) {
        const int64_t n = lengths[p % COUNT(lengths)];
        const uint64_t seed = 10 * (uint64_t)p;
        const int off = p % 4 == 3 ? offset : 0;
        t->master[p] = numbers_random(l, adamw_forms[form].master, n, seed + 1, 1.0, off);
        t->weight[p] = numbers_random(l, adamw_forms[form].weight, n, seed + 2, 1.0, 0);
        t->m[p] = numbers_random(l, adamw_forms[form].state, n, seed + 3, 0.1, off);
        t->v[p] = numbers_random(l, adamw_forms[form].state, n, seed + 4, 0.0, 0);
        t->part[p] = (fm_adamw_part){ .master = t->master[p].data, .weight = adamw_forms[form].has_weight ? t->weight[p].data : NULL,
                                      .m = t->m[p].data, .v = t->v[p].data, .n = n, .weight_decay = p % 2 == 0 ? 0.1 : 0.0 };
    }
    return t;
}

static void check_adamw(lab *l, int form, int n_parts)
{
    tensors *const want = tensors_new(l, form, 0), *const got = tensors_new(l, form, 1);
    for (int step = 1; step <= 2; step++) {
        const fm_adamw_args args = {
            .lr = 3e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .gradient_scale = 0.5,
            .correction1 = 1.0 - pow(0.9, step), .correction2 = 1.0 - pow(0.999, step),
        };
        for (int p = 0; p < PARTS; p++) {
            const numbers g = numbers_random(l, FM_F32, want->part[p].n, 100 + (uint64_t)(p + step * PARTS), 0.1, p % 5 == 4);
            want->part[p].gradient = got->part[p].gradient = g.data;
        }
        CPU(l, adamw, want->part, n_parts, adamw_forms[form].master, adamw_forms[form].weight, adamw_forms[form].state, &args);
        const int64_t launches = lab_launches();
        GPU(l, adamw, got->part, n_parts, adamw_forms[form].master, adamw_forms[form].weight, adamw_forms[form].state, &args);
        assert_true(lab_launches() - launches <= (n_parts + 47) / 48);
    }
    for (int p = 0; p < PARTS; p++) {  /* those behind n_parts are as they were */
        numbers_compare(adamw_forms[form].name, &got->master[p], &want->master[p], 1.0, 8.0);
        numbers_compare("weight", &got->weight[p], &want->weight[p], 1.0, 0.0);
        numbers_compare("first moment", &got->m[p], &want->m[p], 1.0, 1.0);
        numbers_compare("second moment", &got->v[p], &want->v[p], 1.0, 1.0);
    }
    lab_clear(l);
}

static void adamw_body(lab *l)
{
    for (int form = 0; form < COUNT(adamw_forms); form++) {
        check_adamw(l, form, form == 0 ? PARTS : 7);
    }
    check_adamw(l, 1, 0);
    check_adamw(l, 1, 49);
}

static void adamw(void **state)
{
    (void)state;
    in_all_orders(adamw_body);
}

static void squares_body(lab *l)
{
    enum { SPANS = 150 };
    static const int64_t lengths[] = { 0, 1, 131, 16384, 40000, 7 };
    fm_span spans[SPANS];
    double want[SPANS], *const got = lab_alloc(l, (SPANS + 1) * sizeof *got), *const again = lab_alloc(l, SPANS * sizeof *again);
    for (int s = 0; s < SPANS; s++) {
        const int64_t n = s < 12 ? lengths[s % COUNT(lengths)] : 3;
        const numbers x = numbers_random(l, FM_F32, n, 1 + (uint64_t)s, 1.0, s / COUNT(lengths) % 2);
        spans[s] = (fm_span){ x.data, n };
    }
    got[SPANS] = 42.0;
    CPU(l, sum_squares, want, spans, SPANS);
    GPU(l, sum_squares, got, spans, SPANS);
    GPU(l, sum_squares, again, spans, SPANS);
    for (int s = 0; s < SPANS; s++) {
        if (!(fabs(got[s] - want[s]) <= 1e-13 * want[s])) {
            fail_msg("span %d of %lld: %.17g, on the CPU %.17g", s, (long long)spans[s].n, got[s], want[s]);
        }
    }
    assert_memory_equal(again, got, SPANS * sizeof *again);
    assert_true(got[SPANS] == 42.0);
    GPU(l, sum_squares, got, spans, 0);
}

static void sums_of_squares(void **state)
{
    (void)state;
    in_all_orders(squares_body);
}

int main(int argc, char **argv)
{
    const int status = lab_begin(argc, argv);
    if (status != 0) {
        return status;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(embedding),
        cmocka_unit_test(cross_entropy),
        cmocka_unit_test(losses_of_many_rows_are_added),
        cmocka_unit_test(masked_words_do_not_count),
        cmocka_unit_test(adamw),
        cmocka_unit_test(sums_of_squares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
