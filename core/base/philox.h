/* philox.h - Philox4x32-10, the counter-based generator behind every random number of the program
 * (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC11).
 *
 * out = philox(counter[4], key[2]); no state, so a resumed job draws the numbers it would have drawn.  Streams are kept
 * apart by `purpose`: the key is the 64-bit seed, the counter is {index low, index high, step, purpose | site}. */
#ifndef QL_BASE_PHILOX_H
#define QL_BASE_PHILOX_H

#include <stdint.h>

enum ql_rng_purpose { /* placed in the high byte of counter word 3; low 24 bits: site (16·layer + module, epoch, …) */
	QL_RNG_DROPOUT = 0,
	QL_RNG_INIT = 1,
	QL_RNG_DATA = 2,
	QL_RNG_SAMPLE = 3,
	QL_RNG_NEFTUNE = 4
};

static inline void ql_philox(uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3, uint64_t key, uint32_t out[4])
{
	uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);

	for (int r = 0; r < 10; r++) {
		uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
		uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;

		c0 = n0;
		c1 = (uint32_t)p1;
		c2 = n2;
		c3 = (uint32_t)p0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	out[0] = c0;
	out[1] = c1;
	out[2] = c2;
	out[3] = c3;
}

/* Uniform in [0, 1): the upper 24 bits of a word. */
static inline float ql_u01(uint32_t word) { return (float)(word >> 8) * 0x1p-24f; }

/* Seeded permutation of 0..n-1 (Fisher–Yates, rejection sampling, numerics.md §8.4), keyed by (seed, epoch). */
void ql_permutation(uint64_t seed, uint32_t epoch, uint32_t *out, uint32_t n);

#endif
