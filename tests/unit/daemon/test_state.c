/* Walks every cell of the job state table, and prints it: the table of the documentation. */
#include "tests/unit/cm.h"

#include <stdio.h>
#include <string.h>

#include "daemon/job_state.h"

/* api.md §5.6, written down once more by hand: "-" refused, "=" harmless repeat, else the next state. */
static const char *const expected[QL_S_COUNT][QL_E_COUNT] = {
	/* files good, held, picked, finished, fault, lost, no space, stopped, pause, resume, cancel */
	[QL_S_VALIDATING] = {"queued", "paused", "-", "-", "failed", "=", "-", "-", "-", "-", "cancelled"},
	[QL_S_QUEUED] = {"-", "-", "running", "-", "failed", "-", "-", "-", "paused", "=", "cancelled"},
	[QL_S_RUNNING] = {"-", "-", "-", "succeeded", "failed", "queued", "paused", "queued", "pausing", "=", "cancelled"},
	[QL_S_PAUSING] = {"-", "-", "-", "succeeded", "failed", "paused", "paused", "paused", "=", "running", "cancelled"},
	[QL_S_PAUSED] = {"-", "-", "-", "-", "-", "-", "-", "-", "=", "queued", "cancelled"},
	[QL_S_SUCCEEDED] = {"-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"},
	[QL_S_FAILED] = {"-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "-"},
	[QL_S_CANCELLED] = {"-", "-", "-", "-", "-", "-", "-", "-", "-", "-", "="},
};

static void all_cells(void **state)
{
	(void)state;
	for (int s = 0; s < QL_S_COUNT; s++)
		for (int e = 0; e < QL_E_COUNT; e++) {
			const struct ql_job_edge *g = ql_job_edge((enum ql_job_state)s, (enum ql_job_happening)e);
			const char *text = !g->legal ? "-" : g->same ? "=" : ql_job_state_names[g->to];

			printf("%-10s | %-11s | %s\n", ql_job_state_names[s], ql_job_happening_names[e], text);
			assert_string_equal(text, expected[s][e]);
			if (g->legal && g->same)
				assert_int_equal(g->to, s);
			if (g->legal && !g->same)
				assert_int_not_equal(g->to, s);
		}
}

static void names(void **state)
{
	(void)state;
	for (int s = 0; s < QL_S_COUNT; s++) {
		assert_int_equal(ql_job_state_of(ql_job_state_names[s]), s);
		assert_non_null(ql_job_status((enum ql_job_state)s, "queued"));
	}
	assert_int_equal(ql_job_state_of("nonsense"), QL_S_COUNT);
	assert_string_equal(ql_job_status(QL_S_PAUSING, "paused"), "paused");
	assert_string_equal(ql_job_status(QL_S_PAUSED, "queued"), "queued");
	assert_string_equal(ql_job_status(QL_S_VALIDATING, "paused"), "validating_files");
}

/* Every state that is not final has a way to a final one; final ones have no way out. */
static void ends(void **state)
{
	(void)state;
	for (int s = 0; s < QL_S_COUNT; s++) {
		bool cancel = ql_job_edge((enum ql_job_state)s, QL_E_CANCEL)->legal;

		if (!ql_job_state_final((enum ql_job_state)s))
			assert_true(cancel);
		for (int e = 0; e < QL_E_COUNT && ql_job_state_final((enum ql_job_state)s); e++)
			assert_true(!ql_job_edge((enum ql_job_state)s, (enum ql_job_happening)e)->legal ||
				    ql_job_edge((enum ql_job_state)s, (enum ql_job_happening)e)->same);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(all_cells), cmocka_unit_test(names), cmocka_unit_test(ends)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
