/* test_tok_pretok.c - each hand-written scanner equals its expression run by PCRE2, on random Unicode; split behaviours;
 * translation of patterns; limits. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/pretok.h"
#include "core/text/unicode.h"
#include "tests/unit/text/test_tok_util.h"

#define L3_HEAD "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define L3_HEAD_ASCII "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
#define TAIL "|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define U "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define W "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define UW "[^\\r\\n\\p{L}\\p{N}]?" U "*" W "+"
#define UPW "[^\\r\\n\\p{L}\\p{N}]?" U "+" W "*"
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

static const struct {
	ql_scan_fn *scan;
	const char *first, *pattern; /* first: an earlier split, or NULL */
} cases[] = {
	{ql_scan_gpt2, NULL, GPT2},
	{ql_scan_smollm, "\\p{N}", GPT2},
	{ql_scan_llama3, NULL, L3_HEAD "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_llama3_ggml, NULL, L3_HEAD_ASCII "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_qwen2, NULL, L3_HEAD "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_qwen2_ggml, NULL, L3_HEAD_ASCII "|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_qwen35, NULL, L3_HEAD "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_qwen35_ggml, NULL,
	 L3_HEAD_ASCII "|[^\\r\\n\\p{L}\\p{N}]?[\\p{L}\\p{M}]+|\\p{N}| ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*" TAIL},
	{ql_scan_tekken, NULL, UW "|" UPW "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL},
	{ql_scan_gpt4o, NULL, UW L3_HEAD "?|" UPW L3_HEAD "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL},
	{ql_scan_gpt4o_ggml, NULL, UW L3_HEAD_ASCII "?|" UPW L3_HEAD_ASCII "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*" TAIL},
	{ql_scan_digit, NULL, "\\p{N}"},
};

static struct ql_regex *regex(const char *pattern)
{
	struct ql_regex *r = NULL;
	struct ql_err e = {0};

	if (ql_regex_new(&r, pattern, &e) != QL_OK)
		fail_msg("%s", e.message);
	return r;
}

/* ---- code points on whose class the system's PCRE2 (an older Unicode) and our table agree */

enum { PLANES = 0x20000 };
static uint8_t agreed[PLANES];

static void find_agreed(void)
{
	static const struct {
		const char *pattern;
		enum ql_uclass class;
	} classes[] = {{"\\p{Lu}", QL_U_LU}, {"\\p{Ll}", QL_U_LL}, {"\\p{Lt}", QL_U_LT}, {"\\p{Lm}", QL_U_LM}, {"\\p{Lo}", QL_U_LO},
		       {"\\p{M}", QL_U_M}, {"\\p{N}", QL_U_N}, {"\\p{P}", QL_U_P}, {"\\p{S}", QL_U_S}, {"\\s", QL_U_SPACE}};
	struct ql_regex_match *m = ql_regex_match_new(QL_MIB(1000));
	size_t differ = 0;

	memset(agreed, 1, sizeof agreed);
	for (size_t k = 0; k < sizeof classes / sizeof *classes; k++) {
		struct ql_regex *r = regex(classes[k].pattern);

		for (uint32_t cp = 0; cp < PLANES; cp++) {
			char s[4];
			size_t b, end;
			int n;

			if (cp >= 0xd800 && cp <= 0xdfff) {
				agreed[cp] = 0;
				continue;
			}
			n = ql_utf8_encode(cp, s);
			if ((ql_regex_find(r, m, s, (size_t)n, 0, &b, &end, NULL) == QL_OK) !=
			    (ql_unicode_class(cp) == classes[k].class))
				agreed[cp] = 0;
		}
		ql_regex_free(r);
	}
	for (uint32_t cp = 0; cp < PLANES; cp++)
		differ += agreed[cp] == 0;
	/* 2,048 surrogates, and what was assigned between the two versions of Unicode */
	assert_in_range(differ, 2048, 2048 + 8000);
	ql_regex_match_free(m);
}

/* ---- random texts */

static size_t random_text(uint64_t *seed, char *out, size_t max)
{
	static const char *const parts[] = {"'s", "'S", "'LL", "'re", "'ve", "'", "\r\n", "\n", "  ", " ", "\t", "1", "23", "456", "a", "B",
					    "Word", "!", "?!", "//", "/\n", "\xc2\xa0", "\xe3\x80\x80", "\xcc\x81", "\xc5\xbf", "'\xc5\xbf",
					    "\xe6\x97\xa5", "\xc2\x85", "\xe1\xa0\x8e", "\xd9\xa3", "\xc2\xbd", "\xc7\x85", "_", "\xe2\x80\xa8"};
	size_t n = 0;

	for (uint32_t k = 1 + below(seed, 12); k > 0; k--) {
		char one[8];
		size_t len;

		if (below(seed, 3) > 0) {
			const char *s = parts[below(seed, sizeof parts / sizeof *parts)];

			len = strlen(s);
			memcpy(one, s, len);
		} else {
			static const uint32_t tops[] = {0x80, 0x250, 0x600, 0x3000, 0x10000, PLANES};
			uint32_t cp;

			do
				cp = below(seed, tops[below(seed, 6)]);
			while (!agreed[cp]);
			len = (size_t)ql_utf8_encode(cp, one);
		}
		if (n + len > max)
			break;
		memcpy(out + n, one, len);
		n += len;
	}
	return n;
}

struct cuts {
	size_t at[512], n;
};

static int record(void *ctx, size_t begin, size_t end)
{
	struct cuts *c = ctx;

	assert_true(begin < end);
	c->at[c->n++] = begin;
	c->at[c->n++] = end;
	return QL_OK;
}

static void test_scanners(void **state)
{
	struct ql_regex_match *m = ql_regex_match_new(QL_MIB(1000)); /* thousands of texts */
	uint64_t seed = 11;

	(void)state;
	find_agreed();
	for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
		struct ql_pretok fast = {0}, slow = {0};

		assert_int_equal(ql_pretok_add(&fast, (struct ql_pretok_step){.scan = cases[k].scan}, NULL), QL_OK);
		if (cases[k].first != NULL)
			ql_pretok_add(&slow, (struct ql_pretok_step){.regex = regex(cases[k].first), .behaviour = QL_SPLIT_ISOLATED}, NULL);
		ql_pretok_add(&slow, (struct ql_pretok_step){.regex = regex(cases[k].pattern), .behaviour = QL_SPLIT_ISOLATED}, NULL);
		for (int i = 0; i < 30000; i++) {
			struct cuts a = {.n = 0}, b = {.n = 0};
			char text[128];
			size_t n = random_text(&seed, text, sizeof text);

			assert_int_equal(ql_pretok_run(&fast, m, text, n, record, &a, NULL), QL_OK);
			assert_int_equal(ql_pretok_run(&slow, m, text, n, record, &b, NULL), QL_OK);
			if (a.n != b.n || memcmp(a.at, b.at, a.n * sizeof *a.at) != 0) {
				for (size_t j = 0; j < n; j++)
					fprintf(stderr, "%02x ", (uint8_t)text[j]);
				for (size_t j = 0; j < a.n || j < b.n; j += 2)
					fprintf(stderr, "\n  ours to %zu, PCRE2 to %zu", j < a.n ? a.at[j + 1] : 0, j < b.n ? b.at[j + 1] : 0);
				fail_msg("scanner %zu differs from its pattern", k);
			}
		}
		ql_pretok_free(&fast);
		ql_pretok_free(&slow);
	}
	ql_regex_match_free(m);
}

static void test_known_patterns(void **state)
{
	(void)state;
	assert_ptr_equal(ql_scan_for_pattern(GPT2), ql_scan_gpt2);
	for (size_t k = 2; k < 6; k++)
		assert_ptr_equal(ql_scan_for_pattern(cases[k].pattern), cases[k].scan);
	assert_ptr_equal(ql_scan_for_pattern(cases[8].pattern), ql_scan_tekken);
	assert_ptr_equal(ql_scan_for_pattern(cases[9].pattern), ql_scan_gpt4o);
	assert_null(ql_scan_for_pattern("\\p{L}+"));
}

/* "the-final--countdown" by "-", from the documentation of HF's SplitDelimiterBehavior. */
static void test_behaviours(void **state)
{
	static const struct {
		enum ql_split how;
		bool invert;
		const char *want;
	} rows[] = {
		{QL_SPLIT_REMOVED, false, "the|final|countdown"},
		{QL_SPLIT_ISOLATED, false, "the|-|final|-|-|countdown"},
		{QL_SPLIT_MERGED_PREVIOUS, false, "the-|final-|-|countdown"},
		{QL_SPLIT_MERGED_NEXT, false, "the|-final|-|-countdown"},
		{QL_SPLIT_CONTIGUOUS, false, "the|-|final|--|countdown"},
		{QL_SPLIT_REMOVED, true, "-|-|-"},
	};
	const char *text = "the-final--countdown";
	struct ql_regex_match *m = ql_regex_match_new(0);

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ql_pretok p = {0};
		struct cuts c = {.n = 0};
		struct ql_buf b = {0};

		ql_pretok_add(&p, (struct ql_pretok_step){.regex = regex("-"), .behaviour = rows[i].how, .invert = rows[i].invert}, NULL);
		assert_int_equal(ql_pretok_run(&p, m, text, strlen(text), record, &c, NULL), QL_OK);
		for (size_t k = 0; k < c.n; k += 2) {
			if (k > 0)
				ql_buf_addc(&b, '|');
			ql_buf_add(&b, text + c.at[k], c.at[k + 1] - c.at[k]);
		}
		assert_string_equal(b.data, rows[i].want);
		ql_buf_free(&b);
		ql_pretok_free(&p);
	}
	ql_regex_match_free(m);
}

static void test_patterns(void **state)
{
	static const char *const refused[] = {"[a[b]]", "[a&&b]", "(a)\\1", "(?<n>a)", "(?R)", "(*COMMIT)", "\\h", "\\X", "\\bx", "(?i)a",
					      "a{,3}", "a{1,2}+", "[\\S]", "(?#x)", "[]a]"};
	static const char *const broken[] = {"(a", "[a", "a\\p{Qq}"};
	struct ql_regex_match *m = ql_regex_match_new(0);
	struct ql_regex *r = NULL;
	struct ql_err e = {0};
	size_t b, n;

	(void)state;
	for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
		if (ql_regex_new(&r, refused[i], &e) != QL_EUNSUPPORTED)
			fail_msg("%s was not refused", refused[i]);
	for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
		if (ql_regex_new(&r, broken[i], &e) != QL_EFORMAT)
			fail_msg("%s was not found broken", broken[i]);
	r = regex("\\s\\u00e9[\\s\\v]\\w");
	assert_int_equal(ql_regex_find(r, m, "x\xc2\x85\xc3\xa9\x0b\xcc\x81", 8, 0, &b, &n, NULL), QL_OK);
	assert_int_equal(b, 1);
	assert_int_equal(n, 8);
	ql_regex_free(r);
	r = regex("\\s");
	assert_int_equal(ql_regex_find(r, m, "\xe1\xa0\x8e", 3, 0, &b, &n, NULL), QL_ENOTFOUND); /* U+180E is no space */
	ql_regex_free(r);
	ql_regex_match_free(m);
}

/* Catastrophic backtracking ends in an error that names the pattern. */
static void test_hostile_pattern(void **state)
{
	struct ql_regex_match *m = ql_regex_match_new(0);
	struct ql_regex *r = regex("(?:a+)+$");
	struct ql_err e = {0};
	char text[64];
	size_t b, n;

	(void)state;
	memset(text, 'a', sizeof text);
	text[63] = 'b';
	assert_int_equal(ql_regex_find(r, m, text, sizeof text, 0, &b, &n, &e), QL_ELIMIT);
	assert_non_null(strstr(e.message, "(?:a+)+$"));
	ql_regex_free(r);
	ql_regex_match_free(m);
}

static int nothing(void *ctx, size_t begin, size_t end)
{
	(void)ctx;
	(void)begin;
	(void)end;
	return QL_OK;
}

/* Each search is short of the match limit, all of them together are quadratic. */
static void test_slow_pattern(void **state)
{
	const size_t n = 600000;
	struct ql_regex_match *m = ql_regex_match_new(n);
	struct ql_pretok p = {0};
	struct ql_err e = {0};
	char *text = malloc(n);

	(void)state;
	memset(text, 'a', n);
	ql_pretok_add(&p, (struct ql_pretok_step){.regex = regex("[^z]*z|[^y]*y|a"), .behaviour = QL_SPLIT_ISOLATED}, NULL);
	assert_int_equal(ql_pretok_run(&p, m, text, 100, nothing, NULL, &e), QL_OK);
	assert_int_equal(ql_pretok_run(&p, m, text, n, nothing, NULL, &e), QL_ELIMIT);
	assert_non_null(strstr(e.message, "too slow"));
	ql_pretok_free(&p);
	ql_regex_match_free(m);
	free(text);
}

static void test_regex_limit(void **state)
{
	char *pattern = malloc(QL_TOK_REGEX_MAX + 2);
	struct ql_regex *r = NULL;

	(void)state;
	memset(pattern, 'a', QL_TOK_REGEX_MAX + 1);
	pattern[QL_TOK_REGEX_MAX + 1] = '\0';
	assert_int_equal(ql_regex_new(&r, pattern, NULL), QL_ELIMIT);
	pattern[QL_TOK_REGEX_MAX] = '\0';
	assert_int_equal(ql_regex_new(&r, pattern, NULL), QL_OK);
	ql_regex_free(r);
	free(pattern);
}

static void test_unicode(void **state)
{
	(void)state;
	assert_int_equal(ql_unicode_class('a'), QL_U_LL);
	assert_int_equal(ql_unicode_class(0x10ffff), QL_U_OTHER);
	assert_int_equal(ql_unicode_class(0x110000), QL_U_OTHER);
	assert_int_equal(ql_unicode_class(UINT32_MAX), QL_U_OTHER);
	assert_int_equal(ql_unicode_class(0x1c89), QL_U_LU); /* new in 16.0 */
	assert_int_equal(ql_unicode_class(0x20000), QL_U_LO);
	assert_int_equal(ql_unicode_class(0x180e), QL_U_OTHER);
	assert_int_equal(ql_unicode_class(0x85), QL_U_SPACE);
	assert_int_equal(ql_unicode_class(0xe0100), QL_U_M);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scanners), cmocka_unit_test(test_known_patterns),	 cmocka_unit_test(test_behaviours),
		cmocka_unit_test(test_patterns), cmocka_unit_test(test_hostile_pattern), cmocka_unit_test(test_unicode),
		cmocka_unit_test(test_slow_pattern), cmocka_unit_test(test_regex_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
