/* decode.c - `bench decode`: requests through the inference scheduler, greedy; and prompts alone.
 *
 * Speed = tokens of all requests per second while all of them are answering.  Ceiling: the bytes a step must read (all weights once)
 * at the copy bandwidth; keys and values, small at these lengths, are left out. */
#include "bench/cmd/bench.h"

static uint64_t bytes_per_step(const struct ql_model *m)
{
	uint64_t sum = m->dev->ops->weight_bytes(m->head);

	for (uint32_t l = 0; l < m->arch.num_hidden_layers; l++)
		for (int g = 0; g < QL_GROUPS; g++)
			sum += m->dev->ops->weight_bytes(m->layers[l].group[g]);
	return sum;
}

static int one(struct bench *b, struct bench_server *s, uint32_t batch, uint32_t adapters, double copy, json_t *o, struct ql_err *e)
{
	struct bench_request q[256] = {0};
	double rate = 0, p50 = 0, p99 = 0;
	int rc = QL_OK;

	for (int warm = 1; rc == QL_OK && warm >= 0; warm--) { /* first: graphs are recorded, adapters loaded */
		uint32_t tokens = warm && b->tokens > 16 ? 16 : b->tokens;

		rc = bench_submit(s, q, batch, adapters, b->prompt, tokens, e);
		if (rc == QL_OK)
			rc = bench_wait(s, q, batch, e);
		if (rc == QL_OK && !warm)
			bench_gaps(q, batch, &rate, &p50, &p99);
		bench_requests_free(q, batch);
	}
	if (rc != QL_OK)
		return rc;
	(void)json_object_set_new(o, "batch", json_integer(batch));
	(void)json_object_set_new(o, "adapters", json_integer(adapters));
	bench_put(o, "tokens_per_s", rate);
	bench_put(o, "inter_token_p50_ms", p50 * 1e3);
	bench_put(o, "inter_token_p99_ms", p99 * 1e3);
	bench_put(o, "ceiling_tokens_per_s", copy / (double)bytes_per_step(b->model) * batch);
	return QL_OK;
}

/* Steps of the whole batch, op by op; the scheduler is idle where the ops are exchanged. */
static int profiled(struct bench *b, struct bench_server *s, uint32_t batch, uint32_t adapters, json_t *o, struct ql_err *e)
{
	struct bench_request q[256] = {0};
	struct bench_profile *p = NULL;
	json_t *table = json_object();
	int rc;

	(void)json_object_set_new(o, "profile", table);
	ql_gate_enter(b->model->gate, QL_GATE_INFER);
	rc = bench_profile_begin(&p, b, true, batch, 4, 4, e);
	ql_gate_leave(b->model->gate, QL_GATE_INFER);
	if (rc == QL_OK)
		rc = bench_submit(s, q, batch, adapters, b->prompt, 24, e);
	if (rc == QL_OK)
		rc = bench_wait(s, q, batch, e);
	bench_requests_free(q, batch);
	ql_gate_enter(b->model->gate, QL_GATE_INFER);
	bench_profile_end(p, table);
	ql_gate_leave(b->model->gate, QL_GATE_INFER);
	return rc;
}

/* Time from submission to the first token of one prompt; the best of three. */
static int prefill(struct bench *b, struct bench_server *s, uint32_t adapters, double *tokens_per_s, struct ql_err *e)
{
	int rc = QL_OK;

	for (int i = 0; rc == QL_OK && i < 4; i++) {
		struct bench_request q = {0};
		double t;

		rc = bench_submit(s, &q, 1, adapters, b->seq, 2, e);
		if (rc == QL_OK)
			rc = bench_wait(s, &q, 1, e);
		t = q.first > q.submitted ? b->seq / (q.first - q.submitted) : 0;
		if (rc == QL_OK && i > 0 && t > *tokens_per_s)
			*tokens_per_s = t;
		bench_requests_free(&q, 1);
	}
	return rc;
}

int bench_decode(struct bench *b, struct ql_err *e)
{
	uint32_t rows = 1, slots = 0, longest = b->prompt > b->seq ? b->prompt : b->seq;
	json_t *runs = json_array(), *o;
	struct bench_server s = {0};
	double copy = 0, with = 0, without = 0;
	int rc = bench_copy_rate(b, &copy, e);

	b->dev->ops->mem_reset_peak(b->dev);
	for (uint32_t i = 0; i < b->batch.n; i++)
		rows = b->batch.v[i] > rows ? b->batch.v[i] : rows;
	for (uint32_t i = 0; i < b->adapters.n; i++)
		slots = b->adapters.v[i] > slots ? b->adapters.v[i] : slots;
	(void)json_object_set_new(b->out, "prompt", json_integer(b->prompt));
	(void)json_object_set_new(b->out, "tokens", json_integer(b->tokens));
	(void)json_object_set_new(b->out, "runs", runs);
	if (rc == QL_OK)
		rc = bench_server_start(&s, b, rows, longest, b->tokens, slots, e);
	for (uint32_t i = 0; rc == QL_OK && i < b->batch.n; i++) {
		o = json_object();
		(void)json_array_append_new(runs, o);
		rc = one(b, &s, b->batch.v[i], b->adapters.v[i < b->adapters.n ? i : b->adapters.n - 1], copy, o, e);
	}
	for (uint32_t i = 0; rc == QL_OK && b->profile && i < b->batch.n; i++)
		rc = profiled(b, &s, b->batch.v[i], b->adapters.v[i < b->adapters.n ? i : b->adapters.n - 1], json_array_get(runs, i), e);
	if (rc == QL_OK)
		rc = prefill(b, &s, 0, &without, e);
	if (rc == QL_OK && slots > 0)
		rc = prefill(b, &s, 1, &with, e);
	if (rc == QL_OK) {
		(void)json_object_set_new(b->out, "prefill_tokens", json_integer(b->seq));
		bench_put(b->out, "prefill_tokens_per_s", without);
		if (slots > 0)
			bench_put(b->out, "prefill_adapter_tokens_per_s", with);
		bench_put(b->out, "ceiling_copy_gb_per_s", copy / 1e9);
		bench_put_memory(b, b->out);
	}
	bench_server_stop(&s);
	return rc;
}
