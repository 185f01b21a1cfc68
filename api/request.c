/* request.c - the life of one request (see server.h): what libmicrohttpd's callbacks do, in order. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/reply.h"
#include "api/sse.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/metrics.h"

enum { STAGE_HEAD, STAGE_BODY, STAGE_WORK, STAGE_DONE };

#define DROP_MAX QL_KIB(64)   /* a chunked body may exceed its limit by so much before the connection is cut */

void *ql_req_begin(void *cls, const char *uri, struct MHD_Connection *mhd)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
	struct ql_listener *l = cls;
	struct ql_conn *c = info == NULL ? NULL : info->socket_context;
	struct ql_req *r = c == NULL ? NULL : calloc(1, sizeof *r);

	if (r == NULL)
		return NULL;
	r->http = l->http;
	r->ctl = l->http->ctl;
	r->conn = c;
	r->mhd = mhd;
	r->raw_target = strdup(uri);
	r->raw_end = uri + strlen(uri);
	r->start_ms = ql_now_ms(r->http);
	ql_id_make(r->id, "req_");
	c->req = r;
	if (c->phase == QL_PHASE_IDLE)
		ql_conn_phase(c, QL_PHASE_HEAD);
	r->http->n_requests++;
	return r;
}

static enum MHD_Result send_reply(struct ql_req *r)
{
	enum MHD_Result ok;

	r->stage = STAGE_DONE;
	if (r->response == NULL || r->gone)
		return MHD_NO;
	(void)MHD_set_connection_option(r->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 30u);
	ok = MHD_queue_response(r->mhd, (unsigned)r->status, r->response);
	MHD_destroy_response(r->response);
	r->response = NULL;
	ql_conn_phase(r->conn, QL_PHASE_REPLY);
	r->progress_ms = r->out_ms = ql_now_ms(r->http);
	return ok;
}

/* The library's first call: only the head is here. */
static enum MHD_Result on_head(struct ql_req *r, const char *method, const char *version)
{
	struct ql_fault f = {0};
	bool must_close;

	must_close = ql_req_check_head(r, method, version, &f);
	if (f.status == 0) {
		r->stage = STAGE_BODY;
		ql_conn_phase(r->conn, QL_PHASE_BODY);
		return MHD_YES;
	}
	/* An answer in this first call always closes the connection; a fault that leaves it usable is answered when the
	 * (small) body is in. */
	if (!must_close && r->headers.expect == NULL && r->framing.length <= QL_REQ_SMALL_BODY) {
		r->fault = f;
		r->drop = true;
		r->stage = STAGE_BODY;
		ql_conn_phase(r->conn, QL_PHASE_BODY);
		return MHD_YES;
	}
	r->close = true;
	ql_reply_fault(r, &f);
	return send_reply(r);
}

static enum MHD_Result on_body(struct ql_req *r, const char *data, size_t *len)
{
	uint64_t limit = r->drop && r->match.route == NULL ? QL_REQ_SMALL_BODY : ql_req_body_limit(r);
	size_t n = *len;

	*len = 0; /* all of it is taken */
	r->received += n;
	if (r->received > limit + DROP_MAX)
		return MHD_NO;
	if (r->received > limit && !r->drop) {
		r->drop = true;
		(void)ql_req_too_large(r, &r->fault);
		r->close = true;
	}
	if (r->drop || r->match.route == NULL || r->match.route->body == QL_BODY_NONE)
		return MHD_YES;
	if (r->match.route->body == QL_BODY_UPLOAD) {
		if (ql_upload_feed(r, data, n, &r->fault) != QL_OK)
			r->drop = true;
	} else if (r->body.len + n > QL_REQ_SMALL_BODY && r->http->body_bytes + n > QL_HTTP_BODIES_MAX) {
		(void)ql_bad(&r->fault, 429, "rate_limit_exceeded", NULL, "Too many large requests at the same time.");
		r->fault.retry_after = 1;
		r->drop = true;
	} else if (ql_buf_add(&r->body, data, n) != QL_OK) {
		(void)ql_bad_internal(&r->fault);
		r->drop = true;
	} else {
		r->http->body_bytes += n;
	}
	return MHD_YES;
}

/* What the client sent: needed until the handler has run, not while its work goes on. */
static void forget_body(struct ql_req *r)
{
	json_decref(r->json);
	r->json = NULL;
	r->http->body_bytes -= r->body.len;
	if (r->body.data != NULL)
		explicit_bzero(r->body.data, r->body.cap);
	ql_buf_free(&r->body);
}

static int parse_json(struct ql_req *r, struct ql_fault *f)
{
	enum ql_body body = r->match.route->body;
	struct ql_err e = {0};
	int rc;

	if (r->body.len == 0) {
		if (body == QL_BODY_OPTIONAL)
			return QL_OK;
		return ql_bad(f, 400, "invalid_json", NULL, "The request body is empty; expected a JSON object.");
	}
	rc = ql_req_media(r, f); /* a chunked body shows its length only now */
	if (rc != QL_OK)
		return rc;
	rc = ql_json_parse(r->body.data, r->body.len, QL_JSON_BODY_MAX, &r->json, &e);
	if (rc == QL_ENOMEM)
		return ql_bad_internal(f);
	if (rc != QL_OK)
		return ql_bad(f, 400, "invalid_json", NULL, "We could not parse the JSON body of your request: %s.", e.message);
	if (!json_is_object(r->json))
		return ql_bad(f, 400, "invalid_json", NULL, "The JSON body of the request must be an object.");
	return QL_OK;
}

static void run_handler(struct ql_req *r)
{
	struct ql_fault f = {0};

	if (r->fault.status != 0) {
		ql_reply_fault(r, &r->fault);
		return;
	}
	if (r->method == QL_OPTIONS) {
		char allow[40];

		ql_route_allow(r->match.methods, allow);
		ql_reply_header(r, "Allow", "%s", allow);
		ql_reply_empty(r, 204);
		return;
	}
	if ((r->match.route->body == QL_BODY_JSON || r->match.route->body == QL_BODY_OPTIONAL) &&
	    parse_json(r, &f) != QL_OK) {
		ql_reply_fault(r, &f);
		return;
	}
	r->match.route->handler(r);
}

static enum MHD_Result on_complete(struct ql_req *r)
{
	r->stage = STAGE_WORK;
	ql_conn_phase(r->conn, QL_PHASE_WORK);
	r->in_callback = true;
	run_handler(r);
	forget_body(r);
	r->in_callback = false;
	if (r->response != NULL)
		return send_reply(r);
	if (r->gone || r->on_gone == NULL) /* a handler that neither answered nor will: a defect of ours */
		return MHD_NO;
	r->suspended = true;
	MHD_suspend_connection(r->mhd);
	return MHD_YES;
}

enum MHD_Result ql_req_step(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
			    const char *upload_data, size_t *upload_data_size, void **con_cls)
{
	struct ql_req *r = *con_cls;

	(void)cls;
	(void)mhd;
	(void)url; /* unescaped and cut by the library: not used */
	if (r == NULL)
		return MHD_NO;
	switch (r->stage) {
	case STAGE_HEAD:
		return on_head(r, method, version);
	case STAGE_BODY:
		return *upload_data_size > 0 ? on_body(r, upload_data, upload_data_size) : on_complete(r);
	case STAGE_WORK:
		if (r->response != NULL || r->gone)
			return send_reply(r);
		r->suspended = true; /* woken without an answer */
		MHD_suspend_connection(r->mhd);
		return MHD_YES;
	default:
		return MHD_NO;
	}
}

static void record(struct ql_req *r)
{
	static const char *const names[] = {[QL_GET] = "GET", [QL_POST] = "POST", [QL_DELETE] = "DELETE",
					    [QL_HEAD] = "HEAD", [QL_OPTIONS] = "OPTIONS"};
	const struct ql_route *route = r->match.route;
	const char *method = r->method == 0 ? "other" : names[r->method];
	char path[96], status[8], labels[256];
	double seconds = (double)(uv_now(r->ctl->loop) - r->start_ms) / 1000.0;
	bool quiet = r->status < 400 && (r->method == QL_GET || r->method == QL_HEAD);

	if (route == NULL)
		(void)snprintf(path, sizeof path, "%s", "other");
	else
		(void)snprintf(path, sizeof path, "%s%s", route->flags & QL_ROUTE_BARE ? "" : "/v1", route->pattern);
	if (r->status == 0)
		r->status = 499; /* the client went before the answer */
	(void)snprintf(status, sizeof status, "%d", r->status);
	ql_metrics_labels(labels, sizeof labels, "route", path, "method", method, "status", status, NULL);
	ql_metrics_add(r->ctl->metrics, QLM_HTTP_REQUESTS, labels, 1);
	ql_metrics_labels(labels, sizeof labels, "route", path, NULL);
	ql_metrics_observe(r->ctl->metrics, QLM_HTTP_REQUEST_SECONDS, labels, seconds);
	ql_log(quiet ? QL_LOG_DEBUG : QL_LOG_INFO, "http", "%s %s %s %d %.0f ms %s", r->id, method, path, r->status,
	       seconds * 1000, r->who.token);
}

void ql_req_release(struct ql_req *r)
{
	void (*gone)(struct ql_req *) = r->on_gone;

	r->on_gone = NULL;
	r->pull = NULL;
	if (gone != NULL)
		gone(r);
}

void ql_req_end(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code)
{
	struct ql_req *r = *con_cls;
	bool cut;

	(void)cls;
	(void)code; /* says COMPLETED_OK for replies to dead peers too */
	*con_cls = NULL;
	if (r == NULL)
		return;
	cut = r->gone;
	r->gone = true;
	r->in_callback = true; /* nothing resumes it any more */
	ql_req_release(r);
	if (r->on_free != NULL)
		r->on_free(r);
	ql_upload_drop(r);
	if (!r->http->stopping && !cut)
		(void)MHD_set_connection_option(mhd, MHD_CONNECTION_OPTION_TIMEOUT, (unsigned)QL_HTTP_IDLE_SECONDS);
	record(r);
	r->conn->req = NULL;
	r->conn->idle_received = 0;
	ql_conn_phase(r->conn, QL_PHASE_IDLE);
	r->http->n_requests--;
	if (r->response != NULL)
		MHD_destroy_response(r->response);
	forget_body(r);
	if (r->out.data != NULL)
		explicit_bzero(r->out.data, r->out.cap);
	ql_buf_free(&r->out);
	ql_target_free(&r->target);
	free(r->raw_target);
	free(r);
}

void ql_req_wake(struct ql_req *r)
{
	if (r->in_callback || !r->suspended)
		return;
	r->suspended = false;
	MHD_resume_connection(r->mhd);
	ql_listener_want(r->conn->listener);
}

void ql_req_abandon(struct ql_req *r)
{
	if (r->gone)
		return;
	r->gone = true;
	ql_req_release(r);
	ql_conn_cut(r->conn);
	ql_req_wake(r);
}

void ql_req_expire(struct ql_req *r, const char *code, const char *message)
{
	struct ql_fault f;
	json_t *v;

	if (r->streaming && !r->ended) {
		(void)ql_bad(&f, 503, code, NULL, "%s", message);
		v = ql_bad_json(&f, NULL);
		ql_req_release(r);
		ql_stream_flush(r, v == NULL ? QL_ENOMEM : ql_sse_json(&r->out, NULL, NULL, v));
		json_decref(v);
		ql_stream_end(r);
	} else if (r->stage == STAGE_WORK && r->suspended && r->response == NULL) {
		(void)ql_bad(&f, 503, code, NULL, "%s", message);
		f.retry_after = 5;
		ql_req_release(r);
		ql_reply_fault(r, &f);
	} else if (r->conn->phase == QL_PHASE_BODY) {
		ql_req_abandon(r);
	}
}
