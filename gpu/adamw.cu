/* adamw.cu - AdamW with fp32 state, decay first; scalars fp64 on the host, rounded to fp32 where used; bit-equal to the CPU.
 *   g' = g·grad_scale;  p ← p·(1 - lr·wd);  m ← m + (1-β1)·(g' - m);  v ← β2·v + ((1-β2)·g')·g'
 *   p ← p + (-(lr/(1-β1^t))·m) / (sqrt(v)/sqrt(1-β2^t) + eps)          p, m, v, g f32, flat; groups are ranges of them */
#include <math.h>

#include "gpu/kernel.h"

struct adamw_scalars {
	float decay, one_b1, b2, one_b2, step, root, eps, grad_scale;
};

__global__ void __launch_bounds__(256) adamw_kernel(float *__restrict__ p, float *__restrict__ m, float *__restrict__ v, const float *__restrict__ g,
						    uint64_t n, struct adamw_scalars s)
{
	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += (uint64_t)gridDim.x * 256) {
		const float gi = __fmul_rn(g[i], s.grad_scale);
		const float mi = __fadd_rn(m[i], __fmul_rn(s.one_b1, __fsub_rn(gi, m[i])));
		const float vi = __fadd_rn(__fmul_rn(s.b2, v[i]), __fmul_rn(__fmul_rn(s.one_b2, gi), gi));
		const float den = __fadd_rn(__fdiv_rn(__fsqrt_rn(vi), s.root), s.eps);

		m[i] = mi;
		v[i] = vi;
		p[i] = __fadd_rn(__fmul_rn(p[i], s.decay), __fdiv_rn(__fmul_rn(s.step, mi), den));
	}
}

int cu_adamw(struct ql_device *d, struct ql_queue *q, const struct ql_adamw *a, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "adamw", e));
	if (a->t == 0)
		return ql_err_set(e, QL_EINVAL, "adamw: steps count from 1");
	for (uint32_t k = 0; k < a->n_groups; k++) {
		const struct ql_adamw_group *r = &a->groups[k];
		const double c1 = 1.0 - pow(a->beta1, (double)a->t), c2 = 1.0 - pow(a->beta2, (double)a->t);
		struct adamw_scalars s = {(float)(1.0 - r->lr * r->weight_decay), (float)(1.0 - a->beta1), (float)a->beta2, (float)(1.0 - a->beta2),
					  (float)(-(r->lr / c1)), (float)sqrt(c2), (float)a->eps, a->grad_scale};
		const uint64_t want = (r->count + 255) / 256, most = (uint64_t)cu_of(d)->sms * 8;

		if (r->count == 0)
			continue;
		adamw_kernel<<<(unsigned)(want < most ? want : most), 256, 0, q->s>>>(a->p + r->begin, a->m + r->begin, a->v + r->begin,
										      a->g + r->begin, r->count, s);
		CU_LAUNCHED();
	}
	return QL_OK;
}
