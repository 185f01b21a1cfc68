/* attention_fwd.cu - causal attention over packed sequences: o = softmax(scale·q·kᵀ + mask)·v, lse = log Σ exp(scale·q·k).
 *
 * q, o act [T, n_head·hd], k, v act [T, n_kv·hd] (head h uses kv head ⌊h·n_kv/n_head⌋), lse f32 [n_head, T]; key j is visible to
 * query i of the same sequence iff i - window < j ≤ i.  Paged: keys and values come from cache blocks and the queries are the last
 * rows of their sequence (chunked prefill).
 * Flash attention with online softmax (Dao, "FlashAttention-2", 2023): a block owns 128 queries of one head, walks 64 keys at
 * a time; CAP: scores s are c·tanh(s/c); four warps of 32 rows; scores and output stay in registers; K of the next step is copied while this one's softmax
 * and P·V run; compute capability 9.0 takes attention_fwd90.cu unless the cache is paged.  Head sizes other than 64 and 128 and unaligned rows take a plain kernel, one warp per query and head. */
#include "gpu/attention.h"

#define BM ((int)CU_FLASH_BM)
#define BN 64

template <int HD, bool PAGED>
__device__ __forceinline__ void load_keys(uint32_t tile, const bf16 *base, size_t ld, uint32_t seq_row0, uint32_t j0, uint32_t end, const int32_t *table,
					  uint32_t bt)
{
	constexpr uint32_t C = HD / 8;

#pragma unroll
	for (uint32_t i = threadIdx.x; i < BN * C; i += 128) {
		const uint32_t r = i / C, c = i % C;
		const bool ok = j0 + r < end;
		size_t row = 0;

		if (ok)
			row = PAGED ? (size_t)table[(j0 + r) / bt] * bt + (j0 + r) % bt : (size_t)seq_row0 + j0 + r;
		cp_async16(tile + tile_at<HD>(r, c), base + row * ld + c * 8, ok);
	}
}

template <int HD, bool PAGED, bool CAP> __global__ void __launch_bounds__(128, 2) flash_fwd(const __grid_constant__ struct cu_flash f)
{
	extern __shared__ __align__(128) uint8_t smem[];
	const uint32_t sq = smem_u32(smem), sk = sq + BM * HD * 2, sv = sk + BN * HD * 2;
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
	const uint32_t head = blockIdx.x, kvh = head / (f.n_head / f.n_kv);
	struct tile_pos pos;

	if (!find_tile(f.cu, f.n_seqs, BM, f.tiles_max, blockIdx.y, true, &pos))
		return;
	const uint32_t kv_len = PAGED ? (uint32_t)f.kv_len[pos.seq] : pos.len, off = kv_len - pos.len;
	const uint32_t rows = min((uint32_t)BM, pos.len - pos.first), last = pos.first + rows - 1 + off; /* key of the last query */
	const uint32_t lowest = f.window && pos.first + off + 1 > f.window ? pos.first + off + 1 - f.window : 0;
	const bf16 *k = f.k + (size_t)kvh * HD, *v = f.v + (size_t)kvh * HD;
	const int32_t *table = PAGED ? f.block_table + (size_t)pos.seq * f.max_blocks : NULL;
	const float sl2 = f.scale * CU_LOG2E;
	float o[2][HD / 8][4] = {}, m[2][2], l[2][2] = {};

#pragma unroll
	for (int i = 0; i < 4; i++)
		m[i >> 1][i & 1] = -INFINITY;
	load_tile<HD, BM, 128>(sq, f.q + (size_t)head * HD, f.ldq, pos.begin + pos.first, pos.begin + pos.len);
	int n = (int)(last / BN);
	const int n_min = (int)(lowest / BN);
	load_keys<HD, PAGED>(sk, k, f.ldk, pos.begin, (uint32_t)n * BN, kv_len, table, f.block_tokens);
	cp_commit();
	for (; n >= n_min; n--) {
		const uint32_t j0 = (uint32_t)n * BN;
		float s[2][BN / 8][4] = {};

		cp_wait<0>();
		__syncthreads();
		load_keys<HD, PAGED>(sv, v, f.ldv, pos.begin, j0, kv_len, table, f.block_tokens);
		cp_commit();
#pragma unroll
		for (int ks = 0; ks < HD / 16; ks++) {
			uint32_t a[2][4];

			frag_a<HD>(a[0], sq, warp * 32, ks);
			frag_a<HD>(a[1], sq, warp * 32 + 16, ks);
#pragma unroll
			for (int nt = 0; nt < BN / 16; nt++) {
				uint32_t b[4];

				frag_b<HD>(b, sk, nt * 16, ks);
#pragma unroll
				for (int mt = 0; mt < 2; mt++) {
					mma_bf16(s[mt][2 * nt], a[mt], b[0], b[1]);
					mma_bf16(s[mt][2 * nt + 1], a[mt], b[2], b[3]);
				}
			}
		}
		cp_wait<0>();
		__syncthreads();
		if (n > n_min) {
			load_keys<HD, PAGED>(sk, k, f.ldk, pos.begin, j0 - BN, kv_len, table, f.block_tokens);
			cp_commit();
		}
		if (CAP) {
#pragma unroll
			for (int i = 0; i < 2 * BN / 8 * 4; i++) {
				float *z = &s[i / (BN / 2)][i / 4 % (BN / 8)][i % 4], unused;

				*z = capped(*z, f.scale, f.softcap, &unused);
			}
		}
		const bool edge = j0 + BN > pos.first + off + 1 || (f.window && j0 + f.window < last + 1);
		uint32_t p[2][BN / 16][4];
#pragma unroll
		for (int mt = 0; mt < 2; mt++) {
#pragma unroll
			for (int h = 0; h < 2; h++) {
				const uint32_t qpos = pos.first + off + warp * 32 + mt * 16 + h * 8 + g;
				float top = m[mt][h];

				if (edge) {
#pragma unroll
					for (int nt = 0; nt < BN / 8; nt++)
#pragma unroll
						for (int c = 0; c < 2; c++) {
							const uint32_t j = j0 + nt * 8 + 2 * t + c;

							if (j > qpos || j >= kv_len || (f.window && j + f.window <= qpos))
								s[mt][nt][h * 2 + c] = -INFINITY;
						}
				}
#pragma unroll
				for (int nt = 0; nt < BN / 8; nt++)
					top = fmaxf(top, fmaxf(s[mt][nt][h * 2], s[mt][nt][h * 2 + 1]));
				top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
				top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
				const float base = top == -INFINITY ? 0.f : top * sl2, alpha = pow2(m[mt][h] * sl2 - base);
				float sum = 0;

				m[mt][h] = top;
#pragma unroll
				for (int nt = 0; nt < BN / 8; nt++) {
					const float e0 = pow2(s[mt][nt][h * 2] * sl2 - base), e1 = pow2(s[mt][nt][h * 2 + 1] * sl2 - base);

					sum += e0 + e1;
					p[mt][nt >> 1][(nt & 1) * 2 + h] = pack2(e0, e1);
				}
				l[mt][h] = l[mt][h] * alpha + sum;
#pragma unroll
				for (int d = 0; d < HD / 8; d++) {
					o[mt][d][h * 2] *= alpha;
					o[mt][d][h * 2 + 1] *= alpha;
				}
			}
		}
#pragma unroll
		for (int kk = 0; kk < BN / 16; kk++)
#pragma unroll
			for (int d = 0; d < HD / 16; d++) {
				uint32_t b[4];

				frag_bt<HD>(b, sv, kk * 16, d);
#pragma unroll
				for (int mt = 0; mt < 2; mt++) {
					mma_bf16(o[mt][2 * d], p[mt][kk], b[0], b[1]);
					mma_bf16(o[mt][2 * d + 1], p[mt][kk], b[2], b[3]);
				}
			}
	}
#pragma unroll
	for (int mt = 0; mt < 2; mt++)
#pragma unroll
		for (int h = 0; h < 2; h++) {
			const uint32_t r = warp * 32 + mt * 16 + h * 8 + g;
			float sum = l[mt][h];

			sum += __shfl_xor_sync(~0u, sum, 1);
			sum += __shfl_xor_sync(~0u, sum, 2);
			if (r >= rows)
				continue;
			const size_t row = (size_t)pos.begin + pos.first + r;
			const float inv = sum > 0.f ? 1.f / sum : 0.f;
			bf16 *out = f.o + row * f.ldo + (size_t)head * HD;
#pragma unroll
			for (int d = 0; d < HD / 8; d++)
				*reinterpret_cast<uint32_t *>(out + d * 8 + 2 * t) = pack2(o[mt][d][h * 2] * inv, o[mt][d][h * 2 + 1] * inv);
			if (f.lse && t == 0)
				f.lse[(size_t)head * f.T + row] = m[mt][h] * f.scale + logf(sum);
		}
}

/* any head size up to 256: one warp per query row and head */
__global__ void __launch_bounds__(128) plain_fwd(const __grid_constant__ struct cu_flash f)
{
	const uint32_t lane = threadIdx.x & 31, head = blockIdx.y, kvh = head / (f.n_head / f.n_kv), hd = f.head_dim;
	const uint32_t t = blockIdx.x * 4 + (threadIdx.x >> 5);
	float q[8], o[8] = {}, m = -INFINITY, l = 0;

	if (t >= f.T)
		return;
	const uint32_t s = seq_of(f.cu, f.n_seqs, t), begin = (uint32_t)f.cu[s], len = (uint32_t)f.cu[s + 1] - begin;
	const uint32_t kv_len = f.kv_len ? (uint32_t)f.kv_len[s] : len, at = t - begin + kv_len - len;
	const uint32_t first = f.window && at + 1 > f.window ? at + 1 - f.window : 0;
#pragma unroll
	for (int i = 0; i < 8; i++)
		q[i] = i * 32 + lane < hd ? __bfloat162float(f.q[t * f.ldq + (size_t)head * hd + i * 32 + lane]) : 0.f;
	for (uint32_t j = first; j <= at; j++) {
		const size_t row = f.kv_len ? (size_t)f.block_table[(size_t)s * f.max_blocks + j / f.block_tokens] * f.block_tokens + j % f.block_tokens
					    : (size_t)begin + j;
		float z = 0;
#pragma unroll
		for (int i = 0; i < 8; i++)
			if (i * 32 + lane < hd)
				z += q[i] * __bfloat162float(f.k[row * f.ldk + (size_t)kvh * hd + i * 32 + lane]);
		z = warp_sum(z) * f.scale;
		if (f.softcap > 0.f)
			z = f.softcap * tanhf(z / f.softcap);
		const float top = fmaxf(m, z), alpha = expf(m - top), p = expf(z - top);
		m = top;
		l = l * alpha + p;
#pragma unroll
		for (int i = 0; i < 8; i++)
			if (i * 32 + lane < hd)
				o[i] = o[i] * alpha + p * __bfloat162float(f.v[row * f.ldv + (size_t)kvh * hd + i * 32 + lane]);
	}
#pragma unroll
	for (int i = 0; i < 8; i++)
		if (i * 32 + lane < hd)
			f.o[t * f.ldo + (size_t)head * hd + i * 32 + lane] = __float2bfloat16_rn(l > 0.f ? o[i] / l : 0.f);
	if (f.lse && lane == 0)
		f.lse[(size_t)head * f.T + t] = m + logf(l);
}

#define SMEM(HD) ((BM + 2 * BN) * (HD) * 2)

typedef void (*flash_kernel)(struct cu_flash);

/* by head size (64, 128), paged, capped */
static flash_kernel kernel_of(uint32_t head_dim, bool paged, bool cap)
{
	static const flash_kernel k[8] = {flash_fwd<64, false, false>,	flash_fwd<64, false, true>,  flash_fwd<64, true, false>,
					  flash_fwd<64, true, true>,	flash_fwd<128, false, false>, flash_fwd<128, false, true>,
					  flash_fwd<128, true, false>,	flash_fwd<128, true, true>};

	return k[(head_dim == 64 ? 0 : 4) + (paged ? 2 : 0) + (cap ? 1 : 0)];
}

cudaError_t cu_attention_fwd_setup(void)
{
	cudaError_t r = cudaSuccess;

	for (int i = 0; i < 4 && r == cudaSuccess; i++)
		r = cudaFuncSetAttribute(kernel_of(128, i / 2, i % 2), cudaFuncAttributeMaxDynamicSharedMemorySize, SMEM(128));
	if (r == cudaSuccess)
		r = cu_attention_fwd90_setup();
	return r;
}

int cu_flash_fwd(struct ql_device *d, struct ql_queue *q, const struct cu_flash *f, struct ql_err *e)
{
	const void *ptrs[4] = {f->q, f->k, f->v, f->o};
	const size_t lds[4] = {f->ldq, f->ldk, f->ldv, f->ldo};
	const dim3 grid(f->n_head, f->tiles_max);

	if (f->T == 0 || f->tiles_max == 0)
		return QL_OK;
	if (f->head_dim > 256)
		return ql_err_set(e, QL_EUNSUPPORTED, "attention: head size %u, at most 256", f->head_dim);
	if (!(f->softcap >= 0.f))
		return ql_err_param(e, QL_EINVAL, "softcap", "attention: softcap must not be negative");
	if (!cu_attn_fast(f->head_dim, ptrs, lds, 4))
		plain_fwd<<<dim3((f->T + 3) / 4, f->n_head), 128, 0, q->s>>>(*f);
	else if (cu_of(d)->hopper && !f->kv_len)
		return cu_flash_fwd90(d, q, f, e);
	else
		kernel_of(f->head_dim, f->kv_len != NULL, f->softcap > 0.f)<<<grid, 128, f->head_dim == 64 ? SMEM(64) : SMEM(128), q->s>>>(*f);
	CU_LAUNCHED();
	return QL_OK;
}

int cu_check_attn(const struct ql_attn *a, struct ql_err *e)
{
	QL_TRY(cu_check_act(&a->q, "q", e));
	QL_TRY(cu_check_act(&a->k, "k", e));
	QL_TRY(cu_check_act(&a->v, "v", e));
	QL_TRY(cu_check_act(&a->o, "o", e));
	if (!a->n_head || !a->n_kv || !a->head_dim || a->n_head % a->n_kv)
		return ql_err_set(e, QL_ESHAPE, "attention: %u heads over %u", a->n_head, a->n_kv);
	if (a->q.cols != (uint64_t)a->n_head * a->head_dim || a->k.cols != (uint64_t)a->n_kv * a->head_dim || a->v.cols != a->k.cols ||
	    a->o.cols != a->q.cols)
		return ql_err_set(e, QL_ESHAPE, "attention: widths do not fit the heads");
	if (a->k.rows != a->q.rows || a->v.rows != a->q.rows || a->o.rows != a->q.rows)
		return ql_err_set(e, QL_ESHAPE, "attention: row counts differ");
	if (a->head_dim > 256)
		return ql_err_set(e, QL_EUNSUPPORTED, "attention: head size %u, at most 256", a->head_dim);
	if (!a->n_seqs || a->cu_seqlens_host[0] != 0 || a->cu_seqlens_host[a->n_seqs] < 0 || (uint32_t)a->cu_seqlens_host[a->n_seqs] != a->q.rows)
		return ql_err_set(e, QL_ESHAPE, "attention: cu_seqlens does not span the rows");
	for (uint32_t s = 0; s < a->n_seqs; s++)
		if (a->cu_seqlens_host[s + 1] < a->cu_seqlens_host[s])
			return ql_err_set(e, QL_ESHAPE, "attention: cu_seqlens descends at %u", s);
	return QL_OK;
}

int cu_attention(struct ql_device *d, struct ql_queue *q, const struct ql_attn *a, struct ql_err *e)
{
	struct cu_flash f;

	QL_TRY(cu_begin(d, "attention", e));
	QL_TRY(cu_check_attn(a, e));
	memset(&f, 0, sizeof f);
	f.q = (const bf16 *)a->q.data, f.k = (const bf16 *)a->k.data, f.v = (const bf16 *)a->v.data, f.o = (bf16 *)a->o.data;
	f.ldq = a->q.ld, f.ldk = a->k.ld, f.ldv = a->v.ld, f.ldo = a->o.ld;
	f.lse = a->lse;
	f.T = a->q.rows, f.n_head = a->n_head, f.n_kv = a->n_kv, f.head_dim = a->head_dim, f.n_seqs = a->n_seqs;
	f.window = a->window;
	f.scale = a->scale;
	f.softcap = a->softcap;
	f.cu = a->cu_seqlens;
	for (uint32_t s = 0; s < a->n_seqs; s++)
		f.tiles_max += ((uint32_t)(a->cu_seqlens_host[s + 1] - a->cu_seqlens_host[s]) + BM - 1) / BM;
	return cu_flash_fwd(d, q, &f, e);
}
