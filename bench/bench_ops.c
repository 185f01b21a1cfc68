/* bench_ops.c - time of every CPU op at the shapes of a small Llama (SmolLM2-135M by default), beside what the machine can do
 * in the same run: OpenBLAS sgemm (its own threads) and memcpy.
 *
 *	bench_ops [--threads N] [--tokens T] [--hidden D --ff F --heads H --kv K --head-dim C --layers L --vocab V]
 *
 * Each figure is the best of several calls.  "of sgemm" compares an op's floating-point operations (adapters included)
 * with the sgemm rate; "of copy" its compulsory bytes with the memcpy rate (read + write).  The last lines add the ops up
 * to a training step (forward, loss, backward; every linear with an adapter of rank 16) and to one decoded token. */
#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/device/device.h"

void openblas_set_num_threads(int n);

struct model {
	uint32_t d, ff, heads, kv, hd, layers, vocab;
};

static struct ql_device *dev;
static struct ql_err err;
static double gemm_rate, copy_rate; /* GFLOP/s, GB/s */
static double seconds_per_case = 0.4;

static double now(void)
{
	struct timespec t;

	(void)clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what)
{
	(void)fprintf(stderr, "%s: %s\n", what, err.message);
	exit(1);
}

static void check(int rc, const char *what)
{
	if (rc != QL_OK)
		die(what);
}

/* best time of repeated calls */
#define BEST(seconds, call)                                                                                            \
	do {                                                                                                           \
		double end_ = now() + seconds_per_case;                                                                \
		(seconds) = 1e9;                                                                                       \
		do {                                                                                                   \
			double t_ = now();                                                                             \
			call;                                                                                          \
			t_ = now() - t_;                                                                               \
			(seconds) = t_ < (seconds) ? t_ : (seconds);                                                   \
		} while (now() < end_);                                                                                \
	} while (0)

static double report(const char *name, double seconds, double flops, double bytes)
{
	printf("%-34s %9.1f us", name, seconds * 1e6);
	if (flops > 0)
		printf("  %7.1f GFLOP/s (%4.2f of sgemm)", flops / seconds * 1e-9, flops / seconds * 1e-9 / gemm_rate);
	if (bytes > 0)
		printf("  %6.1f GB/s (%4.2f of copy)", bytes / seconds * 1e-9, bytes / seconds * 1e-9 / copy_rate);
	printf("\n");
	(void)fflush(stdout);
	return seconds;
}

static void *room(size_t bytes)
{
	void *p;

	check(dev->ops->alloc(dev, QL_MEM_ACTIVATION, bytes, &p, &err), "alloc");
	return p;
}

static float *floats(size_t n, float scale)
{
	float *x = room(n * 4);

	for (size_t i = 0; i < n; i++)
		x[i] = scale * ((float)((i * 2654435761u >> 8) & 0xffff) / 32768.0f - 1.0f);
	return x;
}

static struct ql_tensor tensor(uint32_t rows, uint32_t cols, size_t ext)
{
	size_t ld = (cols + ext + dev->ext_align - 1) / dev->ext_align * dev->ext_align;

	return (struct ql_tensor){floats(rows * ld, 1.0f), QL_F32, rows, cols, ld};
}

static void drop(struct ql_tensor t) { dev->ops->free(dev, t.data); }

static struct ql_weight *weight(enum ql_dtype kind, uint32_t in, uint32_t n, uint32_t a, uint32_t b, uint32_t c)
{
	struct ql_weight_shape s = {.in = in, .n_parts = n, .out = {a, b, c}};
	size_t count = (size_t)in * (a + b + c);
	float *x = floats(count, 0.05f);
	const void *parts[3] = {x, x, x};
	struct ql_weight *w;
	unsigned char *q;

	if (kind == QL_Q8_0) {
		q = room(count / 32 * 34);
		for (size_t i = 0; i < count / 32 * 34; i++)
			q[i] = (unsigned char)(i % 34 == 0 ? 0 : i % 34 == 1 ? 0x10 : i * 37);
		parts[0] = q;
		check(dev->ops->weight_from_dense(dev, &s, QL_Q8_0, parts, &w, &err), "weight");
		dev->ops->free(dev, q);
	} else {
		check(dev->ops->weight_quantize(dev, &s, QL_F32, parts, kind, &w, &err), "weight");
	}
	dev->ops->free(dev, x);
	return w;
}

static void ceilings(int threads)
{
	const int n = 1024;
	size_t bytes = (size_t)256 << 20;
	float *a = floats((size_t)n * n, 1), *b = floats((size_t)n * n, 1), *c = floats((size_t)n * n, 1);
	char *from = room(bytes), *to = room(bytes);
	double t;

	memset(from, 1, bytes);
	memset(to, 2, bytes);
	openblas_set_num_threads(threads);
	BEST(t, cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, n, n, n, 1.0f, a, n, b, n, 0.0f, c, n));
	gemm_rate = 2.0 * n * n * n / t * 1e-9;
	openblas_set_num_threads(1);
	BEST(t, memcpy(to, from, bytes));
	copy_rate = 2.0 * (double)bytes / t * 1e-9;
	printf("sgemm %d^3 (OpenBLAS, %d threads)  %.1f GFLOP/s\nmemcpy (1 thread)  %.1f GB/s read + written\n", n, threads,
	       gemm_rate, copy_rate);
	dev->ops->free(dev, a);
	dev->ops->free(dev, b);
	dev->ops->free(dev, c);
	dev->ops->free(dev, from);
	dev->ops->free(dev, to);
}

static struct ql_lora lora(uint32_t in, uint32_t out)
{
	return (struct ql_lora){floats((size_t)16 * in, 0.1f), floats((size_t)16 * out, 0.1f), floats((size_t)16 * in, 0),
				floats((size_t)16 * out, 0), 16, 2.0f};
}

struct linear_case {
	const char *name;
	uint32_t in, n, out[3];
};

/* forward and backward of one linear with adapters over all rows; returns the seconds of both */
static double train_linear(const struct linear_case *c, uint32_t T)
{
	uint32_t N = c->out[0] + c->out[1] + c->out[2], R = 16 * c->n;
	struct ql_weight *w = weight(QL_NF4, c->in, c->n, c->out[0], c->out[1], c->out[2]);
	struct ql_tensor x = tensor(T, c->in, R), y = tensor(T, N, R), dx = tensor(T, c->in, R);
	struct ql_lora_seg seg = {.row_begin = 0, .row_end = T};
	struct ql_linear f = {.w = w, .x = x, .y = y};
	struct ql_linear_grad g = {.w = w, .dy = y, .x = x, .dx = dx, .segs = &seg, .n_segs = 1};
	double base = 2.0 * T * c->in * N, ext = 0, t, sum;
	char name[64];

	for (uint32_t p = 0; p < c->n; p++) {
		seg.part[p] = lora(c->in, c->out[p]);
		ext += 2.0 * T * 16 * (c->in + c->out[p]);
	}
	(void)snprintf(name, sizeof name, "%s forward, base only", c->name);
	BEST(t, check(dev->ops->linear(dev, NULL, &f, &err), "linear"));
	(void)report(name, t, base, 0);
	f.segs = &seg;
	f.n_segs = 1;
	(void)snprintf(name, sizeof name, "%s forward r16", c->name);
	BEST(t, check(dev->ops->linear(dev, NULL, &f, &err), "linear"));
	sum = report(name, t, base + ext, 0);
	(void)snprintf(name, sizeof name, "%s backward r16", c->name);
	BEST(t, check(dev->ops->linear_grad(dev, NULL, &g, &err), "linear_grad"));
	sum += report(name, t, base + 2 * ext, 0);
	for (uint32_t p = 0; p < c->n; p++) {
		dev->ops->free(dev, (void *)(uintptr_t)seg.part[p].a);
		dev->ops->free(dev, (void *)(uintptr_t)seg.part[p].b);
		dev->ops->free(dev, seg.part[p].da);
		dev->ops->free(dev, seg.part[p].db);
	}
	drop(x);
	drop(y);
	drop(dx);
	dev->ops->weight_free(dev, w);
	return sum;
}

static double train_attention(const struct model *m, uint32_t T, uint32_t len)
{
	uint32_t nq = m->heads * m->hd, nk = m->kv * m->hd, n = T / len;
	int32_t *cu = room((n + 1) * 4);
	struct ql_attn a = {.q = tensor(T, nq, 0), .k = tensor(T, nk, 0), .v = tensor(T, nk, 0), .o = tensor(T, nq, 0),
			    .lse = floats((size_t)m->heads * T, 1), .n_head = m->heads, .n_kv = m->kv, .head_dim = m->hd, .n_seqs = n,
			    .cu_seqlens = cu, .cu_seqlens_host = cu, .scale = (float)(1.0 / sqrt(m->hd))};
	struct ql_attn_grad g;
	double t, sum, flops = 4.0 * T * (len / 2.0) * nq;
	char name[64];

	for (uint32_t i = 0; i <= n; i++)
		cu[i] = (int32_t)(i * len);
	(void)snprintf(name, sizeof name, "attention %u x %u forward", n, len);
	BEST(t, check(dev->ops->attention(dev, NULL, &a, &err), "attention"));
	sum = report(name, t, flops, 0);
	g = (struct ql_attn_grad){.f = a, .d_o = tensor(T, nq, 0), .dq = tensor(T, nq, 0), .dk = tensor(T, nk, 0), .dv = tensor(T, nk, 0)};
	(void)snprintf(name, sizeof name, "attention %u x %u backward", n, len);
	BEST(t, check(dev->ops->attention_grad(dev, NULL, &g, &err), "attention_grad"));
	sum += report(name, t, 2.5 * flops, 0);
	drop(a.q), drop(a.k), drop(a.v), drop(a.o), drop(g.d_o), drop(g.dq), drop(g.dk), drop(g.dv);
	dev->ops->free(dev, a.lse);
	dev->ops->free(dev, cu);
	return sum;
}

/* rmsnorm, rope and swiglu of a layer, forward and backward */
static double train_rest(const struct model *m, uint32_t T)
{
	struct ql_tensor x = tensor(T, m->d, 0), y = tensor(T, m->d, 0), gate = tensor(T, 2 * m->ff, 0), h = tensor(T, m->ff, 0);
	struct ql_tensor up, qk = tensor(T, (m->heads + m->kv) * m->hd, 0);
	float *w = floats(m->d, 1), *rstd = floats(T, 1), *inv = floats(m->hd / 2, 1);
	int32_t *pos = room(T * 4);
	double t, sum = 0, by = 4.0 * T;

	for (uint32_t i = 0; i < T; i++)
		pos[i] = (int32_t)(i % 2048);
	gate.cols = m->ff;
	up = gate;
	up.data = (float *)gate.data + m->ff;
	BEST(t, check(dev->ops->rmsnorm(dev, NULL, x, w, 0, 1e-5f, (struct ql_tensor){0}, y, rstd, &err), "rmsnorm"));
	sum += 2 * report("rmsnorm", t, 0, by * 2 * m->d);
	BEST(t, check(dev->ops->rmsnorm_grad(dev, NULL, x, w, 0, rstd, y, x, y, &err), "rmsnorm_grad"));
	sum += 2 * report("rmsnorm_grad", t, 0, by * 4 * m->d);
	BEST(t, check(dev->ops->rope(dev, NULL, qk, m->heads + m->kv, m->hd, pos, inv, 1, &err), "rope"));
	sum += 2 * report("rope", t, 0, by * 2 * (m->heads + m->kv) * m->hd);
	BEST(t, check(dev->ops->swiglu(dev, NULL, QL_ACT_SILU, gate, up, h, &err), "swiglu"));
	sum += report("swiglu", t, 0, by * 3 * m->ff);
	BEST(t, check(dev->ops->swiglu_grad(dev, NULL, QL_ACT_SILU, h, gate, up, gate, up, &err), "swiglu_grad"));
	sum += report("swiglu_grad", t, 0, by * 5 * m->ff);
	drop(x), drop(y), drop(gate), drop(h), drop(qk);
	dev->ops->free(dev, w), dev->ops->free(dev, rstd), dev->ops->free(dev, inv), dev->ops->free(dev, pos);
	return sum;
}

static double train_loss(const struct model *m, uint32_t T, struct ql_weight *head)
{
	struct ql_xent x = {.head = head, .hidden = tensor(T, m->d, 0), .n = T, .grad_scale = 1.0f / (float)T,
			    .nll = floats(T, 0), .dhidden = tensor(T, m->d, 0)};
	int32_t *rows = room(T * 4), *labels = room(T * 4);
	double t;

	for (uint32_t i = 0; i < T; i++) {
		rows[i] = (int32_t)i;
		labels[i] = (int32_t)(i * 7919u % m->vocab);
	}
	x.rows = rows;
	x.labels = labels;
	BEST(t, check(dev->ops->cross_entropy(dev, NULL, &x, &err), "cross_entropy"));
	(void)report("head + cross-entropy + gradient", t, 4.0 * T * m->d * m->vocab, 0);
	drop(x.hidden), drop(x.dhidden);
	dev->ops->free(dev, x.nll), dev->ops->free(dev, rows), dev->ops->free(dev, labels);
	return t;
}

static double decode_linear(const char *name, struct ql_weight *w, uint32_t in, uint32_t out, uint32_t rows, double w_bytes)
{
	struct ql_linear f = {.w = w, .x = tensor(rows, in, 0), .y = tensor(rows, out, 0)};
	double t;
	char label[64];

	(void)snprintf(label, sizeof label, "%s, %u row%s", name, rows, rows > 1 ? "s" : "");
	BEST(t, check(dev->ops->linear(dev, NULL, &f, &err), "linear"));
	drop(f.x), drop(f.y);
	return report(label, t, 0, w_bytes);
}

static double decode_attention(const struct model *m, uint32_t kv_len)
{
	uint32_t nq = m->heads * m->hd, nk = m->kv * m->hd, blocks = (kv_len + 15) / 16;
	int32_t *meta = room((blocks + 3) * 4);
	struct ql_paged_attn a = {.q = tensor(1, nq, 0), .o = tensor(1, nq, 0), .k_cache = tensor(blocks * 16, nk, 0),
				  .v_cache = tensor(blocks * 16, nk, 0), .n_head = m->heads, .n_kv = m->kv, .head_dim = m->hd, .block_tokens = 16,
				  .n_seqs = 1, .max_blocks = blocks, .q_begin = meta, .kv_len = meta + 2, .block_table = meta + 3,
				  .q_len_max = 1, .kv_len_max = kv_len, .scale = (float)(1.0 / sqrt(m->hd))};
	double t;
	char name[64];

	meta[0] = 0;
	meta[1] = 1;
	meta[2] = (int32_t)kv_len;
	for (uint32_t i = 0; i < blocks; i++)
		meta[3 + i] = (int32_t)i;
	(void)snprintf(name, sizeof name, "paged attention, 1 row, %u cached", kv_len);
	BEST(t, check(dev->ops->paged_attention(dev, NULL, &a, &err), "paged"));
	(void)report(name, t, 0, 8.0 * kv_len * nk);
	drop(a.q), drop(a.o), drop(a.k_cache), drop(a.v_cache);
	dev->ops->free(dev, meta);
	return t;
}

static double small_ops(const struct model *m)
{
	struct ql_tensor x = tensor(1, m->d, 0), gate = tensor(1, m->ff, 0), qk = tensor(1, (m->heads + m->kv) * m->hd, 0);
	float *w = floats(m->d, 1), *inv = floats(m->hd / 2, 1);
	int32_t pos[1] = {100};
	double t;

	BEST(t, {
		check(dev->ops->rmsnorm(dev, NULL, x, w, 0, 1e-5f, (struct ql_tensor){0}, x, NULL, &err), "rmsnorm");
		check(dev->ops->rmsnorm(dev, NULL, x, w, 0, 1e-5f, (struct ql_tensor){0}, x, NULL, &err), "rmsnorm");
		check(dev->ops->rope(dev, NULL, qk, m->heads + m->kv, m->hd, pos, inv, 1, &err), "rope");
		check(dev->ops->swiglu(dev, NULL, QL_ACT_SILU, gate, gate, gate, &err), "swiglu");
	});
	(void)report("norms, rope, swiglu, 1 row", t, 0, 0);
	drop(x), drop(gate), drop(qk);
	dev->ops->free(dev, w), dev->ops->free(dev, inv);
	return t;
}

static void optimiser(void)
{
	uint64_t n = 4884480; /* r 16 on all linears of SmolLM2-135M */
	struct ql_adamw_group g = {0, n, 1e-4, 0.0};
	struct ql_adamw a = {.p = floats(n, 1), .m = floats(n, 0), .v = floats(n, 0), .g = floats(n, 0.1f), .groups = &g, .n_groups = 1,
			     .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .t = 3, .grad_scale = 1.0f};
	double t, sum;

	BEST(t, check(dev->ops->adamw(dev, NULL, &a, &err), "adamw"));
	(void)report("adamw, 4.9 M parameters", t, 0, 28.0 * (double)n);
	BEST(t, check(dev->ops->sum_squares(dev, NULL, a.g, n, &sum, &err), "sum_squares"));
	(void)report("sum of squares", t, 0, 4.0 * (double)n);
	dev->ops->free(dev, a.p), dev->ops->free(dev, a.m), dev->ops->free(dev, a.v), dev->ops->free(dev, (void *)(uintptr_t)a.g);
}

static void decode(const struct model *m, const struct linear_case *c, struct ql_weight *head)
{
	double token[3] = {0}, extra;
	static const uint32_t rows[3] = {1, 4, 16};

	for (int i = 0; i < 4; i++) {
		uint32_t out = c[i].out[0] + c[i].out[1] + c[i].out[2];
		struct ql_weight *w = weight(QL_NF4, c[i].in, c[i].n, c[i].out[0], c[i].out[1], c[i].out[2]);

		for (int r = 0; r < 3; r++)
			token[r] += m->layers * decode_linear(c[i].name, w, c[i].in, out, rows[r], 4.5 / 8 * c[i].in * out);
		dev->ops->weight_free(dev, w);
	}
	for (int r = 0; r < 3; r++)
		token[r] += decode_linear("head q8_0", head, m->d, m->vocab, rows[r], 9.0 / 8 * m->d * m->vocab);
	extra = m->layers * (small_ops(m) + decode_attention(m, 512));
	printf("one token (linears of one layer stay in the cache here): %.2f ms -> %.0f tok/s; batch of 4: %.0f tok/s\n",
	       (token[0] + extra) * 1e3, 1 / (token[0] + extra), 4 / (token[1] + 4 * extra));
}

static uint32_t number(const char *s)
{
	char *end;
	unsigned long v = strtoul(s, &end, 10);

	if (*end != '\0' || v == 0 || v > 1u << 30) {
		(void)fprintf(stderr, "bench_ops: \"%s\" is not a number\n", s);
		exit(2);
	}
	return (uint32_t)v;
}

int main(int argc, char **argv)
{
	struct model m = {576, 1536, 9, 3, 64, 30, 49152};
	uint32_t T = 2048, threads = 0;
	struct { const char *name; uint32_t *to; } opts[] = {
		{"--threads", &threads}, {"--tokens", &T},  {"--hidden", &m.d},	  {"--ff", &m.ff},	 {"--heads", &m.heads},
		{"--kv", &m.kv},	 {"--head-dim", &m.hd}, {"--layers", &m.layers}, {"--vocab", &m.vocab}};
	double layer = 0, step;

	for (int i = 1; i < argc; i += 2) {
		size_t o = 0;

		while (o < sizeof opts / sizeof *opts && strcmp(argv[i], opts[o].name) != 0)
			o++;
		if (o == sizeof opts / sizeof *opts || i + 1 == argc) {
			(void)fprintf(stderr, "usage: bench_ops [--threads N] [--tokens T] [--hidden D --ff F --heads H --kv K --head-dim C "
					      "--layers L --vocab V]\n");
			return 2;
		}
		*opts[o].to = number(argv[i + 1]);
	}
	check(ql_device_cpu(&dev, (int)threads, &err), "device");
	printf("%s\n", dev->description);
	ceilings(atoi(dev->description + 5));
	struct linear_case c[4] = {{"q|k|v", m.d, 3, {m.heads * m.hd, m.kv * m.hd, m.kv * m.hd}},
				   {"o", m.heads * m.hd, 1, {m.d, 0, 0}},
				   {"gate|up", m.d, 2, {m.ff, m.ff, 0}},
				   {"down", m.ff, 1, {m.d, 0, 0}}};
	struct ql_weight *head = weight(QL_Q8_0, m.d, 1, m.vocab, 0, 0);

	for (int i = 0; i < 4; i++)
		layer += train_linear(&c[i], T);
	layer += train_attention(&m, T, T < 512 ? T : 512);
	(void)train_attention(&m, T, T);
	layer += train_rest(&m, T);
	step = m.layers * layer + train_loss(&m, T, head);
	optimiser();
	printf("training step of %u tokens: %.2f s -> %.0f tok/s\n", T, step, T / step);
	decode(&m, c, head);
	dev->ops->weight_free(dev, head);
	dev->ops->close(dev);
	return 0;
}
