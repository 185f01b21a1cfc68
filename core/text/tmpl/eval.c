/* eval.c - evaluation of expressions. */
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/tmpl.h"

static int resolve_global(struct vm *m, uint32_t name, struct val *out)
{
	const struct str *s = m->t->names[name];
	char key[256];
	const json_t *v = NULL;
	const struct func *f;

	if (s->len < sizeof key) {
		memcpy(key, s->p, s->len);
		key[s->len] = '\0';
		v = json_object_get(m->env->vars, key);
		if (v != NULL)
			return v_from_json(m, v, FROM_UNTRUSTED | (strcmp(key, "messages") == 0 ? FROM_MESSAGES : 0), out);
		v = json_object_get(m->env->trusted, key);
		if (v != NULL)
			return v_from_json(m, v, 0, out);
	}
	f = func_find(s->p, s->len);
	if (f != NULL) {
		*out = (struct val){.kind = V_FUNC, .func = f};
		return QL_OK;
	}
	return v_undef(m, out, NULL, v_missing(), v_str(m->t->names[name]), false);
}

int vm_lookup(struct vm *m, uint32_t name, struct val *out)
{
	int rc;

	for (const struct scope *s = m->scope; s != NULL; s = s->parent) {
		for (size_t i = s->n; i > 0; i--) {
			if (s->b[i - 1].name == name) {
				*out = s->b[i - 1].v;
				return QL_OK;
			}
		}
		m->work += 64;
	}
	if (m->globals[name].kind == V_MISSING) {
		rc = resolve_global(m, name, &m->globals[name]);
		if (rc != QL_OK)
			return rc;
	}
	*out = m->globals[name];
	return QL_OK;
}

static int eval_list(struct vm *m, const struct node *n, struct val *out)
{
	struct list *l;
	int rc = v_list_new(m, &l, n->n);

	for (uint32_t i = 0; i < n->n && rc == QL_OK; i++) {
		struct val v;

		rc = vm_eval(m, n->list[i], &v);
		l->v[i] = v;
		l->n = i + 1;
	}
	*out = (struct val){.kind = n->type == N_TUPLE ? V_TUPLE : V_LIST, .list = l};
	return rc;
}

static int eval_dict(struct vm *m, const struct node *n, struct val *out)
{
	struct dict *d;
	int rc = v_dict_new(m, &d);

	for (uint32_t i = 0; i + 1 < n->n && rc == QL_OK; i += 2) {
		struct val k, v;

		rc = vm_eval(m, n->list[i], &k);
		if (rc == QL_OK)
			rc = vm_eval(m, n->list[i + 1], &v);
		if (rc == QL_OK)
			rc = v_dict_put(m, d, k, v);
	}
	*out = (struct val){.kind = V_DICT, .dict = d};
	return rc;
}

static int eval_getitem(struct vm *m, const struct node *n, struct val *out)
{
	struct val obj, part[3] = {v_missing(), v_missing(), v_missing()};
	const struct node *slice = n->b;
	const struct node *from[3] = {slice->a, slice->b, slice->c};
	int rc = vm_eval(m, n->a, &obj);

	if (rc != QL_OK)
		return rc;
	if (slice->type != N_SLICE) {
		rc = vm_eval(m, slice, &part[0]);
		return rc != QL_OK ? rc : v_getitem(m, obj, part[0], out);
	}
	for (int i = 0; i < 3 && rc == QL_OK; i++)
		if (from[i] != NULL)
			rc = vm_eval(m, from[i], &part[i]);
	return rc != QL_OK ? rc : v_slice(m, obj, part[0], part[1], part[2], out);
}

static int eval_call(struct vm *m, const struct node *n, struct val *out)
{
	struct args a;
	struct val f;
	int rc = vm_eval(m, n->a, &f);

	if (rc == QL_OK)
		rc = vm_eval_args(m, n->call, &a);
	m->line = n->line;
	return rc != QL_OK ? rc : v_call(m, f, &a, out);
}

static int eval_filter(struct vm *m, const struct node *n, struct val *out)
{
	struct args a;
	struct val v = m->pending;
	int rc = n->a == NULL ? QL_OK : vm_eval(m, n->a, &v);

	if (rc == QL_OK)
		rc = vm_eval_args(m, n->call, &a);
	if (rc != QL_OK)
		return rc;
	m->line = n->line;
	return n->filter != NULL ? n->filter(m, v, &a, out) : v_filter(m, n->str->p, n->str->len, v, &a, out);
}

static int eval_test(struct vm *m, const struct node *n, struct val *out)
{
	struct args a;
	struct val v;
	bool yes = false;
	int rc = vm_eval(m, n->a, &v);

	if (rc == QL_OK)
		rc = vm_eval_args(m, n->call, &a);
	m->line = n->line;
	if (rc == QL_OK)
		rc = n->test != NULL ? n->test(m, v, &a, &yes) : v_test(m, n->str->p, n->str->len, v, &a, &yes);
	*out = v_bool(yes);
	return rc;
}

/* and, or: the first operand that decides, or the last. */
static int eval_logic(struct vm *m, const struct node *n, struct val *out)
{
	bool yes;
	int rc = vm_eval(m, n->a, out);

	for (uint32_t i = 0; i < n->n && rc == QL_OK; i++) {
		rc = v_truth(m, *out, &yes);
		if (rc != QL_OK || yes == (n->type == N_OR))
			break;
		rc = vm_eval(m, n->list[i], out);
	}
	return rc;
}

static int eval_compare(struct vm *m, const struct node *n, struct val *out)
{
	struct val a, b;
	bool yes = false;
	int rc = vm_eval(m, n->a, &a);

	for (uint32_t i = 0; i < n->n && rc == QL_OK; i++) {
		int op = n->ops[i];

		rc = vm_eval(m, n->list[i], &b);
		if (rc != QL_OK)
			break;
		m->line = n->line;
		if (op == T_EQ || op == T_NE)
			rc = v_eq(m, a, b, &yes);
		else if (op == T_IN || op == T_NOTIN)
			rc = v_contains(m, a, b, &yes);
		else
			rc = v_cmp(m, a, b, op, &yes);
		if (op == T_NE || op == T_NOTIN)
			yes = !yes;
		if (!yes)
			break;
		a = b;
	}
	*out = v_bool(yes);
	return rc;
}

static int eval_math(struct vm *m, const struct node *n, struct val *out)
{
	struct val a, b;
	int rc = vm_eval(m, n->a, &a);

	for (uint32_t i = 0; i < n->n && rc == QL_OK; i++) {
		rc = vm_eval(m, n->list[i], &b);
		m->line = n->line;
		if (rc == QL_OK)
			rc = op_binary(m, n->ops[i], a, b, &a);
	}
	*out = a;
	return rc;
}

static int eval_concat(struct vm *m, const struct node *n, struct val *out)
{
	struct sb b = {0};
	struct list parts = {0};
	struct val v;
	int rc;

	/* all parts first: evaluating one may itself build strings */
	parts.v = vm_alloc(m, (n->n + 1) * sizeof *parts.v);
	if (parts.v == NULL)
		return m->e->code;
	rc = vm_eval(m, n->a, &parts.v[0]);
	for (uint32_t i = 0; i < n->n && rc == QL_OK; i++)
		rc = vm_eval(m, n->list[i], &parts.v[i + 1]);
	if (rc == QL_OK && n->n == 1 && parts.v[0].kind == V_STR && parts.v[1].kind == V_STR)
		return str_concat(m, out, parts.v[0].s, parts.v[1].s);
	for (uint32_t i = 0; i <= n->n && rc == QL_OK; i++)
		rc = v_print(m, &b, parts.v[i]);
	if (rc == QL_OK)
		rc = sb_end(m, &b, &v);
	*out = v;
	return rc;
}

static int eval_cond(struct vm *m, const struct node *n, struct val *out)
{
	struct val c;
	bool yes;
	int rc = vm_eval(m, n->b, &c);

	if (rc == QL_OK)
		rc = v_truth(m, c, &yes);
	if (rc != QL_OK)
		return rc;
	if (yes || n->c != NULL)
		return vm_eval(m, yes ? n->a : n->c, out);
	return v_undef(m, out, "the inline if-expression evaluated to false and no else section was defined.", v_missing(),
		       v_none(), false);
}

static int eval_not(struct vm *m, const struct node *n, struct val *out)
{
	struct val v;
	bool yes = false;
	int rc = vm_eval(m, n->a, &v);

	if (rc == QL_OK)
		rc = v_truth(m, v, &yes);
	*out = v_bool(!yes);
	return rc;
}

static int eval_one(struct vm *m, const struct node *n, struct val *out)
{
	int rc;

	switch (n->type) {
	case N_CONST:
		*out = n->value;
		return QL_OK;
	case N_NAME:
		return vm_lookup(m, n->name, out);
	case N_LIST:
	case N_TUPLE:
		return eval_list(m, n, out);
	case N_DICT:
		return eval_dict(m, n, out);
	case N_GETATTR:
		rc = vm_eval(m, n->a, out);
		m->line = n->line;
		return rc != QL_OK ? rc : v_getattr(m, *out, n->str->p, n->str->len, out);
	case N_GETITEM:
		return eval_getitem(m, n, out);
	case N_CALL:
		return eval_call(m, n, out);
	case N_FILTER:
		return eval_filter(m, n, out);
	case N_TEST:
		return eval_test(m, n, out);
	case N_NOT:
		return eval_not(m, n, out);
	case N_AND:
	case N_OR:
		return eval_logic(m, n, out);
	case N_COMPARE:
		return eval_compare(m, n, out);
	case N_MATH:
		return eval_math(m, n, out);
	case N_CONCAT:
		return eval_concat(m, n, out);
	case N_NEG:
	case N_POS:
		rc = vm_eval(m, n->a, out);
		return rc != QL_OK ? rc : op_neg(m, *out, n->type == N_POS, out);
	case N_COND:
		return eval_cond(m, n, out);
	default:
		return ql_err_set(m->e, QL_EINTERNAL, "template line %u: unknown node", n->line);
	}
}

int vm_eval(struct vm *m, const struct node *n, struct val *out)
{
	int rc;

	*out = v_none();
	m->line = n->line;
	m->work += 64;
	if (m->work > m->max_work)
		return vm_over(m);
	if (++m->depth > QL_TMPL_EVAL_DEPTH_MAX)
		rc = vm_limit(m, "evaluation nested too deep");
	else
		rc = eval_one(m, n, out);
	m->depth--;
	return rc;
}
