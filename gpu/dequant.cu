/* dequant.cu - a weight as bf16 rows, ready for a matrix product: dst[o·ld + i] = bf16(W[o, i]), o < out, i < in.
 *
 * 4-bit: value = level[code]·absmax, one fp32 rounding, then one rounding to bf16; nested scales are
 * (map[q]·nested) + offset, two roundings (numerics: bit-equal to core/quant).  Dense types are rounded to bf16 once; Q8_0 is
 * d·q.  A warp walks a row; each lane takes 8 elements (4 bytes of codes in, 16 bytes out) per step. */
#include "gpu/kernel.h"

#define STEP 4

struct dequant_args {
	struct cu_part p;
	uint32_t in, blocksize, shift; /* shift: log2 of blocksize when POW2 */
	bf16 *dst;
	size_t ld;
};

template <bool NESTED> __device__ __forceinline__ float scale_of(const struct cu_part &p, uint64_t b, const float *map, float offset)
{
	if (!NESTED)
		return p.absmax[b];
	return __fadd_rn(__fmul_rn(map[p.absmax_q[b]], p.nested[b / p.nested_bs]), offset);
}

/* in % 8 == 0, blocksize a power of two ≥ 32 */
template <bool NESTED> __global__ void __launch_bounds__(256) dequant_fast(struct dequant_args a)
{
	__shared__ float lut[16 * 32]; /* a copy per bank */
	__shared__ float map[256];
	const float *tab = a.p.tab;
	const uint32_t t = threadIdx.x, lane = t & 31, per = a.in / 8;
	const float offset = NESTED ? *a.p.offset : 0.f;
	const int nbs_shift = NESTED ? 31 - __clz(a.p.nested_bs) : 0;

	lut[t] = tab[t >> 5];
	lut[t + 256] = tab[8 + (t >> 5)];
	if (NESTED)
		map[t] = tab[16 + t];
	__syncthreads();
	for (uint32_t row = blockIdx.x * 8 + (t >> 5); row < a.p.out; row += gridDim.x * 8) {
		const uint64_t base = (uint64_t)row * per;
		bf16 *dst = a.dst + (size_t)(a.p.row0 + row) * a.ld;

		for (uint32_t c0 = lane; c0 < per; c0 += 32 * STEP) { /* all loads of STEP steps first */
			uint32_t v[STEP];
			float s[STEP];

#pragma unroll
			for (int k = 0; k < STEP; k++) {
				const uint32_t c = c0 + k * 32;
				const uint64_t b = (base + c) * 8 >> a.shift;

				if (c < per) {
					v[k] = __ldcs(reinterpret_cast<const uint32_t *>(a.p.codes) + base + c);
					s[k] = NESTED ? __fadd_rn(__fmul_rn(map[__ldg(a.p.absmax_q + b)], __ldg(a.p.nested + (b >> nbs_shift))), offset)
						      : __ldg(a.p.absmax + b);
				}
			}
#pragma unroll
			for (int k = 0; k < STEP; k++) {
				const uint32_t c = c0 + k * 32;
				uint32_t w[4];

				if (c >= per)
					break;
#pragma unroll
				for (int j = 0; j < 4; j++)
					w[j] = pack2(__fmul_rn(lut[(v[k] >> (8 * j + 4) & 15) * 32 + lane], s[k]),
						     __fmul_rn(lut[(v[k] >> (8 * j) & 15) * 32 + lane], s[k]));
				*reinterpret_cast<uint4 *>(dst + c * 8) = make_uint4(w[0], w[1], w[2], w[3]);
			}
		}
	}
}

/* any shape */
template <bool NESTED> __global__ void __launch_bounds__(256) dequant_any(struct dequant_args a)
{
	const float *tab = a.p.tab;
	const float offset = NESTED ? *a.p.offset : 0.f;
	const uint64_t n = (uint64_t)a.p.out * a.in;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += (uint64_t)gridDim.x * 256) {
		const uint32_t byte = a.p.codes[i >> 1], code = i & 1 ? byte & 15 : byte >> 4;
		const float s = scale_of<NESTED>(a.p, i / a.blocksize, tab + 16, offset);

		a.dst[(size_t)(a.p.row0 + i / a.in) * a.ld + i % a.in] = __float2bfloat16_rn(__fmul_rn(tab[code], s));
	}
}

template <typename T> __global__ void __launch_bounds__(256) expand_dense(const T *__restrict__ w, uint32_t out, uint32_t in, bf16 *dst, size_t ld)
{
	for (uint32_t row = blockIdx.x; row < out; row += gridDim.x)
		for (uint32_t c = threadIdx.x; c < in; c += 256)
			dst[row * ld + c] = __float2bfloat16_rn((float)w[(size_t)row * in + c]);
}

__global__ void __launch_bounds__(256) expand_q8(const int8_t *__restrict__ w, const __half *__restrict__ q8_d, uint32_t out, uint32_t in,
						 bf16 *dst, size_t ld)
{
	for (uint32_t row = blockIdx.x; row < out; row += gridDim.x)
		for (uint32_t c = threadIdx.x; c < in; c += 256) {
			const float s = __half2float(q8_d[(size_t)row * (in / 32) + c / 32]);

			dst[row * ld + c] = __float2bfloat16_rn(__fmul_rn(s, (float)w[(size_t)row * in + c]));
		}
}

static int expand_q4(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, bf16 *dst, size_t ld, struct ql_err *e)
{
	const unsigned most = (unsigned)cu_of(d)->sms * 8;
	const bool pow2 = (w->blocksize & (w->blocksize - 1)) == 0 && w->blocksize >= 32;
	const bool nbs = !w->nested || (w->part[0].nested_bs & (w->part[0].nested_bs - 1)) == 0;
	const bool fast = w->in % 8 == 0 && ld % 8 == 0 && ((uintptr_t)dst & 15) == 0 && pow2 && nbs;

	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		struct dequant_args a = {w->part[i], w->in, w->blocksize, (uint32_t)__builtin_ctz(w->blocksize), dst, ld};
		const unsigned rows = (w->part[i].out + 7) / 8, grid = rows < most ? rows : most;

		if (fast && w->nested)
			dequant_fast<true><<<grid, 256, 0, q->s>>>(a);
		else if (fast)
			dequant_fast<false><<<grid, 256, 0, q->s>>>(a);
		else if (w->nested)
			dequant_any<true><<<most, 256, 0, q->s>>>(a);
		else
			dequant_any<false><<<most, 256, 0, q->s>>>(a);
		CU_LAUNCHED();
	}
	return QL_OK;
}

int cu_weight_expand(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, bf16 *dst, size_t ld, struct ql_err *e)
{
	const unsigned most = (unsigned)cu_of(d)->sms * 16, grid = w->out < most ? w->out : most;

	switch (w->dtype) {
	case QL_F32:
		expand_dense<<<grid, 256, 0, q->s>>>((const float *)w->dense, w->out, w->in, dst, ld);
		break;
	case QL_F16:
		expand_dense<<<grid, 256, 0, q->s>>>((const __half *)w->dense, w->out, w->in, dst, ld);
		break;
	case QL_BF16:
		CU_TRY(cudaMemcpy2DAsync(dst, ld * 2, w->dense, (size_t)w->in * 2, (size_t)w->in * 2, w->out, cudaMemcpyDeviceToDevice, q->s));
		return QL_OK;
	case QL_Q8_0:
		expand_q8<<<grid, 256, 0, q->s>>>((const int8_t *)w->dense, w->q8_d, w->out, w->in, dst, ld);
		break;
	default:
		return expand_q4(d, q, w, dst, ld, e);
	}
	CU_LAUNCHED();
	return QL_OK;
}
