/* job_validated.c - frame `validated`: the files are good (auto values, data set, fingerprint are settled) or the job fails. */
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"
#include "daemon/jobs_internal.h"

static json_t *dataset_json(const json_t *d)
{
	static const char *const keys[] = {"examples", "dropped", "truncated", "trailing_dropped", "only_last", "tokens", "target_tokens", "max_tokens"};
	json_t *o = json_object();

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
		if (json_is_integer(json_object_get(d, keys[i])))
			(void)json_object_set(o, keys[i], json_object_get(d, keys[i]));
	return o;
}

static json_t *fingerprint_json(struct ql_control *ctl, const json_t *dataset)
{
	static const char *const keys[] = {"base_sha256", "template_sha256", "tokenizer_sha256"}, *const runs_on[] = {"device", "build"};
	const json_t *model = ql_engine_model(ctl), *v;
	json_t *o = json_object();

	for (size_t i = 0; i < 3; i++)
		if (json_is_string(v = json_object_get(model, keys[i])))
			(void)json_object_set_new(o, keys[i], json_copy((json_t *)(uintptr_t)v));
	if (json_is_string(v = json_object_get(dataset, "sha256")))
		(void)json_object_set_new(o, "dataset_sha256", json_copy((json_t *)(uintptr_t)v));
	for (size_t i = 0; i < 2; i++)
		if (json_is_string(v = json_object_get(ql_engine_info(ctl), runs_on[i])))
			(void)json_object_set_new(o, runs_on[i], json_copy((json_t *)(uintptr_t)v));
	(void)json_object_set_new(o, "exact_resume", json_true());
	return o;
}

static int files_good(struct ql_control *ctl, struct ql_job *j, const json_t *f, int64_t examples, struct ql_err *e)
{
	const json_t *data = json_object_get(f, "dataset"), *estimate = json_object_get(f, "estimate");
	bool start = !json_is_false(json_object_get(j->recipe, "auto_start"));
	int64_t context = ql_engine_context(ctl), dropped = json_integer_value(json_object_get(data, "dropped")),
		truncated = json_integer_value(json_object_get(data, "truncated")),
		only_last = json_integer_value(json_object_get(data, "only_last"));
	json_t *dataset = dataset_json(data), *print = fingerprint_json(ctl, data);
	int rc = ql_recipe_resolve(j->recipe, examples, context, json_number_value(json_object_get(ql_engine_model(ctl), "parameters")), e);

	if (rc == QL_OK)
		rc = ql_job_set_json(ctl, "UPDATE jobs SET recipe = ?2 WHERE id = ?1", j->id, j->recipe, e);
	if (rc == QL_OK)
		rc = ql_job_set_json(ctl, "UPDATE jobs SET dataset = ?2 WHERE id = ?1", j->id, dataset, e);
	if (rc == QL_OK)
		rc = ql_job_set_json(ctl, "UPDATE jobs SET fingerprint = ?2 WHERE id = ?1", j->id, print, e);
	if (rc == QL_OK && json_is_object(estimate))
		rc = ql_job_set_json(ctl, "UPDATE jobs SET estimate = ?2 WHERE id = ?1", j->id, estimate, e);
	if (rc == QL_OK)
		rc = ql_job_move(ctl, j, start ? QL_E_FILES_GOOD : QL_E_FILES_HELD, NULL, e);
	if (rc == QL_OK && (dropped > 0 || truncated > 0))
		rc = ql_job_event(ctl, j->id, "warn", NULL, -1, e, "Longer than max_seq_length: %lld examples truncated, %lld dropped",
				  (long long)truncated, (long long)dropped);
	if (rc == QL_OK && only_last > 0)
		rc = ql_job_event(ctl, j->id, "warn", NULL, -1, e, "The chat template rewrites earlier answers: of %lld examples only the last "
				  "answer is trained", (long long)only_last);
	if (rc == QL_OK)
		rc = start ? ql_job_event(ctl, j->id, "info", NULL, -1, e, "Files validated, moving job to queued state")
			   : ql_job_event(ctl, j->id, "info", NULL, -1, e, "Files validated; the job was paused (auto_start)");
	if (rc == QL_OK && (rc = ql_store_run(ctl->store, e, "UPDATE jobs SET pause_reason = ?2, deaths = 0 WHERE id = ?1", "ss", j->id,
					      start ? NULL : "auto_start")) >= 0)
		rc = QL_OK;
	json_decref(dataset);
	json_decref(print);
	return rc;
}

int ql_job_on_validated(struct ql_control *ctl, struct ql_live *l, const json_t *f, struct ql_err *e)
{
	const char *code = NULL, *message = "", *param = NULL;
	char text[160];
	int64_t examples = 0;
	bool ok = false;
	struct ql_job j;
	int rc;

	if ((rc = ql_json_get_bool(f, "ok", &ok, e)) != QL_OK || (rc = ql_json_get_str(f, "code", 0, 47, &code, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "message", 0, QL_FRAME_MAX, &message, e)) != QL_OK ||
	    (rc = ql_json_get_str(f, "param", 0, 63, &param, e)) != QL_OK ||
	    (rc = ql_json_get_int(json_object_get(f, "dataset"), "examples", 0, INT64_MAX, &examples, e)) != QL_OK ||
	    (rc = ql_job_frame_begin(ctl, l, &j, e)) != QL_OK)
		return rc;
	if (!ok) {
		rc = ql_job_give_up(ctl, &j, json_object_get(f, "faults"), code == NULL ? "invalid_training_file" : code, param, message, e);
	} else if (examples < ctl->config->min_examples) {
		(void)snprintf(text, sizeof text, "The training file has %lld examples, but must have at least %lld.", (long long)examples,
			       (long long)ctl->config->min_examples);
		rc = ql_job_give_up(ctl, &j, NULL, "invalid_n_examples", "training_file", text, e);
	} else {
		rc = files_good(ctl, &j, f, examples, e);
	}
	return ql_job_frame_last(ctl, l, &j, rc, e);
}
