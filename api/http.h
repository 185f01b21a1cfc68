/* http.h - the HTTP side of `qlorad serve`: every listener, every connection, every route of the API.
 *
 * One libmicrohttpd daemon for each listener, driven from control's libuv loop (server.c).  No threads: everything here is
 * called, and calls back, on the loop thread. */
#ifndef QL_API_HTTP_H
#define QL_API_HTTP_H

#include <stdbool.h>

#include "daemon/control.h"

/* Binds every listener of ctl->config->listen and takes over the sockets in ctl->listen_fds; keeps its state in ctl->http;
 * logs "listening on http://127.0.0.1:PORT" for each.  On failure nothing stays open and ctl->http is NULL. */
int ql_http_start(struct ql_control *ctl, struct ql_err *e);
/* Returns at once: new work gets 503 draining (the caller has set ctl->draining), event streams end, other requests and
 * streams are given ctl->config->drain_seconds and then end with an error. */
void ql_http_drain(struct ql_control *ctl);
/* True when no request is being answered. */
bool ql_http_idle(struct ql_control *ctl);
/* Ends every request, closes every connection and listener, sets ctl->http to NULL.  The uv handles are closed, and the
 * memory freed, after the loop ran once more.  Without a start: nothing. */
void ql_http_stop(struct ql_control *ctl);

#endif
