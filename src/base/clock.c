#include "base/clock.h"

#include <time.h>

static double read_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double fm_clock_s(void)
{
    return read_s(CLOCK_MONOTONIC);
}

double fm_clock_of_day_s(void)
{
    return read_s(CLOCK_REALTIME);
}
