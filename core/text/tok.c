/* tok.c - the facts of a tokenizer (tok.h): ids, pieces, flags; and its end. */
#include "core/text/tok.h"

#include <stdlib.h>
#include <string.h>

#include "core/text/tok_priv.h"

int ql_ids_push(struct ql_ids *v, int32_t id, uint32_t begin)
{
	if (v->n == v->cap) {
		size_t cap = v->cap < 64 ? 64 : v->cap * 2;
		int32_t *ids = realloc(v->ids, cap * sizeof *ids);
		uint32_t *at;

		if (ids == NULL)
			return QL_ENOMEM;
		v->ids = ids;
		at = realloc(v->begin, cap * sizeof *at);
		if (at == NULL)
			return QL_ENOMEM;
		v->begin = at;
		v->cap = cap;
	}
	v->ids[v->n] = id;
	v->begin[v->n++] = begin;
	return QL_OK;
}

void ql_ids_free(struct ql_ids *v)
{
	free(v->ids);
	free(v->begin);
	*v = (struct ql_ids){0};
}

void ql_tok_free(struct ql_tok *t)
{
	if (t == NULL)
		return;
	ql_bpe_free(&t->bpe);
	free(t->pieces);
	free(t->piece_off);
	free(t->flags);
	for (size_t i = 0; i < t->n_added; i++)
		free(t->added[i].text);
	free(t->added);
	ql_trie_free(&t->raw);
	ql_trie_free(&t->normed);
	ql_norm_free(&t->norm);
	ql_norm_free(&t->pre_norm);
	ql_pretok_free(&t->pretok);
	free(t->description);
	if (t->spare != NULL && t->spare->work != NULL) {
		ql_bpe_work_free(t->spare->work);
		free(t->spare->work);
	}
	free(t->spare);
	free(t);
}

int32_t ql_tok_vocab_size(const struct ql_tok *t) { return (int32_t)t->n; }
int32_t ql_tok_bos(const struct ql_tok *t) { return t->bos; }
int32_t ql_tok_eos(const struct ql_tok *t) { return t->eos; }
int32_t ql_tok_eot(const struct ql_tok *t) { return t->eot; }
int32_t ql_tok_pad(const struct ql_tok *t) { return t->pad; }
int32_t ql_tok_unk(const struct ql_tok *t) { return t->unk; }
bool ql_tok_add_bos(const struct ql_tok *t) { return t->n_prefix > 0 && t->prefix[0] == t->bos; }
bool ql_tok_add_eos(const struct ql_tok *t) { return t->n_suffix > 0 && t->suffix[t->n_suffix - 1] == t->eos; }

static bool flag(const struct ql_tok *t, int32_t id, unsigned f)
{
	return id >= 0 && (uint32_t)id < t->n && (t->flags[id] & f) != 0;
}

bool ql_tok_is_stop(const struct ql_tok *t, int32_t id) { return flag(t, id, QL_TOK_F_STOP); }
bool ql_tok_is_special(const struct ql_tok *t, int32_t id) { return flag(t, id, QL_TOK_F_SPECIAL); }
bool ql_tok_is_added(const struct ql_tok *t, int32_t id) { return flag(t, id, QL_TOK_F_ADDED); }

const char *ql_tok_piece(const struct ql_tok *t, int32_t id, size_t *len)
{
	*len = 0;
	if (id < 0 || (uint32_t)id >= t->n)
		return NULL;
	*len = t->piece_off[id + 1] - t->piece_off[id];
	return t->pieces + t->piece_off[id];
}

/* The text with spaces as U+2581, looked up; out of memory counts as not found. */
static uint32_t find_meta(const struct ql_tok *t, const char *text, size_t len)
{
	struct ql_buf b = {0};
	uint32_t id = QL_BPE_NONE;
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && i < len; i++)
		rc = text[i] == ' ' ? ql_buf_adds(&b, QL_TOK_META) : ql_buf_addc(&b, text[i]);
	if (rc == QL_OK)
		id = ql_bpe_find(&t->bpe, b.data, b.len);
	ql_buf_free(&b);
	return id;
}

int32_t ql_tok_id_of(const struct ql_tok *t, const char *text, size_t len)
{
	uint32_t id;

	if (len == 0)
		return -1;
	for (size_t i = 0; i < t->n_added; i++)
		if (t->added[i].len == len && memcmp(t->added[i].text, text, len) == 0)
			return t->added[i].id;
	id = ql_bpe_find(&t->bpe, text, len);
	if (id >= t->n && !t->bpe.bytes)
		id = find_meta(t, text, len);
	if (id >= t->n && len == 1 && t->bpe.byte_id[(uint8_t)*text] >= 0)
		id = (uint32_t)t->bpe.byte_id[(uint8_t)*text];
	return id < t->n ? (int32_t)id : -1;
}

void ql_tok_hash(const struct ql_tok *t, char hex[65]) { memcpy(hex, t->hash, sizeof t->hash); }
