/* What the optional parts of the op interface promise: a resident copy changes speed only, a graph replays what was recorded, and
 * copies of any size arrive, also those of a second queue. */
#include "tests/unit/device/devtest.h"

static struct ql_lora_seg segment(uint32_t T, uint32_t in, uint32_t out, uint32_t r)
{
	struct ql_lora_seg s = {.row_begin = 0, .row_end = T};
	float *zero = dt_host((size_t)r * (in > out ? in : out) * 4);

	s.part[0] = (struct ql_lora){.a = dt_up(dt_randn((size_t)r * in, 0.05), (size_t)r * in * 4),
				     .b = dt_up(dt_randn((size_t)out * r, 0.5), (size_t)out * r * 4),
				     .da = dt_up(zero, (size_t)r * in * 4),
				     .db = dt_up(zero, (size_t)out * r * 4),
				     .r = r,
				     .scale = 2.0f};
	return s;
}

static void test_resident(void **state)
{
	const uint32_t T = 96, in = 256, out[1] = {320}, r = 16;
	double *dense, *want[3];
	struct ql_weight *w = dt_weight(DT_NF4, in, 1, out, &dense);
	float *x = dt_randn((size_t)T * in, 1), *dy = dt_randn((size_t)T * out[0], 1), *got[3];
	const size_t n[3] = {(size_t)T * out[0], (size_t)T * in, (size_t)r * in};
	uint64_t before = OPS->weight_bytes(w);

	(void)state;
	if (OPS->weight_resident == NULL)
		skip();
	for (int on = 0; on < 2; on++) {
		struct ql_lora_seg s = segment(T, in, out[0], r);
		struct ql_tensor tx = dt_put(x, T, in, dt_ld(in, r));
		struct ql_linear f = {.w = w, .x = tx, .y = dt_out(T, out[0], out[0]), .segs = &s, .n_segs = 1};
		struct ql_linear_grad g = {.w = w, .dy = dt_put(dy, T, out[0], dt_ld(out[0], r)), .x = tx, .dx = dt_out(T, in, in), .segs = &s, .n_segs = 1};

		if (on == 0)
			dt_seed(7);
		else
			OK(OPS->weight_resident(dev, w, true, &err));
		dt_seed(7); /* the same adapter both times */
		s = segment(T, in, out[0], r);
		OK(OPS->linear(dev, queue, &f, &err));
		OK(OPS->linear_grad(dev, queue, &g, &err));
		got[0] = dt_get(f.y);
		got[1] = dt_get(g.dx);
		got[2] = dt_host(n[2] * 4);
		dt_down(got[2], s.part[0].da, n[2] * 4);
		for (int k = 0; k < 3; k++) {
			if (on == 0) {
				want[k] = dt_host(n[k] * 8);
				for (size_t i = 0; i < n[k]; i++)
					want[k][i] = (double)got[k][i];
			} else {
				for (size_t i = 0; i < n[k]; i++)
					assert_true((double)got[k][i] == want[k][i]); /* the same bits */
			}
		}
	}
	assert_true(OPS->weight_bytes(w) > before);
	OK(OPS->weight_resident(dev, w, false, &err));
	assert_true(OPS->weight_bytes(w) == before);
}

static void test_graph(void **state)
{
	const uint32_t T = 2, in = 256, out[1] = {192};
	double *dense;
	struct ql_weight *w = dt_weight(DT_NF4, in, 1, out, &dense);
	float *x1 = dt_randn((size_t)T * in, 1), *x2 = dt_randn((size_t)T * in, 1), *ones = dt_host(in * 4);
	struct ql_tensor x = dt_put(x1, T, in, in), other = dt_put(x2, T, in, in), h = dt_out(T, in, in), y = dt_out_f32(T, out[0], out[0]);
	struct ql_lora_seg s = segment(T, in, out[0], 16);
	struct ql_linear a = {.w = w, .x = h, .y = y};
	struct ql_lora_table *table;
	struct ql_graph *graph;
	int32_t slot[2] = {1, -1};
	float *rho, *direct, *again;

	(void)state;
	if (OPS->graph_begin == NULL)
		skip();
	for (uint32_t i = 0; i < in; i++)
		ones[i] = 1;
	rho = dt_up(ones, in * 4);
	OK(OPS->table_new(dev, 2, 1, &table, &err));
	OK(OPS->table_set(dev, queue, table, 1, 0, in, out[0], &s.part[0], &err));
	a.table = table;
	a.row_slot = dt_up(slot, sizeof slot);
	OK(OPS->rmsnorm(dev, queue, other, rho, 0, 1e-5f, dt_none(), h, NULL, &err));
	OK(OPS->linear(dev, queue, &a, &err));
	direct = dt_get(y);
	OK(OPS->graph_begin(dev, queue, &err));
	OK(OPS->rmsnorm(dev, queue, x, rho, 0, 1e-5f, dt_none(), h, NULL, &err));
	OK(OPS->linear(dev, queue, &a, &err));
	assert_int_equal(OPS->sync(dev, queue, &err), QL_ESTATE);
	assert_int_equal(OPS->upload(dev, queue, x.data, x1, 4, &err), QL_ESTATE);
	OK(OPS->graph_end(dev, queue, &graph, &err));
	for (int k = 0; k < 3; k++) { /* nothing ran while recording; each run reads what x holds then */
		OK(OPS->copy(dev, queue, x.data, k == 1 ? dt_put(x1, T, in, in).data : other.data, (size_t)T * in * 2, &err));
		OK(OPS->graph_run(dev, queue, graph, &err));
		again = dt_get(y);
		assert_int_equal(memcmp(again, direct, (size_t)T * out[0] * 4) == 0, k != 1);
	}
	OPS->graph_free(dev, graph);
	OPS->table_free(dev, table);
}

static void test_copies(void **state)
{
	static const size_t sizes[] = {1, 255, 1 << 20, (1 << 20) + 1, (16 << 20) - 1, (48 << 20) + 13};

	(void)state;
	for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
		uint8_t *src = dt_host(sizes[k]), *dst = dt_host(sizes[k]);
		void *d = dt_alloc(sizes[k]);

		for (size_t i = 0; i < sizes[k]; i++)
			src[i] = (uint8_t)((i * 2654435761u) >> 13);
		OK(OPS->upload(dev, queue, d, src, sizes[k], &err));
		OK(OPS->download(dev, queue, dst, d, sizes[k], &err));
		OK(OPS->sync(dev, queue, &err));
		assert_memory_equal(src, dst, sizes[k]);
		dt_each(NULL);
	}
	uint32_t v[300], got[300];
	uint32_t *d = dt_alloc(sizeof v);

	for (uint32_t i = 0; i < 300; i++)
		v[i] = i * 77;
	OK(OPS->upload(dev, queue, d, v, sizeof v, &err));
	for (uint32_t i = 0; i < 300; i++) /* more than wait at once */
		OK(OPS->download(dev, queue, got + i, d + i, 4, &err));
	OK(OPS->sync(dev, queue, &err));
	assert_memory_equal(v, got, sizeof v);
}

/* A second queue copies between two device buffers in turn and pinned memory of the host while the first one works; events alone
 * order them.  Each buffer is overwritten as early as the events allow. */
static void test_copies_beside(void **state)
{
	enum { N = 12, BYTES = 8 << 20 };
	uint8_t *pattern = dt_host(BYTES), *source[N], *buffer[2] = {dt_alloc(BYTES), dt_alloc(BYTES)}, *back = dt_alloc((size_t)N * BYTES),
		*all = dt_host((size_t)N * BYTES);
	struct ql_event *ready = NULL, *copied[2] = {NULL, NULL};
	struct ql_queue *copies;
	struct ql_mem_info before, after;
	void *host;

	(void)state;
	OK(OPS->mem_info(dev, &before, &err));
	OK(OPS->alloc_paged(dev, (size_t)N * BYTES, &host, &err));
	OK(OPS->copy_queue_new(dev, &copies, &err));
	OK(OPS->mem_info(dev, &after, &err));
	if (OPS->graph_begin != NULL) /* a device with memory of its own: neither takes any */
		assert_memory_equal(before.used, after.used, sizeof before.used);
	for (int i = 0; i < N; i++) {
		for (size_t k = 0; k < BYTES; k++)
			pattern[k] = (uint8_t)((k * 2654435761u + (size_t)i * 40503u) >> 11);
		source[i] = dt_up(pattern, BYTES);
	}
	for (int i = 0; i < N; i++) { /* out: slots in turn */
		if (i >= 2)
			OK(OPS->queue_wait(dev, queue, copied[i % 2], &err));
		OK(OPS->copy(dev, queue, buffer[i % 2], source[i], BYTES, &err));
		OK(OPS->event_record(dev, queue, &ready, &err));
		OK(OPS->queue_wait(dev, copies, ready, &err));
		OK(OPS->copy(dev, copies, (uint8_t *)host + (size_t)i * BYTES, buffer[i % 2], BYTES, &err));
		OK(OPS->event_record(dev, copies, &copied[i % 2], &err));
	}
	for (int i = N; i-- > 0;) { /* and back, the last first */
		OK(OPS->event_record(dev, queue, &ready, &err));
		OK(OPS->queue_wait(dev, copies, ready, &err));
		OK(OPS->copy(dev, copies, buffer[i % 2], (uint8_t *)host + (size_t)i * BYTES, BYTES, &err));
		OK(OPS->event_record(dev, copies, &copied[i % 2], &err));
		OK(OPS->queue_wait(dev, queue, copied[i % 2], &err));
		OK(OPS->copy(dev, queue, back + (size_t)i * BYTES, buffer[i % 2], BYTES, &err));
		OK(OPS->zero(dev, queue, buffer[i % 2], BYTES, &err));
	}
	dt_down(all, back, (size_t)N * BYTES);
	for (int i = 0; i < N; i++) {
		dt_down(pattern, source[i], BYTES);
		assert_memory_equal(all + (size_t)i * BYTES, pattern, BYTES);
	}
	if (OPS->graph_begin != NULL) {
		struct ql_graph *graph;

		OK(OPS->graph_begin(dev, queue, &err));
		assert_int_equal(OPS->queue_wait(dev, queue, ready, &err), QL_ESTATE);
		OK(OPS->copy(dev, queue, buffer[0], source[0], 16, &err));
		OK(OPS->graph_end(dev, queue, &graph, &err));
		OPS->graph_free(dev, graph);
	}
	OPS->event_free(dev, ready);
	OPS->event_free(dev, copied[0]);
	OPS->event_free(dev, copied[1]);
	OPS->queue_free(dev, copies);
	OPS->free(dev, host);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_resident, dt_each),
		cmocka_unit_test_teardown(test_graph, dt_each),
		cmocka_unit_test_teardown(test_copies, dt_each),
		cmocka_unit_test_teardown(test_copies_beside, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
