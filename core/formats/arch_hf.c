/* arch_hf.c - config.json → struct ql_arch.
 *
 * Keys we use are read with ranges; keys known to change the maths in some model of the field are listed in neutral_keys
 * with the values that leave it unchanged: any other value is refused by name, except where the family reads the key.
 * Everything else (dates, versions, training settings) is ignored.  Windows and rotary settings: arch_hf_rope.c. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/arch_priv.h"

/* A key may be absent, null or false; also 0, 1 or a word where said. */
static const struct {
	const char *key;
	double number; /* the harmless number; NAN: no number is harmless */
	const char *word;
	unsigned read_by; /* families with one of these flags read the key */
} neutral_keys[] = {
	{"mlp_bias", NAN, NULL, 0},
	{"add_cross_attention", NAN, NULL, 0},
	{"is_encoder_decoder", NAN, NULL, 0},
	{"num_experts", 0, NULL, 0},
	{"num_local_experts", 0, NULL, 0},
	{"n_routed_experts", 0, NULL, 0},
	{"moe_intermediate_size", 0, NULL, 0},
	{"partial_rotary_factor", 1, NULL, 0},
	{"rotary_pct", 1, NULL, 0},
	{"rope_interleaved", NAN, NULL, 0},
	{"no_rope_layers", NAN, NULL, QL_AF_NOPE},
	{"no_rope_layer_interval", 0, NULL, QL_AF_NOPE},
	{"nope_layer_interval", 0, NULL, 0},
	{"attn_logit_softcapping", NAN, NULL, QL_AF_SOFTCAPS},
	{"final_logit_softcapping", NAN, NULL, QL_AF_SOFTCAPS},
	{"query_pre_attn_scalar", NAN, NULL, QL_AF_GEMMA},
	{"attention_multiplier", NAN, NULL, 0},
	{"embedding_multiplier", 1, NULL, 0},
	{"residual_multiplier", 1, NULL, 0},
	{"logits_scaling", 1, NULL, 0},
	{"logit_scale", 1, NULL, 0},
	{"scale_emb", 1, NULL, 0},
	{"scale_depth", NAN, NULL, 0},
	{"dim_model_base", NAN, NULL, 0},
	{"clip_qkv", NAN, NULL, 0},
	{"use_parallel_residual", NAN, NULL, 0},
	{"parallel_attn", NAN, NULL, 0},
	{"use_qk_norm", NAN, NULL, 0},
	{"qk_layernorm", NAN, NULL, 0},
	{"alibi", NAN, NULL, 0},
	{"position_embedding_type", NAN, "absolute", 0},
	{"attention_chunk_size", NAN, NULL, 0},
	{"attn_temperature_tuning", NAN, NULL, 0},
	{"kv_lora_rank", NAN, NULL, 0},
	{"q_lora_rank", NAN, NULL, 0},
	{"num_nextn_predict_layers", 0, NULL, 0},
	{"use_bidirectional_attention", NAN, NULL, 0},
	{"compression_config", NAN, NULL, 0},
};

/* Absent, null, false, {} and [] are harmless everywhere; a number or a word only where the table says so. */
static bool is_neutral(const json_t *v, double number, const char *word)
{
	if (v == NULL || json_is_null(v) || json_is_false(v))
		return true;
	if (json_is_object(v))
		return json_object_size(v) == 0;
	if (json_is_array(v))
		return json_array_size(v) == 0;
	if (json_is_number(v))
		return !isnan(number) && json_number_value(v) >= number && json_number_value(v) <= number;
	return json_is_string(v) && word != NULL && strcmp(json_string_value(v), word) == 0;
}

/* Puts the file's name before the message; returns rc. */
static int in_config(int rc, struct ql_err *e)
{
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "config.json");
	return rc;
}

static int check_neutral(const json_t *cfg, const struct ql_arch_family *f, struct ql_err *e)
{
	for (size_t i = 0; i < sizeof neutral_keys / sizeof neutral_keys[0]; i++) {
		const char *key = neutral_keys[i].key;

		if ((f->flags & neutral_keys[i].read_by) == 0 &&
		    !is_neutral(json_object_get(cfg, key), neutral_keys[i].number, neutral_keys[i].word))
			return ql_err_param(e, QL_EUNSUPPORTED, key, "config.json: '%s' changes the model in a way that is "
					    "not supported", key);
	}
	return QL_OK;
}

/* quantization_config: none, or bitsandbytes' 4 bit. */
static int read_quantization(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	const json_t *q = json_object_get(cfg, "quantization_config");
	const char *method = "";
	int rc;

	if (is_neutral(q, NAN, NULL))
		return QL_OK;
	rc = json_is_object(q) ? ql_json_get_str(q, "quant_method", 1, 64, &method, e)
			       : ql_err_param(e, QL_EINVAL, "quantization_config", "quantization_config is not an object");
	if (rc == QL_OK)
		rc = ql_json_get_bool(q, "load_in_4bit", &a->stored_4bit, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (strcmp(method, "bitsandbytes") != 0 || !a->stored_4bit)
		return ql_err_param(e, QL_EUNSUPPORTED, "quantization_config", "config.json: quantisation by '%s'%s is not supported, "
				    "only bitsandbytes in 4 bit", method, strcmp(method, "bitsandbytes") == 0 ? " in 8 bit" : "");
	return QL_OK;
}

static int get_u32(const json_t *cfg, const char *key, bool required, uint32_t max, uint32_t *out, struct ql_err *e)
{
	const json_t *v = json_object_get(cfg, key);
	int64_t n = *out;
	int rc;

	if ((v == NULL || json_is_null(v)) && required)
		return ql_err_param(e, QL_EINVAL, key, "config.json: '%s' is missing", key);
	rc = ql_json_get_int(cfg, key, 1, max, &n, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	*out = (uint32_t)n;
	return QL_OK;
}

static int find_family(const json_t *cfg, const struct ql_arch_family **out, struct ql_err *e)
{
	const char *type = json_string_value(json_object_get(cfg, "model_type"));
	const char *name = json_string_value(json_array_get(json_object_get(cfg, "architectures"), 0));

	for (int i = 0; i < ql_arch_n_families; i++) {
		const struct ql_arch_family *f = &ql_arch_families[i];

		if (type != NULL && strcmp(type, f->model_type) == 0 && (name == NULL || strcmp(name, f->architecture) == 0)) {
			*out = f;
			return QL_OK;
		}
	}
	return ql_err_param(e, QL_EUNSUPPORTED, "model_type", "config.json: model_type '%.60s' with architecture '%.60s' is "
			    "not supported", type != NULL ? type : "(none)", name != NULL ? name : "(none)");
}

static int read_sizes(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	const struct { const char *key; uint32_t *out; uint32_t max; bool required; } keys[] = {
		{"hidden_size", &a->hidden_size, QL_DIM_MAX, true},
		{"intermediate_size", &a->intermediate_size, QL_DIM_MAX, true},
		{"num_hidden_layers", &a->num_hidden_layers, QL_LAYERS_MAX, true},
		{"num_attention_heads", &a->num_attention_heads, 4096, true},
		{"vocab_size", &a->vocab_size, QL_VOCAB_MAX, true},
		{"num_key_value_heads", &a->num_key_value_heads, 4096, false},
		{"head_dim", &a->head_dim, QL_HEAD_DIM_MAX, false},
		{"max_position_embeddings", &a->max_position_embeddings, QL_CONTEXT_MAX, false},
	};

	a->max_position_embeddings = f->default_context;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		int rc = get_u32(cfg, keys[i].key, keys[i].required, keys[i].max, keys[i].out, e);

		if (rc != QL_OK)
			return rc;
	}
	if (a->num_key_value_heads == 0)
		a->num_key_value_heads = a->num_attention_heads;
	if (a->head_dim == 0 && f->flags & QL_AF_GEMMA)
		a->head_dim = 256; /* its own default */
	if (a->head_dim == 0) {
		if (a->hidden_size % a->num_attention_heads != 0)
			return ql_err_param(e, QL_EINVAL, "head_dim",
					    "config.json: hidden_size %u is no multiple of %u heads, and head_dim is not given",
					    a->hidden_size, a->num_attention_heads);
		a->head_dim = a->hidden_size / a->num_attention_heads;
	}
	return QL_OK;
}

/* The activation, under either of its keys. */
static int read_act(const json_t *cfg, const struct ql_arch *a, struct ql_err *e)
{
	const char *wanted = a->act == QL_ARCH_SILU ? "silu" : "gelu_pytorch_tanh", *act = wanted;
	int rc = ql_json_get_str(cfg, "hidden_act", 1, 64, &act, e);

	if (rc == QL_OK && a->act != QL_ARCH_SILU) {
		act = wanted;
		rc = ql_json_get_str(cfg, "hidden_activation", 1, 64, &act, e);
	}
	if (rc != QL_OK)
		return in_config(rc, e);
	return strcmp(act, wanted) == 0
		       ? QL_OK
		       : ql_err_param(e, QL_EUNSUPPORTED, "hidden_act", "config.json: hidden_act '%s' is not supported", act);
}

/* A number that null switches off and that has a default when absent. */
static int get_cap(const json_t *cfg, const char *key, double absent, double *out, struct ql_err *e)
{
	const json_t *v = json_object_get(cfg, key);

	*out = v == NULL ? absent : 0;
	return v == NULL || json_is_null(v) ? QL_OK : in_config(ql_json_get_num(cfg, key, 1e-3, 1e6, out, e), e);
}

static int read_scores(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	double scalar = f->flags & QL_AF_GEMMA ? 256 : a->head_dim;
	int rc = QL_OK;

	if (f->flags & QL_AF_GEMMA)
		rc = in_config(ql_json_get_num(cfg, "query_pre_attn_scalar", 1e-3, 1e9, &scalar, e), e);
	a->attn_scale = 1 / sqrt(scalar);
	if (rc == QL_OK && f->flags & QL_AF_SOFTCAPS) {
		rc = get_cap(cfg, "attn_logit_softcapping", 50, &a->attn_softcap, e);
		if (rc == QL_OK)
			rc = get_cap(cfg, "final_logit_softcapping", 30, &a->logit_softcap, e);
	}
	return rc;
}

static int read_flags(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	double eps = 1e-6;
	bool bias = false;
	int rc = ql_json_get_num(cfg, "rms_norm_eps", 1e-12, 0.1, &eps, e);

	a->tie_word_embeddings = (f->flags & QL_AF_TIED) != 0;
	a->norm_plus_one = (f->flags & QL_AF_GEMMA) != 0;
	if (rc == QL_OK)
		rc = ql_json_get_bool(cfg, "tie_word_embeddings", &a->tie_word_embeddings, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(cfg, "attention_bias", &bias, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (bias && !(f->flags & QL_AF_BIAS_QKV))
		return ql_err_param(e, QL_EUNSUPPORTED, "attention_bias", "config.json: attention_bias is not supported");
	a->rms_norm_eps = (float)eps;
	rc = read_act(cfg, a, e);
	return rc == QL_OK ? read_scores(cfg, f, a, e) : rc;
}

static int read_eos(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	const json_t *v = json_object_get(cfg, "eos_token_id"), *item;
	size_t i;

	if (v == NULL || json_is_null(v))
		return QL_OK;
	if (json_is_integer(v))
		return ql_arch_add_eos(a, json_integer_value(v), e);
	if (!json_is_array(v))
		return ql_err_param(e, QL_EINVAL, "eos_token_id", "eos_token_id is neither an integer nor a list");
	json_array_foreach(v, i, item) {
		int rc = json_is_integer(item) ? ql_arch_add_eos(a, json_integer_value(item), e)
					       : ql_err_param(e, QL_EINVAL, "eos_token_id", "eos_token_id is not an integer");

		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

static int read_ids(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	int rc;

	a->bos_id = a->pad_id = -1;
	rc = ql_json_get_int(cfg, "bos_token_id", -1, QL_VOCAB_MAX - 1, &a->bos_id, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(cfg, "pad_token_id", -1, QL_VOCAB_MAX - 1, &a->pad_id, e);
	if (rc == QL_OK)
		rc = read_eos(cfg, a, e);
	return in_config(rc, e);
}

int ql_arch_from_config_json(struct ql_arch *a, const char *text, size_t len, struct ql_err *e)
{
	const struct ql_arch_family *f = NULL;
	json_t *cfg = NULL;
	int rc = ql_json_parse(text, len, QL_CONFIG_JSON_MAX, &cfg, e);

	*a = (struct ql_arch){0};
	if (rc != QL_OK)
		return in_config(rc, e);
	if (!json_is_object(cfg))
		rc = ql_err_set(e, QL_EFORMAT, "config.json: not an object");
	if (rc == QL_OK)
		rc = find_family(cfg, &f, e);
	if (rc == QL_OK)
		rc = check_neutral(cfg, f, e);
	if (rc != QL_OK)
		goto cleanup;
	ql_arch_set_family(a, f);
	rc = read_quantization(cfg, a, e);
	if (rc == QL_OK)
		rc = read_sizes(cfg, f, a, e);
	if (rc == QL_OK)
		rc = read_flags(cfg, f, a, e);
	if (rc == QL_OK)
		rc = ql_arch_read_layers(cfg, f, a, e);
	if (rc == QL_OK)
		rc = ql_arch_read_rope(cfg, f, a, e);
	if (rc == QL_OK)
		rc = read_ids(cfg, a, e);
	if (rc == QL_OK)
		rc = ql_arch_check(a, e);
cleanup:
	json_decref(cfg);
	return rc;
}

int ql_arch_add_generation_json(struct ql_arch *a, const char *text, size_t len, struct ql_err *e)
{
	json_t *cfg = NULL;
	int rc = ql_json_parse(text, len, QL_CONFIG_JSON_MAX, &cfg, e);

	if (rc == QL_OK && !json_is_object(cfg))
		rc = ql_err_set(e, QL_EFORMAT, "not an object");
	if (rc == QL_OK)
		rc = read_eos(cfg, a, e);
	if (rc == QL_OK)
		rc = ql_arch_check(a, e);
	json_decref(cfg);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "generation_config.json");
	return rc;
}
