/* bench_quant.c - NF4 quantising and dequantising of fp32, and what the memory can do, on request:
 *
 *	bench_quant ELEMENTS
 *
 * makes ELEMENTS normal-ish fp32 numbers and then answers lines on stdin with one JSON line each (bench/cpu_quant.py):
 *
 *	quantize T | dequantize T | read T | copy T        with T threads
 *	-> {"seconds": S, "bytes": fp32 bytes read or written}
 *
 * quantize: block size 64, nested scales of 256, allocation of the result included (the library's own call).
 * read: the sum of the numbers' bits; copy: memcpy, its bytes counted once.  Both by the same thread pool. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/pool.h"
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

struct piece {
	bool copy;
	uint64_t parts;
};

static void move_piece(void *ctx, size_t i, int worker)
{
	const struct piece *p = ctx;
	uint64_t begin = n / p->parts * i, end = i + 1 == p->parts ? n : n / p->parts * (i + 1);
	const uint64_t *w = (const uint64_t *)(const void *)(x + begin);
	uint64_t s[8] = {0};

	(void)worker;

	if (p->copy) {
		memcpy(y + begin, x + begin, (end - begin) * 4);
		return;
	}
	for (uint64_t k = 0; k + 8 <= (end - begin) / 2; k += 8)
		for (int j = 0; j < 8; j++)
			s[j] += w[k + j];
	sums[i] = s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

static void run(const char *what, int threads)
{
	struct ql_pool *pool = threads > 1 ? ql_pool_new(threads) : NULL;
	const struct ql_q4_opts o = QL_Q4_OPTS_DEFAULT;
	static struct ql_q4 q;
	double t;

	if (strcmp(what, "dequantize") == 0 && q.n == 0)
		check(ql_q4_quantize(&q, x, QL_F32, n, &o, pool, &e));
	t = now();
	if (strcmp(what, "quantize") == 0) {
		struct ql_q4 fresh;

		check(ql_q4_quantize(&fresh, x, QL_F32, n, &o, pool, &e));
		t = now() - t;
		ql_q4_free(&fresh);
	} else if (strcmp(what, "dequantize") == 0) {
		check(ql_q4_dequantize(&q, 0, n, y, QL_F32, pool, &e));
		t = now() - t;
	} else {
		struct piece p = {strcmp(what, "copy") == 0, (uint64_t)threads};

		ql_pool_run(pool, (size_t)threads, move_piece, &p);
		t = now() - t;
	}
	ql_pool_free(pool);
	(void)printf("{\"seconds\": %.6f, \"bytes\": %llu}\n", t, (unsigned long long)(n * 4));
	(void)fflush(stdout);
}

int main(int argc, char **argv)
{
	char line[64], what[32];
	int threads;
	uint32_t r = 1;

	n = argc > 1 ? strtoull(argv[1], NULL, 10) / 64 * 64 : 0;
	if (n < 64) {
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
		if (sscanf(line, "%31s %d", what, &threads) != 2 || threads < 1 || threads > 256 ||
		    (strcmp(what, "quantize") != 0 && strcmp(what, "dequantize") != 0 && strcmp(what, "read") != 0 && strcmp(what, "copy") != 0)) {
			(void)fprintf(stderr, "bench_quant: not understood: %s", line);
			return 2;
		}
		run(what, threads);
	}
	free(x);
	free(y);
	return 0;
}
