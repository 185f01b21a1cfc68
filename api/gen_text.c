/* gen_text.c - the objects of text completions (api.md §9), with the old form of logprobs:
 *   {tokens: [string], token_logprobs: [number], top_logprobs: [{string: number}], text_offset: [int]}, no null inside.
 * text_offset counts code points of the answer's text before the token. */
#include <string.h>

#include "api/gen.h"

/* Code points that begin in a token: bytes that are not UTF-8 continuation bytes. */
static size_t code_points(const json_t *entry)
{
	const json_t *bytes = json_object_get(entry, "bytes"), *v;
	const char *s = json_string_value(json_object_get(entry, "token"));
	size_t i, n = 0;

	if (json_is_array(bytes)) {
		json_array_foreach((json_t *)(uintptr_t)bytes, i, v)
			n += (json_integer_value(v) & 0xc0) != 0x80;
		return n;
	}
	for (; s != NULL && *s != '\0'; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static json_t *top_of(const json_t *entry, bool first_of_prompt)
{
	const json_t *top = json_object_get(entry, "top"), *v;
	json_t *o = json_object();
	size_t i;

	/* The first token of an echoed prompt has nothing before it: {}. */
	if (first_of_prompt && json_array_size(top) == 0 && json_number_value(json_object_get(entry, "logprob")) == 0.0)
		return o;
	json_array_foreach((json_t *)(uintptr_t)top, i, v)
		(void)json_object_set(o, json_string_value(json_object_get(v, "token")), json_object_get(v, "logprob"));
	(void)json_object_set(o, json_string_value(json_object_get(entry, "token")), json_object_get(entry, "logprob"));
	return o;
}

static json_t *text_logprobs(struct ql_gen *g, struct ql_choice *c, const json_t *entries)
{
	json_t *tokens, *values, *tops, *offsets, *v;
	size_t i;
	int bad = 0;

	if (!g->logprobs)
		return json_null();
	tokens = json_array();
	values = json_array();
	tops = json_array();
	offsets = json_array();
	json_array_foreach((json_t *)(uintptr_t)entries, i, v) {
		bad |= json_array_append(tokens, json_object_get(v, "token"));
		bad |= json_array_append(values, json_object_get(v, "logprob"));
		bad |= json_array_append_new(tops, top_of(v, g->echo && c->text_offset == 0));
		bad |= json_array_append_new(offsets, json_integer((json_int_t)c->text_offset));
		c->text_offset += code_points(v);
	}
	v = json_pack("{s:o,s:o,s:o,s:o}", "tokens", tokens, "token_logprobs", values, "top_logprobs", tops, "text_offset",
		      offsets);
	if (bad) {
		json_decref(v);
		return NULL;
	}
	return v;
}

static json_t *chunk(const struct ql_gen *g, size_t index, json_t *text, json_t *logprobs, const char *reason)
{
	json_t *choice = json_pack("{s:o,s:I,s:o,s:s?}", "text", text, "index", (json_int_t)index, "logprobs", logprobs,
				   "finish_reason", reason);

	return choice == NULL ? NULL : ql_gen_object(g, "text_completion", json_pack("[o]", choice), NULL, true);
}

json_t *ql_text_delta_chunk(struct ql_gen *g, size_t index, const json_t *frame)
{
	json_t *logprobs = text_logprobs(g, &g->choices[index], json_object_get(frame, "logprobs"));

	return chunk(g, index, json_incref(json_object_get(frame, "text")), logprobs, NULL);
}

json_t *ql_text_finish_chunk(const struct ql_gen *g, size_t index, const char *reason)
{
	return chunk(g, index, json_string(""), json_null(), reason);
}

json_t *ql_text_choice(struct ql_gen *g, size_t from, size_t index)
{
	struct ql_choice *c = &g->choices[from];

	return json_pack("{s:o,s:I,s:o,s:s}", "text", json_stringn(c->text.len == 0 ? "" : c->text.data, c->text.len),
			 "index", (json_int_t)index, "logprobs", text_logprobs(g, c, c->logprobs), "finish_reason", c->reason);
}
