/* kern_x86.h - what the AVX2 and AVX-512 kernels share: dropout masks with 256-bit integers.
 *
 * Four Philox blocks at a time, each word in the low half of a 64-bit lane: vpmuludq reads low halves only, so a product is
 * "high word, new low word" without any rearranging, and rubbish in the high halves never matters. */
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define QL_KERN_OWN_DROPOUT

static inline __attribute__((always_inline)) void philox_4(__m256i block, uint32_t step, uint32_t site, uint64_t seed,
							    __m256i w[2])
{
	const __m256i m0 = _mm256_set1_epi64x(0xD2511F53), m1 = _mm256_set1_epi64x(0xCD9E8D57);
	uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
	__m256i c0 = block, c1 = _mm256_srli_epi64(block, 32), c2 = _mm256_set1_epi64x(step), c3 = _mm256_set1_epi64x(site);
	__m256i low, high;

	for (int r = 0; r < 10; r++) {
		__m256i p0 = _mm256_mul_epu32(c0, m0), p1 = _mm256_mul_epu32(c2, m1);

		c0 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), c1), _mm256_set1_epi64x(k0));
		c2 = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), c3), _mm256_set1_epi64x(k1));
		c1 = p1;
		c3 = p0;
		k0 += 0x9E3779B9u;
		k1 += 0xBB67AE85u;
	}
	low = _mm256_blend_epi32(c0, _mm256_slli_epi64(c1, 32), 0xaa);
	high = _mm256_blend_epi32(c2, _mm256_slli_epi64(c3, 32), 0xaa);
	c0 = _mm256_unpacklo_epi64(low, high); /* blocks 0 and 2 */
	c1 = _mm256_unpackhi_epi64(low, high); /* blocks 1 and 3 */
	w[0] = _mm256_permute2x128_si256(c0, c1, 0x20);
	w[1] = _mm256_permute2x128_si256(c0, c1, 0x31);
}

static void dropout(const float *x, float *dst, size_t n, uint64_t e0, uint64_t seed, uint32_t step, uint32_t site,
		    uint32_t threshold, float inv)
{
	const __m256i thr = _mm256_set1_epi32((int)threshold);
	const __m256 scale_v = _mm256_set1_ps(inv);
	size_t i = 0, head = (size_t)(-e0 & 3) < n ? (size_t)(-e0 & 3) : n;

	while (i < n) {
		uint64_t b = (e0 + i) >> 2;
		__m256i w[2];

		philox_4(_mm256_add_epi64(_mm256_set1_epi64x((long long)b), _mm256_setr_epi64x(0, 1, 2, 3)), step, site, seed, w);
		if (i >= head && i + 16 <= n) {
			for (size_t h = 0; h < 2; h++) {
				__m256i keep = _mm256_cmpeq_epi32(_mm256_max_epu32(w[h], thr), w[h]);
				__m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i + 8 * h), scale_v);

				_mm256_storeu_ps(dst + i + 8 * h, _mm256_and_ps(_mm256_castsi256_ps(keep), v));
			}
			i += 16;
		} else { /* a piece that starts or ends inside a block of four */
			uint32_t u[16];
			size_t skip = (size_t)((e0 + i) & 3), end = i < head ? head : n;

			memcpy(u, w, sizeof u);
			for (size_t j = skip; j < 16 && i < end; j++, i++)
				dst[i] = u[j] >= threshold ? x[i] * inv : 0.0f;
		}
	}
}
