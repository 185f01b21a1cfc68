/* methods_str.c - methods of strings that search, cut and change them. */
#include <string.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/methods.h"
#include "core/text/tmpl/text_ops.h"

static int need_str(struct vm *m, struct val v)
{
	return v.kind == V_STR ? QL_OK : vm_raise(m, "TypeError", "must be str, not %s", v_type(v));
}

static int strip(struct vm *m, struct val self, const struct args *a, int sides, struct val *out)
{
	static const char *const names[] = {"chars", NULL};
	struct val chars;
	int rc = args_bind(m, "strip", a, names, 0, &chars);

	return rc != QL_OK ? rc : text_strip(m, self, chars, sides, out);
}
static int s_strip(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return strip(m, self, a, STRIP_LEFT | STRIP_RIGHT, out);
}
static int s_lstrip(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return strip(m, self, a, STRIP_LEFT, out);
}
static int s_rstrip(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return strip(m, self, a, STRIP_RIGHT, out);
}

static int no_args(struct vm *m, const char *who, const struct args *a)
{
	static const char *const names[] = {NULL};

	return args_bind(m, who, a, names, 0, NULL);
}
static int s_upper(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = no_args(m, "upper", a);

	return rc != QL_OK ? rc : text_case(m, self, true, out);
}
static int s_lower(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = no_args(m, "lower", a);

	return rc != QL_OK ? rc : text_case(m, self, false, out);
}
static int s_capitalize(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = no_args(m, "capitalize", a);

	return rc != QL_OK ? rc : text_capitalize(m, self, out);
}

/* str.title: a cased letter after an uncased one begins a word. */
static int s_title(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	const struct str *s = self.s;
	struct sb b = {0};
	bool inside = false;
	int rc = no_args(m, "title", a);

	if (rc == QL_OK)
		rc = vm_step(m, s->len * 32);
	for (size_t i = 0; i < s->len && rc == QL_OK;) {
		uint32_t cp, o[3];
		size_t k = text_cp(s, i, &cp);
		int n = inside ? uni_lower(cp, o) : uni_title(cp, o);

		for (int j = 0; j < n && rc == QL_OK; j++)
			rc = sb_cp(m, &b, o[j], s, i);
		inside = uni_is_cased(cp);
		i += k;
	}
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

int method_range(struct vm *m, struct str *s, struct val start, struct val end, size_t *from, size_t *to)
{
	struct val v[2] = {start, end};
	int64_t n = (int64_t)str_ncp(s), at[2] = {0, n};

	for (int i = 0; i < 2; i++) {
		if (v[i].kind == V_MISSING || v[i].kind == V_NONE)
			continue;
		if (!v_is_intlike(v[i]))
			return vm_raise(m, "TypeError", "slice indices must be integers or None or have an __index__ method");
		at[i] = v_as_int(v[i]);
		if (at[i] < 0)
			at[i] = at[i] < -n ? 0 : at[i] + n;
	}
	*to = at[1] >= n ? s->len : str_off(s, (size_t)at[1]);
	*from = at[0] > n ? SIZE_MAX : str_off(s, (size_t)at[0]);
	return vm_step(m, s->len);
}

static int affix(struct vm *m, struct val self, const struct args *a, bool end, struct val *out)
{
	struct list one = {0};
	const struct list *l = &one;
	size_t from, to;
	struct val what;
	bool yes = false;
	int rc;

	if (a->n_kw > 0 || a->n < 1 || a->n > 3)
		return vm_raise(m, "TypeError", "startswith() takes 1 to 3 arguments (%zu given)", a->n + a->n_kw);
	rc = method_range(m, self.s, a->n > 1 ? a->pos[1] : v_missing(), a->n > 2 ? a->pos[2] : v_missing(), &from, &to);
	what = a->pos[0];
	one.v = &what;
	one.n = 1;
	if (what.kind == V_TUPLE)
		l = what.list;
	for (size_t i = 0; rc == QL_OK && i < l->n && !yes; i++) {
		const struct str *x = l->v[i].s;

		if (l->v[i].kind != V_STR)
			return vm_raise(m, "TypeError", "%s first arg must be str or a tuple of str, not %s",
					end ? "endswith" : "startswith", v_type(l->v[i]));
		yes = from <= to && to - from >= x->len && memcmp(self.s->p + (end ? to - x->len : from), x->p, x->len) == 0;
		rc = vm_step(m, x->len);
	}
	*out = v_bool(yes);
	return rc;
}
static int s_startswith(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return affix(m, self, a, false, out);
}
static int s_endswith(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return affix(m, self, a, true, out);
}

static int remove_affix(struct vm *m, struct val self, const struct args *a, bool end, struct val *out)
{
	static const char *const names[] = {"affix", NULL};
	const struct str *s = self.s;
	struct val x;
	size_t n;
	int rc = args_bind(m, end ? "removesuffix" : "removeprefix", a, names, 1, &x);

	if (rc == QL_OK)
		rc = need_str(m, x);
	if (rc != QL_OK)
		return rc;
	n = x.s->len;
	*out = self;
	if (n == 0 || n > s->len || memcmp(end ? s->p + s->len - n : s->p, x.s->p, n) != 0)
		return QL_OK;
	return end ? str_sub(m, out, s, 0, s->len - n) : str_sub(m, out, s, n, s->len);
}
static int s_removeprefix(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return remove_affix(m, self, a, false, out);
}
static int s_removesuffix(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return remove_affix(m, self, a, true, out);
}

static int s_replace(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"old", "new", "count", NULL};
	int64_t count = -1;
	struct val v[3];
	int rc = args_bind(m, "replace", a, names, 2, v);

	for (int i = 0; i < 2 && rc == QL_OK; i++)
		rc = need_str(m, v[i]);
	if (rc == QL_OK && v[2].kind != V_MISSING) {
		if (!v_is_intlike(v[2]))
			return vm_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer", v_type(v[2]));
		count = v_as_int(v[2]);
	}
	for (int i = 0; i < 2 && rc == QL_OK && self.s->safe; i++)
		rc = str_escape(m, &v[i], v[i]);
	return rc != QL_OK ? rc : text_replace(m, self, v[0], v[1], count, out);
}

/* find, rfind, index, rindex */
static int search(struct vm *m, struct val self, const struct args *a, bool right, bool must, struct val *out)
{
	size_t from, to, at;
	int rc;

	if (a->n_kw > 0 || a->n < 1 || a->n > 3)
		return vm_raise(m, "TypeError", "find() takes 1 to 3 arguments (%zu given)", a->n + a->n_kw);
	rc = need_str(m, a->pos[0]);
	if (rc == QL_OK)
		rc = method_range(m, self.s, a->n > 1 ? a->pos[1] : v_missing(), a->n > 2 ? a->pos[2] : v_missing(), &from, &to);
	if (rc == QL_OK && right)
		rc = vm_step(m, self.s->len * (a->pos[0].s->len / 16 + 4));
	if (rc != QL_OK)
		return rc;
	at = right ? text_rfind(self.s, a->pos[0].s, from, to) : text_find(self.s, a->pos[0].s, from, to);
	if (at == SIZE_MAX && must)
		return vm_raise(m, "ValueError", "substring not found");
	*out = v_int(-1);
	if (at != SIZE_MAX) {
		int64_t cp = 0;

		for (size_t i = 0; i < at; i++)
			cp += ((unsigned char)self.s->p[i] & 0xc0) != 0x80;
		*out = v_int(cp);
	}
	return QL_OK;
}
static int s_find(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return search(m, self, a, false, false, out);
}
static int s_rfind(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return search(m, self, a, true, false, out);
}
static int s_index(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return search(m, self, a, false, true, out);
}
static int s_rindex(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return search(m, self, a, true, true, out);
}

static int s_count(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	size_t from, to;
	int64_t n = 0;
	int rc;

	if (a->n_kw > 0 || a->n < 1 || a->n > 3)
		return vm_raise(m, "TypeError", "count() takes 1 to 3 arguments (%zu given)", a->n + a->n_kw);
	rc = need_str(m, a->pos[0]);
	if (rc == QL_OK)
		rc = method_range(m, self.s, a->n > 1 ? a->pos[1] : v_missing(), a->n > 2 ? a->pos[2] : v_missing(), &from, &to);
	if (rc != QL_OK)
		return rc;
	if (a->pos[0].s->len == 0) {
		for (size_t i = from; i < to && from != SIZE_MAX; i++)
			n += ((unsigned char)self.s->p[i] & 0xc0) != 0x80;
		n += from <= to;
	}
	while (a->pos[0].s->len > 0 && (from = text_find(self.s, a->pos[0].s, from, to)) != SIZE_MAX) {
		from += a->pos[0].s->len;
		n++;
		m->work += 64;
	}
	*out = v_int(n);
	return vm_step(m, 0);
}

const struct method_entry str_methods[] = {
	{"strip", s_strip, false}, {"lstrip", s_lstrip, false}, {"rstrip", s_rstrip, false}, {"upper", s_upper, false},
	{"lower", s_lower, false}, {"capitalize", s_capitalize, false}, {"title", s_title, false},
	{"startswith", s_startswith, false}, {"endswith", s_endswith, false}, {"removeprefix", s_removeprefix, false},
	{"removesuffix", s_removesuffix, false}, {"replace", s_replace, false}, {"find", s_find, false},
	{"rfind", s_rfind, false}, {"index", s_index, false}, {"rindex", s_rindex, false}, {"count", s_count, false},
	{NULL, NULL, false}};
