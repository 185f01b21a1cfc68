/* reply.c - see reply.h: building responses with the headers every answer has, and the stream reader. */
#include "api/reply.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/sse.h"
#include "core/base/json.h"
#include "core/base/limits.h"

#define STREAM_BLOCK QL_KIB(16)

void ql_reply_header(struct ql_req *r, const char *name, const char *fmt, ...)
{
	va_list ap;

	if (r->n_extra == QL_REQ_HEADERS_MAX)
		return;
	r->extra[r->n_extra].name = name;
	va_start(ap, fmt);
	(void)vsnprintf(r->extra[r->n_extra].value, sizeof r->extra[0].value, fmt, ap);
	va_end(ap);
	r->n_extra++;
}

static void add(struct MHD_Response *resp, const char *name, const char *value)
{
	(void)MHD_add_response_header(resp, name, value); /* refuses line breaks in values */
}

/* Takes resp over and hands it to the request; resp NULL (out of memory) ends the connection. */
static void finish(struct ql_req *r, int status, const char *type, struct MHD_Response *resp)
{
	char ms[24];
	bool etag = false;

	if (r->response != NULL) { /* answered already: a defect of ours; the first answer stands */
		if (resp != NULL)
			MHD_destroy_response(resp);
		return;
	}
	if (resp == NULL) {
		ql_req_abandon(r);
		return;
	}
	for (size_t i = 0; i < r->n_extra; i++) {
		add(resp, r->extra[i].name, r->extra[i].value);
		etag |= strcmp(r->extra[i].name, "ETag") == 0;
	}
	if (type != NULL)
		add(resp, "Content-Type", type);
	(void)snprintf(ms, sizeof ms, "%llu", (unsigned long long)(ql_now_ms(r->http) - r->start_ms));
	add(resp, "x-request-id", r->id);
	add(resp, "openai-processing-ms", ms);
	add(resp, "x-content-type-options", "nosniff");
	add(resp, "Cache-Control", etag ? "private, no-cache" : "no-store");
	if (r->cors) {
		add(resp, "Access-Control-Allow-Origin", r->headers.origin);
		add(resp, "Vary", "Origin");
		add(resp, "Access-Control-Expose-Headers", "x-request-id, ETag, Retry-After, x-qlora-ignored");
		if (r->method == QL_OPTIONS) {
			add(resp, "Access-Control-Allow-Methods", "GET, HEAD, POST, DELETE, OPTIONS");
			add(resp, "Access-Control-Allow-Headers",
			    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID, Range, Accept, "
			    "OpenAI-Organization, OpenAI-Project, x-stainless-retry-count, x-stainless-timeout");
			add(resp, "Access-Control-Max-Age", "600");
		}
	}
	if (r->close)
		add(resp, "Connection", "close");
	r->response = resp;
	r->status = status;
	ql_req_wake(r);
}

void ql_reply_bytes(struct ql_req *r, int status, const char *type, char *data, size_t len)
{
	struct MHD_Response *resp = MHD_create_response_from_buffer(len, data, MHD_RESPMEM_MUST_FREE);

	if (resp == NULL)
		free(data);
	finish(r, status, type, resp);
}

void ql_reply_static(struct ql_req *r, const char *type, const void *data, size_t len)
{
	finish(r, 200, type,
	       MHD_create_response_from_buffer(len, (void *)(uintptr_t)data, MHD_RESPMEM_PERSISTENT));
}

void ql_reply_empty(struct ql_req *r, int status)
{
	finish(r, status, NULL, MHD_create_response_from_buffer(0, (void *)(uintptr_t) "", MHD_RESPMEM_PERSISTENT));
}

void ql_reply_json(struct ql_req *r, int status, json_t *v)
{
	static const char last_resort[] = "{\"error\":{\"message\":\"The server is out of memory.\",\"type\":\"server_error\","
					  "\"param\":null,\"code\":\"internal_error\"}}";
	char *text = v == NULL ? NULL : ql_json_text(v);

	json_decref(v);
	if (text != NULL)
		ql_reply_bytes(r, status, "application/json", text, strlen(text));
	else
		finish(r, 500, "application/json",
		       MHD_create_response_from_buffer(sizeof last_resort - 1, (void *)(uintptr_t)last_resort,
						       MHD_RESPMEM_PERSISTENT));
}

void ql_reply_fault_type(struct ql_req *r, const struct ql_fault *f, const char *type)
{
	if (f->retry_after > 0)
		ql_reply_header(r, "Retry-After", "%d", f->retry_after);
	if (f->no_retry)
		ql_reply_header(r, "x-should-retry", "false");
	if (f->status == 405) {
		char allow[40];

		ql_route_allow(r->match.methods, allow);
		ql_reply_header(r, "Allow", "%s", allow);
	}
	if (f->status == 401)
		ql_reply_header(r, "WWW-Authenticate", "Bearer");
	ql_reply_json(r, f->status == 0 ? 500 : f->status, ql_bad_json(f, type));
}

void ql_reply_fault(struct ql_req *r, const struct ql_fault *f) { ql_reply_fault_type(r, f, NULL); }

void ql_reply_fd(struct ql_req *r, int status, const char *type, int fd, uint64_t offset, uint64_t size)
{
	struct MHD_Response *resp = MHD_create_response_from_fd_at_offset64(size, fd, offset);

	if (resp == NULL) /* else the library closes it */
		(void)close(fd);
	finish(r, status, type, resp);
}

void ql_reply_repeatable(struct ql_req *r, struct ql_reply *reply)
{
	if (reply->replayed)
		ql_reply_header(r, "idempotent-replayed", "true");
	ql_reply_json(r, reply->status == 0 ? 200 : reply->status, reply->body);
	reply->body = NULL;
}

bool ql_reply_unchanged(struct ql_req *r, int64_t revision, int64_t tick)
{
	char tag[64];

	(void)snprintf(tag, sizeof tag, "W/\"r%lld-%lld\"", (long long)revision, (long long)tick);
	ql_reply_header(r, "ETag", "%s", tag);
	if (!ql_etag_match(r->headers.if_none_match, tag))
		return false;
	ql_reply_empty(r, 304);
	return true;
}

int ql_req_idem(struct ql_req *r, struct ql_idem *out, struct ql_fault *f)
{
	const char *count = r->headers.retry_count;

	*out = (struct ql_idem){.body = r->body.data, .body_len = r->body.len};
	if (count != NULL && strlen(count) <= 6 && strspn(count, "0123456789") == strlen(count) && count[0] != '\0')
		out->retry_count = strtol(count, NULL, 10);
	if (r->headers.idem == NULL)
		return QL_OK;
	out->key = r->headers.idem;
	return ql_idem_key_check(r->headers.idem, f);
}

/* The library asks for bytes.  Returning 0 without suspending would be called in a busy loop (api.md §18 row 18). */
static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
	struct ql_req *r = cls;
	size_t n = r->out.len - r->out_off;

	(void)pos;
	if (n == 0 && !r->ended && !r->gone && r->pull != NULL) {
		r->in_callback = true;
		r->pull(r);
		r->in_callback = false;
		n = r->out.len - r->out_off;
	}
	if (r->gone || r->failed)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (n == 0) {
		if (r->ended)
			return MHD_CONTENT_READER_END_OF_STREAM;
		r->suspended = true;
		MHD_suspend_connection(r->mhd);
		return 0;
	}
	if (n > max)
		n = max;
	memcpy(buf, r->out.data + r->out_off, n);
	r->out_off += n;
	r->progress_ms = ql_now_ms(r->http);
	if (r->out_off == r->out.len) {
		ql_buf_reset(&r->out);
		r->out_off = 0;
	}
	return (ssize_t)n;
}

void ql_stream_begin(struct ql_req *r)
{
	r->streaming = true;
	r->out_ms = r->progress_ms = ql_now_ms(r->http);
	finish(r, 200, "text/event-stream",
	       MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK, read_stream, r, NULL));
}

void ql_stream_flush(struct ql_req *r, int rc)
{
	if (r->gone)
		return;
	if (rc != QL_OK || r->out.len - r->out_off > QL_HTTP_STREAM_BUFFER_MAX) {
		r->failed = true;
		ql_req_abandon(r);
		return;
	}
	r->out_ms = ql_now_ms(r->http);
	if (r->out.len > r->out_off)
		ql_req_wake(r);
}

void ql_stream_end(struct ql_req *r)
{
	r->ended = true;
	ql_req_wake(r);
}
