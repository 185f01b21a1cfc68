/* paged_attn.cu - attention of new tokens over a paged cache (device.h, struct ql_paged_attn).
 *
 * Up to 4 new tokens per sequence (decode): the cache is cut into splits; a block owns one split of one kv head and one query row and
 * serves all query heads of the group, so keys and values are read once.  Within a split 64 tokens at a time: scores (a
 * row of the cache is read by HD/8 neighbouring lanes, 16 bytes each), softmax, weighted sum of values.  Partial (max, sum, o) are
 * merged in ascending order by a second kernel.  The split is 64 tokens for kv_len_max up to 1024, 128 up to 4096, else 256,
 * doubled while the partials would not fit their buffer.  More new tokens (chunked prefill) use the flash kernel of attention_fwd.cu. */
#include "gpu/attention.h"

#define SUB 64u
#define DECODE_ROWS 4

struct paged_args {
	const bf16 *q, *k, *v;
	bf16 *o;
	size_t ldq, ldo, ldk, ldv;
	uint32_t n_head, n_kv, group, block_tokens, max_blocks, window, split, n_splits, q_len_max;
	const int32_t *q_begin, *kv_len, *table;
	float scale, softcap;
	float *part; /* [rows, n_head, n_splits, HD + 2]: o (unnormalised), max, sum */
};

/* CAP: scores are soft-capped.  A form of its own: with tanh in the loop the shuffles of four tokens no longer overlap. */
template <int HD, int GC, bool CAP> __global__ void __launch_bounds__(128) paged_split(const __grid_constant__ struct paged_args a)
{
	constexpr int L = HD / 8, NG = 128 / L; /* lanes per row, rows side by side */
	__shared__ float score[GC][SUB];
	__shared__ float red[NG][GC][HD];
	__shared__ uint32_t rows[SUB];
	__shared__ float s_alpha[GC], s_max[GC], s_sum[GC];
	const uint32_t s = blockIdx.z / a.q_len_max, qi = blockIdx.z % a.q_len_max, kvh = blockIdx.y;

	cu_release();
	cu_acquire();
	const uint32_t q0 = (uint32_t)a.q_begin[s], q_len = (uint32_t)a.q_begin[s + 1] - q0;

	if (qi >= q_len)
		return;
	const uint32_t row = q0 + qi, pos = (uint32_t)a.kv_len[s] - q_len + qi, end_all = pos + 1;
	const uint32_t lowest = a.window && end_all > a.window ? end_all - a.window : 0;
	const uint32_t begin = max(blockIdx.x * a.split, lowest / SUB * SUB), end = min(end_all, (blockIdx.x + 1) * a.split);
	const uint32_t lane = threadIdx.x % L, grp = threadIdx.x / L, warp = threadIdx.x >> 5, wl = threadIdx.x & 31;
	const float sl2 = a.scale * CU_LOG2E;

	if (blockIdx.x * a.split >= end_all)
		return;
	for (uint32_t h0 = 0; h0 < a.group; h0 += GC) {
		float q[GC][8], acc[GC][8] = {};

#pragma unroll
		for (int h = 0; h < GC; h++) {
			uint4 u = make_uint4(0, 0, 0, 0);

			if (h0 + h < a.group)
				u = *reinterpret_cast<const uint4 *>(a.q + row * a.ldq + (size_t)(kvh * a.group + h0 + h) * HD + lane * 8);
			unpack8(u, q[h]);
		}
		__syncthreads();
		if (threadIdx.x < GC) {
			s_max[threadIdx.x] = -INFINITY;
			s_sum[threadIdx.x] = 0;
		}
		for (uint32_t base = begin; base < end; base += SUB) {
			const uint32_t n = min(SUB, end - base);

			__syncthreads();
			for (uint32_t i = threadIdx.x; i < n; i += 128)
				rows[i] = (uint32_t)a.table[(size_t)s * a.max_blocks + (base + i) / a.block_tokens] * a.block_tokens + (base + i) % a.block_tokens;
			__syncthreads();
#pragma unroll 4
			for (uint32_t i = grp; i < SUB; i += NG) {
				float f[8];
				uint4 u = make_uint4(0, 0, 0, 0);

				if (i < n)
					u = *reinterpret_cast<const uint4 *>(a.k + rows[i] * a.ldk + (size_t)kvh * HD + lane * 8);
				unpack8(u, f);
#pragma unroll
				for (int h = 0; h < GC; h++) {
					float z = 0;
#pragma unroll
					for (int k = 0; k < 8; k++)
						z += q[h][k] * f[k];
#pragma unroll
					for (int o = L / 2; o; o >>= 1)
						z += __shfl_xor_sync(~0u, z, o);
					if (CAP)
						z = a.softcap * tanhf(z * a.scale / a.softcap) / a.scale;
					if (lane == 0)
						score[h][i] = i < n && base + i >= lowest ? z * sl2 : -INFINITY;
				}
			}
			__syncthreads();
			for (uint32_t h = warp; h < GC; h += 4) {
				float top = -INFINITY, sum = 0;

				for (uint32_t i = wl; i < SUB; i += 32)
					top = fmaxf(top, score[h][i]);
				top = fmaxf(warp_max(top), s_max[h]);
				const float b = top == -INFINITY ? 0.f : top;
				for (uint32_t i = wl; i < SUB; i += 32) {
					const float p = pow2(score[h][i] - b);

					score[h][i] = p;
					sum += p;
				}
				sum = warp_sum(sum);
				__syncwarp();
				if (wl == 0) {
					s_alpha[h] = pow2(s_max[h] - b);
					s_sum[h] = s_sum[h] * s_alpha[h] + sum;
					s_max[h] = top;
				}
			}
			__syncthreads();
#pragma unroll
			for (int h = 0; h < GC; h++)
#pragma unroll
				for (int k = 0; k < 8; k++)
					acc[h][k] *= s_alpha[h];
#pragma unroll 4
			for (uint32_t i = grp; i < n; i += NG) {
				float f[8];

				unpack8(*reinterpret_cast<const uint4 *>(a.v + rows[i] * a.ldv + (size_t)kvh * HD + lane * 8), f);
#pragma unroll
				for (int h = 0; h < GC; h++)
#pragma unroll
					for (int k = 0; k < 8; k++)
						acc[h][k] += score[h][i] * f[k];
			}
		}
		__syncthreads();
#pragma unroll
		for (int h = 0; h < GC; h++)
#pragma unroll
			for (int k = 0; k < 8; k++)
				red[grp][h][lane * 8 + k] = acc[h][k];
		__syncthreads();
		for (uint32_t i = threadIdx.x; i < GC * HD; i += 128) {
			const uint32_t h = i / HD, c = i % HD, head = kvh * a.group + h0 + h;
			float v = 0;

			if (h0 + h >= a.group)
				continue;
#pragma unroll
			for (int k = 0; k < NG; k++)
				v += red[k][h][c];
			if (a.n_splits == 1) {
				a.o[row * a.ldo + (size_t)head * HD + c] = __float2bfloat16_rn(s_sum[h] > 0.f ? v / s_sum[h] : 0.f);
			} else {
				float *p = a.part + (((size_t)row * a.n_head + head) * a.n_splits + blockIdx.x) * (HD + 2);

				p[c] = v;
				if (c == 0) {
					p[HD] = s_max[h];
					p[HD + 1] = s_sum[h];
				}
			}
		}
	}
}

template <int HD> __global__ void __launch_bounds__(HD) paged_merge(const __grid_constant__ struct paged_args a)
{
	const uint32_t s = blockIdx.z / a.q_len_max, qi = blockIdx.z % a.q_len_max, head = blockIdx.y, c = threadIdx.x;

	cu_release();
	cu_acquire();
	const uint32_t q0 = (uint32_t)a.q_begin[s], q_len = (uint32_t)a.q_begin[s + 1] - q0;

	if (qi >= q_len)
		return;
	const uint32_t row = q0 + qi, end = (uint32_t)a.kv_len[s] - q_len + qi + 1, n = (end + a.split - 1) / a.split;
	const float *p = a.part + ((size_t)row * a.n_head + head) * a.n_splits * (HD + 2);
	float m = -INFINITY, l = 0, o = 0;

#pragma unroll 8
	for (uint32_t i = 0; i < n; i++)
		m = fmaxf(m, p[i * (HD + 2) + HD]);
#pragma unroll 8
	for (uint32_t i = 0; i < n; i++) {
		const float w = pow2(p[i * (HD + 2) + HD] - m);

		l += w * p[i * (HD + 2) + HD + 1];
		o += w * p[i * (HD + 2) + c];
	}
	a.o[row * a.ldo + (size_t)head * HD + c] = __float2bfloat16_rn(l > 0.f ? o / l : 0.f);
}

static int decode(struct ql_device *d, struct ql_queue *q, const struct ql_paged_attn *p, struct ql_err *e)
{
	const uint32_t rows = p->q.rows, hd = p->head_dim;
	uint8_t *work;
	const size_t room = CU_WORK_BYTES, per = (size_t)rows * p->n_head * (hd + 2) * 4;
	struct paged_args a = {(const bf16 *)p->q.data, (const bf16 *)p->k_cache.data, (const bf16 *)p->v_cache.data, (bf16 *)p->o.data, p->q.ld, p->o.ld,
			       p->k_cache.ld, p->v_cache.ld, p->n_head, p->n_kv, p->n_head / p->n_kv, p->block_tokens, p->max_blocks, p->window,
			       p->kv_len_max <= 1024 ? SUB : p->kv_len_max <= 4096 ? 2 * SUB : 4 * SUB, 1,
			       p->q_len_max, p->q_begin, p->kv_len, p->block_table, p->scale, p->softcap, NULL};

	QL_TRY(cu_work(d, q, &work, e));
	a.part = (float *)work;
	while ((a.n_splits = (p->kv_len_max + a.split - 1) / a.split) > 1 && a.n_splits * per > room)
		a.split *= 2;
	a.n_splits = a.n_splits ? a.n_splits : 1;
	const dim3 grid(a.n_splits, p->n_kv, p->n_seqs * p->q_len_max), merge(1, p->n_head, p->n_seqs * p->q_len_max);
	const int which = (hd == 64 ? 0 : 4) + (a.group == 1 ? 0 : a.group == 2 ? 1 : a.group <= 4 ? 2 : 3);
#define FORMS(CAP)                                                                                                                                  \
	{                                                                                                                                           \
		paged_split<64, 1, CAP>, paged_split<64, 2, CAP>, paged_split<64, 4, CAP>, paged_split<64, 8, CAP>, paged_split<128, 1, CAP>,          \
			paged_split<128, 2, CAP>, paged_split<128, 4, CAP>, paged_split<128, 8, CAP>                                                \
	}
	void (*const split[2][8])(struct paged_args) = {FORMS(false), FORMS(true)};
#undef FORMS

	CU_TRY(cu_launch(d, q, split[a.softcap > 0.f][which], grid, 128, 0, a));
	if (a.n_splits > 1)
		CU_TRY(cu_launch(d, q, hd == 64 ? paged_merge<64> : paged_merge<128>, merge, hd, 0, a));
	return QL_OK;
}

int cu_paged_attention(struct ql_device *d, struct ql_queue *q, const struct ql_paged_attn *p, struct ql_err *e)
{
	const struct ql_tensor *all[4] = {&p->q, &p->o, &p->k_cache, &p->v_cache};
	const void *ptrs[4];
	size_t lds[4];

	QL_TRY(cu_begin(d, "paged_attention", e));
	for (int i = 0; i < 4; i++) {
		QL_TRY(cu_check_act(all[i], "paged_attention", e));
		ptrs[i] = all[i]->data;
		lds[i] = all[i]->ld;
	}
	if (!p->n_head || !p->n_kv || p->n_head % p->n_kv || p->q.cols != (uint64_t)p->n_head * p->head_dim || p->o.cols != p->q.cols ||
	    p->k_cache.cols != (uint64_t)p->n_kv * p->head_dim || p->v_cache.cols != p->k_cache.cols || p->o.rows != p->q.rows || !p->block_tokens)
		return ql_err_set(e, QL_ESHAPE, "paged_attention: widths do not fit the heads");
	if (p->q.rows == 0 || p->n_seqs == 0)
		return QL_OK;
	if (p->q_len_max == 0 || (uint64_t)p->n_seqs * p->q_len_max > 65535u * (uint64_t)DECODE_ROWS)
		return ql_err_set(e, QL_EINVAL, "paged_attention: q_len_max %u", p->q_len_max);
	if (p->q_len_max <= DECODE_ROWS && cu_attn_fast(p->head_dim, ptrs, lds, 4) && p->n_seqs * p->q_len_max <= 65535)
		return decode(d, q, p, e);
	struct cu_flash f;
	memset(&f, 0, sizeof f);
	f.q = (const bf16 *)p->q.data, f.k = (const bf16 *)p->k_cache.data, f.v = (const bf16 *)p->v_cache.data, f.o = (bf16 *)p->o.data;
	f.ldq = p->q.ld, f.ldk = p->k_cache.ld, f.ldv = p->v_cache.ld, f.ldo = p->o.ld;
	f.T = p->q.rows, f.n_head = p->n_head, f.n_kv = p->n_kv, f.head_dim = p->head_dim, f.n_seqs = p->n_seqs;
	f.window = p->window;
	f.scale = p->scale;
	f.softcap = p->softcap;
	f.cu = p->q_begin;
	f.kv_len = p->kv_len;
	f.block_table = p->block_table;
	f.max_blocks = p->max_blocks;
	f.block_tokens = p->block_tokens;
	const uint64_t by_seq = (uint64_t)p->n_seqs * ((p->q_len_max + CU_FLASH_BM - 1) / CU_FLASH_BM), by_rows = p->q.rows / CU_FLASH_BM + p->n_seqs;
	f.tiles_max = (uint32_t)(by_seq < by_rows ? by_seq : by_rows);
	return cu_flash_fwd(d, q, &f, e);
}
