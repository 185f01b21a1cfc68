/* messages.c - see messages.h. */
#include "api/messages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/fields.h"
#include "core/base/buf.h"
#include "core/base/json.h"
#include "core/base/limits.h"

#define PARTS_MAX 256
#define TOOL_CALLS_MAX 128
#define NAME_MAX_BYTES 256

static const char *const roles[] = {"developer", "system", "user", "assistant", "tool", "function", NULL};

struct message {
	struct ql_fstr role, name, tool_call_id;
	const json_t *content, *tool_calls, *function_call;
};

static const struct ql_field message_fields[] = {
	{.name = "role", .type = QL_FT_STR, .flags = QL_FF_REQUIRED, .words = roles, .offset = offsetof(struct message, role)},
	{.name = "name", .type = QL_FT_STR, .imin = 1, .imax = NAME_MAX_BYTES, .offset = offsetof(struct message, name)},
	{.name = "tool_call_id", .type = QL_FT_STR, .imin = 1, .imax = NAME_MAX_BYTES,
	 .offset = offsetof(struct message, tool_call_id)},
	{.name = "content", .type = QL_FT_ANY, .offset = offsetof(struct message, content)},
	{.name = "tool_calls", .type = QL_FT_ARR, .imin = 0, .imax = TOOL_CALLS_MAX,
	 .offset = offsetof(struct message, tool_calls)},
	{.name = "function_call", .type = QL_FT_OBJ, .offset = offsetof(struct message, function_call)},
};

/* One text part at `where` into text. */
static int read_part(const json_t *part, const char *where, struct ql_buf *text, struct ql_fault *f)
{
	const json_t *type = json_object_get(part, "type"), *value = json_object_get(part, "text");
	char param[80];

	if (!json_is_object(part))
		return ql_bad_value(f, where, "Invalid type for '%s': expected an object.", where);
	(void)snprintf(param, sizeof param, "%.70s.type", where);
	if (!json_is_string(type))
		return ql_bad_missing(f, param);
	if (strcmp(json_string_value(type), "text") != 0)
		return ql_bad_unsupported(f, param, "Content of type '%.40s' is not supported; only 'text' is.",
					  json_string_value(type));
	(void)snprintf(param, sizeof param, "%.70s.text", where);
	if (!json_is_string(value))
		return ql_bad_value(f, param, "Invalid type for '%s': expected a string.", param);
	if (ql_buf_add(text, json_string_value(value), json_string_length(value)) != QL_OK)
		return ql_bad_internal(f);
	return QL_OK;
}

/* The content as one JSON string (new reference). */
static int read_content(const json_t *content, const char *where, json_t **out, struct ql_fault *f)
{
	struct ql_buf text = {0};
	const json_t *part;
	size_t i;
	int rc = QL_OK;

	if (json_is_string(content)) {
		*out = json_incref((json_t *)(uintptr_t)content);
		return QL_OK;
	}
	if (!json_is_array(content))
		return ql_bad_value(f, where, "Invalid type for '%s': expected a string or an array of text parts.", where);
	if (json_array_size(content) < 1 || json_array_size(content) > PARTS_MAX)
		return ql_bad_value(f, where, "Invalid value for '%s': must have 1 to %d parts.", where, PARTS_MAX);
	json_array_foreach((json_t *)(uintptr_t)content, i, part) {
		char at[72];

		(void)snprintf(at, sizeof at, "%.44s[%zu]", where, i);
		rc = read_part(part, at, &text, f);
		if (rc != QL_OK)
			break;
	}
	if (rc == QL_OK) {
		*out = json_stringn(text.len == 0 ? "" : text.data, text.len);
		if (*out == NULL)
			rc = ql_bad_internal(f);
	}
	ql_buf_free(&text);
	return rc;
}

static int check_tool_calls(const json_t *calls, const char *prefix, struct ql_fault *f)
{
	const json_t *call;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)calls, i, call) {
		const json_t *fn = json_object_get(call, "function");
		char param[64];

		(void)snprintf(param, sizeof param, "%.30stool_calls[%zu]", prefix, i);
		if (!json_is_string(json_object_get(call, "id")))
			return ql_bad_value(f, param, "Invalid value for '%s': a tool call needs an id.", param);
		if (!json_is_object(fn) || !json_is_string(json_object_get(fn, "name")) ||
		    !json_is_string(json_object_get(fn, "arguments")))
			return ql_bad_value(f, param,
					    "Invalid value for '%s': a tool call needs function {name, arguments}, both strings.",
					    param);
	}
	return QL_OK;
}

static int put_message(const struct message *m, json_t *content, json_t **out)
{
	bool developer = strcmp(m->role.v, "developer") == 0;
	json_t *v = json_pack("{s:s,s:O}", "role", developer ? "system" : m->role.v, "content", content);
	int bad = v == NULL;

	if (!bad && m->name.v != NULL)
		bad = json_object_set_new(v, "name", json_string(m->name.v));
	if (!bad && m->tool_call_id.v != NULL)
		bad = json_object_set_new(v, "tool_call_id", json_string(m->tool_call_id.v));
	if (!bad && m->tool_calls != NULL && json_array_size(m->tool_calls) > 0)
		bad = json_object_set(v, "tool_calls", (json_t *)(uintptr_t)m->tool_calls);
	if (bad) {
		json_decref(v);
		return QL_ENOMEM;
	}
	*out = v;
	return QL_OK;
}

static int read_message(const json_t *in, size_t i, json_t **out, struct ql_fault *f)
{
	struct message m = {0};
	json_t *content = NULL;
	char prefix[32], where[48];
	bool calls;
	int rc;

	(void)snprintf(prefix, sizeof prefix, "messages[%zu].", i);
	if (!json_is_object(in)) {
		(void)snprintf(prefix, sizeof prefix, "messages[%zu]", i);
		return ql_bad_value(f, prefix, "Invalid type for '%s': expected an object.", prefix);
	}
	rc = ql_fields_read(in, message_fields, sizeof message_fields / sizeof message_fields[0], prefix, &m, f);
	if (rc == QL_OK && m.tool_calls != NULL)
		rc = check_tool_calls(m.tool_calls, prefix, f);
	if (rc != QL_OK)
		return rc;
	if (strcmp(m.role.v, "tool") == 0 && m.tool_call_id.v == NULL) {
		(void)snprintf(where, sizeof where, "%stool_call_id", prefix);
		return ql_bad_missing(f, where);
	}
	calls = strcmp(m.role.v, "assistant") == 0 &&
		((m.tool_calls != NULL && json_array_size(m.tool_calls) > 0) || m.function_call != NULL);
	(void)snprintf(where, sizeof where, "%scontent", prefix);
	if (m.content == NULL) {
		if (!calls)
			return ql_bad_missing(f, where);
		content = json_null();
	} else {
		rc = read_content(m.content, where, &content, f);
		if (rc != QL_OK)
			return rc;
	}
	rc = put_message(&m, content, out);
	json_decref(content);
	return rc == QL_OK ? QL_OK : ql_bad_internal(f);
}

int ql_messages_read(const json_t *in, json_t **out, struct ql_fault *f)
{
	const json_t *message;
	json_t *list, *v;
	size_t i;
	int rc = QL_OK;

	*out = NULL;
	if (in == NULL || json_is_null(in))
		return ql_bad_missing(f, "messages");
	if (!json_is_array(in))
		return ql_bad_value(f, "messages", "Invalid type for 'messages': expected an array.");
	if (json_array_size(in) < 1 || json_array_size(in) > QL_MESSAGES_MAX)
		return ql_bad_value(f, "messages", "Invalid value for 'messages': must have 1 to %d elements, got %zu.",
				    QL_MESSAGES_MAX, json_array_size(in));
	list = json_array();
	if (list == NULL)
		return ql_bad_internal(f);
	json_array_foreach((json_t *)(uintptr_t)in, i, message) {
		rc = read_message(message, i, &v, f);
		if (rc == QL_OK && json_array_append_new(list, v) != 0)
			rc = ql_bad_internal(f);
		if (rc != QL_OK)
			break;
	}
	if (rc != QL_OK)
		json_decref(list);
	else
		*out = list;
	return rc;
}

/* none → *hide; auto → nothing; anything else is refused. */
static int read_choice(const json_t *body, const char *key, bool *hide, struct ql_fault *f)
{
	const json_t *v = json_object_get(body, key);
	const char *s = json_string_value(v);

	if (v == NULL || json_is_null(v) || (s != NULL && strcmp(s, "auto") == 0))
		return QL_OK;
	if (s != NULL && strcmp(s, "none") == 0) {
		*hide = true;
		return QL_OK;
	}
	if ((s != NULL && strcmp(s, "required") == 0) || json_is_object(v))
		return ql_bad_unsupported(f, key, "'%s' must be none or auto: calls cannot be forced.", key);
	return ql_bad_value(f, key, "Invalid value for '%s': must be none or auto.", key);
}

static int check_tool(const json_t *tool, size_t i, struct ql_fault *f)
{
	const char *type = json_string_value(json_object_get(tool, "type"));
	char param[48];

	(void)snprintf(param, sizeof param, "tools[%zu]", i);
	if (!json_is_object(tool))
		return ql_bad_value(f, param, "Invalid type for '%s': expected an object.", param);
	(void)snprintf(param, sizeof param, "tools[%zu].type", i);
	if (type == NULL)
		return ql_bad_missing(f, param);
	if (strcmp(type, "function") != 0)
		return ql_bad_unsupported(f, param, "Only tools of type 'function' are supported.");
	(void)snprintf(param, sizeof param, "tools[%zu].function.name", i);
	if (!json_is_string(json_object_get(json_object_get(tool, "function"), "name")))
		return ql_bad_missing(f, param);
	return QL_OK;
}

static int wrap_functions(const json_t *functions, json_t **out, struct ql_fault *f)
{
	json_t *list = json_array(), *fn;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)functions, i, fn)
		if (json_array_append_new(list, json_pack("{s:s,s:O}", "type", "function", "function", fn)) != 0)
			break;
	if (json_array_size(list) != json_array_size(functions)) {
		json_decref(list);
		return ql_bad_internal(f);
	}
	*out = list;
	return QL_OK;
}

int ql_tools_read(const json_t *body, json_t **out, struct ql_fault *f)
{
	struct {
		const json_t *tools, *functions;
		struct ql_fbool parallel;
	} q = {0};
	const struct ql_field fields[] = {
		{.name = "tools", .type = QL_FT_ARR, .imin = 0, .imax = QL_TOOLS_MAX, .offset = 0},
		{.name = "functions", .type = QL_FT_ARR, .imin = 0, .imax = QL_TOOLS_MAX,
		 .offset = (size_t)((char *)&q.functions - (char *)&q)},
		{.name = "parallel_tool_calls", .type = QL_FT_BOOL, .offset = (size_t)((char *)&q.parallel - (char *)&q)},
	};
	json_t *list = NULL, *tool;
	bool hide = false;
	size_t i;
	int rc;

	*out = NULL;
	rc = ql_fields_read(body, fields, 3, "", &q, f);
	if (rc == QL_OK)
		rc = read_choice(body, "tool_choice", &hide, f);
	if (rc == QL_OK)
		rc = read_choice(body, "function_call", &hide, f);
	if (rc != QL_OK)
		return rc;
	if (q.tools != NULL && json_array_size(q.tools) > 0)
		list = json_incref((json_t *)(uintptr_t)q.tools);
	else if (q.functions != NULL && json_array_size(q.functions) > 0)
		rc = wrap_functions(q.functions, &list, f);
	if (rc != QL_OK || list == NULL)
		return rc;
	json_array_foreach(list, i, tool) {
		rc = check_tool(tool, i, f);
		if (rc != QL_OK)
			break;
	}
	if (rc != QL_OK || hide)
		json_decref(list);
	else
		*out = list;
	return rc;
}

struct template_request {
	struct ql_fbool add, cont;
	const json_t *kwargs;
};

static const struct ql_field template_fields[] = {
	{.name = "add_generation_prompt", .type = QL_FT_BOOL, .offset = offsetof(struct template_request, add)},
	{.name = "continue_final_message", .type = QL_FT_BOOL, .offset = offsetof(struct template_request, cont)},
	{.name = "chat_template_kwargs", .type = QL_FT_OBJ, .offset = offsetof(struct template_request, kwargs)},
};

static int check_kwargs(const json_t *kwargs, struct ql_fault *f)
{
	char *text;
	size_t len;

	if (kwargs == NULL)
		return QL_OK;
	if (json_object_get(kwargs, "chat_template") != NULL)
		return ql_bad_unsupported(f, "chat_template_kwargs.chat_template",
					  "A template cannot be given with a request.");
	text = ql_json_text(kwargs);
	len = text == NULL ? 0 : strlen(text);
	free(text);
	if (text == NULL)
		return ql_bad_internal(f);
	if (len > QL_TMPL_KWARGS_MAX)
		return ql_bad_value(f, "chat_template_kwargs", "'chat_template_kwargs' has more than %zu bytes.",
				    (size_t)QL_TMPL_KWARGS_MAX);
	return QL_OK;
}

int ql_template_read(const json_t *body, json_t *frame, struct ql_fault *f)
{
	struct template_request q = {.add = {false, true}};
	json_t *messages = NULL, *tools = NULL;
	int rc, bad;

	rc = ql_fields_read(body, template_fields, 3, "", &q, f);
	if (rc == QL_OK)
		rc = check_kwargs(q.kwargs, f);
	if (rc == QL_OK && q.cont.v && q.add.set && q.add.v)
		rc = ql_bad_value(f, "continue_final_message",
				  "'continue_final_message' and 'add_generation_prompt' cannot both be true.");
	if (rc == QL_OK)
		rc = ql_messages_read(json_object_get(body, "messages"), &messages, f);
	if (rc == QL_OK)
		rc = ql_tools_read(body, &tools, f);
	if (rc != QL_OK) {
		json_decref(messages);
		return rc;
	}
	bad = json_object_set_new(frame, "messages", messages);
	if (tools != NULL)
		bad |= json_object_set_new(frame, "tools", tools);
	if (q.kwargs != NULL)
		bad |= json_object_set(frame, "chat_template_kwargs", (json_t *)(uintptr_t)q.kwargs);
	bad |= json_object_set_new(frame, "add_generation_prompt", json_boolean(q.add.v && !q.cont.v));
	bad |= json_object_set_new(frame, "continue_final_message", json_boolean(q.cont.v));
	return bad ? ql_bad_internal(f) : QL_OK;
}
