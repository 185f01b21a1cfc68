/* matvec.cu - y = x·Wᵀ (+ bias) (+ residual) (+ adapters by slot) for 1 … 16 rows of x, near memory bandwidth.
 *
 * A tile is 16 rows of W; 1, 2, 4 or 8 warps of a block (by the number of tiles) split its depth and are added in order.  Products run on the tensor cores
 * (m16n8k16: 16 weight rows, 8 rows of x), so 1 … 8 rows of x cost the same.  The order of the depth inside an
 * instruction is free as long as both operands agree: a lane takes 16 consecutive weights of its row, four lanes one block
 * of 64, whose scale multiplies the fp32 partial sum.
 *   NF4/FP4/INT4 (block 64, in % 64 == 0): a code byte becomes two bf16 levels by a table of 256 entries in shared memory, one copy
 *     per bank and 256 bytes apart, so that one byte permutation makes the address and look-ups never collide.  Levels are
 *     rounded to bf16, scales stay fp32.
 *   BF16 (in % 8 == 0), Q8_0: the same with weights read directly.    Everything else: plain fp32 sums.
 * Adapters: the first blocks of the grid compute S = A·x (fp32) of each row's slot; the others add scale·B·S to their rows once all of
 * those are done (a counter in the queue's work area, back to zero when the launch ends).  Lower block indices start
 * first and never wait, so the wait ends.
 * Weights of the first steps are fetched before the preceding launch has ended (cu_acquire in gpu.h).  x is read through L2
 * (__ldcg): a read-only load may find what an earlier layer left in L1 under the same address. */
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

/* ---- adapters: S ---- */

__device__ void lora_s(const struct mv_args &a, float *red)
{
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, per = WARPS / a.s_warps;
	const uint32_t item = blockIdx.x * per + warp / a.s_warps, share = warp % a.s_warps;
	const uint32_t tp = item / S_STEP, p = tp % a.w.n_parts, t = tp / a.w.n_parts;
	const int32_t slot = t < a.T ? a.row_slot[t] : -1;
	struct cu_lora_entry en = {};

	if (slot >= 0)
		en = a.tab[(size_t)slot * a.n_sites + a.site0 + p];
	for (uint32_t j0 = 0; __syncthreads_or(j0 < en.r); j0 += S_STEP) {
		const uint32_t j = j0 + item % S_STEP;
		float s = 0;

		if (j < en.r) {
			const bf16 *row = en.a + (size_t)j * a.w.in, *x = a.x + t * a.ldx;

			if (a.x_vec) {
#pragma unroll 8
				for (uint32_t i = (share * 32 + lane) * 8; i < a.w.in; i += a.s_warps * 256) {
					float f[8], g[8];

					unpack8(__ldg(reinterpret_cast<const uint4 *>(row + i)), f);
					unpack8(__ldcg(reinterpret_cast<const uint4 *>(x + i)), g);
#pragma unroll
					for (int k = 0; k < 8; k++)
						s += f[k] * g[k];
				}
			} else {
				for (uint32_t i = share * 32 + lane; i < a.w.in; i += a.s_warps * 32)
					s += __bfloat162float(row[i]) * __bfloat162float(x[i]);
			}
		}
		s = warp_sum(s);
		if (lane == 0)
			red[warp] = s;
		__syncthreads();
		if (lane == 0 && share == 0 && j < en.r) {
			for (uint32_t k = 1; k < a.s_warps; k++)
				s += red[warp + k];
			a.S[tp * RANK_MAX + j] = s;
		}
	}
	__threadfence();
	__syncthreads();
	if (threadIdx.x == 0)
		atomicAdd(&a.count[0], 1u);
}

/* ---- the four ways to multiply: each leaves WARPS partial sums in red[warp][16][NT*8] ---- */

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

/* ---- the kernel ---- */

enum { MV_Q4, MV_Q4_NESTED, MV_Q4_NESTED_ALIGNED, MV_BF16, MV_Q8, MV_ANY };

template <int NT> __device__ __forceinline__ void finish(const struct mv_args &a, uint32_t part, uint32_t row0, uint32_t base, uint32_t out, const float *red)
{
	const uint32_t rows = WARPS / a.split * 16, total = rows * a.T; /* of this block */
	struct cu_lora_entry en = {};
	uint4 b0 = make_uint4(0, 0, 0, 0), b1 = b0;
	auto adapter = [&](uint32_t i) { /* what does not depend on S */
		const uint32_t row = row0 + i % rows;
		const int32_t slot = a.tab && i < total && row < out ? a.row_slot[i / rows] : -1;

		en.r = 0;
		if (slot < 0)
			return;
		en = a.tab[(size_t)slot * a.n_sites + a.site0 + part];
		if (en.r)
			b0 = __ldg(reinterpret_cast<const uint4 *>(en.b + (size_t)row * en.rp));
		if (en.r > 8)
			b1 = __ldg(reinterpret_cast<const uint4 *>(en.b + (size_t)row * en.rp + 8));
	};

	adapter(threadIdx.x);
	if (a.tab && threadIdx.x == 255) /* a thread with little else to do here */
		while (atomicAdd(&a.count[0], 0u) < a.s_blocks)
			__nanosleep(20);
	__syncthreads(); /* partial sums and S are there */
	for (uint32_t i = threadIdx.x; i < total; i += 256) {
		const uint32_t rr = i % rows, n = i / rows, tile = rr >> 4, r = rr & 15, row = row0 + rr, col = base + row;
		float v = 0;

		if (row >= out)
			continue;
		if (i != threadIdx.x)
			adapter(i);
		for (uint32_t w = 0; w < a.split; w++)
			v += red[((tile * a.split + w) * 16 + r) * (NT * 8) + n];
		if (a.bias)
			v += a.bias[col];
		if (en.r) {
			const float *S = a.S + (n * a.w.n_parts + part) * RANK_MAX;
			float s = 0;

			for (uint32_t j = 0; j < en.r; j += 8) {
				float f[8];

				unpack8(j == 0 ? b0 : j == 8 ? b1 : __ldg(reinterpret_cast<const uint4 *>(en.b + (size_t)row * en.rp + j)), f);
#pragma unroll
				for (int k = 0; k < 8; k++)
					if (j + k < en.r)
						s += f[k] * __ldcg(S + j + k);
			}
			v += en.scale * s;
		}
		if (a.res)
			v += __bfloat162float(a.res[n * a.ldres + col]);
		if (a.y_f32)
			((float *)a.y)[n * a.ldy + col] = v;
		else
			((bf16 *)a.y)[n * a.ldy + col] = __float2bfloat16_rn(v);
	}
}

template <int KIND, int NT> __global__ void __launch_bounds__(256, BLOCKS_PER_SM) matvec_kernel(const __grid_constant__ struct mv_args a)
{
	extern __shared__ __align__(256) uint8_t lut[]; /* q4 only */
	__shared__ float map[KIND <= MV_Q4_NESTED_ALIGNED ? 256 : 1];
	__shared__ __align__(16) float red[WARPS * 16 * NT * 8];
	const uint32_t warp = threadIdx.x >> 5;

	cu_release();
	if (blockIdx.x < a.s_blocks) {
		cu_acquire();
		lora_s(a, red);
	} else {
		const uint32_t block = blockIdx.x - a.s_blocks, share = warp % a.split;
		uint32_t part = 0;

		while (part + 1 < a.w.n_parts && block >= a.block0[part + 1])
			part++;
		const uint32_t row0 = (block - a.block0[part]) * (WARPS / a.split) * 16, base = a.w.part[part].row0, out = a.w.part[part].out;
		const uint32_t mine = row0 + warp / a.split * 16; /* this warp's tile */

		if (KIND == MV_Q4)
			q4_tile<NT, false, false>(a, a.w.part[part], mine, share, lut, map, red);
		else if (KIND == MV_Q4_NESTED)
			q4_tile<NT, true, false>(a, a.w.part[part], mine, share, lut, map, red);
		else if (KIND == MV_Q4_NESTED_ALIGNED)
			q4_tile<NT, true, true>(a, a.w.part[part], mine, share, lut, map, red);
		else if (KIND == MV_BF16)
			bf16_tile<NT>(a, base + mine, share, red);
		else if (KIND == MV_Q8)
			q8_tile<NT>(a, base + mine, share, red);
		else
			any_tile<NT>(a, row0, base, out, red);
		finish<NT>(a, part, row0, base, out, red);
	}
	if (a.tab) {
		__syncthreads();
		if (threadIdx.x == 0 && atomicAdd(&a.count[1], 1u) == gridDim.x - 1) {
			a.count[0] = 0;
			a.count[1] = 0;
		}
	}
}

#define Q4_KERNELS(F)                                     \
	F(MV_Q4, 1) F(MV_Q4, 2) F(MV_Q4_NESTED, 1) F(MV_Q4_NESTED, 2) F(MV_Q4_NESTED_ALIGNED, 1) F(MV_Q4_NESTED_ALIGNED, 2)

cudaError_t cu_matvec_setup(void)
{
	cudaError_t r = cudaSuccess;
#define SET(K, N)             \
	if (r == cudaSuccess) \
		r = cudaFuncSetAttribute(matvec_kernel<K, N>, cudaFuncAttributeMaxDynamicSharedMemorySize, LUT_BYTES);
	Q4_KERNELS(SET)
#undef SET
	return r;
}

/* warps per tile: the most with which all blocks still run at once, BLOCKS_PER_SM on a multiprocessor */
static uint32_t split_of(struct ql_device *d, const struct ql_weight *w, int kind, uint32_t s_blocks)
{
	const uint32_t tiles = (w->out + 15) / 16;
	uint32_t split = WARPS;

	if (kind > MV_Q4_NESTED_ALIGNED)
		return WARPS;
	while (split > 1 && (uint64_t)tiles * split / WARPS + s_blocks > BLOCKS_PER_SM * (uint64_t)cu_of(d)->sms)
		split /= 2;
	return split;
}

static int kind_of(const struct ql_weight *w, bool vec)
{
	if (cu_is_q4(w->dtype) && w->blocksize == 64 && w->in % 64 == 0 && vec) {
		if (!w->nested)
			return MV_Q4;
		return w->in % 256 == 0 && w->part[0].nested_bs == 256 && (w->s.n_parts < 2 || w->part[1].nested_bs == 256) &&
				       (w->s.n_parts < 3 || w->part[2].nested_bs == 256)
			       ? MV_Q4_NESTED_ALIGNED
			       : MV_Q4_NESTED;
	}
	if (w->dtype == QL_BF16 && vec && w->in % 8 == 0)
		return MV_BF16;
	if (w->dtype == QL_Q8_0 && vec)
		return MV_Q8;
	return MV_ANY;
}

int cu_matvec(struct ql_device *d, struct ql_queue *q, const struct ql_linear *l, uint32_t row, uint32_t rows, struct ql_err *e)
{
	const struct ql_weight *w = l->w;
	const bool x_vec = w->in % 8 == 0 && l->x.ld % 8 == 0 && ((uintptr_t)l->x.data & 15) == 0;
	const int kind = kind_of(w, x_vec);
	struct mv_args a;
	uint32_t blocks = 0, r0 = 0;
	uint8_t *work;

	memset(&a, 0, sizeof a);
	a.w = cu_any_of(w);
	if (l->table) {
		const uint32_t pairs = rows * w->s.n_parts;

		a.s_warps = pairs == 1 ? 4 : pairs <= 4 ? 8 : pairs <= 8 ? 4 : 2;
		a.s_blocks = (pairs * S_STEP * a.s_warps + WARPS - 1) / WARPS;
	}
	a.split = split_of(d, w, kind, rows <= 4 ? a.s_blocks : 0);
	for (uint32_t p = 0; p < w->s.n_parts; p++) {
		const uint32_t rows_per = WARPS / a.split * 16;

		a.block0[p] = blocks;
		a.w.part[p].row0 = r0; /* dense weights carry no parts of their own */
		a.w.part[p].out = w->s.out[p];
		blocks += (w->s.out[p] + rows_per - 1) / rows_per;
		r0 += w->s.out[p];
	}
	a.block0[w->s.n_parts] = blocks;
	a.T = rows;
	a.x = (const bf16 *)l->x.data + (size_t)row * l->x.ld;
	a.ldx = l->x.ld;
	a.x_vec = x_vec;
	a.y_f32 = l->y.dtype == QL_F32;
	a.y = (uint8_t *)l->y.data + (size_t)row * l->y.ld * (a.y_f32 ? 4 : 2);
	a.ldy = l->y.ld;
	a.bias = l->bias;
	a.res = l->residual ? (const bf16 *)l->residual + (size_t)row * l->ld_residual : NULL;
	a.ldres = l->ld_residual;
	if (l->table) {
		a.tab = l->table->dev;
		a.n_sites = l->table->n_sites;
		a.site0 = l->site0;
		a.row_slot = l->row_slot + row;
		QL_TRY(cu_work(d, q, &work, e));
		a.count = (unsigned *)q->count;
		a.S = (float *)work;
	}
	const unsigned grid = blocks + a.s_blocks;
	const size_t smem = kind <= MV_Q4_NESTED_ALIGNED ? LUT_BYTES : 0;
#define GO(K)                                                                                                       \
	case K:                                                                                                     \
		CU_TRY(cu_launch(d, q, rows <= 8 ? matvec_kernel<K, 1> : matvec_kernel<K, 2>, grid, 256, smem, a)); \
		break;
	switch (kind) {
		GO(MV_Q4)
		GO(MV_Q4_NESTED)
		GO(MV_Q4_NESTED_ALIGNED)
		GO(MV_BF16)
		GO(MV_Q8)
		GO(MV_ANY)
	}
#undef GO
	return QL_OK;
}
