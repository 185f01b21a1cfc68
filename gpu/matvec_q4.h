/* matvec_q4.h - a tile of 16 rows of a 4-bit weight times up to 16 rows of x; see matvec.cu. */
#ifndef QL_GPU_MATVEC_Q4_H
#define QL_GPU_MATVEC_Q4_H

#include "gpu/matvec.h"

struct q4_chunk { /* four blocks of 64 of two rows */
	uint2 w0[4], w1[4];
	float s0[4], s1[4];
	uint32_t q0, q1;
	float n0, n1;
};

template <bool NESTED, bool ALIGNED>
__device__ __forceinline__ void q4_load(struct q4_chunk &c, const struct cu_part &p, uint64_t b0, uint64_t b1, uint32_t first, uint32_t blocks, uint32_t t)
{
#pragma unroll
	for (uint32_t j = 0; j < 4; j++) {
		if (first + j < blocks) {
			c.w0[j] = ld_stream8(p.codes + (b0 + first + j) * 32 + t * 8);
			c.w1[j] = ld_stream8(p.codes + (b1 + first + j) * 32 + t * 8);
		} else {
			c.w0[j] = c.w1[j] = make_uint2(0, 0);
		}
	}
	if (NESTED && ALIGNED) {
		c.q0 = __ldg(reinterpret_cast<const uint32_t *>(p.absmax_q + b0 + first));
		c.q1 = __ldg(reinterpret_cast<const uint32_t *>(p.absmax_q + b1 + first));
		c.n0 = __ldg(p.nested + ((b0 + first) >> 8));
		c.n1 = __ldg(p.nested + ((b1 + first) >> 8));
	}
}

template <bool NESTED, bool ALIGNED>
__device__ __forceinline__ void q4_scales(struct q4_chunk &c, const struct cu_part &p, uint64_t b0, uint64_t b1, uint32_t first, uint32_t blocks,
					  const float *map, float offset)
{
#pragma unroll
	for (uint32_t j = 0; j < 4; j++) {
		if (NESTED && ALIGNED) {
			c.s0[j] = __fadd_rn(__fmul_rn(map[c.q0 >> (8 * j) & 255], c.n0), offset);
			c.s1[j] = __fadd_rn(__fmul_rn(map[c.q1 >> (8 * j) & 255], c.n1), offset);
		} else if (first + j >= blocks) {
			c.s0[j] = c.s1[j] = 0.f;
		} else if (NESTED) {
			const uint64_t i0 = b0 + first + j, i1 = b1 + first + j;

			c.s0[j] = __fadd_rn(__fmul_rn(map[p.absmax_q[i0]], p.nested[i0 / p.nested_bs]), offset);
			c.s1[j] = __fadd_rn(__fmul_rn(map[p.absmax_q[i1]], p.nested[i1 / p.nested_bs]), offset);
		} else {
			c.s0[j] = p.absmax[b0 + first + j];
			c.s1[j] = p.absmax[b1 + first + j];
		}
	}
}

/* all copies of the table; `stage` holds 256 words */
__device__ __forceinline__ void build_lut(const struct cu_part &p, uint8_t *lut, float *map, uint32_t *stage, bool nested)
{
	const uint32_t i = threadIdx.x;

	stage[i] = pack2(__ldg(p.tab + (i >> 4)), __ldg(p.tab + (i & 15)));
	if (nested)
		map[i] = __ldg(p.tab + 16 + i);
	__syncthreads();
#pragma unroll
	for (int k = 0; k < 8; k++) {
		const uint32_t at = k * 256 + i, e = stage[at >> 3];

		*reinterpret_cast<uint4 *>(lut + (at >> 3) * 256 + (at & 7) * 16) = make_uint4(e, e, e, e);
	}
	__syncthreads();
}

__device__ __forceinline__ void prefetch_l2(const void *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

template <int NT, bool NESTED, bool ALIGNED>
__device__ __forceinline__ void q4_tile(const struct mv_args &a, const struct cu_part &p, uint32_t row0, uint32_t share, uint8_t *lut, float *map, float *red)
{
	const uint32_t lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, blocks = a.w.in / 64, step = a.split * 4;
	const uint64_t b0 = (uint64_t)min(row0 + g, p.out - 1) * blocks, b1 = (uint64_t)min(row0 + g + 8, p.out - 1) * blocks;
	constexpr uint32_t JP = NT == 1 ? 4 : 2;
	struct q4_chunk cur, next;
	float acc[NT][4] = {};
	uint32_t first = share * 4;
	const float offset = NESTED ? __ldg(p.offset) : 0.f;

	if (first < blocks)
		q4_load<NESTED, ALIGNED>(cur, p, b0, b1, first, blocks, t);
	if (t < 2) /* the lines of the next steps */
		for (uint32_t k = 1; k < 4 && first + k * step < blocks; k++)
			prefetch_l2(p.codes + ((t ? b1 : b0) + first + k * step) * 32);
	build_lut(p, lut, map, reinterpret_cast<uint32_t *>(red), NESTED);
	cu_acquire();
	for (; first < blocks; first += step) {
		const uint32_t then = first + step;

		if (then < blocks)
			q4_load<NESTED, ALIGNED>(next, p, b0, b1, then, blocks, t);
		q4_scales<NESTED, ALIGNED>(cur, p, b0, b1, first, blocks, map, offset);
#pragma unroll
		for (uint32_t j0 = 0; j0 < 4; j0 += JP) { /* JP blocks side by side: independent chains of products */
			uint4 lo[JP][NT], hi[JP][NT];
			float tmp[JP][NT][4] = {};

#pragma unroll
			for (uint32_t j = 0; j < JP; j++)
				load_x<NT>(a, ALIGNED || first + j0 + j < blocks, (first + j0 + j) * 64 + t * 16, g, lo[j], hi[j]);
#pragma unroll
			for (int m = 0; m < 4; m++)
#pragma unroll
				for (uint32_t j = 0; j < JP; j++) {
					const uint32_t v0 = m < 2 ? cur.w0[j0 + j].x : cur.w0[j0 + j].y, v1 = m < 2 ? cur.w1[j0 + j].x : cur.w1[j0 + j].y;
					uint32_t fr[4];
#pragma unroll
					for (int k = 0; k < 4; k++) /* row g byte 2m, row g+8 byte 2m, row g byte 2m+1, row g+8 byte 2m+1 */
						fr[k] = *reinterpret_cast<const uint32_t *>(
							lut + __byte_perm(lane * 4, k & 1 ? v1 : v0, 0x3340 + (((m & 1) * 2 + (k >> 1)) << 4)));
#pragma unroll
					for (int n = 0; n < NT; n++) {
						const uint4 h = m < 2 ? lo[j][n] : hi[j][n];

						mma16816(tmp[j][n], fr[0], fr[1], fr[2], fr[3], m & 1 ? h.z : h.x, m & 1 ? h.w : h.y);
					}
				}
#pragma unroll
			for (uint32_t j = 0; j < JP; j++)
#pragma unroll
				for (int n = 0; n < NT; n++) {
					acc[n][0] += cur.s0[j0 + j] * tmp[j][n][0];
					acc[n][1] += cur.s0[j0 + j] * tmp[j][n][1];
					acc[n][2] += cur.s1[j0 + j] * tmp[j][n][2];
					acc[n][3] += cur.s1[j0 + j] * tmp[j][n][3];
				}
		}
		cur = next;
	}
	store_partial<NT>(acc, red);
}

#endif
