/* frame.c - see frame.h. */
#include "daemon/frame.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"

#define KEEP_BYTES QL_KIB(64) /* a buffer that grew beyond this is given back after the frame */

int ql_frame_encode(const json_t *frame, struct ql_buf *out, struct ql_err *e)
{
	char *text = ql_json_text(frame);
	size_t len, before = out->len;
	unsigned char head[4];
	int rc;

	if (text == NULL)
		return ql_err_set(e, QL_ENOMEM, "frame");
	len = strlen(text);
	if (len > QL_FRAME_MAX) {
		free(text);
		return ql_err_set(e, QL_ELIMIT, "frame of %zu bytes, more than the %zu allowed", len, QL_FRAME_MAX);
	}
	for (int i = 0; i < 4; i++)
		head[i] = (unsigned char)(len >> (8 * i));
	rc = ql_buf_add(out, head, 4);
	if (rc == QL_OK)
		rc = ql_buf_add(out, text, len);
	free(text);
	if (rc != QL_OK) {
		out->len = before;
		return ql_err_set(e, rc, "frame");
	}
	return QL_OK;
}

static int one(const char *text, size_t len, int (*on_frame)(void *, json_t *, struct ql_err *), void *user, struct ql_err *e)
{
	json_t *frame = NULL;
	int rc = ql_json_parse(text, len, QL_FRAME_MAX, &frame, e);

	if (rc == QL_OK && !json_is_string(json_object_get(frame, "type")))
		rc = ql_err_set(e, QL_EFORMAT, "frame without a type");
	if (rc == QL_OK)
		rc = on_frame(user, frame, e);
	json_decref(frame);
	return rc;
}

int ql_frame_feed(struct ql_frame_reader *r, const void *data, size_t len, int (*on_frame)(void *, json_t *, struct ql_err *),
		  void *user, struct ql_err *e)
{
	const unsigned char *in = data;
	int rc = QL_OK;

	while (len > 0 && rc == QL_OK) {
		size_t need = 4, n;

		if (r->buf.len >= 4) {
			const unsigned char *h = (const unsigned char *)r->buf.data;

			need += (size_t)h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;
			if (need == 4 || need - 4 > QL_FRAME_MAX)
				return ql_err_set(e, QL_EFORMAT, "frame with length %zu", need - 4);
		}
		n = need - r->buf.len < len ? need - r->buf.len : len;
		rc = ql_buf_add(&r->buf, in, n);
		if (rc != QL_OK)
			return ql_err_set(e, rc, "frame");
		in += n;
		len -= n;
		if (need == 4 || r->buf.len < need)
			continue;
		rc = one(r->buf.data + 4, need - 4, on_frame, user, e);
		if (r->buf.cap > KEEP_BYTES)
			ql_buf_free(&r->buf);
		else
			ql_buf_reset(&r->buf);
	}
	if (rc == QL_OK && r->buf.len == 4) {
		const unsigned char *h = (const unsigned char *)r->buf.data;
		size_t n = (size_t)h[0] | (size_t)h[1] << 8 | (size_t)h[2] << 16 | (size_t)h[3] << 24;

		if (n == 0 || n > QL_FRAME_MAX)
			return ql_err_set(e, QL_EFORMAT, "frame with length %zu", n);
	}
	return rc;
}

void ql_frame_reader_free(struct ql_frame_reader *r) { ql_buf_free(&r->buf); }
