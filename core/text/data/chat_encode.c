/* chat_encode.c - one conversation for serving, through the same steps as a training line. */
#include <stdlib.h>
#include <string.h>

#include "core/text/data/data.h"
#include "core/text/tok.h"

/* What is put behind the last message's text to find where it ends; a blank tells whether the template strips. */
#define TAG "CONTINUE_FINAL_MESSAGE_TAG "
#define TAG_BARE_LEN (sizeof TAG - 2)

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "conversation"); }

/* Appends the tag to the last message's content (a string, or its last text part). */
static int add_tag(json_t *messages, struct ql_err *e)
{
	json_t *last = json_array_get(messages, json_array_size(messages) - 1), *holder = last, *content;
	const char *key = "content";
	struct ql_buf text = {0};
	int rc = QL_OK;

	content = json_object_get(last, "content");
	if (json_is_array(content) && json_array_size(content) > 0) {
		holder = json_array_get(content, json_array_size(content) - 1);
		key = "text";
		content = json_object_get(holder, "text");
	}
	if (!json_is_string(content))
		return ql_err_param(e, QL_EINVAL, "messages", "continue_final_message needs a last message with text");
	if (ql_buf_add(&text, json_string_value(content), json_string_length(content)) != QL_OK ||
	    ql_buf_adds(&text, TAG) != QL_OK || json_object_set_new(holder, key, json_stringn(text.data, text.len)) != 0)
		rc = nomem(e);
	ql_buf_free(&text);
	return rc;
}

static bool blank(char c) { return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\v' || c == '\f'; }

/* Cuts the rendered text where the tag begins, and the untrusted ranges with it. */
static int cut_at_tag(struct ql_rendered *r, struct ql_err *e)
{
	size_t at = r->text.len, i = 0;
	bool found = false;

	while (at >= TAG_BARE_LEN && !found) {
		at--;
		found = r->text.len - at >= TAG_BARE_LEN && memcmp(r->text.data + at, TAG, TAG_BARE_LEN) == 0;
		if (at == 0)
			break;
	}
	if (!found)
		return ql_err_param(e, QL_EINVAL, "messages", "continue_final_message: the chat template leaves the last message out");
	if (r->text.len - at < TAG_BARE_LEN + 1 || r->text.data[at + TAG_BARE_LEN] != ' ')
		while (at > 0 && blank(r->text.data[at - 1]))
			at--;
	r->text.len = at;
	r->text.data[at] = '\0';
	while (i < r->n_plain && r->plain[i].begin < at)
		i++;
	r->n_plain = i;
	if (i > 0 && r->plain[i - 1].end > at)
		r->plain[i - 1].end = at;
	return QL_OK;
}

int ql_chat_encode(const struct ql_tok *tok, const struct ql_tmpl *tmpl, const json_t *trusted, const json_t *messages,
		   const json_t *tools, const json_t *kwargs, bool add_generation_prompt, bool continue_final_message,
		   int64_t now_unix, struct ql_ids *out, struct ql_buf *text_or_null, struct ql_err *e)
{
	struct data_render r = {.tmpl = tmpl, .trusted = trusted, .now_unix = now_unix};
	struct ql_rendered full = {0};
	struct sample s = {0};
	json_t *normal = NULL, *kw = NULL;
	int rc;

	if (add_generation_prompt && continue_final_message)
		return ql_err_param(e, QL_EINVAL, "continue_final_message", "continue_final_message excludes add_generation_prompt");
	if (!json_is_array(messages) || json_array_size(messages) == 0)
		return ql_err_param(e, QL_EINVAL, "messages", "messages must be a non-empty list");
	rc = data_tools(tools, NULL, &s, e);
	if (rc == QL_OK)
		rc = data_kwargs(kwargs, &kw, e);
	r.tmpl = tmpl = ql_tmpl_for(tmpl, s.tools != NULL);
	if (rc == QL_OK)
		rc = ql_chat_normalize(tmpl, messages, &normal, e);
	if (rc == QL_OK && continue_final_message)
		rc = add_tag(normal, e);
	r.messages = normal;
	r.tools = s.tools;
	r.kwargs = kw;
	if (rc == QL_OK)
		rc = data_render(&r, json_array_size(normal), add_generation_prompt, &full, e);
	if (rc == QL_OK && continue_final_message)
		rc = cut_at_tag(&full, e);
	if (rc == QL_OK)
		rc = ql_tok_encode(tok, full.text.data, full.text.len, QL_TOK_PARSE_SPECIAL, full.plain, full.n_plain, out, e);
	if (rc == QL_OK && text_or_null != NULL && ql_buf_add(text_or_null, full.text.data, full.text.len) != QL_OK)
		rc = nomem(e);
	ql_rendered_free(&full);
	sample_free(&s);
	json_decref(kw);
	json_decref(normal);
	return rc;
}
