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

int lex_fail(struct ql_err *e, uint32_t line, const char *what)
{
	return ql_err_set(e, QL_EFORMAT, "template line %u: %s", line, what);
}

/* Length of the white-space character at p (0 if none). */
size_t lex_space_at(const char *p, const char *end)
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

	while ((k = lex_space_at(s + i, s + n)) > 0)
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
		if (lex_space_at(s + c, s + end) != end - c)
			break;
		end = c;
	}
	return end;
}

struct token *lex_push(struct lexer *l, enum tok type, const char *p, size_t len)
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

int lex_emit(struct lexer *l, enum tok type, const char *p, size_t len)
{
	if (lex_push(l, type, p, len) == NULL)
		return ql_err_set(l->e, QL_ENOMEM, "template");
	return QL_OK;
}

void lex_count_lines(struct lexer *l, size_t from, size_t to)
{
	for (size_t i = from; i < to; i++)
		l->line += l->s[i] == '\n';
}

/* Past the end of a tag at i: "%}" with its optional sign and what it swallows; 0 if there is none here. */
size_t lex_tag_end(const struct lexer *l, size_t i, char c, bool trim)
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
		int rc = lex_emit(l, T_DATA, l->s + from, end - from);

		if (rc != QL_OK)
			return rc;
	}
	lex_count_lines(l, from, to);
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
		end = j == 0 ? 0 : lex_tag_end(l, j, '%', true);
		if (end == 0)
			continue;
		l->line_starting = from > 0 && l->s[from - 1] == '\n';
		rc = data_before(l, from, i, sign, false);
		lex_count_lines(l, i, end);
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
		size_t end = lex_tag_end(l, i, '#', true);

		if (end == 0)
			continue;
		lex_count_lines(l, from, end);
		l->pos = end;
		l->line_starting = l->s[end - 1] == '\n';
		return QL_OK;
	}
	return lex_fail(l->e, l->line, "Missing end of comment tag");
}

/* The tag at l->pos = i, "{%", "{{" or "{#", with the data [from, i) before it. */
static int lex_from(struct lexer *l, size_t from, size_t i)
{
	char kind = l->s[i + 1], sign = 0;
	size_t raw, end;
	int rc;

	if (kind == '%' && (raw = word_tag(l, i, "raw", &sign)) != 0) {
		end = lex_tag_end(l, raw, '%', false);
		if (end != 0) {
			rc = data_before(l, from, i, sign, false);
			if (rc != QL_OK)
				return rc;
			lex_count_lines(l, i, end);
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
	rc = lex_emit(l, kind == '{' ? T_VAR_BEGIN : T_BLOCK_BEGIN, NULL, 0);
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
			rc = lex_emit(&l, T_DATA, l.s + from, l.n - from);
			break;
		}
		l.n_open = 0;
		rc = lex_from(&l, from, i);
	}
	if (rc == QL_OK)
		rc = lex_emit(&l, T_EOF, NULL, 0);
	if (rc != QL_OK) {
		free(l.tok);
		return rc;
	}
	*out = l.tok;
	*n = l.n_tok;
	return QL_OK;
}
