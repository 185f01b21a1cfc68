/* safetensors_parse.c - the reader's parser; format and rules in safetensors.h.
 *
 * The header is walked member by member: a small scanner finds where each top-level key and value begins and ends, and
 * each is parsed by itself (jansson), so memory stays proportional to the file whatever the header holds: an entry of at
 * most ENTRY_MAX bytes becomes one fixed struct, and its JSON tree is freed at once. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/json.h"
#include "core/base/utf8.h"
#include "core/formats/safetensors_priv.h"

#define ENTRY_MAX 4096u /* bytes of JSON for one tensor's description */

static const struct {
	const char *name;
	unsigned bits;
	enum ql_dtype dtype;
} types[] = {
	{"F32", 32, QL_F32},   {"F16", 16, QL_F16},   {"BF16", 16, QL_BF16}, {"F64", 64, QL_F64},
	{"U8", 8, QL_U8},      {"I8", 8, QL_I8},      {"U16", 16, QL_U16},   {"I16", 16, QL_I16},
	{"U32", 32, QL_U32},   {"I32", 32, QL_I32},   {"U64", 64, QL_U64},   {"I64", 64, QL_I64},
	{"BOOL", 8, QL_BOOL},  {"F8_E5M2", 8, QL_DTYPE_COUNT},		     {"F8_E4M3", 8, QL_DTYPE_COUNT},
	{"F8_E8M0", 8, QL_DTYPE_COUNT},		      {"F4", 4, QL_DTYPE_COUNT},
	{"F6_E2M3", 6, QL_DTYPE_COUNT},		      {"F6_E3M2", 6, QL_DTYPE_COUNT},
	{"C64", 64, QL_DTYPE_COUNT},
};

/* A window on the header text. */
struct scan {
	const char *s;
	size_t len, at;
};

static void skip_space(struct scan *c)
{
	while (c->at < c->len && (c->s[c->at] == ' ' || c->s[c->at] == '\n' || c->s[c->at] == '\r' || c->s[c->at] == '\t'))
		c->at++;
}

static int fail(const struct scan *c, struct ql_err *e, const char *what)
{
	return ql_err_at(e, QL_EFORMAT, 8 + c->at, "safetensors header: %s", what);
}

/* Moves past one JSON value without judging its inside: a string, or everything up to the ',' or '}' that ends the member
 * with brackets balanced.  *begin, *len get its extent. */
static int skip_value(struct scan *c, size_t *begin, size_t *len, struct ql_err *e)
{
	int depth = 0;
	bool quoted = false;

	*begin = c->at;
	for (; c->at < c->len; c->at++) {
		char ch = c->s[c->at];

		if (quoted) {
			if (ch == '\\')
				c->at++;
			else if (ch == '"')
				quoted = false;
			continue;
		}
		if (ch == '"') {
			quoted = true;
		} else if (ch == '{' || ch == '[') {
			if (++depth > QL_JSON_DEPTH_MAX)
				return fail(c, e, "nested too deep");
		} else if (depth == 0 && (ch == ',' || ch == '}' || ch == ']' || ch == ':')) {
			break;
		} else if (ch == '}' || ch == ']') {
			depth--;
		}
	}
	if (c->at >= c->len)
		return fail(c, e, "ends inside a value");
	*len = c->at - *begin;
	return QL_OK;
}

static int parse_piece(const struct scan *c, size_t begin, size_t len, size_t max, json_t **out, struct ql_err *e)
{
	int rc = ql_json_parse(c->s + begin, len, max, out, e);

	if (rc != QL_OK) {
		(void)ql_err_prefix(e, "safetensors header, member at byte %zu", 8 + begin);
		if (e != NULL)
			e->offset = 8 + begin;
	}
	return rc;
}

/* Reads a list of integers ≥ 0 into v[0..max). */
static int read_list(const json_t *list, uint64_t *v, size_t max, size_t *n, const char *what, const char *name,
		     struct ql_err *e)
{
	if (!json_is_array(list))
		return ql_err_param(e, QL_EFORMAT, name, "tensor %.200s: no %s", name, what);
	*n = json_array_size(list);
	if (*n > max)
		return ql_err_param(e, QL_ELIMIT, name, "tensor %.200s: %s has %zu entries, more than %zu", name, what, *n,
				    max);
	for (size_t i = 0; i < *n; i++) {
		const json_t *x = json_array_get(list, i);

		if (!json_is_integer(x) || json_integer_value(x) < 0)
			return ql_err_param(e, QL_EFORMAT, name, "tensor %.200s: %s holds something else than integers",
					    name, what);
		v[i] = (uint64_t)json_integer_value(x);
	}
	return QL_OK;
}

static int read_dtype(const json_t *obj, struct ql_st_tensor *t, unsigned *bits, struct ql_err *e)
{
	const char *s = json_string_value(json_object_get(obj, "dtype"));

	for (size_t i = 0; s != NULL && i < sizeof types / sizeof types[0]; i++) {
		if (strcmp(types[i].name, s) != 0)
			continue;
		t->dtype = types[i].dtype;
		t->dtype_name = types[i].name;
		*bits = types[i].bits;
		return QL_OK;
	}
	return ql_err_param(e, QL_EFORMAT, t->name, "tensor %.200s: unknown dtype %.20s", t->name, s != NULL ? s : "");
}

/* One "name": {…} of the header into *en (en->t.name is set); checks what needs no other tensor. */
static int read_entry(const json_t *obj, struct ql_st_entry *en, struct ql_err *e)
{
	struct ql_st_tensor *t = &en->t;
	uint64_t offsets[2], n_bits;
	size_t n_dims = 0, n_offsets = 0;
	unsigned bits = 0;
	int rc;

	if (!json_is_object(obj))
		return ql_err_param(e, QL_EFORMAT, t->name, "tensor %.200s: description is not an object", t->name);
	rc = read_dtype(obj, t, &bits, e);
	if (rc == QL_OK)
		rc = read_list(json_object_get(obj, "shape"), t->shape, QL_ST_DIMS_MAX, &n_dims, "shape", t->name, e);
	if (rc == QL_OK)
		rc = read_list(json_object_get(obj, "data_offsets"), offsets, 2, &n_offsets, "data_offsets", t->name, e);
	if (rc != QL_OK)
		return rc;
	if (n_offsets != 2 || offsets[0] > offsets[1])
		return ql_err_param(e, QL_EFORMAT, t->name, "tensor %.200s: bad data_offsets", t->name);
	t->n_dims = (int)n_dims;
	t->n = 1;
	for (size_t i = 0; i < QL_ST_DIMS_MAX; i++) {
		if (i >= n_dims)
			t->shape[i] = 1;
		if (!ql_mul_u64(t->n, t->shape[i], &t->n))
			return ql_err_param(e, QL_EFORMAT, t->name, "tensor %.200s: shape overflows", t->name);
	}
	if (!ql_mul_u64(t->n, bits, &n_bits) || n_bits % 8 != 0 || n_bits / 8 != offsets[1] - offsets[0])
		return ql_err_param(e, QL_EFORMAT, t->name,
				    "tensor %.200s: dtype and shape do not make the %llu bytes of data_offsets", t->name,
				    (unsigned long long)(offsets[1] - offsets[0]));
	en->begin = offsets[0];
	en->end = offsets[1];
	return QL_OK;
}

static int add_entry(struct ql_st *st, char *name, const json_t *obj, struct ql_err *e)
{
	struct ql_st_entry *en;

	if (st->n == QL_ST_TENSORS_MAX)
		return ql_err_set(e, QL_ELIMIT, "more than %d tensors", QL_ST_TENSORS_MAX);
	if (st->n == st->cap) {
		size_t cap = st->cap == 0 ? 64 : st->cap * 2;
		struct ql_st_entry *p = realloc(st->entries, cap * sizeof *p);

		if (p == NULL)
			return ql_err_set(e, QL_ENOMEM, "no memory for the tensor table");
		st->entries = p;
		st->cap = cap;
	}
	en = &st->entries[st->n];
	*en = (struct ql_st_entry){.t.name = name};
	return read_entry(obj, en, e);
}

static int take_metadata(struct ql_st *st, json_t *obj, struct ql_err *e)
{
	const char *key;
	json_t *v;

	if (st->metadata != NULL)
		return ql_err_set(e, QL_EFORMAT, "__metadata__ occurs twice");
	if (!json_is_object(obj))
		return ql_err_set(e, QL_EFORMAT, "__metadata__ is not an object");
	json_object_foreach(obj, key, v)
		if (!json_is_string(v))
			return ql_err_param(e, QL_EFORMAT, "__metadata__", "__metadata__ key %.100s is not a string", key);
	st->metadata = json_incref(obj);
	return QL_OK;
}

/* The member name as an own string, checked. */
static int take_name(const json_t *key, char **out, uint64_t at, struct ql_err *e)
{
	size_t len = json_string_length(key);

	*out = NULL;
	if (len == 0 || len > QL_NAME_MAX)
		return ql_err_at(e, len == 0 ? QL_EFORMAT : QL_ELIMIT, at, "tensor name of %zu bytes", len);
	*out = strdup(json_string_value(key));
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "no memory for a tensor name") : QL_OK;
}

static int read_member(struct ql_st *st, struct scan *c, struct ql_err *e)
{
	json_t *key = NULL, *value = NULL;
	size_t begin, len, key_at = c->at;
	char *name = NULL;
	bool meta;
	int rc;

	if (c->at >= c->len || c->s[c->at] != '"')
		return fail(c, e, "a name in quotes expected");
	rc = skip_value(c, &begin, &len, e);
	if (rc == QL_OK)
		rc = parse_piece(c, begin, len, 6 * QL_NAME_MAX + 64, &key, e);
	if (rc != QL_OK)
		goto cleanup;
	if (!json_is_string(key) || c->s[c->at] != ':') {
		rc = fail(c, e, "':' expected after a name");
		goto cleanup;
	}
	c->at++;
	meta = strcmp(json_string_value(key), "__metadata__") == 0;
	rc = skip_value(c, &begin, &len, e);
	if (rc == QL_OK)
		rc = parse_piece(c, begin, len, meta ? QL_CONFIG_JSON_MAX : ENTRY_MAX, &value, e);
	if (rc == QL_OK && meta)
		rc = take_metadata(st, value, e);
	if (rc != QL_OK || meta)
		goto cleanup;
	rc = take_name(key, &name, 8 + key_at, e);
	if (rc == QL_OK)
		rc = add_entry(st, name, value, e);
	if (rc == QL_OK) {
		st->n++;
		name = NULL;
	}
cleanup:
	free(name);
	json_decref(key);
	json_decref(value);
	return rc;
}

static int read_header(struct ql_st *st, struct scan *c, struct ql_err *e)
{
	size_t bad;
	int rc;

	if (!ql_utf8_valid(c->s, c->len, &bad))
		return ql_err_at(e, QL_EFORMAT, 8 + bad, "safetensors header: invalid UTF-8");
	skip_space(c);
	if (c->at >= c->len || c->s[c->at] != '{')
		return fail(c, e, "'{' expected");
	c->at++;
	skip_space(c);
	while (c->at < c->len && c->s[c->at] != '}') {
		rc = read_member(st, c, e);
		if (rc != QL_OK)
			return rc;
		if (c->s[c->at] == '}')
			break;
		if (c->s[c->at] != ',')
			return fail(c, e, "',' or '}' expected");
		c->at++;
		skip_space(c);
		if (c->at < c->len && c->s[c->at] == '}')
			return fail(c, e, "a name expected after ','");
	}
	if (c->at >= c->len)
		return fail(c, e, "no closing '}'");
	c->at++;
	skip_space(c);
	return c->at == c->len ? QL_OK : fail(c, e, "text after the closing '}'");
}

static int by_begin(const void *a, const void *b)
{
	const struct ql_st_entry *x = a, *y = b;

	if (x->begin != y->begin)
		return x->begin < y->begin ? -1 : 1;
	if (x->end != y->end) /* an empty tensor comes before the one that starts at the same place */
		return x->end < y->end ? -1 : 1;
	return strcmp(x->t.name, y->t.name);
}

static int by_name(const void *a, const void *b, void *ctx)
{
	const struct ql_st_entry *entries = ctx;

	return strcmp(entries[*(const uint32_t *)a].t.name, entries[*(const uint32_t *)b].t.name);
}

/* Tiling of the data section and uniqueness of names; sets the data pointers. */
static int check_layout(struct ql_st *st, uint64_t data_at, struct ql_err *e)
{
	uint64_t at = 0;

	if (st->n > 0)
		qsort(st->entries, st->n, sizeof *st->entries, by_begin);
	for (size_t i = 0; i < st->n; i++) {
		struct ql_st_entry *en = &st->entries[i];

		if (en->begin != at)
			return ql_err_param(e, QL_EFORMAT, en->t.name, "tensor %.200s: begins at %llu, expected %llu (%s)",
					    en->t.name, (unsigned long long)en->begin, (unsigned long long)at,
					    en->begin > at ? "hole" : "overlap");
		at = en->end;
		if (at > st->size - data_at)
			return ql_err_param(e, QL_EFORMAT, en->t.name, "tensor %.200s: reaches to byte %llu, beyond the end of the file at "
					    "byte %llu", en->t.name, (unsigned long long)(data_at + at), (unsigned long long)st->size);
		en->t.data = st->file + data_at + en->begin;
		en->t.bytes = (size_t)(en->end - en->begin);
	}
	if (at != st->size - data_at)
		return ql_err_at(e, QL_EFORMAT, data_at + at, "%llu bytes after the last tensor",
				 (unsigned long long)(st->size - data_at - at));
	st->by_name = malloc((st->n + 1) * sizeof *st->by_name);
	if (st->by_name == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for the name index");
	for (size_t i = 0; i < st->n; i++)
		st->by_name[i] = (uint32_t)i;
	if (st->n > 0)
		qsort_r(st->by_name, st->n, sizeof *st->by_name, by_name, st->entries);
	for (size_t i = 1; i < st->n; i++) {
		const char *name = st->entries[st->by_name[i]].t.name;

		if (strcmp(st->entries[st->by_name[i - 1]].t.name, name) == 0)
			return ql_err_param(e, QL_EFORMAT, name, "tensor %.200s occurs twice", name);
	}
	return QL_OK;
}

int ql_st_parse(struct ql_st *st, struct ql_err *e)
{
	struct scan c = {0};
	uint64_t n = 0;
	int rc;

	if (st->size < 8)
		return ql_err_at(e, QL_EFORMAT, st->size, "file too short for a safetensors header");
	for (int i = 7; i >= 0; i--)
		n = n << 8 | st->file[i];
	if (n > QL_ST_HEADER_MAX)
		return ql_err_at(e, QL_ELIMIT, 0, "safetensors header of %llu bytes, more than the %zu allowed",
				 (unsigned long long)n, QL_ST_HEADER_MAX);
	if (n > st->size - 8)
		return ql_err_at(e, QL_EFORMAT, st->size, "file ends inside the safetensors header");
	c.s = (const char *)st->file + 8;
	c.len = (size_t)n;
	rc = read_header(st, &c, e);
	return rc != QL_OK ? rc : check_layout(st, 8 + n, e);
}
