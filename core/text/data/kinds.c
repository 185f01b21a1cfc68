/* kinds.c - which kind of data a line is, and what it asks to be trained on. */
#include <stdlib.h>
#include <string.h>

#include "core/text/data/data.h"

static const char alpaca_with_input[] =
	"Below is an instruction that describes a task, paired with an input that provides further context. Write a response "
	"that appropriately completes the request.\n\n### Instruction:\n%s\n\n### Input:\n%s\n\n### Response:\n";
static const char alpaca_without[] =
	"Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
	"### Instruction:\n%s\n\n### Response:\n";

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "dataset line"); }

void sample_free(struct sample *s)
{
	ql_buf_free(&s->text);
	json_decref(s->messages);
	json_decref(s->tools);
	json_decref(s->kwargs);
	free(s->trained);
	*s = (struct sample){0};
}

static bool has(const json_t *line, const char *key) { return json_object_get(line, key) != NULL; }

enum data_kind data_kind_of(const json_t *line)
{
	if (has(line, "messages"))
		return DATA_CHAT;
	if (has(line, "conversations"))
		return DATA_SHAREGPT;
	if (has(line, "preferred_output") || has(line, "preferred_completion") || has(line, "non_preferred_output") ||
	    has(line, "non_preferred_completion") || has(line, "chosen") || has(line, "rejected"))
		return DATA_PREFERENCE;
	if (has(line, "prompt") && has(line, "completion"))
		return json_is_array(json_object_get(line, "prompt")) ? DATA_COMPLETION_CHAT : DATA_COMPLETION;
	if (has(line, "instruction") && has(line, "output"))
		return DATA_ALPACA;
	return has(line, "text") ? DATA_TEXT : DATA_UNKNOWN;
}

const char *data_kind_name(enum data_kind k)
{
	static const char *const names[] = {"", "chat", "completion", "completion-chat", "text", "alpaca", "sharegpt", "preference"};

	return names[k];
}

/* A string of the line; absent is *out = NULL if optional. */
static int text_of(const json_t *line, const char *key, bool optional, const json_t **out, struct ql_err *e)
{
	*out = json_object_get(line, key);
	if (*out != NULL && json_is_null(*out) && optional)
		*out = NULL;
	if (*out == NULL && optional)
		return QL_OK;
	if (!json_is_string(*out))
		return ql_err_param(e, QL_EINVAL, key, *out == NULL ? "'%s' is missing" : "'%s' must be a string", key);
	return QL_OK;
}

static int text_sample(const json_t *line, struct sample *s, struct ql_err *e)
{
	const json_t *t;
	int rc = text_of(line, "text", false, &t, e);

	if (rc != QL_OK)
		return rc;
	s->is_text = true;
	return ql_buf_add(&s->text, json_string_value(t), json_string_length(t)) != QL_OK ? nomem(e) : QL_OK;
}

static int completion_sample(const json_t *line, struct sample *s, struct ql_err *e)
{
	const json_t *p, *c;
	int rc = text_of(line, "prompt", false, &p, e);

	if (rc == QL_OK)
		rc = text_of(line, "completion", false, &c, e);
	if (rc != QL_OK)
		return rc;
	s->is_text = true;
	s->prompt_len = json_string_length(p);
	if (ql_buf_add(&s->text, json_string_value(p), s->prompt_len) != QL_OK ||
	    ql_buf_add(&s->text, json_string_value(c), json_string_length(c)) != QL_OK)
		return nomem(e);
	return QL_OK;
}

static int completion_chat_sample(const json_t *line, struct sample *s, struct ql_err *e)
{
	const json_t *p = json_object_get(line, "prompt"), *c = json_object_get(line, "completion");
	json_t *all;
	int rc;

	if (!json_is_array(p) || !json_is_array(c))
		return ql_err_param(e, QL_EINVAL, "completion", "prompt and completion must both be lists of messages");
	if (json_array_size(c) == 0)
		return ql_err_param(e, QL_EINVAL, "completion", "completion must not be empty");
	all = json_copy((json_t *)(uintptr_t)p);
	if (all == NULL || json_array_extend(all, (json_t *)(uintptr_t)c) != 0) {
		json_decref(all);
		return nomem(e);
	}
	rc = data_messages(all, json_array_size(p), s, e);
	json_decref(all);
	return rc;
}

static int alpaca_sample(const json_t *line, bool as_text, struct sample *s, struct ql_err *e)
{
	const json_t *ins, *in, *o;
	struct ql_buf user = {0};
	json_t *messages;
	bool with;
	int rc = text_of(line, "instruction", false, &ins, e);

	if (rc == QL_OK)
		rc = text_of(line, "input", true, &in, e);
	if (rc == QL_OK)
		rc = text_of(line, "output", false, &o, e);
	if (rc != QL_OK)
		return rc;
	with = in != NULL && json_string_length(in) > 0;
	if (as_text) {
		s->is_text = true;
		rc = with ? ql_buf_addf(&s->text, alpaca_with_input, json_string_value(ins), json_string_value(in))
			  : ql_buf_addf(&s->text, alpaca_without, json_string_value(ins));
		s->prompt_len = s->text.len;
		if (rc != QL_OK || ql_buf_add(&s->text, json_string_value(o), json_string_length(o)) != QL_OK)
			return nomem(e);
		return QL_OK;
	}
	rc = ql_buf_adds(&user, json_string_value(ins));
	if (rc == QL_OK && with)
		rc = ql_buf_addf(&user, "\n\n%s", json_string_value(in));
	messages = rc != QL_OK ? NULL : json_pack("[{s:s, s:s%}, {s:s, s:O}]", "role", "user", "content", user.data == NULL ? "" :
						   user.data, user.len, "role", "assistant", "content", o);
	rc = messages == NULL ? nomem(e) : data_messages(messages, 0, s, e);
	json_decref(messages);
	ql_buf_free(&user);
	return rc;
}

/* What is wrong with the pair, else that nothing trains on pairs. */
static int refuse_preference(const json_t *line, struct ql_err *e)
{
	struct preference p = {0};
	int rc = data_preference(line, &p, e);

	preference_free(&p);
	if (rc != QL_OK)
		return rc;
	return ql_err_set(e, QL_EUNSUPPORTED, "preference data (preferred and non-preferred answers) cannot be trained on "
					      "yet: there is no DPO; use {\"messages\": […]} lines");
}

int data_sample(const json_t *line, enum data_kind k, bool alpaca_text, struct sample *s, struct ql_err *e)
{
	int rc;

	switch (k) {
	case DATA_TEXT:
		return text_sample(line, s, e);
	case DATA_COMPLETION:
		return completion_sample(line, s, e);
	case DATA_ALPACA:
		return alpaca_sample(line, alpaca_text, s, e);
	case DATA_SHAREGPT:
		rc = data_sharegpt(line, s, e);
		break;
	case DATA_COMPLETION_CHAT:
	case DATA_CHAT:
		rc = k == DATA_CHAT ? data_messages(json_object_get(line, "messages"), 0, s, e) : completion_chat_sample(line, s, e);
		if (rc == QL_OK)
			rc = data_tools(json_object_get(line, "tools"), json_object_get(line, "functions"), s, e);
		break;
	case DATA_PREFERENCE:
		return refuse_preference(line, e);
	default:
		return ql_err_set(e, QL_EINVAL, "the keys of this line tell no known kind: expected 'messages', 'prompt' and "
						"'completion', 'text', 'instruction' and 'output', or 'conversations'");
	}
	return rc != QL_OK ? rc : data_kwargs(json_object_get(line, "chat_template_kwargs"), &s->kwargs, e);
}
