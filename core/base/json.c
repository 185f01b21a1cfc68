/* json.c - see json.h. */
#include "core/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/limits.h"

static int check_depth(const char *s, size_t len, struct ql_err *e)
{
	bool in_string = false;
	int depth = 0;

	for (size_t i = 0; i < len; i++) {
		char c = s[i];

		if (in_string) {
			if (c == '\\')
				i++;
			else if (c == '"')
				in_string = false;
		} else if (c == '"') {
			in_string = true;
		} else if (c == '{' || c == '[') {
			if (++depth > QL_JSON_DEPTH_MAX)
				return ql_err_at(e, QL_ELIMIT, i, "JSON nested deeper than %d", QL_JSON_DEPTH_MAX);
		} else if (c == '}' || c == ']') {
			depth--;
		}
	}
	return QL_OK;
}

int ql_json_parse(const char *text, size_t len, size_t max, json_t **out, struct ql_err *e)
{
	json_error_t je;
	int rc;

	*out = NULL;
	if (len > max)
		return ql_err_set(e, QL_ELIMIT, "JSON of %zu bytes, more than the %zu allowed", len, max);
	rc = check_depth(text, len, e);
	if (rc != QL_OK)
		return rc;
	*out = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);
	if (*out == NULL)
		return ql_err_at(e, json_error_code(&je) == json_error_out_of_memory ? QL_ENOMEM : QL_EFORMAT,
				 (uint64_t)(je.position < 0 ? 0 : je.position), "invalid JSON: %s", je.text);
	return QL_OK;
}

char *ql_json_text(const json_t *v) { return json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)); }

json_t *ql_json_real(double v) { return isfinite(v) ? json_real(v) : NULL; }

static const json_t *present(const json_t *obj, const char *key)
{
	const json_t *v = json_object_get(obj, key);

	return v == NULL || json_is_null(v) ? NULL : v;
}

int ql_json_get_int(const json_t *obj, const char *key, int64_t min, int64_t max, int64_t *out, struct ql_err *e)
{
	const json_t *v = present(obj, key);
	int64_t n;

	if (v == NULL)
		return QL_OK;
	if (!json_is_integer(v))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be an integer", key);
	n = json_integer_value(v);
	if (n < min || n > max)
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be between %lld and %lld, got %lld", key,
				    (long long)min, (long long)max, (long long)n);
	*out = n;
	return QL_OK;
}

int ql_json_get_num(const json_t *obj, const char *key, double min, double max, double *out, struct ql_err *e)
{
	const json_t *v = present(obj, key);
	double n;

	if (v == NULL)
		return QL_OK;
	if (!json_is_number(v))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be a number", key);
	n = json_number_value(v);
	if (!(n >= min && n <= max))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be between %g and %g, got %g", key, min, max, n);
	*out = n;
	return QL_OK;
}

int ql_json_get_bool(const json_t *obj, const char *key, bool *out, struct ql_err *e)
{
	const json_t *v = present(obj, key);

	if (v == NULL)
		return QL_OK;
	if (!json_is_boolean(v))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be true or false", key);
	*out = json_is_true(v);
	return QL_OK;
}

int ql_json_get_str(const json_t *obj, const char *key, size_t min, size_t max, const char **out, struct ql_err *e)
{
	const json_t *v = present(obj, key);
	size_t n;

	if (v == NULL)
		return QL_OK;
	if (!json_is_string(v))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be a string", key);
	n = json_string_length(v);
	if (n < min || n > max)
		return ql_err_param(e, QL_EINVAL, key, "'%s' must have %zu to %zu bytes, got %zu", key, min, max, n);
	*out = json_string_value(v);
	return QL_OK;
}

int ql_json_only(const json_t *obj, const char *const *keys, const char *prefix, struct ql_err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
		size_t i = 0;
		char name[64];

		while (keys[i] != NULL && strcmp(keys[i], key) != 0)
			i++;
		if (keys[i] != NULL)
			continue;
		(void)snprintf(name, sizeof name, "%s%.40s", prefix, key);
		return ql_err_param(e, QL_EINVAL, name, "unknown key '%s'", name);
	}
	return QL_OK;
}
