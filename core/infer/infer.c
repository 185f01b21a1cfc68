/* infer.c - the scheduler: setting up, calls from other threads, the loop; see infer.h and sched.h. */
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
	free(f->resident);
	free(f->resident_users);
	free(f->logits);
	free(f->row_logits);
	free(f->alts);
	free(f->running);
	free(f->ints);
	free(f);
}

/* ---- from other threads --------------------------------------------------------------------------------------------------------- */

/* Tokens become places in rows of logits and of the embedding: each must be one of the vocabulary. */
static int check_tokens(const struct ql_infer *f, const struct ql_infer_request *r, struct ql_err *e)
{
	for (uint32_t i = 0; i < r->n_prompt; i++)
		if ((uint32_t)r->prompt[i] >= f->vocab)
			return ql_err_param(e, QL_EINVAL, "prompt", "token %d of the prompt is not one of the vocabulary", r->prompt[i]);
	for (uint32_t i = 0; i < r->sampling.n_bias; i++)
		if ((uint32_t)r->sampling.bias[i].token >= f->vocab)
			return ql_err_param(e, QL_EINVAL, "logit_bias", "'logit_bias': %d is not a token of the vocabulary",
					    r->sampling.bias[i].token);
	for (uint32_t i = 0; i < r->n_stop_tokens; i++)
		if ((uint32_t)r->stop_tokens[i] >= f->vocab)
			return ql_err_param(e, QL_EINVAL, "stop_token_ids", "'stop_token_ids': %d is not a token of the vocabulary",
					    r->stop_tokens[i]);
	return QL_OK;
}

static int check_request(const struct ql_infer *f, const struct ql_infer_request *r, struct ql_err *e)
{
	if (r->n_prompt == 0)
		return ql_err_param(e, QL_EINVAL, "prompt", "the prompt is empty");
	if (r->n_prompt >= f->o.max_context)
		return ql_err_param(e, QL_ELIMIT, "messages", "the prompt has %u tokens, the context holds %u", r->n_prompt,
				    f->o.max_context);
	if (r->max_tokens > f->o.max_context - r->n_prompt) /* it would wait for blocks that never come */
		return ql_err_param(e, QL_ELIMIT, "messages", "%u tokens behind a prompt of %u are more than the context of %u holds",
				    r->max_tokens, r->n_prompt, f->o.max_context);
	if (r->n == 0 || r->n > QL_INFER_N_MAX)
		return ql_err_param(e, QL_EINVAL, "n", "'n' must be between 1 and %d", QL_INFER_N_MAX);
	if (r->n_stop_tokens > QL_INFER_STOP_TOKENS_MAX)
		return ql_err_param(e, QL_EINVAL, "stop_token_ids", "at most %d stop tokens", QL_INFER_STOP_TOKENS_MAX);
	return check_tokens(f, r, e);
}

int ql_infer_submit(struct ql_infer *f, const struct ql_infer_request *r, struct ql_err *e)
{
	struct request *q;
	int rc = check_request(f, r, e);

	if (rc != QL_OK)
		return rc;
	q = ql_request_new(r, f->tok);
	if (q == NULL)
		return ql_err_set(e, QL_ENOMEM, "request");
	q->t_submit = ql_infer_now();
	(void)pthread_mutex_lock(&f->lock);
	if (f->stopping)
		rc = ql_err_set(e, QL_ESTATE, "the engine is stopping");
	else if (f->n_waiting >= f->o.max_waiting)
		rc = ql_err_set(e, QL_EBUSY, "%u requests are waiting already", f->n_waiting);
	if (rc == QL_OK) {
		f->n_waiting++;
		*f->inbox_end = q;
		f->inbox_end = &q->next;
		(void)pthread_cond_signal(&f->wake);
	}
	(void)pthread_mutex_unlock(&f->lock);
	if (rc != QL_OK)
		ql_request_free(q);
	return rc;
}

/* The scheduler looks for the id among its own; here it is only noted in the inbox's requests or by the flag. */
void ql_infer_cancel(struct ql_infer *f, uint64_t id)
{
	(void)pthread_mutex_lock(&f->lock);
	for (struct request *q = f->inbox; q != NULL; q = q->next)
		if (q->r.id == id)
			q->cancelled = true;
	for (struct request *q = f->active; q != NULL; q = q->next)
		if (q->r.id == id)
			q->cancelled = true;
	f->cancel_seen = true;
	(void)pthread_cond_signal(&f->wake);
	(void)pthread_mutex_unlock(&f->lock);
}

void ql_infer_drop_adapter(struct ql_infer *f, const char *name)
{
	(void)pthread_mutex_lock(&f->lock);
	if (f->n_drops < DROPS_MAX)
		(void)strncpy(f->drops[f->n_drops++], name, sizeof f->drops[0] - 1);
	(void)pthread_cond_signal(&f->wake);
	(void)pthread_mutex_unlock(&f->lock);
}

void ql_infer_stop(struct ql_infer *f)
{
	(void)pthread_mutex_lock(&f->lock);
	f->stopping = true;
	(void)pthread_cond_signal(&f->wake);
	(void)pthread_mutex_unlock(&f->lock);
}

void ql_infer_stats(struct ql_infer *f, struct ql_infer_stats *out)
{
	(void)pthread_mutex_lock(&f->lock);
	*out = f->stats;
	out->waiting = f->n_waiting;
	(void)pthread_mutex_unlock(&f->lock);
}

void ql_infer_count_turn(struct ql_infer *f, uint32_t n)
{
	static const uint32_t bounds[QL_INFER_TURN_BUCKETS - 1] = {1,	2,    5,    10,	  20,	 50,	100,   200,
								   500, 1000, 2000, 5000, 10000, 20000, 50000, 100000};
	uint32_t i = 0;

	while (i < QL_INFER_TURN_BUCKETS - 1 && n > bounds[i])
		i++;
	(void)pthread_mutex_lock(&f->lock);
	f->stats.turns[i]++;
	f->stats.turn_tokens += n;
	(void)pthread_mutex_unlock(&f->lock);
}

uint32_t ql_infer_resident(struct ql_infer *f, char (*names)[256], uint32_t *users, uint32_t max)
{
	uint32_t n;

	(void)pthread_mutex_lock(&f->lock);
	n = f->n_resident < max ? f->n_resident : max;
	memcpy(names, f->resident, n * sizeof names[0]);
	memcpy(users, f->resident_users, n * sizeof users[0]);
	(void)pthread_mutex_unlock(&f->lock);
	return n;
}

static void add_wanted(const struct request *q, char (*names)[256], uint32_t *n, uint32_t max)
{
	if (q->r.adapter == NULL || q->n_admitted > 0 || *n == max)
		return;
	for (uint32_t i = 0; i < *n; i++)
		if (strcmp(names[i], q->adapter_ref.name) == 0)
			return;
	memcpy(names[(*n)++], q->adapter_ref.name, sizeof names[0]);
}

uint32_t ql_infer_wanted(struct ql_infer *f, char (*names)[256], uint32_t max)
{
	uint32_t n = 0;

	(void)pthread_mutex_lock(&f->lock);
	*f->inbox_end = NULL;
	for (const struct request *q = f->inbox; q != NULL; q = q->next)
		add_wanted(q, names, &n, max);
	for (const struct request *q = f->active; q != NULL; q = q->next)
		add_wanted(q, names, &n, max);
	(void)pthread_mutex_unlock(&f->lock);
	return n;
}

uint32_t ql_infer_context(const struct ql_infer *f) { return f->o.max_context; }

/* ---- the loop --------------------------------------------------------------------------------------------------------------------------- */

/* Takes what other threads left; waits while there is nothing to do.  False: stop. */
static bool collect(struct ql_infer *f)
{
	char drops[DROPS_MAX][256];
	uint32_t n_drops;
	bool go;

	(void)pthread_mutex_lock(&f->lock);
	f->stats.running = f->n_running;
	f->stats.blocks_held = ql_blocks_held(f->blocks);
	ql_adapters_moves(f->adapters, &f->stats.adapters_in, &f->stats.adapters_out);
	f->n_resident = ql_adapters_names(f->adapters, f->resident, f->resident_users, f->o.adapter_slots);
	while (!f->stopping && f->inbox == NULL && f->active == NULL && f->n_drops == 0)
		(void)pthread_cond_wait(&f->wake, &f->lock);
	*f->inbox_end = NULL;
	struct request **end = &f->active;

	while (*end != NULL)
		end = &(*end)->next;
	*end = f->inbox;
	f->inbox = NULL;
	f->inbox_end = &f->inbox;
	n_drops = f->n_drops;
	memcpy(drops, f->drops, n_drops * sizeof drops[0]);
	f->n_drops = 0;
	go = !f->stopping;
	(void)pthread_mutex_unlock(&f->lock);
	if (n_drops > 0) {
		ql_gate_enter(f->m->gate, QL_GATE_INFER);
		for (uint32_t i = 0; i < n_drops; i++)
			ql_adapters_drop(f->adapters, drops[i]);
		ql_gate_leave(f->m->gate, QL_GATE_INFER);
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
