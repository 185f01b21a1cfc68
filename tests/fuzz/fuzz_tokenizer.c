/* fuzz_tokenizer.c - any bytes as a tokenizer and a text for it: a tokenizer.json up to the first NUL (or a GGUF file, if it
 * begins like one), then the text, which is encoded with and without special tokens and decoded again. */
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"
#include "core/formats/gguf.h"
#include "core/text/detok.h"
#include "core/text/tok.h"
#include "tests/fuzz/replay.h"

#define CHECK(cond)                                                                                                \
	do {                                                                                                       \
		if (!(cond))                                                                                       \
			__builtin_trap();                                                                          \
	} while (0)

static void check_ids(const struct ql_tok *t, const struct ql_ids *ids, size_t len)
{
	struct ql_buf whole = {0}, streamed = {0};
	struct ql_detok d;
	size_t n;

	ql_detok_init(&d, t, false);
	for (size_t i = 0; i < ids->n; i++) {
		CHECK(ids->ids[i] >= 0 && ids->ids[i] < ql_tok_vocab_size(t));
		CHECK(ids->begin[i] <= len && (i == 0 || ids->begin[i] >= ids->begin[i - 1]));
		CHECK(ql_tok_piece(t, ids->ids[i], &n) != NULL);
		CHECK(ql_detok_push(&d, ids->ids[i], &streamed, NULL) == QL_OK);
	}
	CHECK(ql_detok_finish(&d, &streamed) == QL_OK);
	CHECK(ql_tok_decode(t, ids->ids, ids->n, false, &whole, NULL) == QL_OK);
	CHECK(ql_utf8_valid(whole.data, whole.len, NULL));
	CHECK(whole.len == streamed.len && (whole.len == 0 || memcmp(whole.data, streamed.data, whole.len) == 0));
	ql_buf_free(&whole);
	ql_buf_free(&streamed);
}

static void use(const struct ql_tok *t, const char *text, size_t len)
{
	static const unsigned flags[] = {0, QL_TOK_PARSE_SPECIAL, QL_TOK_PARSE_SPECIAL | QL_TOK_ADD_SPECIAL};
	struct ql_span plain = {len / 3, len / 2};

	for (size_t i = 0; i < 4; i++) {
		struct ql_ids ids = {0};
		struct ql_err e = {0};
		int rc = ql_tok_encode(t, text, len, flags[i % 3], i == 3 ? &plain : NULL, i == 3, &ids, &e);

		if (rc == QL_OK)
			check_ids(t, &ids, len);
		else
			CHECK(e.message[0] != '\0' && ids.n == 0);
		if (rc == QL_OK && flags[i % 3] == 0)
			for (size_t k = 0; k < ids.n; k++) /* plain text never becomes a special token, but for unk */
				CHECK(!ql_tok_is_special(t, ids.ids[k]) || ids.ids[k] == ql_tok_unk(t));
		ql_ids_free(&ids);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char always[] = "Don't  stop <s> 12345\r\n\n \xe6\x97\xa5\xe6\x9c\xac e\xcc\x81 <|im_end|>aaaaaaaa\xe2\x96\x81" "b";
	const char *json = (const char *)data;
	size_t len = strnlen(json, size);
	struct ql_tok *t = NULL;
	struct ql_gguf *g = NULL;
	struct ql_err e = {0};
	int rc;

	if (size >= 4 && memcmp(data, "GGUF", 4) == 0) {
		len = size;
		rc = ql_gguf_open_mem(&g, data, size, &e);
		if (rc == QL_OK)
			rc = ql_tok_from_gguf(&t, g, &e);
		ql_gguf_close(g);
	} else {
		rc = ql_tok_from_json(&t, json, len, NULL, 0, &e);
	}
	CHECK((rc == QL_OK) == (t != NULL));
	if (t == NULL) {
		CHECK(e.message[0] != '\0');
		return 0;
	}
	use(t, always, sizeof always - 1);
	if (len < size)
		use(t, json + len + 1, size - len - 1);
	ql_tok_free(t);
	return 0;
}
