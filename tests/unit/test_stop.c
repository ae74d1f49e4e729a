/* Signals and time limits. */
#include <omp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "job/stop.h"

static void times_are_read(void **state)
{
    static const struct {
        const char *text;
        int64_t seconds;               /* -1: refused */
    } cases[] = { { "90", 90 }, { "05:00", 300 }, { "01:30:05", 5405 }, { "100:00:00", 360000 }, { "0", -1 }, { "", -1 }, { "1h", -1 },
                  { "-5", -1 }, { "1:60", -1 }, { "1:-1", -1 }, { "1:2:3:4", -1 }, { "1:60:00", -1 }, { "99999999999999999999", -1 } };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int64_t seconds = -1;
        assert_int_equal(fm_time_parse(&seconds, cases[i].text), cases[i].seconds < 0 ? FM_ERR_JOB : FM_OK);
        assert_int_equal(seconds, cases[i].seconds);
    }
}

static void the_earlier_limit_counts(void **state)
{
    assert_true(fm_stop_deadline("", 1000.0, 0) == 0.0);
    assert_true(fm_stop_deadline("100", 1000.0, 0) == 1100.0);
    assert_true(fm_stop_deadline("100", 1000.0, 1050) == 1050.0);
    assert_true(fm_stop_deadline("100", 1000.0, 1150) == 1100.0);
    assert_true(fm_stop_deadline("", 1000.0, 1150) == 1150.0);
    assert_false(fm_stop_is_near(0.0, 1e12, 1.0, 1.0));
    assert_false(fm_stop_is_near(1100.0, 1000.0, 20.0, 20.0));
    assert_true(fm_stop_is_near(1100.0, 1000.0, 20.0, 50.0));
    assert_true(fm_stop_is_near(1100.0, 2000.0, 0.1, 0.1));
}

static void the_first_signal_asks(void **state)
{
    static const int signals[] = { SIGTERM, SIGUSR1 };
    for (int i = 0; i < 2; i++) {
        fm_stop stop = { 0 };
        assert_int_equal(fm_stop_begin(&stop), FM_OK);
        assert_int_equal(fm_stop_signal(), 0);
        raise(signals[i]);
        assert_int_equal(fm_stop_signal(), signals[i]);
        fm_stop_end(&stop);
        assert_int_equal(fm_stop_signal(), 0);
    }
}

/* What a child that gets SIGUSR1, waits, and gets SIGTERM ends with. */
static int end_after(int wait_ms)
{
    const pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        fm_stop stop = { 0 };
        fm_stop_begin(&stop);
        raise(SIGUSR1);
        nanosleep(&(struct timespec){ .tv_sec = wait_ms / 1000, .tv_nsec = wait_ms % 1000 * 1000000L }, NULL);
        raise(SIGTERM);
        const int seen = fm_stop_signal();
        fm_stop_end(&stop);
        raise(SIGTERM);                /* on the way out */
        _exit(seen == SIGUSR1 ? 3 : 4);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

/* Whichever comes second ends the process. */
static void the_second_signal_ends(void **state)
{
    const int status = end_after(2100);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
}

static void an_echo_is_no_second_signal(void **state)
{
    const int status = end_after(100);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
}

static bool is_blocked(int signal_number)
{
    sigset_t set;
    pthread_sigmask(SIG_BLOCK, NULL, &set);
    return sigismember(&set, signal_number) == 1;
}

static void held_signals_are_heard_later(void **state)
{
    fm_stop stop = { 0 };
    fm_stop_hold();
    raise(SIGUSR1);
    assert_int_equal(fm_stop_begin(&stop), FM_OK);
    assert_int_equal(fm_stop_signal(), SIGUSR1);
    assert_false(is_blocked(SIGUSR1) || is_blocked(SIGTERM));
    fm_stop_end(&stop);
}

/* Whatever threads there are already. */
static void only_the_main_thread_hears(void **state)
{
    enum { N = 4 };
    int blocked = 0, threads = 0;
    omp_set_num_threads(N);
    for (int round = 0; round < 2; round++) {
        blocked = threads = 0;
#pragma omp parallel reduction(+ : blocked, threads)
        {
            threads++;
            blocked += is_blocked(SIGUSR1) && is_blocked(SIGTERM);
        }
        fm_stop_spare_threads();
    }
    assert_int_equal(blocked, threads - 1);
    assert_true(threads > 1 && !is_blocked(SIGUSR1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(times_are_read),
        cmocka_unit_test(the_earlier_limit_counts),
        cmocka_unit_test(the_first_signal_asks),
        cmocka_unit_test(the_second_signal_ends),
        cmocka_unit_test(an_echo_is_no_second_signal),
        cmocka_unit_test(held_signals_are_heard_later),
        cmocka_unit_test(only_the_main_thread_hears),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
