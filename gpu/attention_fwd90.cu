/* attention_fwd90.cu - causal attention over packed sequences on compute capability 9.0, formula and shapes of attention_fwd.cu.
 *
 * A block is two warpgroups of 64 queries of one head; it walks 128 keys at a time from the diagonal down: S = Q·Kᵀ by warpgroup
 * products (wgmma.h), online softmax in registers, O += P·V with P as the left operand from registers.  K and V come by
 * cp.async, two steps deep. */
#include "gpu/wgmma.h"

#define BM 128
#define BN 128
#define SMEM(HD) (BM * (HD) * 2 + 4 * BN * (HD) * 2 + 1024)

template <int HD, bool CAP> __global__ void __launch_bounds__(256, 1) fwd90(const __grid_constant__ struct cu_flash f)
{
#ifdef CU_WGMMA
	extern __shared__ uint8_t raw[];
	constexpr uint32_t TILE = BN * HD * 2;
	const uint32_t start = (smem_u32(raw) + 1023) & ~1023u, sq = start, sk = sq + BM * HD * 2, sv = sk + 2 * TILE;
	const uint32_t wg = threadIdx.x >> 7, warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t head = blockIdx.x, kvh = head / (f.n_head / f.n_kv);
	struct tile_pos pos;

	if (!find_tile(f.cu, f.n_seqs, BM, f.tiles_max, blockIdx.y, true, &pos))
		return;
	const uint32_t rows = min((uint32_t)BM, pos.len - pos.first), last = pos.first + rows - 1, end = pos.begin + pos.len;
	const uint32_t lowest = f.window && pos.first + 1 > f.window ? pos.first + 1 - f.window : 0;
	const bf16 *k = f.k + (size_t)kvh * HD, *v = f.v + (size_t)kvh * HD;
	const float sl2 = f.scale * CU_LOG2E;
	float o[HD / 2] = {}, m[2] = {-INFINITY, -INFINITY}, l[2] = {};
	int n = (int)(last / BN);
	const int n_min = (int)(lowest / BN), n_max = n;

	load_panels<HD, BM, 256>(sq, f.q + (size_t)head * HD, f.ldq, pos.begin + pos.first, end);
	load_panels<HD, BN, 256>(sk, k, f.ldk, pos.begin + n * BN, end);
	load_panels<HD, BN, 256>(sv, v, f.ldv, pos.begin + n * BN, end);
	cp_commit();
	for (; n >= n_min; n--) {
		const uint32_t st = (uint32_t)(n_max - n) & 1, tk = sk + st * TILE, tv = sv + st * TILE, j0 = (uint32_t)n * BN;
		float s[BN / 2];
		uint32_t p[BN / 16][4];

		cp_wait<0>();
		proxy_fence();
		__syncthreads();
		wg_fence();
		wgmma_ss_n128_first(s, desc_k<BM>(sq, wg * 64, 0), desc_k<BN>(tk, 0, 0));
#pragma unroll
		for (int ks = 1; ks < HD / 16; ks++)
			wgmma_ss_n128(s, desc_k<BM>(sq, wg * 64, ks), desc_k<BN>(tk, 0, ks));
		wg_commit();
		if (n > n_min) {
			load_panels<HD, BN, 256>(sk + (st ^ 1) * TILE, k, f.ldk, pos.begin + j0 - BN, end);
			load_panels<HD, BN, 256>(sv + (st ^ 1) * TILE, v, f.ldv, pos.begin + j0 - BN, end);
			cp_commit();
		}
		wg_wait<0>();
		wg_hold(s);
		if (CAP) {
#pragma unroll
			for (int i = 0; i < BN / 2; i++) {
				float unused;

				s[i] = capped(s[i], f.scale, f.softcap, &unused);
			}
		}
		const bool edge = j0 + BN > pos.first + wg * 64 + 1 || (f.window && j0 + f.window < last + 1);
#pragma unroll
		for (int h = 0; h < 2; h++) {
			const uint32_t qpos = pos.first + wg * 64 + warp * 16 + h * 8 + g;
			float top = m[h], sum = 0;

			if (edge) {
#pragma unroll
				for (int nt = 0; nt < BN / 8; nt++)
#pragma unroll
					for (int c = 0; c < 2; c++) {
						const uint32_t j = j0 + nt * 8 + 2 * t + c;

						if (j > qpos || j >= pos.len || (f.window && j + f.window <= qpos))
							s[nt * 4 + h * 2 + c] = -INFINITY;
					}
			}
#pragma unroll
			for (int nt = 0; nt < BN / 8; nt++)
				top = fmaxf(top, fmaxf(s[nt * 4 + h * 2], s[nt * 4 + h * 2 + 1]));
			top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
			top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
			const float base = top == -INFINITY ? 0.f : top * sl2, alpha = pow2(m[h] * sl2 - base);

			m[h] = top;
#pragma unroll
			for (int nt = 0; nt < BN / 8; nt++) {
				const float e0 = pow2(s[nt * 4 + h * 2] * sl2 - base), e1 = pow2(s[nt * 4 + h * 2 + 1] * sl2 - base);

				sum += e0 + e1;
				p[nt >> 1][(nt & 1) * 2 + h] = pack2(e0, e1);
			}
			l[h] = l[h] * alpha + sum;
#pragma unroll
			for (int d = 0; d < HD / 8; d++) {
				o[d * 4 + h * 2] *= alpha;
				o[d * 4 + h * 2 + 1] *= alpha;
			}
		}
		wg_hold(o);
		wg_fence();
#pragma unroll
		for (int kk = 0; kk < BN / 16; kk++)
			wgmma_rs<HD>(o, p[kk], desc_mn<BN>(tv, kk));
		wg_commit();
		wg_wait<0>();
		wg_hold(o);
	}
#pragma unroll
	for (int h = 0; h < 2; h++) {
		const uint32_t r = wg * 64 + warp * 16 + h * 8 + g;
		float sum = l[h];

		sum += __shfl_xor_sync(~0u, sum, 1);
		sum += __shfl_xor_sync(~0u, sum, 2);
		if (r >= rows)
			continue;
		const size_t row = (size_t)pos.begin + pos.first + r;
		const float inv = sum > 0.f ? 1.f / sum : 0.f;
		bf16 *out = f.o + row * f.ldo + (size_t)head * HD;
#pragma unroll
		for (int d = 0; d < HD / 8; d++)
			*reinterpret_cast<uint32_t *>(out + d * 8 + 2 * t) = pack2(o[d * 4 + h * 2] * inv, o[d * 4 + h * 2 + 1] * inv);
		if (f.lse && t == 0)
			f.lse[(size_t)head * f.T + row] = m[h] * f.scale + logf(sum);
	}
#endif
}

cudaError_t cu_attention_fwd90_setup(void)
{
	cudaError_t r = cudaFuncSetAttribute(fwd90<128, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(128));

	if (r == cudaSuccess)
		r = cudaFuncSetAttribute(fwd90<128, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(128));
	if (r == cudaSuccess)
		r = cudaFuncSetAttribute(fwd90<64, false>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(64));
	if (r == cudaSuccess)
		r = cudaFuncSetAttribute(fwd90<64, true>, cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(64));
	return r;
}

int cu_flash_fwd90(struct ql_device *d, struct ql_queue *q, const struct cu_flash *f, struct ql_err *e)
{
	const dim3 grid(f->n_head, f->tiles_max);

	if (f->head_dim == 64 && f->softcap > 0.f)
		fwd90<64, true><<<grid, 256, SMEM(64), q->s>>>(*f);
	else if (f->head_dim == 64)
		fwd90<64, false><<<grid, 256, SMEM(64), q->s>>>(*f);
	else if (f->softcap > 0.f)
		fwd90<128, true><<<grid, 256, SMEM(128), q->s>>>(*f);
	else
		fwd90<128, false><<<grid, 256, SMEM(128), q->s>>>(*f);
	CU_LAUNCHED();
	return QL_OK;
}
