/* multipart_head.c - see multipart_head.h. */
#include "api/multipart_head.h"

#include <string.h>
#include <strings.h>

#include "core/base/utf8.h"

static bool token_char(char c)
{
	return c > 0x20 && c < 0x7f && strchr("()<>@,;:\\\"/[]?={}", c) == NULL;
}

static const char *skip_space(const char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	return s;
}

static int bad(struct ql_err *e, const char *why) { return ql_err_set(e, QL_EFORMAT, "malformed header: %s", why); }

/* One value, token or quoted string, at *s; to out unless out is NULL. */
static int value_at(const char **s, char *out, size_t size, struct ql_err *e)
{
	const char *p = *s;
	bool quoted = *p == '"';
	size_t n = 0;

	if (quoted)
		p++;
	for (;; p++) {
		char c = *p;

		if (quoted ? c == '"' : !token_char(c) && strchr("/:=?()", c == '\0' ? ' ' : c) == NULL)
			break;
		if (c == '\0')
			return bad(e, "unterminated quoted string");
		if (quoted && c == '\\' && (p[1] == '"' || p[1] == '\\'))
			c = *++p;
		if ((unsigned char)c < 0x20 || c == 0x7f)
			return bad(e, "control byte");
		if (out != NULL) {
			if (n + 1 >= size)
				return bad(e, "parameter too long");
			out[n++] = c;
		}
	}
	if (out != NULL)
		out[n] = '\0';
	*s = quoted ? p + 1 : p;
	return QL_OK;
}

static int hex(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* UTF-8''percent%20text in place. */
static int decode_extended(char *s, struct ql_err *e)
{
	char *w = s, *r = s;

	if (strncasecmp(r, "utf-8'", 6) != 0)
		return bad(e, "extended parameter that is not UTF-8");
	r = strchr(r + 6, '\'');
	if (r == NULL)
		return bad(e, "extended parameter without language");
	for (r++; *r != '\0'; r++) {
		int hi, lo;

		if (*r != '%') {
			*w++ = *r;
			continue;
		}
		hi = hex(r[1]);
		lo = hi < 0 ? -1 : hex(r[2]);
		if (lo < 0 || (hi << 4 | lo) < 0x20 || (hi << 4 | lo) == 0x7f)
			return bad(e, "bad escape in an extended parameter");
		*w++ = (char)(hi << 4 | lo);
		r += 2;
	}
	*w = '\0';
	return QL_OK;
}

int ql_header_param(const char *value, const char *name, char *out, size_t size, bool *found, struct ql_err *e)
{
	const char *s = strchr(value, ';');
	size_t name_len = strlen(name);
	bool seen = false, extended = false;
	int rc;

	out[0] = '\0';
	if (found != NULL)
		*found = false;
	while (s != NULL && *s == ';') {
		const char *key = s = skip_space(s + 1);
		bool mine, star;
		size_t n;

		while (token_char(*s))
			s++;
		n = (size_t)(s - key);
		if (n == 0 && (*s == ';' || *s == '\0'))
			continue; /* "a; ;b" and a trailing ';' */
		if (n == 0 || *s != '=')
			return bad(e, "parameter without a value");
		s++;
		star = n == name_len + 1 && key[n - 1] == '*' && strncasecmp(key, name, name_len) == 0;
		mine = star || (n == name_len && strncasecmp(key, name, n) == 0);
		if (mine && (star ? extended : seen))
			return bad(e, "a parameter is given twice");
		if (mine && !star && extended)
			mine = false; /* name* wins */
		rc = value_at(&s, mine ? out : NULL, size, e);
		if (rc == QL_OK && star)
			rc = decode_extended(out, e);
		if (rc != QL_OK)
			return rc;
		seen |= mine && !star;
		extended |= star;
		s = skip_space(s);
	}
	if (s != NULL && *s != '\0')
		return bad(e, "unexpected character");
	if (!ql_utf8_valid(out, strlen(out), NULL))
		return bad(e, "not UTF-8");
	if (found != NULL)
		*found = seen || extended;
	return QL_OK;
}

static int part_header(const char *name, size_t name_len, const char *value, struct ql_part *part, bool *disposed,
		       struct ql_err *e)
{
	bool found;
	int rc;

	if (name_len == 19 && strncasecmp(name, "Content-Disposition", 19) == 0) {
		if (*disposed)
			return bad(e, "two Content-Disposition headers in a part");
		if (!ql_media_type_is(value, "form-data"))
			return bad(e, "a part is not form-data");
		rc = ql_header_param(value, "name", part->name, sizeof part->name, &found, e);
		if (rc == QL_OK && !found)
			rc = bad(e, "a part has no name");
		if (rc == QL_OK)
			rc = ql_header_param(value, "filename", part->filename, sizeof part->filename, &part->has_filename, e);
		*disposed = true;
		return rc;
	}
	if (name_len == 12 && strncasecmp(name, "Content-Type", 12) == 0) {
		if (strlen(value) >= sizeof part->type)
			return bad(e, "the Content-Type of a part is too long");
		memcpy(part->type, value, strlen(value) + 1);
		return QL_OK;
	}
	if (name_len == 25 && strncasecmp(name, "Content-Transfer-Encoding", 25) == 0 && strcasecmp(value, "binary") != 0 &&
	    strcasecmp(value, "7bit") != 0 && strcasecmp(value, "8bit") != 0)
		return bad(e, "this Content-Transfer-Encoding is not supported");
	return QL_OK;
}

int ql_part_head_parse(const char *head, size_t len, struct ql_part *part, struct ql_err *e)
{
	char value[QL_MULTIPART_HEAD_MAX];
	bool disposed = false;
	int rc;

	*part = (struct ql_part){0};
	for (size_t i = 0; i + 2 < len;) {
		const char *line = head + i, *end = memmem(line, len - i, "\r\n", 2), *colon, *v;
		size_t n;

		if (end == NULL || end == line)
			break;
		i += (size_t)(end - line) + 2;
		colon = memchr(line, ':', (size_t)(end - line));
		if (colon == NULL || colon == line)
			return bad(e, "a line of a part's head has no name");
		for (const char *p = line; p < colon; p++)
			if (!token_char(*p))
				return bad(e, "a header name of a part holds a bad character");
		for (v = colon + 1; v < end && (*v == ' ' || *v == '\t'); v++)
			;
		n = (size_t)(end - v);
		while (n > 0 && (v[n - 1] == ' ' || v[n - 1] == '\t'))
			n--;
		if (memchr(v, '\0', n) != NULL)
			return bad(e, "NUL in the head of a part");
		memcpy(value, v, n);
		value[n] = '\0';
		rc = part_header(line, (size_t)(colon - line), value, part, &disposed, e);
		if (rc != QL_OK)
			return rc;
	}
	return disposed ? QL_OK : bad(e, "a part has no Content-Disposition");
}
