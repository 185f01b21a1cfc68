/* sha_ni.c - SHA-256 compression by the processor's own instructions (x86 SHA extensions), about six times the portable code.
 * The state is kept as two vectors, a b e f and c d g h, as sha256rnds2 wants it; the message schedule as four vectors of four words.
 * FIPS 180-4 §6.2.2; instructions as in Intel's SDM vol. 2. */
#include "core/base/sha_ni.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

bool ql_sha_ni_usable(void)
{
	unsigned a, b, c, d;

	if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (b >> 29 & 1) == 0)
		return false;
	return __get_cpuid(1, &a, &b, &c, &d) && (c >> 9 & 1) != 0 && (c >> 19 & 1) != 0; /* ssse3, sse4.1 */
}

static const uint32_t k[64] = {
	0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be,
	0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa,
	0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85,
	0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3,
	0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f,
	0x682e6ff3, 0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__attribute__((target("sha,sse4.1,ssse3"))) void ql_sha_ni_blocks(uint32_t state[8], const uint8_t *data, size_t n)
{
	const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bLL, 0x0405060700010203LL);
	__m128i cdab = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)state), 0xb1);
	__m128i efgh = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(state + 4)), 0x1b);
	__m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0), x, y, w[4];

	for (; n > 0; n--, data += 64) {
		const __m128i abef0 = abef, cdgh0 = cdgh;

#pragma GCC unroll 16
		for (int g = 0; g < 16; g++) {
			if (g < 4) {
				w[g] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(data + 16 * g)), swap);
			} else {
				x = _mm_sha256msg1_epu32(w[g & 3], w[(g + 1) & 3]);
				x = _mm_add_epi32(x, _mm_alignr_epi8(w[(g + 3) & 3], w[(g + 2) & 3], 4));
				w[g & 3] = _mm_sha256msg2_epu32(x, w[(g + 3) & 3]);
			}
			y = _mm_add_epi32(w[g & 3], _mm_loadu_si128((const __m128i *)(k + 4 * g)));
			cdgh = _mm_sha256rnds2_epu32(cdgh, abef, y);
			abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(y, 0x0e));
		}
		abef = _mm_add_epi32(abef, abef0);
		cdgh = _mm_add_epi32(cdgh, cdgh0);
	}
	x = _mm_shuffle_epi32(abef, 0x1b);
	y = _mm_shuffle_epi32(cdgh, 0xb1);
	_mm_storeu_si128((__m128i *)state, _mm_blend_epi16(x, y, 0xf0));
	_mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(y, x, 8));
}

#else

bool ql_sha_ni_usable(void) { return false; }

void ql_sha_ni_blocks(uint32_t state[8], const uint8_t *data, size_t n) { (void)state, (void)data, (void)n; }

#endif
