/* task.c - threads that own one frame: previews, imports, validations (engine.h).
 *
 * A task is in g->tasks from its start until its thread needs the engine no more; the drain asks all to end early and waits for the
 * list to be empty, so that nothing reads a tokenizer or a model that is being freed. */
#include <stdlib.h>
#include <string.h>

#include "daemon/engine/engine.h"

static void unlink_task(struct engine_task *t)
{
	struct engine *g = t->g;
	struct engine_task **p = &g->tasks;

	(void)pthread_mutex_lock(&g->lock);
	while (*p != t)
		p = &(*p)->next;
	*p = t->next;
	(void)pthread_cond_broadcast(&g->idle);
	(void)pthread_mutex_unlock(&g->lock);
}

static void task_free(struct engine_task *t)
{
	json_decref(t->frame);
	free(t);
}

static void *task_main(void *arg)
{
	struct engine_task *t = arg;
	struct ql_err e = {0};
	json_t *out = NULL;
	int rc = t->kind->work(t, &out, &e);

	(void)pthread_mutex_lock(&t->g->lock);
	t->done = true; /* who gets the answer may ask again at once */
	(void)pthread_mutex_unlock(&t->g->lock);
	t->kind->answer(t, rc, out, &e);
	unlink_task(t);
	task_free(t);
	return NULL;
}

/* Links it unless its kind runs alone and another one is at work. */
static bool enter(struct engine_task *t)
{
	struct engine *g = t->g;
	bool busy = false;

	(void)pthread_mutex_lock(&g->lock);
	for (const struct engine_task *x = g->tasks; x != NULL; x = x->next)
		busy = busy || (t->kind->alone && x->kind == t->kind && !x->done);
	if (!busy) {
		t->next = g->tasks;
		g->tasks = t;
	}
	(void)pthread_mutex_unlock(&g->lock);
	return !busy;
}

int engine_task_start(struct engine *g, const struct engine_task_kind *kind, const json_t *frame, struct ql_err *e)
{
	struct engine_task *t = calloc(1, sizeof *t);
	pthread_t thread;

	if (t == NULL)
		return ql_err_set(e, QL_ENOMEM, "%s", kind->name);
	t->g = g;
	t->kind = kind;
	t->frame = json_incref((json_t *)(uintptr_t)frame);
	t->id = json_integer_value(json_object_get(frame, "id"));
	if (!enter(t)) {
		task_free(t);
		return ql_err_set(e, QL_EBUSY, "another %s is under way", kind->name);
	}
	if (pthread_create(&thread, NULL, task_main, t) != 0) {
		unlink_task(t);
		task_free(t);
		return ql_err_set(e, QL_ENOMEM, "no thread for the %s", kind->name);
	}
	(void)pthread_detach(thread); /* awaited through the list */
	return QL_OK;
}

int engine_task_cancelled(void *task) { return ((struct engine_task *)task)->cancelled; }

void engine_task_answer(struct engine_task *t, int rc, json_t *out, const struct ql_err *e)
{
	if (rc == QL_OK) {
		engine_send_result(t->id, out);
		return;
	}
	json_decref(out);
	engine_send_error(t->id, e);
}

void engine_tasks_cancel(struct engine *g, const char *job, int64_t attempt)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct engine_task *t = g->tasks; t != NULL; t = t->next) {
		const char *own = json_string_value(json_object_get(t->frame, "job"));

		if (own != NULL && strcmp(own, job) == 0 && json_integer_value(json_object_get(t->frame, "attempt")) == attempt)
			t->cancelled = true;
	}
	(void)pthread_mutex_unlock(&g->lock);
}

void engine_tasks_drain(struct engine *g)
{
	(void)pthread_mutex_lock(&g->lock);
	for (struct engine_task *t = g->tasks; t != NULL; t = t->next)
		t->cancelled = true;
	while (g->tasks != NULL)
		(void)pthread_cond_wait(&g->idle, &g->lock);
	(void)pthread_mutex_unlock(&g->lock);
}
