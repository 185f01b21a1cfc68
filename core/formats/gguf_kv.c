/* gguf_kv.c - typed getters over GGUF metadata; contracts in gguf.h.
 * Values lie unaligned and little-endian in the mapped file; each is assembled from bytes. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/formats/gguf_priv.h"

static const char *const names[QL_GGUF_TYPES] = {"u8",	 "i8",	 "u16",	  "i16", "u32", "i32", "f32",
						 "bool", "string", "array", "u64", "i64", "f64"};

static uint64_t load(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = bytes; i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

/* Integer element i of kv; *neg tells that *v holds an int64 below 0.  False if the elements are not integers. */
static bool load_int(const struct ql_gguf_kv *kv, uint64_t i, uint64_t *v, bool *neg)
{
	unsigned bytes = ql_gguf_elem_bytes[kv->elem];
	uint64_t raw;

	*neg = false;
	switch (kv->elem) {
	case QL_GGUF_U8: case QL_GGUF_U16: case QL_GGUF_U32: case QL_GGUF_U64:
		*v = load(kv->data + i * bytes, bytes);
		return true;
	case QL_GGUF_I8: case QL_GGUF_I16: case QL_GGUF_I32: case QL_GGUF_I64:
		raw = load(kv->data + i * bytes, bytes);
		*neg = (raw >> (8 * bytes - 1) & 1) != 0;
		if (*neg && bytes < 8)
			raw |= UINT64_MAX << (8 * bytes);
		*v = raw;
		return true;
	default:
		return false;
	}
}

static bool load_f32(const struct ql_gguf_kv *kv, uint64_t i, float *out)
{
	uint32_t u;
	uint64_t w;
	double d;

	if (kv->elem == QL_GGUF_F32) {
		u = (uint32_t)load(kv->data + i * 4, 4);
		memcpy(out, &u, 4);
		return true;
	}
	if (kv->elem == QL_GGUF_F64) {
		w = load(kv->data + i * 8, 8);
		memcpy(&d, &w, 8);
		*out = (float)d;
		return true;
	}
	return false;
}

/* QL_OK with *kv NULL when absent and not required. */
static int find(const struct ql_gguf *g, const char *key, bool required, const struct ql_gguf_kv **kv, struct ql_err *e)
{
	*kv = ql_gguf_kv_find(g, key);
	if (*kv == NULL && required)
		return ql_err_param(e, QL_ENOTFOUND, key, "GGUF: key %s is missing", key);
	return QL_OK;
}

static int bad(const struct ql_gguf_kv *kv, const char *want, struct ql_err *e)
{
	return ql_err_param(e, QL_EFORMAT, kv->key, "GGUF: key %s is not %s (%s%s%s)", kv->key, want, names[kv->type],
			    kv->type == QL_GGUF_ARRAY ? " of " : "", kv->type == QL_GGUF_ARRAY ? names[kv->elem] : "");
}

int ql_gguf_get_u64(const struct ql_gguf *g, const char *key, bool required, uint64_t *out, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	uint64_t v;
	bool neg;
	int rc = find(g, key, required, &kv, e);

	if (rc != QL_OK || kv == NULL)
		return rc;
	if (kv->type == QL_GGUF_ARRAY || !load_int(kv, 0, &v, &neg) || neg)
		return bad(kv, "an integer ≥ 0", e);
	*out = v;
	return QL_OK;
}

int ql_gguf_get_u32(const struct ql_gguf *g, const char *key, bool required, uint32_t *out, struct ql_err *e)
{
	uint64_t v = *out;
	int rc = ql_gguf_get_u64(g, key, required, &v, e);

	if (rc != QL_OK)
		return rc;
	if (v > UINT32_MAX)
		return ql_err_param(e, QL_EFORMAT, key, "GGUF: key %s is out of range", key);
	*out = (uint32_t)v;
	return QL_OK;
}

int ql_gguf_get_f32(const struct ql_gguf *g, const char *key, bool required, float *out, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	float v;
	int rc = find(g, key, required, &kv, e);

	if (rc != QL_OK || kv == NULL)
		return rc;
	if (kv->type == QL_GGUF_ARRAY || !load_f32(kv, 0, &v))
		return bad(kv, "a floating point number", e);
	if (!isfinite(v))
		return ql_err_param(e, QL_EFORMAT, key, "GGUF: key %s is not finite", key);
	*out = v;
	return QL_OK;
}

int ql_gguf_get_bool(const struct ql_gguf *g, const char *key, bool required, bool *out, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	int rc = find(g, key, required, &kv, e);

	if (rc != QL_OK || kv == NULL)
		return rc;
	if (kv->type != QL_GGUF_BOOL)
		return bad(kv, "a bool", e);
	*out = kv->data[0] != 0;
	return QL_OK;
}

int ql_gguf_get_str(const struct ql_gguf *g, const char *key, bool required, struct ql_gguf_str *out, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	int rc = find(g, key, required, &kv, e);

	if (rc != QL_OK || kv == NULL)
		return rc;
	if (kv->type != QL_GGUF_STR)
		return bad(kv, "a string", e);
	out->len = kv->bytes - 8;
	out->s = (const char *)kv->data + 8;
	return QL_OK;
}

/* Finds an array and makes room for its elements; *kv NULL = absent or empty (then *out is NULL, *n 0). */
static int begin_array(const struct ql_gguf *g, const char *key, bool required, size_t item, const struct ql_gguf_kv **kv,
		       void **out, size_t *n, struct ql_err *e)
{
	int rc = find(g, key, required, kv, e);

	*out = NULL;
	*n = 0;
	if (rc != QL_OK || *kv == NULL)
		return rc;
	if ((*kv)->type != QL_GGUF_ARRAY)
		return bad(*kv, "an array", e);
	if ((*kv)->count == 0) {
		*kv = NULL;
		return QL_OK;
	}
	*n = (size_t)(*kv)->count;
	*out = calloc(*n, item);
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for the array %s", key) : QL_OK;
}

static int drop_array(void **out, size_t *n, int rc)
{
	free(*out);
	*out = NULL;
	*n = 0;
	return rc;
}

int ql_gguf_get_strs(const struct ql_gguf *g, const char *key, bool required, struct ql_gguf_str **out, size_t *n,
		     struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	void *mem;
	size_t at = 0;
	int rc = begin_array(g, key, required, sizeof **out, &kv, &mem, n, e);

	*out = mem;
	if (rc != QL_OK || kv == NULL)
		return rc;
	if (kv->elem != QL_GGUF_STR) {
		rc = drop_array(&mem, n, bad(kv, "an array of strings", e));
		*out = NULL;
		return rc;
	}
	for (size_t i = 0; i < *n; i++) { /* lengths were checked when the file was opened */
		(*out)[i].len = (size_t)load(kv->data + at, 8);
		(*out)[i].s = (const char *)kv->data + at + 8;
		at += 8 + (*out)[i].len;
	}
	return QL_OK;
}

int ql_gguf_get_u32s(const struct ql_gguf *g, const char *key, bool required, uint32_t **out, size_t *n, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	void *mem;
	int rc = begin_array(g, key, required, sizeof **out, &kv, &mem, n, e);

	*out = mem;
	if (rc != QL_OK || kv == NULL)
		return rc;
	for (size_t i = 0; i < *n; i++) {
		uint64_t v;
		bool neg;

		if (!load_int(kv, i, &v, &neg) || neg || v > UINT32_MAX) {
			rc = drop_array(&mem, n, bad(kv, "an array of integers that fit u32", e));
			*out = NULL;
			return rc;
		}
		(*out)[i] = (uint32_t)v;
	}
	return QL_OK;
}

int ql_gguf_get_i32s(const struct ql_gguf *g, const char *key, bool required, int32_t **out, size_t *n, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	void *mem;
	int rc = begin_array(g, key, required, sizeof **out, &kv, &mem, n, e);

	*out = mem;
	if (rc != QL_OK || kv == NULL)
		return rc;
	for (size_t i = 0; i < *n; i++) {
		uint64_t v = 0;
		bool neg = false, ok = load_int(kv, i, &v, &neg);

		if (!ok || (neg ? (int64_t)v < INT32_MIN : v > INT32_MAX)) {
			rc = drop_array(&mem, n, bad(kv, "an array of integers that fit i32", e));
			*out = NULL;
			return rc;
		}
		(*out)[i] = (int32_t)(int64_t)v;
	}
	return QL_OK;
}

int ql_gguf_get_f32s(const struct ql_gguf *g, const char *key, bool required, float **out, size_t *n, struct ql_err *e)
{
	const struct ql_gguf_kv *kv;
	void *mem;
	int rc = begin_array(g, key, required, sizeof **out, &kv, &mem, n, e);

	*out = mem;
	if (rc != QL_OK || kv == NULL)
		return rc;
	for (size_t i = 0; i < *n; i++)
		if (!load_f32(kv, i, &(*out)[i]) || !isfinite((*out)[i])) {
			rc = drop_array(&mem, n, bad(kv, "an array of finite numbers", e));
			*out = NULL;
			return rc;
		}
	return QL_OK;
}
