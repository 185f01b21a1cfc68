/* attention_bwd_plain.cu - gradient of packed causal attention (formulas: attention_bwd.cu) for any head size up to 256 and any alignment:
 * one warp per row, a lane holds every 32nd element, sums in ascending order. */
#include "gpu/attention_bwd.h"

__device__ __forceinline__ float dot_rows(const bf16 *x, const float y[8], uint32_t hd)
{
	const uint32_t lane = threadIdx.x & 31;
	float s = 0;

#pragma unroll
	for (int i = 0; i < 8; i++)
		if (i * 32 + lane < hd)
			s += __bfloat162float(x[i * 32 + lane]) * y[i];
	return warp_sum(s);
}

__device__ __forceinline__ void take_row(float y[8], const bf16 *x, uint32_t hd)
{
	const uint32_t lane = threadIdx.x & 31;

#pragma unroll
	for (int i = 0; i < 8; i++)
		y[i] = i * 32 + lane < hd ? __bfloat162float(x[i * 32 + lane]) : 0.f;
}

__device__ __forceinline__ void put_row(bf16 *x, const float y[8], float scale, uint32_t hd)
{
	const uint32_t lane = threadIdx.x & 31;

#pragma unroll
	for (int i = 0; i < 8; i++)
		if (i * 32 + lane < hd)
			x[i * 32 + lane] = __float2bfloat16_rn(y[i] * scale);
}

__device__ __forceinline__ void add_row(float y[8], float c, const bf16 *x, uint32_t hd)
{
	const uint32_t lane = threadIdx.x & 31;

#pragma unroll
	for (int i = 0; i < 8; i++)
		if (i * 32 + lane < hd)
			y[i] += c * __bfloat162float(x[i * 32 + lane]);
}

__global__ void __launch_bounds__(128) plain_dq(const __grid_constant__ struct bwd_args a)
{
	const uint32_t head = blockIdx.y, kvh = head / (a.n_head / a.n_kv), hd = a.head_dim, t = blockIdx.x * 4 + (threadIdx.x >> 5);
	float q[8], d_o[8], acc[8] = {};

	if (t >= a.T)
		return;
	const uint32_t s = seq_of(a.cu, a.n_seqs, t), begin = (uint32_t)a.cu[s];
	const uint32_t first = a.window && t - begin + 1 > a.window ? t + 1 - a.window : begin;
	const float lse = a.lse[(size_t)head * a.T + t], D = a.D[(size_t)head * a.T + t];

	take_row(q, a.q + t * a.ldq + (size_t)head * hd, hd);
	take_row(d_o, a.d_o + t * a.lddo + (size_t)head * hd, hd);
	for (uint32_t j = first; j <= t; j++) {
		const bf16 *k = a.k + j * a.ldk + (size_t)kvh * hd, *v = a.v + j * a.ldv + (size_t)kvh * hd;
		float z = dot_rows(k, q, hd), slope = 1.f;

		if (a.softcap > 0.f)
			z = capped(z, a.scale, a.softcap, &slope);
		const float p = expf(z * a.scale - lse);

		add_row(acc, p * slope * (dot_rows(v, d_o, hd) - D), k, hd);
	}
	put_row(a.dq + t * a.lddq + (size_t)head * hd, acc, a.scale, hd);
}

__global__ void __launch_bounds__(128) plain_dkv(const __grid_constant__ struct bwd_args a)
{
	const uint32_t kvh = blockIdx.y, group = a.n_head / a.n_kv, hd = a.head_dim, j = blockIdx.x * 4 + (threadIdx.x >> 5);
	float k[8], v[8], dk[8] = {}, dv[8] = {};

	if (j >= a.T)
		return;
	const uint32_t s = seq_of(a.cu, a.n_seqs, j), end = (uint32_t)a.cu[s + 1];
	const uint32_t stop = a.window && end - j > a.window ? j + a.window : end;

	take_row(k, a.k + j * a.ldk + (size_t)kvh * hd, hd);
	take_row(v, a.v + j * a.ldv + (size_t)kvh * hd, hd);
	for (uint32_t h = kvh * group; h < (kvh + 1) * group; h++)
		for (uint32_t t = j; t < stop; t++) {
			const bf16 *q = a.q + t * a.ldq + (size_t)h * hd, *d_o = a.d_o + t * a.lddo + (size_t)h * hd;
			float z = dot_rows(q, k, hd), slope = 1.f;

			if (a.softcap > 0.f)
				z = capped(z, a.scale, a.softcap, &slope);
			const float p = expf(z * a.scale - a.lse[(size_t)h * a.T + t]);
			const float ds = p * slope * (dot_rows(d_o, v, hd) - a.D[(size_t)h * a.T + t]);

			add_row(dv, p, d_o, hd);
			add_row(dk, ds, q, hd);
		}
	put_row(a.dk + j * a.lddk + (size_t)kvh * hd, dk, a.scale, hd);
	put_row(a.dv + j * a.lddv + (size_t)kvh * hd, dv, 1.f, hd);
}

int cu_attention_bwd_plain(struct ql_device *d, struct ql_queue *q, const struct bwd_args *a, struct ql_err *e)
{
	plain_dkv<<<dim3((a->T + 3) / 4, a->n_kv), 128, 0, q->s>>>(*a);
	CU_LAUNCHED();
	plain_dq<<<dim3((a->T + 3) / 4, a->n_head), 128, 0, q->s>>>(*a);
	CU_LAUNCHED();
	return QL_OK;
}
