/* Matrix products by cuBLASLt. A product's algorithm is chosen when its shape first comes and kept. */
#include "ops/gemm_cuda.h"

#include <cublasLt.h>
#include <string.h>

#include "base/crc.h"
#include "ops/rows.h"
#include "tensor/cuda.h"

/* Workspace: what NVIDIA advises for Hopper. CANDIDATES are timed, REPEATS runs each, where the sums need not be the same in every run. */
enum { WORKSPACE_BYTES = 32 << 20, CANDIDATES = 8, REPEATS = 3, BUCKETS = 512 };

/* What makes two products the same to the library. */
typedef struct {
    int in, out, trans_a, trans_b, adds;
    int alignment_a, alignment_b, alignment_c, alignment_d, alignment_bias;   /* c: what is added; bias 0: none */
    int64_t m, n, k, lda, ldb, ldc;
} plan_key;

typedef struct plan plan;
struct plan {
    plan *next;
    plan_key key;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    bool has_bias;                     /* the library adds it */
};

struct fm_cuda_gemm {
    fm_device *device;
    cublasLtHandle_t handle;
    void *workspace;
    plan *buckets[BUCKETS];
};

static int check(cublasStatus_t status, const char *what, const fm_gemm_args *args)
{
    if (status == CUBLAS_STATUS_SUCCESS) {
        return FM_OK;
    }
    return fm_fail(FM_ERR_DEVICE, "cuBLASLt: %s of a product of %lld x %lld x %lld (%s into %s) failed with status %d", what,
                   (long long)args->m, (long long)args->n, (long long)args->k, fm_dtype_name(args->in), fm_dtype_name(args->out),
                   (int)status);
}

static cudaDataType_t type_of(enum fm_dtype dtype)
{
    return dtype == FM_BF16 ? CUDA_R_16BF : dtype == FM_F16 ? CUDA_R_16F : CUDA_R_32F;
}

/* Bytes that an address is a multiple of, as far as kernels care. */
static int alignment_of(const void *pointer)
{
    const uintptr_t low = (uintptr_t)pointer & 255u;
    return low == 0 ? 256 : (int)(low & (~low + 1u));
}

static plan_key key_of(const fm_gemm_args *g)
{
    plan_key key;
    memset(&key, 0, sizeof key);       /* compared and hashed as bytes */
    key.in = (int)g->in, key.out = (int)g->out, key.trans_a = g->trans_a, key.trans_b = g->trans_b;
    key.adds = g->accumulate || g->addend != NULL;
    key.alignment_a = alignment_of(g->a), key.alignment_b = alignment_of(g->b), key.alignment_d = alignment_of(g->c);
    key.alignment_c = g->addend != NULL ? alignment_of(g->addend) : key.alignment_d;
    key.alignment_bias = g->bias != NULL ? alignment_of(g->bias) : 0;
    key.m = g->m, key.n = g->n, key.k = g->k, key.lda = g->lda, key.ldb = g->ldb, key.ldc = g->ldc;
    return key;
}

static unsigned bucket_of(const plan_key *key)
{
    return fm_crc32(0, key, sizeof *key) % BUCKETS;
}

static void destroy_plan(plan *p)
{
    if (p == NULL) {
        return;
    }
    if (p->operation != NULL) {
        cublasLtMatmulDescDestroy(p->operation);
    }
    cublasLtMatrixLayout_t const layouts[] = { p->a, p->b, p->c };
    for (int i = 0; i < 3; i++) {
        if (layouts[i] != NULL) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
    }
    fm_free(p);
}

/* cuBLASLt's matrices are column-major: our row-major C = A B is its C^T = B^T A^T, with each matrix read as its own transpose. So its
 * first operand is our B, and its m is our n. */
static int describe(plan *p, const fm_gemm_args *g)
{
    const cublasOperation_t first = g->trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, second = g->trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
    FM_TRY(check(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describing", g));
    FM_TRY(check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first), "describing", g));
    FM_TRY(check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second), "describing", g));
    const uint64_t n = (uint64_t)g->n, m = (uint64_t)g->m, k = (uint64_t)g->k;
    FM_TRY(check(cublasLtMatrixLayoutCreate(&p->b, type_of(g->in), g->trans_b ? k : n, g->trans_b ? n : k, g->ldb), "describing", g));
    FM_TRY(check(cublasLtMatrixLayoutCreate(&p->a, type_of(g->in), g->trans_a ? m : k, g->trans_a ? k : m, g->lda), "describing", g));
    return check(cublasLtMatrixLayoutCreate(&p->c, type_of(g->out), n, m, g->ldc), "describing", g);
}

static int set_preferences(cublasLtMatmulPreference_t wanted, const plan_key *key, const fm_gemm_args *g, bool deterministic)
{
    const uint64_t workspace_bytes = WORKSPACE_BYTES;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        uint32_t bytes;
    } alignments[] = {
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, (uint32_t)key->alignment_b },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, (uint32_t)key->alignment_a },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, (uint32_t)key->alignment_c },
        { CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, (uint32_t)key->alignment_d },
    };
    FM_TRY(check(cublasLtMatmulPreferenceSetAttribute(wanted, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                                      sizeof workspace_bytes), "choosing an algorithm", g));
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0]; i++) {
        FM_TRY(check(cublasLtMatmulPreferenceSetAttribute(wanted, alignments[i].attribute, &alignments[i].bytes,
                                                          sizeof alignments[i].bytes), "choosing an algorithm", g));
    }
    if (deterministic) {
        /* no sums in several parts */
        const uint32_t schemes = CUBLASLT_REDUCTION_SCHEME_NONE;
        FM_TRY(check(cublasLtMatmulPreferenceSetAttribute(wanted, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes, sizeof schemes),
                     "choosing an algorithm", g));
    }
    return FM_OK;
}

static cublasStatus_t multiply(const fm_cuda_gemm *gemm, const plan *p, const cublasLtMatmulAlgo_t *algorithm, const fm_gemm_args *g,
                               void *out)
{
    const float alpha = g->alpha == 0.0f ? 1.0f : g->alpha, beta = p->key.adds ? 1.0f : 0.0f;
    if (p->has_bias) {
        const cublasStatus_t status = cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                                                                     sizeof g->bias);
        if (status != CUBLAS_STATUS_SUCCESS) {
            return status;
        }
    }
    return cublasLtMatmul(gemm->handle, p->operation, &alpha, g->b, p->b, g->a, p->a, &beta, g->addend != NULL ? g->addend : out, p->c, out,
                          p->c, algorithm, gemm->workspace, WORKSPACE_BYTES, fm_cuda_of(gemm->device)->stream);
}

/* Milliseconds of one product by an algorithm, into `out`. */
static int time_one(float *ms, const fm_cuda_gemm *gemm, const plan *p, const cublasLtMatmulAlgo_t *algorithm, const fm_gemm_args *g,
                    void *out, cudaEvent_t events[2])
{
    const fm_cuda *const cuda = fm_cuda_of(gemm->device);
    FM_TRY(check(multiply(gemm, p, algorithm, g, out), "timing", g));
    FM_TRY(fm_cuda_check(cudaEventRecord(events[0], cuda->stream), "an event"));
    for (int i = 0; i < REPEATS; i++) {
        FM_TRY(check(multiply(gemm, p, algorithm, g, out), "timing", g));
    }
    FM_TRY(fm_cuda_check(cudaEventRecord(events[1], cuda->stream), "an event"));
    FM_TRY(fm_cuda_wait_event(cuda, events[1], "a product, or what was queued before it,"));
    return fm_cuda_check(cudaEventElapsedTime(ms, events[0], events[1]), "timing a product");
}

/* The index of the fastest candidate. The products go to memory of their own: C may be summed into. */
static int fastest(int *best, const fm_cuda_gemm *gemm, const plan *p, const cublasLtMatmulHeuristicResult_t *found, int n,
                   const fm_gemm_args *g)
{
    const size_t bytes = (size_t)(g->m * g->ldc) * fm_dtype_bytes(g->out);
    cudaEvent_t events[2] = { NULL, NULL };
    float least_ms = 0.0f;
    *best = 0;
    void *const out = fm_device_alloc(gemm->device, bytes, FM_MEMORY_WORKSPACE);
    if (out == NULL) {
        return FM_OK;                  /* no room to try: the library's first choice */
    }
    int rc = fm_cuda_check(cudaEventCreate(&events[0]), "making an event");
    rc = rc < 0 ? rc : fm_cuda_check(cudaEventCreate(&events[1]), "making an event");
    for (int i = 0; i < n && rc == FM_OK; i++) {
        float ms = 0.0f;
        rc = time_one(&ms, gemm, p, &found[i].algo, g, out, events);
        if (rc == FM_OK && (i == 0 || ms < least_ms)) {
            least_ms = ms;
            *best = i;
        }
    }
    for (int i = 0; i < 2; i++) {
        if (events[i] != NULL) {
            cudaEventDestroy(events[i]);
        }
    }
    fm_device_free(gemm->device, out);
    return rc;
}

/* With the bias or without; the pointer is set before candidates are asked for, as their kernels may depend on its alignment. */
static int set_epilogue(plan *p, const fm_gemm_args *g, bool has_bias)
{
    const cublasLtEpilogue_t epilogue = has_bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
    p->has_bias = has_bias;
    FM_TRY(check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue), "describing", g));
    return !has_bias ? FM_OK : check(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &g->bias,
                                                                    sizeof g->bias), "describing", g);
}

/* The library's candidates, best first; none is no error. */
static int find_candidates(cublasLtMatmulHeuristicResult_t found[CANDIDATES], int *n, const plan *p, const fm_cuda_gemm *gemm,
                           const fm_gemm_args *g)
{
    const bool deterministic = fm_cuda_of(gemm->device)->deterministic;
    cublasLtMatmulPreference_t wanted = NULL;
    *n = 0;
    int rc = check(cublasLtMatmulPreferenceCreate(&wanted), "choosing an algorithm", g);
    if (rc == FM_OK) {
        rc = set_preferences(wanted, &p->key, g, deterministic);
    }
    if (rc == FM_OK) {
        const cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(gemm->handle, p->operation, p->b, p->a, p->c, p->c, wanted,
                                                                     deterministic ? 1 : CANDIDATES, found, n);
        rc = status == CUBLAS_STATUS_NOT_SUPPORTED ? FM_OK : check(status, "choosing an algorithm", g);
    }
    if (wanted != NULL) {
        cublasLtMatmulPreferenceDestroy(wanted);
    }
    return rc;
}

static int choose(plan *p, const fm_cuda_gemm *gemm, const fm_gemm_args *g)
{
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int n = 0, best = 0;
    FM_TRY(set_epilogue(p, g, g->bias != NULL));
    FM_TRY(find_candidates(found, &n, p, gemm, g));
    if (n == 0 && g->bias != NULL) {
        FM_TRY(set_epilogue(p, g, false));
        FM_TRY(find_candidates(found, &n, p, gemm, g));
    }
    if (n == 0) {
        return check(CUBLAS_STATUS_NOT_SUPPORTED, "choosing an algorithm", g);
    }
    if (n > 1) {
        FM_TRY(fastest(&best, gemm, p, found, n, g));
    }
    p->algorithm = found[best].algo;
    return FM_OK;
}

static int find_plan(const plan **out, fm_cuda_gemm *gemm, const fm_gemm_args *g)
{
    const plan_key key = key_of(g);
    plan **const bucket = &gemm->buckets[bucket_of(&key)];
    for (plan *p = *bucket; p != NULL; p = p->next) {
        if (memcmp(&p->key, &key, sizeof key) == 0) {
            *out = p;
            return FM_OK;
        }
    }
    plan *const p = fm_alloc(sizeof *p, FM_MEMORY_HOST);
    if (p == NULL) {
        return FM_ERR_MEMORY;
    }
    p->key = key;
    int rc = describe(p, g);
    if (rc == FM_OK) {
        rc = choose(p, gemm, g);
    }
    if (rc < 0) {
        destroy_plan(p);
        return rc;
    }
    p->next = *bucket;
    *bucket = p;
    *out = p;
    return FM_OK;
}

int fm_cuda_gemm_open(fm_cuda_gemm **out, fm_device *device)
{
    fm_cuda_gemm *const gemm = fm_alloc(sizeof *gemm, FM_MEMORY_HOST);
    *out = gemm;
    if (gemm == NULL) {
        return FM_ERR_MEMORY;
    }
    gemm->device = device;
    gemm->workspace = fm_device_alloc(device, WORKSPACE_BYTES, FM_MEMORY_WORKSPACE);
    const cublasStatus_t status = gemm->workspace == NULL ? CUBLAS_STATUS_ALLOC_FAILED : cublasLtCreate(&gemm->handle);
    if (status == CUBLAS_STATUS_SUCCESS) {
        return FM_OK;
    }
    const int rc = gemm->workspace == NULL ? FM_ERR_MEMORY : fm_fail(FM_ERR_DEVICE, "cuBLASLt cannot be opened: status %d", (int)status);
    fm_cuda_gemm_close(gemm);
    *out = NULL;
    return rc;
}

void fm_cuda_gemm_close(fm_cuda_gemm *gemm)
{
    if (gemm == NULL) {
        return;
    }
    for (int i = 0; i < BUCKETS; i++) {
        for (plan *p = gemm->buckets[i], *next; p != NULL; p = next) {
            next = p->next;
            destroy_plan(p);
        }
    }
    if (gemm->handle != NULL) {
        cublasLtDestroy(gemm->handle);
    }
    fm_device_free(gemm->device, gemm->workspace);
    fm_free(gemm);
}

/* C = a sum of nothing, which the library refuses, and the addend. */
static int clear(const fm_cuda_gemm *gemm, const fm_gemm_args *g)
{
    const size_t bytes = (size_t)g->n * fm_dtype_bytes(g->out);
    for (int64_t row = 0; row < g->m; row++) {
        void *const c = fm_at(g->c, g->out, row * g->ldc);
        FM_TRY(g->addend == NULL ? fm_device_zero(gemm->device, c, bytes)
                                 : fm_device_copy(gemm->device, c, fm_at(g->addend, g->out, row * g->ldc), bytes));
    }
    return FM_OK;
}

int fm_cuda_gemm_run(bool *has_bias, fm_cuda_gemm *gemm, const fm_gemm_args *args)
{
    const plan *p;
    *has_bias = false;
    if (args->m == 0 || args->n == 0) {
        return FM_OK;
    }
    if (args->k == 0) {
        return args->accumulate ? FM_OK : clear(gemm, args);
    }
    FM_TRY(find_plan(&p, gemm, args));
    *has_bias = p->has_bias;
    return check(multiply(gemm, p, &p->algorithm, args, args->c), "computing", args);
}
