/* adam8.c - AdamW with moments kept as 8-bit codes in blocks of 256 (device.h, numerics.md §6.4).
 *
 * One rounding an operation, no contraction, so that gpu/adamw8.cu gives the same bits.  A block is decoded, updated and
 * encoded by itself; items are runs of blocks. */
#include <math.h>

#include "core/device/cpu/cpu.h"
#include "core/quant/kernels.h"

#define RUN 64 /* blocks of one item */

struct scalars {
	float decay, b1, one_b1, b2, one_b2, step, root, eps, gs, bound;
};

struct adam8_job {
	const struct ql_adam8 *a;
	const struct ql_adam8_group *g;
	struct scalars s;
};

static struct scalars scalars_of(const struct ql_adam8 *a, const struct ql_adam8_group *g)
{
	double bc1 = 1.0 - pow(a->beta1, (double)a->t), bc2 = 1.0 - pow(a->beta2, (double)a->t);

	return (struct scalars){.decay = (float)(1.0 - g->lr * g->weight_decay), .b1 = (float)a->beta1,
				.one_b1 = (float)(1.0 - a->beta1), .b2 = (float)a->beta2, .one_b2 = (float)(1.0 - a->beta2),
				.step = (float)(-(g->lr / bc1)), .root = (float)sqrt(bc2), .eps = (float)a->eps, .gs = a->grad_scale,
				.bound = (float)a->bound};
}

/* p, m and v of n parameters */
static void update(const struct scalars *s, size_t n, float *restrict p, const float *restrict g, float *restrict m,
		   float *restrict v)
{
	for (size_t i = 0; i < n; i++) {
		float gi = g[i] * s->gs, mi = m[i] * s->b1 + s->one_b1 * gi, vi = v[i] * s->b2 + (s->one_b2 * gi) * gi;

		m[i] = mi;
		v[i] = vi;
		p[i] = p[i] * s->decay + (s->step * mi) / (sqrtf(vi) / s->root + s->eps);
	}
}

/* v of code 0 is what code 1 stands for where m and v would otherwise break |m| ≤ bound·√v (device.h). */
static void keep_bound(const struct scalars *s, size_t n, const float *g, const float *m, float *v, const uint8_t *code, float least)
{
	for (size_t i = 0; i < n; i++) {
		float gi, mi, vi;

		if (code[i] != 0)
			continue;
		gi = g[i] * s->gs;
		mi = m[i] * s->b1 + s->one_b1 * gi;
		vi = v[i] * s->b2 + (s->one_b2 * gi) * gi;
		if (fabsf(mi) > s->bound * sqrtf(vi))
			v[i] = least;
	}
}

static void decode(const uint8_t *code, const float *map, float absmax, size_t n, float *x)
{
	for (size_t i = 0; i < n; i++)
		x[i] = map[code[i]] * absmax;
}

/* Returns the new absmax.  map: the signed one; NULL: x ≥ 0 by the unsigned one. */
static float encode(const float *x, const struct ql_dynamic *d, const float *map, size_t n, uint8_t *code)
{
	float top = 0.0f, r;

	for (size_t i = 0; i < n; i++)
		top = fabsf(x[i]) > top ? fabsf(x[i]) : top;
	r = 1.0f / (top > QL_SCALE_FLOOR ? top : QL_SCALE_FLOOR);
	for (size_t i = 0; i < n; i++) {
		uint8_t c = ql_dynamic_code(d, x[i] * r);

		if (map != NULL && x[i] != 0.0f && signbit(map[c]) != signbit(x[i]))
			c = (uint8_t)(x[i] > 0.0f ? c + 1 : c - 1);
		code[i] = c;
	}
	return top;
}

static void block(const struct adam8_job *j, size_t b)
{
	const struct ql_adam8 *a = j->a;
	const struct ql_adam8_block *k = &a->blocks[b];
	float m[QL_ADAM8_BLOCK], v[QL_ADAM8_BLOCK];

	if (k->small != QL_ADAM8_CODED) {
		update(&j->s, k->count, a->p + k->begin, a->g + k->begin, a->m32 + k->small, a->v32 + k->small);
		return;
	}
	decode(a->m + k->begin, a->maps, a->m_absmax[b], k->count, m);
	decode(a->v + k->begin, a->maps + 256, a->v_absmax[b], k->count, v);
	keep_bound(&j->s, k->count, a->g + k->begin, m, v, a->v + k->begin, a->maps[256 + 1] * a->v_absmax[b]);
	update(&j->s, k->count, a->p + k->begin, a->g + k->begin, m, v);
	a->m_absmax[b] = encode(m, ql_dynamic_of(true), a->maps, k->count, a->m + k->begin);
	a->v_absmax[b] = encode(v, ql_dynamic_of(false), NULL, k->count, a->v + k->begin);
}

static void adam8_item(void *ctx, size_t item, int worker)
{
	const struct adam8_job *j = ctx;
	size_t begin = item * RUN, end = ql_min(begin + RUN, j->g->n_blocks);

	(void)worker;
	for (size_t b = begin; b < end; b++)
		block(j, j->g->block_begin + b);
}

int ql_cpu_adam8(struct ql_device *d, struct ql_queue *q, const struct ql_adam8 *a, struct ql_err *e)
{
	(void)q;
	if (a->t == 0 || a->p == NULL || a->g == NULL || a->m == NULL || a->v == NULL || a->m_absmax == NULL ||
	    a->v_absmax == NULL || a->blocks == NULL || a->maps == NULL)
		return ql_err_set(e, QL_EINVAL, "adam8: step 0 or a missing array");
	for (uint32_t i = 0; i < a->n_groups; i++) {
		struct adam8_job j = {a, &a->groups[i], scalars_of(a, &a->groups[i])};

		ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(j.g->n_blocks, RUN), adam8_item, &j);
	}
	return QL_OK;
}
