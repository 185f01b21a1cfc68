/* preview.c - the first lines of a file as they will be trained, for people to look at. */
#include "core/text/data/data.h"

#define PREVIEW_MAX 100

static int nomem(struct ql_err *e) { return ql_err_set(e, QL_ENOMEM, "preview"); }

/* Byte range of token t in the text. */
static struct ql_span token_span(const struct built *b, size_t t)
{
	size_t begin = b->ids.begin[t], end = b->text.len;

	for (size_t k = t + 1; k < b->ids.n; k++) {
		if (b->ids.begin[k] > begin) {
			end = b->ids.begin[k];
			break;
		}
	}
	return (struct ql_span){begin, end};
}

/* Runs of trained tokens as byte ranges, begin and end moved to whole characters. */
static json_t *trained_spans(const struct built *b)
{
	json_t *list = json_array();

	for (size_t t = 0; t < b->ids.n && list != NULL; t++) {
		struct ql_span s;
		json_t *text;

		if (!b->target[t])
			continue;
		s = token_span(b, t);
		while (t + 1 < b->ids.n && b->target[t + 1])
			s.end = token_span(b, ++t).end;
		while (s.begin > 0 && s.begin < b->text.len && ((unsigned char)b->text.data[s.begin] & 0xc0) == 0x80)
			s.begin--;
		while (s.end < b->text.len && ((unsigned char)b->text.data[s.end] & 0xc0) == 0x80)
			s.end++;
		text = json_stringn(b->text.data + s.begin, s.end - s.begin);
		if (text == NULL || json_array_append_new(list, json_pack("{s:I, s:I, s:o}", "begin", (json_int_t)s.begin, "end",
									   (json_int_t)s.end, "text", text)) != 0) {
			json_decref(list);
			return NULL;
		}
	}
	return list;
}

static json_t *describe(const struct built *b, uint64_t line)
{
	json_t *ids = json_array(), *target = json_array(), *spans = trained_spans(b);

	for (size_t t = 0; t < b->ids.n; t++)
		if (json_array_append_new(ids, json_integer(b->ids.ids[t])) != 0 ||
		    json_array_append_new(target, json_integer(b->target[t])) != 0)
			break;
	if (ids == NULL || target == NULL || spans == NULL || json_array_size(target) != b->ids.n) {
		json_decref(ids);
		json_decref(target);
		json_decref(spans);
		return NULL;
	}
	return json_pack("{s:I, s:s%, s:I, s:I, s:b, s:b, s:o, s:o, s:o}", "line", (json_int_t)line, "text",
			 b->text.data == NULL ? "" : b->text.data, b->text.len, "tokens", (json_int_t)b->ids.n, "target_tokens",
			 (json_int_t)b->n_targets, "truncated", (int)b->truncated, "dropped", (int)b->dropped, "trained", spans,
			 "ids", ids, "target", target);
}

/* A preference line: nothing is trained, but people want to see what it says. */
static int show_pair(const struct ql_dataset_opts *o, struct lines *l, enum data_kind *kind, json_t **out, struct ql_err *e)
{
	struct preference p = {0};
	json_t *line;
	int rc = data_line_json(l, kind, &line, e);

	if (rc == QL_OK)
		rc = data_preference(line, &p, e);
	if (rc == QL_OK)
		rc = data_preference_show(o, &p, out, e);
	if (rc == QL_OK && json_object_set_new(*out, "line", json_integer((json_int_t)l->number)) != 0)
		rc = nomem(e);
	preference_free(&p);
	json_decref(line);
	return rc;
}

/* *out NULL: a blank line.  A line's own fault becomes its "error". */
static int one_line(const struct ql_dataset_opts *o, struct lines *l, enum data_kind *kind, json_t **out, struct ql_err *e)
{
	struct built b = {0};
	struct ql_err why = {0};
	bool blank;
	int rc = data_line(o, l, kind, &b, &blank, &why);

	*out = NULL;
	if (rc == QL_OK && !blank)
		*out = describe(&b, l->number);
	built_free(&b);
	if (rc == QL_OK)
		return !blank && *out == NULL ? nomem(e) : QL_OK;
	if (rc == QL_EUNSUPPORTED && *kind == DATA_PREFERENCE)
		rc = show_pair(o, l, kind, out, &why);
	if (rc == QL_ENOMEM || rc == QL_EINTERNAL)
		return ql_err_set(e, rc, "%s", why.message);
	if (rc != QL_OK)
		*out = json_pack("{s:I, s:s}", "line", (json_int_t)l->number, "error", why.message);
	return *out == NULL ? nomem(e) : QL_OK;
}

/* Takes v over while it fits into *room; *full otherwise. */
static int append(json_t *examples, json_t *v, size_t *room, bool *full, struct ql_err *e)
{
	size_t bytes = json_dumpb(v, NULL, 0, JSON_COMPACT);

	*full = bytes > *room;
	if (*full && json_array_size(examples) == 0) {
		json_t *instead = json_pack("{s:O, s:s}", "line", json_object_get(v, "line"), "error", "too long to be shown");

		json_decref(v);
		return instead == NULL || json_array_append_new(examples, instead) != 0 ? nomem(e) : QL_OK;
	}
	if (*full) {
		json_decref(v);
		return QL_OK;
	}
	*room -= bytes;
	return json_array_append_new(examples, v) != 0 ? nomem(e) : QL_OK;
}

int ql_dataset_preview(json_t **out, int dirfd, const char *path, const struct ql_dataset_opts *o, size_t n, size_t max_bytes,
		       struct ql_err *e)
{
	enum data_kind kind = DATA_UNKNOWN;
	json_t *examples = json_array(), *v;
	struct lines l = {.fd = -1};
	bool more = true, full = false;
	int rc;

	*out = NULL;
	if (n < 1 || n > PREVIEW_MAX || o->tok == NULL || o->max_seq_length < 2) {
		json_decref(examples);
		return ql_err_set(e, QL_EINVAL, "a preview has 1 to %d lines and needs a tokenizer", PREVIEW_MAX);
	}
	rc = examples == NULL ? nomem(e) : lines_open(&l, dirfd, path, NULL, e);
	while (rc == QL_OK && more && !full) {
		rc = lines_next(&l, &more, e);
		if (rc != QL_OK || !more)
			break;
		full = json_array_size(examples) == n;
		v = NULL;
		if (!full)
			rc = one_line(o, &l, &kind, &v, e);
		if (rc == QL_OK && v != NULL)
			rc = append(examples, v, &max_bytes, &full, e);
	}
	lines_close(&l);
	if (rc == QL_OK) {
		*out = json_pack("{s:s, s:b, s:O}", "kind", data_kind_name(kind), "has_more", (int)full, "examples", examples);
		rc = *out == NULL ? nomem(e) : QL_OK;
	}
	json_decref(examples);
	return rc;
}
