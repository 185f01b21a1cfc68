/* bench_decode.c - time of inference steps of a whole model, without the daemon, on request:
 *
 *	bench_decode BASE CACHE_DIR [THREADS]
 *
 * loads the base as the daemon does (NF4, double quantisation; cached in CACHE_DIR) and then answers lines on stdin with one
 * JSON line each, so that a driver (bench/cpu_decode.py) can take turns with other programs in one run:
 *
 *	prefill N           a prompt of N tokens, in chunks of 256, logits of the last one
 *	decode N ROWS       N steps of ROWS sequences, each behind a prompt of 16 tokens
 *	-> {"seconds": S, "tokens": N·ROWS}
 *
 * Tokens are pseudo-random ids; the time does not depend on them. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/model/step.h"

#define CONTEXT 4096
#define CHUNK 256 /* as core/infer/infer.c has it on the CPU */
#define ROWS 16
#define PROMPT 16

static struct ql_err e;
static struct ql_source *source;
static struct ql_device *dev;
static struct ql_model *model;
static struct ql_kv kv;
static struct ql_step *step;
static float *logits;

static void check(int rc)
{
	if (rc < 0) {
		(void)fprintf(stderr, "bench_decode: %s (%s)\n", e.message, ql_code_text(rc));
		exit(1);
	}
}

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void load(const char *base, const char *cache, int threads)
{
	struct ql_model_opts o = {.quant = QL_Q4_OPTS_DEFAULT};
	uint32_t rank[QL_GROUPS] = {0}, blocks = CONTEXT / QL_KV_BLOCK;

	(void)mkdir(cache, 0700);
	o.cache_dir = open(cache, O_RDONLY | O_DIRECTORY);
	o.pool = ql_pool_new(threads);
	check(ql_source_open(&source, base, &e));
	check(ql_device_cpu(&dev, threads, &e));
	check(ql_model_load(&model, dev, source, &o, &e));
	ql_pool_free(o.pool);
	(void)close(o.cache_dir);
	check(ql_kv_new(&kv, model, blocks * ROWS, &e));
	check(ql_step_new(&step, model, &kv, NULL, rank, CHUNK, ROWS, blocks, ROWS, &e));
	logits = malloc((size_t)ROWS * model->arch.vocab_size * sizeof *logits);
}

static int32_t token(uint32_t i) { return (int32_t)(3 + (i * 2654435761u >> 7) % (model->arch.vocab_size - 3)); }

/* Sequence s owns blocks s·CONTEXT/QL_KV_BLOCK …; so slot = s·CONTEXT + position. */
static void fill_table(int32_t *table, uint32_t s)
{
	for (uint32_t b = 0; b < CONTEXT / QL_KV_BLOCK; b++)
		table[b] = (int32_t)(s * (CONTEXT / QL_KV_BLOCK) + b);
}

static void prompt(uint32_t s, uint32_t n)
{
	static int32_t ids[CHUNK], pos[CHUNK], slots[CHUNK], table[CONTEXT / QL_KV_BLOCK];

	fill_table(table, s);
	for (uint32_t at = 0; at < n;) {
		uint32_t count = n - at < CHUNK ? n - at : CHUNK;
		int32_t begin[2] = {0, (int32_t)count}, len = (int32_t)(at + count);
		struct ql_step_in in = {.n_tokens = count, .n_seqs = 1, .ids = ids, .positions = pos, .slots = slots,
					.q_begin = begin, .kv_len = &len, .block_table = table};

		for (uint32_t i = 0; i < count; i++) {
			ids[i] = token(s * 977 + at + i);
			pos[i] = (int32_t)(at + i);
			slots[i] = (int32_t)(s * CONTEXT + at + i);
		}
		in.logits_begin = count - 1;
		in.logits_count = at + count == n;
		ql_gate_enter(model->gate, QL_GATE_INFER);
		check(ql_step_run(step, &in, logits, &e));
		ql_gate_leave(model->gate, QL_GATE_INFER);
		at += count;
	}
}

static void decode(uint32_t n, uint32_t rows)
{
	int32_t ids[ROWS], pos[ROWS], slots[ROWS], begin[ROWS + 1], len[ROWS], slot[ROWS];
	static int32_t table[ROWS * (CONTEXT / QL_KV_BLOCK)];
	struct ql_step_in in = {.n_tokens = rows, .n_seqs = rows, .ids = ids, .positions = pos, .slots = slots, .q_begin = begin,
				.kv_len = len, .block_table = table, .row_slot = slot, .logits_count = rows};

	for (uint32_t t = 0; t < n; t++) {
		for (uint32_t s = 0; s < rows; s++) {
			ids[s] = token(s * 31 + t);
			pos[s] = (int32_t)(PROMPT + t);
			slots[s] = (int32_t)(s * CONTEXT + PROMPT + t);
			begin[s] = (int32_t)s;
			len[s] = (int32_t)(PROMPT + t + 1);
			slot[s] = -1;
			fill_table(table + (size_t)s * (CONTEXT / QL_KV_BLOCK), s);
		}
		begin[rows] = (int32_t)rows;
		ql_gate_enter(model->gate, QL_GATE_INFER);
		check(ql_step_run(step, &in, logits, &e));
		ql_gate_leave(model->gate, QL_GATE_INFER);
	}
}

int main(int argc, char **argv)
{
	char line[128];

	if (argc < 3) {
		(void)fprintf(stderr, "usage: bench_decode BASE CACHE_DIR [THREADS]\n");
		return 2;
	}
	load(argv[1], argv[2], argc > 3 ? atoi(argv[3]) : 2);
	(void)printf("{\"ready\": true}\n");
	(void)fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		unsigned n = 0, rows = 1;
		double t;

		if (sscanf(line, "prefill %u", &n) == 1 && n >= 1 && n <= CONTEXT) {
			t = now();
			prompt(0, n);
		} else if (sscanf(line, "decode %u %u", &n, &rows) >= 1 && n >= 1 && n <= CONTEXT - PROMPT && rows >= 1 && rows <= ROWS) {
			for (uint32_t s = 0; s < rows; s++)
				prompt(s, PROMPT);
			t = now();
			decode(n, rows);
		} else {
			(void)fprintf(stderr, "bench_decode: not understood: %s", line);
			return 2;
		}
		(void)printf("{\"seconds\": %.6f, \"tokens\": %u}\n", now() - t, n * rows);
		(void)fflush(stdout);
	}
	free(logits);
	ql_step_free(step);
	ql_kv_free(&kv, model);
	ql_model_free(model);
	dev->ops->close(dev);
	ql_source_close(source);
	return 0;
}
