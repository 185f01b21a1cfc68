/* job_request.c - the fields of a create body besides the recipe: model, files, suffix, seed, metadata, integrations. */
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "daemon/jobs_internal.h"

#define SEED_MAX 2147483647

static int read_metadata(const json_t *m, const char **code, struct ql_err *e)
{
	const char *key;
	json_t *v;

	if (m == NULL)
		return QL_OK;
	if (!json_is_object(m) || json_object_size(m) > 16)
		return ql_field_bad(e, code, "invalid_value", "", "metadata", "must be an object of at most 16 pairs");
	json_object_foreach((json_t *)(uintptr_t)m, key, v) {
		if (key[0] == '\0' || strlen(key) > 64)
			return ql_field_bad(e, code, "invalid_value", "", "metadata", "keys must have 1 to 64 bytes");
		if (!json_is_string(v) || json_string_length(v) > 512)
			return ql_field_bad(e, code, "invalid_value", "metadata.", key, "must be a string of at most 512 bytes");
	}
	return QL_OK;
}

/* wandb entries are checked for form and not acted upon. */
static int read_integrations(const json_t *list, bool *wandb, const char **code, struct ql_err *e)
{
	const char *const strings[] = {"project", "name", "entity"};
	json_t *item, *tag;
	size_t i, k;

	if (list == NULL)
		return QL_OK;
	if (!json_is_array(list) || json_array_size(list) > 16)
		return ql_field_bad(e, code, "invalid_value", "", "integrations", "must be an array of at most 16 entries");
	json_array_foreach(list, i, item) {
		const char *type = json_string_value(json_object_get(item, "type"));
		const json_t *w = json_object_get(item, "wandb"), *tags = ql_field_given(w, "tags");

		if (type == NULL || strcmp(type, "wandb") != 0)
			return ql_field_bad(e, code, "unsupported_value", "", "integrations", "may hold only entries of type wandb");
		if (!json_is_object(w) || !json_is_string(json_object_get(w, "project")))
			return ql_field_bad(e, code, "invalid_value", "", "integrations", "entries need wandb.project, a string");
		for (k = 0; k < 3; k++)
			if (ql_field_given(w, strings[k]) != NULL && !json_is_string(ql_field_given(w, strings[k])))
				return ql_field_bad(e, code, "invalid_value", "integrations.wandb.", strings[k], "must be a string");
		if (tags != NULL && !json_is_array(tags))
			return ql_field_bad(e, code, "invalid_value", "integrations.wandb.", "tags", "must be an array of strings");
		json_array_foreach(tags, k, tag)
			if (!json_is_string(tag))
				return ql_field_bad(e, code, "invalid_value", "integrations.wandb.", "tags", "must be an array of strings");
		*wandb = true;
	}
	return QL_OK;
}

static int read_string(const json_t *body, const char *key, size_t max, bool required, const char **out, const char **code,
		struct ql_err *e)
{
	const json_t *v = ql_field_given(body, key);
	char text[64];

	*out = NULL;
	if (v == NULL)
		return required ? ql_field_bad(e, code, "missing_required_parameter", "", key, "is required") : QL_OK;
	(void)snprintf(text, sizeof text, "must be a string of 1 to %zu bytes", max);
	if (!json_is_string(v) || json_string_length(v) < 1 || json_string_length(v) > max)
		return ql_field_bad(e, code, "invalid_value", "", key, text);
	*out = json_string_value(v);
	return QL_OK;
}

int ql_job_request_read(const json_t *body, struct ql_job_request *r, const char **code, struct ql_err *e)
{
	const json_t *seed;
	int rc;

	memset(r, 0, sizeof *r);
	*code = "invalid_value";
	if (!json_is_object(body))
		return ql_err_set(e, QL_EINVAL, "The body must be a JSON object.");
	if ((rc = read_string(body, "model", QL_MODEL_NAME_SIZE - 1, true, &r->model, code, e)) != QL_OK ||
	    (rc = read_string(body, "training_file", 128, true, &r->training_file, code, e)) != QL_OK ||
	    (rc = read_string(body, "validation_file", 128, false, &r->validation_file, code, e)) != QL_OK ||
	    (rc = read_string(body, "suffix", 64, false, &r->suffix, code, e)) != QL_OK)
		return rc;
	seed = ql_field_given(body, "seed");
	r->seed = seed == NULL ? -1 : json_integer_value(seed);
	if (seed != NULL && (!json_is_integer(seed) || r->seed < 0 || r->seed > SEED_MAX))
		return ql_field_bad(e, code, "invalid_value", "", "seed", "must be an integer from 0 to 2147483647");
	if (r->suffix != NULL &&
	    strspn(r->suffix, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") != strlen(r->suffix))
		return ql_field_bad(e, code, "invalid_value", "", "suffix", "may hold letters, digits and . _ - only");
	r->metadata = ql_field_given(body, "metadata");
	rc = read_metadata(r->metadata, code, e);
	return rc == QL_OK ? read_integrations(ql_field_given(body, "integrations"), &r->wandb, code, e) : rc;
}
