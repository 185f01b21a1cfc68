/* swiglu.cu - h = silu(gate) ⊙ up and its gradient: dup = dh ⊙ silu(gate), dgate = dh ⊙ up ⊙ σ(gate)(1 + gate(1 - σ(gate))).
 * gate, up, h, … act [T, f], views of any ld; dgate may be gate, dup may be up.  Eight elements per thread, memory-bound. */
#include "gpu/gpu.h"

struct view {
	bf16 *p;
	size_t ld;
};

template <bool VEC> __global__ void __launch_bounds__(256) swiglu_fwd(struct view gate, struct view up, struct view h, uint32_t rows, uint32_t n)
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
		for (int j = 0; j < 8; j++)
			g[j] = __fdividef(g[j], 1.f + __expf(-g[j])) * u[j];
		store8<VEC>(h.p + r * h.ld, i, n, g);
	}
}

template <bool VEC>
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
			const float s = __fdividef(1.f, 1.f + __expf(-g[j]));
			const float dg = y[j] * u[j] * s * (1.f + g[j] * (1.f - s));

			u[j] = y[j] * g[j] * s;
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

int cu_swiglu(struct ql_device *d, struct ql_queue *q, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor h, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "swiglu", e));
	QL_TRY(cu_check_act(&gate, "gate", e));
	QL_TRY(cu_check_act(&up, "up", e));
	QL_TRY(cu_check_act(&h, "h", e));
	QL_TRY(cu_check_same(&gate, &up, "swiglu", e));
	QL_TRY(cu_check_same(&gate, &h, "swiglu", e));
	if (h.rows == 0 || h.cols == 0)
		return QL_OK;
	if (cu_vec_ok(&gate) && cu_vec_ok(&up) && cu_vec_ok(&h))
		CU_TRY(cu_launch(d, q, swiglu_fwd<true>, grid_of(&h), 256, 0, view_of(&gate), view_of(&up), view_of(&h), h.rows, h.cols));
	else
		CU_TRY(cu_launch(d, q, swiglu_fwd<false>, grid_of(&h), 256, 0, view_of(&gate), view_of(&up), view_of(&h), h.rows, h.cols));
	return QL_OK;
}

int cu_swiglu_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor dh, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor dgate,
		   struct ql_tensor dup, struct ql_err *e)
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
	if (vec)
		swiglu_bwd<true><<<grid_of(&dh), 256, 0, q->s>>>(view_of(&dh), view_of(&gate), view_of(&up), view_of(&dgate), view_of(&dup), dh.rows,
								 dh.cols);
	else
		swiglu_bwd<false><<<grid_of(&dh), 256, 0, q->s>>>(view_of(&dh), view_of(&gate), view_of(&up), view_of(&dgate), view_of(&dup), dh.rows,
								  dh.cols);
	CU_LAUNCHED();
	return QL_OK;
}
