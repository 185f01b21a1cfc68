/* xent.cu - final linear and cross-entropy in chunks of rows, gradient produced in the same pass.
 *
 * For each chunk of listed rows: z = hidden·headᵀ (bf16 product, fp32 logits); per row lse, nll = lse - z_label, argmax (lowest id of
 * the largest), and in place of the logits g = grad_scale·(softmax - onehot) in bf16; dhidden rows = g·head.  Logits of all rows
 * never exist at once: a chunk holds about 256 MiB.  With a soft cap c the logits are c·tanh(z/c), and g has the factor
 * 1 - tanh²(z/c) more.  One block per row: an online maximum-and-sum pass, then the gradient
 * pass, which overwrites a row from the front, always behind what is still to be read. */
#include <math.h>

#include "gpu/kernel.h"

#define THREADS 1024
#define CHUNK_BYTES ((size_t)256 << 20)

__global__ void __launch_bounds__(256) gather_rows(const bf16 *src, size_t ld, const int32_t *__restrict__ rows, bf16 *dst, uint32_t n)
{
	const bf16 *s = src + (size_t)rows[blockIdx.x] * ld;

	for (uint32_t i = threadIdx.x; i < n; i += 256)
		dst[(size_t)blockIdx.x * n + i] = s[i];
}

__global__ void __launch_bounds__(256) scatter_rows(const bf16 *src, const int32_t *__restrict__ rows, bf16 *dst, size_t ld, uint32_t n)
{
	bf16 *o = dst + (size_t)rows[blockIdx.x] * ld;

	for (uint32_t i = threadIdx.x; i < n; i += 256)
		o[i] = src[(size_t)blockIdx.x * n + i];
}

__device__ __forceinline__ void merge(float &m, float &s, float m2, float s2)
{
	const float top = fmaxf(m, m2);

	s = (m == -INFINITY ? 0.f : s * __expf(m - top)) + (m2 == -INFINITY ? 0.f : s2 * __expf(m2 - top));
	m = top;
}

__device__ __forceinline__ uint64_t key_of(float v, uint32_t i)
{
	const uint32_t u = __float_as_uint(v == 0.f ? 0.f : v), o = u & 0x80000000u ? ~u : u | 0x80000000u;

	return v != v ? 0 : (uint64_t)o << 32 | (uint32_t)~i;
}

struct row_args {
	float *z;
	size_t ld; /* of z, a multiple of 8 */
	uint32_t n;
	const int32_t *labels;
	float *nll;
	int32_t *argmax;
	float grad_scale, softcap;
	bool grad;
};

template <bool CAP> __global__ void __launch_bounds__(THREADS) softmax_rows(struct row_args a)
{
	__shared__ float sm[32], ss[32];
	__shared__ uint64_t sk[32];
	float *z = a.z + blockIdx.x * a.ld;
	const uint32_t warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
	const int32_t label = a.labels[blockIdx.x];
	const bool ok = label >= 0 && (uint32_t)label < a.n;
	float m = -INFINITY, s = 0, best = -INFINITY;
	uint32_t best_at = 0xffffffffu;

	for (uint32_t i = threadIdx.x * 4; i < a.n; i += THREADS * 4) {
		const float4 v = *reinterpret_cast<const float4 *>(z + i);
		float f[4] = {v.x, v.y, v.z, v.w}, top = m;

#pragma unroll
		for (int j = 0; j < 4; j++) {
			if (CAP)
				f[j] = a.softcap * tanhf(f[j] / a.softcap);
			if (i + j >= a.n)
				f[j] = -INFINITY;
			top = fmaxf(top, f[j]);
			if (f[j] > best || best_at == 0xffffffffu) {
				if (i + j < a.n && f[j] == f[j]) {
					best = f[j];
					best_at = i + j;
				}
			}
		}
		if (top > m) {
			s = m == -INFINITY ? 0.f : s * __expf(m - top);
			m = top;
		}
#pragma unroll
		for (int j = 0; j < 4; j++)
			s += __expf(f[j] - m);
	}
#pragma unroll
	for (int o = 16; o; o >>= 1) {
		const float m2 = __shfl_xor_sync(~0u, m, o), s2 = __shfl_xor_sync(~0u, s, o);

		if (lane & o) { /* both sides add in the same order */
			float mm = m2, t = s2;

			merge(mm, t, m, s);
			m = mm, s = t;
		} else {
			merge(m, s, m2, s2);
		}
	}
	uint64_t key = best_at == 0xffffffffu ? 0 : key_of(best, best_at);
#pragma unroll
	for (int o = 16; o; o >>= 1) {
		const uint64_t k = __shfl_xor_sync(~0u, key, o);

		key = k > key ? k : key;
	}
	if (lane == 0) {
		sm[warp] = m;
		ss[warp] = s;
		sk[warp] = key;
	}
	float z_label = ok ? z[label] : 0.f;

	if (CAP)
		z_label = a.softcap * tanhf(z_label / a.softcap);
	__syncthreads();
	m = sm[0], s = ss[0];
	for (int i = 1; i < THREADS / 32; i++)
		merge(m, s, sm[i], ss[i]);
	if (threadIdx.x == 0) {
		a.nll[blockIdx.x] = ok ? m + logf(s) - z_label : NAN;
		if (a.argmax) {
			for (int i = 1; i < THREADS / 32; i++)
				key = sk[i] > key ? sk[i] : key;
			a.argmax[blockIdx.x] = key ? (int32_t)~(uint32_t)key : 0;
		}
	}
	if (!a.grad)
		return;
	const float inv = a.grad_scale / s;
	bf16 *g = reinterpret_cast<bf16 *>(z);
	for (uint32_t c = 0; c < a.n; c += THREADS * 4) {
		const uint32_t i = c + threadIdx.x * 4;
		float4 v = make_float4(0, 0, 0, 0);

		if (i < a.n)
			v = *reinterpret_cast<const float4 *>(z + i);
		__syncthreads(); /* everyone has read up to c + 4·THREADS; what is written lies before that */
		if (i < a.n) {
			float f[4] = {v.x, v.y, v.z, v.w};

#pragma unroll
			for (int j = 0; j < 4; j++) {
				const float t = CAP ? tanhf(f[j] / a.softcap) : 0.f;

				f[j] = __expf((CAP ? a.softcap * t : f[j]) - m) * inv;
				if ((uint32_t)label == i + j)
					f[j] -= a.grad_scale;
				if (CAP)
					f[j] *= (1.f - t) * (1.f + t);
			}
			*reinterpret_cast<uint2 *>(g + i) = make_uint2(pack2(f[0], f[1]), pack2(f[2], f[3]));
		}
	}
}

int cu_cross_entropy(struct ql_device *d, struct ql_queue *q, const struct ql_xent *a, struct ql_err *e)
{
	const struct ql_weight *w = a->head;
	const uint32_t dim = w->in, vocab = w->out;
	const size_t ldz = ((size_t)vocab + 7) & ~(size_t)7;
	const bool grad = a->dhidden.data != NULL;
	const bf16 *head;
	size_t ld_head;
	uint8_t *extra;

	QL_TRY(cu_begin(d, "cross_entropy", e));
	QL_TRY(cu_check_act(&a->hidden, "hidden", e));
	if (!(a->softcap >= 0.f))
		return ql_err_param(e, QL_EINVAL, "softcap", "cross_entropy: softcap must not be negative");
	if (a->hidden.cols != dim)
		return ql_err_set(e, QL_ESHAPE, "cross_entropy: hidden has %u columns, the head takes %u", a->hidden.cols, dim);
	if (grad) {
		QL_TRY(cu_check_act(&a->dhidden, "dhidden", e));
		QL_TRY(cu_check_same(&a->hidden, &a->dhidden, "dhidden", e));
		CU_TRY(cudaMemset2DAsync(a->dhidden.data, a->dhidden.ld * 2, 0, (size_t)dim * 2, a->dhidden.rows, q->s));
	}
	if (a->n == 0)
		return QL_OK;
	size_t chunk = CHUNK_BYTES / (ldz * 4) & ~(size_t)127;
	chunk = chunk < 128 ? 128 : chunk;
	chunk = chunk < a->n ? chunk : a->n;
	const size_t rows_bytes = cu_align(chunk * dim * 2);
	QL_TRY(cu_weight_view(d, q, w, rows_bytes + chunk * ldz * 4, &head, &ld_head, &extra, e));
	bf16 *rows = (bf16 *)extra;
	float *z = (float *)(extra + rows_bytes);
	for (size_t at = 0; at < a->n; at += chunk) {
		const unsigned n = (unsigned)(a->n - at < chunk ? a->n - at : chunk);
		struct row_args r = {z, ldz, vocab, a->labels + at, a->nll + at, a->argmax ? a->argmax + at : NULL, a->grad_scale, a->softcap, grad};

		gather_rows<<<n, 256, 0, q->s>>>((const bf16 *)a->hidden.data, a->hidden.ld, a->rows + at, rows, dim);
		CU_LAUNCHED();
		QL_TRY(cu_gemm_nt(d, q, n, vocab, dim, 1.f, rows, dim, head, ld_head, 0.f, NULL, 0, z, ldz, QL_F32, NULL, e));
		if (a->softcap > 0.f)
			softmax_rows<true><<<n, THREADS, 0, q->s>>>(r);
		else
			softmax_rows<false><<<n, THREADS, 0, q->s>>>(r);
		CU_LAUNCHED();
		if (!grad)
			continue;
		QL_TRY(cu_gemm_nn(d, q, n, dim, vocab, 1.f, z, 2 * ldz, head, ld_head, 0.f, NULL, 0, rows, dim, QL_BF16, e));
		scatter_rows<<<n, 256, 0, q->s>>>(rows, a->rows + at, (bf16 *)a->dhidden.data, a->dhidden.ld, dim);
		CU_LAUNCHED();
	}
	return QL_OK;
}
