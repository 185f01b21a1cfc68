/* test_int8.c - INT8 blocks and the 8-bit codes of Adam states. */
#include "core/quant/int8.h"

#include "core/quant/q4.h"
#include "tests/unit/quant/tq.h"

#define MAX_N 6000

static float x[MAX_N], y[MAX_N], z[MAX_N], scale[MAX_N], scale2[MAX_N];
static uint16_t half[MAX_N];
static int8_t q[MAX_N], q2[MAX_N];
static uint8_t c[MAX_N];

static void int8_rule(void **state)
{
	static const enum ql_dtype types[3] = {QL_F32, QL_F16, QL_BF16};
	struct rng r = {.seed = 41};
	struct ql_pool *pool = ql_pool_new(3);
	int todo = rounds(10000);

	(void)state;
	for (int round = 0; round < todo; round++) {
		uint64_t n = 1 + rnd_below(&r, round % 20 ? 500 : MAX_N), begin, count;
		uint32_t b = 32u << rnd_below(&r, 8);
		enum ql_dtype t = types[round % 3];
		float top;

		rnd_tensor(&r, x, n, round % 8);
		if (round % 9 == 0)
			memset(x, 0, n < 40 ? n * 4 : 160);
		if (t != QL_F32)
			narrow(x, n, t, half);
		assert_int_equal(ql_int8_quantize(t == QL_F32 ? (void *)x : half, t, n, b, q, scale, pool, NULL), QL_OK);
		ql_int8_dequantize(q, scale, b, 0, n, y);
		top = 0.0f;
		for (uint64_t i = 0; i < n; i++) {
			float v;

			for (uint64_t k = i; i % b == 0 && k < n && k < i + b; k++)
				top = k == i ? fabsf(x[k]) : fmaxf(top, fabsf(x[k]));
			assert_true(scale[i / b] == top / 127.0f);
			v = x[i] * (1.0f / fmaxf(top / 127.0f, 1e-38f));
			assert_int_equal(q[i], (int)rintf(fmaxf(fminf(v, 127.0f), -127.0f)));
			assert_true(fabsf(x[i] - y[i]) <= 0.5001f * scale[i / b] + 1e-38f);
		}
		begin = rnd_below(&r, (uint32_t)n);
		count = rnd_below(&r, (uint32_t)(n - begin) + 1);
		ql_int8_dequantize(q, scale, b, begin, count, z);
		assert_memory_equal(z, y + begin, count * 4);
		assert_int_equal(ql_int8_quantize(y, QL_F32, n, b, q2, scale2, NULL, NULL), QL_OK); /* idempotent */
		assert_memory_equal(q, q2, n);
		for (uint64_t i = 0; i < n; i++)
			z[i] = x[i] * 0.125f;
		assert_int_equal(ql_int8_quantize(z, QL_F32, n, b, q2, scale2, NULL, NULL), QL_OK); /* scale invariant */
		assert_memory_equal(q, q2, n);
	}
	ql_pool_free(pool);
}

static void int8_refusals(void **state)
{
	struct ql_err e;

	(void)state;
	for (int i = 0; i < MAX_N; i++)
		x[i] = 1.0f;
	x[4321] = NAN;
	x[5000] = INFINITY;
	assert_int_equal(ql_int8_quantize(x, QL_F32, MAX_N, 64, q, scale, NULL, &e), QL_ENONFINITE);
	assert_int_equal(e.offset, 4321);
	assert_int_equal(ql_int8_quantize(x, QL_F32, 64, 0, q, scale, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_int8_quantize(x, QL_F32, 64, 100, q, scale, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_int8_quantize(x, QL_I8, 64, 64, q, scale, NULL, &e), QL_EINVAL);
	assert_int_equal(ql_int8_quantize(x, QL_F32, 0, 64, q, scale, NULL, &e), QL_EINVAL);
}

static void dyn8_rule(void **state)
{
	struct rng r = {.seed = 42};
	struct ql_pool *pool = ql_pool_new(2);
	int todo = rounds(1500);

	(void)state;
	for (int round = 0; round < todo; round++) {
		bool is_signed = round % 2;
		const float *map = is_signed ? ql_dynamic_map_signed() : ql_dynamic_map_unsigned();
		uint64_t n = 1 + rnd_below(&r, 1500);

		rnd_tensor(&r, x, n, round / 2 % 8);
		if (!is_signed)
			for (uint64_t i = 0; i < n; i++)
				x[i] *= x[i];
		assert_int_equal(ql_dyn8_quantize(is_signed, x, n, c, scale, pool, NULL), QL_OK);
		ql_dyn8_dequantize(is_signed, c, scale, n, y);
		for (uint64_t i = 0; i < n; i++) {
			float top = scale[i / 256], v = top > 0.0f ? x[i] / top : 0.0f, near = INFINITY;

			for (int k = 0; k < 256; k++)
				near = fminf(near, fabsf(v - map[k]));
			assert_true(y[i] == map[c[i]] * top);
			/* the nearest level, or one beside it where the sign asks for that */
			if (fabsf(v - map[c[i]]) > near + 1e-7f) {
				assert_true(is_signed && x[i] != 0.0f);
				assert_true((x[i] < 0.0f) == (map[c[i]] < 0.0f));
				assert_true(fabsf(v) < 1e-6f);
			}
			if (is_signed && x[i] < 0.0f)
				assert_true(map[c[i]] < 0.0f);
			if (x[i] == 0.0f)
				assert_int_equal(c[i], is_signed ? 127 : 0);
		}
	}
	ql_pool_free(pool);
}

/* The cell look-up is the count of midpoints strictly below, for every value beside a midpoint or a cell border. */
static void dynamic_codes(void **state)
{
	struct rng r = {.seed = 43};

	(void)state;
	for (int s = 0; s < 2; s++) {
		const struct ql_dynamic *d = ql_dynamic_of(s);
		const float *map = s ? ql_dynamic_map_signed() : ql_dynamic_map_unsigned();

		for (int i = 0; i < 200000; i++) {
			float v = i < 255 * 64 ? d->mid[i / 64] : (rnd_u(&r) * 2.0f - 1.0f) * powf(10.0f, -8.0f * rnd_u(&r));
			uint32_t u;
			int count = 0;

			memcpy(&u, &v, 4);
			if (i < 255 * 64)
				u += (uint32_t)(i % 64 - 32);
			else if (i % 2 != 0)
				u = (u & 0xffff0000u) - (i % 4 == 1);
			memcpy(&v, &u, 4);
			if (!(fabsf(v) <= 1.01f))
				continue;
			for (int k = 0; k < 255; k++)
				count += v > (map[k] + map[k + 1]) / 2.0f;
			assert_int_equal(ql_dynamic_code(d, v), count);
		}
		assert_int_equal(ql_dynamic_code(d, 0.0f), s ? 127 : 0);
		assert_int_equal(ql_dynamic_code(d, -0.0f), s ? 127 : 0);
		assert_int_equal(ql_dynamic_code(d, 1.0f), 255);
		assert_int_equal(ql_dynamic_code(d, -1.0f), 0);
	}
}

static void dyn8_refusals(void **state)
{
	struct ql_err e;

	(void)state;
	for (int i = 0; i < MAX_N; i++)
		x[i] = 0.25f;
	x[777] = -1e-9f;
	assert_int_equal(ql_dyn8_quantize(false, x, MAX_N, c, scale, NULL, &e), QL_EINVAL);
	assert_int_equal(e.offset, 777);
	assert_int_equal(ql_dyn8_quantize(true, x, MAX_N, c, scale, NULL, &e), QL_OK);
	x[3000] = INFINITY;
	assert_int_equal(ql_dyn8_quantize(true, x, MAX_N, c, scale, NULL, &e), QL_ENONFINITE);
	assert_int_equal(e.offset, 3000);
	assert_int_equal(ql_dyn8_quantize(true, x, 0, c, scale, NULL, &e), QL_OK);
	/* a fresh state reads as zero */
	memset(c, 0, sizeof c);
	memset(scale, 0, sizeof scale);
	for (int s = 0; s < 2; s++) {
		ql_dyn8_dequantize(s, c, scale, MAX_N, y);
		for (int i = 0; i < MAX_N; i++)
			assert_true(y[i] == 0.0f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(int8_rule), cmocka_unit_test(int8_refusals), cmocka_unit_test(dyn8_rule),
		cmocka_unit_test(dynamic_codes), cmocka_unit_test(dyn8_refusals),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
