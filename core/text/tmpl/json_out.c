/* json_out.c - the tojson filter: json.dumps(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/ast.h"

struct dump {
	struct vm *m;
	struct sb b;
	struct val item_sep, key_sep; /* strings */
	const struct str *indent;     /* NULL: on one line */
	size_t level;
	bool ascii, sort;
};

static int dump_value(struct dump *d, struct val v);

/* The escape of the character cp, or 0 if it stays as it is. */
static int escape_of(uint32_t cp, bool ascii, char out[16])
{
	static const char from[] = "\"\\\n\r\t\f\b", to[] = "\"\\nrtfb";
	const char *f = cp != 0 && cp < 0x80 ? strchr(from, (int)cp) : NULL;

	if (f != NULL)
		return snprintf(out, 16, "\\%c", to[f - from]);
	if (cp < 0x20 || (ascii && cp > 0x7e && cp < 0x10000))
		return snprintf(out, 16, "\\u%04x", cp);
	if (ascii && cp >= 0x10000)
		return snprintf(out, 16, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
	return 0;
}

static int dump_str(struct dump *d, const struct str *s)
{
	size_t from = 0, i = 0;
	int rc = sb_add(d->m, &d->b, "\"", 1);

	while (rc == QL_OK && i < s->len) {
		uint32_t cp = (unsigned char)s->p[i];
		int k = 1, n;
		char esc[16];

		if (cp >= 0x20 && cp != '"' && cp != '\\' && (!d->ascii || cp < 0x7f)) { /* the common case */
			i++;
			continue;
		}

		if (cp >= 0x80 && d->ascii) { /* otherwise byte by byte: nothing there is escaped */
			k = ql_utf8_decode(s->p + i, s->len - i, &cp);
			k = k <= 0 ? 1 : k;
		}
		n = cp >= 0x80 && !d->ascii ? 0 : escape_of(cp, d->ascii, esc);
		if (n > 0) {
			size_t at;

			d->m->work += 160;
			rc = sb_sub(d->m, &d->b, s, from, i);
			at = d->b.len;
			if (rc == QL_OK)
				rc = sb_add(d->m, &d->b, esc, (size_t)n);
			if (rc == QL_OK && str_marked_at(s, i))
				rc = sb_mark(d->m, &d->b, at, d->b.len);
			from = i + (size_t)k;
		}
		i += (size_t)k;
	}
	if (rc == QL_OK)
		rc = vm_step(d->m, s->len * 4);
	if (rc == QL_OK)
		rc = sb_sub(d->m, &d->b, s, from, s->len);
	return rc != QL_OK ? rc : sb_add(d->m, &d->b, "\"", 1);
}

static int newline(struct dump *d)
{
	int rc;

	if (d->indent == NULL)
		return QL_OK;
	rc = sb_add(d->m, &d->b, "\n", 1);
	for (size_t i = 0; i < d->level && rc == QL_OK; i++)
		rc = sb_str(d->m, &d->b, d->indent);
	return rc;
}

static int dump_list(struct dump *d, const struct list *l)
{
	int rc;

	if (l->n == 0)
		return sb_addz(d->m, &d->b, "[]");
	rc = sb_add(d->m, &d->b, "[", 1);
	d->level++;
	for (size_t i = 0; i < l->n && rc == QL_OK; i++) {
		if (i > 0)
			rc = sb_str(d->m, &d->b, d->item_sep.s);
		if (rc == QL_OK)
			rc = newline(d);
		if (rc == QL_OK)
			rc = dump_value(d, l->v[i]);
	}
	d->level--;
	if (rc == QL_OK)
		rc = newline(d);
	return rc != QL_OK ? rc : sb_add(d->m, &d->b, "]", 1);
}

static int dump_float(struct dump *d, double f)
{
	if (isnan(f) || isinf(f))
		return sb_addz(d->m, &d->b, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
	return sb_float(d->m, &d->b, f);
}

static int dump_key(struct dump *d, struct val k)
{
	int rc;

	if (k.kind == V_STR)
		return dump_str(d, k.s);
	if (k.kind != V_NONE && !v_is_num(k))
		return vm_raise(d->m, "TypeError", "keys must be str, int, float, bool or None, not %s", v_type(k));
	rc = sb_add(d->m, &d->b, "\"", 1);
	if (rc == QL_OK)
		rc = dump_value(d, k);
	return rc != QL_OK ? rc : sb_add(d->m, &d->b, "\"", 1);
}

/* Entry numbers in the order to write; sorted by key when asked (insertion sort on small, merge on the whole). */
static int key_order(struct dump *d, const struct dict *o, size_t **out)
{
	size_t *a = vm_alloc(d->m, o->n * sizeof *a), *t = vm_alloc(d->m, o->n * sizeof *t);

	*out = a;
	if (a == NULL || t == NULL)
		return d->m->e->code;
	for (size_t i = 0; i < o->n; i++)
		a[i] = i;
	for (size_t w = 1; d->sort && w < o->n; w *= 2) {
		for (size_t lo = 0; lo < o->n; lo += 2 * w) {
			size_t mid = lo + w < o->n ? lo + w : o->n, hi = lo + 2 * w < o->n ? lo + 2 * w : o->n, i = lo, j = mid, k = lo;

			while (k < hi) {
				bool less = false;
				int rc = i < mid && j < hi ? v_cmp(d->m, o->e[a[j]].key, o->e[a[i]].key, T_LT, &less) : QL_OK;

				if (rc != QL_OK)
					return rc;
				t[k++] = i >= mid || (j < hi && less) ? a[j++] : a[i++];
			}
		}
		memcpy(a, t, o->n * sizeof *a);
	}
	return QL_OK;
}

static int dump_dict(struct dump *d, const struct dict *o)
{
	size_t *order;
	int rc;

	if (o->n == 0)
		return sb_addz(d->m, &d->b, "{}");
	rc = key_order(d, o, &order);
	if (rc == QL_OK)
		rc = sb_add(d->m, &d->b, "{", 1);
	d->level++;
	for (size_t i = 0; i < o->n && rc == QL_OK; i++) {
		const struct entry *e = &o->e[order[i]];

		if (i > 0)
			rc = sb_str(d->m, &d->b, d->item_sep.s);
		if (rc == QL_OK)
			rc = newline(d);
		if (rc == QL_OK)
			rc = dump_key(d, e->key);
		if (rc == QL_OK)
			rc = sb_str(d->m, &d->b, d->key_sep.s);
		if (rc == QL_OK)
			rc = dump_value(d, e->value);
	}
	d->level--;
	if (rc == QL_OK)
		rc = newline(d);
	return rc != QL_OK ? rc : sb_add(d->m, &d->b, "}", 1);
}

static int dump_any(struct dump *d, struct val v)
{
	switch (v.kind) {
	case V_NONE:
		return sb_addz(d->m, &d->b, "null");
	case V_BOOL:
		return sb_addz(d->m, &d->b, v.b ? "true" : "false");
	case V_INT:
		return v_repr(d->m, &d->b, v);
	case V_FLOAT:
		return dump_float(d, v.f);
	case V_STR:
		return dump_str(d, v.s);
	case V_LIST:
	case V_TUPLE:
		return dump_list(d, v.list);
	case V_DICT:
		return dump_dict(d, v.dict);
	default:
		return vm_raise(d->m, "TypeError", "Object of type %s is not JSON serializable", v_type(v));
	}
}

static int dump_value(struct dump *d, struct val v)
{
	int rc = vm_step(d->m, 0);

	if (rc != QL_OK)
		return rc;
	if (++d->m->value_depth > QL_TMPL_VALUE_DEPTH_MAX)
		rc = vm_limit(d->m, "values nested too deep");
	else
		rc = dump_any(d, v);
	d->m->value_depth--;
	return rc;
}

static int set_indent(struct dump *d, struct val v)
{
	struct sb b = {0};
	struct val text;
	int rc = QL_OK;

	if (v.kind == V_STR) {
		d->indent = v.s;
		return QL_OK;
	}
	if (!v_is_intlike(v))
		return vm_raise(d->m, "TypeError", "can't multiply sequence by non-int of type '%s'", v_type(v));
	if (v_as_int(v) > 1000)
		return vm_limit(d->m, "tojson indent above 1000");
	for (int64_t i = 0; i < v_as_int(v) && rc == QL_OK; i++)
		rc = sb_add(d->m, &b, " ", 1);
	if (rc == QL_OK)
		rc = sb_end(d->m, &b, &text);
	if (rc == QL_OK)
		d->indent = text.s;
	return rc;
}

static int set_separators(struct dump *d, struct val v)
{
	struct list *l;
	int rc = v_to_list(d->m, v, &l);

	if (rc != QL_OK)
		return rc;
	if (l->n != 2 || l->v[0].kind != V_STR || l->v[1].kind != V_STR)
		return vm_raise(d->m, "ValueError", "separators must be two strings");
	d->item_sep = l->v[0];
	d->key_sep = l->v[1];
	return QL_OK;
}

int v_tojson(struct vm *m, const struct args *a, struct val self, struct val *out)
{
	static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
	struct dump d = {.m = m};
	struct val v[4];
	int rc = args_bind(m, "tojson", a, names, 0, v);

	if (rc == QL_OK && v[0].kind != V_MISSING)
		rc = v_truth(m, v[0], &d.ascii);
	if (rc == QL_OK && v[1].kind != V_MISSING && v[1].kind != V_NONE)
		rc = set_indent(&d, v[1]);
	if (rc == QL_OK)
		rc = str_lit(m, &d.item_sep, d.indent != NULL ? "," : ", ");
	if (rc == QL_OK)
		rc = str_lit(m, &d.key_sep, ": ");
	if (rc == QL_OK && v[2].kind != V_MISSING && v[2].kind != V_NONE)
		rc = set_separators(&d, v[2]);
	if (rc == QL_OK && v[3].kind != V_MISSING)
		rc = v_truth(m, v[3], &d.sort);
	if (rc == QL_OK)
		rc = dump_value(&d, self);
	return rc != QL_OK ? rc : sb_end(m, &d.b, out);
}
