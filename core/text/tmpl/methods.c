/* methods.c - attributes of values: which exist, which the sandbox withholds; methods of dict, list, tuple, numbers. */
#include "core/text/tmpl/methods.h"

#include <string.h>

#include "core/text/tmpl/ast.h"

static int no_args(struct vm *m, const char *who, const struct args *a)
{
	static const char *const names[] = {NULL};

	return args_bind(m, who, a, names, 0, NULL);
}

static int view(struct vm *m, struct val self, const struct args *a, uint8_t sub, struct val *out)
{
	*out = (struct val){.kind = V_VIEW, .sub = sub, .dict = self.dict};
	return no_args(m, "dict view", a);
}
static int d_items(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return view(m, self, a, VIEW_ITEMS, out);
}
static int d_keys(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return view(m, self, a, VIEW_KEYS, out);
}
static int d_values(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return view(m, self, a, VIEW_VALUES, out);
}

static int d_get(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc;

	if (a->n_kw > 0)
		return vm_raise(m, "TypeError", "dict.get() takes no keyword arguments");
	if (a->n < 1 || a->n > 2)
		return vm_raise(m, "TypeError", "get expected at most 2 arguments, got %zu", a->n);
	rc = v_dict_get(m, self.dict, a->pos[0], out);
	if (rc == QL_OK && out->kind == V_MISSING)
		*out = a->n == 2 ? a->pos[1] : v_none();
	return rc;
}

static int d_copy(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	*out = self; /* nothing can change either */
	return no_args(m, "copy", a);
}

static int one_pos(struct vm *m, const char *who, const struct args *a)
{
	if (a->n_kw > 0 || a->n != 1)
		return vm_raise(m, "TypeError", "%s() takes exactly one argument (%zu given)", who, a->n + a->n_kw);
	return QL_OK;
}

static int l_count(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int64_t n = 0;
	int rc = one_pos(m, "count", a);

	for (size_t i = 0; rc == QL_OK && i < self.list->n; i++) {
		bool same;

		rc = v_eq(m, self.list->v[i], a->pos[0], &same);
		n += rc == QL_OK && same;
	}
	*out = v_int(n);
	return rc;
}

static int l_index(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int64_t at[2] = {0, (int64_t)self.list->n};

	if (a->n_kw > 0 || a->n < 1 || a->n > 3)
		return vm_raise(m, "TypeError", "index expected 1 to 3 arguments, got %zu", a->n + a->n_kw);
	for (size_t i = 1; i < a->n; i++) {
		if (!v_is_intlike(a->pos[i]))
			return vm_raise(m, "TypeError", "slice indices must be integers or have an __index__ method");
		at[i - 1] = v_as_int(a->pos[i]);
		if (at[i - 1] < 0)
			at[i - 1] = at[i - 1] < -(int64_t)self.list->n ? 0 : at[i - 1] + (int64_t)self.list->n;
	}
	for (int64_t i = at[0]; i < at[1] && i < (int64_t)self.list->n; i++) {
		bool same;
		int rc = v_eq(m, self.list->v[i], a->pos[0], &same);

		*out = v_int(i);
		if (rc != QL_OK || same)
			return rc;
	}
	return vm_raise(m, "ValueError", "value is not in %s", v_type(self));
}

static int n_is_integer(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	*out = v_bool(self.f >= -9e18 && self.f <= 9e18 && self.f == (double)(int64_t)self.f);
	return no_args(m, "is_integer", a);
}

static const struct method_entry dict_methods[] = {
	{"items", d_items, false}, {"keys", d_keys, false}, {"values", d_values, false}, {"get", d_get, false},
	{"copy", d_copy, false}, {"fromkeys", NULL, false}, {"clear", NULL, true}, {"pop", NULL, true},
	{"popitem", NULL, true}, {"setdefault", NULL, true}, {"update", NULL, true}, {NULL, NULL, false}};
static const struct method_entry list_methods[] = {
	{"count", l_count, false}, {"index", l_index, false}, {"copy", d_copy, false}, {"append", NULL, true},
	{"clear", NULL, true}, {"extend", NULL, true}, {"insert", NULL, true}, {"pop", NULL, true}, {"remove", NULL, true},
	{"reverse", NULL, true}, {"sort", NULL, true}, {NULL, NULL, false}};
static const struct method_entry tuple_methods[] = {{"count", l_count, false}, {"index", l_index, false}, {NULL, NULL, false}};
static const struct method_entry range_methods[] = {{"count", NULL, false}, {"index", NULL, false}, {NULL, NULL, false}};
static const struct method_entry int_methods[] = {
	{"bit_length", NULL, false}, {"bit_count", NULL, false}, {"conjugate", NULL, false}, {"to_bytes", NULL, false},
	{"from_bytes", NULL, false}, {"as_integer_ratio", NULL, false}, {"real", NULL, false}, {"imag", NULL, false},
	{"numerator", NULL, false}, {"denominator", NULL, false}, {NULL, NULL, false}};
static const struct method_entry float_methods[] = {
	{"is_integer", n_is_integer, false}, {"hex", NULL, false}, {"fromhex", NULL, false}, {"conjugate", NULL, false},
	{"as_integer_ratio", NULL, false}, {"real", NULL, false}, {"imag", NULL, false}, {NULL, NULL, false}};
static const struct method_entry dict_func_methods[] = {{"fromkeys", NULL, false}, {NULL, NULL, false}};

static const struct method_entry *find(const struct method_entry *t, const char *name, size_t len)
{
	for (; t != NULL && t->name != NULL; t++)
		if (strlen(t->name) == len && memcmp(t->name, name, len) == 0)
			return t;
	return NULL;
}

static const struct method_entry *lookup(struct val obj, const char *name, size_t len)
{
	const struct method_entry *e;

	switch (obj.kind) {
	case V_STR:
		e = find(str_methods, name, len);
		return e != NULL ? e : find(str_methods2, name, len);
	case V_DICT:
		return find(dict_methods, name, len);
	case V_LIST:
		return find(list_methods, name, len);
	case V_TUPLE:
		return find(tuple_methods, name, len);
	case V_RANGE:
		return find(range_methods, name, len);
	case V_BOOL:
	case V_INT:
		return find(int_methods, name, len);
	case V_FLOAT:
		return find(float_methods, name, len);
	case V_FUNC:
		return strcmp(obj.func->name, "dict") == 0 ? find(dict_func_methods, name, len) : NULL;
	default:
		return NULL;
	}
}

static int macro_attr(struct vm *m, struct val obj, const char *name, size_t len, struct val *out)
{
	(void)m;
	if (len == 4 && memcmp(name, "name", 4) == 0)
		*out = v_str(m->t->names[obj.macro->node->name]);
	return QL_OK;
}

int method_find(struct vm *m, struct val obj, const char *name, size_t len, struct val *out, bool *unsafe)
{
	const struct method_entry *e;
	struct method *b;

	*out = v_missing();
	*unsafe = len > 4 && memcmp(name, "__", 2) == 0 && memcmp(name + len - 2, "__", 2) == 0;
	if (*unsafe)
		return QL_OK;
	if (obj.kind == V_MACRO)
		return macro_attr(m, obj, name, len, out);
	if (obj.kind == V_RANGE && len == 4 && memcmp(name, "stop", 4) == 0)
		*out = v_int(obj.range->stop);
	else if (obj.kind == V_RANGE && len == 4 && memcmp(name, "step", 4) == 0)
		*out = v_int(obj.range->step);
	else if (obj.kind == V_RANGE && len == 5 && memcmp(name, "start", 5) == 0)
		*out = v_int(obj.range->start);
	e = lookup(obj, name, len);
	if (e == NULL)
		return QL_OK;
	*unsafe = e->unsafe;
	if (e->unsafe)
		return QL_OK;
	b = vm_alloc(m, sizeof *b);
	if (b == NULL)
		return m->e->code;
	*b = (struct method){obj, e->name, e->fn};
	*out = (struct val){.kind = V_METHOD, .method = b};
	return QL_OK;
}
