/* access.c - x.name, x[key], slices, and the attribute paths of filters, with the sandbox's rules. */
#include <string.h>

#include "core/base/checked.h"
#include "core/text/tmpl/value.h"

/* An index as Python takes it: V_MISSING in *out when out of range or not an index. */
static int item_of(struct vm *m, struct val obj, struct val key, struct val *out)
{
	size_t n;
	int64_t i;
	int rc;

	*out = v_missing();
	switch (obj.kind) {
	case V_DICT:
		if (key.kind == V_LIST || key.kind == V_DICT || key.kind == V_VIEW)
			return QL_OK; /* unhashable: TypeError, which item access swallows */
		return v_dict_get(m, obj.dict, key, out);
	case V_STR:
	case V_LIST:
	case V_TUPLE:
	case V_RANGE:
		if (!v_is_intlike(key))
			return QL_OK;
		rc = v_len(m, obj, &n);
		if (rc != QL_OK)
			return rc;
		i = v_as_int(key);
		if (i < 0)
			i += (int64_t)n;
		return i < 0 || (uint64_t)i >= n ? QL_OK : v_item(m, obj, (size_t)i, out);
	default:
		return QL_OK;
	}
}

/* The attribute of a namespace, loop or macro, or a method; V_MISSING if there is none. */
static int attr_of(struct vm *m, struct val obj, const char *name, size_t len, struct val *out, bool *unsafe)
{
	*unsafe = false;
	*out = v_missing();
	if (obj.kind == V_NS)
		return v_dict_get_s(m, &obj.ns->attrs, name, len, out);
	if (obj.kind == V_LOOP)
		return loop_attr(m, obj, name, len, out);
	return method_find(m, obj, name, len, out, unsafe);
}

static int unsafe_undef(struct vm *m, struct val obj, const char *name, size_t len, struct val *out)
{
	struct val n;
	int rc = str_new(m, &n, name, len);

	return rc != QL_OK ? rc : v_undef(m, out, NULL, obj, n, true);
}

int v_getattr(struct vm *m, struct val obj, const char *name, size_t len, struct val *out)
{
	struct val key;
	bool unsafe;
	int rc;

	if (obj.kind == V_UNDEF) {
		if (len < 4 || memcmp(name, "__", 2) != 0 || memcmp(name + len - 2, "__", 2) != 0)
			return vm_undef_error(m, obj);
		return vm_undef_error(m, obj);
	}
	rc = attr_of(m, obj, name, len, out, &unsafe);
	if (rc != QL_OK)
		return rc;
	if (unsafe)
		return unsafe_undef(m, obj, name, len, out);
	if (out->kind != V_MISSING)
		return QL_OK;
	rc = str_new(m, &key, name, len);
	if (rc == QL_OK)
		rc = item_of(m, obj, key, out);
	if (rc == QL_OK && out->kind == V_MISSING)
		rc = v_undef(m, out, NULL, obj, key, false);
	return rc;
}

int v_getitem(struct vm *m, struct val obj, struct val key, struct val *out)
{
	bool unsafe = false;
	int rc;

	if (obj.kind == V_UNDEF)
		return vm_undef_error(m, obj);
	rc = item_of(m, obj, key, out);
	if (rc != QL_OK || out->kind != V_MISSING)
		return rc;
	if (key.kind == V_STR) {
		rc = attr_of(m, obj, key.s->p, key.s->len, out, &unsafe);
		if (rc != QL_OK)
			return rc;
		if (unsafe)
			return unsafe_undef(m, obj, key.s->p, key.s->len, out);
		if (out->kind != V_MISSING)
			return QL_OK;
	}
	return v_undef(m, out, NULL, obj, key, false);
}

static int bound(struct vm *m, struct val v, int64_t absent, int64_t n, int64_t low, int64_t high, int64_t *out)
{
	if (v.kind == V_MISSING || v.kind == V_NONE) {
		*out = absent;
		return QL_OK;
	}
	if (!v_is_intlike(v))
		return vm_raise(m, "TypeError", "slice indices must be integers or None or have an __index__ method");
	*out = v_as_int(v);
	if (*out < 0)
		*out = *out < -n ? low : *out + n;
	if (*out < low)
		*out = low;
	if (*out > high)
		*out = high;
	return QL_OK;
}

int v_slice(struct vm *m, struct val obj, struct val start, struct val stop, struct val step, struct val *out)
{
	int64_t by = 1, from, to, len;
	struct list *l;
	size_t n = 0, count;
	int rc = QL_OK;

	if (obj.kind == V_UNDEF)
		return vm_undef_error(m, obj);
	if (obj.kind == V_DICT)
		return vm_raise(m, "TypeError", "unhashable type: 'slice'");
	if (obj.kind != V_STR && obj.kind != V_LIST && obj.kind != V_TUPLE && obj.kind != V_RANGE)
		return vm_raise(m, "TypeError", "'%s' object is not subscriptable", v_type(obj));
	if (step.kind != V_MISSING && step.kind != V_NONE) {
		if (!v_is_intlike(step))
			return vm_raise(m, "TypeError", "slice indices must be integers or None or have an __index__ method");
		by = v_as_int(step);
		if (by == 0)
			return vm_raise(m, "ValueError", "slice step cannot be zero");
		if (by < -INT64_MAX)
			by = -INT64_MAX;
	}
	rc = v_len(m, obj, &n);
	len = (int64_t)n;
	if (rc == QL_OK)
		rc = bound(m, start, by > 0 ? 0 : len - 1, len, by > 0 ? 0 : -1, by > 0 ? len : len - 1, &from);
	if (rc == QL_OK)
		rc = bound(m, stop, by > 0 ? len : -1, len, by > 0 ? 0 : -1, by > 0 ? len : len - 1, &to);
	if (rc != QL_OK)
		return rc;
	if (by > 0)
		count = to > from ? (size_t)((to - from - 1) / by) + 1 : 0;
	else
		count = from > to ? (size_t)((from - to - 1) / -by) + 1 : 0;
	if (obj.kind == V_STR)
		return str_slice(m, out, obj.s, from, by, count);
	if (obj.kind == V_RANGE) {
		const struct range *r = obj.range;

		int64_t step_by = r->step, last = r->start;

		if (count > 1 && !ql_mul_i64(by, r->step, &step_by))
			return vm_limit(m, "integer beyond 64 bits");
		last += (count == 0 ? 0 : from) * r->step;
		from = last;
		if (!ql_mul_i64((int64_t)count, step_by, &to) || !ql_add_i64(from, to, &last))
			return vm_limit(m, "integer beyond 64 bits");
		return iter_range_new(m, out, from, last, step_by);
	}
	rc = v_list_new(m, &l, count);
	if (rc == QL_OK)
		rc = vm_step(m, count * 16);
	if (rc != QL_OK)
		return rc;
	for (size_t i = 0; i < count; i++)
		l->v[i] = obj.list->v[from + by * (int64_t)i];
	l->n = count;
	*out = (struct val){.kind = obj.kind, .list = l};
	return QL_OK;
}

int v_attrpath(struct vm *m, struct val obj, struct val path, struct val def, struct val *out)
{
	const char *p, *end;
	int rc = QL_OK;

	*out = obj;
	if (path.kind == V_NONE)
		return QL_OK;
	if (path.kind != V_STR) {
		rc = v_getitem(m, obj, path, out);
		if (rc == QL_OK && out->kind == V_UNDEF && def.kind != V_MISSING && def.kind != V_NONE)
			*out = def;
		return rc;
	}
	p = path.s->p;
	end = p + path.s->len;
	for (;;) {
		const char *dot = memchr(p, '.', (size_t)(end - p));
		size_t len = (size_t)((dot == NULL ? end : dot) - p);
		bool digits = len > 0 && len < 18;
		struct val key;
		int64_t n = 0;

		for (size_t i = 0; i < len && digits; i++) {
			digits = p[i] >= '0' && p[i] <= '9';
			n = digits ? n * 10 + (p[i] - '0') : n;
		}
		if (digits)
			key = v_int(n);
		else
			rc = str_new(m, &key, p, len);
		if (rc == QL_OK)
			rc = v_getitem(m, *out, key, out);
		if (rc == QL_OK && out->kind == V_UNDEF && def.kind != V_MISSING && def.kind != V_NONE)
			*out = def;
		if (rc != QL_OK || dot == NULL)
			return rc;
		p = dot + 1;
	}
}
