/* swiglu.cu - h = f(gate) ⊙ up and its gradient: dup = dh ⊙ f(gate), dgate = dh ⊙ up ⊙ f'(gate); f is SiLU, f' = σ(g)(1 + g(1 - σ(g))),
 * or GELU in its tanh form, which is g·σ(2u), u = √(2/π)(g + 0.044715·g³).  And the soft cap x = c·tanh(x/c).
 * gate, up, h, … act [T, f], views of any ld; dgate may be gate, dup may be up.  Eight elements per thread, memory-bound. */
#include "gpu/kernel.h"

__device__ __forceinline__ float sigmoid(float x) { return __fdividef(1.f, 1.f + __expf(-x)); }

/* f(g), and its slope */
template <bool GELU> __device__ __forceinline__ float gate_of(float g, float *slope)
{
	if (GELU) {
		const float a = 0.7978845608028654f, b = 0.044715f, s = sigmoid(2.f * a * g * (1.f + b * g * g));

		*slope = s + g * s * (1.f - s) * (2.f * a * (1.f + 3.f * b * g * g));
		return g * s;
	}
	const float s = sigmoid(g);

	*slope = s * (1.f + g * (1.f - s));
	return g * s;
}

struct view {
	bf16 *p;
	size_t ld;
};

template <bool VEC, bool GELU>
__global__ void __launch_bounds__(256) swiglu_fwd(struct view gate, struct view up, struct view h, uint32_t rows, uint32_t n)
{
	const uint32_t i = (blockIdx.x * 256 + threadIdx.x) * 8;

	cu_release();
	cu_acquire();
	if (i >= n)
		return;
	for (uint32_t r = blockIdx.y; r < rows; r += gridDim.y) {
		float g[8], u[8];

		load8<VEC>(gate.p + r * gate.ld, i, n, g);
		load8<VEC>(up.p + r * up.ld, i, n, u);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			float unused;

			g[j] = GELU ? gate_of<GELU>(g[j], &unused) * u[j] : __fdividef(g[j], 1.f + __expf(-g[j])) * u[j];
		}
		store8<VEC>(h.p + r * h.ld, i, n, g);
	}
}

template <bool VEC, bool GELU>
__global__ void __launch_bounds__(256) swiglu_bwd(struct view dh, struct view gate, struct view up, struct view dgate, struct view dup, uint32_t rows,
						  uint32_t n)
{
	const uint32_t i = (blockIdx.x * 256 + threadIdx.x) * 8;

	if (i >= n)
		return;
	for (uint32_t r = blockIdx.y; r < rows; r += gridDim.y) {
		float g[8], u[8], y[8];

		load8<VEC>(dh.p + r * dh.ld, i, n, y);
		load8<VEC>(gate.p + r * gate.ld, i, n, g);
		load8<VEC>(up.p + r * up.ld, i, n, u);
#pragma unroll
		for (int j = 0; j < 8; j++) {
			float slope;
			const float v = gate_of<GELU>(g[j], &slope), dg = y[j] * u[j] * slope;

			u[j] = y[j] * v;
			g[j] = dg;
		}
		store8<VEC>(dgate.p + r * dgate.ld, i, n, g);
		store8<VEC>(dup.p + r * dup.ld, i, n, u);
	}
}

static dim3 grid_of(const struct ql_tensor *t)
{
	return dim3((t->cols / 8 + 1 + 255) / 256, t->rows < 32768 ? t->rows : 32768);
}

static struct view view_of(const struct ql_tensor *t)
{
	struct view v = {(bf16 *)t->data, t->ld};

	return v;
}

int cu_swiglu(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor h,
	      struct ql_err *e)
{
	QL_TRY(cu_begin(d, "swiglu", e));
	QL_TRY(cu_check_act(&gate, "gate", e));
	QL_TRY(cu_check_act(&up, "up", e));
	QL_TRY(cu_check_act(&h, "h", e));
	QL_TRY(cu_check_same(&gate, &up, "swiglu", e));
	QL_TRY(cu_check_same(&gate, &h, "swiglu", e));
	if (h.rows == 0 || h.cols == 0)
		return QL_OK;
	const bool vec = cu_vec_ok(&gate) && cu_vec_ok(&up) && cu_vec_ok(&h);
	void (*const kernel[4])(struct view, struct view, struct view, uint32_t, uint32_t) = {swiglu_fwd<false, false>, swiglu_fwd<true, false>,
											      swiglu_fwd<false, true>, swiglu_fwd<true, true>};
	CU_TRY(cu_launch(d, q, kernel[(f == QL_ACT_SILU ? 0 : 2) + vec], grid_of(&h), 256, 0, view_of(&gate), view_of(&up), view_of(&h), h.rows, h.cols));
	return QL_OK;
}

int cu_swiglu_grad(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor dh, struct ql_tensor gate, struct ql_tensor up,
		   struct ql_tensor dgate, struct ql_tensor dup, struct ql_err *e)
{
	const struct ql_tensor *all[5] = {&dh, &gate, &up, &dgate, &dup};
	bool vec = true;

	QL_TRY(cu_begin(d, "swiglu_grad", e));
	for (int i = 0; i < 5; i++) {
		QL_TRY(cu_check_act(all[i], "swiglu_grad", e));
		QL_TRY(cu_check_same(&dh, all[i], "swiglu_grad", e));
		vec = vec && cu_vec_ok(all[i]);
	}
	if (dh.rows == 0 || dh.cols == 0)
		return QL_OK;
	void (*const kernel[4])(struct view, struct view, struct view, struct view, struct view, uint32_t, uint32_t) = {
		swiglu_bwd<false, false>, swiglu_bwd<true, false>, swiglu_bwd<false, true>, swiglu_bwd<true, true>};
	kernel[(f == QL_ACT_SILU ? 0 : 2) + vec]<<<grid_of(&dh), 256, 0, q->s>>>(view_of(&dh), view_of(&gate), view_of(&up), view_of(&dgate),
										  view_of(&dup), dh.rows, dh.cols);
	CU_LAUNCHED();
	return QL_OK;
}

__global__ void __launch_bounds__(256) softcap_kernel(float *x, size_t ld, uint32_t rows, uint32_t n, float c)
{
	const uint32_t i = blockIdx.x * 256 + threadIdx.x;

	cu_release();
	cu_acquire();
	if (i >= n)
		return;
	for (uint32_t r = blockIdx.y; r < rows; r += gridDim.y)
		x[r * ld + i] = c * tanhf(x[r * ld + i] / c);
}

int cu_softcap(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, float c, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "softcap", e));
	if (x.dtype != QL_F32 || x.ld < x.cols)
		return ql_err_set(e, QL_ESHAPE, "softcap: x is not f32");
	if (!(c > 0.f))
		return ql_err_param(e, QL_EINVAL, "c", "softcap: %g is not positive", (double)c);
	if (x.rows == 0 || x.cols == 0)
		return QL_OK;
	CU_TRY(cu_launch(d, q, softcap_kernel, dim3((x.cols + 255) / 256, x.rows < 32768 ? x.rows : 32768), 256, 0, (float *)x.data, x.ld, x.rows,
			 x.cols, c));
	return QL_OK;
}
