/* clock.h - seconds of the monotonic clock, for durations. */
#ifndef QL_BASE_CLOCK_H
#define QL_BASE_CLOCK_H

#include <time.h>

static inline double ql_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

#endif
