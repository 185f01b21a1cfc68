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
 * Weights of the first steps are fetched before the preceding launch has ended (cu_acquire in kernel.h).  x is read through L2
 * (__ldcg): a read-only load may find what an earlier layer left in L1 under the same address. */
#include "gpu/matvec_dense.h"
#include "gpu/matvec_q4.h"

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
