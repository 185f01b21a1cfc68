/* vocab_hf.c - tokenizer.json → tokenizer.ggml.* (llama.cpp, convert_hf_to_gguf.py, llama-vocab.cpp); SentencePiece's style: vocab_spm.c.
 *
 *   .model "gpt2" · .pre by the exact shape of pre_tokenizer (table below) · .tokens by id, vocab_size of them, gaps are
 *   "[PAD<id>]" of type 5 · .token_type 1 normal, 3 control, 4 user-defined, 5 unused · .merges "left right", a space inside
 *   a part written as U+0120 · the special ids · .add_bos_token, .add_eos_token.
 * What llama.cpp would split or normalise differently is refused by name rather than exported with wrong token ids. */
#include "core/export/vocab_hf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/export/vocab_priv.h"
#include "core/formats/tokenizer_config.h"

#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define LETTERS "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
#define UPPER "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

/* Split(regex, Isolated) followed by ByteLevel(use_regex false). */
static const struct {
	const char *regex, *pre;
	bool ignore_merges; /* what llama.cpp does for this name */
} splits[] = {
	{LETTERS "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL, "llama-bpe", true},
	{LETTERS "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL, "qwen2", false},
	{UPPER "*" LOWER "+|" UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL, "tekken", true},
	{UPPER "*" LOWER "+" CONTRACTION "|" UPPER "+" LOWER "*" CONTRACTION "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL,
	 "gpt-4o", false},
};

const char *ql_vocab_str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s != NULL ? s : "";
}

bool ql_vocab_flag(const json_t *o, const char *key, bool absent)
{
	const json_t *v = json_object_get(o, key);

	return json_is_boolean(v) ? json_is_true(v) : absent;
}

int ql_vocab_refuse(struct ql_err *e, const char *part, const char *what)
{
	return ql_err_param(e, QL_EUNSUPPORTED, part, "GGUF export: tokenizer.json's %s (%.200s) has no equal in llama.cpp", part,
			    what);
}

/* ByteLevel with the wanted use_regex and no prefix space. */
static bool is_byte_level(const json_t *v, bool use_regex)
{
	return strcmp(ql_vocab_str(v, "type"), "ByteLevel") == 0 && !ql_vocab_flag(v, "add_prefix_space", true) &&
	       ql_vocab_flag(v, "use_regex", true) == use_regex;
}

static int find_pre(const struct ql_vocab *v, const char **pre, bool *ignore_merges, struct ql_err *e)
{
	const json_t *p = json_object_get(v->tok, "pre_tokenizer"), *list = json_object_get(p, "pretokenizers");
	const json_t *first = json_array_get(list, 0), *second = json_array_get(list, 1);
	const char *regex;

	*ignore_merges = false;
	if (is_byte_level(p, true)) {
		*pre = "gpt-2";
		return QL_OK;
	}
	if (json_array_size(list) != 2)
		return ql_vocab_refuse(e, "pre_tokenizer", ql_vocab_str(p, "type"));
	if (strcmp(ql_vocab_str(first, "type"), "Digits") == 0 && ql_vocab_flag(first, "individual_digits", false) && is_byte_level(second, true)) {
		*pre = "smollm";
		return QL_OK;
	}
	regex = ql_vocab_str(json_object_get(first, "pattern"), "Regex");
	for (size_t i = 0; i < sizeof splits / sizeof splits[0]; i++)
		if (strcmp(ql_vocab_str(first, "type"), "Split") == 0 && strcmp(regex, splits[i].regex) == 0 &&
		    strcmp(ql_vocab_str(first, "behavior"), "Isolated") == 0 && !ql_vocab_flag(first, "invert", false) &&
		    is_byte_level(second, false)) {
			*pre = splits[i].pre;
			*ignore_merges = splits[i].ignore_merges;
			return QL_OK;
		}
	return ql_vocab_refuse(e, "pre_tokenizer", regex[0] != '\0' ? regex : ql_vocab_str(first, "type"));
}

static int check_model(const struct ql_vocab *v, bool ignore_merges, struct ql_err *e)
{
	const json_t *m = json_object_get(v->tok, "model"), *norm = json_object_get(v->tok, "normalizer");
	const json_t *list = json_object_get(norm, "normalizers");

	if (strcmp(ql_vocab_str(m, "type"), "BPE") != 0 && json_object_get(m, "type") != NULL)
		return ql_vocab_refuse(e, "model", ql_vocab_str(m, "type"));
	if (ql_vocab_flag(m, "ignore_merges", false) != ignore_merges)
		return ql_vocab_refuse(e, "model", "ignore_merges with this pre_tokenizer");
	if (norm != NULL && !json_is_null(norm) && strcmp(ql_vocab_str(norm, "type"), "NFC") != 0 &&
	    !(json_is_array(list) && json_array_size(list) == 0))
		return ql_vocab_refuse(e, "normalizer", ql_vocab_str(norm, "type"));
	return QL_OK;
}

/* Puts a token at its id; the same text at two ids, or two texts at one id, is an error. */
static int put_token(struct ql_vocab *v, const char *text, const json_t *id, enum ql_vocab_kind kind, bool replace, struct ql_err *e)
{
	int64_t i = json_is_integer(id) ? json_integer_value(id) : -1;

	if (i < 0 || i >= v->n)
		return ql_err_param(e, QL_EMISMATCH, "vocab", "tokenizer.json: token '%.60s' has id %lld, the model %u tokens", text,
				    (long long)i, v->n);
	if (v->texts[i] != NULL && !(replace && strcmp(v->texts[i], text) == 0))
		return ql_err_param(e, QL_EFORMAT, "vocab", "tokenizer.json: two tokens have the id %lld", (long long)i);
	if (v->texts[i] == NULL) {
		if (json_object_get(v->ids, text) != NULL)
			return ql_err_param(e, QL_EFORMAT, "vocab", "tokenizer.json: token '%.60s' has two ids", text);
		v->texts[i] = strdup(text);
		if (v->texts[i] == NULL || json_object_set_new(v->ids, text, json_integer(i)) != 0)
			return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	}
	v->kinds[i] = kind;
	return QL_OK;
}

static bool starts(const char *s, const char *with) { return strncmp(s, with, strlen(with)) == 0; }

static bool ends(const char *s, const char *with)
{
	size_t a = strlen(s), b = strlen(with);

	return a >= b && strcmp(s + a - b, with) == 0;
}

/* The converter's guess which added tokens are control tokens although not marked special. */
static bool looks_special(const char *s)
{
	return (starts(s, "<|") && ends(s, "|>")) || (starts(s, "<｜") && ends(s, "｜>")) || strcmp(s, "<pad>") == 0 ||
	       starts(s, "<unused");
}

/* A user-defined token's text as llama.cpp wants it: U+2581 is a space. */
static char *plain_text(const char *s)
{
	char *out = malloc(strlen(s) + 1), *p = out;

	while (out != NULL && *s != '\0') {
		bool bar = starts(s, "\xe2\x96\x81");

		*p++ = bar ? ' ' : *s;
		s += bar ? 3 : 1;
	}
	if (out != NULL)
		*p = '\0';
	return out;
}

static int put_added(struct ql_vocab *v, const json_t *t, bool spm, struct ql_err *e)
{
	bool control = ql_vocab_flag(t, "special", false) || looks_special(ql_vocab_str(t, "content"));
	const json_t *id = json_object_get(t, "id");
	char *text;
	int rc;

	if (ql_vocab_str(t, "content")[0] == '\0')
		return ql_err_param(e, QL_EFORMAT, "added_tokens", "tokenizer.json: an added token without content");
	if (ql_vocab_flag(t, "single_word", false) || ql_vocab_flag(t, "rstrip", false))
		return ql_vocab_refuse(e, "added_tokens", "single_word or rstrip");
	text = control || spm ? strdup(ql_vocab_str(t, "content")) : plain_text(ql_vocab_str(t, "content"));
	if (text == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	rc = put_token(v, text, id, control ? QL_VOCAB_CONTROL : QL_VOCAB_USER, true, e);
	free(text);
	return rc;
}

static int fill_gaps(struct ql_vocab *v, struct ql_err *e)
{
	char text[32];
	int rc = QL_OK;

	for (uint32_t i = 0; rc == QL_OK && i < v->n; i++) {
		json_t *id;

		if (v->texts[i] != NULL)
			continue;
		(void)snprintf(text, sizeof text, "[PAD%u]", i);
		id = json_integer(i);
		rc = id == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary") : put_token(v, text, id, QL_VOCAB_UNUSED, false, e);
		json_decref(id);
	}
	return rc;
}

static int load_tokens(struct ql_vocab *v, bool spm, struct ql_err *e)
{
	const json_t *model = json_object_get(v->tok, "model"), *added = json_object_get(v->tok, "added_tokens"), *t;
	const json_t *vocab = json_object_get(model, "vocab");
	const char *text;
	json_t *id;
	size_t i;
	int rc = QL_OK;

	v->texts = calloc(v->n, sizeof *v->texts);
	v->kinds = calloc(v->n, sizeof *v->kinds);
	v->ids = json_object();
	if (v->texts == NULL || v->kinds == NULL || v->ids == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	if (!json_is_object(vocab))
		return ql_err_param(e, QL_EFORMAT, "vocab", "tokenizer.json: model.vocab is not an object");
	json_object_foreach((json_t *)(uintptr_t)vocab, text, id) {
		rc = put_token(v, text, id, QL_VOCAB_NORMAL, false, e);
		if (rc != QL_OK)
			return rc;
	}
	json_array_foreach(added, i, t) {
		rc = put_added(v, t, spm, e);
		if (rc != QL_OK)
			return rc;
	}
	return fill_gaps(v, e);
}

/* A part of a merge; a space inside becomes U+0120. */
static int add_part(struct ql_buf *b, const char *s)
{
	int rc = QL_OK;

	for (; rc == QL_OK && *s != '\0'; s++)
		rc = *s == ' ' ? ql_buf_adds(b, "\xc4\xa0") : ql_buf_addc(b, *s);
	return rc;
}

static int write_merges(struct ql_gguf_writer *w, const struct ql_vocab *v, struct ql_err *e)
{
	const json_t *merges = json_object_get(json_object_get(v->tok, "model"), "merges"), *m;
	size_t n = json_array_size(merges), i;
	struct ql_gguf_str *out = calloc(n + 1, sizeof *out);
	size_t *at = calloc(n + 1, sizeof *at);
	struct ql_buf text = {0};
	int rc = out == NULL || at == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for merges") : QL_OK;

	if (rc == QL_OK && (!json_is_array(merges) || n > QL_MERGES_MAX))
		rc = ql_err_param(e, QL_EFORMAT, "merges", "tokenizer.json: no list of merges");
	json_array_foreach(merges, i, m) {
		const char *pair = json_string_value(m), *l = json_string_value(json_array_get(m, 0)),
			   *r = json_string_value(json_array_get(m, 1));

		if (rc != QL_OK)
			break;
		if (pair == NULL && (l == NULL || r == NULL || json_array_size(m) != 2))
			rc = ql_err_param(e, QL_EFORMAT, "merges", "tokenizer.json: merge %zu is no pair", i);
		else if (pair != NULL)
			rc = ql_buf_adds(&text, pair);
		else if ((rc = add_part(&text, l)) == QL_OK && (rc = ql_buf_addc(&text, ' ')) == QL_OK)
			rc = add_part(&text, r);
		at[i + 1] = text.len;
	}
	for (i = 0; rc == QL_OK && i < n; i++)
		out[i] = (struct ql_gguf_str){text.data + at[i], at[i + 1] - at[i]};
	if (rc == QL_OK)
		rc = ql_gguf_write_strs(w, "tokenizer.ggml.merges", out, n, e);
	else if (rc == QL_ENOMEM)
		(void)ql_err_set(e, rc, "no memory for merges");
	ql_buf_free(&text);
	free(out);
	free(at);
	return rc;
}

static int write_tokens(struct ql_gguf_writer *w, const struct ql_vocab *v, struct ql_err *e)
{
	struct ql_gguf_str *s = calloc(v->n, sizeof *s);
	int rc;

	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	for (uint32_t i = 0; i < v->n; i++)
		s[i] = (struct ql_gguf_str){v->texts[i], strlen(v->texts[i])};
	rc = ql_gguf_write_strs(w, "tokenizer.ggml.tokens", s, v->n, e);
	free(s);
	return rc == QL_OK ? ql_gguf_write_i32s(w, "tokenizer.ggml.token_type", v->kinds, v->n, e) : rc;
}

/* Id of a text, or -1. */
static int64_t id_of(const struct ql_vocab *v, const char *text)
{
	const json_t *id = json_object_get(v->ids, text);

	return id != NULL ? json_integer_value(id) : -1;
}

/* Id that tokenizer_config.json gives a role ("bos_token": "x" or {"content": "x"}), else `fallback`. */
static int64_t role_id(const struct ql_vocab *v, const char *role, int64_t fallback)
{
	const json_t *t = json_object_get(v->cfg, role);
	const char *text = json_is_object(t) ? ql_vocab_str(t, "content") : json_string_value(t);
	int64_t id = text != NULL && text[0] != '\0' ? id_of(v, text) : -1;

	return id >= 0 ? id : fallback;
}

static int64_t first_of(const struct ql_vocab *v, const char *const *texts)
{
	int64_t id = -1;

	for (; id < 0 && *texts != NULL; texts++)
		id = id_of(v, *texts);
	return id;
}

static int write_ids(struct ql_gguf_writer *w, const struct ql_vocab *v, const struct ql_arch *a, struct ql_err *e)
{
	static const char *const turn_ends[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", NULL};
	static const char *const message_ends[] = {"<|eom_id|>", NULL};
	const struct { const char *key; int64_t id; } ids[] = {
		{"tokenizer.ggml.bos_token_id", role_id(v, "bos_token", a->bos_id)},
		{"tokenizer.ggml.eos_token_id", role_id(v, "eos_token", a->n_eos > 0 ? a->eos_ids[0] : -1)},
		{"tokenizer.ggml.unknown_token_id", role_id(v, "unk_token", -1)},
		{"tokenizer.ggml.padding_token_id", role_id(v, "pad_token", a->pad_id)},
		{"tokenizer.ggml.eot_token_id", first_of(v, turn_ends)},
		{"tokenizer.ggml.eom_token_id", first_of(v, message_ends)},
	};
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < sizeof ids / sizeof ids[0]; i++)
		if (ids[i].id >= 0)
			rc = ql_gguf_write_u32(w, ids[i].key, (uint32_t)ids[i].id, e);
	return rc;
}

/* Does the post-processor put a special token before (at 0) or after (last) the text? */
static bool template_adds(const json_t *post, bool front)
{
	const json_t *list = json_object_get(post, "processors"), *single = json_object_get(post, "single"), *p;
	size_t i, n = json_array_size(single);

	json_array_foreach(list, i, p)
		if (template_adds(p, front))
			return true;
	return n > 1 && json_object_get(json_array_get(single, front ? 0 : n - 1), "SpecialToken") != NULL;
}

static int write_flags(struct ql_gguf_writer *w, const struct ql_vocab *v, const struct ql_arch *a, struct ql_err *e)
{
	const json_t *post = json_object_get(v->tok, "post_processor");
	bool bos = ql_vocab_flag(v->cfg, "add_bos_token", template_adds(post, true));
	bool eos = ql_vocab_flag(v->cfg, "add_eos_token", template_adds(post, false));
	int rc;

	if (strcmp(a->family, "llama") == 0 && a->vocab_size == 49152)
		bos = false; /* as the converter does for SmolLM */
	rc = ql_gguf_write_bool(w, "tokenizer.ggml.add_bos_token", bos, e);
	return rc == QL_OK ? ql_gguf_write_bool(w, "tokenizer.ggml.add_eos_token", eos, e) : rc;
}

static void free_vocab(struct ql_vocab *v)
{
	for (uint32_t i = 0; v->texts != NULL && i < v->n; i++)
		free(v->texts[i]);
	free(v->texts);
	free(v->kinds);
	json_decref(v->ids);
	json_decref(v->tok);
	json_decref(v->cfg);
}

int ql_vocab_hf_write(struct ql_gguf_writer *w, const struct ql_arch *arch, const char *tokenizer, size_t tokenizer_len,
		      const char *config, size_t config_len, struct ql_err *e)
{
	struct ql_vocab v = {.n = arch->vocab_size};
	bool ignore_merges = false, spm = false, space_prefix = false;
	const char *pre = "default";
	int rc = ql_json_parse(tokenizer, tokenizer_len, QL_TOKENIZER_JSON_MAX, &v.tok, e);

	if (rc == QL_OK && config != NULL)
		rc = ql_tokenizer_config_parse(config, config_len, &v.cfg, e);
	if (rc == QL_OK) {
		spm = ql_vocab_is_spm(&v);
		rc = spm ? ql_vocab_spm_check(&v, &space_prefix, e) : find_pre(&v, &pre, &ignore_merges, e);
	}
	if (rc == QL_OK && !spm)
		rc = check_model(&v, ignore_merges, e);
	if (rc == QL_OK)
		rc = load_tokens(&v, spm, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "tokenizer.ggml.model", spm ? "llama" : "gpt2", spm ? 5 : 4, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_str(w, "tokenizer.ggml.pre", pre, strlen(pre), e);
	if (rc == QL_OK && spm) /* settles the kinds that write_tokens writes */
		rc = ql_vocab_spm_write(w, &v, space_prefix, e);
	if (rc == QL_OK)
		rc = write_tokens(w, &v, e);
	if (rc == QL_OK && !spm)
		rc = write_merges(w, &v, e);
	if (rc == QL_OK)
		rc = write_ids(w, &v, arch, e);
	if (rc == QL_OK)
		rc = write_flags(w, &v, arch, e);
	free_vocab(&v);
	return rc;
}
