/* argmax.cu - ids[t] = lowest index of the largest element of row t; logits f32 [T, vocab].  One block per row.  NaN never wins; a
 * row of NaN gives 0. */
#include "gpu/kernel.h"

__device__ __forceinline__ uint64_t key_of(float v, uint32_t i) /* larger value first, then the smaller index */
{
	const uint32_t u = __float_as_uint(v == 0.f ? 0.f : v), o = u & 0x80000000u ? ~u : u | 0x80000000u;

	return v != v ? 0 : (uint64_t)o << 32 | (uint32_t)~i;
}

__global__ void __launch_bounds__(1024) argmax_kernel(const float *__restrict__ z, size_t ld, uint32_t n, int32_t *ids)
{
	__shared__ uint64_t part[32];
	uint64_t best = 0;

	for (uint32_t i = threadIdx.x; i < n; i += 1024) {
		const uint64_t k = key_of(z[blockIdx.x * ld + i], i);

		best = k > best ? k : best;
	}
	for (int o = 16; o; o >>= 1) {
		const uint64_t k = __shfl_xor_sync(~0u, best, o);

		best = k > best ? k : best;
	}
	if ((threadIdx.x & 31) == 0)
		part[threadIdx.x >> 5] = best;
	__syncthreads();
	if (threadIdx.x == 0) {
		for (int i = 1; i < 32; i++)
			best = part[i] > best ? part[i] : best;
		ids[blockIdx.x] = best ? (int32_t)~(uint32_t)best : 0;
	}
}

int cu_argmax(struct ql_device *d, struct ql_queue *q, struct ql_tensor z, int32_t *ids, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "argmax", e));
	if (z.dtype != QL_F32 || !z.data || z.ld < z.cols || z.cols == 0 || z.cols > INT32_MAX)
		return ql_err_set(e, QL_ESHAPE, "argmax: f32 rows wanted");
	if (z.rows == 0)
		return QL_OK;
	argmax_kernel<<<z.rows, 1024, 0, q->s>>>((const float *)z.data, z.ld, z.cols, ids);
	CU_LAUNCHED();
	return QL_OK;
}
