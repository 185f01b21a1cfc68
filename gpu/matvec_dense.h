/* matvec_dense.h - a tile of 16 rows of a BF16, Q8_0 or any other weight times up to 16 rows of x; see matvec.cu. */
#ifndef QL_GPU_MATVEC_DENSE_H
#define QL_GPU_MATVEC_DENSE_H

#include "gpu/matvec.h"

template <int NT> __device__ __forceinline__ void bf16_tile(const struct mv_args &a, uint32_t row0, uint32_t share, float *red)
{
	const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, in = a.w.in;
	const bf16 *w = (const bf16 *)a.w.dense;
	const bf16 *r0 = w + (size_t)min(row0 + g, a.w.vocab - 1) * in, *r1 = w + (size_t)min(row0 + g + 8, a.w.vocab - 1) * in;
	const uint4 none = make_uint4(0, 0, 0, 0);
	float acc[NT][4] = {};

	cu_acquire();
	for (uint32_t k0 = share * 128 + t * 8; k0 < in + t * 8; k0 += a.split * 128) {
		uint4 w0[4], w1[4];
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint32_t k = k0 + j * 32;

			w0[j] = k < in ? ld_stream16(r0 + k) : none;
			w1[j] = k < in ? ld_stream16(r1 + k) : none;
		}
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint32_t k = k0 + j * 32;
#pragma unroll
			for (int n = 0; n < NT; n++) {
				const uint4 h = k < in && n * 8 + g < a.T ? __ldcg(reinterpret_cast<const uint4 *>(a.x + (n * 8 + g) * a.ldx + k)) : none;

				mma16816(acc[n], w0[j].x, w1[j].x, w0[j].y, w1[j].y, h.x, h.y);
				mma16816(acc[n], w0[j].z, w1[j].z, w0[j].w, w1[j].w, h.z, h.w);
			}
		}
	}
	store_partial<NT>(acc, red);
}

__device__ __forceinline__ uint32_t two_i8(uint32_t v, int i) /* bytes 2i, 2i+1 as bf16 */
{
	return pack2((float)(int8_t)(v >> (16 * i)), (float)(int8_t)(v >> (16 * i + 8)));
}

template <int NT> __device__ __forceinline__ void q8_tile(const struct mv_args &a, uint32_t row0, uint32_t share, float *red)
{
	const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, in = a.w.in, blocks = in / 32;
	const int8_t *w = (const int8_t *)a.w.dense;
	const size_t i0 = min(row0 + g, a.w.vocab - 1), i1 = min(row0 + g + 8, a.w.vocab - 1);
	float acc[NT][4] = {};

	cu_acquire();
	for (uint32_t b0 = share * 4; b0 < blocks; b0 += a.split * 4) {
		uint2 w0[4], w1[4];
		float s0[4], s1[4];
#pragma unroll
		for (uint32_t j = 0; j < 4; j++) {
			const bool ok = b0 + j < blocks;

			w0[j] = ok ? ld_stream8(w + i0 * in + (b0 + j) * 32 + t * 8) : make_uint2(0, 0);
			w1[j] = ok ? ld_stream8(w + i1 * in + (b0 + j) * 32 + t * 8) : make_uint2(0, 0);
			s0[j] = ok ? __half2float(a.w.q8_d[i0 * blocks + b0 + j]) : 0.f;
			s1[j] = ok ? __half2float(a.w.q8_d[i1 * blocks + b0 + j]) : 0.f;
		}
#pragma unroll
		for (uint32_t j = 0; j < 4; j++) {
			if (b0 + j >= blocks)
				break;
#pragma unroll
			for (int n = 0; n < NT; n++) {
				const uint4 h = n * 8 + g < a.T ? __ldcg(reinterpret_cast<const uint4 *>(a.x + (n * 8 + g) * a.ldx + (b0 + j) * 32 + t * 8))
								: make_uint4(0, 0, 0, 0);
				float tmp[4] = {};

				mma16816(tmp, two_i8(w0[j].x, 0), two_i8(w1[j].x, 0), two_i8(w0[j].x, 1), two_i8(w1[j].x, 1), h.x, h.y);
				mma16816(tmp, two_i8(w0[j].y, 0), two_i8(w1[j].y, 0), two_i8(w0[j].y, 1), two_i8(w1[j].y, 1), h.z, h.w);
				acc[n][0] += s0[j] * tmp[0];
				acc[n][1] += s0[j] * tmp[1];
				acc[n][2] += s1[j] * tmp[2];
				acc[n][3] += s1[j] * tmp[3];
			}
		}
	}
	store_partial<NT>(acc, red);
}

/* split is WARPS: the block's 16 rows are dealt to the warps, two each */
template <int NT> __device__ __forceinline__ void any_tile(const struct mv_args &a, uint32_t row0, uint32_t base, uint32_t out, float *red)
{
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31;

	cu_acquire();
	for (uint32_t i = threadIdx.x; i < WARPS * 16 * NT * 8; i += 256)
		red[i] = 0.f;
	__syncthreads();
	for (uint32_t k = 0; k < 2; k++) {
		const uint32_t row = row0 + warp * 2 + k;
		float acc[NT * 8] = {};

		if (row >= out)
			continue;
		for (uint32_t i = lane; i < a.w.in; i += 32) {
			const float v = cu_element(a.w, base + row, i);
#pragma unroll
			for (int n = 0; n < NT * 8; n++)
				if ((uint32_t)n < a.T)
					acc[n] += v * __bfloat162float(a.x[n * a.ldx + i]);
		}
#pragma unroll
		for (int n = 0; n < NT * 8; n++) {
			const float s = warp_sum(acc[n]);

			if (lane == 0)
				red[(warp * 2 + k) * (NT * 8) + n] = s;
		}
	}
}

#endif
