/* int8.c - INT8 blocks and the 8-bit codes of Adam states; formulas in int8.h. */
#include "core/quant/int8.h"

#include <math.h>
#include <stdatomic.h>

#include "core/quant/q4_impl.h"

#define PIECE_BLOCKS 64 /* blocks of one item of work */

struct int8_run {
	const struct ql_quant_ops *ops;
	const uint8_t *src;
	enum ql_dtype dtype;
	uint64_t n, blocksize;
	int8_t *codes;
	float *scale;
	_Atomic uint64_t bad; /* first element of the first block with a NaN or infinity */
};

static void lower(_Atomic uint64_t *to, uint64_t value)
{
	uint64_t seen = atomic_load(to);

	while (value < seen && !atomic_compare_exchange_weak(to, &seen, value))
		;
}

static void int8_piece(void *ctx, size_t i, int worker)
{
	struct int8_run *r = ctx;
	_Alignas(64) float x[4096];
	uint64_t size = r->dtype == QL_F32 ? 4 : 2;

	(void)worker;
	for (uint64_t b = i * PIECE_BLOCKS; b < (i + 1) * PIECE_BLOCKS && b * r->blocksize < r->n; b++) {
		uint64_t at = b * r->blocksize;
		size_t len = (size_t)(r->n - at < r->blocksize ? r->n - at : r->blocksize);
		uint32_t bits;
		float top, d;

		r->ops->widen(r->src + at * size, r->dtype, len, x);
		bits = r->ops->absmax_bits(x, len);
		if (bits >= QL_BITS_INF) {
			lower(&r->bad, at);
			return;
		}
		memcpy(&top, &bits, 4);
		d = top / 127.0f;
		r->scale[b] = d;
		r->ops->int8_encode(x, len, 1.0f / (d > QL_SCALE_FLOOR ? d : QL_SCALE_FLOOR), r->codes + at);
	}
}

/* Names the first element of the block at `at` that is not finite. */
static int refuse(const void *src, enum ql_dtype t, uint64_t at, uint64_t n, struct ql_err *e)
{
	uint64_t size = t == QL_F32 ? 4 : 2;
	int rc;

	for (; at < n; at++) {
		float x;

		ql_quant_ops_scalar.widen((const uint8_t *)src + at * size, t, 1, &x);
		if (!isfinite(x))
			break;
	}
	rc = ql_err_set(e, QL_ENONFINITE, "element %llu is not finite", (unsigned long long)at);
	if (e != NULL)
		e->offset = at;
	return rc;
}

int ql_int8_quantize(const void *src, enum ql_dtype src_dtype, uint64_t n, uint32_t blocksize, int8_t *codes,
		     float *scale, struct ql_pool *pool, struct ql_err *e)
{
	struct ql_q4_opts o = {.kind = QL_INT4, .blocksize = blocksize};
	struct int8_run r = {.ops = ql_quant_ops_best(), .src = src, .dtype = src_dtype, .n = n, .blocksize = blocksize,
			     .codes = codes, .scale = scale, .bad = UINT64_MAX};
	int rc = ql_q4_opts_check(&o, src_dtype, n, 0, e); /* the same types and block sizes */

	if (rc != QL_OK)
		return rc;
	ql_pool_run(pool, (size_t)ql_q4_ceil(n, (uint64_t)PIECE_BLOCKS * blocksize), int8_piece, &r);
	return r.bad == UINT64_MAX ? QL_OK : refuse(src, src_dtype, r.bad, n, e);
}

void ql_int8_dequantize(const int8_t *codes, const float *scale, uint32_t blocksize, uint64_t begin, uint64_t count,
			float *dst)
{
	for (uint64_t at = begin, end = begin + count; at < end;) {
		uint64_t block = at / blocksize, stop = (block + 1) * blocksize;
		float d = scale[block];

		stop = stop < end ? stop : end;
		for (; at < stop; at++)
			*dst++ = (float)codes[at] * d;
	}
}

/* ---- 8-bit states ---- */

float ql_dyn8_encode_block(bool is_signed, const float *x, uint32_t n, uint8_t *codes)
{
	const struct ql_dynamic *find = ql_dynamic_of(is_signed);
	uint32_t bits = ql_quant_ops_best()->absmax_bits(x, n);
	float top;

	memcpy(&top, &bits, 4);
	if (top == 0.0f) {
		memset(codes, is_signed ? 127 : 0, n);
		return top;
	}
	for (uint32_t i = 0; i < n; i++) {
		unsigned c = ql_dynamic_code(find, x[i] / top);

		if (is_signed) { /* 127 is the map's zero; no branch, the signs are random */
			c -= (unsigned)(x[i] < 0.0f) & (unsigned)(c >= 127);
			c += (unsigned)(x[i] > 0.0f) & (unsigned)(c < 127);
		}
		codes[i] = (uint8_t)c;
	}
	return top;
}

void ql_dyn8_decode_block(bool is_signed, const uint8_t *codes, float absmax, uint32_t n, float *dst)
{
	const float *map = is_signed ? ql_dynamic_map_signed() : ql_dynamic_map_unsigned();

	for (uint32_t i = 0; i < n; i++)
		dst[i] = map[codes[i]] * absmax;
}

struct dyn8_run {
	bool is_signed;
	const float *src;
	uint64_t n;
	uint8_t *codes;
	float *absmax;
	_Atomic uint64_t bad, negative;
};

static void dyn8_piece(void *ctx, size_t i, int worker)
{
	struct dyn8_run *r = ctx;

	(void)worker;
	for (uint64_t b = i * PIECE_BLOCKS; b < (i + 1) * PIECE_BLOCKS && b * QL_DYN8_BLOCK < r->n; b++) {
		uint64_t at = b * QL_DYN8_BLOCK;
		uint32_t len = (uint32_t)(r->n - at < QL_DYN8_BLOCK ? r->n - at : QL_DYN8_BLOCK);

		if (ql_quant_ops_best()->absmax_bits(r->src + at, len) >= QL_BITS_INF) {
			lower(&r->bad, at);
			return;
		}
		if (!r->is_signed)
			for (uint32_t k = 0; k < len; k++)
				if (r->src[at + k] < 0.0f)
					lower(&r->negative, at + k);
		r->absmax[b] = ql_dyn8_encode_block(r->is_signed, r->src + at, len, r->codes + at);
	}
}

int ql_dyn8_quantize(bool is_signed, const float *src, uint64_t n, uint8_t *codes, float *absmax, struct ql_pool *pool,
		     struct ql_err *e)
{
	struct dyn8_run r = {.is_signed = is_signed, .src = src, .n = n, .codes = codes, .absmax = absmax,
			     .bad = UINT64_MAX, .negative = UINT64_MAX};

	ql_pool_run(pool, (size_t)ql_q4_ceil(n, PIECE_BLOCKS * QL_DYN8_BLOCK), dyn8_piece, &r);
	if (r.bad != UINT64_MAX)
		return refuse(src, QL_F32, r.bad, n, e);
	if (r.negative != UINT64_MAX) {
		(void)ql_err_set(e, QL_EINVAL, "element %llu is negative; the unsigned map cannot hold it",
				 (unsigned long long)r.negative);
		if (e != NULL)
			e->offset = r.negative;
		return QL_EINVAL;
	}
	return QL_OK;
}

void ql_dyn8_dequantize(bool is_signed, const uint8_t *codes, const float *absmax, uint64_t n, float *dst)
{
	for (uint64_t at = 0; at < n; at += QL_DYN8_BLOCK)
		ql_dyn8_decode_block(is_signed, codes + at, absmax[at / QL_DYN8_BLOCK],
				     (uint32_t)(n - at < QL_DYN8_BLOCK ? n - at : QL_DYN8_BLOCK), dst + at);
}
