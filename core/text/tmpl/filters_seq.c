/* filters_seq.c - filters over sequences: first, last, length, list, items, join, map, select, reject, reverse, batch.
 * What Python makes a generator is one here too: lazy, consumed once, always true, without length. */
#include "core/text/tmpl/filters.h"

#include <string.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/text_ops.h"

static int none(struct vm *m, const char *who, const struct args *a)
{
	static const char *const names[] = {NULL};

	return args_bind(m, who, a, names, 0, NULL);
}

int flt_first(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct iter *it;
	int rc = none(m, "do_first", a);

	if (rc == QL_OK)
		rc = iter_new(m, self, &it);
	if (rc == QL_OK)
		rc = iter_next(m, it, out);
	if (rc == QL_OK && out->kind == V_MISSING)
		rc = v_undef(m, out, "No first item, sequence was empty.", v_missing(), v_none(), false);
	return rc;
}

static bool reversible(struct val v)
{
	return v.kind == V_STR || v.kind == V_LIST || v.kind == V_TUPLE || v.kind == V_DICT || v.kind == V_VIEW ||
	       v.kind == V_RANGE || v.kind == V_UNDEF;
}

int flt_last(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct list *l;
	size_t n;
	int rc = none(m, "do_last", a);

	if (rc == QL_OK && !reversible(self))
		rc = vm_raise(m, "TypeError", "'%s' object is not reversible", v_type(self));
	if (rc == QL_OK && (self.kind == V_DICT || self.kind == V_VIEW)) {
		rc = v_to_list(m, self, &l);
		self = (struct val){.kind = V_LIST, .list = l};
	}
	if (rc == QL_OK)
		rc = v_len(m, self, &n);
	if (rc != QL_OK)
		return rc;
	if (n == 0)
		return v_undef(m, out, "No last item, sequence was empty.", v_missing(), v_none(), false);
	return v_item(m, self, n - 1, out);
}

int flt_length(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	size_t n = 0;
	int rc = none(m, "len", a);

	if (rc == QL_OK)
		rc = v_len(m, self, &n);
	*out = v_int((int64_t)n);
	return rc;
}

int flt_list(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct list *l;
	int rc = none(m, "do_list", a);

	if (rc == QL_OK)
		rc = v_to_list(m, self, &l);
	return rc != QL_OK ? rc : v_list(m, out, l);
}

static int iter_of(struct vm *m, struct val seq, struct val *out)
{
	struct iter *it;
	int rc = iter_new(m, seq, &it);

	*out = (struct val){.kind = V_ITER, .iter = it};
	return rc;
}

static int next_not_mapping(struct vm *m, struct iter *it, struct val *out)
{
	(void)it;
	(void)out;
	return vm_raise(m, "TypeError", "Can only get item pairs from a mapping.");
}

int flt_items(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct iter *it;
	int rc = none(m, "do_items", a);

	if (rc != QL_OK)
		return rc;
	if (self.kind == V_DICT)
		return iter_of(m, (struct val){.kind = V_VIEW, .sub = VIEW_ITEMS, .dict = self.dict}, out);
	if (self.kind == V_UNDEF)
		return iter_of(m, self, out);
	rc = iter_wrap(m, &it, NULL, next_not_mapping);
	*out = (struct val){.kind = V_ITER, .iter = it};
	return rc;
}

int flt_join(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"d", "attribute", NULL};
	struct val v[2];
	struct list *l;
	int rc = args_bind(m, "do_join", a, names, 0, v);

	if (rc == QL_OK && v[0].kind == V_MISSING)
		rc = str_lit(m, &v[0], "");
	if (rc == QL_OK)
		rc = str_plain(m, v[0], &v[0]);
	if (rc == QL_OK && v[1].kind != V_MISSING && v[1].kind != V_NONE) {
		rc = v_to_list(m, self, &l);
		for (size_t i = 0; rc == QL_OK && i < l->n; i++)
			rc = v_attrpath(m, l->v[i], v[1], v_missing(), &l->v[i]);
		self = (struct val){.kind = V_LIST, .list = l};
	}
	return rc != QL_OK ? rc : text_join(m, v[0], self, out);
}

/* map, select and their kin: what is done with each item. */
struct each {
	struct val attr, def; /* V_MISSING: the item itself */
	struct val name;      /* of a filter (map) or test; V_MISSING: none */
	struct args rest;
	bool keep; /* select: true, reject: false */
};

static int next_map(struct vm *m, struct iter *it, struct val *out)
{
	const struct each *e = it->state;
	int rc = iter_next(m, it->in, out);

	if (rc != QL_OK || out->kind == V_MISSING)
		return rc;
	if (e->attr.kind != V_MISSING)
		return v_attrpath(m, *out, e->attr, e->def, out);
	if (e->name.kind != V_STR)
		return vm_raise(m, "TemplateRuntimeError", "No filter with this name.");
	return v_filter(m, e->name.s->p, e->name.s->len, *out, &e->rest, out);
}

static int next_select(struct vm *m, struct iter *it, struct val *out)
{
	const struct each *e = it->state;
	bool yes = !e->keep;
	int rc = QL_OK;

	while (rc == QL_OK && yes != e->keep) {
		struct val v;

		rc = iter_next(m, it->in, out);
		if (rc != QL_OK || out->kind == V_MISSING)
			break;
		v = *out;
		if (e->attr.kind != V_MISSING)
			rc = v_attrpath(m, *out, e->attr, v_missing(), &v);
		if (rc == QL_OK && e->name.kind == V_MISSING)
			rc = v_truth(m, v, &yes);
		else if (rc == QL_OK && e->name.kind != V_STR)
			rc = vm_raise(m, "TemplateRuntimeError", "No test with this name.");
		else if (rc == QL_OK)
			rc = v_test(m, e->name.s->p, e->name.s->len, v, &e->rest, &yes);
	}
	return rc;
}

/* A generator over self (nothing when self is false). */
static int generate(struct vm *m, struct val self, struct each *e, int (*next)(struct vm *, struct iter *, struct val *),
		    struct val *out)
{
	struct each *state = vm_alloc(m, sizeof *state);
	struct iter *in, *it;
	struct list *empty;
	bool yes;
	int rc = state == NULL ? m->e->code : v_truth(m, self, &yes);

	if (rc == QL_OK && !yes) {
		rc = v_list_new(m, &empty, 0);
		self = (struct val){.kind = V_LIST, .list = empty};
	}
	if (rc == QL_OK)
		rc = iter_new(m, self, &in);
	if (rc == QL_OK)
		rc = iter_wrap(m, &it, in, next);
	if (rc != QL_OK)
		return rc;
	*state = *e;
	it->state = state;
	*out = (struct val){.kind = V_ITER, .iter = it};
	return QL_OK;
}

int flt_map(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct each e = {.attr = v_missing(), .def = v_missing(), .name = v_missing()};

	for (size_t i = 0; a->n == 0 && i < a->n_kw; i++) {
		if (str_is(a->kw[i].name, "attribute"))
			e.attr = a->kw[i].v;
		else if (str_is(a->kw[i].name, "default"))
			e.def = a->kw[i].v;
		else
			return vm_raise(m, "FilterArgumentError", "Unexpected keyword argument '%.*s'", (int)a->kw[i].name->len,
					a->kw[i].name->p);
	}
	if (e.attr.kind == V_MISSING && a->n == 0)
		return vm_raise(m, "FilterArgumentError", "map requires a filter argument");
	if (a->n > 0) {
		e.name = a->pos[0];
		e.rest = (struct args){a->pos + 1, a->n - 1, a->kw, a->n_kw};
	}
	return generate(m, self, &e, next_map, out);
}

static int select_like(struct vm *m, struct val self, const struct args *a, bool attr, bool keep, struct val *out)
{
	struct each e = {.attr = v_missing(), .def = v_missing(), .name = v_missing(), .keep = keep};
	size_t off = attr;

	if (attr && a->n == 0)
		return vm_raise(m, "FilterArgumentError", "Missing parameter for attribute name");
	if (attr)
		e.attr = a->pos[0];
	if (a->n > off) {
		e.name = a->pos[off];
		e.rest = (struct args){a->pos + off + 1, a->n - off - 1, a->kw, a->n_kw};
	}
	return generate(m, self, &e, next_select, out);
}

int flt_select(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return select_like(m, self, a, false, true, out);
}
int flt_reject(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return select_like(m, self, a, false, false, out);
}
int flt_selectattr(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return select_like(m, self, a, true, true, out);
}
int flt_rejectattr(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return select_like(m, self, a, true, false, out);
}

int flt_reverse(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct list *l;
	int rc = none(m, "do_reverse", a);

	if (rc != QL_OK)
		return rc;
	if (self.kind == V_STR)
		return v_slice(m, self, v_missing(), v_missing(), v_int(-1), out);
	if (!v_iterable(self))
		return vm_raise(m, "FilterArgumentError", "argument must be iterable");
	rc = v_to_list(m, self, &l);
	if (rc != QL_OK)
		return rc;
	for (size_t i = 0, j = l->n; i + 1 < j; i++) {
		struct val t = l->v[i];

		l->v[i] = l->v[--j];
		l->v[j] = t;
	}
	*out = (struct val){.kind = V_LIST, .list = l};
	return reversible(self) ? iter_of(m, *out, out) : QL_OK;
}

int flt_batch(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"linecount", "fill_with", NULL};
	struct list *all, *rows, *row = NULL;
	struct val v[2], r;
	int rc = args_bind(m, "do_batch", a, names, 1, v);

	if (rc == QL_OK && (!v_is_intlike(v[0]) || v_as_int(v[0]) < 1 || v_as_int(v[0]) > 100000))
		rc = vm_raise(m, "TypeError", "batch needs a positive integer");
	if (rc == QL_OK)
		rc = v_to_list(m, self, &all);
	if (rc == QL_OK)
		rc = v_list_new(m, &rows, 0);
	for (size_t i = 0; rc == QL_OK && i < all->n; i++) {
		if (i % (size_t)v_as_int(v[0]) == 0) {
			rc = v_list_new(m, &row, 0);
			if (rc == QL_OK)
				rc = v_list_add(m, rows, (struct val){.kind = V_LIST, .list = row});
		}
		if (rc == QL_OK)
			rc = v_list_add(m, row, all->v[i]);
	}
	while (rc == QL_OK && row != NULL && v[1].kind != V_MISSING && v[1].kind != V_NONE && row->n < (size_t)v_as_int(v[0]))
		rc = v_list_add(m, row, v[1]);
	r = (struct val){.kind = V_LIST, .list = rows};
	return rc != QL_OK ? rc : iter_of(m, r, out);
}
