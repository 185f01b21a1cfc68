/* listen.c - see listen.h. */
#include "api/listen.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 256

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
};

static bool loopback(const union address *a)
{
	return a->any.sa_family == AF_UNIX ||
	       (a->any.sa_family == AF_INET && (ntohl(a->v4.sin_addr.s_addr) >> 24) == 127) ||
	       (a->any.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr));
}

static int parse_tcp(const char *text, union address *out, socklen_t *len, struct ql_err *e)
{
	char host[64];
	const char *colon = strrchr(text, ':');
	size_t n = colon == NULL ? 0 : (size_t)(colon - text);
	char *end;
	unsigned long port;

	if (n == 0 || n >= sizeof host || colon[1] < '0' || colon[1] > '9')
		return ql_err_set(e, QL_EINVAL, "listen address '%s' is not ADDRESS:PORT", text);
	port = strtoul(colon + 1, &end, 10);
	if (*end != '\0' || port > 65535)
		return ql_err_set(e, QL_EINVAL, "listen address '%s' has no valid port", text);
	memcpy(host, text, n);
	host[n] = '\0';
	if (strcmp(host, "localhost") == 0)
		memcpy(host, "127.0.0.1", 10);
	memset(out, 0, sizeof *out);
	if (inet_pton(AF_INET, host, &out->v4.sin_addr) == 1) {
		out->v4.sin_family = AF_INET;
		out->v4.sin_port = htons((uint16_t)port);
		*len = sizeof out->v4;
		return QL_OK;
	}
	if (host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		if (inet_pton(AF_INET6, host + 1, &out->v6.sin6_addr) == 1) {
			out->v6.sin6_family = AF_INET6;
			out->v6.sin6_port = htons((uint16_t)port);
			*len = sizeof out->v6;
			return QL_OK;
		}
	}
	return ql_err_set(e, QL_EINVAL, "listen address '%s' is not an IPv4 address or an IPv6 address in brackets", text);
}

static int open_tcp(const char *text, bool allow_remote, bool no_auth, struct ql_err *e)
{
	union address a;
	socklen_t len = 0;
	int fd, one = 1, rc = parse_tcp(text, &a, &len, e);

	if (rc != QL_OK)
		return rc;
	if (!loopback(&a) && !allow_remote)
		return ql_err_set(e, QL_EINVAL, "listening on %s needs allow_remote (and a TLS proxy in front)", text);
	if (!loopback(&a) && no_auth)
		return ql_err_set(e, QL_EINVAL, "no_auth is refused on %s: it is not a loopback address", text);
	fd = socket(a.any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ql_err_errno(e, "socket for %s", text);
	(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (a.any.sa_family == AF_INET6)
		(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	if (bind(fd, &a.any, len) != 0 || listen(fd, BACKLOG) != 0) {
		rc = ql_err_errno(e, "listening on %s", text);
		(void)close(fd);
		return rc;
	}
	return fd;
}

/* Removes a socket file nobody listens on; refuses anything else that is there. */
static int clear_stale(const union address *a, socklen_t len, struct ql_err *e)
{
	struct stat st;
	int fd, rc;

	if (lstat(a->un.sun_path, &st) != 0)
		return errno == ENOENT ? QL_OK : ql_err_errno(e, "%s", a->un.sun_path);
	if (!S_ISSOCK(st.st_mode))
		return ql_err_set(e, QL_EEXIST, "%s exists and is not a socket", a->un.sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ql_err_errno(e, "socket");
	rc = connect(fd, &a->any, len);
	if (rc != 0 && errno != ECONNREFUSED) {
		rc = errno == EAGAIN ? ql_err_set(e, QL_EEXIST, "%s is in use", a->un.sun_path) :
				       ql_err_errno(e, "%s", a->un.sun_path);
		(void)close(fd);
		return rc;
	}
	(void)close(fd);
	if (rc == 0)
		return ql_err_set(e, QL_EEXIST, "%s is in use by another process", a->un.sun_path);
	return unlink(a->un.sun_path) == 0 ? QL_OK : ql_err_errno(e, "removing %s", a->un.sun_path);
}

static int open_unix(const char *path, struct ql_err *e)
{
	union address a = {.un = {.sun_family = AF_UNIX}};
	size_t n = strlen(path);
	int fd, rc;

	if (n == 0 || n >= sizeof a.un.sun_path)
		return ql_err_set(e, QL_EINVAL, "the path of a UNIX socket must have 1 to %zu bytes", sizeof a.un.sun_path - 1);
	memcpy(a.un.sun_path, path, n + 1);
	rc = clear_stale(&a, sizeof a.un, e);
	if (rc != QL_OK)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return ql_err_errno(e, "socket");
	/* Nobody can connect before listen(), so the mode is in force in time. */
	if (bind(fd, &a.any, sizeof a.un) != 0 || chmod(path, 0660) != 0 || listen(fd, BACKLOG) != 0) {
		rc = ql_err_errno(e, "listening on unix:%s", path);
		(void)close(fd);
		return rc;
	}
	return fd;
}

int ql_listen_open(const char *address, bool allow_remote, bool no_auth, struct ql_err *e)
{
	return strncmp(address, "unix:", 5) == 0 ? open_unix(address + 5, e) : open_tcp(address, allow_remote, no_auth, e);
}

int ql_listen_adopt(int fd, bool no_auth, struct ql_err *e)
{
	union address a;
	socklen_t len = sizeof a, n = sizeof(int);
	int listening = 0, type = 0, flags;

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &n) != 0 || type != SOCK_STREAM)
		return ql_err_set(e, QL_EINVAL, "descriptor %d from the service manager is not a stream socket", fd);
	n = sizeof(int);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &n) != 0 || !listening)
		return ql_err_set(e, QL_EINVAL, "descriptor %d from the service manager does not listen", fd);
	memset(&a, 0, sizeof a);
	if (getsockname(fd, &a.any, &len) != 0 ||
	    (a.any.sa_family != AF_INET && a.any.sa_family != AF_INET6 && a.any.sa_family != AF_UNIX))
		return ql_err_set(e, QL_EINVAL, "descriptor %d from the service manager is neither TCP nor UNIX", fd);
	if (no_auth && !loopback(&a))
		return ql_err_set(e, QL_EINVAL, "no_auth is refused: the service manager passed a public address");
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
		return ql_err_errno(e, "descriptor %d from the service manager", fd);
	return QL_OK;
}

bool ql_listen_describe(int fd, char *out, size_t size)
{
	union address a;
	socklen_t len = sizeof a;
	char host[INET6_ADDRSTRLEN] = "?";

	memset(&a, 0, sizeof a);
	(void)getsockname(fd, &a.any, &len);
	if (a.any.sa_family == AF_UNIX) {
		(void)snprintf(out, size, "unix:%s", a.un.sun_path);
		return true;
	}
	if (a.any.sa_family == AF_INET6) {
		(void)inet_ntop(AF_INET6, &a.v6.sin6_addr, host, sizeof host);
		(void)snprintf(out, size, "http://[%s]:%u", host, (unsigned)ntohs(a.v6.sin6_port));
	} else {
		(void)inet_ntop(AF_INET, &a.v4.sin_addr, host, sizeof host);
		(void)snprintf(out, size, "http://%s:%u", host, (unsigned)ntohs(a.v4.sin_port));
	}
	return false;
}
