/* reduce.cu - Σ g² in fp64.  512 blocks of 256 threads whatever the device, each thread strides through the array, then fixed trees:
 * the order depends on n alone.  The result reaches the host at the next sync. */
#include "gpu/kernel.h"

#define BLOCKS 512

__device__ double tree(double v)
{
	__shared__ double s[512];

	s[threadIdx.x] = v;
	__syncthreads();
	for (unsigned o = blockDim.x / 2; o; o >>= 1) {
		if (threadIdx.x < o)
			s[threadIdx.x] += s[threadIdx.x + o];
		__syncthreads();
	}
	return s[0];
}

__global__ void __launch_bounds__(256) squares(const float *__restrict__ g, uint64_t n, double *part)
{
	double s = 0;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += (uint64_t)BLOCKS * 256)
		s += (double)g[i] * (double)g[i];
	s = tree(s);
	if (threadIdx.x == 0)
		part[blockIdx.x] = s;
}

__global__ void __launch_bounds__(512) total(const double *part, double *out)
{
	const double s = tree(part[threadIdx.x]);

	if (threadIdx.x == 0)
		*out = s;
}

int cu_sum_squares(struct ql_device *d, struct ql_queue *q, const float *g, uint64_t n, double *host_out, struct ql_err *e)
{
	double *part = (double *)(q->count + 4096);

	QL_TRY(cu_begin(d, "sum_squares", e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "sum_squares: not possible while a graph is recorded");
	squares<<<BLOCKS, 256, 0, q->s>>>(g, n, part);
	CU_LAUNCHED();
	total<<<1, BLOCKS, 0, q->s>>>(part, part + BLOCKS);
	CU_LAUNCHED();
	return cu_download(d, q, host_out, part + BLOCKS, sizeof *host_out, e);
}
