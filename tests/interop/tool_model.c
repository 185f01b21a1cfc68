/* tool_model.c - the model without the daemon, for comparison with other programs:
 *
 *   model_tool dequant BASE CACHE OUTDIR           every weight as fp32: OUTDIR/base.safetensors, HF names
 *   model_tool logits  BASE CACHE IDS.json OUT.f32 [ADAPTER_DIR]     logits of one sequence, [n, vocab] fp32; IDS may be a list of
 *                                      sequences: theirs one after the other
 *   model_tool generate BASE CACHE PROMPTS.json N OUT.json [ADAPTER_DIR]   greedy tokens by cached decoding: for each prompt (token
 *                                      ids) {"ids": […N], "margins": […]}, margin: by how much the best logit leads
 *   model_tool gguf    BASE CACHE TYPE OUT.gguf [ADAPTER_DIR]        the merged model, verified
 *   model_tool hf      BASE CACHE TYPE OUTDIR [ADAPTER_DIR]          the merged model as Hugging Face directory, verified
 *   model_tool lora    BASE CACHE TYPE OUT.gguf ADAPTER_DIR          the adapter as GGUF LoRA, verified
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
#include "core/base/limits.h"
#include "core/export/export.h"
#include "core/formats/safetensors.h"
#include "core/model/pass.h"
#include "core/model/step.h"
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

/* The tokenizer of a Hugging Face directory, if it has one. */
static void load_tokenizer(const char *dir)
{
	struct ql_buf tokens = {0}, config = {0}, path = {0};

	check(ql_buf_addf(&path, "%s/tokenizer.json", dir));
	if (ql_io_read_file(path.data, QL_TOKENIZER_JSON_MAX, &tokens, NULL) == QL_OK) {
		ql_buf_free(&path);
		check(ql_buf_addf(&path, "%s/tokenizer_config.json", dir));
		check(ql_io_read_file(path.data, QL_TOKENIZER_JSON_MAX, &config, &e));
		check(ql_tok_from_json(&tok, tokens.data, tokens.len, config.data, config.len, &e));
	}
	ql_buf_free(&tokens);
	ql_buf_free(&config);
	ql_buf_free(&path);
}

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
	if (ql_source_dir(source) != NULL)
		load_tokenizer(base);
	if (tok != NULL || ql_source_gguf(source) != NULL) {
		size_t len;
		const char *text = ql_source_chat_template(source, &len);

		if (tok == NULL)
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

static void read_adapter(const char *dir, struct ql_adapter_file *f)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);

	check(ql_adapter_read(f, fd, &model->arch, &e));
	(void)close(fd);
}

static struct ql_lora_set *load_adapter(const char *dir)
{
	struct ql_adapter_file f;
	struct ql_lora_set *lora;

	read_adapter(dir, &f);
	check(ql_lora_from_file(&lora, model, &f, false, &e));
	ql_adapter_file_free(&f);
	return lora;
}

static void logits_of(const json_t *ids, struct ql_lora_set *lora, FILE *f)
{
	uint32_t n = (uint32_t)json_array_size(ids), ranks[QL_GROUPS] = {0};
	int32_t *v = malloc(n * sizeof *v), *pos = malloc(n * sizeof *pos), cu[2] = {0, (int32_t)n};
	float *z = malloc((size_t)n * model->arch.vocab_size * sizeof *z);
	struct ql_batch b = {.n_tokens = n, .n_seqs = 1, .ids = v, .positions = pos, .cu_seqlens = cu};
	struct ql_pass *p;

	for (uint32_t i = 0; i < n; i++) {
		v[i] = (int32_t)json_integer_value(json_array_get(ids, i));
		pos[i] = (int32_t)i;
	}
	if (lora != NULL)
		memcpy(ranks, lora->group_rank, sizeof ranks);
	check(ql_pass_new(&p, model, ranks, n, QL_KEEP_ALL, false, &e));
	ql_gate_enter(model->gate, QL_GATE_TRAIN);
	check(ql_pass_logits(p, &b, lora, z, &e));
	ql_gate_leave(model->gate, QL_GATE_TRAIN);
	if (fwrite(z, sizeof *z, (size_t)n * model->arch.vocab_size, f) != (size_t)n * model->arch.vocab_size)
		exit(1);
	ql_pass_free(p);
	free(v);
	free(pos);
	free(z);
}

static void logits(const char *ids_path, const char *out, const char *adapter)
{
	json_t *ids = read_json(ids_path), *sequence;
	struct ql_lora_set *lora = adapter != NULL ? load_adapter(adapter) : NULL;
	FILE *f = fopen(out, "wb");
	size_t i;

	if (f == NULL)
		exit(1);
	if (json_is_array(json_array_get(ids, 0)))
		json_array_foreach(ids, i, sequence)
			logits_of(sequence, lora, f);
	else
		logits_of(ids, lora, f);
	if (fclose(f) != 0)
		exit(1);
	ql_lora_free(lora);
	json_decref(ids);
}

/* ---- generate ------------------------------------------------------------------------------------------------------- */

#define CHUNK 32
#define BLOCKS 64

/* One run of n tokens of the only sequence at position `at`; the logits of the last. */
static void run_tokens(struct ql_step *step, const int32_t *ids, uint32_t at, uint32_t n, const struct ql_lora_set *lora, bool decode,
		       float *z)
{
	static int32_t blocks[BLOCKS], positions[CHUNK], slots[CHUNK];
	int32_t q_begin[2] = {0, (int32_t)n}, kv_len = (int32_t)(at + n), slot = lora != NULL ? 0 : -1;
	struct ql_step_in in = {.n_tokens = n, .n_seqs = 1, .ids = ids, .positions = positions, .slots = slots, .q_begin = q_begin,
				.kv_len = &kv_len, .block_table = blocks, .lora = decode ? NULL : lora,
				.row_slot = decode ? &slot : NULL, .any_adapter = decode && lora != NULL, .logits_begin = n - 1,
				.logits_count = 1};

	for (int i = 0; i < BLOCKS; i++)
		blocks[i] = (i * 7 + 3) % BLOCKS;
	for (uint32_t i = 0; i < n; i++) {
		positions[i] = (int32_t)(at + i);
		slots[i] = blocks[(at + i) / QL_KV_BLOCK] * QL_KV_BLOCK + (int32_t)((at + i) % QL_KV_BLOCK);
	}
	check(ql_step_run(step, &in, z, &e));
}

static json_t *greedy(struct ql_step *step, const json_t *prompt, uint32_t n, const struct ql_lora_set *lora)
{
	uint32_t len = (uint32_t)json_array_size(prompt), vocab = model->arch.vocab_size;
	int32_t *ids = calloc(len + n, sizeof *ids);
	float *z = malloc(vocab * sizeof *z);
	json_t *out = json_array(), *margins = json_array();

	for (uint32_t i = 0; i < len; i++)
		ids[i] = (int32_t)json_integer_value(json_array_get(prompt, i));
	for (uint32_t at = 0; at < len; at += CHUNK)
		run_tokens(step, ids + at, at, len - at < CHUNK ? len - at : CHUNK, lora, false, z);
	for (uint32_t k = 0; k < n; k++) {
		uint32_t best = 0, second = 1;

		for (uint32_t i = 1; i < vocab; i++) {
			if (z[i] > z[best]) {
				second = best;
				best = i;
			} else if (z[i] > z[second] || second == best) {
				second = i;
			}
		}
		ids[len + k] = (int32_t)best;
		(void)json_array_append_new(out, json_integer(best));
		(void)json_array_append_new(margins, json_real((double)(z[best] - z[second])));
		if (k + 1 < n)
			run_tokens(step, ids + len + k, len + k, 1, lora, true, z);
	}
	free(ids);
	free(z);
	return json_pack("{s:o, s:o}", "ids", out, "margins", margins);
}

static void generate(const char *prompts_path, uint32_t n, const char *out, const char *adapter)
{
	json_t *prompts = read_json(prompts_path), *result = json_array(), *p;
	struct ql_lora_set *lora = adapter != NULL ? load_adapter(adapter) : NULL;
	uint32_t ranks[QL_GROUPS] = {0};
	struct ql_lora_table *table;
	struct ql_step *step;
	struct ql_kv kv;
	size_t i;

	check(dev->ops->table_new(dev, 1, model->arch.num_hidden_layers * QL_MODULES, &table, &e));
	if (lora != NULL) {
		memcpy(ranks, lora->group_rank, sizeof ranks);
		check(ql_lora_to_table(lora, model, table, 0, &e));
	}
	check(ql_kv_new(&kv, model, BLOCKS, &e));
	check(ql_step_new(&step, model, &kv, table, ranks, CHUNK, 1, BLOCKS, 1, &e));
	ql_gate_enter(model->gate, QL_GATE_INFER);
	json_array_foreach(prompts, i, p)
		(void)json_array_append_new(result, greedy(step, p, n, lora));
	ql_gate_leave(model->gate, QL_GATE_INFER);
	if (json_dump_file(result, out, JSON_COMPACT) != 0)
		exit(1);
	ql_step_free(step);
	ql_kv_free(&kv, model);
	dev->ops->table_free(dev, table);
	ql_lora_free(lora);
	json_decref(prompts);
	json_decref(result);
}

static void gguf(const char *type, const char *out, const char *adapter, bool lora)
{
	struct ql_adapter_file f;
	struct ql_export x = {.source = source, .read_f32 = ql_model_read_f32, .ctx = model};
	char *copy = strdup(out), *slash = strrchr(copy, '/');
	const char *file = slash != NULL ? slash + 1 : out;
	int dir;

	if (slash != NULL)
		*slash = '\0';
	dir = open(slash != NULL ? copy : ".", O_RDONLY | O_DIRECTORY);
	if (adapter != NULL) {
		read_adapter(adapter, &f);
		x.adapter = &f;
	}
	check((lora ? ql_export_gguf_lora : ql_export_gguf)(&x, ql_export_type_of(type), dir, file, &e));
	check((lora ? ql_export_verify_gguf_lora : ql_export_verify_gguf)(&x, ql_export_type_of(type), dir, file, &e));
	if (adapter != NULL)
		ql_adapter_file_free(&f);
	(void)close(dir);
	free(copy);
}

static void hf(const char *type, const char *out, const char *adapter)
{
	struct ql_adapter_file f = {0};
	struct ql_export x = {.source = source, .read_f32 = ql_model_read_f32, .ctx = model};
	int dir = out_dir(out);

	if (adapter != NULL) {
		read_adapter(adapter, &f);
		x.adapter = &f;
	}
	check(ql_export_hf(&x, ql_export_type_of(type), dir, &e));
	check(ql_export_verify_hf(&x, ql_export_type_of(type), dir, &e));
	ql_adapter_file_free(&f);
	(void)close(dir);
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
	else if (strcmp(argv[1], "generate") == 0 && argc >= 7)
		generate(argv[4], (uint32_t)atoi(argv[5]), argv[6], argc > 7 ? argv[7] : NULL);
	else if (strcmp(argv[1], "gguf") == 0 && argc >= 6)
		gguf(argv[4], argv[5], argc > 6 ? argv[6] : NULL, false);
	else if (strcmp(argv[1], "hf") == 0 && argc >= 6)
		hf(argv[4], argv[5], argc > 6 ? argv[6] : NULL);
	else if (strcmp(argv[1], "lora") == 0 && argc >= 7)
		gguf(argv[4], argv[5], argv[6], true);
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
