/* Every field of a create body: below its least value, least, greatest, above, wrong type, null; and the rules between them. */
#include "tests/unit/cm.h"

#include <string.h>

#include "core/base/json.h"
#include "daemon/jobs_internal.h"

struct row {
	const char *where; /* printf pattern with %s for the value; the rest of the body is fine */
	const char *param;
	const char *low, *least, *greatest, *high, *wrong; /* NULL: not applicable */
};

static const struct row rows[] = {
	{"{\"hyperparameters\":{\"n_epochs\":%s}}", "hyperparameters.n_epochs", "0", "1", "50", "51", "2.0"},
	{"{\"hyperparameters\":{\"n_epochs\":%s}}", "hyperparameters.n_epochs", "-1", "\"auto\"", "3", "9223372036854775807", "\"3\""},
	{"{\"hyperparameters\":{\"batch_size\":%s}}", "hyperparameters.batch_size", "0", "1", "256", "257", "true"},
	{"{\"hyperparameters\":{\"learning_rate_multiplier\":%s}}", "hyperparameters.learning_rate_multiplier", "0", "1e-300",
			"100", "100.0001",
	 "\"1\""},
	{"{\"method\":{\"type\":\"supervised\",\"supervised\":{\"hyperparameters\":{\"n_epochs\":%s}}}}",
	 "method.supervised.hyperparameters.n_epochs", "0", "1", "50", "51", "[]"},
	{"{\"qlora\":{\"rank\":%s}}", "qlora.rank", "0", "1", "256", "257", "16.0"},
	{"{\"qlora\":{\"alpha\":%s}}", "qlora.alpha", "0", "0.001", "1024", "1024.5", "\"32\""},
	{"{\"qlora\":{\"dropout\":%s}}", "qlora.dropout", "-0.1", "0", "0.9", "0.91", "false"},
	{"{\"qlora\":{\"use_rslora\":%s}}", "qlora.use_rslora", NULL, "true", "false", NULL, "1"},
	{"{\"qlora\":{\"init_lora_weights\":%s}}", "qlora.init_lora_weights", NULL, "\"default\"", "\"gaussian\"", "\"pissa\"", "true"},
	{"{\"qlora\":{\"loraplus_ratio\":%s}}", "qlora.loraplus_ratio", "0.99", "1", "64", "64.1", "\"a\""},
	{"{\"qlora\":{\"learning_rate\":%s}}", "qlora.learning_rate", "0", "1e-9", "1", "1.01", "\"a\""},
	{"{\"qlora\":{\"lr_scheduler\":%s}}", "qlora.lr_scheduler", NULL, "\"constant\"", "\"linear\"", "\"cos\"", "0"},
	{"{\"qlora\":{\"lr_scheduler\":%s}}", "qlora.lr_scheduler", NULL, "\"cosine\"", "\"constant_with_warmup\"", "\"\"", "[]"},
	{"{\"qlora\":{\"min_lr_ratio\":%s}}", "qlora.min_lr_ratio", "-0.01", "0", "1", "1.01", "\"a\""},
	{"{\"qlora\":{\"warmup_ratio\":%s}}", "qlora.warmup_ratio", "-0.01", "0", "0.5", "0.51", "\"a\""},
	{"{\"qlora\":{\"warmup_steps\":%s}}", "qlora.warmup_steps", "-1", "0", "1000000", "1000001", "1.5"},
	{"{\"qlora\":{\"optimizer\":%s}}", "qlora.optimizer", NULL, "\"adamw\"", "\"paged_adamw_8bit\"", "\"adam8\"", "{}"},
	{"{\"qlora\":{\"optimizer\":%s}}", "qlora.optimizer", NULL, "\"adamw_8bit\"", "\"paged_adamw\"", "\"sgd\"", "8"},
	{"{\"qlora\":{\"neftune_noise_alpha\":%s}}", "qlora.neftune_noise_alpha", "0", "0.001", "1000", "1001", "\"5\""},
	{"{\"validation_file\":\"file-x\",\"qlora\":{\"early_stopping_patience\":%s}}", "qlora.early_stopping_patience", "0", "1", "1000", "1001", "1.0"},
	{"{\"qlora\":{\"early_stopping_threshold\":%s}}", "qlora.early_stopping_threshold", "-0.1", "0", "1000", "1001", "\"a\""},
	{"{\"qlora\":{\"rank_pattern\":%s}}", "qlora.rank_pattern", "{\"q_proj\":0}", "{}", "{\"q_proj\":256}", "{\"q_proj\":257}", "{\"q_proj\":1.5}"},
	{"{\"qlora\":{\"alpha_pattern\":%s}}", "qlora.alpha_pattern", "{\"q_proj\":0}", "{}", "{\"q_proj\":1024}", "{\"\":1}", "[]"},
	{"{\"qlora\":{\"adam_beta1\":%s}}", "qlora.adam_beta1", "-0.1", "0", "0.99999", "1", "\"a\""},
	{"{\"qlora\":{\"adam_beta2\":%s}}", "qlora.adam_beta2", "-0.1", "0", "0.99999", "1", "\"a\""},
	{"{\"qlora\":{\"adam_epsilon\":%s}}", "qlora.adam_epsilon", "1e-13", "1e-12", "1e-3", "1.1e-3", "\"a\""},
	{"{\"qlora\":{\"weight_decay\":%s}}", "qlora.weight_decay", "-0.1", "0", "1", "1.1", "\"a\""},
	{"{\"qlora\":{\"max_grad_norm\":%s}}", "qlora.max_grad_norm", "-1", "0", "1000", "1001", "\"a\""},
	{"{\"qlora\":{\"max_seq_length\":%s}}", "qlora.max_seq_length", "31", "32", "4096", "4097", "64.0"},
	{"{\"qlora\":{\"on_overlong\":%s}}", "qlora.on_overlong", NULL, "\"drop\"", "\"error\"", "\"cut\"", "1"},
	{"{\"qlora\":{\"packing\":%s}}", "qlora.packing", NULL, "true", "false", NULL, "\"true\""},
	{"{\"qlora\":{\"micro_batch_size\":%s}}", "qlora.micro_batch_size", "0", "1", "256", "257", "1.0"},
	{"{\"qlora\":{\"gradient_accumulation_steps\":%s}}", "qlora.gradient_accumulation_steps", "0", "1", "256", "257", "1.0"},
	{"{\"qlora\":{\"max_steps\":%s}}", "qlora.max_steps", "0", "1", "10000000", "10000001", "1.0"},
	{"{\"qlora\":{\"save_steps\":%s}}", "qlora.save_steps", "0", "1", "10000000", "10000001", "1.0"},
	{"{\"qlora\":{\"save_total_limit\":%s}}", "qlora.save_total_limit", "0", "1", "100", "101", "1.0"},
	{"{\"qlora\":{\"eval_steps\":%s}}", "qlora.eval_steps", "0", "1", "10000000", "10000001", "1.0"},
	{"{\"qlora\":{\"logging_steps\":%s}}", "qlora.logging_steps", "0", "1", "1000", "1001", "1.0"},
	{"{\"qlora\":{\"train_on\":%s}}", "qlora.train_on", NULL, "\"all\"", "\"last\"", "\"first\"", "1"},
	{"{\"qlora\":{\"completion_only_loss\":%s}}", "qlora.completion_only_loss", NULL, "true", "false", NULL, "0"},
	{"{\"qlora\":{\"alpaca_template\":%s}}", "qlora.alpaca_template", NULL, "true", "false", NULL, "0"},
	{"{\"qlora\":{\"chat_template\":%s}}", "qlora.chat_template", "\"\"", "\"a\"", "\"{{ messages }}\"", NULL, "1"},
	{"{\"qlora\":{\"auto_start\":%s}}", "qlora.auto_start", NULL, "true", "false", NULL, "\"no\""},
	{"{\"qlora\":{\"priority\":%s}}", "qlora.priority", "-101", "-100", "100", "101", "1.0"},
	{"{\"qlora\":{\"target_modules\":%s}}", "qlora.target_modules", "[]", "[\"q_proj\"]", "\"all-linear\"", "[\"lm_head\"]", "\"q_proj\""},
	{"{\"qlora\":{\"target_modules\":%s}}", "qlora.target_modules", "[\"q_proj\",\"q_proj\"]", "[\"down_proj\",\"k_proj\"]",
			"\"all-linear\"",
	 "[1]", "{}"},
	{"{\"qlora\":{\"quantization\":%s}}", "qlora.quantization", NULL, "{}",
			"{\"type\":\"nf4\",\"block_size\":64,\"double_quant\":true}", NULL,
	 "\"nf4\""},
	{"{\"method\":%s}", "method", NULL, "{\"type\":\"supervised\"}", "{\"type\":\"supervised\",\"supervised\":{}}", NULL,
			"\"supervised\""},
};

static int make(const char *text, json_t **recipe, const char **code, struct ql_err *e)
{
	struct ql_recipe_facts facts = {.context = 4096, .parameters = 135e6};
	json_t *body = NULL;
	int rc;

	assert_int_equal(ql_json_parse(text, strlen(text), 1 << 20, &body, e), QL_OK);
	memset(e, 0, sizeof *e);
	*recipe = NULL;
	rc = ql_recipe_make(body, &facts, recipe, code, e);
	json_decref(body);
	return rc;
}

static void expect(const struct row *r, const char *value, bool good)
{
	char text[512];
	const char *code = NULL;
	json_t *recipe;
	struct ql_err e = {0};
	int rc;

	if (value == NULL)
		return;
	(void)snprintf(text, sizeof text, r->where, value);
	rc = make(text, &recipe, &code, &e);
	if (good != (rc == QL_OK))
		print_error("%s: rc %d, %s\n", text, rc, e.message);
	assert_int_equal(good, rc == QL_OK);
	if (!good) {
		assert_int_equal(rc, QL_EINVAL);
		assert_string_equal(e.param, r->param);
		assert_string_equal(code, "invalid_value");
	}
	json_decref(recipe);
}

static void ranges(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		expect(&rows[i], rows[i].low, false);
		expect(&rows[i], rows[i].least, true);
		expect(&rows[i], rows[i].greatest, true);
		expect(&rows[i], rows[i].high, false);
		expect(&rows[i], rows[i].wrong, false);
		expect(&rows[i], "null", true);
	}
}

static const struct {
	const char *body, *param, *code; /* param NULL: accepted */
} together[] = {
	{"{}", NULL, NULL},
	{"{\"unknown\":1,\"hyperparameters\":{\"other\":1}}", NULL, NULL},
	{"{\"qlora\":{\"unknown\":1}}", "qlora.unknown", "unsupported_parameter"},
	{"{\"qlora\":{\"n_epochs\":1}}", "qlora.n_epochs", "unsupported_parameter"},
	{"{\"qlora\":7}", "qlora", "invalid_value"},
	{"{\"hyperparameters\":[]}", "hyperparameters", "invalid_value"},
	{"{\"method\":{}}", "method.type", "missing_required_parameter"},
	{"{\"method\":{\"type\":\"dpo\"}}", "method.type", "unsupported_value"},
	{"{\"method\":{\"type\":\"reinforcement\"}}", "method.type", "unsupported_value"},
	{"{\"method\":{\"type\":\"other\"}}", "method.type", "invalid_value"},
	{"{\"method\":{\"type\":\"supervised\",\"dpo\":5}}", NULL, NULL},
	{"{\"method\":{\"type\":\"supervised\",\"supervised\":5}}", "method.supervised", "invalid_value"},
	{"{\"qlora\":{\"warmup_steps\":5,\"warmup_ratio\":0.1}}", "qlora.warmup_steps", "invalid_value"},
	{"{\"qlora\":{\"lr_scheduler\":\"constant\",\"warmup_steps\":5}}", "qlora.warmup_steps", "invalid_value"},
	{"{\"qlora\":{\"lr_scheduler\":\"constant\",\"warmup_ratio\":0}}", NULL, NULL},
	{"{\"qlora\":{\"lr_scheduler\":\"linear\",\"min_lr_ratio\":0.1}}", "qlora.min_lr_ratio", "invalid_value"},
	{"{\"hyperparameters\":{\"learning_rate_multiplier\":2},\"qlora\":{\"learning_rate\":1e-4}}", "qlora.learning_rate", "invalid_value"},
	{"{\"hyperparameters\":{\"learning_rate_multiplier\":\"auto\"},\"qlora\":{\"learning_rate\":1e-4}}", NULL, NULL},
	{"{\"hyperparameters\":{\"batch_size\":8},\"qlora\":{\"micro_batch_size\":2,\"gradient_accumulation_steps\":4}}", NULL, NULL},
	{"{\"hyperparameters\":{\"batch_size\":8},\"qlora\":{\"micro_batch_size\":2,\"gradient_accumulation_steps\":3}}",
	 "qlora.gradient_accumulation_steps", "invalid_value"},
	{"{\"hyperparameters\":{\"batch_size\":8},\"qlora\":{\"micro_batch_size\":3}}", "qlora.micro_batch_size", "invalid_value"},
	{"{\"qlora\":{\"micro_batch_size\":32,\"gradient_accumulation_steps\":9}}", "qlora.gradient_accumulation_steps", "invalid_value"},
	{"{\"qlora\":{\"quantization\":{\"type\":\"fp4\"}}}", "qlora.quantization.type", "unsupported_value"},
	{"{\"qlora\":{\"early_stopping_patience\":2}}", "qlora.early_stopping_patience", "invalid_value"},
	{"{\"qlora\":{\"quantization\":{\"bits\":4}}}", "qlora.quantization.bits", "unsupported_parameter"},
};

static void rules(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof together / sizeof together[0]; i++) {
		const char *code = NULL;
		json_t *recipe;
		struct ql_err e = {0};
		int rc = make(together[i].body, &recipe, &code, &e);

		if ((rc == QL_OK) != (together[i].param == NULL))
			print_error("%s: rc %d, %s\n", together[i].body, rc, e.message);
		assert_int_equal(rc == QL_OK, together[i].param == NULL);
		if (rc != QL_OK) {
			assert_string_equal(e.param, together[i].param);
			assert_string_equal(code, together[i].code);
		}
		json_decref(recipe);
	}
}

static double number(const json_t *r, const char *key) { return json_number_value(json_object_get(r, key)); }

static void defaults(void **state)
{
	const char *code;
	json_t *r;
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(make("{}", &r, &code, &e), QL_OK);
	assert_string_equal(json_string_value(json_object_get(r, "n_epochs")), "auto");
	assert_int_equal((int)number(r, "rank"), 16);
	assert_true(number(r, "alpha") == 32);
	assert_true(number(r, "warmup_ratio") == 0.03);
	assert_int_equal((int)number(r, "max_seq_length"), 2048);
	assert_true(json_is_true(json_object_get(r, "packing")));
	json_decref(r);
	/* method wins over the deprecated twin, key by key */
	assert_int_equal(make("{\"hyperparameters\":{\"n_epochs\":2,\"batch_size\":4},\"method\":{\"type\":\"supervised\",\"supervised\":"
			      "{\"hyperparameters\":{\"n_epochs\":7}}}}",
			      &r, &code, &e),
			 QL_OK);
	assert_int_equal((int)number(r, "n_epochs"), 7);
	assert_int_equal((int)number(r, "batch_size"), 4);
	json_decref(r);
	assert_int_equal(make("{\"qlora\":{\"learning_rate\":0.0004}}", &r, &code, &e), QL_OK);
	assert_true(number(r, "learning_rate_multiplier") == 2.0);
	json_decref(r);
}

/* Continued training: the adapter's shape is taken over, and may be repeated but not changed. */
static void inherited(void **state)
{
	struct ql_recipe_facts facts = {.context = 4096, .parameters = 135e6};
	static const char *const good[] = {"{}", "{\"qlora\":{\"rank\":8}}"}, *const bad = "{\"qlora\":{\"rank\":16}}";
	json_t *from = json_pack("{s:i,s:f,s:s,s:b}", "rank", 8, "alpha", 12.0, "target_modules", "all-linear", "use_rslora", 0), *body, *r;
	const char *code;
	struct ql_err e = {0};

	(void)state;
	facts.inherit = from;
	for (int i = 0; i < 2; i++) {
		body = json_loads(good[i], 0, NULL);
		assert_int_equal(ql_recipe_make(body, &facts, &r, &code, &e), QL_OK);
		assert_int_equal((int)number(r, "rank"), 8);
		assert_true(number(r, "alpha") == 12.0);
		json_decref(r);
		json_decref(body);
	}
	body = json_loads(bad, 0, NULL);
	assert_int_equal(ql_recipe_make(body, &facts, &r, &code, &e), QL_EINVAL);
	assert_string_equal(e.param, "qlora.rank");
	json_decref(body);
	json_decref(from);
}

static const struct {
	const char *body, *param, *code;
} requests[] = {
	{"{\"model\":\"m\",\"training_file\":\"f\"}", NULL, NULL},
	{"[]", "", "invalid_value"},
	{"{}", "model", "missing_required_parameter"},
	{"{\"model\":null,\"training_file\":\"f\"}", "model", "missing_required_parameter"},
	{"{\"model\":\"m\"}", "training_file", "missing_required_parameter"},
	{"{\"model\":1,\"training_file\":\"f\"}", "model", "invalid_value"},
	{"{\"model\":\"\",\"training_file\":\"f\"}", "model", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":[]}", "training_file", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"validation_file\":1}", "validation_file", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"suffix\":\"\"}", "suffix", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"suffix\":\"a b\"}", "suffix", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"suffix\":\"a:b\"}", "suffix", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"suffix\":\"ok._-9\"}", NULL, NULL},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"seed\":-1}", "seed", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"seed\":0}", NULL, NULL},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"seed\":2147483647}", NULL, NULL},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"seed\":2147483648}", "seed", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"seed\":1.0}", "seed", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"metadata\":[]}", "metadata", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"metadata\":{\"k\":1}}", "metadata.k", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"metadata\":{\"k\":\"v\"}}", NULL, NULL},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":{}}", "integrations", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":[{\"type\":\"mlflow\"}]}", "integrations", "unsupported_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":[{\"type\":\"wandb\"}]}", "integrations", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":[{\"type\":\"wandb\",\"wandb\":{\"project\":\"p\",\"tags\":[1]}}]}",
	 "integrations.wandb.tags", "invalid_value"},
	{"{\"model\":\"m\",\"training_file\":\"f\",\"integrations\":[{\"type\":\"wandb\",\"wandb\":{\"project\":\"p\"}}]}", NULL, NULL},
};

static void top_level(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof requests / sizeof requests[0]; i++) {
		json_t *body = json_loads(requests[i].body, 0, NULL);
		struct ql_job_request r;
		const char *code;
		struct ql_err e = {0};
		int rc = ql_job_request_read(body, &r, &code, &e);

		if ((rc == QL_OK) != (requests[i].param == NULL))
			print_error("%s: rc %d, %s\n", requests[i].body, rc, e.message);
		assert_int_equal(rc == QL_OK, requests[i].param == NULL);
		if (rc != QL_OK) {
			assert_string_equal(e.param, requests[i].param);
			assert_string_equal(code, requests[i].code);
		}
		json_decref(body);
	}
}

static void metadata_limits(void **state)
{
	json_t *body = json_pack("{s:s,s:s,s:{}}", "model", "m", "training_file", "f", "metadata"), *m = json_object_get(body, "metadata");
	struct ql_job_request r;
	char key[80], value[600];
	const char *code;
	struct ql_err e = {0};

	(void)state;
	for (int i = 0; i < 16; i++) {
		(void)snprintf(key, sizeof key, "k%d", i);
		(void)json_object_set_new(m, key, json_string("v"));
	}
	assert_int_equal(ql_job_request_read(body, &r, &code, &e), QL_OK);
	(void)json_object_set_new(m, "one more", json_string("v"));
	assert_int_equal(ql_job_request_read(body, &r, &code, &e), QL_EINVAL);
	for (int over = 0; over < 2; over++) {
		(void)json_object_clear(m);
		memset(key, 'k', sizeof key);
		key[64 + over] = '\0';
		(void)json_object_set_new(m, key, json_string("v"));
		assert_int_equal(ql_job_request_read(body, &r, &code, &e) == QL_OK, over == 0);
		(void)json_object_clear(m);
		memset(value, 'v', sizeof value);
		value[512 + over] = '\0';
		(void)json_object_set_new(m, "k", json_string(value));
		assert_int_equal(ql_job_request_read(body, &r, &code, &e) == QL_OK, over == 0);
	}
	json_decref(body);
}

/* api.md §5.2 */
static void autos(void **state)
{
	static const int64_t epochs[][2] = {{1, 25}, {4, 25}, {5, 20}, {10, 10}, {33, 4}, {34, 3}, {100, 3}, {8333, 3}, {8334, 2}, {12500, 2},
					    {12501, 1}, {25000, 1}, {25001, 1}, {1000000, 1}};
	static const int64_t batch[][2] = {{1, 1}, {49, 1}, {99, 1}, {100, 2}, {199, 2}, {200, 4}, {400, 8}, {799, 8}, {800, 16},
			{100000, 16}};
	const char *code;
	json_t *r;
	struct ql_err e = {0};

	(void)state;
	for (size_t i = 0; i < sizeof epochs / sizeof epochs[0]; i++)
		assert_int_equal(ql_auto_epochs(epochs[i][0]), epochs[i][1]);
	for (size_t i = 0; i < sizeof batch / sizeof batch[0]; i++)
		assert_int_equal(ql_auto_batch(batch[i][0]), batch[i][1]);
	assert_true(ql_auto_base_rate(8e9) == 2e-4 && ql_auto_base_rate(70e9) == 1e-4);
	assert_int_equal(make("{\"qlora\":{\"micro_batch_size\":3,\"gradient_accumulation_steps\":5}}", &r, &code, &e), QL_OK);
	assert_int_equal(ql_recipe_resolve(r, 1000, 4096, 135e6, &e), QL_OK);
	assert_int_equal((int)number(r, "batch_size"), 15);
	assert_true(number(r, "learning_rate") == 2e-4 && number(r, "learning_rate_multiplier") == 1.0);
	json_decref(r);
	assert_int_equal(make("{\"qlora\":{\"micro_batch_size\":3}}", &r, &code, &e), QL_OK);
	assert_int_equal(ql_recipe_resolve(r, 1000, 4096, 135e6, &e), QL_OK);
	assert_int_equal((int)number(r, "batch_size"), 18);
	json_decref(r);
	assert_int_equal(make("{\"hyperparameters\":{\"learning_rate_multiplier\":0.5,\"n_epochs\":9,\"batch_size\":3}}", &r,
			&code, &e), QL_OK);
	assert_int_equal(ql_recipe_resolve(r, 1000, 4096, 70e9, &e), QL_OK);
	assert_true(number(r, "learning_rate") == 5e-5);
	assert_int_equal((int)number(r, "n_epochs"), 9);
	assert_int_equal((int)number(r, "batch_size"), 3);
	json_decref(r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(ranges),	cmocka_unit_test(rules),	   cmocka_unit_test(defaults),
			cmocka_unit_test(inherited),
					   cmocka_unit_test(top_level), cmocka_unit_test(metadata_limits), cmocka_unit_test(autos)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
