/* gguf.h - the GGUF container, versions 2 and 3: reader (hostile-safe, mapped) and durable writer (version 3).
 *
 *   "GGUF" · u32 version · u64 n_tensors · u64 n_kv · KVs · tensor infos · zero padding to `alignment` · data
 *   string      = u64 length · bytes, no terminator
 *   KV          = string key · u32 type · value;  array value = u32 element type · u64 count · elements (no nesting)
 *   tensor info = string name · u32 n_dims · u64 ne[n_dims] · u32 type · u64 offset from the data start
 *   ne[0] is the contiguous dimension: torch's [out, in] is ne = {in, out}.  alignment = general.alignment, else 32.
 *
 * The reader enforces unique non-empty keys and tensor names (names < 64 bytes), n_dims ≤ 4, every ne ≥ 1, ne[0] a multiple
 * of the block, known types, offset[i] = Σ of the earlier sizes each padded to the alignment, data within the file, and the
 * limits QL_GGUF_*.  Every size is checked before use.  Source: ggml, src/gguf.cpp and docs/gguf.md. */
#ifndef QL_FORMATS_GGUF_H
#define QL_FORMATS_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/dtype.h"
#include "core/base/err.h"

enum ql_gguf_type {
	QL_GGUF_U8, QL_GGUF_I8, QL_GGUF_U16, QL_GGUF_I16, QL_GGUF_U32, QL_GGUF_I32, QL_GGUF_F32, QL_GGUF_BOOL,
	QL_GGUF_STR, QL_GGUF_ARRAY, QL_GGUF_U64, QL_GGUF_I64, QL_GGUF_F64,
	QL_GGUF_TYPES
};

struct ql_gguf;

struct ql_gguf_str {
	const char *s; /* not NUL-terminated; valid until ql_gguf_close */
	size_t len;
};

struct ql_gguf_kv {
	const char *key; /* NUL-terminated */
	enum ql_gguf_type type;
	enum ql_gguf_type elem; /* element type of an array, else = type */
	uint64_t count;		/* elements of an array, else 1 */
	const uint8_t *data;	/* value bytes as in the file, after the type (array: after the count); not aligned */
	size_t bytes;
};

struct ql_gguf_tensor {
	const char *name;
	enum ql_dtype dtype; /* QL_DTYPE_COUNT: a type we know by size only; ql_gguf_type_name(type_id) names it in errors */
	uint32_t type_id;
	int n_dims;
	uint64_t ne[4]; /* unused entries 1 */
	uint64_t n;
	const void *data; /* valid until ql_gguf_close */
	size_t bytes;
};

/* open: a path the operator named, mapped read-only.  open_at: beneath dirfd, no links.  open_mem: memory that must outlive
 * *out.  On failure *out is NULL; QL_EFORMAT with the byte offset, QL_ELIMIT, QL_EUNSUPPORTED (version, byte order). */
int ql_gguf_open(struct ql_gguf **out, const char *path, struct ql_err *e);
int ql_gguf_open_at(struct ql_gguf **out, int dirfd, const char *name, struct ql_err *e);
int ql_gguf_open_mem(struct ql_gguf **out, const void *data, size_t size, struct ql_err *e);
void ql_gguf_close(struct ql_gguf *g); /* accepts NULL */

uint32_t ql_gguf_version(const struct ql_gguf *g);
uint32_t ql_gguf_alignment(const struct ql_gguf *g);
const void *ql_gguf_file(const struct ql_gguf *g, size_t *size); /* the whole file's bytes (for hashing) */

/* Metadata in file order, and by key (NULL if absent). */
size_t ql_gguf_kv_count(const struct ql_gguf *g);
const struct ql_gguf_kv *ql_gguf_kv_at(const struct ql_gguf *g, size_t i);
const struct ql_gguf_kv *ql_gguf_kv_find(const struct ql_gguf *g, const char *key);

/* Typed getters.  Absent: QL_ENOTFOUND naming the key if `required`, else QL_OK with *out untouched.  Wrong type or a value
 * that does not fit: QL_EFORMAT naming the key.  Integers of any GGUF integer type are accepted where they fit; f32 accepts
 * f64 as well and refuses NaN and infinities. */
int ql_gguf_get_u32(const struct ql_gguf *g, const char *key, bool required, uint32_t *out, struct ql_err *e);
int ql_gguf_get_u64(const struct ql_gguf *g, const char *key, bool required, uint64_t *out, struct ql_err *e);
int ql_gguf_get_f32(const struct ql_gguf *g, const char *key, bool required, float *out, struct ql_err *e);
int ql_gguf_get_bool(const struct ql_gguf *g, const char *key, bool required, bool *out, struct ql_err *e);
int ql_gguf_get_str(const struct ql_gguf *g, const char *key, bool required, struct ql_gguf_str *out, struct ql_err *e);
/* Arrays: *out is malloc'ed (NULL when absent or empty) and owned by the caller; *n its length.  strs: the structs point
 * into the file.  Integer arrays accept any integer element type that fits. */
int ql_gguf_get_strs(const struct ql_gguf *g, const char *key, bool required, struct ql_gguf_str **out, size_t *n,
		     struct ql_err *e);
int ql_gguf_get_i32s(const struct ql_gguf *g, const char *key, bool required, int32_t **out, size_t *n, struct ql_err *e);
int ql_gguf_get_u32s(const struct ql_gguf *g, const char *key, bool required, uint32_t **out, size_t *n, struct ql_err *e);
int ql_gguf_get_f32s(const struct ql_gguf *g, const char *key, bool required, float **out, size_t *n, struct ql_err *e);

/* Tensors in file order, and by name (NULL if absent). */
size_t ql_gguf_tensor_count(const struct ql_gguf *g);
const struct ql_gguf_tensor *ql_gguf_tensor_at(const struct ql_gguf *g, size_t i);
const struct ql_gguf_tensor *ql_gguf_tensor_find(const struct ql_gguf *g, const char *name);

/* ggml's type id of a dtype (UINT32_MAX if it has none), and the name of an id ("Q2_K"; "type 99" style ids give "?"). */
uint32_t ql_gguf_type_id(enum ql_dtype t);
const char *ql_gguf_type_name(uint32_t type_id);

/* Writing: new → KVs → tensors (their order is the data order) → begin (writes the header) → data of each tensor in that
 * order, in pieces of any size that do not cross a tensor's end (padding is automatic) → commit.  Keys and names are copied.
 * A repeated key or name, or a call in the wrong phase, is an error.  commit (failed or not) and abort free w; abort accepts
 * NULL; commit with data missing is QL_ESTATE and leaves no file.  general.alignment is always the default 32 and not
 * written. */
struct ql_gguf_writer;
int ql_gguf_write_new(struct ql_gguf_writer **w, struct ql_err *e);
int ql_gguf_write_u32(struct ql_gguf_writer *w, const char *key, uint32_t v, struct ql_err *e);
int ql_gguf_write_i32(struct ql_gguf_writer *w, const char *key, int32_t v, struct ql_err *e);
int ql_gguf_write_u64(struct ql_gguf_writer *w, const char *key, uint64_t v, struct ql_err *e);
int ql_gguf_write_f32(struct ql_gguf_writer *w, const char *key, float v, struct ql_err *e);
int ql_gguf_write_bool(struct ql_gguf_writer *w, const char *key, bool v, struct ql_err *e);
int ql_gguf_write_str(struct ql_gguf_writer *w, const char *key, const char *s, size_t len, struct ql_err *e);
int ql_gguf_write_strs(struct ql_gguf_writer *w, const char *key, const struct ql_gguf_str *v, size_t n, struct ql_err *e);
int ql_gguf_write_i32s(struct ql_gguf_writer *w, const char *key, const int32_t *v, size_t n, struct ql_err *e);
int ql_gguf_write_u32s(struct ql_gguf_writer *w, const char *key, const uint32_t *v, size_t n, struct ql_err *e);
int ql_gguf_write_f32s(struct ql_gguf_writer *w, const char *key, const float *v, size_t n, struct ql_err *e);
/* A value read elsewhere, bytes unchanged. */
int ql_gguf_write_kv(struct ql_gguf_writer *w, const struct ql_gguf_kv *kv, struct ql_err *e);
bool ql_gguf_write_has(const struct ql_gguf_writer *w, const char *key);
int ql_gguf_write_tensor(struct ql_gguf_writer *w, const char *name, enum ql_dtype dtype, int n_dims, const uint64_t *ne,
			 struct ql_err *e);
int ql_gguf_write_begin(struct ql_gguf_writer *w, int dirfd, const char *file, struct ql_err *e);
/* Index of the tensor whose bytes are due; the number of tensors when all are there. */
size_t ql_gguf_write_next(const struct ql_gguf_writer *w);
int ql_gguf_write_data(struct ql_gguf_writer *w, const void *data, size_t len, struct ql_err *e);
int ql_gguf_write_commit(struct ql_gguf_writer *w, struct ql_err *e);
void ql_gguf_write_abort(struct ql_gguf_writer *w);

#endif
