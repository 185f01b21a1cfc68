/* plan.c - see plan.h. */
#include "core/train/plan.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/philox.h"

int ql_plan_init(struct ql_plan *p, const struct ql_dataset *data, uint64_t seed, uint32_t batch_size,
		 uint32_t micro_batch_size, uint32_t max_tokens, struct ql_err *e)
{
	size_t n = ql_dataset_count(data);

	*p = (struct ql_plan){.data = data, .seed = seed, .batch_size = batch_size, .micro_batch_size = micro_batch_size,
			      .max_tokens = max_tokens, .epoch = UINT32_MAX};
	if (n == 0 || n > UINT32_MAX || batch_size == 0)
		return ql_err_set(e, QL_EINVAL, "nothing to train on");
	p->steps_per_epoch = (n + batch_size - 1) / batch_size;
	p->order = malloc(n * sizeof *p->order);
	return p->order == NULL ? ql_err_set(e, QL_ENOMEM, "plan of %zu examples", n) : QL_OK;
}

void ql_plan_free(struct ql_plan *p)
{
	free(p->order);
	*p = (struct ql_plan){0};
}

void ql_step_batches_free(struct ql_step_batches *b)
{
	free(b->micro);
	free(b->token_base);
	free(b->ints);
	*b = (struct ql_step_batches){0};
}

/* Memory for n examples with `tokens` tokens in all: per token id, position, row, label; per sequence one offset, and
 * one more per micro-batch. */
static int reserve(struct ql_step_batches *b, size_t n, uint64_t tokens, struct ql_err *e)
{
	size_t ints = (size_t)tokens * 4 + 2 * n;

	if (b->cap < n) {
		struct ql_batch *m = realloc(b->micro, n * sizeof *m);
		uint64_t *t;

		if (m != NULL)
			b->micro = m;
		t = m == NULL ? NULL : realloc(b->token_base, n * sizeof *t);
		if (t == NULL)
			return ql_err_set(e, QL_ENOMEM, "step of %zu examples", n);
		b->token_base = t;
		b->cap = (uint32_t)n;
	}
	if (b->ints_cap < ints) {
		free(b->ints);
		b->ints_cap = 0;
		b->ints = malloc(ints * sizeof *b->ints);
		if (b->ints == NULL)
			return ql_err_set(e, QL_ENOMEM, "step of %llu tokens", (unsigned long long)tokens);
		b->ints_cap = ints;
	}
	return QL_OK;
}

/* Writes one micro-batch of the examples index[0..n) into memory at `at`; returns the first free place. */
static int32_t *fill(const struct ql_plan *p, const uint32_t *index, uint32_t n, uint32_t tokens, struct ql_batch *m, int32_t *at)
{
	int32_t *ids = at, *positions = ids + tokens, *rows = positions + tokens, *labels = rows + tokens, *cu = labels + tokens;
	uint32_t t = 0, targets = 0;

	for (uint32_t s = 0; s < n; s++) {
		struct ql_example x = ql_dataset_get(p->data, index[s]);

		cu[s] = (int32_t)t;
		for (uint32_t i = 0; i < x.n; i++, t++) {
			ids[t] = x.ids[i];
			positions[t] = (int32_t)i;
			if (i > 0 && x.target[i]) {
				rows[targets] = (int32_t)t - 1;
				labels[targets++] = x.ids[i];
			}
		}
	}
	cu[n] = (int32_t)t;
	*m = (struct ql_batch){tokens, n, targets, ids, positions, cu, rows, labels};
	return cu + n + 1;
}

static int pack(struct ql_plan *p, const uint32_t *index, size_t n, struct ql_step_batches *out, struct ql_err *e)
{
	uint64_t total = 0;
	int32_t *at;
	int rc;

	out->n_micro = 0;
	out->n_tokens = out->n_targets = 0;
	for (size_t i = 0; i < n; i++)
		total += ql_dataset_get(p->data, index[i]).n;
	rc = reserve(out, n, total, e);
	if (rc != QL_OK)
		return rc;
	at = out->ints;
	for (size_t i = 0; i < n;) {
		uint32_t count = 0;
		uint64_t tokens = 0;

		while (i + count < n && (p->micro_batch_size == 0 || count < p->micro_batch_size)) {
			uint32_t len = ql_dataset_get(p->data, index[i + count]).n;

			if (tokens + len > p->max_tokens) {
				if (count == 0 || p->micro_batch_size > 0)
					return ql_err_set(e, QL_ELIMIT,
							  "a micro-batch of %llu tokens is more than the %u that fit in memory",
							  (unsigned long long)(tokens + len), p->max_tokens);
				break;
			}
			tokens += len;
			count++;
		}
		out->token_base[out->n_micro] = out->n_tokens;
		at = fill(p, index + i, count, (uint32_t)tokens, &out->micro[out->n_micro], at);
		out->n_tokens += tokens;
		out->n_targets += out->micro[out->n_micro].n_targets;
		out->n_micro++;
		i += count;
	}
	return QL_OK;
}

int ql_plan_step(struct ql_plan *p, uint64_t step, struct ql_step_batches *out, struct ql_err *e)
{
	uint32_t epoch = (uint32_t)(step / p->steps_per_epoch);
	size_t n = ql_dataset_count(p->data), begin = (size_t)(step % p->steps_per_epoch) * p->batch_size;

	if (epoch != p->epoch) {
		ql_permutation(p->seed, epoch, p->order, (uint32_t)n);
		p->epoch = epoch;
	}
	return pack(p, p->order + begin, begin + p->batch_size <= n ? p->batch_size : n - begin, out, e);
}

int ql_plan_range(struct ql_plan *p, size_t begin, size_t n, struct ql_step_batches *out, struct ql_err *e)
{
	if (p->epoch != UINT32_MAX - 1) { /* file order */
		for (size_t i = 0; i < ql_dataset_count(p->data); i++)
			p->order[i] = (uint32_t)i;
		p->epoch = UINT32_MAX - 1;
	}
	return pack(p, p->order + begin, n, out, e);
}
