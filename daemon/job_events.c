/* job_events.c - answers made of events and checkpoints, and event streams; see jobs.h. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/jobs_internal.h"

#define EVENTS_DEFAULT 20
#define EVENTS_MAX 1000
#define CKPTS_DEFAULT 10
#define CKPTS_MAX 100

static json_t *json_column(sqlite3_stmt *q, int column)
{
	const char *text = ql_store_text(q, column);
	json_t *v = NULL;

	return ql_json_parse(text, strlen(text), QL_JSON_BODY_MAX, &v, NULL) == QL_OK ? v : json_object();
}

#define EVENT_COLUMNS "seq, id, created_at, level, message, type, data"

static json_t *event_json(sqlite3_stmt *q)
{
	return json_pack("{s:s,s:s,s:I,s:s,s:s,s:s,s:o}", "id", ql_store_text(q, 1), "object", "fine_tuning.job.event", "created_at",
			 (json_int_t)sqlite3_column_int64(q, 2), "level", ql_store_text(q, 3), "message", ql_store_text(q, 4), "type",
			 ql_store_text(q, 5), "data", json_column(q, 6));
}

static int64_t page_limit(const struct ql_page *p, int64_t preset, int64_t most)
{
	int64_t n = p->limit <= 0 ? preset : p->limit;

	return n > most ? most : n;
}

/* Reads rows into data until limit; *more tells whether one was left. */
static int collect(struct ql_control *ctl, sqlite3_stmt *q, json_t *(*row)(sqlite3_stmt *), int64_t limit, json_t *data, bool *more,
		   struct ql_err *e)
{
	int rc = q == NULL ? e->code : 1;
	int64_t n = 0;

	*more = false;
	while (rc > 0 && (rc = ql_store_step(ctl->store, q, e)) == 1) {
		if (n++ == limit) {
			*more = true;
			break;
		}
		if (json_array_append_new(data, row(q)) != 0)
			rc = ql_err_set(e, QL_ENOMEM, "list");
	}
	ql_store_done(q);
	return rc < 0 ? rc : QL_OK;
}

int ql_job_events(struct ql_control *ctl, const struct ql_who *who, const char *id, const struct ql_page *page,
		json_t **out, struct ql_fault *f)
{
	int64_t limit = page_limit(page, EVENTS_DEFAULT, EVENTS_MAX), from = INT64_MAX;
	json_t *data = NULL;
	struct ql_err e = {0};
	struct ql_job j;
	bool more;
	int rc = ql_job_find(ctl, who, id, &j, f);

	if (rc != QL_OK)
		return rc;
	if (page->after != NULL)
		from = ql_job_event_seq(ctl, page->after, j.id, 0);
	data = json_array();
	rc = collect(ctl,
		     ql_store_query(ctl->store, &e, "SELECT " EVENT_COLUMNS " FROM events WHERE job = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3",
				    "sii", j.id, from, limit + 1),
		     event_json, limit, data, &more, &e);
	ql_job_free(&j);
	*out = rc != QL_OK ? NULL : json_pack("{s:s,s:O,s:b}", "object", "list", "data", data, "has_more", (int)more);
	json_decref(data);
	return *out == NULL ? ql_fault_internal(f, &e, "events") : QL_OK;
}

static json_t *ckpt_json(sqlite3_stmt *q)
{
	return json_pack("{s:s,s:s,s:I,s:s,s:s,s:I,s:o}", "id", ql_store_text(q, 0), "object", "fine_tuning.job.checkpoint", "created_at",
			 (json_int_t)sqlite3_column_int64(q, 1), "fine_tuned_model_checkpoint", ql_store_text(q, 2), "fine_tuning_job_id",
			 ql_store_text(q, 3), "step_number", (json_int_t)sqlite3_column_int64(q, 4), "metrics", json_column(q, 5));
}

int ql_job_checkpoints(struct ql_control *ctl, const struct ql_who *who, const char *id, const struct ql_page *page, json_t **out,
		       struct ql_fault *f)
{
	int64_t limit = page_limit(page, CKPTS_DEFAULT, CKPTS_MAX), from = INT64_MAX;
	json_t *data = NULL;
	struct ql_err e = {0};
	struct ql_job j;
	size_t n;
	bool more;
	int rc = ql_job_find(ctl, who, id, &j, f);

	if (rc != QL_OK)
		return rc;
	if (page->after != NULL)
		from = ql_store_int(ctl->store, -1, "SELECT step FROM checkpoints WHERE id = ?1 AND job = ?2", "ss", page->after, j.id);
	data = json_array();
	rc = collect(ctl,
		     ql_store_query(ctl->store, &e,
				    "SELECT id, created_at, name, job, step, metrics FROM checkpoints WHERE job = ?1 AND kind = 'user' AND"
				    " invalid = 0 AND step < ?2 ORDER BY step DESC LIMIT ?3",
				    "sii", j.id, from, limit + 1),
		     ckpt_json, limit, data, &more, &e);
	ql_job_free(&j);
	n = json_array_size(data);
	*out = rc != QL_OK ? NULL
			   : json_pack("{s:s,s:O,s:b,s:O?,s:O?}", "object", "list", "data", data, "has_more", (int)more, "first_id",
				       json_object_get(json_array_get(data, 0), "id"), "last_id",
				       n == 0 ? NULL : json_object_get(json_array_get(data, n - 1), "id"));
	json_decref(data);
	if (*out != NULL && n == 0) { /* absent optional values are packed as null */
		(void)json_object_set_new(*out, "first_id", json_null());
		(void)json_object_set_new(*out, "last_id", json_null());
	}
	return *out == NULL ? ql_fault_internal(f, &e, "checkpoints") : QL_OK;
}

int ql_job_watch(struct ql_control *ctl, const struct ql_who *who, const char *id, const char *after,
		void (*notify)(void *), void *user,
		 struct ql_job_watch **out, struct ql_fault *f)
{
	struct ql_job_watch *w;
	struct ql_job j;
	int rc = ql_job_find(ctl, who, id, &j, f);

	*out = NULL;
	if (rc != QL_OK)
		return rc;
	w = calloc(1, sizeof *w);
	if (w != NULL) {
		w->ctl = ctl;
		(void)snprintf(w->id, sizeof w->id, "%s", j.id);
		if (after != NULL)
			w->seq = ql_job_event_seq(ctl, after, w->id, 0);
		w->notify = notify;
		w->user = user;
		w->next = ctl->jobs->watches;
		ctl->jobs->watches = w;
		*out = w;
	}
	ql_job_free(&j);
	return w == NULL ? ql_fault_internal(f, NULL, "event stream") : QL_OK;
}

int ql_job_watch_read(struct ql_job_watch *w, int max, json_t **events, bool *end, struct ql_fault *f)
{
	struct ql_store *st = w->ctl->store;
	struct ql_err e = {0};
	json_t *data = json_array();
	sqlite3_stmt *q;
	int rc, n = 0;

	/* The state is read first: an event committed after it will be told by notify. */
	*end = ql_store_int(st, 0, "SELECT state IN ('succeeded', 'failed', 'cancelled') FROM jobs WHERE id = ?1", "s", w->id) == 1;
	q = ql_store_query(st, &e, "SELECT " EVENT_COLUMNS " FROM events WHERE job = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3", "sii",
			w->id, w->seq,
			   (int64_t)max);
	rc = q == NULL ? e.code : 1;
	while (rc > 0 && (rc = ql_store_step(st, q, &e)) == 1) {
		w->seq = sqlite3_column_int64(q, 0);
		(void)json_array_append_new(data, event_json(q));
		n++;
	}
	ql_store_done(q);
	if (rc < 0) {
		json_decref(data);
		*events = NULL;
		return ql_fault_internal(f, &e, "event stream");
	}
	if (n == max)
		*end = false;
	*events = data;
	return QL_OK;
}

void ql_job_watch_close(struct ql_job_watch *w)
{
	if (w == NULL)
		return;
	for (struct ql_job_watch **p = &w->ctl->jobs->watches; *p != NULL; p = &(*p)->next)
		if (*p == w) {
			*p = w->next;
			break;
		}
	free(w);
}
