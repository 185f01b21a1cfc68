/* sites.c - which modules a recipe adapts, with what rank and alpha; see ql_recipe_sites in recipe.h. */
#include <string.h>

#include "core/base/limits.h"
#include "core/formats/peft_config.h"
#include "core/train/recipe.h"

/* One of the recipe's two patterns: the object, its keys compiled, and those that have decided for a module. */
struct decider {
	const char *what;
	const json_t *pattern;
	struct ql_peft_patterns *keys;
	json_t *used;
};

static int bad_key(const char *what, int rc, struct ql_err *e)
{
	return rc == QL_EFORMAT || rc == QL_ELIMIT
		       ? ql_err_param(e, QL_EINVAL, what, "'%s': a key is no valid pattern of module names", what)
		       : rc;
}

static int open_decider(struct decider *d, const char *what, const json_t *pattern, struct ql_err *e)
{
	*d = (struct decider){what, pattern, NULL, json_object()};
	if (d->used == NULL)
		return ql_err_set(e, QL_ENOMEM, "patterns");
	return bad_key(what, ql_peft_patterns_new(&d->keys, what, pattern, e), e);
}

static void close_decider(struct decider *d)
{
	ql_peft_patterns_free(d->keys);
	json_decref(d->used);
}

/* The value that the pattern gives for a module, or NULL; notes the deciding key. */
static int decide(struct decider *d, const char *path, const json_t **out, struct ql_err *e)
{
	const char *key = NULL;
	int rc = bad_key(d->what, ql_peft_patterns_find(d->keys, path, &key, e), e);

	*out = NULL;
	if (rc != QL_OK || key == NULL)
		return rc;
	*out = json_object_get(d->pattern, key);
	return json_object_set_new(d->used, key, json_true()) == 0 ? QL_OK : ql_err_set(e, QL_ENOMEM, "patterns");
}

static int all_used(const struct decider *d, struct ql_err *e)
{
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)(uintptr_t)d->pattern, key, v)
		if (json_object_get(d->used, key) == NULL)
			return ql_err_param(e, QL_EINVAL, d->what, "'%s': '%.80s' decides for none of the adapted modules", d->what, key);
	return QL_OK;
}

static int site(const struct ql_recipe *r, const char *path, struct decider by[2], uint32_t *rank, double *alpha, struct ql_err *e)
{
	const json_t *v;
	int rc = decide(&by[0], path, &v, e);

	*rank = r->rank;
	*alpha = r->alpha;
	if (rc == QL_OK && v != NULL) {
		if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > QL_LORA_RANK_MAX)
			return ql_err_param(e, QL_EINVAL, "rank_pattern", "'rank_pattern': ranks are integers from 1 to %d", QL_LORA_RANK_MAX);
		*rank = (uint32_t)json_integer_value(v);
	}
	if (rc == QL_OK)
		rc = decide(&by[1], path, &v, e);
	if (rc == QL_OK && v != NULL) {
		*alpha = json_number_value(v);
		if (!(*alpha > 0 && *alpha <= 1024))
			return ql_err_param(e, QL_EINVAL, "alpha_pattern", "'alpha_pattern': alphas are numbers above 0, up to 1024");
	}
	return rc;
}

int ql_recipe_sites(const struct ql_recipe *r, const struct ql_arch *a, uint32_t *rank, double *alpha, struct ql_err *e)
{
	struct decider by[2] = {{0}, {0}};
	int rc = open_decider(&by[0], "rank_pattern", r->rank_pattern, e);

	if (rc == QL_OK)
		rc = open_decider(&by[1], "alpha_pattern", r->alpha_pattern, e);

	for (uint32_t i = 0; rc == QL_OK && i < a->num_hidden_layers * QL_MODULES; i++) {
		char path[QL_PEFT_MODULE_MAX];

		rank[i] = 0;
		alpha[i] = r->alpha;
		if (!(r->modules >> (i % QL_MODULES) & 1))
			continue;
		ql_peft_module_path(i / QL_MODULES, (int)(i % QL_MODULES), path);
		rc = site(r, path, by, &rank[i], &alpha[i], e);
	}
	if (rc == QL_OK)
		rc = all_used(&by[0], e);
	if (rc == QL_OK)
		rc = all_used(&by[1], e);
	close_decider(&by[0]);
	close_decider(&by[1]);
	return rc;
}
