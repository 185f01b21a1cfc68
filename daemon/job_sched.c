/* job_sched.c - what the engine is given: one validation at a time, then queued jobs by priority and age, up to
 * max_running_jobs; and what happens when it is lost.
 *
 * Every start is committed (queued → running, attempt + 1) before the engine hears of it.  Deaths of the engine are counted
 * per job against its newest checkpoint: QL_ENGINE_DEATHS_MAX in a row without a newer one fail the job, so that the queue
 * goes on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"
#include "daemon/metrics.h"
#include "daemon/models_internal.h"
#include "daemon/sweep.h"

#define HANG_MS_MIN 60000
#define HANG_STEPS 20
#define HANG_STEPS_KNOWN 5

struct ql_live *ql_live_find(struct ql_control *ctl, const char *id)
{
	struct ql_live *l = ctl->jobs->live;

	while (l != NULL && strcmp(l->id, id) != 0)
		l = l->next;
	return l;
}

void ql_live_drop(struct ql_control *ctl, struct ql_live *l)
{
	static const enum ql_metric gauges[] = {QLM_JOB_STEP, QLM_JOB_TOTAL_STEPS, QLM_JOB_TRAIN_LOSS, QLM_JOB_LEARNING_RATE, QLM_JOB_GRAD_NORM};
	char labels[96];

	for (struct ql_live **p = &ctl->jobs->live; *p != NULL; p = &(*p)->next)
		if (*p == l) {
			*p = l->next;
			break;
		}
	ql_metrics_labels(labels, sizeof labels, "job", l->id, (char *)NULL);
	for (size_t i = 0; i < sizeof gauges / sizeof gauges[0]; i++)
		ql_metrics_drop(ctl->metrics, gauges[i], labels);
	ctl->jobs->tick++;
	json_decref(l->progress);
	json_decref(l->pending);
	free(l);
}

static struct ql_live *live_add(struct ql_control *ctl, const struct ql_job *j, int64_t attempt, bool training)
{
	struct ql_live *l = calloc(1, sizeof *l);

	if (l == NULL)
		return NULL;
	(void)snprintf(l->id, sizeof l->id, "%s", j->id);
	(void)snprintf(l->project, sizeof l->project, "%s", j->project);
	l->attempt = attempt;
	l->training = training;
	l->phase = training ? "loading" : NULL;
	l->step = j->step;
	l->total_steps = j->total_steps;
	l->eta_seconds = -1;
	l->moved_ms = uv_now(ctl->loop);
	l->next = ctl->jobs->live;
	ctl->jobs->live = l;
	return l;
}

void ql_live_stop(struct ql_control *ctl, struct ql_live *l, const char *mode)
{
	struct ql_err e = {0};

	if (l->stop_sent && strcmp(mode, "cancel") != 0)
		return;
	l->stop_sent = true;
	if (ql_engine_send(ctl->engines[0],
			   json_pack("{s:s,s:s,s:I,s:s}", "type", "stop", "job", l->id, "attempt", (json_int_t)l->attempt, "mode", mode), &e) != QL_OK)
		ql_engine_kill(ctl->engines[0], "exit"); /* a state frame must not be lost */
}

static json_t *file_path(const char *id)
{
	char path[80];

	if (id[0] == '\0')
		return json_null();
	(void)snprintf(path, sizeof path, "files/%s", id);
	return json_string(path);
}

static bool file_lives(struct ql_control *ctl, const char *id)
{
	return id[0] == '\0' || ql_store_int(ctl->store, 0, "SELECT count(*) FROM files WHERE id = ?1", "s", id) > 0;
}

/* Files are kept while a live job names them, so this is for what someone took away by hand. */
static bool files_live(struct ql_control *ctl, const struct ql_job *j)
{
	struct ql_err e = {0};
	bool training = file_lives(ctl, j->training_file);

	if (training && file_lives(ctl, j->validation_file))
		return true;
	if (ql_job_fail(ctl, j, "file_expired", training ? "validation_file" : "training_file", "A file of the job no longer exists.", &e) != QL_OK)
		ql_log(QL_LOG_ERROR, "jobs", "%s: %s", j->id, e.message);
	return false;
}

static int send_validate(struct ql_control *ctl, const struct ql_job *j, struct ql_err *e)
{
	json_t *recipe = ql_recipe_for_engine(j->recipe, j->seed, ql_engine_context(ctl));

	return ql_engine_send(ctl->engines[0],
			      json_pack("{s:s,s:s,s:I,s:o,s:o,s:o}", "type", "validate", "job", j->id, "attempt", (json_int_t)j->attempt,
					"training_file", file_path(j->training_file), "validation_file", file_path(j->validation_file), "recipe", recipe),
			      e);
}

static int send_start(struct ql_control *ctl, const struct ql_job *j, const char *resume, const char *from, struct ql_err *e)
{
	json_t *recipe = ql_recipe_for_engine(j->recipe, j->seed, ql_engine_context(ctl));
	char dir[80], publish[80];

	(void)snprintf(dir, sizeof dir, "jobs/%s", j->id);
	(void)snprintf(publish, sizeof publish, "adapters/%s", j->id);
	return ql_engine_send(ctl->engines[0],
			      json_pack("{s:s,s:s,s:I,s:o,s:o,s:o,s:s,s:s,s:s?,s:s?}", "type", "start", "job", j->id, "attempt",
					(json_int_t)j->attempt + 1, "training_file", file_path(j->training_file), "validation_file",
					file_path(j->validation_file), "recipe", recipe, "dir", dir, "publish", publish, "resume",
					resume[0] == '\0' ? NULL : resume, "adapter_from", from[0] == '\0' ? NULL : from),
			      e);
}

/* The adapter a job goes on from: its directory; fails the job when it is gone. */
static bool find_source(struct ql_control *ctl, const struct ql_job *j, char dir[160])
{
	struct ql_who who = {.scopes = 0};
	struct ql_model_ref ref;
	struct ql_err e = {0};

	dir[0] = '\0';
	if (j->adapter_from[0] == '\0')
		return true;
	(void)snprintf(who.project, sizeof who.project, "%s", j->project);
	if (ql_model_resolve(ctl, &who, j->adapter_from, &ref, NULL) == QL_OK) {
		(void)snprintf(dir, 160, "%s", ref.dir);
		return true;
	}
	if (ql_job_fail(ctl, j, "checkpoint_invalid", "model", "The model to go on from no longer exists.", &e) != QL_OK)
		ql_log(QL_LOG_ERROR, "jobs", "%s: %s", j->id, e.message);
	return false;
}

static int prepare_dir(struct ql_control *ctl, const struct ql_job *j, struct ql_err *e)
{
	int rc = ql_sweep_job(ctl, j->id, e), jobs, fd = -1;

	if (rc != QL_OK)
		return rc;
	jobs = ql_io_open_dir(ctl->state_fd, "jobs", e);
	if (jobs < 0)
		return jobs;
	rc = ql_io_ensure_dir(jobs, j->id, &fd, e);
	if (rc == QL_OK)
		(void)close(fd);
	(void)close(jobs);
	return rc;
}

static int start_job(struct ql_control *ctl, const struct ql_job *j, struct ql_err *e)
{
	struct ql_job_ckpt ckpt;
	char from[160];
	int rc;

	if (!files_live(ctl, j) || !find_source(ctl, j, from))
		return QL_OK;
	rc = prepare_dir(ctl, j, e);
	if (rc != QL_OK)
		return rc;
	(void)ql_ckpt_newest(ctl, j->id, &ckpt);
	rc = ql_job_begin(ctl, e);
	if (rc != QL_OK)
		return rc;
	rc = ql_job_move(ctl, j, QL_E_PICKED, NULL, e);
	if (rc == QL_OK)
		rc = ckpt.dir[0] == '\0' ? ql_job_event(ctl, j->id, "info", NULL, -1, e, "Fine-tuning job started")
					 : ql_job_event(ctl, j->id, "info", NULL, -1, e, "Fine-tuning job resumed from step %lld", (long long)ckpt.step);
	if (rc == QL_OK)
		rc = ql_job_commit(ctl, e);
	else
		ql_job_rollback(ctl);
	if (rc != QL_OK)
		return rc;
	if (live_add(ctl, j, j->attempt + 1, true) == NULL || send_start(ctl, j, ckpt.dir, from, e) != QL_OK)
		ql_engine_kill(ctl->engines[0], "exit"); /* its end puts the job back */
	return QL_OK;
}

static bool pick(struct ql_control *ctl, bool training, struct ql_job *j)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e,
					 "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE state = ?1 ORDER BY priority DESC, seq LIMIT 1", "s",
					 training ? "queued" : "validating");
	int rc = q == NULL ? e.code : ql_store_step(ctl->store, q, &e);

	if (rc == 1)
		rc = ql_job_read(q, j, &e) == QL_OK ? 1 : e.code;
	ql_store_done(q);
	if (rc < 0)
		ql_log(QL_LOG_ERROR, "jobs", "queue: %s", e.message);
	return rc == 1;
}

static size_t in_hand(struct ql_control *ctl, bool training)
{
	size_t n = 0;

	for (const struct ql_live *l = ctl->jobs->live; l != NULL; l = l->next)
		n += l->training == training;
	return n;
}

/* False when there is nothing to do, or not now. */
static bool one_validation(struct ql_control *ctl)
{
	struct ql_err e = {0};
	struct ql_job j;

	if (in_hand(ctl, false) > 0 || !pick(ctl, false, &j))
		return false;
	if (files_live(ctl, &j) && (live_add(ctl, &j, j.attempt, false) == NULL || send_validate(ctl, &j, &e) != QL_OK))
		ql_engine_kill(ctl->engines[0], "exit");
	ql_job_free(&j);
	return true;
}

static bool one_start(struct ql_control *ctl)
{
	struct ql_err e = {0};
	struct ql_job j;
	int rc;

	if ((int64_t)in_hand(ctl, true) >= ctl->config->max_running_jobs || !pick(ctl, true, &j))
		return false;
	rc = ql_space_ok(ctl, 0) ? start_job(ctl, &j, &e) : QL_ENOSPC;
	if (rc != QL_OK && e.message[0] != '\0')
		ql_log(QL_LOG_ERROR, "jobs", "%s does not start: %s", j.id, e.message);
	ql_job_free(&j);
	return rc == QL_OK;
}

void ql_jobs_schedule(struct ql_control *ctl)
{
	if (ctl->jobs->scheduling || ctl->jobs->stopping)
		return;
	ctl->jobs->scheduling = true;
	while (ql_engine_state(ctl) == QL_ENGINE_READY && ctl->engines[0]->killed_ms == 0 && (one_validation(ctl) || one_start(ctl)))
		;
	ctl->jobs->scheduling = false;
}

void ql_jobs_engine_ready(struct ql_control *ctl) { ql_jobs_schedule(ctl); }

/* ---- the engine is gone ---- */

static int count_death(struct ql_control *ctl, struct ql_job *j, int64_t newest, struct ql_err *e)
{
	int64_t deaths = j->deaths > 0 && j->death_step == newest ? j->deaths + 1 : 1;
	int rc = ql_store_run(ctl->store, e, "UPDATE jobs SET deaths = ?2, death_step = ?3 WHERE id = ?1", "sii", j->id, deaths, newest);

	j->deaths = deaths;
	return rc < 0 ? rc : QL_OK;
}

static int give_up(struct ql_control *ctl, const struct ql_job *j, const char *reason, struct ql_err *e)
{
	char text[160];
	int rc = ql_job_move(ctl, j, QL_E_FAULT, NULL, e);

	(void)snprintf(text, sizeof text, "The engine died %d times in a row in this job without progress (%s).", QL_ENGINE_DEATHS_MAX, reason);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET error_code = 'engine_failure', error_message = ?2 WHERE id = ?1", "ss",
					      j->id, text)) >= 0)
		rc = ql_job_event(ctl, j->id, "error", NULL, -1, e, "The job failed: engine_failure");
	return rc;
}

/* One job whose engine (or control, at start-up) ended under it.  reason NULL: not the job's fault, nothing is counted. */
static int lose(struct ql_control *ctl, struct ql_job *j, const char *reason, struct ql_err *e)
{
	struct ql_job_ckpt ckpt;
	enum ql_job_state to;
	int64_t newest = ql_ckpt_newest(ctl, j->id, &ckpt) ? ckpt.step : 0;
	int rc = ql_job_begin(ctl, e);

	if (rc != QL_OK)
		return rc;
	if (reason != NULL)
		rc = count_death(ctl, j, newest, e);
	if (rc == QL_OK && reason != NULL && j->deaths >= QL_ENGINE_DEATHS_MAX && j->state != QL_S_PAUSING) {
		rc = give_up(ctl, j, reason, e);
	} else if (rc == QL_OK) {
		rc = ql_job_move(ctl, j, QL_E_LOST, &to, e);
		if (rc == QL_OK && to == QL_S_QUEUED)
			rc = ql_job_event(ctl, j->id, "warn", NULL, -1, e, "Engine restarted, job continues from step %lld", (long long)newest);
		else if (rc == QL_OK && to == QL_S_PAUSED)
			rc = ql_job_event(ctl, j->id, "info", NULL, -1, e, "The job was paused (%s)", j->pause_reason[0] == '\0' ? "user" : j->pause_reason);
		if (rc == QL_OK)
			rc = ql_job_touch(ctl, j->id, j->project, e);
	}
	if (rc == QL_OK)
		return ql_job_commit(ctl, e);
	ql_job_rollback(ctl);
	return rc;
}

void ql_jobs_engine_lost(struct ql_control *ctl, const char *reason)
{
	struct ql_err e = {0};

	if (ql_jobs_flush(ctl, &e) != QL_OK)
		ql_log(QL_LOG_ERROR, "jobs", "events not stored: %s", e.message);
	while (ctl->jobs->live != NULL) {
		struct ql_live *l = ctl->jobs->live;
		struct ql_job j;
		int rc = ql_job_load(ctl, l->id, &j, &e);

		ql_live_drop(ctl, l);
		if (rc == QL_OK) {
			rc = lose(ctl, &j, ctl->draining ? NULL : reason, &e);
			ql_job_free(&j);
		}
		if (rc != QL_OK)
			ql_log(QL_LOG_ERROR, "jobs", "after the engine's end: %s", e.message);
	}
}

/* ---- each 10 seconds ---- */

static int by_size(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static void check_hang(struct ql_control *ctl, const struct ql_live *l)
{
	double t[16], limit;
	uint64_t idle = uv_now(ctl->loop) - l->moved_ms;

	if (!l->training || l->n_step_seconds < HANG_STEPS_KNOWN || l->phase == NULL || strcmp(l->phase, "training") != 0)
		return;
	memcpy(t, l->step_seconds, sizeof t);
	qsort(t, l->n_step_seconds < 16 ? (size_t)l->n_step_seconds : 16, sizeof t[0], by_size);
	limit = t[(l->n_step_seconds < 16 ? l->n_step_seconds : 16) / 2] * HANG_STEPS * 1000;
	if (limit < HANG_MS_MIN)
		limit = HANG_MS_MIN;
	if ((double)idle > limit) {
		ql_log(QL_LOG_ERROR, "engine", "no progress of %s for %llu s: killed", l->id, (unsigned long long)(idle / 1000));
		ql_engine_kill(ctl->engines[0], "hang");
	}
}

static void pause_for_space(struct ql_control *ctl, struct ql_live *l)
{
	struct ql_err e = {0};
	struct ql_job j;
	int rc = l->training && !l->stop_sent ? ql_job_load(ctl, l->id, &j, &e) : QL_ESTATE;

	if (rc != QL_OK)
		return;
	rc = j.state == QL_S_RUNNING ? ql_job_begin(ctl, &e) : QL_ESTATE;
	if (rc == QL_OK) {
		rc = ql_job_move(ctl, &j, QL_E_PAUSE, NULL, &e);
		if (rc == QL_OK && (rc = ql_store_run(ctl->store, &e, "UPDATE jobs SET pause_reason = 'no_space' WHERE id = ?1", "s", j.id)) >= 0)
			rc = ql_job_commit(ctl, &e);
		if (rc != QL_OK)
			ql_job_rollback(ctl);
		else
			ql_live_stop(ctl, l, "pause");
	}
	ql_job_free(&j);
}

/* Jobs that wait for space go back to the queue. */
static void resume_after_space(struct ql_control *ctl)
{
	for (;;) {
		struct ql_err e = {0};
		struct ql_job j;
		sqlite3_stmt *q = ql_store_query(
			ctl->store, &e, "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE state = 'paused' AND pause_reason = 'no_space' ORDER BY seq LIMIT 1", "");
		int rc = q == NULL ? e.code : ql_store_step(ctl->store, q, &e);

		if (rc == 1)
			rc = ql_job_read(q, &j, &e) == QL_OK ? 1 : e.code;
		ql_store_done(q);
		if (rc != 1)
			return;
		rc = ql_job_begin(ctl, &e);
		if (rc == QL_OK) {
			rc = ql_job_move(ctl, &j, QL_E_RESUME, NULL, &e);
			if (rc == QL_OK && (rc = ql_store_run(ctl->store, &e, "UPDATE jobs SET pause_reason = NULL WHERE id = ?1", "s", j.id)) >= 0)
				rc = ql_job_event(ctl, j.id, "info", NULL, -1, &e, "The job was resumed");
			if (rc == QL_OK)
				rc = ql_job_commit(ctl, &e);
			else
				ql_job_rollback(ctl);
		}
		ql_job_free(&j);
		if (rc != QL_OK) {
			ql_log(QL_LOG_ERROR, "jobs", "resume after space: %s", e.message);
			return;
		}
	}
}

void ql_jobs_tick(struct ql_control *ctl)
{
	struct ql_live *l, *next;

	for (l = ctl->jobs->live; l != NULL; l = l->next)
		check_hang(ctl, l);
	if (ql_space_ok(ctl, 0)) {
		resume_after_space(ctl);
	} else {
		for (l = ctl->jobs->live; l != NULL; l = next) {
			next = l->next;
			pause_for_space(ctl, l);
		}
	}
	ql_jobs_schedule(ctl);
}

void ql_jobs_drain(struct ql_control *ctl)
{
	struct ql_live *l, *next;

	ctl->jobs->stopping = true;
	for (l = ctl->jobs->live; l != NULL; l = next) {
		next = l->next;
		if (!l->training) {
			ql_live_stop(ctl, l, "cancel"); /* it is validated again at the next start */
			ql_live_drop(ctl, l);
		} else {
			ql_live_stop(ctl, l, "drain");
		}
	}
}

bool ql_jobs_drained(struct ql_control *ctl) { return ctl->jobs->live == NULL; }

int64_t ql_control_tick(struct ql_control *ctl, const char *job)
{
	const struct ql_live *l = job == NULL ? NULL : ql_live_find(ctl, job);

	return job == NULL ? ctl->jobs->tick : l == NULL ? 0 : l->tick;
}

/* ---- open and close ---- */

/* running and pausing jobs of the last life: their engine is gone. */
static int recover(struct ql_control *ctl, struct ql_err *e)
{
	for (;;) {
		struct ql_job j;
		sqlite3_stmt *q = ql_store_query(ctl->store, e, "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE state IN ('running', 'pausing') LIMIT 1", "");
		int rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);

		if (rc == 1)
			rc = ql_job_read(q, &j, e) == QL_OK ? 1 : e->code;
		ql_store_done(q);
		if (rc != 1)
			return rc;
		rc = lose(ctl, &j, NULL, e);
		ql_job_free(&j);
		if (rc != QL_OK)
			return rc;
	}
}

int ql_jobs_open(struct ql_control *ctl, struct ql_err *e)
{
	ctl->jobs = calloc(1, sizeof *ctl->jobs);
	if (ctl->jobs == NULL)
		return ql_err_set(e, QL_ENOMEM, "jobs");
	(void)uv_timer_init(ctl->loop, &ctl->jobs->flush);
	ctl->jobs->flush.data = ctl;
	ctl->jobs->last_seq = ql_store_int(ctl->store, 0, "SELECT max(seq) FROM events", "");
	return recover(ctl, e);
}

void ql_jobs_close(struct ql_control *ctl)
{
	struct ql_err e = {0};

	if (ctl->jobs == NULL)
		return;
	if (ql_jobs_flush(ctl, &e) != QL_OK)
		ql_log(QL_LOG_ERROR, "jobs", "events not stored: %s", e.message);
	ctl->jobs->stopping = true;
	if (!uv_is_closing((uv_handle_t *)&ctl->jobs->flush))
		uv_close((uv_handle_t *)&ctl->jobs->flush, NULL);
}

void ql_jobs_free(struct ql_control *ctl)
{
	if (ctl->jobs == NULL)
		return;
	while (ctl->jobs->live != NULL)
		ql_live_drop(ctl, ctl->jobs->live);
	while (ctl->jobs->watches != NULL)
		ql_job_watch_close(ctl->jobs->watches);
	free(ctl->jobs);
	ctl->jobs = NULL;
}
