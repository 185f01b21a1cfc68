/* tok_added.h - added tokens: finding them in a text, longest first at the leftmost place. */
#ifndef QL_TEXT_TOK_ADDED_H
#define QL_TEXT_TOK_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

struct ql_added {
	int32_t id;
	char *text; /* owned, NUL-terminated */
	size_t len;
	bool special;     /* else user-defined */
	bool normalized;  /* looked for after normalisation */
	bool single_word; /* not next to word characters */
	bool lstrip, rstrip; /* swallows the white space before, after it */
	bool markup; /* text contains one of < > [ ] | */
};

/* Byte trie; the children of a node are contiguous and sorted. */
struct ql_trie_node {
	uint32_t first_child;
	uint16_t n_children;
	uint8_t byte;
	int32_t value; /* -1 = none */
};
struct ql_trie {
	struct ql_trie_node *nodes; /* [0] is the root; NULL when empty */
	bool starts[256];           /* bytes some text begins with */
};
struct ql_trie_entry {
	const char *text;
	size_t len;
	int32_t value; /* >= 0 */
};
/* Sorts entries.  Of equal texts the one with the lowest value counts; empty texts are left out. */
int ql_trie_build(struct ql_trie *t, struct ql_trie_entry *entries, size_t n, struct ql_err *e);
void ql_trie_free(struct ql_trie *t);
/* The value of the longest text at p that `accept` (ctx, value, length) takes, and its length; -1 if none. */
typedef bool ql_trie_accept_fn(void *ctx, int32_t value, size_t len);
int32_t ql_trie_longest(const struct ql_trie *t, const char *p, const char *end, ql_trie_accept_fn *accept, void *ctx,
			size_t *len);

#endif
