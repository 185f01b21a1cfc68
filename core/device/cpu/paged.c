/* paged.c - attention over the paged cache, for decoding and chunked prefill.
 *
 * A sequence with at most FEW queries is cut along its cached tokens: an item is a range of SPLIT tokens for one kv head, with
 * partial results (m, l, acc) in scratch that are joined in the order of the ranges; so one long sequence keeps all
 * threads busy.  A longer piece of queries goes through the block algorithm of attn.c, its keys and values copied together
 * from their blocks.  Both read keys and values once for the whole group of query heads. */
#include <math.h>
#include <string.h>

#include "core/device/cpu/attn.h"

#define FEW 4
#define SPLIT 256

struct work { /* one item */
	uint32_t seq, kv, block; /* block: range of SPLIT tokens, or block of QL_BQ queries */
	bool few;
	size_t partial; /* few: index of its first partial, [FEW or fewer queries][group] */
};

struct job {
	struct ql_cpu *c;
	const struct ql_paged_attn *a;
	const struct work *items;
	float *partial; /* (m, l, acc[hd]) each */
	char *scratch;
	size_t shared, per_worker;
};

static size_t queries(const struct ql_paged_attn *a, uint32_t s) { return (size_t)(a->q_begin[s + 1] - a->q_begin[s]); }

/* tokens from t on that lie contiguously, at most n; *row is the cache row of t */
static size_t stretch(const struct ql_paged_attn *a, uint32_t seq, size_t t, size_t n, size_t *row)
{
	size_t in = t % a->block_tokens;

	*row = (size_t)a->block_table[(size_t)seq * a->max_blocks + t / a->block_tokens] * a->block_tokens + in;
	return ql_min(n, a->block_tokens - in);
}

/* one query head over tokens [lo, hi): scores to s, then (m, l, acc) */
static void partial_scores(const struct job *j, uint32_t seq, uint32_t kv, const float *q, size_t lo, size_t hi, float *s)
{
	const struct ql_paged_attn *a = j->a;

	for (size_t t = lo, row, n; t < hi; t += n) {
		n = stretch(a, seq, t, hi - t, &row);
		j->c->k->dots(q, ql_row(&a->k_cache, row) + (size_t)kv * a->head_dim, a->k_cache.ld, n, a->head_dim, s + t - lo);
	}
}

static void few_item(const struct job *j, const struct work *w, float *mem)
{
	const struct ql_paged_attn *a = j->a;
	const struct ql_kern *k = j->c->k;
	size_t hd = a->head_dim, group = a->n_head / a->n_kv, nq = queries(a, w->seq), kv_len = (size_t)a->kv_len[w->seq];
	size_t t0 = (size_t)w->block * SPLIT, t1 = ql_min(t0 + SPLIT, kv_len), rec = hd + 2;
	float *s = mem, *acc = s + group * SPLIT, *panels = acc + group * hd, soft = a->softcap > 0.0f ? 1.0f : a->scale;

	for (size_t i = 0; i < nq; i++) {
		size_t lo, hi, row, n, q_row = (size_t)a->q_begin[w->seq] + i;
		float *out = j->partial + (w->partial + i * group) * rec;

		ql_visible(kv_len - nq + i, t0, t1 - t0, a->window, &lo, &hi);
		for (size_t g = 0; g < group; g++) {
			float *sg = s + g * SPLIT, *o = out + g * rec;

			o[0] = -INFINITY;
			o[1] = 0.0f;
			if (lo == hi)
				continue;
			partial_scores(j, w->seq, w->kv, ql_row(&a->q, q_row) + (w->kv * group + g) * hd, t0 + lo, t0 + hi, sg);
			if (a->softcap > 0.0f)
				k->softcap(sg, hi - lo, a->scale, a->softcap, NULL);
			o[0] = soft * k->max(sg, hi - lo);
			o[1] = k->exp_sum(sg, hi - lo, soft, o[0]);
		}
		if (lo == hi)
			continue;
		for (size_t t = t0 + lo; t < t0 + hi; t += n) { /* acc [group, hd] += P·v */
			const float *v;

			n = stretch(a, w->seq, t, t0 + hi - t, &row);
			v = ql_row(&a->v_cache, row) + (size_t)w->kv * hd;
			if (hd % QL_PW == 0) {
				k->gemm(group, hd, n, s + (t - t0 - lo), SPLIT, 1, v, QL_PW, a->v_cache.ld, acc, hd, t > t0 + lo);
				continue;
			}
			ql_attn_pack_cols(k, v, a->v_cache.ld, n, hd, SPLIT * QL_PW, panels);
			k->gemm(group, hd, n, s + (t - t0 - lo), SPLIT, 1, panels, SPLIT * QL_PW, QL_PW, acc, hd, t > t0 + lo);
		}
		for (size_t g = 0; g < group; g++)
			memcpy(out + g * rec + 2, acc + g * hd, hd * sizeof *acc);
	}
}

static void many_item(const struct job *j, const struct work *w, float *mem)
{
	const struct ql_paged_attn *a = j->a;
	const struct ql_kern *k = j->c->k;
	size_t hd = a->head_dim, group = a->n_head / a->n_kv, nq_all = queries(a, w->seq);
	size_t first = (size_t)w->block * QL_BQ, nq = ql_min(QL_BQ, nq_all - first);
	size_t pos = (size_t)a->kv_len[w->seq] - nq_all + first, q_row = (size_t)a->q_begin[w->seq] + first;
	float *rows = mem + ql_attn_state_floats(hd, group); /* [BKEYS][hd] */
	struct ql_attn_state st;

	ql_attn_state_init(&st, mem, hd, group);
	for (size_t k0 = ql_first_block(pos, a->window); k0 < pos + nq; k0 += QL_BKEYS) {
		size_t nk = ql_min(QL_BKEYS, pos + nq - k0);

		for (int v = 0; v < 2; v++) {
			const struct ql_tensor *cache = v == 0 ? &a->k_cache : &a->v_cache;

			for (size_t t = 0, row, n; t < nk; t += n) {
				n = stretch(a, w->seq, k0 + t, nk - t, &row);
				for (size_t i = 0; i < n; i++)
					memcpy(rows + (t + i) * hd, ql_row(cache, row + i) + w->kv * hd, hd * sizeof *rows);
			}
			if (v == 0)
				ql_attn_pack_keys(k, rows, hd, nk, hd, st.kt);
			else
				ql_attn_pack_cols(k, rows, hd, nk, hd, QL_BKEYS * QL_PW, st.v);
		}
		for (size_t g = 0; g < group; g++)
			ql_attn_step(k, &st, g, ql_row(&a->q, q_row) + (w->kv * group + g) * hd, a->q.ld, pos, nq, k0, nk,
				     a->scale, a->softcap, a->window);
	}
	for (size_t g = 0; g < group; g++)
		ql_attn_finish(k, &st, g, nq, ql_row(&a->o, q_row) + (w->kv * group + g) * hd, a->o.ld, NULL);
}

static void item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	float *mem = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker);

	if (j->items[i].few)
		few_item(j, &j->items[i], mem);
	else
		many_item(j, &j->items[i], mem);
}

/* joins the ranges of one sequence with few queries; items of a sequence lie (range, kv head) in order */
static void join_seq(const struct job *j, size_t at, uint32_t seq)
{
	const struct ql_paged_attn *a = j->a;
	size_t hd = a->head_dim, group = a->n_head / a->n_kv, nq = queries(a, seq), rec = hd + 2;
	size_t ranges = ql_ceil_div((size_t)a->kv_len[seq], SPLIT);

	for (size_t i = 0; i < nq; i++)
		for (size_t h = 0; h < a->n_head; h++) {
			float *o = ql_row(&a->o, (size_t)a->q_begin[seq] + i) + h * hd, m = -INFINITY, l = 0.0f;
			const float *p;

#define PARTIAL(r) (j->partial + (j->items[at + (r) * a->n_kv + h / group].partial + i * group + h % group) * rec)
			for (size_t r = 0; r < ranges; r++) {
				p = PARTIAL(r);
				m = p[0] > m ? p[0] : m;
			}
			memset(o, 0, hd * sizeof *o);
			for (size_t r = 0; r < ranges; r++) {
				p = PARTIAL(r);
				if (p[1] > 0.0f) {
					l += p[1] * expf(p[0] - m);
					j->c->k->axpy(expf(p[0] - m), p + 2, o, hd);
				}
			}
#undef PARTIAL
			j->c->k->scale(1.0f / l, o, hd);
		}
}

static int check(const struct ql_paged_attn *a, struct ql_err *e)
{
	uint64_t q_cols = (uint64_t)a->n_head * a->head_dim, kv_cols = (uint64_t)a->n_kv * a->head_dim;
	int rc = ql_attn_check_heads("paged_attention", a->n_head, a->n_kv, a->head_dim, a->scale, a->softcap, e);

	if (rc == QL_OK)
		rc = ql_cpu_check(&a->q, "paged_attention", "q", a->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->o, "paged_attention", "o", a->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->k_cache, "paged_attention", "k_cache", a->k_cache.rows, kv_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->v_cache, "paged_attention", "v_cache", a->k_cache.rows, kv_cols, e);
	if (rc != QL_OK)
		return rc;
	if (a->block_tokens == 0)
		return ql_err_set(e, QL_ESHAPE, "paged_attention: blocks of 0 tokens");
	for (uint32_t s = 0; s < a->n_seqs; s++) {
		int64_t nq = (int64_t)a->q_begin[s + 1] - a->q_begin[s], len = a->kv_len[s];
		size_t blocks;

		if (a->q_begin[s] < 0 || nq < 0 || (uint32_t)a->q_begin[s + 1] > a->q.rows || len < nq)
			return ql_err_set(e, QL_EINVAL, "paged_attention: sequence %u: queries %d to %d, %d cached", s,
					  a->q_begin[s], a->q_begin[s + 1], a->kv_len[s]);
		blocks = ql_ceil_div((size_t)len, a->block_tokens);
		if (nq > 0 && blocks > a->max_blocks)
			return ql_err_set(e, QL_EINVAL, "paged_attention: sequence %u needs %zu blocks of %u", s, blocks,
					  a->max_blocks);
		for (size_t b = 0; nq > 0 && b < blocks; b++) {
			int32_t id = a->block_table[(size_t)s * a->max_blocks + b];

			if (id < 0 || ((uint64_t)id + 1) * a->block_tokens > a->k_cache.rows)
				return ql_err_set(e, QL_EINVAL, "paged_attention: sequence %u, block %zu is %d", s, b, id);
		}
	}
	return QL_OK;
}

int ql_cpu_paged_attention(struct ql_device *d, struct ql_queue *q, const struct ql_paged_attn *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .a = a};
	size_t n_items = 0, n_partials = 0, group, hd = a->head_dim, mem_few, mem_many;
	struct work *items;
	void *scratch;
	int rc = check(a, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	group = a->n_head / a->n_kv;
	for (uint32_t s = 0; s < a->n_seqs; s++) {
		size_t nq = queries(a, s), ranges = ql_ceil_div((size_t)a->kv_len[s], SPLIT);

		n_items += (nq == 0 ? 0 : nq <= FEW ? ranges : ql_ceil_div(nq, QL_BQ)) * a->n_kv;
		n_partials += nq <= FEW ? ranges * nq * a->n_head : 0;
	}
	mem_few = group * (SPLIT + hd) + SPLIT * ((hd + 15) / 16 * 16);
	mem_many = ql_attn_state_floats(hd, group) + QL_BKEYS * hd;
	j.shared = ql_ceil_div(n_items * sizeof *items, 64) * 64 + n_partials * (hd + 2) * sizeof(float);
	j.per_worker = (mem_few > mem_many ? mem_few : mem_many) * sizeof(float);
	rc = ql_cpu_scratch(j.c, j.shared, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	j.items = items = scratch;
	j.partial = (float *)(void *)((char *)scratch + ql_ceil_div(n_items * sizeof *items, 64) * 64);
	n_partials = 0;
	n_items = 0;
	for (uint32_t s = 0; s < a->n_seqs; s++) {
		size_t nq = queries(a, s), ranges = ql_ceil_div((size_t)a->kv_len[s], SPLIT);
		size_t n = nq == 0 ? 0 : nq <= FEW ? ranges : ql_ceil_div(nq, QL_BQ);

		for (size_t b = 0; b < n; b++)
			for (uint32_t kv = 0; kv < a->n_kv; kv++) {
				items[n_items++] = (struct work){s, kv, (uint32_t)b, nq <= FEW, n_partials};
				n_partials += nq <= FEW ? nq * group : 0;
			}
	}
	ql_pool_run(j.c->pool, n_items, item, &j);
	n_items = 0;
	for (uint32_t s = 0; s < a->n_seqs; s++) {
		size_t nq = queries(a, s), ranges = ql_ceil_div((size_t)a->kv_len[s], SPLIT);

		if (nq > 0 && nq <= FEW)
			join_seq(&j, n_items, s);
		n_items += (nq == 0 ? 0 : nq <= FEW ? ranges : ql_ceil_div(nq, QL_BQ)) * a->n_kv;
	}
	return QL_OK;
}
