/* validate.c - frame `validate`: every line of a job's files read, rendered and tokenised; the report as frame `validated`. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/json.h"
#include "core/text/tmpl/tmpl.h"
#include "core/train/trainer.h"
#include "daemon/engine/engine.h"

#define MIN_EXAMPLES 10

struct ql_dataset_opts engine_dataset_opts(const struct engine *g, const struct ql_recipe *r, const struct ql_tmpl *t,
					   uint32_t max_seq_length)
{
	uint32_t context = g->model->arch.max_position_embeddings;

	return (struct ql_dataset_opts){.tok = g->tok, .tmpl = t, .trusted = g->trusted,
					.max_seq_length = max_seq_length < context ? max_seq_length : context,
					.on_overlong = (enum ql_overlong)r->on_overlong, .train_on = (enum ql_train_on)r->train_on,
					.completion_only_loss = r->completion_only_loss, .alpaca_template = r->alpaca_template,
					/* fixed: templates that print the date must train the same on a resume */
					.now_unix = 1767225600};
}

int engine_dataset(struct engine *g, const char *path, const json_t *recipe, const struct ql_tmpl *t, uint32_t max_seq_length,
		   int min_examples, int (*cancelled)(void *), void *ctx, struct ql_dataset **out, struct ql_dataset_report *rep,
		   struct ql_err *e)
{
	struct ql_dataset_opts o;
	struct ql_recipe r;
	int rc = ql_recipe_parse(&r, recipe, true, e);

	if (rc != QL_OK)
		return rc;
	o = engine_dataset_opts(g, &r, t, max_seq_length);
	o.min_examples = min_examples;
	o.cancelled = cancelled;
	o.cancel_ctx = ctx;
	return ql_dataset_load(out, g->state_fd, path, &o, rep, e);
}

static void add_faults(json_t *frame, const struct ql_dataset_report *rep)
{
	json_t *list = json_array();

	for (uint64_t i = 0; i < rep->n_faults && i < QL_DATASET_FAULTS_REPORTED; i++)
		(void)json_array_append_new(list, json_pack("{s:I, s:s}", "line", (json_int_t)rep->faults[i].line, "reason",
							    rep->faults[i].reason));
	(void)json_object_set_new(frame, "faults", list);
	(void)json_object_set_new(frame, "n_faults", json_integer((json_int_t)rep->n_faults));
}

static json_t *report_json(const struct ql_dataset_report *r)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "kind", r->kind, "examples", (json_int_t)r->examples,
			 "dropped", (json_int_t)r->dropped, "truncated", (json_int_t)r->truncated, "trailing_dropped",
			 (json_int_t)r->trailing_dropped, "only_last", (json_int_t)r->only_last, "tokens", (json_int_t)r->tokens,
			 "target_tokens", (json_int_t)r->target_tokens, "max_tokens", (json_int_t)r->max_tokens, "sha256", r->sha256);
}

/* What the word for a refused file is. */
static const char *code_of(int rc, const struct ql_err *e, bool validation)
{
	if (strcmp(e->param, "invalid_n_examples") == 0)
		return "invalid_n_examples";
	if (rc == QL_ENODEVMEM)
		return "not_enough_memory";
	if (rc == QL_ENOTFOUND)
		return "file_expired";
	return validation ? "invalid_validation_file" : "invalid_training_file";
}

int engine_estimate(struct engine *g, const struct ql_recipe *r, uint32_t longest, struct ql_memory_plan *out, struct ql_err *e)
{
	struct ql_memory_wish wish = {.also_available = engine_jobs_memory(g)};

	/* memory is only read here: no turn at the gate is needed */
	return ql_train_plan_memory(g->model, r, longest, 0, &wish, out, e);
}

static int check_files(struct engine_task *task, json_t *reply, bool *validation, struct ql_dataset_report *rep, struct ql_err *e)
{
	struct engine *g = task->g;
	const json_t *f = task->frame, *recipe = json_object_get(f, "recipe");
	const char *path = NULL, *valid = NULL;
	struct ql_dataset *d = NULL;
	struct ql_tmpl *owned = NULL;
	const struct ql_tmpl *t;
	struct ql_recipe r;
	struct ql_memory_plan mem;
	uint32_t longest;
	char hex[65];
	int rc = ql_recipe_parse(&r, recipe, true, e);

	if (rc == QL_OK)
		rc = ql_json_get_str(f, "training_file", 1, 256, &path, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(f, "validation_file", 1, 256, &valid, e);
	if (rc == QL_OK)
		rc = engine_template(g, r.chat_template, &t, &owned, hex, e);
	if (rc == QL_OK)
		rc = engine_dataset(g, path == NULL ? "" : path, recipe, t, r.max_seq_length, MIN_EXAMPLES, engine_task_cancelled, task, &d, rep, e);
	if (rc != QL_OK)
		goto cleanup;
	(void)json_object_set_new(reply, "dataset", report_json(rep));
	longest = (uint32_t)rep->max_tokens;
	ql_dataset_free(d);
	d = NULL;
	if (valid != NULL) {
		*validation = true;
		rc = engine_dataset(g, valid, recipe, t, r.max_seq_length, 1, engine_task_cancelled, task, &d, rep, e);
		if (rc != QL_OK)
			goto cleanup;
		(void)json_object_set_new(reply, "validation", report_json(rep));
		if (rep->max_tokens > longest)
			longest = (uint32_t)rep->max_tokens;
		*validation = false;
	}
	ql_recipe_split(&r);
	rc = engine_estimate(g, &r, longest, &mem, e);
	if (rc == QL_OK)
		(void)json_object_set_new(reply, "estimate", json_pack("{s:I}", "memory_bytes", (json_int_t)mem.bytes));
cleanup:
	ql_dataset_free(d);
	ql_tmpl_free(owned);
	return rc;
}

/* The frame is made whatever comes out; `answer` sends it. */
static int work(struct engine_task *t, json_t **out, struct ql_err *e)
{
	json_t *reply = json_pack("{s:s, s:O, s:O, s:n}", "type", "validated", "job", json_object_get(t->frame, "job"), "attempt",
				  json_object_get(t->frame, "attempt"), "validation");
	struct ql_dataset_report *rep = calloc(1, sizeof *rep);
	bool validation = false;
	int rc = rep == NULL || reply == NULL ? ql_err_set(e, QL_ENOMEM, "no memory to check the files")
					      : check_files(t, reply, &validation, rep, e);

	(void)json_object_set_new(reply, "ok", json_boolean(rc == QL_OK));
	if (rep != NULL)
		add_faults(reply, rep);
	if (rc != QL_OK) {
		bool recipe = strcmp(e->param, "rank_pattern") == 0 || strcmp(e->param, "alpha_pattern") == 0; /* only the engine knows the modules */

		(void)json_object_set_new(reply, "code", json_string(recipe ? "invalid_value" : code_of(rc, e, validation)));
		(void)json_object_set_new(reply, "message", json_string(e->message));
		(void)json_object_set_new(reply, "param", json_string(recipe ? e->param : validation ? "validation_file" : "training_file"));
	}
	free(rep);
	*out = reply;
	return rc;
}

static void answer(struct engine_task *t, int rc, json_t *out, const struct ql_err *e)
{
	(void)rc, (void)e;
	if (t->cancelled)
		json_decref(out);
	else
		engine_send(out);
}

void engine_validate(struct engine *g, json_t *frame)
{
	static const struct engine_task_kind kind = {.name = "validation", .work = work, .answer = answer};
	struct ql_err e = {0};

	if (engine_task_start(g, &kind, frame, &e) != QL_OK)
		engine_fatal(70, &e);
}
