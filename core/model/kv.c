/* kv.c - the memory of cached keys and values; see step.h. */
#include <stdlib.h>

#include "core/model/step.h"

uint64_t ql_kv_block_bytes(const struct ql_model *m)
{
	return 2ull * m->arch.num_hidden_layers * QL_KV_BLOCK * m->d_kv * ql_dtypes[m->dev->act].bytes;
}

int ql_kv_new(struct ql_kv *kv, struct ql_model *m, uint32_t n_blocks, struct ql_err *e)
{
	uint32_t L = m->arch.num_hidden_layers, rows = n_blocks * QL_KV_BLOCK;
	size_t bytes = (size_t)rows * m->d_kv * ql_dtypes[m->dev->act].bytes;
	int rc;

	*kv = (struct ql_kv){.n_blocks = n_blocks};
	kv->k = calloc(2 * (size_t)L, sizeof *kv->k);
	if (kv->k == NULL)
		return ql_err_set(e, QL_ENOMEM, "cache table");
	kv->v = kv->k + L;
	rc = m->dev->ops->alloc(m->dev, QL_MEM_KV, 2 * bytes * L, &kv->arena, e);
	if (rc != QL_OK) {
		free(kv->k);
		*kv = (struct ql_kv){0};
		return rc;
	}
	for (uint32_t l = 0; l < 2 * L; l++)
		kv->k[l] = ql_view((char *)kv->arena + l * bytes, m->dev->act, rows, m->d_kv, m->d_kv);
	return QL_OK;
}

void ql_kv_free(struct ql_kv *kv, struct ql_model *m)
{
	m->dev->ops->free(m->dev, kv->arena);
	free(kv->k);
	*kv = (struct ql_kv){0};
}
