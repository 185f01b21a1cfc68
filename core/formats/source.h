/* source.h - one view of a base model, whether it lies in a GGUF file or in a Hugging Face directory.
 *
 * Tensors go by their HF names and HF row order ("model.layers.3.self_attn.q_proj.weight", rotate-half rows): GGUF files of
 * architecture `llama` are un-permuted while reading.  Opening checks that every expected tensor is there with the right
 * shape and a type we can read, and that there is no other (HF: *.rotary_emb.inv_freq, GGUF: rope_freqs.weight may be).
 * The mapped files must not change while open.  Reading is thread-safe; the struct is constant after open. */
#ifndef QL_FORMATS_SOURCE_H
#define QL_FORMATS_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/pool.h"
#include "core/formats/arch.h"

struct ql_gguf;
struct ql_q4;
struct ql_source;

struct ql_source_tensor {
	const char *name;    /* HF name; valid until ql_source_close */
	enum ql_dtype dtype; /* as stored */
	int n_dims;	     /* 1 or 2 */
	uint64_t rows, cols, n; /* row-major [rows, cols], n = rows·cols; 1-D: rows = 1 */
	const void *data;	/* stored bytes (file row order: use the functions below) */
	size_t bytes;
	const struct ql_q4 *q4; /* dtype NF4, FP4: codes and scales (never permuted), valid until ql_source_close; else NULL */
	uint32_t permute_head_dim; /* 0: rows in HF order; else GGUF `llama` order of heads of this size */
};

/* path: a .gguf file or a directory with config.json and model.safetensors or model.safetensors.index.json + shards.  Links
 * are followed (the operator named it); shard names must be plain names in the directory.  On failure *out is NULL. */
int ql_source_open(struct ql_source **out, const char *path, struct ql_err *e);
void ql_source_close(struct ql_source *s); /* accepts NULL */

const struct ql_arch *ql_source_arch(const struct ql_source *s);
/* Fills *t; QL_ENOTFOUND for any other name (lm_head.weight of a tied model too). */
int ql_source_find(const struct ql_source *s, const char *name, struct ql_source_tensor *t, struct ql_err *e);
/* Rows [row_begin, row_begin + n_rows) as fp32 into dst[n_rows·cols], dequantised, HF order.  QL_EINVAL out of range;
 * QL_ENONFINITE naming the tensor and the row if a value is NaN or infinite. */
int ql_source_read_f32(const struct ql_source *s, const struct ql_source_tensor *t, uint64_t row_begin, uint64_t n_rows,
		       float *dst, struct ql_err *e);
/* The tensor's bytes are not needed soon (core/base/io.h, ql_map_drop). */
void ql_source_drop(const struct ql_source *s, const struct ql_source_tensor *t);
/* The stored bytes when they are in HF row order, else NULL. */
const void *ql_source_raw(const struct ql_source *s, const struct ql_source_tensor *t, size_t *bytes);

/* Identity of the weights.  GGUF: SHA-256 of the file.  HF: SHA-256 over the lines "<sha256 of file>  <name>\n" of
 * config.json and then of the weight files in name order (bytewise); of a file above 256 MiB, the SHA-256 over the digits of the SHA-256
 * of each 256 MiB piece, so that many threads can share the work (pool may be NULL).  Reads everything; keep the result. */
int ql_source_hash(const struct ql_source *s, struct ql_pool *pool, char hex[65], struct ql_err *e);
/* SHA-256 over path, size, time of change and inode of each of these files: while it stays the same, so do the weights.  False: a file
 * cannot be looked at. */
bool ql_source_stamp(const struct ql_source *s, char hex[65]);

const struct ql_gguf *ql_source_gguf(const struct ql_source *s); /* NULL for a directory */
const char *ql_source_dir(const struct ql_source *s);		 /* NULL for a GGUF file */
const char *ql_source_path(const struct ql_source *s);		 /* as given to open */
/* general.name, or the file's or directory's name (without .gguf); UTF-8, never empty. */
const char *ql_source_name(const struct ql_source *s);
/* Chat template source or NULL.  GGUF: tokenizer.chat_template.  HF: chat_template.jinja, else tokenizer_config.json (a
 * string, or the entry named "default").  NUL-terminated. */
const char *ql_source_chat_template(const struct ql_source *s, size_t *len);
/* A second template for conversations with tools, or NULL.  GGUF: tokenizer.chat_template.tool_use.  HF:
 * additional_chat_templates/tool_use.jinja, else tokenizer_config.json's entry named "tool_use". */
const char *ql_source_tool_template(const struct ql_source *s, size_t *len);

#endif
