/* test_data_load.c - kinds of lines, faults with their line numbers, the report, the file's own oddities, the preview. */
#include "core/base/hash.h"
#include "tests/unit/text/data/data_util.h"

#define M(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
#define S "<|im_start|>"
#define E "<|im_end|>"
#define LINE "{\"messages\":[" M("user", "a") "," M("assistant", "b") "]}"

static void kinds(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, CHATML, false);
	load_ok(&f, "{\"prompt\":[" M("user", "a") "," M("assistant", "x") "," M("user", "c") "],\"completion\":[" M("assistant", "b") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\nx" E "\n" S "user\nc" E "\n" S "assistant\n[b" E "]\n");
	assert_string_equal(f.rep.kind, "completion-chat");
	load_ok(&f, "{\"instruction\":\"i\",\"input\":\"\",\"output\":\"o\"}\n{\"instruction\":\"i\",\"input\":\"n\",\"output\":\"o\"}\n"
		    "{\"instruction\":\"i\",\"output\":\"o\"}\n");
	shows(&f, 0, S "user\ni" E "\n" S "assistant\n[o" E "]\n");
	shows(&f, 1, S "user\ni\n\nn" E "\n" S "assistant\n[o" E "]\n");
	shows(&f, 2, S "user\ni" E "\n" S "assistant\n[o" E "]\n");
	f.o.alpaca_template = true;
	load_ok(&f, "{\"instruction\":\"i%s\",\"input\":\"n\",\"output\":\"o\"}\n{\"instruction\":\"i\",\"output\":\"o\"}\n");
	shows(&f, 0, "Below is an instruction that describes a task, paired with an input that provides further context. Write a response that "
		     "appropriately completes the request.\n\n### Instruction:\ni%s\n\n### Input:\nn\n\n### Response:\n[o<|eos|>]");
	shows(&f, 1, "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
		     "### Instruction:\ni\n\n### Response:\n[o<|eos|>]");
	load_ok(&f, "{\"system\":\"s\",\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"gpt\",\"value\":\"b\"},"
		    "{\"from\":\"observation\",\"value\":\"t\"},{\"from\":\"bing\",\"value\":\"c\"}]}\n");
	shows(&f, 0, S "system\ns" E "\n" S "user\na" E "\n" S "assistant\n[b" E "]\n" S "tool\nt" E "\n" S "assistant\n[c" E "]\n");
	assert_string_equal(f.rep.kind, "sharegpt");
	load_bad(&f, "{\"foo\":1}\n", "tell no known kind");
	load_bad(&f, LINE "\n{\"text\":\"a\"}\n", "a text line in a file that began with chat lines");
	assert_int_equal(f.rep.faults[0].line, 2);
	teardown(&f);
	setup(&f, NULL, false);
	load_bad(&f, LINE "\n", "no chat template");
	teardown(&f);
}

static void tools(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, "{% if tools %}{{ tools|length }}{{ tools[0].function.name }}{% endif %}{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ ':' }}"
		  "{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function.name }}{{ c.function.arguments|tojson }}{% endfor %}"
		  "{{ '<|im_end|>' }}{% endfor %}{{ x }}{% if add_generation_prompt %}{{ '<|im_start|>assistant:' }}{% endif %}", false);
#define CALL "{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"1\",\"type\":\"function\",\"function\":{\"name\":\"g\",\"arguments\":\"{\\\"p\\\":1}\"}}]}"
#define TOOL "{\"type\":\"function\",\"function\":{\"name\":\"g\",\"parameters\":{}}}"
	load_ok(&f, "{\"messages\":[" M("user", "a") "," CALL "," M("tool", "r") "," M("assistant", "b") "],\"tools\":[" TOOL "]}\n");
	shows(&f, 0, "1g" S "user:a" E S "assistant:[g{\"p\": 1}" E "]" S "tool:r" E S "assistant:[b" E "]");
	load_ok(&f, "{\"messages\":[" M("user", "a") ",{\"role\":\"assistant\",\"function_call\":{\"name\":\"g\",\"arguments\":\"{}\"}}],"
		    "\"functions\":[{\"name\":\"h\"}]}\n");
	shows(&f, 0, "1h" S "user:a" E S "assistant:[g{}" E "]");
	load_ok(&f, "{\"conversations\":[{\"from\":\"human\",\"value\":\"a\"},{\"from\":\"function_call\",\"value\":\"{\\\"name\\\":\\\"g\\\","
		    "\\\"arguments\\\":{\\\"p\\\":2}}\"}],\"tools\":\"[{\\\"name\\\":\\\"g\\\"}]\"}\n");
	shows(&f, 0, "1g" S "user:a" E S "assistant:[Noneg{\"p\": 2}" E "]");
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"chat_template_kwargs\":{\"x\":\"\"}}\n");
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"chat_template_kwargs\":{\"messages\":[]}}\n", "must not set 'messages'");
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"chat_template_kwargs\":5}\n", "chat_template_kwargs");
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"tools\":5}\n", "tools must be a list");
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"tools\":[{}]}\n", "tools[0]");
	teardown(&f);
}

static void message_faults(void **state)
{
	static const struct {
		const char *messages, *reason;
	} rows[] = {
		{"5", "messages must be"}, {"[]", "messages must be"}, {"[5]", "messages[0]: must be an object"},
		{"[{\"content\":\"a\"}]", "messages[0].role"}, {"[" M("robot", "a") "]", "messages[0].role"},
		{"[{\"role\":\"user\"}]", "messages[0].content"}, {"[{\"role\":\"user\",\"content\":5}]", "messages[0].content"},
		{"[" M("user", "a") ",{\"role\":\"assistant\",\"content\":null}]", "messages[1].content"},
		{"[" M("user", "a") "]", "no assistant message"},
		{"[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":0}]", "no assistant message with weight 1"},
		{"[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":2}]", "weight: must be 0 or 1"},
		{"[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":\"1\"}]", "weight: must be 0 or 1"},
		{"[{\"role\":\"assistant\",\"content\":\"a\",\"weight\":null}]", "weight: must be 0 or 1"},
		{"[{\"role\":\"user\",\"content\":\"a\",\"weight\":1}," M("assistant", "b") "]", "weight: belongs to assistant"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]", "only parts of type text"},
		{"[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}]", "needs a string"},
		{"[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[]}]", "tool_calls"},
		{"[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"function\":{\"name\":\"f\"}}]}]", "arguments"},
		{"[{\"role\":\"user\",\"content\":\"a\",\"name\":5}]", "messages[0].name"},
	};
	struct fixture f;
	char line[512];

	(void)state;
	setup(&f, CHATML, false);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		(void)snprintf(line, sizeof line, "{\"messages\":%s}\n", rows[i].messages);
		load_bad(&f, line, rows[i].reason);
	}
	teardown(&f);
	/* what a template objects to is the line's fault */
	setup(&f, "{% if messages|length > 2 %}{{ raise_exception('Too many turns') }}{% endif %}" CHATML, false);
	load_ok(&f, LINE "\n");
	load_bad(&f, LINE "\n{\"messages\":[" M("user", "a") "," M("user", "a") "," M("assistant", "b") "]}\n", "Too many turns");
	assert_int_equal(f.rep.faults[0].line, 2);
	teardown(&f);
}

static void line_faults(void **state)
{
	static const struct {
		const char *line, *reason;
	} rows[] = {
		{"[1]\n", "not a JSON object"}, {"{\"text\":\"a\"", "invalid JSON"}, {"{\"text\":\"a\"} x\n", "invalid JSON"},
		{"{\"text\":5}\n", "'text' must be a string"}, {"{\"text\":\"a\",\"text\":\"b\"}\n", "invalid JSON"},
		{"{\"text\":\"\xff\"}\n", "invalid JSON"}, {"{\"text\":\"\\ud800\"}\n", "invalid JSON"}, {"{\"text\":\"\\u0000\"}\n", "invalid JSON"},
		{"\xef\xbb\xbf{\"text\":\"a\"}\n", "byte order mark"}, {"{\"prompt\":5,\"completion\":\"a\"}\n", "'prompt' must be a string"},
		{"{\"instruction\":\"a\",\"output\":5}\n", "'output' must be a string"}, {"{\"conversations\":[]}\n", "conversations must be"},
		{"{\"conversations\":[{\"from\":\"who\",\"value\":\"a\"}]}\n", "unknown 'from'"},
		{"{\"prompt\":[],\"completion\":[]}\n", "completion must not be empty"},
	};
	struct fixture f;

	(void)state;
	setup(&f, CHATML, false);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
		load_bad(&f, rows[i].line, rows[i].reason);
	teardown(&f);
}

static void all_faults_are_collected(void **state)
{
	struct fixture f;
	struct ql_buf b = {0};

	(void)state;
	setup(&f, CHATML, false);
	for (int i = 1; i <= 60; i++)
		assert_int_equal(ql_buf_addf(&b, i % 2 == 0 ? "{\"text\":%d}\n" : "{\"text\":\"%d\"}\n", i), QL_OK);
	assert_int_equal(load_bytes(&f, b.data, b.len), QL_EFORMAT);
	assert_string_equal(f.e.param, "invalid_training_file");
	assert_int_equal(f.rep.lines, 60);
	assert_int_equal(f.rep.n_faults, 30);
	for (int i = 0; i < QL_DATASET_FAULTS_REPORTED; i++)
		assert_int_equal(f.rep.faults[i].line, 2 * i + 2);
	assert_non_null(strstr(f.e.message, "line 2: "));
	ql_buf_free(&b);
	teardown(&f);
}

static void files(void **state)
{
	const char *data = "{\"text\":\"ab\"}\r\n\r\n   \n{\"text\":\"cd\"}";
	char want[65], *big;
	struct fixture f;
	size_t n;

	(void)state;
	setup(&f, CHATML, false);
	load_ok(&f, data);
	ql_sha256_hex(data, strlen(data), want);
	assert_string_equal(f.rep.sha256, want);
	assert_int_equal(ql_dataset_count(f.d), 2);
	assert_int_equal(ql_dataset_get(f.d, 1).line, 4);
	assert_int_equal(f.rep.tokens, 6);
	assert_int_equal(f.rep.target_tokens, 4);
	assert_int_equal(load_bytes(&f, "", 0), QL_EFORMAT);
	assert_string_equal(f.e.param, "invalid_n_examples");
	f.o.min_examples = 3;
	assert_int_equal(load_bytes(&f, data, strlen(data)), QL_EFORMAT);
	assert_string_equal(f.e.param, "invalid_n_examples");
	f.o.min_examples = 1;
	f.o.max_seq_length = 16;
	/* a line at the limit, and one byte above */
	for (int over = 0; over < 2; over++) {
		n = QL_DATASET_LINE_MAX + (size_t)over;
		big = malloc(n + 1);
		assert_non_null(big);
		memset(big, 'x', n);
		memcpy(big, "{\"text\":\"", 9);
		memcpy(big + n - 2, "\"}\n", 3);
		assert_int_equal(load_bytes(&f, big, n + 1), over ? QL_EFORMAT : QL_OK);
		assert_true(!over || strstr(f.rep.faults[0].reason, "longer than") != NULL);
		free(big);
	}
	f.o.max_seq_length = 1;
	assert_int_equal(load_bytes(&f, data, strlen(data)), QL_EINVAL);
	teardown(&f);
}

static int always(void *ctx) { return ++*(int *)ctx > 0; }

static void cancelled(void **state)
{
	struct ql_buf b = {0};
	struct fixture f;
	int asked = 0;

	(void)state;
	setup(&f, CHATML, false);
	for (int i = 0; i < 100; i++)
		assert_int_equal(ql_buf_adds(&b, "{\"text\":\"ab\"}\n"), QL_OK);
	f.o.cancelled = always;
	f.o.cancel_ctx = &asked;
	assert_int_equal(load_bytes(&f, b.data, b.len), QL_ECANCELLED);
	assert_int_equal(asked, 1);
	ql_buf_free(&b);
	teardown(&f);
}

#define PAIR(good, bad) "{\"input\":{\"messages\":[" M("user", "a") "]},\"preferred_output\":[" good "],\"non_preferred_output\":[" bad "]}\n"

/* Pairs are checked, refused for training with one reason, and shown. */
static void preference(void **state)
{
	static const struct {
		const char *line, *reason;
	} rows[] = {
		{PAIR(M("assistant", "b"), M("assistant", "c")), "there is no DPO"},
		{"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}\n", "there is no DPO"},
		{"{\"prompt\":[" M("user", "a") "],\"chosen\":[" M("assistant", "b") "],\"rejected\":[" M("assistant", "c") "]}\n", "there is no DPO"},
		{"{\"input\":{\"messages\":[" M("user", "a") "]},\"preferred_completion\":[" M("assistant", "b") "],"
		 "\"non_preferred_completion\":[" M("assistant", "c") "]}\n", "there is no DPO"},
		{PAIR(M("assistant", "b"), M("assistant", "b")), "is the same as"},
		{PAIR(M("user", "b"), M("assistant", "c")), "no assistant message"},
		{PAIR(M("assistant", "b") "," M("user", "x"), M("assistant", "c")), "must end with an assistant message"},
		{PAIR("", M("assistant", "c")), "non-empty list"},
		{PAIR("{\"role\":\"robot\",\"content\":\"b\"}", M("assistant", "c")), "messages[1].role"},
		{"{\"input\":{\"messages\":[]},\"preferred_output\":[],\"non_preferred_output\":[1]}\n", "'input' must be"},
		{"{\"input\":5,\"preferred_output\":[],\"non_preferred_output\":[1]}\n", "'input' must be"},
		{"{\"input\":{\"messages\":[]},\"preferred_output\":[]}\n", "'non_preferred_output' is missing"},
		{"{\"preferred_output\":[],\"preferred_completion\":[],\"non_preferred_output\":[]}\n", "mean the same"},
		{"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":[]}\n", "'rejected' must be a string"},
		{"{\"chosen\":\"b\",\"rejected\":\"c\"}\n", "'prompt' must be"},
	};
	const char *data = PAIR(M("assistant", "b"), M("assistant", "c")) "{\"prompt\":\"p\",\"chosen\":\"b\",\"rejected\":\"c\"}\n"
			   "{\"chosen\":\"b\",\"rejected\":\"c\"}\n";
	struct fixture f;
	json_t *p = NULL, *list, *x;
	char name[64];
	int dir;

	(void)state;
	setup(&f, CHATML, false);
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		load_bad(&f, rows[i].line, rows[i].reason);
		assert_string_equal(f.rep.kind, "preference");
	}
	dir = write_file(data, strlen(data), name);
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 10, 10000, &f.e), QL_OK);
	list = json_object_get(p, "examples");
	assert_int_equal(json_array_size(list), 3);
	x = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(x, "prompt")), S "user\na" E "\n" S "assistant\n");
	assert_string_equal(json_string_value(json_object_get(x, "preferred")), "b" E "\n");
	assert_string_equal(json_string_value(json_object_get(x, "non_preferred")), "c" E "\n");
	x = json_array_get(list, 1);
	assert_string_equal(json_string_value(json_object_get(x, "prompt")), "p");
	assert_string_equal(json_string_value(json_object_get(x, "non_preferred")), "c");
	assert_non_null(json_object_get(json_array_get(list, 2), "error"));
	json_decref(p);
	(void)unlinkat(dir, name, 0);
	(void)close(dir);
	teardown(&f);
}

static void preview(void **state)
{
	const char *data = "{\"messages\":[" M("user", "a") "," M("assistant", "\\u00e9") "]}\n{\"messages\":5}\n\n" LINE "\n";
	struct fixture f;
	char name[64];
	json_t *p = NULL, *list, *x, *rep;
	int dir;

	(void)state;
	setup(&f, CHATML, false);
	dir = write_file(data, strlen(data), name);
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 3, 10000, &f.e), QL_OK);
	list = json_object_get(p, "examples");
	assert_int_equal(json_array_size(list), 3);
	assert_true(json_is_false(json_object_get(p, "has_more")));
	x = json_array_get(list, 0);
	assert_string_equal(json_string_value(json_object_get(x, "text")), S "user\na" E "\n" S "assistant\n\xc3\xa9" E "\n");
	x = json_array_get(json_object_get(x, "trained"), 0);
	assert_string_equal(json_string_value(json_object_get(x, "text")), "\xc3\xa9" E);
	assert_non_null(json_object_get(json_array_get(list, 1), "error"));
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 2), "line")), 4);
	json_decref(p);
	/* as many lines as asked for, as many bytes as allowed */
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 2, 10000, &f.e), QL_OK);
	assert_int_equal(json_array_size(json_object_get(p, "examples")), 2);
	assert_true(json_is_true(json_object_get(p, "has_more")));
	json_decref(p);
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 3, 600, &f.e), QL_OK);
	assert_int_equal(json_array_size(json_object_get(p, "examples")), 2);
	assert_true(json_is_true(json_object_get(p, "has_more")));
	json_decref(p);
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 3, 100, &f.e), QL_OK);
	list = json_object_get(p, "examples");
	assert_int_equal(json_array_size(list), 1);
	assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "error")), "too long to be shown");
	json_decref(p);
	/* a truncated line shows what is left of it */
	f.o.max_seq_length = 8;
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 1, 10000, &f.e), QL_OK);
	x = json_array_get(json_object_get(p, "examples"), 0);
	assert_string_equal(json_string_value(json_object_get(x, "text")), S "user\na" E);
	assert_true(json_is_true(json_object_get(x, "dropped")));
	json_decref(p);
	assert_int_equal(ql_dataset_preview(&p, dir, name, &f.o, 0, 10000, &f.e), QL_EINVAL);
	assert_int_equal(ql_dataset_preview(&p, dir, "missing", &f.o, 1, 10000, &f.e), QL_ENOTFOUND);
	(void)unlinkat(dir, name, 0);
	(void)close(dir);
	rep = ql_dataset_report_json(&f.rep);
	assert_non_null(json_object_get(rep, "target_share"));
	json_decref(rep);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(kinds), cmocka_unit_test(tools), cmocka_unit_test(message_faults),
				       cmocka_unit_test(line_faults), cmocka_unit_test(all_faults_are_collected), cmocka_unit_test(files),
				       cmocka_unit_test(cancelled), cmocka_unit_test(preference), cmocka_unit_test(preview)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
