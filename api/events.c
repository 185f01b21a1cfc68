/* events.c - GET /v1/fine_tuning/jobs/{id}/events: a page, or with stream=true the live stream (api.md §6).
 *
 * The stream is pulled: events are read from the store only when the reader has taken what it got, so a slow reader costs
 * a cursor and nothing more. */
#include <stdlib.h>

#include "api/handlers.h"
#include "api/page.h"
#include "api/sse.h"
#include "daemon/jobs.h"

#define EVENTS_A_READ 64

/* The watch is closed at the request's end only, never from inside its own notify. */
static void on_gone(struct ql_req *r) { r->pull = NULL; }
static void on_free(struct ql_req *r) { ql_job_watch_close(r->state); }

/* Reads what is new into r->out.  *n: events written; *end: the job is over and nothing is left. */
static int read_events(struct ql_req *r, size_t *n, bool *end)
{
	json_t *events = NULL, *v;
	struct ql_fault f = {0};
	size_t i;
	int rc = ql_job_watch_read(r->state, EVENTS_A_READ, &events, end, &f);

	*n = 0;
	if (rc != QL_OK)
		return rc;
	json_array_foreach(events, i, v) {
		rc = ql_sse_json(&r->out, json_string_value(json_object_get(v, "id")), "fine_tuning.job.event", v);
		if (rc != QL_OK)
			break;
		(*n)++;
	}
	json_decref(events);
	return rc;
}

static void pull(struct ql_req *r)
{
	bool end = false;
	size_t n;
	int rc;

	if (r->gone || r->ended)
		return;
	rc = read_events(r, &n, &end);
	if (rc == QL_OK && end)
		rc = ql_sse_text(&r->out, "[DONE]");
	ql_stream_flush(r, rc);
	if (end && !r->gone)
		ql_stream_end(r);
}

static void notify(void *user)
{
	struct ql_req *r = user;

	if (r->streaming && !r->gone && r->out.len == r->out_off)
		pull(r);
}

static void stream(struct ql_req *r, const char *after)
{
	const char *last = r->headers.last_event_id;
	struct ql_fault f = {0};
	struct ql_job_watch *w = NULL;
	bool end = false, resumed;
	size_t n;

	if (last != NULL && last[0] != '\0')
		after = last;
	resumed = after != NULL;
	if (ql_job_watch(r->ctl, &r->who, r->match.param[0], after, notify, r, &w, &f) != QL_OK) {
		ql_reply_fault(r, &f);
		return;
	}
	if (r->method == QL_HEAD) { /* a stream of unknown size has no head of its own */
		ql_job_watch_close(w);
		ql_reply_static(r, "text/event-stream", "", 0);
		return;
	}
	r->state = w;
	r->on_gone = on_gone;
	r->on_free = on_free;
	r->endless = true;
	if (ql_sse_retry(&r->out, 2000) != QL_OK || read_events(r, &n, &end) != QL_OK) {
		(void)ql_bad_internal(&f);
		ql_reply_fault(r, &f);
		return;
	}
	if (end && n == 0 && resumed) { /* stops a browser's EventSource from coming back */
		ql_reply_empty(r, 204);
		return;
	}
	r->pull = pull;
	ql_stream_begin(r);
	if (end) {
		ql_stream_flush(r, ql_sse_text(&r->out, "[DONE]"));
		ql_stream_end(r);
	}
}

void ql_h_job_events(struct ql_req *r)
{
	struct ql_fault f = {0};
	struct ql_page page;
	bool want_stream = false;
	json_t *out;

	if (ql_page_read(&r->target, 20, 1000, &page, &f) != QL_OK ||
	    ql_query_bool(&r->target, "stream", &want_stream, &f) != QL_OK) {
		ql_reply_fault(r, &f);
		return;
	}
	if (want_stream) {
		stream(r, page.after);
		return;
	}
	if (ql_job_events(r->ctl, &r->who, r->match.param[0], &page, &out, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		ql_reply_json(r, 200, out);
}
