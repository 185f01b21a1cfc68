/* job_frames.c - frames of the engine about jobs: one table; every field is checked, and a frame of a job or attempt that is
 * not in hand any more is dropped.  Step events wait up to QL_FLUSH_MS and are written together (job_steps.c); every other
 * frame of the job is written after them, so that the order of events is the engine's. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"

int ql_job_frame_begin(struct ql_control *ctl, const struct ql_live *l, struct ql_job *j, struct ql_err *e)
{
	int rc = ql_jobs_flush(ctl, e);

	if (rc == QL_OK)
		rc = ql_job_load(ctl, l->id, j, e);
	if (rc == QL_OK && (rc = ql_job_begin(ctl, e)) != QL_OK)
		ql_job_free(j);
	return rc;
}

/* Ends what begin_for began: commit when rc is QL_OK.  A move that the table refuses is a stale frame: dropped. */
int ql_job_frame_end(struct ql_control *ctl, struct ql_job *j, int rc, struct ql_err *e)
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

int ql_job_frame_last(struct ql_control *ctl, struct ql_live *l, struct ql_job *j, int rc, struct ql_err *e)
{
	rc = ql_job_frame_end(ctl, j, rc, e);
	if (rc != QL_OK)
		return rc;
	ql_live_drop(ctl, l);
	ql_jobs_schedule(ctl);
	return QL_OK;
}

int ql_job_set_json(struct ql_control *ctl, const char *sql, const char *id, const json_t *v, struct ql_err *e)
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
int ql_job_give_up(struct ql_control *ctl, struct ql_job *j, const json_t *faults, const char *code, const char *param,
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

/* Numbers, or objects of numbers: what a memory plan may hold. */
static bool is_plan(const json_t *v, int depth)
{
	const char *key;
	json_t *item;

	if (json_is_integer(v))
		return json_integer_value(v) >= 0;
	if (!json_is_object(v) || depth == 0 || json_object_size(v) > 16)
		return false;
	json_object_foreach((json_t *)(uintptr_t)v, key, item)
		if (!is_plan(item, depth - 1))
			return false;
	return true;
}

bool ql_job_same_device(const char *a, const char *b)
{
	const char *names[2] = {a, b};

	for (int i = 0; i < 2; i++) {
		const char *s = names[i];

		if (strncmp(s, "cpu: ", 5) == 0 && (s = strstr(s, " threads, ")) != NULL)
			names[i] = s + 10;
		else if (strncmp(names[i], "cuda:", 5) == 0 && (s = strchr(names[i], ' ')) != NULL)
			names[i] = s + 1;
	}
	return strcmp(names[0], names[1]) == 0;
}

/* Whether a run that goes on at `step` is the one that began, to the bit: the engine says what it knows, the job's row what it ran
 * on before.  *told: it was known already that it is not.  The row's fingerprint becomes the present one. */
static bool is_exact(struct ql_control *ctl, struct ql_job *j, int64_t step, const char *device, bool exact, bool *told)
{
	const char *build = json_string_value(json_object_get(ql_engine_info(ctl), "build")), *old;

	if (j->fingerprint == NULL)
		j->fingerprint = json_object();
	*told = step > 0 && json_is_false(json_object_get(j->fingerprint, "exact_resume"));
	old = json_string_value(json_object_get(j->fingerprint, "device"));
	if (step > 0 && old != NULL && device != NULL && !ql_job_same_device(old, device))
		exact = false;
	old = json_string_value(json_object_get(j->fingerprint, "build"));
	if (step > 0 && old != NULL && build != NULL && strcmp(old, build) != 0)
		exact = false;
	exact = exact && !*told;
	if (device != NULL)
		(void)json_object_set_new(j->fingerprint, "device", json_string(device));
	if (build != NULL)
		(void)json_object_set_new(j->fingerprint, "build", json_string(build));
	(void)json_object_set_new(j->fingerprint, "exact_resume", json_boolean(exact));
	return exact;
}

static int f_started(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	static const char *const keys[] = {"micro_batch_size", "gradient_accumulation_steps", "warmup_steps", "logging_steps"};
	const json_t *recipe = json_object_get(f, "recipe"), *plan = json_object_get(f, "plan");
	int64_t step = 0, total = 0, n = 0;
	const char *device = NULL;
	json_t *resolved;
	bool exact = true, told;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_int(f, "step", 0, INT32_MAX, &step, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "total_steps", 0, INT32_MAX, &total, e)) != QL_OK ||
	    (rc = ql_json_get_bool(f, "exact_resume", &exact, e)) != QL_OK || (rc = ql_json_get_str(f, "device", 0, 256, &device, e)) != QL_OK)
		return rc;
	for (size_t i = 0; i < 4; i++)
		if ((rc = ql_json_get_int(recipe, keys[i], 0, INT32_MAX, &n, e)) != QL_OK)
			return rc;
	if (plan != NULL && (!json_is_object(plan) || !is_plan(plan, 2)))
		return ql_err_set(e, QL_EFORMAT, "started: bad plan");
	if ((rc = ql_job_frame_begin(ctl, l, &j, e)) != QL_OK)
		return rc;
	resolved = json_object();
	if (plan != NULL)
		(void)json_object_set_new(resolved, "plan", json_deep_copy(plan));
	for (size_t i = 0; i < 4; i++)
		if (json_is_integer(json_object_get(recipe, keys[i])))
			(void)json_object_set_new(resolved, keys[i], json_integer(json_integer_value(json_object_get(recipe, keys[i]))));
	exact = is_exact(ctl, &j, step, device, exact, &told);
	rc = ql_job_set_json(ctl, "UPDATE jobs SET resolved = ?2 WHERE id = ?1", j.id, resolved, e);
	json_decref(resolved);
	if (rc == QL_OK)
		rc = ql_job_set_json(ctl, "UPDATE jobs SET fingerprint = ?2 WHERE id = ?1", j.id, j.fingerprint, e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET total_steps = ?2 WHERE id = ?1", "si", j.id, total)) >= 0)
		rc = exact || told
			     ? QL_OK
			     : ql_job_event(ctl, j.id, "warn", NULL, -1, e,
					  "The device or build has changed since step %lld: the result may differ in rounding", (long long)step);
	if (rc == QL_OK)
		rc = ql_job_touch(ctl, j.id, j.project, e);
	l->step = step;
	l->total_steps = total;
	l->phase = "training";
	return ql_job_frame_end(ctl, &j, rc, e);
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
	int rc = ql_job_frame_begin(ctl, l, &j, e);

	if (rc != QL_OK)
		return rc;
	copy = j;
	copy.recipe = json_incref(j.recipe);
	rc = ql_ckpt_insert(ctl, &j, f, e);
	rc = ql_job_frame_end(ctl, &j, rc, e);
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
	if ((rc = ql_job_frame_begin(ctl, l, &j, e)) != QL_OK)
		return rc;
	rc = ql_job_move(ctl, &j, QL_E_STOPPED, &to, e);
	if (rc == QL_OK && to == QL_S_PAUSED)
		rc = ql_job_event(ctl, j.id, "info", NULL, -1, e, "The job was paused (%s)", j.pause_reason[0] == '\0' ? "user" : j.pause_reason);
	else if (rc == QL_OK && strcmp(mode, "drain") == 0)
		rc = ql_job_event(ctl, j.id, "warn", NULL, -1, e, "The server is shutting down; the job goes on from step %lld at its next start",
				  (long long)l->step);
	return ql_job_frame_last(ctl, l, &j, rc, e);
}

/* A checkpoint that does not read back: it is put aside, and the one before it is tried. */
static int fall_back(struct ql_control *ctl, struct ql_job *j, const char *dir, const char *message, bool *done, struct ql_err *e)
{
	struct ql_job_ckpt bad, next;
	int rc;

	*done = false;
	if (!ql_ckpt_newest(ctl, j->id, &bad) || strcmp(bad.dir, dir) != 0)
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
	const char *code = "internal_error", *message = "", *param = NULL, *damaged = NULL;
	bool done = false;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_str(f, "code", 1, 47, &code, e)) != QL_OK || (rc = ql_json_get_str(f, "message", 0, QL_FRAME_MAX,
			&message, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "param", 0, 63, &param, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "checkpoint", 1, 31, &damaged, e)) != QL_OK || (rc = ql_job_frame_begin(ctl, l, &j, e)) != QL_OK)
		return rc;
	if (strcmp(code, "no_space") == 0 && l->training) {
		rc = ql_job_move(ctl, &j, QL_E_NO_SPACE, NULL, e);
		if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET pause_reason = 'no_space' WHERE id = ?1", "s", j.id)) >= 0)
			rc = ql_job_event(ctl, j.id, "warn", NULL, -1, e, "The job was paused (no_space)");
		done = true;
	} else if (damaged != NULL && l->training) {
		rc = fall_back(ctl, &j, damaged, message, &done, e);
	}
	if (rc == QL_OK && !done)
		rc = ql_job_give_up(ctl, &j, NULL, code, param, message, e);
	return ql_job_frame_last(ctl, l, &j, rc, e);
}

static const struct {
	const char *type;
	bool training;
	int (*handle)(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e);
} handlers[] = {{"validated", false, ql_job_on_validated}, {"started", true, f_started},       {"step", true, ql_job_on_step},
		{"phase", true, f_phase},	   {"checkpoint", true, f_checkpoint}, {"stopped", true, f_stopped},
		{"done", true, ql_job_on_done},		   {"failed", true, f_failed}};

/* What the engine had finished writing when it heard that the job is cancelled: no row will ever name it. */
static void forget_files(struct ql_control *ctl, const char *job, const char *type, const json_t *f)
{
	const char *dir = json_string_value(json_object_get(f, "dir"));
	char parent[80];

	if (ql_store_int(ctl->store, 0, "SELECT state IN ('cancelled', 'failed') FROM jobs WHERE id = ?1", "s", job) != 1)
		return;
	if (strcmp(type, "done") == 0 && ql_store_int(ctl->store, 1, "SELECT count(*) FROM models WHERE job = ?1", "s", job) == 0)
		ql_remove_later(ctl, "adapters", job);
	(void)snprintf(parent, sizeof parent, "jobs/%s", job);
	if (strcmp(type, "checkpoint") == 0 && dir != NULL && strncmp(dir, "step-", 5) == 0 &&
	    ql_store_int(ctl->store, 1, "SELECT count(*) FROM checkpoints WHERE job = ?1 AND dir = ?2", "ss", job, dir) == 0)
		ql_remove_later(ctl, parent, dir);
}

int ql_jobs_frame(struct ql_control *ctl, const char *type, const json_t *f, struct ql_err *e)
{
	const char *id = json_string_value(json_object_get(f, "job"));
	int64_t attempt = -1;
	struct ql_live *l;

	if (id == NULL || !ql_id_ok(id, "ftjob-") || ql_json_get_int(f, "attempt", 0, INT64_MAX, &attempt, e) != QL_OK || attempt < 0)
		return ql_err_set(e, QL_EFORMAT, "bad job or attempt");
	l = ql_live_find(ctl, id);
	if (l == NULL || l->attempt != attempt) { /* cancelled, or of an older attempt */
		if (l == NULL)
			forget_files(ctl, id, type, f);
		return QL_OK;
	}
	l->moved_ms = uv_now(ctl->loop);
	for (size_t i = 0; i < sizeof handlers / sizeof handlers[0]; i++)
		if (strcmp(handlers[i].type, type) == 0 && (handlers[i].training == l->training || strcmp(type, "failed") == 0))
			return handlers[i].handle(ctl, l, f, e);
	return ql_err_set(e, QL_EFORMAT, "not expected now");
}
