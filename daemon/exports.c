/* exports.c - POST, GET, DELETE /v1/exports; see exports.h.  States: queued → running → succeeded | failed; DELETE removes the
 * row in any state and cancels what runs.  What the engine is given is in exports_queue.c. */
#include "daemon/exports.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/engine_internal.h"
#include "daemon/exports_internal.h"
#include "daemon/files.h"
#include "daemon/idem.h"
#include "daemon/jobs_internal.h"
#include "daemon/models.h"
#include "daemon/revision.h"

#define ROUTE "/v1/exports"
#define LIST_DEFAULT 20
#define LIST_MAX 100
#define COLUMNS \
	"seq, id, state, model, format, quantization, merge_base, progress, files, verification, error_code, error_message, created_at," \
	" ifnull(finished_at, 0), ifnull(expires_at, 0), project"

/* What each format may be written in; the first is the default.  NULL: no choice. */
static const struct {
	const char *format, *words;
} formats[] = {
	{"peft", NULL},
	{"gguf_lora", "f32|f16"},
	{"gguf", "f16|f32|bf16|q8_0|q4_0|q4_k_m|q5_k_m|q6_k"},
	{"safetensors", "bf16|f16"},
};

struct order {
	struct ql_model_ref model;
	const char *format;
	char quantization[16];
	bool has_quantization, original; /* original: merge into the weights as they were before quantisation */
};

static json_t *json_or_null(const char *text)
{
	json_t *v = NULL;

	return text[0] != '\0' && ql_json_parse(text, strlen(text), QL_JSON_BODY_MAX, &v, NULL) == QL_OK ? v : json_null();
}

static json_t *text_or_null(sqlite3_stmt *q, int column)
{
	return sqlite3_column_type(q, column) == SQLITE_NULL ? json_null() : json_string(ql_store_text(q, column));
}

static json_t *row_json(struct ql_control *ctl, sqlite3_stmt *q)
{
	const char *state = ql_store_text(q, 2);
	bool running = strcmp(ctl->exports->running, ql_store_text(q, 1)) == 0;
	double progress = strcmp(state, "succeeded") == 0 ? 1.0 : running ? ctl->exports->progress : sqlite3_column_double(q, 7);
	int64_t finished = sqlite3_column_int64(q, 13), expires = sqlite3_column_int64(q, 14);
	json_t *error = strcmp(state, "failed") == 0 ? json_pack("{s:s,s:s,s:n}", "code", ql_store_text(q, 10), "message",
			ql_store_text(q, 11), "param")
						     : json_null();

	return json_pack("{s:s,s:s,s:I,s:o,s:s,s:s,s:s,s:o,s:s,s:f,s:o,s:o,s:o,s:o}", "id", ql_store_text(q, 1), "object",
			"export", "created_at",
			 (json_int_t)sqlite3_column_int64(q, 12), "finished_at", finished > 0 ? json_integer(finished) : json_null(), "status", state,
			 "model", ql_store_text(q, 3), "format", ql_store_text(q, 4), "quantization", text_or_null(q, 5), "merge_base",
			 ql_store_text(q, 6), "progress", progress, "expires_at", expires > 0 ? json_integer(expires) : json_null(), "files",
			 json_or_null(ql_store_text(q, 8)), "verification", json_or_null(ql_store_text(q, 9)), "error", error);
}

/* The row that `who` may see, positioned; NULL with *f. */
static sqlite3_stmt *find(struct ql_control *ctl, const struct ql_who *who, const char *id, struct ql_fault *f)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, "SELECT " COLUMNS " FROM exports WHERE id = ?1 AND (?2 = '' OR project = ?2)", "ss", id,
					 ql_who_filter(who));
	int rc = q == NULL ? e.code : ql_store_step(ctl->store, q, &e);

	if (rc == 1)
		return q;
	ql_store_done(q);
	if (rc == 0)
		(void)ql_fault_set(f, QL_ENOTFOUND, 404, NULL, "id", "No such Export object: %.80s", id);
	else
		(void)ql_fault_internal(f, &e, "export");
	return NULL;
}

int ql_export_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);

	if (q == NULL)
		return QL_ENOTFOUND;
	*out = row_json(ctl, q);
	ql_store_done(q);
	return *out == NULL ? ql_fault_internal(f, NULL, "export") : QL_OK;
}

int ql_export_list(struct ql_control *ctl, const struct ql_who *who, const struct ql_page *page, json_t **out, struct ql_fault *f)
{
	int64_t limit = page->limit <= 0 ? LIST_DEFAULT : page->limit > LIST_MAX ? LIST_MAX : page->limit, from = INT64_MAX, n = 0;
	json_t *data = json_array();
	struct ql_err e = {0};
	sqlite3_stmt *q;
	bool more = false;
	int rc;

	if (page->after != NULL)
		from = ql_store_int(ctl->store, 0, "SELECT seq FROM exports WHERE id = ?1 AND (?2 = '' OR project = ?2)", "ss", page->after,
				    ql_who_filter(who));
	q = ql_store_query(ctl->store, &e,
			   "SELECT " COLUMNS " FROM exports WHERE (?1 = '' OR project = ?1) AND seq < ?2 ORDER BY seq DESC LIMIT ?3", "sii",
			   ql_who_filter(who), from, limit + 1);
	rc = q == NULL ? e.code : 1;
	while (rc > 0 && !more && (rc = ql_store_step(ctl->store, q, &e)) == 1)
		if (!(more = n++ == limit))
			(void)json_array_append_new(data, row_json(ctl, q));
	ql_store_done(q);
	*out = rc < 0 ? NULL : json_pack("{s:s,s:O,s:b}", "object", "list", "data", data, "has_more", (int)more);
	json_decref(data);
	return *out == NULL ? ql_fault_internal(f, &e, "exports") : QL_OK;
}

static const char *word_of(const json_t *body, const char *key, struct ql_fault *f, int *rc)
{
	const json_t *v = json_object_get(body, key);

	if (v == NULL || json_is_null(v))
		return NULL;
	if (!json_is_string(v))
		*rc = ql_fault_set(f, QL_EINVAL, 400, "invalid_value", key, "'%s' must be a string.", key);
	return json_string_value(v);
}

static bool in_words(const char *words, const char *s)
{
	size_t n = strlen(s);

	for (const char *w = words; n > 0 && w != NULL; w = strchr(w, '|')) {
		w += *w == '|';
		if (strncmp(w, s, n) == 0 && (w[n] == '|' || w[n] == '\0'))
			return true;
	}
	return false;
}

static int check_quantization(struct order *o, size_t i, const char *quantization, struct ql_fault *f)
{
	const char *words = formats[i].words;

	o->has_quantization = words != NULL;
	if (quantization == NULL && words != NULL)
		(void)snprintf(o->quantization, sizeof o->quantization, "%.*s", (int)strcspn(words, "|"), words);
	else if (quantization != NULL && words == NULL)
		return ql_fault_set(f, QL_EINVAL, 400, "unsupported_parameter", "quantization",
				"'quantization' does not apply to format %s.", o->format);
	else if (quantization != NULL && !in_words(words, quantization))
		return ql_fault_set(f, QL_EINVAL, 400, "unsupported_value", "quantization",
				"'quantization' must be one of %s for format %s.", words, o->format);
	else if (quantization != NULL)
		(void)snprintf(o->quantization, sizeof o->quantization, "%s", quantization);
	return QL_OK;
}

static int read_order(struct ql_control *ctl, const struct ql_who *who, const json_t *body, struct order *o, struct ql_fault *f)
{
	const char *model, *format, *quantization, *merge;
	int rc = QL_OK;
	size_t i = 0;

	if (!json_is_object(body))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", NULL, "The body must be a JSON object.");
	model = word_of(body, "model", f, &rc);
	format = word_of(body, "format", f, &rc);
	quantization = word_of(body, "quantization", f, &rc);
	merge = word_of(body, "merge_base", f, &rc);
	if (rc != QL_OK)
		return rc;
	if (model == NULL || format == NULL)
		return ql_fault_set(f, QL_EINVAL, 400, "missing_required_parameter", model == NULL ? "model" : "format",
				"Missing required parameter: '%s'.",
				    model == NULL ? "model" : "format");
	while (i < sizeof formats / sizeof formats[0] && strcmp(formats[i].format, format) != 0)
		i++;
	if (i == sizeof formats / sizeof formats[0])
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "format", "'format' must be peft, gguf_lora, gguf or safetensors.");
	o->format = formats[i].format;
	o->original = merge != NULL && strcmp(merge, "original") == 0;
	if (merge != NULL && !o->original && strcmp(merge, "dequantized") != 0)
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "merge_base", "'merge_base' must be dequantized or original.");
	if (o->original && (strcmp(format, "peft") == 0 || strcmp(format, "gguf_lora") == 0))
		return ql_fault_set(f, QL_EINVAL, 400, "unsupported_parameter", "merge_base", "'merge_base' does not apply to format %s.", format);
	if ((rc = check_quantization(o, i, quantization, f)) != QL_OK || (rc = ql_model_resolve(ctl, who, model, &o->model, f)) != QL_OK)
		return rc;
	if (o->model.base && (strcmp(format, "peft") == 0 || strcmp(format, "gguf_lora") == 0))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "model", "The base model has no adapter to export.");
	return QL_OK;
}

static int insert(struct ql_control *ctl, const struct ql_who *who, const struct order *o, const struct ql_idem *idem,
		const char *fingerprint,
		  struct ql_reply *reply, struct ql_err *e)
{
	char id[QL_ID_SIZE];
	sqlite3_stmt *q;
	int rc;

	ql_id_make(id, "export-");
	rc = ql_store_run(ctl->store, e,
			  "INSERT INTO exports (id, project, state, model, format, quantization, merge_base, created_at)"
			  " VALUES (?1, ?2, 'queued', ?3, ?4, ?5, ?6, ?7)",
			  "ssssssi", id, who->project, o->model.name, o->format, o->has_quantization ? o->quantization : NULL,
			  o->original ? "original" : "dequantized", (int64_t)time(NULL));
	if (rc >= 0)
		rc = ql_revision_bump(ctl, who->project, NULL, NULL, e);
	if (rc != QL_OK)
		return rc;
	q = ql_store_query(ctl->store, e, "SELECT " COLUMNS " FROM exports WHERE id = ?1", "s", id);
	if (q != NULL && ql_store_step(ctl->store, q, e) == 1) {
		reply->status = 200;
		reply->body = row_json(ctl, q);
	}
	ql_store_done(q);
	return reply->body == NULL ? ql_err_set(e, QL_EINTERNAL, "export") : ql_idem_save(ctl, who, ROUTE, idem, fingerprint, 200,
			reply->body, e);
}

static int check_room(struct ql_control *ctl, struct ql_fault *f)
{
	if (ctl->draining)
		return ql_fault_set(f, QL_ESTATE, 503, "draining", NULL, "The server is shutting down.");
	if (ql_store_int(ctl->store, 0, "SELECT count(*) FROM exports WHERE state IN ('queued', 'running')", "") >= QL_EXPORTS_WAITING_MAX) {
		(void)ql_fault_set(f, QL_ELIMIT, 429, "queue_full", NULL, "There are too many waiting exports.");
		if (f != NULL)
			f->no_retry = true;
		return QL_ELIMIT;
	}
	if (!ql_space_ok(ctl, 0))
		return ql_fault_set(f, QL_ENOSPC, 503, "no_space", NULL, "The server's disk is full; try again later.");
	return QL_OK;
}

int ql_export_create(struct ql_control *ctl, const struct ql_who *who, const json_t *body, const struct ql_idem *idem,
		struct ql_reply *reply,
		     struct ql_fault *f)
{
	char fingerprint[QL_SHA256_HEX_SIZE];
	struct order o = {0};
	struct ql_err e = {0};
	int rc;

	memset(reply, 0, sizeof *reply);
	ql_sha256_hex(idem != NULL && idem->body != NULL ? idem->body : "", idem != NULL ? idem->body_len : 0, fingerprint);
	rc = ql_idem_find(ctl, who, ROUTE, idem, fingerprint, reply, f);
	if (rc != 0)
		return rc > 0 ? QL_OK : rc;
	if ((rc = read_order(ctl, who, body, &o, f)) != QL_OK || (rc = check_room(ctl, f)) != QL_OK)
		return rc;
	rc = ql_store_begin(ctl->store, &e);
	if (rc == QL_OK) {
		rc = insert(ctl, who, &o, idem, fingerprint, reply, &e);
		if (rc == QL_OK)
			rc = ql_store_commit(ctl->store, &e);
		else
			ql_store_rollback(ctl->store);
	}
	if (rc != QL_OK) {
		json_decref(reply->body);
		reply->body = NULL;
		return ql_fault_internal(f, &e, "export");
	}
	ql_exports_schedule(ctl);
	return QL_OK;
}

int ql_export_delete(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);
	char own[QL_ID_SIZE], project[QL_PROJECT_SIZE];
	struct ql_err e = {0};
	bool done;
	int rc;

	if (q == NULL)
		return QL_ENOTFOUND;
	(void)snprintf(own, sizeof own, "%s", ql_store_text(q, 1));
	(void)snprintf(project, sizeof project, "%s", ql_store_text(q, 15));
	done = strcmp(ql_store_text(q, 2), "succeeded") == 0;
	ql_store_done(q);
	rc = ql_store_begin(ctl->store, &e);
	if (rc == QL_OK) {
		rc = ql_store_run(ctl->store, &e, "DELETE FROM exports WHERE id = ?1", "s", own);
		if (rc >= 0)
			rc = ql_revision_bump(ctl, project, NULL, NULL, &e);
		if (rc == QL_OK)
			rc = ql_store_commit(ctl->store, &e);
		else
			ql_store_rollback(ctl->store);
	}
	if (rc != QL_OK)
		return ql_fault_internal(f, &e, "export delete");
	if (strcmp(ctl->exports->running, own) == 0) /* its end frame clears `running` */
		(void)ql_engine_send(ctl->engines[0], json_pack("{s:s,s:s}", "type", "export_cancel", "id", own), &e);
	else if (done)
		ql_remove_later(ctl, "exports", own);
	*out = json_pack("{s:s,s:s,s:b}", "id", own, "object", "export", "deleted", 1);
	return *out == NULL ? ql_fault_internal(f, NULL, "export delete") : QL_OK;
}

int ql_export_file(struct ql_control *ctl, const struct ql_who *who, const char *id, const char *file, int *fd,
		uint64_t *size, char sha256[65],
		   char name[160], struct ql_fault *f)
{
	sqlite3_stmt *q = find(ctl, who, id, f);
	json_t *files, *item, *hit = NULL;
	char path[320];
	struct ql_err e = {0};
	size_t i;
	bool done;

	if (q == NULL)
		return QL_ENOTFOUND;
	files = json_or_null(ql_store_text(q, 8));
	done = strcmp(ql_store_text(q, 2), "succeeded") == 0;
	(void)snprintf(path, sizeof path, "exports/%s/", ql_store_text(q, 1));
	ql_store_done(q);
	json_array_foreach(files, i, item)
		if (file == NULL ? json_array_size(files) == 1 : strcmp(file, json_string_value(json_object_get(item, "name"))) == 0)
			hit = item;
	if (!done || hit == NULL) {
		json_decref(files);
		if (!done)
			return ql_fault_set(f, QL_ESTATE, 400, "invalid_state", "id", "The export has not succeeded.");
		return file == NULL ? ql_fault_set(f, QL_EINVAL, 400, "missing_required_parameter", "file",
				"The export has several files: name one with 'file'.")
				    : ql_fault_set(f, QL_ENOTFOUND, 404, NULL, "file", "The export has no such file.");
	}
	(void)snprintf(name, 160, "%s", json_string_value(json_object_get(hit, "name")));
	(void)snprintf(sha256, 65, "%s", json_string_value(json_object_get(hit, "sha256")));
	(void)snprintf(path + strlen(path), sizeof path - strlen(path), "%s", name);
	json_decref(files);
	*fd = ql_io_open_read(ctl->state_fd, path, size, &e);
	return *fd < 0 ? ql_fault_internal(f, &e, "export content") : QL_OK;
}
