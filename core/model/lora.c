/* lora.c - see lora.h. */
#include "core/model/lora.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/philox.h"

static struct ql_lora_set *alloc_set(struct ql_model *m)
{
	struct ql_lora_set *s = calloc(1, sizeof *s);

	if (s == NULL)
		return NULL;
	s->model = m;
	s->sites = calloc((size_t)m->arch.num_hidden_layers * QL_MODULES, sizeof *s->sites);
	if (s->sites == NULL) {
		free(s);
		return NULL;
	}
	for (uint32_t i = 0; i < m->arch.num_hidden_layers * QL_MODULES; i++)
		ql_arch_module_shape(&m->arch, (int)(i % QL_MODULES), &s->sites[i].out, &s->sites[i].in);
	return s;
}

/* With r of each site set: offsets, totals and the ranks of groups; then device memory. */
static int lay_out(struct ql_lora_set *s, bool trainable, struct ql_err *e)
{
	struct ql_model *m = s->model;
	uint32_t n = m->arch.num_hidden_layers * QL_MODULES;
	uint64_t at = 0;
	int rc;

	for (uint32_t i = 0; i < n; i++) {
		s->sites[i].a = at;
		at += (uint64_t)s->sites[i].r * s->sites[i].in;
	}
	s->n_a = at;
	for (uint32_t i = 0; i < n; i++) {
		s->sites[i].b = at;
		at += (uint64_t)s->sites[i].r * s->sites[i].out;
	}
	s->n_params = at;
	for (uint32_t l = 0; l < m->arch.num_hidden_layers; l++)
		for (int g = 0; g < QL_GROUPS; g++) {
			uint32_t sum = 0;

			for (int p = 0; p < ql_groups[g].count; p++)
				sum += s->sites[l * QL_MODULES + (uint32_t)(ql_groups[g].first + p)].r;
			if (sum > s->group_rank[g])
				s->group_rank[g] = sum;
		}
	if (at == 0)
		return ql_err_set(e, QL_EINVAL, "the adapter has no module");
	rc = m->dev->ops->alloc(m->dev, QL_MEM_ADAPTER, (size_t)at * 4, (void **)&s->params, e);
	if (rc == QL_OK && trainable)
		rc = m->dev->ops->alloc(m->dev, QL_MEM_ADAPTER, (size_t)at * 4, (void **)&s->grads, e);
	return rc;
}

static int upload_params(struct ql_lora_set *s, const float *host, struct ql_err *e)
{
	struct ql_model *m = s->model;
	int rc = m->dev->ops->upload(m->dev, m->queue, s->params, host, (size_t)s->n_params * 4, e);

	if (rc == QL_OK && s->grads != NULL)
		rc = m->dev->ops->zero(m->dev, m->queue, s->grads, (size_t)s->n_params * 4, e);
	return rc == QL_OK ? m->dev->ops->sync(m->dev, m->queue, e) : rc;
}

/* Draws A of one site: word e mod 4 of counter ⌊e/4⌋ gives element e; a normal takes two words (Box–Muller). */
static void init_a(const struct ql_lora_site *t, uint32_t site, bool gaussian, uint64_t seed, float *a)
{
	uint64_t n = (uint64_t)t->r * t->in;
	float bound = (float)(1.0 / sqrt((double)t->in));
	uint32_t w[4] = {0};

	for (uint64_t i = 0; i < n; i++) {
		uint64_t c = gaussian ? i / 2 : i / 4;

		if (i % (gaussian ? 2 : 4) == 0)
			ql_philox((uint32_t)c, (uint32_t)(c >> 32), 0, (uint32_t)QL_RNG_INIT << 24 | site, seed, w);
		if (gaussian) {
			const uint32_t *p = &w[2 * (i % 2)];
			double u1 = ((double)p[0] + 1.0) / 4294967296.0, u2 = (double)p[1] / 4294967296.0;

			a[i] = (float)(sqrt(-2.0 * log(u1)) * cos(2.0 * M_PI * u2) / t->r);
		} else {
			a[i] = (2.0f * ql_u01(w[i % 4]) - 1.0f) * bound;
		}
	}
}

int ql_lora_new(struct ql_lora_set **out, struct ql_model *m, const struct ql_lora_config *c, uint64_t seed, struct ql_err *e)
{
	struct ql_lora_set *s = alloc_set(m);
	uint32_t n = m->arch.num_hidden_layers * QL_MODULES;
	float *host = NULL;
	int rc;

	*out = NULL;
	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "adapter");
	s->rank = c->rank;
	s->alpha = c->alpha;
	s->rslora = c->rslora;
	s->modules = c->modules;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t r = c->site_rank != NULL ? c->site_rank[i] : c->modules >> (i % QL_MODULES) & 1 ? c->rank : 0;
		double alpha = c->site_alpha != NULL ? c->site_alpha[i] : c->alpha;

		s->sites[i].r = r;
		if (r > 0)
			s->sites[i].scale = (float)(alpha / (c->rslora ? sqrt((double)r) : (double)r));
	}
	rc = lay_out(s, true, e);
	if (rc != QL_OK)
		goto fail;
	host = calloc((size_t)s->n_params, sizeof *host);
	if (host == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "adapter of %llu parameters", (unsigned long long)s->n_params);
		goto fail;
	}
	for (uint32_t i = 0; i < n; i++)
		if (s->sites[i].r > 0)
			init_a(&s->sites[i], i, c->gaussian, seed, host + s->sites[i].a);
	rc = upload_params(s, host, e);
	free(host);
	if (rc != QL_OK)
		goto fail;
	*out = s;
	return QL_OK;
fail:
	ql_lora_free(s);
	return rc;
}

int ql_lora_from_file(struct ql_lora_set **out, struct ql_model *m, const struct ql_adapter_file *f, bool trainable,
		      struct ql_err *e)
{
	struct ql_lora_set *s = alloc_set(m);
	uint32_t n = m->arch.num_hidden_layers * QL_MODULES;
	float *host = NULL;
	int rc;

	*out = NULL;
	if (s == NULL)
		return ql_err_set(e, QL_ENOMEM, "adapter");
	if (f->n_layers != m->arch.num_hidden_layers) {
		rc = ql_err_set(e, QL_EMISMATCH, "the adapter is for %u layers, the model has %u", f->n_layers,
				m->arch.num_hidden_layers);
		goto fail;
	}
	s->rank = f->rank;
	s->alpha = f->alpha;
	s->rslora = f->rslora;
	s->modules = f->modules;
	for (uint32_t i = 0; i < n; i++)
		if (f->pairs[i].a != NULL) {
			s->sites[i].r = f->pairs[i].rank;
			s->sites[i].scale = (float)ql_adapter_pair_scale(f, &f->pairs[i]);
		}
	rc = lay_out(s, trainable, e);
	if (rc != QL_OK)
		goto fail;
	host = malloc((size_t)s->n_params * sizeof *host);
	if (host == NULL) {
		rc = ql_err_set(e, QL_ENOMEM, "adapter");
		goto fail;
	}
	for (uint32_t i = 0; i < n; i++) {
		const struct ql_lora_site *t = &s->sites[i];

		if (t->r == 0)
			continue;
		memcpy(host + t->a, f->pairs[i].a, (size_t)t->r * t->in * sizeof *host);
		memcpy(host + t->b, f->pairs[i].b, (size_t)t->r * t->out * sizeof *host);
	}
	rc = upload_params(s, host, e);
	free(host);
	if (rc != QL_OK)
		goto fail;
	*out = s;
	return QL_OK;
fail:
	ql_lora_free(s);
	return rc;
}

void ql_lora_free(struct ql_lora_set *s)
{
	if (s == NULL)
		return;
	s->model->dev->ops->free(s->model->dev, s->params);
	s->model->dev->ops->free(s->model->dev, s->grads);
	free(s->sites);
	free(s);
}

int ql_lora_download(const struct ql_lora_set *s, float *host, struct ql_err *e)
{
	struct ql_model *m = s->model;
	int rc = m->dev->ops->download(m->dev, m->queue, host, s->params, (size_t)s->n_params * 4, e);

	return rc == QL_OK ? m->dev->ops->sync(m->dev, m->queue, e) : rc;
}

int ql_lora_describe(const struct ql_lora_set *s, const float *host, struct ql_adapter_file *f, struct ql_err *e)
{
	const struct ql_model *m = s->model;
	int rc = ql_adapter_file_init(f, &m->arch, s->rank, s->alpha, s->rslora, e);

	if (rc != QL_OK)
		return rc;
	for (uint32_t i = 0; i < m->arch.num_hidden_layers * QL_MODULES; i++)
		if (s->sites[i].r > 0) {
			ql_adapter_file_set(f, i / QL_MODULES, (int)(i % QL_MODULES), host + s->sites[i].a,
					    host + s->sites[i].b);
			f->pairs[i].rank = s->sites[i].r;
			f->pairs[i].alpha = (double)s->sites[i].scale *
					    (s->rslora ? sqrt((double)s->sites[i].r) : (double)s->sites[i].r);
			if (fabs(f->pairs[i].alpha - s->alpha) <= 1e-6 * s->alpha)
				f->pairs[i].alpha = s->alpha; /* the scale was rounded to fp32 */
		}
	return QL_OK;
}

void ql_lora_parts(const struct ql_lora_set *s, uint32_t layer, int group, bool with_grads, struct ql_lora out[QL_PARTS_MAX])
{
	for (int p = 0; p < QL_PARTS_MAX; p++) {
		const struct ql_lora_site *t;

		out[p] = (struct ql_lora){0};
		if (p >= ql_groups[group].count)
			continue;
		t = &s->sites[layer * QL_MODULES + (uint32_t)(ql_groups[group].first + p)];
		if (t->r == 0)
			continue;
		out[p] = (struct ql_lora){.a = s->params + t->a, .b = s->params + t->b, .r = t->r, .scale = t->scale};
		if (with_grads && s->grads != NULL) {
			out[p].da = s->grads + t->a;
			out[p].db = s->grads + t->b;
		}
	}
}

int ql_lora_to_table(const struct ql_lora_set *s, struct ql_model *m, struct ql_lora_table *t, uint32_t slot, struct ql_err *e)
{
	int rc = QL_OK;

	for (uint32_t i = 0; rc == QL_OK && i < m->arch.num_hidden_layers * QL_MODULES; i++) {
		struct ql_lora l = {0};
		uint32_t out, in;

		ql_arch_module_shape(&m->arch, (int)(i % QL_MODULES), &out, &in);
		if (s != NULL && s->sites[i].r > 0)
			l = (struct ql_lora){.a = s->params + s->sites[i].a, .b = s->params + s->sites[i].b,
					     .r = s->sites[i].r, .scale = s->sites[i].scale};
		rc = m->dev->ops->table_set(m->dev, m->queue, t, slot, i, in, out, &l, e);
	}
	return rc;
}
