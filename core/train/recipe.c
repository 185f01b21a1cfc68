/* recipe.c - see recipe.h. */
#include "core/train/recipe.h"

#include <math.h>
#include <string.h>

#include "core/base/json.h"
#include "core/base/limits.h"
#include "core/formats/arch.h"
#include "core/text/data/dataset.h"

static int one_of(const json_t *obj, const char *key, const char *const *names, int *out, struct ql_err *e)
{
	const char *s = NULL;
	int rc = ql_json_get_str(obj, key, 1, 64, &s, e);

	if (rc != QL_OK || s == NULL)
		return rc;
	for (int i = 0; names[i] != NULL; i++)
		if (strcmp(names[i], s) == 0) {
			*out = i;
			return QL_OK;
		}
	return ql_err_param(e, QL_EINVAL, key, "'%s' cannot be '%.40s'", key, s);
}

static int u32(const json_t *obj, const char *key, int64_t min, int64_t max, uint32_t *out, struct ql_err *e)
{
	int64_t v = *out;
	int rc = ql_json_get_int(obj, key, min, max, &v, e);

	*out = (uint32_t)v;
	return rc;
}

static int u64(const json_t *obj, const char *key, int64_t min, int64_t max, uint64_t *out, struct ql_err *e)
{
	int64_t v = (int64_t)*out;
	int rc = ql_json_get_int(obj, key, min, max, &v, e);

	*out = (uint64_t)v;
	return rc;
}

static int count_or_auto(const json_t *obj, const char *key, int64_t max, bool allow_auto, uint32_t *out, struct ql_err *e)
{
	const json_t *v = json_object_get(obj, key);

	if (allow_auto && (v == NULL || (json_is_string(v) && strcmp(json_string_value(v), "auto") == 0))) {
		*out = 0;
		return QL_OK;
	}
	return u32(obj, key, 1, max, out, e);
}

static int modules(const json_t *obj, uint32_t *mask, struct ql_err *e)
{
	const json_t *v = json_object_get(obj, "target_modules");

	if (v == NULL || json_is_null(v))
		return QL_OK;
	if (json_is_string(v) && strcmp(json_string_value(v), "all-linear") == 0)
		return QL_OK;
	if (!json_is_array(v) || json_array_size(v) == 0)
		return ql_err_param(e, QL_EINVAL, "target_modules", "'target_modules' must be \"all-linear\" or a list of linears");
	*mask = 0;
	for (size_t i = 0; i < json_array_size(v); i++) {
		const char *s = json_string_value(json_array_get(v, i));
		int m = s == NULL ? -1 : ql_module_of(s);

		if (m < 0)
			return ql_err_param(e, QL_EINVAL, "target_modules", "'target_modules': '%.40s' is not one of the seven linears",
					    s == NULL ? "(no string)" : s);
		*mask |= 1u << m;
	}
	return QL_OK;
}

/* Values are checked where they are used (ql_recipe_sites). */
static int pattern(const json_t *obj, const char *key, const json_t **out, struct ql_err *e)
{
	const json_t *v = json_object_get(obj, key);

	*out = json_is_object(v) && json_object_size(v) > 0 ? v : NULL;
	if (v != NULL && !json_is_null(v) && !json_is_object(v))
		return ql_err_param(e, QL_EINVAL, key, "'%s' must be an object of patterns", key);
	return QL_OK;
}

static int numbers(struct ql_recipe *r, const json_t *o, struct ql_err *e)
{
	const struct {
		const char *key;
		double min, max, *out;
	} rows[] = {
		{"learning_rate", 0, 1, &r->learning_rate},    {"alpha", 1e-6, 1024, &r->alpha},
		{"dropout", 0, 0.9, &r->dropout},	       {"loraplus_ratio", 1, 64, &r->loraplus_ratio},
		{"min_lr_ratio", 0, 1, &r->min_lr_ratio},      {"warmup_ratio", 0, 0.5, &r->warmup_ratio},
		{"adam_beta1", 0, 0.9999999, &r->beta1},       {"adam_beta2", 0, 0.9999999, &r->beta2},
		{"adam_epsilon", 1e-12, 1e-3, &r->eps},	       {"weight_decay", 0, 1, &r->weight_decay},
		{"max_grad_norm", 0, 1000, &r->max_grad_norm}, {"neftune_noise_alpha", 0, 1000, &r->neftune},
		{"early_stopping_threshold", 0, 1000, &r->min_delta},
	};

	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		int rc = ql_json_get_num(o, rows[i].key, rows[i].min, rows[i].max, rows[i].out, e);

		if (rc != QL_OK)
			return rc;
	}
	return QL_OK;
}

static int counts(struct ql_recipe *r, const json_t *o, bool allow_auto, struct ql_err *e)
{
	int rc = count_or_auto(o, "n_epochs", 50, allow_auto, &r->n_epochs, e);

	if (rc == QL_OK)
		rc = count_or_auto(o, "batch_size", 256, allow_auto, &r->batch_size, e);
	if (rc == QL_OK)
		rc = u32(o, "micro_batch_size", 1, 256, &r->micro_batch_size, e);
	if (rc == QL_OK)
		rc = u32(o, "gradient_accumulation_steps", 1, 256, &r->grad_accum, e);
	if (rc == QL_OK)
		rc = u32(o, "rank", 1, QL_LORA_RANK_MAX, &r->rank, e);
	if (rc == QL_OK)
		rc = u32(o, "max_seq_length", 32, QL_CONTEXT_MAX, &r->max_seq_length, e);
	if (rc == QL_OK)
		rc = u32(o, "save_total_limit", 1, 100, &r->save_total_limit, e);
	if (rc == QL_OK)
		rc = u32(o, "logging_steps", 1, 1000, &r->logging_steps, e);
	if (rc == QL_OK)
		rc = u32(o, "early_stopping_patience", 1, 1000, &r->patience, e);
	if (rc == QL_OK)
		rc = u64(o, "seed", 0, INT32_MAX, &r->seed, e);
	if (rc == QL_OK)
		rc = u64(o, "max_steps", 1, 10000000, &r->max_steps, e);
	if (rc == QL_OK)
		rc = u64(o, "save_steps", 1, 10000000, &r->save_steps, e);
	if (rc == QL_OK)
		rc = u64(o, "eval_steps", 1, 10000000, &r->eval_steps, e);
	if (rc == QL_OK)
		rc = ql_json_get_int(o, "warmup_steps", 0, 1000000, &r->warmup_steps, e);
	return rc;
}

int ql_recipe_parse(struct ql_recipe *r, const json_t *o, bool allow_auto, struct ql_err *e)
{
	static const char *const schedules[] = {"constant", "constant_with_warmup", "linear", "cosine", NULL};
	static const char *const inits[] = {"default", "gaussian", NULL};
	static const char *const overlong[] = {"truncate", "drop", "error", NULL};
	static const char *const train_on[] = {"all", "last", NULL};
	static const char *const optimizers[] = {"adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit", NULL};
	int schedule = QL_SCHED_COSINE, init = 0, optimizer = 0, rc;

	*r = (struct ql_recipe){.n_epochs = 1, .batch_size = 1, .learning_rate = 2e-4, .rank = 16, .modules = QL_MODULES_ALL,
				.loraplus_ratio = 1, .warmup_ratio = 0.03, .warmup_steps = -1, .beta1 = 0.9, .beta2 = 0.999,
				.eps = 1e-8, .max_grad_norm = 1.0, .max_seq_length = 2048, .packing = true,
				.completion_only_loss = true, .save_total_limit = 3};
	if (!json_is_object(o))
		return ql_err_param(e, QL_EINVAL, "recipe", "the recipe must be an object");
	rc = counts(r, o, allow_auto, e);
	r->alpha = 2.0 * r->rank;
	if (rc == QL_OK)
		rc = numbers(r, o, e);
	if (rc == QL_OK)
		rc = modules(o, &r->modules, e);
	if (rc == QL_OK)
		rc = pattern(o, "rank_pattern", &r->rank_pattern, e);
	if (rc == QL_OK)
		rc = pattern(o, "alpha_pattern", &r->alpha_pattern, e);
	if (rc == QL_OK)
		rc = one_of(o, "lr_scheduler", schedules, &schedule, e);
	if (rc == QL_OK)
		rc = one_of(o, "init_lora_weights", inits, &init, e);
	if (rc == QL_OK)
		rc = one_of(o, "on_overlong", overlong, &r->on_overlong, e);
	if (rc == QL_OK)
		rc = one_of(o, "train_on", train_on, &r->train_on, e);
	if (rc == QL_OK)
		rc = one_of(o, "optimizer", optimizers, &optimizer, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(o, "use_rslora", &r->rslora, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(o, "packing", &r->packing, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(o, "completion_only_loss", &r->completion_only_loss, e);
	if (rc == QL_OK)
		rc = ql_json_get_bool(o, "alpaca_template", &r->alpaca_template, e);
	if (rc == QL_OK)
		rc = ql_json_get_str(o, "chat_template", 0, QL_KIB(64), &r->chat_template, e);
	r->schedule = (enum ql_schedule)schedule;
	r->gaussian_init = init == 1;
	r->optimizer = optimizer % 2 == 1 ? QL_OPTIM_ADAMW_8BIT : QL_OPTIM_ADAMW;
	r->paged = optimizer >= 2;
	return rc;
}

void ql_recipe_split(struct ql_recipe *r)
{
	if (r->micro_batch_size > 0)
		return;
	if (r->grad_accum > 0)
		r->micro_batch_size = (r->batch_size + r->grad_accum - 1) / r->grad_accum;
	else if (!r->packing)
		r->micro_batch_size = 1;
}

double ql_schedule_factor(enum ql_schedule s, uint64_t k, uint64_t T, uint64_t W, double min_ratio)
{
	double span, f;

	if (s == QL_SCHED_CONSTANT)
		return 1;
	if (k < W)
		return (double)k / (double)(W > 1 ? W : 1);
	if (s == QL_SCHED_CONSTANT_WARMUP)
		return 1;
	span = (double)(T > W && T - W > 1 ? T - W : 1);
	if (s == QL_SCHED_LINEAR) {
		f = ((double)T - (double)k) / span;
		return f > 0 ? f : 0;
	}
	f = 0.5 * (1.0 + cos(M_PI * 2.0 * 0.5 * ((double)(k - W) / span)));
	f = f > 0 ? f : 0;
	return f * (1.0 - min_ratio) + min_ratio;
}

uint64_t ql_recipe_warmup(const struct ql_recipe *r, uint64_t total_steps)
{
	if (r->schedule == QL_SCHED_CONSTANT)
		return 0;
	return r->warmup_steps >= 0 ? (uint64_t)r->warmup_steps : (uint64_t)ceil((double)total_steps * r->warmup_ratio);
}
