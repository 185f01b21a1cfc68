/* serve.c - the inference scheduler on a thread of its own, and requests whose tokens are timed.
 *
 * Requests are greedy and go on to their full length.  All adapters are one directory under many names: the scheduler holds each in
 * a slot of its own and does not know.  B is random, so that adapters change the answers. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/cmd/bench.h"

/* ---- the adapter directory ------------------------------------------------------------------------------------------------ */

int bench_write_adapter(struct bench *b, const char *path, uint64_t seed, bool random_b, struct ql_err *e)
{
	struct ql_lora_config c = {.rank = b->rank, .alpha = 2.0 * b->rank, .modules = QL_MODULES_ALL};
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = "bench"};
	struct ql_adapter_file f = {0};
	struct ql_lora_set *s = NULL;
	float *host = NULL;
	int fd = -1, rc;

	if (mkdir(path, 0700) != 0 || (fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return ql_err_errno(e, "%s", path);
	ql_gate_enter(b->model->gate, QL_GATE_INFER);
	rc = ql_lora_new(&s, b->model, &c, seed, e);
	if (rc == QL_OK && (host = malloc((size_t)s->n_params * 4)) == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "adapter");
	if (rc == QL_OK)
		rc = ql_lora_download(s, host, e);
	ql_gate_leave(b->model->gate, QL_GATE_INFER);
	for (uint64_t i = 0; rc == QL_OK && random_b && s != NULL && i < s->n_params - s->n_a; i += 2) {
		uint16_t pair[2];

		bench_random_bf16(pair, 2, 0.01f, i + 1);
		host[s->n_a + i] = ql_f32_of_bf16(pair[0]);
		if (i + 1 < s->n_params - s->n_a)
			host[s->n_a + i + 1] = ql_f32_of_bf16(pair[1]);
	}
	if (rc == QL_OK)
		rc = ql_lora_describe(s, host, &f, e);
	if (rc == QL_OK)
		rc = ql_adapter_write(&f, &b->arch, fd, &o, e);
	ql_adapter_file_free(&f);
	ql_gate_enter(b->model->gate, QL_GATE_INFER);
	ql_lora_free(s);
	ql_gate_leave(b->model->gate, QL_GATE_INFER);
	free(host);
	(void)close(fd);
	return rc;
}

static int open_adapter(void *ctx, const char *dir, struct ql_err *e)
{
	const struct bench *b = ctx;
	char path[600];
	int fd;

	(void)snprintf(path, sizeof path, "%s/%s", b->tmp, dir);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? ql_err_errno(e, "%s", dir) : fd;
}

/* ---- the scheduler -------------------------------------------------------------------------------------------------------- */

static void *infer_main(void *arg)
{
	struct bench_server *s = arg;
	struct ql_err e = {0};

	if (ql_infer_run(s->infer, &e) != QL_OK)
		(void)fprintf(stderr, "qlorad bench: inference ended: %s\n", e.message);
	return NULL;
}

int bench_server_start(struct bench_server *s, struct bench *b, uint32_t rows, uint32_t prompt, uint32_t tokens, uint32_t adapters,
		       struct ql_err *e)
{
	uint32_t context = prompt + tokens + QL_KV_BLOCK;
	struct ql_infer_opts o = {.max_rows = rows, .max_waiting = 4 * rows + 16, .kv_tokens = (rows + 1) * (context + QL_KV_BLOCK),
				  .max_context = context, .adapter_slots = adapters > 0 ? adapters : 1};
	char path[300];
	int rc = QL_OK;

	*s = (struct bench_server){.b = b, .next_seed = 100};
	(void)pthread_mutex_init(&s->lock, NULL);
	(void)pthread_cond_init(&s->changed, NULL);
	if (adapters > 0)
		rc = bench_tmp(b, e);
	(void)snprintf(path, sizeof path, "%s/adapter", b->tmp);
	if (rc == QL_OK && adapters > 0 && access(path, F_OK) != 0)
		rc = bench_write_adapter(b, path, 3, true, e);
	ql_gate_enter(b->model->gate, QL_GATE_INFER);
	if (rc == QL_OK)
		rc = ql_infer_new(&s->infer, b->model, b->tok, &o, open_adapter, b, e);
	ql_gate_leave(b->model->gate, QL_GATE_INFER);
	if (rc == QL_OK && pthread_create(&s->thread, NULL, infer_main, s) != 0)
		rc = ql_err_set(e, QL_ENOMEM, "inference thread");
	else if (rc == QL_OK)
		s->running = true;
	if (rc != QL_OK)
		bench_server_stop(s);
	return rc;
}

void bench_server_stop(struct bench_server *s)
{
	if (s->running) {
		ql_infer_stop(s->infer);
		(void)pthread_join(s->thread, NULL);
	}
	ql_infer_free(s->infer);
	if (s->b != NULL) {
		(void)pthread_mutex_destroy(&s->lock);
		(void)pthread_cond_destroy(&s->changed);
	}
	*s = (struct bench_server){0};
}

/* ---- requests ---------------------------------------------------------------------------------------------------------------- */

static void on_delta(void *ctx, uint32_t choice, const char *text, size_t len, const struct ql_token_info *tokens, uint32_t n)
{
	struct bench_request *q = ctx;
	double now = bench_now();

	(void)choice, (void)text, (void)len, (void)tokens, (void)n;
	if (q->n < q->cap)
		q->at[q->n++] = now;
	if (q->first == 0)
		q->first = now;
}

static void on_finish(void *ctx, uint32_t choice, enum ql_finish reason) { (void)ctx, (void)choice, (void)reason; }

static void over(struct bench_request *q)
{
	(void)pthread_mutex_lock(&q->s->lock);
	q->end = bench_now();
	q->ended = true;
	(void)pthread_cond_broadcast(&q->s->changed);
	(void)pthread_mutex_unlock(&q->s->lock);
}

static void on_done(void *ctx, const struct ql_infer_usage *u)
{
	struct bench_request *q = ctx;

	q->tokens = u->completion_tokens;
	over(q);
}

static void on_error(void *ctx, const struct ql_err *e)
{
	struct bench_request *q = ctx;

	q->failed = true;
	(void)snprintf(q->error, sizeof q->error, "%.190s", e->message);
	over(q);
}

int bench_submit(struct bench_server *s, struct bench_request *q, uint32_t n, uint32_t adapters, uint32_t prompt, uint32_t tokens,
		 struct ql_err *e)
{
	int32_t *ids = malloc((size_t)prompt * sizeof *ids);
	int rc = ids == NULL ? ql_err_set(e, QL_ENOMEM, "prompt") : QL_OK;

	for (uint32_t i = 0; i < n; i++)
		q[i] = (struct bench_request){.s = s, .cap = tokens + 8};
	for (uint32_t i = 0; rc == QL_OK && i < n; i++) {
		struct ql_adapter_ref ref = {.dir = "adapter", .generation = 1};
		struct ql_infer_request r = {.id = s->next_seed, .prompt = ids, .n_prompt = prompt, .n = 1, .max_tokens = tokens,
					     .sampling = {.temperature = 0, .top_p = 1, .repetition_penalty = 1}, .ignore_eos = true,
					     .logprobs = -1, .ctx = &q[i],
					     .events = {on_delta, on_finish, on_done, on_error}};

		if (adapters > 0) {
			(void)snprintf(ref.name, sizeof ref.name, "adapter-%u", i % adapters);
			r.adapter = &ref;
		}
		q[i].at = calloc(q[i].cap, sizeof *q[i].at);
		if (q[i].at == NULL) {
			rc = ql_err_set(e, QL_ENOMEM, "requests");
			break;
		}
		bench_tokens(ids, prompt, s->b->arch.vocab_size, s->next_seed++);
		q[i].submitted = bench_now();
		rc = ql_infer_submit(s->infer, &r, e);
		if (rc != QL_OK)
			q[i].ended = true;
	}
	free(ids);
	return rc;
}

int bench_wait(struct bench_server *s, struct bench_request *q, uint32_t n, struct ql_err *e)
{
	int rc = QL_OK;

	(void)pthread_mutex_lock(&s->lock);
	for (uint32_t i = 0; i < n; i++)
		while (!q[i].ended)
			(void)pthread_cond_wait(&s->changed, &s->lock);
	(void)pthread_mutex_unlock(&s->lock);
	for (uint32_t i = 0; rc == QL_OK && i < n; i++)
		if (q[i].failed)
			rc = ql_err_set(e, QL_EINTERNAL, "a request failed: %s", q[i].error);
	return rc;
}

void bench_requests_free(struct bench_request *q, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		free(q[i].at);
		q[i].at = NULL;
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

void bench_gaps(const struct bench_request *q, uint32_t n, double *rate, double *p50, double *p99)
{
	double from = 0, to = 1e300, *gap;
	size_t room = 1, count = 0, tokens = 0;

	*rate = *p50 = *p99 = 0;
	for (uint32_t i = 0; i < n; i++) {
		from = q[i].first > from ? q[i].first : from;
		to = q[i].end < to ? q[i].end : to;
		room += q[i].n;
	}
	gap = malloc(room * sizeof *gap);
	if (gap == NULL || to <= from)
		goto cleanup;
	for (uint32_t i = 0; i < n; i++)
		for (uint32_t k = 1; k < q[i].n; k++)
			if (q[i].at[k] > from && q[i].at[k] <= to) {
				tokens++;
				if (q[i].at[k - 1] >= from)
					gap[count++] = q[i].at[k] - q[i].at[k - 1];
			}
	*rate = (double)tokens / (to - from);
	if (count > 0) {
		qsort(gap, count, sizeof *gap, by_value);
		*p50 = gap[count / 2];
		*p99 = gap[count * 99 / 100];
	}
cleanup:
	free(gap);
}
