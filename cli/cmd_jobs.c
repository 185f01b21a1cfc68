/* cmd_jobs.c - `qlorad jobs`, `cancel`, `pause`, `resume`, `models`. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cmds.h"

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s != NULL ? s : "-";
}

static void print_row(const json_t *job)
{
	const json_t *p = json_object_get(json_object_get(job, "qlora"), "progress");
	time_t t = (time_t)json_integer_value(json_object_get(job, "created_at"));
	char when[32] = "", steps[48] = "";
	struct tm tm;

	if (localtime_r(&t, &tm) != NULL)
		(void)strftime(when, sizeof when, "%Y-%m-%d %H:%M", &tm);
	if (json_is_integer(json_object_get(p, "step")))
		(void)snprintf(steps, sizeof steps, "%lld/%lld", (long long)json_integer_value(json_object_get(p, "step")),
			       (long long)json_integer_value(json_object_get(p, "total_steps")));
	(void)printf("%-32s %-17s %-16s %-12s %s\n", text(job, "id"), when, text(job, "status"), steps, text(job, "fine_tuned_model"));
}

int cmd_jobs(const struct cli *c, int argc, char **argv)
{
	json_t *v = NULL, *job;
	char path[256] = "/v1/fine_tuning/jobs?limit=100";
	struct ql_err e;
	size_t i;
	int rc;

	if (cli_unknown(argc, argv) != NULL || argc > 1) {
		(void)fprintf(stderr, "usage: qlorad jobs [JOB]\n");
		return 2;
	}
	if (argc == 1) {
		char id[128];

		cli_escape(argv[0], id, sizeof id);
		(void)snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s", id);
	}
	rc = cli_call(c, "GET", path, NULL, &v, &e);
	if (rc != QL_OK)
		return cli_fail(&e);
	if (c->json || argc == 1)
		cli_print(v);
	else
		json_array_foreach(json_object_get(v, "data"), i, job)
			print_row(job);
	json_decref(v);
	return 0;
}

int cmd_change(const struct cli *c, const char *what, int argc, char **argv)
{
	char path[256], id[128];
	json_t *job = NULL;
	struct ql_err e;
	int rc;

	if (argc != 1 || cli_unknown(argc, argv) != NULL) {
		(void)fprintf(stderr, "usage: qlorad %s JOB\n", what);
		return 2;
	}
	cli_escape(argv[0], id, sizeof id);
	(void)snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s/%s", id, what);
	rc = cli_call(c, "POST", path, NULL, &job, &e);
	if (rc != QL_OK)
		return cli_fail(&e);
	if (c->json)
		cli_print(job);
	else
		(void)printf("%s %s\n", text(job, "id"), text(job, "status"));
	json_decref(job);
	return 0;
}

int cmd_models(const struct cli *c, int argc, char **argv)
{
	json_t *v = NULL, *m;
	struct ql_err e;
	size_t i;
	int rc;

	(void)argv;
	if (argc != 0) {
		(void)fprintf(stderr, "usage: qlorad models\n");
		return 2;
	}
	rc = cli_call(c, "GET", "/v1/models", NULL, &v, &e);
	if (rc != QL_OK)
		return cli_fail(&e);
	if (c->json)
		cli_print(v);
	else
		json_array_foreach(json_object_get(v, "data"), i, m)
			(void)printf("%s\n", text(m, "id"));
	json_decref(v);
	return 0;
}
