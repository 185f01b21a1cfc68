/* export_priv.h - what the writers and the verifier share: the type recipes and the stream of merged rows. */
#ifndef QL_EXPORT_PRIV_H
#define QL_EXPORT_PRIV_H

#include "core/export/export.h"
#include "core/formats/gguf.h"

struct ql_export_type_info {
	const char *name;
	enum ql_dtype base;
	uint32_t file_type; /* general.file_type, llama.h's llama_ftype */
};
extern const struct ql_export_type_info ql_export_types[QL_EXPORT_TYPES];

/* The stored type of one tensor (of the whole it is fused into) in a GGUF of that export type. */
enum ql_dtype ql_export_tensor_type(enum ql_export_type type, const struct ql_arch *a, const struct ql_arch_tensor *t);
/* True if the GGUF rows of this tensor are permuted against HF's. */
bool ql_export_permuted(const struct ql_arch *a, const struct ql_arch_tensor *t);

/* A run over tensors: buffers for one chunk of rows, and progress. */
struct ql_export_run {
	const struct ql_export *x;
	const struct ql_arch *arch;
	bool gguf;	      /* rows as GGUF stores them: norms as 1 + w where the source has w */
	float *rows, *turned; /* merged rows, and the same in GGUF order */
	double *acc;	      /* one row of the product per worker */
	uint8_t *out;	      /* encoded rows */
	size_t chunk;	      /* elements that rows/turned/out hold */
	uint64_t done, total; /* elements, for progress */
};
int ql_export_run_init(struct ql_export_run *r, const struct ql_export *x, struct ql_err *e);
void ql_export_run_free(struct ql_export_run *r);
/* Adds n elements to the progress and reports; QL_ECANCELLED. */
int ql_export_run_step(struct ql_export_run *r, uint64_t n, struct ql_err *e);

/* Merged rows in HF order: dst[i] = W[row + i] + s·B[row + i]·A; fp32.  t is one part of a fused tensor, never the whole. */
int ql_export_merge(struct ql_export_run *r, const struct ql_arch_tensor *t, uint64_t row, uint64_t n_rows, float *dst,
		    struct ql_err *e);
/* Merged rows encoded as dtype, row by row in file order, to sink in pieces. */
int ql_export_stream(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, bool permute,
		     int (*sink)(void *ctx, const void *data, size_t len, struct ql_err *e), void *ctx, struct ql_err *e);
/* Compares `data` (rows of dtype in file order) with recomputed ones at a sample of rows; all values must be finite. */
int ql_export_check_tensor(struct ql_export_run *r, const struct ql_arch_tensor *t, enum ql_dtype dtype, bool permute,
			   const void *data, struct ql_err *e);

/* The pair of a layer's module, NULL if there is none. */
const struct ql_adapter_pair *ql_export_pair(const struct ql_export *x, const struct ql_arch_tensor *t);
/* The source's architecture fits the adapter? */
int ql_export_check_input(const struct ql_export *x, struct ql_err *e);

/* Metadata of a merged GGUF; _hf: the part derived from a Hugging Face directory. */
int ql_export_write_metadata(struct ql_gguf_writer *w, const struct ql_export *x, enum ql_export_type type, struct ql_err *e);
int ql_export_check_gguf(const struct ql_arch *a, struct ql_err *e); /* can llama.cpp run it? QL_EUNSUPPORTED says what not */
int ql_export_write_metadata_hf(struct ql_gguf_writer *w, const struct ql_export *x, struct ql_err *e);

#endif
