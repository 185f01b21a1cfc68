/* Threads that own a frame (daemon/engine/task.c): one at a time where asked, ended early by their job's name or by the drain, which
 * waits for all. */
#include "tests/unit/cm.h"

#include <jansson.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/engine.h"

static _Atomic int begun, answered, was_cancelled;
static _Atomic bool let_go;

static int wait_work(struct engine_task *t, json_t **out, struct ql_err *e)
{
	begun++;
	while (!let_go && !engine_task_cancelled(t))
		(void)usleep(1000);
	*out = json_integer(t->id);
	return t->cancelled ? ql_err_set(e, QL_ECANCELLED, "ended") : QL_OK;
}

static void wait_answer(struct engine_task *t, int rc, json_t *out, const struct ql_err *e)
{
	assert_int_equal(json_integer_value(out), t->id);
	assert_int_equal(e->code, rc);
	was_cancelled += rc == QL_ECANCELLED;
	json_decref(out);
	(void)usleep(20000); /* the drain waits for this too */
	answered++;
}

static const struct engine_task_kind many = {.name = "one of many", .work = wait_work, .answer = wait_answer};
static const struct engine_task_kind alone = {.name = "hermit", .alone = true, .work = wait_work, .answer = wait_answer};

static int engine_new(void **state)
{
	static struct engine g;

	memset(&g, 0, sizeof g);
	(void)pthread_mutex_init(&g.lock, NULL);
	(void)pthread_cond_init(&g.idle, NULL);
	begun = answered = was_cancelled = 0;
	let_go = false;
	*state = &g;
	return 0;
}

static int start(struct engine *g, const struct engine_task_kind *kind, int id, const char *job, struct ql_err *e)
{
	json_t *f = json_pack("{s:i, s:s?, s:i}", "id", id, "job", job, "attempt", 2);
	int rc = engine_task_start(g, kind, f, e);

	json_decref(f); /* the task has its own */
	return rc;
}

static void until(_Atomic int *n, int want)
{
	for (int i = 0; *n < want; i++) {
		assert_true(i < 20000);
		(void)usleep(1000);
	}
}

static void test_alone(void **state)
{
	struct engine *g = *state;
	struct ql_err e = {0};

	assert_int_equal(start(g, &alone, 1, NULL, &e), QL_OK);
	assert_int_equal(start(g, &alone, 2, NULL, &e), QL_EBUSY);
	assert_non_null(strstr(e.message, "another hermit"));
	assert_int_equal(start(g, &many, 3, NULL, &e), QL_OK);
	assert_int_equal(start(g, &many, 4, NULL, &e), QL_OK);
	until(&begun, 3);
	let_go = true;
	until(&answered, 3);
	engine_tasks_drain(g);
	assert_true(answered == 3 && was_cancelled == 0 && g->tasks == NULL);
	assert_int_equal(start(g, &alone, 5, NULL, &e), QL_OK);
	engine_tasks_drain(g);
	assert_int_equal(answered, 4);
}

static void test_drain_ends_and_waits(void **state)
{
	struct engine *g = *state;
	struct ql_err e = {0};

	for (int i = 0; i < 8; i++)
		assert_int_equal(start(g, &many, i, "ftjob-x", &e), QL_OK);
	assert_int_equal(start(g, &alone, 9, NULL, &e), QL_OK);
	engine_tasks_drain(g); /* even those that have not begun */
	assert_true(answered == 9 && was_cancelled == 9 && g->tasks == NULL);
	engine_tasks_drain(g);
}

static void test_cancel_names_one(void **state)
{
	struct engine *g = *state;
	struct ql_err e = {0};

	assert_int_equal(start(g, &many, 1, "ftjob-a", &e), QL_OK);
	assert_int_equal(start(g, &many, 2, "ftjob-b", &e), QL_OK);
	until(&begun, 2);
	engine_tasks_cancel(g, "ftjob-a", 1); /* an older attempt */
	engine_tasks_cancel(g, "ftjob-c", 2);
	(void)usleep(30000);
	assert_int_equal(answered, 0);
	engine_tasks_cancel(g, "ftjob-a", 2);
	until(&answered, 1);
	assert_int_equal(was_cancelled, 1);
	let_go = true;
	until(&answered, 2);
	assert_int_equal(was_cancelled, 1);
	engine_tasks_drain(g);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_alone, engine_new),
		cmocka_unit_test_setup(test_drain_ends_and_waits, engine_new),
		cmocka_unit_test_setup(test_cancel_names_one, engine_new),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
