/* line.c - one line's text → tokens and mask, or the reason why not. */
#include <string.h>

#include "core/base/json.h"
#include "core/text/data/data.h"

static bool is_blank(const struct ql_buf *b)
{
	for (size_t i = 0; i < b->len; i++)
		if (b->data[i] != ' ' && b->data[i] != '\t')
			return false;
	return true;
}

/* The line's kind against the file's, which the first line that has one sets. */
static int check_kind(const json_t *line, enum data_kind *kind, struct ql_err *e)
{
	enum data_kind k = data_kind_of(line);

	if (*kind == DATA_UNKNOWN || *kind == k) {
		*kind = k;
		return QL_OK;
	}
	if (k == DATA_UNKNOWN)
		return ql_err_set(e, QL_EINVAL, "the keys of this line tell no known kind, the file began with %s lines",
				  data_kind_name(*kind));
	return ql_err_set(e, QL_EINVAL, "a %s line in a file that began with %s lines", data_kind_name(k), data_kind_name(*kind));
}

int data_line_json(struct lines *l, enum data_kind *kind, json_t **out, struct ql_err *e)
{
	int rc;

	*out = NULL;
	if (l->too_long)
		return ql_err_set(e, QL_ELIMIT, "line longer than %zu bytes", QL_DATASET_LINE_MAX);
	if (l->number == 1 && l->line.len >= 3 && memcmp(l->line.data, "\xef\xbb\xbf", 3) == 0)
		return ql_err_set(e, QL_EFORMAT, "the file begins with a byte order mark; remove it");
	if (is_blank(&l->line))
		return QL_OK;
	rc = ql_json_parse(l->line.data, l->line.len, QL_DATASET_LINE_MAX, out, e);
	if (rc == QL_OK && !json_is_object(*out))
		rc = ql_err_set(e, QL_EFORMAT, "the line is not a JSON object");
	if (rc == QL_OK)
		rc = check_kind(*out, kind, e);
	if (rc != QL_OK) {
		json_decref(*out);
		*out = NULL;
	}
	return rc;
}

/* train_on "last": the messages behind the last assistant message are gone already. */
static int last_turn_only(struct sample *s, struct ql_err *e)
{
	size_t n = json_array_size(s->messages);

	if (!s->trained[n - 1])
		return ql_err_param(e, QL_EINVAL, "messages", "only last turns are trained, and the last assistant message has weight 0");
	memset(s->trained, 0, n - 1);
	return QL_OK;
}

int data_line(const struct ql_dataset_opts *o, struct lines *l, enum data_kind *kind, struct built *b, bool *blank,
	      struct ql_err *e)
{
	struct sample s = {0};
	json_t *line;
	int rc = data_line_json(l, kind, &line, e);

	*blank = rc == QL_OK && line == NULL;
	if (line == NULL)
		return rc;
	rc = data_sample(line, *kind, o->alpaca_template, &s, e);
	if (rc == QL_OK && o->train_on == QL_TRAIN_ON_LAST && !s.is_text)
		rc = last_turn_only(&s, e);
	if (rc == QL_OK)
		rc = data_build(o, &s, b, e);
	sample_free(&s);
	json_decref(line);
	return rc;
}
