/* quant_more.c - the public face of the other forms: 4-bit with zero points, 8 bit; 4-bit tensors from a caller's own arrays. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/quant/int8.h"
#include "core/quant/strategy.h"
#include "lib/priv.h"

struct qlora_asym {
	struct ql_q4a q;
};

static int asym_into(struct ql_q4a *q, const void *src, enum ql_dtype dtype, uint64_t rows, uint64_t cols,
		     const struct qlora_q4_options *o, struct ql_err *e)
{
	struct ql_pool *pool = NULL;
	struct ql_q4_opts opts;
	uint64_t n;
	int rc = lib_q4_begin(o, rows, cols, &n, &opts, &pool, e);

	if (rc == QL_OK && o->block == 0)
		rc = ql_q4a_quantize_channels(q, src, dtype, rows, cols, &opts, pool, e);
	else if (rc == QL_OK)
		rc = ql_q4a_quantize(q, src, dtype, n, &opts, pool, e);
	ql_pool_free(pool);
	return rc;
}

int qlora_asym_quantize(qlora_asym **out, const void *src, enum qlora_type src_type, uint64_t rows, uint64_t cols,
			const struct qlora_q4_options *options, struct qlora_error *err)
{
	const struct qlora_q4_options defaults = QLORA_Q4_OPTIONS_INIT, *o = options != NULL ? options : &defaults;
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct qlora_asym *q = NULL;
	int rc = QL_OK;

	if (out == NULL)
		return lib_done(ql_err_param(&e, QL_EINVAL, "out", "out is NULL"), &e, err);
	*out = NULL;
	if (src == NULL || o->size < sizeof defaults)
		rc = ql_err_param(&e, QL_EINVAL, src == NULL ? "src" : "size", "src is NULL or options->size is not set");
	if (rc == QL_OK && (q = calloc(1, sizeof *q)) == NULL)
		rc = ql_err_set(&e, QL_ENOMEM, "no memory for a tensor");
	if (rc == QL_OK)
		rc = asym_into(&q->q, src, lib_dtype(src_type), rows, cols, o, &e);
	if (rc != QL_OK)
		free(q);
	else
		*out = q;
	return lib_done(rc, &e, err);
}

int qlora_asym_dequantize(const qlora_asym *q, uint64_t begin, uint64_t count, void *dst, enum qlora_type dst_type,
			  struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};

	return lib_done(ql_q4a_dequantize(&q->q, begin, count, dst, lib_dtype(dst_type), NULL, &e), &e, err);
}

uint64_t qlora_asym_bytes(const qlora_asym *q) { return ql_q4a_bytes(&q->q); }

void qlora_asym_free(qlora_asym *q)
{
	if (q == NULL)
		return;
	ql_q4a_free(&q->q);
	free(q);
}

int qlora_int8_quantize(const void *src, enum qlora_type src_type, uint64_t n, uint32_t block, int8_t *codes, float *scales,
			int threads, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct ql_pool *pool;
	int rc = lib_pool(threads, &pool, &e);

	if (rc == QL_OK)
		rc = ql_int8_quantize(src, lib_dtype(src_type), n, block, codes, scales, pool, &e);
	ql_pool_free(pool);
	return lib_done(rc, &e, err);
}

int qlora_int8_dequantize(const int8_t *codes, const float *scales, uint32_t block, uint64_t begin, uint64_t count, float *dst,
			  struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};

	if (!ql_q4_blocksize_ok(block))
		return lib_done(ql_err_param(&e, QL_EINVAL, "block", "block size %u", block), &e, err);
	ql_int8_dequantize(codes, scales, block, begin, count, dst);
	return lib_done(QL_OK, &e, err);
}

/* Copies codes and scales into q, whose sizes are set. */
static int take_arrays(struct qlora_q4 *q, const uint8_t *codes, const float *absmax, struct ql_err *e)
{
	uint64_t n = (q->q.n + 1) / 2, m = ql_q4_blocks(&q->q), scales;

	if (!ql_mul_u64(m, sizeof *absmax, &scales) || n > SIZE_MAX - 8 - scales)
		return ql_err_set(e, QL_ELIMIT, "too many elements");
	q->q.owned = malloc((size_t)(scales + n));
	if (q->q.owned == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for %llu elements", (unsigned long long)q->q.n);
	q->q.absmax = q->q.owned;
	q->q.codes = (uint8_t *)q->q.owned + scales;
	memcpy(q->q.absmax, absmax, (size_t)scales);
	memcpy(q->q.codes, codes, (size_t)n);
	return ql_q4_check(&q->q, e);
}

int qlora_q4_from(qlora_q4 **out, enum qlora_type type, uint64_t rows, uint64_t cols, uint32_t block, const uint8_t *codes,
		  const float *absmax, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	const float *levels = ql_q4_code(lib_dtype(type));
	struct qlora_q4 *q = NULL;
	uint64_t n;
	int rc = QL_OK;

	if (out == NULL)
		return lib_done(ql_err_param(&e, QL_EINVAL, "out", "out is NULL"), &e, err);
	*out = NULL;
	if (levels == NULL || codes == NULL || absmax == NULL)
		rc = ql_err_param(&e, QL_EINVAL, levels == NULL ? "type" : codes == NULL ? "codes" : "absmax", "no 4-bit type, or NULL");
	else if (!ql_mul_u64(rows, cols, &n) || n == 0 || n > UINT64_MAX / 8 || (block == 0 && (cols % 2 != 0 || cols > UINT32_MAX)))
		rc = ql_err_set(&e, QL_ESHAPE, "a matrix of %llu x %llu", (unsigned long long)rows, (unsigned long long)cols);
	else if (block != 0 && !ql_q4_blocksize_ok(block))
		rc = ql_err_param(&e, QL_EINVAL, "block", "block size %u", block);
	else if ((q = calloc(1, sizeof *q)) == NULL)
		rc = ql_err_set(&e, QL_ENOMEM, "no memory for a tensor");
	if (rc == QL_OK) {
		q->rows = rows;
		q->cols = cols;
		q->q = (struct ql_q4){.kind = lib_dtype(type), .n = n, .blocksize = block != 0 ? block : (uint32_t)cols,
				      .per_channel = block == 0};
		memcpy(q->q.code, levels, sizeof q->q.code);
		rc = take_arrays(q, codes, absmax, &e);
	}
	if (rc == QL_OK)
		*out = q;
	else
		qlora_q4_free(q);
	return lib_done(rc, &e, err);
}
