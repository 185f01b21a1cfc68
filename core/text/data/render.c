/* render.c - a conversation → text: the template's variables, as transformers passes them. */
#include "core/text/data/data.h"

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "conversation"); }

/* messages, tools, documents, add_generation_prompt and the keyword arguments. */
static json_t *variables(const struct data_render *r, json_t *messages, bool add_generation_prompt)
{
	json_t *vars = json_pack("{s:O, s:b, s:n}", "messages", messages, "add_generation_prompt", (int)add_generation_prompt,
				 "documents");

	if (vars == NULL)
		return NULL;
	if (json_object_set_new(vars, "tools", r->tools != NULL ? json_incref((json_t *)(uintptr_t)r->tools) : json_null()) != 0 ||
	    (r->kwargs != NULL && json_object_update(vars, (json_t *)(uintptr_t)r->kwargs) != 0)) {
		json_decref(vars);
		return NULL;
	}
	return vars;
}

int data_render(const struct data_render *r, size_t n, bool add_generation_prompt, struct ql_rendered *out, struct ql_err *e)
{
	struct ql_tmpl_env env = {.trusted = r->trusted, .now_unix = r->now_unix};
	json_t *messages = (json_t *)(uintptr_t)r->messages, *vars;
	bool part = n < json_array_size(messages);
	int rc = QL_OK;

	if (part) {
		json_t *first = json_array();

		for (size_t i = 0; i < n && first != NULL && rc == QL_OK; i++)
			if (json_array_append(first, json_array_get(messages, i)) != 0)
				rc = nomem(e);
		if (first == NULL)
			rc = nomem(e);
		messages = first;
	}
	vars = rc == QL_OK ? variables(r, messages, add_generation_prompt) : NULL;
	if (rc == QL_OK && vars == NULL)
		rc = nomem(e);
	env.vars = vars;
	if (rc == QL_OK)
		rc = ql_tmpl_render(r->tmpl, &env, out, e);
	json_decref(vars);
	if (part)
		json_decref(messages);
	return rc;
}
