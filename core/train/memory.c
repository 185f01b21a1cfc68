/* memory.c - what a run keeps on the device, decided before its first step; see trainer.h.
 *
 * bytes = 8 per trainable parameter (value, gradient), the moments as the optimiser keeps them, and the pass.  The largest micro-batch goes first, then the
 * least recomputation: keep everything, else drop norms and SwiGLU, else keep layer inputs only. */
#include "core/train/trainer.h"

#define RESERVE_SHARE 0.10 /* of what is available, left for scratch and the neighbours */

static void ranks(const struct ql_model *m, const struct ql_recipe *r, uint32_t group_rank[QL_GROUPS], uint64_t *adapter)
{
	bool on_host = r->paged && m->dev->act != QL_F32; /* paged moments of a GPU job cost no device memory */

	*adapter = 0;
	for (int g = 0; g < QL_GROUPS; g++) {
		group_rank[g] = 0;
		for (int p = 0; p < ql_groups[g].count; p++) {
			int module = ql_groups[g].first + p;
			uint32_t out, in;

			if (!(r->modules >> module & 1))
				continue;
			ql_arch_module_shape(&m->arch, module, &out, &in);
			group_rank[g] += r->rank;
			*adapter += (uint64_t)r->rank * (out + in) * 8 * m->arch.num_hidden_layers;
			if (!on_host)
				*adapter += (ql_optim_tensor_bytes(r->optimizer, (uint64_t)r->rank * in) +
					     ql_optim_tensor_bytes(r->optimizer, (uint64_t)r->rank * out)) * m->arch.num_hidden_layers;
		}
	}
}

int ql_train_plan_memory(struct ql_model *m, const struct ql_recipe *r, uint32_t longest, uint32_t fixed_max_tokens,
			 struct ql_memory_plan *out, struct ql_err *e)
{
	uint32_t group_rank[QL_GROUPS], want, least = longest;
	struct ql_mem_info info;
	uint64_t adapter, budget, bytes = 0;
	int rc = m->dev->ops->mem_info(m->dev, &info, e);

	if (rc != QL_OK)
		return rc;
	ranks(m, r, group_rank, &adapter);
	if (r->micro_batch_size > 0) {
		uint64_t n = (uint64_t)r->micro_batch_size * longest;

		least = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
	}
	want = m->dev->act == QL_F32 ? 2048 : 8192; /* larger gains nothing: products are at their full rate */
	if (want < least || r->micro_batch_size > 0)
		want = least;
	if (fixed_max_tokens > 0)
		want = least = fixed_max_tokens;
	budget = (uint64_t)((double)info.available * (1 - RESERVE_SHARE));
	for (uint32_t tokens = want;; tokens = tokens / 2 < least ? least : tokens / 2) {
		for (int keep = QL_KEEP_ALL; keep < QL_KEEPS; keep++) {
			bytes = adapter + ql_pass_bytes(m, group_rank, tokens, (enum ql_keep)keep, true);
			if (bytes <= budget) {
				*out = (struct ql_memory_plan){tokens, (enum ql_keep)keep, bytes, info.available};
				return QL_OK;
			}
		}
		if (tokens == least)
			break;
	}
	return ql_err_set(e, QL_ENODEVMEM, "training needs %llu bytes of device memory, %llu are available",
			  (unsigned long long)bytes, (unsigned long long)budget);
}
