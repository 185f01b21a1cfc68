/* preview.c - GET /v1/files/{id}/preview: the first lines of a training file, rendered and tokenised by the engine, with what would be
 * trained.  The query takes the names and values of the `qlora` object that decide it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/ask.h"
#include "api/fields.h"
#include "api/handlers.h"
#include "core/base/limits.h"
#include "daemon/files.h"

#define LINES_DEFAULT 10
#define LINES_MAX 100

static void answer(struct ql_req *r, int form, const json_t *result)
{
	json_t *o = json_pack("{s:s, s:s}", "object", "file.preview", "id", r->match.param[0]);

	(void)form;
	if (o != NULL && json_object_update_missing(o, (json_t *)(uintptr_t)result) != 0) {
		json_decref(o);
		o = NULL;
	}
	ql_reply_json(r, 200, o);
}

/* One word of a list separated by '|'. */
static int put_word(const struct ql_target *t, const char *key, const char *const *words, json_t *recipe, struct ql_fault *f)
{
	const char *v;
	int rc = ql_query_str(t, key, 16, &v, f);

	if (rc != QL_OK || v == NULL)
		return rc;
	for (; *words != NULL; words++)
		if (strcmp(*words, v) == 0)
			return json_object_set_new(recipe, key, json_string(v)) == 0 ? QL_OK : ql_bad_internal(f);
	return ql_bad_value(f, key, "Invalid value for '%s'.", key);
}

static int put_bool(const struct ql_target *t, const char *key, bool preset, json_t *recipe, struct ql_fault *f)
{
	bool v = preset;
	int rc = ql_query_bool(t, key, &v, f);

	if (rc == QL_OK && json_object_set_new(recipe, key, json_boolean(v)) != 0)
		rc = ql_bad_internal(f);
	return rc;
}

/* The query as a frame; a new reference. */
static int read_query(const struct ql_target *t, const char *file, json_t **out, struct ql_fault *f)
{
	static const char *const overlong[] = {"truncate", "drop", "error", NULL}, *const train_on[] = {"all", "last", NULL};
	json_t *recipe = json_object();
	int64_t lines = LINES_DEFAULT, length = 0;
	char path[64];
	bool set;
	int rc = recipe == NULL ? ql_bad_internal(f) : ql_query_int(t, "lines", 1, LINES_MAX, &set, &lines, f);

	*out = NULL;
	if (rc == QL_OK)
		rc = ql_query_int(t, "max_seq_length", 32, QL_CONTEXT_MAX, &set, &length, f);
	if (rc == QL_OK && set && json_object_set_new(recipe, "max_seq_length", json_integer(length)) != 0)
		rc = ql_bad_internal(f);
	if (rc == QL_OK)
		rc = put_word(t, "on_overlong", overlong, recipe, f);
	if (rc == QL_OK)
		rc = put_word(t, "train_on", train_on, recipe, f);
	if (rc == QL_OK)
		rc = put_bool(t, "completion_only_loss", true, recipe, f);
	if (rc == QL_OK)
		rc = put_bool(t, "alpaca_template", false, recipe, f);
	if (rc == QL_OK) {
		(void)snprintf(path, sizeof path, "files/%s", file);
		*out = json_pack("{s:s, s:s, s:I, s:O}", "kind", "preview", "file", path, "lines", (json_int_t)lines, "recipe", recipe);
		if (*out == NULL)
			rc = ql_bad_internal(f);
	}
	json_decref(recipe);
	return rc;
}

/* The file is there, is this project's and is for training. */
static int check_file(struct ql_req *r, struct ql_fault *f)
{
	char purpose[32];
	json_t *row;
	int rc = ql_file_get(r->ctl, &r->who, r->match.param[0], &row, f);

	if (rc != QL_OK)
		return rc;
	json_decref(row);
	if (ql_file_purpose(r->ctl, &r->who, r->match.param[0], purpose) != QL_OK || strcmp(purpose, "fine-tune") != 0)
		return ql_bad_value(f, "id", "Only files of purpose fine-tune have a preview.");
	return QL_OK;
}

void ql_h_file_preview(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *frame = NULL;
	int rc = check_file(r, &f);

	if (rc == QL_OK)
		rc = read_query(&r->target, r->match.param[0], &frame, &f);
	ql_ask(r, answer, 0, frame, rc, &f);
}
