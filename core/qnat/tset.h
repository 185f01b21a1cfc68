/* tset.h - one view over the tensors of any container: GGUF, safetensors (4-bit tensors in bitsandbytes' layout folded into
 * one), QNAT, a Hugging Face directory (config.json + weights), a PEFT adapter directory.
 *
 * Names, order and bytes are the container's own; shapes are row-major (GGUF's ne turned round).  With `model_names` a GGUF
 * file of a known architecture shows Hugging Face names and row order instead (ql_source), so that it can be compared with a
 * directory.  Values are fp32 in pieces of any size: nothing larger than a piece is held.  Constant after open, thread-safe. */
#ifndef QL_QNAT_TSET_H
#define QL_QNAT_TSET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/formats/gguf.h"
#include "core/formats/safetensors.h"
#include "core/qnat/qnat.h"
#include "core/quant/q4.h"

enum ql_tset_kind { QL_TSET_SAFETENSORS, QL_TSET_GGUF, QL_TSET_QNAT, QL_TSET_HF, QL_TSET_PEFT };

struct ql_tset;

struct ql_tset_tensor {
	const char *name;
	const char *type;    /* as the file calls it, lower case: "q4_k", "bf16", "nf4" … */
	enum ql_dtype dtype; /* QL_DTYPE_COUNT: known by size only, its values cannot be read */
	bool values;	     /* can be read as fp32 */
	int n_dims;
	uint64_t shape[QL_ST_DIMS_MAX]; /* row-major, unused entries 1 */
	uint64_t n;
	uint64_t bytes;	  /* as stored, scales and maps of a folded 4-bit tensor included */
	const void *data; /* stored bytes; NULL for 4-bit and permuted ones */
	const struct ql_q4 *q4; /* a folded 4-bit tensor; else NULL */
	const struct ql_qnat_tensor *qnat; /* a QNAT tensor; else NULL */
	uint32_t permute; /* private: head size of permuted rows */
};

/* On failure *out is NULL and the error says which file. */
int ql_tset_open(struct ql_tset **out, const char *path, bool model_names, struct ql_err *e);
void ql_tset_close(struct ql_tset *s); /* accepts NULL */

enum ql_tset_kind ql_tset_kind(const struct ql_tset *s);
const char *ql_tset_kind_name(enum ql_tset_kind k); /* "GGUF" … */
size_t ql_tset_count(const struct ql_tset *s);
const struct ql_tset_tensor *ql_tset_at(const struct ql_tset *s, size_t i); /* i < count */
const struct ql_tset_tensor *ql_tset_find(const struct ql_tset *s, const char *name); /* NULL if absent */

/* Elements [begin, begin + count) as fp32; begin and count are multiples of the type's block (permuted and block types: whole
 * rows).  QL_EUNSUPPORTED: values cannot be read; QL_EINVAL, QL_ESHAPE.  Values may be NaN or infinite. */
int ql_tset_read(const struct ql_tset *s, const struct ql_tset_tensor *t, uint64_t begin, uint64_t count, float *dst,
		 struct ql_err *e);

/* The tensor's bytes are not needed soon (core/base/io.h, ql_map_drop). */
void ql_tset_drop(const struct ql_tset *s, const struct ql_tset_tensor *t);

/* The container behind it, NULL if it is another one. */
const struct ql_gguf *ql_tset_gguf(const struct ql_tset *s);
const struct ql_qnat *ql_tset_qnat(const struct ql_tset *s);
const struct ql_st *ql_tset_st(const struct ql_tset *s, size_t i); /* i-th weight file of safetensors, HF, PEFT; NULL past the end */

/* Folds X.weight and its companions of `st` into *q (arrays borrowed from the file, codes copied where misaligned: owned is
 * set).  QL_ENOTFOUND when `t` is no 4-bit tensor; QL_EFORMAT names the key at fault. */
int ql_tset_bnb(const struct ql_st *st, const struct ql_st_tensor *t, struct ql_q4 *q, struct ql_tset_tensor *out,
		struct ql_err *e);
/* Is this key a companion of a 4-bit tensor of the same file? */
bool ql_tset_bnb_companion(const struct ql_st *st, const char *name);

#endif
