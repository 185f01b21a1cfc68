/* parse.h - the parser's state, shared by parse_expr.c and parse_stmt.c. */
#ifndef QL_TMPL_PARSE_H
#define QL_TMPL_PARSE_H

#include "core/text/tmpl/ast.h"

struct parser {
	struct ql_tmpl *t;
	const struct token *tok; /* ends with T_EOF, never advanced past it */
	size_t pos;
	size_t n_nodes;
	size_t tag_end, last_if; /* of the tag scanned last, see scan_tag */
	int depth;
	int loops;  /* for statements around this point, within the innermost macro (0: break is an error) */
	int in_for; /* for statements around, at all */
	bool soft;  /* inside an if: an unknown filter or test fails only when it runs */
	bool uses_loop, uses_varargs, uses_kwargs, uses_caller; /* names seen since last cleared */
	struct ql_err *e;
};

/* A growing list of nodes, copied into the arena when complete. */
struct nlist {
	struct node **v;
	uint32_t n, cap;
};
int nlist_add(struct parser *p, struct nlist *l, struct node *n);
int nlist_end(struct parser *p, struct nlist *l, struct node ***out, uint32_t *n); /* frees l */
void nlist_free(struct nlist *l);

static inline const struct token *cur(const struct parser *p) { return &p->tok[p->pos]; }
static inline const struct token *look(const struct parser *p)
{
	return cur(p)->type == T_EOF ? cur(p) : &p->tok[p->pos + 1];
}
static inline void advance(struct parser *p)
{
	if (cur(p)->type != T_EOF)
		p->pos++;
}
bool tok_is(const struct token *k, const char *name); /* a name token of this text */
bool skip_name(struct parser *p, const char *name);
int expect(struct parser *p, enum tok type, const char *what);
int expect_name(struct parser *p, const char *name);
int parse_fail(struct parser *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int parse_nomem(struct parser *p);
struct node *node_new(struct parser *p, int type, uint32_t line); /* NULL: error set */
struct str *tok_str(struct parser *p, const char *s, size_t len);
int intern(struct parser *p, const char *s, size_t len, uint32_t *out);
int enter(struct parser *p); /* one level deeper, or QL_ELIMIT */
void leave(struct parser *p);

/* parse_atom.c */
int parse_primary(struct parser *p, int mode, struct node **out); /* mode: TUPLE_… */
int parse_postfix(struct parser *p, struct node *n, struct node **out);
int parse_call(struct parser *p, struct node *f, struct node **out);
int parse_call_args(struct parser *p, struct ncall **out);
/* parse_filter.c */
int parse_filter_expr(struct parser *p, struct node *n, struct node **out);
int parse_filters(struct parser *p, struct node *start, bool start_inline, struct node **out);
/* parse_expr.c */
int parse_expression(struct parser *p, bool condexpr, struct node **out);
/* mode */
#define TUPLE_COND 1       /* conditional expressions allowed */
#define TUPLE_SIMPLE 2     /* names and literals only (assignment targets) */
#define TUPLE_PARENS 4     /* inside explicit parentheses: may be empty */
#define TUPLE_NAMESPACE 8  /* a.b allowed (set) */
int parse_tuple(struct parser *p, int mode, const char *end_name, struct node **out);
/* parse_macro.c: after the tag's name */
int parse_macro(struct parser *p, struct node *n);
int parse_call_block(struct parser *p, struct node *n);
/* parse_stmt.c */
/* ":" as Python allows, the end of the tag, then statements up to one of `ends` (not consumed). */
int parse_block(struct parser *p, const char *const *ends, struct node ***list, uint32_t *n);
int parse_target(struct parser *p, const char *end_name, bool with_namespace, struct node **out);

#endif
