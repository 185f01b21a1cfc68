/* weight.cu - frozen matrices [Σ out, in] on the device: made from 4-bit tensors, from dense rows, or quantised here.
 *
 * Layout: 4-bit parts keep the arrays of core/quant/q4.h as they are (codes row-major, first element in the high nibble; scales;
 * nested scales), each part with its own code book, map and offset; dense parts lie below each other; Q8_0 is split into int8
 * values [out, in] and f16 scales [out, in/32].  One allocation per weight, kind BASE. */
#include "gpu/gpu.h"

extern "C" {
#include "core/quant/kernels.h"
}

#define CHUNK_BYTES ((size_t)64 << 20) /* of source rows quantised at a time */

static int shape_check(const struct ql_weight_shape *s, struct ql_weight *w, struct ql_err *e)
{
	uint64_t out = 0;

	if (s->n_parts < 1 || s->n_parts > QL_PARTS_MAX || s->in == 0)
		return ql_err_set(e, QL_ESHAPE, "weight: %u parts of input %u", s->n_parts, s->in);
	for (uint32_t i = 0; i < s->n_parts; i++) {
		if (s->out[i] == 0)
			return ql_err_set(e, QL_ESHAPE, "weight: part %u has no rows", i);
		out += s->out[i];
	}
	if (out > UINT32_MAX || s->in > UINT32_MAX / 2)
		return ql_err_set(e, QL_ESHAPE, "weight: too large");
	w->s = *s;
	w->in = s->in;
	w->out = (uint32_t)out;
	return QL_OK;
}

static struct ql_weight *weight_new(enum ql_dtype t)
{
	struct ql_weight *w = (struct ql_weight *)calloc(1, sizeof *w);

	if (w)
		w->dtype = t;
	return w;
}

void cu_weight_free(struct ql_device *d, struct ql_weight *w)
{
	if (!w)
		return;
	cu_free(d, w->resident);
	cu_free(d, w->mem);
	free(w);
}

uint64_t cu_weight_bytes(const struct ql_weight *w)
{
	return w->bytes + (w->resident ? ((uint64_t)w->out + w->resident_ext) * w->resident_ld * 2 : 0);
}

/* Device arrays of a 4-bit weight; w->blocksize, nested and the parts' nested_bs are set. */
static int q4_layout(struct ql_device *d, struct ql_weight *w, struct ql_err *e)
{
	size_t total = 0, at[QL_PARTS_MAX][5];

	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		uint64_t n = (uint64_t)w->s.out[i] * w->in, m = (n + w->blocksize - 1) / w->blocksize;
		uint64_t nn = w->nested ? (m + w->part[i].nested_bs - 1) / w->part[i].nested_bs : 0;
		size_t sizes[5] = {(size_t)((n + 1) / 2) + 64, (size_t)(w->nested ? m : 4 * m), (size_t)(4 * nn), 272 * 4, 4};

		for (int k = 0; k < 5; k++) {
			at[i][k] = total;
			total += cu_align(sizes[k]);
		}
		w->bytes += (n + 1) / 2 + (w->nested ? m + 4 * nn + 4 : 4 * m);
	}
	QL_TRY(cu_alloc(d, QL_MEM_BASE, total, &w->mem, e));
	uint8_t *p = (uint8_t *)w->mem;
	uint32_t row = 0;
	for (uint32_t i = 0; i < w->s.n_parts; i++) {
		struct cu_part *c = &w->part[i];

		c->codes = p + at[i][0];
		if (w->nested)
			c->absmax_q = p + at[i][1];
		else
			c->absmax = (const float *)(p + at[i][1]);
		c->nested = (const float *)(p + at[i][2]);
		c->tab = (const float *)(p + at[i][3]);
		c->offset = (const float *)(p + at[i][4]);
		c->row0 = row;
		c->out = w->s.out[i];
		row += c->out;
	}
	return QL_OK;
}

static int put_tab(struct ql_device *d, struct ql_queue *q, struct ql_weight *w, uint32_t i, struct ql_err *e)
{
	float tab[272];

	memcpy(tab, w->code[i], 64);
	memcpy(tab + 16, w->map[i], 1024);
	return cu_upload(d, q, (void *)w->part[i].tab, tab, sizeof tab, e);
}

static int fill_from_q4(struct ql_device *d, struct ql_weight *w, const struct ql_weight_shape *s, const struct ql_q4 *const parts[],
			struct ql_err *e)
{
	struct ql_queue *q = cu_of(d)->setup;

	QL_TRY(shape_check(s, w, e));
	w->blocksize = parts[0]->blocksize;
	w->nested = parts[0]->nested;
	w->per_channel = parts[0]->per_channel;
	for (uint32_t i = 0; i < s->n_parts; i++) {
		const struct ql_q4 *t = parts[i];

		if (t->n != (uint64_t)s->out[i] * s->in)
			return ql_err_set(e, QL_ESHAPE, "weight part %u: %llu elements, %ux%u wanted", i, (unsigned long long)t->n, s->out[i], s->in);
		if (t->kind != parts[0]->kind || t->blocksize != w->blocksize || t->nested != w->nested || t->blocksize < 2 ||
		    t->blocksize % 2 || (t->nested && t->nested_blocksize == 0))
			return ql_err_set(e, QL_EUNSUPPORTED, "weight: its parts are quantised differently");
		w->part[i].nested_bs = t->nested ? t->nested_blocksize : 1;
		memcpy(w->code[i], t->code, sizeof t->code);
		if (t->nested)
			memcpy(w->map[i], t->nested_map, sizeof t->nested_map);
	}
	QL_TRY(q4_layout(d, w, e));
	for (uint32_t i = 0; i < s->n_parts; i++) {
		const struct ql_q4 *t = parts[i];
		const struct cu_part *c = &w->part[i];
		uint64_t m = (t->n + t->blocksize - 1) / t->blocksize;

		QL_TRY(put_tab(d, q, w, i, e));
		QL_TRY(cu_upload(d, q, (void *)c->codes, t->codes, (size_t)((t->n + 1) / 2), e));
		if (!t->nested) {
			QL_TRY(cu_upload(d, q, (void *)c->absmax, t->absmax, (size_t)m * 4, e));
			continue;
		}
		QL_TRY(cu_upload(d, q, (void *)c->absmax_q, t->absmax_q, (size_t)m, e));
		QL_TRY(cu_upload(d, q, (void *)c->nested, t->nested_absmax, (size_t)((m + c->nested_bs - 1) / c->nested_bs) * 4, e));
		QL_TRY(cu_upload(d, q, (void *)c->offset, &t->offset, 4, e));
	}
	return cu_sync(d, q, e);
}

int cu_weight_from_q4(struct ql_device *d, const struct ql_weight_shape *s, const struct ql_q4 *const parts[], struct ql_weight **out,
		      struct ql_err *e)
{
	*out = NULL;
	QL_TRY(cu_begin(d, "weight_from_q4", e));
	struct ql_weight *w = weight_new(parts[0]->kind);
	int r = w ? fill_from_q4(d, w, s, parts, e) : ql_err_set(e, QL_ENOMEM, "out of memory");
	if (r != QL_OK)
		cu_weight_free(d, w);
	else
		*out = w;
	return r;
}

static int upload_q8(struct ql_device *d, struct ql_weight *w, const void *const parts[], struct ql_err *e)
{
	struct ql_queue *q = cu_of(d)->setup;
	const uint64_t per = 16384; /* blocks at a time */
	uint8_t *buf = (uint8_t *)malloc(per * 34);
	uint64_t at = 0;
	int r = buf ? QL_OK : ql_err_set(e, QL_ENOMEM, "out of memory");

	for (uint32_t i = 0; i < w->s.n_parts && r == QL_OK; i++) {
		const uint8_t *src = (const uint8_t *)parts[i];
		uint64_t blocks = (uint64_t)w->s.out[i] * w->in / 32;

		for (uint64_t b = 0; b < blocks && r == QL_OK; b += per) {
			uint64_t n = blocks - b < per ? blocks - b : per;

			for (uint64_t k = 0; k < n; k++) {
				memcpy(buf + 2 * k, src + (b + k) * 34, 2);
				memcpy(buf + 2 * per + 32 * k, src + (b + k) * 34 + 2, 32);
			}
			r = cu_upload(d, q, (uint8_t *)w->q8_d + (at + b) * 2, buf, (size_t)n * 2, e);
			if (r == QL_OK)
				r = cu_upload(d, q, (uint8_t *)w->dense + (at + b) * 32, buf + 2 * per, (size_t)n * 32, e);
		}
		at += blocks;
	}
	free(buf);
	return r;
}

static int fill_dense(struct ql_device *d, struct ql_weight *w, const struct ql_weight_shape *s, const void *const parts[], struct ql_err *e)
{
	struct ql_queue *q = cu_of(d)->setup;

	QL_TRY(shape_check(s, w, e));
	uint64_t n = (uint64_t)w->out * w->in;
	if (w->dtype == QL_Q8_0) {
		if (w->in % 32)
			return ql_err_set(e, QL_ESHAPE, "weight: q8_0 rows of %u", w->in);
		size_t values = cu_align((size_t)n + 64);

		w->bytes = n + n / 32 * 2;
		QL_TRY(cu_alloc(d, QL_MEM_BASE, values + cu_align((size_t)(n / 32 * 2)), &w->mem, e));
		w->dense = w->mem;
		w->q8_d = (const __half *)((uint8_t *)w->mem + values);
		QL_TRY(upload_q8(d, w, parts, e));
		return cu_sync(d, q, e);
	}
	size_t es = w->dtype == QL_F32 ? 4 : 2, at = 0;
	w->bytes = n * es;
	QL_TRY(cu_alloc(d, QL_MEM_BASE, (size_t)(n * es), &w->mem, e));
	w->dense = w->mem;
	for (uint32_t i = 0; i < s->n_parts; i++) {
		size_t bytes = (size_t)s->out[i] * s->in * es;

		QL_TRY(cu_upload(d, q, (uint8_t *)w->mem + at, parts[i], bytes, e));
		at += bytes;
	}
	return cu_sync(d, q, e);
}

int cu_weight_from_dense(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype dtype, const void *const parts[],
			 struct ql_weight **out, struct ql_err *e)
{
	*out = NULL;
	QL_TRY(cu_begin(d, "weight_from_dense", e));
	if (dtype != QL_F32 && dtype != QL_F16 && dtype != QL_BF16 && dtype != QL_Q8_0)
		return ql_err_set(e, QL_EUNSUPPORTED, "weight: dense rows must be f32, f16, bf16 or q8_0");
	struct ql_weight *w = weight_new(dtype);
	int r = w ? fill_dense(d, w, s, parts, e) : ql_err_set(e, QL_ENOMEM, "out of memory");
	if (r != QL_OK)
		cu_weight_free(d, w);
	else
		*out = w;
	return r;
}

static int quantize_part(struct ql_device *d, struct ql_weight *w, uint32_t i, enum ql_dtype src, const void *rows, const struct cu_book *book,
			 struct ql_err *e)
{
	struct ql_queue *q = cu_of(d)->setup;
	const struct cu_part *c = &w->part[i];
	const uint64_t n = (uint64_t)c->out * w->in, m = (n + 63) / 64;
	const size_t es = src == QL_F32 ? 4 : 2, chunk = CHUNK_BYTES / es;
	cudaPointerAttributes at_rows;
	unsigned long long bad = ~0ull;
	uint8_t *tmp;

	CU_TRY(cudaPointerGetAttributes(&at_rows, rows));
	const bool here = at_rows.type == cudaMemoryTypeDevice;
	const size_t src_bytes = here ? 0 : cu_align((size_t)(n < chunk ? n : chunk) * es);
	QL_TRY(cu_scratch(d, q, src_bytes + cu_align((size_t)m * 4) + CU_QUANT_TMP + 256, (void **)&tmp, e));
	float *absmax = (float *)(tmp + src_bytes);
	uint8_t *red = tmp + src_bytes + cu_align((size_t)m * 4);
	unsigned long long *dbad = (unsigned long long *)(red + CU_QUANT_TMP);
	QL_TRY(put_tab(d, q, w, i, e));
	QL_TRY(cu_upload(d, q, dbad, &bad, 8, e));
	if (here)
		QL_TRY(cu_quant_blocks(d, q, rows, src, 0, n, book, (uint8_t *)c->codes, absmax, dbad, e));
	for (uint64_t at = 0; !here && at < n; at += chunk) {
		uint64_t k = n - at < chunk ? n - at : chunk;

		QL_TRY(cu_upload(d, q, tmp, (const uint8_t *)rows + at * es, (size_t)k * es, e));
		QL_TRY(cu_quant_blocks(d, q, tmp, src, at, k, book, (uint8_t *)c->codes, absmax, dbad, e));
	}
	QL_TRY(cu_quant_nested(d, q, absmax, m, c->tab + 16, (uint8_t *)c->absmax_q, (float *)c->nested, (float *)c->offset, red, e));
	QL_TRY(cu_download(d, q, &bad, dbad, 8, e));
	QL_TRY(cu_sync(d, q, e));
	if (bad != ~0ull) {
		(void)ql_err_set(e, QL_ENONFINITE, "part %u: element %llu is NaN or infinite", i, bad);
		if (e)
			e->offset = bad;
		return QL_ENONFINITE;
	}
	return QL_OK;
}

static int fill_quantized(struct ql_device *d, struct ql_weight *w, const struct ql_weight_shape *s, enum ql_dtype src, const void *const parts[],
			  struct ql_err *e)
{
	const struct ql_q4_book *b = ql_q4_book_of(w->dtype);
	struct cu_book book;

	QL_TRY(shape_check(s, w, e));
	memcpy(book.thr, b->thr, sizeof book.thr);
	book.zero = b->zero;
	book.map = 0;
	for (int i = 0; i < 16; i++)
		book.map |= (uint64_t)b->map[i] << (4 * i);
	w->blocksize = 64;
	w->nested = true;
	for (uint32_t i = 0; i < s->n_parts; i++) {
		w->part[i].nested_bs = 256;
		memcpy(w->code[i], ql_q4_code(w->dtype), 64);
		memcpy(w->map[i], ql_dynamic_map_signed(), 1024);
	}
	QL_TRY(q4_layout(d, w, e));
	for (uint32_t i = 0; i < s->n_parts; i++)
		QL_TRY(quantize_part(d, w, i, src, parts[i], &book, e));
	return QL_OK;
}

int cu_weight_quantize(struct ql_device *d, const struct ql_weight_shape *s, enum ql_dtype src, const void *const parts[], enum ql_dtype kind,
		       struct ql_weight **out, struct ql_err *e)
{
	*out = NULL;
	QL_TRY(cu_begin(d, "weight_quantize", e));
	if (!cu_is_q4(kind) || (src != QL_F32 && src != QL_F16 && src != QL_BF16))
		return ql_err_set(e, QL_EUNSUPPORTED, "weight: nf4, fp4 or int4 from f32, f16 or bf16 only");
	struct ql_weight *w = weight_new(kind);
	int r = w ? fill_quantized(d, w, s, src, parts, e) : ql_err_set(e, QL_ENOMEM, "out of memory");
	if (r != QL_OK)
		cu_weight_free(d, w);
	else
		*out = w;
	return r;
}

static int read_q4(struct ql_device *d, const struct ql_weight *w, uint32_t part, struct ql_q4 *o, struct ql_err *e)
{
	struct ql_queue *q = cu_of(d)->setup;
	const struct cu_part *c = &w->part[part];
	uint64_t m = (o->n + o->blocksize - 1) / o->blocksize;

	QL_TRY(cu_download(d, q, o->codes, c->codes, (size_t)((o->n + 1) / 2), e));
	if (o->nested) {
		QL_TRY(cu_download(d, q, o->absmax_q, c->absmax_q, (size_t)m, e));
		QL_TRY(cu_download(d, q, o->nested_absmax, c->nested, (size_t)((m + c->nested_bs - 1) / c->nested_bs) * 4, e));
		QL_TRY(cu_download(d, q, &o->offset, c->offset, 4, e));
	} else {
		QL_TRY(cu_download(d, q, o->absmax, c->absmax, (size_t)m * 4, e));
	}
	return cu_sync(d, q, e);
}

int cu_weight_to_q4(struct ql_device *d, const struct ql_weight *w, uint32_t part, struct ql_q4 *out, struct ql_err *e)
{
	memset(out, 0, sizeof *out);
	QL_TRY(cu_begin(d, "weight_to_q4", e));
	if (!cu_is_q4(w->dtype) || part >= w->s.n_parts)
		return ql_err_set(e, QL_EINVAL, "weight_to_q4: no 4-bit part %u", part);
	const struct cu_part *c = &w->part[part];
	uint64_t n = (uint64_t)c->out * w->in, m = (n + w->blocksize - 1) / w->blocksize;
	size_t codes = ((size_t)((n + 1) / 2) + 63) & ~(size_t)63, scales = ((size_t)(w->nested ? m : 4 * m) + 63) & ~(size_t)63;
	size_t nested = w->nested ? (size_t)((m + c->nested_bs - 1) / c->nested_bs) * 4 : 0;
	uint8_t *p = (uint8_t *)aligned_alloc(64, (codes + scales + nested + 63) & ~(size_t)63);
	if (!p)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	out->kind = w->dtype;
	out->n = n;
	out->blocksize = w->blocksize;
	out->nested = w->nested;
	out->nested_blocksize = w->nested ? c->nested_bs : 0;
	out->per_channel = w->per_channel;
	memcpy(out->code, w->code[part], 64);
	out->codes = p;
	if (w->nested) {
		memcpy(out->nested_map, w->map[part], 1024);
		out->absmax_q = p + codes;
		out->nested_absmax = (float *)(p + codes + scales);
	} else {
		out->absmax = (float *)(p + codes);
	}
	out->owned = p;
	int r = read_q4(d, w, part, out, e);
	if (r != QL_OK) {
		free(p);
		memset(out, 0, sizeof *out);
	}
	return r;
}

/* A bf16 copy with room for 64 adapter columns and rows per part. */
int cu_weight_resident(struct ql_device *d, struct ql_weight *w, bool on, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	QL_TRY(cu_begin(d, "weight_resident", e));
	if (on == (w->resident != NULL))
		return QL_OK;
	if (!on) {
		cu_free(d, w->resident);
		w->resident = NULL;
		return QL_OK;
	}
	w->resident_ext = 64 * w->s.n_parts;
	w->resident_ld = ((size_t)w->in + w->resident_ext + 63) & ~(size_t)63;
	QL_TRY(cu_alloc(d, QL_MEM_BASE, ((size_t)w->out + w->resident_ext) * w->resident_ld * 2, (void **)&w->resident, e));
	int r = cu_weight_expand(d, c->setup, w, w->resident, w->resident_ld, e);
	if (r == QL_OK)
		r = cu_sync(d, c->setup, e);
	if (r != QL_OK) {
		cu_free(d, w->resident);
		w->resident = NULL;
	}
	return r;
}

int cu_weight_rows(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, struct ql_tensor dst, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "weight_rows", e));
	QL_TRY(cu_check_act(&dst, "rows", e));
	if (dst.rows != w->out || dst.cols != w->in || !cu_is_q4(w->dtype))
		return ql_err_set(e, QL_ESHAPE, "weight_rows: %ux%u values of a 4-bit weight wanted, %ux%u given", w->out, w->in, dst.rows, dst.cols);
	return cu_weight_expand(d, q, w, (bf16 *)dst.data, dst.ld, e);
}
