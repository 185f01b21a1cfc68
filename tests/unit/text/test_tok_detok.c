/* test_tok_detok.c - incremental detokenisation: however the bytes are dealt, the text is that of the whole. */
#include "core/base/utf8.h"
#include "core/text/detok.h"
#include "tests/unit/text/test_tok_util.h"

#define FFFD "\xef\xbf\xbd"

/* One token per byte: pushes every byte and checks that only whole characters come out. */
static void check_stream(const struct ql_tok *t, const char *bytes, size_t len, const char *want)
{
	struct ql_buf out = {0}, whole = {0};
	struct ql_detok d;
	int32_t ids[64];

	ql_detok_init(&d, t, true);
	for (size_t i = 0; i < len; i++) {
		ids[i] = (uint8_t)bytes[i];
		assert_int_equal(ql_detok_push(&d, ids[i], &out, NULL), QL_OK);
		assert_true(out.len == 0 || ql_utf8_valid(out.data, out.len, NULL));
	}
	assert_int_equal(ql_detok_finish(&d, &out), QL_OK);
	assert_string_equal(out.data == NULL ? "" : out.data, want);
	assert_int_equal(ql_tok_decode(t, ids, len, true, &whole, NULL), QL_OK);
	assert_string_equal(whole.data == NULL ? "" : whole.data, want);
	ql_buf_free(&out);
	ql_buf_free(&whole);
}

/* Rows verified with Python: bytes.decode("utf-8", "replace"), which is what Rust's from_utf8_lossy does. */
static void test_replacement(void **state)
{
	static const struct {
		const char *bytes, *want;
	} rows[] = {
		{"abc", "abc"},
		{"", ""},
		{"\xe2\x82\xac", "\xe2\x82\xac"},
		{"a\xf0\x9f\x98\x80z", "a\xf0\x9f\x98\x80z"},
		{"\xe2\x82", FFFD},
		{"\xe2\x82z", FFFD "z"},
		{"\xe2z\x82", FFFD "z" FFFD},
		{"\xf0\x9f\x98z", FFFD "z"},
		{"\xf0\x9f\xf0\x9f\x98\x80", FFFD "\xf0\x9f\x98\x80"},
		{"\xff\xfe", FFFD FFFD},
		{"\xc0\xaf", FFFD FFFD},
		{"\xe0\x80\x80", FFFD FFFD FFFD},
		{"\xed\xa0\x80", FFFD FFFD FFFD},
		{"\xf4\x90\x80\x80", FFFD FFFD FFFD FFFD},
		{"\x80\xe2\x82\xac\x80", FFFD "\xe2\x82\xac" FFFD},
		{"\xe2\xe2\x82\xac", FFFD "\xe2\x82\xac"},
		{"\xc3\xc3\xa9", FFFD "\xc3\xa9"},
	};
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	t = mini_load(&m);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
		check_stream(t, rows[i].bytes, strlen(rows[i].bytes), rows[i].want);
	ql_tok_free(t);
}

/* Tokens that hold pieces of characters, in every way to cut a text into two to four tokens. */
static void test_every_split(void **state)
{
	const char *text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80" "b";
	const size_t len = strlen(text);

	(void)state;
	for (size_t i = 1; i < len; i++) {
		for (size_t j = i; j <= len; j++) {
			const size_t cut[] = {0, i, j, len};
			struct ql_buf out = {0};
			char names[3][80];
			struct ql_detok d;
			struct mini m;
			struct ql_tok *t;

			mini_init(&m, "gpt-2");
			for (int k = 0; k < 3; k++) {
				size_t n = 0;

				for (size_t q = cut[k]; q < cut[k + 1]; q++)
					n += (size_t)snprintf(names[k] + n, sizeof names[k] - n, "%s", m.bytes[(uint8_t)text[q]]);
				names[k][n] = '\0';
				mini_add(&m, names[k], QL_TOK_NORMAL);
			}
			t = mini_load(&m);
			ql_detok_init(&d, t, true);
			for (int32_t k = 0; k < 3; k++) {
				assert_int_equal(ql_detok_push(&d, 256 + k, &out, NULL), QL_OK);
				assert_true(out.len == 0 || ql_utf8_valid(out.data, out.len, NULL));
				/* all that is whole has come out, no more */
				assert_int_equal(out.len, ql_utf8_whole(text, cut[k + 1]));
			}
			assert_int_equal(ql_detok_finish(&d, &out), QL_OK);
			assert_string_equal(out.data, text);
			ql_buf_free(&out);
			ql_tok_free(t);
		}
	}
}

static void test_random_bytes(void **state)
{
	static const uint8_t likely[] = {'a', 0x80, 0xbf, 0xc3, 0xe0, 0xa0, 0xe2, 0x82, 0xac, 0xed, 0xf0, 0x9f, 0x98, 0xf4, 0x8f, 0xff};
	uint64_t seed = 3;
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	t = mini_load(&m);
	for (int i = 0; i < 20000; i++) {
		struct ql_buf one = {0}, all = {0};
		struct ql_detok d;
		int32_t ids[12];
		size_t n = 1 + below(&seed, 12);

		ql_detok_init(&d, t, false);
		for (size_t k = 0; k < n; k++) {
			ids[k] = likely[below(&seed, sizeof likely)];
			assert_int_equal(ql_detok_push(&d, ids[k], &one, NULL), QL_OK);
		}
		assert_int_equal(ql_detok_finish(&d, &one), QL_OK);
		assert_int_equal(ql_tok_decode(t, ids, n, false, &all, NULL), QL_OK);
		assert_string_equal(one.data, all.data);
		assert_true(ql_utf8_valid(one.data, one.len, NULL));
		ql_buf_free(&one);
		ql_buf_free(&all);
	}
	ql_tok_free(t);
}

static void test_special_and_bad_ids(void **state)
{
	const int32_t ids[] = {'a', 256, 'b'}, bad[] = {'a', 257};
	struct ql_buf b = {0};
	struct ql_err e = {0};
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	mini_add(&m, "<|im_end|>", QL_TOK_CONTROL);
	t = mini_load(&m);
	assert_int_equal(ql_tok_decode(t, ids, 3, true, &b, &e), QL_OK);
	assert_string_equal(b.data, "ab");
	assert_int_equal(ql_tok_decode(t, ids, 3, false, &b, &e), QL_OK);
	assert_string_equal(b.data, "aba<|im_end|>b");
	assert_int_equal(ql_tok_decode(t, bad, 2, false, &b, &e), QL_EINVAL);
	assert_non_null(strstr(e.message, "257"));
	assert_string_equal(b.data, "aba<|im_end|>b"); /* as it was */
	ql_buf_free(&b);
	ql_tok_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replacement),
		cmocka_unit_test(test_every_split),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_special_and_bad_ids),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
