/* args.c - evaluation of the arguments of a call, * and ** included. */
#include <string.h>

#include "core/text/tmpl/ast.h"

static int add_star(struct vm *m, const struct node *n, struct list *l)
{
	struct iter *it;
	struct val v;
	int rc = vm_eval(m, n, &v);

	if (rc == QL_OK)
		rc = iter_new(m, v, &it);
	while (rc == QL_OK && (rc = iter_next(m, it, &v)) == QL_OK && v.kind != V_MISSING)
		rc = v_list_add(m, l, v);
	return rc;
}

static int add_starstar(struct vm *m, const struct node *n, struct args *out)
{
	struct kwarg *kw;
	struct val v;
	size_t k;
	int rc = vm_eval(m, n, &v);

	if (rc != QL_OK)
		return rc;
	if (v.kind != V_DICT)
		return vm_raise(m, "TypeError", "argument after ** must be a mapping, not %s", v_type(v));
	kw = vm_alloc(m, (out->n_kw + v.dict->n) * sizeof *kw);
	if (kw == NULL)
		return m->e->code;
	if (out->n_kw > 0)
		memcpy(kw, out->kw, out->n_kw * sizeof *kw);
	k = out->n_kw;
	for (size_t i = 0; i < v.dict->n; i++) {
		if (v.dict->e[i].key.kind != V_STR)
			return vm_raise(m, "TypeError", "keywords must be strings");
		kw[k++] = (struct kwarg){v.dict->e[i].key.s, v.dict->e[i].value};
	}
	out->kw = kw;
	out->n_kw = k;
	return vm_step(m, v.dict->n * 8);
}

int vm_eval_args(struct vm *m, const struct ncall *c, struct args *out)
{
	struct kwarg *kw = NULL;
	struct list l = {0};
	int rc = QL_OK;

	*out = (struct args){0};
	if (c == NULL)
		return QL_OK;
	if (c->n > 0) {
		l.v = vm_alloc(m, c->n * sizeof *l.v);
		if (l.v == NULL)
			return m->e->code;
		l.cap = c->n;
	}
	for (uint32_t i = 0; i < c->n && rc == QL_OK; i++) {
		rc = vm_eval(m, c->pos[i], &l.v[i]);
		l.n = i + 1;
	}
	if (rc == QL_OK && c->star != NULL)
		rc = add_star(m, c->star, &l);
	if (rc == QL_OK && c->n_kw > 0) {
		kw = vm_alloc(m, c->n_kw * sizeof *kw);
		if (kw == NULL)
			return m->e->code;
	}
	for (uint32_t i = 0; i < c->n_kw && rc == QL_OK; i++) {
		kw[i].name = c->kw_names[i];
		rc = vm_eval(m, c->kw[i], &kw[i].v);
	}
	out->pos = l.v;
	out->n = l.n;
	out->kw = kw;
	out->n_kw = c->n_kw;
	if (rc == QL_OK && c->starstar != NULL)
		rc = add_starstar(m, c->starstar, out);
	return rc;
}
