/* arch_hf.c - config.json → struct ql_arch.
 *
 * Keys we use are read with ranges; keys known to change the maths in some model of the field are listed in neutral_keys
 * with the values that leave it unchanged: any other value is refused by name.  Everything else (dates, versions, training
 * settings) is ignored.  Both spellings of the rotary settings are read: rope_theta + rope_scaling, and rope_parameters. */
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
} neutral_keys[] = {
	{"mlp_bias", NAN, NULL},
	{"add_cross_attention", NAN, NULL},
	{"is_encoder_decoder", NAN, NULL},
	{"num_experts", 0, NULL},
	{"num_local_experts", 0, NULL},
	{"n_routed_experts", 0, NULL},
	{"moe_intermediate_size", 0, NULL},
	{"partial_rotary_factor", 1, NULL},
	{"rotary_pct", 1, NULL},
	{"rope_interleaved", NAN, NULL},
	{"no_rope_layers", NAN, NULL},
	{"no_rope_layer_interval", 0, NULL},
	{"nope_layer_interval", 0, NULL},
	{"attn_logit_softcapping", NAN, NULL},
	{"final_logit_softcapping", NAN, NULL},
	{"query_pre_attn_scalar", NAN, NULL},
	{"attention_multiplier", NAN, NULL},
	{"embedding_multiplier", 1, NULL},
	{"residual_multiplier", 1, NULL},
	{"logits_scaling", 1, NULL},
	{"logit_scale", 1, NULL},
	{"scale_emb", 1, NULL},
	{"scale_depth", NAN, NULL},
	{"dim_model_base", NAN, NULL},
	{"clip_qkv", NAN, NULL},
	{"use_parallel_residual", NAN, NULL},
	{"parallel_attn", NAN, NULL},
	{"use_qk_norm", NAN, NULL},
	{"qk_layernorm", NAN, NULL},
	{"alibi", NAN, NULL},
	{"position_embedding_type", NAN, "absolute"},
	{"attention_chunk_size", NAN, NULL},
	{"attn_temperature_tuning", NAN, NULL},
	{"kv_lora_rank", NAN, NULL},
	{"q_lora_rank", NAN, NULL},
	{"num_nextn_predict_layers", 0, NULL},
	{"quantization_config", NAN, NULL},
	{"compression_config", NAN, NULL},
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

static int check_neutral(const json_t *cfg, struct ql_err *e)
{
	for (size_t i = 0; i < sizeof neutral_keys / sizeof neutral_keys[0]; i++) {
		const char *key = neutral_keys[i].key;

		if (!is_neutral(json_object_get(cfg, key), neutral_keys[i].number, neutral_keys[i].word))
			return ql_err_param(e, QL_EUNSUPPORTED, key, "config.json: '%s' changes the model in a way that is "
					    "not supported", key);
	}
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

static int read_sizes(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	const struct { const char *key; uint32_t *out; uint32_t max; bool required; } keys[] = {
		{"hidden_size", &a->hidden_size, QL_DIM_MAX, true},
		{"intermediate_size", &a->intermediate_size, QL_DIM_MAX, true},
		{"num_hidden_layers", &a->num_hidden_layers, QL_LAYERS_MAX, true},
		{"num_attention_heads", &a->num_attention_heads, 4096, true},
		{"vocab_size", &a->vocab_size, QL_VOCAB_MAX, true},
		{"num_key_value_heads", &a->num_key_value_heads, 4096, false},
		{"head_dim", &a->head_dim, QL_HEAD_DIM_MAX, false},
		{"max_position_embeddings", &a->max_position_declared, QL_CONTEXT_MAX, false},
	};

	a->max_position_declared = 2048;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		int rc = get_u32(cfg, keys[i].key, keys[i].required, keys[i].max, keys[i].out, e);

		if (rc != QL_OK)
			return rc;
	}
	if (a->num_key_value_heads == 0)
		a->num_key_value_heads = a->num_attention_heads;
	if (a->head_dim == 0) {
		if (a->hidden_size % a->num_attention_heads != 0)
			return ql_err_param(e, QL_EINVAL, "head_dim", "config.json: hidden_size %u is no multiple of %u heads",
					    a->hidden_size, a->num_attention_heads);
		a->head_dim = a->hidden_size / a->num_attention_heads;
	}
	a->max_position_embeddings = a->max_position_declared;
	return QL_OK;
}

static int read_flags(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	const char *act = "silu";
	double eps = 1e-6;
	bool bias = false;
	int rc = ql_json_get_num(cfg, "rms_norm_eps", 1e-12, 0.1, &eps, e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(cfg, "tie_word_embeddings", &a->tie_word_embeddings, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(cfg, "attention_bias", &bias, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(cfg, "hidden_act", 1, 64, &act, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (strcmp(act, "silu") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "hidden_act", "config.json: hidden_act '%s' is not supported", act);
	if (bias && !f->bias_qkv)
		return ql_err_param(e, QL_EUNSUPPORTED, "attention_bias", "config.json: attention_bias is not supported");
	a->rms_norm_eps = (float)eps;
	return QL_OK;
}

/* Sliding windows: the usable context is cut to the window, inside which full attention is the same thing. */
static int read_window(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	const json_t *types = json_object_get(cfg, "layer_types"), *v;
	bool use = f->window_always, sliding = false;
	uint32_t window = 0;
	size_t i;
	int rc = get_u32(cfg, "sliding_window", false, QL_CONTEXT_MAX, &window, e);

	if (rc == QL_OK && f->window_flag)
		rc = ql_json_get_bool(cfg, "use_sliding_window", &use, e);
	if (rc != QL_OK)
		return rc;
	if (types != NULL && !json_is_null(types) && !json_is_array(types))
		return ql_err_param(e, QL_EINVAL, "layer_types", "config.json: layer_types is not a list");
	json_array_foreach(types, i, v) {
		const char *s = json_string_value(v);

		if (s != NULL && strcmp(s, "sliding_attention") == 0)
			sliding = true;
		else if (s == NULL || strcmp(s, "full_attention") != 0)
			return ql_err_param(e, QL_EUNSUPPORTED, "layer_types", "config.json: layer type '%.40s' is not supported",
					    s != NULL ? s : "");
	}
	if (sliding && window == 0)
		return ql_err_param(e, QL_EINVAL, "sliding_window", "config.json: sliding layers without sliding_window");
	if (window == 0 || !(use || sliding))
		return QL_OK;
	a->sliding_window = window;
	if (window < a->max_position_embeddings)
		a->max_position_embeddings = window;
	return QL_OK;
}

static int read_llama3(const json_t *cfg, const json_t *obj, struct ql_arch *a, struct ql_err *e)
{
	struct ql_rope_scaling *r = &a->rope;
	uint32_t old = a->max_position_declared;
	int rc = ql_json_get_num(obj, "low_freq_factor", 1e-6, 1e6, &r->low_freq_factor, e);

	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "high_freq_factor", 1e-6, 1e6, &r->high_freq_factor, e);
	if (rc == QL_OK)
		rc = get_u32(obj, "original_max_position_embeddings", false, QL_CONTEXT_MAX, &old, e);
	if (rc == QL_OK) /* the top level wins, as in transformers */
		rc = get_u32(cfg, "original_max_position_embeddings", false, QL_CONTEXT_MAX, &old, e);
	if (rc != QL_OK)
		return rc;
	if (!(r->low_freq_factor > 0) || !(r->high_freq_factor > 0))
		return ql_err_param(e, QL_EINVAL, "low_freq_factor",
				    "config.json: llama3 rope scaling needs low_freq_factor and high_freq_factor");
	r->original_max_position = old;
	r->kind = QL_ROPE_LLAMA3;
	return QL_OK;
}

/* One object of rotary settings: rope_scaling or rope_parameters. */
static int read_rope_object(const json_t *cfg, const json_t *obj, struct ql_arch *a, struct ql_err *e)
{
	const char *type = NULL;
	const json_t *v = json_object_get(obj, "full_attention");
	double partial = 1;
	int rc;

	if (!json_is_object(obj))
		return ql_err_param(e, QL_EINVAL, "rope_scaling", "config.json: rotary settings are not an object");
	if (v != NULL) { /* nested per layer type: one type only */
		if (json_object_size(obj) != 1)
			return ql_err_param(e, QL_EUNSUPPORTED, "rope_parameters",
					    "config.json: rotary settings that differ between layers are not supported");
		return json_object_get(v, "full_attention") != NULL
			       ? ql_err_param(e, QL_EINVAL, "rope_parameters", "config.json: nested rotary settings")
			       : read_rope_object(cfg, v, a, e);
	}
	rc = ql_json_get_str(obj, "type", 1, 32, &type, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(obj, "rope_type", 1, 32, &type, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "rope_theta", 1, 1e12, &a->rope_theta, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "factor", 1, 1e6, &a->rope.factor, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "partial_rotary_factor", 1, 1, &partial, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (type == NULL || strcmp(type, "default") == 0)
		return QL_OK;
	if (strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "rope_type", "config.json: rope type '%s' is not supported", type);
	if (!(a->rope.factor >= 1))
		return ql_err_param(e, QL_EINVAL, "factor", "config.json: rope type '%s' needs a factor", type);
	if (strcmp(type, "llama3") == 0)
		return read_llama3(cfg, obj, a, e);
	a->rope.kind = QL_ROPE_LINEAR;
	return QL_OK;
}

static int read_rope(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	const json_t *scaling = json_object_get(cfg, "rope_scaling"), *params = json_object_get(cfg, "rope_parameters");
	int rc;

	a->rope_theta = 10000;
	rc = ql_json_get_num(cfg, "rope_theta", 1, 1e12, &a->rope_theta, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (scaling != NULL && !json_is_null(scaling))
		rc = read_rope_object(cfg, scaling, a, e);
	if (rc == QL_OK && params != NULL && !json_is_null(params)) {
		a->rope = (struct ql_rope_scaling){0};
		rc = read_rope_object(cfg, params, a, e);
	}
	return rc;
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
		rc = check_neutral(cfg, e);
	if (rc != QL_OK)
		goto cleanup;
	ql_arch_set_family(a, f);
	rc = read_sizes(cfg, a, e);
	if (rc == QL_OK)
		rc = read_flags(cfg, f, a, e);
	if (rc == QL_OK)
		rc = read_window(cfg, f, a, e);
	if (rc == QL_OK)
		rc = read_rope(cfg, a, e);
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
