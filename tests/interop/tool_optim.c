/* tool_optim.c - the optimiser, the schedules and clipping by themselves, for comparison with torch, bitsandbytes and
 * transformers:
 *
 *   optim_tool run SPEC.json PARAMS.f32 GRADS.f32 OUTDIR     GRADS holds one gradient after the other; OUTDIR gets params.f32
 *                          (the parameters after each step), steps.json [{lr, grad_norm}] and state.bin (the optimiser's state
 *                          after each step, as optim.h lists its parts)
 *   optim_tool schedule NAME STEPS WARMUP MIN_RATIO          the factors, one a line
 *   optim_tool warmup STEPS RATIO                            W as the recipe derives it
 *
 * QL_TEST_DEVICE=cuda runs on the first GPU (tests/gpu_adam8.py).
 * SPEC: {"tensors": [elements, …], "recipe": {…}, "steps": n, "warmup": W}; every tensor belongs to the first group. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/io.h"
#include "core/base/json.h"
#include "core/train/recipe.h"

static struct ql_err e;

static void check(int rc)
{
	if (rc < 0) {
		(void)fprintf(stderr, "optim_tool: %s (%s)\n", e.message, ql_code_text(rc));
		exit(1);
	}
}

static struct ql_buf read_file(const char *path)
{
	struct ql_buf b = {0};

	check(ql_io_read_file(path, (size_t)1 << 30, &b, &e));
	return b;
}

static void write_file(const char *dir, const char *name, const void *data, size_t bytes)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);

	check(ql_io_replace(fd, name, data, bytes, &e));
}

static void run(char **argv)
{
	bool cuda = getenv("QL_TEST_DEVICE") != NULL && strcmp(getenv("QL_TEST_DEVICE"), "cuda") == 0;
	struct ql_buf text = read_file(argv[0]), params = read_file(argv[1]), grads = read_file(argv[2]);
	uint64_t tensors[64], n = params.len / 4, steps, warmup;
	uint32_t n_tensors;
	json_t *spec, *list, *log = json_array();
	struct ql_recipe r;
	struct ql_device *d;
	struct ql_queue *q;
	struct ql_optim *o;
	float *p, *g, *out;
	char *state;
	size_t state_bytes;

	check(ql_json_parse(text.data, text.len, text.len, &spec, &e));
	check(ql_recipe_parse(&r, json_object_get(spec, "recipe"), false, &e));
	list = json_object_get(spec, "tensors");
	n_tensors = (uint32_t)json_array_size(list);
	for (uint32_t i = 0; i < n_tensors && i < 64; i++)
		tensors[i] = (uint64_t)json_integer_value(json_array_get(list, i));
	steps = (uint64_t)json_integer_value(json_object_get(spec, "steps"));
	warmup = (uint64_t)json_integer_value(json_object_get(spec, "warmup"));
	if (n_tensors > 64 || grads.len != steps * n * 4)
		exit(2);
	check(cuda ? ql_device_cuda(&d, 0, &e) : ql_device_cpu(&d, 2, &e));
	check(d->ops->queue_new(d, &q, &e));
	check(ql_optim_new(&o, d, q, r.optimizer, r.paged, tensors, n_tensors, n_tensors, &e));
	check(d->ops->alloc(d, QL_MEM_ADAPTER, n * 4, (void **)&p, &e));
	check(d->ops->alloc(d, QL_MEM_ADAPTER, n * 4, (void **)&g, &e));
	check(d->ops->upload(d, q, p, params.data, n * 4, &e));
	state_bytes = (size_t)ql_optim_bytes(o);
	out = malloc(steps * n * 4);
	state = malloc(steps * state_bytes);
	if (out == NULL || state == NULL)
		exit(2);
	for (uint64_t k = 0; k < steps; k++) {
		double sum, norm, lr = r.learning_rate * ql_schedule_factor(r.schedule, k, steps, warmup, r.min_lr_ratio);

		check(d->ops->upload(d, q, g, grads.data + k * n * 4, n * 4, &e));
		check(d->ops->sum_squares(d, q, g, n, &sum, &e));
		check(d->ops->sync(d, q, &e));
		norm = sqrt(sum);
		struct ql_optim_rule rule = {.lr_first = lr, .lr_rest = lr, .weight_decay = r.weight_decay, .beta1 = r.beta1,
					     .beta2 = r.beta2, .eps = r.eps, .t = k + 1,
					     .grad_scale = (float)ql_clip_coef(norm, r.max_grad_norm)};

		check(ql_optim_step(o, q, p, g, &rule, &e));
		check(d->ops->download(d, q, out + k * n, p, n * 4, &e));
		check(ql_optim_download(o, q, state + k * state_bytes, &e));
		check(d->ops->sync(d, q, &e));
		(void)json_array_append_new(log, json_pack("{s:f, s:f}", "lr", lr, "grad_norm", norm));
	}
	write_file(argv[3], "params.f32", out, steps * n * 4);
	write_file(argv[3], "state.bin", state, steps * state_bytes);
	char *json = json_dumps(log, JSON_COMPACT | JSON_REAL_PRECISION(17));

	write_file(argv[3], "steps.json", json, strlen(json));
	free(json);
	free(out);
	free(state);
	ql_optim_free(o);
	d->ops->free(d, p);
	d->ops->free(d, g);
	d->ops->queue_free(d, q);
	d->ops->close(d);
	json_decref(spec);
	json_decref(log);
	ql_buf_free(&text);
	ql_buf_free(&params);
	ql_buf_free(&grads);
}

static void schedule(char **argv)
{
	static const char *const names[] = {"constant", "constant_with_warmup", "linear", "cosine"};
	uint64_t steps = strtoull(argv[1], NULL, 10), warmup = strtoull(argv[2], NULL, 10);

	for (int i = 0; i < 4; i++)
		if (strcmp(names[i], argv[0]) == 0)
			for (uint64_t k = 0; k <= steps; k++)
				(void)printf("%.17g\n", ql_schedule_factor((enum ql_schedule)i, k, steps, warmup, atof(argv[3])));
}

int main(int argc, char **argv)
{
	if (argc == 6 && strcmp(argv[1], "run") == 0) {
		run(argv + 2);
	} else if (argc == 6 && strcmp(argv[1], "schedule") == 0) {
		schedule(argv + 2);
	} else if (argc == 4 && strcmp(argv[1], "warmup") == 0) {
		struct ql_recipe r = {.schedule = QL_SCHED_COSINE, .warmup_ratio = atof(argv[3]), .warmup_steps = -1};

		(void)printf("%llu\n", (unsigned long long)ql_recipe_warmup(&r, strtoull(argv[2], NULL, 10)));
	} else {
		(void)fprintf(stderr, "usage: see the head of tests/interop/tool_optim.c\n");
		return 2;
	}
	return 0;
}
