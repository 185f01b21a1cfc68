/* q4_read.c - decoding 4-bit tensors, any range of elements, in pieces spread over a pool.
 *
 * A piece is at most 65,536 elements and at most QL_Q4_FILL_MAX blocks; its scales (expanded if nested) live on the
 * stack.  Results of 32 MiB and more are written around the caches: nothing of them would be left there anyway, and
 * plain stores would read every line before writing it. */
#include "core/quant/q4_impl.h"

#include <string.h>

#define STREAM_BYTES (32u << 20)

struct read_run {
	const struct ql_quant_ops *ops;
	const struct ql_q4_source *s;
	uint64_t begin, end, first, per; /* pieces start at first + i*per, whole blocks */
	uint8_t *dst;
	enum ql_dtype dtype;
	bool stream;
};

static void read_piece(void *ctx, size_t i, int worker)
{
	const struct read_run *r = ctx;
	const struct ql_q4_source *s = r->s;
	float scale[QL_Q4_FILL_MAX], zero[QL_Q4_FILL_MAX];
	uint64_t from = r->first + i * r->per, to = from + r->per;
	struct ql_q4_read rd = {.code = s->code, .codes = s->codes, .scale = scale, .zero = s->has_zero ? zero : NULL,
				.blocksize = s->blocksize, .stream = r->stream};
	size_t size = r->dtype == QL_F32 ? 4 : 2;
	uint8_t *dst;

	(void)worker;
	from = from > r->begin ? from : r->begin;
	to = to < r->end ? to : r->end;
	rd.begin = from;
	rd.count = to - from;
	rd.first_block = from / s->blocksize;
	s->fill(s->ctx, rd.first_block, (to - 1) / s->blocksize - rd.first_block + 1, scale, s->has_zero ? zero : NULL);
	dst = r->dst + (from - r->begin) * size;
	if (r->dtype == QL_F32)
		r->ops->q4_dequant_f32(&rd, (float *)(void *)dst);
	else
		r->ops->q4_dequant_h16(&rd, (uint16_t *)(void *)dst, r->dtype);
}

void ql_q4_read_run(const struct ql_q4_source *s, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		    struct ql_pool *pool)
{
	struct read_run r = {.ops = ql_quant_ops_best(), .s = s, .begin = begin, .end = begin + count, .dst = dst,
			     .dtype = dst_dtype};

	if (count == 0)
		return;
	/* A slice longer than a piece is cut anywhere (evenly); shorter blocks are never cut. */
	r.per = QL_Q4_CHUNK;
	if (s->blocksize < QL_Q4_CHUNK) {
		uint64_t blocks = QL_Q4_CHUNK / s->blocksize;

		r.per = (blocks < QL_Q4_FILL_MAX - 2 ? blocks : QL_Q4_FILL_MAX - 2) * s->blocksize;
	}
	r.first = begin / r.per * r.per;
	r.stream = count * (dst_dtype == QL_F32 ? 4 : 2) >= STREAM_BYTES;
	ql_pool_run(pool, (size_t)ql_q4_ceil(r.end - r.first, r.per), read_piece, &r);
}

int ql_q4_range_check(uint64_t n, uint64_t begin, uint64_t count, enum ql_dtype dst_dtype, struct ql_err *e)
{
	if (begin > n || count > n - begin)
		return ql_err_param(e, QL_EINVAL, "begin", "elements [%llu, +%llu) of %llu", (unsigned long long)begin,
				    (unsigned long long)count, (unsigned long long)n);
	if (dst_dtype != QL_F32 && dst_dtype != QL_BF16 && dst_dtype != QL_F16)
		return ql_err_param(e, QL_EINVAL, "dtype", "can only dequantise to f32, bf16 or f16");
	return QL_OK;
}

static void fill_q4(const void *ctx, uint64_t first, uint64_t n, float *scale, float *zero)
{
	const struct ql_q4 *q = ctx;

	(void)zero;
	(void)ql_q4_absmax(q, first, n, scale);
}

int ql_q4_dequantize(const struct ql_q4 *q, uint64_t begin, uint64_t count, void *dst, enum ql_dtype dst_dtype,
		     struct ql_pool *pool, struct ql_err *e)
{
	struct ql_q4_source s = {.code = q->code, .codes = q->codes, .blocksize = q->blocksize, .fill = fill_q4, .ctx = q};
	int rc = ql_q4_range_check(q->n, begin, count, dst_dtype, e);

	if (rc == QL_OK)
		ql_q4_read_run(&s, begin, count, dst, dst_dtype, pool);
	return rc;
}

int ql_q4_absmax(const struct ql_q4 *q, uint64_t first_block, uint64_t n_blocks, float *out)
{
	uint64_t m = ql_q4_blocks(q);

	if (first_block > m || n_blocks > m - first_block)
		return QL_EINVAL;
	if (q->nested)
		ql_q4_expand_absmax(q->nested_map, q->absmax_q, q->nested_absmax, q->nested_blocksize, q->offset,
				    first_block, n_blocks, out);
	else if (n_blocks != 0)
		memcpy(out, q->absmax + first_block, (size_t)n_blocks * sizeof *out);
	return QL_OK;
}

void ql_q4_dequant_f32(const float code[16], const uint8_t *codes, const float *absmax, uint32_t blocksize,
		       uint64_t begin, uint64_t count, float *dst)
{
	struct ql_q4_read r = {.code = code, .codes = codes, .scale = absmax, .blocksize = blocksize, .begin = begin,
			       .count = count};

	ql_quant_ops_best()->q4_dequant_f32(&r, dst);
}

void ql_q4_dequant_h16(const float code[16], const uint8_t *codes, const float *absmax, uint32_t blocksize,
		       uint64_t begin, uint64_t count, uint16_t *dst, enum ql_dtype dst_dtype)
{
	struct ql_q4_read r = {.code = code, .codes = codes, .scale = absmax, .blocksize = blocksize, .begin = begin,
			       .count = count};

	ql_quant_ops_best()->q4_dequant_h16(&r, dst, dst_dtype);
}
