/* attention_bwd90.cu - gradient of packed causal attention on compute capability 9.0, formulas and shapes of attention_bwd.cu.
 *
 * The same two kernels with warpgroup products (wgmma.h): a block is two warpgroups of 64 rows.
 *   dkv: 128 keys of one kv head; walks the heads of the group in order, 64 queries at a time:  Sᵀ = K·Qᵀ, dPᵀ = V·dOᵀ,
 *        Pᵀ = exp(scale·Sᵀ - lse), dV += Pᵀ·dO, dSᵀ = Pᵀ ⊙ (dPᵀ - D), dK += dSᵀ·Q; Pᵀ and dSᵀ stay in registers as left operands.
 *   dq:  128 queries of one head; walks 64 keys at a time:  S = Q·Kᵀ, dP = dO·Vᵀ, dQ += (P ⊙ (dP - D))·K.
 * Where a kv head serves an even number of query heads, two blocks of a cluster share a dkv tile, half of the heads each: with one sequence
 * the longest walk is otherwise twice the mean.  The second hands its sums to the first through shared memory, which adds them to its own.
 * A step's last products are waited for behind the next step's first ones; so three tiles are in use: the one they read, the one of
 * the step, and the one that cp.async brings.  Nothing else is added across blocks, so every order is fixed. */
#include "gpu/attention_bwd.h"
#include "gpu/wgmma.h"

#define BIG 128 /* rows a block owns */
#define STEP 64 /* rows per step of the walk */
#define STAGES 3
#define SMEM(HD) (2 * BIG * (HD) * 2 + 2 * STAGES * STEP * (HD) * 2 + 2 * STAGES * STEP * 4 + 1024)

#ifdef CU_WGMMA
/* lse and D of STEP rows on their way into shared memory, with the tiles */
__device__ __forceinline__ void load_stats(uint32_t lse, uint32_t D, const struct bwd_args &a, uint32_t head, uint32_t row0, uint32_t end)
{
	const uint32_t i = threadIdx.x & 63, row = row0 + i;

	if (threadIdx.x < 128)
		cp_async4((threadIdx.x < 64 ? lse : D) + i * 4, (threadIdx.x < 64 ? a.lse : a.D) + (size_t)head * a.T + row, row < end);
}
#endif

#ifdef CU_WGMMA
__device__ __forceinline__ uint32_t cluster_rank(void)
{
	uint32_t r;

	asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
	return r;
}
__device__ __forceinline__ void cluster_sync(void)
{
	asm volatile("barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;" ::: "memory");
}

/* Rank 1 puts its sums where its tiles were; rank 0 reads them there and adds them to its own.  True for rank 0. */
template <int N> __device__ __forceinline__ bool join_pair(float (&dk)[N], float (&dv)[N], uint32_t rank, uint8_t *raw)
{
	float *mine = reinterpret_cast<float *>(raw) + threadIdx.x;

	__syncthreads(); /* the tiles are not read any more */
	if (rank)
#pragma unroll
		for (int i = 0; i < N; i++) {
			mine[i * 256] = dk[i];
			mine[(N + i) * 256] = dv[i];
		}
	cluster_sync();
	if (!rank) {
		uint32_t at;

		asm("mapa.shared::cluster.u32 %0, %1, 1;" : "=r"(at) : "r"(smem_u32(mine)));
#pragma unroll
		for (int i = 0; i < N; i++) {
			float x, y;

			asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at + i * 1024) : "memory");
			asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(y) : "r"(at + (N + i) * 1024) : "memory");
			dk[i] += x;
			dv[i] += y;
		}
	}
	cluster_sync(); /* a block's memory lasts until it ends */
	return rank == 0;
}
#endif

/* PAIR: launched in clusters of two */
template <int HD, bool CAP, bool PAIR> __global__ void __launch_bounds__(256, 1) dkv90(const __grid_constant__ struct bwd_args a)
{
#ifdef CU_WGMMA
	extern __shared__ uint8_t raw[];
	constexpr uint32_t TILE = STEP * HD * 2, OWN = BIG * HD * 2;
	const uint32_t start = (smem_u32(raw) + 1023) & ~1023u;
	const uint32_t sk = start, sv = sk + OWN, sq = sv + OWN, sdo = sq + STAGES * TILE;
	const uint32_t stats = sdo + STAGES * TILE; /* lse, then D, of each stage */
	const float *slse = reinterpret_cast<float *>(raw + (stats - smem_u32(raw))), *sD = slse + STAGES * STEP;
	const uint32_t wg = threadIdx.x >> 7, warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t rank = PAIR ? cluster_rank() : 0, kvh = PAIR ? blockIdx.x / 2 : blockIdx.x;
	const uint32_t group = a.n_head / a.n_kv / (PAIR ? 2 : 1), head0 = (PAIR ? blockIdx.x : kvh) * group;
	const float sl2 = a.scale * CU_LOG2E;
	struct tile_pos pos;
	float dk[HD / 2], dv[HD / 2];

	if (!find_tile(a.cu, a.n_seqs, BIG, a.tiles, blockIdx.y, false, &pos))
		return;
	const uint32_t end = pos.begin + pos.len, m0 = pos.first / STEP;
	uint32_t m1 = (pos.len + STEP - 1) / STEP;
	if (a.window) {
		const uint32_t far = (pos.first + BIG - 1 + a.window - 1) / STEP + 1;

		m1 = m1 < far ? m1 : far;
	}
	const uint32_t per = m1 - m0, steps = per * group;
	load_panels<HD, BIG, 256>(sk, a.k + (size_t)kvh * HD, a.ldk, pos.begin + pos.first, end);
	load_panels<HD, BIG, 256>(sv, a.v + (size_t)kvh * HD, a.ldv, pos.begin + pos.first, end);
	load_panels<HD, STEP, 256>(sq, a.q + (size_t)head0 * HD, a.ldq, pos.begin + m0 * STEP, end);
	load_panels<HD, STEP, 256>(sdo, a.d_o + (size_t)head0 * HD, a.lddo, pos.begin + m0 * STEP, end);
	load_stats(stats, stats + STAGES * STEP * 4, a, head0, pos.begin + m0 * STEP, end);
	cp_commit();
	uint32_t m = m0, head = head0, st = 0;
	uint32_t p[STEP / 16][4] = {}, ds[STEP / 16][4] = {};
	wg_undefined(dk);
	wg_undefined(dv);
	for (uint32_t i = 0; i < steps; i++) {
		const uint32_t q0 = m * STEP, tq = sq + st * TILE, tdo = sdo + st * TILE, next = st == STAGES - 1 ? 0 : st + 1;
		float s[STEP / 2], dp[STEP / 2];

		cp_wait<0>();
		proxy_fence();
		__syncthreads();
		wg_fence();
		wgmma_ss_n64_first(s, desc_k<BIG>(sk, wg * 64, 0), desc_k<STEP>(tq, 0, 0));
#pragma unroll
		for (int ks = 1; ks < HD / 16; ks++)
			wgmma_ss_n64(s, desc_k<BIG>(sk, wg * 64, ks), desc_k<STEP>(tq, 0, ks));
		wg_commit();
		wgmma_ss_n64_first(dp, desc_k<BIG>(sv, wg * 64, 0), desc_k<STEP>(tdo, 0, 0));
#pragma unroll
		for (int ks = 1; ks < HD / 16; ks++)
			wgmma_ss_n64(dp, desc_k<BIG>(sv, wg * 64, ks), desc_k<STEP>(tdo, 0, ks));
		wg_commit();
		if (++m == m1) {
			m = m0;
			head++;
		}
		if (i + 1 < steps) {
			const uint32_t nq = pos.begin + m * STEP;

			load_panels<HD, STEP, 256>(sq + next * TILE, a.q + (size_t)head * HD, a.ldq, nq, end);
			load_panels<HD, STEP, 256>(sdo + next * TILE, a.d_o + (size_t)head * HD, a.lddo, nq, end);
			load_stats(stats + next * STEP * 4, stats + (STAGES + next) * STEP * 4, a, head, nq, end);
			cp_commit();
		}
		wg_wait<1>(); /* the last step's dV and dK, too */
		wg_hold(s);
		wg_keep(p);
		wg_keep(ds);
		const uint32_t key = pos.first + wg * 64 + warp * 16 + g;
		const bool edge = q0 < pos.first + BIG || q0 + STEP > pos.len || pos.first + BIG > pos.len || (a.window && q0 + STEP > pos.first + a.window);
		auto hidden = [&](int nt, int c) {
			const uint32_t j = key + (c >> 1) * 8, iq = q0 + nt * 8 + 2 * t + (c & 1);

			return j > iq || iq >= pos.len || j >= pos.len || (a.window && j + a.window <= iq);
		};
		if (!CAP && edge) {
#pragma unroll
			for (int i = 0; i < STEP / 2; i++)
				s[i] = hidden(i >> 2, i & 3) ? -INFINITY : s[i];
		}
#pragma unroll
		for (int nt = 0; nt < STEP / 8; nt++) {
			const float2 l = *reinterpret_cast<const float2 *>(slse + st * STEP + nt * 8 + 2 * t);
			const float l2[2] = {l.x * CU_LOG2E, l.y * CU_LOG2E};
			float slope[4];
#pragma unroll
			for (int c = 0; c < 4; c++) {
				const float z = CAP ? capped(s[nt * 4 + c], a.scale, a.softcap, &slope[c]) : s[nt * 4 + c];
				const float v = pow2(z * sl2 - l2[c & 1]);

				s[nt * 4 + c] = CAP && edge && hidden(nt, c) ? 0.f : v;
			}
			p[nt >> 1][(nt & 1) * 2] = pack2(s[nt * 4], s[nt * 4 + 1]);
			p[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt * 4 + 2], s[nt * 4 + 3]);
#pragma unroll
			for (int c = 0; CAP && c < 4; c++) /* dS = P ⊙ slope ⊙ (dP - D) */
				s[nt * 4 + c] *= slope[c];
		}
		wg_fence();
#pragma unroll
		for (int kk = 0; kk < STEP / 16; kk++)
			wgmma_rs<HD>(dv, p[kk], desc_mn<STEP>(tdo, kk), i + kk);
		wg_commit();
		wg_wait<1>();
		wg_hold(dp);
#pragma unroll
		for (int nt = 0; nt < STEP / 8; nt++) {
			const float2 D = *reinterpret_cast<const float2 *>(sD + st * STEP + nt * 8 + 2 * t);

			ds[nt >> 1][(nt & 1) * 2] = pack2(s[nt * 4] * (dp[nt * 4] - D.x), s[nt * 4 + 1] * (dp[nt * 4 + 1] - D.y));
			ds[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt * 4 + 2] * (dp[nt * 4 + 2] - D.x), s[nt * 4 + 3] * (dp[nt * 4 + 3] - D.y));
		}
		wg_fence();
#pragma unroll
		for (int kk = 0; kk < STEP / 16; kk++)
			wgmma_rs<HD>(dk, ds[kk], desc_mn<STEP>(tq, kk), i + kk);
		wg_commit();
		st = next;
	}
	wg_wait<0>();
	wg_keep(p);
	wg_keep(ds);
	wg_hold(dk);
	wg_hold(dv);
	if (PAIR && !join_pair(dk, dv, rank, raw))
		return;
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = wg * 64 + warp * 16 + h * 8 + g;

		if (pos.first + r >= pos.len)
			continue;
		const size_t row = (size_t)pos.begin + pos.first + r;
		bf16 *ok = a.dk + row * a.lddk + (size_t)kvh * HD, *ov = a.dv + row * a.lddv + (size_t)kvh * HD;
#pragma unroll
		for (int d = 0; d < HD / 8; d++) {
			*reinterpret_cast<uint32_t *>(ok + d * 8 + 2 * t) = pack2(dk[d * 4 + h * 2] * a.scale, dk[d * 4 + h * 2 + 1] * a.scale);
			*reinterpret_cast<uint32_t *>(ov + d * 8 + 2 * t) = pack2(dv[d * 4 + h * 2], dv[d * 4 + h * 2 + 1]);
		}
	}
#endif
}

template <int HD, bool CAP> __global__ void __launch_bounds__(256, 1) dq90(const __grid_constant__ struct bwd_args a)
{
#ifdef CU_WGMMA
	extern __shared__ uint8_t raw[];
	constexpr uint32_t TILE = STEP * HD * 2, OWN = BIG * HD * 2;
	const uint32_t start = (smem_u32(raw) + 1023) & ~1023u;
	const uint32_t sq = start, sdo = sq + OWN, sk = sdo + OWN, sv = sk + STAGES * TILE;
	const uint32_t wg = threadIdx.x >> 7, warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t head = blockIdx.x, kvh = head / (a.n_head / a.n_kv);
	const float sl2 = a.scale * CU_LOG2E;
	struct tile_pos pos;
	float dq[HD / 2], lse[2], D[2];

	if (!find_tile(a.cu, a.n_seqs, BIG, a.tiles, blockIdx.y, true, &pos))
		return;
	const uint32_t end = pos.begin + pos.len, rows = min((uint32_t)BIG, pos.len - pos.first);
	const uint32_t lowest = a.window && pos.first + 1 > a.window ? pos.first + 1 - a.window : 0;
	const uint32_t n1 = (pos.first + rows - 1) / STEP, n0 = lowest / STEP;
	const bf16 *k = a.k + (size_t)kvh * HD, *v = a.v + (size_t)kvh * HD;

	load_panels<HD, BIG, 256>(sq, a.q + (size_t)head * HD, a.ldq, pos.begin + pos.first, end);
	load_panels<HD, BIG, 256>(sdo, a.d_o + (size_t)head * HD, a.lddo, pos.begin + pos.first, end);
	load_panels<HD, STEP, 256>(sk, k, a.ldk, pos.begin + n0 * STEP, end);
	load_panels<HD, STEP, 256>(sv, v, a.ldv, pos.begin + n0 * STEP, end);
	cp_commit();
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = pos.first + wg * 64 + warp * 16 + h * 8 + g;
		const size_t at = (size_t)head * a.T + pos.begin + r;

		lse[h] = r < pos.len ? a.lse[at] * CU_LOG2E : 0.f;
		D[h] = r < pos.len ? a.D[at] : 0.f;
	}
	uint32_t st = 0, ds[STEP / 16][4] = {};
	wg_undefined(dq);
	for (uint32_t n = n0; n <= n1; n++) {
		const uint32_t tk = sk + st * TILE, tv = sv + st * TILE, j0 = n * STEP, next = st == STAGES - 1 ? 0 : st + 1;
		float s[STEP / 2], dp[STEP / 2];

		cp_wait<0>();
		proxy_fence();
		__syncthreads();
		wg_fence();
		wgmma_ss_n64_first(s, desc_k<BIG>(sq, wg * 64, 0), desc_k<STEP>(tk, 0, 0));
#pragma unroll
		for (int ks = 1; ks < HD / 16; ks++)
			wgmma_ss_n64(s, desc_k<BIG>(sq, wg * 64, ks), desc_k<STEP>(tk, 0, ks));
		wg_commit();
		wgmma_ss_n64_first(dp, desc_k<BIG>(sdo, wg * 64, 0), desc_k<STEP>(tv, 0, 0));
#pragma unroll
		for (int ks = 1; ks < HD / 16; ks++)
			wgmma_ss_n64(dp, desc_k<BIG>(sdo, wg * 64, ks), desc_k<STEP>(tv, 0, ks));
		wg_commit();
		if (n < n1) {
			load_panels<HD, STEP, 256>(sk + next * TILE, k, a.ldk, pos.begin + j0 + STEP, end);
			load_panels<HD, STEP, 256>(sv + next * TILE, v, a.ldv, pos.begin + j0 + STEP, end);
			cp_commit();
		}
		wg_wait<1>(); /* the last step's dQ, too */
		wg_hold(s);
		wg_keep(ds);
		const bool edge = j0 + STEP > pos.first || (a.window && j0 + a.window < pos.first + rows);
		auto hidden = [&](int i) {
			const uint32_t j = j0 + (i >> 2) * 8 + 2 * t + (i & 1), iq = pos.first + wg * 64 + warp * 16 + g + (i >> 1 & 1) * 8;

			return j > iq || iq >= pos.len || (a.window && j + a.window <= iq);
		};
		if (!CAP && edge) {
#pragma unroll
			for (int i = 0; i < STEP / 2; i++)
				s[i] = hidden(i) ? -INFINITY : s[i];
		}
#pragma unroll
		for (int i = 0; i < STEP / 2; i++) {
			float slope = 1.f;
			const float z = CAP ? capped(s[i], a.scale, a.softcap, &slope) : s[i], e = pow2(z * sl2 - lse[i >> 1 & 1]);

			s[i] = !CAP ? e : edge && hidden(i) ? 0.f : e * slope;
		}
		wg_wait<0>();
		wg_hold(dp);
#pragma unroll
		for (int nt = 0; nt < STEP / 8; nt++) {
			ds[nt >> 1][(nt & 1) * 2] = pack2(s[nt * 4] * (dp[nt * 4] - D[0]), s[nt * 4 + 1] * (dp[nt * 4 + 1] - D[0]));
			ds[nt >> 1][(nt & 1) * 2 + 1] = pack2(s[nt * 4 + 2] * (dp[nt * 4 + 2] - D[1]), s[nt * 4 + 3] * (dp[nt * 4 + 3] - D[1]));
		}
		wg_fence();
#pragma unroll
		for (int kk = 0; kk < STEP / 16; kk++)
			wgmma_rs<HD>(dq, ds[kk], desc_mn<STEP>(tk, kk), n - n0 + kk);
		wg_commit();
		st = next;
	}
	wg_wait<0>();
	wg_keep(ds);
	wg_hold(dq);
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = wg * 64 + warp * 16 + h * 8 + g;

		if (r >= rows)
			continue;
		bf16 *out = a.dq + ((size_t)pos.begin + pos.first + r) * a.lddq + (size_t)head * HD;
#pragma unroll
		for (int d = 0; d < HD / 8; d++)
			*reinterpret_cast<uint32_t *>(out + d * 8 + 2 * t) = pack2(dq[d * 4 + h * 2] * a.scale, dq[d * 4 + h * 2 + 1] * a.scale);
	}
#endif
}

typedef void (*bwd_kernel)(struct bwd_args);

template <int HD, bool CAP> static bwd_kernel dkv_pair(bool pair) { return pair ? dkv90<HD, CAP, true> : dkv90<HD, CAP, false>; }

/* by head size (64, 128), capped, and whether the query heads of a kv head are shared by two blocks */
static bwd_kernel dkv_of(uint32_t head_dim, bool cap, bool pair)
{
	return head_dim == 64 ? cap ? dkv_pair<64, true>(pair) : dkv_pair<64, false>(pair)
			      : cap ? dkv_pair<128, true>(pair) : dkv_pair<128, false>(pair);
}
static bwd_kernel dq_of(uint32_t head_dim, bool cap)
{
	return head_dim == 64 ? cap ? dq90<64, true> : dq90<64, false> : cap ? dq90<128, true> : dq90<128, false>;
}

cudaError_t cu_attention_bwd90_setup(void)
{
	cudaError_t r = cudaSuccess;

	for (int i = 0; i < 4 && r == cudaSuccess; i++) {
		const uint32_t hd = i < 2 ? 64 : 128;

		r = cudaFuncSetAttribute(dkv_of(hd, i % 2, false), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(hd));
		if (r == cudaSuccess)
			r = cudaFuncSetAttribute(dkv_of(hd, i % 2, true), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(hd));
		if (r == cudaSuccess)
			r = cudaFuncSetAttribute(dq_of(hd, i % 2), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(hd));
	}
	return r;
}

int cu_attention_bwd90(struct ql_device *d, struct ql_queue *q, const struct bwd_args *in, uint32_t tiles128, struct ql_err *e)
{
	struct bwd_args a = *in;
	const size_t smem = a.head_dim == 64 ? SMEM(64) : SMEM(128);
	const bool cap = a.softcap > 0.f, pair = a.n_head / a.n_kv % 2 == 0;
	cudaLaunchAttribute cluster;
	cudaLaunchConfig_t c = {};

	a.tiles = tiles128;
	cluster.id = cudaLaunchAttributeClusterDimension;
	cluster.val.clusterDim = {2, 1, 1};
	c.gridDim = dim3(pair ? 2 * a.n_kv : a.n_kv, tiles128);
	c.blockDim = dim3(256);
	c.dynamicSmemBytes = smem;
	c.stream = q->s;
	c.attrs = &cluster;
	c.numAttrs = pair ? 1 : 0;
	CU_TRY(cudaLaunchKernelEx(&c, dkv_of(a.head_dim, cap, pair), a));
	dq_of(a.head_dim, cap)<<<dim3(a.n_head, tiles128), 256, smem, q->s>>>(a);
	CU_LAUNCHED();
	return QL_OK;
}
