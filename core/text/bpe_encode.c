/* bpe_encode.c - the merging of bpe.h. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/bpe.h"

/* Pieces of up to this many symbols are merged by looking for the minimum, longer ones with the heap. */
enum { SHORT_MAX = 48 };

/* One symbol of a piece: a doubly linked list over an array.  rank/merged describe the pair (this, next);
 * rank QL_BPE_NONE = no merge (or the symbol is gone). */
struct ql_bpe_sym {
	uint32_t id, start; /* first byte in the piece */
	uint32_t prev, next;
	uint32_t rank, merged;
};

void ql_bpe_work_free(struct ql_bpe_work *w)
{
	free(w->cache);
	free(w->sym);
	free(w->heap);
	*w = (struct ql_bpe_work){0};
}

void ql_bpe_work_cache(struct ql_bpe_work *w)
{
	if (w->cache == NULL)
		w->cache = calloc(QL_BPE_CACHE, sizeof *w->cache);
}

static int grow(void **p, size_t *cap, size_t need, size_t size, struct ql_err *e)
{
	size_t c = *cap < 64 ? 64 : *cap;
	void *q;

	if (need <= *cap)
		return QL_OK;
	while (c < need)
		c *= 2; /* need is bounded by QL_TOK_PIECE_MAX */
	q = realloc(*p, c * size);
	if (q == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory to tokenise a piece of %zu symbols", need);
	*p = q;
	*cap = c;
	return QL_OK;
}

/* ---- cutting a piece into symbols */

static size_t char_len(const char *p, const char *end)
{
	uint8_t c = (uint8_t)*p;
	size_t n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;

	return n <= (size_t)(end - p) ? n : (size_t)(end - p);
}

static bool all_bytes_known(const struct ql_bpe *b, const char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (b->byte_id[(uint8_t)p[i]] < 0)
			return false;
	return true;
}

/* An unknown character at text[at..at+len) before merging: appends its symbols, returns the new count. */
static size_t unknown_symbols(const struct ql_bpe *b, struct ql_bpe_sym *s, size_t n, const char *text, size_t at, size_t len,
			      size_t *unk_end)
{
	if (b->late) {
		s[n++] = (struct ql_bpe_sym){.id = QL_BPE_NONE, .start = (uint32_t)at};
		return n;
	}
	if (b->byte_fallback && !b->bytes && all_bytes_known(b, text + at, len)) {
		for (size_t i = 0; i < len; i++)
			s[n++] = (struct ql_bpe_sym){.id = (uint32_t)b->byte_id[(uint8_t)text[at + i]],
						     .start = (uint32_t)(at + i)};
		return n;
	}
	if (b->unk >= 0) {
		if (!(b->fuse_unk && n > 0 && *unk_end == n))
			s[n++] = (struct ql_bpe_sym){.id = (uint32_t)b->unk, .start = (uint32_t)at};
		*unk_end = n;
	}
	return n;
}

static size_t cut_symbols(const struct ql_bpe *b, struct ql_bpe_sym *s, const char *text, size_t len)
{
	size_t n = 0, unk_end = SIZE_MAX, step;

	for (size_t i = 0; i < len; i += step) {
		uint8_t c = (uint8_t)text[i];
		uint32_t id;

		if (b->bytes) {
			step = 1;
			id = b->byte_id[c] < 0 ? QL_BPE_NONE : (uint32_t)b->byte_id[c];
		} else {
			step = char_len(text + i, text + len);
			if (c < 0x80)
				id = b->ascii[c];
			else if (c == 0xe2 && step == 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0)
				id = b->meta;
			else
				id = ql_bpe_find(b, text + i, step);
		}
		if (id == QL_BPE_NONE)
			n = unknown_symbols(b, s, n, text, i, step, &unk_end);
		else
			s[n++] = (struct ql_bpe_sym){.id = id, .start = (uint32_t)i};
	}
	return n;
}

/* ---- merging */

static inline void rate(const struct ql_bpe *b, struct ql_bpe_sym *left, const struct ql_bpe_sym *right)
{
	const struct ql_bpe_merge *m = NULL;

	if (left->id != QL_BPE_NONE && right->id != QL_BPE_NONE)
		m = ql_bpe_merge_find(b, left->id, right->id);
	left->rank = m == NULL ? QL_BPE_NONE : m->rank;
	left->merged = m == NULL ? QL_BPE_NONE : m->id;
}

/* Merges in place, symbols stay contiguous; returns how many are left. */
static size_t merge_short(const struct ql_bpe *b, struct ql_bpe_sym *s, size_t n)
{
	for (size_t i = 0; i + 1 < n; i++)
		rate(b, &s[i], &s[i + 1]);
	while (n > 1) {
		size_t best = 0;

		for (size_t i = 1; i + 1 < n; i++)
			if (s[i].rank < s[best].rank)
				best = i;
		if (s[best].rank == QL_BPE_NONE)
			break;
		s[best].id = s[best].merged;
		memmove(&s[best + 1], &s[best + 2], (n - best - 2) * sizeof *s);
		n--;
		if (best + 1 < n)
			rate(b, &s[best], &s[best + 1]);
		if (best > 0)
			rate(b, &s[best - 1], &s[best]);
	}
	return n;
}

static void sift_down(uint64_t *h, size_t n, size_t i)
{
	uint64_t v = h[i];

	for (size_t c = 2 * i + 1; c < n; i = c, c = 2 * i + 1) {
		if (c + 1 < n && h[c + 1] < h[c])
			c++;
		if (h[c] >= v)
			break;
		h[i] = h[c];
	}
	h[i] = v;
}

static void heap_push(uint64_t *h, size_t n, uint64_t v)
{
	size_t i = n;

	for (; i > 0 && h[(i - 1) / 2] > v; i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = v;
}

/* Linked list and heap of rank << 32 | index.  An entry is stale if the symbol's pair has another rank by now.  The heap
 * needs room for 2n entries: n - 1 at first, and each merge takes one and adds at most two. */
static size_t merge_long(const struct ql_bpe *b, struct ql_bpe_sym *s, size_t n, uint64_t *heap)
{
	size_t h = 0, out = 0;

	for (size_t i = 0; i < n; i++) {
		s[i].prev = i == 0 ? QL_BPE_NONE : (uint32_t)(i - 1);
		s[i].next = i + 1 == n ? QL_BPE_NONE : (uint32_t)(i + 1);
		s[i].rank = QL_BPE_NONE;
		if (i + 1 < n)
			rate(b, &s[i], &s[i + 1]);
		if (s[i].rank != QL_BPE_NONE)
			heap[h++] = (uint64_t)s[i].rank << 32 | i;
	}
	for (size_t i = h / 2; i-- > 0;)
		sift_down(heap, h, i);
	while (h > 0) {
		uint32_t i = (uint32_t)heap[0], rank = (uint32_t)(heap[0] >> 32), gone;

		heap[0] = heap[--h];
		sift_down(heap, h, 0);
		if (s[i].rank != rank)
			continue;
		gone = s[i].next;
		s[i].id = s[i].merged;
		s[i].next = s[gone].next;
		s[gone].rank = QL_BPE_NONE;
		s[i].rank = QL_BPE_NONE;
		if (s[i].next != QL_BPE_NONE) {
			s[s[i].next].prev = i;
			rate(b, &s[i], &s[s[i].next]);
			if (s[i].rank != QL_BPE_NONE)
				heap_push(heap, h++, (uint64_t)s[i].rank << 32 | i);
		}
		if (s[i].prev != QL_BPE_NONE) {
			struct ql_bpe_sym *p = &s[s[i].prev];

			rate(b, p, &s[i]);
			if (p->rank != QL_BPE_NONE)
				heap_push(heap, h++, (uint64_t)p->rank << 32 | s[i].prev);
		}
	}
	for (uint32_t i = 0; i != QL_BPE_NONE; i = s[i].next)
		s[out++] = s[i];
	return out;
}

/* ---- ids */

static inline uint32_t begin_of(const uint32_t *map, uint32_t base, size_t i)
{
	return map == NULL ? base + (uint32_t)i : map[i];
}

/* A symbol without a token after merging: its bytes' tokens, else unk, else nothing. */
static int emit_unknown(const struct ql_bpe *b, const char *text, size_t start, size_t end, const uint32_t *map, uint32_t base,
			struct ql_ids *out)
{
	int rc = QL_OK;

	if (!b->byte_fallback)
		return b->unk < 0 ? QL_OK : ql_ids_push(out, b->unk, begin_of(map, base, start));
	for (size_t i = start; rc == QL_OK && i < end; i++) {
		int32_t id = b->byte_id[(uint8_t)text[i]] < 0 ? b->unk : b->byte_id[(uint8_t)text[i]];

		if (id >= 0)
			rc = ql_ids_push(out, id, begin_of(map, base, i));
	}
	return rc;
}

static int encode_new(const struct ql_bpe *b, struct ql_bpe_work *w, const char *text, size_t len, const uint32_t *map,
		      uint32_t base, struct ql_ids *out, struct ql_err *e)
{
	uint32_t id = ql_bpe_find(b, text, len);
	size_t n;
	int rc;

	if (id < b->n && (b->whole[id] || b->ignore_merges)) {
		rc = ql_ids_push(out, (int32_t)id, begin_of(map, base, 0));
		return rc == QL_OK ? rc : ql_err_set(e, rc, "no memory for the token ids");
	}
	if (len > QL_TOK_PIECE_MAX)
		return ql_err_set(e, QL_ELIMIT, "%zu bytes without a place to cut, more than the %zu allowed", len,
				  (size_t)QL_TOK_PIECE_MAX);
	rc = grow((void **)&w->sym, &w->sym_cap, len, sizeof *w->sym, e);
	if (rc != QL_OK)
		return rc;
	n = cut_symbols(b, w->sym, text, len);
	if (n <= SHORT_MAX) {
		n = merge_short(b, w->sym, n);
	} else {
		rc = grow((void **)&w->heap, &w->heap_cap, 2 * n, sizeof *w->heap, e);
		if (rc != QL_OK)
			return rc;
		n = merge_long(b, w->sym, n, w->heap);
	}
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		const struct ql_bpe_sym *s = &w->sym[i];

		if (s->id < b->n)
			rc = ql_ids_push(out, (int32_t)s->id, begin_of(map, base, s->start));
		else
			rc = emit_unknown(b, text, s->start, i + 1 < n ? w->sym[i + 1].start : len, map, base, out);
	}
	return rc == QL_OK ? rc : ql_err_set(e, rc, "no memory for the token ids");
}

/* Keeps what encode_new appended from out[first] on; begin is a place in the piece there. */
static void remember(struct ql_bpe_cached *c, const char *text, size_t len, const struct ql_ids *out, size_t first)
{
	size_t n = out->n - first;

	if (n > QL_BPE_CACHED_IDS)
		return;
	c->len = (uint8_t)len;
	c->n = (uint8_t)n;
	memcpy(c->text, text, len);
	for (size_t i = 0; i < n; i++) {
		c->ids[i] = out->ids[first + i];
		c->start[i] = (uint8_t)out->begin[first + i];
	}
}

int ql_bpe_encode(const struct ql_bpe *b, struct ql_bpe_work *w, const char *text, size_t len, const uint32_t *map,
		  uint32_t base, struct ql_ids *out, struct ql_err *e)
{
	struct ql_bpe_cached *c;
	size_t first = out->n;
	int rc = QL_OK;

	if (w->cache == NULL || len > QL_BPE_CACHED_BYTES)
		return encode_new(b, w, text, len, map, base, out, e);
	c = &w->cache[ql_bpe_hash(text, len) % QL_BPE_CACHE];
	if (c->len == len && memcmp(c->text, text, len) == 0) {
		for (size_t i = 0; rc == QL_OK && i < c->n; i++)
			rc = ql_ids_push(out, c->ids[i], begin_of(map, base, c->start[i]));
		return rc == QL_OK ? rc : ql_err_set(e, rc, "no memory for the token ids");
	}
	/* places in the piece first, so that they can be kept; then offsets */
	rc = encode_new(b, w, text, len, NULL, 0, out, e);
	if (rc != QL_OK)
		return rc;
	remember(c, text, len, out, first);
	for (size_t i = first; i < out->n; i++)
		out->begin[i] = begin_of(map, base, out->begin[i]);
	return QL_OK;
}
