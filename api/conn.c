/* conn.c - connections: who may connect, how long they may take, and whether they are still there.
 *
 * The library's timeout counts inactivity only, so a byte every two seconds would hold a connection for ever, and it does
 * not look at suspended connections at all.  Each connection therefore has a phase with an absolute deadline:
 *   HEAD   QL_HTTP_HEAD_SECONDS from connect, or from the first byte after idling
 *   BODY   QL_HTTP_BODY_GRACE_SECONDS + received / QL_HTTP_BODY_RATE_MIN
 *   WORK, REPLY  no deadline here; a stream whose reader takes nothing for 30 s is cut (other answers: the library's timeout)
 *   IDLE   QL_HTTP_IDLE_SECONDS
 * The sweep enforces them with shutdown(2) and finds vanished clients of suspended requests with one poll(2). */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "api/reply.h"
#include "api/sse.h"
#include "api/tcpinfo.h"
#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/metrics.h"

#define STALL_MS 30000
#define PER_ADDRESS 16
#define PER_UID 128
#define CONNS_MAX (QL_HTTP_CONNECTIONS_TCP + QL_HTTP_CONNECTIONS_UNIX + 4 * QL_HTTP_CONNECTIONS_RESERVE)

/* A connection whose read buffer is full of an endless chunk header is neither read nor ended by the library, so shutdown(2)
 * alone would go unnoticed: its timeout is set to the shortest too. */
void ql_conn_cut(struct ql_conn *c)
{
	(void)shutdown(c->fd, SHUT_RDWR);
	(void)MHD_set_connection_option(c->mhd, MHD_CONNECTION_OPTION_TIMEOUT, 1u);
	ql_listener_want(c->listener);
}

void ql_conn_phase(struct ql_conn *c, enum ql_phase phase)
{
	c->phase = phase;
	c->since_ms = ql_now_ms(c->listener->http);
}

static void peer_of_address(const struct sockaddr *addr, struct ql_conn *c)
{
	if (addr->sa_family == AF_INET) {
		const struct sockaddr_in *a = (const void *)addr;

		(void)inet_ntop(AF_INET, &a->sin_addr, c->peer, sizeof c->peer);
		c->loopback = (ntohl(a->sin_addr.s_addr) >> 24) == 127;
	} else if (addr->sa_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const void *)addr;

		(void)inet_ntop(AF_INET6, &a->sin6_addr, c->peer, sizeof c->peer);
		c->loopback = IN6_IS_ADDR_LOOPBACK(&a->sin6_addr);
	}
}

static size_t same_peer(const struct ql_http *h, const char *peer)
{
	size_t n = 0;

	for (const struct ql_conn *c = h->conns; c != NULL; c = c->next)
		n += strcmp(c->peer, peer) == 0;
	return n;
}

enum MHD_Result ql_conn_accept(void *cls, const struct sockaddr *addr, socklen_t len)
{
	struct ql_listener *l = cls;
	struct ql_conn c = {0};

	(void)len;
	if (l->http->stopping)
		return MHD_NO;
	if (l->is_unix || addr == NULL)
		return MHD_YES;
	peer_of_address(addr, &c);
	if (c.loopback || same_peer(l->http, c.peer) < PER_ADDRESS)
		return MHD_YES;
	ql_metrics_add(l->http->ctl->metrics, QLM_HTTP_REJECTED, "reason=\"limit\"", 1);
	return MHD_NO;
}

static void opened(struct ql_listener *l, struct MHD_Connection *mhd, void **socket_context)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ql_http *h = l->http;
	struct sockaddr_storage addr;
	socklen_t len = sizeof addr;
	struct ql_conn *c = calloc(1, sizeof *c);

	*socket_context = c;
	if (c == NULL) {
		(void)shutdown(info->connect_fd, SHUT_RDWR);
		return;
	}
	c->listener = l;
	c->fd = info->connect_fd;
	c->mhd = mhd;
	c->is_unix = l->is_unix;
	if (l->is_unix) {
		struct ucred cred = {0};
		socklen_t n = sizeof cred;

		(void)getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &cred, &n);
		(void)snprintf(c->peer, sizeof c->peer, "uid:%u", (unsigned)cred.uid);
		c->over = ++h->n_unix > h->max_unix || same_peer(h, c->peer) >= PER_UID;
	} else {
		int one = 1;

		(void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		memset(&addr, 0, sizeof addr);
		if (getpeername(c->fd, (struct sockaddr *)&addr, &len) == 0)
			peer_of_address((struct sockaddr *)&addr, c);
		c->over = ++h->n_tcp > h->max_tcp;
	}
	l->crowded |= c->over;
	ql_conn_phase(c, QL_PHASE_HEAD);
	c->next = h->conns;
	if (c->next != NULL)
		c->next->prev = c;
	h->conns = c;
	if (c->over)
		ql_metrics_add(h->ctl->metrics, QLM_HTTP_REJECTED, "reason=\"limit\"", 1);
	ql_metrics_set(h->ctl->metrics, QLM_HTTP_CONNECTIONS, "", (double)(h->n_tcp + h->n_unix));
}

static void closed(struct ql_listener *l, struct ql_conn *c)
{
	struct ql_http *h = l->http;

	if (c == NULL)
		return;
	if (c->prev != NULL)
		c->prev->next = c->next;
	else
		h->conns = c->next;
	if (c->next != NULL)
		c->next->prev = c->prev;
	if (c->is_unix)
		h->n_unix--;
	else
		h->n_tcp--;
	ql_metrics_set(h->ctl->metrics, QLM_HTTP_CONNECTIONS, "", (double)(h->n_tcp + h->n_unix));
	free(c);
}

void ql_conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context, enum MHD_ConnectionNotificationCode code)
{
	struct ql_listener *l = cls;

	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		opened(l, mhd, socket_context);
	else
		closed(l, *socket_context);
}

static uint64_t received(const struct ql_conn *c) { return c->is_unix ? 0 : ql_tcp_received(c->fd); }

static void overdue(struct ql_conn *c)
{
	ql_metrics_add(c->listener->http->ctl->metrics, QLM_HTTP_REJECTED, "reason=\"deadline\"", 1);
	ql_conn_cut(c);
}

static void check_deadline(struct ql_conn *c, uint64_t now)
{
	uint64_t spent = now - c->since_ms;

	switch (c->phase) {
	case QL_PHASE_HEAD:
		if (spent > QL_HTTP_HEAD_SECONDS * 1000)
			overdue(c);
		break;
	case QL_PHASE_BODY:
		if (spent > QL_HTTP_BODY_GRACE_SECONDS * 1000 + c->req->received * 1000 / QL_HTTP_BODY_RATE_MIN)
			overdue(c);
		break;
	case QL_PHASE_IDLE:
		/* A keep-alive client that drips its next head would otherwise have the whole idle time. */
		if (c->idle_received == 0)
			c->idle_received = received(c);
		else if (received(c) != c->idle_received)
			ql_conn_phase(c, QL_PHASE_HEAD);
		if (spent > QL_HTTP_IDLE_SECONDS * 1000)
			ql_conn_cut(c);
		break;
	case QL_PHASE_WORK:
	case QL_PHASE_REPLY:
		break;
	}
}

static void check_stream(struct ql_req *r, uint64_t now)
{
	if (r->out.len > r->out_off && now - r->progress_ms > STALL_MS) {
		overdue(r->conn);
		return;
	}
	if (!r->ended && now - r->out_ms > QL_HTTP_PING_SECONDS * 1000)
		ql_stream_flush(r, ql_sse_comment(&r->out, "ping"));
}

/* Clients of suspended requests and of streams that went away (half-closed counts as gone). */
static void find_gone(struct ql_http *h)
{
	struct pollfd fds[CONNS_MAX];
	struct ql_conn *who[CONNS_MAX];
	nfds_t n = 0;

	for (struct ql_conn *c = h->conns; c != NULL && n < CONNS_MAX; c = c->next)
		if (c->req != NULL && (c->req->suspended || c->req->streaming) && !c->req->gone) {
			fds[n] = (struct pollfd){.fd = c->fd, .events = POLLRDHUP};
			who[n++] = c;
		}
	if (n == 0 || poll(fds, n, 0) <= 0)
		return;
	for (nfds_t i = 0; i < n; i++)
		if (fds[i].revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL))
			ql_req_abandon(who[i]->req);
}

void ql_conn_sweep(struct ql_http *h)
{
	uint64_t now = ql_now_ms(h);
	bool drained = h->drain_until_ms != 0 && now >= h->drain_until_ms;

	/* At its limit the library takes the listening socket out of its epoll set and puts it back in its next run after
	 * connections have ended; when all ended in one run, nothing else would cause that next one. */
	for (size_t i = 0; i < h->n_listeners; i++)
		if (h->listeners[i].crowded) {
			h->listeners[i].crowded = h->n_tcp > h->max_tcp || h->n_unix > h->max_unix;
			ql_listener_want(&h->listeners[i]);
		}
	if (h->conns == NULL)
		return;
	find_gone(h);
	for (struct ql_conn *c = h->conns, *next; c != NULL; c = next) {
		next = c->next;
		check_deadline(c, now);
		if (c->req == NULL || c->req->gone)
			continue;
		if (c->req->streaming)
			check_stream(c->req, now);
		if (c->req->deadline_ms != 0 && now > c->req->deadline_ms)
			ql_req_expire(c->req, "engine_unavailable", "The request took too long and was cancelled.");
		if (drained)
			ql_req_expire(c->req, "draining", "The server is shutting down.");
	}
}
