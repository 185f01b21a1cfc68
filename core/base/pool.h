/* pool.h - a fixed team of threads for parallel loops.
 *
 * ql_pool_run(p, n, fn, ctx) calls fn(ctx, i, worker) once for each i in 0..n-1, spread over the team (the caller is
 * worker 0), and returns when all are done.  Which thread runs which i is not fixed; therefore what item i computes
 * must depend on i alone: callers choose n and their partition from the problem's shape, never from the number of
 * threads, and so results do not change with it.  Waiting threads spin for a few microseconds, then sleep.
 * One run at a time per pool (a mutex serialises callers); fn must not call ql_pool_run on the same pool. */
#ifndef QL_BASE_POOL_H
#define QL_BASE_POOL_H

#include <stddef.h>

struct ql_pool;

struct ql_pool *ql_pool_new(int n_threads); /* 1..256; NULL when out of memory or threads */
void ql_pool_free(struct ql_pool *p);	    /* accepts NULL */
int ql_pool_threads(const struct ql_pool *p);
/* p may be NULL: then the caller does all items itself. */
void ql_pool_run(struct ql_pool *p, size_t n, void (*fn)(void *ctx, size_t i, int worker), void *ctx);

#endif
