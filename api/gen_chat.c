/* gen_chat.c - the objects of chat completions (api.md §8), and the outer object both families share. */
#include "api/gen.h"

/* [{token, logprob, bytes}] of the engine's `top`. */
static json_t *tops(const json_t *top)
{
	json_t *list = json_array(), *v;
	size_t i;

	json_array_foreach((json_t *)(uintptr_t)top, i, v) {
		json_t *o = json_pack("{s:O?,s:O?,s:O?}", "token", json_object_get(v, "token"), "logprob",
				      json_object_get(v, "logprob"), "bytes", json_object_get(v, "bytes"));

		if (json_array_append_new(list, o) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

/* {content: [...], refusal: null} from the engine's entries; JSON null when there are none to give. */
static json_t *chat_logprobs(const struct ql_gen *g, const json_t *entries)
{
	json_t *list, *v;
	size_t i;

	if (!g->logprobs)
		return json_null();
	list = json_array();
	json_array_foreach((json_t *)(uintptr_t)entries, i, v) {
		json_t *o = json_pack("{s:O,s:O,s:O?,s:o}", "token", json_object_get(v, "token"), "logprob",
				      json_object_get(v, "logprob"), "bytes", json_object_get(v, "bytes"), "top_logprobs",
				      tops(json_object_get(v, "top")));

		if (json_array_append_new(list, o) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return json_pack("{s:o,s:n}", "content", list, "refusal");
}

static json_t *chunk(const struct ql_gen *g, size_t index, json_t *delta, json_t *logprobs, const char *reason)
{
	json_t *choice = json_pack("{s:I,s:o,s:o,s:s?}", "index", (json_int_t)index, "delta", delta, "logprobs", logprobs,
				   "finish_reason", reason);

	return choice == NULL ? NULL : ql_gen_object(g, "chat.completion.chunk", json_pack("[o]", choice), NULL, true);
}

json_t *ql_chat_role_chunk(const struct ql_gen *g, size_t index)
{
	return chunk(g, index, json_pack("{s:s,s:n}", "role", "assistant", "content"), json_null(), NULL);
}

json_t *ql_chat_delta_chunk(const struct ql_gen *g, size_t index, const json_t *frame)
{
	return chunk(g, index, json_pack("{s:O}", "content", json_object_get(frame, "text")),
		     chat_logprobs(g, json_object_get(frame, "logprobs")), NULL);
}

json_t *ql_chat_finish_chunk(const struct ql_gen *g, size_t index, const char *reason)
{
	return chunk(g, index, json_object(), json_null(), reason);
}

json_t *ql_chat_choice(const struct ql_gen *g, size_t from, size_t index)
{
	const struct ql_choice *c = &g->choices[from];

	return json_pack("{s:I,s:{s:s,s:o,s:n},s:o,s:s}", "index", (json_int_t)index, "message", "role", "assistant",
			 "content", json_stringn(c->text.len == 0 ? "" : c->text.data, c->text.len), "refusal", "logprobs",
			 chat_logprobs(g, c->logprobs), "finish_reason", c->reason);
}

json_t *ql_gen_usage(const json_t *done)
{
	json_int_t prompt = json_integer_value(json_object_get(done, "prompt_tokens"));
	json_int_t completion = json_integer_value(json_object_get(done, "completion_tokens"));

	return json_pack("{s:I,s:I,s:I,s:{s:I},s:{s:i}}", "prompt_tokens", prompt, "completion_tokens", completion,
			 "total_tokens", prompt + completion, "prompt_tokens_details", "cached_tokens",
			 json_integer_value(json_object_get(done, "cached_tokens")), "completion_tokens_details",
			 "reasoning_tokens", 0);
}

json_t *ql_gen_object(const struct ql_gen *g, const char *object, json_t *choices, json_t *usage, bool is_chunk)
{
	json_t *v = json_pack("{s:s,s:s,s:I,s:s,s:o,s:s}", "id", g->id, "object", object, "created", (json_int_t)g->created,
			      "model", g->model, "choices", choices, "system_fingerprint", g->fingerprint);

	if (v == NULL) {
		json_decref(usage);
		return NULL;
	}
	if (usage != NULL)
		(void)json_object_set_new(v, "usage", usage);
	else if (is_chunk && g->include_usage)
		(void)json_object_set_new(v, "usage", json_null());
	return v;
}
