/* jobs.c - frames `start` and `stop`: one thread for each running job, from its start to its last frame. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/json.h"
#include "core/text/tmpl/tmpl.h"
#include "daemon/engine/job.h"

/* What a job fails with.  prepared: its files and settings were read. */
static const char *failure_code(int rc, bool prepared, const struct ql_err *e)
{
	if (!prepared && (strcmp(e->param, "invalid_training_file") == 0 || strcmp(e->param, "invalid_n_examples") == 0))
		return e->param; /* the file is not the one that was validated */
	switch (rc) {
	case QL_ENONFINITE:
		return "non_finite_loss";
	case QL_ENODEVMEM:
	case QL_ENOMEM:
		return "not_enough_memory";
	case QL_EMISMATCH:
	case QL_EFORMAT:
		return "checkpoint_invalid";
	case QL_ENOTFOUND:
		return prepared ? "internal_error" : "file_expired";
	case QL_ENOSPC:
		return "no_space";
	default:
		return "internal_error";
	}
}

/* The checkpoint to go on from does not read back.  One that was made with another base, recipe or data set (QL_EMISMATCH) does: all
 * before it are the same in that, and none may be given up for it. */
static bool is_damaged(const struct job *j, int rc)
{
	return j->t.resume != NULL && !j->started &&
	       (rc == QL_EFORMAT || rc == QL_ENOTFOUND || rc == QL_ELIMIT || rc == QL_EINVAL || rc == QL_EIO);
}

static void fail(struct job *j, int rc, bool prepared, uint64_t step, const struct ql_err *e)
{
	if (prepared && is_damaged(j, rc))
		engine_job_failed(j, step, "checkpoint_invalid", j->t.resume, e);
	else
		engine_job_failed(j, step, failure_code(rc, prepared, e), NULL, e);
}

static void job_free(struct job *j)
{
	if (j->dir >= 0)
		(void)close(j->dir);
	ql_dataset_free(j->data);
	ql_dataset_free(j->valid);
	ql_tmpl_free(j->own_template);
	ql_adapter_file_free(&j->init);
	json_decref(j->identity);
	json_decref(j->plan);
	json_decref(j->frame);
	free(j);
}

static void unlink_job(struct job *j)
{
	struct engine *g = j->g;
	struct job **p = &g->jobs;

	(void)pthread_mutex_lock(&g->lock);
	while (*p != j)
		p = &(*p)->next;
	*p = j->next;
	(void)pthread_cond_broadcast(&g->idle);
	(void)pthread_mutex_unlock(&g->lock);
}

/* Control starts the next job at once when one is cancelled; the cancelled one ends with its step, and gives its memory back only
 * then.  A plan made before that would refuse what fits. */
void engine_job_await_cancelled(struct job *j)
{
	struct engine *g = j->g;
	bool others;

	(void)pthread_mutex_lock(&g->lock);
	do {
		others = false;
		for (const struct job *x = g->jobs; x != NULL; x = x->next)
			others = others || (x != j && x->stop == QL_TRAIN_CANCEL);
		if (others && j->stop == QL_TRAIN_GO)
			(void)pthread_cond_wait(&g->idle, &g->lock);
	} while (others && j->stop == QL_TRAIN_GO);
	(void)pthread_mutex_unlock(&g->lock);
}

static void *job_main(void *arg)
{
	struct job *j = arg;
	struct ql_train_result r = {0};
	struct ql_err e = {0};
	bool prepared;
	int rc;

	engine_job_phase(j, "loading");
	rc = engine_job_prepare(j, &e);
	prepared = rc == QL_OK;
	if (prepared) {
		engine_job_await_cancelled(j);
		rc = ql_train_run(&j->t, &r, &e);
	}
	engine_check_device(rc, &e);
	if (rc == QL_OK && !r.stopped)
		rc = engine_job_finish(j, &r, &e);
	if (rc == QL_ECANCELLED || (rc == QL_OK && r.stopped))
		engine_job_stopped(j, r.step);
	else if (rc != QL_OK)
		fail(j, rc, prepared, r.step, &e);
	unlink_job(j);
	job_free(j);
	return NULL;
}

void engine_job_start(struct engine *g, json_t *frame)
{
	const char *id = json_string_value(json_object_get(frame, "job"));
	struct job *j = calloc(1, sizeof *j);
	struct ql_err e = {0};

	if (j == NULL || id == NULL) {
		(void)ql_err_set(&e, QL_EFORMAT, "a start frame without job, or no memory");
		engine_fatal(70, &e);
	}
	j->g = g;
	j->frame = json_incref(frame);
	j->dir = -1;
	(void)snprintf(j->id, sizeof j->id, "%s", id);
	(void)snprintf(j->stop_mode, sizeof j->stop_mode, "pause");
	j->attempt = json_integer_value(json_object_get(frame, "attempt"));
	(void)pthread_mutex_lock(&g->lock);
	j->next = g->jobs;
	g->jobs = j;
	(void)pthread_mutex_unlock(&g->lock);
	if (pthread_create(&j->thread, NULL, job_main, j) != 0) {
		(void)ql_err_set(&e, QL_ENOMEM, "no thread for the job");
		engine_job_failed(j, 0, "internal_error", NULL, &e);
		unlink_job(j);
		job_free(j);
		return;
	}
	(void)pthread_detach(j->thread);
}

void engine_job_stop(struct engine *g, const json_t *frame)
{
	const char *id = json_string_value(json_object_get(frame, "job")), *mode = json_string_value(json_object_get(frame, "mode"));

	if (id == NULL || mode == NULL)
		return;
	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		if (strcmp(j->id, id) == 0 && j->attempt == json_integer_value(json_object_get(frame, "attempt"))) {
			(void)snprintf(j->stop_mode, sizeof j->stop_mode, "%s", mode);
			j->stop = strcmp(mode, "cancel") == 0 ? QL_TRAIN_CANCEL : QL_TRAIN_PAUSE;
		}
	(void)pthread_cond_broadcast(&g->idle); /* one that waits for another to end is to stop too */
	(void)pthread_mutex_unlock(&g->lock);
	engine_tasks_cancel(g, id, json_integer_value(json_object_get(frame, "attempt"))); /* a validation knows only this */
}

uint64_t engine_jobs_memory(struct engine *g)
{
	uint64_t sum = 0;

	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		sum += j->held;
	(void)pthread_mutex_unlock(&g->lock);
	return sum;
}

void engine_jobs_drain(struct engine *g)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct job *j = g->jobs; j != NULL; j = j->next)
		if (j->stop == QL_TRAIN_GO) {
			(void)snprintf(j->stop_mode, sizeof j->stop_mode, "drain");
			j->stop = QL_TRAIN_PAUSE;
		}
	(void)pthread_cond_broadcast(&g->idle);
	while (g->jobs != NULL)
		(void)pthread_cond_wait(&g->idle, &g->lock);
	(void)pthread_mutex_unlock(&g->lock);
}
