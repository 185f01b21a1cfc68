/* job_publish.c - a finished job's adapter and metrics: whole or not at all, equal for equal runs. */
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "daemon/engine/job.h"

/* What was written, for those who need not read it again. */
struct copied {
	char sha256[QL_SHA256_HEX_SIZE];
	size_t bytes;
};

static int copy_file(int from, const char *name, int to, struct copied *out, struct ql_err *e)
{
	struct ql_buf b = {0};
	int rc = ql_io_read_all(from, name, (size_t)1 << 34, &b, e);

	if (rc == QL_OK)
		rc = ql_io_replace(to, name, b.len > 0 ? b.data : "", b.len, e);
	if (rc == QL_OK && out != NULL) {
		out->bytes = b.len;
		ql_sha256_hex(b.len > 0 ? b.data : "", b.len, out->sha256);
	}
	ql_buf_free(&b);
	return rc;
}

/* qlorad.json: what the adapter belongs to; no times, so that equal runs give equal files. */
static int write_sidecar(struct job *j, int fd, struct ql_err *e)
{
	json_t *o = json_pack("{s:i, s:O, s:O}", "format", 1, "identity", j->identity, "recipe", json_object_get(j->frame, "recipe"));
	char *text = o == NULL ? NULL : json_dumps(o, JSON_INDENT(1) | JSON_SORT_KEYS);
	int rc = text == NULL ? ql_err_set(e, QL_ENOMEM, "qlorad.json") : ql_io_replace(fd, "qlorad.json", text, strlen(text), e);

	free(text);
	json_decref(o);
	return rc;
}

/* The last checkpoint's adapter becomes adapters/ID, whole or not at all. */
static int publish(struct job *j, const struct ql_train_result *r, const char *name, struct ql_manifest *m, struct copied *csv,
		   struct ql_err *e)
{
	const char *files[] = {"adapter_config.json", "adapter_model.safetensors", "qlorad.json", NULL, NULL};
	int from = ql_io_open_dir(j->dir, r->final_dir, e), parent = -1, fd = -1, rc;

	if (from < 0)
		return from;
	rc = ql_io_ensure_dir(j->g->state_fd, "adapters", &parent, e);
	if (rc == QL_OK)
		rc = ql_io_remove_tree(parent, name, e); /* left by an attempt that did not commit it */
	if (rc == QL_OK)
		rc = ql_io_dir_begin(parent, name, &fd, e);
	if (rc != QL_OK)
		goto cleanup;
	for (int i = 0; rc == QL_OK && i < 2; i++)
		rc = copy_file(from, files[i], fd, NULL, e);
	if (rc == QL_OK)
		rc = write_sidecar(j, fd, e);
	if (rc == QL_OK && j->t.recipe.chat_template != NULL) {
		rc = ql_io_replace(fd, "chat_template.jinja", j->t.recipe.chat_template, strlen(j->t.recipe.chat_template), e);
		files[3] = "chat_template.jinja";
	}
	if (rc == QL_OK)
		rc = ql_manifest_write(fd, files, m, e);
	if (rc == QL_OK)
		rc = ql_io_dir_publish(parent, name, fd, e);
	else
		ql_io_dir_abort(parent, name, fd);
	if (rc == QL_OK)
		rc = copy_file(from, "step_metrics.csv", j->dir, csv, e);
cleanup:
	(void)close(from);
	if (parent >= 0)
		(void)close(parent);
	return rc;
}

int engine_job_finish(struct job *j, const struct ql_train_result *r, struct ql_err *e)
{
	const char *target = NULL;
	char path[320];
	struct ql_manifest m;
	struct copied csv;
	json_t *o;
	int rc = ql_json_get_str(j->frame, "publish", 1, 256, &target, e);

	if (rc == QL_OK && (target == NULL || strncmp(target, "adapters/", 9) != 0))
		rc = ql_err_param(e, QL_EINVAL, "publish", "start without a place for the adapter");
	if (rc != QL_OK)
		return rc;
	engine_job_phase(j, "publishing");
	rc = publish(j, r, target + 9, &m, &csv, e);
	if (rc != QL_OK)
		return rc;
	o = engine_job_frame(j, "done");
	(void)json_object_set_new(o, "step", json_integer((json_int_t)r->step));
	(void)json_object_set_new(o, "trained_tokens", json_integer((json_int_t)r->trained_tokens));
	(void)json_object_set_new(o, "early", json_boolean(r->early));
	(void)json_object_set_new(o, "dir", json_string(target));
	(void)json_object_set_new(o, "manifest_sha256", json_string(m.sha256));
	(void)json_object_set_new(o, "bytes", json_integer((json_int_t)m.bytes));
	(void)snprintf(path, sizeof path, "%s/step_metrics.csv", json_string_value(json_object_get(j->frame, "dir")));
	(void)json_object_set_new(o, "csv", json_string(path));
	(void)json_object_set_new(o, "csv_sha256", json_string(csv.sha256));
	(void)json_object_set_new(o, "csv_bytes", json_integer((json_int_t)csv.bytes));
	engine_send(o);
	return QL_OK;
}

