/* test_offload.c - inputs of layers on the host: the same bits as without, the bytes that were planned, and copies that a late
 * second queue cannot break.
 *
 * A table before the device's own holds each copy of the second queue back until something waits for it, the latest moment that the
 * events allow: whoever reads or overwrites a buffer without waiting finds the wrong bits. */
#include "tests/unit/model/fixture.h"

#define LAYERS 7
#define CONFIG                                                                                                                 \
	"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"     \
	"\"num_hidden_layers\":7,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":48,\"rms_norm_eps\":1e-5," \
	"\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":true}"

static struct scratch dir;

struct late {
	struct ql_device_ops ops; /* first: d->ops leads back here */
	const struct ql_device_ops *real;
	struct ql_queue *queue; /* the second one */
	struct {
		void *dst;
		const void *src;
		size_t bytes;
	} held[2 * LAYERS];
	unsigned n_held, n_done; /* held in all; copied of them */
	uint64_t computed;	 /* ops of the first queue that read or write inputs */
	bool ordered;		 /* the second queue waits for the last of those */
	struct {
		const struct ql_event *ev;
		unsigned held;
		uint64_t computed;
	} mark[8];
};

static struct late *late_of(struct ql_device *d) { return (struct late *)(uintptr_t)d->ops; }

static void copy_until(struct ql_device *d, unsigned n)
{
	struct late *t = late_of(d);

	for (; t->n_done < n; t->n_done++)
		assert_int_equal(t->real->copy(d, t->queue, t->held[t->n_done].dst, t->held[t->n_done].src, t->held[t->n_done].bytes, NULL),
				 QL_OK);
}

static int on_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e)
{
	int rc = late_of(d)->real->copy_queue_new(d, out, e);

	late_of(d)->queue = *out;
	return rc;
}

static void on_queue_free(struct ql_device *d, struct ql_queue *q)
{
	if (q == late_of(d)->queue) {
		assert_int_equal(late_of(d)->n_done, late_of(d)->n_held); /* nobody leaves a copy behind */
		late_of(d)->queue = NULL;
	}
	late_of(d)->real->queue_free(d, q);
}

static int on_copy(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	struct late *t = late_of(d);

	if (q != t->queue)
		return t->real->copy(d, q, dst, src, bytes, e);
	assert_true(t->ordered && t->n_held < 2 * LAYERS);
	t->held[t->n_held].dst = dst;
	t->held[t->n_held].src = src;
	t->held[t->n_held++].bytes = bytes;
	t->ordered = false;
	return QL_OK;
}

static size_t mark_of(const struct late *t, const struct ql_event *ev)
{
	size_t i = 0;

	while (i < 8 && t->mark[i].ev != ev && t->mark[i].ev != NULL)
		i++;
	assert_true(i < 8);
	return i;
}

static int on_event_record(struct ql_device *d, struct ql_queue *q, struct ql_event **ev, struct ql_err *e)
{
	struct late *t = late_of(d);
	int rc = t->real->event_record(d, q, ev, e);
	size_t i = mark_of(t, *ev);

	t->mark[i].ev = *ev;
	t->mark[i].held = q == t->queue ? t->n_held : 0;
	t->mark[i].computed = t->computed;
	return rc;
}

static int on_queue_wait(struct ql_device *d, struct ql_queue *q, struct ql_event *ev, struct ql_err *e)
{
	struct late *t = late_of(d);
	size_t i = mark_of(t, ev);

	assert_true(t->mark[i].ev == ev);
	if (q == t->queue)
		t->ordered = t->mark[i].held == 0 && t->mark[i].computed == t->computed;
	else
		copy_until(d, t->mark[i].held);
	return t->real->queue_wait(d, q, ev, e);
}

static int on_linear(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, struct ql_err *e)
{
	late_of(d)->computed++;
	return late_of(d)->real->linear(d, q, a, e);
}

static int on_rmsnorm_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, const float *rstd,
			   struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	late_of(d)->computed++;
	return late_of(d)->real->rmsnorm_grad(d, q, x, w, group, rstd, dy, add, dx, e);
}

static int on_embed_noise(struct ql_device *d, struct ql_queue *q, const struct ql_noise *a, struct ql_err *e)
{
	late_of(d)->computed++;
	return late_of(d)->real->embed_noise(d, q, a, e);
}

static void be_late(struct late *t, struct ql_device *d)
{
	*t = (struct late){.ops = *d->ops, .real = d->ops};
	t->ops.copy_queue_new = on_queue_new;
	t->ops.queue_free = on_queue_free;
	t->ops.copy = on_copy;
	t->ops.event_record = on_event_record;
	t->ops.queue_wait = on_queue_wait;
	t->ops.linear = on_linear;
	t->ops.rmsnorm_grad = on_rmsnorm_grad;
	t->ops.embed_noise = on_embed_noise;
	d->ops = &t->ops;
}

/* Losses and gradients of two runs of one pass, the second over fewer tokens, with a run without backward between them. */
static unsigned run(struct ql_keep_mix mix, bool late, float *nll, float *grads, uint64_t *n_params)
{
	const uint32_t lens[2][3] = {{33, 40, 21}, {11, 30, 8}};
	struct ql_dropout drop = {.p = 0.1f, .neftune = 5, .seed = 2, .step = 1};
	struct ql_mem_info before, after;
	struct ql_lora_set *lora;
	struct ql_err e = {0};
	struct fx_batch x;
	struct ql_pass *p;
	struct late t;
	struct fx f;
	unsigned copies = 0;
	int rc = QL_OK;

	fx_open(&f, &dir, 2);
	lora = fx_lora(&f, false);
	assert_true(2 * lora->n_params <= *n_params);
	*n_params = lora->n_params;
	assert_int_equal(f.dev->ops->mem_info(f.dev, &before, &e), QL_OK);
	t.real = f.dev->ops;
	if (late)
		be_late(&t, f.dev);
	assert_int_equal(ql_pass_new_mixed(&p, f.m, lora->group_rank, 256, mix, &e), QL_OK);
	assert_int_equal(f.dev->ops->mem_info(f.dev, &after, &e), QL_OK);
	assert_true(after.used[QL_MEM_ACTIVATION] - before.used[QL_MEM_ACTIVATION] == ql_pass_bytes(f.m, lora->group_rank, 256, mix));
	assert_true(after.used[QL_MEM_OPTIMIZER] - before.used[QL_MEM_OPTIMIZER] ==
		    (f.dev->act == QL_F32 ? ql_pass_host_bytes(f.m, 256, mix) : 0)); /* a GPU's share is the host's */
	for (int i = 0; i < 3 && rc == QL_OK; i++) {
		fx_batch(&x, lens[i == 2], 3, 2);
		assert_int_equal(f.dev->ops->zero(f.dev, f.m->queue, lora->grads, (size_t)lora->n_params * 4, &e), QL_OK);
		ql_gate_enter(f.m->gate, QL_GATE_TRAIN);
		if (late)
			t.n_held = t.n_done = 0;
		rc = ql_pass_run(p, &x.b, lora, &drop, 1.0f, i != 1, nll + (size_t)i * 256, NULL, &e);
		if (late) {
			assert_int_equal(t.n_held, t.n_done);
			assert_true(i != 1 || t.n_held == 0);
			copies = i == 0 ? t.n_held : copies;
		}
		ql_gate_leave(f.m->gate, QL_GATE_TRAIN);
		if (rc == QL_OK && i != 1)
			assert_int_equal(f.dev->ops->download(f.dev, f.m->queue, grads + (size_t)(i / 2) * lora->n_params, lora->grads,
							      (size_t)lora->n_params * 4, &e), QL_OK);
		assert_int_equal(f.dev->ops->sync(f.dev, f.m->queue, &e), QL_OK);
	}
	if (rc != QL_OK)
		fail_msg("%s", e.message);
	ql_pass_free(p);
	f.dev->ops = t.real;
	ql_lora_free(lora);
	fx_close(&f);
	return copies;
}

static void test_same_bits(void **state)
{
	static const struct {
		struct ql_keep_mix mix;
		bool late;
		unsigned copies; /* there and back */
	} cases[] = {
		{{0, 0, 0}, false, 0}, /* what the others are compared with */
		{{0, 0, 1}, true, 0},  {{0, 0, 2}, true, 0},  {{0, 0, 3}, true, 2},  {{0, 0, 4}, true, 4}, {{0, 0, 6}, true, 8},
		{{0, 0, 7}, true, 10}, {{0, 0, 7}, false, 0}, {{1, 1, 4}, true, 4}, {{1, 0, 6}, true, 8}, {{0, 2, 3}, true, 2},
	};
	uint64_t room = 200000, n = room;
	float *grads[2] = {calloc(room, 4), calloc(room, 4)}, *nll[2] = {calloc(768, 4), calloc(768, 4)};
	double sum = 0;

	(void)state;
	for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
		int to = k > 0;

		n = room;
		assert_int_equal(run(cases[k].mix, cases[k].late, nll[to], grads[to], &n), cases[k].copies);
		assert_memory_equal(nll[to], nll[0], 768 * 4);
		assert_memory_equal(grads[to], grads[0], (size_t)n * 8);
	}
	for (uint64_t i = 0; i < 2 * n; i++)
		sum += fabs((double)grads[0][i]);
	assert_true(sum > 1);
	for (int i = 0; i < 2; i++) {
		free(grads[i]);
		free(nll[i]);
	}
}

/* From three layers on each costs no device memory, and the host one input. */
static void test_bytes(void **state)
{
	const uint32_t rank[QL_GROUPS] = {0};
	struct fx f;
	uint64_t input, kept;

	(void)state;
	fx_open(&f, &dir, 1);
	input = (uint64_t)256 * 64 * ql_dtypes[f.dev->act].bytes;
	kept = ql_pass_bytes(f.m, rank, 256, (struct ql_keep_mix){0, 0, 0});
	for (uint32_t n = 0; n <= LAYERS + 1; n++) {
		uint32_t sent = n < 3 ? 0 : n > LAYERS ? LAYERS - 2 : n - 2;
		struct ql_keep_mix mix = {0, 0, n};

		assert_true(kept - ql_pass_bytes(f.m, rank, 256, mix) == sent * input);
		assert_true(ql_pass_host_bytes(f.m, 256, mix) == sent * input);
	}
	fx_close(&f);
}

static int setup(void **state)
{
	(void)state;
	scratch_open(&dir);
	fx_write_config(&dir, CONFIG);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_close(&dir);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_same_bits), cmocka_unit_test(test_bytes)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
