/* ref_linear.h - a linear layer with adapters in plain fp64, forward and backward, for the tests of both.
 * numerics: y = x·Wᵀ + bias + residual + s·S·Bᵀ, S = (M⊙x)·Aᵀ; dS = s·dy·B, dA = dSᵀ·(M⊙x), dB = s·dyᵀ·S,
 * dx = dy·W + M⊙(dS·A). */
#ifndef QL_TESTS_REF_LINEAR_H
#define QL_TESTS_REF_LINEAR_H

#include "core/base/philox.h"
#include "tests/unit/device/devtest.h"

struct ref_seg { /* adapters of rows [begin, end), host copies */
	uint32_t begin, end, r[QL_PARTS_MAX];
	float scale, dropout;
	float *a[QL_PARTS_MAX], *b[QL_PARTS_MAX]; /* [r, in], [out, r] */
	uint64_t seed, token_base;
	uint32_t step;
};

struct ref_linear {
	uint32_t T, in, n_parts, out[QL_PARTS_MAX], total;
	const double *w; /* [total, in] */
	const struct ref_seg *segs;
	uint32_t n_segs;
};

static inline double ref_mask(const struct ref_linear *l, const struct ref_seg *s, uint32_t part, uint32_t row, uint32_t c)
{
	uint64_t e = (s->token_base + (row - s->begin)) * l->in + c;
	uint32_t word[4], threshold = (uint32_t)((double)s->dropout * 0x1p32);

	if (!(s->dropout > 0.0f))
		return 1.0;
	ql_philox((uint32_t)(e >> 2), (uint32_t)(e >> 34), s->step, 16 + part, s->seed, word);
	return word[e & 3] >= threshold ? 1.0 / (1.0 - (double)s->dropout) : 0.0;
}

/* S of one row and part: s[r] */
static inline void ref_s(const struct ref_linear *l, const struct ref_seg *g, uint32_t part, const double *x, uint32_t row,
			 double *s)
{
	for (uint32_t j = 0; j < g->r[part]; j++) {
		s[j] = 0;
		for (uint32_t c = 0; c < l->in; c++)
			s[j] += ref_mask(l, g, part, row, c) * x[(size_t)row * l->in + c] * (double)g->a[part][j * l->in + c];
	}
}

/* y [T, total] = base + adapters (no bias, no residual) */
static inline void ref_forward(const struct ref_linear *l, const double *x, double *y)
{
	double s[256];

	for (uint32_t t = 0; t < l->T; t++)
		for (uint32_t o = 0; o < l->total; o++) {
			double v = 0;

			for (uint32_t c = 0; c < l->in; c++)
				v += x[(size_t)t * l->in + c] * l->w[(size_t)o * l->in + c];
			y[(size_t)t * l->total + o] = v;
		}
	for (uint32_t i = 0; i < l->n_segs; i++)
		for (uint32_t t = l->segs[i].begin; t < l->segs[i].end; t++)
			for (uint32_t p = 0, o0 = 0; p < l->n_parts; o0 += l->out[p++]) {
				const struct ref_seg *g = &l->segs[i];

				ref_s(l, g, p, x, t, s);
				for (uint32_t o = 0; o < l->out[p]; o++)
					for (uint32_t j = 0; j < g->r[p]; j++)
						y[(size_t)t * l->total + o0 + o] +=
							(double)g->scale * s[j] * (double)g->b[p][o * g->r[p] + j];
			}
}

/* dx [T, in]; da, db per segment and part ([r, in], [out, r]), added to what is there */
static inline void ref_backward(const struct ref_linear *l, const double *x, const double *dy, double *dx,
				double *const da[][QL_PARTS_MAX], double *const db[][QL_PARTS_MAX])
{
	double s[256], ds[256];

	for (uint32_t t = 0; t < l->T; t++)
		for (uint32_t c = 0; c < l->in; c++) {
			double v = 0;

			for (uint32_t o = 0; o < l->total; o++)
				v += dy[(size_t)t * l->total + o] * l->w[(size_t)o * l->in + c];
			dx[(size_t)t * l->in + c] = v;
		}
	for (uint32_t i = 0; i < l->n_segs; i++)
		for (uint32_t t = l->segs[i].begin; t < l->segs[i].end; t++)
			for (uint32_t p = 0, o0 = 0; p < l->n_parts; o0 += l->out[p++]) {
				const struct ref_seg *g = &l->segs[i];
				const double *d = dy + (size_t)t * l->total + o0;

				ref_s(l, g, p, x, t, s);
				for (uint32_t j = 0; j < g->r[p]; j++) {
					ds[j] = 0;
					for (uint32_t o = 0; o < l->out[p]; o++) {
						ds[j] += (double)g->scale * d[o] * (double)g->b[p][o * g->r[p] + j];
						db[i][p][o * g->r[p] + j] += (double)g->scale * d[o] * s[j];
					}
					for (uint32_t c = 0; c < l->in; c++) {
						double m = ref_mask(l, g, p, t, c);

						da[i][p][j * l->in + c] += ds[j] * m * x[(size_t)t * l->in + c];
						dx[(size_t)t * l->in + c] += m * ds[j] * (double)g->a[p][j * l->in + c];
					}
				}
			}
}

/* random adapters for n_segs segments; rows as given in begin/end, ranks ranks[p] (0 allowed) */
static inline void ref_segs(struct ref_linear *l, struct ref_seg *segs, uint32_t n, const uint32_t ranks[QL_PARTS_MAX],
			    float dropout)
{
	for (uint32_t i = 0; i < n; i++) {
		segs[i].scale = 0.5f + (float)i;
		segs[i].dropout = dropout;
		segs[i].seed = 0x123456789abcdefu + i;
		segs[i].token_base = 1000 * i + 3;
		segs[i].step = 5 + i;
		for (uint32_t p = 0; p < l->n_parts; p++) {
			size_t na, nb;

			segs[i].r[p] = ranks[p];
			na = (size_t)ranks[p] * l->in;
			nb = (size_t)ranks[p] * l->out[p];
			segs[i].a[p] = dt_randn(na, 1.0 / sqrt((double)l->in));
			segs[i].b[p] = dt_randn(nb, 0.5);
		}
	}
	l->segs = segs;
	l->n_segs = n;
}

/* the same on the device; da and db (may be NULL) are device arrays made here, holding `init` */
static inline struct ql_lora_seg *ref_upload(const struct ref_linear *l, bool grads, float init)
{
	struct ql_lora_seg *out = dt_host((l->n_segs == 0 ? 1 : l->n_segs) * sizeof *out);

	for (uint32_t i = 0; i < l->n_segs; i++) {
		const struct ref_seg *g = &l->segs[i];

		out[i] = (struct ql_lora_seg){.row_begin = g->begin, .row_end = g->end, .dropout = g->dropout,
					      .seed = g->seed, .token_base = g->token_base, .step = g->step};
		for (uint32_t p = 0; p < l->n_parts; p++) {
			size_t na = (size_t)g->r[p] * l->in, nb = (size_t)g->r[p] * l->out[p];
			float *fill = dt_host((na + nb + 1) * 4);

			out[i].site[p] = 16 + p;
			for (size_t k = 0; k < na + nb; k++)
				fill[k] = init;
			out[i].part[p] = (struct ql_lora){.r = g->r[p], .scale = g->scale};
			if (g->r[p] == 0)
				continue;
			out[i].part[p].a = dt_up(g->a[p], na * 4);
			out[i].part[p].b = dt_up(g->b[p], nb * 4);
			out[i].part[p].da = grads ? dt_up(fill, na * 4) : NULL;
			out[i].part[p].db = grads ? dt_up(fill, nb * 4) : NULL;
		}
	}
	return out;
}

static inline double *ref_widen(const float *x, size_t n)
{
	double *d = dt_host(n * sizeof *d);

	for (size_t i = 0; i < n; i++)
		d[i] = (double)x[i];
	return d;
}

#endif
