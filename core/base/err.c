/* err.c - see err.h. */
#include "core/base/err.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"

/* Messages quote names from files and are cut to size, within "%.40s" too; JSON carries UTF-8 only.  A cut character at the end goes,
 * any other byte that is none of a character becomes '?'. */
static void keep_utf8(char *s)
{
	size_t len = ql_utf8_whole(s, strlen(s)), bad;

	s[len] = '\0';
	while (!ql_utf8_valid(s, len, &bad)) {
		s[bad] = '?';
		s += bad + 1;
		len -= bad + 1;
	}
}

int ql_err_setv(struct ql_err *e, int code, const char *fmt, va_list ap)
{
	if (e == NULL)
		return code;
	e->code = code;
	e->offset = QL_NO_OFFSET;
	e->param[0] = '\0';
	(void)vsnprintf(e->message, sizeof e->message, fmt, ap);
	keep_utf8(e->message);
	return code;
}

int ql_err_set(struct ql_err *e, int code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)ql_err_setv(e, code, fmt, ap);
	va_end(ap);
	return code;
}

int ql_err_at(struct ql_err *e, int code, uint64_t offset, const char *fmt, ...)
{
	va_list ap;
	size_t n;

	if (e == NULL)
		return code;
	va_start(ap, fmt);
	(void)ql_err_setv(e, code, fmt, ap);
	va_end(ap);
	e->offset = offset;
	n = strlen(e->message);
	(void)snprintf(e->message + n, sizeof e->message - n, ", at byte %llu", (unsigned long long)offset);
	return code;
}

int ql_err_param(struct ql_err *e, int code, const char *param, const char *fmt, ...)
{
	va_list ap;

	if (e == NULL)
		return code;
	va_start(ap, fmt);
	(void)ql_err_setv(e, code, fmt, ap);
	va_end(ap);
	(void)snprintf(e->param, sizeof e->param, "%s", param);
	keep_utf8(e->param);
	return code;
}

static int code_of_errno(int err)
{
	switch (err) {
	case ENOSPC:
	case EDQUOT:
		return QL_ENOSPC;
	case ENOMEM:
		return QL_ENOMEM;
	case ENOENT:
		return QL_ENOTFOUND;
	case EEXIST:
		return QL_EEXIST;
	default:
		return QL_EIO;
	}
}

int ql_err_errno(struct ql_err *e, const char *fmt, ...)
{
	int err = errno, code = code_of_errno(err);
	va_list ap;
	size_t n;

	if (e == NULL)
		return code;
	va_start(ap, fmt);
	(void)ql_err_setv(e, code, fmt, ap);
	va_end(ap);
	n = strlen(e->message);
	(void)snprintf(e->message + n, sizeof e->message - n, ": %s", strerror(err));
	return code;
}

int ql_err_prefix(struct ql_err *e, const char *fmt, ...)
{
	char old[sizeof e->message];
	va_list ap;
	size_t n;

	if (e == NULL)
		return QL_EINTERNAL;
	memcpy(old, e->message, sizeof old);
	va_start(ap, fmt);
	(void)vsnprintf(e->message, sizeof e->message, fmt, ap);
	va_end(ap);
	n = strlen(e->message);
	if (n + 3 < sizeof e->message) {
		memcpy(e->message + n, ": ", 3);
		n += 2;
		size_t room = sizeof e->message - n - 1, len = strnlen(old, sizeof old - 1);
		if (len > room)
			len = room;
		memcpy(e->message + n, old, len);
		e->message[n + len] = '\0';
	}
	keep_utf8(e->message);
	return e->code;
}

const char *ql_code_text(int code)
{
	static const char *const texts[] = {
		[0] = "ok",
		[-QL_EINVAL] = "invalid argument",
		[-QL_ENOMEM] = "out of memory",
		[-QL_EIO] = "input/output error",
		[-QL_EFORMAT] = "malformed input",
		[-QL_ELIMIT] = "limit exceeded",
		[-QL_ENOTFOUND] = "not found",
		[-QL_EUNSUPPORTED] = "not supported",
		[-QL_ESTATE] = "not possible now",
		[-QL_ESHAPE] = "shape mismatch",
		[-QL_EDEVICE] = "device failure",
		[-QL_ENODEVMEM] = "out of device memory",
		[-QL_ECANCELLED] = "cancelled",
		[-QL_ENOSPC] = "no space left",
		[-QL_EMISMATCH] = "mismatch",
		[-QL_EEXIST] = "already exists",
		[-QL_EBUSY] = "busy",
		[-QL_ENONFINITE] = "not finite",
		[-QL_EINTERNAL] = "internal error",
	};

	if (code > 0 || -code >= (int)(sizeof texts / sizeof texts[0]))
		return "unknown";
	return texts[-code];
}
