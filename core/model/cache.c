/* cache.c - quantising a source and keeping the result; see cache.h for the format. */
#include "core/model/cache.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/formats/safetensors.h"

#define CACHE_VERSION 1
#define KEYS_PER_TENSOR 6

struct ql_base_cache {
	uint32_t n_layers;
	struct ql_q4 *tensors; /* [n_layers · QL_MODULES] */
	struct ql_st *file;    /* what the tensors borrow from, or NULL when they own their memory */
	double quantise_s, write_s;
};

static const char *const suffixes[KEYS_PER_TENSOR] = {"", ".absmax", ".quant_map", ".nested_absmax", ".nested_quant_map",
						      NULL /* quant_state, by kind */};

static void linear_name(char *out, size_t size, uint32_t layer, int module)
{
	(void)snprintf(out, size, "model.layers.%u.%s.%s.weight", layer, module <= QL_O_PROJ ? "self_attn" : "mlp",
		       ql_module_name(module));
}

static void key_name(char *out, size_t size, uint32_t layer, int module, int part, enum ql_dtype kind)
{
	char base[128];

	linear_name(base, sizeof base, layer, module);
	if (part < KEYS_PER_TENSOR - 1)
		(void)snprintf(out, size, "%s%s", base, suffixes[part]);
	else
		(void)snprintf(out, size, "%s.quant_state.bitsandbytes__%s", base, ql_dtype_name(kind));
}

/* ---- the note of a source's hash ---------------------------------------------------------------------------------- */

static bool note_read(int dir, const char *name, char hex[65])
{
	struct ql_buf b = {0};
	json_t *v = NULL;
	const char *sha = NULL;
	bool ok = false;

	if (ql_io_read_all(dir, name, 4096, &b, NULL) == QL_OK &&
	    ql_json_parse(b.data, b.len, 4096, &v, NULL) == QL_OK && json_is_object(v) &&
	    ql_json_get_str(v, "sha256", 64, 64, &sha, NULL) == QL_OK && sha != NULL &&
	    strspn(sha, "0123456789abcdef") == 64) {
		memcpy(hex, sha, 65);
		ok = true;
	}
	json_decref(v);
	ql_buf_free(&b);
	return ok;
}

int ql_cache_source_hash(const struct ql_source *s, int cache_dir, struct ql_pool *pool, char hex[65], struct ql_err *e)
{
	char name[64] = "", text[160], stamp[65];
	bool noted = cache_dir >= 0 && ql_source_stamp(s, stamp);
	int rc;

	if (noted) {
		(void)snprintf(name, sizeof name, "source-%.24s.json", stamp);
		if (note_read(cache_dir, name, hex))
			return QL_OK;
	}
	rc = ql_source_hash(s, pool, hex, e);
	if (rc != QL_OK || !noted)
		return rc;
	(void)snprintf(text, sizeof text, "{\"sha256\":\"%s\"}\n", hex);
	if (ql_io_replace(cache_dir, name, text, strlen(text), NULL) != QL_OK)
		ql_log(QL_LOG_WARN, "cache", "the note of the base model's hash could not be written");
	return QL_OK;
}

/* ---- quantising ---------------------------------------------------------------------------------------------------- */

/* On the device, read back. */
static int quantise_there(struct ql_q4 *out, struct ql_device *dev, const struct ql_source_tensor *t, const void *rows,
			  enum ql_dtype kind, struct ql_err *e)
{
	struct ql_weight_shape s = {.in = (uint32_t)t->cols, .n_parts = 1, .out = {(uint32_t)t->rows}};
	struct ql_weight *w;
	int rc = dev->ops->weight_quantize(dev, &s, t->dtype, &rows, kind, &w, e);

	if (rc != QL_OK)
		return rc;
	rc = dev->ops->weight_to_q4(dev, w, 0, out, e);
	dev->ops->weight_free(dev, w);
	return rc;
}

static bool device_can(const struct ql_device *dev, const struct ql_source_tensor *t, const struct ql_q4_opts *q)
{
	return dev != NULL && dev->act != QL_F32 && (t->dtype == QL_F32 || t->dtype == QL_F16 || t->dtype == QL_BF16) &&
	       q->blocksize == 64 && q->nested && q->nested_blocksize == 256;
}

static int quantise_one(struct ql_q4 *out, const struct ql_source *s, uint32_t layer, int module, const struct ql_q4_opts *q,
			struct ql_device *dev, struct ql_pool *pool, struct ql_err *e)
{
	struct ql_source_tensor t;
	char name[128];
	const void *rows;
	float *values;
	size_t bytes;
	int rc;

	linear_name(name, sizeof name, layer, module);
	rc = ql_source_find(s, name, &t, e);
	if (rc != QL_OK)
		return rc;
	rows = device_can(dev, &t, q) ? ql_source_raw(s, &t, &bytes) : NULL;
	if (rows != NULL) {
		rc = quantise_there(out, dev, &t, rows, q->kind, e);
		return rc == QL_OK ? rc : ql_err_prefix(e, "%s", name);
	}
	values = malloc((size_t)t.n * sizeof *values);
	if (values == NULL)
		return ql_err_set(e, QL_ENOMEM, "%s: no memory for %llu values", name, (unsigned long long)t.n);
	rc = ql_source_read_f32(s, &t, 0, t.rows, values, e);
	if (rc == QL_OK)
		rc = ql_q4_quantize(out, values, QL_F32, t.n, q, pool, e);
	free(values);
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "%s", name);
	return rc;
}

static int quantise_all(struct ql_base_cache *c, const struct ql_source *s, const struct ql_q4_opts *q, struct ql_device *dev,
			struct ql_pool *pool, void (*progress)(void *, double, const char *), void *ctx, struct ql_err *e)
{
	uint32_t n = c->n_layers * QL_MODULES;

	for (uint32_t i = 0; i < n; i++) {
		int rc = quantise_one(&c->tensors[i], s, i / QL_MODULES, (int)(i % QL_MODULES), q, dev, pool, e);

		if (rc != QL_OK)
			return rc;
		if (progress != NULL)
			progress(ctx, (double)(i + 1) / n, "quantising");
	}
	return QL_OK;
}

/* The tensors of a source that is in 4 bit already, as they are; they borrow from it. */
static int borrow_all(struct ql_base_cache *c, const struct ql_source *s, struct ql_err *e)
{
	for (uint32_t i = 0; i < c->n_layers * QL_MODULES; i++) {
		struct ql_source_tensor t;
		char name[128];
		int rc;

		linear_name(name, sizeof name, i / QL_MODULES, (int)(i % QL_MODULES));
		rc = ql_source_find(s, name, &t, e);
		if (rc == QL_OK && t.q4 == NULL)
			rc = ql_err_set(e, QL_ESTATE, "%s is not in 4 bit", name);
		if (rc != QL_OK)
			return rc;
		c->tensors[i] = *t.q4;
		c->tensors[i].owned = NULL;
	}
	return QL_OK;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

static int state_text(const struct ql_q4 *q, const struct ql_arch *a, int module, char *out, size_t size)
{
	uint32_t rows, cols;

	ql_arch_module_shape(a, module, &rows, &cols);
	return snprintf(out, size,
			"{\"quant_type\":\"%s\",\"blocksize\":%u,\"dtype\":\"float32\",\"shape\":[%u,%u],"
			"\"nested_blocksize\":%u,\"nested_dtype\":\"float32\",\"nested_offset\":%.9g}",
			ql_dtype_name(q->kind), q->blocksize, rows, cols, q->nested_blocksize, (double)q->offset);
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
		*bytes = q->nested ? sizeof q->nested_map : 0;
		return q->nested_map;
	default:
		*bytes = state_len;
		return state;
	}
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

static int write_cache(const struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, struct ql_err *e)
{
	size_t n = (size_t)c->n_layers * QL_MODULES * KEYS_PER_TENSOR, due;
	char(*names)[160] = calloc(n, sizeof *names);
	struct ql_st_spec *specs = calloc(n, sizeof *specs);
	struct ql_st_writer *w = NULL;
	char state[512];
	int rc;

	if (names == NULL || specs == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "cache table");
		goto cleanup;
	}
	for (size_t i = 0; i < n; i++) {
		size_t t = i / KEYS_PER_TENSOR, bytes;
		int part = (int)(i % KEYS_PER_TENSOR), module = (int)(t % QL_MODULES);
		const struct ql_q4 *q = &c->tensors[t];
		int len = state_text(q, a, module, state, sizeof state);

		key_name(names[i], sizeof names[i], (uint32_t)(t / QL_MODULES), module, part, q->kind);
		(void)part_data(q, part, state, (size_t)len, &bytes);
		fill_spec(&specs[i], names[i], q, part, bytes);
	}
	rc = ql_st_write_begin(&w, dir, file, specs, n, e);
	while (rc == QL_OK && (due = ql_st_write_next(w)) < n) {
		size_t t = due / KEYS_PER_TENSOR, bytes;
		int len = state_text(&c->tensors[t], a, (int)(t % QL_MODULES), state, sizeof state);
		const void *data = part_data(&c->tensors[t], (int)(due % KEYS_PER_TENSOR), state, (size_t)len, &bytes);

		rc = ql_st_write_data(w, data, bytes, e);
	}
	if (rc == QL_OK) {
		rc = ql_st_write_commit(w, e);
		w = NULL;
	}
cleanup:
	ql_st_write_abort(w);
	free(names);
	free(specs);
	return rc;
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

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
			    .nested_blocksize = o->nested_blocksize, .nested = o->nested};
	uint64_t sizes[KEYS_PER_TENSOR] = {(q->n + 1) / 2, ql_q4_blocks(q), 16, ql_q4_nested_blocks(q), o->nested ? 256 : 0, 0};

	for (int part = 0; part < KEYS_PER_TENSOR - 1; part++) {
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

static int read_cache(struct ql_base_cache *c, const struct ql_arch *a, int dir, const char *file, const struct ql_q4_opts *o,
		      struct ql_err *e)
{
	int rc = ql_st_open_at(&c->file, dir, file, e);

	for (uint32_t i = 0; rc == QL_OK && i < c->n_layers * QL_MODULES; i++)
		rc = read_tensor(&c->tensors[i], c->file, a, i / QL_MODULES, (int)(i % QL_MODULES), o, e);
	if (rc != QL_OK) {
		memset(c->tensors, 0, (size_t)c->n_layers * QL_MODULES * sizeof *c->tensors);
		ql_st_close(c->file);
		c->file = NULL;
	}
	return rc;
}

int ql_base_cache_open(struct ql_base_cache **out, const struct ql_source *s, const char *source_sha256, int cache_dir,
		       const struct ql_q4_opts *q, struct ql_device *dev, struct ql_pool *pool,
		       void (*progress)(void *, double, const char *), void *ctx, struct ql_err *e)
{
	const struct ql_arch *a = ql_source_arch(s);
	struct ql_base_cache *c = calloc(1, sizeof *c);
	char file[64], text[256], hex[65];
	double begin;
	int rc;

	*out = NULL;
	if (c == NULL)
		return ql_err_set(e, QL_ENOMEM, "cache");
	c->n_layers = a->num_hidden_layers;
	c->tensors = calloc((size_t)c->n_layers * QL_MODULES, sizeof *c->tensors);
	if (c->tensors == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "cache of %u layers", c->n_layers);
		goto fail;
	}
	if (a->stored_4bit) {
		rc = borrow_all(c, s, e);
		if (rc != QL_OK)
			goto fail;
		*out = c;
		return QL_OK;
	}
	(void)snprintf(text, sizeof text, "%s|%s|%u|%d|%u|%d", source_sha256, ql_dtype_name(q->kind), q->blocksize, q->nested,
		       q->nested_blocksize, CACHE_VERSION);
	ql_sha256_hex(text, strlen(text), hex);
	(void)snprintf(file, sizeof file, "base-%.24s.safetensors", hex);
	if (cache_dir >= 0) {
		rc = read_cache(c, a, cache_dir, file, q, e);
		if (rc == QL_OK) {
			*out = c;
			return QL_OK;
		}
		if (rc != QL_ENOTFOUND)
			ql_log(QL_LOG_WARN, "cache", "%s is not usable (%s), made anew", file, e != NULL ? e->message : "");
	}
	begin = ql_now();
	rc = quantise_all(c, s, q, dev, pool, progress, ctx, e);
	if (rc != QL_OK)
		goto fail;
	c->quantise_s = ql_now() - begin;
	if (cache_dir >= 0) {
		struct ql_err we = {0};

		begin = ql_now();

		if (write_cache(c, a, cache_dir, file, &we) != QL_OK)
			ql_log(QL_LOG_WARN, "cache", "%s not written: %s", file, we.message);
		c->write_s = ql_now() - begin;
	}
	*out = c;
	return QL_OK;
fail:
	ql_base_cache_close(c);
	return rc;
}

void ql_base_cache_close(struct ql_base_cache *c)
{
	if (c == NULL)
		return;
	if (c->tensors != NULL)
		for (uint32_t i = 0; i < c->n_layers * QL_MODULES; i++)
			ql_q4_free(&c->tensors[i]);
	free(c->tensors);
	ql_st_close(c->file);
	free(c);
}

const struct ql_q4 *ql_base_cache_get(const struct ql_base_cache *c, uint32_t layer, int module)
{
	return &c->tensors[(size_t)layer * QL_MODULES + (size_t)module];
}

bool ql_base_cache_was_cached(const struct ql_base_cache *c) { return c->file != NULL; }

void ql_base_cache_seconds(const struct ql_base_cache *c, double *quantise, double *write)
{
	*quantise = c->quantise_s;
	*write = c->write_s;
}
