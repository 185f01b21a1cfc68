/* pretok_scan.c - the known patterns by hand.  tests/unit/text/test_tok_pretok.c proves each equal to its expression run by
 * PCRE2 on random Unicode.  The patterns (L = \p{L} and so on; alternatives in order, all greedy):
 *
 *   gpt-2    's|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?[^\sLN]+|\s+(?!\S)|\s+
 *   smollm   first every N alone, then gpt-2 in between (so a digit ends the text for gpt-2)
 *   llama-bpe (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,3}| ?[^\sLN]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *   qwen2    the same with N for N{1,3};  qwen35: qwen2 with marks M counted as letters
 *   tekken   [^\r\nLN]?U*W+|[^\r\nLN]?U+W*|N| ?[^\sLN]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
 *            U = [\p{Lu}\p{Lt}\p{Lm}\p{Lo}M], W = [\p{Ll}\p{Lm}\p{Lo}M]
 *   gpt-4o   tekken with an optional contraction after each of the first two, and N{1,3} */
#include <string.h>

#include "core/text/pretok.h"
#include "core/text/unicode.h"

/* What the functions below are specialised by (always constants). */
struct rule {
	int digits;       /* N{1,digits} */
	int contractions; /* 0 none, 1 ASCII, 2 with U+017F, which (?i:s) matches too */
	bool marks;       /* M counts as a letter */
	bool cased;       /* words by U and W; contractions come after them */
	bool slash;       /* [\r\n/]* after punctuation */
};

static const uint8_t ascii_class[128] = {
	[0x09] = QL_U_SPACE, [0x0a] = QL_U_SPACE, [0x0b] = QL_U_SPACE, [0x0c] = QL_U_SPACE, [0x0d] = QL_U_SPACE,
	[' '] = QL_U_SPACE,
	['!'] = QL_U_P, ['"'] = QL_U_P, ['#'] = QL_U_P, ['$'] = QL_U_S, ['%'] = QL_U_P, ['&'] = QL_U_P, ['\''] = QL_U_P,
	['('] = QL_U_P, [')'] = QL_U_P, ['*'] = QL_U_P, ['+'] = QL_U_S, [','] = QL_U_P, ['-'] = QL_U_P, ['.'] = QL_U_P,
	['/'] = QL_U_P, ['0' ... '9'] = QL_U_N, [':'] = QL_U_P, [';'] = QL_U_P, ['<'] = QL_U_S, ['='] = QL_U_S,
	['>'] = QL_U_S, ['?'] = QL_U_P, ['@'] = QL_U_P, ['A' ... 'Z'] = QL_U_LU, ['['] = QL_U_P, ['\\'] = QL_U_P,
	[']'] = QL_U_P, ['^'] = QL_U_S, ['_'] = QL_U_P, ['`'] = QL_U_S, ['a' ... 'z'] = QL_U_LL, ['{'] = QL_U_P,
	['|'] = QL_U_S, ['}'] = QL_U_P, ['~'] = QL_U_S,
};

/* Class of the character at p, and its length; valid UTF-8 is given. */
static inline enum ql_uclass class_at(const char *p, int *n)
{
	const uint8_t *s = (const uint8_t *)p;

	if (s[0] < 0x80) {
		*n = 1;
		return (enum ql_uclass)ascii_class[s[0]];
	}
	if (s[0] < 0xe0) {
		*n = 2;
		return ql_unicode_class((uint32_t)(s[0] & 0x1f) << 6 | (s[1] & 0x3f));
	}
	if (s[0] < 0xf0) {
		*n = 3;
		return ql_unicode_class((uint32_t)(s[0] & 0x0f) << 12 | (uint32_t)(s[1] & 0x3f) << 6 | (s[2] & 0x3f));
	}
	*n = 4;
	return ql_unicode_class((uint32_t)(s[0] & 0x07) << 18 | (uint32_t)(s[1] & 0x3f) << 12 |
				(uint32_t)(s[2] & 0x3f) << 6 | (s[3] & 0x3f));
}

static inline bool newline(char c) { return c == '\n' || c == '\r'; }

static inline bool is_word(enum ql_uclass c, bool marks) { return ql_u_letter(c) || (marks && c == QL_U_M); }

/* [^\s L N] (and not M if marks) */
static inline bool is_other(enum ql_uclass c, bool marks)
{
	return c != QL_U_SPACE && c != QL_U_N && !is_word(c, marks);
}

static inline const char *run_words(const char *p, const char *end, bool marks)
{
	for (int n; p < end && is_word(class_at(p, &n), marks);)
		p += n;
	return p;
}

static inline const char *run_digits(const char *p, const char *end, int max)
{
	for (int n; max > 0 && p < end && class_at(p, &n) == QL_U_N; max--)
		p += n;
	return p;
}

static inline const char *run_other(const char *p, const char *end, bool marks)
{
	for (int n; p < end && is_other(class_at(p, &n), marks);)
		p += n;
	return p;
}

/* Length of the contraction 's 't 're 've 'm 'll 'd at p (which holds '), or 0.  mode: 0 as spelled, 1 any case, 2 with
 * U+017F for s. */
static inline int contraction(const char *p, const char *end, int mode)
{
	char a, b = 0;

	if (end - p < 2 || *p != '\'')
		return 0;
	a = p[1];
	if (end - p >= 3)
		b = p[2];
	if (mode == 2 && (uint8_t)a == 0xc5 && (uint8_t)b == 0xbf)
		return 3;
	if (mode != 0) {
		a = (char)(a >= 'A' && a <= 'Z' ? a + 32 : a);
		b = (char)(b >= 'A' && b <= 'Z' ? b + 32 : b);
	}
	if (a == 's' || a == 't' || a == 'm' || a == 'd')
		return 2;
	if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l'))
		return 3;
	return 0;
}

/* \s+(?!\S)|\s+ at a space: the run, without its last character if something follows and that leaves any.  stop: the class
 * that counts as the end of the text (smollm's digits), or -1. */
static inline const char *run_space(const char *p, const char *end, int stop, const char **last_newline)
{
	const char *last = p, *q = p;
	enum ql_uclass c = QL_U_SPACE;
	int n;

	while (q < end && (c = class_at(q, &n)) == QL_U_SPACE) {
		if (last_newline != NULL && newline(*q))
			*last_newline = q + 1;
		last = q;
		q += n;
	}
	if (q == end || (int)c == stop || last == p)
		return q;
	return last;
}

/* ---- gpt-2 and smollm */

static inline const char *scan_gpt2(const char *p, const char *end, int stop)
{
	const char *q = p + (*p == ' ');
	enum ql_uclass c;
	int n;

	if (*p == '\'' && (n = contraction(p, end, 0)) > 0)
		return p + n;
	if (q == end)
		return q;
	c = class_at(q, &n);
	if (ql_u_letter(c))
		return run_words(q + n, end, false);
	if (c == QL_U_N) {
		if (stop == QL_U_N) /* a lone space before a digit, or the digit itself */
			return q > p ? q : q + n;
		return run_digits(q + n, end, INT32_MAX);
	}
	if (c != QL_U_SPACE)
		return run_other(q + n, end, false);
	return run_space(p, end, stop, NULL);
}

const char *ql_scan_gpt2(const char *p, const char *end) { return scan_gpt2(p, end, -1); }
const char *ql_scan_smollm(const char *p, const char *end) { return scan_gpt2(p, end, QL_U_N); }

/* ---- words by case: U*W+ | U+W* from q; returns q if neither matches */

static inline bool in_u(enum ql_uclass c) { return c == QL_U_M || (ql_u_letter(c) && c != QL_U_LL); }
static inline bool in_w(enum ql_uclass c) { return c == QL_U_M || c == QL_U_LL || c == QL_U_LM || c == QL_U_LO; }

/* End of U*W+ from q, or NULL; *u_end = end of the greedy U*.  If nothing of W follows it, U* gives back characters up to
 * the last one that is in W as well; W+ then is that one alone, since only \p{Lu} and \p{Lt} follow. */
static inline const char *match_uw(const char *q, const char *end, const char **u_end)
{
	const char *both = NULL, *p = q;
	enum ql_uclass c;
	int n;

	for (; p < end && in_u(c = class_at(p, &n)); p += n)
		if (in_w(c))
			both = p + n;
	*u_end = p;
	if (p == end || !in_w(class_at(p, &n)))
		return both;
	for (; p < end && in_w(class_at(p, &n)); p += n)
		;
	return p;
}

static inline const char *scan_cased(const char *p, const char *end, int contractions)
{
	const char *plain_u, *after_u = p, *m = NULL, *after;
	enum ql_uclass c;
	int n;

	c = class_at(p, &n);
	after = p + n;
	if (!newline(*p) && !ql_u_letter(c) && c != QL_U_N && after < end) /* with the optional first character */
		m = match_uw(after, end, &after_u);
	if (m == NULL) {
		m = match_uw(p, end, &plain_u);
		if (m == NULL && after_u > after)
			m = after_u;
		if (m == NULL && plain_u > p)
			m = plain_u;
	}
	if (m == NULL)
		return p;
	return m + (contractions != 0 ? contraction(m, end, contractions) : 0);
}

/* ---- llama-bpe, qwen2, tekken and relatives */

static inline const char *scan_rule(const char *p, const char *end, const struct rule r)
{
	const char *q, *m, *last_newline = NULL;
	enum ql_uclass c;
	int n, k;

	if (!r.cased && *p == '\'' && (n = contraction(p, end, r.contractions)) > 0)
		return p + n;
	c = class_at(p, &n);
	if (r.cased) {
		m = scan_cased(p, end, r.contractions);
		if (m > p)
			return m;
	} else if (is_word(c, r.marks)) {
		return run_words(p + n, end, r.marks);
	} else if (c != QL_U_N && !newline(*p) && p + n < end && is_word(class_at(p + n, &k), r.marks)) {
		return run_words(p + n + k, end, r.marks);
	}
	if (c == QL_U_N)
		return run_digits(p + n, end, r.digits - 1);
	q = p + (*p == ' ');
	if (q < end && is_other(class_at(q, &k), r.marks)) {
		q = run_other(q + k, end, r.marks);
		while (q < end && (newline(*q) || (r.slash && *q == '/')))
			q++;
		return q;
	}
	m = run_space(p, end, -1, &last_newline);
	return last_newline != NULL ? last_newline : m;
}

#define SCANNER(name, ...) \
	const char *ql_scan_##name(const char *p, const char *end) { return scan_rule(p, end, (struct rule){__VA_ARGS__}); }
SCANNER(llama3, .digits = 3, .contractions = 2)
SCANNER(llama3_ggml, .digits = 3, .contractions = 1)
SCANNER(qwen2, .digits = 1, .contractions = 2)
SCANNER(qwen2_ggml, .digits = 1, .contractions = 1)
SCANNER(qwen35, .digits = 1, .contractions = 2, .marks = true)
SCANNER(qwen35_ggml, .digits = 1, .contractions = 1, .marks = true)
SCANNER(tekken, .digits = 1, .cased = true, .slash = true)
SCANNER(gpt4o, .digits = 3, .contractions = 2, .cased = true, .slash = true)
SCANNER(gpt4o_ggml, .digits = 3, .contractions = 1, .cased = true, .slash = true)

const char *ql_scan_digit(const char *p, const char *end)
{
	int n;

	if (class_at(p, &n) == QL_U_N)
		return p + n;
	for (p += n; p < end && class_at(p, &n) != QL_U_N;)
		p += n;
	return p;
}

const char *ql_scan_digits(const char *p, const char *end)
{
	int n;
	bool digits = class_at(p, &n) == QL_U_N;

	for (p += n; p < end && (class_at(p, &n) == QL_U_N) == digits;)
		p += n;
	return p;
}

const char *ql_scan_meta(const char *p, const char *end)
{
	static const char meta[3] = {(char)0xe2, (char)0x96, (char)0x81};
	const char *q = p;

	while (end - q >= 3 && memcmp(q, meta, 3) == 0)
		q += 3;
	for (; q < end; q++) {
		q = memchr(q, 0xe2, (size_t)(end - q));
		if (q == NULL)
			return end;
		if (end - q >= 3 && memcmp(q, meta, 3) == 0 && q > p)
			return q;
	}
	return end;
}

/* ---- patterns as tokenizer.json spells them */

#define WS_TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define CONTRACTIONS_ASCII "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define U_STAR "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+"
#define U_PLUS "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*"

ql_scan_fn *ql_scan_for_pattern(const char *pattern)
{
	static const struct {
		const char *pattern;
		ql_scan_fn *scan;
	} known[] = {
		{"'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", ql_scan_gpt2},
		{"'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+", ql_scan_gpt2},
		{CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WS_TAIL, ql_scan_llama3},
		{CONTRACTIONS_ASCII "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WS_TAIL,
		 ql_scan_llama3_ggml},
		{CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WS_TAIL, ql_scan_qwen2},
		{CONTRACTIONS_ASCII "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" WS_TAIL,
		 ql_scan_qwen2_ggml},
		{CONTRACTIONS "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" WS_TAIL,
		 ql_scan_qwen35},
		{U_STAR "|" U_PLUS "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" WS_TAIL, ql_scan_tekken},
		{U_STAR CONTRACTIONS "?|" U_PLUS CONTRACTIONS "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" WS_TAIL,
		 ql_scan_gpt4o},
	};

	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (strcmp(pattern, known[i].pattern) == 0)
			return known[i].scan;
	return NULL;
}
