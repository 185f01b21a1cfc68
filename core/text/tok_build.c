/* tok_build.c - the steps that loading from GGUF metadata and from tokenizer.json share. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/hash.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tok_priv.h"

int ql_tok_new(struct ql_tok **out, size_t n, struct ql_err *e)
{
	struct ql_tok *t;

	*out = NULL;
	if (n == 0 || n > QL_VOCAB_MAX)
		return ql_err_param(e, QL_ELIMIT, "vocabulary", "a vocabulary of %zu tokens; 1 to %d are possible", n,
				    QL_VOCAB_MAX);
	t = calloc(1, sizeof *t);
	if (t != NULL) {
		t->flags = calloc(n, 1);
		t->spare = calloc(1, sizeof *t->spare);
	}
	if (t == NULL || t->flags == NULL || t->spare == NULL) {
		ql_tok_free(t);
		return ql_err_set(e, QL_ENOMEM, "no memory for a tokenizer");
	}
	t->n = (uint32_t)n;
	t->bos = t->eos = t->eot = t->pad = t->unk = t->bpe.unk = -1;
	for (int i = 0; i < 256; i++)
		t->bpe.byte_id[i] = -1;
	*out = t;
	return QL_OK;
}

int ql_tok_set_pieces(struct ql_tok *t, const struct ql_tok_str *pieces, struct ql_err *e)
{
	size_t total = 0, at = 0;

	for (uint32_t i = 0; i < t->n; i++)
		if (pieces[i].p != NULL && (!ql_add_size(total, pieces[i].len, &total) || total > UINT32_MAX / 2))
			return ql_err_param(e, QL_ELIMIT, "vocabulary", "the texts of the tokens are too long together");
	t->pieces = malloc(total + 1);
	t->piece_off = malloc(((size_t)t->n + 1) * sizeof *t->piece_off);
	if (t->pieces == NULL || t->piece_off == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	for (uint32_t i = 0; i < t->n; i++) {
		t->piece_off[i] = (uint32_t)at;
		if (pieces[i].p != NULL && pieces[i].len > 0) {
			memcpy(t->pieces + at, pieces[i].p, pieces[i].len);
			at += pieces[i].len;
		}
	}
	t->piece_off[t->n] = (uint32_t)at;
	return QL_OK;
}

int ql_tok_add(struct ql_tok *t, const struct ql_added *a, struct ql_err *e)
{
	struct ql_added *v;

	if (t->n_added >= QL_TOK_ADDED_MAX)
		return ql_err_param(e, QL_ELIMIT, "added_tokens", "more than %d added tokens", QL_TOK_ADDED_MAX);
	if (a->len > QL_TOK_ADDED_BYTES_MAX)
		return ql_err_param(e, QL_ELIMIT, "added_tokens", "added token %d has %zu bytes, more than the %zu allowed", (int)a->id,
				    a->len, (size_t)QL_TOK_ADDED_BYTES_MAX);
	if (t->n_added % 256 == 0) {
		v = realloc(t->added, (t->n_added + 256) * sizeof *v);
		if (v == NULL)
			return ql_err_set(e, QL_ENOMEM, "no memory for the added tokens");
		t->added = v;
	}
	v = &t->added[t->n_added];
	*v = *a;
	v->text = malloc(a->len + 1);
	if (v->text == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the added tokens");
	memcpy(v->text, a->text, a->len);
	v->text[a->len] = '\0';
	v->markup = strpbrk(v->text, "<>[]|") != NULL;
	t->n_added++;
	t->flags[a->id] |= (uint8_t)(QL_TOK_F_ADDED | (a->special ? QL_TOK_F_SPECIAL : 0));
	return QL_OK;
}

/* ---- alphabets */

bool ql_tok_alphabet_decode(const char *s, size_t len, char *out, size_t *out_len)
{
	size_t n = 0;

	for (size_t i = 0; i < len;) {
		uint32_t cp;
		int k = ql_utf8_decode(s + i, len - i, &cp);

		if (k <= 0)
			return false;
		if ((cp >= '!' && cp <= '~') || (cp >= 0xa1 && cp <= 0xac) || (cp >= 0xae && cp <= 0xff))
			out[n++] = (char)cp;
		else if (cp >= 0x100 && cp < 0x100 + 33) /* 0x00 … 0x20 */
			out[n++] = (char)(cp - 0x100);
		else if (cp >= 0x100 + 33 && cp < 0x100 + 67) /* 0x7f … 0xa0 */
			out[n++] = (char)(cp - 0x100 - 33 + 0x7f);
		else if (cp == 0x100 + 67)
			out[n++] = (char)0xad;
		else
			return false;
		i += (size_t)k;
	}
	*out_len = n;
	return true;
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int ql_tok_byte_token(const char *s, size_t len)
{
	int hi, lo;

	if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>')
		return -1;
	hi = hex_digit(s[3]);
	lo = hex_digit(s[4]);
	return hi < 0 || lo < 0 ? -1 : hi * 16 + lo;
}

void ql_tok_byte_ids(struct ql_tok *t, const struct ql_tok_str *tokens, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int b = tokens[i].p == NULL ? -1 : ql_tok_byte_token(tokens[i].p, tokens[i].len);

		if (b >= 0 && t->bpe.byte_id[b] < 0)
			t->bpe.byte_id[b] = (int32_t)i;
	}
}

/* ---- finish */

static int build_tries(struct ql_tok *t, struct ql_err *e)
{
	struct ql_trie_entry *raw = calloc(t->n_added + 1, sizeof *raw), *normed = calloc(t->n_added + 1, sizeof *normed);
	struct ql_regex_match *m = t->has_regex ? ql_regex_match_new(0) : NULL;
	struct ql_nbuf bufs[2] = {0};
	size_t n_raw = 0, n_normed = 0;
	int rc = QL_OK;

	if (raw == NULL || normed == NULL || (t->has_regex && m == NULL)) {
		rc = ql_err_set(e, QL_ENOMEM, "no memory for the added tokens");
		goto cleanup;
	}
	for (size_t i = 0; i < t->n_added; i++) {
		struct ql_added *a = &t->added[i];

		if (!a->normalized) {
			raw[n_raw++] = (struct ql_trie_entry){a->text, a->len, (int32_t)i};
		} else { /* HF looks for the normalised text of the token */
			struct ql_ntext x = {.p = a->text, .len = a->len};
			char *copy;

			rc = ql_norm_run(&t->norm, m, &x, bufs, e);
			copy = rc == QL_OK ? malloc(x.len + 1) : NULL;
			if (rc == QL_OK && copy == NULL)
				rc = ql_err_set(e, QL_ENOMEM, "no memory for the added tokens");
			if (rc != QL_OK)
				goto cleanup;
			memcpy(copy, x.p, x.len);
			normed[n_normed++] = (struct ql_trie_entry){copy, x.len, (int32_t)i};
		}
	}
	rc = ql_trie_build(&t->raw, raw, n_raw, e);
	if (rc == QL_OK)
		rc = ql_trie_build(&t->normed, normed, n_normed, e);
cleanup:
	for (size_t i = 0; i < n_normed; i++)
		free((char *)normed[i].text);
	free(raw);
	free(normed);
	ql_regex_match_free(m);
	ql_nbuf_free(&bufs[0]);
	ql_nbuf_free(&bufs[1]);
	return rc;
}

static int32_t added_id(const struct ql_tok *t, const char *text)
{
	for (size_t i = 0; i < t->n_added; i++)
		if (strcmp(t->added[i].text, text) == 0)
			return t->added[i].id;
	return -1;
}

static void find_stops(struct ql_tok *t)
{
	static const char *const turns[] = {"<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|eot|>"};
	static const char *const others[] = {"<|eom_id|>", "<|endoftext|>", "<|end_of_text|>"};
	int32_t id;

	for (size_t i = 0; i < sizeof turns / sizeof *turns; i++) {
		id = added_id(t, turns[i]);
		if (id < 0)
			continue;
		t->flags[id] |= QL_TOK_F_STOP;
		if (t->eot < 0)
			t->eot = id;
	}
	for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
		id = added_id(t, others[i]);
		if (id >= 0)
			t->flags[id] |= QL_TOK_F_STOP;
	}
	if (t->eot >= 0)
		t->flags[t->eot] |= QL_TOK_F_STOP;
	if (t->eos >= 0)
		t->flags[t->eos] |= QL_TOK_F_STOP;
}

/* Where no token holds a character followed by U+2581, no merge joins the end of a word with the space behind it, and the
 * text can be cut there beforehand: the same ids, in linear time and by whole words.  Characters that some token does hold
 * before a U+2581 (Gemma: '>') are excepted, by their last byte. */
static int cut_words(struct ql_tok *t, struct ql_err *e)
{
	struct ql_pretok_step step = {.scan = ql_scan_meta, .behaviour = QL_SPLIT_ISOLATED};
	const size_t k = strlen(QL_TOK_META);

	if (ql_bpe_find(&t->bpe, QL_TOK_META, k) == QL_BPE_NONE)
		return QL_OK;
	for (uint32_t i = 0; i < t->bpe.n; i++) {
		size_t len;
		const char *p = ql_bpe_text(&t->bpe, i, &len), *q = p, *end = p + len;

		for (; q < end && (q = memmem(q, (size_t)(end - q), QL_TOK_META, k)) != NULL; q += k) {
			if (q == p || ((size_t)(q - p) >= k && memcmp(q - k, QL_TOK_META, k) == 0) ||
			    memchr(step.glued, q[-1], step.n_glued) != NULL)
				continue;
			if (step.n_glued == sizeof step.glued)
				return QL_OK; /* too many: no cuts */
			step.glued[step.n_glued++] = q[-1];
		}
	}
	return ql_pretok_add(&t->pretok, step, e);
}

/* Is there a merge with a byte's token?  is_byte: a flag for each symbol, zeroed. */
static bool bytes_merge(const struct ql_bpe *b, uint8_t *is_byte)
{
	for (int c = 0; c < 256; c++)
		if (b->byte_id[c] >= 0)
			is_byte[b->byte_id[c]] = 1;
	for (uint32_t i = 0; b->merges != NULL && i <= b->merges_mask; i++)
		if (b->merges[i].key != UINT64_MAX &&
		    (is_byte[b->merges[i].key >> 32] != 0 || is_byte[b->merges[i].key & UINT32_MAX] != 0))
			return true;
	return false;
}

/* The same for ASCII characters: where no token holds a followed by b, no merge joins them (a digit and a digit, a letter and a line
 * break, in most vocabularies).  A character that is no symbol counts when its byte's token stands for it and merges with nothing. */
static int cut_pairs(struct ql_tok *t, struct ql_err *e)
{
	const struct ql_bpe *b = &t->bpe;
	struct ql_pretok_apart *apart = malloc(sizeof *apart);
	uint8_t *is_byte = calloc(b->n_symbols, 1);
	size_t cuts = 0;
	bool byte_ok;

	if (apart == NULL || is_byte == NULL) {
		free(apart);
		free(is_byte);
		return ql_err_set(e, QL_ENOMEM, "no memory for a tokenizer");
	}
	byte_ok = b->byte_fallback && !bytes_merge(b, is_byte);
	free(is_byte);
	memset(apart, 0xff, sizeof *apart);
	for (uint32_t i = 0; i < b->n_symbols; i++) {
		size_t len;
		const uint8_t *p = (const uint8_t *)ql_bpe_text(b, i, &len);

		for (size_t k = 0; k + 1 < len; k++)
			if ((p[k] | p[k + 1]) < 0x80)
				apart->bits[p[k]][p[k + 1] >> 3] &= (uint8_t) ~(1u << (p[k + 1] & 7));
	}
	for (int c = 0; c < 128; c++) {
		if (b->ascii[c] != QL_BPE_NONE || (byte_ok && b->byte_id[c] >= 0))
			continue;
		memset(apart->bits[c], 0, sizeof apart->bits[c]);
		for (int a = 0; a < 128; a++)
			apart->bits[a][c >> 3] &= (uint8_t) ~(1u << (c & 7));
	}
	for (size_t i = 0; i < sizeof *apart; i++)
		cuts += ((const uint8_t *)apart)[i] != 0;
	if (cuts > 0)
		return ql_pretok_add(&t->pretok, (struct ql_pretok_step){.apart = apart, .behaviour = QL_SPLIT_ISOLATED}, e);
	free(apart);
	return QL_OK;
}

static void hash_num(struct ql_sha256 *h, int64_t v) { ql_sha256_add(h, &v, sizeof v); }

static void hash_text(struct ql_sha256 *h, const char *p, size_t len)
{
	hash_num(h, (int64_t)len);
	ql_sha256_add(h, p, len);
}

static void make_hash(struct ql_tok *t)
{
	const int64_t facts[] = {t->n, t->bpe.bytes, t->bpe.ignore_merges, t->bpe.byte_fallback, t->bpe.fuse_unk, t->bpe.late,
				 t->bpe.unk, t->bos, t->eos, t->eot, t->pad, t->unk, t->strip, t->fallback_decode,
				 (int64_t)t->n_prefix, (int64_t)t->n_suffix};
	struct ql_sha256 h;

	ql_sha256_init(&h);
	ql_sha256_add(&h, facts, sizeof facts);
	ql_sha256_add(&h, t->prefix, sizeof t->prefix);
	ql_sha256_add(&h, t->suffix, sizeof t->suffix);
	hash_text(&h, t->description == NULL ? "" : t->description, t->description == NULL ? 0 : strlen(t->description));
	hash_text(&h, (const char *)t->flags, t->n);
	hash_text(&h, (const char *)t->piece_off, ((size_t)t->n + 1) * sizeof *t->piece_off);
	hash_text(&h, t->pieces, t->piece_off[t->n]);
	hash_text(&h, (const char *)t->bpe.off, ((size_t)t->bpe.n_symbols + 1) * sizeof *t->bpe.off);
	hash_text(&h, t->bpe.blob, t->bpe.off[t->bpe.n_symbols]);
	ql_sha256_add(&h, t->bpe.byte_id, sizeof t->bpe.byte_id);
	hash_text(&h, (const char *)t->bpe.merges, ((size_t)t->bpe.merges_mask + 1) * sizeof *t->bpe.merges);
	for (size_t i = 0; i < t->n_added; i++) {
		const struct ql_added *a = &t->added[i];

		hash_num(&h, a->id);
		hash_num(&h, a->special | a->normalized << 1 | a->single_word << 2 | a->lstrip << 3 | a->rstrip << 4);
		hash_text(&h, a->text, a->len);
	}
	ql_sha256_end_hex(&h, t->hash);
}

int ql_tok_finish(struct ql_tok *t, struct ql_err *e)
{
	int rc = QL_OK;

	for (size_t i = 0; i < t->norm.n; i++)
		t->has_regex |= t->norm.steps[i].regex != NULL;
	for (size_t i = 0; i < t->pre_norm.n; i++)
		t->has_regex |= t->pre_norm.steps[i].regex != NULL;
	for (size_t i = 0; i < t->pretok.n; i++)
		t->has_regex |= t->pretok.steps[i].regex != NULL;
	if (!t->bpe.bytes)
		rc = cut_words(t, e);
	if (rc == QL_OK && !t->bpe.bytes)
		rc = cut_pairs(t, e);
	if (rc == QL_OK)
		rc = build_tries(t, e);
	if (rc != QL_OK)
		return rc;
	find_stops(t);
	make_hash(t);
	return QL_OK;
}
