/* blk.c - GGUF block types for whole tensors: arguments, finiteness, parallel loop.  The rules are in blk_*.inc.h. */
#include "core/quant/blk.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/quant/kernels.h"

#define TOO_LARGE_BITS 0x4e6e6b28u /* 1e9: beyond what any block type can hold, and its square still is a number */
#define SEGMENT 16384u /* elements of one item of work; a multiple of every block */

bool ql_blk_known(enum ql_dtype t)
{
	return t == QL_F32 || t == QL_F16 || t == QL_BF16 ||
	       (t < QL_DTYPE_COUNT && ql_quant_ops_scalar.blk_dequant[t] != NULL);
}

static int check_args(enum ql_dtype t, uint64_t n, struct ql_err *e)
{
	if (!ql_blk_known(t))
		return ql_err_param(e, QL_EINVAL, "type", "%s is not a GGUF block type known here",
				    t < QL_DTYPE_COUNT ? ql_dtype_name(t) : "this");
	if (n % ql_dtypes[t].block != 0)
		return ql_err_param(e, QL_ESHAPE, "n", "%llu elements are no multiple of the %s block of %u",
				    (unsigned long long)n, ql_dtype_name(t), ql_dtypes[t].block);
	if (n > UINT64_MAX / 8)
		return ql_err_param(e, QL_ELIMIT, "n", "too many elements");
	return QL_OK;
}

int ql_blk_dequantize(enum ql_dtype t, const void *src, uint64_t n, float *dst, struct ql_err *e)
{
	const struct ql_quant_ops *ops = ql_quant_ops_best();
	int rc = check_args(t, n, e);

	if (rc != QL_OK || n == 0)
		return rc;
	if (t == QL_F32 || t == QL_F16 || t == QL_BF16)
		ops->widen(src, t, (size_t)n, dst);
	else
		ops->blk_dequant[t](src, (size_t)(n / ql_dtypes[t].block), dst);
	return QL_OK;
}

/* ---- scales that are NaN or infinite ---- */

/* Offsets of the one or two f16 numbers of a block. */
static int scale_offsets(enum ql_dtype t, uint32_t at[2])
{
	at[0] = t == QL_Q6_K ? 208 : 0;
	at[1] = 2;
	return t == QL_Q4_1 || t == QL_Q5_1 || t == QL_Q4_K || t == QL_Q5_K ? 2 : 1;
}

/* Index of the first block with a scale that is not finite (plain types: the first such element), or n_blocks. */
static uint64_t first_bad_block(enum ql_dtype t, const uint8_t *p, uint64_t n_blocks)
{
	uint32_t size = ql_dtypes[t].bytes, at[2] = {0, 0};
	uint16_t inf = t == QL_BF16 ? 0x7f80 : 0x7c00, h;
	int n_scales = scale_offsets(t, at);

	if (t == QL_F32) {
		for (uint64_t i = 0; i < n_blocks; i++) {
			uint32_t u;

			memcpy(&u, p + i * 4, 4);
			if ((u & QL_BITS_INF) == QL_BITS_INF)
				return i;
		}
		return n_blocks;
	}
	for (uint64_t i = 0; i < n_blocks; i++, p += size)
		for (int k = 0; k < n_scales; k++) {
			memcpy(&h, p + at[k], 2);
			if ((h & inf) == inf)
				return i;
		}
	return n_blocks;
}

int ql_blk_check(enum ql_dtype t, const void *src, uint64_t n, struct ql_err *e)
{
	int rc = check_args(t, n, e);
	uint64_t blocks, bad;

	if (rc != QL_OK)
		return rc;
	blocks = n / ql_dtypes[t].block;
	bad = first_bad_block(t, src, blocks);
	if (bad == blocks)
		return QL_OK;
	(void)ql_err_set(e, QL_EFORMAT, "%s block %llu has a NaN or infinite %s", ql_dtype_name(t), (unsigned long long)bad,
			 ql_dtypes[t].block == 1 ? "value" : "scale");
	if (e != NULL)
		e->offset = bad;
	return QL_EFORMAT;
}

/* ---- quantise ---- */

struct blk_run {
	const struct ql_quant_ops *ops;
	enum ql_dtype t;
	const float *src, *importance;
	uint64_t cols, per_row; /* columns; segments of one row */
	uint8_t *dst;
	_Atomic uint64_t bad; /* first element at fault */
};

static void fault(struct blk_run *r, uint64_t element)
{
	uint64_t seen = atomic_load(&r->bad);

	while (element < seen && !atomic_compare_exchange_weak(&r->bad, &seen, element))
		;
}

static void blk_segment(void *ctx, size_t i, int worker)
{
	struct blk_run *r = ctx;
	uint64_t col = i % r->per_row * SEGMENT, at = i / r->per_row * r->cols + col;
	size_t n = (size_t)(r->cols - col < SEGMENT ? r->cols - col : SEGMENT);
	uint32_t block = ql_dtypes[r->t].block;
	uint8_t *dst = r->dst + at / block * ql_dtypes[r->t].bytes;
	const float *x = r->src + at;
	uint32_t most = block == 1 ? QL_BITS_INF : TOO_LARGE_BITS;
	uint64_t bad;

	(void)worker;
	if (r->ops->absmax_bits(x, n) >= most) {
		for (bad = 0; r->ops->absmax_bits(x + bad, 1) < most; bad++)
			;
		fault(r, at + bad);
		return;
	}
	if (r->t == QL_F32)
		memcpy(dst, x, n * 4);
	else if (block == 1)
		r->ops->narrow(x, n, r->t, (uint16_t *)(void *)dst);
	else
		r->ops->blk_quant[r->t](x, n / block, r->importance == NULL ? NULL : r->importance + col, dst);
	bad = first_bad_block(r->t, dst, n / block);
	if (bad != n / block)
		fault(r, at + bad * block);
}

static int check_importance(enum ql_dtype t, const float *v, uint64_t cols, struct ql_err *e)
{
	if (t != QL_Q4_K && t != QL_Q5_K && t != QL_Q6_K)
		return ql_err_param(e, QL_EUNSUPPORTED, "importance", "importance weights are for q4_k, q5_k and q6_k, not %s",
				    ql_dtype_name(t));
	for (uint64_t i = 0; i < cols; i++)
		if (!(v[i] >= 0.0f) || !isfinite(v[i])) {
			(void)ql_err_param(e, QL_EINVAL, "importance", "importance of column %llu is not a number >= 0",
					   (unsigned long long)i);
			if (e != NULL)
				e->offset = i;
			return QL_EINVAL;
		}
	return QL_OK;
}

int ql_blk_quantize(enum ql_dtype t, const float *src, uint64_t rows, uint64_t cols, const float *importance, void *dst,
		    struct ql_pool *pool, struct ql_err *e)
{
	struct blk_run r = {.ops = ql_quant_ops_best(), .t = t, .src = src, .importance = importance, .dst = dst,
			    .bad = UINT64_MAX};
	uint64_t n;
	int rc = check_args(t, cols, e);

	if (rc != QL_OK)
		return rc;
	if (!ql_mul_u64(rows, cols, &n) || n > UINT64_MAX / 8)
		return ql_err_param(e, QL_ELIMIT, "shape", "too many elements");
	if (importance != NULL && (rc = check_importance(t, importance, cols, e)) != QL_OK)
		return rc;
	if (n == 0)
		return QL_OK;
	r.cols = importance != NULL ? cols : n; /* without importance the blocks of all rows are one long row */
	r.per_row = r.cols / SEGMENT + (r.cols % SEGMENT != 0);
	ql_pool_run(pool, (size_t)(n / r.cols * r.per_row), blk_segment, &r);
	if (r.bad == UINT64_MAX)
		return QL_OK;
	(void)ql_err_set(e, QL_ENONFINITE, "element %llu %s", (unsigned long long)r.bad,
			 isfinite(src[r.bad]) ? "or its block is too large for this type" : "is not finite");
	if (e != NULL)
		e->offset = r.bad;
	return QL_ENONFINITE;
}
