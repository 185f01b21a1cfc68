/* vocab_priv.h - tokenizer.json as the writers of vocab_hf.c (byte-level BPE) and vocab_spm.c (SentencePiece-style BPE) see it. */
#ifndef QL_EXPORT_VOCAB_PRIV_H
#define QL_EXPORT_VOCAB_PRIV_H

#include <jansson.h>

#include "core/export/vocab_hf.h"

/* llama.cpp's token types */
enum ql_vocab_kind { QL_VOCAB_NORMAL = 1, QL_VOCAB_UNKNOWN, QL_VOCAB_CONTROL, QL_VOCAB_USER, QL_VOCAB_UNUSED, QL_VOCAB_BYTE };

struct ql_vocab {
	json_t *tok, *cfg;
	uint32_t n;
	char **texts; /* by id; owned */
	int32_t *kinds;
	json_t *ids; /* text → id of every token */
};

/* vocab_hf.c: a string member or ""; a boolean or `absent`; QL_EUNSUPPORTED for a part of tokenizer.json. */
const char *ql_vocab_str(const json_t *o, const char *key);
bool ql_vocab_flag(const json_t *o, const char *key, bool absent);
int ql_vocab_refuse(struct ql_err *e, const char *part, const char *what);

/* vocab_spm.c.  Is the model of SentencePiece's style (BPE with byte_fallback)? */
bool ql_vocab_is_spm(const struct ql_vocab *v);
/* Before the tokens are loaded: is the rest of the shape one that llama.cpp has? */
int ql_vocab_spm_check(const struct ql_vocab *v, bool *space_prefix, struct ql_err *e);
/* After: kinds of byte and unknown tokens; then .scores and .add_space_prefix. */
int ql_vocab_spm_write(struct ql_gguf_writer *w, struct ql_vocab *v, bool space_prefix, struct ql_err *e);

#endif
