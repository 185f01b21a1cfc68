/* preview.c - infer kind "preview": the first lines of a file as a job would train on them.  Lines may be long and templates slow, so a
 * thread of its own does it, one at a time; the reader stays free. */
#include <stdlib.h>
#include <string.h>

#include "core/base/json.h"
#include "core/text/tmpl/tmpl.h"
#include "core/train/recipe.h"
#include "daemon/engine/engine.h"

#define ANSWER_MAX QL_MIB(3) /* of QL_FRAME_MAX: text that must be escaped grows */

struct preview {
	struct engine *g;
	json_t *frame;
	int64_t id;
};

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

static void *preview_main(void *arg)
{
	struct preview *p = arg;
	struct engine *g = p->g;
	json_t *out = NULL;
	struct ql_err e = {0};

	if (make(g, p->frame, &out, &e) == QL_OK)
		engine_send_result(p->id, out);
	else
		engine_send_error(p->id, &e);
	json_decref(p->frame);
	free(p);
	g->previewing = false;
	return NULL;
}

void engine_preview(struct engine *g, const json_t *frame, int64_t id)
{
	struct preview *p = NULL;
	struct ql_err e = {0};
	pthread_t t;

	if (atomic_exchange(&g->previewing, true)) {
		(void)ql_err_set(&e, QL_EBUSY, "another preview is being made");
		engine_send_error(id, &e);
		return;
	}
	p = malloc(sizeof *p);
	if (p != NULL) {
		*p = (struct preview){g, json_incref((json_t *)(uintptr_t)frame), id};
		if (pthread_create(&t, NULL, preview_main, p) == 0) {
			(void)pthread_detach(t);
			return;
		}
		json_decref(p->frame);
		free(p);
	}
	g->previewing = false;
	(void)ql_err_set(&e, QL_ENOMEM, "no thread for the preview");
	engine_send_error(id, &e);
}
