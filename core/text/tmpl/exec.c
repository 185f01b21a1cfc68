/* exec.c - statements. */
#include <string.h>

#include "core/base/limits.h"
#include "core/text/tmpl/ast.h"

int scope_set(struct vm *m, struct scope *s, uint32_t name, struct val v)
{
	for (size_t i = 0; i < s->n; i++) {
		if (s->b[i].name == name) {
			s->b[i].v = v;
			return vm_step(m, i);
		}
	}
	if (s->n == s->cap) {
		size_t cap = s->cap == 0 ? 4 : s->cap * 2;
		struct binding *b = vm_alloc(m, cap * sizeof *b);

		if (b == NULL)
			return m->e->code;
		if (s->n > 0)
			memcpy(b, s->b, s->n * sizeof *b);
		s->b = b;
		s->cap = cap;
	}
	s->b[s->n++] = (struct binding){name, v};
	return QL_OK;
}

static int assign_ns(struct vm *m, const struct node *t, struct val v)
{
	struct val ns;
	int rc = vm_lookup(m, t->name, &ns);

	if (rc != QL_OK)
		return rc;
	if (ns.kind != V_NS)
		return vm_raise(m, "TemplateRuntimeError", "cannot assign attribute on non-namespace object");
	if (t->str->len > 0 && t->str->p[0] == '_')
		return vm_raise(m, "SecurityError",
				"Chat templates cannot store underscore-prefixed attributes on a namespace, but got '%.*s'.",
				(int)(t->str->len > 60 ? 60 : t->str->len), t->str->p);
	return v_dict_put(m, &ns.ns->attrs, v_str(t->str), v);
}

static int assign_tuple(struct vm *m, const struct node *t, struct val v)
{
	struct iter *it;
	struct val x;
	int rc;

	if (!v_iterable(v))
		return vm_raise(m, "TypeError", "cannot unpack non-iterable %s object", v_type(v));
	rc = iter_new(m, v, &it);
	for (uint32_t i = 0; i < t->n && rc == QL_OK; i++) {
		rc = iter_next(m, it, &x);
		if (rc == QL_OK && x.kind == V_MISSING)
			return vm_raise(m, "ValueError", "not enough values to unpack (expected %u, got %u)", t->n, i);
		if (rc == QL_OK)
			rc = vm_assign(m, t->list[i], x);
	}
	if (rc == QL_OK)
		rc = iter_next(m, it, &x);
	if (rc == QL_OK && x.kind != V_MISSING)
		return vm_raise(m, "ValueError", "too many values to unpack (expected %u)", t->n);
	return rc;
}

int vm_assign(struct vm *m, const struct node *t, struct val v)
{
	if (t->type == N_NAME)
		return scope_set(m, m->scope, t->name, v);
	return t->type == N_TUPLE ? assign_tuple(m, t, v) : assign_ns(m, t, v);
}

/* Runs a body in a scope of its own. */
static int exec_scoped(struct vm *m, struct node *const *list, uint32_t n, int *flow)
{
	struct scope *s = vm_alloc(m, sizeof *s), *outer = m->scope;
	int rc;

	if (s == NULL)
		return m->e->code;
	s->parent = outer;
	m->scope = s;
	rc = vm_exec(m, list, n, flow);
	m->scope = outer;
	return rc;
}

/* The same, its output captured as a string. */
static int capture(struct vm *m, const struct node *n, int *flow, struct val *out)
{
	struct sb b = {0}, *outer = m->out;
	int rc;

	m->out = &b;
	rc = exec_scoped(m, n->list, n->n, flow);
	m->out = outer;
	return rc != QL_OK ? rc : sb_end(m, &b, out);
}

/* The filter of "for x in y if z": draws from it->in what passes. */
struct filter_state {
	const struct node *node;
	struct scope *outer;
};

static int next_filtered(struct vm *m, struct iter *it, struct val *out)
{
	const struct filter_state *f = it->state;
	struct scope s = {.parent = f->outer}, *was = m->scope;
	bool yes = false;
	int rc = QL_OK;

	while (rc == QL_OK && !yes) {
		struct val c;

		rc = iter_next(m, it->in, out);
		if (rc != QL_OK || out->kind == V_MISSING)
			break;
		s.n = 0;
		m->scope = &s;
		if (++m->loops > QL_TMPL_LOOPS_MAX)
			rc = vm_limit(m, "more loop turns than a template may take");
		if (rc == QL_OK)
			rc = vm_assign(m, f->node->a, *out);
		if (rc == QL_OK)
			rc = vm_eval(m, f->node->c, &c);
		if (rc == QL_OK)
			rc = v_truth(m, c, &yes);
		m->scope = was;
	}
	return rc;
}

static int loop_source(struct vm *m, const struct node *n, struct val *iterable, struct iter **it)
{
	struct filter_state *f;
	int rc = vm_eval(m, n->b, iterable);

	m->line = n->line;
	if (rc == QL_OK)
		rc = iter_new(m, *iterable, it);
	if (rc != QL_OK || n->c == NULL)
		return rc;
	f = vm_alloc(m, sizeof *f);
	if (f == NULL)
		return m->e->code;
	f->node = n;
	f->outer = m->scope;
	rc = iter_wrap(m, it, *it, next_filtered);
	if (rc == QL_OK)
		(*it)->state = f;
	*iterable = (struct val){.kind = V_ITER, .iter = *it};
	return rc;
}

/* One turn: the variables are set, the body runs. */
static int loop_turn(struct vm *m, const struct node *n, struct scope *s, struct val item, struct loop *loop, int *flow)
{
	struct scope *outer = m->scope;
	int rc = QL_OK;

	if (++m->loops > QL_TMPL_LOOPS_MAX)
		return vm_limit(m, "more loop turns than a template may take");
	s->n = 0;
	m->scope = s;
	if (loop != NULL)
		rc = scope_set(m, s, m->t->name_loop, (struct val){.kind = V_LOOP, .loop = loop});
	if (rc == QL_OK)
		rc = vm_assign(m, n->a, item);
	if (rc == QL_OK)
		rc = vm_exec(m, n->list, n->n, flow);
	m->scope = outer;
	return rc;
}

static int exec_for(struct vm *m, const struct node *n, int *flow)
{
	struct scope *s = vm_alloc(m, sizeof *s);
	struct loop *loop = NULL;
	struct val iterable, item;
	struct iter *it;
	bool turned = false;
	int rc = s == NULL ? m->e->code : loop_source(m, n, &iterable, &it);

	if (rc == QL_OK && n->uses_loop) {
		loop = vm_alloc(m, sizeof *loop);
		if (loop == NULL)
			return m->e->code;
		loop->it = it;
		loop->iterable = iterable;
		loop->index0 = SIZE_MAX;
	}
	if (s != NULL)
		s->parent = m->scope;
	while (rc == QL_OK && *flow != FLOW_BREAK) {
		rc = loop != NULL ? loop_advance(m, loop, &item) : iter_next(m, it, &item);
		if (rc != QL_OK || item.kind == V_MISSING)
			break;
		turned = true;
		*flow = FLOW_NEXT;
		rc = loop_turn(m, n, s, item, loop, flow);
	}
	*flow = FLOW_NEXT;
	if (rc == QL_OK && !turned && n->n2 > 0)
		rc = exec_scoped(m, n->list2, n->n2, flow);
	return rc;
}

static int exec_if(struct vm *m, const struct node *n, int *flow)
{
	for (uint32_t i = 0; i < n->n; i++) {
		bool yes = n->list[i] == NULL;
		struct val c;
		int rc = QL_OK;

		if (!yes) {
			rc = vm_eval(m, n->list[i], &c);
			if (rc == QL_OK)
				rc = v_truth(m, c, &yes);
			if (rc != QL_OK)
				return rc;
		}
		if (yes)
			return vm_exec(m, n->blocks[i].list, n->blocks[i].n, flow);
	}
	return QL_OK;
}

static int exec_set(struct vm *m, const struct node *n)
{
	struct val v;
	int rc = vm_eval(m, n->b, &v);

	m->line = n->line;
	return rc != QL_OK ? rc : vm_assign(m, n->a, v);
}

/* {% set x | filter %}…{% endset %} and {% filter f %}…{% endfilter %} */
static int exec_captured(struct vm *m, const struct node *n, int *flow)
{
	struct val v;
	int rc = capture(m, n, flow, &v);

	if (rc != QL_OK || *flow != FLOW_NEXT)
		return rc;
	if (n->b != NULL) {
		m->pending = v;
		rc = vm_eval(m, n->b, &v);
	}
	if (rc != QL_OK)
		return rc;
	return n->type == N_SETBLOCK ? vm_assign(m, n->a, v) : v_print(m, m->out, v);
}

static int exec_macro(struct vm *m, const struct node *n)
{
	struct macro *mac = vm_alloc(m, sizeof *mac);

	if (mac == NULL)
		return m->e->code;
	mac->node = n;
	mac->scope = m->scope;
	return scope_set(m, m->scope, n->name, (struct val){.kind = V_MACRO, .macro = mac});
}

/* {% call f(x) %}…{% endcall %}: f is called with the body as its keyword argument caller. */
static int exec_call_block(struct vm *m, const struct node *n)
{
	struct macro *mac = vm_alloc(m, sizeof *mac);
	struct kwarg *kw;
	struct args a;
	struct val f, v;
	int rc = mac == NULL ? m->e->code : vm_eval(m, n->a->a, &f);

	if (rc == QL_OK)
		rc = vm_eval_args(m, n->a->call, &a);
	if (rc != QL_OK)
		return rc;
	kw = vm_alloc(m, (a.n_kw + 1) * sizeof *kw);
	if (kw == NULL)
		return m->e->code;
	if (a.n_kw > 0)
		memcpy(kw, a.kw, a.n_kw * sizeof *kw);
	mac->node = n->b;
	mac->scope = m->scope;
	kw[a.n_kw] = (struct kwarg){m->t->names[m->t->name_caller], (struct val){.kind = V_MACRO, .macro = mac}};
	a.kw = kw;
	a.n_kw++;
	m->line = n->line;
	rc = v_call(m, f, &a, &v);
	return rc != QL_OK ? rc : v_print(m, m->out, v);
}

static int exec_with(struct vm *m, const struct node *n, int *flow)
{
	struct scope *s = vm_alloc(m, sizeof *s), *outer = m->scope;
	struct val v;
	int rc = QL_OK;

	if (s == NULL)
		return m->e->code;
	s->parent = outer;
	for (uint32_t i = 0; i + 1 < n->n2 && rc == QL_OK; i += 2) {
		rc = vm_eval(m, n->list2[i + 1], &v); /* values see the outer scope */
		m->scope = s;
		if (rc == QL_OK)
			rc = vm_assign(m, n->list2[i], v);
		m->scope = outer;
	}
	m->scope = s;
	if (rc == QL_OK)
		rc = vm_exec(m, n->list, n->n, flow);
	m->scope = outer;
	return rc;
}

static int exec_generation(struct vm *m, const struct node *n, int *flow)
{
	size_t begin = m->out->len;
	int rc = exec_scoped(m, n->list, n->n, flow);

	if (rc != QL_OK)
		return rc;
	if (!m->out->root) {
		m->gen_lost = true;
		return QL_OK;
	}
	if (m->n_gen == m->cap_gen) {
		size_t cap = m->cap_gen == 0 ? 8 : m->cap_gen * 2;
		struct ql_span *gen = vm_alloc(m, cap * sizeof *gen);

		if (gen == NULL)
			return m->e->code;
		if (m->n_gen > 0)
			memcpy(gen, m->gen, m->n_gen * sizeof *gen);
		m->gen = gen;
		m->cap_gen = cap;
	}
	m->gen[m->n_gen++] = (struct ql_span){begin, m->out->len};
	return QL_OK;
}

static int exec_one(struct vm *m, const struct node *n, int *flow)
{
	struct val v;
	int rc;

	switch (n->type) {
	case N_DATA:
		return sb_add(m, m->out, n->value.s->p, n->value.s->len);
	case N_PRINT:
		rc = vm_eval(m, n->a, &v);
		return rc != QL_OK ? rc : v_print(m, m->out, v);
	case N_FOR:
		return exec_for(m, n, flow);
	case N_IF:
		return exec_if(m, n, flow);
	case N_SET:
		return exec_set(m, n);
	case N_SETBLOCK:
	case N_FILTERBLOCK:
		return exec_captured(m, n, flow);
	case N_MACRO:
		return exec_macro(m, n);
	case N_WITH:
		return exec_with(m, n, flow);
	case N_BREAK:
		*flow = FLOW_BREAK;
		return QL_OK;
	case N_CONTINUE:
		*flow = FLOW_CONTINUE;
		return QL_OK;
	case N_CALLBLOCK:
		return exec_call_block(m, n);
	case N_GENERATION:
		return exec_generation(m, n, flow);
	default:
		return ql_err_set(m->e, QL_EINTERNAL, "template line %u: unknown statement", n->line);
	}
}

int vm_exec(struct vm *m, struct node *const *list, uint32_t n, int *flow)
{
	int rc = QL_OK;

	if (++m->depth > QL_TMPL_EVAL_DEPTH_MAX)
		rc = vm_limit(m, "evaluation nested too deep");
	for (uint32_t i = 0; i < n && rc == QL_OK && *flow == FLOW_NEXT; i++) {
		m->line = list[i]->line;
		rc = vm_step(m, 0);
		if (rc == QL_OK)
			rc = exec_one(m, list[i], flow);
	}
	m->depth--;
	return rc;
}
