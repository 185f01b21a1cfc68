/* ceiling.c - what bounds the measured figures on this machine, taken in the same run. */
#include <math.h>
#include <stdlib.h>

#include "bench/cmd/bench.h"

#define COPY_BYTES_GPU ((size_t)1 << 30)
#define COPY_BYTES_CPU ((size_t)64 << 20)
#define SECONDS_GPU 0.4 /* at least */
#define SECONDS_CPU 0.1

static size_t copy_bytes(const struct bench *b) { return b->dev->act == QL_F32 ? COPY_BYTES_CPU : COPY_BYTES_GPU; }

/* Seconds of one call of f, from as many as fill the time above, ended by one sync. */
static int time_of(struct bench *b, int (*f)(void *ctx, struct ql_err *e), void *ctx, struct ql_queue *q, double *seconds,
		   struct ql_err *e)
{
	double begin = bench_now(), t = 0, enough = b->dev->act == QL_F32 ? SECONDS_CPU : SECONDS_GPU;
	uint32_t n = 1;
	int rc = QL_OK;

	while (rc == QL_OK) {
		begin = bench_now();
		for (uint32_t i = 0; rc == QL_OK && i < n; i++)
			rc = f(ctx, e);
		if (rc == QL_OK)
			rc = b->dev->ops->sync(b->dev, q, e);
		t = bench_now() - begin;
		if (rc != QL_OK || t >= enough)
			break;
		n = t < enough / 8 ? n * 4 : (uint32_t)(n * enough / t * 1.1) + 1;
	}
	*seconds = t / n;
	return rc;
}

struct copy {
	struct bench *b;
	struct ql_queue *q;
	void *from, *to;
	size_t bytes;
};

static int copy_once(void *ctx, struct ql_err *e)
{
	struct copy *c = ctx;

	return c->b->dev->ops->copy(c->b->dev, c->q, c->to, c->from, c->bytes, e);
}

static int upload_once(void *ctx, struct ql_err *e)
{
	struct copy *c = ctx;

	return c->b->dev->ops->upload(c->b->dev, c->q, c->to, c->from, c->bytes, e);
}

int bench_copy_rate(struct bench *b, double *bytes_per_s, struct ql_err *e)
{
	const struct ql_device_ops *op = b->dev->ops;
	struct copy c = {.b = b, .bytes = copy_bytes(b)};
	double t = 0;
	int rc = op->queue_new(b->dev, &c.q, e);

	if (rc == QL_OK)
		rc = op->alloc(b->dev, QL_MEM_SCRATCH, c.bytes, &c.from, e);
	if (rc == QL_OK)
		rc = op->alloc(b->dev, QL_MEM_SCRATCH, c.bytes, &c.to, e);
	if (rc == QL_OK)
		rc = op->zero(b->dev, c.q, c.from, c.bytes, e);
	if (rc == QL_OK)
		rc = time_of(b, copy_once, &c, c.q, &t, e);
	op->free(b->dev, c.from);
	op->free(b->dev, c.to);
	if (c.q != NULL)
		op->queue_free(b->dev, c.q);
	*bytes_per_s = 2 * (double)c.bytes / t;
	return rc;
}

int bench_upload_rate(struct bench *b, double *bytes_per_s, struct ql_err *e)
{
	const struct ql_device_ops *op = b->dev->ops;
	struct copy c = {.b = b, .bytes = copy_bytes(b)};
	double t = 0;
	int rc = op->queue_new(b->dev, &c.q, e);

	c.from = calloc(1, c.bytes);
	if (rc == QL_OK && c.from == NULL)
		rc = ql_err_set(e, QL_ENOMEM, "copies");
	for (size_t i = 0; rc == QL_OK && i < c.bytes; i += 4096) /* pages of its own, not the shared zero page */
		((volatile char *)c.from)[i] = 1;
	if (rc == QL_OK)
		rc = op->alloc(b->dev, QL_MEM_SCRATCH, c.bytes, &c.to, e);
	if (rc == QL_OK)
		rc = time_of(b, upload_once, &c, c.q, &t, e);
	op->free(b->dev, c.to);
	if (c.q != NULL)
		op->queue_free(b->dev, c.q);
	free(c.from);
	*bytes_per_s = (double)c.bytes / t;
	return rc;
}

/* ---- products ------------------------------------------------------------------------------------------------------------- */

struct products {
	struct bench *b;
	struct ql_queue *q;
	struct ql_weight *w[QL_GROUPS], *head;
	struct ql_tensor x, y, logits;
	uint32_t rows; /* of the head at once */
};

static struct ql_tensor cut(struct ql_tensor t, uint32_t rows, uint32_t cols)
{
	t.rows = rows;
	t.cols = cols;
	t.ld = cols;
	return t;
}

static int both_ways(struct products *p, struct ql_weight *w, uint32_t in, uint32_t out, uint32_t rows, bool logits, struct ql_err *e)
{
	const struct ql_device_ops *op = p->b->dev->ops;
	struct ql_linear f = {.w = w, .x = cut(p->x, rows, in), .y = logits ? cut(p->logits, rows, out) : cut(p->y, rows, out)};
	struct ql_linear_grad g = {.w = w, .dy = cut(p->y, rows, out), .dx = cut(p->x, rows, in)};
	int rc = op->linear(p->b->dev, p->q, &f, e);

	return rc == QL_OK ? op->linear_grad(p->b->dev, p->q, &g, e) : rc;
}

static void shape_of(const struct ql_arch *a, int group, struct ql_weight_shape *s)
{
	uint32_t rows;

	*s = (struct ql_weight_shape){.n_parts = 1};
	for (int p = 0; p < ql_groups[group].count; p++) {
		ql_arch_module_shape(a, ql_groups[group].first + p, &rows, &s->in);
		s->out[0] += rows;
	}
}

static int layer_once(void *ctx, struct ql_err *e)
{
	struct products *p = ctx;
	int rc = QL_OK;

	for (int g = 0; rc == QL_OK && g < QL_GROUPS; g++) {
		struct ql_weight_shape s;

		shape_of(&p->b->arch, g, &s);
		rc = both_ways(p, p->w[g], s.in, s.out[0], p->x.rows, false, e);
	}
	return rc;
}

static int head_once(void *ctx, struct ql_err *e)
{
	struct products *p = ctx;

	return both_ways(p, p->head, p->b->arch.hidden_size, p->b->arch.vocab_size, p->rows, true, e);
}

/* Random, not zero: the card's clock follows the power that the data takes. */
static int fill_random(struct products *p, struct ql_tensor *t, uint64_t elements, struct ql_err *e)
{
	const struct ql_device_ops *op = p->b->dev->ops;
	size_t size = ql_dtypes[t->dtype].bytes, n = (size_t)1 << 20, bytes = (size_t)elements * size;
	uint16_t *half = malloc(n * 2);
	float *full = malloc(n * 4);
	int rc = half == NULL || full == NULL ? ql_err_set(e, QL_ENOMEM, "random rows")
					      : op->alloc(p->b->dev, QL_MEM_SCRATCH, bytes, &t->data, e);

	if (rc == QL_OK)
		bench_random_bf16(half, n, 1, 7);
	for (size_t i = 0; rc == QL_OK && i < n; i++)
		full[i] = ql_f32_of_bf16(half[i]);
	for (size_t at = 0; rc == QL_OK && at < bytes; at += n * size)
		rc = op->upload(p->b->dev, p->q, (char *)t->data + at, size == 2 ? (void *)half : (void *)full,
				bytes - at < n * size ? bytes - at : n * size, e);
	if (rc == QL_OK)
		rc = op->sync(p->b->dev, p->q, e);
	free(half);
	free(full);
	return rc;
}

static int make_weight(struct products *p, const struct ql_weight_shape *s, struct ql_weight **out, struct ql_err *e)
{
	size_t n = (size_t)s->in * s->out[0];
	uint16_t *half = malloc(n * 2);
	const void *part = half;
	float *full = NULL;
	int rc = QL_OK;

	if (half != NULL)
		bench_random_bf16(half, n, 1.0f / sqrtf((float)s->in), 9);
	if (half != NULL && p->b->dev->act == QL_F32 && (full = malloc(n * 4)) != NULL)
		for (size_t i = 0; i < n; i++)
			full[i] = ql_f32_of_bf16(half[i]);
	if (half == NULL || (p->b->dev->act == QL_F32 && full == NULL))
		rc = ql_err_set(e, QL_ENOMEM, "dense weights");
	if (full != NULL)
		part = full;
	if (rc == QL_OK)
		rc = p->b->dev->ops->weight_from_dense(p->b->dev, s, p->b->dev->act, &part, out, e);
	free(half);
	free(full);
	return rc;
}

static int make_all(struct products *p, uint32_t tokens, struct ql_err *e)
{
	const struct ql_arch *a = &p->b->arch;
	enum ql_dtype act = p->b->dev->act;
	struct ql_weight_shape s, head = {.in = a->hidden_size, .n_parts = 1, .out = {a->vocab_size}};
	uint64_t widest_in = 0, widest_out = 0, y;
	int rc = p->b->dev->ops->queue_new(p->b->dev, &p->q, e);

	for (int g = 0; rc == QL_OK && g < QL_GROUPS; g++) {
		shape_of(a, g, &s);
		widest_in = s.in > widest_in ? s.in : widest_in;
		widest_out = s.out[0] > widest_out ? s.out[0] : widest_out;
		rc = make_weight(p, &s, &p->w[g], e);
	}
	if (rc == QL_OK)
		rc = make_weight(p, &head, &p->head, e);
	p->rows = tokens < 1024 ? tokens : 1024;
	y = widest_out * tokens;
	y = y > (uint64_t)p->rows * a->vocab_size ? y : (uint64_t)p->rows * a->vocab_size;
	p->x = ql_view(NULL, act, tokens, 0, 0);
	p->y = p->x;
	p->logits = ql_view(NULL, QL_F32, p->rows, 0, 0);
	if (rc == QL_OK)
		rc = fill_random(p, &p->x, widest_in * tokens, e);
	if (rc == QL_OK)
		rc = fill_random(p, &p->y, y, e);
	if (rc == QL_OK)
		rc = p->b->dev->ops->alloc(p->b->dev, QL_MEM_SCRATCH, (size_t)p->rows * a->vocab_size * 4, &p->logits.data, e);
	return rc;
}

int bench_products(struct bench *b, uint32_t tokens, double *seconds, struct ql_err *e)
{
	const struct ql_device_ops *op = b->dev->ops;
	struct products p = {.b = b};
	double layer = 0, head = 0;
	int rc = make_all(&p, tokens, e);

	if (rc == QL_OK)
		rc = time_of(b, layer_once, &p, p.q, &layer, e);
	if (rc == QL_OK)
		rc = time_of(b, head_once, &p, p.q, &head, e);
	*seconds = layer * b->arch.num_hidden_layers + head * tokens / (p.rows > 0 ? p.rows : 1);
	for (int g = 0; g < QL_GROUPS; g++)
		if (p.w[g] != NULL)
			op->weight_free(b->dev, p.w[g]);
	if (p.head != NULL)
		op->weight_free(b->dev, p.head);
	op->free(b->dev, p.x.data);
	op->free(b->dev, p.y.data);
	op->free(b->dev, p.logits.data);
	if (p.q != NULL)
		op->queue_free(b->dev, p.q);
	return rc;
}
