/* test_q4.c - the rules of NF4, FP4 and INT4: ties, bounds, blocks, tails, refusals. */
#include "tests/unit/quant/tq4.h"

static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};
static const uint32_t sizes[8] = {32, 64, 128, 256, 512, 1024, 2048, 4096};
#define MAX_N 20000

static float half_gap(enum ql_dtype kind) /* widest distance of a value in [-1, 1] from its level */
{
	return kind == QL_NF4 ? 0.1520f : kind == QL_FP4 ? 0.1667f : 0.0715f;
}

/* (a) every tie goes down, and the tables themselves */
static void ties(void **state)
{
	static const uint32_t level[16] = {0xbf800000, 0xbf3239b1, 0xbf066b30, 0xbeca32a0, 0xbe91a24d, 0xbe3d353f,
					   0xbdba7871, 0x00000000, 0x3da2faff, 0x3e24cae3, 0x3e7c04dd, 0x3ead033a,
					   0x3ee1a4b8, 0x3f1007ab, 0x3f3913b3, 0x3f800000};
	static const uint32_t thr[15] = {0xbf591cd8, 0xbf1c5270, 0xbeeb8480, 0xbeadea76, 0xbe703cec,
					 0xbe0d38bc, 0xbd3a7871, 0x3d22faff, 0x3df64862, 0x3e5067e0,
					 0x3e9582d4, 0x3ec753f9, 0x3f006d04, 0x3f248daf, 0x3f5c89da};
	float x[64] = {1.0f};
	struct ql_q4 q;

	(void)state;
	assert_memory_equal(ql_q4_code(QL_NF4), level, 64);
	assert_memory_equal(ql_q4_book_of(QL_NF4)->thr, thr, 60);
	memcpy(x + 1, thr, 60);
	q = quant(x, QL_F32, 64, QL_NF4, 64, false);
	assert_int_equal(code_at(&q, 0), 15);
	for (uint64_t i = 0; i < 15; i++)
		assert_int_equal(code_at(&q, i + 1), i);
	ql_q4_free(&q);
	for (int i = 1; i < 16; i++)
		x[i] = nextafterf(x[i], 2.0f);
	q = quant(x, QL_F32, 64, QL_NF4, 64, false);
	for (uint64_t i = 0; i < 15; i++)
		assert_int_equal(code_at(&q, i + 1), i + 1);
	ql_q4_free(&q);
	/* FP4: a tie takes the smaller magnitude on both sides */
	static const float mag[7] = {0x1.555556p-9f, 0x1.6p-4f, 0x1.aaaaacp-3f, 0x1.2aaaacp-2f, 0x1.aaaaacp-2f,
				     0x1.2aaaacp-1f, 0x1.aaaaacp-1f};
	static const uint8_t below[7] = {0, 1, 6, 7, 4, 5, 2}, above[7] = {1, 6, 7, 4, 5, 2, 3};

	memset(x, 0, sizeof x);
	x[0] = -1.0f;
	for (int i = 0; i < 7; i++) {
		x[1 + i] = mag[i];
		x[8 + i] = -mag[i];
		x[15 + i] = nextafterf(mag[i], 2.0f);
		x[22 + i] = -x[15 + i];
	}
	x[30] = -0x1p-149f;
	q = quant(x, QL_F32, 64, QL_FP4, 64, false);
	assert_int_equal(code_at(&q, 0), 11);
	for (uint64_t i = 0; i < 7; i++) {
		assert_int_equal(code_at(&q, 1 + i), below[i]);
		assert_int_equal(code_at(&q, 8 + i), below[i] | 8);
		assert_int_equal(code_at(&q, 15 + i), above[i]);
		assert_int_equal(code_at(&q, 22 + i), above[i] | 8);
	}
	assert_int_equal(code_at(&q, 29), 0);
	assert_int_equal(code_at(&q, 30), 8);
	ql_q4_free(&q);
	/* INT4: antisymmetric, code 0 below everything */
	for (int c = 1; c < 16; c++)
		assert_true(ql_q4_code(QL_INT4)[c] == -ql_q4_code(QL_INT4)[16 - c]);
	assert_true(ql_q4_code(QL_INT4)[15] == 1.0f && ql_q4_code(QL_INT4)[8] == 0.0f);
}

/* (b) error bound, packed size, every element type, size and block size */
static void bounds(void **state)
{
	static float x[MAX_N], y[MAX_N];
	static uint16_t half[MAX_N];
	static const enum ql_dtype types[3] = {QL_F32, QL_F16, QL_BF16};
	struct rng r = {.seed = 1};
	int todo = rounds(3 * 10000); /* 10,000 of each kind */

	(void)state;
	for (int round = 0; round < todo; round++) {
		size_t n = round < 18000 && round % 5 != 0 ? (size_t)(round % 200) + 1 : 1 + rnd_below(&r, round % 500 == 0 ? MAX_N : 600);
		enum ql_dtype kind = kinds[round % 3], t = types[round / 3 % 3];
		uint32_t b = sizes[rnd_below(&r, 8)];
		struct ql_q4 q;

		rnd_tensor(&r, x, n, round % 8);
		if (t != QL_F32)
			narrow(x, n, t, half);
		q = quant(t == QL_F32 ? (const void *)x : half, t, n, kind, b, false);
		assert_int_equal(ql_q4_blocks(&q), (n + b - 1) / b);
		assert_int_equal(ql_q4_bytes(&q), (n + 1) / 2 + 4 * ((n + b - 1) / b));
		dequant(&q, y);
		for (size_t i = 0; i < n; i++) {
			float top = q.absmax[i / b];

			assert_true(fabsf(x[i]) <= top);
			assert_true(fabsf(x[i] - y[i]) <= (half_gap(kind) + 1e-6f) * top);
			if (kind == QL_INT4)
				assert_int_not_equal(code_at(&q, i), 0);
		}
		if (n % 2 != 0)
			assert_int_equal(q.codes[n / 2] & 15, kind == QL_NF4 ? 7 : kind == QL_FP4 ? 0 : 8);
		ql_q4_free(&q);
	}
}

/* (c) permuting blocks permutes the output; (f) idempotence; scale invariance by powers of two */
static void permute_idempotent_scale(void **state)
{
	static float x[4096], y[4096], z[4096];
	struct rng r = {.seed = 2};
	int todo = rounds(3 * 10000); /* 10,000 of each kind */

	(void)state;
	for (int round = 0; round < todo; round++) {
		enum ql_dtype kind = kinds[round % 3];
		uint32_t b = sizes[rnd_below(&r, 4)], blocks = 2 + rnd_below(&r, 6), n = b * blocks, turn;
		struct ql_q4 q, p;

		n = n < 2048 ? n : 2048 / b * b;
		blocks = n / b;
		rnd_tensor(&r, x, n, round / 3 % 8);
		q = quant(x, QL_F32, n, kind, b, false);
		turn = rnd_below(&r, blocks);
		for (uint32_t i = 0; i < n; i++)
			y[(i + turn * b) % n] = x[i];
		p = quant(y, QL_F32, n, kind, b, false);
		for (uint32_t k = 0; k < blocks; k++) {
			assert_memory_equal(p.codes + (k + turn) % blocks * b / 2, q.codes + k * b / 2, b / 2);
			assert_memory_equal(p.absmax + (k + turn) % blocks, q.absmax + k, 4);
		}
		ql_q4_free(&p);
		dequant(&q, y);
		p = quant(y, QL_F32, n, kind, b, false);
		assert_memory_equal(p.absmax, q.absmax, 4 * blocks);
		if (kind == QL_FP4) { /* code 8 is -0 and reads as +0 */
			dequant(&p, z);
			for (uint32_t i = 0; i < n; i++)
				assert_true(y[i] == z[i]);
		} else {
			assert_memory_equal(p.codes, q.codes, n / 2);
		}
		ql_q4_free(&p);
		for (uint32_t i = 0; i < n; i++)
			y[i] = x[i] * 0.125f;
		p = quant(y, QL_F32, n, kind, b, false);
		assert_memory_equal(p.codes, q.codes, n / 2);
		ql_q4_free(&p);
		ql_q4_free(&q);
	}
}

/* (d) zero, -0, subnormal, spike */
static void odd_blocks(void **state)
{
	static const uint8_t zero_byte[3] = {0x77, 0x00, 0x88};
	float x[128], y[128];

	(void)state;
	for (int k = 0; k < 3; k++) {
		struct ql_q4 q;

		memset(x, 0, sizeof x);
		for (int i = 0; i < 64; i += 2)
			x[i] = -0.0f;
		q = quant(x, QL_F32, 128, kinds[k], 64, false);
		for (int i = 0; i < 64; i++)
			assert_int_equal(q.codes[i], zero_byte[k]);
		assert_true(q.absmax[0] == 0.0f && !signbit(q.absmax[0]));
		dequant(&q, y);
		for (int i = 0; i < 128; i++)
			assert_true(y[i] == 0.0f);
		ql_q4_free(&q);

		for (int i = 0; i < 64; i++)
			x[i] = (i % 2 != 0 ? 1.0f : -1.0f) * (float)(i + 1) * 0x1p-149f;
		x[100] = -3.0f; /* the other block: one spike */
		q = quant(x, QL_F32, 128, kinds[k], 64, false);
		dequant(&q, y);
		for (int i = 0; i < 64; i++)
			assert_true(isfinite(y[i]) && fabsf(y[i]) <= 1e-38f);
		assert_true(q.absmax[0] == 64 * 0x1p-149f);
		for (int i = 64; i < 128; i++)
			assert_true(y[i] == (i == 100 ? -3.0f : 0.0f));
		ql_q4_free(&q);

		for (int i = 0; i < 128; i++)
			x[i] = i % 2 != 0 ? 3.4028235e38f : -3.4028235e38f;
		q = quant(x, QL_F32, 128, kinds[k], 64, false);
		dequant(&q, y);
		for (int i = 0; i < 128; i++)
			assert_true(y[i] == x[i]);
		ql_q4_free(&q);
	}
	for (int k = 0; k < 3; k++) { /* zero blocks stay small with nested scales: the code is that of zero */
		struct ql_q4 q;

		memset(x, 0, sizeof x);
		x[0] = 1.0f;
		q = quant(x, QL_F32, 128, kinds[k], 64, true);
		dequant(&q, y);
		for (int i = 64; i < 128; i++)
			assert_true(y[i] == 0.0f);
		ql_q4_free(&q);
	}
}

/* (e) NaN and infinity, first index, any thread count; bad options */
static void refusals(void **state)
{
	static float x[300000];
	static uint16_t h[300000];
	struct ql_q4_opts o = {.kind = QL_NF4, .blocksize = 64, .nested = true, .nested_blocksize = 256};
	static const uint32_t wrong[] = {0, 1, 16, 63, 65, 96, 8192, UINT32_MAX};
	struct ql_pool *pool = ql_pool_new(3);
	struct rng r = {.seed = 3};
	struct ql_q4 q;
	struct ql_err e;

	(void)state;
	for (int round = 0; round < 60; round++) {
		size_t n = 1 + rnd_below(&r, 300000), at = rnd_below(&r, (uint32_t)n), later;
		char text[64];

		for (size_t i = 0; i < n; i++) {
			x[i] = 0.5f;
			h[i] = round % 2 ? 0x3f00 : 0x3800;
		}
		later = at + rnd_below(&r, (uint32_t)(n - at));
		x[later] = INFINITY;
		h[later] = round % 2 ? 0x7f80 : 0x7c00;
		x[at] = round % 3 == 0 ? NAN : round % 3 == 1 ? INFINITY : -INFINITY;
		h[at] = round % 2 ? 0xff80 : 0xfe00;
		memset(&e, 0, sizeof e);
		assert_int_equal(ql_q4_quantize(&q, x, QL_F32, n, &o, round % 2 ? pool : NULL, &e), QL_ENONFINITE);
		assert_int_equal(e.offset, at);
		(void)snprintf(text, sizeof text, "element %zu ", at);
		assert_non_null(strstr(e.message, text));
		assert_null(q.owned);
		assert_int_equal(ql_q4_quantize(&q, h, round % 2 ? QL_BF16 : QL_F16, n, &o, pool, &e), QL_ENONFINITE);
		assert_int_equal(e.offset, at);
	}
	x[0] = 1.0f;
	for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
		struct ql_q4_opts bad = {.kind = QL_NF4, .blocksize = wrong[i]};

		assert_int_equal(ql_q4_quantize(&q, x, QL_F32, 1, &bad, NULL, &e), QL_EINVAL);
		bad = (struct ql_q4_opts){.kind = QL_NF4, .blocksize = 64, .nested = true, .nested_blocksize = wrong[i]};
		assert_int_equal(ql_q4_quantize(&q, x, QL_F32, 1, &bad, NULL, &e), QL_EINVAL);
	}
	assert_int_equal(ql_q4_quantize(&q, x, QL_F32, 0, &o, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_q4_quantize(&q, x, QL_F64, 1, &o, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_q4_quantize(&q, x, (enum ql_dtype)99, 1, &o, NULL, &e), QL_EINVAL);
	o.kind = QL_Q4_0;
	assert_int_equal(ql_q4_quantize(&q, x, QL_F32, 1, &o, NULL, &e), QL_EINVAL);
	ql_pool_free(pool);
}

/* What a file may bring: each single fault is named. */
static void checks(void **state)
{
	static float x[64 * 300];
	struct rng r = {.seed = 4};
	struct ql_q4 q, b;
	struct ql_err e;

	(void)state;
	rnd_normals(&r, x, 64 * 300);
	for (int nested = 0; nested < 2; nested++) {
		q = quant(x, QL_F32, 64 * 300, QL_NF4, 64, nested);
#define FAULT(change, name)                                                                                            \
	do {                                                                                                           \
		b = q;                                                                                                 \
		memset(&e, 0, sizeof e);                                                                               \
		change;                                                                                                \
		assert_int_equal(ql_q4_check(&b, &e), QL_EFORMAT);                                                     \
		assert_string_equal(e.param, name);                                                                    \
	} while (0)
		FAULT(b.kind = QL_F32, "quant_type");
		FAULT(b.n = 0, "shape");
		FAULT(b.n = UINT64_MAX, "shape");
		FAULT(b.blocksize = 0, "blocksize");
		FAULT(b.blocksize = 48, "blocksize");
		FAULT(b.codes = NULL, "codes");
		FAULT(b.code[3] = NAN, "quant_map");
		if (nested) {
			FAULT(b.nested_blocksize = 7, "nested_blocksize");
			FAULT(b.absmax_q = NULL, "nested_absmax");
			FAULT(b.nested_absmax = NULL, "nested_absmax");
			FAULT(b.offset = INFINITY, "nested_offset");
			FAULT(b.nested_map[9] = NAN, "nested_quant_map");
			FAULT(b.nested_map[9] = 2.0f, "nested_quant_map");
			q.nested_absmax[1] = INFINITY;
			FAULT((void)0, "nested_absmax");
			assert_int_equal(e.offset, 1);
			q.nested_absmax[1] = 3e38f;
			FAULT(b.offset = 3e38f, "nested_absmax");
		} else {
			FAULT(b.absmax = NULL, "absmax");
			q.absmax[299] = NAN;
			FAULT((void)0, "absmax");
			assert_int_equal(e.offset, 299);
		}
		ql_q4_free(&q);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ties),	      cmocka_unit_test(bounds),	  cmocka_unit_test(permute_idempotent_scale),
		cmocka_unit_test(odd_blocks), cmocka_unit_test(refusals), cmocka_unit_test(checks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
