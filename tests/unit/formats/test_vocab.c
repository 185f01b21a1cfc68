/* test_vocab.c - tokenizer.json → GGUF tokenizer keys: a small byte-level tokenizer in full, and what is refused. */
#include "core/export/vocab_hf.h"
#include "tests/unit/formats/tiny.h"

#define MODEL(extra) "\"model\":{\"type\":\"BPE\"" extra ",\"vocab\":{\"a\":0,\"b\":1,\"Ġ\":2,\"ab\":3},\"merges\":[[\"a\",\"b\"]]}"
#define LEVEL "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true}"
#define LEVEL_OFF "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}"
#define DIGITS "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true}," LEVEL "]}"
#define SPLIT(re, off) "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"" re "\"}," \
	"\"behavior\":\"Isolated\",\"invert\":false}," off "]}"
#define QWEN2 "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*" \
	"|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"
#define ADDED ",\"added_tokens\":[{\"id\":5,\"content\":\"<|im_end|>\",\"special\":false},{\"id\":6,\"content\":\"<think>\"," \
	"\"special\":false},{\"id\":7,\"content\":\"<s>\",\"special\":true}]"
#define POST ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}," \
	"{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}]}"

static const char config[] = "{\"bos_token\":{\"content\":\"<s>\"},\"eos_token\":\"<|im_end|>\",\"pad_token\":null,"
			     "\"model_max_length\":1000000000000000019884624838656}";

/* Writes the keys for a vocabulary of `size`, then reads the file back into *g (closed by the caller). */
static int convert(const struct scratch *s, const char *tokenizer, uint32_t size, struct ql_gguf **g, struct ql_err *e)
{
	struct ql_arch a = tiny_arch();
	struct ql_gguf_writer *w;
	int rc;

	*g = NULL;
	*e = (struct ql_err){0};
	a.vocab_size = size;
	assert_int_equal(ql_gguf_write_new(&w, e), QL_OK);
	rc = ql_vocab_hf_write(w, &a, tokenizer, strlen(tokenizer), config, strlen(config), e);
	if (rc != QL_OK) {
		ql_gguf_write_abort(w);
		return rc;
	}
	assert_int_equal(ql_gguf_write_begin(w, s->fd, "v.gguf", e), QL_OK);
	assert_int_equal(ql_gguf_write_commit(w, e), QL_OK);
	assert_int_equal(ql_gguf_open_at(g, s->fd, "v.gguf", e), QL_OK);
	return QL_OK;
}

static void whole(void **state)
{
	static const char text[] = "{\"normalizer\":null,\"pre_tokenizer\":" DIGITS POST ADDED "," MODEL("") "}";
	static const char *const tokens[] = {"a", "b", "Ġ", "ab", "[PAD4]", "<|im_end|>", "<think>", "<s>", "[PAD8]"};
	static const int32_t kinds[] = {1, 1, 1, 1, 5, 3, 4, 3, 5};
	const struct { const char *key; uint32_t value; } ids[] = {{"tokenizer.ggml.bos_token_id", 7},
		{"tokenizer.ggml.eos_token_id", 5}, {"tokenizer.ggml.eot_token_id", 5}};
	struct ql_gguf_str str, *strs;
	struct ql_gguf *g;
	struct scratch s;
	struct ql_err e;
	uint32_t id = 0;
	int32_t *k;
	bool b = false;
	size_t n;

	(void)state;
	scratch_open(&s);
	if (convert(&s, text, 9, &g, &e) != QL_OK)
		fail_msg("%s", e.message);
	assert_int_equal(ql_gguf_get_str(g, "tokenizer.ggml.pre", true, &str, &e), QL_OK);
	assert_memory_equal(str.s, "smollm", str.len);
	assert_int_equal(ql_gguf_get_strs(g, "tokenizer.ggml.tokens", true, &strs, &n, &e), QL_OK);
	assert_int_equal(n, 9);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(strs[i].len, strlen(tokens[i]));
		assert_memory_equal(strs[i].s, tokens[i], strs[i].len);
	}
	free(strs);
	assert_int_equal(ql_gguf_get_i32s(g, "tokenizer.ggml.token_type", true, &k, &n, &e), QL_OK);
	assert_memory_equal(k, kinds, sizeof kinds);
	free(k);
	assert_int_equal(ql_gguf_get_strs(g, "tokenizer.ggml.merges", true, &strs, &n, &e), QL_OK);
	assert_int_equal(n, 1);
	assert_memory_equal(strs[0].s, "a b", 3);
	free(strs);
	for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
		assert_int_equal(ql_gguf_get_u32(g, ids[i].key, true, &id, &e), QL_OK);
		assert_int_equal(id, ids[i].value);
	}
	assert_null(ql_gguf_kv_find(g, "tokenizer.ggml.padding_token_id"));
	assert_int_equal(ql_gguf_get_bool(g, "tokenizer.ggml.add_bos_token", true, &b, &e), QL_OK);
	assert_true(b);
	assert_int_equal(ql_gguf_get_bool(g, "tokenizer.ggml.add_eos_token", true, &b, &e), QL_OK);
	assert_false(b);
	ql_gguf_close(g);
	scratch_close(&s);
}

static void shapes(void **state)
{
	static const struct { const char *text; uint32_t size; int code; const char *param; } cases[] = {
		{"{\"pre_tokenizer\":" LEVEL "," MODEL("") "}", 4, QL_OK, ""},
		{"{\"pre_tokenizer\":" SPLIT(QWEN2, LEVEL_OFF) ",\"normalizer\":{\"type\":\"NFC\"}," MODEL("") "}", 4, QL_OK, ""},
		{"{\"pre_tokenizer\":" SPLIT(QWEN2, LEVEL_OFF) "," MODEL(",\"ignore_merges\":true") "}", 4, QL_EUNSUPPORTED, "model"},
		{"{\"pre_tokenizer\":" SPLIT(QWEN2, LEVEL) "," MODEL("") "}", 4, QL_EUNSUPPORTED, "pre_tokenizer"},
		{"{\"pre_tokenizer\":" SPLIT("x+", LEVEL_OFF) "," MODEL("") "}", 4, QL_EUNSUPPORTED, "pre_tokenizer"},
		{"{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}," MODEL("") "}", 4, QL_EUNSUPPORTED,
		 "pre_tokenizer"},
		{"{\"pre_tokenizer\":null," MODEL("") "}", 4, QL_EUNSUPPORTED, "pre_tokenizer"},
		{"{\"pre_tokenizer\":" LEVEL "," MODEL(",\"byte_fallback\":true") "}", 4, QL_EUNSUPPORTED, "pre_tokenizer"},
		{"{\"pre_tokenizer\":" LEVEL ",\"model\":{\"type\":\"Unigram\"}}", 4, QL_EUNSUPPORTED, "model"},
		{"{\"pre_tokenizer\":" LEVEL ",\"normalizer\":{\"type\":\"Lowercase\"}," MODEL("") "}", 4, QL_EUNSUPPORTED, "normalizer"},
		{"{\"pre_tokenizer\":" LEVEL "," MODEL("") "}", 3, QL_EMISMATCH, "vocab"},
		{"{\"pre_tokenizer\":" LEVEL ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]," MODEL("") "}", 4, QL_EFORMAT, "vocab"},
		{"{\"pre_tokenizer\":" LEVEL ",\"added_tokens\":[{\"id\":5,\"content\":\"a\"}]," MODEL("") "}", 9, QL_EFORMAT, "vocab"},
		{"{\"pre_tokenizer\":" LEVEL ",\"added_tokens\":[{\"id\":0,\"content\":\"a\"}]," MODEL("") "}", 4, QL_OK, ""},
		{"{\"pre_tokenizer\":" LEVEL ",\"added_tokens\":[{\"id\":4,\"content\":\"x\",\"rstrip\":true}]," MODEL("") "}", 5,
		 QL_EUNSUPPORTED, "added_tokens"},
		{"{\"pre_tokenizer\":" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]}}", 1, QL_EFORMAT,
		 "merges"},
		{"{\"pre_tokenizer\":" LEVEL ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\"},\"merges\":[]}}", 1, QL_EMISMATCH,
		 "vocab"},
		{"{", 4, QL_EFORMAT, ""},
	};
	struct ql_gguf *g;
	struct scratch s;
	struct ql_err e;

	(void)state;
	scratch_open(&s);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		int rc = convert(&s, cases[i].text, cases[i].size, &g, &e);

		if (rc != cases[i].code || strcmp(e.param, cases[i].param) != 0)
			fail_msg("case %zu: code %d, param '%s': %s", i, rc, e.param, e.message);
		ql_gguf_close(g);
	}
	scratch_close(&s);
}

/* A tokenizer.json of SentencePiece's style: byte tokens, then `vocab`, whose first id is 259. */
static char *spm_text(const char *shape, const char *vocab, const char *merges)
{
	char *text = malloc(16384);
	int n = snprintf(text, 16384, "{%s,\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},{\"id\":1,\"content\":"
			 "\"<s>\",\"special\":true},{\"id\":2,\"content\":\"▁▁\",\"special\":false}],\"model\":{\"type\":\"BPE\","
			 "\"byte_fallback\":true,\"unk_token\":\"<unk>\",\"vocab\":{\"<unk>\":0,\"<s>\":1,\"▁▁\":2", shape);

	for (int i = 0; i < 256; i++)
		n += snprintf(text + n, 16384 - (size_t)n, ",\"<0x%02X>\":%d", (unsigned)i, 3 + i);
	(void)snprintf(text + n, 16384 - (size_t)n, "%s},\"merges\":[%s]}}", vocab, merges);
	return text;
}

#define BAR "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"▁\"}"
#define LLAMA "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"▁\"}," BAR "]},\"pre_tokenizer\":null"
#define GEMMA "\"normalizer\":" BAR ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\" \"},\"behavior\":\"MergedWithPrevious\"}"
#define META(scheme) "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"▁\",\"prepend_scheme\":\"" scheme \
	"\",\"split\":false}"
#define VOCAB ",\"▁\":259,\"a\":260,\"b\":261,\"ab\":262,\"▁ab\":263"
#define MERGES "[\"▁\",\"▁\"],\"a b\",[\"▁\",\"ab\"],[\"▁a\",\"b\"]"

static void sentencepiece(void **state)
{
	static const struct { const char *shape, *vocab, *merges; int code, prefix; } cases[] = {
		{LLAMA, VOCAB, MERGES, QL_OK, 1}, {GEMMA, VOCAB, MERGES, QL_OK, 0},
		{META("always"), VOCAB, MERGES, QL_OK, 1}, {META("never"), VOCAB, MERGES, QL_OK, 0},
		{META("first"), VOCAB, MERGES, QL_EUNSUPPORTED, 0},
		{"\"normalizer\":{\"type\":\"NFKC\"}", VOCAB, MERGES, QL_EUNSUPPORTED, 0},
		{LLAMA, VOCAB ",\"ba\":264", MERGES, QL_EUNSUPPORTED, 0}, /* no merge makes it, llama.cpp would */
		{LLAMA, VOCAB, MERGES ",[\"b\",\"b\"]", QL_EFORMAT, 0},
	};
	struct scratch s;

	(void)state;
	scratch_open(&s);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char *text = spm_text(cases[i].shape, cases[i].vocab, cases[i].merges);
		struct ql_gguf *g;
		struct ql_err e;
		float *scores;
		int32_t *kinds;
		bool prefix = false;
		size_t n;
		int rc = convert(&s, text, cases[i].code == QL_OK ? 265 : 266, &g, &e);

		if (rc != cases[i].code)
			fail_msg("case %zu: code %d: %s", i, rc, e.message);
		free(text);
		if (rc != QL_OK)
			continue;
		assert_int_equal(ql_gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", true, &prefix, &e), QL_OK);
		assert_int_equal(prefix, cases[i].prefix);
		assert_int_equal(ql_gguf_get_i32s(g, "tokenizer.ggml.token_type", true, &kinds, &n, &e), QL_OK);
		assert_true(kinds[0] == 2 && kinds[1] == 3 && kinds[2] == 1 && kinds[3] == 6 && kinds[258] == 6 && kinds[263] == 1 &&
			    kinds[264] == 5);
		free(kinds);
		assert_int_equal(ql_gguf_get_f32s(g, "tokenizer.ggml.scores", true, &scores, &n, &e), QL_OK);
		assert_true(scores[2] > scores[262] && scores[262] > scores[263]);
		free(scores);
		assert_null(ql_gguf_kv_find(g, "tokenizer.ggml.merges"));
		ql_gguf_close(g);
	}
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(whole), cmocka_unit_test(shapes), cmocka_unit_test(sentencepiece)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
