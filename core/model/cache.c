/* cache.c - the 4-bit form of a source: from the cache, or quantised and kept; see cache.h. */
#include "core/model/cache.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/log.h"
#include "core/model/cache_priv.h"

#define CACHE_VERSION 1

void ql_cache_linear_name(char *out, size_t size, uint32_t layer, int module)
{
	(void)snprintf(out, size, "model.layers.%u.%s.%s.weight", layer, module <= QL_O_PROJ ? "self_attn" : "mlp",
		       ql_module_name(module));
}

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

	ql_cache_linear_name(name, sizeof name, layer, module);
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

		ql_cache_linear_name(name, sizeof name, i / QL_MODULES, (int)(i % QL_MODULES));
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
		rc = ql_cache_read(c, a, cache_dir, file, q, pool, e);
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
		if (ql_cache_write(c, a, cache_dir, file, pool, &we) != QL_OK)
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
