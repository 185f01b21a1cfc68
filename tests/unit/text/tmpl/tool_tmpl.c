/* tool_tmpl.c - renders templates for the interop tests: one JSON object a line on stdin, {"template", "vars", "trusted",
 * "now", "normalize"}, one a line on stdout: {"text", "plain", "generation"} or {"error", "code"}.  All byte ranges. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/text/tmpl/tmpl.h"

static json_t *spans(const struct ql_span *s, size_t n)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++)
		json_array_append_new(a, json_pack("[I, I]", (json_int_t)s[i].begin, (json_int_t)s[i].end));
	return a;
}

/* vars with its messages normalised, as training and serving do. */
static int normalized(const struct ql_tmpl *t, const json_t *vars, json_t **out, struct ql_err *e)
{
	json_t *messages = NULL;
	int rc = ql_chat_normalize(t, json_object_get(vars, "messages"), &messages, e);

	*out = NULL;
	if (rc != QL_OK)
		return rc;
	*out = json_copy((json_t *)(uintptr_t)vars);
	json_object_set_new(*out, "messages", messages);
	return QL_OK;
}

static json_t *answer(const json_t *req)
{
	const json_t *src = json_object_get(req, "template");
	struct ql_tmpl_env env = {.vars = json_object_get(req, "vars"), .trusted = json_object_get(req, "trusted"),
				  .now_unix = json_integer_value(json_object_get(req, "now"))};
	struct ql_rendered r = {0};
	struct ql_tmpl *t = NULL;
	struct ql_err e = {0};
	struct timespec a, b;
	json_t *vars = NULL, *out;
	int rc;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
	rc = ql_tmpl_compile(&t, json_string_value(src), json_string_length(src), &e);
	if (rc == QL_OK && json_is_true(json_object_get(req, "normalize"))) {
		rc = normalized(t, env.vars, &vars, &e);
		env.vars = vars;
	}
	if (rc == QL_OK)
		rc = ql_tmpl_render(t, &env, &r, &e);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
	if (rc == QL_OK)
		out = json_pack("{s:s%, s:o, s:o}", "text", r.text.data, r.text.len, "plain", spans(r.plain, r.n_plain),
				"generation", spans(r.generation, r.n_generation));
	else
		out = json_pack("{s:s, s:i}", "error", e.message, "code", rc);
	json_object_set_new(out, "us", json_integer((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_nsec - a.tv_nsec) / 1000));
	ql_rendered_free(&r);
	json_decref(vars);
	ql_tmpl_free(t);
	return out;
}

int main(void)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;

	while ((n = getline(&line, &cap, stdin)) > 0) {
		struct ql_err e = {0};
		json_t *req = NULL, *out;
		char *text;

		if (ql_json_parse(line, (size_t)n, QL_MIB(64), &req, &e) != QL_OK)
			out = json_pack("{s:s, s:i}", "error", e.message, "code", e.code);
		else
			out = answer(req);
		text = json_dumps(out, JSON_COMPACT);
		puts(text == NULL ? "{\"error\":\"output\",\"code\":-18}" : text);
		(void)fflush(stdout);
		free(text);
		json_decref(out);
		json_decref(req);
	}
	free(line);
	return 0;
}
