/* ast.h - tokens and syntax tree of a template.  Nodes live in the template's arena and are never changed after parsing. */
#ifndef QL_TMPL_AST_H
#define QL_TMPL_AST_H

#include "core/text/tmpl/value.h"

enum tok {
	T_EOF, T_DATA, T_VAR_BEGIN, T_VAR_END, T_BLOCK_BEGIN, T_BLOCK_END, T_NAME, T_STRING, T_INT, T_FLOAT,
	T_ADD, T_SUB, T_DIV, T_FLOORDIV, T_MUL, T_MOD, T_POW, T_TILDE, T_LBRACKET, T_RBRACKET, T_LPAREN, T_RPAREN,
	T_LBRACE, T_RBRACE, T_EQ, T_NE, T_GT, T_GE, T_LT, T_LE, T_ASSIGN, T_DOT, T_COLON, T_PIPE, T_COMMA, T_SEMICOLON,
	T_IN, T_NOTIN /* never lexed: comparison operators made by the parser */
};

struct token {
	enum tok type;
	uint32_t line;
	const char *p; /* text; for strings the decoded value */
	size_t len;
	int64_t i;
	double f;
};

enum ntype {
	/* expressions */
	N_CONST, N_NAME, N_LIST, N_TUPLE, N_DICT, N_GETATTR, N_GETITEM, N_SLICE, N_CALL, N_FILTER, N_TEST, N_NOT, N_AND,
	N_OR, N_COMPARE, N_MATH, N_CONCAT, N_NEG, N_POS, N_COND, N_NSREF,
	/* statements */
	N_DATA, N_PRINT, N_FOR, N_IF, N_SET, N_SETBLOCK, N_MACRO, N_FILTERBLOCK, N_WITH, N_BREAK, N_CONTINUE, N_GENERATION, N_CALLBLOCK
};

struct ncall { /* the arguments of a call, filter or test */
	struct node **pos;
	struct str **kw_names;
	struct node **kw;
	struct node *star, *starstar; /* *args, **kwargs */
	uint32_t n, n_kw;
};

/* Which members a type uses:
 * CONST value; NAME name; LIST, TUPLE list; DICT list = key, value, …; GETATTR a, str; GETITEM a, b; SLICE a b c (or
 * NULL), only as b of a GETITEM; CALL a, call; FILTER a (NULL in a filter block), str, filter, call; TEST a, str, test,
 * call; NOT, NEG, POS a; AND, OR, CONCAT list; COMPARE, MATH a, list, ops; COND a if b else c; NSREF name, str;
 * DATA value; PRINT a; FOR a = target, b = iterable, c = filter, list = body, list2 = else; IF list = conditions (NULL
 * for else), blocks; SET a = target, b; SETBLOCK a = target, b = filter chain or NULL, list; MACRO name, list2 =
 * parameters (NAME), defaults (the last n_defaults of them), list; FILTERBLOCK b, list; WITH list2 = target, value, …,
 * list; GENERATION list; CALLBLOCK a = call, b = its body as a macro. */
struct node {
	uint8_t type;
	bool varargs, kwargs, caller, uses_loop;
	uint32_t line, name, n, n2, n_defaults;
	struct node *a, *b, *c;
	struct node **list, **list2, **defaults;
	struct block *blocks;
	uint8_t *ops; /* enum tok, one per element of list */
	struct ncall *call;
	struct str *str;
	filter_fn *filter;
	test_fn *test;
	struct val value;
};
struct block {
	struct node **list;
	uint32_t n;
};

struct ql_tmpl {
	struct tmpl_arena arena;
	char *src; /* newlines normalised */
	size_t src_len;
	struct node **body;
	uint32_t n_body;
	struct str **names; /* interned variable names */
	uint32_t n_names, cap_names;
	uint32_t *name_index;
	uint32_t n_name_index;
	uint32_t name_loop, name_varargs, name_kwargs, name_caller;
	bool has_generation;
	bool mentions_developer, mentions_function, mentions_tool; /* as string literals */
	/* found by rendering small conversations after parsing, for ql_chat_normalize */
	bool takes_parts, needs_parts, takes_object_args;
	struct ql_tmpl *tool_use; /* owned; NULL: this one serves conversations with tools too */
};

/* lex.c */
int tmpl_lex(struct ql_tmpl *t, const char *src, size_t len, struct token **out, size_t *n, struct ql_err *e);
/* parse_stmt.c: fills t->body. */
int tmpl_parse(struct ql_tmpl *t, const struct token *tok, size_t n, struct ql_err *e);
/* exec.c */
int vm_exec(struct vm *m, struct node *const *list, uint32_t n, int *flow);
enum flow { FLOW_NEXT, FLOW_BREAK, FLOW_CONTINUE };
/* eval.c */
int vm_eval(struct vm *m, const struct node *n, struct val *out);
int vm_eval_args(struct vm *m, const struct ncall *c, struct args *out); /* args.c */
int vm_lookup(struct vm *m, uint32_t name, struct val *out);
int vm_assign(struct vm *m, const struct node *target, struct val v);
int scope_set(struct vm *m, struct scope *s, uint32_t name, struct val v);
/* call.c */
int macro_call(struct vm *m, struct macro *mac, const struct args *a, struct val *out);

#endif
