/* target.h - the raw request target (what stands between method and version), parsed by ourselves.
 *
 * libmicrohttpd hands out a path that is unescaped and cut at the first NUL, so routing on it would confuse "/a%00b"
 * with "/a" and "%2F" with "/" (api.md §18 row 7).  Here: origin form only ("/…"; "*" for OPTIONS), segments are split
 * on the raw '/', then percent-decoded one by one.  Refused: control bytes, bytes above 0x7e in the raw text, '#', bad
 * escapes, %00 and other control bytes, segments "." and "..", text that is not UTF-8.  In the query '+' is a space. */
#ifndef QL_API_TARGET_H
#define QL_API_TARGET_H

#include <stdbool.h>
#include <stddef.h>

#include "core/base/err.h"

#define QL_TARGET_SEGMENTS_MAX 12
#define QL_TARGET_QUERY_MAX 48

struct ql_target {
	char *mem;                                  /* owns every string below */
	bool asterisk;                              /* "*" */
	size_t n_segments;
	const char *segment[QL_TARGET_SEGMENTS_MAX]; /* decoded, NUL-terminated; "" for an empty one */
	size_t n_query;
	struct {
		const char *key, *value;
	} query[QL_TARGET_QUERY_MAX];
};

/* Parses raw[0..len).  QL_EINVAL (malformed), QL_ELIMIT (too many parts), QL_ENOMEM.  On failure nothing is owned. */
int ql_target_parse(struct ql_target *t, const char *raw, size_t len, struct ql_err *e);
void ql_target_free(struct ql_target *t); /* accepts a zeroed one */
/* The value of a query key or NULL; *times (may be NULL) is how often it was given. */
const char *ql_target_query(const struct ql_target *t, const char *key, size_t *times);

#endif
