/* attn_grad.c - backward of attn.c.  With P = exp(scale·q·kᵀ - lse) and D = rowsum(do ⊙ o):
 *	dv = Pᵀ·do;  dS = scale·P ⊙ (do·vᵀ - D);  dq = dS·k;  dk = dSᵀ·q.
 * With a soft cap c, P = exp(c·tanh(s/c) - lse), s = scale·q·kᵀ, and dS has the factor 1 - tanh²(s/c) more.
 *
 * D first.  Then, where there are enough (sequence, kv head) pairs of similar size to keep all threads busy, one item a pair:
 * keys in blocks, for each the heads of the group, for each the blocks of queries; five products for a pair of blocks.
 * Otherwise dq by blocks of queries and dk, dv by blocks of keys as separate items, which computes P and dS twice (seven
 * products).  Both add the same numbers in the same order (dq: keys ascending; dk, dv: heads, then queries ascending), so the
 * choice, which looks at the number of threads, never shows in the result.
 */
#include <string.h>

#include "core/device/cpu/attn.h"

struct job {
	struct ql_cpu *c;
	const struct ql_attn_grad *g;
	float *d; /* [n_head, T] */
	char *scratch;
	size_t shared, per_worker;
};

/* per-worker pieces; panel stride of *_cols is QL_BKEYS·16 */
struct piece {
	float *kt, *vt;		 /* keys as panels: k, v */
	float *cols0, *cols1;	 /* columns as panels: k; or q and do */
	float *p, *ds;		 /* [BQ][BKEYS] */
	float *acc0, *acc1;	 /* dq [group][BQ][hd], or dk and dv [BKEYS][hd] */
	float *keys;		 /* columns of k as panels, while cols0 and cols1 are in use */
};

static size_t piece_floats(size_t hd, size_t group)
{
	size_t hd16 = (hd + 15) / 16 * 16, acc = group * QL_BQ > 2 * QL_BKEYS ? group * QL_BQ : 2 * QL_BKEYS;

	return 2 * QL_BKEYS * hd + 3 * QL_BKEYS * hd16 + 2 * QL_BQ * QL_BKEYS + acc * hd;
}

static struct piece piece_of(const struct job *j, int worker)
{
	size_t hd = j->g->f.head_dim, hd16 = (hd + 15) / 16 * 16;
	struct piece w;

	w.cols0 = ql_cpu_worker(j->scratch, j->shared, j->per_worker, worker);
	w.cols1 = w.cols0 + QL_BKEYS * hd16;
	w.p = w.cols1 + QL_BKEYS * hd16;
	w.ds = w.p + QL_BQ * QL_BKEYS;
	w.kt = w.ds + QL_BQ * QL_BKEYS;
	w.vt = w.kt + QL_BKEYS * hd;
	w.acc0 = w.vt + QL_BKEYS * hd;
	w.acc1 = w.acc0 + QL_BKEYS * hd;
	w.keys = w.acc0 + (size_t)(j->g->f.n_head / j->g->f.n_kv * QL_BQ > 2 * QL_BKEYS ?
					   j->g->f.n_head / j->g->f.n_kv * QL_BQ : 2 * QL_BKEYS) * hd;
	return w;
}

static void d_item(void *ctx, size_t t, int worker)
{
	const struct job *j = ctx;
	const struct ql_attn *a = &j->g->f;

	(void)worker;
	for (size_t h = 0; h < a->n_head; h++)
		j->d[h * a->q.rows + t] = j->c->k->dot(ql_row(&j->g->d_o, t) + h * a->head_dim,
						       ql_row(&a->o, t) + h * a->head_dim, a->head_dim);
}

/* p and ds for queries q0 … q0+nq-1 of head h and the keys packed in w */
static void scores(const struct job *j, const struct piece *w, const struct ql_attn_item *it, size_t h, size_t q0,
		   size_t nq, size_t k0, size_t nk)
{
	const struct ql_attn *a = &j->g->f;
	const struct ql_kern *k = j->c->k;
	size_t hd = a->head_dim, row = it->begin + q0;

	k->gemm(nq, nk, hd, ql_row(&a->q, row) + h * hd, a->q.ld, 1, w->kt, hd * QL_PW, QL_PW, w->p, QL_BKEYS, false);
	k->gemm(nq, nk, hd, ql_row(&j->g->d_o, row) + h * hd, j->g->d_o.ld, 1, w->vt, hd * QL_PW, QL_PW, w->ds, QL_BKEYS,
		false);
	for (size_t i = 0; i < nq; i++) {
		float *p = w->p + i * QL_BKEYS, *ds = w->ds + i * QL_BKEYS;
		size_t lo, hi, at = h * a->q.rows + row + i;

		ql_visible(q0 + i, k0, nk, a->window, &lo, &hi);
		if (hi > lo) {
			float slope[QL_BKEYS];

			if (a->softcap > 0.0f)
				k->softcap(p + lo, hi - lo, a->scale, a->softcap, slope);
			(void)k->exp_sum(p + lo, hi - lo, a->softcap > 0.0f ? 1.0f : a->scale, a->lse[at]);
			k->dsoftmax(p + lo, ds + lo, j->d[at], a->scale, hi - lo);
			for (size_t c = 0; a->softcap > 0.0f && c < hi - lo; c++)
				ds[lo + c] *= slope[c];
		}
		memset(p, 0, lo * sizeof *p);
		memset(ds, 0, lo * sizeof *ds);
		memset(p + hi, 0, (nk - hi) * sizeof *p);
		memset(ds + hi, 0, (nk - hi) * sizeof *ds);
	}
}

static void store(const float *acc, size_t n, size_t hd, struct ql_tensor *to, size_t row, size_t col)
{
	for (size_t i = 0; i < n; i++)
		memcpy(ql_row(to, row + i) + col, acc + i * hd, hd * sizeof *acc);
}

static void dq_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_attn *a = &j->g->f;
	const struct ql_kern *k = j->c->k;
	struct ql_attn_item it = ql_attn_item_at(a, QL_BQ, i);
	struct piece w = piece_of(j, worker);
	struct ql_tensor dq = j->g->dq;
	size_t n_blocks = ql_ceil_div(it.len, QL_BQ), q0 = (n_blocks - 1 - it.block) * QL_BQ;
	size_t nq = ql_min(QL_BQ, it.len - q0), hd = a->head_dim, group = a->n_head / a->n_kv;

	memset(w.acc0, 0, group * QL_BQ * hd * sizeof(float));
	for (size_t k0 = ql_first_block(q0, a->window); k0 < q0 + nq; k0 += QL_BKEYS) {
		size_t nk = ql_min(QL_BKEYS, q0 + nq - k0);
		const float *keys = ql_row(&a->k, it.begin + k0) + it.kv * hd;

		ql_attn_pack_keys(k, keys, a->k.ld, nk, hd, w.kt);
		ql_attn_pack_keys(k, ql_row(&a->v, it.begin + k0) + it.kv * hd, a->v.ld, nk, hd, w.vt);
		ql_attn_pack_cols(k, keys, a->k.ld, nk, hd, QL_BKEYS * QL_PW, w.cols0);
		for (size_t g = 0; g < group; g++) {
			scores(j, &w, &it, it.kv * group + g, q0, nq, k0, nk);
			k->gemm(nq, hd, nk, w.ds, QL_BKEYS, 1, w.cols0, (size_t)QL_BKEYS * QL_PW, QL_PW,
				w.acc0 + g * QL_BQ * hd, hd, true);
		}
	}
	for (size_t g = 0; g < group; g++)
		store(w.acc0 + g * QL_BQ * hd, nq, hd, &dq, it.begin + q0, (it.kv * group + g) * hd);
}

/* dk and dv of keys [k0, k0 + nk), and with_dq their part of dq, straight into its rows */
static void keys_block(const struct job *j, const struct piece *w, const struct ql_attn_item *it, size_t k0, size_t nk,
		       bool with_dq)
{
	const struct ql_attn *a = &j->g->f;
	const struct ql_kern *k = j->c->k;
	struct ql_tensor dk = j->g->dk, dv = j->g->dv, dq = j->g->dq;
	size_t hd = a->head_dim, group = a->n_head / a->n_kv, end = it->len, panel = (size_t)QL_BKEYS * QL_PW;
	const float *keys = ql_row(&a->k, it->begin + k0) + it->kv * hd;

	if (a->window > 0)
		end = ql_min(end, k0 + nk - 1 + a->window);
	memset(w->acc0, 0, 2 * QL_BKEYS * hd * sizeof(float));
	ql_attn_pack_keys(k, keys, a->k.ld, nk, hd, w->kt);
	ql_attn_pack_keys(k, ql_row(&a->v, it->begin + k0) + it->kv * hd, a->v.ld, nk, hd, w->vt);
	if (with_dq)
		ql_attn_pack_cols(k, keys, a->k.ld, nk, hd, panel, w->keys);
	for (size_t g = 0; g < group; g++)
		for (size_t q0 = k0; q0 < end; q0 += QL_BQ) { /* QL_BKEYS is a multiple of QL_BQ: whole blocks of queries */
			size_t nq = ql_min(QL_BQ, it->len - q0), h = it->kv * group + g, row = it->begin + q0;
			size_t n = ql_min(nk, q0 + nq - k0); /* keys these queries see at all */

			scores(j, w, it, h, q0, nq, k0, n);
			ql_attn_pack_cols(k, ql_row(&a->q, row) + h * hd, a->q.ld, nq, hd, panel, w->cols0);
			ql_attn_pack_cols(k, ql_row(&j->g->d_o, row) + h * hd, j->g->d_o.ld, nq, hd, panel, w->cols1);
			k->gemm(n, hd, nq, w->ds, 1, QL_BKEYS, w->cols0, panel, QL_PW, w->acc0, hd, true);
			k->gemm(n, hd, nq, w->p, 1, QL_BKEYS, w->cols1, panel, QL_PW, w->acc1, hd, true);
			if (with_dq)
				k->gemm(nq, hd, n, w->ds, QL_BKEYS, 1, w->keys, panel, QL_PW, ql_row(&dq, row) + h * hd, dq.ld,
					k0 > ql_first_block(q0, a->window));
		}
	store(w->acc0, nk, hd, &dk, it->begin + k0, it->kv * hd);
	store(w->acc1, nk, hd, &dv, it->begin + k0, it->kv * hd);
}

static void dkv_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	struct ql_attn_item it = ql_attn_item_at(&j->g->f, QL_BKEYS, i);
	struct piece w = piece_of(j, worker);
	size_t k0 = it.block * QL_BKEYS;

	keys_block(j, &w, &it, k0, ql_min(QL_BKEYS, it.len - k0), false);
}

static void pair_item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_attn *a = &j->g->f;
	const int32_t *cu = a->cu_seqlens_host + i / a->n_kv;
	struct ql_attn_item it = {.begin = (size_t)cu[0], .len = (size_t)(cu[1] - cu[0]), .kv = (uint32_t)(i % a->n_kv)};
	struct piece w = piece_of(j, worker);

	for (size_t k0 = 0; k0 < it.len; k0 += QL_BKEYS)
		keys_block(j, &w, &it, k0, ql_min(QL_BKEYS, it.len - k0), true);
}

/* Do whole pairs balance?  Work of a pair ~ length²; the largest must not outlast an even share by much. */
static bool pairs_balance(const struct ql_attn *a, int threads)
{
	double sum = 0.0, top = 0.0;

	for (uint32_t s = 0; s < a->n_seqs; s++) {
		double len = (double)(a->cu_seqlens_host[s + 1] - a->cu_seqlens_host[s]);

		sum += len * len * (double)a->n_kv;
		top = len * len > top ? len * len : top;
	}
	return threads == 1 || sum / threads >= 3.0 * top;
}

int ql_cpu_attention_grad(struct ql_device *d, struct ql_queue *q, const struct ql_attn_grad *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .g = a};
	const struct ql_attn *f = &a->f;
	uint32_t q_cols = f->n_head * f->head_dim, kv_cols = f->n_kv * f->head_dim;
	void *scratch;
	int rc = ql_attn_check("attention_grad", f, e);

	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->d_o, "attention_grad", "d_o", f->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->dq, "attention_grad", "dq", f->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->dk, "attention_grad", "dk", f->q.rows, kv_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->dv, "attention_grad", "dv", f->q.rows, kv_cols, e);
	if (rc != QL_OK)
		return rc;
	if (f->lse == NULL)
		return ql_err_param(e, QL_EINVAL, "lse", "attention_grad: lse is missing");
	j.shared = (size_t)f->n_head * f->q.rows * sizeof(float);
	j.per_worker = piece_floats(f->head_dim, f->n_head / f->n_kv) * sizeof(float);
	rc = ql_cpu_scratch(j.c, j.shared, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	j.d = scratch;
	ql_pool_run(j.c->pool, f->q.rows, d_item, &j);
	if (pairs_balance(f, j.c->n_threads)) {
		ql_pool_run(j.c->pool, (size_t)f->n_seqs * f->n_kv, pair_item, &j);
		return QL_OK;
	}
	ql_pool_run(j.c->pool, ql_attn_items(f, QL_BQ), dq_item, &j);
	ql_pool_run(j.c->pool, ql_attn_items(f, QL_BKEYS), dkv_item, &j);
	return QL_OK;
}
