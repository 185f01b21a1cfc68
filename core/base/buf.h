/* buf.h - a growing byte string.  Zero-initialise; free with ql_buf_free.  data[len] is always NUL once anything was
 * appended, so a text buffer can be read as a C string.  Appends return QL_OK or QL_ENOMEM; after a failure the buffer
 * still holds what it held. */
#ifndef QL_BASE_BUF_H
#define QL_BASE_BUF_H

#include <stddef.h>

struct ql_buf {
	char *data;
	size_t len, cap;
};

int ql_buf_reserve(struct ql_buf *b, size_t extra);
int ql_buf_add(struct ql_buf *b, const void *data, size_t len);
int ql_buf_adds(struct ql_buf *b, const char *s);
int ql_buf_addc(struct ql_buf *b, char c);
int ql_buf_addf(struct ql_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void ql_buf_reset(struct ql_buf *b); /* length 0, memory kept */
void ql_buf_free(struct ql_buf *b);  /* also wipes the struct; accepts a zeroed one */

#endif
