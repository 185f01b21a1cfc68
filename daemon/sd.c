/* sd.c - see sd.h. */
#include "daemon/sd.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FIRST_FD 3

void ql_sd_notify(const char *text)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	size_t n;
	int fd;

	if (path == NULL || (path[0] != '/' && path[0] != '@'))
		return;
	n = strlen(path);
	if (n >= sizeof to.sun_path)
		return;
	memcpy(to.sun_path, path, n);
	if (path[0] == '@')
		to.sun_path[0] = '\0'; /* abstract */
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)sendto(fd, text, strlen(text), MSG_NOSIGNAL, (const struct sockaddr *)&to,
		     (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n));
	(void)close(fd);
}

static long number(const char *name)
{
	const char *s = getenv(name);
	char *end;
	long n;

	if (s == NULL || *s == '\0')
		return -1;
	n = strtol(s, &end, 10);
	return *end == '\0' ? n : -1;
}

size_t ql_sd_listen_fds(int *fds, size_t max)
{
	long n = number("LISTEN_FDS");
	size_t k = 0;

	if (n <= 0 || number("LISTEN_PID") != (long)getpid())
		return 0;
	for (int fd = FIRST_FD; fd < FIRST_FD + n && k < max; fd++) {
		int type;
		socklen_t len = sizeof type;

		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM)
			continue;
		(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
		fds[k++] = fd;
	}
	return k;
}

uint64_t ql_sd_watchdog_ms(void)
{
	long us = number("WATCHDOG_USEC"), pid = number("WATCHDOG_PID");

	if (us <= 0 || (pid >= 0 && pid != (long)getpid()))
		return 0;
	return (uint64_t)us / 2000 > 0 ? (uint64_t)us / 2000 : 1;
}
