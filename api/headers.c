/* headers.c - see headers.h. */
#include "api/headers.h"

#include <string.h>
#include <strings.h>

#include "core/base/limits.h"

void ql_headers_add(struct ql_headers *h, const char *name, const char *value, size_t value_len)
{
	const struct {
		const char *name, **slot;
		unsigned *count;
	} known[] = {
		{"Host", &h->host, &h->n_host},
		{"Content-Length", &h->length, &h->n_length},
		{"Transfer-Encoding", &h->coding, &h->n_coding},
		{"Authorization", &h->auth, &h->n_auth},
		{"Content-Type", &h->type, &h->n_type},
		{"Idempotency-Key", &h->idem, &h->n_idem},
		{"Origin", &h->origin, &h->n_origin},
		{"Range", &h->range, &h->n_range},
		{"Accept", &h->accept, NULL},
		{"If-None-Match", &h->if_none_match, NULL},
		{"Last-Event-ID", &h->last_event_id, NULL},
		{"x-stainless-retry-count", &h->retry_count, NULL},
		{"Expect", &h->expect, NULL},
	};

	if (value == NULL) {
		value = "";
		value_len = 0;
	}
	h->n++;
	h->bytes += strlen(name) + value_len + 4;
	if (strlen(value) != value_len)
		h->control_byte = true;
	for (const char *s = value; *s != '\0'; s++)
		if (((unsigned char)*s < 0x20 && *s != '\t') || *s == 0x7f)
			h->control_byte = true;
	for (const char *s = name; *s != '\0'; s++)
		if ((unsigned char)*s <= 0x20 || (unsigned char)*s >= 0x7f)
			h->control_byte = true;
	for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
		if (strcasecmp(known[i].name, name) != 0)
			continue;
		if (*known[i].slot == NULL)
			*known[i].slot = value;
		if (known[i].count != NULL)
			(*known[i].count)++;
	}
}

static int length_of(const char *s, uint64_t *out)
{
	uint64_t n = 0;

	if (*s == '\0')
		return QL_EINVAL;
	for (; *s != '\0'; s++)
		if (*s < '0' || *s > '9' || __builtin_mul_overflow(n, (uint64_t)10, &n) ||
		    __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
			return QL_EINVAL;
	*out = n;
	return QL_OK;
}

int ql_headers_check(const struct ql_headers *h, struct ql_framing *out, struct ql_fault *f)
{
	const struct {
		const char *name;
		unsigned count;
	} single[] = {{"Host", h->n_host},	  {"Content-Length", h->n_length}, {"Transfer-Encoding", h->n_coding},
		      {"Authorization", h->n_auth}, {"Content-Type", h->n_type},   {"Idempotency-Key", h->n_idem},
		      {"Origin", h->n_origin},	  {"Range", h->n_range}};

	*out = (struct ql_framing){0};
	if (h->n > QL_HTTP_HEADERS_MAX || h->bytes > QL_HTTP_HEAD_MAX)
		return ql_bad(f, 431, "request_too_large", NULL, "The request has more than %d headers or %zu bytes of them.",
			      QL_HTTP_HEADERS_MAX, (size_t)QL_HTTP_HEAD_MAX);
	for (size_t i = 0; i < sizeof single / sizeof single[0]; i++)
		if (single[i].count > 1)
			return ql_bad(f, 400, "invalid_value", single[i].name, "The %s header is given %u times.",
				      single[i].name, single[i].count);
	if (h->control_byte)
		return ql_bad(f, 400, "invalid_value", NULL, "A header holds a control byte.");
	if (h->n_coding > 0 && h->n_length > 0)
		return ql_bad(f, 400, "invalid_value", "Transfer-Encoding",
			      "Content-Length and Transfer-Encoding must not be given together.");
	if (h->n_coding > 0) {
		if (strcasecmp(h->coding, "chunked") != 0)
			return ql_bad(f, 400, "invalid_value", "Transfer-Encoding", "Transfer-Encoding must be 'chunked'.");
		out->chunked = true;
	}
	if (h->n_length > 0) {
		if (length_of(h->length, &out->length) != QL_OK)
			return ql_bad(f, 400, "invalid_value", "Content-Length", "Content-Length is not a number of bytes.");
		out->has_length = true;
	}
	return QL_OK;
}

/* host[0..len) with an optional ":port" removed; false if malformed. */
static bool split_port(const char *host, size_t *len)
{
	const char *colon;

	if (host[0] == '[') {
		const char *end = strchr(host, ']');

		if (end == NULL)
			return false;
		*len = (size_t)(end - host) + 1;
		colon = end[1] == ':' ? end + 1 : NULL;
		if (colon == NULL && end[1] != '\0')
			return false;
	} else {
		colon = strchr(host, ':');
		*len = colon == NULL ? strlen(host) : (size_t)(colon - host);
	}
	if (colon != NULL) {
		size_t digits = strspn(colon + 1, "0123456789");

		if (digits == 0 || digits > 5 || colon[1 + digits] != '\0')
			return false;
	}
	return *len > 0;
}

int ql_host_check(const char *host, const struct ql_strings *more, struct ql_fault *f)
{
	static const char *const own[] = {"localhost", "127.0.0.1", "[::1]"};
	size_t len;

	if (host != NULL && split_port(host, &len)) {
		for (size_t i = 0; i < sizeof own / sizeof own[0]; i++)
			if (strlen(own[i]) == len && strncasecmp(own[i], host, len) == 0)
				return QL_OK;
		for (size_t i = 0; more != NULL && i < more->n; i++)
			if (strcasecmp(more->v[i], host) == 0 ||
			    (strlen(more->v[i]) == len && strncasecmp(more->v[i], host, len) == 0))
				return QL_OK;
	}
	return ql_bad(f, 403, "host_not_allowed", NULL, "This Host is not allowed; add it to the `hosts` setting.");
}

int ql_origin_check(const char *origin, const struct ql_strings *list, bool *listed, struct ql_fault *f)
{
	*listed = false;
	if (origin == NULL)
		return QL_OK;
	for (size_t i = 0; list != NULL && i < list->n; i++)
		if (strcmp(list->v[i], origin) == 0) {
			*listed = true;
			return QL_OK;
		}
	return ql_bad(f, 403, "origin_not_allowed", NULL, "This Origin is not allowed; add it to the `origins` setting.");
}

int ql_idem_key_check(const char *key, struct ql_fault *f)
{
	size_t n = strlen(key);

	for (size_t i = 0; i < n; i++)
		if ((unsigned char)key[i] <= 0x20 || (unsigned char)key[i] >= 0x7f)
			n = 0;
	if (n < 1 || n > QL_IDEMPOTENCY_KEY_MAX)
		return ql_bad_value(f, "Idempotency-Key", "Idempotency-Key must be 1 to %d visible ASCII characters.",
				    QL_IDEMPOTENCY_KEY_MAX);
	return QL_OK;
}

static const char *opaque(const char *tag)
{
	return strncmp(tag, "W/", 2) == 0 ? tag + 2 : tag;
}

bool ql_etag_match(const char *if_none_match, const char *etag)
{
	const char *s = if_none_match, *want = opaque(etag);
	size_t n = strlen(want);

	while (s != NULL && *s != '\0') {
		s += strspn(s, " \t,");
		if (*s == '*')
			return true;
		s = opaque(s);
		if (strncmp(s, want, n) == 0 && (s[n] == '\0' || s[n] == ',' || s[n] == ' ' || s[n] == '\t'))
			return true;
		s = strchr(s, ',');
	}
	return false;
}
