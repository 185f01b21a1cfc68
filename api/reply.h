/* reply.h - how handlers answer.  Exactly one ql_reply_* or ql_stream_begin a request, now or later; later means that the
 * handler set r->on_gone (and r->state) and returned, and that something calls back. */
#ifndef QL_API_REPLY_H
#define QL_API_REPLY_H

#include "api/server.h"

/* A header for the answer to come; name is a literal, value is copied and cut at 255 bytes. */
void ql_reply_header(struct ql_req *r, const char *name, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* v is taken over; NULL (out of memory) becomes a 500. */
void ql_reply_json(struct ql_req *r, int status, json_t *v);
void ql_reply_fault(struct ql_req *r, const struct ql_fault *f);
/* The same with another `type` (health). */
void ql_reply_fault_type(struct ql_req *r, const struct ql_fault *f, const char *type);
void ql_reply_empty(struct ql_req *r, int status);
/* data was malloc'd and is taken over. */
void ql_reply_bytes(struct ql_req *r, int status, const char *type, char *data, size_t len);
/* data lives as long as the program. */
void ql_reply_static(struct ql_req *r, const char *type, const void *data, size_t len);
/* size bytes of fd from offset; fd is taken over. */
void ql_reply_fd(struct ql_req *r, int status, const char *type, int fd, uint64_t offset, uint64_t size);
/* A reply with repeat handling: 200/…, body taken over, idempotent-replayed header. */
void ql_reply_repeatable(struct ql_req *r, struct ql_reply *reply);

/* ETag of volatile things, W/"r<revision>-<tick>".  True: the client has it, 304 was answered. */
bool ql_reply_unchanged(struct ql_req *r, int64_t revision, int64_t tick);
/* The request's repeat facts; body bytes are borrowed from r.  400 for a bad key. */
int ql_req_idem(struct ql_req *r, struct ql_idem *out, struct ql_fault *f);

/* ---- streams: text/event-stream ---- */
/* Starts the answer.  Write with ql_sse_*(&r->out, …), then ql_stream_flush.  HEAD requests never come here. */
void ql_stream_begin(struct ql_req *r);
/* What was written may go.  rc: the result of writing; a failure, or a reader more than QL_HTTP_STREAM_BUFFER_MAX behind,
 * ends the stream and cancels its work. */
void ql_stream_flush(struct ql_req *r, int rc);
/* No more will be written; the connection ends when the rest is sent. */
void ql_stream_end(struct ql_req *r);

#endif
