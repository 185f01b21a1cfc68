/* memory.cu - device memory by kind: cudaMalloc with a table pointer -> (bytes, kind), so that mem_info and the peak are exact; pinned
 * memory of the host for paged states; and the one scratch area.  When another queue uses the scratch, it waits for the last user. */
#include "gpu/gpu.h"

static size_t slot_of(const struct cu_dev *c, const void *p)
{
	size_t i = ((uintptr_t)p >> 8) * 0x9E3779B97F4A7C15ull >> 20 & (c->cap_allocs - 1);

	while (c->allocs[i].p && c->allocs[i].p != p)
		i = (i + 1) & (c->cap_allocs - 1);
	return i;
}

static bool grow_table(struct cu_dev *c)
{
	size_t old_cap = c->cap_allocs, cap = old_cap ? old_cap * 2 : 1024;
	struct cu_alloc *old = c->allocs, *fresh = (struct cu_alloc *)calloc(cap, sizeof *fresh);

	if (!fresh)
		return false;
	c->allocs = fresh;
	c->cap_allocs = cap;
	for (size_t i = 0; i < old_cap; i++)
		if (old[i].p)
			c->allocs[slot_of(c, old[i].p)] = old[i];
	free(old);
	return true;
}

static void note_alloc(struct cu_dev *c, void *p, size_t bytes, uint32_t kind)
{
	struct cu_alloc *a = &c->allocs[slot_of(c, p)];

	a->p = p, a->bytes = bytes, a->kind = kind;
	c->n_allocs++;
}

int cu_alloc(struct ql_device *d, enum ql_mem_kind kind, size_t bytes, void **out, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);
	uint64_t sum = 0;

	*out = NULL;
	QL_TRY(cu_begin(d, "alloc", e));
	if ((unsigned)kind >= QL_MEM_KINDS)
		return ql_err_set(e, QL_EINVAL, "unknown memory kind %d", (int)kind);
	if (2 * (c->n_allocs + 1) > c->cap_allocs && !grow_table(c))
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	if (bytes == 0)
		bytes = 1;
	cudaError_t r = cudaMalloc(out, bytes);
	if (r == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError();
		*out = NULL;
		return ql_err_set(e, QL_ENODEVMEM, "device memory exhausted: %zu bytes wanted", bytes);
	}
	if (r != cudaSuccess) {
		*out = NULL;
		return cu_fail(d, r, e);
	}
	note_alloc(c, *out, bytes, (uint32_t)kind);
	c->used[kind] += bytes;
	for (int k = 0; k < QL_MEM_KINDS; k++)
		sum += c->used[k];
	if (sum > c->peak)
		c->peak = sum;
	return QL_OK;
}

/* Pinned memory of the host, in the device's address space under the same pointer; it is no device memory and not counted. */
int cu_alloc_paged(struct ql_device *d, size_t bytes, void **out, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	*out = NULL;
	QL_TRY(cu_begin(d, "alloc_paged", e));
	if (2 * (c->n_allocs + 1) > c->cap_allocs && !grow_table(c))
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	if (bytes == 0)
		bytes = 1;
	cudaError_t r = cudaHostAlloc(out, bytes, cudaHostAllocMapped | cudaHostAllocPortable);
	if (r == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError();
		*out = NULL;
		return ql_err_set(e, QL_ENOMEM, "%zu bytes of pinned host memory cannot be had", bytes);
	}
	if (r != cudaSuccess) {
		*out = NULL;
		return cu_fail(d, r, e);
	}
	note_alloc(c, *out, bytes, CU_PINNED);
	return QL_OK;
}

void cu_free(struct ql_device *d, void *p)
{
	struct cu_dev *c = cu_of(d);

	if (!p || !c->cap_allocs)
		return;
	size_t i = slot_of(c, p);
	if (!c->allocs[i].p)
		return;
	const bool pinned = c->allocs[i].kind == CU_PINNED;
	if (!pinned)
		c->used[c->allocs[i].kind] -= c->allocs[i].bytes;
	c->n_allocs--;
	c->allocs[i].p = NULL;
	for (size_t j = (i + 1) & (c->cap_allocs - 1); c->allocs[j].p; j = (j + 1) & (c->cap_allocs - 1)) {
		struct cu_alloc moved = c->allocs[j]; /* close the gap in the probe sequence */

		c->allocs[j].p = NULL;
		c->allocs[slot_of(c, moved.p)] = moved;
	}
	if (!c->dead.code) {
		cudaError_t r = pinned ? cudaFreeHost(p) : cudaFree(p);

		if (r != cudaSuccess) {
			c->op = "free";
			(void)cu_fail(d, r, NULL);
		}
	}
}

int cu_mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);
	size_t avail, total;

	QL_TRY(cu_begin(d, "mem_info", e));
	CU_TRY(cudaMemGetInfo(&avail, &total));
	memset(out, 0, sizeof *out);
	out->total = total;
	out->available = avail;
	memcpy(out->used, c->used, sizeof out->used);
	out->peak = c->peak;
	return QL_OK;
}

void cu_mem_reset_peak(struct ql_device *d)
{
	struct cu_dev *c = cu_of(d);

	c->peak = 0;
	for (int k = 0; k < QL_MEM_KINDS; k++)
		c->peak += c->used[k];
}

int cu_scratch(struct ql_device *d, struct ql_queue *q, size_t bytes, void **out, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	if (bytes > c->scratch_cap) {
		const char *op = c->op;

		if (q->capturing)
			return ql_err_set(e, QL_ESTATE, "%s: scratch memory cannot grow while a graph is recorded", op);
		/* recorded graphs still name the old area: it stays until the last of them is freed */
		if (c->n_graphs > 0 && c->n_retired == sizeof c->retired / sizeof c->retired[0])
			return ql_err_set(e, QL_ESTATE, "%s: scratch memory grew too often beside recorded graphs", op);
		if (c->n_graphs > 0 && c->scratch != NULL)
			c->retired[c->n_retired++] = c->scratch;
		else
			cu_free(d, c->scratch);
		c->scratch = NULL;
		c->scratch_cap = 0;
		QL_TRY(cu_alloc(d, QL_MEM_SCRATCH, cu_align(bytes), &c->scratch, e));
		c->op = op;
		c->scratch_cap = bytes;
	}
	if (c->scratch_user && c->scratch_user != q && !q->capturing && !c->scratch_user->capturing) {
		CU_TRY(cudaEventRecord(c->scratch_ev, c->scratch_user->s));
		CU_TRY(cudaStreamWaitEvent(q->s, c->scratch_ev, 0));
	}
	c->scratch_user = q;
	*out = c->scratch;
	return QL_OK;
}
