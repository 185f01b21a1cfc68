/* parse_macro.c - macros and call blocks. */
#include "core/text/tmpl/parse.h"

static int parse_signature(struct parser *p, struct node *n)
{
	struct nlist params = {0}, defaults = {0};
	struct node *v;
	int rc = expect(p, T_LPAREN, "'('");

	while (rc == QL_OK && cur(p)->type != T_RPAREN) {
		if (params.n > 0 && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		v = node_new(p, N_NAME, cur(p)->line);
		if (v == NULL || cur(p)->type != T_NAME) {
			rc = v == NULL ? QL_ELIMIT : parse_fail(p, "expected a parameter name");
			break;
		}
		rc = intern(p, cur(p)->p, cur(p)->len, &v->name);
		advance(p);
		if (rc == QL_OK)
			rc = nlist_add(p, &params, v);
		if (rc == QL_OK && cur(p)->type == T_ASSIGN) {
			advance(p);
			rc = parse_expression(p, true, &v);
			if (rc == QL_OK)
				rc = nlist_add(p, &defaults, v);
		} else if (rc == QL_OK && defaults.n > 0) {
			rc = parse_fail(p, "non-default argument follows default argument");
		}
	}
	if (rc == QL_OK)
		rc = expect(p, T_RPAREN, "')'");
	if (rc == QL_OK)
		rc = nlist_end(p, &params, &n->list2, &n->n2);
	if (rc == QL_OK)
		rc = nlist_end(p, &defaults, &n->defaults, &n->n_defaults);
	nlist_free(&params);
	nlist_free(&defaults);
	return rc;
}

/* Signature (if with_signature) and body of a macro or call block; call: the expression between them. */
static int parse_macro_body(struct parser *p, struct node *n, bool with_signature, struct node **call, const char *end)
{
	const char *const ends[] = {end, NULL};
	bool soft = p->soft, va = p->uses_varargs, kw = p->uses_kwargs, loop = p->uses_loop, caller = p->uses_caller;
	int loops = p->loops, rc = QL_OK;

	p->soft = false;
	p->loops = 0;
	p->uses_varargs = p->uses_kwargs = p->uses_caller = false;
	if (with_signature)
		rc = parse_signature(p, n);
	if (rc == QL_OK && call != NULL) {
		rc = parse_expression(p, true, call);
		if (rc == QL_OK && (*call)->type != N_CALL)
			rc = parse_fail(p, "expected call");
		caller |= p->uses_caller;
		p->uses_caller = false;
	}
	if (rc == QL_OK)
		rc = parse_block(p, ends, &n->list, &n->n);
	n->varargs = p->uses_varargs;
	n->kwargs = p->uses_kwargs;
	n->caller = p->uses_caller;
	for (uint32_t i = 0; rc == QL_OK && i < n->n2; i++) {
		n->varargs &= n->list2[i]->name != p->t->name_varargs;
		n->kwargs &= n->list2[i]->name != p->t->name_kwargs;
		n->caller &= n->list2[i]->name != p->t->name_caller;
	}
	p->soft = soft;
	p->loops = loops;
	p->uses_varargs = va;
	p->uses_kwargs = kw;
	p->uses_caller = caller;
	p->uses_loop |= loop;
	return rc != QL_OK ? rc : expect_name(p, end);
}

int parse_macro(struct parser *p, struct node *n)
{
	int rc;

	if (cur(p)->type != T_NAME)
		return parse_fail(p, "expected a macro name");
	rc = intern(p, cur(p)->p, cur(p)->len, &n->name);
	advance(p);
	return rc != QL_OK ? rc : parse_macro_body(p, n, true, NULL, "endmacro");
}

int parse_call_block(struct parser *p, struct node *n)
{
	n->b = node_new(p, N_MACRO, n->line);
	if (n->b == NULL)
		return QL_ELIMIT;
	n->b->name = p->t->name_caller;
	return parse_macro_body(p, n->b, cur(p)->type == T_LPAREN, &n->a, "endcall");
}
