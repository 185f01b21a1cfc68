/* arch_gguf.c - GGUF metadata → struct ql_arch (keys of llama.cpp's converter, gguf-py constants).
 * Keys below "<architecture>." are an allow-list: one that is not known here is refused by name, because it may change the
 * maths.  llama3 rope scaling has no key: it is the tensor rope_freqs.weight (one divisor per pair). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/formats/arch_priv.h"
#include "core/formats/gguf.h"

/* Keys (after "A.") that are read below or that do not touch the maths; those with flags only in such families. */
static const struct {
	const char *name;
	unsigned flags;
} known_keys[] = {
	{"block_count", 0}, {"context_length", 0}, {"embedding_length", 0}, {"feed_forward_length", 0}, {"vocab_size", 0},
	{"attention.head_count", 0}, {"attention.head_count_kv", 0}, {"attention.key_length", 0}, {"attention.value_length", 0},
	{"attention.layer_norm_rms_epsilon", 0}, {"attention.sliding_window", 0}, {"rope.dimension_count", 0},
	{"rope.freq_base", 0}, {"rope.scaling.type", 0}, {"rope.scaling.factor", 0}, {"rope.scaling.original_context_length", 0},
	{"rope.scaling.finetuned", 0}, {"rope.scale_linear", 0}, {"tensor_data_layout", 0}, {"attention.causal", 0},
	{"expert_count", 0}, {"expert_used_count", 0}, {"attn_logit_softcapping", QL_AF_SOFTCAPS},
	{"final_logit_softcapping", QL_AF_SOFTCAPS}, {"rope.freq_base_swa", QL_AF_LOCAL_ROPE},
	{"attention.sliding_window_pattern", QL_AF_GEMMA}, {"rope.scaling.attn_factor", QL_AF_FUSED},
};

struct reader {
	const struct ql_gguf *g;
	const char *arch;
	const struct ql_arch_family *family;
	struct ql_err *e;
};

static void key_of(const struct reader *r, const char *suffix, char out[static 96])
{
	(void)snprintf(out, 96, "%s.%s", r->arch, suffix);
}

static int get_u32(const struct reader *r, const char *suffix, bool required, uint32_t *out)
{
	char key[96];

	key_of(r, suffix, key);
	return ql_gguf_get_u32(r->g, key, required, out, r->e);
}

static int get_f32(const struct reader *r, const char *suffix, bool required, float *out)
{
	char key[96];

	key_of(r, suffix, key);
	return ql_gguf_get_f32(r->g, key, required, out, r->e);
}

/* A key that must have this value if present. */
static int want_u32(const struct reader *r, const char *suffix, uint32_t value)
{
	uint32_t v = value;
	char key[96];
	int rc = get_u32(r, suffix, false, &v);

	if (rc != QL_OK || v == value)
		return rc;
	key_of(r, suffix, key);
	return ql_err_param(r->e, QL_EUNSUPPORTED, key, "GGUF: %s %u is not supported (only %u)", key, v, value);
}

static int want_bool(const struct reader *r, const char *suffix, bool value)
{
	bool v = value;
	char key[96];
	int rc;

	key_of(r, suffix, key);
	rc = ql_gguf_get_bool(r->g, key, false, &v, r->e);
	if (rc != QL_OK || v == value)
		return rc;
	return ql_err_param(r->e, QL_EUNSUPPORTED, key, "GGUF: %s %s is not supported", key, v ? "true" : "false");
}

static int find_family(const struct ql_gguf *g, const struct ql_arch_family **f, struct ql_err *e)
{
	struct ql_gguf_str arch = {NULL, 0};
	int rc = ql_gguf_get_str(g, "general.architecture", true, &arch, e);

	if (rc != QL_OK)
		return rc;
	for (int i = 0; i < ql_arch_n_families; i++)
		if (strlen(ql_arch_families[i].family) == arch.len &&
		    memcmp(ql_arch_families[i].family, arch.s, arch.len) == 0) {
			*f = &ql_arch_families[i]; /* the first row of a family stands for it */
			return QL_OK;
		}
	return ql_err_param(e, QL_EUNSUPPORTED, "general.architecture", "GGUF: architecture '%.*s' is not supported",
			    (int)(arch.len < 60 ? arch.len : 60), arch.s);
}

static int check_keys(const struct reader *r)
{
	size_t len = strlen(r->arch), n = sizeof known_keys / sizeof known_keys[0];

	for (size_t i = 0; i < ql_gguf_kv_count(r->g); i++) {
		const char *key = ql_gguf_kv_at(r->g, i)->key;
		size_t k = 0;

		if (strncmp(key, r->arch, len) != 0 || key[len] != '.')
			continue;
		while (k < n && (strcmp(known_keys[k].name, key + len + 1) != 0 ||
				 (known_keys[k].flags != 0 && (known_keys[k].flags & r->family->flags) == 0)))
			k++;
		if (k == n)
			return ql_err_param(r->e, QL_EUNSUPPORTED, key, "GGUF: key %.200s is not supported", key);
	}
	return QL_OK;
}

static int read_sizes(const struct reader *r, struct ql_arch *a)
{
	uint32_t value_length, rot;
	int rc = get_u32(r, "block_count", true, &a->num_hidden_layers);

	if (rc == QL_OK)
		rc = get_u32(r, "context_length", true, &a->max_position_embeddings);
	if (rc == QL_OK)
		rc = get_u32(r, "embedding_length", true, &a->hidden_size);
	if (rc == QL_OK)
		rc = get_u32(r, "feed_forward_length", true, &a->intermediate_size);
	if (rc == QL_OK)
		rc = get_u32(r, "attention.head_count", true, &a->num_attention_heads);
	a->num_key_value_heads = a->num_attention_heads;
	if (rc == QL_OK)
		rc = get_u32(r, "attention.head_count_kv", false, &a->num_key_value_heads);
	if (rc != QL_OK)
		return rc;
	if (a->num_attention_heads == 0)
		return ql_err_param(r->e, QL_EINVAL, "attention.head_count", "GGUF: %s.attention.head_count is 0", r->arch);
	a->head_dim = 0;
	rc = get_u32(r, "attention.key_length", false, &a->head_dim);
	if (rc == QL_OK && a->head_dim == 0) {
		if (a->hidden_size % a->num_attention_heads != 0)
			return ql_err_param(r->e, QL_EINVAL, "embedding_length",
					    "GGUF: embedding length %u is no multiple of %u heads", a->hidden_size,
					    a->num_attention_heads);
		a->head_dim = a->hidden_size / a->num_attention_heads;
	}
	value_length = rot = a->head_dim;
	if (rc == QL_OK)
		rc = get_u32(r, "attention.value_length", false, &value_length);
	if (rc == QL_OK)
		rc = get_u32(r, "rope.dimension_count", false, &rot);
	if (rc != QL_OK)
		return rc;
	if (value_length != a->head_dim || rot != a->head_dim)
		return ql_err_param(r->e, QL_EUNSUPPORTED, "attention.key_length",
				    "GGUF: key length %u, value length %u and rotary dimension %u differ", a->head_dim,
				    value_length, rot);
	return QL_OK;
}

/* Windows; and what llama.cpp derives instead of storing: the layers without rotary embedding are every fourth of smollm3,
 * and gemma's scores are scaled by head_dim^-1/2 except in the 27B sizes (46 and 62 layers), by (hidden / heads)^-1/2. */
static int read_layers(const struct reader *r, struct ql_arch *a)
{
	const struct ql_arch_family *f = r->family;
	bool big = a->num_hidden_layers == (f->flags & QL_AF_SOFTCAPS ? 46 : 62);
	struct ql_arch_family pattern = *f;
	float attn = 0, final = 0;
	int rc;

	a->sliding_window = f->flags & QL_AF_GEMMA ? f->default_window : 0;
	rc = get_u32(r, "attention.sliding_window", false, &a->sliding_window);
	if (rc == QL_OK && f->flags & QL_AF_GEMMA)
		rc = get_u32(r, "attention.sliding_window_pattern", false, &pattern.pattern);
	ql_arch_set_pattern(a, &pattern);
	for (uint32_t l = 3; f->flags & QL_AF_NOPE && l < a->num_hidden_layers && l < QL_LAYERS_MAX; l += 4)
		a->layer[l] |= QL_LAYER_NOPE;
	a->attn_scale = f->flags & QL_AF_GEMMA && big ? sqrt((double)a->num_attention_heads / a->hidden_size)
						      : 1 / sqrt((double)a->head_dim);
	if (f->flags & QL_AF_SOFTCAPS) {
		attn = 50;
		final = 30;
		if (rc == QL_OK)
			rc = get_f32(r, "attn_logit_softcapping", false, &attn);
		if (rc == QL_OK)
			rc = get_f32(r, "final_logit_softcapping", false, &final);
	}
	a->attn_softcap = (double)attn;
	a->logit_softcap = (double)final;
	return rc;
}

static int read_rope_freqs(const struct reader *r, struct ql_arch *a)
{
	const struct ql_gguf_tensor *t = ql_gguf_tensor_find(r->g, "rope_freqs.weight");
	bool neutral = true;

	if (t == NULL)
		return QL_OK;
	if (t->dtype != QL_F32 || a->head_dim > QL_HEAD_DIM_MAX || t->n != a->head_dim / 2)
		return ql_err_param(r->e, QL_ESHAPE, "rope_freqs.weight", "GGUF: rope_freqs.weight is not f32 [%u]",
				    a->head_dim / 2);
	memcpy(a->rope.factors, t->data, t->bytes);
	for (uint64_t i = 0; i < t->n; i++)
		neutral = neutral && a->rope.factors[i] >= 1 && a->rope.factors[i] <= 1;
	if (a->rope.kind == QL_ROPE_LINEAR)
		return neutral ? QL_OK
			       : ql_err_param(r->e, QL_EUNSUPPORTED, "rope_freqs.weight",
					      "GGUF: both linear rope scaling and rope_freqs.weight");
	a->rope.kind = QL_ROPE_FACTORS;
	return QL_OK;
}

static int read_rope(const struct reader *r, struct ql_arch *a)
{
	struct ql_gguf_str type = {"none", 4};
	float base = 10000, factor = 1, local = 10000, attn_factor = 1;
	char key[96];
	int rc = get_f32(r, "rope.freq_base", false, &base);

	key_of(r, "rope.scaling.type", key);
	if (rc == QL_OK)
		rc = ql_gguf_get_str(r->g, key, false, &type, r->e);
	if (rc == QL_OK)
		rc = get_f32(r, "rope.scale_linear", false, &factor);
	if (rc == QL_OK)
		rc = get_f32(r, "rope.scaling.factor", false, &factor);
	if (rc == QL_OK)
		rc = get_f32(r, "rope.freq_base_swa", false, &local);
	if (rc == QL_OK)
		rc = get_f32(r, "rope.scaling.attn_factor", false, &attn_factor);
	if (rc != QL_OK)
		return rc;
	if (attn_factor < 1 || attn_factor > 1)
		return ql_err_param(r->e, QL_EUNSUPPORTED, "rope.scaling.attn_factor",
				    "GGUF: rope scaling with attention factor %g is not supported", (double)attn_factor);
	a->rope_theta = (double)base;
	a->rope_theta_local = r->family->flags & QL_AF_LOCAL_ROPE ? (double)local : 0;
	if (type.len == 6 && memcmp(type.s, "linear", 6) == 0) {
		a->rope.kind = QL_ROPE_LINEAR;
		a->rope.factor = (double)factor;
	} else if (type.len != 4 || memcmp(type.s, "none", 4) != 0) {
		return ql_err_param(r->e, QL_EUNSUPPORTED, key, "GGUF: rope scaling '%.*s' is not supported",
				    (int)(type.len < 60 ? type.len : 60), type.s);
	} else if (factor < 1 || factor > 1) {
		return ql_err_param(r->e, QL_EUNSUPPORTED, key, "GGUF: rope scaling factor without rope scaling type");
	}
	return read_rope_freqs(r, a);
}

static int read_vocab(const struct reader *r, struct ql_arch *a)
{
	const struct ql_gguf_tensor *t = ql_gguf_tensor_find(r->g, "token_embd.weight");
	const struct ql_gguf_kv *tokens = ql_gguf_kv_find(r->g, "tokenizer.ggml.tokens");
	uint32_t declared;
	int rc;

	if (t == NULL || t->n_dims != 2)
		return ql_err_param(r->e, QL_ENOTFOUND, "token_embd.weight", "GGUF: no tensor token_embd.weight of 2 dimensions");
	if (t->ne[1] > QL_VOCAB_MAX)
		return ql_err_param(r->e, QL_ELIMIT, "token_embd.weight", "GGUF: vocabulary of %llu tokens",
				    (unsigned long long)t->ne[1]);
	declared = a->vocab_size = (uint32_t)t->ne[1];
	rc = get_u32(r, "vocab_size", false, &declared);
	if (rc != QL_OK)
		return rc;
	if (declared != a->vocab_size || (tokens != NULL && tokens->count != a->vocab_size))
		return ql_err_param(r->e, QL_EMISMATCH, "token_embd.weight",
				    "GGUF: %u embedding rows, %s.vocab_size %u, %llu tokens", a->vocab_size, r->arch, declared,
				    (unsigned long long)(tokens != NULL ? tokens->count : a->vocab_size));
	a->tie_word_embeddings = ql_gguf_tensor_find(r->g, "output.weight") == NULL;
	return QL_OK;
}

static int read_ids(const struct reader *r, struct ql_arch *a)
{
	static const char *const stops[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
					    "tokenizer.ggml.eom_token_id"};
	uint32_t id = UINT32_MAX;
	int rc = ql_gguf_get_u32(r->g, "tokenizer.ggml.bos_token_id", false, &id, r->e);

	a->bos_id = id == UINT32_MAX ? -1 : (int64_t)id;
	id = UINT32_MAX;
	if (rc == QL_OK)
		rc = ql_gguf_get_u32(r->g, "tokenizer.ggml.padding_token_id", false, &id, r->e);
	a->pad_id = id == UINT32_MAX ? -1 : (int64_t)id;
	for (size_t i = 0; rc == QL_OK && i < sizeof stops / sizeof stops[0]; i++) {
		id = UINT32_MAX;
		rc = ql_gguf_get_u32(r->g, stops[i], false, &id, r->e);
		if (rc == QL_OK && id != UINT32_MAX)
			rc = ql_arch_add_eos(a, id, r->e);
	}
	return rc;
}

/* Things that would change the maths. */
static int check_neutral(const struct reader *r)
{
	int rc = check_keys(r);

	if (rc == QL_OK)
		rc = want_u32(r, "expert_count", 0);
	if (rc == QL_OK)
		rc = want_u32(r, "expert_used_count", 0);
	if (rc == QL_OK)
		rc = want_bool(r, "attention.causal", true);
	return rc;
}

int ql_arch_from_gguf(struct ql_arch *a, const struct ql_gguf *g, struct ql_err *e)
{
	const struct ql_arch_family *f = NULL;
	struct reader r = {g, NULL, NULL, e};
	uint32_t parts = 1;
	int rc;

	*a = (struct ql_arch){.bos_id = -1, .pad_id = -1};
	rc = find_family(g, &f, e);
	if (rc == QL_OK)
		rc = ql_gguf_get_u32(g, "split.count", false, &parts, e);
	if (rc != QL_OK)
		return rc;
	if (parts > 1)
		return ql_err_param(e, QL_EUNSUPPORTED, "split.count", "GGUF: files split into parts are not supported; join "
				    "the %u parts first", parts);
	r.arch = f->family;
	r.family = f;
	ql_arch_set_family(a, f);
	rc = check_neutral(&r);
	if (rc == QL_OK)
		rc = read_sizes(&r, a);
	if (rc == QL_OK)
		rc = read_layers(&r, a);
	if (rc == QL_OK)
		rc = get_f32(&r, "attention.layer_norm_rms_epsilon", true, &a->rms_norm_eps);
	if (rc == QL_OK)
		rc = read_rope(&r, a);
	if (rc == QL_OK)
		rc = read_vocab(&r, a);
	if (rc == QL_OK)
		rc = read_ids(&r, a);
	return rc == QL_OK ? ql_arch_check(a, e) : rc;
}
