/* row.c - the life of a request's data, and what one new token does to its row; see row.h. */
#include "core/infer/row.h"

#include <stdlib.h>
#include <string.h>

#define ECHO_PIECE 256 /* tokens of an echoed prompt in one event */

static bool copy_lists(struct request *q, const struct ql_infer_request *r)
{
	q->stop_tokens = calloc(r->n_stop_tokens + 1, sizeof *q->stop_tokens);
	q->stops = calloc(r->n_stop + 1, sizeof *q->stops);
	struct ql_bias *bias = calloc(r->sampling.n_bias + 1, sizeof *bias);

	q->sampling = r->sampling;
	q->sampling.bias = bias;
	if (q->stop_tokens == NULL || q->stops == NULL || bias == NULL)
		return false;
	if (r->n_stop_tokens > 0)
		memcpy(q->stop_tokens, r->stop_tokens, r->n_stop_tokens * sizeof *q->stop_tokens);
	if (r->sampling.n_bias > 0)
		memcpy(bias, r->sampling.bias, r->sampling.n_bias * sizeof *bias);
	for (uint32_t i = 0; i < r->n_stop; i++)
		if ((q->stops[i] = strdup(r->stop[i])) == NULL)
			return false;
	return true;
}

struct request *ql_request_new(const struct ql_infer_request *r, const struct ql_tok *tok)
{
	struct request *q = calloc(1, sizeof *q);

	if (q == NULL)
		return NULL;
	q->r = *r;
	if (r->adapter != NULL) {
		q->adapter_ref = *r->adapter;
		q->r.adapter = &q->adapter_ref;
	}
	q->rows = calloc(r->n, sizeof *q->rows);
	if (!copy_lists(q, r) || q->rows == NULL)
		goto fail;
	for (uint32_t i = 0; i < r->n; i++) {
		struct row *w = &q->rows[i];

		w->req = q;
		w->choice = i;
		w->n_tokens = r->n_prompt;
		w->tokens = malloc(((size_t)r->n_prompt + r->max_tokens + 1) * sizeof *w->tokens);
		if (w->tokens == NULL)
			goto fail;
		memcpy(w->tokens, r->prompt, (size_t)r->n_prompt * sizeof *w->tokens);
		ql_text_out_init(&w->text, tok, q->stops, r->n_stop);
	}
	q->r.prompt = NULL;
	return q;
fail:
	ql_request_free(q);
	return NULL;
}

void ql_request_free(struct request *q)
{
	if (q == NULL)
		return;
	for (uint32_t i = 0; q->rows != NULL && i < q->r.n; i++) {
		free(q->rows[i].tokens);
		free(q->rows[i].blocks);
		ql_text_out_free(&q->rows[i].text);
	}
	for (uint32_t i = 0; q->stops != NULL && i < q->r.n_stop; i++)
		free(q->stops[i]);
	free(q->stops);
	free(q->stop_tokens);
	free((void *)(uintptr_t)q->sampling.bias);
	free(q->rows);
	free(q);
}

static bool is_stop(const struct request *q, const struct ql_tok *tok, int32_t token)
{
	for (uint32_t i = 0; i < q->r.n_stop_tokens; i++)
		if (q->stop_tokens[i] == token)
			return true;
	return !q->r.ignore_eos && ql_tok_is_stop(tok, token);
}

static void give(struct row *w, size_t ready, const struct ql_token_info *info, uint32_t n)
{
	const struct ql_infer_request *r = &w->req->r;

	if (ready == 0 && (info == NULL || r->logprobs < 0))
		return;
	r->events.delta(r->ctx, w->choice, ready > 0 ? w->text.pending.data : "", ready, info, n);
	if (ready > 0)
		ql_text_out_taken(&w->text, ready);
}

bool ql_row_take(struct row *w, const struct ql_tok *tok, int32_t token, const struct ql_token_info *info, enum ql_finish *reason,
		 struct ql_err *e)
{
	struct request *q = w->req;
	size_t ready;
	bool hit;

	q->completion_tokens++;
	w->tokens[w->n_tokens++] = token;
	if (is_stop(q, tok, token)) {
		(void)ql_text_out_finish(&w->text, &ready, e);
		give(w, ready, NULL, 0);
		*reason = QL_FINISH_STOP;
		return true;
	}
	if (ql_text_out_push(&w->text, token, w->n_tokens - q->r.n_prompt > q->r.min_tokens, &ready, &hit, e) != QL_OK)
		hit = true;
	give(w, ready, info, 1);
	if (hit) {
		*reason = QL_FINISH_STOP;
		return true;
	}
	if (w->n_tokens - q->r.n_prompt < q->r.max_tokens)
		return false;
	(void)ql_text_out_finish(&w->text, &ready, e);
	give(w, ready, NULL, 0);
	*reason = QL_FINISH_LENGTH;
	return true;
}

/* In pieces: with logprobs an event for a whole long prompt would be too large for a frame.  Ids beyond the tokenizer have no text. */
int ql_row_echo(struct row *w, const struct ql_tok *tok, const struct ql_token_info *infos, struct ql_err *e)
{
	const struct ql_infer_request *r = &w->req->r;
	struct ql_buf text = {0};
	struct ql_detok d;
	int rc = QL_OK;

	ql_detok_init(&d, tok, true);
	for (uint32_t i = 0, begin = 0; rc == QL_OK && i < r->n_prompt; begin = i) {
		ql_buf_reset(&text);
		for (; rc == QL_OK && i < r->n_prompt && i - begin < ECHO_PIECE; i++)
			if (w->tokens[i] < ql_tok_vocab_size(tok))
				rc = ql_detok_push(&d, w->tokens[i], &text, e);
		if (rc == QL_OK && i == r->n_prompt && ql_detok_finish(&d, &text) != QL_OK)
			rc = ql_err_set(e, QL_ENOMEM, "text of the prompt");
		if (rc == QL_OK)
			r->events.delta(r->ctx, w->choice, text.len > 0 ? text.data : "", text.len, infos != NULL ? infos + begin : NULL,
					infos != NULL ? i - begin : 0);
	}
	ql_buf_free(&text);
	return rc;
}
