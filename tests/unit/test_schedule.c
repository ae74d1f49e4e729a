/* Learning rates against values worked out by hand from the formulas of the contract. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "train/schedule.h"

static void near(double value, double expected)
{
    const double gap = value > expected ? value - expected : expected - value;
    if (!(gap <= 1e-15)) {
        fail_msg("%.17g is not %.17g", value, expected);
    }
}

static void warmup_is_linear_in_every_schedule(void **state)
{
    for (int name = FM_SCHEDULE_CONSTANT; name <= FM_SCHEDULE_WSD; name++) {
        const fm_schedule_options options = { .name = (enum fm_schedule_name)name, .warmup_steps = 4, .min_lr = 0.1 };
        near(fm_schedule_lr(&options, 1.0, 1, 100), 0.25);
        near(fm_schedule_lr(&options, 1.0, 4, 100), 1.0);
        near(fm_schedule_lr(&options, 1.0, 5, 100), 1.0);         /* p = 0 */
    }
}

static void constant_stays(void **state)
{
    const fm_schedule_options options = { .name = FM_SCHEDULE_CONSTANT, .min_lr = 0.5 };
    near(fm_schedule_lr(&options, 2.0, 100, 100), 2.0);
}

static void linear_falls(void **state)
{
    const fm_schedule_options options = { .name = FM_SCHEDULE_LINEAR, .warmup_steps = 2, .min_lr = 0.2 };
    near(fm_schedule_lr(&options, 1.0, 7, 10), 1.0 - 0.8 * 4 / 8);
    near(fm_schedule_lr(&options, 1.0, 10, 10), 1.0 - 0.8 * 7 / 8);
}

static void cosine_falls(void **state)
{
    const fm_schedule_options options = { .name = FM_SCHEDULE_COSINE, .warmup_steps = 2, .min_lr = 0.2 };
    near(fm_schedule_lr(&options, 1.0, 7, 10), 0.2 + 0.8 * 0.5);                          /* p = 1/2 */
    near(fm_schedule_lr(&options, 1.0, 5, 10), 0.2 + 0.4 * (1 + 0.70710678118654752));    /* p = 1/4 */
}

static void wsd_stays_then_falls(void **state)
{
    const fm_schedule_options tenth = { .name = FM_SCHEDULE_WSD, .min_lr = 0.2 };
    near(fm_schedule_lr(&tenth, 1.0, 80, 100), 1.0);
    near(fm_schedule_lr(&tenth, 1.0, 90, 100), 1.0);
    near(fm_schedule_lr(&tenth, 1.0, 91, 100), 1.0);
    near(fm_schedule_lr(&tenth, 1.0, 96, 100), 1.0 - 0.8 * 5 / 10);
    assert_int_equal(fm_schedule_decay_steps(&tenth, 9), 1);
    assert_int_equal(fm_schedule_decay_steps(&tenth, 109), 10);
    const fm_schedule_options four = { .name = FM_SCHEDULE_WSD, .decay_steps = 4 };
    near(fm_schedule_lr(&four, 1.0, 10, 10), 0.25);
}

static void schedules_that_do_not_fit_are_refused(void **state)
{
    const fm_schedule_options late = { .name = FM_SCHEDULE_COSINE, .warmup_steps = 10 };
    assert_int_equal(fm_schedule_check(&late, 10), FM_ERR_JOB);
    assert_int_equal(fm_schedule_check(&late, 11), FM_OK);
    const fm_schedule_options slow = { .name = FM_SCHEDULE_WSD, .decay_steps = 11 };
    assert_int_equal(fm_schedule_check(&slow, 10), FM_ERR_JOB);
    assert_int_equal(fm_schedule_check(&slow, 11), FM_OK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warmup_is_linear_in_every_schedule),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(linear_falls),
        cmocka_unit_test(cosine_falls),
        cmocka_unit_test(wsd_stays_then_falls),
        cmocka_unit_test(schedules_that_do_not_fit_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
