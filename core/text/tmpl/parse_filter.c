/* parse_filter.c - "|filter(…)" and "is test", as they follow an expression. */
#include "core/text/tmpl/parse.h"

/* name[.name…], as filters and tests are called. */
static int dotted_name(struct parser *p, struct str **out)
{
	const struct token *k = cur(p), *last = k;

	if (k->type != T_NAME)
		return parse_fail(p, "expected a name");
	advance(p);
	while (cur(p)->type == T_DOT) {
		advance(p);
		last = cur(p);
		if (last->type != T_NAME)
			return parse_fail(p, "expected a name");
		advance(p);
	}
	*out = tok_str(p, k->p, (size_t)(last->p + last->len - k->p));
	return *out == NULL ? QL_ELIMIT : QL_OK;
}

int parse_filters(struct parser *p, struct node *start, bool start_inline, struct node **out)
{
	int rc;

	*out = start;
	while (cur(p)->type == T_PIPE || start_inline) {
		struct node *n = node_new(p, N_FILTER, cur(p)->line);

		if (n == NULL)
			return QL_ELIMIT;
		if (!start_inline)
			advance(p);
		start_inline = false;
		n->a = *out;
		*out = n;
		rc = dotted_name(p, &n->str);
		if (rc == QL_OK && cur(p)->type == T_LPAREN)
			rc = parse_call_args(p, &n->call);
		if (rc != QL_OK)
			return rc;
		n->filter = filter_find(n->str->p, n->str->len);
		if (n->filter == NULL && filter_known(n->str->p, n->str->len) && !p->soft)
			return ql_err_set(p->e, QL_EUNSUPPORTED, "template line %u: filter '%.*s' is not supported", n->line,
					  (int)n->str->len, n->str->p);
		if (n->filter == NULL && !p->soft)
			return parse_fail(p, "No filter named '%.*s'.", (int)n->str->len, n->str->p);
	}
	return QL_OK;
}

static int parse_test(struct parser *p, struct node *v, struct node **out)
{
	struct node *n = node_new(p, N_TEST, cur(p)->line), *neg;
	const struct token *k;
	bool negated;
	int rc;

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	advance(p);
	negated = skip_name(p, "not");
	n->a = v;
	rc = dotted_name(p, &n->str);
	k = cur(p);
	if (rc == QL_OK && k->type == T_LPAREN) {
		rc = parse_call_args(p, &n->call);
	} else if (rc == QL_OK && (k->type == T_NAME || k->type == T_STRING || k->type == T_INT || k->type == T_FLOAT ||
				   k->type == T_LBRACKET || k->type == T_LBRACE) &&
		   !tok_is(k, "else") && !tok_is(k, "or") && !tok_is(k, "and")) {
		struct nlist l = {0};
		struct node *arg;

		if (tok_is(k, "is"))
			return parse_fail(p, "You cannot chain multiple tests with is");
		n->call = tmpl_alloc(&p->t->arena, sizeof *n->call);
		if (n->call == NULL)
			return parse_nomem(p);
		rc = parse_primary(p, 0, &arg);
		if (rc == QL_OK)
			rc = parse_postfix(p, arg, &arg);
		if (rc == QL_OK)
			rc = nlist_add(p, &l, arg);
		if (rc == QL_OK)
			rc = nlist_end(p, &l, &n->call->pos, &n->call->n);
		nlist_free(&l);
	}
	if (rc != QL_OK)
		return rc;
	n->test = test_find(n->str->p, n->str->len);
	if (n->test == NULL && !p->soft)
		return parse_fail(p, "No test named '%.*s'.", (int)n->str->len, n->str->p);
	if (negated) {
		neg = node_new(p, N_NOT, n->line);
		if (neg == NULL)
			return QL_ELIMIT;
		neg->a = n;
		*out = neg;
	}
	return QL_OK;
}

int parse_filter_expr(struct parser *p, struct node *n, struct node **out)
{
	int rc = QL_OK;

	while (rc == QL_OK) {
		if (cur(p)->type == T_PIPE)
			rc = parse_filters(p, n, false, &n);
		else if (tok_is(cur(p), "is"))
			rc = parse_test(p, n, &n);
		else if (cur(p)->type == T_LPAREN)
			rc = parse_call(p, n, &n);
		else
			break;
	}
	*out = n;
	return rc;
}
