/* parse.c - the parser's common parts: the token stream, nodes, lists, interned names. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/lex.h"
#include "core/text/tmpl/parse.h"

int parse_fail(struct parser *p, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	(void)vsnprintf(what, sizeof what, fmt, ap);
	va_end(ap);
	return lex_fail(p->e, cur(p)->line, what);
}

int parse_nomem(struct parser *p)
{
	struct tmpl_arena *a = &p->t->arena;

	if (a->max - a->used < QL_KIB(64))
		return ql_err_set(p->e, QL_ELIMIT, "template line %u: template too large", cur(p)->line);
	return ql_err_set(p->e, QL_ENOMEM, "template");
}

bool tok_is(const struct token *k, const char *name)
{
	return k->type == T_NAME && k->len == strlen(name) && memcmp(k->p, name, k->len) == 0;
}

bool skip_name(struct parser *p, const char *name)
{
	if (!tok_is(cur(p), name))
		return false;
	advance(p);
	return true;
}

int expect(struct parser *p, enum tok type, const char *what)
{
	if (cur(p)->type == T_EOF && type != T_EOF)
		return parse_fail(p, "unexpected end of template, expected %s.", what);
	if (cur(p)->type != type)
		return parse_fail(p, "expected token %s, got '%.*s'", what, (int)(cur(p)->len > 40 ? 40 : cur(p)->len),
				  cur(p)->p == NULL ? "" : cur(p)->p);
	advance(p);
	return QL_OK;
}

int expect_name(struct parser *p, const char *name)
{
	if (!skip_name(p, name))
		return parse_fail(p, "expected '%s'", name);
	return QL_OK;
}

struct node *node_new(struct parser *p, int type, uint32_t line)
{
	struct node *n;

	if (p->n_nodes == QL_TMPL_NODES_MAX) {
		(void)ql_err_set(p->e, QL_ELIMIT, "template line %u: more than %d syntax nodes", line, QL_TMPL_NODES_MAX);
		return NULL;
	}
	n = tmpl_alloc(&p->t->arena, sizeof *n);
	if (n == NULL) {
		(void)parse_nomem(p);
		return NULL;
	}
	p->n_nodes++;
	n->type = (uint8_t)type;
	n->line = line;
	return n;
}

struct str *tok_str(struct parser *p, const char *text, size_t len)
{
	struct str *s = tmpl_alloc(&p->t->arena, sizeof *s);

	if (s == NULL) {
		(void)parse_nomem(p);
		return NULL;
	}
	s->p = text;
	s->len = len;
	s->n_cp = 0;
	for (size_t i = 0; i < len; i++)
		s->n_cp += ((unsigned char)text[i] & 0xc0) != 0x80;
	return s;
}

int enter(struct parser *p)
{
	/* an expression passes here twice a level: conditional and unary */
	if (++p->depth > 2 * QL_TMPL_DEPTH_MAX)
		return ql_err_set(p->e, QL_ELIMIT, "template line %u: nested deeper than %d", cur(p)->line, QL_TMPL_DEPTH_MAX);
	return QL_OK;
}

void leave(struct parser *p) { p->depth--; }

int nlist_add(struct parser *p, struct nlist *l, struct node *n)
{
	if (l->n == l->cap) {
		uint32_t cap = l->cap == 0 ? 8 : l->cap * 2;
		struct node **v = realloc(l->v, cap * sizeof(struct node *));

		if (v == NULL)
			return parse_nomem(p);
		l->v = v;
		l->cap = cap;
	}
	l->v[l->n++] = n;
	return QL_OK;
}

int nlist_end(struct parser *p, struct nlist *l, struct node ***out, uint32_t *n)
{
	*out = tmpl_alloc(&p->t->arena, (size_t)l->n * sizeof(struct node *));
	*n = l->n;
	if (*out != NULL && l->n > 0)
		memcpy(*out, l->v, (size_t)l->n * sizeof(struct node *));
	nlist_free(l);
	return *out == NULL ? parse_nomem(p) : QL_OK;
}

void nlist_free(struct nlist *l)
{
	free(l->v);
	*l = (struct nlist){0};
}

static uint32_t name_hash(const char *s, size_t len)
{
	uint32_t h = 2166136261u;

	for (size_t i = 0; i < len; i++)
		h = (h ^ (unsigned char)s[i]) * 16777619u;
	return h;
}

static int names_grow(struct parser *p)
{
	struct ql_tmpl *t = p->t;
	uint32_t cap = t->cap_names == 0 ? 64 : t->cap_names * 2;
	struct str **names = tmpl_alloc(&t->arena, cap * sizeof(struct str *));
	uint32_t *index = tmpl_alloc(&t->arena, (size_t)cap * 2 * sizeof *index);

	if (names == NULL || index == NULL)
		return parse_nomem(p);
	for (uint32_t i = 0; i < t->n_names; i++) {
		uint32_t h = name_hash(t->names[i]->p, t->names[i]->len) & (cap * 2 - 1);

		names[i] = t->names[i];
		while (index[h] != 0)
			h = (h + 1) & (cap * 2 - 1);
		index[h] = i + 1;
	}
	t->names = names;
	t->cap_names = cap;
	t->name_index = index;
	t->n_name_index = cap * 2;
	return QL_OK;
}

int intern(struct parser *p, const char *s, size_t len, uint32_t *out)
{
	struct ql_tmpl *t = p->t;
	uint32_t h;

	if (t->n_names == t->cap_names) {
		int rc = names_grow(p);

		if (rc != QL_OK)
			return rc;
	}
	h = name_hash(s, len) & (t->n_name_index - 1);
	for (; t->name_index[h] != 0; h = (h + 1) & (t->n_name_index - 1)) {
		const struct str *k = t->names[t->name_index[h] - 1];

		if (k->len == len && memcmp(k->p, s, len) == 0) {
			*out = t->name_index[h] - 1;
			return QL_OK;
		}
	}
	t->names[t->n_names] = tok_str(p, s, len);
	if (t->names[t->n_names] == NULL)
		return QL_ELIMIT;
	*out = t->n_names++;
	t->name_index[h] = *out + 1;
	return QL_OK;
}
