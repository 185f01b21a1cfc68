/* quant.c - types, errors and quantisers of the public interface. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/quant/blk.h"
#include "core/quant/strategy.h"
#include "lib/priv.h"

static const struct {
	enum qlora_type type;
	enum ql_dtype dtype;
} types[] = {{QLORA_F32, QL_F32},   {QLORA_F16, QL_F16},   {QLORA_BF16, QL_BF16}, {QLORA_Q4_0, QL_Q4_0}, {QLORA_Q4_1, QL_Q4_1},
	     {QLORA_Q5_0, QL_Q5_0}, {QLORA_Q5_1, QL_Q5_1}, {QLORA_Q8_0, QL_Q8_0}, {QLORA_Q4_K, QL_Q4_K}, {QLORA_Q5_K, QL_Q5_K},
	     {QLORA_Q6_K, QL_Q6_K}, {QLORA_IQ4_NL, QL_IQ4_NL}, {QLORA_NF4, QL_NF4}, {QLORA_FP4, QL_FP4}, {QLORA_INT4, QL_INT4}};
#define N_TYPES (sizeof types / sizeof types[0])

int qlora_api_version(void) { return QLORA_API_VERSION; }
const char *qlora_version(void) { return QL_VERSION; }
const char *qlora_code_text(int code) { return ql_code_text(code); }

int lib_done(int rc, const struct ql_err *e, struct qlora_error *err)
{
	if (err == NULL)
		return rc;
	memset(err, 0, sizeof *err);
	err->offset = QLORA_NO_OFFSET;
	err->code = rc;
	if (rc == QL_OK)
		return rc;
	err->offset = e->offset;
	memcpy(err->param, e->param, sizeof err->param);
	memcpy(err->message, e->message, sizeof err->message);
	return rc;
}

enum ql_dtype lib_dtype(enum qlora_type t)
{
	for (size_t i = 0; i < N_TYPES; i++)
		if (types[i].type == t)
			return types[i].dtype;
	return QL_DTYPE_COUNT;
}

enum qlora_type lib_type(enum ql_dtype t)
{
	for (size_t i = 0; i < N_TYPES; i++)
		if (types[i].dtype == t)
			return types[i].type;
	return QLORA_OTHER;
}

const char *qlora_type_name(enum qlora_type t)
{
	enum ql_dtype d = lib_dtype(t);

	return d < QL_DTYPE_COUNT ? ql_dtype_name(d) : "?";
}

enum qlora_type qlora_type_of(const char *name)
{
	enum ql_dtype d = ql_dtype_of(name);

	return d < QL_DTYPE_COUNT ? lib_type(d) : QLORA_OTHER;
}

uint64_t qlora_type_bytes(enum qlora_type t, uint64_t n)
{
	enum ql_dtype d = lib_dtype(t);

	return d < QL_DTYPE_COUNT && ql_blk_known(d) && n % ql_dtypes[d].block == 0 ? ql_dtype_bytes(d, n) : 0;
}

int lib_pool(int threads, struct ql_pool **pool, struct ql_err *e)
{
	*pool = NULL;
	if (threads < 1 || threads > 256)
		return ql_err_param(e, QL_EINVAL, "threads", "threads: 1 to 256, not %d", threads);
	if (threads > 1 && (*pool = ql_pool_new(threads)) == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for %d threads", threads);
	return QL_OK;
}

int lib_q4_begin(const struct qlora_q4_options *o, uint64_t rows, uint64_t cols, uint64_t *n, struct ql_q4_opts *opts,
		 struct ql_pool **pool, struct ql_err *e)
{
	*pool = NULL;
	*opts = (struct ql_q4_opts){lib_dtype(o->type), o->block, o->double_quant != 0, 256};
	if (!ql_mul_u64(rows, cols, n) || *n == 0)
		return ql_err_set(e, QL_ESHAPE, "a matrix of %llu x %llu", (unsigned long long)rows, (unsigned long long)cols);
	return lib_pool(o->threads, pool, e);
}

static int q4_into(struct qlora_q4 *q, const void *src, enum ql_dtype dtype, const struct qlora_q4_options *o, struct ql_err *e)
{
	struct ql_pool *pool = NULL;
	struct ql_q4_opts opts;
	uint64_t n;
	int rc = lib_q4_begin(o, q->rows, q->cols, &n, &opts, &pool, e);

	if (rc == QL_OK && o->block == 0)
		rc = ql_q4_quantize_channels(&q->q, src, dtype, q->rows, q->cols, &opts, pool, e);
	else if (rc == QL_OK)
		rc = ql_q4_quantize(&q->q, src, dtype, n, &opts, pool, e);
	ql_pool_free(pool);
	return rc;
}

int qlora_q4_quantize(qlora_q4 **out, const void *src, enum qlora_type src_type, uint64_t rows, uint64_t cols,
		      const struct qlora_q4_options *options, struct qlora_error *err)
{
	const struct qlora_q4_options defaults = QLORA_Q4_OPTIONS_INIT, *o = options != NULL ? options : &defaults;
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct qlora_q4 *q = NULL;
	int rc = QL_OK;

	if (out == NULL)
		return lib_done(ql_err_param(&e, QL_EINVAL, "out", "out is NULL"), &e, err);
	*out = NULL;
	if (src == NULL || o->size < sizeof defaults)
		rc = ql_err_param(&e, QL_EINVAL, src == NULL ? "src" : "size", "src is NULL or options->size is not set");
	if (rc == QL_OK && (q = calloc(1, sizeof *q)) == NULL)
		rc = ql_err_set(&e, QL_ENOMEM, "no memory for a tensor");
	if (rc == QL_OK) {
		q->rows = rows;
		q->cols = cols;
		rc = q4_into(q, src, lib_dtype(src_type), o, &e);
	}
	if (rc != QL_OK)
		free(q);
	else
		*out = q;
	return lib_done(rc, &e, err);
}

int qlora_q4_dequantize(const qlora_q4 *q, uint64_t begin, uint64_t count, void *dst, enum qlora_type dst_type,
			struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};

	return lib_done(ql_q4_dequantize(&q->q, begin, count, dst, lib_dtype(dst_type), NULL, &e), &e, err);
}

uint64_t qlora_q4_rows(const qlora_q4 *q) { return q->rows; }
uint64_t qlora_q4_cols(const qlora_q4 *q) { return q->cols; }
uint64_t qlora_q4_bytes(const qlora_q4 *q) { return ql_q4_bytes(&q->q); }
const uint8_t *qlora_q4_codes(const qlora_q4 *q) { return q->q.codes; }
uint64_t qlora_q4_blocks(const qlora_q4 *q) { return ql_q4_blocks(&q->q); }

int qlora_q4_absmax(const qlora_q4 *q, float *out, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};

	return lib_done(ql_q4_absmax(&q->q, 0, ql_q4_blocks(&q->q), out), &e, err);
}

void qlora_q4_free(qlora_q4 *q)
{
	if (q == NULL)
		return;
	ql_q4_free(&q->q);
	free(q);
}

int qlora_blocks_quantize(enum qlora_type t, const float *src, uint64_t rows, uint64_t cols, const float *importance, void *dst,
			  int threads, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};
	struct ql_pool *pool;
	int rc = lib_pool(threads, &pool, &e);

	if (rc == QL_OK)
		rc = ql_blk_quantize(lib_dtype(t), src, rows, cols, importance, dst, pool, &e);
	ql_pool_free(pool);
	return lib_done(rc, &e, err);
}

int qlora_blocks_dequantize(enum qlora_type t, const void *src, uint64_t n, float *dst, struct qlora_error *err)
{
	struct ql_err e = {.offset = QL_NO_OFFSET};

	return lib_done(ql_blk_dequantize(lib_dtype(t), src, n, dst, &e), &e, err);
}
