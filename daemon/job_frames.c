/* job_frames.c - frames of the engine about jobs: one table; every field is checked, and a frame of a job or attempt that is
 * not in hand any more is dropped.  Step events wait up to QL_FLUSH_MS and are written together; every other frame of the
 * job is written after them, so that the order of events is the engine's. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"
#include "daemon/models_internal.h"

#define CSV_MAX QL_GIB(4)

/* Metrics a step may bring, in the order of api.md §6.1. */
static const char *const metric_keys[] = {"train_loss",	     "train_mean_token_accuracy", "valid_loss",		"valid_mean_token_accuracy",
					  "full_valid_loss", "full_valid_mean_token_accuracy", "learning_rate", "grad_norm", "tokens"};

static int begin_for(struct ql_control *ctl, const struct ql_live *l, struct ql_job *j, struct ql_err *e)
{
	int rc = ql_jobs_flush(ctl, e);

	if (rc == QL_OK)
		rc = ql_job_load(ctl, l->id, j, e);
	if (rc == QL_OK && (rc = ql_job_begin(ctl, e)) != QL_OK)
		ql_job_free(j);
	return rc;
}

/* Ends what begin_for began: commit when rc is QL_OK.  A move that the table refuses is a stale frame: dropped. */
static int end_for(struct ql_control *ctl, struct ql_job *j, int rc, struct ql_err *e)
{
	if (rc == QL_OK)
		rc = ql_job_commit(ctl, e);
	else
		ql_job_rollback(ctl);
	if (rc == QL_ESTATE) {
		ql_log(QL_LOG_DEBUG, "jobs", "stale frame of %s dropped", j->id);
		rc = QL_OK;
	}
	ql_job_free(j);
	return rc;
}

static int set_json(struct ql_control *ctl, const char *sql, const char *id, const json_t *v, struct ql_err *e)
{
	char *text = v == NULL ? NULL : ql_json_text(v);
	int rc = v != NULL && text == NULL ? ql_err_set(e, QL_ENOMEM, "job") : ql_store_run(ctl->store, e, sql, "ss", id, text);

	free(text);
	return rc < 0 ? rc : QL_OK;
}

static int fault_events(struct ql_control *ctl, const char *id, const json_t *faults, struct ql_err *e)
{
	json_t *item;
	size_t i;
	int rc = QL_OK;

	json_array_foreach(faults, i, item) {
		const char *reason = json_string_value(json_object_get(item, "reason"));

		if (i >= QL_DATASET_FAULTS_REPORTED || rc != QL_OK)
			break;
		rc = ql_job_event(ctl, id, "error", NULL, -1, e, "Line %lld: %s", (long long)json_integer_value(json_object_get(item, "line")),
				  reason == NULL ? "" : reason);
	}
	return rc;
}

/* Files bad: the events with the lines, then failed. */
static int files_bad(struct ql_control *ctl, struct ql_job *j, const json_t *faults, const char *code, const char *param,
		     const char *message, struct ql_err *e)
{
	int rc = fault_events(ctl, j->id, faults, e);

	if (rc == QL_OK)
		rc = ql_job_move(ctl, j, QL_E_FAULT, NULL, e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET error_code = ?2, error_message = ?3, error_param = ?4 WHERE id = ?1",
					      "ssss", j->id, code, message, param)) >= 0)
		rc = ql_job_event(ctl, j->id, "error", NULL, -1, e, "The job failed: %s", code);
	return rc;
}

static json_t *dataset_json(const json_t *d)
{
	static const char *const keys[] = {"examples", "dropped", "truncated", "tokens", "target_tokens", "max_tokens"};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (json_is_integer(json_object_get(d, keys[i])))
			(void)json_object_set(o, keys[i], json_object_get(d, keys[i]));
	return o;
}

static json_t *fingerprint_json(struct ql_control *ctl, const json_t *dataset)
{
	static const char *const keys[] = {"base_sha256", "template_sha256", "tokenizer_sha256"};
	const json_t *model = ql_engine_model(ctl), *v;
	json_t *o = json_object();

	for (size_t i = 0; i < 3; i++)
		if (json_is_string(v = json_object_get(model, keys[i])))
			(void)json_object_set_new(o, keys[i], json_copy((json_t *)(uintptr_t)v));
	if (json_is_string(v = json_object_get(dataset, "sha256")))
		(void)json_object_set_new(o, "dataset_sha256", json_copy((json_t *)(uintptr_t)v));
	if (json_is_string(v = json_object_get(ql_engine_info(ctl), "device")))
		(void)json_object_set_new(o, "device", json_copy((json_t *)(uintptr_t)v));
	(void)json_object_set_new(o, "exact_resume", json_true());
	return o;
}

static int files_good(struct ql_control *ctl, struct ql_job *j, const json_t *f, int64_t examples, struct ql_err *e)
{
	const json_t *data = json_object_get(f, "dataset"), *estimate = json_object_get(f, "estimate");
	bool start = !json_is_false(json_object_get(j->recipe, "auto_start"));
	int64_t context = ql_engine_context(ctl), dropped = json_integer_value(json_object_get(data, "dropped")),
		truncated = json_integer_value(json_object_get(data, "truncated"));
	json_t *dataset = dataset_json(data), *print = fingerprint_json(ctl, data);
	int rc = ql_recipe_resolve(j->recipe, examples, context, json_number_value(json_object_get(ql_engine_model(ctl), "parameters")), e);

	if (rc == QL_OK)
		rc = set_json(ctl, "UPDATE jobs SET recipe = ?2 WHERE id = ?1", j->id, j->recipe, e);
	if (rc == QL_OK)
		rc = set_json(ctl, "UPDATE jobs SET dataset = ?2 WHERE id = ?1", j->id, dataset, e);
	if (rc == QL_OK)
		rc = set_json(ctl, "UPDATE jobs SET fingerprint = ?2 WHERE id = ?1", j->id, print, e);
	if (rc == QL_OK && json_is_object(estimate))
		rc = set_json(ctl, "UPDATE jobs SET estimate = ?2 WHERE id = ?1", j->id, estimate, e);
	if (rc == QL_OK)
		rc = ql_job_move(ctl, j, start ? QL_E_FILES_GOOD : QL_E_FILES_HELD, NULL, e);
	if (rc == QL_OK && (dropped > 0 || truncated > 0))
		rc = ql_job_event(ctl, j->id, "warn", NULL, -1, e, "Longer than max_seq_length: %lld examples truncated, %lld dropped",
				  (long long)truncated, (long long)dropped);
	if (rc == QL_OK)
		rc = start ? ql_job_event(ctl, j->id, "info", NULL, -1, e, "Files validated, moving job to queued state")
			   : ql_job_event(ctl, j->id, "info", NULL, -1, e, "Files validated; the job was paused (auto_start)");
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET pause_reason = ?2, deaths = 0 WHERE id = ?1", "ss", j->id,
					      start ? NULL : "auto_start")) >= 0)
		rc = QL_OK;
	json_decref(dataset);
	json_decref(print);
	return rc;
}

static int f_validated(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *code = NULL, *message = "", *param = NULL;
	char text[160];
	int64_t examples = 0;
	bool ok = false;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_bool(f, "ok", &ok, e)) != QL_OK || (rc = ql_json_get_str(f, "code", 0, 47, &code, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "message", 0, QL_FRAME_MAX, &message, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "param", 0, 63, &param, e)) != QL_OK ||
	    (rc = ql_json_get_int(json_object_get(f, "dataset"), "examples", 0, INT64_MAX, &examples, e)) != QL_OK ||
	    (rc = begin_for(ctl, l, &j, e)) != QL_OK)
		return rc;
	if (!ok) {
		rc = files_bad(ctl, &j, json_object_get(f, "faults"), code == NULL ? "invalid_training_file" : code, param, message, e);
	} else if (examples < ctl->config->min_examples) {
		(void)snprintf(text, sizeof text, "The training file has %lld examples, but must have at least %lld.", (long long)examples,
			       (long long)ctl->config->min_examples);
		rc = files_bad(ctl, &j, NULL, "invalid_n_examples", "training_file", text, e);
	} else {
		rc = files_good(ctl, &j, f, examples, e);
	}
	rc = end_for(ctl, &j, rc, e);
	ql_live_drop(ctl, l);
	ql_jobs_schedule(ctl);
	return rc;
}

static int f_started(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	static const char *const keys[] = {"micro_batch_size", "gradient_accumulation_steps", "warmup_steps", "logging_steps"};
	const json_t *recipe = json_object_get(f, "recipe");
	int64_t step = 0, total = 0, n = 0;
	const char *device = NULL;
	json_t *resolved;
	bool exact = true;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_int(f, "step", 0, INT32_MAX, &step, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "total_steps", 0, INT32_MAX, &total, e)) != QL_OK ||
	    (rc = ql_json_get_bool(f, "exact_resume", &exact, e)) != QL_OK || (rc = ql_json_get_str(f, "device", 0, 256, &device, e)) != QL_OK)
		return rc;
	for (size_t i = 0; i < 4; i++)
		if ((rc = ql_json_get_int(recipe, keys[i], 0, INT32_MAX, &n, e)) != QL_OK)
			return rc;
	if ((rc = begin_for(ctl, l, &j, e)) != QL_OK)
		return rc;
	resolved = json_object();
	for (size_t i = 0; i < 4; i++)
		if (json_is_integer(json_object_get(recipe, keys[i])))
			(void)json_object_set_new(resolved, keys[i], json_integer(json_integer_value(json_object_get(recipe, keys[i]))));
	if (j.fingerprint == NULL)
		j.fingerprint = json_object();
	if (device != NULL)
		(void)json_object_set_new(j.fingerprint, "device", json_string(device));
	(void)json_object_set_new(j.fingerprint, "exact_resume", json_boolean(exact));
	rc = set_json(ctl, "UPDATE jobs SET resolved = ?2 WHERE id = ?1", j.id, resolved, e);
	json_decref(resolved);
	if (rc == QL_OK)
		rc = set_json(ctl, "UPDATE jobs SET fingerprint = ?2 WHERE id = ?1", j.id, j.fingerprint, e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET total_steps = ?2 WHERE id = ?1", "si", j.id, total)) >= 0)
		rc = exact ? QL_OK
			   : ql_job_event(ctl, j.id, "warn", NULL, -1, e,
					  "The device or build has changed since step %lld: the result may differ in rounding", (long long)step);
	if (rc == QL_OK)
		rc = ql_job_touch(ctl, j.id, j.project, e);
	l->step = step;
	l->total_steps = total;
	l->phase = "training";
	return end_for(ctl, &j, rc, e);
}

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

static void on_flush(uv_timer_t *t)
{
	struct ql_control *ctl = t->data;
	struct ql_err e = {0};

	ctl->jobs->flush_armed = false;
	if (ql_jobs_flush(ctl, &e) != QL_OK)
		ql_log(QL_LOG_ERROR, "jobs", "events not stored: %s", e.message);
}

static int f_step(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
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
		(void)json_array_append_new(l->pending, event_data(f, m, step, total));
	}
	if (!ctl->jobs->flush_armed) {
		ctl->jobs->flush_armed = true;
		(void)uv_timer_start(&ctl->jobs->flush, on_flush, QL_FLUSH_MS, 0);
	}
	return QL_OK;
}

static int put_step(struct ql_control *ctl, const struct ql_live *l, const json_t *d, struct ql_err *e)
{
	const json_t *loss = json_object_get(d, "train_loss"), *valid = json_object_get(d, "valid_loss"), *full = json_object_get(d, "full_valid_loss");
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
		rc = set_json(ctl, "UPDATE jobs SET progress = ?2 WHERE id = ?1", l->id, l->progress, e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET step = ?2, total_steps = ?3 WHERE id = ?1", "sii", l->id, l->step,
					      l->total_steps)) >= 0)
		rc = ql_job_touch(ctl, l->id, l->project, e);
	json_decref(l->pending);
	l->pending = NULL;
	if (rc == QL_OK)
		return ql_job_commit(ctl, e);
	ql_job_rollback(ctl);
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

static int f_phase(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	static const char *const phases[] = {"loading", "training", "evaluating", "checkpointing", "publishing"};
	const char *phase = json_string_value(json_object_get(f, "phase"));

	for (size_t i = 0; phase != NULL && i < sizeof phases / sizeof phases[0]; i++)
		if (strcmp(phases[i], phase) == 0) {
			l->phase = phases[i];
			if (i == 3)
				l->ckpt_started_ms = uv_now(ctl->loop);
			l->tick++;
			ctl->jobs->tick++;
			return QL_OK;
		}
	return ql_err_set(e, QL_EFORMAT, "unknown phase");
}

static int f_checkpoint(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	bool user = json_is_string(json_object_get(f, "kind")) && strcmp(json_string_value(json_object_get(f, "kind")), "user") == 0;
	struct ql_job j, copy;
	int rc = begin_for(ctl, l, &j, e);

	if (rc != QL_OK)
		return rc;
	copy = j;
	copy.recipe = json_incref(j.recipe);
	rc = ql_ckpt_insert(ctl, &j, f, e);
	rc = end_for(ctl, &j, rc, e);
	if (rc == QL_OK)
		ql_ckpt_prune(ctl, &copy, false);
	json_decref(copy.recipe);
	if (l->ckpt_started_ms != 0)
		ql_metrics_observe(ctl->metrics, QLM_CHECKPOINT_SECONDS, user ? "kind=\"user\"" : "kind=\"snapshot\"",
				   (double)(uv_now(ctl->loop) - l->ckpt_started_ms) / 1000);
	l->ckpt_started_ms = 0;
	return rc;
}

static int f_stopped(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *mode = json_string_value(json_object_get(f, "mode"));
	enum ql_job_state to = QL_S_QUEUED;
	struct ql_job j;
	int rc;

	if (mode == NULL)
		return ql_err_set(e, QL_EFORMAT, "stopped without mode");
	if ((rc = begin_for(ctl, l, &j, e)) != QL_OK)
		return rc;
	rc = ql_job_move(ctl, &j, QL_E_STOPPED, &to, e);
	if (rc == QL_OK && to == QL_S_PAUSED)
		rc = ql_job_event(ctl, j.id, "info", NULL, -1, e, "The job was paused (%s)", j.pause_reason[0] == '\0' ? "user" : j.pause_reason);
	else if (rc == QL_OK && strcmp(mode, "drain") == 0)
		rc = ql_job_event(ctl, j.id, "warn", NULL, -1, e, "The server is shutting down; the job goes on from step %lld at its next start",
				  (long long)l->step);
	rc = end_for(ctl, &j, rc, e);
	ql_live_drop(ctl, l);
	ql_jobs_schedule(ctl);
	return rc;
}

/* The engine has written jobs/ID/step_metrics.csv; it becomes a file object.  The copy is durable before its row. */
static int publish_csv(struct ql_control *ctl, const struct ql_job *j, const char *csv, char file[QL_ID_SIZE], char sha256[65],
		       uint64_t *bytes, struct ql_err *e)
{
	int dir = ql_io_open_dir(ctl->state_fd, "files", e), from = -1, rc = dir;
	char want[128], chunk[16384];
	struct ql_io_file out;

	(void)snprintf(want, sizeof want, "jobs/%s/step_metrics.csv", j->id);
	ql_id_make(file, "file-");
	if (dir < 0)
		return rc;
	if (csv == NULL || strcmp(csv, want) != 0)
		rc = ql_err_set(e, QL_EFORMAT, "done: bad csv path");
	else
		rc = from = ql_io_open_read(ctl->state_fd, want, bytes, e);
	if (rc >= 0)
		rc = *bytes > CSV_MAX ? ql_err_set(e, QL_ELIMIT, "result file too large") : ql_io_begin(&out, dir, file, e);
	if (rc == QL_OK) {
		for (uint64_t at = 0; at < *bytes && rc == QL_OK; at += sizeof chunk) {
			size_t n = *bytes - at < sizeof chunk ? (size_t)(*bytes - at) : sizeof chunk;

			rc = ql_io_pread_all(from, chunk, n, at, e);
			if (rc == QL_OK)
				rc = ql_io_write(&out, chunk, n, e);
		}
		if (rc == QL_OK)
			rc = ql_io_commit(&out, e);
		else
			ql_io_abort(&out);
	}
	if (rc == QL_OK)
		rc = ql_io_sha256(dir, file, sha256, NULL, e);
	if (from >= 0)
		(void)close(from);
	(void)close(dir);
	return rc;
}

static int finish(struct ql_control *ctl, struct ql_job *j, const json_t *f, const char *file, const char *sha256, uint64_t csv_bytes,
		  int64_t trained, struct ql_err *e)
{
	const char *dir = json_string_value(json_object_get(f, "dir")), *manifest = json_string_value(json_object_get(f, "manifest_sha256"));
	int rc = ql_job_move(ctl, j, QL_E_FINISHED, NULL, e);

	if (rc == QL_OK)
		rc = ql_file_insert_made(ctl, j->project, file, "step_metrics.csv", "fine-tune-results", csv_bytes, sha256, e);
	if (rc == QL_OK)
		rc = ql_model_insert(ctl, j, dir, manifest, json_integer_value(json_object_get(f, "bytes")),
				     json_string_value(json_object_get(ql_engine_model(ctl), "base_sha256")), e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e,
					      "UPDATE jobs SET fine_tuned_model = reserved_name, trained_tokens = ?2, result_file = ?3, step = ?4,"
					      " pause_reason = NULL WHERE id = ?1",
					      "sisi", j->id, trained, file, (int64_t)json_integer_value(json_object_get(f, "step")))) >= 0)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, e, "New fine-tuned model created: %s", j->reserved_name);
	return rc == QL_OK ? ql_job_event(ctl, j->id, "info", NULL, -1, e, "The job has successfully completed") : rc;
}

static int f_done(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *dir = NULL, *sha = "", *csv = NULL;
	char file[QL_ID_SIZE], csv_sha[65], want[80];
	int64_t trained = 0, bytes = 0, step = 0;
	uint64_t csv_bytes = 0;
	struct ql_job j, copy;
	int rc;

	if ((rc = ql_json_get_int(f, "trained_tokens", 0, INT64_MAX, &trained, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "bytes", 0, INT64_MAX, &bytes, e)) != QL_OK || (rc = ql_json_get_int(f, "step", 0, INT32_MAX, &step, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "dir", 1, 127, &dir, e)) != QL_OK || (rc = ql_json_get_str(f, "manifest_sha256", 64, 64, &sha, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "csv", 1, 127, &csv, e)) != QL_OK)
		return rc;
	(void)snprintf(want, sizeof want, "adapters/%s", l->id);
	if (dir == NULL || strcmp(dir, want) != 0 || sha[0] == '\0')
		return ql_err_set(e, QL_EFORMAT, "done: bad dir or hash");
	if ((rc = ql_jobs_flush(ctl, e)) != QL_OK || (rc = ql_job_load(ctl, l->id, &j, e)) != QL_OK)
		return rc;
	rc = publish_csv(ctl, &j, csv, file, csv_sha, &csv_bytes, e);
	if (rc == QL_OK)
		rc = ql_job_begin(ctl, e);
	if (rc != QL_OK) {
		ql_job_free(&j);
		return rc;
	}
	copy = j;
	copy.recipe = json_incref(j.recipe);
	rc = finish(ctl, &j, f, file, csv_sha, csv_bytes, trained, e);
	rc = end_for(ctl, &j, rc, e);
	if (rc == QL_OK)
		ql_ckpt_prune(ctl, &copy, true);
	json_decref(copy.recipe);
	ql_live_drop(ctl, l);
	ql_jobs_schedule(ctl);
	return rc;
}

/* A checkpoint that does not read back: it is put aside, and the one before it is tried. */
static int fall_back(struct ql_control *ctl, struct ql_job *j, const char *message, bool *done, struct ql_err *e)
{
	struct ql_job_ckpt bad, next;
	int rc;

	*done = false;
	if (!ql_ckpt_newest(ctl, j->id, &bad))
		return QL_OK;
	rc = ql_store_run(ctl->store, e, "UPDATE checkpoints SET invalid = 1 WHERE seq = ?1", "i", bad.seq);
	if (rc < 0 || !ql_ckpt_newest(ctl, j->id, &next))
		return rc < 0 ? rc : QL_OK;
	rc = ql_job_event(ctl, j->id, "warn", NULL, -1, e, "The checkpoint of step %lld is damaged (%s), job continues from step %lld",
			  (long long)bad.step, message, (long long)next.step);
	if (rc == QL_OK)
		rc = ql_job_move(ctl, j, QL_E_LOST, NULL, e);
	*done = rc == QL_OK;
	return rc;
}

static int f_failed(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *code = "internal_error", *message = "", *param = NULL;
	bool done = false;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_str(f, "code", 1, 47, &code, e)) != QL_OK || (rc = ql_json_get_str(f, "message", 0, QL_FRAME_MAX, &message, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "param", 0, 63, &param, e)) != QL_OK || (rc = begin_for(ctl, l, &j, e)) != QL_OK)
		return rc;
	if (strcmp(code, "no_space") == 0 && l->training) {
		rc = ql_job_move(ctl, &j, QL_E_NO_SPACE, NULL, e);
		if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET pause_reason = 'no_space' WHERE id = ?1", "s", j.id)) >= 0)
			rc = ql_job_event(ctl, j.id, "warn", NULL, -1, e, "The job was paused (no_space)");
		done = true;
	} else if (strcmp(code, "checkpoint_invalid") == 0 && l->training) {
		rc = fall_back(ctl, &j, message, &done, e);
	}
	if (rc == QL_OK && !done)
		rc = files_bad(ctl, &j, NULL, code, param, message, e);
	rc = end_for(ctl, &j, rc, e);
	ql_live_drop(ctl, l);
	ql_jobs_schedule(ctl);
	return rc;
}

static const struct {
	const char *type;
	bool training;
	int (*handle)(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e);
} handlers[] = {{"validated", false, f_validated}, {"started", true, f_started},       {"step", true, f_step},
		{"phase", true, f_phase},	   {"checkpoint", true, f_checkpoint}, {"stopped", true, f_stopped},
		{"done", true, f_done},		   {"failed", true, f_failed}};

int ql_jobs_frame(struct ql_control *ctl, const char *type, const json_t *f, struct ql_err *e)
{
	const char *id = json_string_value(json_object_get(f, "job"));
	int64_t attempt = -1;
	struct ql_live *l;

	if (id == NULL || !ql_id_ok(id, "ftjob-") || ql_json_get_int(f, "attempt", 0, INT64_MAX, &attempt, e) != QL_OK || attempt < 0)
		return ql_err_set(e, QL_EFORMAT, "bad job or attempt");
	l = ql_live_find(ctl, id);
	if (l == NULL || l->attempt != attempt)
		return QL_OK; /* cancelled, or of an older attempt */
	l->moved_ms = uv_now(ctl->loop);
	for (size_t i = 0; i < sizeof handlers / sizeof handlers[0]; i++)
		if (strcmp(handlers[i].type, type) == 0 && (handlers[i].training == l->training || strcmp(type, "failed") == 0))
			return handlers[i].handle(ctl, l, f, e);
	return ql_err_set(e, QL_EFORMAT, "not expected now");
}
