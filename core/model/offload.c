/* offload.c - inputs of layers that wait on the host for their backward; see pass.h, QL_KEEP_HOST.
 *
 * Layers first … first+count-1 share two device buffers: the input of layer first+i lies in buffer i mod 2, and layer l writes
 * its output, the input of l+1, over the input of l-1.  A second queue copies: forward sends an input while its layer computes,
 * backward fetches the one below while a layer is run again and differentiated.  Events order the two queues, never the host:
 *   send l    after the op that wrote it;         layer l+1 (which overwrites it) waits for the copy
 *   fetch l   after the backward of layer l+2;    layer l waits for the copy
 * The inputs of the last two layers still lie in the buffers when backward begins and stay there.  The idea of copies beside
 * compute is that of Rhu et al., "vDNN" (2016), with recomputation from the inputs of Chen et al. (2016) between them. */
#include "core/model/pass_priv.h"

static bool sent(const struct offload *o, uint32_t layer)
{
	return layer >= o->first && layer - o->first < o->sent;
}

static void *slot(const struct offload *o, uint32_t layer)
{
	return (char *)o->host + (layer - o->first) * o->slot;
}

/* Buffers of this layer's parity, counted from the first. */
static unsigned side(const struct offload *o, uint32_t layer)
{
	return (layer - o->first) % 2;
}

uint64_t ql_offload_host_bytes(const struct ql_pass *p)
{
	return p->off.sent * p->off.slot;
}

int ql_offload_open(struct ql_pass *p, struct ql_err *e)
{
	const struct ql_device_ops *op = p->m->dev->ops;
	struct offload *o = &p->off;
	int rc;

	if (o->sent == 0)
		return QL_OK;
	rc = op->alloc_paged(p->m->dev, (size_t)ql_offload_host_bytes(p), &o->host, e);
	return rc == QL_OK ? op->copy_queue_new(p->m->dev, &o->queue, e) : rc;
}

void ql_offload_close(struct ql_pass *p)
{
	const struct ql_device_ops *op = p->m->dev->ops;
	struct offload *o = &p->off;

	if (o->queue != NULL)
		op->queue_free(p->m->dev, o->queue); /* its copies have ended */
	op->free(p->m->dev, o->host);
	op->event_free(p->m->dev, o->ready);
	for (int i = 0; i < 2; i++)
		op->event_free(p->m->dev, o->copied[i]);
}

/* Copies the batch's rows of a layer's input, behind what the model's queue was given so far. */
static int copy(struct ql_pass *p, uint32_t layer, bool to_host, struct ql_err *e)
{
	struct ql_device *d = p->m->dev;
	const struct ql_device_ops *op = d->ops;
	struct offload *o = &p->off;
	struct ql_tensor x = o->stage[side(o, layer)];
	size_t bytes = (size_t)p->b.n_tokens * x.ld * ql_dtypes[x.dtype].bytes;
	int rc = op->event_record(d, p->m->queue, &o->ready, e);

	if (rc == QL_OK)
		rc = op->queue_wait(d, o->queue, o->ready, e);
	if (rc == QL_OK)
		rc = op->copy(d, o->queue, to_host ? slot(o, layer) : x.data, to_host ? x.data : slot(o, layer), bytes, e);
	return rc == QL_OK ? op->event_record(d, o->queue, &o->copied[side(o, layer)], e) : rc;
}

int ql_offload_before_forward(struct ql_pass *p, uint32_t layer, struct ql_err *e)
{
	struct offload *o = &p->off;
	int rc = QL_OK;

	if (sent(o, layer))
		rc = copy(p, layer, true, e);
	if (rc == QL_OK && layer > 0 && sent(o, layer - 1)) /* this layer's output goes there */
		rc = p->m->dev->ops->queue_wait(p->m->dev, p->m->queue, o->copied[side(o, layer - 1)], e);
	return rc;
}

int ql_offload_before_backward(struct ql_pass *p, uint32_t layer, struct ql_err *e)
{
	struct offload *o = &p->off;
	int rc = QL_OK;

	/* the buffer of layer+1, whose backward was the last enqueued, takes layer-1's input */
	if (layer > 0 && sent(o, layer - 1))
		rc = copy(p, layer - 1, false, e);
	if (rc == QL_OK && sent(o, layer))
		rc = p->m->dev->ops->queue_wait(p->m->dev, p->m->queue, o->copied[side(o, layer)], e);
	return rc;
}

void ql_offload_stop(struct ql_pass *p)
{
	if (p->off.queue != NULL)
		(void)p->m->dev->ops->sync(p->m->dev, p->off.queue, NULL);
}
