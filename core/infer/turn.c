/* turn.c - what the scheduler runs on the device: a chunk of a prompt, a decode step for all rows; and the choice of tokens. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/infer/sched.h"

static uint32_t min_u32(uint32_t a, uint32_t b) { return a < b ? a : b; }

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
	int32_t barred[QL_EOS_MAX + QL_INFER_STOP_TOKENS_MAX + 2];
	size_t n_barred = 0;

	if (q->r.max_tokens == 0) {
		ql_infer_end_row(f, w, QL_FINISH_LENGTH);
		return;
	}
	if (logits == NULL) {
		if (ql_row_take(w, f->tok, best, NULL, &reason, &e))
			ql_infer_end_row(f, w, reason);
		return;
	}
	if (w->n_tokens - q->r.n_prompt < q->r.min_tokens) {
		for (int i = 0; i < f->m->arch.n_eos; i++)
			barred[n_barred++] = f->m->arch.eos_ids[i];
		for (uint32_t i = 0; i < q->r.n_stop_tokens; i++)
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
		ql_infer_end_row(f, w, reason);
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

/* Prompt tokens in one turn: smaller pieces while other rows wait for their next token. */
static uint32_t chunk_size(const struct ql_infer *f)
{
	for (uint32_t i = 0; i < f->n_running; i++)
		if (f->running[i]->state == ROW_DECODE)
			return min_u32(f->o.max_chunk, 512);
	return f->o.max_chunk;
}

static int prefill_chunk(struct ql_infer *f, struct row *w, struct echo *echo, struct ql_err *e)
{
	int32_t *ids, *positions, *slots, *row_slot, *q_begin, *kv_len, *table;
	const struct request *q = w->req;
	uint32_t left = q->r.n_prompt - w->n_cached, n = min_u32(left, echo != NULL ? min_u32(f->o.max_chunk, 64) : chunk_size(f));
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
	ql_infer_count_turn(f, n);
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

int ql_infer_prefill(struct ql_infer *f, struct row *w, struct ql_err *e)
{
	const struct ql_infer_request *r = &w->req->r;
	int rc = r->echo && r->logprobs >= 0 ? echo_prompt(f, w, e) : prefill_chunk(f, w, NULL, e);

	if (rc == QL_OK && w->n_cached < r->n_prompt)
		return QL_OK;
	if (rc == QL_OK && r->echo && r->logprobs < 0)
		rc = ql_row_echo(w, f->tok, NULL, e);
	if (rc == QL_ENOMEM) { /* of this request's own; the others go on */
		ql_infer_fail(f, w->req, e);
		return QL_OK;
	}
	if (rc != QL_OK)
		return rc;
	w->state = ROW_DECODE;
	if (w->choice == 0)
		w->req->t_prompt = ql_infer_now();
	choose(f, w, f->logits, -1);
	return QL_OK;
}

int ql_infer_decode(struct ql_infer *f, struct ql_err *e)
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
	ql_infer_count_turn(f, n);
	for (uint32_t i = 0; rc == QL_OK && i < n; i++) {
		rows[i]->n_cached++;
		publish(f, rows[i]);
		choose(f, rows[i], wanted[i] ? f->logits + (size_t)i * f->vocab : NULL, best[i]);
	}
	return rc;
}
