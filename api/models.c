/* models.c - /v1/models (api.md §7.3) and the adapter routes (§11). */
#include "daemon/models.h"

#include "api/handlers.h"
#include "api/fields.h"

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

	if (ql_reply_unchanged(r, ql_control_revision(r->ctl, &r->who), 0))
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

/* Foreign adapters are not imported by this version; a fine-tuned model needs no loading, since its first request brings
 * it to the device.  Both are said instead of pretended. */
static void adapter_request(struct ql_req *r, bool load)
{
	struct adapter_request q = {0};
	struct ql_fault f = {0};
	struct ql_model_ref m;

	if (ql_fields_read(r->json, adapter_fields, sizeof adapter_fields / sizeof adapter_fields[0], "", &q, &f) != QL_OK)
		goto bad;
	if (load && q.path.v == NULL) {
		(void)ql_bad_missing(&f, "lora_path");
		goto bad;
	}
	if (ql_model_resolve(r->ctl, &r->who, load ? q.path.v : q.name.v, &m, &f) == QL_OK)
		(void)ql_bad_unsupported(&f, load ? "lora_path" : "lora_name",
					 "This model needs no loading: name it as `model` in a request; it is brought to the "
					 "device, and removed from it, as needed.");
	else
		(void)ql_bad_unsupported(&f, load ? "lora_path" : "lora_name",
					 "Importing adapters from a directory is not supported by this version.");
bad:
	ql_reply_fault(r, &f);
}

void ql_h_adapter_load(struct ql_req *r) { adapter_request(r, true); }
void ql_h_adapter_unload(struct ql_req *r) { adapter_request(r, false); }
