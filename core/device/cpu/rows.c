/* rows.c - ops that move or scan rows: embedding look-up, writing keys and values to the cache, argmax. */
#include <string.h>

#include "core/device/cpu/cpu.h"

#define ROWS 8

struct embed_job {
	const struct ql_weight *w;
	const int32_t *ids;
	float scale;
	struct ql_tensor y;
};

static void embed_item(void *ctx, size_t item, int worker)
{
	const struct embed_job *j = ctx;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, j->y.rows); t++) {
		float *y = ql_row(&j->y, t);

		for (uint32_t k = 0; k < j->w->s.in; k++)
			y[k] = j->scale * ql_cpu_weight_at(j->w, 0, (uint32_t)j->ids[t], k);
	}
}

int ql_cpu_embed(struct ql_device *d, struct ql_queue *q, const struct ql_weight *w, const int32_t *ids, float scale,
		 struct ql_tensor y, struct ql_err *e)
{
	struct embed_job j = {w, ids, scale, y};
	int rc = ql_cpu_check(&y, "embed", "y", y.rows, w->s.in, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	if (w->s.n_parts != 1)
		return ql_err_set(e, QL_ESHAPE, "embed: the matrix has %u parts", w->s.n_parts);
	for (size_t t = 0; t < y.rows; t++)
		if (ids[t] < 0 || (uint32_t)ids[t] >= w->out)
			return ql_err_set(e, QL_EINVAL, "embed: token %zu is %d, the vocabulary has %u", t, ids[t], w->out);
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(y.rows, ROWS), embed_item, &j);
	return QL_OK;
}

int ql_cpu_kv_write(struct ql_device *d, struct ql_queue *q, struct ql_tensor k, struct ql_tensor v,
		    const int32_t *slots, struct ql_tensor k_cache, struct ql_tensor v_cache, struct ql_err *e)
{
	int rc = ql_cpu_check(&k, "kv_write", "k", k.rows, k.cols, e);

	(void)d;
	(void)q;
	if (rc == QL_OK)
		rc = ql_cpu_check(&v, "kv_write", "v", k.rows, k.cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&k_cache, "kv_write", "k_cache", k_cache.rows, k.cols, e);
	if (rc == QL_OK)
		rc = ql_cpu_check(&v_cache, "kv_write", "v_cache", k_cache.rows, k.cols, e);
	if (rc != QL_OK)
		return rc;
	for (size_t t = 0; t < k.rows; t++)
		if (slots[t] < -1 || (slots[t] >= 0 && (uint32_t)slots[t] >= k_cache.rows))
			return ql_err_set(e, QL_EINVAL, "kv_write: row %zu goes to slot %d of %u", t, slots[t], k_cache.rows);
	for (size_t t = 0; t < k.rows; t++) {
		if (slots[t] < 0)
			continue;
		memcpy(ql_row(&k_cache, (size_t)slots[t]), ql_row(&k, t), k.cols * sizeof(float));
		memcpy(ql_row(&v_cache, (size_t)slots[t]), ql_row(&v, t), k.cols * sizeof(float));
	}
	return QL_OK;
}

struct argmax_job {
	const struct ql_kern *k;
	struct ql_tensor logits;
	int32_t *ids;
};

/* lowest index of the largest; NaNs never win, a row of NaNs gives 0 */
static void argmax_item(void *ctx, size_t t, int worker)
{
	const struct argmax_job *j = ctx;
	const float *x = ql_row(&j->logits, t);
	int32_t best = 0;

	(void)worker;
	for (uint32_t i = 1; i < j->logits.cols; i++)
		if (x[i] > x[best] || (x[best] != x[best] && x[i] == x[i]))
			best = (int32_t)i;
	j->ids[t] = best;
}

int ql_cpu_argmax(struct ql_device *d, struct ql_queue *q, struct ql_tensor logits, int32_t *ids, struct ql_err *e)
{
	struct argmax_job j = {ql_cpu_of(d)->k, logits, ids};
	int rc = ql_cpu_check(&logits, "argmax", "logits", logits.rows, logits.cols, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	if (logits.cols == 0)
		return ql_err_set(e, QL_ESHAPE, "argmax: empty rows");
	ql_pool_run(ql_cpu_of(d)->pool, logits.rows, argmax_item, &j);
	return QL_OK;
}
