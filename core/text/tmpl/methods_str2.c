/* methods_str2.c - methods of strings that split, join, pad, classify and format. */
#include <string.h>
#include <utf8proc.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/methods.h"
#include "core/text/tmpl/text_ops.h"

static int add_part(struct vm *m, struct list *l, const struct str *s, size_t from, size_t to)
{
	struct val part;
	int rc = str_sub(m, &part, s, from, to);

	return rc != QL_OK ? rc : v_list_add(m, l, part);
}

/* By runs of white space, at most max cuts. */
static int split_space(struct vm *m, const struct str *s, int64_t max, struct list *l)
{
	size_t i = 0;
	uint32_t cp;
	int rc = QL_OK;

	while (rc == QL_OK) {
		size_t from, k;

		for (; i < s->len; i += k) {
			k = text_cp(s, i, &cp);
			if (!uni_space(cp))
				break;
		}
		if (i >= s->len)
			break;
		from = i;
		if (max-- == 0) {
			return add_part(m, l, s, from, s->len); /* the rest as it is, its end too */
		}
		for (; i < s->len; i += k) {
			k = text_cp(s, i, &cp);
			if (uni_space(cp))
				break;
		}
		rc = add_part(m, l, s, from, i);
	}
	return rc;
}

static size_t back(const struct str *s, size_t i, uint32_t *cp)
{
	i--;
	while (i > 0 && ((unsigned char)s->p[i] & 0xc0) == 0x80)
		i--;
	(void)text_cp(s, i, cp);
	return i;
}

static int rsplit_space(struct vm *m, const struct str *s, int64_t max, struct list *l)
{
	size_t end = s->len, i, j;
	uint32_t cp;
	int rc = QL_OK;

	while (rc == QL_OK) {
		while (end > 0 && (i = back(s, end, &cp), uni_space(cp)))
			end = i;
		if (end == 0)
			break;
		if (max-- == 0) {
			return add_part(m, l, s, 0, end);
		}
		for (j = end; j > 0 && (i = back(s, j, &cp), !uni_space(cp));)
			j = i;
		rc = add_part(m, l, s, j, end);
		end = j;
	}
	return rc;
}

static int split_on(struct vm *m, const struct str *s, const struct str *sep, int64_t max, bool right, struct list *l)
{
	size_t from = 0, to = s->len;
	int rc = vm_step(m, right ? s->len * (sep->len / 16 + 4) : s->len);

	for (; rc == QL_OK && max != 0; max--) {
		size_t at = right ? text_rfind(s, sep, 0, to) : text_find(s, sep, from, s->len);

		if (at == SIZE_MAX)
			break;
		rc = right ? add_part(m, l, s, at + sep->len, to) : add_part(m, l, s, from, at);
		if (right)
			to = at;
		else
			from = at + sep->len;
	}
	return rc != QL_OK ? rc : add_part(m, l, s, from, to);
}

static int split(struct vm *m, struct val self, const struct args *a, bool right, struct val *out)
{
	static const char *const names[] = {"sep", "maxsplit", NULL};
	struct val v[2];
	struct list *l;
	int64_t max = -1;
	int rc = args_bind(m, "split", a, names, 0, v);

	if (rc == QL_OK)
		rc = v_list_new(m, &l, 0);
	if (rc != QL_OK)
		return rc;
	if (v[1].kind != V_MISSING && !v_is_intlike(v[1]))
		return vm_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer", v_type(v[1]));
	if (v[1].kind != V_MISSING)
		max = v_as_int(v[1]);
	if (v[0].kind == V_MISSING || v[0].kind == V_NONE) {
		rc = vm_step(m, self.s->len * 8);
		if (rc == QL_OK)
			rc = right ? rsplit_space(m, self.s, max, l) : split_space(m, self.s, max, l);
	} else if (v[0].kind != V_STR) {
		return vm_raise(m, "TypeError", "must be str or None, not %s", v_type(v[0]));
	} else if (v[0].s->len == 0) {
		return vm_raise(m, "ValueError", "empty separator");
	} else {
		rc = split_on(m, self.s, v[0].s, max, right, l);
	}
	for (size_t i = 0, j = l->n; rc == QL_OK && right && i + 1 < j; i++) {
		struct val t = l->v[i];

		l->v[i] = l->v[--j];
		l->v[j] = t;
	}
	return rc != QL_OK ? rc : v_list(m, out, l);
}
static int s_split(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return split(m, self, a, false, out);
}
static int s_rsplit(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return split(m, self, a, true, out);
}

static int s_splitlines(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"keepends", NULL};
	struct list *l;
	struct val v;
	bool keep = false;
	int rc = args_bind(m, "splitlines", a, names, 0, &v);

	if (rc == QL_OK && v.kind != V_MISSING)
		rc = v_truth(m, v, &keep);
	if (rc == QL_OK)
		rc = v_list_new(m, &l, 0);
	if (rc == QL_OK)
		rc = text_splitlines(m, self, keep, l);
	return rc != QL_OK ? rc : v_list(m, out, l);
}

static int partition(struct vm *m, struct val self, const struct args *a, bool right, struct val *out)
{
	static const char *const names[] = {"sep", NULL};
	const struct str *s = self.s;
	struct list *l;
	struct val sep;
	size_t at;
	int rc = args_bind(m, "partition", a, names, 1, &sep);

	if (rc == QL_OK && sep.kind != V_STR)
		rc = vm_raise(m, "TypeError", "must be str, not %s", v_type(sep));
	if (rc == QL_OK && sep.s->len == 0)
		rc = vm_raise(m, "ValueError", "empty separator");
	if (rc == QL_OK)
		rc = v_list_new(m, &l, 3);
	if (rc == QL_OK)
		rc = vm_step(m, s->len * (sep.s->len / 16 + 4));
	if (rc != QL_OK)
		return rc;
	at = right ? text_rfind(s, sep.s, 0, s->len) : text_find(s, sep.s, 0, s->len);
	if (at != SIZE_MAX) {
		rc = add_part(m, l, s, 0, at);
		if (rc == QL_OK)
			rc = add_part(m, l, s, at, at + sep.s->len);
		if (rc == QL_OK)
			rc = add_part(m, l, s, at + sep.s->len, s->len);
	} else {
		for (int i = 0; i < 3 && rc == QL_OK; i++)
			rc = (right ? i == 2 : i == 0) ? v_list_add(m, l, self) : add_part(m, l, s, 0, 0);
	}
	*out = (struct val){.kind = V_TUPLE, .list = l};
	return rc;
}
static int s_partition(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return partition(m, self, a, false, out);
}
static int s_rpartition(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return partition(m, self, a, true, out);
}

static int s_join(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct list *l;
	struct val v;
	int rc;

	if (a->n_kw > 0 || a->n != 1)
		return vm_raise(m, "TypeError", "str.join() takes exactly one argument (%zu given)", a->n + a->n_kw);
	if (!v_iterable(a->pos[0]))
		return vm_raise(m, "TypeError", "can only join an iterable");
	rc = v_to_list(m, a->pos[0], &l);
	for (size_t i = 0; rc == QL_OK && i < l->n; i++) {
		if (l->v[i].kind != V_STR)
			rc = vm_raise(m, "TypeError", "sequence item %zu: expected str instance, %s found", i, v_type(l->v[i]));
		else if (self.s->safe)
			rc = str_escape(m, &l->v[i], l->v[i]);
	}
	v = (struct val){.kind = V_LIST, .list = l};
	if (rc == QL_OK)
		rc = text_join(m, self, v, out);
	if (rc == QL_OK)
		out->s->safe = self.s->safe;
	return rc;
}

static int just(struct vm *m, struct val self, const struct args *a, char align, struct val *out)
{
	struct spec sp = {.align = align, .precision = -1};
	struct sb b = {0};
	size_t n = str_ncp(self.s);
	int rc;

	if (a->n_kw > 0 || a->n < 1 || a->n > 2 || !v_is_intlike(a->pos[0]))
		return vm_raise(m, "TypeError", "expected a width and an optional fill character");
	if (a->n == 2) {
		if (a->pos[1].kind != V_STR || str_ncp(a->pos[1].s) != 1)
			return vm_raise(m, "TypeError", "The fill character must be exactly one character long");
		(void)text_cp(a->pos[1].s, 0, &sp.fill);
	}
	*out = self;
	if (v_as_int(a->pos[0]) <= (int64_t)n)
		return QL_OK;
	sp.width = (size_t)v_as_int(a->pos[0]);
	if (align == '^' && (sp.width - n) % 2 == 1 && sp.width % 2 == 1) { /* str.center rounds the other way */
		struct spec one = {.align = '>', .fill = sp.fill, .width = n + 1, .precision = -1};
		struct val v;

		rc = fmt_value(m, &b, &one, self, false);
		if (rc == QL_OK)
			rc = sb_end(m, &b, &v);
		b = (struct sb){0};
		if (rc == QL_OK)
			rc = fmt_value(m, &b, &sp, v, false);
	} else {
		rc = fmt_value(m, &b, &sp, (struct val){.kind = V_STR, .s = self.s}, false);
	}
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}
static int s_ljust(struct vm *m, struct val self, const struct args *a, struct val *out) { return just(m, self, a, '<', out); }
static int s_rjust(struct vm *m, struct val self, const struct args *a, struct val *out) { return just(m, self, a, '>', out); }
static int s_center(struct vm *m, struct val self, const struct args *a, struct val *out) { return just(m, self, a, '^', out); }

/* Every character in the class, and at least one. */
static int classify(struct vm *m, struct val self, const struct args *a, bool (*in)(uint32_t cp), struct val *out)
{
	static const char *const names[] = {NULL};
	const struct str *s = self.s;
	bool yes = s->len > 0;
	int rc = args_bind(m, "is…", a, names, 0, NULL);

	if (rc == QL_OK)
		rc = vm_step(m, s->len * 32);
	for (size_t i = 0; rc == QL_OK && i < s->len && yes;) {
		uint32_t cp;

		i += text_cp(s, i, &cp);
		yes = in(cp);
	}
	*out = v_bool(yes);
	return rc;
}
static bool is_letter(uint32_t cp)
{
	int c = uni_category(cp);

	return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}
static bool is_decimal(uint32_t cp) { return uni_category(cp) == UTF8PROC_CATEGORY_ND; }
static bool is_alnum(uint32_t cp)
{
	int c = uni_category(cp);

	return is_letter(cp) || c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}
static bool is_ascii(uint32_t cp) { return cp < 0x80; }
static int s_isdigit(struct vm *m, struct val s, const struct args *a, struct val *out) { return classify(m, s, a, uni_digit, out); }
static int s_isdecimal(struct vm *m, struct val s, const struct args *a, struct val *out)
{
	return classify(m, s, a, is_decimal, out);
}
static int s_isalpha(struct vm *m, struct val s, const struct args *a, struct val *out) { return classify(m, s, a, is_letter, out); }
static int s_isalnum(struct vm *m, struct val s, const struct args *a, struct val *out) { return classify(m, s, a, is_alnum, out); }
static int s_isspace(struct vm *m, struct val s, const struct args *a, struct val *out) { return classify(m, s, a, uni_space, out); }
static int s_isascii(struct vm *m, struct val s, const struct args *a, struct val *out)
{
	int rc = classify(m, s, a, is_ascii, out);

	out->b |= s.s->len == 0;
	return rc;
}

static int cased(struct vm *m, struct val self, const struct args *a, bool upper, struct val *out)
{
	static const char *const names[] = {NULL};
	bool any = false, yes = true;
	int rc = args_bind(m, upper ? "isupper" : "islower", a, names, 0, NULL);

	if (rc == QL_OK)
		rc = vm_step(m, self.s->len * 32);
	for (size_t i = 0; rc == QL_OK && i < self.s->len && yes;) {
		uint32_t cp;
		int c;

		i += text_cp(self.s, i, &cp);
		c = uni_category(cp);
		any |= c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL;
		yes = c != UTF8PROC_CATEGORY_LT && c != (upper ? UTF8PROC_CATEGORY_LL : UTF8PROC_CATEGORY_LU);
	}
	*out = v_bool(any && yes);
	return rc;
}
static int s_isupper(struct vm *m, struct val s, const struct args *a, struct val *out) { return cased(m, s, a, true, out); }
static int s_islower(struct vm *m, struct val s, const struct args *a, struct val *out) { return cased(m, s, a, false, out); }

const struct method_entry str_methods2[] = {
	{"split", s_split, false}, {"rsplit", s_rsplit, false}, {"splitlines", s_splitlines, false},
	{"partition", s_partition, false}, {"rpartition", s_rpartition, false}, {"join", s_join, false},
	{"ljust", s_ljust, false}, {"rjust", s_rjust, false}, {"center", s_center, false}, {"format", v_format, false},
	{"isdigit", s_isdigit, false}, {"isdecimal", s_isdecimal, false}, {"isalpha", s_isalpha, false},
	{"isalnum", s_isalnum, false}, {"isspace", s_isspace, false}, {"isascii", s_isascii, false},
	{"isupper", s_isupper, false}, {"islower", s_islower, false}, {"zfill", NULL, false}, {"swapcase", NULL, false},
	{"casefold", NULL, false}, {"encode", NULL, false}, {"expandtabs", NULL, false}, {"format_map", NULL, false},
	{"isidentifier", NULL, false}, {"isnumeric", NULL, false}, {"isprintable", NULL, false}, {"istitle", NULL, false},
	{"maketrans", NULL, false}, {"translate", NULL, false}, {NULL, NULL, false}};
