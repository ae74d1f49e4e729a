/* The double of the CUDA runtime: it must show what it is there to show. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "cublasLt.h"
#include "cuda_double.h"

typedef int case_fn(void);

/* In a process of its own, as the settings are read once. Returns what the case returns. */
static int in_process(const char *variable, const char *value, case_fn *run)
{
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);      /* cmocka's own would go on with the next test */
        signal(SIGABRT, SIG_DFL);
        setenv(variable, value, 1);
        _exit(run());
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

/* A number on the device, a stream that sets it to 1 and a second that copies it to `*out`. */
typedef struct {
    cudaStream_t first, second;
    cudaEvent_t event;
    char *number, *copied;
} setup;

static setup make(void)
{
    setup s;
    if (cudaStreamCreateWithFlags(&s.first, cudaStreamNonBlocking) != cudaSuccess || cudaStreamCreate(&s.second) != cudaSuccess ||
        cudaEventCreateWithFlags(&s.event, cudaEventDisableTiming) != cudaSuccess ||
        cudaMalloc((void **)&s.number, 1) != cudaSuccess || cudaMallocHost((void **)&s.copied, 1) != cudaSuccess) {
        _exit(99);
    }
    cudaMemsetAsync(s.number, 7, 1, s.first);
    cudaStreamSynchronize(s.first);
    return s;
}

/* The second stream reads what the first has written; `waits` says whether it waits for that. */
static int read_after_write(bool waits)
{
    const setup s = make();
    cudaMemsetAsync(s.number, 1, 1, s.first);
    cudaEventRecord(s.event, s.first);
    if (waits) {
        cudaStreamWaitEvent(s.second, s.event, 0);
    }
    cudaMemcpyAsync(s.copied, s.number, 1, cudaMemcpyDeviceToHost, s.second);
    if (*s.copied == 1) {
        return 50;                     /* before anybody has waited */
    }
    cudaStreamSynchronize(s.second);
    return *s.copied;
}

static int with_event(void)
{
    return read_after_write(true);
}

static int without_event(void)
{
    return read_after_write(false);
}

/* The second stream writes what the first still has to read. */
static int write_after_read(bool waits)
{
    const setup s = make();
    cudaMemcpyAsync(s.copied, s.number, 1, cudaMemcpyDeviceToHost, s.first);
    cudaEventRecord(s.event, s.first);
    if (waits) {
        cudaStreamWaitEvent(s.second, s.event, 0);
    }
    cudaMemsetAsync(s.number, 1, 1, s.second);
    cudaStreamSynchronize(s.second);
    cudaStreamSynchronize(s.first);
    return *s.copied;
}

static int overwritten(void)
{
    return write_after_read(false);
}

static int not_overwritten(void)
{
    return write_after_read(true);
}

static void a_forgotten_wait_gives_wrong_numbers(void **state)
{
    (void)state;
    static const char *const orders[] = { "late", "early", "1", "2" };
    for (int i = 0; i < 4; i++) {
        assert_int_equal(in_process("FM_DOUBLE_STREAMS", orders[i], with_event), 1);
        assert_int_equal(in_process("FM_DOUBLE_STREAMS", orders[i], not_overwritten), 7);
    }
    assert_int_equal(in_process("FM_DOUBLE_STREAMS", "late", without_event), 7);
    assert_int_equal(in_process("FM_DOUBLE_STREAMS", "late", overwritten), 1);
}

static int read_by_host(void)
{
    const setup s = make();
    return *s.number == 7 ? 1 : 2;
}

static void the_host_cannot_read_device_memory(void **state)
{
    (void)state;
    assert_int_equal(in_process("FM_DOUBLE_PROTECT", "0", read_by_host), 1);
    assert_true(in_process("FM_DOUBLE_PROTECT", "1", read_by_host) > 2);
}

static bool never_done(void *arguments)
{
    (void)arguments;
    return false;
}

/* What is on its way lends device memory out: an allocation beside it must not close it. */
static int read_what_is_on_its_way(void)
{
    const setup s = make();
    void *other;
    cuda_double_enqueue_poll(s.first, never_done, NULL);
    cudaStreamQuery(s.first);
    return cudaMalloc(&other, 1) == cudaSuccess && *s.number == 7 ? 1 : 2;
}

static void what_is_on_its_way_stays_open(void **state)
{
    (void)state;
    assert_int_equal(in_process("FM_DOUBLE_PROTECT", "1", read_what_is_on_its_way), 1);
}

static int write_behind(void)
{
    const setup s = make();
    s.number[1] = 1;
    cudaFree(s.number);
    return 0;
}

static void a_write_behind_the_end_is_seen(void **state)
{
    (void)state;
    assert_int_equal(in_process("FM_DOUBLE_DEVICES", "1", write_behind), 106);   /* SIGABRT */
}

static int memory_ends(void)
{
    void *pointer;
    size_t free_bytes, total_bytes;
    const bool refused = cudaMalloc(&pointer, 3 << 20) == cudaErrorMemoryAllocation && cudaMalloc(&pointer, 2 << 20) == cudaSuccess &&
                         cudaMalloc(&pointer, 1) == cudaErrorMemoryAllocation;
    return refused && cudaMemGetInfo(&free_bytes, &total_bytes) == cudaSuccess && free_bytes == 0 && total_bytes == 2 << 20 ? 1 : 0;
}

static int has_no_driver(void)
{
    int n = 17;
    return cudaGetDeviceCount(&n) == cudaErrorInsufficientDriver && n == 17 ? 1 : 0;
}

static int has_three_devices(void)
{
    int n = 0;
    struct cudaDeviceProp properties;
    return cudaGetDeviceCount(&n) == cudaSuccess && n == 3 && cudaSetDevice(2) == cudaSuccess && cudaSetDevice(3) != cudaSuccess &&
           cudaGetLastError() == cudaErrorInvalidDevice && cudaGetLastError() == cudaSuccess &&
           cudaGetDeviceProperties(&properties, 2) == cudaSuccess && properties.major == 9 ? 1 : 0;
}

static int second_copy_fails(void)
{
    const setup s = make();
    const cudaError_t first = cudaMemcpyAsync(s.number, "a", 1, cudaMemcpyHostToDevice, s.first);
    return first == cudaSuccess && cudaMemcpyAsync(s.number, "b", 1, cudaMemcpyHostToDevice, s.first) == cudaErrorIllegalAddress &&
           cudaMemcpyAsync(s.number, "c", 1, cudaMemcpyHostToDevice, s.first) == cudaSuccess ? 1 : 0;
}

static int what_runs_fails(void)
{
    const setup s = make();                                  /* runs one operation */
    cudaMemsetAsync(s.number, 1, 1, s.first);
    const cudaError_t at_end = cudaStreamSynchronize(s.first);
    return at_end == cudaErrorIllegalAddress && cudaMemsetAsync(s.number, 1, 1, s.first) == cudaErrorIllegalAddress ? 1 : 0;
}

static void settings_are_obeyed(void **state)
{
    (void)state;
    assert_int_equal(in_process("FM_DOUBLE_MEMORY_MIB", "2", memory_ends), 1);
    assert_int_equal(in_process("FM_DOUBLE_DRIVER", "0", has_no_driver), 1);
    assert_int_equal(in_process("FM_DOUBLE_DEVICES", "3", has_three_devices), 1);
    assert_int_equal(in_process("FM_DOUBLE_FAIL", "cudaMemcpyAsync@2=700", second_copy_fails), 1);
    assert_int_equal(in_process("FM_DOUBLE_FAIL", "run@2=700", what_runs_fails), 1);
}

static void copies_know_where_memory_lies(void **state)
{
    (void)state;
    const setup s = make();
    char here[2] = { 3, 4 };
    assert_int_equal(cudaMemcpyAsync(here, here + 1, 1, cudaMemcpyHostToDevice, s.first), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(s.number, here, 2, cudaMemcpyHostToDevice, s.first), cudaErrorInvalidValue);
    assert_int_equal(cudaMemcpyAsync(s.number, here, 1, cudaMemcpyHostToDevice, s.first), cudaSuccess);
    here[0] = 5;                       /* pageable memory was read at once, pinned memory is not yet */
    assert_int_equal(cudaMemcpyAsync(here + 1, s.number, 1, cudaMemcpyDeviceToHost, s.first), cudaSuccess);
    assert_int_equal(here[1], 3);
    *s.copied = 6;
    assert_int_equal(cudaMemcpyAsync(s.number, s.copied, 1, cudaMemcpyHostToDevice, s.first), cudaSuccess);
    *s.copied = 8;
    assert_int_equal(cudaMemcpyAsync(here + 1, s.number, 1, cudaMemcpyDeviceToHost, s.first), cudaSuccess);
    assert_int_equal(here[1], 8);
    cudaEventDestroy(s.event);
}

/* C[2, 3] = A[2, 2] B[2, 3] in every order of A, B and C. */
static void products_in_every_order(void **state)
{
    (void)state;
    static const float a[2][2] = { { 1, 2 }, { 3, 4 } }, b[2][3] = { { 1, 0, 2 }, { 0, 1, 3 } };
    static const float expected[2][3] = { { 1, 2, 8 }, { 3, 4, 18 } };
    cublasLtHandle_t handle;
    assert_int_equal(cublasLtCreate(&handle), CUBLAS_STATUS_SUCCESS);
    float *device, found[6];
    assert_int_equal(cudaMalloc((void **)&device, 64 * sizeof(float)), cudaSuccess);
    for (int bits = 0; bits < 32; bits++) {
        const cublasLtOrder_t order[3] = { (cublasLtOrder_t)(bits & 1), (cublasLtOrder_t)(bits >> 1 & 1), (cublasLtOrder_t)(bits >> 2 & 1) };
        const cublasOperation_t trans[2] = { (cublasOperation_t)(bits >> 3 & 1), (cublasOperation_t)(bits >> 4 & 1) };
        float host[64];
        for (int i = 0; i < 2; i++) {
            for (int j = 0; j < 2; j++) {
                host[(order[0] == CUBLASLT_ORDER_ROW) == (trans[0] == CUBLAS_OP_N) ? 2 * i + j : 2 * j + i] = a[i][j];
            }
            for (int j = 0; j < 3; j++) {
                host[8 + ((order[1] == CUBLASLT_ORDER_ROW) == (trans[1] == CUBLAS_OP_N) ? 3 * i + j : 2 * j + i)] = b[i][j];
            }
        }
        cudaMemcpy(device, host, sizeof host, cudaMemcpyHostToDevice);
        cublasLtMatrixLayout_t layouts[3];
        const int sizes[3][2] = { { 2, 2 }, { trans[1] ? 3 : 2, trans[1] ? 2 : 3 }, { 2, 3 } };
        for (int i = 0; i < 3; i++) {
            const int64_t ld = sizes[i][order[i] == CUBLASLT_ORDER_ROW];
            cublasLtMatrixLayoutCreate(&layouts[i], CUDA_R_32F, (uint64_t)sizes[i][0], (uint64_t)sizes[i][1], ld);
            cublasLtMatrixLayoutSetAttribute(layouts[i], CUBLASLT_MATRIX_LAYOUT_ORDER, &order[i], sizeof order[i]);
        }
        cublasLtMatmulDesc_t desc;
        cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F);
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSA, &trans[0], sizeof trans[0]);
        cublasLtMatmulDescSetAttribute(desc, CUBLASLT_MATMUL_DESC_TRANSB, &trans[1], sizeof trans[1]);
        const float one = 1, zero = 0;
        assert_int_equal(cublasLtMatmul(handle, desc, &one, device, layouts[0], device + 8, layouts[1], &zero, device + 16, layouts[2],
                                        device + 16, layouts[2], NULL, NULL, 0, NULL), CUBLAS_STATUS_SUCCESS);
        cudaMemcpy(found, device + 16, sizeof found, cudaMemcpyDeviceToHost);
        for (int i = 0; i < 6; i++) {
            assert_float_equal(found[order[2] == CUBLASLT_ORDER_ROW ? i : i % 3 * 2 + i / 3], expected[i / 3][i % 3], 0.0f);
        }
        for (int i = 0; i < 3; i++) {
            cublasLtMatrixLayoutDestroy(layouts[i]);
        }
        cublasLtMatmulDescDestroy(desc);
    }
    cublasLtDestroy(handle);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_forgotten_wait_gives_wrong_numbers),
        cmocka_unit_test(the_host_cannot_read_device_memory),
        cmocka_unit_test(what_is_on_its_way_stays_open),
        cmocka_unit_test(a_write_behind_the_end_is_seen),
        cmocka_unit_test(settings_are_obeyed),
        cmocka_unit_test(copies_know_where_memory_lies),
        cmocka_unit_test(products_in_every_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
