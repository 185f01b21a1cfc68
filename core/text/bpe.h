/* bpe.h - byte-pair encoding of one piece: the vocabulary, the merges, and the algorithm.
 *
 * A piece is cut into symbols (bytes, or UTF-8 characters); then the adjacent pair of lowest rank, leftmost among equals, is
 * replaced by the merged symbol until no pair has a merge.  Short pieces scan for the minimum; long ones use a heap, so that
 * n bytes take O(n log n).  SentencePiece's BPE (the pair whose concatenation has the highest score) is the same with a
 * merge for every way to cut a token in two, ranked by score (ql_bpe_merges_from_scores).
 * Sources: tokenizers models/bpe/{model,word}.rs; llama.cpp llama-vocab.cpp. */
#ifndef QL_TEXT_BPE_H
#define QL_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/text/tok.h"
#include "core/text/tok_spec.h"

#define QL_BPE_NONE UINT32_MAX

struct ql_bpe_slot {
	uint32_t hash;
	uint32_t id; /* QL_BPE_NONE = free */
};

struct ql_bpe_merge {
	uint64_t key; /* left << 32 | right; UINT64_MAX = free */
	uint32_t rank, id;
};

struct ql_bpe {
	/* set by the caller before ql_bpe_finish */
	bool bytes;         /* symbols are bytes, else UTF-8 characters */
	bool ignore_merges; /* a piece that is a token as a whole is emitted at once */
	bool byte_fallback; /* an unknown character becomes its bytes' tokens, if byte_id has them all */
	bool fuse_unk;      /* neighbouring unknown characters give one unk */
	bool late;          /* unknown symbols take part in merging as walls and are resolved after it (llama.cpp) */
	int32_t unk;        /* emitted for what has no token; -1 = nothing is emitted */
	int32_t byte_id[256]; /* byte-level: id of each byte; else of its <0xNN>; -1 = none */

	uint32_t n;          /* ids 0..n-1 */
	uint32_t n_symbols;  /* n and characters that occur inside tokens but are none (ids n..) */
	char *blob;          /* text of symbol i: blob[off[i] .. off[i+1]) */
	uint32_t *off;
	uint8_t *whole;      /* token i, encoded as a piece, gives just i */
	size_t longest;      /* bytes of the longest token */
	struct ql_bpe_slot *map;
	uint32_t map_mask;
	struct ql_bpe_merge *merges;
	uint32_t merges_mask, n_merges;
	int merges_shift;
	uint32_t ascii[128]; /* characters: symbol of each ASCII character */
	uint32_t meta;       /* and of U+2581 */
};

/* What a short piece gave: texts repeat their words, and the vocabulary is larger than the processor's caches. */
enum { QL_BPE_CACHE = 32768, QL_BPE_CACHED_BYTES = 72, QL_BPE_CACHED_IDS = 10 };
struct ql_bpe_cached {
	uint8_t len; /* 0 = free */
	uint8_t n;
	uint8_t start[QL_BPE_CACHED_IDS];
	char text[QL_BPE_CACHED_BYTES];
	int32_t ids[QL_BPE_CACHED_IDS];
};

/* Working memory of one thread and one tokenizer; zero-initialise, free with ql_bpe_work_free. */
struct ql_bpe_work {
	struct ql_bpe_cached *cache; /* QL_BPE_CACHE entries, or NULL: none */
	struct ql_bpe_sym *sym;
	size_t sym_cap;
	uint64_t *heap;
	size_t heap_cap;
};
void ql_bpe_work_cache(struct ql_bpe_work *w); /* asks for the cache; worth it from a few KiB of text on */
void ql_bpe_work_free(struct ql_bpe_work *w);

/* Copies the texts (tokens[i].p NULL or len 0: id i has no text here and is never found).  Of equal texts the lowest id is
 * found.  extra: more symbols after the ids (may be NULL, 0). */
int ql_bpe_vocab(struct ql_bpe *b, const struct ql_tok_str *tokens, size_t n, const struct ql_tok_str *extra, size_t n_extra,
		 struct ql_err *e);
/* Room for n merges; then each merge once.  replace: a repeated pair takes the later rank (HF), else keeps the first
 * (llama.cpp). */
int ql_bpe_merges_reserve(struct ql_bpe *b, size_t n, struct ql_err *e);
int ql_bpe_merge_add(struct ql_bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id, bool replace,
		     struct ql_err *e);
/* All merges of a SentencePiece vocabulary; scores of the n ids. */
int ql_bpe_merges_from_scores(struct ql_bpe *b, const float *scores, struct ql_err *e);
/* Fills ascii, meta and whole; call last. */
int ql_bpe_finish(struct ql_bpe *b, struct ql_err *e);
void ql_bpe_free(struct ql_bpe *b);

uint32_t ql_bpe_hash(const char *p, size_t len);
/* The symbol with exactly this text, or QL_BPE_NONE. */
uint32_t ql_bpe_find(const struct ql_bpe *b, const char *p, size_t len);
static inline const char *ql_bpe_text(const struct ql_bpe *b, uint32_t id, size_t *len)
{
	*len = b->off[id + 1] - b->off[id];
	return b->blob + b->off[id];
}
/* The merge of a pair, or NULL. */
const struct ql_bpe_merge *ql_bpe_merge_find(const struct ql_bpe *b, uint32_t left, uint32_t right);

/* Encodes the piece text[0..len), len <= QL_TOK_PIECE_MAX, valid UTF-8 unless b->bytes, and appends to out.  A token that
 * starts at byte i of the piece gets begin map[i] or, with map NULL, base + i. */
int ql_bpe_encode(const struct ql_bpe *b, struct ql_bpe_work *w, const char *text, size_t len, const uint32_t *map,
		  uint32_t base, struct ql_ids *out, struct ql_err *e);

#endif
