/* exports_queue.c - exports and the engine: one at a time, oldest first; what its end does; expiry of old ones. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/exports_internal.h"
#include "daemon/files.h"
#include "daemon/jobs_internal.h"
#include "daemon/models.h"
#include "daemon/revision.h"

#define DEATHS_MAX QL_ENGINE_DEATHS_MAX
#define FILES_MAX 64

/* One change of an export: state and the counter of its project, in one transaction. */
static int set_state(struct ql_control *ctl, const char *id, const char *state, const char *files, const char *verification,
		const char *code,
		     const char *message, struct ql_err *e)
{
	int64_t now = (int64_t)time(NULL), end = strcmp(state, "succeeded") == 0 || strcmp(state, "failed") == 0 ? now : 0;
	sqlite3_stmt *q;
	char project[QL_PROJECT_SIZE] = "";
	int rc = ql_store_begin(ctl->store, e);

	if (rc != QL_OK)
		return rc;
	q = ql_store_query(ctl->store, e, "SELECT project FROM exports WHERE id = ?1", "s", id);
	if (q != NULL && ql_store_step(ctl->store, q, e) == 1)
		(void)snprintf(project, sizeof project, "%s", ql_store_text(q, 0));
	ql_store_done(q);
	rc = ql_store_run(ctl->store, e,
			  "UPDATE exports SET state = ?2, files = ifnull(?3, files), verification = ?4, error_code = ?5, error_message = ?6,"
			  " finished_at = nullif(?7, 0), expires_at = nullif(?8, 0) WHERE id = ?1",
			  "ssssssii", id, state, files, verification, code, message, end, end > 0 ? end + ctl->config->export_days * 86400 : (int64_t)0);
	if (rc >= 0 && project[0] != '\0')
		rc = ql_revision_bump(ctl, project, NULL, NULL, e);
	if (rc >= 0)
		return ql_store_commit(ctl->store, e);
	ql_store_rollback(ctl->store);
	return rc;
}

static json_t *export_frame(struct ql_control *ctl, const char *id, const char *format, const char *quantization,
		const char *merge_base, const struct ql_model_ref *m)
{
	char dir[80];

	(void)snprintf(dir, sizeof dir, "exports/%s", id);
	return json_pack("{s:s,s:s,s:s,s:s?,s:s,s:o,s:s,s:s,s:s}", "type", "export", "id", id, "format", format, "quantization",
			 quantization[0] == '\0' ? NULL : quantization, "merge_base", merge_base, "adapter", ql_model_adapter(m), "dir", dir, "base_name", ctl->base_name, "name",
			 m->name);
}

/* False when there is nothing to do, or not now. */
static bool start_one(struct ql_control *ctl)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e,
					 "SELECT id, model, format, quantization, merge_base FROM exports WHERE state = 'queued' ORDER BY seq LIMIT 1", "");
	char id[QL_ID_SIZE], model[QL_MODEL_NAME_SIZE], format[24], quantization[24], merge_base[24];
	struct ql_who who = {.scopes = QL_SCOPE_ADMIN}; /* who ordered it was asked then; an admin's may be of another project */
	struct ql_model_ref m;
	bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;

	if (found) {
		(void)snprintf(id, sizeof id, "%s", ql_store_text(q, 0));
		(void)snprintf(model, sizeof model, "%s", ql_store_text(q, 1));
		(void)snprintf(format, sizeof format, "%s", ql_store_text(q, 2));
		(void)snprintf(quantization, sizeof quantization, "%s", ql_store_text(q, 3));
		(void)snprintf(merge_base, sizeof merge_base, "%s", ql_store_text(q, 4));
	}
	ql_store_done(q);
	if (!found)
		return false;
	if (ql_model_resolve(ctl, &who, model, &m, NULL) != QL_OK)
		return set_state(ctl, id, "failed", NULL, NULL, "model_not_found", "The model no longer exists.", &e) == QL_OK;
	if (!ql_space_ok(ctl, 0) || set_state(ctl, id, "running", NULL, NULL, NULL, NULL, &e) != QL_OK)
		return false;
	(void)snprintf(ctl->exports->running, sizeof ctl->exports->running, "%s", id);
	ctl->exports->progress = 0;
	if (ql_engine_send(ctl->engines[0], export_frame(ctl, id, format, quantization, merge_base, &m), &e) != QL_OK)
		ql_engine_kill(ctl->engines[0], "exit"); /* its end puts the export back */
	return false;
}

void ql_exports_schedule(struct ql_control *ctl)
{
	while (!ctl->exports->stopping && ctl->exports->running[0] == '\0' && ql_engine_state(ctl) == QL_ENGINE_READY &&
	       ctl->engines[0]->killed_ms == 0 && start_one(ctl))
		;
}

/* Exports that their rows call running though no engine has them in hand: after a start, or because their end could not be stored. */
static int adopt(struct ql_control *ctl, struct ql_err *e)
{
	int rc;

	if (ql_store_int(ctl->store, 0, "SELECT count(*) FROM exports WHERE state = 'running' AND id <> ?1", "s", ctl->exports->running) == 0)
		return QL_OK;
	rc = ql_store_run(ctl->store, e, "UPDATE exports SET state = 'queued' WHERE state = 'running' AND id <> ?1", "s", ctl->exports->running);
	return rc < 0 ? rc : QL_OK;
}

void ql_exports_engine_ready(struct ql_control *ctl) { ql_exports_again(ctl); }

void ql_exports_again(struct ql_control *ctl)
{
	struct ql_err e = {0};

	if (adopt(ctl, &e) != QL_OK)
		ql_log(QL_LOG_WARN, "exports", "what ran before waits: %s", e.message);
	ql_exports_schedule(ctl);
}

void ql_exports_engine_lost(struct ql_control *ctl, bool to_blame)
{
	struct ql_exports *x = ctl->exports;
	struct ql_err e = {0};
	int rc;

	if (x->running[0] == '\0')
		return;
	if (ql_store_int(ctl->store, 1, "SELECT count(*) FROM exports WHERE id = ?1", "s", x->running) == 0) { /* deleted meanwhile */
		ql_remove_unfinished(ctl, "exports", x->running);
		x->running[0] = '\0';
		return;
	}
	if (to_blame && !ctl->draining)
		(void)ql_store_run(ctl->store, &e, "UPDATE exports SET deaths = deaths + 1 WHERE id = ?1", "s", x->running);
	rc = ql_store_int(ctl->store, 0, "SELECT deaths FROM exports WHERE id = ?1", "s", x->running) >= DEATHS_MAX
		     ? set_state(ctl, x->running, "failed", NULL, NULL, "engine_failure", "The engine died in this export several times.", &e)
		     : set_state(ctl, x->running, "queued", NULL, NULL, NULL, NULL, &e);
	if (rc != QL_OK)
		ql_log(QL_LOG_ERROR, "exports", "%s", e.message);
	x->running[0] = '\0';
}

/* [{name, bytes, sha256}], each a plain file name. */
static int check_files(const json_t *files, struct ql_err *e)
{
	json_t *item;
	size_t i;

	if (!json_is_array(files) || json_array_size(files) == 0 || json_array_size(files) > FILES_MAX)
		return ql_err_set(e, QL_EFORMAT, "bad files");
	json_array_foreach(files, i, item) {
		const char *name = json_string_value(json_object_get(item, "name")), *sha = json_string_value(json_object_get(item, "sha256"));

		if (name == NULL || !ql_io_name_ok(name) || sha == NULL || strlen(sha) != 64 || !json_is_integer(json_object_get(item, "bytes")))
			return ql_err_set(e, QL_EFORMAT, "bad files");
	}
	return QL_OK;
}

static int done(struct ql_control *ctl, const char *id, const json_t *f, struct ql_err *e)
{
	const json_t *files = json_object_get(f, "files"), *v = json_object_get(f, "verification");
	char *text, *verification;
	int rc = check_files(files, e);

	if (rc != QL_OK)
		return rc;
	text = ql_json_text(files);
	verification = json_is_object(v) ? ql_json_text(v) : NULL;
	rc = text == NULL ? ql_err_set(e, QL_ENOMEM, "export") : set_state(ctl, id, "succeeded", text, verification, NULL, NULL, e);
	free(text);
	free(verification);
	return rc;
}

int ql_exports_frame(struct ql_control *ctl, const char *type, const json_t *f, struct ql_err *e)
{
	const char *id = json_string_value(json_object_get(f, "id")), *code = "internal_error", *message = "";
	struct ql_exports *x = ctl->exports;
	bool deleted;
	int rc = QL_OK;

	if (id == NULL || !ql_id_ok(id, "export-"))
		return ql_err_set(e, QL_EFORMAT, "bad id");
	if (strcmp(x->running, id) != 0)
		return QL_OK;
	if (strcmp(type, "export_progress") == 0)
		return ql_json_get_num(f, "progress", 0, 1.001, &x->progress, e);
	deleted = ql_store_int(ctl->store, 0, "SELECT count(*) FROM exports WHERE id = ?1", "s", id) == 0;
	if (deleted) {
		ql_remove_later(ctl, "exports", id);
	} else if (strcmp(type, "export_done") == 0) {
		rc = done(ctl, id, f, e);
	} else if ((rc = ql_json_get_str(f, "code", 1, 64, &code, e)) == QL_OK &&
		   (rc = ql_json_get_str(f, "message", 0, QL_FRAME_MAX, &message, e)) == QL_OK) {
		rc = x->stopping ? set_state(ctl, id, "queued", NULL, NULL, NULL, NULL, e) : set_state(ctl, id, "failed", NULL, NULL,
				code, message, e);
	}
	if (rc == QL_OK) {
		x->running[0] = '\0';
		ql_exports_schedule(ctl);
	}
	return rc;
}

/* Expired ones, and the oldest beyond max_exports_kept. */
void ql_exports_tick(struct ql_control *ctl)
{
	for (;;) {
		struct ql_err e = {0};
		sqlite3_stmt *q = ql_store_query(ctl->store, &e,
						 "SELECT id FROM exports WHERE state IN ('succeeded', 'failed') AND (expires_at < ?1 OR seq <= (SELECT seq FROM"
						 " exports WHERE state IN ('succeeded', 'failed') ORDER BY seq DESC LIMIT 1 OFFSET ?2)) LIMIT 1",
						 "ii", (int64_t)time(NULL), ctl->config->max_exports_kept);
		char id[QL_ID_SIZE];
		bool found = q != NULL && ql_store_step(ctl->store, q, &e) == 1;

		if (found)
			(void)snprintf(id, sizeof id, "%s", ql_store_text(q, 0));
		ql_store_done(q);
		if (!found || ql_store_run(ctl->store, &e, "DELETE FROM exports WHERE id = ?1", "s", id) < 0)
			return;
		ql_remove_later(ctl, "exports", id);
	}
}

void ql_exports_drain(struct ql_control *ctl)
{
	struct ql_err e = {0};

	ctl->exports->stopping = true;
	if (ctl->exports->running[0] != '\0')
		(void)ql_engine_send(ctl->engines[0], json_pack("{s:s,s:s}", "type", "export_cancel", "id", ctl->exports->running), &e);
}

int ql_exports_open(struct ql_control *ctl, struct ql_err *e)
{
	int rc;

	ctl->exports = calloc(1, sizeof *ctl->exports);
	if (ctl->exports == NULL)
		return ql_err_set(e, QL_ENOMEM, "exports");
	rc = adopt(ctl, e);
	return rc == QL_ENOSPC ? QL_OK : rc; /* the tick tries again */
}

void ql_exports_free(struct ql_control *ctl)
{
	free(ctl->exports);
	ctl->exports = NULL;
}
