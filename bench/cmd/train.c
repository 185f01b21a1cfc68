/* train.c - `bench train`: the daemon's trainer over random tokens, one micro-batch an optimiser step.
 *
 * Speed = tokens of the measured steps over the wall time between the ends of the first and the last of them, so everything between
 * steps counts.  Two steps go before.  Ceiling: the matrix products of such a step alone (no adapters, no recomputation). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/cmd/bench.h"
#include "core/base/io.h"

#define WARM_UP 2
#define SEED 1
#define PROFILED 3

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

	if (t->step <= r->steps) {
		r->at[t->step - 1] = bench_now();
		r->loss[t->step - 1] = t->loss;
		r->rate[t->step - 1] = t->learning_rate;
	}
	r->tokens_per_step = t->tokens;
	/* read only: no turn at the gate is needed */
	if (r->b->dev->ops->mem_info(r->b->dev, &info, NULL) == QL_OK && (r->lowest_free == 0 || info.available < r->lowest_free))
		r->lowest_free = info.available;
	r->kinds = info;
	atomic_store(&r->done, t->step);
}

static enum ql_train_stop on_stop(void *ctx) { return atomic_load(&((struct bench_run *)ctx)->stop) ? QL_TRAIN_PAUSE : QL_TRAIN_GO; }

int bench_run_new(struct bench_run *r, struct bench *b, uint32_t micro_batch, uint64_t steps, struct ql_err *e)
{
	uint32_t examples = micro_batch * (b->dump != NULL ? (uint32_t)steps : 4); /* a run to be compared sees no example twice */
	int32_t *ids = malloc((size_t)examples * b->seq * sizeof *ids);
	json_t *recipe = json_object();
	int rc;

	*r = (struct bench_run){.b = b, .steps = steps};
	r->at = calloc(3 * steps, sizeof *r->at);
	if (r->at != NULL) {
		r->loss = r->at + steps;
		r->rate = r->loss + steps;
	}
	rc = ids == NULL || recipe == NULL || r->at == NULL ? ql_err_set(e, QL_ENOMEM, "training data") : QL_OK;
	if (rc == QL_OK)
		rc = ql_recipe_parse(&r->job.recipe, recipe, false, e);
	json_decref(recipe);
	if (rc == QL_OK) {
		(b->dump != NULL ? bench_tokens_skewed : bench_tokens)(ids, (size_t)examples * b->seq, b->arch.vocab_size, 1);
		rc = ql_dataset_make(&r->data, ids, examples, b->seq, e);
	}
	free(ids);
	r->job.recipe.batch_size = r->job.recipe.micro_batch_size = micro_batch;
	r->job.recipe.rank = b->rank;
	r->job.recipe.alpha = 2.0 * b->rank;
	r->job.recipe.max_seq_length = b->seq;
	r->job.recipe.max_steps = steps;
	r->job.recipe.save_steps = 0;
	r->job.recipe.seed = SEED;
	if (b->learning_rate > 0) {
		r->job.recipe.learning_rate = b->learning_rate;
		r->job.recipe.schedule = QL_SCHED_CONSTANT;
	}
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

/* What repeats the run elsewhere: the 4-bit base lies in the directory already; the adapter before the first step, the tokens of each
 * step, and the rule of the optimiser with the losses in o. */
static int dump(struct bench_run *r, json_t *o, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job.recipe;
	size_t per = (size_t)c->batch_size * r->b->seq;
	struct ql_step_batches s = {0};
	struct ql_plan plan = {0};
	json_t *loss = json_array(), *rate = json_array();
	int32_t *ids = malloc(r->steps * per * sizeof *ids);
	char path[400];
	int dir = open(r->b->dump, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	(void)snprintf(path, sizeof path, "%.380s/initial", r->b->dump);
	rc = dir < 0 ? ql_err_errno(e, "%s", r->b->dump) : ids == NULL ? ql_err_set(e, QL_ENOMEM, "tokens") : QL_OK;
	if (rc == QL_OK)
		rc = bench_write_adapter(r->b, path, c->seed, false, e);
	if (rc == QL_OK)
		rc = ql_plan_init(&plan, r->data, c->seed, c->batch_size, c->micro_batch_size, (uint32_t)per, e);
	for (uint64_t k = 0; rc == QL_OK && k < r->steps; k++) {
		rc = ql_plan_step(&plan, k, &s, e);
		if (rc == QL_OK && (s.n_micro != 1 || s.micro[0].n_tokens != per))
			rc = ql_err_set(e, QL_ESTATE, "step %llu is not one micro-batch", (unsigned long long)k);
		if (rc == QL_OK)
			memcpy(ids + k * per, s.micro[0].ids, per * sizeof *ids);
		(void)json_array_append_new(loss, json_real(r->loss[k]));
		(void)json_array_append_new(rate, json_real(r->rate[k]));
	}
	if (rc == QL_OK)
		rc = ql_io_replace(dir, "ids.i32", ids, r->steps * per * sizeof *ids, e);
	(void)json_object_set_new(o, "losses", loss);
	(void)json_object_set_new(o, "learning_rates", rate);
	(void)json_object_set_new(o, "optimizer", json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "beta1", c->beta1, "beta2", c->beta2, "eps", c->eps,
							    "weight_decay", c->weight_decay, "max_grad_norm", c->max_grad_norm, "dropout",
							    c->dropout));
	ql_step_batches_free(&s);
	ql_plan_free(&plan);
	free(ids);
	if (dir >= 0)
		(void)close(dir);
	return rc;
}

/* A further short run with its ops marked, so that the measured one is not slowed. */
static int profiled(struct bench *b, uint32_t micro_batch, json_t *o, struct ql_err *e)
{
	struct bench_profile *p = NULL;
	json_t *table = json_object();
	struct ql_train_result result;
	struct bench_run r;
	int rc = bench_run_new(&r, b, micro_batch, WARM_UP + PROFILED + 1, e);

	(void)json_object_set_new(o, "profile", table);
	if (rc == QL_OK)
		rc = bench_profile_begin(&p, b, false, micro_batch * b->seq, WARM_UP, PROFILED, e);
	if (rc == QL_OK)
		rc = ql_train_run(&r.job, &result, e);
	bench_profile_end(p, table);
	bench_run_free(&r);
	return rc;
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
	bench_put_kinds(o, &r.kinds);
	bench_put(o, "planned_gib", (double)r.plan.bytes / (1 << 30));
	(void)json_object_set_new(o, "layers_keep_all", json_integer(r.plan.keep.all));
	(void)json_object_set_new(o, "layers_keep_main", json_integer(r.plan.keep.main));
	(void)json_object_set_new(o, "layers_offloaded", json_integer(r.plan.keep.host));
	bench_put(o, "host_gib", (double)r.plan.host_bytes / (1 << 30));
	(void)json_object_set_new(o, "layers_dense", json_integer(r.plan.dense_layers));
	bench_put(o, "loss_first", r.loss[0]);
	bench_put(o, "loss_last", r.loss[r.steps - 1]);
	if (b->dump != NULL)
		rc = dump(&r, o, e);
	if (rc == QL_OK && b->profile)
		rc = profiled(b, micro_batch, o, e);
	if (rc != QL_OK)
		goto cleanup;
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
	static const char *const modes[] = {"auto", "off", "on", "offload"};
	static const char *const counted = "peak_gib: this process's device allocations at their highest (base, adapter, gradients, moments, activations, "
					   "work areas of ops); device_used_gib: the driver's figure, with the CUDA context and library code";
	json_t *runs = json_array();
	int rc = QL_OK;

	(void)json_object_set_new(b->out, "seq", json_integer(b->seq));
	(void)json_object_set_new(b->out, "rank", json_integer(b->rank));
	(void)json_object_set_new(b->out, "recompute", json_string(modes[b->recompute]));
	(void)json_object_set_new(b->out, "memory", json_string(counted));
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
