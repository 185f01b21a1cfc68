/* ask.c - what other threads ask of the scheduler: requests and their cancelling, adapters to drop, stopping, figures; see infer.h.  All of
 * it is noted under the lock; the scheduler takes it up at its next turn (infer.c). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/infer/sched.h"

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
	(void)pthread_cond_signal(&f->wake);
	(void)pthread_mutex_unlock(&f->lock);
}

void ql_infer_drop_adapter(struct ql_infer *f, const char *name)
{
	struct drop *d = calloc(1, sizeof *d);

	if (d == NULL)
		return; /* it leaves the device when its place is needed */
	(void)snprintf(d->name, sizeof d->name, "%s", name);
	(void)pthread_mutex_lock(&f->lock);
	d->next = f->drops;
	f->drops = d;
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
