/* test_blk.c - GGUF block types: expected errors, bounds, scale invariance, idempotence, importance, refusals. */
#include "core/quant/blk.h"

#include "core/quant/strategy.h"
#include "tests/unit/quant/tq.h"

static const enum ql_dtype types[9] = {QL_Q4_0, QL_Q4_1, QL_Q5_0, QL_Q5_1, QL_Q8_0, QL_Q4_K, QL_Q5_K, QL_Q6_K, QL_IQ4_NL};

static void roundtrip(enum ql_dtype t, const float *x, uint64_t n, uint8_t *b, float *y)
{
	struct ql_err e = {0};

	assert_int_equal(ql_blk_quantize(t, x, 1, n, NULL, b, NULL, &e), QL_OK);
	assert_int_equal(ql_blk_check(t, b, n, &e), QL_OK);
	assert_int_equal(ql_blk_dequantize(t, b, n, y, &e), QL_OK);
}

/* Scales by a power of two to where f16 scales and minima are normal numbers. */
static void fit(float *x, size_t n)
{
	float top = 0.0f;
	int exponent = 0;

	for (size_t i = 0; i < n; i++)
		top = fmaxf(top, fabsf(x[i]));
	(void)frexpf(top, &exponent);
	if (exponent > 14 || exponent < 1)
		for (size_t i = 0; i < n; i++)
			x[i] = ldexpf(x[i], (exponent < 1 ? 1 : 14) - exponent);
}

static void expected_error(void **state)
{
	static const struct {
		enum ql_dtype t;
		double rel;
	} table[] = {{QL_Q8_0, 0.0053}, {QL_Q6_K, 0.0177}, {QL_Q5_K, 0.0361},	{QL_Q5_1, 0.0378}, {QL_Q5_0, 0.0427},
		     {QL_Q4_K, 0.0713}, {QL_Q4_1, 0.0782}, {QL_IQ4_NL, 0.0762}, {QL_Q4_0, 0.0859}, {QL_BF16, 0.00166},
		     {QL_F16, 0.000207}};
	const uint64_t n = 1 << 19;
	float *x = malloc(n * 4), *y = malloc(n * 4);
	uint8_t *b = malloc(n * 4);
	struct rng r = {.seed = 21};

	(void)state;
	assert_true(x != NULL && y != NULL && b != NULL);
	rnd_normals(&r, x, n);
	for (size_t k = 0; k < sizeof table / sizeof *table; k++) {
		struct ql_quant_sums s = {0};
		double rel;

		roundtrip(table[k].t, x, n, b, y);
		ql_quant_sums_add(&s, x, y, n);
		rel = ql_quant_error_of(&s).rel_rmse;
		if (fabs(rel / table[k].rel - 1.0) > 0.01)
			print_error("%s: %.5f, expected %.5f\n", ql_dtype_name(table[k].t), rel, table[k].rel);
		assert_true(fabs(rel / table[k].rel - 1.0) <= 0.01);
	}
	roundtrip(QL_F32, x, n, b, y);
	assert_memory_equal(x, y, n * 4);
	free(x);
	free(y);
	free(b);
}

/* What an element may be off by: half a step, plus a whole one where the range is one-sided (Q4_0, Q5_0, IQ4_NL), plus what
 * f16 scales add; K types: measured against the super-block's largest magnitude. */
static double bound(enum ql_dtype t, double step, double top)
{
	switch (t) {
	case QL_Q4_0:
		return step * 1.01;
	case QL_Q5_0:
		return step * 1.02;
	case QL_Q4_1:
		return step * 0.51 + top / 1024;
	case QL_Q5_1:
		return step * 0.52 + top / 1024;
	case QL_Q8_0:
		return step * 0.57;
	case QL_IQ4_NL:
		return top * 0.18;
	case QL_Q4_K:
		return top * 0.14;
	case QL_Q5_K:
		return top * 0.075;
	default: /* Q6_K */
		return top * 0.05;
	}
}

static double step_of(enum ql_dtype t, double mn, double mx, double top)
{
	switch (t) {
	case QL_Q4_0:
		return top / 8;
	case QL_Q5_0:
		return top / 16;
	case QL_Q4_1:
		return (mx - mn) / 15;
	case QL_Q5_1:
		return (mx - mn) / 31;
	case QL_Q8_0:
		return top / 127;
	default:
		return 0.0;
	}
}

/* How far quantising what was dequantised (y, of x) changes it. */
struct idempotence {
	double moved, all; /* values */
	double drift;	   /* largest change, in parts of the block's largest magnitude */
};

static void again(enum ql_dtype t, const float *x, const float *y, size_t n, uint8_t *b, float *z, struct idempotence *r)
{
	uint32_t block = ql_dtypes[t].block;

	roundtrip(t, y, n, b, z);
	for (size_t at = 0; at < n; at += block) {
		double top = 0.0, d = 0.0;

		for (size_t i = at; i < at + block; i++) {
			top = fmax(top, fabs((double)x[i]));
			d = fmax(d, fabs((double)y[i] - (double)z[i]));
			r->moved += y[i] != z[i];
		}
		r->drift = d > 0.0 ? fmax(r->drift, d / top) : r->drift;
	}
	r->all += (double)n;
}

static void properties(void **state)
{
	static float x[1024], y[1024], z[1024], twice[1024];
	static uint8_t b[4096], c[4096];
	struct rng r = {.seed = 22};
	int todo = rounds(10000); /* of each type */
	struct idempotence idem[9] = {{0}};

	(void)state;
	for (int k = 0; k < 9; k++)
		for (int round = 0; round < todo; round++) {
			enum ql_dtype t = types[k];
			uint32_t block = ql_dtypes[t].block;
			size_t n = block * (1 + rnd_below(&r, 512 / block));
			double worst = 0.0;

			rnd_tensor(&r, x, n, round % 8);
			fit(x, n);
			roundtrip(t, x, n, b, y);
			for (size_t at = 0; at < n; at += block) {
				double top = 0.0, mn = (double)x[at], mx = mn, limit;

				for (size_t i = at; i < at + block; i++) {
					top = fmax(top, fabs((double)x[i]));
					mn = fmin(mn, (double)x[i]);
					mx = fmax(mx, (double)x[i]);
				}
				limit = bound(t, step_of(t, mn, mx, top), top) + 1e-6;
				for (size_t i = at; i < at + block; i++) {
					double d = fabs((double)x[i] - (double)y[i]);

					worst = fmax(worst, d / limit);
				}
			}
			if (worst > 1.0)
				print_error("%s round %d: %.3f of the bound\n", ql_dtype_name(t), round, worst);
			assert_true(worst <= 1.0);
			/* scale invariance: exact for powers of two where f16 scales and minima are normal numbers */
			if (round % 8 == 0 || round % 8 == 2) {
				for (size_t i = 0; i < n; i++)
					twice[i] = x[i] * 2.0f;
				roundtrip(t, twice, n, c, z);
				for (size_t i = 0; i < n; i++)
					assert_true(z[i] == 2.0f * y[i]);
			}
			again(t, x, y, n, c, z, &idem[k]);
		}
	for (int k = 0; k < 9; k++) {
		/* exact for those whose scale is carried by an element; the others' scales come from ggml's search, which is not a
		 * projection: what moves, moves by about one step */
		bool searched = types[k] == QL_Q4_K || types[k] == QL_Q5_K || types[k] == QL_Q6_K || types[k] == QL_IQ4_NL;

		if (searched)
			print_message("%s: quantised again, %.1f %% of the values move, by %.4f of the block's largest at most\n",
				      ql_dtype_name(types[k]), 100 * idem[k].moved / idem[k].all, idem[k].drift);
		assert_true(idem[k].moved <= (searched ? 0.1 * idem[k].all : 0));
		assert_true(idem[k].drift <= (types[k] == QL_Q6_K ? 0.02 : types[k] == QL_Q5_K ? 0.06 : 0.08));
	}
}

static void importance(void **state)
{
	static const enum ql_dtype k_types[3] = {QL_Q4_K, QL_Q5_K, QL_Q6_K};
	static float x[4 * 512], w[512], y[4 * 512], z[4 * 512];
	static uint8_t b[8192], c[8192];
	struct rng r = {.seed = 23};
	struct ql_pool *pool = ql_pool_new(3);

	(void)state;
	for (int round = 0; round < rounds(120); round++)
		for (int k = 0; k < 3; k++) {
			enum ql_dtype t = k_types[k];
			double plain = 0.0, with = 0.0;

			rnd_tensor(&r, x, 4 * 512, round % 8);
			fit(x, 4 * 512);
			for (int i = 0; i < 512; i++)
				w[i] = rnd_below(&r, 4) == 0 ? 10.0f * rnd_u(&r) : 0.01f;
			assert_int_equal(ql_blk_quantize(t, x, 4, 512, NULL, b, NULL, NULL), QL_OK);
			assert_int_equal(ql_blk_quantize(t, x, 4, 512, w, c, pool, NULL), QL_OK);
			assert_int_equal(ql_blk_dequantize(t, b, 4 * 512, y, NULL), QL_OK);
			assert_int_equal(ql_blk_dequantize(t, c, 4 * 512, z, NULL), QL_OK);
			for (int at = 0; at < 4 * 512; at += 256) {
				double s2 = 0.0;

				for (int i = at; i < at + 256; i++)
					s2 += (double)x[i] * (double)x[i] / 256;
				for (int i = at; i < at + 256; i++) {
					double v = (double)w[i % 512] * sqrt(s2 + (double)x[i] * (double)x[i]);

					plain += v * ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
					with += v * ((double)x[i] - (double)z[i]) * ((double)x[i] - (double)z[i]);
				}
			}
			assert_true(with <= plain * (1.0 + 1e-6));
			if (round % 8 == 0)
				assert_true(with < 0.9 * plain);
		}
	ql_pool_free(pool);
}

static void threads(void **state)
{
	const uint64_t rows = 37, cols = 2048, n = rows * cols;
	float *x = malloc(n * 4);
	uint8_t *b = malloc(n * 4), *c = malloc(n * 4);
	struct ql_pool *pool = ql_pool_new(4);
	struct rng r = {.seed = 24};

	(void)state;
	assert_true(x != NULL && b != NULL && c != NULL && pool != NULL);
	rnd_normals(&r, x, n);
	for (int k = 0; k < 9; k++) {
		size_t row = ql_dtype_bytes(types[k], cols);

		assert_int_equal(ql_blk_quantize(types[k], x, rows, cols, NULL, b, pool, NULL), QL_OK);
		for (uint64_t i = 0; i < rows; i++)
			assert_int_equal(ql_blk_quantize(types[k], x + i * cols, 1, cols, NULL, c + i * row, NULL, NULL), QL_OK);
		assert_memory_equal(b, c, row * rows);
	}
	ql_pool_free(pool);
	free(x);
	free(b);
	free(c);
}

static void refusals(void **state)
{
	static float x[40000], w[256];
	static uint8_t b[160000];
	struct ql_err e;

	(void)state;
	for (int i = 0; i < 40000; i++)
		x[i] = 0.5f;
	for (int k = 0; k < 9; k++) {
		uint32_t block = ql_dtypes[types[k]].block;

		assert_int_equal(ql_blk_quantize(types[k], x, 1, block - 1, NULL, b, NULL, &e), QL_ESHAPE);
		assert_int_equal(ql_blk_dequantize(types[k], b, block + 1, x, &e), QL_ESHAPE);
		for (int t = 0; t < 3; t++) {
			uint64_t at = 20000 + (uint64_t)t * 555;

			x[at] = t == 0 ? NAN : t == 1 ? INFINITY : -INFINITY;
			assert_int_equal(ql_blk_quantize(types[k], x, 4, 9984, NULL, b, NULL, &e), QL_ENONFINITE);
			assert_int_equal(e.offset, at);
			x[at] = 0.5f;
		}
		x[777] = 3e38f; /* out of any type's range; below that, the f16 scale overflows */
		assert_int_equal(ql_blk_quantize(types[k], x, 1, 9984, NULL, b, NULL, &e), QL_ENONFINITE);
		assert_int_equal(e.offset, 777);
		x[777] = 9e8f;
		assert_int_equal(ql_blk_quantize(types[k], x, 1, 9984, NULL, b, NULL, &e), QL_ENONFINITE);
		assert_int_equal(e.offset, 777 / block * block);
		x[777] = 0.5f;
		assert_int_equal(ql_blk_quantize(types[k], x, 0, 256, NULL, b, NULL, &e), QL_OK);
		assert_int_equal(ql_blk_quantize(types[k], x, UINT64_MAX / 256, 512, NULL, b, NULL, &e), QL_ELIMIT);
	}
	x[9] = 65520.0f; /* rounds to infinity in f16 */
	assert_int_equal(ql_blk_quantize(QL_F16, x, 1, 100, NULL, b, NULL, &e), QL_ENONFINITE);
	assert_int_equal(e.offset, 9);
	x[9] = 65519.0f;
	assert_int_equal(ql_blk_quantize(QL_F16, x, 1, 100, NULL, b, NULL, &e), QL_OK);
	x[9] = 3.4028235e38f;
	assert_int_equal(ql_blk_quantize(QL_BF16, x, 1, 100, NULL, b, NULL, &e), QL_ENONFINITE);
	assert_int_equal(ql_blk_quantize(QL_F32, x, 1, 100, NULL, b, NULL, &e), QL_OK);
	x[9] = 0.5f;
	assert_int_equal(ql_blk_quantize(QL_NF4, x, 1, 256, NULL, b, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_blk_dequantize((enum ql_dtype)200, b, 256, x, &e), QL_EINVAL);
	assert_int_equal(ql_blk_quantize(QL_Q4_0, x, 1, 256, w, b, NULL, &e), QL_EUNSUPPORTED);
	assert_int_equal(ql_blk_quantize(QL_F16, x, 1, 256, w, b, NULL, &e), QL_EUNSUPPORTED);
	assert_int_equal(ql_blk_quantize(QL_Q4_K, x, 1, 256, w, b, NULL, &e), QL_OK); /* all weights 0: plain */
	w[3] = -1.0f;
	assert_int_equal(ql_blk_quantize(QL_Q4_K, x, 1, 256, w, b, NULL, &e), QL_EINVAL);
	assert_int_equal(e.offset, 3);
	w[3] = NAN;
	assert_int_equal(ql_blk_quantize(QL_Q4_K, x, 1, 256, w, b, NULL, &e), QL_EINVAL);
}

static void checks(void **state)
{
	static uint8_t b[8 * 256];
	struct ql_err e;

	(void)state;
	for (int k = 0; k < 9; k++) {
		enum ql_dtype t = types[k];
		uint32_t size = ql_dtypes[t].bytes, block = ql_dtypes[t].block;
		uint32_t at[2] = {t == QL_Q6_K ? 208 : 0, 2};
		int n = t == QL_Q4_1 || t == QL_Q5_1 || t == QL_Q4_K || t == QL_Q5_K ? 2 : 1;

		memset(b, 0, sizeof b);
		assert_int_equal(ql_blk_check(t, b, 3 * block, &e), QL_OK);
		for (int i = 0; i < n; i++) {
			b[2 * size + at[i] + 1] = 0x7c;
			assert_int_equal(ql_blk_check(t, b, 3 * block, &e), QL_EFORMAT);
			assert_int_equal(e.offset, 2);
			assert_int_equal(ql_blk_check(t, b, 2 * block, &e), QL_OK);
			b[2 * size + at[i] + 1] = 0;
		}
	}
	b[9] = 0x7f;
	b[8] = 0x80;
	assert_int_equal(ql_blk_check(QL_BF16, b, 10, &e), QL_EFORMAT);
	assert_int_equal(e.offset, 4);
}

/* roundf, half away from zero, as Q8_0 needs it: the trick in blk_simple.inc.h against the library. */
static void half_away(void **state)
{
	(void)state;
	for (int i = -254; i <= 254; i++)
		for (int s = -1; s <= 1; s++) {
			float v = (float)i * 0.5f;

			v = s == 0 ? v : nextafterf(v, s < 0 ? -1e9f : 1e9f);
			assert_int_equal((int)(v + copysignf(0x1.fffffep-2f, v)), (int)roundf(v));
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(expected_error), cmocka_unit_test(properties), cmocka_unit_test(importance),
		cmocka_unit_test(threads),	  cmocka_unit_test(refusals),	cmocka_unit_test(checks),
		cmocka_unit_test(half_away),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
