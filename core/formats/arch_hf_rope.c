/* arch_hf_rope.c - config.json: which layers see through a window or have no rotary embedding, and the rotary settings.
 *
 * layer_types, where given, says which layers have the window; else the family's own rule does (transformers,
 * configuration_*.py).  Rotary settings have two spellings: rope_theta, rope_scaling, rope_local_base_freq; and
 * rope_parameters, which may hold an object for each type of layer. */
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/arch_priv.h"

/* Puts the file's name before the message; returns rc. */
static int in_config(int rc, struct ql_err *e)
{
	if (rc != QL_OK)
		(void)ql_err_prefix(e, "config.json");
	return rc;
}

static int get_u32(const json_t *cfg, const char *key, uint32_t min, uint32_t max, uint32_t *out, struct ql_err *e)
{
	int64_t n = *out;
	int rc = in_config(ql_json_get_int(cfg, key, min, max, &n, e), e);

	*out = (uint32_t)n;
	return rc;
}

/* layer_types: one word for each layer. */
static int read_types(const json_t *types, struct ql_arch *a, struct ql_err *e)
{
	const json_t *v;
	size_t i;

	if (!json_is_array(types) || json_array_size(types) != a->num_hidden_layers)
		return ql_err_param(e, QL_EINVAL, "layer_types", "config.json: layer_types is not a list of %u words",
				    a->num_hidden_layers);
	json_array_foreach(types, i, v) {
		const char *s = json_string_value(v);

		if (s != NULL && strcmp(s, "sliding_attention") == 0)
			a->layer[i] |= QL_LAYER_WINDOW;
		else if (s == NULL || strcmp(s, "full_attention") != 0)
			return ql_err_param(e, QL_EUNSUPPORTED, "layer_types", "config.json: layer type '%.40s' is not supported",
					    s != NULL ? s : "");
	}
	return QL_OK;
}

static bool any_layer(const struct ql_arch *a, unsigned flag)
{
	for (uint32_t l = 0; l < a->num_hidden_layers; l++)
		if (a->layer[l] & flag)
			return true;
	return false;
}

static int read_window(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	const json_t *types = json_object_get(cfg, "layer_types"), *v = json_object_get(cfg, "sliding_window");
	uint32_t window = v == NULL ? f->default_window : 0, first = 28;
	bool use = (f->flags & QL_AF_WINDOW) != 0;
	struct ql_arch_family pattern = *f;
	int rc = get_u32(cfg, "sliding_window", 1, QL_CONTEXT_MAX, &window, e);

	if (rc == QL_OK && f->flags & QL_AF_WINDOW_FLAG)
		rc = in_config(ql_json_get_bool(cfg, "use_sliding_window", &use, e), e);
	if (rc == QL_OK)
		rc = get_u32(cfg, "max_window_layers", 0, QL_LAYERS_MAX, &first, e);
	if (rc == QL_OK && f->pattern != 0) /* older files of alternating models */
		rc = get_u32(cfg, "sliding_window_pattern", 1, QL_LAYERS_MAX, &pattern.pattern, e);
	if (rc != QL_OK)
		return rc;
	a->sliding_window = use ? window : 0;
	if (types != NULL && !json_is_null(types)) {
		rc = read_types(types, a, e);
		if (rc == QL_OK && any_layer(a, QL_LAYER_WINDOW) && a->sliding_window == 0)
			rc = ql_err_param(e, QL_EINVAL, "sliding_window", "config.json: sliding layers without sliding_window");
	} else {
		ql_arch_set_pattern(a, &pattern);
		for (uint32_t l = 0; f->flags & QL_AF_WINDOW_FLAG && l < a->num_hidden_layers && l < first; l++)
			a->layer[l] &= (uint8_t)~QL_LAYER_WINDOW;
	}
	if (rc == QL_OK && !any_layer(a, QL_LAYER_WINDOW))
		a->sliding_window = 0;
	return rc;
}

/* no_rope_layers: 1 = with, 0 = without rotary embedding; else each no_rope_layer_interval-th layer is without. */
static int read_nope(const json_t *cfg, struct ql_arch *a, struct ql_err *e)
{
	const json_t *list = json_object_get(cfg, "no_rope_layers");
	uint32_t interval = 4;
	int rc = get_u32(cfg, "no_rope_layer_interval", 1, QL_LAYERS_MAX, &interval, e);

	if (rc != QL_OK)
		return rc;
	if (list != NULL && !json_is_null(list) && (!json_is_array(list) || json_array_size(list) < a->num_hidden_layers))
		return ql_err_param(e, QL_EINVAL, "no_rope_layers", "config.json: no_rope_layers is not a list of %u numbers",
				    a->num_hidden_layers);
	for (uint32_t l = 0; l < a->num_hidden_layers; l++) {
		const json_t *v = json_array_get(list, l);
		bool nope = v == NULL ? (l + 1) % interval == 0 : json_integer_value(v) == 0;

		if (v != NULL && !json_is_integer(v))
			return ql_err_param(e, QL_EINVAL, "no_rope_layers", "config.json: no_rope_layers holds something else than "
					    "numbers");
		if (nope)
			a->layer[l] |= QL_LAYER_NOPE;
	}
	return QL_OK;
}

int ql_arch_read_layers(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	int rc = read_window(cfg, f, a, e);

	return rc == QL_OK && f->flags & QL_AF_NOPE ? read_nope(cfg, a, e) : rc;
}

static int read_llama3(const json_t *cfg, const json_t *obj, struct ql_arch *a, struct ql_err *e)
{
	struct ql_rope_scaling *r = &a->rope;
	uint32_t old = a->max_position_embeddings;
	int rc = ql_json_get_num(obj, "low_freq_factor", 1e-6, 1e6, &r->low_freq_factor, e);

	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "high_freq_factor", 1e-6, 1e6, &r->high_freq_factor, e);
	rc = in_config(rc, e);
	if (rc == QL_OK)
		rc = get_u32(obj, "original_max_position_embeddings", 1, QL_CONTEXT_MAX, &old, e);
	if (rc == QL_OK) /* the top level wins, as in transformers */
		rc = get_u32(cfg, "original_max_position_embeddings", 1, QL_CONTEXT_MAX, &old, e);
	if (rc != QL_OK)
		return rc;
	if (!(r->low_freq_factor > 0) || !(r->high_freq_factor > 0))
		return ql_err_param(e, QL_EINVAL, "low_freq_factor",
				    "config.json: llama3 rope scaling needs low_freq_factor and high_freq_factor");
	r->original_max_position = old;
	r->kind = QL_ROPE_LLAMA3;
	return QL_OK;
}

/* One object of rotary settings of layers without a window. */
static int read_rope_object(const json_t *cfg, const json_t *obj, struct ql_arch *a, struct ql_err *e)
{
	const char *type = NULL;
	double partial = 1;
	int rc;

	if (!json_is_object(obj))
		return ql_err_param(e, QL_EINVAL, "rope_scaling", "config.json: rotary settings are not an object");
	rc = ql_json_get_str(obj, "type", 1, 32, &type, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(obj, "rope_type", 1, 32, &type, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "rope_theta", 1, 1e12, &a->rope_theta, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "factor", 1, 1e6, &a->rope.factor, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "partial_rotary_factor", 1, 1, &partial, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	if (type == NULL || strcmp(type, "default") == 0)
		return QL_OK;
	if (strcmp(type, "linear") != 0 && strcmp(type, "llama3") != 0)
		return ql_err_param(e, QL_EUNSUPPORTED, "rope_type", "config.json: rope type '%s' is not supported", type);
	if (!(a->rope.factor >= 1))
		return ql_err_param(e, QL_EINVAL, "factor", "config.json: rope type '%s' needs a factor", type);
	if (strcmp(type, "llama3") == 0)
		return read_llama3(cfg, obj, a, e);
	a->rope.kind = QL_ROPE_LINEAR;
	return QL_OK;
}

/* Rotary settings of layers with a window: a base of their own and no scaling. */
static int read_local_object(const json_t *obj, struct ql_arch *a, struct ql_err *e)
{
	const char *type = "default";
	double partial = 1;
	int rc;

	if (!json_is_object(obj))
		return ql_err_param(e, QL_EINVAL, "rope_parameters", "config.json: rotary settings are not an object");
	rc = ql_json_get_str(obj, "rope_type", 1, 32, &type, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "rope_theta", 1, 1e12, &a->rope_theta_local, e);
	if (rc == QL_OK)
		rc = ql_json_get_num(obj, "partial_rotary_factor", 1, 1, &partial, e);
	if (rc != QL_OK)
		return in_config(rc, e);
	return strcmp(type, "default") == 0
		       ? QL_OK
		       : ql_err_param(e, QL_EUNSUPPORTED, "rope_type",
				      "config.json: rope type '%s' of layers with a window is not supported", type);
}

/* rope_parameters, flat or by type of layer. */
static int read_parameters(const json_t *cfg, const json_t *obj, const struct ql_arch_family *f, struct ql_arch *a,
			   struct ql_err *e)
{
	const json_t *full = json_object_get(obj, "full_attention"), *local = json_object_get(obj, "sliding_attention");
	size_t known = (full != NULL) + (local != NULL);
	int rc;

	a->rope = (struct ql_rope_scaling){0};
	if (known == 0)
		return read_rope_object(cfg, obj, a, e);
	if (known != json_object_size(obj) || (local != NULL && !(f->flags & QL_AF_LOCAL_ROPE)))
		return ql_err_param(e, QL_EUNSUPPORTED, "rope_parameters",
				    "config.json: rotary settings that differ between layers are not supported");
	rc = full != NULL && !json_is_null(full) ? read_rope_object(cfg, full, a, e) : QL_OK;
	return rc == QL_OK && local != NULL && !json_is_null(local) ? read_local_object(local, a, e) : rc;
}

int ql_arch_read_rope(const json_t *cfg, const struct ql_arch_family *f, struct ql_arch *a, struct ql_err *e)
{
	const json_t *scaling = json_object_get(cfg, "rope_scaling"), *params = json_object_get(cfg, "rope_parameters");
	int rc;

	a->rope_theta = f->default_theta;
	rc = in_config(ql_json_get_num(cfg, "rope_theta", 1, 1e12, &a->rope_theta, e), e);
	if (rc == QL_OK && f->flags & QL_AF_LOCAL_ROPE) {
		a->rope_theta_local = 10000;
		rc = in_config(ql_json_get_num(cfg, "rope_local_base_freq", 1, 1e12, &a->rope_theta_local, e), e);
	}
	if (rc == QL_OK && scaling != NULL && !json_is_null(scaling))
		rc = read_rope_object(cfg, scaling, a, e);
	if (rc == QL_OK && params != NULL && !json_is_null(params))
		rc = read_parameters(cfg, params, f, a, e);
	return rc;
}
