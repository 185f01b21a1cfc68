/* target.c - see target.h. */
#include "api/target.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Decodes raw[0..len) to *to (room for len + 1), NUL-terminated; *to moves behind the NUL. */
static int decode(const char *raw, size_t len, size_t at, bool plus, char **to, const char **out, struct ql_err *e)
{
	char *begin = *to, *w = begin;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)raw[i];

		if (c == '%') {
			int hi = i + 1 < len ? hex(raw[i + 1]) : -1, lo = i + 2 < len ? hex(raw[i + 2]) : -1;

			if (hi < 0 || lo < 0)
				return ql_err_at(e, QL_EINVAL, at + i, "bad percent escape in the request target");
			c = (unsigned char)(hi << 4 | lo);
			i += 2;
			if (c < 0x20 || c == 0x7f)
				return ql_err_at(e, QL_EINVAL, at + i - 2, "control byte in the request target");
		} else if (plus && c == '+') {
			c = ' ';
		}
		*w++ = (char)c;
	}
	if (!ql_utf8_valid(begin, (size_t)(w - begin), NULL))
		return ql_err_at(e, QL_EINVAL, at, "the request target is not UTF-8");
	*w++ = '\0';
	*to = w;
	*out = begin;
	return QL_OK;
}

static int parse_path(struct ql_target *t, const char *raw, size_t len, char **to, struct ql_err *e)
{
	size_t from = 1; /* behind the first '/' */

	for (size_t i = 1; i <= len; i++) {
		const char *s;
		int rc;

		if (i < len && raw[i] != '/')
			continue;
		if (t->n_segments == QL_TARGET_SEGMENTS_MAX)
			return ql_err_set(e, QL_ELIMIT, "the path has more than %d segments", QL_TARGET_SEGMENTS_MAX);
		rc = decode(raw + from, i - from, from, false, to, &s, e);
		if (rc != QL_OK)
			return rc;
		if (strcmp(s, ".") == 0 || strcmp(s, "..") == 0)
			return ql_err_at(e, QL_EINVAL, from, "the path holds a dot segment");
		t->segment[t->n_segments++] = s;
		from = i + 1;
	}
	return QL_OK;
}

static int parse_query(struct ql_target *t, const char *raw, size_t len, size_t at, char **to, struct ql_err *e)
{
	size_t from = 0;

	for (size_t i = 0; i <= len; i++) {
		const char *eq;
		size_t n, key_len;
		int rc;

		if (i < len && raw[i] != '&')
			continue;
		n = i - from;
		if (n > 0) {
			if (t->n_query == QL_TARGET_QUERY_MAX)
				return ql_err_set(e, QL_ELIMIT, "more than %d query parameters", QL_TARGET_QUERY_MAX);
			eq = memchr(raw + from, '=', n);
			key_len = eq == NULL ? n : (size_t)(eq - (raw + from));
			rc = decode(raw + from, key_len, at + from, true, to, &t->query[t->n_query].key, e);
			if (rc != QL_OK)
				return rc;
			rc = eq == NULL ? decode("", 0, at + from, true, to, &t->query[t->n_query].value, e) :
					  decode(eq + 1, n - key_len - 1, at + from + key_len + 1, true, to,
						 &t->query[t->n_query].value, e);
			if (rc != QL_OK)
				return rc;
			t->n_query++;
		}
		from = i + 1;
	}
	return QL_OK;
}

int ql_target_parse(struct ql_target *t, const char *raw, size_t len, struct ql_err *e)
{
	const char *q;
	size_t path_len;
	char *to;
	int rc;

	*t = (struct ql_target){0};
	if (len == 0 || len > QL_HTTP_URI_MAX)
		return ql_err_set(e, QL_ELIMIT, "the request target must have 1 to %zu bytes", (size_t)QL_HTTP_URI_MAX);
	if (len == 1 && raw[0] == '*') {
		t->asterisk = true;
		return QL_OK;
	}
	if (raw[0] != '/')
		return ql_err_set(e, QL_EINVAL, "the request target must begin with '/'");
	for (size_t i = 0; i < len; i++)
		if ((unsigned char)raw[i] <= 0x20 || (unsigned char)raw[i] >= 0x7f || raw[i] == '#' || raw[i] == '\\')
			return ql_err_at(e, QL_EINVAL, i, "byte not allowed in the request target");
	/* Decoded text is never longer than raw; each part adds one NUL, and each but two has a separator in raw. */
	t->mem = malloc(2 * len + 4);
	if (t->mem == NULL)
		return ql_err_set(e, QL_ENOMEM, "request target");
	to = t->mem;
	q = memchr(raw, '?', len);
	path_len = q == NULL ? len : (size_t)(q - raw);
	rc = parse_path(t, raw, path_len, &to, e);
	if (rc == QL_OK && q != NULL)
		rc = parse_query(t, q + 1, len - path_len - 1, path_len + 1, &to, e);
	if (rc != QL_OK)
		ql_target_free(t);
	return rc;
}

void ql_target_free(struct ql_target *t)
{
	free(t->mem);
	*t = (struct ql_target){0};
}

const char *ql_target_query(const struct ql_target *t, const char *key, size_t *times)
{
	const char *value = NULL;
	size_t n = 0;

	for (size_t i = 0; i < t->n_query; i++) {
		if (strcmp(t->query[i].key, key) != 0)
			continue;
		if (n++ == 0)
			value = t->query[i].value;
	}
	if (times != NULL)
		*times = n;
	return value;
}
