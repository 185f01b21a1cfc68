/* The fused head and loss: nll, argmax and dhidden against fp64, several stored forms of the head. */
#include "tests/unit/device/devtest.h"

struct shape {
	uint32_t T, d, vocab, n;
	enum dt_store store;
	double cap; /* soft cap, 0 = none */
};

static const struct shape shapes[] = {
	{1, 32, 2, 1, DT_F32, 0},	     {9, 64, 33, 5, DT_Q8_0, 0},	{40, 96, 1000, 40, DT_BF16, 0}, {17, 64, 257, 0, DT_F16, 0},
	{30, 128, 5003, 21, DT_Q8_0, 0}, {450, 32, 300, 420, DT_F32, 0}, {6, 192, 70, 3, DT_NF4, 0},
	{33, 64, 500, 19, DT_BF16, 1.5}, {5, 96, 40, 5, DT_F32, 30},
};

static void ref(const struct shape *s, const double *w, const double *h, uint32_t label, double gs, double *nll, int32_t *arg,
		double *dh)
{
	double *z = malloc(s->vocab * sizeof *z), *slope = malloc(s->vocab * sizeof *slope), top = -INFINITY, sum = 0;

	assert_true(z != NULL && slope != NULL);
	*arg = 0;
	for (uint32_t v = 0; v < s->vocab; v++) {
		z[v] = 0;
		for (uint32_t c = 0; c < s->d; c++)
			z[v] += h[c] * w[(size_t)v * s->d + c];
		slope[v] = s->cap > 0 ? 1 - tanh(z[v] / s->cap) * tanh(z[v] / s->cap) : 1;
		z[v] = s->cap > 0 ? s->cap * tanh(z[v] / s->cap) : z[v];
		if (z[v] > top) {
			top = z[v];
			*arg = (int32_t)v;
		}
	}
	for (uint32_t v = 0; v < s->vocab; v++)
		sum += exp(z[v] - top);
	*nll = top + log(sum) - z[label];
	for (uint32_t v = 0; dh != NULL && v < s->vocab; v++)
		for (uint32_t c = 0; c < s->d; c++)
			dh[c] += gs * (exp(z[v] - top) / sum - (v == label)) * slope[v] * w[(size_t)v * s->d + c];
	free(z);
	free(slope);
}

static void run(const struct shape *s)
{
	double *w, *dh = dt_host((size_t)s->T * s->d * 8), *nll = dt_host((s->n + 1) * 8), gs = 0.125;
	struct ql_weight *head = dt_weight(s->store, s->d, 1, &s->vocab, &w);
	float *h = dt_randn((size_t)s->T * s->d, 2.0), *nll_d = dt_nan_f32(s->n + 1), *nll_got = dt_host((s->n + 1) * 4);
	int32_t *rows = dt_host((s->n + 1) * 4), *labels = dt_host((s->n + 1) * 4), *arg = dt_host((s->n + 1) * 4);
	int32_t *arg_got = dt_host((s->n + 1) * 4), *arg_d;
	uint32_t left = s->n;

	for (uint32_t t = 0, at = 0; t < s->T; t++) /* n of T rows, ascending */
		if (left > 0 && dt_below(s->T - t) < left) {
			rows[at++] = (int32_t)t;
			left--;
		}
	for (uint32_t i = 0; i < s->n; i++) {
		double *h64 = dt_host(s->d * 8);

		labels[i] = (int32_t)dt_below(s->vocab);
		for (uint32_t c = 0; c < s->d; c++)
			h64[c] = (double)h[(size_t)rows[i] * s->d + c];
		ref(s, w, h64, (uint32_t)labels[i], gs, &nll[i], &arg[i], dh + (size_t)rows[i] * s->d);
	}
	arg_d = dt_up(arg_got, (s->n + 1) * 4);
	struct ql_xent x = {.head = head, .hidden = dt_put(h, s->T, s->d, s->d + 8), .rows = dt_up(rows, (s->n + 1) * 4),
			    .labels = dt_up(labels, (s->n + 1) * 4), .n = s->n, .softcap = (float)s->cap, .grad_scale = (float)gs, .nll = nll_d,
			    .argmax = arg_d, .dhidden = dt_out(s->T, s->d, s->d + 8)};

	OK(OPS->cross_entropy(dev, queue, &x, &err));
	dt_down(nll_got, nll_d, (s->n + 1) * 4);
	dt_close("nll", nll_got, nll, s->n, 1);
	assert_true(isnan(nll_got[s->n]));
	dt_close("dhidden", dt_get(x.dhidden), dh, (size_t)s->T * s->d, 1);
	dt_gap(x.dhidden, s->d);
	dt_down(arg_got, arg_d, s->n * 4);
	for (uint32_t i = 0; i < s->n; i++)
		assert_int_equal(arg_got[i], arg[i]);
	x.dhidden = dt_none(); /* evaluation */
	x.argmax = NULL;
	x.nll = dt_nan_f32(s->n + 1);
	OK(OPS->cross_entropy(dev, queue, &x, &err));
	dt_down(nll_got, x.nll, (s->n + 1) * 4);
	dt_close("nll alone", nll_got, nll, s->n, 1);
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		dt_seed(i + 1);
		run(&shapes[i]);
		dt_each(NULL);
	}
}

static void differences(double cap)
{
	struct shape s = {1, 5, 7, 1, DT_F32, cap};
	double w[35], h[5], dh[5] = {0}, nll, up, down;
	int32_t arg;

	dt_seed(3);
	for (int i = 0; i < 35; i++)
		w[i] = dt_normal();
	for (int i = 0; i < 5; i++)
		h[i] = dt_normal();
	ref(&s, w, h, 4, 0.5, &nll, &arg, dh);
	for (int i = 0; i < 5; i++) {
		double keep = h[i];

		h[i] = keep + 1e-5;
		ref(&s, w, h, 4, 0.5, &up, &arg, NULL);
		h[i] = keep - 1e-5;
		ref(&s, w, h, 4, 0.5, &down, &arg, NULL);
		h[i] = keep;
		assert_true(fabs(0.5 * (up - down) / 2e-5 - dh[i]) < 1e-8);
	}
}

static void test_differences(void **state)
{
	(void)state;
	differences(0);
	differences(0.9);
}

/* equal largest logits: the lowest id; huge logits: no overflow */
static void test_extremes(void **state)
{
	uint32_t d = 32, vocab = 40;
	struct ql_weight_shape shape = {.in = d, .n_parts = 1, .out = {vocab}};
	float *w = dt_host((size_t)vocab * d * 4), *h = dt_host(2 * d * 4), nll[2];
	const void *parts[1] = {w};
	struct ql_weight *head;
	int32_t rows[2] = {0, 1}, labels[2] = {7, 3}, arg[2];

	(void)state;
	w[7 * d] = w[21 * d] = 8.0f; /* z = 8·h0 for ids 7 and 21, 0 elsewhere */
	h[0] = 1024.0f;
	h[d] = -1024.0f;
	OK(OPS->weight_from_dense(dev, &shape, QL_F32, parts, &head, &err));
	float *nll_d = dt_nan_f32(2);
	int32_t *arg_d = dt_up(rows, 8);
	struct ql_xent x = {.head = head, .hidden = dt_put(h, 2, d, d), .rows = dt_up(rows, 8), .labels = dt_up(labels, 8), .n = 2,
			    .grad_scale = 1.0f, .nll = nll_d, .argmax = arg_d, .dhidden = dt_out(2, d, d)};

	OK(OPS->cross_entropy(dev, queue, &x, &err));
	dt_down(nll, nll_d, 8);
	dt_down(arg, arg_d, 8);
	assert_true(fabsf(nll[0] - logf(2.0f)) < 1e-3f);
	assert_true(fabsf(nll[1] - logf(38.0f)) < 1e-3f);
	assert_int_equal(arg[0], 7);
	assert_int_equal(arg[1], 0);
	h[3] = NAN; /* a broken row shows in its own loss only */
	x.hidden = dt_put(h, 2, d, d);
	OK(OPS->cross_entropy(dev, queue, &x, &err));
	dt_down(nll, nll_d, 8);
	assert_true(isnan(nll[0]) && fabsf(nll[1] - logf(38.0f)) < 1e-3f);
	h[3] = 0.0f;
	x.hidden = dt_put(h, 2, d, d);
	OK(OPS->cross_entropy(dev, queue, &x, &err));
	for (float *g = dt_get(x.dhidden), *end = g + 2 * d; g < end; g++)
		assert_true(isfinite(*g));
	OPS->weight_free(dev, head);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_table, dt_each),
		cmocka_unit_test_teardown(test_differences, dt_each),
		cmocka_unit_test_teardown(test_extremes, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
