/* mixed.c - `bench serve-mixed`: what requests and a training job cost each other on one device, through the model's gate.
 *
 * First the trainer without an inference scheduler ("alone"); then a run during which the scheduler exists but nobody asks ("idle"),
 * then --batch requests are answered ("beside"), then nobody asks again.  The trainer's speed counts whole steps within each phase. */
#include <pthread.h>
#include <time.h>

#include "bench/cmd/bench.h"

#define ROOM 200000 /* steps whose times are kept */

struct trainer {
	struct bench_run run;
	struct ql_err e;
	int rc;
	_Atomic bool ended;
};

static void *train_main(void *arg)
{
	struct trainer *t = arg;
	struct ql_train_result result;

	t->rc = ql_train_run(&t->run.job, &result, &t->e);
	atomic_store(&t->ended, true);
	return NULL;
}

static void nap(void)
{
	struct timespec t = {0, 1000000};

	(void)nanosleep(&t, NULL);
}

/* Waits for n more steps; false when the trainer ended. */
static bool more_steps(struct trainer *t, uint64_t n)
{
	uint64_t until = atomic_load(&t->run.done) + n;

	while (atomic_load(&t->run.done) < until && !atomic_load(&t->ended))
		nap();
	return !atomic_load(&t->ended);
}

static int alone(struct bench *b, double *rate, struct ql_err *e)
{
	struct ql_train_result result;
	struct bench_run r;
	int rc = bench_run_new(&r, b, b->micro_batch.v[0], 3 + b->steps, e);

	if (rc == QL_OK)
		rc = ql_train_run(&r.job, &result, e);
	if (rc == QL_OK)
		*rate = bench_run_rate(&r, r.at[2], r.at[r.steps - 1]);
	bench_run_free(&r);
	return rc;
}

struct figures {
	double alone, idle, beside, idle_again, rate, p50, p99;
};

static int phases(struct bench *b, struct bench_server *s, struct trainer *t, struct figures *f, struct ql_err *e)
{
	uint32_t n = b->batch.v[0], adapters = b->adapters.v[0], warm = b->tokens < 4 ? b->tokens : 4;
	struct bench_request q[256] = {0};
	double from, all = 0, first = 1e300;
	int rc = QL_OK;

	/* adapters are loaded and graphs recorded before anything counts */
	for (int i = 0; rc == QL_OK && i < 2; i++) {
		rc = bench_submit(s, q, n, adapters, b->prompt, warm, e);
		if (rc == QL_OK)
			rc = bench_wait(s, q, n, e);
		bench_requests_free(q, n);
	}
	if (rc != QL_OK || !more_steps(t, 2))
		return rc;
	from = bench_now();
	(void)more_steps(t, b->steps);
	f->idle = bench_run_rate(&t->run, from, bench_now());
	rc = bench_submit(s, q, n, adapters, b->prompt, b->tokens, e);
	if (rc == QL_OK)
		rc = bench_wait(s, q, n, e);
	if (rc == QL_OK) {
		bench_gaps(q, n, &f->rate, &f->p50, &f->p99);
		for (uint32_t i = 0; i < n; i++) {
			all = q[i].first > all ? q[i].first : all;
			first = q[i].end < first ? q[i].end : first;
		}
		f->beside = bench_run_rate(&t->run, all, first);
	}
	bench_requests_free(q, n);
	(void)more_steps(t, 1);
	from = bench_now();
	(void)more_steps(t, b->steps);
	f->idle_again = bench_run_rate(&t->run, from, bench_now());
	return rc;
}

int bench_mixed(struct bench *b, struct ql_err *e)
{
	struct bench_server s = {0};
	struct trainer t = {0};
	struct figures f = {0};
	pthread_t thread;
	int rc = alone(b, &f.alone, e);

	if (rc == QL_OK)
		rc = bench_server_start(&s, b, b->batch.v[0], b->prompt, b->tokens, b->adapters.v[0], e);
	if (rc != QL_OK)
		return rc;
	rc = bench_run_new(&t.run, b, b->micro_batch.v[0], ROOM, e);
	if (rc == QL_OK && pthread_create(&thread, NULL, train_main, &t) != 0)
		rc = ql_err_set(e, QL_ENOMEM, "trainer thread");
	else if (rc == QL_OK) {
		rc = more_steps(&t, 2) ? phases(b, &s, &t, &f, e) : QL_OK;
		atomic_store(&t.run.stop, true);
		(void)pthread_join(thread, NULL);
		if (rc == QL_OK && t.rc != QL_OK) {
			*e = t.e;
			rc = t.rc;
		}
	}
	bench_run_free(&t.run);
	if (rc == QL_OK) {
		(void)json_object_set_new(b->out, "batch", json_integer(b->batch.v[0]));
		(void)json_object_set_new(b->out, "adapters", json_integer(b->adapters.v[0]));
		(void)json_object_set_new(b->out, "micro_batch", json_integer(b->micro_batch.v[0]));
		(void)json_object_set_new(b->out, "seq", json_integer(b->seq));
		bench_put(b->out, "target_ms", b->target_ms);
		bench_put(b->out, "inter_token_p50_ms", f.p50 * 1e3);
		bench_put(b->out, "inter_token_p99_ms", f.p99 * 1e3);
		bench_put(b->out, "decode_tokens_per_s", f.rate);
		bench_put(b->out, "train_alone_tokens_per_s", f.alone);
		bench_put(b->out, "train_idle_tokens_per_s", f.idle);
		bench_put(b->out, "train_beside_tokens_per_s", f.beside);
		bench_put(b->out, "train_idle_again_tokens_per_s", f.idle_again);
		bench_put(b->out, "train_beside_share", f.beside / f.alone);
		bench_put(b->out, "train_idle_share", (f.idle + f.idle_again) / 2 / f.alone);
		bench_put_memory(b, b->out);
	}
	bench_server_stop(&s);
	return rc;
}
