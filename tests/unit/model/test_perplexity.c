/* test_perplexity.c - a model loaded with the weights its files have, and perplexity by hand: windows, BOS, the scored half. */
#include "tests/unit/model/fixture.h"

#include "core/model/perplexity.h"

#define SIZES                                                                                                                  \
	"\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":3,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
	"\"vocab_size\":48,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":256,\"bos_token_id\":1,\"eos_token_id\":2,"
static const char *const configs[] = {
	FX_CONFIG,
	"{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\"," SIZES "\"head_dim\":32}",
	"{\"architectures\":[\"Phi3ForCausalLM\"],\"model_type\":\"phi3\"," SIZES "\"sliding_window\":null}", /* fused tensors */
};
#define N 150

static int32_t ids[N];

static void open_stored(struct fx *f, const struct scratch *s)
{
	struct ql_model_opts o = {.as_stored = true, .cache_dir = -1};
	struct ql_err e = {0};

	assert_int_equal(ql_source_open(&f->source, s->path, &e), QL_OK);
	assert_int_equal(ql_device_cpu(&f->dev, 2, &e), QL_OK);
	if (ql_model_load(&f->m, f->dev, f->source, &o, &e) != QL_OK)
		fail_msg("%s", e.message);
}

/* Logits of one sequence, [n, FX_VOCAB]. */
static void logits(struct fx *f, const int32_t *seq, uint32_t n, float *z)
{
	static const uint32_t none[QL_GROUPS] = {0};
	int32_t positions[N], cu[2] = {0, (int32_t)n};
	struct ql_batch b = {.n_tokens = n, .n_seqs = 1, .ids = seq, .positions = positions, .cu_seqlens = cu};
	struct ql_pass *p;

	for (uint32_t i = 0; i < n; i++)
		positions[i] = (int32_t)i;
	assert_int_equal(ql_pass_new(&p, f->m, none, n, QL_KEEP_ALL, false, NULL), QL_OK);
	ql_gate_enter(f->m->gate, QL_GATE_TRAIN);
	assert_int_equal(ql_pass_logits(p, &b, NULL, z, NULL), QL_OK);
	ql_gate_leave(f->m->gate, QL_GATE_TRAIN);
	ql_pass_free(p);
}

/* The rule of perplexity.h with nothing but logits. */
static double by_hand(struct fx *f, uint32_t context, uint32_t windows, int32_t bos)
{
	static float z[N * FX_VOCAB];
	double sum = 0;
	uint32_t count = 0;

	for (uint32_t w = 0; w < windows; w++) {
		int32_t seq[N];

		memcpy(seq, ids + w * context, context * sizeof *seq);
		if (bos >= 0)
			seq[0] = bos;
		logits(f, seq, context, z);
		for (uint32_t i = context / 2; i + 1 < context; i++, count++) {
			const float *row = z + i * FX_VOCAB;
			double all = 0;

			for (int v = 0; v < FX_VOCAB; v++)
				all += exp((double)row[v]);
			sum += log(all) - (double)row[seq[i + 1]];
		}
	}
	return exp(sum / count);
}

static int count_calls(void *ctx, uint64_t done, uint64_t all, double perplexity)
{
	int *calls = ctx;

	assert_true(done == (uint64_t)++*calls && done <= all && perplexity > 1);
	return 0;
}

static void check_figures(struct fx *f)
{
	static const struct {
		uint32_t context, max, windows;
		int32_t bos;
	} cases[] = {{16, 0, 9, -1}, {16, 2, 2, -1}, {50, 0, 3, 1}, {7, 4, 4, 1}, {N, 0, 1, -1}};
	struct ql_err e = {0};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int calls = 0;
		struct ql_perplexity_opts o = {.context = cases[i].context, .max_windows = cases[i].max, .bos = cases[i].bos,
					       .progress = count_calls, .progress_ctx = &calls};
		struct ql_perplexity r;
		double want = by_hand(f, cases[i].context, cases[i].windows, cases[i].bos);

		assert_int_equal(ql_perplexity_run(f->m, ids, N, &o, &r, &e), QL_OK);
		assert_int_equal(r.windows, cases[i].windows);
		assert_int_equal(r.scored, cases[i].windows * (cases[i].context - 1 - cases[i].context / 2));
		assert_int_equal(calls, cases[i].windows);
		assert_true(fabs(r.perplexity / want - 1) < 1e-5);
		assert_true(r.std_error > 0 && r.std_error < r.perplexity);
	}
}

static void figures(void **state)
{
	(void)state;
	for (size_t c = 0; c < sizeof configs / sizeof configs[0]; c++) {
		struct ql_perplexity_opts o = {.context = N + 1, .bos = -1};
		struct ql_perplexity r;
		struct scratch s;
		struct ql_err e;
		struct fx f;

		scratch_open(&s);
		fx_write_config(&s, configs[c]);
		open_stored(&f, &s);
		check_figures(&f);
		assert_int_equal(ql_perplexity_run(f.m, ids, N, &o, &r, &e), QL_EINVAL); /* shorter than one window */
		o.context = 257;
		assert_int_equal(ql_perplexity_run(f.m, ids, N, &o, &r, &e), QL_EINVAL); /* longer than the model's context */
		fx_close(&f);
		scratch_close(&s);
	}
}

/* The dequantised weights of a 4-bit model in a directory of their own: as_stored must compute what the 4-bit model does. */
static void write_dequantised(const struct fx *f, const struct scratch *to)
{
	size_t n = ql_arch_tensor_count(&f->m->arch), due;
	struct ql_arch_tensor t[64];
	struct ql_st_spec specs[64];
	struct ql_st_writer *w;

	assert_true(n <= 64);
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(&f->m->arch, i, &t[i]);
		specs[i] = (struct ql_st_spec){t[i].hf, QL_F32, t[i].n_dims, {t[i].n_dims == 2 ? t[i].rows : t[i].cols, t[i].cols}};
	}
	assert_int_equal(ql_st_write_begin(&w, to->fd, "model.safetensors", specs, n, NULL), QL_OK);
	while ((due = ql_st_write_next(w)) < n) {
		size_t count = (size_t)t[due].rows * t[due].cols;
		float *v = malloc(count * sizeof *v);

		assert_non_null(v);
		assert_int_equal(ql_model_read_f32(f->m, t[due].hf, 0, t[due].rows, v, NULL), QL_OK);
		assert_int_equal(ql_st_write_data(w, v, count * sizeof *v, NULL), QL_OK);
		free(v);
	}
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
}

static void stored_weights(void **state)
{
	static float a[N * FX_VOCAB], b[N * FX_VOCAB], c[N * FX_VOCAB];

	(void)state;
	for (size_t k = 0; k < 2; k++) { /* the families whose tensors are not fused */
		struct scratch s, d;
		struct fx four, stored, source;
		float top = 0, off = 0, other = 0;

		scratch_open(&s);
		scratch_open(&d);
		fx_write_config(&s, configs[k]);
		scratch_write(&d, "config.json", configs[k], strlen(configs[k]));
		fx_open(&four, &s, 2);
		write_dequantised(&four, &d);
		open_stored(&stored, &d);
		open_stored(&source, &s);
		logits(&four, ids, N, a);
		logits(&stored, ids, N, b);
		logits(&source, ids, N, c);
		for (int i = 0; i < N * FX_VOCAB; i++) {
			top = fmaxf(top, fabsf(a[i]));
			off = fmaxf(off, fabsf(a[i] - b[i]));
			other = fmaxf(other, fabsf(a[i] - c[i]));
		}
		assert_true(off <= 1e-4f * top);
		assert_true(other > 100 * off); /* the original weights are others */
		fx_close(&source);
		fx_close(&stored);
		fx_close(&four);
		scratch_close(&d);
		scratch_close(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(figures), cmocka_unit_test(stored_weights)};

	for (int i = 0; i < N; i++)
		ids[i] = (int32_t)(((unsigned)i * 2654435761u >> 8) % FX_VOCAB);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
