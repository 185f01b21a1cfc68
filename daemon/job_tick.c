/* job_tick.c - what is looked at every 10 s: engines that make no progress, jobs whose end could not be stored, and disk space
 * (robustness.md §3.6, §6.2). */
#include <stdlib.h>
#include <string.h>

#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"

#define HANG_MS_MIN 60000
#define HANG_STEPS 20
#define HANG_STEPS_KNOWN 5

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
	struct ql_err e = {0};

	for (l = ctl->jobs->live; l != NULL; l = l->next)
		check_hang(ctl, l);
	if (ql_jobs_adopt(ctl, &e) != QL_OK)
		ql_log(QL_LOG_WARN, "jobs", "what ran before waits: %s", e.message);
	ql_ckpt_sweep_ended(ctl);
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
