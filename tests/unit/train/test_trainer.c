/* test_trainer.c - short runs on a tiny model: how they end when they are cancelled late, when the validation loss is no number, and when
 * a checkpoint's manifest leaves files out. */
#include "tests/unit/model/fixture.h"

#include "core/base/json.h"
#include "core/train/trainer.h"

#define EXAMPLES 8
#define TOKENS 12

struct watch {
	bool cancel_while_evaluating, evaluating;
	uint64_t steps, checkpoints;
	double valid_loss;
};

static void on_started(void *c, uint64_t s, uint64_t t, uint64_t n, const struct ql_recipe *r, uint64_t w, uint32_t l)
{
	(void)c, (void)s, (void)t, (void)n, (void)r, (void)w, (void)l;
}

static void on_phase(void *c, const char *phase) { ((struct watch *)c)->evaluating = strcmp(phase, "evaluating") == 0; }

static void on_step(void *c, const struct ql_train_metrics *m)
{
	struct watch *w = c;

	w->steps++;
	w->valid_loss = m->has_full_valid ? m->full_valid_loss : 0;
}

static void on_checkpoint(void *c, uint64_t step, const struct ql_manifest *m, bool user, const json_t *metrics)
{
	(void)step, (void)m, (void)user, (void)metrics;
	((struct watch *)c)->checkpoints++;
}

static enum ql_train_stop on_stop(void *c)
{
	const struct watch *w = c;

	return w->cancel_while_evaluating && w->evaluating ? QL_TRAIN_CANCEL : QL_TRAIN_GO;
}

static struct ql_dataset *data(uint64_t stream)
{
	int32_t ids[EXAMPLES * TOKENS];
	struct ql_dataset *d;

	for (int i = 0; i < EXAMPLES * TOKENS; i++) {
		uint32_t w[4];

		ql_philox((uint32_t)i, 0, (uint32_t)stream, 4, 9, w);
		ids[i] = (int32_t)(w[0] % FX_VOCAB);
	}
	assert_int_equal(ql_dataset_make(&d, ids, EXAMPLES, TOKENS, NULL), QL_OK);
	return d;
}

/* One run in the directory's subdirectory "job" (two steps, one epoch, unless recipe says otherwise). */
static int run(const struct scratch *dir, const char *recipe, double rate, const char *resume, struct watch *w, struct ql_train_result *out,
	       struct ql_err *e)
{
	json_t *o = json_loads(recipe, 0, NULL), *identity = json_pack("{s:s}", "base", "tiny");
	struct ql_dataset *train = data(1), *valid = data(2);
	struct ql_train_job j = {.data = train, .valid = valid, .identity = identity, .base_name = "tiny", .resume = resume,
				 .snapshot_seconds = 1000,
				 .events = {w, NULL, on_started, on_phase, on_step, on_checkpoint, on_stop}};
	struct fx f;
	int rc;

	fx_open(&f, dir, 2);
	assert_int_equal(ql_recipe_parse(&j.recipe, o, false, e), QL_OK);
	j.recipe.learning_rate = rate;
	j.model = f.m;
	assert_int_equal(ql_io_ensure_dir(dir->fd, "job", &j.dir, e), QL_OK);
	rc = ql_train_run(&j, out, e);
	(void)close(j.dir);
	fx_close(&f);
	ql_dataset_free(train);
	ql_dataset_free(valid);
	json_decref(identity);
	json_decref(o);
	return rc;
}

static const char plain[] = "{\"rank\":2,\"batch_size\":4,\"lr_scheduler\":\"constant\"}";

static void test_cancelled_behind_the_last_step(void **state)
{
	struct watch w = {.cancel_while_evaluating = true};
	struct ql_train_result r;
	struct ql_err e = {0};
	struct scratch s;

	(void)state;
	scratch_open(&s);
	fx_write(&s);
	assert_int_equal(run(&s, plain, 1e-3, NULL, &w, &r, &e), QL_OK);
	assert_true(r.stopped && !r.early);
	assert_int_equal(w.checkpoints, 1); /* the initial one */
	assert_false(scratch_has(&s, "job/step-2"));
	w.cancel_while_evaluating = false; /* the same, to its end */
	assert_int_equal(run(&s, plain, 1e-3, "step-0", &w, &r, &e), QL_OK);
	assert_true(!r.stopped && r.step == 2 && strcmp(r.final_dir, "step-2") == 0 && scratch_has(&s, "job/step-2"));
	scratch_close(&s);
}

/* The last update ruins the weights: the step was fine, the validation behind it is not. */
static void test_validation_is_no_number(void **state)
{
	static const char once[] = "{\"rank\":2,\"batch_size\":4,\"lr_scheduler\":\"constant\",\"max_steps\":1}";
	struct watch w = {0};
	struct ql_train_result r;
	struct ql_err e = {0};
	struct scratch s;

	(void)state;
	scratch_open(&s);
	fx_write(&s);
	if (run(&s, once, 1e37, NULL, &w, &r, &e) != QL_OK)
		fail_msg("%s", e.message);
	assert_int_equal(w.steps, 1);
	assert_false(isfinite(w.valid_loss));
	assert_true(!r.stopped && scratch_has(&s, "job/step-1"));
	assert_int_equal(run(&s, once, 1e37, "step-1", &w, &r, &e), QL_OK); /* and it reads back */
	assert_true(!r.stopped && r.step == 1);
	scratch_close(&s);
}

/* A manifest that names fewer files than a checkpoint has does not vouch for the others. */
static void test_manifest_leaves_files_out(void **state)
{
	static const char *const few[] = {"adapter_config.json", "optimizer.safetensors", "trainer.json", "step_metrics.csv", NULL};
	struct watch w = {0};
	struct ql_train_result r;
	struct ql_manifest m;
	struct ql_err e = {0};
	struct scratch s;
	int dir;

	(void)state;
	scratch_open(&s);
	fx_write(&s);
	assert_int_equal(run(&s, plain, 1e-3, NULL, &w, &r, &e), QL_OK);
	assert_int_equal(run(&s, plain, 1e-3, "step-2", &w, &r, &e), QL_OK);
	dir = ql_io_open_dir(s.fd, "job/step-2", &e);
	assert_true(dir >= 0);
	assert_int_equal(ql_manifest_write(dir, few, &m, &e), QL_OK);
	(void)close(dir);
	assert_int_equal(run(&s, plain, 1e-3, "step-2", &w, &r, &e), QL_EFORMAT);
	assert_string_equal(e.param, "adapter_model.safetensors");
	scratch_close(&s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_cancelled_behind_the_last_step), cmocka_unit_test(test_validation_is_no_number),
					   cmocka_unit_test(test_manifest_leaves_files_out)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
