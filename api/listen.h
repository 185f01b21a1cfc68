/* listen.h - listening sockets: TCP v4 and v6, UNIX, and those a service manager passed. */
#ifndef QL_API_LISTEN_H
#define QL_API_LISTEN_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

/* Opens "127.0.0.1:8177", "[::1]:0" or "unix:/path" (mode 0660; a stale socket file is replaced, one in use is an error).
 * Returns a listening, non-blocking descriptor or a QL_ code.  Other than loopback needs allow_remote, and is refused with
 * no_auth. */
int ql_listen_open(const char *address, bool allow_remote, bool no_auth, struct ql_err *e);
/* Checks a socket that came from outside: listening, stream, TCP or UNIX; with no_auth loopback or UNIX only. */
int ql_listen_adopt(int fd, bool no_auth, struct ql_err *e);
/* "http://127.0.0.1:8177" or "unix:/path"; true for a UNIX socket. */
bool ql_listen_describe(int fd, char *out, size_t size);

#endif
