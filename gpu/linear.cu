/* linear.cu - y = x·Wᵀ (+ bias) (+ residual) + Σ adapters, and its gradient; large row counts.
 *
 * The weight is expanded to bf16 (scratch, or the resident copy) with room for R adapter columns and R adapter rows:
 *        in        R
 *  out [ W       | s·B ]      S  = (M⊙x)·Aᵀ             → x's columns  in … in+R-1      (ext columns, device.h)
 *    R [ A       |  -  ]      y  = [x | S]·[W | s·B]ᵀ     one product of depth in + R
 *                             dS = s·(dy·B)             → dy's columns out … out+R-1  (there B stands unscaled)
 *                             dx = [dy | dS]·[W ; A]       one product of depth out + R
 * dA += dSᵀ·(M⊙x);  dB += s·dyᵀ·S.  S and dS are bf16, sums fp32.  s·B is block-structured: rows of part p meet only its own columns.
 * With dropout the adapters' share of dx is M⊙(dS·A), formed in fp32 and added before the one rounding.
 * Rows between segments see the plain product.  Small row counts and adapter tables go to matvec.cu. */
#include "gpu/gpu.h"

struct pack_part {
	const float *a, *b;
	uint32_t r, col, row0, out; /* first ext column; rows of the part */
	float scale;
};

struct pack_args {
	struct pack_part part[QL_PARTS_MAX];
	uint32_t n_parts, in, out, R;
	bf16 *w;
	size_t ld;
};

/* fills columns in … in+R-1 of rows 0 … out-1 with s·B, rows out … out+R-1 with A */
__global__ void __launch_bounds__(256) pack_adapters(struct pack_args g)
{
	const uint64_t nb = (uint64_t)g.out * g.R, na = (uint64_t)g.R * g.in;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < nb + na; i += (uint64_t)gridDim.x * 256) {
		float v = 0;

		if (i < nb) {
			const uint32_t row = (uint32_t)(i / g.R), col = (uint32_t)(i % g.R);

#pragma unroll
			for (int p = 0; p < QL_PARTS_MAX; p++) {
				const struct pack_part &t = g.part[p];

				if (p < (int)g.n_parts && row - t.row0 < t.out && col - t.col < t.r)
					v = t.scale * t.b[(size_t)(row - t.row0) * t.r + (col - t.col)];
			}
			g.w[row * g.ld + g.in + col] = __float2bfloat16_rn(v);
		} else {
			const uint32_t row = (uint32_t)((i - nb) / g.in), c = (uint32_t)((i - nb) % g.in);

#pragma unroll
			for (int p = 0; p < QL_PARTS_MAX; p++) {
				const struct pack_part &t = g.part[p];

				if (p < (int)g.n_parts && row - t.col < t.r)
					v = t.a[(size_t)(row - t.col) * g.in + c];
			}
			g.w[(size_t)(g.out + row) * g.ld + c] = __float2bfloat16_rn(v);
		}
	}
}

struct mask_args {
	uint64_t seed, base; /* token ordinal of the first row */
	uint32_t step, site, threshold;
	float keep_scale;
};

__device__ __forceinline__ float mask_of(const struct mask_args &m, uint32_t word)
{
	return word >= m.threshold ? m.keep_scale : 0.f;
}

/* out = M ⊙ x (bf16), rows × in; one thread per 4 elements of the counter */
__global__ void __launch_bounds__(256) dropout_rows(const bf16 *x, size_t ldx, bf16 *out, size_t ldo, uint32_t rows, uint32_t in, struct mask_args m)
{
	const uint64_t first = m.base * in, n = (uint64_t)rows * in, q0 = first / 4, q1 = (first + n + 3) / 4;

	for (uint64_t c = q0 + blockIdx.x * 256ull + threadIdx.x; c < q1; c += (uint64_t)gridDim.x * 256) {
		uint32_t w[4];

		philox4((uint32_t)c, (uint32_t)(c >> 32), m.step, m.site, m.seed, w);
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint64_t el = c * 4 + j;

			if (el < first || el >= first + n)
				continue;
			const uint64_t row = (el - first) / in, col = (el - first) % in;

			out[row * ldo + col] = __float2bfloat16_rn(__bfloat162float(x[row * ldx + col]) * mask_of(m, w[j]));
		}
	}
}

/* z (= or +=) M ⊙ p, fp32 */
__global__ void __launch_bounds__(256) dropout_add(const float *p, float *z, bool first_part, uint32_t rows, uint32_t in, struct mask_args m)
{
	const uint64_t first = m.base * in, n = (uint64_t)rows * in, q0 = first / 4, q1 = (first + n + 3) / 4;

	for (uint64_t c = q0 + blockIdx.x * 256ull + threadIdx.x; c < q1; c += (uint64_t)gridDim.x * 256) {
		uint32_t w[4];

		philox4((uint32_t)c, (uint32_t)(c >> 32), m.step, m.site, m.seed, w);
#pragma unroll
		for (int j = 0; j < 4; j++) {
			const uint64_t el = c * 4 + j;

			if (el < first || el >= first + n)
				continue;
			const uint64_t i = el - first;
			const float v = p[i] * mask_of(m, w[j]);

			z[i] = first_part ? v : z[i] + v;
		}
	}
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

static unsigned grid_for(struct ql_device *d, uint64_t threads)
{
	const uint64_t want = (threads + 255) / 256, most = (uint64_t)cu_of(d)->sms * 16;

	return (unsigned)(want < 1 ? 1 : want < most ? want : most);
}

static uint32_t rank_of(const struct ql_lora_seg *s, uint32_t n_parts)
{
	uint32_t r = 0;

	for (uint32_t p = 0; p < n_parts; p++)
		r += s->part[p].r;
	return r;
}

static int check_segs(const struct ql_lora_seg *segs, uint32_t n, uint32_t rows, const struct ql_weight *w, size_t room, uint32_t *r_max,
		      struct ql_err *e)
{
	uint32_t end = 0;

	*r_max = 0;
	for (uint32_t i = 0; i < n; i++) {
		if (segs[i].row_begin < end || segs[i].row_end < segs[i].row_begin || segs[i].row_end > rows)
			return ql_err_set(e, QL_ESHAPE, "adapter segment %u: rows %u to %u", i, segs[i].row_begin, segs[i].row_end);
		if (!(segs[i].dropout >= 0.f && segs[i].dropout < 1.f))
			return ql_err_set(e, QL_EINVAL, "adapter segment %u: dropout out of range", i);
		end = segs[i].row_end;
		uint32_t r = rank_of(&segs[i], w->s.n_parts);
		*r_max = r > *r_max ? r : *r_max;
	}
	if (*r_max > room)
		return ql_err_set(e, QL_ESHAPE, "adapter columns: total rank %u, room for %zu", *r_max, room);
	return QL_OK;
}

/* The expanded weight and what else an op keeps in scratch. */
struct plan {
	const bf16 *w;
	bf16 *ext; /* the same, writable, when adapters are packed into it */
	size_t ld;
	uint8_t *extra;
};

/* ext: total rank to make room for; need_w: the base matrix itself is wanted; extra: bytes beside it. */
static int prepare(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, uint32_t ext, bool need_w, size_t extra, struct plan *p,
		   struct ql_err *e)
{
	uint8_t *s;

	memset(p, 0, sizeof *p);
	if (w->resident && ext <= w->resident_ext) {
		p->w = p->ext = w->resident;
		p->ld = w->resident_ld;
		if (extra)
			QL_TRY(cu_scratch(d, q, extra, (void **)&p->extra, e));
		return QL_OK;
	}
	if (w->dtype == QL_BF16 && ext == 0) {
		p->w = (const bf16 *)w->dense;
		p->ld = w->in;
		if (extra)
			QL_TRY(cu_scratch(d, q, extra, (void **)&p->extra, e));
		return QL_OK;
	}
	/* rows as long as those of a resident copy: the same product, the same bits */
	const uint32_t cols = w->dtype != QL_BF16 && ext <= 64 * w->s.n_parts ? 64 * w->s.n_parts : ext;
	p->ld = ((size_t)w->in + cols + 63) & ~(size_t)63;
	const size_t bytes = cu_align(((size_t)w->out + ext) * p->ld * 2);
	QL_TRY(cu_scratch(d, q, bytes + extra, (void **)&s, e));
	p->w = p->ext = (bf16 *)s;
	p->extra = s + bytes;
	return need_w ? cu_weight_expand(d, q, w, p->ext, p->ld, e) : QL_OK;
}

int cu_weight_view(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, size_t extra, const bf16 **ptr, size_t *ld, uint8_t **extra_ptr,
		   struct ql_err *e)
{
	struct plan p;

	QL_TRY(prepare(d, q, w, 0, true, extra, &p, e));
	*ptr = p.w;
	*ld = p.ld;
	*extra_ptr = p.extra;
	return QL_OK;
}

/* scaled: s·B into the columns (forward), else B alone (gradient: dS = s·(dy·B), one rounding less) */
static int pack(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const struct ql_lora_seg *s, const struct plan *p, bool scaled,
		uint32_t *R, struct ql_err *e)
{
	struct pack_args g;
	uint32_t row = 0, col = 0;

	memset(&g, 0, sizeof g);
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		struct pack_part t = {s->part[i].a, s->part[i].b, s->part[i].r, col, row, w->s.out[i], scaled ? s->part[i].scale : 1.f};

		g.part[i] = t;
		row += t.out;
		col += t.r;
	}
	*R = col;
	if (col == 0)
		return QL_OK;
	g.n_parts = w->s.n_parts;
	g.in = w->in;
	g.out = w->out;
	g.R = col;
	g.w = p->ext;
	g.ld = p->ld;
	pack_adapters<<<grid_for(d, (uint64_t)col * (w->in + w->out)), 256, 0, q->s>>>(g);
	CU_LAUNCHED();
	return QL_OK;
}

static struct mask_args mask_for(const struct ql_lora_seg *s, uint32_t part)
{
	struct mask_args m = {s->seed, s->token_base, s->step, s->site[part], (uint32_t)((double)s->dropout * 4294967296.0), 1.f / (1.f - s->dropout)};

	return m;
}

/* S into x's ext columns for the rows of one segment; xd: bf16 scratch rows × in when dropping out */
static int make_s(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const struct ql_lora_seg *s, const struct ql_tensor *x,
		  const struct plan *p, uint32_t R, bf16 *xd, struct ql_err *e)
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
		dropout_rows<<<grid_for(d, (uint64_t)rows * w->in / 4 + 2), 256, 0, q->s>>>(xr, x->ld, xd, w->in, rows, w->in, mask_for(s, i));
		CU_LAUNCHED();
		QL_TRY(cu_gemm_nt(d, q, rows, r, w->in, 1.f, xd, w->in, a + col * p->ld, p->ld, 0.f, NULL, 0, xr + w->in + col, x->ld, QL_BF16, NULL, e));
		col += r;
	}
	return QL_OK;
}

/* rows row … row+n-1 of y, depth k (in, or in + R) */
static int product(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, const struct plan *p, uint32_t row, uint32_t n, uint64_t k,
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
	struct plan p;
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
	QL_TRY(check_segs(a->segs, a->n_segs, T, w, a->x.ld - a->x.cols, &ext, e));
	for (uint32_t i = 0; i < a->n_segs; i++)
		if (a->segs[i].dropout > 0.f && a->segs[i].row_end - a->segs[i].row_begin > drop)
			drop = a->segs[i].row_end - a->segs[i].row_begin;
	const size_t drop_bytes = cu_align(drop * w->in * 2), bias_bytes = a->bias ? cu_align((size_t)w->out * 2) : 0;
	QL_TRY(prepare(d, q, w, ext, a->y.data != NULL, drop_bytes + bias_bytes, &p, e));
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
		QL_TRY(pack(d, q, w, s, &p, true, &R, e));
		if (R)
			QL_TRY(make_s(d, q, w, s, &a->x, &p, R, xd, e));
		if (a->y.data)
			QL_TRY(product(d, q, a, &p, begin, s->row_end - begin, (uint64_t)w->in + R, bias16, e));
	}
	return QL_OK;
}

/* ---- gradient ---- */

struct grad_ctx {
	const struct ql_linear_grad *a;
	struct plan p;
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
			add_rows<<<grid_for(d, (uint64_t)l->r * w->in), 256, 0, q->s>>>(c->g + (size_t)col * w->in, (size_t)l->r * w->in, l->da);
			CU_LAUNCHED();
		} else if (l->r && l->da) {
			const bf16 *in = x;
			size_t ld = a->x.ld;

			if (s->dropout > 0.f) {
				dropout_rows<<<grid_for(d, (uint64_t)rows * w->in / 4 + 2), 256, 0, q->s>>>(x, a->x.ld, c->xd, w->in, rows, w->in,
													    mask_for(s, i));
				CU_LAUNCHED();
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
		dropout_add<<<grid_for(d, (uint64_t)n * w->in / 4 + 2), 256, 0, q->s>>>(c->pz, c->z, first, n, w->in, mask_for(s, i));
		CU_LAUNCHED();
		first = false;
		col += r;
	}
	QL_TRY(cu_gemm_nn(d, q, n, w->in, w->out, 1.f, dy, a->dy.ld, c->p.w, c->p.ld, 1.f, NULL, 0, c->z, w->in, QL_F32, e));
	round_rows<<<grid_for(d, (uint64_t)n * w->in), 256, 0, q->s>>>(c->z, dx, a->dx.ld, a->dx_accumulate, n, w->in);
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
		QL_TRY(check_segs(a->segs, a->n_segs, T, w, a->x.ld - a->x.cols, &ext_x, e));
	}
	QL_TRY(check_segs(a->segs, a->n_segs, T, w, a->dy.ld - a->dy.cols, &ext, e));
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
	QL_TRY(prepare(d, q, w, ext, a->dx.data != NULL, g_bytes + xd_bytes + 2 * z_bytes, &c.p, e));
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
		QL_TRY(pack(d, q, w, s, &c.p, false, &R, e));
		if (R)
			QL_TRY(grad_adapters(d, q, &c, s, R, e));
		if (a->dx.data)
			QL_TRY(grad_dx(d, q, &c, begin, s->row_end - begin, s, R, e));
	}
	return QL_OK;
}
