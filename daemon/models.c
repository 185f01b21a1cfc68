/* models.c - names of models: making, resolving, listing, deleting; see models.h. */
#include "daemon/models.h"

#include <ctype.h>
#include <sodium/randombytes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/limits.h"
#include "core/base/log.h"
#include "daemon/engine_internal.h"
#include "daemon/jobs_internal.h"
#include "daemon/models_internal.h"
#include "daemon/revision.h"

#define GENERATION_CHECKPOINT ((int64_t)1 << 40) /* keeps generations of checkpoints and of models apart */

static void random_part(char out[9])
{
	static const char digits[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	for (int i = 0; i < 8; i++)
		out[i] = digits[randombytes_uniform(62)];
	out[8] = '\0';
}

void ql_model_make_name(const char *base, const char *suffix, char out[QL_MODEL_NAME_SIZE])
{
	char own[9];

	random_part(own);
	(void)snprintf(out, QL_MODEL_NAME_SIZE, "ft:%.128s:" QL_ORGANIZATION ":%.64s:%s", base, suffix, own);
}

void ql_model_make_checkpoint_name(const char *base, const char *suffix, int64_t step, char out[QL_MODEL_NAME_SIZE])
{
	char own[9];

	random_part(own);
	(void)snprintf(out, QL_MODEL_NAME_SIZE, "ft:%.128s:" QL_ORGANIZATION ":%.64s:%s:ckpt-step-%lld", base, suffix, own, (long long)step);
}

void ql_model_base_name(const char *path, char out[QL_MODEL_NAME_SIZE])
{
	size_t n = strlen(path), start, k = 0;

	while (n > 1 && path[n - 1] == '/')
		n--;
	for (start = n; start > 0 && path[start - 1] != '/'; start--)
		;
	if (n - start > 5 && strncmp(path + n - 5, ".gguf", 5) == 0)
		n -= 5;
	for (size_t i = start; i < n && k < 128; i++) {
		bool plain = isalnum((unsigned char)path[i]) || strchr("._-", path[i]) != NULL;

		if (k == 0 && !isalnum((unsigned char)path[i]))
			continue;
		out[k++] = plain ? path[i] : '-';
	}
	out[k] = '\0';
	if (k == 0)
		(void)snprintf(out, QL_MODEL_NAME_SIZE, "base");
}

bool ql_model_is_base(const struct ql_control *ctl, const char *name)
{
	if (strcmp(name, ctl->base_name) == 0)
		return true;
	for (size_t i = 0; i < ctl->config->aliases.n; i++)
		if (strcmp(name, ctl->config->aliases.v[i]) == 0)
			return true;
	return false;
}

static int not_found(struct ql_fault *f, const char *name)
{
	return ql_fault_set(f, QL_ENOTFOUND, 404, "model_not_found", "model",
			"The model `%.200s` does not exist or you do not have access to it.", name);
}

/* A finished model: a row of `models`. */
static int find_model(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_model_ref *out, struct ql_err *e)
{
	sqlite3_stmt *q = ql_store_query(ctl->store, e, "SELECT name, dir, seq, job, project FROM models WHERE name = ?1 AND (?2 = '' OR project = ?2)", "ss",
					 name, ql_who_filter(who));
	int rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);

	if (rc == 1) {
		(void)snprintf(out->name, sizeof out->name, "%s", ql_store_text(q, 0));
		(void)snprintf(out->dir, sizeof out->dir, "%s", ql_store_text(q, 1));
		out->generation = sqlite3_column_int64(q, 2);
		(void)snprintf(out->job, sizeof out->job, "%s", ql_store_text(q, 3));
		(void)snprintf(out->project, sizeof out->project, "%s", ql_store_text(q, 4));
		out->step = -1;
	}
	ql_store_done(q);
	return rc;
}

static int find_checkpoint(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_model_ref *out,
		struct ql_err *e)
{
	sqlite3_stmt *q = ql_store_query(ctl->store, e,
					 "SELECT c.name, c.dir, c.seq, c.job, c.step FROM checkpoints c JOIN jobs j ON j.id = c.job WHERE c.name = ?1 AND"
					 " c.kind = 'user' AND c.invalid = 0 AND (?2 = '' OR j.project = ?2)",
					 "ss", name, ql_who_filter(who));
	int rc = q == NULL ? e->code : ql_store_step(ctl->store, q, e);

	if (rc == 1) {
		(void)snprintf(out->name, sizeof out->name, "%s", ql_store_text(q, 0));
		(void)snprintf(out->dir, sizeof out->dir, "jobs/%s/%s", ql_store_text(q, 3), ql_store_text(q, 1));
		out->generation = GENERATION_CHECKPOINT + sqlite3_column_int64(q, 2);
		(void)snprintf(out->job, sizeof out->job, "%s", ql_store_text(q, 3));
		out->step = sqlite3_column_int64(q, 4);
	}
	ql_store_done(q);
	return rc;
}

int ql_model_resolve(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_model_ref *out, struct ql_fault *f)
{
	struct ql_err e = {0};
	int rc;

	memset(out, 0, sizeof *out);
	out->step = -1;
	if (ql_model_is_base(ctl, name)) {
		out->base = true;
		(void)snprintf(out->name, sizeof out->name, "%s", ctl->base_name);
		return QL_OK;
	}
	rc = find_model(ctl, who, name, out, &e);
	if (rc == 0)
		rc = find_checkpoint(ctl, who, name, out, &e);
	if (rc < 0)
		return ql_fault_internal(f, &e, "model");
	return rc == 1 ? QL_OK : not_found(f, name);
}

json_t *ql_model_adapter(const struct ql_model_ref *m)
{
	if (m->base)
		return json_null();
	return json_pack("{s:s,s:s,s:I}", "name", m->name, "dir", m->dir, "generation", (json_int_t)m->generation);
}

static json_t *model_json(struct ql_control *ctl, const char *id, int64_t created, bool base, bool alias)
{
	const json_t *quantization = json_object_get(ql_engine_model(ctl), "quantization");
	json_t *o = json_pack("{s:s,s:s,s:I,s:s,s:s,s:o}", "id", id, "object", "model", "created", (json_int_t)created, "owned_by",
			QL_ORGANIZATION,
			      "root", base ? ctl->base_name : id, "parent", base && !alias ? json_null() : json_string(ctl->base_name));

	if (o != NULL && ql_engine_context(ctl) > 0)
		(void)json_object_set_new(o, "max_model_len", json_integer(ql_engine_context(ctl)));
	if (o != NULL && quantization != NULL)
		(void)json_object_set(o, "quantization", (json_t *)(uintptr_t)quantization);
	return o;
}

/* Finished models, then checkpoints that do not carry a finished model's name, newest first. */
#define ADAPTERS \
	"SELECT name, created_at, bytes, rank, alpha, CASE job WHEN '' THEN 'import' ELSE 'fine-tune' END FROM models WHERE ?1 = '' OR project = ?1 UNION ALL" \
	" SELECT c.name, c.created_at, c.bytes, json_extract(j.recipe, '$.rank'), json_extract(j.recipe, '$.alpha'), 'checkpoint' FROM checkpoints c" \
	" JOIN jobs j ON j.id = c.job WHERE c.kind = 'user' AND c.invalid = 0 AND (?1 = '' OR j.project = ?1) AND c.name NOT IN (SELECT name FROM models)" \
	" ORDER BY 2 DESC, 1"

int ql_model_list(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f)
{
	json_t *data = json_array();
	struct ql_err e = {0};
	sqlite3_stmt *q;
	int rc;

	(void)json_array_append_new(data, model_json(ctl, ctl->base_name, ctl->started_at, true, false));
	for (size_t i = 0; i < ctl->config->aliases.n; i++)
		if (strcmp(ctl->config->aliases.v[i], ctl->base_name) != 0)
			(void)json_array_append_new(data, model_json(ctl, ctl->config->aliases.v[i], ctl->started_at, true, true));
	q = ql_store_query(ctl->store, &e, ADAPTERS, "s", ql_who_filter(who));
	rc = q == NULL ? e.code : 1;
	while (rc > 0 && (rc = ql_store_step(ctl->store, q, &e)) == 1)
		(void)json_array_append_new(data, model_json(ctl, ql_store_text(q, 0), sqlite3_column_int64(q, 1), false, false));
	ql_store_done(q);
	*out = rc < 0 ? NULL : json_pack("{s:s,s:O}", "object", "list", "data", data);
	json_decref(data);
	return *out == NULL ? ql_fault_internal(f, &e, "models") : QL_OK;
}

static int64_t created_at(struct ql_control *ctl, const char *name)
{
	return ql_store_int(ctl->store, ctl->started_at,
			    "SELECT created_at FROM models WHERE name = ?1 UNION ALL SELECT created_at FROM checkpoints WHERE name = ?1", "s", name);
}

int ql_model_get(struct ql_control *ctl, const struct ql_who *who, const char *name, json_t **out, struct ql_fault *f)
{
	struct ql_model_ref m;
	int rc = ql_model_resolve(ctl, who, name, &m, f);

	if (rc != QL_OK)
		return rc;
	*out = m.base ? model_json(ctl, name, ctl->started_at, true, strcmp(name, ctl->base_name) != 0)
		      : model_json(ctl, m.name, created_at(ctl, m.name), false, false);
	return *out == NULL ? ql_fault_internal(f, NULL, "model") : QL_OK;
}

void ql_model_forget(struct ql_control *ctl, const char *name)
{
	struct ql_err e = {0};

	if (ql_engine_state(ctl) == QL_ENGINE_READY)
		(void)ql_engine_send(ctl->engines[0], json_pack("{s:s,s:s}", "type", "adapter_drop", "name", name), &e);
}

/* Model row and, as it is the same training state under the same name, the checkpoint row of the last step. */
static int remove_rows(struct ql_control *ctl, const struct ql_model_ref *m, struct ql_err *e)
{
	struct ql_job j;
	int rc;

	if (m->job[0] == '\0') { /* imported */
		rc = ql_store_begin(ctl->store, e);
		if (rc == QL_OK) {
			rc = ql_store_run(ctl->store, e, "DELETE FROM models WHERE name = ?1", "s", m->name);
			if (rc >= 0)
				rc = ql_revision_bump(ctl, m->project, NULL, NULL, e);
			if (rc == QL_OK)
				return ql_store_commit(ctl->store, e);
			ql_store_rollback(ctl->store);
		}
		return rc;
	}
	rc = ql_job_load(ctl, m->job, &j, e);
	if (rc != QL_OK)
		return rc;
	rc = ql_job_begin(ctl, e);
	if (rc == QL_OK) {
		rc = ql_store_run(ctl->store, e, "DELETE FROM models WHERE name = ?1", "s", m->name);
		if (rc >= 0)
			rc = ql_store_run(ctl->store, e, "DELETE FROM checkpoints WHERE name = ?1", "s", m->name);
		if (rc >= 0)
			rc = ql_job_touch(ctl, j.id, j.project, e);
		if (rc == QL_OK)
			rc = ql_job_commit(ctl, e);
		else
			ql_job_rollback(ctl);
	}
	ql_job_free(&j);
	return rc;
}

int ql_model_unused(struct ql_control *ctl, const struct ql_model_ref *m, struct ql_fault *f)
{
	if (ql_store_int(ctl->store, 1,
			 "SELECT count(*) FROM jobs WHERE (adapter_from = ?1 OR id = ?2) AND state NOT IN ('succeeded', 'failed', 'cancelled')", "ss",
			 m->name, m->job) > 0)
		return ql_fault_set(f, QL_ESTATE, 400, "invalid_state", "model", "A job that has not ended needs this model.");
	if (ql_store_int(ctl->store, 1, "SELECT count(*) FROM exports WHERE model = ?1 AND state IN ('queued', 'running')", "s", m->name) > 0)
		return ql_fault_set(f, QL_ESTATE, 400, "invalid_state", "model", "An export that has not ended needs this model.");
	return QL_OK;
}

int ql_model_room(struct ql_control *ctl, struct ql_fault *f)
{
	if (ql_store_int(ctl->store, 0, "SELECT count(*) FROM models", "") < QL_ADAPTERS_MAX)
		return QL_OK;
	(void)ql_fault_set(f, QL_ELIMIT, 429, "queue_full", NULL, "There are %d adapters, as many as there may be; delete some first.",
			   QL_ADAPTERS_MAX);
	if (f != NULL)
		f->no_retry = true;
	return QL_ELIMIT;
}

int ql_model_delete(struct ql_control *ctl, const struct ql_who *who, const char *name, json_t **out, struct ql_fault *f)
{
	struct ql_model_ref m, ckpt = {0};
	char dir[160], *slash;
	struct ql_err e = {0};
	int rc = ql_model_resolve(ctl, who, name, &m, f);

	if (rc != QL_OK)
		return rc;
	if (m.base)
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "model", "The base model cannot be deleted.");
	if ((rc = ql_model_unused(ctl, &m, f)) != QL_OK)
		return rc;
	if (find_checkpoint(ctl, who, m.name, &ckpt, &e) < 0 || remove_rows(ctl, &m, &e) != QL_OK)
		return ql_fault_internal(f, &e, "model delete");
	ql_model_forget(ctl, m.name);
	for (int i = 0; i < 2; i++) {
		(void)snprintf(dir, sizeof dir, "%s", i == 0 ? m.dir : ckpt.dir);
		slash = strrchr(dir, '/');
		if (slash == NULL || (i == 1 && strcmp(m.dir, ckpt.dir) == 0))
			continue;
		*slash = '\0';
		ql_remove_later(ctl, dir, slash + 1);
	}
	*out = json_pack("{s:s,s:s,s:b}", "id", m.name, "object", "model", "deleted", 1);
	return *out == NULL ? ql_fault_internal(f, NULL, "model delete") : QL_OK;
}

int ql_model_insert(struct ql_control *ctl, const struct ql_job *j, const char *dir, const char *manifest_sha256, int64_t bytes,
		    const char *base_sha256, struct ql_err *e)
{
	int rc = ql_store_run(ctl->store, e,
			      "INSERT INTO models (name, project, job, base_model, dir, manifest_sha256, bytes, base_sha256, rank, alpha, created_at)"
			      " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
			      "ssssssisidi", j->reserved_name, j->project, j->id, j->base_model, dir, manifest_sha256, bytes, base_sha256,
			      (int64_t)json_integer_value(json_object_get(j->recipe, "rank")), json_number_value(json_object_get(j->recipe, "alpha")),
			      (int64_t)time(NULL));

	return rc < 0 ? rc : QL_OK;
}

int ql_adapter_list(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f)
{
	json_t *data = json_array();
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, ADAPTERS, "s", ql_who_filter(who));
	int rc = q == NULL ? e.code : 1;

	while (rc > 0 && (rc = ql_store_step(ctl->store, q, &e)) == 1)
		(void)json_array_append_new(
			data, json_pack("{s:s,s:s,s:I,s:f,s:I,s:s,s:b,s:s,s:s,s:I}", "id", ql_store_text(q, 0), "object", "adapter", "rank",
					(json_int_t)sqlite3_column_int64(q, 3), "alpha", sqlite3_column_double(q, 4), "bytes",
					(json_int_t)sqlite3_column_int64(q, 2), "tier", ql_engine_holds(ctl, ql_store_text(q, 0)) ? "device" : "disk",
					"pinned", 0, "source",
					ql_store_text(q, 5), "parent", ctl->base_name, "created",
					(json_int_t)sqlite3_column_int64(q, 1)));
	ql_store_done(q);
	*out = rc < 0 ? NULL : json_pack("{s:s,s:O}", "object", "list", "data", data);
	json_decref(data);
	return *out == NULL ? ql_fault_internal(f, &e, "adapters") : QL_OK;
}

int ql_adapter_list_llama(struct ql_control *ctl, const struct ql_who *who, json_t **out, struct ql_fault *f)
{
	json_t *data = json_array();
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, "SELECT seq, name FROM models WHERE ?1 = '' OR project = ?1 ORDER BY seq", "s",
					 ql_who_filter(who));
	int rc = q == NULL ? e.code : 1;

	while (rc > 0 && (rc = ql_store_step(ctl->store, q, &e)) == 1)
		(void)json_array_append_new(data, json_pack("{s:I,s:s,s:f,s:s,s:s}", "id", (json_int_t)sqlite3_column_int64(q, 0), "path",
							    ql_store_text(q, 1), "scale", 1.0, "task_name", "", "prompt_prefix", ""));
	ql_store_done(q);
	if (rc < 0) {
		json_decref(data);
		return ql_fault_internal(f, &e, "adapters");
	}
	*out = data;
	return QL_OK;
}

int ql_adapter_by_id(struct ql_control *ctl, const struct ql_who *who, int64_t id, struct ql_model_ref *out, struct ql_fault *f)
{
	struct ql_err e = {0};
	sqlite3_stmt *q = ql_store_query(ctl->store, &e, "SELECT name FROM models WHERE seq = ?1 AND (?2 = '' OR project = ?2)", "is", id,
					 ql_who_filter(who));
	char name[QL_MODEL_NAME_SIZE] = "";

	if (q != NULL && ql_store_step(ctl->store, q, &e) == 1)
		(void)snprintf(name, sizeof name, "%s", ql_store_text(q, 0));
	ql_store_done(q);
	if (name[0] == '\0')
		return ql_fault_set(f, QL_ENOTFOUND, 400, "invalid_value", "lora", "There is no adapter with id %lld.", (long long)id);
	return ql_model_resolve(ctl, who, name, out, f);
}
