/* linear_ext.cu - the weight of a linear op, expanded with its adapters (linear.h), and dropout of its input. */
#include "gpu/linear.h"

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

/* out = M ⊙ x (bf16), rows × in; one thread per 4 elements of the counter */
__global__ void __launch_bounds__(256) dropout_rows(const bf16 *x, size_t ldx, bf16 *out, size_t ldo, uint32_t rows, uint32_t in, struct cu_mask m)
{
	cu_each_masked(m, rows, in, [&](uint64_t i, float scale) {
		const uint64_t row = i / in, col = i % in;

		out[row * ldo + col] = __float2bfloat16_rn(__bfloat162float(x[row * ldx + col]) * scale);
	});
}

static uint32_t rank_of(const struct ql_lora_seg *s, uint32_t n_parts)
{
	uint32_t r = 0;

	for (uint32_t p = 0; p < n_parts; p++)
		r += s->part[p].r;
	return r;
}

int cu_check_segs(const struct ql_lora_seg *segs, uint32_t n, uint32_t rows, const struct ql_weight *w, size_t room, uint32_t *r_max,
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

int cu_linear_prepare(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, uint32_t ext, bool need_w, size_t extra, struct cu_linear_plan *p,
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
	struct cu_linear_plan p;

	QL_TRY(cu_linear_prepare(d, q, w, 0, true, extra, &p, e));
	*ptr = p.w;
	*ld = p.ld;
	*extra_ptr = p.extra;
	return QL_OK;
}

int cu_linear_pack(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const struct ql_lora_seg *s, const struct cu_linear_plan *p, bool scaled,
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
	pack_adapters<<<cu_grid_for(d, (uint64_t)col * (w->in + w->out)), 256, 0, q->s>>>(g);
	CU_LAUNCHED();
	return QL_OK;
}

struct cu_mask cu_mask_for(const struct ql_lora_seg *s, uint32_t part)
{
	struct cu_mask m = {s->seed, s->token_base, s->step, s->site[part], (uint32_t)((double)s->dropout * 4294967296.0), 1.f / (1.f - s->dropout)};

	return m;
}

int cu_dropout_rows(struct ql_device *d, struct ql_queue *q, const bf16 *x, size_t ldx, bf16 *out, uint32_t rows, uint32_t in,
		    struct cu_mask m, struct ql_err *e)
{
	dropout_rows<<<cu_grid_for(d, (uint64_t)rows * in / 4 + 2), 256, 0, q->s>>>(x, ldx, out, in, rows, in, m);
	CU_LAUNCHED();
	return QL_OK;
}
