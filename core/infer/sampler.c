/* sampler.c - see sampler.h. */
#include "core/infer/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/philox.h"

struct candidate {
	float p;
	int32_t id;
};

struct ql_sampler {
	uint32_t vocab;
	struct candidate *c;
	uint8_t *seen; /* is it in the row at hand?  zero between calls */
};

int ql_sampler_new(struct ql_sampler **out, uint32_t vocab, struct ql_err *e)
{
	struct ql_sampler *s = calloc(1, sizeof *s);

	*out = NULL;
	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "sampler");
	s->vocab = vocab;
	s->c = malloc((size_t)vocab * sizeof *s->c);
	s->seen = calloc(vocab, sizeof *s->seen);
	if (s->c == NULL || s->seen == NULL) {
		ql_sampler_free(s);
		return ql_err_set(e, QL_ENOMEM, "sampler for %u tokens", vocab);
	}
	*out = s;
	return QL_OK;
}

void ql_sampler_free(struct ql_sampler *s)
{
	if (s == NULL)
		return;
	free(s->c);
	free(s->seen);
	free(s);
}

static int32_t argmax(const float *z, uint32_t n)
{
	uint32_t best = 0;

	for (uint32_t i = 1; i < n; i++)
		if (z[i] > z[best])
			best = i;
	return (int32_t)best;
}

static void penalise(struct ql_sampler *s, float *z, const struct ql_sampling *p, const int32_t *history, size_t n_prompt,
		     size_t n)
{
	if (p->repetition_penalty != 1.0) {
		float r = (float)p->repetition_penalty;

		for (size_t i = 0; i < n; i++) {
			int32_t t = history[i];

			if (s->seen[t] == 0)
				z[t] = z[t] > 0 ? z[t] / r : z[t] * r;
			s->seen[t] = 1;
		}
		for (size_t i = 0; i < n; i++)
			s->seen[history[i]] = 0;
	}
	if (p->presence_penalty == 0 && p->frequency_penalty == 0)
		return;
	for (size_t i = n_prompt; i < n; i++) {
		int32_t t = history[i];

		z[t] -= (float)(p->frequency_penalty + (s->seen[t] == 0 ? p->presence_penalty : 0));
		s->seen[t] = 1;
	}
	for (size_t i = n_prompt; i < n; i++)
		s->seen[history[i]] = 0;
}

static int by_p(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->p != y->p)
		return x->p < y->p ? 1 : -1;
	return x->id < y->id ? -1 : 1;
}

/* The sorted head of the distribution that top_k, top_p and min_p leave: candidates above a falling bar are collected until they hold
 * enough probability or number, or the bar is below min_p, so the whole vocabulary is rarely sorted. */
static size_t sorted_head(struct ql_sampler *s, const float *prob, float pmax, double total, const struct ql_sampling *p)
{
	static const float bars[] = {1e-2f, 1e-4f, 1e-6f, 0};
	size_t n = 0;

	for (int b = 0; b < 4; b++) {
		double sum = 0;

		n = 0;
		for (uint32_t i = 0; i < s->vocab; i++)
			if (prob[i] > 0 && prob[i] >= bars[b] * pmax) {
				s->c[n++] = (struct candidate){prob[i], (int32_t)i};
				sum += (double)prob[i];
			}
		if ((p->top_k > 0 && n >= p->top_k) || sum >= p->top_p * total ||
		    (p->top_k == 0 && (double)bars[b] <= p->min_p))
			break;
	}
	qsort(s->c, n, sizeof *s->c, by_p);
	return n;
}

static size_t cut(const struct candidate *c, size_t n, double total, const struct ql_sampling *p)
{
	double sum = 0, limit = 0;
	size_t keep = 0;

	if (p->top_k > 0 && n > p->top_k) {
		n = p->top_k;
		total = 0;
		for (size_t i = 0; i < n; i++)
			total += (double)c[i].p;
	}
	limit = p->top_p * total;
	while (keep < n) {
		sum += (double)c[keep++].p;
		if (sum >= limit)
			break;
	}
	while (keep > 1 && (double)c[keep - 1].p < p->min_p * (double)c[0].p)
		keep--;
	return keep;
}

int32_t ql_sample(struct ql_sampler *s, float *z, const struct ql_sampling *p, const int32_t *history, size_t n_prompt,
		  size_t n_history, const int32_t *barred, size_t n_barred, uint32_t choice)
{
	size_t index = n_history - n_prompt, n;
	float zmax, T = (float)p->temperature; /* one too small for a float is 0 */
	double total = 0, run = 0, u;
	uint32_t w[4];

	for (uint32_t i = 0; i < p->n_bias; i++)
		z[p->bias[i].token] += p->bias[i].bias;
	penalise(s, z, p, history, n_prompt, n_history);
	for (size_t i = 0; i < n_barred; i++)
		z[barred[i]] = -INFINITY;
	if (!(T > 0) || p->top_p <= 0)
		return argmax(z, s->vocab);
	zmax = z[argmax(z, s->vocab)];
	for (uint32_t i = 0; i < s->vocab; i++) {
		z[i] = expf((z[i] - zmax) / T);
		total += (double)z[i];
	}
	ql_philox((uint32_t)index, (uint32_t)((uint64_t)index >> 32), choice, (uint32_t)QL_RNG_SAMPLE << 24, p->seed, w);
	u = ((double)w[0] * 4294967296.0 + (double)w[1]) / 18446744073709551616.0;
	if (p->top_k == 0 && p->top_p >= 1 && p->min_p <= 0) {
		for (uint32_t i = 0; i < s->vocab; i++) {
			run += (double)z[i];
			if (run > u * total)
				return (int32_t)i;
		}
		return argmax(z, s->vocab);
	}
	n = cut(s->c, sorted_head(s, z, 1.0f, total, p), total, p);
	total = 0;
	for (size_t i = 0; i < n; i++)
		total += (double)s->c[i].p;
	for (size_t i = 0; i < n; i++) {
		run += (double)s->c[i].p;
		if (run > u * total)
			return s->c[i].id;
	}
	return s->c[0].id;
}

float ql_logprob(const float *z, uint32_t vocab, int32_t token, struct ql_alt *top, uint32_t n_top)
{
	float zmax = z[argmax(z, vocab)];
	uint32_t have = 0;
	double sum = 0, lse;

	for (uint32_t i = 0; i < vocab; i++)
		sum += (double)expf(z[i] - zmax);
	lse = log(sum) + (double)zmax;
	for (uint32_t i = 0; n_top > 0 && i < vocab; i++) { /* insertion into a short sorted list */
		uint32_t at = have;

		if (have == n_top && z[i] <= top[have - 1].logprob)
			continue;
		while (at > 0 && top[at - 1].logprob < z[i])
			at--;
		if (have < n_top)
			have++;
		memmove(top + at + 1, top + at, (size_t)(have - 1 - at) * sizeof *top);
		top[at] = (struct ql_alt){(int32_t)i, z[i]};
	}
	for (uint32_t i = 0; i < have; i++)
		top[i].logprob = (float)((double)top[i].logprob - lse);
	return (float)((double)z[token] - lse);
}
