/* source_gguf.c - a base model in one GGUF file. */
#include <string.h>

#include "core/formats/source_priv.h"
#include "core/quant/blk.h"

static int bind(struct ql_source *s, const struct ql_gguf_tensor *g, struct ql_err *e)
{
	size_t i = ql_arch_file_index_gguf(&s->arch, g->name);
	struct ql_arch_tensor a;

	if (i == SIZE_MAX)
		return strcmp(g->name, "rope_freqs.weight") == 0
			       ? QL_OK /* read with the metadata, arch_gguf.c */
			       : ql_err_param(e, QL_EUNSUPPORTED, g->name, "tensor %s is not part of a %s model", g->name,
					      s->arch.family);
	ql_arch_tensor_at(&s->arch, i, &a);
	if (g->n_dims != a.n_dims || g->ne[0] != a.cols || g->ne[1] != a.file_rows)
		return ql_err_param(e, QL_ESHAPE, g->name, "tensor %s is {%llu, %llu}, the metadata wants {%u, %u}", g->name,
				    (unsigned long long)g->ne[0], (unsigned long long)g->ne[1], a.cols, a.file_rows);
	if (g->dtype == QL_DTYPE_COUNT || !ql_blk_known(g->dtype))
		return ql_err_param(e, QL_EUNSUPPORTED, g->name, "tensor %s has the type %s, which is not supported", g->name,
				    ql_gguf_type_name(g->type_id));
	ql_source_bind(s, i, g->dtype, g->data);
	if (a.permute != QL_PERMUTE_NONE && a.n_dims == 2 && s->arch.permuted)
		s->tensors[i].permute_head_dim = s->arch.head_dim;
	return QL_OK;
}

int ql_source_open_gguf(struct ql_source *s, struct ql_err *e)
{
	int rc = ql_gguf_open(&s->g, s->path, e);

	if (rc == QL_OK)
		rc = ql_arch_from_gguf(&s->arch, s->g, e);
	if (rc == QL_OK)
		rc = ql_source_make_table(s, e);
	for (size_t i = 0; rc == QL_OK && i < ql_gguf_tensor_count(s->g); i++)
		rc = bind(s, ql_gguf_tensor_at(s->g, i), e);
	return rc;
}
