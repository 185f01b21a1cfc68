/* Attention over packed sequences, forward and backward, against plain fp64 loops; those against central differences. */
#include "tests/unit/device/devtest.h"

struct shape {
	uint32_t n_head, n_kv, hd, window, n_seqs, len[4];
	double cap; /* soft cap, 0 = none */
};

static const struct shape shapes[] = {
	{1, 1, 64, 0, 1, {1}, 0},		     {9, 3, 64, 0, 3, {17, 1, 130}, 0}, {4, 2, 128, 0, 2, {64, 65}, 0},
	{2, 1, 32, 5, 2, {40, 3}, 0},	     {3, 3, 64, 64, 1, {200}, 0},	     {8, 1, 80, 0, 1, {33}, 0},
	{2, 2, 64, 0, 4, {0, 5, 0, 129}, 0},    {6, 2, 64, 130, 1, {300}, 0},	     {2, 1, 16, 1, 1, {9}, 0},
	{8, 2, 128, 0, 1, {330}, 0},	     {4, 2, 64, 100, 2, {260, 40}, 0}, /* several steps of the walk, heads of a group apart */
	{4, 2, 64, 0, 2, {70, 133}, 1.5},    {4, 1, 128, 50, 1, {150}, 0.75}, {2, 1, 256, 40, 2, {60, 9}, 2},
	{2, 2, 256, 0, 1, {70}, 0},	     {3, 1, 24, 0, 1, {21}, 50},
};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

struct ref {
	const struct shape *s;
	uint32_t T;
	int32_t cu[5];
	double scale;
};

static bool seen(const struct shape *s, uint32_t i, uint32_t j)
{
	return j <= i && (s->window == 0 || (int64_t)j > (int64_t)i - (int64_t)s->window);
}

/* c·tanh(x/c), and its slope */
static double capped(const struct shape *s, double x) { return s->cap > 0 ? s->cap * tanh(x / s->cap) : x; }
static double cap_slope(const struct shape *s, double x)
{
	double t = s->cap > 0 ? tanh(x / s->cap) : 0;

	return 1 - t * t;
}

/* o [T, H·hd], lse [H, T]; p, when given, receives the probabilities of one (sequence, head) at a time through `each` */
static void ref_forward(const struct ref *r, const double *q, const double *k, const double *v, double *o, double *lse)
{
	const struct shape *s = r->s;
	uint32_t hd = s->hd, nq = s->n_head * hd, nk = s->n_kv * hd;
	double *p = malloc((size_t)(r->T + 1) * 8);

	assert_non_null(p);
	memset(o, 0, (size_t)r->T * nq * 8);
	for (uint32_t n = 0; n < s->n_seqs; n++)
		for (uint32_t h = 0; h < s->n_head; h++)
			for (uint32_t i = 0; i < s->len[n]; i++) {
				size_t row = (size_t)r->cu[n] + i, kv = h / (s->n_head / s->n_kv) * hd;
				double top = -INFINITY, sum = 0;

				for (uint32_t j = 0; j <= i; j++) {
					p[j] = 0;
					for (uint32_t c = 0; c < hd; c++)
						p[j] += q[row * nq + h * hd + c] * k[((size_t)r->cu[n] + j) * nk + kv + c];
					p[j] = seen(s, i, j) ? capped(s, p[j] * r->scale) : -INFINITY;
					top = p[j] > top ? p[j] : top;
				}
				for (uint32_t j = 0; j <= i; j++)
					sum += p[j] = exp(p[j] - top);
				lse[h * r->T + row] = top + log(sum);
				for (uint32_t j = 0; j <= i; j++)
					for (uint32_t c = 0; c < hd; c++)
						o[row * nq + h * hd + c] +=
							p[j] / sum * v[((size_t)r->cu[n] + j) * nk + kv + c];
			}
	free(p);
}

static void ref_backward(const struct ref *r, const double *q, const double *k, const double *v, const double *o,
			 const double *lse, const double *d_o, double *dq, double *dk, double *dv)
{
	const struct shape *s = r->s;
	uint32_t hd = s->hd, nq = s->n_head * hd, nk = s->n_kv * hd;

	memset(dq, 0, (size_t)r->T * nq * 8);
	memset(dk, 0, (size_t)r->T * nk * 8);
	memset(dv, 0, (size_t)r->T * nk * 8);
	for (uint32_t n = 0; n < s->n_seqs; n++)
		for (uint32_t h = 0; h < s->n_head; h++)
			for (uint32_t i = 0; i < s->len[n]; i++) {
				size_t qi = ((size_t)r->cu[n] + i) * nq + h * hd;
				double D = 0;

				for (uint32_t c = 0; c < hd; c++)
					D += d_o[qi + c] * o[qi + c];
				for (uint32_t j = 0; j <= i; j++) {
					size_t kj = ((size_t)r->cu[n] + j) * nk + h / (s->n_head / s->n_kv) * hd;
					double score = 0, dp = 0, p, ds;

					if (!seen(s, i, j))
						continue;
					for (uint32_t c = 0; c < hd; c++) {
						score += q[qi + c] * k[kj + c];
						dp += d_o[qi + c] * v[kj + c];
					}
					p = exp(capped(s, score * r->scale) - lse[h * r->T + (size_t)r->cu[n] + i]);
					ds = p * (dp - D) * r->scale * cap_slope(s, score * r->scale);
					for (uint32_t c = 0; c < hd; c++) {
						dq[qi + c] += ds * k[kj + c];
						dk[kj + c] += ds * q[qi + c];
						dv[kj + c] += p * d_o[qi + c];
					}
				}
			}
}

static double *widen(const float *x, size_t n)
{
	double *d = dt_host(n * sizeof *d);

	for (size_t i = 0; i < n; i++)
		d[i] = (double)x[i];
	return d;
}

static struct ref ref_of(const struct shape *s)
{
	struct ref r = {.s = s, .scale = (double)(float)(1.0 / sqrt(s->hd))};

	for (uint32_t n = 0; n < s->n_seqs; n++)
		r.cu[n + 1] = r.cu[n] + (int32_t)s->len[n];
	r.T = (uint32_t)r.cu[s->n_seqs];
	return r;
}

static void run(const struct shape *s)
{
	struct ref r = ref_of(s);
	uint32_t T = r.T, nq = s->n_head * s->hd, nk = s->n_kv * s->hd, all = nq + 2 * nk;
	size_t NQ = (size_t)T * nq, NK = (size_t)T * nk, size = dev->act == QL_BF16 ? 2 : 4;
	float *qkv = dt_randn((size_t)T * all, 1.0), *d_o = dt_randn(NQ, 1.0), *o_got, *lse = dt_nan_f32((size_t)s->n_head * T);
	float *lse_got = dt_host((size_t)s->n_head * T * 4);
	double *q = dt_host(NQ * 8), *k = dt_host(NK * 8), *v = dt_host(NK * 8), *o = dt_host(NQ * 8);
	double *l = dt_host((size_t)s->n_head * T * 8), *dq = dt_host(NQ * 8), *dk = dt_host(NK * 8), *dv = dt_host(NK * 8);
	/* q, k and v are column ranges of one matrix, as the model has them */
	struct ql_tensor m = dt_put(qkv, T, all, all + 8), dm = dt_out(T, all, all + 8);
	struct ql_attn a = {.n_head = s->n_head, .n_kv = s->n_kv, .head_dim = s->hd, .n_seqs = s->n_seqs,
			    .cu_seqlens_host = r.cu, .scale = (float)r.scale, .softcap = (float)s->cap, .window = s->window, .lse = lse};
	struct ql_attn_grad g;

	for (size_t t = 0; t < T; t++) {
		for (uint32_t c = 0; c < nq; c++)
			q[t * nq + c] = (double)qkv[t * all + c];
		for (uint32_t c = 0; c < nk; c++) {
			k[t * nk + c] = (double)qkv[t * all + nq + c];
			v[t * nk + c] = (double)qkv[t * all + nq + nk + c];
		}
	}
	a.q = (struct ql_tensor){m.data, dev->act, T, nq, m.ld};
	a.k = (struct ql_tensor){(char *)m.data + nq * size, dev->act, T, nk, m.ld};
	a.v = (struct ql_tensor){(char *)m.data + (nq + nk) * size, dev->act, T, nk, m.ld};
	a.o = dt_out(T, nq, nq + 8);
	a.cu_seqlens = dt_up(r.cu, (s->n_seqs + 1) * 4);
	ref_forward(&r, q, k, v, o, l);
	OK(OPS->attention(dev, queue, &a, &err));
	o_got = dt_get(a.o);
	dt_close("o", o_got, o, NQ, 1);
	dt_gap(a.o, nq);
	dt_down(lse_got, lse, (size_t)s->n_head * T * 4);
	dt_close("lse", lse_got, l, (size_t)s->n_head * T, 1);
	/* backward from the device's own o, as it will be used */
	ref_backward(&r, q, k, v, widen(o_got, NQ), l, widen(d_o, NQ), dq, dk, dv);
	g = (struct ql_attn_grad){.f = a, .d_o = dt_put(d_o, T, nq, nq + 8)};
	g.dq = (struct ql_tensor){dm.data, dev->act, T, nq, dm.ld};
	g.dk = (struct ql_tensor){(char *)dm.data + nq * size, dev->act, T, nk, dm.ld};
	g.dv = (struct ql_tensor){(char *)dm.data + (nq + nk) * size, dev->act, T, nk, dm.ld};
	OK(OPS->attention_grad(dev, queue, &g, &err));
	dt_close("dv", dt_get(g.dv), dv, NK, 1);
	if (s->window != 1) { /* with one visible key the softmax is constant: dq and dk are rounding errors */
		dt_close("dq", dt_get(g.dq), dq, NQ, dev->act == QL_BF16 ? 2 : 1);
		dt_close("dk", dt_get(g.dk), dk, NK, dev->act == QL_BF16 ? 2 : 1);
	}
	dt_gap(dm, all);
	a.lse = NULL; /* inference */
	a.o = dt_out(T, nq, nq);
	OK(OPS->attention(dev, queue, &a, &err));
	dt_close("o without lse", dt_get(a.o), o, NQ, 1);
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_SHAPES; i++) {
		dt_seed(i);
		if (ref_of(&shapes[i]).T > 1 || i == 0) {
			if (i == 0) { /* one row: o = v, dq = dk = 0 exactly */
				struct shape one = shapes[0];

				one.window = 1;
				run(&one);
			} else {
				run(&shapes[i]);
			}
		}
		dt_each(NULL);
	}
}

/* what one sequence gives does not depend on its neighbours */
static void test_packing(void **state)
{
	uint32_t H = 4, kv = 2, hd = 64, nq = H * hd, nk = kv * hd, la = 70, lb = 45, T = la + lb;
	float *q = dt_randn((size_t)T * nq, 1), *k = dt_randn((size_t)T * nk, 1), *v = dt_randn((size_t)T * nk, 1), *both, *alone;
	int32_t cu[3] = {0, (int32_t)la, (int32_t)T}, cu1[2] = {0, (int32_t)lb};
	struct ql_attn a = {.q = dt_put(q, T, nq, nq), .k = dt_put(k, T, nk, nk), .v = dt_put(v, T, nk, nk), .o = dt_out(T, nq, nq),
			    .n_head = H, .n_kv = kv, .head_dim = hd, .n_seqs = 2, .cu_seqlens_host = cu, .scale = 0.125f};

	(void)state;
	a.cu_seqlens = dt_up(cu, sizeof cu);
	OK(OPS->attention(dev, queue, &a, &err));
	both = dt_get(a.o);
	a.q = dt_put(q + (size_t)la * nq, lb, nq, nq);
	a.k = dt_put(k + (size_t)la * nk, lb, nk, nk);
	a.v = dt_put(v + (size_t)la * nk, lb, nk, nk);
	a.o = dt_out(lb, nq, nq);
	a.n_seqs = 1;
	a.cu_seqlens_host = cu1;
	a.cu_seqlens = dt_up(cu1, sizeof cu1);
	OK(OPS->attention(dev, queue, &a, &err));
	alone = dt_get(a.o);
	assert_memory_equal(alone, both + (size_t)la * nq, (size_t)lb * nq * 4);
}

static void differences(double cap)
{
	const struct shape s = {2, 1, 3, 3, 2, {4, 2}, cap};
	struct ref r = ref_of(&s);
	double x[6 * 12], d_o[36], o[36], lse[12], up[36], down[36], dq[36], dk[18], dv[18];
	double *q = x, *k = x + 36, *v = x + 54;

	dt_seed(1);
	for (size_t i = 0; i < 72; i++)
		x[i] = dt_normal();
	for (size_t i = 0; i < 36; i++)
		d_o[i] = dt_normal();
	ref_forward(&r, q, k, v, o, lse);
	ref_backward(&r, q, k, v, o, lse, d_o, dq, dk, dv);
	for (size_t i = 0; i < 72; i++) {
		double keep = x[i], want = i < 36 ? dq[i] : i < 54 ? dk[i - 36] : dv[i - 54], d = 0;

		x[i] = keep + 1e-5;
		ref_forward(&r, q, k, v, up, lse);
		x[i] = keep - 1e-5;
		ref_forward(&r, q, k, v, down, lse);
		x[i] = keep;
		for (size_t c = 0; c < 36; c++)
			d += d_o[c] * (up[c] - down[c]) / 2e-5;
		assert_true(fabs(d - want) <= 1e-7 * (1 + fabs(want)));
	}
}

static void test_differences(void **state)
{
	(void)state;
	differences(0);
	differences(0.8);
}

static void test_refusals(void **state)
{
	int32_t cu[2] = {0, 4};
	struct ql_tensor q = dt_out(4, 128, 128), k = dt_out(4, 64, 64);
	struct ql_attn a = {.q = q, .k = k, .v = k, .o = q, .n_head = 2, .n_kv = 1, .head_dim = 64, .n_seqs = 1,
			    .cu_seqlens = dt_up(cu, 8), .cu_seqlens_host = cu, .scale = 0.125f};

	(void)state;
	a.n_kv = 3;
	assert_int_equal(OPS->attention(dev, queue, &a, &err), QL_ESHAPE);
	a.n_kv = 1;
	a.k.rows = 3;
	assert_int_equal(OPS->attention(dev, queue, &a, &err), QL_ESHAPE);
	a.k = k;
	a.softcap = -1;
	assert_int_equal(OPS->attention(dev, queue, &a, &err), QL_EINVAL);
	a.softcap = 0;
	cu[1] = 3;
	assert_int_equal(OPS->attention(dev, queue, &a, &err), QL_ESHAPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_table, dt_each),
		cmocka_unit_test_teardown(test_packing, dt_each),
		cmocka_unit_test_teardown(test_differences, dt_each),
		cmocka_unit_test_teardown(test_refusals, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
