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

#define CSV_MAX QL_GIB(4)

/* The engine has written jobs/ID/step_metrics.csv; it becomes a file object.  The copy is durable before its row. */
static int publish_csv(struct ql_control *ctl, const struct ql_job *j, const char *csv, char file[QL_ID_SIZE], char sha256[65],
		       uint64_t *bytes, struct ql_err *e)
{
	int dir = ql_io_open_dir(ctl->state_fd, "files", e), from = -1, rc = dir;
	char want[128], chunk[16384];
	struct ql_io_file out;

	(void)snprintf(want, sizeof want, "jobs/%s/step_metrics.csv", j->id);
	ql_id_make(file, "file-");
	if (dir < 0)
		return rc;
	if (csv == NULL || strcmp(csv, want) != 0)
		rc = ql_err_set(e, QL_EFORMAT, "done: bad csv path");
	else
		rc = from = ql_io_open_read(ctl->state_fd, want, bytes, e);
	if (rc >= 0)
		rc = *bytes > CSV_MAX ? ql_err_set(e, QL_ELIMIT, "result file too large") : ql_io_begin(&out, dir, file, e);
	if (rc == QL_OK) {
		for (uint64_t at = 0; at < *bytes && rc == QL_OK; at += sizeof chunk) {
			size_t n = *bytes - at < sizeof chunk ? (size_t)(*bytes - at) : sizeof chunk;

			rc = ql_io_pread_all(from, chunk, n, at, e);
			if (rc == QL_OK)
				rc = ql_io_write(&out, chunk, n, e);
		}
		if (rc == QL_OK)
			rc = ql_io_commit(&out, e);
		else
			ql_io_abort(&out);
	}
	if (rc == QL_OK)
		rc = ql_io_sha256(dir, file, sha256, NULL, e);
	if (from >= 0)
		(void)close(from);
	(void)close(dir);
	return rc;
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
	const char *dir = NULL, *sha = "", *csv = NULL;
	char file[QL_ID_SIZE], csv_sha[65], want[80];
	int64_t trained = 0, bytes = 0, step = 0;
	uint64_t csv_bytes = 0;
	struct ql_job j, copy;
	int rc;

	if ((rc = ql_json_get_int(f, "trained_tokens", 0, INT64_MAX, &trained, e)) != QL_OK ||
	    (rc = ql_json_get_int(f, "bytes", 0, INT64_MAX, &bytes, e)) != QL_OK || (rc = ql_json_get_int(f, "step", 0, INT32_MAX,
	    &step, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "dir", 1, 127, &dir, e)) != QL_OK || (rc = ql_json_get_str(f, "manifest_sha256", 64, 64, &sha,
	    e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "csv", 1, 127, &csv, e)) != QL_OK)
		return rc;
	(void)snprintf(want, sizeof want, "adapters/%s", l->id);
	if (dir == NULL || strcmp(dir, want) != 0 || sha[0] == '\0')
		return ql_err_set(e, QL_EFORMAT, "done: bad dir or hash");
	if ((rc = ql_jobs_flush(ctl, e)) != QL_OK || (rc = ql_job_load(ctl, l->id, &j, e)) != QL_OK)
		return rc;
	rc = publish_csv(ctl, &j, csv, file, csv_sha, &csv_bytes, e);
	if (rc == QL_OK)
		rc = ql_job_begin(ctl, e);
	if (rc != QL_OK) {
		ql_job_free(&j);
		return rc;
	}
	copy = j;
	copy.recipe = json_incref(j.recipe);
	rc = finish(ctl, &j, f, file, csv_sha, csv_bytes, trained, e);
	rc = ql_job_frame_last(ctl, l, &j, rc, e);
	if (rc == QL_OK)
		ql_ckpt_prune(ctl, &copy, true);
	json_decref(copy.recipe);
	return rc;
}
