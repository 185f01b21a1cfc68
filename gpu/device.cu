/* device.cu - the CUDA device itself: errors, what all ops check, opening and closing.  Its memory: memory.cu, copy.cu; its queues:
 * queue.cu. */
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

/* ---- open and close ---- */

static void dev_close(struct ql_device *d)
{
	struct cu_dev *c;

	if (!d)
		return;
	c = cu_of(d);
	cu_queue_free(d, c->setup);
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
	cu_alloc, cu_alloc_paged, cu_free, cu_mem_info, cu_mem_reset_peak, cu_upload, cu_download, cu_copy, cu_zero,
	cu_queue_new, cu_copy_queue_new, cu_queue_free, cu_sync, cu_event_record, cu_event_wait, cu_queue_wait, cu_event_free, cu_event_seconds,
	cu_graph_begin, cu_graph_end, cu_graph_run, cu_graph_free,
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
	return cu_copy_queue_new(d, &c->setup, e);
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
