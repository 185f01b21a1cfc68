/* server.h - the inside of the HTTP server: listeners, connections and the life of a request.  For api/ only.
 *
 * A request goes HEAD → BODY → WORK → REPLY:
 *   HEAD   libmicrohttpd's first call: framing, Host, Origin, token, route, scope (request.c).  A fault found here is
 *          answered at once if a large body would follow, else when the body is in.
 *   BODY   bytes are collected (JSON) or parsed on the way (multipart).
 *   WORK   the route's handler ran and has not answered yet: the connection is suspended.
 *   REPLY  a response was handed to the library.  A stream suspends again whenever it has nothing to send.
 *
 * Rules that libmicrohttpd 0.9.75 imposes (api.md §18): a suspended connection is resumed only through ql_req_wake, which
 * also schedules a pump, and never from inside its own callback (in_callback); the library sees neither deadlines nor the
 * disconnect of a suspended connection, so the sweep (conn.c) does. */
#ifndef QL_API_SERVER_H
#define QL_API_SERVER_H

#include <microhttpd.h>
#include <uv.h>

#include "api/bad.h"
#include "api/headers.h"
#include "api/multipart.h"
#include "api/router.h"
#include "core/base/buf.h"
#include "core/base/limits.h"
#include "daemon/control.h"

struct ql_conn;
struct ql_req;

struct ql_listener {
	struct ql_http *http;
	struct MHD_Daemon *daemon;
	uv_poll_t poll;
	uv_timer_t timer;
	uv_idle_t turn; /* pumps once at the loop's next turn */
	int fd; /* the listening socket */
	bool is_unix;
	bool crowded;   /* the connection limit was reached: see ql_conn_sweep */
	char path[108]; /* UNIX socket made by us, to unlink; else "" */
};

struct ql_http {
	struct ql_control *ctl;
	struct ql_listener listeners[QL_LISTEN_FDS_MAX * 2];
	size_t n_listeners, n_handles;
	uv_timer_t sweep;
	struct ql_conn *conns; /* all, doubly linked */
	size_t n_tcp, n_unix, n_requests;
	size_t body_bytes; /* of JSON bodies held now */
	size_t max_tcp, max_unix; /* connections, by the limits and by the descriptors we may have */
	uint64_t drain_until_ms; /* 0 = not draining */
	bool stopping;
};

enum ql_phase { QL_PHASE_HEAD, QL_PHASE_BODY, QL_PHASE_WORK, QL_PHASE_REPLY, QL_PHASE_IDLE };

struct ql_conn {
	struct ql_conn *prev, *next;
	struct ql_listener *listener;
	struct ql_req *req; /* the present request or NULL */
	int fd;
	struct MHD_Connection *mhd;
	enum ql_phase phase;
	uint64_t since_ms;       /* begin of the phase */
	uint64_t idle_received;  /* TCP bytes received when the connection went idle */
	char peer[64];           /* address without port, or uid:N */
	bool is_unix, loopback, over; /* over: above our limit, gets 503 */
};

#define QL_REQ_HEADERS_MAX 12

struct ql_req {
	struct ql_http *http;
	struct ql_control *ctl;
	struct ql_conn *conn;
	struct MHD_Connection *mhd;
	char id[QL_ID_SIZE];
	/* head */
	char *raw_target; /* copy */
	const char *raw_end; /* end of the library's text, to find a NUL inside it */
	struct ql_target target;
	struct ql_headers headers;
	struct ql_framing framing;
	unsigned method;
	struct ql_match match;
	struct ql_who who;
	bool cors;
	/* body */
	int stage;
	bool drop;             /* read and forget the body */
	struct ql_fault fault; /* to answer when the body is in; status 0 = none */
	uint64_t received;
	struct ql_buf body;
	json_t *json; /* the parsed body of a JSON route; like body, gone when the handler has run */
	struct ql_upload_form *form;
	/* reply */
	struct MHD_Response *response;
	int status;
	bool close;
	struct {
		const char *name;
		char value[256];
	} extra[QL_REQ_HEADERS_MAX];
	size_t n_extra;
	/* stream */
	bool streaming, ended, failed;
	struct ql_buf out;
	size_t out_off;
	uint64_t out_ms, progress_ms; /* last bytes added, last bytes taken */
	void (*pull)(struct ql_req *r); /* asks for more when the buffer is empty; may be NULL */
	bool endless;                   /* ends at once when the daemon drains */
	/* control flow */
	bool in_callback, suspended, gone, counted;
	uint64_t start_ms;
	uint64_t deadline_ms; /* 0 = none: when the work is given up */
	/* The handler's own.  on_gone: called once, when the client went away, the daemon stops or the request ended (answered
	 * or not), maybe from inside the handler's own callbacks: stop the work, free nothing.  on_free: called last, from
	 * the library's end-of-request callback only: free state, close what could call back. */
	void *state;
	void (*on_gone)(struct ql_req *r);
	void (*on_free)(struct ql_req *r);
};

/* ---- server.c ---- */
void ql_listener_want(struct ql_listener *l); /* pump at the next turn */

/* ---- conn.c ---- */
void ql_conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context, enum MHD_ConnectionNotificationCode code);
enum MHD_Result ql_conn_accept(void *cls, const struct sockaddr *addr, socklen_t len);
void ql_conn_phase(struct ql_conn *c, enum ql_phase phase);
void ql_conn_sweep(struct ql_http *h); /* each 500 ms */
void ql_conn_cut(struct ql_conn *c);   /* the library closes it soon */

/* ---- request_head.c ---- */
#define QL_REQ_SMALL_BODY QL_KIB(64) /* bodies up to this are read before a fault of the head is answered */
/* All checks of the head; f->status 0: passed.  Returns true if the connection cannot be used after the fault. */
bool ql_req_check_head(struct ql_req *r, const char *method, const char *version, struct ql_fault *f);
uint64_t ql_req_body_limit(const struct ql_req *r);
int ql_req_too_large(struct ql_req *r, struct ql_fault *f); /* 413 */
int ql_req_media(struct ql_req *r, struct ql_fault *f);     /* 415 unless the Content-Type is the route's */

/* ---- request.c ---- */
void *ql_req_begin(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result ql_req_step(void *cls, struct MHD_Connection *mhd, const char *url, const char *method, const char *version,
			    const char *upload_data, size_t *upload_data_size, void **con_cls);
void ql_req_end(void *cls, struct MHD_Connection *mhd, void **con_cls, enum MHD_RequestTerminationCode code);
/* Resumes a suspended request, unless its callback is running. */
void ql_req_wake(struct ql_req *r);
/* The client is gone, or must go: cancels the work and ends the connection. */
void ql_req_abandon(struct ql_req *r);
/* The daemon drains and time is up: streams get an error event, others a 503. */
void ql_req_expire(struct ql_req *r, const char *code, const char *message);
/* Lets the handler's state go (on_gone, once). */
void ql_req_release(struct ql_req *r);

uint64_t ql_now_ms(const struct ql_http *h);

/* ---- upload.c ---- */
int ql_upload_begin(struct ql_req *r, struct ql_fault *f);
int ql_upload_feed(struct ql_req *r, const char *data, size_t len, struct ql_fault *f);
void ql_upload_end(struct ql_req *r); /* answers, now or later */
void ql_upload_drop(struct ql_req *r); /* frees; accepts a request without a form */

#endif
