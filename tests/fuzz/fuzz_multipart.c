/* fuzz_multipart.c - the form parser (api/multipart.h) on arbitrary bytes.
 *
 * Input: byte 0 = piece size - 1, bytes 1… = the body; the boundary is "b".  Checked: no crash; no empty data callback; no
 * more data than was fed; and that cutting the body into pieces changes neither the verdict nor what is seen.
 * Replayed over its corpus by the ordinary test run (replay.h). */
#include <stdlib.h>
#include <string.h>

#include "api/multipart_head.h"
#include "core/base/hash.h"
#include "tests/fuzz/replay.h"

struct seen {
	struct ql_sha256 hash;
	size_t bytes;
};

static int on_begin(void *user, const struct ql_part *p, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	ql_sha256_add(&s->hash, p, sizeof *p);
	return QL_OK;
}

static int on_data(void *user, const char *data, size_t len, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	if (len == 0)
		abort();
	s->bytes += len;
	ql_sha256_add(&s->hash, data, len);
	return QL_OK;
}

static int on_end(void *user, struct ql_err *e)
{
	struct seen *s = user;

	(void)e;
	ql_sha256_add(&s->hash, ";", 1);
	return QL_OK;
}

static const struct ql_multipart_cb callbacks = {on_begin, on_data, on_end};

static int parse(const char *body, size_t len, size_t piece, char digest[QL_SHA256_HEX_SIZE])
{
	struct ql_multipart *m = malloc(sizeof *m);
	struct seen s = {.bytes = 0};
	struct ql_err e = {0};
	int rc;

	if (m == NULL)
		return QL_ENOMEM;
	ql_sha256_init(&s.hash);
	rc = ql_multipart_init(m, "multipart/form-data; boundary=b", &callbacks, &s, &e);
	for (size_t at = 0; at < len && rc == QL_OK; at += piece) {
		size_t n = len - at < piece ? len - at : piece;
		char *copy = malloc(n); /* exact, for the sanitiser */

		if (copy == NULL)
			break;
		memcpy(copy, body + at, n);
		rc = ql_multipart_feed(m, copy, n, &e);
		free(copy);
	}
	if (rc == QL_OK)
		rc = ql_multipart_finish(m, &e);
	if (s.bytes > len)
		abort();
	free(m);
	ql_sha256_end_hex(&s.hash, digest);
	return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char a[QL_SHA256_HEX_SIZE], b[QL_SHA256_HEX_SIZE], value[256], out[64];
	struct ql_err e;
	int rc;

	if (size < 1)
		return 0;
	rc = parse((const char *)data + 1, size - 1, size, a);
	if (rc != parse((const char *)data + 1, size - 1, (size_t)data[0] + 1, b) || (rc == QL_OK && strcmp(a, b) != 0))
		abort();
	/* the same bytes as a header value */
	if (size <= sizeof value) {
		memcpy(value, data + 1, size - 1);
		value[size - 1] = '\0';
		(void)ql_header_param(value, "name", out, sizeof out, NULL, &e);
	}
	return 0;
}
