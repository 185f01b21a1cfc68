/* norm.cu - RMSNorm and its gradient, one block per row, or per group of columns of a row (norms of heads).
 *
 * y = [add +] w ⊙ (x·ρ), ρ = (mean(x²) + eps)^-1/2;  g = w ⊙ dy, dx = [add +] ρ·(g - x·ρ²·mean(g ⊙ x)).  x, y, dy, dx, add act [T, d],
 * w f32 [d], rstd f32 [T, groups].  fp32 sums in a fixed tree; groups up to 8192 elements stay in registers between the two passes.
 * PLAIN: one group and, forward, nothing to add; the compiler then reads w while the sums are still on their way. */
#include "gpu/kernel.h"

#define KEEP 4 /* groups of 8 elements a thread keeps */

template <int THREADS> __device__ __forceinline__ float block_sum(float v)
{
	__shared__ float part[THREADS / 32];

	v = warp_sum(v);
	if (THREADS == 32)
		return v;
	if ((threadIdx.x & 31) == 0)
		part[threadIdx.x >> 5] = v;
	__syncthreads();
	v = 0;
#pragma unroll
	for (int i = 0; i < THREADS / 32; i++)
		v += part[i];
	return v;
}

template <bool VEC, int THREADS, bool PLAIN>
__global__ void __launch_bounds__(THREADS) norm_fwd(const bf16 *x, size_t ldx, const float *__restrict__ w_all, float eps, const bf16 *add, size_t ldadd,
						    bf16 *y, size_t ldy, float *rstd, uint32_t n, uint32_t groups)
{
	const size_t row = PLAIN ? blockIdx.x : blockIdx.x / groups, col = PLAIN ? 0 : (size_t)(blockIdx.x % groups) * n;
	const bf16 *xr = x + row * ldx + col, *ar = !PLAIN && add ? add + row * ldadd + col : NULL;
	const float *__restrict__ w = w_all + col;
	bf16 *yr = y + row * ldy + col;
	float keep[KEEP][8], s = 0;

	cu_release();
	if (threadIdx.x * 32 < n) /* the weights do not depend on earlier work: bring them close while it ends */
		asm volatile("prefetch.global.L2 [%0];" ::"l"(w + threadIdx.x * 32));
	cu_acquire();
#pragma unroll
	for (int k = 0; k < KEEP; k++) {
		const uint32_t i = (k * THREADS + threadIdx.x) * 8;

		if (i < n) {
			load8<VEC>(xr, i, n, keep[k]);
#pragma unroll
			for (int j = 0; j < 8; j++)
				s += keep[k][j] * keep[k][j];
		}
	}
	for (uint32_t i = (KEEP * THREADS + threadIdx.x) * 8; i < n; i += THREADS * 8) {
		float f[8];

		load8<VEC>(xr, i, n, f);
		for (int j = 0; j < 8; j++)
			s += f[j] * f[j];
	}
	s = block_sum<THREADS>(s);
	const float r = rsqrtf(s / (float)n + eps);
	if (rstd && threadIdx.x == 0)
		rstd[blockIdx.x] = r;
#pragma unroll
	for (int k = 0; k < KEEP; k++) {
		const uint32_t i = (k * THREADS + threadIdx.x) * 8;

		if (i < n) {
#pragma unroll
			for (int j = 0; j < 8; j++)
				keep[k][j] *= r * (VEC || i + j < n ? w[i + j] : 0.f);
			if (!PLAIN && ar) {
				float f[8];

				load8<VEC>(ar, i, n, f);
#pragma unroll
				for (int j = 0; j < 8; j++)
					keep[k][j] += f[j];
			}
			store8<VEC>(yr, i, n, keep[k]);
		}
	}
	for (uint32_t i = (KEEP * THREADS + threadIdx.x) * 8; i < n; i += THREADS * 8) {
		float f[8];

		load8<VEC>(xr, i, n, f);
		for (int j = 0; j < 8; j++)
			f[j] *= r * (VEC || i + j < n ? w[i + j] : 0.f);
		if (!PLAIN && ar) {
			float b[8];

			load8<VEC>(ar, i, n, b);
			for (int j = 0; j < 8; j++)
				f[j] += b[j];
		}
		store8<VEC>(yr, i, n, f);
	}
}

template <bool VEC, int THREADS, bool PLAIN>
__global__ void __launch_bounds__(THREADS) norm_bwd(const bf16 *__restrict__ x, size_t ldx, const float *__restrict__ w, const float *__restrict__ rstd,
						    const bf16 *dy, size_t lddy, const bf16 *add, size_t ldadd, bf16 *dx, size_t lddx, uint32_t n,
						    uint32_t groups)
{
	const size_t row = PLAIN ? blockIdx.x : blockIdx.x / groups, col = PLAIN ? 0 : (size_t)(blockIdx.x % groups) * n;
	const float r = rstd[blockIdx.x];
	float dot = 0, g[KEEP][8], v[KEEP][8];

	if (!PLAIN) {
		x += col, w += col, dy += col, dx += col;
		if (add)
			add += col;
	}

#pragma unroll
	for (int k = 0; k < KEEP; k++) {
		const uint32_t i = (k * THREADS + threadIdx.x) * 8;

		if (i < n) {
			load8<VEC>(x + row * ldx, i, n, v[k]);
			load8<VEC>(dy + row * lddy, i, n, g[k]);
#pragma unroll
			for (int j = 0; j < 8; j++) {
				g[k][j] *= VEC || i + j < n ? w[i + j] : 0.f;
				dot += g[k][j] * v[k][j];
			}
		}
	}
	for (uint32_t i = (KEEP * THREADS + threadIdx.x) * 8; i < n; i += THREADS * 8) {
		float a[8], b[8];

		load8<VEC>(x + row * ldx, i, n, a);
		load8<VEC>(dy + row * lddy, i, n, b);
		for (int j = 0; j < 8; j++)
			dot += a[j] * (b[j] * (VEC || i + j < n ? w[i + j] : 0.f));
	}
	dot = block_sum<THREADS>(dot);
	const float c = r * r * (dot / (float)n);
#pragma unroll
	for (int k = 0; k < KEEP; k++) {
		const uint32_t i = (k * THREADS + threadIdx.x) * 8;

		if (i < n) {
			float a[8] = {0, 0, 0, 0, 0, 0, 0, 0};

			if (add)
				load8<VEC>(add + row * ldadd, i, n, a);
#pragma unroll
			for (int j = 0; j < 8; j++)
				a[j] += r * (g[k][j] - v[k][j] * c);
			store8<VEC>(dx + row * lddx, i, n, a);
		}
	}
	for (uint32_t i = (KEEP * THREADS + threadIdx.x) * 8; i < n; i += THREADS * 8) {
		float a[8] = {0, 0, 0, 0, 0, 0, 0, 0}, f[8], b[8];

		if (add)
			load8<VEC>(add + row * ldadd, i, n, a);
		load8<VEC>(x + row * ldx, i, n, f);
		load8<VEC>(dy + row * lddy, i, n, b);
		for (int j = 0; j < 8; j++)
			a[j] += r * (b[j] * (VEC || i + j < n ? w[i + j] : 0.f) - f[j] * c);
		store8<VEC>(dx + row * lddx, i, n, a);
	}
}

/* Columns of a group; QL_ESHAPE if they do not divide the row. */
static int group_of(const struct ql_tensor *x, uint32_t group, uint32_t *n, struct ql_err *e)
{
	*n = group ? group : x->cols;
	if (x->cols % (*n ? *n : 1))
		return ql_err_param(e, QL_ESHAPE, "group", "rmsnorm: %u columns in groups of %u", x->cols, *n);
	return QL_OK;
}

int cu_rmsnorm(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, float eps, struct ql_tensor add,
	       struct ql_tensor y, float *rstd, struct ql_err *e)
{
	uint32_t n;

	QL_TRY(cu_begin(d, "rmsnorm", e));
	QL_TRY(cu_check_act(&x, "x", e));
	QL_TRY(cu_check_act(&y, "y", e));
	QL_TRY(cu_check_same(&x, &y, "rmsnorm", e));
	QL_TRY(group_of(&x, group, &n, e));
	if (add.data) {
		QL_TRY(cu_check_act(&add, "add", e));
		QL_TRY(cu_check_same(&x, &add, "rmsnorm", e));
	}
	if (x.rows == 0 || x.cols == 0)
		return QL_OK;
	const bool vec = cu_vec_ok(&x) && cu_vec_ok(&y) && n % 8 == 0 && (!add.data || cu_vec_ok(&add));
	const bool plain = n == x.cols && !add.data;
#define GO1(V, N, P)                                                                                                                                  \
	CU_TRY(cu_launch(d, q, norm_fwd<V, N, P>, x.rows * (x.cols / n), N, 0, (const bf16 *)x.data, x.ld, w, eps, (const bf16 *)add.data, add.ld,       \
			 (bf16 *)y.data, y.ld, rstd, n, x.cols / n))
#define GO(V, N)                                                                                                                                      \
	do {                                                                                                                                          \
		if (plain)                                                                                                                            \
			GO1(V, N, true);                                                                                                              \
		else                                                                                                                                  \
			GO1(V, N, false);                                                                                                             \
	} while (0)
	if (!vec)
		GO1(false, 256, false);
	else if (n <= 256)
		GO(true, 32);
	else if (n <= 2048)
		GO(true, 128);
	else if (n <= 4096 && x.rows > 64)
		GO(true, 256);
	else
		GO(true, 512);
#undef GO
#undef GO1
	return QL_OK;
}

int cu_rmsnorm_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, const float *rstd,
		    struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	uint32_t n;

	QL_TRY(cu_begin(d, "rmsnorm_grad", e));
	QL_TRY(cu_check_act(&x, "x", e));
	QL_TRY(cu_check_act(&dy, "dy", e));
	QL_TRY(cu_check_act(&dx, "dx", e));
	QL_TRY(cu_check_same(&x, &dy, "rmsnorm_grad", e));
	QL_TRY(cu_check_same(&x, &dx, "rmsnorm_grad", e));
	QL_TRY(group_of(&x, group, &n, e));
	if (add.data) {
		QL_TRY(cu_check_act(&add, "add", e));
		QL_TRY(cu_check_same(&x, &add, "rmsnorm_grad", e));
	}
	if (x.rows == 0 || x.cols == 0)
		return QL_OK;
	const bool vec = cu_vec_ok(&x) && cu_vec_ok(&dy) && cu_vec_ok(&dx) && n % 8 == 0 && (!add.data || cu_vec_ok(&add));
	const bool plain = n == x.cols;
#define GO1(V, N, P)                                                                                                                          \
	norm_bwd<V, N, P><<<x.rows * (x.cols / n), N, 0, q->s>>>((const bf16 *)x.data, x.ld, w, rstd, (const bf16 *)dy.data, dy.ld,                  \
								 (const bf16 *)add.data, add.ld, (bf16 *)dx.data, dx.ld, n, x.cols / n)
#define GO(V, N)                                                                                                                              \
	do {                                                                                                                                  \
		if (plain)                                                                                                                    \
			GO1(V, N, true);                                                                                                      \
		else                                                                                                                          \
			GO1(V, N, false);                                                                                                     \
	} while (0)
	if (!vec)
		GO1(false, 256, false);
	else if (n <= 256)
		GO(true, 32);
	else if (n <= 2048)
		GO(true, 128);
	else if (n <= 4096)
		GO(true, 256);
	else
		GO(true, 512);
#undef GO
#undef GO1
	CU_LAUNCHED();
	return QL_OK;
}
