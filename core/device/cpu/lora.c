/* lora.c - adapters: their matrices as panels, the S = (M⊙x)·Aᵀ columns, dropout masks, and the table for decoding.
 *
 * Each S element sums over `in` in blocks of QL_KC.  Dropout: device.h, struct ql_lora_seg; kept values are multiplied by
 * (float)(1/(1 - p)), the threshold is ⌊p·2³²⌋ with p the float given, both computed in fp64. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/device/cpu/cpu.h"

#define S_ROWS 48 /* rows an item takes */

size_t ql_cpu_lora_a_floats(uint32_t r, uint32_t in) { return ql_ceil_div(r, QL_PW) * QL_PW * in; }

void ql_cpu_lora_pack_a(const struct ql_kern *k, const float *a, uint32_t r, uint32_t in, float *dst)
{
	for (uint32_t j = 0; j < r; j += QL_PW)
		k->pack_t(a + (size_t)j * in, in, r - j < QL_PW ? r - j : QL_PW, in, 1.0f, dst + (size_t)j * in);
}

uint32_t ql_cpu_lora_column(const struct ql_lora_seg *seg, uint32_t part)
{
	uint32_t at = 0;

	for (uint32_t p = 0; p < part; p++)
		at += seg->part[p].r;
	return at;
}

void ql_cpu_dropout_row(const struct ql_kern *k, const struct ql_lora_seg *seg, uint32_t part, uint32_t in, size_t row,
			size_t k0, size_t n, const float *src, float *dst)
{
	uint32_t threshold = (uint32_t)((double)seg->dropout * 0x1p32);
	float inv = (float)(1.0 / (1.0 - (double)seg->dropout));

	k->dropout(src, dst, n, (seg->token_base + (row - seg->row_begin)) * in + k0, seg->seed, seg->step,
		   seg->site[part], threshold, inv);
}

void ql_cpu_dropout(const struct ql_kern *k, const struct ql_lora_seg *seg, uint32_t part, uint32_t in,
		    struct ql_tensor x, size_t row, size_t rows, size_t k0, size_t n, float *dst)
{
	for (size_t i = 0; i < rows; i++)
		ql_cpu_dropout_row(k, seg, part, in, row + i, k0, n, ql_row(&x, row + i) + k0, dst + i * n);
}

struct s_job {
	struct ql_cpu *c;
	const struct ql_weight *w;
	struct ql_tensor x;
	const struct ql_lora_seg *segs;
	uint32_t n_segs;
	char *scratch;
	size_t shared, per_worker;
};

/* panels of A lie in the shared scratch in the order (segment, part) */
static void s_rows(const struct s_job *j, const struct ql_lora_seg *seg, const float *packed, size_t row0, size_t row1,
		   float *masked)
{
	const struct ql_kern *k = j->c->k;
	uint32_t in = j->w->s.in, col = in;

	for (uint32_t p = 0; p < j->w->s.n_parts; p++) {
		const struct ql_lora *l = &seg->part[p];

		if (l->r == 0)
			continue;
		for (size_t k0 = 0; k0 < in; k0 += QL_KC) {
			size_t n = ql_min(QL_KC, in - k0);
			const float *x = ql_row(&j->x, row0) + k0;
			size_t ld = j->x.ld;

			if (seg->dropout > 0.0f) {
				ql_cpu_dropout(k, seg, p, in, j->x, row0, row1 - row0, k0, n, masked);
				x = masked;
				ld = n;
			}
			k->gemm(row1 - row0, l->r, n, x, ld, 1, packed + k0 * QL_PW, (size_t)in * QL_PW, QL_PW,
				ql_row(&j->x, row0) + col, j->x.ld, k0 > 0);
		}
		packed += ql_cpu_lora_a_floats(l->r, in);
		col += l->r;
	}
}

static void s_item(void *ctx, size_t item, int worker)
{
	const struct s_job *j = ctx;
	size_t row0 = item * S_ROWS, row1 = ql_min(row0 + S_ROWS, j->x.rows);
	float *masked = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker);
	const float *packed = (const float *)(const void *)j->scratch;

	for (uint32_t i = 0; i < j->n_segs; i++) {
		const struct ql_lora_seg *seg = &j->segs[i];
		size_t b = seg->row_begin > row0 ? seg->row_begin : row0, end = ql_min(seg->row_end, row1);

		if (b < end)
			s_rows(j, seg, packed, b, end, masked);
		for (uint32_t p = 0; p < j->w->s.n_parts; p++)
			packed += ql_cpu_lora_a_floats(seg->part[p].r, j->w->s.in);
	}
}

int ql_cpu_lora_s(struct ql_cpu *c, const struct ql_weight *w, struct ql_tensor x, const struct ql_lora_seg *segs,
		  uint32_t n_segs, struct ql_err *e)
{
	struct s_job j = {c, w, x, segs, n_segs, NULL, 0, 0};
	bool drop = false;
	float *at;
	void *scratch;
	int rc;

	for (uint32_t i = 0; i < n_segs; i++) {
		drop |= segs[i].dropout > 0.0f;
		for (uint32_t p = 0; p < w->s.n_parts; p++)
			j.shared += ql_cpu_lora_a_floats(segs[i].part[p].r, w->s.in) * sizeof(float);
	}
	if (j.shared == 0)
		return QL_OK;
	j.per_worker = drop ? (size_t)S_ROWS * QL_KC * sizeof(float) : 0;
	rc = ql_cpu_scratch(c, j.shared, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	at = scratch;
	for (uint32_t i = 0; i < n_segs; i++)
		for (uint32_t p = 0; p < w->s.n_parts; p++) {
			const struct ql_lora *l = &segs[i].part[p];

			ql_cpu_lora_pack_a(c->k, l->a, l->r, w->s.in, at);
			at += ql_cpu_lora_a_floats(l->r, w->s.in);
		}
	ql_pool_run(c->pool, ql_ceil_div(x.rows, S_ROWS), s_item, &j);
	return QL_OK;
}

/* ---- the table ---- */

int ql_cpu_table_new(struct ql_device *d, uint32_t n_slots, uint32_t n_sites, struct ql_lora_table **out,
		     struct ql_err *e)
{
	struct ql_lora_table *t;
	size_t n;

	(void)d;
	*out = NULL;
	if (n_slots == 0 || n_sites == 0 || !ql_mul_size(n_slots, n_sites, &n))
		return ql_err_set(e, QL_EINVAL, "table_new: %u slots, %u sites", n_slots, n_sites);
	t = calloc(1, sizeof *t);
	if (t == NULL)
		return ql_err_set(e, QL_ENOMEM, "table_new");
	t->at = calloc(n, sizeof *t->at);
	if (t->at == NULL) {
		free(t);
		return ql_err_set(e, QL_ENOMEM, "table_new");
	}
	t->n_slots = n_slots;
	t->n_sites = n_sites;
	*out = t;
	return QL_OK;
}

int ql_cpu_table_set(struct ql_device *d, struct ql_queue *q, struct ql_lora_table *t, uint32_t slot, uint32_t site,
		     uint32_t in, uint32_t out, const struct ql_lora *lora, struct ql_err *e)
{
	const struct ql_kern *k = ql_cpu_of(d)->k;
	struct ql_lora_packed *at, fresh = {0};
	size_t a_floats, b_floats;
	void *p;
	int rc;

	(void)q;
	if (slot >= t->n_slots || site >= t->n_sites)
		return ql_err_set(e, QL_EINVAL, "table_set: slot %u, site %u of %u, %u", slot, site, t->n_slots, t->n_sites);
	at = &t->at[(size_t)slot * t->n_sites + site];
	if (lora != NULL && lora->r > 0) {
		if (lora->r > QL_LORA_RANK_MAX || in == 0 || out == 0 || in > QL_DIM_MAX || out > QL_VOCAB_MAX)
			return ql_err_set(e, QL_ELIMIT, "table_set: rank %u, [%u, %u]", lora->r, out, in);
		if (lora->a == NULL || lora->b == NULL)
			return ql_err_set(e, QL_EINVAL, "table_set: missing matrix");
		a_floats = ql_cpu_lora_a_floats(lora->r, in);
		b_floats = ql_ceil_div(out, QL_PW) * QL_PW * lora->r;
		rc = ql_cpu_alloc(d, QL_MEM_ADAPTER, (a_floats + b_floats) * sizeof(float), &p, e);
		if (rc != QL_OK)
			return rc;
		fresh = (struct ql_lora_packed){p, (float *)p + a_floats, lora->r, in, out};
		ql_cpu_lora_pack_a(k, lora->a, lora->r, in, fresh.a);
		for (uint32_t n = 0; n < out; n += QL_PW)
			k->pack_t(lora->b + (size_t)n * lora->r, lora->r, out - n < QL_PW ? out - n : QL_PW, lora->r,
				  lora->scale, fresh.b + (size_t)n * lora->r);
		t->r_max = lora->r > t->r_max ? lora->r : t->r_max;
	}
	ql_cpu_free(d, at->a);
	*at = fresh;
	return QL_OK;
}

void ql_cpu_table_free(struct ql_device *d, struct ql_lora_table *t)
{
	if (t == NULL)
		return;
	for (size_t i = 0; i < (size_t)t->n_slots * t->n_sites; i++)
		ql_cpu_free(d, t->at[i].a);
	free(t->at);
	free(t);
}
