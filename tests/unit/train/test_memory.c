/* test_memory.c - what the memory plan chooses for the shape of Llama 3.1 8B as a device's free memory shrinks.  No device: the plan
 * reads shapes and free bytes only. */
#include "tests/unit/cm.h"

#include <stdlib.h>
#include <string.h>

#include "core/train/trainer.h"

#define LAYERS 32
#define TOKENS 2048
#define INPUT ((uint64_t)TOKENS * 4096 * 2)

static uint64_t available;

static int mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e)
{
	(void)d, (void)e;
	*out = (struct ql_mem_info){.total = available, .available = available};
	return QL_OK;
}

static const struct ql_device_ops ops = {.name = "shapes", .mem_info = mem_info};
static struct ql_device gpu = {.ops = &ops, .act = QL_BF16, .ext_align = 64}, cpu = {.ops = &ops, .act = QL_F32};

static const char config[] =
	"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4096,\"intermediate_size\":14336,"
	"\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"vocab_size\":128256,"
	"\"rms_norm_eps\":1e-5,\"max_position_embeddings\":131072,\"bos_token_id\":1,\"eos_token_id\":2}";

static int plan(struct ql_device *d, uint64_t bytes, int recompute, struct ql_memory_plan *out, struct ql_err *e)
{
	struct ql_model m = {.dev = d, .d_q = 4096, .d_kv = 1024};
	struct ql_memory_wish wish = {.dense = QL_DENSE_NEVER};
	json_t *o = json_pack("{s:i}", "rank", 16);
	struct ql_recipe r;
	int rc;

	wish.recompute = recompute;
	assert_int_equal(ql_recipe_parse(&r, o, false, e), QL_OK);
	json_decref(o);
	assert_int_equal(ql_arch_from_config_json(&m.arch, config, sizeof config - 1, e), QL_OK);
	r.batch_size = r.micro_batch_size = 1;
	available = bytes;
	rc = ql_train_plan_memory(&m, &r, TOKENS, 0, &wish, out, e);
	if (rc == QL_OK) { /* the parts are what the pass says, and fit */
		uint64_t sent = out->keep.host > 2 ? out->keep.host - 2 : 0;

		assert_true(out->max_tokens == TOKENS && out->bytes <= out->available && out->available <= bytes);
		assert_true(out->bytes == out->state_bytes + out->pass_bytes + out->dense_bytes + (d == &cpu ? out->host_bytes : 0));
		assert_true(out->host_bytes == sent * INPUT * (d == &cpu ? 2 : 1));
	}
	return rc;
}

/* The least free bytes for which the plan exists. */
static uint64_t least(struct ql_device *d, int recompute)
{
	uint64_t lo = 0, hi = (uint64_t)80 << 30;
	struct ql_memory_plan p;

	while (hi - lo > 1) {
		uint64_t mid = lo + (hi - lo) / 2;

		if (plan(d, mid, recompute, &p, NULL) == QL_OK)
			hi = mid;
		else
			lo = mid;
	}
	return hi;
}

static void test_last_resort(void **state)
{
	struct ql_memory_plan on, p;
	uint64_t least_auto = least(&gpu, QL_RECOMPUTE_AUTO);
	struct ql_err e = {0};
	uint32_t before = 0;
	char want[40];

	(void)state;
	assert_int_equal(plan(&gpu, (uint64_t)40 << 30, QL_RECOMPUTE_ON, &on, &e), QL_OK);
	assert_int_equal(on.keep.all + on.keep.main + on.keep.host, 0);
	assert_int_equal(plan(&gpu, (uint64_t)40 << 30, QL_RECOMPUTE_AUTO, &p, &e), QL_OK);
	assert_int_equal(p.keep.all, LAYERS);
	/* from plenty to too little: first layers are recomputed, then inputs leave, one more where one more must */
	for (uint64_t mib = 4096; mib * 1048576 >= least_auto; mib -= 4) {
		assert_int_equal(plan(&gpu, mib * 1048576, QL_RECOMPUTE_AUTO, &p, &e), QL_OK);
		assert_true(p.keep.host == 0 || p.keep.all + p.keep.main == 0);
		assert_true(p.keep.host >= before);
		assert_int_equal(p.keep.host > 0, on.bytes > p.available);
		if (p.keep.host > 3) {
			assert_true(p.bytes == on.bytes - (p.keep.host - 2) * INPUT);
			assert_true(p.bytes + INPUT > p.available);
		}
		before = p.keep.host;
	}
	assert_true(before > LAYERS / 2);
	assert_int_equal(plan(&gpu, least_auto, QL_RECOMPUTE_ON, &p, &e), QL_OK);
	assert_int_equal(p.keep.host, LAYERS);
	assert_true(p.bytes == on.bytes - (LAYERS - 2) * INPUT && p.host_bytes == (LAYERS - 2) * INPUT);
	/* the figure of a refusal is the one that would do */
	assert_int_equal(plan(&gpu, least_auto - 1, QL_RECOMPUTE_AUTO, &p, &e), QL_ENODEVMEM);
	(void)snprintf(want, sizeof want, "needs %llu bytes", (unsigned long long)(on.bytes - (LAYERS - 2) * INPUT));
	assert_non_null(strstr(e.message, want));
}

static void test_wish(void **state)
{
	struct ql_memory_plan p;
	struct ql_err e = {0};

	(void)state;
	assert_int_equal(plan(&gpu, (uint64_t)80 << 30, QL_RECOMPUTE_OFFLOAD, &p, &e), QL_OK);
	assert_true(p.keep.host == LAYERS && p.keep.all + p.keep.main == 0 && p.dense_layers == 0);
	assert_int_equal(plan(&gpu, least(&gpu, QL_RECOMPUTE_OFF), QL_RECOMPUTE_OFF, &p, &e), QL_OK);
	assert_true(p.keep.host == 0 && p.keep.all + p.keep.main == LAYERS);
	assert_int_equal(plan(&gpu, least(&gpu, QL_RECOMPUTE_OFFLOAD) - 1, QL_RECOMPUTE_OFF, &p, &e), QL_ENODEVMEM);
	assert_true(least(&gpu, QL_RECOMPUTE_OFFLOAD) == least(&gpu, QL_RECOMPUTE_AUTO));
}

/* Without recomputation the micro-batch shrinks as far as the longest example allows, and the figure of a refusal is the one that does. */
static void test_off_with_short_examples(void **state)
{
	struct ql_memory_wish wish = {.dense = QL_DENSE_NEVER, .recompute = QL_RECOMPUTE_OFF};
	struct ql_model m = {.dev = &gpu, .d_q = 4096, .d_kv = 1024};
	struct ql_memory_plan p;
	struct ql_recipe r;
	struct ql_err e = {0};
	json_t *o = json_pack("{s:i}", "rank", 16);
	unsigned long long need = 0;

	(void)state;
	assert_int_equal(ql_recipe_parse(&r, o, false, &e), QL_OK);
	json_decref(o);
	assert_int_equal(ql_arch_from_config_json(&m.arch, config, sizeof config - 1, &e), QL_OK);
	r.batch_size = 8;
	available = 1 << 20;
	assert_int_equal(ql_train_plan_memory(&m, &r, 200, 0, &wish, &p, &e), QL_ENODEVMEM);
	assert_int_equal(sscanf(e.message, "training needs %llu bytes", &need), 1);
	available = (uint64_t)((double)need / 0.9) + 4096; /* a tenth is left alone */
	if (ql_train_plan_memory(&m, &r, 200, 0, &wish, &p, &e) != QL_OK)
		fail_msg("%s", e.message);
	assert_int_equal(p.max_tokens, 200);
	assert_int_equal(p.keep.all + p.keep.main, LAYERS);
	available *= 5;
	assert_int_equal(ql_train_plan_memory(&m, &r, 200, 0, &wish, &p, &e), QL_OK);
	assert_true(p.max_tokens > 200 && p.max_tokens < 2048);
}

/* Where the device is the host, inputs gain nothing there: only the wish brings them. */
static void test_cpu(void **state)
{
	uint64_t with = least(&cpu, QL_RECOMPUTE_OFFLOAD), without = least(&cpu, QL_RECOMPUTE_AUTO);
	struct ql_memory_plan p;
	struct ql_err e = {0};

	(void)state;
	assert_true(with >= without);
	assert_int_equal(plan(&cpu, without, QL_RECOMPUTE_AUTO, &p, &e), QL_OK);
	assert_true(p.keep.host == 0 && p.host_bytes == 0);
	assert_int_equal(plan(&cpu, with, QL_RECOMPUTE_OFFLOAD, &p, &e), QL_OK);
	assert_int_equal(p.keep.host, LAYERS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_last_resort), cmocka_unit_test(test_wish), cmocka_unit_test(test_cpu),
					   cmocka_unit_test(test_off_with_short_examples)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
