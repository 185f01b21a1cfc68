/* RMSNorm forward and backward. */
#include "tests/unit/device/devtest.h"

static const struct { uint32_t rows, cols; } shapes[] = {{1, 1}, {1, 8}, {3, 7}, {1, 576}, {17, 576}, {5, 1000}, {2, 14336}, {129, 64}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)
#define EPS 1e-5f

static void ref_fwd(const double *x, const float *w, size_t n, double *y, double *rho)
{
	double s = 0;

	for (size_t i = 0; i < n; i++)
		s += x[i] * x[i];
	*rho = 1.0 / sqrt(s / (double)n + (double)EPS);
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] * *rho * (double)w[i];
}

static void ref_bwd(const double *x, const float *w, const double *dy, size_t n, double *dx)
{
	double rho, c = 0, *y = dt_host(n * sizeof *y);

	ref_fwd(x, w, n, y, &rho);
	for (size_t i = 0; i < n; i++)
		c += (double)w[i] * dy[i] * x[i];
	c *= rho * rho / (double)n;
	for (size_t i = 0; i < n; i++)
		dx[i] = rho * ((double)w[i] * dy[i] - x[i] * c);
}

static double *widen(const float *x, size_t n)
{
	double *d = dt_host(n * sizeof *d);

	for (size_t i = 0; i < n; i++)
		d[i] = (double)x[i];
	return d;
}

static void test_forward(void **state)
{
	(void)state;
	for (size_t s = 0; s < N_SHAPES; s++) {
		uint32_t T = shapes[s].rows, n = shapes[s].cols;
		float *x, *w, *rstd_d, *rstd = dt_host(T * 4);
		double *y, *rho;

		dt_seed(s);
		x = dt_randn((size_t)T * n, 1.5);
		w = dt_randn(n, 0.5);
		for (uint32_t i = 0; i < n; i++)
			x[i] *= 1e-3f; /* eps matters in row 0 */
		for (uint32_t i = 0; i < n; i++)
			x[i] = dt_round((double)x[i]);
		struct ql_tensor tx = dt_put(x, T, n, n + 5), ty = dt_out(T, n, n + 9);

		rstd_d = dt_nan_f32(T);
		OK(OPS->rmsnorm(dev, queue, tx, dt_up(w, n * 4), 0, EPS, dt_none(), ty, rstd_d, &err));
		y = dt_host((size_t)T * n * 8);
		rho = dt_host(T * 8);
		for (size_t t = 0; t < T; t++)
			ref_fwd(widen(x + t * n, n), w, n, y + t * n, rho + t);
		dt_close("y", dt_get(ty), y, (size_t)T * n, 1);
		dt_gap(ty, n);
		dt_down(rstd, rstd_d, T * 4);
		dt_close_tol("rstd", rstd, rho, T, 1e-5);
		OK(OPS->rmsnorm(dev, queue, tx, dt_up(w, n * 4), 0, EPS, dt_none(), tx, NULL, &err)); /* in place */
		dt_close("y in place", dt_get(tx), y, (size_t)T * n, 1);
		dt_each(NULL);
	}
}

static void test_backward(void **state)
{
	(void)state;
	for (size_t s = 1; s < N_SHAPES; s++) /* a single column cancels to nothing */
		for (int mode = 0; mode < 4; mode++) { /* plain, add, dx = dy, dx = add */
			uint32_t T = shapes[s].rows, n = shapes[s].cols;
			size_t N = (size_t)T * n;
			float *x, *w, *dy, *add, *rstd = dt_host(T * 4);
			double *want = dt_host(N * 8);

			dt_seed(100 + s);
			x = dt_randn(N, 1.0);
			w = dt_randn(n, 1.0);
			dy = dt_randn(N, 1.0);
			add = dt_randn(N, 0.5);
			for (size_t t = 0; t < T; t++) {
				double rho, *y = dt_host(n * 8);

				ref_fwd(widen(x + t * n, n), w, n, y, &rho);
				rstd[t] = (float)rho;
				ref_bwd(widen(x + t * n, n), w, widen(dy + t * n, n), n, want + t * n);
			}
			for (size_t i = 0; (mode & 1) != 0 && i < N; i++)
				want[i] += (double)add[i];
			struct ql_tensor tx = dt_put(x, T, n, n), tdy = dt_put(dy, T, n, n + 2), tadd = dt_put(add, T, n, n + 4);
			struct ql_tensor out = mode == 2 ? tdy : mode == 3 ? tadd : dt_out(T, n, n + 3);

			OK(OPS->rmsnorm_grad(dev, queue, tx, dt_up(w, n * 4), 0, dt_up(rstd, T * 4), tdy,
					     (mode & 1) != 0 ? tadd : dt_none(), out, &err));
			dt_close("dx", dt_get(out), want, N, 1);
			dt_gap(out, n);
			dt_each(NULL);
		}
}

/* the formula above against central differences of the forward formula */
static void test_differences(void **state)
{
	const size_t n = 11;
	double x[11], dy[11], dx[11], up[11], down[11], rho;
	float w[11];

	(void)state;
	dt_seed(7);
	for (size_t i = 0; i < n; i++) {
		x[i] = dt_normal();
		dy[i] = dt_normal();
		w[i] = (float)dt_normal();
	}
	ref_bwd(x, w, dy, n, dx);
	for (size_t i = 0; i < n; i++) {
		double keep = x[i], h = 1e-5, d = 0;

		x[i] = keep + h;
		ref_fwd(x, w, n, up, &rho);
		x[i] = keep - h;
		ref_fwd(x, w, n, down, &rho);
		x[i] = keep;
		for (size_t k = 0; k < n; k++)
			d += dy[k] * (up[k] - down[k]) / (2 * h);
		assert_true(fabs(d - dx[i]) <= 1e-7 * (1 + fabs(d)));
	}
}

/* Norms of heads, and the sum with what came before: each group of columns is a row of its own. */
static void test_groups(void **state)
{
	static const struct { uint32_t rows, group, n; } cases[] = {{1, 8, 1}, {5, 64, 3}, {33, 128, 5}, {4, 6, 7}, {3, 257, 2}};

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int mode = 0; mode < 3; mode++) { /* plain, add, result in add's place */
			uint32_t T = cases[i].rows, n = cases[i].group, G = cases[i].n, cols = n * G;
			size_t N = (size_t)T * cols;
			float *x, *w, *add, *dy, *rstd = dt_host((size_t)T * G * 4), *rstd_d;
			double *y = dt_host(N * 8), *dx = dt_host(N * 8), *rho = dt_host((size_t)T * G * 8);

			dt_seed(300 + i);
			x = dt_randn(N, 1.0);
			w = dt_randn(cols, 1.0);
			add = dt_randn(N, 0.5);
			dy = dt_randn(N, 1.0);
			for (size_t g = 0; g < (size_t)T * G; g++) {
				const float *wg = w + g % G * n;

				ref_fwd(widen(x + g * n, n), wg, n, y + g * n, rho + g);
				ref_bwd(widen(x + g * n, n), wg, widen(dy + g * n, n), n, dx + g * n);
			}
			for (size_t k = 0; mode > 0 && k < N; k++) {
				y[k] += (double)add[k];
				dx[k] += (double)add[k];
			}
			struct ql_tensor tx = dt_put(x, T, cols, cols + 3), tadd = dt_put(add, T, cols, cols + 4);
			struct ql_tensor ty = mode == 2 ? tadd : dt_out(T, cols, cols + 5), tdx = dt_out(T, cols, cols + 1);

			rstd_d = dt_nan_f32((size_t)T * G);
			OK(OPS->rmsnorm(dev, queue, tx, dt_up(w, cols * 4), n, EPS, mode > 0 ? tadd : dt_none(), ty, rstd_d, &err));
			dt_close("y", dt_get(ty), y, N, 1);
			dt_gap(ty, cols);
			dt_down(rstd, rstd_d, (size_t)T * G * 4);
			dt_close_tol("rstd", rstd, rho, (size_t)T * G, 1e-5);
			tadd = dt_put(add, T, cols, cols);
			OK(OPS->rmsnorm_grad(dev, queue, tx, dt_up(w, cols * 4), n, rstd_d, dt_put(dy, T, cols, cols + 2),
					     mode > 0 ? tadd : dt_none(), tdx, &err));
			dt_close("dx", dt_get(tdx), dx, N, 1);
			dt_gap(tdx, cols);
			dt_each(NULL);
		}
}

static void test_shapes(void **state)
{
	struct ql_tensor x = dt_out(2, 8, 8), y = dt_out(2, 7, 8);
	float *w = dt_nan_f32(8);

	(void)state;
	assert_int_equal(OPS->rmsnorm(dev, queue, x, w, 0, EPS, dt_none(), y, NULL, &err), QL_ESHAPE);
	y = dt_out(3, 8, 8);
	assert_int_equal(OPS->rmsnorm(dev, queue, x, w, 0, EPS, dt_none(), y, NULL, &err), QL_ESHAPE);
	assert_int_equal(OPS->rmsnorm_grad(dev, queue, x, w, 0, w, x, dt_none(), y, &err), QL_ESHAPE);
	assert_int_equal(OPS->rmsnorm(dev, queue, x, w, 3, EPS, dt_none(), x, NULL, &err), QL_ESHAPE);
	assert_int_equal(OPS->rmsnorm(dev, queue, x, w, 0, EPS, y, x, NULL, &err), QL_ESHAPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_forward, dt_each),
		cmocka_unit_test_teardown(test_backward, dt_each),
		cmocka_unit_test_teardown(test_differences, dt_each),
		cmocka_unit_test_teardown(test_groups, dt_each),
		cmocka_unit_test_teardown(test_shapes, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
