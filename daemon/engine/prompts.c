/* prompts.c - text in and out of a request: a chat through its template or a plain prompt to tokens, tokens to JSON; and the
 * requests that are only that (tokenize, detokenize, template). */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/base/utf8.h"
#include "core/text/tmpl/tmpl.h"
#include "daemon/engine/engine.h"

json_t *engine_text_json(const char *text, size_t len)
{
	struct ql_buf b = {0};
	json_t *v;

	if (len == 0 || memchr(text, '\0', len) == NULL)
		return json_stringn(len > 0 ? text : "", len);
	for (size_t i = 0; i < len; i++)
		(void)ql_buf_add(&b, text[i] != '\0' ? text + i : "\xEF\xBF\xBD", text[i] != '\0' ? 1 : 3);
	v = json_stringn(b.data, b.len);
	ql_buf_free(&b);
	return v;
}

json_t *engine_token_json(const struct engine *g, int32_t token, float logprob)
{
	size_t len = 0;
	const char *bytes = ql_tok_piece(g->tok, token, &len);
	json_t *list = json_array(), *o;
	struct ql_buf text = {0};

	if (bytes == NULL)
		len = 0;
	for (size_t i = 0; i < len; i++)
		(void)json_array_append_new(list, json_integer((unsigned char)bytes[i]));
	for (size_t i = 0; i < len;) { /* the text shows U+FFFD where the bytes are no character */
		uint32_t cp;
		int n = ql_utf8_decode(bytes + i, len - i, &cp);

		(void)ql_buf_add(&text, n > 0 ? bytes + i : "\xEF\xBF\xBD", n > 0 ? (size_t)n : 3);
		i += n > 0 ? (size_t)n : 1;
	}
	o = json_pack("{s:o, s:o}", "token", engine_text_json(text.data, text.len), "bytes", list);
	if (o != NULL)
		(void)json_object_set_new(o, "logprob", json_real(isfinite(logprob) ? (double)logprob : isnan(logprob) ? 0.0 : -9999.0));
	ql_buf_free(&text);
	return o;
}

/* The template of the adapter if it brought its own, else the base's. */
static int template_for(struct engine *g, const json_t *frame, const struct ql_tmpl **out, struct ql_tmpl **owned, struct ql_err *e)
{
	const char *dir = json_string_value(json_object_get(json_object_get(frame, "adapter"), "dir"));
	struct ql_buf text = {0};
	char hex[65];
	int fd, rc;

	*owned = NULL;
	*out = g->tmpl;
	if (dir != NULL) {
		fd = ql_io_open_dir(g->state_fd, dir, e);
		if (fd < 0)
			return fd;
		rc = ql_io_read_all(fd, "chat_template.jinja", QL_TMPL_SOURCE_MAX, &text, e);
		(void)close(fd);
		if (rc == QL_OK)
			rc = engine_template(g, text.data, out, owned, hex, e);
		else if (rc == QL_ENOTFOUND)
			rc = QL_OK;
		ql_buf_free(&text);
		if (rc != QL_OK)
			return rc;
	}
	if (*out == NULL)
		return ql_err_param(e, QL_EUNSUPPORTED, "messages", "this model has no usable chat template");
	return QL_OK;
}

int engine_encode_chat(struct engine *g, const json_t *f, struct ql_ids *ids, struct ql_buf *text, struct ql_err *e)
{
	const json_t *messages = json_object_get(f, "messages"), *tools = json_object_get(f, "tools"),
		     *kwargs = json_object_get(f, "chat_template_kwargs");
	bool generate = true, go_on = false;
	const struct ql_tmpl *t;
	struct ql_tmpl *owned;
	int rc = ql_json_get_bool(f, "add_generation_prompt", &generate, e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(f, "continue_final_message", &go_on, e);
	if (rc == QL_OK && !json_is_array(messages))
		rc = ql_err_param(e, QL_EINVAL, "messages", "'messages' must be an array");
	if (rc == QL_OK)
		rc = template_for(g, f, &t, &owned, e);
	if (rc != QL_OK)
		return rc;
	rc = ql_chat_encode(g->tok, t, g->trusted, messages, json_is_null(tools) ? NULL : tools, json_is_null(kwargs) ? NULL : kwargs,
			    generate && !go_on, go_on, time(NULL), ids, text, e);
	ql_tmpl_free(owned);
	return rc;
}

int engine_encode_prompt(struct engine *g, const json_t *f, const json_t *prompt, struct ql_ids *ids, struct ql_err *e)
{
	bool special = false;
	int rc = ql_json_get_bool(f, "parse_special", &special, e);

	if (rc != QL_OK)
		return rc;
	if (json_is_string(prompt)) {
		rc = ql_tok_encode(g->tok, json_string_value(prompt), json_string_length(prompt),
				   QL_TOK_ADD_SPECIAL | (special ? QL_TOK_PARSE_SPECIAL : 0), NULL, 0, ids, e);
		if (rc == QL_OK && ids->n == 0) { /* an empty prompt still needs something to continue */
			int32_t id = ql_tok_bos(g->tok) >= 0 ? ql_tok_bos(g->tok) : ql_tok_eos(g->tok);

			rc = id >= 0 ? ql_ids_push(ids, id, 0) : ql_err_param(e, QL_EINVAL, "prompt", "the prompt is empty");
		}
		return rc;
	}
	for (size_t i = 0; rc == QL_OK && i < json_array_size(prompt); i++) {
		const json_t *v = json_array_get(prompt, i);
		json_int_t id = json_is_integer(v) ? json_integer_value(v) : -1;

		if (id < 0 || id >= (json_int_t)g->model->arch.vocab_size)
			return ql_err_param(e, QL_EINVAL, "prompt", "'prompt': element %zu is not a token of the vocabulary", i);
		rc = ql_ids_push(ids, (int32_t)id, 0);
	}
	return rc;
}

/* api.md §10: a string, or the list of its bytes where they are no UTF-8 by themselves. */
static json_t *piece_json(const struct engine *g, int32_t token)
{
	size_t len = 0;
	const char *bytes = ql_tok_piece(g->tok, token, &len);
	json_t *list;

	if (bytes == NULL || len == 0)
		return json_string("");
	if (memchr(bytes, '\0', len) == NULL && ql_utf8_valid(bytes, len, NULL))
		return json_stringn(bytes, len);
	list = json_array();
	for (size_t i = 0; i < len; i++)
		(void)json_array_append_new(list, json_integer((unsigned char)bytes[i]));
	return list;
}

static json_t *pieces_json(const struct engine *g, const struct ql_ids *ids)
{
	json_t *list = json_array();

	for (size_t i = 0; i < ids->n; i++)
		(void)json_array_append_new(list, piece_json(g, ids->ids[i]));
	return list;
}

static int tokenize(struct engine *g, const json_t *f, json_t **result, struct ql_err *e)
{
	const json_t *prompt = json_object_get(f, "prompt");
	bool special = false, add = true, pieces = false;
	struct ql_ids ids = {0};
	json_t *list;
	int rc = ql_json_get_bool(f, "parse_special", &special, e);

	if (rc == QL_OK)
		rc = ql_json_get_bool(f, "add_special", &add, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(f, "pieces", &pieces, e);
	if (rc == QL_OK && json_is_string(prompt))
		rc = ql_tok_encode(g->tok, json_string_value(prompt), json_string_length(prompt),
				   (add ? QL_TOK_ADD_SPECIAL : 0) | (special ? QL_TOK_PARSE_SPECIAL : 0), NULL, 0, &ids, e);
	else if (rc == QL_OK)
		rc = engine_encode_chat(g, f, &ids, NULL, e);
	if (rc == QL_OK) {
		list = json_array();
		for (size_t i = 0; i < ids.n; i++)
			(void)json_array_append_new(list, json_integer(ids.ids[i]));
		*result = json_pack("{s:o, s:i}", "tokens", list, "max_model_len", (int)ql_infer_context(g->infer));
		if (*result != NULL && pieces)
			(void)json_object_set_new(*result, "pieces", pieces_json(g, &ids));
	}
	ql_ids_free(&ids);
	return rc;
}

static int detokenize(struct engine *g, const json_t *f, json_t **result, struct ql_err *e)
{
	struct ql_ids ids = {0};
	struct ql_buf text = {0};
	int rc = engine_encode_prompt(g, f, json_object_get(f, "tokens"), &ids, e);

	if (rc == QL_OK)
		rc = ql_tok_decode(g->tok, ids.ids, ids.n, false, &text, e);
	if (rc == QL_OK)
		*result = json_pack("{s:o}", "text", engine_text_json(text.data, text.len));
	ql_ids_free(&ids);
	ql_buf_free(&text);
	return rc;
}

static int render(struct engine *g, const json_t *f, json_t **result, struct ql_err *e)
{
	struct ql_ids ids = {0};
	struct ql_buf text = {0};
	int rc = engine_encode_chat(g, f, &ids, &text, e);

	if (rc == QL_OK)
		*result = json_pack("{s:o}", "text", engine_text_json(text.data, text.len));
	ql_ids_free(&ids);
	ql_buf_free(&text);
	return rc;
}

int engine_text(struct engine *g, const json_t *f, const char *kind, json_t **result, struct ql_err *e)
{
	if (strcmp(kind, "tokenize") == 0)
		return tokenize(g, f, result, e);
	if (strcmp(kind, "detokenize") == 0)
		return detokenize(g, f, result, e);
	if (strcmp(kind, "template") == 0)
		return render(g, f, result, e);
	return ql_err_param(e, QL_EINVAL, "kind", "unknown kind '%.30s'", kind);
}
