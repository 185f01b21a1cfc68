/* tok_spec.h - a tokenizer as GGUF metadata describes it, in memory; see tok.h.  All pointers are borrowed and need to
 * live only during ql_tok_from_spec. */
#ifndef QL_TEXT_TOK_SPEC_H
#define QL_TEXT_TOK_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ql_tok_str {
	const char *p;
	size_t len;
};

enum ql_tok_type { /* tokenizer.ggml.token_type */
	QL_TOK_NORMAL = 1,
	QL_TOK_UNKNOWN = 2,
	QL_TOK_CONTROL = 3,
	QL_TOK_USER_DEFINED = 4,
	QL_TOK_UNUSED = 5,
	QL_TOK_BYTE = 6
};

enum ql_tok_model { QL_TOK_MODEL_GPT2, QL_TOK_MODEL_SPM };

struct ql_tok_spec {
	enum ql_tok_model model;
	const char *pre;                  /* pre-tokeniser name (model gpt2): gpt-2, smollm, llama-bpe, qwen2, … */
	const struct ql_tok_str *tokens;  /* n_tokens; byte-level strings in the GPT-2 alphabet, or SentencePiece pieces */
	size_t n_tokens;
	const int32_t *types;             /* enum ql_tok_type each; NULL = all normal */
	const float *scores;              /* required for SPM */
	const struct ql_tok_str *merges;  /* "left right", rank = index; required for gpt2 */
	size_t n_merges;
	int32_t bos, eos, eot, pad, unk;  /* -1 = none */
	bool add_bos, add_eos;
	bool add_space_prefix;            /* SPM: a space in front of each run of text */
};

#endif
