/* xent.c - the head and the loss in one op: z = h·Wᵀ, nll = logsumexp(z) - z_label, dh = s·(softmax(z) - onehot)·W.
 *
 * Scored rows are gathered CHUNK at a time (chosen by the vocabulary so that the logits of a chunk stay below LOGIT_BYTES);
 * logits of all tokens never exist together.  For each chunk: (1) logits, items = blocks of panels; (2) one item a row:
 * maximum, log-sum-exp (fp32 exponentials, fp64 sum), nll, argmax, and the row turned into its gradient in place; (3) dh:
 * the vocabulary cut into at most SPLITS ranges, each range's partial product in scratch, added in order of the ranges.
 * With a soft cap c the logits are c·tanh(z/c) and the gradient has the factor 1 - tanh²(z/c) more. */
#include <math.h>
#include <string.h>

#include "core/device/cpu/cpu.h"

#define LOGIT_BYTES ((size_t)64 << 20)
#define CHUNK_MAX 384
#define SPLITS 16
#define COLS (QL_NB * QL_PW)

struct job {
	struct ql_cpu *c;
	const struct ql_xent *a;
	const struct ql_weight *w;
	size_t done, n;	       /* rows before this chunk, rows of it */
	size_t ld;	       /* of logits */
	size_t range, n_ranges; /* panels in a range */
	float *h, *z, *part;   /* [n, d], [n, vocab], [n_ranges][n, d] */
	char *scratch;
	size_t shared, per_worker;
};

static void logits_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_weight *w = j->w;
	uint32_t p0 = (uint32_t)i * QL_NB, p1 = (uint32_t)ql_min(p0 + QL_NB, w->panel[1]);
	size_t n0 = (size_t)p0 * QL_PW, n = ql_min((size_t)(p1 - p0) * QL_PW, w->out - n0), d = w->s.in;
	float *b = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker);

	for (size_t k0 = 0; k0 < d; k0 += QL_KC) {
		size_t kn = ql_min(QL_KC, d - k0), stride = (size_t)QL_KC * QL_PW;
		const float *panels = b;

		if (w->store == QL_F32) {
			panels = ql_cpu_panel(j->c->k, w, p0, k0, kn, NULL);
			stride = w->panel_bytes / sizeof(float);
		} else {
			for (uint32_t p = p0; p < p1; p++)
				(void)ql_cpu_panel(j->c->k, w, p, k0, kn, b + (p - p0) * stride);
		}
		j->c->k->gemm(j->n, n, kn, j->h + k0, d, 1, panels, stride, QL_PW, j->z + n0, j->ld, k0 > 0);
	}
}

static void row_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_kern *k = j->c->k;
	float *z = j->z + i * j->ld;
	size_t vocab = j->w->out, at = j->done + i;
	uint32_t label = (uint32_t)j->a->labels[at];
	bool cap = j->a->softcap > 0.0f;
	float *slope = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker), best;
	double sum, lse;

	if (cap)
		k->softcap(z, vocab, 1.0f, j->a->softcap, slope);
	best = k->max(z, vocab);
	sum = k->exp_only_sum(z, vocab, best);
	lse = (double)best + log(sum);
	j->a->nll[at] = (float)(lse - (double)z[label]);
	if (j->a->argmax != NULL) {
		size_t m = 0;

		while (m + 1 < vocab && z[m] != best)
			m++;
		j->a->argmax[at] = (int32_t)(z[m] == best ? m : 0);
	}
	if (j->a->dhidden.data != NULL) { /* exp(z - lse)·s, in place */
		float s = j->a->grad_scale;

		(void)k->exp_sum(z, vocab, 1.0f, best);
		k->scale((float)((double)s / sum), z, vocab);
		z[label] -= s;
		for (size_t c = 0; cap && c < vocab; c++)
			z[c] *= slope[c];
	}
}

static void grad_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_weight *w = j->w;
	const struct ql_kern *k = j->c->k;
	size_t d = w->s.in, v0 = i * j->range * QL_PW, v1 = ql_min(v0 + j->range * QL_PW, w->out);
	float *b = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker), *tmp = b + QL_KC * COLS;
	float *out = j->part + i * j->n * d;

	for (size_t k0 = v0; k0 < v1; k0 += QL_KC) {
		size_t kn = ql_min(QL_KC, v1 - k0);

		for (size_t c0 = 0; c0 < d; c0 += COLS) {
			size_t n = ql_min(COLS, d - c0);

			for (size_t o = 0; o < kn; o += QL_PW) {
				const float *src = ql_cpu_panel(k, w, (uint32_t)((k0 + o) / QL_PW), c0, n, tmp);

				for (size_t c = 0; c < n; c += QL_PW)
					k->pack_t(src + c * QL_PW, QL_PW, (uint32_t)ql_min(QL_PW, n - c),
						  ql_min(QL_PW, kn - o), 1.0f, b + c * QL_KC + o * QL_PW);
			}
			k->gemm(j->n, n, kn, j->z + k0, j->ld, 1, b, (size_t)QL_KC * QL_PW, QL_PW, out + c0, d, k0 > v0);
		}
	}
}

static void reduce_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	size_t d = j->w->s.in;
	float *dst = ql_row(&j->a->dhidden, (size_t)j->a->rows[j->done + i]);

	(void)worker;
	memcpy(dst, j->part + i * d, d * sizeof *dst);
	for (size_t r = 1; r < j->n_ranges; r++)
		j->c->k->axpy(1.0f, j->part + (r * j->n + i) * d, dst, d);
}

static int check(const struct ql_xent *a, struct ql_err *e)
{
	int rc = ql_cpu_check(&a->hidden, "cross_entropy", "hidden", a->hidden.rows, a->head->s.in, e);

	if (rc == QL_OK && a->dhidden.data != NULL)
		rc = ql_cpu_check(&a->dhidden, "cross_entropy", "dhidden", a->hidden.rows, a->head->s.in, e);
	if (rc != QL_OK)
		return rc;
	if (!(a->softcap >= 0.0f))
		return ql_err_param(e, QL_EINVAL, "softcap", "cross_entropy: softcap must not be negative");
	if (a->head->s.n_parts != 1)
		return ql_err_set(e, QL_ESHAPE, "cross_entropy: the head has %u parts", a->head->s.n_parts);
	for (size_t i = 0; i < a->n; i++)
		if (a->rows[i] < 0 || (uint32_t)a->rows[i] >= a->hidden.rows || a->labels[i] < 0 ||
		    (uint32_t)a->labels[i] >= a->head->out || (i > 0 && a->rows[i] <= a->rows[i - 1]))
			return ql_err_set(e, QL_EINVAL, "cross_entropy: target %zu: row %d, label %d", i, a->rows[i],
					  a->labels[i]);
	return QL_OK;
}

int ql_cpu_cross_entropy(struct ql_device *d, struct ql_queue *q, const struct ql_xent *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .a = a, .w = a->head};
	size_t chunk, dim = a->head->s.in, vocab = a->head->out;
	bool grad = a->dhidden.data != NULL;
	void *scratch;
	int rc = check(a, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	chunk = LOGIT_BYTES / (vocab * sizeof(float)) / 12 * 12;
	chunk = ql_min(a->n, chunk < 12 ? 12 : chunk > CHUNK_MAX ? CHUNK_MAX : chunk);
	j.ld = (vocab + 15) / 16 * 16 + 16; /* the 16: a stride of whole pages would put every row in the same cache sets */
	j.range = ql_ceil_div(ql_ceil_div(j.w->panel[1], SPLITS), QL_KC / QL_PW) * (QL_KC / QL_PW);
	j.n_ranges = ql_ceil_div(j.w->panel[1], j.range);
	j.shared = (chunk * dim * (1 + (grad ? j.n_ranges : 0)) + chunk * j.ld) * sizeof(float);
	j.per_worker = (size_t)2 * QL_KC * COLS * sizeof(float);
	if (a->softcap > 0.0f && vocab * sizeof(float) > j.per_worker)
		j.per_worker = vocab * sizeof(float);
	rc = ql_cpu_scratch(j.c, j.shared, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	j.z = scratch;
	j.h = j.z + chunk * j.ld;
	j.part = j.h + chunk * dim;
	for (size_t t = 0; grad && t < a->dhidden.rows; t++)
		memset(ql_row(&a->dhidden, t), 0, dim * sizeof(float));
	for (j.done = 0; j.done < a->n; j.done += j.n) {
		j.n = ql_min(chunk, a->n - j.done);
		for (size_t i = 0; i < j.n; i++)
			memcpy(j.h + i * dim, ql_row(&a->hidden, (size_t)a->rows[j.done + i]), dim * sizeof(float));
		ql_pool_run(j.c->pool, ql_ceil_div(j.w->panel[1], QL_NB), logits_item, &j);
		ql_pool_run(j.c->pool, j.n, row_item, &j);
		if (grad) {
			ql_pool_run(j.c->pool, j.n_ranges, grad_item, &j);
			ql_pool_run(j.c->pool, j.n, reduce_item, &j);
		}
	}
	return QL_OK;
}
