/* value.c - types, truth, hashes, length, membership, and the making of lists, as Python defines them for these kinds. */
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

int v_deeper(struct vm *m)
{
	if (++m->value_depth > QL_TMPL_VALUE_DEPTH_MAX)
		return vm_limit(m, "values nested too deep");
	return QL_OK;
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
		rc = v_deeper(m);
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
