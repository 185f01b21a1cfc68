/* text_out.h - the text of one choice as it grows: whole characters, stop strings found across tokens and kept out, text that
 * may begin a stop string held back until it is known. */
#ifndef QL_INFER_TEXT_OUT_H
#define QL_INFER_TEXT_OUT_H

#include "core/text/detok.h"

struct ql_text_out {
	struct ql_detok detok;
	struct ql_buf pending; /* detokenised, not yet given out */
	char *const *stops;    /* borrowed */
	uint32_t n_stops;
};

void ql_text_out_init(struct ql_text_out *t, const struct ql_tok *tok, char *const *stops, uint32_t n_stops);
void ql_text_out_free(struct ql_text_out *t);
/* Takes a token; one beyond the tokenizer's (a model's table may be longer) has no text.  *ready is how much of pending may be given
 * out now; *hit says that a stop string was found (then ready ends before it, and the rest is dropped).  may_stop false: a stop string
 * that ends here does not count (min_tokens); one that a later token completes does. */
int ql_text_out_push(struct ql_text_out *t, int32_t token, bool may_stop, size_t *ready, bool *hit, struct ql_err *e);
/* The end of the text: everything left may go (a stop string completed by the flush is still found). */
int ql_text_out_finish(struct ql_text_out *t, size_t *ready, struct ql_err *e);
/* Drops the first n bytes of pending. */
void ql_text_out_taken(struct ql_text_out *t, size_t n);

#endif
