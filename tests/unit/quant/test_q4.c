/* test_q4.c - NF4, FP4, INT4 and nested scales: numerics.md 1.1 to 1.5, 1.8, 1.9. */
#include "core/quant/q4.h"

#include "core/base/hash.h"
#include "tests/unit/quant/tq.h"

static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};
static const uint32_t sizes[8] = {32, 64, 128, 256, 512, 1024, 2048, 4096};
#define MAX_N 20000

static struct ql_q4 quant(const void *x, enum ql_dtype t, uint64_t n, enum ql_dtype kind, uint32_t b, bool nested)
{
	struct ql_q4_opts o = {.kind = kind, .blocksize = b, .nested = nested, .nested_blocksize = 256};
	struct ql_err e = {0};
	struct ql_q4 q;

	assert_int_equal(ql_q4_quantize(&q, x, t, n, &o, NULL, &e), QL_OK);
	assert_int_equal(ql_q4_check(&q, &e), QL_OK);
	return q;
}

static void dequant(const struct ql_q4 *q, float *y)
{
	assert_int_equal(ql_q4_dequantize(q, 0, q->n, y, QL_F32, NULL, NULL), QL_OK);
}

static uint8_t code_at(const struct ql_q4 *q, uint64_t i)
{
	return i % 2 == 0 ? q->codes[i / 2] >> 4 : q->codes[i / 2] & 15;
}

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
	int todo = rounds(3000);

	(void)state;
	for (int round = 0; round < todo; round++) {
		size_t n = round < 1800 ? (size_t)(round % 200) + 1 : 1 + rnd_below(&r, round % 50 == 0 ? MAX_N : 2000);
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
	int todo = rounds(3000);

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

/* 1.5: the maps, block counts, the midpoint rule, offset */
static void nested(void **state)
{
	static const uint32_t counts[] = {1, 2, 255, 256, 257, 511, 512, 513, 1000};
	static float x[1000 * 64], a[1000];
	char hex[QL_SHA256_HEX_SIZE];
	const float *map = ql_dynamic_map_signed();
	struct rng r = {.seed = 5};

	(void)state;
	ql_sha256_hex(map, 1024, hex);
	assert_string_equal(hex, "e732639a65f497b4ad684bb166a4467708255edd5207757de8b8f0c7e1fda89c");
	ql_sha256_hex(ql_dynamic_map_unsigned(), 1024, hex);
	assert_string_equal(hex, "305f002cc11278fb769d13b25b9fd0c7c83c8402c40a878fe086f4039fde6398");
	for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
		uint32_t m = counts[c];
		struct ql_q4 plain, q;
		double sum = 0.0;

		rnd_tensor(&r, x, (size_t)m * 64, (int)c % 8);
		plain = quant(x, QL_F32, (uint64_t)m * 64, QL_NF4, 64, false);
		q = quant(x, QL_F32, (uint64_t)m * 64, QL_NF4, 64, true);
		assert_memory_equal(plain.codes, q.codes, (size_t)m * 32);
		assert_int_equal(ql_q4_nested_blocks(&q), (m + 255) / 256);
		assert_int_equal(ql_q4_bytes(&q), m * 32 + m + 4 * ((m + 255) / 256) + 4);
		for (uint32_t i = 0; i < m; i++)
			sum += (double)plain.absmax[i];
		assert_true(q.offset == (float)(sum / m));
		assert_int_equal(ql_q4_absmax(&q, 0, m, a), QL_OK);
		assert_int_equal(ql_q4_absmax(&q, 1, m, a), QL_EINVAL);
		for (uint32_t i = 0; i < m; i++) {
			float top = 0.0f, n;
			int code = 0;

			for (uint32_t k = i / 256 * 256; k < m && k < i / 256 * 256 + 256; k++)
				top = fmaxf(top, fabsf(plain.absmax[k] - q.offset));
			assert_true(top == q.nested_absmax[i / 256]);
			n = (plain.absmax[i] - q.offset) * (1.0f / fmaxf(top, 1e-38f));
			for (int k = 0; k < 255; k++)
				code += n > (map[k] + map[k + 1]) / 2.0f;
			assert_int_equal(q.absmax_q[i], code);
			assert_true(fabsf(a[i] - plain.absmax[i]) <= 0.0125f * top);
		}
		ql_q4_free(&plain);
		ql_q4_free(&q);
	}
	for (int i = 0; i < 64 * 10; i++) /* all scales equal: code 127 throughout */
		x[i] = i % 2 != 0 ? 0.5f : -0.25f;
	struct ql_q4 q = quant(x, QL_F32, 640, QL_NF4, 64, true);

	for (int i = 0; i < 10; i++)
		assert_int_equal(q.absmax_q[i], 127);
	assert_int_equal(ql_q4_absmax(&q, 0, 10, a), QL_OK);
	assert_true(a[0] == 0.5f && a[9] == 0.5f);
	ql_q4_free(&q);
}

/* 1.5, 1.9: expected errors on normal weights */
static double rel_rmse(const float *x, uint64_t n, enum ql_dtype kind, uint32_t b, bool nested)
{
	struct ql_q4 q = quant(x, QL_F32, n, kind, b, nested);
	float *y = malloc(n * 4);
	double d2 = 0.0, x2 = 0.0;

	assert_non_null(y);
	dequant(&q, y);
	for (uint64_t i = 0; i < n; i++) {
		d2 += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
		x2 += (double)x[i] * (double)x[i];
	}
	free(y);
	ql_q4_free(&q);
	return sqrt(d2 / x2);
}

static void expected_error(void **state)
{
	static const struct {
		uint32_t b;
		double v[3];
	} table[] = {{32, {0.0873, 0.1141, 0.0970}}, {64, {0.0920, 0.1220, 0.1076}}, {128, {0.0956, 0.1286, 0.1173}},
		     {256, {0.0987, 0.1347, 0.1263}}};
	const uint64_t n = 1 << 21;
	float *x = malloc(n * 4);
	struct rng r = {.seed = 6};
	double with;

	(void)state;
	assert_non_null(x);
	rnd_normals(&r, x, n);
	for (uint64_t i = 0; i < n; i++)
		x[i] *= 0.02f;
	for (int t = 0; t < 4; t++) {
		double got[3];

		for (int k = 0; k < 3; k++) {
			got[k] = rel_rmse(x, n, kinds[k], table[t].b, false);
			assert_true(fabs(got[k] / table[t].v[k] - 1.0) <= 0.01);
		}
		assert_true(got[0] < got[1] && got[0] < got[2]);
	}
	with = rel_rmse(x, n, QL_NF4, 64, true);
	assert_true(with <= 0.0921 * 1.005 && with / rel_rmse(x, n, QL_NF4, 64, false) < 1.002);
	for (int i = 0; i < 64; i++) /* one block 200 times larger must not spoil the rest */
		x[4096 + i] *= 200.0f;
	{
		struct ql_q4 q = quant(x, QL_F32, n, QL_NF4, 64, true);
		float *y = malloc(n * 4);
		double d2 = 0.0, x2 = 0.0;

		assert_non_null(y);
		dequant(&q, y);
		for (uint64_t i = 0; i < n; i++)
			if (i / 64 != 64) {
				d2 += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
				x2 += (double)x[i] * (double)x[i];
			}
		assert_true(sqrt(d2 / x2) <= 0.0935);
		free(y);
		ql_q4_free(&q);
	}
	free(x);
}

/* Any range, any type, any pool: the same values as decoding everything at once. */
static void ranges(void **state)
{
	const uint64_t n = 200001;
	float *x = malloc(n * 4), *y = malloc(n * 4), *z = malloc(n * 4);
	uint16_t *h = malloc(n * 2);
	struct ql_pool *pool = ql_pool_new(3);
	struct rng r = {.seed = 7};
	int todo = rounds(300);

	(void)state;
	assert_true(x != NULL && y != NULL && z != NULL && h != NULL && pool != NULL);
	for (int nest = 0; nest < 2; nest++) {
		struct ql_q4 q, p;
		struct ql_q4_opts o = {.kind = QL_NF4, .blocksize = nest ? 32 : 64, .nested = nest, .nested_blocksize = 256};

		rnd_tensor(&r, x, n, 4);
		q = quant(x, QL_F32, n, QL_NF4, o.blocksize, nest);
		assert_int_equal(ql_q4_quantize(&p, x, QL_F32, n, &o, pool, NULL), QL_OK);
		assert_memory_equal(p.codes, q.codes, n / 2 + 1);
		if (nest)
			assert_memory_equal(p.absmax_q, q.absmax_q, ql_q4_blocks(&q));
		else
			assert_memory_equal(p.absmax, q.absmax, 4 * ql_q4_blocks(&q));
		dequant(&q, y);
		for (int round = 0; round < todo; round++) {
			uint64_t begin = rnd_below(&r, (uint32_t)n + 1), most = round % 4 ? 200 : (uint32_t)n, count;
			enum ql_dtype t = round % 3 == 0 ? QL_F32 : round % 3 == 1 ? QL_BF16 : QL_F16;

			count = rnd_below(&r, (uint32_t)(n - begin < most ? n - begin : most) + 1);
			if (t == QL_F32) {
				assert_int_equal(ql_q4_dequantize(&p, begin, count, z, t, pool, NULL), QL_OK);
				assert_memory_equal(z, y + begin, count * 4);
				continue;
			}
			assert_int_equal(ql_q4_dequantize(&p, begin, count, h, t, pool, NULL), QL_OK);
			for (uint64_t i = 0; i < count; i++)
				assert_int_equal(h[i], t == QL_BF16 ? ql_bf16_of_f32(y[begin + i]) : ql_f16_of_f32(y[begin + i]));
		}
		assert_int_equal(ql_q4_dequantize(&p, n, 0, z, QL_F32, pool, NULL), QL_OK);
		assert_int_equal(ql_q4_dequantize(&p, n, 1, z, QL_F32, pool, NULL), QL_EINVAL);
		assert_int_equal(ql_q4_dequantize(&p, 1, n, z, QL_F32, pool, NULL), QL_EINVAL);
		assert_int_equal(ql_q4_dequantize(&p, 0, 1, z, QL_I8, pool, NULL), QL_EINVAL);
		ql_q4_free(&p);
		ql_q4_free(&q);
	}
	ql_pool_free(pool);
	free(x);
	free(y);
	free(z);
	free(h);
}

/* Large results take the streaming path: same values, also when the target is not aligned. */
static void streaming(void **state)
{
	const uint64_t n = (9u << 20) + 77;
	float *x = malloc(n * 4), *y = malloc(n * 4 + 64);
	struct rng r = {.seed = 8};
	struct ql_q4 q;

	(void)state;
	assert_true(x != NULL && y != NULL);
	for (uint64_t i = 0; i < n; i++)
		x[i] = (float)(int32_t)rnd(&r) * 0x1p-31f;
	q = quant(x, QL_F32, n, QL_NF4, 64, false);
	for (int shift = 0; shift < 2; shift++) {
		assert_int_equal(ql_q4_dequantize(&q, 0, n, y + shift, QL_F32, NULL, NULL), QL_OK);
		for (uint64_t i = 0; i < n; i++)
			assert_true(y[i + shift] == q.code[code_at(&q, i)] * q.absmax[i / 64]);
	}
	ql_q4_free(&q);
	free(x);
	free(y);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ties),	      cmocka_unit_test(bounds),	  cmocka_unit_test(permute_idempotent_scale),
		cmocka_unit_test(odd_blocks), cmocka_unit_test(refusals), cmocka_unit_test(checks),
		cmocka_unit_test(nested),     cmocka_unit_test(ranges),	  cmocka_unit_test(expected_error),
		cmocka_unit_test(streaming),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
