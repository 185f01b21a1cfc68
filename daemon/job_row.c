/* job_row.c - a row of jobs as C values, and the Job object of api.md §5.4 made from it. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "daemon/jobs_internal.h"
#include "daemon/revision.h"

static int read_json(sqlite3_stmt *q, int column, json_t **out, struct ql_err *e)
{
	const char *text = ql_store_text(q, column);

	return text[0] == '\0' ? QL_OK : ql_json_parse(text, strlen(text), QL_JSON_BODY_MAX, out, e);
}

/* Cut, if it must be, between characters: it becomes JSON. */
static void copy(char *to, size_t size, const char *from)
{
	(void)snprintf(to, size, "%s", from);
	to[ql_utf8_whole(to, strlen(to))] = '\0';
}

#define COPY(field, column) copy(j->field, sizeof j->field, ql_store_text(q, column))

int ql_job_read(sqlite3_stmt *q, struct ql_job *j, struct ql_err *e)
{
	int rc;

	memset(j, 0, sizeof *j);
	j->seq = sqlite3_column_int64(q, 0);
	COPY(id, 1);
	COPY(project, 2);
	j->state = ql_job_state_of(ql_store_text(q, 3));
	if (j->state == QL_S_COUNT)
		return ql_err_set(e, QL_EFORMAT, "job %s: unknown state", j->id);
	j->attempt = sqlite3_column_int64(q, 4);
	j->revision = sqlite3_column_int64(q, 5);
	j->revision_all = sqlite3_column_int64(q, 6);
	j->created_at = sqlite3_column_int64(q, 7);
	j->finished_at = sqlite3_column_int64(q, 8);
	COPY(model, 9);
	COPY(base_model, 10);
	COPY(adapter_from, 11);
	COPY(reserved_name, 12);
	COPY(training_file, 13);
	COPY(validation_file, 14);
	COPY(suffix, 15);
	j->seed = sqlite3_column_int64(q, 16);
	j->priority = sqlite3_column_int64(q, 18);
	COPY(error_code, 20);
	COPY(error_message, 21);
	COPY(error_param, 22);
	j->has_error_param = sqlite3_column_type(q, 22) != SQLITE_NULL;
	COPY(pause_reason, 23);
	j->deaths = sqlite3_column_int64(q, 24);
	j->death_step = sqlite3_column_int64(q, 25);
	j->step = sqlite3_column_int64(q, 26);
	j->total_steps = sqlite3_column_int64(q, 27);
	j->trained_tokens = sqlite3_column_int64(q, 32);
	COPY(result_file, 33);
	j->metrics_events = sqlite3_column_int64(q, 34);
	if ((rc = read_json(q, 17, &j->metadata, e)) != QL_OK || (rc = read_json(q, 19, &j->recipe, e)) != QL_OK ||
	    (rc = read_json(q, 28, &j->progress, e)) != QL_OK || (rc = read_json(q, 29, &j->dataset, e)) != QL_OK ||
	    (rc = read_json(q, 30, &j->estimate, e)) != QL_OK || (rc = read_json(q, 31, &j->fingerprint, e)) != QL_OK ||
	    (rc = read_json(q, 35, &j->resolved, e)) != QL_OK)
		ql_job_free(j);
	return rc;
}

void ql_job_free(struct ql_job *j)
{
	json_decref(j->metadata);
	json_decref(j->recipe);
	json_decref(j->resolved);
	json_decref(j->progress);
	json_decref(j->dataset);
	json_decref(j->estimate);
	json_decref(j->fingerprint);
	memset(j, 0, sizeof *j);
}

static int take_row(struct ql_control *ctl, sqlite3_stmt *q, struct ql_job *j, struct ql_err *e)
{
	int rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);

	memset(j, 0, sizeof *j);
	if (rc == 1)
		rc = ql_job_read(q, j, e);
	else if (rc == 0)
		rc = ql_err_set(e, QL_ENOTFOUND, "no such job");
	ql_store_done(q);
	return rc;
}

int ql_job_load(struct ql_control *ctl, const char *id, struct ql_job *j, struct ql_err *e)
{
	return take_row(ctl, ql_store_query(ctl->store, e, "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE id = ?1", "s", id), j, e);
}

int ql_job_find(struct ql_control *ctl, const struct ql_who *who, const char *id, struct ql_job *j, struct ql_fault *f)
{
	struct ql_err e = {0};
	int rc = take_row(ctl,
			  ql_store_query(ctl->store, &e, "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE id = ?1 AND (?2 = '' OR project = ?2)", "ss",
					 id, ql_who_filter(who)),
			  j, &e);

	if (rc == QL_ENOTFOUND)
		return ql_fault_set(f, rc, 404, "fine_tune_not_found", "fine_tune_id", "Could not find fine tune: %.80s", id);
	return rc == QL_OK ? QL_OK : ql_fault_internal(f, &e, "job");
}

static json_t *text_or_null(const char *s) { return s[0] == '\0' ? json_null() : json_string(s); }
static json_t *time_or_null(int64_t t) { return t <= 0 ? json_null() : json_integer(t); }

static json_t *hyperparameters(const json_t *recipe)
{
	static const char *const keys[] = {"n_epochs", "batch_size", "learning_rate_multiplier"};
	json_t *o = json_object();

	for (size_t i = 0; i < 3; i++)
		(void)json_object_set(o, keys[i], json_object_get(recipe, keys[i]));
	return o;
}

/* All settings of the recipe that are qlorad's own, then the state. */
static json_t *qlora(struct ql_control *ctl, const struct ql_who *who, const struct ql_job *j)
{
	const struct ql_live *l = ql_live_find(ctl, j->id);
	json_t *o = json_object(), *v;
	const char *key;

	json_object_foreach(j->recipe, key, v)
		if (strcmp(key, "n_epochs") != 0 && strcmp(key, "batch_size") != 0 && strcmp(key, "learning_rate_multiplier") != 0)
			(void)json_object_set(o, key, v);
	json_object_foreach(j->resolved, key, v)
		(void)json_object_set(o, key, v);
	(void)json_object_set_new(o, "state", json_string(ql_job_state_names[j->state]));
	if (l != NULL && l->phase != NULL)
		(void)json_object_set_new(o, "phase", json_string(l->phase));
	(void)json_object_set_new(o, "revision", json_integer((who->scopes & QL_SCOPE_ADMIN) != 0 ? j->revision_all : j->revision));
	(void)json_object_set_new(o, "attempt", json_integer(j->attempt));
	if (j->state == QL_S_PAUSED || j->state == QL_S_PAUSING)
		(void)json_object_set_new(o, "pause_reason", text_or_null(j->pause_reason));
	if (l != NULL && l->progress != NULL)
		(void)json_object_set(o, "progress", l->progress);
	else if (j->progress != NULL)
		(void)json_object_set(o, "progress", j->progress);
	if (j->dataset != NULL)
		(void)json_object_set(o, "dataset", j->dataset);
	if (j->estimate != NULL)
		(void)json_object_set(o, "estimate", j->estimate);
	if (j->fingerprint != NULL)
		(void)json_object_set(o, "fingerprint", j->fingerprint);
	return o;
}

static json_t *error_json(const struct ql_job *j)
{
	if (j->state != QL_S_FAILED)
		return json_null();
	return json_pack("{s:s,s:s,s:o}", "code", j->error_code, "message", j->error_message, "param",
			 j->has_error_param ? json_string(j->error_param) : json_null());
}

json_t *ql_job_json(struct ql_control *ctl, const struct ql_who *who, const struct ql_job *j)
{
	const struct ql_live *l = ql_live_find(ctl, j->id);
	json_t *o = json_object();

	(void)json_object_set_new(o, "id", json_string(j->id));
	(void)json_object_set_new(o, "object", json_string("fine_tuning.job"));
	(void)json_object_set_new(o, "created_at", json_integer(j->created_at));
	(void)json_object_set_new(o, "finished_at", time_or_null(j->finished_at));
	(void)json_object_set_new(o, "model", json_string(j->model));
	(void)json_object_set_new(o, "fine_tuned_model", j->state == QL_S_SUCCEEDED ? json_string(j->reserved_name) : json_null());
	(void)json_object_set_new(o, "organization_id", json_string(QL_ORGANIZATION_ID));
	(void)json_object_set_new(o, "status", json_string(ql_job_status(j->state, ctl->config->report_paused_as)));
	(void)json_object_set_new(o, "hyperparameters", hyperparameters(j->recipe));
	(void)json_object_set_new(o, "training_file", json_string(j->training_file));
	(void)json_object_set_new(o, "validation_file", text_or_null(j->validation_file));
	(void)json_object_set_new(o, "result_files", j->result_file[0] == '\0' ? json_array() : json_pack("[s]", j->result_file));
	(void)json_object_set_new(o, "trained_tokens", j->state == QL_S_SUCCEEDED ? json_integer(j->trained_tokens) : json_null());
	(void)json_object_set_new(o, "seed", json_integer(j->seed));
	(void)json_object_set_new(o, "error", error_json(j));
	(void)json_object_set_new(o, "estimated_finish",
				  l != NULL && l->training && l->eta_seconds >= 0 && l->eta_seconds < 1e9
					  ? json_integer((int64_t)time(NULL) + (int64_t)l->eta_seconds)
					  : json_null());
	(void)json_object_set_new(o, "integrations", json_array());
	(void)json_object_set_new(
		o, "method", json_pack("{s:s,s:{s:o}}", "type", "supervised", "supervised", "hyperparameters", hyperparameters(j->recipe)));
	(void)json_object_set_new(o, "metadata", j->metadata == NULL ? json_null() : json_incref(j->metadata));
	if (j->suffix[0] != '\0')
		(void)json_object_set_new(o, "user_provided_suffix", json_string(j->suffix));
	(void)json_object_set_new(o, "qlora", qlora(ctl, who, j));
	return o;
}
