/* linear.c - y = x·Wᵀ + bias + residual + s·S·Bᵀ with S = (M⊙x)·Aᵀ, forward.
 *
 * Items are (block of panels of W) × (block of rows).
 *  - More than 4 rows: a block of W is unpacked to f32 panels in the worker's scratch, QL_KC k's at a time, and multiplied
 *    with the rows where they lie.  The adapter is r more k's: S from x's ext columns against scaled B.
 *  - Up to 4 rows: the product reads W's own form (gemv_*), so W is read once from memory and never written.
 * With a table each row has its own adapter: S first (one short parallel loop, or by the caller when it is tiny), then
 * s·B·S is added as the item writes its rows.  Order of sums: base product, then adapter; bias and residual first where
 * rows > 4 and last otherwise. */
#include <string.h>

#include "core/device/cpu/cpu.h"

struct job {
	struct ql_cpu *c;
	const struct ql_linear *a;
	size_t rows, row_block, n_row_blocks;
	uint32_t panels;		      /* per item */
	uint32_t first[QL_PARTS_MAX + 1];     /* block number where each part begins */
	float *s;			      /* table: [rows][n_parts][r_max] */
	char *scratch;
	size_t shared, per_worker;
};

static const struct ql_lora_packed *adapter(const struct ql_linear *a, size_t row, uint32_t part)
{
	int32_t slot = a->row_slot[row];
	const struct ql_lora_packed *l;

	if (slot < 0)
		return NULL;
	l = &a->table->at[(size_t)slot * a->table->n_sites + a->site0 + part];
	return l->r > 0 ? l : NULL;
}

static float *s_of(const struct job *j, size_t row, uint32_t part)
{
	return j->s + (row * j->a->w->s.n_parts + part) * j->a->table->r_max;
}

static void table_s(void *ctx, size_t row, int worker)
{
	const struct job *j = ctx;

	(void)worker;
	for (uint32_t p = 0; p < j->a->w->s.n_parts; p++) {
		const struct ql_lora_packed *l = adapter(j->a, row, p);
		float t[QL_PW], *s;

		if (l == NULL)
			continue;
		s = s_of(j, row, p);
		for (uint32_t r = 0; r < l->r; r += QL_PW) {
			j->c->k->gemv_f32(1, l->a + (size_t)r * l->in, l->in, ql_row(&j->a->x, row), 0, t);
			memcpy(s + r, t, ql_min(QL_PW, l->r - r) * sizeof *t);
		}
	}
}

/* t[16] += B·S for outputs of one panel of part p */
static void table_add(const struct job *j, size_t row, uint32_t part, uint32_t panel, float *y, uint32_t cols)
{
	const struct ql_lora_packed *l = adapter(j->a, row, part);
	float t[QL_PW];

	if (l == NULL)
		return;
	j->c->k->gemv_f32(1, l->b + (size_t)(panel - j->a->w->panel[part]) * QL_PW * l->r, l->r, s_of(j, row, part), 0, t);
	for (uint32_t i = 0; i < cols; i++)
		y[i] += t[i];
}

static void gemv(const struct ql_kern *k, const struct ql_weight *w, uint32_t part, uint32_t panel, uint32_t rows,
		 const float *x, size_t ldx, float *y)
{
	const void *p = (const char *)w->data + panel * w->panel_bytes;
	const float *scale = w->scale == NULL ? NULL : w->scale + panel * w->panel_scales;

	switch (w->store) {
	case QL_F32:
		k->gemv_f32(rows, p, w->s.in, x, ldx, y);
		break;
	case QL_F16:
		k->gemv_f16(rows, p, w->s.in, x, ldx, y);
		break;
	case QL_BF16:
		k->gemv_bf16(rows, p, w->s.in, x, ldx, y);
		break;
	case QL_Q8_0:
		k->gemv_q8(rows, p, scale, w->s.in, x, ldx, y);
		break;
	default:
		k->gemv_q4(rows, p, scale, w->group, w->level[part], w->s.in, x, ldx, y);
		break;
	}
}

static uint32_t panel_cols(const struct ql_weight *w, uint32_t part, uint32_t panel)
{
	uint32_t left = w->s.out[part] - (panel - w->panel[part]) * QL_PW;

	return left < QL_PW ? left : QL_PW;
}

static void small_panel(const struct job *j, uint32_t part, uint32_t panel)
{
	const struct ql_linear *a = j->a;
	uint32_t cols = panel_cols(a->w, part, panel), n0 = a->w->begin[part] + (panel - a->w->panel[part]) * QL_PW;
	float t[QL_GEMV_ROWS][QL_PW];

	gemv(j->c->k, a->w, part, panel, (uint32_t)j->rows, a->x.data, a->x.ld, t[0]);
	for (size_t r = 0; r < j->rows; r++) {
		float *y = ql_row(&a->y, r) + n0;

		if (a->table != NULL)
			table_add(j, r, part, panel, t[r], cols);
		if (a->bias != NULL)
			for (uint32_t i = 0; i < cols; i++)
				t[r][i] += a->bias[n0 + i];
		if (a->residual != NULL)
			for (uint32_t i = 0; i < cols; i++)
				t[r][i] += ((const float *)a->residual)[r * a->ld_residual + n0 + i];
		memcpy(y, t[r], cols * sizeof *y);
	}
}

/* bias and residual into the tile before the product is added; false when there is neither */
static bool start_tile(const struct ql_linear *a, size_t row0, size_t row1, size_t n0, size_t n)
{
	if (a->bias == NULL && a->residual == NULL)
		return false;
	for (size_t r = row0; r < row1; r++) {
		float *y = ql_row(&a->y, r) + n0;
		const float *res = a->residual == NULL ? NULL : (const float *)a->residual + r * a->ld_residual + n0;

		for (size_t i = 0; i < n; i++)
			y[i] = (res == NULL ? 0.0f : res[i]) + (a->bias == NULL ? 0.0f : a->bias[n0 + i]);
	}
	return true;
}

static void seg_tile(const struct job *j, uint32_t part, size_t row0, size_t row1, size_t p0, size_t n, float *b)
{
	const struct ql_linear *a = j->a;

	for (uint32_t i = 0; i < a->n_segs; i++) {
		const struct ql_lora_seg *seg = &a->segs[i];
		const struct ql_lora *l = &seg->part[part];
		size_t r0 = seg->row_begin > row0 ? seg->row_begin : row0, r1 = ql_min(seg->row_end, row1);

		if (l->r == 0 || r0 >= r1)
			continue;
		for (size_t c = 0; c < n; c += QL_PW)
			j->c->k->pack_t(l->b + (p0 + c) * l->r, l->r, (uint32_t)ql_min(QL_PW, n - c), l->r, l->scale,
					b + c * l->r);
		j->c->k->gemm(r1 - r0, n, l->r, ql_row(&a->x, r0) + a->w->s.in + ql_cpu_lora_column(seg, part), a->x.ld,
			      1, b, (size_t)QL_PW * l->r, QL_PW, ql_row(&a->y, r0) + a->w->begin[part] + p0, a->y.ld, true);
	}
}

static void large_tile(const struct job *j, uint32_t part, uint32_t panel0, uint32_t panel1, size_t row0, size_t row1,
		       float *b)
{
	const struct ql_linear *a = j->a;
	const struct ql_weight *w = a->w;
	size_t p0 = (size_t)(panel0 - w->panel[part]) * QL_PW, n = ql_min((size_t)(panel1 - panel0) * QL_PW, w->s.out[part] - p0);
	size_t n0 = w->begin[part] + p0;
	bool started = start_tile(a, row0, row1, n0, n);

	for (size_t k0 = 0; k0 < w->s.in; k0 += QL_KC) {
		size_t kn = ql_min(QL_KC, w->s.in - k0), stride = (size_t)QL_KC * QL_PW;
		const float *panels = b;

		if (w->store == QL_F32) {
			panels = ql_cpu_panel(j->c->k, w, panel0, k0, kn, NULL);
			stride = w->panel_bytes / sizeof(float);
		} else {
			for (uint32_t i = panel0; i < panel1; i++)
				(void)ql_cpu_panel(j->c->k, w, i, k0, kn, b + (i - panel0) * stride);
		}
		j->c->k->gemm(row1 - row0, n, kn, ql_row(&a->x, row0) + k0, a->x.ld, 1, panels, stride, QL_PW,
			      ql_row(&a->y, row0) + n0, a->y.ld, started || k0 > 0);
	}
	if (a->n_segs > 0)
		seg_tile(j, part, row0, row1, p0, n, b);
	if (a->table != NULL)
		for (size_t r = row0; r < row1; r++)
			for (uint32_t i = panel0; i < panel1; i++)
				table_add(j, r, part, i, ql_row(&a->y, r) + n0 + (size_t)(i - panel0) * QL_PW,
					  panel_cols(w, part, i));
}

static void item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_weight *w = j->a->w;
	uint32_t block = (uint32_t)(i / j->n_row_blocks), part = 0, panel0, panel1;
	size_t row0 = i % j->n_row_blocks * j->row_block, row1 = ql_min(row0 + j->row_block, j->rows);

	while (block >= j->first[part + 1])
		part++;
	panel0 = w->panel[part] + (block - j->first[part]) * j->panels;
	panel1 = (uint32_t)ql_min(panel0 + j->panels, w->panel[part + 1]);
	if (j->rows <= QL_GEMV_ROWS && j->a->n_segs == 0) {
		for (uint32_t p = panel0; p < panel1; p++)
			small_panel(j, part, p);
		return;
	}
	large_tile(j, part, panel0, panel1, row0, row1, ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker));
}

static int check_table(const struct ql_linear *a, struct ql_err *e)
{
	if (a->n_segs > 0 || a->row_slot == NULL || a->site0 > a->table->n_sites ||
	    a->w->s.n_parts > a->table->n_sites - a->site0)
		return ql_err_set(e, QL_EINVAL, "linear: table with segments, without slots, or site %u beyond %u", a->site0,
				  a->table->n_sites);
	for (size_t t = 0; t < a->x.rows; t++) {
		if (a->row_slot[t] >= (int32_t)a->table->n_slots || a->row_slot[t] < -1)
			return ql_err_set(e, QL_EINVAL, "linear: row %zu uses slot %d of %u", t, a->row_slot[t],
					  a->table->n_slots);
		for (uint32_t p = 0; p < a->w->s.n_parts; p++) {
			const struct ql_lora_packed *l = adapter(a, t, p);

			if (l != NULL && (l->in != a->w->s.in || l->out != a->w->s.out[p]))
				return ql_err_set(e, QL_ESHAPE, "linear: adapter of slot %d is [%u, %u]", a->row_slot[t],
						  l->out, l->in);
		}
	}
	return QL_OK;
}

static int check(const struct ql_linear *a, struct ql_err *e)
{
	uint32_t r_max;
	int rc = ql_cpu_check(&a->x, "linear", "x", a->x.rows, a->w->s.in, e);

	if (rc == QL_OK && a->y.data != NULL)
		rc = ql_cpu_check(&a->y, "linear", "y", a->x.rows, a->w->out, e);
	if (rc == QL_OK)
		rc = ql_cpu_check_segs(a->segs, a->n_segs, a->w, a->x.rows, false, "linear", &r_max, e);
	if (rc != QL_OK)
		return rc;
	if (a->n_segs > 0 && a->x.ld < (size_t)a->w->s.in + r_max)
		return ql_err_param(e, QL_ESHAPE, "x", "linear: ld %zu leaves no room for %u adapter columns", a->x.ld, r_max);
	if (a->y.data == NULL && a->n_segs == 0)
		return ql_err_param(e, QL_EINVAL, "y", "linear: no output and no adapters");
	if (a->residual != NULL && a->ld_residual < a->w->out)
		return ql_err_param(e, QL_ESHAPE, "residual", "linear: ld %zu of %u columns", a->ld_residual, a->w->out);
	return a->table == NULL ? QL_OK : check_table(a, e);
}

/* Panels in one item; a tile's scratch holds QL_NB of them, the matrix-vector path needs none. */
static uint32_t panels_per_item(const struct ql_weight *w, size_t rows, bool gemv)
{
	uint32_t n = w->panel[w->s.n_parts] / 32;

	if (gemv)
		return n < 1 ? 1 : n > 8 ? 8 : n;
	return rows <= QL_MB ? 2 : QL_NB; /* few rows: more, smaller items, for balance */
}

int ql_cpu_linear(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .a = a, .rows = a->x.rows};
	const struct ql_weight *w = a->w;
	void *scratch;
	int rc = check(a, e);

	(void)q;
	if (rc != QL_OK || j.rows == 0)
		return rc;
	if (a->n_segs > 0) {
		rc = ql_cpu_lora_s(j.c, w, a->x, a->segs, a->n_segs, e);
		if (rc != QL_OK || a->y.data == NULL)
			return rc;
	}
	j.row_block = ql_cpu_row_block(j.rows);
	j.n_row_blocks = ql_ceil_div(j.rows, j.row_block);
	j.panels = panels_per_item(w, j.rows, j.rows <= QL_GEMV_ROWS && a->n_segs == 0);
	for (uint32_t p = 0; p < w->s.n_parts; p++)
		j.first[p + 1] = j.first[p] + (uint32_t)ql_ceil_div(w->panel[p + 1] - w->panel[p], j.panels);
	j.shared = a->table == NULL ? 0 : j.rows * w->s.n_parts * a->table->r_max * sizeof(float);
	j.per_worker = (size_t)QL_NB * QL_KC * QL_PW * sizeof(float); /* ranks ≤ 256 = QL_KC fit as well */
	rc = ql_cpu_scratch(j.c, j.shared, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	j.s = scratch;
	if (a->table != NULL)
		ql_pool_run(j.rows < 4 ? NULL : j.c->pool, j.rows, table_s, &j);
	ql_pool_run(j.c->pool, j.first[w->s.n_parts] * j.n_row_blocks, item, &j);
	return QL_OK;
}
