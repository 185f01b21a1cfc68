/* job_create.c - POST /v1/fine_tuning/jobs: checks, then one transaction with the job, its first events and the idempotency
 * record.  Nothing that needs the files' content is checked here. */
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/hash.h"
#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/engine_link.h"
#include "daemon/files.h"
#include "daemon/idem.h"
#include "daemon/jobs_internal.h"
#include "daemon/models_internal.h"

#define ROUTE "/v1/fine_tuning/jobs"
#define WAITING "SELECT count(*) FROM jobs WHERE state IN ('validating', 'queued', 'paused')"

struct draft {
	struct ql_job_request req;
	struct ql_model_ref from; /* model to go on from; base: none */
	char id[QL_ID_SIZE], name[QL_MODEL_NAME_SIZE];
	json_t *inherit;
};

static int check_file(struct ql_control *ctl, const struct ql_who *who, const char *id, const char *param, struct ql_fault *f)
{
	char purpose[32];
	const char *code = strcmp(param, "training_file") == 0 ? "invalid_training_file" : "invalid_validation_file";

	if (id == NULL)
		return QL_OK;
	if (!ql_id_ok(id, "file-") || ql_file_purpose(ctl, who, id, purpose) != QL_OK)
		return ql_fault_set(f, QL_EINVAL, 400, code, param, "File '%.80s' does not exist.", id);
	if (strcmp(purpose, "fine-tune") != 0)
		return ql_fault_set(f, QL_EINVAL, 400, code, param, "File '%.80s' has purpose '%s', not 'fine-tune'.", id, purpose);
	return QL_OK;
}

static json_t *imported_shape(struct ql_control *ctl, const char *name)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, "SELECT shape FROM models WHERE name = ?1 AND job = ''", "s", name);
	json_t *shape = NULL;

	if (q != NULL && ql_store_step(ctl->store, q, &e) == 1)
		(void)ql_json_parse(ql_store_text(q, 0), strlen(ql_store_text(q, 0)), QL_JSON_BODY_MAX, &shape, &e);
	ql_store_done(q);
	return shape;
}

/* The model that training starts from; continued training takes over the recipe's adapter shape. */
static int check_model(struct ql_control *ctl, const struct ql_who *who, struct draft *d, struct ql_fault *f)
{
	struct ql_err e = {0};
	struct ql_job source;

	if (ql_model_resolve(ctl, who, d->req.model, &d->from, NULL) != QL_OK)
		return ql_fault_set(f, QL_EINVAL, 400, "model_not_available", "model",
				"The model '%.120s' is not available for fine-tuning.", d->req.model);
	if (d->from.base)
		return QL_OK;
	if (d->from.job[0] == '\0') {
		d->inherit = imported_shape(ctl, d->from.name);
		return d->inherit != NULL ? QL_OK : ql_fault_internal(f, NULL, "model");
	}
	if (ql_job_load(ctl, d->from.job, &source, &e) != QL_OK)
		return ql_fault_set(f, QL_EINVAL, 400, "model_not_available", "model", "The model '%.120s' has no training record.", d->req.model);
	d->inherit = json_incref(source.recipe);
	ql_job_free(&source);
	return QL_OK;
}

static int make_draft(struct ql_control *ctl, const struct ql_who *who, const json_t *body, struct draft *d, struct ql_fault *f)
{
	const json_t *model = ql_engine_model(ctl);
	struct ql_recipe_facts facts = {.context = ql_engine_context(ctl),
					.parameters = json_number_value(json_object_get(model, "parameters")),
					.quantization = json_object_get(model, "quantization")};
	const char *code = NULL;
	struct ql_err e = {0};
	int rc;

	if (ql_job_request_read(body, &d->req, &code, &e) != QL_OK)
		return ql_fault_err(f, &e, code);
	if ((rc = check_model(ctl, who, d, f)) != QL_OK || (rc = check_file(ctl, who, d->req.training_file, "training_file", f)) != QL_OK ||
	    (rc = check_file(ctl, who, d->req.validation_file, "validation_file", f)) != QL_OK)
		return rc;
	facts.inherit = d->inherit;
	if (ql_recipe_make(body, &facts, &d->req.recipe, &code, &e) != QL_OK)
		return ql_fault_err(f, &e, code);
	if (d->req.seed < 0)
		d->req.seed = (int64_t)randombytes_uniform(0x80000000u);
	ql_id_make(d->id, "ftjob-");
	ql_model_make_name(ctl->base_name, d->req.suffix == NULL ? "" : d->req.suffix, d->name);
	return QL_OK;
}

static int insert_row(struct ql_control *ctl, const struct ql_who *who, const struct draft *d, struct ql_err *e)
{
	char *recipe = ql_json_text(d->req.recipe), *metadata = d->req.metadata == NULL ? NULL : ql_json_text(d->req.metadata);
	int rc;

	if (recipe == NULL || (d->req.metadata != NULL && metadata == NULL))
		rc = ql_err_set(e, QL_ENOMEM, "job");
	else
		rc = ql_store_run(ctl->store, e,
				  "INSERT INTO jobs (id, project, state, created_at, model, base_model, adapter_from, reserved_name, training_file,"
				  " validation_file, suffix, seed, metadata, priority, recipe)"
				  " VALUES (?1, ?2, 'validating', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
				  "ssisssssssisis", d->id, who->project, (int64_t)time(NULL), d->req.model, ctl->base_name,
				  d->from.base ? NULL : d->from.name, d->name, d->req.training_file, d->req.validation_file, d->req.suffix,
				  d->req.seed, metadata, (int64_t)json_integer_value(json_object_get(d->req.recipe, "priority")), recipe);
	free(recipe);
	free(metadata);
	return rc < 0 ? rc : QL_OK;
}

static int insert_events(struct ql_control *ctl, const struct draft *d, struct ql_err *e)
{
	int rc = ql_job_event(ctl, d->id, "info", NULL, -1, e, "Created fine-tuning job: %s", d->id);

	if (rc == QL_OK)
		rc = d->req.validation_file == NULL
			     ? ql_job_event(ctl, d->id, "info", NULL, -1, e, "Validating training file: %s", d->req.training_file)
			     : ql_job_event(ctl, d->id, "info", NULL, -1, e, "Validating training file: %s and validation file: %s",
					    d->req.training_file, d->req.validation_file);
	if (rc == QL_OK && d->req.wandb)
		rc = ql_job_event(ctl, d->id, "warn", NULL, -1, e, "The wandb integration is not acted upon: this server opens no outgoing connections");
	return rc;
}

/* The transaction; *reply gets the job as it is answered and stored for repeats. */
static int commit_draft(struct ql_control *ctl, const struct ql_who *who, const struct draft *d, const struct ql_idem *idem,
			const char *fingerprint, struct ql_reply *reply, struct ql_err *e)
{
	struct ql_job j;
	int rc = ql_job_begin(ctl, e);

	if (rc != QL_OK)
		return rc;
	if ((rc = insert_row(ctl, who, d, e)) == QL_OK && (rc = insert_events(ctl, d, e)) == QL_OK &&
	    (rc = ql_job_touch(ctl, d->id, who->project, e)) == QL_OK && (rc = ql_job_load(ctl, d->id, &j, e)) == QL_OK) {
		reply->status = 200;
		reply->body = ql_job_json(ctl, who, &j);
		ql_job_free(&j);
		rc = reply->body == NULL ? ql_err_set(e, QL_ENOMEM, "job") : ql_idem_save(ctl, who, ROUTE, idem, fingerprint, 200, reply->body, e);
	}
	if (rc == QL_OK)
		rc = ql_job_commit(ctl, e);
	else
		ql_job_rollback(ctl);
	if (rc != QL_OK) {
		json_decref(reply->body);
		reply->body = NULL;
	}
	return rc;
}

static int check_room(struct ql_control *ctl, struct ql_fault *f)
{
	if (ctl->draining)
		return ql_fault_set(f, QL_ESTATE, 503, "draining", NULL, "The server is shutting down.");
	if (ql_store_int(ctl->store, 0, WAITING, "") >= ctl->config->max_waiting_jobs) {
		(void)ql_fault_set(f, QL_ELIMIT, 429, "queue_full", NULL, "There are too many waiting jobs.");
		if (f != NULL)
			f->no_retry = true;
		return QL_ELIMIT;
	}
	return ql_model_room(ctl, f);
}

int ql_job_create(struct ql_control *ctl, const struct ql_who *who, const json_t *body, const struct ql_idem *idem,
		  struct ql_reply *reply, struct ql_fault *f)
{
	char fingerprint[QL_SHA256_HEX_SIZE];
	struct draft *d = NULL;
	struct ql_err e = {0};
	int rc;

	memset(reply, 0, sizeof *reply);
	ql_sha256_hex(idem != NULL && idem->body != NULL ? idem->body : "", idem != NULL ? idem->body_len : 0, fingerprint);
	rc = ql_idem_find(ctl, who, ROUTE, idem, fingerprint, reply, f);
	if (rc != 0)
		return rc > 0 ? QL_OK : rc;
	rc = check_room(ctl, f);
	if (rc != QL_OK)
		return rc;
	d = calloc(1, sizeof *d);
	if (d == NULL)
		return ql_fault_internal(f, NULL, "job");
	rc = make_draft(ctl, who, body, d, f);
	if (rc == QL_OK && (rc = commit_draft(ctl, who, d, idem, fingerprint, reply, &e)) != QL_OK)
		rc = ql_fault_internal(f, &e, "job create");
	json_decref(d->req.recipe);
	json_decref(d->inherit);
	free(d);
	if (rc == QL_OK)
		ql_jobs_schedule(ctl);
	return rc;
}
