/* noise.c - NEFTune's uniform noise on input embeddings (device.h: embed_noise).  A word of the counter-based generator
 * belongs to one element of the optimiser step, so the noise depends on nothing else. */
#include <math.h>

#include "core/base/philox.h"
#include "core/device/cpu/cpu.h"

#define ROWS 8

static void noise_row(const struct ql_noise *a, size_t t, float mag)
{
	float *y = ql_row(&a->y, t);
	uint64_t e = (a->token_base + t) * a->y.cols;
	uint32_t w[4];

	for (uint32_t c = 0; c < a->y.cols; c++, e++) {
		if (c == 0 || e % 4 == 0)
			ql_philox((uint32_t)(e / 4), (uint32_t)(e / 4 >> 32), a->step, (uint32_t)QL_RNG_NEFTUNE << 24, a->seed, w);
		y[c] += (2.0f * ql_u01(w[e % 4]) - 1.0f) * mag;
	}
}

static float size_of(const struct ql_noise *a, uint32_t s)
{
	return (float)((double)a->alpha / sqrt((double)(a->cu_seqlens[s + 1] - a->cu_seqlens[s]) * (double)a->y.cols));
}

static void noise_item(void *ctx, size_t item, int worker)
{
	const struct ql_noise *a = ctx;
	uint32_t s = 0;

	(void)worker;
	for (size_t t = item * ROWS; t < ql_min(item * ROWS + ROWS, a->y.rows); t++) {
		while (s + 1 < a->n_seqs && t >= (size_t)a->cu_seqlens[s + 1])
			s++;
		noise_row(a, t, size_of(a, s));
	}
}

int ql_cpu_embed_noise(struct ql_device *d, struct ql_queue *q, const struct ql_noise *a, struct ql_err *e)
{
	int rc = ql_cpu_check(&a->y, "embed_noise", "y", a->y.rows, a->y.cols, e);

	(void)q;
	if (rc != QL_OK)
		return rc;
	if (a->n_seqs == 0 || a->cu_seqlens == NULL || !(a->alpha >= 0))
		return ql_err_set(e, QL_EINVAL, "embed_noise: no sequences, or a negative size");
	ql_pool_run(ql_cpu_of(d)->pool, ql_ceil_div(a->y.rows, ROWS), noise_item, (void *)(uintptr_t)a);
	return QL_OK;
}
