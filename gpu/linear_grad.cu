/* linear_grad.cu - gradient of y = x·Wᵀ + Σ adapters; linear.h has the layout of the expanded weight.
 *
 *                      dS = s·(dy·B)             → dy's columns out … out+R-1  (there B stands unscaled)
 *                      dx = [dy | dS]·[W ; A]       one product of depth out + R
 * dA += dSᵀ·(M⊙x);  dB += s·dyᵀ·S.  dS is bf16, sums fp32.  With dropout the adapters' share of dx is M⊙(dS·A), formed in fp32 and added
 * before the one rounding. */
#include "gpu/linear.h"

/* z (= or +=) M ⊙ p, fp32 */
__global__ void __launch_bounds__(256) dropout_add(const float *p, float *z, bool first_part, uint32_t rows, uint32_t in, struct cu_mask m)
{
	cu_each_masked(m, rows, in, [&](uint64_t i, float scale) {
		const float v = p[i] * scale;

		z[i] = first_part ? v : z[i] + v;
	});
}

__global__ void __launch_bounds__(256) round_rows(const float *z, bf16 *dx, size_t ld, bool add, uint32_t rows, uint32_t in)
{
	const uint64_t n = (uint64_t)rows * in;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < n; i += (uint64_t)gridDim.x * 256) {
		bf16 *p = dx + (i / in) * ld + i % in;

		*p = __float2bfloat16_rn(z[i] + (add ? __bfloat162float(*p) : 0.f));
	}
}

__global__ void __launch_bounds__(256) add_rows(const float *g, size_t n, float *out)
{
	for (size_t i = blockIdx.x * (size_t)256 + threadIdx.x; i < n; i += (size_t)gridDim.x * 256)
		out[i] += g[i];
}

struct grad_ctx {
	const struct ql_linear_grad *a;
	struct cu_linear_plan p;
	float *g;  /* [R, in] fp32 */
	bf16 *xd;  /* dropout: M⊙x */
	float *pz, *z; /* dropout: dS·A and its masked sum */
};

static int grad_adapters(struct ql_device *d, struct ql_queue *q, struct grad_ctx *c, const struct ql_lora_seg *s, uint32_t R, struct ql_err *e)
{
	const struct ql_linear_grad *a = c->a;
	const struct ql_weight *w = a->w;
	const uint32_t rows = s->row_end - s->row_begin;
	const bf16 *x = (const bf16 *)a->x.data + (size_t)s->row_begin * a->x.ld;
	bf16 *dy = (bf16 *)a->dy.data + (size_t)s->row_begin * a->dy.ld;
	uint32_t col = 0, row0 = 0, used = 0;
	bool want_a = false;

	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		const struct ql_lora *l = &s->part[i];

		if (l->r) { /* dS = s·dy_p·B;  dB += s·dy_pᵀ·S */
			QL_TRY(cu_gemm_nn(d, q, rows, l->r, w->s.out[i], l->scale, dy + row0, a->dy.ld, c->p.ext + row0 * c->p.ld + w->in + col, c->p.ld, 0.f,
					  NULL, 0, dy + w->out + col, a->dy.ld, QL_BF16, e));
			if (l->db)
				QL_TRY(cu_gemm_tn(d, q, w->s.out[i], l->r, rows, l->scale, dy + row0, a->dy.ld, x + w->in + col, a->x.ld, 1.f, l->db, l->r,
						  QL_F32, e));
			used++;
			want_a = want_a || l->da;
		}
		row0 += w->s.out[i];
		col += l->r;
	}
	if (!want_a)
		return QL_OK;
	if (s->dropout == 0.f && used > 1) /* one product for all parts: x is read once */
		QL_TRY(cu_gemm_tn(d, q, R, w->in, rows, 1.f, dy + w->out, a->dy.ld, x, a->x.ld, 0.f, c->g, w->in, QL_F32, e));
	col = 0;
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		const struct ql_lora *l = &s->part[i];

		if (l->r && l->da && s->dropout == 0.f && used > 1) {
			add_rows<<<cu_grid_for(d, (uint64_t)l->r * w->in), 256, 0, q->s>>>(c->g + (size_t)col * w->in, (size_t)l->r * w->in, l->da);
			CU_LAUNCHED();
		} else if (l->r && l->da) {
			const bf16 *in = x;
			size_t ld = a->x.ld;

			if (s->dropout > 0.f) {
				QL_TRY(cu_dropout_rows(d, q, x, a->x.ld, c->xd, rows, w->in, cu_mask_for(s, i), e));
				in = c->xd;
				ld = w->in;
			}
			QL_TRY(cu_gemm_tn(d, q, l->r, w->in, rows, 1.f, dy + w->out + col, a->dy.ld, in, ld, 1.f, l->da, w->in, QL_F32, e));
		}
		col += l->r;
	}
	return QL_OK;
}

static int grad_dx(struct ql_device *d, struct ql_queue *q, struct grad_ctx *c, uint32_t row, uint32_t n, const struct ql_lora_seg *s, uint32_t R,
		   struct ql_err *e)
{
	const struct ql_linear_grad *a = c->a;
	const struct ql_weight *w = a->w;
	const bf16 *dy = (const bf16 *)a->dy.data + (size_t)row * a->dy.ld;
	bf16 *dx = (bf16 *)a->dx.data + (size_t)row * a->dx.ld;
	uint32_t col = 0;
	bool first = true;

	if (!s || R == 0 || s->dropout == 0.f)
		return cu_gemm_nn(d, q, n, w->in, (uint64_t)w->out + R, 1.f, dy, a->dy.ld, c->p.w, c->p.ld, a->dx_accumulate ? 1.f : 0.f, dx, a->dx.ld, dx,
				  a->dx.ld, QL_BF16, e);
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		const uint32_t r = s->part[i].r;

		if (r == 0)
			continue;
		QL_TRY(cu_gemm_nn(d, q, n, w->in, r, 1.f, dy + w->out + col, a->dy.ld, c->p.w + (size_t)(w->out + col) * c->p.ld, c->p.ld, 0.f, NULL, 0,
				  c->pz, w->in, QL_F32, e));
		dropout_add<<<cu_grid_for(d, (uint64_t)n * w->in / 4 + 2), 256, 0, q->s>>>(c->pz, c->z, first, n, w->in, cu_mask_for(s, i));
		CU_LAUNCHED();
		first = false;
		col += r;
	}
	QL_TRY(cu_gemm_nn(d, q, n, w->in, w->out, 1.f, dy, a->dy.ld, c->p.w, c->p.ld, 1.f, NULL, 0, c->z, w->in, QL_F32, e));
	round_rows<<<cu_grid_for(d, (uint64_t)n * w->in), 256, 0, q->s>>>(c->z, dx, a->dx.ld, a->dx_accumulate, n, w->in);
	CU_LAUNCHED();
	return QL_OK;
}

int cu_linear_grad(struct ql_device *d, struct ql_queue *q, const struct ql_linear_grad *a, struct ql_err *e)
{
	const struct ql_weight *w = a->w;
	const uint32_t T = a->dy.rows;
	struct grad_ctx c;
	uint32_t ext, ext_x, R, row = 0;
	size_t drop = 0;

	memset(&c, 0, sizeof c);
	c.a = a;
	QL_TRY(cu_begin(d, "linear_grad", e));
	QL_TRY(cu_check_act(&a->dy, "dy", e));
	if (a->dy.cols != w->out)
		return ql_err_set(e, QL_ESHAPE, "linear_grad: dy has %u columns, %u wanted", a->dy.cols, w->out);
	if (a->n_segs) {
		QL_TRY(cu_check_act(&a->x, "x", e));
		if (a->x.cols != w->in || a->x.rows != T)
			return ql_err_set(e, QL_ESHAPE, "linear_grad: x is %ux%u, %ux%u wanted", a->x.rows, a->x.cols, T, w->in);
		QL_TRY(cu_check_segs(a->segs, a->n_segs, T, w, a->x.ld - a->x.cols, &ext_x, e));
	}
	QL_TRY(cu_check_segs(a->segs, a->n_segs, T, w, a->dy.ld - a->dy.cols, &ext, e));
	if (a->dx.data) {
		QL_TRY(cu_check_act(&a->dx, "dx", e));
		if (a->dx.cols != w->in || a->dx.rows != T)
			return ql_err_set(e, QL_ESHAPE, "linear_grad: dx is %ux%u, %ux%u wanted", a->dx.rows, a->dx.cols, T, w->in);
	}
	if (T == 0)
		return QL_OK;
	for (uint32_t i = 0; i < a->n_segs; i++) {
		for (uint32_t k = 0; k < w->s.n_parts; k++)
			if (a->segs[i].part[k].r && (!a->segs[i].part[k].da || !a->segs[i].part[k].db))
				return ql_err_set(e, QL_EINVAL, "linear_grad: segment %u has no room for its gradients", i);
		if (a->segs[i].dropout > 0.f && a->segs[i].row_end - a->segs[i].row_begin > drop)
			drop = a->segs[i].row_end - a->segs[i].row_begin;
	}
	const size_t g_bytes = cu_align((size_t)ext * w->in * 4), xd_bytes = cu_align(drop * w->in * 2);
	const size_t z_bytes = a->dx.data ? cu_align(drop * w->in * 4) : 0;
	QL_TRY(cu_linear_prepare(d, q, w, ext, a->dx.data != NULL, g_bytes + xd_bytes + 2 * z_bytes, &c.p, e));
	c.g = (float *)c.p.extra;
	c.xd = (bf16 *)(c.p.extra + g_bytes);
	c.z = (float *)(c.p.extra + g_bytes + xd_bytes);
	c.pz = (float *)(c.p.extra + g_bytes + xd_bytes + z_bytes);
	for (uint32_t i = 0; i <= a->n_segs; i++) {
		const uint32_t begin = i < a->n_segs ? a->segs[i].row_begin : T;

		if (begin > row && a->dx.data)
			QL_TRY(grad_dx(d, q, &c, row, begin - row, NULL, 0, e));
		if (i == a->n_segs)
			break;
		const struct ql_lora_seg *s = &a->segs[i];
		row = s->row_end;
		if (begin == row)
			continue;
		QL_TRY(cu_linear_pack(d, q, w, s, &c.p, false, &R, e));
		if (R)
			QL_TRY(grad_adapters(d, q, &c, s, R, e));
		if (a->dx.data)
			QL_TRY(grad_dx(d, q, &c, begin, s->row_end - begin, s, R, e));
	}
	return QL_OK;
}
