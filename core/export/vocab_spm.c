/* vocab_spm.c - tokenizer.json of SentencePiece's style → GGUF model "llama" (llama.cpp, llama-vocab.cpp, llm_tokenizer_spm).
 *
 * llama.cpp joins the neighbours whose concatenation is the token of highest score.  tokenizer.json has merges instead, written by
 * falling score of what they make, so score = -(rank of the first merge that makes the token).  A token that no merge makes and
 * that is neither a character, a byte nor an added token could be joined there although it never is here: refused.
 * Spaces become U+2581; a leading one is put in front of the text, and of what follows a special token, by add_space_prefix. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/limits.h"
#include "core/export/vocab_priv.h"

#define BAR "\xe2\x96\x81"

bool ql_vocab_is_spm(const struct ql_vocab *v)
{
	const json_t *m = json_object_get(v->tok, "model");

	return strcmp(ql_vocab_str(m, "type"), "BPE") == 0 && ql_vocab_flag(m, "byte_fallback", false);
}

/* Replace " " by U+2581 */
static bool is_bar(const json_t *v)
{
	return strcmp(ql_vocab_str(v, "type"), "Replace") == 0 &&
	       strcmp(ql_vocab_str(json_object_get(v, "pattern"), "String"), " ") == 0 && strcmp(ql_vocab_str(v, "content"), BAR) == 0;
}

int ql_vocab_spm_check(const struct ql_vocab *v, bool *space_prefix, struct ql_err *e)
{
	const json_t *m = json_object_get(v->tok, "model"), *norm = json_object_get(v->tok, "normalizer");
	const json_t *list = json_object_get(norm, "normalizers"), *pre = json_object_get(v->tok, "pre_tokenizer");
	const json_t *first = json_array_get(list, 0);
	const char *scheme = ql_vocab_str(pre, "prepend_scheme");

	if (ql_vocab_flag(m, "ignore_merges", false))
		return ql_vocab_refuse(e, "model", "ignore_merges with byte_fallback");
	*space_prefix = false;
	if (norm == NULL || json_is_null(norm)) { /* the pre-tokenizer does it all */
		if (strcmp(ql_vocab_str(pre, "type"), "Metaspace") != 0 || strcmp(ql_vocab_str(pre, "replacement"), BAR) != 0 ||
		    ql_vocab_flag(pre, "split", true))
			return ql_vocab_refuse(e, "pre_tokenizer", ql_vocab_str(pre, "type"));
		if (strcmp(scheme, "always") != 0 && strcmp(scheme, "never") != 0)
			return ql_vocab_refuse(e, "pre_tokenizer", "Metaspace with prepend_scheme first");
		*space_prefix = strcmp(scheme, "always") == 0;
		return QL_OK;
	}
	/* Gemma: the spaces are gone when it splits at them */
	if (pre != NULL && !json_is_null(pre) &&
	    (strcmp(ql_vocab_str(pre, "type"), "Split") != 0 ||
	     strcmp(ql_vocab_str(json_object_get(pre, "pattern"), "String"), " ") != 0))
		return ql_vocab_refuse(e, "pre_tokenizer", ql_vocab_str(pre, "type"));
	if (json_array_size(list) == 2 && strcmp(ql_vocab_str(first, "type"), "Prepend") == 0 &&
	    strcmp(ql_vocab_str(first, "prepend"), BAR) == 0 && is_bar(json_array_get(list, 1))) {
		*space_prefix = true;
		return QL_OK;
	}
	return is_bar(norm) ? QL_OK : ql_vocab_refuse(e, "normalizer", ql_vocab_str(norm, "type"));
}

/* Scores of what merges make, by falling rank; made[id] stays false elsewhere. */
static int score_merges(const struct ql_vocab *v, float *scores, bool *made, struct ql_err *e)
{
	const json_t *merges = json_object_get(json_object_get(v->tok, "model"), "merges"), *m;
	struct ql_buf text = {0};
	int rc = QL_OK;
	size_t i;

	if (!json_is_array(merges) || json_array_size(merges) > QL_MERGES_MAX)
		return ql_err_param(e, QL_EFORMAT, "merges", "tokenizer.json: no list of merges");
	json_array_foreach(merges, i, m) {
		const char *pair = json_string_value(m), *space = pair != NULL ? strchr(pair, ' ') : NULL;
		const char *l = json_string_value(json_array_get(m, 0)), *r = json_string_value(json_array_get(m, 1));
		const json_t *id;

		ql_buf_reset(&text);
		if (space != NULL)
			rc = ql_buf_addf(&text, "%.*s%s", (int)(space - pair), pair, space + 1);
		else if (l != NULL && r != NULL)
			rc = ql_buf_addf(&text, "%s%s", l, r);
		else
			rc = ql_err_param(e, QL_EFORMAT, "merges", "tokenizer.json: merge %zu is no pair", i);
		id = rc == QL_OK ? json_object_get(v->ids, text.data) : NULL;
		if (rc == QL_OK && id == NULL)
			rc = ql_err_param(e, QL_EFORMAT, "merges", "tokenizer.json: merge %zu makes no token", i);
		if (rc != QL_OK)
			break;
		if (!made[json_integer_value(id)])
			scores[json_integer_value(id)] = -(float)(i + 1);
		made[json_integer_value(id)] = true;
	}
	ql_buf_free(&text);
	return rc;
}

/* Is it a single character (by UTF-8's lead bytes)? */
static bool one_character(const char *s)
{
	size_t n = 0;

	for (; *s != '\0'; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n <= 1;
}

static int set_kinds(struct ql_vocab *v, const bool *made, struct ql_err *e)
{
	const char *unknown = ql_vocab_str(json_object_get(v->tok, "model"), "unk_token");
	uint32_t bytes = 0;

	for (uint32_t i = 0; i < v->n; i++) {
		unsigned byte;
		int end = 0;
		const char *s = v->texts[i];

		if (strcmp(s, unknown) == 0) {
			v->kinds[i] = QL_VOCAB_UNKNOWN;
		} else if (sscanf(s, "<0x%2X>%n", &byte, &end) == 1 && end == 6 && s[6] == '\0') {
			v->kinds[i] = QL_VOCAB_BYTE;
			bytes++;
		} else if (v->kinds[i] == QL_VOCAB_USER && strstr(s, BAR) != NULL && made[i]) {
			v->kinds[i] = QL_VOCAB_NORMAL; /* runs of spaces: merges make them, no raw text holds U+2581 */
		} else if (v->kinds[i] == QL_VOCAB_NORMAL && !made[i] && !one_character(s)) {
			return ql_vocab_refuse(e, "model", s);
		}
	}
	return bytes == 256 ? QL_OK : ql_vocab_refuse(e, "model", "byte_fallback without 256 byte tokens");
}

int ql_vocab_spm_write(struct ql_gguf_writer *w, struct ql_vocab *v, bool space_prefix, struct ql_err *e)
{
	float *scores = calloc(v->n, sizeof *scores);
	bool *made = calloc(v->n, sizeof *made);
	int rc = scores == NULL || made == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for scores") : score_merges(v, scores, made, e);

	if (rc == QL_OK)
		rc = set_kinds(v, made, e);
	for (uint32_t i = 0; rc == QL_OK && i < v->n; i++)
		if (v->kinds[i] == QL_VOCAB_UNUSED)
			scores[i] = -1e7f; /* gaps: behind every merge */
	if (rc == QL_OK)
		rc = ql_gguf_write_f32s(w, "tokenizer.ggml.scores", scores, v->n, e);
	if (rc == QL_OK)
		rc = ql_gguf_write_bool(w, "tokenizer.ggml.add_space_prefix", space_prefix, e);
	free(scores);
	free(made);
	return rc;
}
