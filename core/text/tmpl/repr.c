/* repr.c - str() and repr() of values, byte for byte as Python prints them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/ast.h"

#define FLOAT_WORK 6144 /* of finding the shortest digits */

/* The shortest decimal digits that read back as f (> 0, finite): digits[0..*n) and the exponent of d.ddd. */
static void shortest(double f, char digits[24], int *n, int *exp)
{
	char text[40];
	int e2, p = 0;

	/* where p digits do, p + 1 do; not beside a power of two, where a decimal further up may do and the nearest not */
	if (frexp(f, &e2) != 0.5)
		for (int lo = 0, hi = 16; lo < hi; p = lo) {
			int mid = (lo + hi) / 2;

			(void)snprintf(text, sizeof text, "%.*e", mid, f);
			if (strtod(text, NULL) == f)
				hi = mid;
			else
				lo = mid + 1;
		}
	for (; p <= 16; p++) {
		(void)snprintf(text, sizeof text, "%.*e", p, f);
		if (strtod(text, NULL) != f) {
			/* beside a power of two the next decimal up may read back where the nearest does not */
			int i = p == 0 ? 0 : p + 1;

			if (text[i] == '9')
				continue;
			text[i]++;
			if (strtod(text, NULL) != f)
				continue;
		}
		*exp = atoi(strchr(text, 'e') + 1);
		*n = 0;
		for (const char *c = text; *c != 'e'; c++)
			if (*c != '.')
				digits[(*n)++] = *c;
		while (*n > 1 && digits[*n - 1] == '0')
			(*n)--;
		return;
	}
}

size_t float_repr(double f, char out[40])
{
	char digits[24] = "0", *o = out;
	int n = 1, exp = 0;

	if (isnan(f) || isinf(f))
		return (size_t)snprintf(out, 40, "%s", isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
	if (signbit(f))
		*o++ = '-';
	if (f != 0)
		shortest(fabs(f), digits, &n, &exp);
	if (exp < -4 || exp >= 16) {
		*o++ = digits[0];
		if (n > 1) {
			*o++ = '.';
			memcpy(o, digits + 1, (size_t)n - 1);
			o += n - 1;
		}
		return (size_t)(o - out) + (size_t)sprintf(o, "e%c%02d", exp < 0 ? '-' : '+', abs(exp));
	}
	if (exp < 0) {
		*o++ = '0';
		*o++ = '.';
		for (int i = exp + 1; i < 0; i++)
			*o++ = '0';
		memcpy(o, digits, (size_t)n);
		o += n;
	} else {
		for (int i = 0; i <= exp; i++)
			*o++ = i < n ? digits[i] : '0';
		*o++ = '.';
		if (n <= exp + 1)
			*o++ = '0';
		for (int i = exp + 1; i < n; i++)
			*o++ = digits[i];
	}
	*o = '\0';
	return (size_t)(o - out);
}

int sb_float(struct vm *m, struct sb *b, double f)
{
	char text[40];
	int rc = vm_step(m, FLOAT_WORK);

	return rc != QL_OK ? rc : sb_add(m, b, text, float_repr(f, text));
}

/* Python's choice of quotes: single, unless the text has single and no double ones. */
static int repr_str(struct vm *m, struct sb *b, const struct str *s)
{
	bool dq = memchr(s->p, '\'', s->len) != NULL && memchr(s->p, '"', s->len) == NULL;
	char q = dq ? '"' : '\'', esc[16];
	size_t from = 0, i = 0;
	int rc = vm_step(m, s->len * 8); /* character by character */

	if (rc == QL_OK)
		rc = sb_add(m, b, &q, 1);
	while (rc == QL_OK && i < s->len) {
		uint32_t cp = 0;
		int k = ql_utf8_decode(s->p + i, s->len - i, &cp), n = 0;

		if (k <= 0)
			k = 1;
		if (cp == (unsigned char)q || cp == '\\')
			n = snprintf(esc, sizeof esc, "\\%c", (char)cp);
		else if (cp == '\n' || cp == '\r' || cp == '\t')
			n = snprintf(esc, sizeof esc, "\\%c", cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't');
		else if (!uni_printable(cp))
			n = cp < 0x100 ? snprintf(esc, sizeof esc, "\\x%02x", cp)
			  : cp < 0x10000 ? snprintf(esc, sizeof esc, "\\u%04x", cp)
					 : snprintf(esc, sizeof esc, "\\U%08x", cp);
		if (n > 0) {
			size_t at;

			m->work += 128;
			rc = sb_sub(m, b, s, from, i);
			at = b->len;
			if (rc == QL_OK)
				rc = sb_add(m, b, esc, (size_t)n);
			if (rc == QL_OK && str_marked_at(s, i))
				rc = sb_mark(m, b, at, b->len);
			from = i + (size_t)k;
		}
		i += (size_t)k;
	}
	if (rc == QL_OK)
		rc = sb_sub(m, b, s, from, s->len);
	return rc != QL_OK ? rc : sb_add(m, b, &q, 1);
}

static int repr_list(struct vm *m, struct sb *b, const struct list *l, const char *open, const char *close)
{
	int rc = sb_addz(m, b, open);

	for (size_t i = 0; i < l->n && rc == QL_OK; i++) {
		rc = i > 0 ? sb_addz(m, b, ", ") : QL_OK;
		if (rc == QL_OK)
			rc = v_repr(m, b, l->v[i]);
	}
	if (rc == QL_OK && l->n == 1 && strcmp(open, "(") == 0) /* a tuple of one */
		rc = sb_addz(m, b, ",");
	return rc != QL_OK ? rc : sb_addz(m, b, close);
}

static int repr_dict(struct vm *m, struct sb *b, const struct dict *d)
{
	int rc = sb_addz(m, b, "{");

	for (size_t i = 0; i < d->n && rc == QL_OK; i++) {
		rc = i > 0 ? sb_addz(m, b, ", ") : QL_OK;
		if (rc == QL_OK)
			rc = v_repr(m, b, d->e[i].key);
		if (rc == QL_OK)
			rc = sb_addz(m, b, ": ");
		if (rc == QL_OK)
			rc = v_repr(m, b, d->e[i].value);
	}
	return rc != QL_OK ? rc : sb_addz(m, b, "}");
}

static int repr_view(struct vm *m, struct sb *b, struct val v)
{
	struct list *l = NULL;
	int rc = v_to_list(m, v, &l);

	if (rc == QL_OK)
		rc = sb_addz(m, b, v_type(v));
	return rc != QL_OK ? rc : repr_list(m, b, l, "([", "])");
}

static int repr_other(struct vm *m, struct sb *b, struct val v)
{
	char text[160];
	const struct range *r = v.range;

	if (v.kind == V_RANGE && r->step != 1)
		(void)snprintf(text, sizeof text, "range(%lld, %lld, %lld)", (long long)r->start, (long long)r->stop,
			       (long long)r->step);
	else if (v.kind == V_RANGE)
		(void)snprintf(text, sizeof text, "range(%lld, %lld)", (long long)r->start, (long long)r->stop);
	else if (v.kind == V_FUNC && (strcmp(v.func->name, "cycler") == 0 || strcmp(v.func->name, "joiner") == 0))
		(void)snprintf(text, sizeof text, "<class 'jinja2.utils.%c%s'>", v.func->name[0] - 32, v.func->name + 1);
	else
		(void)snprintf(text, sizeof text, "<%s object>", v_type(v)); /* Python prints an address here */
	return sb_addz(m, b, text);
}

static int repr_loop(struct vm *m, struct sb *b, struct val v)
{
	char text[80];
	size_t n = 0;
	int rc = v_len(m, v, &n);

	(void)snprintf(text, sizeof text, "<LoopContext %zu/%zu>", v.loop->index0 + 1, n);
	return rc != QL_OK ? rc : sb_addz(m, b, text);
}

static int repr_macro(struct vm *m, struct sb *b, struct val v)
{
	int rc = sb_addz(m, b, "<Macro ");

	if (rc == QL_OK)
		rc = repr_str(m, b, m->t->names[v.macro->node->name]);
	return rc != QL_OK ? rc : sb_addz(m, b, ">");
}

static int repr_any(struct vm *m, struct sb *b, struct val v)
{
	char text[32];
	int rc;

	switch (v.kind) {
	case V_UNDEF:
		return sb_addz(m, b, "Undefined");
	case V_NONE:
		return sb_addz(m, b, "None");
	case V_BOOL:
		return sb_addz(m, b, v.b ? "True" : "False");
	case V_INT:
		(void)snprintf(text, sizeof text, "%lld", (long long)v.i);
		m->work += 64;
		return sb_addz(m, b, text);
	case V_FLOAT:
		return sb_float(m, b, v.f);
	case V_STR:
		rc = v.s->safe ? sb_addz(m, b, "Markup(") : QL_OK;
		if (rc == QL_OK)
			rc = repr_str(m, b, v.s);
		return rc == QL_OK && v.s->safe ? sb_addz(m, b, ")") : rc;
	case V_LIST:
		return repr_list(m, b, v.list, "[", "]");
	case V_TUPLE:
		return repr_list(m, b, v.list, "(", ")");
	case V_DICT:
		return repr_dict(m, b, v.dict);
	case V_VIEW:
		return repr_view(m, b, v);
	case V_NS:
		rc = sb_addz(m, b, "<Namespace ");
		if (rc == QL_OK)
			rc = repr_dict(m, b, &v.ns->attrs);
		return rc != QL_OK ? rc : sb_addz(m, b, ">");
	case V_LOOP:
		return repr_loop(m, b, v);
	case V_MACRO:
		return repr_macro(m, b, v);
	default:
		return repr_other(m, b, v);
	}
}

int v_repr(struct vm *m, struct sb *b, struct val v)
{
	int rc = vm_step(m, 0);

	if (rc != QL_OK)
		return rc;
	if (++m->value_depth > QL_TMPL_VALUE_DEPTH_MAX)
		rc = vm_limit(m, "values nested too deep");
	else
		rc = repr_any(m, b, v);
	m->value_depth--;
	return rc;
}

int v_print(struct vm *m, struct sb *b, struct val v)
{
	if (v.kind == V_STR)
		return sb_str(m, b, v.s);
	return v.kind == V_UNDEF ? QL_OK : v_repr(m, b, v);
}

int v_to_str(struct vm *m, struct val v, struct val *out)
{
	struct sb b = {0};
	int rc;

	if (v.kind == V_STR) {
		*out = v;
		return QL_OK;
	}
	rc = v_print(m, &b, v);
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

int str_plain(struct vm *m, struct val v, struct val *out)
{
	int rc = v_to_str(m, v, out);

	if (rc == QL_OK && out->s->safe) {
		rc = str_sub(m, out, out->s, 0, out->s->len);
		if (rc == QL_OK)
			out->s->safe = false;
	}
	return rc;
}
