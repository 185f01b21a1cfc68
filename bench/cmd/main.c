/* main.c - `qlorad bench`: runs one measurement and prints its figures; see bench.h. */
#include "bench/cmd/main.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "bench/cmd/bench.h"
#include "core/base/io.h"
#include "core/base/json.h"

double bench_now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

void bench_put(json_t *o, const char *key, double v)
{
	char text[40];

	(void)snprintf(text, sizeof text, "%.6g", v);
	if (isfinite(v))
		(void)json_object_set_new(o, key, json_real(strtod(text, NULL)));
}

void bench_put_memory(struct bench *b, json_t *o)
{
	struct ql_mem_info info;

	if (b->dev->ops->mem_info(b->dev, &info, NULL) != QL_OK)
		return;
	bench_put(o, "peak_gib", (double)info.peak / (1 << 30));
	bench_put(o, "device_used_gib", (double)(info.total - info.available) / (1 << 30));
}

void bench_put_kinds(json_t *o, const struct ql_mem_info *info)
{
	static const char *const names[QL_MEM_KINDS] = {"base", "kv", "adapter", "optimizer", "activation", "scratch"};
	json_t *v = json_object();

	for (int k = 0; k < QL_MEM_KINDS; k++)
		bench_put(v, names[k], (double)info->used[k] / (1 << 30));
	(void)json_object_set_new(o, "allocated_gib", v);
}

int bench_tmp(struct bench *b, struct ql_err *e)
{
	if (b->tmp[0] != '\0')
		return QL_OK;
	(void)snprintf(b->tmp, sizeof b->tmp, "%.200s/qlorad-bench-XXXXXX", b->dir);
	if (mkdtemp(b->tmp) == NULL) {
		b->tmp[0] = '\0';
		return ql_err_errno(e, "a directory in %.200s", b->dir);
	}
	return QL_OK;
}

static void remove_tmp(struct bench *b)
{
	char *slash = strrchr(b->tmp, '/');
	int parent;

	if (slash == NULL || b->keep)
		return;
	*slash = '\0';
	parent = open(b->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (parent < 0)
		return;
	(void)ql_io_remove_tree(parent, slash + 1, NULL);
	(void)close(parent);
}

static void print_lines(const json_t *v, const char *prefix)
{
	const char *key;
	json_t *item;
	size_t i;

	if (json_is_object(v)) {
		json_object_foreach((json_t *)(uintptr_t)v, key, item) {
			char name[200];

			(void)snprintf(name, sizeof name, "%s%s%s", prefix, prefix[0] != '\0' ? "." : "", key);
			print_lines(item, name);
		}
	} else if (json_is_array(v)) {
		json_array_foreach(v, i, item) {
			char name[200];

			(void)snprintf(name, sizeof name, "%s[%zu]", prefix, i);
			print_lines(item, name);
		}
	} else {
		char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));

		(void)printf("%-44s %s\n", prefix, text != NULL ? text : "");
		free(text);
	}
}

static void describe(struct bench *b)
{
	time_t now = time(NULL);
	struct tm tm;
	char date[32];

	(void)gmtime_r(&now, &tm);
	(void)strftime(date, sizeof date, "%Y-%m-%d", &tm);
	(void)json_object_set_new(b->out, "bench", json_string(b->what));
	(void)json_object_set_new(b->out, "date", json_string(date));
	(void)json_object_set_new(b->out, "version", json_string(QL_VERSION));
	(void)json_object_set_new(b->out, "model", json_string(b->base != NULL ? b->base : b->arch_name));
}

int ql_bench_main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct bench *, struct ql_err *);
		bool model;
	} benches[] = {{"train", bench_train, true}, {"decode", bench_decode, true}, {"serve-mixed", bench_mixed, true},
		       {"quantize", bench_quantize, false}, {"load", bench_load, false}};
	struct bench b = {0};
	struct ql_err e = {0};
	int rc = bench_options(&b, argc, argv);

	if (rc != 0 || b.what == NULL)
		return rc;
	b.out = json_object();
	describe(&b);
	rc = bench_open_device(&b, &e);
	for (size_t i = 0; i < sizeof benches / sizeof benches[0] && rc == QL_OK; i++) {
		if (strcmp(benches[i].name, b.what) != 0)
			continue;
		(void)json_object_set_new(b.out, "device", json_string(b.dev->description));
		if (benches[i].model)
			rc = bench_open_model(&b, &e);
		if (rc == QL_OK)
			rc = benches[i].run(&b, &e);
	}
	if (rc != QL_OK)
		(void)json_object_set_new(b.out, "error", json_string(e.message));
	if (b.json) {
		char *text = json_dumps(b.out, JSON_COMPACT | JSON_REAL_PRECISION(9));

		(void)puts(text != NULL ? text : "{}");
		free(text);
	} else {
		print_lines(b.out, "");
	}
	if (rc != QL_OK)
		(void)fprintf(stderr, "qlorad bench: %s\n", e.message);
	ql_model_free(b.model);
	ql_tok_free(b.tok);
	ql_source_close(b.source);
	ql_pool_free(b.pool);
	if (b.dev != NULL)
		b.dev->ops->close(b.dev);
	remove_tmp(&b);
	json_decref(b.out);
	return rc == QL_OK ? 0 : 1;
}
