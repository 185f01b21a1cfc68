/* Jobs beside each other in one engine: the memory that a validation counts on, and a start behind a job that is being cancelled.  No
 * model: the plan reads shapes and free bytes only. */
#include "tests/unit/cm.h"

#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/job.h"

static uint64_t available;

static int mem_info(struct ql_device *d, struct ql_mem_info *out, struct ql_err *e)
{
	(void)d, (void)e;
	*out = (struct ql_mem_info){.total = available, .available = available};
	return QL_OK;
}

static const struct ql_device_ops ops = {.name = "shapes", .mem_info = mem_info};
static struct ql_device dev = {.ops = &ops, .act = QL_BF16, .ext_align = 64};
static struct ql_model model = {.dev = &dev, .d_q = 4096, .d_kv = 1024};
static struct engine g;

static int setup(void **state)
{
	static const char config[] =
		"{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":4096,\"intermediate_size\":14336,"
		"\"num_hidden_layers\":32,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"vocab_size\":128256,"
		"\"rms_norm_eps\":1e-5,\"max_position_embeddings\":131072,\"bos_token_id\":1,\"eos_token_id\":2}";
	struct ql_err e;

	(void)state;
	memset(&g, 0, sizeof g);
	(void)pthread_mutex_init(&g.lock, NULL);
	(void)pthread_cond_init(&g.idle, NULL);
	g.model = &model;
	return ql_arch_from_config_json(&model.arch, config, sizeof config - 1, &e);
}

/* A job is validated for the time when those that run have ended: their memory counts as free, each one's. */
static void test_estimate_beside_running_jobs(void **state)
{
	struct job one = {.g = &g}, two = {.g = &g, .next = &one};
	struct ql_memory_plan alone, beside;
	json_t *o = json_pack("{s:i}", "rank", 16);
	struct ql_err e = {0};
	struct ql_recipe r;

	(void)state;
	assert_int_equal(ql_recipe_parse(&r, o, false, &e), QL_OK);
	json_decref(o);
	r.batch_size = r.micro_batch_size = 1;
	available = (uint64_t)40 << 30;
	assert_int_equal(engine_estimate(&g, &r, 2048, &alone, &e), QL_OK);
	available = (uint64_t)1 << 30; /* the rest is theirs */
	assert_int_equal(engine_estimate(&g, &r, 2048, &beside, &e), QL_ENODEVMEM);
	g.jobs = &two;
	assert_int_equal(engine_estimate(&g, &r, 2048, &beside, &e), QL_ENODEVMEM); /* they have made no plan yet */
	one.held = (uint64_t)19 << 30;
	assert_int_equal(engine_estimate(&g, &r, 2048, &beside, &e), QL_OK);
	assert_true(beside.available < alone.available && beside.bytes <= alone.bytes);
	two.held = (uint64_t)20 << 30;
	assert_int_equal(engine_estimate(&g, &r, 2048, &beside, &e), QL_OK);
	assert_true(beside.bytes == alone.bytes && beside.available == alone.available);
	assert_true(beside.keep.all == alone.keep.all && beside.keep.main == alone.keep.main);
}

static _Atomic bool went_on;

static void *starter(void *arg)
{
	engine_job_await_cancelled(arg);
	went_on = true;
	return NULL;
}

static void set(struct job *j, int stop)
{
	(void)pthread_mutex_lock(&g.lock);
	j->stop = stop;
	(void)pthread_cond_broadcast(&g.idle);
	(void)pthread_mutex_unlock(&g.lock);
}

/* A start waits for jobs that are being cancelled, for no others, and not when it is to stop itself. */
static void test_start_behind_a_cancelled_job(void **state)
{
	struct job old = {.g = &g}, next = {.g = &g, .next = &old};
	pthread_t t;

	(void)state;
	g.jobs = &next;
	went_on = false;
	engine_job_await_cancelled(&next); /* `old` runs on beside it */
	set(&old, QL_TRAIN_PAUSE);
	engine_job_await_cancelled(&next);
	set(&old, QL_TRAIN_CANCEL);
	assert_int_equal(pthread_create(&t, NULL, starter, &next), 0);
	(void)usleep(50000);
	assert_false(went_on);
	(void)pthread_mutex_lock(&g.lock);
	next.next = NULL; /* it has ended */
	(void)pthread_cond_broadcast(&g.idle);
	(void)pthread_mutex_unlock(&g.lock);
	(void)pthread_join(t, NULL);
	assert_true(went_on);
	next.next = &old;
	went_on = false;
	assert_int_equal(pthread_create(&t, NULL, starter, &next), 0);
	(void)usleep(50000);
	assert_false(went_on);
	set(&next, QL_TRAIN_CANCEL);
	(void)pthread_join(t, NULL);
	assert_true(went_on);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_estimate_beside_running_jobs, setup),
		cmocka_unit_test_setup(test_start_behind_a_cancelled_job, setup),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
