/* libcublasLt's part that finemesh uses: plain loops over the double's device memory. What the true library refuses is refused. */
#include "cublasLt.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "cuda_double.h"
#include "numbers.h"
#include "settings.h"

struct cublasLtContext {
    int unused;
};

struct cublasLtMatrixLayoutOpaque {
    cudaDataType type;
    cublasLtOrder_t order;
    uint64_t rows, columns;
    int64_t ld;
    int32_t batches;
};

struct cublasLtMatmulDescOpaque {
    cublasComputeType_t compute;
    cudaDataType scale, bias_type;
    cublasOperation_t trans_a, trans_b;
    cublasLtPointerMode_t pointer_mode;
    uint32_t epilogue;
    void *bias, *aux;
    int64_t aux_ld;
};

struct cublasLtMatmulPreferenceOpaque {
    uint64_t workspace_bytes;
    uint32_t alignment[4];             /* promised, of A, B, C, D */
};

size_t cublasLtGetVersion(void)
{
    return 130000;
}

const char *cublasLtGetStatusName(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "CUBLAS_STATUS_SUCCESS";
    case CUBLAS_STATUS_ALLOC_FAILED: return "CUBLAS_STATUS_ALLOC_FAILED";
    case CUBLAS_STATUS_INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "CUBLAS_STATUS_EXECUTION_FAILED";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "CUBLAS_STATUS_NOT_SUPPORTED";
    default: return "CUBLAS_STATUS_INTERNAL_ERROR";
    }
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return cublasLtGetStatusName(status);
}

static cublasStatus_t give(void **out, const void *value, size_t size)
{
    *out = malloc(size);
    if (*out == NULL) {
        return CUBLAS_STATUS_ALLOC_FAILED;
    }
    memcpy(*out, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle)
{
    return give((void **)handle, &(struct cublasLtContext){ 0 }, sizeof **handle);
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    free(handle);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows, uint64_t columns,
                                          int64_t ld)
{
    const struct cublasLtMatrixLayoutOpaque made = { .type = type, .rows = rows, .columns = columns, .ld = ld, .batches = 1 };
    return give((void **)layout, &made, sizeof made);
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    free(layout);
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t set(void *field, size_t field_size, const void *value, size_t size)
{
    if (size != field_size) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    memcpy(field, value, size);
    return CUBLAS_STATUS_SUCCESS;
}

#define SET(field) set(&(field), sizeof(field), value, size)

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void *value, size_t size)
{
    switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_TYPE: return SET(layout->type);
    case CUBLASLT_MATRIX_LAYOUT_ORDER: return SET(layout->order);
    case CUBLASLT_MATRIX_LAYOUT_ROWS: return SET(layout->rows);
    case CUBLASLT_MATRIX_LAYOUT_COLS: return SET(layout->columns);
    case CUBLASLT_MATRIX_LAYOUT_LD: return SET(layout->ld);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return SET(layout->batches);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t compute, cudaDataType scale)
{
    const struct cublasLtMatmulDescOpaque made = { .compute = compute, .scale = scale, .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                                                   .bias_type = (cudaDataType)-1 };
    return give((void **)desc, &made, sizeof made);
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc)
{
    free(desc);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t attribute, const void *value,
                                              size_t size)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_COMPUTE_TYPE: return SET(desc->compute);
    case CUBLASLT_MATMUL_DESC_SCALE_TYPE: return SET(desc->scale);
    case CUBLASLT_MATMUL_DESC_POINTER_MODE: return SET(desc->pointer_mode);
    case CUBLASLT_MATMUL_DESC_TRANSA: return SET(desc->trans_a);
    case CUBLASLT_MATMUL_DESC_TRANSB: return SET(desc->trans_b);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return SET(desc->epilogue);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return SET(desc->bias);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: return SET(desc->bias_type);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return SET(desc->aux);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return SET(desc->aux_ld);
    case CUBLASLT_MATMUL_DESC_SM_COUNT_TARGET: return CUBLAS_STATUS_SUCCESS;
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference)
{
    const struct cublasLtMatmulPreferenceOpaque made = { .alignment = { 256, 256, 256, 256 } };
    return give((void **)preference, &made, sizeof made);
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    free(preference);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void *value, size_t size)
{
    uint32_t ignored;
    switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return SET(preference->workspace_bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES: return SET(preference->alignment[0]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES: return SET(preference->alignment[1]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES: return SET(preference->alignment[2]);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES: return SET(preference->alignment[3]);
    case CUBLASLT_MATMUL_PREF_SEARCH_MODE:
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return SET(ignored);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

/* ---- the product ---- */

static size_t type_bytes(cudaDataType type)
{
    return type == CUDA_R_32F ? 4 : 2;
}

static float load(const void *from, cudaDataType type, int64_t at)
{
    return type == CUDA_R_32F ? ((const float *)from)[at] : type == CUDA_R_16BF ? from_bf16(((const uint16_t *)from)[at])
                                                                               : from_f16(((const uint16_t *)from)[at]);
}

static void store(void *to, cudaDataType type, int64_t at, float value)
{
    if (type == CUDA_R_32F) {
        ((float *)to)[at] = value;
    } else {
        ((uint16_t *)to)[at] = type == CUDA_R_16BF ? to_bf16(value) : to_f16(value);
    }
}

static int64_t place(const struct cublasLtMatrixLayoutOpaque *l, int64_t row, int64_t column)
{
    return l->order == CUBLASLT_ORDER_ROW ? row * l->ld + column : row + column * l->ld;
}

/* From the first element to the last. */
static size_t layout_bytes(const struct cublasLtMatrixLayoutOpaque *l)
{
    return l->rows == 0 || l->columns == 0 ? 0 : (size_t)(place(l, (int64_t)l->rows - 1, (int64_t)l->columns - 1) + 1) * type_bytes(l->type);
}

static bool is_layout(const struct cublasLtMatrixLayoutOpaque *l)
{
    const bool known = l->type == CUDA_R_32F || l->type == CUDA_R_16F || l->type == CUDA_R_16BF;
    return known && l->batches == 1 && l->ld >= (int64_t)(l->order == CUBLASLT_ORDER_ROW ? l->columns : l->rows);
}

/* The types that go together, and the shapes; epilogues only over column-major results. */
static cublasStatus_t check(const struct cublasLtMatmulDescOpaque *desc, const struct cublasLtMatrixLayoutOpaque *a,
                            const struct cublasLtMatrixLayoutOpaque *b, const struct cublasLtMatrixLayoutOpaque *c,
                            const struct cublasLtMatrixLayoutOpaque *d)
{
    const uint64_t m = desc->trans_a == CUBLAS_OP_N ? a->rows : a->columns, k = desc->trans_a == CUBLAS_OP_N ? a->columns : a->rows;
    const uint64_t n = desc->trans_b == CUBLAS_OP_N ? b->columns : b->rows, k_b = desc->trans_b == CUBLAS_OP_N ? b->rows : b->columns;
    if (!is_layout(a) || !is_layout(b) || !is_layout(c) || !is_layout(d) || k != k_b || c->rows != m || d->rows != m ||
        c->columns != n || d->columns != n || c->order != d->order) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const bool compute = desc->compute == CUBLAS_COMPUTE_32F || desc->compute == CUBLAS_COMPUTE_32F_PEDANTIC ||
                         desc->compute == CUBLAS_COMPUTE_32F_FAST_TF32;
    const uint32_t known = CUBLASLT_EPILOGUE_DEFAULT | CUBLASLT_EPILOGUE_GELU_AUX_BIAS;
    const bool types = a->type == b->type && c->type == d->type && (d->type == a->type || d->type == CUDA_R_32F);
    if (!compute || desc->scale != CUDA_R_32F || !types || (desc->epilogue & ~known) != 0 ||
        desc->pointer_mode != CUBLASLT_POINTER_MODE_HOST) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    if (desc->epilogue != CUBLASLT_EPILOGUE_DEFAULT && d->order != CUBLASLT_ORDER_COL) {
        return CUBLAS_STATUS_NOT_SUPPORTED;
    }
    const bool has_aux = (desc->epilogue & 128) != 0;
    return has_aux && (desc->aux == NULL || desc->aux_ld % 8 != 0) ? CUBLAS_STATUS_INVALID_VALUE : CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t results[], int *n_results)
{
    (void)handle;
    *n_results = 0;
    if (wanted < 1) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    const cublasStatus_t status = check(desc, a, b, c, d);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    if (desc->epilogue & CUBLASLT_EPILOGUE_BIAS && (uintptr_t)desc->bias % 16 != 0) {
        return CUBLAS_STATUS_NOT_SUPPORTED;   /* stricter than the library may be: there is another way for such a bias, which must work */
    }
    results[0] = (cublasLtMatmulHeuristicResult_t){ .state = CUBLAS_STATUS_SUCCESS, .wavesCount = 1.0f };
    for (int i = 0; i < 4; i++) {
        results[0].algo.data[i] = preference == NULL ? 256 : preference->alignment[i];
    }
    results[0].workspaceSize = preference == NULL || preference->workspace_bytes > 256 ? 256 : preference->workspace_bytes;
    results[0].algo.data[4] = results[0].workspaceSize;
    *n_results = 1;
    return CUBLAS_STATUS_SUCCESS;
}

/* One queued product, with all that it needs. */
typedef struct {
    struct cublasLtMatmulDescOpaque desc;
    struct cublasLtMatrixLayoutOpaque a_layout, b_layout, c_layout, d_layout;
    float alpha, beta;
    const void *a, *b, *c;
    void *d;
} product;

static float gelu(float x)
{
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
}

static void store_row(const product *p, int64_t i, int64_t n, const float *sums)
{
    const cudaDataType bias_type = p->desc.bias_type == (cudaDataType)-1 ? p->d_layout.type : p->desc.bias_type;
    for (int64_t j = 0; j < n; j++) {
        float value = p->alpha * sums[j];
        if (p->beta != 0.0f) {
            value += p->beta * load(p->c, p->c_layout.type, place(&p->c_layout, i, j));
        }
        if (p->desc.epilogue & CUBLASLT_EPILOGUE_BIAS) {
            value += load(p->desc.bias, bias_type, i);
        }
        if (p->desc.epilogue & 128) {
            store(p->desc.aux, p->d_layout.type, i + j * p->desc.aux_ld, value);
        }
        value = p->desc.epilogue & CUBLASLT_EPILOGUE_GELU ? gelu(value) : value;
        value = p->desc.epilogue & CUBLASLT_EPILOGUE_RELU && value < 0.0f ? 0.0f : value;
        store(p->d, p->d_layout.type, place(&p->d_layout, i, j), value);
    }
}

/* op(B) as [k, n] in fp32, so that the inner loop runs over memory in order. */
static void unpack_b(const product *p, float *to, int64_t k, int64_t n)
{
    const bool turned = p->desc.trans_b != CUBLAS_OP_N;
    for (int64_t l = 0; l < k; l++) {
        for (int64_t j = 0; j < n; j++) {
            to[l * n + j] = load(p->b, p->b_layout.type, turned ? place(&p->b_layout, j, l) : place(&p->b_layout, l, j));
        }
    }
}

static void multiply(void *arguments)
{
    product *const p = arguments;
    const bool turned = p->desc.trans_a != CUBLAS_OP_N;
    const int64_t m = (int64_t)p->d_layout.rows, n = (int64_t)p->d_layout.columns;
    const int64_t k = (int64_t)(turned ? p->a_layout.rows : p->a_layout.columns);
    float *const b = malloc(((size_t)k * (size_t)n + (size_t)n + 1) * sizeof *b);
    if (b == NULL) {
        fprintf(stderr, "cublasLt double: out of memory\n");
        abort();
    }
    float *const sums = b + k * n;
    unpack_b(p, b, k, n);
    for (int64_t i = 0; i < m; i++) {
        memset(sums, 0, (size_t)n * sizeof *sums);
        for (int64_t l = 0; l < k; l++) {
            const float a = load(p->a, p->a_layout.type, turned ? place(&p->a_layout, l, i) : place(&p->a_layout, i, l));
            for (int64_t j = 0; j < n; j++) {
                sums[j] += a * b[l * n + j];
            }
        }
        store_row(p, i, n, sums);
    }
    free(b);
    free(p);
}

static bool is_there(const char *name, const void *pointer, const struct cublasLtMatrixLayoutOpaque *layout, uint64_t alignment)
{
    const size_t bytes = layout_bytes(layout);
    if (bytes > 0 && !cuda_double_is_device(pointer, bytes)) {
        fprintf(stderr, "cublasLt double: %s is not %zu bytes of device memory\n", name, bytes);
        return false;
    }
    if (bytes > 0 && alignment > 0 && (uintptr_t)pointer % alignment != 0) {
        fprintf(stderr, "cublasLt double: %s is not aligned to the %d bytes that the algorithm was asked for\n", name, (int)alignment);
        return false;
    }
    return true;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout, const void *beta,
                              const void *c, cublasLtMatrixLayout_t c_layout, void *d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algo, void *workspace, size_t workspace_bytes, cudaStream_t stream)
{
    static long n_calls;
    (void)handle;
    const int failure = setting_failure("FM_DOUBLE_FAIL", "cublasLtMatmul", &n_calls);
    const cublasStatus_t status = failure != 0 ? (cublasStatus_t)failure : check(desc, a_layout, b_layout, c_layout, d_layout);
    if (status != CUBLAS_STATUS_SUCCESS) {
        return status;
    }
    const product p = { .desc = *desc, .a_layout = *a_layout, .b_layout = *b_layout, .c_layout = *c_layout, .d_layout = *d_layout,
                        .alpha = *(const float *)alpha, .beta = *(const float *)beta, .a = a, .b = b, .c = c, .d = d };
    const uint64_t none[5] = { 0 }, *const promised = algo == NULL ? none : algo->data;
    if (!is_there("A", a, a_layout, promised[0]) || !is_there("B", b, b_layout, promised[1]) || !is_there("D", d, d_layout, promised[3]) ||
        (p.beta != 0.0f && !is_there("C", c, c_layout, promised[2])) || workspace_bytes < promised[4] ||
        (workspace_bytes > 0 && !cuda_double_is_device(workspace, workspace_bytes)) ||
        (desc->epilogue & CUBLASLT_EPILOGUE_BIAS && !cuda_double_is_device(desc->bias, (size_t)d_layout->rows * 2))) {
        return CUBLAS_STATUS_INVALID_VALUE;
    }
    void *queued;
    const cublasStatus_t given = give(&queued, &p, sizeof p);
    if (given != CUBLAS_STATUS_SUCCESS) {
        return given;
    }
    return cuda_double_enqueue(stream, multiply, queued) == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
