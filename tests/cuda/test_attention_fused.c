/* The choice between a library's attention and the kernels, with a library that writes down what it is asked. */
#include "kernel_lab.h"

#include "ops/attention_fused_cuda.h"
#include "ops/cuda.h"
#include "tensor/cuda.h"

enum { B = 2, T = 24, ROW = 26, H = 4, K = 2, D = 16, LDQ = 136, LDO = 72, WORKSPACE_BYTES = 1000 };

/* What the library was asked, and how it is to answer. */
typedef struct {
    int opened, closed, planned, destroyed, runs;
    bool not_found, broken, refuses;
    fm_fused_shape shape;              /* of the last plan */
    fm_fused_arrays arrays;            /* of the last run */
    float stats[B * H * T];            /* as a backward run saw them */
} journal;

static journal asked;

static int note_version(int *built, int *found)
{
    *built = 91900;
    *found = asked.not_found ? 0 : 91900;
    return FM_OK;
}

static int note_open(void **library, fm_device *device)
{
    (void)device;
    asked.opened++;
    *library = asked.broken ? NULL : &asked;
    return asked.broken ? fm_fail(FM_ERR_DEVICE, "a part of it is not there") : FM_OK;
}

static void note_close(void *library)
{
    assert_ptr_equal(library, &asked);
    asked.closed++;
}

static int note_plan(void **plan, size_t *workspace_bytes, void *library, const fm_fused_shape *shape)
{
    assert_ptr_equal(library, &asked);
    asked.planned++;
    asked.shape = *shape;
    *workspace_bytes = WORKSPACE_BYTES;
    *plan = NULL;
    if (asked.refuses) {
        return fm_fail(FM_ERR_UNSUPPORTED, "it does not like this shape");
    }
    *plan = malloc(sizeof *shape);
    memcpy(*plan, shape, sizeof *shape);
    return FM_OK;
}

static void note_destroy(void *plan)
{
    asked.destroyed++;
    free(plan);
}

/* Forward: the statistics count up. All of the workspace is written. */
static int note_run(void *library, void *plan, const fm_fused_arrays *arrays, void *workspace)
{
    const fm_fused_shape *const s = plan;
    assert_ptr_equal(library, &asked);
    assert_int_equal((uintptr_t)workspace % 256, (uintptr_t)arrays->stats % 256);
    asked.runs++;
    asked.arrays = *arrays;
    memset(workspace, 0xff, WORKSPACE_BYTES);
    for (int i = 0; i < s->B * s->H * s->T; i++) {
        if (s->backward) {
            asked.stats[i] = arrays->stats[i];
        } else {
            arrays->stats[i] = (float)i;
        }
    }
    return FM_OK;
}

static const fm_fused_library noting = {
    .name = "the journal", .version = note_version, .open = note_open, .close = note_close, .plan_new = note_plan,
    .plan_destroy = note_destroy, .run = note_run,
};

/* A call that the library takes. Rows of queries have two tokens behind those of the call. */
typedef struct {
    lab *l;
    fm_cuda_fused *fused;
    fm_attention_args args;
    uint16_t *q, *k, *v, *out, *dout, *dq, *dk, *dv;
    float *lse;
    enum fm_dtype result;
    bool sums;                         /* merge, add */
} trial;

static trial trial_new(lab *l)
{
    trial t = { .l = l, .result = FM_BF16 };
    asked = (journal){ 0 };
    fm_cuda *const cuda = fm_cuda_of(l->device);
    cuda->deterministic = cuda->own_attention = false;
    assert_int_equal(fm_cuda_fused_new(&t.fused, l->device, &noting), FM_OK);
    assert_non_null(t.fused);
    t.q = lab_alloc(l, B * ROW * LDQ * sizeof *t.q), t.dq = lab_alloc(l, B * ROW * LDQ * sizeof *t.q);
    t.k = t.q + H * D, t.v = t.k + K * D, t.dk = t.dq + H * D, t.dv = t.dk + K * D;
    t.out = lab_alloc(l, B * ROW * LDO * sizeof *t.q), t.dout = lab_alloc(l, B * ROW * LDO * sizeof *t.q);
    t.lse = lab_alloc(l, B * ROW * H * sizeof *t.lse);
    t.args = (fm_attention_args){
        .dtype = FM_BF16, .B = B, .Tq = T, .Tk = T, .q_row = ROW, .k_row = ROW, .H = H, .K = K, .D = D, .ldq = LDQ, .ldk = LDQ, .ldo = LDO,
        .scale = 0.25f, .plain = true, .out = t.out,
    };
    return t;
}

static void trial_end(trial *t)
{
    fm_cuda_fused_destroy(t->fused);
    lab_clear(t->l);
}

static bool forward(trial *t)
{
    bool done;
    assert_int_equal(fm_cuda_fused_attention(&done, t->fused, t->l->gpu, t->out, t->result, t->lse, t->q, t->k, t->v, &t->args, t->sums),
                     FM_OK);
    return done;
}

static bool backward(trial *t)
{
    bool done;
    assert_int_equal(fm_cuda_fused_attention_backward(&done, t->fused, t->l->gpu, t->dq, t->dk, t->dv, t->result, t->dout, t->lse, t->q,
                                                      t->k, t->v, &t->args, t->sums), FM_OK);
    return done;
}

/* The statistics of the library and lse are the same numbers in two orders; tokens behind the call keep theirs. */
static void statistics(lab *l)
{
    trial t = trial_new(l);
    for (int i = 0; i < B * ROW * H; i++) {
        t.lse[i] = -7.0f;
    }
    assert_true(forward(&t));
    for (int b = 0; b < B; b++) {
        for (int q = 0; q < ROW; q++) {
            for (int h = 0; h < H; h++) {
                assert_float_equal(t.lse[(b * ROW + q) * H + h], q < T ? (float)((b * H + h) * T + q) : -7.0f, 0.0f);
            }
        }
    }
    assert_ptr_equal(asked.arrays.out, t.out);
    assert_true(backward(&t));
    for (int i = 0; i < B * H * T; i++) {
        assert_float_equal(asked.stats[i], (float)i, 0.0f);
    }
    assert_ptr_equal(asked.arrays.out, t.out);
    assert_ptr_equal(asked.arrays.dout, t.dout);
    assert_ptr_equal(asked.arrays.dv, t.dv);
    assert_int_equal(asked.runs, 2);
    trial_end(&t);
}

static void statistics_in_both_orders(void **state)
{
    (void)state;
    in_all_orders(statistics);
}

static void shapes_as_they_are(void **state)
{
    trial t = trial_new(*state);
    t.args.window = 5;
    assert_true(backward(&t));
    const fm_fused_shape *const s = &asked.shape;
    assert_true(s->dtype == FM_BF16 && s->backward && s->B == B && s->T == T && s->H == H && s->K == K && s->D == D);
    assert_true(s->q_row == ROW && s->k_row == ROW && s->ldq == LDQ && s->ldk == LDQ && s->ldo == LDO && s->window == 5);
    assert_float_equal(s->scale, 0.25f, 0.0f);
    trial_end(&t);
}

/* Each of these alone makes a call one for the kernels. */
static void break_one(trial *t, int which)
{
    fm_attention_args *const a = &t->args;
    switch (which) {
    case 0: a->plain = false; break;
    case 1: a->dtype = t->result = FM_F32; break;
    case 2: t->result = FM_F32; break;
    case 3: t->sums = true; break;
    case 4: a->D = 12; break;
    case 5: a->D = 136; break;
    case 6: a->Tq = T - 1; break;
    case 7: a->Tq = a->Tk = 0; break;
    case 8: a->ldq = LDQ + 4; break;
    case 9: a->ldk = LDQ + 4; break;
    case 10: a->ldo = LDO + 4; break;
    case 11: t->k += 4; break;
    case 12: t->out += 1, a->out = t->out; break;
    default: a->B = 0; break;
    }
}

static void what_is_for_the_kernels(void **state)
{
    for (int which = 0; which < 14; which++) {
        trial t = trial_new(*state);
        break_one(&t, which);
        if (forward(&t) || backward(&t) || asked.opened > 0) {
            fail_msg("case %d went to the library", which);
        }
        trial_end(&t);
    }
    trial t = trial_new(*state);
    t.args.out = NULL;                 /* the library makes delta from it */
    assert_false(backward(&t));
    t.args.out = t.out;
    t.dv += 1;
    assert_false(backward(&t));
    assert_true(forward(&t));
    trial_end(&t);
}

static void no_choice(void **state)
{
    lab *const l = *state;
    fm_cuda *const cuda = fm_cuda_of(l->device);
    trial t = trial_new(l);
    fm_cuda_fused *fused = t.fused;
    cuda->deterministic = true;
    assert_int_equal(fm_cuda_fused_new(&fused, l->device, &noting), FM_OK);
    assert_null(fused);
    cuda->deterministic = false;
    cuda->own_attention = true;
    fused = t.fused;
    assert_int_equal(fm_cuda_fused_new(&fused, l->device, &noting), FM_OK);
    assert_null(fused);
    cuda->own_attention = false;
    fused = t.fused;
    assert_int_equal(fm_cuda_fused_new(&fused, l->device, NULL), FM_OK);
    assert_null(fused);
    asked.not_found = true;
    fused = t.fused;
    assert_int_equal(fm_cuda_fused_new(&fused, l->device, &noting), FM_OK);
    assert_null(fused);
    fm_compute_sizes sizes = { .dtype = FM_BF16, .N = 100, .C = 64, .H = 4, .K = 2, .D = 128 };   /* heads wider than C */
    assert_int_equal(fm_cuda_fused_workspace_bytes(NULL, &sizes), 0);
    assert_int_equal(fm_cuda_fused_workspace_bytes(t.fused, &sizes), 100 * 4 * (sizeof(float) + 128 * (sizeof(float) + 2 * 2)));
    sizes.dtype = FM_F32;
    assert_int_equal(fm_cuda_fused_workspace_bytes(t.fused, &sizes), 0);
    fm_cuda_fused_destroy(t.fused);
    t.fused = NULL;
    assert_false(forward(&t) || backward(&t));
    trial_end(&t);
}

static void plans_are_kept(void **state)
{
    trial t = trial_new(*state);
    for (int i = 0; i < 3; i++) {
        t.args.window = i == 2 ? T : 0;                     /* as wide as the row: none */
        assert_true(forward(&t) && backward(&t));
    }
    assert_int_equal(asked.planned, 2);
    int taken = 0;
    for (int n = 2; n < T; n++) {
        t.args.Tq = t.args.Tk = n;
        taken += forward(&t);
    }
    assert_int_equal(asked.planned, 16);                    /* and no more, though there were more shapes */
    assert_int_equal(taken, 14);
    t.args.Tq = t.args.Tk = T;
    assert_true(forward(&t));
    assert_int_equal(asked.opened, 1);
    trial_end(&t);
    assert_int_equal(asked.destroyed, 16);
    assert_int_equal(asked.closed, 1);
}

static void a_refusal_is_not_asked_again(void **state)
{
    trial t = trial_new(*state);
    asked.refuses = true;
    assert_false(forward(&t) || forward(&t));
    assert_int_equal(asked.planned, 1);
    asked.refuses = false;
    assert_true(backward(&t));
    assert_false(forward(&t));
    trial_end(&t);
    assert_int_equal(asked.destroyed, 1);
}

static void a_broken_library_is_not_opened_again(void **state)
{
    trial t = trial_new(*state);
    asked.broken = true;
    assert_false(forward(&t) || backward(&t));
    assert_int_equal(asked.opened, 1);
    assert_int_equal(asked.planned, 0);
    trial_end(&t);
    assert_int_equal(asked.closed, 0);
}

static void *no_memory(fm_device *device, size_t size_bytes, enum fm_memory kind)
{
    (void)device, (void)kind;
    fm_fail(FM_ERR_MEMORY, "%zu bytes are too many", size_bytes);
    return NULL;
}

static void without_memory_the_kernels_do_it(void **state)
{
    trial t = trial_new(*state);
    const fm_device_table *const table = t.l->device->table;
    fm_device_table full = *table;
    full.alloc = no_memory;
    t.l->device->table = &full;
    assert_false(forward(&t));
    t.l->device->table = table;
    assert_false(forward(&t));         /* it is given up */
    assert_int_equal(asked.planned, 1);
    assert_int_equal(asked.runs, 0);
    assert_true(backward(&t));
    trial_end(&t);
    assert_int_equal(asked.destroyed, 2);
}

static int open_lab(void **state)
{
    *state = lab_new();
    return 0;
}

static int close_lab(void **state)
{
    lab_destroy(*state);
    return 0;
}

int main(int argc, char **argv)
{
    const int status = lab_begin(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(statistics_in_both_orders),
        cmocka_unit_test_setup_teardown(shapes_as_they_are, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(what_is_for_the_kernels, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(no_choice, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(plans_are_kept, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(a_refusal_is_not_asked_again, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(a_broken_library_is_not_opened_again, open_lab, close_lab),
        cmocka_unit_test_setup_teardown(without_memory_the_kernels_do_it, open_lab, close_lab),
    };
    return status != 0 ? status : cmocka_run_group_tests(tests, NULL, NULL);
}
