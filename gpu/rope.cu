/* rope.cu - rotary embedding, rotate-half, in place.  x act [T, n_head·head_dim]; angle = sign·positions[t]·inv_freq[i], the product
 * and cos, sin in fp32;  (a, b) = (x_i, x_{i+h/2}) → (a·c - b·s, b·c + a·s).  A thread owns two neighbouring pairs of one token
 * (one, for odd sizes) and walks heads, so each angle is computed once per token and group of heads. */
#include "gpu/kernel.h"

template <int W> /* pairs per thread */
__global__ void __launch_bounds__(256) rope_kernel(bf16 *x, size_t ld, uint32_t rows, uint32_t n_head, uint32_t head_dim, uint32_t heads_per,
						   const int32_t *__restrict__ pos, const float *__restrict__ inv_freq, float sign)
{
	const uint32_t half = head_dim / 2, per = half / W;
	const uint64_t id = blockIdx.x * 256ull + threadIdx.x;
	const uint32_t i = (uint32_t)(id % per) * W;
	const uint64_t t = id / per;
	const uint32_t h0 = blockIdx.y * heads_per, h1 = min(n_head, h0 + heads_per);

	cu_release();
	cu_acquire();
	if (t >= rows)
		return;
	float c[W], s[W];
#pragma unroll
	for (int k = 0; k < W; k++) {
		sincosf(__fmul_rn((float)pos[t], inv_freq[i + k]), &s[k], &c[k]);
		s[k] *= sign;
	}
	for (uint32_t h = h0; h < h1; h++) {
		bf16 *p = x + t * ld + (size_t)h * head_dim + i;

		if (W == 2) {
			uint32_t *pa = reinterpret_cast<uint32_t *>(p), *pb = reinterpret_cast<uint32_t *>(p + half);
			const uint32_t ua = *pa, ub = *pb;
			const float a0 = __uint_as_float(ua << 16), a1 = __uint_as_float(ua & 0xffff0000u);
			const float b0 = __uint_as_float(ub << 16), b1 = __uint_as_float(ub & 0xffff0000u);

			*pa = pack2(a0 * c[0] - b0 * s[0], a1 * c[W - 1] - b1 * s[W - 1]);
			*pb = pack2(b0 * c[0] + a0 * s[0], b1 * c[W - 1] + a1 * s[W - 1]);
		} else {
			const float a = __bfloat162float(p[0]), b = __bfloat162float(p[half]);

			p[0] = __float2bfloat16_rn(a * c[0] - b * s[0]);
			p[half] = __float2bfloat16_rn(b * c[0] + a * s[0]);
		}
	}
}

int cu_rope(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, uint32_t n_head, uint32_t head_dim, const int32_t *positions,
	    const float *inv_freq, float sign, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "rope", e));
	QL_TRY(cu_check_act(&x, "x", e));
	if (head_dim == 0 || head_dim % 2 || (uint64_t)n_head * head_dim != x.cols)
		return ql_err_set(e, QL_ESHAPE, "rope: %u heads of %u in %u columns", n_head, head_dim, x.cols);
	if (x.rows == 0)
		return QL_OK;
	const bool two = head_dim % 4 == 0 && x.ld % 2 == 0 && ((uintptr_t)x.data & 3) == 0;
	const uint32_t per = two ? head_dim / 4 : head_dim / 2, heads_per = x.rows >= 512 ? 8 : 1;
	const dim3 grid((unsigned)(((uint64_t)x.rows * per + 255) / 256), (n_head + heads_per - 1) / heads_per);

	if (two)
		CU_TRY(cu_launch(d, q, rope_kernel<2>, grid, 256, 0, (bf16 *)x.data, x.ld, x.rows, n_head, head_dim, heads_per, positions, inv_freq, sign));
	else
		CU_TRY(cu_launch(d, q, rope_kernel<1>, grid, 256, 0, (bf16 *)x.data, x.ld, x.rows, n_head, head_dim, heads_per, positions, inv_freq, sign));
	return QL_OK;
}
