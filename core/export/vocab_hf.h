/* vocab_hf.h - tokenizer.json + tokenizer_config.json as GGUF tokenizer keys. */
#ifndef QL_EXPORT_VOCAB_HF_H
#define QL_EXPORT_VOCAB_HF_H

#include "core/formats/arch.h"
#include "core/formats/gguf.h"

/* Writes tokenizer.ggml.* for a byte-level BPE tokenizer or one of SentencePiece's style (BPE with byte_fallback).  config may be
 * NULL.  QL_EUNSUPPORTED names the part of the tokenizer that llama.cpp has no name for (an unknown pre-tokenizer pattern, …). */
int ql_vocab_hf_write(struct ql_gguf_writer *w, const struct ql_arch *arch, const char *tokenizer, size_t tokenizer_len,
		      const char *config, size_t config_len, struct ql_err *e);

#endif
