/* render.c - the public face: compile, free, render. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/probe.h"
#include "core/text/tmpl/tmpl.h"

#define TREE_MEMORY_MAX QL_MIB(48)

int ql_tmpl_compile(struct ql_tmpl **out, const char *src, size_t len, struct ql_err *e)
{
	struct token *tok = NULL;
	struct ql_tmpl *t = calloc(1, sizeof *t);
	size_t n = 0;
	int rc;

	*out = NULL;
	if (t == NULL)
		return ql_err_set(e, QL_ENOMEM, "template");
	tmpl_arena_init(&t->arena, TREE_MEMORY_MAX);
	rc = tmpl_lex(t, src, len, &tok, &n, e);
	if (rc == QL_OK)
		rc = tmpl_parse(t, tok, n, e);
	if (rc == QL_OK)
		rc = tmpl_probe(t, e);
	free(tok);
	if (rc != QL_OK) {
		ql_tmpl_free(t);
		return rc;
	}
	*out = t;
	return QL_OK;
}

void ql_tmpl_free(struct ql_tmpl *t)
{
	if (t == NULL)
		return;
	ql_tmpl_free(t->tool_use);
	tmpl_arena_free(&t->arena);
	free(t);
}

void ql_tmpl_set_tool_use(struct ql_tmpl *t, struct ql_tmpl *tool_use)
{
	ql_tmpl_free(t->tool_use);
	t->tool_use = tool_use;
}

const struct ql_tmpl *ql_tmpl_for(const struct ql_tmpl *t, bool tools)
{
	return tools && t != NULL && t->tool_use != NULL ? t->tool_use : t;
}

bool ql_tmpl_has_generation(const struct ql_tmpl *t) { return t->has_generation; }

bool ql_tmpl_uses(const struct ql_tmpl *t, const char *name)
{
	for (uint32_t i = 0; i < t->n_names; i++)
		if (str_is(t->names[i], name))
			return true;
	return false;
}

void ql_rendered_free(struct ql_rendered *r)
{
	if (r == NULL)
		return;
	ql_buf_free(&r->text);
	free(r->plain);
	free(r->generation);
	*r = (struct ql_rendered){0};
}

/* Hands the root string over to *out. */
static int take(struct vm *m, struct ql_rendered *out)
{
	if (m->root.p == NULL) {
		m->root.p = malloc(1);
		if (m->root.p == NULL)
			return ql_err_set(m->e, QL_ENOMEM, "template output");
	}
	m->root.p[m->root.len] = '\0'; /* sb_grow keeps one byte more than cap */
	out->text = (struct ql_buf){m->root.p, m->root.len, m->root.cap + 1};
	out->plain = m->root.marks;
	out->n_plain = m->root.n_marks;
	m->root = (struct sb){0};
	if (m->gen_lost || m->n_gen == 0)
		return QL_OK;
	out->generation = malloc(m->n_gen * sizeof *out->generation);
	if (out->generation == NULL)
		return ql_err_set(m->e, QL_ENOMEM, "template output");
	memcpy(out->generation, m->gen, m->n_gen * sizeof *out->generation);
	out->n_generation = m->n_gen;
	return QL_OK;
}

int tmpl_render_within(const struct ql_tmpl *t, const struct ql_tmpl_env *env, uint64_t *steps, struct ql_rendered *out,
		       struct ql_err *e)
{
	struct vm m = {.t = t, .env = env, .max_work = 64 * *steps, .root = {.root = true}};
	struct scope top = {0};
	int flow = FLOW_NEXT, rc = QL_OK;

	*out = (struct ql_rendered){0};
	m.e = e != NULL ? e : &m.own;
	m.out = &m.root;
	m.scope = &top;
	tmpl_arena_init(&m.arena, QL_TMPL_MEMORY_MAX);
	m.globals = vm_alloc(&m, (size_t)t->n_names * sizeof *m.globals);
	if (m.globals == NULL)
		rc = m.e->code;
	if (rc == QL_OK)
		rc = vm_exec(&m, t->body, t->n_body, &flow);
	if (rc == QL_OK)
		rc = take(&m, out);
	*steps -= m.work / 64 < *steps ? m.work / 64 : *steps;
	tmpl_arena_free(&m.arena);
	free(m.root.p);
	free(m.root.marks);
	if (rc != QL_OK)
		ql_rendered_free(out);
	return rc;
}

int ql_tmpl_render(const struct ql_tmpl *t, const struct ql_tmpl_env *env, struct ql_rendered *out, struct ql_err *e)
{
	uint64_t steps = QL_TMPL_STEPS_MAX;

	return tmpl_render_within(t, env, &steps, out, e);
}
