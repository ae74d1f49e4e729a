/* RMSNorm, rotary embedding and SwiGLU: forward against the definition, backward against differences of it. */
#include "numeric.h"

/* ---- RMSNorm ---- */

typedef struct {
    int64_t N;
    int heads;
    int64_t n, pad;
} norm_shape;

static const norm_shape norm_shapes[] = { { 1, 1, 1, 0 }, { 37, 1, 131, 5 }, { 5, 3, 8, 0 }, { 131, 3, 24, 7 }, { 2, 9, 64, 1 },
                                          { 3, 1, 576, 0 } };

/* One case: x and dy [N, heads n] with strides, w [n]. */
typedef struct {
    norm_shape s;
    int64_t ldx, ldy;
    double eps;
    array x, w, dy;
    double *rstd;                      /* [N, heads] */
} norm_problem;

static norm_problem norm_new(lab *l, norm_shape s, enum fm_dtype dtype)
{
    norm_problem p = { .s = s, .ldx = s.heads * s.n + s.pad, .ldy = s.heads * s.n + 2 * s.pad, .eps = 1e-5 };
    p.x = array_random(l, dtype, s.N * p.ldx, 1, 1.3);
    p.w = array_random(l, dtype, s.n, 2, 1.0);
    p.dy = array_random(l, dtype, s.N * p.ldy, 3, 1.0);
    p.rstd = lab_doubles(l, s.N * s.heads);
    return p;
}

/* y = w x rstd of head h in row r; returns rstd. */
static double define_norm(double *y, const norm_problem *p, int64_t r, int h)
{
    const double *const x = p->x.value + r * p->ldx + h * p->s.n;
    double sum = 0.0;
    for (int64_t i = 0; i < p->s.n; i++) {
        sum += x[i] * x[i];
    }
    const double rstd = 1.0 / sqrt(sum / (double)p->s.n + p->eps);
    for (int64_t i = 0; i < p->s.n; i++) {
        y[i] = p->w.value[i] * x[i] * rstd;
    }
    return rstd;
}

static void define_rstd(lab *l, norm_problem *p)
{
    double *const y = lab_doubles(l, p->s.n);
    for (int64_t i = 0; i < p->s.N * p->s.heads; i++) {
        p->rstd[i] = define_norm(y, p, i / p->s.heads, (int)(i % p->s.heads));
    }
}

static uint64_t check_rmsnorm(lab *l, norm_shape s, enum fm_dtype dtype)
{
    norm_problem p = norm_new(l, s, dtype);
    array y = array_random(l, dtype, s.N * p.ldy, 4, 1.0), rstd = array_random(l, FM_F32, s.N * s.heads, 5, 1.0);
    double *const want = array_values(l, &y), *const want_rstd = array_values(l, &rstd);
    for (int64_t i = 0; i < s.N * s.heads; i++) {
        want_rstd[i] = define_norm(want + i / s.heads * p.ldy + i % s.heads * s.n, &p, i / s.heads, (int)(i % s.heads));
    }
    RUN(l, rmsnorm, y.data, p.ldy, rstd.data, p.x.data, p.ldx, p.w.data, dtype, s.N, s.heads, s.n, p.eps);
    array_check("rmsnorm", &y, want, NULL, 8.0);
    array_check("rstd", &rstd, want_rstd, NULL, 8.0);
    return array_hash(array_hash(0, &y), &rstd);
}

/* Which head of which row a difference is taken in. */
typedef struct {
    norm_problem *p;
    int64_t row;
    int head;
    double *y;
} norm_at;

static double norm_loss(void *context)
{
    const norm_at *const at = context;
    define_norm(at->y, at->p, at->row, at->head);
    double sum = 0.0;
    for (int64_t i = 0; i < at->p->s.n; i++) {
        sum += at->y[i] * at->p->dy.value[at->row * at->p->ldy + at->head * at->p->s.n + i];
    }
    return sum;
}

static uint64_t check_rmsnorm_backward(lab *l, norm_shape s, enum fm_dtype dtype, bool add)
{
    norm_problem p = norm_new(l, s, dtype);
    define_rstd(l, &p);
    const array rstd = array_of(l, FM_F32, p.rstd, s.N * s.heads);
    const int64_t ld = p.ldx + 3;
    array dx = array_random(l, dtype, s.N * ld, 6, 1.0), dw = array_random(l, FM_F32, s.n, 7, 1.0);
    double *const want = array_values(l, &dx), *const want_dw = array_values(l, &dw), *const dw_size = lab_doubles(l, s.n);
    norm_at at = { .p = &p, .y = lab_doubles(l, s.n) };
    for (at.row = 0; at.row < s.N; at.row++) {
        for (at.head = 0; at.head < s.heads; at.head++) {
            for (int64_t i = 0; i < s.n; i++) {
                const int64_t to = at.row * ld + at.head * s.n + i;
                const double slope = difference(norm_loss, &at, p.x.value + at.row * p.ldx + at.head * s.n + i, 1e-4);
                want[to] = slope + (add ? want[to] : 0.0);
                const double term = difference(norm_loss, &at, p.w.value + i, 1e-3);   /* linear in w */
                want_dw[i] += term;
                dw_size[i] += fabs(term);
            }
        }
    }
    RUN(l, rmsnorm_backward, dx.data, ld, add, p.dy.data, p.ldy, p.x.data, p.ldx, p.w.data, rstd.data, dtype, s.N, s.heads, s.n);
    RUN(l, rmsnorm_backward_weight, dw.data, p.dy.data, p.ldy, p.x.data, p.ldx, rstd.data, dtype, s.N, s.heads, s.n);
    array_check("dx of rmsnorm", &dx, want, NULL, s.n == 1 ? 1000.0 : 24.0);   /* one element: everything cancels but eps */
    array_check("dw of rmsnorm", &dw, want_dw, dw_size, 72.0);
    return array_hash(array_hash(0, &dx), &dw);
}

static uint64_t norm_body(lab *l)
{
    uint64_t hash = 0;
    for (int s = 0; s < COUNT(norm_shapes); s++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            hash = hash * 31 + check_rmsnorm(l, norm_shapes[s], dtypes[t]);
            hash = hash * 31 + check_rmsnorm_backward(l, norm_shapes[s], dtypes[t], false);
            hash = hash * 31 + check_rmsnorm_backward(l, norm_shapes[s], dtypes[t], true);
        }
    }
    return hash;
}

static void rmsnorm(void **state)
{
    same_on_all_threads(*state, norm_body);
}

static void rmsnorm_of_zeros_is_zero(void **state)
{
    lab *const l = *state;
    const norm_shape s = { 3, 1, 24, 0 };
    norm_problem p = norm_new(l, s, FM_F32);
    memset(p.x.data, 0, sizeof(float) * 3 * 24);
    array y = array_random(l, FM_F32, s.N * p.ldy, 4, 1.0), rstd = array_random(l, FM_F32, s.N, 5, 1.0);
    const double zeros[3 * 24] = { 0 }, stds[3] = { 1.0 / sqrt(1e-5), 1.0 / sqrt(1e-5), 1.0 / sqrt(1e-5) };
    RUN(l, rmsnorm, y.data, p.ldy, rstd.data, p.x.data, p.ldx, p.w.data, FM_F32, s.N, 1, s.n, 1e-5);
    array_check("rmsnorm of zeros", &y, zeros, NULL, 0.0);
    array_check("rstd of zeros", &rstd, stds, NULL, 4.0);
}

/* ---- rotary embedding ---- */

static const struct {
    int64_t N;
    int heads, D, rotary;
    int64_t pad;
} rope_shapes[] = { { 37, 3, 8, 8, 0 }, { 5, 9, 64, 64, 3 }, { 131, 2, 24, 24, 1 }, { 7, 3, 24, 8, 0 }, { 1, 1, 2, 2, 0 },
                    { 3, 2, 70, 66, 5 } };

enum { POSITIONS = 50 };

static uint64_t check_rope(lab *l, int shape, enum fm_dtype dtype, bool inverse)
{
    const int heads = rope_shapes[shape].heads, D = rope_shapes[shape].D, rotary = rope_shapes[shape].rotary, half = rotary / 2;
    const int64_t N = rope_shapes[shape].N, ld = heads * D + rope_shapes[shape].pad;
    array x = array_random(l, dtype, N * ld, 1, 1.0);
    double *const cosines = lab_doubles(l, POSITIONS * half), *const sines = lab_doubles(l, POSITIONS * half);
    int32_t *const position = lab_alloc(l, N, sizeof *position);
    for (int64_t i = 0; i < POSITIONS * half; i++) {
        const double angle = (double)(i / half) * pow(10000.0, -(double)(i % half) / half);
        cosines[i] = cos(angle);
        sines[i] = sin(angle);
    }
    const array c = array_of(l, FM_F32, cosines, POSITIONS * half), s = array_of(l, FM_F32, sines, POSITIONS * half);
    double *const want = array_values(l, &x);
    for (int64_t r = 0; r < N; r++) {
        position[r] = (int32_t)(r * 7 % POSITIONS);
        for (int i = 0; i < heads * half; i++) {
            double *const a = want + r * ld + i / half * D + i % half, *const b = a + half;
            const double co = c.value[position[r] * half + i % half], si = s.value[position[r] * half + i % half] * (inverse ? -1 : 1);
            const double turned = *a * co - *b * si;
            *b = *b * co + *a * si;
            *a = turned;
        }
    }
    RUN(l, rope, x.data, ld, c.data, s.data, position, inverse, dtype, N, heads, D, rotary);
    array_check(inverse ? "rope backward" : "rope", &x, want, NULL, 3.0);
    return array_hash(0, &x);
}

static uint64_t rope_body(lab *l)
{
    uint64_t hash = 0;
    for (int s = 0; s < COUNT(rope_shapes); s++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            hash = hash * 31 + check_rope(l, s, dtypes[t], false);
            hash = hash * 31 + check_rope(l, s, dtypes[t], true);   /* a rotation's transpose is the rotation back */
        }
    }
    return hash;
}

static void rope(void **state)
{
    same_on_all_threads(*state, rope_body);
}

/* ---- SwiGLU ---- */

static const struct {
    int64_t N, F;
} swiglu_shapes[] = { { 1, 1 }, { 37, 131 }, { 5, 24 }, { 3, 1536 } };

static double silu_times(double g, double u)
{
    return g / (1.0 + exp(-g)) * u;
}

typedef struct {
    double g, u;
} swiglu_at;

static double swiglu_loss(void *context)
{
    const swiglu_at *const at = context;
    return silu_times(at->g, at->u);
}

static uint64_t check_swiglu(lab *l, int64_t N, int64_t F, enum fm_dtype dtype, bool in_place)
{
    array gu = array_random(l, dtype, N * 2 * F, 1, 3.0), da = array_random(l, dtype, N * F, 2, 1.0);
    array a = array_random(l, dtype, N * F, 3, 1.0), dgu = in_place ? gu : array_random(l, dtype, N * 2 * F, 4, 1.0);
    double *const want = lab_doubles(l, a.n), *const slopes = lab_doubles(l, dgu.n);
    for (int64_t i = 0; i < N * F; i++) {
        const int64_t at_g = i / F * 2 * F + i % F;
        swiglu_at at = { gu.value[at_g], gu.value[at_g + F] };
        want[i] = swiglu_loss(&at);
        slopes[at_g] = da.value[i] * difference(swiglu_loss, &at, &at.g, 1e-5);
        slopes[at_g + F] = da.value[i] * difference(swiglu_loss, &at, &at.u, 1e-3);
    }
    RUN(l, swiglu, a.data, gu.data, dtype, N, F);
    array_check("swiglu", &a, want, NULL, 8.0);
    RUN(l, swiglu_backward, dgu.data, da.data, gu.data, dtype, N, F);
    array_check("swiglu backward", &dgu, slopes, NULL, 16.0);
    return array_hash(array_hash(0, &a), &dgu);
}

static uint64_t swiglu_body(lab *l)
{
    uint64_t hash = 0;
    for (int s = 0; s < COUNT(swiglu_shapes); s++) {
        for (int t = 0; t < COUNT(dtypes); t++) {
            hash = hash * 31 + check_swiglu(l, swiglu_shapes[s].N, swiglu_shapes[s].F, dtypes[t], false);
            hash = hash * 31 + check_swiglu(l, swiglu_shapes[s].N, swiglu_shapes[s].F, dtypes[t], true);
        }
    }
    return hash;
}

static void swiglu(void **state)
{
    same_on_all_threads(*state, swiglu_body);
}

static void swiglu_of_large_gates(void **state)
{
    lab *const l = *state;
    static const double gates[] = { -1e5, -1000.0, -100.0, -88.5, -87.5, -20.0, 0.0, 20.0, 88.5, 100.0, 1000.0, 1e5 };
    enum { F = COUNT(gates) };
    double both[2 * F], want[F], ones[F], slopes[2 * F];
    for (int i = 0; i < F; i++) {
        const double s = 1.0 / (1.0 + exp(-gates[i]));
        both[i] = gates[i], both[F + i] = 1.0, ones[i] = 1.0;
        want[i] = s * gates[i];
        slopes[i] = s * (1.0 + gates[i] * (1.0 - s)), slopes[F + i] = want[i];
    }
    const array gu = array_of(l, FM_F32, both, 2 * F), da = array_of(l, FM_F32, ones, F);
    array a = array_random(l, FM_F32, F, 1, 1.0), dgu = array_random(l, FM_F32, 2 * F, 2, 1.0);
    RUN(l, swiglu, a.data, gu.data, FM_F32, 1, F);
    RUN(l, swiglu_backward, dgu.data, da.data, gu.data, FM_F32, 1, F);
    double *const sizes = lab_doubles(l, 2 * F);
    for (int i = 0; i < 2 * F; i++) {
        sizes[i] = fabs(slopes[i]) + 1e-6;
    }
    array_check("swiglu of large gates", &a, want, sizes + F, 16.0);
    array_check("swiglu backward of large gates", &dgu, slopes, sizes, 16.0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(rmsnorm, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(rmsnorm_of_zeros_is_zero, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(rope, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(swiglu, lab_open, lab_close),
        cmocka_unit_test_setup_teardown(swiglu_of_large_gates, lab_open, lab_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
