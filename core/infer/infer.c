/* infer.c - the scheduler's loop; see infer.h. */
#include "core/infer/infer.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/infer/row.h"

#define DROPS_MAX 64

struct ql_infer {
	struct ql_model *m;
	const struct ql_tok *tok;
	struct ql_infer_opts o;
	struct ql_kv kv;
	struct ql_step *step;
	struct ql_blocks *blocks;
	struct ql_adapters *adapters;
	struct ql_sampler *sampler;
	uint32_t max_blocks, vocab;
	float *logits, *row_logits; /* host: [max_chunk or max_rows, vocab], [vocab] */
	struct ql_alt *alts;
	int32_t *ints; /* inputs of a step */
	struct row **running;
	uint32_t n_running;
	struct request *active; /* admitted or waiting, in order of arrival; changed by the scheduler's thread under lock */

	pthread_mutex_t lock; /* the rest */
	pthread_cond_t wake;
	struct request *inbox, **inbox_end;
	uint32_t n_waiting;
	bool stopping, cancel_seen;
	char drops[DROPS_MAX][256];
	uint32_t n_drops;
	struct ql_infer_stats stats;
};

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

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
	f->ints = malloc((4 * (size_t)T + 2 * (size_t)f->o.max_rows + 2 + (size_t)f->o.max_rows * f->max_blocks) * sizeof *f->ints);
	if (f->logits == NULL || f->row_logits == NULL || f->alts == NULL || f->running == NULL || f->ints == NULL)
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
	f->n_waiting--;
	(void)pthread_mutex_unlock(&f->lock);
	if (q->adapter != NULL) {
		ql_gate_enter(f->m->gate, QL_GATE_INFER); /* a dropped adapter is freed by its last user */
		ql_adapters_leave(f->adapters, q->adapter);
		ql_gate_leave(f->m->gate, QL_GATE_INFER);
	}
	ql_request_free(q);
}

static void fail_request(struct ql_infer *f, struct request *q, const struct ql_err *e)
{
	for (uint32_t i = 0; i < q->r.n; i++)
		if (q->rows[i].state == ROW_PREFILL || q->rows[i].state == ROW_DECODE)
			release_row(f, &q->rows[i]);
	q->r.events.error(q->r.ctx, e);
	unlink_request(f, q);
}

static void end_row(struct ql_infer *f, struct row *w, enum ql_finish reason)
{
	struct request *q = w->req;

	q->r.events.finish(q->r.ctx, w->choice, reason);
	release_row(f, w);
	if (q->n_ended < q->r.n)
		return;
	q->r.events.done(q->r.ctx, q->r.n_prompt, q->completion_tokens, q->cached_tokens);
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
		fail_request(f, f->active, &e);
	ql_step_free(f->step);
	ql_adapters_free(f->adapters);
	ql_blocks_free(f->blocks);
	ql_kv_free(&f->kv, f->m);
	ql_sampler_free(f->sampler);
	(void)pthread_mutex_destroy(&f->lock);
	(void)pthread_cond_destroy(&f->wake);
	free(f->logits);
	free(f->row_logits);
	free(f->alts);
	free(f->running);
	free(f->ints);
	free(f);
}

/* ---- from other threads --------------------------------------------------------------------------------------------------------- */

int ql_infer_submit(struct ql_infer *f, const struct ql_infer_request *r, struct ql_err *e)
{
	struct request *q;
	int rc = QL_OK;

	if (r->n_prompt == 0)
		return ql_err_param(e, QL_EINVAL, "prompt", "the prompt is empty");
	if (r->n_prompt >= f->o.max_context)
		return ql_err_param(e, QL_ELIMIT, "messages", "the prompt has %u tokens, the context holds %u", r->n_prompt,
				    f->o.max_context);
	if (r->n == 0 || r->n > QL_INFER_N_MAX)
		return ql_err_param(e, QL_EINVAL, "n", "'n' must be between 1 and %d", QL_INFER_N_MAX);
	q = ql_request_new(r, f->tok);
	if (q == NULL)
		return ql_err_set(e, QL_ENOMEM, "request");
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
	out->waiting = f->n_waiting > out->running ? f->n_waiting - out->running : 0;
	(void)pthread_mutex_unlock(&f->lock);
}

uint32_t ql_infer_context(const struct ql_infer *f) { return f->o.max_context; }

/* ---- admission --------------------------------------------------------------------------------------------------------------------- */

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
	w->req->cached_tokens += w->n_cached;
	return true;
}

/* Admits the first waiting row if rows, blocks and adapter slots allow. */
static void admit(struct ql_infer *f)
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
				fail_request(f, q, &e);
				continue;
			}
		}
		w = &q->rows[q->n_admitted];
		if (!take_blocks(f, w))
			return; /* in order: nobody overtakes */
		q->n_admitted++;
		w->state = ROW_PREFILL;
		f->running[f->n_running++] = w;
		return;
	}
}

/* ---- steps ---------------------------------------------------------------------------------------------------------------------------- */

/* Makes full blocks findable once their tokens are cached. */
static void publish(struct ql_infer *f, struct row *w)
{
	while ((w->n_keyed + 1) * QL_KV_BLOCK <= w->n_cached) {
		ql_block_key_next(&w->key, &w->key, w->tokens + (size_t)w->n_keyed * QL_KV_BLOCK, QL_KV_BLOCK);
		ql_blocks_publish(f->blocks, w->blocks[w->n_keyed], &w->key);
		w->n_keyed++;
	}
}

static int32_t slot_of(const struct row *w, uint32_t t) { return w->blocks[t / QL_KV_BLOCK] * QL_KV_BLOCK + (int32_t)(t % QL_KV_BLOCK); }

/* Does the largest logit, as the device finds it, say everything this row needs? */
static bool needs_logits(const struct row *w)
{
	const struct request *q = w->req;
	const struct ql_sampling *p = &q->sampling;

	return q->r.logprobs >= 0 || (p->temperature > 0 && p->top_p > 0) || p->n_bias > 0 || p->repetition_penalty != 1.0 ||
	       p->presence_penalty != 0 || p->frequency_penalty != 0 || w->n_tokens - q->r.n_prompt < q->r.min_tokens;
}

/* Chooses the next token of a row from its logits, or takes `best` where logits is NULL, and lets it take effect. */
static void choose(struct ql_infer *f, struct row *w, const float *logits, int32_t best)
{
	struct request *q = w->req;
	struct ql_token_info info = {.token = best};
	enum ql_finish reason;
	struct ql_err e = {0};
	int32_t barred[QL_EOS_MAX + 32];
	size_t n_barred = 0;

	if (q->r.max_tokens == 0) {
		end_row(f, w, QL_FINISH_LENGTH);
		return;
	}
	if (logits == NULL) {
		if (ql_row_take(w, f->tok, best, NULL, &reason, &e))
			end_row(f, w, reason);
		return;
	}
	if (w->n_tokens - q->r.n_prompt < q->r.min_tokens) {
		for (int i = 0; i < f->m->arch.n_eos; i++)
			barred[n_barred++] = f->m->arch.eos_ids[i];
		for (uint32_t i = 0; i < q->r.n_stop_tokens && n_barred < sizeof barred / sizeof *barred - 2; i++)
			barred[n_barred++] = q->stop_tokens[i];
		if (ql_tok_eot(f->tok) >= 0)
			barred[n_barred++] = ql_tok_eot(f->tok);
		if (ql_tok_eos(f->tok) >= 0)
			barred[n_barred++] = ql_tok_eos(f->tok);
	}
	memcpy(f->row_logits, logits, (size_t)f->vocab * sizeof *logits);
	info.token = ql_sample(f->sampler, f->row_logits, &q->sampling, w->tokens, q->r.n_prompt, w->n_tokens, barred, n_barred,
			       w->choice);
	if (q->r.logprobs >= 0) {
		info.top = f->alts;
		info.n_top = (uint32_t)q->r.logprobs;
		info.logprob = ql_logprob(logits, f->vocab, info.token, f->alts, info.n_top);
	}
	if (ql_row_take(w, f->tok, info.token, q->r.logprobs >= 0 ? &info : NULL, &reason, &e))
		end_row(f, w, reason);
}

static struct ql_step_in inputs(struct ql_infer *f, uint32_t n_tokens, uint32_t n_seqs, int32_t **ids, int32_t **positions,
				int32_t **slots, int32_t **row_slot, int32_t **q_begin, int32_t **kv_len, int32_t **table)
{
	*ids = f->ints;
	*positions = *ids + n_tokens;
	*slots = *positions + n_tokens;
	*row_slot = *slots + n_tokens;
	*q_begin = *row_slot + n_tokens;
	*kv_len = *q_begin + n_seqs + 1;
	*table = *kv_len + n_seqs;
	return (struct ql_step_in){.n_tokens = n_tokens, .n_seqs = n_seqs, .ids = *ids, .positions = *positions, .slots = *slots,
				   .q_begin = *q_begin, .kv_len = *kv_len, .block_table = *table};
}

static void copy_table(const struct ql_infer *f, const struct row *w, int32_t *to)
{
	memset(to, 0, f->max_blocks * sizeof *to);
	memcpy(to, w->blocks, min_u32(w->n_blocks, f->max_blocks) * sizeof *to);
}

/* Log-probabilities of an echoed prompt, collected over its chunks. */
struct echo {
	struct ql_token_info *infos;
	struct ql_alt *alts;
};

static int prefill_chunk(struct ql_infer *f, struct row *w, struct echo *echo, struct ql_err *e)
{
	int32_t *ids, *positions, *slots, *row_slot, *q_begin, *kv_len, *table;
	const struct request *q = w->req;
	uint32_t left = q->r.n_prompt - w->n_cached, n = min_u32(left, echo != NULL ? 64 : f->o.max_chunk);
	struct ql_step_in in = inputs(f, n, 1, &ids, &positions, &slots, &row_slot, &q_begin, &kv_len, &table);
	int rc;

	for (uint32_t i = 0; i < n; i++) {
		ids[i] = w->tokens[w->n_cached + i];
		positions[i] = (int32_t)(w->n_cached + i);
		slots[i] = slot_of(w, w->n_cached + i);
	}
	q_begin[0] = 0;
	q_begin[1] = (int32_t)n;
	kv_len[0] = (int32_t)(w->n_cached + n);
	copy_table(f, w, table);
	in.lora = q->adapter != NULL ? q->adapter->lora : NULL;
	in.logits_begin = echo != NULL ? 0 : n - 1;
	in.logits_count = echo != NULL ? n : n == left;
	ql_gate_enter(f->m->gate, QL_GATE_INFER);
	rc = ql_step_run(f->step, &in, f->logits, e);
	ql_gate_leave(f->m->gate, QL_GATE_INFER);
	if (rc != QL_OK)
		return rc;
	for (uint32_t i = 0; echo != NULL && i < n; i++) {
		uint32_t t = w->n_cached + i + 1, k = (uint32_t)q->r.logprobs;

		if (t >= q->r.n_prompt)
			break;
		echo->infos[t] = (struct ql_token_info){.token = w->tokens[t], .top = echo->alts + (size_t)t * k, .n_top = k};
		echo->infos[t].logprob = ql_logprob(f->logits + (size_t)i * f->vocab, f->vocab, w->tokens[t], echo->infos[t].top, k);
	}
	if (n == left && echo != NULL)
		memmove(f->logits, f->logits + (size_t)(n - 1) * f->vocab, (size_t)f->vocab * sizeof *f->logits);
	w->n_cached += n;
	publish(f, w);
	return QL_OK;
}

static int echo_prompt(struct ql_infer *f, struct row *w, struct ql_err *e)
{
	const struct ql_infer_request *r = &w->req->r;
	struct echo echo = {calloc(r->n_prompt, sizeof *echo.infos),
			    calloc((size_t)r->n_prompt * (size_t)(r->logprobs + 1), sizeof *echo.alts)};
	int rc = echo.infos == NULL || echo.alts == NULL ? ql_err_set(e, QL_ENOMEM, "echo") : QL_OK;

	if (rc == QL_OK)
		echo.infos[0] = (struct ql_token_info){.token = w->tokens[0], .logprob = NAN};
	while (rc == QL_OK && w->n_cached < r->n_prompt)
		rc = prefill_chunk(f, w, &echo, e);
	if (rc == QL_OK)
		rc = ql_row_echo(w, f->tok, echo.infos, e);
	free(echo.infos);
	free(echo.alts);
	return rc;
}

static int prefill(struct ql_infer *f, struct row *w, struct ql_err *e)
{
	const struct ql_infer_request *r = &w->req->r;
	int rc = r->echo && r->logprobs >= 0 ? echo_prompt(f, w, e) : prefill_chunk(f, w, NULL, e);

	if (rc != QL_OK || w->n_cached < r->n_prompt)
		return rc;
	w->state = ROW_DECODE;
	if (r->echo && r->logprobs < 0)
		rc = ql_row_echo(w, f->tok, NULL, e);
	if (rc == QL_OK)
		choose(f, w, f->logits, -1);
	return rc;
}

static int decode(struct ql_infer *f, struct ql_err *e)
{
	int32_t *ids, *positions, *slots, *row_slot, *q_begin, *kv_len, *table;
	struct row *rows[QL_INFER_ROWS_MAX];
	int32_t best[QL_INFER_ROWS_MAX];
	bool wanted[QL_INFER_ROWS_MAX];
	uint32_t n = 0;
	struct ql_step_in in;
	int rc;

	for (uint32_t i = 0; i < f->n_running; i++)
		if (f->running[i]->state == ROW_DECODE)
			rows[n++] = f->running[i];
	if (n == 0)
		return QL_OK;
	in = inputs(f, n, n, &ids, &positions, &slots, &row_slot, &q_begin, &kv_len, &table);
	in.row_slot = row_slot;
	in.logits_count = n;
	for (uint32_t i = 0; i < n; i++) {
		struct row *w = rows[i];

		ids[i] = w->tokens[w->n_cached];
		positions[i] = (int32_t)w->n_cached;
		slots[i] = slot_of(w, w->n_cached);
		row_slot[i] = w->req->adapter != NULL ? w->req->adapter->slot : -1;
		in.any_adapter |= row_slot[i] >= 0;
		q_begin[i] = (int32_t)i;
		kv_len[i] = (int32_t)(w->n_cached + 1);
		copy_table(f, w, table + (size_t)i * f->max_blocks);
		wanted[i] = needs_logits(w);
	}
	q_begin[n] = (int32_t)n;
	ql_gate_enter(f->m->gate, QL_GATE_INFER);
	rc = ql_step_run_argmax(f->step, &in, best, wanted, f->logits, e);
	ql_gate_leave(f->m->gate, QL_GATE_INFER);
	for (uint32_t i = 0; rc == QL_OK && i < n; i++) {
		rows[i]->n_cached++;
		publish(f, rows[i]);
		choose(f, rows[i], wanted[i] ? f->logits + (size_t)i * f->vocab : NULL, best[i]);
	}
	return rc;
}

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
			fail_request(f, q, &e);
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
			admit(f);
		w = in_prefill(f);
		if (w != NULL)
			rc = prefill(f, w, e);
		if (rc == QL_OK)
			rc = decode(f, e);
	}
	if (rc != QL_OK)
		while (f->active != NULL)
			fail_request(f, f->active, e);
	return rc;
}
