/* bad.h - faults in requests, as the client will see them (api.md §3).
 *
 * Functions that judge a request return QL_OK, or QL_EINVAL with *f filled: status, word in `code`, field in `param`.
 * Messages hold no path, no SQL, no pointer. */
#ifndef QL_API_BAD_H
#define QL_API_BAD_H

#include <jansson.h>

#include "daemon/fault.h"

/* Each fills *f and returns QL_EINVAL, so that `return ql_bad(f, …)` reads well.  param may be NULL. */
int ql_bad(struct ql_fault *f, int status, const char *code, const char *param, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));
/* 400 invalid_value with that param. */
int ql_bad_value(struct ql_fault *f, const char *param, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* 400 unsupported_value. */
int ql_bad_unsupported(struct ql_fault *f, const char *param, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* 400 missing_required_parameter. */
int ql_bad_missing(struct ql_fault *f, const char *param);
/* 500 internal_error without detail. */
int ql_bad_internal(struct ql_fault *f);

/* {"error":{message, type, param, code}}: always the four keys.  type NULL: by the status.  New reference, NULL when out
 * of memory. */
json_t *ql_bad_json(const struct ql_fault *f, const char *type);
/* A JSON string of s with bytes that are not UTF-8 replaced by '?'; NULL when out of memory. */
json_t *ql_bad_text(const char *s);

#endif
