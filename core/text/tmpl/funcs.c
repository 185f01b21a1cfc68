/* funcs.c - global functions and the loop object. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/tmpl.h"

static int f_raise(struct vm *m, const struct args *a, struct val *out)
{
	static const char *const names[] = {"message", NULL};
	struct val v;
	int rc = args_bind(m, "raise_exception", a, names, 1, &v);

	if (rc == QL_OK)
		rc = v_to_str(m, v, out);
	if (rc != QL_OK)
		return rc;
	return ql_err_param(m->e, QL_EINVAL, "messages", "%.*s", (int)(out->s->len > 480 ? 480 : out->s->len), out->s->p);
}

static int f_strftime(struct vm *m, const struct args *a, struct val *out)
{
	static const char *const names[] = {"format", NULL};
	time_t now = (time_t)m->env->now_unix;
	char fmt[256], text[512];
	size_t n = 0;
	struct tm tm;
	struct val v;
	int rc = args_bind(m, "strftime_now", a, names, 1, &v);

	if (rc == QL_OK)
		rc = vm_step(m, 2048);
	if (rc != QL_OK)
		return rc;
	if (v.kind != V_STR)
		return vm_raise(m, "TypeError", "strftime() argument 1 must be str, not %s", v_type(v));
	if (v.s->len > 100)
		return vm_limit(m, "strftime_now format longer than 100 bytes");
	for (size_t i = 0; i < v.s->len; i++) { /* what Python itself replaces for a naive time: %f, %z, %Z */
		char next = i + 1 < v.s->len ? v.s->p[i + 1] : '\0';

		if (v.s->p[i] == '%' && (next == 'z' || next == 'Z')) {
			i++;
		} else if (v.s->p[i] == '%' && next == 'f') {
			memcpy(fmt + n, "000000", 6);
			n += 6;
			i++;
			if (n > sizeof fmt - 10)
				return vm_limit(m, "strftime_now format too long");
		} else {
			fmt[n++] = v.s->p[i];
			if (v.s->p[i] == '%' && next != '\0')
				fmt[n++] = v.s->p[++i];
		}
		if (n > sizeof fmt - 10)
			return vm_limit(m, "strftime_now format too long");
	}
	fmt[n] = '\0';
	if (localtime_r(&now, &tm) == NULL)
		return vm_raise(m, "OverflowError", "timestamp out of range");
	return str_copy(m, out, text, strftime(text, sizeof text, fmt, &tm));
}

static int f_range(struct vm *m, const struct args *a, struct val *out)
{
	int64_t v[3] = {0, 0, 1};

	if (a->n_kw > 0)
		return vm_raise(m, "TypeError", "range() takes no keyword arguments");
	if (a->n < 1 || a->n > 3)
		return vm_raise(m, "TypeError", "range expected at most 3 arguments, got %zu", a->n);
	for (size_t i = 0; i < a->n; i++) {
		if (!v_is_intlike(a->pos[i]))
			return vm_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer", v_type(a->pos[i]));
		v[a->n == 1 ? 1 : i] = v_as_int(a->pos[i]);
	}
	return iter_range_new(m, out, v[0], v[1], v[2]);
}

static int f_dict(struct vm *m, const struct args *a, struct val *out)
{
	struct dict *d;
	int rc = v_dict_new(m, &d);

	*out = (struct val){.kind = V_DICT, .dict = d};
	return rc != QL_OK ? rc : v_dict_from(m, d, a, "dict");
}

static int f_namespace(struct vm *m, const struct args *a, struct val *out)
{
	struct ns *ns = vm_alloc(m, sizeof *ns);
	int rc = ns == NULL ? m->e->code : v_dict_from(m, &ns->attrs, a, "namespace");

	for (size_t i = 0; rc == QL_OK && i < ns->attrs.n; i++) {
		struct val k = ns->attrs.e[i].key;

		if (k.kind == V_STR && k.s->len > 0 && k.s->p[0] == '_')
			rc = vm_raise(m, "SecurityError",
				      "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '%.*s'.",
				      (int)(k.s->len > 60 ? 60 : k.s->len), k.s->p);
	}
	*out = (struct val){.kind = V_NS, .ns = ns};
	return rc;
}

static int f_unsupported(struct vm *m, const struct args *a, struct val *out)
{
	(void)a;
	(void)out;
	return vm_unsupported(m, "this function (cycler, joiner or lipsum)");
}

const struct func *func_find(const char *name, size_t len)
{
	static const struct func funcs[] = {
		{"raise_exception", f_raise}, {"strftime_now", f_strftime}, {"range", f_range}, {"dict", f_dict},
		{"namespace", f_namespace}, {"cycler", f_unsupported}, {"joiner", f_unsupported}, {"lipsum", f_unsupported},
	};

	for (size_t i = 0; i < sizeof funcs / sizeof funcs[0]; i++)
		if (strlen(funcs[i].name) == len && memcmp(funcs[i].name, name, len) == 0)
			return &funcs[i];
	return NULL;
}

int loop_advance(struct vm *m, struct loop *l, struct val *out)
{
	int rc = QL_OK;

	if (l->have_after) {
		*out = l->after;
		l->have_after = false;
	} else {
		rc = iter_next(m, l->it, out);
	}
	if (rc != QL_OK || out->kind == V_MISSING)
		return rc;
	l->index0++; /* starts at SIZE_MAX */
	l->before = l->current;
	l->current = *out;
	return QL_OK;
}

/* The next item without taking it; V_MISSING at the end. */
static int loop_peek(struct vm *m, struct loop *l, struct val *out)
{
	int rc = QL_OK;

	if (!l->have_after) {
		rc = iter_next(m, l->it, &l->after);
		l->have_after = rc == QL_OK && l->after.kind != V_MISSING;
	}
	*out = l->have_after ? l->after : v_missing();
	return rc;
}

static int loop_length(struct vm *m, struct loop *l, size_t *out)
{
	struct list *rest;
	int rc;

	if (!l->have_length && l->iterable.kind != V_ITER && l->iterable.kind != V_LOOP) {
		rc = v_len(m, l->iterable, &l->length);
		if (rc != QL_OK)
			return rc;
		l->have_length = true;
	}
	if (!l->have_length) {
		rc = v_to_list(m, (struct val){.kind = V_ITER, .iter = l->it}, &rest);
		if (rc == QL_OK)
			rc = iter_new(m, (struct val){.kind = V_LIST, .list = rest}, &l->it);
		if (rc != QL_OK)
			return rc;
		l->length = rest->n + (l->index0 + 1) + l->have_after;
		l->have_length = true;
	}
	*out = l->length;
	return QL_OK;
}

static int m_cycle(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	if (a->n == 0)
		return vm_raise(m, "TypeError", "no items for cycling given");
	*out = a->pos[self.loop->index0 % a->n];
	return QL_OK;
}

static int m_changed(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct loop *l = self.loop;
	struct list *now;
	struct val v;
	bool same = false;
	int rc = v_list_new(m, &now, a->n);

	for (size_t i = 0; rc == QL_OK && i < a->n; i++)
		rc = v_list_add(m, now, a->pos[i]);
	v = (struct val){.kind = V_TUPLE, .list = now};
	if (rc == QL_OK && l->changed.kind == V_TUPLE)
		rc = v_eq(m, l->changed, v, &same);
	if (rc == QL_OK && !same)
		l->changed = v;
	*out = v_bool(!same);
	return rc;
}

static int bind_loop(struct vm *m, struct val loop, const char *name, method_fn *fn, struct val *out)
{
	struct method *b = vm_alloc(m, sizeof *b);

	if (b == NULL)
		return m->e->code;
	*b = (struct method){loop, name, fn};
	*out = (struct val){.kind = V_METHOD, .method = b};
	return QL_OK;
}

int loop_attr(struct vm *m, struct val v, const char *name, size_t len, struct val *out)
{
	static const char *const names[] = {"index", "index0", "first", "last", "length", "revindex", "revindex0", "previtem",
					    "nextitem", "depth", "depth0", "cycle", "changed"};
	struct loop *l = v.loop;
	size_t k = 0, n = 0;
	int rc = QL_OK;

	*out = v_missing();
	while (k < 13 && !(strlen(names[k]) == len && memcmp(names[k], name, len) == 0))
		k++;
	switch (k) {
	case 0:
	case 1:
		*out = v_int((int64_t)l->index0 + (k == 0));
		return QL_OK;
	case 2:
		*out = v_bool(l->index0 == 0);
		return QL_OK;
	case 3:
		rc = loop_peek(m, l, out);
		*out = v_bool(out->kind == V_MISSING);
		return rc;
	case 4:
	case 5:
	case 6:
		rc = loop_length(m, l, &n);
		*out = v_int(k == 4 ? (int64_t)n : (int64_t)n - (int64_t)l->index0 - (k == 6));
		return rc;
	case 7:
		if (l->index0 == 0)
			return v_undef(m, out, "there is no previous item", v_missing(), v_none(), false);
		*out = l->before;
		return QL_OK;
	case 8:
		rc = loop_peek(m, l, out);
		if (rc == QL_OK && out->kind == V_MISSING)
			return v_undef(m, out, "there is no next item", v_missing(), v_none(), false);
		return rc;
	case 9:
	case 10:
		*out = v_int(k == 9);
		return QL_OK;
	case 11:
		return bind_loop(m, v, "cycle", m_cycle, out);
	case 12:
		return bind_loop(m, v, "changed", m_changed, out);
	default:
		return QL_OK;
	}
}
