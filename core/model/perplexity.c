/* perplexity.c - windows of a text through the forward pass; see perplexity.h. */
#include "core/model/perplexity.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/model/pass.h"

struct run {
	struct ql_pass *pass;
	int32_t *ids, *positions, *rows, *labels; /* one window */
	float *nll;
};

static void release(struct run *w)
{
	ql_pass_free(w->pass);
	free(w->ids);
	free(w->nll);
	*w = (struct run){0};
}

static int prepare(struct run *w, struct ql_model *m, const struct ql_perplexity_opts *o, struct ql_err *e)
{
	static const uint32_t none[QL_GROUPS] = {0};
	uint32_t n = o->context;

	*w = (struct run){.ids = calloc(n, 4 * sizeof *w->ids), .nll = calloc(n, sizeof *w->nll)};
	if (w->ids == NULL || w->nll == NULL)
		return ql_err_set(e, QL_ENOMEM, "a window of %u tokens", n);
	w->positions = w->ids + n;
	w->rows = w->positions + n;
	w->labels = w->rows + n;
	for (uint32_t i = 0; i < n; i++)
		w->positions[i] = (int32_t)i;
	return ql_pass_new(&w->pass, m, o->lora != NULL ? o->lora->group_rank : none, n, QL_KEEP_INPUT, false, e);
}

static int window(struct run *w, struct ql_model *m, const int32_t *ids, const struct ql_perplexity_opts *o,
		  struct ql_perplexity *r, struct ql_err *e)
{
	uint32_t n = o->context, first = n / 2, count = n - 1 - first;
	const int32_t cu[2] = {0, (int32_t)n};
	struct ql_batch b = {.n_tokens = n, .n_seqs = 1, .n_targets = count, .ids = w->ids, .positions = w->positions,
			     .cu_seqlens = cu, .rows = w->rows, .labels = w->labels};
	int rc;

	memcpy(w->ids, ids, n * sizeof *ids);
	if (o->bos >= 0)
		w->ids[0] = o->bos;
	for (uint32_t i = 0; i < count; i++) {
		w->rows[i] = (int32_t)(first + i);
		w->labels[i] = w->ids[first + i + 1];
	}
	ql_gate_enter(m->gate, QL_GATE_TRAIN);
	rc = ql_pass_run(w->pass, &b, o->lora, NULL, 1.0f, false, w->nll, NULL, e);
	ql_gate_leave(m->gate, QL_GATE_TRAIN);
	for (uint32_t i = 0; rc == QL_OK && i < count; i++) {
		r->nll += (double)w->nll[i];
		r->nll2 += (double)w->nll[i] * (double)w->nll[i];
	}
	r->scored += rc == QL_OK ? count : 0;
	r->windows += rc == QL_OK;
	return rc;
}

static void sum_up(struct ql_perplexity *r)
{
	double n = (double)r->scored, mean = r->nll / n, var = r->nll2 / n - mean * mean;

	r->perplexity = exp(mean);
	r->std_error = r->scored > 1 && var > 0 ? r->perplexity * sqrt(var / (n - 1)) : 0;
}

int ql_perplexity_run(struct ql_model *m, const int32_t *ids, size_t n, const struct ql_perplexity_opts *o,
		      struct ql_perplexity *r, struct ql_err *e)
{
	uint64_t windows;
	struct run w;
	int rc;

	*r = (struct ql_perplexity){0};
	if (o->context < 4 || o->context > m->arch.max_position_embeddings)
		return ql_err_param(e, QL_EINVAL, "context", "a context of %u tokens; 4 to %u are possible", o->context,
				    m->arch.max_position_embeddings);
	windows = n / o->context;
	if (windows == 0)
		return ql_err_param(e, QL_EINVAL, "text", "the text has %zu tokens, fewer than one window of %u", n, o->context);
	if (o->max_windows > 0 && windows > o->max_windows)
		windows = o->max_windows;
	rc = prepare(&w, m, o, e);
	for (uint64_t i = 0; rc == QL_OK && i < windows; i++) {
		rc = window(&w, m, ids + i * o->context, o, r, e);
		if (rc != QL_OK)
			break;
		sum_up(r);
		if (!isfinite(r->perplexity))
			rc = ql_err_set(e, QL_ENONFINITE, "window %llu: the perplexity is not finite", (unsigned long long)i);
		else if (o->progress != NULL && o->progress(o->progress_ctx, i + 1, windows, r->perplexity) != 0)
			rc = ql_err_set(e, QL_ECANCELLED, "cancelled");
	}
	release(&w);
	return rc;
}
