/* tok_spec.c - ql_tok_from_spec: byte-level BPE with merges, and SentencePiece BPE with scores, as GGUF describes them.
 *
 * Which texts BPE can produce: normal and user-defined tokens.  Control, unknown, unused and byte tokens are never the
 * result of a merge, so that no plain text turns into a special token. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tok_priv.h"

struct builder {
	const struct ql_tok_spec *s;
	struct ql_tok *t;
	struct ql_tok_str *model;  /* per id: what BPE works with */
	struct ql_tok_str *pieces; /* per id: what the token stands for */
	char *mem;                 /* their bytes, where they are not the file's */
	size_t mem_len;
	struct ql_tok_str *extra;  /* SPM: characters inside tokens that are none */
	char *extra_mem;
	size_t n_extra;
	struct ql_err *e;
};

static int32_t type_of(const struct ql_tok_spec *s, size_t i) { return s->types == NULL ? QL_TOK_NORMAL : s->types[i]; }

static bool is_ascii(const struct ql_tok_str *s)
{
	for (size_t i = 0; i < s->len; i++)
		if ((uint8_t)s->p[i] >= 0x80)
			return false;
	return true;
}

static int check_token(const struct builder *b, size_t i)
{
	const struct ql_tok_str *s = &b->s->tokens[i];
	int32_t type = type_of(b->s, i);
	size_t bad;

	if (type < QL_TOK_NORMAL || type > QL_TOK_BYTE)
		return ql_err_param(b->e, QL_EFORMAT, "token_type", "token %zu has the unknown type %d", i, (int)type);
	if (s->len > QL_TOK_TOKEN_MAX)
		return ql_err_param(b->e, QL_ELIMIT, "tokens", "token %zu has %zu bytes, more than the %zu allowed", i, s->len,
				    (size_t)QL_TOK_TOKEN_MAX);
	if (!ql_utf8_valid(s->p, s->len, &bad))
		return ql_err_param(b->e, QL_EFORMAT, "tokens", "token %zu is not valid UTF-8", i);
	return QL_OK;
}

static void token_gpt2(struct builder *b, size_t i)
{
	const struct ql_tok_str *s = &b->s->tokens[i];
	int32_t type = type_of(b->s, i);
	char *out = b->mem + b->mem_len;
	size_t n;

	b->pieces[i] = *s;
	if (type == QL_TOK_USER_DEFINED && is_ascii(s))
		b->model[i] = *s; /* unless it holds a space or a control character, which the alphabet spells otherwise */
	if (type != QL_TOK_NORMAL && type != QL_TOK_BYTE && b->model[i].p == NULL)
		return;
	if (!ql_tok_alphabet_decode(s->p, s->len, out, &n)) {
		b->model[i] = (struct ql_tok_str){0};
		return;
	}
	b->model[i] = b->pieces[i] = (struct ql_tok_str){out, n};
	b->mem_len += n;
}

static void token_spm(struct builder *b, size_t i)
{
	const struct ql_tok_str *s = &b->s->tokens[i];
	int32_t type = type_of(b->s, i);
	int byte = type == QL_TOK_BYTE ? ql_tok_byte_token(s->p, s->len) : -1;
	char *out = b->mem + b->mem_len;
	size_t n = 0;

	b->pieces[i] = *s;
	if (byte >= 0) {
		if (b->t->bpe.byte_id[byte] < 0)
			b->t->bpe.byte_id[byte] = (int32_t)i;
		out[n++] = (char)byte;
	} else if (type == QL_TOK_NORMAL || type == QL_TOK_USER_DEFINED) {
		b->model[i] = *s;
		for (size_t k = 0; k < s->len;) {
			bool meta = s->len - k >= 3 && memcmp(s->p + k, QL_TOK_META, 3) == 0;

			out[n++] = meta ? ' ' : s->p[k];
			k += meta ? 3 : 1;
		}
	} else {
		return;
	}
	b->pieces[i] = (struct ql_tok_str){out, n};
	b->mem_len += n;
}

static int add_token(struct builder *b, size_t i)
{
	const struct ql_tok_str *s = &b->s->tokens[i];
	int32_t type = type_of(b->s, i);

	if (s->len == 0 || (type != QL_TOK_CONTROL && type != QL_TOK_UNKNOWN && type != QL_TOK_USER_DEFINED))
		return QL_OK;
	return ql_tok_add(b->t, &(struct ql_added){.id = (int32_t)i,
						   .text = (char *)s->p,
						   .len = s->len,
						   .special = type != QL_TOK_USER_DEFINED},
			  b->e);
}

static int tokens(struct builder *b)
{
	size_t total = 1, n = b->s->n_tokens;
	int rc = QL_OK;

	for (size_t i = 0; i < n; i++) {
		rc = check_token(b, i);
		if (rc != QL_OK)
			return rc;
		total += b->s->tokens[i].len; /* <= QL_VOCAB_MAX · QL_TOK_TOKEN_MAX */
	}
	b->model = calloc(n, sizeof *b->model);
	b->pieces = calloc(n, sizeof *b->pieces);
	b->mem = malloc(total);
	if (b->model == NULL || b->pieces == NULL || b->mem == NULL)
		return ql_err_set(b->e, QL_ENOMEM, "no memory for the vocabulary");
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		if (b->s->model == QL_TOK_MODEL_GPT2)
			token_gpt2(b, i);
		else
			token_spm(b, i);
		rc = add_token(b, i);
	}
	return rc == QL_OK ? ql_tok_set_pieces(b->t, b->pieces, b->e) : rc;
}

/* ---- gpt2 */

static int merge_part(struct builder *b, size_t rank, const char *p, size_t len, char *joined, size_t *joined_len, uint32_t *id)
{
	size_t n;

	if (!ql_tok_alphabet_decode(p, len, joined + *joined_len, &n))
		return ql_err_param(b->e, QL_EFORMAT, "merges", "merge %zu is not in the byte alphabet", rank);
	*id = ql_bpe_find(&b->t->bpe, joined + *joined_len, n);
	if (*id >= b->t->n)
		return ql_err_param(b->e, QL_EFORMAT, "merges", "merge %zu: '%.*s' is not in the vocabulary", rank,
				    (int)(len < 64 ? len : 64), p);
	*joined_len += n;
	return QL_OK;
}

static int add_merge(struct builder *b, size_t rank, char *joined)
{
	const struct ql_tok_str *m = &b->s->merges[rank];
	const char *space = m->len > 2 ? memchr(m->p + 1, ' ', m->len - 1) : NULL;
	uint32_t left, right, id;
	size_t n = 0, k;
	int rc;

	if (space == NULL)
		return ql_err_param(b->e, QL_EFORMAT, "merges", "merge %zu has no space between its parts", rank);
	if (m->len > 2 * (size_t)QL_TOK_TOKEN_MAX)
		return ql_err_param(b->e, QL_ELIMIT, "merges", "merge %zu is too long", rank);
	k = (size_t)(space - m->p);
	rc = merge_part(b, rank, m->p, k, joined, &n, &left);
	if (rc == QL_OK)
		rc = merge_part(b, rank, space + 1, m->len - k - 1, joined, &n, &right);
	if (rc != QL_OK)
		return rc;
	id = ql_bpe_find(&b->t->bpe, joined, n);
	if (id >= b->t->n)
		return ql_err_param(b->e, QL_EFORMAT, "merges", "merge %zu: the merged token is not in the vocabulary", rank);
	return ql_bpe_merge_add(&b->t->bpe, left, right, (uint32_t)rank, id, false, b->e);
}

static int build_gpt2(struct builder *b)
{
	struct ql_bpe *bpe = &b->t->bpe;
	char *joined;
	int rc;

	bpe->bytes = bpe->late = true;
	rc = ql_tok_pre_from_name(b->t, b->s->pre == NULL ? "" : b->s->pre, &bpe->ignore_merges, b->e);
	if (rc == QL_OK)
		rc = ql_bpe_vocab(bpe, b->model, b->s->n_tokens, NULL, 0, b->e);
	if (rc != QL_OK)
		return rc;
	for (int c = 0; c < 256; c++) {
		char ch = (char)c;
		uint32_t id = ql_bpe_find(bpe, &ch, 1);

		bpe->byte_id[c] = id < b->t->n ? (int32_t)id : -1;
	}
	if (b->s->n_merges > QL_MERGES_MAX)
		return ql_err_param(b->e, QL_ELIMIT, "merges", "%zu merges, more than the %d allowed", b->s->n_merges, QL_MERGES_MAX);
	rc = ql_bpe_merges_reserve(bpe, b->s->n_merges, b->e);
	joined = rc == QL_OK ? malloc(2 * (size_t)QL_TOK_TOKEN_MAX + 1) : NULL;
	if (rc == QL_OK && joined == NULL)
		rc = ql_err_set(b->e, QL_ENOMEM, "no memory for the merges");
	for (size_t i = 0; rc == QL_OK && i < b->s->n_merges; i++)
		rc = add_merge(b, i, joined);
	free(joined);
	return rc;
}

/* ---- SentencePiece */

enum { BITMAP_WORDS = 0x110000 / 64 };

static int collect_extra(struct builder *b, const uint64_t *inside, const uint64_t *token)
{
	size_t n = 0, at = 0;

	for (size_t i = 0; i < BITMAP_WORDS; i++)
		n += (size_t)__builtin_popcountll(inside[i] & ~token[i]);
	b->extra = calloc(n + 1, sizeof *b->extra);
	b->extra_mem = malloc(4 * n + 1);
	if (b->extra == NULL || b->extra_mem == NULL)
		return ql_err_set(b->e, QL_ENOMEM, "no memory for the vocabulary");
	for (uint32_t cp = 0; cp < 0x110000; cp++)
		if ((inside[cp / 64] & ~token[cp / 64]) >> cp % 64 & 1) {
			int k = ql_utf8_encode(cp, b->extra_mem + at);

			b->extra[b->n_extra++] = (struct ql_tok_str){b->extra_mem + at, (size_t)k};
			at += (size_t)k;
		}
	return QL_OK;
}

static int find_extra(struct builder *b)
{
	uint64_t *inside = calloc(BITMAP_WORDS, sizeof *inside), *token = calloc(BITMAP_WORDS, sizeof *token);
	int rc = QL_OK;

	if (inside == NULL || token == NULL)
		rc = ql_err_set(b->e, QL_ENOMEM, "no memory for the vocabulary");
	for (size_t i = 0; rc == QL_OK && i < b->s->n_tokens; i++) {
		const struct ql_tok_str *s = &b->model[i];
		uint32_t cp;

		for (size_t k = 0; k < s->len;) {
			int n = ql_utf8_decode(s->p + k, s->len - k, &cp); /* checked: valid */

			if ((size_t)n == s->len)
				token[cp / 64] |= (uint64_t)1 << cp % 64;
			else
				inside[cp / 64] |= (uint64_t)1 << cp % 64;
			k += (size_t)n;
		}
	}
	if (rc == QL_OK)
		rc = collect_extra(b, inside, token);
	free(inside);
	free(token);
	return rc;
}

static int build_spm(struct builder *b)
{
	struct ql_tok *t = b->t;
	int rc;

	if (b->s->scores == NULL)
		return ql_err_param(b->e, QL_EFORMAT, "scores", "a SentencePiece vocabulary needs scores");
	t->bpe.late = t->bpe.byte_fallback = t->fallback_decode = true;
	t->bpe.unk = b->s->unk;
	rc = find_extra(b);
	if (rc == QL_OK)
		rc = ql_bpe_vocab(&t->bpe, b->model, b->s->n_tokens, b->extra, b->n_extra, b->e);
	if (rc == QL_OK)
		rc = ql_bpe_merges_from_scores(&t->bpe, b->s->scores, b->e);
	if (rc == QL_OK && b->s->add_space_prefix)
		rc = ql_norm_add(&t->norm, QL_NORM_PREPEND, " ", NULL, NULL, b->e);
	if (rc == QL_OK)
		rc = ql_norm_add(&t->norm, QL_NORM_REPLACE, " ", QL_TOK_META, NULL, b->e);
	t->strip = b->s->add_space_prefix;
	return rc;
}

/* ---- both */

static int set_ids(struct builder *b)
{
	const struct ql_tok_spec *s = b->s;
	struct ql_tok *t = b->t;
	const struct {
		const char *name;
		int32_t value;
		int32_t *to;
	} ids[] = {{"bos_token_id", s->bos, &t->bos}, {"eos_token_id", s->eos, &t->eos}, {"eot_token_id", s->eot, &t->eot},
		   {"padding_token_id", s->pad, &t->pad}, {"unknown_token_id", s->unk, &t->unk}};

	for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
		if (ids[i].value < -1 || ids[i].value >= (int32_t)s->n_tokens)
			return ql_err_param(b->e, QL_EFORMAT, ids[i].name, "%s %d is not in the vocabulary of %zu", ids[i].name,
					    (int)ids[i].value, s->n_tokens);
		*ids[i].to = ids[i].value;
	}
	if ((s->add_bos && s->bos < 0) || (s->add_eos && s->eos < 0))
		return ql_err_param(b->e, QL_EFORMAT, s->add_bos && s->bos < 0 ? "bos_token_id" : "eos_token_id",
				    "a %s token is to be added, but there is none", s->add_bos && s->bos < 0 ? "BOS" : "EOS");
	if (s->add_bos)
		t->prefix[t->n_prefix++] = s->bos;
	if (s->add_eos)
		t->suffix[t->n_suffix++] = s->eos;
	return QL_OK;
}

static int describe(struct builder *b)
{
	char text[192];

	snprintf(text, sizeof text, "spec model=%d pre=%.64s space_prefix=%d", (int)b->s->model,
		 b->s->pre == NULL || b->s->model != QL_TOK_MODEL_GPT2 ? "" : b->s->pre, b->s->add_space_prefix);
	b->t->description = strdup(text);
	return b->t->description == NULL ? ql_err_set(b->e, QL_ENOMEM, "no memory for a tokenizer") : QL_OK;
}

int ql_tok_from_spec(struct ql_tok **out, const struct ql_tok_spec *spec, struct ql_err *e)
{
	struct builder b = {.s = spec, .e = e};
	int rc = ql_tok_new(&b.t, spec->n_tokens, e);

	*out = NULL;
	if (rc == QL_OK)
		rc = set_ids(&b);
	if (rc == QL_OK)
		rc = tokens(&b);
	if (rc == QL_OK)
		rc = spec->model == QL_TOK_MODEL_GPT2 ? build_gpt2(&b) : build_spm(&b);
	if (rc == QL_OK)
		rc = describe(&b);
	if (rc == QL_OK)
		rc = ql_bpe_finish(&b.t->bpe, e);
	if (rc == QL_OK)
		rc = ql_tok_finish(b.t, e);
	if (rc == QL_OK) {
		*out = b.t;
		b.t = NULL;
	}
	free(b.model);
	free(b.pieces);
	free(b.mem);
	free(b.extra);
	free(b.extra_mem);
	ql_tok_free(b.t);
	return rc;
}
