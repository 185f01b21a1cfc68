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

/* What tok_json.c gathers while it loads. */
struct ql_tok_loader {
	json_t *root, *config;
	const json_t *model, *vocab;
	const json_t *added;       /* list, or NULL */
	struct ql_tok *t;
	struct ql_tok_decoder decoder;
	struct ql_tok_str *names;  /* per id: the vocabulary's string */
	struct ql_tok_str *texts;  /* per id: what BPE works with */
	struct ql_tok_str *pieces; /* per id: what the token stands for */
	char *mem;
	size_t mem_len, names_len;
	struct ql_err *e;
};

/* The id of a vocabulary string, or -1. */
int64_t ql_tok_json_id(const struct ql_tok_loader *l, const char *s, size_t len);
/* From names and flags: texts, pieces, the BPE vocabulary and byte ids. */
int ql_tok_json_texts(struct ql_tok_loader *l);
/* model.merges, as "a b" or ["a", "b"]. */
int ql_tok_json_merges(struct ql_tok_loader *l);

/* v["type"], or "" if v is no object with one. */
const char *ql_tok_json_type(const json_t *v);

#endif
