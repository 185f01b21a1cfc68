/* test_mutations.c - bases with some bytes changed: refused, or loaded and run; never more.  QL_MUTATIONS: how many of each kind. */
#include "core/formats/gguf.h"
#include "core/quant/blk.h"
#include "tests/unit/model/fixture.h"

#define TOKENS 5

static int no_sync(const struct ql_io *io, int fd)
{
	(void)io, (void)fd;
	return 0;
}

/* One forward pass over whatever was loaded. */
static bool run(struct ql_device *dev, const char *path)
{
	static const uint32_t none[QL_GROUPS];
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT, .cache_dir = -1};
	int32_t ids[TOKENS] = {0}, positions[TOKENS] = {0, 1, 2, 3, 4}, cu[2] = {0, TOKENS};
	struct ql_batch b = {.n_tokens = TOKENS, .n_seqs = 1, .ids = ids, .positions = positions, .cu_seqlens = cu};
	struct ql_source *source = NULL;
	struct ql_model *m = NULL;
	struct ql_pass *p = NULL;
	struct ql_err e = {0};
	float *logits = NULL;
	int rc = ql_source_open(&source, path, &e);

	if (rc == QL_OK)
		rc = ql_model_load(&m, dev, source, &o, &e);
	if (rc == QL_OK)
		rc = ql_pass_new(&p, m, none, TOKENS, QL_KEEP_INPUT, false, &e);
	if (rc == QL_OK) {
		for (uint32_t i = 0; i < TOKENS; i++)
			ids[i] = (int32_t)((i * 7 + 1) % m->arch.vocab_size);
		logits = malloc((size_t)TOKENS * m->arch.vocab_size * sizeof *logits);
		ql_gate_enter(m->gate, QL_GATE_TRAIN);
		rc = ql_pass_logits(p, &b, NULL, logits, &e);
		ql_gate_leave(m->gate, QL_GATE_TRAIN);
	}
	assert_true(rc == QL_OK || e.message[0] != '\0');
	free(logits);
	ql_pass_free(p);
	ql_model_free(m);
	ql_source_close(source);
	return rc == QL_OK;
}

/* Changes among the first `head` bytes of dir/file, each tried by opening `path`. */
static long mutate(struct ql_device *dev, const struct scratch *s, const char *file, const char *path, size_t head, uint64_t seed)
{
	const char *many = getenv("QL_MUTATIONS");
	long rounds = many != NULL ? strtol(many, NULL, 10) : 100, accepted = 0;
	size_t len;
	uint8_t *data = scratch_read(s, file, &len), *copy = malloc(len);

	head = head < len ? head : len;
	for (long r = 0; r < rounds; r++) {
		memcpy(copy, data, len);
		for (long c = 0; c <= r % 3; c++) {
			size_t at;

			seed = seed * 6364136223846793005u + 1442695040888963407u;
			at = (size_t)(seed >> 33) % head;
			copy[at] = (seed >> 20 & 3) == 0 ? (uint8_t)(copy[at] + 1) : (uint8_t)(seed >> 22);
		}
		scratch_write(s, file, copy, len);
		accepted += run(dev, path);
	}
	scratch_write(s, file, data, len);
	free(copy);
	free(data);
	return accepted;
}

/* The model of the directory as a GGUF file with all of its numbers in the header. */
static void write_gguf(const struct scratch *s)
{
	struct ql_source *source;
	struct ql_gguf_writer *w;
	struct ql_gguf_str tokens[FX_VOCAB];
	char text[FX_VOCAB][8];
	float v[96 * 96];
	int rc = ql_source_open(&source, s->path, NULL);
	const struct ql_arch *a = ql_source_arch(source);
	const struct { const char *key; uint32_t v; } numbers[] = {
		{"llama.block_count", a->num_hidden_layers}, {"llama.context_length", 256}, {"llama.embedding_length", a->hidden_size},
		{"llama.feed_forward_length", a->intermediate_size}, {"llama.attention.head_count", a->num_attention_heads},
		{"llama.attention.head_count_kv", a->num_key_value_heads}, {"llama.vocab_size", a->vocab_size},
		{"llama.attention.key_length", a->head_dim}, {"llama.rope.dimension_count", a->head_dim},
		{"tokenizer.ggml.bos_token_id", 1}, {"tokenizer.ggml.eos_token_id", 2}};
	struct ql_arch_tensor t;

	rc |= ql_gguf_write_new(&w, NULL);
	rc |= ql_gguf_write_str(w, "general.architecture", "llama", 5, NULL);
	for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
		rc |= ql_gguf_write_u32(w, numbers[i].key, numbers[i].v, NULL);
	rc |= ql_gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f, NULL);
	rc |= ql_gguf_write_f32(w, "llama.rope.freq_base", 1e4f, NULL);
	for (int i = 0; i < FX_VOCAB; i++)
		tokens[i] = (struct ql_gguf_str){text[i], (size_t)snprintf(text[i], sizeof text[i], "t%d", i)};
	rc |= ql_gguf_write_strs(w, "tokenizer.ggml.tokens", tokens, FX_VOCAB, NULL);
	for (int pass = 0; pass < 2; pass++) {
		for (size_t i = 0; i < ql_arch_tensor_count(a); i++) {
			enum ql_dtype type;
			uint64_t ne[2];
			struct ql_source_tensor st;

			ql_arch_tensor_at(a, i, &t);
			type = t.module >= 0 && t.cols % 32 == 0 && i % 2 == 0 ? QL_Q8_0 : QL_F32;
			ne[0] = t.cols;
			ne[1] = t.rows;
			if (pass == 0) {
				rc |= ql_gguf_write_tensor(w, t.gguf, type, t.n_dims, ne, NULL);
				continue;
			}
			rc |= ql_source_find(source, t.hf, &st, NULL);
			rc |= ql_source_read_f32(source, &st, 0, st.rows, v, NULL);
			if (type == QL_Q8_0) {
				uint8_t q[96 * 96 / 32 * 34];

				rc |= ql_blk_quantize(type, v, st.rows, st.cols, NULL, q, NULL, NULL);
				rc |= ql_gguf_write_data(w, q, ql_dtype_bytes(type, st.n), NULL);
			} else {
				rc |= ql_gguf_write_data(w, v, (size_t)st.n * 4, NULL);
			}
		}
		if (pass == 0)
			rc |= ql_gguf_write_begin(w, s->fd, "m.gguf", NULL);
	}
	rc |= ql_gguf_write_commit(w, NULL);
	ql_source_close(source);
	assert_int_equal(rc, QL_OK);
}

static void test_bases(void **state)
{
	struct ql_io quick = ql_io_real;
	struct ql_device *dev;
	struct scratch s;
	char path[128];
	long accepted[4];

	(void)state;
	quick.sync = no_sync;
	ql_io_install(&quick);
	scratch_open(&s);
	fx_write(&s);
	write_gguf(&s);
	(void)snprintf(path, sizeof path, "%s/m.gguf", s.path);
	assert_int_equal(ql_device_cpu(&dev, 1, NULL), QL_OK);
	assert_true(run(dev, path) && run(dev, s.path));
	accepted[0] = mutate(dev, &s, "m.gguf", path, 5000, 1);
	accepted[1] = mutate(dev, &s, "m.gguf", path, 700, 2); /* the model's numbers */
	accepted[2] = mutate(dev, &s, "config.json", s.path, 5000, 3);
	accepted[3] = mutate(dev, &s, "model.safetensors", s.path, 5000, 4);
	print_message("accepted: %ld %ld %ld %ld\n", accepted[0], accepted[1], accepted[2], accepted[3]);
	assert_true(accepted[0] > 0 && accepted[1] > 0 && accepted[2] > 0);
	dev->ops->close(dev);
	scratch_close(&s);
	ql_io_install(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_bases)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
