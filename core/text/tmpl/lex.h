/* lex.h - the lexer's state, shared by lex.c (text and tags) and lex_tag.c (what is inside tags). */
#ifndef QL_TMPL_LEX_H
#define QL_TMPL_LEX_H

#include <stdint.h>

#include "core/base/err.h"
#include "core/text/tmpl/ast.h"

struct lexer {
	struct ql_tmpl *t;
	const char *s;
	size_t n, pos;
	uint32_t line;
	bool line_starting;
	struct token *tok;
	size_t n_tok, cap;
	char open[256]; /* brackets */
	int n_open;
	struct ql_err *e;
};

/* "template line N: what", QL_EFORMAT. */
int lex_fail(struct ql_err *e, uint32_t line, const char *what);
/* Length of the white-space character at p (0 if none). */
size_t lex_space_at(const char *p, const char *end);
struct token *lex_push(struct lexer *l, enum tok type, const char *p, size_t len); /* NULL: out of memory */
int lex_emit(struct lexer *l, enum tok type, const char *p, size_t len);
void lex_count_lines(struct lexer *l, size_t from, size_t to);
/* Past the end of a tag at i: "%}" (c = '%') with its optional sign and what it swallows; 0 if there is none here. */
size_t lex_tag_end(const struct lexer *l, size_t i, char c, bool trim);
/* The inside of {{ }} (variable) or {% %} from l->pos until its end, or the end of the source. */
int lex_tag(struct lexer *l, bool variable);

#endif
