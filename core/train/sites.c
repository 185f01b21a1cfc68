/* sites.c - which modules a recipe adapts, with what rank and alpha; see ql_recipe_sites in recipe.h. */
#include <string.h>

#include "core/base/limits.h"
#include "core/formats/peft_config.h"
#include "core/train/recipe.h"

/* The value that `pattern` gives for a module, or NULL; notes the deciding key in `used`. */
static int decide(const char *what, const json_t *pattern, const char *path, json_t *used, const json_t **out, struct ql_err *e)
{
	const char *key = NULL;
	int rc = ql_peft_pattern_find(what, pattern, path, &key, e);

	*out = NULL;
	if (rc == QL_EFORMAT || rc == QL_ELIMIT)
		return ql_err_param(e, QL_EINVAL, what, "'%s': a key is no valid pattern of module names", what);
	if (rc != QL_OK || key == NULL)
		return rc;
	*out = json_object_get(pattern, key);
	return json_object_set_new(used, key, json_true()) == 0 ? QL_OK : ql_err_set(e, QL_ENOMEM, "patterns");
}

static int all_used(const char *what, const json_t *pattern, const json_t *used, struct ql_err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)pattern, key, v)
		if (json_object_get(used, key) == NULL)
			return ql_err_param(e, QL_EINVAL, what, "'%s': '%.80s' decides for none of the adapted modules", what, key);
	return QL_OK;
}

static int site(const struct ql_recipe *r, const char *path, json_t *used[2], uint32_t *rank, double *alpha, struct ql_err *e)
{
	const json_t *v;
	int rc = decide("rank_pattern", r->rank_pattern, path, used[0], &v, e);

	*rank = r->rank;
	*alpha = r->alpha;
	if (rc == QL_OK && v != NULL) {
		if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > QL_LORA_RANK_MAX)
			return ql_err_param(e, QL_EINVAL, "rank_pattern", "'rank_pattern': ranks are integers from 1 to %d", QL_LORA_RANK_MAX);
		*rank = (uint32_t)json_integer_value(v);
	}
	if (rc == QL_OK)
		rc = decide("alpha_pattern", r->alpha_pattern, path, used[1], &v, e);
	if (rc == QL_OK && v != NULL) {
		*alpha = json_number_value(v);
		if (!(*alpha > 0 && *alpha <= 1024))
			return ql_err_param(e, QL_EINVAL, "alpha_pattern", "'alpha_pattern': alphas are numbers above 0, up to 1024");
	}
	return rc;
}

int ql_recipe_sites(const struct ql_recipe *r, const struct ql_arch *a, uint32_t *rank, double *alpha, struct ql_err *e)
{
	json_t *used[2] = {json_object(), json_object()};
	int rc = used[0] == NULL || used[1] == NULL ? ql_err_set(e, QL_ENOMEM, "patterns") : QL_OK;

	for (uint32_t i = 0; rc == QL_OK && i < a->num_hidden_layers * QL_MODULES; i++) {
		char path[QL_PEFT_MODULE_MAX];

		rank[i] = 0;
		alpha[i] = r->alpha;
		if (!(r->modules >> (i % QL_MODULES) & 1))
			continue;
		ql_peft_module_path(i / QL_MODULES, (int)(i % QL_MODULES), path);
		rc = site(r, path, used, &rank[i], &alpha[i], e);
	}
	if (rc == QL_OK)
		rc = all_used("rank_pattern", r->rank_pattern, used[0], e);
	if (rc == QL_OK)
		rc = all_used("alpha_pattern", r->alpha_pattern, used[1], e);
	json_decref(used[0]);
	json_decref(used[1]);
	return rc;
}
