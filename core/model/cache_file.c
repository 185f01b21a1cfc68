/* cache_file.c - the file of the 4-bit form: bitsandbytes' keys for each tensor (cache.h), and in the header's notes, under the tensor's
 * name, the SHA-256 of all of them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/model/cache_priv.h"

#define KEYS_PER_TENSOR 6

static const char *const suffixes[KEYS_PER_TENSOR] = {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
						      NULL /* quant_state, by kind */};

static void key_name(char *out, size_t size, uint32_t layer, int module, int part, enum ql_dtype kind)
{
	char base[128];

	ql_cache_linear_name(base, sizeof base, layer, module);
	if (part < KEYS_PER_TENSOR - 1)
		(void)snprintf(out, size, "%s%s", base, suffixes[part]);
	else
		(void)snprintf(out, size, "%s.quant_state.bitsandbytes__%s", base, ql_dtype_name(kind));
}

/* Only double-quantised tensors have keys of nested scales: bitsandbytes takes their presence for that. */
static bool has_part(const struct ql_q4 *q, int part) { return q->nested || (part != 3 && part != 4); }

static int state_text(const struct ql_q4 *q, const struct ql_arch *a, int module, char *out, size_t size)
{
	char nested[128] = "";
	uint32_t rows, cols;

	ql_arch_module_shape(a, module, &rows, &cols);
	if (q->nested)
		(void)snprintf(nested, sizeof nested, ",\"nested_blocksize\":%u,\"nested_dtype\":\"float32\",\"nested_offset\":%.9g",
			       q->nested_blocksize, (double)q->offset);
	return snprintf(out, size, "{\"quant_type\":\"%s\",\"blocksize\":%u,\"dtype\":\"float32\",\"shape\":[%u,%u]%s}",
			ql_dtype_name(q->kind), q->blocksize, rows, cols, nested);
}

/* Array of key `part` of a tensor. */
static const void *part_data(const struct ql_q4 *q, int part, const char *state, size_t state_len, size_t *bytes)
{
	switch (part) {
	case 0:
		*bytes = (size_t)((q->n + 1) / 2);
		return q->codes;
	case 1:
		*bytes = (size_t)ql_q4_blocks(q) * (q->nested ? 1 : 4);
		return q->nested ? (const void *)q->absmax_q : (const void *)q->absmax;
	case 2:
		*bytes = sizeof q->code;
		return q->code;
	case 3:
		*bytes = (size_t)ql_q4_nested_blocks(q) * 4;
		return q->nested_absmax;
	case 4:
		*bytes = sizeof q->nested_map;
		return q->nested_map;
	default:
		*bytes = state_len;
		return state;
	}
}

/* SHA-256 over a tensor's keys in their order. */
struct digest_job {
	const struct ql_base_cache *c;
	const struct ql_arch *a;
	char (*hex)[QL_SHA256_HEX_SIZE]; /* [tensors] */
};

static void digest_item(void *ctx, size_t i, int worker)
{
	const struct digest_job *j = ctx;
	const struct ql_q4 *q = &j->c->tensors[i];
	struct ql_sha256 h;
	char state[512];
	size_t bytes;
	int len = state_text(q, j->a, (int)(i % QL_MODULES), state, sizeof state);

	(void)worker;
	ql_sha256_init(&h);
	for (int part = 0; part < KEYS_PER_TENSOR; part++)
		if (has_part(q, part)) {
			const void *data = part_data(q, part, state, (size_t)len, &bytes);

			ql_sha256_add(&h, data, bytes);
		}
	ql_sha256_end_hex(&h, j->hex[i]);
}

static void fill_spec(struct ql_st_spec *spec, char *name, const struct ql_q4 *q, int part, size_t bytes)
{
	bool f32 = part == 2 || part == 3 || part == 4 || (part == 1 && !q->nested);

	*spec = (struct ql_st_spec){.name = name, .dtype = f32 ? QL_F32 : QL_U8, .n_dims = 1};
	spec->shape[0] = f32 ? bytes / 4 : bytes;
	if (part == 0) {
		spec->n_dims = 2;
		spec->shape[1] = 1;
	}
}

/* What the file is made of: one entry for each key. */
struct table {
	size_t n;
	size_t *tensor; /* of each entry, and the key's part */
	int *part;
	char (*names)[160];
	struct ql_st_spec *specs;
	const char **notes;
};

static int make_table(struct table *t, const struct ql_base_cache *c, const struct ql_arch *a, char (*digests)[QL_SHA256_HEX_SIZE],
		      struct ql_err *e)
{
	size_t tensors = (size_t)c->n_layers * QL_MODULES, most = tensors * KEYS_PER_TENSOR, bytes;
	char state[512];

	*t = (struct table){0, calloc(most, sizeof *t->tensor), calloc(most, sizeof *t->part), calloc(most, sizeof *t->names),
			    calloc(most, sizeof *t->specs), calloc(most, sizeof *t->notes)};
	if (t->tensor == NULL || t->part == NULL || t->names == NULL || t->specs == NULL || t->notes == NULL)
		return ql_err_set(e, QL_ENOMEM, "cache table");
	for (size_t i = 0; i < tensors; i++) {
		const struct ql_q4 *q = &c->tensors[i];
		int module = (int)(i % QL_MODULES), len = state_text(q, a, module, state, sizeof state);

		for (int part = 0; part < KEYS_PER_TENSOR; part++) {
			if (!has_part(q, part))
				continue;
			t->tensor[t->n] = i;
			t->part[t->n] = part;
			key_name(t->names[t->n], sizeof *t->names, (uint32_t)(i / QL_MODULES), module, part, q->kind);
			(void)part_data(q, part, state, (size_t)len, &bytes);
			fill_spec(&t->specs[t->n], t->names[t->n], q, part, bytes);
			t->notes[t->n++] = part == 0 ? digests[i] : NULL;
		}
	}
	return QL_OK;
}

static void free_table(struct table *t)
{
	free(t->tensor);
	free(t->part);
	free(t->names);
	free(t->specs);
	free(t->notes);
}

int ql_cache_write(const struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, struct ql_pool *pool,
		   struct ql_err *e)
{
	size_t tensors = (size_t)c->n_layers * QL_MODULES, due, bytes;
	char(*digests)[QL_SHA256_HEX_SIZE] = calloc(tensors, sizeof *digests), state[512];
	struct ql_st_writer *w = NULL;
	struct table t = {0};
	int rc = digests == NULL ? ql_err_set(e, QL_ENOMEM, "cache table") : QL_OK;

	if (rc == QL_OK)
		ql_pool_run(pool, tensors, digest_item, &(struct digest_job){c, a, digests});
	if (rc == QL_OK)
		rc = make_table(&t, c, a, digests, e);
	if (rc == QL_OK)
		rc = ql_st_write_begin_notes(&w, dir, file, t.specs, t.notes, t.n, e);
	while (rc == QL_OK && (due = ql_st_write_next(w)) < t.n) {
		const struct ql_q4 *q = &c->tensors[t.tensor[due]];
		int len = state_text(q, a, (int)(t.tensor[due] % QL_MODULES), state, sizeof state);
		const void *data = part_data(q, t.part[due], state, (size_t)len, &bytes);

		rc = ql_st_write_data(w, data, bytes, e);
	}
	if (rc == QL_OK)
		rc = ql_st_write_commit(w, e);
	else
		ql_st_write_abort(w);
	free_table(&t);
	free(digests);
	return rc;
}

static int want(const struct ql_st *st, const char *name, enum ql_dtype dtype, uint64_t n, const void **data, struct ql_err *e)
{
	const struct ql_st_tensor *t = ql_st_find(st, name);

	if (t == NULL || t->dtype != dtype || t->n != n)
		return ql_err_param(e, QL_EFORMAT, "cache", "%s is missing or has another shape", name);
	if (dtype == QL_F32 && ((uintptr_t)t->data & 3) != 0)
		return ql_err_param(e, QL_EFORMAT, "cache", "%s is not aligned", name);
	*data = t->data;
	return QL_OK;
}

/* Fills q from the file; its settings must be exactly those of o, since the cache name stands for them. */
static int read_tensor(struct ql_q4 *q, const struct ql_st *st, const struct ql_arch *a, uint32_t layer, int module,
		       const struct ql_q4_opts *o, struct ql_err *e)
{
	const void *p[KEYS_PER_TENSOR] = {0};
	char name[160], expect[512];
	uint32_t rows, cols;
	json_t *v = NULL;
	double offset = 0;
	int rc;

	ql_arch_module_shape(a, module, &rows, &cols);
	*q = (struct ql_q4){.kind = o->kind, .n = (uint64_t)rows * cols, .blocksize = o->blocksize,
			    .nested_blocksize = o->nested ? o->nested_blocksize : 0, .nested = o->nested};
	uint64_t sizes[KEYS_PER_TENSOR] = {(q->n + 1) / 2, ql_q4_blocks(q), 16, o->nested ? ql_q4_nested_blocks(q) : 0, 256, 0};

	for (int part = 0; part < KEYS_PER_TENSOR - 1; part++) {
		if (!has_part(q, part))
			continue;
		key_name(name, sizeof name, layer, module, part, o->kind);
		rc = want(st, name, part == 0 || (part == 1 && o->nested) ? QL_U8 : QL_F32, sizes[part], &p[part], e);
		if (rc != QL_OK)
			return rc;
	}
	key_name(name, sizeof name, layer, module, KEYS_PER_TENSOR - 1, o->kind);
	const struct ql_st_tensor *state = ql_st_find(st, name);

	if (state == NULL || state->dtype != QL_U8)
		return ql_err_param(e, QL_EFORMAT, "cache", "%s is missing", name);
	rc = ql_json_parse(state->data, state->bytes, 4096, &v, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(v, "nested_offset", -1e30, 1e30, &offset, e);
	json_decref(v);
	if (rc != QL_OK)
		return rc;
	q->offset = (float)offset;
	(void)state_text(q, a, module, expect, sizeof expect);
	if (strlen(expect) != state->bytes || memcmp(expect, state->data, state->bytes) != 0)
		return ql_err_param(e, QL_EFORMAT, "cache", "%s has other settings", name);
	q->codes = (uint8_t *)(uintptr_t)p[0];
	if (o->nested) {
		q->absmax_q = (uint8_t *)(uintptr_t)p[1];
		q->nested_absmax = (float *)(uintptr_t)p[3];
		memcpy(q->nested_map, p[4], sizeof q->nested_map);
	} else {
		q->absmax = (float *)(uintptr_t)p[1];
	}
	memcpy(q->code, p[2], sizeof q->code);
	return ql_q4_check(q, e);
}

/* Are the tensors what was written? */
static int check_digests(const struct ql_base_cache *c, const struct ql_arch *a, struct ql_pool *pool, struct ql_err *e)
{
	size_t n = (size_t)c->n_layers * QL_MODULES;
	char(*hex)[QL_SHA256_HEX_SIZE] = calloc(n, sizeof *hex), name[160];
	int rc = hex == NULL ? ql_err_set(e, QL_ENOMEM, "cache table") : QL_OK;

	if (rc == QL_OK)
		ql_pool_run(pool, n, digest_item, &(struct digest_job){c, a, hex});
	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		const char *want;

		key_name(name, sizeof name, (uint32_t)(i / QL_MODULES), (int)(i % QL_MODULES), 0, c->tensors[i].kind);
		want = ql_st_metadata(c->file, name);
		if (want == NULL || strcmp(want, hex[i]) != 0)
			rc = ql_err_param(e, QL_EFORMAT, "cache", "%s is not what was written", name);
	}
	free(hex);
	return rc;
}

int ql_cache_read(struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, const struct ql_q4_opts *o,
		  struct ql_pool *pool, struct ql_err *e)
{
	int rc = ql_st_open_at(&c->file, dir, file, e);

	for (uint32_t i = 0; rc == QL_OK && i < c->n_layers * QL_MODULES; i++)
		rc = read_tensor(&c->tensors[i], c->file, a, i / QL_MODULES, (int)(i % QL_MODULES), o, e);
	if (rc == QL_OK)
		rc = check_digests(c, a, pool, e);
	if (rc != QL_OK) {
		memset(c->tensors, 0, (size_t)c->n_layers * QL_MODULES * sizeof *c->tensors);
		ql_st_close(c->file);
		c->file = NULL;
	}
	return rc;
}
