/* The registry of metrics and both texts. */
#include "tests/unit/cm.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/err.h"
#include "daemon/metrics.h"

static void has(const struct ql_buf *b, const char *text)
{
	if (strstr(b->data, text) == NULL)
		print_error("missing: %s\n%s", text, b->data);
	assert_non_null(strstr(b->data, text));
}

static void text(void **state)
{
	struct ql_metrics *m = ql_metrics_new(false);
	struct ql_buf b = {0};

	(void)state;
	ql_metrics_add(m, QLM_HTTP_REQUESTS, "route=\"/a\"", 2);
	ql_metrics_add(m, QLM_HTTP_REQUESTS, "route=\"/a\"", 1);
	ql_metrics_set(m, QLM_ENGINE_UP, "", 1);
	ql_metrics_observe(m, QLM_JOB_STEP_SECONDS, "", 0.05); /* the bound itself belongs to the bucket */
	ql_metrics_observe(m, QLM_JOB_STEP_SECONDS, "", 0.3);
	ql_metrics_observe(m, QLM_JOB_STEP_SECONDS, "", 1000);
	ql_metrics_observe(m, QLM_JOB_STEP_SECONDS, "", NAN);
	ql_metrics_set(m, QLM_ENGINE_UP, "", INFINITY);
	ql_metrics_add(m, QLM_V_PREEMPTIONS, "", 1);
	assert_int_equal(ql_metrics_render(m, false, &b), QL_OK);
	has(&b, "# TYPE qlorad_http_requests_total counter\nqlorad_http_requests_total{route=\"/a\"} 3\n");
	has(&b, "\nqlorad_engine_up 1\n");
	has(&b, "qlorad_job_step_seconds_bucket{le=\"0.05\"} 1\n");
	has(&b, "qlorad_job_step_seconds_bucket{le=\"0.25\"} 1\n");
	has(&b, "qlorad_job_step_seconds_bucket{le=\"0.5\"} 2\n");
	has(&b, "qlorad_job_step_seconds_bucket{le=\"+Inf\"} 3\n");
	has(&b, "qlorad_job_step_seconds_count 3\n");
	assert_null(strstr(b.data, "vllm:"));
	assert_null(strstr(b.data, "nan"));
	assert_null(strstr(b.data, "EOF"));
	ql_buf_reset(&b);
	assert_int_equal(ql_metrics_render(m, true, &b), QL_OK);
	has(&b, "# TYPE qlorad_http_requests counter\nqlorad_http_requests_total{");
	assert_string_equal(b.data + b.len - 6, "# EOF\n");
	assert_true(ql_metrics_value(m, QLM_JOB_STEP_SECONDS, "") == 3);
	ql_metrics_drop(m, QLM_HTTP_REQUESTS, NULL);
	assert_true(ql_metrics_value(m, QLM_HTTP_REQUESTS, "route=\"/a\"") == 0);
	ql_metrics_free(m);
	ql_buf_free(&b);
}

static void labels(void **state)
{
	char out[64], small[12];

	(void)state;
	ql_metrics_labels(out, sizeof out, "a", "x\"y\\z\n", "b", "2", (char *)NULL);
	assert_string_equal(out, "a=\"x\\\"y\\\\z\\n\",b=\"2\"");
	ql_metrics_labels(small, sizeof small, "a", "1", "long", "value", (char *)NULL);
	assert_string_equal(small, "a=\"1\"");
}

static void guard(void **state)
{
	struct ql_metrics *m = ql_metrics_new(true);
	char name[32];

	(void)state;
	for (int i = 0; i < 3000; i++) { /* a label that is not a closed set costs bounded memory */
		(void)snprintf(name, sizeof name, "x=\"%d\"", i);
		ql_metrics_add(m, QLM_HTTP_REQUESTS, name, 1);
	}
	assert_true(ql_metrics_value(m, QLM_HTTP_REQUESTS, "x=\"0\"") == 1);
	assert_true(ql_metrics_value(m, QLM_HTTP_REQUESTS, "x=\"2999\"") == 0);
	ql_metrics_free(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(text), cmocka_unit_test(labels), cmocka_unit_test(guard)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
