/* attn.c - causal attention over packed sequences, forward, block by block (Dao, "FlashAttention-2", 2023):
 * for each block of keys  S = q·kᵀ;  m' = max(m, scale·S);  P = exp(scale·S - m');  l = l·e^(m-m') + ΣP;
 * acc = acc·e^(m-m') + P·v;  in the end o = acc / l, lse = m + log l.  No T×T matrix exists.  With a soft cap c, scale·S is
 * c·tanh(scale·S/c) throughout.
 *
 * An item is a block of QL_BQ queries of one sequence with all query heads of one kv head, so that keys and values are
 * packed once for the group.  Later blocks come first (they are longer).  Blocks count from the sequence's start: a
 * sequence's numbers do not depend on what it is packed with. */
#include "core/device/cpu/attn.h"

#include <math.h>
#include <string.h>

size_t ql_attn_state_floats(size_t hd, size_t group)
{
	size_t hd16 = (hd + 15) / 16 * 16;

	return QL_BKEYS * hd + QL_BKEYS * hd16 + QL_BQ * QL_BKEYS + group * QL_BQ * (2 + hd);
}

void ql_attn_state_init(struct ql_attn_state *st, float *mem, size_t hd, size_t group)
{
	st->hd = hd;
	st->hd16 = (hd + 15) / 16 * 16;
	st->group = group;
	st->v = mem;
	st->s = st->v + QL_BKEYS * st->hd16;
	st->kt = st->s + QL_BQ * QL_BKEYS;
	st->acc = st->kt + QL_BKEYS * hd;
	st->m = st->acc + group * QL_BQ * hd;
	st->l = st->m + group * QL_BQ;
	for (size_t i = 0; i < group * QL_BQ; i++) {
		st->m[i] = -INFINITY;
		st->l[i] = 0.0f;
	}
	memset(st->acc, 0, group * QL_BQ * hd * sizeof(float));
}

void ql_attn_pack_keys(const struct ql_kern *k, const float *src, size_t ld, size_t n, size_t hd, float *dst)
{
	for (size_t i = 0; i < n; i += QL_PW)
		k->pack_t(src + i * ld, ld, (uint32_t)ql_min(QL_PW, n - i), hd, 1.0f, dst + i * hd);
}

void ql_attn_pack_cols(const struct ql_kern *k, const float *src, size_t ld, size_t n, size_t hd, size_t panel, float *dst)
{
	for (size_t c = 0; c < hd; c += QL_PW)
		k->pack(src + c, ld, (uint32_t)ql_min(QL_PW, hd - c), n, 1.0f, dst + c / QL_PW * panel);
}

void ql_attn_step(const struct ql_kern *k, struct ql_attn_state *st, size_t head, const float *q, size_t ldq, size_t pos0,
		  size_t nq, size_t k0, size_t nk, float scale, float softcap, uint32_t window)
{
	float soft = scale; /* what the capped scores are to be multiplied by */

	float *m = st->m + head * QL_BQ, *l = st->l + head * QL_BQ, *acc = st->acc + head * QL_BQ * st->hd;

	if (softcap > 0.0f)
		soft = 1.0f;
	k->gemm(nq, nk, st->hd, q, ldq, 1, st->kt, st->hd * QL_PW, QL_PW, st->s, QL_BKEYS, false);
	for (size_t i = 0; i < nq; i++) {
		float *s = st->s + i * QL_BKEYS, top;
		size_t lo, hi;

		ql_visible(pos0 + i, k0, nk, window, &lo, &hi);
		if (lo == hi) {
			memset(s, 0, nk * sizeof *s);
			continue;
		}
		if (softcap > 0.0f)
			k->softcap(s + lo, hi - lo, scale, softcap, NULL);
		top = soft * k->max(s + lo, hi - lo);
		if (top > m[i]) {
			float shrink = m[i] == -INFINITY ? 0.0f : expf(m[i] - top);

			if (l[i] > 0.0f) {
				l[i] *= shrink;
				k->scale(shrink, acc + i * st->hd, st->hd);
			}
			m[i] = top;
		}
		l[i] += k->exp_sum(s + lo, hi - lo, soft, m[i]);
		memset(s, 0, lo * sizeof *s);
		memset(s + hi, 0, (nk - hi) * sizeof *s);
	}
	k->gemm(nq, st->hd, nk, st->s, QL_BKEYS, 1, st->v, (size_t)QL_BKEYS * QL_PW, QL_PW, acc, st->hd, true);
}

void ql_attn_finish(const struct ql_kern *k, struct ql_attn_state *st, size_t head, size_t nq, float *o, size_t ldo,
		    float *lse)
{
	for (size_t i = 0; i < nq; i++) {
		float m = st->m[head * QL_BQ + i], l = st->l[head * QL_BQ + i];

		memcpy(o + i * ldo, st->acc + (head * QL_BQ + i) * st->hd, st->hd * sizeof *o);
		k->scale(1.0f / l, o + i * ldo, st->hd);
		if (lse != NULL)
			lse[i] = m + logf(l);
	}
}

int ql_attn_check_heads(const char *op, uint32_t n_head, uint32_t n_kv, uint32_t head_dim, float scale, float softcap,
			struct ql_err *e)
{
	if (n_head == 0 || n_kv == 0 || n_head % n_kv != 0 || head_dim == 0)
		return ql_err_set(e, QL_ESHAPE, "%s: %u heads, %u kv heads, head_dim %u", op, n_head, n_kv, head_dim);
	if (!(scale > 0.0f))
		return ql_err_param(e, QL_EINVAL, "scale", "%s: scale must be positive", op);
	if (!(softcap >= 0.0f))
		return ql_err_param(e, QL_EINVAL, "softcap", "%s: softcap must not be negative", op);
	return QL_OK;
}

int ql_attn_check(const char *op, const struct ql_attn *a, struct ql_err *e)
{
	uint64_t q_cols = (uint64_t)a->n_head * a->head_dim, kv_cols = (uint64_t)a->n_kv * a->head_dim;
	int rc = ql_attn_check_heads(op, a->n_head, a->n_kv, a->head_dim, a->scale, a->softcap, e);

	if (rc == QL_OK)
		rc = ql_cpu_check(&a->q, op, "q", a->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->o, op, "o", a->q.rows, q_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->k, op, "k", a->q.rows, kv_cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&a->v, op, "v", a->q.rows, kv_cols, e);
	if (rc != QL_OK)
		return rc;
	if (a->cu_seqlens_host == NULL || a->cu_seqlens_host[0] != 0 ||
	    a->cu_seqlens_host[a->n_seqs] != (int32_t)a->q.rows)
		return ql_err_param(e, QL_ESHAPE, "cu_seqlens", "%s: sequences do not cover the %u rows", op, a->q.rows);
	for (uint32_t s = 0; s < a->n_seqs; s++)
		if (a->cu_seqlens_host[s + 1] < a->cu_seqlens_host[s])
			return ql_err_param(e, QL_ESHAPE, "cu_seqlens", "%s: sequence %u has a negative length", op, s);
	return QL_OK;
}

size_t ql_attn_items(const struct ql_attn *a, size_t rows)
{
	size_t n = 0;

	for (uint32_t s = 0; s < a->n_seqs; s++)
		n += ql_ceil_div((size_t)(a->cu_seqlens_host[s + 1] - a->cu_seqlens_host[s]), rows);
	return n * a->n_kv;
}

struct ql_attn_item ql_attn_item_at(const struct ql_attn *a, size_t rows, size_t i)
{
	struct ql_attn_item it = {.kv = (uint32_t)(i % a->n_kv)};

	i /= a->n_kv;
	for (uint32_t s = 0;; s++) {
		it.begin = (size_t)a->cu_seqlens_host[s];
		it.len = (size_t)a->cu_seqlens_host[s + 1] - it.begin;
		it.block = ql_ceil_div(it.len, rows);
		if (i < it.block)
			break;
		i -= it.block;
	}
	it.block = i;
	return it;
}

struct job {
	struct ql_cpu *c;
	const struct ql_attn *a;
	char *scratch;
	size_t per_worker;
};

static void item(void *ctx, size_t i, int worker)
{
	const struct job *j = ctx;
	const struct ql_attn *a = j->a;
	const struct ql_kern *k = j->c->k;
	struct ql_attn_item it = ql_attn_item_at(a, QL_BQ, i);
	size_t n_blocks = ql_ceil_div(it.len, QL_BQ), q0 = (n_blocks - 1 - it.block) * QL_BQ;
	size_t nq = ql_min(QL_BQ, it.len - q0), hd = a->head_dim, group = a->n_head / a->n_kv;
	struct ql_attn_state st;

	ql_attn_state_init(&st, ql_cpu_worker(j->scratch, 0, j->per_worker, worker), hd, group);
	for (size_t k0 = ql_first_block(q0, a->window); k0 < q0 + nq; k0 += QL_BKEYS) {
		size_t nk = ql_min(QL_BKEYS, q0 + nq - k0);

		ql_attn_pack_keys(k, ql_row(&a->k, it.begin + k0) + it.kv * hd, a->k.ld, nk, hd, st.kt);
		ql_attn_pack_cols(k, ql_row(&a->v, it.begin + k0) + it.kv * hd, a->v.ld, nk, hd, QL_BKEYS * QL_PW, st.v);
		for (size_t g = 0; g < group; g++)
			ql_attn_step(k, &st, g, ql_row(&a->q, it.begin + q0) + (it.kv * group + g) * hd, a->q.ld, q0, nq, k0,
				     nk, a->scale, a->softcap, a->window);
	}
	for (size_t g = 0; g < group; g++) {
		size_t h = it.kv * group + g;

		ql_attn_finish(k, &st, g, nq, ql_row(&a->o, it.begin + q0) + h * hd, a->o.ld,
			       a->lse == NULL ? NULL : a->lse + h * a->q.rows + it.begin + q0);
	}
}

int ql_cpu_attention(struct ql_device *d, struct ql_queue *q, const struct ql_attn *a, struct ql_err *e)
{
	struct job j = {.c = ql_cpu_of(d), .a = a};
	void *scratch;
	int rc = ql_attn_check("attention", a, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	j.per_worker = ql_attn_state_floats(a->head_dim, a->n_head / a->n_kv) * sizeof(float);
	rc = ql_cpu_scratch(j.c, 0, j.per_worker, &scratch, e);
	if (rc != QL_OK)
		return rc;
	j.scratch = scratch;
	ql_pool_run(j.c->pool, ql_attn_items(a, QL_BQ), item, &j);
	return QL_OK;
}
