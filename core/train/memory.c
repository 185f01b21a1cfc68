/* memory.c - what a run keeps on the device, decided before its first step; see trainer.h.
 *
 * Always: 8 bytes per trainable parameter (value, gradient), the moments as the optimiser keeps them, and a pass in which every layer keeps its input only.
 * What is left of the budget is spent where a byte saves most time, layer by layer: first on the main activations (no layer is
 * run again; on an H100 about 7 ms a GB and micro-batch), then on all of them (norms and SwiGLU are not made again; 2 ms), then on dense
 * copies of the 4-bit weights (no expansion before products; 1 ms).  A micro-batch is halved down to 2048 tokens, or the longest
 * example, before layers are recomputed: that costs a few per cent, recomputation a quarter; where the wish rules recomputation out,
 * it is halved on.  When a pass in which every layer keeps its input does not fit, the least number of inputs goes to the host that
 * makes it fit: two buffers stand for all of those. */
#include "core/train/trainer.h"

#include <stdlib.h>

#define RESERVE_SHARE 0.10 /* of what is available, left for scratch and the neighbours */
#define FULL_RATE_TOKENS 2048

struct request {
	const struct ql_model *m;
	const struct ql_memory_wish *wish;
	uint32_t group_rank[QL_GROUPS];
	uint64_t state, budget; /* bytes: values, gradients, moments */
};

/* Columns that each group needs at most, and the bytes of adapter and optimiser. */
static int ranks(struct request *q, const struct ql_recipe *r, struct ql_err *e)
{
	bool on_host = r->paged && q->m->dev->act != QL_F32; /* paged moments of a GPU job cost no device memory */
	uint32_t layers = q->m->arch.num_hidden_layers, *rank = calloc((size_t)layers * QL_MODULES, sizeof *rank);
	double *alpha = calloc((size_t)layers * QL_MODULES, sizeof *alpha);
	int rc = rank == NULL || alpha == NULL ? ql_err_set(e, QL_ENOMEM, "memory plan") : ql_recipe_sites(r, &q->m->arch, rank, alpha, e);

	for (uint32_t l = 0; rc == QL_OK && l < layers; l++)
		for (int g = 0; g < QL_GROUPS; g++) {
			uint32_t sum = 0;

			for (int p = 0; p < ql_groups[g].count; p++) {
				int module = ql_groups[g].first + p;
				uint32_t out, in, k = rank[l * QL_MODULES + (uint32_t)module];

				ql_arch_module_shape(&q->m->arch, module, &out, &in);
				sum += k;
				q->state += (uint64_t)k * (out + in) * 8;
				if (!on_host)
					q->state += ql_optim_tensor_bytes(r->optimizer, (uint64_t)k * in) +
						    ql_optim_tensor_bytes(r->optimizer, (uint64_t)k * out);
			}
			q->group_rank[g] = sum > q->group_rank[g] ? sum : q->group_rank[g];
		}
	free(rank);
	free(alpha);
	return rc;
}

static uint64_t pass_bytes(const struct request *q, uint32_t tokens, uint32_t all, uint32_t main)
{
	return ql_pass_bytes(q->m, q->group_rank, tokens, (struct ql_keep_mix){all, main, 0});
}

/* A pass that recomputes every layer and leaves `host` inputs on the host, which costs nothing unless that is the device. */
static uint64_t offload_bytes(const struct request *q, uint32_t tokens, uint32_t host)
{
	struct ql_keep_mix keep = {0, 0, host};
	uint64_t bytes = ql_pass_bytes(q->m, q->group_rank, tokens, keep);

	return q->m->dev->act == QL_F32 ? bytes + ql_pass_host_bytes(q->m, tokens, keep) : bytes;
}

/* The least that a pass can take as the wish allows. */
static uint64_t least_bytes(const struct request *q, uint32_t tokens)
{
	uint32_t L = q->m->arch.num_hidden_layers;
	uint64_t kept = pass_bytes(q, tokens, 0, 0), sent = offload_bytes(q, tokens, L);

	if (q->wish->recompute == QL_RECOMPUTE_OFF)
		return pass_bytes(q, tokens, 0, L);
	return q->wish->recompute == QL_RECOMPUTE_OFFLOAD || sent < kept ? sent : kept;
}

/* The scratch area of large products: the largest weight in the activation type (devices that expand weights). */
static uint64_t scratch_bytes(const struct ql_model *m)
{
	uint64_t most = 0, head = (uint64_t)512 * m->arch.vocab_size * 4;

	if (m->dev->act == QL_F32)
		return 0;
	for (int g = 0; g < QL_GROUPS; g++) {
		uint64_t out = 0;
		uint32_t rows, in = 0;

		for (int p = 0; p < ql_groups[g].count; p++) {
			ql_arch_module_shape(&m->arch, ql_groups[g].first + p, &rows, &in);
			out += rows;
		}
		if (out * in * 2 > most)
			most = out * in * 2;
	}
	return most > head ? most : head;
}

/* The largest count ≤ n for which bytes(count) fits; bytes grows with count.  fits(0) holds. */
static uint32_t most_that_fit(const struct request *q, uint64_t fixed, uint32_t tokens, uint32_t n, bool all)
{
	uint32_t lo = 0, hi = n;

	while (lo < hi) {
		uint32_t mid = (lo + hi + 1) / 2;
		uint64_t bytes = fixed + (all ? pass_bytes(q, tokens, mid, n - mid) : pass_bytes(q, tokens, 0, mid));

		if (bytes <= q->budget)
			lo = mid;
		else
			hi = mid - 1;
	}
	return lo;
}

enum effort { WITHOUT_RECOMPUTING, RECOMPUTING, OFFLOADING };

/* The last resort: as many inputs on the host as it takes, or all of them when wished for. */
static bool plan_offload(const struct request *q, uint32_t tokens, struct ql_memory_plan *out)
{
	uint32_t L = q->m->arch.num_hidden_layers, n = q->wish->recompute == QL_RECOMPUTE_OFFLOAD ? L : 3; /* fewer save nothing */

	while (n <= L && offload_bytes(q, tokens, n) + q->state > q->budget)
		n++;
	if (n > L)
		return false;
	*out = (struct ql_memory_plan){.max_tokens = tokens, .keep = {0, 0, n}, .state_bytes = q->state, .available = q->budget};
	out->pass_bytes = ql_pass_bytes(q->m, q->group_rank, tokens, out->keep);
	out->host_bytes = ql_pass_host_bytes(q->m, tokens, out->keep);
	out->bytes = q->state + offload_bytes(q, tokens, n);
	return true;
}

/* Fills *out for a micro-batch of that size; false if it does not fit at all, or not with that effort. */
static bool plan_for(const struct request *q, uint32_t tokens, enum effort effort, struct ql_memory_plan *out)
{
	uint32_t L = q->m->arch.num_hidden_layers;
	uint64_t state = q->state, dense = ql_model_dense_bytes(q->m), left;

	if (effort == OFFLOADING)
		return plan_offload(q, tokens, out);
	*out = (struct ql_memory_plan){.max_tokens = tokens, .state_bytes = state, .available = q->budget};
	out->bytes = state + pass_bytes(q, tokens, 0, 0);
	if (out->bytes > q->budget)
		return false;
	if (q->wish->recompute != QL_RECOMPUTE_ON) {
		out->keep.main = most_that_fit(q, state, tokens, L, false);
		if (out->keep.main == L) {
			out->keep.all = most_that_fit(q, state, tokens, L, true);
			out->keep.main = L - out->keep.all;
		}
	}
	if (effort == WITHOUT_RECOMPUTING && out->keep.all + out->keep.main < L)
		return false;
	out->pass_bytes = pass_bytes(q, tokens, out->keep.all, out->keep.main);
	out->bytes = state + out->pass_bytes;
	left = q->budget - out->bytes;
	if (q->wish->dense != QL_DENSE_NEVER && q->m->dev->ops->weight_resident != NULL && q->wish->recompute != QL_RECOMPUTE_ON)
		out->dense_layers = left / dense < L ? (uint32_t)(left / dense) : L;
	out->dense_bytes = dense * out->dense_layers;
	out->bytes += out->dense_bytes;
	return true;
}

static uint64_t budget(const struct ql_model *m, const struct ql_mem_info *info, const struct ql_memory_wish *wish)
{
	uint64_t used = 0, room = (uint64_t)((double)(info->available + wish->also_available) * (1 - RESERVE_SHARE)), keep;

	if (wish->limit == 0)
		return room;
	for (int k = 0; k < QL_MEM_KINDS; k++)
		used += info->used[k];
	used -= info->used[QL_MEM_SCRATCH] < scratch_bytes(m) ? info->used[QL_MEM_SCRATCH] : scratch_bytes(m);
	used -= used < wish->also_available ? used : wish->also_available;
	keep = used + scratch_bytes(m) + ((uint64_t)16 << 20);
	keep = wish->limit > keep ? wish->limit - keep : 0;
	return keep < room ? keep : room;
}

int ql_train_plan_memory(struct ql_model *m, const struct ql_recipe *r, uint32_t longest, uint32_t fixed_max_tokens,
			 const struct ql_memory_wish *wish, struct ql_memory_plan *out, struct ql_err *e)
{
	static const struct ql_memory_wish any = {0};
	struct request q = {.m = m, .wish = wish != NULL ? wish : &any};
	uint32_t want, least = longest;
	struct ql_mem_info info;
	static const enum effort first[] = {WITHOUT_RECOMPUTING, WITHOUT_RECOMPUTING, RECOMPUTING, OFFLOADING}; /* by wish */
	uint64_t n = (uint64_t)r->micro_batch_size * longest;
	enum effort last = q.wish->recompute == QL_RECOMPUTE_OFF ? WITHOUT_RECOMPUTING : OFFLOADING;
	int rc = m->dev->ops->mem_info(m->dev, &info, e);

	if (rc != QL_OK)
		return rc;
	rc = ranks(&q, r, e);
	if (rc != QL_OK)
		return rc;
	if (r->micro_batch_size > 0)
		least = n > UINT32_MAX ? UINT32_MAX : (uint32_t)n;
	want = m->dev->act == QL_F32 ? FULL_RATE_TOKENS : 8192; /* larger gains nothing: products are at their full rate */
	if (want < least || r->micro_batch_size > 0)
		want = least;
	if (fixed_max_tokens > 0)
		want = least = fixed_max_tokens;
	q.budget = budget(m, &info, q.wish);
	for (enum effort effort = first[q.wish->recompute]; effort <= last; effort++)
		for (uint32_t tokens = want;; tokens = tokens / 2 < least ? least : tokens / 2) {
			if (plan_for(&q, tokens, effort, out))
				return QL_OK;
			if (tokens == least || (effort < last && effort == WITHOUT_RECOMPUTING && tokens / 2 < FULL_RATE_TOKENS))
				break;
		}
	return ql_err_set(e, QL_ENODEVMEM, "training needs %llu bytes of device memory%s, %llu are available",
			  (unsigned long long)(q.state + least_bytes(&q, least)),
			  q.wish->recompute == QL_RECOMPUTE_OFF ? " without recomputation" : "", (unsigned long long)q.budget);
}
