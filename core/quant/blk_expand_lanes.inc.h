/* blk_expand_lanes.inc.h - 32 codes to fp32 with AVX2; the plain form is blk_expand_ref.inc.h. */

/* y = q * d */
static inline void expand32(const int8_t q[32], float d, float *y)
{
	const __m256 vd = _mm256_set1_ps(d);

	for (int i = 0; i < 32; i += 8) {
		__m256i k = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + i)));

		_mm256_storeu_ps(y + i, _mm256_mul_ps(_mm256_cvtepi32_ps(k), vd));
	}
}

/* y = (q * d) + m, two roundings */
static inline void expand32_add(const int8_t q[32], float d, float m, float *y)
{
	const __m256 vd = _mm256_set1_ps(d), vm = _mm256_set1_ps(m);

	for (int i = 0; i < 32; i += 8) {
		__m256i k = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(q + i)));

		_mm256_storeu_ps(y + i, _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(k), vd), vm));
	}
}

/* 32 codes of a block's nibbles in element order, each less `offset`. */
static inline void unpack32(const uint8_t qs[16], int offset, int8_t q[32])
{
	const __m128i nib = _mm_set1_epi8(15), o = _mm_set1_epi8((char)offset);
	__m128i b = _mm_loadu_si128((const __m128i *)qs);

	_mm_storeu_si128((__m128i *)q, _mm_sub_epi8(_mm_and_si128(b, nib), o));
	_mm_storeu_si128((__m128i *)(q + 16), _mm_sub_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), nib), o));
}
