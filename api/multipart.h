/* multipart.h - a push parser for multipart/form-data (RFC 7578) with fixed memory.
 *
 *   body    := [preamble CRLF] "--" boundary CRLF part *( CRLF "--" boundary CRLF part ) CRLF "--" boundary "--" [epilogue]
 *   part    := *( header CRLF ) CRLF data
 *
 * Feed the body in pieces of any size; the pieces may end anywhere.  State: one part head (≤ QL_MULTIPART_HEAD_MAX) and the
 * boundary; part data is handed on as it comes.  Why the search needs no table: the delimiter CRLF "--" boundary holds its
 * only CR at its begin (boundary characters are checked), so after a mismatch the bytes matched so far are data and only
 * the byte at hand can begin a new match.
 *
 * The library's own MHD_PostProcessor is not used: it overflowed (CVE-2021-3466), failed on a NUL in the boundary
 * (CVE-2023-27371) and limits nothing. */
#ifndef QL_API_MULTIPART_H
#define QL_API_MULTIPART_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"
#include "core/base/limits.h"

#define QL_MULTIPART_BOUNDARY_MAX 70
#define QL_MULTIPART_PARTS_MAX 16

struct ql_part {
	char name[256];     /* form field */
	char filename[1024]; /* as sent, "" is possible */
	bool has_filename;
	char type[128];     /* Content-Type of the part or "" */
};

struct ql_multipart_cb {
	/* Each returns QL_OK or a QL_ code that ends the parse.  begin: the head of a part was read; data: bytes of it (never
	 * zero); end: the part is complete. */
	int (*begin)(void *user, const struct ql_part *part, struct ql_err *e);
	int (*data)(void *user, const char *data, size_t len, struct ql_err *e);
	int (*end)(void *user, struct ql_err *e);
};

struct ql_multipart {
	const struct ql_multipart_cb *cb;
	void *user;
	char delimiter[QL_MULTIPART_BOUNDARY_MAX + 8]; /* CRLF "--" boundary */
	size_t delimiter_len;
	int state;
	size_t match;    /* bytes of the delimiter matched so far */
	size_t n_parts;
	size_t preamble; /* bytes before the first delimiter, after the last one */
	char head[QL_MULTIPART_HEAD_MAX];
	size_t head_len;
	struct ql_part part;
};

/* content_type: the header's value; QL_EINVAL unless multipart/form-data with a usable boundary. */
int ql_multipart_init(struct ql_multipart *m, const char *content_type, const struct ql_multipart_cb *cb, void *user,
		      struct ql_err *e);
/* After a failure nothing more may be fed. */
int ql_multipart_feed(struct ql_multipart *m, const char *data, size_t len, struct ql_err *e);
/* The body ended: QL_EFORMAT unless the closing delimiter was seen. */
int ql_multipart_finish(struct ql_multipart *m, struct ql_err *e);

/* True if the media type of a Content-Type value (without parameters, any case) is `type`. */
bool ql_media_type_is(const char *content_type, const char *type);

#endif
