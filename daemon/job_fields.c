/* job_fields.c - the recipe in the body of POST /v1/fine_tuning/jobs as tables: type, range and default of every field of
 * api.md §5.2 and §5.3.  Null and absent mean the same.  Rules between fields are job_recipe.c's. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "daemon/jobs_internal.h"

#define STEPS_MAX 10000000
#define PATTERNS_MAX 64
#define PATTERN_BYTES_MAX 256

enum type { INT, NUM, BOOL, WORD, TEXT };

struct field {
	const char *name;
	enum type type;
	double min, max; /* TEXT: bytes */
	bool min_open, max_open;
	const char *words;  /* WORD: separated by '|' */
	const char *preset; /* JSON text */
};

/* api.md §5.3, in its order; target_modules, the patterns and quantization have their own functions. */
static const struct field qlora_fields[] = {
	{"rank", INT, 1, QL_LORA_RANK_MAX, false, false, NULL, "16"},
	{"alpha", NUM, 0, 1024, true, false, NULL, "null"},
	{"dropout", NUM, 0, 0.9, false, false, NULL, "0.0"},
	{"neftune_noise_alpha", NUM, 0, 1000, true, false, NULL, "null"},
	{"use_rslora", BOOL, 0, 0, false, false, NULL, "false"},
	{"init_lora_weights", WORD, 0, 0, false, false, "default|gaussian", "\"default\""},
	{"loraplus_ratio", NUM, 1, 64, false, false, NULL, "1.0"},
	{"learning_rate", NUM, 0, 1, true, false, NULL, "null"},
	{"lr_scheduler", WORD, 0, 0, false, false, "constant|constant_with_warmup|linear|cosine", "\"cosine\""},
	{"min_lr_ratio", NUM, 0, 1, false, false, NULL, "0.0"},
	{"warmup_ratio", NUM, 0, 0.5, false, false, NULL, "null"},
	{"warmup_steps", INT, 0, 1000000, false, false, NULL, "null"},
	{"optimizer", WORD, 0, 0, false, false, "adamw|adamw_8bit|paged_adamw|paged_adamw_8bit", "\"adamw\""},
	{"adam_beta1", NUM, 0, 1, false, true, NULL, "0.9"},
	{"adam_beta2", NUM, 0, 1, false, true, NULL, "0.999"},
	{"adam_epsilon", NUM, 1e-12, 1e-3, false, false, NULL, "1e-8"},
	{"weight_decay", NUM, 0, 1, false, false, NULL, "0.0"},
	{"max_grad_norm", NUM, 0, 1000, false, false, NULL, "1.0"},
	{"max_seq_length", INT, 32, QL_CONTEXT_MAX, false, false, NULL, "null"},
	{"on_overlong", WORD, 0, 0, false, false, "truncate|drop|error", "\"truncate\""},
	{"packing", BOOL, 0, 0, false, false, NULL, "true"},
	{"micro_batch_size", INT, 1, 256, false, false, NULL, "null"},
	{"gradient_accumulation_steps", INT, 1, 256, false, false, NULL, "null"},
	{"max_steps", INT, 1, STEPS_MAX, false, false, NULL, "null"},
	{"save_steps", INT, 1, STEPS_MAX, false, false, NULL, "null"},
	{"save_total_limit", INT, 1, 100, false, false, NULL, "3"},
	{"eval_steps", INT, 1, STEPS_MAX, false, false, NULL, "null"},
	{"early_stopping_patience", INT, 1, 1000, false, false, NULL, "null"},
	{"early_stopping_threshold", NUM, 0, 1000, false, false, NULL, "0.0"},
	{"logging_steps", INT, 1, 1000, false, false, NULL, "null"},
	{"train_on", WORD, 0, 0, false, false, "all|last", "\"all\""},
	{"completion_only_loss", BOOL, 0, 0, false, false, NULL, "true"},
	{"alpaca_template", BOOL, 0, 0, false, false, NULL, "false"},
	{"chat_template", TEXT, 1, 65536, false, false, NULL, "null"},
	{"auto_start", BOOL, 0, 0, false, false, NULL, "true"},
	{"priority", INT, -100, 100, false, false, NULL, "0"},
};
#define N_FIELDS (sizeof qlora_fields / sizeof qlora_fields[0])

static const struct field hyper_fields[] = {
	{"n_epochs", INT, 1, 50, false, false, NULL, "\"auto\""},
	{"batch_size", INT, 1, 256, false, false, NULL, "\"auto\""},
	{"learning_rate_multiplier", NUM, 0, 100, true, false, NULL, "\"auto\""},
};
#define N_HYPER (sizeof hyper_fields / sizeof hyper_fields[0])

const json_t *ql_field_given(const json_t *obj, const char *key)
{
	const json_t *v = json_object_get(obj, key);

	return v == NULL || json_is_null(v) ? NULL : v;
}

int ql_field_bad(struct ql_err *e, const char **code, const char *word, const char *prefix, const char *name, const char *what)
{
	char param[64];

	*code = word;
	(void)snprintf(param, sizeof param, "%s%.40s", prefix, name);
	return ql_err_param(e, QL_EINVAL, param, "'%s' %s", param, what);
}

static bool word_ok(const char *words, const char *s)
{
	size_t n = strlen(s);

	for (const char *w = words; w != NULL; w = strchr(w, '|')) {
		w += *w == '|';
		if (n > 0 && strncmp(w, s, n) == 0 && (w[n] == '|' || w[n] == '\0'))
			return true;
		if (strchr(w, '|') == NULL)
			break;
	}
	return false;
}

static int check_number(const struct field *d, const json_t *v, const char *prefix, json_t **out, const char **code, struct ql_err *e)
{
	char text[160];
	double n;

	if (d->type == INT && !json_is_integer(v))
		return ql_field_bad(e, code, "invalid_value", prefix, d->name, "must be an integer");
	if (!json_is_number(v))
		return ql_field_bad(e, code, "invalid_value", prefix, d->name, "must be a number");
	n = json_number_value(v);
	if (!(d->min_open ? n > d->min : n >= d->min) || !(d->max_open ? n < d->max : n <= d->max)) {
		(void)snprintf(text, sizeof text, "must be %s %.15g and %s %.15g, got %.15g", d->min_open ? "greater than" : "at least", d->min,
			       d->max_open ? "less than" : "at most", d->max, n);
		return ql_field_bad(e, code, "invalid_value", prefix, d->name, text);
	}
	*out = d->type == INT ? json_integer(json_integer_value(v)) : json_real(n);
	return QL_OK;
}

/* The value of one field, checked, or its default; *out is a new reference. */
static int check_field(const struct field *d, const json_t *v, const char *prefix, json_t **out, const char **code, struct ql_err *e)
{
	char text[160];
	size_t n;

	if (v == NULL) {
		*out = json_loads(d->preset, JSON_DECODE_ANY, NULL);
		return *out == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
	}
	switch (d->type) {
	case INT:
	case NUM:
		return check_number(d, v, prefix, out, code, e);
	case BOOL:
		if (!json_is_boolean(v))
			return ql_field_bad(e, code, "invalid_value", prefix, d->name, "must be true or false");
		break;
	case WORD:
		if (json_is_string(v) && word_ok(d->words, json_string_value(v)))
			break;
		(void)snprintf(text, sizeof text, "must be one of %s", d->words);
		return ql_field_bad(e, code, "invalid_value", prefix, d->name, text);
	default:
		n = json_string_length(v);
		if (!json_is_string(v) || (double)n < d->min || (double)n > d->max) {
			(void)snprintf(text, sizeof text, "must be a string of %.0f to %.0f bytes", d->min, d->max);
			return ql_field_bad(e, code, "invalid_value", prefix, d->name, text);
		}
	}
	*out = json_copy((json_t *)(uintptr_t)v);
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
}

static const char *const modules[] = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"};

/* "all-linear", or a list without repeats; kept in the model's order, so that the same set is the same recipe. */
static int check_targets(const json_t *v, json_t **out, const char **code, struct ql_err *e)
{
	bool have[7] = {false};
	size_t i, k;
	json_t *item;

	if (v == NULL || (json_is_string(v) && strcmp(json_string_value(v), "all-linear") == 0)) {
		*out = json_string("all-linear");
		return *out == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
	}
	if (!json_is_array(v) || json_array_size(v) == 0)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "target_modules", "must be \"all-linear\" or a list of module names");
	json_array_foreach(v, i, item) {
		for (k = 0; k < 7 && (!json_is_string(item) || strcmp(json_string_value(item), modules[k]) != 0); k++)
			;
		if (k == 7 || have[k])
			return ql_field_bad(e, code, "invalid_value", "qlora.", "target_modules",
				   "may hold q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj and down_proj, each once");
		have[k] = true;
	}
	*out = json_array();
	for (k = 0; k < 7; k++)
		if (have[k])
			(void)json_array_append_new(*out, json_string(modules[k]));
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
}

/* rank_pattern (integers) and alpha_pattern: an object of module name patterns.  Which modules match, the engine says. */
static int check_pattern(const json_t *v, const char *name, bool ranks, json_t **out, const char **code, struct ql_err *e)
{
	const char *key;
	json_t *item;

	if (v != NULL && (!json_is_object(v) || json_object_size(v) > PATTERNS_MAX))
		return ql_field_bad(e, code, "invalid_value", "qlora.", name, "must be an object of at most 64 patterns");
	json_object_foreach((json_t *)(uintptr_t)v, key, item) {
		double n = json_number_value(item);

		if (key[0] == '\0' || strlen(key) > PATTERN_BYTES_MAX)
			return ql_field_bad(e, code, "invalid_value", "qlora.", name, "may have keys of 1 to 256 bytes");
		if (ranks ? !json_is_integer(item) || n < 1 || n > QL_LORA_RANK_MAX : !json_is_number(item) || !(n > 0) || n > 1024)
			return ql_field_bad(e, code, "invalid_value", "qlora.", name, ranks ? "has values from 1 to 256" : "has values above 0, up to 1024");
	}
	*out = v != NULL ? json_copy((json_t *)(uintptr_t)v) : json_object();
	return *out == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
}

static int check_quantization(const json_t *v, const json_t *loaded, json_t **out, const char **code, struct ql_err *e)
{
	static const char *const keys[] = {"type", "block_size", "double_quant", NULL};
	json_t *have = loaded != NULL ? json_copy((json_t *)(uintptr_t)loaded)
				      : json_pack("{s:s,s:i,s:b}", "type", "nf4", "block_size", 64, "double_quant", 1);
	int rc = QL_OK;

	*out = have;
	if (v == NULL)
		return have == NULL ? ql_err_set(e, QL_ENOMEM, "request") : QL_OK;
	if (!json_is_object(v))
		return ql_field_bad(e, code, "invalid_value", "qlora.", "quantization", "must be an object");
	if (ql_json_only(v, keys, "qlora.quantization.", e) != QL_OK) {
		*code = "unsupported_parameter";
		return e->code;
	}
	for (int i = 0; keys[i] != NULL && rc == QL_OK; i++) {
		const json_t *want = ql_field_given(v, keys[i]);

		if (want != NULL && !json_equal(want, json_object_get(have, keys[i])))
			rc = ql_field_bad(e, code, "unsupported_value", "qlora.quantization.", keys[i], "must be that of the loaded base");
	}
	return rc;
}

static bool known_key(const char *key)
{
	for (size_t i = 0; i < N_FIELDS; i++)
		if (strcmp(qlora_fields[i].name, key) == 0)
			return true;
	return strcmp(key, "target_modules") == 0 || strcmp(key, "quantization") == 0 || strcmp(key, "rank_pattern") == 0 ||
	       strcmp(key, "alpha_pattern") == 0;
}

/* The keys of qlora that stand in for OpenAI's own are refused there by name, as any unknown key. */
int ql_recipe_read_qlora(const json_t *q, const json_t *quantization, json_t *r, const char **code, struct ql_err *e)
{
	const char *key;
	json_t *v;
	int rc;

	if (q != NULL && !json_is_object(q))
		return ql_field_bad(e, code, "invalid_value", "", "qlora", "must be an object");
	json_object_foreach((json_t *)(uintptr_t)q, key, v)
		if (!known_key(key))
			return ql_field_bad(e, code, "unsupported_parameter", "qlora.", key, "is not a known parameter");
	for (size_t i = 0; i < N_FIELDS; i++) {
		v = NULL;
		rc = check_field(&qlora_fields[i], ql_field_given(q, qlora_fields[i].name), "qlora.", &v, code, e);
		if (rc == QL_OK && json_object_set_new(r, qlora_fields[i].name, v) != 0)
			rc = ql_err_set(e, QL_ENOMEM, "request");
		if (rc != QL_OK)
			return rc;
	}
	v = NULL;
	rc = check_targets(ql_field_given(q, "target_modules"), &v, code, e);
	(void)json_object_set_new(r, "target_modules", v);
	if (rc != QL_OK)
		return rc;
	for (int i = 0; i < 2; i++) {
		const char *name = i == 0 ? "rank_pattern" : "alpha_pattern";

		v = NULL;
		rc = check_pattern(ql_field_given(q, name), name, i == 0, &v, code, e);
		(void)json_object_set_new(r, name, v);
		if (rc != QL_OK)
			return rc;
	}
	v = NULL;
	rc = check_quantization(ql_field_given(q, "quantization"), quantization, &v, code, e);
	(void)json_object_set_new(r, "quantization", v);
	return rc;
}

static int read_hyper(const json_t *obj, const char *prefix, json_t *r, const char **code, struct ql_err *e)
{
	if (obj != NULL && !json_is_object(obj))
		return ql_field_bad(e, code, "invalid_value", "", "hyperparameters", "must be an object");
	for (size_t i = 0; i < N_HYPER; i++) {
		const json_t *v = ql_field_given(obj, hyper_fields[i].name);
		json_t *out = NULL;
		int rc;

		if (v == NULL && json_object_get(r, hyper_fields[i].name) != NULL)
			continue;
		if (json_is_string(v) && strcmp(json_string_value(v), "auto") == 0)
			v = NULL;
		rc = check_field(&hyper_fields[i], v, prefix, &out, code, e);
		if (rc == QL_OK && json_object_set_new(r, hyper_fields[i].name, out) != 0)
			rc = ql_err_set(e, QL_ENOMEM, "request");
		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

int ql_recipe_read_method(const json_t *body, json_t *r, const char **code, struct ql_err *e)
{
	const json_t *m = ql_field_given(body, "method"), *type, *sup;
	const char *word;
	int rc = read_hyper(ql_field_given(body, "hyperparameters"), "hyperparameters.", r, code, e);

	if (rc != QL_OK || m == NULL)
		return rc;
	if (!json_is_object(m))
		return ql_field_bad(e, code, "invalid_value", "", "method", "must be an object");
	type = ql_field_given(m, "type");
	if (type == NULL)
		return ql_field_bad(e, code, "missing_required_parameter", "", "method.type", "is required");
	word = json_string_value(type);
	if (word != NULL && (strcmp(word, "dpo") == 0 || strcmp(word, "reinforcement") == 0))
		return ql_field_bad(e, code, "unsupported_value", "", "method.type", "is not offered; use supervised");
	if (word == NULL || strcmp(word, "supervised") != 0)
		return ql_field_bad(e, code, "invalid_value", "", "method.type", "must be supervised, dpo or reinforcement");
	sup = ql_field_given(m, "supervised");
	if (sup != NULL && !json_is_object(sup))
		return ql_field_bad(e, code, "invalid_value", "", "method.supervised", "must be an object");
	return read_hyper(ql_field_given(sup, "hyperparameters"), "method.supervised.hyperparameters.", r, code, e);
}
