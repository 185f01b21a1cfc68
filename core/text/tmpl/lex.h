/* lex.h - what lexer and parser share. */
#ifndef QL_TMPL_LEX_H
#define QL_TMPL_LEX_H

#include <stdint.h>

#include "core/base/err.h"

/* "template line N: what", QL_EFORMAT. */
int lex_fail(struct ql_err *e, uint32_t line, const char *what);

#endif
