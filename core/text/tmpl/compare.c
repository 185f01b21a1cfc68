/* compare.c - equality and order, as Python defines them for these kinds. */
#include <string.h>

#include "core/text/tmpl/ast.h"

/* -1, 0, 1, or 2 when unordered (NaN). */
static int num_cmp(struct val a, struct val b)
{
	double x = v_as_float(a), y = v_as_float(b);
	int64_t i, j;

	if (x != y || (x == y && a.kind == V_FLOAT && b.kind == V_FLOAT))
		return x < y ? -1 : x > y ? 1 : x == y ? 0 : 2;
	/* equal after rounding to double: the integers decide, a float here being integral and below 2^63 or equal to it */
	if (x >= 9223372036854775808.0 || x < -9223372036854775808.0)
		return a.kind == b.kind || (v_is_intlike(a) && v_is_intlike(b)) ? (v_as_int(a) > v_as_int(b)) - (v_as_int(a) < v_as_int(b))
		     : a.kind == V_FLOAT ? 1 : -1;
	i = a.kind == V_FLOAT ? (int64_t)a.f : v_as_int(a);
	j = b.kind == V_FLOAT ? (int64_t)b.f : v_as_int(b);
	return (i > j) - (i < j);
}

static int list_eq(struct vm *m, const struct list *a, const struct list *b, bool *out)
{
	int rc = v_deeper(m);

	*out = a->n == b->n;
	for (size_t i = 0; rc == QL_OK && *out && i < a->n; i++)
		rc = v_eq(m, a->v[i], b->v[i], out);
	m->value_depth--;
	return rc;
}

static int dict_eq(struct vm *m, const struct dict *a, const struct dict *b, bool *out)
{
	int rc = v_deeper(m);

	*out = a->n == b->n;
	for (size_t i = 0; rc == QL_OK && *out && i < a->n; i++) {
		struct val other;

		rc = v_dict_get(m, b, a->e[i].key, &other);
		*out = other.kind != V_MISSING;
		if (rc == QL_OK && *out)
			rc = v_eq(m, a->e[i].value, other, out);
	}
	m->value_depth--;
	return rc;
}

/* keys() and items() compare as sets, values() only with itself. */
static int view_eq(struct vm *m, struct val a, struct val b, bool *out)
{
	int rc = QL_OK;

	*out = a.sub == b.sub && (a.sub != VIEW_VALUES || a.dict == b.dict) && a.dict->n == b.dict->n;
	if (*out && a.sub == VIEW_ITEMS)
		return dict_eq(m, a.dict, b.dict, out);
	for (size_t i = 0; rc == QL_OK && *out && a.sub == VIEW_KEYS && i < a.dict->n; i++) {
		struct val had;

		rc = v_dict_get(m, b.dict, a.dict->e[i].key, &had);
		*out = had.kind != V_MISSING;
	}
	return rc;
}

int v_eq(struct vm *m, struct val a, struct val b, bool *out)
{
	int rc = vm_step(m, a.kind == V_STR ? a.s->len : 0);

	*out = false;
	if (rc != QL_OK)
		return rc;
	if (v_is_num(a) && v_is_num(b)) {
		*out = num_cmp(a, b) == 0;
		return QL_OK;
	}
	if (a.kind != b.kind)
		return QL_OK;
	switch (a.kind) {
	case V_UNDEF:
	case V_NONE:
		*out = true;
		return QL_OK;
	case V_STR:
		*out = a.s->len == b.s->len && memcmp(a.s->p, b.s->p, a.s->len) == 0;
		return QL_OK;
	case V_LIST:
	case V_TUPLE:
		return list_eq(m, a.list, b.list, out);
	case V_DICT:
		return dict_eq(m, a.dict, b.dict, out);
	case V_RANGE:
		*out = a.range->n == b.range->n && (a.range->n == 0 || (a.range->start == b.range->start &&
			(a.range->n == 1 || a.range->step == b.range->step)));
		return QL_OK;
	case V_FUNC:
		*out = a.func == b.func;
		return QL_OK;
	case V_VIEW:
		return view_eq(m, a, b, out);
	default:
		*out = a.ns == b.ns; /* the same object */
		return QL_OK;
	}
}

static bool holds(int c, int op)
{
	switch (op) {
	case T_LT:
		return c == -1;
	case T_LE:
		return c == -1 || c == 0;
	case T_GT:
		return c == 1;
	default:
		return c == 1 || c == 0;
	}
}

static const char *op_text(int op) { return op == T_LT ? "<" : op == T_LE ? "<=" : op == T_GT ? ">" : ">="; }

int v_cmp(struct vm *m, struct val a, struct val b, int op, bool *out)
{
	int rc = vm_step(m, a.kind == V_STR ? a.s->len : 0);

	if (rc != QL_OK)
		return rc;
	if (a.kind == V_UNDEF || b.kind == V_UNDEF)
		return vm_undef_error(m, a.kind == V_UNDEF ? a : b);
	if (v_is_num(a) && v_is_num(b)) {
		*out = holds(num_cmp(a, b), op);
		return QL_OK;
	}
	if (a.kind == V_STR && b.kind == V_STR) {
		size_t n = a.s->len < b.s->len ? a.s->len : b.s->len;
		int c = memcmp(a.s->p, b.s->p, n);

		if (c == 0)
			c = a.s->len < b.s->len ? -1 : a.s->len > b.s->len;
		*out = holds(c < 0 ? -1 : c > 0, op);
		return QL_OK;
	}
	if (a.kind == b.kind && (a.kind == V_LIST || a.kind == V_TUPLE)) {
		size_t i = 0;
		bool same = true;

		rc = v_deeper(m);
		for (; rc == QL_OK && i < a.list->n && i < b.list->n; i++) {
			rc = v_eq(m, a.list->v[i], b.list->v[i], &same);
			if (rc == QL_OK && !same)
				rc = v_cmp(m, a.list->v[i], b.list->v[i], op, out);
			if (!same)
				break;
		}
		m->value_depth--;
		if (rc == QL_OK && same)
			*out = holds(a.list->n < b.list->n ? -1 : a.list->n > b.list->n, op);
		return rc;
	}
	return vm_raise(m, "TypeError", "'%s' not supported between instances of '%s' and '%s'", op_text(op), v_type(a), v_type(b));
}
