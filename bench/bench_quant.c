/* bench_quant.c - quantising and dequantising of fp32, and what the memory can do, on request:
 *
 *	bench_quant ELEMENTS
 *
 * makes ELEMENTS normal-ish fp32 numbers and then answers lines on stdin with one JSON line each (bench/cpu_quant.py):
 *
 *	quantize TYPE T | dequantize TYPE T | read T | write T | zero T | copy T        with T threads
 *	-> {"seconds": S, "bytes": fp32 bytes read or written}
 *
 * TYPE: nf4, fp4, int4 (block size 64, nested scales of 256, allocation of the result included: the library's own call) or a GGUF
 * type, whose dequantising is one call per 64 K elements, spread over the threads, as reading a file does it.
 * read: the sum of the numbers' bits; write: memset of a byte that is not 0; zero: memset of 0, which some processors do without
 * moving data (on Zen 3 at nearly twice the rate); copy: memcpy, its bytes counted once.  All by the same thread pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/pool.h"
#include "core/quant/blk.h"
#include "core/quant/q4.h"

static struct ql_err e;
static float *x, *y;
static uint64_t n;
static volatile uint64_t sums[256]; /* kept, so that the reading is */

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(int rc)
{
	if (rc < 0) {
		(void)fprintf(stderr, "bench_quant: %s\n", e.message);
		exit(1);
	}
}

enum move { READ, WRITE, ZERO, COPY, MOVES };
static const char *const move_names[MOVES] = {"read", "write", "zero", "copy"};

struct piece {
	enum move move;
	uint64_t parts;
};

static void move_piece(void *ctx, size_t i, int worker)
{
	const struct piece *p = ctx;
	uint64_t begin = n / p->parts * i, end = i + 1 == p->parts ? n : n / p->parts * (i + 1);
	const uint64_t *w = (const uint64_t *)(const void *)(x + begin);
	uint64_t s[8] = {0};

	(void)worker;
	if (p->move == COPY) {
		memcpy(y + begin, x + begin, (end - begin) * 4);
	} else if (p->move == WRITE || p->move == ZERO) {
		memset(y + begin, p->move == WRITE ? 0x3c : 0, (end - begin) * 4);
	} else {
		for (uint64_t k = 0; k + 8 <= (end - begin) / 2; k += 8)
			for (int j = 0; j < 8; j++)
				s[j] += w[k + j];
		sums[i] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
	}
}

/* GGUF types: quantised bytes of x, made when first asked for. */
static struct {
	enum ql_dtype type;
	uint8_t *data;
} blocks = {QL_DTYPE_COUNT, NULL};

static void unpack_piece(void *ctx, size_t i, int worker)
{
	uint64_t at = (uint64_t)i << 16, k = n - at < 1 << 16 ? n - at : 1 << 16;

	(void)ctx, (void)worker;
	(void)ql_blk_dequantize(blocks.type, blocks.data + ql_dtype_bytes(blocks.type, at), k, y + at, NULL);
}

static double run_blocks(bool quantize, enum ql_dtype type, struct ql_pool *pool)
{
	double t = now();

	if (blocks.type != type || quantize) {
		if (blocks.type != type) {
			free(blocks.data);
			blocks.data = malloc(ql_dtype_bytes(type, n));
			if (blocks.data == NULL)
				exit(1);
			memset(blocks.data, 0, ql_dtype_bytes(type, n));
			blocks.type = type;
		}
		t = now();
		check(ql_blk_quantize(type, x, 1, n, NULL, blocks.data, pool, &e));
		if (quantize)
			return now() - t;
		t = now();
	}
	ql_pool_run(pool, (size_t)((n + 65535) >> 16), unpack_piece, NULL);
	return now() - t;
}

static double run_q4(bool quantize, enum ql_dtype type, struct ql_pool *pool)
{
	struct ql_q4_opts o = QL_Q4_OPTS_DEFAULT;
	static struct ql_q4 q;
	double t;

	o.kind = type;
	if (!quantize && (q.n == 0 || q.kind != type)) {
		ql_q4_free(&q);
		check(ql_q4_quantize(&q, x, QL_F32, n, &o, pool, &e));
	}
	t = now();
	if (quantize) {
		struct ql_q4 fresh;

		check(ql_q4_quantize(&fresh, x, QL_F32, n, &o, pool, &e));
		t = now() - t;
		ql_q4_free(&fresh);
		return t;
	}
	check(ql_q4_dequantize(&q, 0, n, y, QL_F32, pool, &e));
	return now() - t;
}

static double run_move(enum move move, int threads, struct ql_pool *pool)
{
	struct piece p = {move, (uint64_t)threads};
	double t = now();

	ql_pool_run(pool, (size_t)threads, move_piece, &p);
	return now() - t;
}

/* Seconds, or -1 when the line is not understood. */
static double run(const char *line)
{
	char what[32], type[32];
	int threads = 0, words = sscanf(line, "%31s %31s %d", what, type, &threads);
	bool quantize = strcmp(what, "quantize") == 0, work = quantize || strcmp(what, "dequantize") == 0;
	enum ql_dtype t = words == 3 ? ql_dtype_of(type) : QL_DTYPE_COUNT;
	enum move move = MOVES;
	struct ql_pool *pool;
	double s;

	if (!work)
		threads = words == 2 ? atoi(type) : 0;
	for (int i = 0; i < MOVES; i++)
		if (strcmp(what, move_names[i]) == 0)
			move = (enum move)i;
	if (threads < 1 || threads > 256 || (work ? ql_q4_code(t) == NULL && !ql_blk_known(t) : move == MOVES))
		return -1;
	pool = threads > 1 ? ql_pool_new(threads) : NULL;
	s = !work ? run_move(move, threads, pool) : ql_q4_code(t) != NULL ? run_q4(quantize, t, pool) : run_blocks(quantize, t, pool);
	ql_pool_free(pool);
	return s;
}

int main(int argc, char **argv)
{
	char line[64];
	uint32_t r = 1;

	n = argc > 1 ? strtoull(argv[1], NULL, 10) / 256 * 256 : 0;
	if (n < 256) {
		(void)fprintf(stderr, "usage: bench_quant ELEMENTS\n");
		return 2;
	}
	x = aligned_alloc(64, n * 4);
	y = aligned_alloc(64, n * 4);
	if (x == NULL || y == NULL)
		return 1;
	for (uint64_t i = 0; i < n; i++) { /* a sum of four uniform numbers */
		float v = 0;

		for (int k = 0; k < 4; k++) {
			r = r * 1664525u + 1013904223u;
			v += (float)(r >> 8) * 0x1p-24f - 0.5f;
		}
		x[i] = v * 0.02f;
		y[i] = 0;
	}
	(void)printf("{\"ready\": true}\n");
	(void)fflush(stdout);
	while (fgets(line, sizeof line, stdin) != NULL) {
		double t = run(line);

		if (t < 0) {
			(void)fprintf(stderr, "bench_quant: not understood: %s", line);
			return 2;
		}
		(void)printf("{\"seconds\": %.6f, \"bytes\": %llu}\n", t, (unsigned long long)(n * 4));
		(void)fflush(stdout);
	}
	free(x);
	free(y);
	return 0;
}
