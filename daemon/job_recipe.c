/* job_recipe.c - the recipe of a new job: its fields (job_fields.c), the rules between them, the defaults that depend on others, and
 * what a job that goes on from an adapter takes over. */
#include <string.h>

#include "core/base/json.h"
#include "daemon/jobs_internal.h"

static int64_t int_of(const json_t *r, const char *key) { return json_integer_value(json_object_get(r, key)); }

static int check_batch(const json_t *r, const char **code, struct ql_err *e)
{
	int64_t micro = int_of(r, "micro_batch_size"), accum = int_of(r, "gradient_accumulation_steps"), batch = int_of(r, "batch_size");

	if (micro != 0 && accum != 0 && micro * accum > 256)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "gradient_accumulation_steps", "times micro_batch_size must be at most 256");
	if (batch == 0)
		return QL_OK;
	if (micro != 0 && accum != 0 && micro * accum != batch)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "gradient_accumulation_steps", "times micro_batch_size must be batch_size");
	if (micro != 0 && batch % micro != 0)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "micro_batch_size", "must divide batch_size");
	if (accum != 0 && batch % accum != 0)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "gradient_accumulation_steps", "must divide batch_size");
	return QL_OK;
}

/* Rules between fields, and the defaults that depend on others. */
static int check_together(const json_t *body, const json_t *q, const struct ql_recipe_facts *facts, json_t *r, const char **code, struct ql_err *e)
{
	const char *scheduler = json_string_value(json_object_get(r, "lr_scheduler"));
	bool ratio = ql_field_given(q, "warmup_ratio") != NULL, steps = ql_field_given(q, "warmup_steps") != NULL;
	double rate = json_number_value(json_object_get(r, "learning_rate"));
	int64_t seq = int_of(r, "max_seq_length");

	if (ql_field_given(q, "early_stopping_patience") != NULL && ql_field_given(body, "validation_file") == NULL)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "early_stopping_patience", "needs a validation_file");
	if (ratio && steps)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "warmup_steps", "and qlora.warmup_ratio must not both be given");
	if (strcmp(scheduler, "constant") == 0 && (json_number_value(ql_field_given(q, "warmup_ratio")) > 0 ||
			json_number_value(ql_field_given(q, "warmup_steps")) > 0))
		return ql_field_bad(e, code, "invalid_value", "qlora.", ratio ? "warmup_ratio" : "warmup_steps",
			   "must be 0 with lr_scheduler constant; use constant_with_warmup");
	if (!ratio)
		(void)json_object_set_new(r, "warmup_ratio", json_real(strcmp(scheduler, "constant") == 0 ? 0 : 0.03));
	if (strcmp(scheduler, "cosine") != 0 && json_number_value(json_object_get(r, "min_lr_ratio")) != 0)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "min_lr_ratio", "must be 0 unless lr_scheduler is cosine");
	if (rate > 0 && json_is_number(json_object_get(r, "learning_rate_multiplier")))
		return ql_field_bad(e, code, "invalid_value", "qlora.", "learning_rate", "and learning_rate_multiplier must not both be given");
	if (rate > 0)
		(void)json_object_set_new(r, "learning_rate_multiplier", json_real(rate / ql_auto_base_rate(facts->parameters)));
	if (facts->context > 0 && seq > facts->context)
		return ql_field_bad(e, code, "invalid_value", "qlora.", "max_seq_length", "is longer than the context of the base");
	if (seq == 0 && facts->context > 0)
		(void)json_object_set_new(r, "max_seq_length", json_integer(facts->context < 2048 ? facts->context : 2048));
	if (json_is_null(json_object_get(r, "alpha")))
		(void)json_object_set_new(r, "alpha", json_real(2.0 * (double)int_of(r, "rank")));
	return check_batch(r, code, e);
}

/* Continued training: shape of the adapter as it is; asking for another one is a contradiction. */
static int take_over(const json_t *q, const json_t *from, json_t *r, const char **code, struct ql_err *e)
{
	static const char *const keys[] = {"rank", "alpha", "target_modules", "use_rslora", "rank_pattern", "alpha_pattern"};

	if (from == NULL)
		return QL_OK;
	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		json_t *v = json_object_get(from, keys[i]), *own = json_object_get(r, keys[i]);
		/* a model made before patterns existed has none */
		bool equal = v == NULL ? json_object_size(own) == 0 : json_is_number(v) ? json_number_value(v) == json_number_value(own) : json_equal(v, own);

		if (ql_field_given(q, keys[i]) != NULL && !equal)
			return ql_field_bad(e, code, "invalid_value", "qlora.", keys[i], "is that of the model to be trained on and cannot be changed");
		if (v != NULL)
			(void)json_object_set(r, keys[i], v);
	}
	return QL_OK;
}

int ql_recipe_make(const json_t *body, const struct ql_recipe_facts *facts, json_t **recipe, const char **code, struct ql_err *e)
{
	const json_t *q = ql_field_given(body, "qlora");
	json_t *r = json_object();
	int rc;

	*recipe = NULL;
	*code = "invalid_value";
	if (r == NULL)
		return ql_err_set(e, QL_ENOMEM, "request");
	rc = ql_recipe_read_method(body, r, code, e);
	if (rc == QL_OK)
		rc = ql_recipe_read_qlora(q, facts->quantization, r, code, e);
	if (rc == QL_OK)
		rc = check_together(body, q, facts, r, code, e);
	if (rc == QL_OK)
		rc = take_over(q, facts->inherit, r, code, e);
	if (rc == QL_OK)
		*recipe = r;
	else
		json_decref(r);
	return rc;
}
