/* pass.c - a pass from token ids to loss and back; see pass.h. */
#include "core/model/pass.h"

#include "core/model/pass_priv.h"

#define LOSS_ROWS_MIN 24 /* fewer rows of the loss at once: the head's weights would be expanded for too few */

int ql_pass_slice(struct ql_pass *p, struct ql_err *e)
{
	const struct ql_device_ops *op = p->m->dev->ops;
	unsigned now = p->n_slices++ % 2;
	int rc = op->event_record(p->m->dev, p->m->queue, &p->slice[now], e);

	if (rc == QL_OK && p->slice[1 - now] != NULL)
		rc = op->event_wait(p->m->dev, p->slice[1 - now], e);
	return rc;
}

static int begin(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, const struct ql_dropout *drop,
		 struct ql_err *e)
{
	const struct ql_device_ops *op = p->m->dev->ops;
	struct ql_device *d = p->m->dev;
	struct ql_queue *q = p->m->queue;
	int rc;

	if (b->n_tokens == 0 || b->n_tokens > p->max_tokens || b->n_targets > b->n_tokens || b->n_seqs > b->n_tokens)
		return ql_err_set(e, QL_ESHAPE, "micro-batch of %u tokens, %u sequences, %u targets does not fit %u", b->n_tokens,
				  b->n_seqs, b->n_targets, p->max_tokens);
	for (int g = 0; lora != NULL && g < QL_GROUPS; g++)
		if (lora->group_rank[g] > p->group_rank[g])
			return ql_err_set(e, QL_ESHAPE, "the pass was made for smaller ranks");
	p->b = *b;
	p->lora = lora;
	p->drop = drop;
	rc = op->upload(d, q, p->ids, b->ids, (size_t)b->n_tokens * 4, e);
	if (rc == QL_OK)
		rc = op->upload(d, q, p->positions, b->positions, (size_t)b->n_tokens * 4, e);
	if (rc == QL_OK)
		rc = op->upload(d, q, p->cu, b->cu_seqlens, ((size_t)b->n_seqs + 1) * 4, e);
	if (rc == QL_OK && b->n_targets > 0)
		rc = op->upload(d, q, p->rows, b->rows, (size_t)b->n_targets * 4, e);
	if (rc == QL_OK && b->n_targets > 0)
		rc = op->upload(d, q, p->labels, b->labels, (size_t)b->n_targets * 4, e);
	return rc;
}

static struct ql_tensor batch_rows(const struct ql_pass *p, struct ql_tensor t)
{
	t.rows = p->b.n_tokens;
	return t;
}

/* Without training all layers share one x: the residual stream alternates between spare.x and x_last. */
static struct ql_tensor input_of(struct ql_pass *p, uint32_t l)
{
	if (l == p->m->arch.num_hidden_layers)
		return p->train || l % 2 == 1 ? p->x_last : p->spare.x;
	return p->train ? p->layers[l].x : l % 2 == 1 ? p->x_last : p->spare.x;
}

static int forward(struct ql_pass *p, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	struct ql_tensor none = {0};
	uint32_t n = m->arch.num_hidden_layers;
	int rc = op->embed(m->dev, m->queue, m->embed, p->ids, m->embed_scale, batch_rows(p, input_of(p, 0)), e);

	if (rc == QL_OK && p->drop != NULL && p->drop->neftune > 0) {
		struct ql_noise a = {.y = batch_rows(p, input_of(p, 0)), .n_seqs = p->b.n_seqs, .cu_seqlens = p->cu,
				     .alpha = p->drop->neftune, .seed = p->drop->seed, .token_base = p->drop->token_base,
				     .step = p->drop->step};

		rc = op->embed_noise(m->dev, m->queue, &a, e);
	}

	for (uint32_t l = 0; rc == QL_OK && l < n; l++) {
		struct acts a = p->layers[l];

		a.x = input_of(p, l);
		if (p->backward)
			rc = ql_offload_before_forward(p, l, e);
		if (rc == QL_OK)
			rc = ql_layer_forward(p, l, &a, input_of(p, l + 1), e);
	}
	if (rc == QL_OK)
		rc = op->rmsnorm(m->dev, m->queue, batch_rows(p, input_of(p, n)), m->norm, 0, m->arch.rms_norm_eps, none,
				 batch_rows(p, p->hidden), p->rstd_last, e);
	return rc;
}

static int backward(struct ql_pass *p, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	struct ql_tensor none = {0}, dres = batch_rows(p, p->dres);
	int rc = op->rmsnorm_grad(m->dev, m->queue, batch_rows(p, p->x_last), m->norm, 0, p->rstd_last, dres, none, dres, e);

	for (uint32_t l = m->arch.num_hidden_layers; rc == QL_OK && l-- > 0;) {
		struct acts *a = &p->layers[l];

		enum ql_keep keep = ql_pass_keeps(p, l);

		if (keep == QL_KEEP_HOST)
			rc = ql_offload_before_backward(p, l, e);
		if (rc == QL_OK && (keep == QL_KEEP_INPUT || keep == QL_KEEP_HOST))
			rc = ql_layer_forward(p, l, a, none, e); /* its output is not needed, only what backward reads */
		else if (keep == QL_KEEP_MAIN)
			rc = ql_layer_again(p, l, a, e);
		if (rc == QL_OK)
			rc = ql_layer_backward(p, l, a, e);
	}
	return rc;
}

/* Targets of one op of the loss.  A device with a queue of its own takes them all.  The CPU has run an op when it returns, and who waits at
 * the gate waits for all of it: while inference comes and goes, an op of the loss (head and gradient: 4·vocab·d a row) takes no longer
 * than the longest product of a layer (4·f·d a token).  The bits are the same. */
static uint32_t loss_step(const struct ql_pass *p)
{
	const struct ql_arch *a = &p->m->arch;
	uint64_t rows = (uint64_t)p->b.n_tokens * a->intermediate_size / a->vocab_size / 12 * 12;

	if (p->m->dev->act != QL_F32 || rows >= p->b.n_targets || !ql_gate_shared(p->m->gate))
		return p->b.n_targets;
	return rows > LOSS_ROWS_MIN ? (uint32_t)rows : LOSS_ROWS_MIN;
}

static struct ql_tensor rows_from(struct ql_tensor t, uint32_t begin, uint32_t end)
{
	if (t.data != NULL)
		t.data = (char *)t.data + (size_t)begin * t.ld * ql_dtypes[t.dtype].bytes;
	t.rows = end - begin;
	return t;
}

/* The loss of all targets, all = as one op would take it.  A slice is the rows from its first target (the first slice: from row 0) up to the
 * next slice's, so that each row's gradient is written once. */
static int loss(struct ql_pass *p, const struct ql_xent *all, struct ql_err *e)
{
	const struct ql_device_ops *op = p->m->dev->ops;
	const struct ql_batch *b = &p->b;
	uint32_t step = loss_step(p), row = 0;
	int rc = QL_OK;

	for (uint32_t t = 0; rc == QL_OK && t < b->n_targets; t += step) {
		uint32_t n = b->n_targets - t < step ? b->n_targets - t : step;
		uint32_t end = t + n < b->n_targets ? (uint32_t)b->rows[t + n] : b->n_tokens;
		struct ql_xent x = *all;

		x.hidden = rows_from(all->hidden, row, end);
		x.dhidden = rows_from(all->dhidden, row, end);
		x.rows += t;
		x.labels += t;
		x.nll += t;
		x.argmax += all->argmax != NULL ? t : 0;
		x.n = n;
		for (uint32_t i = 0; row > 0 && i < n; i++)
			p->loss_rows[t + i] = b->rows[t + i] - (int32_t)row;
		if (row > 0)
			rc = op->upload(p->m->dev, p->m->queue, p->rows + t, p->loss_rows + t, (size_t)n * sizeof *p->loss_rows, e);
		if (rc == QL_OK)
			rc = op->cross_entropy(p->m->dev, p->m->queue, &x, e);
		if (rc == QL_OK)
			(void)ql_gate_yield(p->m->gate);
		row = end;
	}
	return rc;
}

static int run(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, const struct ql_dropout *drop,
	       float grad_scale, float *nll, int32_t *argmax, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	struct ql_xent x;
	int rc;

	rc = begin(p, b, lora, drop, e);
	if (rc != QL_OK || b->n_targets == 0)
		return rc;
	rc = forward(p, e);
	if (rc != QL_OK)
		return rc;
	x = (struct ql_xent){.head = m->head, .hidden = batch_rows(p, p->hidden), .rows = p->rows, .labels = p->labels,
			     .n = b->n_targets, .softcap = (float)m->arch.logit_softcap, .grad_scale = grad_scale, .nll = p->nll,
			     .argmax = argmax != NULL ? p->argmax : NULL};
	if (p->backward)
		x.dhidden = batch_rows(p, p->dres);
	rc = loss(p, &x, e);
	if (rc == QL_OK)
		rc = op->download(m->dev, m->queue, nll, p->nll, (size_t)b->n_targets * 4, e);
	if (rc == QL_OK && argmax != NULL)
		rc = op->download(m->dev, m->queue, argmax, p->argmax, (size_t)b->n_targets * 4, e);
	if (rc == QL_OK)
		rc = ql_pass_slice(p, e);
	if (rc == QL_OK && p->backward)
		rc = backward(p, e);
	return rc == QL_OK ? op->sync(m->dev, m->queue, e) : rc;
}

int ql_pass_run(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, const struct ql_dropout *drop,
		float grad_scale, bool with_backward, float *nll, int32_t *argmax, struct ql_err *e)
{
	int rc;

	if (with_backward && (!p->train || lora == NULL || lora->grads == NULL))
		return ql_err_set(e, QL_ESTATE, "backward needs a training pass and a trainable adapter");
	p->backward = with_backward;
	rc = run(p, b, lora, drop, grad_scale, nll, argmax, e);
	p->backward = false;
	if (rc != QL_OK)
		ql_offload_stop(p);
	return rc;
}

int ql_pass_logits(struct ql_pass *p, const struct ql_batch *b, const struct ql_lora_set *lora, float *logits, struct ql_err *e)
{
	struct ql_model *m = p->m;
	const struct ql_device_ops *op = m->dev->ops;
	size_t vocab = m->arch.vocab_size, bytes = (size_t)b->n_tokens * vocab * 4;
	struct ql_linear a = {.w = m->head};
	void *out = NULL;
	int rc = begin(p, b, lora, NULL, e);

	if (rc == QL_OK)
		rc = forward(p, e);
	if (rc == QL_OK)
		rc = op->alloc(m->dev, QL_MEM_SCRATCH, bytes, &out, e);
	if (rc != QL_OK)
		return rc;
	a.x = batch_rows(p, p->hidden);
	a.y = ql_view(out, QL_F32, b->n_tokens, m->arch.vocab_size, vocab);
	rc = op->linear(m->dev, m->queue, &a, e);
	if (rc == QL_OK && m->arch.logit_softcap > 0)
		rc = op->softcap(m->dev, m->queue, a.y, (float)m->arch.logit_softcap, e);
	if (rc == QL_OK)
		rc = op->download(m->dev, m->queue, logits, out, bytes, e);
	if (rc == QL_OK)
		rc = op->sync(m->dev, m->queue, e);
	op->free(m->dev, out);
	return rc;
}
