/* gguf_parse.c - the reader's parser; format and rules in gguf.h, typed getters in gguf_kv.c.
 *
 * One pass over the mapped file with a cursor that never moves past the end.  Values are not copied: a KV keeps a pointer
 * to its bytes; only keys and names are copied, to be NUL-terminated.  Tables grow with what is really in the file, not
 * with the counts it claims. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/formats/gguf_priv.h"

struct cursor {
	const uint8_t *p;
	size_t at, size;
	struct ql_err *e;
};

static int take(struct cursor *c, size_t len, const uint8_t **out, const char *what)
{
	*out = c->p + c->at;
	if (len > c->size - c->at)
		return ql_err_at(c->e, QL_EFORMAT, c->at, "GGUF: file ends inside %s", what);
	c->at += len;
	if (c->at > QL_GGUF_HEADER_MAX)
		return ql_err_at(c->e, QL_ELIMIT, c->at, "GGUF: header larger than %zu bytes", QL_GGUF_HEADER_MAX);
	return QL_OK;
}

static int take_u32(struct cursor *c, uint32_t *out, const char *what)
{
	const uint8_t *b;
	int rc = take(c, 4, &b, what);

	if (rc == QL_OK)
		*out = (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
	return rc;
}

static int take_u64(struct cursor *c, uint64_t *out, const char *what)
{
	uint32_t lo = 0, hi = 0;
	int rc = take_u32(c, &lo, what);

	if (rc == QL_OK)
		rc = take_u32(c, &hi, what);
	*out = (uint64_t)hi << 32 | lo;
	return rc;
}

/* A string's bytes, at most max. */
static int take_str(struct cursor *c, uint64_t max, const uint8_t **s, size_t *len, const char *what)
{
	uint64_t n;
	size_t at = c->at;
	int rc = take_u64(c, &n, what);

	if (rc != QL_OK)
		return rc;
	if (n > max)
		return ql_err_at(c->e, QL_ELIMIT, at, "GGUF: %s of %llu bytes, more than %llu", what, (unsigned long long)n,
				 (unsigned long long)max);
	*len = (size_t)n;
	return take(c, *len, s, what);
}

/* A key or tensor name: non-empty UTF-8 without NUL, as an own C string. */
static int take_name(struct cursor *c, uint64_t max, char **out, const char *what)
{
	size_t at = c->at, len;
	const uint8_t *s;
	int rc = take_str(c, max, &s, &len, what);

	*out = NULL;
	if (rc != QL_OK)
		return rc;
	if (len == 0 || memchr(s, 0, len) != NULL || !ql_utf8_valid((const char *)s, len, NULL))
		return ql_err_at(c->e, QL_EFORMAT, at, "GGUF: %s is empty or not UTF-8 text", what);
	*out = malloc(len + 1);
	if (*out == NULL)
		return ql_err_set(c->e, QL_ENOMEM, "no memory for a name");
	memcpy(*out, s, len);
	(*out)[len] = '\0';
	return QL_OK;
}

/* Checks count elements of kv->elem and moves past them. */
static int skip_elements(struct cursor *c, struct ql_gguf_kv *kv)
{
	const uint8_t *s;
	size_t len, begin = c->at;
	int rc = QL_OK;

	if (kv->elem != QL_GGUF_STR) {
		rc = take(c, (size_t)kv->count * ql_gguf_elem_bytes[kv->elem], &kv->data, "a value");
		if (rc != QL_OK)
			return rc;
		kv->bytes = c->at - begin;
		for (size_t i = 0; kv->elem == QL_GGUF_BOOL && i < kv->bytes; i++)
			if (kv->data[i] > 1)
				return ql_err_at(c->e, QL_EFORMAT, begin + i, "GGUF: %s: a bool that is neither 0 nor 1",
						 kv->key);
		return QL_OK;
	}
	kv->data = c->p + begin;
	for (uint64_t i = 0; rc == QL_OK && i < kv->count; i++)
		rc = take_str(c, QL_GGUF_STRING_MAX, &s, &len, "string");
	kv->bytes = c->at - begin;
	return rc;
}

static int read_value(struct cursor *c, struct ql_gguf_kv *kv)
{
	uint32_t type, elem;
	size_t at = c->at;
	int rc = take_u32(c, &type, "a value type");

	if (rc != QL_OK)
		return rc;
	if (type >= QL_GGUF_TYPES)
		return ql_err_at(c->e, QL_EFORMAT, at, "GGUF: %s: unknown value type %u", kv->key, type);
	kv->type = kv->elem = (enum ql_gguf_type)type;
	kv->count = 1;
	if (kv->type == QL_GGUF_ARRAY) {
		at = c->at;
		rc = take_u32(c, &elem, "an element type");
		if (rc == QL_OK)
			rc = take_u64(c, &kv->count, "an array length");
		if (rc != QL_OK)
			return rc;
		if (elem >= QL_GGUF_TYPES || elem == QL_GGUF_ARRAY)
			return ql_err_at(c->e, QL_EFORMAT, at, "GGUF: %s: bad element type %u", kv->key, elem);
		if (kv->count > QL_GGUF_ARRAY_MAX)
			return ql_err_at(c->e, QL_ELIMIT, at, "GGUF: %s: array of %llu elements, more than %u", kv->key,
					 (unsigned long long)kv->count, QL_GGUF_ARRAY_MAX);
		kv->elem = (enum ql_gguf_type)elem;
	}
	return skip_elements(c, kv);
}

static int grow(void **table, size_t n, size_t *cap, size_t item, struct ql_err *e)
{
	size_t want = *cap == 0 ? 64 : *cap * 2;
	void *p;

	if (n < *cap)
		return QL_OK;
	p = realloc(*table, want * item);
	if (p == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a GGUF table");
	*table = p;
	*cap = want;
	return QL_OK;
}

static int read_kvs(struct ql_gguf *g, struct cursor *c, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		struct ql_gguf_kv kv = {0};
		char *key;
		int rc = grow((void **)&g->kvs, g->n_kvs, &g->cap_kvs, sizeof *g->kvs, c->e);

		if (rc == QL_OK)
			rc = take_name(c, QL_NAME_MAX, &key, "key");
		if (rc != QL_OK)
			return rc;
		kv.key = key;
		rc = read_value(c, &kv);
		if (rc != QL_OK) {
			free(key);
			return rc;
		}
		g->kvs[g->n_kvs++] = kv;
	}
	return QL_OK;
}

/* Sizes of a tensor from its dimensions and type. */
static int size_tensor(struct ql_gguf_tensor *t, size_t at, struct ql_err *e)
{
	const struct ql_gguf_type_info *info = ql_gguf_type_find(t->type_id);
	uint64_t bytes;

	if (info == NULL)
		return ql_err_at(e, QL_EUNSUPPORTED, at, "GGUF: tensor %s has the unknown type %u", t->name, t->type_id);
	t->dtype = info->dtype;
	t->n = 1;
	for (int i = 0; i < t->n_dims; i++)
		if (t->ne[i] == 0 || !ql_mul_u64(t->n, t->ne[i], &t->n))
			return ql_err_at(e, QL_EFORMAT, at, "GGUF: tensor %s: bad dimensions", t->name);
	if (t->ne[0] % info->block != 0)
		return ql_err_at(e, QL_EFORMAT, at, "GGUF: tensor %s: rows of %llu elements are not whole blocks of %s",
				 t->name, (unsigned long long)t->ne[0], info->name);
	if (!ql_mul_u64(t->n / info->block, info->bytes, &bytes) || bytes > INT64_MAX)
		return ql_err_at(e, QL_EFORMAT, at, "GGUF: tensor %s: size overflows", t->name);
	t->bytes = (size_t)bytes;
	return QL_OK;
}

static int read_tensor_info(struct cursor *c, struct ql_gguf_tensor *t, uint64_t *offset)
{
	size_t at = c->at;
	uint32_t n_dims = 0;
	int rc = take_u32(c, &n_dims, "a tensor info");

	if (rc != QL_OK)
		return rc;
	if (n_dims > 4)
		return ql_err_at(c->e, QL_EFORMAT, at, "GGUF: tensor %s has %u dimensions, more than 4", t->name, n_dims);
	t->n_dims = (int)n_dims;
	for (uint32_t i = 0; i < 4; i++) {
		t->ne[i] = 1;
		if (i < n_dims)
			rc = take_u64(c, &t->ne[i], "a tensor info");
		if (rc != QL_OK)
			return rc;
	}
	rc = take_u32(c, &t->type_id, "a tensor info");
	if (rc == QL_OK)
		rc = take_u64(c, offset, "a tensor info");
	return rc != QL_OK ? rc : size_tensor(t, at, c->e);
}

static int read_tensors(struct ql_gguf *g, struct cursor *c, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		struct ql_gguf_tensor t = {0};
		size_t cap = g->cap_tensors;
		uint64_t offset = 0;
		char *name;
		int rc = grow((void **)&g->tensors, g->n_tensors, &g->cap_tensors, sizeof *g->tensors, c->e);

		if (rc == QL_OK)
			rc = grow((void **)&g->offsets, g->n_tensors, &cap, sizeof *g->offsets, c->e);
		if (rc == QL_OK)
			rc = take_name(c, QL_GGUF_TENSOR_NAME_MAX, &name, "tensor name");
		if (rc != QL_OK)
			return rc;
		t.name = name;
		rc = read_tensor_info(c, &t, &offset);
		if (rc != QL_OK) {
			free(name);
			return rc;
		}
		g->offsets[g->n_tensors] = offset;
		g->tensors[g->n_tensors++] = t;
	}
	return QL_OK;
}

static int by_key(const void *a, const void *b, void *ctx)
{
	const struct ql_gguf_kv *t = ctx;

	return strcmp(t[*(const uint32_t *)a].key, t[*(const uint32_t *)b].key);
}

static int by_tensor(const void *a, const void *b, void *ctx)
{
	const struct ql_gguf_tensor *t = ctx;

	return strcmp(t[*(const uint32_t *)a].name, t[*(const uint32_t *)b].name);
}

static int make_index(uint32_t **out, size_t n, int (*order)(const void *, const void *, void *), void *table,
		      struct ql_err *e)
{
	uint32_t *index = malloc((n + 1) * sizeof *index);

	*out = index;
	if (index == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a GGUF index");
	for (size_t i = 0; i < n; i++)
		index[i] = (uint32_t)i;
	if (n > 0)
		qsort_r(index, n, sizeof *index, order, table);
	return QL_OK;
}

static int index_tables(struct ql_gguf *g, struct ql_err *e)
{
	int rc = make_index(&g->kv_index, g->n_kvs, by_key, g->kvs, e);

	if (rc == QL_OK)
		rc = make_index(&g->tensor_index, g->n_tensors, by_tensor, g->tensors, e);
	if (rc != QL_OK)
		return rc;
	for (size_t i = 1; i < g->n_kvs; i++) {
		const char *key = g->kvs[g->kv_index[i]].key;

		if (strcmp(g->kvs[g->kv_index[i - 1]].key, key) == 0)
			return ql_err_param(e, QL_EFORMAT, key, "GGUF: key %.200s occurs twice", key);
	}
	for (size_t i = 1; i < g->n_tensors; i++) {
		const char *name = g->tensors[g->tensor_index[i]].name;

		if (strcmp(g->tensors[g->tensor_index[i - 1]].name, name) == 0)
			return ql_err_param(e, QL_EFORMAT, name, "GGUF: tensor %.80s occurs twice", name);
	}
	return QL_OK;
}

/* Alignment, then the place of every tensor. */
static int place_tensors(struct ql_gguf *g, size_t header_end, struct ql_err *e)
{
	uint64_t data_at, at = 0, end;
	int rc;

	g->alignment = QL_GGUF_ALIGNMENT_DEFAULT;
	rc = ql_gguf_get_u32(g, "general.alignment", false, &g->alignment, e);
	if (rc != QL_OK)
		return rc;
	if (g->alignment == 0 || (g->alignment & (g->alignment - 1)) != 0 || g->alignment > QL_GGUF_ALIGNMENT_MAX)
		return ql_err_param(e, QL_EFORMAT, "general.alignment", "GGUF: general.alignment %u is not a power of two up to %d",
				    g->alignment, QL_GGUF_ALIGNMENT_MAX);
	if (!ql_align_u64(header_end, g->alignment, &data_at))
		return ql_err_set(e, QL_EFORMAT, "GGUF: header size overflows");
	for (size_t i = 0; i < g->n_tensors; i++) {
		struct ql_gguf_tensor *t = &g->tensors[i];

		if (g->offsets[i] != at)
			return ql_err_param(e, QL_EFORMAT, t->name, "GGUF: tensor %s: offset %llu, expected %llu", t->name,
					    (unsigned long long)g->offsets[i], (unsigned long long)at);
		if (!ql_add_u64(data_at, at, &end) || !ql_add_u64(end, t->bytes, &end) || end > g->size)
			return ql_err_param(e, QL_EFORMAT, t->name, "GGUF: tensor %s, %llu bytes at byte %llu, reaches beyond the end of the "
					    "file at byte %llu", t->name, (unsigned long long)t->bytes,
					    (unsigned long long)(data_at + at), (unsigned long long)g->size);
		t->data = g->file + (size_t)(data_at + at);
		if (!ql_add_u64(at, t->bytes, &at) || !ql_align_u64(at, g->alignment, &at))
			return ql_err_param(e, QL_EFORMAT, t->name, "GGUF: tensor %s: size overflows", t->name);
	}
	return QL_OK;
}

int ql_gguf_parse(struct ql_gguf *g, struct ql_err *e)
{
	struct cursor c = {g->file, 0, g->size, e};
	uint64_t n_tensors = 0, n_kvs = 0;
	const uint8_t *magic;
	int rc = take(&c, 4, &magic, "the header");

	if (rc == QL_OK && memcmp(magic, "GGUF", 4) != 0)
		return ql_err_at(e, QL_EFORMAT, 0, "not a GGUF file");
	if (rc == QL_OK)
		rc = take_u32(&c, &g->version, "the header");
	if (rc != QL_OK)
		return rc;
	if (g->version != 0 && (g->version & 0xffff) == 0)
		return ql_err_at(e, QL_EUNSUPPORTED, 4, "GGUF: big-endian files are not supported");
	if (g->version < 2 || g->version > 3)
		return ql_err_at(e, QL_EUNSUPPORTED, 4, "GGUF: version %u, only 2 and 3 are supported", g->version);
	rc = take_u64(&c, &n_tensors, "the header");
	if (rc == QL_OK)
		rc = take_u64(&c, &n_kvs, "the header");
	if (rc != QL_OK)
		return rc;
	if (n_tensors > QL_GGUF_TENSORS_MAX || n_kvs > QL_GGUF_KV_MAX)
		return ql_err_at(e, QL_ELIMIT, 8, "GGUF: %llu tensors and %llu keys, more than %d or %d",
				 (unsigned long long)n_tensors, (unsigned long long)n_kvs, QL_GGUF_TENSORS_MAX,
				 QL_GGUF_KV_MAX);
	rc = read_kvs(g, &c, n_kvs);
	if (rc == QL_OK)
		rc = read_tensors(g, &c, n_tensors);
	if (rc == QL_OK)
		rc = index_tables(g, e);
	return rc != QL_OK ? rc : place_tensors(g, c.at, e);
}
