/* AdamW over groups against the formula in fp64 (and against its own fp32 rules, bit by bit), sum of squares. */
#include "tests/unit/device/devtest.h"

/* numerics.md 6.1, one rounding an operation */
static void ref_f32(const struct ql_adamw *a, const struct ql_adamw_group *gr, float *p, float *m, float *v, float g)
{
	double bc1 = 1.0 - pow(a->beta1, (double)a->t), bc2 = 1.0 - pow(a->beta2, (double)a->t);
	volatile float t;

	g *= a->grad_scale;
	t = *p * (float)(1.0 - gr->lr * gr->weight_decay);
	*p = t;
	t = g - *m;
	t = (float)(1.0 - a->beta1) * t;
	*m = *m + t;
	t = (float)(1.0 - a->beta2) * g;
	t = t * g;
	volatile float u = *v * (float)a->beta2;
	*v = u + t;
	t = sqrtf(*v);
	t = t / (float)sqrt(bc2);
	t = t + (float)a->eps;
	u = (float)(-(gr->lr / bc1)) * *m;
	u = u / t;
	*p = *p + u;
}

static void test_adamw(void **state)
{
	const uint64_t N = 200003;
	float *p = dt_host(N * 4), *m = dt_host(N * 4), *v = dt_host(N * 4), *g = dt_host(N * 4), *got = dt_host(N * 4);
	double *p64 = dt_host(N * 8), *m64 = dt_host(N * 8), *v64 = dt_host(N * 8);
	struct ql_adamw_group groups[2] = {{5, 100000, 1e-3, 0.01}, {100010, 99993, 1.6e-2, 0.0}};
	struct ql_adamw a = {.groups = groups, .n_groups = 2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8};
	size_t differ = 0;

	(void)state;
	dt_seed(2);
	for (size_t i = 0; i < N; i++) {
		p[i] = (float)dt_normal();
		p64[i] = (double)p[i];
	}
	a.p = dt_up(p, N * 4);
	a.m = dt_up(m, N * 4);
	a.v = dt_up(v, N * 4);
	for (a.t = 1; a.t <= 5; a.t++) {
		for (size_t i = 0; i < N; i++)
			g[i] = (float)(dt_normal() * (i % 7 == 0 ? 1e-6 : 0.1));
		a.g = dt_up(g, N * 4);
		a.grad_scale = a.t == 3 ? 0.25f : 1.0f;
		OK(OPS->adamw(dev, queue, &a, &err));
		for (int k = 0; k < 2; k++)
			for (size_t i = groups[k].begin; i < groups[k].begin + groups[k].count; i++) {
				double gi = (double)g[i] * (double)a.grad_scale;

				ref_f32(&a, &groups[k], &p[i], &m[i], &v[i], g[i]);
				p64[i] *= 1.0 - groups[k].lr * groups[k].weight_decay;
				m64[i] += (1 - a.beta1) * (gi - m64[i]);
				v64[i] = a.beta2 * v64[i] + (1 - a.beta2) * gi * gi;
				p64[i] -= groups[k].lr / (1 - pow(a.beta1, (double)a.t)) * m64[i] /
					  (sqrt(v64[i]) / sqrt(1 - pow(a.beta2, (double)a.t)) + a.eps);
			}
	}
	dt_down(got, a.p, N * 4);
	for (size_t i = 0; i < N; i++) {
		assert_true(fabs((double)got[i] - p64[i]) <= 1e-5);
		differ += got[i] != p[i];
	}
	assert_true(got[4] == p[4] && got[100007] == p[100007]); /* outside the groups */
	assert_int_equal(differ, 0);
	dt_down(got, a.m, N * 4);
	assert_memory_equal(got, m, N * 4);
	dt_down(got, a.v, N * 4);
	assert_memory_equal(got, v, N * 4);
	a.t = 0;
	assert_int_equal(OPS->adamw(dev, queue, &a, &err), QL_EINVAL);
}

static void test_sum_squares(void **state)
{
	static const size_t n[] = {0, 1, 3, 255, 65536, 65537, 300001};

	(void)state;
	for (size_t s = 0; s < 7; s++) {
		float *g = dt_host((n[s] + 1) * 4), *d;
		double want = 0, got = -1, again = -1;

		for (size_t i = 0; i < n[s]; i++) {
			g[i] = (float)dt_normal();
			want += (double)g[i] * (double)g[i];
		}
		d = dt_up(g, (n[s] + 1) * 4);
		OK(OPS->sum_squares(dev, queue, d, n[s], &got, &err));
		OK(OPS->sync(dev, queue, &err));
		assert_true(fabs(got - want) <= 1e-12 * want);
		OK(OPS->sum_squares(dev, queue, d, n[s], &again, &err));
		OK(OPS->sync(dev, queue, &err));
		assert_true(got == again);
		if (n[s] > 0) {
			g[n[s] - 1] = NAN;
			d = dt_up(g, n[s] * 4);
			OK(OPS->sum_squares(dev, queue, d, n[s], &got, &err));
			OK(OPS->sync(dev, queue, &err));
			assert_true(isnan(got));
		}
		dt_each(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_adamw, dt_each),
		cmocka_unit_test_teardown(test_sum_squares, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
