/* json_in.c - JSON → values.  Strings are borrowed from jansson and marked as untrusted where asked. */
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/text/tmpl/value.h"

static int from_text(struct vm *m, const char *p, size_t len, int flags, struct val *out)
{
	int rc;

	if (flags & FROM_COPY) {
		rc = str_copy(m, out, p, len);
		if (rc != QL_OK || !(flags & FROM_UNTRUSTED))
			return rc;
		p = out->s->p;
	}
	return flags & FROM_UNTRUSTED ? str_marked(m, out, p, len) : str_new(m, out, p, len);
}

/* A role that everybody knows cannot hold anything harmful, and templates make tokens of it. */
static bool known_role(const char *s)
{
	static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", "function", "model", "ipython"};

	for (size_t i = 0; i < sizeof roles / sizeof roles[0]; i++)
		if (strcmp(s, roles[i]) == 0)
			return true;
	return false;
}

static int from_object(struct vm *m, const json_t *j, int flags, bool message, struct val *out)
{
	struct dict *d;
	int rc = v_dict_new(m, &d);

	for (void *it = json_object_iter((json_t *)(uintptr_t)j); rc == QL_OK && it != NULL;
	     it = json_object_iter_next((json_t *)(uintptr_t)j, it)) {
		const char *key = json_object_iter_key(it);
		const json_t *v = json_object_iter_value(it);
		struct val k, x;
		bool role = message && strcmp(key, "role") == 0 && json_is_string(v) && known_role(json_string_value(v));

		rc = from_text(m, key, json_object_iter_key_len(it), flags, &k);
		if (rc == QL_OK)
			rc = v_from_json(m, v, role ? flags & FROM_COPY : flags & ~FROM_MESSAGES, &x);
		if (rc == QL_OK)
			rc = v_dict_put(m, d, k, x);
	}
	*out = (struct val){.kind = V_DICT, .dict = d};
	return rc;
}

static int from_array(struct vm *m, const json_t *j, int flags, struct val *out)
{
	struct list *l;
	int rc = v_list_new(m, &l, json_array_size(j));

	for (size_t i = 0; rc == QL_OK && i < json_array_size(j); i++) {
		const json_t *v = json_array_get(j, i);
		struct val x;

		if ((flags & FROM_MESSAGES) && json_is_object(v))
			rc = from_object(m, v, flags & ~FROM_MESSAGES, true, &x);
		else
			rc = v_from_json(m, v, flags & ~FROM_MESSAGES, &x);
		l->v[i] = x;
		l->n = i + 1;
	}
	*out = (struct val){.kind = V_LIST, .list = l};
	return rc;
}

int v_from_json(struct vm *m, const json_t *j, int flags, struct val *out)
{
	int rc = QL_OK;

	switch (json_typeof(j)) {
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (++m->value_depth > QL_TMPL_VALUE_DEPTH_MAX)
			rc = vm_limit(m, "input nested too deep");
		else if (json_is_array(j))
			rc = from_array(m, j, flags, out);
		else
			rc = from_object(m, j, flags, false, out);
		m->value_depth--;
		return rc;
	case JSON_STRING:
		return from_text(m, json_string_value(j), json_string_length(j), flags, out);
	case JSON_INTEGER:
		*out = v_int(json_integer_value(j));
		return QL_OK;
	case JSON_REAL:
		*out = v_float(json_real_value(j));
		return QL_OK;
	case JSON_TRUE:
	case JSON_FALSE:
		*out = v_bool(json_is_true(j));
		return QL_OK;
	default:
		*out = v_none();
		return QL_OK;
	}
}

int v_fromjson(struct vm *m, struct val text, struct val *out)
{
	struct ql_err why = {0};
	json_t *j = NULL;
	int rc;

	if (text.kind != V_STR)
		return vm_raise(m, "TypeError", "the JSON object must be str, not %s", v_type(text));
	rc = vm_step(m, text.s->len * 48);
	if (rc != QL_OK)
		return rc;
	if (ql_json_parse(text.s->p, text.s->len, QL_TMPL_OUTPUT_MAX, &j, &why) != QL_OK)
		return vm_raise(m, "JSONDecodeError", "%s", why.message);
	rc = v_from_json(m, j, FROM_COPY | (text.s->n_marks > 0 ? FROM_UNTRUSTED : 0), out);
	json_decref(j);
	return rc;
}
