/* tmpl_util.h - what the template tests share: render a template with JSON variables and compare. */
#ifndef QL_TESTS_TMPL_UTIL_H
#define QL_TESTS_TMPL_UTIL_H

#include "tests/unit/cm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/text/tmpl/tmpl.h"

#define NOW 1753437600

static inline json_t *json_of(const char *text)
{
	struct ql_err e = {0};
	json_t *v = NULL;

	if (ql_json_parse(text, strlen(text), QL_MIB(16), &v, &e) != QL_OK)
		fail_msg("test JSON: %s", e.message);
	return v;
}

/* Code of compiling and rendering; *out is freed by the caller. */
static inline int run(const char *src, size_t len, const char *vars, const char *trusted, struct ql_rendered *out,
		      struct ql_err *e)
{
	json_t *v = json_of(vars), *tr = json_of(trusted);
	struct ql_tmpl_env env = {.vars = v, .trusted = tr, .now_unix = NOW};
	struct ql_tmpl *t = NULL;
	int rc = ql_tmpl_compile(&t, src, len, e);

	if (rc == QL_OK)
		rc = ql_tmpl_render(t, &env, out, e);
	ql_tmpl_free(t);
	json_decref(v);
	json_decref(tr);
	return rc;
}

static inline void check(const char *src, const char *vars, const char *want)
{
	struct ql_rendered r = {0};
	struct ql_err e = {0};
	int rc = run(src, strlen(src), vars, "{}", &r, &e);

	if (rc != QL_OK)
		fail_msg("%s: %s", src, e.message);
	if (strlen(want) != r.text.len || memcmp(want, r.text.data, r.text.len) != 0)
		fail_msg("%s\n  gives    %s\n  expected %s", src, r.text.data, want);
	ql_rendered_free(&r);
}

/* Refused with `code`, and a message that contains `part`. */
static inline void refuse(const char *src, const char *vars, int code, const char *part)
{
	struct ql_rendered r = {0};
	struct ql_err e = {0};
	int rc = run(src, strlen(src), vars, "{}", &r, &e);

	if (rc == QL_OK)
		fail_msg("%s: accepted, gives %s", src, r.text.data);
	if (rc != code || strstr(e.message, part) == NULL)
		fail_msg("%s: code %d, message %s", src, rc, e.message);
	assert_null(r.text.data);
	assert_null(r.plain);
}

#endif
