/* test_pass.c - a whole tiny model: gradients by finite differences, the same bits for every choice of what is kept and any
 * number of threads, packed = alone, cached decode = full forward, adapters that start as nothing. */
#include "tests/unit/model/fixture.h"

static struct scratch dir;

/* One tiny model for each thing a family adds; windows shorter than the sequences below. */
#define SIZES                                                                                                                  \
	"\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
	"\"vocab_size\":48,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,"
static const char *const configs[] = {
	FX_CONFIG,
	"{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"," SIZES "\"head_dim\":32}",
	"{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\"," SIZES "\"sliding_window\":9}",
	"{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\"," SIZES "\"sliding_window\":null}",
	"{\"architectures\":[\"SmolLM3ForCausalLM\"],\"model_type\":\"smollm3\"," SIZES "\"no_rope_layers\":[1,0,1]}",
	"{\"architectures\":[\"Gemma2ForCausalLM\"],\"model_type\":\"gemma2\"," SIZES
	"\"head_dim\":32,\"sliding_window\":11,\"query_pre_attn_scalar\":24,\"attn_logit_softcapping\":4.0,"
	"\"final_logit_softcapping\":3.0}",
	"{\"architectures\":[\"Gemma3ForCausalLM\"],\"model_type\":\"gemma3_text\"," SIZES
	"\"head_dim\":32,\"sliding_window\":7,\"sliding_window_pattern\":2,\"query_pre_attn_scalar\":32,"
	"\"rope_local_base_freq\":100}",
};
static size_t which; /* of configs */

static int setup(void **state)
{
	(void)state;
	scratch_open(&dir);
	fx_write_config(&dir, configs[which]);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	scratch_close(&dir);
	return 0;
}

/* Σ nll, and with grads the gradient of Σ nll in host memory.  keep QL_KEEPS: a mix of the first three. */
static double run(struct fx *f, const struct ql_batch *b, struct ql_lora_set *lora, enum ql_keep keep, const struct ql_dropout *drop,
		  float *grads)
{
	struct ql_keep_mix mix = {keep == QL_KEEP_ALL ? 3 : keep == QL_KEEPS, keep == QL_KEEP_MAIN ? 3 : keep == QL_KEEPS,
				  keep == QL_KEEP_HOST ? 3 : 0};
	struct ql_pass *p;
	struct ql_mem_info before, after;
	float nll[256];
	struct ql_err e = {0};
	double sum = 0;
	int rc;

	assert_int_equal(f->dev->ops->mem_info(f->dev, &before, &e), QL_OK);
	assert_int_equal(keep == QL_KEEPS ? ql_pass_new_mixed(&p, f->m, lora->group_rank, 256, mix, &e)
					  : ql_pass_new(&p, f->m, lora->group_rank, 256, keep, true, &e), QL_OK);
	assert_int_equal(f->dev->ops->mem_info(f->dev, &after, &e), QL_OK);
	assert_true(after.used[QL_MEM_ACTIVATION] - before.used[QL_MEM_ACTIVATION] == ql_pass_bytes(f->m, lora->group_rank, 256, mix));
	assert_int_equal(f->dev->ops->zero(f->dev, f->m->queue, lora->grads, (size_t)lora->n_params * 4, &e), QL_OK);
	ql_gate_enter(f->m->gate, QL_GATE_TRAIN);
	rc = ql_pass_run(p, b, lora, drop, 1.0f, grads != NULL, nll, NULL, &e);
	ql_gate_leave(f->m->gate, QL_GATE_TRAIN);
	if (rc != QL_OK)
		fail_msg("%s", e.message);
	for (uint32_t i = 0; i < b->n_targets; i++)
		sum += (double)nll[i];
	if (grads != NULL) {
		assert_int_equal(f->dev->ops->download(f->dev, f->m->queue, grads, lora->grads, (size_t)lora->n_params * 4, &e), QL_OK);
		assert_int_equal(f->dev->ops->sync(f->dev, f->m->queue, &e), QL_OK);
	}
	ql_pass_free(p);
	return sum;
}

static void move(struct fx *f, struct ql_lora_set *lora, const float *from, const float *dir_v, float h, float *tmp)
{
	for (uint64_t i = 0; i < lora->n_params; i++)
		tmp[i] = from[i] + h * dir_v[i];
	assert_int_equal(f->dev->ops->upload(f->dev, f->m->queue, lora->params, tmp, (size_t)lora->n_params * 4, NULL), QL_OK);
	assert_int_equal(f->dev->ops->sync(f->dev, f->m->queue, NULL), QL_OK);
}

/* Directional derivatives along random directions, with and without dropout. */
static void test_finite_differences(void **state)
{
	const uint32_t lens[] = {7, 19, 12};
	struct fx f;
	struct fx_batch x;
	struct ql_lora_set *lora;
	float *g, *p, *v, *tmp;

	(void)state;
	fx_open(&f, &dir, 2);
	if (f.dev->act != QL_F32) { /* bf16 rounding drowns the differences; the op tests compare gradients on such devices */
		fx_close(&f);
		skip();
	}
	lora = fx_lora(&f, false);
	fx_batch(&x, lens, 3, 1);
	g = malloc((size_t)lora->n_params * 4);
	p = malloc((size_t)lora->n_params * 4);
	v = malloc((size_t)lora->n_params * 4);
	tmp = malloc((size_t)lora->n_params * 4);
	assert_int_equal(f.dev->ops->download(f.dev, f.m->queue, p, lora->params, (size_t)lora->n_params * 4, NULL), QL_OK);
	assert_int_equal(f.dev->ops->sync(f.dev, f.m->queue, NULL), QL_OK);
	for (int k = 0; k < 8; k++) {
		struct ql_dropout drop = {.p = k % 2 == 0 ? 0 : 0.3f, .seed = 5, .step = 3, .token_base = 100};
		double analytic = 0, numeric, norm = 0;
		float h = 0.004f;

		move(&f, lora, p, p, 0, tmp);
		(void)run(&f, &x.b, lora, QL_KEEP_ALL, &drop, g);
		for (uint64_t i = 0; i < lora->n_params; i++) {
			v[i] = fx_random(500 + (uint64_t)k, i);
			norm += (double)v[i] * (double)v[i];
		}
		for (uint64_t i = 0; i < lora->n_params; i++) {
			v[i] = (float)((double)v[i] / sqrt(norm) * 4);
			analytic += (double)v[i] * (double)g[i];
		}
		move(&f, lora, p, v, h, tmp);
		numeric = run(&f, &x.b, lora, QL_KEEP_ALL, &drop, NULL);
		move(&f, lora, p, v, -h, tmp);
		numeric = (numeric - run(&f, &x.b, lora, QL_KEEP_ALL, &drop, NULL)) / (2 * (double)h);
		print_message("direction %d: analytic %.6f numeric %.6f\n", k, analytic, numeric);
		assert_true(fabs(analytic - numeric) <= 4e-3 * (fabs(numeric) + 0.5));
	}
	free(g);
	free(p);
	free(v);
	free(tmp);
	ql_lora_free(lora);
	fx_close(&f);
}

static void test_keeps_and_threads_same_bits(void **state)
{
	const uint32_t lens[] = {33, 5, 40, 21};
	float *first = NULL;
	double loss = 0;
	uint64_t n = 0;

	(void)state;
	for (int threads = 1; threads <= 4; threads *= 2)
		for (int keep = 0; keep <= QL_KEEPS; keep++) { /* the last: a mix, with dense copies of two layers */
			struct ql_dropout drop = {.p = 0.1f, .neftune = 5, .seed = 2, .step = 1};
			struct fx f;
			struct fx_batch x;
			struct ql_lora_set *lora;
			float *g;
			double l;

			fx_open(&f, &dir, threads);
			lora = fx_lora(&f, false);
			fx_batch(&x, lens, 4, 2);
			g = malloc((size_t)lora->n_params * 4);
			uint32_t held = keep == QL_KEEPS ? ql_model_dense_hold(f.m, 2, NULL) : 0;

			assert_int_equal(held, keep == QL_KEEPS && f.dev->ops->weight_resident != NULL ? 2 : 0);
			l = run(&f, &x.b, lora, (enum ql_keep)keep, &drop, g);
			ql_model_dense_release(f.m, held);
			n = lora->n_params;
			if (first == NULL) {
				first = g;
				loss = l;
			} else {
				assert_memory_equal(&l, &loss, sizeof l);
				assert_memory_equal(g, first, (size_t)n * 4);
				free(g);
			}
			ql_lora_free(lora);
			fx_close(&f);
		}
	free(first);
}

/* Packed sequences do not see each other: losses and gradients are those of each alone. */
static void test_packed_is_alone(void **state)
{
	const uint32_t lens[] = {17, 30, 9};
	struct fx f;
	struct fx_batch x, one;
	struct ql_lora_set *lora;
	double together, apart = 0, diff = 0, norm = 0;
	float *g, *sum, *part;
	double tol;

	(void)state;
	fx_open(&f, &dir, 2);
	tol = f.dev->act == QL_F32 ? 1e-5 : 2e-2;
	lora = fx_lora(&f, false);
	g = malloc((size_t)lora->n_params * 4);
	part = malloc((size_t)lora->n_params * 4);
	sum = calloc((size_t)lora->n_params, 4);
	fx_batch(&x, lens, 3, 4);
	together = run(&f, &x.b, lora, QL_KEEP_MAIN, NULL, g);
	for (int s = 0; s < 3; s++) {
		fx_batch(&one, &lens[s], 1, 4);
		apart += run(&f, &one.b, lora, QL_KEEP_MAIN, NULL, part);
		for (uint64_t i = 0; i < lora->n_params; i++)
			sum[i] += part[i];
	}
	for (uint64_t i = 0; i < lora->n_params; i++) {
		diff += ((double)g[i] - (double)sum[i]) * ((double)g[i] - (double)sum[i]);
		norm += (double)sum[i] * (double)sum[i];
	}
	assert_true(norm > 1e-6);
	assert_true(fabs(together - apart) <= tol * 0.1 * fabs(apart));
	assert_true(sqrt(diff / norm) <= tol);
	free(g);
	free(part);
	free(sum);
	ql_lora_free(lora);
	fx_close(&f);
}

static float *full_logits(struct fx *f, const struct ql_batch *b, const struct ql_lora_set *lora)
{
	uint32_t none[QL_GROUPS] = {0};
	float *z = malloc((size_t)b->n_tokens * FX_VOCAB * sizeof *z);
	struct ql_pass *p;

	assert_int_equal(ql_pass_new(&p, f->m, lora != NULL ? lora->group_rank : none, 256, QL_KEEP_ALL, false, NULL), QL_OK);
	ql_gate_enter(f->m->gate, QL_GATE_TRAIN);
	assert_int_equal(ql_pass_logits(p, b, lora, z, NULL), QL_OK);
	ql_gate_leave(f->m->gate, QL_GATE_TRAIN);
	ql_pass_free(p);
	return z;
}

static void test_zero_adapter_is_base(void **state)
{
	const uint32_t lens[] = {25};
	struct fx f;
	struct fx_batch x;
	struct ql_lora_set *lora;
	float *a, *b;

	(void)state;
	fx_open(&f, &dir, 2);
	lora = fx_lora(&f, true);
	fx_batch(&x, lens, 1, 6);
	a = full_logits(&f, &x.b, NULL);
	b = full_logits(&f, &x.b, lora);
	assert_memory_equal(a, b, 25 * FX_VOCAB * sizeof *a);
	free(a);
	free(b);
	ql_lora_free(lora);
	fx_close(&f);
}

/* Three sequences with different adapters (none, one, none), prompts in chunks, then tokens together, against the full pass. */
static void test_cached_is_full(void **state)
{
	const uint32_t lens[] = {37, 20, 51}, prompts[] = {30, 9, 48};
	struct fx f;
	struct ql_kv kv;
	struct ql_lora_set *lora;
	struct ql_lora_table *table;
	struct ql_step *step;
	struct fx_batch x[3];
	float *want[3], *z = malloc(64 * FX_VOCAB * sizeof *z), zmax = 0;
	int32_t blocks[3][16], slot[3] = {-1, 1, -1};
	double tol, worst = 0;
	struct ql_err e = {0};

	(void)state;
	fx_open(&f, &dir, 2);
	lora = fx_lora(&f, false);
	assert_int_equal(f.dev->ops->table_new(f.dev, 4, 3 * QL_MODULES, &table, &e), QL_OK);
	assert_int_equal(ql_lora_to_table(lora, f.m, table, 1, &e), QL_OK);
	assert_int_equal(ql_kv_new(&kv, f.m, 48, &e), QL_OK);
	assert_int_equal(ql_step_new(&step, f.m, &kv, table, lora->group_rank, 16, 8, 16, 64, &e), QL_OK);
	for (int s = 0; s < 3; s++) {
		fx_batch(&x[s], &lens[s], 1, 20 + (uint64_t)s);
		want[s] = full_logits(&f, &x[s].b, slot[s] >= 0 ? lora : NULL);
		for (int i = 0; i < 16; i++)
			blocks[s][i] = (i * 3 + s) % 48;
		for (uint32_t i = 0; i < lens[s] * FX_VOCAB; i++)
			zmax = fmaxf(zmax, fabsf(want[s][i]));
	}
	tol = (f.dev->act == QL_F32 ? 1e-4 : 6e-2) * (double)zmax;
	for (int s = 0; s < 3; s++)
		for (uint32_t at = 0; at < prompts[s]; at += 16) {
			uint32_t n = prompts[s] - at < 16 ? prompts[s] - at : 16;
			int32_t slots[16], q_begin[2] = {0, (int32_t)n}, kv_len = (int32_t)(at + n);
			struct ql_step_in in = {.n_tokens = n, .n_seqs = 1, .ids = x[s].ids + at, .positions = x[s].positions + at,
						.slots = slots, .q_begin = q_begin, .kv_len = &kv_len, .block_table = blocks[s],
						.lora = slot[s] >= 0 ? lora : NULL, .logits_begin = 0, .logits_count = n};

			for (uint32_t i = 0; i < n; i++)
				slots[i] = blocks[s][(at + i) / QL_KV_BLOCK] * QL_KV_BLOCK + (int32_t)((at + i) % QL_KV_BLOCK);
			if (ql_step_run(step, &in, z, &e) != QL_OK)
				fail_msg("%s", e.message);
			for (uint32_t i = 0; i < n * FX_VOCAB; i++)
				worst = fmax(worst, fabs((double)(z[i] - want[s][at * FX_VOCAB + i])));
		}
	print_message("prompts: largest difference %.2e\n", worst);
	for (uint32_t k = 0; k < 3; k++) { /* three tokens of each together */
		int32_t ids[3], positions[3], slots[3], q_begin[4] = {0, 1, 2, 3}, kv_len[3], all[3][16];
		struct ql_step_in in = {.n_tokens = 3, .n_seqs = 3, .ids = ids, .positions = positions, .slots = slots,
					.q_begin = q_begin, .kv_len = kv_len, .block_table = all[0], .row_slot = slot,
					.any_adapter = true, .logits_count = 3};

		memcpy(all, blocks, sizeof all);
		for (int s = 0; s < 3; s++) {
			uint32_t t = prompts[s] + k;

			ids[s] = x[s].ids[t];
			positions[s] = (int32_t)t;
			slots[s] = blocks[s][t / QL_KV_BLOCK] * QL_KV_BLOCK + (int32_t)(t % QL_KV_BLOCK);
			kv_len[s] = (int32_t)t + 1;
		}
		const bool wanted[3] = {false, true, false};
		int32_t best[3];
		float kept[3 * FX_VOCAB];

		assert_int_equal(ql_step_run(step, &in, z, &e), QL_OK);
		memset(kept, 0, sizeof kept);
		assert_int_equal(ql_step_run_argmax(step, &in, best, wanted, kept, &e), QL_OK);
		for (int s = 0; s < 3; s++) {
			int32_t top = 0;

			for (int i = 1; i < FX_VOCAB; i++)
				top = z[s * FX_VOCAB + i] > z[s * FX_VOCAB + top] ? i : top;
			assert_int_equal(best[s], top);
			for (int i = 0; i < FX_VOCAB; i++)
				assert_true(kept[s * FX_VOCAB + i] == (wanted[s] ? z[s * FX_VOCAB + i] : 0));
		}
		for (int s = 0; s < 3; s++)
			for (int i = 0; i < FX_VOCAB; i++)
				worst = fmax(worst, fabs((double)(z[s * FX_VOCAB + i] - want[s][(prompts[s] + k) * FX_VOCAB + (uint32_t)i])));
	}
	print_message("largest difference %.2e of logits up to %.2f\n", worst, (double)zmax);
	assert_true(worst <= tol);
	for (int s = 0; s < 3; s++)
		free(want[s]);
	free(z);
	ql_step_free(step);
	ql_kv_free(&kv, f.m);
	f.dev->ops->table_free(f.dev, table);
	ql_lora_free(lora);
	fx_close(&f);
}

static const struct ql_device_ops *real_ops;
static unsigned losses;

static int counted_loss(struct ql_device *d, struct ql_queue *q, const struct ql_xent *a, struct ql_err *e)
{
	losses++;
	return real_ops->cross_entropy(d, q, a, e);
}

/* While inference comes and goes the CPU takes the loss in slices: more ops, the same bits. */
static void test_loss_in_slices(void **state)
{
	static const char config[] = /* a head that outweighs the layers */
		"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"
		"\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"vocab_size\":1000,\"rms_norm_eps\":1e-5,"
		"\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,\"tie_word_embeddings\":true}";
	const uint32_t lens[] = {90, 3, 60, 80};
	struct ql_device_ops ops;
	struct scratch own;
	struct fx_batch x;
	struct fx f;
	struct ql_lora_set *lora;
	float *g[2];
	double l[2];

	(void)state;
	scratch_open(&own);
	fx_write_config(&own, config);
	fx_open(&f, &own, 2);
	real_ops = f.dev->ops;
	ops = *real_ops;
	ops.cross_entropy = counted_loss;
	f.dev->ops = &ops;
	lora = fx_lora(&f, false);
	fx_batch(&x, lens, 4, 3);
	for (int i = 0; i < 2; i++) {
		g[i] = malloc((size_t)lora->n_params * 4);
		losses = 0;
		l[i] = run(&f, &x.b, lora, QL_KEEP_MAIN, NULL, g[i]);
		if (f.dev->act == QL_F32)
			assert_int_equal(losses, i == 0 ? 1 : (x.b.n_targets + 23) / 24);
		ql_gate_enter(f.m->gate, QL_GATE_INFER); /* somebody is there */
		ql_gate_leave(f.m->gate, QL_GATE_INFER);
	}
	assert_memory_equal(&l[0], &l[1], sizeof l[0]);
	assert_memory_equal(g[0], g[1], (size_t)lora->n_params * 4);
	free(g[0]);
	free(g[1]);
	f.dev->ops = real_ops;
	ql_lora_free(lora);
	fx_close(&f);
	scratch_close(&own);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_zero_adapter_is_base), cmocka_unit_test(test_finite_differences),
		cmocka_unit_test(test_keeps_and_threads_same_bits), cmocka_unit_test(test_packed_is_alone),
		cmocka_unit_test(test_cached_is_full),
	};

	const struct CMUnitTest once[] = {cmocka_unit_test(test_loss_in_slices)};
	int failed = cmocka_run_group_tests(once, NULL, NULL);

	for (which = 0; which < sizeof configs / sizeof configs[0]; which++) {
		print_message("%.60s…\n", configs[which]);
		failed += cmocka_run_group_tests(tests, setup, teardown);
	}
	return failed;
}
