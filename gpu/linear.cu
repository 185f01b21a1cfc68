/* linear.cu - y = x·Wᵀ (+ bias) (+ residual) + Σ adapters, for large row counts; linear.h has the layout of the expanded weight.
 *
 *                      S  = (M⊙x)·Aᵀ             → x's columns  in … in+R-1      (ext columns, device.h)
 *                      y  = [x | S]·[W | s·B]ᵀ     one product of depth in + R
 * S is bf16, sums fp32.  Rows between segments see the plain product.  Small row counts and adapter tables go to matvec.cu. */
#include "gpu/linear.h"

__global__ void __launch_bounds__(256) bias_to_bf16(const float *b, bf16 *o, uint32_t n)
{
	const uint32_t i = blockIdx.x * 256 + threadIdx.x;

	if (i < n)
		o[i] = __float2bfloat16_rn(b[i]);
}

__global__ void __launch_bounds__(256) residual_f32(float *y, size_t ldy, const bf16 *r, size_t ldr, uint32_t rows, uint32_t n)
{
	for (uint32_t row = blockIdx.x; row < rows; row += gridDim.x)
		for (uint32_t c = threadIdx.x; c < n; c += 256)
			y[row * ldy + c] += __bfloat162float(r[row * ldr + c]);
}

/* S into x's ext columns for the rows of one segment; xd: bf16 scratch rows × in when dropping out */
static int make_s(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const struct ql_lora_seg *s, const struct ql_tensor *x,
		  const struct cu_linear_plan *p, uint32_t R, bf16 *xd, struct ql_err *e)
{
	const uint32_t rows = s->row_end - s->row_begin;
	bf16 *xr = (bf16 *)x->data + (size_t)s->row_begin * x->ld;
	const bf16 *a = p->ext + (size_t)w->out * p->ld;
	uint32_t col = 0;

	if (s->dropout == 0.f)
		return cu_gemm_nt(d, q, rows, R, w->in, 1.f, xr, x->ld, a, p->ld, 0.f, NULL, 0, xr + w->in, x->ld, QL_BF16, NULL, e);
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		const uint32_t r = s->part[i].r;

		if (r == 0)
			continue;
		QL_TRY(cu_dropout_rows(d, q, xr, x->ld, xd, rows, w->in, cu_mask_for(s, i), e));
		QL_TRY(cu_gemm_nt(d, q, rows, r, w->in, 1.f, xd, w->in, a + col * p->ld, p->ld, 0.f, NULL, 0, xr + w->in + col, x->ld, QL_BF16, NULL, e));
		col += r;
	}
	return QL_OK;
}

/* rows row … row+n-1 of y, depth k (in, or in + R) */
static int product(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, const struct cu_linear_plan *p, uint32_t row, uint32_t n, uint64_t k,
		   const bf16 *bias16, struct ql_err *e)
{
	const struct ql_weight *w = a->w;
	const bf16 *x = (const bf16 *)a->x.data + (size_t)row * a->x.ld;
	const bf16 *res = a->residual ? (const bf16 *)a->residual + (size_t)row * a->ld_residual : NULL;

	if (a->y.dtype == QL_BF16)
		return cu_gemm_nt(d, q, n, w->out, k, 1.f, x, a->x.ld, p->w, p->ld, res ? 1.f : 0.f, res, a->ld_residual,
				  (bf16 *)a->y.data + (size_t)row * a->y.ld, a->y.ld, QL_BF16, bias16, e);
	float *y = (float *)a->y.data + (size_t)row * a->y.ld;
	QL_TRY(cu_gemm_nt(d, q, n, w->out, k, 1.f, x, a->x.ld, p->w, p->ld, 0.f, NULL, 0, y, a->y.ld, QL_F32, a->bias, e));
	if (res) {
		residual_f32<<<n < 4096 ? n : 4096, 256, 0, q->s>>>(y, a->y.ld, res, a->ld_residual, n, w->out);
		CU_LAUNCHED();
	}
	return QL_OK;
}

static int check_linear(const struct ql_linear *a, struct ql_err *e)
{
	const struct ql_weight *w = a->w;

	QL_TRY(cu_check_act(&a->x, "x", e));
	if (a->x.cols != w->in)
		return ql_err_set(e, QL_ESHAPE, "linear: x has %u columns, the weight takes %u", a->x.cols, w->in);
	if (a->n_segs && a->table)
		return ql_err_set(e, QL_EINVAL, "linear: segments and a table exclude each other");
	if (!a->y.data)
		return a->n_segs ? QL_OK : ql_err_set(e, QL_EINVAL, "linear: no output and no adapter");
	if ((a->y.dtype != QL_BF16 && a->y.dtype != QL_F32) || a->y.ld < a->y.cols || a->y.cols != w->out || a->y.rows != a->x.rows)
		return ql_err_set(e, QL_ESHAPE, "linear: y is %ux%u, %ux%u wanted (bf16 or f32)", a->y.rows, a->y.cols, a->x.rows, w->out);
	if (a->residual && a->ld_residual < w->out)
		return ql_err_set(e, QL_ESHAPE, "linear: residual rows overlap");
	if (a->table && (!a->row_slot || (uint64_t)a->site0 + w->s.n_parts > a->table->n_sites))
		return ql_err_set(e, QL_EINVAL, "linear: adapter table without row slots, or sites out of range");
	return QL_OK;
}

int cu_linear(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, struct ql_err *e)
{
	const struct ql_weight *w = a->w;
	const uint32_t T = a->x.rows;
	struct cu_linear_plan p;
	uint32_t ext, R, row = 0;
	size_t drop = 0;

	QL_TRY(cu_begin(d, "linear", e));
	QL_TRY(check_linear(a, e));
	if (T == 0)
		return QL_OK;
	if (a->n_segs == 0 && (a->table || T <= CU_SMALL_ROWS)) {
		for (uint32_t t = 0; t < T; t += CU_SMALL_ROWS)
			QL_TRY(cu_matvec(d, q, a, t, T - t < CU_SMALL_ROWS ? T - t : CU_SMALL_ROWS, e));
		return QL_OK;
	}
	QL_TRY(cu_check_segs(a->segs, a->n_segs, T, w, a->x.ld - a->x.cols, &ext, e));
	for (uint32_t i = 0; i < a->n_segs; i++)
		if (a->segs[i].dropout > 0.f && a->segs[i].row_end - a->segs[i].row_begin > drop)
			drop = a->segs[i].row_end - a->segs[i].row_begin;
	const size_t drop_bytes = cu_align(drop * w->in * 2), bias_bytes = a->bias ? cu_align((size_t)w->out * 2) : 0;
	QL_TRY(cu_linear_prepare(d, q, w, ext, a->y.data != NULL, drop_bytes + bias_bytes, &p, e));
	bf16 *xd = (bf16 *)p.extra, *bias16 = NULL;
	if (a->bias && a->y.data && a->y.dtype == QL_BF16) {
		bias16 = (bf16 *)(p.extra + drop_bytes);
		bias_to_bf16<<<(w->out + 255) / 256, 256, 0, q->s>>>(a->bias, bias16, w->out);
		CU_LAUNCHED();
	}
	for (uint32_t i = 0; i <= a->n_segs; i++) {
		const uint32_t begin = i < a->n_segs ? a->segs[i].row_begin : T;

		if (begin > row && a->y.data)
			QL_TRY(product(d, q, a, &p, row, begin - row, w->in, bias16, e));
		if (i == a->n_segs)
			break;
		const struct ql_lora_seg *s = &a->segs[i];
		row = s->row_end;
		if (begin == row)
			continue;
		QL_TRY(cu_linear_pack(d, q, w, s, &p, true, &R, e));
		if (R)
			QL_TRY(make_s(d, q, w, s, &a->x, &p, R, xd, e));
		if (a->y.data)
			QL_TRY(product(d, q, a, &p, begin, s->row_end - begin, (uint64_t)w->in + R, bias16, e));
	}
	return QL_OK;
}
