/* attention_bwd.cu - gradient of packed causal attention.  With P = exp(scale·q·kᵀ - lse), D = rowsum(dO ⊙ O), dS = P ⊙ (dO·vᵀ - D):
 *   dq = scale·dS·k,  dk = scale·dSᵀ·q,  dv = Pᵀ·dO;  dk and dv sum over the query heads of a group in ascending order.
 * Shapes as in attention_fwd.cu.  Two kernels, so that nothing is added across blocks and every order is fixed:
 *   dkv: a block owns 64 keys of one kv head and walks heads of the group and 64 queries at a time (Sᵀ = K·Qᵀ, so that Pᵀ and dSᵀ are
 *        already the left operand of the two products that follow);   dq: a block owns 64 queries of one head and walks keys.
 * CAP: scores s are c·tanh(s/c), and dS has the factor 1 - tanh²(s/c) more.
 * Four warps of 16 rows, bf16 tensor cores, copies two steps deep; compute capability 9.0 takes attention_bwd90.cu instead.  Other head
 * sizes: attention_bwd_plain.cu. */
#include "gpu/attention_bwd.h"

#define B 64

/* D[h][t] = Σ dO·O, one warp per (t, h) */
__global__ void __launch_bounds__(128) row_dots(const __grid_constant__ struct bwd_args a)
{
	const uint32_t lane = threadIdx.x & 31, head = blockIdx.y, t = blockIdx.x * 4 + (threadIdx.x >> 5), hd = a.head_dim;
	float s = 0;

	if (t >= a.T)
		return;
	const bf16 *o = a.o + t * a.ldo + (size_t)head * hd, *d_o = a.d_o + t * a.lddo + (size_t)head * hd;
	for (uint32_t i = lane; i < hd; i += 32)
		s += __bfloat162float(o[i]) * __bfloat162float(d_o[i]);
	s = warp_sum(s);
	if (lane == 0)
		a.D[(size_t)head * a.T + t] = s;
}

/* The same for aligned rows: 16 bytes a thread, HD / 8 neighbouring threads a row, rows in the order of memory. */
template <int HD> __global__ void __launch_bounds__(256) row_dots_fast(const __grid_constant__ struct bwd_args a)
{
	constexpr uint32_t C = HD / 8;
	const uint64_t i = blockIdx.x * 256ull + threadIdx.x, row = i / C;
	const uint32_t t = (uint32_t)(row / a.n_head), head = (uint32_t)(row % a.n_head), at = head * HD + (uint32_t)(i % C) * 8;
	float s = 0;

	if (t < a.T) {
		float x[8], y[8];

		load8<true>(a.o + t * a.ldo, at, 0, x);
		load8<true>(a.d_o + t * a.lddo, at, 0, y);
#pragma unroll
		for (int k = 0; k < 8; k++)
			s += x[k] * y[k];
	}
#pragma unroll
	for (uint32_t d = C / 2; d; d >>= 1)
		s += __shfl_xor_sync(~0u, s, d);
	if (t < a.T && i % C == 0)
		a.D[(size_t)head * a.T + t] = s;
}

__device__ __forceinline__ void load_stats(float *lse, float *D, const struct bwd_args &a, uint32_t head, uint32_t row0, uint32_t end)
{
	const uint32_t i = threadIdx.x & 63, row = row0 + i;
	const float *src = threadIdx.x < 64 ? a.lse : a.D;
	const float v = row < end ? src[(size_t)head * a.T + row] : 0.f;

	(threadIdx.x < 64 ? lse : D)[i] = threadIdx.x < 64 ? v * CU_LOG2E : v;
}

template <int HD, bool CAP> __global__ void __launch_bounds__(128, 2) flash_dkv(const __grid_constant__ struct bwd_args a)
{
	extern __shared__ __align__(128) uint8_t smem[];
	constexpr uint32_t TILE = B * HD * 2;
	const uint32_t sk = smem_u32(smem), sv = sk + TILE, sq = sv + TILE, sdo = sq + 2 * TILE;
	float *slse = reinterpret_cast<float *>(smem + 6 * TILE), *sD = slse + 2 * B;
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t kvh = blockIdx.x, group = a.n_head / a.n_kv;
	const float sl2 = a.scale * CU_LOG2E;
	struct tile_pos pos;
	float dk[HD / 8][4] = {}, dv[HD / 8][4] = {};

	if (!find_tile(a.cu, a.n_seqs, B, a.tiles, blockIdx.y, false, &pos))
		return;
	const uint32_t end = pos.begin + pos.len; /* rows of the packed batch */
	const uint32_t m0 = pos.first / B;
	uint32_t m1 = (pos.len + B - 1) / B;
	if (a.window) {
		const uint32_t far = (pos.first + B - 1 + a.window - 1) / B + 1; /* last query that sees the last key */

		m1 = m1 < far ? m1 : far;
	}
	const uint32_t steps = (m1 - m0) * group;
	load_tile<HD, B, 128>(sk, a.k + (size_t)kvh * HD, a.ldk, pos.begin + pos.first, end);
	load_tile<HD, B, 128>(sv, a.v + (size_t)kvh * HD, a.ldv, pos.begin + pos.first, end);
	load_tile<HD, B, 128>(sq, a.q + (size_t)kvh * group * HD, a.ldq, pos.begin + m0 * B, end);
	load_tile<HD, B, 128>(sdo, a.d_o + (size_t)kvh * group * HD, a.lddo, pos.begin + m0 * B, end);
	cp_commit();
	load_stats(slse, sD, a, kvh * group, pos.begin + m0 * B, end);
	for (uint32_t i = 0; i < steps; i++) {
		const uint32_t head = kvh * group + i / (m1 - m0), q0 = (m0 + i % (m1 - m0)) * B, st = i & 1;
		const uint32_t tq = sq + st * TILE, tdo = sdo + st * TILE;

		cp_wait<0>();
		__syncthreads();
		if (i + 1 < steps) {
			const uint32_t nh = kvh * group + (i + 1) / (m1 - m0), nq = pos.begin + (m0 + (i + 1) % (m1 - m0)) * B;

			load_tile<HD, B, 128>(sq + (st ^ 1) * TILE, a.q + (size_t)nh * HD, a.ldq, nq, end);
			load_tile<HD, B, 128>(sdo + (st ^ 1) * TILE, a.d_o + (size_t)nh * HD, a.lddo, nq, end);
			cp_commit();
			load_stats(slse + (st ^ 1) * B, sD + (st ^ 1) * B, a, nh, nq, end);
		}
		(void)head;
		float s[B / 8][4] = {}, cap[CAP ? B / 8 : 1][4];
		uint32_t p[B / 16][4];
#pragma unroll
		for (int ks = 0; ks < HD / 16; ks++) {
			uint32_t fa[4];

			frag_a<HD>(fa, sk, warp * 16, ks);
#pragma unroll
			for (int nt = 0; nt < B / 16; nt++) {
				uint32_t b[4];

				frag_b<HD>(b, tq, nt * 16, ks);
				mma_bf16(s[2 * nt], fa, b[0], b[1]);
				mma_bf16(s[2 * nt + 1], fa, b[2], b[3]);
			}
		}
		const uint32_t key = pos.first + warp * 16 + g;
		const bool edge = q0 < pos.first + B || q0 + B > pos.len || pos.first + B > pos.len || (a.window && q0 + B > pos.first + a.window);
#pragma unroll
		for (int nt = 0; nt < B / 8; nt++)
#pragma unroll
			for (int c = 0; c < 4; c++) {
				const uint32_t qi = nt * 8 + 2 * t + (c & 1), j = key + (c >> 1) * 8, i_q = q0 + qi;
				float slope = 1.f, z = CAP ? capped(s[nt][c], a.scale, a.softcap, &slope) : s[nt][c];
				float v = pow2(z * sl2 - slse[st * B + qi]);

				if (edge && (j > i_q || i_q >= pos.len || j >= pos.len || (a.window && j + a.window <= i_q)))
					v = 0.f;
				s[nt][c] = v;
				if (CAP)
					cap[nt][c] = slope;
			}
#pragma unroll
		for (int nt = 0; nt < B / 8; nt++) {
			p[nt >> 1][(nt & 1) * 2] = pack2(s[nt][0], s[nt][1]);
			p[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt][2], s[nt][3]);
#pragma unroll
			for (int c = 0; CAP && c < 4; c++) /* dS = P ⊙ slope ⊙ (dP - D) */
				s[nt][c] *= cap[nt][c];
		}
		float dp[B / 8][4] = {};
#pragma unroll
		for (int ks = 0; ks < HD / 16; ks++) {
			uint32_t fa[4];

			frag_a<HD>(fa, sv, warp * 16, ks);
#pragma unroll
			for (int nt = 0; nt < B / 16; nt++) {
				uint32_t b[4];

				frag_b<HD>(b, tdo, nt * 16, ks);
				mma_bf16(dp[2 * nt], fa, b[0], b[1]);
				mma_bf16(dp[2 * nt + 1], fa, b[2], b[3]);
			}
		}
#pragma unroll
		for (int kk = 0; kk < B / 16; kk++)
#pragma unroll
			for (int d = 0; d < HD / 16; d++) {
				uint32_t b[4];

				frag_bt<HD>(b, tdo, kk * 16, d);
				mma_bf16(dv[2 * d], p[kk], b[0], b[1]);
				mma_bf16(dv[2 * d + 1], p[kk], b[2], b[3]);
			}
#pragma unroll
		for (int nt = 0; nt < B / 8; nt++) {
			const float D0 = sD[st * B + nt * 8 + 2 * t], D1 = sD[st * B + nt * 8 + 2 * t + 1];

			p[nt >> 1][(nt & 1) * 2] = pack2(s[nt][0] * (dp[nt][0] - D0), s[nt][1] * (dp[nt][1] - D1));
			p[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt][2] * (dp[nt][2] - D0), s[nt][3] * (dp[nt][3] - D1));
		}
#pragma unroll
		for (int kk = 0; kk < B / 16; kk++)
#pragma unroll
			for (int d = 0; d < HD / 16; d++) {
				uint32_t b[4];

				frag_bt<HD>(b, tq, kk * 16, d);
				mma_bf16(dk[2 * d], p[kk], b[0], b[1]);
				mma_bf16(dk[2 * d + 1], p[kk], b[2], b[3]);
			}
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = warp * 16 + h * 8 + g;

		if (pos.first + r >= pos.len)
			continue;
		const size_t row = (size_t)pos.begin + pos.first + r;
		bf16 *ok = a.dk + row * a.lddk + (size_t)kvh * HD, *ov = a.dv + row * a.lddv + (size_t)kvh * HD;
#pragma unroll
		for (int d = 0; d < HD / 8; d++) {
			*reinterpret_cast<uint32_t *>(ok + d * 8 + 2 * t) = pack2(dk[d][h * 2] * a.scale, dk[d][h * 2 + 1] * a.scale);
			*reinterpret_cast<uint32_t *>(ov + d * 8 + 2 * t) = pack2(dv[d][h * 2], dv[d][h * 2 + 1]);
		}
	}
}

template <int HD, bool CAP> __global__ void __launch_bounds__(128, 2) flash_dq(const __grid_constant__ struct bwd_args a)
{
	extern __shared__ __align__(128) uint8_t smem[];
	constexpr uint32_t TILE = B * HD * 2;
	const uint32_t sq = smem_u32(smem), sdo = sq + TILE, sk = sdo + TILE, sv = sk + 2 * TILE;
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t head = blockIdx.x, kvh = head / (a.n_head / a.n_kv);
	const float sl2 = a.scale * CU_LOG2E;
	struct tile_pos pos;
	float dq[HD / 8][4] = {}, lse[2], D[2];

	if (!find_tile(a.cu, a.n_seqs, B, a.tiles, blockIdx.y, true, &pos))
		return;
	const uint32_t end = pos.begin + pos.len, rows = min((uint32_t)B, pos.len - pos.first);
	const uint32_t lowest = a.window && pos.first + 1 > a.window ? pos.first + 1 - a.window : 0;
	const int n1 = (int)((pos.first + rows - 1) / B), n0 = (int)(lowest / B);
	const bf16 *k = a.k + (size_t)kvh * HD, *v = a.v + (size_t)kvh * HD;

	load_tile<HD, B, 128>(sq, a.q + (size_t)head * HD, a.ldq, pos.begin + pos.first, end);
	load_tile<HD, B, 128>(sdo, a.d_o + (size_t)head * HD, a.lddo, pos.begin + pos.first, end);
	load_tile<HD, B, 128>(sk, k, a.ldk, pos.begin + n0 * B, end);
	load_tile<HD, B, 128>(sv, v, a.ldv, pos.begin + n0 * B, end);
	cp_commit();
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = pos.first + warp * 16 + h * 8 + g;
		const size_t at = (size_t)head * a.T + pos.begin + r;

		lse[h] = r < pos.len ? a.lse[at] * CU_LOG2E : 0.f;
		D[h] = r < pos.len ? a.D[at] : 0.f;
	}
	for (int n = n0; n <= n1; n++) {
		const uint32_t st = (uint32_t)(n - n0) & 1, tk = sk + st * TILE, tv = sv + st * TILE, j0 = (uint32_t)n * B;
		float s[B / 8][4] = {}, dp[B / 8][4] = {};
		uint32_t p[B / 16][4];

		cp_wait<0>();
		__syncthreads();
		if (n < n1) {
			load_tile<HD, B, 128>(sk + (st ^ 1) * TILE, k, a.ldk, pos.begin + j0 + B, end);
			load_tile<HD, B, 128>(sv + (st ^ 1) * TILE, v, a.ldv, pos.begin + j0 + B, end);
			cp_commit();
		}
#pragma unroll
		for (int ks = 0; ks < HD / 16; ks++) {
			uint32_t fa[4], fo[4];

			frag_a<HD>(fa, sq, warp * 16, ks);
			frag_a<HD>(fo, sdo, warp * 16, ks);
#pragma unroll
			for (int nt = 0; nt < B / 16; nt++) {
				uint32_t b[4];

				frag_b<HD>(b, tk, nt * 16, ks);
				mma_bf16(s[2 * nt], fa, b[0], b[1]);
				mma_bf16(s[2 * nt + 1], fa, b[2], b[3]);
				frag_b<HD>(b, tv, nt * 16, ks);
				mma_bf16(dp[2 * nt], fo, b[0], b[1]);
				mma_bf16(dp[2 * nt + 1], fo, b[2], b[3]);
			}
		}
		const bool edge = j0 + B > pos.first || (a.window && j0 + a.window < pos.first + rows);
#pragma unroll
		for (int nt = 0; nt < B / 8; nt++)
#pragma unroll
			for (int c = 0; c < 4; c++) {
				const uint32_t j = j0 + nt * 8 + 2 * t + (c & 1), i_q = pos.first + warp * 16 + g + (c >> 1) * 8;
				float slope = 1.f, z = CAP ? capped(s[nt][c], a.scale, a.softcap, &slope) : s[nt][c];
				float e = pow2(z * sl2 - lse[c >> 1]);

				if (edge && (j > i_q || i_q >= pos.len || (a.window && j + a.window <= i_q)))
					e = 0.f;
				s[nt][c] = e * (dp[nt][c] - D[c >> 1]);
				if (CAP)
					s[nt][c] *= slope;
			}
#pragma unroll
		for (int nt = 0; nt < B / 8; nt++) {
			p[nt >> 1][(nt & 1) * 2] = pack2(s[nt][0], s[nt][1]);
			p[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt][2], s[nt][3]);
		}
#pragma unroll
		for (int kk = 0; kk < B / 16; kk++)
#pragma unroll
			for (int d = 0; d < HD / 16; d++) {
				uint32_t b[4];

				frag_bt<HD>(b, tk, kk * 16, d);
				mma_bf16(dq[2 * d], p[kk], b[0], b[1]);
				mma_bf16(dq[2 * d + 1], p[kk], b[2], b[3]);
			}
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = warp * 16 + h * 8 + g;

		if (r >= rows)
			continue;
		bf16 *out = a.dq + ((size_t)pos.begin + pos.first + r) * a.lddq + (size_t)head * HD;
#pragma unroll
		for (int d = 0; d < HD / 8; d++)
			*reinterpret_cast<uint32_t *>(out + d * 8 + 2 * t) = pack2(dq[d][h * 2] * a.scale, dq[d][h * 2 + 1] * a.scale);
	}
}

#define SMEM(HD) (6 * B * (HD) * 2 + 4 * B * 4)

typedef void (*bwd_kernel)(struct bwd_args);

/* by head size (64, 128) and capped */
static bwd_kernel dkv_of(uint32_t head_dim, bool cap)
{
	return head_dim == 64 ? cap ? flash_dkv<64, true> : flash_dkv<64, false> : cap ? flash_dkv<128, true> : flash_dkv<128, false>;
}
static bwd_kernel dq_of(uint32_t head_dim, bool cap)
{
	return head_dim == 64 ? cap ? flash_dq<64, true> : flash_dq<64, false> : cap ? flash_dq<128, true> : flash_dq<128, false>;
}

cudaError_t cu_attention_bwd_setup(void)
{
	cudaError_t r = cudaSuccess;

	for (int i = 0; i < 4 && r == cudaSuccess; i++) {
		const uint32_t hd = i < 2 ? 64 : 128;

		r = cudaFuncSetAttribute(dkv_of(hd, i % 2), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(hd));
		if (r == cudaSuccess)
			r = cudaFuncSetAttribute(dq_of(hd, i % 2), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(hd));
	}
	if (r == cudaSuccess)
		r = cu_attention_bwd90_setup();
	return r;
}

int cu_attention_grad(struct ql_device *d, struct ql_queue *q, const struct ql_attn_grad *g, struct ql_err *e)
{
	const struct ql_attn *f = &g->f;
	struct bwd_args a;

	QL_TRY(cu_begin(d, "attention_grad", e));
	QL_TRY(cu_check_attn(f, e));
	QL_TRY(cu_check_act(&g->d_o, "d_o", e));
	QL_TRY(cu_check_act(&g->dq, "dq", e));
	QL_TRY(cu_check_act(&g->dk, "dk", e));
	QL_TRY(cu_check_act(&g->dv, "dv", e));
	QL_TRY(cu_check_same(&g->d_o, &f->q, "d_o", e));
	QL_TRY(cu_check_same(&g->dq, &f->q, "dq", e));
	QL_TRY(cu_check_same(&g->dk, &f->k, "dk", e));
	QL_TRY(cu_check_same(&g->dv, &f->v, "dv", e));
	if (!f->lse)
		return ql_err_set(e, QL_EINVAL, "attention_grad: lse of the forward is needed");
	if (f->q.rows == 0)
		return QL_OK;
	memset(&a, 0, sizeof a);
	a.q = (const bf16 *)f->q.data, a.k = (const bf16 *)f->k.data, a.v = (const bf16 *)f->v.data, a.o = (const bf16 *)f->o.data;
	a.d_o = (const bf16 *)g->d_o.data, a.dq = (bf16 *)g->dq.data, a.dk = (bf16 *)g->dk.data, a.dv = (bf16 *)g->dv.data;
	a.ldq = f->q.ld, a.ldk = f->k.ld, a.ldv = f->v.ld, a.ldo = f->o.ld;
	a.lddo = g->d_o.ld, a.lddq = g->dq.ld, a.lddk = g->dk.ld, a.lddv = g->dv.ld;
	a.lse = f->lse;
	a.T = f->q.rows, a.n_head = f->n_head, a.n_kv = f->n_kv, a.head_dim = f->head_dim, a.n_seqs = f->n_seqs;
	a.window = f->window;
	a.scale = f->scale;
	a.softcap = f->softcap;
	a.cu = f->cu_seqlens;
	for (uint32_t s = 0; s < f->n_seqs; s++)
		a.tiles += ((uint32_t)(f->cu_seqlens_host[s + 1] - f->cu_seqlens_host[s]) + B - 1) / B;
	QL_TRY(cu_scratch(d, q, (size_t)a.n_head * a.T * 4, (void **)&a.D, e));
	const void *ptrs[8] = {a.q, a.k, a.v, a.o, a.d_o, a.dq, a.dk, a.dv};
	const size_t lds[8] = {a.ldq, a.ldk, a.ldv, a.ldo, a.lddo, a.lddq, a.lddk, a.lddv};
	const dim3 grid(a.n_head, a.tiles), grid_kv(a.n_kv, a.tiles);
	if (!cu_attn_fast(a.head_dim, ptrs, lds, 8)) {
		row_dots<<<dim3((a.T + 3) / 4, a.n_head), 128, 0, q->s>>>(a);
		CU_LAUNCHED();
		return cu_attention_bwd_plain(d, q, &a, e);
	}
	const unsigned blocks = (unsigned)(((uint64_t)a.T * a.n_head * (a.head_dim / 8) + 255) / 256);
	(a.head_dim == 64 ? row_dots_fast<64> : row_dots_fast<128>)<<<blocks, 256, 0, q->s>>>(a);
	CU_LAUNCHED();
	if (cu_of(d)->hopper) {
		uint32_t tiles = 0;

		for (uint32_t s = 0; s < f->n_seqs; s++)
			tiles += ((uint32_t)(f->cu_seqlens_host[s + 1] - f->cu_seqlens_host[s]) + 127) / 128;
		return cu_attention_bwd90(d, q, &a, tiles, e);
	}
	const size_t smem = a.head_dim == 64 ? SMEM(64) : SMEM(128);
	dkv_of(a.head_dim, a.softcap > 0.f)<<<grid_kv, 128, smem, q->s>>>(a);
	CU_LAUNCHED();
	dq_of(a.head_dim, a.softcap > 0.f)<<<grid, 128, smem, q->s>>>(a);
	CU_LAUNCHED();
	return QL_OK;
}
