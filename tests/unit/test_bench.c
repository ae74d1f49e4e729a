/* What a benchmark's numbers rest on: the arithmetic of a token, shares of a rate, and the stopwatch, on a device that works at once and
 * on one that only queues. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "mesh/timed.h"
#include "mesh/comm_backend.h"
#include "ops/rates.h"
#include "train/bench.h"

static void near(double value, double expected, double bound)
{
    if (!(value >= expected - bound && value <= expected + bound)) {
        fail_msg("%.17g is not %.17g +- %g", value, expected, bound);
    }
}

/* Llama-3.2-1B's shape by hand: a layer's matrices are 2048 x 2048 (q), twice 512 x 2048 (k, v), 2048 x 2048 (o), three times 8192 x 2048;
 * 60,817,408 numbers; 16 of them and the head 128,256 x 2,048 make 1,235,746,816. Attention: 16 layers, 32 heads of 64, rows of 4096. */
static void flops_of_a_token_are_those_worked_out_by_hand(void **state)
{
    const fm_config config = { .C = 2048, .F = 8192, .V = 128256, .L = 16, .H = 32, .K = 8, .D = 64, .tied = true };
    near(fm_loop_flops_per_token(&config, 4096), 6.0 * 1235746816.0 + 6.0 * 134217728.0, 0.5);
    near(fm_loop_flops_per_token(&config, 4096), 8219787264.0, 0.5);
}

static void mfu_is_the_share_of_the_measured_rate(void **state)
{
    const fm_bench_result result = { .tokens = 4000, .step_s = 0.5, .gemm_flops_per_s = 6.4e12 };
    near(fm_bench_mfu(&result, 4e8), 0.5, 1e-12);         /* 8,000 tokens/s x 4e8 = 3.2e12 */
    const fm_bench_result unknown = { .tokens = 4000, .step_s = 0.5 };
    near(fm_bench_mfu(&unknown, 4e8), 0.0, 0.0);
}

/* A device that only queues: its moments are numbers that the test sets. */
enum { MOMENTS = 8 };

typedef struct {
    double at_s[MOMENTS];
    int n_marks, n_syncs;
} queue;

static int mark(fm_device *device, int index)
{
    queue *const q = device->state;
    assert_in_range(index, 0, MOMENTS - 1);
    q->at_s[index] = (double)(q->n_marks * q->n_marks);   /* 0, 1, 4, 9 ... */
    q->n_marks++;
    return FM_OK;
}

static int between(double *seconds, fm_device *device, int from, int to)
{
    const queue *const q = device->state;
    *seconds = q->at_s[to] - q->at_s[from];
    return FM_OK;
}

static int synchronize(fm_device *device)
{
    ((queue *)device->state)->n_syncs++;
    return FM_OK;
}

static void a_queue_is_read_only_when_it_is_settled(void **state)
{
    const fm_device_table table = { .name = "queue", .synchronize = synchronize, .mark = mark, .between = between };
    queue q = { .n_marks = 0 };
    fm_device device = { .table = &table, .state = &q };
    fm_stopwatch *w;
    assert_int_equal(fm_stopwatch_new(&w, &device), FM_OK);
    const int rows[] = { 5, 7, 5 };                       /* 0 to 1, 4 to 9, 16 to 25 */
    for (int i = 0; i < 3; i++) {
        fm_stopwatch_begin(w);
        assert_int_equal(fm_stopwatch_end(w, rows[i]), FM_OK);
    }
    assert_int_equal(q.n_syncs, 0);
    near(fm_stopwatch_get(w, 5).seconds, 0.0, 0.0);
    assert_int_equal(fm_stopwatch_settle(w), FM_OK);
    assert_int_equal(q.n_syncs, 1);
    near(fm_stopwatch_get(w, 5).seconds, 10.0, 1e-12);
    near(fm_stopwatch_get(w, 7).seconds, 5.0, 1e-12);
    assert_int_equal(fm_stopwatch_get(w, 5).calls, 2);
    fm_stopwatch_begin(w);                                /* the moments are used again: 36 to 49 */
    assert_int_equal(fm_stopwatch_end(w, 7), FM_OK);
    assert_int_equal(fm_stopwatch_settle(w), FM_OK);
    near(fm_stopwatch_get(w, 7).seconds, 18.0, 1e-12);
    fm_stopwatch_begin(w);                                /* one within another: 64 to 81 is the outer one's */
    fm_stopwatch_begin(w);
    assert_int_equal(fm_stopwatch_end(w, 5), FM_OK);
    assert_int_equal(fm_stopwatch_end(w, 7), FM_OK);
    assert_int_equal(fm_stopwatch_settle(w), FM_OK);
    near(fm_stopwatch_get(w, 7).seconds, 35.0, 1e-12);
    near(fm_stopwatch_get(w, 5).seconds, 10.0, 1e-12);
    fm_stopwatch_clear(w);
    assert_int_equal(fm_stopwatch_get(w, 7).calls, 0);
    fm_stopwatch_destroy(w);
}

static fm_op_cost find(const fm_ops_timing *timing, const char *name)
{
    for (int op = 0; op < fm_ops_timing_count(); op++) {
        const fm_op_cost cost = fm_ops_timing_get(timing, op);
        if (strcmp(cost.name, name) == 0) {
            return cost;
        }
    }
    fail_msg("no operation is called %s", name);
    return (fm_op_cost){ .name = NULL };
}

static void operations_are_counted_by_kind_and_do_the_same(void **state)
{
    float x[6] = { 1, 2, 3, 4, 5, 6 }, y[6] = { 0 }, c[4], again[4];
    fm_device *device;
    fm_compute *compute;
    fm_stopwatch *w;
    fm_ops_timing *timing;
    assert_int_equal(fm_device_open_cpu(&device, 1), FM_OK);
    assert_int_equal(fm_compute_new(&compute, device, NULL), FM_OK);
    assert_int_equal(fm_stopwatch_new(&w, device), FM_OK);
    const fm_ops *const plain = compute->ops;
    const fm_gemm_args product = { .in = FM_F32, .out = FM_F32, .trans_b = true, .m = 2, .n = 2, .k = 3, .a = x, .lda = 3, .b = x,
                                   .ldb = 3, .c = c, .ldc = 2 };
    fm_gemm_args other = product;
    other.m = 1;
    assert_int_equal(plain->gemm(compute, &product), FM_OK);
    memcpy(again, c, sizeof c);
    assert_int_equal(fm_ops_timing_begin(&timing, compute, w), FM_OK);
    assert_int_equal(compute->ops->gemm(compute, &product), FM_OK);
    assert_memory_equal(again, c, sizeof c);
    assert_int_equal(compute->ops->gemm(compute, &other), FM_OK);
    assert_int_equal(compute->ops->gemm(compute, &product), FM_OK);
    assert_int_equal(compute->ops->add(compute, y, x, FM_F32, 6), FM_OK);
    assert_int_equal(fm_stopwatch_settle(w), FM_OK);
    near(y[5], 6.0, 0.0);
    assert_int_equal(find(timing, "gemm").calls, 3);
    assert_int_equal(find(timing, "add").calls, 1);
    assert_int_equal(find(timing, "rope").calls, 0);
    near(find(timing, "add").bytes, 3 * 6 * 4, 0.0);
    assert_int_equal(find(timing, "add").part, FM_PART_KERNELS);
    assert_int_equal(find(timing, "adamw").part, FM_PART_OPTIMIZER);
    assert_int_equal(fm_ops_timing_gemms(timing), 2);
    assert_int_equal(fm_ops_timing_gemm(timing, 0).calls, 2);
    near(fm_gemm_flops(&product), 24.0, 0.0);
    assert_true(find(timing, "gemm").seconds > 0.0);
    fm_ops_timing_end(timing);
    assert_ptr_equal(compute->ops, plain);
    fm_stopwatch_destroy(w);
    fm_compute_destroy(compute);
    fm_device_close(device);
}

/* A backend that notes what it was asked for. */
static int noted;

static int note_wait(fm_request *request)
{
    noted += 100;
    *request = (fm_request){ { NULL, NULL } };
    return FM_OK;
}

static int note_all_reduce(fm_comm *comm, fm_request *request, void *data, int64_t count, enum fm_dtype dtype, enum fm_reduce op)
{
    noted += (int)count;
    *request = (fm_request){ { comm, NULL } };
    return FM_OK;
}

static void transfers_are_counted_and_passed_on(void **state)
{
    const fm_comm_backend backend = { .name = "noting", .all_reduce = note_all_reduce, .wait = note_wait };
    fm_comm comm = { .backend = &backend, .name = "pair", .size = 2 };
    fm_device *device;
    fm_stopwatch *w;
    float data[3] = { 0 };
    assert_int_equal(fm_device_open_cpu(&device, 1), FM_OK);
    assert_int_equal(fm_stopwatch_new(&w, device), FM_OK);
    fm_comm_time_begin(&comm, w, 3);
    assert_int_equal(fm_comm_all_reduce(&comm, data, 3, FM_F32, FM_SUM), FM_OK);
    assert_int_equal(noted, 103);
    assert_int_equal(fm_stopwatch_get(w, 3).calls, 2);    /* begun and awaited */
    fm_comm_time_end(&comm);
    assert_int_equal(fm_comm_all_reduce(&comm, data, 3, FM_F32, FM_SUM), FM_OK);
    assert_int_equal(noted, 206);
    assert_int_equal(fm_stopwatch_get(w, 3).calls, 2);
    fm_comm_time_begin(NULL, w, 3);
    fm_comm_time_end(NULL);
    fm_stopwatch_destroy(w);
    fm_device_close(device);
}

static void rates_are_measured(void **state)
{
    fm_device *device;
    fm_compute *compute;
    double product, square, copy;
    int64_t side = 0;
    assert_int_equal(fm_device_open_cpu(&device, 1), FM_OK);
    assert_int_equal(fm_compute_new(&compute, device, NULL), FM_OK);
    const size_t before = fm_memory_used_bytes(FM_MEMORY_WORKSPACE);
    const fm_gemm_args kind = { .in = FM_F32, .out = FM_F32, .trans_a = true, .accumulate = true, .m = 64, .n = 48, .k = 32, .lda = 70,
                                .ldb = 48, .ldc = 50 };
    assert_int_equal(fm_rate_gemm(&product, compute, &kind, 0.01), FM_OK);
    assert_int_equal(fm_rate_square(&square, &side, compute, FM_F32, 0.02), FM_OK);
    assert_int_equal(fm_rate_copy(&copy, compute, 0.02), FM_OK);
    assert_true(product > 1e6 && square > 1e6 && copy > 1e6 && side >= 256);
    assert_true(fm_memory_used_bytes(FM_MEMORY_WORKSPACE) < before + (1 << 20));   /* but for the operations' own scratch */
    fm_compute_destroy(compute);
    fm_device_close(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(flops_of_a_token_are_those_worked_out_by_hand),
        cmocka_unit_test(mfu_is_the_share_of_the_measured_rate),
        cmocka_unit_test(a_queue_is_read_only_when_it_is_settled),
        cmocka_unit_test(operations_are_counted_by_kind_and_do_the_same),
        cmocka_unit_test(transfers_are_counted_and_passed_on),
        cmocka_unit_test(rates_are_measured),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
