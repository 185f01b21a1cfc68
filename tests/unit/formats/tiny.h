/* tiny.h - a tiny llama model with known weights, as a GGUF file and as a Hugging Face directory. */
#ifndef QL_TESTS_TINY_H
#define QL_TESTS_TINY_H

#include "core/formats/arch.h"
#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "tests/unit/scratch.h"

#define TINY_CONFIG_HEAD "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64," \
	"\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
	"\"vocab_size\":32,\"rms_norm_eps\":1e-5,\"max_position_embeddings\":128,\"bos_token_id\":1,\"eos_token_id\":2"
#define TINY_CONFIG TINY_CONFIG_HEAD ",\"tie_word_embeddings\":true}"

static inline struct ql_arch tiny_arch(void)
{
	struct ql_arch a;
	struct ql_err e = {0};

	if (ql_arch_from_config_json(&a, TINY_CONFIG, strlen(TINY_CONFIG), &e) != QL_OK)
		fail_msg("%s", e.message);
	return a;
}

/* Weight of tensor i at HF row r, column c: exact in bf16 and f16. */
static inline float tiny_value(size_t i, uint64_t r, uint64_t c)
{
	return (float)((int)((i * 37 + r * 11 + c * 5) % 127) - 63) / 64.0f;
}

/* Rows in GGUF order when `permute`. */
static inline float *tiny_rows(const struct ql_arch *a, size_t i, const struct ql_arch_tensor *t, bool permute)
{
	float *p = malloc((size_t)t->rows * t->cols * sizeof *p);

	assert_non_null(p);
	for (uint64_t r = 0; r < t->rows; r++) {
		uint64_t hf = permute ? ql_arch_hf_row(a->head_dim, r) : r;

		for (uint64_t c = 0; c < t->cols; c++)
			p[r * t->cols + c] = tiny_value(i, hf, c);
	}
	return p;
}

static inline void tiny_gguf_keys(struct ql_gguf_writer *w)
{
	static const char *const words[32] = {"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p",
					      "q", "r", "s", "t", "u", "v", "w", "x", "y", "z", "0", "1", "2", "3", "4", "5"};
	struct ql_gguf_str tokens[32];
	int rc = ql_gguf_write_str(w, "general.architecture", "llama", 5, NULL);

	for (int i = 0; i < 32; i++)
		tokens[i] = (struct ql_gguf_str){words[i], 1};
	rc |= ql_gguf_write_str(w, "general.name", "Tiny", 4, NULL);
	rc |= ql_gguf_write_u32(w, "general.file_type", 0, NULL);
	rc |= ql_gguf_write_u32(w, "llama.block_count", 2, NULL);
	rc |= ql_gguf_write_u32(w, "llama.context_length", 128, NULL);
	rc |= ql_gguf_write_u32(w, "llama.embedding_length", 64, NULL);
	rc |= ql_gguf_write_u32(w, "llama.feed_forward_length", 96, NULL);
	rc |= ql_gguf_write_u32(w, "llama.attention.head_count", 4, NULL);
	rc |= ql_gguf_write_u32(w, "llama.attention.head_count_kv", 2, NULL);
	rc |= ql_gguf_write_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f, NULL);
	rc |= ql_gguf_write_u32(w, "llama.vocab_size", 32, NULL);
	rc |= ql_gguf_write_str(w, "tokenizer.ggml.model", "gpt2", 4, NULL);
	rc |= ql_gguf_write_strs(w, "tokenizer.ggml.tokens", tokens, 32, NULL);
	rc |= ql_gguf_write_u32(w, "tokenizer.ggml.bos_token_id", 1, NULL);
	rc |= ql_gguf_write_u32(w, "tokenizer.ggml.eos_token_id", 2, NULL);
	rc |= ql_gguf_write_str(w, "tokenizer.chat_template", "{{ messages }}", 14, NULL);
	assert_int_equal(rc, QL_OK);
}

/* All tensors as f32. */
static inline void tiny_gguf(const struct scratch *s, const char *file)
{
	struct ql_arch a = tiny_arch();
	struct ql_gguf_writer *w;
	struct ql_arch_tensor t;

	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	tiny_gguf_keys(w);
	for (size_t i = 0; i < ql_arch_tensor_count(&a); i++) {
		uint64_t ne[2];

		ql_arch_tensor_at(&a, i, &t);
		ne[0] = t.cols;
		ne[1] = t.rows;
		assert_int_equal(ql_gguf_write_tensor(w, t.gguf, QL_F32, t.n_dims, ne, NULL), QL_OK);
	}
	assert_int_equal(ql_gguf_write_begin(w, s->fd, file, NULL), QL_OK);
	for (size_t i = 0; i < ql_arch_tensor_count(&a); i++) {
		float *p;

		ql_arch_tensor_at(&a, i, &t);
		p = tiny_rows(&a, i, &t, t.permute != QL_PERMUTE_NONE);
		assert_int_equal(ql_gguf_write_data(w, p, (size_t)t.rows * t.cols * 4, NULL), QL_OK);
		free(p);
	}
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
}

/* Tensors [from, to) as bf16; `broken` (or SIZE_MAX) gets a NaN in its last element. */
static inline void tiny_shard(const struct scratch *s, const char *file, size_t from, size_t to, size_t broken)
{
	struct ql_arch a = tiny_arch();
	struct ql_arch_tensor t[32];
	struct ql_st_spec specs[32];
	struct ql_st_writer *w;
	size_t k;

	for (size_t i = from; i < to; i++) {
		ql_arch_tensor_at(&a, i, &t[i - from]);
		specs[i - from] = (struct ql_st_spec){t[i - from].hf, QL_BF16, t[i - from].n_dims, {t[i - from].rows, t[i - from].cols}};
		if (t[i - from].n_dims == 1)
			specs[i - from].shape[0] = t[i - from].cols;
	}
	assert_int_equal(ql_st_write_begin(&w, s->fd, file, specs, to - from, NULL), QL_OK);
	while ((k = ql_st_write_next(w)) < to - from) {
		size_t n = (size_t)t[k].rows * t[k].cols;
		float *p = tiny_rows(&a, from + k, &t[k], false);
		uint16_t *h = malloc(n * 2);

		assert_non_null(h);
		for (size_t i = 0; i < n; i++)
			h[i] = ql_bf16_of_f32(p[i]);
		if (from + k == broken)
			h[n - 1] = 0x7fc0;
		assert_int_equal(ql_st_write_data(w, h, n * 2, NULL), QL_OK);
		free(p);
		free(h);
	}
	assert_int_equal(ql_st_write_commit(w, NULL), QL_OK);
}

/* The directory with one weight file. */
static inline void tiny_hf(const struct scratch *s)
{
	struct ql_arch a = tiny_arch();

	scratch_write(s, "config.json", TINY_CONFIG, strlen(TINY_CONFIG));
	tiny_shard(s, "model.safetensors", 0, ql_arch_tensor_count(&a), SIZE_MAX);
}

#endif
