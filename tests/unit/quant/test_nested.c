/* test_nested.c - double-quantised scales and the dynamic maps, expected errors, decoding of ranges. */
#include "core/base/hash.h"
#include "tests/unit/quant/tq4.h"

static const enum ql_dtype kinds[3] = {QL_NF4, QL_FP4, QL_INT4};

/* The maps, block counts, the midpoint rule, offset */
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

/* Expected errors on normal weights */
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
		cmocka_unit_test(nested), cmocka_unit_test(expected_error), cmocka_unit_test(ranges),
		cmocka_unit_test(streaming),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
