/* bad.c - see bad.h. */
#include "api/bad.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

static void fill(struct ql_fault *f, int status, const char *code, const char *param, const char *fmt, va_list ap)
{
	*f = (struct ql_fault){.status = status, .code = code};
	if (param != NULL)
		(void)snprintf(f->param, sizeof f->param, "%s", param);
	(void)vsnprintf(f->message, sizeof f->message, fmt, ap);
}

int ql_bad(struct ql_fault *f, int status, const char *code, const char *param, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(f, status, code, param, fmt, ap);
	va_end(ap);
	return QL_EINVAL;
}

int ql_bad_value(struct ql_fault *f, const char *param, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(f, 400, "invalid_value", param, fmt, ap);
	va_end(ap);
	return QL_EINVAL;
}

int ql_bad_unsupported(struct ql_fault *f, const char *param, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fill(f, 400, "unsupported_value", param, fmt, ap);
	va_end(ap);
	return QL_EINVAL;
}

int ql_bad_missing(struct ql_fault *f, const char *param)
{
	return ql_bad(f, 400, "missing_required_parameter", param, "Missing required parameter: '%s'.", param);
}

int ql_bad_internal(struct ql_fault *f)
{
	return ql_bad(f, 500, "internal_error", NULL, "The server had an error while processing your request.");
}

json_t *ql_bad_text(const char *s)
{
	size_t len = strlen(s), bad, from = 0;
	json_t *v;
	char *t;

	if (ql_utf8_valid(s, len, &bad))
		return json_stringn_nocheck(s, len);
	t = malloc(len + 1);
	if (t == NULL)
		return NULL;
	memcpy(t, s, len + 1);
	while (!ql_utf8_valid(t + from, len - from, &bad)) {
		from += bad;
		t[from++] = '?';
	}
	v = json_stringn(t, len);
	free(t);
	return v;
}

json_t *ql_bad_json(const struct ql_fault *f, const char *type)
{
	if (type == NULL)
		type = f->status == 429 ? "rate_limit_error" : f->status >= 500 ? "server_error" : "invalid_request_error";
	return json_pack("{s:{s:o,s:s,s:o,s:s?}}", "error", "message", ql_bad_text(f->message), "type", type, "param",
			 f->param[0] == '\0' ? json_null() : ql_bad_text(f->param), "code", f->code);
}
