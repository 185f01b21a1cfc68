/* export.h - what leaves the house: merged GGUF, GGUF LoRA, merged Hugging Face directory.
 *
 * Merging: W' = round(W + s·B·A), W the fp32 base weight given by a callback (by default the dequantised NF4 the adapter was
 * trained on), the product accumulated in fp64, one rounding to the target type, then a finite check; f16 also checks
 * |W'| ≤ 65504.  Block types are quantised from the fp32 W', never from a 16-bit rounding.  Tied embeddings stay tied.
 * All files are written durably or not at all, in bounded memory (a few rows of a tensor at a time; GGUF and safetensors
 * files of any size).  File layouts: core/formats/gguf.h, safetensors.h; names and metadata: llama.cpp's converter. */
#ifndef QL_EXPORT_EXPORT_H
#define QL_EXPORT_EXPORT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/base/pool.h"
#include "core/formats/peft.h"
#include "core/formats/source.h"

#define QL_EXPORT_DIGEST 32

enum ql_export_type {
	QL_EXPORT_F32, QL_EXPORT_F16, QL_EXPORT_BF16, QL_EXPORT_Q8_0, QL_EXPORT_Q4_0,
	QL_EXPORT_Q4_K_M, QL_EXPORT_Q5_K_M, QL_EXPORT_Q6_K,
	QL_EXPORT_TYPES
};
const char *ql_export_type_name(enum ql_export_type t); /* "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k_m", … */
enum ql_export_type ql_export_type_of(const char *name); /* QL_EXPORT_TYPES if unknown */

/* Everything an export takes.  source gives metadata, tokenizer and, when read_f32 is NULL, the weights too (the original
 * ones); read_f32 otherwise gives every weight as fp32 rows in HF order, for names of ql_arch_tensor_at.  adapter may be
 * NULL: then the base itself is exported. */
struct ql_export {
	const struct ql_source *source;
	int (*read_f32)(void *ctx, const char *hf_name, uint64_t row_begin, uint64_t n_rows, float *dst, struct ql_err *e);
	void *ctx;
	const struct ql_adapter_file *adapter;
	const char *name;	    /* general.name of the result; NULL = the source's */
	const char *chat_template;  /* replaces the source's template; NULL = keep */
	struct ql_pool *pool;	    /* may be NULL */
	/* [ql_arch_tensor_count], zeroed by the caller, or NULL: writing a merged model notes a digest (BLAKE2b) of each tensor's
	 * bytes, and verifying compares the whole file with them, beside recomputing some rows. */
	uint8_t (*digests)[QL_EXPORT_DIGEST];
	/* Called now and then with fractions of the work; returning non-zero cancels (QL_ECANCELLED, no file left). */
	int (*progress)(void *progress_ctx, double done);
	void *progress_ctx;
};

/* Merged model as one GGUF file `file` in dirfd.  From a GGUF source all metadata is carried over; from an HF directory it is
 * derived, which needs a byte-level BPE tokenizer.json whose pre-tokenizer llama.cpp knows (else QL_EUNSUPPORTED, named). */
int ql_export_gguf(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e);
/* The adapter as GGUF LoRA; type f32 or f16; x->adapter required; scales are baked (adapter.lora.alpha / r is right for
 * every tensor). */
int ql_export_gguf_lora(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e);
/* Merged model as HF directory into the (empty) directory dirfd: model.safetensors in bf16 or f16 (or f32), config.json with
 * dtype and without quantization_config, every other non-weight file copied.  The source must be an HF directory. */
int ql_export_hf(const struct ql_export *x, enum ql_export_type type, int dirfd, struct ql_err *e);

/* For merging into the original weights (read_f32 NULL).  check: every linear of the source is stored in 16 or 32 bits, else
 * QL_EUNSUPPORTED with param merge_base.  diff: over all linears, W original against the Q that x->read_f32 gives:
 * relative_rms = √(Σ(W - Q)²/ΣW²) in fp64, max_abs = max|W - Q|.  Reads every linear once, telling x->progress, which may cancel. */
struct ql_export_diff {
	double relative_rms, max_abs;
	uint32_t tensors;
};
int ql_export_check_original(const struct ql_source *s, struct ql_err *e);
int ql_export_base_diff(const struct ql_export *x, struct ql_export_diff *out, struct ql_err *e);

/* Re-read checks: opens what was written with our readers; the tensor set, shapes and types, every value finite, and for
 * each tensor some rows (first, last, and others spread over it) recomputed from base and adapter: their bytes must be equal.
 * QL_EMISMATCH, QL_ENONFINITE, QL_EFORMAT name the tensor. */
int ql_export_verify_gguf(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file, struct ql_err *e);
int ql_export_verify_gguf_lora(const struct ql_export *x, enum ql_export_type type, int dirfd, const char *file,
			       struct ql_err *e);
int ql_export_verify_hf(const struct ql_export *x, enum ql_export_type type, int dirfd, struct ql_err *e);
/* The same for a PEFT directory written with ql_adapter_write in F32, not baked: every value, rank and scale. */
int ql_export_verify_peft(const struct ql_export *x, int dirfd, struct ql_err *e);

#endif
