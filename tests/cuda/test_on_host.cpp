/* The shim itself: what it gives is what CUDA gives, and the rules that it watches end the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

extern "C" {
#include <cmocka.h>
}

#include "ops/cuda_kernel.h"

static const enum fm_host_order orders[] = { FM_HOST_UP, FM_HOST_DOWN, FM_HOST_SEEDED };

template <class... P, class... A> static void launch(void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared_bytes, A... args)
{
    assert_int_equal(fm_launch("test", kernel, blocks, threads, shared_bytes, nullptr, args...), FM_OK);
}

/* ---- what it gives ---- */

/* Sums follow one another in the same shared memory: a block that runs ahead must not spoil the one before. */
static __global__ void sums_kernel(int *out)
{
    int all = 0;
    for (int i = 0; i < 5; i++) {
        all = all * 3 + fm_block_sum<96>(static_cast<int>(threadIdx.x) * (i + 1));
    }
    out[blockIdx.x * 96 + threadIdx.x] = all;
}

static void block_sums_follow_one_another(void **)
{
    int want = 0, out[3 * 96];
    for (int i = 0; i < 5; i++) {
        want = want * 3 + 95 * 96 / 2 * (i + 1);
    }
    for (const auto order : orders) {
        fm_host_set_order(order, 7);
        launch(sums_kernel, 3, 96, 0, out);
        for (const int sum : out) {
            assert_int_equal(sum, want);
        }
    }
}

static __global__ void exchange_kernel(int (*out)[64])
{
    const int t = static_cast<int>(threadIdx.x), lane = t % 32;
    out[0][t] = __shfl_xor_sync(0xffffffffu, t, 5);
    out[1][t] = __shfl_down_sync(0xffffffffu, t, 3);
    out[2][t] = __shfl_up_sync(0xffffffffu, t, 3, 8);
    out[3][t] = __shfl_sync(0xffffffffu, t, 9, 16);
    out[4][t] = static_cast<int>(__ballot_sync(0xffffffffu, t % 3 == 0));
    /* the halves of a warp go their own ways, one more often than the other */
    const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
    int sum = t;
    for (int bits = lane < 16 ? 8 : 2; bits > 0; bits /= 2) {
        sum += __shfl_xor_sync(half, sum, bits);
    }
    out[5][t] = sum;
    int all[32];
    fm_host_gather(all, t);
    out[6][t] = all[31 - lane];
}

static void exchanges_give_what_cuda_gives(void **)
{
    int out[7][64];
    for (const auto order : orders) {
        fm_host_set_order(order, 8);
        launch(exchange_kernel, 1, 64, 0, out);
        for (int t = 0; t < 64; t++) {
            const int lane = t % 32, first = t - lane;
            assert_int_equal(out[0][t], first + (lane ^ 5));
            assert_int_equal(out[1][t], lane + 3 < 32 ? t + 3 : t);
            assert_int_equal(out[2][t], lane % 8 >= 3 ? t - 3 : t);
            assert_int_equal(out[3][t], first + lane / 16 * 16 + 9);
            assert_true((static_cast<unsigned>(out[4][t]) >> lane & 1u) == (t % 3 == 0 ? 1u : 0u));
            assert_int_equal(out[5][t], lane < 16 ? 16 * first + 120 : 4 * (t / 4 * 4) + 6);
            assert_int_equal(out[6][t], first + 31 - lane);
        }
    }
}

static __global__ void poison_kernel(float *out)
{
    FM_SHARED(float, fixed, 4);
    FM_SHARED_DYNAMIC(float, dynamic);
    if (blockIdx.x == 1) {
        out[0] = fixed[3];
        out[1] = dynamic[7];
    }
    fixed[3] = dynamic[7] = 1.0f;
}

static void shared_memory_is_poisoned_in_every_block(void **)
{
    float out[2] = { 0.0f, 0.0f };
    fm_host_set_order(FM_HOST_UP, 0);
    launch(poison_kernel, 2, 1, 32, out);
    assert_true(isnan(out[0]) && isnan(out[1]));
}

static __global__ void nothing_kernel() {}

static void launches_that_no_device_takes_are_refused(void **)
{
    static const struct {
        dim3 grid, block;
        size_t shared_bytes;
        bool fine;
    } cases[] = { { 1, 1024, 227 << 10, true },    { 0, 32, 0, false },           { 1, 1025, 0, false }, { 1, dim3(32, 33), 0, false },
                  { dim3(1, 65535), 32, 0, true }, { dim3(1, 65536), 1, 0, false }, { 1, 0, 0, false },    { 1, 32, 228 << 10, false } };
    for (const auto &c : cases) {
        const int64_t before = fm_host_launches();
        const int rc = fm_launch("test", nothing_kernel, c.grid, c.block, c.shared_bytes, nullptr);
        assert_int_equal(rc, c.fine ? FM_OK : FM_ERR_DEVICE);
        assert_int_equal(fm_host_launches() - before, c.fine ? 1 : 0);
    }
}

/* ---- what it watches ---- */

enum rule { FINE, RETURNS_BEFORE_BARRIER, TWO_BARRIERS, LANE_OUTSIDE, READS_OUTSIDE, OTHER_OPERATION, MISALIGNED, TOO_MUCH_SHARED, RULES };

static __global__ void breaking_kernel(int rule, const char *memory)
{
    const int t = static_cast<int>(threadIdx.x);
    if (rule == RETURNS_BEFORE_BARRIER && t == 5) {
        return;
    }
    if (rule == TWO_BARRIERS && t % 2 == 0) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    if (rule == LANE_OUTSIDE) {
        __shfl_xor_sync(0xffffu, t, 1);
    } else if (rule == READS_OUTSIDE && t < 16) {
        __shfl_xor_sync(0xffffu, t, 16);
    } else if (rule == OTHER_OPERATION && t % 2 == 0) {
        __ballot_sync(0xffffffffu, t);
    } else if (rule == OTHER_OPERATION) {
        __shfl_xor_sync(0xffffffffu, t, 1);
    } else if (rule == MISALIGNED) {
        fm_pack<float, 4> pack;
        pack.load(reinterpret_cast<const float *>(memory + 4));
    } else if (rule == TOO_MUCH_SHARED) {
        FM_SHARED(char, much, (48 << 10) + 1);
        much[0] = 0;
    }
}

/* In a process of its own: the signal that ended it, or 0. */
static int signal_of(int rule)
{
    fflush(NULL);
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alignas(16) static const char memory[64] = "";
        if (freopen("/dev/null", "w", stderr) == NULL) {
            _exit(1);
        }
        fm_launch("test", breaking_kernel, 1, 32, 0, nullptr, rule, memory);
        _exit(0);
    }
    int status = 0;
    assert_true(waitpid(child, &status, 0) == child);
    return WIFSIGNALED(status) ? WTERMSIG(status) : -WEXITSTATUS(status);
}

static void broken_rules_end_the_program(void **)
{
    for (const auto order : orders) {
        fm_host_set_order(order, 9);
        for (int rule = FINE; rule < RULES; rule++) {
            if (signal_of(rule) != (rule == FINE ? 0 : SIGABRT)) {
                fail_msg("rule %d, order %d: the program goes on, or fails in another way", rule, order);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_sums_follow_one_another),
        cmocka_unit_test(exchanges_give_what_cuda_gives),
        cmocka_unit_test(shared_memory_is_poisoned_in_every_block),
        cmocka_unit_test(launches_that_no_device_takes_are_refused),
        cmocka_unit_test(broken_rules_end_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
