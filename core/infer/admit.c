/* admit.c - which waiting row runs next: in order of arrival, when rows, cache blocks and adapter slots allow. */
#include <stdlib.h>

#include "core/infer/sched.h"

/* Holds the shared full blocks of the prompt's beginning, then fresh ones for the rest.  False: not enough. */
static bool take_blocks(struct ql_infer *f, struct row *w)
{
	const struct request *q = w->req;
	uint32_t total = (q->r.n_prompt + q->r.max_tokens + QL_KV_BLOCK - 1) / QL_KV_BLOCK;
	uint32_t shareable = q->r.echo && q->r.logprobs >= 0 ? 0 : (q->r.n_prompt - 1) / QL_KV_BLOCK;

	if (total == 0)
		total = 1;
	w->blocks = calloc(total, sizeof *w->blocks);
	if (w->blocks == NULL)
		return false;
	ql_block_key_first(&w->key, q->r.adapter != NULL ? q->adapter_ref.name : "", q->r.adapter != NULL ? q->adapter_ref.generation : 0);
	while (w->n_blocks < shareable) {
		struct ql_block_key next;
		int32_t b;

		ql_block_key_next(&next, &w->key, w->tokens + (size_t)w->n_blocks * QL_KV_BLOCK, QL_KV_BLOCK);
		b = ql_blocks_find(f->blocks, &next);
		if (b < 0)
			break;
		w->blocks[w->n_blocks++] = b;
		w->key = next;
	}
	w->n_keyed = w->n_blocks;
	w->n_cached = w->n_blocks * QL_KV_BLOCK;
	if (ql_blocks_available(f->blocks) < total - w->n_blocks) {
		while (w->n_blocks > 0)
			ql_blocks_release(f->blocks, w->blocks[--w->n_blocks]);
		free(w->blocks);
		w->blocks = NULL;
		w->n_cached = 0;
		return false;
	}
	while (w->n_blocks < total)
		w->blocks[w->n_blocks++] = ql_blocks_take(f->blocks);
	if (w->choice == 0) /* the other choices share what this one makes */
		w->req->cached_tokens = w->n_cached;
	return true;
}

void ql_infer_admit(struct ql_infer *f)
{
	if (f->n_running == f->o.max_rows)
		return;
	for (struct request *q = f->active, *next; q != NULL; q = next) {
		struct ql_err e;
		struct row *w;

		next = q->next;
		if (q->n_admitted == q->r.n)
			continue;
		if (q->r.adapter != NULL && q->adapter == NULL) {
			ql_gate_enter(f->m->gate, QL_GATE_INFER);
			int rc = ql_adapters_use(f->adapters, &q->adapter_ref, &q->adapter, &e);
			ql_gate_leave(f->m->gate, QL_GATE_INFER);
			if (rc == QL_EBUSY)
				return;
			if (rc != QL_OK) {
				ql_infer_fail(f, q, &e);
				continue;
			}
		}
		w = &q->rows[q->n_admitted];
		if (!take_blocks(f, w))
			return; /* in order: nobody overtakes */
		if (q->n_admitted == 0)
			q->t_admit = q->t_prompt = ql_infer_now();
		(void)pthread_mutex_lock(&f->lock);
		f->n_waiting -= q->n_admitted++ == 0;
		(void)pthread_mutex_unlock(&f->lock);
		w->state = ROW_PREFILL;
		f->running[f->n_running++] = w;
		return;
	}
}
