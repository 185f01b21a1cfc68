/* linear_grad: dx, dA, dB against the fp64 formulas of ref_linear.h, and those against central differences. */
#include "tests/unit/device/ref_linear.h"

static void grads_alloc(const struct ref_linear *l, double *da[][QL_PARTS_MAX], double *db[][QL_PARTS_MAX], double init)
{
	for (uint32_t i = 0; i < l->n_segs; i++)
		for (uint32_t p = 0; p < l->n_parts; p++) {
			size_t na = (size_t)l->segs[i].r[p] * l->in, nb = (size_t)l->segs[i].r[p] * l->out[p];

			da[i][p] = dt_host(na * 8);
			db[i][p] = dt_host(nb * 8);
			for (size_t k = 0; k < na; k++)
				da[i][p][k] = init;
			for (size_t k = 0; k < nb; k++)
				db[i][p][k] = init;
		}
}

static void run(enum dt_store store, uint32_t T, uint32_t in, uint32_t n_parts, const uint32_t out[3],
		const uint32_t ranks[3], uint32_t n_segs, float dropout, bool accumulate)
{
	uint32_t N = out[0] + out[1] + out[2], R = ranks[0] + ranks[1] + ranks[2];
	double *dense, *dx = dt_host((size_t)T * in * 8), *da[3][QL_PARTS_MAX], *db[3][QL_PARTS_MAX];
	struct ql_weight *w = dt_weight(store, in, n_parts, out, &dense);
	float *x = dt_randn((size_t)T * in, 1.0), *dy = dt_randn((size_t)T * N, 1.0), *old = dt_randn((size_t)T * in, 1.0);
	struct ref_linear l = {T, in, n_parts, {out[0], out[1], out[2]}, N, dense, NULL, 0};
	struct ref_seg segs[3] = {{0}};
	struct ql_tensor tx = dt_put(x, T, in, dt_ld(in, R));
	struct ql_linear f = {.w = w, .x = tx, .y = dt_out(T, N, N + 16)};
	struct ql_linear_grad g = {.w = w, .dy = dt_put(dy, T, N, dt_ld(N, R)), .x = tx, .dx_accumulate = accumulate};
	/* S and dS pass through the activation type */
	double factor = dev->act == QL_BF16 ? 1.5 : 1.0;

	for (uint32_t i = 0; i < n_segs; i++) {
		segs[i].begin = T * i / n_segs;
		segs[i].end = T * (i + 1) / n_segs - (i == 0 && T > 9 ? 2 : 0);
	}
	ref_segs(&l, segs, n_segs, ranks, dropout);
	grads_alloc(&l, da, db, 0.25);
	ref_backward(&l, ref_widen(x, (size_t)T * in), ref_widen(dy, (size_t)T * N), dx, da, db);
	f.segs = g.segs = ref_upload(&l, true, 0.25f);
	f.n_segs = g.n_segs = n_segs;
	if (n_segs > 0)
		OK(OPS->linear(dev, queue, &f, &err));
	g.dx = accumulate ? dt_put(old, T, in, in + 16) : dt_out(T, in, in + 16);
	for (size_t i = 0; accumulate && i < (size_t)T * in; i++)
		dx[i] += (double)old[i];
	OK(OPS->linear_grad(dev, queue, &g, &err));
	dt_close("dx", dt_get(g.dx), dx, (size_t)T * in, factor);
	dt_gap(g.dx, in);
	dt_gap(g.dy, g.dy.ld - 3);
	for (uint32_t i = 0; i < n_segs; i++)
		for (uint32_t p = 0; p < n_parts; p++) {
			size_t na = (size_t)ranks[p] * in, nb = (size_t)ranks[p] * out[p];
			float *got = dt_host((na > nb ? na : nb) * 4);

			if (ranks[p] == 0)
				continue;
			dt_down(got, g.segs[i].part[p].da, na * 4);
			dt_close("dA", got, da[i][p], na, factor);
			dt_down(got, g.segs[i].part[p].db, nb * 4);
			dt_close("dB", got, db[i][p], nb, factor);
		}
	/* without dx only the adapters move, once more by the same amount */
	if (n_segs > 0 && ranks[0] > 0) {
		float *got = dt_host((size_t)ranks[0] * in * 4);

		g.dx = dt_none();
		OK(OPS->linear_grad(dev, queue, &g, &err));
		dt_down(got, g.segs[0].part[0].da, (size_t)ranks[0] * in * 4);
		for (size_t k = 0; k < (size_t)ranks[0] * in; k++)
			da[0][0][k] = 2 * da[0][0][k] - 0.25;
		dt_close("dA twice", got, da[0][0], (size_t)ranks[0] * in, factor);
	}
}

static void test_base(void **state)
{
	static const uint32_t T[] = {1, 5, 64, 130};
	static const struct { uint32_t in, n, out[3]; } s[] = {{64, 1, {16}}, {576, 3, {96, 32, 32}}, {96, 2, {33, 50}}, {320, 1, {300}}, {32, 1, {1}}};
	static const uint32_t none[3] = {0};

	(void)state;
	for (int store = 0; store < DT_STORES; store++)
		for (size_t i = 0; i < 5; i++)
			for (size_t t = 0; t < 4; t++) {
				if (store != DT_NF4 && t > 1)
					continue;
				dt_seed(i * 10 + t);
				run((enum dt_store)store, T[t], s[i].in, s[i].n, s[i].out, none, 0, 0.0f, t % 2 == 1);
				dt_each(NULL);
			}
	run(DT_NF4, 6, 7, 1, (const uint32_t[3]){6}, none, 0, 0.0f, false);
	run(DT_NF4, 6, 100, 2, (const uint32_t[3]){18, 4}, none, 0, 0.0f, true);
}

static void test_adapters(void **state)
{
	static const uint32_t ranks[][3] = {{16, 0, 0}, {8, 8, 8}, {3, 5, 1}, {0, 16, 0}, {40, 4, 17}, {256, 1, 1}};
	static const uint32_t T[] = {1, 3, 40, 300};

	(void)state;
	for (size_t r = 0; r < 6; r++)
		for (size_t t = 0; t < 4; t++)
			for (uint32_t n = 1; n <= 3; n++) {
				uint32_t out[3] = {64, 33, 16}, parts = r == 0 ? 1 : 3;

				if ((t == 3 && n != 2) || T[t] < n)
					continue;
				if (parts == 1)
					out[1] = out[2] = 0;
				dt_seed(r * 10 + t);
				run(DT_NF4, T[t], 72, parts, out, ranks[r], n, n == 2 ? 0.25f : 0.0f, n == 3);
				dt_each(NULL);
			}
}

static double loss(const struct ref_linear *l, const double *x, const double *dy)
{
	double *y = malloc((size_t)l->T * l->total * 8), v = 0;

	assert_non_null(y);
	ref_forward(l, x, y);
	for (size_t i = 0; i < (size_t)l->T * l->total; i++)
		v += y[i] * dy[i];
	free(y);
	return v;
}

/* the fp64 formulas against central differences of the fp64 forward; A and B are f32, so their step is exact */
static void test_differences(void **state)
{
	uint32_t T = 4, in = 6, out[3] = {5, 3, 0}, ranks[3] = {2, 3, 0};
	double *dense = dt_host(8 * 6 * 8), *x, *dy, *dx = dt_host(24 * 8), *da[1][QL_PARTS_MAX], *db[1][QL_PARTS_MAX];
	struct ref_linear l = {T, in, 2, {out[0], out[1], 0}, 8, dense, NULL, 0};
	struct ref_seg seg = {.begin = 1, .end = 4};

	(void)state;
	dt_seed(3);
	x = ref_widen(dt_randn(24, 1), 24);
	dy = ref_widen(dt_randn(32, 1), 32);
	for (size_t i = 0; i < 48; i++)
		dense[i] = dt_normal();
	ref_segs(&l, &seg, 1, ranks, 0.3f);
	grads_alloc(&l, da, db, 0.0);
	ref_backward(&l, x, dy, dx, da, db);
	for (size_t i = 0; i < 24; i++) {
		double keep = x[i], h = 1e-5, up, down;

		x[i] = keep + h;
		up = loss(&l, x, dy);
		x[i] = keep - h;
		down = loss(&l, x, dy);
		x[i] = keep;
		assert_true(fabs((up - down) / (2 * h) - dx[i]) <= 1e-7 * (1 + fabs(dx[i])));
	}
	for (uint32_t p = 0; p < 2; p++)
		for (int m = 0; m < 2; m++)
			for (size_t i = 0; i < (size_t)ranks[p] * (m == 0 ? in : out[p]); i++) {
				float *at = (m == 0 ? seg.a[p] : seg.b[p]) + i, keep = *at;
				double up, down, want = m == 0 ? da[0][p][i] : db[0][p][i];

				*at = keep + 0x1p-10f;
				double hi = (double)*at;

				up = loss(&l, x, dy);
				*at = keep - 0x1p-10f;
				down = loss(&l, x, dy); /* the loss is linear in A and in B */
				assert_true(fabs((up - down) / (hi - (double)*at) - want) <= 1e-7 * (1 + fabs(want)));
				*at = keep;
			}
}

static void test_refusals(void **state)
{
	uint32_t out[1] = {32};
	double *dense;
	struct ql_weight *w = dt_weight(DT_NF4, 64, 1, out, &dense);
	float *m = dt_nan_f32(64 * 16);
	struct ql_lora_seg seg = {.row_begin = 0, .row_end = 4};
	struct ql_linear_grad g = {.w = w, .dy = dt_out(4, 32, dt_ld(32, 16)), .x = dt_out(4, 64, dt_ld(64, 16)), .dx = dt_out(4, 64, 64)};

	(void)state;
	seg.part[0] = (struct ql_lora){.a = m, .b = m, .r = 16, .scale = 1.0f};
	g.segs = &seg;
	g.n_segs = 1;
	assert_int_equal(OPS->linear_grad(dev, queue, &g, &err), QL_EINVAL); /* no da, db */
	seg.part[0].da = seg.part[0].db = m;
	g.dy.ld = 32;
	assert_int_equal(OPS->linear_grad(dev, queue, &g, &err), QL_ESHAPE);
	g.dy.ld = dt_ld(32, 16);
	g.dx.cols = 63;
	assert_int_equal(OPS->linear_grad(dev, queue, &g, &err), QL_ESHAPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_base, dt_each),
		cmocka_unit_test_teardown(test_adapters, dt_each),
		cmocka_unit_test_teardown(test_differences, dt_each),
		cmocka_unit_test_teardown(test_refusals, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
