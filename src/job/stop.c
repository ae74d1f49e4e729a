#include "job/stop.h"

#include <errno.h>
#include <omp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <time.h>

#include "base/memory.h"

/* A signal handler has no argument of its own: these words are what it leaves. */
static volatile sig_atomic_t requested, requested_ms;

static const int signals[] = { SIGTERM, SIGUSR1 };

enum { N_SIGNALS = sizeof signals / sizeof signals[0] };

static void set_all(void (*action)(int))
{
    for (int i = 0; i < N_SIGNALS; i++) {
        signal(signals[i], action);
    }
}

/* Wraps round, which does no harm to a difference. */
static uint32_t clock_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint32_t)(t.tv_sec * 1000LL + t.tv_nsec / 1000000);
}

/* Launchers and batch systems say one thing twice: srun repeats what slurmd has told the ranks, and `timeout` tells the whole process
 * group. What comes within ONE_REQUEST_MS is the first request still. */
static void note(int signal_number)
{
    enum { ONE_REQUEST_MS = 2000 };
    const uint32_t now_ms = clock_ms();
    if (requested == 0) {
        requested_ms = (sig_atomic_t)now_ms;          /* first: a signal may come between the two */
        requested = signal_number;
    } else if (now_ms - (uint32_t)requested_ms >= ONE_REQUEST_MS) {
        set_all(SIG_DFL);
        raise(signal_number);
    }
}

/* The handler needs a stack of its own: kernels that the GEMM library makes at run time let the stack pointer stand in small
 * blocks of the heap, and what a signal saves there (3 KiB and more of vector registers) would lie over their neighbours. */
static int give_stack(fm_stop *stop)
{
    const size_t size_bytes = (size_t)getauxval(AT_MINSIGSTKSZ) + (64 << 10);
    stop->stack = fm_alloc(size_bytes, FM_MEMORY_HOST);
    if (stop->stack == NULL) {
        return FM_ERR_MEMORY;
    }
    const stack_t stack = { .ss_sp = stop->stack, .ss_size = size_bytes };
    return sigaltstack(&stack, NULL) == 0 ? FM_OK : fm_fail(FM_ERR_INTERNAL, "no stack for signals: %s", strerror(errno));
}

static void change_mask(int how)
{
    sigset_t set;
    sigemptyset(&set);
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaddset(&set, signals[i]);
    }
    pthread_sigmask(how, &set, NULL);
}

void fm_stop_hold(void)
{
    change_mask(SIG_BLOCK);
}

void fm_stop_release(void)
{
    change_mask(SIG_UNBLOCK);
}

void fm_stop_spare_threads(void)
{
#pragma omp parallel
    if (omp_get_thread_num() != 0) {
        change_mask(SIG_BLOCK);
    }
}

int fm_stop_begin(fm_stop *stop)
{
    struct sigaction action = { .sa_handler = note, .sa_flags = SA_RESTART | SA_ONSTACK | SA_NODEFER };
    FM_TRY(give_stack(stop));
    requested = 0;
    sigemptyset(&action.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++) {
        if (sigaction(signals[i], &action, NULL) != 0) {
            return fm_fail(FM_ERR_INTERNAL, "signal %d cannot be handled: %s", signals[i], strerror(errno));
        }
    }
    fm_stop_release();
    return FM_OK;
}

void fm_stop_end(fm_stop *stop)
{
    const stack_t none = { .ss_flags = SS_DISABLE };
    set_all(requested != 0 ? SIG_IGN : SIG_DFL);
    requested = 0;
    sigaltstack(&none, NULL);
    fm_free(stop->stack);
    stop->stack = NULL;
}

int fm_stop_signal(void)
{
    return requested;
}

int fm_time_parse(int64_t *seconds, const char *text)
{
    long long hours = 0, minutes = 0, rest = 0;
    int length = 0;
    const size_t n_parts = 1 + (strchr(text, ':') != NULL) + (strchr(text, ':') != strrchr(text, ':'));
    const bool read = n_parts == 3   ? sscanf(text, "%lld:%2lld:%2lld%n", &hours, &minutes, &rest, &length) == 3
                      : n_parts == 2 ? sscanf(text, "%lld:%2lld%n", &minutes, &rest, &length) == 2
                                     : sscanf(text, "%lld%n", &rest, &length) == 1;
    const long long limit = 1000000000;
    const bool in_range = hours <= limit && minutes >= 0 && minutes <= limit && rest >= 0 && rest <= limit;
    if (!read || text[length] != '\0' || text[0] == '-' || !in_range || (n_parts > 1 && rest > 59) ||
        (n_parts > 2 && minutes > 59) || hours + minutes + rest == 0) {
        return fm_fail(FM_ERR_JOB, "a time above 0 was expected: HH:MM:SS, MM:SS or seconds");
    }
    *seconds = 3600 * hours + 60 * minutes + rest;
    return FM_OK;
}

double fm_stop_deadline(const char *max_time, double begin_s, int64_t end_s)
{
    int64_t seconds;
    double deadline = end_s > 0 ? (double)end_s : 0.0;
    if (max_time[0] != '\0' && fm_time_parse(&seconds, max_time) == FM_OK) {
        const double own = begin_s + (double)seconds;
        deadline = deadline == 0.0 || own < deadline ? own : deadline;
    }
    return deadline;
}

bool fm_stop_is_near(double deadline_s, double now_s, double step_s, double checkpoint_s)
{
    const double margin = 1.5;         /* disks are not as fast at all times; and so much again for the way out */
    return deadline_s > 0.0 && now_s + margin * (step_s + checkpoint_s) + 1.0 >= deadline_s;
}
