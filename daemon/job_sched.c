/* job_sched.c - what the engine is given: one validation at a time, then queued jobs by priority and age, up to
 * max_running_jobs.  Every start is committed (queued → running, attempt + 1) before the engine hears of it. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"
#include "daemon/models_internal.h"
#include "daemon/sweep.h"

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
	if (ql_job_fail(ctl, j, "file_expired", training ? "validation_file" : "training_file",
			"A file of the job no longer exists.", &e) != QL_OK)
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
	struct ql_who who = {.scopes = QL_SCOPE_ADMIN}; /* who made the job was asked then; an admin's may be of another project */
	struct ql_model_ref ref;
	struct ql_err e = {0};

	dir[0] = '\0';
	if (j->adapter_from[0] == '\0')
		return true;
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
	if (ql_live_add(ctl, j, j->attempt + 1, true) == NULL || send_start(ctl, j, ckpt.dir, from, e) != QL_OK)
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
	if (files_live(ctl, &j) && (ql_live_add(ctl, &j, j.attempt, false) == NULL || send_validate(ctl, &j, &e) != QL_OK))
		ql_engine_kill(ctl->engines[0], "exit");
	ql_job_free(&j);
	return true;
}

/* A start that failed for want of space or memory is tried again; any other would keep the whole queue behind it for ever. */
static bool may_pass(const struct ql_control *ctl, int rc)
{
	return rc == QL_ENOSPC || rc == QL_EBUSY || rc == QL_ENOMEM || ql_store_broken(ctl->store);
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
	if (rc != QL_OK && !may_pass(ctl, rc))
		rc = ql_job_fail(ctl, &j, "internal_error", NULL, "The job's directory cannot be used.", &e);
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

void ql_jobs_engine_ready(struct ql_control *ctl)
{
	struct ql_err e = {0};

	if (ql_jobs_adopt(ctl, &e) != QL_OK)
		ql_log(QL_LOG_WARN, "jobs", "what ran before waits: %s", e.message);
	ql_jobs_schedule(ctl);
}
