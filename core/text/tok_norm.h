/* tok_norm.h - normalisers: text to text, keeping for every byte the offset in the original it stands for.
 *
 * Unicode normalisation goes cluster by cluster (a character that starts a cluster and all that may combine with it): text that
 * is already normal keeps exact offsets, the bytes of a changed cluster all get the offset of its beginning. */
#ifndef QL_TEXT_TOK_NORM_H
#define QL_TEXT_TOK_NORM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/text/pretok.h"

enum ql_norm_kind {
	QL_NORM_PREPEND,        /* a in front */
	QL_NORM_PREPEND_MISSING, /* a in front unless the text begins with it */
	QL_NORM_PREPEND_FIRST,  /* the same, only where the original begins */
	QL_NORM_REPLACE,        /* every a by b */
	QL_NORM_REPLACE_REGEX,  /* every match of regex by b */
	QL_NORM_NFC,
	QL_NORM_NFD,
	QL_NORM_NFKC,
	QL_NORM_NFKD
};

struct ql_norm_step {
	enum ql_norm_kind kind;
	char *a, *b; /* owned */
	size_t a_len, b_len;
	struct ql_regex *regex; /* owned */
};

struct ql_norm {
	struct ql_norm_step *steps;
	size_t n;
};

/* Copies a and b (may be NULL), takes regex (also on failure). */
int ql_norm_add(struct ql_norm *n, enum ql_norm_kind kind, const char *a, const char *b, struct ql_regex *regex, struct ql_err *e);
void ql_norm_free(struct ql_norm *n);

/* A text in work: byte i stands for original offset map[i], or base + i with map NULL; i = len gives the end. */
struct ql_ntext {
	const char *p;
	size_t len;
	const uint32_t *map;
	uint32_t base;
};
static inline uint32_t ql_ntext_origin(const struct ql_ntext *t, size_t i)
{
	return t->map == NULL ? t->base + (uint32_t)i : t->map[i];
}

struct ql_nbuf { /* zero-initialise; free with ql_nbuf_free */
	char *p;
	uint32_t *map;
	size_t len, cap;
};
void ql_nbuf_free(struct ql_nbuf *b);

/* Applies all steps to *t, in place or with its result in one of the two buffers (t must not lie in them). */
int ql_norm_run(const struct ql_norm *n, struct ql_regex_match *m, struct ql_ntext *t, struct ql_nbuf bufs[2], struct ql_err *e);

/* tok_nfc.c: one Unicode normalisation; returns QL_OK and leaves dst empty and *same true if src is normal already. */
int ql_norm_unicode(enum ql_norm_kind kind, const struct ql_ntext *src, struct ql_nbuf *dst, bool *same);
/* Appends src[from..to) with its offsets. */
int ql_nbuf_copy(struct ql_nbuf *b, const struct ql_ntext *src, size_t from, size_t to);
/* Appends len bytes at p; bytes get origin + 0, 1, … if step is 1, all origin if 0. */
int ql_nbuf_add(struct ql_nbuf *b, const char *p, size_t len, uint32_t origin, uint32_t step);

#endif
