/* linear: every stored form, few and many rows, parts, bias, residual, adapters by segment and by table, dropout. */
#include "tests/unit/device/ref_linear.h"

struct shape {
	uint32_t in, n_parts, out[QL_PARTS_MAX];
};

static const struct shape shapes[] = {
	{64, 1, {16}},	  {576, 3, {576, 192, 192}}, {96, 2, {33, 50}}, {320, 1, {200}},
	{1536, 1, {70}},  {32, 1, {1}},
};
/* rows that do not fit blocks: 4-bit tensors whose `in` is no multiple of 8 or of the block */
static const struct shape odd[] = {{7, 1, {6}}, {100, 2, {18, 4}}, {24, 1, {40}}, {200, 1, {3}}};
static const uint32_t rows[] = {1, 2, 3, 4, 5, 13, 64, 70};

static uint32_t total(const struct shape *s) { return s->out[0] + s->out[1] + s->out[2]; }

static void run(enum dt_store store, const struct shape *s, uint32_t T, bool extras)
{
	uint32_t N = total(s);
	double *dense, *want = dt_host((size_t)T * N * 8);
	struct ql_weight *w = dt_weight(store, s->in, s->n_parts, s->out, &dense);
	float *x = dt_randn((size_t)T * s->in, 1.0), *bias = dt_randn(N, 1.0), *res = dt_randn((size_t)T * N, 1.0);
	struct ref_linear l = {T, s->in, s->n_parts, {s->out[0], s->out[1], s->out[2]}, N, dense, NULL, 0};
	struct ql_tensor tx = dt_put(x, T, s->in, dt_ld(s->in, 0)), ty = dt_out(T, N, N + 16);
	struct ql_tensor tr = dt_put(res, T, N, N + 16);
	struct ql_linear a = {.w = w, .x = tx, .y = ty};
	char what[64];

	(void)snprintf(what, sizeof what, "%s [%u, %u] T %u", dt_store_name[store], N, s->in, T);
	ref_forward(&l, ref_widen(x, (size_t)T * s->in), want);
	OK(OPS->linear(dev, queue, &a, &err));
	dt_close(what, dt_get(ty), want, (size_t)T * N, 1);
	dt_gap(ty, N);
	if (!extras)
		return;
	for (size_t i = 0; i < (size_t)T * N; i++)
		want[i] += (double)bias[i % N] + (double)res[i];
	a.bias = dt_up(bias, N * 4);
	a.residual = tr.data;
	a.ld_residual = tr.ld;
	a.y = dt_out(T, N, N + 16);
	OK(OPS->linear(dev, queue, &a, &err));
	dt_close(what, dt_get(a.y), want, (size_t)T * N, 1);
	a.y = tr; /* in place */
	OK(OPS->linear(dev, queue, &a, &err));
	dt_close(what, dt_get(tr), want, (size_t)T * N, 1);
	a.y = dt_out_f32(T, N, N + 1); /* f32 result, no residual */
	a.residual = NULL;
	for (size_t i = 0; i < (size_t)T * N; i++)
		want[i] -= (double)res[i];
	OK(OPS->linear(dev, queue, &a, &err));
	dt_close(what, dt_get(a.y), want, (size_t)T * N, 1);
}

static void test_stores(void **state)
{
	(void)state;
	for (int store = 0; store < DT_STORES; store++)
		for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++)
			for (size_t t = 0; t < sizeof rows / sizeof *rows; t++) {
				dt_seed(s * 100 + t);
				if (store != DT_NF4 && (t == 2 || t == 6 || (s == 1 && t > 3)))
					continue; /* enough once */
				run((enum dt_store)store, &shapes[s], rows[t], store == DT_NF4 || t == 1);
				dt_each(NULL);
			}
}

static void test_odd(void **state)
{
	static const enum dt_store stores[] = {DT_F32, DT_F16, DT_BF16, DT_NF4, DT_FP4, DT_NF4_B32};

	(void)state;
	for (size_t k = 0; k < 6; k++)
		for (size_t s = 0; s < 4; s++)
			for (size_t t = 0; t < 6; t++) {
				run(stores[k], &odd[s], rows[t], true);
				dt_each(NULL);
			}
}

static void with_segs(uint32_t T, const struct shape *s, const uint32_t ranks[QL_PARTS_MAX], float dropout,
		      uint32_t n_segs)
{
	uint32_t N = total(s), R = ranks[0] + ranks[1] + ranks[2];
	double *dense, *want = dt_host((size_t)T * N * 8);
	struct ql_weight *w = dt_weight(DT_NF4, s->in, s->n_parts, s->out, &dense);
	float *x = dt_randn((size_t)T * s->in, 1.0);
	struct ref_linear l = {T, s->in, s->n_parts, {s->out[0], s->out[1], s->out[2]}, N, dense, NULL, 0};
	struct ref_seg segs[3] = {{0}};
	struct ql_tensor tx = dt_put(x, T, s->in, dt_ld(s->in, R)), ty = dt_out(T, N, N + 16);
	struct ql_linear a = {.w = w, .x = tx, .y = dt_none()};

	for (uint32_t i = 0; i < n_segs; i++) { /* a gap of one row between segments where there is room */
		segs[i].begin = T * i / n_segs + (i > 0 && T > 4 ? 1 : 0);
		segs[i].end = T * (i + 1) / n_segs;
	}
	ref_segs(&l, segs, n_segs, ranks, dropout);
	ref_forward(&l, ref_widen(x, (size_t)T * s->in), want);
	a.segs = ref_upload(&l, false, 0);
	a.n_segs = n_segs;
	OK(OPS->linear(dev, queue, &a, &err)); /* S only */
	a.y = ty;
	OK(OPS->linear(dev, queue, &a, &err));
	dt_close("with adapters", dt_get(ty), want, (size_t)T * N, 1);
	dt_gap(ty, N);
	dt_gap(tx, tx.ld - 3);
}

static void test_segs(void **state)
{
	static const uint32_t ranks[][QL_PARTS_MAX] = {{16, 0, 0}, {8, 8, 8}, {3, 5, 1}, {0, 16, 0}, {40, 4, 17}, {256, 1, 1}};
	static const uint32_t T[] = {1, 3, 5, 40, 101};

	(void)state;
	for (size_t r = 0; r < 6; r++)
		for (size_t t = 0; t < 5; t++)
			for (uint32_t n = 1; n <= 3; n++) {
				struct shape s = {192, 3, {64, 33, 16}};

				if (r == 0 || r == 5)
					s.n_parts = r == 0 ? 1 : 3;
				if (s.n_parts == 1)
					s.out[1] = s.out[2] = 0;
				dt_seed(r * 10 + t);
				with_segs(T[t], &s, ranks[r], n == 2 ? 0.25f : 0.0f, n);
				s.in = 90; /* mask words that do not line up with rows */
				with_segs(T[t], &s, ranks[r], n == 2 ? 0.25f : 0.0f, n);
				dt_each(NULL);
			}
}

/* One to five rows at the width of a real model's feed-forward part: the small-batch panels and their scratch are sized there. */
static void test_segs_few_rows_wide(void **state)
{
	static const uint32_t ranks[][QL_PARTS_MAX] = {{16, 0, 0}, {8, 0, 0}, {64, 0, 0}};

	(void)state;
	for (size_t r = 0; r < 3; r++)
		for (uint32_t t = 1; t <= 5; t++) {
			struct shape s = {576, 1, {8192, 0, 0}};

			dt_seed(400 + r * 10 + t);
			with_segs(t, &s, ranks[r], 0.0f, 1);
			if (t > 1)
				with_segs(t, &s, ranks[r], 0.0f, 2);
			dt_each(NULL);
		}
}

static void test_table(void **state)
{
	static const uint32_t T[] = {1, 2, 4, 7, 16, 33};
	const uint32_t slots = 3, sites = 7, site0 = 2;

	(void)state;
	for (size_t ti = 0; ti < 6; ti++) {
		uint32_t n = T[ti], out[3] = {48, 20, 16}, in = 128, N = 84, ranks[3] = {16, 4, 33}, by_row[64];
		double *dense, *want = dt_host((size_t)n * N * 8), *base = dt_host((size_t)n * N * 8), *x64;
		struct ql_weight *w = dt_weight(ti % 2 == 0 ? DT_NF4 : DT_Q8_0, in, 3, out, &dense);
		float *x = dt_randn((size_t)n * in, 1.0);
		struct ref_linear l = {n, in, 3, {48, 20, 16}, N, dense, NULL, 0};
		struct ref_seg segs[3] = {{0}};
		struct ql_lora_seg *up;
		struct ql_lora_table *table;
		int32_t *slot = dt_host(n * 4);
		struct ql_linear a = {.w = w, .x = dt_put(x, n, in, dt_ld(in, 0)), .y = dt_out(n, N, N + 16), .site0 = site0};

		ref_segs(&l, segs, 3, ranks, 0.0f);
		up = ref_upload(&l, false, 0);
		OK(OPS->table_new(dev, slots, sites, &table, &err));
		for (uint32_t k = 0; k < slots; k++)
			for (uint32_t p = 0; p < 3; p++)
				if (k != 1 || p != 1) /* slot 1 has no adapter at the second site */
					OK(OPS->table_set(dev, queue, table, k, site0 + p, in, out[p], &up[k].part[p], &err));
		x64 = ref_widen(x, (size_t)n * in);
		l.n_segs = 0;
		ref_forward(&l, x64, base);
		memcpy(want, base, (size_t)n * N * 8);
		for (uint32_t t = 0; t < n; t++) {
			slot[t] = (int32_t)dt_below(slots + 1) - 1;
			by_row[t] = (uint32_t)slot[t];
		}
		for (uint32_t k = 0; k < slots; k++) { /* all rows with adapter k, then take the rows that use it */
			double *y = dt_host((size_t)n * N * 8);
			struct ref_seg all = segs[k];

			all.begin = 0;
			all.end = n;
			if (k == 1)
				all.r[1] = 0;
			l.segs = &all;
			l.n_segs = 1;
			ref_forward(&l, x64, y);
			for (uint32_t t = 0; t < n; t++)
				if (by_row[t] == k)
					memcpy(want + (size_t)t * N, y + (size_t)t * N, N * 8);
		}
		a.table = table;
		a.row_slot = dt_up(slot, n * 4);
		OK(OPS->linear(dev, queue, &a, &err));
		dt_close("by table", dt_get(a.y), want, (size_t)n * N, 1);
		dt_gap(a.y, N);
		for (uint32_t k = 0; k < slots; k++) /* cleared: the base alone */
			for (uint32_t p = 0; p < 3; p++) {
				struct ql_lora none = {0};

				OK(OPS->table_set(dev, queue, table, k, site0 + p, in, out[p], &none, &err));
			}
		OK(OPS->linear(dev, queue, &a, &err));
		dt_close("cleared table", dt_get(a.y), base, (size_t)n * N, 1);
		assert_int_not_equal(OPS->table_set(dev, queue, table, slots, 0, in, 16, &up[0].part[0], &err), QL_OK);
		OPS->table_free(dev, table);
		dt_each(NULL);
	}
}

/* rows keep their bits whatever they share a call with, as long as the number of rows chooses the same kernel */
static void test_neighbours(void **state)
{
	uint32_t out[1] = {100}, in = 320, T = 80;
	double *dense;
	struct ql_weight *w = dt_weight(DT_NF4, in, 1, out, &dense);
	float *x = dt_randn((size_t)T * in, 1.0), *all, *some;
	struct ql_linear a = {.w = w, .x = dt_put(x, T, in, dt_ld(in, 0)), .y = dt_out(T, out[0], 112)};

	(void)state;
	OK(OPS->linear(dev, queue, &a, &err));
	all = dt_get(a.y);
	a.x = dt_put(x + 3 * in, T - 3, in, dt_ld(in, 0));
	a.y = dt_out(T - 3, out[0], 112);
	OK(OPS->linear(dev, queue, &a, &err));
	some = dt_get(a.y);
	assert_memory_equal(some, all + 3 * out[0], (size_t)(T - 3) * out[0] * 4);
}

static void test_refusals(void **state)
{
	uint32_t out[1] = {32};
	double *dense;
	struct ql_weight *w = dt_weight(DT_NF4, 64, 1, out, &dense);
	struct ql_tensor x = dt_out(4, 64, 64), y = dt_out(4, 32, 32);
	struct ql_lora_seg seg = {.row_begin = 0, .row_end = 4};
	float *m = dt_nan_f32(64 * 16);
	struct ql_linear a = {.w = w, .x = x, .y = y};

	(void)state;
	a.x.cols = 63;
	assert_int_equal(OPS->linear(dev, queue, &a, &err), QL_ESHAPE);
	a.x = x;
	a.y.rows = 3;
	assert_int_equal(OPS->linear(dev, queue, &a, &err), QL_ESHAPE);
	a.y = y;
	seg.part[0] = (struct ql_lora){.a = m, .b = m, .r = 16, .scale = 1.0f};
	a.segs = &seg;
	a.n_segs = 1;
	assert_int_equal(OPS->linear(dev, queue, &a, &err), QL_ESHAPE); /* no room for S */
	a.x = dt_out(4, 64, dt_ld(64, 16));
	seg.row_end = 5;
	assert_int_equal(OPS->linear(dev, queue, &a, &err), QL_ESHAPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_stores, dt_each),     cmocka_unit_test_teardown(test_odd, dt_each),
		cmocka_unit_test_teardown(test_segs, dt_each),	     cmocka_unit_test_teardown(test_table, dt_each),
		cmocka_unit_test_teardown(test_segs_few_rows_wide, dt_each),
		cmocka_unit_test_teardown(test_neighbours, dt_each), cmocka_unit_test_teardown(test_refusals, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
