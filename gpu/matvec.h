/* matvec.h - what the parts of matvec.cu share: arguments, loads past L1, one tensor-core product, partial sums.  A way to multiply leaves
 * WARPS partial sums in red[warp][16][NT*8]. */
#ifndef QL_GPU_MATVEC_H
#define QL_GPU_MATVEC_H

#include "gpu/element.h"

#define WARPS 8
#define RANK_MAX 256
#define S_STEP 16 /* ranks of one (row, part) computed side by side */
#define LUT_BYTES 65536
#define BLOCKS_PER_SM 2 /* 128 registers a thread: with 80 the compiler serialises look-ups and products, twice as slow */

struct mv_args {
	struct cu_any w;
	uint32_t block0[QL_PARTS_MAX + 1]; /* first block of each part */
	uint32_t T, split, s_warps; /* warps per tile; warps per (row, part, rank) of S: powers of two */
	const bf16 *x;
	size_t ldx;
	void *y;
	size_t ldy;
	bool y_f32, x_vec;
	const float *bias;
	const bf16 *res;
	size_t ldres;
	const struct cu_lora_entry *tab; /* NULL: none */
	const int32_t *row_slot;
	uint32_t n_sites, site0, s_blocks;
	float *S; /* [T, n_parts, RANK_MAX] */
	unsigned *count;
};

__device__ __forceinline__ void mma16816(float c[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint2 ld_stream8(const void *p)
{
	uint2 v;

	asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
	return v;
}

__device__ __forceinline__ uint4 ld_stream16(const void *p)
{
	uint4 v;

	asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
	return v;
}

template <int NT> __device__ __forceinline__ void store_partial(float (*acc)[4], float *red)
{
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;

#pragma unroll
	for (int n = 0; n < NT; n++)
#pragma unroll
		for (int k = 0; k < 4; k++)
			red[(warp * 16 + g + (k >> 1) * 8) * (NT * 8) + n * 8 + 2 * t + (k & 1)] = acc[n][k];
}

template <int NT> __device__ __forceinline__ void load_x(const struct mv_args &a, bool ok, uint32_t k, uint32_t g, uint4 lo[NT], uint4 hi[NT])
{
#pragma unroll
	for (int n = 0; n < NT; n++) {
		lo[n] = hi[n] = make_uint4(0, 0, 0, 0);
		if (ok && n * 8 + g < a.T) {
			const uint4 *p = reinterpret_cast<const uint4 *>(a.x + (n * 8 + g) * a.ldx + k);

			lo[n] = __ldcg(p);
			hi[n] = __ldcg(p + 1);
		}
	}
}

#endif
