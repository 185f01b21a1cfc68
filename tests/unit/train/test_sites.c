/* Which rank and alpha each module gets from a recipe's patterns: PEFT's rule, and what is refused. */
#include "tests/unit/cm.h"

#include <string.h>

#include "core/formats/arch.h"
#include "core/train/recipe.h"

#define LAYERS 12

static int sites(const char *recipe, uint32_t *rank, double *alpha, struct ql_err *e)
{
	json_t *o = json_loads(recipe, 0, NULL);
	struct ql_arch a = {.num_hidden_layers = LAYERS};
	struct ql_recipe r;
	int rc;

	assert_non_null(o);
	rc = ql_recipe_parse(&r, o, false, e);
	if (rc == QL_OK)
		rc = ql_recipe_sites(&r, &a, rank, alpha, e);
	json_decref(o);
	return rc;
}

static void patterns(void **state)
{
	uint32_t rank[LAYERS * QL_MODULES];
	double alpha[LAYERS * QL_MODULES];
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(sites("{\"rank\":8,\"alpha\":16,\"target_modules\":[\"q_proj\",\"v_proj\",\"down_proj\"],"
			       "\"rank_pattern\":{\"layers.1.self_attn.q_proj\":4,\"q_proj\":32,\"model.layers.0.mlp.down_proj\":2},"
			       "\"alpha_pattern\":{\"layers\\\\.(1|3)\\\\.mlp.*\":64,\"v_proj\":1.5}}", rank, alpha, &e),
			 QL_OK);
	for (uint32_t l = 0; l < LAYERS; l++)
		for (int m = 0; m < QL_MODULES; m++) {
			uint32_t i = l * QL_MODULES + (uint32_t)m;

			/* the first key that matches decides; "layers.1" is not layer 10 or 11 */
			assert_int_equal(rank[i], m == QL_Q_PROJ	   ? (l == 1 ? 4 : 32)
						  : m == QL_DOWN_PROJ	   ? (l == 0 ? 2 : 8)
						  : m == QL_V_PROJ	   ? 8
									   : 0);
			if (rank[i] > 0)
				assert_true(alpha[i] == (m == QL_V_PROJ ? 1.5 : m == QL_DOWN_PROJ && (l == 1 || l == 3) ? 64 : 16));
		}
}

static void refused(void **state)
{
	static const struct {
		const char *recipe, *param;
	} cases[] = {
		{"{\"rank_pattern\":{\"proj\":4}}", "rank_pattern"},		       /* whole components only */
		{"{\"rank_pattern\":{\"lm_head\":4}}", "rank_pattern"},		       /* nothing of ours */
		{"{\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"k_proj\":4}}", "rank_pattern"}, /* not adapted */
		{"{\"rank_pattern\":{\"q_proj\":4,\".*q_proj\":8}}", "rank_pattern"},  /* the second never decides */
		{"{\"rank_pattern\":{\"(q_proj\":4}}", "rank_pattern"},
		{"{\"rank_pattern\":{\"q_proj\":0}}", "rank_pattern"},
		{"{\"rank_pattern\":{\"q_proj\":4.0}}", "rank_pattern"},
		{"{\"rank_pattern\":[]}", "rank_pattern"},
		{"{\"alpha_pattern\":{\"q_proj\":0}}", "alpha_pattern"},
		{"{\"alpha_pattern\":{\"(a+)+$\":1}}", "alpha_pattern"},
		{"{\"alpha_pattern\":{\"q_proj\":\"1\"}}", "alpha_pattern"},
	};
	uint32_t rank[LAYERS * QL_MODULES];
	double alpha[LAYERS * QL_MODULES];

	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct ql_err e = {0};

		if (sites(cases[i].recipe, rank, alpha, &e) != QL_EINVAL || strcmp(e.param, cases[i].param) != 0)
			fail_msg("%s: %d, %s", cases[i].recipe, e.code, e.message);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(patterns), cmocka_unit_test(refused)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
