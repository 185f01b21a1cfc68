/* fuzz_jsonl.c - any bytes as a training file: each line is read, rendered, tokenised and masked. */
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"
#include "core/text/data/data.h"
#include "core/text/tok_spec.h"
#include "tests/fuzz/replay.h"

#define CHECK(cond)                                                                                                \
	do {                                                                                                       \
		if (!(cond))                                                                                       \
			__builtin_trap();                                                                          \
	} while (0)

static const char chatml[] =
	"{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content }}{% for c in m.tool_calls or [] %}"
	"{{ c.function|tojson }}{% endfor %}{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/* Bytes, and ChatML's two tokens. */
static struct ql_tok *tokenizer(void)
{
	static char bytes[256][3];
	static struct ql_tok_str tokens[258];
	static int32_t types[258];
	struct ql_tok_spec s = {.model = QL_TOK_MODEL_GPT2, .pre = "gpt-2", .tokens = tokens, .n_tokens = 258, .types = types,
				.bos = -1, .eos = 257, .eot = 257, .pad = -1, .unk = -1};
	struct ql_tok *t = NULL;
	int next = 0;

	for (int b = 0; b < 256; b++) {
		int cp = (b >= '!' && b <= '~') || (b >= 0xa1 && b <= 0xac) || b >= 0xae ? b : 0x100 + next++;

		bytes[b][0] = (char)(cp < 0x80 ? cp : 0xc0 | cp >> 6);
		bytes[b][1] = (char)(cp < 0x80 ? 0 : 0x80 | (cp & 0x3f));
		tokens[b] = (struct ql_tok_str){bytes[b], cp < 0x80 ? 1 : 2};
		types[b] = QL_TOK_NORMAL;
	}
	tokens[256] = (struct ql_tok_str){"<|im_start|>", 12};
	tokens[257] = (struct ql_tok_str){"<|im_end|>", 10};
	types[256] = types[257] = QL_TOK_CONTROL;
	CHECK(ql_tok_from_spec(&t, &s, NULL) == QL_OK);
	return t;
}

static void check_built(const struct built *b, const struct ql_dataset_opts *o)
{
	uint32_t n = 0;

	if (b->dropped)
		return;
	CHECK(b->ids.n >= 1 && b->ids.n <= o->max_seq_length && b->target[0] == 0);
	for (size_t i = 0; i < b->ids.n; i++)
		n += b->target[i];
	CHECK(n == b->n_targets && n >= 1);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct ql_dataset_opts o;
	enum data_kind kind = DATA_UNKNOWN;
	struct lines l = {.fd = -1};
	struct ql_tmpl *t = NULL;

	if (o.tok == NULL) {
		CHECK(ql_tmpl_compile(&t, chatml, sizeof chatml - 1, NULL) == QL_OK);
		o = (struct ql_dataset_opts){.tok = tokenizer(), .tmpl = t, .max_seq_length = 64, .completion_only_loss = true};
	}
	for (size_t from = 0; from < size;) {
		const uint8_t *nl = memchr(data + from, '\n', size - from);
		size_t to = nl == NULL ? size : (size_t)(nl - data);
		struct built b = {0};
		struct ql_err e = {0};
		bool blank;
		int rc;

		ql_buf_reset(&l.line);
		CHECK(ql_buf_add(&l.line, data + from, to - from) == QL_OK);
		l.number++;
		o.alpaca_template = (l.number & 1) == 0;
		rc = data_line(&o, &l, &kind, &b, &blank, &e);
		CHECK(rc != QL_EINTERNAL && (rc == QL_OK || e.message[0] != '\0'));
		if (rc == QL_OK && !blank)
			check_built(&b, &o);
		built_free(&b);
		from = to + 1;
	}
	ql_buf_free(&l.line);
	return 0;
}
