/* AdamW over groups against the formula in fp64 (and against its own fp32 rules, bit by bit), AdamW with 8-bit moments
 * against a plain restatement, sum of squares. */
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

/* ---- 8-bit ---- */

#define TENSORS 4
static const uint32_t tensor8[TENSORS] = {256 * 40, 300, 4096 + 77, 4095}; /* coded, small, coded with a tail, small */

/* Nearest value of the ascending map, a tie to the lower: the midpoint rule, by looking at every code. */
static uint8_t ref_code(const float *map, float x)
{
	int c = 0;

	while (c < 255) {
		volatile float mid = map[c] + map[c + 1];

		if (!(x > mid / 2))
			break;
		c++;
	}
	return (uint8_t)c;
}

static float ref_encode(const float *map, bool is_signed, const float *x, uint32_t n, uint8_t *code)
{
	float top = 0;

	for (uint32_t i = 0; i < n; i++)
		top = fmaxf(top, fabsf(x[i]));
	volatile float r = 1.0f / fmaxf(top, 1e-38f);
	for (uint32_t i = 0; i < n; i++) {
		volatile float y = x[i] * r;

		code[i] = ref_code(map, y);
		if (is_signed && x[i] > 0 && signbit(map[code[i]]))
			code[i]++;
		if (is_signed && x[i] < 0 && !signbit(map[code[i]]))
			code[i]--;
	}
	return top;
}

static size_t n_kept; /* moments that counted as code 1 */

static float ref_v(const struct ql_adam8 *a, float v, float g)
{
	volatile float t = (float)(1.0 - a->beta2) * g, u = v * (float)a->beta2;

	t = t * g;
	return u + t;
}

/* least: v instead of 0, or 0 */
static void ref_moments(const struct ql_adam8 *a, const struct ql_adam8_group *gr, float *p, float *m, float *v, float g, float least)
{
	volatile float t, u;

	g *= a->grad_scale;
	t = (float)(1.0 - a->beta1) * g;
	u = *m * (float)a->beta1;
	*m = u + t;
	u = sqrtf(ref_v(a, *v, g));
	u = u * (float)a->bound;
	if (least > 0 && fabsf(*m) > u) {
		*v = least;
		n_kept++;
	}
	*v = ref_v(a, *v, g);
	t = sqrtf(*v);
	t = t / (float)sqrt(1.0 - pow(a->beta2, (double)a->t));
	t = t + (float)a->eps;
	u = (float)(-(gr->lr / (1.0 - pow(a->beta1, (double)a->t)))) * *m;
	u = u / t;
	t = *p * (float)(1.0 - gr->lr * gr->weight_decay);
	*p = t + u;
}

struct state8 {
	float *p, *m_top, *v_top, *m32, *v32;
	uint8_t *m, *v;
};

static void ref_adam8(const struct ql_adam8 *a, const struct ql_adam8_block *k, uint32_t n_blocks, struct state8 *s, const float *g)
{
	const float *maps[2] = {ql_dynamic_map_signed(), ql_dynamic_map_unsigned()};

	for (uint32_t b = 0; b < n_blocks; b++) {
		const struct ql_adam8_group *gr = &a->groups[b >= a->groups[1].block_begin];
		float m[QL_ADAM8_BLOCK], v[QL_ADAM8_BLOCK];
		uint64_t at = k[b].begin;

		for (uint32_t i = 0; i < k[b].count; i++) {
			bool coded = k[b].small == QL_ADAM8_CODED;

			m[i] = coded ? maps[0][s->m[at + i]] * s->m_top[b] : s->m32[k[b].small + i];
			v[i] = coded ? maps[1][s->v[at + i]] * s->v_top[b] : s->v32[k[b].small + i];
			ref_moments(a, gr, &s->p[at + i], &m[i], &v[i], g[at + i],
				    coded && s->v[at + i] == 0 ? maps[1][1] * s->v_top[b] : 0.0f);
			if (!coded) {
				s->m32[k[b].small + i] = m[i];
				s->v32[k[b].small + i] = v[i];
			}
		}
		if (k[b].small == QL_ADAM8_CODED) {
			s->m_top[b] = ref_encode(maps[0], true, m, k[b].count, s->m + at);
			s->v_top[b] = ref_encode(maps[1], false, v, k[b].count, s->v + at);
		}
	}
}

static void same(const char *what, const void *device, const void *want, size_t bytes)
{
	void *got = dt_host(bytes);

	dt_down(got, device, bytes);
	if (memcmp(got, want, bytes) != 0)
		fail_msg("%s differs", what);
}

static void *paged(size_t bytes)
{
	void *p;

	OK(OPS->alloc_paged(dev, bytes, &p, &err));
	OK(OPS->zero(dev, queue, p, bytes, &err));
	return p;
}

static void test_adam8(void **state)
{
	struct ql_adam8_block k[128];
	uint32_t n_blocks = 0, first_of_second = 0;
	size_t N = 0, n_small = 0;

	(void)state;
	dt_seed(7);
	for (int t = 0; t < TENSORS; t++) {
		if (t == 2)
			first_of_second = n_blocks;
		for (uint32_t at = 0; at < tensor8[t]; at += 256, n_blocks++) {
			k[n_blocks] = (struct ql_adam8_block){N + at, tensor8[t] - at < 256 ? tensor8[t] - at : 256, QL_ADAM8_CODED};
			if (tensor8[t] < 4096) {
				k[n_blocks].small = (uint32_t)n_small;
				n_small += k[n_blocks].count;
			}
		}
		N += tensor8[t];
	}
	struct ql_adam8_group groups[2] = {{0, first_of_second, 1e-3, 0.01}, {first_of_second, n_blocks - first_of_second, 1.6e-2, 0}};
	struct state8 s = {dt_host(N * 4), dt_host(n_blocks * 4), dt_host(n_blocks * 4), dt_host(n_small * 4), dt_host(n_small * 4),
			   dt_host(N), dt_host(N)};
	float *g = dt_host(N * 4), *maps = dt_host(2 * 1024);
	struct ql_adam8 a = {.groups = groups, .n_groups = 2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .bound = 7.27};

	memcpy(maps, ql_dynamic_map_signed(), 1024);
	memcpy(maps + 256, ql_dynamic_map_unsigned(), 1024);
	for (size_t i = 0; i < N; i++)
		s.p[i] = (float)dt_normal();
	a.p = dt_up(s.p, N * 4);
	a.m = paged(N); /* memory of either kind serves */
	a.v = paged(N);
	a.m_absmax = dt_up(s.m_top, n_blocks * 4);
	a.v_absmax = dt_up(s.v_top, n_blocks * 4);
	a.m32 = dt_up(s.m32, n_small * 4);
	a.v32 = dt_up(s.v32, n_small * 4);
	a.blocks = dt_up(k, n_blocks * sizeof *k);
	a.maps = dt_up(maps, 2 * 1024);
	for (a.t = 1; a.t <= 6; a.t++) {
		for (size_t i = 0; i < N; i++) /* a block of zeros, gradients of many sizes, some exact zeros */
			g[i] = i / 256 == 3 || i % 11 == 0 ? 0.0f : (float)(dt_normal() * (i % 7 == 0 ? 1e-7 : i % 5 == 0 ? 10 : 0.1));
		a.g = dt_up(g, N * 4);
		a.grad_scale = a.t == 3 ? 0.25f : 1.0f;
		OK(OPS->adam8(dev, queue, &a, &err));
		ref_adam8(&a, k, n_blocks, &s, g);
		same("p", a.p, s.p, N * 4);
		same("codes of m", a.m, s.m, N);
		same("codes of v", a.v, s.v, N);
		same("absmax of m", a.m_absmax, s.m_top, n_blocks * 4);
		same("absmax of v", a.v_absmax, s.v_top, n_blocks * 4);
		same("small m", a.m32, s.m32, n_small * 4);
		same("small v", a.v32, s.v32, n_small * 4);
	}
	assert_true(n_kept > 100);
	a.t = 0;
	assert_int_equal(OPS->adam8(dev, queue, &a, &err), QL_EINVAL);
	OPS->free(dev, a.m);
	OPS->free(dev, a.v);
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
		cmocka_unit_test_teardown(test_adam8, dt_each),
		cmocka_unit_test_teardown(test_sum_squares, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
