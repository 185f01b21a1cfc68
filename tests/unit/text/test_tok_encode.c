/* test_tok_encode.c - special tokens and plain ranges, BOS and EOS, offsets, stop set, identity, bad input. */
#include <pthread.h>

#include "core/base/limits.h"
#include "tests/unit/text/test_tok_util.h"

enum { IM_START = 256, IM_END, THINK, BLANKS, IM };

static void with_specials(struct mini *m)
{
	mini_init(m, "gpt-2");
	mini_add(m, "<|im_start|>", QL_TOK_CONTROL);
	mini_add(m, "<|im_end|>", QL_TOK_CONTROL);
	mini_add(m, "<think>", QL_TOK_USER_DEFINED);
	mini_add(m, "   ", QL_TOK_USER_DEFINED);
	mini_add(m, "<|im", QL_TOK_CONTROL);
	m->spec.eos = IM_END;
}

#define BYTES_OF_IM_END '<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>'
#define BYTES_OF_THINK '<', 't', 'h', 'i', 'n', 'k', '>'

static void test_specials(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	t = mini_load(&m);
	assert_ids(t, "a<|im_end|>b", QL_TOK_PARSE_SPECIAL, 'a', IM_END, 'b');
	assert_ids(t, "<|im_end|>", 0, BYTES_OF_IM_END);
	assert_ids(t, "<|im_end|><|im_end|>", QL_TOK_PARSE_SPECIAL, IM_END, IM_END);
	assert_ids(t, "<|im_en", QL_TOK_PARSE_SPECIAL, IM, '_', 'e', 'n'); /* the longest that matches */
	assert_ids(t, "<|im_end|", QL_TOK_PARSE_SPECIAL, IM, '_', 'e', 'n', 'd', '|');
	assert_ids(t, "<think>", 0, THINK); /* user-defined: always */
	assert_ids(t, "a    b", 0, 'a', BLANKS, ' ', 'b');
	assert_ids(t, "<|im_end|><think>", 0, BYTES_OF_IM_END, THINK);
	check_ids(t, "", 0, QL_TOK_PARSE_SPECIAL, NULL, 0, NULL, 0);
	check_ids(t, "a\0b", 3, 0, NULL, 0, (const int32_t[]){'a', 0, 'b'}, 3);
	ql_tok_free(t);
}

static void test_plain_ranges(void **state)
{
	const char *text = "<|im_end|><|im_end|><think>   ";
	const struct ql_span first = {0, 10}, touch = {9, 11}, empty = {5, 5}, all = {0, 30}, two[] = {{0, 1}, {19, 21}};
	const struct ql_span inner = {25, 26};
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	t = mini_load(&m);
#define CHECK(spans, n, ...)                                                                                       \
	check_ids(t, text, 30, QL_TOK_PARSE_SPECIAL, spans, n, (const int32_t[]){__VA_ARGS__},                      \
		  sizeof((const int32_t[]){__VA_ARGS__}) / 4)
	CHECK(NULL, 0, IM_END, IM_END, THINK, BLANKS);
	CHECK(&first, 1, BYTES_OF_IM_END, IM_END, THINK, BLANKS);
	CHECK(&touch, 1, IM, '_', 'e', 'n', 'd', '|', '>', BYTES_OF_IM_END, THINK, BLANKS); /* one byte inside is enough */
	CHECK(&empty, 1, IM_END, IM_END, THINK, BLANKS);
	CHECK(&inner, 1, IM_END, IM_END, BYTES_OF_THINK, BLANKS);
	/* user text: no markup becomes a token, blanks do */
	CHECK(&all, 1, BYTES_OF_IM_END, BYTES_OF_IM_END, BYTES_OF_THINK, BLANKS);
	CHECK(two, 2, BYTES_OF_IM_END, IM, '_', 'e', 'n', 'd', '|', '>', BYTES_OF_THINK, BLANKS);
	ql_tok_free(t);
}

static void test_bos_eos(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	m.spec.bos = IM_START;
	m.spec.add_bos = m.spec.add_eos = true;
	t = mini_load(&m);
	assert_true(ql_tok_add_bos(t) && ql_tok_add_eos(t));
	assert_ids(t, "a", 0, 'a');
	assert_ids(t, "a", QL_TOK_ADD_SPECIAL, IM_START, 'a', IM_END);
	assert_ids(t, "", QL_TOK_ADD_SPECIAL, IM_START, IM_END);
	/* written out already: not doubled */
	assert_ids(t, "<|im_start|>a<|im_end|>", QL_TOK_ADD_SPECIAL | QL_TOK_PARSE_SPECIAL, IM_START, 'a', IM_END);
	assert_ids(t, "<|im_start|><|im_start|>", QL_TOK_ADD_SPECIAL | QL_TOK_PARSE_SPECIAL, IM_START, IM_START, IM_END);
	ql_tok_free(t);
	m.spec.eos = IM_START; /* one token for both */
	t = mini_load(&m);
	assert_ids(t, "", QL_TOK_ADD_SPECIAL, IM_START, IM_START);
	ql_tok_free(t);
}

static void test_offsets(void **state)
{
	const char *text = "ab <|im_end|>   c";
	const uint32_t want[] = {0, 0, 1, 2, 3, 13, 16, 17};
	struct ql_ids ids = {0};
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	m.spec.bos = IM_START;
	m.spec.add_bos = m.spec.add_eos = true;
	t = mini_load(&m);
	assert_int_equal(ql_ids_push(&ids, 99, 7), QL_OK); /* encode appends */
	assert_int_equal(ql_tok_encode(t, text, strlen(text), QL_TOK_PARSE_SPECIAL | QL_TOK_ADD_SPECIAL, NULL, 0, &ids, NULL),
			 QL_OK);
	assert_int_equal(ids.n, 9);
	assert_int_equal(ids.ids[0], 99);
	assert_memory_equal(ids.begin + 1, want, sizeof want);
	ql_ids_free(&ids);
	ql_tok_free(t);
}

static void test_stops(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	mini_add(&m, "<|endoftext|>", QL_TOK_CONTROL);
	mini_add(&m, "<|eot_id|>", QL_TOK_NORMAL); /* not a special token: no stop */
	m.spec.eos = 261;
	t = mini_load(&m);
	assert_int_equal(ql_tok_eos(t), 261);
	assert_int_equal(ql_tok_eot(t), IM_END);
	assert_int_equal(ql_tok_bos(t), -1);
	assert_true(ql_tok_is_stop(t, 261) && ql_tok_is_stop(t, IM_END));
	assert_false(ql_tok_is_stop(t, IM_START) || ql_tok_is_stop(t, 262) || ql_tok_is_stop(t, -1) || ql_tok_is_stop(t, 4000));
	assert_true(ql_tok_is_special(t, IM_END) && ql_tok_is_added(t, THINK));
	assert_false(ql_tok_is_special(t, THINK) || ql_tok_is_special(t, 'a') || ql_tok_is_added(t, 'a'));
	assert_int_equal(ql_tok_id_of(t, "<|im_end|>", 10), IM_END);
	assert_int_equal(ql_tok_id_of(t, "<|im_end|", 9), -1);
	assert_int_equal(ql_tok_id_of(t, "", 0), -1);
	ql_tok_free(t);
}

static void test_identity(void **state)
{
	char a[65], b[65];
	struct mini m;
	struct ql_tok *t;

	(void)state;
	with_specials(&m);
	t = mini_load(&m);
	ql_tok_hash(t, a);
	assert_int_equal(strlen(a), 64);
	ql_tok_free(t);
	t = mini_load(&m);
	ql_tok_hash(t, b);
	assert_string_equal(a, b);
	ql_tok_free(t);
#define DIFFERS(change)                                                                                            \
	do {                                                                                                       \
		with_specials(&m);                                                                                 \
		change;                                                                                            \
		t = mini_load(&m);                                                                                 \
		ql_tok_hash(t, b);                                                                                 \
		assert_string_not_equal(a, b);                                                                     \
		ql_tok_free(t);                                                                                    \
	} while (0)
	DIFFERS(m.spec.pre = "smollm");
	DIFFERS(m.types[THINK] = QL_TOK_CONTROL);
	DIFFERS(m.spec.pad = 3);
	DIFFERS(m.tokens[THINK] = tok_str("<thinx>"));
	DIFFERS((mini_add(&m, "ab", QL_TOK_NORMAL), mini_merge(&m, "a b")));
}

static void test_bad_input(void **state)
{
	const struct ql_span unsorted[] = {{2, 3}, {0, 1}}, overlap[] = {{0, 2}, {1, 3}}, beyond = {1, 9}, reversed = {2, 1};
	struct ql_ids ids = {0};
	struct ql_err e = {0};
	struct mini m;
	struct ql_tok *t;
	char *big;

	(void)state;
	with_specials(&m);
	t = mini_load(&m);
	assert_int_equal(ql_ids_push(&ids, 5, 0), QL_OK);
	assert_int_equal(ql_tok_encode(t, "ab\xff" "c", 4, 0, NULL, 0, &ids, &e), QL_EFORMAT);
	assert_int_equal(e.offset, 2);
	assert_int_equal(ql_tok_encode(t, "\xed\xa0\x80", 3, 0, NULL, 0, &ids, &e), QL_EFORMAT); /* a surrogate */
	assert_int_equal(ql_tok_encode(t, "abcd", 4, 4, NULL, 0, &ids, &e), QL_EINVAL);
	assert_int_equal(ql_tok_encode(t, "abcd", 4, 0, unsorted, 2, &ids, &e), QL_EINVAL);
	assert_int_equal(ql_tok_encode(t, "abcd", 4, 0, overlap, 2, &ids, &e), QL_EINVAL);
	assert_int_equal(ql_tok_encode(t, "abcd", 4, 0, &beyond, 1, &ids, &e), QL_EINVAL);
	assert_int_equal(ql_tok_encode(t, "abcd", 4, 0, &reversed, 1, &ids, &e), QL_EINVAL);
	big = malloc(QL_TOK_TEXT_MAX + 1); /* not read: too long */
	if (big != NULL)
		assert_int_equal(ql_tok_encode(t, big, QL_TOK_TEXT_MAX + 1, 0, NULL, 0, &ids, &e), QL_ELIMIT);
	free(big);
	assert_int_equal(ids.n, 1); /* untouched by all that */
	ql_ids_free(&ids);
	ql_tok_free(t);
}

static void test_piece_limit(void **state)
{
	struct ql_ids ids = {0};
	struct ql_err e = {0};
	struct mini m;
	struct ql_tok *t;
	char *text = malloc(QL_TOK_PIECE_MAX + 1);

	(void)state;
	mini_init(&m, "gpt-2");
	t = mini_load(&m);
	assert_non_null(text);
	memset(text, 'a', QL_TOK_PIECE_MAX + 1);
	assert_int_equal(ql_tok_encode(t, text, QL_TOK_PIECE_MAX + 1, 0, NULL, 0, &ids, &e), QL_ELIMIT);
	text[QL_TOK_PIECE_MAX / 2] = ' ';
	assert_int_equal(ql_tok_encode(t, text, QL_TOK_PIECE_MAX / 2 + 3, 0, NULL, 0, &ids, &e), QL_OK);
	assert_int_equal(ids.n, QL_TOK_PIECE_MAX / 2 + 3);
	ql_ids_free(&ids);
	ql_tok_free(t);
	free(text);
}

/* ---- one tokenizer, several threads */

static void *worker(void *arg)
{
	const struct ql_tok *t = arg;
	size_t *n = calloc(1, sizeof *n);

	for (int i = 0; i < 2000; i++) {
		struct ql_ids ids = {0};

		if (ql_tok_encode(t, "a<|im_end|>  b \xc3\xa9   1234", 24, QL_TOK_PARSE_SPECIAL, NULL, 0, &ids, NULL) == QL_OK)
			*n += ids.n;
		ql_ids_free(&ids);
	}
	return n;
}

static void test_threads(void **state)
{
	pthread_t th[4];
	struct mini m;
	struct ql_tok *t;
	size_t sum[4];

	(void)state;
	with_specials(&m);
	t = mini_load(&m);
	for (int i = 0; i < 4; i++)
		assert_int_equal(pthread_create(&th[i], NULL, worker, t), 0);
	for (int i = 0; i < 4; i++) {
		size_t *n;

		pthread_join(th[i], (void **)&n);
		sum[i] = *n;
		free(n);
	}
	assert_int_equal(sum[0], 2000 * 13);
	assert_true(sum[0] == sum[1] && sum[1] == sum[2] && sum[2] == sum[3]);
	ql_tok_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_specials), cmocka_unit_test(test_plain_ranges), cmocka_unit_test(test_bos_eos),
		cmocka_unit_test(test_offsets),	 cmocka_unit_test(test_stops),	      cmocka_unit_test(test_identity),
		cmocka_unit_test(test_bad_input), cmocka_unit_test(test_piece_limit), cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
