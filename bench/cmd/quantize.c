/* quantize.c - `bench quantize`: NF4 with nested scales from bf16 rows in device memory, and back to the activation type.
 * Rates count bytes of bf16 read (quantise) and of the activation type written (dequantise); ceiling: the copy bandwidth. */
#include <stdlib.h>

#include "bench/cmd/bench.h"

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* Fills n bf16 values on the device with a repeated random piece. */
static int fill(struct bench *b, struct ql_queue *q, uint16_t *p, size_t n, struct ql_err *e)
{
	size_t piece = (size_t)1 << 22;
	uint16_t *host = malloc(piece * 2);
	int rc = host == NULL ? ql_err_set(e, QL_ENOMEM, "random rows") : QL_OK;

	if (rc == QL_OK)
		bench_random_bf16(host, piece, 0.05f, 3);
	for (size_t at = 0; rc == QL_OK && at < n; at += piece)
		rc = b->dev->ops->upload(b->dev, q, p + at, host, (n - at < piece ? n - at : piece) * 2, e);
	if (rc == QL_OK)
		rc = b->dev->ops->sync(b->dev, q, e);
	free(host);
	return rc;
}

static int time_quantize(struct bench *b, const struct ql_weight_shape *s, const void *rows, struct ql_weight **w, double *median,
			 struct ql_err *e)
{
	double t[7];

	for (int i = 0; i < 7; i++) {
		double begin;
		int rc;

		if (*w != NULL)
			b->dev->ops->weight_free(b->dev, *w);
		*w = NULL;
		begin = bench_now();
		rc = b->dev->ops->weight_quantize(b->dev, s, QL_BF16, &rows, QL_NF4, w, e);
		if (rc != QL_OK)
			return rc;
		t[i] = bench_now() - begin;
	}
	qsort(t, 7, sizeof *t, by_value);
	*median = t[3];
	return QL_OK;
}

static int time_rows(struct bench *b, struct ql_queue *q, const struct ql_weight *w, struct ql_tensor dst, double *median, struct ql_err *e)
{
	uint32_t inner = b->dev->act == QL_F32 ? 1 : 8;
	double t[7];

	for (int i = 0; i < 7; i++) {
		double begin = bench_now();
		int rc = QL_OK;

		for (uint32_t k = 0; rc == QL_OK && k < inner; k++)
			rc = b->dev->ops->weight_rows(b->dev, q, w, dst, e);
		if (rc == QL_OK)
			rc = b->dev->ops->sync(b->dev, q, e);
		if (rc != QL_OK)
			return rc;
		t[i] = (bench_now() - begin) / inner;
	}
	qsort(t, 7, sizeof *t, by_value);
	*median = t[3];
	return QL_OK;
}

int bench_quantize(struct bench *b, struct ql_err *e)
{
	const struct ql_device_ops *op = b->dev->ops;
	bool gpu = b->dev->act != QL_F32;
	struct ql_weight_shape s = {.in = 4096, .n_parts = 1, .out = {gpu ? 524288 : 1024}};
	size_t n = (size_t)s.in * s.out[0], out_bytes = n * ql_dtypes[b->dev->act].bytes;
	struct ql_weight *w = NULL;
	struct ql_queue *q = NULL;
	void *rows = NULL, *dst = NULL;
	double tq = 0, td = 0, copy = 0;
	int rc = op->queue_new(b->dev, &q, e);

	if (rc == QL_OK)
		rc = op->alloc(b->dev, QL_MEM_SCRATCH, n * 2, &rows, e);
	if (rc == QL_OK)
		rc = op->alloc(b->dev, QL_MEM_SCRATCH, out_bytes, &dst, e);
	if (rc == QL_OK)
		rc = fill(b, q, rows, n, e);
	if (rc == QL_OK)
		rc = time_quantize(b, &s, rows, &w, &tq, e);
	if (rc == QL_OK)
		rc = time_rows(b, q, w, ql_view(dst, b->dev->act, s.out[0], s.in, s.in), &td, e);
	if (rc == QL_OK)
		rc = bench_copy_rate(b, &copy, e);
	if (rc == QL_OK) {
		bench_put(b->out, "values", (double)n);
		bench_put(b->out, "quantize_gb_per_s", (double)n * 2 / tq / 1e9);
		bench_put(b->out, "dequantize_gb_per_s", (double)out_bytes / td / 1e9);
		bench_put(b->out, "ceiling_copy_gb_per_s", copy / 1e9);
		bench_put_memory(b, b->out);
	}
	if (w != NULL)
		op->weight_free(b->dev, w);
	op->free(b->dev, rows);
	op->free(b->dev, dst);
	if (q != NULL)
		op->queue_free(b->dev, q);
	return rc;
}
