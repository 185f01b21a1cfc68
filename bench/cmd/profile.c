/* profile.c - where a pass's time goes: --profile puts a table of ops before the device's own that marks the queue before and after each
 * op of some passes with events, and adds up their distances by op and shape.
 *
 * A pass begins with `embed`.  Passes of decode (few rows) run without a graph, behind copies that keep the device busy until the host
 * has enqueued them, so that no op waits for its launch.  What lies between the end of one op and the mark after it (launch latency, about
 * a microsecond) counts as the op's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/cmd/bench.h"

#define ROWS_MAX 64
#define MARKS_MAX 40000
#define BUSY_BYTES ((size_t)256 << 20)
#define BUSY_COPIES 48 /* some 8 ms on an H100 */

struct row {
	char name[48];
	uint64_t calls;
	double seconds, flops, bytes;
};

struct mark {
	struct ql_event *from, *to;
	uint32_t row;
};

struct bench_profile {
	struct ql_device_ops ops; /* first: d->ops leads back here */
	const struct ql_device_ops *real;
	struct ql_device *dev;
	struct row rows[ROWS_MAX];
	uint32_t n_rows;
	struct mark *marks;
	uint32_t n_marks;
	struct ql_event *pass[2]; /* begin of the first recorded pass, and of the first after the last one */
	uint32_t rows_min, rows_max, skip, want, seen;
	bool on, done, decode;
	void *busy; /* two halves */
};

static struct bench_profile *of(struct ql_device *d) { return (struct bench_profile *)(uintptr_t)d->ops; }

static uint32_t row_of(struct bench_profile *p, const char *name)
{
	uint32_t i = 0;

	while (i < p->n_rows && strcmp(p->rows[i].name, name) != 0)
		i++;
	if (i == p->n_rows && i < ROWS_MAX)
		(void)snprintf(p->rows[p->n_rows++].name, sizeof p->rows[i].name, "%s", name);
	return i < ROWS_MAX ? i : ROWS_MAX - 1;
}

/* Marks the begin of an op; NULL while nothing is recorded. */
static struct mark *begin(struct ql_device *d, struct ql_queue *q, const char *name, double flops, double bytes)
{
	struct bench_profile *p = of(d);
	struct mark *m;
	struct row *r;

	if (!p->on || p->n_marks == MARKS_MAX)
		return NULL;
	m = &p->marks[p->n_marks];
	m->row = row_of(p, name);
	if (p->real->event_record(d, q, &m->from, NULL) != QL_OK)
		return NULL;
	p->n_marks++;
	r = &p->rows[m->row];
	r->calls++;
	r->flops += flops;
	r->bytes += bytes;
	return m;
}

static int end(struct ql_device *d, struct ql_queue *q, struct mark *m, int rc, struct ql_err *e)
{
	return m == NULL || rc != QL_OK ? rc : of(d)->real->event_record(d, q, &m->to, e);
}

#define MARKED(name, flops, bytes, call)                               \
	struct mark *mark = begin(d, q, (name), (flops), (bytes));     \
	int rc = of(d)->real->call;                                    \
	return end(d, q, mark, rc, e)

static double size(struct ql_tensor t) { return (double)t.rows * t.cols * ql_dtypes[t.dtype].bytes; }

/* ---- passes ------------------------------------------------------------------------------------------------------------- */

static int busy(struct bench_profile *p, struct ql_queue *q, struct ql_err *e)
{
	int rc = QL_OK;

	for (int i = 0; rc == QL_OK && p->busy != NULL && i < BUSY_COPIES; i++)
		rc = p->real->copy(p->dev, q, (char *)p->busy + BUSY_BYTES, p->busy, BUSY_BYTES, e);
	return rc;
}

static int on_embed(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const int32_t *ids, float scale, struct ql_tensor y,
		    struct ql_err *e)
{
	struct bench_profile *p = of(d);
	bool ours = y.rows >= p->rows_min && y.rows <= p->rows_max;
	int r = QL_OK;

	if (!p->done && (ours || p->on)) {
		bool was = p->on;

		p->seen += ours;
		p->on = ours && p->seen > p->skip;
		p->done = p->seen > p->skip + p->want;
		if (p->done || (was && !p->on)) {
			p->on = false;
			p->done = true;
		}
		if (p->on && p->decode)
			r = busy(p, q, e);
		if (r == QL_OK && p->on && p->pass[0] == NULL)
			r = p->real->event_record(d, q, &p->pass[0], e);
		if (r == QL_OK && p->done)
			r = p->real->event_record(d, q, &p->pass[1], e);
	}
	if (r != QL_OK)
		return r;
	MARKED("embed", 0, 2 * size(y), embed(d, q, w, ids, scale, y, e));
}

/* ---- the ops ------------------------------------------------------------------------------------------------------------ */

static int on_linear(struct ql_device *d, struct ql_queue *q, const struct ql_linear *a, struct ql_err *e)
{
	struct ql_tensor x = a->x;
	char name[48];
	bool product = a->y.data != NULL, few = x.rows <= 64;
	double n = product ? (double)a->y.cols * x.cols : 0;

	(void)snprintf(name, sizeof name, product ? "linear %ux%u" : "linear, adapters only", a->y.cols, x.cols);
	MARKED(name, few ? 0 : 2 * n * x.rows, few ? (double)of(d)->real->weight_bytes(a->w) : 0, linear(d, q, a, e));
}

static int on_linear_grad(struct ql_device *d, struct ql_queue *q, const struct ql_linear_grad *a, struct ql_err *e)
{
	char name[48];

	(void)snprintf(name, sizeof name, a->dx.data != NULL ? "linear_grad %ux%u" : "linear_grad %ux%u, adapters only", a->dy.cols, a->x.cols);
	MARKED(name, a->dx.data != NULL ? 2.0 * a->dy.cols * a->dx.cols * a->dy.rows : 0, 0, linear_grad(d, q, a, e));
}

static double pairs(const struct ql_attn *a)
{
	double n = 0;

	for (uint32_t s = 0; s < a->n_seqs; s++) {
		double len = a->cu_seqlens_host[s + 1] - a->cu_seqlens_host[s];

		n += len * (len + 1) / 2;
	}
	return n * a->n_head * a->head_dim;
}

static int on_attention(struct ql_device *d, struct ql_queue *q, const struct ql_attn *a, struct ql_err *e)
{
	MARKED("attention", 4 * pairs(a), 0, attention(d, q, a, e));
}

static int on_attention_grad(struct ql_device *d, struct ql_queue *q, const struct ql_attn_grad *a, struct ql_err *e)
{
	MARKED("attention_grad", 10 * pairs(&a->f), 0, attention_grad(d, q, a, e));
}

static int on_paged(struct ql_device *d, struct ql_queue *q, const struct ql_paged_attn *a, struct ql_err *e)
{
	MARKED("paged_attention", 0, 4.0 * a->n_seqs * a->kv_len_max * a->n_kv * a->head_dim, paged_attention(d, q, a, e));
}

static int on_xent(struct ql_device *d, struct ql_queue *q, const struct ql_xent *a, struct ql_err *e)
{
	double vocab = (double)of(d)->real->weight_bytes(a->head) / a->hidden.cols / 2; /* a bf16 head */

	MARKED("cross_entropy", (a->dhidden.data != NULL ? 4 : 2) * vocab * a->hidden.cols * a->n, 0, cross_entropy(d, q, a, e));
}

static int on_norm(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, float eps, struct ql_tensor add,
		   struct ql_tensor y, float *rstd, struct ql_err *e)
{
	MARKED("rmsnorm", 0, (add.data != NULL ? 3 : 2) * size(x), rmsnorm(d, q, x, w, group, eps, add, y, rstd, e));
}

static int on_norm_grad(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, const float *w, uint32_t group, const float *rstd,
			struct ql_tensor dy, struct ql_tensor add, struct ql_tensor dx, struct ql_err *e)
{
	MARKED("rmsnorm_grad", 0, (add.data != NULL ? 4 : 3) * size(x), rmsnorm_grad(d, q, x, w, group, rstd, dy, add, dx, e));
}

static int on_rope(struct ql_device *d, struct ql_queue *q, struct ql_tensor x, uint32_t n_head, uint32_t head_dim, const int32_t *positions,
		   const float *inv_freq, float sign, struct ql_err *e)
{
	MARKED(sign > 0 ? "rope" : "rope, backward", 0, 2 * size(x), rope(d, q, x, n_head, head_dim, positions, inv_freq, sign, e));
}

static int on_swiglu(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor gate, struct ql_tensor up, struct ql_tensor h,
		     struct ql_err *e)
{
	MARKED("swiglu", 0, 3 * size(h), swiglu(d, q, f, gate, up, h, e));
}

static int on_swiglu_grad(struct ql_device *d, struct ql_queue *q, enum ql_act f, struct ql_tensor dh, struct ql_tensor gate, struct ql_tensor up,
			  struct ql_tensor dgate, struct ql_tensor dup, struct ql_err *e)
{
	MARKED("swiglu_grad", 0, 5 * size(dh), swiglu_grad(d, q, f, dh, gate, up, dgate, dup, e));
}

static int on_kv_write(struct ql_device *d, struct ql_queue *q, struct ql_tensor k, struct ql_tensor v, const int32_t *slots,
		       struct ql_tensor k_cache, struct ql_tensor v_cache, struct ql_err *e)
{
	MARKED("kv_write", 0, 4 * size(k), kv_write(d, q, k, v, slots, k_cache, v_cache, e));
}

static int on_squares(struct ql_device *d, struct ql_queue *q, const float *g, uint64_t n, double *out, struct ql_err *e)
{
	MARKED("sum_squares", 0, 4.0 * (double)n, sum_squares(d, q, g, n, out, e));
}

static int on_adamw(struct ql_device *d, struct ql_queue *q, const struct ql_adamw *a, struct ql_err *e)
{
	double n = 0;

	for (uint32_t i = 0; i < a->n_groups; i++)
		n += (double)a->groups[i].count;
	MARKED("adamw", 0, 28 * n, adamw(d, q, a, e));
}

static int on_adam8(struct ql_device *d, struct ql_queue *q, const struct ql_adam8 *a, struct ql_err *e)
{
	double n = 0;

	for (uint32_t i = 0; i < a->n_groups; i++)
		n += (double)a->groups[i].n_blocks * QL_ADAM8_BLOCK;
	MARKED("adam8", 0, 16 * n, adam8(d, q, a, e));
}

static int on_argmax(struct ql_device *d, struct ql_queue *q, struct ql_tensor logits, int32_t *ids, struct ql_err *e)
{
	MARKED("argmax", 0, size(logits), argmax(d, q, logits, ids, e));
}

static int on_zero(struct ql_device *d, struct ql_queue *q, void *dst, size_t bytes, struct ql_err *e)
{
	MARKED("zero", 0, (double)bytes, zero(d, q, dst, bytes, e));
}

static int on_copy(struct ql_device *d, struct ql_queue *q, void *dst, const void *src, size_t bytes, struct ql_err *e)
{
	MARKED("copy", 0, 2 * (double)bytes, copy(d, q, dst, src, bytes, e));
}

/* ---- begin and end -------------------------------------------------------------------------------------------------------- */

int bench_profile_begin(struct bench_profile **out, struct bench *b, bool decode, uint32_t rows, uint32_t skip, uint32_t passes, struct ql_err *e)
{
	struct bench_profile *p = calloc(1, sizeof *p);

	*out = NULL;
	if (p == NULL || (p->marks = calloc(MARKS_MAX, sizeof *p->marks)) == NULL) {
		free(p);
		return ql_err_set(e, QL_ENOMEM, "profile");
	}
	p->real = b->dev->ops;
	p->dev = b->dev;
	p->ops = *p->real;
	p->rows_min = p->rows_max = rows;
	p->skip = skip;
	p->want = passes;
	p->decode = decode;
	p->ops.embed = on_embed;
	p->ops.linear = on_linear;
	p->ops.linear_grad = on_linear_grad;
	p->ops.attention = on_attention;
	p->ops.attention_grad = on_attention_grad;
	p->ops.paged_attention = on_paged;
	p->ops.cross_entropy = on_xent;
	p->ops.rmsnorm = on_norm;
	p->ops.rmsnorm_grad = on_norm_grad;
	p->ops.rope = on_rope;
	p->ops.swiglu = on_swiglu;
	p->ops.swiglu_grad = on_swiglu_grad;
	p->ops.kv_write = on_kv_write;
	p->ops.sum_squares = on_squares;
	p->ops.adamw = on_adamw;
	p->ops.adam8 = on_adam8;
	p->ops.argmax = on_argmax;
	p->ops.zero = on_zero;
	p->ops.copy = on_copy;
	if (decode) {
		p->ops.graph_begin = NULL;
		if (b->dev->act != QL_F32 && p->real->alloc(b->dev, QL_MEM_SCRATCH, 2 * BUSY_BYTES, &p->busy, e) != QL_OK)
			p->busy = NULL; /* ops then wait for their launch now and then */
	}
	b->dev->ops = &p->ops;
	*out = p;
	return QL_OK;
}

static int by_seconds(const void *a, const void *b)
{
	double x = ((const struct row *)a)->seconds, y = ((const struct row *)b)->seconds;

	return x > y ? -1 : x < y;
}

static void report(struct bench_profile *p, json_t *o)
{
	uint32_t passes = p->seen > p->skip ? p->seen - p->skip - p->done : 0;
	json_t *list = json_array();
	double all = 0, pass = 0;

	for (uint32_t i = 0; i < p->n_marks; i++) {
		double s = 0;

		if (p->marks[i].to != NULL && p->real->event_seconds(p->dev, p->marks[i].from, p->marks[i].to, &s, NULL) == QL_OK)
			p->rows[p->marks[i].row].seconds += s;
	}
	qsort(p->rows, p->n_rows, sizeof p->rows[0], by_seconds);
	for (uint32_t i = 0; i < p->n_rows; i++)
		all += p->rows[i].seconds;
	passes = passes > 0 ? passes : 1;
	(void)json_object_set_new(o, "passes", json_integer(passes));
	if (p->pass[1] != NULL && !p->decode && p->real->event_seconds(p->dev, p->pass[0], p->pass[1], &pass, NULL) == QL_OK)
		bench_put(o, "pass_s", pass / passes);
	bench_put(o, "ops_s", all / passes);
	for (uint32_t i = 0; i < p->n_rows; i++) {
		const struct row *r = &p->rows[i];
		json_t *v = json_object();

		(void)json_object_set_new(v, "op", json_string(r->name));
		bench_put(v, "calls", (double)r->calls / passes);
		bench_put(v, "us", 1e6 * r->seconds / passes);
		bench_put(v, "share", r->seconds / all);
		if (r->flops > 0)
			bench_put(v, "tflops", r->flops / r->seconds * 1e-12);
		if (r->bytes > 0)
			bench_put(v, "tb_per_s", r->bytes / r->seconds * 1e-12);
		(void)json_array_append_new(list, v);
	}
	(void)json_object_set_new(o, "ops", list);
}

void bench_profile_end(struct bench_profile *p, json_t *o)
{
	if (p == NULL)
		return;
	p->dev->ops = p->real;
	report(p, o);
	for (uint32_t i = 0; i < p->n_marks; i++) {
		p->real->event_free(p->dev, p->marks[i].from);
		p->real->event_free(p->dev, p->marks[i].to);
	}
	for (int i = 0; i < 2; i++)
		if (p->pass[i] != NULL)
			p->real->event_free(p->dev, p->pass[i]);
	p->real->free(p->dev, p->busy);
	free(p->marks);
	free(p);
}
