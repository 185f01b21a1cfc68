/* arch.c - the family table, range checks, module shapes and rotary frequencies; see arch.h. */
#include "core/formats/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/formats/arch_priv.h"

#define GEMMA (QL_AF_BIAS_KEY | QL_AF_WINDOW | QL_AF_POST_NORMS | QL_AF_GEMMA | QL_AF_TIED)
/* clang-format off */
const struct ql_arch_family ql_arch_families[] = {
	/* family    model_type     architecture          flags                                         pattern context window theta */
	{"llama",   "llama",       "LlamaForCausalLM",   QL_AF_BIAS_KEY | QL_AF_PERMUTED,                    0,   2048,    0, 1e4},
	{"llama",   "mistral",     "MistralForCausalLM", QL_AF_WINDOW | QL_AF_PERMUTED,                      0, 131072, 4096, 1e4},
	{"qwen2",   "qwen2",       "Qwen2ForCausalLM",   QL_AF_BIAS_QKV | QL_AF_WINDOW_FLAG,                 0,  32768, 4096, 1e4},
	{"qwen3",   "qwen3",       "Qwen3ForCausalLM",   QL_AF_BIAS_KEY | QL_AF_QK_NORM | QL_AF_WINDOW_FLAG, 0,  32768, 4096, 1e4},
	{"smollm3", "smollm3",     "SmolLM3ForCausalLM", QL_AF_BIAS_KEY | QL_AF_NOPE | QL_AF_PERMUTED | QL_AF_TIED,
	                                                                                                      0,  32768,    0, 2e6},
	{"phi3",    "phi3",        "Phi3ForCausalLM",    QL_AF_BIAS_KEY | QL_AF_FUSED | QL_AF_WINDOW,        0,   4096,    0, 1e4},
	{"gemma2",  "gemma2",      "Gemma2ForCausalLM",  GEMMA | QL_AF_SOFTCAPS,                             2,   8192, 4096, 1e4},
	{"gemma3",  "gemma3_text", "Gemma3ForCausalLM",  GEMMA | QL_AF_QK_NORM | QL_AF_LOCAL_ROPE,           6, 131072, 4096, 1e6},
};
/* clang-format on */
const int ql_arch_n_families = sizeof ql_arch_families / sizeof ql_arch_families[0];

static const char *const module_names[QL_MODULES] = {"q_proj",	  "k_proj",  "v_proj",	 "o_proj",
						     "gate_proj", "up_proj", "down_proj"};

void ql_arch_set_family(struct ql_arch *a, const struct ql_arch_family *f)
{
	(void)snprintf(a->family, sizeof a->family, "%s", f->family);
	(void)snprintf(a->model_type, sizeof a->model_type, "%s", f->model_type);
	a->attention_bias_qkv = (f->flags & QL_AF_BIAS_QKV) != 0;
	a->qk_norm = (f->flags & QL_AF_QK_NORM) != 0;
	a->post_norms = (f->flags & QL_AF_POST_NORMS) != 0;
	a->scaled_embeddings = (f->flags & QL_AF_GEMMA) != 0;
	a->act = f->flags & QL_AF_GEMMA ? QL_ARCH_GELU_TANH : QL_ARCH_SILU;
	a->fused = (f->flags & QL_AF_FUSED) != 0;
	a->permuted = (f->flags & QL_AF_PERMUTED) != 0;
}

void ql_arch_set_pattern(struct ql_arch *a, const struct ql_arch_family *f)
{
	for (uint32_t l = 0; a->sliding_window != 0 && l < a->num_hidden_layers && l < QL_LAYERS_MAX; l++)
		if (f->pattern == 0 || (l + 1) % f->pattern != 0)
			a->layer[l] |= QL_LAYER_WINDOW;
}

int ql_arch_add_eos(struct ql_arch *a, int64_t id, struct ql_err *e)
{
	if (id < 0 || id >= QL_VOCAB_MAX)
		return ql_err_param(e, QL_EINVAL, "eos_token_id", "eos token id %lld is out of range", (long long)id);
	for (int i = 0; i < a->n_eos; i++)
		if (a->eos_ids[i] == id)
			return QL_OK;
	if (a->n_eos == QL_EOS_MAX)
		return ql_err_param(e, QL_ELIMIT, "eos_token_id", "more than %d eos token ids", QL_EOS_MAX);
	a->eos_ids[a->n_eos++] = (int32_t)id;
	return QL_OK;
}

const char *ql_module_name(int module) { return module >= 0 && module < QL_MODULES ? module_names[module] : ""; }

int ql_module_of(const char *name)
{
	for (int i = 0; i < QL_MODULES; i++)
		if (strcmp(module_names[i], name) == 0)
			return i;
	return -1;
}

void ql_arch_module_shape(const struct ql_arch *a, int module, uint32_t *out, uint32_t *in)
{
	uint32_t q = a->num_attention_heads * a->head_dim, kv = a->num_key_value_heads * a->head_dim;

	*in = a->hidden_size;
	switch (module) {
	case QL_Q_PROJ: *out = q; break;
	case QL_K_PROJ: case QL_V_PROJ: *out = kv; break;
	case QL_O_PROJ: *out = a->hidden_size; *in = q; break;
	case QL_GATE_PROJ: case QL_UP_PROJ: *out = a->intermediate_size; break;
	default: *out = a->hidden_size; *in = a->intermediate_size; break;
	}
}

static int in_range(const char *key, uint64_t v, uint64_t min, uint64_t max, struct ql_err *e)
{
	if (v >= min && v <= max)
		return QL_OK;
	return ql_err_param(e, QL_EINVAL, key, "model: %s %llu is not between %llu and %llu", key, (unsigned long long)v,
			    (unsigned long long)min, (unsigned long long)max);
}

static int check_numbers(const struct ql_arch *a, struct ql_err *e)
{
	const struct { const char *key; uint64_t v, min, max; } ints[] = {
		{"hidden_size", a->hidden_size, 1, QL_DIM_MAX},
		{"intermediate_size", a->intermediate_size, 1, QL_DIM_MAX},
		{"num_hidden_layers", a->num_hidden_layers, 1, QL_LAYERS_MAX},
		{"num_attention_heads", a->num_attention_heads, 1, 4096},
		{"num_key_value_heads", a->num_key_value_heads, 1, a->num_attention_heads},
		{"head_dim", a->head_dim, 2, QL_HEAD_DIM_MAX},
		{"vocab_size", a->vocab_size, 1, QL_VOCAB_MAX},
		{"max_position_embeddings", a->max_position_embeddings, 1, QL_CONTEXT_MAX},
		{"sliding_window", a->sliding_window, 0, QL_CONTEXT_MAX},
	};

	for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
		int rc = in_range(ints[i].key, ints[i].v, ints[i].min, ints[i].max, e);

		if (rc != QL_OK)
			return rc;
	}
	if (!(a->rms_norm_eps > 0 && a->rms_norm_eps < 0.1f))
		return ql_err_param(e, QL_EINVAL, "rms_norm_eps", "model: rms_norm_eps %g is not between 0 and 0.1",
				    (double)a->rms_norm_eps);
	if (!(a->rope_theta >= 1 && a->rope_theta <= 1e12) || !(a->rope_theta_local >= 0 && a->rope_theta_local <= 1e12))
		return ql_err_param(e, QL_EINVAL, "rope_theta", "model: rope_theta %g is not between 1 and 1e12",
				    a->rope_theta);
	if (!(a->attn_scale >= 1e-6 && a->attn_scale <= 1e3))
		return ql_err_param(e, QL_EINVAL, "query_pre_attn_scalar", "model: attention scores times %g", a->attn_scale);
	if (!(a->attn_softcap >= 0 && a->attn_softcap <= 1e6) || !(a->logit_softcap >= 0 && a->logit_softcap <= 1e6))
		return ql_err_param(e, QL_EINVAL, "final_logit_softcapping", "model: soft caps %g and %g are not between 0 and 1e6",
				    a->attn_softcap, a->logit_softcap);
	return QL_OK;
}

static int check_rope(const struct ql_arch *a, struct ql_err *e)
{
	const struct ql_rope_scaling *r = &a->rope;

	if (r->kind == QL_ROPE_LINEAR || r->kind == QL_ROPE_LLAMA3)
		if (!(r->factor >= 1 && r->factor <= 1e6))
			return ql_err_param(e, QL_EINVAL, "factor", "model: rope factor %g is not between 1 and 1e6",
					    r->factor);
	if (r->kind == QL_ROPE_LLAMA3) {
		if (!(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor && r->high_freq_factor < 1e6))
			return ql_err_param(e, QL_EINVAL, "high_freq_factor",
					    "model: rope low_freq_factor %g and high_freq_factor %g do not fit",
					    r->low_freq_factor, r->high_freq_factor);
		return in_range("original_max_position_embeddings", r->original_max_position, 1, QL_CONTEXT_MAX, e);
	}
	for (uint32_t i = 0; r->kind == QL_ROPE_FACTORS && i < a->head_dim / 2; i++)
		if (!(r->factors[i] >= 1e-3f && r->factors[i] <= 1e6f))
			return ql_err_param(e, QL_EINVAL, "rope_freqs.weight", "model: rope factor %u is %g", i,
					    (double)r->factors[i]);
	return QL_OK;
}

int ql_arch_check(const struct ql_arch *a, struct ql_err *e)
{
	int rc = check_numbers(a, e);

	if (rc == QL_OK)
		rc = check_rope(a, e);
	if (rc != QL_OK)
		return rc;
	if (a->head_dim % 2 != 0)
		return ql_err_param(e, QL_EINVAL, "head_dim", "model: head_dim %u is odd", a->head_dim);
	if (a->num_attention_heads % a->num_key_value_heads != 0)
		return ql_err_param(e, QL_EINVAL, "num_key_value_heads",
				    "model: %u attention heads are no multiple of %u key-value heads",
				    a->num_attention_heads, a->num_key_value_heads);
	if (a->num_attention_heads > QL_DIM_MAX / a->head_dim)
		return ql_err_param(e, QL_EINVAL, "num_attention_heads", "model: %u heads of %u are too many",
				    a->num_attention_heads, a->head_dim);
	if (a->bos_id >= (int64_t)a->vocab_size || a->pad_id >= (int64_t)a->vocab_size)
		return ql_err_param(e, QL_EINVAL, "bos_token_id", "model: bos or pad token id beyond the vocabulary");
	for (int i = 0; i < a->n_eos; i++)
		if ((uint32_t)a->eos_ids[i] >= a->vocab_size)
			return ql_err_param(e, QL_EINVAL, "eos_token_id", "model: eos token id %d beyond the vocabulary",
					    a->eos_ids[i]);
	return QL_OK;
}

/* 1 / theta^(2i/d) as torch forms it: exponent and power in fp32, then the reciprocal. */
static float base_freq(const struct ql_arch *a, double theta, uint32_t i)
{
	float exponent = (float)(2 * i) / (float)a->head_dim;
	float power = (float)pow((double)(float)theta, (double)exponent);

	return 1.0f / power;
}

static double llama3_factor(const struct ql_rope_scaling *r, double freq)
{
	double wavelen = 2 * 3.14159265358979323846 / freq, old = r->original_max_position, t;

	if (wavelen < old / r->high_freq_factor)
		return 1;
	if (wavelen > old / r->low_freq_factor)
		return r->factor;
	t = (old / wavelen - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
	return 1 / ((1 - t) / r->factor + t);
}

void ql_arch_rope_factors(const struct ql_arch *a, float *out)
{
	for (uint32_t i = 0; i < a->head_dim / 2; i++) {
		switch (a->rope.kind) {
		case QL_ROPE_LINEAR: out[i] = (float)a->rope.factor; break;
		case QL_ROPE_LLAMA3: out[i] = (float)llama3_factor(&a->rope, (double)base_freq(a, a->rope_theta, i)); break;
		case QL_ROPE_FACTORS: out[i] = a->rope.factors[i]; break;
		default: out[i] = 1; break;
		}
	}
}

void ql_arch_inv_freq(const struct ql_arch *a, float *out)
{
	ql_arch_rope_factors(a, out);
	for (uint32_t i = 0; i < a->head_dim / 2; i++)
		out[i] = base_freq(a, a->rope_theta, i) / out[i];
}

void ql_arch_inv_freq_local(const struct ql_arch *a, float *out)
{
	for (uint32_t i = 0; i < a->head_dim / 2; i++)
		out[i] = base_freq(a, a->rope_theta_local, i);
}

float ql_arch_embed_scale(const struct ql_arch *a, enum ql_dtype stored)
{
	float s = a->scaled_embeddings ? (float)sqrt((double)a->hidden_size) : 1.0f;

	if (stored == QL_BF16)
		return ql_f32_of_bf16(ql_bf16_of_f32(s));
	return stored == QL_F16 ? ql_f32_of_f16(ql_f16_of_f32(s)) : s;
}
