/* messages.c - checks of messages, tools and template arguments of one line. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/text/data/data.h"

static int bad(struct ql_err *e, size_t i, const char *key, const char *what)
{
	char param[64];

	(void)snprintf(param, sizeof param, "messages[%zu]%s%s", i, *key != '\0' ? "." : "", key);
	return ql_err_param(e, QL_EINVAL, param, "%s: %s", param, what);
}

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset line"); }

static bool null_or_absent(const json_t *v) { return v == NULL || json_is_null(v); }

static int check_calls(const json_t *calls, size_t i, struct ql_err *e)
{
	if (!json_is_array(calls) || json_array_size(calls) == 0)
		return bad(e, i, "tool_calls", "must be a non-empty list");
	for (size_t k = 0; k < json_array_size(calls); k++) {
		const json_t *call = json_array_get(calls, k), *fn = json_object_get(call, "function");
		const json_t *type = json_object_get(call, "type"), *id = json_object_get(call, "id");
		const json_t *args = json_object_get(fn, "arguments");

		if (!json_is_object(call) || !json_is_object(fn))
			return bad(e, i, "tool_calls", "each call must be an object with a 'function'");
		if (!null_or_absent(type) && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
			return bad(e, i, "tool_calls", "type must be 'function'");
		if (!null_or_absent(id) && !json_is_string(id))
			return bad(e, i, "tool_calls", "id must be a string");
		if (!json_is_string(json_object_get(fn, "name")))
			return bad(e, i, "tool_calls", "function.name must be a string");
		if (!json_is_string(args) && !json_is_object(args))
			return bad(e, i, "tool_calls", "function.arguments must be a string of JSON");
	}
	return QL_OK;
}

static int check_content(const json_t *m, size_t i, bool assistant, struct ql_err *e)
{
	const json_t *c = json_object_get(m, "content");

	if (null_or_absent(c)) {
		if (assistant && (!null_or_absent(json_object_get(m, "tool_calls")) || json_is_string(json_object_get(m, "refusal"))))
			return QL_OK;
		return bad(e, i, "content", assistant ? "may be null only beside tool_calls" : "is missing or null");
	}
	if (json_is_string(c))
		return QL_OK;
	if (!json_is_array(c))
		return bad(e, i, "content", "must be a string or a list of text parts");
	for (size_t k = 0; k < json_array_size(c); k++) {
		const json_t *part = json_array_get(c, k);
		const char *type = json_string_value(json_object_get(part, "type"));

		if (!json_is_object(part) || type == NULL)
			return bad(e, i, "content", "each part must be an object with a type");
		if (strcmp(type, "text") != 0)
			return bad(e, i, "content", "only parts of type text are supported");
		if (!json_is_string(json_object_get(part, "text")))
			return bad(e, i, "content", "a text part needs a string 'text'");
	}
	return QL_OK;
}

/* weight 0 or 1; absent = 1. */
static int read_weight(const json_t *m, size_t i, bool assistant, bool *trained, struct ql_err *e)
{
	const json_t *w = json_object_get(m, "weight");

	*trained = assistant;
	if (w == NULL)
		return QL_OK;
	if (!assistant)
		return bad(e, i, "weight", "belongs to assistant messages only");
	if (!json_is_number(w) || (json_number_value(w) != 0 && json_number_value(w) != 1))
		return bad(e, i, "weight", "must be 0 or 1");
	*trained = json_number_value(w) == 1;
	return QL_OK;
}

static int optional_string(const json_t *m, size_t i, const char *key, struct ql_err *e)
{
	const json_t *v = json_object_get(m, key);

	return null_or_absent(v) || json_is_string(v) ? QL_OK : bad(e, i, key, "must be a string");
}

/* A call in the deprecated form: {"function_call": {"name", "arguments"}}. */
static int rewrite_function_call(json_t *copy, size_t i, struct ql_err *e)
{
	json_t *fc = json_object_get(copy, "function_call");

	if (null_or_absent(fc) || !null_or_absent(json_object_get(copy, "tool_calls")))
		return QL_OK;
	if (!json_is_object(fc) || !json_is_string(json_object_get(fc, "name")))
		return bad(e, i, "function_call", "must be an object with a name");
	if (json_object_set_new(copy, "tool_calls", json_pack("[{s:s, s:O}]", "type", "function", "function", fc)) != 0)
		return nomem(e);
	(void)json_object_del(copy, "function_call");
	return QL_OK;
}

static int one_message(const json_t *m, size_t i, struct sample *s, bool may_train, struct ql_err *e)
{
	static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function", NULL};
	static const char *const strings[] = {"name", "refusal", "reasoning_content", "reasoning", "thinking", "tool_call_id", NULL};
	const char *role = json_string_value(json_object_get(m, "role"));
	bool assistant, trained = false;
	json_t *copy;
	size_t k = 0;
	int rc;

	if (!json_is_object(m))
		return bad(e, i, "", "must be an object");
	if (role == NULL)
		return bad(e, i, "role", "must be a string");
	while (roles[k] != NULL && strcmp(roles[k], role) != 0)
		k++;
	if (roles[k] == NULL)
		return bad(e, i, "role", "must be system, developer, user, assistant, tool or function");
	assistant = strcmp(role, "assistant") == 0;
	copy = json_copy((json_t *)(uintptr_t)m);
	if (copy == NULL || json_array_append_new(s->messages, copy) != 0)
		return nomem(e);
	rc = assistant ? rewrite_function_call(copy, i, e) : QL_OK;
	for (k = 0; rc == QL_OK && strings[k] != NULL; k++)
		rc = optional_string(copy, i, strings[k], e);
	if (rc == QL_OK)
		rc = check_content(copy, i, assistant, e);
	if (rc == QL_OK && !null_or_absent(json_object_get(copy, "tool_calls")))
		rc = assistant ? check_calls(json_object_get(copy, "tool_calls"), i, e)
			       : bad(e, i, "tool_calls", "belongs to assistant messages only");
	if (rc == QL_OK)
		rc = read_weight(copy, i, assistant, &trained, e);
	(void)json_object_del(copy, "weight");
	s->trained[i] = trained && may_train;
	if (rc == QL_OK && null_or_absent(json_object_get(copy, "content")) && json_is_string(json_object_get(copy, "refusal")) &&
	    null_or_absent(json_object_get(copy, "tool_calls")) &&
	    json_object_set(copy, "content", json_object_get(copy, "refusal")) != 0)
		rc = nomem(e);
	return rc;
}

int data_messages(const json_t *messages, size_t first_trained, struct sample *s, struct ql_err *e)
{
	size_t n = json_array_size(messages), last = 0;
	bool any = false;
	int rc = QL_OK;

	if (!json_is_array(messages) || n == 0)
		return ql_err_param(e, QL_EINVAL, "messages", "messages must be a non-empty list");
	if (n > QL_MESSAGES_MAX)
		return ql_err_param(e, QL_ELIMIT, "messages", "%zu messages, more than the %d allowed", n, QL_MESSAGES_MAX);
	s->messages = json_array();
	s->trained = calloc(n, 1);
	if (s->messages == NULL || s->trained == NULL)
		return nomem(e);
	for (size_t i = 0; i < n && rc == QL_OK; i++)
		rc = one_message(json_array_get(messages, i), i, s, i >= first_trained, e);
	if (rc != QL_OK)
		return rc;
	for (size_t i = 0; i < n; i++) {
		any |= s->trained[i];
		if (strcmp(json_string_value(json_object_get(json_array_get(s->messages, i), "role")), "assistant") == 0)
			last = i + 1;
	}
	if (last == 0)
		return ql_err_param(e, QL_EINVAL, "messages", "no assistant message");
	if (!any)
		return ql_err_param(e, QL_EINVAL, "messages", "no assistant message with weight 1");
	s->trailing_dropped = last < n;
	while (json_array_size(s->messages) > last)
		(void)json_array_remove(s->messages, json_array_size(s->messages) - 1);
	return QL_OK;
}

static int check_tool(const json_t *t, size_t i, struct ql_err *e)
{
	const json_t *fn = json_object_get(t, "function"), *type = json_object_get(t, "type");
	char param[32];

	(void)snprintf(param, sizeof param, "tools[%zu]", i);
	if (!json_is_object(t) || !json_is_object(fn) || !json_is_string(json_object_get(fn, "name")))
		return ql_err_param(e, QL_EINVAL, param, "%s: must be an object with a function that has a name", param);
	if (!null_or_absent(type) && (!json_is_string(type) || strcmp(json_string_value(type), "function") != 0))
		return ql_err_param(e, QL_EINVAL, param, "%s: type must be 'function'", param);
	return QL_OK;
}

int data_tools(const json_t *tools, const json_t *functions, struct sample *s, struct ql_err *e)
{
	const json_t *list = null_or_absent(tools) ? functions : tools;
	const char *key = list == tools ? "tools" : "functions";

	if (null_or_absent(list))
		return QL_OK;
	if (!json_is_array(list))
		return ql_err_param(e, QL_EINVAL, key, "%s must be a list", key);
	if (json_array_size(list) > QL_TOOLS_MAX)
		return ql_err_param(e, QL_ELIMIT, key, "%zu tools, more than the %d allowed", json_array_size(list), QL_TOOLS_MAX);
	if (json_array_size(list) == 0)
		return QL_OK;
	s->tools = json_array();
	for (size_t i = 0; i < json_array_size(list) && s->tools != NULL; i++) {
		json_t *v = json_array_get(list, i);

		if (list == functions)
			v = json_pack("{s:s, s:O}", "type", "function", "function", v);
		else
			json_incref(v);
		if (v == NULL || json_array_append_new(s->tools, v) != 0)
			return nomem(e);
		if (check_tool(v, i, e) != QL_OK)
			return QL_EINVAL;
	}
	return s->tools == NULL ? nomem(e) : QL_OK;
}

int data_kwargs(const json_t *kwargs, json_t **out, struct ql_err *e)
{
	static const char *const ours[] = {"messages", "tools", "add_generation_prompt", "continue_final_message"};
	char *text;
	size_t len;

	*out = NULL;
	if (null_or_absent(kwargs))
		return QL_OK;
	if (!json_is_object(kwargs))
		return ql_err_param(e, QL_EINVAL, "chat_template_kwargs", "chat_template_kwargs must be an object");
	for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
		if (json_object_get(kwargs, ours[i]) != NULL)
			return ql_err_param(e, QL_EINVAL, "chat_template_kwargs", "chat_template_kwargs must not set '%s'", ours[i]);
	text = ql_json_text(kwargs);
	if (text == NULL)
		return nomem(e);
	len = strlen(text);
	free(text);
	if (len > QL_TMPL_KWARGS_MAX)
		return ql_err_param(e, QL_ELIMIT, "chat_template_kwargs", "chat_template_kwargs of %zu bytes, more than the %zu allowed",
				    len, QL_TMPL_KWARGS_MAX);
	*out = json_incref((json_t *)(uintptr_t)kwargs);
	return QL_OK;
}
