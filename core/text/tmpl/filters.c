/* filters.c - the table of filters, and those on strings and single values. */
#include "core/text/tmpl/filters.h"

#include <string.h>

#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/text_ops.h"

int flt_bool(struct vm *m, struct val v, bool absent, bool *out)
{
	*out = absent;
	return v.kind == V_MISSING ? QL_OK : v_truth(m, v, out);
}

static int none(struct vm *m, const char *who, const struct args *a)
{
	static const char *const names[] = {NULL};

	return args_bind(m, who, a, names, 0, NULL);
}

static int f_trim(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"chars", NULL};
	struct val chars;
	int rc = args_bind(m, "do_trim", a, names, 0, &chars);

	if (rc == QL_OK)
		rc = v_to_str(m, self, &self);
	return rc != QL_OK ? rc : text_strip(m, self, chars, STRIP_LEFT | STRIP_RIGHT, out);
}

static int f_string(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = none(m, "soft_str", a);

	return rc != QL_OK ? rc : v_to_str(m, self, out);
}

static int with_text(struct vm *m, const char *who, struct val self, const struct args *a, struct val *out)
{
	int rc = none(m, who, a);

	return rc != QL_OK ? rc : v_to_str(m, self, out);
}

static int f_upper(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = with_text(m, "do_upper", self, a, &self);

	return rc != QL_OK ? rc : text_case(m, self, true, out);
}

static int f_lower(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = with_text(m, "do_lower", self, a, &self);

	return rc != QL_OK ? rc : text_case(m, self, false, out);
}

static int f_capitalize(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = with_text(m, "do_capitalize", self, a, &self);

	return rc != QL_OK ? rc : text_capitalize(m, self, out);
}

static bool word_break(uint32_t cp)
{
	return cp == '-' || cp == '(' || cp == '{' || cp == '[' || cp == '<' || uni_space(cp);
}

/* Each run between [-\s({\[<]+ : first character upper, the rest lower. */
static int f_title(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	const struct str *s;
	struct sb b = {0};
	size_t i = 0;
	int rc = with_text(m, "do_title", self, a, &self);

	s = self.s;
	if (rc == QL_OK)
		rc = vm_step(m, s->len * 16);
	while (rc == QL_OK && i < s->len) {
		uint32_t cp;
		size_t from = i, k = text_cp(s, i, &cp);
		bool brk = word_break(cp);

		for (i += k; i < s->len; i += k) {
			k = text_cp(s, i, &cp);
			if (word_break(cp) != brk)
				break;
		}
		k = text_cp(s, from, &cp);
		rc = text_upper_part(m, &b, s, from, from + k);
		if (rc == QL_OK)
			rc = text_lower_part(m, &b, s, from + k, i);
	}
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

static int f_replace(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"old", "new", "count", NULL};
	struct val v[3];
	int64_t count = -1;
	int rc = args_bind(m, "do_replace", a, names, 2, v);

	if (rc == QL_OK && v[2].kind != V_MISSING && v[2].kind != V_NONE) {
		if (!v_is_intlike(v[2]))
			return vm_raise(m, "TypeError", "'%s' object cannot be interpreted as an integer", v_type(v[2]));
		count = v_as_int(v[2]);
	}
	if (rc == QL_OK)
		rc = str_plain(m, self, &self);
	for (int i = 0; i < 2 && rc == QL_OK; i++)
		rc = str_plain(m, v[i], &v[i]);
	return rc != QL_OK ? rc : text_replace(m, self, v[0], v[1], count, out);
}

static int f_default(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"default_value", "boolean", NULL};
	struct val v[2];
	bool boolean, yes = true;
	int rc = args_bind(m, "do_default", a, names, 0, v);

	if (rc == QL_OK)
		rc = flt_bool(m, v[1], false, &boolean);
	if (rc == QL_OK && boolean)
		rc = v_truth(m, self, &yes);
	if (rc != QL_OK)
		return rc;
	*out = self;
	if (self.kind != V_UNDEF && yes)
		return QL_OK;
	if (v[0].kind == V_MISSING)
		return str_lit(m, out, "");
	*out = v[0];
	return QL_OK;
}

static int f_safe(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = with_text(m, "do_mark_safe", self, a, &self);

	if (rc == QL_OK)
		rc = str_sub(m, out, self.s, 0, self.s->len);
	if (rc == QL_OK)
		out->s->safe = true;
	return rc;
}

static int f_escape(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = none(m, "escape", a);

	return rc != QL_OK ? rc : str_escape(m, out, self);
}

static int f_forceescape(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = none(m, "do_forceescape", a);

	if (rc == QL_OK)
		rc = str_plain(m, self, &self);
	return rc != QL_OK ? rc : str_escape(m, out, self);
}

static int f_format(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	struct list l = {(struct val *)(uintptr_t)a->pos, a->n, a->n};
	struct args kw = {.kw = a->kw, .n_kw = a->n_kw};
	struct list *t;
	struct dict *d;
	int rc = v_to_str(m, self, &self);

	if (rc != QL_OK)
		return rc;
	if (a->n > 0 && a->n_kw > 0)
		return vm_raise(m, "FilterArgumentError", "can't handle positional and keyword arguments at the same time");
	if (a->n_kw > 0) {
		rc = v_dict_new(m, &d);
		if (rc == QL_OK)
			rc = v_dict_from(m, d, &kw, "format");
		return rc != QL_OK ? rc : v_percent(m, self, (struct val){.kind = V_DICT, .dict = d}, out);
	}
	rc = v_list_new(m, &t, 0);
	if (rc != QL_OK)
		return rc;
	*t = l;
	return v_percent(m, self, (struct val){.kind = V_TUPLE, .list = t}, out);
}

static int indent_lines(struct vm *m, struct sb *b, const struct list *lines, const struct str *by, bool first, bool blank)
{
	int rc = QL_OK;

	for (size_t i = 0; i < lines->n && rc == QL_OK; i++) {
		const struct str *line = lines->v[i].s;

		if (i > 0)
			rc = sb_add(m, b, "\n", 1);
		if (rc == QL_OK && (i == 0 ? first : blank || line->len > 0))
			rc = sb_str(m, b, by);
		if (rc == QL_OK)
			rc = sb_str(m, b, line);
	}
	return rc;
}

static int f_indent(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"width", "first", "blank", NULL};
	struct val v[3], nl, sp;
	struct sb b = {0};
	struct list *lines;
	bool first, blank;
	int rc = args_bind(m, "do_indent", a, names, 0, v);

	if (rc == QL_OK && v[0].kind == V_MISSING)
		v[0] = v_int(4);
	if (rc == QL_OK)
		rc = flt_bool(m, v[1], false, &first);
	if (rc == QL_OK)
		rc = flt_bool(m, v[2], false, &blank);
	if (rc == QL_OK && v[0].kind != V_STR) {
		rc = str_lit(m, &sp, " ");
		if (rc == QL_OK)
			rc = op_binary(m, T_MUL, sp, v[0], &v[0]);
	}
	if (rc == QL_OK)
		rc = str_lit(m, &nl, "\n");
	if (rc == QL_OK)
		rc = op_binary(m, T_ADD, self, nl, &self); /* also refuses what is no string, as Python does */
	if (rc == QL_OK && self.kind != V_STR)
		rc = vm_raise(m, "AttributeError", "'%s' object has no attribute 'splitlines'", v_type(self));
	if (rc == QL_OK)
		rc = v_list_new(m, &lines, 0);
	if (rc == QL_OK)
		rc = text_splitlines(m, self, false, lines);
	if (rc == QL_OK)
		rc = indent_lines(m, &b, lines, v[0].s, first, blank);
	if (rc == QL_OK)
		rc = sb_end(m, &b, out);
	if (rc == QL_OK)
		out->s->safe = self.s->safe;
	return rc;
}

static int f_truncate(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	static const char *const names[] = {"length", "killwords", "end", "leeway", NULL};
	struct val v[4], cut, space;
	int64_t length = 255, leeway = 5;
	size_t n, at, len = 0;
	bool kill;
	int rc = args_bind(m, "do_truncate", a, names, 0, v);

	if (rc == QL_OK)
		rc = flt_bool(m, v[1], false, &kill);
	if (rc == QL_OK && v[2].kind == V_MISSING)
		rc = str_lit(m, &v[2], "...");
	if (rc != QL_OK)
		return rc;
	length = v_is_intlike(v[0]) ? v_as_int(v[0]) : length;
	leeway = v_is_intlike(v[3]) ? v_as_int(v[3]) : leeway;
	if (v[2].kind != V_STR)
		return vm_raise(m, "TypeError", "truncate needs a string for its end, not '%s'", v_type(v[2]));
	rc = v_len(m, self, &len);
	if (rc != QL_OK)
		return rc;
	n = str_ncp(v[2].s);
	if (length < (int64_t)n || leeway < 0)
		return vm_raise(m, "AssertionError", "expected length >= %zu, got %lld", n, (long long)length);
	*out = self;
	if ((int64_t)len <= length + leeway)
		return QL_OK;
	if (self.kind != V_STR)
		return vm_raise(m, "TypeError", "truncate needs a string, not '%s'", v_type(self));
	rc = str_sub(m, &cut, self.s, 0, str_off(self.s, (size_t)length - n));
	if (rc == QL_OK)
		rc = str_lit(m, &space, " ");
	if (rc == QL_OK && !kill && (at = text_rfind(cut.s, space.s, 0, cut.s->len)) != SIZE_MAX)
		rc = str_sub(m, &cut, cut.s, 0, at);
	return rc != QL_OK ? rc : op_binary(m, T_ADD, cut, v[2], out);
}

static int f_tojson(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	return v_tojson(m, a, self, out);
}

static int f_fromjson(struct vm *m, struct val self, const struct args *a, struct val *out)
{
	int rc = none(m, "fromjson", a);

	return rc != QL_OK ? rc : v_fromjson(m, self, out);
}

filter_fn *filter_find(const char *name, size_t len)
{
	static const struct {
		const char *name;
		filter_fn *fn;
	} filters[] = {
		{"tojson", f_tojson}, {"length", flt_length}, {"count", flt_length}, {"trim", f_trim}, {"string", f_string},
		{"selectattr", flt_selectattr}, {"items", flt_items}, {"list", flt_list}, {"join", flt_join},
		{"default", f_default}, {"d", f_default}, {"map", flt_map}, {"safe", f_safe}, {"first", flt_first},
		{"rejectattr", flt_rejectattr}, {"last", flt_last}, {"dictsort", flt_dictsort}, {"format", f_format},
		{"lower", f_lower}, {"upper", f_upper}, {"select", flt_select}, {"reject", flt_reject}, {"indent", f_indent},
		{"int", flt_int}, {"replace", f_replace}, {"unique", flt_unique}, {"sort", flt_sort},
		{"capitalize", f_capitalize}, {"title", f_title}, {"abs", flt_abs}, {"round", flt_round}, {"float", flt_float},
		{"fromjson", f_fromjson}, {"escape", f_escape}, {"e", f_escape}, {"forceescape", f_forceescape},
		{"min", flt_min}, {"max", flt_max}, {"sum", flt_sum}, {"reverse", flt_reverse}, {"batch", flt_batch},
		{"truncate", f_truncate},
	};

	for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++)
		if (strlen(filters[i].name) == len && memcmp(filters[i].name, name, len) == 0)
			return filters[i].fn;
	return NULL;
}

bool filter_known(const char *name, size_t len)
{
	static const char *const names[] = {"attr", "center", "filesizeformat", "groupby", "pprint", "random", "slice",
					    "striptags", "urlencode", "urlize", "wordcount", "wordwrap", "xmlattr"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		if (strlen(names[i]) == len && memcmp(names[i], name, len) == 0)
			return true;
	return false;
}

int v_filter(struct vm *m, const char *name, size_t len, struct val self, const struct args *a, struct val *out)
{
	filter_fn *fn = filter_find(name, len);

	if (fn == NULL && filter_known(name, len))
		return vm_unsupported(m, "filter '%.*s'", (int)(len > 60 ? 60 : len), name);
	if (fn == NULL)
		return vm_raise(m, "TemplateRuntimeError", "No filter named '%.*s'.", (int)(len > 60 ? 60 : len), name);
	return fn(m, self, a, out);
}
