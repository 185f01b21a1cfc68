/* multipart.c - see multipart.h. */
#include "api/multipart.h"

#include <string.h>
#include <strings.h>

#include "api/multipart_head.h"

enum { S_PREAMBLE, S_DELIMITER, S_DELIMITER_LF, S_CLOSE, S_HEAD, S_DATA, S_EPILOGUE, S_FAILED };

#define OUTSIDE_MAX 4096 /* preamble and epilogue together */

bool ql_media_type_is(const char *content_type, const char *type)
{
	size_t n = strlen(type);

	return content_type != NULL && strncasecmp(content_type, type, n) == 0 &&
	       (content_type[n] == '\0' || content_type[n] == ';' || content_type[n] == ' ' || content_type[n] == '\t');
}

static bool boundary_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
	       (c != '\0' && strchr("'()+_,-./:=? ", c) != NULL);
}

int ql_multipart_init(struct ql_multipart *m, const char *content_type, const struct ql_multipart_cb *cb, void *user,
		      struct ql_err *e)
{
	char boundary[QL_MULTIPART_BOUNDARY_MAX + 1];
	size_t n;
	int rc;

	if (!ql_media_type_is(content_type, "multipart/form-data"))
		return ql_err_set(e, QL_EINVAL, "the body must be multipart/form-data");
	rc = ql_header_param(content_type, "boundary", boundary, sizeof boundary, NULL, e);
	if (rc != QL_OK)
		return rc;
	n = strlen(boundary);
	if (n == 0 || boundary[n - 1] == ' ')
		return ql_err_set(e, QL_EINVAL, "the multipart boundary is missing or ends in a space");
	for (size_t i = 0; i < n; i++)
		if (!boundary_char(boundary[i]))
			return ql_err_set(e, QL_EINVAL, "the multipart boundary holds a character that is not allowed");
	m->cb = cb;
	m->user = user;
	memcpy(m->delimiter, "\r\n--", 4);
	memcpy(m->delimiter + 4, boundary, n);
	m->delimiter_len = n + 4;
	m->state = S_PREAMBLE;
	m->match = 2; /* the body's begin counts as the CRLF before the first delimiter */
	m->n_parts = 0;
	m->preamble = 0;
	m->head_len = 0;
	return QL_OK;
}

static int fail(struct ql_multipart *m, struct ql_err *e, const char *why)
{
	m->state = S_FAILED;
	return ql_err_set(e, QL_EFORMAT, "malformed multipart body: %s", why);
}

/* Looks for the delimiter in data[0..len).  *taken: bytes used; *found when the delimiter is complete.  What is not the
 * delimiter goes to the data callback inside a part, and is only counted outside. */
static int search(struct ql_multipart *m, const char *data, size_t len, size_t *taken, bool *found, struct ql_err *e)
{
	bool in_part = m->state == S_DATA;
	size_t i = 0, from = 0; /* data[from..i) is plain data not yet handed on */
	int rc;

	*found = false;
	while (i < len) {
		if (m->match == 0 && data[i] != '\r') {
			const char *cr = memchr(data + i, '\r', len - i);

			i = cr == NULL ? len : (size_t)(cr - data);
			continue;
		}
		if (data[i] == m->delimiter[m->match]) {
			if (m->match == 0 && i > from && in_part) {
				rc = m->cb->data(m->user, data + from, i - from, e);
				if (rc != QL_OK)
					return rc;
			}
			if (m->match == 0)
				m->preamble += in_part ? 0 : i - from;
			m->match++;
			i++;
			from = i;
			if (m->match < m->delimiter_len)
				continue;
			*found = true;
			break;
		}
		/* Not the delimiter after all: what matched is data; the byte at hand is looked at again. */
		if (in_part) {
			rc = m->cb->data(m->user, m->delimiter, m->match, e);
			if (rc != QL_OK)
				return rc;
		} else {
			m->preamble += m->match;
		}
		m->match = 0;
		from = i;
	}
	if (!*found && i > from) {
		if (in_part && m->match == 0) {
			rc = m->cb->data(m->user, data + from, i - from, e);
			if (rc != QL_OK)
				return rc;
		} else if (!in_part) {
			m->preamble += i - from;
		}
	}
	*taken = i;
	return m->preamble > OUTSIDE_MAX ? fail(m, e, "too much text before the first part") : QL_OK;
}

static int take_head(struct ql_multipart *m, char c, struct ql_err *e)
{
	int rc;

	if (m->head_len == sizeof m->head)
		return fail(m, e, "the head of a part is too long");
	m->head[m->head_len++] = c;
	if (c != '\n' || m->head_len < 2)
		return QL_OK;
	if (m->head[m->head_len - 2] != '\r')
		return fail(m, e, "bare LF in the head of a part");
	if (m->head_len > 2 && (m->head_len < 4 || memcmp(m->head + m->head_len - 4, "\r\n\r\n", 4) != 0))
		return QL_OK;
	if (m->n_parts++ == QL_MULTIPART_PARTS_MAX)
		return fail(m, e, "too many parts");
	rc = ql_part_head_parse(m->head, m->head_len, &m->part, e);
	if (rc == QL_OK)
		rc = m->cb->begin(m->user, &m->part, e);
	m->head_len = 0;
	m->state = S_DATA;
	m->match = 0; /* an empty part still has its own CRLF before the delimiter */
	return rc;
}

static int step(struct ql_multipart *m, char c, struct ql_err *e)
{
	switch (m->state) {
	case S_DELIMITER: /* behind the boundary: CRLF, "--", or padding and CRLF */
		if (c == '-')
			m->state = S_CLOSE;
		else if (c == '\r')
			m->state = S_DELIMITER_LF;
		else if (c != ' ' && c != '\t')
			return fail(m, e, "unexpected byte after the boundary");
		return QL_OK;
	case S_DELIMITER_LF:
		if (c != '\n')
			return fail(m, e, "unexpected byte after the boundary");
		m->state = S_HEAD;
		return QL_OK;
	case S_CLOSE:
		if (c != '-')
			return fail(m, e, "unexpected byte after the boundary");
		m->state = S_EPILOGUE;
		return QL_OK;
	case S_HEAD:
		return take_head(m, c, e);
	default:
		return fail(m, e, "more text after an error");
	}
}

int ql_multipart_feed(struct ql_multipart *m, const char *data, size_t len, struct ql_err *e)
{
	int rc;

	for (size_t i = 0; i < len;) {
		size_t taken = 0;
		bool found, was_part = m->state == S_DATA;

		if (m->state == S_EPILOGUE) {
			m->preamble += len - i;
			if (m->preamble > OUTSIDE_MAX)
				return fail(m, e, "too much text after the last part");
			return QL_OK;
		}
		if (m->state != S_DATA && m->state != S_PREAMBLE) {
			rc = step(m, data[i++], e);
			if (rc != QL_OK)
				goto failed;
			continue;
		}
		rc = search(m, data + i, len - i, &taken, &found, e);
		if (rc != QL_OK)
			goto failed;
		i += taken;
		if (!found)
			continue;
		m->match = 0;
		m->state = S_DELIMITER;
		rc = was_part ? m->cb->end(m->user, e) : QL_OK;
		if (rc != QL_OK)
			goto failed;
	}
	return QL_OK;
failed:
	m->state = S_FAILED;
	return rc;
}

int ql_multipart_finish(struct ql_multipart *m, struct ql_err *e)
{
	return m->state == S_EPILOGUE ? QL_OK : fail(m, e, "it ends before the closing boundary");
}
