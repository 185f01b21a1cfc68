/* tq.h - random tensors for the tests of this room: seeded Philox, so that every failure repeats. */
#ifndef QL_TESTS_TQ_H
#define QL_TESTS_TQ_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/philox.h"
#include "core/quant/kernels.h"
#include "tests/unit/cm.h"

struct rng {
	uint64_t seed, n;
};

static inline uint32_t rnd(struct rng *r)
{
	uint32_t w[4];

	ql_philox((uint32_t)r->n, (uint32_t)(r->n >> 32), 0, 0, r->seed, w);
	r->n++;
	return w[0];
}

static inline uint32_t rnd_below(struct rng *r, uint32_t n) { return (uint32_t)((uint64_t)rnd(r) * n >> 32); }
static inline float rnd_u(struct rng *r) { return ql_u01(rnd(r)); }

/* Two normals from one Philox block (Box-Muller). */
static inline void rnd_normals(struct rng *r, float *x, size_t n)
{
	for (size_t i = 0; i < n; i += 4) {
		uint32_t w[4];

		ql_philox((uint32_t)r->n, (uint32_t)(r->n >> 32), 0, 0, r->seed, w);
		r->n++;
		for (size_t k = 0; k < 4 && i + k < n; k++) {
			float u = ((float)(w[k & 2] >> 8) + 1.0f) * 0x1p-24f, a = 6.2831853f * ql_u01(w[(k & 2) + 1]);

			x[i + k] = sqrtf(-2.0f * logf(u)) * (k % 2 == 0 ? cosf(a) : sinf(a));
		}
	}
}

/* A tensor of one of 8 characters: normal, small normal, uniform, shifted, outliers, mostly zero, wild exponents,
 * few distinct values. */
static inline void rnd_tensor(struct rng *r, float *x, size_t n, int character)
{
	float scale = ldexpf(1.0f, (int)rnd_below(r, 21) - 10);

	rnd_normals(r, x, n);
	for (size_t i = 0; i < n; i++) {
		switch (character) {
		case 0:
			break;
		case 1:
			x[i] *= 0.02f;
			break;
		case 2:
			x[i] = rnd_u(r) * 2.0f - 1.0f;
			break;
		case 3:
			x[i] += 3.0f;
			break;
		case 4:
			x[i] *= rnd_below(r, 50) == 0 ? 100.0f : 1.0f;
			break;
		case 5:
			x[i] = rnd_below(r, 8) == 0 ? x[i] : 0.0f;
			break;
		case 6:
			x[i] = ldexpf(x[i], (int)rnd_below(r, 40) - 20);
			break;
		default:
			x[i] = (float)((int)rnd_below(r, 9) - 4) * 0.25f;
			break;
		}
		x[i] *= scale;
	}
}

/* How many random tensors a property is tried on: `n`; four times as many with QL_FULL=1, a sixth under the address sanitizer
 * (the same loops, ten times slower). */
static inline int rounds(int n)
{
	const char *full = getenv("QL_FULL");

	if (full != NULL && strcmp(full, "1") == 0)
		return 4 * n;
#if defined(__SANITIZE_ADDRESS__)
	return n / 6;
#else
	return n;
#endif
}

/* n numbers of x narrowed to t (bits) and widened back, so that x holds what t can hold (f16: within its range). */
static inline void narrow(float *x, size_t n, enum ql_dtype t, uint16_t *half)
{
	for (size_t i = 0; i < n; i++) {
		x[i] = t == QL_F16 ? fminf(fmaxf(x[i], -65504.0f), 65504.0f) : x[i];
		half[i] = t == QL_BF16 ? ql_bf16_of_f32(x[i]) : ql_f16_of_f32(x[i]);
		x[i] = t == QL_BF16 ? ql_f32_of_bf16(half[i]) : ql_f32_of_f16(half[i]);
	}
}

#endif
