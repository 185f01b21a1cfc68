/* mask.c - where the trained assistant messages lie in the rendered text; the rules are in mask.h. */
#include "core/text/data/mask.h"

#include <stdlib.h>
#include <string.h>

#include "core/text/data/data.h"

static bool is_assistant(const json_t *messages, size_t i)
{
	const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));

	return role != NULL && strcmp(role, "assistant") == 0;
}

static bool is_prefix(const struct ql_buf *a, const struct ql_buf *b)
{
	return a->len <= b->len && memcmp(a->data, b->data, a->len) == 0;
}

/* Rule 1: {% generation %} blocks. */
static int by_generation(const struct data_render *r, const uint8_t *trained, const struct ql_rendered *full,
			 struct ql_span *out, size_t *n, struct ql_err *e)
{
	size_t n_assistant = 0, n_masked = 0, g = 0;

	for (size_t i = 0; i < json_array_size(r->messages); i++) {
		n_assistant += is_assistant(r->messages, i);
		n_masked += is_assistant(r->messages, i) && !trained[i];
	}
	*n = 0;
	if (n_masked > 0 && n_assistant != full->n_generation)
		return ql_err_param(e, QL_EINVAL, "messages", "the template marks %zu generation blocks for %zu assistant messages: "
				    "a weight of 0 or an untrained message cannot be told apart", full->n_generation, n_assistant);
	if (n_masked == 0) {
		memcpy(out, full->generation, full->n_generation * sizeof *out);
		*n = full->n_generation;
		return QL_OK;
	}
	for (size_t i = 0; i < json_array_size(r->messages); i++) {
		if (!is_assistant(r->messages, i))
			continue;
		if (trained[i])
			out[(*n)++] = full->generation[g];
		g++;
	}
	return QL_OK;
}

/* Rule 2 for message i: *found if both prefixes hold.  A template that refuses a prefix (raises) has not found it. */
static int by_prefix(const struct data_render *r, size_t i, const struct ql_rendered *full, struct ql_span *out, bool *found,
		     struct ql_err *e)
{
	struct ql_rendered a = {0}, b = {0};
	struct ql_err why = {0};
	bool last = i + 1 == json_array_size(r->messages);
	int rc = data_render(r, i, true, &a, &why);

	*found = false;
	if (rc == QL_OK && !last)
		rc = data_render(r, i + 1, false, &b, &why);
	if (rc == QL_OK) {
		const struct ql_buf *upto = last ? &full->text : &b.text;

		*found = is_prefix(&a.text, upto) && is_prefix(upto, &full->text);
		*out = (struct ql_span){a.text.len, upto->len};
	}
	ql_rendered_free(&a);
	ql_rendered_free(&b);
	if (rc == QL_ENOMEM || rc == QL_ELIMIT || rc == QL_EINTERNAL)
		return ql_err_set(e, rc, "%s", why.message);
	return QL_OK;
}

static int by_prefixes(const struct data_render *r, const uint8_t *trained, const struct ql_rendered *full,
		       struct ql_span *out, size_t *n, bool *only_last, struct ql_err *e)
{
	size_t count = json_array_size(r->messages), last = 0;
	bool found = true;

	*n = 0;
	for (size_t i = 0; i < count; i++) {
		if (is_assistant(r->messages, i))
			last = i;
		if (!trained[i] || !found)
			continue;
		int rc = by_prefix(r, i, full, &out[*n], &found, e);

		if (rc != QL_OK)
			return rc;
		*n += found;
	}
	if (found)
		return QL_OK;
	*n = 0;
	if (trained[last]) {
		int rc = by_prefix(r, last, full, &out[0], &found, e);

		if (rc != QL_OK)
			return rc;
	}
	if (!found)
		return ql_err_param(e, QL_EINVAL, "messages", "the chat template renders this conversation so that %s: the text before "
				    "the answer is not what a request for it would be",
				    trained[last] ? "its last answer cannot be located" : "no trained answer can be located");
	*n = 1;
	*only_last = true;
	return QL_OK;
}

int data_mask(const struct data_render *r, const uint8_t *trained, const struct ql_rendered *full, struct ql_span **out,
	      size_t *n, bool *only_last, struct ql_err *e)
{
	size_t room = json_array_size(r->messages) + full->n_generation;
	int rc;

	*n = 0;
	*only_last = false;
	*out = calloc(room + 1, sizeof **out);
	if (*out == NULL)
		return ql_err_set(e, QL_ENOMEM, "dataset line");
	rc = full->n_generation > 0 ? by_generation(r, trained, full, *out, n, e) : by_prefixes(r, trained, full, *out, n, only_last, e);
	if (rc != QL_OK) {
		free(*out);
		*out = NULL;
	}
	return rc;
}
