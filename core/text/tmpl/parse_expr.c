/* parse_expr.c - expressions, by jinja2's grammar (lowest binding first):
 *   a if b else c · or · and · not · comparisons, in, not in · + - · ~ · * / // % · ** (left to right) · unary - + ·
 *   primary, then .name [i] (call), then |filter and "is" tests.
 * Chains of operators of one level are one node with a list, so that long chains do not nest. */
#include <stdlib.h>
#include <string.h>

#include "core/text/tmpl/parse.h"

static int parse_unary(struct parser *p, bool with_filter, struct node **out);

typedef int level_fn(struct parser *p, struct node **out);

static int parse_call_args(struct parser *p, struct ncall **out);

static int primary_name(struct parser *p, int mode, struct node **out)
{
	const struct token *k = cur(p);
	struct node *n = node_new(p, N_CONST, k->line);

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	advance(p);
	if (tok_is(k, "true") || tok_is(k, "True")) {
		n->value = v_bool(true);
	} else if (tok_is(k, "false") || tok_is(k, "False")) {
		n->value = v_bool(false);
	} else if (tok_is(k, "none") || tok_is(k, "None")) {
		n->value = v_none();
	} else {
		n->type = N_NAME;
		p->uses_loop |= tok_is(k, "loop");
		p->uses_varargs |= tok_is(k, "varargs");
		p->uses_kwargs |= tok_is(k, "kwargs");
		p->uses_caller |= tok_is(k, "caller");
		if ((mode & TUPLE_NAMESPACE) && cur(p)->type == T_DOT) {
			advance(p);
			if (cur(p)->type != T_NAME)
				return parse_fail(p, "expected a name after '.'");
			n->type = N_NSREF;
			n->str = tok_str(p, cur(p)->p, cur(p)->len);
			if (n->str == NULL)
				return QL_ELIMIT;
			advance(p);
		}
		return intern(p, k->p, k->len, &n->name);
	}
	return QL_OK;
}

static int primary_string(struct parser *p, struct node **out)
{
	const struct token *k = cur(p);
	struct node *n = node_new(p, N_CONST, k->line);
	size_t len = 0, o = 0;
	char *text;

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	for (size_t i = p->pos; p->tok[i].type == T_STRING; i++)
		len += p->tok[i].len;
	text = (char *)(uintptr_t)k->p;
	if (look(p)->type == T_STRING) {
		text = tmpl_alloc_text(&p->t->arena, len + 1);
		if (text == NULL)
			return parse_nomem(p);
		for (size_t i = p->pos; p->tok[i].type == T_STRING; o += p->tok[i++].len)
			memcpy(text + o, p->tok[i].p, p->tok[i].len);
	}
	while (cur(p)->type == T_STRING)
		advance(p);
	n->value = v_str(tok_str(p, text, len));
	if (n->value.s == NULL)
		return QL_ELIMIT;
	p->t->mentions_developer |= str_is(n->value.s, "developer");
	p->t->mentions_function |= str_is(n->value.s, "function");
	p->t->mentions_tool |= str_is(n->value.s, "tool");
	return QL_OK;
}

/* [a, b] or {k: v, …}: items until `end`. */
static int primary_list(struct parser *p, bool dict, struct node **out)
{
	enum tok end = dict ? T_RBRACE : T_RBRACKET;
	struct node *n = node_new(p, dict ? N_DICT : N_LIST, cur(p)->line), *v;
	struct nlist l = {0};
	int rc = n == NULL ? QL_ELIMIT : QL_OK;

	*out = n;
	advance(p);
	while (rc == QL_OK && cur(p)->type != end) {
		if (l.n > 0 && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		if (cur(p)->type == end)
			break;
		if ((rc = parse_expression(p, true, &v)) != QL_OK || (rc = nlist_add(p, &l, v)) != QL_OK)
			break;
		if (dict && (rc = expect(p, T_COLON, "':'")) == QL_OK && (rc = parse_expression(p, true, &v)) == QL_OK)
			rc = nlist_add(p, &l, v);
	}
	if (rc == QL_OK)
		rc = expect(p, end, dict ? "'}'" : "']'");
	if (rc == QL_OK)
		return nlist_end(p, &l, &n->list, &n->n);
	nlist_free(&l);
	return rc;
}

static int parse_primary(struct parser *p, int mode, struct node **out)
{
	const struct token *k = cur(p);
	int rc;

	switch (k->type) {
	case T_NAME:
		return primary_name(p, mode, out);
	case T_STRING:
		return primary_string(p, out);
	case T_INT:
	case T_FLOAT:
		*out = node_new(p, N_CONST, k->line);
		if (*out == NULL)
			return QL_ELIMIT;
		(*out)->value = k->type == T_INT ? v_int(k->i) : v_float(k->f);
		advance(p);
		return QL_OK;
	case T_LPAREN:
		advance(p);
		rc = parse_tuple(p, TUPLE_COND | TUPLE_PARENS, NULL, out);
		return rc != QL_OK ? rc : expect(p, T_RPAREN, "')'");
	case T_LBRACKET:
		return primary_list(p, false, out);
	case T_LBRACE:
		return primary_list(p, true, out);
	default:
		return parse_fail(p, "unexpected %s", k->type == T_EOF ? "end of template" : k->len > 0 ? "token" : "end of tag");
	}
}

/* One subscript: an expression or a slice. */
static int parse_subscribed(struct parser *p, struct node **out)
{
	struct node *part[3] = {NULL, NULL, NULL}, *n;
	int rc;

	if (cur(p)->type != T_COLON) {
		rc = parse_expression(p, true, &part[0]);
		if (rc != QL_OK || cur(p)->type != T_COLON) {
			*out = part[0];
			return rc;
		}
	}
	n = node_new(p, N_SLICE, cur(p)->line);
	if (n == NULL)
		return QL_ELIMIT;
	for (int i = 1; i < 3 && cur(p)->type == T_COLON; i++) {
		advance(p);
		if (cur(p)->type == T_COLON || cur(p)->type == T_RBRACKET || cur(p)->type == T_COMMA)
			continue;
		rc = parse_expression(p, true, &part[i]);
		if (rc != QL_OK)
			return rc;
	}
	n->a = part[0];
	n->b = part[1];
	n->c = part[2];
	*out = n;
	return QL_OK;
}

static int parse_subscript(struct parser *p, struct node *obj, struct node **out)
{
	const struct token *k = cur(p);
	struct node *n = node_new(p, N_GETITEM, k->line);
	struct nlist l = {0};
	int rc = QL_OK;

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	n->a = obj;
	advance(p);
	if (k->type == T_DOT) {
		k = cur(p);
		advance(p);
		if (k->type == T_NAME) {
			n->type = N_GETATTR;
			n->str = tok_str(p, k->p, k->len);
			return n->str == NULL ? QL_ELIMIT : QL_OK;
		}
		if (k->type != T_INT)
			return parse_fail(p, "expected name or number");
		n->b = node_new(p, N_CONST, k->line);
		if (n->b == NULL)
			return QL_ELIMIT;
		n->b->value = v_int(k->i);
		return QL_OK;
	}
	while (rc == QL_OK && cur(p)->type != T_RBRACKET) {
		struct node *v = NULL;

		if (l.n > 0 && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		rc = parse_subscribed(p, &v);
		if (rc == QL_OK)
			rc = nlist_add(p, &l, v);
	}
	if (rc == QL_OK)
		rc = expect(p, T_RBRACKET, "']'");
	if (rc == QL_OK && l.n == 1) {
		n->b = l.v[0];
	} else if (rc == QL_OK) {
		for (uint32_t i = 0; i < l.n && rc == QL_OK; i++)
			if (l.v[i]->type == N_SLICE)
				rc = parse_fail(p, "a slice among several subscripts is not supported");
		n->b = rc == QL_OK ? node_new(p, N_TUPLE, k->line) : NULL;
		if (n->b != NULL)
			return nlist_end(p, &l, &n->b->list, &n->b->n);
		rc = rc == QL_OK ? QL_ELIMIT : rc;
	}
	nlist_free(&l);
	return rc;
}

static int parse_call(struct parser *p, struct node *f, struct node **out)
{
	struct node *n = node_new(p, N_CALL, cur(p)->line);

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	n->a = f;
	return parse_call_args(p, &n->call);
}

static int parse_postfix(struct parser *p, struct node *n, struct node **out)
{
	int rc = QL_OK;

	while (rc == QL_OK) {
		if (cur(p)->type == T_DOT || cur(p)->type == T_LBRACKET)
			rc = parse_subscript(p, n, &n);
		else if (cur(p)->type == T_LPAREN)
			rc = parse_call(p, n, &n);
		else
			break;
	}
	*out = n;
	return rc;
}

static int parse_one_arg(struct parser *p, struct ncall *c, struct nlist *pos, struct nlist *kw, struct nlist *names)
{
	struct node *v, *name;
	int rc;

	if (cur(p)->type == T_MUL || cur(p)->type == T_POW) {
		struct node **slot = cur(p)->type == T_MUL ? &c->star : &c->starstar;

		if (*slot != NULL || c->starstar != NULL)
			return parse_fail(p, "invalid syntax for function call expression");
		advance(p);
		return parse_expression(p, true, slot);
	}
	if (cur(p)->type == T_NAME && look(p)->type == T_ASSIGN) {
		name = node_new(p, N_CONST, cur(p)->line);
		if (name == NULL || c->starstar != NULL)
			return name == NULL ? QL_ELIMIT : parse_fail(p, "invalid syntax for function call expression");
		name->str = tok_str(p, cur(p)->p, cur(p)->len);
		if (name->str == NULL)
			return QL_ELIMIT;
		advance(p);
		advance(p);
		rc = parse_expression(p, true, &v);
		if (rc == QL_OK)
			rc = nlist_add(p, kw, v);
		return rc != QL_OK ? rc : nlist_add(p, names, name);
	}
	if (kw->n > 0 || c->star != NULL || c->starstar != NULL)
		return parse_fail(p, "invalid syntax for function call expression");
	rc = parse_expression(p, true, &v);
	return rc != QL_OK ? rc : nlist_add(p, pos, v);
}

static int parse_call_args(struct parser *p, struct ncall **out)
{
	struct nlist pos = {0}, kw = {0}, names = {0};
	struct ncall *c = tmpl_alloc(&p->t->arena, sizeof *c);
	struct node **name_nodes = NULL;
	bool comma = false;
	int rc;

	*out = c;
	if (c == NULL)
		return parse_nomem(p);
	rc = expect(p, T_LPAREN, "'('");
	while (rc == QL_OK && cur(p)->type != T_RPAREN) {
		if (comma && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		if (comma && cur(p)->type == T_RPAREN)
			break;
		rc = parse_one_arg(p, c, &pos, &kw, &names);
		comma = true;
	}
	if (rc == QL_OK)
		rc = expect(p, T_RPAREN, "')'");
	if (rc == QL_OK)
		rc = nlist_end(p, &pos, &c->pos, &c->n);
	if (rc == QL_OK)
		rc = nlist_end(p, &kw, &c->kw, &c->n_kw);
	if (rc == QL_OK)
		rc = nlist_end(p, &names, &name_nodes, &c->n_kw);
	if (rc == QL_OK) {
		c->kw_names = tmpl_alloc(&p->t->arena, (c->n_kw + 1) * sizeof(struct str *));
		if (c->kw_names == NULL)
			rc = parse_nomem(p);
		for (uint32_t i = 0; rc == QL_OK && i < c->n_kw; i++)
			c->kw_names[i] = name_nodes[i]->str;
	}
	nlist_free(&pos);
	nlist_free(&kw);
	nlist_free(&names);
	return rc;
}

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

static int parse_filter_expr(struct parser *p, struct node *n, struct node **out)
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
