/* resident.c - dense copies of the linears, kept while training runs; see model.h. */
#include "core/model/model.h"

uint64_t ql_model_dense_bytes(const struct ql_model *m)
{
	uint64_t values = 0;

	for (int g = 0; g < QL_GROUPS; g++) {
		uint64_t out = 0, ext = 64ull * (uint64_t)ql_groups[g].count;
		uint32_t rows = 0, in = 0;

		for (int p = 0; p < ql_groups[g].count; p++) {
			ql_arch_module_shape(&m->arch, ql_groups[g].first + p, &rows, &in);
			out += rows;
		}
		values += (out + ext) * ((in + ext + 63) / 64 * 64);
	}
	return values * ql_dtypes[m->dev->act].bytes;
}

static void drop_layer(struct ql_model *m, uint32_t layer)
{
	for (int g = 0; g < QL_GROUPS; g++)
		(void)m->dev->ops->weight_resident(m->dev, m->layers[layer].group[g], false, NULL);
}

uint32_t ql_model_dense_hold(struct ql_model *m, uint32_t n_layers, struct ql_err *e)
{
	if (m->dev->ops->weight_resident == NULL)
		return 0;
	n_layers = n_layers < m->arch.num_hidden_layers ? n_layers : m->arch.num_hidden_layers; /* as many may be released */
	for (uint32_t l = 0; l < n_layers; l++) {
		struct ql_layer *w = &m->layers[l];
		int rc = QL_OK;

		for (int g = 0; rc == QL_OK && w->dense_holders == 0 && g < QL_GROUPS; g++)
			rc = m->dev->ops->weight_resident(m->dev, w->group[g], true, e);
		if (rc != QL_OK) {
			drop_layer(m, l);
			return l;
		}
		w->dense_holders++;
	}
	return n_layers;
}

void ql_model_dense_release(struct ql_model *m, uint32_t n_layers)
{
	for (uint32_t l = 0; l < n_layers; l++)
		if (--m->layers[l].dense_holders == 0)
			drop_layer(m, l);
}
