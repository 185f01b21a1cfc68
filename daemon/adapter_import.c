/* adapter_import.c - see adapter_import.h. */
#include "daemon/adapter_import.h"

#include <ctype.h>
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
#include "daemon/revision.h"

#define NAME_MAX_BYTES 128
#define ROUTE "/v1/load_lora_adapter"

struct ql_import {
	struct ql_control *ctl;
	struct ql_who who;
	char name[NAME_MAX_BYTES + 1], id[QL_ID_SIZE];
	char *key, fingerprint[QL_SHA256_HEX_SIZE]; /* of the request, for repeats */
	bool replace;
	ql_import_cb *cb; /* NULL: forgotten */
	void *user;
};

static bool name_ok(const char *s)
{
	size_t n = strlen(s);

	if (n == 0 || n > NAME_MAX_BYTES || !isalnum((unsigned char)s[0]))
		return false;
	for (size_t i = 0; i < n; i++)
		if (!isalnum((unsigned char)s[i]) && strchr("._-", s[i]) == NULL)
			return false;
	return true;
}

/* May the name be given?  With replace an imported adapter of one's own may stand there, unused. */
static int check_name(struct ql_control *ctl, const struct ql_who *who, const char *name, bool replace, struct ql_fault *f)
{
	struct ql_model_ref m;

	if (!name_ok(name) || ql_model_is_base(ctl, name))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "lora_name",
				    "'lora_name' must be 1 to 128 letters, digits, '.', '_' or '-', and not the name of the base.");
	if (ql_store_int(ctl->store, 1, "SELECT count(*) FROM models WHERE name = ?1", "s", name) == 0)
		return QL_OK;
	if (!replace)
		return ql_fault_set(f, QL_ESTATE, 400, "invalid_value", "lora_name", "The adapter '%.128s' is loaded already; give load_inplace to replace it.",
				    name);
	if (ql_model_resolve(ctl, who, name, &m, NULL) != QL_OK || m.job[0] != '\0')
		return ql_fault_set(f, QL_ESTATE, 400, "invalid_value", "lora_name", "'%.128s' is no imported adapter and cannot be replaced.", name);
	return ql_model_unused(ctl, &m, f);
}

static void answer(struct ql_import *x, const struct ql_fault *f)
{
	if (x->cb != NULL)
		x->cb(x->user, f);
	free(x->key);
	free(x);
}

static int save_repeat(struct ql_import *x, struct ql_err *e)
{
	struct ql_idem idem = {.key = x->key};
	json_t *body = json_pack("{s:s}", "name", x->name);
	int rc = body == NULL ? ql_err_set(e, QL_ENOMEM, "import") : ql_idem_save(x->ctl, &x->who, ROUTE, &idem, x->fingerprint, 200, body, e);

	json_decref(body);
	return rc;
}

static int insert(struct ql_import *x, const char *dir, const char *sha256, int64_t bytes, const json_t *shape, const char *text,
		  struct ql_err *e)
{
	const char *base = json_string_value(json_object_get(ql_engine_model(x->ctl), "base_sha256"));
	int rc = ql_store_run(x->ctl->store, e, "DELETE FROM models WHERE name = ?1 AND job = ''", "s", x->name);

	if (rc >= 0)
		rc = ql_store_run(x->ctl->store, e,
				  "INSERT INTO models (name, project, job, base_model, dir, manifest_sha256, bytes, base_sha256, rank, alpha, created_at,"
				  " shape) VALUES (?1, ?2, '', ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
				  "sssssisidis", x->name, x->who.project, x->ctl->base_name, dir, sha256, bytes, base,
				  (int64_t)json_integer_value(json_object_get(shape, "rank")), json_number_value(json_object_get(shape, "alpha")),
				  (int64_t)time(NULL), text);
	return rc < 0 ? rc : ql_revision_bump(x->ctl, x->who.project, NULL, NULL, e);
}

static int commit(struct ql_import *x, const json_t *result, struct ql_err *e)
{
	const json_t *shape = json_object_get(result, "shape");
	const char *sha256 = NULL;
	char dir[80], *text = NULL;
	int64_t bytes = 0, rank = 0;
	double alpha = 0;
	int rc = ql_json_get_str(result, "manifest_sha256", 64, 64, &sha256, e);

	if (rc == QL_OK)
		rc = ql_json_get_int(result, "bytes", 0, INT64_MAX, &bytes, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(shape, "rank", 1, QL_LORA_RANK_MAX, &rank, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(shape, "alpha", 0, 1e6, &alpha, e);
	if (rc == QL_OK && (sha256 == NULL || rank < 1 || (text = ql_json_text(shape)) == NULL))
		rc = ql_err_set(e, QL_EFORMAT, "import: incomplete result");
	if (rc == QL_OK)
		rc = ql_store_begin(x->ctl->store, e);
	if (rc == QL_OK) {
		(void)snprintf(dir, sizeof dir, "adapters/%s", x->id);
		rc = insert(x, dir, sha256, bytes, shape, text, e);
		if (rc == QL_OK)
			rc = save_repeat(x, e);
		if (rc == QL_OK)
			rc = ql_store_commit(x->ctl->store, e);
		else
			ql_store_rollback(x->ctl->store);
	}
	free(text);
	return rc;
}

static void on_result(void *user, const json_t *result)
{
	struct ql_import *x = user;
	char old[160] = "";
	struct ql_model_ref m;
	struct ql_fault f = {0};
	struct ql_err e = {0};
	const char *slash;

	/* the world may have changed while the engine worked */
	if (check_name(x->ctl, &x->who, x->name, x->replace, &f) != QL_OK) {
		ql_remove_later(x->ctl, "adapters", x->id);
		answer(x, &f);
		return;
	}
	if (ql_model_resolve(x->ctl, &x->who, x->name, &m, NULL) == QL_OK)
		(void)snprintf(old, sizeof old, "%s", m.dir);
	if (commit(x, result, &e) != QL_OK) {
		(void)ql_fault_internal(&f, &e, "import");
		ql_remove_later(x->ctl, "adapters", x->id);
		answer(x, &f);
		return;
	}
	slash = strchr(old, '/');
	if (slash != NULL) {
		ql_model_forget(x->ctl, x->name);
		ql_remove_later(x->ctl, "adapters", slash + 1);
	}
	answer(x, NULL);
}

static void on_error(void *user, const struct ql_fault *f)
{
	struct ql_import *x = user;
	struct ql_fault named = *f;

	if (f->status == 503) /* the engine has died: nobody else cleans up behind it */
		ql_remove_unfinished(x->ctl, "adapters", x->id);
	if (f->status == 400)
		(void)snprintf(named.param, sizeof named.param, "lora_path");
	answer(x, &named);
}

/* What can be refused before the engine sees the file. */
static int check(struct ql_control *ctl, const struct ql_who *who, const char *name, const char *file, bool replace, struct ql_fault *f)
{
	char purpose[32];
	int rc = check_name(ctl, who, name, replace, f);

	if (rc != QL_OK)
		return rc;
	if (!ql_id_ok(file, "file-"))
		return ql_fault_set(f, QL_EINVAL, 400, "invalid_value", "lora_path",
				    "'lora_path' must be the id of an uploaded file: a PEFT directory as .tar, or a GGUF adapter.");
	if (ql_file_purpose(ctl, who, file, purpose) != QL_OK)
		return ql_fault_set(f, QL_ENOTFOUND, 404, NULL, "lora_path", "No such File object: %s", file);
	if (!replace && (rc = ql_model_room(ctl, f)) != QL_OK)
		return rc;
	if (!ql_space_ok(ctl, 0))
		return ql_fault_set(f, QL_ENOSPC, 503, "no_space", NULL, "The server's disk is full; try again later.");
	return QL_OK;
}

static int order(struct ql_import *x, const char *file, struct ql_fault *f)
{
	static const struct ql_infer_cb callbacks = {.error = on_error, .result = on_result};
	char path[80], dir[80];
	json_t *frame;
	int64_t id;

	ql_id_make(x->id, "import-");
	(void)snprintf(path, sizeof path, "files/%s", file);
	(void)snprintf(dir, sizeof dir, "adapters/%s", x->id);
	frame = json_pack("{s:s,s:s,s:s}", "kind", "import", "file", path, "dir", dir);
	id = frame == NULL ? ql_fault_internal(f, NULL, "import") : ql_engine_infer(x->ctl, frame, &callbacks, x, f);
	json_decref(frame);
	return id > 0 ? QL_OK : (int)id;
}

int ql_adapter_import(struct ql_control *ctl, const struct ql_who *who, const char *name, const char *file, bool replace,
		      const struct ql_idem *idem, bool *replayed, ql_import_cb *cb, void *user, struct ql_import **out, struct ql_fault *f)
{
	char fingerprint[QL_SHA256_HEX_SIZE];
	struct ql_reply reply = {0};
	struct ql_import *x;
	int rc;

	ql_sha256_hex(idem->body != NULL ? idem->body : "", idem->body_len, fingerprint);
	rc = ql_idem_find(ctl, who, ROUTE, idem, fingerprint, &reply, f);
	json_decref(reply.body);
	*replayed = rc > 0;
	if (rc == 0)
		rc = check(ctl, who, name, file, replace, f);
	else if (rc > 0)
		return QL_OK;
	if (rc != QL_OK)
		return rc;
	x = calloc(1, sizeof *x);
	if (x == NULL || (idem->key != NULL && (x->key = strdup(idem->key)) == NULL)) {
		free(x);
		return ql_fault_internal(f, NULL, "import");
	}
	x->ctl = ctl;
	x->who = *who;
	x->replace = replace;
	x->cb = cb;
	x->user = user;
	(void)snprintf(x->name, sizeof x->name, "%s", name);
	memcpy(x->fingerprint, fingerprint, sizeof x->fingerprint);
	rc = order(x, file, f);
	if (rc != QL_OK) {
		free(x->key);
		free(x);
		return rc;
	}
	*out = x;
	return QL_OK;
}

void ql_import_forget(struct ql_import *x) { x->cb = NULL; }

int ql_adapter_remove(struct ql_control *ctl, const struct ql_who *who, const char *name, struct ql_fault *f)
{
	struct ql_model_ref m;
	json_t *out = NULL;
	int rc = ql_model_resolve(ctl, who, name, &m, f);

	if (rc != QL_OK)
		return rc;
	if (m.base || m.job[0] != '\0')
		return ql_fault_set(f, QL_EINVAL, 400, "unsupported_value", "lora_name",
				    "This model was not imported: it is brought to the device, and removed from it, as needed.");
	rc = ql_model_delete(ctl, who, name, &out, f);
	json_decref(out);
	return rc;
}
