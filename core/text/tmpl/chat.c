/* chat.c - ql_chat_normalize: messages as clients write them → messages as this template reads them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/tmpl.h"

#define PARTS_MAX 256

static int bad(struct ql_err *e, size_t i, const char *key, const char *what)
{
	char param[64];

	(void)snprintf(param, sizeof param, "messages[%zu]%s%s", i, *key != '\0' ? "." : "", key);
	return ql_err_param(e, QL_EINVAL, param, "%s: %s", param, what);
}

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "messages"); }

/* Checks the parts; joins their texts into *text. */
static int join_parts(const json_t *parts, size_t i, struct ql_buf *text, struct ql_err *e)
{
	size_t n = json_array_size(parts);

	if (n > PARTS_MAX)
		return bad(e, i, "content", "more than 256 parts");
	for (size_t k = 0; k < n; k++) {
		const json_t *part = json_array_get(parts, k);
		const char *type = json_string_value(json_object_get(part, "type"));
		const json_t *t = json_object_get(part, "text");

		if (!json_is_object(part) || type == NULL)
			return bad(e, i, "content", "each part must be an object with a type");
		if (strcmp(type, "text") != 0)
			return bad(e, i, "content", "only parts of type text are supported");
		if (!json_is_string(t))
			return bad(e, i, "content", "a text part needs a string 'text'");
		if (ql_buf_add(text, json_string_value(t), json_string_length(t)) != QL_OK)
			return nomem(e);
	}
	return QL_OK;
}

/* Sets the copy's content; takes the reference to v. */
static int put(json_t *copy, const char *key, json_t *v, struct ql_err *e)
{
	return v == NULL || json_object_set_new(copy, key, v) != 0 ? nomem(e) : QL_OK;
}

static int fix_content(const struct ql_tmpl *t, json_t *copy, size_t i, struct ql_err *e)
{
	const json_t *c = json_object_get(copy, "content");
	struct ql_buf text = {0};
	int rc = QL_OK;

	if (json_is_array(c)) {
		rc = join_parts(c, i, &text, e);
		if (rc == QL_OK && !t->takes_parts)
			rc = put(copy, "content", json_stringn(text.data == NULL ? "" : text.data, text.len), e);
	} else if (json_is_string(c) && t->needs_parts) {
		rc = put(copy, "content", json_pack("[{s:s, s:s%}]", "type", "text", "text", json_string_value(c),
						    json_string_length(c)), e);
	} else if (c != NULL && !json_is_string(c) && !json_is_null(c)) {
		rc = bad(e, i, "content", "must be a string, null or a list of text parts");
	}
	ql_buf_free(&text);
	return rc;
}

static int args_to_object(json_t *fn, const json_t *args, size_t i, struct ql_err *e)
{
	json_t *v = NULL;
	struct ql_err why = {0};
	int rc;

	if (json_string_length(args) == 0)
		return put(fn, "arguments", json_object(), e);
	rc = ql_json_parse(json_string_value(args), json_string_length(args), QL_DATASET_LINE_MAX, &v, &why);
	if (rc == QL_ENOMEM)
		return nomem(e);
	if (rc != QL_OK || !json_is_object(v)) {
		json_decref(v);
		return bad(e, i, "tool_calls", "function.arguments must be the text of a JSON object");
	}
	return put(fn, "arguments", v, e);
}

static int args_to_text(json_t *fn, const json_t *args, struct ql_err *e)
{
	char *text = json_dumps(args, JSON_ENCODE_ANY);
	int rc = text == NULL ? nomem(e) : put(fn, "arguments", json_string(text), e);

	free(text);
	return rc;
}

static int fix_calls(const struct ql_tmpl *t, json_t *copy, size_t i, struct ql_err *e)
{
	json_t *calls = json_object_get(copy, "tool_calls");
	int rc = QL_OK;

	if (calls == NULL || json_is_null(calls))
		return QL_OK;
	if (!json_is_array(calls))
		return bad(e, i, "tool_calls", "must be a list");
	for (size_t k = 0; k < json_array_size(calls) && rc == QL_OK; k++) {
		json_t *call = json_array_get(calls, k), *fn = json_object_get(call, "function"), *args;

		if (!json_is_object(fn) || !json_is_string(json_object_get(fn, "name")))
			return bad(e, i, "tool_calls", "each call needs a function with a name");
		args = json_object_get(fn, "arguments");
		if (args != NULL && !json_is_string(args) && !json_is_object(args) && !json_is_null(args))
			return bad(e, i, "tool_calls", "function.arguments must be a string or an object");
		if (json_is_string(args) && t->takes_object_args)
			rc = args_to_object(fn, args, i, e);
		else if (json_is_object(args) && !t->takes_object_args)
			rc = args_to_text(fn, args, e);
	}
	return rc;
}

static int fix_role(const struct ql_tmpl *t, json_t *copy, size_t i, struct ql_err *e)
{
	const char *role = json_string_value(json_object_get(copy, "role"));

	if (role == NULL)
		return bad(e, i, "role", "must be a string");
	if (strcmp(role, "developer") == 0 && !t->mentions_developer)
		return put(copy, "role", json_string("system"), e);
	return strcmp(role, "function") == 0 ? put(copy, "role", json_string("tool"), e) : QL_OK;
}

/* The message with thinking in front of everything and reasoning_content set. */
static int fix_reasoning(json_t **copy, struct ql_err *e)
{
	static const char *const fields[] = {"reasoning_content", "thinking", "reasoning"};
	json_t *r = NULL, *m;

	for (size_t k = 0; k < 3 && (r == NULL || json_is_null(r)); k++)
		r = json_object_get(*copy, fields[k]);
	if (r == NULL || json_is_null(r))
		return QL_OK;
	m = json_object();
	if (m == NULL || json_object_set(m, "thinking", r) != 0 || json_object_update(m, *copy) != 0 ||
	    json_object_set(m, "reasoning_content", r) != 0) {
		json_decref(m);
		return nomem(e);
	}
	json_decref(*copy);
	*copy = m;
	return QL_OK;
}

int ql_chat_normalize(const struct ql_tmpl *t, const json_t *messages, json_t **out, struct ql_err *e)
{
	size_t n = json_array_size(messages);
	json_t *list = json_array(), *copy = NULL;
	int rc = list == NULL ? nomem(e) : QL_OK;

	*out = NULL;
	if (rc == QL_OK && !json_is_array(messages))
		rc = ql_err_param(e, QL_EINVAL, "messages", "messages must be a list");
	if (rc == QL_OK && n > QL_MESSAGES_MAX)
		rc = ql_err_param(e, QL_ELIMIT, "messages", "%zu messages, more than the %d allowed", n, QL_MESSAGES_MAX);
	for (size_t i = 0; i < n && rc == QL_OK; i++) {
		const json_t *m = json_array_get(messages, i);

		if (!json_is_object(m)) {
			rc = bad(e, i, "", "must be an object");
			break;
		}
		copy = json_deep_copy(m);
		rc = copy == NULL ? nomem(e) : fix_role(t, copy, i, e);
		if (rc == QL_OK)
			rc = fix_content(t, copy, i, e);
		if (rc == QL_OK)
			rc = fix_calls(t, copy, i, e);
		if (rc == QL_OK)
			rc = fix_reasoning(&copy, e);
		if (rc == QL_OK && json_array_append(list, copy) != 0)
			rc = nomem(e);
		json_decref(copy);
	}
	if (rc != QL_OK) {
		json_decref(list);
		return rc;
	}
	*out = list;
	return QL_OK;
}
