/* models.c - /v1/models (api.md §7.3) and the adapter routes (§11). */
#include "daemon/models.h"

#include <stdio.h>
#include <stdlib.h>

#include "api/handlers.h"
#include "api/fields.h"
#include "daemon/adapter_import.h"

static void give(struct ql_req *r, int rc, json_t *out, const struct ql_fault *f)
{
	if (rc != QL_OK)
		ql_reply_fault(r, f);
	else
		ql_reply_json(r, 200, out);
}

void ql_h_model_list(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out = NULL;
	int rc;

	if (ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), ql_control_models_tick(r->ctl)))
		return;
	rc = ql_model_list(r->ctl, &r->who, &out, &f);
	give(r, rc, out, &f);
}

void ql_h_model_get(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out = NULL;
	int rc;

	rc = ql_model_get(r->ctl, &r->who, r->match.param[0], &out, &f);
	give(r, rc, out, &f);
}

void ql_h_model_delete(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out = NULL;
	int rc;

	rc = ql_model_delete(r->ctl, &r->who, r->match.param[0], &out, &f);
	give(r, rc, out, &f);
}

void ql_h_adapter_list(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out = NULL;
	int rc;

	rc = ql_adapter_list(r->ctl, &r->who, &out, &f);
	give(r, rc, out, &f);
}

void ql_h_adapter_list_llama(struct ql_req *r)
{
	struct ql_fault f = {0};
	json_t *out = NULL;
	int rc;

	rc = ql_adapter_list_llama(r->ctl, &r->who, &out, &f);
	give(r, rc, out, &f);
}

void ql_h_adapter_scales(struct ql_req *r)
{
	struct ql_fault f;

	(void)ql_bad_unsupported(&f, NULL, "Global adapter scales are not offered; give `lora` in each request.");
	ql_reply_fault(r, &f);
}

struct adapter_request {
	struct ql_fstr name, path;
	struct ql_fbool inplace, pinned;
};

static const struct ql_field adapter_fields[] = {
	{.name = "lora_name", .type = QL_FT_STR, .flags = QL_FF_REQUIRED, .imin = 1, .imax = 255,
	 .offset = offsetof(struct adapter_request, name)},
	{.name = "lora_path", .type = QL_FT_STR, .imin = 1, .imax = 1024, .offset = offsetof(struct adapter_request, path)},
	{.name = "load_inplace", .type = QL_FT_BOOL, .offset = offsetof(struct adapter_request, inplace)},
	{.name = "pinned", .type = QL_FT_BOOL, .offset = offsetof(struct adapter_request, pinned)},
};

struct loading { /* freed by the last of the two: the request, the import */
	struct ql_req *r;
	struct ql_import *import;
	char name[160];
};

static void say(struct ql_req *r, const char *name, const char *what)
{
	char *text = NULL;
	int n = asprintf(&text, "Success: LoRA adapter '%s' %s successfully.", name, what);

	if (n < 0)
		ql_reply_json(r, 200, NULL);
	else
		ql_reply_bytes(r, 200, "text/plain; charset=utf-8", text, (size_t)n);
}

static void on_imported(void *user, const struct ql_fault *f)
{
	struct loading *l = user;

	l->import = NULL;
	if (f != NULL)
		ql_reply_fault(l->r, f);
	else
		say(l->r, l->name, "added");
}

static void load_gone(struct ql_req *r)
{
	struct loading *l = r->state;

	if (l->import != NULL)
		ql_import_forget(l->import);
	l->import = NULL;
}

static void load_free(struct ql_req *r)
{
	load_gone(r);
	free(r->state);
}

/* lora_path is an uploaded file, or a fine-tuned model, which needs no loading: its first request brings it to the device. */
void ql_h_adapter_load(struct ql_req *r)
{
	struct adapter_request q = {0};
	struct ql_fault f = {0};
	struct ql_model_ref m;
	struct loading *l = NULL;
	struct ql_idem idem;
	bool replayed = false;

	if (ql_req_idem(r, &idem, &f) != QL_OK || ql_fields_read(r->json, adapter_fields, sizeof adapter_fields / sizeof adapter_fields[0], "", &q, &f) != QL_OK)
		goto bad;
	if (q.path.v == NULL) {
		(void)ql_bad_missing(&f, "lora_path");
		goto bad;
	}
	if (q.pinned.v) {
		(void)ql_bad_unsupported(&f, "pinned", "Adapters are not pinned: they come to the device, and leave it, as needed.");
		goto bad;
	}
	if (ql_model_resolve(r->ctl, &r->who, q.path.v, &m, NULL) == QL_OK) {
		(void)ql_bad_unsupported(&f, "lora_path", "This model needs no loading: name it as `model` in a request; it is brought to the "
							  "device, and removed from it, as needed.");
		goto bad;
	}
	l = calloc(1, sizeof *l);
	if (l == NULL) {
		(void)ql_bad_internal(&f);
		goto bad;
	}
	l->r = r;
	(void)snprintf(l->name, sizeof l->name, "%s", q.name.v);
	if (ql_adapter_import(r->ctl, &r->who, q.name.v, q.path.v, q.inplace.v, &idem, &replayed, on_imported, l, &l->import, &f) != QL_OK)
		goto bad;
	if (replayed) {
		free(l);
		ql_reply_header(r, "idempotent-replayed", "true");
		say(r, q.name.v, "added");
		return;
	}
	r->state = l;
	r->on_gone = load_gone;
	r->on_free = load_free;
	return;
bad:
	free(l);
	ql_reply_fault(r, &f);
}

void ql_h_adapter_unload(struct ql_req *r)
{
	struct adapter_request q = {0};
	struct ql_fault f = {0};

	if (ql_fields_read(r->json, adapter_fields, sizeof adapter_fields / sizeof adapter_fields[0], "", &q, &f) != QL_OK ||
	    ql_adapter_remove(r->ctl, &r->who, q.name.v, &f) != QL_OK)
		ql_reply_fault(r, &f);
	else
		say(r, q.name.v, "removed");
}
