/* fields.c - see fields.h. */
#include "api/fields.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int wrong_type(struct ql_fault *f, const char *param, const char *what, const json_t *v)
{
	static const char *const names[] = {[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array",
					    [JSON_STRING] = "a string",	 [JSON_INTEGER] = "an integer",
					    [JSON_REAL] = "a number",	 [JSON_TRUE] = "a boolean",
					    [JSON_FALSE] = "a boolean",	 [JSON_NULL] = "null"};

	return ql_bad_value(f, param, "Invalid type for '%s': expected %s, but got %s instead.", param, what,
			      names[json_typeof(v)]);
}

static int read_int(const struct ql_field *d, const json_t *v, const char *param, struct ql_fint *out, struct ql_fault *f)
{
	int64_t n;

	if (!json_is_integer(v))
		return wrong_type(f, param, "an integer", v);
	n = json_integer_value(v);
	if (n < d->imin || n > d->imax)
		return ql_bad_value(f, param, "Invalid value for '%s': must be between %lld and %lld, got %lld.", param,
				      (long long)d->imin, (long long)d->imax, (long long)n);
	*out = (struct ql_fint){true, n};
	return QL_OK;
}

static int read_num(const struct ql_field *d, const json_t *v, const char *param, struct ql_fnum *out, struct ql_fault *f)
{
	bool low, high;
	double x;

	if (!json_is_number(v))
		return wrong_type(f, param, "a number", v);
	x = json_number_value(v);
	low = d->flags & QL_FF_MIN_OPEN ? !(x > d->nmin) : !(x >= d->nmin);
	high = d->flags & QL_FF_MAX_OPEN ? !(x < d->nmax) : !(x <= d->nmax);
	if (!isfinite(x) || low || high)
		return ql_bad_value(f, param, "Invalid value for '%s': must be %s %g and %s %g, got %g.", param,
				      d->flags & QL_FF_MIN_OPEN ? "greater than" : "at least", d->nmin,
				      d->flags & QL_FF_MAX_OPEN ? "less than" : "at most", d->nmax, x);
	*out = (struct ql_fnum){true, x};
	return QL_OK;
}

static int read_str(const struct ql_field *d, const json_t *v, const char *param, struct ql_fstr *out, struct ql_fault *f)
{
	size_t len;

	if (!json_is_string(v))
		return wrong_type(f, param, "a string", v);
	len = json_string_length(v);
	if (d->words != NULL) {
		char list[256] = "";
		size_t n = 0;

		for (size_t i = 0; d->words[i] != NULL; i++) {
			int m;

			if (strcmp(d->words[i], json_string_value(v)) == 0) {
				*out = (struct ql_fstr){json_string_value(v), len};
				return QL_OK;
			}
			m = snprintf(list + n, sizeof list - n, "%s%s", i == 0 ? "" : ", ", d->words[i]);
			if (m > 0 && n + (size_t)m < sizeof list)
				n += (size_t)m;
		}
		return ql_bad_value(f, param, "Invalid value for '%s': must be one of %s.", param, list);
	}
	if (len < (size_t)d->imin || len > (size_t)d->imax)
		return ql_bad_value(f, param, "Invalid value for '%s': must have %lld to %lld bytes, got %zu.", param,
				      (long long)d->imin, (long long)d->imax, len);
	*out = (struct ql_fstr){json_string_value(v), len};
	return QL_OK;
}

static int read_arr(const struct ql_field *d, const json_t *v, const char *param, const json_t **out, struct ql_fault *f)
{
	size_t n;

	if (!json_is_array(v))
		return wrong_type(f, param, "an array", v);
	n = json_array_size(v);
	if (n < (size_t)d->imin || n > (size_t)d->imax)
		return ql_bad_value(f, param, "Invalid value for '%s': must have %lld to %lld elements, got %zu.", param,
				      (long long)d->imin, (long long)d->imax, n);
	*out = v;
	return QL_OK;
}

static int read_one(const struct ql_field *d, const json_t *v, const char *param, void *slot, struct ql_fault *f)
{
	switch (d->type) {
	case QL_FT_INT:
		return read_int(d, v, param, slot, f);
	case QL_FT_NUM:
		return read_num(d, v, param, slot, f);
	case QL_FT_BOOL:
		if (!json_is_boolean(v))
			return wrong_type(f, param, "a boolean", v);
		*(struct ql_fbool *)slot = (struct ql_fbool){true, json_is_true(v)};
		return QL_OK;
	case QL_FT_STR:
		return read_str(d, v, param, slot, f);
	case QL_FT_OBJ:
		if (!json_is_object(v))
			return wrong_type(f, param, "an object", v);
		*(const json_t **)slot = v;
		return QL_OK;
	case QL_FT_ARR:
		return read_arr(d, v, param, slot, f);
	case QL_FT_ANY:
		*(const json_t **)slot = v;
		return QL_OK;
	}
	return QL_EINTERNAL;
}

int ql_fields_read(const json_t *obj, const struct ql_field *table, size_t n, const char *prefix, void *out,
		   struct ql_fault *f)
{
	for (size_t i = 0; i < n; i++) {
		const struct ql_field *d = &table[i];
		const json_t *v = json_object_get(obj, d->name);
		char param[128];
		int rc;

		if (d->flags & QL_FF_IGNORED)
			continue;
		(void)snprintf(param, sizeof param, "%s%s", prefix, d->name);
		if (v == NULL || json_is_null(v)) {
			if (d->flags & QL_FF_REQUIRED)
				return ql_bad_missing(f, param);
			continue;
		}
		rc = read_one(d, v, param, (char *)out + d->offset, f);
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_fields_only(const json_t *obj, const struct ql_field *table, size_t n, const char *prefix, struct ql_fault *f)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)obj, key, v) {
		char param[128];
		size_t i = 0;

		while (i < n && strcmp(table[i].name, key) != 0)
			i++;
		if (i < n)
			continue;
		(void)snprintf(param, sizeof param, "%s%.60s", prefix, key);
		return ql_bad(f, 400, "unsupported_parameter", param, "Unknown parameter: '%s'.", param);
	}
	return QL_OK;
}

static int once(const struct ql_target *t, const char *key, const char **out, struct ql_fault *f)
{
	size_t times;

	*out = ql_target_query(t, key, &times);
	if (times > 1)
		return ql_bad_value(f, key, "'%s' is given %zu times.", key, times);
	if (*out != NULL && (*out)[0] == '\0')
		*out = NULL;
	return QL_OK;
}

int ql_query_str(const struct ql_target *t, const char *key, size_t max, const char **out, struct ql_fault *f)
{
	int rc = once(t, key, out, f);

	if (rc == QL_OK && *out != NULL && strlen(*out) > max)
		return ql_bad_value(f, key, "'%s' has more than %zu bytes.", key, max);
	return rc;
}

int ql_query_bool(const struct ql_target *t, const char *key, bool *out, struct ql_fault *f)
{
	const char *s;
	int rc = once(t, key, &s, f);

	if (rc != QL_OK || s == NULL)
		return rc;
	if (strcmp(s, "true") == 0 || strcmp(s, "1") == 0)
		*out = true;
	else if (strcmp(s, "false") == 0 || strcmp(s, "0") == 0)
		*out = false;
	else
		return ql_bad_value(f, key, "'%s' must be true or false.", key);
	return QL_OK;
}

int ql_query_int(const struct ql_target *t, const char *key, int64_t min, int64_t max, bool *set, int64_t *out,
		 struct ql_fault *f)
{
	const char *s;
	char *end;
	long long n;
	int rc = once(t, key, &s, f);

	*set = false;
	if (rc != QL_OK || s == NULL)
		return rc;
	errno = 0;
	n = strtoll(s, &end, 10);
	if (!((*s >= '0' && *s <= '9') || *s == '-') || *end != '\0' || end == s || errno != 0)
		return ql_bad_value(f, key, "'%s' must be an integer.", key);
	if (n < min || n > max)
		return ql_bad_value(f, key, "'%s' must be between %lld and %lld.", key, (long long)min, (long long)max);
	*set = true;
	*out = n;
	return QL_OK;
}

int ql_query_limit(const struct ql_target *t, int64_t dflt, int64_t max, int64_t *out, struct ql_fault *f)
{
	bool set;
	int rc = ql_query_int(t, "limit", 0, INT64_MAX, &set, out, f);

	if (rc != QL_OK)
		return rc;
	if (!set || *out == 0)
		*out = dflt;
	else if (*out > max)
		*out = max;
	return QL_OK;
}
