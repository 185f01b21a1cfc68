/* headers.h - the checks that a request head must pass before anything else looks at it.
 *
 * libmicrohttpd accepts two Content-Length, Content-Length beside Transfer-Encoding, two Host headers and any transfer
 * coding (api.md §18 rows 9-12); a proxy in front may read such a request differently, which is request smuggling
 * (CWE-444).  So every header is counted here, whatever the library made of it. */
#ifndef QL_API_HEADERS_H
#define QL_API_HEADERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "config/config.h"
#include "api/bad.h"

/* What one pass over the headers collects; zero-initialise, feed every header, then ql_headers_check. */
struct ql_headers {
	size_t n, bytes;
	unsigned n_host, n_length, n_coding, n_auth, n_type, n_idem, n_origin, n_range;
	bool control_byte; /* a name or value holds one */
	const char *host, *length, *coding, *auth, *type, *idem, *origin, *accept, *if_none_match, *range, *last_event_id,
		*retry_count, *expect;
};
void ql_headers_add(struct ql_headers *h, const char *name, const char *value, size_t value_len);

struct ql_framing {
	bool chunked;
	bool has_length;
	uint64_t length;
};
/* 400 (the connection must be closed) for framing that two readers could read in two ways; 431 over the limits. */
int ql_headers_check(const struct ql_headers *h, struct ql_framing *out, struct ql_fault *f);

/* 403 host_not_allowed unless the host is localhost, 127.0.0.1, [::1] or configured; a port is allowed. */
int ql_host_check(const char *host, const struct ql_strings *more, struct ql_fault *f);
/* 403 origin_not_allowed unless absent or listed.  *listed: send CORS headers for it. */
int ql_origin_check(const char *origin, const struct ql_strings *list, bool *listed, struct ql_fault *f);
/* 1..255 visible ASCII, else 400. */
int ql_idem_key_check(const char *key, struct ql_fault *f);
/* True if an If-None-Match value names the tag (weak comparison, "*" matches). */
bool ql_etag_match(const char *if_none_match, const char *etag);

#endif
