/* tok.h - tokenizers: text to token ids with byte offsets, ids to bytes.
 *
 * Two models share one engine (bpe.h): byte-level BPE (GPT-2 family: GGUF model "gpt2", tokenizer.json with ByteLevel)
 * and SentencePiece-style BPE (GGUF model "llama", tokenizer.json with byte_fallback).  The order of work is that of
 * HF `tokenizers`: (1) added tokens with normalized:false are cut out of the text, (2) what lies between is normalised,
 * (3) added tokens with normalized:true are cut out, (4) pre-tokeniser, (5) BPE piece by piece, (6) BOS/EOS if asked.
 *
 * A struct ql_tok is immutable after loading and may be shared by any number of threads.  Text is UTF-8; invalid UTF-8
 * is refused with the offset of the first bad byte.  Everything from a file is checked against core/base/limits.h. */
#ifndef QL_TEXT_TOK_H
#define QL_TEXT_TOK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/base/err.h"
#include "core/text/span.h"

struct ql_gguf;
struct ql_tok;
struct ql_tok_spec; /* tok_spec.h: a tokenizer in memory, independent of any file */

/* Token ids with, for each, the byte offset in the text of the first byte it stands for.  Zero-initialise. */
struct ql_ids {
	int32_t *ids;
	uint32_t *begin;
	size_t n, cap;
};
int ql_ids_push(struct ql_ids *v, int32_t id, uint32_t begin); /* QL_OK or QL_ENOMEM */
void ql_ids_free(struct ql_ids *v);                            /* also wipes the struct; accepts a zeroed one */

/* ---- loading.  Each sets *out (owned by the caller) or returns QL_EFORMAT, QL_EUNSUPPORTED (an unknown component, named),
 * QL_ELIMIT or QL_ENOMEM and leaves *out NULL. */
int ql_tok_from_spec(struct ql_tok **out, const struct ql_tok_spec *spec, struct ql_err *e);
/* From the tokenizer.ggml.* keys of an open GGUF file; nothing of g is referenced afterwards. */
int ql_tok_from_gguf(struct ql_tok **out, const struct ql_gguf *g, struct ql_err *e);
/* From the texts of tokenizer.json and tokenizer_config.json (config may be NULL, len2 0). */
int ql_tok_from_json(struct ql_tok **out, const char *tokenizer_json, size_t len, const char *tokenizer_config_json,
		     size_t len2, struct ql_err *e);
void ql_tok_free(struct ql_tok *t); /* accepts NULL */

/* ---- facts */
int32_t ql_tok_vocab_size(const struct ql_tok *t); /* highest id + 1; ids in [0, size) */
int32_t ql_tok_bos(const struct ql_tok *t);        /* each -1 if there is none */
int32_t ql_tok_eos(const struct ql_tok *t);
int32_t ql_tok_eot(const struct ql_tok *t); /* end of turn: <|im_end|>, <|eot_id|>, <end_of_turn>, <|end|>, … */
int32_t ql_tok_pad(const struct ql_tok *t);
int32_t ql_tok_unk(const struct ql_tok *t);
bool ql_tok_add_bos(const struct ql_tok *t); /* does QL_TOK_ADD_SPECIAL put a BOS in front? */
bool ql_tok_add_eos(const struct ql_tok *t);
/* The stop set: EOS and the end-of-turn tokens <|eot_id|>, <|eom_id|>, <|im_end|>, <|end|>, <end_of_turn>, … where they
 * exist as special tokens.  False for ids out of range. */
bool ql_tok_is_stop(const struct ql_tok *t, int32_t id);
bool ql_tok_is_special(const struct ql_tok *t, int32_t id); /* HF special:true, GGUF control/unknown */
bool ql_tok_is_added(const struct ql_tok *t, int32_t id);   /* special or user-defined */
/* The bytes the token stands for: byte-level and <0xNN> decoded, SentencePiece's U+2581 as a space, special tokens as their
 * text.  Not NUL-terminated; may be incomplete UTF-8; valid as long as t.  NULL and *len 0 for ids out of range. */
const char *ql_tok_piece(const struct ql_tok *t, int32_t id, size_t *len);
/* Id of the added or special token with this text, else of the vocabulary entry that stands for these bytes, else -1. */
int32_t ql_tok_id_of(const struct ql_tok *t, const char *text, size_t len);
/* SHA-256 over everything that decides ids and pieces, in hex: equal hashes mean equal behaviour. */
void ql_tok_hash(const struct ql_tok *t, char hex[65]);

/* ---- text to ids */
#define QL_TOK_ADD_SPECIAL 1u   /* put BOS in front / EOS at the end where the tokenizer says so, unless already there */
#define QL_TOK_PARSE_SPECIAL 2u /* recognise special tokens written out in the text */

/* Appends the ids of text[0..len) to *out.
 * plain: n_plain sorted, non-overlapping byte ranges of untrusted text.  A special token is recognised only with
 * QL_TOK_PARSE_SPECIAL and only if it lies entirely outside all of them.  A user-defined token (added, not special) is
 * recognised with or without the flag, as in HF and llama.cpp, but inside or touching a plain range only if it is no markup,
 * that is, contains none of < > [ ] | (so runs of blanks still are one token, <think> or <tool_call> are not).
 * Tokenise a rendered chat template without QL_TOK_ADD_SPECIAL: it has its own BOS.
 * begin of BOS is 0, of EOS len.  Where normalisation changed the text, begin is the start of the changed cluster.
 * Errors: QL_EFORMAT (UTF-8, with offset), QL_ELIMIT (text longer than QL_TOK_TEXT_MAX; a pattern of the file hit its match
 * limit), QL_EINVAL (bad plain ranges), QL_ENOMEM.  On error *out keeps what it held before the call. */
int ql_tok_encode(const struct ql_tok *t, const char *text, size_t len, unsigned flags, const struct ql_span *plain,
		  size_t n_plain, struct ql_ids *out, struct ql_err *e);

/* ---- ids to text: the finished text of detok.h in one call.  Valid UTF-8 is appended to *out: bytes that form no character
 * become U+FFFD.  skip_special leaves out special tokens.  QL_EINVAL for an id out of range. */
int ql_tok_decode(const struct ql_tok *t, const int32_t *ids, size_t n, bool skip_special, struct ql_buf *out,
		  struct ql_err *e);

#endif
