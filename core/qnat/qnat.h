/* qnat.h - the QNAT container, version 1: tolerant, hostile-safe reader and durable writer.
 *
 *   header            28  "QNAT" · u32 version 1 · u32 flags 0 · u64 metadata_size 0 · u32 tensor_count · u32 reserved 0
 *   metadata           …  u32 length + model_name · u32 length + model_type · u8 dtype (0 F32, 1 F16, 2 BF16)
 *   tensor headers     …  u32 length + name · u32 ndim · ndim × u64 dims (row-major) · u32 block_size · u64 offset ·
 *                         u32 num_blocks                                                              for each tensor
 *   tensor data        …  codes (numel/2 bytes, first element in the LOW nibble, NF4) · num_blocks × f32 scale ·
 *                         [num_blocks × f32 zero point] · [num_blocks × u8 quantised scale · f32 second-level scale]
 * All little-endian, no alignment, no checksum.  The scale of a zero block is 1.
 *
 * Offsets: qlora-rs, where the format comes from (version 1.0.5, native.rs), writes 60 + Σ tensor-header bytes + Σ earlier
 * sizes instead of the true 37 + len(model_name) + len(model_type) + …; only the differences are right.  The writer does the
 * same with `compat` (byte-identical files) and writes true offsets otherwise.  The reader uses the differences alone.
 * Optional parts: not recorded by the format, but a tensor's size tells them, since for N = num_blocks ≥ 1 what follows the
 * scales is 0, 4N, N + 4 or 5N + 4 bytes, four different numbers.  So nothing is guessed and flags stay 0.
 *
 * The reader requires version 1, flags, metadata_size and reserved 0, ndim 1…8, num_blocks·block_size = numel ≥ 1, an even
 * block_size, unique non-empty UTF-8 names, rising offsets whose differences fit, and finite scales.  Files hold NF4 tensors
 * only: norms, embeddings kept in 16 bit, biases and adapters have no place in them. */
#ifndef QL_QNAT_QNAT_H
#define QL_QNAT_QNAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"
#include "core/quant/q4.h"

#define QL_QNAT_TENSORS_MAX 65536
#define QL_QNAT_DIMS_MAX 8

struct ql_qnat;

struct ql_qnat_tensor {
	const char *name; /* NUL-terminated; valid until ql_qnat_close */
	int n_dims;
	uint64_t dims[QL_QNAT_DIMS_MAX]; /* row-major, unused entries 1 */
	uint64_t n;
	uint32_t block_size, num_blocks;
	uint64_t offset_written; /* as the file says */
	uint64_t offset;	 /* where the data is */
	size_t bytes;
	bool zero_points, nested; /* optional parts present */
	bool nested_plausible;	  /* (q - 128)·second-level scale agrees with every f32 scale; true when not nested */
	const uint8_t *data;
};

/* Opens a path the operator named (mapped read-only), or memory that must outlive *out.  On failure *out is NULL:
 * QL_EFORMAT with the offset or the tensor's name, QL_ELIMIT, QL_EUNSUPPORTED (version, odd block size). */
int ql_qnat_open(struct ql_qnat **out, const char *path, struct ql_err *e);
int ql_qnat_open_mem(struct ql_qnat **out, const void *data, size_t size, struct ql_err *e);
void ql_qnat_close(struct ql_qnat *q); /* accepts NULL */

size_t ql_qnat_count(const struct ql_qnat *q);
const struct ql_qnat_tensor *ql_qnat_at(const struct ql_qnat *q, size_t i);		/* file order; i < count */
const struct ql_qnat_tensor *ql_qnat_find(const struct ql_qnat *q, const char *name); /* NULL if absent */
const char *ql_qnat_model_name(const struct ql_qnat *q);
const char *ql_qnat_model_type(const struct ql_qnat *q);
enum ql_dtype ql_qnat_dtype(const struct ql_qnat *q); /* the model's: QL_F32, QL_F16 or QL_BF16 */
bool ql_qnat_offsets_true(const struct ql_qnat *q);   /* are the written offsets where the data is? */

/* Elements [begin, begin + count) as fp32: level·scale.  The codes were made without the zero points, so these are ignored,
 * unless as_written asks for (level + zero point)·scale, which is what the format's own reader would do.  QL_EINVAL: range. */
int ql_qnat_read(const struct ql_qnat_tensor *t, uint64_t begin, uint64_t count, bool as_written, float *dst,
		 struct ql_err *e);
/* The tensor in our own form: nibbles turned, f32 scales.  out->owned is set: free it with ql_q4_free.  Block sizes other
 * than 32 … 4096 give per_channel.  QL_ENOMEM. */
int ql_qnat_to_q4(const struct ql_qnat_tensor *t, struct ql_q4 *out, struct ql_err *e);

struct ql_qnat_spec {
	const char *name;
	int n_dims;
	uint64_t dims[QL_QNAT_DIMS_MAX];
	uint32_t block_size; /* even, divides the number of elements */
	bool zero_points, nested;
};
struct ql_qnat_model {
	const char *name, *type; /* "" allowed */
	enum ql_dtype dtype;	 /* QL_F32, QL_F16, QL_BF16 */
};
#define QL_QNAT_MODEL_DEFAULT {"qlora-model", "qlora", QL_F32}

/* Writing: begin (specs are copied, header and offsets written) → the parts of each tensor in order → commit.  commit (failed
 * or not) and abort free w; abort accepts NULL; commit with tensors missing is QL_ESTATE and leaves no file. */
struct ql_qnat_writer;
int ql_qnat_write_begin(struct ql_qnat_writer **w, int dirfd, const char *file, const struct ql_qnat_model *m,
			const struct ql_qnat_spec *specs, size_t n, bool compat, struct ql_err *e);
/* The next tensor.  codes: [n/2] in our order (first element high).  scale: [num_blocks], 0 is written as 1.  zero:
 * [num_blocks] or NULL; nested: [num_blocks] and nested_scale, or NULL; both as the spec says. */
int ql_qnat_write_tensor(struct ql_qnat_writer *w, const uint8_t *codes, const float *scale, const float *zero,
			 const uint8_t *nested, float nested_scale, struct ql_err *e);
/* The next tensor from ours: NF4 with the standard code book and the spec's block size and count.  With spec.nested the
 * scales are also written as q = rint(scale/s) + 128, s = max scale/127.  QL_EINVAL, QL_ESHAPE. */
int ql_qnat_write_q4(struct ql_qnat_writer *w, const struct ql_q4 *q, struct ql_err *e);
int ql_qnat_write_commit(struct ql_qnat_writer *w, struct ql_err *e);
void ql_qnat_write_abort(struct ql_qnat_writer *w);

#endif
