/* fuzz_template.c - any bytes as a chat template, rendered with a small conversation. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/tmpl.h"
#include "tests/fuzz/replay.h"

#define CHECK(cond)                                                                                                \
	do {                                                                                                       \
		if (!(cond))                                                                                       \
			__builtin_trap();                                                                          \
	} while (0)

static const char vars_text[] =
	"{\"add_generation_prompt\":true,\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"a\":[1,2.5,null]}}}],"
	"\"messages\":[{\"role\":\"system\",\"content\":\" s\\u00e9\\ud83d\\ude00 \"},{\"role\":\"user\",\"content\":\"<|a|>\\nb\"},"
	"{\"role\":\"assistant\",\"content\":\"c#d\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":{\"x\":1}}}]}]}";

static void check_spans(const struct ql_span *s, size_t n, size_t len, bool apart)
{
	for (size_t i = 0; i < n; i++) {
		CHECK(s[i].begin <= s[i].end && s[i].end <= len);
		CHECK(!apart || (s[i].begin < s[i].end && (i == 0 || s[i].begin > s[i - 1].end)));
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static json_t *vars;
	struct ql_rendered r = {0};
	struct ql_tmpl *t = NULL;
	struct ql_err e = {0};
	struct ql_tmpl_env env = {0};
	int rc;

	if (vars == NULL)
		CHECK(ql_json_parse(vars_text, sizeof vars_text - 1, 1 << 20, &vars, NULL) == QL_OK);
	env.vars = vars;
	rc = ql_tmpl_compile(&t, (const char *)data, size, &e);
	CHECK((rc == QL_OK) == (t != NULL));
	if (rc == QL_OK)
		rc = ql_tmpl_render(t, &env, &r, &e);
	if (rc == QL_OK) {
		CHECK(ql_utf8_valid(r.text.data, r.text.len, NULL));
		check_spans(r.plain, r.n_plain, r.text.len, true);
		check_spans(r.generation, r.n_generation, r.text.len, false);
	} else {
		/* only raise_exception('') leaves a message empty */
		CHECK(e.message[0] != '\0' || strcmp(e.param, "messages") == 0);
		CHECK(rc != QL_EINTERNAL && r.text.data == NULL);
	}
	ql_rendered_free(&r);
	ql_tmpl_free(t);
	return 0;
}
