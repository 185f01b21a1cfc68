/* attention.h - device code shared by the attention kernels: tiles in shared memory, matrix fragments, masks.
 *
 * A tile is rows of HD bf16; 16-byte chunk c of row r lies at chunk c ^ (r & 7), so that ldmatrix reads without bank conflicts.
 * Fragments are those of mma.m16n8k16 (g = lane/4, t = lane%4): A rows g, g+8; B column g; C rows g, g+8, columns 2t, 2t+1. */
#ifndef QL_GPU_ATTENTION_H
#define QL_GPU_ATTENTION_H

#include "gpu/kernel.h"

#define CU_LOG2E 1.4426950408889634f

template <int HD> __device__ __forceinline__ uint32_t tile_at(uint32_t row, uint32_t chunk)
{
	return row * (HD * 2) + ((chunk ^ (row & 7)) << 4);
}

/* 2^x, results below 2^-126 are 0 */
__device__ __forceinline__ float pow2(float x)
{
	float y;

	asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
	return y;
}

/* Soft cap c of a score z that is still to be multiplied by scale: c·tanh(scale·z/c)/scale, so that what follows may go on
 * multiplying; *slope = 1 - tanh². */
__device__ __forceinline__ float capped(float z, float scale, float c, float *slope)
{
	const float t = tanhf(z * scale / c);

	*slope = (1.f - t) * (1.f + t);
	return t * c / scale;
}

__device__ __forceinline__ void cp_async16(uint32_t dst, const void *src, bool valid)
{
	const int n = valid ? 16 : 0; /* 0: the destination is filled with zeros */

	asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_async4(uint32_t dst, const void *src, bool valid)
{
	const int n = valid ? 4 : 0;

	asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(dst), "l"(src), "r"(n) : "memory");
}
__device__ __forceinline__ void cp_commit(void) { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ __forceinline__ void cp_wait(void) { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

__device__ __forceinline__ void ldsm4(uint32_t r[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(addr)
		     : "memory");
}
__device__ __forceinline__ void ldsm4t(uint32_t r[4], uint32_t addr)
{
	asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
		     : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
		     : "r"(addr)
		     : "memory");
}
__device__ __forceinline__ void mma_bf16(float c[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
	asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
		     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
		     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A: rows row … row+15, depth 16·ks … */
template <int HD> __device__ __forceinline__ void frag_a(uint32_t r[4], uint32_t tile, uint32_t row, uint32_t ks)
{
	const uint32_t lane = threadIdx.x & 31;

	ldsm4(r, tile + tile_at<HD>(row + (lane & 15), ks * 2 + (lane >> 4)));
}
/* B for columns n … n+15 (rows of the tile), depth 16·ks …: r[0], r[1] first eight columns, r[2], r[3] second */
template <int HD> __device__ __forceinline__ void frag_b(uint32_t r[4], uint32_t tile, uint32_t n, uint32_t ks)
{
	const uint32_t lane = threadIdx.x & 31, mat = lane >> 3;

	ldsm4(r, tile + tile_at<HD>(n + (mat >> 1) * 8 + (lane & 7), ks * 2 + (mat & 1)));
}
/* B for depth k … k+15 (rows of the tile) and columns 16·n … (elements of a row) */
template <int HD> __device__ __forceinline__ void frag_bt(uint32_t r[4], uint32_t tile, uint32_t k, uint32_t n)
{
	const uint32_t lane = threadIdx.x & 31, mat = lane >> 3;

	ldsm4t(r, tile + tile_at<HD>(k + (mat & 1) * 8 + (lane & 7), n * 2 + (mat >> 1)));
}

/* rows row0 … row0+ROWS-1 of a matrix into a tile; rows at or past `end` become zero */
template <int HD, int ROWS, int THREADS>
__device__ __forceinline__ void load_tile(uint32_t tile, const bf16 *base, size_t ld, uint32_t row0, uint32_t end)
{
	constexpr uint32_t C = HD / 8;

#pragma unroll
	for (uint32_t i = threadIdx.x; i < ROWS * C; i += THREADS) {
		const uint32_t r = i / C, c = i % C;
		const bool ok = row0 + r < end;

		cp_async16(tile + tile_at<HD>(r, c), base + (size_t)(ok ? row0 + r : row0) * ld + c * 8, ok);
	}
}

/* Which sequence and which tile of it: tiles of `bm` rows are counted over all sequences.  False past the last. */
struct tile_pos {
	uint32_t seq, begin, len, first; /* first: row of the tile within the sequence */
};
__device__ __forceinline__ bool find_tile(const int32_t *cu, uint32_t n_seqs, uint32_t bm, uint32_t total_upper, uint32_t index, bool reverse, struct tile_pos *o)
{
	const uint32_t lane = threadIdx.x & 31;
	uint32_t want = index;

	if (reverse) { /* count all tiles first */
		uint32_t sum = 0;

		for (uint32_t s = lane; s < n_seqs; s += 32)
			sum += ((uint32_t)(cu[s + 1] - cu[s]) + bm - 1) / bm;
		sum = __reduce_add_sync(~0u, sum);
		if (index >= sum)
			return false;
		want = sum - 1 - index;
	}
	(void)total_upper;
	uint32_t before = 0;
	for (uint32_t s0 = 0; s0 < n_seqs; s0 += 32) {
		const uint32_t s = s0 + lane, len = s < n_seqs ? (uint32_t)(cu[s + 1] - cu[s]) : 0, nt = (len + bm - 1) / bm;
		uint32_t incl = nt;

#pragma unroll
		for (int d = 1; d < 32; d <<= 1) {
			const uint32_t v = __shfl_up_sync(~0u, incl, d);

			if ((int)lane >= d)
				incl += v;
		}
		const uint32_t hit = __ballot_sync(~0u, before + incl > want);
		if (hit) {
			const int l = __ffs(hit) - 1;
			const uint32_t excl = __shfl_sync(~0u, incl - nt, l);

			o->seq = s0 + l;
			o->len = __shfl_sync(~0u, len, l);
			o->begin = (uint32_t)cu[o->seq];
			o->first = (want - before - excl) * bm;
			return true;
		}
		before += __shfl_sync(~0u, incl, 31);
	}
	return false;
}

/* sequence of a packed token */
__device__ __forceinline__ uint32_t seq_of(const int32_t *cu, uint32_t n_seqs, uint32_t t)
{
	uint32_t lo = 0, hi = n_seqs - 1;

	while (lo < hi) {
		const uint32_t mid = (lo + hi + 1) / 2;

		if ((uint32_t)cu[mid] <= t)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

__device__ __forceinline__ uint32_t smem_u32(const void *p) { return (uint32_t)__cvta_generic_to_shared(p); }

/* host: can the tensor-core kernels serve these views? */
static inline bool cu_attn_fast(uint32_t head_dim, const void *const *ptrs, const size_t *lds, int n)
{
	if (head_dim != 64 && head_dim != 128)
		return false;
	for (int i = 0; i < n; i++)
		if (((uintptr_t)ptrs[i] & 15) || lds[i] % 8)
			return false;
	return true;
}

int cu_check_attn(const struct ql_attn *a, struct ql_err *e);

#endif
