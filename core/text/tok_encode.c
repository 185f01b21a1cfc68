/* tok_encode.c - text to ids: added tokens are cut out, what lies between is normalised, pre-tokenised and merged. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tok_priv.h"
#include "core/text/unicode.h"

enum { CACHE_FROM = 4096 };     /* bytes of text */
enum { KEPT_SYMBOLS = 65536 }; /* larger working memory is not kept */

struct encoder {
	const struct ql_tok *t;
	const char *text; /* the whole */
	size_t len;
	unsigned flags;
	const struct ql_span *plain;
	size_t n_plain;
	struct ql_ids *out;
	struct ql_err *e;
	struct ql_regex_match *match;
	struct ql_bpe_work *work;
	struct ql_nbuf norm_bufs[2], pre_bufs[2];
	struct ql_ntext now;  /* what is being pre-tokenised */
};

/* ---- added tokens */

/* Does [begin, end) share a byte with a plain range?  The ranges are sorted: the last that begins before `end` decides. */
static bool touches_plain(const struct encoder *c, size_t begin, size_t end)
{
	size_t lo = 0, hi = c->n_plain;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (c->plain[mid].begin < end)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo > 0 && c->plain[lo - 1].end > begin; lo--)
		if (c->plain[lo - 1].begin < c->plain[lo - 1].end)
			return true;
	return false;
}

struct place {
	const struct encoder *c;
	const struct ql_ntext *in; /* text the match was found in, and where */
	size_t at;
};

static bool accept(void *ctx, int32_t value, size_t len)
{
	const struct place *p = ctx;
	const struct ql_added *a = &p->c->t->added[value];

	if (a->special && (p->c->flags & QL_TOK_PARSE_SPECIAL) == 0)
		return false;
	if (!a->special && !a->markup)
		return true;
	return !touches_plain(p->c, ql_ntext_origin(p->in, p->at), ql_ntext_origin(p->in, p->at + len));
}

/* \w as Rust's regex crate has it, what single_word must not stand next to: Alphabetic, marks, decimal digits, connectors and
 * joiners.  So fractions and superscripts are none, Roman numerals and circled letters are. */
static bool word_char(uint32_t cp)
{
	static const uint32_t more[][2] = {{'_', '_'},         {0x200c, 0x200d},   {0x203f, 0x2040},   {0x2054, 0x2054},
					   {0x24b6, 0x24e9},   {0xfe33, 0xfe34},   {0xfe4d, 0xfe4f},   {0xff3f, 0xff3f},
					   {0x1f130, 0x1f149}, {0x1f150, 0x1f169}, {0x1f170, 0x1f189}};
	enum ql_uclass k = ql_unicode_class(cp);

	if (k == QL_U_N)
		return utf8proc_category((utf8proc_int32_t)cp) != UTF8PROC_CATEGORY_NO;
	for (size_t i = 0; i < sizeof more / sizeof more[0]; i++)
		if (cp >= more[i][0] && cp <= more[i][1])
			return true;
	return ql_u_letter(k) || k == QL_U_M;
}

/* Start of the character that ends at `end`. */
static size_t previous(const char *s, size_t begin, size_t end)
{
	for (end--; end > begin && ((uint8_t)s[end] & 0xc0) == 0x80;)
		end--;
	return end;
}

static uint32_t char_at(const char *s, size_t at, size_t end, size_t *next)
{
	uint32_t cp = 0xfffd;
	int n = ql_utf8_decode(s + at, end - at, &cp);

	*next = at + (size_t)(n > 0 ? n : 1);
	return cp;
}

static bool alone(const struct ql_ntext *in, size_t begin, size_t end)
{
	size_t next;

	if (begin > 0 && word_char(char_at(in->p, previous(in->p, 0, begin), begin, &next)))
		return false;
	return end == in->len || !word_char(char_at(in->p, end, in->len, &next));
}

static size_t swallow_left(const struct ql_ntext *in, size_t begin, size_t floor)
{
	while (begin > floor) {
		size_t p = previous(in->p, floor, begin), next;

		if (ql_unicode_class(char_at(in->p, p, begin, &next)) != QL_U_SPACE)
			break;
		begin = p;
	}
	return begin;
}

static size_t swallow_right(const struct ql_ntext *in, size_t end)
{
	while (end < in->len) {
		size_t next;

		if (ql_unicode_class(char_at(in->p, end, in->len, &next)) != QL_U_SPACE)
			break;
		end = next;
	}
	return end;
}

typedef int between_fn(struct encoder *c, struct ql_ntext part);

static struct ql_ntext part_of(const struct ql_ntext *in, size_t begin, size_t end)
{
	return (struct ql_ntext){.p = in->p + begin,
				 .len = end - begin,
				 .map = in->map == NULL ? NULL : in->map + begin,
				 .base = in->base + (uint32_t)begin};
}

static int push(struct encoder *c, int32_t id, uint32_t begin)
{
	int rc = ql_ids_push(c->out, id, begin);

	return rc == QL_OK ? rc : ql_err_set(c->e, rc, "no memory for the token ids");
}

/* Cuts the tokens of `trie` out of in; `between` gets what lies between them, never empty. */
static int cut_added(struct encoder *c, const struct ql_trie *trie, const struct ql_ntext *in, between_fn *between)
{
	struct place place = {c, in, 0};
	size_t done = 0, len = 0;
	int rc = QL_OK;

	for (size_t i = 0; trie->nodes != NULL && i < in->len;) {
		const struct ql_added *a;
		size_t begin = i, end;
		int32_t v;

		place.at = i;
		v = trie->starts[(uint8_t)in->p[i]] ? ql_trie_longest(trie, in->p + i, in->p + in->len, accept, &place, &len) : -1;
		if (v < 0) {
			i++;
			continue;
		}
		a = &c->t->added[v];
		end = i + len;
		i = end;
		if (a->single_word && !alone(in, begin, end))
			continue;
		if (a->lstrip)
			begin = swallow_left(in, begin, done);
		if (a->rstrip)
			i = end = swallow_right(in, end);
		if (begin > done)
			rc = between(c, part_of(in, done, begin));
		if (rc == QL_OK)
			rc = push(c, a->id, ql_ntext_origin(in, begin));
		if (rc != QL_OK)
			return rc;
		done = end;
	}
	return done < in->len ? between(c, part_of(in, done, in->len)) : rc;
}

/* ---- what lies between */

static int encode_piece(void *ctx, size_t begin, size_t end)
{
	struct encoder *c = ctx;
	const struct ql_ntext *t = &c->now;

	return ql_bpe_encode(&c->t->bpe, c->work, t->p + begin, end - begin, t->map == NULL ? NULL : t->map + begin,
			     t->base + (uint32_t)begin, c->out, c->e);
}

static int encode_words(struct encoder *c, struct ql_ntext part)
{
	int rc = ql_norm_run(&c->t->pre_norm, c->match, &part, c->pre_bufs, c->e);

	if (rc != QL_OK)
		return rc;
	c->now = part;
	return ql_pretok_run(&c->t->pretok, c->match, part.p, part.len, encode_piece, c, c->e);
}

static int encode_between(struct encoder *c, struct ql_ntext part)
{
	int rc = ql_norm_run(&c->t->norm, c->match, &part, c->norm_bufs, c->e);

	return rc == QL_OK ? cut_added(c, &c->t->normed, &part, encode_words) : rc;
}

/* ---- the whole */

/* The affix is in front of (or behind) ids that may begin (end) with it already: then once is enough. */
static void drop_double_prefix(struct ql_ids *v, size_t start, size_t k)
{
	if (k == 0 || v->n - start < 2 * k || memcmp(v->ids + start, v->ids + start + k, k * sizeof *v->ids) != 0)
		return;
	memmove(v->ids + start, v->ids + start + k, (v->n - start - k) * sizeof *v->ids);
	memmove(v->begin + start, v->begin + start + k, (v->n - start - k) * sizeof *v->begin);
	v->n -= k;
}

static int add_suffix(struct encoder *c, size_t start)
{
	const struct ql_tok *t = c->t;
	size_t k = t->n_suffix;
	int rc = QL_OK;

	if (k > 0 && c->out->n - start - t->n_prefix >= k &&
	    memcmp(c->out->ids + c->out->n - k, t->suffix, k * sizeof *t->suffix) == 0)
		return QL_OK;
	for (size_t i = 0; rc == QL_OK && i < k; i++)
		rc = push(c, t->suffix[i], (uint32_t)c->len);
	return rc;
}

static int encode_all(struct encoder *c)
{
	const struct ql_tok *t = c->t;
	struct ql_ntext whole = {.p = c->text, .len = c->len};
	bool affixes = (c->flags & QL_TOK_ADD_SPECIAL) != 0;
	size_t start = c->out->n;
	int rc = QL_OK;

	for (size_t i = 0; affixes && rc == QL_OK && i < t->n_prefix; i++)
		rc = push(c, t->prefix[i], 0);
	if (rc == QL_OK && c->len > 0)
		rc = cut_added(c, &t->raw, &whole, encode_between);
	if (rc == QL_OK && affixes) {
		drop_double_prefix(c->out, start, t->n_prefix);
		rc = add_suffix(c, start);
	}
	return rc;
}

static int check(const struct encoder *c)
{
	size_t bad = 0;

	if (c->len > QL_TOK_TEXT_MAX)
		return ql_err_set(c->e, QL_ELIMIT, "a text of %zu bytes, more than the %zu allowed", c->len,
				  (size_t)QL_TOK_TEXT_MAX);
	if ((c->flags & ~(QL_TOK_ADD_SPECIAL | QL_TOK_PARSE_SPECIAL)) != 0)
		return ql_err_set(c->e, QL_EINVAL, "unknown tokenizer flags");
	for (size_t i = 0; i < c->n_plain; i++)
		if (c->plain[i].end < c->plain[i].begin || c->plain[i].end > c->len ||
		    (i > 0 && c->plain[i].begin < c->plain[i - 1].end))
			return ql_err_set(c->e, QL_EINVAL, "plain ranges must be sorted, apart and inside the text");
	if (!ql_utf8_valid(c->text, c->len, &bad))
		return ql_err_at(c->e, QL_EFORMAT, bad, "the text is not valid UTF-8");
	return QL_OK;
}

/* ---- working memory: one set stays with the tokenizer between calls, so that the words it has seen are still known.  What is known
 * decides the speed only.  A second thread at the same time works with a set of its own. */

static struct ql_bpe_work *take_work(const struct ql_tok *t)
{
	struct ql_bpe_work *w = atomic_exchange(&t->spare->work, NULL);

	return w != NULL ? w : calloc(1, sizeof *w);
}

static void give_work(const struct ql_tok *t, struct ql_bpe_work *w)
{
	struct ql_bpe_work *none = NULL;

	if (w == NULL)
		return;
	if (w->sym_cap <= KEPT_SYMBOLS && atomic_compare_exchange_strong(&t->spare->work, &none, w))
		return;
	ql_bpe_work_free(w);
	free(w);
}

int ql_tok_encode(const struct ql_tok *t, const char *text, size_t len, unsigned flags, const struct ql_span *plain,
		  size_t n_plain, struct ql_ids *out, struct ql_err *e)
{
	struct encoder c = {.t = t, .text = text, .len = len, .flags = flags, .plain = plain, .n_plain = n_plain, .out = out,
			    .e = e};
	size_t start = out->n;
	int rc = check(&c);

	if (rc != QL_OK)
		return rc;
	c.work = take_work(t);
	if (c.work == NULL || (t->has_regex && (c.match = ql_regex_match_new(len)) == NULL)) {
		give_work(t, c.work);
		return ql_err_set(e, QL_ENOMEM, "no memory to tokenise");
	}
	if (len >= CACHE_FROM)
		ql_bpe_work_cache(c.work);
	rc = encode_all(&c);
	if (rc != QL_OK)
		out->n = start;
	ql_regex_match_free(c.match);
	give_work(t, c.work);
	for (int i = 0; i < 2; i++) {
		ql_nbuf_free(&c.norm_bufs[i]);
		ql_nbuf_free(&c.pre_bufs[i]);
	}
	return rc;
}
