/* lex_tag.c - the tokens inside {{ }} and {% %}: names, numbers, strings, operators. */
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/text/tmpl/lex.h"

static int add_cp(char *out, size_t *o, uint32_t cp, struct lexer *l)
{
	if (cp > 0x10ffff || (cp >= 0xd800 && cp <= 0xdfff))
		return lex_fail(l->e, l->line, "invalid code point in a string");
	*o += (size_t)ql_utf8_encode(cp, out + *o);
	return QL_OK;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One escape at s[i] (after the backslash); returns the new i through *at. */
static int unescape(struct lexer *l, const char *s, size_t n, size_t *at, char *out, size_t *o)
{
	static const char from[] = "\\'\"abfnrtv", to[] = "\\'\"\a\b\f\n\r\t\v";
	size_t i = *at;
	char c = s[i++];
	const char *f = c == '\0' ? NULL : strchr(from, c);
	size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
	uint32_t cp = 0;

	*at = i;
	if (f != NULL) {
		out[(*o)++] = to[f - from];
		return QL_OK;
	}
	if (c == '\n')
		return QL_OK;
	if (c >= '0' && c <= '7') {
		cp = (uint32_t)(c - '0');
		for (int k = 0; k < 2 && i < n && s[i] >= '0' && s[i] <= '7'; k++)
			cp = cp * 8 + (uint32_t)(s[i++] - '0');
		*at = i;
		return add_cp(out, o, cp, l);
	}
	if (c == 'N')
		return lex_fail(l->e, l->line, "\\N escapes are not supported in template strings");
	if (digits > 0) {
		for (size_t k = 0; k < digits; k++) {
			int h = i < n ? hex_value(s[i]) : -1;

			if (h < 0)
				return lex_fail(l->e, l->line, "truncated \\x, \\u or \\U escape");
			cp = cp * 16 + (uint32_t)h;
			i++;
		}
		*at = i;
		return add_cp(out, o, cp, l);
	}
	out[(*o)++] = '\\';
	out[(*o)++] = c;
	return QL_OK;
}

static int lex_string(struct lexer *l)
{
	char q = l->s[l->pos];
	size_t i = l->pos + 1, o = 0, n;
	const char *body = l->s + i;
	char *out;
	int rc;

	while (i < l->n && l->s[i] != q)
		i += l->s[i] == '\\' ? 2 : 1;
	if (i >= l->n)
		return lex_fail(l->e, l->line, "unexpected char: a string without end");
	n = (size_t)(l->s + i - body);
	if (memchr(body, '\\', n) == NULL) {
		rc = lex_emit(l, T_STRING, body, n);
	} else {
		out = tmpl_alloc_text(&l->t->arena, n * 2 + 1);
		if (out == NULL)
			return ql_err_set(l->e, QL_ELIMIT, "template too large");
		for (size_t k = 0; k < n;) {
			if (body[k] != '\\') {
				out[o++] = body[k++];
				continue;
			}
			k++;
			rc = unescape(l, body, n, &k, out, &o);
			if (rc != QL_OK)
				return rc;
		}
		rc = lex_emit(l, T_STRING, out, o);
	}
	lex_count_lines(l, l->pos, i + 1);
	l->pos = i + 1;
	return rc;
}

/* (\d+_)*\d+ at i: past it, or i. */
static size_t digits_at(const struct lexer *l, size_t i)
{
	size_t end = i;

	while (i < l->n && l->s[i] >= '0' && l->s[i] <= '9') {
		while (i < l->n && l->s[i] >= '0' && l->s[i] <= '9')
			i++;
		end = i;
		if (i < l->n && l->s[i] == '_')
			i++;
	}
	return end;
}

static size_t float_end(const struct lexer *l)
{
	size_t i = l->pos, j, k;
	bool frac = false;

	if (i > 0 && l->s[i - 1] == '.')
		return 0;
	j = digits_at(l, i);
	if (j == i)
		return 0;
	if (j < l->n && l->s[j] == '.' && (k = digits_at(l, j + 1)) > j + 1) {
		j = k;
		frac = true;
	}
	if (j < l->n && (l->s[j] == 'e' || l->s[j] == 'E')) {
		size_t x = j + 1;

		if (x < l->n && (l->s[x] == '+' || l->s[x] == '-'))
			x++;
		k = digits_at(l, x);
		if (k > x)
			return k;
	}
	return frac ? j : 0;
}

/* The digits of a number without "_", for strtod and strtoll. */
static bool number_text(const struct lexer *l, size_t end, char out[64])
{
	size_t o = 0;

	for (size_t i = l->pos; i < end; i++) {
		if (l->s[i] == '_')
			continue;
		if (o == 63)
			return false;
		out[o++] = l->s[i];
	}
	out[o] = '\0';
	return true;
}

static size_t int_end(const struct lexer *l, int *base)
{
	const char *s = l->s;
	size_t i = l->pos, end;
	char x = i + 1 < l->n ? (char)(s[i + 1] | 0x20) : 0;

	*base = 10;
	if (s[i] == '0' && (x == 'x' || x == 'o' || x == 'b')) {
		int b = x == 'x' ? 16 : x == 'o' ? 8 : 2, h;
		size_t j = i + 2;

		for (end = j; j < l->n; j++) {
			if (s[j] == '_')
				continue;
			h = hex_value(s[j]);
			if (h < 0 || h >= b)
				break;
			end = j + 1;
		}
		if (end > i + 2) {
			*base = b;
			return end;
		}
	}
	if (s[i] == '0') {
		for (end = i + 1; end < l->n && (s[end] == '0' || (s[end] == '_' && end + 1 < l->n && s[end + 1] == '0'));)
			end++;
		return end;
	}
	return digits_at(l, i);
}

static int lex_number(struct lexer *l)
{
	size_t end = float_end(l);
	bool is_float = end != 0;
	struct token *k;
	char text[64];
	int base = 10;

	if (!is_float)
		end = int_end(l, &base);
	if (!number_text(l, end, text))
		return lex_fail(l->e, l->line, "number too long");
	k = lex_push(l, is_float ? T_FLOAT : T_INT, l->s + l->pos, end - l->pos);
	if (k == NULL)
		return ql_err_set(l->e, QL_ENOMEM, "template");
	if (is_float) {
		k->f = strtod(text, NULL);
	} else {
		uint64_t v = 0;

		for (const char *p = base == 10 ? text : text + 2; *p != '\0'; p++) {
			if (v > ((uint64_t)INT64_MAX - (uint64_t)hex_value(*p)) / (uint64_t)base)
				return lex_fail(l->e, l->line, "integer beyond 64 bits");
			v = v * (uint64_t)base + (uint64_t)hex_value(*p);
		}
		k->i = (int64_t)v;
	}
	l->pos = end;
	return QL_OK;
}

static bool word_char(char c)
{
	return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (unsigned char)c >= 0x80;
}

static int lex_operator(struct lexer *l)
{
	static const struct {
		char text[3];
		enum tok type;
	} ops[] = {{"//", T_FLOORDIV}, {"**", T_POW}, {"==", T_EQ}, {"!=", T_NE}, {">=", T_GE}, {"<=", T_LE},
		   {"+", T_ADD}, {"-", T_SUB}, {"/", T_DIV}, {"*", T_MUL}, {"%", T_MOD}, {"~", T_TILDE}, {"[", T_LBRACKET},
		   {"]", T_RBRACKET}, {"(", T_LPAREN}, {")", T_RPAREN}, {"{", T_LBRACE}, {"}", T_RBRACE}, {">", T_GT},
		   {"<", T_LT}, {"=", T_ASSIGN}, {".", T_DOT}, {":", T_COLON}, {"|", T_PIPE}, {",", T_COMMA}, {";", T_SEMICOLON}};
	char what[64];

	for (size_t i = 0; i < sizeof ops / sizeof ops[0]; i++) {
		size_t k = strlen(ops[i].text);
		char c = ops[i].text[0];

		if (l->n - l->pos < k || memcmp(l->s + l->pos, ops[i].text, k) != 0)
			continue;
		if (c == '(' || c == '[' || c == '{') {
			if (l->n_open == (int)sizeof l->open)
				return ql_err_set(l->e, QL_ELIMIT, "template line %u: brackets nested too deep", l->line);
			l->open[l->n_open++] = c == '(' ? ')' : (char)(c + 2);
		} else if (c == ')' || c == ']' || c == '}') {
			if (l->n_open == 0 || l->open[--l->n_open] != c) {
				const char msg[] = {'u', 'n', 'e', 'x', 'p', 'e', 'c', 't', 'e', 'd', ' ', '\'', c, '\'', 0};

				return lex_fail(l->e, l->line, msg);
			}
		}
		l->pos += k;
		return lex_emit(l, ops[i].type, l->s + l->pos - k, k);
	}
	memcpy(what, "unexpected char 'x'", 20);
	what[17] = l->s[l->pos] > ' ' && l->s[l->pos] < 0x7f ? l->s[l->pos] : '?';
	return lex_fail(l->e, l->line, what);
}

/* The inside of {{ }} (variable) or {% %} until its end, or the end of the source. */
int lex_tag(struct lexer *l, bool variable)
{
	while (l->pos < l->n) {
		size_t end = l->n_open > 0 ? 0 : lex_tag_end(l, l->pos, variable ? '}' : '%', !variable);
		char c = l->s[l->pos];
		size_t k;
		int rc;

		if (end > 0) {
			rc = lex_emit(l, variable ? T_VAR_END : T_BLOCK_END, NULL, 0);
			lex_count_lines(l, l->pos, end);
			l->line_starting = l->s[end - 1] == '\n';
			l->pos = end;
			return rc;
		}
		k = lex_space_at(l->s + l->pos, l->s + l->n);
		if (k > 0) {
			l->line += c == '\n';
			l->pos += k;
			continue;
		}
		if (c >= '0' && c <= '9') {
			rc = lex_number(l);
		} else if (word_char(c)) {
			for (k = l->pos; k < l->n && word_char(l->s[k]);)
				k++;
			rc = lex_emit(l, T_NAME, l->s + l->pos, k - l->pos);
			l->pos = k;
		} else if (c == '"' || c == '\'') {
			rc = lex_string(l);
		} else {
			rc = lex_operator(l);
		}
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}
