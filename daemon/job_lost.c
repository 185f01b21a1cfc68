/* job_lost.c - jobs whose engine is gone: lost, drained, or found running at the start of control.
 *
 * Deaths of the engine are counted per job against its newest checkpoint: QL_ENGINE_DEATHS_MAX in a row without a newer one
 * fail the job, so that the queue goes on. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/jobs_internal.h"

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

	(void)snprintf(text, sizeof text, "The engine died %d times in a row in this job without progress (%s).",
			QL_ENGINE_DEATHS_MAX, reason);
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

/* ---- open and close ---- */

int ql_jobs_adopt(struct ql_control *ctl, struct ql_err *e)
{
	int64_t after = 0;

	for (;;) {
		struct ql_job j;
		sqlite3_stmt *q = ql_store_query(
			ctl->store, e, "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE state IN ('running', 'pausing') AND seq > ?1 ORDER BY seq LIMIT 1", "i", after);
		int rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);

		if (rc == 1)
			rc = ql_job_read(q, &j, e) == QL_OK ? 1 : e->code;
		ql_store_done(q);
		if (rc != 1)
			return rc;
		after = j.seq;
		rc = ql_live_find(ctl, j.id) == NULL ? lose(ctl, &j, NULL, e) : QL_OK;
		ql_job_free(&j);
		if (rc != QL_OK)
			return rc;
	}
}

int ql_jobs_open(struct ql_control *ctl, struct ql_err *e)
{
	int rc;

	ctl->jobs = calloc(1, sizeof *ctl->jobs);
	if (ctl->jobs == NULL)
		return ql_err_set(e, QL_ENOMEM, "jobs");
	(void)uv_timer_init(ctl->loop, &ctl->jobs->flush);
	ctl->jobs->flush.data = ctl;
	ctl->jobs->last_seq = ql_store_int(ctl->store, 0, "SELECT max(seq) FROM events", "");
	rc = ql_jobs_adopt(ctl, e);
	if (rc != QL_ENOSPC)
		return rc;
	ql_log(QL_LOG_WARN, "jobs", "disk full: what ran waits until there is space"); /* the tick tries again */
	return QL_OK;
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
