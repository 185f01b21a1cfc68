/* safetensors.h - the safetensors container: reader (hostile-safe) and durable writer.
 *
 *   offset  size  field
 *        0     8  n, u64 little-endian            1 .. QL_ST_HEADER_MAX
 *        8     n  header, JSON object              name → {"dtype","shape":[…],"data_offsets":[begin,end]},
 *                                                  "__metadata__" → {string: string}
 *    8 + n     …  data                             offsets are relative to here
 *
 * Reader: sorted by begin the tensors must tile the data section exactly (first begin 0, each begin = previous end, last
 * end = file size - 8 - n) and end - begin = bits(dtype)·Πshape/8, all checked; names are UTF-8 of 1..QL_NAME_MAX bytes
 * and unique.  So no tensor reaches outside the file and nothing hides between tensors.
 * Writer: header 8-aligned (padded with spaces), compact JSON, {"format":"pt"}, tensors by dtype size descending, then by
 * name: the same tensors always give the same bytes.  Source of the format: safetensors, src/tensor.rs. */
#ifndef QL_FORMATS_SAFETENSORS_H
#define QL_FORMATS_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"
#include "core/base/limits.h"

struct ql_st;

struct ql_st_tensor {
	const char *name;
	const char *dtype_name; /* as the file spells it: "F32", "BF16", … */
	enum ql_dtype dtype;	/* QL_DTYPE_COUNT: a type known by size only (F8_E4M3, F4, C64, …); refuse it when needed */
	int n_dims;		/* 0 = a scalar, one element */
	uint64_t shape[QL_ST_DIMS_MAX]; /* row-major, unused entries 1 */
	uint64_t n;			/* elements; 0 allowed */
	const void *data;		/* not aligned; valid until ql_st_close */
	size_t bytes;
};

/* Opens a file the operator named (links are followed), or `name` beneath dirfd (no links), mapped read-only; or parses
 * memory that must outlive *out.  On failure *out is NULL.  QL_EFORMAT (with offset or the tensor's name), QL_ELIMIT. */
int ql_st_open(struct ql_st **out, const char *path, struct ql_err *e);
int ql_st_open_at(struct ql_st **out, int dirfd, const char *name, struct ql_err *e);
int ql_st_open_mem(struct ql_st **out, const void *data, size_t size, struct ql_err *e);
void ql_st_close(struct ql_st *st); /* accepts NULL */

size_t ql_st_count(const struct ql_st *st);
const struct ql_st_tensor *ql_st_at(const struct ql_st *st, size_t i); /* in data order; i < count */
const struct ql_st_tensor *ql_st_find(const struct ql_st *st, const char *name); /* NULL if absent */
const char *ql_st_metadata(const struct ql_st *st, const char *key);		 /* NULL if absent */

/* The whole file's bytes (for hashing). */
const void *ql_st_file(const struct ql_st *st, size_t *size);

struct ql_st_spec {
	const char *name;
	enum ql_dtype dtype; /* F32, F16, BF16, F64, integers, BOOL */
	int n_dims;
	uint64_t shape[QL_ST_DIMS_MAX];
};

/* Writing: begin (specs are copied) → while (ql_st_write_next(w) < n) write that tensor's bytes, in pieces of any size
 * that do not cross its end → commit.  begin orders the tensors; next gives the index into specs of the tensor that is due
 * (empty tensors are passed over), or n when all bytes are there.  commit (failed or not) and abort free w; abort accepts
 * NULL.  commit with bytes missing is QL_ESTATE and leaves no file. */
struct ql_st_writer;
int ql_st_write_begin(struct ql_st_writer **w, int dirfd, const char *file, const struct ql_st_spec *specs, size_t n,
		      struct ql_err *e);
/* The same with notes: notes[i] (or NULL) goes into __metadata__ under the name of specs[i]. */
int ql_st_write_begin_notes(struct ql_st_writer **w, int dirfd, const char *file, const struct ql_st_spec *specs,
			    const char *const *notes, size_t n, struct ql_err *e);
size_t ql_st_write_next(const struct ql_st_writer *w);
int ql_st_write_data(struct ql_st_writer *w, const void *data, size_t len, struct ql_err *e);
int ql_st_write_commit(struct ql_st_writer *w, struct ql_err *e);
void ql_st_write_abort(struct ql_st_writer *w);

#endif
