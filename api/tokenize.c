/* tokenize.c - /tokenize, /detokenize, /apply-template (api.md §10), in vLLM's and llama.cpp's forms.  The engine's request
 * thread does the work: tokenizers and templates are never parsed here. */
#include <stdlib.h>
#include <string.h>

#include "api/ask.h"
#include "api/fields.h"
#include "api/handlers.h"
#include "api/messages.h"
#include "core/base/limits.h"
#include "daemon/models.h"

enum form { FORM_VLLM, FORM_LLAMA, FORM_DETOKENIZE, FORM_TEMPLATE, WITH_PIECES = 16 /* or-ed */ };

/* A piece is a string, or a list of bytes that are not UTF-8 alone; strings only for vLLM's token_strs. */
static json_t *piece_text(const json_t *piece)
{
	const json_t *v;
	char bytes[QL_NAME_MAX];
	size_t i, n = 0;

	if (json_is_string(piece))
		return json_incref((json_t *)(uintptr_t)piece);
	json_array_foreach((json_t *)(uintptr_t)piece, i, v)
		if (n + 1 < sizeof bytes)
			bytes[n++] = (char)json_integer_value(v);
	bytes[n] = '\0';
	return ql_bad_text(bytes);
}

static json_t *vllm_answer(bool pieces, const json_t *result)
{
	json_t *tokens = json_object_get(result, "tokens"), *strs = NULL, *v;
	size_t i;

	if (pieces) {
		strs = json_array();
		json_array_foreach(json_object_get(result, "pieces"), i, v)
			(void)json_array_append_new(strs, piece_text(v));
	}
	return json_pack("{s:I,s:O?,s:O?,s:o?}", "count", (json_int_t)json_array_size(tokens), "max_model_len",
			 json_object_get(result, "max_model_len"), "tokens", tokens, "token_strs", strs);
}

static json_t *llama_answer(bool with_pieces, const json_t *result)
{
	json_t *tokens = json_object_get(result, "tokens"), *pieces = json_object_get(result, "pieces"), *list, *v;
	size_t i;

	if (!with_pieces)
		return json_pack("{s:O?}", "tokens", tokens);
	list = json_array();
	json_array_foreach(tokens, i, v)
		(void)json_array_append_new(list, json_pack("{s:O,s:O?}", "id", v, "piece", json_array_get(pieces, i)));
	return json_pack("{s:o}", "tokens", list);
}

static void answer(struct ql_req *r, int form, const json_t *result)
{
	json_t *text = json_object_get(result, "text");
	bool pieces = (form & WITH_PIECES) != 0;

	switch (form & ~WITH_PIECES) {
	case FORM_VLLM:
		ql_reply_json(r, 200, vllm_answer(pieces, result));
		break;
	case FORM_LLAMA:
		ql_reply_json(r, 200, llama_answer(pieces, result));
		break;
	case FORM_DETOKENIZE:
		ql_reply_json(r, 200, json_pack("{s:O,s:O}", "prompt", text, "content", text));
		break;
	default:
		ql_reply_json(r, 200, json_pack("{s:O}", "prompt", text));
		break;
	}
}

/* The adapter whose template counts; the base when no model is named. */
static int put_adapter(struct ql_req *r, const struct ql_fstr *model, json_t *frame, struct ql_fault *f)
{
	struct ql_model_ref m;
	int rc;

	if (model->v == NULL)
		return json_object_set_new(frame, "adapter", json_null()) == 0 ? QL_OK : ql_bad_internal(f);
	rc = ql_model_resolve(r->ctl, &r->who, model->v, &m, f);
	if (rc == QL_OK && json_object_set_new(frame, "adapter", ql_model_adapter(&m)) != 0)
		rc = ql_bad_internal(f);
	return rc;
}

struct request {
	struct ql_fstr model, prompt, content;
	struct ql_fbool add_special_tokens, token_strs, add_special, parse_special, with_pieces;
	const json_t *tokens, *messages;
};

#define AT(m) .offset = offsetof(struct request, m)
static const struct ql_field fields[] = {
	{.name = "model", .type = QL_FT_STR, .imin = 1, .imax = QL_MODEL_NAME_SIZE - 1, AT(model)},
	{.name = "prompt", .type = QL_FT_STR, .imin = 0, .imax = QL_JSON_BODY_MAX, AT(prompt)},
	{.name = "content", .type = QL_FT_STR, .imin = 0, .imax = QL_JSON_BODY_MAX, AT(content)},
	{.name = "messages", .type = QL_FT_ANY, AT(messages)},
	{.name = "add_special_tokens", .type = QL_FT_BOOL, AT(add_special_tokens)},
	{.name = "return_token_strs", .type = QL_FT_BOOL, AT(token_strs)},
	{.name = "add_special", .type = QL_FT_BOOL, AT(add_special)},
	{.name = "parse_special", .type = QL_FT_BOOL, AT(parse_special)},
	{.name = "with_pieces", .type = QL_FT_BOOL, AT(with_pieces)},
	{.name = "tokens", .type = QL_FT_ARR, .imin = 0, .imax = QL_CONTEXT_MAX, AT(tokens)},
};

static int read_request(struct ql_req *r, struct request *q, struct ql_fault *f)
{
	*q = (struct request){0};
	return ql_fields_read(r->json, fields, sizeof fields / sizeof fields[0], "", q, f);
}

static int put_text(json_t *frame, const struct ql_fstr *text, bool add_special, bool parse_special, bool pieces,
		    struct ql_fault *f)
{
	json_t *o = json_pack("{s:o,s:b,s:b,s:b}", "prompt", json_stringn(text->v, text->len), "add_special", add_special,
			      "parse_special", parse_special, "pieces", pieces);

	return o != NULL && json_object_update_new(frame, o) == 0 ? QL_OK : ql_bad_internal(f);
}

void ql_h_tokenize(struct ql_req *r)
{
	json_t *frame = json_pack("{s:s}", "kind", "tokenize");
	struct ql_fault f = {0};
	enum form form = FORM_VLLM;
	bool pieces = false;
	struct request q;
	int rc = read_request(r, &q, &f);

	if (rc == QL_OK)
		rc = put_adapter(r, &q.model, frame, &f);
	if (rc == QL_OK && q.content.v != NULL) {
		form = FORM_LLAMA;
		pieces = q.with_pieces.v;
		rc = put_text(frame, &q.content, q.add_special.v, !q.parse_special.set || q.parse_special.v, pieces, &f);
	} else if (rc == QL_OK && q.prompt.v != NULL) {
		pieces = q.token_strs.v;
		rc = put_text(frame, &q.prompt, !q.add_special_tokens.set || q.add_special_tokens.v, true, pieces, &f);
	} else if (rc == QL_OK && q.messages != NULL) {
		pieces = q.token_strs.v;
		rc = ql_template_read(r->json, frame, &f);
		if (rc == QL_OK && (json_object_set_new(frame, "add_special", json_boolean(q.add_special_tokens.v)) != 0 ||
				    json_object_set_new(frame, "parse_special", json_true()) != 0 ||
				    json_object_set_new(frame, "pieces", json_boolean(pieces)) != 0))
			rc = ql_bad_internal(&f);
	} else if (rc == QL_OK) {
		rc = ql_bad_missing(&f, "prompt");
	}
	ql_ask(r, answer, (int)form | (pieces ? WITH_PIECES : 0), frame, rc, &f);
}

void ql_h_detokenize(struct ql_req *r)
{
	json_t *frame = json_pack("{s:s}", "kind", "detokenize"), *v;
	struct ql_fault f = {0};
	struct request q;
	size_t i;
	int rc = read_request(r, &q, &f);

	if (rc == QL_OK && q.tokens == NULL)
		rc = ql_bad_missing(&f, "tokens");
	if (rc == QL_OK)
		json_array_foreach((json_t *)(uintptr_t)q.tokens, i, v)
			if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= QL_VOCAB_MAX) {
				rc = ql_bad_value(&f, "tokens",
						  "Invalid value for 'tokens': each must be an id of the vocabulary.");
				break;
			}
	if (rc == QL_OK && json_object_set(frame, "tokens", (json_t *)(uintptr_t)q.tokens) != 0)
		rc = ql_bad_internal(&f);
	if (rc == QL_OK)
		rc = put_adapter(r, &q.model, frame, &f);
	ql_ask(r, answer, FORM_DETOKENIZE, frame, rc, &f);
}

void ql_h_apply_template(struct ql_req *r)
{
	json_t *frame = json_pack("{s:s}", "kind", "template");
	struct ql_fault f = {0};
	struct request q;
	int rc = read_request(r, &q, &f);

	if (rc == QL_OK)
		rc = put_adapter(r, &q.model, frame, &f);
	if (rc == QL_OK)
		rc = ql_template_read(r->json, frame, &f);
	ql_ask(r, answer, FORM_TEMPLATE, frame, rc, &f);
}
