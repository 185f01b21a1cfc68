/* job_auto.c - what "auto" and null become once the files are validated (api.md §5.2, §5.3).
 *
 *   n_epochs    3; 3n < 100: min(25, ceil(100/n)); 3n > 25000: max(1, floor(25000/n))
 *   batch_size  largest power of two ≤ n/50, within 1..16; the product of micro_batch_size and gradient_accumulation_steps
 *               where both are given; rounded up to a multiple of the one that is
 *   learning_rate  multiplier × 2e-4 (1e-4 above 20 G parameters) */
#include "daemon/jobs_internal.h"

#define BIG_MODEL 20e9

double ql_auto_base_rate(double parameters) { return parameters > BIG_MODEL ? 1e-4 : 2e-4; }

int64_t ql_auto_epochs(int64_t n)
{
	int64_t e;

	if (n < 1)
		return 1;
	if (3 * n < 100) {
		e = (100 + n - 1) / n;
		return e > 25 ? 25 : e;
	}
	if (3 * n > 25000) {
		e = 25000 / n;
		return e < 1 ? 1 : e;
	}
	return 3;
}

int64_t ql_auto_batch(int64_t n)
{
	int64_t b = 1;

	while (b < 16 && 2 * b <= n / 50)
		b *= 2;
	return b;
}

static int set_int(json_t *r, const char *key, int64_t v, struct ql_err *e)
{
	return json_object_set_new(r, key, json_integer(v)) == 0 ? QL_OK : ql_err_set(e, QL_ENOMEM, "recipe");
}

static int64_t whole_batch(const json_t *r, int64_t examples)
{
	int64_t micro = json_integer_value(json_object_get(r, "micro_batch_size"));
	int64_t accum = json_integer_value(json_object_get(r, "gradient_accumulation_steps"));
	int64_t batch = ql_auto_batch(examples), unit = micro > 0 ? micro : accum;

	if (micro > 0 && accum > 0)
		return micro * accum;
	return unit > 0 ? (batch + unit - 1) / unit * unit : batch;
}

int ql_recipe_resolve(json_t *r, int64_t examples, int64_t context, double parameters, struct ql_err *e)
{
	double base = ql_auto_base_rate(parameters), rate = json_number_value(json_object_get(r, "learning_rate"));
	double multiplier = json_number_value(json_object_get(r, "learning_rate_multiplier"));
	int64_t seq = json_integer_value(json_object_get(r, "max_seq_length"));
	int rc = QL_OK;

	if (!json_is_integer(json_object_get(r, "n_epochs")))
		rc = set_int(r, "n_epochs", ql_auto_epochs(examples), e);
	if (rc == QL_OK && !json_is_integer(json_object_get(r, "batch_size")))
		rc = set_int(r, "batch_size", whole_batch(r, examples), e);
	if (rc == QL_OK && seq == 0)
		rc = set_int(r, "max_seq_length", context > 0 && context < 2048 ? context : 2048, e);
	if (rc != QL_OK)
		return rc;
	if (rate > 0)
		multiplier = rate / base;
	else
		rate = (multiplier = multiplier > 0 ? multiplier : 1.0) * base;
	if (json_object_set_new(r, "learning_rate", json_real(rate)) != 0 ||
	    json_object_set_new(r, "learning_rate_multiplier", json_real(multiplier)) != 0)
		return ql_err_set(e, QL_ENOMEM, "recipe");
	return QL_OK;
}

json_t *ql_recipe_for_engine(const json_t *recipe, int64_t seed, int64_t context)
{
	json_t *r = json_copy((json_t *)(uintptr_t)recipe);

	if (r == NULL)
		return NULL;
	(void)json_object_del(r, "learning_rate_multiplier");
	(void)json_object_del(r, "auto_start");
	(void)json_object_del(r, "priority");
	if (!json_is_integer(json_object_get(r, "max_seq_length")))
		(void)json_object_set_new(r, "max_seq_length", json_integer(context > 0 && context < 2048 ? context : 2048));
	(void)json_object_set_new(r, "seed", json_integer(seed));
	return r;
}
