/* cmd_watch.c - `qlorad watch`: the job's event stream as a progress bar (a terminal), as lines (anything else), or with --json as
 * it comes, one event a line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli/cmds.h"

#define BAR 28

struct watch {
	bool tty, json, drawn;
	double first_time;
	long long first_step;
	char last_id[96];
};

static double now_s(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void format_time(double s, char *out, size_t size)
{
	long n = s < 0 ? 0 : (long)(s + 0.5);

	if (n >= 3600)
		(void)snprintf(out, size, "%ld:%02ld:%02ld", n / 3600, n / 60 % 60, n % 60);
	else
		(void)snprintf(out, size, "%ld:%02ld", n / 60, n % 60);
}

static void draw(struct watch *w, const json_t *data)
{
	long long step = json_integer_value(json_object_get(data, "step")), total = json_integer_value(json_object_get(data, "total_steps"));
	double loss = json_number_value(json_object_get(data, "train_loss")), eta = 0;
	const json_t *valid = json_object_get(data, "full_valid_loss");
	int done = total > 0 ? (int)(step * BAR / total) : 0;
	char left[32] = "?", extra[48] = "";

	if (w->first_time == 0) {
		w->first_time = now_s();
		w->first_step = step;
	} else if (step > w->first_step) {
		eta = (now_s() - w->first_time) / (double)(step - w->first_step) * (double)(total - step);
		format_time(eta, left, sizeof left);
	}
	if (json_is_number(valid))
		(void)snprintf(extra, sizeof extra, "  held-out loss %.3f", json_number_value(valid));
	if (!w->tty) {
		(void)printf("step %lld/%lld  loss %.4f  left %s%s\n", step, total, loss, left, extra);
		(void)fflush(stdout);
		return;
	}
	(void)printf("\r\033[K[");
	for (int i = 0; i < BAR; i++)
		(void)fputs(i < done ? "\xE2\x96\x88" : "\xC2\xB7", stdout);
	(void)printf("] %lld/%lld  loss %.4f  left %s%s", step, total, loss, left, extra);
	(void)fflush(stdout);
	w->drawn = true;
}

static bool on_event(void *ctx, const json_t *ev)
{
	struct watch *w = ctx;
	const char *type = json_string_value(json_object_get(ev, "type")), *message = json_string_value(json_object_get(ev, "message")),
		   *id = json_string_value(json_object_get(ev, "id"));

	if (id != NULL)
		(void)snprintf(w->last_id, sizeof w->last_id, "%s", id);
	if (w->json) {
		(void)json_dumpf(ev, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		(void)putchar('\n');
		(void)fflush(stdout);
		return true;
	}
	if (type != NULL && strcmp(type, "metrics") == 0) {
		draw(w, json_object_get(ev, "data"));
		return true;
	}
	if (w->drawn)
		(void)putchar('\n');
	w->drawn = false;
	(void)printf("%s\n", message != NULL ? message : "");
	(void)fflush(stdout);
	return true;
}

static int final_status(const struct cli *c, const char *id, bool *ended, struct ql_err *e)
{
	char path[256];
	json_t *job = NULL;
	const char *status, *message;
	int rc, exit_status = 1;

	(void)snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s", id);
	rc = cli_call(c, "GET", path, NULL, &job, e);
	if (rc != QL_OK)
		return -1;
	status = json_string_value(json_object_get(job, "status"));
	message = json_string_value(json_object_get(json_object_get(job, "error"), "message"));
	*ended = status != NULL && (strcmp(status, "succeeded") == 0 || strcmp(status, "failed") == 0 || strcmp(status, "cancelled") == 0);
	if (status != NULL && strcmp(status, "succeeded") == 0)
		exit_status = 0;
	else if (*ended && message != NULL)
		(void)fprintf(stderr, "qlorad: %s\n", message);
	json_decref(job);
	return exit_status;
}

int watch_job(const struct cli *c, const char *name)
{
	struct watch w = {.tty = isatty(STDOUT_FILENO) != 0, .json = c->json};
	char path[400], id[128];
	struct ql_err e = {0};
	bool ended = false;
	int failures = 0, status = 1;

	cli_escape(name, id, sizeof id);
	while (!ended && failures < 30) {
		int rc;

		(void)snprintf(path, sizeof path, "/v1/fine_tuning/jobs/%s/events?stream=true%s%s", id,
			       w.last_id[0] != '\0' ? "&after=" : "", w.last_id);
		rc = cli_stream(c, path, NULL, on_event, &w, &e);
		if (rc == QL_ENOTFOUND || rc == QL_EINVAL)
			return cli_fail(&e);
		status = final_status(c, id, &ended, &e);
		if (status < 0 || !ended) { /* the server went away or cut a slow stream: try again from the last event */
			failures = status < 0 ? failures + 1 : 0;
			(void)sleep(1);
		}
	}
	if (w.drawn)
		(void)putchar('\n');
	return status < 0 ? cli_fail(&e) : status;
}

int cmd_watch(const struct cli *c, int argc, char **argv)
{
	if (argc != 1 || cli_unknown(argc, argv) != NULL) {
		(void)fprintf(stderr, "usage: qlorad watch JOB\n");
		return 2;
	}
	return watch_job(c, argv[0]);
}
