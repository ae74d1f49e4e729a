/* The GPU's attention, run on the host, against the definition: the kernels on tensor cores in every width of heads, the plain ones in
 * every dtype and alignment, in three orders of threads. */
#include "ops/cpu.h"
#include "ops/cuda.h"
#include "tensor/cuda.h"
#include "../unit/attention.h"

/* For the kernels on tensor cores: rows are aligned. Tiles have 64 or 128 queries and 32, 64 or 128 keys. */
static const attention_case aligned[] = {
    { "a key less than a tile's", 1, 2, 1, 64, 200, ONE, 0, 62, 200, 0, 0, 0, { 0 }, 0 },
    { "one document", 1, 3, 3, 64, 37, ONE, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "several tiles", 1, 2, 1, 64, 300, ONE, 0, 0, 300, 0, 0, 0, { 0 }, 8 },
    { "groups of 3", 1, 9, 3, 64, 131, PADDED, 0, 0, 131, 0, 0, 0, { 0 }, 8 },
    { "narrow heads", 2, 4, 2, 8, 140, MANY, 0, 0, 140, 0, 0, 0, { 0 }, 16 },
    { "one token", 1, 2, 1, 16, 1, ONE, 0, 0, 1, 0, 0, 0, { 0 }, 8 },
    { "width 40, a window", 1, 3, 1, 40, 131, MANY, 5, 0, 131, 0, 0, 0, { 0 }, 0 },
    { "a window of itself", 1, 2, 2, 16, 37, ONE, 1, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "a wide window", 1, 1, 1, 64, 330, ONE, 150, 0, 330, 0, 0, 0, { 0 }, 0 },
    { "padding only", 2, 3, 3, 64, 37, ALL_PADDING, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "fewer queries than keys", 2, 6, 3, 24, 67, PADDED, 0, 30, 51, 0, 0, 0, { 0 }, 8 },
    { "queries in longer arrays", 3, 3, 1, 64, 37, MANY, 0, 10, 29, 0, 0, 7, { 0 }, 8 },
    { "pieces", 2, 6, 3, 24, 67, MANY, 0, 0, 67, 0, 0, 3, { 13, 20, 51 }, 8 },
    { "pieces with a window", 1, 3, 3, 64, 67, PADDED, 9, 0, 67, 0, 0, 0, { 13, 20, 51 }, 0 },
    { "first and last of four chunks", 2, 3, 3, 64, 148, MANY, 0, 0, 37, 111, 148, 1, { 37, 74, 111 }, 0 },
    { "first and last of four, no pieces", 1, 2, 2, 16, 560, ONE, 0, 0, 140, 420, 560, 0, { 0 }, 0 },
    { "width 96", 1, 2, 1, 96, 150, MANY, 0, 0, 150, 0, 0, 0, { 0 }, 8 },
    { "width 80", 1, 1, 1, 80, 70, ONE, 0, 0, 70, 0, 0, 0, { 0 }, 0 },
    { "width 128", 1, 2, 1, 128, 150, ONE, 0, 0, 150, 0, 0, 0, { 0 }, 0 },
    { "width 128, groups of 2, pieces", 1, 4, 2, 128, 200, PADDED, 0, 0, 200, 0, 0, 0, { 70, 130 }, 8 },
    { "width 256", 1, 2, 1, 256, 140, MANY, 0, 0, 140, 0, 0, 0, { 0 }, 8 },
    { "width 192", 1, 1, 1, 192, 70, ONE, 20, 0, 70, 0, 0, 0, { 40 }, 0 },
};

/* For the plain kernels: odd widths and distances. */
static const attention_case uneven[] = {
    { "one document", 1, 3, 3, 8, 37, ONE, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "groups of 2", 2, 6, 3, 24, 37, MANY, 0, 0, 37, 0, 0, 0, { 0 }, 3 },
    { "an odd width", 1, 6, 2, 7, 70, MANY, 0, 0, 70, 0, 0, 0, { 0 }, 0 },
    { "an odd width and a window", 1, 3, 1, 13, 131, PADDED, 5, 0, 131, 0, 0, 0, { 0 }, 1 },
    { "one token", 1, 2, 1, 3, 1, ONE, 0, 0, 1, 0, 0, 0, { 0 }, 1 },
    { "padding only", 2, 3, 3, 8, 37, ALL_PADDING, 0, 0, 37, 0, 0, 0, { 0 }, 0 },
    { "queries in longer arrays", 3, 3, 1, 8, 37, MANY, 0, 10, 29, 0, 0, 7, { 0 }, 2 },
    { "pieces", 2, 6, 3, 24, 67, MANY, 0, 0, 67, 0, 0, 3, { 13, 20, 51 }, 5 },
    { "first and last of four chunks", 2, 9, 3, 8, 148, MANY, 0, 0, 37, 111, 148, 1, { 37, 74, 111 }, 1 },
    { "width 65", 1, 2, 1, 65, 70, ONE, 0, 0, 70, 0, 0, 0, { 0 }, 0 },
    { "width 129", 1, 1, 1, 129, 40, MANY, 0, 0, 40, 0, 0, 0, { 0 }, 0 },
    { "width 256", 1, 1, 1, 256, 35, ONE, 0, 0, 35, 0, 0, 0, { 0 }, 3 },
};

/* An H100 as the launchers see it; and a device whose shared memory holds none of the tiles for tensor cores. */
static fm_cuda with_tensor_cores = { .multiprocessors = 3, .capability = 90, .shared_bytes = 227 << 10 };
static fm_cuda without = { .multiprocessors = 3, .capability = 75, .shared_bytes = 96 << 10 };

/* The CPU's table but for attention. */
static fm_ops cuda_ops;

static void use(lab *l, fm_cuda *cuda)
{
    cuda_ops = *l->compute->ops;
    cuda_ops.attention = fm_cuda_attention;
    cuda_ops.attention_delta = fm_cuda_attention_delta;
    cuda_ops.attention_backward = fm_cuda_attention_backward;
    l->compute->ops = &cuda_ops;
    l->device->state = cuda;
}

static int cuda_lab_open(void **state)
{
    lab_open(state);
    use(*state, &with_tensor_cores);
    return 0;
}

/* Products on tensor cores round probabilities, as the CPU's of bf16 do. */
static double rounding_of(enum fm_dtype dtype)
{
    return dtype == FM_F32 ? 0.0 : unit_roundoff(dtype) / unit_roundoff(FM_F32);
}

/* Forward and backward of a case in one order of threads; the hash of all results. */
static uint64_t check_case(lab *l, const attention_case *c, enum fm_dtype dtype, double rounding, enum fm_host_order order)
{
    fm_host_set_order(order, 7);
    problem s = problem_new(l, c, dtype, rounding);
    define(l, &s);
    uint64_t hash = check_forward(l, &s);
    for (int add = c->cuts[0] > 0; add < 2; add++) {
        hash = hash * 31 + check_backward(l, &s, add);
    }
    lab_clear(l);
    return hash;
}

static void check_cases(lab *l, const attention_case *cases, int n, const enum fm_dtype *kinds, int n_kinds, bool rounds)
{
    for (int i = 0; i < n; i++) {
        for (int t = 0; t < n_kinds && (t == 0 || i % 3 == 0); t++) {   /* the other dtypes run the same code */
            uint64_t first = 0;
            for (int order = 0; order < (t == 0 ? 3 : 1); order++) {
                const uint64_t hash = check_case(l, &cases[i], kinds[t], rounds ? rounding_of(kinds[t]) : 0.0, (enum fm_host_order)order);
                first = order == 0 ? hash : first;
                if (hash != first) {
                    fail_msg("%s, %s: the order of threads changes bits", cases[i].name, fm_dtype_name(kinds[t]));
                }
            }
        }
    }
}

static void tensor_cores_agree_with_the_definition(void **state)
{
    static const enum fm_dtype kinds[] = { FM_BF16, FM_F16 };
    check_cases(*state, aligned, COUNT(aligned), kinds, COUNT(kinds), true);
}

static void plain_kernels_agree_with_the_definition(void **state)
{
    lab *const l = *state;
    use(l, &without);
    check_cases(l, uneven, COUNT(uneven), dtypes, COUNT(dtypes), false);
    check_cases(l, aligned + 1, 3, dtypes, COUNT(dtypes), false);
}

static void delta_in_every_dtype(void **state)
{
    lab *const l = *state;
    for (int t = 0; t < COUNT(dtypes); t++) {
        for (int wide = 0; wide < 2; wide++) {
            problem s = problem_new(l, wide ? &aligned[11] : &uneven[6], dtypes[t], 0.0);
            const fm_attention_args *const a = &s.args;
            const array out = array_random(l, dtypes[t], s.dout.n, 5, 1.0);
            array delta = array_random(l, FM_F32, a->B * a->q_row * a->H, 7, 1.0);
            double *const want = array_values(l, &delta);
            for (int64_t r = 0; r < a->B * a->q_row; r++) {
                for (int h = 0; h < a->H && r % a->q_row < a->Tq; h++) {
                    const int64_t at = r * a->ldo + (int64_t)h * a->D;
                    want[r * a->H + h] = dot(s.dout.value + at, out.value + at, a->D);
                }
            }
            RUN(l, attention_delta, delta.data, s.dout.data, out.data, a);
            array_check("delta", &delta, want, NULL, a->D + 2.0);
        }
    }
}

/* Root of the mean square of what differs from the definition. */
static double distance(array *got, const double *want)
{
    double sum = 0.0;
    array_sync(got);
    for (int64_t i = 0; i < got->n; i++) {
        sum += (got->value[i] - want[i]) * (got->value[i] - want[i]);
    }
    return sqrt(sum / (double)got->n);
}

/* In bf16 the GPU's results are as near to the definition as the CPU's. */
static void as_exact_as_the_cpu(void **state)
{
    lab *const l = *state;
    static const attention_case c = { "accuracy", 1, 4, 2, 64, 200, ONE, 0, 0, 200, 0, 0, 0, { 0 }, 0 };
    problem s = problem_new(l, &c, FM_BF16, 0.0);
    const fm_attention_args *const a = &s.args;
    define(l, &s);
    const array lse = array_of(l, FM_F32, s.lse, a->Tq * a->H), delta = array_of(l, FM_F32, s.delta, lse.n);
    static const char *const names[] = { "out", "dq", "dk", "dv" };
    const double *const want[] = { s.out, s.dq, s.dk, s.dv };
    const int64_t n[] = { s.dout.n, s.q.n, s.k.n, s.k.n };
    array got[2][4], got_lse[2];
    for (int gpu = 0; gpu < 2; gpu++) {
        for (int i = 0; i < 4; i++) {
            got[gpu][i] = array_random(l, FM_BF16, n[i], 5, 1.0);
        }
        got_lse[gpu] = array_random(l, FM_F32, lse.n, 6, 1.0);
    }
    array *const cpu = got[0], *const cuda = got[1];
    assert_int_equal(fm_cpu_attention(l->compute, cpu[0].data, FM_BF16, got_lse[0].data, s.q.data, s.k.data, s.v.data, a, false),
                     FM_OK);
    assert_int_equal(fm_cpu_attention_backward(l->compute, cpu[1].data, cpu[2].data, cpu[3].data, FM_BF16, s.dout.data, lse.data,
                                               delta.data, s.q.data, s.k.data, s.v.data, a, false), FM_OK);
    RUN(l, attention, cuda[0].data, FM_BF16, got_lse[1].data, s.q.data, s.k.data, s.v.data, a, false);
    RUN(l, attention_backward, cuda[1].data, cuda[2].data, cuda[3].data, FM_BF16, s.dout.data, lse.data, delta.data, s.q.data, s.k.data,
        s.v.data, a, false);
    for (int i = 0; i < 4; i++) {
        const double of_cpu = distance(&cpu[i], want[i]), of_cuda = distance(&cuda[i], want[i]);
        print_message("#   %s: root mean square of errors %.3g on the CPU, %.3g here\n", names[i], of_cpu, of_cuda);
        assert_true(of_cuda <= 2.0 * of_cpu);
    }
}

/* Nothing to do is done without a launch of an empty grid; what cannot be done is said. */
static void edges(void **state)
{
    lab *const l = *state;
    problem s = problem_new(l, &aligned[0], FM_BF16, 0.0);
    fm_attention_args a = s.args;
    array out = array_random(l, FM_F32, s.dout.n, 5, 1.0), lse = array_random(l, FM_F32, a.q_row * a.H, 6, 1.0);
    a.Tk = 0;
    RUN(l, attention, out.data, FM_F32, lse.data, s.q.data, s.k.data, s.v.data, &a, false);
    assert_true(((const float *)out.data)[3] == 0.0f && ((const float *)lse.data)[3] == -INFINITY);
    a = s.args;
    a.Tq = 0;
    RUN(l, attention, out.data, FM_F32, lse.data, s.q.data, s.k.data, s.v.data, &a, false);
    RUN(l, attention_delta, lse.data, s.dout.data, s.dout.data, &a);
    array dq = array_random(l, FM_F32, s.q.n, 7, 1.0), dk = array_random(l, FM_F32, s.k.n, 8, 1.0);
    array dv = array_random(l, FM_F32, s.k.n, 9, 1.0);
    RUN(l, attention_backward, dq.data, dk.data, dv.data, FM_F32, s.dout.data, lse.data, lse.data, s.q.data, s.k.data,
        s.v.data, &a, false);
    assert_true(((const float *)dk.data)[3] == 0.0f && ((const float *)dv.data)[3] == 0.0f);
    a = s.args;
    a.D = 264;
    assert_int_equal(fm_cuda_attention(l->compute, out.data, FM_F32, lse.data, s.q.data, s.k.data, s.v.data, &a, false),
                     FM_ERR_UNSUPPORTED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(tensor_cores_agree_with_the_definition, cuda_lab_open, lab_close),
        cmocka_unit_test_setup_teardown(plain_kernels_agree_with_the_definition, cuda_lab_open, lab_close),
        cmocka_unit_test_setup_teardown(delta_in_every_dtype, cuda_lab_open, lab_close),
        cmocka_unit_test_setup_teardown(as_exact_as_the_cpu, cuda_lab_open, lab_close),
        cmocka_unit_test_setup_teardown(edges, cuda_lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
