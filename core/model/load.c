/* load.c - from a source to weights on a device; see model.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/model/cache.h"
#include "core/model/model.h"
#include "core/quant/blk.h"

const struct ql_group_info ql_groups[QL_GROUPS] = {
	[QL_GROUP_QKV] = {QL_Q_PROJ, 3},
	[QL_GROUP_O] = {QL_O_PROJ, 1},
	[QL_GROUP_GATE_UP] = {QL_GATE_PROJ, 2},
	[QL_GROUP_DOWN] = {QL_DOWN_PROJ, 1},
};

/* n floats of the host as a new array on the device. */
static int put_floats(struct ql_model *m, const float *host, size_t n, float **out, struct ql_err *e)
{
	int rc = m->dev->ops->alloc(m->dev, QL_MEM_BASE, n * sizeof *host, (void **)out, e);

	if (rc == QL_OK)
		rc = m->dev->ops->upload(m->dev, m->queue, *out, host, n * sizeof *host, e);
	return rc == QL_OK ? m->dev->ops->sync(m->dev, m->queue, e) : rc; /* host memory goes away */
}

/* A norm's weights to host[n], as they are meant. */
static int read_norm(struct ql_model *m, const char *name, uint64_t n, float *host, struct ql_err *e)
{
	struct ql_source_tensor t;
	int rc = ql_source_find(m->source, name, &t, e);

	if (rc != QL_OK)
		return rc;
	if (t.n != n)
		return ql_err_set(e, QL_ESHAPE, "%s has %llu values, expected %llu", name, (unsigned long long)t.n,
				  (unsigned long long)n);
	rc = ql_source_read_f32(m->source, &t, 0, t.rows, host, e);
	for (uint64_t i = 0; rc == QL_OK && m->arch.norm_plus_one && i < n; i++)
		host[i] += 1;
	return rc;
}

/* A norm's weights as fp32 on the device. */
static int load_norm(struct ql_model *m, const char *name, uint64_t n, float **out, struct ql_err *e)
{
	float *host = malloc((size_t)n * sizeof *host);
	int rc = host == NULL ? ql_err_set(e, QL_ENOMEM, "%s", name) : read_norm(m, name, n, host, e);

	if (rc == QL_OK)
		rc = put_floats(m, host, (size_t)n, out, e);
	free(host);
	return rc;
}

/* The norms of heads, once for each query head and each key head, so that one op serves all. */
static int load_qk_norm(struct ql_model *m, uint32_t layer, float **out, struct ql_err *e)
{
	uint32_t hd = m->arch.head_dim, n = m->d_q + m->d_kv;
	float *host = malloc((size_t)n * sizeof *host);
	int rc = host == NULL ? ql_err_set(e, QL_ENOMEM, "norms of heads") : QL_OK;

	for (int k = 0; rc == QL_OK && k < 2; k++) {
		uint32_t begin = k == 0 ? 0 : m->d_q, end = k == 0 ? m->d_q : n;
		char name[96];

		(void)snprintf(name, sizeof name, "model.layers.%u.self_attn.%c_norm.weight", layer, k == 0 ? 'q' : 'k');
		rc = read_norm(m, name, hd, host + begin, e);
		for (uint32_t c = begin + hd; rc == QL_OK && c < end; c += hd)
			memcpy(host + c, host + begin, hd * sizeof *host);
	}
	if (rc == QL_OK)
		rc = put_floats(m, host, n, out, e);
	free(host);
	return rc;
}

/* The three biases of q, k and v as one vector. */
static int load_qkv_bias(struct ql_model *m, uint32_t layer, float **out, struct ql_err *e)
{
	uint32_t total = m->d_q + 2 * m->d_kv, at = 0;
	float *host = malloc((size_t)total * sizeof *host);
	int rc = QL_OK;

	if (host == NULL)
		return ql_err_set(e, QL_ENOMEM, "bias");
	for (int mod = QL_Q_PROJ; rc == QL_OK && mod <= QL_V_PROJ; mod++) {
		struct ql_source_tensor t;
		char name[96];

		(void)snprintf(name, sizeof name, "model.layers.%u.self_attn.%s.bias", layer, ql_module_name(mod));
		rc = ql_source_find(m->source, name, &t, e);
		if (rc == QL_OK)
			rc = ql_source_read_f32(m->source, &t, 0, t.rows, host + at, e);
		at += mod == QL_Q_PROJ ? m->d_q : m->d_kv;
	}
	if (rc == QL_OK)
		rc = put_floats(m, host, total, out, e);
	free(host);
	return rc;
}

/* An embedding or head in its stored precision where the device takes it, else as fp32. */
static int load_dense(struct ql_model *m, const char *name, struct ql_weight **out, struct ql_err *e)
{
	struct ql_source_tensor t;
	struct ql_weight_shape shape;
	const void *raw;
	float *host = NULL;
	size_t bytes;
	int rc = ql_source_find(m->source, name, &t, e);

	if (rc != QL_OK)
		return rc;
	shape = (struct ql_weight_shape){.in = (uint32_t)t.cols, .n_parts = 1, .out = {(uint32_t)t.rows}};
	raw = ql_source_raw(m->source, &t, &bytes);
	if (raw != NULL && (t.dtype == QL_F32 || t.dtype == QL_F16 || t.dtype == QL_BF16 || t.dtype == QL_Q8_0))
		return m->dev->ops->weight_from_dense(m->dev, &shape, t.dtype, &raw, out, e);
	host = malloc((size_t)t.n * sizeof *host);
	if (host == NULL)
		return ql_err_set(e, QL_ENOMEM, "%s", name);
	rc = ql_source_read_f32(m->source, &t, 0, t.rows, host, e);
	raw = host;
	if (rc == QL_OK)
		rc = m->dev->ops->weight_from_dense(m->dev, &shape, QL_F32, &raw, out, e);
	free(host);
	return rc;
}

/* Values of the parts of a group as the source has them, one type for all: the source's bf16 or f16 (exact), else fp32. */
static int read_stored(struct ql_model *m, const struct ql_source_tensor *t, enum ql_dtype to, void **out, struct ql_err *e)
{
	float *x = malloc((size_t)t->n * sizeof *x);
	int rc = x == NULL ? ql_err_set(e, QL_ENOMEM, "%s", t->name) : ql_source_read_f32(m->source, t, 0, t->rows, x, e);

	if (rc == QL_OK && to != QL_F32) {
		*out = malloc((size_t)t->n * 2);
		rc = *out == NULL ? ql_err_set(e, QL_ENOMEM, "%s", t->name)
				  : ql_blk_quantize(to, x, t->rows, t->cols, NULL, *out, NULL, e);
	} else if (rc == QL_OK) {
		*out = x;
		return QL_OK;
	}
	free(x);
	return rc;
}

static int load_group_stored(struct ql_model *m, uint32_t layer, int group, struct ql_err *e)
{
	struct ql_weight_shape shape = {.n_parts = (uint32_t)ql_groups[group].count};
	struct ql_source_tensor t[QL_PARTS_MAX];
	void *parts[QL_PARTS_MAX] = {NULL};
	enum ql_dtype to = QL_F32;
	int rc = QL_OK;

	for (uint32_t p = 0; rc == QL_OK && p < shape.n_parts; p++) {
		int module = ql_groups[group].first + (int)p;
		char name[96];

		ql_arch_module_shape(&m->arch, module, &shape.out[p], &shape.in);
		(void)snprintf(name, sizeof name, "model.layers.%u.%s.%s.weight", layer, module < QL_GATE_PROJ ? "self_attn" : "mlp",
			       ql_module_name(module));
		rc = ql_source_find(m->source, name, &t[p], e);
		if (rc == QL_OK && p == 0 && (t[p].dtype == QL_F16 || t[p].dtype == QL_BF16))
			to = t[p].dtype;
		else if (rc == QL_OK && t[p].dtype != to)
			to = QL_F32;
	}
	for (uint32_t p = 0; rc == QL_OK && p < shape.n_parts; p++)
		rc = read_stored(m, &t[p], to, &parts[p], e);
	if (rc == QL_OK)
		rc = m->dev->ops->weight_from_dense(m->dev, &shape, to, (const void *const *)parts, &m->layers[layer].group[group], e);
	for (int p = 0; p < QL_PARTS_MAX; p++)
		free(parts[p]);
	return rc;
}

static int load_group(struct ql_model *m, uint32_t layer, int group, struct ql_err *e)
{
	struct ql_weight_shape shape = {.n_parts = (uint32_t)ql_groups[group].count};
	const struct ql_q4 *parts[QL_PARTS_MAX];

	if (m->base == NULL)
		return load_group_stored(m, layer, group, e);
	for (int p = 0; p < ql_groups[group].count; p++) {
		int module = ql_groups[group].first + p;

		ql_arch_module_shape(&m->arch, module, &shape.out[p], &shape.in);
		parts[p] = ql_base_cache_get(m->base, layer, module);
	}
	return m->dev->ops->weight_from_q4(m->dev, &shape, parts, &m->layers[layer].group[group], e);
}

static int load_layer(struct ql_model *m, uint32_t i, struct ql_err *e)
{
	struct ql_layer *l = &m->layers[i];
	bool post = m->arch.post_norms;
	const struct { const char *name; float **out; } norms[] = {
		{"input_layernorm", &l->norm1},
		{post ? "pre_feedforward_layernorm" : "post_attention_layernorm", &l->norm2},
		{post ? "post_attention_layernorm" : NULL, &l->post1},
		{post ? "post_feedforward_layernorm" : NULL, &l->post2},
	};
	int rc = QL_OK;

	for (int g = 0; rc == QL_OK && g < QL_GROUPS; g++)
		rc = load_group(m, i, g, e);
	for (size_t k = 0; rc == QL_OK && k < sizeof norms / sizeof norms[0]; k++) {
		char name[96];

		(void)snprintf(name, sizeof name, "model.layers.%u.%s.weight", i, norms[k].name != NULL ? norms[k].name : "");
		if (norms[k].name != NULL)
			rc = load_norm(m, name, m->arch.hidden_size, norms[k].out, e);
	}
	if (rc == QL_OK && m->arch.qk_norm)
		rc = load_qk_norm(m, i, &l->qk_norm, e);
	if (rc == QL_OK && m->arch.attention_bias_qkv)
		rc = load_qkv_bias(m, i, &l->bias_qkv, e);
	return rc;
}

int ql_model_constants(struct ql_model *m, enum ql_dtype embeddings, struct ql_err *e)
{
	float freq[QL_HEAD_DIM_MAX / 2];
	int rc;

	m->embed_scale = ql_arch_embed_scale(&m->arch, embeddings);
	ql_arch_inv_freq(&m->arch, freq);
	rc = put_floats(m, freq, m->arch.head_dim / 2, &m->inv_freq, e);
	if (rc == QL_OK && m->arch.rope_theta_local > 0) {
		ql_arch_inv_freq_local(&m->arch, freq);
		rc = put_floats(m, freq, m->arch.head_dim / 2, &m->inv_freq_local, e);
	}
	for (uint32_t i = 0; i < m->arch.num_hidden_layers; i++) {
		bool window = (m->arch.layer[i] & QL_LAYER_WINDOW) != 0;

		m->layers[i].window = window ? m->arch.sliding_window : 0;
		if (!(m->arch.layer[i] & QL_LAYER_NOPE))
			m->layers[i].inv_freq = window && m->inv_freq_local != NULL ? m->inv_freq_local : m->inv_freq;
	}
	return rc;
}

static int load_all(struct ql_model *m, const struct ql_model_opts *o, struct ql_err *e)
{
	struct ql_source_tensor embed;
	int rc = ql_source_find(m->source, "model.embed_tokens.weight", &embed, e);

	if (rc == QL_OK)
		rc = ql_model_constants(m, embed.dtype, e);
	if (rc == QL_OK)
		rc = load_dense(m, "model.embed_tokens.weight", &m->embed, e);
	if (rc == QL_OK && m->arch.tie_word_embeddings)
		m->head = m->embed;
	else if (rc == QL_OK)
		rc = load_dense(m, "lm_head.weight", &m->head, e);
	if (rc == QL_OK)
		rc = load_norm(m, "model.norm.weight", m->arch.hidden_size, &m->norm, e);
	for (uint32_t i = 0; rc == QL_OK && i < m->arch.num_hidden_layers; i++) {
		rc = load_layer(m, i, e);
		if (rc == QL_OK && o->progress != NULL)
			o->progress(o->progress_ctx, (double)(i + 1) / m->arch.num_hidden_layers, "loading layers");
	}
	return rc;
}

int ql_model_load(struct ql_model **out, struct ql_device *dev, struct ql_source *source, const struct ql_model_opts *o,
		  struct ql_err *e)
{
	struct ql_model *m = calloc(1, sizeof *m);
	double begin;
	int rc;

	*out = NULL;
	if (m == NULL)
		return ql_err_set(e, QL_ENOMEM, "model");
	m->dev = dev;
	m->source = source;
	m->arch = *ql_source_arch(source);
	if (m->arch.head_dim > dev->head_dim_max) {
		rc = ql_err_set(e, QL_EUNSUPPORTED, "heads of %u are not supported on this device, at most %u", m->arch.head_dim,
				dev->head_dim_max);
		goto fail;
	}
	m->quant_kind = o->quant.kind;
	m->d_q = m->arch.num_attention_heads * m->arch.head_dim;
	m->d_kv = m->arch.num_key_value_heads * m->arch.head_dim;
	m->layers = calloc(m->arch.num_hidden_layers, sizeof *m->layers);
	m->gate = ql_gate_new(0.05);
	if (m->layers == NULL || m->gate == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "model");
		goto fail;
	}
	rc = dev->ops->queue_new(dev, &m->queue, e);
	begin = ql_now();
	if (rc == QL_OK && !o->as_stored)
		rc = ql_cache_source_hash(source, o->cache_dir, o->pool, m->base_sha256, e);
	m->load_seconds.hash = ql_now() - begin;
	if (rc == QL_OK && !o->as_stored)
		rc = ql_base_cache_open(&m->base, source, m->base_sha256, o->cache_dir, &o->quant, dev, o->pool, o->progress,
					o->progress_ctx, e);
	begin = ql_now();
	if (rc == QL_OK && m->base != NULL)
		m->quant_kind = ql_base_cache_get(m->base, 0, QL_Q_PROJ)->kind; /* a source in 4 bit brings its own */
	if (rc == QL_OK)
		rc = load_all(m, o, e);
	if (rc != QL_OK)
		goto fail;
	m->load_seconds.upload = ql_now() - begin;
	if (m->base != NULL)
		ql_base_cache_seconds(m->base, &m->load_seconds.quantise, &m->load_seconds.write);
	*out = m;
	return QL_OK;
fail:
	ql_model_free(m);
	return rc;
}

void ql_model_free(struct ql_model *m)
{
	if (m == NULL)
		return;
	for (uint32_t i = 0; m->layers != NULL && i < m->arch.num_hidden_layers; i++) {
		struct ql_layer *l = &m->layers[i];

		for (int g = 0; g < QL_GROUPS; g++)
			if (l->group[g] != NULL)
				m->dev->ops->weight_free(m->dev, l->group[g]);
		m->dev->ops->free(m->dev, l->norm1);
		m->dev->ops->free(m->dev, l->norm2);
		m->dev->ops->free(m->dev, l->post1);
		m->dev->ops->free(m->dev, l->post2);
		m->dev->ops->free(m->dev, l->qk_norm);
		m->dev->ops->free(m->dev, l->bias_qkv);
	}
	if (m->head != NULL && m->head != m->embed)
		m->dev->ops->weight_free(m->dev, m->head);
	if (m->embed != NULL)
		m->dev->ops->weight_free(m->dev, m->embed);
	m->dev->ops->free(m->dev, m->norm);
	m->dev->ops->free(m->dev, m->inv_freq);
	m->dev->ops->free(m->dev, m->inv_freq_local);
	if (m->queue != NULL)
		m->dev->ops->queue_free(m->dev, m->queue);
	ql_base_cache_close(m->base);
	ql_gate_free(m->gate);
	free(m->layers);
	free(m);
}

int ql_model_read_f32(void *model, const char *hf_name, uint64_t row_begin, uint64_t n_rows, float *dst, struct ql_err *e)
{
	const struct ql_model *m = model;
	size_t i = ql_arch_tensor_index_hf(&m->arch, hf_name);
	struct ql_arch_tensor t;
	struct ql_source_tensor st;
	int rc;

	if (i == SIZE_MAX)
		return ql_err_set(e, QL_ENOTFOUND, "no tensor %s", hf_name);
	ql_arch_tensor_at(&m->arch, i, &t);
	if (t.module >= 0 && t.n_dims == 2 && m->base != NULL)
		return ql_q4_dequantize(ql_base_cache_get(m->base, (uint32_t)t.layer, t.module), row_begin * t.cols,
					n_rows * t.cols, dst, QL_F32, NULL, e);
	rc = ql_source_find(m->source, hf_name, &st, e);
	return rc != QL_OK ? rc : ql_source_read_f32(m->source, &st, row_begin, n_rows, dst, e);
}
