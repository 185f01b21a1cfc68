/* queue.cu - queues (a CUDA stream with its own cuBLAS workspace and decode work area), events, recorded graphs. */
#include "gpu/gpu.h"

void cu_queue_free(struct ql_device *d, struct ql_queue *q)
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
		cu_queue_free(d, q);
		return r;
	}
	*out = q;
	return QL_OK;
}

int cu_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e) { return make_queue(d, false, out, e); }
int cu_copy_queue_new(struct ql_device *d, struct ql_queue **out, struct ql_err *e) { return make_queue(d, true, out, e); }

int cu_sync(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	struct cu_dev *c = cu_of(d);

	QL_TRY(cu_begin(d, c->op, e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "sync: not possible while a graph is recorded");
	return cu_drain(d, q, e); /* the name of the op enqueued last stays: a failure seen here is its, or an earlier op's */
}

int cu_event_record(struct ql_device *d, struct ql_queue *q, struct ql_event **ev, struct ql_err *e)
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

int cu_event_wait(struct ql_device *d, struct ql_event *ev, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "event_wait", e));
	CU_TRY(cudaEventSynchronize(ev->ev));
	return QL_OK;
}

int cu_queue_wait(struct ql_device *d, struct ql_queue *q, struct ql_event *ev, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "queue_wait", e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "queue_wait: not possible while a graph is recorded");
	CU_TRY(cudaStreamWaitEvent(q->s, ev->ev, 0));
	return QL_OK;
}

int cu_event_seconds(struct ql_device *d, struct ql_event *from, struct ql_event *to, double *seconds, struct ql_err *e)
{
	float ms = 0;

	QL_TRY(cu_begin(d, "event_seconds", e));
	CU_TRY(cudaEventSynchronize(from->ev));
	CU_TRY(cudaEventSynchronize(to->ev));
	CU_TRY(cudaEventElapsedTime(&ms, from->ev, to->ev));
	*seconds = (double)ms * 1e-3;
	return QL_OK;
}

void cu_event_free(struct ql_device *d, struct ql_event *ev)
{
	if (!ev)
		return;
	if (!cu_of(d)->dead.code)
		(void)cudaEventDestroy(ev->ev);
	free(ev);
}

int cu_graph_begin(struct ql_device *d, struct ql_queue *q, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "graph_begin", e));
	if (q->capturing)
		return ql_err_set(e, QL_ESTATE, "graph_begin: a graph is being recorded already");
	CU_TRY(cudaStreamBeginCapture(q->s, cudaStreamCaptureModeRelaxed));
	q->capturing = true;
	return QL_OK;
}

int cu_graph_end(struct ql_device *d, struct ql_queue *q, struct ql_graph **out, struct ql_err *e)
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

int cu_graph_run(struct ql_device *d, struct ql_queue *q, struct ql_graph *g, struct ql_err *e)
{
	QL_TRY(cu_begin(d, "graph_run", e));
	CU_TRY(cudaGraphLaunch(g->exec, q->s));
	return QL_OK;
}

void cu_graph_free(struct ql_device *d, struct ql_graph *g)
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
