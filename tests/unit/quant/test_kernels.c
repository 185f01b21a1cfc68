/* test_kernels.c - every instruction set of this machine gives the scalar reference's bits, for every inner loop. */
#include "core/quant/blk.h"
#include "core/quant/q4.h"
#include "tests/unit/quant/tq.h"

#define MAX_N 9000

static const struct ql_quant_ops *ops; /* the path under test */

static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};
static const enum ql_dtype floats[3] = {QL_F32, QL_F16, QL_BF16};

/* Values on, just below and just above every threshold, among random ones. */
static void spice(struct rng *r, const struct ql_q4_book *b, float *x, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		float t = b->thr[rnd_below(r, 15)];

		if (rnd_below(r, 3) != 0 || !isfinite(t))
			continue;
		x[i] = rnd_below(r, 3) == 0 ? t : nextafterf(t, rnd_below(r, 2) ? 2.0f : -2.0f);
	}
	x[rnd_below(r, (uint32_t)n)] = rnd_below(r, 2) ? 1.0f : -1.0f;
}

static void q4_quant(void **state)
{
	static float x[MAX_N];
	static uint16_t half[MAX_N];
	static uint8_t c1[MAX_N], c2[MAX_N];
	static float s1[MAX_N], s2[MAX_N], z1[MAX_N], z2[MAX_N];
	struct rng r = {.seed = 11};
	int todo = rounds(6000);

	(void)state;
	for (int round = 0; round < todo; round++) {
		size_t n = 1 + rnd_below(&r, round % 40 == 0 ? MAX_N : 400);
		enum ql_dtype kind = kinds[round % 3], t = floats[round / 3 % 3];
		enum ql_q4_mode mode = round / 9 % 2 == 0 ? QL_Q4_SYM : kind == QL_INT4 ? QL_Q4_RANGE : QL_Q4_MID;
		uint64_t b = rnd_below(&r, 4) == 0 ? 2 + 2 * rnd_below(&r, 300) : 32u << rnd_below(&r, 8);
		struct ql_q4_job j = {.book = ql_q4_book_of(kind), .code = ql_q4_code(kind), .mode = mode, .src = x, .src_dtype = t, .n = n, .blocksize = b,
				      .codes = c1, .scale = s1, .zero = z1};
		size_t m = (n + b - 1) / b;
		uint64_t at;

		rnd_tensor(&r, x, n, round % 8);
		if (round % 5 == 0)
			spice(&r, ql_q4_book_of(kind), x, n);
		if (round % 11 == 0)
			x[rnd_below(&r, (uint32_t)n)] = round % 2 ? NAN : INFINITY;
		if (round % 13 == 0)
			memset(x, round % 2 ? 0x80 : 0, 4 * (n < 200 ? n : 200));
		if (t != QL_F32) {
			for (size_t i = 0; i < n; i++)
				half[i] = t == QL_BF16 ? ql_bf16_of_f32(x[i]) : ql_f16_of_f32(x[i]);
			j.src = half;
		}
		memset(c1, 0xee, n);
		memset(c2, 0xee, n);
		at = ql_quant_ops_scalar.q4_quant(&j);
		j.codes = c2;
		j.scale = s2;
		j.zero = z2;
		assert_true(ops->q4_quant(&j) == at);
		m = at == UINT64_MAX ? m : (size_t)(at / b);
		n = at == UINT64_MAX ? n : (size_t)at;
		assert_memory_equal(s1, s2, m * 4);
		if (mode != QL_Q4_SYM)
			assert_memory_equal(z1, z2, m * 4);
		assert_memory_equal(c1, c2, (n + 1) / 2);
		if (at == UINT64_MAX) /* nothing past the end */
			assert_memory_equal(c1, c2, n);
	}
}

static void q4_read(void **state)
{
	static uint8_t codes[MAX_N];
	static float scale[MAX_N], zero[MAX_N];
	_Alignas(64) static float y1[MAX_N + 16], y2[MAX_N + 16];
	_Alignas(64) static uint16_t h1[MAX_N + 64], h2[MAX_N + 64];
	struct rng r = {.seed = 12};
	int todo = rounds(6000);

	(void)state;
	for (int i = 0; i < MAX_N; i++)
		codes[i] = (uint8_t)rnd(&r);
	rnd_tensor(&r, scale, MAX_N, 6);
	rnd_tensor(&r, zero, MAX_N, 0);
	for (int round = 0; round < todo; round++) {
		uint64_t begin = rnd_below(&r, 3000), count = rnd_below(&r, round % 20 == 0 ? 5000 : 300);
		uint64_t b = rnd_below(&r, 4) == 0 ? 2 + 2 * rnd_below(&r, 300) : 32u << rnd_below(&r, 8);
		struct ql_q4_read rd = {.code = ql_q4_code(kinds[round % 3]), .codes = codes, .scale = scale,
					.zero = round % 2 ? zero : NULL, .first_block = begin / b, .blocksize = b,
					.begin = begin, .count = count, .stream = round / 2 % 2};
		uint32_t shift = rnd_below(&r, 3) == 0 ? rnd_below(&r, 8) : 0;
		enum ql_dtype t = round % 4 < 2 ? QL_BF16 : QL_F16;

		ql_quant_ops_scalar.q4_dequant_f32(&rd, y1);
		memset(y2, 0x55, sizeof y2);
		ops->q4_dequant_f32(&rd, y2 + shift);
		assert_memory_equal(y1, y2 + shift, count * 4);
		assert_true(((uint32_t *)(void *)y2)[count + shift] == 0x55555555);
		ql_quant_ops_scalar.q4_dequant_h16(&rd, h1, t);
		memset(h2, 0x55, sizeof h2);
		ops->q4_dequant_h16(&rd, h2 + shift, t);
		assert_memory_equal(h1, h2 + shift, count * 2);
		assert_true(h2[count + shift] == 0x5555);
	}
}

static void small_loops(void **state)
{
	static uint16_t h[65536 + 16];
	static float y1[65536], y2[65536];
	static int8_t q1[70000], q2[70000];
	struct rng r = {.seed = 13};

	(void)state;
	for (int i = 0; i < 65536; i++)
		h[i] = (uint16_t)i;
	for (int k = 1; k < 3; k++) {
		ql_quant_ops_scalar.widen(h, floats[k], 65536, y1);
		ops->widen(h, floats[k], 65536, y2);
		for (int i = 0; i < 65536; i++)
			assert_true(memcmp(&y1[i], &y2[i], 4) == 0 || (isnan(y1[i]) && isnan(y2[i])));
	}
	for (int round = 0; round < 300; round++) {
		size_t n = rnd_below(&r, 1000);

		for (size_t i = 0; i < n; i++) {
			uint32_t u = rnd(&r);

			u = (u & QL_BITS_INF) == QL_BITS_INF ? 0 : round % 3 == 0 ? (u & 0xffff0000) | 0x8000 : u;
			memcpy(&y1[i], &u, 4);
			y1[i] = round % 3 == 1 ? y1[i] * 1e-3f : y1[i];
			if (round % 3 == 2) /* halfway between two f16, and beside it */
				y1[i] = ql_f32_of_f16((uint16_t)(u & 0x7bff)) * (1.0f + 0x1p-11f) + (u & 0x8000 ? 0x1p-30f : 0.0f);
		}
		for (int k = 1; k < 3; k++) {
			memset(h, 0x55, 1100 * 2);
			ops->narrow(y1, n, floats[k], h);
			for (size_t i = 0; i < n; i++)
				assert_int_equal(h[i], k == 1 ? ql_f16_of_f32(y1[i]) : ql_bf16_of_f32(y1[i]));
			assert_int_equal(h[n], 0x5555);
		}
	}
	for (int round = 0; round < 3000; round++) {
		size_t n = rnd_below(&r, 300);
		float top;
		uint32_t bits;

		rnd_tensor(&r, y1, n + 1, round % 8);
		if (round % 7 == 0)
			y1[rnd_below(&r, (uint32_t)n + 1)] = round % 2 ? NAN : -INFINITY;
		bits = ql_quant_ops_scalar.absmax_bits(y1, n);
		assert_int_equal(ops->absmax_bits(y1, n), bits);
		if (bits >= QL_BITS_INF)
			continue;
		memcpy(&top, &bits, 4);
		memset(q1, 99, n + 1);
		memset(q2, 99, n + 1);
		ql_quant_ops_scalar.int8_encode(y1, n, 127.0f / (top > 0 ? top : 1.0f), q1);
		ops->int8_encode(y1, n, 127.0f / (top > 0 ? top : 1.0f), q2);
		assert_memory_equal(q1, q2, n + 1);
	}
	/* exact halves: to even */
	for (int i = 0; i < 509; i++)
		y1[i] = (float)(i - 254) * 0.5f;
	ql_quant_ops_scalar.int8_encode(y1, 509, 1.0f, q1);
	ops->int8_encode(y1, 509, 1.0f, q2);
	assert_memory_equal(q1, q2, 509);
	for (int i = 0; i < 509; i++)
		assert_int_equal(q1[i], (int)rint((i - 254) * 0.5));
}

static void blk_read(void **state)
{
	static uint8_t bytes[40 * 256 * 4];
	static float y1[40 * 256], y2[40 * 256];
	struct rng r = {.seed = 14};

	(void)state;
	for (int t = 0; t < QL_DTYPE_COUNT; t++) {
		if (ql_quant_ops_scalar.blk_dequant[t] == NULL) {
			assert_null(ops->blk_dequant[t]);
			continue;
		}
		for (int round = 0; round < 300; round++) {
			size_t n = 1 + rnd_below(&r, 40);

			for (size_t i = 0; i < n * ql_dtypes[t].bytes; i++)
				bytes[i] = (uint8_t)rnd(&r);
			ql_quant_ops_scalar.blk_dequant[t](bytes, n, y1);
			ops->blk_dequant[t](bytes, n, y2);
			for (size_t i = 0; i < n * ql_dtypes[t].block; i++)
				assert_true(memcmp(&y1[i], &y2[i], 4) == 0 || (isnan(y1[i]) && isnan(y2[i])));
		}
	}
}

static void blk_quant(void **state)
{
	static float x[20 * 256], w[20 * 256];
	static uint8_t b1[20 * 256 * 4], b2[20 * 256 * 4];
	struct rng r = {.seed = 15};
	int todo = rounds(200);

	(void)state;
	for (int t = 0; t < QL_DTYPE_COUNT; t++) {
		if (ql_quant_ops_scalar.blk_quant[t] == NULL)
			continue;
		for (int round = 0; round < todo; round++) {
			uint32_t block = ql_dtypes[t].block;
			size_t n = 1 + rnd_below(&r, block == 256 ? 3 : 20);
			bool weighted = block == 256 && round % 3 == 0;

			rnd_tensor(&r, x, n * block, round % 8);
			for (size_t i = 0; i < n * block; i++)
				w[i] = rnd_below(&r, 10) == 0 ? 0.0f : rnd_u(&r);
			if (round % 10 == 9)
				for (size_t i = 0; i < block; i++)
					x[i] = round % 20 == 9 ? 0.0f : round % 30 == 19 ? -0.75f : 1e-17f * x[i];
			if (round % 50 == 48) /* numbers whose reciprocal overflows */
				for (size_t i = 0; i < n * block; i++)
					x[i] *= 1e-40f;
			memset(b1, 0xee, sizeof b1);
			memset(b2, 0xee, sizeof b2);
			ql_quant_ops_scalar.blk_quant[t](x, n, weighted ? w : NULL, b1);
			ops->blk_quant[t](x, n, weighted ? w : NULL, b2);
			if (memcmp(b1, b2, sizeof b1) != 0)
				print_error("%s round %d\n", ql_dtype_name((enum ql_dtype)t), round);
			assert_memory_equal(b1, b2, n * ql_dtypes[t].bytes + 16);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(q4_quant), cmocka_unit_test(q4_read),	 cmocka_unit_test(small_loops),
		cmocka_unit_test(blk_read), cmocka_unit_test(blk_quant),
	};
	int bad = 0;

	/* 0 compares the reference with itself: it keeps the tests meaningful on a machine without vectors */
	for (int i = 0; (ops = ql_quant_ops_at(i)) != NULL; i++) {
		print_message("path: %s\n", ops->name);
		bad += cmocka_run_group_tests(tests, NULL, NULL);
	}
	return bad;
}
