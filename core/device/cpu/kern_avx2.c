/* kern_avx2.c - kernels for AVX2, FMA and F16C: 6x16 tiles; 4-bit codes through byte shuffles.
 *
 * The 32 bits of a level are looked up byte by byte: four 16-entry tables, one for each byte of the float, and vpshufb
 * fetches 32 of them at once; unpacking interleaves the four planes into floats.  That is 24 byte operations for 64 weights
 * where two vpermps and a blend for each 8 weights would be 24 slower ones (vpermps crosses lanes). */
#define VL 8
#define QL_KERN_MR 6
#define QL_KERN_NP 1
#define QL_KERN_CHAINS 2u
#define QL_KERN_OWN_Q4
#define QL_KERN_OWN_CVT
#include "core/device/cpu/kern_x86.h"

#include "core/device/cpu/kern_vec.h"

#define NVP (QL_PW / VL)

static inline __attribute__((always_inline)) vf cvt_f16(const uint16_t *p)
{
	return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}

static inline __attribute__((always_inline)) vf cvt_bf16(const uint16_t *p)
{
	return (vf)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)), 16);
}

static inline __attribute__((always_inline)) vf cvt_q8(const int8_t *p)
{
	return (vf)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)p)));
}

struct q4_tab {
	__m256i plane[4], spread, low;
};

static inline __attribute__((always_inline)) struct q4_tab q4_tab_of(const float level[16])
{
	struct q4_tab t;
	uint8_t b[4][16];

	for (int i = 0; i < 16; i++) {
		uint32_t u;

		memcpy(&u, &level[i], 4);
		for (int j = 0; j < 4; j++)
			b[j][i] = (uint8_t)(u >> 8 * j);
	}
	for (int j = 0; j < 4; j++)
		t.plane[j] = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)b[j]));
	/* 32 bytes = rows 0-15 of two k pairs; to lanes of rows {0-3, 8-11} and {4-7, 12-15}, so that unpacking ends with
	 * rows 0-7 and 8-15 of one k in one vector each */
	t.spread = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
	t.low = _mm256_set1_epi8(15);
	return t;
}

static inline __attribute__((always_inline)) void q4_look(const struct q4_tab *t, __m256i idx, vf even[2], vf odd[2])
{
	__m256i b0 = _mm256_shuffle_epi8(t->plane[0], idx), b1 = _mm256_shuffle_epi8(t->plane[1], idx);
	__m256i b2 = _mm256_shuffle_epi8(t->plane[2], idx), b3 = _mm256_shuffle_epi8(t->plane[3], idx);
	__m256i l01 = _mm256_unpacklo_epi8(b0, b1), h01 = _mm256_unpackhi_epi8(b0, b1);
	__m256i l23 = _mm256_unpacklo_epi8(b2, b3), h23 = _mm256_unpackhi_epi8(b2, b3);

	even[0] = (vf)_mm256_unpacklo_epi16(l01, l23);
	even[1] = (vf)_mm256_unpackhi_epi16(l01, l23);
	odd[0] = (vf)_mm256_unpacklo_epi16(h01, h23);
	odd[1] = (vf)_mm256_unpackhi_epi16(h01, h23);
}

static inline __attribute__((always_inline)) void q4_rows8(const struct q4_tab *t, const uint8_t *codes, vf out[8][NVP])
{
#pragma GCC unroll 2
	for (int h = 0; h < 2; h++) { /* k's 4h … 4h+3: pairs (4h, 4h+1) and (4h+2, 4h+3) */
		__m256i c = _mm256_loadu_si256((const __m256i *)(const void *)(codes + 32 * h));

		c = _mm256_permutevar8x32_epi32(c, t->spread);
		q4_look(t, _mm256_and_si256(c, t->low), out[4 * h], out[4 * h + 2]);
		q4_look(t, _mm256_and_si256(_mm256_srli_epi16(c, 4), t->low), out[4 * h + 1], out[4 * h + 3]);
	}
}

#include "core/device/cpu/kern_gemm.h"
#include "core/device/cpu/kern_panel.h"
#include "core/device/cpu/kern_table.h"

const struct ql_kern ql_kern_avx2 = QL_KERN_TABLE("avx2");
