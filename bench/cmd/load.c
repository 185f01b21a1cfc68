/* load.c - `bench load`: the start of the engine's model, first without and then with the 4-bit cache.
 *
 * With --arch a bf16 checkpoint of that shape (random values) is written below --dir first, in shards of about 4 GiB; it is then in the
 * page cache.  With --base the files are read as they are.  Ceiling: bytes of the checkpoint, or of the 4-bit form and the dense
 * tensors, at the speed of uploads alone. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "bench/cmd/bench.h"
#include "core/base/io.h"
#include "core/formats/safetensors.h"
#include "core/model/cache.h"

#define SHARD_BYTES ((uint64_t)4 << 30)
#define RANDOM_VALUES ((size_t)1 << 24)

static int write_shard(int dir, const char *file, const struct ql_arch_tensor *t, size_t n, const uint16_t *random, const uint16_t *ones,
		       struct ql_err *e)
{
	struct ql_st_spec *specs = calloc(n, sizeof *specs);
	struct ql_st_writer *w = NULL;
	int rc = specs == NULL ? ql_err_set(e, QL_ENOMEM, "shard") : QL_OK;
	size_t k, turn = 0;

	for (size_t i = 0; rc == QL_OK && i < n; i++) {
		specs[i] = (struct ql_st_spec){t[i].hf, QL_BF16, t[i].n_dims, {t[i].rows, t[i].cols}};
		if (t[i].n_dims == 1)
			specs[i].shape[0] = t[i].cols;
	}
	if (rc == QL_OK)
		rc = ql_st_write_begin(&w, dir, file, specs, n, e);
	while (rc == QL_OK && (k = ql_st_write_next(w)) < n) {
		size_t left = (size_t)t[k].rows * t[k].cols;

		while (rc == QL_OK && left > 0) { /* from another place each time */
			size_t from = t[k].norm ? 0 : turn++ * 9973 % (RANDOM_VALUES / 2), piece = RANDOM_VALUES / 2 < left ? RANDOM_VALUES / 2 : left;

			rc = ql_st_write_data(w, (t[k].norm ? ones : random) + from, piece * 2, e);
			left -= piece;
		}
	}
	if (rc == QL_OK)
		rc = ql_st_write_commit(w, e);
	else
		ql_st_write_abort(w);
	free(specs);
	return rc;
}

/* Ends of shards: tensors [begin[i], begin[i+1]) go into shard i. */
static size_t cut(const struct ql_arch_tensor *t, size_t n, size_t *begin, size_t max)
{
	size_t shards = 0;
	uint64_t bytes = 0;

	begin[0] = 0;
	for (size_t i = 0; i < n; i++) {
		uint64_t b = (uint64_t)t[i].rows * t[i].cols * 2;

		if (bytes > 0 && bytes + b > SHARD_BYTES && shards + 2 < max) {
			begin[++shards] = i;
			bytes = 0;
		}
		bytes += b;
	}
	begin[++shards] = n;
	return shards;
}

static int write_checkpoint(int dir, const struct ql_arch *a, const char *config, uint64_t *bytes, struct ql_err *e)
{
	size_t n = ql_arch_tensor_count(a), begin[66], shards;
	struct ql_arch_tensor *t = calloc(n, sizeof *t);
	uint16_t *random = malloc(RANDOM_VALUES * 2), *ones = malloc(RANDOM_VALUES);
	json_t *map = json_object(), *index = NULL;
	char *text = NULL, file[80];
	int rc = t == NULL || random == NULL || ones == NULL || map == NULL ? ql_err_set(e, QL_ENOMEM, "checkpoint") : QL_OK;

	if (rc != QL_OK)
		goto cleanup;
	bench_random_bf16(random, RANDOM_VALUES, 0.05f, 5);
	for (size_t i = 0; i < RANDOM_VALUES / 2; i++)
		ones[i] = ql_bf16_of_f32(1);
	for (size_t i = 0; i < n; i++) {
		ql_arch_tensor_at(a, i, &t[i]);
		*bytes += (uint64_t)t[i].rows * t[i].cols * 2;
	}
	shards = cut(t, n, begin, 66);
	for (size_t s = 0; rc == QL_OK && s < shards; s++) {
		(void)snprintf(file, sizeof file, "model-%05zu-of-%05zu.safetensors", s + 1, shards);
		rc = write_shard(dir, file, t + begin[s], begin[s + 1] - begin[s], random, ones, e);
		for (size_t i = begin[s]; i < begin[s + 1]; i++)
			(void)json_object_set_new(map, t[i].hf, json_string(file));
	}
	index = json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)*bytes, "weight_map", map);
	text = index == NULL ? NULL : json_dumps(index, JSON_COMPACT);
	if (rc == QL_OK && text == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "index");
	if (rc == QL_OK)
		rc = ql_io_replace(dir, "model.safetensors.index.json", text, strlen(text), e);
	if (rc == QL_OK)
		rc = ql_io_replace(dir, "config.json", config, strlen(config), e);
cleanup:
	json_decref(map);
	json_decref(index);
	free(text);
	free(t);
	free(random);
	free(ones);
	return rc;
}

static int synthetic(struct bench *b, char *path, size_t size, uint64_t *bytes, struct ql_err *e)
{
	char config[1024];
	double begin = bench_now();
	int fd, rc = bench_arch_json(b->arch_name, b->layers, config, sizeof config, e);

	if (rc == QL_OK)
		rc = ql_arch_from_config_json(&b->arch, config, strlen(config), e);
	if (rc != QL_OK)
		return rc;
	(void)snprintf(path, size, "%s/checkpoint", b->tmp);
	if (mkdir(path, 0700) != 0 || (fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		return ql_err_errno(e, "%s", path);
	rc = write_checkpoint(fd, &b->arch, config, bytes, e);
	(void)close(fd);
	bench_put(b->out, "checkpoint_written_s", bench_now() - begin);
	return rc;
}

/* What the engine does with a base: open, load, first forward pass not included. */
static int start(struct bench *b, const char *path, int cache, json_t *o, struct ql_err *e)
{
	struct ql_model_opts opts = {.quant = QL_Q4_OPTS_DEFAULT, .cache_dir = cache, .pool = b->pool};
	struct ql_source *source = NULL;
	struct ql_model *m = NULL;
	double begin;
	int rc;

	b->dev->ops->mem_reset_peak(b->dev);
	begin = bench_now();
	rc = ql_source_open(&source, path, e);

	bench_put(o, "open_s", bench_now() - begin);
	if (rc == QL_OK)
		rc = ql_model_load(&m, b->dev, source, &opts, e);
	bench_put(o, "seconds", bench_now() - begin);
	if (rc == QL_OK) {
		(void)json_object_set_new(o, "from_cache", json_boolean(ql_base_cache_was_cached(m->base)));
		bench_put(o, "hash_s", m->load_seconds.hash);
		bench_put(o, "quantise_s", m->load_seconds.quantise);
		bench_put(o, "write_cache_s", m->load_seconds.write);
		bench_put(o, "upload_s", m->load_seconds.upload);
		bench_put_memory(b, o);
	}
	ql_model_free(m);
	ql_source_close(source);
	return rc;
}

int bench_load(struct bench *b, struct ql_err *e)
{
	json_t *cold = json_object(), *warm = json_object();
	char path[400];
	uint64_t bytes = 0;
	double upload = 0;
	int parent = -1, cache = -1, rc = bench_tmp(b, e);

	(void)json_object_set_new(b->out, "first_start", cold);
	(void)json_object_set_new(b->out, "warm_start", warm);
	if (rc == QL_OK && b->base != NULL)
		(void)snprintf(path, sizeof path, "%.399s", b->base);
	else if (rc == QL_OK)
		rc = synthetic(b, path, sizeof path, &bytes, e);
	if (rc == QL_OK && (parent = open(b->tmp, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
		rc = ql_err_errno(e, "%s", b->tmp);
	if (rc == QL_OK)
		rc = ql_io_ensure_dir(parent, "cache", &cache, e);
	if (rc == QL_OK)
		rc = bench_upload_rate(b, &upload, e);
	if (rc == QL_OK)
		rc = start(b, path, cache, cold, e);
	if (rc == QL_OK)
		rc = start(b, path, cache, warm, e);
	if (bytes > 0)
		bench_put(b->out, "checkpoint_gb", (double)bytes / 1e9);
	bench_put(b->out, "ceiling_upload_gb_per_s", upload / 1e9);
	if (bytes > 0 && upload > 0)
		bench_put(b->out, "ceiling_first_start_s", (double)bytes / upload);
	if (cache >= 0)
		(void)close(cache);
	if (parent >= 0)
		(void)close(parent);
	return rc;
}
