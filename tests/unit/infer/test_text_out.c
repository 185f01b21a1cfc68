/* test_text_out.c - text given out as it grows: stop strings across tokens, held text, min_tokens, ids without text. */
#include "core/infer/text_out.h"
#include "tests/unit/text/test_tok_util.h"

static struct ql_tok *tok;

static int setup(void **state)
{
	static struct mini m;

	(void)state;
	mini_init(&m, "gpt-2"); /* one token for each byte */
	tok = mini_load(&m);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	ql_tok_free(tok);
	return 0;
}

/* Pushes text byte by byte; what is given out goes to out.  free_tokens: that many may not end a stop string.  Returns how many
 * tokens were taken when a stop string was found, or 0. */
static size_t stream(const char *text, const char *const *stops, uint32_t n, size_t free_tokens, char *out)
{
	char *copies[4];
	struct ql_text_out t;
	size_t ready, len = 0;
	bool hit = false;
	size_t i = 0;

	for (uint32_t k = 0; k < n; k++)
		copies[k] = strdup(stops[k]);
	ql_text_out_init(&t, tok, copies, n);
	while (text[i] != '\0' && !hit) {
		assert_int_equal(ql_text_out_push(&t, (uint8_t)text[i], i + 1 > free_tokens, &ready, &hit, NULL), QL_OK);
		i++;
		if (ready > 0) {
			memcpy(out + len, t.pending.data, ready);
			ql_text_out_taken(&t, ready);
		}
		len += ready;
	}
	if (!hit) {
		assert_int_equal(ql_text_out_finish(&t, &ready, NULL), QL_OK);
		if (ready > 0)
			memcpy(out + len, t.pending.data, ready);
		len += ready;
	}
	out[len] = '\0';
	ql_text_out_free(&t);
	for (uint32_t k = 0; k < n; k++)
		free(copies[k]);
	return hit ? i : 0;
}

static void test_stops(void **state)
{
	static const struct {
		const char *text, *stops[3], *want;
		uint32_t n;
		size_t free_tokens, taken;
	} rows[] = {
		{"hello world", {"wor"}, "hello ", 1, 0, 9},
		{"aaab", {"aab"}, "a", 1, 0, 4},
		{"ababac", {"abac"}, "ab", 1, 0, 6},
		{"abcabd", {"abd", "bca"}, "a", 2, 0, 4},
		{"end of te", {"text"}, "end of te", 1, 0, 0}, /* what was held comes at the end */
		{"caf\xC3\xA9!", {"\xC3\xA9"}, "caf", 1, 0, 5},
		{"x\ny\nz", {"\n"}, "x\ny", 1, 3, 4},		     /* min_tokens: the first came too early */
		{"x\n\nz", {"\n\n"}, "x", 1, 2, 3},		     /* begun before, ended behind */
		{"x\n\nz", {"\n\n"}, "x\n\nz", 1, 3, 0},
		{"aaa", {"aa"}, "a", 1, 2, 3},
	};
	char out[64];

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		size_t taken = stream(rows[i].text, rows[i].stops, rows[i].n, rows[i].free_tokens, out);

		if (taken != rows[i].taken || strcmp(out, rows[i].want) != 0)
			fail_msg("row %zu: '%s' after %zu tokens", i, out, taken);
	}
}

/* Nothing is given out that may yet turn out to begin a stop string, and no part of a character. */
static void test_held(void **state)
{
	char stop[] = "stop", *stops[] = {stop};
	struct ql_text_out t;
	size_t ready;
	bool hit;

	(void)state;
	ql_text_out_init(&t, tok, stops, 1);
	for (const char *p = "xsto"; *p != '\0'; p++) {
		assert_int_equal(ql_text_out_push(&t, (uint8_t)*p, true, &ready, &hit, NULL), QL_OK);
		assert_int_equal(ready, *p == 'x');
		if (ready > 0)
			ql_text_out_taken(&t, ready);
	}
	assert_int_equal(ql_text_out_push(&t, ql_tok_vocab_size(tok) + 5, true, &ready, &hit, NULL), QL_OK); /* a padded row of a model */
	assert_true(ready == 0 && !hit && t.pending.len == 3);
	assert_int_equal(ql_text_out_push(&t, 's', true, &ready, &hit, NULL), QL_OK);
	assert_true(ready == 3 && !hit); /* "sto", and an "s" that may begin anew */
	ql_text_out_taken(&t, ready);
	assert_int_equal(ql_text_out_push(&t, 0xC3, true, &ready, &hit, NULL), QL_OK);
	assert_int_equal(ready, 0);
	assert_int_equal(ql_text_out_push(&t, 0xA9, true, &ready, &hit, NULL), QL_OK);
	assert_int_equal(ready, 3);
	ql_text_out_free(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_stops), cmocka_unit_test(test_held)};

	return cmocka_run_group_tests(tests, setup, teardown);
}
