/* test_lib.c - the public interface alone: gradients against finite differences, merge = forward, files, errors. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <qlorad/qlorad.h>

#include "tests/unit/cm.h"

#define IN 32u
#define OUT 6u
#define ROWS 5u
#define RANK 3u

static float value(uint32_t i) { return (float)((int)(i * 2654435761u >> 20) - 2048) / 2048.0f; }

static qlora_linear *make(void)
{
	struct qlora_linear_options o = QLORA_LINEAR_OPTIONS_INIT;
	struct qlora_error err;
	float w[OUT * IN];
	qlora_linear *l;

	for (uint32_t i = 0; i < OUT * IN; i++)
		w[i] = value(i + 7);
	o.rank = RANK;
	o.q4.block = 32;
	o.seed = 3;
	assert_int_equal(qlora_linear_new(&l, w, OUT, IN, &o, &err), QLORA_OK);
	for (uint32_t i = 0; i < OUT * RANK; i++)
		qlora_linear_b(l)[i] = value(i + 99) * 0.5f;
	return l;
}

/* Σ y·g */
static double objective(const qlora_linear *l, const float *x, const float *g)
{
	float y[ROWS * OUT];
	double s = 0;

	assert_int_equal(qlora_linear_forward(l, x, ROWS, y, NULL), QLORA_OK);
	for (uint32_t i = 0; i < ROWS * OUT; i++)
		s += (double)y[i] * (double)g[i];
	return s;
}

static void check_grad(const qlora_linear *l, float *p, const float *grad, uint32_t n, const float *x, const float *g)
{
	const float h = 0.0625f; /* the objective is linear in each single number: no curvature, only rounding */

	for (uint32_t i = 0; i < n; i++) {
		float keep = p[i];
		double up, down;

		p[i] = keep + h;
		up = objective(l, x, g);
		p[i] = keep - h;
		down = objective(l, x, g);
		p[i] = keep;
		assert_true(fabs((up - down) / 0.125 - (double)grad[i]) < 2e-4 * (1.0 + fabs((double)grad[i])));
	}
}

static void test_linear(void **ctx)
{
	float x[ROWS * IN], g[ROWS * OUT], dx[ROWS * IN], da[RANK * IN], db[OUT * RANK], w[OUT * IN], y[ROWS * OUT];
	qlora_linear *l = make();

	(void)ctx;
	for (uint32_t i = 0; i < ROWS * IN; i++)
		x[i] = value(i + 1000);
	for (uint32_t i = 0; i < ROWS * OUT; i++)
		g[i] = value(i + 2000);
	assert_int_equal(qlora_linear_backward(l, x, g, ROWS, dx, da, db, NULL), QLORA_OK);
	check_grad(l, x, dx, ROWS * IN, x, g);
	check_grad(l, qlora_linear_a(l), da, RANK * IN, x, g);
	check_grad(l, qlora_linear_b(l), db, OUT * RANK, x, g);
	assert_int_equal(qlora_linear_merge(l, w, NULL), QLORA_OK);
	assert_int_equal(qlora_linear_forward(l, x, ROWS, y, NULL), QLORA_OK);
	for (uint32_t r = 0; r < ROWS; r++)
		for (uint32_t o = 0; o < OUT; o++) {
			double s = 0;

			for (uint32_t c = 0; c < IN; c++)
				s += (double)x[r * IN + c] * (double)w[o * IN + c];
			assert_true(fabs(s - (double)y[r * OUT + o]) < 1e-4 * (1.0 + fabs(s)));
		}
	qlora_linear_free(l);
}

static void test_files(void **ctx)
{
	static const enum qlora_format formats[] = {QLORA_SAFETENSORS, QLORA_QNAT, QLORA_QNAT_COMPAT};
	char path[] = "/tmp/ql_lib_XXXXXX";
	int fd = mkstemp(path);
	float w[8 * 64], back[8 * 64], want[8 * 64];
	const uint64_t shape[2] = {8, 64};
	struct qlora_error err;
	qlora_writer *out;
	qlora_file *f;
	qlora_q4 *q;
	uint64_t i;

	(void)ctx;
	assert_true(fd >= 0);
	(void)close(fd);
	for (uint32_t k = 0; k < 512; k++)
		w[k] = value(k);
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, 8, 64, NULL, &err), QLORA_OK);
	assert_int_equal(qlora_q4_dequantize(q, 0, 512, want, QLORA_F32, &err), QLORA_OK);
	for (int k = 0; k < 3; k++) {
		assert_int_equal(qlora_writer_new(&out, formats[k], &err), QLORA_OK);
		assert_int_equal(qlora_writer_add_q4(out, "x.weight", q, &err), QLORA_OK);
		assert_int_equal(qlora_writer_save(out, path, &err), QLORA_OK);
		qlora_writer_free(out);
		assert_int_equal(qlora_file_open(&f, path, &err), QLORA_OK);
		assert_int_equal(qlora_file_find(f, "x.weight", &i, &err), QLORA_OK);
		assert_int_equal(qlora_file_find(f, "y.weight", &i, &err), QLORA_ENOTFOUND);
		assert_int_equal(qlora_file_read(f, 0, 0, 512, back, &err), QLORA_OK);
		assert_memory_equal(back, want, sizeof want);
		assert_int_equal(qlora_file_read(f, 0, 511, 2, back, &err), QLORA_EINVAL);
		qlora_file_close(f);
	}
	assert_int_equal(qlora_writer_new(&out, QLORA_GGUF, &err), QLORA_OK);
	assert_int_equal(qlora_writer_add_q4(out, "x.weight", q, &err), QLORA_EUNSUPPORTED);
	assert_int_equal(qlora_writer_add(out, "x.weight", QLORA_Q4_K, 2, shape, w, &err), QLORA_ESHAPE);
	assert_int_equal(qlora_writer_add(out, "x.weight", QLORA_F32, 2, shape, w, &err), QLORA_OK);
	assert_int_equal(qlora_writer_save(out, path, &err), QLORA_OK);
	qlora_writer_free(out);
	assert_int_equal(qlora_file_open(&f, path, &err), QLORA_OK);
	assert_string_equal(qlora_file_kind(f), "GGUF");
	assert_int_equal(qlora_file_read(f, 0, 0, 512, back, &err), QLORA_OK);
	assert_memory_equal(back, w, sizeof w);
	qlora_file_close(f);
	/* any number of elements from a block's begin on, in types of blocks too */
	assert_int_equal(qlora_writer_new(&out, QLORA_GGUF, &err), QLORA_OK);
	assert_int_equal(qlora_writer_add(out, "x.weight", QLORA_Q8_0, 2, shape, w, &err), QLORA_OK);
	assert_int_equal(qlora_writer_add(out, "y.weight", QLORA_Q8_0, 2, shape, NULL, &err), QLORA_EINVAL);
	assert_int_equal(qlora_writer_add_q4(out, "y.weight", NULL, &err), QLORA_EINVAL);
	assert_int_equal(qlora_writer_save(out, path, &err), QLORA_OK);
	qlora_writer_free(out);
	assert_int_equal(qlora_file_open(&f, path, &err), QLORA_OK);
	assert_int_equal(qlora_file_read(f, 0, 0, 512, want, &err), QLORA_OK);
	for (uint64_t n = 0; n <= 448; n += 37) {
		back[n] = -7;
		assert_int_equal(qlora_file_read(f, 0, 64, n, back, &err), QLORA_OK);
		assert_memory_equal(back, want + 64, n * sizeof *want);
		assert_true(back[n] == -7);
	}
	assert_int_equal(qlora_file_read(f, 0, 512, 0, back, &err), QLORA_OK);
	assert_int_equal(qlora_file_read(f, 0, 480, 33, back, &err), QLORA_EINVAL);
	assert_int_equal(qlora_file_read(f, 0, 5, 2, back, &err), QLORA_EINVAL);
	qlora_file_close(f);
	qlora_q4_free(q);
	(void)unlink(path);
	assert_int_equal(qlora_file_open(&f, path, &err), QLORA_ENOTFOUND);
	assert_null(f);
	assert_true(err.message[0] != '\0');
}

static void test_errors(void **ctx)
{
	struct qlora_q4_options o = QLORA_Q4_OPTIONS_INIT;
	float w[64] = {0}, back[64];
	uint8_t block[34 * 2];
	struct qlora_error err;
	qlora_q4 *q;

	(void)ctx;
	assert_int_equal(qlora_api_version(), QLORA_API_VERSION);
	w[17] = NAN;
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, 1, 64, NULL, &err), QLORA_ENONFINITE);
	assert_int_equal(err.offset, 17);
	assert_null(q);
	w[17] = 0.5f;
	o.block = 33;
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, 1, 64, &o, &err), QLORA_EINVAL);
	o = (struct qlora_q4_options)QLORA_Q4_OPTIONS_INIT;
	o.size = 0;
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, 1, 64, &o, NULL), QLORA_EINVAL);
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_OTHER, 1, 64, NULL, &err), QLORA_EINVAL);
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, UINT64_MAX, 64, NULL, &err), QLORA_ESHAPE);
	assert_int_equal(qlora_type_bytes(QLORA_Q8_0, 64), 68);
	assert_int_equal(qlora_type_bytes(QLORA_Q8_0, 63), 0);
	assert_int_equal(qlora_type_of("q6_k"), QLORA_Q6_K);
	assert_int_equal(qlora_blocks_quantize(QLORA_Q8_0, w, 1, 64, NULL, block, 1, &err), QLORA_OK);
	assert_int_equal(qlora_blocks_dequantize(QLORA_Q8_0, block, 64, back, &err), QLORA_OK);
	assert_true(fabsf(back[17] - 0.5f) < 1e-3f);
	assert_int_equal(qlora_blocks_quantize(QLORA_OTHER, w, 1, 64, NULL, block, 1, &err), QLORA_EINVAL);
	o = (struct qlora_q4_options)QLORA_Q4_OPTIONS_INIT;
	o.block = 0; /* one scale per row */
	assert_int_equal(qlora_q4_quantize(&q, w, QLORA_F32, 2, 32, &o, &err), QLORA_OK);
	assert_int_equal(qlora_q4_blocks(q), 2);
	qlora_q4_free(q);
	qlora_q4_free(NULL);
	qlora_linear_free(NULL);
	qlora_file_close(NULL);
	qlora_writer_free(NULL);
}

/* Zero points, 8 bit, and a 4-bit tensor taken apart and put together. */
static void test_other_forms(void **ctx)
{
	struct qlora_q4_options o = QLORA_Q4_OPTIONS_INIT;
	float x[512], y[512], z[512], absmax[8];
	struct qlora_error err;
	int8_t codes[512];
	qlora_asym *a;
	qlora_q4 *q, *r;
	double sym = 0, asym = 0;

	(void)ctx;
	for (uint32_t i = 0; i < 512; i++)
		x[i] = 4.0f + value(i);
	o.type = QLORA_INT4;
	o.double_quant = 0;
	assert_int_equal(qlora_asym_quantize(&a, x, QLORA_F32, 8, 64, &o, &err), QLORA_OK);
	assert_int_equal(qlora_asym_bytes(a), 256 + 2 * 4 * 8);
	assert_int_equal(qlora_asym_dequantize(a, 0, 512, y, QLORA_F32, &err), QLORA_OK);
	assert_int_equal(qlora_asym_dequantize(a, 1, 512, y, QLORA_F32, &err), QLORA_EINVAL);
	assert_int_equal(qlora_q4_quantize(&q, x, QLORA_F32, 8, 64, &o, &err), QLORA_OK);
	assert_int_equal(qlora_q4_dequantize(q, 0, 512, z, QLORA_F32, &err), QLORA_OK);
	for (uint32_t i = 0; i < 512; i++) {
		asym += fabs((double)x[i] - (double)y[i]);
		sym += fabs((double)x[i] - (double)z[i]);
	}
	assert_true(asym < 0.5 * sym);
	assert_int_equal(qlora_q4_absmax(q, absmax, &err), QLORA_OK);
	assert_int_equal(qlora_q4_from(&r, QLORA_INT4, 8, 64, 64, qlora_q4_codes(q), absmax, &err), QLORA_OK);
	assert_int_equal(qlora_q4_dequantize(r, 0, 512, y, QLORA_F32, &err), QLORA_OK);
	assert_memory_equal(y, z, sizeof y);
	qlora_q4_free(r);
	absmax[3] = NAN;
	assert_int_equal(qlora_q4_from(&r, QLORA_INT4, 8, 64, 64, qlora_q4_codes(q), absmax, &err), QLORA_EFORMAT);
	assert_string_equal(err.param, "absmax");
	assert_null(r);
	assert_int_equal(qlora_q4_from(&r, QLORA_Q8_0, 8, 64, 64, qlora_q4_codes(q), absmax, &err), QLORA_EINVAL);
	assert_int_equal(qlora_q4_from(&r, QLORA_NF4, UINT64_MAX, 2, 64, qlora_q4_codes(q), absmax, &err), QLORA_ESHAPE);
	assert_int_equal(qlora_int8_quantize(x, QLORA_F32, 512, 64, codes, absmax, 2, &err), QLORA_OK);
	assert_int_equal(qlora_int8_dequantize(codes, absmax, 64, 0, 512, y, &err), QLORA_OK);
	assert_int_equal(qlora_int8_dequantize(codes, absmax, 63, 0, 512, y, &err), QLORA_EINVAL);
	for (uint32_t i = 0; i < 512; i++)
		assert_true(fabsf(x[i] - y[i]) <= 0.501f * absmax[i / 64]);
	x[77] = INFINITY;
	qlora_asym_free(a);
	assert_int_equal(qlora_asym_quantize(&a, x, QLORA_F32, 8, 64, &o, &err), QLORA_ENONFINITE);
	assert_int_equal(err.offset, 77);
	qlora_q4_free(q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear), cmocka_unit_test(test_files), cmocka_unit_test(test_other_forms),
					   cmocka_unit_test(test_errors)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
