/* parse_expr.c - expressions, by jinja2's grammar (lowest binding first):
 *   a if b else c · or · and · not · comparisons, in, not in · + - · ~ · * / // % · ** (left to right) · unary - + ·
 *   primary, then .name [i] (call), then |filter and "is" tests.
 * Chains of operators of one level are one node with a list, so that long chains do not nest. */
#include <stdlib.h>
#include <string.h>

#include "core/text/tmpl/parse.h"

static int parse_unary(struct parser *p, bool with_filter, struct node **out);

typedef int level_fn(struct parser *p, struct node **out);

static int unary_body(struct parser *p, bool with_filter, struct node **out)
{
	struct node *n, *v = NULL;
	int rc;

	if (cur(p)->type == T_SUB || cur(p)->type == T_ADD) {
		n = node_new(p, cur(p)->type == T_SUB ? N_NEG : N_POS, cur(p)->line);
		if (n == NULL)
			return QL_ELIMIT;
		advance(p);
		rc = parse_unary(p, false, &v);
		n->a = v;
	} else {
		rc = parse_primary(p, 0, &n);
	}
	if (rc == QL_OK)
		rc = parse_postfix(p, n, &n);
	if (rc == QL_OK && with_filter)
		rc = parse_filter_expr(p, n, &n);
	*out = n;
	return rc;
}

static int parse_unary(struct parser *p, bool with_filter, struct node **out)
{
	int rc = enter(p);

	if (rc != QL_OK)
		return rc;
	rc = unary_body(p, with_filter, out);
	leave(p);
	return rc;
}

static int level_unary(struct parser *p, struct node **out) { return parse_unary(p, true, out); }

/* first (op next)*, as one node of `type` when there is an operator; op_of gives the operator at the current token, having
 * skipped it, or -1. */
static int parse_chain(struct parser *p, int type, level_fn *next, int (*op_of)(struct parser *p), struct node **out)
{
	struct nlist l = {0};
	uint8_t ops[64], *all = NULL;
	size_t n_ops = 0, cap = 0;
	uint32_t line = cur(p)->line;
	struct node *v, *n;
	int rc = next(p, &v), op;

	*out = v;
	if (rc != QL_OK || (op = op_of(p)) < 0)
		return rc;
	n = node_new(p, type, line);
	if (n == NULL)
		return QL_ELIMIT;
	n->a = v;
	do {
		if (n_ops == (all == NULL ? sizeof ops : cap)) {
			uint8_t *bigger = realloc(all, n_ops * 2);

			if (bigger == NULL) {
				rc = parse_nomem(p);
				break;
			}
			if (all == NULL)
				memcpy(bigger, ops, n_ops);
			all = bigger;
			cap = n_ops * 2;
		}
		(all == NULL ? ops : all)[n_ops++] = (uint8_t)op;
		rc = next(p, &v);
		if (rc == QL_OK)
			rc = nlist_add(p, &l, v);
	} while (rc == QL_OK && (op = op_of(p)) >= 0);
	if (rc == QL_OK)
		n->ops = tmpl_alloc(&p->t->arena, n_ops);
	if (rc == QL_OK && n->ops == NULL)
		rc = parse_nomem(p);
	if (rc == QL_OK) {
		memcpy(n->ops, all == NULL ? ops : all, n_ops);
		rc = nlist_end(p, &l, &n->list, &n->n);
	}
	nlist_free(&l);
	free(all);
	*out = n;
	return rc;
}

static int one_of(struct parser *p, enum tok a, enum tok b, enum tok c, enum tok d)
{
	enum tok k = cur(p)->type;

	if (k != a && k != b && k != c && k != d)
		return -1;
	advance(p);
	return (int)k;
}
static int op_pow(struct parser *p) { return one_of(p, T_POW, T_POW, T_POW, T_POW); }
static int op_math2(struct parser *p) { return one_of(p, T_MUL, T_DIV, T_FLOORDIV, T_MOD); }
static int op_concat(struct parser *p) { return one_of(p, T_TILDE, T_TILDE, T_TILDE, T_TILDE); }
static int op_math1(struct parser *p) { return one_of(p, T_ADD, T_SUB, T_SUB, T_SUB); }
static int op_compare(struct parser *p)
{
	enum tok k = cur(p)->type;

	if (k == T_EQ || k == T_NE || k == T_GT || k == T_GE || k == T_LT || k == T_LE) {
		advance(p);
		return (int)k;
	}
	if (skip_name(p, "in"))
		return T_IN;
	if (tok_is(cur(p), "not") && tok_is(look(p), "in")) {
		advance(p);
		advance(p);
		return T_NOTIN;
	}
	return -1;
}
static int op_and(struct parser *p) { return skip_name(p, "and") ? 1 : -1; }
static int op_or(struct parser *p) { return skip_name(p, "or") ? 1 : -1; }

static int level_pow(struct parser *p, struct node **out) { return parse_chain(p, N_MATH, level_unary, op_pow, out); }
static int level_math2(struct parser *p, struct node **out) { return parse_chain(p, N_MATH, level_pow, op_math2, out); }
static int level_concat(struct parser *p, struct node **out)
{
	return parse_chain(p, N_CONCAT, level_math2, op_concat, out);
}
static int level_math1(struct parser *p, struct node **out) { return parse_chain(p, N_MATH, level_concat, op_math1, out); }
static int level_compare(struct parser *p, struct node **out)
{
	return parse_chain(p, N_COMPARE, level_math1, op_compare, out);
}

static int level_not(struct parser *p, struct node **out)
{
	struct node *n;
	int rc;

	if (!tok_is(cur(p), "not"))
		return level_compare(p, out);
	n = node_new(p, N_NOT, cur(p)->line);
	if (n == NULL || enter(p) != QL_OK)
		return QL_ELIMIT;
	advance(p);
	rc = level_not(p, &n->a);
	leave(p);
	*out = n;
	return rc;
}
static int level_and(struct parser *p, struct node **out) { return parse_chain(p, N_AND, level_not, op_and, out); }
static int level_or(struct parser *p, struct node **out) { return parse_chain(p, N_OR, level_and, op_or, out); }

/* Finds the end of the tag at the current token and the last "if" in it. */
static void scan_tag(struct parser *p)
{
	size_t i = p->pos;

	p->last_if = 0;
	for (; p->tok[i].type != T_EOF && p->tok[i].type != T_VAR_END && p->tok[i].type != T_BLOCK_END; i++)
		if (tok_is(&p->tok[i], "if"))
			p->last_if = i;
	p->tag_end = i;
}

static int parse_cond(struct parser *p, struct node **out)
{
	bool soft = p->soft;
	struct node *n;
	int rc = enter(p);

	if (rc != QL_OK)
		return rc;
	/* jinja2 looks up the filters of a conditional expression only when it runs. */
	if (p->pos >= p->tag_end)
		scan_tag(p);
	p->soft |= p->last_if > p->pos;
	rc = level_or(p, out);
	while (rc == QL_OK && tok_is(cur(p), "if")) {
		n = node_new(p, N_COND, cur(p)->line);
		if (n == NULL) {
			rc = QL_ELIMIT;
			break;
		}
		advance(p);
		n->a = *out;
		*out = n;
		rc = level_or(p, &n->b);
		if (rc == QL_OK && skip_name(p, "else"))
			rc = parse_cond(p, &n->c);
	}
	p->soft = soft;
	leave(p);
	return rc;
}

int parse_expression(struct parser *p, bool condexpr, struct node **out)
{
	*out = NULL;
	return condexpr ? parse_cond(p, out) : level_or(p, out);
}

int parse_tuple(struct parser *p, int mode, const char *end_name, struct node **out)
{
	struct nlist l = {0};
	bool tuple = false;
	uint32_t line = cur(p)->line;
	struct node *v = NULL;
	int rc = QL_OK;

	while (rc == QL_OK) {
		if (l.n > 0 && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		if (cur(p)->type == T_VAR_END || cur(p)->type == T_BLOCK_END || cur(p)->type == T_RPAREN ||
		    (end_name != NULL && tok_is(cur(p), end_name)))
			break;
		if (mode & TUPLE_SIMPLE)
			rc = parse_primary(p, mode, &v);
		else
			rc = parse_expression(p, (mode & TUPLE_COND) != 0, &v);
		if (rc != QL_OK || (rc = nlist_add(p, &l, v)) != QL_OK)
			break;
		if (cur(p)->type != T_COMMA)
			break;
		tuple = true;
	}
	if (rc == QL_OK && !tuple && l.n > 0) {
		*out = l.v[0];
	} else if (rc == QL_OK && !tuple && !(mode & TUPLE_PARENS)) {
		rc = parse_fail(p, "Expected an expression, got the end of the %s",
				cur(p)->type == T_EOF ? "template" : "tag");
	} else if (rc == QL_OK) {
		*out = node_new(p, N_TUPLE, line);
		if (*out != NULL)
			return nlist_end(p, &l, &(*out)->list, &(*out)->n);
		rc = QL_ELIMIT;
	}
	nlist_free(&l);
	return rc;
}
