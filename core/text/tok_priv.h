/* tok_priv.h - the inside of struct ql_tok, shared by the tok_*.c files only. */
#ifndef QL_TEXT_TOK_PRIV_H
#define QL_TEXT_TOK_PRIV_H

#include "core/text/bpe.h"
#include "core/text/pretok.h"
#include "core/text/tok.h"
#include "core/text/tok_added.h"
#include "core/text/tok_norm.h"

enum { QL_TOK_F_ADDED = 1, QL_TOK_F_SPECIAL = 2, QL_TOK_F_STOP = 4 };
enum { QL_TOK_AFFIX_MAX = 8 };

#define QL_TOK_META "\xe2\x96\x81" /* U+2581, SentencePiece's visible space */

/* Working memory that no call is using, or NULL (tok_encode.c). */
struct ql_tok_spare {
	_Atomic(struct ql_bpe_work *) work;
};

struct ql_tok {
	struct ql_bpe bpe;
	struct ql_tok_spare *spare;
	uint32_t n;          /* ids */
	char *pieces;        /* piece i: pieces[piece_off[i] .. piece_off[i+1]) */
	uint32_t *piece_off;
	uint8_t *flags;      /* QL_TOK_F_* */

	struct ql_added *added;
	size_t n_added;
	struct ql_trie raw, normed; /* values: index into added */

	struct ql_norm norm;     /* before the normed tokens are cut out */
	struct ql_norm pre_norm; /* after it: what Metaspace and ByteLevel put in front or replace */
	struct ql_pretok pretok;
	bool has_regex;          /* some step above needs a struct ql_regex_match */
	char *description;       /* every choice above in words, for the hash */

	int32_t bos, eos, eot, pad, unk;
	int32_t prefix[QL_TOK_AFFIX_MAX], suffix[QL_TOK_AFFIX_MAX]; /* what QL_TOK_ADD_SPECIAL adds */
	size_t n_prefix, n_suffix;
	uint8_t strip;           /* leading spaces to drop when decoding */
	bool fallback_decode;    /* an invalid byte is replaced by itself, not with its neighbours */
	char hash[65];
};

/* ---- tok_build.c: steps shared by the loaders */

/* *out with n ids, all facts "none". */
int ql_tok_new(struct ql_tok **out, size_t n, struct ql_err *e);
/* Copies the pieces (p NULL = empty); once. */
int ql_tok_set_pieces(struct ql_tok *t, const struct ql_tok_str *pieces, struct ql_err *e);
/* Appends an added token; text is copied.  id must be < n. */
int ql_tok_add(struct ql_tok *t, const struct ql_added *a, struct ql_err *e);
/* Tries, stop set, end of turn, cut at word starts, hash.  Everything else must be in place. */
int ql_tok_finish(struct ql_tok *t, struct ql_err *e);

/* GPT-2's byte alphabet: decodes s into out (at least len bytes); false if a character is not of it. */
bool ql_tok_alphabet_decode(const char *s, size_t len, char *out, size_t *out_len);
/* "<0x0A>" → 10, else -1. */
int ql_tok_byte_token(const char *s, size_t len);
/* Fills bpe.byte_id of a character vocabulary from tokens like <0x0A>. */
void ql_tok_byte_ids(struct ql_tok *t, const struct ql_tok_str *tokens, size_t n);
/* Sets t->pretok for a GGUF `pre` name, and *ignore_merges as the name implies; does it imply a BOS as well? */
int ql_tok_pre_from_name(struct ql_tok *t, const char *pre, bool *ignore_merges, struct ql_err *e);
bool ql_tok_pre_adds_bos(const char *pre);

#endif
