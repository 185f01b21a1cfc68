/* lex.c - template source → tokens, by jinja2's rules with trim_blocks and lstrip_blocks:
 *   newlines become \n and one final newline is removed; the newline right after %} or #} vanishes; blanks from the start
 *   of a line to {% or {# vanish; a "-" beside a delimiter strips all white space on that side, a "+" keeps it;
 *   %} and }} end a tag only outside brackets; {% raw %} … {% endraw %} is data. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/ast.h"
#include "core/text/tmpl/lex.h"

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

int lex_fail(struct ql_err *e, uint32_t line, const char *what)
{
	return ql_err_set(e, QL_EFORMAT, "template line %u: %s", line, what);
}

/* Length of the white-space character at p (0 if none). */
static size_t space_at(const char *p, const char *end)
{
	uint32_t cp;
	int k;

	if (p >= end)
		return 0;
	if ((unsigned char)*p < 0x80)
		return uni_space((unsigned char)*p) ? 1 : 0;
	k = ql_utf8_decode(p, (size_t)(end - p), &cp);
	return k > 0 && uni_space(cp) ? (size_t)k : 0;
}

static size_t skip_space(const char *s, size_t i, size_t n)
{
	size_t k;

	while ((k = space_at(s + i, s + n)) > 0)
		i += k;
	return i;
}

/* End of s[begin..end) without trailing white space. */
static size_t rstrip(const char *s, size_t begin, size_t end)
{
	while (end > begin) {
		size_t c = end - 1;

		while (c > begin && ((unsigned char)s[c] & 0xc0) == 0x80)
			c--;
		if (space_at(s + c, s + end) != end - c)
			break;
		end = c;
	}
	return end;
}

static struct token *push(struct lexer *l, enum tok type, const char *p, size_t len)
{
	struct token *k;

	if (l->n_tok == l->cap) {
		size_t cap = l->cap == 0 ? 256 : l->cap * 2;
		struct token *nt = realloc(l->tok, cap * sizeof *nt);

		if (nt == NULL)
			return NULL;
		l->tok = nt;
		l->cap = cap;
	}
	k = &l->tok[l->n_tok++];
	*k = (struct token){.type = type, .line = l->line, .p = p, .len = len};
	return k;
}

static int emit(struct lexer *l, enum tok type, const char *p, size_t len)
{
	if (push(l, type, p, len) == NULL)
		return ql_err_set(l->e, QL_ENOMEM, "template");
	return QL_OK;
}

static void count_lines(struct lexer *l, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		l->line += l->s[i] == '\n';
}

/* Past the end of a tag at i: "%}" with its optional sign and what it swallows; 0 if there is none here. */
static size_t tag_end(const struct lexer *l, size_t i, char c, bool trim)
{
	const char *s = l->s;
	size_t n = l->n;

	if (i + 2 < n && s[i] == '-' && s[i + 1] == c && s[i + 2] == '}')
		return skip_space(s, i + 3, n);
	if (trim && i + 2 < n && s[i] == '+' && s[i + 1] == c && s[i + 2] == '}')
		return i + 3;
	if (i + 1 < n && s[i] == c && s[i + 1] == '}')
		return trim && i + 2 < n && s[i + 2] == '\n' ? i + 3 : i + 2;
	return 0;
}

/* If a block "{% word" begins at i: past the word and the blanks after it, with *sign; else 0. */
static size_t word_tag(const struct lexer *l, size_t i, const char *word, char *sign)
{
	size_t k = strlen(word), j = i + 2;

	*sign = 0;
	if (j < l->n && (l->s[j] == '-' || l->s[j] == '+'))
		*sign = l->s[j++];
	j = skip_space(l->s, j, l->n);
	if (l->n - j < k || memcmp(l->s + j, word, k) != 0)
		return 0;
	return skip_space(l->s, j + k, l->n);
}

/* Data [from, to) before a tag; strips its end as sign and lstrip_blocks ask. */
static int data_before(struct lexer *l, size_t from, size_t to, char sign, bool variable)
{
	size_t end = to;

	if (sign == '-') {
		end = rstrip(l->s, from, to);
	} else if (sign != '+' && !variable) {
		size_t b = to;

		while (b > from && l->s[b - 1] != '\n')
			b--;
		if ((b > from || l->line_starting) && b < to && skip_space(l->s, b, to) == to)
			end = b;
	}
	if (end > from) {
		int rc = emit(l, T_DATA, l->s + from, end - from);

		if (rc != QL_OK)
			return rc;
	}
	count_lines(l, from, to);
	return QL_OK;
}

/* After "{% raw %}" ending at `from`: the data up to its endraw. */
static int lex_raw(struct lexer *l, size_t from)
{
	for (size_t i = from; i + 1 < l->n; i++) {
		char sign;
		size_t j, end;
		int rc;

		if (l->s[i] != '{' || l->s[i + 1] != '%')
			continue;
		j = word_tag(l, i, "endraw", &sign);
		end = j == 0 ? 0 : tag_end(l, j, '%', true);
		if (end == 0)
			continue;
		l->line_starting = from > 0 && l->s[from - 1] == '\n';
		rc = data_before(l, from, i, sign, false);
		count_lines(l, i, end);
		l->pos = end;
		l->line_starting = l->s[end - 1] == '\n';
		return rc;
	}
	if (from == l->n) { /* nothing follows: nothing is missed */
		l->pos = from;
		return QL_OK;
	}
	return lex_fail(l->e, l->line, "Missing end of raw directive");
}

static int lex_comment(struct lexer *l, size_t from)
{
	for (size_t i = from; i < l->n; i++) {
		size_t end = tag_end(l, i, '#', true);

		if (end == 0)
			continue;
		count_lines(l, from, end);
		l->pos = end;
		l->line_starting = l->s[end - 1] == '\n';
		return QL_OK;
	}
	return lex_fail(l->e, l->line, "Missing end of comment tag");
}

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
		rc = emit(l, T_STRING, body, n);
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
		rc = emit(l, T_STRING, out, o);
	}
	count_lines(l, l->pos, i + 1);
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
	k = push(l, is_float ? T_FLOAT : T_INT, l->s + l->pos, end - l->pos);
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
		return emit(l, ops[i].type, l->s + l->pos - k, k);
	}
	memcpy(what, "unexpected char 'x'", 20);
	what[17] = l->s[l->pos] > ' ' && l->s[l->pos] < 0x7f ? l->s[l->pos] : '?';
	return lex_fail(l->e, l->line, what);
}

/* The inside of {{ }} (variable) or {% %} until its end, or the end of the source. */
static int lex_tag(struct lexer *l, bool variable)
{
	while (l->pos < l->n) {
		size_t end = l->n_open > 0 ? 0 : tag_end(l, l->pos, variable ? '}' : '%', !variable);
		char c = l->s[l->pos];
		size_t k;
		int rc;

		if (end > 0) {
			rc = emit(l, variable ? T_VAR_END : T_BLOCK_END, NULL, 0);
			count_lines(l, l->pos, end);
			l->line_starting = l->s[end - 1] == '\n';
			l->pos = end;
			return rc;
		}
		k = space_at(l->s + l->pos, l->s + l->n);
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
			rc = emit(l, T_NAME, l->s + l->pos, k - l->pos);
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

/* The tag at l->pos = i, "{%", "{{" or "{#", with the data [from, i) before it. */
static int lex_from(struct lexer *l, size_t from, size_t i)
{
	char kind = l->s[i + 1], sign = 0;
	size_t raw, end;
	int rc;

	if (kind == '%' && (raw = word_tag(l, i, "raw", &sign)) != 0) {
		end = tag_end(l, raw, '%', false);
		if (end != 0) {
			rc = data_before(l, from, i, sign, false);
			if (rc != QL_OK)
				return rc;
			count_lines(l, i, end);
			return lex_raw(l, end);
		}
	}
	sign = i + 2 < l->n && (l->s[i + 2] == '-' || l->s[i + 2] == '+') ? l->s[i + 2] : 0;
	rc = data_before(l, from, i, sign, kind == '{');
	if (rc != QL_OK)
		return rc;
	l->pos = i + 2 + (sign != 0);
	if (kind == '#')
		return lex_comment(l, l->pos);
	rc = emit(l, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, NULL, 0);
	return rc != QL_OK ? rc : lex_tag(l, kind == '{');
}

static int normalise(struct ql_tmpl *t, const char *src, size_t len, struct ql_err *e)
{
	size_t o = 0, bad = 0;

	if (len > QL_TMPL_SOURCE_MAX)
		return ql_err_set(e, QL_ELIMIT, "template of %zu bytes, more than the %zu allowed", len, QL_TMPL_SOURCE_MAX);
	if (!ql_utf8_valid(src, len, &bad))
		return ql_err_at(e, QL_EFORMAT, bad, "template is not valid UTF-8");
	t->src = tmpl_alloc_text(&t->arena, len + 1);
	if (t->src == NULL)
		return ql_err_set(e, QL_ENOMEM, "template");
	for (size_t i = 0; i < len; i++) {
		if (src[i] == '\r') {
			t->src[o++] = '\n';
			i += i + 1 < len && src[i + 1] == '\n';
		} else {
			t->src[o++] = src[i];
		}
	}
	if (o > 0 && t->src[o - 1] == '\n')
		o--;
	t->src[o] = '\0';
	t->src_len = o;
	return QL_OK;
}

int tmpl_lex(struct ql_tmpl *t, const char *src, size_t len, struct token **out, size_t *n, struct ql_err *e)
{
	struct lexer l = {.t = t, .line = 1, .line_starting = true, .e = e};
	int rc = normalise(t, src, len, e);

	*out = NULL;
	if (rc != QL_OK)
		return rc;
	l.s = t->src;
	l.n = t->src_len;
	while (rc == QL_OK && l.pos < l.n) {
		size_t from = l.pos, i = from;

		while (i + 1 < l.n && !(l.s[i] == '{' && (l.s[i + 1] == '%' || l.s[i + 1] == '{' || l.s[i + 1] == '#')))
			i++;
		if (i + 1 >= l.n) {
			rc = emit(&l, T_DATA, l.s + from, l.n - from);
			break;
		}
		l.n_open = 0;
		rc = lex_from(&l, from, i);
	}
	if (rc == QL_OK)
		rc = emit(&l, T_EOF, NULL, 0);
	if (rc != QL_OK) {
		free(l.tok);
		return rc;
	}
	*out = l.tok;
	*n = l.n_tok;
	return QL_OK;
}
