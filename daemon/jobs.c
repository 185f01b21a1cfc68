/* jobs.c - get, list, cancel, pause, resume; see jobs.h. */
#include "daemon/jobs.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/jobs_internal.h"
#include "daemon/revision.h"

#define LIST_DEFAULT 20
#define LIST_MAX 100

int ql_job_get(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	struct ql_job j;
	int rc = ql_job_find(ctl, who, id, &j, f);

	if (rc != QL_OK)
		return rc;
	*out = ql_job_json(ctl, who, &j);
	ql_job_free(&j);
	return *out == NULL ? ql_fault_internal(f, NULL, "job") : QL_OK;
}

/* By the row's state alone: most rows of a long history need not be read further. */
static bool state_matches(struct ql_control *ctl, const struct ql_job_query *q, enum ql_job_state state)
{
	return q->status == NULL || state == QL_S_COUNT || strcmp(q->status, ql_job_status(state, ctl->config->report_paused_as)) == 0 ||
	       (strcmp(q->status, "paused") == 0 && (state == QL_S_PAUSED || state == QL_S_PAUSING));
}

static bool matches(const struct ql_job_query *q, const struct ql_job *j)
{
	if (q->metadata_null && j->metadata != NULL && json_object_size(j->metadata) > 0)
		return false;
	for (size_t i = 0; i < q->n_metadata; i++) {
		const char *v = json_string_value(json_object_get(j->metadata, q->keys[i]));

		if (v == NULL || strcmp(v, q->values[i]) != 0)
			return false;
	}
	return true;
}

static int check_query(const struct ql_job_query *q, struct ql_fault *f)
{
	static const char *const words[] = {"validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"};

	if (q->status == NULL)
		return QL_OK;
	for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
		if (strcmp(words[i], q->status) == 0)
			return QL_OK;
	return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "status",
			    "'status' must be validating_files, queued, running, paused, succeeded, failed or cancelled.");
}

static sqlite3_stmt *list_query(struct ql_control *ctl, const struct ql_who *who, const struct ql_job_query *q, struct ql_err *e)
{
	const char *filter = ql_who_filter(who);
	int64_t from;

	if (q->since >= 0)
		return filter[0] == '\0' ? ql_store_query(ctl->store, e,
							  "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE revision_all > ?1 ORDER BY revision_all", "i", q->since)
					 : ql_store_query(ctl->store, e,
							  "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE project = ?1 AND revision > ?2 ORDER BY revision", "si",
							  filter, q->since);
	from = q->page.after == NULL ? INT64_MAX
				     : ql_store_int(ctl->store, 0, "SELECT seq FROM jobs WHERE id = ?1 AND (?2 = '' OR project = ?2)", "ss",
						    q->page.after, filter);
	return ql_store_query(ctl->store, e,
			      "SELECT " QL_JOB_COLUMNS " FROM jobs WHERE (?1 = '' OR project = ?1) AND seq < ?2 ORDER BY seq DESC", "si", filter, from);
}

int ql_job_list(struct ql_control *ctl, const struct ql_who *who, const struct ql_job_query *q, json_t **out, struct ql_fault *f)
{
	int64_t limit = q->page.limit <= 0 ? LIST_DEFAULT : q->page.limit > LIST_MAX ? LIST_MAX : q->page.limit, n = 0;
	json_t *data;
	struct ql_err e = {0};
	struct ql_job j;
	sqlite3_stmt *s;
	bool more = false;
	int rc = check_query(q, f);

	if (rc != QL_OK)
		return rc;
	data = json_array();
	s = list_query(ctl, who, q, &e);
	rc = s == NULL ? e.code : 1;
	while (rc > 0 && !more && (rc = ql_store_step(ctl->store, s, &e)) == 1) {
		if (!state_matches(ctl, q, ql_job_state_of(ql_store_text(s, 3))))
			continue;
		rc = ql_job_read(s, &j, &e);
		if (rc != QL_OK)
			break;
		if (matches(q, &j) && !(more = n++ == limit))
			(void)json_array_append_new(data, ql_job_json(ctl, who, &j));
		ql_job_free(&j);
		rc = 1;
	}
	ql_store_done(s);
	*out = rc < 0 ? NULL : json_pack("{s:s,s:O,s:b}", "object", "list", "data", data, "has_more", (int)more);
	json_decref(data);
	if (*out != NULL && q->since >= 0)
		(void)json_object_set_new(*out, "revision", json_integer(ql_control_revision(ctl, who)));
	return *out == NULL ? ql_fault_internal(f, &e, "jobs") : QL_OK;
}

/* One action of the API: the transition and its event in a transaction, then what the engine is to hear. */
static int act(struct ql_control *ctl, const struct ql_who *who, const char *id, enum ql_job_happening what, struct ql_job *j,
	       enum ql_job_state *to, struct ql_fault *f)
{
	struct ql_err e = {0};
	bool mine;
	int rc = ql_jobs_flush(ctl, &e);

	if (rc != QL_OK)
		return ql_fault_internal(f, &e, "job");
	rc = ql_job_find(ctl, who, id, j, f);
	if (rc != QL_OK)
		return rc;
	if (ql_job_begin(ctl, &e) != QL_OK) {
		ql_job_free(j);
		return ql_fault_internal(f, &e, "job");
	}
	rc = ql_job_move(ctl, j, what, to, &e);
	if (rc == QL_OK && *to != j->state && what == QL_E_CANCEL)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, &e, "The job was cancelled");
	else if (rc == QL_OK && *to != j->state && what == QL_E_RESUME)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, &e, "The job was resumed");
	else if (rc == QL_OK && *to == QL_S_PAUSED && j->state != QL_S_PAUSED)
		rc = ql_job_event(ctl, j->id, "info", NULL, -1, &e, "The job was paused (user)");
	/* paused for want of space, it would go on by itself: not against the user's word */
	mine = rc == QL_OK && what == QL_E_PAUSE && *to == j->state && strcmp(j->pause_reason, "no_space") == 0;
	if (rc == QL_OK && (*to != j->state || mine) && (rc = ql_store_run(ctl->store, &e, "UPDATE jobs SET pause_reason = ?2 WHERE id = ?1",
			"ss", j->id,
								     what == QL_E_PAUSE ? "user" : NULL)) > 0)
		rc = mine ? ql_job_touch(ctl, j->id, j->project, &e) : QL_OK;
	if (rc == QL_OK && (rc = ql_job_commit(ctl, &e)) == QL_OK)
		return QL_OK;
	ql_job_rollback(ctl);
	ql_job_free(j);
	return rc == QL_ESTATE ? ql_fault_set(f, rc, 400, "invalid_state", "fine_tune_id", "%s", e.message) : ql_fault_internal(f, &e, "job");
}

static int answer(struct ql_control *ctl, const struct ql_who *who, struct ql_job *j, json_t **out, struct ql_fault *f)
{
	char id[QL_ID_SIZE];

	(void)snprintf(id, sizeof id, "%s", j->id);
	ql_job_free(j);
	return ql_job_get(ctl, who, id, out, f);
}

int ql_job_cancel(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	enum ql_job_state to;
	struct ql_live *l;
	struct ql_job j;
	int rc = act(ctl, who, id, QL_E_CANCEL, &j, &to, f);

	if (rc != QL_OK)
		return rc;
	l = ql_live_find(ctl, j.id);
	if (l != NULL) {
		ql_live_stop(ctl, l, "cancel");
		ql_live_drop(ctl, l);
	}
	rc = answer(ctl, who, &j, out, f);
	ql_ckpt_sweep_ended(ctl);
	ql_jobs_schedule(ctl);
	return rc;
}

int ql_job_pause(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	enum ql_job_state to;
	struct ql_live *l;
	struct ql_job j;
	int rc = act(ctl, who, id, QL_E_PAUSE, &j, &to, f);

	if (rc != QL_OK)
		return rc;
	l = ql_live_find(ctl, j.id);
	if (l != NULL && to == QL_S_PAUSING)
		ql_live_stop(ctl, l, "pause");
	return answer(ctl, who, &j, out, f);
}

int ql_job_resume(struct ql_control *ctl, const struct ql_who *who, const char *id, json_t **out, struct ql_fault *f)
{
	enum ql_job_state to;
	struct ql_job j;
	int rc = act(ctl, who, id, QL_E_RESUME, &j, &to, f);

	if (rc != QL_OK)
		return rc;
	rc = answer(ctl, who, &j, out, f);
	ql_jobs_schedule(ctl);
	return rc;
}
