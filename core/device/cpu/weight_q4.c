/* weight_q4.c - 4-bit weights (NF4, FP4, INT4) as panels of 16 outputs, and back to the form of core/quant/q4.h.
 *
 *   panel codes  [k/2][16] bytes; byte r is output r's pair of codes, the even k in the LOW nibble
 *   panel scales [k/group][16] f32, absmax with nested statistics expanded
 * group = the largest of 64, 32, 16, 8 that divides both the block size and `in`, so that no group straddles a block.
 * Where there is none (`in` not a multiple of 8) the values are kept as f32 panels, level·absmax, and the codes beside
 * them; that is for odd shapes only.  The statistics as they came are kept too: weight_to_q4 gives back the same bits. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/device/cpu/cpu.h"

static uint32_t group_of(uint32_t blocksize, uint32_t in)
{
	for (uint32_t g = 64; g >= 8; g /= 2)
		if (blocksize % g == 0 && in % g == 0)
			return g;
	return 0;
}

/* Copies what q holds beyond the panels; with_codes when the panels do not hold the codes. */
static int keep_stats(struct ql_cpu *c, struct ql_q4 *to, const struct ql_q4 *q, bool with_codes, uint64_t *bytes,
		      struct ql_err *e)
{
	size_t m = (size_t)ql_q4_blocks(q), n = (size_t)ql_q4_nested_blocks(q);
	size_t floats = q->nested ? n : m, code_bytes = with_codes ? (size_t)(q->n / 2 + q->n % 2) : 0;
	size_t total = floats * sizeof(float) + (q->nested ? m : 0) + code_bytes;
	void *p;
	char *at;
	int rc = ql_cpu_alloc(&c->dev, QL_MEM_BASE, total, &p, e);

	if (rc != QL_OK)
		return rc;
	*to = *q;
	to->owned = p;
	to->codes = NULL;
	to->absmax = to->nested_absmax = NULL;
	to->absmax_q = NULL;
	at = p;
	if (q->nested) {
		to->nested_absmax = (float *)p;
		memcpy(at, q->nested_absmax, n * sizeof(float));
		at += n * sizeof(float);
		to->absmax_q = (uint8_t *)at;
		memcpy(at, q->absmax_q, m);
		at += m;
	} else {
		to->absmax = (float *)p;
		memcpy(at, q->absmax, m * sizeof(float));
		at += m * sizeof(float);
	}
	if (with_codes) {
		to->codes = (uint8_t *)at;
		memcpy(at, q->codes, code_bytes);
	}
	*bytes += total;
	return QL_OK;
}

struct fill_job {
	struct ql_weight *w;
	uint32_t part;
	const struct ql_q4 *q;
	const float *absmax; /* expanded */
};

static void fill_panel(void *ctx, size_t i, int worker)
{
	const struct fill_job *j = ctx;
	const struct ql_weight *w = j->w;
	size_t in = w->s.in, half = in / 2, panel = w->panel[j->part] + i, row = i * QL_PW;
	size_t rows = ql_min(QL_PW, w->s.out[j->part] - row);
	uint8_t *codes = (uint8_t *)w->data + panel * w->panel_bytes;
	float *scale = w->scale + panel * w->panel_scales;

	(void)worker;
	for (size_t b = 0; b < half; b++)
		for (size_t r = 0; r < rows; r++) {
			uint8_t c = j->q->codes[(row + r) * half + b];

			codes[b * QL_PW + r] = (uint8_t)(c >> 4 | c << 4);
		}
	for (size_t g = 0; g < in / w->group; g++)
		for (size_t r = 0; r < rows; r++)
			scale[g * QL_PW + r] = j->absmax[((row + r) * in + g * w->group) / j->q->blocksize];
}

static int put_codes(struct ql_weight *w, uint32_t part, const struct ql_q4 *q, struct ql_err *e)
{
	uint64_t m = ql_q4_blocks(q);
	float *absmax = malloc((size_t)m * sizeof *absmax);
	int rc;

	if (absmax == NULL)
		return ql_err_set(e, QL_ENOMEM, "weight_from_q4: scales");
	rc = ql_q4_absmax(q, 0, m, absmax);
	if (rc == QL_OK)
		ql_pool_run(w->cpu->pool, w->panel[part + 1] - w->panel[part], fill_panel,
			    &(struct fill_job){w, part, q, absmax});
	free(absmax);
	return rc == QL_OK ? QL_OK : ql_err_set(e, rc, "weight_from_q4: scales");
}

static int put_values(struct ql_weight *w, uint32_t part, const struct ql_q4 *q, struct ql_err *e)
{
	float *row = malloc(w->s.in * sizeof *row);
	int rc = QL_OK;

	if (row == NULL)
		return ql_err_set(e, QL_ENOMEM, "weight_from_q4: a row");
	for (size_t r = 0; r < w->s.out[part] && rc == QL_OK; r++) {
		float *dst = (float *)(void *)((char *)w->data + (w->panel[part] + r / QL_PW) * w->panel_bytes) + r % QL_PW;

		rc = ql_q4_dequantize(q, r * w->s.in, w->s.in, row, QL_F32, NULL, e);
		for (size_t k = 0; rc == QL_OK && k < w->s.in; k++)
			dst[k * QL_PW] = row[k];
	}
	free(row);
	return rc;
}

static int fill(struct ql_weight *w, const struct ql_q4 *const parts[], struct ql_err *e)
{
	size_t n_panels = w->panel[w->s.n_parts];
	void *p;
	int rc;

	w->store = w->group > 0 ? QL_NF4 : QL_F32;
	w->panel_bytes = w->group > 0 ? (size_t)w->s.in / 2 * QL_PW : (size_t)w->s.in * QL_PW * sizeof(float);
	rc = ql_cpu_alloc(&w->cpu->dev, QL_MEM_BASE, n_panels * w->panel_bytes, &p, e);
	if (rc != QL_OK)
		return rc;
	w->data = p;
	memset(p, 0, n_panels * w->panel_bytes);
	w->bytes = n_panels * w->panel_bytes;
	if (w->group > 0) {
		w->panel_scales = (size_t)w->s.in / w->group * QL_PW;
		rc = ql_cpu_alloc(&w->cpu->dev, QL_MEM_BASE, n_panels * w->panel_scales * sizeof(float), &p, e);
		if (rc != QL_OK)
			return rc;
		w->scale = p;
		memset(p, 0, n_panels * w->panel_scales * sizeof(float));
		w->bytes += n_panels * w->panel_scales * sizeof(float);
	}
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		memcpy(w->level[i], parts[i]->code, sizeof w->level[i]);
		rc = keep_stats(w->cpu, &w->q4[i], parts[i], w->group == 0, &w->bytes, e);
		if (rc != QL_OK)
			return rc;
		rc = w->group > 0 ? put_codes(w, i, parts[i], e) : put_values(w, i, parts[i], e);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_cpu_weight_from_q4(struct ql_device *d, const struct ql_weight_shape *s, const struct ql_q4 *const parts[],
			  struct ql_weight **out, struct ql_err *e)
{
	struct ql_weight *w;
	int rc;

	*out = NULL;
	rc = ql_cpu_weight_new(ql_cpu_of(d), s, &w, e);
	if (rc != QL_OK)
		return rc;
	w->is_q4 = true;
	w->group = 64;
	for (uint32_t p = 0; p < s->n_parts; p++) {
		uint32_t g;

		if (parts[p]->n != (uint64_t)s->out[p] * s->in) {
			rc = ql_err_set(e, QL_ESHAPE, "weight_from_q4: part %u has %llu elements, not %u x %u", p,
					(unsigned long long)parts[p]->n, s->out[p], s->in);
			goto cleanup;
		}
		g = group_of(parts[p]->blocksize, s->in);
		w->group = g < w->group ? g : w->group;
	}
	rc = fill(w, parts, e);
	if (rc != QL_OK)
		goto cleanup;
	*out = w;
	w = NULL;
cleanup:
	ql_cpu_weight_free(d, w);
	return rc;
}

int ql_cpu_weight_quantize(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype src,
			   const void *const parts[], enum ql_dtype kind, struct ql_weight **out, struct ql_err *e)
{
	struct ql_q4_opts opts = QL_Q4_OPTS_DEFAULT;
	struct ql_q4 q[QL_PARTS_MAX] = {0};
	const struct ql_q4 *ptr[QL_PARTS_MAX] = {&q[0], &q[1], &q[2]};
	int rc = QL_OK;

	*out = NULL;
	opts.kind = kind;
	if (s->n_parts < 1 || s->n_parts > QL_PARTS_MAX)
		return ql_err_set(e, QL_ESHAPE, "weight_quantize: %u parts", s->n_parts);
	for (uint32_t p = 0; p < s->n_parts && rc == QL_OK; p++)
		rc = ql_q4_quantize(&q[p], parts[p], src, (uint64_t)s->out[p] * s->in, &opts, ql_cpu_of(d)->pool, e);
	if (rc == QL_OK)
		rc = ql_cpu_weight_from_q4(d, s, ptr, out, e);
	for (uint32_t p = 0; p < QL_PARTS_MAX; p++)
		ql_q4_free(&q[p]);
	return rc;
}

int ql_cpu_weight_to_q4(struct ql_device *d, const struct ql_weight *w, uint32_t part, struct ql_q4 *out,
			struct ql_err *e)
{
	size_t m, n, code_bytes, half;
	const struct ql_q4 *q;
	char *p;

	(void)d;
	memset(out, 0, sizeof *out);
	if (!w->is_q4 || part >= w->s.n_parts)
		return ql_err_set(e, QL_EINVAL, "weight_to_q4: part %u is not a 4-bit tensor", part);
	q = &w->q4[part];
	m = (size_t)ql_q4_blocks(q);
	n = (size_t)ql_q4_nested_blocks(q);
	code_bytes = (size_t)(q->n / 2 + q->n % 2);
	p = malloc((q->nested ? n * sizeof(float) + m : m * sizeof(float)) + code_bytes);
	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "weight_to_q4");
	*out = *q;
	out->owned = p;
	if (q->nested) {
		out->nested_absmax = memcpy(p, q->nested_absmax, n * sizeof(float));
		p += n * sizeof(float);
		out->absmax_q = memcpy(p, q->absmax_q, m);
		p += m;
	} else {
		out->absmax = memcpy(p, q->absmax, m * sizeof(float));
		p += m * sizeof(float);
	}
	out->codes = (uint8_t *)p;
	if (w->group == 0) {
		memcpy(out->codes, q->codes, code_bytes);
		return QL_OK;
	}
	half = w->s.in / 2;
	for (size_t r = 0; r < w->s.out[part]; r++) {
		const uint8_t *src = (const uint8_t *)w->data + (w->panel[part] + r / QL_PW) * w->panel_bytes + r % QL_PW;

		for (size_t i = 0; i < half; i++)
			out->codes[r * half + i] = (uint8_t)(src[i * QL_PW] >> 4 | src[i * QL_PW] << 4);
	}
	return QL_OK;
}

int ql_cpu_weight_rows(struct ql_device *d, struct ql_queue *queue, const struct ql_weight *w, struct ql_tensor dst,
		       struct ql_err *e)
{
	uint32_t row = 0;

	(void)queue;
	if (!w->is_q4 || dst.data == NULL || dst.dtype != QL_F32 || dst.cols != w->s.in || dst.ld < dst.cols ||
	    dst.rows != w->begin[w->s.n_parts])
		return ql_err_set(e, QL_ESHAPE, "weight_rows: fp32 rows of the shape of a 4-bit weight wanted");
	for (uint32_t p = 0; p < w->s.n_parts; p++) {
		struct ql_q4 q;
		int rc = ql_cpu_weight_to_q4(d, w, p, &q, e);

		for (uint32_t r = 0; rc == QL_OK && r < w->s.out[p]; r++, row++)
			rc = ql_q4_dequantize(&q, (uint64_t)r * w->s.in, w->s.in, (float *)dst.data + row * dst.ld, QL_F32, NULL, e);
		ql_q4_free(&q);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}
