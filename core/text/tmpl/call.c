/* call.c - calling functions, methods and macros. */
#include <stdio.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"

int args_bind(struct vm *m, const char *who, const struct args *a, const char *const *names, size_t min, struct val *out)
{
	size_t n = 0;

	for (; names[n] != NULL; n++)
		out[n] = n < a->n ? a->pos[n] : v_missing();
	if (a->n > n)
		return vm_raise(m, "TypeError", "%s() takes at most %zu arguments (%zu given)", who, n, a->n);
	for (size_t k = 0; k < a->n_kw; k++) {
		const struct str *s = a->kw[k].name;
		size_t i = 0;

		while (i < n && !(s->len == strlen(names[i]) && memcmp(s->p, names[i], s->len) == 0))
			i++;
		if (i == n)
			return vm_raise(m, "TypeError", "%s() got an unexpected keyword argument '%.*s'", who,
					(int)(s->len > 60 ? 60 : s->len), s->p);
		if (out[i].kind != V_MISSING)
			return vm_raise(m, "TypeError", "%s() got multiple values for argument '%s'", who, names[i]);
		out[i] = a->kw[k].v;
	}
	for (size_t i = 0; i < min; i++)
		if (out[i].kind == V_MISSING)
			return vm_raise(m, "TypeError", "%s() missing required argument: '%s'", who, names[i]);
	return QL_OK;
}

/* The call's keyword for parameter `name`, whose use is noted in used[]; V_MISSING if not given. */
static struct val keyword(const struct vm *m, const struct args *a, uint32_t name, bool *used)
{
	const struct str *s = m->t->names[name];

	for (size_t k = 0; k < a->n_kw; k++) {
		if (a->kw[k].name->len == s->len && memcmp(a->kw[k].name->p, s->p, s->len) == 0) {
			used[k] = true;
			return a->kw[k].v;
		}
	}
	return v_missing();
}

static int extra_args(struct vm *m, const struct node *n, const struct args *a, const bool *used)
{
	const struct str *who = m->t->names[n->name];
	struct val caller = v_missing();
	struct dict *kw;
	struct list *va;
	int rc = v_dict_new(m, &kw);

	for (size_t k = 0; k < a->n_kw && rc == QL_OK; k++) {
		if (used[k])
			continue;
		if (n->caller && str_is(a->kw[k].name, "caller")) {
			caller = a->kw[k].v;
			continue;
		}
		if (!n->kwargs)
			return vm_raise(m, "TypeError", "macro '%.*s' takes no keyword argument '%.*s'", (int)who->len, who->p,
					(int)a->kw[k].name->len, a->kw[k].name->p);
		rc = v_dict_put(m, kw, v_str(a->kw[k].name), a->kw[k].v);
	}
	if (rc == QL_OK && n->caller && (caller.kind == V_MISSING || caller.kind == V_NONE))
		rc = v_undef(m, &caller, "No caller defined", v_missing(), v_none(), false);
	if (rc == QL_OK && n->caller)
		rc = scope_set(m, m->scope, m->t->name_caller, caller);
	if (rc == QL_OK && n->kwargs)
		rc = scope_set(m, m->scope, m->t->name_kwargs, (struct val){.kind = V_DICT, .dict = kw});
	if (rc == QL_OK && a->n > n->n2 && !n->varargs)
		return vm_raise(m, "TypeError", "macro '%.*s' takes not more than %u argument(s)", (int)who->len, who->p, n->n2);
	if (rc != QL_OK || !n->varargs)
		return rc;
	rc = v_list_new(m, &va, a->n > n->n2 ? a->n - n->n2 : 0);
	for (size_t i = n->n2; rc == QL_OK && i < a->n; i++)
		rc = v_list_add(m, va, a->pos[i]);
	return rc != QL_OK ? rc : scope_set(m, m->scope, m->t->name_varargs, (struct val){.kind = V_TUPLE, .list = va});
}

static int bind_params(struct vm *m, const struct node *n, const struct args *a)
{
	bool *used = vm_alloc(m, a->n_kw + 1);
	struct val *given = vm_alloc(m, (n->n2 + 1) * sizeof *given);
	uint32_t first_default = n->n2 - n->n_defaults;
	char hint[120], *text;
	int rc;

	if (used == NULL || given == NULL)
		return m->e->code;
	for (uint32_t i = 0; i < n->n2; i++)
		given[i] = i < a->n ? a->pos[i] : keyword(m, a, n->list2[i]->name, used);
	rc = extra_args(m, n, a, used);
	for (uint32_t i = 0; i < n->n2 && rc == QL_OK; i++) {
		struct val v = given[i];

		if (v.kind == V_MISSING && i >= first_default) {
			rc = vm_eval(m, n->defaults[i - first_default], &v);
		} else if (v.kind == V_MISSING) {
			const struct str *s = m->t->names[n->list2[i]->name];
			int k = snprintf(hint, sizeof hint, "parameter '%.*s' was not provided", (int)(s->len > 60 ? 60 : s->len),
					 s->p);

			text = tmpl_alloc_text(&m->arena, (size_t)k + 1);
			if (text == NULL)
				return vm_nomem(m);
			memcpy(text, hint, (size_t)k + 1);
			rc = v_undef(m, &v, text, v_missing(), v_none(), false);
		}
		if (rc == QL_OK)
			rc = scope_set(m, m->scope, n->list2[i]->name, v);
	}
	return rc;
}

int macro_call(struct vm *m, struct macro *mac, const struct args *a, struct val *out)
{
	const struct node *n = mac->node;
	struct scope *s = vm_alloc(m, sizeof *s), *outer = m->scope;
	struct sb b = {0}, *was = m->out;
	int flow = FLOW_NEXT, rc;

	if (s == NULL)
		return m->e->code;
	if (m->macro_depth >= QL_TMPL_MACRO_DEPTH_MAX)
		return vm_limit(m, "macros nested too deep");
	m->macro_depth++;
	s->parent = mac->scope;
	m->scope = s;
	rc = bind_params(m, n, a);
	m->out = &b;
	if (rc == QL_OK)
		rc = vm_exec(m, n->list, n->n, &flow);
	m->out = was;
	m->scope = outer;
	m->macro_depth--;
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

int v_call(struct vm *m, struct val f, const struct args *a, struct val *out)
{
	*out = v_none();
	switch (f.kind) {
	case V_FUNC:
		return f.func->fn(m, a, out);
	case V_METHOD:
		if (f.method->fn == NULL)
			return vm_unsupported(m, "method '%s' of '%s'", f.method->name, v_type(f.method->self));
		return f.method->fn(m, f.method->self, a, out);
	case V_MACRO:
		return macro_call(m, f.macro, a, out);
	case V_UNDEF:
		return vm_undef_error(m, f);
	case V_LOOP:
		return vm_raise(m, "TypeError", "The loop must have the 'recursive' marker to be called recursively.");
	default:
		return vm_raise(m, "TypeError", "'%s' object is not callable", v_type(f));
	}
}
