/* test_tok_bpe.c - byte alphabet, merging against a naive reference, long pieces, SentencePiece scores. */
#include "core/base/limits.h"
#include "core/text/tok_priv.h"
#include "tests/unit/text/test_tok_util.h"

static void test_alphabet(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	assert_string_equal(m.bytes[' '], "\xc4\xa0"); /* U+0120 */
	assert_string_equal(m.bytes['\n'], "\xc4\x8a");
	assert_string_equal(m.bytes[0xad], "\xc5\x83"); /* U+0143, the last */
	t = mini_load(&m);
	for (int b = 0; b < 256; b++) {
		size_t len;
		const char *p = ql_tok_piece(t, b, &len);

		assert_int_equal(len, 1);
		assert_int_equal((uint8_t)p[0], b);
	}
	assert_null(ql_tok_piece(t, 256, &(size_t){0}));
	assert_null(ql_tok_piece(t, -1, &(size_t){0}));
	assert_int_equal(ql_tok_vocab_size(t), 256);
	assert_ids(t, "a\xc3\xa9", 0, 'a', 0xc3, 0xa9);
	assert_int_equal(ql_tok_id_of(t, "\n", 1), '\n');
	ql_tok_free(t);
}

static void test_ranks(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	mini_add(&m, "aa", QL_TOK_NORMAL);  /* 256 */
	mini_add(&m, "ab", QL_TOK_NORMAL);  /* 257 */
	mini_add(&m, "aab", QL_TOK_NORMAL); /* 258 */
	mini_add(&m, "\xc4\xa0"
		     "a", QL_TOK_NORMAL); /* 259, " a" */
	mini_merge(&m, "a a");
	mini_merge(&m, "a b");
	mini_merge(&m, "aa b");
	mini_merge(&m, "\xc4\xa0 a");
	t = mini_load(&m);
	assert_ids(t, "aaa", 0, 256, 'a');  /* leftmost first among equals */
	assert_ids(t, "aab", 0, 258);       /* a a before a b */
	assert_ids(t, "aaab", 0, 256, 257); /* aa, then a b, and aa ab has no merge */
	assert_ids(t, "b a", 0, 'b', 259);
	assert_int_equal(ql_tok_id_of(t, " a", 2), 259);
	ql_tok_free(t);
}

/* The definition, written down: look for the best pair again and again. */
static size_t naive(const struct ql_bpe *b, const char *text, size_t len, uint32_t *ids)
{
	size_t n = 0;

	for (size_t i = 0; i < len; i++)
		ids[n++] = (uint32_t)b->byte_id[(uint8_t)text[i]];
	for (;;) {
		uint32_t rank = UINT32_MAX, id = 0;
		size_t at = 0;

		for (size_t i = 0; i + 1 < n; i++) {
			const struct ql_bpe_merge *m = ql_bpe_merge_find(b, ids[i], ids[i + 1]);

			if (m != NULL && m->rank < rank) {
				rank = m->rank;
				id = m->id;
				at = i;
			}
		}
		if (rank == UINT32_MAX)
			return n;
		ids[at] = id;
		memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof *ids);
		n--;
	}
}

/* Random merges over three letters, random pieces of 1..400: the short and the heap way against the definition. */
static void test_against_naive(void **state)
{
	static char names[UTIL_MAX][160], merges[UTIL_MAX][400];
	uint64_t seed = 7;

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct ql_bpe_work w = {0};
		struct mini m;
		struct ql_tok *t;

		mini_init(&m, "gpt-2");
		for (int i = 0; i < 60; i++) {
			size_t k = m.spec.n_tokens;
			uint32_t pool = 3 + (uint32_t)(k - 256);
			uint32_t l = below(&seed, pool), r = below(&seed, pool);
			const char *a = l < 3 ? (const char *[]){"a", "b", "c"}[l] : names[l - 3];
			const char *b = r < 3 ? (const char *[]){"a", "b", "c"}[r] : names[r - 3];
			bool known = strlen(a) + strlen(b) > 40;

			for (size_t j = 0; !known && j < k - 256; j++)
				known = strlen(names[j]) == strlen(a) + strlen(b) && strncmp(names[j], a, strlen(a)) == 0 &&
					strcmp(names[j] + strlen(a), b) == 0;
			if (known)
				continue;
			snprintf(names[k - 256], sizeof names[0], "%s%s", a, b);
			snprintf(merges[m.spec.n_merges], sizeof merges[0], "%s %s", a, b);
			mini_add(&m, names[k - 256], QL_TOK_NORMAL);
			mini_merge(&m, merges[m.spec.n_merges]);
		}
		t = mini_load(&m);
		for (int i = 0; i < 200; i++) {
			char text[400];
			uint32_t want[400];
			size_t len = 1 + below(&seed, i % 2 == 0 ? 40 : 400), n, at = 0;
			struct ql_ids got = {0};

			for (size_t j = 0; j < len; j++)
				text[j] = (char)('a' + below(&seed, 3));
			n = naive(&t->bpe, text, len, want);
			assert_int_equal(ql_bpe_encode(&t->bpe, &w, text, len, NULL, 10, &got, NULL), QL_OK);
			assert_int_equal(got.n, n);
			for (size_t j = 0; j < n; j++) {
				size_t k;

				assert_int_equal(got.ids[j], want[j]);
				assert_int_equal(got.begin[j], 10 + at);
				(void)ql_tok_piece(t, got.ids[j], &k);
				at += k;
			}
			assert_int_equal(at, len);
			ql_ids_free(&got);
		}
		ql_bpe_work_free(&w);
		ql_tok_free(t);
	}
}

/* A megabyte of one letter is one piece: with a quadratic merge this test would take hours. */
static void test_long_piece(void **state)
{
	const size_t len = QL_MIB(1);
	char *text = malloc(len);
	struct ql_ids ids = {0};
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "llama-bpe");
	mini_add(&m, "aa", QL_TOK_NORMAL);
	mini_add(&m, "aaaa", QL_TOK_NORMAL);
	mini_merge(&m, "a a");
	mini_merge(&m, "aa aa");
	t = mini_load(&m);
	memset(text, 'a', len);
	assert_int_equal(ql_tok_encode(t, text, len, 0, NULL, 0, &ids, NULL), QL_OK);
	assert_int_equal(ids.n, len / 4);
	assert_int_equal(ids.begin[ids.n - 1], len - 4);
	ql_ids_free(&ids);
	ql_tok_free(t);
	free(text);
}

static void test_missing_byte(void **state)
{
	struct mini m;
	struct ql_tok *t;

	(void)state;
	mini_init(&m, "gpt-2");
	mini_add(&m, "!!", QL_TOK_NORMAL);
	mini_merge(&m, "! !");
	m.types[4] = QL_TOK_UNUSED; /* byte 4 has no token any more */
	t = mini_load(&m);
	assert_ids(t, "!\x04!", 0, '!', '!'); /* dropped, and nothing merges across it (llama.cpp) */
	assert_ids(t, "!!", 0, 256);
	ql_tok_free(t);
}

static void test_sentencepiece(void **state)
{
	const char *tokens[] = {"<unk>", "<s>", "</s>", "<0xE2>", "<0x82>", "<0xAC>", "\xe2\x96\x81", "a", "b", "ab",
				"\xe2\x96\x81" "a", "aba", "x\xc3\xb1", "x"};
	const int32_t types[] = {2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 1, 1};
	const float scores[] = {0, 0, 0, 0, 0, 0, -10, -11, -12, -1, -2, -0.5f, -3, -13};
	struct ql_tok_str list[14];
	struct ql_tok_spec s = {.model = QL_TOK_MODEL_SPM, .tokens = list, .n_tokens = 14, .types = types, .scores = scores,
				.bos = 1, .eos = 2, .eot = -1, .pad = -1, .unk = 0, .add_bos = true, .add_space_prefix = true};
	struct ql_tok *t = NULL;
	struct ql_buf b = {0};
	size_t len;

	(void)state;
	for (int i = 0; i < 14; i++)
		list[i] = tok_str(tokens[i]);
	assert_int_equal(ql_tok_from_spec(&t, &s, NULL), QL_OK);
	assert_ids(t, "ab", 0, 6, 9);                     /* ab (-1) beats space-a (-2) */
	assert_ids(t, "a", 0, 10);
	assert_ids(t, "aba", 0, 6, 11);                   /* ab + a */
	assert_ids(t, "a\xe2\x82\xac", 0, 10, 3, 4, 5);   /* an unknown character falls back to bytes */
	assert_ids(t, "ax\xc3\xb1", 0, 10, 12);           /* ñ is no token, but part of one */
	assert_ids(t, "a\xc3\xb1", 0, 10, 0, 0);          /* no byte tokens for it: unk for each byte */
	assert_ids(t, "a", QL_TOK_ADD_SPECIAL, 1, 10);
	assert_ids(t, "<s>a", QL_TOK_ADD_SPECIAL | QL_TOK_PARSE_SPECIAL, 1, 10); /* no double BOS */
	assert_memory_equal(ql_tok_piece(t, 10, &len), " a", 2);
	assert_int_equal(len, 2);
	assert_memory_equal(ql_tok_piece(t, 4, &len), "\x82", 1);
	assert_int_equal(ql_tok_id_of(t, " a", 2), 10);
	assert_int_equal(ql_tok_decode(t, (const int32_t[]){10, 3, 4, 5, 10}, 5, true, &b, NULL), QL_OK);
	assert_string_equal(b.data, "a\xe2\x82\xac a"); /* the dummy prefix is dropped once */
	ql_buf_free(&b);
	ql_tok_free(t);
}

static void expect_refused(const struct ql_tok_spec *s, int code, const char *words)
{
	struct ql_tok *t = NULL;
	struct ql_err e = {0};

	assert_int_equal(ql_tok_from_spec(&t, s, &e), code);
	assert_null(t);
	if (strstr(e.message, words) == NULL)
		fail_msg("'%s' does not mention '%s'", e.message, words);
}

static void test_refused(void **state)
{
	struct mini m;
	char *big = calloc(1, QL_TOK_TOKEN_MAX + 2);

	(void)state;
	mini_init(&m, "klingon");
	expect_refused(&m.spec, QL_EUNSUPPORTED, "klingon");
	mini_init(&m, "gpt-2");
	mini_merge(&m, "a b");
	expect_refused(&m.spec, QL_EFORMAT, "merge 0");
	mini_init(&m, "gpt-2");
	mini_merge(&m, "ab");
	expect_refused(&m.spec, QL_EFORMAT, "no space");
	mini_init(&m, "gpt-2");
	m.spec.eos = 256;
	expect_refused(&m.spec, QL_EFORMAT, "eos_token_id");
	m.spec.eos = -1;
	m.spec.add_bos = true;
	expect_refused(&m.spec, QL_EFORMAT, "BOS");
	mini_init(&m, "gpt-2");
	m.types[3] = 9;
	expect_refused(&m.spec, QL_EFORMAT, "token 3");
	mini_init(&m, "gpt-2");
	mini_add(&m, "\xff", QL_TOK_NORMAL);
	expect_refused(&m.spec, QL_EFORMAT, "UTF-8");
	mini_init(&m, "gpt-2");
	memset(big, 'x', QL_TOK_TOKEN_MAX + 1);
	mini_add(&m, big, QL_TOK_NORMAL);
	expect_refused(&m.spec, QL_ELIMIT, "token 256");
	big[QL_TOK_TOKEN_MAX] = '\0'; /* at the limit */
	m.tokens[256].len--;
	ql_tok_free(mini_load(&m));
	m.spec.n_tokens = 0;
	expect_refused(&m.spec, QL_ELIMIT, "0 tokens");
	m.spec.model = QL_TOK_MODEL_SPM;
	m.spec.n_tokens = 256;
	expect_refused(&m.spec, QL_EFORMAT, "scores");
	free(big);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_alphabet),      cmocka_unit_test(test_ranks),	   cmocka_unit_test(test_against_naive),
		cmocka_unit_test(test_long_piece),    cmocka_unit_test(test_missing_byte), cmocka_unit_test(test_sentencepiece),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
