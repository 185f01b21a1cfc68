/* test_messages.c - chat messages and tools: what is taken, what is refused, and which place the fault names. */
#include <stdlib.h>
#include <string.h>

#include "api/messages.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "tests/unit/cm.h"

static int run(const char *text, json_t **frame, struct ql_fault *f)
{
	struct ql_err e = {0};
	json_t *body = NULL;
	int rc;

	*f = (struct ql_fault){0};
	*frame = json_object();
	if (ql_json_parse(text, strlen(text), 1 << 20, &body, &e) != QL_OK)
		fail_msg("test's own JSON: %s", text);
	rc = ql_template_read(body, *frame, f);
	json_decref(body);
	return rc;
}

static void taken(void **state)
{
	struct ql_fault f;
	json_t *frame;
	char *text;

	(void)state;
	assert_int_equal(run("{\"messages\":[{\"role\":\"developer\",\"content\":\"d\",\"name\":\"n\"},"
			     "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"text\",\"text\":\"b\"}]},"
			     "{\"role\":\"assistant\",\"content\":null,\"refusal\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\","
			     "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]},"
			     "{\"role\":\"tool\",\"tool_call_id\":\"c\",\"content\":\"\"}],"
			     "\"functions\":[{\"name\":\"g\"}],\"chat_template_kwargs\":{\"k\":1}}",
			     &frame, &f),
			 QL_OK);
	text = ql_json_text(frame);
	assert_string_equal(
		text, "{\"messages\":[{\"role\":\"system\",\"content\":\"d\",\"name\":\"n\"},{\"role\":\"user\",\"content\":\"ab\"},"
		      "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"c\",\"type\":\"function\",\"function\":"
		      "{\"name\":\"f\",\"arguments\":\"{}\"}}]},{\"role\":\"tool\",\"content\":\"\",\"tool_call_id\":\"c\"}],"
		      "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"g\"}}],\"chat_template_kwargs\":{\"k\":1},"
		      "\"add_generation_prompt\":true,\"continue_final_message\":false}");
	free(text);
	json_decref(frame);
	assert_int_equal(run("{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],\"tools\":[{\"type\":\"function\",\"function\":"
			     "{\"name\":\"g\"}}],\"tool_choice\":\"none\",\"continue_final_message\":true}",
			     &frame, &f),
			 QL_OK);
	assert_null(json_object_get(frame, "tools"));
	assert_true(json_is_false(json_object_get(frame, "add_generation_prompt")));
	json_decref(frame);
}

#define M(m) "{\"messages\":[" m "]}"
#define U "{\"role\":\"user\",\"content\":\"x\"}"

static void refused(void **state)
{
	static const struct {
		const char *text, *param, *code;
	} bad[] = {
		{"{}", "messages", "missing_required_parameter"},
		{"{\"messages\":null}", "messages", "missing_required_parameter"},
		{"{\"messages\":\"x\"}", "messages", "invalid_value"},
		{M(""), "messages", "invalid_value"},
		{M("1"), "messages[0]", "invalid_value"},
		{M("{}"), "messages[0].role", "missing_required_parameter"},
		{M("{\"role\":\"robot\",\"content\":\"x\"}"), "messages[0].role", "invalid_value"},
		{M("{\"role\":1,\"content\":\"x\"}"), "messages[0].role", "invalid_value"},
		{M(U ",{\"role\":\"user\"}"), "messages[1].content", "missing_required_parameter"},
		{M("{\"role\":\"user\",\"content\":null}"), "messages[0].content", "missing_required_parameter"},
		{M("{\"role\":\"assistant\",\"content\":null}"), "messages[0].content", "missing_required_parameter"},
		{M("{\"role\":\"user\",\"content\":5}"), "messages[0].content", "invalid_value"},
		{M("{\"role\":\"user\",\"content\":[]}"), "messages[0].content", "invalid_value"},
		{M("{\"role\":\"user\",\"content\":[7]}"), "messages[0].content[0]", "invalid_value"},
		{M("{\"role\":\"user\",\"content\":[{}]}"), "messages[0].content[0].type", "missing_required_parameter"},
		{M("{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}"), "messages[0].content[0].type", "unsupported_value"},
		{M("{\"role\":\"user\",\"content\":[{\"type\":\"input_audio\"}]}"), "messages[0].content[0].type",
		 "unsupported_value"},
		{M("{\"role\":\"user\",\"content\":[{\"type\":\"text\"}]}"), "messages[0].content[0].text", "invalid_value"},
		{M("{\"role\":\"user\",\"content\":\"x\",\"name\":\"\"}"), "messages[0].name", "invalid_value"},
		{M("{\"role\":\"tool\",\"content\":\"x\"}"), "messages[0].tool_call_id", "missing_required_parameter"},
		{M("{\"role\":\"assistant\",\"tool_calls\":[{}]}"), "messages[0].tool_calls[0]", "invalid_value"},
		{M("{\"role\":\"assistant\",\"tool_calls\":{}}"), "messages[0].tool_calls", "invalid_value"},
		{"{\"messages\":[" U "],\"tools\":5}", "tools", "invalid_value"},
		{"{\"messages\":[" U "],\"tools\":[5]}", "tools[0]", "invalid_value"},
		{"{\"messages\":[" U "],\"tools\":[{\"type\":\"custom\"}]}", "tools[0].type", "unsupported_value"},
		{"{\"messages\":[" U "],\"tools\":[{\"type\":\"function\"}]}", "tools[0].function.name", "missing_required_parameter"},
		{"{\"messages\":[" U "],\"tool_choice\":\"required\"}", "tool_choice", "unsupported_value"},
		{"{\"messages\":[" U "],\"tool_choice\":{\"type\":\"function\"}}", "tool_choice", "unsupported_value"},
		{"{\"messages\":[" U "],\"tool_choice\":5}", "tool_choice", "invalid_value"},
		{"{\"messages\":[" U "],\"function_call\":{\"name\":\"f\"}}", "function_call", "unsupported_value"},
		{"{\"messages\":[" U "],\"parallel_tool_calls\":1}", "parallel_tool_calls", "invalid_value"},
		{"{\"messages\":[" U "],\"chat_template_kwargs\":[]}", "chat_template_kwargs", "invalid_value"},
		{"{\"messages\":[" U "],\"chat_template_kwargs\":{\"chat_template\":\"x\"}}", "chat_template_kwargs.chat_template",
		 "unsupported_value"},
		{"{\"messages\":[" U "],\"add_generation_prompt\":true,\"continue_final_message\":true}", "continue_final_message",
		 "invalid_value"},
	};
	struct ql_fault f;
	json_t *frame;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (run(bad[i].text, &frame, &f) == QL_OK)
			fail_msg("accepted: %s", bad[i].text);
		if (strcmp(f.param, bad[i].param) != 0 || strcmp(f.code, bad[i].code) != 0)
			fail_msg("%s: param %s code %s (%s)", bad[i].text, f.param, f.code, f.message);
		json_decref(frame);
	}
}

static void counts(void **state)
{
	struct ql_fault f = {0};

	(void)state;
	for (size_t n = QL_MESSAGES_MAX; n <= QL_MESSAGES_MAX + 1; n++) {
		json_t *list = json_array(), *out;

		for (size_t i = 0; i < n; i++)
			(void)json_array_append_new(list, json_pack("{s:s,s:s}", "role", "user", "content", "x"));
		assert_int_equal(ql_messages_read(list, &out, &f) == QL_OK, n == QL_MESSAGES_MAX);
		json_decref(out);
		json_decref(list);
	}
	for (size_t n = 256; n <= 257; n++) {
		json_t *parts = json_array(), *list, *out;

		for (size_t i = 0; i < n; i++)
			(void)json_array_append_new(parts, json_pack("{s:s,s:s}", "type", "text", "text", "x"));
		list = json_pack("[{s:s,s:o}]", "role", "user", "content", parts);
		assert_int_equal(ql_messages_read(list, &out, &f) == QL_OK, n == 256);
		json_decref(out);
		json_decref(list);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(taken), cmocka_unit_test(refused), cmocka_unit_test(counts)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
