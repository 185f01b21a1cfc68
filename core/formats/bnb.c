/* bnb.c - see bnb.h. */
#include "core/formats/bnb.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/json.h"

static const enum ql_dtype kinds[] = {QL_NF4, QL_FP4, QL_INT4};
#define STATE ".quant_state.bitsandbytes__"

static const struct ql_st_tensor *part(const struct ql_bnb_keys *k, const char *base, const char *suffix)
{
	char key[QL_NAME_MAX + 64];

	(void)snprintf(key, sizeof key, "%s%s", base, suffix);
	return k->find(k->ctx, key);
}

static const struct ql_st_tensor *state_of(const struct ql_bnb_keys *k, const char *base, enum ql_dtype *kind)
{
	const struct ql_st_tensor *t = NULL;
	char suffix[64];

	for (size_t i = 0; t == NULL && i < sizeof kinds / sizeof kinds[0]; i++) {
		(void)snprintf(suffix, sizeof suffix, STATE "%s", ql_dtype_name(kinds[i]));
		t = part(k, base, suffix);
		*kind = kinds[i];
	}
	return t;
}

bool ql_bnb_companion(const struct ql_bnb_keys *k, const char *name)
{
	static const char *const suffixes[] = {".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map", STATE};
	char base[QL_NAME_MAX + 1];
	enum ql_dtype kind;

	for (size_t i = 0; i < sizeof suffixes / sizeof suffixes[0]; i++) {
		const char *p = strstr(name, suffixes[i]);

		if (p == NULL || p == name)
			continue;
		(void)snprintf(base, sizeof base, "%.*s", (int)(p - name), name);
		if (k->find(k->ctx, base) != NULL && state_of(k, base, &kind) != NULL)
			return true;
	}
	return false;
}

struct state {
	int64_t blocksize, nested_blocksize;
	double offset;
	uint64_t n;
	bool nested;
};

static int read_shape(const json_t *v, struct state *s, struct ql_bnb_info *out, const char *key, struct ql_err *e)
{
	const json_t *shape = json_object_get(v, "shape");

	if (!json_is_array(shape) || json_array_size(shape) == 0 || json_array_size(shape) > QL_ST_DIMS_MAX)
		return ql_err_param(e, QL_EFORMAT, key, "%.200s: shape is no list of 1 to 8 sizes", key);
	out->n_dims = (int)json_array_size(shape);
	s->n = 1;
	for (size_t i = 0; i < QL_ST_DIMS_MAX; i++) {
		json_int_t d = i < json_array_size(shape) ? json_integer_value(json_array_get(shape, i)) : 1;

		if (d < 1 || !ql_mul_u64(s->n, (uint64_t)d, &s->n))
			return ql_err_param(e, QL_EFORMAT, key, "%.200s: shape holds no sizes", key);
		out->shape[i] = (uint64_t)d;
	}
	return QL_OK;
}

static int read_state(const struct ql_st_tensor *t, struct state *s, struct ql_bnb_info *out, struct ql_err *e)
{
	json_t *v = NULL;
	int rc = t->dtype == QL_U8 ? ql_json_parse(t->data, t->bytes, QL_KIB(16), &v, e)
				   : ql_err_param(e, QL_EFORMAT, t->name, "%.200s is not U8", t->name);

	*s = (struct state){.nested_blocksize = 0};
	if (rc == QL_OK && !json_is_object(v))
		rc = ql_err_param(e, QL_EFORMAT, t->name, "%.200s is no JSON object", t->name);
	if (rc == QL_OK)
		rc = ql_json_get_int(v, "blocksize", 1, INT32_MAX, &s->blocksize, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(v, "nested_blocksize", 1, INT32_MAX, &s->nested_blocksize, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(v, "nested_offset", -1e30, 1e30, &s->offset, e);
	if (rc == QL_OK)
		rc = read_shape(v, s, out, t->name, e);
	s->nested = s->nested_blocksize > 0;
	json_decref(v);
	return rc == QL_OK ? QL_OK : (void)ql_err_prefix(e, "%.100s", t->name), rc;
}

/* A companion of the expected type and element count; adds its bytes. */
static int want(const struct ql_bnb_keys *k, const char *base, const char *suffix, enum ql_dtype dtype, uint64_t n,
		const void **data, uint64_t *bytes, struct ql_err *e)
{
	const struct ql_st_tensor *t = part(k, base, suffix);

	if (t == NULL)
		return ql_err_param(e, QL_EFORMAT, base, "%.200s%s is missing", base, suffix);
	if (t->dtype != dtype || t->n != n)
		return ql_err_param(e, QL_EFORMAT, t->name, "%.200s is not %s [%llu]", t->name, ql_dtype_name(dtype),
				    (unsigned long long)n);
	*data = t->data;
	*bytes += t->bytes;
	return QL_OK;
}

/* The floats are copied: the file does not align them. */
static int gather(struct ql_q4 *q, const void *absmax, const void *nested, const void *codes, struct ql_err *e)
{
	size_t m = q->nested ? ql_q4_nested_blocks(q) : ql_q4_blocks(q);
	float *f = malloc(m * sizeof *f);

	if (f == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for scales");
	memcpy(f, q->nested ? nested : absmax, m * sizeof *f);
	q->owned = f;
	q->absmax = q->nested ? NULL : f;
	q->nested_absmax = q->nested ? f : NULL;
	q->absmax_q = q->nested ? (uint8_t *)(uintptr_t)absmax : NULL;
	q->codes = (uint8_t *)(uintptr_t)codes;
	return QL_OK;
}

int ql_bnb_read(struct ql_q4 *q, const struct ql_st_tensor *t, const struct ql_bnb_keys *k, struct ql_bnb_info *out,
		struct ql_err *e)
{
	const void *absmax = NULL, *map = NULL, *nested = NULL, *nested_map = NULL;
	enum ql_dtype kind = QL_NF4;
	const struct ql_st_tensor *state = state_of(k, t->name, &kind);
	struct state s;
	int rc;

	*q = (struct ql_q4){.kind = kind};
	*out = (struct ql_bnb_info){.bytes = 0};
	if (state == NULL)
		return QL_ENOTFOUND;
	rc = read_state(state, &s, out, e);
	if (rc != QL_OK)
		return rc;
	out->bytes = t->bytes + state->bytes;
	if (t->bytes != s.n / 2 + s.n % 2 || s.blocksize < 1)
		return ql_err_param(e, QL_EFORMAT, t->name, "%.200s: %zu bytes are not the codes of its shape", t->name, t->bytes);
	q->n = s.n;
	q->blocksize = (uint32_t)s.blocksize;
	q->nested = s.nested;
	q->nested_blocksize = (uint32_t)s.nested_blocksize;
	q->offset = (float)s.offset;
	q->per_channel = !ql_q4_blocksize_ok(q->blocksize);
	rc = want(k, t->name, ".absmax", s.nested ? QL_U8 : QL_F32, ql_q4_blocks(q), &absmax, &out->bytes, e);
	if (rc == QL_OK)
		rc = want(k, t->name, ".quant_map", QL_F32, 16, &map, &out->bytes, e);
	if (rc == QL_OK && s.nested)
		rc = want(k, t->name, ".nested_absmax", QL_F32, ql_q4_nested_blocks(q), &nested, &out->bytes, e);
	if (rc == QL_OK && s.nested)
		rc = want(k, t->name, ".nested_quant_map", QL_F32, 256, &nested_map, &out->bytes, e);
	if (rc == QL_OK)
		rc = gather(q, absmax, nested, t->data, e);
	if (rc != QL_OK)
		return rc;
	memcpy(q->code, map, sizeof q->code);
	if (s.nested)
		memcpy(q->nested_map, nested_map, sizeof q->nested_map);
	rc = ql_q4_check(q, e);
	if (rc != QL_OK) {
		(void)ql_err_prefix(e, "%.200s", t->name);
		free(q->owned);
		*q = (struct ql_q4){0};
	}
	return rc;
}
