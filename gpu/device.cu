/* device.cu - the CUDA device itself: opening, errors, memory by kind, staging, queues, events and graphs.
 *
 * Memory: cudaMalloc with a table pointer → (bytes, kind), so that mem_info and the peak are exact.  Copies let the
 * driver tell device memory from pinned memory of the host (paged states).  Host copies go through
 * pinned staging: small ones through a per-queue buffer (a download lands in the caller's memory at the next sync), large
 * ones through two bulk buffers in turn.  A queue is a CUDA stream with its own cuBLAS workspace and decode workspace.
 * Only one scratch area exists; when another queue uses it, that queue waits for the last user. */
#include "gpu/gpu.h"

/* ---- errors ---- */

int cu_fail(struct ql_device *d, cudaError_t err, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	if (err == cudaErrorMemoryAllocation) {
		(void)cudaGetLastError();
		return ql_err_set(e, QL_ENODEVMEM, "%s: device memory exhausted", c->op);
	}
	(void)ql_err_set(&c->dead, QL_EDEVICE, "%s: %s (CUDA error %d)", c->op, cudaGetErrorString(err), (int)err);
	if (e)
		*e = c->dead;
	return QL_EDEVICE;
}

int cu_begin(struct ql_device *d, const char *op, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	if (c->dead.code) {
		if (e)
			*e = c->dead;
		return c->dead.code;
	}
	c->op = op;
	if (c->ordinal != 0) /* the current device belongs to the calling thread; 0 is every thread's first */
		CU_TRY(cudaSetDevice(c->ordinal));
	return QL_OK;
}

int cu_check_act(const struct ql_tensor *t, const char *name, struct ql_err *e)
{
	if (t->dtype != QL_BF16)
		return ql_err_param(e, QL_ESHAPE, name, "%s must be bf16 on this device", name);
	if (t->data == NULL || t->ld < t->cols)
		return ql_err_param(e, QL_ESHAPE, name, "%s: no data, or rows overlap", name);
	return QL_OK;
}

int cu_check_same(const struct ql_tensor *a, const struct ql_tensor *b, const char *what, struct ql_err *e)
{
	if (a->rows != b->rows || a->cols != b->cols)
		return ql_err_param(e, QL_ESHAPE, what, "%s: %ux%u against %ux%u", what, a->rows, a->cols, b->rows, b->cols);
	return QL_OK;
}

/* ---- memory ---- */

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
static int dev_alloc_paged(struct ql_device *d, size_t bytes, void **out, struct ql_err *e)
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

static int dev_mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e)
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

static void dev_mem_reset_peak(struct ql_device *d)
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

/* ---- copies ---- */

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
static int drain(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
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
			QL_TRY(drain(d, q, e));
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

static int dev_copy(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "copy", e));
	if (bytes)
		CU_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDefault, q->s));
	return QL_OK;
}

static int dev_zero(struct ql_device *d, struct ql_queue *q, void *dst, size_t bytes, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "zero", e));
	if (bytes)
		CU_TRY(cudaMemsetAsync(dst, 0, bytes, q->s));
	return QL_OK;
}

/* ---- queues, events, graphs ---- */

static void dev_queue_free(struct ql_device *d, struct ql_queue *q)
{
	struct cu_dev *c = cu_of(d);

	if (!q)
		return;
	if (c->scratch_user == q)
		c->scratch_user = NULL;
	if (!c->dead.code) {
		if (q->s)
			(void)cudaStreamSynchronize(q->s);
		if (q->up)
			(void)cudaFreeHost(q->up);
		if (q->down)
			(void)cudaFreeHost(q->down);
		if (q->s)
			(void)cudaStreamDestroy(q->s);
	}
	cu_free(d, q->blas_ws);
	cu_free(d, q->work);
	cu_free(d, q->count);
	free(q);
}

/* light: for copies, expansion and quantising alone, which need no work areas */
static int queue_fill(struct ql_device *d, struct ql_queue *q, bool light, struct ql_err *e)
{
	CU_TRY(cudaStreamCreateWithFlags(&q->s, cudaStreamNonBlocking));
	CU_TRY(cudaHostAlloc((void **)&q->up, CU_STAGE_BYTES, cudaHostAllocDefault));
	CU_TRY(cudaHostAlloc((void **)&q->down, CU_STAGE_BYTES, cudaHostAllocDefault));
	if (light)
		return QL_OK;
	QL_TRY(cu_alloc(d, QL_MEM_SCRATCH, CU_BLAS_WS_BYTES, &q->blas_ws, e));
	QL_TRY(cu_alloc(d, QL_MEM_SCRATCH, CU_COUNT_BYTES, (void **)&q->count, e));
	CU_TRY(cudaMemsetAsync(q->count, 0, CU_COUNT_BYTES, q->s));
	return QL_OK;
}

/* Only queues that decode need it, and they run every form once before it is recorded. */
int cu_work(struct ql_device *d, struct ql_queue *q, uint8_t **out, struct ql_err *e)
{
	const char *op = cu_of(d)->op;

	if (!q->work) {
		if (q->capturing)
			return ql_err_set(e, QL_ESTATE, "%s: its work area cannot be made while a graph is recorded", op);
		QL_TRY(cu_alloc(d, QL_MEM_SCRATCH, CU_WORK_BYTES, (void **)&q->work, e));
		cu_of(d)->op = op;
	}
	*out = q->work;
	return QL_OK;
}

static int make_queue(struct ql_device *d, bool light, struct ql_queue **out, struct ql_err *e)
{
	struct ql_queue *q;

	*out = NULL;
	QL_TRY(cu_begin(d, "queue_new", e));
	q = (struct ql_queue *)calloc(1, sizeof *q);
	if (!q)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	int r = queue_fill(d, q, light, e);
	if (r != QL_OK) {
		dev_queue_free(d, q);
		return r;
	}
	*out = q;
	return QL_OK;
}

static int dev_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e) { return make_queue(d, false, out, e); }
static int dev_copy_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e) { return make_queue(d, true, out, e); }

int cu_sync(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	QL_TRY(cu_begin(d, c->op, e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "sync: not possible while a graph is recorded");
	return drain(d, q, e); /* the name of the op enqueued last stays: a failure seen here is its, or an earlier op's */
}

static int dev_event_record(struct ql_device *d, struct ql_queue *q, struct ql_event **ev, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "event_record", e));
	if (!*ev) {
		struct ql_event *v = (struct ql_event *)calloc(1, sizeof *v);

		if (!v)
			return ql_err_set(e, QL_ENOMEM, "out of memory");
		cudaError_t r = cudaEventCreate(&v->ev);
		if (r != cudaSuccess) {
			free(v);
			return cu_fail(d, r, e);
		}
		*ev = v;
	}
	CU_TRY(cudaEventRecord((*ev)->ev, q->s));
	return QL_OK;
}

static int dev_event_wait(struct ql_device *d, struct ql_event *ev, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "event_wait", e));
	CU_TRY(cudaEventSynchronize(ev->ev));
	return QL_OK;
}

static int dev_queue_wait(struct ql_device *d, struct ql_queue *q, struct ql_event *ev, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "queue_wait", e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "queue_wait: not possible while a graph is recorded");
	CU_TRY(cudaStreamWaitEvent(q->s, ev->ev, 0));
	return QL_OK;
}

static int dev_event_seconds(struct ql_device *d, struct ql_event *from, struct ql_event *to, double *seconds, struct ql_err *e)
{
	float ms = 0;

	QL_TRY(cu_begin(d, "event_seconds", e));
	CU_TRY(cudaEventSynchronize(from->ev));
	CU_TRY(cudaEventSynchronize(to->ev));
	CU_TRY(cudaEventElapsedTime(&ms, from->ev, to->ev));
	*seconds = (double)ms * 1e-3;
	return QL_OK;
}

static void dev_event_free(struct ql_device *d, struct ql_event *ev)
{
	if (!ev)
		return;
	if (!cu_of(d)->dead.code)
		(void)cudaEventDestroy(ev->ev);
	free(ev);
}

static int dev_graph_begin(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "graph_begin", e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "graph_begin: a graph is being recorded already");
	CU_TRY(cudaStreamBeginCapture(q->s, cudaStreamCaptureModeRelaxed));
	q->capturing = true;
	return QL_OK;
}

static int dev_graph_end(struct ql_device *d, struct ql_queue *q, struct ql_graph **out, struct ql_err *e)
{
	cudaGraph_t g;
	struct ql_graph *r;

	*out = NULL;
	if (!q->capturing)
		return ql_err_set(e, QL_ESTATE, "graph_end: no graph is being recorded");
	q->capturing = false;
	QL_TRY(cu_begin(d, "graph_end", e));
	CU_TRY(cudaStreamEndCapture(q->s, &g));
	r = (struct ql_graph *)calloc(1, sizeof *r);
	cudaError_t err = r ? cudaGraphInstantiate(&r->exec, g, 0) : cudaSuccess;
	(void)cudaGraphDestroy(g);
	if (!r)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	if (err != cudaSuccess) {
		free(r);
		return cu_fail(d, err, e);
	}
	cu_of(d)->n_graphs++;
	*out = r;
	return QL_OK;
}

static int dev_graph_run(struct ql_device *d, struct ql_queue *q, struct ql_graph *g, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "graph_run", e));
	CU_TRY(cudaGraphLaunch(g->exec, q->s));
	return QL_OK;
}

static void dev_graph_free(struct ql_device *d, struct ql_graph *g)
{
	struct cu_dev *c = cu_of(d);

	if (!g)
		return;
	if (!c->dead.code)
		(void)cudaGraphExecDestroy(g->exec);
	free(g);
	if (--c->n_graphs == 0)
		while (c->n_retired > 0)
			cu_free(d, c->retired[--c->n_retired]);
}

/* ---- open and close ---- */

static void dev_close(struct ql_device *d)
{
	struct cu_dev *c;

	if (!d)
		return;
	c = cu_of(d);
	dev_queue_free(d, c->setup);
	cu_blas_close(c);
	if (!c->dead.code) {
		(void)cudaDeviceSynchronize();
		for (int i = 0; i < 2; i++)
			if (c->bulk[i]) {
				(void)cudaFreeHost(c->bulk[i]);
				(void)cudaEventDestroy(c->bulk_ev[i]);
			}
		if (c->scratch_ev)
			(void)cudaEventDestroy(c->scratch_ev);
		for (size_t i = 0; i < c->cap_allocs; i++)
			if (c->allocs[i].p)
				(void)(c->allocs[i].kind == CU_PINNED ? cudaFreeHost(c->allocs[i].p) : cudaFree(c->allocs[i].p));
	}
	free(c->allocs);
	free(c);
}

static const struct ql_device_ops cuda_ops = {
	"cuda", dev_close,
	cu_alloc, dev_alloc_paged, cu_free, dev_mem_info, dev_mem_reset_peak, cu_upload, cu_download, dev_copy, dev_zero,
	dev_queue_new, dev_copy_queue_new, dev_queue_free, cu_sync, dev_event_record, dev_event_wait, dev_queue_wait, dev_event_free, dev_event_seconds,
	dev_graph_begin, dev_graph_end, dev_graph_run, dev_graph_free,
	cu_weight_from_q4, cu_weight_from_dense, cu_weight_quantize, cu_weight_to_q4, cu_weight_free, cu_weight_bytes,
	cu_weight_resident, cu_weight_rows,
	cu_table_new, cu_table_set, cu_table_free,
	cu_embed, cu_embed_noise, cu_rmsnorm, cu_rmsnorm_grad, cu_rope, cu_swiglu, cu_swiglu_grad, cu_softcap,
	cu_linear, cu_linear_grad, cu_attention, cu_attention_grad, cu_kv_write, cu_paged_attention, cu_cross_entropy,
	cu_sum_squares, cu_adamw, cu_adam8, cu_argmax,
};

static int open_parts(struct ql_device *d, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);
	cudaDeviceProp p;
	int driver = 0;

	QL_TRY(cu_begin(d, "open", e));
	CU_TRY(cudaSetDevice(c->ordinal));
	CU_TRY(cudaGetDeviceProperties(&p, c->ordinal));
	CU_TRY(cudaDriverGetVersion(&driver));
	if (p.major < 8)
		return ql_err_set(e, QL_EUNSUPPORTED, "%s has compute capability %d.%d, 8.0 is needed", p.name, p.major, p.minor);
	c->sms = p.multiProcessorCount;
	c->hopper = p.major == 9 && p.minor == 0;
	c->total = p.totalGlobalMem;
	(void)snprintf(d->description, sizeof d->description, "cuda:%d %.80s, CUDA driver %d.%d", c->ordinal, p.name, driver / 1000,
		       driver % 1000 / 10);
	CU_TRY(cudaEventCreateWithFlags(&c->scratch_ev, cudaEventDisableTiming));
	CU_TRY(cu_attention_fwd_setup());
	CU_TRY(cu_attention_bwd_setup());
	CU_TRY(cu_matvec_setup());
	QL_TRY(cu_blas_open(d, e));
	return make_queue(d, true, &c->setup, e);
}

extern "C" int ql_device_cuda(struct ql_device **out, int ordinal, struct ql_err *e)
{
	struct cu_dev *c;
	int n = 0;

	*out = NULL;
	cudaError_t r = cudaGetDeviceCount(&n);
	if (r != cudaSuccess || ordinal < 0 || ordinal >= n) {
		(void)cudaGetLastError();
		return ql_err_set(e, QL_ENOTFOUND, "no CUDA device %d (%d found%s%s)", ordinal, r == cudaSuccess ? n : 0,
				  r == cudaSuccess ? "" : ": ", r == cudaSuccess ? "" : cudaGetErrorString(r));
	}
	c = (struct cu_dev *)calloc(1, sizeof *c);
	if (!c)
		return ql_err_set(e, QL_ENOMEM, "out of memory");
	c->ordinal = ordinal;
	c->op = "open";
	c->pub.ops = &cuda_ops;
	c->pub.act = QL_BF16;
	c->pub.ext_align = CU_EXT_ALIGN;
	c->pub.small_rows = CU_SMALL_ROWS;
	c->pub.head_dim_max = 256;
	c->pub.impl = c;
	int code = open_parts(&c->pub, e);
	if (code != QL_OK) {
		dev_close(&c->pub);
		return code;
	}
	*out = &c->pub;
	return QL_OK;
}
