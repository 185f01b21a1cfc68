/* adamw8.cu - AdamW with moments kept as 8-bit codes in blocks of 256; formulas in device.h (adam8), bit-equal to the CPU.
 *   g' = g·grad_scale;  m ← m·β1 + (1-β1)·g';  v ← v·β2 + ((1-β2)·g')·g'
 *   p ← p·(1 - lr·wd) + (-(lr/(1-β1^t))·m) / (sqrt(v)/sqrt(1-β2^t) + eps)
 *   absmax ← max|x|;  code ← number of map midpoints strictly below x·(1/max(absmax, 1e-38)), signs kept
 *   v of code 0 counts as code 1 where |m| > bound·√v otherwise
 * One CUDA block of 256 threads handles one block of parameters at a time; the maps and their midpoints lie in shared memory.
 * The maximum does not depend on the order, so the result has no order either. */
#include <math.h>

#include "gpu/kernel.h"

struct adam8_scalars {
	float decay, b1, one_b1, b2, one_b2, step, root, eps, grad_scale, bound;
};

struct adam8_args {
	float *p;
	const float *g;
	uint8_t *m, *v;
	float *m_absmax, *v_absmax, *m32, *v32;
	const struct ql_adam8_block *blocks;
	const float *maps;
	uint32_t first, n_blocks;
};

/* Number of the 255 ascending midpoints strictly below x. */
static __device__ __forceinline__ uint32_t code_of(const float *mid, float x)
{
	uint32_t c = 0;

#pragma unroll
	for (uint32_t step = 128; step > 0; step >>= 1)
		if (x > mid[c + step - 1])
			c += step;
	return c;
}

/* Largest |a| (lane result x) and |b| (y) of the 256 threads. */
static __device__ __forceinline__ float2 absmax_of(float a, float b, float2 *part)
{
	float2 r = {fabsf(a), fabsf(b)};

	for (int o = 16; o > 0; o >>= 1) {
		r.x = fmaxf(r.x, __shfl_xor_sync(0xffffffffu, r.x, o));
		r.y = fmaxf(r.y, __shfl_xor_sync(0xffffffffu, r.y, o));
	}
	if (threadIdx.x % 32 == 0)
		part[threadIdx.x / 32] = r;
	__syncthreads();
	r = part[0];
	for (int i = 1; i < 8; i++)
		r.x = fmaxf(r.x, part[i].x), r.y = fmaxf(r.y, part[i].y);
	__syncthreads();
	return r;
}

__global__ void __launch_bounds__(256) adam8_kernel(const struct adam8_args a, const struct adam8_scalars s)
{
	__shared__ float map[2][256], mid[2][256];
	__shared__ float2 part[8];
	const uint32_t t = threadIdx.x;

	map[0][t] = a.maps[t];
	map[1][t] = a.maps[256 + t];
	__syncthreads();
	for (int k = 0; k < 2; k++)
		mid[k][t] = t < 255 ? __fmul_rn(__fadd_rn(map[k][t], map[k][t + 1]), 0.5f) : __int_as_float(0x7f800000);
	__syncthreads();
	for (uint32_t b = blockIdx.x; b < a.n_blocks; b += gridDim.x) {
		const struct ql_adam8_block k = a.blocks[a.first + b];
		const bool coded = k.small == QL_ADAM8_CODED, in = t < k.count;
		const uint64_t i = k.begin + t;
		float m = 0, v = 0;

		if (in) {
			const float g = __fmul_rn(a.g[i], s.grad_scale);

			m = coded ? __fmul_rn(map[0][a.m[i]], a.m_absmax[a.first + b]) : a.m32[k.small + t];
			v = coded ? __fmul_rn(map[1][a.v[i]], a.v_absmax[a.first + b]) : a.v32[k.small + t];
			const bool least = coded && a.v[i] == 0;

			m = __fadd_rn(__fmul_rn(m, s.b1), __fmul_rn(s.one_b1, g));
			v = __fadd_rn(__fmul_rn(v, s.b2), __fmul_rn(__fmul_rn(s.one_b2, g), g));
			if (least && fabsf(m) > __fmul_rn(s.bound, __fsqrt_rn(v)))
				v = __fadd_rn(__fmul_rn(__fmul_rn(map[1][1], a.v_absmax[a.first + b]), s.b2),
					      __fmul_rn(__fmul_rn(s.one_b2, g), g));
			a.p[i] = __fadd_rn(__fmul_rn(a.p[i], s.decay),
					   __fdiv_rn(__fmul_rn(s.step, m), __fadd_rn(__fdiv_rn(__fsqrt_rn(v), s.root), s.eps)));
		}
		if (!coded) {
			if (in)
				a.m32[k.small + t] = m, a.v32[k.small + t] = v;
			continue; /* the same for all threads of the block */
		}
		const float2 top = absmax_of(m, v, part);
		if (in) {
			uint32_t c = code_of(mid[0], __fmul_rn(m, __fdiv_rn(1.0f, fmaxf(top.x, 1e-38f))));

			if (m != 0.0f && signbit(map[0][c]) != signbit(m))
				c = m > 0.0f ? c + 1 : c - 1;
			a.m[i] = (uint8_t)c;
			c = code_of(mid[1], __fmul_rn(v, __fdiv_rn(1.0f, fmaxf(top.y, 1e-38f))));
			a.v[i] = (uint8_t)c;
		}
		if (t == 0) {
			a.m_absmax[a.first + b] = top.x;
			a.v_absmax[a.first + b] = top.y;
		}
	}
}

int cu_adam8(struct ql_device *d, struct ql_queue *q, const struct ql_adam8 *a, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "adam8", e));
	if (a->t == 0 || !a->p || !a->g || !a->m || !a->v || !a->m_absmax || !a->v_absmax || !a->blocks || !a->maps)
		return ql_err_set(e, QL_EINVAL, "adam8: step 0 or a missing array");
	for (uint32_t k = 0; k < a->n_groups; k++) {
		const struct ql_adam8_group *r = &a->groups[k];
		const double c1 = 1.0 - pow(a->beta1, (double)a->t), c2 = 1.0 - pow(a->beta2, (double)a->t);
		const struct adam8_scalars s = {(float)(1.0 - r->lr * r->weight_decay), (float)a->beta1, (float)(1.0 - a->beta1), (float)a->beta2,
						(float)(1.0 - a->beta2), (float)(-(r->lr / c1)), (float)sqrt(c2), (float)a->eps, a->grad_scale,
						(float)a->bound};
		const struct adam8_args x = {a->p, a->g, a->m, a->v, a->m_absmax, a->v_absmax, a->m32, a->v32, a->blocks, a->maps,
					     r->block_begin, r->n_blocks};
		const uint32_t most = (uint32_t)cu_of(d)->sms * 8;

		if (r->n_blocks == 0)
			continue;
		adam8_kernel<<<r->n_blocks < most ? r->n_blocks : most, 256, 0, q->s>>>(x, s);
		CU_LAUNCHED();
	}
	return QL_OK;
}
