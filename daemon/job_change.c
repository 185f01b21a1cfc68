/* job_change.c - every change of a job: one transaction with the new state, its events and the revision; after the commit
 * the watchers are told and the scheduler is woken.  A transition is a conditional update (state and attempt must still be
 * what they were), so a stale frame changes nothing. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "core/base/utf8.h"
#include "daemon/jobs_internal.h"
#include "daemon/revision.h"

int ql_job_begin(struct ql_control *ctl, struct ql_err *e)
{
	ctl->jobs->n_touched = 0;
	return ql_store_begin(ctl->store, e);
}

void ql_job_rollback(struct ql_control *ctl)
{
	ctl->jobs->n_touched = 0;
	ql_store_rollback(ctl->store);
}

/* A callback may close its own watch or another: the list is searched anew after each. */
static void tell(struct ql_control *ctl, const char *id)
{
	struct ql_job_watch *w;

	for (w = ctl->jobs->watches; w != NULL; w = w->next)
		w->due = w->due || strcmp(w->id, id) == 0;
	for (;;) {
		for (w = ctl->jobs->watches; w != NULL && !w->due; w = w->next)
			;
		if (w == NULL)
			return;
		w->due = false;
		w->notify(w->user);
	}
}

int ql_job_commit(struct ql_control *ctl, struct ql_err *e)
{
	char touched[QL_TOUCHED_MAX][QL_ID_SIZE];
	size_t n = ctl->jobs->n_touched;
	int rc = ql_store_commit(ctl->store, e);

	ctl->jobs->n_touched = 0;
	if (rc != QL_OK)
		return rc;
	memcpy(touched, ctl->jobs->touched, sizeof touched);
	for (size_t i = 0; i < n; i++)
		tell(ctl, touched[i]);
	return QL_OK;
}

int ql_job_touch(struct ql_control *ctl, const char *id, const char *project, struct ql_err *e)
{
	struct ql_jobs *jobs = ctl->jobs;
	int64_t own = 0, all = 0;
	int rc;

	for (size_t i = 0; i < jobs->n_touched; i++)
		if (strcmp(jobs->touched[i], id) == 0)
			return QL_OK;
	if (jobs->n_touched == QL_TOUCHED_MAX)
		return ql_err_set(e, QL_EINTERNAL, "too many jobs in one transaction");
	rc = ql_revision_bump(ctl, project, &own, &all, e);
	if (rc != QL_OK)
		return rc;
	rc = ql_store_run(ctl->store, e, "UPDATE jobs SET revision = ?2, revision_all = ?3 WHERE id = ?1", "sii", id, own, all);
	if (rc < 0)
		return rc;
	(void)snprintf(jobs->touched[jobs->n_touched++], QL_ID_SIZE, "%s", id);
	return QL_OK;
}

int ql_job_move(struct ql_control *ctl, const struct ql_job *j, enum ql_job_happening what, enum ql_job_state *to, struct ql_err *e)
{
	const struct ql_job_edge *g = ql_job_edge(j->state, what);
	int rc;

	if (!g->legal)
		return ql_err_set(e, QL_ESTATE, "The job is %s: '%s' is not possible.", ql_job_state_names[j->state],
				  ql_job_happening_names[what]);
	if (to != NULL)
		*to = g->to;
	if (g->same)
		return QL_OK;
	rc = ql_store_run(ctl->store, e,
			  "UPDATE jobs SET state = ?4, attempt = attempt + ?5, finished_at = CASE WHEN ?6 > 0 THEN ?6 ELSE finished_at END"
			  " WHERE id = ?1 AND state = ?2 AND attempt = ?3",
			  "ssisii", j->id, ql_job_state_names[j->state], j->attempt, ql_job_state_names[g->to],
			  (int64_t)(what == QL_E_PICKED), ql_job_state_final(g->to) ? (int64_t)time(NULL) : (int64_t)0);
	if (rc < 0)
		return rc;
	if (rc == 0)
		return ql_err_set(e, QL_ESTATE, "The job has changed meanwhile.");
	ql_log(QL_LOG_INFO, "jobs", "%s: %s -> %s", j->id, ql_job_state_names[j->state], ql_job_state_names[g->to]);
	return ql_job_touch(ctl, j->id, j->project, e);
}

#define EVENT_DIGITS 12 /* of base 36: they last for 150,000 years of microseconds */

/* Microseconds, made unique: order within a job, and the digits an id starts with. */
static int64_t next_seq(struct ql_control *ctl)
{
	struct timespec now;
	int64_t us;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	us = (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
	if (us <= ctl->jobs->last_seq)
		us = ctl->jobs->last_seq + 1;
	return ctl->jobs->last_seq = us;
}

static void event_id(int64_t seq, char out[QL_ID_SIZE])
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";

	ql_id_make(out, "ftevent-");
	for (int i = 8 + EVENT_DIGITS - 1; i >= 8; i--) {
		out[i] = digits[seq % 36];
		seq /= 36;
	}
}

/* When a job has too many metrics events, every second of the older half goes. */
static int thin(struct ql_control *ctl, const char *id, struct ql_err *e)
{
	int rc;

	if (ql_store_int(ctl->store, 0, "SELECT metrics_events FROM jobs WHERE id = ?1", "s", id) <= QL_JOB_METRICS_MAX)
		return QL_OK;
	rc = ql_store_run(ctl->store, e,
			  "DELETE FROM events WHERE seq IN (SELECT seq FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS n FROM events"
			  " WHERE job = ?1 AND type = 'metrics') WHERE n % 2 = 0 AND n < ?2)",
			  "si", id, (int64_t)QL_JOB_METRICS_MAX / 2);
	if (rc >= 0)
		rc = ql_store_run(ctl->store, e,
				  "UPDATE jobs SET metrics_events = (SELECT count(*) FROM events WHERE job = ?1 AND type = 'metrics') WHERE id = ?1",
				  "s", id);
	return rc < 0 ? rc : QL_OK;
}

static int count_metrics(struct ql_control *ctl, const char *id, struct ql_err *e)
{
	int rc = ql_store_run(ctl->store, e, "UPDATE jobs SET metrics_events = metrics_events + 1 WHERE id = ?1", "s", id);

	return rc < 0 ? rc : thin(ctl, id, e);
}

/* A job that is paused and resumed for ever keeps its newest messages. */
static int drop_old_messages(struct ql_control *ctl, const char *id, struct ql_err *e)
{
	int rc = ql_store_run(ctl->store, e,
			      "DELETE FROM events WHERE job = ?1 AND type = 'message' AND seq < (SELECT seq FROM events WHERE job = ?1 AND"
			      " type = 'message' ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
			      "si", id, (int64_t)QL_JOB_MESSAGES_MAX - 1);

	return rc < 0 ? rc : QL_OK;
}

int64_t ql_job_event_seq(struct ql_control *ctl, const char *event, const char *job, int64_t unknown)
{
	int64_t seq = ql_store_int(ctl->store, -1, "SELECT seq FROM events WHERE id = ?1 AND job = ?2", "ss", event, job);

	if (seq >= 0)
		return seq;
	if (!ql_id_ok(event, "ftevent-"))
		return unknown;
	seq = 0; /* thinned out meanwhile: its place is in its id; 36^12 < 2^63 */
	for (int i = 8; i < 8 + EVENT_DIGITS; i++)
		seq = seq * 36 + (event[i] <= '9' ? event[i] - '0' : event[i] - 'a' + 10);
	return seq;
}

int ql_job_event(struct ql_control *ctl, const char *id, const char *level, const json_t *data, int64_t step, struct ql_err *e,
		 const char *fmt, ...)
{
	int64_t seq = next_seq(ctl);
	char event[QL_ID_SIZE], message[1024];
	size_t whole;
	char *text;
	va_list ap;
	int rc;

	va_start(ap, fmt);
	(void)vsnprintf(message, sizeof message, fmt, ap);
	va_end(ap);
	whole = ql_utf8_whole(message, strlen(message)); /* the cut may have split a character */
	message[whole] = '\0';
	if (!ql_utf8_valid(message, whole, &whole))
		message[whole] = '\0';
	event_id(seq, event);
	text = data == NULL ? strdup("{}") : ql_json_text(data);
	if (text == NULL)
		return ql_err_set(e, QL_ENOMEM, "event");
	rc = ql_store_run(ctl->store, e,
			  step < 0 ? "INSERT INTO events (seq, id, job, created_at, level, message, type, data) VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'message', ?7)"
				   : "INSERT OR IGNORE INTO events (seq, id, job, created_at, level, message, type, data, step)"
				     " VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'metrics', ?7, ?8)",
			  step < 0 ? "ississs" : "ississsi", seq, event, id, (int64_t)time(NULL), level, message, text, step);
	free(text);
	if (rc < 0)
		return rc;
	if (step < 0)
		return drop_old_messages(ctl, id, e);
	return rc > 0 ? count_metrics(ctl, id, e) : QL_OK;
}

int ql_job_fail(struct ql_control *ctl, const struct ql_job *j, const char *code, const char *param, const char *message,
		struct ql_err *e)
{
	int rc = ql_job_begin(ctl, e);

	if (rc != QL_OK)
		return rc;
	rc = ql_job_move(ctl, j, QL_E_FAULT, NULL, e);
	if (rc == QL_OK) {
		rc = ql_store_run(ctl->store, e, "UPDATE jobs SET error_code = ?2, error_message = ?3, error_param = ?4 WHERE id = ?1", "ssss",
				  j->id, code, message, param);
		rc = rc < 0 ? rc : ql_job_event(ctl, j->id, "error", NULL, -1, e, "The job failed: %s", code);
	}
	if (rc == QL_OK)
		return ql_job_commit(ctl, e);
	ql_job_rollback(ctl);
	return rc;
}
