/* test_tok_smol.c - the real SmolLM2 tokenizer, when QL_SMOL names its GGUF file (skipped otherwise).  Ids were taken from
 * llama.cpp; tests/interop/test_tok_llamacpp.py compares thousands of strings. */
#include "core/formats/gguf.h"
#include "core/text/detok.h"
#include "tests/unit/text/test_tok_util.h"

static int load(void **state)
{
	const char *path = getenv("QL_SMOL");
	struct ql_gguf *g = NULL;
	struct ql_tok *t = NULL;
	struct ql_err e = {0};

	if (path == NULL || *path == '\0') {
		print_message("QL_SMOL is not set: the tests of the real model are skipped\n");
		return 0;
	}
	if (ql_gguf_open(&g, path, &e) != QL_OK || ql_tok_from_gguf(&t, g, &e) != QL_OK)
		print_error("%s: %s\n", path, e.message);
	ql_gguf_close(g);
	*state = t;
	return t == NULL ? -1 : 0;
}

static int unload(void **state)
{
	ql_tok_free(*state);
	return 0;
}

static void test_facts(void **state)
{
	const struct ql_tok *t = *state;
	size_t len;

	if (t == NULL)
		skip();
	assert_int_equal(ql_tok_vocab_size(t), 49152);
	assert_int_equal(ql_tok_bos(t), 1);
	assert_int_equal(ql_tok_eos(t), 2);
	assert_int_equal(ql_tok_eot(t), 2);
	assert_int_equal(ql_tok_pad(t), 2);
	assert_int_equal(ql_tok_unk(t), 0);
	assert_false(ql_tok_add_bos(t) || ql_tok_add_eos(t));
	assert_true(ql_tok_is_stop(t, 2) && ql_tok_is_stop(t, 0));
	assert_false(ql_tok_is_stop(t, 1) || ql_tok_is_stop(t, 19556));
	assert_memory_equal(ql_tok_piece(t, 905, &len), " world", 6);
	assert_int_equal(len, 6);
	assert_int_equal(ql_tok_id_of(t, "<|im_end|>", 10), 2);
}

static void test_ids(void **state)
{
	const struct ql_tok *t = *state;

	if (t == NULL)
		skip();
	assert_ids(t, "Hello world 123 \n\n  foo", 0, 19556, 905, 216, 33, 34, 35, 216, 8866, 29856);
	assert_ids(t, "don't <|im_start|> x", QL_TOK_PARSE_SPECIAL, 12420, 982, 216, 1, 1792);
}

static void test_round_trip(void **state)
{
	static const char *const texts[] = {"The capital of France is Paris.", "  leading\n\n\ttabs  ", "日本語 テスト 123,456.78",
					    "def f(x):\n    return x**2\n", "🤷🏻‍♀️ Ünïcödé — ok", "<|im_end|>"};
	const struct ql_tok *t = *state;

	if (t == NULL)
		skip();
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct ql_ids ids = {0};
		struct ql_buf b = {0};
		struct ql_detok d;
		size_t at = 0;

		assert_int_equal(ql_tok_encode(t, texts[i], strlen(texts[i]), 0, NULL, 0, &ids, NULL), QL_OK);
		ql_detok_init(&d, t, false);
		for (size_t k = 0; k < ids.n; k++) {
			size_t len;

			assert_int_equal(ids.begin[k], at);
			(void)ql_tok_piece(t, ids.ids[k], &len);
			at += len;
			assert_int_equal(ql_detok_push(&d, ids.ids[k], &b, NULL), QL_OK);
		}
		assert_int_equal(ql_detok_finish(&d, &b), QL_OK);
		assert_string_equal(b.data, texts[i]);
		assert_int_equal(at, strlen(texts[i]));
		ql_ids_free(&ids);
		ql_buf_free(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_facts), cmocka_unit_test(test_ids), cmocka_unit_test(test_round_trip)};

	return cmocka_run_group_tests(tests, load, unload);
}
