/* job_prepare.c - what a job reads before its first step: the recipe, its files through the template, the adapter it goes on from; and
 * the identity that a checkpoint must have to be gone on from. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/hash.h"
#include "core/base/io.h"
#include "core/base/json.h"
#include "core/text/tmpl/tmpl.h"
#include "daemon/engine/job.h"

static int cancelled(void *ctx) { return ((struct job *)ctx)->stop != QL_TRAIN_GO; }

static json_t *identity(const struct job *j, const char *template_sha, const char *data_sha, const char *valid_sha)
{
	char *text = json_dumps(json_object_get(j->frame, "recipe"), JSON_SORT_KEYS | JSON_COMPACT);
	char recipe_sha[65];
	json_t *o;

	if (text == NULL)
		return NULL;
	ql_sha256_hex(text, strlen(text), recipe_sha);
	free(text);
	o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "base", j->g->model->base_sha256, "tokenizer", j->g->tokenizer_sha256,
		      "template", template_sha, "dataset", data_sha, "validation", valid_sha, "recipe", recipe_sha, "quantization",
		      ql_dtype_name(j->g->model->quant_kind));
	return o;
}

static int load_data(struct job *j, const struct ql_tmpl *t, char data_sha[65], char valid_sha[65], struct ql_err *e)
{
	const json_t *recipe = json_object_get(j->frame, "recipe");
	const char *path = NULL, *valid = NULL;
	struct ql_dataset_report *rep = malloc(sizeof *rep);
	int rc = rep == NULL ? ql_err_set(e, QL_ENOMEM, "dataset") : ql_json_get_str(j->frame, "training_file", 1, 256, &path, e);

	if (rc == QL_OK && path == NULL)
		rc = ql_err_param(e, QL_EINVAL, "training_file", "no training file");
	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "validation_file", 1, 256, &valid, e);
	if (rc == QL_OK)
		rc = engine_dataset(j->g, path, recipe, t, j->t.recipe.max_seq_length, 1, cancelled, j, &j->data, rep, e);
	if (rc == QL_OK)
		memcpy(data_sha, rep->sha256, 65);
	if (rc == QL_OK && valid != NULL) {
		rc = engine_dataset(j->g, valid, recipe, t, j->t.recipe.max_seq_length, 1, cancelled, j, &j->valid, rep, e);
		if (rc == QL_OK)
			memcpy(valid_sha, rep->sha256, 65);
	}
	free(rep);
	return rc;
}

static int load_init(struct job *j, struct ql_err *e)
{
	const char *dir = NULL;
	int rc = ql_json_get_str(j->frame, "adapter_from", 1, 256, &dir, e), fd;

	if (rc != QL_OK || dir == NULL)
		return rc;
	fd = engine_open_state_dir(j->g, dir, e);
	if (fd < 0)
		return fd;
	rc = ql_adapter_read(&j->init, fd, &j->g->model->arch, e);
	(void)close(fd);
	if (rc == QL_OK)
		j->t.init = &j->init;
	return rc;
}

int engine_job_prepare(struct job *j, struct ql_err *e)
{
	char template_sha[65], data_sha[65] = "", valid_sha[65] = "";
	const char *dir = NULL, *resume = NULL;
	const struct ql_tmpl *t;
	double snapshot = j->g->snapshot_seconds;
	int rc = ql_recipe_parse(&j->t.recipe, json_object_get(j->frame, "recipe"), false, e), jobs_fd = -1;

	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "dir", 1, 256, &dir, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(j->frame, "resume", 1, 64, &resume, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(j->frame, "snapshot_seconds", 0.001, 86400, &snapshot, e);
	if (rc == QL_OK && (dir == NULL || strncmp(dir, "jobs/", 5) != 0))
		rc = ql_err_param(e, QL_EINVAL, "dir", "start without a job directory");
	if (rc == QL_OK)
		rc = engine_template(j->g, j->t.recipe.chat_template, &t, &j->own_template, template_sha, e);
	if (rc == QL_OK)
		rc = load_data(j, t, data_sha, valid_sha, e);
	if (rc == QL_OK)
		rc = load_init(j, e);
	if (rc == QL_OK)
		rc = ql_io_ensure_dir(j->g->state_fd, "jobs", &jobs_fd, e);
	if (rc == QL_OK) {
		rc = ql_io_ensure_dir(jobs_fd, dir + 5, &j->dir, e);
		(void)close(jobs_fd);
	}
	if (rc != QL_OK)
		return rc;
	j->identity = identity(j, template_sha, data_sha, valid_sha);
	if (j->identity == NULL)
		return ql_err_set(e, QL_ENOMEM, "job");
	j->t.model = j->g->model;
	j->t.data = j->data;
	j->t.valid = j->valid;
	j->t.identity = j->identity;
	j->t.base_name = ql_source_name(j->g->source);
	j->t.dir = j->dir;
	j->t.resume = resume;
	j->t.snapshot_seconds = snapshot;
	j->t.events = engine_job_events(j);
	return QL_OK;
}

