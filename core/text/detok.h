/* detok.h - token ids to text, one id at a time, for streams.
 *
 * Only whole UTF-8 characters come out; an incomplete tail is held back (at most 3 bytes) until the next ids complete it or
 * ql_detok_finish.  The concatenation of all output equals ql_tok_decode of all ids, however the ids were dealt.
 * Bytes that form no character become U+FFFD: one per maximal invalid part for byte-level tokenizers (Rust's
 * from_utf8_lossy, thus HF's ByteLevel decoder), one per byte for byte-fallback ones (HF's ByteFallback, except that HF
 * replaces a whole run of byte tokens if any of it is invalid, which no stream could do).
 *
 *	struct ql_detok d;
 *	ql_detok_init(&d, tok, true);
 *	for each id: ql_detok_push(&d, id, &text, e);
 *	ql_detok_finish(&d, &text);
 * A struct ql_detok is plain memory (copy it to fork a stream), bound to one tokenizer that must outlive it. */
#ifndef QL_TEXT_DETOK_H
#define QL_TEXT_DETOK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/buf.h"
#include "core/base/err.h"

struct ql_tok;

struct ql_detok {
	const struct ql_tok *tok;
	bool skip_special;
	uint8_t n_held;  /* bytes in held */
	uint8_t n_strip; /* leading spaces still to drop (SentencePiece's dummy prefix) */
	char held[4];
};

void ql_detok_init(struct ql_detok *d, const struct ql_tok *tok, bool skip_special);
/* The same for text that continues other text: no leading space is dropped. */
void ql_detok_init_continue(struct ql_detok *d, const struct ql_tok *tok, bool skip_special);
/* Appends to *out what became whole; may append nothing.  QL_EINVAL for an id out of range, QL_ENOMEM. */
int ql_detok_push(struct ql_detok *d, int32_t id, struct ql_buf *out, struct ql_err *e);
/* Appends what is held back (as U+FFFD); d is then as after init. */
int ql_detok_finish(struct ql_detok *d, struct ql_buf *out);

#endif
