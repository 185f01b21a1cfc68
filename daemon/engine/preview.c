/* preview.c - infer kind "preview": the first lines of a file as a job would train on them.  Lines may be long and templates slow, so a
 * task of its own does it, one at a time; the reader stays free. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/text/tmpl/tmpl.h"
#include "core/train/recipe.h"
#include "daemon/engine/engine.h"

#define ANSWER_MAX QL_MIB(3) /* of QL_FRAME_MAX: text that must be escaped grows */

static int make(struct engine *g, const json_t *f, json_t **out, struct ql_err *e)
{
	const char *file = NULL;
	struct ql_dataset_opts o;
	struct ql_recipe r;
	int64_t lines = 10;
	int rc = ql_json_get_str(f, "file", 1, 256, &file, e);

	if (rc == QL_OK)
		rc = ql_json_get_int(f, "lines", 1, 100, &lines, e);
	if (rc == QL_OK)
		rc = ql_recipe_parse(&r, json_object_get(f, "recipe"), true, e);
	if (rc == QL_OK && (file == NULL || strncmp(file, "files/", 6) != 0))
		rc = ql_err_param(e, QL_EINVAL, "file", "preview without a file");
	if (rc != QL_OK)
		return rc;
	o = engine_dataset_opts(g, &r, g->tmpl, r.max_seq_length);
	return ql_dataset_preview(out, g->state_fd, file, &o, (size_t)lines, ANSWER_MAX, e);
}

static int work(struct engine_task *t, json_t **out, struct ql_err *e) { return make(t->g, t->frame, out, e); }

void engine_preview(struct engine *g, const json_t *frame, int64_t id)
{
	static const struct engine_task_kind kind = {.name = "preview", .alone = true, .work = work, .answer = engine_task_answer};
	struct ql_err e = {0};

	if (engine_task_start(g, &kind, frame, &e) != QL_OK)
		engine_send_error(id, &e);
}
