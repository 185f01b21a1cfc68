/* copy.cu - copies between host and device go through pinned staging: small ones through a per-queue buffer (a download lands in the
 * caller's memory at the next sync), large ones through two bulk buffers in turn.  The driver tells device memory from pinned memory. */
#include "gpu/gpu.h"

static int bulk_ready(struct ql_device *d, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	for (int i = 0; i < 2; i++)
		if (!c->bulk[i]) {
			CU_TRY(cudaHostAlloc(&c->bulk[i], CU_BULK_BYTES, cudaHostAllocDefault));
			CU_TRY(cudaEventCreateWithFlags(&c->bulk_ev[i], cudaEventDisableTiming));
		}
	return QL_OK;
}

int cu_upload(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	QL_TRY(cu_begin(d, "upload", e));
	if (bytes == 0)
		return QL_OK;
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "upload: not possible while a graph is recorded");
	if (bytes <= CU_STAGE_BYTES / 4) {
		if (q->up_used + bytes > CU_STAGE_BYTES) {
			CU_TRY(cudaStreamSynchronize(q->s));
			q->up_used = 0;
		}
		memcpy(q->up + q->up_used, src, bytes);
		CU_TRY(cudaMemcpyAsync(dst, q->up + q->up_used, bytes, cudaMemcpyDefault, q->s));
		q->up_used += cu_align(bytes);
		return QL_OK;
	}
	QL_TRY(bulk_ready(d, e));
	for (size_t off = 0, i = 0; off < bytes; off += CU_BULK_BYTES, i ^= 1) {
		size_t n = bytes - off < CU_BULK_BYTES ? bytes - off : CU_BULK_BYTES;

		CU_TRY(cudaEventSynchronize(c->bulk_ev[i]));
		memcpy(c->bulk[i], (const uint8_t *)src + off, n);
		CU_TRY(cudaMemcpyAsync((uint8_t *)dst + off, c->bulk[i], n, cudaMemcpyDefault, q->s));
		CU_TRY(cudaEventRecord(c->bulk_ev[i], q->s));
	}
	return QL_OK;
}

/* Waits for the queue and hands pending downloads to their owners. */
int cu_drain(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	CU_TRY(cudaStreamSynchronize(q->s));
	for (uint32_t i = 0; i < q->n_pend; i++)
		memcpy(q->pend[i].dst, q->down + q->pend[i].off, q->pend[i].bytes);
	q->n_pend = 0;
	q->down_used = q->up_used = 0;
	return QL_OK;
}

int cu_download(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	QL_TRY(cu_begin(d, "download", e));
	if (bytes == 0)
		return QL_OK;
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "download: not possible while a graph is recorded");
	if (bytes <= CU_STAGE_BYTES / 4) {
		if (q->down_used + bytes > CU_STAGE_BYTES || q->n_pend == CU_PENDING_MAX)
			QL_TRY(cu_drain(d, q, e));
		CU_TRY(cudaMemcpyAsync(q->down + q->down_used, src, bytes, cudaMemcpyDefault, q->s));
		q->pend[q->n_pend].dst = dst;
		q->pend[q->n_pend].off = q->down_used;
		q->pend[q->n_pend++].bytes = bytes;
		q->down_used += cu_align(bytes);
		return QL_OK;
	}
	QL_TRY(bulk_ready(d, e));
	size_t issued = 0; /* one chunk is under way while the one before is copied out */
	for (size_t done = 0; done < bytes;) {
		while (issued < bytes && issued - done < 2 * CU_BULK_BYTES) {
			size_t i = issued / CU_BULK_BYTES & 1;
			size_t n = bytes - issued < CU_BULK_BYTES ? bytes - issued : CU_BULK_BYTES;

			CU_TRY(cudaEventSynchronize(c->bulk_ev[i])); /* an upload may still read it */
			CU_TRY(cudaMemcpyAsync(c->bulk[i], (const uint8_t *)src + issued, n, cudaMemcpyDefault, q->s));
			CU_TRY(cudaEventRecord(c->bulk_ev[i], q->s));
			issued += n;
		}
		size_t j = done / CU_BULK_BYTES & 1, n = bytes - done < CU_BULK_BYTES ? bytes - done : CU_BULK_BYTES;

		CU_TRY(cudaEventSynchronize(c->bulk_ev[j]));
		memcpy((uint8_t *)dst + done, c->bulk[j], n);
		done += n;
	}
	return QL_OK;
}

int cu_copy(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "copy", e));
	if (bytes)
		CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, q->s));
	return QL_OK;
}

int cu_zero(struct ql_device *d, struct ql_queue *q, void *dst, size_t bytes, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "zero", e));
	if (bytes)
		CU_TRY(cudaMemsetAsync(dst, 0, bytes, q->s));
	return QL_OK;
}
