/* linear.c - the QLoRA linear of the public interface: formulas in qlorad.h, fp64 sums in index order, rows of W dequantised
 * one at a time. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "lib/priv.h"

struct qlora_linear {
	struct qlora_q4 *base;
	uint64_t out, in, rank;
	double scale;
	float *a, *b;
};

/* splitmix64, one draw per element, so that the values depend on seed and index alone. */
static double uniform(uint64_t seed, uint64_t i)
{
	uint64_t z = seed + (i + 1) * 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

int qlora_linear_new(qlora_linear **out, const float *weight, uint64_t out_features, uint64_t in_features,
		     const struct qlora_linear_options *options, struct qlora_error *err)
{
	const struct qlora_linear_options defaults = QLORA_LINEAR_OPTIONS_INIT, *o = options != NULL ? options : &defaults;
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct qlora_linear *l;
	size_t na, nb;
	int rc;

	*out = NULL;
	if (o->size < sizeof defaults || o->rank == 0 || o->rank > 65536 || !isfinite(o->alpha))
		return lib_done(ql_err_set(&e, QL_EINVAL, "options: size is not set, or rank or alpha is out of range"), &e, err);
	if (!ql_mul_size(in_features, (size_t)o->rank * sizeof(float), &na) ||
	    !ql_mul_size(out_features, (size_t)o->rank * sizeof(float), &nb))
		return lib_done(ql_err_set(&e, QL_ESHAPE, "the layer is too large"), &e, err);
	l = calloc(1, sizeof *l);
	if (l == NULL)
		return lib_done(ql_err_set(&e, QL_ENOMEM, "no memory for a layer"), &e, err);
	*l = (struct qlora_linear){.out = out_features, .in = in_features, .rank = o->rank};
	l->scale = o->alpha / (o->rslora ? sqrt((double)o->rank) : (double)o->rank);
	rc = qlora_q4_quantize(&l->base, weight, QLORA_F32, out_features, in_features, &o->q4, err);
	if (rc == QL_OK) {
		l->a = malloc(na);
		l->b = calloc(1, nb);
		if (l->a == NULL || l->b == NULL)
			rc = lib_done(ql_err_set(&e, QL_ENOMEM, "no memory for the adapter"), &e, err);
	}
	for (size_t i = 0; rc == QL_OK && i < na / sizeof(float); i++)
		l->a[i] = (float)((2.0 * uniform(o->seed, i) - 1.0) / sqrt((double)in_features));
	if (rc != QL_OK)
		qlora_linear_free(l);
	else
		*out = l;
	return rc;
}

float *qlora_linear_a(qlora_linear *l) { return l->a; }
float *qlora_linear_b(qlora_linear *l) { return l->b; }
const qlora_q4 *qlora_linear_base(const qlora_linear *l) { return l->base; }
double qlora_linear_scale(const qlora_linear *l) { return l->scale; }

void qlora_linear_free(qlora_linear *l)
{
	if (l == NULL)
		return;
	qlora_q4_free(l->base);
	free(l->a);
	free(l->b);
	free(l);
}

static double dot(const float *x, const float *y, uint64_t n)
{
	double s = 0;

	for (uint64_t i = 0; i < n; i++)
		s += (double)x[i] * (double)y[i];
	return s;
}

/* u [n, rank] = x·Aᵀ */
static void down(const struct qlora_linear *l, const float *x, uint64_t n, double *u)
{
	for (uint64_t i = 0; i < n; i++)
		for (uint64_t k = 0; k < l->rank; k++)
			u[i * l->rank + k] = dot(x + i * l->in, l->a + k * l->in, l->in);
}

/* Memory for one row of W and `doubles` sums; *row and *sums are malloc'ed. */
static int scratch(const struct qlora_linear *l, uint64_t n, uint64_t each, float **row, double **sums, struct ql_err *e)
{
	size_t bytes;

	*row = NULL;
	*sums = NULL;
	if (!ql_mul_size(n, each, &bytes) || !ql_mul_size(bytes, sizeof(double), &bytes))
		return ql_err_set(e, QL_ESHAPE, "%llu rows are too many", (unsigned long long)n);
	*row = malloc(l->in * sizeof **row);
	*sums = calloc(1, bytes + 1);
	return *row == NULL || *sums == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for the layer's sums") : QL_OK;
}

int qlora_linear_forward(const qlora_linear *l, const float *x, uint64_t n, float *y, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	double *u;
	float *w;
	int rc = scratch(l, n, l->rank, &w, &u, &e);

	if (rc == QL_OK)
		down(l, x, n, u);
	for (uint64_t o = 0; rc == QL_OK && o < l->out; o++) {
		rc = ql_q4_dequantize(&l->base->q, o * l->in, l->in, w, QL_F32, NULL, &e);
		for (uint64_t i = 0; rc == QL_OK && i < n; i++) {
			double s = 0;

			for (uint64_t k = 0; k < l->rank; k++)
				s += u[i * l->rank + k] * (double)l->b[o * l->rank + k];
			y[i * l->out + o] = (float)(dot(x + i * l->in, w, l->in) + l->scale * s);
		}
	}
	free(w);
	free(u);
	return lib_done(rc, &e, err);
}

/* db = s·dyᵀ·u, da = s·vᵀ·x with v = dy·B; sums over the n rows in order. */
static void adapter_grads(const struct qlora_linear *l, const float *x, const float *dy, uint64_t n, const double *u,
			  const double *v, float *da, float *db)
{
	for (uint64_t o = 0; db != NULL && o < l->out; o++)
		for (uint64_t k = 0; k < l->rank; k++) {
			double s = 0;

			for (uint64_t i = 0; i < n; i++)
				s += (double)dy[i * l->out + o] * u[i * l->rank + k];
			db[o * l->rank + k] = (float)(l->scale * s);
		}
	for (uint64_t k = 0; da != NULL && k < l->rank; k++)
		for (uint64_t c = 0; c < l->in; c++) {
			double s = 0;

			for (uint64_t i = 0; i < n; i++)
				s += v[i * l->rank + k] * (double)x[i * l->in + c];
			da[k * l->in + c] = (float)(l->scale * s);
		}
}

/* dx = dy·W + s·v·A; acc [n, in] is zeroed. */
static int input_grad(const struct qlora_linear *l, const float *dy, uint64_t n, const double *v, float *w, double *acc,
		      float *dx, struct ql_err *e)
{
	int rc = QL_OK;

	for (uint64_t o = 0; rc == QL_OK && o < l->out; o++) {
		rc = ql_q4_dequantize(&l->base->q, o * l->in, l->in, w, QL_F32, NULL, e);
		for (uint64_t i = 0; rc == QL_OK && i < n; i++)
			for (uint64_t c = 0; c < l->in; c++)
				acc[i * l->in + c] += (double)dy[i * l->out + o] * (double)w[c];
	}
	for (uint64_t i = 0; rc == QL_OK && i < n; i++)
		for (uint64_t c = 0; c < l->in; c++) {
			double s = 0;

			for (uint64_t k = 0; k < l->rank; k++)
				s += v[i * l->rank + k] * (double)l->a[k * l->in + c];
			dx[i * l->in + c] = (float)(acc[i * l->in + c] + l->scale * s);
		}
	return rc;
}

int qlora_linear_backward(const qlora_linear *l, const float *x, const float *dy, uint64_t n, float *dx, float *da, float *db,
			  struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	double *sums, *u, *v, *acc;
	float *w;
	int rc = scratch(l, n, 2 * l->rank + (dx != NULL ? l->in : 0), &w, &sums, &e);

	if (rc == QL_OK) {
		u = sums;
		v = u + n * l->rank;
		acc = v + n * l->rank;
		down(l, x, n, u);
		for (uint64_t i = 0; i < n; i++)
			for (uint64_t o = 0; o < l->out; o++)
				for (uint64_t k = 0; k < l->rank; k++)
					v[i * l->rank + k] += (double)dy[i * l->out + o] * (double)l->b[o * l->rank + k];
		adapter_grads(l, x, dy, n, u, v, da, db);
		if (dx != NULL)
			rc = input_grad(l, dy, n, v, w, acc, dx, &e);
	}
	free(w);
	free(sums);
	return lib_done(rc, &e, err);
}

int qlora_linear_merge(const qlora_linear *l, float *w, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	int rc = ql_q4_dequantize(&l->base->q, 0, l->out * l->in, w, QL_F32, NULL, &e);

	for (uint64_t o = 0; rc == QL_OK && o < l->out; o++)
		for (uint64_t c = 0; c < l->in; c++) {
			double s = 0;

			for (uint64_t k = 0; k < l->rank; k++)
				s += (double)l->b[o * l->rank + k] * (double)l->a[k * l->in + c];
			w[o * l->in + c] = (float)((double)w[o * l->in + c] + l->scale * s);
		}
	return lib_done(rc, &e, err);
}
