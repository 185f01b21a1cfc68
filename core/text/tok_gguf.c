/* tok_gguf.c - struct ql_tok_spec from the tokenizer.ggml.* keys of a GGUF file. */
#include <stdlib.h>
#include <string.h>

#include "core/formats/gguf.h"
#include "core/text/tok_priv.h"

struct keys {
	const struct ql_gguf *g;
	struct ql_tok_spec s;
	struct ql_tok_str *tokens, *merges;
	int32_t *types;
	float *scores;
	char *pre;
	struct ql_err *e;
};

static int strings(struct keys *k, const char *key, bool required, struct ql_tok_str **out, size_t *n)
{
	struct ql_gguf_str *v = NULL;
	int rc = ql_gguf_get_strs(k->g, key, required, &v, n, k->e);

	if (rc != QL_OK || v == NULL)
		return rc;
	*out = calloc(*n, sizeof **out);
	for (size_t i = 0; *out != NULL && i < *n; i++)
		(*out)[i] = (struct ql_tok_str){v[i].s, v[i].len};
	free(v);
	return *out == NULL ? ql_err_set(k->e, QL_ENOMEM, "no memory for %s", key) : QL_OK;
}

static int id(struct keys *k, const char *key, int32_t absent, int32_t *out)
{
	uint32_t v = UINT32_MAX;
	int rc = ql_gguf_get_u32(k->g, key, false, &v, k->e);

	*out = v == UINT32_MAX ? absent : v > INT32_MAX ? INT32_MAX : (int32_t)v; /* too large: refused with its name later */
	return rc;
}

static int model(struct keys *k)
{
	struct ql_gguf_str s = {0};
	int rc = ql_gguf_get_str(k->g, "tokenizer.ggml.model", true, &s, k->e);

	if (rc != QL_OK)
		return rc;
	if (s.len == 4 && memcmp(s.s, "gpt2", 4) == 0)
		k->s.model = QL_TOK_MODEL_GPT2;
	else if (s.len == 5 && memcmp(s.s, "llama", 5) == 0)
		k->s.model = QL_TOK_MODEL_SPM;
	else
		return ql_err_param(k->e, QL_EUNSUPPORTED, "tokenizer.ggml.model", "tokenizer model '%.*s' is not supported",
				    (int)(s.len < 64 ? s.len : 64), s.s);
	if (k->s.model != QL_TOK_MODEL_GPT2)
		return QL_OK;
	s = (struct ql_gguf_str){0};
	rc = ql_gguf_get_str(k->g, "tokenizer.ggml.pre", true, &s, k->e);
	if (rc != QL_OK)
		return rc;
	k->pre = strndup(s.s, s.len);
	k->s.pre = k->pre;
	return k->pre == NULL ? ql_err_set(k->e, QL_ENOMEM, "no memory for a tokenizer") : QL_OK;
}

static int lists(struct keys *k)
{
	size_t n_types = 0, n_scores = 0;
	bool spm = k->s.model == QL_TOK_MODEL_SPM;
	int rc = strings(k, "tokenizer.ggml.tokens", true, &k->tokens, &k->s.n_tokens);

	if (rc == QL_OK)
		rc = ql_gguf_get_i32s(k->g, "tokenizer.ggml.token_type", false, &k->types, &n_types, k->e);
	if (rc == QL_OK && spm)
		rc = ql_gguf_get_f32s(k->g, "tokenizer.ggml.scores", true, &k->scores, &n_scores, k->e);
	if (rc == QL_OK && !spm)
		rc = strings(k, "tokenizer.ggml.merges", true, &k->merges, &k->s.n_merges);
	if (rc != QL_OK)
		return rc;
	if (k->types != NULL && n_types != k->s.n_tokens)
		return ql_err_param(k->e, QL_EFORMAT, "tokenizer.ggml.token_type", "%zu token types for %zu tokens", n_types,
				    k->s.n_tokens);
	if (spm && n_scores != k->s.n_tokens)
		return ql_err_param(k->e, QL_EFORMAT, "tokenizer.ggml.scores", "%zu scores for %zu tokens", n_scores,
				    k->s.n_tokens);
	k->s.tokens = k->tokens;
	k->s.types = k->types;
	k->s.scores = k->scores;
	k->s.merges = k->merges;
	return QL_OK;
}

static int facts(struct keys *k)
{
	bool spm = k->s.model == QL_TOK_MODEL_SPM;
	int rc = id(k, "tokenizer.ggml.bos_token_id", spm ? 1 : -1, &k->s.bos);

	if (rc == QL_OK)
		rc = id(k, "tokenizer.ggml.eos_token_id", spm ? 2 : -1, &k->s.eos);
	if (rc == QL_OK)
		rc = id(k, "tokenizer.ggml.eot_token_id", -1, &k->s.eot);
	if (rc == QL_OK)
		rc = id(k, "tokenizer.ggml.padding_token_id", -1, &k->s.pad);
	if (rc == QL_OK)
		rc = id(k, "tokenizer.ggml.unknown_token_id", spm ? 0 : -1, &k->s.unk);
	k->s.add_bos = spm || ql_tok_pre_adds_bos(k->pre);
	k->s.add_space_prefix = spm;
	if (rc == QL_OK)
		rc = ql_gguf_get_bool(k->g, "tokenizer.ggml.add_bos_token", false, &k->s.add_bos, k->e);
	if (rc == QL_OK)
		rc = ql_gguf_get_bool(k->g, "tokenizer.ggml.add_eos_token", false, &k->s.add_eos, k->e);
	if (rc == QL_OK)
		rc = ql_gguf_get_bool(k->g, "tokenizer.ggml.add_space_prefix", false, &k->s.add_space_prefix, k->e);
	return rc;
}

int ql_tok_from_gguf(struct ql_tok **out, const struct ql_gguf *g, struct ql_err *e)
{
	struct keys k = {.g = g, .e = e};
	int rc;

	*out = NULL;
	rc = model(&k);
	if (rc == QL_OK)
		rc = lists(&k);
	if (rc == QL_OK)
		rc = facts(&k);
	if (rc == QL_OK)
		rc = ql_tok_from_spec(out, &k.s, e);
	free(k.tokens);
	free(k.merges);
	free(k.types);
	free(k.scores);
	free(k.pre);
	return rc;
}
