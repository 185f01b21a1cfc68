/* sharegpt.c - {"conversations": [{"from", "value"}], "system"?, "tools"?} → messages. */
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/text/data/data.h"

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset line"); }

static int bad(struct ql_err *e, size_t i, const char *what)
{
	char param[48];

	(void)snprintf(param, sizeof param, "conversations[%zu]", i);
	return ql_err_param(e, QL_EINVAL, param, "%s: %s", param, what);
}

static const char *role_of(const char *from)
{
	static const struct {
		const char *from, *role;
	} map[] = {{"human", "user"}, {"user", "user"}, {"gpt", "assistant"}, {"assistant", "assistant"},
		   {"chatgpt", "assistant"}, {"bing", "assistant"}, {"system", "system"}, {"tool", "tool"},
		   {"observation", "tool"}, {"function_response", "tool"}, {"function_call", "call"}};

	for (size_t i = 0; i < sizeof map / sizeof map[0]; i++)
		if (strcmp(map[i].from, from) == 0)
			return map[i].role;
	return NULL;
}

/* value of a function_call: {"name", "arguments"} as JSON text. */
static int call_message(const json_t *value, size_t i, json_t **out, struct ql_err *e)
{
	struct ql_err why = {0};
	json_t *fn = NULL;
	int rc = ql_json_parse(json_string_value(value), json_string_length(value), QL_DATASET_LINE_MAX, &fn, &why);

	if (rc == QL_OK && json_is_object(fn) && json_is_string(json_object_get(fn, "name")) &&
	    (json_is_string(json_object_get(fn, "arguments")) || json_is_object(json_object_get(fn, "arguments"))))
		*out = json_pack("{s:s, s:n, s:[{s:s, s:O}]}", "role", "assistant", "content", "tool_calls", "type", "function",
				 "function", fn);
	else
		rc = bad(e, i, "a function_call's value must be JSON text with name and arguments");
	json_decref(fn);
	return rc != QL_OK ? rc : *out == NULL ? nomem(e) : QL_OK;
}

static int one_turn(const json_t *turn, size_t i, json_t *messages, struct ql_err *e)
{
	const char *from = json_string_value(json_object_get(turn, "from"));
	const json_t *value = json_object_get(turn, "value"), *weight = json_object_get(turn, "weight");
	const char *role;
	json_t *m = NULL;
	int rc = QL_OK;

	if (!json_is_object(turn) || from == NULL || !json_is_string(value))
		return bad(e, i, "must be an object with strings 'from' and 'value'");
	role = role_of(from);
	if (role == NULL)
		return bad(e, i, "unknown 'from'");
	if (strcmp(role, "call") == 0)
		rc = call_message(value, i, &m, e);
	else
		m = json_pack("{s:s, s:O}", "role", role, "content", value);
	if (rc == QL_OK && m == NULL)
		rc = nomem(e);
	if (rc == QL_OK && weight != NULL && json_object_set(m, "weight", (json_t *)(uintptr_t)weight) != 0)
		rc = nomem(e);
	if (rc == QL_OK && json_array_append(messages, m) != 0)
		rc = nomem(e);
	json_decref(m);
	return rc;
}

static int sharegpt_tools(const json_t *tools, struct sample *s, struct ql_err *e)
{
	struct ql_err why = {0};
	json_t *v = NULL;
	int rc;

	if (!json_is_string(tools))
		return data_tools(tools, NULL, s, e);
	if (json_string_length(tools) == 0)
		return QL_OK;
	rc = ql_json_parse(json_string_value(tools), json_string_length(tools), QL_DATASET_LINE_MAX, &v, &why);
	if (rc != QL_OK)
		return ql_err_param(e, QL_EINVAL, "tools", "tools: %s", why.message);
	/* a list of tools, or of bare functions */
	if (json_is_array(v) && json_array_size(v) > 0 && json_object_get(json_array_get(v, 0), "function") == NULL)
		rc = data_tools(NULL, v, s, e);
	else
		rc = data_tools(v, NULL, s, e);
	json_decref(v);
	return rc;
}

int data_sharegpt(const json_t *line, struct sample *s, struct ql_err *e)
{
	const json_t *turns = json_object_get(line, "conversations"), *system = json_object_get(line, "system");
	json_t *messages = json_array();
	size_t n = json_array_size(turns);
	int rc = messages == NULL ? nomem(e) : QL_OK;

	if (rc == QL_OK && (!json_is_array(turns) || n == 0))
		rc = ql_err_param(e, QL_EINVAL, "conversations", "conversations must be a non-empty list");
	if (rc == QL_OK && system != NULL && !json_is_null(system) && !json_is_string(system))
		rc = ql_err_param(e, QL_EINVAL, "system", "system must be a string");
	if (rc == QL_OK && json_string_length(system) > 0 &&
	    json_array_append_new(messages, json_pack("{s:s, s:O}", "role", "system", "content", system)) != 0)
		rc = nomem(e);
	for (size_t i = 0; i < n && rc == QL_OK; i++)
		rc = one_turn(json_array_get(turns, i), i, messages, e);
	if (rc == QL_OK)
		rc = sharegpt_tools(json_object_get(line, "tools"), s, e);
	if (rc == QL_OK)
		rc = data_messages(messages, 0, s, e);
	json_decref(messages);
	return rc;
}
