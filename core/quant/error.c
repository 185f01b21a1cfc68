/* error.c - how far a quantised tensor is from its source: RMSE, relative RMSE, largest error, cosine.  fp64 sums in
 * index order within a call, added up over calls, so a tensor can be compared in pieces. */
#include <math.h>

#include "core/quant/strategy.h"

void ql_quant_sums_add(struct ql_quant_sums *s, const float *a, const float *b, uint64_t n)
{
	double diff2 = 0.0, a2 = 0.0, b2 = 0.0, ab = 0.0, top = s->max_abs;

	for (uint64_t i = 0; i < n; i++) {
		double x = (double)a[i], y = (double)b[i], d = x - y, m = fabs(d);

		diff2 += d * d;
		a2 += x * x;
		b2 += y * y;
		ab += x * y;
		top = m > top || isnan(m) ? m : top;
	}
	s->n += n;
	s->diff2 += diff2;
	s->a2 += a2;
	s->b2 += b2;
	s->ab += ab;
	s->max_abs = top;
}

struct ql_quant_error ql_quant_error_of(const struct ql_quant_sums *s)
{
	struct ql_quant_error r = {0};

	r.rmse = s->n == 0 ? 0.0 : sqrt(s->diff2 / (double)s->n);
	r.rel_rmse = s->diff2 == 0.0 ? 0.0 : sqrt(s->diff2 / s->a2);
	r.max_abs = s->max_abs;
	if (s->a2 == 0.0 && s->b2 == 0.0)
		r.cosine = 1.0;
	else if (s->a2 != 0.0 && s->b2 != 0.0)
		r.cosine = s->ab / (sqrt(s->a2) * sqrt(s->b2));
	return r;
}
