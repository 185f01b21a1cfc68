/* train.c - `bench train`: the daemon's trainer over random tokens, one micro-batch an optimiser step.
 *
 * Speed = tokens of the measured steps over the wall time between the ends of the first and the last of them, so everything between
 * steps counts.  Two steps go before.  Ceiling: the matrix products of such a step alone (no adapters, no recomputation). */
#include <stdlib.h>
#include <string.h>

#include "bench/cmd/bench.h"

#define WARM_UP 2

static void on_phase(void *ctx, const char *phase) { (void)ctx, (void)phase; }
static void on_started(void *ctx, uint64_t step, uint64_t total, uint64_t tokens, const struct ql_recipe *r, uint64_t warmup, uint32_t logging)
{
	(void)ctx, (void)step, (void)total, (void)tokens, (void)r, (void)warmup, (void)logging;
}
static void on_checkpoint(void *ctx, uint64_t step, const struct ql_manifest *m, bool user, const json_t *metrics)
{
	(void)ctx, (void)step, (void)m, (void)user, (void)metrics;
}
static void on_planned(void *ctx, const struct ql_memory_plan *p) { ((struct bench_run *)ctx)->plan = *p; }

static void on_step(void *ctx, const struct ql_train_metrics *t)
{
	struct bench_run *r = ctx;
	struct ql_mem_info info;

	if (t->step <= r->steps)
		r->at[t->step - 1] = bench_now();
	if (t->step == 1)
		r->loss_first = t->loss;
	r->loss_last = t->loss;
	r->tokens_per_step = t->tokens;
	/* read only: no turn at the gate is needed */
	if (r->b->dev->ops->mem_info(r->b->dev, &info, NULL) == QL_OK && (r->lowest_free == 0 || info.available < r->lowest_free))
		r->lowest_free = info.available;
	atomic_store(&r->done, t->step);
}

static enum ql_train_stop on_stop(void *ctx) { return atomic_load(&((struct bench_run *)ctx)->stop) ? QL_TRAIN_PAUSE : QL_TRAIN_GO; }

int bench_run_new(struct bench_run *r, struct bench *b, uint32_t micro_batch, uint64_t steps, struct ql_err *e)
{
	uint32_t examples = 4 * micro_batch;
	int32_t *ids = malloc((size_t)examples * b->seq * sizeof *ids);
	json_t *recipe = json_object();
	int rc;

	*r = (struct bench_run){.b = b, .steps = steps};
	r->at = calloc(steps, sizeof *r->at);
	rc = ids == NULL || recipe == NULL || r->at == NULL ? ql_err_set(e, QL_ENOMEM, "training data") : QL_OK;
	if (rc == QL_OK)
		rc = ql_recipe_parse(&r->job.recipe, recipe, false, e);
	json_decref(recipe);
	if (rc == QL_OK) {
		bench_tokens(ids, (size_t)examples * b->seq, b->arch.vocab_size, 1);
		rc = ql_dataset_make(&r->data, ids, examples, b->seq, e);
	}
	free(ids);
	r->job.recipe.batch_size = r->job.recipe.micro_batch_size = micro_batch;
	r->job.recipe.rank = b->rank;
	r->job.recipe.alpha = 2.0 * b->rank;
	r->job.recipe.max_seq_length = b->seq;
	r->job.recipe.max_steps = steps;
	r->job.recipe.save_steps = 0;
	r->job.recipe.seed = 1;
	r->job.model = b->model;
	r->job.data = r->data;
	r->job.base_name = "bench";
	r->job.dir = -1;
	r->job.snapshot_seconds = 1e9;
	r->job.memory.recompute = b->recompute;
	r->job.memory.dense = b->dense ? QL_DENSE_AS_FITS : QL_DENSE_NEVER;
	r->job.memory.limit = (uint64_t)(b->memory_limit_gib * (1 << 30));
	r->job.events = (struct ql_train_events){.ctx = r, .planned = on_planned, .started = on_started, .phase = on_phase, .step = on_step,
						 .checkpoint = on_checkpoint, .stop = on_stop};
	return rc;
}

void bench_run_free(struct bench_run *r)
{
	ql_dataset_free(r->data);
	free(r->at);
}

double bench_run_rate(const struct bench_run *r, double from, double to)
{
	uint64_t n = atomic_load(&r->done), count = 0;
	double first = 0, last = 0;

	for (uint64_t i = 0; i < n && i < r->steps; i++)
		if (r->at[i] >= from && r->at[i] <= to) {
			if (count++ == 0)
				first = r->at[i];
			last = r->at[i];
		}
	return count < 2 ? 0 : (double)((count - 1) * r->tokens_per_step) / (last - first);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median_step(const struct bench_run *r)
{
	double gaps[1000];
	size_t n = 0;

	for (uint64_t i = WARM_UP; i < r->steps && n < 1000; i++)
		gaps[n++] = r->at[i] - r->at[i - 1];
	qsort(gaps, n, sizeof *gaps, by_value);
	return n > 0 ? gaps[n / 2] : 0;
}

static int one(struct bench *b, uint32_t micro_batch, json_t *o, struct ql_err *e)
{
	struct ql_train_result result;
	struct ql_mem_info info = {0};
	struct bench_run r;
	double rate, products = 0;
	int rc = bench_run_new(&r, b, micro_batch, WARM_UP + b->steps, e);

	b->dev->ops->mem_reset_peak(b->dev);
	if (rc == QL_OK)
		rc = ql_train_run(&r.job, &result, e);
	if (rc != QL_OK)
		goto cleanup;
	(void)b->dev->ops->mem_info(b->dev, &info, NULL);
	rate = bench_run_rate(&r, r.at[WARM_UP - 1], r.at[r.steps - 1]);
	bench_put(o, "tokens_per_s", rate);
	bench_put(o, "step_s", median_step(&r));
	bench_put(o, "peak_gib", (double)info.peak / (1 << 30));
	bench_put(o, "device_used_gib", (double)(info.total - r.lowest_free) / (1 << 30));
	bench_put(o, "planned_gib", (double)r.plan.bytes / (1 << 30));
	(void)json_object_set_new(o, "layers_keep_all", json_integer(r.plan.keep.all));
	(void)json_object_set_new(o, "layers_keep_main", json_integer(r.plan.keep.main));
	(void)json_object_set_new(o, "layers_dense", json_integer(r.plan.dense_layers));
	bench_put(o, "loss_first", r.loss_first);
	bench_put(o, "loss_last", r.loss_last);
	rc = bench_products(b, micro_batch * b->seq, &products, e);
	if (rc == QL_ENODEVMEM) { /* the run itself is not affected */
		(void)json_object_set_new(o, "ceiling", json_string("no memory for it"));
		rc = QL_OK;
	} else if (rc == QL_OK) {
		bench_put(o, "ceiling_products_tokens_per_s", micro_batch * b->seq / products);
		bench_put(o, "share_of_ceiling", rate * products / (micro_batch * b->seq));
	}
cleanup:
	bench_run_free(&r);
	return rc;
}

int bench_train(struct bench *b, struct ql_err *e)
{
	static const char *const modes[] = {"auto", "off", "on"};
	json_t *runs = json_array();
	int rc = QL_OK;

	(void)json_object_set_new(b->out, "seq", json_integer(b->seq));
	(void)json_object_set_new(b->out, "rank", json_integer(b->rank));
	(void)json_object_set_new(b->out, "recompute", json_string(modes[b->recompute]));
	(void)json_object_set_new(b->out, "runs", runs);
	for (uint32_t i = 0; i < b->micro_batch.n; i++) {
		struct ql_err why = {0};
		json_t *o = json_object();
		int r;

		(void)json_object_set_new(o, "micro_batch", json_integer(b->micro_batch.v[i]));
		(void)json_array_append_new(runs, o);
		r = one(b, b->micro_batch.v[i], o, &why);
		if (r == QL_OK)
			continue;
		(void)json_object_set_new(o, "error", json_string(why.message)); /* the other sizes may still fit */
		if (r != QL_ENODEVMEM || b->micro_batch.n == 1) {
			*e = why;
			rc = r;
			break;
		}
	}
	return rc;
}
