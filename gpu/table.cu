/* table.cu - adapters reachable by (slot, site) from inside a batch: bf16 compute copies of A [r, in] and B [out, rp] (rp = r rounded up
 * to 8, the added columns zero) and a device array of descriptions that the decode kernels index with row_slot. */
#include "gpu/kernel.h"

__global__ void __launch_bounds__(256) pack_entry(const float *a, const float *b, uint32_t in, uint32_t out, uint32_t r, uint32_t rp, bf16 *pa, bf16 *pb)
{
	const uint64_t na = (uint64_t)r * in, nb = (uint64_t)out * rp;

	for (uint64_t i = blockIdx.x * 256ull + threadIdx.x; i < na + nb; i += (uint64_t)gridDim.x * 256) {
		if (i < na) {
			pa[i] = __float2bfloat16_rn(a[i]);
		} else {
			const uint64_t k = i - na, row = k / rp, j = k % rp;

			pb[k] = __float2bfloat16_rn(j < r ? b[row * r + j] : 0.f);
		}
	}
}

__global__ void put_entry(struct cu_lora_entry *dst, struct cu_lora_entry v) { *dst = v; }

int cu_table_new(struct ql_device *d, uint32_t n_slots, uint32_t n_sites, struct ql_lora_table **out, struct ql_err *e)
{
	*out = NULL;
	QL_TRY(cu_begin(d, "table_new", e));
	const uint64_t n = (uint64_t)n_slots * n_sites;
	if (n == 0 || n > 1u << 26)
		return ql_err_set(e, QL_EINVAL, "adapter table of %u slots and %u sites", n_slots, n_sites);
	struct ql_lora_table *t = (struct ql_lora_table *)calloc(1, sizeof *t);
	if (!t)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	t->n_slots = n_slots;
	t->n_sites = n_sites;
	t->host = (struct cu_lora_entry *)calloc(n, sizeof *t->host);
	t->in = (uint32_t *)calloc(n, sizeof *t->in);
	t->out = (uint32_t *)calloc(n, sizeof *t->out);
	t->cap = (size_t *)calloc(n, sizeof *t->cap);
	int r = t->host && t->in && t->out && t->cap ? cu_alloc(d, QL_MEM_ADAPTER, n * sizeof *t->dev, (void **)&t->dev, e)
						     : ql_err_set(e, QL_ENOMEM, "out of memory");
	if (r == QL_OK) {
		cudaError_t c = cudaMemset(t->dev, 0, n * sizeof *t->dev);

		if (c != cudaSuccess)
			r = cu_fail(d, c, e);
	}
	if (r != QL_OK)
		cu_table_free(d, t);
	else
		*out = t;
	return r;
}

void cu_table_free(struct ql_device *d, struct ql_lora_table *t)
{
	if (!t)
		return;
	for (uint64_t i = 0; t->cap && i < (uint64_t)t->n_slots * t->n_sites; i++)
		if (t->cap[i])
			cu_free(d, (void *)t->host[i].a);
	cu_free(d, t->dev);
	free(t->host);
	free(t->in);
	free(t->out);
	free(t->cap);
	free(t);
}

int cu_table_set(struct ql_device *d, struct ql_queue *q, struct ql_lora_table *t, uint32_t slot, uint32_t site, uint32_t in, uint32_t out,
		 const struct ql_lora *l, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "table_set", e));
	if (slot >= t->n_slots || site >= t->n_sites)
		return ql_err_set(e, QL_EINVAL, "adapter table: slot %u site %u of %u x %u", slot, site, t->n_slots, t->n_sites);
	const uint64_t at = (uint64_t)slot * t->n_sites + site;
	struct cu_lora_entry *h = &t->host[at];
	const uint32_t r = l ? l->r : 0, rp = (r + 7) & ~7u;
	const size_t a_bytes = cu_align((size_t)r * in * 2), want = a_bytes + cu_align((size_t)out * rp * 2);

	if (r > 256)
		return ql_err_set(e, QL_EINVAL, "adapter of rank %u", r);
	if (r && want != t->cap[at]) { /* the size changes: wait for readers, then a new buffer */
		void *p = NULL;

		CU_TRY(cudaStreamSynchronize(q->s));
		QL_TRY(cu_alloc(d, QL_MEM_ADAPTER, want, &p, e));
		if (t->cap[at])
			cu_free(d, (void *)h->a);
		h->a = (const bf16 *)p;
		t->cap[at] = want;
	}
	h->b = t->cap[at] ? (const bf16 *)((const uint8_t *)h->a + a_bytes) : NULL;
	h->r = r;
	h->rp = rp;
	h->scale = r ? l->scale : 0.f;
	t->in[at] = in;
	t->out[at] = out;
	if (r > t->r_max)
		t->r_max = r;
	if (r) {
		pack_entry<<<(unsigned)cu_of(d)->sms * 4, 256, 0, q->s>>>(l->a, l->b, in, out, r, rp, (bf16 *)h->a, (bf16 *)h->b);
		CU_LAUNCHED();
	}
	put_entry<<<1, 1, 0, q->s>>>(t->dev + at, *h);
	CU_LAUNCHED();
	return QL_OK;
}
