/* str.c - strings of a rendering: making, slicing and joining them with their marks. */
#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/value.h"

int str_new(struct vm *m, struct val *out, const char *p, size_t len)
{
	struct str *s = vm_alloc(m, sizeof *s);

	if (s == NULL)
		return m->e->code;
	s->p = p;
	s->len = len;
	s->n_cp = SIZE_MAX;
	*out = v_str(s);
	return QL_OK;
}

int str_lit(struct vm *m, struct val *out, const char *z) { return str_new(m, out, z, strlen(z)); }

int str_copy(struct vm *m, struct val *out, const char *p, size_t len)
{
	char *c = tmpl_alloc_text(&m->arena, len);

	if (c == NULL)
		return vm_nomem(m);
	if (len > 0)
		memcpy(c, p, len);
	return str_new(m, out, c, len);
}

static void mark_whole(struct str *s)
{
	if (s->len == 0)
		return;
	s->whole = (struct ql_span){0, s->len};
	s->marks = &s->whole;
	s->n_marks = 1;
}

int str_marked(struct vm *m, struct val *out, const char *p, size_t len)
{
	int rc = str_new(m, out, p, len);

	if (rc == QL_OK)
		mark_whole(out->s);
	return rc;
}

/* First mark that ends after byte `at`. */
static size_t mark_find(const struct str *s, size_t at)
{
	size_t lo = 0, hi = s->n_marks;

	while (lo < hi) {
		size_t mid = (lo + hi) / 2;

		if (s->marks[mid].end <= at)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

bool str_marked_at(const struct str *s, size_t at)
{
	size_t i = mark_find(s, at);

	return i < s->n_marks && s->marks[i].begin <= at;
}

int str_sub(struct vm *m, struct val *out, const struct str *s, size_t begin, size_t end)
{
	size_t first = mark_find(s, begin), last = first;
	struct ql_span *marks;
	struct str *r;
	int rc = str_new(m, out, s->p + begin, end - begin);

	if (rc != QL_OK)
		return rc;
	r = out->s;
	r->safe = s->safe;
	if (s->n_cp == s->len)
		r->n_cp = r->len;
	while (last < s->n_marks && s->marks[last].begin < end)
		last++;
	if (last == first)
		return QL_OK;
	marks = &r->whole;
	if (last - first > 1) {
		rc = vm_step(m, last - first);
		marks = rc == QL_OK ? vm_alloc(m, (last - first) * sizeof *marks) : NULL;
		if (marks == NULL)
			return m->e->code;
	}
	for (size_t i = first; i < last; i++) {
		size_t b = s->marks[i].begin < begin ? begin : s->marks[i].begin;
		size_t e = s->marks[i].end > end ? end : s->marks[i].end;

		marks[i - first] = (struct ql_span){b - begin, e - begin};
	}
	r->marks = marks;
	r->n_marks = last - first;
	return QL_OK;
}

size_t str_ncp(struct str *s)
{
	if (s->n_cp == SIZE_MAX) {
		size_t n = 0;

		for (size_t i = 0; i < s->len; i++)
			n += ((unsigned char)s->p[i] & 0xc0) != 0x80;
		s->n_cp = n;
	}
	return s->n_cp;
}

size_t str_off(struct str *s, size_t cp)
{
	size_t i = 0;

	if (str_ncp(s) == s->len)
		return cp < s->len ? cp : s->len;
	if (cp >= s->n_cp)
		return s->len;
	for (; cp > 0; cp--) {
		i++;
		while (i < s->len && ((unsigned char)s->p[i] & 0xc0) == 0x80)
			i++;
	}
	return i;
}

int str_slice(struct vm *m, struct val *out, struct str *s, int64_t start, int64_t step, size_t n)
{
	struct sb b = {0};
	size_t *off;
	int rc = vm_step(m, s->len);

	if (rc != QL_OK)
		return rc;
	if (n == 0)
		return str_lit(m, out, "");
	if (step == 1) {
		size_t from = str_off(s, (size_t)start);

		return str_sub(m, out, s, from, str_off(s, (size_t)start + n));
	}
	rc = vm_step(m, n * 16); /* character by character */
	if (rc != QL_OK)
		return rc;
	off = NULL;
	if (str_ncp(s) != s->len) {
		size_t k = 0;

		off = vm_alloc(m, (s->n_cp + 1) * sizeof *off);
		if (off == NULL)
			return m->e->code;
		for (size_t i = 0; i <= s->len; i++)
			if (i == s->len || ((unsigned char)s->p[i] & 0xc0) != 0x80)
				off[k++] = i;
	}
	for (size_t i = 0; i < n && rc == QL_OK; i++) {
		size_t c = (size_t)(start + step * (int64_t)i);

		rc = sb_sub(m, &b, s, off == NULL ? c : off[c], off == NULL ? c + 1 : off[c + 1]);
	}
	if (rc == QL_OK)
		rc = sb_end(m, &b, out);
	if (rc == QL_OK)
		out->s->safe = s->safe;
	return rc;
}

static int sb_grow(struct vm *m, struct sb *b, size_t extra)
{
	size_t need = b->len + extra, cap = b->cap < 64 ? 64 : b->cap;
	char *p;

	if (need > QL_TMPL_OUTPUT_MAX)
		return vm_limit(m, "output or string longer than a template may make");
	if (need <= b->cap)
		return QL_OK;
	while (cap < need)
		cap *= 2;
	m->work += b->root ? cap / 4 : cap; /* pages are made, and the text so far is copied */
	if (b->root) {
		p = realloc(b->p, cap + 1);
		if (p == NULL)
			return ql_err_set(m->e, QL_ENOMEM, "template output");
	} else {
		if (b->p != NULL && tmpl_extend_text(&m->arena, b->p, b->cap, cap - b->cap)) {
			b->cap = cap;
			return QL_OK;
		}
		p = tmpl_grow_text(&m->arena, b->p, b->cap, cap);
		if (p == NULL)
			return vm_nomem(m);
	}
	b->p = p;
	b->cap = cap;
	return QL_OK;
}

int sb_add(struct vm *m, struct sb *b, const char *p, size_t len)
{
	int rc;

	if (len == 0)
		return QL_OK;
	rc = sb_grow(m, b, len);
	m->work += 8 + len / 4;
	if (rc == QL_OK)
		rc = vm_over(m);
	if (rc != QL_OK)
		return rc;
	memcpy(b->p + b->len, p, len);
	b->len += len;
	return QL_OK;
}

int sb_addz(struct vm *m, struct sb *b, const char *z) { return sb_add(m, b, z, strlen(z)); }

int sb_mark(struct vm *m, struct sb *b, size_t begin, size_t end)
{
	struct ql_span *last = b->n_marks == 0 ? NULL : &b->marks[b->n_marks - 1];

	if (begin == end)
		return QL_OK;
	if (last != NULL && last->end >= begin) {
		last->end = end;
		return QL_OK;
	}
	if (b->n_marks == b->cap_marks) {
		size_t cap = b->cap_marks == 0 ? 8 : b->cap_marks * 2;
		struct ql_span *marks = b->root ? realloc(b->marks, cap * sizeof *marks) : vm_alloc(m, cap * sizeof *marks);

		if (marks == NULL)
			return b->root ? ql_err_set(m->e, QL_ENOMEM, "template output") : m->e->code;
		if (!b->root && b->n_marks > 0)
			memcpy(marks, b->marks, b->n_marks * sizeof *marks);
		b->marks = marks;
		b->cap_marks = cap;
	}
	b->marks[b->n_marks++] = (struct ql_span){begin, end};
	return QL_OK;
}

int sb_sub(struct vm *m, struct sb *b, const struct str *s, size_t begin, size_t end)
{
	size_t at = b->len;
	int rc = sb_add(m, b, s->p + begin, end - begin);

	for (size_t i = mark_find(s, begin); rc == QL_OK && i < s->n_marks && s->marks[i].begin < end; i++) {
		size_t from = s->marks[i].begin < begin ? begin : s->marks[i].begin;
		size_t to = s->marks[i].end > end ? end : s->marks[i].end;

		rc = sb_mark(m, b, at + from - begin, at + to - begin);
		m->work += 8;
	}
	return rc;
}

int sb_str(struct vm *m, struct sb *b, const struct str *s) { return sb_sub(m, b, s, 0, s->len); }

int sb_cp(struct vm *m, struct sb *b, uint32_t cp, const struct str *s, size_t at)
{
	char text[4];
	size_t n = (size_t)ql_utf8_encode(cp, text), from = b->len;
	int rc = sb_add(m, b, text, n);

	if (rc == QL_OK && s->n_marks > 0 && str_marked_at(s, at))
		rc = sb_mark(m, b, from, from + n);
	return rc;
}

int sb_end(struct vm *m, struct sb *b, struct val *out)
{
	int rc = str_new(m, out, b->p == NULL ? "" : b->p, b->len);

	if (rc != QL_OK)
		return rc;
	out->s->marks = b->marks;
	out->s->n_marks = b->n_marks;
	return QL_OK;
}

/* a + b.  When a ends where the arena's free space begins, b is written behind it: a stays what it was, and a chain of
 * concatenations is linear. */
int str_concat(struct vm *m, struct val *out, const struct str *a, const struct str *b)
{
	struct sb s = {0};
	size_t len;
	int rc;

	if (!ql_add_size(a->len, b->len, &len) || len > QL_TMPL_OUTPUT_MAX)
		return vm_limit(m, "string longer than a template may make");
	rc = vm_step(m, b->len / 4 + a->n_marks * 8);
	if (rc != QL_OK)
		return rc;
	if (a->len > 0 && tmpl_extend_text(&m->arena, a->p, a->len, b->len)) {
		s.p = (char *)(uintptr_t)a->p;
		s.len = a->len;
		s.cap = len;
		for (size_t i = 0; i < a->n_marks && rc == QL_OK; i++)
			rc = sb_mark(m, &s, a->marks[i].begin, a->marks[i].end);
	} else {
		s.p = tmpl_alloc_text(&m->arena, len);
		if (s.p == NULL)
			return vm_nomem(m);
		s.cap = len;
		m->work += len;
		rc = sb_str(m, &s, a);
	}
	if (rc == QL_OK)
		rc = sb_str(m, &s, b);
	return rc != QL_OK ? rc : sb_end(m, &s, out);
}

int str_escape(struct vm *m, struct val *out, struct val v)
{
	struct sb b = {0};
	struct val text;
	const struct str *s;
	size_t from = 0;
	int rc = QL_OK;

	if (v.kind == V_STR && v.s->safe) {
		*out = v;
		return QL_OK;
	}
	rc = v_to_str(m, v, &text);
	if (rc != QL_OK)
		return rc;
	s = text.s;
	rc = vm_step(m, s->len * 4);
	for (size_t i = 0; i <= s->len && rc == QL_OK; i++) {
		char c = i < s->len ? s->p[i] : '\0';
		const char *rep = c == '&' ? "&amp;" : c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '"' ? "&#34;" : c == '\'' ? "&#39;" : NULL;

		if (rep == NULL && i < s->len)
			continue;
		rc = sb_sub(m, &b, s, from, i);
		if (rc == QL_OK && rep != NULL) {
			size_t at = b.len;

			m->work += s->n_marks > 0 ? 48 : 24;
			rc = sb_addz(m, &b, rep);
			if (rc == QL_OK && str_marked_at(s, i))
				rc = sb_mark(m, &b, at, b.len);
		}
		from = i + 1;
	}
	if (rc == QL_OK)
		rc = sb_end(m, &b, out);
	if (rc == QL_OK)
		out->s->safe = true;
	return rc;
}
