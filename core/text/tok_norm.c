/* tok_norm.c - see tok_norm.h. */
#include "core/text/tok_norm.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/checked.h"
#include "core/base/limits.h"

int ql_norm_add(struct ql_norm *n, enum ql_norm_kind kind, const char *a, const char *b, struct ql_regex *regex, struct ql_err *e)
{
	struct ql_norm_step *s;

	if (n->n >= QL_TOK_STEPS_MAX) {
		ql_regex_free(regex);
		return ql_err_param(e, QL_ELIMIT, "normalizer", "more than %d normalizers in a row", QL_TOK_STEPS_MAX);
	}
	s = realloc(n->steps, (n->n + 1) * sizeof *s);
	if (s == NULL) {
		ql_regex_free(regex);
		return ql_err_set(e, QL_ENOMEM, "no memory for a normalizer");
	}
	n->steps = s;
	s += n->n++;
	*s = (struct ql_norm_step){.kind = kind, .regex = regex};
	s->a = strdup(a == NULL ? "" : a);
	s->b = strdup(b == NULL ? "" : b);
	if (s->a == NULL || s->b == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a normalizer");
	s->a_len = strlen(s->a);
	s->b_len = strlen(s->b);
	return QL_OK;
}

void ql_norm_free(struct ql_norm *n)
{
	for (size_t i = 0; i < n->n; i++) {
		free(n->steps[i].a);
		free(n->steps[i].b);
		ql_regex_free(n->steps[i].regex);
	}
	free(n->steps);
	*n = (struct ql_norm){0};
}

void ql_nbuf_free(struct ql_nbuf *b)
{
	free(b->p);
	free(b->map);
	*b = (struct ql_nbuf){0};
}

/* Room for `extra` bytes and the map's last entry. */
static int reserve(struct ql_nbuf *b, size_t extra)
{
	size_t need, cap = b->cap < 256 ? 256 : b->cap;
	uint32_t *map;
	char *p;

	if (!ql_add_size(b->len, extra, &need) || need >= UINT32_MAX)
		return QL_ELIMIT;
	if (need + 1 <= b->cap)
		return QL_OK;
	while (cap < need + 1)
		cap *= 2;
	p = realloc(b->p, cap);
	if (p == NULL)
		return QL_ENOMEM;
	b->p = p;
	map = realloc(b->map, cap * sizeof *map);
	if (map == NULL)
		return QL_ENOMEM;
	b->map = map;
	b->cap = cap;
	return QL_OK;
}

int ql_nbuf_add(struct ql_nbuf *b, const char *p, size_t len, uint32_t origin, uint32_t step)
{
	int rc = reserve(b, len);

	if (rc != QL_OK)
		return rc;
	memcpy(b->p + b->len, p, len);
	for (size_t i = 0; i < len; i++)
		b->map[b->len + i] = origin + (uint32_t)i * step;
	b->len += len;
	return QL_OK;
}

int ql_nbuf_copy(struct ql_nbuf *b, const struct ql_ntext *src, size_t from, size_t to)
{
	int rc;

	if (src->map == NULL)
		return ql_nbuf_add(b, src->p + from, to - from, src->base + (uint32_t)from, 1);
	rc = reserve(b, to - from);
	if (rc != QL_OK)
		return rc;
	memcpy(b->p + b->len, src->p + from, to - from);
	memcpy(b->map + b->len, src->map + from, (to - from) * sizeof *b->map);
	b->len += to - from;
	return QL_OK;
}

static int prepend(const struct ql_norm_step *s, const struct ql_ntext *src, struct ql_nbuf *dst)
{
	int rc = ql_nbuf_add(dst, s->a, s->a_len, ql_ntext_origin(src, 0), 0);

	return rc == QL_OK ? ql_nbuf_copy(dst, src, 0, src->len) : rc;
}

/* One byte by a text, all over src: what SentencePiece does with spaces. */
static int replace_byte(const struct ql_norm_step *s, const struct ql_ntext *src, struct ql_nbuf *dst)
{
	size_t hits = 0, n = 0, growth;
	int rc;

	for (size_t i = 0; i < src->len; i++)
		hits += src->p[i] == *s->a;
	if (!ql_mul_size(hits, s->b_len, &growth) || !ql_add_size(growth, src->len, &growth))
		return QL_ELIMIT;
	rc = reserve(dst, growth);
	if (rc != QL_OK)
		return rc;
	for (size_t i = 0; i < src->len; i++) {
		uint32_t origin = ql_ntext_origin(src, i);

		if (src->p[i] != *s->a) {
			dst->p[n] = src->p[i];
			dst->map[n++] = origin;
			continue;
		}
		for (size_t k = 0; k < s->b_len; k++) {
			dst->p[n] = s->b[k];
			dst->map[n++] = origin;
		}
	}
	dst->len = n;
	return QL_OK;
}

static int replace(const struct ql_norm_step *s, struct ql_regex_match *m, const struct ql_ntext *src, struct ql_nbuf *dst,
		   struct ql_err *e)
{
	size_t at = 0, from = 0, mb, me;
	int rc = QL_OK;

	while (rc == QL_OK && from <= src->len) {
		if (s->kind == QL_NORM_REPLACE) {
			const char *hit = memmem(src->p + from, src->len - from, s->a, s->a_len);

			mb = hit == NULL ? SIZE_MAX : (size_t)(hit - src->p);
			me = mb + s->a_len;
		} else {
			rc = ql_regex_find(s->regex, m, src->p, src->len, from, &mb, &me, e);
			if (rc != QL_OK && rc != QL_ENOTFOUND)
				return rc;
			if (rc == QL_ENOTFOUND)
				mb = SIZE_MAX;
			rc = QL_OK;
		}
		if (mb == SIZE_MAX)
			break;
		if (mb == me) { /* empty matches are left alone; one character on */
			do
				from = ++me;
			while (from < src->len && ((uint8_t)src->p[from] & 0xc0) == 0x80);
			continue;
		}
		rc = ql_nbuf_copy(dst, src, at, mb);
		if (rc == QL_OK)
			rc = ql_nbuf_add(dst, s->b, s->b_len, ql_ntext_origin(src, mb), 0);
		at = from = me;
	}
	return rc == QL_OK ? ql_nbuf_copy(dst, src, at, src->len) : rc;
}

static bool begins_with(const struct ql_ntext *t, const struct ql_norm_step *s)
{
	return t->len >= s->a_len && memcmp(t->p, s->a, s->a_len) == 0;
}

/* One step; *same = true if src stays as it is. */
static int run_step(const struct ql_norm_step *s, struct ql_regex_match *m, const struct ql_ntext *src, struct ql_nbuf *dst,
		    bool *same, struct ql_err *e)
{
	*same = false;
	switch (s->kind) {
	case QL_NORM_PREPEND:
		return prepend(s, src, dst);
	case QL_NORM_PREPEND_FIRST:
	case QL_NORM_PREPEND_MISSING:
		*same = begins_with(src, s) || (s->kind == QL_NORM_PREPEND_FIRST && ql_ntext_origin(src, 0) != 0);
		return *same ? QL_OK : prepend(s, src, dst);
	case QL_NORM_REPLACE:
		if (s->a_len == 1)
			return replace_byte(s, src, dst);
		return replace(s, m, src, dst, e);
	case QL_NORM_REPLACE_REGEX:
		return replace(s, m, src, dst, e);
	default:
		return ql_norm_unicode(s->kind, src, dst, same);
	}
}

int ql_norm_run(const struct ql_norm *n, struct ql_regex_match *m, struct ql_ntext *t, struct ql_nbuf bufs[2], struct ql_err *e)
{
	int which = 0;

	for (size_t i = 0; i < n->n && t->len > 0; i++) {
		struct ql_nbuf *b = &bufs[which];
		bool same;
		int rc;

		b->len = 0;
		rc = run_step(&n->steps[i], m, t, b, &same, e);
		if (rc == QL_OK && !same)
			rc = reserve(b, 0);
		if (rc == QL_ENOMEM)
			return ql_err_set(e, rc, "no memory to normalise a text");
		if (rc != QL_OK)
			return rc == QL_ELIMIT ? ql_err_set(e, rc, "a normalised text is too long") : rc;
		if (same)
			continue;
		b->map[b->len] = ql_ntext_origin(t, t->len);
		*t = (struct ql_ntext){.p = b->p, .len = b->len, .map = b->map};
		which = !which;
	}
	return QL_OK;
}
