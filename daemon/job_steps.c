/* job_steps.c - frame `step`: what is shown at once is kept in memory; the events wait up to QL_FLUSH_MS and are written
 * together, one transaction a job. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"

#define FLUSH_AGAIN_MS 2000 /* after a failure */

/* Metrics a step may bring, in the order of api.md §6.1. */
static const char *const metric_keys[] = {"train_loss",	     "train_mean_token_accuracy", "valid_loss",		"valid_mean_token_accuracy",
					  "full_valid_loss", "full_valid_mean_token_accuracy", "learning_rate", "grad_norm", "tokens"};

static json_t *progress_json(const json_t *f, const json_t *m)
{
	static const char *const from_metrics[] = {"train_loss", "learning_rate", "grad_norm"};
	static const char *const from_frame[][2] = {{"step", "step"},	   {"total_steps", "total_steps"}, {"epoch", "epoch"},
						    {"tokens_per_second", "tokens_per_second"}, {"seconds", "seconds_per_step"},
						    {"eta_seconds", "eta_seconds"}};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof from_frame / sizeof from_frame[0]; i++)
		if (json_is_number(json_object_get(f, from_frame[i][0])))
			(void)json_object_set(o, from_frame[i][1], json_object_get(f, from_frame[i][0]));
	for (size_t i = 0; i < 3; i++)
		if (json_is_number(json_object_get(m, from_metrics[i])))
			(void)json_object_set(o, from_metrics[i], json_object_get(m, from_metrics[i]));
	return o;
}

static json_t *event_data(const json_t *f, const json_t *m, int64_t step, int64_t total)
{
	json_t *o = json_pack("{s:I,s:I}", "step", (json_int_t)step, "total_steps", (json_int_t)total);

	for (size_t i = 0; i < sizeof metric_keys / sizeof metric_keys[0]; i++)
		if (json_is_number(json_object_get(m, metric_keys[i])))
			(void)json_object_set(o, metric_keys[i], json_object_get(m, metric_keys[i]));
	if (json_is_number(json_object_get(f, "epoch")))
		(void)json_object_set(o, "epoch", json_object_get(f, "epoch"));
	return o;
}

static void step_metrics(struct ql_control *ctl, struct ql_live *l, const json_t *m, double seconds)
{
	static const struct {
		const char *key;
		enum ql_metric id;
	} gauges[] = {{"train_loss", QLM_JOB_TRAIN_LOSS}, {"learning_rate", QLM_JOB_LEARNING_RATE}, {"grad_norm", QLM_JOB_GRAD_NORM}};
	char labels[96];

	ql_metrics_labels(labels, sizeof labels, "job", l->id, (char *)NULL);
	ql_metrics_set(ctl->metrics, QLM_JOB_STEP, labels, (double)l->step);
	ql_metrics_set(ctl->metrics, QLM_JOB_TOTAL_STEPS, labels, (double)l->total_steps);
	for (size_t i = 0; i < 3; i++)
		if (json_is_number(json_object_get(m, gauges[i].key)))
			ql_metrics_set(ctl->metrics, gauges[i].id, labels, json_number_value(json_object_get(m, gauges[i].key)));
	if (seconds > 0)
		ql_metrics_observe(ctl->metrics, QLM_JOB_STEP_SECONDS, "", seconds);
}

static void on_flush(uv_timer_t *t);

static void arm(struct ql_control *ctl, uint64_t ms)
{
	if (ctl->jobs->flush_armed)
		return;
	ctl->jobs->flush_armed = true;
	(void)uv_timer_start(&ctl->jobs->flush, on_flush, ms, 0);
}

static void on_flush(uv_timer_t *t)
{
	struct ql_control *ctl = t->data;
	struct ql_err e = {0};

	ctl->jobs->flush_armed = false;
	if (ql_jobs_flush(ctl, &e) == QL_OK)
		return;
	ql_log(QL_LOG_WARN, "jobs", "events wait to be stored: %s", e.message);
	arm(ctl, FLUSH_AGAIN_MS);
}

int ql_job_on_step(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const json_t *m = json_object_get(f, "metrics");
	int64_t step = 0, total = 0;
	double seconds = 0, eta = -1, v = 0;
	bool logged = false;
	int rc;

	if ((rc = ql_json_get_int(f, "step", 1, INT32_MAX, &step, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "total_steps", 1, INT32_MAX, &total, e)) != QL_OK ||
	    (rc = ql_json_get_num(f, "seconds", 0, 1e9, &seconds, e)) != QL_OK ||
	    (rc = ql_json_get_num(f, "eta_seconds", -1e12, 1e12, &eta, e)) != QL_OK || (rc = ql_json_get_bool(f, "log", &logged, e)) != QL_OK)
		return rc;
	for (size_t i = 0; i < sizeof metric_keys / sizeof metric_keys[0]; i++)
		if ((rc = ql_json_get_num(m, metric_keys[i], -1e300, 1e300, &v, e)) != QL_OK)
			return rc;
	if (step < 1 || step > total)
		return ql_err_set(e, QL_EFORMAT, "step %lld of %lld", (long long)step, (long long)total);
	l->step = step;
	l->total_steps = total;
	l->eta_seconds = eta;
	l->step_seconds[l->n_step_seconds++ % 16] = seconds;
	l->phase = "training";
	json_decref(l->progress);
	l->progress = progress_json(f, m);
	l->tick++;
	ctl->jobs->tick++;
	step_metrics(ctl, l, m, seconds);
	if (logged) {
		if (l->pending == NULL)
			l->pending = json_array();
		if (json_array_size(l->pending) >= QL_JOB_METRICS_MAX) /* nothing could be stored for long */
			(void)json_array_remove(l->pending, 0);
		(void)json_array_append_new(l->pending, event_data(f, m, step, total));
	}
	arm(ctl, QL_FLUSH_MS);
	return QL_OK;
}

static int put_step(struct ql_control *ctl, const struct ql_live *l, const json_t *d, struct ql_err *e)
{
	const json_t *loss = json_object_get(d, "train_loss"), *valid = json_object_get(d, "valid_loss"),
			*full = json_object_get(d, "full_valid_loss");
	char text[160], part[48] = "", rest[48] = "", train[32] = "not finite";
	int64_t step = json_integer_value(json_object_get(d, "step"));

	if (json_is_number(loss))
		(void)snprintf(train, sizeof train, "%.2f", json_number_value(loss));
	if (json_is_number(valid))
		(void)snprintf(part, sizeof part, ", validation loss=%.2f", json_number_value(valid));
	if (json_is_number(full))
		(void)snprintf(rest, sizeof rest, ", full validation loss=%.2f", json_number_value(full));
	(void)snprintf(text, sizeof text, "Step %lld/%lld: training loss=%s%s%s", (long long)step,
		       (long long)json_integer_value(json_object_get(d, "total_steps")), train, part, rest);
	return ql_job_event(ctl, l->id, json_is_number(loss) ? "info" : "warn", d, step, e, "%s", text);
}

static int flush_one(struct ql_control *ctl, struct ql_live *l, struct ql_err *e)
{
	json_t *d;
	size_t i;
	int rc = ql_job_begin(ctl, e);

	if (rc != QL_OK)
		return rc;
	json_array_foreach(l->pending, i, d)
		if ((rc = put_step(ctl, l, d, e)) != QL_OK)
			break;
	if (rc == QL_OK)
		rc = ql_job_set_json(ctl, "UPDATE jobs SET progress = ?2 WHERE id = ?1", l->id, l->progress, e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET step = ?2, total_steps = ?3 WHERE id = ?1", "sii",
			l->id, l->step,
					      l->total_steps)) >= 0)
		rc = ql_job_touch(ctl, l->id, l->project, e);
	if (rc != QL_OK) {
		ql_job_rollback(ctl);
		return rc;
	}
	rc = ql_job_commit(ctl, e);
	if (rc == QL_OK) { /* else they wait: an event is told again by nobody */
		json_decref(l->pending);
		l->pending = NULL;
	}
	return rc;
}

int ql_jobs_flush(struct ql_control *ctl, struct ql_err *e)
{
	int rc = QL_OK;

	for (struct ql_live *l = ctl->jobs->live; l != NULL && rc == QL_OK; l = l->next)
		if (l->pending != NULL)
			rc = flush_one(ctl, l, e);
	return rc;
}
