/* infer.c - the scheduler: setting up, ends, the loop; see infer.h and sched.h. */
#include "core/infer/infer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/infer/sched.h"

double ql_infer_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- setting up ----------------------------------------------------------------------------------------------------------- */

static uint32_t kv_blocks(const struct ql_model *m, const struct ql_infer_opts *o, uint32_t context)
{
	uint64_t per_block = ql_kv_block_bytes(m), want;
	struct ql_mem_info info;

	if (o->kv_tokens > 0) {
		want = (o->kv_tokens + QL_KV_BLOCK - 1) / QL_KV_BLOCK;
	} else {
		want = (uint64_t)o->max_rows * 2048 / QL_KV_BLOCK;
		if (m->dev->ops->mem_info(m->dev, &info, NULL) == QL_OK && want * per_block > info.available / 8)
			want = info.available / 8 / per_block;
	}
	if (want < context / QL_KV_BLOCK + 1)
		want = context / QL_KV_BLOCK + 1;
	return (uint32_t)want;
}

static int set_up(struct ql_infer *f, ql_adapter_open open_dir, void *open_ctx, struct ql_err *e)
{
	uint32_t rank[QL_GROUPS], rows, T, n;
	int rc;

	for (int g = 0; g < QL_GROUPS; g++)
		rank[g] = (uint32_t)ql_groups[g].count * QL_LORA_RANK_MAX;
	if (f->o.max_context == 0 || f->o.max_context > f->m->arch.max_position_embeddings)
		f->o.max_context = f->m->arch.max_position_embeddings;
	if (f->o.max_chunk == 0)
		f->o.max_chunk = f->m->dev->act == QL_F32 ? 256 : 2048;
	f->vocab = f->m->arch.vocab_size;
	f->max_blocks = (f->o.max_context + QL_KV_BLOCK - 1) / QL_KV_BLOCK;
	n = kv_blocks(f->m, &f->o, f->o.max_context);
	rows = f->o.max_rows > 64 ? f->o.max_rows : 64; /* logits at once: a decode step, or a piece of an echoed prompt */
	T = f->o.max_chunk > f->o.max_rows ? f->o.max_chunk : f->o.max_rows;
	rc = ql_kv_new(&f->kv, f->m, n, e);
	if (rc == QL_OK)
		rc = ql_blocks_new(&f->blocks, n, e);
	if (rc == QL_OK)
		rc = ql_adapters_new(&f->adapters, f->m, f->o.adapter_slots, rank, open_dir, open_ctx, e);
	if (rc == QL_OK)
		rc = ql_step_new(&f->step, f->m, &f->kv, ql_adapters_table(f->adapters), rank, f->o.max_chunk, f->o.max_rows,
				 f->max_blocks, rows, e);
	if (rc == QL_OK)
		rc = ql_sampler_new(&f->sampler, f->vocab, e);
	if (rc != QL_OK)
		return rc;
	f->stats.blocks = n;
	f->logits = malloc((size_t)rows * f->vocab * sizeof *f->logits);
	f->row_logits = malloc((size_t)f->vocab * sizeof *f->row_logits);
	f->alts = malloc(32 * sizeof *f->alts);
	f->running = calloc(f->o.max_rows, sizeof *f->running);
	f->resident = calloc((size_t)f->o.adapter_slots + 1, sizeof *f->resident);
	f->resident_users = calloc((size_t)f->o.adapter_slots + 1, sizeof *f->resident_users);
	f->ints = malloc((4 * (size_t)T + 2 * (size_t)f->o.max_rows + 2 + (size_t)f->o.max_rows * f->max_blocks) * sizeof *f->ints);
	if (f->logits == NULL || f->row_logits == NULL || f->alts == NULL || f->running == NULL || f->resident == NULL ||
	    f->resident_users == NULL || f->ints == NULL)
		return ql_err_set(e, QL_ENOMEM, "inference buffers");
	return QL_OK;
}

int ql_infer_new(struct ql_infer **out, struct ql_model *m, const struct ql_tok *tok, const struct ql_infer_opts *o,
		 ql_adapter_open open_dir, void *open_ctx, struct ql_err *e)
{
	struct ql_infer *f = calloc(1, sizeof *f);
	int rc;

	*out = NULL;
	if (f == NULL)
		return ql_err_set(e, QL_ENOMEM, "inference");
	f->m = m;
	f->tok = tok;
	f->o = *o;
	f->inbox_end = &f->inbox;
	(void)pthread_mutex_init(&f->lock, NULL);
	(void)pthread_cond_init(&f->wake, NULL);
	rc = set_up(f, open_dir, open_ctx, e);
	if (rc != QL_OK) {
		ql_infer_free(f);
		return rc;
	}
	*out = f;
	return QL_OK;
}

/* ---- ends --------------------------------------------------------------------------------------------------------------------- */

static void release_row(struct ql_infer *f, struct row *w)
{
	for (uint32_t i = 0; i < w->n_blocks; i++)
		ql_blocks_release(f->blocks, w->blocks[i]);
	w->n_blocks = 0;
	for (uint32_t i = 0; i < f->n_running; i++)
		if (f->running[i] == w) {
			memmove(f->running + i, f->running + i + 1, (f->n_running - i - 1) * sizeof *f->running);
			f->n_running--;
			break;
		}
	w->state = ROW_ENDED;
	w->req->n_ended++;
}

static void unlink_request(struct ql_infer *f, struct request *q)
{
	struct request **p = &f->active;

	(void)pthread_mutex_lock(&f->lock); /* cancel walks the list */
	while (*p != q)
		p = &(*p)->next;
	*p = q->next;
	f->n_waiting -= q->n_admitted == 0;
	(void)pthread_mutex_unlock(&f->lock);
	if (q->adapter != NULL) {
		ql_gate_enter(f->m->gate, QL_GATE_INFER); /* a dropped adapter is freed by its last user */
		ql_adapters_leave(f->adapters, q->adapter);
		ql_gate_leave(f->m->gate, QL_GATE_INFER);
	}
	ql_request_free(q);
}

void ql_infer_fail(struct ql_infer *f, struct request *q, const struct ql_err *e)
{
	for (uint32_t i = 0; i < q->r.n; i++)
		if (q->rows[i].state == ROW_PREFILL || q->rows[i].state == ROW_DECODE)
			release_row(f, &q->rows[i]);
	q->r.events.error(q->r.ctx, e);
	unlink_request(f, q);
}

void ql_infer_end_row(struct ql_infer *f, struct row *w, enum ql_finish reason)
{
	struct request *q = w->req;
	struct ql_infer_usage usage;

	q->r.events.finish(q->r.ctx, w->choice, reason);
	release_row(f, w);
	if (q->n_ended < q->r.n)
		return;
	usage = (struct ql_infer_usage){q->r.n_prompt, q->completion_tokens, q->cached_tokens, q->t_admit - q->t_submit,
					q->t_prompt - q->t_admit};
	q->r.events.done(q->r.ctx, &usage);
	(void)pthread_mutex_lock(&f->lock);
	f->stats.generated_tokens += q->completion_tokens;
	f->stats.prompt_tokens += q->r.n_prompt;
	f->stats.cached_tokens += q->cached_tokens;
	(void)pthread_mutex_unlock(&f->lock);
	unlink_request(f, q);
}

static void free_drops(struct drop *d)
{
	while (d != NULL) {
		struct drop *next = d->next;

		free(d);
		d = next;
	}
}

void ql_infer_free(struct ql_infer *f)
{
	struct ql_err e;

	if (f == NULL)
		return;
	(void)ql_err_set(&e, QL_ECANCELLED, "the engine is stopping");
	*f->inbox_end = NULL;
	while (f->inbox != NULL) {
		struct request *q = f->inbox;

		f->inbox = q->next;
		q->r.events.error(q->r.ctx, &e);
		ql_request_free(q);
	}
	while (f->active != NULL)
		ql_infer_fail(f, f->active, &e);
	ql_step_free(f->step);
	ql_adapters_free(f->adapters);
	ql_blocks_free(f->blocks);
	ql_kv_free(&f->kv, f->m);
	ql_sampler_free(f->sampler);
	(void)pthread_mutex_destroy(&f->lock);
	(void)pthread_cond_destroy(&f->wake);
	free_drops(f->drops);
	free(f->resident);
	free(f->resident_users);
	free(f->logits);
	free(f->row_logits);
	free(f->alts);
	free(f->running);
	free(f->ints);
	free(f);
}

/* ---- the loop --------------------------------------------------------------------------------------------------------------------------- */

/* Takes what other threads left; waits while there is nothing to do.  False: stop. */
static bool collect(struct ql_infer *f)
{
	struct drop *drops;
	bool go;

	(void)pthread_mutex_lock(&f->lock);
	f->stats.running = f->n_running;
	f->stats.blocks_held = ql_blocks_held(f->blocks);
	ql_adapters_moves(f->adapters, &f->stats.adapters_in, &f->stats.adapters_out);
	f->n_resident = ql_adapters_names(f->adapters, f->resident, f->resident_users, f->o.adapter_slots);
	while (!f->stopping && f->inbox == NULL && f->active == NULL && f->drops == NULL)
		(void)pthread_cond_wait(&f->wake, &f->lock);
	*f->inbox_end = NULL;
	struct request **end = &f->active;

	while (*end != NULL)
		end = &(*end)->next;
	*end = f->inbox;
	f->inbox = NULL;
	f->inbox_end = &f->inbox;
	drops = f->drops;
	f->drops = NULL;
	go = !f->stopping;
	(void)pthread_mutex_unlock(&f->lock);
	if (drops != NULL) {
		ql_gate_enter(f->m->gate, QL_GATE_INFER);
		for (struct drop *d = drops; d != NULL; d = d->next)
			ql_adapters_drop(f->adapters, d->name);
		ql_gate_leave(f->m->gate, QL_GATE_INFER);
		free_drops(drops);
	}
	return go;
}

static void sweep_cancelled(struct ql_infer *f)
{
	struct ql_err e;

	for (struct request *q = f->active, *next; q != NULL; q = next) {
		next = q->next;
		if (q->cancelled) {
			(void)ql_err_set(&e, QL_ECANCELLED, "the client left");
			ql_infer_fail(f, q, &e);
		}
	}
}

static struct row *in_prefill(const struct ql_infer *f)
{
	for (uint32_t i = 0; i < f->n_running; i++)
		if (f->running[i]->state == ROW_PREFILL)
			return f->running[i];
	return NULL;
}

int ql_infer_run(struct ql_infer *f, struct ql_err *e)
{
	int rc = QL_OK;

	while (rc == QL_OK && collect(f)) {
		struct row *w;

		sweep_cancelled(f);
		if (in_prefill(f) == NULL)
			ql_infer_admit(f);
		w = in_prefill(f);
		if (w != NULL)
			rc = ql_infer_prefill(f, w, e);
		if (rc == QL_OK)
			rc = ql_infer_decode(f, e);
	}
	if (rc != QL_OK)
		while (f->active != NULL)
			ql_infer_fail(f, f->active, e);
	return rc;
}
