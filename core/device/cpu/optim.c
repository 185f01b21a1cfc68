/* optim.c - AdamW as torch has it (optim/adam.py, decoupled decay) and the sum of squares for clipping.
 *
 * Per element in fp32, one rounding an operation, no contraction; scalars are computed in fp64 and rounded when used:
 *	g ← g·grad_scale;  p ← p·(1 - lr·wd);  m ← m + (1-β1)·(g - m);  v ← v·β2 + ((1-β2)·g)·g
 *	p ← p + (-(lr/(1-β1^t))·m) / (sqrt(v)/sqrt(1-β2^t) + eps)
 * sum_squares: fp64 sums of chunks of CHUNK elements (four partial sums), then the chunks in order. */
#include <math.h>

#include "core/device/cpu/cpu.h"

#define CHUNK 65536

struct adam_job {
	const struct ql_adamw *a;
	const struct ql_adamw_group *g;
};

static void adam_item(void *ctx, size_t item, int worker)
{
	const struct adam_job *j = ctx;
	const struct ql_adamw *a = j->a;
	uint64_t begin = j->g->begin + item * CHUNK, end = j->g->begin + j->g->count;
	size_t n = (size_t)(end - begin < CHUNK ? end - begin : CHUNK);
	float *restrict p = a->p + begin, *restrict m = a->m + begin, *restrict v = a->v + begin;
	const float *restrict g = a->g + begin;
	double bc1 = 1.0 - pow(a->beta1, (double)a->t), bc2 = 1.0 - pow(a->beta2, (double)a->t);
	const float decay = (float)(1.0 - j->g->lr * j->g->weight_decay), one_b1 = (float)(1.0 - a->beta1);
	const float b2 = (float)a->beta2, one_b2 = (float)(1.0 - a->beta2), step = (float)(-(j->g->lr / bc1));
	const float root = (float)sqrt(bc2), eps = (float)a->eps, gs = a->grad_scale;

	(void)worker;
	for (size_t i = 0; i < n; i++) {
		float gi = g[i] * gs, mi, vi;

		mi = m[i] + one_b1 * (gi - m[i]);
		vi = v[i] * b2 + (one_b2 * gi) * gi;
		m[i] = mi;
		v[i] = vi;
		p[i] = p[i] * decay + (step * mi) / (sqrtf(vi) / root + eps);
	}
}

int ql_cpu_adamw(struct ql_device *d, struct ql_queue *q, const struct ql_adamw *a, struct ql_err *e)
{
	(void)q;
	if (a->t == 0 || a->p == NULL || a->m == NULL || a->v == NULL || a->g == NULL)
		return ql_err_set(e, QL_EINVAL, "adamw: step 0 or a missing array");
	for (uint32_t i = 0; i < a->n_groups; i++) {
		struct adam_job j = {a, &a->groups[i]};

		ql_pool_run(ql_cpu_of(d)->pool, (size_t)((j.g->count + CHUNK - 1) / CHUNK), adam_item, &j);
	}
	return QL_OK;
}

struct squares_job {
	const float *g;
	uint64_t n;
	double *sums;
};

static void squares_item(void *ctx, size_t item, int worker)
{
	const struct squares_job *j = ctx;
	const float *g = j->g + item * CHUNK;
	size_t n = (size_t)(j->n - item * CHUNK < CHUNK ? j->n - item * CHUNK : CHUNK), i = 0;
	double s[4] = {0};

	(void)worker;
	for (; i + 4 <= n; i += 4)
		for (size_t l = 0; l < 4; l++)
			s[l] += (double)g[i + l] * (double)g[i + l];
	for (; i < n; i++)
		s[0] += (double)g[i] * (double)g[i];
	j->sums[item] = (s[0] + s[1]) + (s[2] + s[3]);
}

int ql_cpu_sum_squares(struct ql_device *d, struct ql_queue *q, const float *g, uint64_t n, double *host_out,
		       struct ql_err *e)
{
	struct ql_cpu *c = ql_cpu_of(d);
	size_t chunks = (size_t)((n + CHUNK - 1) / CHUNK);
	struct squares_job j = {g, n, NULL};
	double sum = 0.0;
	void *scratch;
	int rc = ql_cpu_scratch(c, chunks * sizeof(double), 0, &scratch, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	j.sums = scratch;
	ql_pool_run(c->pool, chunks, squares_item, &j);
	for (size_t i = 0; i < chunks; i++)
		sum += j.sums[i];
	*host_out = sum;
	return QL_OK;
}
