/* tq4.h - short forms of quantising and decoding a 4-bit tensor, for the tests. */
#ifndef QL_TESTS_TQ4_H
#define QL_TESTS_TQ4_H

#include "core/quant/q4.h"
#include "tests/unit/quant/tq.h"

static inline struct ql_q4 quant(const void *x, enum ql_dtype t, uint64_t n, enum ql_dtype kind, uint32_t b, bool nested)
{
	struct ql_q4_opts o = {.kind = kind, .blocksize = b, .nested = nested, .nested_blocksize = 256};
	struct ql_err e = {0};
	struct ql_q4 q;

	assert_int_equal(ql_q4_quantize(&q, x, t, n, &o, NULL, &e), QL_OK);
	assert_int_equal(ql_q4_check(&q, &e), QL_OK);
	return q;
}

static inline void dequant(const struct ql_q4 *q, float *y)
{
	assert_int_equal(ql_q4_dequantize(q, 0, q->n, y, QL_F32, NULL, NULL), QL_OK);
}

static inline uint8_t code_at(const struct ql_q4 *q, uint64_t i)
{
	return i % 2 == 0 ? q->codes[i / 2] >> 4 : q->codes[i / 2] & 15;
}

#endif
