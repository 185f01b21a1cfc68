/* test_tok_json.c - tokenizer.json: components, added tokens, refusals by name, limits. */
#include "core/base/limits.h"
#include "tests/unit/text/test_tok_util.h"

/* A byte-level file over the letters a b c, space, newline; %s: the members besides model. */
#define BYTE_LEVEL "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"}"
#define MODEL                                                                                                      \
	"\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"\xc4\xa0\":3,\"\xc4\x8a\":4,\"ab\":5,\"\xc4\xa0" \
	"a\":6,\"<s>\":7,\"\xc3\x83\":10,\"\xc2\xa9\":11},\"merges\":[\"a b\",[\"\xc4\xa0\",\"a\"]]}"
#define SPM_DECODER                                                                                                \
	"\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xe2\x96\x81\"},\"content\":\" " \
	"\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}"

static void test_byte_level(void **state)
{
	struct ql_tok *t = json_load("{\"version\":\"1.0\"," BYTE_LEVEL "," MODEL "}");
	size_t len;

	(void)state;
	assert_int_equal(ql_tok_vocab_size(t), 12);
	assert_ids(t, "ab a\nc", 0, 5, 6, 4, 2);
	assert_ids(t, "x\xc3\xa9", 0, 10, 11); /* x has no token and there is no unk: dropped, as in HF */
	assert_memory_equal(ql_tok_piece(t, 6, &len), " a", 2);
	assert_int_equal(ql_tok_piece(t, 8, &len) != NULL && len == 0, 1); /* a gap in the ids */
	ql_tok_free(t);
}

static void test_added_tokens(void **state)
{
	struct ql_tok *t = json_load(
		"{\"added_tokens\":["
		"{\"id\":7,\"content\":\"<s>\",\"special\":true,\"normalized\":false},"
		"{\"id\":12,\"content\":\"<l>\",\"special\":true,\"normalized\":false,\"lstrip\":true},"
		"{\"id\":13,\"content\":\"<r>\",\"special\":true,\"normalized\":false,\"rstrip\":true},"
		"{\"id\":14,\"content\":\"cab\",\"special\":false,\"normalized\":false,\"single_word\":true}]," BYTE_LEVEL "," MODEL "}");
	struct ql_ids ids = {0};

	(void)state;
	assert_ids(t, "a<s>b", QL_TOK_PARSE_SPECIAL, 0, 7, 1);
	assert_ids(t, "a <l> b", QL_TOK_PARSE_SPECIAL, 0, 12, 3, 1);
	assert_ids(t, "a <r> \n b", QL_TOK_PARSE_SPECIAL, 0, 3, 13, 1);
	assert_ids(t, "cab", 0, 14);
	assert_ids(t, "cab cab", 0, 14, 3, 14);
	assert_ids(t, "acab", 0, 0, 2, 5);
	assert_ids(t, "caba", 0, 2, 5, 0);
	assert_int_equal(ql_tok_encode(t, "a \n<l>", 6, QL_TOK_PARSE_SPECIAL, NULL, 0, &ids, NULL), QL_OK);
	assert_int_equal(ids.begin[1], 1); /* the swallowed space belongs to the token */
	ql_ids_free(&ids);
	ql_tok_free(t);
}

static void test_nfc_offsets(void **state)
{
	/* é as one character is c3 a9; text: a, e + U+0301, b */
	struct ql_tok *t = json_load("{\"normalizer\":{\"type\":\"NFC\"}," BYTE_LEVEL "," MODEL "}");
	struct ql_ids ids = {0};
	const uint32_t want[] = {0, 1, 1, 4};

	(void)state;
	assert_ids(t, "ae\xcc\x81" "b", 0, 0, 10, 11, 1);
	assert_int_equal(ql_tok_encode(t, "ae\xcc\x81" "b", 5, 0, NULL, 0, &ids, NULL), QL_OK);
	assert_memory_equal(ids.begin, want, sizeof want);
	ql_ids_free(&ids);
	ql_tok_free(t);
}

#define SPM_MODEL                                                                                                  \
	"\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,\"vocab\":{\"<unk>\":0,\"<s>\":1," \
	"\"<0xC3>\":2,\"<0xA9>\":3,\"\xe2\x96\x81\":4,\"a\":5,\"\xe2\x96\x81" "a\":6,\"b\":7},\"merges\":[\"\xe2\x96\x81 a\"]}"

static void test_sentencepiece_style(void **state)
{
	struct ql_tok *t = json_load(
		"{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
		"\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"},"
		"{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xe2\x96\x81\"}]},\"pre_tokenizer\":null,"
		"\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"
		"{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\",\"ids\":[1],\"tokens\":[\"<s>\"]}}},"
		SPM_DECODER "," SPM_MODEL "}");
	struct ql_ids ids = {0};
	struct ql_buf b = {0};
	const uint32_t begin[] = {0, 1, 1, 2, 4};

	(void)state;
	assert_int_equal(ql_tok_bos(t), 1);
	assert_ids(t, "a b\xc3\xa9", QL_TOK_ADD_SPECIAL, 1, 6, 4, 7, 2, 3);
	assert_ids(t, "xyz", 0, 4, 0);     /* unknown characters fused */
	assert_ids(t, "<s>a", QL_TOK_PARSE_SPECIAL, 1, 6);
	assert_int_equal(ql_tok_encode(t, "a a\xc3\xa9", 5, 0, NULL, 0, &ids, NULL), QL_OK);
	assert_int_equal(ids.n, 4);
	assert_int_equal(ids.begin[0], begin[0]);
	assert_int_equal(ids.begin[1], 1);
	assert_int_equal(ids.begin[2], 3);
	assert_int_equal(ids.begin[3], 4);
	assert_int_equal(ql_tok_decode(t, ids.ids, ids.n, true, &b, NULL), QL_OK);
	assert_string_equal(b.data, "a a\xc3\xa9");
	ql_buf_reset(&b);
	assert_int_equal(ql_tok_decode(t, (const int32_t[]){5, 2, 2, 3, 2}, 5, true, &b, NULL), QL_OK);
	assert_string_equal(b.data, "a\xef\xbf\xbd\xc3\xa9\xef\xbf\xbd");
	ql_buf_free(&b);
	ql_ids_free(&ids);
	ql_tok_free(t);
}

static void test_metaspace(void **state)
{
	static const char *const schemes[] = {"always", "first", "never"};
	char json[2048];

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct ql_tok *t;

		snprintf(json, sizeof json,
			 "{\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"normalized\":false}],"
			 "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"%s\",\"split\":%s},"
			 "\"decoder\":{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"%s\"}," SPM_MODEL "}",
			 schemes[i], i == 0 ? "true" : "false", schemes[i]);
		t = json_load(json);
		if (i == 0)
			assert_ids(t, "a a<s>a", QL_TOK_PARSE_SPECIAL, 6, 6, 1, 6);
		else if (i == 1)
			assert_ids(t, "a a<s>a", QL_TOK_PARSE_SPECIAL, 6, 6, 1, 5);
		else
			assert_ids(t, "a a<s>a", QL_TOK_PARSE_SPECIAL, 5, 6, 1, 5);
		assert_ids(t, " a", 0, 6); /* not doubled */
		ql_tok_free(t);
	}
}

static void test_config(void **state)
{
	const char *json = "{\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"special\":true}]," BYTE_LEVEL "," MODEL "}";
	const char *config = "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"<s>\"},\"pad_token\":null,\"add_bos_token\":true,"
			     "\"model_max_length\":1000000000000000019884624838656}";
	const char *wrong = "{\"bos_token\":\"<nope>\"}";
	struct ql_tok *t = NULL;
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(ql_tok_from_json(&t, json, strlen(json), config, strlen(config), &e), QL_OK);
	assert_int_equal(ql_tok_bos(t), 7);
	assert_int_equal(ql_tok_eos(t), 7);
	assert_int_equal(ql_tok_pad(t), -1);
	assert_true(ql_tok_add_bos(t));
	assert_false(ql_tok_add_eos(t));
	assert_ids(t, "a", QL_TOK_ADD_SPECIAL, 7, 0);
	ql_tok_free(t);
	assert_int_equal(ql_tok_from_json(&t, json, strlen(json), wrong, strlen(wrong), &e), QL_EFORMAT);
	assert_string_equal(e.param, "bos_token");
	/* no list of its own: the table of the config */
	json = "{" BYTE_LEVEL "," MODEL "}";
	config = "{\"added_tokens_decoder\":{\"7\":{\"content\":\"<s>\",\"special\":true}}}";
	assert_int_equal(ql_tok_from_json(&t, json, strlen(json), config, strlen(config), &e), QL_OK);
	assert_ids(t, "a<s>", QL_TOK_PARSE_SPECIAL, 0, 7);
	ql_tok_free(t);
}

static void test_refused(void **state)
{
	static const struct {
		const char *json;
		int code;
		const char *words;
	} rows[] = {
		{"", QL_EFORMAT, "tokenizer.json"},
		{"[]", QL_EFORMAT, "model"},
		{"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", QL_EUNSUPPORTED, "WordPiece"},
		{"{\"model\":{\"type\":\"BPE\"}}", QL_EFORMAT, "vocab"},
		{"{\"model\":{\"vocab\":{}}}", QL_ELIMIT, "0 tokens"},
		{"{\"model\":{\"vocab\":{\"a\":-1}}}", QL_EFORMAT, "'a'"},
		{"{\"model\":{\"vocab\":{\"a\":1048576}}}", QL_EFORMAT, "'a'"},
		{"{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}," BYTE_LEVEL "}", QL_EFORMAT, "same id"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"dropout\":0.1}}", QL_EUNSUPPORTED, "dropout"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"end_of_word_suffix\":\"</w>\"}}", QL_EUNSUPPORTED, "end_of_word_suffix"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"unk_token\":\"u\"}}", QL_EFORMAT, "'u'"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"fuse_unk\":1}}", QL_EINVAL, "fuse_unk"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}," BYTE_LEVEL "}", QL_EFORMAT, "merge 0"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}," BYTE_LEVEL "}", QL_EFORMAT, "merged token"},
		{"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a z\"]}," BYTE_LEVEL "}", QL_EFORMAT, "'z'"},
		{"{\"normalizer\":{\"type\":\"BertNormalizer\"}," BYTE_LEVEL "," MODEL "}", QL_EUNSUPPORTED, "BertNormalizer"},
		{"{\"normalizer\":{\"type\":\"Sequence\"}," BYTE_LEVEL "," MODEL "}", QL_EFORMAT, "normalizers"},
		{"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"\"},\"content\":\"x\"}," BYTE_LEVEL "," MODEL "}", QL_EFORMAT,
		 "pattern"},
		{"{\"pre_tokenizer\":{\"type\":\"Whitespace\"}," MODEL "}", QL_EUNSUPPORTED, "Whitespace"},
		{"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}," MODEL "}", QL_EFORMAT,
		 "pattern"},
		{"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Sideways\"}," MODEL "}", QL_EUNSUPPORTED,
		 "Sideways"},
		{"{\"post_processor\":{\"type\":\"BertProcessing\"}," BYTE_LEVEL "," MODEL "}", QL_EUNSUPPORTED, "BertProcessing"},
		{"{\"decoder\":{\"type\":\"WordPiece\"}," MODEL "}", QL_EUNSUPPORTED, "WordPiece"},
		{"{" MODEL "}", QL_EUNSUPPORTED, "decoder"},
		{"{\"decoder\":{\"type\":\"ByteLevel\"}," MODEL "}", QL_EUNSUPPORTED, "ByteLevel"},
		{"{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\"}]," BYTE_LEVEL "," MODEL "}", QL_EFORMAT, "<s>"},
		{"{\"added_tokens\":[{\"id\":3,\"content\":\"new\"}]," BYTE_LEVEL "," MODEL "}", QL_EFORMAT, "new"},
		{"{\"added_tokens\":[{\"content\":\"new\"}]," BYTE_LEVEL "," MODEL "}", QL_EFORMAT, "added token 0"},
		{"{\"added_tokens\":7," BYTE_LEVEL "," MODEL "}", QL_EFORMAT, "added_tokens"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		struct ql_tok *t = NULL;
		struct ql_err e = {0};
		int rc = ql_tok_from_json(&t, rows[i].json, strlen(rows[i].json), NULL, 0, &e);

		assert_null(t);
		if (rc != rows[i].code || strstr(e.message, rows[i].words) == NULL)
			fail_msg("row %zu: %s: %s", i, ql_code_text(rc), e.message);
		/* without a place for the message the code is the same */
		assert_int_equal(ql_tok_from_json(&t, rows[i].json, strlen(rows[i].json), NULL, 0, NULL), rc);
	}
}

static void test_cut_short(void **state)
{
	const char *json = "{\"added_tokens\":[{\"id\":7,\"content\":\"<s>\",\"special\":true}]," BYTE_LEVEL "," MODEL "}";
	struct ql_tok *t = NULL;

	(void)state;
	for (size_t n = 0; n < strlen(json); n++) {
		char *copy = malloc(n + 1); /* so that a sanitizer sees any step beyond */

		memcpy(copy, json, n);
		assert_int_equal(ql_tok_from_json(&t, copy, n, NULL, 0, NULL), QL_EFORMAT);
		free(copy);
	}
}

static void test_size_limit(void **state)
{
	struct ql_tok *t = NULL;
	struct ql_err e = {0};
	char *text = malloc(QL_TOKENIZER_JSON_MAX + 1);

	(void)state;
	assert_non_null(text);
	memset(text, ' ', QL_TOKENIZER_JSON_MAX + 1);
	assert_int_equal(ql_tok_from_json(&t, text, QL_TOKENIZER_JSON_MAX + 1, NULL, 0, &e), QL_ELIMIT);
	assert_int_equal(ql_tok_from_json(&t, text, QL_TOKENIZER_JSON_MAX, NULL, 0, &e), QL_EFORMAT);
	free(text);
}

/* A file with n copies of `item` in the list that `head` opens. */
static int load_repeated(const char *head, const char *item, size_t n, const char *tail)
{
	struct ql_buf b = {0};
	struct ql_tok *t = NULL;
	int rc;

	ql_buf_adds(&b, head);
	for (size_t i = 0; i < n; i++) {
		if (i > 0)
			ql_buf_addc(&b, ',');
		ql_buf_addf(&b, item, i);
	}
	ql_buf_adds(&b, tail);
	rc = ql_tok_from_json(&t, b.data, b.len, NULL, 0, NULL);
	ql_tok_free(t);
	ql_buf_free(&b);
	return rc;
}

#define PREFIXES "{\"post_processor\":{\"type\":\"TemplateProcessing\",\"special_tokens\":{\"<s>\":{\"ids\":[7]}},\"single\":["
#define PREFIX "{\"SpecialToken\":{\"id\":\"<s>\"}}"

static void test_limits(void **state)
{
	const char *norm = "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[", *norm_end = "]}," BYTE_LEVEL "," MODEL "}";
	const char *pre = "{\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[";
	const char *pre_end = ",{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}," MODEL "}";
	const char *digits = "{\"type\":\"Digits\"}", *nested = "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":\"NFC\"}]}";
	const char *added = "{\"id\":1%1$05zu,\"content\":\"<%1$zu>\"}", *added_end = "]," BYTE_LEVEL "," MODEL "}";
	char longest[QL_TOK_ADDED_BYTES_MAX + 64];

	(void)state;
	assert_int_equal(load_repeated(norm, "{\"type\":\"NFC\"}", QL_TOK_STEPS_MAX, norm_end), QL_OK);
	assert_int_equal(load_repeated(norm, "{\"type\":\"NFC\"}", QL_TOK_STEPS_MAX + 1, norm_end), QL_ELIMIT);
	assert_int_equal(load_repeated(norm, nested, QL_TOK_STEPS_MAX / 2, norm_end), QL_OK);
	assert_int_equal(load_repeated(norm, nested, QL_TOK_STEPS_MAX / 2 + 1, norm_end), QL_ELIMIT);
	assert_int_equal(load_repeated(pre, digits, QL_TOK_STEPS_MAX - 1, pre_end), QL_OK);
	assert_int_equal(load_repeated(pre, digits, QL_TOK_STEPS_MAX, pre_end), QL_ELIMIT);
	assert_int_equal(load_repeated(PREFIXES, PREFIX, 8, ",{\"Sequence\":{\"id\":\"A\"}}]}," BYTE_LEVEL "," MODEL "}"), QL_OK);
	assert_int_equal(load_repeated(PREFIXES, PREFIX, 9, ",{\"Sequence\":{\"id\":\"A\"}}]}," BYTE_LEVEL "," MODEL "}"), QL_ELIMIT);
	assert_int_equal(load_repeated("{\"added_tokens\":[", added, QL_TOK_ADDED_MAX, added_end), QL_OK);
	assert_int_equal(load_repeated("{\"added_tokens\":[", added, QL_TOK_ADDED_MAX + 1, added_end), QL_ELIMIT);
	for (size_t over = 0; over < 2; over++) {
		const char *begin = "{\"id\":100,\"content\":\"";

		memset(longest, 'x', sizeof longest);
		memcpy(longest, begin, strlen(begin));
		memcpy(longest + strlen(begin) + QL_TOK_ADDED_BYTES_MAX + over, "\"}", 3);
		assert_int_equal(load_repeated("{\"added_tokens\":[", longest, 1, added_end), over ? QL_ELIMIT : QL_OK);
	}
}

/* A row of marks in the worst order: canonical ordering is quadratic, the tokenizer must not be. */
static void test_many_marks(void **state)
{
	struct ql_tok *t = json_load("{\"normalizer\":{\"type\":\"NFC\"}," BYTE_LEVEL "," MODEL "}");
	const size_t n = 1 << 20;
	struct ql_ids ids = {0};
	char *text = malloc(n);

	(void)state;
	for (size_t i = 0; i < n; i += 4)
		memcpy(text + i, i < n / 2 ? "\xcc\x80\xcc\x81" : "\xcc\xa3\xcc\xa4", 4); /* classes 230, then 220 */
	assert_int_equal(ql_tok_encode(t, text, n, 0, NULL, 0, &ids, NULL), QL_OK);
	ql_ids_free(&ids);
	ql_tok_free(t);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_byte_level),	    cmocka_unit_test(test_added_tokens), cmocka_unit_test(test_nfc_offsets),
		cmocka_unit_test(test_sentencepiece_style), cmocka_unit_test(test_metaspace),	 cmocka_unit_test(test_config),
		cmocka_unit_test(test_refused),		    cmocka_unit_test(test_cut_short),	 cmocka_unit_test(test_size_limit),
		cmocka_unit_test(test_limits),		    cmocka_unit_test(test_many_marks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
