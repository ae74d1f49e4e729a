/* Registry: the one file that knows which GEMM library there is. */
#include "config.h"

#include "ops/gemm.h"

#include <string.h>

#include "ops/rows.h"

#if defined(HAVE_ONEDNN)
#include <oneapi/dnnl/dnnl.h>
#elif defined(HAVE_OPENBLAS)
#include <cblas.h>
#endif

static void sgemm(bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t lda, const float *b,
                  int64_t ldb, float beta, float *c, int64_t ldc)
{
#if defined(HAVE_ONEDNN)
    dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
#elif defined(HAVE_OPENBLAS)
    cblas_sgemm(CblasRowMajor, trans_a ? CblasTrans : CblasNoTrans, trans_b ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)k,
                alpha, a, (int)lda, b, (int)ldb, beta, c, (int)ldc);
#endif
}

#if defined(HAVE_ONEDNN)

/* What makes a primitive: everything of the arguments but the addresses. Compared as bytes, so it is zeroed first. */
typedef struct {
    int64_t m, n, k, lda, ldb, ldc;
    int32_t in, out, trans_a, trans_b, accumulate, alpha_bits;
} plan_key;

typedef struct {
    plan_key key;
    dnnl_primitive_t primitive;        /* NULL: the library has none for this type here */
    dnnl_memory_t a, b, c, scratchpad;
    int64_t last_used;
} plan;

enum { PLANS = 256 };

struct fm_gemm {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    plan plans[PLANS];
    int64_t clock;
    void *scratchpad;                  /* shared by all plans; the library's own allocations would not be counted */
    size_t scratchpad_bytes;
    float *wide;                       /* operands widened to fp32 where the library lacks the type */
    size_t wide_bytes;
};

static int check(dnnl_status_t status, const char *what)
{
    return status == dnnl_success ? FM_OK : fm_fail(FM_ERR_DEVICE, "oneDNN cannot %s (status %d)", what, (int)status);
}

const char *fm_gemm_name(void)
{
    return "oneDNN";
}

int fm_gemm_open(fm_gemm **out)
{
    fm_gemm *gemm = fm_alloc(sizeof *gemm, FM_MEMORY_HOST);
    if (gemm == NULL) {
        return FM_ERR_MEMORY;
    }
    *out = gemm;
    FM_TRY(check(dnnl_engine_create(&gemm->engine, dnnl_cpu, 0), "open the CPU"));
    return check(dnnl_stream_create(&gemm->stream, gemm->engine, dnnl_stream_default_flags), "make a stream");
}

static void plan_clear(plan *p)
{
    if (p->primitive != NULL) {
        dnnl_primitive_destroy(p->primitive);
        dnnl_memory_destroy(p->a);
        dnnl_memory_destroy(p->b);
        dnnl_memory_destroy(p->c);
        dnnl_memory_destroy(p->scratchpad);
    }
    *p = (plan){ .primitive = NULL };
}

void fm_gemm_close(fm_gemm *gemm)
{
    if (gemm == NULL) {
        return;
    }
    for (int i = 0; i < PLANS; i++) {
        plan_clear(&gemm->plans[i]);
    }
    dnnl_stream_destroy(gemm->stream);
    dnnl_engine_destroy(gemm->engine);
    fm_free(gemm->scratchpad);
    fm_free(gemm->wide);
    fm_free(gemm);
}

static dnnl_data_type_t type_of(enum fm_dtype dtype)
{
    return dtype == FM_F32 ? dnnl_f32 : dtype == FM_BF16 ? dnnl_bf16 : dnnl_f16;
}

static int matrix(dnnl_memory_desc_t *out, int64_t rows, int64_t columns, int64_t ld, bool transposed, enum fm_dtype dtype)
{
    const dnnl_dims_t dims = { rows, columns };
    const dnnl_dims_t strides = { transposed ? 1 : ld, transposed ? ld : 1 };
    return check(dnnl_memory_desc_init_by_strides(out, 2, dims, type_of(dtype), strides), "describe a matrix");
}

static int grow(void **block, size_t *size_bytes, size_t wanted)
{
    if (wanted <= *size_bytes) {
        return FM_OK;
    }
    fm_free(*block);
    *size_bytes = 0;
    *block = fm_alloc(wanted, FM_MEMORY_WORKSPACE);
    if (*block == NULL) {
        return FM_ERR_MEMORY;
    }
    *size_bytes = wanted;
    return FM_OK;
}

/* Makes the primitive of a plan; leaves it NULL where this machine or library has none. */
static int plan_make(fm_gemm *gemm, plan *p, const fm_gemm_args *g)
{
    dnnl_memory_desc_t a, b, c;
    FM_TRY(matrix(&a, g->m, g->k, g->lda, g->trans_a, g->in));
    FM_TRY(matrix(&b, g->k, g->n, g->ldb, g->trans_b, g->in));
    FM_TRY(matrix(&c, g->m, g->n, g->ldc, false, g->out));
    dnnl_matmul_desc_t desc;
    FM_TRY(check(dnnl_matmul_desc_init(&desc, &a, &b, NULL, &c), "describe a product"));
    dnnl_primitive_attr_t attr;
    FM_TRY(check(dnnl_primitive_attr_create(&attr), "make attributes"));
    dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
    if (g->alpha != 1.0f) {
        dnnl_primitive_attr_set_output_scales(attr, 1, 0, &g->alpha);
    }
    if (g->accumulate) {
        dnnl_post_ops_t post;
        dnnl_post_ops_create(&post);
        dnnl_post_ops_append_sum(post, 1.0f);
        dnnl_primitive_attr_set_post_ops(attr, post);
        dnnl_post_ops_destroy(post);
    }
    dnnl_primitive_desc_t pd;
    const dnnl_status_t found = dnnl_primitive_desc_create(&pd, &desc, attr, gemm->engine, NULL);
    dnnl_primitive_attr_destroy(attr);
    if (found != dnnl_success) {
        return FM_OK;
    }
    const dnnl_memory_desc_t *scratch = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    int rc = check(dnnl_primitive_create(&p->primitive, pd), "make a product");
    if (rc == FM_OK) {
        dnnl_memory_create(&p->a, &a, gemm->engine, DNNL_MEMORY_NONE);
        dnnl_memory_create(&p->b, &b, gemm->engine, DNNL_MEMORY_NONE);
        dnnl_memory_create(&p->c, &c, gemm->engine, DNNL_MEMORY_NONE);
        dnnl_memory_create(&p->scratchpad, scratch, gemm->engine, DNNL_MEMORY_NONE);
        rc = grow(&gemm->scratchpad, &gemm->scratchpad_bytes, dnnl_memory_desc_get_size(scratch));
    }
    dnnl_primitive_desc_destroy(pd);
    return rc;
}

static int plan_find(plan **out, fm_gemm *gemm, const fm_gemm_args *g)
{
    plan_key key;
    memset(&key, 0, sizeof key);
    key.m = g->m, key.n = g->n, key.k = g->k, key.lda = g->lda, key.ldb = g->ldb, key.ldc = g->ldc;
    key.in = (int32_t)g->in, key.out = (int32_t)g->out;
    key.trans_a = g->trans_a, key.trans_b = g->trans_b, key.accumulate = g->accumulate;
    memcpy(&key.alpha_bits, &g->alpha, sizeof g->alpha);
    plan *oldest = &gemm->plans[0];
    gemm->clock++;
    for (int i = 0; i < PLANS; i++) {
        plan *p = &gemm->plans[i];
        if (p->last_used > 0 && memcmp(&p->key, &key, sizeof key) == 0) {
            p->last_used = gemm->clock;
            *out = p;
            return FM_OK;
        }
        if (p->last_used < oldest->last_used) {
            oldest = p;
        }
    }
    plan_clear(oldest);
    FM_TRY(plan_make(gemm, oldest, g));
    oldest->key = key;
    oldest->last_used = gemm->clock;
    *out = oldest;
    return FM_OK;
}

static int run_plan(fm_gemm *gemm, plan *p, const fm_gemm_args *g)
{
    dnnl_memory_set_data_handle(p->a, (void *)(uintptr_t)g->a);
    dnnl_memory_set_data_handle(p->b, (void *)(uintptr_t)g->b);
    dnnl_memory_set_data_handle(p->c, g->c);
    dnnl_memory_set_data_handle(p->scratchpad, gemm->scratchpad);
    const dnnl_exec_arg_t args[] = {
        { DNNL_ARG_SRC, p->a }, { DNNL_ARG_WEIGHTS, p->b }, { DNNL_ARG_DST, p->c }, { DNNL_ARG_SCRATCHPAD, p->scratchpad },
    };
    FM_TRY(check(dnnl_primitive_execute(p->primitive, gemm->stream, 4, args), "multiply"));
    return check(dnnl_stream_wait(gemm->stream), "finish a product");
}

#elif defined(HAVE_OPENBLAS)

struct fm_gemm {
    float *wide;
    size_t wide_bytes;
};

const char *fm_gemm_name(void)
{
    return "OpenBLAS";
}

int fm_gemm_open(fm_gemm **out)
{
    *out = fm_alloc(sizeof **out, FM_MEMORY_HOST);
    return *out == NULL ? FM_ERR_MEMORY : FM_OK;
}

void fm_gemm_close(fm_gemm *gemm)
{
    if (gemm != NULL) {
        fm_free(gemm->wide);
        fm_free(gemm);
    }
}

#endif

static int64_t round_up(int64_t n, int64_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Widens rows x columns of a stored matrix. */
static void widen(float *out, const void *in, enum fm_dtype dtype, int64_t rows, int64_t columns, int64_t ld)
{
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        fm_row_load(out + r * columns, fm_at(in, dtype, r * ld), dtype, columns);
    }
}

/* The product of types that the library lacks here: operands widened to fp32, B by chunks of columns. */
static int run_wide(fm_gemm *gemm, const fm_gemm_args *g)
{
    const int64_t chunk = g->n < 2048 ? g->n : 2048;
    const int64_t a_elements = round_up(g->m * g->k, 16), b_elements = round_up(chunk * g->k, 16);
    const size_t wanted = (size_t)(a_elements + b_elements + g->m * chunk) * sizeof(float);
    if (wanted > gemm->wide_bytes) {
        fm_free(gemm->wide);
        gemm->wide_bytes = 0;
        gemm->wide = fm_alloc(wanted, FM_MEMORY_WORKSPACE);
        if (gemm->wide == NULL) {
            return FM_ERR_MEMORY;
        }
        gemm->wide_bytes = wanted;
    }
    float *const a = gemm->wide, *const b = a + a_elements, *const c = b + b_elements;
    const int64_t a_columns = g->trans_a ? g->m : g->k;
    widen(a, g->a, g->in, g->trans_a ? g->k : g->m, a_columns, g->lda);
    for (int64_t n0 = 0; n0 < g->n; n0 += chunk) {
        const int64_t n = g->n - n0 < chunk ? g->n - n0 : chunk;
        const int64_t b_columns = g->trans_b ? g->k : n;
        widen(b, fm_at(g->b, g->in, g->trans_b ? n0 * g->ldb : n0), g->in, g->trans_b ? n : g->k, b_columns, g->ldb);
        sgemm(g->trans_a, g->trans_b, g->m, n, g->k, g->alpha, a, a_columns, b, b_columns, 0.0f, c, n);
#pragma omp parallel for schedule(static)
        for (int64_t r = 0; r < g->m; r++) {
            void *const out = fm_at(g->c, g->out, r * g->ldc + n0);
            if (g->accumulate) {
                float scratch[2048];
                fm_row_add(out, g->out, c + r * n, scratch, n);
            } else {
                fm_row_store(out, g->out, c + r * n, n);
            }
        }
    }
    return FM_OK;
}

/* fp32. The library adds up k products one after the other; runs of DEPTH, added to C, keep the rounding errors of long sums small
 * (SmolLM2's gradients come ten times nearer to fp64's) and cost a few passes over C. */
static void run_f32(const fm_gemm_args *g)
{
    enum { DEPTH = 192 };
    int64_t at = 0;
    do {
        const int64_t k = g->k - at < DEPTH ? g->k - at : DEPTH;
        const float *const a = (const float *)g->a + (g->trans_a ? at * g->lda : at);
        const float *const b = (const float *)g->b + (g->trans_b ? at : at * g->ldb);
        sgemm(g->trans_a, g->trans_b, g->m, g->n, k, g->alpha, a, g->lda, b, g->ldb, g->accumulate || at > 0 ? 1.0f : 0.0f, g->c, g->ldc);
        at += k;
    } while (at < g->k);
}

int fm_gemm_run(fm_gemm *gemm, const fm_gemm_args *args)
{
    fm_gemm_args g = *args;
    if (g.alpha == 0.0f) {
        g.alpha = 1.0f;
    }
    if (g.m == 0 || g.n == 0) {
        return FM_OK;
    }
    if (g.k == 0) {                    /* an empty sum, which the libraries leave alone */
        for (int64_t r = 0; r < g.m && !g.accumulate; r++) {
            memset(fm_at(g.c, g.out, r * g.ldc), 0, (size_t)g.n * fm_dtype_bytes(g.out));
        }
        return FM_OK;
    }
    if (g.in == FM_F32 && g.out == FM_F32) {
        run_f32(&g);
        return FM_OK;
    }
#if defined(HAVE_ONEDNN)
    plan *p;
    FM_TRY(plan_find(&p, gemm, &g));
    if (p->primitive != NULL) {
        return run_plan(gemm, p, &g);
    }
#endif
    return run_wide(gemm, &g);
}
