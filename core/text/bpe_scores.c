/* bpe_scores.c - merges of a SentencePiece vocabulary.  SentencePiece joins the neighbours whose concatenation is the token
 * of highest score, leftmost among equals; so every cut of a token's text into two symbols is a merge, and equal scores
 * share a rank. */
#include <stdlib.h>

#include "core/base/limits.h"
#include "core/text/bpe.h"

/* sum of len² over the tokens: what hashing all their cuts costs */
#define CUT_WORK_MAX ((uint64_t)1 << 33)

struct scored {
	float score;
	uint32_t id;
};

static int by_score(const void *a, const void *b)
{
	const struct scored *x = a, *y = b;

	if (x->score != y->score)
		return x->score > y->score ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Calls add for each cut, or only counts. */
static int cuts(struct ql_bpe *b, uint32_t id, uint32_t rank, bool add, size_t *count, struct ql_err *e)
{
	size_t len;
	const char *p = ql_bpe_text(b, id, &len);

	for (size_t i = 1; i < len; i++) {
		uint32_t l, r;
		int rc;

		if (!b->bytes && ((uint8_t)p[i] & 0xc0) == 0x80)
			continue;
		l = ql_bpe_find(b, p, i);
		r = l == QL_BPE_NONE ? l : ql_bpe_find(b, p + i, len - i);
		if (r == QL_BPE_NONE)
			continue;
		(*count)++;
		rc = add ? ql_bpe_merge_add(b, l, r, rank, id, false, e) : QL_OK;
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_bpe_merges_from_scores(struct ql_bpe *b, const float *scores, struct ql_err *e)
{
	struct scored *order;
	uint64_t work = 0;
	size_t n = 0, count = 0;
	uint32_t rank = 0;
	int rc = QL_OK;

	order = malloc((size_t)b->n * sizeof *order);
	if (order == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the vocabulary");
	for (uint32_t i = 0; i < b->n; i++) {
		size_t len;
		const char *p = ql_bpe_text(b, i, &len);

		if (scores[i] != scores[i]) {
			rc = ql_err_param(e, QL_ENONFINITE, "scores", "the score of token %u is NaN", i);
			goto cleanup;
		}
		work += (uint64_t)len * len;
		if (len > 0 && ql_bpe_find(b, p, len) == i)
			order[n++] = (struct scored){scores[i], i};
	}
	if (work > CUT_WORK_MAX) {
		rc = ql_err_param(e, QL_ELIMIT, "vocabulary", "the tokens are too long for a SentencePiece vocabulary");
		goto cleanup;
	}
	qsort(order, n, sizeof *order, by_score);
	for (size_t i = 0; i < n; i++)
		(void)cuts(b, order[i].id, 0, false, &count, e);
	rc = ql_bpe_merges_reserve(b, count, e);
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		if (i > 0 && order[i].score != order[i - 1].score)
			rank++;
		rc = cuts(b, order[i].id, rank, true, &count, e);
	}
cleanup:
	free(order);
	return rc;
}
