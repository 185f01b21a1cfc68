/* sse.c - see sse.h. */
#include "api/sse.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/err.h"
#include "core/base/json.h"

static int undo(struct ql_buf *b, size_t len)
{
	b->len = len;
	if (b->data != NULL)
		b->data[len] = '\0';
	return QL_ENOMEM;
}

int ql_sse_json(struct ql_buf *b, const char *id, const char *event, const json_t *data)
{
	size_t before = b->len;
	char *text = ql_json_text(data);
	int rc = text == NULL ? QL_ENOMEM : QL_OK;

	if (rc == QL_OK && id != NULL)
		rc = ql_buf_addf(b, "id: %s\n", id);
	if (rc == QL_OK && event != NULL)
		rc = ql_buf_addf(b, "event: %s\n", event);
	if (rc == QL_OK)
		rc = ql_buf_adds(b, "data: ");
	if (rc == QL_OK)
		rc = ql_buf_adds(b, text);
	if (rc == QL_OK)
		rc = ql_buf_adds(b, "\n\n");
	free(text);
	return rc == QL_OK ? QL_OK : undo(b, before);
}

int ql_sse_text(struct ql_buf *b, const char *text)
{
	size_t before = b->len;
	int rc;

	do {
		const char *end = strpbrk(text, "\r\n");
		size_t n = end == NULL ? strlen(text) : (size_t)(end - text);

		rc = ql_buf_adds(b, "data: ");
		if (rc == QL_OK)
			rc = ql_buf_add(b, text, n);
		if (rc == QL_OK)
			rc = ql_buf_adds(b, "\n");
		text = end == NULL ? NULL : end + (end[0] == '\r' && end[1] == '\n' ? 2 : 1);
	} while (rc == QL_OK && text != NULL);
	if (rc == QL_OK)
		rc = ql_buf_adds(b, "\n");
	return rc == QL_OK ? QL_OK : undo(b, before);
}

int ql_sse_comment(struct ql_buf *b, const char *text) { return ql_buf_addf(b, ": %s\n\n", text); }

int ql_sse_retry(struct ql_buf *b, unsigned ms) { return ql_buf_addf(b, "retry: %u\n\n", ms); }
