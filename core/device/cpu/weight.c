/* weight.c - frozen weights as panels of 16 outputs: dense ones (f32, f16, bf16, Q8_0), and reading panels back.
 *
 *   f32, f16, bf16   panel[k][16]
 *   Q8_0             panel[k][16] int8, scale[k/32][16] f32 (the block's f16 scale widened); values d·q as in GGUF
 *   4-bit            see weight_q4.c
 * `in` is the length of k.  Outputs beyond a part's last are zero. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/device/cpu/cpu.h"

/* Checks the shape and fills in everything but the contents. */
int ql_cpu_weight_new(struct ql_cpu *c, const struct ql_weight_shape *s, struct ql_weight **out, struct ql_err *e)
{
	struct ql_weight *w;

	*out = NULL;
	if (s->n_parts < 1 || s->n_parts > QL_PARTS_MAX || s->in == 0 || s->in > QL_DIM_MAX)
		return ql_err_set(e, QL_ESHAPE, "weight: %u parts of %u inputs", s->n_parts, s->in);
	w = calloc(1, sizeof *w);
	if (w == NULL)
		return ql_err_set(e, QL_ENOMEM, "weight");
	w->cpu = c;
	w->s = *s;
	for (uint32_t p = 0; p < s->n_parts; p++) {
		if (s->out[p] == 0 || s->out[p] > QL_VOCAB_MAX) {
			free(w);
			return ql_err_set(e, QL_ESHAPE, "weight: part %u has %u outputs", p, s->out[p]);
		}
		w->begin[p + 1] = w->begin[p] + s->out[p];
		w->panel[p + 1] = w->panel[p] + (s->out[p] + QL_PW - 1) / QL_PW;
	}
	w->out = w->begin[s->n_parts];
	*out = w;
	return QL_OK;
}

uint32_t ql_cpu_part_of(const struct ql_weight *w, uint32_t panel)
{
	uint32_t p = 0;

	while (panel >= w->panel[p + 1])
		p++;
	return p;
}

const float *ql_cpu_panel(const struct ql_kern *k, const struct ql_weight *w, uint32_t panel, size_t k0, size_t n,
			  float *dst)
{
	const char *p = (const char *)w->data + panel * w->panel_bytes;
	const float *scale = w->scale == NULL ? NULL : w->scale + panel * w->panel_scales;

	switch (w->store) {
	case QL_F32:
		return (const float *)(const void *)p + k0 * QL_PW;
	case QL_F16:
		k->unpack_f16((const uint16_t *)(const void *)p + k0 * QL_PW, n, dst);
		break;
	case QL_BF16:
		k->unpack_bf16((const uint16_t *)(const void *)p + k0 * QL_PW, n, dst);
		break;
	case QL_Q8_0:
		k->unpack_q8((const int8_t *)p + k0 * QL_PW, scale + k0 / 32 * QL_PW, n, dst);
		break;
	default:
		k->unpack_q4((const uint8_t *)p + k0 / 2 * QL_PW, scale + k0 / w->group * QL_PW, w->group,
			     w->level[ql_cpu_part_of(w, panel)], n, dst);
		break;
	}
	return dst;
}

float ql_cpu_weight_at(const struct ql_weight *w, uint32_t part, uint32_t row, uint32_t k)
{
	uint32_t panel = w->panel[part] + row / QL_PW;
	size_t at = (size_t)k * QL_PW + row % QL_PW;
	const char *p = (const char *)w->data + panel * w->panel_bytes;
	const float *scale = w->scale == NULL ? NULL : w->scale + panel * w->panel_scales;

	switch (w->store) {
	case QL_F32:
		return ((const float *)(const void *)p)[at];
	case QL_F16:
		return ql_f32_of_f16(((const uint16_t *)(const void *)p)[at]);
	case QL_BF16:
		return ql_f32_of_bf16(((const uint16_t *)(const void *)p)[at]);
	case QL_Q8_0:
		return (float)((const int8_t *)p)[at] * scale[k / 32 * QL_PW + row % QL_PW];
	default: {
		uint8_t c = ((const uint8_t *)p)[(size_t)k / 2 * QL_PW + row % QL_PW];

		return w->level[part][k % 2 == 0 ? c & 15 : c >> 4] * scale[k / w->group * QL_PW + row % QL_PW];
	}
	}
}

struct fill_job {
	struct ql_weight *w;
	const void *const *parts;
	size_t bytes; /* of an element; 1 = Q8_0 */
};

/* 16 rows side by side: dst[k][r] = row r's element k */
static void fill_plain(const struct fill_job *j, const char *src, uint32_t rows, char *dst)
{
	size_t in = j->w->s.in;

	if (j->bytes == 4) {
		j->w->cpu->k->pack_t((const float *)(const void *)src, in, rows, in, 1.0f, (float *)(void *)dst);
		return;
	}
	for (size_t k = 0; k < in; k++)
		for (uint32_t r = 0; r < rows; r++)
			memcpy(dst + (k * QL_PW + r) * 2, src + (r * in + k) * 2, 2);
}

static void fill_q8(const struct fill_job *j, const unsigned char *src, uint32_t rows, int8_t *q, float *d)
{
	size_t blocks = j->w->s.in / 32;

	for (size_t b = 0; b < blocks; b++)
		for (uint32_t r = 0; r < rows; r++) {
			const unsigned char *from = src + (r * blocks + b) * 34;
			uint16_t h;

			memcpy(&h, from, 2);
			d[b * QL_PW + r] = ql_f32_of_f16(h);
			for (size_t i = 0; i < 32; i++)
				q[(b * 32 + i) * QL_PW + r] = (int8_t)from[2 + i];
		}
}

static void fill_panel(void *ctx, size_t panel, int worker)
{
	const struct fill_job *j = ctx;
	struct ql_weight *w = j->w;
	uint32_t p = ql_cpu_part_of(w, (uint32_t)panel), row = ((uint32_t)panel - w->panel[p]) * QL_PW;
	uint32_t rows = (uint32_t)ql_min(QL_PW, w->s.out[p] - row);
	char *dst = (char *)w->data + panel * w->panel_bytes;
	size_t row_bytes = j->bytes == 1 ? w->s.in / 32 * 34 : w->s.in * j->bytes;
	const char *src = (const char *)j->parts[p] + row * row_bytes;

	(void)worker;
	if (j->bytes == 1)
		fill_q8(j, (const unsigned char *)src, rows, (int8_t *)dst, w->scale + panel * w->panel_scales);
	else
		fill_plain(j, src, rows, dst);
}

int ql_cpu_weight_from_dense(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype dtype,
			     const void *const parts[], struct ql_weight **out, struct ql_err *e)
{
	struct ql_weight *w = NULL;
	size_t bytes = dtype == QL_F32 ? 4 : dtype == QL_Q8_0 ? 1 : 2, n_panels;
	void *p;
	int rc;

	*out = NULL;
	if (dtype != QL_F32 && dtype != QL_F16 && dtype != QL_BF16 && dtype != QL_Q8_0)
		return ql_err_param(e, QL_EUNSUPPORTED, "dtype", "weight_from_dense: this type is not kept as it is");
	if (dtype == QL_Q8_0 && s->in % 32 != 0)
		return ql_err_set(e, QL_ESHAPE, "weight_from_dense: q8_0 rows of %u", s->in);
	rc = ql_cpu_weight_new(ql_cpu_of(d), s, &w, e);
	if (rc != QL_OK)
		return rc;
	w->store = dtype;
	n_panels = w->panel[s->n_parts];
	w->panel_bytes = (size_t)s->in * QL_PW * bytes;
	rc = ql_cpu_alloc(d, QL_MEM_BASE, n_panels * w->panel_bytes, &p, e);
	if (rc != QL_OK)
		goto cleanup;
	w->data = p;
	memset(p, 0, n_panels * w->panel_bytes);
	w->bytes = n_panels * w->panel_bytes;
	if (dtype == QL_Q8_0) {
		w->panel_scales = (size_t)s->in / 32 * QL_PW;
		rc = ql_cpu_alloc(d, QL_MEM_BASE, n_panels * w->panel_scales * sizeof(float), &p, e);
		if (rc != QL_OK)
			goto cleanup;
		w->scale = p;
		memset(p, 0, n_panels * w->panel_scales * sizeof(float));
		w->bytes += n_panels * w->panel_scales * sizeof(float);
	}
	ql_pool_run(ql_cpu_of(d)->pool, n_panels, fill_panel, &(struct fill_job){w, parts, bytes});
	*out = w;
	w = NULL;
cleanup:
	ql_cpu_weight_free(d, w);
	return rc;
}

void ql_cpu_weight_free(struct ql_device *d, struct ql_weight *w)
{
	if (w == NULL)
		return;
	ql_cpu_free(d, w->data);
	ql_cpu_free(d, w->scale);
	for (uint32_t p = 0; p < QL_PARTS_MAX; p++)
		ql_cpu_free(d, w->q4[p].owned);
	free(w);
}

uint64_t ql_cpu_weight_bytes(const struct ql_weight *w) { return w->bytes; }
