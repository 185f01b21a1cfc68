/* buf.c - see buf.h. */
#include "core/base/buf.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/err.h"

int ql_buf_reserve(struct ql_buf *b, size_t extra)
{
	size_t need, cap;
	char *p;

	if (!ql_add_size(b->len, extra, &need) || !ql_add_size(need, 1, &need))
		return QL_ENOMEM;
	if (need <= b->cap)
		return QL_OK;
	cap = b->cap < 64 ? 64 : b->cap;
	while (cap < need)
		if (!ql_mul_size(cap, 2, &cap))
			return QL_ENOMEM;
	p = realloc(b->data, cap);
	if (p == NULL)
		return QL_ENOMEM;
	b->data = p;
	b->cap = cap;
	b->data[b->len] = '\0';
	return QL_OK;
}

int ql_buf_add(struct ql_buf *b, const void *data, size_t len)
{
	int rc = ql_buf_reserve(b, len);

	if (rc != QL_OK)
		return rc;
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
	return QL_OK;
}

int ql_buf_adds(struct ql_buf *b, const char *s) { return ql_buf_add(b, s, strlen(s)); }
int ql_buf_addc(struct ql_buf *b, char c) { return ql_buf_add(b, &c, 1); }

int ql_buf_addf(struct ql_buf *b, const char *fmt, ...)
{
	va_list ap;
	int n, rc;

	va_start(ap, fmt);
	n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n < 0)
		return QL_EINVAL;
	rc = ql_buf_reserve(b, (size_t)n);
	if (rc != QL_OK)
		return rc;
	va_start(ap, fmt);
	(void)vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
	va_end(ap);
	b->len += (size_t)n;
	return QL_OK;
}

void ql_buf_reset(struct ql_buf *b)
{
	b->len = 0;
	if (b->data != NULL)
		b->data[0] = '\0';
}

void ql_buf_free(struct ql_buf *b)
{
	free(b->data);
	*b = (struct ql_buf){0};
}
