/* linear_grad.c - backward of linear.c; W is frozen, so only these products exist:
 *
 *   dS = s·dy·B            into dy's ext columns        (rows in blocks)
 *   dx = dy·W + M⊙(dS·A)   W unpacked and turned, QL_KC outputs at a time; without dropout the adapter is r more k's
 *   dA += dSᵀ·(M⊙x)        sums over the rows of the segment in blocks of QL_KC from its first row on, so that the
 *   dB += s·dyᵀ·S          order depends on the segment alone; made in scratch, then added once */
#include <string.h>

#include "core/device/cpu/cpu.h"

#define S_ROWS 48
#define COLS (QL_NB * QL_PW)

struct job {
	struct ql_cpu *c;
	const struct ql_linear_grad *a;
	size_t row_block, n_row_blocks, n_col_blocks;
	size_t dx_cols; /* of a dx item: fewer when there are few rows, for balance */
	size_t n_ab; /* dA and dB items of one segment */
	char *scratch;
	size_t per_worker;
};

static float *worker_of(const struct job *j, int worker) { return ql_cpu_worker(j->scratch, 0, j->per_worker, worker); }

/* ---- dS ---- */

/* rank columns [c0, c0 + n) of one module */
static void ds_block(const struct job *j, uint32_t part, const struct ql_lora *l, size_t r0, size_t r1, uint32_t c0,
		     uint32_t n, size_t col, float *b)
{
	const struct ql_linear_grad *a = j->a;
	const struct ql_kern *k = j->c->k;

	for (size_t k0 = 0; k0 < a->w->s.out[part]; k0 += QL_KC) {
		size_t kn = ql_min(QL_KC, a->w->s.out[part] - k0);

		for (uint32_t c = 0; c < n; c += QL_PW)
			k->pack(l->b + k0 * l->r + c0 + c, l->r, (uint32_t)ql_min(QL_PW, n - c), kn, l->scale,
				b + (size_t)c * QL_KC);
		k->gemm(r1 - r0, n, kn, ql_row(&a->dy, r0) + a->w->begin[part] + k0, a->dy.ld, 1, b,
			(size_t)QL_KC * QL_PW, QL_PW, ql_row(&a->dy, r0) + col, a->dy.ld, k0 > 0);
	}
}

static void ds_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_linear_grad *a = j->a;
	const struct ql_weight *w = a->w;
	float *b = worker_of(j, worker);
	size_t row0 = i * S_ROWS, row1 = ql_min(row0 + S_ROWS, a->dy.rows);

	for (uint32_t s = 0; s < a->n_segs; s++) {
		const struct ql_lora_seg *seg = &a->segs[s];
		size_t r0 = seg->row_begin > row0 ? seg->row_begin : row0, r1 = ql_min(seg->row_end, row1);
		size_t col = w->out;

		for (uint32_t p = 0; p < w->s.n_parts && r0 < r1; p++) {
			const struct ql_lora *l = &seg->part[p];

			for (uint32_t c0 = 0; c0 < l->r; c0 += COLS)
				ds_block(j, p, l, r0, r1, c0, (uint32_t)ql_min(COLS, l->r - c0), col + c0, b);
			col += l->r;
		}
	}
}

/* ---- dx ---- */

/* panels of W's columns [c0, c0 + n): b[panel][k][16] with k = outputs [k0, k0 + kn) of part p */
static void turn(const struct job *j, uint32_t part, size_t k0, size_t kn, size_t c0, size_t n, float *b, float *tmp)
{
	const struct ql_weight *w = j->a->w;
	const struct ql_kern *k = j->c->k;

	for (size_t o = 0; o < kn; o += QL_PW) {
		const float *src = ql_cpu_panel(k, w, w->panel[part] + (uint32_t)((k0 + o) / QL_PW), c0, n, tmp);

		for (size_t c = 0; c < n; c += QL_PW)
			k->pack_t(src + c * QL_PW, QL_PW, (uint32_t)ql_min(QL_PW, n - c), ql_min(QL_PW, kn - o), 1.0f,
				  b + c * QL_KC + o * QL_PW);
	}
}

static void dx_adapter(const struct job *j, const struct ql_lora_seg *seg, size_t r0, size_t r1, size_t c0, size_t n,
		       float *b, float *tile)
{
	const struct ql_linear_grad *a = j->a;
	const struct ql_kern *k = j->c->k;

	for (uint32_t p = 0; p < a->w->s.n_parts; p++) {
		const struct ql_lora *l = &seg->part[p];
		const float *ds = ql_row(&a->dy, r0) + a->w->out + ql_cpu_lora_column(seg, p);

		if (l->r == 0)
			continue;
		for (size_t c = 0; c < n; c += QL_PW)
			k->pack(l->a + c0 + c, a->w->s.in, (uint32_t)ql_min(QL_PW, n - c), l->r, 1.0f, b + c * QL_KC);
		if (!(seg->dropout > 0.0f)) {
			k->gemm(r1 - r0, n, l->r, ds, a->dy.ld, 1, b, (size_t)QL_KC * QL_PW, QL_PW,
				ql_row(&a->dx, r0) + c0, a->dx.ld, true);
			continue;
		}
		for (size_t r = r0; r < r1; r += 12) { /* a few rows at a time: product, mask, add */
			size_t m = ql_min(12, r1 - r);

			k->gemm(m, n, l->r, ds + (r - r0) * a->dy.ld, a->dy.ld, 1, b, (size_t)QL_KC * QL_PW, QL_PW, tile, n,
				false);
			for (size_t i = 0; i < m; i++) {
				ql_cpu_dropout_row(k, seg, p, a->w->s.in, r + i, c0, n, tile + i * n, tile + i * n);
				k->axpy(1.0f, tile + i * n, ql_row(&a->dx, r + i) + c0, n);
			}
		}
	}
}

static void dx_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_linear_grad *a = j->a;
	const struct ql_weight *w = a->w;
	float *b = worker_of(j, worker), *tmp = b + QL_KC * COLS;
	size_t row0 = i % j->n_row_blocks * j->row_block, row1 = ql_min(row0 + j->row_block, a->dy.rows);
	size_t c0 = i / j->n_row_blocks * j->dx_cols, n = ql_min(j->dx_cols, w->s.in - c0);
	bool add = a->dx_accumulate;

	for (uint32_t p = 0; p < w->s.n_parts; p++)
		for (size_t k0 = 0; k0 < w->s.out[p]; k0 += QL_KC) {
			size_t kn = ql_min(QL_KC, w->s.out[p] - k0);

			turn(j, p, k0, kn, c0, n, b, tmp);
			j->c->k->gemm(row1 - row0, n, kn, ql_row(&a->dy, row0) + w->begin[p] + k0, a->dy.ld, 1, b,
				      (size_t)QL_KC * QL_PW, QL_PW, ql_row(&a->dx, row0) + c0, a->dx.ld, add);
			add = true;
		}
	for (uint32_t s = 0; s < a->n_segs; s++) {
		const struct ql_lora_seg *seg = &a->segs[s];
		size_t r0 = seg->row_begin > row0 ? seg->row_begin : row0, r1 = ql_min(seg->row_end, row1);

		if (r0 < r1)
			dx_adapter(j, seg, r0, r1, c0, n, b, tmp);
	}
}

/* ---- dA, dB ---- */

/* out[r][n] (ld COLS) = leftᵀ·right over rows [row0, row1): left has r columns, right n; both with a row stride.
 * mask: right is M⊙x instead of x. */
static void outer(const struct job *j, const struct ql_lora_seg *seg, uint32_t part, struct ql_tensor left, size_t lcol,
		  struct ql_tensor right, size_t rcol, size_t n, uint32_t r, bool mask, float *b, float *masked, float *out)
{
	const struct ql_kern *k = j->c->k;

	for (size_t row = seg->row_begin; row < seg->row_end; row += QL_KC) {
		size_t kn = ql_min(QL_KC, seg->row_end - row), ld = right.ld;
		const float *src = ql_row(&right, row) + rcol;

		if (mask) {
			ql_cpu_dropout(k, seg, part, j->a->w->s.in, right, row, kn, rcol, n, masked);
			src = masked;
			ld = n;
		}
		for (size_t c = 0; c < n; c += QL_PW)
			k->pack(src + c, ld, (uint32_t)ql_min(QL_PW, n - c), kn, 1.0f, b + c * QL_KC);
		k->gemm(r, n, kn, ql_row(&left, row) + lcol, 1, left.ld, b, (size_t)QL_KC * QL_PW, QL_PW, out, COLS,
			row > seg->row_begin);
	}
}

static void da_item(const struct job *j, const struct ql_lora_seg *seg, uint32_t p, size_t block, float *b)
{
	const struct ql_linear_grad *a = j->a;
	const struct ql_lora *l = &seg->part[p];
	size_t c0 = block * COLS, n = ql_min(COLS, a->w->s.in - c0);
	float *out = b + QL_KC * COLS, *masked = out + QL_KC * COLS;

	outer(j, seg, p, a->dy, a->w->out + ql_cpu_lora_column(seg, p), a->x, c0, n, l->r, seg->dropout > 0.0f, b, masked,
	      out);
	for (size_t r = 0; r < l->r; r++)
		for (size_t c = 0; c < n; c++)
			l->da[r * a->w->s.in + c0 + c] += out[r * COLS + c];
}

static void db_item(const struct job *j, const struct ql_lora_seg *seg, uint32_t p, size_t block, float *b)
{
	const struct ql_linear_grad *a = j->a;
	const struct ql_lora *l = &seg->part[p];
	size_t c0 = block * COLS, n = ql_min(COLS, a->w->s.out[p] - c0);
	float *out = b + QL_KC * COLS;

	outer(j, seg, p, a->x, a->w->s.in + ql_cpu_lora_column(seg, p), a->dy, a->w->begin[p] + c0, n, l->r, false, b, NULL,
	      out);
	for (size_t c = 0; c < n; c++)
		for (size_t r = 0; r < l->r; r++)
			l->db[(c0 + c) * l->r + r] += l->scale * out[r * COLS + c];
}

/* Items of a segment: for each part the blocks of dA, then those of dB. */
static void ab_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_weight *w = j->a->w;
	const struct ql_lora_seg *seg = &j->a->segs[i / j->n_ab];
	size_t at = i % j->n_ab;
	float *b = worker_of(j, worker);

	for (uint32_t p = 0; p < w->s.n_parts; p++) {
		size_t n_b = ql_ceil_div(w->s.out[p], COLS);

		if (at < j->n_col_blocks + n_b) {
			if (seg->part[p].r == 0 || seg->row_begin == seg->row_end)
				return;
			if (at < j->n_col_blocks)
				da_item(j, seg, p, at, b);
			else
				db_item(j, seg, p, at - j->n_col_blocks, b);
			return;
		}
		at -= j->n_col_blocks + n_b;
	}
}

static int check(const struct ql_linear_grad *a, struct ql_err *e)
{
	uint32_t rows = a->dy.rows, r_max;
	int rc = ql_cpu_check(&a->dy, "linear_grad", "dy", rows, a->w->out, e);

	if (rc == QL_OK)
		rc = ql_cpu_check_segs(a->segs, a->n_segs, a->w, rows, true, "linear_grad", &r_max, e);
	if (rc == QL_OK && a->n_segs > 0)
		rc = ql_cpu_check(&a->x, "linear_grad", "x", rows, a->w->s.in, e);
	if (rc == QL_OK && a->dx.data != NULL)
		rc = ql_cpu_check(&a->dx, "linear_grad", "dx", rows, a->w->s.in, e);
	if (rc != QL_OK)
		return rc;
	if (a->n_segs > 0 && (a->dy.ld < (size_t)a->w->out + r_max || a->x.ld < (size_t)a->w->s.in + r_max))
		return ql_err_set(e, QL_ESHAPE, "linear_grad: ld of dy (%zu) or x (%zu) leaves no room for %u adapter columns",
				  a->dy.ld, a->x.ld, r_max);
	return QL_OK;
}

int ql_cpu_linear_grad(struct ql_device *d, struct ql_queue *q, const struct ql_linear_grad *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .a = a};
	const struct ql_weight *w = a->w;
	void *scratch;
	int rc = check(a, e);

	(void)q;
	if (rc != QL_OK || a->dy.rows == 0)
		return rc;
	/* panels, result of dA or dB (r ≤ 256 = QL_KC), masked x */
	j.per_worker = (size_t)3 * QL_KC * COLS * sizeof(float);
	rc = ql_cpu_scratch(j.c, 0, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	j.row_block = ql_cpu_row_block(a->dy.rows);
	j.n_row_blocks = ql_ceil_div(a->dy.rows, j.row_block);
	j.n_col_blocks = ql_ceil_div(w->s.in, COLS);
	j.dx_cols = j.n_row_blocks == 1 ? COLS / 2 : COLS;
	for (uint32_t p = 0; p < w->s.n_parts; p++)
		j.n_ab += j.n_col_blocks + ql_ceil_div(w->s.out[p], COLS);
	if (a->n_segs > 0)
		ql_pool_run(j.c->pool, ql_ceil_div(a->dy.rows, S_ROWS), ds_item, &j);
	if (a->n_segs > 0) /* before dx, which may lie on x */
		ql_pool_run(j.c->pool, j.n_ab * a->n_segs, ab_item, &j);
	if (a->dx.data != NULL)
		ql_pool_run(j.c->pool, j.n_row_blocks * ql_ceil_div(w->s.in, j.dx_cols), dx_item, &j);
	return QL_OK;
}
