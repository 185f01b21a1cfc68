/* tok_added.c - the trie of tok_added.h, built breadth first from the sorted texts. */
#include "core/text/tok_added.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"

#define NODES_MAX ((size_t)1 << 24)

static int by_text(const void *a, const void *b)
{
	const struct ql_trie_entry *x = a, *y = b;
	int c = memcmp(x->text, y->text, x->len < y->len ? x->len : y->len);

	if (c != 0)
		return c;
	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return x->value < y->value ? -1 : x->value > y->value;
}

struct range {
	size_t lo, hi, depth; /* entries [lo, hi) share their first `depth` bytes */
};

/* Gives node i its value and its children, appended at *n. */
static void expand(struct ql_trie_node *nodes, struct range *ranges, size_t i, size_t *n, const struct ql_trie_entry *v)
{
	struct range r = ranges[i];

	nodes[i].value = -1;
	nodes[i].first_child = (uint32_t)*n;
	while (r.lo < r.hi && v[r.lo].len == r.depth) {
		if (nodes[i].value < 0)
			nodes[i].value = v[r.lo].value;
		r.lo++;
	}
	while (r.lo < r.hi) {
		uint8_t byte = (uint8_t)v[r.lo].text[r.depth];
		size_t hi = r.lo;

		while (hi < r.hi && (uint8_t)v[hi].text[r.depth] == byte)
			hi++;
		nodes[*n].byte = byte;
		ranges[(*n)++] = (struct range){r.lo, hi, r.depth + 1};
		nodes[i].n_children++;
		r.lo = hi;
	}
}

int ql_trie_build(struct ql_trie *t, struct ql_trie_entry *v, size_t n, struct ql_err *e)
{
	size_t total = 1, used = 1;
	struct range *ranges;

	*t = (struct ql_trie){0};
	for (size_t i = 0; i < n; i++)
		if (!ql_add_size(total, v[i].len, &total) || total > NODES_MAX)
			return ql_err_param(e, QL_ELIMIT, "added_tokens", "the added tokens are too long together");
	if (total == 1)
		return QL_OK;
	qsort(v, n, sizeof *v, by_text);
	while (v->len == 0) { /* some entry is not empty */
		v++;
		n--;
	}
	t->nodes = calloc(total, sizeof *t->nodes);
	ranges = calloc(total, sizeof *ranges);
	if (t->nodes == NULL || ranges == NULL) {
		free(ranges);
		ql_trie_free(t);
		return ql_err_set(e, QL_ENOMEM, "no memory for the added tokens");
	}
	for (size_t i = 0; i < n; i++)
		t->starts[(uint8_t)v[i].text[0]] = true;
	ranges[0] = (struct range){0, n, 0};
	for (size_t i = 0; i < used; i++)
		expand(t->nodes, ranges, i, &used, v);
	free(ranges);
	return QL_OK;
}

void ql_trie_free(struct ql_trie *t)
{
	free(t->nodes);
	*t = (struct ql_trie){0};
}

static const struct ql_trie_node *child(const struct ql_trie *t, const struct ql_trie_node *node, uint8_t byte)
{
	size_t lo = node->first_child, hi = lo + node->n_children;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (t->nodes[mid].byte == byte)
			return &t->nodes[mid];
		if (t->nodes[mid].byte < byte)
			lo = mid + 1;
		else
			hi = mid;
	}
	return NULL;
}

int32_t ql_trie_longest(const struct ql_trie *t, const char *p, const char *end, ql_trie_accept_fn *accept, void *ctx,
			size_t *len)
{
	const struct ql_trie_node *node = t->nodes;
	int32_t best = -1;

	for (const char *q = p; node != NULL && q < end; q++) {
		node = child(t, node, (uint8_t)*q);
		if (node != NULL && node->value >= 0 && accept(ctx, node->value, (size_t)(q + 1 - p))) {
			best = node->value;
			*len = (size_t)(q + 1 - p);
		}
	}
	return best;
}
