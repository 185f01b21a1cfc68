/* pretok_regex.c - patterns of tokenizer.json that no scanner knows, in PCRE2.
 *
 * The file's flavour is Oniguruma with Ruby's syntax.  translate() passes on what both flavours read alike, rewrites what
 * PCRE2 reads otherwise (\s and \w differ in their sets, \v and \u in meaning), and refuses the rest by name: nested and
 * intersected classes, back references, recursion, verbs, option settings other than (?i:…).  Matching is bounded by PCRE2's
 * match, depth and heap limits and a budget of processor time; a pattern that reaches one is an error, never a wait. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/buf.h"
#include "core/base/limits.h"
#include "core/text/pretok.h"

/* White_Space, which is what Oniguruma's \s is */
#define SPACE_SET "\\x09-\\x0d\\x20\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define WORD_SET "\\p{L}\\p{M}\\p{N}\\p{Pc}"

#define MATCH_LIMIT_BASE 1000000u
#define MATCH_LIMIT_PER_BYTE 16u
#define DEPTH_LIMIT 100000u
#define HEAP_LIMIT_KIB 65536u
#define CLOCK_EVERY 64 /* searches between two looks at the clock */

struct ql_regex {
	pcre2_code *code;
	char *source;
};

struct ql_regex_match {
	pcre2_match_data *data;
	pcre2_match_context *context;
	uint32_t calls;
	int64_t deadline; /* of the thread's processor time, ns */
};

static int refuse(const char *pattern, size_t at, const char *what, struct ql_err *e)
{
	return ql_err_at(e, QL_EUNSUPPORTED, at, "pattern \"%.120s\": %s is not supported", pattern, what);
}

static bool hex4(const char *s)
{
	for (int i = 0; i < 4; i++)
		if (s[i] == '\0' || strchr("0123456789abcdefABCDEF", s[i]) == NULL)
			return false;
	return true;
}

/* An escape at p[i] == '\\'; *used = bytes consumed. */
static int escape(const char *p, size_t i, bool in_class, struct ql_buf *out, size_t *used, struct ql_err *e)
{
	char c = p[i + 1], what[32];

	*used = 2;
	if (c == 's')
		return ql_buf_adds(out, in_class ? SPACE_SET : "[" SPACE_SET "]");
	if (c == 'w')
		return ql_buf_adds(out, in_class ? WORD_SET : "[" WORD_SET "]");
	if (c == 'S' && !in_class)
		return ql_buf_adds(out, "[^" SPACE_SET "]");
	if (c == 'W' && !in_class)
		return ql_buf_adds(out, "[^" WORD_SET "]");
	if (c == 'v')
		return ql_buf_adds(out, "\\x0b");
	if (c == 'u' && hex4(p + i + 2)) {
		*used = 6;
		return ql_buf_addf(out, "\\x{%.4s}", p + i + 2);
	}
	if ((c == 'p' || c == 'P' || c == 'x') && p[i + 2] == '{') { /* up to the }, which is no quantifier's */
		const char *close = strchr(p + i, '}');

		*used = close == NULL ? strlen(p + i) : (size_t)(close - (p + i)) + 1;
		return ql_buf_add(out, p + i, *used);
	}
	if (c != '\0' && (strchr("rntfaedDpPx", c) != NULL || (!in_class && strchr("AzZ", c) != NULL)))
		return ql_buf_add(out, p + i, 2);
	if ((uint8_t)c > 0x20 && (uint8_t)c < 0x7f && !(c >= '0' && c <= '9') && !((c | 32) >= 'a' && (c | 32) <= 'z'))
		return ql_buf_add(out, p + i, 2);
	if (c == ' ')
		return ql_buf_adds(out, " ");
	snprintf(what, sizeof what, "\\%c%s", (uint8_t)c > 0x20 && (uint8_t)c < 0x7f ? c : '?', in_class ? " in a class" : "");
	return refuse(p, i, what, e);
}

/* A group's opening at p[i] == '('. */
static int group(const char *p, size_t i, struct ql_buf *out, size_t *used, struct ql_err *e)
{
	static const char *const openings[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};

	*used = 1;
	if (p[i + 1] == '*')
		return refuse(p, i, "(*", e);
	if (p[i + 1] != '?')
		return ql_buf_adds(out, "(?:"); /* nothing refers back */
	for (size_t k = 0; k < sizeof openings / sizeof *openings; k++)
		if (strncmp(p + i, openings[k], strlen(openings[k])) == 0) {
			*used = strlen(openings[k]);
			return ql_buf_adds(out, openings[k]);
		}
	return refuse(p, i, "this kind of group", e);
}

static int translate(const char *p, struct ql_buf *out, struct ql_err *e)
{
	bool in_class = false;
	size_t used;
	int rc = QL_OK;

	for (size_t i = 0; rc == QL_OK && p[i] != '\0'; i += used) {
		used = 1;
		if (p[i] == '\\') {
			rc = escape(p, i, in_class, out, &used, e);
		} else if (in_class) {
			if (p[i] == '[')
				return refuse(p, i, "a class in a class", e);
			if (p[i] == '&' && p[i + 1] == '&')
				return refuse(p, i, "&& in a class", e);
			in_class = p[i] != ']';
			rc = ql_buf_addc(out, p[i]);
		} else if (p[i] == '[') {
			used = p[i + 1] == '^' ? 2 : 1;
			if (p[i + used] == ']')
				return refuse(p, i, "an empty class", e);
			in_class = true;
			rc = ql_buf_add(out, p + i, used);
		} else if (p[i] == '(') {
			rc = group(p, i, out, &used, e);
		} else if (p[i] == '{' && p[i + 1] == ',') {
			return refuse(p, i, "{,n}", e);
		} else if (p[i] == '}' && p[i + 1] == '+') {
			return refuse(p, i, "{n}+", e);
		} else {
			rc = ql_buf_addc(out, p[i]);
		}
	}
	return rc == QL_ENOMEM ? ql_err_set(e, rc, "no memory for a pattern") : rc;
}

static int compile(struct ql_regex *r, const char *text, size_t len, uint32_t options, struct ql_err *e)
{
	pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
	PCRE2_SIZE at = 0;
	PCRE2_UCHAR message[128] = "";
	int code = 0;

	if (cc == NULL)
		return ql_err_set(e, QL_ENOMEM, "no memory for a pattern");
	pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
	pcre2_set_parens_nest_limit(cc, 50);
	r->code = pcre2_compile((PCRE2_SPTR)text, len, options, &code, &at, cc);
	pcre2_compile_context_free(cc);
	if (r->code == NULL) {
		pcre2_get_error_message(code, message, sizeof message);
		return ql_err_at(e, QL_EFORMAT, at, "pattern \"%.120s\": %s", r->source, (const char *)message);
	}
	/* no JIT on this machine: the interpreter does it */
	(void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
	return QL_OK;
}

static int new_source(struct ql_regex **out, const char *text, size_t len, struct ql_err *e)
{
	struct ql_regex *r;

	*out = NULL;
	if (len > QL_TOK_REGEX_MAX)
		return ql_err_set(e, QL_ELIMIT, "a pattern of %zu bytes, more than the %zu allowed", len, (size_t)QL_TOK_REGEX_MAX);
	r = calloc(1, sizeof *r);
	if (r != NULL)
		r->source = strndup(text, len);
	if (r == NULL || r->source == NULL) {
		free(r);
		return ql_err_set(e, QL_ENOMEM, "no memory for a pattern");
	}
	*out = r;
	return QL_OK;
}

int ql_regex_new(struct ql_regex **out, const char *pattern, struct ql_err *e)
{
	struct ql_buf b = {0};
	int rc = new_source(out, pattern, strlen(pattern), e);

	if (rc != QL_OK)
		return rc;
	rc = translate(pattern, &b, e);
	if (rc == QL_OK)
		rc = compile(*out, b.data == NULL ? "" : b.data, b.len,
			     PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, e);
	ql_buf_free(&b);
	if (rc != QL_OK) {
		ql_regex_free(*out);
		*out = NULL;
	}
	return rc;
}

int ql_regex_new_literal(struct ql_regex **out, const char *text, size_t len, struct ql_err *e)
{
	int rc = new_source(out, text, len, e);

	if (rc != QL_OK)
		return rc;
	rc = compile(*out, text, len, PCRE2_LITERAL | PCRE2_UTF, e);
	if (rc != QL_OK) {
		ql_regex_free(*out);
		*out = NULL;
	}
	return rc;
}

void ql_regex_free(struct ql_regex *r)
{
	if (r == NULL)
		return;
	pcre2_code_free(r->code);
	free(r->source);
	free(r);
}

const char *ql_regex_source(const struct ql_regex *r) { return r->source; }

static int64_t thread_time(void)
{
	struct timespec t = {0};

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

struct ql_regex_match *ql_regex_match_new(size_t text_len)
{
	struct ql_regex_match *m = calloc(1, sizeof *m);
	int64_t seconds = QL_TOK_REGEX_SECONDS + QL_TOK_REGEX_SECONDS_PER_MIB * (int64_t)(text_len / QL_MIB(1));

	if (m == NULL)
		return NULL;
	m->deadline = thread_time() + seconds * 1000000000;
	m->data = pcre2_match_data_create(1, NULL);
	m->context = pcre2_match_context_create(NULL);
	if (m->data == NULL || m->context == NULL) {
		ql_regex_match_free(m);
		return NULL;
	}
	pcre2_set_depth_limit(m->context, DEPTH_LIMIT);
	pcre2_set_heap_limit(m->context, HEAP_LIMIT_KIB);
	return m;
}

void ql_regex_match_free(struct ql_regex_match *m)
{
	if (m == NULL)
		return;
	pcre2_match_data_free(m->data);
	pcre2_match_context_free(m->context);
	free(m);
}

int ql_regex_find(const struct ql_regex *r, struct ql_regex_match *m, const char *text, size_t len, size_t from, size_t *begin,
		  size_t *end, struct ql_err *e)
{
	uint64_t limit = MATCH_LIMIT_BASE + (uint64_t)(len - from) * MATCH_LIMIT_PER_BYTE;
	PCRE2_UCHAR message[128] = "";
	PCRE2_SIZE *at;
	int n;

	if (++m->calls % CLOCK_EVERY == 0 && thread_time() > m->deadline)
		return ql_err_at(e, QL_ELIMIT, from, "pattern \"%.120s\": too slow on this text", r->source);
	pcre2_set_match_limit(m->context, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
	n = pcre2_match(r->code, (PCRE2_SPTR)text, len, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
	if (n == PCRE2_ERROR_NOMATCH)
		return QL_ENOTFOUND;
	if (n < 0) {
		pcre2_get_error_message(n, message, sizeof message);
		return ql_err_at(e, n == PCRE2_ERROR_NOMEMORY ? QL_ENOMEM : QL_ELIMIT, from, "pattern \"%.120s\": %s", r->source,
				 (const char *)message);
	}
	at = pcre2_get_ovector_pointer(m->data);
	if (at[0] > at[1] || at[0] < from) /* \K and look-behind tricks; translate() lets none through */
		return ql_err_set(e, QL_EINTERNAL, "pattern \"%.120s\": match out of order", r->source);
	*begin = at[0];
	*end = at[1];
	return QL_OK;
}
