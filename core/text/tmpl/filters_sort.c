/* filters_sort.c - filters that order or fold: sort, dictsort, unique, min, max, sum.  Sorting is a stable merge sort; a
 * reversed one keeps equal items in their order, as Python's does. */
#include "core/text/tmpl/filters.h"

#include <string.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/text_ops.h"

int flt_fold(struct vm *m, struct val v, bool case_sensitive, struct val *out)
{
	*out = v;
	return v.kind != V_STR || case_sensitive ? QL_OK : text_case(m, v, false, out);
}

struct keyed {
	struct val key, v;
};

static int merge(struct vm *m, struct keyed *a, struct keyed *t, size_t lo, size_t mid, size_t hi, bool reverse)
{
	size_t i = lo, j = mid;

	for (size_t k = lo; k < hi; k++) {
		bool right = i >= mid;

		if (i < mid && j < hi) {
			/* the right one goes first only if it is strictly less (greater when reversed) */
			int rc = v_cmp(m, reverse ? a[i].key : a[j].key, reverse ? a[j].key : a[i].key, T_LT, &right);

			if (rc != QL_OK)
				return rc;
		}
		t[k] = right ? a[j++] : a[i++];
	}
	memcpy(a + lo, t + lo, (hi - lo) * sizeof *a);
	return QL_OK;
}

static int sort(struct vm *m, struct keyed *a, size_t n, bool reverse)
{
	struct keyed *t = vm_alloc(m, n * sizeof *t);
	int rc = t == NULL ? m->e->code : QL_OK;

	for (size_t w = 1; w < n && rc == QL_OK; w *= 2)
		for (size_t lo = 0; lo + w < n && rc == QL_OK; lo += 2 * w)
			rc = merge(m, a, t, lo, lo + w, lo + 2 * w < n ? lo + 2 * w : n, reverse);
	return rc;
}

static int sorted_list(struct vm *m, struct keyed *a, size_t n, bool reverse, struct val *out)
{
	struct list *l;
	int rc = sort(m, a, n, reverse);

	if (rc == QL_OK)
		rc = v_list_new(m, &l, n);
	for (size_t i = 0; rc == QL_OK && i < n; i++)
		rc = v_list_add(m, l, a[i].v);
	return rc != QL_OK ? rc : v_list(m, out, l);
}

/* The list of the values at each of "a,b.c" (or of the item itself). */
static int multi_key(struct vm *m, struct val item, struct val attr, bool case_sensitive, struct val *out)
{
	struct list *key;
	size_t from = 0;
	int rc = v_list_new(m, &key, 1);

	*out = (struct val){.kind = V_LIST, .list = key};
	if (rc == QL_OK && attr.kind != V_STR) {
		struct val v;

		rc = v_attrpath(m, item, attr, v_missing(), &v);
		if (rc == QL_OK)
			rc = flt_fold(m, v, case_sensitive, &v);
		return rc != QL_OK ? rc : v_list_add(m, key, v);
	}
	while (rc == QL_OK && from <= attr.s->len) {
		const char *comma = memchr(attr.s->p + from, ',', attr.s->len - from);
		size_t to = comma == NULL ? attr.s->len : (size_t)(comma - attr.s->p);
		struct val part, v;

		rc = str_sub(m, &part, attr.s, from, to);
		if (rc == QL_OK)
			rc = v_attrpath(m, item, part, v_missing(), &v);
		if (rc == QL_OK)
			rc = flt_fold(m, v, case_sensitive, &v);
		if (rc == QL_OK)
			rc = v_list_add(m, key, v);
		from = to + 1;
	}
	return rc;
}

int flt_sort(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"reverse", "case_sensitive", "attribute", NULL};
	struct keyed *k = NULL;
	struct list *l = NULL;
	bool reverse, cs;
	struct val v[3];
	int rc = args_bind(m, "do_sort", a, names, 0, v);

	if (rc == QL_OK)
		rc = flt_bool(m, v[0], false, &reverse);
	if (rc == QL_OK)
		rc = flt_bool(m, v[1], false, &cs);
	if (rc == QL_OK)
		rc = v_to_list(m, self, &l);
	if (rc == QL_OK) {
		k = vm_alloc(m, l->n * sizeof *k);
		rc = k == NULL ? m->e->code : QL_OK;
	}
	if (v[2].kind == V_MISSING)
		v[2] = v_none();
	for (size_t i = 0; rc == QL_OK && i < l->n; i++) {
		k[i].v = l->v[i];
		rc = multi_key(m, l->v[i], v[2], cs, &k[i].key);
	}
	return rc != QL_OK ? rc : sorted_list(m, k, l->n, reverse, out);
}

int flt_dictsort(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"case_sensitive", "by", "reverse", NULL};
	bool cs, reverse, by_value = false;
	struct keyed *k;
	struct val v[3];
	int rc = args_bind(m, "do_dictsort", a, names, 0, v);

	if (rc == QL_OK)
		rc = flt_bool(m, v[0], false, &cs);
	if (rc == QL_OK)
		rc = flt_bool(m, v[2], false, &reverse);
	if (rc == QL_OK && v[1].kind != V_MISSING) {
		by_value = v[1].kind == V_STR && str_is(v[1].s, "value");
		if (!by_value && !(v[1].kind == V_STR && str_is(v[1].s, "key")))
			return vm_raise(m, "FilterArgumentError", "You can only sort by either \"key\" or \"value\"");
	}
	if (rc != QL_OK)
		return rc;
	if (self.kind == V_UNDEF)
		return vm_undef_error(m, self);
	if (self.kind != V_DICT)
		return vm_raise(m, "AttributeError", "'%s' object has no attribute 'items'", v_type(self));
	k = vm_alloc(m, self.dict->n * sizeof *k);
	if (k == NULL)
		return m->e->code;
	for (size_t i = 0; rc == QL_OK && i < self.dict->n; i++) {
		const struct entry *e = &self.dict->e[i];

		rc = v_tuple2(m, &k[i].v, e->key, e->value);
		if (rc == QL_OK)
			rc = flt_fold(m, by_value ? e->value : e->key, cs, &k[i].key);
	}
	return rc != QL_OK ? rc : sorted_list(m, k, self.dict->n, reverse, out);
}

/* attribute and case_sensitive, shared by unique, min and max. */
struct by {
	struct val attr;
	bool case_sensitive;
};

static int bind_by(struct vm *m, const char *who, const struct args *a, struct by *by)
{
	static const char *const names[] = {"case_sensitive", "attribute", NULL};
	struct val v[2];
	int rc = args_bind(m, who, a, names, 0, v);

	if (rc == QL_OK)
		rc = flt_bool(m, v[0], false, &by->case_sensitive);
	by->attr = rc == QL_OK && v[1].kind != V_MISSING ? v[1] : v_none();
	return rc;
}

static int key_of(struct vm *m, const struct by *by, struct val item, struct val *out)
{
	int rc = v_attrpath(m, item, by->attr, v_missing(), out);

	return rc != QL_OK ? rc : flt_fold(m, *out, by->case_sensitive, out);
}

int flt_unique(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct dict *seen;
	struct list *kept;
	struct iter *it;
	struct by by;
	struct val x, key, had;
	int rc = bind_by(m, "do_unique", a, &by);

	if (rc == QL_OK)
		rc = v_dict_new(m, &seen);
	if (rc == QL_OK)
		rc = v_list_new(m, &kept, 0);
	if (rc == QL_OK)
		rc = iter_new(m, self, &it);
	while (rc == QL_OK && (rc = iter_next(m, it, &x)) == QL_OK && x.kind != V_MISSING) {
		rc = key_of(m, &by, x, &key);
		if (rc == QL_OK)
			rc = v_dict_get(m, seen, key, &had);
		if (rc != QL_OK || had.kind != V_MISSING)
			continue;
		rc = v_dict_put(m, seen, key, v_none());
		if (rc == QL_OK)
			rc = v_list_add(m, kept, x);
	}
	if (rc == QL_OK)
		rc = iter_new(m, (struct val){.kind = V_LIST, .list = kept}, &it);
	*out = (struct val){.kind = V_ITER, .iter = it};
	return rc;
}

static int extreme(struct vm *m, struct val self, const struct args *a, int op, struct val *out)
{
	struct val x, key, best = v_missing();
	struct iter *it;
	struct by by;
	int rc = bind_by(m, op == T_LT ? "do_min" : "do_max", a, &by);

	if (rc == QL_OK)
		rc = iter_new(m, self, &it);
	*out = v_missing();
	while (rc == QL_OK && (rc = iter_next(m, it, &x)) == QL_OK && x.kind != V_MISSING) {
		bool better = out->kind == V_MISSING;

		rc = key_of(m, &by, x, &key);
		if (rc == QL_OK && !better)
			rc = v_cmp(m, key, best, op, &better);
		if (rc == QL_OK && better) {
			best = key;
			*out = x;
		}
	}
	if (rc == QL_OK && out->kind == V_MISSING)
		rc = v_undef(m, out, "No aggregated item, sequence was empty.", v_missing(), v_none(), false);
	return rc;
}

int flt_min(struct vm *m, struct val self, const struct args *a, struct val *out) { return extreme(m, self, a, T_LT, out); }
int flt_max(struct vm *m, struct val self, const struct args *a, struct val *out) { return extreme(m, self, a, T_GT, out); }

int flt_sum(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"attribute", "start", NULL};
	struct iter *it;
	struct val v[2], x;
	int rc = args_bind(m, "do_sum", a, names, 0, v);

	*out = rc == QL_OK && v[1].kind != V_MISSING ? v[1] : v_int(0);
	if (rc == QL_OK && out->kind == V_STR)
		rc = vm_raise(m, "TypeError", "sum() can't sum strings [use ''.join(seq) instead]");
	if (rc == QL_OK)
		rc = iter_new(m, self, &it);
	while (rc == QL_OK && (rc = iter_next(m, it, &x)) == QL_OK && x.kind != V_MISSING) {
		if (v[0].kind != V_MISSING && v[0].kind != V_NONE)
			rc = v_attrpath(m, x, v[0], v_missing(), &x);
		if (rc == QL_OK)
			rc = op_binary(m, T_ADD, *out, x, out);
	}
	return rc;
}
