/* pretok.h - pre-tokenisers: cut a text into the pieces that BPE works on.
 *
 * A pre-tokeniser is a list of steps; each step cuts the pieces of the one before.  The patterns of the model families we
 * know have hand-written scanners (pretok_scan.c), one pass, no backtracking; any other pattern of a tokenizer.json runs in
 * PCRE2 with match, depth and heap limits (pretok_regex.c).  Patterns: the reference of formats, 7.3 and 2.4.
 * Source of the behaviours: tokenizers, tokenizer/normalizer.rs and pre_tokenizers/. */
#ifndef QL_TEXT_PRETOK_H
#define QL_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

/* Returns the end of the piece that starts at p (p < end); text is valid UTF-8. */
typedef const char *ql_scan_fn(const char *p, const char *end);

ql_scan_fn ql_scan_gpt2;
ql_scan_fn ql_scan_smollm;     /* every \p{N} alone, then gpt-2 on what is between */
ql_scan_fn ql_scan_llama3;     /* contractions (?i:'s|…): U+017F counts as s */
ql_scan_fn ql_scan_llama3_ggml; /* contractions '[sS]|…', as in llama.cpp */
ql_scan_fn ql_scan_qwen2;
ql_scan_fn ql_scan_qwen2_ggml;
ql_scan_fn ql_scan_qwen35;
ql_scan_fn ql_scan_qwen35_ggml;
ql_scan_fn ql_scan_tekken;
ql_scan_fn ql_scan_gpt4o;
ql_scan_fn ql_scan_gpt4o_ggml;
ql_scan_fn ql_scan_digit;  /* \p{N} one by one, the rest in runs */
ql_scan_fn ql_scan_meta;   /* before every U+2581 that follows something else: where SentencePiece words begin */
ql_scan_fn ql_scan_digits; /* \p{N}+ in runs, the rest in runs */

/* The scanner for this exact pattern as tokenizer.json spells it, or NULL. */
ql_scan_fn *ql_scan_for_pattern(const char *pattern);

/* What becomes of the text that matches (HF SplitDelimiterBehavior). */
enum ql_split { QL_SPLIT_REMOVED, QL_SPLIT_ISOLATED, QL_SPLIT_MERGED_PREVIOUS, QL_SPLIT_MERGED_NEXT, QL_SPLIT_CONTIGUOUS };

struct ql_regex; /* a compiled pattern: immutable, shareable */

/* pattern is NUL-terminated, Oniguruma flavour; constructs whose meaning differs in PCRE2 are translated (\s \w \v \uHHHH) or
 * refused by name. */
int ql_regex_new(struct ql_regex **out, const char *pattern, struct ql_err *e);
/* The same for a text to be found as it is. */
int ql_regex_new_literal(struct ql_regex **out, const char *text, size_t len, struct ql_err *e);
void ql_regex_free(struct ql_regex *r);
const char *ql_regex_source(const struct ql_regex *r);
/* First match at or after `from` in text[0..len).  QL_OK and *begin, *end, or QL_ENOTFOUND (no message), or QL_ELIMIT naming
 * the pattern.  match: from ql_regex_match_new, for one thread and one text of text_len bytes, usable with every
 * pattern; all searches with it share one budget of processor time, QL_TOK_REGEX_SECONDS…, so that a pattern whose searches
 * are each within the match limit but quadratic together ends in QL_ELIMIT as well. */
struct ql_regex_match;
struct ql_regex_match *ql_regex_match_new(size_t text_len); /* NULL: no memory */
void ql_regex_match_free(struct ql_regex_match *m);
int ql_regex_find(const struct ql_regex *r, struct ql_regex_match *m, const char *text, size_t len, size_t from, size_t *begin,
		  size_t *end, struct ql_err *e);

/* Which ASCII characters are to be cut apart: bit b % 8 of byte [a][b / 8] for a followed by b. */
struct ql_pretok_apart {
	uint8_t bits[128][16];
};

struct ql_pretok_step {
	ql_scan_fn *scan;       /* either this … */
	struct ql_regex *regex; /* … or this, owned … */
	struct ql_pretok_apart *apart; /* … or this, owned */
	enum ql_split behaviour;
	bool invert; /* what does not match is the delimiter */
	char glued[8]; /* a scanner's cut behind one of these bytes is not made; n_glued of them */
	size_t n_glued;
};

struct ql_pretok {
	struct ql_pretok_step *steps;
	size_t n;
};
int ql_pretok_add(struct ql_pretok *p, struct ql_pretok_step step, struct ql_err *e); /* takes regex, apart, also on failure */
void ql_pretok_free(struct ql_pretok *p);

/* Calls piece(ctx, begin, end) for every piece of text[0..len), in order, until it returns other than QL_OK. */
typedef int ql_piece_fn(void *ctx, size_t begin, size_t end);
int ql_pretok_run(const struct ql_pretok *p, struct ql_regex_match *m, const char *text, size_t len, ql_piece_fn *piece,
		  void *ctx, struct ql_err *e);

#endif
