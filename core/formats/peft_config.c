/* peft_config.c - adapter_config.json (peft, tuners/lora/config.py) and its matching rules (peft, tuners_utils.py).
 *
 *   target_modules, exclude_modules: list: a module matches an entry if it equals it or ends in "." + entry; string: a
 *   regular expression for the whole name; "all-linear": the seven linears.  layers_to_transform: only those layers.
 *   rank_pattern, alpha_pattern: the first key K for which ^(.*\.)?(K)$ matches the name gives the value.
 * Regular expressions: peft_pattern.c. */
#include "core/formats/peft_config.h"

#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"

#define ALL_LINEAR "all-linear"

/* Keys with an effect we do not have; they may only hold null, false, or nothing. */
static const char *const refused[] = {"use_dora", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication",
				      "target_parameters", "trainable_token_indices", "use_qalora", "arrow_config",
				      "alora_invocation_tokens", "use_bdlora", "monteclora_config", NULL};

/* init_lora_weights that changed the base weights themselves. */
static const char *const refused_inits[] = {"pissa", "olora", "corda", "eva", "loftq", "lora_ga", "orthogonal_base"};

static bool is_nothing(const json_t *v)
{
	return v == NULL || json_is_null(v) || json_is_false(v) || (json_is_array(v) && json_array_size(v) == 0) ||
	       (json_is_object(v) && json_object_size(v) == 0);
}

static int refuse_keys(const json_t *cfg, struct ql_err *e)
{
	const char *bias = "none", *init = NULL;
	int rc;

	for (size_t i = 0; refused[i] != NULL; i++)
		if (!is_nothing(json_object_get(cfg, refused[i])))
			return ql_err_param(e, QL_EUNSUPPORTED, refused[i], "adapter_config.json: '%s' is not supported",
					    refused[i]);
	rc = ql_json_get_str(cfg, "bias", 1, 32, &bias, e);
	if (rc != QL_OK)
		return rc;
	if (strcmp(bias, "none") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "bias", "adapter_config.json: bias '%s' is not supported", bias);
	if (json_is_string(json_object_get(cfg, "init_lora_weights")))
		init = json_string_value(json_object_get(cfg, "init_lora_weights"));
	for (size_t i = 0; init != NULL && i < sizeof refused_inits / sizeof refused_inits[0]; i++)
		if (strncmp(init, refused_inits[i], strlen(refused_inits[i])) == 0)
			return ql_err_param(e, QL_EUNSUPPORTED, "init_lora_weights",
					    "adapter_config.json: init_lora_weights '%.32s' changed the base model itself; not "
					    "supported", init);
	return QL_OK;
}

static bool is_list_of_strings(const json_t *v)
{
	const json_t *item;
	size_t i;

	if (!json_is_array(v) || json_array_size(v) > QL_JSON_KEYS_MAX)
		return false;
	json_array_foreach(v, i, item)
		if (!json_is_string(item) || json_string_length(item) == 0)
			return false;
	return true;
}

static int read_names(const json_t *cfg, const char *key, const json_t **out, struct ql_err *e)
{
	*out = json_object_get(cfg, key);
	if (is_nothing(*out)) {
		*out = NULL;
		return QL_OK;
	}
	if (!is_list_of_strings(*out) && !(json_is_string(*out) && json_string_length(*out) <= QL_PEFT_REGEX_MAX))
		return ql_err_param(e, QL_EFORMAT, key, "adapter_config.json: '%s' is neither a list of names nor a pattern", key);
	return QL_OK;
}

static int read_layers(const json_t *cfg, const json_t **out, struct ql_err *e)
{
	const json_t *v = json_object_get(cfg, "layers_to_transform"), *pattern = json_object_get(cfg, "layers_pattern"), *item;
	size_t i;

	*out = NULL;
	if (!is_nothing(pattern)) {
		const char *s = json_string_value(json_is_array(pattern) ? json_array_get(pattern, 0) : pattern);

		if (s == NULL || strcmp(s, "layers") != 0 || (json_is_array(pattern) && json_array_size(pattern) != 1))
			return ql_err_param(e, QL_EUNSUPPORTED, "layers_pattern",
					    "adapter_config.json: only layers_pattern 'layers' is supported");
	}
	if (is_nothing(v))
		return QL_OK;
	*out = v;
	if (json_is_integer(v))
		return QL_OK;
	if (!json_is_array(v))
		return ql_err_param(e, QL_EFORMAT, "layers_to_transform", "adapter_config.json: layers_to_transform is no list");
	json_array_foreach(v, i, item)
		if (!json_is_integer(item))
			return ql_err_param(e, QL_EFORMAT, "layers_to_transform",
					    "adapter_config.json: layers_to_transform holds something else than integers");
	return QL_OK;
}

static int read_pattern(const json_t *cfg, const char *key, bool integers, const json_t **out, struct ql_err *e)
{
	const json_t *v = json_object_get(cfg, key);
	const char *name;
	json_t *item;

	*out = NULL;
	if (is_nothing(v))
		return QL_OK;
	if (!json_is_object(v) || json_object_size(v) > QL_JSON_KEYS_MAX)
		return ql_err_param(e, QL_EFORMAT, key, "adapter_config.json: '%s' is not an object", key);
	json_object_foreach((json_t *)(uintptr_t)v, name, item) {
		bool ok = integers ? json_is_integer(item) && json_integer_value(item) >= 1 &&
					     json_integer_value(item) <= 3 * QL_LORA_RANK_MAX /* of fused modules */
				   : json_is_number(item) && json_number_value(item) > 0 && json_number_value(item) <= 1e6;

		if (!ok || strlen(name) > QL_PEFT_REGEX_MAX)
			return ql_err_param(e, QL_EINVAL, key, "adapter_config.json: bad value of '%.60s' in %s", name, key);
	}
	*out = v;
	return QL_OK;
}

static int read_numbers(struct ql_peft_config *c, struct ql_err *e)
{
	const char *type = NULL;
	int64_t r = 8;
	int rc = ql_json_get_str(c->json, "peft_type", 1, 64, &type, e);

	if (rc == QL_OK && (type == NULL || strcmp(type, "LORA") != 0))
		rc = ql_err_param(e, QL_EUNSUPPORTED, "peft_type", "adapter_config.json: peft_type '%s' is not LORA",
				  type != NULL ? type : "(none)");
	c->alpha = 8;
	c->base_name = "";
	if (rc == QL_OK)
		rc = ql_json_get_int(c->json, "r", 1, QL_LORA_RANK_MAX, &r, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(c->json, "lora_alpha", 1e-6, 1e6, &c->alpha, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(c->json, "lora_dropout", 0, 0.999, &c->dropout, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(c->json, "use_rslora", &c->rslora, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(c->json, "base_model_name_or_path", 0, 4096, &c->base_name, e);
	c->r = (uint32_t)r;
	return rc;
}

static int compile(struct ql_peft_config *c, struct ql_err *e)
{
	int rc = QL_OK;

	if (json_is_string(c->targets) && strcmp(json_string_value(c->targets), ALL_LINEAR) != 0)
		rc = ql_peft_regex_new(&c->targets_regex, "target_modules", json_string_value(c->targets), e);
	if (rc == QL_OK && json_is_string(c->exclude) && strcmp(json_string_value(c->exclude), ALL_LINEAR) != 0)
		rc = ql_peft_regex_new(&c->exclude_regex, "exclude_modules", json_string_value(c->exclude), e);
	if (rc == QL_OK)
		rc = ql_peft_patterns_new(&c->ranks, "rank_pattern", c->rank_pattern, e);
	if (rc == QL_OK)
		rc = ql_peft_patterns_new(&c->alphas, "alpha_pattern", c->alpha_pattern, e);
	return rc == QL_OK ? rc : ql_err_prefix(e, "adapter_config.json");
}

int ql_peft_config_parse(struct ql_peft_config *c, const char *text, size_t len, struct ql_err *e)
{
	int rc;

	*c = (struct ql_peft_config){0};
	rc = ql_json_parse(text, len, QL_CONFIG_JSON_MAX, &c->json, e);
	if (rc == QL_OK && !json_is_object(c->json))
		rc = ql_err_set(e, QL_EFORMAT, "not an object");
	if (rc == QL_OK)
		rc = read_numbers(c, e);
	if (rc == QL_OK)
		rc = refuse_keys(c->json, e);
	if (rc == QL_OK)
		rc = read_names(c->json, "target_modules", &c->targets, e);
	if (rc == QL_OK && c->targets == NULL)
		rc = ql_err_param(e, QL_EFORMAT, "target_modules", "adapter_config.json: target_modules is missing");
	if (rc == QL_OK)
		rc = read_names(c->json, "exclude_modules", &c->exclude, e);
	if (rc == QL_OK)
		rc = read_layers(c->json, &c->layers, e);
	if (rc == QL_OK)
		rc = read_pattern(c->json, "rank_pattern", true, &c->rank_pattern, e);
	if (rc == QL_OK)
		rc = read_pattern(c->json, "alpha_pattern", false, &c->alpha_pattern, e);
	if (rc == QL_OK)
		rc = compile(c, e);
	if (rc != QL_OK)
		ql_peft_config_free(c);
	return rc;
}

void ql_peft_config_free(struct ql_peft_config *c)
{
	ql_peft_patterns_free(c->targets_regex);
	ql_peft_patterns_free(c->exclude_regex);
	ql_peft_patterns_free(c->ranks);
	ql_peft_patterns_free(c->alphas);
	json_decref(c->json);
	*c = (struct ql_peft_config){0};
}

void ql_peft_module_path(uint32_t layer, int module, char *out)
{
	(void)snprintf(out, QL_PEFT_MODULE_MAX, "model.layers.%u.%s.%s", layer, module <= QL_O_PROJ ? "self_attn" : "mlp",
		       ql_module_name(module));
}

/* Is `module` in a list of suffixes or matched by a pattern? */
static int in_names(const json_t *names, struct ql_peft_patterns *regex, const char *module, bool *yes, struct ql_err *e)
{
	const json_t *item;
	size_t i, len = strlen(module);
	const char *found;
	int rc;

	*yes = false;
	if (names == NULL)
		return QL_OK;
	if (json_is_string(names)) {
		if (strcmp(json_string_value(names), ALL_LINEAR) == 0) {
			*yes = true; /* only linears are ever asked for */
			return QL_OK;
		}
		rc = ql_peft_patterns_find(regex, module, &found, e);
		*yes = rc == QL_OK && found != NULL;
		return rc;
	}
	json_array_foreach(names, i, item) {
		size_t n = json_string_length(item);

		if (n <= len && strcmp(module + len - n, json_string_value(item)) == 0 &&
		    (n == len || module[len - n - 1] == '.')) {
			*yes = true;
			return QL_OK;
		}
	}
	return QL_OK;
}

static bool in_layers(const json_t *layers, uint32_t layer)
{
	const json_t *item;
	size_t i;

	if (layers == NULL)
		return true;
	if (json_is_integer(layers))
		return json_integer_value(layers) == layer;
	json_array_foreach(layers, i, item)
		if (json_integer_value(item) == layer)
			return true;
	return false;
}

int ql_peft_config_targets(const struct ql_peft_config *c, const char *module, uint32_t layer, bool *yes, struct ql_err *e)
{
	bool out = false;
	int rc = in_names(c->exclude, c->exclude_regex, module, &out, e);

	*yes = false;
	if (rc != QL_OK || out || !in_layers(c->layers, layer))
		return rc;
	return in_names(c->targets, c->targets_regex, module, yes, e);
}

static int find_pattern(struct ql_peft_patterns *p, const json_t *pattern, const char *module, const json_t **value, struct ql_err *e)
{
	const char *key;
	int rc = ql_peft_patterns_find(p, module, &key, e);

	*value = rc == QL_OK && key != NULL ? json_object_get(pattern, key) : NULL;
	return rc;
}

int ql_peft_config_scale(const struct ql_peft_config *c, const char *module, uint32_t *r, double *alpha, struct ql_err *e)
{
	const json_t *v;
	int rc = find_pattern(c->ranks, c->rank_pattern, module, &v, e);

	*r = c->r;
	*alpha = c->alpha;
	if (rc == QL_OK && v != NULL)
		*r = (uint32_t)json_integer_value(v);
	if (rc == QL_OK)
		rc = find_pattern(c->alphas, c->alpha_pattern, module, &v, e);
	if (rc == QL_OK && v != NULL)
		*alpha = json_number_value(v);
	return rc;
}
