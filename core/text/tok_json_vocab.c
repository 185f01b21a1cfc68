/* tok_json_vocab.c - texts, pieces and merges of a tokenizer.json's BPE model.
 *
 * As in tok_spec.c, special tokens and byte tokens are never the result of a merge; merges that mention them are left out. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tok_json.h"

/* ---- texts and pieces */

static void make_text(struct ql_tok_loader *l, uint32_t id)
{
	const struct ql_tok_str *s = &l->names[id];
	char *out = l->mem + l->mem_len;
	int byte = l->t->bpe.bytes || s->p == NULL ? -1 : ql_tok_byte_token(s->p, s->len);
	bool special = (l->t->flags[id] & QL_TOK_F_SPECIAL) != 0;
	size_t n = 0;

	if (s->p == NULL)
		return;
	if (l->t->bpe.bytes) {
		if (special || !ql_tok_alphabet_decode(s->p, s->len, out, &n)) {
			if (l->pieces[id].p == NULL)
				l->pieces[id] = *s;
			return;
		}
		l->texts[id] = (struct ql_tok_str){out, n};
		if (l->pieces[id].p == NULL)
			l->pieces[id] = l->texts[id];
		l->mem_len += n;
		return;
	}
	if (!special && !(l->t->bpe.byte_fallback && byte >= 0))
		l->texts[id] = *s;
	if (byte >= 0 && l->decoder.fallback) {
		out[n++] = (char)byte;
	} else {
		for (size_t k = 0; k < s->len;) {
			bool meta = l->decoder.meta && s->len - k >= 3 && memcmp(s->p + k, QL_TOK_META, 3) == 0;

			out[n++] = meta ? ' ' : s->p[k];
			k += meta ? 3 : 1;
		}
	}
	l->pieces[id] = (struct ql_tok_str){out, n};
	l->mem_len += n;
}

int ql_tok_json_texts(struct ql_tok_loader *l)
{
	struct ql_bpe *b = &l->t->bpe;
	int rc;

	l->mem = malloc(l->names_len + 1);
	if (l->mem == NULL)
		return ql_err_set(l->e, QL_ENOMEM, "no memory for the vocabulary");
	for (uint32_t id = 0; id < l->t->n; id++)
		make_text(l, id);
	rc = ql_tok_set_pieces(l->t, l->pieces, l->e);
	if (rc == QL_OK)
		rc = ql_bpe_vocab(b, l->texts, l->t->n, NULL, 0, l->e);
	if (rc != QL_OK)
		return rc;
	if (!b->bytes) {
		ql_tok_byte_ids(l->t, l->names, l->t->n);
		return QL_OK;
	}
	for (int c = 0; c < 256; c++) {
		char ch = (char)c;
		uint32_t id = ql_bpe_find(b, &ch, 1);

		b->byte_id[c] = id < b->n ? (int32_t)id : -1;
	}
	return QL_OK;
}

/* ---- model.merges */

int64_t ql_tok_json_id(const struct ql_tok_loader *l, const char *s, size_t len)
{
	const json_t *v = json_object_getn(l->vocab, s, len);

	return v == NULL ? -1 : json_integer_value(v);
}

static int add_merge(struct ql_tok_loader *l, size_t rank, const char *a, size_t a_len, const char *b, size_t b_len, struct ql_buf *joined)
{
	int64_t left = ql_tok_json_id(l, a, a_len), right = ql_tok_json_id(l, b, b_len), id;
	int rc;

	if (left < 0 || right < 0)
		return ql_err_param(l->e, QL_EFORMAT, "model.merges", "merge %zu: '%.*s' is not in the vocabulary", rank,
				    (int)(left < 0 ? (a_len < 64 ? a_len : 64) : (b_len < 64 ? b_len : 64)), left < 0 ? a : b);
	ql_buf_reset(joined);
	rc = ql_buf_add(joined, a, a_len);
	if (rc == QL_OK)
		rc = ql_buf_add(joined, b, b_len);
	if (rc != QL_OK)
		return ql_err_set(l->e, rc, "no memory for the merges");
	id = ql_tok_json_id(l, joined->data, joined->len);
	if (id < 0)
		return ql_err_param(l->e, QL_EFORMAT, "model.merges", "merge %zu: the merged token is not in the vocabulary", rank);
	if (l->texts[left].p == NULL || l->texts[right].p == NULL || l->texts[id].p == NULL)
		return QL_OK;
	return ql_bpe_merge_add(&l->t->bpe, (uint32_t)left, (uint32_t)right, (uint32_t)rank, (uint32_t)id, true, l->e);
}

/* "a b", or ["a", "b"]. */
static int one_merge(struct ql_tok_loader *l, size_t rank, const json_t *v, struct ql_buf *joined)
{
	const char *s = json_string_value(v), *space;
	const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);

	if (json_is_string(a) && json_is_string(b) && json_array_size(v) == 2)
		return add_merge(l, rank, json_string_value(a), json_string_length(a), json_string_value(b), json_string_length(b), joined);
	space = s == NULL ? NULL : strchr(s, ' ');
	if (space == NULL || space == s || space[1] == '\0' || strchr(space + 1, ' ') != NULL)
		return ql_err_param(l->e, QL_EFORMAT, "model.merges", "merge %zu is neither \"a b\" nor [\"a\", \"b\"]", rank);
	return add_merge(l, rank, s, (size_t)(space - s), space + 1, strlen(space + 1), joined);
}

int ql_tok_json_merges(struct ql_tok_loader *l)
{
	const json_t *list = json_object_get(l->model, "merges"), *v;
	struct ql_buf joined = {0};
	size_t i;
	int rc;

	if (!json_is_array(list))
		return ql_err_param(l->e, QL_EFORMAT, "model.merges", "'merges' must be a list");
	if (json_array_size(list) > QL_MERGES_MAX)
		return ql_err_param(l->e, QL_ELIMIT, "model.merges", "%zu merges, more than the %d allowed", json_array_size(list),
				    QL_MERGES_MAX);
	rc = ql_bpe_merges_reserve(&l->t->bpe, json_array_size(list), l->e);
	if (rc == QL_OK)
		json_array_foreach(list, i, v)
			if ((rc = one_merge(l, i, v, &joined)) != QL_OK)
				break;
	ql_buf_free(&joined);
	return rc;
}
