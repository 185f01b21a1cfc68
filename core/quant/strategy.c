/* strategy.c - per-channel and asymmetric (zero point) 4-bit tensors; formulas in strategy.h.
 *
 * Both are the loops of q4.c with another block length or another frame; nothing of the code search differs. */
#include "core/quant/strategy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/quant/nested.h"
#include "core/quant/q4_impl.h"

/* Levels of the integer form: value = q * s + min. */
static const float code_range[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

static int channels_check(uint64_t rows, uint64_t cols, uint64_t *n, struct ql_err *e)
{
	if (rows == 0 || cols == 0 || cols % 2 != 0 || cols > UINT32_MAX)
		return ql_err_param(e, QL_ESHAPE, "shape",
				    "per-channel quantisation of [%llu, %llu]: an even, non-empty slice is needed",
				    (unsigned long long)rows, (unsigned long long)cols);
	if (!ql_mul_u64(rows, cols, n))
		return ql_err_param(e, QL_ELIMIT, "shape", "too many elements");
	return QL_OK;
}

int ql_q4_quantize_channels(struct ql_q4 *out, const void *src, enum ql_dtype src_dtype, uint64_t rows, uint64_t cols,
			    const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e)
{
	uint64_t n = 0;
	int rc = channels_check(rows, cols, &n, e);

	memset(out, 0, sizeof *out);
	return rc != QL_OK ? rc : ql_q4_quantize_any(out, src, src_dtype, n, cols, o, pool, e);
}

/* ---- asymmetric ---- */

static uint64_t blocks_of(const struct ql_q4a *q) { return ql_q4_ceil(q->n, q->blocksize); }

static uint64_t nested_blocks_of(const struct ql_q4a *q)
{
	return q->nested ? ql_q4_ceil(blocks_of(q), q->nested_blocksize) : 0;
}

uint64_t ql_q4a_bytes(const struct ql_q4a *q)
{
	uint64_t m = blocks_of(q), codes = q->n / 2 + q->n % 2;

	return q->nested ? codes + 2 * (m + 4 * nested_blocks_of(q) + 4) : codes + 8 * m;
}

/* Both vectors of `plain` (2 * m numbers) into the nested arrays of q. */
static int nest(struct ql_q4a *q, const float *plain, uint64_t m, struct ql_pool *pool, struct ql_err *e)
{
	for (int k = 0; k < 2; k++) {
		struct ql_q4_stat *s = &q->stat[k];

		if (!ql_nested_encode(plain + (uint64_t)k * m, m, q->nested_blocksize, s->q, s->absmax, &s->offset,
				      pool))
			return ql_err_param(e, QL_ENONFINITE, k == 0 ? "scale" : "zero",
					    "the %s vector spreads too far to be double-quantised",
					    k == 0 ? "scale" : "zero-point");
	}
	return QL_OK;
}

static int q4a_alloc(struct ql_q4a *q, float **plain, struct ql_err *e)
{
	uint64_t m = blocks_of(q), nb = nested_blocks_of(q);
	struct ql_q4_part parts[] = {
		{(void **)&q->codes, q->n / 2 + q->n % 2, 1},
		{(void **)&q->stat[0].f, q->nested ? 0 : 2 * m, sizeof(float)},
		{(void **)&q->stat[0].q, q->nested ? m : 0, 1},
		{(void **)&q->stat[1].q, q->nested ? m : 0, 1},
		{(void **)&q->stat[0].absmax, nb, sizeof(float)},
		{(void **)&q->stat[1].absmax, nb, sizeof(float)},
	};

	q->owned = ql_q4_alloc(parts, 6);
	*plain = NULL;
	if (q->owned != NULL) {
		q->stat[1].f = q->nested ? NULL : q->stat[0].f + m;
		*plain = q->nested ? malloc((size_t)m * 2 * sizeof(float)) : q->stat[0].f;
	}
	if (*plain == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a tensor of %llu elements", (unsigned long long)q->n);
	return QL_OK;
}

static int quantize_any(struct ql_q4a *out, const void *src, enum ql_dtype src_dtype, uint64_t n, uint64_t channel,
			const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e)
{
	struct ql_q4a q = {.kind = o->kind, .n = n, .nested = o->nested, .per_channel = channel != 0};
	float *plain = NULL;
	int rc = ql_q4_opts_check(o, src_dtype, n, channel, e);

	if (rc != QL_OK)
		return rc;
	q.blocksize = channel != 0 ? (uint32_t)channel : o->blocksize;
	q.nested_blocksize = o->nested ? o->nested_blocksize : 0;
	rc = q4a_alloc(&q, &plain, e);
	if (rc != QL_OK)
		goto cleanup;
	struct ql_q4_job job = {.book = ql_q4_book_of(o->kind), .code = ql_q4_code(o->kind),
				.mode = o->kind == QL_INT4 ? QL_Q4_RANGE : QL_Q4_MID,
				.src = src, .src_dtype = src_dtype, .n = n, .blocksize = q.blocksize, .codes = q.codes,
				.scale = plain, .zero = plain + blocks_of(&q)};
	rc = ql_q4_quant_run(&job, pool, e);
	if (rc == QL_OK && o->nested)
		rc = nest(&q, plain, blocks_of(&q), pool, e);
cleanup:
	if (o->nested)
		free(plain);
	if (rc == QL_OK)
		*out = q;
	else
		free(q.owned);
	return rc;
}

int ql_q4a_quantize(struct ql_q4a *out, const void *src, enum ql_dtype src_dtype, uint64_t n,
		    const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e)
{
	memset(out, 0, sizeof *out);
	return quantize_any(out, src, src_dtype, n, 0, o, pool, e);
}

int ql_q4a_quantize_channels(struct ql_q4a *out, const void *src, enum ql_dtype src_dtype, uint64_t rows, uint64_t cols,
			     const struct ql_q4_opts *o, struct ql_pool *pool, struct ql_err *e)
{
	uint64_t n = 0;
	int rc = channels_check(rows, cols, &n, e);

	memset(out, 0, sizeof *out);
	return rc != QL_OK ? rc : quantize_any(out, src, src_dtype, n, cols, o, pool, e);
}

static void stats(const struct ql_q4a *q, uint64_t first, uint64_t n, float *scale, float *zero)
{
	for (int k = 0; k < 2; k++) {
		const struct ql_q4_stat *s = &q->stat[k];
		float *out = k == 0 ? scale : zero;

		if (q->nested)
			ql_q4_expand_absmax(ql_dynamic_map_signed(), s->q, s->absmax, q->nested_blocksize, s->offset,
					    first, n, out);
		else if (n != 0)
			memcpy(out, s->f + first, (size_t)n * sizeof *out);
	}
}

int ql_q4a_stats(const struct ql_q4a *q, uint64_t first, uint64_t n_blocks, float *scale, float *zero)
{
	uint64_t m = blocks_of(q);

	if (first > m || n_blocks > m - first)
		return QL_EINVAL;
	stats(q, first, n_blocks, scale, zero);
	return QL_OK;
}

static void fill_q4a(const void *ctx, uint64_t first, uint64_t n, float *scale, float *zero)
{
	stats(ctx, first, n, scale, zero);
}

int ql_q4a_dequantize(const struct ql_q4a *q, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		      struct ql_pool *pool, struct ql_err *e)
{
	struct ql_q4_source s = {.code = q->kind == QL_INT4 ? code_range : ql_q4_code(q->kind), .codes = q->codes,
				 .blocksize = q->blocksize, .has_zero = true, .fill = fill_q4a, .ctx = q};
	int rc = ql_q4_range_check(q->n, begin, count, dst_dtype, e);

	if (rc == QL_OK)
		ql_q4_read_run(&s, begin, count, dst, dst_dtype, pool);
	return rc;
}

static int stat_check(const struct ql_q4a *q, const struct ql_q4_stat *s, const char *name, struct ql_err *e)
{
	uint64_t m = blocks_of(q), nb = nested_blocks_of(q), i;

	if (q->nested ? s->q == NULL || s->absmax == NULL : s->f == NULL)
		return ql_err_param(e, QL_EFORMAT, name, "%s is missing", name);
	if (!q->nested) {
		i = ql_q4_first_nonfinite(s->f, m);
		if (i == m)
			return QL_OK;
	} else {
		for (i = 0; i < nb; i++) {
			float sum = fabsf(s->absmax[i]) + fabsf(s->offset);

			if (!isfinite(sum))
				break;
		}
		if (i == nb)
			return QL_OK;
	}
	(void)ql_err_param(e, QL_EFORMAT, name, "%s[%llu] is not finite", name, (unsigned long long)i);
	if (e != NULL)
		e->offset = i;
	return QL_EFORMAT;
}

int ql_q4a_check(const struct ql_q4a *q, struct ql_err *e)
{
	int rc;

	if (ql_q4_book_of(q->kind) == NULL)
		return ql_err_param(e, QL_EFORMAT, "quant_type", "not a 4-bit type");
	if (q->n == 0 || q->n > UINT64_MAX / 8)
		return ql_err_param(e, QL_EFORMAT, "shape", "%llu elements", (unsigned long long)q->n);
	if (q->per_channel ? q->blocksize == 0 || q->blocksize % 2 != 0 || q->n % q->blocksize != 0 :
			     !ql_q4_blocksize_ok(q->blocksize))
		return ql_err_param(e, QL_EFORMAT, "blocksize", "block size %u", q->blocksize);
	if (q->nested && !ql_q4_blocksize_ok(q->nested_blocksize))
		return ql_err_param(e, QL_EFORMAT, "nested_blocksize", "nested block size %u", q->nested_blocksize);
	if (q->codes == NULL)
		return ql_err_param(e, QL_EFORMAT, "codes", "codes are missing");
	rc = stat_check(q, &q->stat[0], "scale", e);
	return rc != QL_OK ? rc : stat_check(q, &q->stat[1], "zero", e);
}

void ql_q4a_free(struct ql_q4a *q)
{
	if (q == NULL)
		return;
	free(q->owned);
	memset(q, 0, sizeof *q);
}
