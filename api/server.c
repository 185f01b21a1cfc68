/* server.c - libmicrohttpd inside the uv loop: one MHD daemon for each listening socket, and the pump that drives it.
 *
 * The library's epoll descriptor sits in a uv_poll_t.  It may be quiet while work is left (edge-triggered connections, a
 * private ready list), so every pump asks MHD_get_timeout afterwards and arms a timer with the answer.  Work at once (an
 * answer of 0, or a resume) goes through a uv_idle_t, which runs once a turn: a timer of 0 that arms itself again would
 * keep libuv inside its timer phase, and every other timer out.  Nothing else calls MHD_run (api.md §18 rows 1, 2, 25). */
#include "api/http.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api/listen.h"
#include "api/reply.h"
#include "api/server.h"
#include "core/base/limits.h"
#include "core/base/log.h"

#define SWEEP_MS 500
#define POOL_BYTES QL_KIB(64)
#define FDS_RESERVED 160 /* database, files in work, engine, listeners */

uint64_t ql_now_ms(const struct ql_http *h) { return uv_now(h->ctl->loop); }

static void pump(struct ql_listener *l);

static void on_timer(uv_timer_t *t) { pump(t->data); }

static void on_poll(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	pump(p->data);
}

static void on_turn(uv_idle_t *t)
{
	(void)uv_idle_stop(t); /* before the pump, which may ask for another turn */
	pump(t->data);
}

void ql_listener_want(struct ql_listener *l) { (void)uv_idle_start(&l->turn, on_turn); }

static void pump(struct ql_listener *l)
{
	MHD_UNSIGNED_LONG_LONG ms = 0;

	if (l->daemon == NULL)
		return;
	(void)MHD_run(l->daemon);
	if (MHD_get_timeout(l->daemon, &ms) != MHD_YES)
		(void)uv_timer_stop(&l->timer);
	else if (ms == 0)
		ql_listener_want(l);
	else
		(void)uv_timer_start(&l->timer, on_timer, ms, 0);
}

static void on_panic(void *cls, const char *file, unsigned line, const char *reason)
{
	(void)cls;
	ql_log(QL_LOG_ERROR, "http", "libmicrohttpd stopped at %s:%u: %s", file, line, reason == NULL ? "" : reason);
	abort();
}

static void on_library_log(void *cls, const char *fmt, va_list ap)
{
	char line[512];
	size_t n;

	(void)cls;
	(void)vsnprintf(line, sizeof line, fmt, ap);
	n = strlen(line);
	while (n > 0 && line[n - 1] == '\n')
		line[--n] = '\0';
	ql_log(QL_LOG_DEBUG, "http", "libmicrohttpd: %s", line);
}

static int daemon_start(struct ql_listener *l, struct ql_err *e)
{
	const union MHD_DaemonInfo *info;
	unsigned limit = (unsigned)(l->is_unix ? l->http->max_unix : l->http->max_tcp) + QL_HTTP_CONNECTIONS_RESERVE;
	int rc;

	l->daemon = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, ql_conn_accept, l, ql_req_step, l,
		MHD_OPTION_EXTERNAL_LOGGER, on_library_log, (void *)NULL, MHD_OPTION_LISTEN_SOCKET, l->fd,
		MHD_OPTION_URI_LOG_CALLBACK, ql_req_begin, (void *)l, MHD_OPTION_NOTIFY_COMPLETED, ql_req_end, (void *)l,
		MHD_OPTION_NOTIFY_CONNECTION, ql_conn_notify, (void *)l, MHD_OPTION_CONNECTION_LIMIT, limit,
		MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)QL_HTTP_IDLE_SECONDS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)POOL_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
	if (l->daemon == NULL)
		return ql_err_set(e, QL_EIO, "the HTTP library refused to start on a listener");
	info = MHD_get_daemon_info(l->daemon, MHD_DAEMON_INFO_EPOLL_FD);
	if (info == NULL)
		return ql_err_set(e, QL_EINTERNAL, "the HTTP library has no epoll descriptor");
	rc = uv_poll_init(l->http->ctl->loop, &l->poll, info->epoll_fd);
	if (rc != 0)
		return ql_err_set(e, QL_EIO, "watching the HTTP library: %s", uv_strerror(rc));
	l->poll.data = l;
	(void)uv_timer_init(l->http->ctl->loop, &l->timer);
	l->timer.data = l;
	(void)uv_idle_init(l->http->ctl->loop, &l->turn);
	l->turn.data = l;
	l->http->n_handles += 3;
	(void)uv_poll_start(&l->poll, UV_READABLE, on_poll);
	return QL_OK;
}

static void on_sweep(uv_timer_t *t) { ql_conn_sweep(t->data); }

static void on_closed(uv_handle_t *handle)
{
	struct ql_http *h = handle == (uv_handle_t *)&((struct ql_http *)handle->data)->sweep ?
				    handle->data :
				    ((struct ql_listener *)handle->data)->http;

	if (--h->n_handles == 0)
		free(h);
}

static int add_listener(struct ql_http *h, const char *address, int fd, struct ql_err *e)
{
	struct ql_listener *l = &h->listeners[h->n_listeners];
	char text[192];
	int rc;

	if (h->n_listeners == sizeof h->listeners / sizeof h->listeners[0]) {
		(void)close(fd);
		return ql_err_set(e, QL_ELIMIT, "more than %zu listeners", h->n_listeners);
	}
	*l = (struct ql_listener){.http = h, .fd = fd};
	h->n_listeners++;
	l->is_unix = ql_listen_describe(fd, text, sizeof text);
	if (address != NULL && strncmp(address, "unix:", 5) == 0)
		(void)snprintf(l->path, sizeof l->path, "%s", address + 5);
	rc = daemon_start(l, e);
	if (rc == QL_OK)
		ql_log(QL_LOG_INFO, "http", "listening on %s", text);
	return rc;
}

/* An accept that finds no descriptor would be tried again at once, for ever: connections get what is left after a reserve. */
static void set_limits(struct ql_http *h)
{
	const size_t want = QL_HTTP_CONNECTIONS_TCP + QL_HTTP_CONNECTIONS_UNIX;
	struct rlimit lim;
	size_t have;

	h->max_tcp = QL_HTTP_CONNECTIONS_TCP;
	h->max_unix = QL_HTTP_CONNECTIONS_UNIX;
	if (getrlimit(RLIMIT_NOFILE, &lim) != 0 || lim.rlim_cur >= want + FDS_RESERVED)
		return;
	have = lim.rlim_cur > FDS_RESERVED + 64 ? (size_t)lim.rlim_cur - FDS_RESERVED : 64;
	h->max_tcp = QL_HTTP_CONNECTIONS_TCP * have / want;
	h->max_unix = QL_HTTP_CONNECTIONS_UNIX * have / want;
	ql_log(QL_LOG_WARN, "http", "only %llu descriptors: at most %zu TCP and %zu UNIX connections",
	       (unsigned long long)lim.rlim_cur, h->max_tcp, h->max_unix);
}

int ql_http_start(struct ql_control *ctl, struct ql_err *e)
{
	const struct ql_config *c = ctl->config;
	struct ql_http *h = calloc(1, sizeof *h);
	int rc = QL_OK;

	if (h == NULL)
		return ql_err_set(e, QL_ENOMEM, "HTTP server");
	h->ctl = ctl;
	ctl->http = h;
	set_limits(h);
	(void)signal(SIGPIPE, SIG_IGN);
	MHD_set_panic_func(on_panic, NULL);
	(void)uv_timer_init(ctl->loop, &h->sweep);
	h->sweep.data = h;
	h->n_handles = 1;
	for (size_t i = 0; i < ctl->n_listen_fds && rc == QL_OK; i++) {
		rc = ql_listen_adopt(ctl->listen_fds[i], c->no_auth, e);
		if (rc == QL_OK)
			rc = add_listener(h, NULL, ctl->listen_fds[i], e);
	}
	for (size_t i = 0; i < c->listen.n && rc == QL_OK; i++) {
		int fd = ql_listen_open(c->listen.v[i], c->allow_remote, c->no_auth, e);

		rc = fd < 0 ? fd : add_listener(h, c->listen.v[i], fd, e);
	}
	if (rc == QL_OK && h->n_listeners == 0)
		rc = ql_err_set(e, QL_EINVAL, "no address to listen on");
	if (rc != QL_OK) {
		ql_http_stop(ctl);
		return rc;
	}
	(void)uv_timer_start(&h->sweep, on_sweep, SWEEP_MS, SWEEP_MS);
	return QL_OK;
}

void ql_http_drain(struct ql_control *ctl)
{
	struct ql_http *h = ctl->http;

	if (h == NULL || h->drain_until_ms != 0)
		return;
	h->drain_until_ms = ql_now_ms(h) + (uint64_t)ctl->config->drain_seconds * 1000;
	for (struct ql_conn *c = h->conns, *next; c != NULL; c = next) {
		next = c->next;
		if (c->req != NULL && c->req->endless && c->req->streaming)
			ql_stream_end(c->req);
	}
}

bool ql_http_idle(struct ql_control *ctl)
{
	const struct ql_http *h = ctl->http;

	return h == NULL || h->n_requests == 0;
}

/* MHD_stop_daemon aborts the process when a connection is suspended: so first everything is resumed and pumped. */
static void listener_stop(struct ql_listener *l)
{
	struct ql_http *h = l->http;

	if (l->daemon != NULL) {
		int fd = MHD_quiesce_daemon(l->daemon);

		if (fd != MHD_INVALID_SOCKET)
			(void)close(fd);
		for (struct ql_conn *c = h->conns, *next; c != NULL; c = next) {
			next = c->next;
			if (c->listener == l && c->req != NULL)
				ql_req_abandon(c->req);
		}
		for (int turn = 0; turn < 8; turn++)
			(void)MHD_run(l->daemon);
		if (l->poll.data != NULL) {
			(void)uv_poll_stop(&l->poll);
			uv_close((uv_handle_t *)&l->poll, on_closed);
			uv_close((uv_handle_t *)&l->timer, on_closed);
			uv_close((uv_handle_t *)&l->turn, on_closed);
		}
		MHD_stop_daemon(l->daemon);
		l->daemon = NULL;
	} else {
		(void)close(l->fd);
	}
	if (l->path[0] != '\0')
		(void)unlink(l->path);
}

void ql_http_stop(struct ql_control *ctl)
{
	struct ql_http *h = ctl->http;

	if (h == NULL)
		return;
	h->stopping = true;
	for (size_t i = 0; i < h->n_listeners; i++)
		listener_stop(&h->listeners[i]);
	(void)uv_timer_stop(&h->sweep);
	uv_close((uv_handle_t *)&h->sweep, on_closed);
	ctl->http = NULL;
}
