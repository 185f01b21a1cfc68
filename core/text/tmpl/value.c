/* value.c - truth, equality, order, length and membership, as Python defines them for these kinds. */
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"

const char *v_type(struct val v)
{
	static const char *const views[] = {"dict_keys", "dict_values", "dict_items"};

	switch (v.kind) {
	case V_NONE:
		return "NoneType";
	case V_BOOL:
		return "bool";
	case V_INT:
		return "int";
	case V_FLOAT:
		return "float";
	case V_STR:
		return v.s->safe ? "Markup" : "str";
	case V_LIST:
		return "list";
	case V_TUPLE:
		return "tuple";
	case V_DICT:
		return "dict";
	case V_VIEW:
		return views[v.sub];
	case V_RANGE:
		return "range";
	case V_NS:
		return "Namespace";
	case V_ITER:
		return "generator";
	case V_MACRO:
		return "Macro";
	case V_LOOP:
		return "LoopContext";
	case V_FUNC:
		return "function";
	case V_METHOD:
		return "builtin_function_or_method";
	default:
		return "Undefined";
	}
}

int v_undef(struct vm *m, struct val *out, const char *hint, struct val obj, struct val name, bool security)
{
	struct undef *u = vm_alloc(m, sizeof *u);

	if (u == NULL)
		return m->e->code;
	*u = (struct undef){.hint = hint, .obj = obj, .name = name, .security = security};
	*out = (struct val){.kind = V_UNDEF, .undef = u};
	return QL_OK;
}

int v_truth(struct vm *m, struct val v, bool *out)
{
	size_t n = 1;
	int rc = QL_OK;

	switch (v.kind) {
	case V_UNDEF:
	case V_NONE:
		n = 0;
		break;
	case V_BOOL:
		n = v.b;
		break;
	case V_INT:
		n = v.i != 0;
		break;
	case V_FLOAT:
		n = v.f != 0;
		break;
	case V_STR:
		n = v.s->len;
		break;
	case V_LIST:
	case V_TUPLE:
	case V_DICT:
	case V_VIEW:
	case V_RANGE:
	case V_LOOP:
		rc = v_len(m, v, &n);
		break;
	default:
		break;
	}
	*out = n != 0;
	return rc;
}

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

static int deeper(struct vm *m)
{
	if (++m->value_depth > QL_TMPL_VALUE_DEPTH_MAX)
		return vm_limit(m, "values nested too deep");
	return QL_OK;
}

static int list_eq(struct vm *m, const struct list *a, const struct list *b, bool *out)
{
	int rc = deeper(m);

	*out = a->n == b->n;
	for (size_t i = 0; rc == QL_OK && *out && i < a->n; i++)
		rc = v_eq(m, a->v[i], b->v[i], out);
	m->value_depth--;
	return rc;
}

static int dict_eq(struct vm *m, const struct dict *a, const struct dict *b, bool *out)
{
	int rc = deeper(m);

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

		rc = deeper(m);
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

int v_hash(struct vm *m, struct val v, uint64_t *out)
{
	uint64_t h = 14695981039346656037u;
	int rc = QL_OK;

	switch (v.kind) {
	case V_STR:
		rc = vm_step(m, v.s->len);
		for (size_t i = 0; i < v.s->len; i++)
			h = (h ^ (unsigned char)v.s->p[i]) * 1099511628211u;
		break;
	case V_BOOL:
	case V_INT:
		h = (uint64_t)v_as_int(v) * 0x9e3779b97f4a7c15u;
		break;
	case V_FLOAT:
		if (v.f >= -9.2e18 && v.f <= 9.2e18 && v.f == (double)(int64_t)v.f)
			h = (uint64_t)(int64_t)v.f * 0x9e3779b97f4a7c15u;
		else
			memcpy(&h, &v.f, sizeof h);
		break;
	case V_TUPLE:
		rc = deeper(m);
		for (size_t i = 0; rc == QL_OK && i < v.list->n; i++) {
			uint64_t k;

			rc = v_hash(m, v.list->v[i], &k);
			h = rc == QL_OK ? (h ^ k) * 1099511628211u : h;
		}
		m->value_depth--;
		break;
	case V_LIST:
	case V_DICT:
	case V_VIEW:
		return vm_raise(m, "TypeError", "unhashable type: '%s'", v_type(v));
	case V_NONE:
	case V_UNDEF:
		h ^= v.kind;
		break;
	default:
		h = (uint64_t)(uintptr_t)v.ns;
		break;
	}
	*out = h ^ (h >> 29);
	return rc;
}

int v_len(struct vm *m, struct val v, size_t *out)
{
	switch (v.kind) {
	case V_UNDEF:
		*out = 0;
		return QL_OK;
	case V_STR:
		*out = str_ncp(v.s);
		return vm_step(m, 0);
	case V_LIST:
	case V_TUPLE:
		*out = v.list->n;
		return QL_OK;
	case V_DICT:
	case V_VIEW:
		*out = v.dict->n;
		return QL_OK;
	case V_RANGE:
		*out = v.range->n;
		return QL_OK;
	case V_LOOP: {
		struct val n;
		int rc = loop_attr(m, v, "length", 6, &n);

		*out = rc == QL_OK ? (size_t)n.i : 0;
		return rc;
	}
	default:
		return vm_raise(m, "TypeError", "object of type '%s' has no len()", v_type(v));
	}
}

static int range_contains(struct val item, const struct range *r, bool *out)
{
	double f = v_is_num(item) ? v_as_float(item) : 0;
	int64_t i;

	*out = false;
	if (!v_is_num(item) || r->n == 0 || f != (double)(int64_t)f)
		return QL_OK;
	i = (int64_t)f;
	if (r->step > 0 ? i >= r->start && i < r->stop : i <= r->start && i > r->stop)
		*out = (i - r->start) % r->step == 0;
	return QL_OK;
}

int v_contains(struct vm *m, struct val item, struct val in, bool *out)
{
	struct iter *it;
	struct val v;
	int rc;

	*out = false;
	switch (in.kind) {
	case V_STR:
		if (item.kind != V_STR)
			return vm_raise(m, "TypeError", "'in <string>' requires string as left operand, not %s", v_type(item));
		rc = vm_step(m, in.s->len);
		*out = memmem(in.s->p, in.s->len, item.s->p, item.s->len) != NULL || item.s->len == 0;
		return rc;
	case V_DICT:
		rc = v_dict_get(m, in.dict, item, &v);
		*out = rc == QL_OK && v.kind != V_MISSING;
		return rc;
	case V_RANGE:
		return range_contains(item, in.range, out);
	default:
		break;
	}
	if (in.kind == V_VIEW && in.sub == VIEW_KEYS)
		return v_contains(m, item, (struct val){.kind = V_DICT, .dict = in.dict}, out);
	if (!v_iterable(in))
		return vm_raise(m, "TypeError", "argument of type '%s' is not iterable", v_type(in));
	rc = iter_new(m, in, &it);
	while (rc == QL_OK && !*out) {
		rc = iter_next(m, it, &v);
		if (rc != QL_OK || v.kind == V_MISSING)
			break;
		rc = v_eq(m, v, item, out);
	}
	return rc;
}

int v_list_new(struct vm *m, struct list **out, size_t cap)
{
	struct list *l = vm_alloc(m, sizeof *l);

	*out = l;
	if (l == NULL)
		return m->e->code;
	if (cap > 0) {
		if (cap > QL_TMPL_MEMORY_MAX / sizeof(struct val))
			return vm_limit(m, "list longer than a template may make");
		l->v = vm_alloc(m, cap * sizeof *l->v);
		if (l->v == NULL)
			return m->e->code;
		l->cap = cap;
	}
	return QL_OK;
}

int v_list_add(struct vm *m, struct list *l, struct val v)
{
	if (l->n == l->cap) {
		size_t cap = l->cap == 0 ? 8 : l->cap * 2;
		struct val *nv = vm_alloc(m, cap * sizeof *nv);

		if (nv == NULL)
			return m->e->code;
		if (l->n > 0)
			memcpy(nv, l->v, l->n * sizeof *nv);
		l->v = nv;
		l->cap = cap;
	}
	l->v[l->n++] = v;
	return vm_step(m, 0);
}

int v_list(struct vm *m, struct val *out, struct list *l)
{
	(void)m;
	*out = (struct val){.kind = V_LIST, .list = l};
	return QL_OK;
}

int v_tuple2(struct vm *m, struct val *out, struct val a, struct val b)
{
	struct list *l;
	int rc = v_list_new(m, &l, 2);

	if (rc != QL_OK)
		return rc;
	l->v[0] = a;
	l->v[1] = b;
	l->n = 2;
	*out = (struct val){.kind = V_TUPLE, .list = l};
	return QL_OK;
}
