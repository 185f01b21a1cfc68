/* quant.cu - NF4, FP4 and INT4 quantisation in blocks of 64 with nested scales, bit-equal to core/quant/q4.c.
 *
 * blocks:  absmax = max|x|, r = 1/max(absmax, 1e-38), v = clamp(x·r, -1, 1), order = #{thr < v}, code = map[order]; fp32, rounded
 *          products, no fma.  Eight lanes share a block, eight elements each.  x [n] → codes [⌈n/2⌉], absmax [⌈n/64⌉].
 * nested:  offset = (float)(Σ absmax / m) where the sum is fp64 in index order; d = absmax - offset; per 256: top = max|d|,
 *          code = #{midpoints < d·(1/max(top, 1e-38))}.  absmax [m] → absmax_q [m], nested [⌈m/256⌉], offset.
 * The sum in index order is made in parallel whenever no addition of it rounds: all terms are multiples of the last place
 * of the smallest, so sums below 2^52 of those are exact in any order.  Otherwise one thread adds in order. */
#include "gpu/kernel.h"

#define SCALE_FLOOR 1e-38f
#define SUM_BLOCKS 256

template <typename T> __device__ __forceinline__ float widen(T v);
template <> __device__ __forceinline__ float widen<float>(float v) { return v; }
template <> __device__ __forceinline__ float widen<__half>(__half v) { return __half2float(v); }
template <> __device__ __forceinline__ float widen<bf16>(bf16 v) { return __bfloat162float(v); }

/* order of v.  CELLS: thresholds lie further apart than 1/16 (NF4, INT4), so a cell of that width holds at most one: one look-up
 * and one comparison instead of fifteen. */
#define N_CELLS 33
template <bool CELLS> __device__ __forceinline__ uint32_t order_of(float v, const struct cu_book &book, const float2 *cells)
{
	if (CELLS) {
		const uint32_t c = __float_as_uint(__fadd_rn(__fmul_rn(v, 16.f), 8388608.f + 16.f)) & 63u; /* round(16·v) + 16 */
		const float2 t = cells[c];

		return __float_as_uint(t.y) + (v > t.x);
	} else {
		uint32_t order = 0;

#pragma unroll
		for (int t = 0; t < 15; t++)
			order += v > book.thr[t];
		return order;
	}
}

template <typename T, bool CELLS>
__global__ void __launch_bounds__(256) quant_blocks(const T *__restrict__ x, uint64_t first, uint64_t n, const __grid_constant__ struct cu_book book,
						    uint8_t *__restrict__ codes, float *__restrict__ absmax, unsigned long long *bad)
{
	__shared__ float2 cells[N_CELLS];

	if (CELLS && threadIdx.x < N_CELLS) { /* cell c: round(16·v) = c - 16 */
		const float lo = ((float)threadIdx.x - 16.5f) / 16.f, hi = ((float)threadIdx.x - 15.5f) / 16.f;
		uint32_t below = 0;
		float own = __uint_as_float(0x7f800000u);

		for (int t = 0; t < 15; t++) {
			below += book.thr[t] < lo;
			if (book.thr[t] >= lo && book.thr[t] <= hi)
				own = book.thr[t];
		}
		cells[threadIdx.x] = make_float2(own, __uint_as_float(below));
	}
	__syncthreads();
	const uint64_t groups = (n + 7) / 8, stride = (uint64_t)gridDim.x * blockDim.x, padded = (groups + 31) & ~(uint64_t)31;

	for (uint64_t g = blockIdx.x * (uint64_t)blockDim.x + threadIdx.x; g < padded; g += stride) {
		const uint64_t at = g * 8;
		float f[8];
		uint32_t top = 0, packed = 0;

		if (at + 8 <= n) {
			alignas(16) T raw[8];
			const uint4 *p = reinterpret_cast<const uint4 *>(x + at);
#pragma unroll
			for (unsigned i = 0; i < sizeof raw / 16; i++)
				reinterpret_cast<uint4 *>(raw)[i] = __ldcs(p + i);
#pragma unroll
			for (int i = 0; i < 8; i++)
				f[i] = widen<T>(raw[i]);
		} else {
#pragma unroll
			for (int i = 0; i < 8; i++)
				f[i] = at + i < n ? widen<T>(x[at + i]) : 0.f;
		}
#pragma unroll
		for (int i = 0; i < 8; i++) {
			const uint32_t u = __float_as_uint(f[i]) & 0x7fffffffu;

			if (u >= 0x7f800000u)
				atomicMin(bad, (unsigned long long)(first + at + i));
			top = u > top ? u : top;
		}
#pragma unroll
		for (int o = 1; o < 8; o <<= 1) {
			const uint32_t u = __shfl_xor_sync(~0u, top, o);

			top = u > top ? u : top;
		}
		const float s = __uint_as_float(top), r = __frcp_rn(s > SCALE_FLOOR ? s : SCALE_FLOOR);
#pragma unroll
		for (int i = 0; i < 8; i++) {
			float v = __fmul_rn(f[i], r);

			v = fminf(fmaxf(v, -1.f), 1.f);
			const uint32_t order = order_of<CELLS>(v, book, cells);
			uint32_t code = CELLS ? order : (uint32_t)(book.map >> (4 * order)) & 15u; /* cells: codes ascend */
			if (at + i >= n)
				code = book.zero;
			packed |= code << (8 * (i >> 1) + 4 * ((i & 1) ^ 1));
		}
		const uint64_t out = (first + at) >> 1;
		if (at + 8 <= n) {
			*reinterpret_cast<uint32_t *>(codes + out) = packed;
		} else {
			for (int j = 0; j < 4; j++)
				if (at + 2 * j < n)
					codes[out + j] = (uint8_t)(packed >> (8 * j));
		}
		if ((threadIdx.x & 7) == 0 && at < n)
			absmax[(first + at) >> 6] = s;
	}
}

/* partial sums, the smallest non-zero bit pattern */
__global__ void __launch_bounds__(256) nested_sum(const float *__restrict__ a, uint64_t m, double *sums, uint32_t *mins)
{
	__shared__ double sd[256];
	__shared__ uint32_t su[256];
	double s = 0;
	uint32_t lo = 0xffffffffu;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < m; i += (uint64_t)gridDim.x * 256) {
		const float v = a[i];
		const uint32_t u = __float_as_uint(v);

		s += (double)v;
		if (u && u < lo)
			lo = u;
	}
	sd[threadIdx.x] = s;
	su[threadIdx.x] = lo;
	__syncthreads();
	for (int o = 128; o; o >>= 1) {
		if ((int)threadIdx.x < o) {
			sd[threadIdx.x] += sd[threadIdx.x + o];
			su[threadIdx.x] = min(su[threadIdx.x], su[threadIdx.x + o]);
		}
		__syncthreads();
	}
	if (threadIdx.x == 0) {
		sums[blockIdx.x] = sd[0];
		mins[blockIdx.x] = su[0];
	}
}

__global__ void __launch_bounds__(256) nested_mean(const float *__restrict__ a, uint64_t m, const double *sums, const uint32_t *mins,
						   float *offset)
{
	__shared__ double sd[256];
	__shared__ uint32_t su[256];
	__shared__ float stage[4096];
	__shared__ int exact;

	sd[threadIdx.x] = threadIdx.x < SUM_BLOCKS ? sums[threadIdx.x] : 0.0;
	su[threadIdx.x] = threadIdx.x < SUM_BLOCKS ? mins[threadIdx.x] : 0xffffffffu;
	__syncthreads();
	for (int o = 128; o; o >>= 1) {
		if ((int)threadIdx.x < o) {
			sd[threadIdx.x] += sd[threadIdx.x + o];
			su[threadIdx.x] = min(su[threadIdx.x], su[threadIdx.x + o]);
		}
		__syncthreads();
	}
	if (threadIdx.x == 0) {
		const int ex = su[0] == 0xffffffffu ? 1 : (int)(su[0] >> 23);
		const double unit = ldexp(1.0, (ex ? ex : 1) - 127 - 23);

		exact = sd[0] < 4503599627370496.0 * unit;
		if (exact)
			*offset = (float)(sd[0] / (double)m);
	}
	__syncthreads();
	if (exact)
		return;
	double s = 0;
	for (uint64_t at = 0; at < m; at += 4096) {
		const uint32_t n = m - at < 4096 ? (uint32_t)(m - at) : 4096u;

		for (uint32_t i = threadIdx.x; i < n; i += 256)
			stage[i] = a[at + i];
		__syncthreads();
		if (threadIdx.x == 0)
			for (uint32_t i = 0; i < n; i++)
				s += (double)stage[i];
		__syncthreads();
	}
	if (threadIdx.x == 0)
		*offset = (float)(s / (double)m);
}

__global__ void __launch_bounds__(256) nested_codes(const float *__restrict__ a, uint64_t m, const float *__restrict__ map,
						    const float *offset, uint8_t *__restrict__ q, float *__restrict__ nested)
{
	__shared__ float mid[256];
	__shared__ uint32_t top[8];
	const uint64_t i = blockIdx.x * 256ull + threadIdx.x;
	const float d = i < m ? __fsub_rn(a[i], *offset) : 0.f;
	uint32_t u = __float_as_uint(d) & 0x7fffffffu;

	mid[threadIdx.x] = threadIdx.x < 255 ? __fmul_rn(__fadd_rn(map[threadIdx.x], map[threadIdx.x + 1]), 0.5f)
					     : __uint_as_float(0x7f800000u);
	u = __reduce_max_sync(~0u, u);
	if ((threadIdx.x & 31) == 0)
		top[threadIdx.x >> 5] = u;
	__syncthreads();
	u = 0;
	for (int w = 0; w < 8; w++)
		u = max(u, top[w]);
	const float t = __uint_as_float(u), v = __fmul_rn(d, __frcp_rn(t > SCALE_FLOOR ? t : SCALE_FLOOR));
	uint32_t lo = 0;
	for (uint32_t step = 128; step; step >>= 1)
		lo += v > mid[lo + step - 1] ? step : 0;
	if (i < m)
		q[i] = (uint8_t)lo;
	if (threadIdx.x == 0)
		nested[blockIdx.x] = t;
}

int cu_quant_blocks(struct ql_device *d, struct ql_queue *q, const void *src, enum ql_dtype src_dtype, uint64_t first, uint64_t n,
		    const struct cu_book *book, uint8_t *codes, float *absmax, unsigned long long *bad, struct ql_err *e)
{
	uint64_t want = (n + 2047) / 2048, most = (uint64_t)cu_of(d)->sms * 8;
	unsigned grid = (unsigned)(want < most ? want : most);
	bool cells = book->map == 0xfedcba9876543210ull;

	for (int i = 1; i < 15; i++)
		cells = cells && book->thr[i] - book->thr[i - 1] > 1.01f / 16;

	if (n == 0)
		return QL_OK;
	switch (src_dtype) {
	case QL_F32:
		if (cells)
			quant_blocks<float, true><<<grid, 256, 0, q->s>>>((const float *)src, first, n, *book, codes, absmax, bad);
		else
			quant_blocks<float, false><<<grid, 256, 0, q->s>>>((const float *)src, first, n, *book, codes, absmax, bad);
		break;
	case QL_F16:
		if (cells)
			quant_blocks<__half, true><<<grid, 256, 0, q->s>>>((const __half *)src, first, n, *book, codes, absmax, bad);
		else
			quant_blocks<__half, false><<<grid, 256, 0, q->s>>>((const __half *)src, first, n, *book, codes, absmax, bad);
		break;
	case QL_BF16:
		if (cells)
			quant_blocks<bf16, true><<<grid, 256, 0, q->s>>>((const bf16 *)src, first, n, *book, codes, absmax, bad);
		else
			quant_blocks<bf16, false><<<grid, 256, 0, q->s>>>((const bf16 *)src, first, n, *book, codes, absmax, bad);
		break;
	default:
		return ql_err_set(e, QL_EINVAL, "quantise: f32, f16 or bf16 needed");
	}
	CU_LAUNCHED();
	return QL_OK;
}

int cu_quant_nested(struct ql_device *d, struct ql_queue *q, const float *absmax, uint64_t m, const float *map, uint8_t *absmax_q,
		    float *nested, float *offset, void *tmp, struct ql_err *e)
{
	double *sums = (double *)tmp;
	uint32_t *mins = (uint32_t *)(sums + SUM_BLOCKS);

	nested_sum<<<SUM_BLOCKS, 256, 0, q->s>>>(absmax, m, sums, mins);
	CU_LAUNCHED();
	nested_mean<<<1, 256, 0, q->s>>>(absmax, m, sums, mins, offset);
	CU_LAUNCHED();
	nested_codes<<<(unsigned)((m + 255) / 256), 256, 0, q->s>>>(absmax, m, map, offset, absmax_q, nested);
	CU_LAUNCHED();
	return QL_OK;
}
