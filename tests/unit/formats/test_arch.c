/* test_arch.c - config.json and GGUF metadata → struct ql_arch: tables of good and refused inputs, RoPE, tensor lists. */
#include <math.h>

#include "tests/unit/formats/tiny.h"

static int parse(struct ql_arch *a, const char *text, struct ql_err *e)
{
	*e = (struct ql_err){0};
	return ql_arch_from_config_json(a, text, strlen(text), e);
}

static void llama_config(void **state)
{
	struct ql_arch a = tiny_arch();
	uint32_t out, in;

	(void)state;
	assert_string_equal(a.family, "llama");
	assert_int_equal(a.head_dim, 16);
	assert_int_equal(a.num_key_value_heads, 2);
	assert_true(a.tie_word_embeddings);
	assert_int_equal(a.n_eos, 1);
	assert_int_equal(a.eos_ids[0], 2);
	assert_int_equal(a.bos_id, 1);
	assert_int_equal(a.pad_id, -1);
	assert_true(a.rope_theta >= 10000 && a.rope_theta <= 10000);
	ql_arch_module_shape(&a, QL_K_PROJ, &out, &in);
	assert_int_equal(out, 32);
	assert_int_equal(in, 64);
	ql_arch_module_shape(&a, QL_DOWN_PROJ, &out, &in);
	assert_int_equal(out, 64);
	assert_int_equal(in, 96);
	for (int m = 0; m < QL_MODULES; m++)
		assert_int_equal(ql_module_of(ql_module_name(m)), m);
	assert_int_equal(ql_module_of("lm_head"), -1);
}

#define C TINY_CONFIG_HEAD

static void refused_keys(void **state)
{
	static const struct { const char *text, *param; int code; } cases[] = {
		{"", "", QL_EFORMAT},
		{"[]", "", QL_EFORMAT},
		{"{}", "model_type", QL_EUNSUPPORTED},
		{"{\"model_type\":\"mamba\",\"architectures\":[\"Mamba\"]}", "model_type", QL_EUNSUPPORTED},
		{"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"]}", "hidden_size", QL_EINVAL},
		{"{\"model_type\":\"llama\",\"architectures\":[\"LlamaForSequenceClassification\"]}", "model_type", QL_EUNSUPPORTED},
		{C ",\"hidden_act\":\"gelu\"}", "hidden_act", QL_EUNSUPPORTED},
		{C ",\"attention_bias\":true}", "attention_bias", QL_EUNSUPPORTED},
		{C ",\"mlp_bias\":true}", "mlp_bias", QL_EUNSUPPORTED},
		{C ",\"num_experts\":8}", "num_experts", QL_EUNSUPPORTED},
		{C ",\"final_logit_softcapping\":30.0}", "final_logit_softcapping", QL_EUNSUPPORTED},
		{C ",\"embedding_multiplier\":12}", "embedding_multiplier", QL_EUNSUPPORTED},
		{C ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor", QL_EUNSUPPORTED},
		{C ",\"no_rope_layers\":[1,0]}", "no_rope_layers", QL_EUNSUPPORTED},
		{C ",\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantization_config", QL_EUNSUPPORTED},
		{C ",\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}", "rope_type", QL_EUNSUPPORTED},
		{C ",\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":4}}", "rope_type", QL_EUNSUPPORTED},
		{C ",\"rope_scaling\":{\"type\":\"linear\"}}", "factor", QL_EINVAL},
		{C ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8}}", "low_freq_factor", QL_EINVAL},
		{C ",\"rope_scaling\":7}", "rope_scaling", QL_EINVAL},
		{C ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}}", "rope_parameters", QL_EUNSUPPORTED},
		{C ",\"rope_theta\":0}", "rope_theta", QL_EINVAL},
		{C ",\"head_dim\":15}", "head_dim", QL_EINVAL},
		{C ",\"head_dim\":1024}", "head_dim", QL_EINVAL},
		{C ",\"layer_types\":[\"linear_attention\",\"full_attention\"]}", "layer_types", QL_EUNSUPPORTED},
		{C ",\"layer_types\":[\"sliding_attention\",\"full_attention\"]}", "sliding_window", QL_EINVAL},
		{C ",\"layer_types\":[\"full_attention\"]}", "layer_types", QL_EINVAL},
		{C ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", "rope_type", QL_EUNSUPPORTED},
		{C ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":4}}", "rope_type", QL_EUNSUPPORTED},
		{C ",\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1],\"long_factor\":[1]}}", "rope_type", QL_EUNSUPPORTED},
		{C ",\"no_rope_layers\":[1,0]}", "no_rope_layers", QL_EUNSUPPORTED},
		{C ",\"attn_logit_softcapping\":50.0}", "attn_logit_softcapping", QL_EUNSUPPORTED},
		{C ",\"pad_token_id\":32}", "bos_token_id", QL_EINVAL},
		{"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"
		 "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":3,\"vocab_size\":32}",
		 "num_key_value_heads", QL_EINVAL},
		{"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":96,"
		 "\"num_hidden_layers\":1025,\"num_attention_heads\":4,\"vocab_size\":32}", "num_hidden_layers", QL_EINVAL},
		{"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":65,\"intermediate_size\":96,"
		 "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":32}", "head_dim", QL_EINVAL},
		{"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":64.0,\"intermediate_size\":96,"
		 "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"vocab_size\":32}", "hidden_size", QL_EINVAL},
	};
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = parse(&a, cases[i].text, &e);

		if (rc != cases[i].code || strcmp(e.param, cases[i].param) != 0)
			fail_msg("case %zu %s: code %d, param '%s': %s", i, cases[i].text, rc, e.param, e.message);
	}
}

static void accepted_keys(void **state)
{
	static const char *const cases[] = {
		C ",\"head_dim\":null,\"rope_scaling\":null,\"sliding_window\":null,\"quantization_config\":null}",
		C ",\"num_experts\":0,\"partial_rotary_factor\":1.0,\"rope_interleaved\":false,\"mlp_bias\":false}",
		C ",\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":10000.0}}",
		C ",\"layer_types\":[\"full_attention\",\"full_attention\"],\"transformers.js_config\":{\"kv\":1}}",
	};
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (parse(&a, cases[i], &e) != QL_OK)
			fail_msg("%s: %s", cases[i], e.message);
	assert_int_equal(parse(&a, C ",\"head_dim\":32}", &e), QL_OK);
	assert_int_equal(a.head_dim, 32);
	assert_int_equal(parse(&a, C ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2.0}}", &e), QL_OK);
	assert_int_equal(a.rope.kind, QL_ROPE_LINEAR);
	assert_int_equal(parse(&a, C ",\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"linear\",\"rope_theta\":5e5,"
				     "\"factor\":4.0}}}", &e), QL_OK);
	assert_true(a.rope_theta > 499999 && a.rope.factor > 3.9);
}

static void families(void **state)
{
	static const char rest[] = "\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
				   "\"vocab_size\":32,\"max_position_embeddings\":128";
	char text[1024];
	struct ql_arch_tensor t;
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	(void)snprintf(text, sizeof text, "{\"architectures\":[\"MistralForCausalLM\"],\"model_type\":\"mistral\",%s,"
		       "\"sliding_window\":48}", rest);
	assert_int_equal(parse(&a, text, &e), QL_OK);
	assert_string_equal(a.family, "llama");
	assert_string_equal(a.model_type, "mistral");
	assert_int_equal(a.max_position_embeddings, 128);
	assert_int_equal(a.sliding_window, 48);
	assert_true(a.layer[0] == QL_LAYER_WINDOW && a.layer[1] == QL_LAYER_WINDOW);
	(void)snprintf(text, sizeof text, "{\"architectures\":[\"Qwen2ForCausalLM\"],\"model_type\":\"qwen2\",%s,"
		       "\"sliding_window\":48,\"use_sliding_window\":false,\"eos_token_id\":[3,4,3]}", rest);
	assert_int_equal(parse(&a, text, &e), QL_OK);
	assert_true(a.attention_bias_qkv && !a.qk_norm);
	assert_int_equal(a.sliding_window, 0);
	assert_int_equal(a.n_eos, 2);
	assert_int_equal(ql_arch_tensor_count(&a), 1 + 2 * 12 + 2);
	assert_int_equal(ql_arch_add_generation_json(&a, "{\"eos_token_id\":[4,5]}", 22, &e), QL_OK);
	assert_int_equal(a.n_eos, 3);
	(void)snprintf(text, sizeof text, "{\"architectures\":[\"Qwen3ForCausalLM\"],\"model_type\":\"qwen3\",%s,\"head_dim\":32}", rest);
	assert_int_equal(parse(&a, text, &e), QL_OK);
	assert_true(!a.attention_bias_qkv && a.qk_norm);
	ql_arch_tensor_at(&a, ql_arch_tensor_index_hf(&a, "model.layers.1.self_attn.k_norm.weight"), &t);
	assert_int_equal(t.cols, 32);
	assert_string_equal(t.gguf, "blk.1.attn_k_norm.weight");
}

static bool near(double a, double b, double rel) { return fabs(a - b) <= rel * fabs(b); }

#define REST                                                                                                                      \
	"\"hidden_size\":64,\"intermediate_size\":96,\"num_hidden_layers\":7,\"num_attention_heads\":4,\"num_key_value_heads\":2," \
	"\"vocab_size\":32"
#define CONFIG(arch, type, more) "{\"architectures\":[\"" arch "\"],\"model_type\":\"" type "\"," REST more "}"

/* What the newer families add, and their own defaults. */
static void families_more(void **state)
{
	static const char *const refused[] = {
		CONFIG("Gemma2ForCausalLM", "gemma2", ",\"hidden_activation\":\"gelu\""),
		CONFIG("Gemma2ForCausalLM", "gemma2", ",\"use_bidirectional_attention\":true"),
		CONFIG("Gemma2ForCausalLM", "gemma2", ",\"query_pre_attn_scalar\":0"),
		CONFIG("Gemma3ForCausalLM", "gemma3_text", ",\"attn_logit_softcapping\":50.0"),
		CONFIG("Gemma3ForCausalLM", "gemma3_text",
		       ",\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"linear\",\"factor\":2}}"),
		CONFIG("Gemma2ForCausalLM", "gemma2", ",\"rope_parameters\":{\"full_attention\":{},\"sliding_attention\":{}}"),
		CONFIG("Phi3ForCausalLM", "phi3", ",\"rope_scaling\":{\"type\":\"su\",\"short_factor\":[1],\"long_factor\":[1]}"),
		CONFIG("Phi3ForCausalLM", "phi3", ",\"partial_rotary_factor\":0.75"),
		CONFIG("SmolLM3ForCausalLM", "smollm3", ",\"no_rope_layers\":[1,1]"),
		CONFIG("Gemma3ForConditionalGeneration", "gemma3", ""),
	};
	float local[128];
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	assert_int_equal(parse(&a, CONFIG("Gemma2ForCausalLM", "gemma2", ",\"sliding_window\":16,\"final_logit_softcapping\":null"), &e),
			 QL_OK);
	assert_true(a.norm_plus_one && a.post_norms && a.scaled_embeddings && a.tie_word_embeddings && !a.qk_norm);
	assert_int_equal(a.act, QL_ARCH_GELU_TANH);
	assert_int_equal(a.head_dim, 256);
	assert_true(near(a.attn_scale, 1 / 16.0, 1e-9) && near(a.attn_softcap, 50, 1e-9) && !(a.logit_softcap > 0));
	for (int l = 0; l < 7; l++)
		assert_int_equal(a.layer[l], l % 2 == 0 ? QL_LAYER_WINDOW : 0);
	assert_true(near((double)ql_arch_embed_scale(&a, QL_F32), 8, 1e-9));
	a.hidden_size = 2048; /* √2048 = 45.2548 is 45.25 in bf16 */
	assert_true(near((double)ql_arch_embed_scale(&a, QL_BF16), 45.25, 1e-9));
	assert_int_equal(parse(&a, CONFIG("Gemma3ForCausalLM", "gemma3_text", ",\"head_dim\":16,\"rope_scaling\":{\"rope_type\":\"linear\","
					  "\"factor\":8.0},\"rope_local_base_freq\":100"), &e), QL_OK);
	assert_true(a.qk_norm && a.rope.kind == QL_ROPE_LINEAR && near(a.rope_theta, 1e6, 1e-9));
	for (int l = 0; l < 7; l++)
		assert_int_equal(a.layer[l], l == 5 ? 0 : QL_LAYER_WINDOW);
	ql_arch_inv_freq_local(&a, local);
	assert_true(near((double)local[4], 0.1, 1e-6)); /* its own base, no scaling */
	assert_int_equal(parse(&a, CONFIG("SmolLM3ForCausalLM", "smollm3", ""), &e), QL_OK);
	assert_true(a.layer[3] == QL_LAYER_NOPE && a.layer[2] == 0 && near(a.rope_theta, 2e6, 1e-9));
	assert_int_equal(parse(&a, CONFIG("Phi3ForCausalLM", "phi3", ",\"sliding_window\":20"), &e), QL_OK);
	assert_true(a.fused && a.layer[0] == QL_LAYER_WINDOW && a.sliding_window == 20);
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
		if (parse(&a, refused[i], &e) >= 0)
			fail_msg("accepted: %s", refused[i]);
}

/* Fused tensors: each part is listed alone, files name the whole. */
static void fused_tensors(void **state)
{
	struct ql_arch a;
	struct ql_arch_tensor t;
	struct ql_err e;
	size_t i, whole = 0;

	(void)state;
	assert_int_equal(parse(&a, CONFIG("Phi3ForCausalLM", "phi3", ""), &e), QL_OK);
	i = ql_arch_file_index_gguf(&a, "blk.6.attn_qkv.weight");
	assert_int_equal(i, ql_arch_file_index_hf(&a, "model.layers.6.self_attn.qkv_proj.weight"));
	assert_true(i != SIZE_MAX);
	for (uint32_t p = 0, row = 0; p < 3; p++, row += t.rows) {
		ql_arch_tensor_at(&a, i + p, &t);
		assert_int_equal(t.module, QL_Q_PROJ + (int)p);
		assert_int_equal(t.file_part, p);
		assert_int_equal(t.file_parts, 3);
		assert_int_equal(t.file_row, row);
		assert_int_equal(t.file_rows, 64 + 32 + 32);
		assert_string_equal(t.file_hf, "model.layers.6.self_attn.qkv_proj.weight");
	}
	ql_arch_tensor_at(&a, ql_arch_file_index_gguf(&a, "blk.0.ffn_up.weight") + 1, &t);
	assert_string_equal(t.hf, "model.layers.0.mlp.up_proj.weight");
	assert_int_equal(t.file_row, 96);
	assert_true(ql_arch_file_index_hf(&a, "model.layers.0.mlp.up_proj.weight") == SIZE_MAX); /* no file has it alone */
	assert_true(ql_arch_tensor_index_hf(&a, "model.layers.0.mlp.up_proj.weight") != SIZE_MAX);
	for (i = 0; i < ql_arch_tensor_count(&a); i++) {
		ql_arch_tensor_at(&a, i, &t);
		assert_int_equal(ql_arch_file_index_hf(&a, t.file_hf), i - t.file_part);
		assert_int_equal(ql_arch_file_index_gguf(&a, t.file_gguf), i - t.file_part);
		whole += t.file_part == 0;
	}
	assert_int_equal(whole, 1 + 7 * 6 + 2);
}

static void tensor_list(void **state)
{
	static const char *const unknown[] = {"lm_head.weight", "model.layers.2.mlp.up_proj.weight", "model.layers.01.mlp.up_proj.weight",
					      "model.layers..mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias", "",
					      "model.layers.99999999999.mlp.up_proj.weight"};
	struct ql_arch a = tiny_arch();
	struct ql_arch_tensor t;
	size_t n = ql_arch_tensor_count(&a);

	(void)state;
	assert_int_equal(n, 1 + 2 * 9 + 1);
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(&a, i, &t);
		assert_int_equal(ql_arch_tensor_index_hf(&a, t.hf), i);
		assert_int_equal(ql_arch_tensor_index_gguf(&a, t.gguf), i);
	}
	for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
		assert_true(ql_arch_tensor_index_hf(&a, unknown[i]) == SIZE_MAX);
	ql_arch_tensor_at(&a, ql_arch_tensor_index_gguf(&a, "blk.1.attn_k.weight"), &t);
	assert_string_equal(t.hf, "model.layers.1.self_attn.k_proj.weight");
	assert_int_equal(t.rows, 32);
	assert_int_equal(t.cols, 64);
	assert_int_equal(t.layer, 1);
	assert_int_equal(t.module, QL_K_PROJ);
	assert_int_equal(t.permute, QL_PERMUTE_K);
	for (uint64_t r = 0; r < 64; r++)
		assert_int_equal(ql_arch_gguf_row(16, ql_arch_hf_row(16, r)), r);
	assert_int_equal(ql_arch_hf_row(16, 16 + 1), 16 + 8); /* row 2i + 1 of a head is row i + hd/2 */
}

/* Llama 3.1: 29 frequencies kept, 6 between, 29 divided by 8; the middle factors of numerics.md. */
static void rope_llama3(void **state)
{
	static const double middle[] = {1.207484, 1.553415, 2.026313, 2.694530, 3.684253, 5.257327};
	struct ql_arch a = tiny_arch();
	float factor[64], freq[64];

	(void)state;
	a.head_dim = 128;
	a.rope_theta = 500000;
	a.rope = (struct ql_rope_scaling){.kind = QL_ROPE_LLAMA3, .factor = 8, .low_freq_factor = 1, .high_freq_factor = 4,
					  .original_max_position = 8192};
	ql_arch_rope_factors(&a, factor);
	ql_arch_inv_freq(&a, freq);
	for (int i = 0; i < 64; i++) {
		double want = i < 29 ? 1 : i < 35 ? middle[i - 29] : 8;

		assert_true(near((double)factor[i], want, 1e-6));
		assert_true(near((double)freq[i], pow(500000, -i / 64.0) / want, 1e-6));
	}
}

static void rope_kinds(void **state)
{
	struct ql_arch a = tiny_arch();
	float f[8];

	(void)state;
	ql_arch_inv_freq(&a, f);
	assert_true(f[0] >= 1 && f[0] <= 1);
	assert_true(near((double)f[4], 0.01, 1e-6));
	a.rope.kind = QL_ROPE_LINEAR;
	a.rope.factor = 4;
	ql_arch_inv_freq(&a, f);
	assert_true(near((double)f[4], 0.0025, 1e-6));
	a.rope.kind = QL_ROPE_FACTORS;
	for (int i = 0; i < 8; i++)
		a.rope.factors[i] = 2;
	ql_arch_inv_freq(&a, f);
	assert_true(near((double)f[4], 0.005, 1e-6));
}

/* GGUF metadata with one key more, or one tensor more. */
static int gguf_arch(struct ql_arch *a, const char *key, uint32_t value, const char *text, const float *factors, struct ql_err *e)
{
	static const uint64_t embd[] = {64, 32}, pairs[] = {8};
	static const uint8_t zeros[64 * 32 * 4];
	struct ql_gguf_writer *w;
	struct scratch s;
	struct ql_gguf *g;
	int rc;

	scratch_open(&s);
	assert_int_equal(ql_gguf_write_new(&w, NULL), QL_OK);
	tiny_gguf_keys(w);
	if (key != NULL)
		assert_int_equal(text != NULL ? ql_gguf_write_str(w, key, text, strlen(text), NULL)
					      : ql_gguf_write_u32(w, key, value, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_tensor(w, "token_embd.weight", QL_F32, 2, embd, NULL), QL_OK);
	if (factors != NULL)
		assert_int_equal(ql_gguf_write_tensor(w, "rope_freqs.weight", QL_F32, 1, pairs, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_begin(w, s.fd, "g", NULL), QL_OK);
	assert_int_equal(ql_gguf_write_data(w, zeros, sizeof zeros, NULL), QL_OK);
	if (factors != NULL)
		assert_int_equal(ql_gguf_write_data(w, factors, 32, NULL), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, NULL), QL_OK);
	assert_int_equal(ql_gguf_open_at(&g, s.fd, "g", NULL), QL_OK);
	*e = (struct ql_err){0};
	rc = ql_arch_from_gguf(a, g, e);
	ql_gguf_close(g);
	scratch_close(&s);
	return rc;
}

static void gguf_metadata(void **state)
{
	static const struct { const char *key; uint32_t value; const char *text; int code; } cases[] = {
		{"llama.expert_count", 8, NULL, QL_EUNSUPPORTED},
		{"llama.expert_count", 0, NULL, QL_OK},
		{"llama.logit_scale", 8, NULL, QL_EUNSUPPORTED},
		{"llama.attention.key_length", 32, NULL, QL_OK},
		{"llama.attention.value_length", 16, NULL, QL_OK},
		{"llama.attention.value_length", 32, NULL, QL_EUNSUPPORTED},
		{"llama.rope.dimension_count", 8, NULL, QL_EUNSUPPORTED},
		{"llama.rope.scaling.type", 0, "yarn", QL_EUNSUPPORTED},
		{"llama.rope.scaling.type", 0, "none", QL_OK},
		{"llama.rope.freq_base", 1, NULL, QL_EFORMAT},
		{"split.count", 3, NULL, QL_EUNSUPPORTED},
		{"split.count", 1, NULL, QL_OK},
		{"tokenizer.ggml.eot_token_id", 40, NULL, QL_EINVAL},
		{"tokenizer.ggml.eot_token_id", 31, NULL, QL_OK},
	};
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = gguf_arch(&a, cases[i].key, cases[i].value, cases[i].text, NULL, &e);

		if (strcmp(cases[i].key, "llama.attention.key_length") == 0) { /* sets the head size alone */
			assert_int_equal(rc, QL_OK);
			assert_int_equal(a.head_dim, 32);
			continue;
		}
		if (rc != cases[i].code)
			fail_msg("%s: code %d: %s", cases[i].key, rc, e.message);
	}
	assert_int_equal(a.n_eos, 2);
	assert_int_equal(gguf_arch(&a, NULL, 0, NULL, NULL, &e), QL_OK);
	assert_true(a.tie_word_embeddings);
	assert_int_equal(a.vocab_size, 32);
	assert_int_equal(a.max_position_embeddings, 128);
}

static void gguf_rope_factors(void **state)
{
	float factors[8] = {1, 1, 1, 2, 2, 8, 8, 8}, freq[8];
	struct ql_arch a;
	struct ql_err e;

	(void)state;
	assert_int_equal(gguf_arch(&a, NULL, 0, NULL, factors, &e), QL_OK);
	assert_int_equal(a.rope.kind, QL_ROPE_FACTORS);
	ql_arch_inv_freq(&a, freq);
	assert_true(near((double)freq[4], 0.005, 1e-6));
	factors[3] = NAN;
	assert_int_equal(gguf_arch(&a, NULL, 0, NULL, factors, &e), QL_EINVAL);
	factors[3] = 0;
	assert_int_equal(gguf_arch(&a, NULL, 0, NULL, factors, &e), QL_EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(llama_config), cmocka_unit_test(refused_keys), cmocka_unit_test(accepted_keys),
		cmocka_unit_test(families),	cmocka_unit_test(tensor_list),	cmocka_unit_test(rope_llama3),
		cmocka_unit_test(families_more), cmocka_unit_test(fused_tensors),
		cmocka_unit_test(rope_kinds),	cmocka_unit_test(gguf_metadata), cmocka_unit_test(gguf_rope_factors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
