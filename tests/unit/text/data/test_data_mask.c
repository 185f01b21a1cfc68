/* test_data_mask.c - golden masks: which tokens are trained, for each kind of line and template. */
#include "tests/unit/text/data/data_util.h"

#define M(role, text) "{\"role\":\"" role "\",\"content\":\"" text "\"}"
#define S "<|im_start|>"
#define E "<|im_end|>"

static void chatml(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, CHATML, false);
	load_ok(&f, "{\"messages\":[" M("user", "hi") "," M("assistant", "yo") "]}\n");
	shows(&f, 0, S "user\nhi" E "\n" S "assistant\n[yo" E "]\n");
	load_ok(&f, "{\"messages\":[" M("system", "s") "," M("user", "a") "," M("assistant", "b") "," M("user", "c") "," M("assistant", "d") "]}\n");
	shows(&f, 0, S "system\ns" E "\n" S "user\na" E "\n" S "assistant\n[b" E "]\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
	load_ok(&f, "{\"messages\":[" M("user", "a") ",{\"role\":\"assistant\",\"content\":\"b\",\"weight\":0}," M("user", "c") ","
		    "{\"role\":\"assistant\",\"content\":\"d\",\"weight\":1}]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\nb" E "\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
	/* the last answer untrained */
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") ",{\"role\":\"assistant\",\"content\":\"d\",\"weight\":0}]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[b" E "]\n" S "user\nc" E "\n" S "assistant\nd" E "\n");
	/* messages after the last answer are left out */
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[b" E "]\n");
	assert_int_equal(f.rep.trailing_dropped, 1);
	/* what a user writes never becomes a special token, and the answer's text never ends the turn */
	load_ok(&f, "{\"messages\":[" M("user", "x<|im_end|>y") "," M("assistant", "<|im_end|>z") "]}\n");
	shows(&f, 0, S "user\nx<|im_end|>y" E "\n" S "assistant\n[<|im_end|>z" E "]\n");
	assert_int_equal(ql_dataset_get(f.d, 0).ids[6], 'x');
	assert_int_equal(ql_dataset_get(f.d, 0).ids[7], '<');
	assert_int_equal(ql_dataset_get(f.d, 0).n_targets, 12); /* ten bytes, z, the real end */
	/* an empty answer still trains its end token */
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[" E "]\n");
	f.o.completion_only_loss = false;
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "]}\n");
	shows(&f, 0, S "[user\na" E "\n" S "assistant\nb" E "\n]");
	teardown(&f);
}

static void rewriting(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, FORGETS, false);
	/* nothing to forget: all answers */
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") "," M("assistant", "d") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[b" E "]\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
	/* an earlier answer is changed: only the last one */
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "r#b") "," M("user", "c") "," M("assistant", "q#d") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\nb" E "\n" S "user\nc" E "\n" S "assistant\n[q#d" E "]\n");
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "r#b") "," M("user", "c") ",{\"role\":\"assistant\",\"content\":\"d\",\"weight\":0}]}\n",
		 "no trained answer can be located");
	teardown(&f);
	/* the generation prompt is not how answers begin */
	setup(&f, "{% for m in messages %}{{ m.role ~ ':' ~ m.content }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:<think>' }}{% endif %}", false);
	load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "]}\n", "its last answer cannot be located");
	teardown(&f);
}

static void generation(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, WITH_GENERATION, false);
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") "," M("assistant", "d") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[b" E "]\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
	load_ok(&f, "{\"messages\":[" M("user", "a") ",{\"role\":\"assistant\",\"content\":\"b\",\"weight\":0}," M("user", "c") "," M("assistant", "d") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\nb" E "\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
	teardown(&f);
	/* the block leaves the end of the turn out: trained all the same; but not a later one */
	setup(&f, "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
		  "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{{ gap ~ '<|im_end|>\n' }}{% endfor %}", false);
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "]}\n");
	shows(&f, 0, S "user\na" E "\n" S "assistant\n[b" E "]\n");
	load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "],\"chat_template_kwargs\":{\"gap\":\".\"}}\n");
	shows(&f, 0, S "user\na." E "\n" S "assistant\n[b]." E "\n");
	teardown(&f);
}

static void last_turn(void **state)
{
	static const char *const templates[] = {CHATML, WITH_GENERATION};
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		setup(&f, templates[i], false);
		f.o.train_on = QL_TRAIN_ON_LAST;
		load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") "," M("assistant", "d") "," M("user", "e") "]}\n");
		shows(&f, 0, S "user\na" E "\n" S "assistant\nb" E "\n" S "user\nc" E "\n" S "assistant\n[d" E "]\n");
		load_bad(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") ",{\"role\":\"assistant\",\"content\":\"d\",\"weight\":0}]}\n",
			 "the last assistant message has weight 0");
		load_ok(&f, "{\"text\":\"ab\"}\n");
		shows(&f, 0, "a[b<|eos|>]");
		teardown(&f);
	}
}

/* A token that reaches from the prompt into the answer is trained, as in TRL. */
static void straddling(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, "{% for m in messages %}{{ m.role + ': ' }}{{ m.content + '<|im_end|>' }}{% endfor %}"
		  "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}", false);
	load_ok(&f, "{\"prompt\":\"a \",\"completion\":\"bc\"}\n{\"prompt\":\"a \",\"completion\":\"c\"}\n{\"prompt\":\"a\",\"completion\":\" b\"}\n");
	shows(&f, 0, "a[ bc<|eos|>]");
	shows(&f, 1, "a [c<|eos|>]");
	shows(&f, 2, "a[ b<|eos|>]");
	load_ok(&f, "{\"messages\":[" M("user", "b") "," M("assistant", "bc") "]}\n");
	shows(&f, 0, "user: b" E "assistant:[ bc" E "]");
	teardown(&f);
	setup(&f, "{% for m in messages %}{{ m.role + ': ' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
		  "{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{% endfor %}", false);
	load_ok(&f, "{\"messages\":[" M("user", "b") "," M("assistant", "bc") "]}\n");
	shows(&f, 0, "user: b" E "assistant:[ bc" E "]");
	teardown(&f);
}

/* The ways of other families: headers with the end token inside the turn, [INST] with EOS, "model" for assistant. */
static void families(void **state)
{
	static const struct {
		const char *template, *want;
	} rows[] = {
		{"{{ bos_token }}{% for m in messages %}{{ '<|h|>' + m['role'] + '<|/h|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
		 "{% if add_generation_prompt %}{{ '<|h|>assistant<|/h|>\n\n' }}{% endif %}",
		 "<|im_start|><|h|>user<|/h|>\n\na<|eot_id|><|h|>assistant<|/h|>\n\n[b<|eot_id|>]<|h|>user<|/h|>\n\nc<|eot_id|>"
		 "<|h|>assistant<|/h|>\n\n[d<|eot_id|>]"},
		{"{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
		 "{{ ' ' + m.content + eos_token }}{% else %}{{ raise_exception('no') }}{% endif %}{% endfor %}",
		 "<|im_start|>[INST] a [/INST][ b<|eos|>][INST] c [/INST][ d<|eos|>]"},
		{"{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim + "
		 "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
		 "<|im_start|><start_of_turn>user\na<end_of_turn>\n<start_of_turn>model\n[b<end_of_turn>]\n<start_of_turn>user\nc<end_of_turn>\n"
		 "<start_of_turn>model\n[d<end_of_turn>]\n"},
		/* the role makes the token: a known role is trusted to */
		{"{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|im_end|>' }}{% endfor %}"
		 "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}",
		 "<|user|>a<|im_end|><|assistant|>[b<|im_end|>]<|user|>c<|im_end|><|assistant|>[d<|im_end|>]"},
		/* no end token at all: the whole answer */
		{"{% for m in messages %}{{ m.role ~ ': ' ~ m.content ~ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}",
		 "user: a\nassistant:[ b\n]user: c\nassistant:[ d\n]"},
	};
	json_t *trusted = json_pack("{s:s, s:s}", "bos_token", "<|im_start|>", "eos_token", "<|eos|>");
	struct fixture f;

	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		setup(&f, rows[i].template, true); /* the tokenizer adds a BOS to texts: not a second one here */
		f.o.trusted = trusted;
		load_ok(&f, "{\"messages\":[" M("user", "a") "," M("assistant", "b") "," M("user", "c") "," M("assistant", "d") "]}\n");
		shows(&f, 0, rows[i].want);
		assert_true(i == 4 || ql_dataset_get(f.d, 0).ids[0] == (i == 3 ? 261 : IM_START));
		teardown(&f);
	}
	json_decref(trusted);
}

static void texts(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, NULL, false);
	load_ok(&f, "{\"text\":\"abc\"}\n{\"text\":\"ab<|eos|>\"}\n");
	shows(&f, 0, "a[bc<|eos|>]");
	shows(&f, 1, "a[b<|eos|>]");
	load_ok(&f, "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n{\"prompt\":\"\",\"completion\":\"cd\"}\n");
	shows(&f, 0, "ab[cd<|eos|>]");
	shows(&f, 1, "c[d<|eos|>]");
	f.o.completion_only_loss = false;
	load_ok(&f, "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n");
	shows(&f, 0, "a[bcd<|eos|>]");
	teardown(&f);
	setup(&f, NULL, true);
	load_ok(&f, "{\"text\":\"abc\"}\n{\"text\":\"<|im_start|>abc\"}\n");
	shows(&f, 0, S "[abc<|eos|>]");
	shows(&f, 1, S "[abc<|eos|>]"); /* no second BOS */
	load_ok(&f, "{\"prompt\":\"ab\",\"completion\":\"cd\"}\n");
	shows(&f, 0, S "ab[cd<|eos|>]");
	teardown(&f);
}

static void truncation(void **state)
{
	struct fixture f;

	(void)state;
	setup(&f, CHATML, false);
	f.o.max_seq_length = 4;
	load_ok(&f, "{\"text\":\"abcdef\"}\n{\"text\":\"abc\"}\n{\"text\":\"abcd\"}\n");
	shows(&f, 0, "a[bcd]"); /* cut: no EOS */
	shows(&f, 1, "a[bc<|eos|>]");
	shows(&f, 2, "a[bcd]");
	assert_int_equal(f.rep.truncated, 2);
	assert_int_equal(f.rep.max_tokens, 4);
	/* nothing left to train: dropped */
	load_ok(&f, "{\"prompt\":\"abcd\",\"completion\":\"ef\"}\n{\"prompt\":\"abc\",\"completion\":\"ef\"}\n");
	assert_int_equal(f.rep.dropped, 1);
	assert_int_equal(ql_dataset_count(f.d), 1);
	assert_int_equal(ql_dataset_get(f.d, 0).line, 2);
	shows(&f, 0, "abc[e]");
	f.o.on_overlong = QL_OVERLONG_DROP;
	load_ok(&f, "{\"text\":\"abcdef\"}\n{\"text\":\"abc\"}\n");
	assert_int_equal(f.rep.dropped, 1);
	assert_int_equal(f.rep.examples, 1);
	f.o.on_overlong = QL_OVERLONG_ERROR;
	load_bad(&f, "{\"text\":\"abcdef\"}\n", "7 tokens, more than the 4");
	/* the cut lies inside the answer: what is left of it is trained */
	f.o.on_overlong = QL_OVERLONG_TRUNCATE;
	f.o.max_seq_length = 22;
	load_ok(&f, "{\"messages\":[" M("user", "hi") "," M("assistant", "longer") "]}\n");
	shows(&f, 0, S "user\nhi" E "\n" S "assistant\n[l]");
	f.o.max_seq_length = 21;
	assert_int_equal(load_bytes(&f, "{\"text\":\"a\"}", 12), QL_OK);
	assert_int_equal(load_bytes(&f, "{\"messages\":[" M("user", "hi") "," M("assistant", "longer") "]}\n",
				    strlen("{\"messages\":[" M("user", "hi") "," M("assistant", "longer") "]}\n")), QL_EFORMAT);
	assert_string_equal(f.e.param, "invalid_n_examples");
	teardown(&f);
}

/* The ids of a served prompt begin the ids trained on. */
static void train_is_serve(void **state)
{
	json_t *messages = json_pack("[{s:s, s:s}, {s:s, s:s}]", "role", "system", "content", "s", "role", "user", "content", "<|im_end|>q");
	struct ql_ids ids = {0}, more = {0};
	struct ql_buf text = {0};
	struct ql_example x;
	struct fixture f;

	(void)state;
	setup(&f, CHATML, true);
	load_ok(&f, "{\"messages\":[" M("system", "s") "," M("user", "<|im_end|>q") "," M("assistant", "answer") "]}\n");
	x = ql_dataset_get(f.d, 0);
	assert_int_equal(ql_chat_encode(f.tok, f.tmpl, NULL, messages, NULL, NULL, true, false, 0, &ids, &text, &f.e), QL_OK);
	assert_true(ids.n < x.n);
	assert_memory_equal(ids.ids, x.ids, ids.n * sizeof(int32_t));
	assert_int_equal(x.target[ids.n - 1], 0);
	assert_int_equal(x.target[ids.n], 1);
	assert_string_equal(text.data, S "system\ns" E "\n" S "user\n<|im_end|>q" E "\n" S "assistant\n");
	/* an answer begun by the client is gone on with */
	(void)json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "assistant", "content", "ans"));
	ql_buf_reset(&text);
	assert_int_equal(ql_chat_encode(f.tok, f.tmpl, NULL, messages, NULL, NULL, false, true, 0, &more, &text, &f.e), QL_OK);
	assert_int_equal(more.n, ids.n + 3);
	assert_memory_equal(more.ids, x.ids, more.n * sizeof(int32_t));
	assert_string_equal(text.data + text.len - 13, "assistant\nans");
	json_decref(messages);
	ql_ids_free(&ids);
	ql_ids_free(&more);
	ql_buf_free(&text);
	teardown(&f);
}

int main(void)
{
	const struct CMUnitTest t[] = {cmocka_unit_test(chatml), cmocka_unit_test(rewriting), cmocka_unit_test(generation), cmocka_unit_test(last_turn), cmocka_unit_test(straddling), cmocka_unit_test(families),
				       cmocka_unit_test(texts), cmocka_unit_test(truncation), cmocka_unit_test(train_is_serve)};

	return cmocka_run_group_tests(t, NULL, NULL);
}
