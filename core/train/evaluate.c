/* evaluate.c - validation during a run, early stopping by it, and the records of steps; see run.h. */
#include <math.h>
#include <stdint.h>

#include "core/train/run.h"

void ql_run_tally(const struct run *r, const struct ql_batch *b, double *nll, uint64_t *correct)
{
	for (uint32_t i = 0; i < b->n_targets; i++) {
		*nll += (double)r->nll[i];
		*correct += r->argmax[i] == b->labels[i];
	}
}

/* Loss and accuracy over the first n validation examples: ΣNLL/ΣN, no gradients, no random numbers. */
static int evaluate(struct run *r, size_t n, double *loss, double *accuracy, struct ql_err *e)
{
	size_t count = ql_dataset_count(r->job->valid), step = r->job->recipe.batch_size;
	double nll = 0;
	uint64_t correct = 0, targets = 0;
	int rc = QL_OK;

	if (n > count)
		n = count;
	for (size_t at = 0; rc == QL_OK && at < n; at += step) {
		rc = ql_plan_range(&r->valid_plan, at, n - at < step ? n - at : step, &r->batches, e);
		for (uint32_t i = 0; rc == QL_OK && i < r->batches.n_micro; i++) {
			rc = ql_pass_run(r->pass, &r->batches.micro[i], r->lora, NULL, 0, false, r->nll, r->argmax, e);
			if (rc == QL_OK)
				ql_run_tally(r, &r->batches.micro[i], &nll, &correct);
			if (rc == QL_OK && ql_run_asked_to_stop(r) == QL_TRAIN_CANCEL)
				rc = ql_err_set(e, QL_ECANCELLED, "cancelled");
		}
		targets += r->batches.n_targets;
	}
	*loss = nll / (double)(targets > 0 ? targets : 1);
	*accuracy = (double)correct / (double)(targets > 0 ? targets : 1);
	return rc;
}

/* Early stopping counts evaluations that are not better than the best by more than min_delta (transformers' EarlyStoppingCallback).
 * A loss that is no number is not better, and never the best. */
static void judge(struct run *r, double loss)
{
	struct ql_train_state *s = &r->st;

	if (isfinite(loss) && (!s->has_best || loss < s->best - r->job->recipe.min_delta))
		s->stale = 0;
	else
		s->stale++;
	if (isfinite(loss) && (!s->has_best || loss < s->best)) {
		s->best = loss;
		s->has_best = true;
	}
}

bool ql_run_is_stale(const struct run *r) { return r->job->recipe.patience > 0 && r->st.stale >= r->job->recipe.patience; }

int ql_run_validate(struct run *r, struct ql_train_metrics *t, struct ql_err *e)
{
	const struct ql_recipe *c = &r->job->recipe;
	bool due = c->eval_steps > 0 && r->st.step % c->eval_steps == 0;
	bool full = r->st.step % r->plan.steps_per_epoch == 0 || r->st.step == r->total_steps || (due && c->patience > 0);
	int rc = QL_OK;

	if (r->job->valid == NULL)
		return QL_OK;
	if (due && c->patience == 0) {
		r->job->events.phase(r->job->events.ctx, "evaluating");
		rc = evaluate(r, c->batch_size, &t->valid_loss, &t->valid_accuracy, e);
		t->has_valid = true;
	}
	if (rc == QL_OK && full) {
		r->job->events.phase(r->job->events.ctx, "evaluating");
		rc = evaluate(r, SIZE_MAX, &t->full_valid_loss, &t->full_valid_accuracy, e);
		t->has_full_valid = true;
		if (rc == QL_OK)
			judge(r, t->full_valid_loss);
	}
	if (t->has_valid || t->has_full_valid)
		r->job->events.phase(r->job->events.ctx, "training");
	return rc;
}

static json_t *metrics_json(const struct ql_train_metrics *t)
{
	json_t *o = json_pack("{s:I, s:f, s:f}", "step", (json_int_t)t->step, "train_loss", t->loss, "train_mean_token_accuracy",
			      t->accuracy);

	if (o != NULL && t->has_valid) {
		(void)json_object_set_new(o, "valid_loss", json_real(t->valid_loss));
		(void)json_object_set_new(o, "valid_mean_token_accuracy", json_real(t->valid_accuracy));
	}
	if (o != NULL && t->has_full_valid) {
		(void)json_object_set_new(o, "full_valid_loss", json_real(t->full_valid_loss));
		(void)json_object_set_new(o, "full_valid_mean_token_accuracy", json_real(t->full_valid_accuracy));
	}
	return o;
}

int ql_run_record(struct run *r, const struct ql_train_metrics *t, struct ql_err *e)
{
	struct ql_buf *b = &r->st.csv;
	bool valid = t->has_valid || t->has_full_valid;
	int rc = ql_buf_addf(b, "%llu,%.9g,%.9g,", (unsigned long long)t->step, t->loss, t->accuracy);

	if (rc == QL_OK && valid)
		rc = ql_buf_addf(b, "%.9g,%.9g\n", t->has_full_valid ? t->full_valid_loss : t->valid_loss,
				 t->has_full_valid ? t->full_valid_accuracy : t->valid_accuracy);
	else if (rc == QL_OK)
		rc = ql_buf_adds(b, ",\n");
	json_decref(r->st.last);
	r->st.last = metrics_json(t);
	if (rc != QL_OK || r->st.last == NULL)
		return ql_err_set(e, QL_ENOMEM, "metrics");
	return QL_OK;
}
