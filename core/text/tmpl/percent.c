/* percent.c - "…" % value: printf-style formatting of strings. */
#include <string.h>

#include "core/text/tmpl/value.h"

struct pct {
	struct vm *m;
	const struct str *s;
	size_t i;
	struct val arg;
	size_t used; /* of a tuple, or of the single argument */
	struct sb b;
};

static int next_arg(struct pct *p, struct val *out)
{
	if (p->arg.kind == V_TUPLE) {
		if (p->used >= p->arg.list->n)
			return vm_raise(p->m, "TypeError", "not enough arguments for format string");
		*out = p->arg.list->v[p->used++];
		return QL_OK;
	}
	if (p->used++ > 0)
		return vm_raise(p->m, "TypeError", "not enough arguments for format string");
	*out = p->arg;
	return QL_OK;
}

static int star_or_number(struct pct *p, int *out)
{
	const struct str *s = p->s;
	struct val v;
	int rc;

	if (p->i < s->len && s->p[p->i] == '*') {
		p->i++;
		rc = next_arg(p, &v);
		if (rc != QL_OK)
			return rc;
		if (!v_is_intlike(v) || v_as_int(v) < -100000 || v_as_int(v) > 100000)
			return vm_raise(p->m, "TypeError", "* wants int");
		*out = (int)v_as_int(v);
		return QL_OK;
	}
	for (*out = 0; p->i < s->len && s->p[p->i] >= '0' && s->p[p->i] <= '9' && *out < 100000; p->i++)
		*out = *out * 10 + (s->p[p->i] - '0');
	return QL_OK;
}

/* "(name)" at p->i, if there: *v is the mapping's entry. */
static int named(struct pct *p, struct val *v, bool *has)
{
	const struct str *s = p->s;
	size_t from = p->i + 1;
	int depth = 1;
	int rc;

	*has = p->i < s->len && s->p[p->i] == '(';
	if (!*has)
		return QL_OK;
	if (p->arg.kind != V_DICT)
		return vm_raise(p->m, "TypeError", "format requires a mapping");
	for (p->i = from; p->i < s->len && depth > 0; p->i++)
		depth += s->p[p->i] == '(' ? 1 : s->p[p->i] == ')' ? -1 : 0;
	if (depth > 0)
		return vm_raise(p->m, "ValueError", "incomplete format key");
	rc = v_dict_get_s(p->m, p->arg.dict, s->p + from, p->i - 1 - from, v);
	if (rc == QL_OK && v->kind == V_MISSING)
		rc = vm_raise(p->m, "KeyError", "'%.*s'", (int)(p->i - 1 - from > 60 ? 60 : p->i - 1 - from), s->p + from);
	return rc;
}

static int convert(struct pct *p, struct spec *sp, struct val v)
{
	struct sb r = {0};
	int rc = QL_OK;

	if (sp->type == 's' || sp->type == 'r' || sp->type == 'a') {
		if (sp->type == 's')
			rc = v_to_str(p->m, v, &v);
		else if ((rc = v_repr(p->m, &r, v)) == QL_OK)
			rc = sb_end(p->m, &r, &v);
		if (rc == QL_OK && p->s->safe)
			rc = str_escape(p->m, &v, v);
		sp->type = 's';
		sp->zero = false;
		sp->sign = 0;
	}
	return rc != QL_OK ? rc : fmt_value(p->m, &p->b, sp, v, true);
}

static int one(struct pct *p)
{
	const struct str *s = p->s;
	struct spec sp = {.precision = -1};
	struct val v = v_none();
	bool has = false;
	int n, rc = named(p, &v, &has);

	if (rc != QL_OK)
		return rc;
	for (; p->i < s->len && strchr("-+ 0#", s->p[p->i]) != NULL && s->p[p->i] != '\0'; p->i++) {
		char c = s->p[p->i];

		if (c == '-')
			sp.align = '<';
		else if (c == '0')
			sp.zero = true;
		else if (c == '#')
			sp.alt = true;
		else if (sp.sign != '+')
			sp.sign = c;
	}
	rc = star_or_number(p, &n);
	if (rc != QL_OK)
		return rc;
	if (n < 0)
		sp.align = '<';
	sp.width = (size_t)(n < 0 ? -n : n);
	if (p->i < s->len && s->p[p->i] == '.') {
		p->i++;
		rc = star_or_number(p, &sp.precision);
		if (rc != QL_OK)
			return rc;
		sp.precision = sp.precision < 0 ? 0 : sp.precision;
	}
	while (p->i < s->len && (s->p[p->i] == 'h' || s->p[p->i] == 'l' || s->p[p->i] == 'L'))
		p->i++;
	if (p->i >= s->len)
		return vm_raise(p->m, "ValueError", "incomplete format");
	sp.type = s->p[p->i++];
	if (sp.type == '%')
		return sb_add(p->m, &p->b, "%", 1);
	if (strchr("diouxXeEfFgGcrsa", sp.type) == NULL || sp.type == '\0')
		return vm_raise(p->m, "ValueError", "unsupported format character '%c' (0x%x) at index %zu",
				sp.type >= ' ' && sp.type < 0x7f ? sp.type : '?', (unsigned char)sp.type, p->i - 1);
	if (!has)
		rc = next_arg(p, &v);
	return rc != QL_OK ? rc : convert(p, &sp, v);
}

int v_percent(struct vm *m, struct val fmt, struct val arg, struct val *out)
{
	struct pct p = {.m = m, .s = fmt.s, .arg = arg};
	const struct str *s = fmt.s;
	int rc = vm_step(m, s->len);

	while (rc == QL_OK && p.i < s->len) {
		const char *q = memchr(s->p + p.i, '%', s->len - p.i);
		size_t to = q == NULL ? s->len : (size_t)(q - s->p);

		rc = sb_sub(m, &p.b, s, p.i, to);
		p.i = to + 1;
		m->work += 64;
		if (rc == QL_OK && q != NULL)
			rc = one(&p);
	}
	if (rc == QL_OK && (arg.kind == V_TUPLE ? p.used < arg.list->n
						: p.used == 0 && arg.kind != V_DICT && arg.kind != V_LIST &&
							  arg.kind != V_RANGE && arg.kind != V_UNDEF))
		rc = vm_raise(m, "TypeError", "not all arguments converted during string formatting");
	if (rc == QL_OK)
		rc = sb_end(m, &p.b, out);
	if (rc == QL_OK)
		out->s->safe = s->safe;
	return rc;
}
