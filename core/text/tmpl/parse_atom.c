/* parse_atom.c - names, literals, lists, and what follows them: .name, [subscript], (arguments). */
#include <string.h>

#include "core/text/tmpl/parse.h"

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

int parse_primary(struct parser *p, int mode, struct node **out)
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

int parse_call(struct parser *p, struct node *f, struct node **out)
{
	struct node *n = node_new(p, N_CALL, cur(p)->line);

	*out = n;
	if (n == NULL)
		return QL_ELIMIT;
	n->a = f;
	return parse_call_args(p, &n->call);
}

int parse_postfix(struct parser *p, struct node *n, struct node **out)
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

int parse_call_args(struct parser *p, struct ncall **out)
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
