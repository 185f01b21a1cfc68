/* The same bits from 1, 2 and 8 threads (CPU), and from one run to the next (every device), for each op that sums. */
#include "tests/unit/device/ref_linear.h"

#define N_OUT 17
struct out {
	float *linear, *dx, *da, *db;
	struct {
		float *o, *dq, *dk, *dv, *paged;
	} attn[2]; /* without and with a window */
	float *nll, *dh, *norm;
	double squares;
	size_t n[N_OUT];
};

static float *kept(const float *x, size_t n)
{
	float *c = malloc(n * 4);

	assert_non_null(c);
	return memcpy(c, x, n * 4);
}

static void linears(struct out *r)
{
	uint32_t T = 530, in = 192, out[3] = {96, 48, 48}, ranks[3] = {16, 8, 8}, N = 192;
	double *dense;
	struct ql_weight *w = dt_weight(DT_NF4, in, 3, out, &dense);
	float *x = dt_randn((size_t)T * in, 1), *dy = dt_randn((size_t)T * N, 1);
	struct ref_linear l = {T, in, 3, {96, 48, 48}, N, dense, NULL, 0};
	struct ref_seg segs[2] = {{.begin = 0, .end = 300}, {.begin = 310, .end = 530}};
	struct ql_linear f = {.w = w, .x = dt_put(x, T, in, dt_ld(in, 32)), .y = dt_out(T, N, N)};
	struct ql_linear_grad g = {.w = w, .dy = dt_put(dy, T, N, dt_ld(N, 32)), .x = f.x, .dx = dt_out(T, in, in)};

	ref_segs(&l, segs, 2, ranks, 0.1f);
	f.segs = g.segs = ref_upload(&l, true, 0);
	f.n_segs = g.n_segs = 2;
	OK(OPS->linear(dev, queue, &f, &err));
	OK(OPS->linear_grad(dev, queue, &g, &err));
	r->linear = kept(dt_get(f.y), r->n[0] = (size_t)T * N);
	r->dx = kept(dt_get(g.dx), r->n[1] = (size_t)T * in);
	r->n[2] = (size_t)16 * in;
	r->n[3] = (size_t)96 * 16;
	r->da = malloc(r->n[2] * 4);
	r->db = malloc(r->n[3] * 4);
	dt_down(r->da, g.segs[0].part[0].da, r->n[2] * 4);
	dt_down(r->db, g.segs[0].part[0].db, r->n[3] * 4);
}

static void attentions(struct out *r, uint32_t window, int at)
{
	uint32_t H = 6, kv = 2, hd = 64, nq = H * hd, nk = kv * hd, T = 300, block = 16;
	int32_t cu[3] = {0, 70, 300}, q_begin[4] = {0, 1, 2, 72}, kv_len[3] = {250, 9, 70}, table[3 * 16];
	struct ql_attn a = {.q = dt_put(dt_randn((size_t)T * nq, 1), T, nq, nq), .k = dt_put(dt_randn((size_t)T * nk, 1), T, nk, nk),
			    .v = dt_put(dt_randn((size_t)T * nk, 1), T, nk, nk), .o = dt_out(T, nq, nq), .lse = dt_nan_f32((size_t)H * T),
			    .n_head = H, .n_kv = kv, .head_dim = hd, .window = window, .n_seqs = 2, .cu_seqlens = dt_up(cu, 12), .cu_seqlens_host = cu,
			    .scale = 0.125f};
	struct ql_attn_grad g;
	struct ql_paged_attn p = {.n_head = H, .n_kv = kv, .head_dim = hd, .block_tokens = block, .n_seqs = 3, .max_blocks = 16,
				  .window = window, .q_len_max = 70, .kv_len_max = 250, .scale = 0.125f, .q_begin = dt_up(q_begin, 16), .kv_len = dt_up(kv_len, 12)};

	OK(OPS->attention(dev, queue, &a, &err));
	g = (struct ql_attn_grad){.f = a, .d_o = dt_put(dt_randn((size_t)T * nq, 1), T, nq, nq), .dq = dt_out(T, nq, nq),
				  .dk = dt_out(T, nk, nk), .dv = dt_out(T, nk, nk)};
	OK(OPS->attention_grad(dev, queue, &g, &err));
	r->attn[at].o = kept(dt_get(a.o), r->n[4 + 5 * at] = (size_t)T * nq);
	r->attn[at].dq = kept(dt_get(g.dq), r->n[5 + 5 * at] = (size_t)T * nq);
	r->attn[at].dk = kept(dt_get(g.dk), r->n[6 + 5 * at] = (size_t)T * nk);
	r->attn[at].dv = kept(dt_get(g.dv), r->n[7 + 5 * at] = (size_t)T * nk);
	for (int i = 0; i < 48; i++)
		table[i] = i % 18;
	p.block_table = dt_up(table, sizeof table);
	p.q = dt_put(dt_randn((size_t)72 * nq, 1), 72, nq, nq);
	p.o = dt_out(72, nq, nq);
	p.k_cache = a.k;
	p.v_cache = a.v;
	p.k_cache.rows = p.v_cache.rows = 288;
	OK(OPS->paged_attention(dev, queue, &p, &err));
	r->attn[at].paged = kept(dt_get(p.o), r->n[8 + 5 * at] = (size_t)72 * nq);
}

static void others(struct out *r)
{
	uint32_t T = 200, d = 64, vocab = 3000;
	double *dense;
	struct ql_weight *head = dt_weight(DT_Q8_0, d, 1, &vocab, &dense);
	int32_t rows[200], labels[200];
	float *g = dt_randn(200000, 1);
	struct ql_xent x = {.head = head, .hidden = dt_put(dt_randn((size_t)T * d, 1), T, d, d), .n = T, .grad_scale = 1.0f / 200,
			    .nll = dt_nan_f32(T), .dhidden = dt_out(T, d, d)};
	struct ql_tensor y = dt_out(T, d, d);

	for (uint32_t t = 0; t < T; t++) {
		rows[t] = (int32_t)t;
		labels[t] = (int32_t)dt_below(vocab);
	}
	x.rows = dt_up(rows, sizeof rows);
	x.labels = dt_up(labels, sizeof labels);
	OK(OPS->cross_entropy(dev, queue, &x, &err));
	r->nll = malloc(T * 4);
	r->n[14] = T;
	dt_down(r->nll, x.nll, T * 4);
	r->dh = kept(dt_get(x.dhidden), r->n[15] = (size_t)T * d);
	OK(OPS->rmsnorm(dev, queue, x.hidden, dt_up(g, d * 4), 0, 1e-5f, dt_none(), y, NULL, &err));
	r->norm = kept(dt_get(y), r->n[16] = (size_t)T * d);
	OK(OPS->sum_squares(dev, queue, dt_up(g, 800000), 200000, &r->squares, &err));
	OK(OPS->sync(dev, queue, &err));
}

static struct out all(void)
{
	struct out r = {0};

	dt_seed(11);
	linears(&r);
	attentions(&r, 0, 0);
	attentions(&r, 100, 1);
	others(&r);
	dt_each(NULL);
	return r;
}

static void same(const struct out *a, const struct out *b)
{
	float *const *x = (float *const *)a, *const *y = (float *const *)b;
	static const char *const names[] = {"linear", "dx", "da", "db", "o", "dq", "dk", "dv", "paged", "o (window)",
						   "dq (window)", "dk (window)", "dv (window)", "paged (window)", "nll", "dhidden", "norm"};

	for (int i = 0; i < N_OUT; i++)
		if (memcmp(x[i], y[i], a->n[i] * 4) != 0)
			fail_msg("%s differs", names[i]);
	assert_true(a->squares == b->squares);
}

static void give_back(struct out *r)
{
	float **x = (float **)r;

	for (int i = 0; i < N_OUT; i++)
		free(x[i]);
}

static void test_runs(void **state)
{
	struct out a = all(), b = all();

	(void)state;
	same(&a, &b);
	give_back(&a);
	give_back(&b);
}

static void test_threads(void **state)
{
	static const int n[] = {1, 8, 3};
	struct out a = all();
	struct ql_device *first = dev;
	struct ql_queue *first_queue = queue;

	(void)state;
	for (int i = 0; dt_is_cpu() && i < 3; i++) {
		struct out b;

		dev = dt_open_threads(n[i]);
		OK(OPS->queue_new(dev, &queue, &err));
		b = all();
		same(&a, &b);
		give_back(&b);
		OPS->queue_free(dev, queue);
		OPS->close(dev);
		dev = first;
		queue = first_queue;
	}
	give_back(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_runs, dt_each),
		cmocka_unit_test_teardown(test_threads, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
