/* test_tmpl_chat.c - messages adapted to what a template reads. */
#include "tests/unit/text/tmpl/tmpl_util.h"

#define PLAIN "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments }}{% endfor %}\n{% endfor %}"
#define TYPED "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}" \
	      "{{ p.text }}/{% endfor %}{% endif %}{% for c in m.tool_calls or [] %}{{ c.function.arguments|tojson }}{% endfor %}\n{% endfor %}{{ 'developer' if x }}"
#define ONLY_PARTS "{% for m in messages %}{% for p in m.content %}{{ '<' + p['text'] + '>' }}{% endfor %}{% endfor %}"
#define WANTS_TEXT "{% for m in messages %}{{ m.content }}{% for c in m.tool_calls %}{{ '[' + c['function']['arguments'] + ']' }}{% endfor %}{% endfor %}"

static int normal(const char *src, const char *messages, char **text, struct ql_err *e)
{
	json_t *in = json_of(messages), *out = NULL;
	struct ql_tmpl *t = NULL;
	int rc = ql_tmpl_compile(&t, src, strlen(src), e);

	*text = NULL;
	if (rc == QL_OK)
		rc = ql_chat_normalize(t, in, &out, e);
	if (rc == QL_OK)
		*text = json_dumps(out, JSON_COMPACT);
	ql_tmpl_free(t);
	json_decref(in);
	json_decref(out);
	return rc;
}

static void becomes(const char *src, const char *messages, const char *want)
{
	struct ql_err e = {0};
	char *got;

	if (normal(src, messages, &got, &e) != QL_OK)
		fail_msg("%s: %s", messages, e.message);
	assert_string_equal(got, want);
	free(got);
}

static void is_refused(const char *messages, const char *param)
{
	struct ql_err e = {0};
	char *got;

	assert_int_equal(normal(PLAIN, messages, &got, &e), QL_EINVAL);
	assert_string_equal(e.param, param);
}

#define CALL(args) "[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":" args "}}]}]"

static void adapt(void **state)
{
	(void)state;
	becomes(PLAIN, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]}]",
		"[{\"role\":\"user\",\"content\":\"ab\"}]");
	becomes(TYPED, "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]",
		"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]");
	becomes(ONLY_PARTS, "[{\"role\":\"user\",\"content\":\"a\"}]", "[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"}]}]");
	becomes(PLAIN, "[{\"role\":\"developer\",\"content\":\"a\"},{\"role\":\"function\",\"content\":\"b\"}]",
		"[{\"role\":\"system\",\"content\":\"a\"},{\"role\":\"tool\",\"content\":\"b\"}]");
	becomes(TYPED, "[{\"role\":\"developer\",\"content\":\"a\"}]", "[{\"role\":\"developer\",\"content\":\"a\"}]");
	becomes(TYPED, CALL("\"{\\\"x\\\": 1}\""), CALL("{\"x\":1}"));
	becomes(TYPED, CALL("\"\""), CALL("{}"));
	becomes(TYPED, CALL("{\"x\":1}"), CALL("{\"x\":1}"));
	/* one that wants tools */
	becomes("{% for t in tools %}{{ t.function.name }}{% endfor %}" TYPED, CALL("\"{\\\"x\\\": 1}\""), CALL("{\"x\":1}"));
	becomes(WANTS_TEXT, CALL("\"{\\\"x\\\":1}\""), CALL("\"{\\\"x\\\":1}\""));
	becomes(WANTS_TEXT, CALL("{\"x\":1}"), CALL("\"{\\\"x\\\": 1}\""));
	becomes(PLAIN, "[{\"role\":\"assistant\",\"content\":null}]", "[{\"role\":\"assistant\",\"content\":null}]");
	becomes(PLAIN, "[{\"role\":\"assistant\",\"content\":\"a\",\"reasoning\":\"r\"}]",
		"[{\"thinking\":\"r\",\"role\":\"assistant\",\"content\":\"a\",\"reasoning\":\"r\",\"reasoning_content\":\"r\"}]");
}

static void bad_messages(void **state)
{
	struct ql_err e = {0};
	char *got;

	(void)state;
	is_refused("{}", "messages");
	is_refused("[5]", "messages[0]");
	is_refused("[{\"content\":\"a\"}]", "messages[0].role");
	is_refused("[{\"role\":\"user\",\"content\":5}]", "messages[0].content");
	is_refused("[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", "messages[1].content");
	is_refused("[{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}]", "messages[0].content");
	is_refused("[{\"role\":\"assistant\",\"tool_calls\":5}]", "messages[0].tool_calls");
	is_refused("[{\"role\":\"assistant\",\"tool_calls\":[{\"function\":{\"name\":\"f\",\"arguments\":5}}]}]", "messages[0].tool_calls");
	assert_int_equal(normal(TYPED, CALL("\"{oops\""), &got, &e), QL_EINVAL);
	assert_int_equal(normal(TYPED, CALL("\"[1]\""), &got, &e), QL_EINVAL);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(adapt), cmocka_unit_test(bad_messages)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
