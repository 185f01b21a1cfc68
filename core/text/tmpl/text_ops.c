/* text_ops.c - see text_ops.h. */
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tmpl/text_ops.h"

size_t text_cp(const struct str *s, size_t i, uint32_t *cp)
{
	int k = ql_utf8_decode(s->p + i, s->len - i, cp);

	if (k <= 0) { /* cannot happen: input is validated */
		*cp = 0xfffd;
		return 1;
	}
	return (size_t)k;
}

static bool in_set(uint32_t cp, struct val chars)
{
	if (chars.kind != V_STR)
		return uni_space(cp);
	for (size_t i = 0; i < chars.s->len;) {
		uint32_t c;

		i += text_cp(chars.s, i, &c);
		if (c == cp)
			return true;
	}
	return false;
}

int text_strip(struct vm *m, struct val v, struct val chars, int sides, struct val *out)
{
	const struct str *s = v.s;
	size_t begin = 0, end = s->len;
	uint32_t cp;

	if (chars.kind != V_STR && chars.kind != V_NONE && chars.kind != V_MISSING)
		return vm_raise(m, "TypeError", "strip arg must be None or str");
	while ((sides & STRIP_LEFT) && begin < end) {
		size_t k = text_cp(s, begin, &cp);

		if (!in_set(cp, chars))
			break;
		begin += k;
		m->work += chars.kind == V_STR ? chars.s->len * 4 + 16 : 16;
		if (m->work > m->max_work)
			return vm_over(m);
	}
	while ((sides & STRIP_RIGHT) && end > begin) {
		size_t c = end - 1;

		while (c > begin && ((unsigned char)s->p[c] & 0xc0) == 0x80)
			c--;
		(void)text_cp(s, c, &cp);
		if (!in_set(cp, chars))
			break;
		end = c;
		m->work += chars.kind == V_STR ? chars.s->len * 4 + 16 : 16;
		if (m->work > m->max_work)
			return vm_over(m);
	}
	if (begin == 0 && end == s->len) {
		*out = v;
		return vm_step(m, 0);
	}
	return vm_step(m, 0) != QL_OK ? m->e->code : str_sub(m, out, s, begin, end);
}

/* Sigma at byte i is final: a cased letter before it and none after, ignorable ones aside. */
static bool final_sigma(const struct str *s, size_t begin, size_t i, size_t end)
{
	size_t j = i;
	uint32_t cp = 0;
	bool before = false;

	while (j > begin) {
		j--;
		while (j > begin && ((unsigned char)s->p[j] & 0xc0) == 0x80)
			j--;
		(void)text_cp(s, j, &cp);
		if (!uni_is_ignorable(cp)) {
			before = uni_is_cased(cp);
			break;
		}
	}
	if (!before)
		return false;
	for (j = i + 2; j < end;) {
		j += text_cp(s, j, &cp);
		if (!uni_is_ignorable(cp))
			return !uni_is_cased(cp);
	}
	return true;
}

int text_lower_part(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end)
{
	int rc = vm_step(m, (end - begin) * 24);

	for (size_t i = begin; i < end && rc == QL_OK;) {
		uint32_t cp, o[3];
		size_t k = text_cp(s, i, &cp);
		int n = uni_lower(cp, o);

		if (cp == 0x3a3)
			o[0] = final_sigma(s, begin, i, end) ? 0x3c2 : 0x3c3;
		for (int j = 0; j < n && rc == QL_OK; j++)
			rc = sb_cp(m, b, o[j], s, i);
		i += k;
	}
	return rc;
}

int text_upper_part(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end)
{
	int rc = vm_step(m, (end - begin) * 24);

	for (size_t i = begin; i < end && rc == QL_OK;) {
		uint32_t cp, o[3];
		size_t k = text_cp(s, i, &cp);
		int n = uni_upper(cp, o);

		for (int j = 0; j < n && rc == QL_OK; j++)
			rc = sb_cp(m, b, o[j], s, i);
		i += k;
	}
	return rc;
}

static int end_like(struct vm *m, struct sb *b, struct val s, int rc, struct val *out)
{
	bool safe = s.s->safe;

	if (rc == QL_OK)
		rc = sb_end(m, b, out);
	if (rc == QL_OK)
		out->s->safe = safe;
	return rc;
}

int text_case(struct vm *m, struct val s, bool upper, struct val *out)
{
	struct sb b = {0};
	int rc = upper ? text_upper_part(m, &b, s.s, 0, s.s->len) : text_lower_part(m, &b, s.s, 0, s.s->len);

	return end_like(m, &b, s, rc, out);
}

int text_capitalize(struct vm *m, struct val s, struct val *out)
{
	struct sb b = {0};
	uint32_t cp, o[3];
	size_t k = 0;
	int rc = QL_OK;

	if (s.s->len > 0) {
		int n;

		k = text_cp(s.s, 0, &cp);
		n = uni_title(cp, o);
		for (int j = 0; j < n && rc == QL_OK; j++)
			rc = sb_cp(m, &b, o[j], s.s, 0);
	}
	if (rc == QL_OK)
		rc = text_lower_part(m, &b, s.s, k, s.s->len);
	return end_like(m, &b, s, rc, out);
}

size_t text_find(const struct str *s, const struct str *sub, size_t from, size_t to)
{
	const char *p;

	if (from > to)
		return SIZE_MAX;
	if (sub->len == 0)
		return from;
	p = memmem(s->p + from, to - from, sub->p, sub->len);
	return p == NULL ? SIZE_MAX : (size_t)(p - s->p);
}

size_t text_rfind(const struct str *s, const struct str *sub, size_t from, size_t to)
{
	if (from > to || sub->len > to - from)
		return SIZE_MAX;
	for (size_t i = to - sub->len;; i--) {
		if (memcmp(s->p + i, sub->p, sub->len) == 0)
			return i;
		if (i == from)
			return SIZE_MAX;
	}
}

/* Replacing the empty string: the new text goes before every character and at the end. */
static int replace_empty(struct vm *m, const struct str *s, const struct str *with, int64_t count, struct sb *b)
{
	size_t i = 0;
	int rc = QL_OK;

	for (; rc == QL_OK && count != 0; count--) {
		uint32_t cp;
		size_t k = i < s->len ? text_cp(s, i, &cp) : 0;

		rc = sb_str(m, b, with);
		if (rc == QL_OK)
			rc = vm_step(m, 0);
		if (rc != QL_OK || i >= s->len)
			return rc;
		rc = sb_sub(m, b, s, i, i + k);
		i += k;
	}
	return rc != QL_OK ? rc : sb_sub(m, b, s, i, s->len);
}

int text_replace(struct vm *m, struct val v, struct val old, struct val with, int64_t count, struct val *out)
{
	const struct str *s = v.s;
	struct sb b = {0};
	size_t from = 0;
	int rc = vm_step(m, s->len);

	if (rc != QL_OK)
		return rc;
	if (old.s->len == 0)
		return end_like(m, &b, v, replace_empty(m, s, with.s, count, &b), out);
	for (; rc == QL_OK && count != 0; count--) {
		size_t at = text_find(s, old.s, from, s->len);

		if (at == SIZE_MAX)
			break;
		rc = sb_sub(m, &b, s, from, at);
		if (rc == QL_OK)
			rc = sb_str(m, &b, with.s);
		if (rc == QL_OK)
			rc = vm_step(m, 0);
		from = at + old.s->len;
	}
	if (rc == QL_OK && from == 0) {
		*out = v;
		return QL_OK;
	}
	if (rc == QL_OK)
		rc = sb_sub(m, &b, s, from, s->len);
	return end_like(m, &b, v, rc, out);
}

int text_join(struct vm *m, struct val sep, struct val items, struct val *out)
{
	struct list *l;
	struct sb b = {0};
	int rc = v_to_list(m, items, &l);

	for (size_t i = 0; rc == QL_OK && i < l->n; i++) {
		if (i > 0)
			rc = sb_str(m, &b, sep.s);
		if (rc == QL_OK)
			rc = v_print(m, &b, l->v[i]);
	}
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

static bool line_end(uint32_t cp)
{
	return (cp >= 0x0a && cp <= 0x0d) || (cp >= 0x1c && cp <= 0x1e) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}

int text_splitlines(struct vm *m, struct val v, bool keep, struct list *out)
{
	const struct str *s = v.s;
	size_t from = 0;
	int rc = vm_step(m, s->len * 8);

	while (rc == QL_OK && from < s->len) {
		size_t i = from, k = 0;
		uint32_t cp = 0;
		struct val line;

		for (; i < s->len; i += k) {
			k = text_cp(s, i, &cp);
			if (line_end(cp))
				break;
		}
		if (i >= s->len)
			k = 0;
		else if (cp == '\r' && i + 1 < s->len && s->p[i + 1] == '\n')
			k = 2;
		rc = str_sub(m, &line, s, from, keep ? i + k : i);
		if (rc == QL_OK)
			rc = v_list_add(m, out, line);
		from = i + k;
	}
	return rc;
}
