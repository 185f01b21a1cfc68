/* bpe.c - vocabulary and merges of bpe.h: two open-addressing hash tables, at most half full, built once.  A vocabulary made
 * to collide is refused (PROBES_MAX) instead of slowing the load. */
#include "core/text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"

enum { PROBES_MAX = 2048 };

static const uint64_t K0 = 0x9e3779b97f4a7c15u, K1 = 0xd6e8feb86659fd93u;

static inline uint64_t load(const char *p, size_t n)
{
	uint64_t v = 0;

	memcpy(&v, p, n);
	return v;
}

/* Multiply-and-fold over 8-byte words; short texts are two overlapping loads. */
uint32_t ql_bpe_hash(const char *p, size_t len)
{
	uint64_t h = K1 ^ len, v;

	for (; len > 8; p += 8, len -= 8) {
		h = (h ^ load(p, 8)) * K0;
		h ^= h >> 32;
	}
	if (len == 8)
		v = load(p, 8);
	else if (len >= 4)
		v = load(p, 4) | load(p + len - 4, 4) << 32;
	else
		v = len == 0 ? 0 : (uint64_t)(uint8_t)p[0] | (uint64_t)(uint8_t)p[len / 2] << 8 | (uint64_t)(uint8_t)p[len - 1] << 16;
	h = (h ^ v) * K0;
	h ^= h >> 29;
	return (uint32_t)((h * K1) >> 32);
}

uint32_t ql_bpe_find(const struct ql_bpe *b, const char *p, size_t len)
{
	uint32_t h, i;

	if (len == 0 || len > b->longest)
		return QL_BPE_NONE;
	h = ql_bpe_hash(p, len);
	for (i = h & b->map_mask; b->map[i].id != QL_BPE_NONE; i = (i + 1) & b->map_mask) {
		const char *q = b->blob + b->off[b->map[i].id];

		if (b->map[i].hash == h && b->off[b->map[i].id + 1] - b->off[b->map[i].id] == len && memcmp(p, q, len) == 0)
			return b->map[i].id;
	}
	return QL_BPE_NONE;
}

static int map_insert(struct ql_bpe *b, uint32_t id, struct ql_err *e)
{
	size_t len;
	const char *p = ql_bpe_text(b, id, &len);
	uint32_t h, i, probes = 0;

	if (len == 0 || ql_bpe_find(b, p, len) != QL_BPE_NONE)
		return QL_OK;
	h = ql_bpe_hash(p, len);
	for (i = h & b->map_mask; b->map[i].id != QL_BPE_NONE; i = (i + 1) & b->map_mask)
		if (++probes > PROBES_MAX)
			return ql_err_param(e, QL_ELIMIT, "vocabulary", "token %u: too many hash collisions", id);
	b->map[i] = (struct ql_bpe_slot){h, id};
	return QL_OK;
}

/* Smallest power of two with room for n entries at half load; log2 in *bits. */
static size_t table_size(size_t n, int *bits)
{
	int k = 4;

	while (((size_t)1 << k) < 2 * n)
		k++;
	*bits = k;
	return (size_t)1 << k;
}

static int copy_texts(struct ql_bpe *b, const struct ql_tok_str *t, size_t n, size_t first, size_t *at, struct ql_err *e)
{
	for (size_t i = 0; i < n; i++) {
		size_t len = t[i].p == NULL ? 0 : t[i].len;

		if (len > QL_TOK_TOKEN_MAX)
			return ql_err_param(e, QL_ELIMIT, "vocabulary", "token %zu has %zu bytes, more than the %zu allowed",
					    first + i, len, (size_t)QL_TOK_TOKEN_MAX);
		b->off[first + i] = (uint32_t)*at;
		if (len > 0)
			memcpy(b->blob + *at, t[i].p, len);
		if (len > b->longest)
			b->longest = len;
		*at += len;
	}
	b->off[first + n] = (uint32_t)*at;
	return QL_OK;
}

static bool total_length(const struct ql_tok_str *t, size_t n, size_t *total)
{
	for (size_t i = 0; i < n; i++)
		if (t[i].p != NULL && !ql_add_size(*total, t[i].len, total))
			return false;
	return true;
}

int ql_bpe_vocab(struct ql_bpe *b, const struct ql_tok_str *tokens, size_t n, const struct ql_tok_str *extra, size_t n_extra,
		 struct ql_err *e)
{
	size_t total = 0, at = 0, slots;
	int rc, bits;

	if (n == 0 || n > QL_VOCAB_MAX || n_extra > QL_VOCAB_MAX)
		return ql_err_param(e, QL_ELIMIT, "vocabulary", "a vocabulary of %zu tokens; 1 to %d are possible", n,
				    QL_VOCAB_MAX);
	if (!total_length(tokens, n, &total) || !total_length(extra, n_extra, &total) || total > UINT32_MAX / 2)
		return ql_err_param(e, QL_ELIMIT, "vocabulary", "the texts of the tokens are too long together");
	slots = table_size(n + n_extra, &bits);
	b->n = (uint32_t)n;
	b->n_symbols = (uint32_t)(n + n_extra);
	b->map_mask = (uint32_t)(slots - 1);
	b->blob = malloc(total + 1);
	b->off = calloc(n + n_extra + 1, sizeof *b->off);
	b->whole = calloc(n, 1);
	b->map = malloc(slots * sizeof *b->map);
	if (b->blob == NULL || b->off == NULL || b->whole == NULL || b->map == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	memset(b->map, 0xff, slots * sizeof *b->map);
	rc = copy_texts(b, tokens, n, 0, &at, e);
	if (rc == QL_OK)
		rc = copy_texts(b, extra, n_extra, n, &at, e);
	for (uint32_t i = 0; rc == QL_OK && i < b->n_symbols; i++)
		rc = map_insert(b, i, e);
	return rc;
}

static inline uint32_t merge_slot(const struct ql_bpe *b, uint64_t key)
{
	return (uint32_t)(((key ^ key >> 29) * K0) >> b->merges_shift);
}

const struct ql_bpe_merge *ql_bpe_merge_find(const struct ql_bpe *b, uint32_t left, uint32_t right)
{
	uint64_t key = (uint64_t)left << 32 | right;

	for (uint32_t i = merge_slot(b, key);; i = (i + 1) & b->merges_mask) {
		if (b->merges[i].key == key)
			return &b->merges[i];
		if (b->merges[i].key == UINT64_MAX)
			return NULL;
	}
}

int ql_bpe_merges_reserve(struct ql_bpe *b, size_t n, struct ql_err *e)
{
	size_t slots;
	int bits;

	if (n > 4 * (size_t)QL_MERGES_MAX)
		return ql_err_param(e, QL_ELIMIT, "merges", "%zu merges, more than the %zu allowed", n,
				    4 * (size_t)QL_MERGES_MAX);
	slots = table_size(n, &bits);
	b->merges_mask = (uint32_t)(slots - 1);
	b->merges_shift = 64 - bits;
	b->merges = malloc(slots * sizeof *b->merges);
	if (b->merges == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the merges");
	memset(b->merges, 0xff, slots * sizeof *b->merges);
	return QL_OK;
}

int ql_bpe_merge_add(struct ql_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id, bool replace,
		     struct ql_err *e)
{
	uint64_t key = (uint64_t)left << 32 | right;
	uint32_t i = merge_slot(b, key), probes = 0;

	for (; b->merges[i].key != UINT64_MAX && b->merges[i].key != key; i = (i + 1) & b->merges_mask)
		if (++probes > PROBES_MAX)
			return ql_err_param(e, QL_ELIMIT, "merges", "merge %u: too many hash collisions", rank);
	if (b->merges[i].key == key && !replace)
		return QL_OK;
	b->n_merges += b->merges[i].key != key;
	b->merges[i] = (struct ql_bpe_merge){key, rank, id};
	return QL_OK;
}

static void find_characters(struct ql_bpe *b)
{
	for (int c = 0; c < 128; c++) {
		char ch = (char)c;

		b->ascii[c] = ql_bpe_find(b, &ch, 1);
	}
	b->meta = ql_bpe_find(b, "\xe2\x96\x81", 3);
}

int ql_bpe_finish(struct ql_bpe *b, struct ql_err *e)
{
	struct ql_bpe_work w = {0};
	struct ql_ids ids = {0};
	int rc = QL_OK;

	find_characters(b);
	for (uint32_t i = 0; rc == QL_OK && i < b->n; i++) {
		size_t len;
		const char *p = ql_bpe_text(b, i, &len);

		/* whole is still 0 for i here, so this is the real algorithm */
		if (len == 0 || ql_bpe_find(b, p, len) != i)
			continue;
		ids.n = 0;
		rc = ql_bpe_encode(b, &w, p, len, NULL, 0, &ids, e);
		b->whole[i] = b->ignore_merges || (ids.n == 1 && ids.ids[0] == (int32_t)i);
	}
	ql_bpe_work_free(&w);
	ql_ids_free(&ids);
	return rc;
}

void ql_bpe_free(struct ql_bpe *b)
{
	free(b->blob);
	free(b->off);
	free(b->whole);
	free(b->map);
	free(b->merges);
	*b = (struct ql_bpe){0};
}
