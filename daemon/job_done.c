/* job_done.c - frame `done`: result file, model row, state and events in one transaction; see api.md §7.2. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"
#include "daemon/models_internal.h"

/* The engine has written jobs/ID/step_metrics.csv, durably, and told its hash; it becomes a file object without being read here. */
static int publish_csv(struct ql_control *ctl, const struct ql_job *j, const char *csv, const char *sha256, int64_t bytes,
		       char file[QL_ID_SIZE], struct ql_err *e)
{
	char want[128];
	uint64_t size = 0;
	int fd;

	(void)snprintf(want, sizeof want, "jobs/%s/step_metrics.csv", j->id);
	ql_id_make(file, "file-");
	if (strcmp(csv, want) != 0 || strspn(sha256, "0123456789abcdef") != 64)
		return ql_err_set(e, QL_EFORMAT, "done: bad csv path or hash");
	fd = ql_io_open_read(ctl->state_fd, want, &size, e);
	if (fd < 0)
		return fd;
	(void)close(fd);
	if (bytes < 0 || size != (uint64_t)bytes)
		return ql_err_set(e, QL_EFORMAT, "done: the csv has %llu bytes, not %lld", (unsigned long long)size, (long long)bytes);
	return ql_io_move(ctl->state_fd, want, "files", file, e);
}

static int finish(struct ql_control *ctl, struct ql_job *j, const json_t *f, const char *file, const char *sha256, uint64_t csv_bytes,
		  int64_t trained, struct ql_err *e)
{
	const char *dir = json_string_value(json_object_get(f, "dir")), *manifest = json_string_value(json_object_get(f, "manifest_sha256"));
	int rc = ql_job_move(ctl, j, QL_E_FINISHED, NULL, e);

	if (rc == QL_OK)
		rc = ql_file_insert_made(ctl, j->project, file, "step_metrics.csv", "fine-tune-results", csv_bytes, sha256, e);
	if (rc == QL_OK)
		rc = ql_model_insert(ctl, j, dir, manifest, json_integer_value(json_object_get(f, "bytes")),
				     json_string_value(json_object_get(ql_engine_model(ctl), "base_sha256")), e);
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e,
					      "UPDATE jobs SET fine_tuned_model = reserved_name, trained_tokens = ?2, result_file = ?3, step = ?4,"
					      " pause_reason = NULL WHERE id = ?1",
					      "sisi", j->id, trained, file, (int64_t)json_integer_value(json_object_get(f, "step")))) >= 0)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, e, "New fine-tuned model created: %s", j->reserved_name);
	if (rc == QL_OK && json_is_true(json_object_get(f, "early")))
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, e, "Stopped early at step %lld: the validation loss no longer improves",
				  (long long)json_integer_value(json_object_get(f, "step")));
	return rc == QL_OK ? ql_job_event(ctl, j->id, "info", NULL, -1, e, "The job has successfully completed") : rc;
}

int ql_job_on_done(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *dir = NULL, *sha = "", *csv = "", *csv_sha = "";
	char file[QL_ID_SIZE], want[80];
	int64_t trained = 0, bytes = 0, step = 0, csv_bytes = -1;
	struct ql_job j, copy;
	int rc;

	if ((rc = ql_json_get_int(f, "trained_tokens", 0, INT64_MAX, &trained, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "bytes", 0, INT64_MAX, &bytes, e)) != QL_OK || (rc = ql_json_get_int(f, "step", 0, INT32_MAX,
	    &step, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "dir", 1, 127, &dir, e)) != QL_OK || (rc = ql_json_get_str(f, "manifest_sha256", 64, 64, &sha,
	    e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "csv", 1, 127, &csv, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "csv_sha256", 64, 64, &csv_sha, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "csv_bytes", 0, INT64_MAX, &csv_bytes, e)) != QL_OK)
		return rc;
	(void)snprintf(want, sizeof want, "adapters/%s", l->id);
	if (dir == NULL || strcmp(dir, want) != 0 || sha[0] == '\0')
		return ql_err_set(e, QL_EFORMAT, "done: bad dir or hash");
	if ((rc = ql_jobs_flush(ctl, e)) != QL_OK || (rc = ql_job_load(ctl, l->id, &j, e)) != QL_OK)
		return rc;
	rc = publish_csv(ctl, &j, csv, csv_sha, csv_bytes, file, e);
	if (rc == QL_OK)
		rc = ql_job_begin(ctl, e);
	if (rc != QL_OK) {
		ql_job_free(&j);
		return rc;
	}
	copy = j;
	copy.recipe = json_incref(j.recipe);
	rc = finish(ctl, &j, f, file, csv_sha, (uint64_t)csv_bytes, trained, e);
	rc = ql_job_frame_last(ctl, l, &j, rc, e);
	if (rc == QL_OK)
		ql_ckpt_prune(ctl, &copy, true);
	json_decref(copy.recipe);
	return rc;
}
