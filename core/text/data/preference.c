/* preference.c - pairs of answers for one prompt: checked as DPO will need them, shown in previews, trained by nothing yet.
 *
 *   OpenAI  {"input": {"messages", "tools"?}, "preferred_output": [messages], "non_preferred_output": [messages]}, the last two also
 *           as preferred_completion and non_preferred_completion
 *   TRL     {"prompt", "chosen", "rejected"}: three texts, or three lists of messages with "tools"? beside them */
#include <string.h>

#include "core/text/data/data.h"

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset line"); }

void preference_free(struct preference *p)
{
	sample_free(&p->preferred);
	sample_free(&p->non_preferred);
	*p = (struct preference){0};
}

/* The value of the one key of two that is there. */
static int either(const json_t *line, const char *key, const char *other, const json_t **out, struct ql_err *e)
{
	const json_t *a = json_object_get(line, key), *b = json_object_get(line, other);

	if (a != NULL && b != NULL)
		return ql_err_param(e, QL_EINVAL, key, "'%s' and '%s' mean the same: give one", key, other);
	*out = a != NULL ? a : b;
	return *out != NULL ? QL_OK : ql_err_param(e, QL_EINVAL, key, "'%s' is missing", key);
}

static int text_side(const json_t *prompt, const json_t *answer, const char *key, struct sample *s, struct ql_err *e)
{
	if (!json_is_string(answer))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be a string, as the prompt is", key);
	s->is_text = true;
	s->prompt_len = json_string_length(prompt);
	if (ql_buf_add(&s->text, json_string_value(prompt), s->prompt_len) != QL_OK ||
	    ql_buf_add(&s->text, json_string_value(answer), json_string_length(answer)) != QL_OK)
		return nomem(e);
	return QL_OK;
}

static int chat_side(const json_t *prompt, const json_t *answer, const char *key, const json_t *tools, struct sample *s,
		     struct ql_err *e)
{
	json_t *all;
	int rc;

	if (!json_is_array(answer) || json_array_size(answer) == 0)
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be a non-empty list of messages", key);
	all = json_copy((json_t *)(uintptr_t)prompt);
	if (all == NULL || json_array_extend(all, (json_t *)(uintptr_t)answer) != 0) {
		json_decref(all);
		return nomem(e);
	}
	rc = data_messages(all, json_array_size(prompt), s, e);
	if (rc == QL_OK && s->trailing_dropped)
		rc = ql_err_param(e, QL_EINVAL, key, "'%s' must end with an assistant message", key);
	if (rc == QL_OK)
		rc = data_tools(tools, NULL, s, e);
	json_decref(all);
	return rc;
}

int data_preference(const json_t *line, struct preference *p, struct ql_err *e)
{
	const json_t *input = json_object_get(line, "input"), *prompt, *tools, *good, *bad;
	bool trl = json_object_get(line, "chosen") != NULL || json_object_get(line, "rejected") != NULL;
	const char *good_key = trl ? "chosen" : "preferred_output", *bad_key = trl ? "rejected" : "non_preferred_output";
	int rc = either(line, good_key, trl ? "" : "preferred_completion", &good, e);

	if (rc == QL_OK)
		rc = either(line, bad_key, trl ? "" : "non_preferred_completion", &bad, e);
	if (rc != QL_OK)
		return rc;
	prompt = trl ? json_object_get(line, "prompt") : json_object_get(input, "messages");
	tools = json_object_get(trl ? line : input, "tools");
	if (!(trl && json_is_string(prompt)) && (!json_is_array(prompt) || json_array_size(prompt) == 0))
		return ql_err_param(e, QL_EINVAL, trl ? "prompt" : "input", trl ? "'prompt' must be a string or a non-empty list of messages" :
				    "'input' must be an object with a non-empty list 'messages'");
	if (json_equal((json_t *)(uintptr_t)good, (json_t *)(uintptr_t)bad))
		return ql_err_param(e, QL_EINVAL, bad_key, "'%s' is the same as '%s'", bad_key, good_key);
	if (json_is_string(prompt)) {
		rc = text_side(prompt, good, good_key, &p->preferred, e);
		return rc == QL_OK ? text_side(prompt, bad, bad_key, &p->non_preferred, e) : rc;
	}
	p->n_prompt = json_array_size(prompt);
	rc = chat_side(prompt, good, good_key, tools, &p->preferred, e);
	return rc == QL_OK ? chat_side(prompt, bad, bad_key, tools, &p->non_preferred, e) : rc;
}

/* ---- as rendered */

static int add_text(json_t *out, const char *key, const char *text, size_t len, struct ql_err *e)
{
	return json_object_set_new(out, key, json_stringn(text, len)) != 0 ? nomem(e) : QL_OK;
}

/* The answer's part of the rendered conversation, or all of it where the prompt is rendered otherwise. */
static int show_chat(const struct ql_dataset_opts *o, const struct sample *s, size_t n_prompt, const char *key, json_t *out,
		     struct ql_err *e)
{
	const struct ql_tmpl *tmpl = ql_tmpl_for(o->tmpl, s->tools != NULL);
	struct data_render r = {.tmpl = tmpl, .trusted = o->trusted, .tools = s->tools, .now_unix = o->now_unix};
	struct ql_rendered prompt = {0}, whole = {0};
	json_t *messages = NULL;
	int rc = ql_chat_normalize(tmpl, s->messages, &messages, e);

	r.messages = messages;
	if (rc == QL_OK)
		rc = data_render(&r, n_prompt, true, &prompt, e);
	if (rc == QL_OK)
		rc = data_render(&r, json_array_size(messages), false, &whole, e);
	if (rc == QL_OK)
		rc = add_text(out, "prompt", prompt.text.data, prompt.text.len, e);
	if (rc == QL_OK) {
		bool prefix = prompt.text.len <= whole.text.len && memcmp(prompt.text.data, whole.text.data, prompt.text.len) == 0;
		size_t at = prefix ? prompt.text.len : 0;

		rc = add_text(out, key, whole.text.data + at, whole.text.len - at, e);
	}
	ql_rendered_free(&prompt);
	ql_rendered_free(&whole);
	json_decref(messages);
	return rc;
}

static int show_text(const struct sample *s, const char *key, json_t *out, struct ql_err *e)
{
	const char *text = s->text.data == NULL ? "" : s->text.data;
	int rc = add_text(out, "prompt", text, s->prompt_len, e);

	return rc == QL_OK ? add_text(out, key, text + s->prompt_len, s->text.len - s->prompt_len, e) : rc;
}

int data_preference_show(const struct ql_dataset_opts *o, const struct preference *p, json_t **out, struct ql_err *e)
{
	int rc;

	*out = NULL;
	if (!p->preferred.is_text && o->tmpl == NULL)
		return ql_err_set(e, QL_EINVAL, "a chat line, but the base model has no chat template");
	*out = json_object();
	if (*out == NULL)
		return nomem(e);
	if (p->preferred.is_text) {
		rc = show_text(&p->preferred, "preferred", *out, e);
		if (rc == QL_OK)
			rc = show_text(&p->non_preferred, "non_preferred", *out, e);
	} else {
		rc = show_chat(o, &p->preferred, p->n_prompt, "preferred", *out, e);
		if (rc == QL_OK)
			rc = show_chat(o, &p->non_preferred, p->n_prompt, "non_preferred", *out, e);
	}
	if (rc != QL_OK) {
		json_decref(*out);
		*out = NULL;
	}
	return rc;
}
