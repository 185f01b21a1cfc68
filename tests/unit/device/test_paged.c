/* Paged attention: decoding, chunked prefill, both in one call, windows, shuffled blocks. */
#include "tests/unit/device/devtest.h"

struct seq {
	uint32_t q, kv; /* new tokens, cached tokens with them */
};

struct shape {
	uint32_t n_head, n_kv, hd, block, window, n;
	struct seq s[4];
	double cap; /* soft cap, 0 = none */
};

static const struct shape shapes[] = {
	{9, 3, 64, 16, 0, 1, {{1, 1}}, 0},
	{9, 3, 64, 16, 0, 4, {{1, 17}, {1, 300}, {1, 64}, {1, 1025}}, 0},
	{8, 2, 128, 32, 0, 3, {{1, 5}, {33, 40}, {100, 100}}, 0},
	{4, 4, 64, 64, 20, 3, {{1, 300}, {3, 30}, {70, 200}}, 0},
	{2, 1, 80, 1, 0, 2, {{2, 9}, {6, 6}}, 0},
	{6, 2, 32, 7, 1, 2, {{1, 20}, {9, 20}}, 0},
	{3, 1, 24, 16, 300, 2, {{1, 700}, {0, 3}}, 0},
	{4, 2, 64, 16, 0, 3, {{1, 300}, {2, 19}, {40, 90}}, 1.25},
	{8, 2, 128, 16, 30, 2, {{1, 200}, {20, 70}}, 3},
	{2, 1, 256, 16, 25, 2, {{1, 90}, {9, 60}}, 2},
};

static void run(const struct shape *s)
{
	uint32_t T = 0, blocks = 0, max_blocks = 0, next = 0, nq = s->n_head * s->hd, nk = s->n_kv * s->hd, q_max = 0, kv_max = 0;
	int32_t q_begin[5] = {0}, kv_len[4], *table, *perm;
	float *q, *k, *v;
	double *want, *p;

	for (uint32_t i = 0; i < s->n; i++) {
		uint32_t b = (s->s[i].kv + s->block - 1) / s->block;

		T += s->s[i].q;
		q_begin[i + 1] = (int32_t)T;
		kv_len[i] = (int32_t)s->s[i].kv;
		blocks += b;
		max_blocks = b > max_blocks ? b : max_blocks;
		q_max = s->s[i].q > q_max ? s->s[i].q : q_max;
		kv_max = s->s[i].kv > kv_max ? s->s[i].kv : kv_max;
	}
	max_blocks += 2;
	blocks += 3;
	perm = dt_host(blocks * 4);
	for (uint32_t i = 0; i < blocks; i++) {
		uint32_t j = dt_below(i + 1);

		perm[i] = perm[j];
		perm[j] = (int32_t)i;
	}
	table = dt_host((size_t)s->n * max_blocks * 4);
	for (uint32_t i = 0; i < s->n; i++)
		for (uint32_t b = 0; b < max_blocks; b++)
			table[i * max_blocks + b] = b * s->block < s->s[i].kv ? perm[next++] : -1;
	q = dt_randn((size_t)T * nq, 1);
	k = dt_randn((size_t)blocks * s->block * nk, 1);
	v = dt_randn((size_t)blocks * s->block * nk, 1);
	want = dt_host((size_t)T * nq * 8);
	p = dt_host((kv_max + 1) * 8);
	for (uint32_t i = 0; i < s->n; i++)
		for (uint32_t j = 0; j < s->s[i].q; j++)
			for (uint32_t h = 0; h < s->n_head; h++) {
				uint32_t pos = s->s[i].kv - s->s[i].q + j, kv = h / (s->n_head / s->n_kv) * s->hd;
				size_t row = (size_t)q_begin[i] + j;
				double top = -INFINITY, sum = 0;

				for (uint32_t t = 0; t <= pos; t++) {
					size_t at = ((size_t)table[i * max_blocks + t / s->block] * s->block + t % s->block) * nk + kv;

					p[t] = 0;
					for (uint32_t c = 0; c < s->hd; c++)
						p[t] += (double)q[row * nq + h * s->hd + c] * (double)k[at + c];
					p[t] *= 0.25;
					if (s->cap > 0)
						p[t] = s->cap * tanh(p[t] / s->cap);
					if (s->window > 0 && (int64_t)t <= (int64_t)pos - (int64_t)s->window)
						p[t] = -INFINITY;
					top = p[t] > top ? p[t] : top;
				}
				for (uint32_t t = 0; t <= pos; t++)
					sum += p[t] = exp(p[t] - top);
				for (uint32_t t = 0; t <= pos; t++) {
					size_t at = ((size_t)table[i * max_blocks + t / s->block] * s->block + t % s->block) * nk + kv;

					for (uint32_t c = 0; c < s->hd; c++)
						want[row * nq + h * s->hd + c] += p[t] / sum * (double)v[at + c];
				}
			}
	struct ql_paged_attn a = {
		.q = dt_put(q, T, nq, nq + 8), .o = dt_out(T, nq, nq + 8), .k_cache = dt_put(k, blocks * s->block, nk, nk),
		.v_cache = dt_put(v, blocks * s->block, nk, nk), .n_head = s->n_head, .n_kv = s->n_kv, .head_dim = s->hd,
		.block_tokens = s->block, .n_seqs = s->n, .max_blocks = max_blocks, .q_begin = dt_up(q_begin, (s->n + 1) * 4),
		.kv_len = dt_up(kv_len, s->n * 4), .block_table = dt_up(table, (size_t)s->n * max_blocks * 4),
		.q_len_max = q_max, .kv_len_max = kv_max + 5, .scale = 0.25f, .softcap = (float)s->cap, .window = s->window};

	OK(OPS->paged_attention(dev, queue, &a, &err));
	dt_close("o", dt_get(a.o), want, (size_t)T * nq, 1);
	dt_gap(a.o, nq);
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
		dt_seed(i);
		run(&shapes[i]);
		dt_each(NULL);
	}
}

static void test_refusals(void **state)
{
	int32_t q_begin[2] = {0, 1}, kv_len[1] = {1}, table[1] = {0};
	struct ql_tensor q = dt_out(1, 128, 128), k = dt_out(16, 64, 64);
	struct ql_paged_attn a = {.q = q, .o = q, .k_cache = k, .v_cache = k, .n_head = 2, .n_kv = 1, .head_dim = 64, .block_tokens = 16,
				  .n_seqs = 1, .max_blocks = 1, .q_begin = dt_up(q_begin, 8), .kv_len = dt_up(kv_len, 4),
				  .block_table = dt_up(table, 4), .q_len_max = 1, .kv_len_max = 1, .scale = 0.125f};

	(void)state;
	a.n_kv = 3;
	assert_int_equal(OPS->paged_attention(dev, queue, &a, &err), QL_ESHAPE);
	a.n_kv = 1;
	a.v_cache.cols = 32;
	assert_int_equal(OPS->paged_attention(dev, queue, &a, &err), QL_ESHAPE);
	a.v_cache = k;
	a.o.rows = 2;
	assert_int_equal(OPS->paged_attention(dev, queue, &a, &err), QL_ESHAPE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(test_table, dt_each),
		cmocka_unit_test_teardown(test_refusals, dt_each),
	};

	return cmocka_run_group_tests(tests, dt_setup, dt_teardown);
}
