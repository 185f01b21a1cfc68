/* pool.c - see pool.h.  A run is announced by raising `generation`; items are handed out by an atomic counter,
 * and a run ends only when every helper has left it, so a late thread never takes an item of a newer run. */
#include "core/base/pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPINS 2000

struct ql_pool {
	pthread_mutex_t turn;
	int n_threads, n_started;
	pthread_t *threads;
	_Atomic uint32_t generation; /* futex: raised for each run */
	_Atomic uint32_t active;     /* futex: helpers still inside the current run */
	_Atomic uint32_t sleepers;
	_Atomic size_t next;
	_Atomic int quit;
	size_t n;
	void (*fn)(void *, size_t, int);
	void *ctx;
};

struct start {
	struct ql_pool *p;
	int worker;
};

static void futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
	(void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake_all(_Atomic uint32_t *word)
{
	(void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static inline void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

static void wait_change(struct ql_pool *p, _Atomic uint32_t *word, uint32_t seen)
{
	for (int i = 0; i < SPINS; i++) {
		if (atomic_load_explicit(word, memory_order_acquire) != seen)
			return;
		relax();
	}
	atomic_fetch_add(&p->sleepers, 1);
	while (atomic_load(word) == seen)
		futex_wait(word, seen);
	atomic_fetch_sub(&p->sleepers, 1);
}

static void take_items(struct ql_pool *p, int worker)
{
	for (;;) {
		size_t i = atomic_fetch_add(&p->next, 1);

		if (i >= p->n)
			return;
		p->fn(p->ctx, i, worker);
	}
}

static void *thread_main(void *arg)
{
	struct start s = *(struct start *)arg;
	struct ql_pool *p = s.p;
	uint32_t seen = 0;

	free(arg);
	for (;;) {
		wait_change(p, &p->generation, seen);
		seen = atomic_load_explicit(&p->generation, memory_order_acquire);
		if (atomic_load(&p->quit))
			return NULL;
		take_items(p, s.worker);
		if (atomic_fetch_sub(&p->active, 1) == 1 && atomic_load(&p->sleepers) > 0)
			futex_wake_all(&p->active);
	}
}

struct ql_pool *ql_pool_new(int n_threads)
{
	struct ql_pool *p;

	if (n_threads < 1 || n_threads > 256)
		return NULL;
	p = calloc(1, sizeof *p);
	if (p == NULL)
		return NULL;
	p->n_threads = n_threads;
	(void)pthread_mutex_init(&p->turn, NULL);
	p->threads = calloc((size_t)n_threads, sizeof *p->threads);
	if (p->threads == NULL)
		goto fail;
	for (int i = 1; i < n_threads; i++) {
		struct start *s = malloc(sizeof *s);

		if (s == NULL)
			goto fail;
		*s = (struct start){p, i};
		if (pthread_create(&p->threads[i], NULL, thread_main, s) != 0) {
			free(s);
			goto fail;
		}
		p->n_started++;
	}
	return p;
fail:
	ql_pool_free(p);
	return NULL;
}

void ql_pool_free(struct ql_pool *p)
{
	if (p == NULL)
		return;
	atomic_store(&p->quit, 1);
	atomic_fetch_add(&p->generation, 1);
	futex_wake_all(&p->generation);
	for (int i = 1; i <= p->n_started; i++)
		(void)pthread_join(p->threads[i], NULL);
	(void)pthread_mutex_destroy(&p->turn);
	free(p->threads);
	free(p);
}

int ql_pool_threads(const struct ql_pool *p) { return p == NULL ? 1 : p->n_threads; }

void ql_pool_run(struct ql_pool *p, size_t n, void (*fn)(void *, size_t, int), void *ctx)
{
	uint32_t left;

	if (p == NULL || p->n_started == 0 || n == 1) {
		for (size_t i = 0; i < n; i++)
			fn(ctx, i, 0);
		return;
	}
	if (n == 0)
		return;
	(void)pthread_mutex_lock(&p->turn);
	p->fn = fn;
	p->ctx = ctx;
	p->n = n;
	atomic_store(&p->next, 0);
	atomic_store(&p->active, (uint32_t)p->n_started);
	atomic_fetch_add(&p->generation, 1); /* before reading sleepers: a thread counts itself before it looks again */
	if (atomic_load(&p->sleepers) > 0)
		futex_wake_all(&p->generation);
	take_items(p, 0);
	while ((left = atomic_load_explicit(&p->active, memory_order_acquire)) != 0)
		wait_change(p, &p->active, left);
	(void)pthread_mutex_unlock(&p->turn);
}
