/* tok_json.h - the parts of a tokenizer.json, shared by tok_json*.c only. */
#ifndef QL_TEXT_TOK_JSON_H
#define QL_TEXT_TOK_JSON_H

#include "core/base/json.h"
#include "core/text/tok_priv.h"

/* What the decoder makes of a token's text. */
struct ql_tok_decoder {
	bool bytes;    /* ByteLevel */
	bool meta;     /* U+2581 becomes a space */
	bool fallback; /* <0xNN> becomes the byte */
	uint8_t strip; /* leading spaces to drop from the whole text */
};

/* Each reads one component (NULL or JSON null = absent); an unknown kind is QL_EUNSUPPORTED naming it. */
int ql_tok_json_normalizer(struct ql_norm *n, const json_t *v, struct ql_err *e);
/* Sets t->pretok, t->pre_norm and *bytes (a ByteLevel is among them). */
int ql_tok_json_pre_tokenizer(struct ql_tok *t, const json_t *v, bool *bytes, struct ql_err *e);
int ql_tok_json_post_processor(struct ql_tok *t, const json_t *v, struct ql_err *e);
int ql_tok_json_decoder(struct ql_tok_decoder *d, const json_t *v, struct ql_err *e);

/* v["type"], or "" if v is no object with one. */
const char *ql_tok_json_type(const json_t *v);

#endif
