/* fault.c - see fault.h: refusals and ids. */
#include "daemon/fault.h"

#include <sodium/randombytes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "core/base/log.h"

#define ID_RANDOM 24

int ql_fault_set(struct ql_fault *f, int rc, int status, const char *code, const char *param, const char *fmt, ...)
{
	va_list ap;

	if (f == NULL)
		return rc;
	memset(f, 0, sizeof *f);
	f->status = status;
	f->code = code;
	(void)snprintf(f->param, sizeof f->param, "%s", param == NULL ? "" : param);
	va_start(ap, fmt);
	(void)vsnprintf(f->message, sizeof f->message, fmt, ap);
	va_end(ap);
	if (status == 503)
		f->retry_after = 5;
	return rc;
}

int ql_fault_internal(struct ql_fault *f, const struct ql_err *e, const char *what)
{
	int rc = e != NULL && e->code < 0 ? e->code : QL_EINTERNAL;

	ql_log(QL_LOG_ERROR, "control", "%s: %s", what, e == NULL ? ql_code_text(rc) : e->message);
	if (rc == QL_ENOSPC)
		return ql_fault_set(f, rc, 503, "no_space", NULL, "The server's disk is full; try again later.");
	return ql_fault_set(f, rc, 500, "internal_error", NULL, "The server had an error while processing your request.");
}

int ql_fault_err(struct ql_fault *f, const struct ql_err *e, const char *code)
{
	switch (e->code) {
	case QL_ENOSPC:
	case QL_ENOMEM:
	case QL_EIO:
	case QL_EINTERNAL:
	case QL_EDEVICE:
		return ql_fault_internal(f, e, "request");
	case QL_EBUSY:
		(void)ql_fault_set(f, e->code, 429, "queue_full", e->param, "%s", e->message);
		if (f != NULL)
			f->retry_after = 1;
		return e->code;
	default:
		return ql_fault_set(f, e->code, 400, code == NULL ? "invalid_value" : code, e->param, "%s", e->message);
	}
}

void ql_id_make(char out[QL_ID_SIZE], const char *prefix)
{
	static const char digits[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	size_t n = strlen(prefix);

	memcpy(out, prefix, n);
	for (int i = 0; i < ID_RANDOM; i++)
		out[n++] = digits[randombytes_uniform(36)];
	out[n] = '\0';
}

bool ql_id_ok(const char *id, const char *prefix)
{
	size_t n = strlen(prefix);

	if (id == NULL || strncmp(id, prefix, n) != 0 || strlen(id) != n + ID_RANDOM)
		return false;
	for (; id[n] != '\0'; n++)
		if (!((id[n] >= '0' && id[n] <= '9') || (id[n] >= 'a' && id[n] <= 'z')))
			return false;
	return true;
}
