/* parse_stmt.c - statements. */
#include <stdlib.h>
#include <string.h>

#include "core/text/tmpl/parse.h"

static int parse_body(struct parser *p, const char *const *ends, struct nlist *l);

static int check_target(struct parser *p, const struct node *n)
{
	if (n->type == N_NAME && n->name == p->t->name_loop && p->in_for > 0)
		return parse_fail(p, "Can't assign to special loop variable in for-loop target");
	if (n->type == N_NAME || n->type == N_NSREF)
		return QL_OK;
	if (n->type != N_TUPLE)
		return parse_fail(p, "can't assign to this expression");
	for (uint32_t i = 0; i < n->n; i++) {
		int rc = check_target(p, n->list[i]);

		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int parse_target(struct parser *p, const char *end_name, bool with_namespace, struct node **out)
{
	bool loop = p->uses_loop, va = p->uses_varargs, kw = p->uses_kwargs;
	int rc = parse_tuple(p, TUPLE_SIMPLE | (with_namespace ? TUPLE_NAMESPACE : 0), end_name, out);

	p->uses_loop = loop; /* storing is no use */
	p->uses_varargs = va;
	p->uses_kwargs = kw;
	return rc != QL_OK ? rc : check_target(p, *out);
}

/* ":" as Python allows, the end of the tag, then statements up to one of `ends` (not consumed). */
int parse_block(struct parser *p, const char *const *ends, struct node ***list, uint32_t *n)
{
	struct nlist l = {0};
	int rc = QL_OK;

	if (cur(p)->type == T_COLON)
		advance(p);
	rc = expect(p, T_BLOCK_END, "end of statement block");
	if (rc == QL_OK)
		rc = parse_body(p, ends, &l);
	if (rc == QL_OK && cur(p)->type == T_EOF)
		rc = parse_fail(p, "Unexpected end of template. Jinja was looking for the following tags: '%s'.", ends[0]);
	if (rc == QL_OK)
		return nlist_end(p, &l, list, n);
	nlist_free(&l);
	return rc;
}

static int parse_for(struct parser *p, struct node *n)
{
	static const char *const ends[] = {"endfor", "else", NULL}, *const end[] = {"endfor", NULL};
	bool outer_loop, soft = p->soft;
	int rc;

	p->soft = false;
	p->in_for++;
	rc = parse_target(p, "in", false, &n->a);
	if (rc == QL_OK)
		rc = expect_name(p, "in");
	if (rc == QL_OK)
		rc = parse_tuple(p, 0, "recursive", &n->b);
	if (rc == QL_OK && skip_name(p, "if"))
		rc = parse_expression(p, true, &n->c);
	if (rc == QL_OK && tok_is(cur(p), "recursive"))
		rc = ql_err_set(p->e, QL_EUNSUPPORTED, "template line %u: recursive loops are not supported", n->line);
	if (rc != QL_OK)
		return rc;
	outer_loop = p->uses_loop;
	p->uses_loop = false;
	p->loops++;
	rc = parse_block(p, ends, &n->list, &n->n);
	p->loops--;
	n->uses_loop = p->uses_loop;
	p->uses_loop = outer_loop;
	if (rc == QL_OK && skip_name(p, "else"))
		rc = parse_block(p, end, &n->list2, &n->n2);
	p->in_for--;
	p->soft = soft;
	return rc != QL_OK ? rc : expect_name(p, "endfor");
}

static int parse_if(struct parser *p, struct node *n)
{
	static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
	struct nlist conds = {0};
	struct block *blocks = NULL;
	uint32_t cap = 0;
	bool soft = p->soft, last = false;
	int rc = QL_OK;

	p->soft = true;
	while (rc == QL_OK) {
		struct node *cond = NULL;

		if (conds.n == cap) {
			struct block *b = realloc(blocks, (cap + 8) * sizeof *b);

			if (b == NULL) {
				rc = parse_nomem(p);
				break;
			}
			blocks = b;
			cap += 8;
		}
		if (!last)
			rc = parse_tuple(p, 0, NULL, &cond);
		if (rc == QL_OK)
			rc = parse_block(p, last ? end : ends, &blocks[conds.n].list, &blocks[conds.n].n);
		if (rc == QL_OK)
			rc = nlist_add(p, &conds, cond);
		if (rc != QL_OK || last || tok_is(cur(p), "endif"))
			break;
		last = tok_is(cur(p), "else");
		advance(p);
	}
	p->soft = soft;
	if (rc == QL_OK)
		rc = expect_name(p, "endif");
	if (rc == QL_OK) {
		n->blocks = tmpl_alloc(&p->t->arena, (size_t)conds.n * sizeof *n->blocks);
		if (n->blocks == NULL)
			rc = parse_nomem(p);
		else
			memcpy(n->blocks, blocks, (size_t)conds.n * sizeof *n->blocks);
	}
	if (rc == QL_OK)
		rc = nlist_end(p, &conds, &n->list, &n->n);
	nlist_free(&conds);
	free(blocks);
	return rc;
}

static int parse_set(struct parser *p, struct node *n)
{
	static const char *const end[] = {"endset", NULL};
	int rc = parse_target(p, NULL, true, &n->a);

	if (rc != QL_OK)
		return rc;
	if (cur(p)->type == T_ASSIGN) {
		advance(p);
		return parse_tuple(p, TUPLE_COND, NULL, &n->b);
	}
	n->type = N_SETBLOCK;
	rc = parse_filters(p, NULL, false, &n->b);
	if (rc == QL_OK)
		rc = parse_block(p, end, &n->list, &n->n);
	return rc != QL_OK ? rc : expect_name(p, "endset");
}

static int parse_filter_block(struct parser *p, struct node *n)
{
	static const char *const end[] = {"endfilter", NULL};
	int rc = parse_filters(p, NULL, true, &n->b);

	if (rc == QL_OK)
		rc = parse_block(p, end, &n->list, &n->n);
	return rc != QL_OK ? rc : expect_name(p, "endfilter");
}

static int parse_with(struct parser *p, struct node *n)
{
	static const char *const end[] = {"endwith", NULL};
	struct nlist l = {0};
	int rc = QL_OK;

	while (rc == QL_OK && cur(p)->type != T_BLOCK_END) {
		struct node *v;

		if (l.n > 0 && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		rc = parse_tuple(p, TUPLE_SIMPLE, NULL, &v);
		if (rc == QL_OK)
			rc = check_target(p, v);
		if (rc == QL_OK)
			rc = nlist_add(p, &l, v);
		if (rc == QL_OK)
			rc = expect(p, T_ASSIGN, "'='");
		if (rc == QL_OK)
			rc = parse_expression(p, true, &v);
		if (rc == QL_OK)
			rc = nlist_add(p, &l, v);
	}
	if (rc == QL_OK)
		rc = nlist_end(p, &l, &n->list2, &n->n2);
	nlist_free(&l);
	if (rc == QL_OK)
		rc = parse_block(p, end, &n->list, &n->n);
	return rc != QL_OK ? rc : expect_name(p, "endwith");
}

static int parse_generation(struct parser *p, struct node *n)
{
	static const char *const end[] = {"endgeneration", NULL};
	int loops = p->loops, rc;

	p->t->has_generation = true;
	p->loops = 0; /* a macro of its own for jinja2: no break through it */
	rc = parse_block(p, end, &n->list, &n->n);
	p->loops = loops;
	return rc != QL_OK ? rc : expect_name(p, "endgeneration");
}

static int parse_print(struct parser *p, struct nlist *l)
{
	bool first = true;
	int rc = QL_OK;

	while (rc == QL_OK && cur(p)->type != T_BLOCK_END) {
		struct node *n = node_new(p, N_PRINT, cur(p)->line);

		if (n == NULL)
			return QL_ELIMIT;
		if (!first && (rc = expect(p, T_COMMA, "','")) != QL_OK)
			break;
		first = false;
		rc = parse_expression(p, true, &n->a);
		if (rc == QL_OK)
			rc = nlist_add(p, l, n);
	}
	return rc;
}

static int parse_jump(struct parser *p, struct node *n)
{
	return p->loops > 0 ? QL_OK : parse_fail(p, "'%s' outside loop", n->type == N_BREAK ? "break" : "continue");
}

/* A statement after "{%": the tag's name is the current token. */
static int parse_statement(struct parser *p, struct nlist *l)
{
	static const struct {
		const char *name;
		int type;
		int (*parse)(struct parser *p, struct node *n);
	} tags[] = {{"for", N_FOR, parse_for}, {"if", N_IF, parse_if}, {"set", N_SET, parse_set},
		    {"macro", N_MACRO, parse_macro}, {"filter", N_FILTERBLOCK, parse_filter_block}, {"with", N_WITH, parse_with},
		    {"generation", N_GENERATION, parse_generation}, {"break", N_BREAK, parse_jump},
		    {"continue", N_CONTINUE, parse_jump}, {"call", N_CALLBLOCK, parse_call_block}};
	static const char *const refused[] = {"block", "extends", "include", "import", "from", "autoescape"};
	const struct token *k = cur(p);
	struct node *n;
	int rc;

	if (k->type != T_NAME)
		return parse_fail(p, "tag name expected");
	for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
		if (tok_is(k, refused[i]))
			return ql_err_set(p->e, QL_EUNSUPPORTED, "template line %u: '%s' is not supported in chat templates",
					  k->line, refused[i]);
	if (tok_is(k, "print")) {
		advance(p);
		return parse_print(p, l);
	}
	for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
		if (!tok_is(k, tags[i].name))
			continue;
		n = node_new(p, tags[i].type, k->line);
		if (n == NULL)
			return QL_ELIMIT;
		advance(p);
		rc = enter(p) != QL_OK ? QL_ELIMIT : enter(p);
		if (rc == QL_OK)
			rc = tags[i].parse(p, n);
		leave(p);
		leave(p);
		return rc != QL_OK ? rc : nlist_add(p, l, n);
	}
	return parse_fail(p, "Encountered unknown tag '%.*s'.", (int)(k->len > 60 ? 60 : k->len), k->p);
}

static int parse_print_tag(struct parser *p, struct nlist *l)
{
	struct node *n = node_new(p, N_PRINT, cur(p)->line);
	int rc;

	if (n == NULL)
		return QL_ELIMIT;
	advance(p);
	rc = parse_tuple(p, TUPLE_COND, NULL, &n->a);
	if (rc == QL_OK)
		rc = expect(p, T_VAR_END, "end of print statement");
	return rc != QL_OK ? rc : nlist_add(p, l, n);
}

static bool at_end(const struct parser *p, const char *const *ends)
{
	for (; ends != NULL && *ends != NULL; ends++)
		if (tok_is(cur(p), *ends))
			return true;
	return false;
}

static int parse_body(struct parser *p, const char *const *ends, struct nlist *l)
{
	int rc = QL_OK;

	while (rc == QL_OK && cur(p)->type != T_EOF) {
		const struct token *k = cur(p);

		if (k->type == T_DATA) {
			struct node *n = node_new(p, N_DATA, k->line);

			if (n == NULL)
				return QL_ELIMIT;
			n->value = v_str(tok_str(p, k->p, k->len));
			if (n->value.s == NULL)
				return QL_ELIMIT;
			advance(p);
			rc = nlist_add(p, l, n);
		} else if (k->type == T_VAR_BEGIN) {
			rc = parse_print_tag(p, l);
		} else {
			advance(p);
			if (at_end(p, ends))
				return QL_OK;
			rc = parse_statement(p, l);
			if (rc == QL_OK)
				rc = expect(p, T_BLOCK_END, "end of statement block");
		}
	}
	return rc;
}

int tmpl_parse(struct ql_tmpl *t, const struct token *tok, size_t n, struct ql_err *e)
{
	struct parser p = {.t = t, .tok = tok, .e = e};
	struct nlist l = {0};
	int rc = intern(&p, "loop", 4, &t->name_loop);

	(void)n;
	if (rc == QL_OK)
		rc = intern(&p, "varargs", 7, &t->name_varargs);
	if (rc == QL_OK)
		rc = intern(&p, "kwargs", 6, &t->name_kwargs);
	if (rc == QL_OK)
		rc = intern(&p, "caller", 6, &t->name_caller);
	if (rc == QL_OK)
		rc = parse_body(&p, NULL, &l);
	if (rc == QL_OK)
		rc = nlist_end(&p, &l, &t->body, &t->n_body);
	nlist_free(&l);
	return rc;
}
