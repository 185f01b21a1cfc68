/* Weights: quantising on the device equals core/quant bit by bit, 4-bit weights come back as they went in, refusals;
 * memory accounting, copies, events. */
#include "tests/unit/device/devtest.h"

static void same_q4(const struct ql_q4 *a, const struct ql_q4 *b)
{
	size_t M = (size_t)ql_q4_blocks(a), N = (size_t)ql_q4_nested_blocks(a);

	assert_int_equal(a->kind, b->kind);
	assert_int_equal(a->n, b->n);
	assert_int_equal(a->blocksize, b->blocksize);
	assert_int_equal(a->nested, b->nested);
	assert_memory_equal(a->code, b->code, sizeof a->code);
	assert_memory_equal(a->codes, b->codes, (size_t)((a->n + 1) / 2));
	if (!a->nested) {
		assert_memory_equal(a->absmax, b->absmax, M * 4);
		return;
	}
	assert_int_equal(a->nested_blocksize, b->nested_blocksize);
	assert_memory_equal(a->absmax_q, b->absmax_q, M);
	assert_memory_equal(a->nested_absmax, b->nested_absmax, N * 4);
	assert_memory_equal(&a->offset, &b->offset, 4);
	assert_memory_equal(a->nested_map, b->nested_map, sizeof a->nested_map);
}

static void test_round_trip(void **state)
{
	static const struct { uint32_t out, in; } shapes[] = {{16, 64}, {48, 576}, {33, 96}, {5, 7}, {3, 100}, {130, 1536}};
	static const enum ql_dtype kinds[] = {QL_NF4, QL_FP4, QL_INT4};

	(void)state;
	for (size_t s = 0; s < 6; s++)
		for (int kind = 0; kind < 3; kind++)
			for (int nested = 0; nested < 2; nested++) {
				uint32_t out = shapes[s].out, in = shapes[s].in;
				size_t n = (size_t)out * in;
				struct ql_q4_opts o = QL_Q4_OPTS_DEFAULT;
				struct ql_q4 q, back;
				const struct ql_q4 *parts[2] = {&q, &q};
				struct ql_weight_shape shape = {.in = in, .n_parts = 2, .out = {out, out}};
				struct ql_weight *w;
				float *x = dt_host(n * 4);

				for (size_t i = 0; i < n; i++)
					x[i] = (float)dt_normal();
				o.kind = kinds[kind];
				o.nested = nested != 0;
				o.blocksize = s % 2 == 0 ? 64 : 128;
				assert_int_equal(ql_q4_quantize(&q, x, QL_F32, n, &o, NULL, &err), QL_OK);
				OK(OPS->weight_from_q4(dev, &shape, parts, &w, &err));
				assert_true(OPS->weight_bytes(w) >= 2 * ((n + 1) / 2));
				for (uint32_t p = 0; p < 2; p++) {
					OK(OPS->weight_to_q4(dev, w, p, &back, &err));
					same_q4(&q, &back);
					ql_q4_free(&back);
				}
				assert_int_not_equal(OPS->weight_to_q4(dev, w, 2, &back, &err), QL_OK);
				OPS->weight_free(dev, w);
				shape.out[1]++;
				assert_int_equal(OPS->weight_from_q4(dev, &shape, parts, &w, &err), QL_ESHAPE);
				ql_q4_free(&q);
				dt_each(NULL);
			}
}

/* The values of a 4-bit weight as rows of the activation type. */
static void test_rows(void **state)
{
	static const enum dt_store stores[] = {DT_NF4, DT_FP4, DT_INT4, DT_NF4_PLAIN, DT_NF4_B32};

	(void)state;
	for (size_t k = 0; k < sizeof stores / sizeof stores[0]; k++) {
		const uint32_t out[2] = {37, 70}, in = 192;
		double *dense;
		struct ql_weight *w = dt_weight(stores[k], in, 2, out, &dense);
		struct ql_tensor t = dt_out(107, in, dt_ld(in, 0));
		float *got;

		OK(OPS->weight_rows(dev, queue, w, t, &err));
		got = dt_get(t);
		for (size_t i = 0; i < (size_t)107 * in; i++)
			assert_true(got[i] == dt_round(dense[i]));
		dt_gap(t, in);
		t.rows--;
		assert_int_equal(OPS->weight_rows(dev, queue, w, t, &err), QL_ESHAPE);
		dt_each(NULL);
	}
}

static void test_quantize(void **state)
{
	static const enum ql_dtype kinds[] = {QL_NF4, QL_FP4, QL_INT4}, srcs[] = {QL_F32, QL_F16, QL_BF16};

	(void)state;
	for (int kind = 0; kind < 3; kind++)
		for (int src = 0; src < 3; src++) {
			uint32_t out = 70, in = 576;
			size_t n = (size_t)out * in;
			struct ql_q4_opts o = QL_Q4_OPTS_DEFAULT;
			struct ql_q4 q, back;
			struct ql_weight_shape shape = {.in = in, .n_parts = 1, .out = {out}};
			struct ql_weight *w;
			float *x = dt_host(n * 4);
			uint16_t *half = dt_host(n * 2);
			const void *parts[1] = {srcs[src] == QL_F32 ? (void *)x : (void *)half};

			for (size_t i = 0; i < n; i++) {
				x[i] = i / 64 == 3 ? 0.0f : (float)dt_normal(); /* a zero block as well */
				half[i] = srcs[src] == QL_F16 ? ql_f16_of_f32(x[i]) : ql_bf16_of_f32(x[i]);
			}
			o.kind = kinds[kind];
			assert_int_equal(ql_q4_quantize(&q, parts[0], srcs[src], n, &o, NULL, &err), QL_OK);
			OK(OPS->weight_quantize(dev, &shape, srcs[src], parts, kinds[kind], &w, &err));
			OK(OPS->weight_to_q4(dev, w, 0, &back, &err));
			same_q4(&q, &back);
			ql_q4_free(&q);
			ql_q4_free(&back);
			OPS->weight_free(dev, w);
			/* the same from rows that lie on the device already */
			parts[0] = dt_up(parts[0], n * (srcs[src] == QL_F32 ? 4 : 2));
			OK(OPS->weight_quantize(dev, &shape, srcs[src], parts, kinds[kind], &w, &err));
			OK(OPS->weight_to_q4(dev, w, 0, &back, &err));
			OK(ql_q4_quantize(&q, srcs[src] == QL_F32 ? (void *)x : (void *)half, srcs[src], n, &o, NULL, &err));
			same_q4(&q, &back);
			ql_q4_free(&q);
			ql_q4_free(&back);
			OPS->weight_free(dev, w);
			parts[0] = x;
			if (srcs[src] == QL_F32) {
				x[1000] = NAN;
				assert_int_equal(OPS->weight_quantize(dev, &shape, QL_F32, parts, kinds[kind], &w, &err), QL_ENONFINITE);
			}
			dt_each(NULL);
		}
}

static void test_refusals(void **state)
{
	float x[64] = {0};
	const void *parts[1] = {x};
	struct ql_weight_shape shape = {.in = 33, .n_parts = 1, .out = {1}};
	struct ql_weight *w;

	(void)state;
	assert_int_equal(OPS->weight_from_dense(dev, &shape, QL_Q8_0, parts, &w, &err), QL_ESHAPE);
	assert_int_equal(OPS->weight_from_dense(dev, &shape, QL_I32, parts, &w, &err), QL_EUNSUPPORTED);
	shape.n_parts = 4;
	assert_int_equal(OPS->weight_from_dense(dev, &shape, QL_F32, parts, &w, &err), QL_ESHAPE);
	shape = (struct ql_weight_shape){.in = 0, .n_parts = 1, .out = {1}};
	assert_int_equal(OPS->weight_from_dense(dev, &shape, QL_F32, parts, &w, &err), QL_ESHAPE);
}

static void test_memory(void **state)
{
	struct ql_mem_info before, now;
	unsigned char h[100], back[100];
	void *p, *q;

	(void)state;
	OPS->mem_reset_peak(dev);
	OK(OPS->mem_info(dev, &before, &err));
	assert_true(before.total > 0 && before.available > 0 && before.available <= before.total);
	OK(OPS->alloc(dev, QL_MEM_KV, 5 << 20, &p, &err));
	OK(OPS->alloc(dev, QL_MEM_ADAPTER, 100, &q, &err));
	OK(OPS->mem_info(dev, &now, &err));
	assert_true(now.used[QL_MEM_KV] >= before.used[QL_MEM_KV] + (5 << 20));
	assert_true(now.used[QL_MEM_ADAPTER] >= before.used[QL_MEM_ADAPTER] + 100);
	assert_true(now.peak >= before.peak + (5 << 20) + 100);
	for (int i = 0; i < 100; i++)
		h[i] = (unsigned char)(i * 7);
	OK(OPS->upload(dev, queue, q, h, 100, &err));
	OK(OPS->copy(dev, queue, (char *)p + 1000, q, 100, &err));
	OK(OPS->zero(dev, queue, (char *)p + 1010, 5, &err));
	OK(OPS->download(dev, queue, back, (char *)p + 1000, 100, &err));
	OK(OPS->sync(dev, queue, &err));
	for (int i = 0; i < 100; i++)
		assert_int_equal(back[i], i >= 10 && i < 15 ? 0 : h[i]);
	OPS->free(dev, p);
	OPS->free(dev, q);
	OPS->free(dev, NULL);
	OK(OPS->mem_info(dev, &now, &err));
	assert_memory_equal(now.used, before.used, sizeof now.used);
	assert_true(now.peak >= before.peak + (5 << 20));
	OPS->mem_reset_peak(dev);
	OK(OPS->mem_info(dev, &now, &err));
	assert_true(now.peak < before.peak + (5 << 20));
	assert_int_equal(OPS->alloc(dev, QL_MEM_KV, (size_t)1 << 46, &p, &err), QL_ENODEVMEM); /* and the device lives on */
	assert_null(p);
	assert_int_equal(OPS->alloc(dev, QL_MEM_KV, SIZE_MAX - 5, &p, &err), QL_ENODEVMEM);
	OK(OPS->alloc(dev, QL_MEM_KV, 64, &p, &err));
	OPS->free(dev, p);
}

static void test_events(void **state)
{
	struct ql_event *ev = NULL;

	(void)state;
	OK(OPS->event_record(dev, queue, &ev, &err));
	assert_non_null(ev);
	OK(OPS->event_wait(dev, ev, &err));
	OK(OPS->event_record(dev, queue, &ev, &err));
	OK(OPS->event_wait(dev, ev, &err));
	OPS->event_free(dev, ev);
}

/* A second queue for copies, ordered with the first by events alone; memory of the host is an end of them like any other. */
static void test_copy_queue(void **state)
{
	const size_t n = 3 << 20;
	uint8_t *host = dt_host(n), *got = dt_host(n), *from, *to;
	struct ql_event *ready = NULL, *copied = NULL;
	struct ql_queue *copies;
	void *paged;

	(void)state;
	for (size_t i = 0; i < n; i++)
		host[i] = (uint8_t)((i * 2654435761u) >> 9);
	from = dt_alloc(n);
	to = dt_up(got, n);
	OK(OPS->copy_queue_new(dev, &copies, &err));
	OK(OPS->alloc_paged(dev, n, &paged, &err));
	OK(OPS->upload(dev, queue, from, host, n, &err));
	OK(OPS->event_record(dev, queue, &ready, &err));
	OK(OPS->queue_wait(dev, copies, ready, &err));
	OK(OPS->copy(dev, copies, paged, from, n, &err));
	OK(OPS->event_record(dev, copies, &copied, &err));
	OK(OPS->queue_wait(dev, queue, copied, &err));
	OK(OPS->zero(dev, queue, from, n, &err));
	OK(OPS->event_record(dev, queue, &ready, &err)); /* an event may be used again while work waits for its last point */
	OK(OPS->copy(dev, copies, to, paged, n, &err));
	OK(OPS->event_record(dev, copies, &copied, &err));
	OK(OPS->queue_wait(dev, queue, copied, &err));
	dt_down(got, to, n);
	assert_memory_equal(got, host, n);
	dt_down(got, from, n);
	for (size_t i = 0; i < n; i++)
		assert_int_equal(got[i], 0);
	OPS->event_free(dev, ready);
	OPS->event_free(dev, copied);
	OPS->queue_free(dev, copies);
	OPS->free(dev, paged);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_round_trip, dt_each), cmocka_unit_test_teardown(test_rows, dt_each), cmocka_unit_test_teardown(test_quantize, dt_each),
		cmocka_unit_test_teardown(test_refusals, dt_each),   cmocka_unit_test_teardown(test_memory, dt_each),
		cmocka_unit_test_teardown(test_events, dt_each),	     cmocka_unit_test_teardown(test_copy_queue, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
