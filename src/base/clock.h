/* The clock that measures how long something takes. */
#ifndef FM_BASE_CLOCK_H
#define FM_BASE_CLOCK_H

/* Seconds since some moment; never goes back, whatever happens to the system's time. Local. */
double fm_clock_s(void);

/* Seconds since 1970 by the system's clock: what deadlines are told in. Local. */
double fm_clock_of_day_s(void);

#endif
