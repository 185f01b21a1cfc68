/* synth.c - a model with random content on the device, and a tokenizer for it.
 *
 * 4-bit weights: random codes; scales map[q]·0.3/√in + 1/√in with random q, so that a row's product keeps about the size of its input.
 * One buffer of random codes of the largest part is the source of all of them, read from a different place each time.  Embedding and
 * head: bf16, uniform.  Norms 1, biases 0. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/cmd/bench.h"
#include "core/text/tok_spec.h"

#define SLACK ((size_t)1 << 20) /* bytes by which starting places differ */

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

void bench_tokens(int32_t *ids, size_t n, uint32_t vocab, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) /* 0 and 1 are the ends of text */
		ids[i] = (int32_t)(2 + mix(seed << 32 | i) % (vocab - 2));
}

void bench_tokens_skewed(int32_t *ids, size_t n, uint32_t vocab, uint64_t seed)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t r = mix(seed << 32 | i), of = r & 1 ? 16 : vocab - 2;

		ids[i] = (int32_t)(2 + (r >> 1) % of);
	}
}

void bench_random_bf16(uint16_t *p, size_t n, float scale, uint64_t seed)
{
	static const float step = 1.0f / 32768.0f;

	for (size_t i = 0; i < n; i += 4) {
		uint64_t x = mix(seed << 40 | i);

		for (size_t j = 0; j < 4 && i + j < n; j++)
			p[i + j] = ql_bf16_of_f32(((float)(x >> 16 * j & 0xffff) * step - 1.0f) * scale);
	}
}

int bench_synth_tok(struct ql_tok **out, uint32_t vocab, struct ql_err *e)
{
	struct ql_tok_str *tokens = calloc(vocab, sizeof *tokens);
	int32_t *types = calloc(vocab, sizeof *types);
	char *text = calloc(vocab, 8);
	struct ql_tok_spec s = {.model = QL_TOK_MODEL_GPT2, .pre = "gpt-2", .tokens = tokens, .n_tokens = vocab, .types = types,
				.bos = 0, .eos = 1, .eot = -1, .pad = -1, .unk = -1};
	int rc = QL_OK;

	if (tokens == NULL || types == NULL || text == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "tokenizer");
	for (uint32_t i = 0; rc == QL_OK && i < vocab; i++) { /* five letters, so that every answer is text */
		char *t = text + 8 * (size_t)i;
		uint32_t v = i;

		for (int k = 0; k < 5; k++, v /= 26)
			t[k] = (char)('a' + v % 26);
		tokens[i] = (struct ql_tok_str){t, 5};
		types[i] = i < 2 ? QL_TOK_CONTROL : QL_TOK_NORMAL;
	}
	if (rc == QL_OK)
		rc = ql_tok_from_spec(out, &s, e);
	free(tokens);
	free(types);
	free(text);
	return rc;
}

/* ---- the model -------------------------------------------------------------------------------------------------------- */

struct source {
	uint8_t *codes, *scales;
	float *nested;
	size_t at; /* next starting place */
};

static void source_free(struct source *s)
{
	free(s->codes);
	free(s->scales);
	free(s->nested);
}

static int source_new(struct source *s, const struct ql_arch *a, struct ql_err *e)
{
	uint64_t most = 0;
	size_t n;

	for (int mod = 0; mod < QL_MODULES; mod++) {
		uint32_t out, in;

		ql_arch_module_shape(a, mod, &out, &in);
		if ((uint64_t)out * in > most)
			most = (uint64_t)out * in;
	}
	n = (size_t)most / 2 + SLACK;
	s->codes = malloc(n + 8);
	s->scales = malloc((size_t)most / 64 + SLACK + 8);
	s->nested = malloc(((size_t)most / 64 / 256 + 1) * sizeof *s->nested);
	if (s->codes == NULL || s->scales == NULL || s->nested == NULL)
		return ql_err_set(e, QL_ENOMEM, "random weights");
	for (size_t i = 0; i < n; i += 8) {
		uint64_t x = mix(i);

		memcpy(s->codes + i, &x, 8);
	}
	memcpy(s->scales, s->codes + 8, (size_t)most / 64 + SLACK / 2);
	return QL_OK;
}

static int make_group(struct ql_model *m, struct source *s, uint32_t layer, int group, struct ql_err *e)
{
	struct ql_weight_shape shape = {.n_parts = (uint32_t)ql_groups[group].count};
	struct ql_q4 q[QL_PARTS_MAX] = {0};
	const struct ql_q4 *parts[QL_PARTS_MAX];
	float scale;

	for (int p = 0; p < ql_groups[group].count; p++) {
		ql_arch_module_shape(&m->arch, ql_groups[group].first + p, &shape.out[p], &shape.in);
		scale = 1.0f / sqrtf((float)shape.in);
		q[p] = (struct ql_q4){.kind = QL_NF4, .n = (uint64_t)shape.out[p] * shape.in, .blocksize = 64, .nested = true,
				      .nested_blocksize = 256, .offset = scale, .codes = s->codes + s->at,
				      .absmax_q = s->scales + s->at / 4, .nested_absmax = s->nested};
		s->at = (s->at + 4096 * 31) % (SLACK / 2) & ~(size_t)63;
		memcpy(q[p].code, ql_q4_code(QL_NF4), sizeof q[p].code);
		memcpy(q[p].nested_map, ql_dynamic_map_signed(), sizeof q[p].nested_map);
		parts[p] = &q[p];
	}
	for (uint64_t i = 0; i < ql_q4_nested_blocks(&q[0]) || (shape.n_parts > 1 && i < ql_q4_nested_blocks(&q[1])); i++)
		s->nested[i] = 0.3f / sqrtf((float)shape.in);
	return m->dev->ops->weight_from_q4(m->dev, &shape, parts, &m->layers[layer].group[group], e);
}

static int make_vector(struct ql_model *m, uint32_t n, float value, float **out, struct ql_err *e)
{
	float *host = malloc((size_t)n * sizeof *host);
	int rc = host == NULL ? ql_err_set(e, QL_ENOMEM, "norms") : m->dev->ops->alloc(m->dev, QL_MEM_BASE, (size_t)n * 4, (void **)out, e);

	for (uint32_t i = 0; host != NULL && i < n; i++)
		host[i] = value;
	if (rc == QL_OK)
		rc = m->dev->ops->upload(m->dev, m->queue, *out, host, (size_t)n * 4, e);
	if (rc == QL_OK)
		rc = m->dev->ops->sync(m->dev, m->queue, e);
	free(host);
	return rc;
}

static int make_dense(struct ql_model *m, uint64_t seed, struct ql_weight **out, struct ql_err *e)
{
	struct ql_weight_shape s = {.in = m->arch.hidden_size, .n_parts = 1, .out = {m->arch.vocab_size}};
	size_t n = (size_t)s.in * s.out[0];
	uint16_t *host = malloc(n * sizeof *host);
	const void *part = host;
	int rc;

	if (host == NULL)
		return ql_err_set(e, QL_ENOMEM, "embedding");
	bench_random_bf16(host, n, 2.0f / sqrtf((float)s.in), seed);
	rc = m->dev->ops->weight_from_dense(m->dev, &s, QL_BF16, &part, out, e);
	free(host);
	return rc;
}

static int fill(struct ql_model *m, struct ql_err *e)
{
	const struct ql_arch *a = &m->arch;
	struct source s = {0};
	int rc = source_new(&s, a, e);

	if (rc == QL_OK)
		rc = ql_model_constants(m, QL_BF16, e);
	if (rc == QL_OK)
		rc = make_dense(m, 1, &m->embed, e);
	if (rc == QL_OK && a->tie_word_embeddings)
		m->head = m->embed;
	else if (rc == QL_OK)
		rc = make_dense(m, 2, &m->head, e);
	if (rc == QL_OK)
		rc = make_vector(m, a->hidden_size, 1, &m->norm, e);
	for (uint32_t l = 0; rc == QL_OK && l < a->num_hidden_layers; l++) {
		for (int g = 0; rc == QL_OK && g < QL_GROUPS; g++)
			rc = make_group(m, &s, l, g, e);
		if (rc == QL_OK)
			rc = make_vector(m, a->hidden_size, 1, &m->layers[l].norm1, e);
		if (rc == QL_OK)
			rc = make_vector(m, a->hidden_size, 1, &m->layers[l].norm2, e);
		if (rc == QL_OK && a->post_norms)
			rc = make_vector(m, a->hidden_size, 1, &m->layers[l].post1, e);
		if (rc == QL_OK && a->post_norms)
			rc = make_vector(m, a->hidden_size, 1, &m->layers[l].post2, e);
		if (rc == QL_OK && a->qk_norm)
			rc = make_vector(m, m->d_q + m->d_kv, 1, &m->layers[l].qk_norm, e);
		if (rc == QL_OK && a->attention_bias_qkv)
			rc = make_vector(m, m->d_q + 2 * m->d_kv, 0, &m->layers[l].bias_qkv, e);
	}
	source_free(&s);
	return rc;
}

int bench_synth_model(struct bench *b, struct ql_err *e)
{
	struct ql_model *m = calloc(1, sizeof *m);
	int rc;

	if (m == NULL)
		return ql_err_set(e, QL_ENOMEM, "model");
	m->dev = b->dev;
	m->arch = b->arch;
	m->quant_kind = QL_NF4;
	m->d_q = m->arch.num_attention_heads * m->arch.head_dim;
	m->d_kv = m->arch.num_key_value_heads * m->arch.head_dim;
	m->layers = calloc(m->arch.num_hidden_layers, sizeof *m->layers);
	m->gate = ql_gate_new(b->target_ms / 1000);
	rc = m->layers == NULL || m->gate == NULL ? ql_err_set(e, QL_ENOMEM, "model") : b->dev->ops->queue_new(b->dev, &m->queue, e);
	if (rc == QL_OK)
		rc = fill(m, e);
	if (rc != QL_OK) {
		ql_model_free(m);
		return rc;
	}
	b->model = m;
	return QL_OK;
}

/* ---- opening ------------------------------------------------------------------------------------------------------------ */

int bench_open_device(struct bench *b, struct ql_err *e)
{
	int rc = QL_ENOTFOUND, n = b->threads > 0 ? (int)b->threads : (int)sysconf(_SC_NPROCESSORS_ONLN);

	b->pool = ql_pool_new(n < 1 ? 1 : n > 256 ? 256 : n);
	if (b->pool == NULL)
		return ql_err_set(e, QL_ENOMEM, "threads");
	if (strcmp(b->device, "cpu") == 0)
		return ql_device_cpu(&b->dev, (int)b->threads, e);
	if (strcmp(b->device, "auto") == 0) {
		rc = ql_device_cuda(&b->dev, 0, e);
		return rc == QL_EUNSUPPORTED || rc == QL_ENOTFOUND ? ql_device_cpu(&b->dev, (int)b->threads, e) : rc;
	}
	if (strncmp(b->device, "cuda", 4) == 0 && (b->device[4] == '\0' || b->device[4] == ':'))
		return ql_device_cuda(&b->dev, b->device[4] == ':' ? atoi(b->device + 5) : 0, e);
	return ql_err_param(e, QL_EINVAL, "device", "unknown device '%.40s'", b->device);
}

static int open_base(struct bench *b, struct ql_err *e)
{
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT, .cache_dir = -1, .pool = b->pool};
	int rc = ql_source_open(&b->source, b->base, e);

	if (rc == QL_OK && b->dump != NULL && (o.cache_dir = open(b->dump, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		rc = ql_err_errno(e, "%s", b->dump);
	if (rc == QL_OK)
		rc = ql_model_load(&b->model, b->dev, b->source, &o, e);
	if (o.cache_dir >= 0)
		(void)close(o.cache_dir);
	if (rc != QL_OK)
		return rc;
	b->arch = b->model->arch;
	ql_gate_set_target(b->model->gate, b->target_ms / 1000);
	return QL_OK;
}

int bench_open_model(struct bench *b, struct ql_err *e)
{
	double begin = bench_now();
	char config[1024];
	int rc;

	if (b->base != NULL) {
		rc = open_base(b, e);
	} else {
		rc = bench_arch_json(b->arch_name, b->layers, config, sizeof config, e);
		if (rc == QL_OK)
			rc = ql_arch_from_config_json(&b->arch, config, strlen(config), e);
		if (rc == QL_OK)
			rc = bench_synth_model(b, e);
	}
	/* answers of a real base are counted, not read: its tokens need no text of their own */
	if (rc == QL_OK)
		rc = bench_synth_tok(&b->tok, b->arch.vocab_size, e);
	if (rc == QL_OK)
		bench_put(b->out, "open_s", bench_now() - begin);
	return rc;
}
