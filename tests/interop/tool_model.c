/* tool_model.c - the model without the daemon, for comparison with other programs:
 *
 *   model_tool dequant BASE CACHE OUTDIR           every weight as fp32: OUTDIR/base.safetensors, HF names
 *   model_tool logits  BASE CACHE IDS.json OUT.f32 [ADAPTER_DIR]     logits of one sequence, [n, vocab] fp32
 *   model_tool train   BASE CACHE DATA.jsonl RECIPE.json OUTDIR      runs the job; OUTDIR gets the checkpoints, steps.json
 *                                      (batches as token ids and labels, losses) and grads.safetensors of step 1
 *
 * CACHE is a directory for the 4-bit form.  Environment: QL_THREADS, QL_DEVICE (cpu|cuda). */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/formats/safetensors.h"
#include "core/model/pass.h"
#include "core/text/data/dataset.h"
#include "core/text/tmpl/tmpl.h"
#include "core/train/trainer.h"

static struct ql_err e;

static int check(int rc)
{
	if (rc < 0) {
		(void)fprintf(stderr, "model_tool: %s (%s)\n", e.message, ql_code_text(rc));
		exit(1);
	}
	return rc;
}

static struct ql_source *source;
static struct ql_device *dev;
static struct ql_model *model;
static struct ql_tok *tok;
static struct ql_tmpl *tmpl;

static void load(const char *base, const char *cache)
{
	const char *threads = getenv("QL_THREADS"), *name = getenv("QL_DEVICE");
	int n = threads != NULL ? atoi(threads) : 2;
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT};

	(void)mkdir(cache, 0700);
	o.cache_dir = open(cache, O_RDONLY | O_DIRECTORY);
	o.pool = ql_pool_new(n);
	check(ql_source_open(&source, base, &e));
	check(name != NULL && strcmp(name, "cuda") == 0 ? ql_device_cuda(&dev, 0, &e) : ql_device_cpu(&dev, n, &e));
	check(ql_model_load(&model, dev, source, &o, &e));
	ql_pool_free(o.pool);
	(void)close(o.cache_dir);
	if (ql_source_gguf(source) != NULL) {
		size_t len;
		const char *text = ql_source_chat_template(source, &len);

		check(ql_tok_from_gguf(&tok, ql_source_gguf(source), &e));
		if (text != NULL)
			check(ql_tmpl_compile(&tmpl, text, len, &e));
	}
}

static json_t *read_json(const char *path)
{
	struct ql_buf b = {0};
	json_t *v;

	check(ql_io_read_file(path, (size_t)1 << 30, &b, &e));
	check(ql_json_parse(b.data, b.len, (size_t)1 << 30, &v, &e));
	ql_buf_free(&b);
	return v;
}

static int out_dir(const char *path)
{
	(void)mkdir(path, 0700);
	return open(path, O_RDONLY | O_DIRECTORY);
}

static void dequant(const char *out)
{
	size_t n = ql_arch_tensor_count(&model->arch), due;
	struct ql_arch_tensor *t = calloc(n, sizeof *t);
	struct ql_st_spec *s = calloc(n, sizeof *s);
	struct ql_st_writer *w;

	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(&model->arch, i, &t[i]);
		s[i] = (struct ql_st_spec){.name = t[i].hf, .dtype = QL_F32, .n_dims = t[i].n_dims};
		s[i].shape[0] = t[i].n_dims == 2 ? t[i].rows : t[i].cols;
		s[i].shape[1] = t[i].n_dims == 2 ? t[i].cols : 1;
	}
	check(ql_st_write_begin(&w, out_dir(out), "base.safetensors", s, n, &e));
	while ((due = ql_st_write_next(w)) < n) {
		size_t count = (size_t)t[due].rows * t[due].cols;
		float *v = malloc(count * sizeof *v);

		check(ql_model_read_f32(model, t[due].hf, 0, t[due].rows, v, &e));
		check(ql_st_write_data(w, v, count * sizeof *v, &e));
		free(v);
	}
	check(ql_st_write_commit(w, &e));
	free(t);
	free(s);
}

static void logits(const char *ids_path, const char *out, const char *adapter)
{
	json_t *ids = read_json(ids_path);
	uint32_t n = (uint32_t)json_array_size(ids), ranks[QL_GROUPS] = {0};
	int32_t *v = malloc(n * sizeof *v), *pos = malloc(n * sizeof *pos), cu[2] = {0, (int32_t)n};
	float *z = malloc((size_t)n * model->arch.vocab_size * sizeof *z);
	struct ql_batch b = {.n_tokens = n, .n_seqs = 1, .ids = v, .positions = pos, .cu_seqlens = cu};
	struct ql_lora_set *lora = NULL;
	struct ql_pass *p;

	for (uint32_t i = 0; i < n; i++) {
		v[i] = (int32_t)json_integer_value(json_array_get(ids, i));
		pos[i] = (int32_t)i;
	}
	if (adapter != NULL) {
		struct ql_adapter_file f;

		check(ql_adapter_read(&f, open(adapter, O_RDONLY | O_DIRECTORY), &model->arch, &e));
		check(ql_lora_from_file(&lora, model, &f, false, &e));
		ql_adapter_file_free(&f);
		memcpy(ranks, lora->group_rank, sizeof ranks);
	}
	check(ql_pass_new(&p, model, ranks, n, QL_KEEP_ALL, false, &e));
	ql_gate_enter(model->gate, QL_GATE_TRAIN);
	check(ql_pass_logits(p, &b, lora, z, &e));
	ql_gate_leave(model->gate, QL_GATE_TRAIN);
	FILE *f = fopen(out, "wb");

	if (f == NULL || fwrite(z, sizeof *z, (size_t)n * model->arch.vocab_size, f) != (size_t)n * model->arch.vocab_size || fclose(f) != 0)
		exit(1);
	ql_pass_free(p);
	ql_lora_free(lora);
	json_decref(ids);
	free(v);
	free(pos);
	free(z);
}

/* ---- train ----------------------------------------------------------------------------------------------------------------- */

static json_t *losses;

static void on_started(void *c, uint64_t s, uint64_t t, uint64_t n, const struct ql_recipe *r, uint64_t w, uint32_t l)
{
	(void)c, (void)s, (void)n, (void)r, (void)l;
	(void)fprintf(stderr, "steps %llu, warm-up %llu\n", (unsigned long long)t, (unsigned long long)w);
}
static void on_phase(void *c, const char *p) { (void)c, (void)p; }
static void on_step(void *c, const struct ql_train_metrics *m)
{
	(void)c;
	(void)fprintf(stderr, "step %llu loss %.6f acc %.3f grad %.5f lr %.3g %.1f tok/s\n", (unsigned long long)m->step, m->loss,
		      m->accuracy, m->grad_norm, m->learning_rate, m->tokens_per_second);
	(void)json_array_append_new(losses, json_pack("{s:f, s:f, s:f, s:f, s:I, s:f}", "loss", m->loss, "grad_norm", m->grad_norm,
						      "lr", m->learning_rate, "accuracy", m->accuracy, "tokens", (json_int_t)m->tokens,
						      "seconds", m->seconds));
}
static void on_checkpoint(void *c, uint64_t s, const struct ql_manifest *m, bool u, const json_t *x) { (void)c, (void)s, (void)m, (void)u, (void)x; }
static enum ql_train_stop on_stop(void *c)
{
	(void)c;
	return QL_TRAIN_GO;
}

static json_t *ints(const int32_t *v, size_t n)
{
	json_t *a = json_array();

	for (size_t i = 0; i < n; i++)
		(void)json_array_append_new(a, json_integer(v[i]));
	return a;
}

/* Token ids and labels (-100 where none) of each sequence of each step. */
static json_t *describe(struct ql_plan *plan, uint64_t steps)
{
	struct ql_step_batches sb = {0};
	json_t *all = json_array();

	for (uint64_t s = 0; s < steps; s++) {
		json_t *seqs = json_array();

		check(ql_plan_step(plan, s, &sb, &e));
		for (uint32_t m = 0; m < sb.n_micro; m++) {
			const struct ql_batch *b = &sb.micro[m];
			int32_t *label = malloc(b->n_tokens * sizeof *label);

			for (uint32_t i = 0; i < b->n_tokens; i++)
				label[i] = -100;
			for (uint32_t i = 0; i < b->n_targets; i++)
				label[b->rows[i] + 1] = b->labels[i]; /* HF's convention: labels are not shifted */
			for (uint32_t q = 0; q < b->n_seqs; q++) {
				size_t at = (size_t)b->cu_seqlens[q], n = (size_t)b->cu_seqlens[q + 1] - at;

				(void)json_array_append_new(seqs, json_pack("{s:o, s:o}", "ids", ints(b->ids + at, n), "labels",
									    ints(label + at, n)));
			}
			free(label);
		}
		(void)json_array_append_new(all, seqs);
	}
	ql_step_batches_free(&sb);
	return all;
}

/* Gradients of the first step from the initial adapter, under PEFT's names. */
static void write_grads(struct ql_plan *plan, const struct ql_recipe *r, int dir)
{
	struct ql_lora_config lc = {.rank = r->rank, .alpha = r->alpha, .rslora = r->rslora, .gaussian = r->gaussian_init, .modules = r->modules};
	struct ql_step_batches sb = {0};
	struct ql_lora_set *lora;
	struct ql_pass *p;
	float *nll = malloc((size_t)plan->max_tokens * sizeof *nll);

	check(ql_lora_new(&lora, model, &lc, r->seed, &e));
	check(ql_pass_new(&p, model, lora->group_rank, plan->max_tokens, QL_KEEP_MAIN, true, &e));
	check(ql_plan_step(plan, 0, &sb, &e));
	ql_gate_enter(model->gate, QL_GATE_TRAIN);
	for (uint32_t i = 0; i < sb.n_micro; i++)
		check(ql_pass_run(p, &sb.micro[i], lora, NULL, (float)(1.0 / (double)sb.n_targets), true, nll, NULL, &e));
	ql_gate_leave(model->gate, QL_GATE_TRAIN);
	float *host = malloc((size_t)lora->n_params * sizeof *host), *params = lora->params;
	struct ql_adapter_file f;
	struct ql_adapter_write_opts o = {.dtype = QL_F32, .base_name = "gradients"};
	int sub;

	lora->params = lora->grads; /* the gradients, written as if they were an adapter */
	check(ql_lora_download(lora, host, &e));
	check(ql_lora_describe(lora, host, &f, &e));
	check(ql_io_ensure_dir(dir, "grads", &sub, &e));
	check(ql_adapter_write(&f, &model->arch, sub, &o, &e));
	lora->params = params;
	ql_adapter_file_free(&f);
	ql_pass_free(p);
	ql_lora_free(lora);
	ql_step_batches_free(&sb);
	free(host);
	free(nll);
}

static void train(const char *data_path, const char *recipe_path, const char *out)
{
	json_t *recipe = read_json(recipe_path), *trusted = json_object(), *identity = json_object(), *steps;
	struct ql_train_job j = {.model = model, .identity = identity, .base_name = "base", .snapshot_seconds = 1e9,
				 .events = {.started = on_started, .phase = on_phase, .step = on_step, .checkpoint = on_checkpoint,
					    .stop = on_stop}};
	struct ql_dataset_report rep;
	struct ql_dataset *d;
	struct ql_dataset_opts o = {.tok = tok, .tmpl = tmpl, .trusted = trusted, .min_examples = 1};
	struct ql_train_result r;
	struct ql_plan plan;
	struct ql_memory_plan mem;

	check(ql_recipe_parse(&j.recipe, recipe, false, &e));
	ql_recipe_split(&j.recipe);
	o.max_seq_length = j.recipe.max_seq_length;
	o.completion_only_loss = j.recipe.completion_only_loss;
	char *copy = strdup(data_path), *slash = strrchr(copy, '/'); /* files are opened beneath a directory */

	if (slash != NULL)
		*slash = '\0';
	check(ql_dataset_load(&d, open(slash != NULL ? copy : ".", O_RDONLY | O_DIRECTORY), slash != NULL ? slash + 1 : data_path, &o,
			      &rep, &e));
	free(copy);
	j.data = d;
	j.dir = out_dir(out);
	losses = json_array();
	check(ql_train_plan_memory(model, &j.recipe, (uint32_t)rep.max_tokens, 0, NULL, &mem, &e));
	check(ql_plan_init(&plan, d, j.recipe.seed, j.recipe.batch_size, j.recipe.micro_batch_size, mem.max_tokens, &e));
	if (getenv("QL_NO_GRADS") == NULL)
		write_grads(&plan, &j.recipe, j.dir);
	check(ql_train_run(&j, &r, &e));
	steps = json_pack("{s:o, s:o, s:s}", "steps", describe(&plan, r.step), "metrics", losses, "final", r.final_dir);
	char *text = json_dumps(steps, JSON_COMPACT);

	check(ql_io_replace(j.dir, "steps.json", text, strlen(text), &e));
	free(text);
	json_decref(steps);
	json_decref(recipe);
	json_decref(trusted);
	json_decref(identity);
	ql_plan_free(&plan);
	ql_dataset_free(d);
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		(void)fprintf(stderr, "usage: see the head of tests/interop/tool_model.c\n");
		return 2;
	}
	load(argv[2], argv[3]);
	if (strcmp(argv[1], "dequant") == 0)
		dequant(argv[4]);
	else if (strcmp(argv[1], "logits") == 0 && argc >= 6)
		logits(argv[4], argv[5], argc > 6 ? argv[6] : NULL);
	else if (strcmp(argv[1], "train") == 0 && argc >= 7)
		train(argv[4], argv[5], argv[6]);
	else
		return 2;
	ql_model_free(model);
	dev->ops->close(dev);
	ql_tmpl_free(tmpl);
	ql_tok_free(tok);
	ql_source_close(source);
	return 0;
}
