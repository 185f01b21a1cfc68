/* test_strategy.c - per-channel and asymmetric tensors, error figures. */
#include "core/quant/strategy.h"

#include "tests/unit/quant/tq.h"

#define N (1u << 20)

static float *x, *y;

static int setup(void **state)
{
	(void)state;
	x = malloc(N * 4);
	y = malloc(N * 4);
	return x == NULL || y == NULL;
}

static int teardown(void **state)
{
	(void)state;
	free(x);
	free(y);
	return 0;
}

static struct ql_quant_error error_of(uint64_t n)
{
	struct ql_quant_sums s = {0};

	ql_quant_sums_add(&s, x, y, n / 3);
	ql_quant_sums_add(&s, x + n / 3, y + n / 3, n - n / 3);
	return ql_quant_error_of(&s);
}

static struct ql_quant_error symmetric(enum ql_dtype kind, uint64_t n)
{
	struct ql_q4_opts o = {.kind = kind, .blocksize = 64};
	struct ql_q4 q;

	assert_int_equal(ql_q4_quantize(&q, x, QL_F32, n, &o, NULL, NULL), QL_OK);
	assert_int_equal(ql_q4_dequantize(&q, 0, n, y, QL_F32, NULL, NULL), QL_OK);
	ql_q4_free(&q);
	return error_of(n);
}

static struct ql_quant_error asymmetric(enum ql_dtype kind, uint64_t n, bool nested)
{
	struct ql_q4_opts o = {.kind = kind, .blocksize = 64, .nested = nested, .nested_blocksize = 256};
	struct ql_q4a q;
	struct ql_err e;

	assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, n, &o, NULL, NULL), QL_OK);
	assert_int_equal(ql_q4a_check(&q, &e), QL_OK);
	assert_int_equal(ql_q4a_dequantize(&q, 0, n, y, QL_F32, NULL, NULL), QL_OK);
	ql_q4a_free(&q);
	return error_of(n);
}

static void near(double got, double want)
{
	if (fabs(got / want - 1.0) > 0.02)
		print_error("%.5f, expected %.5f\n", got, want);
	assert_true(fabs(got / want - 1.0) <= 0.02);
}

static void table(void **state)
{
	struct rng r = {.seed = 31};
	double sym;

	(void)state;
	rnd_normals(&r, x, N);
	near(symmetric(QL_NF4, N).rel_rmse, 0.0920);
	near(asymmetric(QL_NF4, N, false).rel_rmse, 0.0804); /* 0.0902 with the range mapped onto [-1, 1] */
	near(asymmetric(QL_FP4, N, false).rel_rmse, 0.1038);
	near(asymmetric(QL_INT4, N, false).rel_rmse, 0.0896);
	for (uint32_t i = 0; i < N; i++)
		x[i] += 3.0f;
	sym = symmetric(QL_NF4, N).rmse;
	near(sym, 0.252);
	near(asymmetric(QL_NF4, N, false).rmse, 0.0804);
	near(asymmetric(QL_INT4, N, false).rmse, 0.090);
	assert_true(asymmetric(QL_NF4, N, true).rmse <= sym * 0.5);
	for (uint32_t i = 0; i < N; i++)
		x[i] = 5.0f * rnd_u(&r);
	sym = symmetric(QL_NF4, N).rmse;
	near(sym, 0.247);
	near(asymmetric(QL_NF4, N, false).rmse, 0.112); /* 0.129 without the search */
	near(asymmetric(QL_INT4, N, false).rmse, 0.092);
	assert_true(asymmetric(QL_INT4, N, false).rmse < 0.5 * sym && asymmetric(QL_INT4, N, true).rmse < 0.5 * sym);
}

/* Error of asymmetric over symmetric on 2048 numbers of [0, 5). */
static double one_sided(struct rng *r, enum ql_dtype kind)
{
	for (uint64_t i = 0; i < 2048; i++)
		x[i] = 5.0f * rnd_u(r);
	return asymmetric(kind, 2048, false).rmse / symmetric(kind, 2048).rmse;
}

/* Of the block of x from `at`. */
static float half_range(uint64_t at, uint64_t n, uint32_t block)
{
	float lo = x[at], hi = lo;

	for (uint64_t i = at; i < n && i < at + block; i++) {
		lo = fminf(lo, x[i]);
		hi = fmaxf(hi, x[i]);
	}
	return hi / 2 - lo / 2;
}

/* Never much worse than symmetric, on shifted data of every character; decoding in ranges and by a pool agrees. */
static void properties(void **state)
{
	static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};
	static float z[4096];
	struct rng r = {.seed = 32};
	struct ql_pool *pool = ql_pool_new(3);
	int todo = rounds(3 * 10000); /* 10,000 of each kind */
	double worst[3] = {0}, ratio[3] = {0};

	(void)state;
	for (int round = 0; round < todo; round++) {
		enum ql_dtype kind = kinds[round % 3];
		uint64_t n = 256 + rnd_below(&r, 500), begin = rnd_below(&r, (uint32_t)n), count;
		struct ql_q4_opts o = {.kind = kind, .blocksize = 32u << rnd_below(&r, 4), .nested = round % 5 == 0,
				       .nested_blocksize = 256};
		float spread = 0.0f, last = 0.0f, scale[128], zero[128];
		struct ql_q4a q, p;

		worst[round % 3] = fmax(worst[round % 3], one_sided(&r, kind));
		n = round / 3 % 8 == 4 ? 4 * n : n; /* one outlier must not be most of the tensor */
		rnd_tensor(&r, x, n, round / 3 % 8);
		for (uint64_t i = 0; i < n; i++)
			spread = fmaxf(spread, fabsf(x[i]));
		for (uint64_t i = 0; i < n; i++)
			x[i] += (round % 2 ? 2.0f : -2.0f) * spread;
		if (spread > 0.0f) {
			double a = asymmetric(kind, n, false).rmse, s = symmetric(kind, n).rmse;

			ratio[round % 3] = fmax(ratio[round % 3], a / s);
		}
		assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, n, &o, NULL, NULL), QL_OK);
		assert_int_equal(ql_q4a_quantize(&p, x, QL_F32, n, &o, pool, NULL), QL_OK);
		assert_memory_equal(p.codes, q.codes, (n + 1) / 2);
		assert_int_equal(ql_q4a_dequantize(&q, 0, n, y, QL_F32, NULL, NULL), QL_OK);
		count = rnd_below(&r, (uint32_t)(n - begin) + 1);
		assert_int_equal(ql_q4a_dequantize(&p, begin, count, z, QL_F32, pool, NULL), QL_OK);
		assert_memory_equal(z, y + begin, count * 4);
		assert_int_equal(ql_q4a_stats(&q, 0, (n + o.blocksize - 1) / o.blocksize, scale, zero), QL_OK);
		assert_int_equal(ql_q4a_stats(&q, 1, (n + o.blocksize - 1) / o.blocksize, scale, zero), QL_EINVAL);
		for (uint64_t i = 0; i < n; i++) { /* the formula, by hand */
			int c = i % 2 == 0 ? q.codes[i / 2] >> 4 : q.codes[i / 2] & 15;
			float level = kind == QL_INT4 ? (float)c : ql_q4_code(kind)[c];
			float v = level * scale[i / o.blocksize];

			assert_true(y[i] == v + zero[i / o.blocksize]);
			if (!o.nested) {
				float half = i % o.blocksize == 0 ? half_range(i, n, o.blocksize) : last;
				float step = kind == QL_INT4 ? 0.51f / 7.5f : kind == QL_NF4 ? 0.1525f : 0.1675f;

				last = half;
				assert_true(fabsf(y[i] - x[i]) <= step * half + 1e-6f * spread);
			}
		}
		ql_q4a_free(&q);
		ql_q4a_free(&p);
	}
	ql_pool_free(pool);
	print_message("error of asymmetric over symmetric at worst, shifted: nf4 %.3f, fp4 %.3f, int4 %.3f; in [0, 5): %.3f, %.3f, %.3f\n",
		      ratio[0], ratio[1], ratio[2], worst[0], worst[1], worst[2]);
	for (int k = 0; k < 3; k++) {
		assert_true(ratio[k] > 0.0 && ratio[k] <= 1.05);
		assert_true(worst[k] < 0.5);
	}
}

/* Shifting the data moves the zero point and nothing else, up to what rounding x + k does to the choice between nearly equal frames. */
static void shift_invariance(void **state)
{
	static float s[4096];
	struct rng r = {.seed = 33};
	struct ql_q4_opts o = {.kind = QL_NF4, .blocksize = 64};
	uint64_t moved = 0, all = 0;

	(void)state;
	for (int round = 0; round < 200; round++) {
		float k = ldexpf(1.0f, (int)rnd_below(&r, 12));
		double e[2] = {0};
		struct ql_q4a p, q;

		rnd_normals(&r, x, 4096);
		for (int i = 0; i < 4096; i++) {
			s[i] = x[i] + k;
			x[i] = s[i] - k; /* what is left of it */
		}
		assert_int_equal(ql_q4a_quantize(&p, x, QL_F32, 4096, &o, NULL, NULL), QL_OK);
		assert_int_equal(ql_q4a_quantize(&q, s, QL_F32, 4096, &o, NULL, NULL), QL_OK);
		for (int i = 0; i < 4096; i++) {
			int c = p.codes[i / 2] >> (i % 2 ? 0 : 4) & 15, d = q.codes[i / 2] >> (i % 2 ? 0 : 4) & 15;
			double a = (double)ql_q4_code(QL_NF4)[c] * p.stat[0].f[i / 64] + p.stat[1].f[i / 64] - x[i];
			double b = (double)ql_q4_code(QL_NF4)[d] * q.stat[0].f[i / 64] + q.stat[1].f[i / 64] - s[i];

			e[0] += a * a;
			e[1] += b * b;
			moved += c != d;
			all++;
		}
		assert_true(fabs(e[0] / e[1] - 1.0) < 5e-3);
		ql_q4a_free(&p);
		ql_q4a_free(&q);
	}
	print_message("codes moved by a shift: %.4f\n", (double)moved / (double)all);
	assert_true(moved < all / 20);
}

static void odd_blocks(void **state)
{
	struct ql_q4_opts o = {.kind = QL_NF4, .blocksize = 64};
	static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};
	static const uint8_t zero[3] = {0x77, 0x00, 0x00};
	struct ql_err e;
	struct ql_q4a q;

	(void)state;
	for (int k = 0; k < 3; k++) {
		o.kind = kinds[k];
		for (int i = 0; i < 128; i++)
			x[i] = i < 64 ? -3.25f : -0.0f;
		assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 128, &o, NULL, NULL), QL_OK);
		assert_int_equal(ql_q4a_dequantize(&q, 0, 128, y, QL_F32, NULL, NULL), QL_OK);
		for (int i = 0; i < 128; i++) {
			assert_int_equal(q.codes[i / 2], zero[k]);
			assert_true(y[i] == x[i]);
		}
		ql_q4a_free(&q);
		for (int i = 0; i < 64; i++) /* the whole of fp32: the middle does not overflow, the range of INT4 does */
			x[i] = i % 2 ? 3.4028235e38f : -3.4028235e38f;
		if (kinds[k] == QL_INT4) {
			assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 128, &o, NULL, &e), QL_ENONFINITE);
			assert_int_equal(e.offset, 0);
		} else {
			assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 128, &o, NULL, NULL), QL_OK);
			assert_int_equal(ql_q4a_dequantize(&q, 0, 64, y, QL_F32, NULL, NULL), QL_OK);
			assert_memory_equal(x, y, 256);
			ql_q4a_free(&q);
		}
		x[99] = NAN;
		x[98] = 1.0f;
		for (int i = 0; i < 64; i++)
			x[i] = 1.0f;
		assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 128, &o, NULL, &e), QL_ENONFINITE);
		assert_int_equal(e.offset, 99);
		assert_null(q.owned);
		assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 0, &o, NULL, &e), QL_EINVAL);
	}
	o.blocksize = 48;
	assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, 64, &o, NULL, &e), QL_EINVAL);
	/* bits per weight */
	o = (struct ql_q4_opts){.kind = QL_NF4, .blocksize = 64};
	for (uint32_t i = 0; i < N; i++)
		x[i] = 1.0f;
	assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, N, &o, NULL, NULL), QL_OK);
	assert_true(ql_q4a_bytes(&q) * 8 == N * 5ull);
	ql_q4a_free(&q);
	o.nested = true;
	o.nested_blocksize = 256;
	assert_int_equal(ql_q4a_quantize(&q, x, QL_F32, N, &o, NULL, NULL), QL_OK);
	assert_true(fabs((double)ql_q4a_bytes(&q) * 8.0 / N - 4.254) < 0.001);
	q.stat[1].absmax[3] = INFINITY;
	assert_int_equal(ql_q4a_check(&q, &e), QL_EFORMAT);
	assert_string_equal(e.param, "zero");
	assert_int_equal(e.offset, 3);
	q.stat[0].offset = NAN;
	assert_int_equal(ql_q4a_check(&q, &e), QL_EFORMAT);
	assert_string_equal(e.param, "scale");
	ql_q4a_free(&q);
}

static void channels(void **state)
{
	struct rng r = {.seed = 34};
	int todo = rounds(3 * 10000);

	(void)state;
	for (int round = 0; round < todo; round++) {
		uint64_t cols = round % 2 ? 32u << rnd_below(&r, 6) : 2 * (1 + (uint64_t)rnd_below(&r, 700)), rows = 1 + rnd_below(&r, 12);
		struct ql_q4_opts o = {.kind = round % 3 == 0 ? QL_NF4 : round % 3 == 1 ? QL_FP4 : QL_INT4,
				       .nested = round % 4 == 0, .nested_blocksize = 256};
		uint64_t n = rows * cols, row = rnd_below(&r, (uint32_t)rows);
		struct ql_q4 q, b;

		rnd_tensor(&r, x, n, round % 8);
		assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, rows, cols, &o, NULL, NULL), QL_OK);
		assert_int_equal(ql_q4_check(&q, NULL), QL_OK);
		assert_int_equal(ql_q4_blocks(&q), rows);
		if (ql_q4_blocksize_ok((uint32_t)cols)) {
			struct ql_q4_opts blocks = o;

			blocks.blocksize = (uint32_t)cols;
			assert_int_equal(ql_q4_quantize(&b, x, QL_F32, n, &blocks, NULL, NULL), QL_OK);
			assert_memory_equal(b.codes, q.codes, n / 2);
			if (!o.nested)
				assert_memory_equal(b.absmax, q.absmax, rows * 4);
			ql_q4_free(&b);
		}
		assert_int_equal(ql_q4_dequantize(&q, 0, n, y, QL_F32, NULL, NULL), QL_OK);
		if (!o.nested) {
			for (uint64_t i = 0; i < n; i++)
				assert_true(fabsf(x[i] - y[i]) <= 0.1668f * q.absmax[i / cols]);
			for (uint64_t i = row * cols; i < (row + 1) * cols; i++)
				x[i] *= 7.0f;
			assert_int_equal(ql_q4_quantize_channels(&b, x, QL_F32, rows, cols, &o, NULL, NULL), QL_OK);
			for (uint64_t k = 0; k < rows; k++)
				if (k != row) {
					assert_memory_equal(b.codes + k * cols / 2, q.codes + k * cols / 2, cols / 2);
					assert_memory_equal(b.absmax + k, q.absmax + k, 4);
				}
			ql_q4_free(&b);
		}
		ql_q4_free(&q);
	}
}

static void long_channels(void **state)
{
	struct ql_q4_opts o = {.kind = QL_NF4};
	struct ql_pool *pool = ql_pool_new(2);
	static const uint64_t cols[3] = {4096, 200002, 131072};
	struct rng r = {.seed = 35};
	struct ql_err e;
	struct ql_q4 q;
	struct ql_q4a a;
	uint16_t *h = malloc(2 * N);

	(void)state;
	assert_non_null(h);
	rnd_normals(&r, x, N);
	narrow(x, N, QL_BF16, h);
	for (int k = 0; k < 3; k++) {
		uint64_t rows = N / cols[k], n = rows * cols[k];
		struct ql_q4 s;

		assert_int_equal(ql_q4_quantize_channels(&q, h, QL_BF16, rows, cols[k], &o, pool, NULL), QL_OK);
		assert_int_equal(ql_q4_quantize_channels(&s, x, QL_F32, rows, cols[k], &o, NULL, NULL), QL_OK);
		assert_memory_equal(q.codes, s.codes, n / 2);
		assert_memory_equal(q.absmax, s.absmax, rows * 4);
		assert_int_equal(ql_q4_dequantize(&q, 0, n, y, QL_F32, pool, NULL), QL_OK);
		for (uint64_t i = 0; i < n; i++) {
			int c = q.codes[i / 2] >> (i % 2 ? 0 : 4) & 15;

			assert_true(y[i] == q.code[c] * q.absmax[i / cols[k]]);
		}
		if (k == 0) {
			assert_true(fabs(error_of(n).rel_rmse / 0.1100 - 1.0) <= 0.01);
			assert_true(fabs((double)ql_q4_bytes(&q) * 8 / (double)n - 4.0078) < 0.0001);
		}
		ql_q4_free(&q);
		ql_q4_free(&s);
		assert_int_equal(ql_q4a_quantize_channels(&a, h, QL_BF16, rows, cols[k], &o, pool, NULL), QL_OK);
		assert_int_equal(ql_q4a_check(&a, NULL), QL_OK);
		assert_int_equal(ql_q4a_dequantize(&a, 0, n, y, QL_F32, pool, NULL), QL_OK);
		assert_true(error_of(n).rel_rmse < 0.16);
		ql_q4a_free(&a);
	}
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, 4, 33, &o, NULL, &e), QL_ESHAPE);
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, 0, 32, &o, NULL, &e), QL_ESHAPE);
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, 4, 0, &o, NULL, &e), QL_ESHAPE);
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, 1, 1ull << 32, &o, NULL, &e), QL_ESHAPE);
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, UINT64_MAX / 2, 4, &o, NULL, &e), QL_ELIMIT);
	assert_int_equal(ql_q4a_quantize_channels(&a, x, QL_F32, 4, 33, &o, NULL, &e), QL_ESHAPE);
	o.blocksize = 64;
	assert_int_equal(ql_q4_quantize_channels(&q, x, QL_F32, 4, 32, &o, NULL, &e), QL_EINVAL);
	ql_pool_free(pool);
	free(h);
}

static void figures(void **state)
{
	struct ql_quant_sums s = {0};
	struct ql_quant_error r;

	(void)state;
	r = ql_quant_error_of(&s);
	assert_true(r.rmse == 0.0 && r.rel_rmse == 0.0 && r.cosine == 1.0);
	ql_quant_sums_add(&s, (float[]){3, 0}, (float[]){0, 4}, 2);
	r = ql_quant_error_of(&s);
	assert_true(fabs(r.rmse - sqrt(12.5)) < 1e-12 && fabs(r.rel_rmse - 5.0 / 3.0) < 1e-12);
	assert_true(r.max_abs == 4.0 && r.cosine == 0.0);
	s = (struct ql_quant_sums){0};
	ql_quant_sums_add(&s, (float[]){1, 2}, (float[]){2, 4}, 2);
	assert_true(fabs(ql_quant_error_of(&s).cosine - 1.0) < 1e-12);
	s = (struct ql_quant_sums){0};
	ql_quant_sums_add(&s, (float[]){0}, (float[]){1}, 1);
	r = ql_quant_error_of(&s);
	assert_true(isinf(r.rel_rmse) && r.cosine == 0.0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(table),    cmocka_unit_test(properties),    cmocka_unit_test(shift_invariance),
		cmocka_unit_test(channels), cmocka_unit_test(long_channels), cmocka_unit_test(odd_blocks),
		cmocka_unit_test(figures),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
