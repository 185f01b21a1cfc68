/* neftune.cu - NEFTune's uniform noise on input embeddings: y[t, c] += (2u - 1)·alpha/√(L·d); see device.h (embed_noise).
 * u comes from the generator word of the element, as on the CPU; the sum is made in fp32 and rounded once. */
#include "gpu/kernel.h"

#define PURPOSE (4u << 24) /* QL_RNG_NEFTUNE, core/base/philox.h */

struct noise_args {
	bf16 *y;
	size_t ld;
	uint32_t cols, n_seqs, step;
	const int32_t *cu;
	float alpha;
	uint64_t seed, token_base;
};

__global__ void __launch_bounds__(256) noise_kernel(const struct noise_args a)
{
	const uint32_t t = blockIdx.x;
	uint32_t lo = 0, hi = a.n_seqs; /* cu[lo] ≤ t < cu[hi] */

	while (hi - lo > 1) {
		const uint32_t mid = (lo + hi) / 2;

		if ((uint32_t)a.cu[mid] <= t)
			lo = mid;
		else
			hi = mid;
	}
	const double area = (double)(a.cu[lo + 1] - a.cu[lo]) * (double)a.cols;
	const float mag = (float)__ddiv_rn((double)a.alpha, __dsqrt_rn(area));

	for (uint32_t c = threadIdx.x; c < a.cols; c += 256) {
		const uint64_t e = (a.token_base + t) * a.cols + c;
		uint32_t w[4];

		philox4((uint32_t)(e / 4), (uint32_t)(e / 4 >> 32), a.step, PURPOSE, a.seed, w);
		const float u = __fmul_rn((float)(w[e % 4] >> 8), 0x1p-24f);
		const float n = __fmul_rn(__fsub_rn(__fmul_rn(2.0f, u), 1.0f), mag);
		bf16 *y = &a.y[t * a.ld + c];

		*y = __float2bfloat16_rn(__fadd_rn(__bfloat162float(*y), n));
	}
}

int cu_embed_noise(struct ql_device *d, struct ql_queue *q, const struct ql_noise *a, struct ql_err *e)
{
	const struct noise_args x = {(bf16 *)a->y.data, a->y.ld, a->y.cols, a->n_seqs, a->step, a->cu_seqlens, a->alpha, a->seed, a->token_base};

	QL_TRY(cu_begin(d, "embed_noise", e));
	QL_TRY(cu_check_act(&a->y, "y", e));
	if (a->n_seqs == 0 || !a->cu_seqlens || !(a->alpha >= 0))
		return ql_err_set(e, QL_EINVAL, "embed_noise: no sequences, or a negative size");
	if (a->y.rows == 0)
		return QL_OK;
	noise_kernel<<<a->y.rows, 256, 0, q->s>>>(x);
	CU_LAUNCHED();
	return QL_OK;
}
