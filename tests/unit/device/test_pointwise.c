/* RoPE, SwiGLU and its gradient, embedding and its noise, cache writes, argmax. */
#include "tests/unit/device/devtest.h"

#include "core/base/philox.h"

static void test_rope(void **state)
{
	static const struct { uint32_t T, heads, hd; } shapes[] = {{1, 1, 2}, {3, 2, 6}, {5, 9, 64}, {33, 3, 128}, {2, 1, 256}};

	(void)state;
	for (size_t s = 0; s < 5; s++) {
		uint32_t T = shapes[s].T, H = shapes[s].heads, hd = shapes[s].hd, n = H * hd, half = hd / 2;
		float *x = dt_randn((size_t)T * n, 1.0), *inv = dt_host(half * 4);
		int32_t *pos = dt_host(T * 4);
		double *want = dt_host((size_t)T * n * 8), *orig = dt_host((size_t)T * n * 8);

		for (uint32_t i = 0; i < half; i++)
			inv[i] = (float)(1.0 / pow(10000.0, 2.0 * i / hd));
		for (uint32_t t = 0; t < T; t++)
			pos[t] = t == 0 ? 0 : (int32_t)dt_below(9000);
		for (size_t t = 0; t < T; t++)
			for (size_t h = 0; h < H; h++)
				for (size_t i = 0; i < half; i++) {
					size_t a = t * n + h * hd + i, b = a + half;
					double angle = (double)((float)pos[t] * inv[i]);

					want[a] = x[a] * cos(angle) - x[b] * sin(angle);
					want[b] = x[b] * cos(angle) + x[a] * sin(angle);
					orig[a] = (double)x[a];
					orig[b] = (double)x[b];
				}
		struct ql_tensor tx = dt_put(x, T, n, n + 6);
		int32_t *dpos = dt_up(pos, T * 4);
		float *dinv = dt_up(inv, half * 4);

		OK(OPS->rope(dev, queue, tx, H, hd, dpos, dinv, 1.0f, &err));
		dt_close("rope", dt_get(tx), want, (size_t)T * n, 1);
		dt_gap(tx, n);
		OK(OPS->rope(dev, queue, tx, H, hd, dpos, dinv, -1.0f, &err));
		dt_close("rope back", dt_get(tx), orig, (size_t)T * n, 1);
		assert_int_equal(OPS->rope(dev, queue, tx, H + 1, hd, dpos, dinv, 1.0f, &err), QL_ESHAPE);
		dt_each(NULL);
	}
}

static double silu(double g) { return g / (1.0 + exp(-g)); }
static double silu_grad(double g)
{
	double s = 1.0 / (1.0 + exp(-g));

	return s * (1.0 + g * (1.0 - s));
}

static double gelu(double g) { return 0.5 * g * (1 + tanh(0.7978845608028654 * (g + 0.044715 * g * g * g))); }
static double gelu_grad(double g)
{
	double t = tanh(0.7978845608028654 * (g + 0.044715 * g * g * g));

	return 0.5 * (1 + t) + 0.5 * g * (1 - t * t) * 0.7978845608028654 * (1 + 3 * 0.044715 * g * g);
}

static void gated(enum ql_act act, double (*f_of)(double), double (*slope_of)(double))
{
	static const struct { uint32_t T, f; } shapes[] = {{1, 1}, {1, 5}, {3, 31}, {7, 1536}, {2, 14336}, {65, 48}};

	for (int i = -300; i <= 300; i++) { /* the derivative itself */
		double g = i * 0.05, d = (f_of(g + 1e-5) - f_of(g - 1e-5)) / 2e-5;

		assert_true(fabs(d - slope_of(g)) < 1e-8);
	}
	for (size_t s = 0; s < 6; s++) {
		uint32_t T = shapes[s].T, f = shapes[s].f;
		size_t N = (size_t)T * f;
		float *both = dt_randn(2 * N, 3.0), *dh = dt_randn(N, 1.0);
		double *h = dt_host(N * 8), *dg = dt_host(N * 8), *du = dt_host(N * 8);

		if (N >= 16) { /* saturated ends */
			both[0] = 120.0f;
			both[1] = -120.0f;
			both[2] = -88.0f;
			both[3] = -30.0f;
		}
		/* gate and up are column halves of one matrix, as the model has them */
		struct ql_tensor m = dt_put(both, T, 2 * f, 2 * f + 8), gate = m, up = m, out = dt_out(T, f, f + 8);

		gate.cols = up.cols = f;
		up.data = (char *)m.data + (dev->act == QL_BF16 ? 2 : 4) * (size_t)f;
		for (size_t t = 0; t < T; t++)
			for (size_t i = 0; i < f; i++) {
				double g = (double)both[t * 2 * f + i], u = (double)both[t * 2 * f + f + i];

				h[t * f + i] = f_of(g) * u;
				du[t * f + i] = (double)dh[t * f + i] * f_of(g);
				dg[t * f + i] = (double)dh[t * f + i] * u * slope_of(g);
			}
		OK(OPS->swiglu(dev, queue, act, gate, up, out, &err));
		dt_close("h", dt_get(out), h, N, 1);
		dt_gap(out, f);
		struct ql_tensor tdh = dt_put(dh, T, f, f), odg = dt_out(T, f, f + 8), odu = dt_out(T, f, f);

		OK(OPS->swiglu_grad(dev, queue, act, tdh, gate, up, odg, odu, &err));
		dt_close("dgate", dt_get(odg), dg, N, 1);
		dt_close("dup", dt_get(odu), du, N, 1);
		OK(OPS->swiglu_grad(dev, queue, act, tdh, gate, up, gate, up, &err)); /* in place */
		dt_close("dgate in place", dt_get(gate), dg, N, 1);
		dt_close("dup in place", dt_get(up), du, N, 1);
		dt_gap(m, 2 * f);
		out.cols = f + 1;
		assert_int_equal(OPS->swiglu(dev, queue, act, gate, up, out, &err), QL_ESHAPE);
		dt_each(NULL);
	}
}

static void test_swiglu(void **state)
{
	(void)state;
	gated(QL_ACT_SILU, silu, silu_grad);
	gated(QL_ACT_GELU_TANH, gelu, gelu_grad);
}

static void test_softcap(void **state)
{
	static const uint32_t cols[] = {1, 7, 64, 1003};

	(void)state;
	for (size_t s = 0; s < 4; s++)
		for (int k = 0; k < 2; k++) {
			double c = k == 0 ? 30 : 0.5, *want = dt_host((size_t)3 * cols[s] * 8);
			float *x = dt_host((size_t)3 * (cols[s] + 4) * 4), *got;
			struct ql_tensor t = {.dtype = QL_F32, .rows = 3, .cols = cols[s], .ld = cols[s] + 4};

			for (uint32_t r = 0; r < 3; r++)
				for (uint32_t i = 0; i < cols[s] + 4; i++) {
					/* tiny, middling and saturating values */
					double v = dt_normal() * (i % 3 == 0 ? 1e-4 : i % 3 == 1 ? 1 : 100) * c;

					x[r * t.ld + i] = i < cols[s] ? (float)v : NAN;
					if (i < cols[s])
						want[r * cols[s] + i] = c * tanh((double)(float)v / c);
				}
			t.data = dt_up(x, (size_t)3 * t.ld * 4);
			OK(OPS->softcap(dev, queue, t, (float)c, &err));
			got = dt_get(t);
			for (uint32_t i = 0; i < 3 * cols[s]; i++)
				assert_true(fabs((double)got[i] - want[i]) <= 2e-6 * fabs(want[i]));
			dt_gap(t, cols[s]);
			assert_int_equal(OPS->softcap(dev, queue, t, 0, &err), QL_EINVAL);
			dt_each(NULL);
		}
}

/* a NaN, whatever its payload, comes out as one and stays in its place */
static void test_swiglu_nan(void **state)
{
	const uint32_t f = 40;
	float *g = dt_randn(f, 1), *u = dt_randn(f, 1), *h;
	uint32_t bits[3] = {0x7fc00000u, 0xffffffffu, 0x7fc10101u};

	(void)state;
	for (int i = 0; i < 3; i++)
		memcpy(&g[i * 17 + 3], &bits[i], 4);
	struct ql_tensor tg = dt_put(g, 1, f, f), tu = dt_put(u, 1, f, f), th = dt_out(1, f, f);

	OK(OPS->swiglu(dev, queue, QL_ACT_SILU, tg, tu, th, &err));
	h = dt_get(th);
	for (uint32_t i = 0; i < f; i++)
		assert_int_equal(isnan(h[i]) != 0, i == 3 || i == 20 || i == 37);
}

static void test_embed(void **state)
{
	static const uint32_t dims[] = {32, 64, 576, 96};

	(void)state;
	for (int store = 0; store < DT_STORES; store++)
		for (size_t s = 0; s < 4; s++) {
			uint32_t d = dims[s], vocab = 37, T = 11;
			int32_t ids[11];
			double *dense, *want = dt_host((size_t)T * d * 8), scale = s % 2 == 0 ? 1 : 45.25;
			struct ql_weight *w = dt_weight((enum dt_store)store, d, 1, &vocab, &dense);
			struct ql_tensor y = dt_out(T, d, d + 3);

			for (uint32_t t = 0; t < T; t++) {
				ids[t] = t == 0 ? 36 : (int32_t)dt_below(vocab);
				for (uint32_t i = 0; i < d; i++)
					want[t * d + i] = (double)dt_round(scale * dense[(size_t)ids[t] * d + i]);
			}
			OK(OPS->embed(dev, queue, w, dt_up(ids, sizeof ids), (float)scale, y, &err));
			dt_close_tol(dt_store_name[store], dt_get(y), want, (size_t)T * d, dev->act == QL_BF16 ? 1e-2 : 1e-7);
			dt_gap(y, d);
			dt_each(NULL);
		}
}

/* NEFTune: the formula with the generator written out; the same noise however the rows are cut into calls. */
static void test_embed_noise(void **state)
{
	static const uint32_t dims[] = {8, 33, 576};
	static const int32_t cu[] = {0, 7, 8, 21};

	(void)state;
	for (size_t s = 0; s < 3; s++) {
		uint32_t d = dims[s], T = 21;
		float *x = dt_randn((size_t)T * d, 0.1), *got, *part;
		double *want = dt_host((size_t)T * d * 8), most = 0, sum = 0;
		const uint64_t base = 5000000011u; /* e is beyond 32 bits */
		struct ql_tensor y = dt_put(x, T, d, d + 5), z = dt_put(x, T, d, d + 5);
		struct ql_noise a = {.y = y, .n_seqs = 3, .cu_seqlens = dt_up(cu, sizeof cu), .alpha = 5, .seed = 77, .token_base = base, .step = 9};

		for (uint32_t q = 0; q < 3; q++)
			for (uint32_t t = (uint32_t)cu[q]; t < (uint32_t)cu[q + 1]; t++)
				for (uint32_t c = 0; c < d; c++) {
					uint64_t e = (base + t) * d + c;
					uint32_t w[4];
					double n;

					ql_philox((uint32_t)(e / 4), (uint32_t)(e / 4 >> 32), 9, 4u << 24, 77, w);
					n = (2 * ((double)(w[e % 4] >> 8) / 16777216.0) - 1) * 5 / sqrt((double)(cu[q + 1] - cu[q]) * d);
					want[t * d + c] = (double)x[t * d + c] + n;
					most = fmax(most, fabs(n) * sqrt((double)(cu[q + 1] - cu[q]) * d));
					sum += n;
				}
		assert_true(most > 4.5 && most <= 5 && fabs(sum) / (T * d) < 0.2);
		OK(OPS->embed_noise(dev, queue, &a, &err));
		got = dt_get(y);
		dt_close_tol("noise", got, want, (size_t)T * d, dev->act == QL_BF16 ? 1e-2 : 1e-6);
		dt_gap(y, d);
		for (uint32_t q = 0; q < 3; q++) { /* one sequence a call */
			int32_t one[2] = {0, cu[q + 1] - cu[q]};
			size_t size = dev->act == QL_BF16 ? 2 : 4;

			a.y = (struct ql_tensor){(char *)z.data + (size_t)cu[q] * z.ld * size, z.dtype, (uint32_t)one[1], d, z.ld};
			a.n_seqs = 1;
			a.cu_seqlens = dt_up(one, sizeof one);
			a.token_base = base + (uint32_t)cu[q];
			OK(OPS->embed_noise(dev, queue, &a, &err));
		}
		part = dt_get(z);
		assert_memory_equal(part, got, (size_t)T * d * 4);
		dt_each(NULL);
	}
}

static void test_kv_write(void **state)
{
	const uint32_t T = 5, n = 24, rows = 16;
	int32_t slots[5] = {3, -1, 15, 0, 7};
	float *k = dt_randn(T * n, 1), *v = dt_randn(T * n, 1), *kc, *vc;
	struct ql_tensor tk = dt_put(k, T, n, n + 4), tv = dt_put(v, T, n, n), tkc = dt_out(rows, n, n), tvc = dt_out(rows, n, n);

	(void)state;
	OK(OPS->kv_write(dev, queue, tk, tv, dt_up(slots, sizeof slots), tkc, tvc, &err));
	kc = dt_get(tkc);
	vc = dt_get(tvc);
	for (uint32_t r = 0; r < rows; r++) {
		int from = -1;

		for (int t = 0; t < 5; t++)
			from = slots[t] == (int32_t)r ? t : from;
		for (uint32_t i = 0; i < n; i++) {
			if (from < 0) {
				assert_true(isnan(kc[r * n + i]) && isnan(vc[r * n + i]));
				continue;
			}
			assert_true(kc[r * n + i] == k[(uint32_t)from * n + i]);
			assert_true(vc[r * n + i] == v[(uint32_t)from * n + i]);
		}
	}
}

static void test_argmax(void **state)
{
	static const uint32_t vocab[] = {1, 2, 33, 1000, 49152};

	(void)state;
	for (size_t s = 0; s < 5; s++) {
		uint32_t T = 4, n = vocab[s];
		float *x = dt_host((size_t)T * n * 4), *dx;
		int32_t want[4], got[4] = {-1, -1, -1, -1}, *ids = dt_up(got, sizeof got);

		for (size_t i = 0; i < (size_t)T * n; i++)
			x[i] = (float)dt_normal();
		for (uint32_t t = 0; t < T; t++) { /* twice the same largest value: the lower index wins */
			uint32_t a = dt_below(n), b = dt_below(n);

			x[t * n + a] = x[t * n + b] = 50.0f + (float)t;
			want[t] = (int32_t)(a < b ? a : b);
		}
		for (uint32_t i = 0; i < n; i++) /* a row of negatives */
			x[3 * n + i] = -5.0f - (i == (uint32_t)want[3] ? 0.0f : 1.0f);
		dx = dt_up(x, (size_t)T * n * 4);
		OK(OPS->argmax(dev, queue, (struct ql_tensor){dx, QL_F32, T, n, n}, ids, &err));
		dt_down(got, ids, sizeof got);
		for (uint32_t t = 0; t < T; t++)
			assert_int_equal(got[t], want[t]);
		dt_each(NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_rope, dt_each),	   cmocka_unit_test_teardown(test_softcap, dt_each), cmocka_unit_test_teardown(test_swiglu, dt_each),
		cmocka_unit_test_teardown(test_swiglu_nan, dt_each),
		cmocka_unit_test_teardown(test_embed, dt_each),	   cmocka_unit_test_teardown(test_embed_noise, dt_each),	   cmocka_unit_test_teardown(test_kv_write, dt_each),
		cmocka_unit_test_teardown(test_argmax, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
